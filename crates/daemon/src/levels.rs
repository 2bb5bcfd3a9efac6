//! How tight adaptive slices hold their neighbours, as events: of a change, not of a state, and not more often than is of use.
use crate::node::{Inner, Live};
use cleave_api::{Engine, Mode};
use cleave_policy::arbiter::{Config, RECENT};
use std::collections::HashMap;

/// Between two events about one slice, in ns.
const PACE: u64 = 10_000_000_000;

/// What was said of each adaptive slice: whether it holds its neighbours tight, and when.
#[derive(Default)]
pub struct Levels(HashMap<String, (bool, u64)>);

impl Levels {
    /// Whether a change is to be told.
    fn change(&mut self, slice: &str, tight: bool, now: u64) -> bool {
        let said = self.0.entry(slice.to_owned()).or_insert((false, 0));
        let tells = said.0 != tight && (said.1 == 0 || now.saturating_sub(said.1) >= PACE);
        if tells {
            *said = (tight, now);
        }
        tells
    }

    /// Looks at every slice, and writes down what has changed.
    pub fn look(&mut self, inner: &mut Inner, now: u64) {
        let adaptive =
            |live: &&Live| live.record.mode == Mode::Adaptive && live.record.choice.engine == Engine::Temporal;
        let mut changes = Vec::new();
        for live in inner.slices.values().filter(adaptive) {
            let shares = |other: &Live| other.gpus.iter().flatten().any(|gpu| live.gpus.contains(&Some(*gpu)));
            let others = inner.slices.values().filter(|other| other.record.id != live.record.id && shares(other));
            let mut held: Vec<&str> =
                others.filter(|other| at_work(other, now)).map(|other| other.record.name.as_str()).collect();
            held.sort_unstable();
            let tight = at_work(live, now) && !held.is_empty();
            if self.change(&live.record.id, tight, now) {
                let name = &live.record.name;
                changes.push((
                    live.record.clone(),
                    tight,
                    match tight {
                        true => format!(
                            "slice {name} is at work beside {}, which queue {} ms ahead at most",
                            held.join(", "),
                            f64::from(Config::default().adaptive_ahead) / 1e6
                        ),
                        false => format!("slice {name} is idle or alone: its neighbours queue as much as they like"),
                    },
                ));
            }
        }
        for (record, tight, message) in changes {
            inner.event(if tight { "adaptive-tightened" } else { "adaptive-loosened" }, Some(&record), &message);
        }
        self.0.retain(|id, _| inner.slices.contains_key(id));
    }
}

/// Whether it sent something a moment ago, or waits.
fn at_work(live: &Live, now: u64) -> bool {
    live.processes.keys().any(|slot| {
        let reading = live.files.read(*slot);
        (0..live.gpus.len()).map(|device| reading.work(device)).any(|work| {
            let sign = work.last_launch.min(now).max(work.busy_until.min(now));
            work.waiting + work.syncing > 0 || (sign > 0 && now.saturating_sub(sign) < RECENT)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_not_too_often() {
        const S: u64 = 1_000_000_000;
        let mut levels = Levels::default();
        let mut told = Vec::new();
        // Loose, tight for long, then to and fro each second: the last state is told in the end.
        for second in 1..60 {
            let tight = (5..20).contains(&second) || (second > 20 && second < 40 && second % 2 == 0);
            if levels.change("a", tight, second * S) {
                told.push((second, tight));
            }
        }
        assert_eq!(told, [(5, true), (20, false), (30, true), (40, false)]);
        assert!(levels.change("b", true, 60 * S), "another slice");
    }
}
