#!/usr/bin/env python3
"""packaging/systemd/cleave.service under a real systemd, with a simulated H100 in the driver's place.

    tests/container/unit.py [CLEAVE]         CLEAVE: the binary, target/debug/cleave if not given

The machine's own / is the lower layer of an overlay, in which another systemd runs as the first process of namespaces of
its own. Needs root, systemd and gcc. Where that can't be had it says "skipped: why" and exits with 0.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from common import PATIENCE, REPOSITORY, UNIT, Client, Program, compile_c, expect, main, output, rows, run, skip, tmpfs, within

ROOT = Path("/run/unit/root")
DROP_IN = ROOT / "etc/systemd/system/cleave.service.d/simulated.conf"
SIMULATED = {"CLEAVE_SIM": "1xH100", "CLEAVE_RUN_DIR": "/run/cleave", "CLEAVE_STATE_DIR": "/var/lib/cleave"}
SYSTEMD = "/lib/systemd/systemd"


def configure(environment):
    DROP_IN.parent.mkdir(exist_ok=True)
    variables = " ".join(f"{key}={value}" for key, value in environment.items())
    DROP_IN.write_text(f"[Service]\nEnvironment={variables}\n")


def system(binary):
    """The root of the other system: this one's, with the unit, and little else to start."""
    for folder in ("upper", "work", "root"):
        (ROOT.parent / folder).mkdir(parents=True)
    layers = ",".join(f"{key}={ROOT.parent / folder}" for key, folder in (("upperdir", "upper"), ("workdir", "work")))
    made = run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,{layers}", ROOT])
    if made.returncode:
        skip(f"the systemd unit: no overlay: {made.stderr.strip()}")
    tmpfs(ROOT / "run", ROOT / "var/lib", ROOT / "tmp", ROOT / "dev")
    for node in ("null", "zero", "urandom", "random"):
        (ROOT / "dev" / node).touch()
        output(["mount", "--bind", f"/dev/{node}", ROOT / "dev" / node])
    output(["mount", "-t", "sysfs", "-o", "ro", "sysfs", ROOT / "sys"])
    units = ROOT / "etc/systemd/system"
    for wants in [*units.glob("*.wants"), *(ROOT / "lib/systemd/system").glob("*.wants")]:
        shutil.rmtree(wants)
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (units / "systemd-journald.service").symlink_to("/dev/null")
    (ROOT / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    shutil.copy(UNIT, units)
    (ROOT / "usr/bin/cleave").unlink(missing_ok=True)
    shutil.copy(binary, ROOT / "usr/bin/cleave")
    compile_c(REPOSITORY / "tests/gpu/escape.c", ROOT / "usr/bin/escape")
    configure(SIMULATED)


def boot():
    """Starts it; returns the command that enters it."""
    script = f"""
        mount -t cgroup2 cgroup2 {ROOT}/sys/fs/cgroup && mount --bind {ROOT}/proc/sys {ROOT}/proc/sys &&
        mount -o remount,bind,ro {ROOT}/proc/sys && exec chroot {ROOT} {SYSTEMD} --system --log-target=console
    """
    namespaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child", f"--mount-proc={ROOT}/proc"]
    with open(ROOT.parent / "log", "w") as log:
        outer = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"container": "cleave-test", "PATH": os.environ["PATH"]},
        )  # fmt: skip
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    within(PATIENCE, "systemd starts", lambda: outer.poll() is not None or children.read_text())
    if outer.poll() is None:
        pid = children.read_text().strip()
        inside = ["nsenter", "--target", pid, "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--root", "--wd"]
        end = time.monotonic() + PATIENCE
        while outer.poll() is None and time.monotonic() < end:
            if run([*inside, "systemctl", "is-system-running"]).stdout.strip() in ("running", "degraded"):
                return inside
            time.sleep(0.1)
    skip(f"the systemd unit: systemd does not start here: {(ROOT.parent / 'log').read_text()[-2000:]}")


def systemctl(*arguments):
    return output([*inside_it, "systemctl", *arguments])


def shown(name):
    return systemctl("show", "--property", name, "--value", "cleave").strip()


def held():
    return Program([*node.command, "exec", "a", "--", "escape", "alloc", "--ask", "1024", "--hold"])


def the_unit_is_well_formed():
    node.cleave("man", "/usr/share/man/man1")
    done = run([*inside_it, "systemd-analyze", "verify", "/etc/systemd/system/cleave.service"])
    expect(done.returncode == 0 and "cleave" not in done.stderr, f"{done.returncode}: {done.stderr}")


def it_is_not_active_without_a_driver():
    configure({"CLEAVE_DRIVER_LIBRARY_DIR": "/nowhere"})
    systemctl("daemon-reload")
    done = run([*inside_it, "systemctl", "start", "cleave"])
    expect(done.returncode == 1 and shown("ActiveState") != "active", f"{done}, {shown('ActiveState')}")
    systemctl("stop", "cleave")
    configure(SIMULATED)
    systemctl("daemon-reload")


def it_is_ready_when_it_says_so():
    systemctl("enable", "--now", "cleave")
    expect(shown("ActiveState") == "active" and node.answers(), "active, but does not answer")
    status = node.json("status")
    expect(str(status["pid"]) == shown("MainPID"), f"{status['pid']} is not {shown('MainPID')}")
    node.cleave("slice", "create", "--name", "a", "--memory", "8GiB")


def restarts_adopt_what_runs():
    ways = {
        "restart": lambda: systemctl("restart", "cleave"),
        "kill -9": lambda: systemctl("kill", "--kill-whom=main", "--signal=KILL", "cleave"),
        "stop and start": lambda: (systemctl("stop", "cleave"), systemctl("start", "cleave")),
    }
    with held() as program:
        program.line()
        before = node.used(), node.pids()
        expect(before[0] > 1024 and len(before[1]) == 1, f"{before}")
        for way, restart in ways.items():
            old = shown("MainPID")
            restart()
            within(PATIENCE, f"{way}: another daemon answers", lambda: shown("MainPID") not in ("0", old) and node.answers())
            expect((node.used(), node.pids()) == before, f"{way}: {before} became {node.used()}, {node.pids()}")
        with held() as other:
            other.line()
            expect(len(node.pids()) == 2, f"{node.pids()}")
    within(PATIENCE, "the slice is empty", node.is_empty)


def not_even_root_of_a_slice_writes_its_limits():
    # The unit must leave the daemon the right to make the read-only mount that this rests on.
    with held() as program:
        program.line()
        (pid,) = node.pids()
        script = f"""
            for file in /proc/{pid}/map_files/*; do
                case $(readlink $file) in */policy)
                    if true 3<>$file; then echo "$file can be written"; fi
                esac
            done
        """
        said = run([*inside_it, "sh", "-c", script])
        expect("Read-only file system" in said.stderr and not said.stdout, f"{said.stdout}{said.stderr}")


def stopped_it_leaves_programs_alone():
    with held() as program:
        program.line()
        systemctl("disable", "--now", "cleave")
        expect(shown("ActiveState") == "inactive" and program.process.poll() is None, shown("ActiveState"))
        kept = [ROOT / "run/cleave/slices", ROOT / "var/lib/cleave/cleave.db"]
        # Seen from outside through the other system's mounts, which are private to it: so it has to be asked.
        output([*inside_it, "ls", *("/" + str(path.relative_to(ROOT)) for path in kept)])
        systemctl("start", "cleave")
        expect(len(node.pids()) == 1, f"{node.pids()}")


def the_service_manager_is_told():
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        for name, shown_as in ((f"{folder}/notify", f"{folder}/notify"), (f"\0{folder}", f"@{folder}")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(name)
                manager.settimeout(PATIENCE)
                environment = {**os.environ, "NOTIFY_SOCKET": shown_as, "CLEAVE_SIM": "1xH100", "CLEAVE_RUN_DIR": f"{folder}/run"}
                daemon = subprocess.Popen([outside, "daemon"], env=environment, stderr=subprocess.DEVNULL)
                try:
                    said = [manager.recv(4096)]
                    expect(Client(outside, "--run-dir", f"{folder}/run").answers(), "READY=1, but does not answer")
                    daemon.send_signal(signal.SIGTERM)
                    said.append(manager.recv(4096))
                    expect(said == [b"READY=1", b"STOPPING=1"], f"{shown_as}: {said}")
                    expect(daemon.wait(PATIENCE) == 0, f"{daemon.returncode}")
                finally:
                    daemon.kill()
                    daemon.wait()


ROWS = [
    the_unit_is_well_formed,
    it_is_not_active_without_a_driver,
    it_is_ready_when_it_says_so,
    restarts_adopt_what_runs,
    not_even_root_of_a_slice_writes_its_limits,
    stopped_it_leaves_programs_alone,
    the_service_manager_is_told,
]


def inside(binary):
    global node, inside_it, outside
    outside = binary
    tmpfs("/run")
    system(binary)
    inside_it = boot()
    node = Client(*inside_it, "env", *(f"{key}={value}" for key, value in SIMULATED.items()), "cleave")
    failed = rows(ROWS)
    if failed:
        print(f"\nsystemd and the daemon said:\n{(ROOT.parent / 'log').read_text()}")
    return failed


def in_a_control_group(next_stage):
    """systemd needs one to make others in; what it made goes when all processes in it are gone."""
    mount = Path("/run/cleave-test-cgroup")
    tmpfs("/run")
    mount.mkdir()
    if (made := run(["mount", "-t", "cgroup2", "cgroup2", mount])).returncode:
        skip(f"the systemd unit: no control groups: {made.stderr.strip()}")
    group = mount / f"cleave-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        skip(f"the systemd unit: no control group of its own: {error}")
    try:
        return next_stage(preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    finally:
        (group / "cgroup.kill").write_text("1")
        within(PATIENCE, "the control group is empty", lambda: "populated 0" in (group / "cgroup.events").read_text())
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)


if __name__ == "__main__":
    tools = ["systemctl", "systemd-analyze", "nsenter", "chroot"]
    if not Path(SYSTEMD).exists():
        skip(f"the systemd unit: no {SYSTEMD}")
    main("the systemd unit", tools, inside, in_a_control_group)
