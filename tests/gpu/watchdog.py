#!/usr/bin/env python3
"""A kernel that never ends: its process is killed within 6 s by `--watchdog kill:5s`, and a neighbour goes on (A21)."""

import time
from pathlib import Path

from harness import Held, Report, Slice, build, cleave_json, wait_until

HERE = Path(__file__).resolve().parent


def count(held):
    """Kernels that the program has waited for."""
    held.send("?")
    return held.line()["count"]


def rate(held, seconds):
    """Its kernels a second."""
    first = count(held)
    time.sleep(seconds)
    return (count(held) - first) / seconds


def hang(report):
    program = build(HERE / "runaway.c")
    with Slice("8GiB", watchdog="warn:2s,kill:5s") as bad, Slice("8GiB") as good, Held(good.command(program, "work")) as neighbour:
        neighbour.line()
        alone = rate(neighbour, 2)
        with Held(bad.command(program, "hang")) as hung:
            pid = hung.line()["pid"]
            began = time.monotonic()
            beside = rate(neighbour, 2)
            ended = wait_until(lambda: hung.process.poll() is not None, 20)
            seconds = time.monotonic() - began
        report.row("hang", "killed within 6 s", bool(ended) and 4 < seconds < 6, f"after {seconds:.2f} s", seconds=seconds)
        events = [event for event in cleave_json("events") if event["slice"] == bad.name and event["kind"].startswith("watchdog-")]
        kinds = [event["kind"] for event in events]
        report.row("hang", "events", kinds == ["watchdog-warned", "watchdog-killed"] and f"pid {pid}" in events[-1]["message"], f"{kinds}: {events[-1:]}")
        gone = wait_until(lambda: not bad.show()["processes"] and bad.used() == 0, 4)
        report.row("hang", "its memory is free", bool(gone), f"charged {bad.used()} bytes")
        after = rate(neighbour, 2)
        report.row("hang", "the neighbour goes on", beside > 0 and after > 0.9 * alone,
                   f"{alone:.0f} kernels/s alone, {beside:.0f} beside the hung kernel, {after:.0f} after", alone=alone, beside=beside, after=after)


if __name__ == "__main__":
    raise SystemExit(Report("watchdog", {"hang": hang}, {"hang": 60}).main())
