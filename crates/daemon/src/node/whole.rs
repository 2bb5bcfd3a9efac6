//! Slices of engine `whole`: devices of other makers than NVIDIA, which nothing divides. A slice has one or more of them to itself.
//!
//! Who runs in it is told by the maker's own variables which they are, and a container is given their nodes and no others.
//! Nothing is measured there, and nothing held back.
use super::slices::{new_uuid, record_of, some_name};
use super::{Caller, Node, Reply};
use crate::engine::Choice;
use crate::gpu::format_uuid;
use crate::slice::{self, Admitted, Record, RecordDevice};
use cleave_api::{
    Device, Engine, ErrorBody, ErrorCode, GpuModes, Mode, OnBypass, OnMissing, Slice, SliceSpec, SuspendAfter, Vendor,
    Watchdog, format_bytes,
};
use cleave_inventory::makers::{self, Way};
use cleave_inventory::modes;
use cleave_ledger::DEVICES;
use std::sync::Arc;

/// What the id of a device begins with; its PCI address follows.
const PREFIX: &str = "PCI-";

/// The id of another maker's device, as long as it stays in its place.
fn id(device: &Device) -> Option<String> {
    device.pci.as_ref().map(|pci| format!("{PREFIX}{pci}"))
}

fn refused(message: String, hint: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Refused, message, hint)
}

/// The devices among `others` that a spec names, in its order: `None` if it means NVIDIA's. `alone`: the machine has none of those.
/// `taken` says whose a device is.
fn chosen<'a>(
    spec: &SliceSpec,
    others: &'a [Device],
    alone: bool,
    taken: impl Fn(&Device) -> Option<String>,
) -> Result<Option<Vec<&'a Device>>, ErrorBody> {
    let text = spec.gpu.trim();
    let free = |device: &&Device| taken(device).is_none() && fits(spec, device).is_ok();
    if matches!(text, "" | "any" | "all") {
        let Some(first) = others.first() else {
            let message = "engine whole can't be had: this machine has no devices of other makers than NVIDIA";
            let hint = "leave --engine out: NVIDIA's GPUs are divided, and a slice may have all of one";
            return if spec.engine == Engine::Whole { Err(refused(message.into(), hint)) } else { Ok(None) };
        };
        return Ok(match text {
            _ if spec.engine != Engine::Whole && !alone => None,
            "all" => Some(others.iter().collect()),
            _ => Some(vec![others.iter().find(free).unwrap_or(first)]),
        });
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let named = |part: &&str| {
        let is = |text: &Option<String>| text.as_ref().is_some_and(|text| text.eq_ignore_ascii_case(part));
        let index: Option<u32> = part.parse().ok();
        others.iter().find(|one| index == Some(one.index) || is(&one.pci) || is(&one.uuid) || is(&id(one)))
    };
    let found: Vec<&Device> = parts.iter().filter_map(named).collect();
    if found.is_empty() && spec.engine != Engine::Whole {
        return Ok(None);
    }
    if found.len() < parts.len() {
        let list: Vec<String> = others.iter().map(|one| format!("{}: {}", one.index, one.name)).collect();
        return Err(refused(
            format!("not all of \"{text}\" are devices of other makers than NVIDIA"),
            &format!("those are given whole, and have no slices beside NVIDIA's; there are {}", list.join(", ")),
        ));
    }
    let twice = found.iter().enumerate().find(|(at, one)| found.iter().take(*at).any(|before| before.pci == one.pci));
    match twice {
        Some((_, one)) => {
            let message = format!("GPU {} ({}) is named twice", one.index, one.name);
            Err(ErrorBody::new(ErrorCode::Invalid, message, "name each once"))
        }
        None => Ok(Some(found)),
    }
}

/// The memory of a device, if it can be given and has what a spec asks for at least.
fn fits(spec: &SliceSpec, device: &Device) -> Result<u64, ErrorBody> {
    let (index, name) = (device.index, &device.name);
    if let Some(why) = modes::whole(device) {
        return Err(refused(
            format!("GPU {index} ({name}) can't be given: {why}"),
            "choose another; `cleave modes` lists them",
        ));
    }
    let total = device.memory_total_bytes.unwrap_or(0);
    match spec.memory.map(|memory| memory.of(total)).filter(|asked| *asked > total) {
        Some(asked) => Err(refused(
            format!("{} is more than GPU {index} ({name}) has: {}", format_bytes(asked), format_bytes(total)),
            "ask for less, or leave --memory out: the slice has the whole device",
        )),
        None => Ok(total),
    }
}

/// What a spec has that means nothing where nothing is held back.
fn pointless(spec: &SliceSpec) -> Option<&'static str> {
    let all = [
        (spec.mode != Mode::default(), "--mode"),
        (spec.burst_ms.is_some(), "--burst"),
        (spec.watchdog != Watchdog::default(), "--watchdog"),
        (spec.suspend_after != SuspendAfter::default(), "--suspend-after"),
        (spec.host_memory.is_some(), "--host-memory"),
        (spec.trust_domain.is_some(), "--trust-domain"),
        (spec.compute.is_some_and(|share| share.get() < 100.0), "--compute"),
        (spec.fraction.is_some(), "--fraction"),
        (spec.on_missing != OnMissing::default(), "--on-missing"),
        (spec.on_bypass != OnBypass::default(), "--on-bypass"),
    ];
    all.iter().find(|(set, _)| *set).map(|(_, name)| *name)
}

impl Node {
    /// Makes a slice of other makers' devices, if that is what is asked for.
    pub(super) fn try_whole(
        self: &Arc<Self>,
        caller: &Caller,
        spec: &SliceSpec,
        owner: u32,
        (count, dry_run): (Option<u32>, bool),
    ) -> Reply<Option<Slice>> {
        let mut inner = self.lock();
        let holder = |device: &Device| {
            let is = |one: &RecordDevice| id(device).as_ref() == Some(&one.uuid);
            let mut records = inner.slices.values().map(|live| &live.record);
            records.find(|record| record.devices.iter().any(is)).map(|record| record.name.clone())
        };
        let Some(devices) = chosen(spec, &self.others, self.nvml.gpus().is_empty(), holder)? else { return Ok(None) };
        let first = devices.first().map_or(Vendor::Nvidia, |device| device.vendor);
        if devices.iter().any(|device| device.vendor != first) {
            let message = format!("\"{}\" are devices of several makers", spec.gpu);
            return Err(refused(message, "a slice has devices of one maker: no program runs on several"));
        }
        let model = devices.first().map_or("", |device| device.name.as_str());
        if !matches!(spec.engine, Engine::Auto | Engine::Whole) {
            let message =
                format!("engine {} can't be had on {}: cleave divides NVIDIA's GPUs only", spec.engine, model);
            return Err(refused(message, "leave --engine out: the slice has the device whole"));
        }
        if devices.len() > DEVICES {
            let message = format!("{} devices are too many", devices.len());
            return Err(refused(message, &format!("a slice has at most {DEVICES}")));
        }
        if let Some(option) = pointless(spec) {
            let message = format!("{option} means nothing on {}: it is given whole, and nothing is held back", model);
            return Err(refused(message, "leave it out"));
        }
        if count.is_some() {
            let message = format!("slices alike can't each have {} to itself", model);
            return Err(refused(message, "make them one by one"));
        }
        let mut parts = Vec::new();
        for device in &devices {
            let limit_bytes = fits(spec, device)?;
            if let Some(name) = holder(device) {
                let message = format!("GPU {} ({}) is slice {name}'s, which has it whole", device.index, device.name);
                return Err(refused(message, "choose another, or delete that slice first"));
            }
            let uuid = id(device).unwrap_or_default();
            parts.push(RecordDevice { uuid, index: device.index, limit_bytes, ..RecordDevice::default() });
        }
        let uuid = new_uuid().ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "no random numbers", ""))?;
        let name = spec.name.clone().unwrap_or_else(some_name);
        let names = slice::names(name.clone(), None, |name| inner.names.contains_key(name))?;
        let admitted = Admitted {
            names,
            devices: Vec::new(),
            compute_percent: Some(100.0),
            burst_ms: None,
            host_limit_bytes: None,
        };
        let reason = match spec.engine {
            Engine::Whole => "it was asked for",
            _ => "cleave divides NVIDIA's GPUs only, and gives other makers' devices whole",
        };
        let record = Record {
            id: format!("SLICE-{}", format_uuid(uuid)),
            name,
            devices: parts,
            choice: Choice { engine: Engine::Whole, reason: reason.into() },
            ..record_of(caller, spec, owner, &admitted)
        };
        if !dry_run {
            self.make(&mut inner, std::slice::from_ref(&record))?;
        }
        let around = self.around(&inner, &record);
        Ok(Some(self.show_made(&inner, &record, &around)))
    }

    /// How a program finds the devices of a slice of engine `whole`; `None` of another one. An error says why it can't.
    pub(super) fn way(&self, record: &Record) -> Result<Option<Way>, ErrorBody> {
        if !is_whole(record) {
            return Ok(None);
        }
        let chosen: Vec<&str> = record.devices.iter().filter_map(|device| device.uuid.strip_prefix(PREFIX)).collect();
        makers::way(&self.root(), &self.others, &chosen).map(Some).map_err(|why| {
            let message = format!("nothing can start in slice \"{}\": {why}", record.name);
            ErrorBody::new(
                ErrorCode::Unavailable,
                message,
                "`cleave gpus` lists what is there; delete the slice if it is gone for good",
            )
        })
    }

    /// Which engines other makers' devices can run: one.
    pub(super) fn other_modes(&self) -> Vec<GpuModes> {
        let devices = self.others.clone();
        cleave_inventory::modes::modes(&cleave_api::Inventory { devices, ..cleave_api::Inventory::default() })
    }
}

/// Whether a slice has devices whole.
pub(super) fn is_whole(record: &Record) -> bool {
    record.choice.engine == Engine::Whole
}

/// That something can't be done to a slice of engine `whole`.
pub(super) fn not_of_whole(record: &Record, what: &str) -> Result<(), ErrorBody> {
    if !is_whole(record) {
        return Ok(());
    }
    let message =
        format!("slice \"{}\" can't be {what}: it has a device whole, on which nothing is held back", record.name);
    Err(refused(message, "`cleave slice delete` takes it away, and another can be made"))
}
