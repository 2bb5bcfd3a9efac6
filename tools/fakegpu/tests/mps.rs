//! MPS: a control that is driven as NVIDIA's is, servers, and clients that are processes of their own.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{CONTEXT, Installed, MIB, Program};

/// The part that a child process plays.
#[test]
fn child() {
    common::obey();
}

const MS: i64 = 1_000_000;

/// A control with its folders.
struct Control {
    folder: PathBuf,
    program: PathBuf,
    child: Option<Child>,
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    // Long enough for any machine; nothing passes by waiting.
    for _ in 0..60_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}");
}

/// Starts the control's program as often as it takes: while another test starts a process, that holds the file that was
/// just written open for a moment.
fn start<T>(mut begin: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match begin() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            begun => return begun.expect("start"),
        }
    }
}

impl Control {
    /// In the foreground, in folders of this name.
    fn start(installed: &Installed, name: &str) -> Control {
        let mut control = Control::folders(installed, name);
        let child = start(|| control.command().arg("-f").stdin(Stdio::null()).spawn());
        control.child = Some(child);
        until("a control socket", || control.pipe().join("control").exists());
        control
    }

    fn folders(installed: &Installed, name: &str) -> Control {
        let folder = installed.dir.join(name);
        std::fs::create_dir_all(folder.join("log")).expect("folder");
        Control { folder, program: installed.dir.join("nvidia-cuda-mps-control"), child: None }
    }

    fn pipe(&self) -> PathBuf {
        self.folder.join("pipe")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CUDA_MPS_PIPE_DIRECTORY", self.pipe()).env("CUDA_MPS_LOG_DIRECTORY", self.folder.join("log"));
        command
    }

    /// A command, as it is given to the real one: on stdin.
    fn tell(&self, command: &str) -> String {
        let mut child = start(|| self.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn());
        writeln!(child.stdin.take().expect("piped"), "{command}").expect("it listens");
        let output = child.wait_with_output().expect("ended");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn client(&self, installed: &Installed, more: &[(&str, &str)]) -> Program {
        let pipe = self.pipe();
        let mut environment = vec![("CUDA_MPS_PIPE_DIRECTORY", pipe.to_str().expect("UTF-8"))];
        environment.extend(more);
        Program::start(installed, &environment)
    }

    /// A client that could start.
    fn started(&self, installed: &Installed, more: &[(&str, &str)]) -> Program {
        let mut program = self.client(installed, more);
        assert_eq!(program.ask("start"), [0]);
        program
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        } else {
            self.tell("quit -t 0");
        }
    }
}

const HALF: (&str, &str) = ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50");

#[test]
fn the_control_is_driven_like_the_real_one() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    assert_eq!(control.tell("get_server_list"), "", "none before the first client");
    let one = control.started(&installed, &[]);
    let server = control.tell("get_server_list");
    assert_eq!(control.tell(&format!("get_server_status {server}")), "ACTIVE");
    assert_eq!(control.tell(&format!("get_client_list {server}")), one.pid().to_string());
    assert!(
        control
            .tell("ps")
            .lines()
            .nth(1)
            .is_some_and(|line| line.starts_with(&format!("{}\t1\t{server}\t", one.pid())))
    );
    let listed = control.tell("get_device_client_list");
    assert!(listed.starts_with("[0] ") && listed.ends_with(&format!("\n{}.1", one.pid())), "{listed}");
    assert_eq!(control.tell("get_default_active_thread_percentage"), "100.0");
    assert_eq!(control.tell(&format!("set_active_thread_percentage {server} 25")), "25.0");
    let mut two = control.started(&installed, &[HALF]);
    assert_eq!(two.ask("multiprocessors"), [0, 32], "the lower of the two");
    assert_eq!(two.ask("affinity 10"), [0, 10]);
    assert_eq!(control.tell("set_default_active_thread_percentage 12.5"), "12.5");
    assert_eq!(control.tell("start_server -uid 0"), "", "there is one");
    assert_eq!(control.tell("get_server_list"), server);
    assert!(control.tell("start_sever").contains("start_sever"));
    drop((one, two));
    control.tell("quit -t 5");
    assert!(!control.pipe().join("control").exists());
    let mut native = control.started(&installed, &[HALF]);
    assert_eq!(native.ask("multiprocessors"), [0, 132], "without a control it is no client");
}

#[test]
fn in_the_background_it_writes_logs_and_ends_with_quit() {
    let installed = Installed::new("H100");
    let control = Control::folders(&installed, "mps");
    let up = start(|| control.command().args(["-multiuser-server", "-d"]).status());
    assert!(up.success());
    let second = start(|| control.command().arg("-d").output());
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("already running"));
    let log = |name: &str| std::fs::read_to_string(control.folder.join("log").join(name)).unwrap_or_default();
    let mut culprit = control.started(&installed, &[]);
    let pid = culprit.pid();
    until("the client in the log", || {
        log("server.log").contains(&format!("Client {{PID: {pid}, Context ID: 1}} connected"))
    });
    assert_eq!(culprit.ask("fault"), [0, 700]);
    let line = format!("Client {{PID: {pid}, Context: 1}} encountered a fatal GPU error.");
    until("the culprit in the log", || log("server.log").contains(&line));
    culprit.kill();
    until("its end in the log", || log("server.log").contains(&format!("Client process {pid} disconnected")));
    control.tell("quit -t 5");
    assert!(!Path::new(&control.pipe().join("control")).exists() && !log("control.log").is_empty());
}

#[test]
fn memory_is_limited_by_client_and_shown_by_client() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    let gpu = installed.load();
    gpu.start(0);
    let mut one = control.started(&installed, &[HALF, ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=4G")]);
    let context = gpu.used() - CONTEXT - 66 * MIB;
    assert!(context < CONTEXT * 6 / 10, "half of the multiprocessors take little more than half of the memory");
    assert_eq!(one.ask("free"), [(4096 * MIB - context) as i64]);
    assert_eq!(one.ask(&format!("alloc {}", 4096 * MIB))[0], 2);
    assert_eq!(one.ask(&format!("alloc {}", 2048 * MIB))[0], 0);
    assert_eq!(gpu.clients(0), [(one.pid() as u32, context + 2048 * MIB)]);
    let server: u32 = control.tell("get_server_list").parse().expect("a pid");
    let mut pids = gpu.pids(0);
    pids.sort_unstable();
    let mut expected = [std::process::id(), one.pid() as u32, server];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    one.kill();
    assert!(gpu.clients(0).is_empty());
    control.tell(&format!("set_device_pinned_mem_limit {server} 0 1G"));
    let mut two = control.started(&installed, &[]);
    assert_eq!(two.ask(&format!("alloc {}", 1024 * MIB))[0], 2);
}

#[test]
fn a_fault_ends_all_clients_of_its_server_and_nobody_else() {
    let installed = Installed::new("H100");
    let (control, other) = (Control::start(&installed, "mps"), Control::start(&installed, "other"));
    let mut culprit = control.started(&installed, &[]);
    let mut victim = control.started(&installed, &[]);
    let mut apart = other.started(&installed, &[]);
    let mut native = Program::start(&installed, &[("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent")]);
    assert_eq!(native.ask("start"), [0]);
    let server = control.tell("get_server_list");
    assert_eq!(culprit.ask("fault"), [0, 700]);
    assert_eq!(victim.ask("sync"), [700]);
    assert_eq!(victim.ask("alloc 4096")[0], 700);
    for unhurt in [&mut apart, &mut native] {
        assert_eq!(unhurt.ask("timed 1000")[0], 0);
    }
    assert_eq!(control.tell(&format!("get_server_status {server}")), "FAULT");
    assert_eq!(control.client(&installed, &[]).ask("start"), [807]);
    culprit.kill();
    assert_eq!(control.client(&installed, &[]).ask("start"), [807], "while one of the old ones lives");
    victim.kill();
    let mut fresh = control.started(&installed, &[]);
    assert_eq!(fresh.ask("timed 1000"), [0, 1000]);
    assert_eq!(control.tell("get_server_list"), server, "the same server");
    // Without MPS a fault is the process's own.
    assert_eq!(native.ask("fault"), [0, 700]);
    assert_eq!(fresh.ask("timed 1000")[0], 0);
}

#[test]
fn a_server_that_is_killed_takes_its_clients_along_and_another_follows() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    let mut old = control.started(&installed, &[]);
    let server: i32 = control.tell("get_server_list").parse().expect("a pid");
    // SAFETY: the control has not reaped it, as it has not noticed its end.
    assert_eq!(unsafe { libc::kill(server, libc::SIGKILL) }, 0);
    until("the end of the server", || old.ask("sync") == [806]);
    let mut fresh = control.started(&installed, &[]);
    assert_ne!(control.tell("get_server_list"), server.to_string());
    assert_eq!(fresh.ask("timed 1000"), [0, 1000]);
    assert_eq!(old.ask("sync"), [806], "nor does the next server bring it back");
    assert_eq!(control.tell(&format!("get_client_list {}", control.tell("get_server_list"))), fresh.pid().to_string());
}

#[test]
fn a_client_is_terminated_alone_and_no_client_is_checkpointed() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    let gpu = installed.load();
    let (mut one, mut two) = (control.started(&installed, &[]), control.started(&installed, &[]));
    let server = control.tell("get_server_list");
    assert_eq!(control.tell(&format!("terminate_client {server} {}", one.pid())), "0");
    assert_eq!(one.ask("alloc 4096")[0], 810);
    assert_eq!(two.ask("timed 1000"), [0, 1000]);
    let codes = [
        call!(gpu, cuCheckpointProcessLock, two.pid(), 0),
        call!(gpu, cuCheckpointProcessCheckpoint, two.pid(), 0),
        call!(gpu, cuCheckpointProcessUnlock, two.pid(), 0),
    ];
    assert_eq!(codes, [801, 401, 401]);
    assert_eq!(two.ask("alloc 4096")[0], 0);
}

#[test]
fn clients_that_fit_run_at_once_and_their_kernels_take_longer() {
    let installed = Installed::real("H100");
    let control = Control::start(&installed, "mps");
    let (mut one, mut two) = (control.started(&installed, &[HALF]), control.started(&installed, &[HALF]));
    // Longer than this test may ever take, and not in the way of the other.
    assert_eq!(one.ask("launch 3600000000000"), [0]);
    // Of the device's time. A machine that is away at the wrong moment adds to it, but not every time.
    let exactly = (0..50).any(|_| {
        let took = two.ask(&format!("timed {}", 20 * MS));
        assert!(took[0] == 0 && took[1] >= 40 * MS, "{took:?}");
        took[1] == 40 * MS
    });
    assert!(exactly);
    assert_eq!(one.ask("query"), [600]);
}

#[test]
fn in_virtual_time_clients_overlap_to_the_nanosecond() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    let (mut one, mut two) = (control.started(&installed, &[HALF]), control.started(&installed, &[HALF]));
    assert_eq!(one.ask("launch 1000000"), [0]);
    assert_eq!(one.ask("launch 1000000"), [0], "the same client's follows");
    assert_eq!(two.ask("timed 500000"), [0, 1_000_000]);
    assert_eq!(one.ask("query"), [600], "of 4 ms two have passed");
    assert_eq!(two.ask("timed 500000"), [0, 1_000_000]);
    assert_eq!(one.ask("query"), [0], "and now all");
}

#[test]
fn in_virtual_time_clients_on_other_multiprocessors_overlap_and_on_the_same_ones_wait() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    let mut clients: Vec<Program> = (0..3).map(|_| control.started(&installed, &[])).collect();
    for (client, groups) in clients.iter_mut().zip(["0 1", "1 2", "0 2"]) {
        assert_eq!(client.ask(&format!("green {groups}")), [0]);
    }
    let [one, two, both] = &mut clients[..] else { panic!("three") };
    assert_eq!(one.ask("launch 1000000"), [0]);
    assert_eq!(two.ask("timed 500000"), [0, 500_000 * 132 / 16], "beside it, on 16 of 132");
    assert_eq!(one.ask("query"), [600], "of 16.5 ms 8.25 have passed");
    assert_eq!(both.ask("launch 1000"), [0]);
    assert_eq!(both.ask("sync"), [0]);
    assert_eq!(one.ask("query"), [0], "both's waited for it");
}

#[test]
fn clients_on_other_multiprocessors_run_at_once_and_on_the_same_ones_wait() {
    let installed = Installed::real("H100");
    let control = Control::start(&installed, "mps");
    let mut clients: Vec<Program> = (0..3).map(|_| control.started(&installed, &[])).collect();
    for (client, groups) in clients.iter_mut().zip(["0 1", "0 2", "2 13"]) {
        assert_eq!(client.ask(&format!("green {groups}")), [0]);
    }
    let [one, two, apart] = &mut clients[..] else { panic!("three") };
    assert_eq!(one.ask(&format!("launch {}", 3_600_000 * MS)), [0]);
    assert_eq!(two.ask("launch 1000"), [0]);
    // Of the device's time. A machine that is away at the wrong moment adds to it, but not every time.
    let alone = 20 * MS * 132 / (8 * 13);
    let exactly = (0..50).any(|_| {
        let took = apart.ask(&format!("timed {}", 20 * MS));
        // Events have their time in milliseconds as a float.
        assert!(took[0] == 0 && took[1] >= alone - 10, "{took:?}");
        took[1] <= alone + 10
    });
    assert!(exactly, "not in the way of those that wait for others");
    assert_eq!(two.ask("query"), [600], "it waits for one's, however short it is");
    one.kill();
    assert_eq!(two.ask("sync"), [0]);
}

#[test]
fn a_client_with_a_percentage_splits_nothing() {
    let installed = Installed::new("H100");
    let control = Control::start(&installed, "mps");
    assert_eq!(control.started(&installed, &[HALF]).ask("green 0 1"), [915]);
    assert_eq!(control.started(&installed, &[]).ask("green 0 1"), [0]);
}

#[test]
fn clients_that_do_not_fit_wait_for_whole_kernels() {
    let installed = Installed::real("H100");
    let control = Control::start(&installed, "mps");
    let (mut one, mut two) = (control.started(&installed, &[]), control.started(&installed, &[]));
    assert_eq!(one.ask(&format!("launch {}", 3_600_000 * MS)), [0]);
    assert_eq!(two.ask("launch 1000"), [0]);
    assert_eq!(two.ask("query"), [600], "it waits, however short it is");
    // Killed with work in flight, it is in nobody's way.
    one.kill();
    assert_eq!(two.ask("sync"), [0]);
}

#[test]
fn servers_and_processes_without_one_take_turns() {
    let installed = Installed::real("H100");
    let (control, other) = (Control::start(&installed, "mps"), Control::start(&installed, "other"));
    let mut endless = control.started(&installed, &[]);
    assert_eq!(endless.ask(&format!("launch {}", 3_600_000 * MS)), [0]);
    let mut native = Program::start(&installed, &[("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent")]);
    assert_eq!(native.ask("start"), [0]);
    for mut one in [other.started(&installed, &[]), native] {
        // 20 slices of it, with 19 at least of the other and the switches.
        let took = one.ask(&format!("timed {}", 50 * MS));
        assert!(took[0] == 0 && took[1] > 50 * MS + 19 * 29 * MS / 10 - MS, "{took:?}");
    }
}

#[test]
fn a_kernel_that_hangs_holds_up_its_context_and_nobody_elses() {
    let installed = Installed::real("H100");
    let mut one = Program::start(&installed, &[]);
    let mut two = Program::start(&installed, &[]);
    assert_eq!((one.ask("start"), two.ask("start")), (vec![0], vec![0]));
    assert_eq!((one.ask("hang"), one.ask("launch 1000")), (vec![0], vec![0]));
    assert_eq!(two.ask("timed 5000000")[0], 0);
    assert_eq!(one.ask("query"), [600]);
}

#[test]
fn what_runs_ends_with_its_installation() {
    let installed = Installed::new("H100");
    let mut control = Control::start(&installed, "mps");
    let client = control.started(&installed, &[]);
    let server = control.tell("get_server_list");
    drop((client, installed));
    let mut child = control.child.take().expect("in the foreground");
    assert!(child.wait().expect("reaped").success());
    until("the end of the server", || {
        std::fs::read_to_string(format!("/proc/{server}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    // Its folders are gone, and nobody is there to be told to quit.
    std::mem::forget(control);
}
