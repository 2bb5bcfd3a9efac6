#!/usr/bin/env python3
"""Benchmark of NCCL between two GPUs: all-reduces of two ranks natively, in one slice with both GPUs, in two slices with a GPU each, and in
two strict ones, in turns in one run; then with a tenant that saturates one of the GPUs.
"""

import ctypes
import importlib.util
import os
import socket
import statistics
import sys
import time
from contextlib import ExitStack

from common import HERE, named
from tenants import MODE, SHARE, STRICT, Figure, Tenant, calibrate, needs, stop_calibrator

import harness
from harness import Failure, Held, Report, Skip, Slice, expect, nvml

# No part of this needs NVLink's multicast, which not every machine lets its guests use.
SETTINGS = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
SIZES = (1, 4, 16, 64, 256, 1024)
CONTENDED = (16, 256)
RATIO = 0.97
BOUND_S = 60  # for a line of sizes; a reduction that hangs takes longer
MEMORY = "8GiB"
LENT, HALF = 15, 50  # percent of a GPU: of each slice but the strict ones, and the burn's, and of a strict one; all are there at once
RANKS = HERE / "torch_allreduce.py"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def rank(number, local, port, wrap=list):
    env = os.environ | {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return Held(wrap([sys.executable, RANKS]), env)


def natively(stack):
    port = free_port()
    return [stack.enter_context(rank(number, number, port)) for number in (0, 1)]


def one_slice(stack):
    own = stack.enter_context(Slice(MEMORY, gpu="0,1", **{SHARE: f"{LENT}%"}))
    return [stack.enter_context(Held(own.command(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), RANKS)))]


def two_slices(stack, **flags):
    """Each rank sees one GPU, its first."""
    port, slices = free_port(), [stack.enter_context(Slice(MEMORY, gpu=number, **{SHARE: f"{LENT}%", **flags})) for number in (0, 1)]
    return [stack.enter_context(rank(number, 0, port, lambda command, own=own: own.command(*command))) for number, own in enumerate(slices)]


def two_strict(stack):
    """Collectives are never held back, by a strict slice neither."""
    return two_slices(stack, **{SHARE: f"{HALF}%", MODE: STRICT})


SIDES = {"native": natively, "one slice": one_slice, "two slices": two_slices, "two strict slices": two_strict}


def reduce(held, sizes):
    """GB/s by size."""
    held.send(",".join(map(str, sizes)))
    end, found = time.monotonic() + BOUND_S, {}
    for _ in sizes:
        line = named(held, "reduced", max(1, end - time.monotonic()))
        found[line["mib"]] = line["gbps"]
    return found


def all_reduce(report):
    needs(SHARE, MODE)
    count = ctypes.c_uint()
    nvml()._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
    if count.value < 2:
        raise Skip(f"{count.value} GPU; two are needed")
    if not importlib.util.find_spec("torch"):
        raise Skip("there is no PyTorch")
    with ExitStack() as stack:
        held = {}
        for side, start in SIDES.items():
            # Ranks that were started and fail are ended with the rest.
            report.attempt("nccl", f"{side}: start", lambda: held.update({side: start(stack)}))
        for side in list(held):
            try:
                named(held[side][0], "ready", 90)
            except Failure as problem:
                report.row("nccl", f"{side}: start", False, f"{problem}; {held[side][-1].stderr()[-200:]}")
                for one in held.pop(side):
                    one.kill()
        expect("native" in held, "there is nothing to compare with")

        def stuck(side, name, problem):
            report.row("nccl", f"{side}: {name}", False, f"not done within {BOUND_S} s: {problem}")
            for one in held.pop(side):
                one.kill()

        def rounds(name, sizes, number):
            found = {}
            for round_ in range(number):
                for side in list(held) if round_ % 2 == 0 else list(held)[::-1]:
                    try:
                        for mib, gbps in reduce(held[side][0], sizes).items():
                            found.setdefault(mib, {}).setdefault(side, []).append(gbps)
                    except Failure as problem:
                        stuck(side, name, problem)
            report.data[name] = found
            return found

        for mib, sides in rounds("alone", SIZES, report.options.rounds).items():
            base = statistics.median(sides["native"])
            for side, values in sides.items():
                ratio = Figure(100 * value / base for value in values)
                judged = {} if side == "native" else {"target": f"≥ {100 * RATIO:g} % of native"}
                report.row("nccl", f"{side}, {mib} MiB", ratio.median >= 100 * RATIO if judged else None,
                           f"{Figure(values):.1f} GB/s" + (f", {ratio:.2f} % of native" if judged else ""), gbps=values, **judged)

        calibrate()
        burn = Tenant(lengths=(2000,), share=LENT)
        for where in ("native", "slices"):
            with ExitStack() as beside:
                wrap = beside.enter_context(burn.slice()).command if where == "slices" else lambda *command: command
                one = beside.enter_context(Held(wrap(*burn.command())))
                beside.callback(one.kill)
                named(one, "ready")
                one.send(f"{time.monotonic_ns()} {BOUND_S * 10} 0")
                away = {side: held.pop(side) for side in list(held) if (side == "native") != (where == "native")}
                began = time.monotonic()
                for mib, sides in rounds(f"beside a burn, {where}", CONTENDED, 1).items():
                    for side, values in sides.items():
                        report.row("nccl", f"{side}, {mib} MiB, beside a burn", True, f"done, {values[0]:.1f} GB/s; all within {time.monotonic() - began:.1f} s", target="no deadlock",
                                   gbps=values)
                held.update(away)


def without_the_rule(report):
    """A28: what it is for that collectives are never held back: two strict slices beside burns on both GPUs, with the rule and without."""
    needs(SHARE, MODE)
    calibrate()
    found = {}
    for rule, ignored in (("with", ""), ("without", "collective")):
        with harness.daemon_with(report, **{"CLEAVE_IGNORE_CLASSES": ignored} if ignored else {}), ExitStack() as stack:
            held = two_slices(stack, **{SHARE: "50%", MODE: STRICT})
            named(held[0], "ready", 90)
            for number in (0, 1):
                own = stack.enter_context(Slice(MEMORY, gpu=number, **{SHARE: "50%", MODE: STRICT}))
                one = stack.enter_context(Held(own.command(*Tenant(lengths=(2000,)).command())))
                stack.callback(one.kill)
                named(one, "ready")
                one.send(f"{time.monotonic_ns()} {BOUND_S * 4} 0")
            try:
                every = [reduce(held[0], CONTENDED) for _ in range(report.options.rounds)]
                found[rule] = {mib: Figure(one[mib] for one in every) for mib in CONTENDED}
            except Failure as problem:
                found[rule] = {mib: Figure([0]) for mib in CONTENDED}
                report.row("A28", f"{rule} the rule", False if rule == "with" else None, f"not done within {BOUND_S} s: {problem}")
                for one in held:
                    one.kill()
    for mib in CONTENDED:
        with_, without = (found[rule][mib] for rule in ("with", "without"))
        report.row("A28", f"two strict slices, {mib} MiB, burns on both GPUs", with_.median >= without.median, f"{with_:.1f} GB/s, {without:.1f} where collectives are held back as others", target="no worse than without",
                   gbps=with_.median, without_gbps=without.median)


def arguments(parser):
    parser.add_argument("--rounds", type=int, default=3, help="how often each size is measured on each side")
    parser.set_defaults(budget=340.0)


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    report = Report("NCCL benchmark", {"nccl": all_reduce, "A28": without_the_rule}, {"nccl": 190, "A28": 150}, arguments)
    try:
        status = report.main()
    finally:
        stop_calibrator()
    raise SystemExit(status)
