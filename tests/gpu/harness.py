"""What the GPU tests and the benchmarks share: cleave's command line, NVML as seen from outside, and the runner of parts.

Standard library only; NVML is called through ctypes, so that it is the real one, read outside every slice.
"""

import argparse
import atexit
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
GIB = 1 << 30
CLEAVE = os.environ.get("CLEAVE", str(HERE.parent.parent / "target/release/cleave"))
GPU = int(os.environ.get("CLEAVE_TEST_GPU", "0"))


class Failure(Exception):
    """A test's expectation that did not hold, in words."""


class Skip(Exception):
    """A test that cannot be made here, and why."""


class PartTimeout(BaseException):
    """A part has used up its time. Not an Exception, so that no row takes it for its own failure."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


# ---------------------------------------------------------------- NVML, from outside


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Nvml:
    """The few NVML queries that say what processes really use."""

    def __init__(self, index=GPU):
        self.lib = ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        self.device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self.device))

    def _call(self, name, *arguments):
        code = getattr(self.lib, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: NVML error {code}")

    def _text(self, name, *arguments):
        buffer = ctypes.create_string_buffer(96)
        self._call(name, *arguments, buffer, ctypes.c_uint(96))
        return buffer.value.decode()

    def name(self):
        return self._text("nvmlDeviceGetName", self.device)

    def driver(self):
        return self._text("nvmlSystemGetDriverVersion")

    def memory(self):
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self.device, ctypes.byref(memory))
        return memory

    def memory_bandwidth(self):
        """Bytes that the memory can give and take in a second: two for each wire in each tick of its clock."""
        width, mhz = ctypes.c_uint(), ctypes.c_uint()
        self._call("nvmlDeviceGetMemoryBusWidth", self.device, ctypes.byref(width))
        self._call("nvmlDeviceGetMaxClockInfo", self.device, ctypes.c_int(2), ctypes.byref(mhz))
        return width.value * mhz.value * 1_000_000 * 2 // 8

    def processes(self):
        """Bytes in use by process id; a process whose figure is not available is left out."""
        count = ctypes.c_uint(256)
        rows = (_Process * 256)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", self.device, ctypes.byref(count), rows)
        unknown = ctypes.c_ulonglong(-1).value
        return {row.pid: row.used for row in rows[: count.value] if row.used != unknown}


_nvml = None


def nvml():
    global _nvml
    if _nvml is None:
        _nvml = Nvml()
    return _nvml


class Watcher(threading.Thread):
    """Polls NVML without pause and keeps the most that the watched processes ever used together.

    Watched are the processes of `pids`, or, when there is none, all that were not there when the watcher started: so
    it also sees a process that slipped out of its slice.
    """

    def __init__(self, pids=None, pause=0.0):
        super().__init__(daemon=True)
        self.pids = set(pids) if pids is not None else None
        self.before = set(nvml().processes())
        self.pause = pause
        self.peak = self.last = 0
        self.polls = 0
        self._done = threading.Event()

    def poll(self):
        used = nvml().processes()
        total = sum(n for pid, n in used.items() if (pid in self.pids if self.pids is not None else pid not in self.before))
        self.polls += 1
        self.last = total
        self.peak = max(self.peak, total)
        return total

    def run(self):
        while not self._done.is_set():
            self.poll()
            if self.pause:
                time.sleep(self.pause)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join(5)


# ---------------------------------------------------------------- cleave


def cleave(*arguments, check=True, timeout=30, env=None):
    """Runs cleave and returns the finished process, with its output as text."""
    done = subprocess.run(
        [CLEAVE, *map(str, arguments)], text=True, capture_output=True, timeout=timeout, env=env, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise Failure(f"cleave {' '.join(map(str, arguments))}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done


def cleave_json(*arguments):
    out = cleave(*arguments, "-o", "json").stdout
    value = json.loads(out)
    return value["items"] if isinstance(value, dict) and "items" in value else value


_help = {}


def has_flag(command, flag):
    """Whether a subcommand of cleave knows a flag."""
    if command not in _help:
        done = cleave(*command.split(), "--help", check=False)
        _help[command] = done.stdout + done.stderr
    return re.search(re.escape(flag) + r"\b", _help[command]) is not None


_daemon = None
_made = set()  # names of slices that may exist


def daemon_status():
    """The daemon's status, or None when none answers."""
    done = cleave("status", "-o", "json", check=False)
    if done.returncode:
        return None
    try:
        status = json.loads(done.stdout)
    except ValueError:
        return None
    return status if isinstance(status, dict) and status.get("pid") else None


def start_daemon():
    """Starts a daemon for as long as this process lives, unless one runs already. Says whether it started one."""
    global _daemon
    if daemon_status():
        return False
    log = open(os.environ.get("CLEAVE_TEST_DAEMON_LOG", os.devnull), "ab")
    _daemon = subprocess.Popen([CLEAVE, "daemon"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if daemon_status():
            return True
        if _daemon.poll() is not None:
            break
        time.sleep(0.05)
    raise Failure(f"cleave daemon did not come up (exit {_daemon.poll()})")


@contextmanager
def daemon_with(report, **settings):
    """A daemon with these variables in its environment, in place of the one that this test started."""
    if not report.data_facts["daemon_started"]:
        raise Skip("the daemon was there before this test, and keeps its settings")
    stop_daemon()
    os.environ.update(settings)
    try:
        start_daemon()
        yield
    finally:
        stop_daemon()
        for name in settings:
            del os.environ[name]
        start_daemon()


def may_kill_daemon(report):
    """Skips what kills the daemon, unless it was started here or that is allowed."""
    if not (report.data_facts["daemon_started"] or os.environ.get("CLEAVE_TEST_KILL_DAEMON") == "1"):
        raise Skip("the daemon was there before this test; CLEAVE_TEST_KILL_DAEMON=1 allows to kill it")


def kill_daemon():
    pid = daemon_status()["pid"]
    os.kill(pid, signal.SIGKILL)
    if _daemon is not None and _daemon.pid == pid:
        _daemon.wait(10)


def delete_slices():
    """Deletes the slices that were made here and are still there, as when a time limit came while one was made."""
    for name in sorted(_made):
        try:
            cleave("slice", "delete", name, *(["--force"] if has_flag("slice delete", "--force") else []), check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"slice {name} may be left behind: {error}", file=sys.stderr)
        _made.discard(name)


@atexit.register
def stop_daemon():
    global _daemon
    delete_slices()
    if _daemon is not None and _daemon.poll() is None:
        _daemon.terminate()
        try:
            _daemon.wait(10)
        except subprocess.TimeoutExpired:
            _daemon.kill()
    _daemon = None


def wait_until(what, seconds, every=0.02):
    """Calls `what` until it returns something true; returns that, or None when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(every)


_counter = itertools.count(1)


class Slice:
    """A slice of the tested GPU for the time of a `with`."""

    def __init__(self, memory, name=None, gpu=GPU, **flags):
        self.memory = memory
        self.gpu = gpu
        self.name = name or f"t{os.getpid()}-{next(_counter)}"
        self.flags = flags

    def __enter__(self):
        arguments = ["slice", "create"]
        arguments += ["--name", self.name] if has_flag("slice create", "--name") else [self.name]
        arguments += ["--gpu", str(self.gpu), "--memory", self.memory]
        for flag, value in self.flags.items():
            flag = "--" + flag.replace("_", "-")
            if not has_flag("slice create", flag):
                raise Skip(f"slice create has no {flag}")
            arguments += [flag] if value is True else [flag, str(value)]
        _made.add(self.name)
        cleave(*arguments)
        return self

    def __exit__(self, *_):
        try:
            wait_until(lambda: not self.show()["processes"], 3)
            done = cleave("slice", "delete", self.name, check=False)
            if done.returncode and has_flag("slice delete", "--force"):
                done = cleave("slice", "delete", self.name, "--force", check=False)
            if done.returncode == 0:
                _made.discard(self.name)
        except (Failure, OSError, ValueError, subprocess.TimeoutExpired) as error:
            # What went wrong inside the `with` is what the reader has to see, not that tidying up met the same.
            print(f"slice {self.name} is not deleted: {error}", file=sys.stderr)

    def show(self):
        value = cleave_json("slice", "show", self.name)
        return value[0] if isinstance(value, list) else value

    def used(self):
        return self.show()["devices"][0]["used_bytes"]

    def limit(self):
        return self.show()["devices"][0]["limit_bytes"]

    def command(self, *program):
        return [CLEAVE, "exec", self.name, "--", *map(str, program)]


class Held:
    """A program that prints JSON lines and holds what it has until its stdin closes."""

    def __init__(self, command, env=None):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=env,
            start_new_session=True,
        )
        _running.add(self.process)

    def line(self, timeout=60):
        """Its next line of JSON. Other lines are passed over."""
        box = []

        def read():
            while True:
                text = self.process.stdout.readline()
                if not text or text.lstrip().startswith("{"):
                    box.append(text)
                    return

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(timeout)
        if not box:
            self.kill()
            raise Failure(f"no answer within {timeout} s: {self.stderr()}")
        if not box[0]:
            raise Failure(f"ended with {self.process.wait()}: {self.stderr()}")
        return json.loads(box[0])

    def send(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-500:]

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self, timeout=20):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()
        finally:
            _running.discard(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def run_program(command, timeout, env=None, cwd=None):
    """Runs a program to its end, in a session of its own so that none of it outlives the time limit."""
    process = subprocess.Popen(
        list(map(str, command)), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        cwd=cwd, start_new_session=True,
    )
    _running.add(process)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return -1, out, err + f"\nstopped after {timeout} s"
    finally:
        _running.discard(process)
    return process.returncode, out, err


_running = set()


def kill_running():
    """Ends every program that was started here, so that nothing waits for one."""
    for process in list(_running):
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


_built = None


def build(source, name=None):
    """Compiles one C file and returns the program."""
    global _built
    if _built is None:
        _built = Path(tempfile.mkdtemp(prefix="cleave-test-"))
        _built.chmod(0o755)
        atexit.register(shutil.rmtree, _built, ignore_errors=True)
    source = Path(source)
    target = _built / (name or source.stem)
    if not target.exists():
        command = [os.environ.get("CC", "gcc"), "-O2", "-Wall", "-Wextra", "-o", target, source, "-ldl", "-lpthread"]
        done = subprocess.run(list(map(str, command)), text=True, capture_output=True)
        expect(done.returncode == 0, f"{source.name} does not compile: {done.stderr[-800:]}")
    return target


def real_driver():
    """Paths of the real libcuda, as a program outside a slice finds it: by name, then with every link resolved."""
    ctypes.CDLL("libcuda.so.1")
    with open("/proc/self/maps") as maps:
        found = [line.split()[-1] for line in maps if "/libcuda.so" in line or "/libfakegpu.so" in line]
    expect(found, "libcuda.so.1 is not among the mapped files")
    real = Path(found[0])
    paths = [real]
    for folder in {real.parent, *map(Path, os.environ.get("LD_LIBRARY_PATH", "").split(":"))}:
        if folder.is_dir():
            paths += [p for p in sorted(folder.glob("libcuda.so*")) if p.exists() and p.resolve() == real.resolve()]
    return list(dict.fromkeys(paths))


# ---------------------------------------------------------------- parts and results


def facts():
    """What a reader of the results needs to know about where they were made."""
    commit = os.environ.get("CLEAVE_COMMIT")
    if not commit:
        done = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"], text=True, capture_output=True)
        commit = done.stdout.strip() or "unknown"
    gpu = nvml()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gpu": gpu.name(),
        "driver": gpu.driver(),
        "memory_bytes": gpu.memory().total,
        "kernel": os.uname().release,
        "cores": os.cpu_count(),
        "commit": commit,
    }


def mib(n):
    return "-" if n is None else f"{n / MIB:.0f}"


class Report:
    """Runs parts one after the other, prints a line for each row, and writes everything as JSON."""

    def __init__(self, title, parts, limits=None, arguments=None):
        self.title = title
        self.parts = parts
        self.limits = limits or {}
        parser = argparse.ArgumentParser(description=title)
        parser.add_argument("--out", help="write the results to this file, as JSON")
        parser.add_argument("--only", help="parts to run, separated by commas: " + ",".join(parts))
        parser.add_argument("--skip", default="", help="parts to leave out")
        parser.add_argument("--list", action="store_true", help="name the parts and end")
        parser.add_argument("--budget", type=float, metavar="SECONDS", help="for everything: what does not fit is cut short or left out")
        if arguments:
            arguments(parser)
        self.options = parser.parse_args()
        self.began = time.monotonic()
        self.data = {}
        self.rows = []

    def limit(self, part):
        """Seconds that a part may take."""
        limit = self.limits.get(part, 120)
        left = self.options.budget - (time.monotonic() - self.began) if self.options.budget else limit
        return int(min(limit, left))

    def row(self, part, name, ok, text, **values):
        """One result. `ok` is True, False, or None for something that is only reported."""
        word = {True: "PASS", False: "FAIL", None: "INFO"}[ok]
        # What an event tells of a program is the same on every machine.
        text = text.replace(f"{HERE.parents[1]}/", "").replace(sys.executable, "python3").strip().replace("\n", " | ")
        self.rows.append({"part": part, "name": name, "result": word, "text": text, **values})
        self.save()
        print(f"{word}  {part:<10} {name:<34} {text}", flush=True)

    def skip(self, part, name, text):
        text = text.strip().replace("\n", " | ")
        self.rows.append({"part": part, "name": name, "result": "SKIP", "text": text})
        print(f"SKIP  {part:<10} {name:<34} {text}", flush=True)

    def save(self):
        if self.options.out:
            everything = {"title": self.title, "facts": self.data_facts, "rows": self.rows, "data": self.data}
            part = Path(self.options.out + ".part")
            part.write_text(json.dumps(everything, indent=1) + "\n")
            part.replace(self.options.out)

    def attempt(self, part, name, function, *arguments):
        """Runs something that may fail, and makes a row of its failure."""
        try:
            return function(*arguments)
        except Skip as reason:
            self.skip(part, name, str(reason))
        except Failure as reason:
            self.row(part, name, False, str(reason))
        except Exception as error:  # the next part shall run whatever this one met
            traceback.print_exc(file=sys.stderr)
            self.row(part, name, False, f"{type(error).__name__}: {error}")

    def main(self):
        if self.options.list:
            print("\n".join(self.parts))
            return 0
        # A stop from outside takes the same way out as an end: what was started is ended, what was found is written.
        def stopped(*_):
            kill_running()
            sys.exit(143)

        signal.signal(signal.SIGTERM, stopped)
        chosen = self.options.only.split(",") if self.options.only else list(self.parts)
        unknown = [part for part in chosen if part not in self.parts]
        if unknown:
            print(f"no such part: {', '.join(unknown)}", file=sys.stderr)
            return 2
        try:
            self.data_facts = facts()
            self.data_facts["daemon_started"] = start_daemon()
        except (Failure, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{self.title}: cannot begin: {error}", file=sys.stderr)
            return 2
        print("# " + self.title)
        print("# " + ", ".join(f"{key} {value}" for key, value in self.data_facts.items()), flush=True)
        for part in chosen:
            if part in self.options.skip.split(","):
                continue
            began, limit = time.monotonic(), self.limit(part)
            if limit < 1:
                self.skip(part, "whole part", f"no time left of {self.options.budget:g} s")
                continue

            def late(*_, part=part):
                kill_running()
                raise PartTimeout

            signal.signal(signal.SIGALRM, late)
            signal.alarm(limit)
            try:
                self.attempt(part, "whole part", self.parts[part], self)
            except PartTimeout:
                self.row(part, "whole part", False, f"took longer than its {limit} s")
            finally:
                signal.alarm(0)
                delete_slices()
            self.data.setdefault("seconds", {})[part] = round(time.monotonic() - began, 1)
            self.save()
        count = {word: sum(row["result"] == word for row in self.rows) for word in ("PASS", "FAIL", "SKIP", "INFO")}
        print(f"# {self.title}: " + ", ".join(f"{n} {word}" for word, n in count.items()) + f"; seconds {self.data.get('seconds')}")
        self.save()
        return 1 if count["FAIL"] else 0
