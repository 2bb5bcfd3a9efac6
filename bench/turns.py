"""The loop of a benchmark that works in turns: reads a number of steps from stdin, makes them, prints how long they took. Or it
reads a time to begin at and one to work for, for programs that work at the same time.

With `--stub` the step is some arithmetic on the CPU: for trying out the script that tells whose turn it is.
"""

import json
import sys
import time


def stub():
    return lambda: sum(range(20000)), lambda: None


def percentiles(times):
    times = sorted(times) or [0]
    return {f"p{part}_us": times[min(len(times) - 1, len(times) * part // 100)] * 1e6 for part in (50, 95, 99)}


def during(step, finish, start, seconds, period):
    """Steps that are waited for, from a little before `start` (of the monotonic clock) until a little after `seconds` more; counted are those
    within. With a `period`, one begins so often, or later if the one before is not done."""
    times, at, end = [], start - 0.3, start + seconds
    while (now := time.monotonic()) < end + 0.1:
        if now < at:
            time.sleep(max(0, at - now - 0.0003))
            while time.monotonic() < at:
                pass
        at = at + period if period else 0
        began = time.monotonic()
        step()
        finish()
        done = time.monotonic()
        if began >= start and done <= end:
            times.append(done - began)
    return {"steps": len(times), "seconds": seconds, **percentiles(times)}


def serve(prepare, warm, each=False):
    """`prepare` returns a step and what waits for its end. A line of stdin is a number of steps, or three numbers: when to begin, for
    how many seconds, and how often. `warm` steps begin each turn and are not counted. With `each`, every step of a number of them is
    waited for and timed: a token is needed before the next can be asked for."""
    step, finish = stub() if "--stub" in sys.argv[1:] else prepare()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if len(words := line.split()) == 3:
            print(json.dumps(during(step, finish, *map(float, words))), flush=True)
            continue
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
            result |= percentiles(times)
        print(json.dumps(result), flush=True)
