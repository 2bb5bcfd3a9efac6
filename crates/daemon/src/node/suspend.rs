//! Slices whose memory is away from their GPUs, in their processes' host memory.
use super::slices::forbidden;
use super::whole::not_of_whole;
use super::{Caller, Inner, Live, Node, Reply, store_fault, unknown_slice};
use crate::checkpoint;
use crate::files::Reading;
use crate::slice::Record;
use crate::turns::clock;
use cleave_api::{ErrorBody, ErrorCode, Slice, format_bytes};
use cleave_ledger::Kind;
use cleave_policy::rest::{Act, Sleeper, State, decide};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often it is looked who is idle, and who wants its GPU.
const LOOK: Duration = Duration::from_millis(250);

fn conflict(message: String, hint: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Conflict, message, hint)
}

/// Why the slice's memory can't leave its GPUs.
fn holds_on(live: &Live) -> Option<ErrorBody> {
    for (slot, member) in &live.processes {
        let reading = live.files.read(*slot);
        for (kind, what) in [(Kind::Managed, "managed memory"), (Kind::Import, "memory imported from another process")]
        {
            if (0..live.record.devices.len()).any(|device| reading.kind(device, kind) > 0) {
                let message =
                    format!("slice \"{}\" can't be suspended: process {} has {what}", live.record.name, member.pid);
                return Some(conflict(message, "the driver takes neither managed nor shared memory off a GPU"));
            }
        }
    }
    None
}

/// Why there is no room for a slice on its GPUs: those that are awake and have processes keep their whole quotas.
fn no_room(node: &Node, inner: &Inner, record: &Record) -> Option<ErrorBody> {
    for device in &record.devices {
        let card = node.place(&device.uuid).and_then(|place| node.nvml.gpus().get(place))?.memory_bytes;
        let awake = |live: &&Live| {
            live.record.id != record.id && (!live.record.suspended || live.moving) && !live.processes.is_empty()
        };
        let mut holders = Vec::new();
        let mut sum = device.limit_bytes;
        for other in inner.slices.values().filter(awake) {
            for bytes in other.record.devices.iter().filter(|d| d.uuid == device.uuid).map(|d| d.limit_bytes) {
                sum = sum.saturating_add(bytes);
                holders.push(format!("{} {}", other.record.name, format_bytes(bytes)));
            }
        }
        if sum > card {
            holders.sort();
            let message = format!(
                "slice \"{}\" can't wake: {} of GPU {} are not free beside {}",
                record.name,
                format_bytes(device.limit_bytes),
                device.index,
                holders.join(", ")
            );
            let hint = "suspend one of these, or wait until its programs have ended";
            return Some(ErrorBody::new(ErrorCode::Refused, message, hint));
        }
    }
    None
}

impl Node {
    /// Takes a slice's memory off its GPUs, or brings it back. It has happened when this returns, or nothing has.
    pub async fn suspend(self: &Arc<Self>, caller: &Caller, key: &str, away: bool) -> Reply<Slice> {
        let (id, pids) = {
            let mut inner = self.lock();
            let live = inner.seen(key, caller)?;
            if !caller.admin {
                return Err(forbidden(if away { "suspend slices" } else { "wake slices" }));
            }
            not_of_whole(&live.record, if away { "suspended" } else { "woken" })?;
            if live.moving {
                let message = format!("slice \"{}\" is being suspended or woken just now", live.record.name);
                return Err(conflict(message, "try again in a moment"));
            }
            if live.record.suspended == away {
                return Ok(self.show(live, &self.around(&inner, &live.record)));
            }
            let why = if away { holds_on(live) } else { no_room(self, &inner, &live.record) };
            if let Some(why) = why {
                return Err(why);
            }
            let id = live.record.id.clone();
            let pids = self.begin_move(&mut inner, &id)?;
            (id, pids)
        };
        // Goes on to its end if whoever asked goes away.
        let (node, slice) = (Arc::clone(self), id.clone());
        let moved = tokio::spawn(async move { node.moved(&slice, away, &pids, "").await }).await;
        moved.unwrap_or_else(|error| Err(ErrorBody::new(ErrorCode::Internal, error.to_string(), "")))?;
        let inner = self.lock();
        let live = inner.slices.get(&id).ok_or_else(|| unknown_slice(key))?;
        Ok(self.show(live, &self.around(&inner, &live.record)))
    }

    /// Marks a slice as moving, in either direction; the processes whose memory it is.
    fn begin_move(&self, inner: &mut Inner, id: &str) -> Reply<Vec<u32>> {
        let members = inner.slices.get(id).into_iter().flat_map(|live| live.processes.values());
        let pids = members.filter(|member| member.dead.is_none()).map(|member| member.pid).collect();
        // Before anything is taken away: whoever takes over from a daemon that dies meanwhile knows what to bring back.
        self.set_suspended(inner, id, true, true)?;
        Ok(pids)
    }

    async fn moved(self: Arc<Self>, id: &str, away: bool, pids: &[u32], why: &str) -> Reply<()> {
        let folder = self.run.slice_dir(id);
        let done = checkpoint::run(&self.config, &self.run.driver_dir(), &folder, away, pids).await;
        let mut inner = self.lock();
        let away_now = away == done.is_ok();
        self.set_suspended(&mut inner, id, away_now, false)?;
        let Some(record) = inner.slices.get(id).map(|live| live.record.clone()) else { return Ok(()) };
        let (kind, what) = if away { ("slice-suspended", "suspended") } else { ("slice-woken", "woken") };
        match done {
            Ok(()) => {
                inner.event(kind, Some(&record), &format!("slice {} was {what}{why}", record.name));
                Ok(())
            }
            Err(error) => {
                let message = format!("slice \"{}\" can't be {what}: {error:#}", record.name);
                inner.event("warning", Some(&record), &message);
                Err(conflict(message, "it is as it was before"))
            }
        }
    }

    fn set_suspended(&self, inner: &mut Inner, id: &str, suspended: bool, moving: bool) -> Reply<()> {
        let Some(live) = inner.slices.get(id) else { return Ok(()) };
        let (record, gpus) = (Record { suspended, ..live.record.clone() }, live.gpus.clone());
        inner.store.put(&record).map_err(store_fault)?;
        if let Some(live) = inner.slices.get_mut(id) {
            (live.record.suspended, live.moving) = (suspended, moving);
        }
        // The gates are closed before anything is taken away, and opened after all is back.
        self.arrange(inner, &gpus);
        Ok(())
    }
}

/// What is remembered of a slice with processes between two looks.
#[derive(Default)]
struct Seen {
    /// What its processes had launched, how many they were, and what memory they had.
    counts: (u64, usize, u64),
    /// When it was at work last.
    worked: u64,
    /// Since when it wants its GPU.
    wants: Option<u64>,
    /// It was said that it waits.
    told: bool,
    /// A move failed: not again before this.
    not_before: u64,
}

/// After a failed move that nobody asked for, so long until the next try, in ns.
const AGAIN: u64 = 20_000_000_000;

/// Who waits for room so long (ns) is told of: those at work a moment ago may yet make some.
const TELL: u64 = 3_000_000_000;

/// Suspends slices that are idle and agreed to it, and wakes those whose programs want their GPU, until the daemon ends.
pub async fn run(node: Arc<Node>) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut moves: JoinSet<(String, bool)> = JoinSet::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = clock();
        while let Some(done) = moves.try_join_next() {
            if let Ok((id, false)) = done
                && let Some(seen) = seen.get_mut(&id)
            {
                seen.not_before = now.saturating_add(AGAIN);
            }
        }
        let mut inner = node.lock();
        let (ids, slices) = look(&inner, &mut seen, now);
        let whole: Vec<u64> = node.nvml.gpus().iter().map(|gpu| gpu.memory_bytes).collect();
        let plan = decide(now, &slices, &whole);
        for at in plan.waiting {
            let Some(live) = ids.get(at).and_then(|id| inner.slices.get(id)) else { continue };
            let record = live.record.clone();
            let Some(seen) = seen
                .get_mut(&record.id)
                .filter(|seen| !seen.told && seen.wants.is_some_and(|since| now.saturating_sub(since) >= TELL))
            else {
                continue;
            };
            if let Some(why) = no_room(&node, &inner, &record) {
                seen.told = true;
                let message = format!("{}, and nobody there is idle that may be suspended", why.message);
                inner.event("wake-waits", Some(&record), &message);
            }
        }
        for act in plan.acts {
            let (at, away) = match act {
                Act::Wake(at) => (at, false),
                Act::Rest(at) | Act::MakeRoom(at, _) => (at, true),
            };
            let name = |at: usize| ids.get(at).and_then(|id| Some(inner.slices.get(id)?.record.name.clone()));
            let why = match act {
                Act::Wake(_) => String::new(),
                Act::Rest(at) => {
                    let idle = slices.get(at).map_or(0, |slice| now.saturating_sub(slice.worked)) / 1_000_000_000;
                    format!(": it was idle for {idle} s")
                }
                Act::MakeRoom(_, Some(other)) => format!(": to make room for {}", name(other).unwrap_or_default()),
                Act::MakeRoom(_, None) => ": its GPU is promised to more than it has".into(),
            };
            let Some(id) = ids.get(at).cloned() else { continue };
            // Under the lock of the look: the next one must not decide on it again.
            let begun = node.begin_move(&mut inner, &id);
            let node = Arc::clone(&node);
            moves.spawn(async move {
                let done = match begun {
                    Ok(pids) => node.moved(&id, away, &pids, &why).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &done {
                    tracing::debug!("{error}");
                }
                (id, done.is_ok())
            });
        }
    }
}

/// How each slice stands, and its id.
fn look(inner: &Inner, seen: &mut HashMap<String, Seen>, now: u64) -> (Vec<String>, Vec<Sleeper>) {
    seen.retain(|id, _| inner.slices.get(id).is_some_and(|live| !live.processes.is_empty()));
    let (mut ids, mut slices) = (Vec::new(), Vec::new());
    for (id, live) in &inner.slices {
        let state = match () {
            () if live.moving => State::Moving,
            () if live.processes.is_empty() => State::Empty,
            () if live.record.suspended => State::Asleep,
            () => State::Awake,
        };
        let places = live.gpus.iter().zip(&live.record.devices);
        let mut sleeper = Sleeper {
            memory: places.filter_map(|(gpu, device)| Some(((*gpu)?, device.limit_bytes))).collect(),
            state,
            worked: now,
            after: live.record.suspend_after.ms().map(|ms| ms.saturating_mul(1_000_000)),
            wants: None,
        };
        if !live.processes.is_empty() {
            let seen = seen.entry(id.clone()).or_default();
            let readings: Vec<_> = live.processes.keys().map(|slot| live.files.read(*slot)).collect();
            let launches = readings.iter().fold(0u64, |sum, reading| sum.wrapping_add(reading.launches));
            let devices = 0..live.gpus.len();
            let ends =
                readings.iter().flat_map(|reading| devices.clone().map(|device| reading.work(device).busy_until));
            let alive = live.processes.values().zip(&readings).filter(|(member, _)| member.dead.is_none());
            let wants = !live.record.paused && alive.into_iter().any(|(_, reading)| wants(reading, devices.clone()));
            let memory = devices.clone().fold(0u64, |sum, device| sum.wrapping_add(live.files.used(device).0));
            let counts = (launches, live.processes.len(), memory);
            if counts != seen.counts || wants || ends.max().unwrap_or(0) > now {
                seen.worked = now;
            }
            seen.counts = counts;
            seen.wants = if wants { seen.wants.or(Some(now)) } else { None };
            seen.told &= wants;
            (sleeper.worked, sleeper.wants) = (seen.worked, seen.wants);
            if now < seen.not_before {
                // Others come first meanwhile.
                (sleeper.after, sleeper.wants) = (None, None);
            }
            if sleeper.after.is_some() && holds_on(live).is_some() {
                sleeper.after = None;
            }
        }
        ids.push(id.clone());
        slices.push(sleeper);
    }
    (ids, slices)
}

/// Whether a thread of the process waits at the gate, in the driver for the GPU, or for memory.
fn wants(reading: &Reading, mut devices: Range<usize>) -> bool {
    devices.any(|device| {
        let work = reading.work(device);
        work.waiting > 0 || work.syncing > 0 || reading.asked(device) > 0
    })
}
