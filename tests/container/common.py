"""What both tests share: a place of its own to be root in, commands, a daemon, and rows."""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
UNIT = REPOSITORY / "packaging/systemd/cleave.service"
# How long something may take that ought to take no time, on a machine that does much else.
PATIENCE = 60
INSIDE = "CLEAVE_TEST_INSIDE"


class Failure(Exception):
    """An expectation that did not hold, in words."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def run(command, **options):
    options = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([str(word) for word in command], **options)


def output(command, **options):
    done = run(command, **options)
    expect(done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def within(seconds, what, done):
    end = time.monotonic() + seconds
    while not done():
        expect(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.05)


def compile_c(source, program):
    output(["gcc", "-O1", "-o", program, source, "-ldl", "-lpthread"])


def tmpfs(*places):
    for place in places:
        output(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place])


class Client:
    """The command line: `command` is what it is called by."""

    def __init__(self, *command):
        self.command = command

    def cleave(self, *arguments):
        return output([*self.command, *arguments])

    def answers(self):
        return run([*self.command, "status"]).returncode == 0

    def json(self, *arguments):
        return json.loads(self.cleave("-o", "json", *arguments))

    def used(self, name="a"):
        """MiB charged to a slice."""
        return self.json("slice", "show", name)["devices"][0]["used_bytes"] >> 20

    def pids(self, name="a"):
        return sorted(process["pid"] for process in self.json("ps", name)["items"])

    def is_empty(self, name="a"):
        return self.used(name) == 0 and not self.pids(name)


class Program:
    """A program that says things in lines of JSON and goes on until its input ends."""

    def __init__(self, command):
        command = [str(word) for word in command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        text = self.process.stdout.readline()
        expect(text, f"{self.process.args} said nothing")
        return json.loads(text)

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def rows(all_of_them, before=lambda: None):
    """Runs them all; returns how many failed."""
    failed = 0
    for row in all_of_them:
        name = row.__name__.replace("_", " ")
        try:
            before()
            row()
            print(f"ok      {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {error}", flush=True)
            if not isinstance(error, Failure):
                traceback.print_exc()
    return failed


def main(what, tools, inside, around=None):
    """Runs `inside(binary)` as root of a mount and a PID namespace, within what `around` makes: when it ends, in
    whatever way, the kernel takes away everything that was started or mounted."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else target / "debug/cleave").resolve()
    stage = int(os.environ.get(INSIDE, "0"))
    if stage == 2:
        sys.exit(1 if inside(binary) else 0)
    mounts = ["unshare", "--mount", "--propagation=private"]
    processes = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if stage == 0:
        if os.geteuid():
            skip(f"{what}: this is not root")
        for tool in ("gcc", "unshare", *tools):
            if not shutil.which(tool):
                skip(f"{what}: {tool} is not installed")
        if not binary.exists():
            sys.exit(f"error: there is no {binary}: build it, or name another")
        if (probe := run([*mounts, *processes, "true"])).returncode:
            skip(f"{what}: no namespaces: {probe.stderr.strip()}")

    def next_stage(command, **options):
        environment = {**os.environ, INSIDE: str(stage + 1)}
        return subprocess.run([*command, sys.executable, *sys.argv[:1], binary], env=environment, **options).returncode

    if stage == 0:
        sys.exit(next_stage(mounts))
    sys.exit(around(lambda **options: next_stage(processes, **options)) if around else next_stage(processes))
