//! The stand-in's table against the standard library's map.
// UNSAFETY: the table's sources are included, and an empty table is made of zeros.
#![allow(unsafe_code)]

#[allow(dead_code, missing_docs)]
#[path = "../../crates/shim/src/system.rs"]
mod system;
#[allow(dead_code)]
#[path = "../../crates/shim/src/table.rs"]
mod table;

use cleave_ledger::Kind;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use table::{Entry, Space, Table};

const SPACES: [Space; 13] = [
    Space::Linear,
    Space::Chunk,
    Space::Handle,
    Space::Physical,
    Space::Mapping,
    Space::Array,
    Space::Ipc,
    Space::External,
    Space::Graph,
    Space::Host,
    Space::Library,
    Space::Context,
    Space::Collective,
];

/// A table that is unmapped by nobody: a process has one for life, and a test a few.
fn open() -> Table {
    // SAFETY: as the table's documentation has it, zeros are an empty table.
    let mut table: Table = unsafe { std::mem::zeroed() };
    assert!(table.get(Space::Linear, 1).is_none(), "a table without room is empty");
    assert!(table.insert(Space::Linear, 1, Entry::new(1, 1, 0, Kind::Linear)).is_none(), "and takes nothing");
    assert!(table.remove(Space::Linear, 1).is_none());
    table.drain(|_, _| panic!("there is nothing to drain"));
    assert!(table.open());
    assert!(table.open(), "opening it again changes nothing");
    table
}

fn entry(a: u64) -> Entry {
    Entry::new(a, !a, (a % 16) as usize, Kind::Linear).in_context((a % 1000) as u32)
}

/// Whether `found` is what `entry(a)` made.
fn is(found: &Entry, a: u64) -> bool {
    (found.a, found.b, found.count, found.device, found.context) == (a, !a, 1, (a % 16) as u8, (a % 1000) as u32)
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, u64, u64),
    Change(usize, u64, u64),
    Remove(usize, u64),
    Get(usize, u64),
    /// Everything of one space whose `a` leaves this remainder.
    Drain(usize, u64, u64),
}

/// Few values, so that steps meet; and values as drivers have them.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..40,
        2 => (0u64..40).prop_map(|n| 0x7f00_0000_0000 + n * (2 << 20)),
        1 => (0u64..10).prop_map(|n| (1 << 60) - 1 - n),
        1 => 0u64..1 << 60,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let space = 0..SPACES.len();
    prop_oneof![
        6 => (space.clone(), value(), any::<u64>()).prop_map(|(s, v, a)| Step::Insert(s, v, a)),
        1 => (space.clone(), value(), any::<u64>()).prop_map(|(s, v, a)| Step::Change(s, v, a)),
        3 => (space.clone(), value()).prop_map(|(s, v)| Step::Remove(s, v)),
        2 => (space.clone(), value()).prop_map(|(s, v)| Step::Get(s, v)),
        1 => (space, 1u64..4, 0u64..4).prop_map(|(s, modulo, rest)| Step::Drain(s, modulo, rest)),
    ]
}

#[test]
fn it_is_a_map() {
    // One table for all cases: what a case leaves behind (free nodes, more buckets) must not matter to the next.
    let table = std::cell::RefCell::new(open());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let steps = proptest::collection::vec(step(), 0..400);
    let result = runner.run(&steps, |steps| {
        let mut table = table.borrow_mut();
        table.drain(|_, _| true);
        let mut model: HashMap<(usize, u64), u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(s, v, a) => {
                    if let std::collections::hash_map::Entry::Vacant(place) = model.entry((s, v)) {
                        place.insert(a);
                        let inserted = table.insert(SPACES[s], v, entry(a));
                        prop_assert!(inserted.is_some_and(|e| is(e, a)));
                    }
                }
                Step::Change(s, v, a) => {
                    let known = model.get_mut(&(s, v)).map(|known| *known = a);
                    let found = table.get(SPACES[s], v).map(|e| {
                        (e.a, e.b, e.device, e.context) = (a, !a, (a % 16) as u8, (a % 1000) as u32);
                    });
                    prop_assert_eq!(known, found);
                }
                Step::Remove(s, v) => {
                    let (known, found) = (model.remove(&(s, v)), table.remove(SPACES[s], v));
                    prop_assert_eq!(known.is_some(), found.is_some());
                    prop_assert!(found.is_none_or(|e| is(&e, known.unwrap())));
                }
                Step::Get(s, v) => {
                    let (known, found) = (model.get(&(s, v)), table.get(SPACES[s], v));
                    prop_assert_eq!(known.is_some(), found.is_some());
                    prop_assert!(found.is_none_or(|e| is(e, *known.unwrap())));
                }
                Step::Drain(s, modulo, rest) => {
                    let mut drained = Vec::new();
                    table.drain(|space, e| {
                        let picked = space == SPACES[s] && e.a % modulo == rest;
                        drained.extend(picked.then_some(e.a));
                        picked
                    });
                    let mut known = Vec::new();
                    model.retain(|&(space, _), a| {
                        let picked = space == s && *a % modulo == rest;
                        known.extend(picked.then_some(*a));
                        !picked
                    });
                    drained.sort_unstable();
                    known.sort_unstable();
                    prop_assert_eq!(drained, known);
                }
            }
        }
        let mut all = 0;
        table.drain(|_, _| {
            all += 1;
            false
        });
        prop_assert_eq!(all, model.len());
        for ((s, v), a) in model {
            prop_assert!(table.get(SPACES[s], v).is_some_and(|e| is(e, a)));
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn it_grows_bucket_by_bucket_and_loses_nothing() {
    const MOST: u64 = 100_000;
    let mut table = open();
    for n in 0..MOST {
        // Addresses as the driver gives them out: the same low bits throughout.
        let value = 0x7f12_0000_0000 + n * (2 << 20);
        assert!(table.insert(SPACES[n as usize % SPACES.len()], value, entry(n)).is_some());
        // Those whose bucket was split just now are somewhere in here; all are looked for at the powers of two.
        let from = if (n + 1).is_power_of_two() { 0 } else { n.saturating_sub(2) };
        for n in from..=n {
            let value = 0x7f12_0000_0000 + n * (2 << 20);
            let space = SPACES[n as usize % SPACES.len()];
            assert!(table.get(space, value).is_some_and(|e| is(e, n)), "{n} is lost");
        }
    }
    let mut seen = HashSet::new();
    table.drain(|space, e| {
        assert!(space == SPACES[e.a as usize % SPACES.len()]);
        assert!(seen.insert(e.a), "{} is there twice", e.a);
        e.a % 2 == 0
    });
    assert_eq!(seen.len() as u64, MOST);
    for n in 0..MOST {
        let found = table.remove(SPACES[n as usize % SPACES.len()], 0x7f12_0000_0000 + n * (2 << 20));
        assert_eq!(found.is_some_and(|e| is(&e, n)), n % 2 == 1, "{n}");
    }
    table.drain(|_, _| panic!("something is left"));
}

#[test]
fn spaces_do_not_meet() {
    let mut table = open();
    for (n, space) in SPACES.into_iter().enumerate() {
        assert!(table.insert(space, 7, entry(n as u64)).is_some());
    }
    for (n, space) in SPACES.into_iter().enumerate() {
        assert!(table.remove(space, 7).is_some_and(|e| is(&e, n as u64)));
        assert!(table.get(space, 7).is_none());
    }
}

/// A driver gives a handle again as soon as it is free; the table gives its room again as well.
#[test]
fn room_is_used_again() {
    let mut table = open();
    let mut places = HashSet::new();
    for n in 0..1000u64 {
        places.insert(&raw const *table.insert(Space::Handle, n, entry(n)).unwrap());
    }
    assert_eq!(places.len(), 1000);
    for round in 1..50u64 {
        for n in 0..1000 {
            assert!(table.remove(Space::Handle, n).is_some_and(|e| is(&e, n * round)));
            let again = table.insert(Space::Handle, n, entry(n * (round + 1))).unwrap();
            assert!(places.contains(&(&raw const *again)), "new room though there is old");
        }
    }
}
