//! What processes share, and what is left of one that is gone.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name, and fork.

mod common;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{CONTEXT, Gpu, Installed, MIB};

/// The part that a child process plays, when this program is started as one.
#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var("FAKEGPU_ROLE"), std::env::var("FAKEGPU_DIR")) else { return };
    let gpu = Installed::at(&dir).load();
    match role.as_str() {
        "hold" => {
            gpu.start(0);
            gpu.alloc(100 * MIB);
            println!("\nready");
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
        }
        "share" => {
            gpu.start(0);
            let large = gpu.alloc(3 * MIB);
            let small = gpu.alloc(64);
            ok!(gpu, cuMemsetD8_v2, large, 11, 3 * MIB);
            ok!(gpu, cuMemsetD8_v2, small, 22, 64_u64);
            for pointer in [large, small] {
                let mut handle = [0_u64; 8];
                ok!(gpu, cuIpcGetMemHandle, &mut handle, pointer);
                println!("\nhandle {}", handle.map(|word| word.to_string()).join(" "));
            }
            println!("\nready");
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
            let mut byte = 0_u8;
            ok!(gpu, cuMemcpyDtoH_v2, &mut byte, large, 1_u64);
            assert_eq!(byte, 33, "what the other process wrote");
        }
        "list" => {
            gpu.start(0);
            gpu.alloc(100 * MIB);
            println!("\npids {:?}", gpu.pids(0));
            println!("\nready");
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
        }
        "fork" => {
            gpu.start(0);
            // SAFETY: the child only makes calls that allocate nothing, and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let mut count = 0_i32;
                let codes =
                    [call!(gpu, cuDeviceGetCount, &mut count), call!(gpu, cuInit, 0), call!(gpu, cuCtxSynchronize)];
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(if codes == [3, 3, 3] { 0 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0, "the child must find the driver not initialised");
            assert_eq!(gpu.used(), CONTEXT, "and the parent go on");
            println!("\nready");
        }
        "early" => {
            // SAFETY: the driver is not initialised; the child may use it.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(call!(gpu, cuInit, 0)) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0);
            println!("\nready");
        }
        other => panic!("{other}"),
    }
}

fn start(installed: &Installed, role: &str) -> Child {
    start_and_listen(installed, role).0
}

fn start_and_listen(installed: &Installed, role: &str) -> (Child, Vec<String>) {
    listen(Command::new(std::env::current_exe().expect("own path")), installed, role)
}

/// The same as process 1 of a pid namespace of its own, with its pid as seen from here; ended with the child returned.
fn start_apart(installed: &Installed, role: &str) -> (Child, Vec<String>, u32) {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(std::env::current_exe().expect("own path"));
    let (child, heard) = listen(command, installed, role);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("children");
    (child, heard, children.trim().parse().expect("one child"))
}

fn listen(mut command: Command, installed: &Installed, role: &str) -> (Child, Vec<String>) {
    let mut child = command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("FAKEGPU_ROLE", role)
        .env("FAKEGPU_DIR", &installed.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    let mut heard = Vec::new();
    for line in lines.map_while(Result::ok) {
        if line == "ready" {
            return (child, heard);
        }
        heard.push(line);
    }
    let _ = child.wait();
    panic!("{role} failed");
}

/// A memory handle, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle([u64; 8]);

/// Opens what a child in the role "share" told of and looks into it.
fn open_shared(gpu: &Gpu, heard: &[String]) -> [u64; 2] {
    type Open = unsafe extern "C" fn(*mut u64, Handle, u32) -> i32;
    // SAFETY: the exported function has this type.
    let open: Open = unsafe { std::mem::transmute(gpu.symbol("cuIpcOpenMemHandle_v2")) };
    let mut pointers = Vec::new();
    for (line, value) in heard.iter().filter_map(|line| line.strip_prefix("handle ")).zip([11, 22]) {
        let words: Vec<u64> = line.split(' ').map(|word| word.parse().expect("number")).collect();
        let mut pointer = 0_u64;
        // SAFETY: passes a pointer to a local and a handle by value.
        assert_eq!(unsafe { open(&mut pointer, Handle(words.try_into().expect("eight")), 1) }, 0);
        let mut byte = 0_u8;
        ok!(gpu, cuMemcpyDtoH_v2, &mut byte, pointer, 1_u64);
        assert_eq!(byte, value);
        pointers.push(pointer);
    }
    pointers.try_into().expect("two")
}

/// Whether pid namespaces can be made here; says so when not.
fn namespaces() -> bool {
    let tried = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("SKIPPED: making a pid namespace takes root and unshare(1)");
    }
    can
}

#[test]
fn processes_of_other_pid_namespaces_count_and_are_listed_where_they_are_seen() {
    if !namespaces() {
        return;
    }
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    // Two processes that both have the pid 1.
    let (mut one, heard, pid_one) = start_apart(&installed, "list");
    assert!(heard.contains(&"pids [1]".to_owned()), "it sees itself alone: {heard:?}");
    let (mut two, heard, pid_two) = start_apart(&installed, "list");
    assert!(heard.contains(&"pids [1]".to_owned()), "it sees itself alone: {heard:?}");
    assert_eq!(gpu.used(), 3 * CONTEXT + 200 * MIB);
    assert_eq!(gpu.pids(0), [std::process::id(), pid_one, pid_two]);
    for (child, pid) in [(&mut one, pid_one), (&mut two, pid_two)] {
        // SAFETY: kills the process that `child` made and did not reap yet.
        assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
        child.wait().expect("reaped");
    }
    assert_eq!(gpu.used(), CONTEXT);
    assert_eq!(gpu.pids(0), [std::process::id()]);
}

#[test]
fn memory_is_shared_with_a_process_of_another_pid_namespace() {
    if !namespaces() {
        return;
    }
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut child, heard, _) = start_apart(&installed, "share");
    let pointers = open_shared(&gpu, &heard);
    ok!(gpu, cuMemsetD8_v2, pointers[0], 33, 1_u64);
    drop(child.stdin.take());
    assert!(child.wait().expect("reaped").success());
    assert_eq!(gpu.used(), CONTEXT);
    let left = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("entry").file_name().to_string_lossy().starts_with("memory.")
    };
    assert!(!std::fs::read_dir(&installed.dir).expect("folder").any(left), "what the dead one shared is gone");
}

#[test]
fn memory_of_another_process_is_the_same_memory_and_not_charged_again() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut child, heard) = start_and_listen(&installed, "share");
    let before = (gpu.used(), gpu.visible(0));
    let pointers = open_shared(&gpu, &heard);
    assert_eq!((gpu.used(), gpu.visible(0)), before);
    ok!(gpu, cuMemsetD8_v2, pointers[0], 33, 1_u64);
    drop(child.stdin.take());
    assert!(child.wait().expect("reaped").success());
    ok!(gpu, cuIpcCloseMemHandle, pointers[0]);
    assert_eq!(call!(gpu, cuIpcCloseMemHandle, pointers[0]), 1);
}

#[test]
fn two_processes_share_the_memory_and_a_killed_one_leaves_nothing() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let mut child = start(&installed, "hold");
    assert_eq!(gpu.used(), 2 * CONTEXT + 100 * MIB);
    assert_eq!(gpu.visible(0), CONTEXT, "the other's memory is the other's");
    let mut pointer = 0_u64;
    let rest = gpu.free() / (2 * MIB) * (2 * MIB);
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut pointer, rest + 2 * MIB), 2);
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    assert_eq!(gpu.used(), CONTEXT);
    ok!(gpu, cuMemAlloc_v2, &mut pointer, rest + 2 * MIB);
}

#[test]
fn a_process_that_ends_gives_everything_back() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let mut child = start(&installed, "hold");
    drop(child.stdin.take());
    assert!(child.wait().expect("reaped").success());
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn a_child_of_fork_finds_the_driver_not_initialised() {
    let installed = Installed::new("H100");
    for role in ["fork", "early"] {
        assert!(start(&installed, role).wait().expect("reaped").success(), "{role}");
    }
}
