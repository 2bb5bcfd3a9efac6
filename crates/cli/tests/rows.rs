//! Requirements that no other test holds, each named by its row.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, MIB, PATIENCE, Place, number, within};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{stderr, stdout};

/// A user who owns nothing.
const NOBODY: u32 = 65534;
/// What is promised of A29.
const PROMISED: Duration = Duration::from_secs(2);

fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// Does what it is told, by CUDA and NVML alone, and tells in JSON.
const ASKED: &str = r#"
import ctypes, json, os, sys
cuda, nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
number, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]
def look():
    count, whole, free, total, handle, memory = number(), size(), size(), size(), pointer(), Memory()
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    assert cuda.cuDeviceTotalMem_v2(ctypes.byref(whole), 0) == 0
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0
    assert nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    # Counters of the whole card, and of any instance of it: what the neighbours do.
    sample = pointer()
    assert nvml.nvmlGpmSampleAlloc(ctypes.byref(sample)) == 0
    counters = [nvml.nvmlGpmSampleGet(handle, sample), nvml.nvmlGpmMigSampleGet(handle, 0, sample)]
    assert nvml.nvmlGpmSampleFree(sample) == 0
    return {"counters": counters, "pid": os.getpid(), "devices": count.value, "device_total": whole.value, "total": total.value,
            "free": free.value, "nvml_total": memory.total, "nvml_used": memory.used}
def take(mib):
    at = ctypes.c_ulonglong()
    return {"error": cuda.cuMemAlloc_v2(ctypes.byref(at), size(mib << 20))}
context = pointer()
assert cuda.cuInit(0) == 0 and nvml.nvmlInit_v2() == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and cuda.cuCtxSetCurrent(context) == 0
for line in sys.stdin:
    what, *rest = line.split()
    print(json.dumps(take(int(rest[0])) if what == "take" else look()), flush=True)
"#;
const ASKED_PROGRAM: [&str; 3] = ["python3", "-c", ASKED];
const OUT_OF_MEMORY: u64 = 2;
/// NVML's.
const NO_PERMISSION: u64 = 4;

/// One MiB more than the budget is refused, and so is what passes it in sum; who keeps to its own budget notices nothing.
#[test]
fn a5_a_budget_is_held_and_the_neighbours_keep_running() {
    let place = Place::new("1xH100");
    let budget = 10 << 10;
    for name in ["s0", "s1", "s2"] {
        place.ok(&["slice", "create", "--memory", "10GiB", "--name", name]);
    }
    let mut neighbours = ["s1", "s2"].map(|name| place.start(name, &ASKED_PROGRAM));
    for neighbour in &mut neighbours {
        assert_eq!(neighbour.ask("take 4096")["error"], 0);
    }
    let mut program = place.start("s0", &ASKED_PROGRAM);
    assert_eq!(program.ask(&format!("take {}", budget + 1))["error"], OUT_OF_MEMORY);
    let looked = program.ask("look");
    assert_eq!(looked["counters"], serde_json::json!([NO_PERMISSION, NO_PERMISSION]), "{looked}");
    let context = number(&looked["nvml_used"]).div_ceil(MIB);
    let room = budget - context;
    for (mib, error) in [(room + 1, OUT_OF_MEMORY), (room / 2, 0), (room / 2 + 2, OUT_OF_MEMORY), (room / 4, 0)] {
        assert_eq!(program.ask(&format!("take {mib}"))["error"], error, "{mib} of {room}");
        for neighbour in &mut neighbours {
            assert_eq!(neighbour.ask("take 256")["error"], 0, "a neighbour");
        }
    }
    for (name, denied) in [("s0", 3), ("s1", 0), ("s2", 0)] {
        assert_eq!(place.show(name)["denied_total"], denied, "{name}");
    }
    assert!(place.used("s0").0 <= budget * MIB);
    program.end();
    for neighbour in neighbours {
        neighbour.end();
    }
}

/// CUDA and NVML report the quota as the card's size, and the slice's use as its use.
#[test]
fn a7_a_slice_looks_like_a_card_of_its_own() {
    let place = Place::new("2xH100");
    place.ok(&["slice", "create", "--gpu", "0", "--memory", "10GiB", "--name", "other"]);
    let mut other = place.start("other", &ASKED_PROGRAM);
    other.ask("take 8192");
    let quota = 12u64 << 30;
    place.ok(&["slice", "create", "--gpu", "0", "--memory", "12GiB", "--name", "a"]);
    for hold in ["auto", "environment"] {
        let run = ["exec", "a", "--hold", hold, "--"];
        let mut program = Held::new(place.cleave(&[&run, &ASKED_PROGRAM[..]].concat()));
        let fresh = program.ask("look");
        for key in ["device_total", "total", "nvml_total"] {
            assert_eq!(fresh[key], quota, "{hold} {key}: {fresh}");
        }
        assert_eq!(fresh["devices"], 1, "{fresh}");
        assert!(number(&fresh["nvml_used"]) < 1 << 30, "what the neighbour uses is not shown: {fresh}");
        program.ask("take 1024");
        let later = program.ask("look");
        let grown = |key: &str| number(&later[key]).abs_diff(number(&fresh[key]));
        assert_eq!((grown("free"), grown("nvml_used")), (1 << 30, 1 << 30), "{fresh} {later}");
        program.end();
        within(PATIENCE, "it has gone", || place.is_empty("a"));
    }
    other.end();
}

/// Waits until the program is shown a card of so many GiB, and gives its process id.
fn sees_quota(program: &mut Held, gib: u64) -> u64 {
    within(Duration::from_secs(1), "the new quota is seen", || number(&program.ask("look")["total"]) == gib << 30);
    number(&program.ask("look")["pid"])
}

/// A running program sees its new quota within a second and is held by it, as the same process.
#[test]
fn a10_a11_quotas_change_under_a_running_program() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
    let mut program = place.start("a", &ASKED_PROGRAM);
    let before = program.ask("look");
    assert_eq!(program.ask("take 9216")["error"], OUT_OF_MEMORY);
    let process = place.json(&["ps", "a"])["items"][0].clone();
    place.ok(&["slice", "resize", "a", "--memory", "12GiB"]);
    let mut pids = vec![sees_quota(&mut program, 12)];
    assert_eq!(program.ask("take 9216")["error"], 0, "what was refused fits now");
    let used = place.used("a").0;
    assert!(used >= 9216 * MIB);

    let said = place.fails(3, &["slice", "resize", "a", "--memory", "4GiB"]);
    assert!(said.contains("force") && said.contains("4 GiB asked"), "{said}");
    pids.push(sees_quota(&mut program, 12));
    place.ok(&["slice", "resize", "a", "--memory", "4GiB", "--force"]);
    pids.push(sees_quota(&mut program, 4));
    assert_eq!(place.used("a").0, used, "nothing is taken away");
    assert_eq!(program.ask("take 1")["error"], OUT_OF_MEMORY);
    assert!(pids.iter().all(|pid| *pid == number(&before["pid"])), "{pids:?}");
    let after = place.json(&["ps", "a"])["items"][0].clone();
    for key in ["pid", "since"] {
        assert_eq!(after[key], process[key], "{key}");
    }
    program.end();
}

/// The slice's id names it to CUDA and to the API, and stays when the daemon is another.
#[test]
fn a27_a_slice_has_an_id_of_its_own() {
    let place = Place::new("4xH100");
    place.ok(&["slice", "create", "--gpu", "1,3", "--memory", "8GiB", "--name", "a"]);
    let id = place.show("a")["id"].as_str().unwrap().to_owned();
    let hex: Vec<usize> = id.strip_prefix("SLICE-").unwrap().split('-').map(str::len).collect();
    assert_eq!(hex, [8, 4, 4, 4, 12], "{id}");
    let gpu = place.show("a")["devices"][1]["gpu_uuid"].as_str().unwrap().to_owned();
    for (visible, devices) in [(id.as_str(), 2), ("1", 1), (&gpu, 1), ("0,1", 2)] {
        let variable = format!("CUDA_VISIBLE_DEVICES={visible}");
        let mut program = place.start("a", &[&["env", &variable], &ASKED_PROGRAM[..]].concat());
        let seen = program.ask("look");
        assert_eq!((&seen["devices"], &seen["total"]), (&devices.into(), &(8u64 << 30).into()), "{visible}: {seen}");
        program.end();
    }
    place.ok(&["slice", "resize", &id, "--memory", "9GiB"]);
    place.ok(&["shutdown"]);
    assert_eq!(place.json(&["gpus"])["items"].as_array().unwrap().len(), 4, "another daemon");
    assert_eq!(place.show("a")["id"], id);
    assert_eq!(place.show(&id)["name"], "a");
}

/// 25, 35 and 40 % of one card fit, by memory and by compute; 1 % more does not.
#[test]
fn a8_the_splits_of_a_card_sum_up_to_all_of_it() {
    let memory = Place::new("1xH100");
    for percent in ["25%", "35%", "40%"] {
        memory.ok(&["slice", "create", "--memory", percent]);
    }
    let said = memory.fails(3, &["slice", "create", "--memory", "1%"]);
    // Quotas are whole MiB: less than one for each slice remains.
    let left: u64 = said.split(" MiB left").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(left <= 3, "{said}");

    let compute = Place::new("1xH100");
    for percent in ["25%", "35%", "40%"] {
        compute.ok(&["slice", "create", "--memory", "4GiB", "--compute", percent]);
    }
    let said = compute.fails(3, &["slice", "create", "--memory", "4GiB", "--compute", "1%"]);
    assert!(said.contains(" 0 % left"), "{said}");
    assert_eq!(compute.json(&["slice", "list"])["items"].as_array().unwrap().len(), 3);
    compute.ok(&["slice", "create", "--memory", "4GiB"]);
}

/// A fraction of a card is that fraction of its bytes, in whole MiB, and of its compute.
#[test]
fn a9_fractions_are_exact() {
    for (fraction, parts) in [("1/8", 8u64), ("1/4", 4), ("1/2", 2)] {
        let place = Place::new("1xH100");
        let card = number(&place.json(&["gpus"])["items"][0]["memory_bytes"]);
        let exact = card / parts / MIB * MIB;
        for n in 0..parts {
            let name = format!("s{n}");
            place.ok(&["slice", "create", "--fraction", fraction, "--name", &name]);
            let slice = place.show(&name);
            assert_eq!(number(&slice["devices"][0]["limit_bytes"]), exact, "{fraction}");
            assert_eq!(slice["compute_percent"], 100.0 / parts as f64, "{fraction}");
        }
        place.fails(3, &["slice", "create", "--fraction", "1/8"]);
    }
}

const CUDA_PROGRAM: &str = r#"
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
total, free, context = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
print(total.value, free.value)
"#;

const NVML_PROGRAM: &str = r#"
import pynvml
pynvml.nvmlInit()
assert pynvml.nvmlDeviceGetCount() == 1
info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
print(info.total, info.free)
"#;

/// What is written for the whole card finds a card of the quota's size, unmodified.
#[test]
fn a25_unmodified_programs_see_the_quota() {
    let place = Place::new("1xH100");
    let quota = 10u64 << 30;
    for hold in ["auto", "environment"] {
        let run = ["run", "--memory", "10GiB", "--no-summary", "--hold", hold, "--"];
        let sees = |program: &[&str]| {
            let out = place.ok(&[&run, program].concat());
            let numbers: Vec<u64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers[0], quota, "{hold} {out}");
            assert!(numbers[1] <= quota && numbers[1] > quota - (1 << 30), "{hold} {out}");
        };
        sees(&["python3", "-c", CUDA_PROGRAM]);
        let escape = place.compile("escape.c").display().to_string();
        let said = place.ok(&[&run[..], &[&escape, "alloc", "--ask", "256"]].concat());
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(number(&said["info_total_mib"]) * MIB, quota, "{said}");
        match std::env::var_os("CLEAVE_TEST_PYTHON").map(|dir| Path::new(&dir).join("pynvml")) {
            // Relative to where `cargo xtask` was called, if at all.
            Some(module) if module.exists() => {
                let module = format!("PYTHONPATH={}", module.canonicalize().unwrap().display());
                sees(&["env", &module, "python3", "-c", NVML_PROGRAM]);
            }
            Some(module) => panic!("CLEAVE_TEST_PYTHON is set, but there is no {}", module.display()),
            None => skipped("nvidia-ml-py in a slice: CLEAVE_TEST_PYTHON is not set"),
        }
    }
}

/// NVIDIA's CUDA runtimes, as PyPI has them, find the stand-in and look all their entry points up through it. They go no
/// further on a simulated card, because they want proof that the driver is NVIDIA's (exit status 77 of the script); on a
/// real one they do (tests/gpu/frameworks.py).
#[test]
fn a25_cuda_runtimes_find_their_entry_points() {
    let Some(packages) = std::env::var_os("CLEAVE_TEST_PYTHON").map(PathBuf::from) else {
        return skipped("the CUDA runtimes in a slice: CLEAVE_TEST_PYTHON is not set");
    };
    let place = Place::new("1xH100");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/fakegpu/tests/cudart.py");
    for package in ["cudart11", "cudart12", "cudart13", "cudart135"] {
        let library = tree(&packages.join(package))
            .into_iter()
            .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcudart.so.")));
        let library = library.unwrap_or_else(|| panic!("there is no runtime in {package}")).display().to_string();
        let program = ["run", "--memory", "10GiB", "--no-summary", "--", "python3", script, &library];
        let output = place.cleave(&program).output().unwrap();
        assert_eq!(output.status.code(), Some(77), "{package}: {}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).starts_with("not started"), "{package}: {}", stdout(&output));
    }
}

fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

/// Everything that cleave writes is listed by `cleave doctor`.
#[test]
fn a26_nothing_is_written_but_what_doctor_lists() {
    let place = Place::new("1xH100");
    // A home of its own, in which nothing may appear; and the places where programs like to leave something.
    let home = place.dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let cleave = |arguments: &[&str]| {
        let mut command = place.cleave(arguments);
        command.env("HOME", &home).env("TMPDIR", &home).env("XDG_CACHE_HOME", home.join("c")).current_dir(&home);
        for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(name, home.join(name));
        }
        let output = command.output().unwrap();
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let listed = || {
        let (_, out, err) = cleave(&["-o", "json", "doctor"]);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        let files = report["files_written"].as_array().unwrap().clone();
        assert!(files.iter().all(|file| !file["purpose"].as_str().unwrap().is_empty()), "{files:?}");
        files.iter().map(|file| PathBuf::from(file["path"].as_str().unwrap())).collect::<Vec<_>>()
    };
    let outside = || -> BTreeSet<PathBuf> {
        [
            "/run/cleave",
            "/run/cdi",
            "/etc/cleave",
            "/etc/cdi",
            "/var/lib/cleave",
            "/var/log/cleave",
            "/etc/ld.so.preload",
        ]
        .into_iter()
        .flat_map(|path| {
            let mut found = tree(Path::new(path));
            found.extend(Path::new(path).exists().then(|| path.into()));
            found
        })
        .collect()
    };
    let before = outside();
    assert_eq!(cleave(&["slice", "create", "--memory", "2GiB", "--name", "a"]).0, Some(0));
    assert_eq!(cleave(&["exec", "a", "--", "python3", "-c", CUDA_PROGRAM]).0, Some(0));
    assert_eq!(cleave(&["run", "--memory", "2GiB", "--", "true"]).0, Some(0));
    assert_eq!(cleave(&["cdi", "a"]).0, Some(0));
    let listed = listed();
    let covered = |path: &Path| listed.iter().any(|place| path.starts_with(place) || place.starts_with(path));
    let written = tree(place.dir.path());
    for path in &written {
        assert!(covered(path) || *path == home, "{} is not listed in {listed:?}", path.display());
    }
    assert!(tree(&home).is_empty(), "{:?}", tree(&home));
    // Another test's slice may be at work there, so what is new need not be ours; but all of it must be listed.
    for path in outside().difference(&before) {
        assert!(covered(path), "{} is not listed in {listed:?}", path.display());
    }
    assert_eq!(cleave(&["slice", "delete", "a"]).0, Some(0));
    let slices = tree(&place.run_dir().join("slices"));
    assert!(slices.is_empty(), "{slices:?}");
}

/// `kill -9` of a program: nothing of it is left 2 s later.
#[test]
fn a29_a_killed_program_leaves_nothing() {
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    place.ok(&["slice", "create", "--memory", "8GiB", "--host-memory", "8GiB", "--name", "a"]);
    for path in ["alloc", "async", "create", "module", "host"] {
        let mut program = place.start("a", &[&escape, path, "--ask", "2048", "--hold"]);
        let said = program.line();
        let (device, host) = place.used("a");
        assert!(device + host >= 2048 * MIB, "{said}: {device}, {host}");
        let pid = Pid::from_raw(number(&said["pid"]) as i32).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        program.child.wait().unwrap();
        within(PROMISED, path, || place.is_empty("a"));
        assert!(place.json(&["ps", "a"])["items"].as_array().unwrap().is_empty());
        assert_eq!(place.card_used(), 0);
    }
}

/// `kill -9` of a container's init takes all of its processes along: each is listed with its number inside and outside while
/// it lives, and nothing is left 2 s after.
#[test]
fn a29_a_killed_init_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a PID namespace: this is not root");
    }
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
    let script = "\"$1\" alloc --ask 1024 --hold <&3 & \"$1\" alloc --ask 1024 --hold <&3 & wait";
    let script = format!("exec 3<&0; {script}");
    let mut container =
        place.start("a", &["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", &script, "sh", &escape]);
    container.line();
    container.line();
    let processes = place.json(&["ps", "a"])["items"].as_array().unwrap().clone();
    assert_eq!(processes.len(), 2);
    let mut init = 0;
    for process in &processes {
        let (pid, own) = (number(&process["pid"]), number(&process["own_pid"]));
        assert!((2..10).contains(&own) && pid != own, "{process}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        init = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    }
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    within(PROMISED, "its use is 0", || place.is_empty("a"));
    assert!(place.json(&["ps", "a"])["items"].as_array().unwrap().is_empty());
    // The simulated card knows its processes by the number that they have themselves: its own figure says nothing here.
    container.child.wait().unwrap();
}

/// `kill -9` of `cleave run`, and then of its program: the slice goes, and all that it held.
#[test]
fn a29_a_killed_launcher_leaves_nothing() {
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    // Keeps the daemon: a private one goes with its last slice.
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "keeper"]);
    let run = ["run", "--memory", "8GiB", "--", &escape, "alloc", "--ask", "2048", "--hold"];
    let mut program = Held::new(place.cleave(&run));
    program.line();
    // The number that the machine knows it by: in its own PID namespace it has another, which is somebody else's out here.
    let pid = Pid::from_raw(number(&place.json(&["ps"])["items"][0]["pid"]) as i32).unwrap();
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    // Whether the program outlives its launcher is not the point here; it may be gone already.
    let _ = kill_process(pid, Signal::KILL);
    within(PROMISED, "the slice goes", || {
        let slices = place.json(&["slice", "list"])["items"].as_array().unwrap().clone();
        slices.len() == 1 && slices[0]["name"] == "keeper"
    });
    assert!(place.json(&["ps"])["items"].as_array().unwrap().is_empty());
    assert_eq!(place.card_used(), 0);
    let folders = std::fs::read_dir(place.run_dir().join("slices")).unwrap().count();
    assert_eq!(folders, 1);
}

/// Another user sees nothing of a slice, opens none of its files, and is turned away at its socket.
#[test]
fn a30_other_users_are_kept_out() {
    if !rustix::process::geteuid().is_root() {
        return skipped("another user and a slice of root's: this is not root");
    }
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    // Where the other user can execute it: a checkout may lie in a home.
    let binary = place.dir.path().join("cleave");
    std::fs::copy(env!("CARGO_BIN_EXE_cleave"), &binary).unwrap();
    place.ok(&["slice", "create", "--memory", "4GiB", "--name", "secret"]);
    let mut program = place.start("secret", &[&escape, "alloc", "--ask", "1024", "--hold"]);
    let pid = number(&program.line()["pid"]);
    let slice = place.show("secret");
    let id = slice["id"].as_str().unwrap();

    let run_dir = place.run_dir();
    let other = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.env("CLEAVE_RUN_DIR", &run_dir).env("CLEAVE_SIM", "1xH100").env("NO_COLOR", "1");
        command
    };
    for arguments in [&["slice", "list"][..], &["ps"], &["events"], &["top", "--once"], &["gpus"], &["status"]] {
        for format in ["table", "json"] {
            let output = other(&binary, &[&["-o", format], arguments].concat()).output().unwrap();
            let said = stdout(&output) + &stderr(&output);
            assert!(output.status.success(), "{arguments:?}: {said}");
            assert!(!said.contains("secret") && !said.contains(id), "{arguments:?}: {said}");
            assert!(!said.split(|c: char| !c.is_ascii_digit()).any(|n| n == pid.to_string()), "{arguments:?}: {said}");
        }
    }
    for name in ["secret", id] {
        for arguments in [
            &["slice", "show", name][..],
            &["slice", "resize", name, "--memory", "5GiB"],
            &["slice", "delete", name, "--force"],
            &["env", name],
            &["cdi", name],
            &["exec", name, "--", "true"],
        ] {
            let output = other(&binary, arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", stderr(&output));
        }
    }
    assert_eq!(other(&binary, &["shutdown"]).output().unwrap().status.code(), Some(3));

    let folder = run_dir.join("slices").join(id);
    for (mode, file) in
        [("r", "policy"), ("r+", "policy"), ("r", "usage"), ("r+", "usage"), ("w", "new"), ("w", "socket/new")]
    {
        let path = folder.join(file).display().to_string();
        let script = "import sys\ntry: open(sys.argv[1], sys.argv[2])\nexcept PermissionError: sys.exit(13)";
        let output = other(Path::new("/usr/bin/env"), &["python3", "-c", script, &path, mode]).output().unwrap();
        assert_eq!(output.status.code(), Some(13), "{mode} {path}: {}", stderr(&output));
    }
    for dir in [run_dir.join("slices"), folder.clone(), run_dir.join("state")] {
        let output = other(Path::new("/bin/ls"), &[&dir.display().to_string()]).output().unwrap();
        assert!(!output.status.success() && stderr(&output).contains("denied"), "{}", dir.display());
    }

    // Everything that it would need to register but the right to.
    let environment = place.json(&["env", "secret"]);
    let mut command = other(Path::new(&escape), &["alloc", "--ask", "64"]);
    for (key, value) in environment["variables"].as_object().or(environment["environment"].as_object()).unwrap() {
        command.env(key, value.as_str().unwrap());
    }
    let output = command.output().unwrap();
    assert!(stderr(&output).contains("does not own the slice"), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("\"got_mib\":0,"), "{}", stdout(&output));

    let after = place.show("secret");
    assert_eq!(after["processes"].as_array().unwrap().len(), 1);
    assert_eq!(after["devices"][0]["limit_bytes"], slice["devices"][0]["limit_bytes"]);
    program.end();
}

/// A container may run as any user: what its CDI device mounts is enough to enter the slice and to be held by it.
#[test]
fn a30_a_container_of_another_user_is_in_its_slice() {
    if !rustix::process::geteuid().is_root() {
        return skipped("another user in a container: this is not root");
    }
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    place.ok(&["slice", "create", "--memory", "4GiB", "--name", "a"]);
    let spec = place.json(&["cdi", "a"]);
    let mounts = spec["devices"][0]["containerEdits"]["mounts"].as_array().unwrap().clone();
    let socket = mounts.iter().find(|mount| mount["containerPath"] == "/run/cleave/slice").unwrap();
    let host = socket["hostPath"].as_str().unwrap();
    let library = mounts.iter().find(|mount| mount["containerPath"].as_str().unwrap().ends_with("/libcuda.so.1"));
    let library = library.unwrap()["hostPath"].as_str().unwrap();
    // As a container engine does it: mounted by root, then another user. The other mounts are of folders that this user
    // reaches on the host too.
    let script = "mount --bind \"$1\" /run/cleave/slice && shift && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    std::fs::create_dir_all("/run/cleave/slice").unwrap();
    let preload = format!("LD_PRELOAD={library}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", host, "env", &preload, &escape]);
    command.args(["alloc", "--ask", "8192", "--step", "64", "--hold"]);
    let mut program = Held::new(command);
    let said = program.line();
    assert!(said["error"] == 2 && number(&said["got_mib"]) > 1024, "{said}");
    let shown = place.show("a");
    assert_eq!(shown["processes"][0]["uid"], NOBODY, "{shown}");
    assert!(number(&shown["devices"][0]["used_bytes"]) <= 4096 * MIB, "{shown}");
    program.end();
    within(PATIENCE, "nothing is left", || place.is_empty("a"));
}

const SCRIBBLER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Loads the driver, finds the usage file that the stand-in has mapped, and fills it with `what`; or cuts it to `size`. */
int main(int count, char **argument) {
    char line[512], name[64];
    unsigned long long from = 0, to = 0, first = 0, last = 0;
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
    int (*init)(unsigned);
    if (!cuda || count < 3)
        return 2;
    *(void **)&init = dlsym(cuda, "cuInit");
    if (init(0))
        return 3;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "/usage") && strstr(line, "rw-s") && sscanf(line, "%llx-%llx", &from, &to) == 2)
            first = from, last = to;
    fclose(maps);
    if (!first)
        return 4;
    if (!strcmp(argument[1], "cut")) {
        snprintf(name, sizeof name, "/proc/self/map_files/%llx-%llx", first, last);
        int fd = open(name, O_RDWR);
        if (fd < 0 || ftruncate(fd, strtoll(argument[2], NULL, 10)))
            return 5;
    } else {
        memset((void *)(uintptr_t)first, (int)strtol(argument[2], NULL, 16), last - first);
    }
    printf("{\"done\":true}\n");
    fflush(stdout);
    while (read(0, name, sizeof name) > 0)
        ;
    _exit(0);
}
"#;

/// A tenant that scribbles over its usage file, or cuts it, harms nobody: the daemon lives, and no other slice's figures
/// change.
#[test]
fn hostile_usage_files_harm_nobody_else() {
    let place = Place::new("1xH100");
    let escape = place.compile("escape.c").display().to_string();
    let scribbler = place.compile_text("scribbler", SCRIBBLER).display().to_string();
    place.ok(&["slice", "create", "--memory", "4GiB", "--name", "good"]);
    let mut good = place.start("good", &[&escape, "alloc", "--ask", "1024", "--hold"]);
    good.line();
    let daemon = place.json(&["status"])["pid"].clone();
    let before = place.show("good");
    for (what, value) in [
        ("fill", "ff"),
        ("fill", "00"),
        ("fill", "7f"),
        ("fill", "5a"),
        ("cut", "0"),
        ("cut", "100"),
        ("cut", "1099511627776"),
    ] {
        let root = rustix::process::geteuid().is_root();
        if what == "cut" && !root {
            skipped("cutting the usage file through /proc/self/map_files: this is not root");
            continue;
        }
        place.ok(&["slice", "create", "--memory", "4GiB", "--name", "bad"]);
        let mut bad = place.start("bad", &[&scribbler, what, value]);
        assert_eq!(bad.line()["done"], true, "{what} {value}");
        for _ in 0..10 {
            // Everything that reads usage, over more than one round of the daemon's own reading.
            for arguments in [&["slice", "list"][..], &["ps"], &["gpus"], &["top", "--once"], &["slice", "show", "bad"]]
            {
                place.json(arguments);
            }
            let now = place.show("good");
            for key in ["devices", "processes", "host_used_bytes"] {
                let figures = |slice: &serde_json::Value| match key {
                    "devices" => slice["devices"][0]["used_bytes"].clone(),
                    "processes" => slice["processes"].as_array().unwrap().len().into(),
                    _ => slice[key].clone(),
                };
                assert_eq!(figures(&now), figures(&before), "{what} {value}: {key}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // The other goes on: it gets what is its own, and no more.
        let mut more = place.start("good", &[&escape, "alloc", "--ask", "4096", "--step", "64", "--hold"]);
        let said = more.line();
        assert!(said["error"] == 2 && number(&said["got_mib"]) > 1024, "{what} {value}: {said}");
        more.end();
        within(PATIENCE, "the second has gone", || place.used("good").0 == number(&before["devices"][0]["used_bytes"]));
        assert_eq!(place.json(&["status"])["pid"], daemon, "{what} {value}");
        bad.end();
        within(PATIENCE, "the hostile one leaves nothing", || place.is_empty("bad"));
        place.ok(&["slice", "delete", "bad"]);
    }
    assert_eq!(place.json(&["status"])["pid"], daemon);
    good.end();
    within(PATIENCE, "nothing is left", || place.is_empty("good"));
}
