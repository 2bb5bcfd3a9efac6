//! How programs get into a slice: launch plans and CDI specs, and whom an ephemeral slice waits for.
use super::{Caller, Inner, Live, Node, Reply};
use crate::cdi::{self, PART_VARIABLE, PIPE_VARIABLE, PLACE_VARIABLE};
use crate::engine;
use crate::gpu::GpuInfo;
use crate::process::{self, open_pidfd, until_end};
use crate::slice::{Holder, Record};
use cleave_api::{LaunchPlan, OnMissing, Priority};
use cleave_inventory::makers::Way;
use cleave_ledger::wire;
use std::sync::Arc;
use std::time::Duration;

/// A program that put itself or a child into a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// With the id it names the process.
    pub start_time: u64,
    /// The slice's id.
    pub slice: String,
}

impl Node {
    /// How a program is put into a slice. Who asks is remembered: what it starts belongs there.
    pub fn launch(self: &Arc<Self>, caller: &Caller, key: &str) -> Reply<LaunchPlan> {
        let mut inner = self.lock();
        let id = inner.seen(key, caller)?.record.id.clone();
        self.settle(&mut inner, &id);
        let live = inner.seen(key, caller)?;
        let way = self.way(&live.record)?;
        let plan = self.plan(&inner, live, way.as_ref());
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
    pub(super) fn watch_holder(self: &Arc<Self>, holder: Holder, id: String) {
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

    /// What makes a program a client of its trust domain's MPS server, within its slice's part; of a temporal slice, of none.
    fn mps_environment(&self, inner: &Inner, live: &Live) -> Vec<(&'static str, String)> {
        let record = &live.record;
        // The driver joins whatever server it finds at the machine's usual place, unless it is told of one where there is none.
        let Some(key) = engine::domain(record) else {
            return vec![(PIPE_VARIABLE, self.mps.pipe("none").display().to_string())];
        };
        // A client with a number of multiprocessors can't choose which ones.
        let part = match live.place {
            Some(_) => 100.0,
            None => inner.processors(record).map_or(100.0, |(part, _)| part),
        };
        let quota = record.devices.first().map_or(0, |device| device.limit_bytes);
        let place = live.place.map(|place| (PLACE_VARIABLE, place.to_string()));
        let mut all = vec![
            (PIPE_VARIABLE, self.mps.pipe(&key.folder()).display().to_string()),
            (PART_VARIABLE, part.to_string()),
            // The server has one device, whichever it is of the machine's.
            ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", format!("0={}M", quota.div_ceil(1 << 20))),
            // 0 is normal, 1 is lower; there are no others.
            ("CUDA_MPS_CLIENT_PRIORITY", u8::from(record.priority <= Priority::default()).to_string()),
        ];
        all.extend(place);
        all
    }

    /// See [`Inner::settle`].
    pub(super) fn settle(&self, inner: &mut Inner, id: &str) {
        let gpu = inner.slices.get(id).and_then(|live| self.nvml.gpus().get((*live.gpus.first()?)?));
        let smallest =
            gpu.filter(|_| self.config.own_multiprocessors && engine::gives_places(self.nvml.cuda_version()));
        let smallest = smallest.map(|gpu| {
            engine::smallest_place(gpu.capability, self.cost(&inner.store, gpu).map(|cost| cost.stack_factor))
        });
        let place = |inner: &Inner| inner.slices.get(id).and_then(|live| live.place);
        let before = place(inner);
        let mut changed = inner.settle(id, smallest);
        if place(inner) != before {
            changed.extend(inner.slices.get(id).map(|live| live.record.clone()));
        }
        // Their containers are not to start with what they had.
        changed.iter().for_each(|record| self.write_cdi(inner, record));
    }

    /// `way`: to other makers' devices, if it has those.
    fn plan(&self, inner: &Inner, live: &Live, way: Option<&Way>) -> LaunchPlan {
        let text = |path: std::path::PathBuf| path.display().to_string();
        let library_dir = self.run.library_dir();
        let library = text(library_dir.join(crate::gpu::STAND_IN));
        // Within the slice devices are numbered from 0, as frameworks that read this variable expect; the stand-in says
        // which ones they are. A program that may run without the daemon has nobody to translate for it.
        let devices = &live.record.devices;
        let visible: Vec<String> = match live.record.on_missing {
            _ if live.record.mig.is_some() => live.record.mig.iter().map(|held| held.uuid.clone()).collect(),
            OnMissing::Refuse => (0..devices.len()).map(|index| index.to_string()).collect(),
            OnMissing::Allow => devices.iter().map(|device| device.uuid.clone()).collect(),
        };
        // NVIDIA's driver shows none of its GPUs to a slice of other makers' devices, whose runtimes read this variable, too.
        let visible = way.is_none().then(|| ("CUDA_VISIBLE_DEVICES", visible.join(",")));
        let environment = [
            ("LD_PRELOAD", library.clone()),
            ("LD_LIBRARY_PATH", text(library_dir.clone())),
            (wire::SOCKET_VARIABLE, text(live.files.socket())),
            ("CLEAVE_SLICE", live.record.name.clone()),
            ("CLEAVE_DRIVER_DIR", text(self.run.driver_dir())),
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
            environment: (environment.into_iter())
                .chain(visible)
                .chain(self.mps_environment(inner, live))
                .map(|(k, v)| (k.to_owned(), v))
                .chain(way.into_iter().flat_map(|way| way.environment.clone()))
                .collect(),
        }
    }

    /// The slice as a CDI spec.
    pub fn cdi(&self, caller: &Caller, key: &str) -> Reply<serde_json::Value> {
        let mut inner = self.lock();
        let id = inner.seen(key, caller)?.record.id.clone();
        self.settle(&mut inner, &id);
        Ok(self.cdi_spec(&inner, inner.seen(key, caller)?))
    }

    fn cdi_spec(&self, inner: &Inner, live: &Live) -> serde_json::Value {
        let gpus: Vec<&GpuInfo> = live.gpus.iter().flatten().filter_map(|p| self.nvml.gpus().get(*p)).collect();
        let instance = live.record.mig.as_ref().zip(gpus.first()).map(|(held, gpu)| {
            let list = std::fs::read_to_string(cdi::CAPABILITIES).unwrap_or_default();
            cdi::capabilities(&list, gpu.minor, held.id)
        });
        // A container of a device that is gone has no node of one.
        let way = self.way(&live.record).unwrap_or_else(|_| Some(Way::default()));
        cdi::spec(&cdi::Parts {
            capabilities: instance.unwrap_or_default(),
            plan: &self.plan(inner, live, way.as_ref()),
            socket_dir: &live.files.guest_dir().display().to_string(),
            minors: gpus.iter().map(|g| g.minor).collect(),
            others: way.as_ref(),
            driver_version: &self.nvml.driver_version(),
            simulated: self.config.sim.is_some(),
        })
    }

    /// Writes the specs of a trust domain's slices anew: what each may have depends on the others.
    pub(super) fn write_domain(&self, inner: &mut Inner, of: &Record) {
        let Some(domain) = engine::domain(of) else { return };
        let records = inner.slices.values().map(|live| &live.record);
        let all: Vec<Record> = records.filter(|record| engine::domain(record) == Some(domain)).cloned().collect();
        // Twice: what shrinks makes room for what was before it.
        for record in all.iter().chain(&all) {
            self.settle(inner, &record.id);
        }
        all.iter().for_each(|record| self.write_cdi(inner, record));
    }

    pub(super) fn write_cdi(&self, inner: &mut Inner, record: &Record) {
        let Some(dir) = &self.config.cdi_dir else { return };
        let Some(live) = inner.slices.get(&record.id) else { return };
        if let Err(error) = cdi::write(dir, &record.name, &self.cdi_spec(inner, live)) {
            let message = format!("containers can't use slice {}: its CDI spec can't be written: {error}", record.name);
            inner.event("warning", Some(record), &message);
        }
    }
}
