//! A slice's life: made, changed, deleted. What may be is decided in [`crate::slice`].
use super::whole::not_of_whole;
use super::{Caller, Inner, Live, Node, Reply, store_fault, unknown_slice};
use crate::cdi;
use crate::engine;
use crate::files::SliceFiles;
use crate::gpu::{GpuInfo, format_uuid};
use crate::mps;
use crate::process;
use crate::register::{self, Admits};
use crate::slice::{self, Admitted, Card, Record, RecordDevice};
use crate::turns::Desk;
use cleave_api::{Engine, ErrorBody, ErrorCode, Slice, SliceChange, SliceSpec, SuspendAfter, format_bytes};
use cleave_ledger::HOST;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Longest wait for the processes of a slice that is deleted by force.
const KILL: Duration = Duration::from_secs(10);

impl Node {
    /// Runs `f` with the cards, as a slice of this engine sees them, and the slices' records.
    pub(super) fn with_cards<T>(
        &self,
        inner: &Inner,
        gpus: &[GpuInfo],
        engine: Engine,
        f: impl FnOnce(&[Card<'_>], &[&Record]) -> T,
    ) -> T {
        let cards: Vec<Card<'_>> = gpus
            .iter()
            .map(|info| Card {
                info,
                context_bytes: self.cost(&inner.store, info).map(|c| c.context_bytes),
                can: engine::obstacle(info, engine, self.means()).is_none(),
                draining: inner.draining.contains(&info.uuid),
            })
            .collect();
        f(&cards, &inner.records())
    }

    /// Makes a slice; with `dry_run` only says what it would be.
    pub async fn create(self: &Arc<Self>, caller: &Caller, spec: SliceSpec, dry_run: bool) -> Reply<Slice> {
        let made = self.create_all(caller, spec, None, dry_run).await?.pop();
        made.ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "nothing was made", ""))
    }

    /// Makes one slice, or `count` alike whose names are numbered from 0: all of them or none.
    pub async fn create_all(
        self: &Arc<Self>,
        caller: &Caller,
        mut spec: SliceSpec,
        count: Option<u32>,
        dry_run: bool,
    ) -> Reply<Vec<Slice>> {
        if !caller.admin {
            return Err(forbidden("create slices"));
        }
        spec.oversubscribe.get_or_insert(self.config.oversubscribe);
        let owner = match &spec.owner {
            None => caller.uid,
            Some(text) => process::user_id(text).ok_or_else(|| {
                ErrorBody::new(ErrorCode::NotFound, format!("there is no user \"{text}\""), "give a name or a number")
            })?,
        };
        if let Some(domain) = &spec.trust_domain {
            slice::check_name(domain).map_err(|e| ErrorBody {
                message: e.message.replace("a slice's name", "a trust domain's name"),
                ..e
            })?;
        }
        if let Some(made) = self.try_whole(caller, &spec, owner, (count, dry_run))? {
            return Ok(vec![made]);
        }
        if count.is_some() && spec.engine == Engine::Mig {
            return Err(ErrorBody::new(
                ErrorCode::Invalid,
                "slices alike can't be of engine mig: each has an instance of its own",
                "make them one by one, or leave the engine to the daemon",
            ));
        }
        if count.is_none()
            && let Some(made) = self.try_mig(caller, &spec, owner, dry_run).await?
        {
            return Ok(vec![made]);
        }
        let modes = self.lock().modes;
        let now = self.gpus_now();
        let admit = |inner: &Inner| {
            self.with_cards(inner, &now, spec.engine, |cards, records| {
                let taken = |name: &str| inner.names.contains_key(name);
                let placement = self.config.placement;
                let terms = slice::Terms { machine_bytes: process::machine_memory(), placement };
                slice::admit(&spec, count, cards, records, terms, some_name(), taken)
            })
        };
        let first = admit(&self.lock())?;
        if !dry_run {
            for (place, _) in
                first.devices.iter().filter(|(place, _)| now.get(*place).is_some_and(|gpu| gpu.mig != Some(true)))
            {
                self.measure_context(*place).await;
            }
        }
        let mut inner = self.lock();
        if modes % 2 == 1 || inner.modes != modes {
            let message = "the MIG mode of GPUs is being changed";
            return Err(ErrorBody::new(ErrorCode::Conflict, message, "try again in a moment"));
        }
        let admitted = admit(&inner)?;
        let gpus: Vec<&GpuInfo> = admitted.devices.iter().filter_map(|(place, _)| now.get(*place)).collect();
        let wish = engine::Wish {
            engine: spec.engine,
            domain: spec.trust_domain.as_deref(),
            share: admitted.compute_percent.is_some(),
        };
        let (choice, trust_domain) = engine::choose(wish, &gpus, self.means())?;
        check_rest(spec.suspend_after, choice.engine)?;
        let devices = admitted.devices.iter().filter_map(|(place, limit_bytes)| {
            let gpu = self.nvml.gpus().get(*place)?;
            let (uuid, limit_bytes) = (gpu.uuid.clone(), *limit_bytes);
            Some(RecordDevice { uuid, index: gpu.index, limit_bytes, ..RecordDevice::default() })
        });
        let devices = devices.collect();
        let alike = Record { devices, choice, trust_domain, ..record_of(caller, &spec, owner, &admitted) };
        let record = |name: String| {
            let uuid = new_uuid().ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "no random numbers", ""))?;
            Ok(Record { id: format!("SLICE-{}", format_uuid(uuid)), name, ..alike.clone() })
        };
        let records = admitted.names.into_iter().map(record).collect::<Reply<Vec<Record>>>()?;
        if !dry_run {
            self.make(&mut inner, &records)?;
        }
        let around = self.around(&inner, &alike);
        Ok(records.iter().map(|record| self.show_made(&inner, record, &around)).collect())
    }

    /// Makes slices alike, all or none.
    pub(super) fn make(self: &Arc<Self>, inner: &mut Inner, records: &[Record]) -> Reply<()> {
        let Some(first) = records.first() else { return Ok(()) };
        if let Some(key) = engine::domain(first) {
            // A container that is given the slice has its folder mounted, whenever it starts.
            let made = self.mps.get(&key.folder(), first.owner).prepare();
            made.map_err(|e| file_fault(&format!("slice \"{}\" can't be made", first.name), &e))?;
        }
        // First the rows, then the files: a crash in between leaves slices whose files are made at the next start.
        inner.store.put_all(records).map_err(store_fault)?;
        let facts = self.facts(&inner.store, first);
        let mut made: Vec<Live> = Vec::new();
        for record in records {
            let files = SliceFiles::create(&self.run, record, &facts);
            match files.and_then(|files| self.open_doors(record.clone(), files)) {
                Ok(live) => made.push(live),
                Err(error) => {
                    made.iter().flat_map(|live| &live.doors).for_each(AbortHandle::abort);
                    let _ = inner.store.remove_all(records);
                    for record in records {
                        let _ = std::fs::remove_dir_all(self.run.slice_dir(&record.id));
                    }
                    return Err(file_fault(&format!("slice \"{}\" can't be made", record.name), &error));
                }
            }
        }
        let gpus = made.first().map(|live| live.gpus.clone()).unwrap_or_default();
        made.into_iter().for_each(|live| self.insert(inner, live));
        // What they are promised, those without a share of their own have no more.
        self.arrange(inner, &gpus);
        let shares: Vec<String> =
            first.devices.iter().map(|d| format!("{} of GPU {}", format_bytes(d.limit_bytes), d.index)).collect();
        for record in records {
            let instance = record.mig.as_ref().map_or(String::new(), |held| format!(", in {}", held.place.profile));
            let message = format!("slice {} has {}{instance}", record.name, shares.join(", "));
            inner.event("slice-created", Some(record), &message);
            self.write_cdi(inner, record);
            if let Some(holder) = record.holder {
                self.watch_holder(holder, record.id.clone());
            }
        }
        self.write_domain(inner, first);
        Ok(())
    }

    pub(super) fn insert(&self, inner: &mut Inner, live: Live) {
        inner.had_slice = true;
        inner.idle_since = None;
        inner.names.insert(live.record.name.clone(), live.record.id.clone());
        inner.slices.insert(live.record.id.clone(), live);
    }

    /// Binds a slice's sockets and listens.
    pub(super) fn open_doors(self: &Arc<Self>, record: Record, files: SliceFiles) -> io::Result<Live> {
        let owners = register::listen(self, &record.id, Admits::User(record.owner), &files.socket())?;
        let guests = register::listen(self, &record.id, Admits::Anyone, &files.guest_socket())
            .inspect_err(|_| owners.abort())?;
        let gpus = record.devices.iter().map(|d| self.place(&d.uuid)).collect();
        let desk = record.mig.is_some().then(|| Arc::new(Desk::new(self.config.window_ms)));
        Ok(Live {
            record,
            files: Arc::new(files),
            processes: BTreeMap::new(),
            gpus,
            desk,
            denied_at: None,
            moving: false,
            place: None,
            longest_is_old: false,
            lowered: false,
            mended_at: None,
            doors: [owners, guests],
            deleting: false,
        })
    }

    /// Changes a slice. A lower limit is written first and use is read after, so that no grant slips in between.
    pub fn resize(&self, caller: &Caller, key: &str, mut change: SliceChange) -> Reply<Slice> {
        change.oversubscribe.get_or_insert(self.config.oversubscribe);
        let mut now = self.gpus_now();
        let mut inner = self.lock();
        let live = inner.seen(key, caller)?;
        if !caller.admin {
            return Err(forbidden("change slices"));
        }
        not_of_whole(&live.record, "changed")?;
        check_rest(change.suspend_after.unwrap_or_default(), live.record.choice.engine)?;
        let id = live.record.id.clone();
        if let (Some(held), Some(device)) = (&live.record.mig, live.record.devices.first()) {
            now.iter_mut().filter(|gpu| gpu.uuid == device.uuid).for_each(|gpu| gpu.memory_bytes = held.memory_bytes);
        }
        let changed = self.with_cards(&inner, &now, live.record.choice.engine, |cards, records| {
            // Nobody else has anything of its instance.
            let mine = [&live.record];
            let records = if live.record.mig.is_some() { &mine[..] } else { records };
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
        if record.mode != changed.mode {
            words.push(format!("mode {} instead of {}", changed.mode, record.mode));
        }
        if record.priority != changed.priority {
            words.push(format!("priority {} instead of {}", changed.priority, record.priority));
        }
        if record.burst_ms != changed.burst_ms {
            words.push(changed.burst_ms.map_or("no burst".into(), |ms| format!("burst: {ms} ms")));
        }
        let suspend_after = change.suspend_after.unwrap_or(record.suspend_after);
        if record.suspend_after != suspend_after {
            words.push(format!("suspended after {suspend_after} instead of {}", record.suspend_after));
        }
        record.suspend_after = suspend_after;
        let watchdog = change.watchdog.unwrap_or(record.watchdog);
        if record.watchdog != watchdog {
            words.push(format!("watchdog {watchdog} instead of {}", record.watchdog));
        }
        if record.host_limit_bytes != changed.host_limit_bytes {
            words.push(format!("pinned host memory: {}", changed.host_limit_bytes.map_or("any".into(), format_bytes)));
        }
        record.compute_percent = changed.compute_percent;
        (record.mode, record.priority, record.burst_ms) = (changed.mode, changed.priority, changed.burst_ms);
        (record.watchdog, record.host_limit_bytes) = (watchdog, changed.host_limit_bytes);
        if let Err(error) = inner.store.put(&record) {
            restore();
            return Err(store_fault(error));
        }
        if let Some(live) = inner.slices.get_mut(&id) {
            live.record = record.clone();
            let gpus = live.gpus.clone();
            self.arrange(&inner, &gpus);
        }
        let message = if words.is_empty() { "as it was".into() } else { words.join(", ") };
        self.write_domain(&mut inner, &record);
        inner.event("slice-resized", Some(&record), &format!("slice {}: {message}", record.name));
        let around = self.around(&inner, &record);
        inner.slices.get(&id).map(|l| self.show(l, &around)).ok_or_else(|| unknown_slice(key))
    }

    /// Deletes a slice; with `force` its processes are killed first.
    pub async fn delete(self: &Arc<Self>, caller: &Caller, key: &str, force: bool) -> Reply<()> {
        let record = {
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
            let record = live.record.clone();
            if count == 0 {
                self.remove(&mut inner, &id, "deleted")?;
            } else if let Some(live) = inner.slices.get_mut(&id) {
                live.deleting = true;
                live.kill();
            }
            record
        };
        self.until_gone(&record.id).await?;
        // With the answer its instance is gone, too.
        if record.mig.is_some() {
            let _ = self.ending_unused().await;
        }
        Ok(())
    }

    /// Waits until a slice's processes, which were killed, have died, and removes it.
    async fn until_gone(self: &Arc<Self>, id: &str) -> Reply<()> {
        let began = Instant::now();
        loop {
            {
                let mut inner = self.lock();
                match inner.slices.get_mut(id) {
                    // It was deleted at once, or, being ephemeral, has gone with its last process by itself.
                    None => return Ok(()),
                    Some(live) if live.processes.is_empty() => return self.remove(&mut inner, id, "deleted by force"),
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
    pub(super) fn remove(self: &Arc<Self>, inner: &mut Inner, id: &str, how: &str) -> Reply<()> {
        inner.store.remove(id).map_err(store_fault)?;
        let Some(live) = inner.slices.remove(id) else { return Ok(()) };
        for device in &live.record.devices {
            let gone = inner.gone.entry(device.uuid.clone()).or_default();
            *gone = gone.saturating_add(device.time.device_ns);
        }
        inner.names.remove(&live.record.name);
        inner.launchers.retain(|_, l| l.slice != id);
        live.doors.iter().for_each(AbortHandle::abort);
        self.arrange(inner, &live.gpus);
        if let Some(key) = engine::domain(&live.record) {
            mps::look_after(self, &self.mps.get(&key.folder(), live.record.owner));
        }
        if let Err(error) = live.files.remove() {
            tracing::warn!("the files of slice {}: {error}", live.record.name);
        }
        if let Some(dir) = &self.config.cdi_dir {
            cdi::remove(dir, &live.record.name);
        }
        self.write_domain(inner, &live.record);
        if live.record.mig.is_some() {
            self.ending_unused();
        }
        if inner.slices.is_empty() {
            inner.idle_since = Some(Instant::now());
            self.wake.notify_one();
        }
        inner.event("slice-deleted", Some(&live.record), &format!("slice {} was {how}", live.record.name));
        Ok(())
    }

    /// Deletes an ephemeral slice that nothing runs in any more, and that nobody is about to run something in.
    pub(super) fn end_if_over(self: &Arc<Self>, inner: &mut Inner, id: &str) {
        let Some(live) = inner.slices.get(id) else { return };
        let nobody_comes = || live.record.holder.is_some_and(|h| !process::is_alive(h.pid, h.start_time));
        if live.processes.is_empty() && !live.record.ephemeral {
            return self.go(inner, id);
        }
        let over = live.record.ephemeral
            && live.processes.is_empty()
            && !inner.launchers.values().any(|l| l.slice == id)
            && (live.record.started || nobody_comes());
        if over && let Err(error) = self.remove(inner, id, "deleted: nothing runs in it, and nobody launches anything")
        {
            tracing::warn!("{error}");
        }
    }
}

/// What a spec says of a slice, on whatever engine.
pub(super) fn record_of(caller: &Caller, spec: &SliceSpec, owner: u32, admitted: &Admitted) -> Record {
    Record {
        owner,
        created_at: process::now(),
        compute_percent: admitted.compute_percent,
        mode: spec.mode,
        priority: spec.priority,
        burst_ms: admitted.burst_ms,
        watchdog: spec.watchdog,
        suspend_after: spec.suspend_after,
        host_limit_bytes: admitted.host_limit_bytes,
        on_missing: spec.on_missing,
        on_bypass: spec.on_bypass,
        ephemeral: spec.ephemeral,
        holder: caller.process().filter(|_| spec.ephemeral),
        ..Record::default()
    }
}

/// What a client of MPS has can't leave the GPU: the driver has no checkpoints of it.
fn check_rest(after: SuspendAfter, engine: Engine) -> Reply<()> {
    if after.ms().is_none() || engine != Engine::Spatial {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::Refused,
        format!(
            "a slice of engine spatial can't be suspended after {after}: the driver can't take an MPS client's memory off a GPU"
        ),
        "leave --suspend-after out, or choose --engine temporal",
    ))
}

pub(super) fn file_fault(what: &str, error: &io::Error) -> ErrorBody {
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

/// A name for a slice that was given none.
pub(super) fn some_name() -> String {
    let mut bytes = [0; 3];
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    format!("slice-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2])
}

pub(super) fn new_uuid() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Some(bytes)
}

pub(super) fn forbidden(what: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::Forbidden,
        format!("this user may not {what}"),
        "root and the daemon's user may; root makes a slice for somebody with `cleave slice create --owner USER`, and its owner runs programs in it",
    )
}
