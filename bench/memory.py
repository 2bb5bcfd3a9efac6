#!/usr/bin/env python3
"""Benchmarks of the memory quota: what a slice costs, natively and in a slice in turns, in one run.

Differences are between medians over the rounds; the spread of the rounds stands beside them, for a difference within it
says nothing.
"""

import argparse
import os
import random
import statistics
import sys
import time
from contextlib import ExitStack

import peers
from common import HERE, collect, memory_flag, named, program_of_calls, small_quota, spread

from harness import GIB, Held, Report, Slice, build, expect, mib, nvml, wait_until

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
# In our code when a context is made, in us.
CONTEXT_US = 78
CONTEXT_CALLS = ("cuDevicePrimaryCtxRetain", "cuCtxCreate_v2", "cuCtxCreate_v4")
# Speed in a slice of the whole card, as a part of the native one.
THROUGHPUT = 0.995
QUICK = {"rounds": 1, "starts": 5, "torch_seconds": 25}


def calls(report):
    """Single calls, by cuGetProcAddress as the CUDA runtime takes them, and launches by dlsym as well."""
    program = program_of_calls()
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
    program = program_of_calls()
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
    program = program_of_calls()
    keys = ["load_us", "init_us", "context_us", "module_us", "kernel_us", "init_to_kernel_us", "total_us", "wall_us"]
    data = {"native": {k: [] for k in keys}, "slice": {k: [] for k in keys}}
    with Slice(small_quota()) as s:
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


def inside(report):
    """How long a call of a starting program is in the stand-in, and of that on the processor: the rest is waiting."""
    program = build(HERE / "inside.c")
    lines, together = {}, []
    with Slice(small_quota()) as s, Held([program_of_calls(), "usable", "1"]) as keeper:
        named(keeper, "ready")
        try:
            for _ in range(report.options.starts):
                found = collect(s.command(program, "calls"))
                for line in found:
                    lines.setdefault(line["name"], []).append(line)
                first = 1 + next(i for i, line in enumerate(found) if line["name"] == "cuCtxSynchronize")
                together.append({key: sum(line[key] for line in found[:first]) for key in found[0] if key != "name"})
        finally:
            if together:
                lines["cuInit to first kernel"] = together
            report.data["inside"] = lines
            for name, ones in lines.items():
                ours, busy, real, whole = (statistics.median(one[key] for one in ones) for key in ("ours_us", "ours_cpu_us", "real_us", "whole_us"))
                report.row("inside", name, ours <= CONTEXT_US if name in CONTEXT_CALLS else None,
                           f"in our code {ours:>7.1f} us, of that waiting {max(ours - busy, 0):>7.1f}  whole {whole:>10.1f}  real {real:>10.1f}  "
                           f"({len(ones)} calls, {min(one['ours_us'] for one in ones):.1f} to {max(one['ours_us'] for one in ones):.1f})",
                           ours_us=ours, ours_cpu_us=busy, whole_us=whole, real_us=real, calls=len(ones))
        line = collect(s.command(program, "spawn", 200))[0]
        report.data["spawn"] = line
        report.row("inside", "a process that does nothing", None, f"native {line['native_us']:>10.1f}  with the stand-in preloaded "
                   f"{line['slice_us']:>10.1f}  added {line['added_us']:>+9.1f} us", **{key: line[key] for key in ("native_us", "slice_us", "added_us")})


def interval(values, draws=4000):
    """The median's 95 % interval, by bootstrap; the same for the same values."""
    random_ = random.Random(1)
    medians = sorted(statistics.median(random_.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]


# Two processes on each side, each with its own luck in what memory it got: the order in which they work, in fours. Within
# a four and from four to four every place falls to both sides, and to both processes of a side, equally often.
ORDERS = [
    (("native", 0), ("slice", 0), ("slice", 1), ("native", 1)),
    (("slice", 0), ("native", 0), ("native", 1), ("slice", 1)),
    (("native", 1), ("slice", 1), ("slice", 0), ("native", 0)),
    (("slice", 1), ("native", 1), ("native", 0), ("slice", 0)),
]


def compare(fours):
    """What fours of turns, seconds a step by (side, process), say of the slice's speed as a part of the native one."""
    seconds = {side: [(four[side, 0] + four[side, 1]) / 2 for four in fours] for side in ("native", "slice")}
    twins = {side: statistics.median(four[side, 0] / four[side, 1] for four in fours) - 1 for side in seconds}
    ratios = [a / b for a, b in zip(seconds["native"], seconds["slice"])]
    low, high = interval(ratios)
    # A verdict only where the whole interval is on one side, and further off than what two processes alike differ by.
    luck = max(map(abs, twins.values()))
    ok = True if low - luck >= THROUGHPUT else False if high + luck < THROUGHPUT else None
    return {"ok": ok, "ratio": statistics.median(ratios), "low": low, "high": high, "slower": sum(one < 1 for one in ratios), "fours": len(fours),
            "native_twins": twins["native"], "slice_twins": twins["slice"],
            **{side: 1 / statistics.median(values) for side, values in seconds.items()}}


def throughput(script, label):
    """A loop in processes that all live from begin to end, two outside and two in a slice of the whole card. They work in
    short turns and idle in between, so that what changes slowly, such as clocks, touches both sides; the two of one side
    show how far processes differ by themselves."""

    def run(report):
        command = [sys.executable, HERE / script, *(["--stub"] if report.options.stub else [])]
        fours, steps_us = [], {"native": [], "slice": []}
        with ExitStack() as stack:
            s = stack.enter_context(Slice(report.options.whole))
            started = {(side, which): stack.enter_context(Held(command if side == "native" else s.command(*command)))
                       for which in range(2) for side in ("native", "slice")}
            for one in started.values():
                one.line(90)

            def turn(who, steps):
                started[who].send(str(steps))
                return started[who].line(60)

            for who in started:  # warms up, and finds out how many steps a turn has
                first = turn(who, 20)
                first = turn(who, max(20, int(0.3 * first["steps"] / first["seconds"])))
            steps = max(5, round(report.options.torch_turn * first["steps"] / first["seconds"]))
            until = time.monotonic() + report.options.torch_seconds
            while time.monotonic() < until:
                four = {}
                for who in ORDERS[len(fours) % 4]:
                    line = turn(who, steps)
                    four[who] = line["seconds"] / line["steps"]
                    steps_us[who[0]].append(line)
                fours.append(four)
        expect(len(fours) >= 6, f"only {len(fours)} fours in {report.options.torch_seconds} s: too few to say anything")
        found = compare(fours)
        report.data[label] = {"steps": steps, "fours": [[four[who] for who in sorted(four)] for four in fours]}
        report.row(label, "throughput", found["ok"],
                   f"native {found['native']:.2f}/s  slice {found['slice']:.2f}/s  ratio {100 * found['ratio']:.3f} %  (95 %: {100 * found['low']:.3f} to "
                   f"{100 * found['high']:.3f}; {len(fours)} fours of turns of {steps} steps, slice slower in {found['slower']}; two native processes differ by "
                   f"{100 * found['native_twins']:+.3f} %, two in the slice by {100 * found['slice_twins']:+.3f} %)"
                   + ("" if found["ok"] is not None else "  not resolved"),
                   **{key: value for key, value in found.items() if key != "ok"})
        if "p99_us" in steps_us["native"][0]:
            for key in ("p50_us", "p99_us"):
                a, b = (statistics.median(line[key] for line in steps_us[side]) for side in ("native", "slice"))
                report.row(label, f"step {key}", None, f"native {a:.1f}  slice {b:.1f}")

    return run


def usable(report):
    """How much of a quota a program can have, and whether the charge is what NVML says the process uses."""
    program = program_of_calls()
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


class Quick(argparse.Action):
    def __call__(self, _parser, options, *_):
        vars(options).update(QUICK)


def arguments(parser):
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the single calls")
    parser.add_argument("--starts", type=int, default=7, help="process starts on each side")
    parser.add_argument("--torch-seconds", type=float, default=30, help="time of each PyTorch loop")
    parser.add_argument("--torch-turn", type=float, default=0.15, help="seconds of one turn of a PyTorch loop")
    parser.add_argument("--stub", action="store_true", help="a loop on the CPU in place of the PyTorch loops: tests this script alone")
    parser.add_argument("--quick", action=Quick, nargs=0, help="as " + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in QUICK.items()))
    peers.arguments(parser)
    parser.add_argument("--whole", default=os.environ.get("CLEAVE_BENCH_WHOLE", "100%"), help="size of the slice that is the whole card")


if __name__ == "__main__":
    parts = {
        "added": added,
        "calls": calls,
        "start": start,
        "usable": usable,
        "inside": inside,
        "train": throughput("torch_train.py", "train"),
        "decode": throughput("torch_decode.py", "decode"),
        "peers": peers.part,
    }
    limits = {"added": 90, "calls": 120, "start": 60, "usable": 90, "inside": 60, "train": 120, "decode": 120, "peers": 240}
    report = Report("memory quota benchmarks", parts, limits, arguments)
    for loop in ("train", "decode"):
        limits[loop] += int(report.options.torch_seconds)
    raise SystemExit(report.main())
