#!/usr/bin/env python3
"""Slices whose memory leaves the GPU and comes back, by the operator and by their own programs."""

import sys
import time
from pathlib import Path

from harness import MIB, Held, Report, Skip, Slice, build, cleave, expect, mib, nvml, run_program, wait_until

HERE = Path(__file__).resolve().parent
TORCH = """
import json, sys, torch
a = torch.randn(4096, 4096, device="cuda")
want = (a @ a).sum().item()
print(json.dumps({"ready": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"right": int((a @ a).sum().item() == want)}), flush=True)
"""


def timed(*arguments):
    began = time.monotonic()
    cleave(*arguments, timeout=120)
    return time.monotonic() - began


def ask(held):
    """Has the program use the GPU; whether its data are right, and how long that took."""
    began = time.monotonic()
    held.send("?")
    return held.line(120)["right"] == 1, time.monotonic() - began


def one(report, part, command, quota):
    with Slice(quota) as s, Held(s.command(*command)) as held:
        held.line(120)
        before = s.used()
        away = timed("suspend", s.name)
        pids = [process["pid"] for process in s.show()["processes"]]
        left = sum(nvml().processes().get(pid, 0) for pid in pids)
        report.row(part, "memory is off the card", left == 0, f"{mib(before)} before, {mib(left)} now, suspended in {away:.2f} s", seconds=away)
        back = timed("wake", s.name)
        right, _ = ask(held)
        report.row(part, "woken by the operator", right, f"in {back:.2f} s, results {'right' if right else 'wrong'}", seconds=back)
        timed("suspend", s.name)
        right, seconds = ask(held)
        report.row(part, "woken by its own launch", right and not s.show()["suspended"], f"answer after {seconds:.2f} s", seconds=seconds)


def plain(report):
    one(report, "plain", [build(HERE / "runaway.c"), "keep", 2048], "8GiB")


def torch(report):
    code, _, error = run_program([sys.executable, "-c", "import torch"], 60)
    if code:
        raise Skip(f"no PyTorch: {error.strip()[-100:]}")
    one(report, "torch", [sys.executable, "-c", TORCH], "8GiB")


def turns(report):
    """Two slices of three quarters of the card each."""
    program = build(HERE / "runaway.c")
    quota = f"{nvml().memory().total * 3 // 4 // MIB}MiB"
    with Slice(quota) as a, Slice(quota, oversubscribe=2) as b, Held(a.command(program, "keep", 4096)) as first:
        first.line(120)
        timed("suspend", a.name)
        with Held(b.command(program, "keep", 4096)) as second:
            second.line(120)
            refused = cleave("wake", a.name, check=False)
            report.row("turns", "no room is said", refused.returncode == 3 and b.name in refused.stderr, refused.stderr.strip()[:200])
            for number in range(2):
                for held, other in ((first, b), (second, a)):
                    away = timed("suspend", other.name)
                    right, seconds = ask(held)
                    expect(right, "the data are wrong")
                    report.row("turns", f"turn {number}", right, f"the other away in {away:.2f} s, answer after {seconds:.2f} s", seconds=seconds)


def themselves(report):
    """The same without a command: who is idle for a second makes room for who wants the GPU (A19)."""
    program = build(HERE / "runaway.c")
    quota = f"{nvml().memory().total * 3 // 4 // MIB}MiB"
    flags = {"oversubscribe": 2, "suspend_after": "1s"}
    with Slice(quota, **flags) as a, Slice(quota, **flags) as b, Held(a.command(program, "keep", 4096)) as first:
        first.line(120)
        gone = wait_until(lambda: a.show()["suspended"] and not sum(nvml().processes().values()), 30)
        report.row("themselves", "an idle slice leaves", bool(gone), f"{mib(sum(nvml().processes().values()))} MiB of the card in use then")
        with Held(b.command(program, "keep", 4096)) as second:
            second.line(120)
            seconds = []
            for _ in range(2):
                for held in (first, second):
                    right, took = ask(held)
                    expect(right, "the data are wrong")
                    seconds.append(took)
        report.row("themselves", "each in its turn", True, f"answers after {', '.join(f'{took:.1f}' for took in seconds)} s, all right", seconds=seconds)


if __name__ == "__main__":
    parts = {"plain": plain, "torch": torch, "turns": turns, "themselves": themselves}
    raise SystemExit(Report("suspend", parts, {"plain": 90, "torch": 120, "turns": 240, "themselves": 120}).main())
