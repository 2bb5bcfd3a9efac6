//! The protocol in one thread: its edges, any sequence of operations against a plain model, and hostile bytes.
//!
//! Runs under Miri too, with fewer cases: see `.ci/run`.
#![cfg(not(loom))]

use cleave_ledger::{
    DEVICES, HOST, KINDS, Kind, Ledger, Policy, Refused, SLOTS, UNIT, UNLIMITED, Usage, between, scan, units,
};
use proptest::prelude::*;
use std::sync::atomic::Ordering::SeqCst;

/// Most units of an account.
const MOST: u64 = (1 << 40) - 1;
/// Slots that a test fills with garbage, or looks through word by word.
const FILLED: usize = if cfg!(miri) { 6 } else { SLOTS };

fn slice(limit: u64) -> (Box<Policy>, Box<Usage>) {
    let policy = Box::new(Policy::new());
    policy.devices[0].limit.store(limit, SeqCst);
    policy.slots_high.store(8, SeqCst);
    (policy, Box::new(Usage::new()))
}

fn never(_: u32) -> bool {
    false
}

#[test]
fn the_last_unit_is_granted_and_the_next_refused() {
    let (policy, usage) = slice(10 * UNIT);
    let a = Ledger::new(&policy, &usage, 0).expect("a slot");
    let b = Ledger::new(&policy, &usage, 1).expect("a slot");
    a.reserve(0, Kind::Linear, 9 * UNIT, never).expect("fits");
    b.reserve(0, Kind::Pool, 1, never).expect("fits: a unit");
    assert_eq!(a.used(0), 10 * UNIT);
    assert_eq!(a.reserve(0, Kind::Linear, 1, never), Err(Refused::OverLimit { used: 10 * UNIT, limit: 10 * UNIT }));
    b.release(0, Kind::Pool, 1);
    a.reserve(0, Kind::Linear, 1, never).expect("fits again");
    assert!(Ledger::new(&policy, &usage, SLOTS).is_none());
}

#[test]
fn nothing_always_fits() {
    let (policy, usage) = slice(0);
    let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
    ledger.take(0, Kind::Context, 7 * UNIT);
    usage.slots[1].accounts[0].ask.store(5, SeqCst);
    assert_eq!(ledger.reserve(0, Kind::Linear, 0, never), Ok(()));
}

/// `SIZE_MAX` rounded up to units does not fit a u64 of bytes: it wrapped to 0, which fits.
#[test]
fn no_size_is_too_large_to_be_refused() {
    for limit in [0, 10 * UNIT, UNLIMITED - 1, UNLIMITED] {
        let (policy, usage) = slice(limit);
        let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
        for bytes in [u64::MAX, u64::MAX - 1, u64::MAX - UNIT, 1 << 63, (MOST + 1) * UNIT, MOST * UNIT + 1] {
            let outcome = ledger.reserve(0, Kind::Linear, bytes, never);
            assert_eq!(outcome, Err(Refused::OverLimit { used: 0, limit }), "{bytes} of {limit}");
        }
        assert_eq!(ledger.used(0), 0);
    }
}

/// Without a limit an account could overflow into its own version, and then give back what others hold.
#[test]
fn an_account_does_not_overflow() {
    let (policy, usage) = slice(UNLIMITED);
    let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
    ledger.reserve(HOST, Kind::Managed, 5 * UNIT, never).expect("no limit");
    assert!(ledger.reserve(HOST, Kind::Managed, MOST * UNIT, never).is_err());
    assert_eq!(ledger.used(HOST), 5 * UNIT);
    ledger.reserve(HOST, Kind::Managed, (MOST - 5) * UNIT, never).expect("just fits");
    ledger.take(HOST, Kind::Managed, u64::MAX);
    assert_eq!(ledger.used(HOST), MOST * UNIT);
    let other = Ledger::new(&policy, &usage, 1).expect("a slot");
    other.take(HOST, Kind::Managed, UNIT);
    assert_eq!(other.used(HOST), (MOST + 1) * UNIT, "a sum is not bounded as an account is");
    ledger.release(HOST, Kind::Managed, u64::MAX);
    assert_eq!(other.used(HOST), UNIT);
}

#[test]
fn a_device_that_is_not_there_has_no_room() {
    let (policy, usage) = slice(10 * UNIT);
    let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
    for device in [1, DEVICES - 1, DEVICES + 1, usize::MAX] {
        assert!(ledger.reserve(device, Kind::Linear, 1, never).is_err());
        ledger.release(device, Kind::Linear, 1);
    }
    ledger.take(usize::MAX, Kind::Linear, 1);
    assert_eq!((ledger.limit(usize::MAX), ledger.used(usize::MAX)), (0, 0));
}

/// A lower slot stopped in the middle of asking. Whoever waits for it goes on as soon as there is room for both.
#[test]
fn who_waits_notices_room() {
    let (policy, usage) = slice(10 * UNIT);
    usage.slots[0].accounts[0].ask.store(6, SeqCst);
    let ledger = Ledger::new(&policy, &usage, 1).expect("a slot");
    let mut rounds = 0;
    let outcome = ledger.reserve(0, Kind::Linear, 6 * UNIT, |round| {
        assert_eq!(ledger.slot().accounts[0].ask.load(SeqCst), 0, "withdrawn");
        policy.devices[0].limit.store(12 * UNIT, SeqCst);
        rounds += 1;
        round < 5
    });
    assert_eq!((outcome, rounds), (Ok(()), 1));
}

/// And is refused as soon as there is none, with the reason, instead of waiting for nothing.
#[test]
fn who_waits_notices_that_it_is_full() {
    let (policy, usage) = slice(10 * UNIT);
    usage.slots[0].accounts[0].ask.store(6, SeqCst);
    let ledger = Ledger::new(&policy, &usage, 1).expect("a slot");
    let third = Ledger::new(&policy, &usage, 2).expect("a slot");
    let outcome = ledger.reserve(0, Kind::Linear, 6 * UNIT, |round| {
        if round == 0 {
            third.take(0, Kind::Context, 5 * UNIT);
        }
        round < 5
    });
    assert_eq!(outcome, Err(Refused::OverLimit { used: 5 * UNIT, limit: 10 * UNIT }));
    assert_eq!(ledger.slot().accounts[0].ask.load(SeqCst), 0);
}

#[test]
fn a_request_above_keeps_the_lower_one_asking() {
    let (policy, usage) = slice(10 * UNIT);
    usage.slots[3].accounts[0].ask.store(6, SeqCst);
    let ledger = Ledger::new(&policy, &usage, 1).expect("a slot");
    let outcome = ledger.reserve(0, Kind::Linear, 6 * UNIT, |round| {
        assert_eq!(ledger.slot().accounts[0].ask.load(SeqCst), 6, "stands");
        if round == 2 {
            usage.slots[3].withdraw();
        }
        true
    });
    assert_eq!(outcome, Ok(()));
}

#[test]
fn two_readings_tell_what_was_held_between_them() {
    let version = 1 << 40;
    for (before, after, told) in [
        (0, 0, (0, true)),
        (7 * version + 5, 7 * version + 5, (5, true)),
        (7 * version + 5, 8 * version + 9, (5, false)),
        (7 * version + 9, 8 * version + 5, (5, false)),
        (u64::MAX, 3, (3, false)),
        // It may have been anything in between.
        (7 * version + 5, 9 * version + 5, (0, false)),
        (8 * version + 5, 7 * version + 5, (0, false)),
        (7 * version + 5, 7 * version + 6, (0, false)),
    ] {
        assert_eq!(between(before, after), (told.0 * UNIT, told.1), "{before:#x} {after:#x}");
    }
}

/// Zeroed with the units, versions would repeat: a slot that dies and one that takes the same would look like nothing.
#[test]
fn a_cleared_slot_does_not_repeat_its_version() {
    let (policy, usage) = slice(10 * UNIT);
    let first = Ledger::new(&policy, &usage, 0).expect("a slot");
    let second = Ledger::new(&policy, &usage, 1).expect("a slot");
    first.take(0, Kind::Linear, 4 * UNIT);
    let before = scan(&policy, &usage, 0, SLOTS);
    first.slot().clear();
    second.take(0, Kind::Linear, 4 * UNIT);
    let after = scan(&policy, &usage, 0, SLOTS);
    assert_eq!(before.used(), after.used());
    assert_ne!(before, after);
}

#[test]
fn a_version_may_wrap() {
    let (policy, usage) = slice(10 * UNIT);
    usage.slots[0].accounts[0].held.store(u64::MAX - MOST, SeqCst);
    let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
    ledger.reserve(0, Kind::Linear, 3 * UNIT, never).expect("fits");
    assert_eq!(ledger.slot().accounts[0].held.load(SeqCst), 3);
    assert_eq!(ledger.used(0), 3 * UNIT);
}

// --- any sequence against a plain model ---

const PROCESSES: usize = 5;
const PLACES: [usize; 3] = [0, 1, HOST];

#[derive(Clone, Debug)]
enum Op {
    Reserve {
        slot: usize,
        place: usize,
        kind: usize,
        bytes: u64,
    },
    Take {
        slot: usize,
        place: usize,
        kind: usize,
        bytes: u64,
    },
    /// Part of what the slot holds of the kind, in 256ths; over 256 = more than it holds.
    Release {
        slot: usize,
        place: usize,
        kind: usize,
        part: u64,
    },
    /// Dies while it asks, before or after the grant.
    Die {
        slot: usize,
        place: usize,
        units: u64,
        granted: bool,
    },
    Withdraw {
        slot: usize,
    },
    Clear {
        slot: usize,
    },
    Limit {
        place: usize,
        bytes: u64,
    },
    Adjust {
        slot: usize,
        place: usize,
        bytes: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![8 => 0..20 * UNIT, 2 => (0..20u64).prop_map(|n| n * UNIT), 1 => any::<u64>()];
    let at = || (0..PROCESSES, 0..PLACES.len());
    prop_oneof![
        8 => (at(), 0..KINDS, size())
            .prop_map(|((slot, place), kind, bytes)| Op::Reserve { slot, place, kind, bytes }),
        1 => (at(), 0..KINDS, 0..20 * UNIT)
            .prop_map(|((slot, place), kind, bytes)| Op::Take { slot, place, kind, bytes }),
        6 => (at(), 0..KINDS, 0..300u64)
            .prop_map(|((slot, place), kind, part)| Op::Release { slot, place, kind, part }),
        1 => (at(), 1..20u64, any::<bool>())
            .prop_map(|((slot, place), units, granted)| Op::Die { slot, place, units, granted }),
        1 => (0..PROCESSES).prop_map(|slot| Op::Withdraw { slot }),
        2 => (0..PROCESSES).prop_map(|slot| Op::Clear { slot }),
        2 => (0..PLACES.len(), prop_oneof![4 => 0..60 * UNIT, 1 => Just(UNLIMITED)])
            .prop_map(|(place, bytes)| Op::Limit { place, bytes }),
        1 => (at(), -(5 * UNIT as i64)..5 * UNIT as i64)
            .prop_map(|((slot, place), bytes)| Op::Adjust { slot, place, bytes }),
    ]
}

/// What the ledger should say, in plain numbers.
#[derive(Default)]
struct Plain {
    held: [[u64; PLACES.len()]; PROCESSES],
    ask: [[u64; PLACES.len()]; PROCESSES],
    kinds: [[[u64; KINDS]; PLACES.len()]; PROCESSES],
    adjust: [[i64; PLACES.len()]; PROCESSES],
    limit: [u64; PLACES.len()],
    dead: [bool; PROCESSES],
}

impl Plain {
    fn used(&self, place: usize) -> u64 {
        let held: i128 = self.held.iter().map(|h| i128::from(h[place]) * i128::from(UNIT)).sum();
        let adjust: i128 = self.adjust.iter().map(|a| i128::from(a[place])).sum();
        u64::try_from((held + adjust).max(0)).expect("fits")
    }

    fn reserve(&self, place: usize, bytes: u64) -> Result<(), Refused> {
        if bytes == 0 {
            return Ok(());
        }
        let (limit, used) = (self.limit[place], self.used(place));
        let with = u128::from(used) + u128::from(units(bytes)) * u128::from(UNIT);
        let asked: u128 = self.ask.iter().map(|a| u128::from(a[place]) * u128::from(UNIT)).sum();
        if with > u128::from(limit) || units(bytes) > MOST {
            Err(Refused::OverLimit { used, limit })
        } else if with + asked > u128::from(limit) && limit != UNLIMITED {
            Err(Refused::Busy)
        } else {
            Ok(())
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    let cases = if cfg!(miri) { 4 } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn any_sequence_does_as_the_plain_model(ops in prop::collection::vec(op(), 1..if cfg!(miri) { 30 } else { 120 })) {
        let (policy, usage) = slice(30 * UNIT);
        policy.slots_high.store(PROCESSES as u32, SeqCst);
        let ledgers = [0, 1, 2, 3, 4].map(|i| Ledger::new(&policy, &usage, i).expect("a slot"));
        let mut plain = Plain { limit: [30 * UNIT, 0, UNLIMITED], ..Plain::default() };
        let look = || PLACES.map(|device| scan(&policy, &usage, device, SLOTS));
        let mut before = look();
        for op in ops {
            let mut written = [false; PLACES.len()];
            match op {
                Op::Reserve { slot, .. } | Op::Take { slot, .. } | Op::Release { slot, .. } if plain.dead[slot] => {}
                Op::Reserve { slot, place, kind, bytes } => {
                    let outcome = ledgers[slot].reserve(PLACES[place], Kind::ALL[kind], bytes, |round| round < 2);
                    let expected = plain.reserve(place, bytes);
                    prop_assert_eq!(outcome, expected);
                    if expected.is_ok() {
                        plain.held[slot][place] += units(bytes);
                        plain.kinds[slot][place][kind] += units(bytes) * UNIT;
                        written[place] = bytes > 0;
                    }
                    prop_assert_eq!(ledgers[slot].slot().accounts[PLACES[place]].ask.load(SeqCst), 0);
                }
                Op::Take { slot, place, kind, bytes } => {
                    ledgers[slot].take(PLACES[place], Kind::ALL[kind], bytes);
                    plain.held[slot][place] += units(bytes);
                    plain.kinds[slot][place][kind] += units(bytes) * UNIT;
                    written[place] = true;
                }
                Op::Release { slot, place, kind, part } => {
                    let n = (u128::from(plain.kinds[slot][place][kind] / UNIT) * u128::from(part) / 256) as u64;
                    ledgers[slot].release(PLACES[place], Kind::ALL[kind], n * UNIT);
                    let (held, shown) = (&mut plain.held[slot][place], &mut plain.kinds[slot][place][kind]);
                    *held = held.saturating_sub(n);
                    *shown = shown.saturating_sub(n * UNIT);
                    written[place] = true;
                }
                Op::Die { slot, .. } if plain.dead[slot] => {}
                Op::Die { slot, place, units, granted } => {
                    let account = &usage.slots[slot].accounts[PLACES[place]];
                    account.ask.store(units, SeqCst);
                    plain.ask[slot][place] = units;
                    if granted {
                        account.held.fetch_add((1 << 40) + units, SeqCst);
                        plain.held[slot][place] += units;
                        written[place] = true;
                    }
                    plain.dead[slot] = true;
                }
                Op::Withdraw { slot } if plain.dead[slot] => {
                    usage.slots[slot].withdraw();
                    plain.ask[slot] = Default::default();
                }
                Op::Clear { slot } if plain.dead[slot] => {
                    usage.slots[slot].clear();
                    plain.ask[slot] = Default::default();
                    plain.held[slot] = Default::default();
                    plain.kinds[slot] = Default::default();
                    plain.dead[slot] = false;
                    written = [true; PLACES.len()];
                }
                Op::Withdraw { .. } | Op::Clear { .. } => {}
                Op::Limit { place, bytes } => {
                    policy.devices[PLACES[place]].limit.store(bytes, SeqCst);
                    plain.limit[place] = bytes;
                }
                Op::Adjust { slot, place, bytes } => {
                    // The host account has none.
                    if let Some(adjust) = policy.book[slot].adjust.get(PLACES[place]) {
                        adjust.store(bytes, SeqCst);
                        plain.adjust[slot][place] = bytes;
                    }
                }
            }
            let after = look();
            prop_assert_eq!(&after, &look(), "a scan changes nothing");
            for (place, &device) in PLACES.iter().enumerate() {
                prop_assert_eq!(after[place].used(), plain.used(place));
                let asked: u64 = plain.ask.iter().map(|a| a[place] * UNIT).sum();
                prop_assert_eq!(after[place].asked(), asked);
                prop_assert!(!written[place] || before[place] != after[place], "a change was not seen");
                for slot in 0..PROCESSES {
                    prop_assert_eq!(usage.slots[slot].accounts[device].bytes(), plain.held[slot][place] * UNIT);
                    let shown = usage.slots[slot].kinds[device].each_ref().map(|k| k.load(SeqCst));
                    prop_assert_eq!(shown, plain.kinds[slot][place]);
                }
            }
            before = after;
        }
    }

    #[test]
    fn no_sequence_passes_a_constant_limit(
        ops in prop::collection::vec((0..PROCESSES, 0..12 * UNIT, any::<bool>()), 1..if cfg!(miri) { 30 } else { 100 }),
    ) {
        let (policy, usage) = slice(30 * UNIT);
        let mut live: Vec<(usize, u64)> = Vec::new();
        for (slot, bytes, take) in ops {
            if !take && let Some((slot, bytes)) = live.pop() {
                Ledger::new(&policy, &usage, slot).expect("a slot").release(0, Kind::Linear, bytes);
            } else if Ledger::new(&policy, &usage, slot).expect("a slot").reserve(0, Kind::Linear, bytes, never).is_ok() {
                live.push((slot, bytes));
            }
            let sum: u64 = live.iter().map(|(_, bytes)| units(*bytes) * UNIT).sum();
            prop_assert_eq!(scan(&policy, &usage, 0, SLOTS).used(), sum);
            prop_assert!(sum <= 30 * UNIT);
        }
    }
}

// --- hostile bytes ---

/// A small generator (xorshift64*), so that a page of garbage costs no strategy a word.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A word, more often than not one on an edge.
    fn word(&mut self) -> u64 {
        let edges = [0, 1, MOST, MOST + 1, u64::MAX, u64::MAX - MOST, 1 << 63, 1 << 55, 1 << 54];
        match self.next() % 3 {
            0 => self.next(),
            1 => edges[self.next() as usize % edges.len()],
            _ => self.next() % 100,
        }
    }
}

fn words(slot: &cleave_ledger::Slot) -> Vec<u64> {
    let accounts = slot.accounts.iter().flat_map(|a| [a.held.load(SeqCst), a.ask.load(SeqCst)]);
    let counters = slot.kinds.iter().flatten().chain(&slot.class_launches).chain(&slot.class_ns).chain(&slot.exports);
    accounts.chain(counters.map(|c| c.load(SeqCst))).collect()
}

proptest! {
    #![proptest_config(config(300))]

    /// No panic (the overflow checks of a debug build included), an end to every call, and no write beyond the own slot.
    #[test]
    fn garbage_harms_nobody_else(
        seed in 1..u64::MAX, limit in prop_oneof![Just(0), Just(UNLIMITED), 0..100 * UNIT, any::<u64>()],
        adjust in prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), any::<i64>()], high in any::<u32>(), me in 0..FILLED,
        bytes in prop_oneof![0..100 * UNIT, any::<u64>(), Just(u64::MAX)],
    ) {
        let mut noise = Noise(seed);
        let (policy, usage) = slice(limit);
        policy.slots_high.store(high, SeqCst);
        for (slot, book) in usage.slots.iter().zip(&policy.book).take(FILLED) {
            for account in &slot.accounts {
                account.held.store(noise.word(), SeqCst);
                account.ask.store(noise.word(), SeqCst);
            }
            for counter in slot.kinds.iter().flatten().chain(&slot.class_launches).chain(&slot.class_ns).chain(&slot.exports) {
                counter.store(noise.word(), SeqCst);
            }
            book.adjust[0].store(adjust, SeqCst);
        }
        let before: Vec<_> = usage.slots.iter().take(FILLED).map(words).collect();
        let ledger = Ledger::new(&policy, &usage, me).expect("a slot");
        for device in [0, 1, HOST, HOST + 1, usize::MAX] {
            let picture = scan(&policy, &usage, device, me);
            let _ = (picture.used(), picture.asked(), ledger.used(device));
            let mut rounds = 0;
            let _ = ledger.reserve(device, Kind::Linear, bytes, |round| {
                assert_eq!(round, rounds);
                rounds += 1;
                round < 3
            });
            ledger.release(device, Kind::Pool, bytes);
            ledger.take(device, Kind::Managed, bytes);
            ledger.release(device, Kind::Managed, u64::MAX);
        }
        for (index, (slot, before)) in usage.slots.iter().zip(&before).enumerate() {
            prop_assert!(index == me || words(slot) == *before, "slot {index} was written to by {me}");
        }
        usage.slots[me].clear();
        let clean = words(&usage.slots[me]).iter().map(|w| w & MOST).sum::<u64>();
        prop_assert_eq!(clean, 0);
        prop_assert!(usage.slots[me].accounts.iter().all(|a| a.bytes() == 0));
    }
}
