//! The node: its slices and what is done with them. Rules are in `slice`, files in `files`; here they come together.
//!
//! One lock guards the slices. It is never held over a call that may block for long (NVML, a probe, waiting for a
//! process to die), and the ledgers themselves need no lock.
use crate::cdi;
use crate::config::Config;
use crate::ffi::os;
use crate::files::{DeviceFacts, Reading, RunDir, SliceFiles};
use crate::gpu::{DriverFiles, GpuInfo, Nvml, format_uuid};
use crate::probe;
use crate::process;
use crate::register::{self, Admits};
use crate::slice::{self, Card, Holder, Record, RecordDevice};
use crate::store::{ContextCost, Store, StoreError};
use cleave_api::{
    Driver, ErrorBody, ErrorCode, Event, Gpu, LaunchPlan, OnMissing, Owner, Process, Slice, SliceChange, SliceDevice,
    SliceSpec, Status, format_bytes,
};
use cleave_ledger::{HOST, Kind, SLOTS, owner, wire};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// Longest wait for the driver to let go of a dead process's memory.
const REAP: Duration = Duration::from_secs(2);
/// Longest wait for the processes of a slice that is deleted by force.
const KILL: Duration = Duration::from_secs(10);

/// What a request's answer is, or why there is none.
pub type Reply<T> = Result<T, ErrorBody>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Process id, where it is on this machine.
    pub pid: Option<u32>,
    /// Root, the daemon's own user, or the holder of the token.
    pub admin: bool,
}

/// The daemon's whole state.
pub struct Node {
    /// As it was started.
    pub config: Config,
    /// The GPUs.
    pub nvml: Box<dyn Nvml>,
    /// Where the real driver is.
    pub driver: DriverFiles,
    /// Where the files are.
    pub run: RunDir,
    /// RFC 3339.
    pub started_at: String,
    /// Rings when there is something to reconcile.
    pub wake: Notify,
    stop: watch::Sender<bool>,
    inner: Mutex<Inner>,
    /// When a probe of a GPU failed last.
    probes: tokio::sync::Mutex<HashMap<usize, Instant>>,
}

/// What the lock guards.
pub struct Inner {
    /// By id.
    pub slices: HashMap<String, Live>,
    /// Ids by name.
    names: HashMap<String, String>,
    /// The database.
    pub store: Store,
    /// Programs that asked for a launch plan: they, and what they start, belong to a slice.
    pub launchers: HashMap<u32, Launcher>,
    /// When the last slice went; `None` while there is one.
    idle_since: Option<Instant>,
    had_slice: bool,
}

/// A program that put itself or a child into a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// With the id it names the process.
    pub start_time: u64,
    /// The slice's id.
    pub slice: String,
}

/// A slice that is there.
pub struct Live {
    /// What is kept of it.
    pub record: Record,
    /// Its files.
    pub files: Arc<SliceFiles>,
    /// Its processes by slot.
    pub processes: BTreeMap<usize, Member>,
    /// Place of each of its devices among the GPUs; `None` = not on this machine now.
    pub gpus: Vec<Option<usize>>,
    /// When a refusal was last reported.
    pub denied_at: Option<Instant>,
    /// When its usage file was last found cut or grown.
    pub mended_at: Option<Instant>,
    /// What listens on its sockets.
    doors: [AbortHandle; 2],
    deleting: bool,
}

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
    /// It is being reaped.
    pub dead: bool,
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
    /// Kills it; `None` if it was gone already when this daemon started.
    pub pidfd: Option<Arc<OwnedFd>>,
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

/// Turns a fault of the database into an answer.
pub fn store_fault(error: StoreError) -> ErrorBody {
    let code = match error {
        StoreError::Full => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    ErrorBody::new(code, error.to_string(), "")
}

fn file_fault(what: &str, error: &io::Error) -> ErrorBody {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let hint = match error.raw_os_error() {
        _ if full => "make room in the run directory, or start the daemon with another --run-dir",
        Some(libc::EMFILE | libc::ENFILE) => "raise the daemon's limit of open files (LimitNOFILE=)",
        Some(libc::EROFS) => "the run directory is read-only; start the daemon with another --run-dir",
        _ => "",
    };
    let words = if full { "no room left on the device".into() } else { error.to_string() };
    ErrorBody::new(ErrorCode::Unavailable, format!("{what}: {words}; nothing was made"), hint)
}

fn forbidden(what: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::Forbidden,
        format!("this user may not {what}"),
        "root and the daemon's user may; root makes a slice for somebody with `cleave slice create --owner USER`, and its owner runs programs in it",
    )
}

fn unknown_slice(key: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::NotFound,
        format!("there is no slice \"{key}\""),
        "`cleave slice list` shows what there is",
    )
}

fn new_uuid() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Some(bytes)
}

impl Caller {
    /// The process that asks, where it is on this machine. One that is gone by now has no start time of its own.
    fn process(&self) -> Option<Holder> {
        let pid = self.pid.filter(|pid| *pid != 0)?;
        Some(Holder { pid, start_time: process::stat(pid).map_or(0, |s| s.start_time), launched: false })
    }

    fn sees(&self, record: &Record) -> bool {
        self.admin || self.uid == record.owner
    }
}

impl Inner {
    /// Writes an event down; a full disk costs the event, not the action.
    pub fn event(&mut self, kind: &str, record: Option<&Record>, message: &str) {
        let (slice, owner) = (record.map(|r| r.name.as_str()), record.map(|r| r.owner));
        match kind {
            "warning" | "bypass" => tracing::warn!(kind, slice, "{message}"),
            _ => tracing::info!(kind, slice, "{message}"),
        }
        if let Err(error) = self.store.event(kind, slice, owner, message) {
            tracing::warn!("an event is lost: {error}");
        }
    }

    fn find(&self, key: &str) -> Option<&Live> {
        self.slices.get(key).or_else(|| self.slices.get(self.names.get(key)?))
    }

    fn seen(&self, key: &str, caller: &Caller) -> Reply<&Live> {
        self.find(key).filter(|l| caller.sees(&l.record)).ok_or_else(|| unknown_slice(key))
    }

    fn records(&self) -> Vec<&Record> {
        self.slices.values().map(|l| &l.record).collect()
    }

    /// How many processes are in slices.
    pub fn process_count(&self) -> usize {
        self.slices.values().map(|l| l.processes.len()).sum()
    }

    /// Writes a slice's counts down.
    pub fn keep(&self, id: &str) {
        if let Some(Err(error)) = self.slices.get(id).map(|l| self.store.put(&l.record)) {
            tracing::warn!("slice {id}: {error}");
        }
    }
}

impl Node {
    /// A node without slices; [`Node::adopt`] brings back those of the database.
    pub fn new(config: Config, nvml: Box<dyn Nvml>, driver: DriverFiles, run: RunDir, store: Store) -> Arc<Self> {
        Arc::new(Self {
            config,
            nvml,
            driver,
            run,
            started_at: process::now(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            inner: Mutex::new(Inner {
                slices: HashMap::new(),
                names: HashMap::new(),
                store,
                launchers: HashMap::new(),
                idle_since: Some(Instant::now()),
                had_slice: false,
            }),
            probes: tokio::sync::Mutex::new(HashMap::new()),
        })
    }

    /// The lock.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the daemon; its slices stay.
    pub fn shut_down(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the daemon is to end.
    pub async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// The GPU with this UUID.
    pub fn place(&self, uuid: &str) -> Option<usize> {
        self.nvml.gpus().iter().position(|g| g.uuid == uuid)
    }

    fn cost(&self, store: &Store, gpu: &GpuInfo) -> Option<ContextCost> {
        store.context(&gpu.name, &self.nvml.driver_version()).ok().flatten()
    }

    fn facts(&self, store: &Store, record: &Record) -> Vec<DeviceFacts> {
        record
            .devices
            .iter()
            .map(|device| match self.place(&device.uuid).and_then(|p| self.nvml.gpus().get(p)) {
                Some(gpu) => DeviceFacts { index: gpu.index, cost: self.cost(store, gpu) },
                None => DeviceFacts { index: device.index, cost: None },
            })
            .collect()
    }

    /// Runs `f` with the cards and the slices' records.
    fn with_cards<T>(&self, inner: &Inner, f: impl FnOnce(&[Card<'_>], &[&Record]) -> T) -> T {
        let cards: Vec<Card<'_>> = self
            .nvml
            .gpus()
            .iter()
            .map(|info| Card { info, context_bytes: self.cost(&inner.store, info).map(|c| c.context_bytes) })
            .collect();
        f(&cards, &inner.records())
    }

    /// Makes a slice; with `dry_run` only says what it would be.
    pub async fn create(self: &Arc<Self>, caller: &Caller, spec: SliceSpec, dry_run: bool) -> Reply<Slice> {
        if !caller.admin {
            return Err(forbidden("create slices"));
        }
        let owner = match &spec.owner {
            None => caller.uid,
            Some(text) => process::user_id(text).ok_or_else(|| {
                ErrorBody::new(ErrorCode::NotFound, format!("there is no user \"{text}\""), "give a name or a number")
            })?,
        };
        let admit = |inner: &Inner| {
            let mut bytes = [0; 3];
            let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
            let name = format!("slice-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]);
            self.with_cards(inner, |cards, records| {
                let taken = |name: &str| inner.names.contains_key(name);
                slice::admit(&spec, cards, records, process::machine_memory(), name, taken)
            })
        };
        let first = admit(&self.lock())?;
        if !dry_run {
            for (place, _) in &first.devices {
                self.measure_context(*place).await;
            }
        }
        let mut inner = self.lock();
        let admitted = admit(&inner)?;
        let uuid = new_uuid().ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "no random numbers", ""))?;
        let record = Record {
            id: format!("SLICE-{}", format_uuid(uuid)),
            name: admitted.name,
            owner,
            created_at: process::now(),
            devices: admitted
                .devices
                .iter()
                .filter_map(|(place, limit_bytes)| {
                    let gpu = self.nvml.gpus().get(*place)?;
                    Some(RecordDevice {
                        uuid: gpu.uuid.clone(),
                        index: gpu.index,
                        limit_bytes: *limit_bytes,
                        peak_bytes: 0,
                    })
                })
                .collect(),
            compute_percent: admitted.compute_percent,
            host_limit_bytes: admitted.host_limit_bytes,
            on_missing: spec.on_missing,
            ephemeral: spec.ephemeral,
            holder: caller.process().filter(|_| spec.ephemeral),
            ..Record::default()
        };
        if dry_run {
            let reserved = self.reserved(&inner);
            return Ok(self.show_record(&record, &reserved));
        }
        // First the row, then the files: a crash in between leaves a slice whose files are made at the next start.
        inner.store.put(&record).map_err(store_fault)?;
        let facts = self.facts(&inner.store, &record);
        let made =
            SliceFiles::create(&self.run, &record, &facts).and_then(|files| self.open_doors(record.clone(), files));
        let live = match made {
            Ok(live) => live,
            Err(error) => {
                let _ = inner.store.remove(&record.id);
                let _ = std::fs::remove_dir_all(self.run.slice_dir(&record.id));
                return Err(file_fault(&format!("slice \"{}\" can't be made", record.name), &error));
            }
        };
        let shares: Vec<String> =
            record.devices.iter().map(|d| format!("{} of GPU {}", format_bytes(d.limit_bytes), d.index)).collect();
        self.insert(&mut inner, live);
        inner.event("slice-created", Some(&record), &format!("slice {} has {}", record.name, shares.join(", ")));
        self.write_cdi(&mut inner, &record);
        if let Some(holder) = record.holder {
            self.watch_holder(holder, record.id.clone());
        }
        let reserved = self.reserved(&inner);
        inner.slices.get(&record.id).map(|l| self.show(l, &reserved)).ok_or_else(|| unknown_slice(&record.name))
    }

    fn insert(&self, inner: &mut Inner, live: Live) {
        inner.had_slice = true;
        inner.idle_since = None;
        inner.names.insert(live.record.name.clone(), live.record.id.clone());
        inner.slices.insert(live.record.id.clone(), live);
    }

    /// Binds a slice's sockets and listens.
    fn open_doors(self: &Arc<Self>, record: Record, files: SliceFiles) -> io::Result<Live> {
        let owners = register::listen(self, &record.id, Admits::User(record.owner), &files.socket())?;
        let guests = register::listen(self, &record.id, Admits::Anyone, &files.guest_socket())
            .inspect_err(|_| owners.abort())?;
        let gpus = record.devices.iter().map(|d| self.place(&d.uuid)).collect();
        Ok(Live {
            record,
            files: Arc::new(files),
            processes: BTreeMap::new(),
            gpus,
            denied_at: None,
            mended_at: None,
            doors: [owners, guests],
            deleting: false,
        })
    }

    /// Finds out what a context costs on a GPU, if nobody knows yet.
    async fn measure_context(&self, place: usize) {
        let Some(gpu) = self.nvml.gpus().get(place) else { return };
        if !self.config.probe || self.cost(&self.lock().store, gpu).is_some() {
            return;
        }
        let mut probes = self.probes.lock().await;
        if self.cost(&self.lock().store, gpu).is_some()
            || probes.get(&place).is_some_and(|failed| failed.elapsed() < Duration::from_secs(60))
        {
            return;
        }
        let measured = probe::run(&self.config, &self.run.driver_dir(), gpu).await;
        let mut inner = self.lock();
        match measured {
            Ok(cost) => {
                tracing::info!("a context takes {} on {}", format_bytes(cost.context_bytes), gpu.name);
                if let Err(error) = inner.store.put_context(&gpu.name, &self.nvml.driver_version(), cost) {
                    tracing::warn!("{error}");
                }
            }
            Err(error) => {
                probes.insert(place, Instant::now());
                let message = format!("what a context takes on GPU {} can't be measured: {error}", gpu.index);
                inner.event("warning", None, &message);
            }
        }
    }

    fn reserved(&self, inner: &Inner) -> HashMap<String, u64> {
        let mut sums: HashMap<String, u64> = HashMap::new();
        for device in inner.slices.values().flat_map(|l| &l.record.devices) {
            let sum = sums.entry(device.uuid.clone()).or_default();
            *sum = sum.saturating_add(device.limit_bytes);
        }
        sums
    }

    fn show_record(&self, record: &Record, reserved: &HashMap<String, u64>) -> Slice {
        let devices = record.devices.iter().map(|d| {
            let gpu = self.place(&d.uuid).and_then(|p| self.nvml.gpus().get(p));
            SliceDevice {
                gpu: gpu.map_or(d.index, |g| g.index),
                gpu_uuid: d.uuid.clone(),
                limit_bytes: d.limit_bytes,
                used_bytes: 0,
                peak_bytes: d.peak_bytes,
                used_for: BTreeMap::new(),
                measured_bytes: 0,
                busy_percent: None,
            }
        });
        Slice {
            id: record.id.clone(),
            name: record.name.clone(),
            owner: Owner { uid: record.owner, name: process::user_name(record.owner) },
            created_at: record.created_at.clone(),
            devices: devices.collect(),
            compute_percent: record.compute_percent,
            host_limit_bytes: record.host_limit_bytes,
            host_used_bytes: 0,
            processes: Vec::new(),
            denied_total: record.denied_total,
            launches_total: record.launches_total,
            overcommitted: record.devices.iter().any(|d| {
                let card =
                    self.place(&d.uuid).and_then(|p| self.nvml.gpus().get(p)).map_or(u64::MAX, |g| g.memory_bytes);
                reserved.get(&d.uuid).copied().unwrap_or(0) > card
            }),
            on_missing: record.on_missing,
            ephemeral: record.ephemeral,
            in_motion: false,
        }
    }

    fn show(&self, live: &Live, reserved: &HashMap<String, u64>) -> Slice {
        let mut shown = self.show_record(&live.record, reserved);
        let picture = live.files.picture(live.processes.keys().copied());
        shown.in_motion = !picture.is_exact();
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
            device.used_bytes = picture.held(index).saturating_add_signed(device.measured_bytes);
            device.peak_bytes = device.peak_bytes.max(device.used_bytes);
        }
        shown.host_used_bytes = picture.held(HOST);
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
        let reserved = self.reserved(&inner);
        let mut all: Vec<Slice> =
            inner.slices.values().filter(|l| caller.sees(&l.record)).map(|l| self.show(l, &reserved)).collect();
        all.sort_by(|a, b| (&a.created_at, &a.name).cmp(&(&b.created_at, &b.name)));
        all
    }

    /// One slice, by name or id.
    pub fn get(&self, caller: &Caller, key: &str) -> Reply<Slice> {
        let inner = self.lock();
        let reserved = self.reserved(&inner);
        Ok(self.show(inner.seen(key, caller)?, &reserved))
    }

    /// Every process in the slices that the caller sees.
    pub fn processes(&self, caller: &Caller) -> Vec<Process> {
        self.list(caller).into_iter().flat_map(|s| s.processes).collect()
    }

    /// The GPUs.
    pub fn gpus(&self, caller: &Caller) -> Vec<Gpu> {
        let states: Vec<_> = (0..self.nvml.gpus().len())
            .map(|place| {
                (
                    self.nvml.memory(place).ok(),
                    self.nvml.processes(place).unwrap_or_default(),
                    self.nvml.utilization(place),
                )
            })
            .collect();
        let inner = self.lock();
        let tracked: std::collections::HashSet<u32> =
            inner.slices.values().flat_map(|l| l.processes.values().map(|m| m.pid)).collect();
        self.nvml
            .gpus()
            .iter()
            .zip(states)
            .map(|(gpu, (memory, processes, busy_percent))| {
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
                    slices,
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
            gpus: self.nvml.gpus().len(),
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

    /// Changes a slice. A lower limit is written first and use is read after, so that no grant slips in between.
    pub fn resize(&self, caller: &Caller, key: &str, change: SliceChange) -> Reply<Slice> {
        let mut inner = self.lock();
        let live = inner.seen(key, caller)?;
        if !caller.admin {
            return Err(forbidden("change slices"));
        }
        let id = live.record.id.clone();
        let changed = self.with_cards(&inner, |cards, records| {
            slice::change(&live.record, &change, cards, records, process::machine_memory())
        })?;
        let mut record = live.record.clone();
        let mut wanted: Vec<(usize, u64)> = changed.limits.iter().copied().enumerate().collect();
        if change.host_memory.is_some() {
            wanted.push((HOST, changed.host_limit_bytes.unwrap_or(cleave_ledger::UNLIMITED)));
        }
        let files = Arc::clone(&live.files);
        let before: Vec<(usize, u64)> = wanted.iter().map(|(d, bytes)| (*d, files.set_limit(*d, *bytes))).collect();
        let restore = || {
            for (device, bytes) in &before {
                files.set_limit(*device, *bytes);
            }
            files.changed();
        };
        for ((device, limit), (_, old)) in wanted.iter().zip(&before) {
            if limit >= old || change.force {
                continue;
            }
            // What is being asked for was perhaps granted by the old limit: wait until it is decided.
            let mut tries = 0;
            let used = loop {
                let (used, asked) = files.used(*device);
                if used > *limit || asked == 0 || tries == 20 {
                    break used;
                }
                tries += 1;
                std::thread::sleep(Duration::from_millis(1));
            };
            if used > *limit {
                restore();
                let what = if *device == HOST {
                    "of pinned host memory".to_owned()
                } else {
                    format!("on its device {device}")
                };
                return Err(ErrorBody::new(
                    ErrorCode::Refused,
                    format!(
                        "slice \"{}\" uses {} {what}, more than the {} asked for; its limit stays {}",
                        record.name,
                        format_bytes(used),
                        format_bytes(*limit),
                        format_bytes(*old)
                    ),
                    "end a process first, or force it: nothing is taken away then, but nothing more is granted",
                ));
            }
        }
        files.changed();
        let mut words = Vec::new();
        for (device, bytes) in record.devices.iter_mut().zip(&changed.limits) {
            if device.limit_bytes != *bytes {
                words.push(format!(
                    "GPU {}: {} instead of {}",
                    device.index,
                    format_bytes(*bytes),
                    format_bytes(device.limit_bytes)
                ));
            }
            device.limit_bytes = *bytes;
        }
        if record.compute_percent != changed.compute_percent {
            words.push(format!("compute: {} %", changed.compute_percent.unwrap_or(100.0)));
        }
        if record.host_limit_bytes != changed.host_limit_bytes {
            words.push(format!("pinned host memory: {}", changed.host_limit_bytes.map_or("any".into(), format_bytes)));
        }
        record.compute_percent = changed.compute_percent;
        record.host_limit_bytes = changed.host_limit_bytes;
        if let Err(error) = inner.store.put(&record) {
            restore();
            return Err(store_fault(error));
        }
        if let Some(live) = inner.slices.get_mut(&id) {
            live.record = record.clone();
        }
        let message = if words.is_empty() { "as it was".into() } else { words.join(", ") };
        inner.event("slice-resized", Some(&record), &format!("slice {}: {message}", record.name));
        let reserved = self.reserved(&inner);
        inner.slices.get(&id).map(|l| self.show(l, &reserved)).ok_or_else(|| unknown_slice(key))
    }

    /// Deletes a slice; with `force` its processes are killed first.
    pub async fn delete(self: &Arc<Self>, caller: &Caller, key: &str, force: bool) -> Reply<()> {
        let id = {
            let mut inner = self.lock();
            let live = inner.seen(key, caller)?;
            let (id, count) = (live.record.id.clone(), live.processes.len());
            if count > 0 && !force {
                let pids: Vec<String> = live.processes.values().take(8).map(|m| m.pid.to_string()).collect();
                return Err(ErrorBody::new(
                    ErrorCode::Conflict,
                    format!(
                        "slice \"{}\" has {count} running process{} (pid {})",
                        live.record.name,
                        if count == 1 { "" } else { "es" },
                        pids.join(", ")
                    ),
                    "end them first, or delete with --force, which kills them",
                ));
            }
            if count == 0 {
                return self.remove(&mut inner, &id, "deleted");
            }
            if let Some(live) = inner.slices.get_mut(&id) {
                live.deleting = true;
                for member in live.processes.values().filter(|m| !m.dead) {
                    let Some(pidfd) = &member.pidfd else { continue };
                    if let Err(error) = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
                        tracing::warn!("process {} can't be killed: {error}", member.pid);
                    }
                }
            }
            id
        };
        let began = Instant::now();
        loop {
            {
                let mut inner = self.lock();
                match inner.slices.get_mut(&id) {
                    // An ephemeral slice has gone with its last process by itself.
                    None => return Ok(()),
                    Some(live) if live.processes.is_empty() => return self.remove(&mut inner, &id, "deleted by force"),
                    Some(live) if began.elapsed() > KILL => {
                        live.deleting = false;
                        let pids: Vec<String> = live.processes.values().map(|m| m.pid.to_string()).collect();
                        return Err(ErrorBody::new(
                            ErrorCode::Conflict,
                            format!(
                                "slice \"{}\": process {} does not die within {} s",
                                live.record.name,
                                pids.join(", "),
                                KILL.as_secs()
                            ),
                            "it hangs in the driver; the slice stays until it is gone",
                        ));
                    }
                    Some(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes a slice without processes away: first the row, then the files.
    fn remove(&self, inner: &mut Inner, id: &str, how: &str) -> Reply<()> {
        inner.store.remove(id).map_err(store_fault)?;
        let Some(live) = inner.slices.remove(id) else { return Ok(()) };
        inner.names.remove(&live.record.name);
        inner.launchers.retain(|_, l| l.slice != id);
        live.doors.iter().for_each(AbortHandle::abort);
        if let Err(error) = live.files.remove() {
            tracing::warn!("the files of slice {}: {error}", live.record.name);
        }
        if let Some(dir) = &self.config.cdi_dir {
            cdi::remove(dir, &live.record.name);
        }
        if inner.slices.is_empty() {
            inner.idle_since = Some(Instant::now());
            self.wake.notify_one();
        }
        inner.event("slice-deleted", Some(&live.record), &format!("slice {} was {how}", live.record.name));
        Ok(())
    }

    /// How a program is put into a slice. Who asks is remembered: what it starts belongs there.
    pub fn launch(self: &Arc<Self>, caller: &Caller, key: &str) -> Reply<LaunchPlan> {
        let mut inner = self.lock();
        let live = inner.seen(key, caller)?;
        let plan = self.plan(live);
        let record = &live.record;
        let id = record.id.clone();
        let Some(asks) = caller.process() else { return Ok(plan) };
        let launcher = Launcher { start_time: asks.start_time, slice: id.clone() };
        let known = inner.launchers.insert(asks.pid, launcher.clone()).is_some_and(|known| known == launcher);
        if let Some(live) = inner.slices.get_mut(&id).filter(|live| live.record.ephemeral) {
            let before = live.record.holder;
            // Whom it waits for already is waited for until its end.
            if before.is_none_or(|h| h.is(&asks) || !process::is_alive(h.pid, h.start_time)) {
                live.record.holder = Some(Holder { launched: true, ..asks });
            }
            if live.record.holder != before {
                inner.keep(&id);
            }
            if before.is_some_and(|h| h.is(&asks)) {
                return Ok(plan);
            }
        }
        if !known {
            self.watch_holder(asks, id);
        }
        Ok(plan)
    }

    /// Waits for the end of a process that made an ephemeral slice, or launches a program in a slice.
    fn watch_holder(self: &Arc<Self>, holder: Holder, id: String) {
        let node = Arc::clone(self);
        let Holder { pid, start_time, .. } = holder;
        let pidfd = open_pidfd(pid, start_time);
        tokio::spawn(async move {
            match pidfd {
                Some(pidfd) => until_end(pidfd).await,
                // It is gone, or there was no descriptor left to watch it with.
                None => {
                    while process::is_alive(pid, start_time) {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            let mut inner = node.lock();
            if inner.launchers.get(&pid).is_some_and(|l| l.start_time == start_time && l.slice == id) {
                inner.launchers.remove(&pid);
            }
            node.end_if_over(&mut inner, &id);
        });
    }

    /// Deletes an ephemeral slice that nothing runs in any more, and that nobody is about to run something in.
    fn end_if_over(&self, inner: &mut Inner, id: &str) {
        let Some(live) = inner.slices.get(id) else { return };
        let nobody_comes = || live.record.holder.is_some_and(|h| !process::is_alive(h.pid, h.start_time));
        let over = live.record.ephemeral
            && live.processes.is_empty()
            && !inner.launchers.values().any(|l| l.slice == id)
            && (live.record.started || nobody_comes());
        if over && let Err(error) = self.remove(inner, id, "deleted: nothing runs in it, and nobody launches anything")
        {
            tracing::warn!("{error}");
        }
    }

    fn plan(&self, live: &Live) -> LaunchPlan {
        let text = |path: std::path::PathBuf| path.display().to_string();
        let library_dir = self.run.library_dir();
        let library = text(library_dir.join(crate::gpu::STAND_IN));
        // Within the slice devices are numbered from 0, as frameworks that read this variable expect; the stand-in says
        // which ones they are. A program that may run without the daemon has nobody to translate for it.
        let devices = &live.record.devices;
        let visible: Vec<String> = match live.record.on_missing {
            OnMissing::Refuse => (0..devices.len()).map(|index| index.to_string()).collect(),
            OnMissing::Allow => devices.iter().map(|device| device.uuid.clone()).collect(),
        };
        let environment = [
            ("LD_PRELOAD", library.clone()),
            ("LD_LIBRARY_PATH", text(library_dir.clone())),
            (wire::SOCKET_VARIABLE, text(live.files.socket())),
            ("CLEAVE_SLICE", live.record.name.clone()),
            ("CLEAVE_DRIVER_DIR", text(self.run.driver_dir())),
            ("CUDA_VISIBLE_DEVICES", visible.join(",")),
        ];
        LaunchPlan {
            id: live.record.id.clone(),
            name: live.record.name.clone(),
            library_dir: text(library_dir),
            library,
            socket_dir: text(live.files.socket_dir()),
            driver_dir: text(self.run.driver_dir()),
            real_libraries: self.driver.real.iter().map(|(n, p)| (n.clone(), p.display().to_string())).collect(),
            covers: self.driver.covers.iter().map(|p| p.display().to_string()).collect(),
            environment: environment.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }

    /// The slice as a CDI spec.
    pub fn cdi(&self, caller: &Caller, key: &str) -> Reply<serde_json::Value> {
        let inner = self.lock();
        Ok(self.cdi_spec(inner.seen(key, caller)?))
    }

    fn cdi_spec(&self, live: &Live) -> serde_json::Value {
        let gpus: Vec<&GpuInfo> = live.gpus.iter().flatten().filter_map(|p| self.nvml.gpus().get(*p)).collect();
        cdi::spec(&cdi::Parts {
            plan: &self.plan(live),
            socket_dir: &live.files.guest_dir().display().to_string(),
            minors: gpus.iter().map(|g| g.minor).collect(),
            driver_version: &self.nvml.driver_version(),
            simulated: self.config.sim.is_some(),
        })
    }

    fn write_cdi(&self, inner: &mut Inner, record: &Record) {
        let Some(dir) = &self.config.cdi_dir else { return };
        let Some(live) = inner.slices.get(&record.id) else { return };
        if let Err(error) = cdi::write(dir, &record.name, &self.cdi_spec(live)) {
            let message = format!("containers can't use slice {}: its CDI spec can't be written: {error}", record.name);
            inner.event("warning", Some(record), &message);
        }
    }

    /// Gives a process a slot: its number and the two descriptors, or the status to answer.
    pub fn register(self: &Arc<Self>, id: &str, peer: &Peer, own_pid: u32) -> Result<(u32, OwnedFd, OwnedFd), u32> {
        let mut inner = self.lock();
        let Some(live) = inner.slices.get_mut(id).filter(|l| !l.deleting) else { return Err(wire::status::GONE) };
        let Some(slot) = (0..SLOTS).find(|slot| !live.processes.contains_key(slot)) else {
            return Err(wire::status::FULL);
        };
        let files = Arc::clone(&live.files);
        let room = files.make_room(slot).and_then(|()| self.run.descriptors(&files));
        let (policy, usage) = match room {
            Ok(fds) => fds,
            Err(error) => {
                let record = live.record.clone();
                let message = format!("no room for the account of process {}: {error}", peer.pid);
                inner.event("warning", Some(&record), &message);
                return Err(wire::status::NO_ROOM);
            }
        };
        files.take(slot, peer.pid, own_pid, peer.stat.start_time);
        let member = Member {
            pid: peer.pid,
            own_pid,
            start_time: peer.stat.start_time,
            uid: Some(peer.uid),
            command: process::command(peer.pid).unwrap_or_default(),
            since: process::now(),
            dead: false,
            image: peer.stat.image,
            last: (Reading::default(), Instant::now()),
            denied_seen: 0,
            peak_bytes: 0,
            measured: 0,
            pidfd: Some(Arc::clone(&peer.pidfd)),
        };
        let message = format!("{} (pid {}) runs in slot {slot}", member.command, member.pid);
        live.processes.insert(slot, member);
        let first = !live.record.started;
        live.record.started = true;
        let record = live.record.clone();
        if first {
            inner.keep(id);
        }
        inner.event("process-started", Some(&record), &message);
        drop(inner);
        self.watch(id, slot, peer.pid, peer.stat.start_time, &peer.pidfd);
        self.wake.notify_one();
        Ok((slot as u32, policy, usage))
    }

    /// Takes a slot back whose descriptors never reached the process.
    pub fn unregister(self: &Arc<Self>, id: &str, slot: u32, peer: &Peer) {
        let mut inner = self.lock();
        let Some(live) = inner.slices.get_mut(id) else { return };
        let slot = slot as usize;
        if live.processes.get(&slot).is_some_and(|m| m.pid == peer.pid && !m.dead) {
            live.files.free(slot);
            live.processes.remove(&slot);
            self.end_if_over(&mut inner, id);
        }
    }

    fn watch(self: &Arc<Self>, id: &str, slot: usize, pid: u32, start_time: u64, pidfd: &OwnedFd) {
        let Ok(pidfd) = pidfd.try_clone() else { return };
        let (node, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            until_end(pidfd).await;
            node.ended(&id, slot, pid, start_time).await;
        });
    }

    /// A process is gone: waits until the driver has let go of its memory, then frees its slot.
    pub async fn ended(self: &Arc<Self>, id: &str, slot: usize, pid: u32, start_time: u64) {
        let places: Vec<usize> = {
            let mut inner = self.lock();
            let Some(live) = inner.slices.get_mut(id) else { return };
            let Some(member) = live.processes.get_mut(&slot) else { return };
            if member.dead || (member.pid, member.start_time) != (pid, start_time) {
                return;
            }
            member.dead = true;
            live.files.mark_dead(slot);
            live.gpus.iter().flatten().copied().collect()
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
        live.files.free(slot);
        let again = live.processes.values().any(|m| m.pid == pid && m.start_time == start_time && !m.dead);
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

    /// Measures a process on its own demand: `estimate` bytes of its account are to be replaced. Gives what NVML says.
    pub fn measure(&self, id: &str, peer: &Peer, device: usize, estimate: u64) -> Result<u64, u32> {
        for _ in 0..8 {
            let (files, slots, place, generation) = {
                let inner = self.lock();
                let live = inner.slices.get(id).ok_or(wire::status::GONE)?;
                let mine = |m: &Member| m.pid == peer.pid && m.start_time == peer.stat.start_time && !m.dead;
                let slots: Vec<usize> = live.processes.iter().filter(|(_, m)| mine(m)).map(|(s, _)| *s).collect();
                let first = slots.first().and_then(|s| live.processes.get(s)).ok_or(wire::status::DENIED)?;
                let place = live.gpus.get(device).copied().flatten().ok_or(wire::status::UNMEASURED)?;
                (Arc::clone(&live.files), slots.clone(), place, first.measured)
            };
            let before: Vec<Reading> = slots.iter().map(|s| files.read(*s)).collect();
            let list = self.nvml.processes(place).map_err(|_| wire::status::UNMEASURED)?;
            let shown = list.iter().find(|(pid, _)| *pid == peer.pid).map(|(_, bytes)| *bytes);
            let after: Vec<Reading> = slots.iter().map(|s| files.read(*s)).collect();
            let Some(Some(bytes)) = shown else { return Err(wire::status::UNMEASURED) };
            // Other threads of the process go on allocating; a picture with the same versions before and after is true.
            if !before.iter().zip(&after).all(|(a, b)| a.same(b, device) && a.adds_up(device)) {
                continue;
            }
            let visible = after.iter().fold(0u64, |sum, r| sum.saturating_add(r.visible(device)));
            let difference = difference(bytes, visible.saturating_sub(estimate));
            let mut inner = self.lock();
            let live = inner.slices.get_mut(id).ok_or(wire::status::GONE)?;
            let Some(first) = slots.first() else { return Err(wire::status::DENIED) };
            let Some(member) = live.processes.get_mut(first) else { return Err(wire::status::DENIED) };
            if member.measured != generation || member.dead {
                continue;
            }
            member.measured += 1;
            // The whole process's difference stands at its first slot.
            files.set_adjust(*first, device, difference);
            for other in slots.iter().skip(1) {
                files.set_adjust(*other, device, 0);
            }
            drop(inner);
            self.wake.notify_one();
            return Ok(bytes);
        }
        Err(wire::status::UNMEASURED)
    }

    /// Brings back what the database holds, adopts the processes that are still there, and removes what belongs to
    /// nobody.
    pub fn adopt(self: &Arc<Self>) -> anyhow::Result<()> {
        let records = self.lock().store.slices()?;
        for id in self.run.slice_ids()? {
            if !records.iter().any(|r| r.id == id) {
                tracing::info!("removing the files of {id}, which is no slice");
                let _ = std::fs::remove_dir_all(self.run.slice_dir(&id));
            }
        }
        if let Some(dir) = &self.config.cdi_dir {
            cdi::clean(dir, |name| records.iter().any(|r| r.name == name));
        }
        for record in records {
            if let Err(error) = self.adopt_slice(&record) {
                let message = format!("slice {} can't be brought back: {error}", record.name);
                self.lock().event("warning", Some(&record), &message);
            }
        }
        let mut inner = self.lock();
        let message = format!(
            "cleave {} runs with driver {}, {} GPUs, {} slices",
            env!("CARGO_PKG_VERSION"),
            self.nvml.driver_version(),
            self.nvml.gpus().len(),
            inner.slices.len()
        );
        inner.event("daemon-started", None, &message);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    fn adopt_slice(self: &Arc<Self>, record: &Record) -> io::Result<()> {
        let facts = self.facts(&self.lock().store, record);
        let there = self.run.slice_dir(&record.id).exists();
        let files = match SliceFiles::open(&self.run, record, &facts) {
            Some(files) => files,
            None => {
                if there {
                    let message = format!(
                        "the ledger of slice {} is not of this version, or damaged: it was made anew; programs that still run in it are not counted",
                        record.name
                    );
                    self.lock().event("warning", Some(record), &message);
                    std::fs::remove_dir_all(self.run.slice_dir(&record.id))?;
                }
                SliceFiles::create(&self.run, record, &facts)?
            }
        };
        let mut live = self.open_doors(record.clone(), files)?;
        let mut gone = Vec::new();
        let mut watched = Vec::new();
        for (slot, book) in live.files.policy.book.iter().enumerate() {
            let state = book.state.load(SeqCst);
            if state == owner::FREE {
                continue;
            }
            let (pid, start_time) = (book.host_pid.load(SeqCst), book.start_time.load(SeqCst));
            let pidfd = if state == owner::LIVE { open_pidfd(pid, start_time) } else { None };
            let stat = process::stat(pid).filter(|s| s.start_time == start_time);
            let pidfd = pidfd.map(Arc::new);
            let alive = pidfd.is_some();
            let member = Member {
                pid,
                own_pid: book.own_pid.load(SeqCst),
                start_time,
                uid: process::uid(pid).filter(|_| alive),
                command: process::command(pid).filter(|_| alive).unwrap_or_else(|| format!("process {pid}")),
                since: process::started_at(start_time).unwrap_or_else(process::now),
                dead: false,
                image: stat.map_or([0; 4], |s| s.image),
                last: (live.files.read(slot), Instant::now()),
                denied_seen: live.files.read(slot).denied,
                peak_bytes: 0,
                measured: 0,
                pidfd: pidfd.clone(),
            };
            match pidfd {
                Some(pidfd) => watched.push((slot, pid, start_time, pidfd)),
                None => gone.push((slot, pid, start_time)),
            }
            live.processes.insert(slot, member);
        }
        let mut inner = self.lock();
        self.insert(&mut inner, live);
        if !watched.is_empty() {
            let message = format!("slice {} goes on with {} running processes", record.name, watched.len());
            inner.event("adopted", Some(record), &message);
        }
        self.write_cdi(&mut inner, record);
        if let Some(holder) = record.holder {
            if holder.launched && process::is_alive(holder.pid, holder.start_time) {
                let launcher = Launcher { start_time: holder.start_time, slice: record.id.clone() };
                inner.launchers.insert(holder.pid, launcher);
            }
            self.watch_holder(holder, record.id.clone());
        }
        self.end_if_over(&mut inner, &record.id);
        drop(inner);
        for (slot, pid, start_time, pidfd) in watched {
            self.watch(&record.id, slot, pid, start_time, &pidfd);
        }
        for (slot, pid, start_time) in gone {
            let (node, id) = (Arc::clone(self), record.id.clone());
            tokio::spawn(async move { node.ended(&id, slot, pid, start_time).await });
        }
        Ok(())
    }

    /// Whether a private daemon has nothing left to do.
    pub fn is_over(&self) -> bool {
        let inner = self.lock();
        let patience = if inner.had_slice { Duration::from_secs(2) } else { Duration::from_secs(30) };
        self.config.private && inner.idle_since.is_some_and(|since| since.elapsed() >= patience)
    }
}

/// `shown` less `counted`, as a number that may be negative.
pub fn difference(shown: u64, counted: u64) -> i64 {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(shown).saturating_sub(signed(counted))
}

/// What a slot holds on all devices together.
pub fn total(live: &Live, slot: usize, reading: &Reading) -> u64 {
    (0..live.record.devices.len())
        .fold(0, |sum, d| sum.saturating_add(reading.held(d).saturating_add_signed(live.files.adjust(slot, d))))
}

/// Raises the slice's peaks to what is in use now.
pub fn note_use(live: &mut Live) {
    let picture = live.files.picture(live.processes.keys().copied());
    for (index, device) in live.record.devices.iter_mut().enumerate() {
        let adjust = live.processes.keys().fold(0i64, |sum, s| sum.saturating_add(live.files.adjust(*s, index)));
        device.peak_bytes = device.peak_bytes.max(picture.held(index).saturating_add_signed(adjust));
    }
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
        state: match stat {
            _ if member.dead => "exiting",
            None => "exiting",
            Some(stat) if matches!(stat.state, 'T' | 't') => "stopped",
            Some(_) => "running",
        }
        .into(),
    }
}

fn pidfd_flags() -> rustix::process::PidfdFlags {
    rustix::process::PidfdFlags::NONBLOCK
}

/// A descriptor of the process that `pid` and `start_time` name, if it is alive.
pub fn open_pidfd(pid: u32, start_time: u64) -> Option<OwnedFd> {
    let pid_t = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid_t, pidfd_flags()).ok()?;
    // Read after it was opened: if the process is the one that we mean, the descriptor is of that one.
    process::stat(pid).filter(|s| s.start_time == start_time && s.state != 'Z').map(|_| pidfd)
}

/// Waits until the process has ended.
async fn until_end(pidfd: OwnedFd) {
    let second = pidfd.try_clone();
    match os::awaitable(pidfd, tokio::io::Interest::READABLE) {
        Ok(fd) => {
            drop(second);
            let _ = fd.readable().await;
        }
        Err(error) => {
            // No room in epoll: look now and then instead.
            tracing::warn!("a process can't be watched: {error}");
            let Ok(pidfd) = second else { return };
            use rustix::event::{PollFd, PollFlags, poll};
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&none)).is_ok_and(|n| n == 0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
