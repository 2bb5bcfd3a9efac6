#!/usr/bin/env python3
"""The escape table: does the limit of a slice hold on every path by which a program gets device memory?

Each row asks for 12 GiB in a slice of 8 GiB, in steps, and passes when it got no more than the quota and NVML, read
outside the slice, never showed more than the quota for the processes that came with it.
"""

import os
import shutil
import tempfile
from pathlib import Path

from harness import MIB, Failure, Held, Report, Skip, Slice, Watcher, build, expect, mib, nvml, real_driver, wait_until

HERE = Path(__file__).resolve().parent
QUOTA = int(os.environ.get("CLEAVE_TEST_QUOTA_MIB", "8192"))
ASK = QUOTA * 3 // 2
SLOW = 60

# name, arguments of the program, what a pass needs:
#   got:  more than half the quota was obtained, and no more than the quota (the path works and is limited)
#   nvml: NVML alone decides (what was obtained cannot be told from the calls that succeeded, or refusing all is right)
DIRECT = [
    ("cuMemAlloc", ["alloc"], "got"),
    ("cuMemAllocPitch", ["pitch"], "got"),
    ("cuMemAllocManaged", ["managed"], "got"),
    ("cuMemAllocAsync", ["async"], "got"),
    ("cuMemAllocAsync, changing pools", ["async-other"], "got"),
    ("cuMemAllocFromPoolAsync, own pool", ["pool"], "got"),
    ("cuMemCreate and map", ["create"], "got"),
    ("cuArrayCreate", ["array"], "got"),
    ("cuArray3DCreate", ["array3d"], "got"),
    ("cuArrayCreate, block-compressed", ["array-compressed"], "got"),
    ("cuMipmappedArrayCreate", ["mipmap"], "got"),
    ("cuGraphAddMemAllocNode", ["graph-node"], "got"),
    ("captured cuMemAllocAsync", ["capture"], "got"),
]
LIFETIME = [
    ("pools that keep what is freed", ["pool-hoard", "--step", "1024"], "nvml"),
    ("VMM: map, release the handle", ["create-release"], "got"),
    ("VMM: map, release, unmap half", ["create-unmap"], "got"),
    ("VMM: export, release the handle", ["create-export"], "nvml"),
    ("VMM: export twice, close one, release", ["create-export-twice"], "nvml"),
    ("VMM: export, release, import, map", ["create-reimport"], "nvml"),
]
DOORS = [
    ("cuMemAlloc v1 (32-bit)", ["v1-alloc"], "nvml"),
    ("cuMemAllocPitch v1", ["v1-pitch"], "nvml"),
    ("cuArrayCreate v1", ["v1-array"], "nvml"),
    ("exported _ptsz names", ["ptsz-names"], "got"),
    ("cuGetProcAddress", ["alloc", "--via", "getproc"], "got"),
    ("cuGetProcAddress, pool", ["pool", "--via", "getproc"], "got"),
    ("cuGetProcAddress, array", ["array", "--via", "getproc"], "got"),
    ("cuGetProcAddress, per-thread", ["async", "--via", "ptsz"], "got"),
    ("dlopen libcuda.so", ["alloc", "--lib", "libcuda.so"], "got"),
    ("dlmopen", ["alloc", "--dlmopen"], "nvml"),
]
INDIRECT = [
    ("modules with .global arrays", ["module", "--step", "512"], "nvml"),
    ("module files with .global arrays", ["module-file", "--step", "512"], "nvml"),
    ("libraries with .global arrays", ["library", "--step", "512"], "nvml"),
    ("cuCtxSetLimit stack", ["stack", "--step", "1024"], "nvml"),
    ("cuCtxSetLimit malloc heap", ["heap"], "nvml"),
    ("cuCtxSetLimit printf buffer", ["printf"], "nvml"),
    ("kernel with large local memory", ["local", "--step", "1024"], "nvml"),
    ("stack limit raised, lowered and raised", ["stack-again"], "nvml"),
    ("stack limit lowered under a known kernel", ["local-again"], "nvml"),
    ("kernel node with large local memory", ["graph-local", "--step", "1024"], "nvml"),
    ("kernel node in another context", ["graph-context"], "nvml"),
    ("cuGraphExecKernelNodeSetParams", ["graph-set", "--step", "1024"], "nvml"),
    ("cuGraphExecUpdate", ["graph-update", "--step", "1024"], "nvml"),
    ("stacks of several contexts", ["context-stacks", "--step", "256"], "nvml"),
    ("one library kernel in several contexts", ["context-kernels", "--step", "256"], "nvml"),
    ("an allocation of the heap's size beside it", ["heap-beside"], "nvml"),
    ("many contexts", ["contexts", "--step", "256", "--ask", "10240"], "nvml"),
    ("16 threads", ["threads"], "got"),
]


def total_got(held, count):
    """Reads one line of each program; says what they got together and which errors they met."""
    got, errors = 0, set()
    for one in held:
        for _ in range(count):
            line = one.line(SLOW)
            got += line["got_mib"]
            if line["error"]:
                errors.add(f"{line['failed_at']}={line['error']}")
    return got, "; ".join(sorted(errors)) or "none"


def judge(report, part, name, rule, got, error, watcher, quota=QUOTA, note=""):
    watcher.poll()
    peak = watcher.peak / MIB
    passed_quota = peak > quota or (rule == "got" and got > quota)
    works = rule != "got" or got > quota // 2
    ok = not passed_quota and works
    text = f"got {got:>6} MiB  NVML max {peak:>7.0f}  now {watcher.last / MIB:>7.0f}  of {quota}  error {error}"
    if passed_quota:
        text += "  PASSED THE QUOTA"
    elif not works:
        text += "  obtained too little"
    report.row(part, name, None if rule == "info" else ok, text + note, got_mib=got, nvml_max_mib=round(peak), error=error)


def one(report, part, name, commands, rule, lines=1):
    """Runs programs together, and judges what they got while all of them still hold it."""
    expect(nvml().memory().free > (ASK + 4096) * MIB, f"the card has not {ASK + 4096} MiB free")
    with Watcher() as watcher:
        held = [Held(command) for command in commands]
        try:
            got, error = total_got(held, lines)
            judge(report, part, name, rule, got, error, watcher)
        finally:
            for program in held:
                program.close()


def settled(slice_):
    """Waits until the last row's memory is given back, so that it is not counted against the next."""
    if not wait_until(lambda: not slice_.show()["processes"] and slice_.used() == 0, 5):
        raise Failure(f"{slice_.used() // MIB} MiB still charged 5 s after the last process of the slice ended")


def table(part, rows):
    def run(report):
        escape = build(HERE / "escape.c")
        with Slice(f"{QUOTA}MiB") as s:
            for name, arguments, rule in rows:
                if "--ask" not in arguments:
                    arguments = [*arguments, "--ask", ASK]
                report.attempt(part, name, one, report, part, name, [s.command(escape, *arguments, "--hold")], rule)
                report.attempt(part, name + ": settled", settled, s)

    return run


def ways_in(report):
    """Ways by which a program could reach the real library."""
    escape = build(HERE / "escape.c")
    rest = ["--ask", ASK, "--hold"]
    with Slice(f"{QUOTA}MiB") as s:

        def row(name, commands, rule, lines=1):
            report.attempt("ways", name, one, report, "ways", name, commands, rule, lines)
            report.attempt("ways", name + ": settled", settled, s)

        for path in real_driver():
            row(f"by path {path.name}", [s.command(escape, "alloc", "--lib", path, *rest)], "nvml")
        row("env -i", [s.command("/usr/bin/env", "-i", escape, "alloc", *rest)], "nvml")
        row("env -i and by path", [s.command("/usr/bin/env", "-i", escape, "alloc", "--lib", real_driver()[0], *rest)], "nvml")
        row("forked child beside its parent", [s.command(escape, "fork", *rest)], "got", 2)
        row("4 processes together", [s.command(escape, "alloc", "--step", 64, *rest) for _ in range(4)], "got")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            copy = Path(folder) / "copied.so"
            shutil.copy(real_driver()[0], copy)
            # Nothing in user space can stop a program that brings its own driver library: the daemon sees and reports it.
            row("own copy of the library", [s.command(escape, "alloc", "--lib", copy, *rest)], "info")


def imports(report):
    """Memory that another process made. Importing it must not lift a slice over its quota."""
    escape = build(HERE / "escape.c")
    for kind in ("ipc", "vmm"):
        with tempfile.TemporaryDirectory() as folder, Slice(f"{QUOTA}MiB") as s:
            Path(folder).chmod(0o755)
            file = Path(folder) / "handles"

            def foreign():
                with Held([escape, f"{kind}-export", "--file", file, "--ask", ASK, "--hold"]) as exporter:
                    made = exporter.line(SLOW)
                    expect(made["got_mib"] == ASK, f"exporter outside the slice: {made}")
                    with Watcher() as watcher, Held(s.command(escape, f"{kind}-import", "--file", file, "--ask", ASK, "--hold")) as held:
                        line = held.line(SLOW)
                        error = f"{line['failed_at']}={line['error']}" if line["error"] else "none"
                        charged = s.used()
                        judge(report, "imports", f"{kind}: from outside the slice", "nvml", line["got_mib"], error, watcher,
                              note=f"  charged {mib(charged)}")
                        report.row("imports", f"{kind}: imports within the quota", line["got_mib"] <= QUOTA and charged <= QUOTA * MIB,
                                   f"imported {line['got_mib']} MiB, charged {mib(charged)} of {QUOTA}")

            def own():
                # 2 GiB, exported and imported between two processes of one slice: must work.
                with Held(s.command(escape, f"{kind}-export", "--file", file, "--ask", 2048, "--hold")) as exporter:
                    made = exporter.line(SLOW)
                    expect(made["got_mib"] == 2048, f"exporter in the slice: {made}")
                    with Watcher() as watcher, Held(s.command(escape, f"{kind}-import", "--file", file, "--ask", 2048, "--hold")) as held:
                        line = held.line(SLOW)
                        watcher.poll()
                        report.row("imports", f"{kind}: within one slice", line["got_mib"] == 2048,
                                   f"imported {line['got_mib']} MiB, error {line['failed_at']}={line['error']}, charged {mib(s.used())}")

            report.attempt("imports", f"{kind}: from outside the slice", foreign)
            report.attempt("imports", f"{kind}: settled", settled, s)
            report.attempt("imports", f"{kind}: within one slice", own)


def host(report):
    """Pinned host memory, where the slice has a quota for it."""
    escape = build(HERE / "escape.c")
    with Slice(f"{QUOTA}MiB", host_memory="1GiB") as s:
        for path in ("host", "hostalloc", "hostregister", "pool-host"):

            def row(path=path):
                with Held(s.command(escape, path, "--ask", 2048, "--step", 64, "--hold")) as held:
                    line = held.line(SLOW)
                    used = s.show()["host_used_bytes"]
                    report.row("host", path, 512 <= line["got_mib"] <= 1024,
                               f"got {line['got_mib']} MiB of 1024, charged {mib(used)}, error {line['failed_at']}={line['error']}")

            report.attempt("host", path, row)
            wait_until(lambda: not s.show()["processes"], 3)


def reference(report):
    """The same calls with no slice: shows that each path can give more than the quota, so that a pass means something."""
    escape = build(HERE / "escape.c")
    if nvml().memory().free < (ASK + 4096) * MIB:
        raise Skip("the card is too full for the reference")
    for name, arguments, _ in DIRECT + LIFETIME + DOORS + INDIRECT:
        if "--ask" not in arguments:
            arguments = [*arguments, "--ask", ASK]

        def row(arguments=arguments, name=name):
            with Watcher() as watcher, Held([escape, *arguments, "--hold"]) as held:
                got, error = total_got([held], 1)
                watcher.poll()
                report.row("reference", name, None, f"got {got:>6} MiB  NVML max {watcher.peak / MIB:>7.0f}  error {error}",
                           got_mib=got, nvml_max_mib=round(watcher.peak / MIB), error=error)

        report.attempt("reference", name, row)


if __name__ == "__main__":
    parts = {
        "direct": table("direct", DIRECT),
        "lifetime": table("lifetime", LIFETIME),
        "doors": table("doors", DOORS),
        "indirect": table("indirect", INDIRECT),
        "ways": ways_in,
        "imports": imports,
        "host": host,
        "reference": reference,
    }
    report = Report("escape table", parts, dict.fromkeys(parts, 90))
    if not report.options.only and not os.environ.get("CLEAVE_TEST_REFERENCE"):
        report.options.skip += ",reference"  # a minute that is needed once per driver, not once per build
    raise SystemExit(report.main())
