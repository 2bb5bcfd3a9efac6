#!/usr/bin/env python3
"""What `cleave profile` measures, compared with NVML's own figures, read outside, and with what programs know of themselves."""

import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from harness import CLEAVE, GPU, Held, Report, Skip, Watcher, build, cleave_json, expect, mib, nvml, run_program, wait_until

HERE = Path(__file__).resolve().parent
# 4 GiB all the time and 2 GiB more for a second; then the GPU is at work half of the time, by its own events.
TORCH = """
import json, time, torch
torch.cuda.init()
held = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
more = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
time.sleep(1)
del more
torch.cuda.empty_cache()
a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
def burst(count):
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        a @ a
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1e3
burst(10)
began, busy, bursts = time.monotonic(), 0.0, 0
while time.monotonic() < began + 8:
    took = burst(20)
    busy, bursts = busy + took, bursts + 1
    time.sleep(took)
print(json.dumps({"busy": busy, "seconds": time.monotonic() - began, "launches": 10 + 20 * bursts,
                  "reserved": torch.cuda.max_memory_reserved()}), flush=True)
"""


# Copies that read and write known bytes, half of the time.
COPY = """
import json, time, torch
size = 1 << 30
one = torch.zeros(size, dtype=torch.uint8, device="cuda")
other = torch.empty_like(one)
other.copy_(one)
torch.cuda.synchronize()
began, moved = time.monotonic(), 0
while time.monotonic() < began + 8:
    start = time.monotonic()
    for _ in range(20):
        other.copy_(one)
    torch.cuda.synchronize()
    moved += 20 * 2 * size
    time.sleep(time.monotonic() - start)
print(json.dumps({"moved": moved, "seconds": time.monotonic() - began}), flush=True)
"""


class Workload:
    """What was written, and its plain values by their names."""

    def __init__(self, text):
        self.text = text
        self.values = dict(re.findall(r"^[ -]*(\w+): (\S.*)$", text, re.MULTILINE))

    def number(self, name):
        expect(name in self.values, f"there is no {name} in it")
        return float(self.values[name])


class Profiled(Held):
    """A program that is measured."""

    def __init__(self, *program):
        self.file = Path(tempfile.mkdtemp(prefix="cleave-profile-")) / "workload.yaml"
        super().__init__([CLEAVE, "profile", "--gpu", GPU, "--save", self.file, "--", *program])

    def workload(self):
        expect(self.file.exists(), f"nothing was written: {self.stderr()}")
        workload = Workload(self.file.read_text())
        print(workload.text.rstrip(), flush=True)
        return workload


def near(found, wanted, percent):
    return abs(found - wanted) * 100 <= wanted * percent


def peak(report, part, workload, seen):
    found = workload.number("memory_peak_bytes")
    report.row(part, "the peak is NVML's, to 1 %", near(found, seen, 1), f"{mib(found)} MiB, NVML had {mib(seen)} MiB at most", found=found, nvml=seen)


def plain(report):
    with Watcher(pause=0.01) as watcher, Profiled(build(HERE / "runaway.c"), "keep", 3000) as held:
        held.line(120)
        held.send("?")
        expect(held.line(120)["right"] == 1, "the data are wrong")
        time.sleep(1)  # for several readings
        code = held.close()
        report.row("plain", "it ends as its program", code == 0, f"exit code {code}")
        peak(report, "plain", held.workload(), watcher.peak)


def need_torch():
    code, _, error = run_program([sys.executable, "-c", "import torch"], 60)
    if code:
        raise Skip(f"no PyTorch: {error.strip()[-100:]}")


def torch(report):
    need_torch()
    with Watcher(pause=0.01) as watcher, Profiled(sys.executable, "-c", TORCH) as held:
        own = held.line(120)
        code = held.close()
        report.row("torch", "it ends as its program", code == 0, f"exit code {code}")
        workload = held.workload()
    peak(report, "torch", workload, watcher.peak)
    found = workload.number("memory_peak_bytes")
    points = [used for _, used in json.loads(workload.values["memory_over_time"])]
    later = min(used for used in points[points.index(max(points)) :] if used)
    report.row("torch", "the peak is not the end", found > own["reserved"] >= 6 << 30 and later < found - (1 << 30), f"PyTorch reserved {mib(own['reserved'])} MiB at most; {mib(later)} MiB were in use later")
    busy = workload.number("device_time_percent") * workload.number("seconds") / 100
    report.row("torch", "device time is the events', to 10 %", near(busy, own["busy"], 10), f"{busy:.2f} s, by events {own['busy']:.2f} s", found=busy, events=own["busy"])
    part, wanted = workload.number("device_time_p95_percent"), own["busy"] * 100 / own["seconds"]
    report.row("torch", "its part while at work, to 10 points", abs(part - wanted) <= 10, f"{part:.1f} %, by events {wanted:.1f} %", found=part, events=wanted)
    launches = workload.number("launches_per_second") * workload.number("seconds")
    report.row("torch", "no launch is missing", launches >= own["launches"], f"{launches:.0f}, its own loop made {own['launches']}")
    report.row("torch", "NVML's part of time", None, f"{workload.values.get('nvml_busy_percent', 'not known')} %")
    report.row("torch", "memory bandwidth of the products", None, f"{workload.values.get('bandwidth_p95_percent', 'not known')} %")


def bandwidth(report):
    need_torch()
    with Profiled(sys.executable, "-c", COPY) as held:
        own = held.line(120)
        code = held.close()
        report.row("bandwidth", "it ends as its program", code == 0, f"exit code {code}")
        workload = held.workload()
    said = held.stderr()
    if "the driver doesn't count it" in said:
        raise Skip(said.splitlines()[-1])
    most = nvml().memory_bandwidth()
    wanted = own["moved"] * 100 / own["seconds"] / most
    expect("bandwidth" in workload.values, said)
    found = workload.number("bandwidth_p95_percent")
    report.row("bandwidth", "it is what the copies move, to 5 points", abs(found - wanted) <= 5, f"{found:.1f} % of {most / 1e9:.0f} GB/s, {wanted:.1f} % by the bytes", found=found, bytes=wanted)
    asked = workload.number("bandwidth")
    report.row("bandwidth", "and asked for in whole percent", found <= asked < found + 1, f"{asked:.0f} %")


def beside(report):
    need_torch()
    other = [CLEAVE, "run", "--gpu", GPU, "--memory", "4GiB", "--", sys.executable, "-c", COPY]
    before = len(cleave_json("slice", "list"))
    with Held(other) as neighbour:
        # It has its slice before all that is left is taken.
        wait_until(lambda: len(cleave_json("slice", "list")) != before, 30)
        with Profiled(sys.executable, "-c", COPY) as held:
            neighbour.line(120)
            held.line(120)
            neighbour.close()
            held.close()
            workload = held.workload()
    left_out = "bandwidth" not in workload.values and "bandwidth is left out: other slices" in held.stderr()
    report.row("beside", "beside a slice at work it is left out", left_out, held.stderr().splitlines()[-1])


def interrupted(report):
    before = {slice["id"] for slice in cleave_json("slice", "list")}
    with Watcher(pause=0.01) as watcher, Profiled(build(HERE / "runaway.c"), "keep", 1000) as held:
        held.line(120)
        time.sleep(1)  # for several readings
        os.kill(held.process.pid, signal.SIGINT)
        code = held.process.wait(30)
        report.row("interrupted", "it ends by the signal", code == -signal.SIGINT, f"exit code {code}")
        workload = held.workload()
    report.row("interrupted", "and says so", workload.values.get("ended") == "interrupted", workload.values.get("ended", "-"))
    peak(report, "interrupted", workload, watcher.peak)
    after = {slice["id"] for slice in cleave_json("slice", "list")}
    report.row("interrupted", "no slice is left", after <= before, f"{len(after - before)} more than before")


if __name__ == "__main__":
    parts = {"plain": plain, "torch": torch, "bandwidth": bandwidth, "beside": beside, "interrupted": interrupted}
    raise SystemExit(Report("profile", parts, {"plain": 60, "torch": 120, "bandwidth": 90, "beside": 90, "interrupted": 60}).main())
