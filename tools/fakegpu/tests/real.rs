//! Time that really passes. Nothing here depends on how fast this machine is: only on what comes after what.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use std::ffi::{CString, c_void};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Gpu, Installed, event, stream};

const MS: u64 = 1_000_000;

/// The kernel of the program that real devices execute, too; one unit takes 2 ns.
fn spin(gpu: &Gpu) -> u64 {
    let text = CString::new(include_str!("../data/spin.ptx")).expect("no zero");
    let (mut module, mut function) = (0_u64, 0_u64);
    ok!(gpu, cuModuleLoadData, &mut module, text.as_ptr());
    ok!(gpu, cuModuleGetFunction, &mut function, module, c"spin".as_ptr());
    function
}

/// Launches it for a time.
fn launch(gpu: &Gpu, spin: u64, nanoseconds: u64, stream: u64) {
    let (iterations, result) = (nanoseconds / 2, 0_u64);
    let parameters = [&raw const iterations, &raw const result];
    ok!(gpu, cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, stream, &parameters, 0);
}

/// Nanoseconds from one event to another.
fn between(gpu: &Gpu, start: u64, end: u64) -> f64 {
    let mut milliseconds = 0_f32;
    ok!(gpu, cuEventElapsedTime, &mut milliseconds, start, end);
    f64::from(milliseconds) * 1e6
}

#[test]
fn kernels_take_the_time_of_their_parameter_and_launches_return_before() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let spin = spin(&gpu);
    let (a, b, start, end) = (stream(&gpu, 1), stream(&gpu, 1), event(&gpu), event(&gpu));
    let began = Instant::now();
    ok!(gpu, cuEventRecord, start, a);
    launch(&gpu, spin, 40 * MS, a);
    launch(&gpu, spin, 60 * MS, b);
    ok!(gpu, cuEventRecord, end, b);
    let code = call!(gpu, cuEventElapsedTime, &mut 0_f32, start, end);
    // A machine that was away for so long does not show it.
    if began.elapsed() < Duration::from_millis(100) {
        assert_eq!(code, 600);
    }
    ok!(gpu, cuEventSynchronize, end);
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    ok!(gpu, cuEventQuery, end);
    ok!(gpu, cuStreamQuery, a);
    assert!(between(&gpu, start, end) >= 99.9e6);
    // Behind each other without a gap, whenever the program comes to look: the device's time, not the machine's.
    ok!(gpu, cuEventRecord, start, a);
    launch(&gpu, spin, 30 * MS, a);
    ok!(gpu, cuEventRecord, end, a);
    let last = event(&gpu);
    launch(&gpu, spin, 5 * MS, a);
    ok!(gpu, cuEventRecord, last, a);
    std::thread::sleep(Duration::from_millis(60));
    ok!(gpu, cuCtxSynchronize);
    assert!(between(&gpu, end, last) >= 4.9e6);
    assert!(between(&gpu, start, last) >= 34.9e6);
}

#[test]
fn a_stream_writes_a_word_when_it_gets_there_without_being_asked() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let spin = spin(&gpu);
    let (a, b) = (stream(&gpu, 1), stream(&gpu, 1));
    let words = Box::leak(Box::new([AtomicU64::new(0), AtomicU64::new(0)]));
    ok!(gpu, cuMemHostRegister_v2, words.as_ptr(), 16_u64, 2);
    let mut address = 0_u64;
    ok!(gpu, cuMemHostGetDevicePointer_v2, &mut address, words.as_ptr(), 0);
    let began = Instant::now();
    launch(&gpu, spin, 30 * MS, a);
    ok!(gpu, cuStreamWriteValue64_v2, a, address, 7_u64, 0);
    // The other stream goes on when it sees the word, and no call is made meanwhile.
    ok!(gpu, cuStreamWaitValue64_v2, b, address, 7_u64, 0);
    ok!(gpu, cuStreamWriteValue32_v2, b, address + 8, 9, 0);
    while words[1].load(Ordering::SeqCst) != 9 {
        std::thread::yield_now();
    }
    assert!(began.elapsed() >= Duration::from_millis(30), "{:?}", began.elapsed());
    assert_eq!(words[0].load(Ordering::SeqCst), 7);
    ok!(gpu, cuCtxSynchronize);
    // What is no longer registered is not written to.
    let began = Instant::now();
    launch(&gpu, spin, 100 * MS, a);
    ok!(gpu, cuStreamWriteValue64_v2, a, address, 8_u64, 0);
    ok!(gpu, cuMemHostUnregister, words.as_ptr());
    let in_time = began.elapsed() < Duration::from_millis(100);
    ok!(gpu, cuStreamSynchronize, a);
    if in_time {
        assert_eq!(words[0].load(Ordering::SeqCst), 7);
    }
}

static ORDER: AtomicU32 = AtomicU32::new(0);

extern "C" fn digit(data: *mut c_void) {
    let _ = ORDER.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |order| Some(order * 10 + data as u32));
}

#[test]
fn host_functions_are_called_when_their_stream_gets_there() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let spin = spin(&gpu);
    let (slow, fast, reached) = (stream(&gpu, 1), stream(&gpu, 1), event(&gpu));
    ok!(gpu, cuLaunchHostFunc, fast, digit as *const c_void, 1_u64);
    ok!(gpu, cuStreamSynchronize, fast);
    let began = Instant::now();
    launch(&gpu, spin, 200 * MS, slow);
    ok!(gpu, cuLaunchHostFunc, slow, digit as *const c_void, 3_u64);
    // Submitted later, due earlier: it has nothing to wait for.
    ok!(gpu, cuLaunchHostFunc, fast, digit as *const c_void, 2_u64);
    ok!(gpu, cuStreamSynchronize, fast);
    let in_time = began.elapsed() < Duration::from_millis(200);
    ok!(gpu, cuEventRecord, reached, slow);
    ok!(gpu, cuStreamWaitEvent, fast, reached, 0);
    ok!(gpu, cuLaunchHostFunc, fast, digit as *const c_void, 4_u64);
    ok!(gpu, cuCtxSynchronize);
    let order = ORDER.load(Ordering::SeqCst);
    assert!(order == 1234 || !in_time && order == 1324, "{order}");
}

extern "C" fn never(_: *mut c_void) {
    ORDER.store(u32::MAX, Ordering::SeqCst);
}

#[test]
fn what_a_destroyed_context_had_to_do_is_not_done() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (spin_here, a) = (spin(&gpu), stream(&gpu, 1));
    let mut second = 0_u64;
    ok!(gpu, cuCtxCreate_v2, &mut second, 0, 0);
    let (spin, b, reached) = (spin(&gpu), stream(&gpu, 1), event(&gpu));
    // An hour.
    launch(&gpu, spin, 3_600_000 * MS, b);
    ok!(gpu, cuEventRecord, reached, b);
    ok!(gpu, cuLaunchHostFunc, b, never as *const c_void, 0_u64);
    ok!(gpu, cuStreamWaitEvent, a, reached, 0);
    assert_eq!(call!(gpu, cuStreamQuery, a), 600);
    ok!(gpu, cuCtxDestroy_v2, second);
    // Who waited for it waits no longer, and has the device alone.
    launch(&gpu, spin_here, MS, a);
    ok!(gpu, cuStreamSynchronize, a);
    ok!(gpu, cuCtxSynchronize);
    assert_ne!(ORDER.load(Ordering::SeqCst), u32::MAX);
}

#[test]
fn a_graph_takes_as_long_as_its_kernels() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let spin = spin(&gpu);
    let (a, start, end) = (stream(&gpu, 1), event(&gpu), event(&gpu));
    let (mut graph, mut executable) = (0_u64, 0_u64);
    ok!(gpu, cuStreamBeginCapture_v2, a, 0);
    for _ in 0..10 {
        // The parameters are gone when the graph is launched.
        launch(&gpu, spin, 2 * MS, a);
    }
    ok!(gpu, cuStreamEndCapture, a, &mut graph);
    ok!(gpu, cuGraphInstantiateWithFlags, &mut executable, graph, 0_u64);
    ok!(gpu, cuEventRecord, start, a);
    ok!(gpu, cuGraphLaunch, executable, a);
    ok!(gpu, cuEventRecord, end, a);
    ok!(gpu, cuStreamSynchronize, a);
    assert!(between(&gpu, start, end) >= 19.9e6);
}

#[test]
fn a_stream_takes_1024_launches_and_then_blocks() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (spin, a) = (spin(&gpu), stream(&gpu, 1));
    let began = Instant::now();
    launch(&gpu, spin, 50 * MS, a);
    for _ in 0..1023 {
        launch(&gpu, spin, 2, a);
    }
    launch(&gpu, spin, 2, a);
    assert!(began.elapsed() >= Duration::from_millis(50), "the first one had to end: {:?}", began.elapsed());
}

#[test]
fn copies_take_time_by_their_bytes() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (a, start, end) = (stream(&gpu, 1), event(&gpu), event(&gpu));
    let bytes = 64_u64 << 20;
    let (device, host) = (gpu.alloc(bytes), vec![1_u8; bytes as usize]);
    ok!(gpu, cuEventRecord, start, a);
    ok!(gpu, cuMemcpyHtoDAsync_v2, device, host.as_ptr(), bytes, a);
    ok!(gpu, cuEventRecord, end, a);
    ok!(gpu, cuStreamSynchronize, a);
    assert!(between(&gpu, start, end) >= (bytes / 50) as f64);
}

/// The part that a child process plays, when this program is started as one: has work for the device for a long
/// time, until it is told to stop.
#[test]
fn child() {
    let Ok(dir) = std::env::var("FAKEGPU_REAL_DIR") else { return };
    let gpu = Installed::at(&dir).load();
    gpu.start(0);
    let (spin, a) = (spin(&gpu), stream(&gpu, 1));
    for _ in 0..1000 {
        launch(&gpu, spin, 1000 * MS, a);
    }
    println!("\nready");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

fn busy_child(installed: &Installed) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("FAKEGPU_REAL_DIR", &installed.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "the child failed");
    child
}

#[test]
fn a_context_that_shares_the_device_gets_half_of_it_and_all_when_the_other_dies() {
    let installed = Installed::real("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (spin, a, start, end) = (spin(&gpu), stream(&gpu, 1), event(&gpu), event(&gpu));
    let measure = || {
        ok!(gpu, cuEventRecord, start, a);
        launch(&gpu, spin, 50 * MS, a);
        ok!(gpu, cuEventRecord, end, a);
        ok!(gpu, cuStreamSynchronize, a);
        between(&gpu, start, end)
    };
    // The machine may stop this program for a while between two calls, but not every time.
    let least = || (0..50).map(|_| measure()).find(|took| *took < 115e6).expect("once");
    let mut child = busy_child(&installed);
    let delivered = |pid: u32| {
        let all = fakegpu::delivered(&installed.dir, 0).expect("installed");
        all.into_iter().find(|(of, _)| *of == pid).map_or(0, |(_, time)| time)
    };
    let (ours, theirs) = (delivered(std::process::id()), delivered(child.id()));
    // 20 slices of ours with 19 or 20 of the other between, and the switches.
    assert!(least() > 50e6 + 19.0 * 2.9e6 - 1e6);
    let (ours, theirs) = (delivered(std::process::id()) - ours, delivered(child.id()) - theirs);
    assert!(ours >= 50 * MS && theirs >= 19 * 5 * MS / 2, "{ours} {theirs}");
    ok!(gpu, nvmlInit_v2);
    let (mut handle, mut count) = (0_u64, 2_u32);
    ok!(gpu, nvmlDeviceGetHandleByIndex_v2, 0, &mut handle);
    let mut samples = [[0_u64; 4]; 2];
    ok!(gpu, nvmlDeviceGetProcessUtilization, handle, &mut samples, &mut count, 0_u64);
    assert_eq!(count, 2, "both had it");
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    assert!((0..50).any(|_| measure() < 100e6), "it has all of it again");
}
