"""Tenants of a GPU that work at the same time: natively, each in a slice of its own, or under another product, and what each of them got.

A tenant is `tenant.c`, with plain driver calls; in a slice it is the same program behind `cleave exec`. What counts is device time of
kernels that are done, from the time on when all tenants of a case run.
"""

import ctypes
import glob
import itertools
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager

from common import HERE, named

from harness import Held, Skip, Slice, build, has_flag

# cleave's options for compute, in one place: flags of `cleave slice create`.
SHARE, MODE, PRIORITY, ENGINE, DOMAIN = "compute", "mode", "priority", "engine", "trust-domain"
STRICT, ADAPTIVE, NONE = "strict", "adaptive", "none"
PRODUCTION, EXPERIMENT = "production", "experiment"
TEMPORAL, SPATIAL = "temporal", "spatial"
MEMORY = "2GiB"
OUR_DOMAIN = "bench"

WARM = 0.5


def needs(*flags):
    for flag in flags:
        if not has_flag("slice create", "--" + flag):
            raise Skip(f"slice create has no --{flag}")


def engine_flags(engine):
    """The flags that pin an engine; temporal needs none while there is no other."""
    if engine == SPATIAL:
        return {ENGINE: SPATIAL, DOMAIN: OUR_DOMAIN}
    return {ENGINE: TEMPORAL} if has_flag("slice create", "--" + ENGINE) else {}


class Tenant:
    """One tenant of a case: what it does, and, for the side in slices, what slice it gets."""

    def __init__(self, mode="saturate", lengths=(200,), share=None, priority=None, policy=None, engine=TEMPORAL, memory=MEMORY, culprit=False, learn=False, **options):
        """`lengths` in us; `share` in percent; a `culprit` has no result, and is killed when the others are done; with `learn` it has
        run in its slice once before, so that the daemon knows how long its kernels are; `options` are tenant.c's."""
        self.mode, self.lengths, self.share, self.priority, self.policy = mode, lengths, share, priority, policy
        self.engine, self.memory, self.culprit, self.learn, self.options = engine, memory, culprit, learn, options

    def command(self):
        program = build(HERE / "tenant.c")
        options = dict(self.options, lengths=",".join(map(str, self.lengths)), **calibration(self.options.get("shape", FULL)))
        return [program, self.mode, *(str(part) for key, value in options.items() for part in ("--" + key.replace("_", "-"), value))]

    def slice(self):
        flags = {SHARE: self.share and f"{self.share}%", MODE: self.policy, PRIORITY: self.priority, **engine_flags(self.engine)}
        return Slice(self.memory, **{flag: value for flag, value in flags.items() if value})


def gemm(**slice_):
    """A tenant that multiplies matrices of bfloat16 with cuBLAS, if there is one, else one with kernels of 2 ms; and what it is."""
    for pattern in [*(f"{folder}/nvidia/*/lib/libcublas.so.*" for folder in sys.path), "/usr/local/cuda*/lib64/libcublas.so.*"]:
        for library in sorted(glob.glob(pattern), reverse=True):
            try:
                ctypes.CDLL(library)
            except OSError:  # not for this machine, or without what it needs
                continue
            return Tenant("gemm", memory="4GiB", library=library, **slice_), "GEMM"
    return Tenant(lengths=(2000,), **slice_), "GEMM-like kernels"


# ---------------------------------------------------------------- sides: where a tenant runs

_containers = itertools.count(1)


@contextmanager
def native(tenant):
    yield None, tenant.command(), None


@contextmanager
def sliced(tenant):
    with tenant.slice() as own:
        if tenant.learn:
            with Held(own.command(*tenant.command())) as first:
                named(first, "ready")
                first.send(f"{int((time.monotonic() + 0.05) * 1e9)} 0.3 0.1")
                named(first, "done", 20)
        yield own, own.command(*tenant.command()), None


def under(way, cap):
    """A side of `peers`: its way to run a command, and the variable that has the tenant's share."""

    @contextmanager
    def side(tenant):
        command, env = way(*tenant.command())
        # HAMi-core keeps a tenant's limits in a file, which stands for a container.
        own = {key: f"{env[key]}-{next(_containers)}" for key in ("CUDA_DEVICE_MEMORY_SHARED_CACHE",) if key in env}
        yield None, command, env | {cap: str(tenant.share)} | own

    return side


# ---------------------------------------------------------------- how long a kernel is

# By the shape of its blocks (tenant.c's --shape): the process that measures it, what it found, and when.
_calibrators = {}
FULL = "full"


def calibration(shape=FULL):
    """What the kernel takes, as the last measurement found it."""
    return {key: _calibrators[shape][1][key] for key in ("iteration_ns", "base_ns")}


def processors():
    """Of the whole device."""
    return _calibrators[FULL][1]["processors"]


def calibrate(shape=FULL):
    """Measures the kernel, in a process outside every slice: again for each case, because clocks move."""
    process, _, at = _calibrators.get(shape, (None, None, 0))
    if process and time.monotonic() < at + 5:
        return
    if process is None or process.process.poll() is not None:
        process = Held([build(HERE / "tenant.c"), "calibrate", "--shape", shape])
    else:
        process.send("again")
    _calibrators[shape] = process, named(process, "calibrated"), time.monotonic()


def stop_calibrator():
    for process, _, _ in _calibrators.values():
        process.kill()


# ---------------------------------------------------------------- running them


class Run:
    """What a case gave: one result per tenant (None for one that has none), the part of the device that each of them saw, and when the
    measured time began."""

    def __init__(self, results, parts, seconds, began):
        self.results, self.parts, self.seconds, self.began = results, parts, seconds, began

    def got(self, number):
        """Seconds of what it saw of the device for each second."""
        return self.results[number]["delivered"] / self.seconds

    def device(self, number):
        """Seconds of the whole device for each second."""
        return self.got(number) * self.parts[number]

    def total(self):
        return sum(self.got(number) for number, result in enumerate(self.results) if result)

    def shares(self):
        return [100 * self.got(number) / self.total() for number in range(len(self.results))]

    def between(self, number, begin_ms, end_ms):
        """Seconds of the device per second, in a part of the measured time."""
        series = self.results[number]["per_ms"][max(0, int(begin_ms)) : int(end_ms)]
        return sum(series) / 1e6 / max(1, len(series))

    def gap(self, number, begin_ms):
        """The longest time in ms without any of its work, from then on."""
        longest = now = 0
        for work in self.results[number]["per_ms"][int(begin_ms) :]:
            now = 0 if work else now + 1
            longest = max(longest, now)
        return longest

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


def together(report, name, tenants, side=sliced, seconds=None, meanwhile=None):
    """Runs tenants at the same time on one side, and returns what they got.

    `meanwhile` is called with the slices, the tenants' processes and the beginning of the measured time."""
    seconds = seconds or report.options.seconds
    for shape in {FULL, *(tenant.options.get("shape", FULL) for tenant in tenants)}:
        calibrate(shape)
    with ExitStack() as stack:
        made = [stack.enter_context(side(tenant)) for tenant in tenants]
        held = [stack.enter_context(Held(command, env)) for _, command, env in made]
        for one, tenant in zip(held, tenants):  # what misbehaves is not waited for
            if tenant.culprit:
                stack.callback(one.kill)
        parts = [named(one, "ready")["processors"] / processors() for one in held]
        start = time.monotonic() + 0.05
        for one in held:
            one.send(f"{int(start * 1e9)} {seconds} {WARM}")
        began = start + WARM
        if meanwhile:
            meanwhile([own for own, _, _ in made], held, began)
        results = [None if tenant.culprit else named(one, "done", seconds + WARM + 20) for one, tenant in zip(held, tenants)]
        run = Run(results, parts, seconds, began)
    report.data.setdefault("runs", {}).setdefault(name, {}).setdefault(side.__name__, []).append({"calibration": calibration(), "parts": parts, "tenants": run.kept()})
    return run


def repeat(report, name, tenants, side=sliced, seconds=None, meanwhile=None):
    """The same several times, each time with new processes and slices."""
    return [together(report, name, tenants, side, seconds, meanwhile) for _ in range(report.options.runs)]


# ---------------------------------------------------------------- figures


class Figure:
    """The median of some runs, and how far they lie apart."""

    def __init__(self, values):
        self.values = list(values)
        self.median, self.low, self.high = statistics.median(self.values), min(self.values), max(self.values)

    def __format__(self, form):
        one = format(self.median, form)
        return one if len(self.values) == 1 else f"{one} ({self.low:{form}}..{self.high:{form}})"


def percent(values):
    return "/".join(f"{value:.1f}" for value in values)


def middle(lists):
    """The medians of several runs' values, one for each tenant."""
    return [statistics.median(values) for values in zip(*lists)]
