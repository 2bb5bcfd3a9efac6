#!/usr/bin/env python3
"""The spatial engine: slices of one trust domain on one MPS server. Parts of the card, walls, faults, a dead
server, programs that are killed, hang or take all memory, a new daemon.

The programs are those of mps_facts.py, started in slices. About a minute.
"""

import os
import signal
import sys
import time

import harness
from harness import HERE, MIB, Failure, Held, Report, Skip, Slice, cleave, cleave_json, expect, mib, nvml, run_program, start_daemon, wait_until

CLIENT = [sys.executable, str(HERE / "mps_facts.py"), "client"]


class Program(Held):
    """A program of mps_facts.py in a slice, with a context and a kernel."""

    def __init__(self, s, wrap=()):
        super().__init__(s.command(*wrap, *CLIENT))
        self.pid = self.line()["pid"]
        self.init = self.ask("init")
        self.ask("load")

    def ask(self, *words, seconds=20):
        self.send(" ".join(map(str, words)))
        answer = self.line(seconds)
        expect("error" not in answer, f"{words}: {answer.get('error')}")
        return answer


def events(since, kind):
    return [event for event in cleave_json("events", "--since", since) if event["kind"] == kind]


def last_event():
    return max((event["id"] for event in cleave_json("events")), default=0)


def spatial(memory="8GiB", **flags):
    return Slice(memory, **{"trust_domain": "team", "compute": "25%", **flags})


def modes(report):
    """What this card can."""
    [gpu] = [gpu for gpu in cleave_json("modes") if gpu["index"] == harness.GPU]
    can = {engine["engine"]: engine["available"] for engine in gpu["engines"]}
    report.data["modes"] = gpu
    report.row("modes", "spatial is possible", can["spatial"], "; ".join(f"{e['engine']}: {e['reason'] or 'yes'}" for e in gpu["engines"]))
    if not can["spatial"]:
        raise Skip("this card or machine has no spatial engine")


def parts(report):
    """Each program gets its part of the multiprocessors, and both work at once."""
    with spatial(mode="strict") as a, spatial(mode="strict", compute="50%") as b, Program(a) as one, Program(b) as two:
        whole = one.init["processors"] * 4
        shown = (one.init["processors"], two.init["processors"])
        report.row("parts", "multiprocessors as asked for", abs(shown[1] - 2 * shown[0]) <= 2 and shown[0] >= 2, f"{shown} for 25 % and 50 %, so about {whole} in all")
        def own():
            """What each sees of its part, and that work which the runtime would start is there, too."""
            for program in (one, two):
                processors, part, past = program.init["processors"], program.ask("part"), program.ask("past")
                yield part.get("primary") == [True] * 3 and not any(past["codes"]) and {part["device"], part["context"], part["beside"], *past["streams"]} == {processors}
                yield program.ask("renew")["active"] == 0 and program.ask("part")["context"] == processors and program.ask("one", 1000)["codes"] == [0, 0]
                # A reset lets no hold go: two now, let go one by one.
                yield program.ask("renew", 1)["active"] == 0 and program.ask("let_go")["active"] == 1 and program.ask("part")["context"] == processors and program.ask("let_go")["active"] == 0
                program.ask("init"), program.ask("load")

        threads = one.ask("threads", 8, 3)
        report.row("parts", "eight threads in one part", not threads["wrong"] and min(threads["rounds"]) > 10, f"{sum(threads['rounds'])} rounds in 3 s {threads['wrong']}")
        seen = list(own())
        report.row("parts", "of its own, whatever it asks, and anew", all(seen), f"{seen}")
        alone = [program.ask("loop", 1, 200)["count"] for program in (one, two)]
        for program in (one, two):
            program.send("loop 1 200")
        both = [program.line(20)["count"] for program in (one, two)]
        report.row("parts", "as fast together as alone", None if all(alone + both) else False, f"launches in 1 s: alone {alone}, together {both}", alone=alone, together=both)
        servers = [pid for pid in nvml().processes() if pid not in (one.pid, two.pid)]
        gpu = cleave_json("gpus")[harness.GPU]
        report.row("parts", "the server's memory is nobody's", gpu["untracked_bytes"] == 0, f"{len(servers)} other processes on the card; untracked {gpu['untracked_bytes']}")
        near = wait_until(lambda: all(abs(s.used() - nvml().processes().get(p.pid, 0)) <= 2 * MIB for s, p in ((a, one), (b, two))), 5)
        report.row("parts", "charged as NVML shows", bool(near), f"charged {mib(a.used())}, {mib(b.used())}; NVML {[mib(nvml().processes().get(p.pid)) for p in (one, two)]}")
    with spatial(compute="40%", priority="production") as serve, spatial(priority="experiment") as burn:
        with Program(serve) as one, Program(burn) as two:
            share = two.init["processors"] / one.init["processors"]
            report.row("parts", "a part is kept free for serve", 0.5 < share < 0.65, f"serve {one.init['processors']}, burn {two.init['processors']}")


def walls(report):
    """A slice's quota holds on the server."""
    quota = 4096
    with spatial(f"{quota}MiB") as a, Program(a) as one:
        report.row("walls", "the card is the quota", abs(one.init["total_mib"] - quota) < 1, f"total {one.init['total_mib']} MiB, free {one.init['free_mib']:.0f}")
        codes = [one.ask("alloc", 1024)["code"] for _ in range(5)]
        used = nvml().processes().get(one.pid, 0)
        report.row("walls", "more is refused", codes[:3] == [0, 0, 0] and codes[-1] == 2 and used <= quota * MIB, f"codes {codes}, NVML {mib(used)} of {quota}")


def stray(report):
    """Who sheds the server runs in turns, within its quota, and is seen."""
    with spatial() as a:
        since = last_event()
        with Program(a, ("env", "-u", "CUDA_MPS_PIPE_DIRECTORY")) as one:
            seen = wait_until(lambda: events(since, "bypass"), 5)
            report.row("stray", "a program beside the server is seen", bool(seen) and str(one.pid) in seen[0]["message"], str(seen and seen[0]["message"])[-160:])
            report.row("stray", "it sees its quota", abs(one.init["total_mib"] - 8192) < 1, f"total {one.init['total_mib']} MiB")


def torch(report):
    """PyTorch, unchanged, two at once."""
    if run_program([sys.executable, "-c", "import torch"], 60)[0]:
        raise Skip("no PyTorch here")
    text = "import torch; a = torch.randn(4096, 4096, device='cuda'); [a @ a for _ in range(20)]; torch.cuda.synchronize(); print(torch.cuda.get_device_properties(0).multi_processor_count)"
    with spatial(mode="strict") as a, spatial(mode="strict", compute="50%") as b:
        held = [Held(s.command(sys.executable, "-c", text + "; print('{\"done\": 1}', flush=True)")) for s in (a, b)]
        done = [one.line(60) for one in held]
        codes = [one.close() for one in held]
        report.row("torch", "two train beside each other", codes == [0, 0] and all(done), f"exit {codes}")
        code, out, err = run_program(a.command(sys.executable, HERE / "programs/graphs.py"), 60)
        report.row("torch", "CUDA graphs", code == 0, f"exit {code}: {(out + err).strip()[-200:]}")


def recovery(report, part, strike, words):
    """`strike` breaks the server of a domain. Its programs end, the others don't, and it serves again within a second."""
    with spatial() as a, spatial() as b, spatial(trust_domain="other") as c, Slice("8GiB", compute="25%") as d:
        culprit, victim, far, turns = (Program(s) for s in (a, b, c, d))
        try:
            for program in (far, turns, victim):
                program.send("loop 4 200")
            time.sleep(0.5)
            since, began = last_event(), time.monotonic()
            strike(culprit)
            ended = wait_until(lambda: victim.process.poll() is not None and culprit.process.poll() is not None, 3, 0.005)
            after = time.monotonic() - began
            recovered = wait_until(lambda: events(since, "recovered"), 3, 0.01)
            seconds = time.monotonic() - began
            report.row(part, "its programs end", bool(ended), f"after {after:.2f} s")
            report.row(part, "recovered within a second", bool(recovered) and seconds < 1, f"{seconds:.2f} s: {(recovered or [{'message': 'no event'}])[0]['message']}", seconds=seconds)
            faults = events(since, "fault")
            said = " ".join(event["message"] for event in faults)
            report.row(part, "the event names them", {event["slice"] for event in faults} == {a.name, b.name} and all(str(word) in said for word in words(culprit, victim)), said[:300])
            again = Program(b)
            seconds = time.monotonic() - began
            report.row(part, "a new program works", again.ask("one", 1000)["codes"] == [0, 0], f"{seconds:.2f} s after the fault, cuInit {again.init['init_ms']:.0f} ms")
            again.close()
            rest = {name: program.line(20) for name, program in (("another domain", far), ("temporal", turns))}
            report.row(part, "others lose nothing", all(answer["code"] == 0 for answer in rest.values()), f"{ {name: (answer['count'], round(answer['gap_ms'])) for name, answer in rest.items()} } launches, longest gap in ms", gaps=rest)
        finally:
            for program in (culprit, victim, far, turns):
                program.close(5)


def fault(report):
    """An illegal address."""
    def strike(culprit):
        culprit.send("fault")

    recovery(report, "fault", strike, lambda culprit, victim: (f"(pid {culprit.pid}) of slice", f"(pid {victim.pid}) of slice", "fatal GPU error"))


def killed(report):
    """The server is killed."""
    def strike(culprit):
        # The log beside its pipe folder names its server.
        with open(f"/proc/{culprit.pid}/environ", "rb") as environment:
            pipe = dict(entry.split(b"=", 1) for entry in environment.read().split(b"\0") if b"=" in entry)[b"CUDA_MPS_PIPE_DIRECTORY"].decode()
        with open(os.path.join(os.path.dirname(pipe), "log/server.log")) as log:
            os.kill(int(log.read().strip().rsplit(" Server ", 1)[1].split("]")[0]), signal.SIGKILL)

    recovery(report, "killed", strike, lambda culprit, victim: (culprit.pid, victim.pid, "has ended"))


def culprits(report):
    """A15: a program that is killed, hangs and is then killed, or takes memory without end ends none in another trust domain. In its own only
    one that hangs may, and then an event names who fell; a new program works there within a second."""
    def end(culprit):
        began = time.monotonic()
        os.kill(culprit.pid, signal.SIGKILL)
        return began, "was killed"

    def kill(culprit):
        culprit.send("loop 10 200")
        time.sleep(0.3)
        return end(culprit)

    def hang(culprit):
        culprit.send("one 1e12")
        time.sleep(1)
        return end(culprit)

    def exhaust(culprit):
        answer = culprit.ask("exhaust", 1)
        expect(answer["codes"] == [2] and answer["rounds"] > 1, f"it was not refused: {answer}")
        culprit.close()
        return time.monotonic(), f"ended, {2 * answer['rounds']} times refused"

    def answer(program):
        """What its loop came to, or how it ended."""
        try:
            return program.line(20)
        except Failure as problem:
            return {"code": str(problem), "count": 0, "gap_ms": 0}

    def one(name, strike, kind):
        with spatial() as a, spatial() as b, spatial(trust_domain="other") as c:
            programs = culprit, victim, far = [Program(s) for s in (a, b, c)]
            try:
                for program in (victim, far):
                    program.send("loop 4 200")
                time.sleep(0.5)
                since = last_event()
                began, what = strike(culprit)

                def again():
                    tries, works, seconds = 0, False, 0
                    while not works and seconds < 5:  # what starts just as a server breaks fails with it
                        tries += 1
                        try:
                            programs.append(Program(a))
                            works = programs[-1].ask("one", 1000)["codes"] == [0, 0]
                        except Failure:
                            pass
                        seconds = time.monotonic() - began
                    report.row("culprits", f"{name}: a new program works", works and seconds < (2 if strike is hang else 1), f"{seconds:.2f} s after it {what}, the {tries}. one", seconds=seconds)

                report.attempt("culprits", f"{name}: a new program works", again)
                near, other = answer(victim), answer(far)
                fell = [event["message"] for event in events(since, "fault") if event["slice"] == b.name and f"(pid {victim.pid})" in event["message"]]
                goes_on = near["code"] == 0 and victim.process.poll() is None
                text = f"{near['count']} launches, longest gap {near['gap_ms']:.0f} ms" if goes_on else f"ended with {near['code']}; {(fell or ['no event names it'])[0]}"
                report.row("culprits", f"{name}: its neighbour", goes_on or strike is hang and bool(fell), text, gap_ms=near["gap_ms"])
                report.row("culprits", f"{name}: another domain", other["code"] == 0, f"code {other['code']}, {other['count']} launches, longest gap {other['gap_ms']:.0f} ms", gap_ms=other["gap_ms"])
                told = wait_until(lambda: [event for event in events(since, kind) if event["slice"] == a.name and str(culprit.pid) in event["message"]], 3)
                report.row("culprits", f"{name}: an event names it", bool(told), f"{told[0]['kind']}: {told[0]['message']}" if told else f"no {kind} for slice {a.name}")
            finally:
                for program in programs:
                    program.close(5)

    for name, strike, kind in (("kill -9", kill, "process-ended"), ("infinite kernel", hang, "process-ended"), ("OOM loop", exhaust, "denied")):
        report.attempt("culprits", name, one, name, strike, kind)


def daemon(report):
    """A new daemon takes over servers and clients, and mends what breaks then."""
    harness.may_kill_daemon(report)
    with spatial() as a, spatial() as b:
        one, two = Program(a), Program(b)
        try:
            two.send("loop 2 200")
            harness.kill_daemon()
            start_daemon()
            answer = two.line(20)
            report.row("daemon", "its clients go on", answer["code"] == 0, f"{answer['count']} launches, longest gap {answer['gap_ms']:.0f} ms")
            with Program(a) as three:
                report.row("daemon", "a new one joins the server", three.ask("one", 1000)["codes"] == [0, 0], f"cuInit {three.init['init_ms']:.0f} ms")
            since = last_event()
            one.send("fault")
            recovered = wait_until(lambda: events(since, "recovered"), 3, 0.01)
            report.row("daemon", "a fault is mended", bool(recovered) and len(events(since, "fault")) == 2, f"{len(events(since, 'fault'))} events")
        finally:
            one.close(5), two.close(5)


if __name__ == "__main__":
    everything = {"modes": modes, "parts": parts, "walls": walls, "stray": stray, "torch": torch, "fault": fault, "killed": killed, "culprits": culprits, "daemon": daemon}
    raise SystemExit(Report("spatial", everything, {name: 60 for name in everything}).main())
