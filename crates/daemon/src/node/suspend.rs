//! Slices whose memory is away from their GPUs, in their processes' host memory.
use super::slices::forbidden;
use super::{Caller, Inner, Live, Node, Reply, store_fault, unknown_slice};
use crate::checkpoint;
use crate::slice::Record;
use cleave_api::{ErrorBody, ErrorCode, Slice, format_bytes};
use cleave_ledger::Kind;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a program of a suspended slice wants its GPU.
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
        let awake = |live: &&Live| live.record.id != record.id && !live.record.suspended && !live.processes.is_empty();
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
            let pids: Vec<u32> = live.processes.values().filter(|m| m.dead.is_none()).map(|m| m.pid).collect();
            let id = live.record.id.clone();
            // Before anything is taken away: whoever takes over from a daemon that dies meanwhile knows what to bring back.
            self.set_suspended(&mut inner, &id, true, true)?;
            (id, pids)
        };
        // Goes on to its end if whoever asked goes away.
        let (node, slice) = (Arc::clone(self), id.clone());
        let moved = tokio::spawn(async move { node.moved(&slice, away, &pids).await }).await;
        moved.unwrap_or_else(|error| Err(ErrorBody::new(ErrorCode::Internal, error.to_string(), "")))?;
        let inner = self.lock();
        let live = inner.slices.get(&id).ok_or_else(|| unknown_slice(key))?;
        Ok(self.show(live, &self.around(&inner, &live.record)))
    }

    async fn moved(self: Arc<Self>, id: &str, away: bool, pids: &[u32]) -> Reply<()> {
        let done = checkpoint::run(&self.config, &self.run.driver_dir(), away, pids).await;
        let mut inner = self.lock();
        let away_now = away == done.is_ok();
        self.set_suspended(&mut inner, id, away_now, false)?;
        let Some(record) = inner.slices.get(id).map(|live| live.record.clone()) else { return Ok(()) };
        let (kind, what) = if away { ("slice-suspended", "suspended") } else { ("slice-woken", "woken") };
        match done {
            Ok(()) => {
                inner.event(kind, Some(&record), &format!("slice {} was {what}", record.name));
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

/// Wakes suspended slices whose programs want their GPU, until the daemon ends.
pub async fn run(node: Arc<Node>) {
    let daemon = Caller { uid: 0, pid: None, admin: true };
    loop {
        tokio::time::sleep(LOOK).await;
        let wanted: Vec<String> = {
            let inner = node.lock();
            let sleeping = inner.slices.values().filter(|l| l.record.suspended && !l.moving && !l.record.paused);
            sleeping.filter(|live| wants(live)).map(|live| live.record.id.clone()).collect()
        };
        for id in wanted {
            // One without room waits, and is tried again.
            if let Err(error) = node.suspend(&daemon, &id, false).await {
                tracing::debug!("{error}");
            }
        }
    }
}

/// Whether a thread of the slice waits at the gate, in the driver for the GPU, or for memory.
fn wants(live: &Live) -> bool {
    live.processes.iter().filter(|(_, member)| member.dead.is_none()).any(|(slot, _)| {
        let reading = live.files.read(*slot);
        (0..live.record.devices.len()).any(|device| {
            let work = reading.work(device);
            work.waiting > 0 || work.syncing > 0 || reading.asked(device) > 0
        })
    })
}
