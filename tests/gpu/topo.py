#!/usr/bin/env python3
"""Compares `cleave topo` with `nvidia-smi topo -m`, and `cleave gpus` with nvidia-smi's queries, on this machine.

usage: tests/gpu/topo.py [CLEAVE]      (the binary, also by the variable CLEAVE; no daemon is needed, and nothing is changed)
Prints what differs and how long both commands take; exits with 0 only if nothing differs.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time

CLEAVE = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CLEAVE", "target/release/cleave"))
RUN_DIR = tempfile.mkdtemp(prefix="cleave-topo")
FAULTS = []


def out(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    if done.stderr.strip():
        print(f"stderr of {' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout


def cleave(*arguments):
    return out(CLEAVE, "--run-dir", RUN_DIR, *arguments)


def check(what, found, wanted):
    same = found == wanted
    print(f"{'same  ' if same else 'DIFFER'}  {what}: {found!r}" + ("" if same else f", nvidia-smi has {wanted!r}"))
    if not same:
        FAULTS.append(what)


def plain(text):
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).strip("\n").splitlines()]


def compare_matrix():
    theirs, ours = out("nvidia-smi", "topo", "-m"), cleave("topo")
    print(theirs)
    theirs, ours = plain(theirs), plain(ours)
    for number in range(max(len(theirs), len(ours))):
        one, other = (lines[number] if number < len(lines) else None for lines in (ours, theirs))
        if one != other:
            check(f"line {number + 1} of the matrix", one, other)
    print(f"{len(theirs)} lines compared")
    # Their text, read and printed by us.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(theirs) + "\n")
        file.flush()
        check("their matrix, imported", plain(cleave("topo", "--import", file.name)), theirs)


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def compare_devices():
    fields = {
        "name": lambda d: d["name"],
        "uuid": lambda d: d["uuid"],
        "memory.total": lambda d: float(d["memory_total_bytes"] >> 20),
        "clocks.max.sm": lambda d: float(d["clock_max_mhz"]),
        "clocks.max.mem": lambda d: float(d["memory_clock_max_mhz"]),
        "enforced.power.limit": lambda d: d["power_limit_watts"],
        "power.min_limit": lambda d: d["power_limit_min_watts"],
        "power.max_limit": lambda d: d["power_limit_max_watts"],
        "pcie.link.gen.max": lambda d: float(d["pcie"]["generation_max"]),
        "pcie.link.width.max": lambda d: float(d["pcie"]["lanes_max"]),
        "pcie.link.width.current": lambda d: float(d["pcie"]["lanes"]),
        "ecc.mode.current": lambda d: {True: "Enabled", False: "Disabled", None: "[N/A]"}[d["ecc"]],
        "mig.mode.current": lambda d: {True: "Enabled", False: "Disabled"}[d["mig"]["enabled"]] if d["mig"] else "[N/A]",
        "compute_cap": lambda d: d["compute_capability"],
        "driver_version": lambda d: gpus["nvidia_driver"],
    }
    gpus = json.loads(cleave("gpus", "-o", "json"))
    query = out("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    devices = [d for d in gpus["items"] if d["vendor"] == "nvidia"]
    rows = [[cell.strip() for cell in line.split(",")] for line in query.strip().splitlines()]
    check("number of GPUs", len(devices), len(rows))
    for device, row in zip(devices, rows):
        for (field, ours), theirs in zip(fields.items(), row):
            if field not in ("compute_cap", "driver_version") and number(theirs) is not None:
                theirs = number(theirs)
            check(f"{device['label']} {field}", ours(device), theirs)
        bus = out("nvidia-smi", "-i", device["uuid"], "--query-gpu=pci.bus_id", "--format=csv,noheader").strip()
        check(f"{device['label']} PCI address", device["pci"], bus.lower()[4:])
        here = f"/sys/bus/pci/devices/{device['pci']}"
        if os.path.exists(f"{here}/numa_node"):
            node = int(open(f"{here}/numa_node").read())
            print(f"        {device['label']}: sysfs says node {node}, cleave {device['numa_node']}")
    print(f"problems: {gpus['problems']}")
    print(f"models in the device table: {[d['model'] for d in devices]}; multiprocessors {[d['units'] for d in devices]}")
    print(f"NUMA: {gpus['numa']}\nNICs: {[(n['label'], n['name'], n['pci']) for n in gpus['nics']]}")
    for device in devices:
        check(f"{device['label']} is in the device table", device["model"] is not None, True)
        profiles = {p["name"]: (p["starts"], p["size"]) for p in (device["mig"] or {"profiles": []})["profiles"]}
        print(f"        {device['label']} MIG profiles: {profiles}")


def clock():
    """The whole command, driver initialisation included; nvidia-smi's listing beside it, which has that too."""
    for name, command in [
        ("nvidia-smi -L", ["nvidia-smi", "-L"]),
        ("cleave gpus", [CLEAVE, "--run-dir", RUN_DIR, "gpus"]),
        ("cleave topo", [CLEAVE, "--run-dir", RUN_DIR, "topo"]),
    ]:
        times = []
        for _ in range(5):
            start = time.monotonic()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.monotonic() - start)
        print(f"{name}: {min(times) * 1e3:.0f} ms at best, {sorted(times)[2] * 1e3:.0f} ms in the middle of 5")


INIT = """import ctypes, time
begun = time.perf_counter()
nvml = ctypes.CDLL("libnvidia-ml.so.1")
nvml.nvmlInit_v2()
count = ctypes.c_uint()
nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
for index in range(count.value):
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(ctypes.c_void_p()))
print((time.perf_counter() - begun) * 1e3)"""


def driver_init():
    """What any program takes before NVML answers its first question about the GPUs."""
    times = sorted(float(out(sys.executable, "-c", INIT)) for _ in range(5))
    print(f"NVML's init and handles: {times[2]:.0f} ms in the middle of 5; what both commands take beyond that is theirs")


compare_matrix()
compare_devices()
for arguments in (["topo", "--numa"], ["topo", "--best", "1"]):
    print(cleave(*arguments))
clock()
driver_init()
print(f"{len(FAULTS)} differences: {FAULTS}" if FAULTS else "ok: nothing differs")
sys.exit(bool(FAULTS))
