//! What is: the answers to questions.
use super::whole::is_whole;
use super::{Caller, Inner, Live, Member, Node, Reply, store_fault};
use crate::files::{Reading, Work};
use crate::process;
use crate::slice::{self, Classes, Record, RecordDevice, RecordTime};
use crate::turns::{HORIZON, Standing, clock};
use cleave_api::{ClassUse, DeviceTime, Driver, Event, Given, Gpu, Owner, Process, Slice, SliceDevice, Status};
use cleave_ledger::{HOST, KernelClass, Kind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering::SeqCst;

/// What slices are shown against.
pub(super) struct Around<'a> {
    /// The sum of the quotas on each GPU.
    reserved: HashMap<&'a str, u64>,
    /// How slices stand at each GPU's desk, by place and id.
    standings: HashMap<usize, HashMap<String, Standing>>,
    users: HashMap<u32, String>,
}

impl Node {
    /// For a list of slices.
    fn around_all<'a>(&self, inner: &'a Inner) -> Around<'a> {
        let mut reserved: HashMap<&str, u64> = HashMap::new();
        for device in inner.slices.values().flat_map(|l| &l.record.devices) {
            let sum = reserved.entry(&device.uuid).or_default();
            *sum = sum.saturating_add(device.limit_bytes);
        }
        let standings = self.desks.iter().map(|desk| desk.standings()).enumerate().collect();
        Around { reserved, standings, users: process::user_names() }
    }

    /// For one slice: of thousands, no more is looked at than its own GPUs need.
    pub(super) fn around<'a>(&self, inner: &Inner, record: &'a Record) -> Around<'a> {
        let sum = |uuid: &str| slice::reserved(inner.slices.values().map(|l| &l.record), uuid).bytes;
        let reserved = record.devices.iter().map(|d| (d.uuid.as_str(), sum(&d.uuid))).collect();
        let places = record.devices.iter().filter_map(|d| self.place(&d.uuid));
        let standings = places.filter_map(|place| Some((place, self.desks.get(place)?.standings()))).collect();
        Around { reserved, standings, users: process::user_names() }
    }

    pub(super) fn show_record(&self, record: &Record, around: &Around<'_>) -> Slice {
        let devices = record.devices.iter().map(|d| {
            let gpu = self.place(&d.uuid).and_then(|p| self.nvml.gpus().get(p));
            SliceDevice {
                gpu: gpu.map_or(d.index, |g| g.index),
                gpu_uuid: d.uuid.clone(),
                mig_profile: record.mig.as_ref().map(|held| held.place.profile.clone()),
                mig_uuid: record.mig.as_ref().map(|held| held.uuid.clone()).filter(|uuid| !uuid.is_empty()),
                limit_bytes: d.limit_bytes,
                used_bytes: (!is_whole(record)).then_some(0),
                peak_bytes: (!is_whole(record)).then_some(d.peak_bytes),
                used_for: BTreeMap::new(),
                measured_bytes: 0,
                busy_percent: None,
                time: DeviceTime {
                    device_ns: d.time.device_ns,
                    throttled_ns: d.time.throttled_ns,
                    throttled_total: d.time.throttled,
                    share_percent: record.compute_percent,
                    ..DeviceTime::default()
                },
            }
        });
        Slice {
            id: record.id.clone(),
            name: record.name.clone(),
            owner: Owner { uid: record.owner, name: around.users.get(&record.owner).cloned() },
            created_at: record.created_at.clone(),
            devices: devices.collect(),
            compute_percent: record.compute_percent,
            mode: record.mode,
            priority: record.priority,
            burst_ms: record.burst_ms,
            paused: record.paused,
            suspended: record.suspended,
            watchdog: record.watchdog,
            suspend_after: record.suspend_after,
            lowered: false,
            engine: record.choice.engine,
            engine_reason: record.choice.reason.clone(),
            trust_domain: record.trust_domain.clone(),
            host_limit_bytes: record.host_limit_bytes,
            host_used_bytes: 0,
            processes: Vec::new(),
            denied_total: record.denied_total,
            launches_total: record.launches_total,
            classes: show_classes(&record.classes),
            overcommitted: record.devices.iter().any(|d| {
                let card =
                    self.place(&d.uuid).and_then(|p| self.nvml.gpus().get(p)).map_or(u64::MAX, |g| g.memory_bytes);
                around.reserved.get(d.uuid.as_str()).copied().unwrap_or(0) > card
            }),
            on_missing: record.on_missing,
            on_bypass: record.on_bypass,
            ephemeral: record.ephemeral,
            in_motion: false,
        }
    }

    /// A slice as it was made, or, if it was only asked what it would be, as that.
    pub(super) fn show_made(&self, inner: &Inner, record: &Record, around: &Around<'_>) -> Slice {
        let live = inner.slices.get(&record.id);
        live.map_or_else(|| self.show_record(record, around), |live| self.show(live, around))
    }

    pub(super) fn show(&self, live: &Live, around: &Around<'_>) -> Slice {
        let mut shown = self.show_record(&live.record, around);
        let picture = live.files.picture(live.processes.keys().copied());
        shown.in_motion = !picture.is_exact();
        shown.lowered = live.lowered;
        let now = clock();
        for (index, device) in shown.devices.iter_mut().enumerate() {
            let policy = live.files.policy.devices.get(index);
            device.busy_percent = policy.map(|d| d.busy_percent.load(SeqCst)).filter(|p| *p <= 100);
            for (slot, reading) in live.processes.keys().zip(&picture.readings) {
                device.measured_bytes = device.measured_bytes.saturating_add(live.files.adjust(*slot, index));
                for kind in Kind::ALL {
                    let bytes = reading.kind(index, kind);
                    if bytes > 0 {
                        let sum = device.used_for.entry(kind.name().into()).or_default();
                        *sum = sum.saturating_add(bytes);
                    }
                }
            }
            let place = live.gpus.get(index).copied().flatten();
            let own = live.desk.as_ref().map(|desk| desk.standings());
            let standing = match &own {
                Some(own) => own.get(&live.record.id),
                None => place.and_then(|place| around.standings.get(&place)?.get(&live.record.id)),
            };
            let works = live.processes.values().zip(&picture.readings);
            let works = works.map(|(member, reading)| (reading.work(index), member.dead.unwrap_or(now)));
            let kept = live.record.devices.get(index).map(|d| d.time).unwrap_or_default();
            show_time(&mut device.time, kept, works, standing, now);
            let held = picture.held(index).saturating_add_signed(device.measured_bytes);
            device.used_bytes = device.used_bytes.and(Some(held));
            device.peak_bytes = device.peak_bytes.max(device.used_bytes);
        }
        shown.host_used_bytes = picture.held(HOST);
        let classes = picture.readings.iter().fold(live.record.classes, |sum, reading| sum.plus(&reading.classes));
        shown.classes = show_classes(&classes);
        for reading in &picture.readings {
            shown.denied_total = shown.denied_total.saturating_add(reading.denied);
            shown.launches_total = shown.launches_total.saturating_add(reading.launches);
        }
        shown.processes = live
            .processes
            .iter()
            .zip(&picture.readings)
            .map(|((slot, member), reading)| show_member(live, *slot, member, reading))
            .collect();
        shown
    }

    /// The slices that the caller sees.
    pub fn list(&self, caller: &Caller) -> Vec<Slice> {
        let inner = self.lock();
        let around = self.around_all(&inner);
        let mut all: Vec<Slice> =
            inner.slices.values().filter(|l| caller.sees(&l.record)).map(|l| self.show(l, &around)).collect();
        all.sort_by(|a, b| (&a.created_at, &a.name).cmp(&(&b.created_at, &b.name)));
        all
    }

    /// One slice, by name or id.
    pub fn get(&self, caller: &Caller, key: &str) -> Reply<Slice> {
        let inner = self.lock();
        let live = inner.seen(key, caller)?;
        Ok(self.show(live, &self.around(&inner, &live.record)))
    }

    /// Every process in the slices that the caller sees.
    pub fn processes(&self, caller: &Caller) -> Vec<Process> {
        self.list(caller).into_iter().flat_map(|s| s.processes).collect()
    }

    /// The processes that belong to slices.
    fn tracked(&self, inner: &Inner) -> HashSet<u32> {
        let members = inner.slices.values().flat_map(|l| l.processes.values().map(|m| m.pid));
        members.chain(self.mps.servers()).collect()
    }

    /// The GPUs.
    pub fn gpus(&self, caller: &Caller) -> Vec<Gpu> {
        // Those that end while NVML is asked belonged to a slice, too.
        let mut tracked = self.tracked(&self.lock());
        let states: Vec<_> = (0..self.nvml.gpus().len())
            .map(|place| {
                (
                    self.nvml.memory(place).ok(),
                    self.nvml.processes(place).unwrap_or_default(),
                    self.nvml.utilization(place),
                    self.nvml.bandwidth(place),
                )
            })
            .collect();
        let inner = self.lock();
        tracked.extend(self.tracked(&inner));
        self.nvml
            .gpus()
            .iter()
            .zip(states)
            .map(|(gpu, (memory, processes, busy_percent, bandwidth_percent))| {
                let on_it = |l: &&Live| l.record.devices.iter().any(|d| d.uuid == gpu.uuid);
                let reserved = slice::reserved(inner.slices.values().map(|l| &l.record), &gpu.uuid);
                let mut slices: Vec<String> = inner
                    .slices
                    .values()
                    .filter(on_it)
                    .filter(|l| caller.sees(&l.record))
                    .map(|l| l.record.name.clone())
                    .collect();
                slices.sort();
                Gpu {
                    index: gpu.index,
                    uuid: gpu.uuid.clone(),
                    name: gpu.name.clone(),
                    pci: gpu.pci.clone(),
                    memory_bytes: gpu.memory_bytes,
                    used_bytes: memory.map_or(0, |m| m.used),
                    reserved_bytes: reserved.bytes,
                    reserved_compute_percent: reserved.compute,
                    untracked_bytes: processes
                        .iter()
                        .filter(|(pid, _)| !tracked.contains(pid))
                        .fold(0, |sum, (_, bytes)| sum.saturating_add(bytes.unwrap_or(0))),
                    context_bytes: self.cost(&inner.store, gpu).map(|c| c.context_bytes),
                    busy_percent,
                    bandwidth_percent,
                    device_ns: worked(&inner, &gpu.uuid),
                    overcommitted: reserved.bytes > gpu.memory_bytes,
                    slice_count: inner.slices.values().filter(on_it).count(),
                    slices,
                    draining: inner.draining.contains(&gpu.uuid),
                    simulated: self.config.sim.is_some(),
                }
            })
            .collect()
    }

    /// The daemon.
    pub fn status(&self) -> Status {
        let inner = self.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            ledger_abi: cleave_ledger::ABI,
            pid: std::process::id(),
            started_at: self.started_at.clone(),
            run_dir: self.config.run_dir.display().to_string(),
            state_dir: self.config.state_dir.display().to_string(),
            private: self.config.private,
            driver: Driver {
                version: self.nvml.driver_version(),
                cuda_version: self.nvml.cuda_version(),
                library_dir: self
                    .driver
                    .real
                    .get("libcuda.so.1")
                    .and_then(|p| p.parent())
                    .map_or_else(String::new, |p| p.display().to_string()),
                simulated: self.config.sim.clone(),
            },
            gpus: self.nvml.gpus().len() + self.others.len(),
            slices: inner.slices.len(),
            processes: inner.process_count(),
        }
    }

    /// Events after number `since`, of one slice if given, that the caller may see.
    pub fn events(&self, caller: &Caller, since: u64, key: Option<&str>, limit: u32) -> Reply<Vec<Event>> {
        let inner = self.lock();
        // A slice that is gone keeps its events under its name; an id is only known while it is there.
        let name = key.map(|key| inner.find(key).map_or_else(|| key.to_owned(), |l| l.record.name.clone()));
        let owner = (!caller.admin).then_some(caller.uid);
        inner.store.events(since, name.as_deref(), owner, limit).map_err(store_fault)
    }
}

/// Device time of all slices on a GPU, and of those that are gone, in ns.
fn worked(inner: &Inner, uuid: &str) -> u64 {
    let (now, gone) = (clock(), inner.gone.get(uuid).copied().unwrap_or(0));
    let on_it = |live: &Live| {
        let devices = live.record.devices.iter().enumerate().filter(|(_, device)| device.uuid == uuid);
        let works = |(index, device): (usize, &RecordDevice)| {
            live.processes.iter().fold(device.time, |sum, (slot, member)| {
                sum.plus(&live.files.read(*slot).work(index), member.dead.unwrap_or(now))
            })
        };
        devices.fold(0, |sum: u64, device| sum.saturating_add(works(device).device_ns))
    };
    inner.slices.values().fold(gone, |sum, live| sum.saturating_add(on_it(live)))
}

/// Threads of one process that are believed to wait.
const THREADS: u64 = 1 << 20;

/// What a slice did with a GPU's time: what was `kept` of ended processes, and each process's work until the time beside it.
fn show_time(
    shown: &mut DeviceTime,
    kept: RecordTime,
    works: impl Iterator<Item = (Work, u64)>,
    standing: Option<&Standing>,
    now: u64,
) {
    let mut sum = kept;
    for (work, until) in works {
        sum = sum.plus(&work, until);
        if until == now {
            // A process may write whatever it likes.
            shown.waiting = shown.waiting.saturating_add(work.waiting.min(THREADS));
            shown.in_flight_ns = shown.in_flight_ns.max(work.busy_until.min(now + HORIZON).saturating_sub(now));
        }
    }
    (shown.device_ns, shown.throttled_ns, shown.throttled_total) = (sum.device_ns, sum.throttled_ns, sum.throttled);
    let Some(standing) = standing else { return };
    if standing.here {
        shown.share_percent = Some(f64::from(standing.tenant.share) / 10.0);
    }
    let [ten, second, minute] = standing.last.map(|sum| Some(Given { given_ns: sum.given, owed_ns: sum.owed }));
    (shown.last_10ms, shown.last_1s, shown.last_1min) = (ten, second, minute);
}

/// What operations did by class, as far as it is known.
pub(super) fn show_classes(classes: &Classes) -> BTreeMap<String, ClassUse> {
    let used = KernelClass::ALL.into_iter().zip(classes.launches).zip(classes.device_ns);
    let did = used.filter(|((_, launches), device_ns)| *launches > 0 || *device_ns > 0);
    did.map(|((class, launches), device_ns)| {
        let launches = (class != KernelClass::Other).then_some(launches);
        let device_ns = (class != KernelClass::Collective).then_some(device_ns);
        (class.name().to_owned(), ClassUse { launches, device_ns })
    })
    .collect()
}

fn show_member(live: &Live, slot: usize, member: &Member, reading: &Reading) -> Process {
    let stat = process::stat(member.pid).filter(|s| s.start_time == member.start_time);
    Process {
        pid: member.pid,
        own_pid: member.own_pid,
        slice: live.record.name.clone(),
        uid: member.uid,
        command: stat.and_then(|_| process::command(member.pid)).unwrap_or_else(|| member.command.clone()),
        since: member.since.clone(),
        used_bytes: (0..live.record.devices.len())
            .map(|d| reading.held(d).saturating_add_signed(live.files.adjust(slot, d)))
            .collect(),
        launches: reading.launches,
        denied: reading.denied,
        classes: show_classes(&reading.classes),
        state: match stat {
            _ if member.dead.is_some() => "exiting",
            None => "exiting",
            Some(stat) if matches!(stat.state, 'T' | 't') => "stopped",
            Some(_) => "running",
        }
        .into(),
    }
}
