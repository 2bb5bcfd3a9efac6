#!/usr/bin/env python3
"""Benchmarks of the compute share: what tenants get of a GPU's time, natively and in slices, in one run. Ends with a table of every
target, what was measured, and whether it is met.
"""

import argparse
import importlib.util
import os
import signal
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import peers
from common import HERE, MIB, collect, named, program_of_calls
from tenants import (ADAPTIVE, DOMAIN, ENGINE, EXPERIMENT, MEMORY, MODE, NONE, PRIORITY, PRODUCTION, SHARE, SPATIAL, STRICT, TEMPORAL, Figure, Tenant,
                     calibrate, engine_flags, gemm, middle, native, needs, percent, repeat, sliced, stop_calibrator, together, under)

import harness
from harness import Failure, Held, Report, Skip, Slice, cleave, cleave_json, daemon_status, expect, has_flag, start_daemon

PAUSE, RESUME, RESIZE = ("pause",), ("resume",), ("slice", "resize")

# Targets.
LAUNCH_P50_NS, LAUNCH_P99_NS, GRAPH_NS, NONE_NS = 60, 300, 100, 100
SECOND, TENTH = 1.0, 3.0  # points off the share, over 1 s and over 100 ms
JAIN = 0.999
ALONE = 0.99
LEND_MS = 10
DELIVERED = 0.98
TAIL = {TEMPORAL: {50: 1.20, 200: 1.30}, SPATIAL: {50: 1.05, 200: 1.15, 1000: 1.10, 5000: 1.10}}
NOT_WORSE = 1.02  # two measurements of the same differ by so much
LEFT, OWN = 0.90, 0.95
HALVES = 1.03
DECODE_P95, DECODE_P99, TRAIN = 1.15, 1.3, 0.75
NOISE = 0.02
BACK_MS = 1000
CONTROL_MS = 100
DAEMON_CORE = 0.02
EQUAL_POINTS, EQUAL_JAIN = 3.0, 0.98  # A6
VICTIM = {STRICT: 1.05, ADAPTIVE: 1.10}  # A14
SHORT = 40  # A23: percent

MIXED = (50, 200, 2000, 10000)
ON_ITS_SMS, BY_ITSELF = "each on its SMs", "chosen by itself"

# The table: parts of the rows in its order, and what they are about.
TABLE = {
    "overhead": "launch, gate open",
    "strict": "strict",
    "shares": "shares",
    "fairness": "fairness",
    "lending": "work conservation",
    "delivered": "sum delivered",
    "tails-spatial": "serve beside burn, spatial",
    "tails": "serve beside burn, temporal",
    "torch": "PyTorch decode beside training",
    "halves": "spatial strict 50/50",
    "noise": "noisy neighbour, strict 50/50",
    "faults": "faults",
    "control": "control",
    "daemon": "daemon",
    "A6": "A6",
    "A22": "A22",
    "A14": "A14",
    "A16": "A16",
    "A23": "A23",
    "A28": "A28",
    "peers": "peers",
}


# ---------------------------------------------------------------- parts


def overhead(report):
    """What the gate adds to a launch while it is open: both libraries in turns, in one process of a slice."""

    def lines(names, **flags):
        values = {}
        with Slice(MEMORY, **flags, **engine_flags(TEMPORAL)) as own:
            for name in names:
                for _ in range(report.options.runs):
                    for line in collect(own.command(program_of_calls(), "added", "--only", name)):
                        if line.get("name") == name and "added_ns" in line:
                            values.setdefault(name, []).append(line)
        return values

    def row(part, name, lines, judge, target):
        p50 = Figure(line["added_ns"] for line in lines)
        p99 = Figure(line["added_p99_ns"] for line in lines)
        again = [Figure(line[key] for line in lines) for key in ("again_added_ns", "again_added_p99_ns")]
        report.row(part, name, judge(p50.median, p99.median), f"added p50 {p50:+.0f}  p99 {p99:+.0f} ns  (native {lines[0]['native_ns']:.0f} and {lines[0]['native_p99_ns']:.0f}; "
                   f"native against itself {again[0]:+.0f} and {again[1]:+.0f})", target=target, added_p50_ns=p50.values, added_p99_ns=p99.values,
                   again_p50_ns=again[0].values, again_p99_ns=again[1].values, whole_p99_ns=[[line["native_p99_ns"], line["slice_p99_ns"], line["again_p99_ns"]] for line in lines])

    values = report.data["overhead"] = lines(("launch_batch", "graph_launch_20"), **{SHARE: "100%"})
    row("overhead", "cuLaunchKernel, tight batch", values["launch_batch"], lambda p50, p99: p50 <= LAUNCH_P50_NS and p99 <= LAUNCH_P99_NS,
        f"p50 ≤ {LAUNCH_P50_NS}, p99 ≤ {LAUNCH_P99_NS} ns")
    row("overhead", "cuGraphLaunch of 20", values["graph_launch_20"], lambda p50, _: p50 <= GRAPH_NS, f"p50 ≤ {GRAPH_NS} ns")
    values = report.data["A16"] = lines(("launch_batch",), **{SHARE: "100%", MODE: NONE})
    row("A16", "mode none, cuLaunchKernel", values["launch_batch"], lambda p50, _: p50 <= NONE_NS, f"p50 ≤ {NONE_NS} ns")


def alone_native(report):
    """Seconds of the device per second that one native process gets: what everything is compared with."""
    if "alone" not in report.data:
        run = Figure(run.got(0) for run in repeat(report, "alone", [Tenant()], native))
        report.data["alone"] = run.median
        report.row("alone", "native", None, f"{run:.4f} of the device", delivered=run.values)
    return report.data["alone"]


def strict(report):
    needs(SHARE, MODE)
    for share in (25, 50, 75):

        def one():
            runs = repeat(report, f"strict {share}", [Tenant(share=share, policy=STRICT)])
            got, second, tenth = (Figure(values) for values in ((100 * run.got(0) for run in runs), (run.worst(1000, [share], False) for run in runs),
                                                                (run.worst(100, [share], False) for run in runs)))
            report.row("strict", f"one tenant, {share} %", second.median <= SECOND and tenth.median <= TENTH,
                       f"{got:.2f} %, off by at most {second:.2f} points over 1 s, {tenth:.2f} over 100 ms",
                       target=f"± {SECOND:g} point over 1 s, ± {TENTH:g} over 100 ms", delivered=got.values, worst_second=second.values, worst_tenth=tenth.values)

        report.attempt("strict", f"one tenant, {share} %", one)


def delivered(report, name, runs, base, alone, judged):
    got, plain = Figure(100 * run.total() / alone for run in runs), 100 * base.total() / alone
    report.row("delivered", name, got.median >= 100 * DELIVERED if judged else None, f"{got:.2f} % of one native process (native together {plain:.2f} %)",
               target=f"≥ {100 * DELIVERED:g} %" if judged else None, of_alone=got.values, native_of_alone=plain)


def shares(report):
    needs(SHARE, MODE)
    alone = alone_native(report)

    def pair(a, b, mode="saturate", share=30):
        return [Tenant(mode, a, share), Tenant(mode, b, 100 - share)]

    cases = {
        "30/70, 0.2 and 0.2 ms": pair((200,), (200,)),
        "30/70, 0.05 and 2 ms": pair((50,), (2000,)),
        "30/70, 10 and 0.2 ms": pair((10000,), (200,)),
        "30/70, mixed lengths": pair(MIXED, MIXED),
        "25/35/40, 0.05, 2, 10 ms": [Tenant("saturate", (50,), 25), Tenant("saturate", (2000,), 35), Tenant("saturate", (10000,), 40)],
        "30/70, graphs of 20": pair((50,), (200,), "graph"),
        "30/70, launch and sync 2 ms": pair((2000,), (2000,), "loop"),
        "30/70, launch and sync 0.2 ms": pair((200,), (200,), "loop"),
        "50/50, 10 and 0.2 ms": pair((10000,), (200,), share=50),
    }
    for name, tenants in cases.items():
        targets = [tenant.share for tenant in tenants]

        def one():
            base = together(report, name, tenants, native, min(1.5, report.options.seconds))
            runs = repeat(report, name, tenants)
            got, plain = middle(run.shares() for run in runs), percent(base.shares())
            if name.startswith("50/50"):
                report.row("A23", "share of 0.2 ms kernels beside 10 ms", got[1] >= SHORT, f"{Figure(run.shares()[1] for run in runs):.1f} % (native {base.shares()[1]:.1f})",
                           target=f"≥ {SHORT} %", shares=got, native_shares=base.shares())
                return
            worst = Figure(run.worst(1000, targets) for run in runs)
            report.row("shares", name, worst.median <= SECOND, f"{percent(got)} (native {plain}), off by at most {worst:.2f} points over 1 s",
                       target=f"± {SECOND:g} point over 1 s", shares=got, native_shares=base.shares(), worst_second=worst.values)
            delivered(report, name, runs, base, alone, all(tenant.mode == "saturate" for tenant in tenants))

        report.attempt("shares", name, one)


def cpu_seconds(pid):
    """Processor time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def jain(values):
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def fairness(report):
    needs(SHARE, MODE)
    alone = alone_native(report)
    kinds = [("saturate", (50,)), ("saturate", (200,)), ("saturate", (2000,)), ("graph", (200,)), ("saturate", (50, 200, 2000)), ("saturate", (1000,)),
             ("graph", (50,)), ("saturate", (500,))]
    seconds = 1.5 * report.options.seconds
    for number in (4, 8):
        tenants = [Tenant(mode, lengths, 100 / number) for mode, lengths in kinds[:number]]

        def one():
            base = together(report, f"{number} equal", tenants, native, min(1.5, seconds))
            used = []

            def watch(_slices, _held, began):
                pid = daemon_status()["pid"]
                time.sleep(max(0, began - time.monotonic()))
                first, at = cpu_seconds(pid), time.monotonic()
                time.sleep(seconds)
                used.append(100 * (cpu_seconds(pid) - first) / (time.monotonic() - at))

            runs = repeat(report, f"{number} equal", tenants, sliced, seconds, watch)
            index, plain = Figure(jain([run.got(i) for i in range(number)]) for run in runs), jain([base.got(i) for i in range(number)])
            got = middle(run.shares() for run in runs)
            report.row("fairness", f"Jain's index, {number} equal", index.median >= JAIN, f"{index:.5f} (native {plain:.5f}), {percent(got)}",
                       target=f"≥ {JAIN}", jain=index.values, native_jain=plain, shares=got)
            delivered(report, f"{number} equal", runs, base, alone, True)
            core = Figure(used)
            report.row("daemon", f"processor time, {number} slices", core.median <= 100 * DAEMON_CORE if number == 8 else None, f"{core:.2f} % of a core",
                       target=f"≤ {100 * DAEMON_CORE:g} %" if number == 8 else None, core_percent=core.values)

        report.attempt("fairness", f"{number} equal", one)


def lending(report):
    """Work conservation, and how soon an idle share is lent and given back."""
    needs(SHARE, MODE)
    alone = alone_native(report)
    idle = [Tenant(phases="1,100000", share=25) for _ in range(3)]
    got = Figure(100 * run.got(0) / alone for run in repeat(report, "one active of four", [Tenant(share=25), *idle]))
    report.row("lending", "one active of four", got.median >= 100 * ALONE, f"{got:.2f} % of native", target=f"≥ {100 * ALONE:g} % of native", of_alone=got.values)
    run = together(report, "comes and goes", [Tenant(share=50), Tenant(share=50, phases="150,150")], sliced, max(3, 1.5 * report.options.seconds))
    reached, returned = [], []
    for on, off in run.results[1]["phases_ms"]:
        if on < 0 or off + 60 > run.seconds * 1e3:
            continue
        # The other's rate is full from the first ms on after which it has 95 % of the next 5 ms.
        reached.append(next((ms for ms in range(100) if run.between(0, off + ms, off + ms + 5) >= 0.95 * alone), 100))
        returned.append(next((ms for ms in range(100) if run.between(1, on + ms, on + ms + 1) > 0), 100))
    expect(reached, "no phase was seen to its end: --seconds is too short")
    for name, values in (("idle share reaches the active one", reached), ("and returns", returned)):
        report.row("lending", name, max(values) < LEND_MS, f"{Figure(values):.0f} ms, {len(values)} times", target=f"< {LEND_MS} ms, each", ms=values)


def served(report):
    """The 99th percentile of serve alone, natively."""
    if "served" not in report.data:
        runs = repeat(report, "serve alone", [Tenant("serve")], native)
        p50, p99 = (Figure(run.results[0][key] for run in runs) for key in ("p50_ms", "p99_ms"))
        report.data["served"] = p99.median
        report.row("tails", "serve alone, native", None, f"p50 {p50:.2f} p99 {p99:.3f} ms", p50_ms=p50.values, p99_ms=p99.values)
    return report.data["served"]


def serve_and_burn(engine, length, policy=None, burn_policy=None, priority=(PRODUCTION, EXPERIMENT), shape="full", learn=None):
    """`shape`: kernels that fill each multiprocessor, or `light` ones, beside which others have room. `learn`: burn has run before; if
    not said, where its kernels are short and the engine makes something of it."""
    learn = engine == SPATIAL and length < 1000 if learn is None else learn
    return [Tenant("serve", share=50, priority=priority[0], policy=policy, engine=engine, shape=shape),
            Tenant(lengths=(length,), share=50, priority=priority[1], policy=burn_policy or policy, engine=engine, shape=shape,
                   learn=learn)]


def beside(report, length):
    """serve beside burn, natively: measured once for all engines."""
    known = report.data.setdefault("beside", {})
    if length not in known:
        run = together(report, f"serve beside {length}", serve_and_burn(TEMPORAL, length), native, 1.5 * report.options.seconds)
        known[length] = {"p99_ms": run.results[0]["p99_ms"], "left": 100 * run.got(1) / (1 - run.got(0))}
    return known[length]


def tails(report, engine):
    """Requests of 1 ms every 10 ms, of high priority, beside a tenant that takes all it can get."""
    needs(SHARE, MODE, PRIORITY, *((ENGINE, DOMAIN) if engine == SPATIAL else ()))
    part = "tails" if engine == TEMPORAL else "tails-spatial"
    seconds, alone = 1.5 * report.options.seconds, served(report)
    runs = repeat(report, f"serve alone, {engine}", serve_and_burn(engine, 200)[:1])
    p50, p99 = (Figure(run.results[0][key] for run in runs) for key in ("p50_ms", "p99_ms"))
    report.row(part, "serve alone", None, f"p50 {p50:.2f} p99 {p99:.3f} ms", p99_ms=p99.values)

    def burn_alone(length, shape):
        """What burn gets alone of the multiprocessors of its share, which strict holds it to."""
        known = report.data.setdefault("burn alone", {})
        key = f"{length} {shape}"
        if key not in known:
            run = together(report, f"{engine}, burn alone, {key}", serve_and_burn(engine, length, STRICT, shape=shape)[1:], sliced, min(1.5, seconds))
            known[key] = run.got(0)
        return known[key]

    def one(length, sms=None, shape="full"):
        # With SMs kept free for serve, each has those of its share, which is what strict means there. By itself the daemon keeps them free
        # when it knows from an earlier run that burn's kernels are long.
        by_itself = sms == BY_ITSELF
        tenants = serve_and_burn(engine, length, STRICT if sms == ON_ITS_SMS else None, shape=shape, learn=by_itself or None)
        name = f"{length / 1000:g} ms{' light' if shape == 'light' else ''} kernels" + (f", {sms}" if sms else "")
        plain = beside(report, length)
        runs = repeat(report, f"{engine}, {name}", tenants, sliced, report.options.seconds if by_itself else seconds)
        p50, p95, p99 = (Figure(run.results[0][key] for run in runs) for key in ("p50_ms", "p95_ms", "p99_ms"))
        ratio = Figure(value / alone for value in p99.values)
        left = Figure(100 * run.device(1) / (1 - run.device(0)) for run in runs)
        text = f"p50 {p50.median:.2f} p95 {p95.median:.2f} p99 {p99.median:.2f} ms = {ratio:.2f} × alone"
        values = {"p50_ms": p50.values, "p95_ms": p95.values, "p99_ms": p99.values, "ratio": ratio.values, "left_percent": left.values, "native": plain}
        most = TAIL[engine].get(length)
        if sms:
            own, had = Figure(100 * run.got(1) / burn_alone(length, shape) for run in runs), Figure(100 * run.parts[1] for run in runs)
            ok, target = ratio.median <= most and own.median >= 100 * OWN, f"p99 ≤ {most:.2f} ×, burn ≥ {100 * OWN:g} % of its SMs"
            text += f", burn {own:.1f} % of what it gets alone on {had:.0f} % of the SMs"
            values |= {"own_percent": own.values, "sms_percent": had.values}
        elif most and length < 1000:
            ok, target = ratio.median <= most and left.median >= 100 * LEFT, f"p99 ≤ {most:.2f} ×, burn ≥ {100 * LEFT:g} % of what is left"
            text += f", burn {left:.1f} % of what is left"
        else:
            ok, target = p99.median <= NOT_WORSE * plain["p99_ms"], "not worse than native"
            text += f", burn {left:.1f} % of what is left"
        report.row(part, name, ok, f"{text} (native {plain['p99_ms'] / alone:.2f} ×, {plain['left']:.1f} %)", target=target, **values)

    cases = [(length, ON_ITS_SMS if engine == SPATIAL and length >= 1000 else None) for length in (50, 200, 1000, 5000)]
    if engine == SPATIAL and report.options.runs > 1:
        cases += [(length, BY_ITSELF, shape) for length in (1000, 5000) for shape in ("full", "light")]
    for case in cases:
        report.attempt(part, " ".join(map(str, filter(None, case))), one, *case)


def halves(report):
    """Serve and burn on half of the SMs each; and A14: neighbours of the same class, strict and adaptive, and strict in turns."""
    needs(SHARE, MODE)
    spatial = has_flag("slice create", "--" + ENGINE) and has_flag("slice create", "--" + DOMAIN)
    known = {}

    def alone(engine, policy):
        """serve in its slice without a neighbour: measured once, whatever the neighbour's kernels are."""
        if (engine, policy) not in known:
            tenants = serve_and_burn(engine, 200, policy, priority=(None, None))[:1]
            lines = [run.results[0] for run in repeat(report, f"halves alone, {engine}, {policy}", tenants)]
            known[engine, policy] = {key: statistics.median(line[key] for line in lines) for key in ("p95_ms", "p99_ms")}
        return known[engine, policy]

    def one(engine, policy, length):
        tenants = serve_and_burn(engine, length, policy, priority=(None, None))
        base = alone(engine, policy)
        lines = [run.results[0] for run in repeat(report, f"halves, {engine}, {policy}, {length / 1000:g} ms kernels", tenants)]
        p95, p99 = (Figure(line[key] / base[key] for line in lines) for key in ("p95_ms", "p99_ms"))
        text = f"p95 {p95:.3f} × alone, p99 {p99:.3f} × alone (alone {base['p95_ms']:.3f} and {base['p99_ms']:.3f} ms)"
        if policy == STRICT and engine == SPATIAL:
            report.row("halves", f"{length / 1000:g} ms kernels", p99.median <= HALVES, text, target=f"p99 ≤ {HALVES} × alone in the same slice", p95=p95.values, p99=p99.values)
        if length == 200:
            report.row("A14", f"victim, {policy}, {engine}", p95.median <= VICTIM[policy], text, target=f"p95 ≤ {VICTIM[policy]:.2f} ×", p95=p95.values)

    cases = [(TEMPORAL, STRICT, 200)]
    if spatial:
        cases += [(SPATIAL, STRICT, 200), (SPATIAL, ADAPTIVE, 200)] + [(SPATIAL, STRICT, 5000)] * (report.options.runs > 1)
    else:
        cases.append((TEMPORAL, ADAPTIVE, 200))
        report.skip("halves", "serve and burn", "slice create has no --" + ENGINE)
    for case in cases:
        report.attempt("halves", ", ".join(map(str, case)), one, *case)


# ---------------------------------------------------------------- PyTorch

DECODE_S = 0.005  # a step so often


def torch_pair(report, start):
    """decode and train on one side: what they do alone, and several times together. `start` runs a command in the place of the first or the second."""
    stub = ["--stub"] if report.options.stub else []
    seconds = max(1, report.options.seconds)
    with ExitStack() as stack:
        decode, train = (stack.enter_context(start(number, [sys.executable, HERE / script, *stub])) for number, script in enumerate(("torch_decode.py", "torch_train.py")))
        for one in (decode, train):
            one.line(90)

        def work(*who):
            at = time.monotonic() + 0.4
            for one in who:
                one.send(f"{at} {seconds} {DECODE_S if one is decode else 0}")
            return [one.line(seconds + 30) for one in who]

        work(decode, train)  # warms up
        (alone,), (training,) = work(decode), work(train)
        return alone, training, [work(decode, train) for _ in range(report.options.runs)]


def torch(report):
    """Decoding, a token every 5 ms, of high priority, beside training."""
    if not report.options.stub and not importlib.util.find_spec("torch"):
        raise Skip("there is no PyTorch")
    memory = "8GiB"

    def slices(engine):
        def start(stack):
            made = [stack.enter_context(Slice(memory, **{SHARE: "50%", PRIORITY: priority}, **engine_flags(engine))) for priority in (PRODUCTION, EXPERIMENT)]
            return lambda number, command: Held(made[number].command(*command))

        return start

    def mps(stack):
        way = stack.enter_context(peers.mps(8192))

        def start(_, command):
            command, env = way(*command)
            return Held(command, env | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"})

        return start

    sides = {"native": lambda _: lambda _, command: Held(command), TEMPORAL: slices(TEMPORAL), SPATIAL: slices(SPATIAL), "MPS 50/50": mps}
    base = None
    if report.options.runs == 1:
        del sides["MPS 50/50"]
    for side, make in sides.items():

        def one():
            nonlocal base
            with ExitStack() as stack:
                alone, training, both = torch_pair(report, make(stack))
            report.data.setdefault("torch", {})[side] = {"decode": alone, "train": training, "both": both}
            if side == "native":
                base = alone, training
            expect(base, "the native side failed")
            p95, p99 = (Figure(decode[key] / base[0][key] for decode, _ in both) for key in ("p95_us", "p99_us"))
            p50 = statistics.median(decode["p50_us"] for decode, _ in both)
            kept = Figure(100 * (train["steps"] / base[1]["steps"]) / (1 - decode["steps"] * base[0]["p50_us"] / 1e6 / decode["seconds"]) for decode, train in both)
            ok = p95.median <= DECODE_P95 and p99.median <= DECODE_P99 and kept.median >= 100 * TRAIN if side in (TEMPORAL, SPATIAL) else None
            report.row("torch", side, ok, f"p50 {p50 / 1e3:.2f} ms, p95 {p95:.2f} × and p99 {p99:.2f} × alone, training {kept:.1f} % of what is left "
                       f"(alone here p50/95/99 {alone['p50_us'] / 1e3:.2f}/{alone['p95_us'] / 1e3:.2f}/{alone['p99_us'] / 1e3:.2f} ms, {training['steps'] / training['seconds']:.1f} steps/s)",
                       target=f"p95 ≤ {DECODE_P95} ×, p99 ≤ {DECODE_P99} ×, training ≥ {100 * TRAIN:g} %, in one engine at least" if ok is not None else None,
                       p95=p95.values, p99=p99.values, left_percent=kept.values)

        report.attempt("torch", side, one)


# ---------------------------------------------------------------- neighbours


def noise(report):
    """A neighbour on an equal strict slice, whatever it does, takes nothing from a strict slice."""
    needs(SHARE, MODE)
    equal = {"share": 50, "policy": STRICT}
    victim = Tenant(**equal)
    alone = alone_native(report)
    quiet = statistics.median(run.got(0) for run in repeat(report, "noise alone", [victim]))
    product, what = gemm(**equal)

    def gigabytes(run, number):
        return run.got(number) * 2 * 256 * MIB / 1e9

    def one(name, neighbour):
        base = together(report, "noise: " + name, [victim, neighbour], native, min(1.5, report.options.seconds))
        runs = repeat(report, "noise: " + name, [victim, neighbour])
        lost, plain = Figure(100 * (1 - run.got(0) / quiet) for run in runs), 100 * (1 - base.got(0) / alone)
        beside = f", beside {Figure(gigabytes(run, 1) for run in runs):.0f} GB/s of copies (native {gigabytes(base, 1):.0f})" if neighbour.mode == "copy" else ""
        report.row("noise", name, lost.median <= 100 * NOISE, f"loses {lost:+.2f} % of {100 * quiet:.1f} %{beside} (native loses {plain:+.1f} %)",
                   target=f"≤ {100 * NOISE:g} % lost", lost_percent=lost.values, native_lost_percent=plain)

    for name, neighbour in {what: product, "copies": Tenant("copy", **equal), "launch storm": Tenant("storm", **equal), "allocation storm": Tenant("alloc", **equal)}.items():
        report.attempt("noise", name, one, name, neighbour)

    def bandwidth():
        """Two that need nothing but bandwidth: what one loses there is bandwidth."""
        copy = Tenant("copy", **equal)
        single, pair = (together(report, f"noise: copies {number}", [copy] * number, native, 1) for number in (1, 2))
        own, ours = (together(report, f"noise: copies {number}", [copy] * number, sliced, 1) for number in (1, 2))
        report.row("noise", "copies beside copies", None, f"{gigabytes(ours, 0):.0f} GB/s of {gigabytes(own, 0):.0f} alone in the slice "
                   f"(native {gigabytes(pair, 0):.0f} of {gigabytes(single, 0):.0f})")

    if report.options.runs > 1:
        report.attempt("noise", "copies beside copies", bandwidth)


def at(began, seconds):
    time.sleep(max(0, began + seconds - time.monotonic()))


def faults(report):
    """A tenant that goes wrong takes nothing with it: its neighbour, in another trust domain, works on; its slice can be used again at once, and
    an event tells of it."""
    needs(SHARE, MODE)
    alone = alone_native(report)
    seconds = max(1.1, report.options.seconds)
    kinds = {"illegal address": "fault", "infinite kernel": "hang", "kill -9": "saturate", "OOM loop": "oom"}

    def one(name, mode):
        seen = []

        def meanwhile(slices, held, began):
            found = {}
            seen.append(found)
            own = slices[1] and slices[1].name
            old = max(event["id"] for event in cleave_json("events", "--slice", own)) if own else 0
            if mode == "saturate":
                at(began, seconds / 2)
                found["bad"] = ended = time.monotonic()
                held[1].kill()
            else:
                line = named(held[1], "bad", seconds + 30)
                found |= {"bad": line["at_ns"] / 1e9, "answer": line["answer"]}
                ended = found["bad"]
                if mode == "hang":  # the neighbour is measured beside it first
                    at(began, seconds * 0.8)
                    ended = time.monotonic()
                    held[1].kill()
            if not own:
                return
            while not found.get("event") and time.monotonic() < ended + 3:
                news = [event for event in cleave_json("events", "--slice", own, "--since", old) if event["kind"] != "process-started"]
                if news:
                    found |= {"event": news[-1]["kind"], "event_ms": 1e3 * (time.monotonic() - ended)}
                else:
                    time.sleep(0.02)
            if mode != "oom":
                collect(slices[1].command(program_of_calls(), "start"), 30)
                found["back_ms"] = 1e3 * (time.monotonic() - ended)

        tenants = [Tenant(share=50), Tenant(mode, share=50, culprit=True)]

        def parts(run, found):
            begin, end = run.ms(found["bad"]), run.seconds * 1e3
            low = min((run.between(0, ms, ms + 100) for ms in range(int(begin), int(end) - 100, 10)), default=0)
            return 100 * run.between(0, 0, begin), 100 * low, run.gap(0, begin)

        try:
            run = together(report, "fault: " + name, tenants, native, seconds, meanwhile)
            _, low, gap = parts(run, seen[-1])
            plain = f"never below {low:.1f} %, gap {gap} ms"
        except Failure as problem:
            plain = f"fails: {problem}"
        seen.clear()
        runs = repeat(report, "fault: " + name, tenants, sliced, seconds, meanwhile)
        before, low, gap = (Figure(values) for values in zip(*(parts(run, found) for run, found in zip(runs, seen))))
        lost = Figure(b - l for b, l in zip(before.values, low.values))
        report.row("faults", f"neighbour of {name}", lost.median <= TENTH, f"no error, {before.median:.1f} % before, never below {low:.1f} % in 100 ms after, gap {gap:.0f} ms (native {plain})",
                   target="neighbour loses nothing", before=before.values, lowest=low.values, gap_ms=gap.values, answers=[found.get("answer") for found in seen])
        expect(all("event" in found for found in seen), "no event told of it within 3 s")
        times = {what: Figure(found[what + "_ms"] for found in seen) for what in ("event", "back") if what + "_ms" in seen[0]}
        report.row("faults", f"{name}, event and recovery", all(time_.high < BACK_MS for time_ in times.values()),
                   ", ".join(f"{what} after {time_:.0f} ms" for what, time_ in times.items()) + f" ({seen[0]['event']})", target=f"< {BACK_MS} ms",
                   **{what + "_ms": time_.values for what, time_ in times.items()})

    def stopped():
        """A program that an operator or a debugger stops holds nothing: its neighbour has the device, as natively."""
        tenants = [Tenant(share=50), Tenant(share=50, culprit=True)]

        def meanwhile(_slices, held, began):
            at(began, seconds / 2)
            os.killpg(held[1].process.pid, signal.SIGSTOP)
            at(began, seconds)
            held[1].kill()

        def after(run):
            return 100 * run.between(0, 1e3 * (seconds / 2 + 0.05), 1e3 * seconds)

        plain = after(together(report, "fault: stopped", tenants, native, seconds, meanwhile))
        got = Figure(after(run) for run in repeat(report, "fault: stopped", tenants, sliced, seconds, meanwhile))
        report.row("faults", "neighbour of a stopped program", got.median >= plain - TENTH, f"has {got:.1f} % from 50 ms after on (native {plain:.1f} %)",
                   target="as natively", got=got.values)

    for name, mode in kinds.items():
        report.attempt("faults", name, one, name, mode)
    report.attempt("faults", "stopped", stopped)


# ---------------------------------------------------------------- control


def control(report):
    """How soon pause, resume and a changed share are effective, from the start of the command on."""
    needs(SHARE, MODE)
    times = report.options.runs
    tenants = [Tenant(share=50), Tenant(share=50)]

    def pause():
        told = []

        def meanwhile(slices, _held, began):
            for number in range(times):
                for command, when in ((PAUSE, 0.3), (RESUME, 0.7)):
                    at(began, number * 0.8 + when)
                    told.append(time.monotonic())
                    cleave(*command, slices[0].name)

        run = together(report, "pause", tenants, sliced, 0.8 * times + 0.4, meanwhile)
        series = run.results[0]["per_ms"]
        stops, begins = [], []
        for paused, resumed in zip(*[map(run.ms, told)] * 2):
            stops.append(max((ms for ms in range(int(paused), int(resumed)) if series[ms] > 0), default=paused) - paused)
            begins.append(next((ms for ms in range(int(resumed), len(series)) if series[ms] > 0), resumed + 10000) - resumed)
        for name, what, values in (("pause", "last work", stops), ("resume", "first work", begins)):
            report.row("control", name, max(values) < CONTROL_MS, f"{what} after {Figure(values):.0f} ms", target=f"< {CONTROL_MS} ms", ms=values)

    def restart():
        """The daemon is killed while two slices share a device, and another takes over."""
        harness.may_kill_daemon(report)

        def meanwhile(_slices, _held, began):
            at(began, 1)
            harness.kill_daemon()
            at(began, 2.5)
            start_daemon()

        shares = [30, 70]
        run = together(report, "daemon killed", [Tenant(share=share) for share in shares], sliced, 4.5, meanwhile)

        def got(begin, end):
            return [100 * run.between(number, 1e3 * begin, 1e3 * end) for number in (0, 1)]

        def off(got):
            return max(abs(100 * one / sum(got) - share) for one, share in zip(got, shares))

        first, without, after = got(1, 1.5), got(1.5, 2.5), got(3.5, 4.5)
        report.row("control", "daemon killed, another started", off(without) <= 2 and off(after) <= 1 and sum(first) > 70,
                   f"30/70: {percent(got(0, 1))} before, {percent(first)} in the first half second without one, {percent(without)} then, {percent(after)} with the new one, no error",
                   target="± 2 points, ± 1", first=first, without=without, after=after)

    def preempt():
        """A20: what is urgent is let go and stopped again; when the other's progress ends, and goes on."""
        told = []

        def meanwhile(slices, _held, began):
            for number in range(times):
                for command, when in ((PAUSE, 0.1), (RESUME, 0.4), (PAUSE, 0.8)):
                    at(began, number + when)
                    told.append(time.monotonic())
                    cleave(*command, slices[0].name)
            at(began, times + 0.2)
            cleave(*RESUME, slices[0].name)

        tenants = [Tenant(share=50, priority=PRODUCTION), Tenant(share=50, priority=EXPERIMENT)]
        run = together(report, "preemption", tenants, sliced, times + 0.4, meanwhile)
        series = run.results[1]["per_ms"]
        stops, begins = [], []
        for number in range(times):
            comes, goes = (int(run.ms(told[3 * number + place])) for place in (1, 2))
            # Of a class below, nothing runs while there is work above it: a ms with a tenth of one is progress.
            stops.append(max((ms for ms in range(comes, goes) if series[ms] > 1e5), default=comes) - comes)
            begins.append(next((ms for ms in range(goes, len(series)) if series[ms] > 1e5), goes + 10000) - goes)
        report.row("control", "A20: production beside experiments", max(stops + begins) < CONTROL_MS,
                   f"the other's last progress after {Figure(stops):.0f} ms, and first one after its end {Figure(begins):.0f} ms", target=f"< {CONTROL_MS} ms", stops=stops, begins=begins)

    def resize():
        told = []

        def meanwhile(slices, _held, began):
            for number in range(times):
                at(began, 0.4 + 0.7 * number)
                told.append(time.monotonic())
                cleave(*RESIZE, slices[0].name, "--" + SHARE, "50%" if number % 2 else "20%")

        run = together(report, "change of share", tenants, sliced, 0.7 * times + 0.6, meanwhile)

        def share(ms):
            mine, other = (run.between(number, ms, ms + 200) for number in (0, 1))
            return 100 * mine / max(1e-9, mine + other)

        waits = []
        for number, changed in enumerate(map(run.ms, told)):
            target = 50 if number % 2 else 100 * 20 / 70
            waits.append(next((ms for ms in range(0, 500, 5) if abs(share(changed + ms) - target) <= TENTH), 500))
        report.row("control", "change of share, 50 to 20 and back", max(waits) < CONTROL_MS,
                   f"there after {Figure(waits):.0f} ms; first {share(run.ms(told[0]) + CONTROL_MS):.1f} % of a wanted {100 * 20 / 70:.1f} %", target=f"< {CONTROL_MS} ms", ms=waits)

    report.attempt("control", "daemon killed", restart)
    report.attempt("control", "pause", pause)
    report.attempt("control", "preemption", preempt)
    report.attempt("control", "change of share", resize)


def windows(report):
    """A22: two saturating tenants of a daemon with windows of 20 ms change over that often."""
    needs(SHARE)
    seconds = min(10, report.options.equal_seconds / 2)
    with harness.daemon_with(report, CLEAVE_WINDOW="20ms"):
        run = together(report, "windows of 20 ms", [Tenant(share=50), Tenant(share=50)], sliced, seconds)
    series = run.results[0]["per_ms"]
    busy = [sum(series[ms : ms + 3]) > 1.5e6 for ms in range(len(series) - 3)]
    begins = [ms for ms in range(1, len(busy)) if busy[ms] and not busy[ms - 1]]
    expect(len(begins) > 2, "it had no turns")
    period = (begins[-1] - begins[0]) / (len(begins) - 1) / 2
    report.row("A22", "windows of 20 ms", 16 <= period <= 24, f"a change every {period:.1f} ms, over {seconds:.0f} s", target="20 ms ± 20 %", period=period)


def classes(report):
    """A28: what the long first guess of the throughput class is for: serve beside burn whose kernels are never known. What the rule of
    collectives is for is in nccl.py."""
    needs(SHARE, PRIORITY)
    tenants = [Tenant("serve", share=50, priority=PRODUCTION), Tenant(lengths=(1000,), share=50, priority=EXPERIMENT, kernel="gemm_kernel", kinds=1000)]

    def one(name):
        runs = repeat(report, name, tenants)
        return Figure(run.results[0]["p99_ms"] for run in runs), Figure(100 * run.got(1) / (1 - run.got(0)) for run in runs)

    (late, left) = one("throughput class")
    with harness.daemon_with(report, CLEAVE_IGNORE_CLASSES="throughput"):
        (without, more) = one("no throughput class")
    report.row("A28", "serve beside 1 ms kernels not seen before, of the throughput class", late.median <= NOT_WORSE * without.median,
               f"p99 {late:.2f} ms, burn {left:.1f} % of what is left; without that class {without:.2f} ms, {more:.1f} %", target="no worse than without",
               p99_ms=late.values, without_ms=without.values)


def equal(report):
    """A6: four tenants with a quarter each that do the same."""
    needs(SHARE, MODE)
    tenant, what = gemm(share=25)
    base = together(report, "A6", [tenant] * 4, native, 1)
    run = together(report, "A6", [tenant] * 4, sliced, report.options.equal_seconds)
    index, shares = jain([run.got(i) for i in range(4)]), run.shares()
    report.row("A6", f"4 × 25 %, the same {what}, {run.seconds:g} s", index >= EQUAL_JAIN and all(abs(share - 25) <= EQUAL_POINTS for share in shares),
               f"{percent(shares)}, Jain {index:.5f} (native {percent(base.shares())}), worst second off by {run.worst(1000, [25] * 4):.2f} points",
               target=f"each ± {EQUAL_POINTS:g} points, Jain ≥ {EQUAL_JAIN}", shares=shares, jain=index)


def other_products(report):
    """What MPS and HAMi-core do in a few of these cases."""
    makers = {"MPS": (peers.mps, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")}
    if report.options.hami:
        makers["HAMi-core"] = peers.hami(str(Path(report.options.hami).resolve())), "CUDA_DEVICE_SM_LIMIT"
    alone, p99 = alone_native(report), served(report)
    seconds = report.options.seconds
    for name, (maker, cap) in makers.items():

        def one():
            calibrate()
            with maker(8192) as way:
                side = under(way, cap)
                run = together(report, f"{name}: 50 %", [Tenant(share=50)], side, seconds)
                report.row("peers", f"{name}, one tenant, 50 %", None, f"{100 * run.device(0):.1f} % (of its SMs {100 * run.got(0) / alone:.1f} %)")
                run = together(report, f"{name}: 30/70", [Tenant(share=30), Tenant(share=70)], side, seconds)
                report.row("peers", f"{name}, 30/70", None, f"{percent(100 * run.device(number) for number in (0, 1))} % of the device")
                for length in (200, 5000):
                    run = together(report, f"{name}: serve beside {length}", serve_and_burn(TEMPORAL, length), side, seconds)
                    report.row("peers", f"{name} 50/50, serve beside {length / 1000:g} ms", None,
                               f"p99 {run.results[0]['p99_ms'] / p99:.2f} × alone, burn {100 * run.device(1) / (1 - run.device(0)):.1f} % of what is left")

        report.attempt("peers", name, one)


# ---------------------------------------------------------------- the table


def table(report):
    """Every row in the table's order, as Markdown."""
    words = {"PASS": "PASS", "FAIL": "MISS", "SKIP": "SKIP", "INFO": "-"}
    lines = []
    for part, about in TABLE.items():
        rows = [row for row in report.rows if row["part"] == part]
        for row in rows or [{"name": "", "text": "not measured", "result": "SKIP"}]:
            what = about if not row["name"] or row["name"] == "whole part" else f"{about}: {row['name']}"
            lines.append({"what": what, "target": row.get("target") or "", "measured": row["text"], "verdict": words[row["result"]]})
    report.data["table"] = lines
    print("\n| what | target | measured | |\n|---|---|---|---|")
    for line in lines:
        print("| " + " | ".join(text.replace("|", "/") for text in line.values()) + " |")
    print(f"# {time.monotonic() - report.began:.0f} s", flush=True)


QUICK = {"seconds": 1.0, "runs": 1, "equal_seconds": 3.0, "budget": 175.0}


class Quick(argparse.Action):
    def __call__(self, _parser, options, *_):
        vars(options).update(QUICK)


def arguments(parser):
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of each case")
    parser.add_argument("--runs", type=int, default=3, help="how often each case in slices is measured")
    parser.add_argument("--equal-seconds", type=float, default=6, help="measured time of the four equal tenants (A6 asks for 60), twice that of windows (A22: 10)")
    parser.add_argument("--quick", action=Quick, nargs=0, help="as " + " ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in QUICK.items()))
    parser.add_argument("--hami", metavar="PATH", help="measure HAMi-core too: its libvgpu.so")
    parser.add_argument("--stub", action="store_true", help="a loop on the CPU in place of the PyTorch loops: tests this script alone")
    parser.set_defaults(budget=595.0)


if __name__ == "__main__":
    # What decides comes first: if time runs out, the rest is missing from the table.
    parts = {"overhead": overhead, "alone": alone_native, "strict": strict, "shares": shares, "fairness": fairness,
             "tails": lambda report: tails(report, TEMPORAL), "tails-spatial": lambda report: tails(report, SPATIAL), "halves": halves, "torch": torch,
             "lending": lending, "control": control, "faults": faults, "A6": equal, "A22": windows, "A28": classes, "noise": noise, "peers": other_products}
    limits = {"overhead": 40, "alone": 30, "strict": 50, "shares": 120, "fairness": 70, "tails": 100, "tails-spatial": 140, "halves": 110, "torch": 110, "lending": 40,
              "control": 40, "noise": 90, "faults": 80, "A6": 40, "A22": 40, "A28": 40, "peers": 60}
    report = Report("compute share benchmarks", parts, limits, arguments)
    longer = max(1, report.options.seconds / 1.0 * report.options.runs / 3)
    for part in limits:
        limits[part] = int(limits[part] * longer)
    limits["A6"] += int(report.options.equal_seconds)
    try:
        status = report.main()
    finally:
        stop_calibrator()
        if report.rows:
            table(report)
            report.save()
    raise SystemExit(status)
