#!/usr/bin/env python3
"""Benchmarks of the compute share: what tenants get of a GPU's time, natively and in slices, in one run.

Every tenant is `tenant.c`, with plain driver calls; in a slice it is the same program behind `cleave exec`. What counts is
device time of kernels that are done, from the time on when all tenants of a case run.
"""

import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from common import HERE, collect, named, program_of_calls

from harness import Held, Report, Skip, Slice, build, cleave, daemon_status, expect, has_flag

# cleave's options for compute, in one place: flags of `cleave slice create`, and commands.
SHARE, MODE, PRIORITY = "compute", "mode", "priority"
PAUSE, RESUME, RESIZE = ("pause",), ("resume",), ("slice", "resize")
STRICT, BALANCED = "strict", "balanced"
PRODUCTION, EXPERIMENT = "production", "experiment"
MEMORY = "2GiB"

# Targets.
LAUNCH_P50_NS, LAUNCH_P99_NS, GRAPH_NS = 60, 300, 100
SECOND, TENTH = 1.0, 3.0  # points off the share, over 1 s and over 100 ms
JAIN = 0.999
ALONE = 0.99
LEND_MS = 10
DELIVERED = 0.98
TAIL = {50: 1.20, 200: 1.30}
NOT_WORSE = 1.02  # two measurements of the same differ by so much
LEFT = 0.90
NOISE = 0.02
CONTROL_MS = 100
DAEMON_CORE = 0.02

WARM = 0.5
MIXED = (50, 200, 2000, 10000)


# ---------------------------------------------------------------- running tenants


class Tenant:
    """One tenant of a case: what it does, and, for the side in slices, what slice it gets."""

    def __init__(self, mode="saturate", lengths=(200,), share=None, priority=None, policy=None, **options):
        """`lengths` in us; `share` in percent; `options` are tenant.c's."""
        self.mode, self.lengths, self.share, self.priority, self.policy, self.options = mode, lengths, share, priority, policy, options

    def command(self):
        program = build(HERE / "tenant.c")
        options = dict(self.options, lengths=",".join(map(str, self.lengths)), **calibration())
        return [program, self.mode, *(str(part) for key, value in options.items() for part in ("--" + key.replace("_", "-"), value))]

    def slice(self):
        flags = {SHARE: self.share and f"{self.share}%", MODE: self.policy, PRIORITY: self.priority}
        return Slice(MEMORY, **{flag: value for flag, value in flags.items() if value})


_calibrator = None
_calibrated = None


def calibration():
    """What the kernel takes, as the last measurement found it."""
    return {key: _calibrated[key] for key in ("iteration_ns", "base_ns")}


def calibrate():
    """Measures the kernel, in a process outside every slice: again for each case, because clocks move."""
    global _calibrator, _calibrated
    if _calibrator is None or _calibrator.process.poll() is not None:
        _calibrator = Held([build(HERE / "tenant.c"), "calibrate"])
    else:
        _calibrator.send("again")
    _calibrated = named(_calibrator, "calibrated")


class Run:
    """What a case gave: one result per tenant (None for one that was killed), and when the measured time began."""

    def __init__(self, results, seconds, began):
        self.results, self.seconds, self.began = results, seconds, began

    def got(self, number):
        """Seconds of the device for each second."""
        return self.results[number]["delivered"] / self.seconds

    def total(self):
        return sum(self.got(number) for number, result in enumerate(self.results) if result)

    def shares(self):
        return [100 * self.got(number) / self.total() for number in range(len(self.results))]

    def between(self, number, begin_ms, end_ms):
        """Seconds of the device per second, in a part of the measured time."""
        series = self.results[number]["per_ms"][max(0, int(begin_ms)) : int(end_ms)]
        return sum(series) / 1e6 / max(1, len(series))

    def ms(self, at):
        """A time of time.monotonic() in ms of the measured time."""
        return (at - self.began) * 1e3

    def worst(self, window_ms, targets, relative=True):
        """The most that any tenant is off its target (points) in any window; relative to what was delivered there."""
        worst = 0.0
        for begin in range(0, int(self.seconds * 1000) - window_ms + 1, max(1, window_ms // 10)):
            got = [self.between(number, begin, begin + window_ms) for number in range(len(self.results))]
            whole = sum(got) if relative else 1
            for one, target in zip(got, targets):
                if target is not None and whole:
                    worst = max(worst, abs(100 * one / whole - target))
        return worst

    def kept(self):
        """For the file of results."""
        return [result and {**result, "per_ms": None, "per_100_ms": [round(sum(result["per_ms"][i : i + 100]) / 1e8, 4)
                for i in range(0, len(result["per_ms"]), 100)]} for result in self.results]


def together(report, name, tenants, slices, seconds=None, meanwhile=None):
    """Runs tenants at the same time, natively or each in a slice of its own, and returns what they got.

    `meanwhile` is called with the slices, the tenants' processes and the beginning of the measured time."""
    seconds = seconds or report.options.seconds
    calibrate()
    with ExitStack() as stack:
        made = [stack.enter_context(tenant.slice()) if slices else None for tenant in tenants]
        commands = [tenant.command() if own is None else own.command(*tenant.command()) for tenant, own in zip(tenants, made)]
        held = [stack.enter_context(Held(command)) for command in commands]
        for one in held:
            named(one, "ready")
        start = time.monotonic() + 0.05
        for one in held:
            one.send(f"{int(start * 1e9)} {seconds} {WARM}")
        began = start + WARM
        if meanwhile:
            meanwhile(made, held, began)
        results = []
        for one in held:
            if getattr(one, "killed", False):
                results.append(None)
            else:
                results.append(one.line(seconds + WARM + 20))
        run = Run(results, seconds, began)
    report.data.setdefault("runs", {}).setdefault(name, {})["slices" if slices else "native"] = {"calibration": calibration(), "tenants": run.kept()}
    return run


def needs_compute():
    for flag in (SHARE, MODE):
        if not has_flag("slice create", "--" + flag):
            raise Skip(f"slice create has no --{flag}")


def percent(values):
    return "/".join(f"{value:.1f}" for value in values)


# ---------------------------------------------------------------- parts


def overhead(report):
    """What the gate adds to a launch while it is open: both libraries in turns, in one process of a slice."""
    values = {}
    with Slice(MEMORY, **{SHARE: "100%"}) as own:
        for name in ("launch_batch", "graph_launch_20"):
            for _ in range(3):
                for line in collect(own.command(program_of_calls(), "added", "--only", name)):
                    if line.get("name") == name and "added_ns" in line:
                        values.setdefault(name, []).append(line)
    report.data["overhead"] = values
    for name, lines in values.items():
        p50 = statistics.median(line["added_ns"] for line in lines)
        p99 = statistics.median(line["slice_p99_ns"] - line["native_p99_ns"] for line in lines)
        ok = p50 <= GRAPH_NS if name.startswith("graph") else p50 <= LAUNCH_P50_NS and p99 <= LAUNCH_P99_NS
        report.row("overhead", name, ok, f"added p50 {p50:+.0f}  p99 {p99:+.0f} ns  (native p50 {lines[0]['native_ns']:.0f})", added_p50_ns=p50, added_p99_ns=p99)


def alone_native(report):
    """Seconds of the device per second that one native process gets: what everything is compared with."""
    if "alone" not in report.data:
        run = together(report, "alone", [Tenant()], False)
        report.data["alone"] = run.got(0)
        report.row("alone", "native", None, f"{run.got(0):.4f} of the device", delivered=run.got(0))
    return report.data["alone"]


def strict(report):
    needs_compute()
    for share in (25, 50, 75):
        run = together(report, f"strict {share}", [Tenant(share=share, policy=STRICT)], True)
        second, tenth = run.worst(1000, [share], False), run.worst(100, [share], False)
        report.row("strict", f"one tenant, {share} %", second <= SECOND and tenth <= TENTH,
                   f"{100 * run.got(0):.2f} %  off by at most {second:.2f} points over 1 s, {tenth:.2f} over 100 ms",
                   delivered=run.got(0), worst_second=second, worst_tenth=tenth)


def shares(report):
    needs_compute()
    alone = alone_native(report)

    def pair(a, b, mode="saturate"):
        return [Tenant(mode, a, 30), Tenant(mode, b, 70)]

    cases = {
        "30/70, 0.2 and 0.2 ms": pair((200,), (200,)),
        "30/70, 0.05 and 2 ms": pair((50,), (2000,)),
        "30/70, 10 and 0.2 ms": pair((10000,), (200,)),
        "30/70, mixed lengths": pair(MIXED, MIXED),
        "25/35/40, 0.05, 2, 10 ms": [Tenant("saturate", (50,), 25), Tenant("saturate", (2000,), 35), Tenant("saturate", (10000,), 40)],
        "30/70, graphs of 20": pair((50,), (200,), "graph"),
        "30/70, launch and sync": pair((2000,), (2000,), "loop"),
        "30/70, launch and sync 0.2 ms": pair((200,), (200,), "loop"),
    }
    for name, tenants in cases.items():
        targets = [tenant.share for tenant in tenants]

        def one():
            native = together(report, name, tenants, False)
            run = together(report, name, tenants, True)
            worst = run.worst(1000, targets)
            report.row("shares", name, worst <= SECOND,
                       f"{percent(run.shares())} (native {percent(native.shares())})  off by at most {worst:.2f} points over 1 s",
                       shares=run.shares(), native_shares=native.shares(), worst_second=worst, delivered=run.total(), native_delivered=native.total())
            ok = run.total() >= DELIVERED * alone if all(tenant.mode == "saturate" for tenant in tenants) else None
            report.row("delivered", name, ok, f"{100 * run.total() / alone:.2f} % of one native process (native together {100 * native.total() / alone:.2f} %)",
                       of_alone=run.total() / alone, native_of_alone=native.total() / alone)

        report.attempt("shares", name, one)


def cpu_seconds(pid):
    """Processor time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def jain(values):
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def fairness(report):
    needs_compute()
    alone = alone_native(report)
    kinds = [("saturate", (50,)), ("saturate", (200,)), ("saturate", (2000,)), ("graph", (200,)), ("saturate", (50, 200, 2000)), ("saturate", (1000,)),
             ("graph", (50,)), ("saturate", (500,))]
    seconds = 2 * report.options.seconds
    for number in (4, 8):
        tenants = [Tenant(mode, lengths, 100 / number) for mode, lengths in kinds[:number]]

        def one():
            native = together(report, f"{number} equal", tenants, False, seconds)
            used = []

            def watch(_slices, _held, began):
                pid = daemon_status()["pid"]
                time.sleep(max(0, began - time.monotonic()))
                first, at = cpu_seconds(pid), time.monotonic()
                time.sleep(seconds)
                used.append((cpu_seconds(pid) - first) / (time.monotonic() - at))

            run = together(report, f"{number} equal", tenants, True, seconds, watch)
            index, other = (jain([side.got(i) for i in range(number)]) for side in (run, native))
            report.row("fairness", f"Jain, {number} equal", index >= JAIN, f"{index:.5f} (native {other:.5f})  {percent(run.shares())}",
                       jain=index, native_jain=other, shares=run.shares())
            report.row("delivered", f"{number} equal", run.total() >= DELIVERED * alone,
                       f"{100 * run.total() / alone:.2f} % of one native process (native together {100 * native.total() / alone:.2f} %)",
                       of_alone=run.total() / alone, native_of_alone=native.total() / alone)
            report.row("daemon", f"processor time, {number} slices", used[0] <= DAEMON_CORE if number == 8 else None, f"{100 * used[0]:.2f} % of a core", core=used[0])

        report.attempt("fairness", f"{number} equal", one)


def lending(report):
    """Work conservation, and how soon an idle share is lent and given back."""
    needs_compute()
    alone = alone_native(report)
    idle = [Tenant(phases="1,100000", share=25) for _ in range(3)]
    run = together(report, "one active of four", [Tenant(share=25), *idle], True)
    report.row("lending", "one active of four", run.got(0) >= ALONE * alone, f"{100 * run.got(0) / alone:.2f} % of native", of_alone=run.got(0) / alone)
    run = together(report, "comes and goes", [Tenant(share=50), Tenant(share=50, phases="150,150")], True, 2 * report.options.seconds)
    reached, returned = [], []
    for on, off in run.results[1]["phases_ms"]:
        if on < 0 or off + 60 > run.seconds * 1e3:
            continue
        # The other's rate is full from the first ms on after which it has 95 % of the next 5 ms.
        reached.append(next((ms for ms in range(100) if run.between(0, off + ms, off + ms + 5) >= 0.95 * alone), 100))
        returned.append(next((ms for ms in range(100) if run.between(1, on + ms, on + ms + 1) > 0), 100))
    expect(reached, "no phase was seen to its end: --seconds is too short")
    for name, values in (("idle share reaches the active one", reached), ("and returns", returned)):
        middle, worst = statistics.median(values), max(values)
        report.row("lending", name, worst < LEND_MS, f"median {middle:.0f}, worst {worst:.0f} ms of {len(values)}", median_ms=middle, worst_ms=worst)


def tails(report):
    """Requests of 1 ms every 10 ms, of high priority, beside a tenant that takes all it can get."""
    needs_compute()
    seconds = 2 * report.options.seconds
    serve = Tenant("serve", share=50, priority=PRODUCTION)
    native_alone = together(report, "serve alone", [serve], False, seconds).results[0]
    alone = together(report, "serve alone", [serve], True, seconds).results[0]
    report.row("tails", "serve alone", None, f"p50 {native_alone['p50_ms']:.2f} p99 {native_alone['p99_ms']:.2f} ms natively, {alone['p50_ms']:.2f} {alone['p99_ms']:.2f} in a slice",
               native_p99_ms=native_alone["p99_ms"], p99_ms=alone["p99_ms"])
    for length in (50, 200, 1000, 5000):
        def one():
            tenants = [serve, Tenant(lengths=(length,), share=50, priority=EXPERIMENT)]
            native = together(report, f"serve beside {length}", tenants, False, seconds)
            run = together(report, f"serve beside {length}", tenants, True, seconds)
            ours, theirs = run.results[0], native.results[0]
            ratio = ours["p99_ms"] / native_alone["p99_ms"]
            left = run.got(1) / (1 - run.got(0))
            ok = ratio <= TAIL[length] and left >= LEFT if length in TAIL else ours["p99_ms"] <= NOT_WORSE * theirs["p99_ms"]
            report.row("tails", f"beside {length / 1000:g} ms kernels", ok,
                       f"p50 {ours['p50_ms']:.2f} p95 {ours['p95_ms']:.2f} p99 {ours['p99_ms']:.2f} ms = {ratio:.2f} x alone, neighbour {100 * left:.1f} % of what is left"
                       f"  (native p99 {theirs['p99_ms']:.2f} ms, {theirs['p99_ms'] / native_alone['p99_ms']:.2f} x, neighbour {100 * native.got(1) / (1 - native.got(0)):.1f} %)",
                       p99_ms=ours["p99_ms"], ratio=ratio, left=left, native_p99_ms=theirs["p99_ms"], native_burn=native.got(1))

        report.attempt("tails", f"beside {length} us", one)


def noise(report):
    """A neighbour on an equal strict slice, whatever it does, takes nothing from a strict slice."""
    needs_compute()
    equal = {"share": 50, "policy": STRICT}
    victim = Tenant(**equal)
    quiet = together(report, "noise alone", [victim], True).got(0)
    native_quiet = alone_native(report)
    for name, neighbour in {
        "GEMM-like": Tenant(lengths=(2000,), **equal), "copies": Tenant("copy", **equal),
        "launch storm": Tenant("storm", **equal), "allocation storm": Tenant("alloc", **equal),
    }.items():

        def one():
            native = together(report, "noise: " + name, [victim, neighbour], False)
            run = together(report, "noise: " + name, [victim, neighbour], True)
            loss = 1 - run.got(0) / quiet
            report.row("noise", name, loss <= NOISE, f"loses {100 * loss:+.2f} % of {100 * quiet:.1f} % (native loses {100 * (1 - native.got(0) / native_quiet):+.1f} %)",
                       loss=loss, native_loss=1 - native.got(0) / native_quiet)

        report.attempt("noise", name, one)


def at(began, seconds):
    time.sleep(max(0, began + seconds - time.monotonic()))


def control(report):
    """How soon pause, resume and a changed share are effective, from the start of the command on."""
    needs_compute()
    seconds = max(2.4, report.options.seconds)

    def pause():
        times = []

        def meanwhile(slices, _held, began):
            for when, command in ((0.6, PAUSE), (1.4, RESUME)):
                at(began, when)
                times.append(time.monotonic())
                cleave(*command, slices[0].name)

        run = together(report, "pause", [Tenant(share=50), Tenant(share=50)], True, seconds, meanwhile)
        paused, resumed = map(run.ms, times)
        series = run.results[0]["per_ms"]
        stop = max((ms for ms in range(int(paused), int(resumed)) if series[ms] > 0), default=paused) - paused
        begin = next((ms for ms in range(int(resumed), len(series)) if series[ms] > 0), resumed + 10000) - resumed
        report.row("control", "pause", stop < CONTROL_MS, f"last work after {stop:.0f} ms", ms=stop)
        report.row("control", "resume", begin < CONTROL_MS, f"first work after {begin:.0f} ms", ms=begin)

    def resize():
        times = []

        def meanwhile(slices, _held, began):
            at(began, 0.8)
            times.append(time.monotonic())
            cleave(*RESIZE, slices[0].name, "--" + SHARE, "20%")

        run = together(report, "change of share", [Tenant(share=50), Tenant(share=50)], True, seconds, meanwhile)
        changed = run.ms(times[0])
        target = 100 * 20 / 70

        def share(ms):
            mine, other = (run.between(number, changed + ms, changed + ms + 200) for number in (0, 1))
            return 100 * mine / max(1e-9, mine + other)

        ms = next((ms for ms in range(0, 1000, 5) if abs(share(ms) - target) <= TENTH), 1000)
        report.row("control", "share 50 to 20 beside 50", ms < CONTROL_MS, f"{share(CONTROL_MS):.1f} % of a wanted {target:.1f} % in the 200 ms after {CONTROL_MS} ms; there after {ms} ms", ms=ms)

    report.attempt("control", "pause", pause)
    report.attempt("control", "change of share", resize)


def kill(report):
    """A tenant that is killed takes nothing with it."""
    needs_compute()
    alone = alone_native(report)
    times = []

    def meanwhile(_slices, held, began):
        at(began, report.options.seconds / 2)
        times.append(time.monotonic())
        held[1].kill()
        held[1].killed = True

    tenants = [Tenant(share=50), Tenant(share=50, lengths=(2000,))]

    def parts(run):
        killed, end = run.ms(times[-1]), run.seconds * 1e3
        low = min(run.between(0, ms, ms + 100) for ms in range(int(killed), int(end) - 100, 10))
        return run.between(0, 0, killed), low, run.between(0, killed + 100, end)

    _, native_low, _ = parts(together(report, "kill", tenants, False, None, meanwhile))
    before, low, after = parts(together(report, "kill", tenants, True, None, meanwhile))
    report.row("kill", "the neighbour loses nothing", low >= before - TENTH / 100 and after >= ALONE * alone,
               f"{100 * before:.1f} % before, never below {100 * low:.1f} % in 100 ms after (native {100 * native_low:.1f} %), then {100 * after / alone:.1f} % of native",
               before=before, lowest=low, native_lowest=native_low, after=after)


def arguments(parser):
    parser.add_argument("--seconds", type=float, default=3, help="measured time of each case")
    parser.add_argument("--quick", dest="seconds", action="store_const", const=1.5, help="as --seconds 1.5")


if __name__ == "__main__":
    parts = {"overhead": overhead, "alone": alone_native, "strict": strict, "shares": shares, "fairness": fairness, "tails": tails, "lending": lending,
             "noise": noise, "control": control, "kill": kill}
    limits = {"overhead": 60, "alone": 30, "strict": 40, "shares": 150, "fairness": 90, "tails": 140, "lending": 60, "noise": 90, "control": 60, "kill": 40}
    report = Report("compute share benchmarks", parts, limits, arguments)
    for part in limits:
        limits[part] = int(limits[part] * max(1, report.options.seconds / 3))
    try:
        status = report.main()
    finally:
        if _calibrator:
            _calibrator.kill()
    raise SystemExit(status)
