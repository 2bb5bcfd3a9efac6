#!/usr/bin/env python3
"""Unmodified frameworks in a slice of 10 GiB. The programs are under programs/; they know nothing of cleave."""

import concurrent.futures
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from harness import CLEAVE, GIB, GPU, MIB, Failure, Held, Report, Skip, Slice, build, expect, run_program

HERE = Path(__file__).resolve().parent
QUOTA = 10 * GIB
PYTHON = os.environ.get("CLEAVE_TEST_PYTHON", sys.executable)
AT_ONCE = int(os.environ.get("CLEAVE_TEST_JOBS", "6"))


def needs(module):
    code, _, _ = run_program([PYTHON, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"], 60)
    if code:
        raise Skip(f"no module {module}")


class FailsInSlice(Failure):
    """A program that failed in its slice, and how to see whether it works outside."""

    def __init__(self, message, command, env):
        super().__init__(message)
        self.command, self.env = command, env


def tail(text):
    lines = [line for line in text.strip().splitlines() if line.strip(" ^~")]
    return " | ".join(lines[-3:])[-400:]


def inside(program, *arguments, env=None, timeout=100, quota=QUOTA, prefix=None):
    """Runs one of the programs in a slice of its own and returns its last line."""
    full = dict(os.environ, PYTHONUNBUFFERED="1", **(env or {}))
    with Slice(f"{quota // GIB}GiB") as s, tempfile.TemporaryDirectory() as folder:
        command = [*(prefix or [PYTHON]), HERE / "programs" / program, *arguments]
        code, out, err = run_program(s.command(*command), timeout, env=full, cwd=folder)
        if code:
            raise FailsInSlice(f"exit {code}: {tail(err or out)}", command, full)
        lines = out.strip().splitlines()
        expect(lines, "no output")
        return lines[-1]


def simple(program, *arguments, module="torch", **options):
    def check():
        needs(module)
        return inside(program, *arguments, **options)

    return check


def same(name, value, quota, tolerance=0):
    expect(abs(value - quota) <= tolerance, f"{name} says {value}, the quota is {quota}")


def sizes():
    needs("torch")
    answer = json.loads(inside("sizes.py"))
    same("mem_get_info", answer["total"], QUOTA)
    same("get_device_properties", answer["properties"], QUOTA)
    dropped = answer["free"] - answer["free_after"]
    expect(GIB <= dropped <= GIB + 64 * MIB, f"1 GiB more in use, {dropped} less free")
    return f"total {answer['total']}, free fell by {dropped // MIB} MiB for 1024"


def nvml_inside():
    needs("pynvml")
    answer = json.loads(inside("sizes.py"))
    expect("nvml_total" in answer, str(answer.get("nvml_missing")))
    same("nvmlDeviceGetMemoryInfo", answer["nvml_total"], QUOTA)
    same("nvmlDeviceGetMemoryInfo_v2", answer["nvml_total_v2"], QUOTA)
    expect(GIB < answer["nvml_used"] < QUOTA, f"used {answer['nvml_used']}")
    expect(list(answer["nvml_processes"]) == [str(answer["pid"])], f"processes {answer['nvml_processes']}, own {answer['pid']}")
    return f"total {answer['nvml_total'] // MIB}, used {answer['nvml_used'] // MIB} MiB, processes: its own alone"


def jax():
    needs("jax")
    line = inside("jax_test.py", timeout=150)
    pool = json.loads(line)["pool"]
    # 75 % of what the card reports as free when JAX starts, which the context has already lowered.
    expect(0.6 * QUOTA < pool <= 0.76 * QUOTA, f"its pool is {pool // MIB} MiB of {QUOTA // MIB}")
    return f"pool {pool // MIB} MiB, 75 % of the slice"


def numba():
    needs("numba")
    line = inside("numba_test.py")
    same("numba", int(line.split()[-1]), QUOTA)
    return line


def torchrun():
    needs("torch")
    return inside("ranks.py", prefix=[PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"])


def cleave_run():
    """The command of the README: a slice made for one program."""
    needs("torch")
    code, out, err = run_program(
        [CLEAVE, "run", "--gpu", GPU, "--memory", "10GiB", "--", PYTHON, "-c", "import torch; print(torch.cuda.mem_get_info()[1]); raise SystemExit(7)"], 100
    )
    expect(code == 7, f"exit {code}, expected the program's 7: {err.strip()[-300:]}")
    same("mem_get_info", int(out.strip().splitlines()[-1]), QUOTA)
    return "quota seen, exit code passed on"


def smi():
    """nvidia-smi in a slice, with a process in it and a process outside all slices."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        raise Skip("no nvidia-smi")
    escape = build(HERE / "escape.c")
    inside = f"""
import json, subprocess
program = subprocess.Popen([{str(escape)!r}, "alloc", "--ask", "2048", "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
own = json.loads(program.stdout.readline())
def smi(*arguments):
    return subprocess.run([{str(tool)!r}, *arguments], capture_output=True, text=True, timeout=30, check=True).stdout
query = ["--format=csv,noheader,nounits"]
print(json.dumps([own, smi("--query-gpu=memory.total,memory.used", *query), smi("--query-compute-apps=pid,used_memory", *query), smi()]))
program.communicate()
"""
    with Held([escape, "alloc", "--ask", "1024", "--hold"]) as outside:
        other = outside.line()
        code, out, err = run_program([CLEAVE, "run", "--gpu", GPU, "--memory", "10GiB", "--", PYTHON, "-c", inside], 60)
        expect(code == 0, f"exit {code}: {(err or out).strip()[-300:]}")
        own, memory, apps, table = json.loads(out)
        expect(own["got_mib"] == 2048, f"the program in the slice: {own}")
        memory = [line.split(",") for line in memory.strip().splitlines()]
        expect(len(memory) == 1, f"shows {len(memory)} GPUs")
        same("nvidia-smi memory.total (MiB)", int(memory[0][0]), QUOTA // MIB)
        used = int(memory[0][1])
        expect(2048 < used < 2048 + 1024, f"memory.used {used} MiB with 2048 MiB and a context in use")
        rows = [line.split(",") for line in apps.strip().splitlines()]
        pids = [int(row[0]) for row in rows]
        expect(pids == [own["pid"]], f"lists {pids}; in the slice is {own['pid']}, outside {other['pid']}")
        expect("10240MiB" in table.replace(" ", ""), "the plain table does not show 10240MiB")
        expect(str(other["pid"]) not in table.split(), "the plain table shows the process outside")
        return f"total {memory[0][0]}, used {used} MiB, processes {pids} ({rows[0][1].strip()} MiB)"


TESTS = {
    "cleave run": cleave_run,
    "torch sizes": sizes,
    "torch training": simple("train.py"),
    "torch inference": simple("inference.py"),
    "torch OutOfMemoryError, recovery": simple("oom.py"),
    "torch CUDA graphs": simple("graphs.py"),
    "torch.compile": simple("compile_test.py", timeout=150),
    "cudaMallocAsync: training": simple("train.py", env={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}),
    "cudaMallocAsync: out of memory": simple("oom.py", env={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}),
    "expandable segments: training": simple("train.py", env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
    "expandable segments: out of memory": simple("oom.py", env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
    "DataLoader, fork": simple("dataloader.py", "fork"),
    "DataLoader, spawn": simple("dataloader.py", "spawn"),
    "torchrun, NCCL": torchrun,
    "CuPy": simple("cupy_test.py", module="cupy"),
    "JAX": jax,
    "Triton": simple("triton_test.py", module="triton"),
    "numba": numba,
    "NVML inside": nvml_inside,
}


def everything(report):
    """All but nvidia-smi, some at a time: each has its own slice."""
    failed = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {}
        for name, test in TESTS.items():
            if not report.options.match or report.options.match in name:
                waiting[pool.submit(test)] = name
        try:
            for future in concurrent.futures.as_completed(waiting):

                def row(future=future, name=waiting[future]):
                    try:
                        report.row("frameworks", name, True, future.result())
                    except FailsInSlice as failure:
                        print(f"...   {name}: {failure}", file=sys.stderr)
                        failed.append((name, failure))

                report.attempt("frameworks", waiting[future], row)
        except BaseException:  # out of time: begin no more of them
            pool.shutdown(wait=False, cancel_futures=True)
            for name, failure in failed:
                report.row("frameworks", name, False, str(failure))
            raise
    # Is it the slice, or does a program not work on this machine at all? One at a time and only now: without a quota
    # some of them take the whole card.
    end = time.monotonic() + 60
    for name, failure in failed:
        left = end - time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            code, out, err = run_program(failure.command, left, env=failure.env, cwd=folder) if left > 5 else (0, "", "")
        if code > 0:
            report.skip("frameworks", name, f"fails outside a slice too: {tail(err or out)}; in it: {failure}")
        else:
            report.row("frameworks", name, False, f"{failure} ({'works outside' if left > 5 and code == 0 else 'not tried outside'})")


def nvidia_smi(report):
    report.row("nvidia-smi", "quota and processes", True, smi())


def arguments(parser):
    parser.add_argument("--match", help="only frameworks whose name contains this")


if __name__ == "__main__":
    parts = {"frameworks": everything, "nvidia-smi": nvidia_smi}
    raise SystemExit(Report("frameworks in a slice", parts, {"frameworks": 270, "nvidia-smi": 60}, arguments).main())
