#!/usr/bin/env python3
"""Benchmarks of the memory quota: what a slice costs, natively and in a slice in turns, in one run.

Differences are between medians over the rounds; the spread of the rounds stands beside them, for a difference within it
says nothing.
"""

import os
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/gpu"))

from harness import GIB, MIB, Held, Report, Slice, build, expect, mib, nvml, run_program, wait_until  # noqa: E402

import json  # noqa: E402

ROUNDS = 3
CALLS_SLICE = "40GiB"
# What each call may cost more in a slice, in ns: p50, judged where both are timed in one process.
TARGET = {
    "launch_batch": 20,
    "graph_launch_20": 20,
    "alloc_512_live_1": 100,
    "alloc_512_live_1000": 100,
    "alloc_512_live_20000": 100,
    "alloc_4mib": 100,
    "alloc_async_1mib": 100,
}
REFUSAL_NS = 300


def memory_flag(text):
    """Quotas that fit the card that is there: a part of it where it is smaller than an H100."""
    total = nvml().memory().total
    wanted = int(text.removesuffix("GiB")) * GIB
    return text if wanted < total * 0.9 else f"{int(total * 0.5) // MIB}MiB"


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def collect(command, timeout=60):
    code, out, err = run_program(command, timeout)
    expect(code == 0, f"{command[0]} ended with {code}: {err.strip()[-300:]}")
    return json_lines(out)


def named(held, name):
    """The next line of a program that has this name."""
    while True:
        line = held.line(60)
        if line["name"] == name:
            return line


def spread(values):
    return max(values) - min(values)


def calls(report):
    """Single calls, by cuGetProcAddress as the CUDA runtime takes them, and launches by dlsym as well."""
    program = build(HERE / "cuda_calls.c")
    data = report.data["calls"] = {}
    try:
        with Slice(memory_flag(CALLS_SLICE)) as s:
            plans = [("", [program, "calls"]), ("dlsym ", [program, "calls", "--via", "dlsym", "--only", "launch_batch"])]
            for round_ in range(report.options.rounds):
                # Every other round begins with the slice, so that what drifts with time falls on both sides alike.
                sides = ["native", "slice"] if round_ % 2 == 0 else ["slice", "native"]
                for prefix, command in plans:
                    for side in sides:
                        for line in collect(command if side == "native" else s.command(*command)):
                            if line["name"] in ("start", "clock"):
                                continue
                            entry = data.setdefault(prefix + line["name"], {"native": [], "slice": [], "native99": [], "slice99": []})
                            entry[side].append(line["p50_ns"])
                            entry[side + "99"].append(line.get("p99_ns", line["p50_ns"]))
    finally:  # what was measured is worth showing, even if time ran out
        for name, values in data.items():
            if values["native"] and values["slice"]:
                calls_row(report, name, values)


def calls_row(report, name, values):
    native, sliced = statistics.median(values["native"]), statistics.median(values["slice"])
    n99, s99 = statistics.median(values["native99"]), statistics.median(values["slice99"])
    added = sliced - native
    text = (f"native {native:>10.1f}  slice {sliced:>10.1f}  added {added:>+9.1f} ns  (rounds ±{spread(values['native']) / 2:.0f}"
            f"/±{spread(values['slice']) / 2:.0f})  p99 {n99:.0f} / {s99:.0f}")
    ok = sliced <= REFUSAL_NS if name == "refusal" else None
    report.row("calls", name, ok, text, native_ns=native, slice_ns=sliced, added_ns=added, rounds=len(values["slice"]))


def added(report):
    """What the stand-in adds to a call: it and the real library in turns, in one process of a slice.

    Two processes on this card may differ by half in what one and the same native call costs, which hides tens of ns."""
    program = build(HERE / "cuda_calls.c")
    values = {}
    with Slice(memory_flag(CALLS_SLICE)) as s:
        for _ in range(report.options.rounds):
            for line in collect(s.command(program, "added")):
                if "added_ns" in line:
                    values.setdefault(line["name"], []).append(line)
    report.data["added"] = values
    for name, lines in values.items():
        cost = statistics.median(line["added_ns"] for line in lines)
        native, sliced = (statistics.median(line[key] for line in lines) for key in ("native_ns", "slice_ns"))
        n99, s99 = (statistics.median(line[key] for line in lines) for key in ("native_p99_ns", "slice_p99_ns"))
        target = TARGET.get(name)
        report.row("added", name, None if target is None else cost <= target,
                   f"native {native:>10.1f}  slice {sliced:>10.1f}  added {cost:>+9.1f} ns  "
                   f"(rounds {', '.join(format(line['added_ns'], '+.0f') for line in lines)})  p99 {n99:.0f} / {s99:.0f}",
                   native_ns=native, slice_ns=sliced, added_ns=cost, rounds=len(lines))


def start(report):
    """From cuInit to the end of the first kernel, in processes started in turns."""
    program = build(HERE / "cuda_calls.c")
    keys = ["load_us", "init_us", "context_us", "module_us", "kernel_us", "init_to_kernel_us", "total_us", "wall_us"]
    data = {"native": {k: [] for k in keys}, "slice": {k: [] for k in keys}}
    with Slice("10GiB" if nvml().memory().total > 12 * GIB else "25%") as s:
        # One idle process keeps the driver initialised: without it each start would also bring up the card.
        with Held([program, "usable", "1"]) as keeper:
            named(keeper, "ready")
            collect([program, "start"])
            collect(s.command(program, "start"))
            for round_ in range(report.options.starts):
                sides = ["native", "slice"] if round_ % 2 == 0 else ["slice", "native"]
                for side in sides:
                    began = time.perf_counter()
                    line = collect([program, "start"] if side == "native" else s.command(program, "start"))[0]
                    line["wall_us"] = (time.perf_counter() - began) * 1e6
                    for key in keys:
                        data[side][key].append(line[key])
    report.data["start"] = data
    for key in keys:
        native, sliced = statistics.median(data["native"][key]), statistics.median(data["slice"][key])
        added = sliced - native
        ok = added <= 5000 if key == "init_to_kernel_us" else None
        report.row("start", key, ok, f"native {native:>10.1f}  slice {sliced:>10.1f}  added {added:>+9.1f} us  "
                   f"(rounds ±{spread(data['native'][key]) / 2:.0f}/±{spread(data['slice'][key]) / 2:.0f})",
                   native_us=native, slice_us=sliced, added_us=added)


def throughput(script, steps, label):
    def run(report):
        script_path = HERE / script
        rates = {"native": [], "slice": []}
        lines = {"native": [], "slice": []}
        with Slice(report.options.whole) as s:
            with Held([sys.executable, script_path]) as native, Held(s.command(sys.executable, script_path)) as sliced:
                both = {"native": native, "slice": sliced}
                for one in both.values():
                    one.line(90)
                for round_ in range(-1, report.options.torch_rounds):
                    for side in ["native", "slice"] if round_ % 2 == 0 else ["slice", "native"]:
                        both[side].send(str(steps))
                        line = both[side].line(60)
                        if round_ >= 0:  # the first turn of each warms the clocks up
                            rates[side].append(line["steps"] / line["seconds"])
                            lines[side].append(line)
        report.data[label] = lines
        native, sliced = statistics.median(rates["native"]), statistics.median(rates["slice"])
        ratio = statistics.median(b / a for a, b in zip(rates["native"], rates["slice"]))
        report.row(label, "throughput", ratio >= 0.995,
                   f"native {native:.2f}/s  slice {sliced:.2f}/s  ratio {100 * ratio:.2f} %  "
                   f"(rounds ±{50 * spread(rates['native']) / native:.2f} %/±{50 * spread(rates['slice']) / sliced:.2f} %)",
                   native_per_s=native, slice_per_s=sliced, ratio=ratio)
        if "p99_us" in lines["native"][0]:
            for key in ("p50_us", "p99_us"):
                a, b = (statistics.median(line[key] for line in lines[side]) for side in ("native", "slice"))
                report.row(label, f"step {key}", None, f"native {a:.1f}  slice {b:.1f}")

    return run


def usable(report):
    """How much of a quota a program can have, and whether the charge is what NVML says the process uses."""
    program = build(HERE / "cuda_calls.c")
    total = nvml().memory().total

    def one(quota, blocks):
        expect(quota * GIB < total * 0.9, "the card is too small")
        name = f"{quota} GiB in {'+'.join(blocks)} MiB"
        with Slice(f"{quota}GiB") as s, Held(s.command(program, "usable", *blocks)) as held:
            ready = named(held, "ready")
            pid = ready["pid"]
            context = nvml().processes().get(pid)
            charged_context = s.used()
            held.send("go")
            line = named(held, "usable")
            used = nvml().processes().get(pid)
            expect(context is not None and used is not None, f"NVML does not list process {pid}: {nvml().processes()}")
            # The daemon measures what the calls do not tell; give its reading a moment.
            charged = s.used()
            near = wait_until(lambda: abs(s.used() - used) <= used * 0.01, 3)
            later = s.used()
            share = 100 * line["got_bytes"] / (quota * GIB - context)
            difference = 100 * (later - used) / used
            report.row("usable", name, share >= 99.8 and used <= quota * GIB,
                       f"{share:.3f} % of Q less context  got {mib(line['got_bytes'])}  context {mib(context)} (charged {mib(charged_context)})  "
                       f"NVML {mib(used)} of {quota * 1024}", usable_percent=share, got_bytes=line["got_bytes"], context_bytes=context,
                       nvml_bytes=used, charged_bytes=charged)
            report.row("usable", name + ": charge", bool(near), f"charged {mib(charged)}, then {mib(later)}, NVML {mib(used)}: {difference:+.3f} %",
                       charge_error_percent=difference)

    for quota, blocks in ((2, ["64", "2"]), (2, ["2"]), (8, ["64", "2"]), (8, ["2"]), (40, ["64", "2"])):
        report.attempt("usable", f"{quota} GiB in {'+'.join(blocks)} MiB", one, quota, blocks)


def arguments(parser):
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the single calls")
    parser.add_argument("--starts", type=int, default=7, help="process starts on each side")
    parser.add_argument("--torch-rounds", type=int, default=7, help="turns of each PyTorch loop")
    parser.add_argument("--whole", default=os.environ.get("CLEAVE_BENCH_WHOLE", "100%"), help="size of the slice that is the whole card")


if __name__ == "__main__":
    parts = {
        "added": added,
        "calls": calls,
        "start": start,
        "usable": usable,
        "train": throughput("torch_train.py", 150, "train"),
        "decode": throughput("torch_decode.py", 1500, "decode"),
    }
    limits = {"added": 90, "calls": 120, "start": 60, "usable": 90, "train": 120, "decode": 120}
    raise SystemExit(Report("memory quota benchmarks", parts, limits, arguments).main())
