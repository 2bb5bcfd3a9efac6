//! MIG through NVML and CUDA: what is refused and why, what a program in an instance sees, and what its end leaves.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use common::{Gpu, Installed, MIB, Program};

const NOT_SUPPORTED: i32 = 3;
const INVALID: i32 = 2;
const NOT_FOUND: i32 = 6;
const IN_USE: i32 = 19;
const NO_ROOM: i32 = 23;

/// The part that a child process plays, when this program is started as one.
#[test]
fn child() {
    common::obey();
}

fn card(gpu: &Gpu, index: u32) -> u64 {
    let mut handle = 0_u64;
    ok!(gpu, nvmlInit_v2);
    ok!(gpu, nvmlDeviceGetHandleByIndex_v2, index, &mut handle);
    handle
}

fn mode(gpu: &Gpu, card: u64) -> (u32, u32) {
    let (mut current, mut pending) = (9_u32, 9_u32);
    ok!(gpu, nvmlDeviceGetMigMode, card, &mut current, &mut pending);
    (current, pending)
}

/// Sets the mode; the outcome of its activation.
fn set_mode(gpu: &Gpu, card: u64, on: u32) -> i32 {
    let mut activation = -1_i32;
    ok!(gpu, nvmlDeviceSetMigMode, card, on, &mut activation);
    activation
}

/// Makes an instance of a profile with a compute instance of so many slices' profile; handles of both.
fn make(gpu: &Gpu, card: u64, profile: u32, place: [u32; 2], compute: u32) -> (u64, u64) {
    let (mut gi, mut ci) = (0_u64, 0_u64);
    ok!(gpu, nvmlDeviceCreateGpuInstanceWithPlacement, card, profile, &place, &mut gi);
    ok!(gpu, nvmlGpuInstanceCreateComputeInstance, gi, compute, &mut ci);
    (gi, ci)
}

fn uuid(gpu: &Gpu, device: u64) -> String {
    let mut text = [0_u8; 96];
    ok!(gpu, nvmlDeviceGetUUID, device, &mut text, 96_u32);
    String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
}

#[test]
fn a_card_is_divided_only_while_nothing_uses_it_and_whole_again_only_when_empty() {
    let installed = Installed::new("H100+T4");
    let gpu = installed.load();
    let (h100, t4) = (card(&gpu, 0), card(&gpu, 1));
    let mut activation = 0_i32;
    assert_eq!(call!(gpu, nvmlDeviceSetMigMode, t4, 1, &mut activation), NOT_SUPPORTED);
    assert_eq!(call!(gpu, nvmlDeviceSetMigMode, h100, 2, &mut activation), INVALID);
    let mut gi = 0_u64;
    assert_eq!(call!(gpu, nvmlDeviceCreateGpuInstance, h100, 9, &mut gi), NOT_SUPPORTED);
    let mut user = Program::start(&installed, &[]);
    assert_eq!(user.ask("start"), [0]);
    assert_eq!((set_mode(&gpu, h100, 1), mode(&gpu, h100)), (IN_USE, (0, 1)));
    user.kill();
    assert_eq!((set_mode(&gpu, h100, 1), mode(&gpu, h100)), (0, (1, 1)));
    // Its profiles are those that were measured.
    let mut count = 0_u32;
    ok!(gpu, nvmlDeviceGetGpuInstanceRemainingCapacity, h100, 19, &mut count);
    assert_eq!(count, 7);
    let (gi, ci) = make(&gpu, h100, 9, [4, 4], 2);
    ok!(gpu, nvmlDeviceGetGpuInstanceRemainingCapacity, h100, 19, &mut count);
    assert_eq!(count, 4);
    let mut info = [0_u64; 3];
    ok!(gpu, nvmlGpuInstanceGetInfo, gi, &mut info);
    assert_eq!((info[0], info[1] >> 32, info[2]), (h100, 9, 4 | 4 << 32));
    let mut other = 0_u64;
    let place = [4_u32, 4];
    assert_eq!(call!(gpu, nvmlDeviceCreateGpuInstanceWithPlacement, h100, 9, &place, &mut other), NO_ROOM);
    assert_eq!(call!(gpu, nvmlGpuInstanceDestroy, gi), IN_USE);
    assert_eq!(call!(gpu, nvmlDeviceSetMigMode, h100, 0, &mut activation), IN_USE);
    // The state is the installation's, not the process's.
    let mut again = Program::start(&installed, &[]);
    assert_eq!(again.ask("mig"), [1, 1]);
    ok!(gpu, nvmlComputeInstanceDestroy, ci);
    ok!(gpu, nvmlGpuInstanceDestroy, gi);
    assert_eq!(call!(gpu, nvmlComputeInstanceDestroy, ci), INVALID);
    assert_eq!(call!(gpu, nvmlGpuInstanceGetInfo, gi, &mut info), INVALID);
    // One in the same place is another.
    let (new, _) = make(&gpu, h100, 9, [4, 4], 2);
    assert_ne!(new, gi);
    assert_eq!(call!(gpu, nvmlGpuInstanceDestroy, gi), INVALID);
}

#[test]
fn a_program_in_an_instance_has_that_and_no_more() {
    let installed = Installed::new("H100,mig");
    let gpu = installed.load();
    let h100 = card(&gpu, 0);
    let (_, ci) = make(&gpu, h100, 19, [0, 1], 0);
    make(&gpu, h100, 14, [2, 2], 1);
    let (mut small, mut large) = (0_u64, 0_u64);
    // The instance of two slices has the lower id.
    ok!(gpu, nvmlDeviceGetMigDeviceHandleByIndex, h100, 0, &mut large);
    ok!(gpu, nvmlDeviceGetMigDeviceHandleByIndex, h100, 1, &mut small);
    assert_eq!(call!(gpu, nvmlDeviceGetMigDeviceHandleByIndex, h100, 2, &mut 0_u64), NOT_FOUND);
    let (name, other) = (uuid(&gpu, small), uuid(&gpu, large));
    assert!(name.starts_with("MIG-") && name != other, "{name} {other}");
    let (mut parent, mut found) = (0_u64, 0_u64);
    ok!(gpu, nvmlDeviceGetDeviceHandleFromMigDeviceHandle, small, &mut parent);
    assert_eq!(parent, h100);
    let text = std::ffi::CString::new(name.clone()).expect("no zero");
    ok!(gpu, nvmlDeviceGetHandleByUUID, text.as_ptr(), &mut found);
    assert_eq!(found, small);

    let mut tenant = Program::start(&installed, &[("CUDA_VISIBLE_DEVICES", &name)]);
    let mut neighbour = Program::start(&installed, &[("CUDA_VISIBLE_DEVICES", &other)]);
    let mut nobody = Program::start(&installed, &[("CUDA_VISIBLE_DEVICES", "MIG-00000000-")]);
    assert_eq!(tenant.ask("start"), [0]);
    assert_eq!(neighbour.ask("start"), [0]);
    assert_eq!(nobody.ask("start"), [100]);
    // Devices, multiprocessors, MiB.
    assert_eq!(tenant.ask("seen"), [1, 16, 9984]);
    assert_eq!(neighbour.ask("seen"), [1, 32, 20096]);
    let alloc = |mib: u64| format!("alloc {}", mib * MIB);
    assert_eq!(neighbour.ask(&alloc(8000))[0], 0);
    assert_eq!(tenant.ask(&alloc(8000))[0], 0, "its neighbour's memory is not its");
    assert_eq!(tenant.ask(&alloc(2000))[0], 2);

    let mut memory = [0_u64; 3];
    ok!(gpu, nvmlDeviceGetMemoryInfo, small, &mut memory);
    assert_eq!((memory[0] / MIB, memory[2] / MIB > 8000), (9984, true));
    let processes = |device: u64| {
        let (mut count, mut list) = (8_u32, [[0_u64; 3]; 8]);
        ok!(gpu, nvmlDeviceGetComputeRunningProcesses_v3, device, &mut count, &mut list);
        list[..count as usize].iter().map(|row| (row[0] as i32, row[2] as u32)).collect::<Vec<_>>()
    };
    assert_eq!(processes(small), [(tenant.pid(), 7)]);
    assert_eq!(processes(h100).len(), 2);
    assert_eq!(call!(gpu, nvmlComputeInstanceDestroy, ci), IN_USE);
    tenant.kill();
    ok!(gpu, nvmlComputeInstanceDestroy, ci);
    assert_eq!(call!(gpu, nvmlDeviceGetMemoryInfo, small, &mut memory), INVALID);
    assert_eq!(neighbour.ask("seen"), [1, 32, 20096]);
}
