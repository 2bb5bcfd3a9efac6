//! Looks after processes whose work on a GPU does not end, and does what their slice's watchdog says.
use crate::levels::Levels;
use crate::node::{Inner, Node};
use crate::turns::clock;
use cleave_policy::watchdog::{Action, Denials, Rules, Seen, Step, Watch, overrun};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks while processes run, and while none does.
const LOOK: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(1);

/// A process in its slot, for good: slice, slot, process id, start time.
type Key = (String, usize, u32, u64);

/// What the loop remembers of the processes that are there.
#[derive(Default)]
struct Watchdog {
    /// By device.
    watches: HashMap<(Key, usize), Watch>,
    denials: HashMap<Key, Denials>,
    levels: Levels,
}

/// Something that was found.
struct Finding {
    key: Key,
    device: usize,
    step: Step,
}

/// Runs until the daemon ends.
pub async fn run(node: Arc<Node>) {
    let mut watchdog = Watchdog::default();
    loop {
        let active = node.lock().process_count() > 0;
        tokio::time::sleep(if active { LOOK } else { IDLE }).await;
        watchdog.round(&node, clock());
    }
}

impl Watchdog {
    fn round(&mut self, node: &Node, now: u64) {
        let mut inner = node.lock();
        self.levels.look(&mut inner, now);
        let (findings, loops) = self.look(&inner, now);
        for finding in findings {
            act(node, &mut inner, &finding);
        }
        for ((id, slot, ..), count) in loops {
            let Some(live) = inner.slices.get(&id) else { continue };
            let Some(member) = live.processes.get(&slot) else { continue };
            let record = live.record.clone();
            let message = format!(
                "{} (pid {}) of slice {} asks for memory again and again: {count} allocations were refused in the last second",
                member.command, member.pid, record.name
            );
            inner.event("denial-loop", Some(&record), &message);
        }
        // A slice is lowered as long as work is late because of which it was.
        let rules = |live: &crate::node::Live| rules(live.record.watchdog).after[Action::Lower as usize].is_some();
        let lowered: HashSet<&str> = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.taken() >= Some(Action::Lower))
            .map(|(((id, ..), _), _)| id.as_str())
            .collect();
        let mut changed = Vec::new();
        for (id, live) in &mut inner.slices {
            let low = lowered.contains(id.as_str()) && rules(live);
            if std::mem::replace(&mut live.lowered, low) != low {
                changed.extend(live.gpus.iter().copied());
            }
        }
        if !changed.is_empty() {
            node.arrange(&inner, &changed);
        }
    }

    /// Reads what every process says.
    fn look(&mut self, inner: &Inner, now: u64) -> (Vec<Finding>, Vec<(Key, u64)>) {
        let (mut findings, mut loops) = (Vec::new(), Vec::new());
        let mut there = HashSet::new();
        for live in inner.slices.values() {
            let rules = rules(live.record.watchdog);
            for (slot, member) in live.processes.iter().filter(|(_, member)| member.dead.is_none()) {
                let key = (live.record.id.clone(), *slot, member.pid, member.start_time);
                let reading = live.files.read(*slot);
                let denials = self.denials.entry(key.clone()).or_default();
                loops.extend(denials.look(now, reading.denied).map(|count| (key.clone(), count)));
                for device in 0..live.record.devices.len() {
                    let work = reading.work(device);
                    let waits = work.waiting > 0 || work.syncing > 0;
                    let over = overrun(&Seen { overdue: work.overdue, last_launch: work.last_launch, waits }, now);
                    let watch = self.watches.entry((key.clone(), device)).or_default();
                    let step = watch.look(over, &rules);
                    if step != Step::Rest {
                        findings.push(Finding { key: key.clone(), device, step });
                    }
                }
                there.insert(key);
            }
        }
        self.watches.retain(|(key, _), _| there.contains(key));
        self.denials.retain(|key, _| there.contains(key));
        (findings, loops)
    }
}

/// The times of a slice's watchdog.
fn rules(watchdog: cleave_api::Watchdog) -> Rules {
    Rules { after: watchdog.after_ms().map(|ms| Some(ms?.saturating_mul(1_000_000))) }
}

/// Does what is to be done about one process, and writes it down.
fn act(node: &Node, inner: &mut Inner, finding: &Finding) {
    let (id, slot, ..) = &finding.key;
    let Some(live) = inner.slices.get(id) else { return };
    let Some(member) = live.processes.get(slot) else { return };
    let (record, pidfd) = (live.record.clone(), member.pidfd.clone());
    let (kind, over, what) = match finding.step {
        Step::Rest => return,
        Step::Act(Action::Warn, over) => ("watchdog-warned", over, "nothing was done yet".to_owned()),
        Step::Act(Action::Lower, over) => ("watchdog-lowered", over, "the slice gives way to all others".into()),
        Step::Act(Action::Pause, over) => match node.set_paused(inner, id, true) {
            Ok(_) => ("watchdog-paused", over, "the slice was paused; `cleave resume` lets it go on".into()),
            Err(error) => ("warning", over, format!("the slice can't be paused: {error}")),
        },
        Step::Act(Action::Kill, over) => {
            // The descriptor was opened when the process came, so that it can't mean another one.
            let killed = pidfd.map(|pidfd| rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL));
            match killed {
                Some(Err(error)) => ("warning", over, format!("it can't be killed: {error}")),
                _ => ("watchdog-killed", over, "it was killed".into()),
            }
        }
        Step::Ended(over) => ("watchdog-ended", over, "it has ended".into()),
    };
    let gpu = record.devices.get(finding.device).map_or(0, |device| device.index);
    let Some(member) = inner.slices.get(id).and_then(|live| live.processes.get(slot)) else { return };
    let message = format!(
        "{} (pid {}) of slice {}: its work on GPU {gpu} was {:.1} s over its expected time; {what}",
        member.command,
        member.pid,
        record.name,
        over as f64 / 1e9
    );
    inner.event(kind, Some(&record), &message);
}
