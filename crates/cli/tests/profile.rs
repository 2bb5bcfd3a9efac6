//! `cleave profile`: what a program used, to the byte, as a workload.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, MIB, PATIENCE, Place, number, within};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Fake, stderr, stdout};

/// Allocates so many MiB, frees what came last, launches so many kernels of 3 ms, or has the GPU copy 4 MiB and then compute
/// for 1460 ns so many times, as it is told.
const PROGRAM: &str = r#"
import ctypes as c, json, sys
print(json.dumps({"started": True}), flush=True)
cuda = c.CDLL("libcuda.so.1")
def must(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    assert status == 0, (name, status)
must("cuInit", 0)
context, module, kernel, held = c.c_void_p(), c.c_void_p(), c.c_void_p(), []
must("cuDevicePrimaryCtxRetain", c.byref(context), 0)
must("cuCtxSetCurrent", context)
for line in sys.stdin:
    what, count = line.split()
    status = 0
    if what == "allocate":
        at = c.c_ulonglong()
        status = cuda.cuMemAlloc_v2(c.byref(at), c.c_size_t(int(count) << 20))
        if status == 0:
            held.append(at)
    elif what == "free":
        for _ in range(int(count)):
            must("cuMemFree_v2", held.pop())
    elif what == "launch":
        must("cuModuleLoadData", c.byref(module), b"//fakegpu\nkernel work duration=3ms\n\0")
        must("cuModuleGetFunction", c.byref(kernel), module, b"work")
        for _ in range(int(count)):
            must("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None)
            must("cuCtxSynchronize")
    elif what == "copy":
        stream, at = c.c_void_p(), c.c_ulonglong()
        must("cuStreamCreate", c.byref(stream), 1)
        must("cuMemAlloc_v2", c.byref(at), c.c_size_t(8 << 20))
        must("cuModuleLoadData", c.byref(module), b"//fakegpu\nkernel work duration=1460ns\n\0")
        must("cuModuleGetFunction", c.byref(kernel), module, b"work")
        for _ in range(int(count)):
            must("cuMemcpyDtoDAsync_v2", at, c.c_ulonglong(at.value + (4 << 20)), c.c_size_t(4 << 20), stream)
            must("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, stream, None, None)
            must("cuStreamSynchronize", stream)
        must("cuMemFree_v2", at)
    elif what == "device":
        must("cuDevicePrimaryCtxRetain", c.byref(context), int(count))
        must("cuCtxSetCurrent", context)
    elif what == "exit":
        sys.exit(int(count))
    print(json.dumps({"status": status}), flush=True)
"#;

/// What `cleave plan` reads, and what is beside it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    workloads: Vec<Workload>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    name: String,
    memory: cleave_api::MemoryAmount,
    compute: Option<cleave_api::Percent>,
    bandwidth: Option<cleave_api::Percent>,
    gpus: Option<usize>,
    profile: Profile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Profile {
    gpu: String,
    simulated: bool,
    measured_at: String,
    seconds: f64,
    ended: String,
    memory_peak_bytes: u64,
    memory_p95_bytes: Option<u64>,
    #[serde(default)]
    memory_used_for: BTreeMap<String, u64>,
    #[serde(default)]
    memory_over_time: Vec<(f64, u64)>,
    #[serde(default)]
    memory_refused: u64,
    device_time_percent: f64,
    device_time_p95_percent: Option<f64>,
    bandwidth_p95_percent: Option<f64>,
    nvml_busy_percent: Option<f64>,
    launches_per_second: f64,
    queued_ms_p95: Option<f64>,
}

fn read(text: &str) -> Workload {
    let mut all: Workloads = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(all.workloads.len(), 1, "{text}");
    all.workloads.remove(0)
}

/// A program that is measured, with what is said of it.
struct Measured<'a> {
    place: &'a Place,
    program: Held,
    said: PathBuf,
    saved: PathBuf,
}

impl<'a> Measured<'a> {
    fn start(place: &'a Place, options: &[&str]) -> Self {
        let (said, saved) = (place.dir.path().join("said"), place.dir.path().join("saved.yaml"));
        let save = saved.display().to_string();
        let all = [&["-v", "profile", "--every", "10ms", "--save", &save], options, &["--", "python3", "-c", PROGRAM]];
        let mut command = place.cleave(&all.concat());
        command.stderr(File::create(&said).unwrap());
        let mut program = Held::new(command);
        assert_eq!(program.line()["started"], true);
        Self { place, program, said, saved }
    }

    fn ask(&mut self, what: &str) -> u64 {
        number(&self.program.ask(what)["status"])
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it was read that so much is in use.
    fn seen(&self, bytes: u64) {
        let line = format!(" s: {bytes} bytes on GPU 0\n");
        within(PATIENCE, &line, || self.said().contains(&line));
    }

    /// Memory that the simulated card says is in use, by whomever.
    fn card_used(&self) -> u64 {
        self.place.card_used()
    }

    /// Ends its input and waits for its end: how it ended, and what was written.
    fn end(mut self) -> (std::process::ExitStatus, Option<String>, String) {
        drop(self.program.child.stdin.take());
        let status = self.program.child.wait().unwrap();
        (status, std::fs::read_to_string(&self.saved).ok(), self.said())
    }
}

#[test]
fn a_programs_peak_is_right_to_the_byte() {
    let place = Place::new("1xH100");
    let mut measured = Measured::start(&place, &["--margin", "25", "--name", "train"]);
    assert_eq!((measured.ask("allocate 3072"), measured.ask("allocate 1001")), (0, 0));
    let peak = measured.card_used();
    assert!(peak > 4073 * MIB && peak < 5000 * MIB, "{peak}");
    measured.seen(peak);
    assert_eq!(measured.ask("free 1"), 0);
    // The kernel's code may take some itself.
    let less = measured.card_used();
    assert_eq!(less, peak - 1002 * MIB);
    measured.seen(less);
    assert_eq!(measured.ask("launch 101"), 0);
    assert_eq!(measured.ask("free 1"), 0);
    let (status, saved, said) = measured.end();
    assert_eq!(status.code(), Some(0), "{said}");
    // It is what the planner reads.
    let planned = place.json(&["plan", place.dir.path().join("saved.yaml").to_str().unwrap()]);
    assert_eq!(planned["placements"][0]["name"], "train", "{planned}");
    let workload = read(&saved.unwrap());
    let profile = &workload.profile;
    assert_eq!(profile.memory_peak_bytes, peak);
    assert_eq!(profile.memory_used_for["linear"], 4074 * MIB);
    assert_eq!(profile.memory_used_for.values().sum::<u64>(), peak);
    assert!((less..=peak).contains(&profile.memory_p95_bytes.unwrap()), "{profile:?}");
    let curve = &profile.memory_over_time;
    assert!(curve.len() <= 60 && curve.is_sorted_by(|a, b| a.0 <= b.0), "{curve:?}");
    assert_eq!(curve.iter().map(|(_, bytes)| *bytes).max(), Some(peak));
    let cleave_api::MemoryAmount::Bytes(asked) = workload.memory else { panic!("{workload:?}") };
    assert!(asked * 4 >= peak * 5 && asked * 4 < peak * 5 + 256 * MIB && asked.is_multiple_of(64 * MIB), "{asked}");

    let launches = profile.launches_per_second * profile.seconds;
    let rounded = profile.launches_per_second * 0.0005 + profile.seconds * 0.05;
    assert!((launches - 101.0).abs() <= rounded + 0.001, "{profile:?}");
    assert_eq!((workload.name.as_str(), workload.gpus, profile.memory_refused), ("train", None, 0));
    assert_eq!((profile.ended.as_str(), profile.simulated), ("by itself", true));
    assert!(profile.gpu.contains("H100") && profile.measured_at.contains('T'), "{profile:?}");
    assert!(said.contains("cleave: train: "), "{said}");
}

/// On a clock that is the machine's, too: a kernel takes at least as long as it lasts, and waiting for it longer.
#[test]
fn device_time_is_what_the_device_worked() {
    let place = Place::new("1xH100@real");
    let mut measured = Measured::start(&place, &[]);
    assert_eq!(measured.ask("launch 400"), 0);
    let pid = number(&place.slices()[0]["processes"][0]["pid"]) as u32;
    let worked = fakegpu::delivered(&place.run_dir().join("driver"), 0).unwrap();
    let worked = worked.into_iter().find(|(of, _)| *of == pid).unwrap().1 as f64 / 1e9;
    let (status, saved, said) = measured.end();
    assert_eq!(status.code(), Some(0), "{said}");
    let workload = read(&saved.unwrap());
    let profile = &workload.profile;
    assert!((1.2..1.22).contains(&worked), "{worked}");
    let used = profile.device_time_percent * profile.seconds / 100.0;
    assert!(used >= worked * 0.95 && used <= profile.seconds, "{used} of {worked}: {profile:?}");
    // While it was at work it had nearly all of the time, and over its whole run it had less.
    let part = profile.device_time_p95_percent.unwrap();
    assert!(part >= profile.device_time_percent && part <= 100.0, "{profile:?}");
    assert_eq!(workload.compute.map(|share| share.get()), Some(part.ceil()));
}

/// A copy of 4 MiB takes 1.5 µs and 8 MiB at 2.8 TB/s, the kernel behind it 1.46 µs, and the card has 3352.32 GB/s.
const PART: f64 = 42.0;

/// Has it copy for as long as it takes to be read often enough.
fn copy(measured: &mut Measured<'_>) {
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 1_500 {
        assert_eq!(measured.ask("copy 50"), 0);
    }
}

#[test]
fn bandwidth_is_what_copies_move_where_nobody_else_is_at_work() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "other"]);
    let mut other = place.start("other", &["python3", "-c", PROGRAM]);
    assert_eq!(other.line()["started"], true);
    for (busy, outside) in [(false, false), (true, false), (false, true)] {
        assert_eq!(number(&other.ask("launch 10")["status"]), 0);
        let mut measured = Measured::start(&place, &[]);
        copy(&mut measured);
        let time = || number(&place.show("other")["devices"][0]["time"]["device_ns"]);
        let before = time();
        within(PATIENCE, "the other was at work for 20 ms", || {
            if busy {
                assert_eq!(number(&other.ask("launch 50")["status"]), 0);
            }
            !busy || time() > before + 20_000_000
        });
        let program = outside.then(|| {
            let mut command = Command::new("python3");
            command.args(["-c", PROGRAM]).env("LD_LIBRARY_PATH", place.run_dir().join("driver"));
            let mut program = Held::new(command);
            assert_eq!(program.line()["started"], true);
            assert_eq!(number(&program.ask("allocate 64")["status"]), 0);
            copy(&mut measured);
            program
        });
        let (status, saved, said) = measured.end();
        assert_eq!(status.code(), Some(0), "{said}");
        drop(program);
        let workload = read(&saved.unwrap());
        let told = (workload.bandwidth.map(|share| share.get()), workload.profile.bandwidth_p95_percent);
        let left_out = match (busy, outside) {
            (true, _) => "other slices were at work meanwhile, and all that use GPU 0 are counted together",
            (_, true) => "processes in no slice used the GPU",
            _ => {
                let part = told.1.unwrap_or_else(|| panic!("{said}"));
                assert!((PART - 1.0..PART + 2.0).contains(&part), "{part}: {said}");
                assert!(told.0 == Some(part.ceil()) && !said.contains("left out"), "{told:?}: {said}");
                continue;
            }
        };
        assert_eq!(told, (None, None), "{said}");
        assert!(said.contains(&format!("bandwidth is left out: {left_out}")), "{said}");
    }
}

#[test]
fn bandwidth_that_the_driver_does_not_count_is_left_out() {
    for (sim, options, why) in [
        ("1xA100", &[][..], "the driver doesn't count it on GPU 0"),
        (
            "1xH100,mig",
            &["--engine", "mig", "--memory", "8GiB"],
            "it is counted for all of GPU 0, and not for an instance",
        ),
    ] {
        let place = Place::new(sim);
        let mut measured = Measured::start(&place, options);
        assert_eq!(measured.ask("copy 10"), 0);
        let (status, saved, said) = measured.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert_eq!(read(&saved.unwrap()).bandwidth, None);
        assert!(said.contains(&format!("bandwidth is left out: {why}")), "{said}");
        assert!(place.json(&["gpus"])["items"][0]["bandwidth_percent"].is_null());
    }
}

/// However often others ask, and whatever slices there are.
#[test]
fn gpus_tell_the_bandwidth_in_use_and_the_device_time_of_slices_also_of_those_that_are_gone() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "one"]);
    let mut one = place.start("one", &["python3", "-c", PROGRAM]);
    assert_eq!(one.line()["started"], true);
    let gpu = || place.json(&["gpus"])["items"][0].clone();
    assert_eq!(gpu()["device_ns"], 0);
    within(PATIENCE, "bandwidth is told", || {
        assert_eq!(number(&one.ask("copy 100")["status"]), 0);
        let gpus = [gpu(), gpu()];
        let told = gpus.map(|gpu| gpu["bandwidth_percent"].as_f64());
        told.iter().flatten().any(|part| (PART - 1.0..PART + 2.0).contains(part))
    });
    drop(one);
    within(PATIENCE, "nothing runs", || place.is_empty("one"));
    let own = number(&place.show("one")["devices"][0]["time"]["device_ns"]);
    assert!(own > 0);
    assert_eq!(number(&gpu()["device_ns"]), own);
    place.ok(&["slice", "delete", "one"]);
    assert_eq!(number(&gpu()["device_ns"]), own);
}

#[test]
fn of_several_gpus_the_one_with_the_most_decides() {
    let place = Place::new("2xH100");
    for (commands, gpus) in [(&["allocate 512"][..], None), (&["allocate 512", "device 1", "allocate 1024"], Some(2))] {
        let mut measured = Measured::start(&place, &["--gpu", "0,1"]);
        for command in commands {
            assert_eq!(measured.ask(command), 0);
        }
        let devices = place.slices()[0]["devices"].clone();
        let most = devices.as_array().unwrap().iter().map(|device| number(&device["used_bytes"])).max().unwrap();
        let (status, saved, said) = measured.end();
        assert_eq!(status.code(), Some(0), "{said}");
        let workload = read(&saved.unwrap());
        assert_eq!((workload.gpus, workload.profile.memory_peak_bytes), (gpus, most), "{workload:?}");
    }
}

#[test]
fn a_program_that_is_interrupted_ends_and_what_it_used_is_written() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "16GiB", "--name", "keeper"]);
    let mut measured = Measured::start(&place, &[]);
    assert_eq!(measured.ask("allocate 512"), 0);
    let peak = measured.card_used();
    measured.seen(peak);
    // Who started this test may ignore the key.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap() >> (Signal::INT.as_raw() - 1) & 1 == 1;
    let signal = if ignored { Signal::TERM } else { Signal::INT };
    // Its input does not end: it is the signal that ends it.
    let input = measured.program.child.stdin.take();
    kill_process(Pid::from_child(&measured.program.child), signal).unwrap();
    let (status, saved, said) = measured.end();
    drop(input);
    assert_eq!(status.signal(), Some(signal.as_raw()), "{said}");
    assert_eq!(place.slices().len(), 1);
    within(PATIENCE, "the card is empty", || place.card_used() == 0);
    let workload = read(&saved.unwrap());
    assert_eq!(workload.profile.memory_peak_bytes, peak);
    assert_eq!((workload.name.as_str(), workload.profile.ended.as_str()), ("python3", "interrupted"));
    // It launched nothing, so nothing is said of time.
    assert_eq!(workload.compute, None);
    assert!(said.contains("too little device time was measured") && said.contains("it was interrupted"), "{said}");
    assert!(said.contains("other slices hold the rest"), "{said}");
}

#[test]
fn of_a_program_that_fails_nothing_is_written() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "keeper"]);
    let mut measured = Measured::start(&place, &[]);
    assert_eq!(measured.ask("allocate 512"), 0);
    measured.seen(measured.card_used());
    measured.program.tell("exit 3");
    let (status, saved, said) = measured.end();
    assert_eq!((status.code(), saved), (Some(3), None), "{said}");
    assert!(
        said.contains("error: the program failed (exit status: 3)") && said.contains("nothing is written"),
        "{said}"
    );
    // Nor of one that is not there.
    let output = place.cleave(&["profile", "--", "no-such-program-here"]).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(127), ""), "{}", stderr(&output));
    assert_eq!(place.slices().len(), 1);
}

#[test]
fn of_a_program_without_a_gpu_nothing_is_written() {
    let place = Place::new("1xH100");
    for (script, code) in [("echo hello", 0), ("echo hello; exit 7", 7)] {
        let output = place.cleave(&["profile", "--", "sh", "-c", script]).output().unwrap();
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(code), ""), "{}", stderr(&output));
        assert!(stderr(&output).starts_with("hello\n"), "{}", stderr(&output));
        assert!(stderr(&output).contains("error: nothing was measured"), "{}", stderr(&output));
    }
}

#[test]
fn the_workload_has_stdout_for_itself_and_tells_what_was_refused() {
    let place = Place::new("1xH100");
    for format in ["table", "json", "yaml"] {
        let arguments = ["-o", format, "profile", "--memory", "2GiB", "--", "python3", "-c", PROGRAM];
        let mut command = place.cleave(&arguments);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"allocate 4096\nallocate 512\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let (text, said) = (stdout(&output), stderr(&output));
        assert!(said.contains("{\"status\": 2}\n{\"status\": 0}\n"), "{said}");
        assert!(said.contains("1 allocation was refused"), "{said}");
        let workload = match format {
            "json" => {
                serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                read(&text)
            }
            _ => read(&text),
        };
        // Its last reading is from its last moment.
        assert!(workload.profile.memory_peak_bytes > 512 * MIB, "{workload:?}");
        assert_eq!(workload.profile.memory_refused, 1);
    }
}

#[test]
fn where_nothing_can_be_written_nothing_is_run() {
    let fake = Fake::new(&[]);
    let folder = fake.dir.path().display().to_string();
    let missing = format!("{folder}/missing/w.yaml");
    for (file, why) in [(missing.as_str(), "No such file"), (&folder, "it is a folder")] {
        let output = fake.cleave().args(["profile", "--save", file, "--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(file) && stderr(&output).contains(why), "{}", stderr(&output));
    }
    assert!(fake.asked().is_empty());
    assert!(!Path::new(&missing).exists());
}
