//! Real processes on shared memory: charging to the edge, and being killed at it.
//!
//! `CLEAVE_LEDGER_KILLS=10000 cargo test -p cleave-ledger --release --test processes` kills more often than the usual
//! 2000 times; `CLEAVE_LEDGER_ITERATIONS` likewise (30000 a process).
#![cfg(all(not(loom), not(miri)))]
#![allow(unsafe_code)] // UNSAFETY: memfds are made and mapped as the shared structs.

use cleave_ledger::{Kind, Ledger, Policy, Refused, SLOTS, UNIT, Usage, scan};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Names the role and the file descriptors of a child.
const VARIABLE: &str = "CLEAVE_LEDGER_CHILD";

/// What the test's processes share beside the ledger.
#[repr(C)]
struct Stage {
    /// Bytes that the driver would have given out: allocated after they are reserved, freed before they are released.
    driver: AtomicU64,
    /// Permits to hold memory, in the test of moving memory.
    permits: AtomicU64,
    stop: AtomicU64,
    ready: AtomicU64,
    granted: AtomicU64,
    over_limit: AtomicU64,
    busy: AtomicU64,
    most_rounds: AtomicU64,
}

/// A mapped memfd; never unmapped, tests are short.
struct Shared<T: 'static> {
    file: File,
    at: &'static T,
}

impl<T> Shared<T> {
    /// A new file of zeros.
    fn create() -> Self {
        // SAFETY: the name is a C string; the result is checked. Not CLOEXEC, children are to inherit it.
        let fd = unsafe { libc::memfd_create(c"cleave-ledger-test".as_ptr(), 0) };
        assert!(fd >= 0, "memfd_create");
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size_of::<T>() as u64).expect("tmpfs has room");
        let at = map(fd, true);
        Self { file, at }
    }

    fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Maps a whole file that holds a `T`; `T` is one of this file's types or the ledger's: integers and atomics.
fn map<T>(fd: i32, writable: bool) -> &'static T {
    let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap");
    // SAFETY: page-aligned, `set_len` made the file as large as a T, and any bytes are a T. Never unmapped.
    unsafe { &*at.cast::<T>() }
}

/// A slice as the daemon has it.
struct Slice {
    policy: Shared<Policy>,
    usage: Shared<Usage>,
    stage: Shared<Stage>,
}

impl Slice {
    fn new(limit: u64, slots: u32) -> Self {
        let slice = Self { policy: Shared::create(), usage: Shared::create(), stage: Shared::create() };
        let policy = Policy::new();
        policy.devices[0].limit.store(limit, SeqCst);
        policy.slots_high.store(slots, SeqCst);
        let to: *const Policy = slice.policy.at;
        // SAFETY: the mapping is writable and of a Policy's size, and nobody reads it yet.
        unsafe { to.cast_mut().write(policy) };
        slice
    }

    fn spawn(&self, role: &str, slot: usize, iterations: u64) -> Child {
        let fds = format!("{} {} {}", self.policy.fd(), self.usage.fd(), self.stage.fd());
        Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "child", "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, format!("{role} {slot} {iterations} {fds}"))
            .stdout(Stdio::null())
            .spawn()
            .expect("the test's own binary")
    }

    /// Scans until all children have ended well. Of a picture that stood still, the sum was true at an instant.
    fn watch(&self, children: Vec<Child>) -> u64 {
        let mut stood_still = 0;
        for mut child in children {
            loop {
                for _ in 0..200 {
                    stood_still += u64::from(self.check());
                }
                if let Some(status) = child.try_wait().expect("a child of ours") {
                    assert!(status.success(), "a child failed: {status}");
                    break;
                }
            }
        }
        assert_eq!(scan(self.policy.at, self.usage.at, 0, SLOTS).asked(), 0);
        stood_still
    }

    /// Whether two scans in a row saw the same; what they saw must be within the limit.
    fn check(&self) -> bool {
        let [one, two] = [(); 2].map(|()| scan(self.policy.at, self.usage.at, 0, SLOTS));
        let limit = self.policy.at.devices[0].limit.load(SeqCst);
        assert!(one != two || one.used() <= limit, "{} used of {limit}", one.used());
        one == two
    }

    fn report(&self, what: &str, stood_still: u64) {
        let stage = self.stage.at;
        eprintln!(
            "{what}: {} granted, {} over the limit, {} busy, at most {} rounds of waiting, {stood_still} true pictures",
            stage.granted.load(SeqCst),
            stage.over_limit.load(SeqCst),
            stage.busy.load(SeqCst),
            stage.most_rounds.load(SeqCst),
        );
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().expect("a number"))
}

fn iterations() -> u64 {
    from_environment("CLEAVE_LEDGER_ITERATIONS", 30_000)
}

/// A small generator (xorshift64*): a run is repeatable but for the scheduler.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }
}

/// One process of a slice.
struct Process {
    ledger: Ledger<'static>,
    stage: &'static Stage,
}

impl Process {
    /// Reserves, and waits for seconds before it gives up.
    fn reserve(&self, bytes: u64) -> Result<(), Refused> {
        let mut rounds = 0;
        let outcome = self.ledger.reserve(0, Kind::Linear, bytes, |round| {
            rounds = u64::from(round) + 1;
            if round < 50 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
            round < 100_000
        });
        self.stage.most_rounds.fetch_max(rounds, SeqCst);
        match outcome {
            Ok(()) => self.stage.granted.fetch_add(1, SeqCst),
            Err(Refused::OverLimit { used, limit }) => {
                assert!(used + bytes > limit, "{bytes} refused with {used} of {limit} used");
                self.stage.over_limit.fetch_add(1, SeqCst)
            }
            Err(Refused::Busy) => self.stage.busy.fetch_add(1, SeqCst),
        };
        outcome
    }

    fn allocate(&self, bytes: u64) -> Result<(), Refused> {
        self.reserve(bytes)?;
        let bytes = bytes.next_multiple_of(UNIT);
        let now = self.stage.driver.fetch_add(bytes, SeqCst) + bytes;
        assert!(now <= self.ledger.limit(0), "{now} bytes allocated, which passes the limit");
        Ok(())
    }

    fn free(&self, bytes: u64) {
        self.stage.driver.fetch_sub(bytes.next_multiple_of(UNIT), SeqCst);
        self.ledger.release(0, Kind::Linear, bytes);
    }
}

/// The body of every child; does nothing in a run of the tests.
#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Ok(said) = std::env::var(VARIABLE) else { return };
    // SAFETY: prctl with integers; a child of a test that failed is to end with it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut words = said.split(' ');
    let role = words.next().expect("a role");
    let [slot, iterations, policy, usage, stage] =
        [(); 5].map(|()| words.next().and_then(|w| w.parse::<u64>().ok()).expect("a number"));
    let policy = map::<Policy>(policy as i32, false);
    assert!(policy.is_ours());
    let ledger = Ledger::new(policy, map(usage as i32, true), slot as usize).expect("a slot");
    let process = Process { ledger, stage: map(stage as i32, true) };
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ (u64::from(std::process::id()) << 32) ^ (slot + 1));
    process.stage.ready.fetch_add(1, SeqCst);
    match role {
        "share" => share(&process, &mut noise, iterations),
        "move" => moving(&process, iterations),
        "crowd" => crowd(&process, &mut noise, iterations, 16 * MIB),
        "victim" => crowd(&process, &mut noise, u64::MAX, 16 * MIB),
        "survivor" => survive(&process, &mut noise),
        _ => panic!("no such role: {role}"),
    }
}

/// Never holds more than its 8 MiB, so whatever it asks for fits.
fn share(process: &Process, noise: &mut Noise, iterations: u64) {
    let mut held = Vec::new();
    let mut sum = 0;
    for _ in 0..iterations {
        let room = 8 * MIB - sum;
        if room > 0 && noise.below(5) < 3 {
            // One in four takes all that is left, to be at the edge often.
            let bytes = if noise.below(4) == 0 { room } else { (1 + noise.below(room / UNIT)) * UNIT };
            process.allocate(bytes).expect("what fits is not refused");
            held.push(bytes);
            sum += bytes;
        } else if let Some(bytes) = held.pop() {
            process.free(bytes);
            sum -= bytes;
        }
    }
    held.into_iter().for_each(|bytes| process.free(bytes));
}

/// Takes a permit for 8 MiB, of which there are as many as fit: memory moves from slot to slot, and always fits.
fn moving(process: &Process, iterations: u64) {
    for _ in 0..iterations {
        while process.stage.permits.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err() {
            std::thread::yield_now();
        }
        process.allocate(8 * MIB).expect("what fits is not refused");
        process.free(8 * MIB);
        process.stage.permits.fetch_add(1, SeqCst);
    }
}

/// Wants more than there is.
fn crowd(process: &Process, noise: &mut Noise, iterations: u64, most: u64) {
    let mut held = Vec::new();
    for _ in 0..iterations {
        if noise.below(2) == 0 {
            let bytes = 1 + noise.below(most);
            if process.ledger.limit(0) == 0 {
                return;
            }
            // A victim's driver memory goes with it, so only those that live keep that account.
            let outcome = if iterations == u64::MAX { process.reserve(bytes) } else { process.allocate(bytes) };
            if outcome.is_ok() {
                held.push(bytes);
                continue;
            }
        }
        if let Some(bytes) = held.pop() {
            if iterations == u64::MAX {
                process.ledger.release(0, Kind::Linear, bytes);
            } else {
                process.free(bytes);
            }
        }
    }
    held.into_iter().for_each(|bytes| process.free(bytes));
}

/// Lives through the others' deaths until told to stop.
fn survive(process: &Process, noise: &mut Noise) {
    while process.stage.stop.load(SeqCst) == 0 {
        let bytes = 1 + noise.below(24 * MIB);
        if process.reserve(bytes).is_ok() {
            process.ledger.release(0, Kind::Linear, bytes);
        }
    }
}

fn run(role: &str, limit: u64) -> Slice {
    let slice = Slice::new(limit, 8);
    slice.stage.at.permits.store(limit / (8 * MIB), SeqCst);
    let children = (0..8).map(|slot| slice.spawn(role, slot, iterations())).collect();
    let stood_still = slice.watch(children);
    slice.report(role, stood_still);
    assert_eq!(scan(slice.policy.at, slice.usage.at, 0, SLOTS).used(), 0);
    assert_eq!(slice.stage.at.driver.load(SeqCst), 0);
    slice
}

#[test]
fn nobody_is_refused_where_the_shares_fit() {
    let slice = run("share", 64 * MIB);
    assert_eq!(slice.stage.at.over_limit.load(SeqCst) + slice.stage.at.busy.load(SeqCst), 0);
}

#[test]
fn memory_that_moves_between_processes_always_fits() {
    let slice = run("move", 24 * MIB);
    assert_eq!(slice.stage.at.granted.load(SeqCst), 8 * iterations());
}

#[test]
fn a_crowd_never_passes_the_limit() {
    let slice = run("crowd", 40 * MIB);
    let stage = slice.stage.at;
    assert!(stage.granted.load(SeqCst) > 0 && stage.over_limit.load(SeqCst) > 0);
    assert_eq!(stage.busy.load(SeqCst), 0, "nobody dies here, so nobody need give up");
}

#[test]
fn killed_at_any_moment_nothing_leaks() {
    const VICTIMS: usize = 4;
    let limit = 40 * MIB;
    let slice = Slice::new(limit, VICTIMS as u32 + 1);
    let stage = slice.stage.at;
    let survivor = slice.spawn("survivor", VICTIMS, 0);
    let mut noise = Noise(u64::from(std::process::id()) << 20 | 1);
    let rounds = from_environment("CLEAVE_LEDGER_KILLS", 2000).div_ceil(VICTIMS as u64);
    let (mut asking, mut holding) = (0, 0);
    for _ in 0..rounds {
        let before = stage.ready.load(SeqCst);
        let mut victims: Vec<_> = (0..VICTIMS).map(|slot| slice.spawn("victim", slot, 0)).collect();
        // Most have begun; some may be killed before, during or right after that.
        while stage.ready.load(SeqCst) < before + VICTIMS as u64 - 1 {
            std::thread::sleep(Duration::from_micros(100));
        }
        for (index, victim) in victims.iter_mut().enumerate() {
            std::thread::sleep(Duration::from_micros(noise.below(800)));
            victim.kill().expect("a child of ours");
            victim.wait().expect("a child of ours");
            let slot = &slice.usage.at.slots[index];
            asking += u32::from(slot.accounts[0].ask.load(SeqCst) != 0);
            holding += u32::from(slot.accounts[0].held.load(SeqCst) & ((1 << 40) - 1) != 0);
            slice.check();
            // As the daemon does: the request at once, the rest when the driver has let go.
            slot.withdraw();
            slice.check();
            slot.clear();
        }
    }
    stage.stop.store(1, SeqCst);
    let stood_still = slice.watch(vec![survivor]);
    slice.report("killed", stood_still);
    eprintln!("{} killed, {asking} while asking, {holding} while holding", rounds * VICTIMS as u64);
    assert!(asking > 0 && holding > 0, "the kills hit nothing");
    assert_eq!(scan(slice.policy.at, slice.usage.at, 0, SLOTS).used(), 0);
    let fresh = Ledger::new(slice.policy.at, slice.usage.at, 0).expect("a slot");
    fresh.reserve(0, Kind::Linear, limit, |_| false).expect("all of it is free");
}
