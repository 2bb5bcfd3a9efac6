//! The slow loop: compares what processes charged themselves with what NVML says, and reports what it sees.
use crate::engine;
use crate::files::{Reading, SliceFiles};
use crate::node::{Live, Node, difference, note_use, total};
use crate::process;
use cleave_api::{OnBypass, format_bytes};
use cleave_ledger::{DEVICES, wire};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Between two rounds while processes run.
const ROUND: Duration = Duration::from_millis(200);
/// Between two rounds while none does.
const IDLE: Duration = Duration::from_secs(5);
/// How long an account must have stood still before a measurement may lower it; see [`next_adjust`].
const STILL: Duration = Duration::from_secs(1);
/// How long a process must have used a GPU past its slice's quota before it is killed, where the slice says so: one that
/// has just ended, or become another program, is none.
const GRACE: Duration = Duration::from_secs(1);
/// Between two readings of how busy the slices are, and between two reports of one slice's refusals.
const SECOND: Duration = Duration::from_secs(1);

/// Between two looks at what GPUs are divided into.
const MIG: Duration = Duration::from_secs(2);

/// What the loop remembers from round to round.
#[derive(Default)]
pub struct Reconciler {
    busy_at: Option<Instant>,
    mig_at: Option<Instant>,
    /// Processes outside of slices.
    strangers: HashMap<u32, Stranger>,
}

/// A process that uses a GPU and has no slot.
struct Stranger {
    /// With the id it names the process.
    start_time: u64,
    since: Instant,
    reported: bool,
    /// Its grace is over, and what its slice says was done.
    judged: bool,
}

/// One slot as it was found at the beginning of a round.
struct Watched {
    slice: String,
    slot: usize,
    pid: u32,
    start_time: u64,
    image: [u64; 4],
    measured: u64,
    files: Arc<SliceFiles>,
    gpus: Vec<Option<usize>>,
    stat: Option<process::Stat>,
    before: Reading,
    after: Reading,
}

/// What the daemon should add to an account, given what it adds now.
///
/// A process charges before it calls the driver, and gives back after: in between it is charged with more than NVML
/// shows. So a measurement that is above the account is believed at once, and one that is below only after the account
/// stood still for a while and the process is not stopped in the middle of something.
pub fn next_adjust(now: i64, measured: i64, adds_up: bool, still: bool, stopped: bool) -> i64 {
    if measured > now && (adds_up || still) || measured < now && still && !stopped { measured } else { now }
}

/// Runs until the daemon ends.
pub async fn run(node: Arc<Node>) {
    let mut reconciler = Reconciler::default();
    loop {
        let active = node.lock().process_count() > 0;
        let pause = match (active, node.config.private) {
            (true, _) => ROUND,
            (false, true) => Duration::from_millis(500),
            (false, false) => IDLE,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Soon, but not at once: what rang is probably still going on.
            () = node.wake.notified() => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        if node.is_over() {
            tracing::info!("the last slice is gone: this private daemon ends");
            return node.shut_down();
        }
        // NVML may block while the driver recovers from a fault.
        let worker = Arc::clone(&node);
        match tokio::task::spawn_blocking(move || {
            let ended = reconciler.round(&worker);
            (reconciler, ended)
        })
        .await
        {
            Ok((back, ended)) => {
                reconciler = back;
                for (id, slot, pid, start_time) in ended {
                    let node = Arc::clone(&node);
                    tokio::spawn(async move { node.ended(&id, slot, pid, start_time).await });
                }
            }
            Err(error) => {
                tracing::error!("the reconciliation failed: {error}");
                reconciler = Reconciler::default();
            }
        }
    }
}

impl Reconciler {
    /// One round. Gives the slots whose processes have become other programs.
    pub fn round(&mut self, node: &Arc<Node>) -> Vec<(String, usize, u32, u64)> {
        let mut watched: Vec<Watched> = {
            let inner = node.lock();
            let slots = inner.slices.values().flat_map(|live| {
                live.processes.iter().filter(|(_, m)| m.dead.is_none()).map(|(slot, member)| Watched {
                    slice: live.record.id.clone(),
                    slot: *slot,
                    pid: member.pid,
                    start_time: member.start_time,
                    image: member.image,
                    measured: member.measured,
                    files: Arc::clone(&live.files),
                    gpus: live.gpus.clone(),
                    stat: None,
                    before: Reading::default(),
                    after: Reading::default(),
                })
            });
            slots.collect()
        };
        let mut cut: BTreeSet<String> = BTreeSet::new();
        for one in &mut watched {
            if !one.files.mend() {
                cut.insert(one.slice.clone());
            }
            one.stat = process::stat(one.pid).filter(|s| s.start_time == one.start_time);
            one.before = one.files.read(one.slot);
        }
        let lists: Vec<Option<HashMap<u32, Option<u64>>>> = (0..node.nvml.gpus().len())
            .map(|place| node.nvml.processes(place).ok().map(|list| list.into_iter().collect()))
            .collect();
        for one in &mut watched {
            one.after = one.files.read(one.slot);
        }
        self.strangers(node, &lists);
        if self.mig_at.is_none_or(|at| at.elapsed() >= MIG) {
            self.mig_at = Some(Instant::now());
            node.reconcile_mig();
        }
        self.busy(node);
        report_cut(node, &cut);

        let mut first: HashSet<(String, u32)> = HashSet::new();
        let mut ended = Vec::new();
        for one in &watched {
            if one.stat.is_some_and(|s| s.image != one.image && one.image != [0; 4] && s.image != [0; 4]) {
                // Same process, another program: the one that owned this slot is gone, and its memory with it.
                ended.push((one.slice.clone(), one.slot, one.pid, one.start_time));
                continue;
            }
            let is_first = first.insert((one.slice.clone(), one.pid));
            let others: Vec<&Watched> = watched.iter().filter(|w| w.slice == one.slice && w.pid == one.pid).collect();
            settle(node, one, is_first, &others, &lists);
        }
        let slices: BTreeSet<&str> = watched.iter().map(|one| one.slice.as_str()).collect();
        let mut inner = node.lock();
        for id in slices {
            if let Some(live) = inner.slices.get_mut(id) {
                note_use(live);
            }
        }
        ended
    }

    /// Programs that use a GPU and are in no slice.
    fn strangers(&mut self, node: &Arc<Node>, lists: &[Option<HashMap<u32, Option<u64>>>]) {
        let mut known = node.mps.servers();
        let mut inner = node.lock();
        let mut belongs: HashMap<u32, (u64, String)> = HashMap::new();
        // Programs of spatial slices that are no clients of their server.
        let mut beside = HashSet::new();
        for live in inner.slices.values() {
            let domain = engine::domain(&live.record).map(|key| key.folder());
            for member in live.processes.values() {
                belongs.insert(member.pid, (member.start_time, live.record.id.clone()));
                if domain.as_ref().and_then(|id| node.mps.has_client(id, member.pid)) == Some(false) {
                    beside.insert(member.pid);
                } else {
                    known.insert(member.pid);
                }
            }
        }
        for (pid, launcher) in &inner.launchers {
            belongs.entry(*pid).or_insert_with(|| (launcher.start_time, launcher.slice.clone()));
        }
        let present: HashMap<u32, u64> = lists
            .iter()
            .flatten()
            .flatten()
            .filter(|(pid, bytes)| !known.contains(pid) && **bytes != Some(0))
            .map(|(pid, bytes)| (*pid, bytes.unwrap_or(0)))
            .collect();
        let start_time = |pid| process::stat(pid).map_or(0, |stat| stat.start_time);
        self.strangers.retain(|pid, known| present.contains_key(pid) && known.start_time == start_time(*pid));
        for (pid, bytes) in present {
            // Twice in a row: a process that has just ended, or is just registering, is no stranger.
            let Some(stranger) = self.strangers.get_mut(&pid) else {
                let start_time = start_time(pid);
                let stranger = Stranger { start_time, since: Instant::now(), reported: false, judged: false };
                self.strangers.insert(pid, stranger);
                continue;
            };
            let overdue = stranger.since.elapsed() >= GRACE && !stranger.judged;
            if stranger.reported && !overdue {
                continue;
            }
            let first = !std::mem::replace(&mut stranger.reported, true);
            stranger.judged |= overdue;
            let command = process::command(pid).unwrap_or_else(|| "a process".into());
            let what = format!("{command} (pid {pid}) uses {}", format_bytes(bytes));
            match origin(pid, &belongs).and_then(|id| inner.slices.get(&id)).map(|l| l.record.clone()) {
                Some(_) if beside.contains(&pid) && !first => {}
                Some(record) if beside.contains(&pid) => {
                    let message = format!(
                        "{what} beside the MPS server of slice {}: it has the GPU in turns with the others",
                        record.name
                    );
                    inner.event("bypass", Some(&record), &message);
                }
                Some(record) => {
                    if first {
                        let message =
                            format!("{what} although it was started in slice {}: it bypasses the quota", record.name);
                        inner.event("bypass", Some(&record), &message);
                    }
                    if overdue && record.on_bypass == OnBypass::Kill {
                        let message = match process::kill(pid, stranger.start_time) {
                            Ok(()) => {
                                format!("{command} (pid {pid}) was killed: it bypassed slice {}'s quota", record.name)
                            }
                            Err(error) => format!(
                                "{command} (pid {pid}) bypasses slice {}'s quota and can't be killed: {error}",
                                record.name
                            ),
                        };
                        inner.event("bypass", Some(&record), &message);
                    }
                }
                None if first => inner.event("untracked", None, &format!("{what} in no slice")),
                None => {}
            }
        }
    }

    /// How busy each slice kept its GPUs in the last second.
    fn busy(&mut self, node: &Arc<Node>) {
        if self.busy_at.is_some_and(|at| at.elapsed() < SECOND) {
            return;
        }
        self.busy_at = Some(Instant::now());
        let window = 1_200_000;
        let since = jiff::Timestamp::now().as_microsecond().unsigned_abs().saturating_sub(window);
        let places: BTreeSet<usize> = node
            .lock()
            .slices
            .values()
            .filter(|l| !l.processes.is_empty())
            .flat_map(|l| l.gpus.clone())
            .flatten()
            .collect();
        let shares: HashMap<usize, Option<HashMap<u32, u32>>> =
            places.into_iter().map(|p| (p, node.nvml.busy(p, since).map(|s| average(&s)))).collect();
        let inner = node.lock();
        for live in inner.slices.values() {
            for (place, device) in live.gpus.iter().zip(&live.files.policy.devices) {
                let pids: HashSet<u32> = live.processes.values().map(|m| m.pid).collect();
                let percent = match place.and_then(|p| shares.get(&p)) {
                    // Nothing runs in it: known to be idle, where it was measurable before.
                    None if device.busy_percent.load(SeqCst) > 100 => continue,
                    None => 0,
                    Some(None) => u32::MAX,
                    Some(Some(busy)) => pids.iter().filter_map(|p| busy.get(p)).sum::<u32>().min(100),
                };
                device.busy_percent.store(percent, SeqCst);
            }
        }
    }
}

/// Samples as one percentage a process.
fn average(samples: &[(u32, u64, u32)]) -> HashMap<u32, u32> {
    let mut sums: HashMap<u32, (u32, u32)> = HashMap::new();
    for (pid, _, percent) in samples {
        let sum = sums.entry(*pid).or_default();
        sum.0 = sum.0.saturating_add(*percent);
        sum.1 += 1;
    }
    sums.into_iter().map(|(pid, (sum, count))| (pid, sum / count.max(1))).collect()
}

/// The slice to which a process belongs by descent or by its environment.
fn origin(pid: u32, belongs: &HashMap<u32, (u64, String)>) -> Option<String> {
    let mut next = pid;
    for _ in 0..64 {
        let Some(stat) = process::stat(next) else { break };
        if let Some((start_time, id)) = belongs.get(&next)
            && *start_time == stat.start_time
        {
            return Some(id.clone());
        }
        if stat.parent <= 1 {
            break;
        }
        next = stat.parent;
    }
    // In a container, and wherever `cleave run` may mount, the slice's socket folder is mounted. What else the program
    // says of itself is no proof, but nobody gains by claiming to bypass.
    let folder = Path::new(wire::SOCKET).parent()?;
    let socket = process::mounted_at(pid, folder).or_else(|| process::variable(pid, wire::SOCKET_VARIABLE))?;
    socket.split('/').find(|part| part.starts_with("SLICE-")).map(str::to_owned)
}

fn report_cut(node: &Arc<Node>, cut: &BTreeSet<String>) {
    let mut inner = node.lock();
    for id in cut {
        let Some(live) = inner.slices.get_mut(id) else { continue };
        if live.mended_at.is_some_and(|at| at.elapsed() < Duration::from_secs(60)) {
            continue;
        }
        live.mended_at = Some(Instant::now());
        let record = live.record.clone();
        let message = format!(
            "a process of slice {} cut or grew the slice's usage file; it has its size again, and its accounts may be wrong",
            record.name
        );
        inner.event("warning", Some(&record), &message);
    }
}

/// Writes down what one slot's round has shown.
fn settle(
    node: &Arc<Node>,
    one: &Watched,
    is_first: bool,
    same_process: &[&Watched],
    lists: &[Option<HashMap<u32, Option<u64>>>],
) {
    let mut inner = node.lock();
    let Some(live) = inner.slices.get_mut(&one.slice) else { return };
    let Some(member) = live.processes.get_mut(&one.slot) else { return };
    if member.dead.is_some() || (member.pid, member.start_time) != (one.pid, one.start_time) {
        return;
    }
    if member.last.0 != one.after {
        member.last = (one.after.clone(), Instant::now());
    }
    let still = member.last.1.elapsed() >= STILL;
    let stopped = one.stat.is_none_or(|s| matches!(s.state, 'T' | 't' | 'Z'));
    // A measurement of the process's own came in between: that one is newer.
    if member.measured == one.measured {
        for (device, place) in one.gpus.iter().enumerate().take(DEVICES) {
            let Some(Some(list)) = place.and_then(|p| lists.get(p)) else { continue };
            let steady = same_process.iter().all(|w| w.before.same(&w.after, device));
            let visible = same_process.iter().fold(0u64, |sum, w| sum.saturating_add(w.after.visible(device)));
            let shown = match list.get(&one.pid) {
                Some(Some(bytes)) => *bytes,
                // It has no context any more, or none yet.
                None if visible == 0 => 0,
                // The driver does not say, or does not show processes of other PID namespaces: believe the account.
                Some(None) | None => continue,
            };
            if !steady {
                continue;
            }
            let now = one.files.adjust(one.slot, device);
            let measured = match is_first {
                true => difference(shown, visible),
                // The whole process's difference stands at its first slot.
                false => 0,
            };
            let adds_up = same_process.iter().all(|w| w.after.adds_up(device));
            let next = next_adjust(now, measured, adds_up, still, stopped);
            if next != now {
                one.files.set_adjust(one.slot, device, next);
            }
        }
    }
    let used = total(live, one.slot, &one.after);
    if let Some(member) = live.processes.get_mut(&one.slot) {
        member.peak_bytes = member.peak_bytes.max(used);
    }
    if let Some(message) = refusals(live) {
        let record = live.record.clone();
        inner.event("denied", Some(&record), &message);
    }
}

/// What to report of a slice's refusals: once a second at most, all of them together.
fn refusals(live: &mut Live) -> Option<String> {
    let mut count = 0u64;
    let mut who = Vec::new();
    for member in live.processes.values() {
        let new = member.last.0.denied.saturating_sub(member.denied_seen);
        if new > 0 {
            count = count.saturating_add(new);
            who.push(member.pid.to_string());
        }
    }
    if count == 0 || live.denied_at.is_some_and(|at| at.elapsed() < SECOND) {
        return None;
    }
    live.denied_at = Some(Instant::now());
    for member in live.processes.values_mut() {
        member.denied_seen = member.last.0.denied;
    }
    let use_of = |(index, device): (usize, &crate::slice::RecordDevice)| {
        format!(
            "{} of {} in use on GPU {}",
            format_bytes(live.files.used(index).0),
            format_bytes(device.limit_bytes),
            device.index
        )
    };
    let uses: Vec<String> = live.record.devices.iter().enumerate().map(use_of).collect();
    Some(format!(
        "slice {} is full: {count} allocation{} of process {} refused; {}",
        live.record.name,
        if count == 1 { "" } else { "s" },
        who.join(", "),
        uses.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_raises_at_once_and_lowers_late() {
        // (now, measured, adds up, still, stopped) → next
        let cases = [
            ((0, 500, true, false, false), 500),
            // In the middle of a charge the kinds lag behind.
            ((0, 500, false, false, false), 0),
            ((0, 500, false, true, false), 500),
            // Charged, but not yet allocated.
            ((500, -300, true, false, false), 500),
            ((500, 400, true, true, false), 400),
            ((500, 400, true, true, true), 500),
            ((500, 500, true, true, false), 500),
        ];
        for ((now, measured, adds_up, still, stopped), next) in cases {
            assert_eq!(next_adjust(now, measured, adds_up, still, stopped), next);
        }
    }

    #[test]
    fn samples_are_averaged_by_process() {
        let busy = average(&[(1, 10, 50), (1, 20, 100), (2, 10, 7)]);
        assert_eq!((busy[&1], busy[&2]), (75, 7));
    }

    #[test]
    fn a_descendant_is_known_by_its_ancestors() {
        let parent = std::os::unix::process::parent_id();
        let start = process::stat(parent).unwrap().start_time;
        let belongs = HashMap::from([(parent, (start, "SLICE-x".to_owned()))]);
        assert_eq!(origin(std::process::id(), &belongs).as_deref(), Some("SLICE-x"));
        let reused = HashMap::from([(parent, (start + 1, "SLICE-x".to_owned()))]);
        assert_eq!(origin(std::process::id(), &reused), None);
    }
}
