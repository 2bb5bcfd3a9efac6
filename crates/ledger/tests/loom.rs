//! Model checks: every interleaving of small races.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=/tmp/target-loom cargo test -p cleave-ledger --release --test loom`
//!
//! Caveats: the facade makes every `SeqCst` access a read-modify-write (see `sync`), so what is searched is every
//! sequentially consistent interleaving with at most 2 to 6 preemptions; `LOOM_MAX_PREEMPTIONS` sets another bound.
#![cfg(loom)]

use cleave_ledger::sync::Ordering::SeqCst;
use cleave_ledger::sync::die_after;
use cleave_ledger::{Kind, Ledger, Policy, Refused, SLOTS, UNIT, Usage, between, scan};
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Outcome = Result<(), Refused>;

/// A slice, and beside it what the driver would have given out at each instant: memory is allocated after it is
/// reserved and freed before it is released.
struct Slice {
    policy: Policy,
    usage: Usage,
    driver: AtomicU64,
}

impl Slice {
    fn new(limit: u64) -> Arc<Self> {
        let slice = Self { policy: Policy::new(), usage: Usage::new(), driver: AtomicU64::new(0) };
        slice.policy.devices[0].limit.store(limit * UNIT, SeqCst);
        slice.policy.slots_high.store(SLOTS as u32, SeqCst);
        Arc::new(slice)
    }

    fn ledger(&self, slot: usize) -> Ledger<'_> {
        Ledger::new(&self.policy, &self.usage, slot).expect("a slot")
    }

    fn limit(&self) -> u64 {
        self.policy.devices[0].limit.load(SeqCst) / UNIT
    }

    /// Reserves and allocates; waits as long as it takes. Loom says so if that is forever.
    fn allocate(&self, slot: usize, n: u64) -> Result<(), Refused> {
        self.allocate_within(slot, n, u32::MAX)
    }

    fn allocate_within(&self, slot: usize, n: u64, rounds: u32) -> Result<(), Refused> {
        let outcome = self.ledger(slot).reserve(0, Kind::Linear, n * UNIT, |round| {
            thread::yield_now();
            round < rounds
        });
        match outcome {
            Ok(()) => _ = self.driver.fetch_add(n, Ordering::SeqCst),
            Err(Refused::OverLimit { used, limit }) => assert!(used + n * UNIT > limit, "refused what fits"),
            Err(Refused::Busy) => assert_ne!(rounds, u32::MAX),
        }
        outcome
    }

    fn free(&self, slot: usize, n: u64) {
        self.driver.fetch_sub(n, Ordering::SeqCst);
        self.ledger(slot).release(0, Kind::Linear, n * UNIT);
    }

    /// The driver's memory, which must never pass the limit.
    fn check(&self) {
        assert!(self.driver.load(Ordering::SeqCst) <= self.limit(), "the limit is passed");
    }

    fn used(&self) -> u64 {
        self.ledger(0).used(0) / UNIT
    }

    fn quiet(&self) {
        assert_eq!(scan(&self.policy, &self.usage, 0, SLOTS).asked(), 0, "a request was left standing");
    }
}

/// Every interleaving with at most three preemptions.
fn model(f: impl Fn() + Sync + Send + 'static) {
    bounded(Some(3), f);
}

/// Every interleaving with at most so many preemptions.
fn bounded(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(f);
}

/// Runs one closure a thread and the last one on this thread.
fn race<const N: usize>(slice: &Arc<Slice>, others: [fn(&Slice) -> Outcome; N]) -> Vec<Outcome> {
    let handles = others.map(|f| {
        let slice = Arc::clone(slice);
        thread::spawn(move || {
            let outcome = f(&slice);
            slice.check();
            outcome
        })
    });
    handles.into_iter().map(|h| h.join().expect("no panic")).collect()
}

fn granted(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|o| o.is_ok()).count()
}

#[test]
fn of_two_for_the_last_bytes_exactly_one_wins() {
    model(|| {
        let slice = Slice::new(10);
        let outcomes = race(&slice, [|s| s.allocate(0, 6), |s| s.allocate(1, 6)]);
        assert_eq!(granted(&outcomes), 1, "{outcomes:?}");
        assert_eq!(slice.used(), 6);
        slice.quiet();
    });
}

/// Waits end here after some rounds: loom's scheduler is not fair, and lets two wait for a third forever.
#[test]
fn of_three_for_room_for_two_exactly_two_win() {
    bounded(Some(2), || {
        let slice = Slice::new(10);
        let outcomes = race(
            &slice,
            [|s| s.allocate_within(0, 5, 2), |s| s.allocate_within(1, 5, 2), |s| s.allocate_within(2, 5, 2)],
        );
        let busy = outcomes.iter().filter(|o| **o == Err(Refused::Busy)).count();
        assert!(granted(&outcomes) == 2 || granted(&outcomes) < 2 && busy > 0, "{outcomes:?}");
        assert_eq!(slice.used(), 5 * granted(&outcomes) as u64);
        slice.quiet();
    });
}

#[test]
fn nobody_is_refused_while_it_fits() {
    model(|| {
        let slice = Slice::new(12);
        let outcomes = race(&slice, [|s| s.allocate(0, 6), |s| s.allocate(1, 6)]);
        assert_eq!(granted(&outcomes), 2, "{outcomes:?}");
        assert_eq!(slice.used(), 12);
    });
}

/// Nothing is given back here, so what any scan adds up was held at its end.
#[test]
fn an_observer_never_sees_more_than_the_limit() {
    bounded(Some(2), || {
        let slice = Slice::new(10);
        let outcomes = race(
            &slice,
            [
                |s| s.allocate(0, 6),
                |s| s.allocate(1, 6),
                |s| {
                    assert!(s.used() <= 10);
                    assert!(s.used() <= 10);
                    Ok(())
                },
            ],
        );
        assert_eq!(granted(&outcomes), 2);
    });
}

#[test]
fn a_release_may_race_a_reservation() {
    model(|| {
        let slice = Slice::new(10);
        slice.allocate(0, 6).expect("fits");
        let outcomes = race(
            &slice,
            [
                |s| {
                    s.free(0, 6);
                    Ok(())
                },
                |s| s.allocate(1, 6),
            ],
        );
        assert_eq!(slice.used(), if outcomes[1].is_ok() { 6 } else { 0 });
        slice.quiet();
    });
}

/// Memory moves from slot 0 to slot 2, ahead of the scan of slot 1, which may see it in both and must look twice.
#[test]
fn memory_that_moves_is_not_seen_twice() {
    model(|| {
        let slice = Slice::new(10);
        slice.allocate(0, 6).expect("fits");
        let outcomes = race(
            &slice,
            [
                |s| {
                    s.free(0, 6);
                    s.allocate(2, 6)
                },
                |s| s.allocate(1, 4),
            ],
        );
        assert_eq!(granted(&outcomes), 2, "{outcomes:?}");
        assert_eq!(slice.used(), 10);
    });
}

/// To and fro, so that two scans may see the same false sum; the versions tell.
#[test]
fn memory_that_moves_to_and_fro_is_not_seen_twice() {
    bounded(Some(6), || {
        let slice = Slice::new(10);
        slice.ledger(0).take(0, Kind::Linear, 6 * UNIT);
        let outcomes = race(
            &slice,
            [
                |s| {
                    for (from, to) in [(0, 2), (2, 0), (0, 2)] {
                        s.ledger(from).release(0, Kind::Linear, 6 * UNIT);
                        s.ledger(to).take(0, Kind::Linear, 6 * UNIT);
                    }
                    Ok(())
                },
                |s| s.allocate(1, 4),
            ],
        );
        assert_eq!(granted(&outcomes), 2, "{outcomes:?}");
        assert_eq!(slice.used(), 10);
    });
}

/// A reader that changes nothing (the daemon) reads every word twice: what it adds up is never more than there was, and
/// exactly what there was if no word moved.
#[test]
fn two_readings_never_show_more_than_there_was() {
    model(|| {
        let slice = Slice::new(2);
        slice.allocate(0, 2).expect("fits");
        let mover = {
            let slice = Arc::clone(&slice);
            thread::spawn(move || {
                slice.free(0, 2);
                slice.allocate(1, 2).expect("all is free");
                slice.free(1, 2);
                slice.allocate(0, 2).expect("all is free");
            })
        };
        let words = || [0, 1].map(|slot: usize| slice.usage.slots[slot].accounts[0].held.load(SeqCst));
        let (before, after) = (words(), words());
        let seen = before.into_iter().zip(after).map(|(b, a)| between(b, a));
        let (held, exact) = seen.fold((0, true), |(sum, all), (bytes, exact)| (sum + bytes, all && exact));
        assert!(held <= 2 * UNIT, "{held} of {before:?} {after:?}");
        assert!(!exact || [0, 2].contains(&(held / UNIT)), "{held} of {before:?} {after:?}");
        mover.join().expect("no panic");
    });
}

/// The same where the owner dies, its slot is cleared and another slot is given what it had.
#[test]
fn memory_that_is_reaped_is_not_seen_twice() {
    model(|| {
        let slice = Slice::new(10);
        slice.allocate(0, 6).expect("fits");
        let outcomes = race(
            &slice,
            [
                |s| {
                    s.driver.fetch_sub(6, Ordering::SeqCst);
                    s.usage.slots[0].clear();
                    s.allocate(2, 6)
                },
                |s| s.allocate(1, 4),
            ],
        );
        assert_eq!(granted(&outcomes), 2, "{outcomes:?}");
        assert_eq!(slice.used(), 10);
    });
}

#[test]
fn a_dead_slot_is_cleared_while_another_reserves() {
    model(|| {
        let slice = Slice::new(10);
        slice.allocate(2, 6).expect("fits");
        slice.usage.slots[2].accounts[0].ask.store(4, SeqCst);
        let outcomes = race(
            &slice,
            [
                |s| {
                    s.driver.fetch_sub(6, Ordering::SeqCst);
                    s.usage.slots[2].clear();
                    Ok(())
                },
                |s| s.allocate(0, 6),
            ],
        );
        assert_eq!(slice.used(), if outcomes[1].is_ok() { 6 } else { 0 });
        slice.quiet();
    });
}

/// The daemon writes the lower limit, then scans. If it sees no request then, what it sees held will only shrink, or
/// grow within the new limit.
#[test]
fn a_lowered_limit_holds_once_no_request_is_seen() {
    model(|| {
        let slice = Slice::new(10);
        slice.allocate(0, 2).expect("fits");
        let daemon = {
            let slice = Arc::clone(&slice);
            thread::spawn(move || {
                slice.policy.devices[0].limit.store(4 * UNIT, SeqCst);
                let seen = scan(&slice.policy, &slice.usage, 0, SLOTS);
                (seen.asked() / UNIT, seen.used() / UNIT)
            })
        };
        let outcome = slice.allocate(1, 6);
        let (asked, used) = daemon.join().expect("no panic");
        let end = slice.used();
        assert_eq!(end, if outcome.is_ok() { 8 } else { 2 });
        assert!(end <= used.max(4) || asked > 0, "{end} held, {used} seen, {asked} asked");
    });
}

#[test]
fn a_raised_limit_is_found_or_the_refusal_names_the_old_one() {
    model(|| {
        let slice = Slice::new(4);
        let daemon = {
            let slice = Arc::clone(&slice);
            thread::spawn(move || slice.policy.devices[0].limit.store(10 * UNIT, SeqCst))
        };
        if let Err(refused) = slice.allocate(1, 6) {
            assert_eq!(refused, Refused::OverLimit { used: 0, limit: 4 * UNIT });
        }
        daemon.join().expect("no panic");
        slice.check();
    });
}

/// The limit is raised and only then used, so a small request fits all the time.
#[test]
fn a_limit_of_before_is_not_held_against_what_came_after() {
    model(|| {
        let slice = Slice::new(4);
        slice.ledger(0).take(0, Kind::Linear, 3 * UNIT);
        let outcomes = race(
            &slice,
            [
                |s| {
                    s.policy.devices[0].limit.store(10 * UNIT, SeqCst);
                    s.ledger(0).take(0, Kind::Linear, 5 * UNIT);
                    Ok(())
                },
                |s| s.allocate(1, 1),
            ],
        );
        assert_eq!(granted(&outcomes), 2, "{outcomes:?}");
    });
}

/// The daemon makes room for a new process, which asks at once, while an old one asks.
#[test]
fn a_new_process_is_seen_by_those_there() {
    model(|| {
        let slice = Slice::new(10);
        slice.policy.slots_high.store(1, SeqCst);
        let outcomes = race(
            &slice,
            [
                |s| s.allocate(0, 6),
                |s| {
                    s.policy.slots_high.store(2, SeqCst);
                    s.allocate(1, 6)
                },
            ],
        );
        assert_eq!(granted(&outcomes), 1, "{outcomes:?}");
        assert_eq!(slice.used(), 6);
    });
}

/// More is given back than was taken, by a fault in the caller: that must not borrow from the version.
#[test]
fn what_is_given_back_too_often_is_dropped() {
    model(|| {
        let slice = Slice::new(10);
        slice.ledger(0).take(0, Kind::Linear, 10 * UNIT);
        slice.ledger(0).release(0, Kind::Linear, 6 * UNIT);
        slice.ledger(0).release(0, Kind::Linear, 6 * UNIT);
        assert_eq!(slice.used(), 0);
    });
}

#[test]
fn a_request_left_standing_makes_others_busy_not_refused() {
    for dead in [0, 2] {
        model(move || {
            let slice = Slice::new(10);
            slice.usage.slots[dead].accounts[0].ask.store(6, SeqCst);
            let other = {
                let slice = Arc::clone(&slice);
                thread::spawn(move || slice.allocate_within(2 - dead, 4, 3))
            };
            assert_eq!(slice.allocate_within(1, 6, 3), Err(Refused::Busy));
            // What fits beside the standing request does not wait for it … unless it meets the one above.
            let other = other.join().expect("no panic");
            assert!(matches!(other, Ok(()) | Err(Refused::Busy)), "{other:?}");
            slice.usage.slots[dead].withdraw();
            slice.allocate(1, 6).expect("fits");
            slice.quiet();
        });
    }
}

/// Runs `f`, and lets this thread die in place of its write number `at`. Whether it lived.
fn until(at: u32, f: impl FnOnce()) -> bool {
    die_after(Some(at));
    let lived = catch_unwind(AssertUnwindSafe(f)).is_ok();
    die_after(None);
    lived
}

/// Every kill point of an operation in turn, found by counting its writes, with nobody about.
fn kill_points(operation: fn(&Slice)) -> u32 {
    let points = Arc::new(AtomicU64::new(0));
    for at in 0.. {
        let lived = Arc::new(AtomicU64::new(0));
        let said = Arc::clone(&lived);
        model(move || {
            let slice = Slice::new(10);
            slice.allocate(1, 3).expect("fits");
            slice.ledger(0).take(0, Kind::Pool, UNIT);
            let before = slice.ledger(0).slot().accounts[0].bytes();
            if until(at, || operation(&slice)) {
                said.store(1, Ordering::SeqCst);
            }
            // Dead, not yet found so: the slots tell the truth, and nobody is refused; at most a request waits for it.
            let held = slice.ledger(0).slot().accounts[0].bytes();
            assert!(held.abs_diff(before) <= 4 * UNIT);
            assert_eq!(slice.used() * UNIT, held + 3 * UNIT);
            let early = slice.allocate_within(2, 1, 3);
            assert!(matches!(early, Ok(()) | Err(Refused::Busy)), "{early:?}");
            // Found dead: nobody waits for it any longer, what it held stays charged.
            slice.usage.slots[0].withdraw();
            slice.quiet();
            if early.is_err() {
                slice.allocate_within(2, 1, 0).expect("fits");
            }
            assert_eq!(slice.used() * UNIT, held + 4 * UNIT);
            // Cleared: all of it is there again.
            slice.usage.slots[0].clear();
            assert_eq!(slice.used(), 4);
            slice.allocate(2, 6).expect("fits");
            assert!(slice.allocate(0, 1).is_err());
        });
        if lived.load(Ordering::SeqCst) == 1 {
            break;
        }
        points.fetch_add(1, Ordering::SeqCst);
    }
    points.load(Ordering::SeqCst) as u32
}

#[test]
fn every_kill_point_in_turn() {
    let reserve: fn(&Slice) = |s| s.ledger(0).reserve(0, Kind::Linear, 4 * UNIT, |_| false).expect("fits");
    assert_eq!(kill_points(reserve), 3, "ask, held, ask");
    assert_eq!(kill_points(|s| s.ledger(0).release(0, Kind::Linear, UNIT)), 1, "held");
    assert_eq!(kill_points(|s| s.ledger(0).take(0, Kind::Linear, 2 * UNIT)), 1, "held");
    let refused: fn(&Slice) = |s| _ = s.ledger(0).reserve(0, Kind::Linear, 7 * UNIT, |_| false).expect_err("over");
    assert_eq!(kill_points(refused), 2, "ask, ask");
}

/// The reaper itself may be killed at any write, and its successor clears again.
#[test]
fn every_kill_point_of_the_reaper_in_turn() {
    assert_eq!(kill_points(|s| s.usage.slots[0].clear()), 4, "two accounts' ask and held");
}

/// Every kill point in turn while another process races for the same bytes and a reaper follows.
#[test]
fn a_racer_dies_at_every_point() {
    for at in 0..8 {
        model(move || {
            let slice = Slice::new(10);
            let victim = {
                let slice = Arc::clone(&slice);
                thread::spawn(move || {
                    until(at, || {
                        _ = slice.ledger(0).reserve(0, Kind::Linear, 6 * UNIT, |round| {
                            thread::yield_now();
                            round < 3
                        })
                    });
                    // The daemon, which learns of a death from the kernel, after the last write.
                    assert!(slice.used() <= 10);
                    slice.usage.slots[0].clear();
                })
            };
            let outcome = slice.allocate_within(1, 6, 3);
            victim.join().expect("no panic");
            assert_eq!(slice.used(), if outcome.is_ok() { 6 } else { 0 });
            slice.quiet();
            slice.allocate(2, 4).expect("fits");
        });
    }
}
