//! What NVML and the ledgers say: the cost of a context, a process's memory beyond its account, peaks.
use super::{Live, Node, Peer};
use crate::files::{DeviceFacts, Reading};
use crate::gpu::GpuInfo;
use crate::probe;
use crate::slice::Record;
use crate::store::{ContextCost, Store};
use crate::turns::HORIZON;
use cleave_api::format_bytes;
use cleave_ledger::wire;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Node {
    pub(super) fn cost(&self, store: &Store, gpu: &GpuInfo) -> Option<ContextCost> {
        store.context(&gpu.name, &self.nvml.driver_version()).ok().flatten()
    }

    /// Finds out what a context costs on a GPU, if nobody knows yet.
    pub(super) async fn measure_context(&self, place: usize) {
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

    pub(super) fn facts(&self, store: &Store, record: &Record) -> Vec<DeviceFacts> {
        record
            .devices
            .iter()
            .map(|device| match self.place(&device.uuid).and_then(|p| self.nvml.gpus().get(p)) {
                // What one takes depends on the multiprocessors, and was measured with all.
                Some(gpu) if record.mig.is_some() => DeviceFacts { index: gpu.index, cost: None },
                Some(gpu) => DeviceFacts { index: gpu.index, cost: self.cost(store, gpu) },
                None => DeviceFacts { index: device.index, cost: None },
            })
            .collect()
    }

    /// Measures a process on its own demand: `estimate` bytes of its account are to be replaced. Gives what NVML says.
    pub fn measure(&self, id: &str, peer: &Peer, device: usize, estimate: u64) -> Result<u64, u32> {
        for _ in 0..8 {
            let (files, slots, place, generation) = {
                let inner = self.lock();
                let live = inner.slices.get(id).ok_or(wire::status::GONE)?;
                let slots: Vec<usize> = live.processes.iter().filter(|(_, m)| m.is(peer)).map(|(s, _)| *s).collect();
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
            if member.measured != generation || member.dead.is_some() {
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
        let operations = live.processes.keys().map(|slot| live.files.read(*slot).work(index).op_ns);
        let longest = operations.max().unwrap_or(0).min(HORIZON);
        if longest > 0 && std::mem::take(&mut live.longest_is_old) {
            live.record.longest_op_ns = 0;
        }
        live.record.longest_op_ns = live.record.longest_op_ns.max(longest);
    }
}
