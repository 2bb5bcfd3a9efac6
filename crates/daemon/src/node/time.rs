//! The slices' shares of the GPUs' time.
use super::slices::forbidden;
use super::whole::{is_whole, not_of_whole};
use super::{Caller, Inner, Live, Node, Reply, store_fault};
use crate::engine;
use crate::explain;
use crate::slice::{self, Record, rest, thousandths};
use crate::turns::{Party, Standing, clock};
use cleave_api::{DeviceExplanation, Explanation, Mode, Neighbour, Reason, ReasonKind, Slice, TurnKind, risk};
use cleave_policy::arbiter::{Domain, Isolation, Tenant};
use cleave_policy::gate;
use cleave_policy::pack::WHOLE;
use std::sync::Arc;

impl Node {
    /// The daemon ends: until the next one looks each slice has its part of the time.
    pub fn leave_turns(&self) {
        let own: Vec<_> = self.lock().slices.values().filter_map(|live| live.desk.clone()).collect();
        for desk in self.desks.iter().chain(&own) {
            desk.leave();
        }
    }

    /// Tells the desks of `gpus` who has processes there and what each is entitled to. To be called after each change of
    /// either, under the lock: a slot is not given out again before its desk has read it for the last time.
    pub fn arrange(&self, inner: &Inner, gpus: &[Option<usize>]) {
        for place in gpus.iter().copied().flatten() {
            let Some(desk) = self.desks.get(place) else { continue };
            let works = |live: &&Live| live.processes.values().any(|member| member.dead.is_none());
            let all = || inner.slices.values().filter(move |live| live.gpus.contains(&Some(place)));
            // A MIG instance has its slice alone, and all of its time.
            for (live, desk) in all().filter_map(|live| Some((live, live.desk.as_ref()?))) {
                let tenant = Tenant { share: WHOLE, ..tenant(live, WHOLE) };
                let parties = Some(live).filter(works).map(|live| party(live, 0, tenant));
                desk.arrange(parties.into_iter().collect(), |id| inner.slices.contains_key(id));
            }
            let on_it = || all().filter(|live| live.desk.is_none());
            let promised = on_it().filter_map(|live| live.record.compute_percent).sum();
            let without = on_it().filter(works).filter(|live| live.record.compute_percent.is_none()).count();
            let rest = rest(promised, without);
            let parties = on_it().filter(works).filter_map(|live| {
                let device = live.gpus.iter().position(|gpu| *gpu == Some(place))?;
                Some(party(live, device, Tenant { domain: domain(live), ..tenant(live, rest) }))
            });
            desk.arrange(parties.collect(), |id| inner.slices.contains_key(id));
        }
    }

    /// Stops a slice's programs at their next kernel, or lets them go on. It has happened when this returns.
    pub fn pause(&self, caller: &Caller, key: &str, paused: bool) -> Reply<Slice> {
        let mut inner = self.lock();
        let live = inner.seen(key, caller)?;
        if !caller.admin {
            return Err(forbidden(if paused { "pause slices" } else { "resume slices" }));
        }
        not_of_whole(&live.record, if paused { "paused" } else { "resumed" })?;
        let record = live.record.clone();
        if self.set_paused(&mut inner, &record.id, paused)? {
            let (kind, what) = if paused { ("slice-paused", "paused") } else { ("slice-resumed", "resumed") };
            inner.event(kind, Some(&record), &format!("slice {} was {what}", record.name));
        }
        let live = inner.seen(key, caller)?;
        Ok(self.show(live, &self.around(&inner, &live.record)))
    }

    /// As [`Node::pause`], for the daemon itself; whether that changed anything.
    pub fn set_paused(&self, inner: &mut Inner, id: &str, paused: bool) -> Reply<bool> {
        let Some(live) = inner.slices.get(id).filter(|live| live.record.paused != paused) else { return Ok(false) };
        let (record, gpus) = (Record { paused, ..live.record.clone() }, live.gpus.clone());
        inner.store.put(&record).map_err(store_fault)?;
        if let Some(live) = inner.slices.get_mut(id) {
            live.record.paused = paused;
        }
        self.arrange(inner, &gpus);
        Ok(true)
    }
}

impl Node {
    /// Why a slice runs as it does.
    pub fn explain(&self, caller: &Caller, key: &str) -> Reply<Explanation> {
        let inner = self.lock();
        let live = inner.seen(key, caller)?;
        let record = &live.record;
        let processors = inner.processors(record);
        let devices = record.devices.iter().zip(&live.gpus).map(|(device, place)| {
            let reserved = slice::reserved(inner.slices.values().map(|live| &live.record), &device.uuid).bytes;
            let memory = place.and_then(|place| self.nvml.gpus().get(place)).map(|gpu| gpu.memory_bytes);
            let risk = memory.and_then(|memory| risk(memory, reserved));
            let desk = self.desk(live, *place);
            let standings = desk.map(|desk| desk.standings()).unwrap_or_default();
            let now = clock();
            let me = standings.get(&record.id);
            let mut others: Vec<explain::Neighbour<'_>> = standings
                .iter()
                .filter(|(id, standing)| standing.here && **id != record.id)
                .filter_map(|(id, standing)| {
                    let theirs = &inner.slices.get(id)?.record;
                    let name = caller.sees(theirs).then_some(theirs.name.as_str());
                    Some(explain::Neighbour { name, mode: theirs.mode, priority: theirs.priority, standing })
                })
                .collect();
            others.sort_by_key(|other| (other.name.is_none(), other.name));
            let here = me.filter(|me| me.here);
            let percent = |standing: &Standing| f64::from(standing.tenant.share) / 10.0;
            DeviceExplanation {
                gpu: place.and_then(|p| self.nvml.gpus().get(p)).map_or(device.index, |gpu| gpu.index),
                engine: record.choice.engine,
                engine_reason: record.choice.reason.clone(),
                processors_percent: processors.as_ref().map(|(part, _)| *part),
                window_ms: self.config.window_ms,
                share_percent: here.map(percent).or(record.compute_percent),
                mode: record.mode,
                priority: record.priority,
                turn: here.map(|me| match me.grant.mode {
                    gate::Mode::Closed => TurnKind::Closed,
                    gate::Mode::Lease => TurnKind::Lease,
                    gate::Mode::Window if now < me.grant.until => TurnKind::Window,
                    gate::Mode::Window => TurnKind::Closed,
                    gate::Mode::Paused => TurnKind::Paused,
                }),
                reasons: if is_whole(record) {
                    vec![explain::whole()]
                } else {
                    (processors.as_ref().and_then(explain::part).into_iter())
                        .chain(explain::reasons(me, record.paused, &others, now))
                        .chain(risk.map(|message| Reason { kind: ReasonKind::Overcommitted, message }))
                        .collect()
                },
                neighbours: others
                    .iter()
                    .map(|other| Neighbour {
                        slice: other.name.map(str::to_owned),
                        share_percent: percent(other.standing),
                        mode: other.mode,
                        priority: other.priority,
                        at_work: other.standing.at_work(now),
                    })
                    .collect(),
            }
        });
        let picture = live.files.picture(live.processes.keys().copied());
        let classes = picture.readings.iter().fold(record.classes, |sum, reading| sum.plus(&reading.classes));
        let classes = super::show::show_classes(&classes);
        Ok(Explanation { slice: record.name.clone(), classes, devices: devices.collect() })
    }
}

/// A slice at the desk of its device.
fn party(live: &Live, device: usize, tenant: Tenant) -> Party {
    Party {
        slice: live.record.id.clone(),
        files: Arc::clone(&live.files),
        device,
        slots: live.processes.iter().filter(|(_, m)| m.dead.is_none()).map(|(slot, _)| *slot).collect(),
        tenant,
    }
}

/// Whom a slice's kernels run beside at the same time, for its GPU's desk; `None` as well if one of its programs sheds the server.
fn domain(live: &Live) -> Option<Domain> {
    let folder = engine::domain(&live.record)?.folder();
    let parts = live.processes.values().filter(|member| member.dead.is_none()).map(|member| member.part);
    // What a program started with it keeps, whatever the slice's share is now.
    let cap = parts.reduce(|a, b| Some(a?.max(b?)))??;
    // The first half of a hash is enough to tell apart the few of one GPU.
    Some(Domain { id: u32::from_str_radix(folder.get(..8)?, 16).ok()?, cap })
}

/// What a slice is entitled to; `rest` thousandths if it has no share of its own.
fn tenant(live: &Live, rest: u16) -> Tenant {
    let record = &live.record;
    Tenant {
        share: record.compute_percent.map_or(rest, thousandths),
        isolation: match record.mode {
            Mode::None => Isolation::None,
            Mode::Balanced => Isolation::Balanced,
            Mode::Strict => Isolation::Strict,
            Mode::Adaptive => Isolation::Adaptive,
        },
        class: if live.lowered { 0 } else { record.priority.class() },
        burst: record.burst_ms.unwrap_or(0).saturating_mul(1_000_000),
        paused: record.paused || record.suspended,
        domain: None,
    }
}
