#!/usr/bin/env python3
"""Compares what `cleave mig` reads of this machine's GPUs with nvidia-smi, and sees that plans and dry runs change nothing.

usage: tests/gpu/mig.py CLEAVE         (the binary; a daemon of its own is started. MIG mode is never changed)
Prints what differs; exits with 0 only if nothing does. GPUs without MIG are passed over.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time

CLEAVE = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/debug/cleave")
DIR = tempfile.mkdtemp(prefix="cleave-mig")
FAULTS = []


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def cleave(*arguments):
    return run(CLEAVE, "--run-dir", os.path.join(DIR, "run"), *arguments)


def check(what, found, wanted):
    print(f"{'same  ' if found == wanted else 'DIFFER'}  {what}: {found!r}" + ("" if found == wanted else f", not {wanted!r}"))
    if found != wanted:
        FAULTS.append(what)


def modes():
    return run("nvidia-smi", "--query-gpu=mig.mode.current,mig.mode.pending", "--format=csv,noheader").stdout


def profiles():
    """GPU, name -> id, most, GiB, multiprocessors; and GPU, id -> starts, size: as nvidia-smi prints them."""
    row = re.compile(r"\|\s+(\d+)\s+MIG (\S+)\s+(\d+)\s+\d+/(\d+)\s+([\d.]+)\s+\S+\s+(\d+)")
    found = {(int(m[1]), m[2]): (int(m[3]), int(m[4]), m[5], int(m[6])) for m in row.finditer(run("nvidia-smi", "mig", "-lgip").stdout)}
    row = re.compile(r"GPU\s+(\d+)\s+Profile ID\s+(\d+)\s+Placements?\s*:\s*\{?([\d,]+)\}?:(\d+)")
    text = run("nvidia-smi", "mig", "-lgipp").stdout
    places = {(int(m[1]), int(m[2])): ([int(n) for n in m[3].split(",")], int(m[4])) for m in row.finditer(text)}
    return found, places


def main():
    before = modes()
    daemon = subprocess.Popen(
        [CLEAVE, "--run-dir", os.path.join(DIR, "run"), "daemon", "--state-dir", os.path.join(DIR, "state")],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while cleave("status").returncode != 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        started = time.monotonic()
        listed = cleave("-o", "json", "mig", "list")
        print(f"cleave mig list: {(time.monotonic() - started) * 1000:.0f} ms")
        check("exit code of mig list", listed.returncode, 0)
        found, places = profiles()
        gpus = [gpu for gpu in json.loads(listed.stdout)["items"] if gpu["profiles"]]
        print(f"{len(gpus)} GPUs with MIG")
        for gpu in gpus:
            for p in gpu["profiles"]:
                key = (gpu["gpu"], p["name"])
                ours = (p["id"], p["instances"], f"{p['memory_mib'] / 1024:.2f}", p["multiprocessors"])
                check(f"GPU {key[0]} {key[1]}", ours, found.pop(key, None))
                check(f"GPU {key[0]} {key[1]} placements", (p["starts"], p["size"]), places.pop((key[0], p["id"]), None))
        check("profiles that nvidia-smi has besides", sorted(found), [])
        for gpu in gpus[:1]:
            names = {p["name"].split(".")[0]: p["name"] for p in gpu["profiles"] if "+" not in p["name"]}
            plan = cleave("mig", "plan", "--profiles", f"{names['3g']},{names['2g']}", "--gpu", str(gpu["gpu"]))
            print(plan.stdout + plan.stderr)
            check("exit code of a plan", plan.returncode, 0)
            if gpu["enabled"] or gpu["instances"]:
                continue
            layout = os.path.join(DIR, "balanced.yaml")
            with open(layout, "w") as file:
                file.write(f"version: v1\nmig-configs:\n  balanced:\n  - devices: [{gpu['gpu']}]\n    mig-enabled: true\n")
                file.write(f"    mig-devices: {{\"{names['3g']}\": 1, \"{names['2g']}\": 1}}\n")
            check("exit code of assert", cleave("mig", "assert", "-f", layout).returncode, 1)
            dry = cleave("mig", "apply", "-f", layout, "--dry-run")
            print(dry.stdout + dry.stderr)
            # A GPU that others use has its users named instead.
            check("a dry run is answered", dry.returncode in (0, 5), True)
            refused = cleave("slice", "create", "--engine", "mig", "--gpu", str(gpu["gpu"]), "--memory", "8GiB", "--dry-run")
            check("a slice is refused with the reason", (refused.returncode, "MIG mode is off" in refused.stderr), (3, True))
    finally:
        cleave("shutdown")
        daemon.wait(timeout=20)
    check("MIG modes afterwards", modes(), before)
    print("all is as nvidia-smi says" if not FAULTS else f"{len(FAULTS)} differ: {', '.join(FAULTS)}")
    return 1 if FAULTS else 0


sys.exit(main())
