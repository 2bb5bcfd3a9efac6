//! A slice's processes: they register, and are reaped when they have ended.
use super::{Live, Node, note_use, total};
use crate::cdi::{PART_VARIABLE, PIPE_VARIABLE, PLACE_VARIABLE};
use crate::engine::{self, Place};
use crate::files::Reading;
use crate::mps;
use crate::process::{self, until_end};
use crate::slice::{Record, thousandths};
use crate::turns::Desk;
use crate::turns::clock;
use cleave_api::format_bytes;
use cleave_ledger::{SLOTS, wire};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the driver to let go of a dead process's memory.
const REAP: Duration = Duration::from_secs(2);

/// A process of a slice.
#[derive(Clone, Debug)]
pub struct Member {
    /// On the host.
    pub pid: u32,
    /// As it sees itself.
    pub own_pid: u32,
    /// With the id it names the process.
    pub start_time: u64,
    /// Its user.
    pub uid: Option<u32>,
    /// Its command line when it registered.
    pub command: String,
    /// RFC 3339.
    pub since: String,
    /// It is being reaped: it was found dead at this time of [`clock`].
    pub dead: Option<u64>,
    /// What it ran when it registered; see [`process::Stat::image`].
    pub image: [u64; 4],
    /// Its slot at the last reading, and since when it is so.
    pub last: (Reading, Instant),
    /// Refusals reported.
    pub denied_seen: u64,
    /// Most memory on all devices together at any reading.
    pub peak_bytes: u64,
    /// Counts measurements on its own demand.
    pub measured: u64,
    /// In a spatial slice: the part of the multiprocessors that it started with, in thousandths; `None` if it sheds the server.
    pub part: Option<u16>,
    /// Which ones they are, if they are its own.
    pub place: Option<Place>,
    /// Kills it; `None` if it was gone already when this daemon started.
    pub pidfd: Option<Arc<OwnedFd>>,
}

impl Member {
    /// It is the peer, and lives.
    pub(super) fn is(&self, peer: &Peer) -> bool {
        self.pid == peer.pid && self.start_time == peer.stat.start_time && self.dead.is_none()
    }
}

/// The other end of a slice's socket.
#[derive(Clone, Debug)]
pub struct Peer {
    /// On the host.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What `/proc` says.
    pub stat: process::Stat,
    /// The process.
    pub pidfd: Arc<OwnedFd>,
}

/// A process in a trust domain.
#[derive(Clone, Debug)]
pub struct Inhabitant {
    /// On the host.
    pub pid: u32,
    /// With the id it names the process.
    pub start_time: u64,
    /// Its command line.
    pub command: String,
    /// Its slice.
    pub slice: Record,
}

/// What a process gets when it registers.
#[derive(Debug)]
pub struct Registered {
    /// Its slot.
    pub slot: u32,
    /// See [`crate::files::RunDir::descriptors`].
    pub descriptors: [OwnedFd; 3],
    /// Who looks after its time on each of the slice's devices.
    pub desks: Vec<Option<Arc<Desk>>>,
}

/// The part of the multiprocessors that a process was started with, if it was told of an MPS server; and which ones, if they
/// are its own.
pub(super) fn part_of(pid: u32) -> (Option<u16>, Option<Place>) {
    if process::variable(pid, PIPE_VARIABLE).is_none() {
        return (None, None);
    }
    let place: Option<Place> = process::variable(pid, PLACE_VARIABLE).and_then(|text| text.parse().ok());
    let number = || process::variable(pid, PART_VARIABLE).and_then(|text| text.parse().ok()).map_or(1000, thousandths);
    (Some(place.map_or_else(number, Place::width)), place)
}

impl Node {
    /// The ids of the slices in a trust domain, and their processes.
    pub fn inhabitants(&self, folder: &str) -> (Vec<String>, Vec<Inhabitant>) {
        let inner = self.lock();
        let in_it = |live: &&Live| engine::domain(&live.record).is_some_and(|key| key.folder() == folder);
        let slices: Vec<&Live> = inner.slices.values().filter(in_it).collect();
        let process = |live: &Live, member: &Member| Inhabitant {
            pid: member.pid,
            start_time: member.start_time,
            command: member.command.clone(),
            slice: live.record.clone(),
        };
        let alive = |live: &&Live| {
            let live: &Live = live;
            live.processes.values().filter(|m| m.dead.is_none()).map(|m| process(live, m)).collect::<Vec<_>>()
        };
        (slices.iter().map(|live| live.record.id.clone()).collect(), slices.iter().flat_map(alive).collect())
    }

    /// Sees to it that a process of the slice finds what its engine needs; if that can't be had, gives the status to answer.
    pub async fn ready(self: &Arc<Self>, id: &str, peer: &Peer) -> Result<(), u32> {
        let (record, key) = {
            let inner = self.lock();
            let record = &inner.slices.get(id).ok_or(wire::status::GONE)?.record;
            let Some(key) = engine::domain(record) else { return Ok(()) };
            (record.clone(), key.folder())
        };
        let gpu = record.devices.first().and_then(|device| self.nvml.gpus().get(self.place(&device.uuid)?));
        let outcome = match gpu {
            None => Err("its GPU is not on this machine now".to_owned()),
            Some(gpu) => mps::enter(self, &self.mps.get(&key, record.owner), gpu).await,
        };
        outcome.map_err(|why| {
            let message =
                format!("process {} can't start in slice {}: no MPS server for it: {why}", peer.pid, record.name);
            self.lock().event("warning", Some(&record), &message);
            wire::status::NO_SERVER
        })
    }

    /// Gives a process a slot, or the status to answer.
    pub fn register(self: &Arc<Self>, id: &str, peer: &Peer, own_pid: u32) -> Result<Registered, u32> {
        let mut inner = self.lock();
        let Some(live) = inner.slices.get_mut(id).filter(|l| !l.deleting) else { return Err(wire::status::GONE) };
        let Some(slot) = (0..SLOTS).find(|slot| !live.processes.contains_key(slot)) else {
            return Err(wire::status::FULL);
        };
        let files = Arc::clone(&live.files);
        let room = files.make_room(slot).and_then(|()| self.run.descriptors(&files));
        let descriptors = match room {
            Ok(fds) => fds,
            Err(error) => {
                let record = live.record.clone();
                let message = format!("no room for the account of process {}: {error}", peer.pid);
                inner.event("warning", Some(&record), &message);
                return Err(wire::status::NO_ROOM);
            }
        };
        let namespace = process::pid_namespace(peer.pid).unwrap_or(0);
        files.take(slot, peer.pid, own_pid, namespace, peer.stat.start_time);
        let (part, place) = part_of(peer.pid);
        let member = Member {
            pid: peer.pid,
            own_pid,
            start_time: peer.stat.start_time,
            uid: Some(peer.uid),
            command: process::command(peer.pid).unwrap_or_default(),
            since: process::now(),
            dead: None,
            image: peer.stat.image,
            last: (Reading::default(), Instant::now()),
            denied_seen: 0,
            peak_bytes: 0,
            measured: 0,
            part,
            place,
            pidfd: Some(Arc::clone(&peer.pidfd)),
        };
        let message = format!("{} (pid {}) runs in slot {slot}", member.command, member.pid);
        if live.processes.is_empty() {
            // Another program, perhaps: until more is known, it is taken for the last one.
            live.longest_is_old = true;
        }
        live.processes.insert(slot, member);
        let first = !live.record.started;
        live.record.started = true;
        let (record, gpus) = (live.record.clone(), live.gpus.clone());
        if first {
            inner.keep(id);
        }
        inner.event("process-started", Some(&record), &message);
        self.arrange(&inner, &gpus);
        let desks = inner.slices.get(id).map(|live| self.own_desks(live)).unwrap_or_default();
        drop(inner);
        self.watch(id, slot, peer.pid, peer.stat.start_time, &peer.pidfd);
        self.wake.notify_one();
        Ok(Registered { slot: slot as u32, descriptors, desks })
    }

    fn own_desks(&self, live: &Live) -> Vec<Option<Arc<Desk>>> {
        live.gpus.iter().map(|place| self.desk(live, *place)).collect()
    }

    /// The desks of its slice's GPUs, if the peer is registered there.
    pub fn desks_of(&self, id: &str, peer: &Peer) -> Option<Vec<Option<Arc<Desk>>>> {
        let inner = self.lock();
        let live = inner.slices.get(id)?;
        live.processes.values().any(|member| member.is(peer)).then(|| self.own_desks(live))
    }

    /// Takes a slot back whose descriptors never reached the process.
    pub fn unregister(self: &Arc<Self>, id: &str, slot: u32, peer: &Peer) {
        let mut inner = self.lock();
        let Some(live) = inner.slices.get_mut(id) else { return };
        let slot = slot as usize;
        if live.processes.get(&slot).is_some_and(|m| m.pid == peer.pid && m.dead.is_none()) {
            live.files.free(slot);
            live.processes.remove(&slot);
            let gpus = live.gpus.clone();
            self.arrange(&inner, &gpus);
            self.end_if_over(&mut inner, id);
        }
    }

    pub(super) fn watch(self: &Arc<Self>, id: &str, slot: usize, pid: u32, start_time: u64, pidfd: &OwnedFd) {
        let Ok(pidfd) = pidfd.try_clone() else { return };
        let (node, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            until_end(pidfd).await;
            node.ended(&id, slot, pid, start_time).await;
        });
    }

    /// A process is gone: waits until the driver has let go of its memory, then frees its slot.
    pub async fn ended(self: &Arc<Self>, id: &str, slot: usize, pid: u32, start_time: u64) {
        let (now, places) = {
            let mut inner = self.lock();
            // What it had sent by now will not be done to its end. Not earlier than whoever had the lock may have said what was done.
            let now = clock();
            let Some(live) = inner.slices.get_mut(id) else { return };
            let Some(member) = live.processes.get_mut(&slot) else { return };
            if member.dead.is_some() || (member.pid, member.start_time) != (pid, start_time) {
                return;
            }
            member.dead = Some(now);
            live.files.mark_dead(slot);
            let gpus = live.gpus.clone();
            self.arrange(&inner, &gpus);
            (now, gpus.into_iter().flatten().collect::<Vec<usize>>())
        };
        let began = Instant::now();
        let stuck = loop {
            let holds = places.iter().find_map(|place| match self.nvml.processes(*place) {
                Ok(list) => {
                    let found = list.iter().find(|(p, bytes)| *p == pid && *bytes != Some(0))?;
                    Some(format!("{} of GPU {place}", found.1.map_or("memory".into(), format_bytes)))
                }
                Err(error) => Some(format!("unknown memory of GPU {place} ({error})")),
            });
            match holds {
                None => break None,
                Some(held) if began.elapsed() >= REAP => break Some(held),
                Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut inner = self.lock();
        let Some(live) = inner.slices.get_mut(id) else { return };
        note_use(live);
        let Some(member) = live.processes.remove(&slot) else { return };
        let reading = live.files.read(slot);
        let peak = member.peak_bytes.max(total(live, slot, &reading));
        live.record.denied_total = live.record.denied_total.saturating_add(reading.denied);
        live.record.launches_total = live.record.launches_total.saturating_add(reading.launches);
        live.record.classes = live.record.classes.plus(&reading.classes);
        for (index, device) in live.record.devices.iter_mut().enumerate() {
            device.time = device.time.plus(&reading.work(index), now);
        }
        live.files.free(slot);
        // With its last process all that was away is gone.
        live.record.suspended &= !live.processes.is_empty();
        let again = live.processes.values().any(|m| m.pid == pid && m.start_time == start_time && m.dead.is_none());
        let record = live.record.clone();
        if let Some(held) = stuck.filter(|_| !again) {
            let message = format!("process {pid} is gone, but the driver still says that it has {held}");
            inner.event("warning", Some(&record), &message);
        }
        let message = format!(
            "{} (pid {pid}) ended: at most {} in use, {} allocations refused, {} launches",
            member.command,
            format_bytes(peak),
            reading.denied,
            reading.launches
        );
        inner.event("process-ended", Some(&record), &message);
        inner.keep(id);
        self.end_if_over(&mut inner, id);
    }
}
