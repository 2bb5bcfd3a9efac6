#!/usr/bin/env python3
"""What NVIDIA MPS and the driver's checkpoints really do: the facts that docs/design/compute.md rests on. Runs outside any
slice, on an otherwise idle card, with MPS daemons of its own. Standard library only.

Started with `client`, it is a program under test: it reads commands from stdin and answers each with one line of JSON.
"""

import ctypes as c
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
PTX = (Path(__file__).resolve().parents[2] / "tools/fakegpu/data/spin.ptx").read_bytes() + b"\0"
# Writes to an address that is nobody's. The comment tells the simulated GPU, which executes no PTX.
FAULT = b""".version 7.0
//fakegpu kernel fault fault=illegal_address
.target sm_70
.address_size 64
.visible .entry fault() { .reg .b64 %r<2>; .reg .b32 %s<2>; mov.u64 %r1, 16; mov.u32 %s1, 1; st.global.u32 [%r1], %s1; ret; }
\0"""


# ---------------------------------------------------------------- the program under test


class Client:
    def __init__(self):
        self.cu = c.CDLL("libcuda.so.1")
        self.stream = None
        self.pointers = []

    def must(self, name, *arguments):
        code = getattr(self.cu, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} {code}")

    def init(self):
        began = time.monotonic()
        self.must("cuInit", 0)
        middle = time.monotonic()
        self.device, context, count = c.c_int(), c.c_void_p(), c.c_int()
        self.must("cuDeviceGet", c.byref(self.device), 0)
        self.must("cuDevicePrimaryCtxRetain", c.byref(context), self.device)
        self.must("cuCtxSetCurrent", context)
        self.context, self.stream = context, None
        self.must("cuDeviceGetAttribute", c.byref(count), 16, self.device)
        return {"init_ms": (middle - began) * 1e3, "context_ms": (time.monotonic() - middle) * 1e3, "processors": count.value, **self.memory()}

    def memory(self):
        free, total = c.c_size_t(), c.c_size_t()
        self.must("cuMemGetInfo_v2", c.byref(free), c.byref(total))
        return {"free_mib": free.value / MIB, "total_mib": total.value / MIB}

    def alloc(self, mib):
        pointer = c.c_uint64()
        code = self.cu.cuMemAlloc_v2(c.byref(pointer), c.c_size_t(int(mib) * MIB))
        if not code:
            self.pointers.append(pointer)
        return {"code": code}

    def exhaust(self, seconds, mib=256):
        """Allocates until refused, asks once more and frees it all, again and again; how often, and the refusals."""
        end, rounds, codes = time.monotonic() + float(seconds), 0, set()
        while time.monotonic() < end:
            while not self.alloc(mib)["code"]:
                pass
            codes.add(self.alloc(mib)["code"])
            for pointer in self.pointers:
                self.must("cuMemFree_v2", pointer)
            self.pointers.clear()
            rounds += 1
        return {"rounds": rounds, "codes": sorted(codes)}

    def fill(self, value):
        for pointer in self.pointers:
            self.must("cuMemsetD8_v2", pointer, c.c_ubyte(int(value)), c.c_size_t(4096))
        return {}

    def read(self):
        byte = c.c_ubyte()
        codes = [self.cu.cuMemcpyDtoH_v2(c.byref(byte), pointer, c.c_size_t(1)) for pointer in self.pointers]
        return {"codes": codes, "value": byte.value}

    def load(self):
        module, self.spin = c.c_void_p(), c.c_void_p()
        self.must("cuModuleLoadData", c.byref(module), PTX)
        self.must("cuModuleGetFunction", c.byref(self.spin), module, b"spin")
        if self.stream is None:
            self.stream = c.c_void_p()
            self.must("cuStreamCreate", c.byref(self.stream), 1)
        return {}

    def launch(self, us, blocks=264):
        iterations, nowhere = c.c_uint64(int(float(us) * 1000 / 2.1)), c.c_uint64(0)
        parameters = (c.c_void_p * 2)(c.cast(c.byref(iterations), c.c_void_p), c.cast(c.byref(nowhere), c.c_void_p))
        return self.cu.cuLaunchKernel(self.spin, int(blocks), 1, 1, 1024, 1, 1, 0, self.stream, parameters, None)

    def one(self, us):
        began = time.monotonic()
        codes = [self.launch(us), self.cu.cuStreamSynchronize(self.stream)]
        return {"codes": codes, "ms": (time.monotonic() - began) * 1e3}

    def loop(self, seconds, us=200):
        """Launches and waits; how many, the longest gap, and the first error with its time."""
        end, last, count, gap = time.monotonic() + float(seconds), time.monotonic(), 0, 0.0
        began = last
        while last < end:
            code = self.launch(us) or self.cu.cuStreamSynchronize(self.stream)
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            if code:
                return {"count": count, "gap_ms": gap * 1e3, "code": code, "after_s": now - began}
            count += 1
        return {"count": count, "gap_ms": gap * 1e3, "code": 0}

    def fault(self):
        module, function = c.c_void_p(), c.c_void_p()
        self.must("cuModuleLoadData", c.byref(module), FAULT)
        self.must("cuModuleGetFunction", c.byref(function), module, b"fault")
        codes = [self.cu.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, self.stream, None, None), self.cu.cuStreamSynchronize(self.stream)]
        return {"codes": codes}

    def affinity(self, count):
        """A context of its own with an SM count."""
        context = c.c_void_p()
        parameter = (c.c_int * 2)(0, int(count))
        code = self.cu.cuCtxCreate_v3(c.byref(context), parameter, 1, 0, self.device)
        back = (c.c_int * 2)()
        if not code:
            self.cu.cuCtxGetExecAffinity(back, 0)
        return {"code": code, "processors": back[1]}

    def part(self):
        """How many multiprocessors the driver says that the device, the current context and one beside it have; and whether the primary
        context is what is current, what a stream is in, and whether a thread may have none."""
        def processors(call, *of):
            resource = (c.c_ubyte * 144)()
            self.must(call, *of, resource, 1)
            return int.from_bytes(bytes(resource)[96:100], "little")

        current, of, beside, affinity = c.c_void_p(), c.c_void_p(), c.c_void_p(), (c.c_int * 2)()
        self.must("cuCtxGetCurrent", c.byref(current))
        self.must("cuStreamGetCtx", self.stream, c.byref(of))
        answer = {"device": processors("cuDeviceGetDevResource", self.device), "context": processors("cuCtxGetDevResource", current),
                  "primary": [current.value == self.context.value, of.value == self.context.value]}
        self.must("cuCtxCreate_v2", c.byref(beside), 0, self.device)
        self.must("cuCtxGetExecAffinity", affinity, 0)
        self.must("cuCtxDestroy_v2", beside)
        none = c.c_void_p()
        self.must("cuCtxSetCurrent", None)
        self.must("cuCtxGetCurrent", c.byref(none))
        answer["primary"].append(none.value is None and self.cu.cuStreamQuery(None) != 0)
        self.must("cuCtxSetCurrent", self.context)
        return answer | {"beside": affinity[1]}

    def looked_up(self, name, version, *kinds):
        """An entry point as the CUDA runtime gets it."""
        entry, found = c.c_void_p(), c.c_int()
        self.must("cuGetProcAddress_v2", name.encode(), c.byref(entry), version, c.c_uint64(0), c.byref(found))
        return c.CFUNCTYPE(c.c_int, *kinds)(entry.value)

    def past(self):
        """Makes the primary context current past the exports of what is before the driver, as the CUDA runtime does; what the driver itself
        then says: how many multiprocessors streams have that are made by an export and by an entry point, and whether it waits for its work."""
        real = c.CDLL(os.environ["CLEAVE_DRIVER_DIR"] + "/libcuda.so.1")
        primary, stream, of, resource = self.context, c.c_void_p(), c.c_void_p(), (c.c_ubyte * 144)()
        streams = []
        for create in (self.cu.cuStreamCreate, self.looked_up("cuStreamCreate", 2000, c.c_void_p, c.c_uint)):
            real.cuCtxSetCurrent(primary)
            code = create(c.byref(stream), 1) or real.cuStreamGetCtx(stream, c.byref(of)) or real.cuCtxGetDevResource(of, resource, 1)
            streams.append(int.from_bytes(bytes(resource)[96:100], "little"))
        real.cuCtxSetCurrent(primary)
        self.stream, before = stream, self.stream
        codes = [self.launch(20000), self.cu.cuCtxSynchronize(), self.cu.cuStreamQuery(stream)]
        # A copy of a few bytes waits for the kernel on the default stream, too.
        memory, word = c.c_uint64(), c.c_uint()
        codes.append(self.cu.cuMemAlloc_v2(c.byref(memory), c.c_size_t(4096)))
        self.stream = None
        codes.append(self.launch(20000))
        real.cuCtxSetCurrent(primary)
        codes += [self.cu.cuMemcpyDtoH_v2(c.byref(word), memory, c.c_size_t(4)), self.cu.cuStreamQuery(None), self.cu.cuMemFree_v2(memory)]
        # What was started in the primary context all the same is waited for with it.
        real.cuCtxSetCurrent(primary)
        codes.append(real.cuStreamCreate(c.byref(stream), 1))
        waits = [self.cu.cuCtxSynchronize]
        if hasattr(real, "cuCtxSynchronize_v2"):
            waits += [lambda: self.cu.cuCtxSynchronize_v2(None), lambda: self.cu.cuCtxSynchronize_v2(primary)]
        for wait in waits:
            iterations, nowhere = c.c_uint64(10000000), c.c_uint64(0)
            parameters = (c.c_void_p * 2)(c.cast(c.byref(iterations), c.c_void_p), c.cast(c.byref(nowhere), c.c_void_p))
            codes += [real.cuLaunchKernel(self.spin, 1, 1, 1, 32, 1, 1, 0, stream, parameters, None), wait(), real.cuStreamQuery(stream)]
        self.stream = before
        return {"code": code, "streams": streams, "codes": codes}

    def threads(self, count, seconds):
        """Threads that all have the context current: each makes streams, starts kernels on them and on the default stream, waits in each way and
        takes memory and gives it back. How many rounds they made, and what went wrong."""
        end, rounds, wrong = time.monotonic() + float(seconds), [0] * int(count), []
        iterations, nowhere = c.c_uint64(10000), c.c_uint64(0)
        parameters = (c.c_void_p * 2)(c.cast(c.byref(iterations), c.c_void_p), c.cast(c.byref(nowhere), c.c_void_p))

        def work(number):
            if self.cu.cuCtxSetCurrent(self.context):
                wrong.append("cuCtxSetCurrent")
            while time.monotonic() < end and not wrong:
                stream, memory, word = c.c_void_p(), c.c_uint64(), c.c_uint()
                for name, *arguments in (("cuStreamCreate", c.byref(stream), 1), ("cuMemAlloc_v2", c.byref(memory), c.c_size_t(1 << 16)),
                                         ("cuLaunchKernel", self.spin, 8, 1, 1, 256, 1, 1, 0, stream, parameters, None), ("cuStreamSynchronize", stream),
                                         ("cuLaunchKernel", self.spin, 8, 1, 1, 256, 1, 1, 0, None, parameters, None), ("cuMemsetD8_v2", memory, c.c_ubyte(number + 1), c.c_size_t(64)),
                                         ("cuMemcpyDtoH_v2", c.byref(word), memory, c.c_size_t(4)), ("cuCtxSynchronize",), ("cuMemFree_v2", memory), ("cuStreamDestroy_v2", stream)):
                    code = getattr(self.cu, name)(*arguments)
                    if code:
                        wrong.append(f"{name} {code}")
                        return
                if word.value != (number + 1) * 0x01010101:
                    wrong.append(f"read {word.value:x} in thread {number}")
                rounds[number] += 1

        all_ = [threading.Thread(target=work, args=(number,)) for number in range(int(count))]
        for one in all_:
            one.start()
        for one in all_:
            one.join()
        return {"rounds": rounds, "wrong": wrong}

    def let_go(self):
        """Lets go of the primary context once; whether it is active then."""
        flags, active = c.c_uint(), c.c_int()
        self.must("cuDevicePrimaryCtxRelease_v2", self.device)
        self.must("cuDevicePrimaryCtxGetState", self.device, c.byref(flags), c.byref(active))
        return {"active": active.value}

    def renew(self, reset=0):
        """Lets the primary context go, and makes it and what was in it again; whether it was active in between."""
        flags, active, context = c.c_uint(), c.c_int(), c.c_void_p()
        self.must("cuDevicePrimaryCtxReset_v2" if int(reset) else "cuDevicePrimaryCtxRelease_v2", self.device)
        self.must("cuDevicePrimaryCtxGetState", self.device, c.byref(flags), c.byref(active))
        self.must("cuDevicePrimaryCtxRetain", c.byref(context), self.device)
        self.must("cuCtxSetCurrent", context)
        self.context, self.stream = context, None
        return {"active": active.value, **self.load()}


def client():
    self = Client()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        try:
            answer = getattr(self, name)(*arguments)
        except Exception as problem:  # what the driver says is the answer
            answer = {"error": str(problem)}
        print(json.dumps({"is": name, **answer}), flush=True)


# ---------------------------------------------------------------- from outside


class Held:
    def __init__(self, env=None, wrap=()):
        self.process = subprocess.Popen([*wrap, sys.executable, __file__, "client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.pid = self.line(10).get("pid")

    def line(self, seconds=20):
        result = []
        reader = threading.Thread(target=lambda: result.append(self.process.stdout.readline()), daemon=True)
        reader.start()
        reader.join(seconds)
        return json.loads(result[0]) if result and result[0].strip() else {"answer": "none", "status": self.process.poll()}

    def send(self, *words):
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def ask(self, *words, seconds=20):
        self.send(*words)
        return self.line(seconds)

    def end(self):
        self.process.kill()
        self.process.wait()


nv = c.CDLL("libnvidia-ml.so.1")
gpu = c.c_void_p()


class Info(c.Structure):
    _fields_ = [("pid", c.c_uint), ("memory", c.c_ulonglong), ("gi", c.c_uint), ("ci", c.c_uint)]


class Memory(c.Structure):
    _fields_ = [("total", c.c_ulonglong), ("free", c.c_ulonglong), ("used", c.c_ulonglong)]


def listed(name):
    count, rows = c.c_uint(64), (Info * 64)()
    code = getattr(nv, name)(gpu, c.byref(count), rows)
    return {rows[i].pid: rows[i].memory // MIB if rows[i].memory < 1 << 60 else None for i in range(count.value)} if code == 0 else f"error {code}"


def used():
    memory = Memory()
    nv.nvmlDeviceGetMemoryInfo(gpu, c.byref(memory))
    return memory.used // MIB


def show(what, value=""):
    print(f"{time.monotonic() - BEGAN:7.2f}  {what:<46} {value}", flush=True)


def lists(what):
    show(what, f"card {used()} MiB  compute {listed('nvmlDeviceGetComputeRunningProcesses_v3')}  mps {listed('nvmlDeviceGetMPSComputeRunningProcesses_v3')}")


@contextmanager
def control(*arguments):
    program = shutil.which("nvidia-cuda-mps-control")
    with tempfile.TemporaryDirectory(prefix="mps-facts-") as folder:
        env = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for name in ("pipe", "log"):
            os.mkdir(f"{folder}/{name}")
        began = time.monotonic()
        daemon = subprocess.Popen([program, *(arguments or ("-f",))], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while not os.path.exists(f"{folder}/pipe/control") and time.monotonic() < began + 10:
            time.sleep(0.002)
        show("MPS control up after ms", (time.monotonic() - began) * 1e3)

        def told(command):
            done = subprocess.run([program], input=command + "\n", text=True, env=env, timeout=20, capture_output=True)
            return (done.stdout + done.stderr).strip().replace("\n", " | ")

        yield env, told, folder
        began = time.monotonic()
        show("quit", told("quit -t 2"))
        try:
            daemon.wait(8)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)
            show("quit did not end it")
        show("MPS ended after ms", (time.monotonic() - began) * 1e3)


def log(folder, name="server.log", lines=12):
    path = Path(folder, "log", name)
    show("logs", sorted((p.name, p.stat().st_size) for p in Path(folder, "log").iterdir()))
    for line in (path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else ["no " + name]):
        print("          ", name, line)


def memory():
    show("--- memory and lists under MPS")
    lists("before")
    with control() as (env, told, folder):
        show("in the pipe folder", [(p.name, oct(p.stat().st_mode)) for p in sorted(Path(folder, "pipe").iterdir())])
        one = Held(env)
        show("first client", one.ask("init"))
        show("in the pipe folder", [p.name for p in sorted(Path(folder, "pipe").iterdir())])
        lists("one context")
        two = Held(env | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=4G"})
        show("second client, 25 %, 4 GiB", two.ask("init"))
        lists("two contexts")
        show("pids", (one.pid, two.pid))
        for mib in (2, 1024):
            show(f"first allocates {mib}", one.ask("alloc", mib))
            lists("after")
        show("second allocates 2048", two.ask("alloc", 2048))
        lists("after")
        show("second allocates 2048 more", two.ask("alloc", 2048))
        show("first loads a module", one.ask("load"))
        lists("after")
        show("second loads a module", two.ask("load"))
        lists("after")
        show("second, memory", two.ask("memory"))
        for command in ("get_server_list", "ps", "get_default_active_thread_percentage"):
            show(command, told(command))
        server = told("get_server_list").split()[0]
        for command in (f"get_client_list {server}", f"get_server_status {server}", f"get_device_client_list {server}", f"get_active_thread_percentage {server}"):
            show(command, told(command))
        three = Held(env, ("unshare", "--pid", "--fork", "--mount-proc"))
        show("client in a PID namespace", three.ask("init"))
        show("its own pid, and clients", (three.pid, told(f"get_client_list {server}")))
        lists("three")
        show("alloc 512 there", three.ask("alloc", 512))
        lists("after")
        show("an SM count for a context of its own", [one.ask("affinity", n) for n in (10, 66)])
        show(f"set_active_thread_percentage {server} 50", told(f"set_active_thread_percentage {server} 50"))
        four = Held(env)
        show("client after that", four.ask("init"))
        lists("four")
        lone = Held(env | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "12.5", "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING": "1"})
        show("client of 12.5 %, partitioned per context", lone.ask("init"))
        show("terminate_client of the first", told(f"terminate_client {server} {one.pid}"))
        show("first, alloc", one.ask("alloc", 1))
        lists("after")
        log(folder)
        for held in (one, two, three, four, lone):
            held.end()
        time.sleep(0.5)
        lists("clients dead")
    lists("server gone")


def speed():
    show("--- kernels of two clients side by side")
    with control() as (env, told, folder):
        for caps in ((100, 100), (50, 50), (30, 70)):
            held = [Held(env | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(cap)}) for cap in caps]
            for one in held:
                one.ask("init"), one.ask("load"), one.ask("one", 1000)
            alone = [one.ask("loop", 0.4, 1000) for one in held]
            for one in held:
                one.send("loop", 0.6, 1000)
            both = [one.line() for one in held]
            show(f"caps {caps}: alone, together", (alone, both))
            for one in held:
                one.end()


def faults():
    show("--- faults under MPS")
    with control() as (env, told, folder):
        culprit, victim = Held(env), Held(env)
        for one in (culprit, victim):
            one.ask("init"), one.ask("load"), one.ask("one", 100)
        server = told("get_server_list").split()[0]
        victim.send("loop", 8)
        time.sleep(0.3)
        began = time.monotonic()
        show("illegal address", culprit.ask("fault"))
        show("status right after", told(f"get_server_status {server}"))
        show("victim", victim.line(12))
        show("a new client meanwhile", Held(env).ask("init", seconds=15))
        show("s since the fault", time.monotonic() - began)
        show("servers, status", (told("get_server_list"), told(f"get_server_status {server}")))
        culprit.end(), victim.end()
        began = time.monotonic()
        fresh = Held(env)
        show("a new client after both have ended", fresh.ask("init", seconds=15))
        show("servers", told("get_server_list"))
        log(folder)
        log(folder, "control.log", 6)
        other = Held(env)
        other.ask("init"), other.ask("load")
        other.send("loop", 6)
        time.sleep(0.3)
        server = int(told("get_server_list").split()[-1])
        os.kill(server, signal.SIGKILL)
        began = time.monotonic()
        show("server killed: a client's next error", other.line(12))
        show("and alloc, then init anew", (other.ask("alloc", 1), other.ask("init")))
        last = Held(env)
        show("a new client", last.ask("init", seconds=15))
        show("s since the kill; servers", (time.monotonic() - began, told("get_server_list")))
        log(folder, "control.log", 6)
        for one in (fresh, other, last):
            one.end()
    show("--- two servers, an illegal address in one")
    with control() as (env, told, folder), control() as (env2, told2, folder2):
        culprit, victim = Held(env), Held(env2)
        for one in (culprit, victim):
            one.ask("init"), one.ask("load"), one.ask("one", 100)
        victim.send("loop", 4)
        time.sleep(0.3)
        show("culprit", culprit.ask("fault"))
        culprit.end()
        show("victim in the other server", victim.line(30))
        victim.end()
    show("--- without MPS, an illegal address beside a loop")
    culprit, victim = Held(), Held()
    for one in (culprit, victim):
        one.ask("init"), one.ask("load"), one.ask("one", 100)
    victim.send("loop", 4)
    time.sleep(0.3)
    show("culprit", culprit.ask("fault"))
    culprit.end()
    show("victim", victim.line(40))
    victim.end()


class Args(c.Structure):
    _fields_ = [("timeout", c.c_uint), ("reserved", c.c_uint * 17)]


def checkpoint():
    show("--- checkpoints")
    cu = c.CDLL("libcuda.so.1")
    show("cuInit of the one who asks", cu.cuInit(0))

    def call(name, pid, *arguments):
        began = time.monotonic()
        code = getattr(cu, name)(pid, *arguments)
        return f"{name[19:] if name.startswith('cuCheckpointProcess') else name} {code} in {(time.monotonic() - began) * 1e3:.1f} ms"

    def state(pid):
        value = c.c_int(-1)
        code = cu.cuCheckpointProcessGetState(pid, c.byref(value))
        return f"state {value.value} ({code})"

    for wrap, what in (((), "plain"), (("unshare", "--pid", "--fork", "--mount-proc"), "in a PID namespace")):
        held = Held(wrap=wrap)
        held.ask("init"), held.ask("load"), held.ask("alloc", 4096), held.ask("fill", 7)
        pid = held.pid
        if wrap:
            pid = int(Path(f"/proc/{held.process.pid}/task/{held.process.pid}/children").read_text().split()[0])
        lists(what)
        show("before", state(pid))
        none = Args()
        lock = Args(5000)
        show("lock", (call("cuCheckpointProcessLock", pid, c.byref(lock)), state(pid)))
        held.send("one", 100)
        time.sleep(0.2)
        show("checkpoint", (call("cuCheckpointProcessCheckpoint", pid, c.byref(none)), state(pid)))
        lists("while away")
        show("resident MiB of it", [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")])
        restore = (c.c_ubyte * 128)()
        show("restore", (call("cuCheckpointProcessRestore", pid, restore), state(pid)))
        lists("restored")
        show("unlock", (call("cuCheckpointProcessUnlock", pid, c.byref(none)), state(pid)))
        show("the launch that was held up", held.line())
        show("its memory", held.ask("read"))
        show("lock while it works", (held.send("loop", 2), call("cuCheckpointProcessLock", pid, c.byref(lock)), call("cuCheckpointProcessUnlock", pid, c.byref(none)), held.line()))
        show("killed while checkpointed", (call("cuCheckpointProcessLock", pid, c.byref(lock)), call("cuCheckpointProcessCheckpoint", pid, c.byref(none))))
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        show("after", (state(pid), call("cuCheckpointProcessRestore", pid, restore)))
        held.end()
    lists("end")
    with control() as (env, told, folder):
        held = Held(env)
        held.ask("init"), held.ask("alloc", 64)
        show("lock of an MPS client", (call("cuCheckpointProcessLock", held.pid, c.byref(Args(1000))), state(held.pid), call("cuCheckpointProcessCheckpoint", held.pid, c.byref(Args())), call("cuCheckpointProcessUnlock", held.pid, c.byref(Args()))))
        show("it goes on", held.ask("alloc", 64))
        held.end()


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        client()
        sys.exit()
    BEGAN = time.monotonic()
    nv.nvmlInit_v2()
    nv.nvmlDeviceGetHandleByIndex_v2(0, c.byref(gpu))
    for part in sys.argv[1:] or ("memory", "speed", "checkpoint", "faults"):
        try:
            {"memory": memory, "speed": speed, "checkpoint": checkpoint, "faults": faults}[part]()
        except Exception as problem:  # the rest is still worth knowing
            show(f"{part} stopped", repr(problem))
