#!/usr/bin/env python3
"""Containers in slices, with a real engine: `podman run --device cleave.dev/slice=NAME` on a simulated H100.

    tests/container/containers.py [CLEAVE]         CLEAVE: the binary, target/debug/cleave if not given

Needs root, podman 4 with crun or runc, and gcc. Where one is missing, or podman can't run any container, it says
"skipped: why" and exits with 0.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

from common import HERE, PATIENCE, REPOSITORY, Client, Program, compile_c, expect, main, output, rows, run, skip, tmpfs, within

QUOTA = 8192
OUT_OF_MEMORY = 2
IMAGE = "cleave-test"
NODE = Path("/run/node")


class Node(Client):
    """A daemon with one simulated H100."""

    def __init__(self, binary):
        super().__init__(binary)
        self.log = open(NODE / "log", "a")
        self.start()

    def start(self):
        self.daemon = subprocess.Popen([*self.command, "daemon"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        within(PATIENCE, "the daemon answers", self.answers)

    def card_used(self):
        """MiB in use on the card, as NVML says on the host."""
        return self.json("gpus")["items"][0]["used_bytes"] >> 20


def limits():
    """The engine's own limits may be above those of this machine, which not every root may raise."""
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(number)[1]
        most = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        yield f"--ulimit={name}={most}:{most}"


def podman(*arguments):
    return ["podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", *arguments]


SLICE = "--device=cleave.dev/slice=a"


def in_container(*arguments, options=(SLICE,)):
    return podman("run", "--rm", "-i", "--network=none", "--cgroups=disabled", *limits(), *options, IMAGE, *arguments)


class Held(Program):
    """A program in a container of its own. It is read while it runs: podman now and then loses the last words of one
    that ends at once."""

    count = 0

    def __init__(self, *arguments, options=()):
        Held.count += 1
        self.name = f"c{Held.count}"
        super().__init__(in_container(*arguments, "--hold", options=[SLICE, f"--name={self.name}", *options]))

    def host_pid(self):
        return int(output(podman("inspect", "--format={{.State.Pid}}", self.name)))

    def exec(self, *arguments):
        """What another program in the container says."""
        with Program(podman("exec", "-i", self.name, *arguments)) as program:
            return program.line()


def in_a_container(*arguments, options=()):
    with Held(*arguments, options=options) as container:
        return container.line()


def is_held(said, least=QUOTA // 2):
    """Out of memory after at least `least` MiB and within the quota, on a card of the quota's size."""
    expect(said["error"] == OUT_OF_MEMORY and least <= said["got_mib"] <= QUOTA, f"{said}")
    expect(said["info_total_mib"] == QUOTA, f"{said}")


def image():
    """An image of the few programs that are run in it, and of the libraries that they and both drivers need."""
    root = NODE / "image"
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "usr/bin", "run"):
        (root / folder).mkdir(parents=True)
    for source in (REPOSITORY / "tests/gpu/escape.c", HERE / "nvml.c"):
        compile_c(source, root / "bin" / source.stem)
    shutil.copy(shutil.which("env"), root / "usr/bin/env")
    ours = [root / "bin/escape", root / "bin/nvml", root / "usr/bin/env"]
    for program in ours + [NODE / "run" / place / "libcuda.so.1" for place in ("lib", "driver")]:
        for word in output(["ldd", program]).split():
            if word.startswith("/"):
                to = root / word[1:]
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, to)
    archive = NODE / "image.tar"
    output(["tar", "-C", root, "-cf", archive, "."])
    output(podman("import", archive, IMAGE))


def the_quota_holds():
    is_held(in_a_container("/bin/escape", "alloc"))


def it_holds_on_every_name():
    for arguments in (["--lib", "libcuda.so"], ["--via", "getproc"], ["--via", "ptsz"]):
        is_held(in_a_container("/bin/escape", "alloc", *arguments))
    for path in ("async", "pool", "create", "array", "graph-node", "module", "threads"):
        is_held(in_a_container("/bin/escape", path))


def it_holds_on_every_path_and_without_environment():
    (device,) = json.loads(Path("/run/cdi/cleave.dev-slice-a.json").read_text())["devices"]
    paths = [mount["containerPath"] for mount in device["containerEdits"]["mounts"]]
    paths = [path for path in paths if "libcuda.so" in path]
    expect(len(paths) >= 6, f"{paths}")
    is_held(in_a_container("/usr/bin/env", "-i", "/bin/escape", "alloc"))
    for path in paths:
        is_held(in_a_container("/usr/bin/env", "-i", "/bin/escape", "alloc", "--lib", path))


def it_holds_for_another_user():
    is_held(in_a_container("/bin/escape", "alloc", options=["--user=1000:1000"]))


def it_holds_in_a_forked_child():
    with Held("/bin/escape", "fork", "--step", "64") as container:
        said = [container.line(), container.line()]
        expect({1, 2} == {line["pid"] for line in said}, f"{said}")
        expect(all(line["error"] == OUT_OF_MEMORY for line in said), f"{said}")
        got = sum(line["got_mib"] for line in said)
        expect(QUOTA // 2 <= got <= node.used() <= QUOTA, f"{said}, {node.used()} charged")
        expect(container.host_pid() in node.pids() and len(node.pids()) == 2, f"{node.pids()}")


def two_containers_share_it():
    with Held("/bin/escape", "alloc", "--ask", "4096") as first:
        said = first.line()
        expect(said["got_mib"] == 4096 and said["pid"] == 1, f"{said}")
        with Held("/bin/escape", "alloc") as second:
            is_held(second.line(), 2048)
            used = node.used()
            expect(4096 + 2048 <= used <= QUOTA, f"{used} charged")
            # Both are process 1 of their own; the host knows them apart, by its own ids.
            hosts = sorted([first.host_pid(), second.host_pid()])
            expect(node.pids() == hosts, f"{node.pids()} in the slice, {hosts} on the host")
            expect(node.card_used() == used, f"{used} MiB charged, but {node.card_used()} used on the card")


def nvml_shows_a_container_its_own_processes():
    ask = ("/bin/escape", "alloc", "--ask", "1024")
    with Held(*ask) as first, Held(*ask) as second:
        for container in first, second:
            container.line()
        for container in first, second:
            said = container.exec("/bin/nvml")
            expect(said == {"total_mib": QUOTA, "pids": [1]}, f"{said}")


def what_opens_the_real_driver_itself_is_seen():
    # It lies where the stand-in opens it, and no library can keep a program from doing the same.
    with Held("/bin/escape", "alloc", "--lib", "/run/cleave/driver/libcuda.so.1") as container:
        said, pid = container.line(), container.host_pid()
        expect(said["error"] == 0 and not node.pids(), f"{said}, {node.pids()}")
        seen = lambda: [event for event in node.json("events")["items"] if event["kind"] == "bypass" and str(pid) in event["message"]]
        within(PATIENCE, "an event", seen)


def a29_a_killed_container_leaves_nothing():
    ways = {
        "its init": lambda container: os.kill(container.host_pid(), signal.SIGKILL),
        "podman kill": lambda container: output(podman("kill", container.name)),
    }
    for way, kill in ways.items():
        with Held("/bin/escape", "fork", "--ask", "2048") as container:
            container.line(), container.line()
            expect(node.used() >= 4096, f"{node.used()} charged")
            kill(container)
            within(2, f"{way} killed: an empty slice", node.is_empty)
            container.process.wait(PATIENCE)


def a_container_outlives_the_daemon():
    with Held("/bin/escape", "alloc", "--ask", "4096") as container:
        container.line()
        before = node.used(), node.pids()
        node.daemon.kill()
        node.daemon.wait()
        node.start()
        expect((node.used(), node.pids()) == before, f"{before} became {node.used()}, {node.pids()}")
        # Who comes now finds the new daemon behind the same mount.
        is_held(container.exec("/bin/escape", "alloc", "--hold"), 2048)


ROWS = [
    the_quota_holds,
    it_holds_on_every_name,
    it_holds_on_every_path_and_without_environment,
    it_holds_for_another_user,
    it_holds_in_a_forked_child,
    two_containers_share_it,
    nvml_shows_a_container_its_own_processes,
    what_opens_the_real_driver_itself_is_seen,
    a29_a_killed_container_leaves_nothing,
    a_container_outlives_the_daemon,
]


def inside(binary):
    global node
    # podman's store, the image and the specs: nothing of it stays.
    tmpfs("/run", "/var/lib")
    # crun refuses to work where both versions of cgroups are mounted; here none is needed.
    if Path("/sys/fs/cgroup/unified").is_mount():
        output(["umount", "/sys/fs/cgroup/unified"])
    NODE.mkdir(mode=0o755)
    os.environ.update(CLEAVE_SIM="1xH100", CLEAVE_RUN_DIR=str(NODE / "run"), NO_COLOR="1")
    node = Node(binary)
    image()
    if (plain := run(in_container("/usr/bin/env", options=()))).returncode:
        skip(f"podman can't run a container here: {plain.stderr.strip()}")
    node.cleave("slice", "create", "--name", "a", "--memory", f"{QUOTA}MiB")
    node.cleave("cdi", "a", "--write")
    failed = rows(ROWS, before=lambda: within(PATIENCE, "the slice is empty", node.is_empty))
    if failed:
        print(f"\nthe daemon said:\n{(NODE / 'log').read_text()}")
    return failed


if __name__ == "__main__":
    main("containers in slices", ["podman", "ldd", "tar"], inside)
