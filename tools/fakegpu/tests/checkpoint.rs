//! Processes that are locked, taken off their devices and brought back by another.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use common::{CONTEXT, Gpu, Installed, MIB, Program, TOTAL};

/// The part that a child process plays.
#[test]
fn child() {
    common::obey();
}

const RUNNING: i32 = 0;
const LOCKED: i32 = 1;
const AWAY: i32 = 2;

fn lock(gpu: &Gpu, pid: i32, milliseconds: u32) -> i32 {
    let mut arguments = [0_u32; 16];
    arguments[0] = milliseconds;
    call!(gpu, cuCheckpointProcessLock, pid, &arguments)
}

fn state(gpu: &Gpu, pid: i32) -> i32 {
    let mut state = -1_i32;
    ok!(gpu, cuCheckpointProcessGetState, pid, &mut state);
    state
}

#[test]
fn a_process_comes_back_with_its_memory_where_it_was() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let mut program = Program::start(&installed, &[]);
    let pid = program.pid();
    assert_eq!(program.ask("start"), [0]);
    let pointer = program.ask(&format!("alloc {}", 100 * MIB))[1];
    assert_eq!(program.ask("fill 7"), [0]);
    assert_eq!(state(&gpu, pid), RUNNING, "no cuInit is needed to ask");
    assert_eq!(lock(&gpu, pid, 0), 0);
    assert_eq!(state(&gpu, pid), LOCKED);
    let mut thread = 0_i32;
    ok!(gpu, cuCheckpointProcessGetRestoreThreadId, pid, &mut thread);
    assert!(std::fs::exists(format!("/proc/{pid}/task/{thread}")).expect("proc"), "{thread} is a thread of it");
    ok!(gpu, cuCheckpointProcessCheckpoint, pid, 0);
    assert_eq!(state(&gpu, pid), AWAY);
    assert_eq!(gpu.pids(0), [0_u32; 0]);
    // Made while it is away: answered when it goes on.
    program.tell("read");
    gpu.start(0);
    assert_eq!(gpu.used(), CONTEXT);
    // There is no room for it.
    let all = gpu.alloc(TOTAL - CONTEXT - 90 * MIB);
    assert_eq!(call!(gpu, cuCheckpointProcessRestore, pid, 0), 2);
    assert_eq!(state(&gpu, pid), AWAY);
    ok!(gpu, cuMemFree_v2, all);
    ok!(gpu, cuCheckpointProcessRestore, pid, 0);
    assert_eq!((state(&gpu, pid), gpu.used()), (LOCKED, 2 * CONTEXT + 100 * MIB));
    ok!(gpu, cuCheckpointProcessUnlock, pid, 0);
    assert_eq!(program.hear(), [0, 7]);
    let another = program.ask(&format!("alloc {MIB}"));
    assert!(another[0] == 0 && another[1] != pointer);
}

#[test]
fn what_a_state_does_not_allow_is_refused() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let mut program = Program::start(&installed, &[]);
    let pid = program.pid();
    assert_eq!(lock(&gpu, pid, 0), 3, "it does not use a device yet");
    assert_eq!(program.ask("start"), [0]);
    for code in [
        call!(gpu, cuCheckpointProcessCheckpoint, pid, 0),
        call!(gpu, cuCheckpointProcessRestore, pid, 0),
        call!(gpu, cuCheckpointProcessUnlock, pid, 0),
    ] {
        assert_eq!(code, 401);
    }
    assert_eq!(lock(&gpu, pid, 0), 0);
    assert_eq!(lock(&gpu, pid, 0), 401);
    assert_eq!(call!(gpu, cuCheckpointProcessRestore, pid, 0), 401);
    ok!(gpu, cuCheckpointProcessCheckpoint, pid, 0);
    assert_eq!(call!(gpu, cuCheckpointProcessUnlock, pid, 0), 401);
    assert_eq!(call!(gpu, cuCheckpointProcessCheckpoint, pid, 0), 401);
    // Killed while it is away, it leaves nothing.
    program.kill();
    let mut state = -1_i32;
    assert_eq!(call!(gpu, cuCheckpointProcessGetState, pid, &mut state), 3);
    assert_eq!(call!(gpu, cuCheckpointProcessRestore, pid, 0), 3);
    gpu.start(0);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn a_lock_waits_for_work_as_long_as_it_may() {
    for installed in [Installed::new("H100"), Installed::real("H100")] {
        let gpu = installed.load();
        let mut program = Program::start(&installed, &[]);
        assert_eq!(program.ask("start"), [0]);
        // Longer than this test may ever take.
        assert_eq!(program.ask("launch 3600000000000"), [0]);
        assert_eq!(lock(&gpu, program.pid(), 20), 600);
        assert_eq!(state(&gpu, program.pid()), RUNNING);
        assert_eq!(program.ask("query"), [600], "it goes on");
    }
    for installed in [Installed::new("H100"), Installed::real("H100")] {
        let gpu = installed.load();
        let mut program = Program::start(&installed, &[]);
        assert_eq!(program.ask("start"), [0]);
        assert_eq!(program.ask("launch 5000000"), [0]);
        assert_eq!(lock(&gpu, program.pid(), 0), 0);
        ok!(gpu, cuCheckpointProcessUnlock, program.pid(), 0);
        assert_eq!(program.ask("query"), [0], "its work was done");
    }
}
