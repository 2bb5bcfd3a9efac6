"""The loop of a benchmark that works in turns: reads a number of steps from stdin, makes them, prints how long they took.

With `--stub` the step is some arithmetic on the CPU: for trying out the script that tells whose turn it is.
"""

import json
import sys
import time


def stub():
    return lambda: sum(range(20000)), lambda: None


def serve(prepare, warm, each=False):
    """`prepare` returns a step and what waits for its end. `warm` steps begin each turn and are not counted. With `each`,
    every step is waited for and timed: a token is needed before the next can be asked for."""
    step, finish = stub() if "--stub" in sys.argv[1:] else prepare()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        for _ in range(warm):
            step()
        finish()
        times = []
        start = last = time.perf_counter()
        for _ in range(steps):
            step()
            if each:
                finish()
                now = time.perf_counter()
                times.append(now - last)
                last = now
        finish()
        result = {"steps": steps, "seconds": (last if each else time.perf_counter()) - start}
        if each:
            times.sort()
            result |= {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6}
        print(json.dumps(result), flush=True)
