"""What the parts of the benchmarks share; everything that is not about measuring comes from tests/gpu/harness.py."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/gpu"))

from harness import GIB, MIB, build, expect, nvml, run_program  # noqa: E402


def memory_flag(text):
    """Quotas that fit the card that is there: a part of it where it is smaller than an H100."""
    total = nvml().memory().total
    wanted = int(text.removesuffix("GiB")) * GIB
    return text if wanted < total * 0.9 else f"{int(total * 0.5) // MIB}MiB"


def small_quota():
    return "10GiB" if nvml().memory().total > 12 * GIB else "25%"


def program_of_calls():
    return build(HERE / "cuda_calls.c")


def collect(command, timeout=60, env=None):
    """The JSON lines that a program prints until it ends."""
    code, out, err = run_program(command, timeout, env)
    expect(code == 0, f"{command[0]} ended with {code}: {err.strip()[-300:]}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def named(held, name, timeout=60):
    """The next line of a program that has this name."""
    while True:
        line = held.line(timeout)
        if line["name"] == name:
            return line


def spread(values):
    return max(values) - min(values)
