//! The node: its slices and what is done with them. Rules are in `slice`, files in `files`; here they come together,
//! one concern a module.
//!
//! One lock guards the slices. It is never held over a call that may block for long (NVML, a probe, waiting for a
//! process to die), and the ledgers themselves need no lock.
mod adopt;
mod drain;
mod launch;
mod measure;
mod members;
mod mig;
mod mig_slices;
mod show;
mod slices;
mod suspend;
mod time;
mod whole;

pub use launch::Launcher;
pub use measure::{difference, note_use, total};
pub use members::{Inhabitant, Member, Peer, Registered};
pub use suspend::run as wake_wanted;

use crate::config::Config;
use crate::engine::{self, Means, Place};
use crate::files::{RunDir, SliceFiles};
use crate::gpu::{DriverFiles, Nvml};
use crate::inventory;
use crate::mps::{self, Domains};
use crate::process;
use crate::slice::{self, Holder, Record};
use crate::store::{Store, StoreError};
use crate::turns::Desk;
use cleave_api::{Device, ErrorBody, ErrorCode};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

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
    /// NVIDIA's GPUs.
    pub nvml: Box<dyn Nvml>,
    /// Other makers' devices, as they were found at the start.
    pub others: Vec<Device>,
    /// Where the real driver is.
    pub driver: DriverFiles,
    /// Where the files are.
    pub run: RunDir,
    /// The MPS servers.
    pub mps: Domains,
    /// Locked over everything that changes MIG instances or promises them to slices.
    mig_trouble: Mutex<mig::Trouble>,
    /// Who shares out the time of each GPU, in NVML's order.
    pub desks: Vec<Arc<Desk>>,
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
    /// Device time of the slices that are gone, by the GPU's UUID.
    gone: HashMap<String, u64>,
    /// Counts up before and after each change of MIG modes.
    pub modes: u64,
    /// Programs that asked for a launch plan: they, and what they start, belong to a slice.
    pub launchers: HashMap<u32, Launcher>,
    /// UUIDs of the GPUs that are being drained.
    pub draining: HashSet<String>,
    /// When the last slice went; `None` while there is one.
    idle_since: Option<Instant>,
    had_slice: bool,
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
    /// Who looks after its time where it shares no GPU: that of its MIG instance.
    pub desk: Option<Arc<Desk>>,
    /// Its memory is being taken off its GPUs, or brought back.
    moving: bool,
    /// The multiprocessors that its last program was given for its own.
    place: Option<Place>,
    /// What is known of its operations' length is of an earlier program.
    longest_is_old: bool,
    /// Its watchdog has put it into the lowest class.
    pub lowered: bool,
    /// When its usage file was last found cut or grown.
    pub mended_at: Option<Instant>,
    /// What listens on its sockets.
    doors: [AbortHandle; 2],
    deleting: bool,
}

impl Live {
    /// Kills its processes; they are gone a little later.
    fn kill(&self) {
        for member in self.processes.values().filter(|member| member.dead.is_none()) {
            let Some(pidfd) = &member.pidfd else { continue };
            if let Err(error) = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
                tracing::warn!("process {} can't be killed: {error}", member.pid);
            }
        }
    }
}

/// Where MPS is looked for: a simulated driver brings its own.
fn mps_dirs(config: &Config, run: &RunDir) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match (&config.mps_dir, &config.sim) {
        (Some(dir), _) => vec![dir.clone()],
        (None, Some(_)) => vec![run.driver_dir()],
        (None, None) => {
            std::env::split_paths(&path).filter(|dir| dir.is_absolute()).chain(["/usr/bin".into()]).collect()
        }
    }
}

/// Turns a fault of the database into an answer.
pub fn store_fault(error: StoreError) -> ErrorBody {
    let code = match error {
        StoreError::Full => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    ErrorBody::new(code, error.to_string(), "")
}

fn unknown_slice(key: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::NotFound,
        format!("there is no slice \"{key}\""),
        "`cleave slice list` shows what there is",
    )
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

    /// Part of the multiprocessors for the next program of a spatial slice, in percent, and why it is not all.
    fn processors(&self, record: &Record) -> Option<(f64, Option<String>)> {
        let domain = engine::domain(record)?;
        let others = self.slices.values().map(|live| &live.record);
        let others = others.filter(|other| other.id != record.id && engine::domain(other) == Some(domain));
        Some(engine::processors(record, others))
    }

    /// Gives the next program of a slice multiprocessors that no other slice of its trust domain has, if it is to have a
    /// part of them and there is room. Gives the slices that no longer keep what they were given.
    ///
    /// `smallest`: the least part that can be a place on its GPU, if the driver gives those.
    fn settle(&mut self, id: &str, smallest: Option<u16>) -> Vec<Record> {
        let Some(live) = self.slices.get(id) else { return Vec::new() };
        let Some((part, _)) = self.processors(&live.record) else { return Vec::new() };
        let domain = engine::domain(&live.record);
        let places =
            |live: &Live| live.processes.values().filter(|m| m.dead.is_none()).filter_map(|m| m.place).collect();
        let (mut taken, mut passed) = (Vec::new(), Vec::new());
        for other in
            self.slices.values().filter(|other| other.record.id != id && engine::domain(&other.record) == domain)
        {
            let running: Vec<Place> = places(other);
            taken.extend(running);
            // What it was given last is kept for its next program, while that is to have a part.
            match self.processors(&other.record).is_some_and(|(part, _)| part < 100.0) {
                true => taken.extend(other.place),
                false => passed.extend(other.place.map(|_| other.record.clone())),
            }
        }
        let own: Vec<Place> = places(live);
        let before = live.place.or(own.first().copied());
        let place = smallest.and_then(|least| Place::find(slice::thousandths(part), least, before, &taken));
        let gone = passed.iter().map(|record| (record.id.as_str(), None));
        for (id, place) in gone.chain([(id, place)]) {
            if let Some(live) = self.slices.get_mut(id) {
                live.place = place;
            }
        }
        passed
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
        let desks = nvml.gpus().iter().map(|_| Arc::new(Desk::new(config.window_ms))).collect();
        let others = inventory::others(&inventory::root(&config, &run), &*nvml);
        let mps = Domains::new(&run.path, mps::find(&mps_dirs(&config, &run)));
        Arc::new(Self {
            mps,
            mig_trouble: Mutex::default(),
            config,
            desks,
            nvml,
            others,
            driver,
            run,
            started_at: process::now(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            inner: Mutex::new(Inner {
                draining: HashSet::new(),
                slices: HashMap::new(),
                names: HashMap::new(),
                store,
                gone: HashMap::new(),
                modes: 0,
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

    /// What decides on engines besides the GPU and the slice.
    pub(crate) fn means(&self) -> Means<'_> {
        Means { mps: self.mps.program.as_ref().map(|_| ()).map_err(String::as_str), wish: self.config.engine }
    }

    /// Which engines each GPU can run, and what can be moved off it.
    pub fn modes(&self) -> Vec<cleave_api::GpuModes> {
        let driver = self.nvml.driver_version();
        let nvidia = self.gpus_now();
        nvidia.iter().map(|gpu| engine::modes(gpu, self.means(), &driver)).chain(self.other_modes()).collect()
    }

    /// Who looks after a slice's time on the GPU at a place.
    pub fn desk(&self, live: &Live, place: Option<usize>) -> Option<Arc<Desk>> {
        live.desk.clone().or_else(|| self.desks.get(place?).cloned())
    }

    /// The GPU with this UUID.
    pub fn place(&self, uuid: &str) -> Option<usize> {
        self.nvml.gpus().iter().position(|g| g.uuid == uuid)
    }

    /// Whether a private daemon has nothing left to do.
    pub fn is_over(&self) -> bool {
        let inner = self.lock();
        let patience = if inner.had_slice { Duration::from_secs(2) } else { Duration::from_secs(30) };
        self.config.private && inner.idle_since.is_some_and(|since| since.elapsed() >= patience)
    }
}
