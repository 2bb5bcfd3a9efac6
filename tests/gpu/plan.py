#!/usr/bin/env python3
"""A plan carried out: the slices of a file of workloads are made on this machine, hold what the file says, and follow when the file is changed; a plan that does not fit makes none."""

import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from common import named  # noqa: E402
from harness import CLEAVE, Held, Report, build, cleave, cleave_json, mib, wait_until  # noqa: E402

# What it puts in: the GiB of one workload.
FILE = """workloads:
  - {{ name: plan-chat, count: 2, model: llama-3-8b, context: 4096, concurrency: 2, compute: 30, engine: temporal }}
  - {{ name: plan-batch, memory: {}GiB, compute: 20, engine: temporal }}
"""


def plan(gib, *options, check=True):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(FILE.format(gib))
        file.flush()
        done = cleave("plan", file.name, *options, check=check)
    print((done.stdout + done.stderr).rstrip(), flush=True)
    return done


def ours():
    slices = (one for one in cleave_json("slice", "list") if one["name"].startswith("plan-"))
    return {one["name"]: one["devices"][0] for one in slices}


def quotas():
    return ", ".join(f"{name} {mib(device['limit_bytes'])} MiB" for name, device in sorted(ours().items()))


def carried_out(report):
    try:
        plan(10, "--explain")
        plan(10, "--apply")
        names = ["plan-batch", "plan-chat-1", "plan-chat-2"]
        report.row("plan", "the file's slices are there", sorted(ours()) == names, quotas())
        again = plan(10, "--apply")
        report.row("plan", "the same again changes nothing", again.stdout.count("is as it shall be") == 3, quotas())
        for name in names:
            with Held([CLEAVE, "exec", name, "--", build(BENCH / "cuda_calls.c"), "usable", "256", "2"]) as one:
                named(one, "ready")
                one.send("go")
                named(one, "usable")
                device = ours()[name]
                used, limit = device["used_bytes"], device["limit_bytes"]
            report.row("plan", f"{name} can be filled", limit - (2 << 20) < used <= limit, f"{mib(used)} of {mib(limit)} MiB", used=used, limit=limit)
        before = quotas()
        refused = plan(2000, "--apply", check=False)
        report.row("plan", "what does not fit changes nothing", refused.returncode != 0 and quotas() == before, refused.stderr.strip().splitlines()[0])
        wait_until(lambda: ours()["plan-batch"]["used_bytes"] == 0, 5)
        plan(4, "--apply")
        found = ours()["plan-batch"]["limit_bytes"]
        report.row("plan", "a changed file changes its slice", found == 4 << 30 and sorted(ours()) == names, quotas())
    finally:
        for name in ours():
            cleave("slice", "delete", name, "--force", check=False)


if __name__ == "__main__":
    raise SystemExit(Report("a plan carried out", {"plan": carried_out}).main())
