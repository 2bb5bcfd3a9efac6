"""Other ways to limit a program's memory, measured beside cleave in one run: HAMi-core (`--hami`) and NVIDIA MPS (`--mps`).

Each side is made by a context manager that takes a quota in MiB and gives a function from a command to what is run in its
place, and with which environment. A side that cannot be made, or fails, leaves its column empty and says why in a row.
"""

import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import MIB, collect, memory_flag, named, program_of_calls

from escape import ASK, DIRECT, QUOTA, HERE as TESTS
from harness import Failure, Held, Skip, Slice, build, expect, nvml, run_program, wait_until

# What is shown, what cuda_calls calls it, and the unit.
CALLS = [
    ("cuLaunchKernel, tight batch", "launch_batch", "ns"),
    ("cuMemAlloc 512 B, first of 20000", "alloc_512_live_20000_first", "ns"),
    ("cuMemAlloc 512 B, last of 20000", "alloc_512_live_20000_last", "ns"),
    ("cuMemAllocAsync 1 MiB", "alloc_async_1mib", "ns"),
    ("cuMemGetInfo", "mem_get_info", "ns"),
    ("refusal", "refusal", "ns"),
    ("load the library", "load_us", "us"),
    ("cuInit", "init_us", "us"),
    ("primary context", "context_us", "us"),
    ("load, cuInit, context together", "ready_us", "us"),
]
ONLY = "launch_batch,alloc_512_live_20000,alloc_async_1mib,mem_get_info,refusal"


@contextmanager
def native(_quota):
    yield lambda *command: (command, None)


@contextmanager
def cleave(quota):
    with Slice(f"{quota}MiB") as s:
        yield lambda *command: (s.command(*command), None)


def hami(library):
    @contextmanager
    def side(quota):
        if not Path(library).is_file():
            raise Skip(f"there is no {library}")
        # It takes a lock there for each start; it makes the file, not the folder.
        lock = Path("/tmp/vgpulock")
        made = not lock.exists()
        if made:
            lock.mkdir()
        with tempfile.TemporaryDirectory(prefix="cleave-hami-") as folder:
            # The file keeps the limit that it was made with, so each quota has one of its own.
            env = os.environ | {
                "LD_PRELOAD": library,
                "CUDA_REDIRECT": library,  # where it looks for its own entry points
                "CUDA_DEVICE_MEMORY_LIMIT": f"{quota}m",
                "CUDA_DEVICE_MEMORY_SHARED_CACHE": f"{folder}/cache",
                "LIBCUDA_LOG_LEVEL": "0",
            }
            # It prints a line for each refusal even so; that it does not wait for who reads it is in its favour.
            quiet = ["/bin/sh", "-c", 'exec "$@" 2>/dev/null', "sh"]
            try:
                # What can't be preloaded is passed over by the dynamic linker, and would be measured as native.
                loaded, _, error = run_program(["/bin/grep", "-qF", library, "/proc/self/maps"], 10, env)
                expect(loaded == 0, f"{library} can't be preloaded: {error.strip()[-200:]}")
                yield lambda *command: ([*quiet, *command], env)
            finally:
                if made:
                    shutil.rmtree(lock, ignore_errors=True)

    return side


def descendants(pid):
    """The processes below `pid`: pid and start time of each, which together name a process for good."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = (int(fields[1]), fields[19])
    found, new = {}, {pid}
    while new:
        new = {child for child, (parent, _) in parents.items() if parent in new}
        found |= {child: parents[child][1] for child in new}
    return found


def start_time(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


@contextmanager
def mps(quota):
    """An MPS daemon of our own, in folders of its own: no setting of the card changes, and another daemon is not touched."""
    control = shutil.which("nvidia-cuda-mps-control")
    if not control:
        raise Skip("there is no nvidia-cuda-mps-control")
    with tempfile.TemporaryDirectory(prefix="cleave-mps-") as folder:
        env = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for name in ("pipe", "log"):
            Path(folder, name).mkdir()
        with open(f"{folder}/log/out", "wb") as log:
            daemon = subprocess.Popen([control, "-f"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            up = wait_until(lambda: daemon.poll() is not None or Path(folder, "pipe/control").exists(), 10)
            if not up or daemon.poll() is not None:
                raise Failure(f"nvidia-cuda-mps-control did not come up: {last_words(folder)}")
            limit = f"{quota}MB" if quota % 1024 else f"{quota // 1024}G"
            client = env | {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit}"}
            # The first client starts the server. A client that finds none works without, and would be measured as native.
            collect([program_of_calls(), "start"], 30, client)
            servers = told(control, "get_server_list", env)
            expect(servers.strip(), f"no MPS server came up: {last_words(folder)}")
            yield lambda *command: (command, client)
        finally:
            stop_mps(control, daemon, env)


def last_words(folder):
    logs = [log.read_text(errors="replace").strip()[-200:] for log in sorted(Path(folder, "log").iterdir())]
    return " | ".join(filter(None, logs)) or "it did not say why"


def told(control, command, env):
    return subprocess.run([control], input=command + "\n", text=True, env=env, timeout=15, capture_output=True).stdout


def stop_mps(control, daemon, env):
    servers = descendants(daemon.pid)
    try:
        told(control, "quit -t 5", env)
        daemon.wait(10)
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        os.killpg(daemon.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    daemon.wait()
    wait_until(lambda: all(start_time(pid) != began for pid, began in servers.items()), 5)
    for pid, began in servers.items():
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)


class Sides:
    """The sides that can be measured, each with a quota, for the time of a `with`."""

    def __init__(self, report, quota):
        self.report, self.quota, self.stack, self.ways = report, quota, ExitStack(), {}

    def __enter__(self):
        makers = {"native": native, "cleave": cleave}
        if self.report.options.hami:
            makers["hami"] = hami(str(Path(self.report.options.hami).resolve()))
        if self.report.options.mps:
            makers["mps"] = mps
        for name, maker in makers.items():
            try:
                self.ways[name] = self.stack.enter_context(maker(self.quota))
            except (Skip, Failure, OSError, subprocess.TimeoutExpired) as reason:
                self.report.skip("peers", name, str(reason))
        self.names = list(makers)
        return self

    def __exit__(self, *problem):
        return self.stack.__exit__(*problem)

    def run(self, name, what, command, timeout):
        """Lines that the command prints on that side, or None. A side that is stopped for taking too long is left out from then on."""
        if name not in self.ways:
            return None
        command, env = self.ways[name](*command)
        began = time.monotonic()
        try:
            return collect(command, timeout, env)
        except (Failure, ValueError) as reason:
            self.report.skip("peers", f"{name}: {what}", str(reason))
            if time.monotonic() - began >= timeout:
                del self.ways[name]
            return None

    def columns(self, values, form):
        return "  ".join(f"{name} {format(values[name], form) if name in values else '-':>10}" for name in self.names)


def calls(report):
    quota = memory_flag("40GiB")
    quota = int(quota[:-3]) * (1024 if quota.endswith("GiB") else 1)
    program = program_of_calls()
    data = report.data["peers"] = {}
    with Sides(report, quota) as sides, Held([program, "usable", "1"]) as keeper:
        named(keeper, "ready")
        plans = [["calls", "--only", ONLY]] * report.options.rounds + [["start"]] * report.options.starts
        for round_, plan in enumerate(plans):
            turn = round_ % len(sides.names)
            for name in sides.names[turn:] + sides.names[:turn]:
                for line in sides.run(name, plan[0], [program, *plan], 60) or []:
                    if line["name"] == "start":
                        line["ready_us"] = line["load_us"] + line["init_us"] + line["context_us"]
                        found = {key: value for key, value in line.items() if key.endswith("_us")}
                    else:
                        found = {line["name"]: line["p50_ns"]}
                    for key, value in found.items():
                        data.setdefault(key, {}).setdefault(name, []).append(value)
        for label, key, unit in CALLS:
            middle = {name: statistics.median(values) for name, values in data.get(key, {}).items()}
            report.row("peers", label, None, f"{sides.columns(middle, '.1f')}  {unit}", unit=unit, p50=middle)


def escapes(report):
    program = build(TESTS / "escape.c")
    expect(nvml().memory().free > (ASK + 4096) * MIB, f"the card has not {ASK + 4096} MiB free")
    with Sides(report, QUOTA) as sides:
        for label, arguments, _ in DIRECT:
            got = {}
            for name in sides.names:
                for line in sides.run(name, label, [program, *arguments, "--ask", str(ASK)], 30) or []:
                    got[name] = line["got_mib"]
            past = [name for name, mib in got.items() if mib > QUOTA and name != "native"]
            report.row("peers", label, False if "cleave" in past else None,
                       f"{sides.columns(got, 'd')}  MiB of {QUOTA}" + (f"  ESCAPES: {', '.join(past)}" if past else ""), got_mib=got)


def part(report):
    if not report.options.hami and not report.options.mps:
        raise Skip("no peer given: --hami PATH/libvgpu.so, --mps")
    report.attempt("peers", "calls", calls, report)
    report.attempt("peers", "escapes", escapes, report)


def arguments(parser):
    parser.add_argument("--hami", metavar="PATH", help="measure HAMi-core too: its libvgpu.so")
    parser.add_argument("--mps", action="store_true", help="measure NVIDIA MPS too, with a daemon of our own")
