//! Taking a GPU out of use: its slices go to others, those in which nothing runs at once, the others with the end of their
//! programs. And back.
use super::slices::{file_fault, forbidden};
use super::{Caller, Inner, Live, Node, Reply, store_fault};
use crate::engine;
use crate::files::SliceFiles;
use crate::mps;
use crate::slice::{self, Card, Record};
use cleave_api::{Drain, Engine, ErrorBody, ErrorCode, SliceMove, format_bytes};
use cleave_policy::pack::{Amount, place};
use std::sync::Arc;
use tokio::task::AbortHandle;

const MIB: u64 = 1 << 20;

/// Parts of a percent in which time is counted here.
const PARTS: f64 = 600.0;

/// Percent of a GPU's time in parts, rounded down: what fits on one GPU fits on another, if it is seven sevenths. A hundred
/// slices may so have a sixth of a percent too much.
fn parts(percent: f64) -> u16 {
    (percent * PARTS + 1e-6) as u16
}

/// What a slice needs of a GPU.
fn need(record: &Record, bytes: u64) -> Amount {
    let compute = record.compute_percent.map_or(0, parts);
    Amount { memory: bytes.div_ceil(MIB), compute, bandwidth: 0 }
}

/// Where each slice on the card at `from` goes: its id and the card's place. Memory and shares are kept as they are.
fn plan(from: usize, cards: &[Card<'_>], records: &[&Record]) -> Result<Vec<(String, usize)>, ErrorBody> {
    let Some(out) = cards.get(from) else { return Ok(Vec::new()) };
    let on = |record: &&&Record| record.devices.iter().any(|d| d.uuid == out.info.uuid && d.moves_to.is_none());
    let mut going: Vec<&Record> = records.iter().filter(on).copied().collect();
    going.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(record) = going.iter().find(|record| record.mig.is_some()) {
        return Err(ErrorBody::new(
            ErrorCode::Refused,
            format!(
                "GPU {} can't be drained: slice \"{}\" has a MIG instance of it, which stays",
                out.info.index, record.name
            ),
            "delete that slice and make it on another GPU; nothing was changed",
        ));
    }
    let bytes = |record: &Record| record.devices.iter().find(|d| d.uuid == out.info.uuid).map_or(0, |d| d.limit_bytes);
    let needs: Vec<Amount> = going.iter().map(|record| need(record, bytes(record))).collect();
    let left: Vec<Amount> = cards
        .iter()
        .map(|card| {
            let taken = slice::reserved(records.iter().copied(), &card.info.uuid);
            Amount {
                memory: (card.info.memory_bytes / MIB).saturating_sub(taken.bytes.div_ceil(MIB)),
                compute: parts(100.0 - taken.compute),
                bandwidth: 0,
            }
        })
        .collect();
    let may = |item: usize, gpu: usize| {
        let (Some(record), Some(card)) = (going.get(item), cards.get(gpu)) else { return false };
        let has = record.devices.iter().any(|d| d.uuid == card.info.uuid);
        let whole = card.info.mig != Some(true);
        gpu != from && !card.draining && whole && !has && (card.can || record.choice.engine == Engine::Temporal)
    };
    let places = place(&needs, &left, may).map_err(|item| {
        let most = (left.iter().enumerate().filter(|(gpu, _)| may(item, *gpu)))
            .max_by_key(|(_, left)| (left.memory, left.compute))
            .and_then(|(gpu, left)| Some((cards.get(gpu)?.info.index, left)));
        let why = match most {
            None => "no other GPU here can take it".to_owned(),
            Some((index, left)) => format!(
                "most is left of GPU {index}, {} and {} % of its time",
                format_bytes(left.memory * MIB),
                (f64::from(left.compute) / PARTS * 10.0).round() / 10.0
            ),
        };
        let who = going.get(item).map_or(String::new(), |record| {
            let share = record.compute_percent.map_or(String::new(), |percent| format!(" and {percent} %"));
            format!("slice \"{}\", {}{share}", record.name, format_bytes(bytes(record)))
        });
        ErrorBody::new(
            ErrorCode::Refused,
            format!("GPU {} can't be drained: there is no room for {who}: {why}", out.info.index),
            "delete or shrink a slice, or lower its share; nothing was changed",
        )
    })?;
    Ok(going.iter().map(|record| record.id.clone()).zip(places).collect())
}

/// No slice is on a GPU.
fn is_empty(inner: &Inner, uuid: &str) -> bool {
    !inner.slices.values().any(|live| live.record.devices.iter().any(|d| d.uuid == uuid))
}

/// The slices that are to leave a GPU, and are there still.
fn leaving<'a>(inner: &'a Inner, uuid: &str) -> impl Iterator<Item = &'a Live> {
    let leaves = move |live: &&Live| live.record.devices.iter().any(|d| d.uuid == uuid && d.moves_to.is_some());
    inner.slices.values().filter(leaves)
}

impl Node {
    fn one_gpu(&self, text: &str) -> Reply<usize> {
        match slice::places(text, self.nvml.gpus())?.as_deref() {
            Some([place]) => Ok(*place),
            _ => Err(ErrorBody::new(
                ErrorCode::Invalid,
                format!("\"{text}\" is not one GPU"),
                "name one by its index or UUID",
            )),
        }
    }

    /// Takes a GPU out of use, if there is room for its slices elsewhere. With `dry_run` only says who would go where; with
    /// `force` programs are ended that would keep their slices there.
    pub fn drain(self: &Arc<Self>, caller: &Caller, gpu: &str, dry_run: bool, force: bool) -> Reply<Drain> {
        if !caller.admin {
            return Err(forbidden("drain GPUs"));
        }
        let from = self.one_gpu(gpu)?;
        let now = self.gpus_now();
        let mut inner = self.lock();
        // A card that can't run the engine of a spatial slice is none for it.
        let places = self.with_cards(&inner, &now, Engine::Spatial, |cards, records| plan(from, cards, records))?;
        let uuid = self.nvml.gpus().get(from).map(|info| info.uuid.clone()).unwrap_or_default();
        let mut records: Vec<Record> = Vec::new();
        for (id, to) in places {
            let (Some(live), Some(to)) = (inner.slices.get(&id), self.nvml.gpus().get(to)) else { continue };
            let mut record = live.record.clone();
            for device in record.devices.iter_mut().filter(|d| d.uuid == uuid) {
                device.moves_to = Some(to.uuid.clone());
            }
            records.push(record);
        }
        if dry_run {
            // Those that are on their way already, and those that would be.
            records.extend(leaving(&inner, &uuid).map(|live| live.record.clone()));
            let moves = self.moves(&inner, &records);
            return Ok(self.drained(&inner, from, moves));
        }
        let fresh = !inner.draining.contains(&uuid);
        inner.store.drain(&uuid, true, &records).map_err(store_fault)?;
        inner.draining.insert(uuid.clone());
        if fresh {
            inner.event(
                "draining",
                None,
                &format!("GPU {} is being drained: {} slices leave it", self.index(from), records.len()),
            );
        }
        self.depart(&mut inner, from, &uuid, records, force)
    }

    /// Takes a GPU back into use. Slices that left it come back, with the end of their programs.
    pub fn undrain(self: &Arc<Self>, caller: &Caller, gpu: &str) -> Reply<Drain> {
        if !caller.admin {
            return Err(forbidden("undrain GPUs"));
        }
        let mut inner = self.lock();
        let from = self.one_gpu(gpu)?;
        let uuid = self.nvml.gpus().get(from).map(|info| info.uuid.clone()).unwrap_or_default();
        let mut records = Vec::new();
        for live in inner.slices.values() {
            let mut record = live.record.clone();
            for device in &mut record.devices {
                // Nothing has come there since, so there is room.
                if device.home.as_ref() == Some(&uuid) {
                    device.moves_to = Some(uuid.clone());
                } else if device.uuid == uuid {
                    device.moves_to = None;
                }
            }
            if record != live.record {
                records.push(record);
            }
        }
        inner.store.drain(&uuid, false, &records).map_err(store_fault)?;
        if inner.draining.remove(&uuid) {
            inner.event("undrained", None, &format!("GPU {} is in use again", self.index(from)));
        }
        self.depart(&mut inner, from, &uuid, records, false)
    }

    /// Takes in where slices are to go, and lets those go that can.
    fn depart(
        self: &Arc<Self>,
        inner: &mut Inner,
        gpu: usize,
        uuid: &str,
        records: Vec<Record>,
        force: bool,
    ) -> Reply<Drain> {
        let mut ids: Vec<String> = Vec::new();
        for record in records {
            ids.push(record.id.clone());
            if let Some(live) = inner.slices.get_mut(&record.id) {
                live.record = record;
            }
        }
        // As it was decided, whatever happens meanwhile; and those that were on their way before.
        ids.extend(leaving(inner, uuid).map(|live| live.record.id.clone()));
        ids.sort();
        ids.dedup();
        let planned: Vec<Record> = ids.iter().filter_map(|id| Some(inner.slices.get(id)?.record.clone())).collect();
        let mut moves = self.moves(inner, &planned);
        for id in &ids {
            if let Some(live) = inner.slices.get(id).filter(|_| force) {
                live.kill();
            }
            self.go(inner, id);
        }
        for one in &mut moves {
            one.done =
                inner.find(&one.slice).is_some_and(|live| live.record.devices.iter().all(|d| d.moves_to.is_none()));
            if one.done {
                one.waits_for.clear();
            }
        }
        Ok(self.drained(inner, gpu, moves))
    }

    fn index(&self, place: usize) -> u32 {
        self.nvml.gpus().get(place).map_or(0, |info| info.index)
    }

    fn moves(&self, inner: &Inner, records: &[Record]) -> Vec<SliceMove> {
        let index = |uuid: &str| self.place(uuid).map_or(0, |place| self.index(place));
        let mut all = Vec::new();
        for record in records {
            let live = inner.slices.get(&record.id);
            for device in &record.devices {
                let Some(to) = &device.moves_to else { continue };
                all.push(SliceMove {
                    slice: record.name.clone(),
                    from: index(&device.uuid),
                    to: index(to),
                    memory_bytes: device.limit_bytes,
                    compute_percent: record.compute_percent,
                    done: false,
                    waits_for: live.map(|live| live.processes.values().map(|m| m.pid).collect()).unwrap_or_default(),
                });
            }
        }
        all.sort_by(|a, b| (a.from, &a.slice).cmp(&(b.from, &b.slice)));
        all
    }

    fn drained(&self, inner: &Inner, gpu: usize, moves: Vec<SliceMove>) -> Drain {
        let info = self.nvml.gpus().get(gpu).cloned().unwrap_or_default();
        let empty = is_empty(inner, &info.uuid);
        let draining = inner.draining.contains(&info.uuid);
        Drain { gpu: info.index, uuid: info.uuid, name: info.name, draining, empty, moves }
    }

    /// Moves a slice to where it is to go, if nothing runs in it and nobody launches anything.
    pub(super) fn go(self: &Arc<Self>, inner: &mut Inner, id: &str) {
        let Some(live) = inner.slices.get(id) else { return };
        let waits = live.record.devices.iter().any(|d| d.moves_to.is_some());
        if !waits || !live.processes.is_empty() || live.deleting || inner.launchers.values().any(|l| l.slice == id) {
            return;
        }
        let (before, gpus) = (live.record.clone(), live.gpus.clone());
        let mut record = before.clone();
        let mut words = Vec::new();
        for device in &mut record.devices {
            let Some(to) = device.moves_to.take() else { continue };
            let Some(place) = self.place(&to) else { continue };
            words.push(format!("GPU {} to GPU {}", device.index, self.index(place)));
            device.home = if device.home.as_ref() == Some(&to) { None } else { Some(std::mem::take(&mut device.uuid)) };
            (device.uuid, device.index) = (to, self.index(place));
        }
        // First the row, then the files: those of another GPU are made anew at the next start.
        if let Err(error) = inner.store.put(&record) {
            tracing::warn!("slice {} stays where it is: {error}", record.name);
            return;
        }
        if let Some(live) = inner.slices.remove(id) {
            live.doors.iter().for_each(AbortHandle::abort);
            let _ = live.files.remove();
        }
        let facts = self.facts(&inner.store, &record);
        let made =
            SliceFiles::create(&self.run, &record, &facts).and_then(|files| self.open_doors(record.clone(), files));
        match made {
            Ok(live) => {
                inner.slices.insert(id.to_owned(), live);
            }
            Err(error) => {
                inner.names.remove(&record.name);
                let fault = file_fault(&format!("slice \"{}\" can't be moved", record.name), &error);
                inner.event(
                    "warning",
                    Some(&record),
                    &format!("{fault}; it is there again when the daemon starts anew"),
                );
            }
        }
        let after = inner.slices.get(id).map(|live| live.gpus.clone()).unwrap_or_default();
        self.arrange(inner, &[gpus, after].concat());
        for of in [&before, &record] {
            if let Some(key) = engine::domain(of) {
                let domain = self.mps.get(&key.folder(), of.owner);
                if of.devices == record.devices {
                    let _ = domain.prepare();
                } else {
                    mps::look_after(self, &domain);
                }
            }
            self.write_domain(inner, of);
        }
        self.write_cdi(inner, &record);
        inner.event("slice-moved", Some(&record), &format!("slice {} went from {}", record.name, words.join(", ")));
        for uuid in before
            .devices
            .iter()
            .map(|d| &d.uuid)
            .filter(|uuid| inner.draining.contains(*uuid))
            .cloned()
            .collect::<Vec<_>>()
        {
            if let Some(place) = self.place(&uuid).filter(|_| is_empty(inner, &uuid)) {
                inner.event("drained", None, &format!("GPU {} is drained: no slice is left on it", self.index(place)));
            }
        }
    }
}
