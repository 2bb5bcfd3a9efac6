//! Slices from a file: `cleave apply`, `cleave slice export`; and one after another's example: `cleave slice clone`.
use super::{Context, inventory, slice};
use crate::client::{Client, Result, segment};
use crate::output::{self, Named, table};
use crate::yaml;
use cleave_api::{
    Engine, ErrorBody, ErrorCode, Fraction, Gpu, List, MemoryAmount, Percent, Slice, SliceChange, SliceDevice,
    SliceSpec,
};
use cleave_ledger::UNIT;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

/// The slices that a node shall have.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    slices: Vec<SliceSpec>,
}

/// What was done about a slice, or would be.
#[derive(Serialize)]
struct Applied {
    slice: String,
    /// `created`, `changed`, `unchanged` or `deleted`.
    action: &'static str,
    /// What is changed.
    changes: Vec<String>,
}

enum Step {
    Create(SliceSpec),
    Change(SliceChange, Vec<String>, Box<Slice>),
    Keep,
    Delete,
}

/// A spec that makes a slice like this one, on the same GPUs.
fn spec_of(slice: &Slice) -> SliceSpec {
    let gpus: Vec<String> = slice.devices.iter().map(|device| device.gpu.to_string()).collect();
    SliceSpec {
        name: Some(slice.name.clone()),
        gpu: gpus.join(","),
        // What is given whole has what it has, each device its own.
        memory: (slice.devices.first().filter(|_| slice.engine != Engine::Whole))
            .map(|device| MemoryAmount::Bytes(device.limit_bytes)),
        compute: slice.compute_percent.filter(|_| slice.engine != Engine::Whole).and_then(Percent::new),
        mode: slice.mode,
        priority: slice.priority,
        burst_ms: slice.burst_ms,
        watchdog: slice.watchdog,
        suspend_after: slice.suspend_after,
        engine: slice.engine,
        trust_domain: slice.trust_domain.clone(),
        host_memory: slice.host_limit_bytes.map(MemoryAmount::Bytes),
        on_missing: slice.on_missing,
        on_bypass: slice.on_bypass,
        owner: Some(slice.owner.uid.to_string()),
        ..SliceSpec::default()
    }
}

/// Makes a slice like another one beside it, on the same GPUs, with quotas of its own.
pub(crate) fn clone(
    context: &Context,
    of: &str,
    name: String,
    fraction: Option<Fraction>,
    memory: Option<MemoryAmount>,
    compute: Option<Percent>,
    dry_run: bool,
) -> Result<i32> {
    let original: Slice = context.client()?.get(&format!("slices/{}", segment(of)))?;
    let mut spec = SliceSpec { name: Some(name), ..spec_of(&original) };
    match fraction {
        Some(_) => (spec.fraction, spec.memory, spec.compute) = (fraction, None, None),
        None => (spec.memory, spec.compute) = (memory.or(spec.memory), compute.or(spec.compute)),
    }
    slice::create(context, &spec, None, dry_run)
}

/// Prints the slices that there are as `cleave apply` reads them.
pub(crate) fn export(context: &Context) -> Result<i32> {
    let slices: List<Slice> = context.client()?.get("slices")?;
    let slices = slices.items.iter().filter(|slice| !slice.ephemeral).map(spec_of).collect();
    let manifest = Manifest { slices };
    output::print(context.format, &Named::new("manifest", &manifest), || {
        let value = serde_json::to_value(&manifest).unwrap_or_default();
        serde_saphyr::to_string(&pruned(value)).unwrap_or_default().trim_end().to_owned()
    })?;
    Ok(0)
}

/// Without what is not set.
fn pruned(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let set = map.into_iter().filter(|(_, value)| !value.is_null() && value != &serde_json::Value::Bool(false));
            serde_json::Value::Object(set.map(|(key, value)| (key, pruned(value))).collect())
        }
        serde_json::Value::Array(all) => serde_json::Value::Array(all.into_iter().map(pruned).collect()),
        other => other,
    }
}

/// Makes the slices what a file says: those that are missing are created, those that differ are changed, and with `prune` those
/// that it doesn't name are deleted. If a step fails, those before it are undone.
pub(crate) fn apply(context: &Context, file: &Path, prune: bool, dry_run: bool) -> Result<i32> {
    let name = inventory::name_of(file);
    let hint = "a manifest is `slices:` and a list of specs, as `cleave slice export` prints it";
    let manifest: Manifest = yaml::read(&name, &inventory::text_of(file)?, hint)?;
    settle(context, &name, manifest.slices, prune, dry_run)
}

/// Makes the slices these, which `name` asks for.
pub(super) fn settle(context: &Context, name: &str, wanted: Vec<SliceSpec>, prune: bool, dry_run: bool) -> Result<i32> {
    let client = context.client_or_start()?;
    let slices = client.get::<List<Slice>>("slices")?.items;
    let gpus = client.get::<List<Gpu>>("gpus")?.items;
    let steps = plan(name, wanted, &slices, &gpus, prune)?;
    if !dry_run {
        carry_out(&client, &steps)?;
    }
    let applied: Vec<Applied> = steps
        .iter()
        .map(|(slice, step)| {
            let (action, changes) = match step {
                Step::Create(_) => ("created", Vec::new()),
                Step::Change(_, words, _) => ("changed", words.clone()),
                Step::Keep => ("unchanged", Vec::new()),
                Step::Delete => ("deleted", Vec::new()),
            };
            Applied { slice: slice.clone(), action, changes }
        })
        .collect();
    let applied = List::new("applied", applied);
    output::print(context.format, &applied, || {
        let would = if dry_run { "would be " } else { "" };
        let rows = applied.items.iter().map(|one| {
            let action = match one.action {
                "unchanged" => "is as it shall be".into(),
                action => format!("{would}{action}"),
            };
            vec![one.slice.clone(), action, one.changes.join(", ")]
        });
        table(&["SLICE", "ACTION", "WHAT"], rows.collect())
    })?;
    Ok(0)
}

/// What is to be done, in order.
fn plan(
    file: &str,
    wanted: Vec<SliceSpec>,
    slices: &[Slice],
    gpus: &[Gpu],
    prune: bool,
) -> Result<Vec<(String, Step)>> {
    let mut steps = Vec::new();
    let mut names = HashSet::new();
    for (at, spec) in wanted.into_iter().enumerate() {
        let Some(name) = spec.name.clone() else {
            let message = format!("{file}: slice {} of the list has no name", at + 1);
            return Err(ErrorBody::new(
                ErrorCode::Invalid,
                message,
                "give each a `name`: it says which slice is meant the next time",
            ));
        };
        if !names.insert(name.clone()) {
            let message = format!("{file}: slice \"{name}\" is there twice");
            return Err(ErrorBody::new(ErrorCode::Invalid, message, "name each slice once"));
        }
        let step = match slices.iter().find(|slice| slice.name == name) {
            None => Step::Create(spec),
            Some(there) => match change(&spec, there, gpus)? {
                (_, words) if words.is_empty() => Step::Keep,
                (change, words) => Step::Change(change, words, Box::new(there.clone())),
            },
        };
        steps.push((name, step));
    }
    let gone = slices.iter().filter(|slice| prune && !slice.ephemeral && !names.contains(&slice.name));
    for slice in gone {
        if !slice.processes.is_empty() {
            let message =
                format!("slice \"{}\" is not in {file}, and {} programs run in it", slice.name, slice.processes.len());
            return Err(ErrorBody::new(
                ErrorCode::Conflict,
                message,
                "end them first, or leave --prune out; nothing was changed",
            ));
        }
        steps.push((slice.name.clone(), Step::Delete));
    }
    Ok(steps)
}

/// What of a slice has to be changed, and in words.
fn change(spec: &SliceSpec, there: &Slice, gpus: &[Gpu]) -> Result<(SliceChange, Vec<String>)> {
    let name = &there.name;
    let fixed = |what: &str, is: String, shall: String| {
        let message = format!("slice \"{name}\" has {what} {is}, and shall have {shall}; that can't be changed");
        Err(ErrorBody::new(
            ErrorCode::Conflict,
            message,
            "delete that slice first, or give the new one another name; nothing was changed",
        ))
    };
    let now: Vec<u32> = there.devices.iter().map(|device| device.gpu).collect();
    let wanted: Option<Vec<u32>> = match spec.gpu.trim() {
        "" | "any" => None,
        "all" => Some(gpus.iter().map(|gpu| gpu.index).collect()).filter(|_| there.engine != Engine::Whole),
        text if there.engine == Engine::Whole => {
            // By its number, its id, or the address in that; another's is none of its own.
            let index = |part: &str| {
                let mine = |one: &&SliceDevice| one.gpu_uuid.to_lowercase().ends_with(&part.to_lowercase());
                part.parse().ok().or_else(|| there.devices.iter().find(mine).map(|one| one.gpu)).unwrap_or(u32::MAX)
            };
            Some(text.split(',').map(|part| index(part.trim())).collect())
        }
        text => {
            let index = |part: &str| {
                let uuid = |gpu: &&Gpu| gpu.uuid.to_lowercase().starts_with(&part.to_lowercase());
                part.parse().ok().or_else(|| gpus.iter().find(uuid).map(|gpu| gpu.index))
            };
            text.split(',').map(|part| index(part.trim())).collect()
        }
    };
    if wanted.as_ref().is_some_and(|wanted| *wanted != now) {
        return fixed("GPU", format!("{now:?}"), spec.gpu.clone());
    }
    if spec.engine != Engine::Auto && spec.engine != there.engine {
        return fixed("engine", there.engine.to_string(), spec.engine.to_string());
    }
    if spec.trust_domain.is_some() && spec.trust_domain != there.trust_domain {
        let word = |domain: &Option<String>| domain.clone().unwrap_or("none".into());
        return fixed("trust domain", word(&there.trust_domain), word(&spec.trust_domain));
    }
    let mut change = SliceChange { oversubscribe: spec.oversubscribe, ..SliceChange::default() };
    let mut words = Vec::new();
    let card =
        now.first().and_then(|index| gpus.iter().find(|gpu| gpu.index == *index)).map_or(0, |gpu| gpu.memory_bytes);
    let bytes = spec.fraction.map(|fraction| fraction.of(card)).or(spec.memory.map(|memory| memory.of(card)));
    let limit = there.devices.first().map_or(0, |device| device.limit_bytes);
    // Quotas are whole units; of a device that is given whole more than is asked for is right.
    let whole = there.engine == Engine::Whole;
    if let Some(bytes) = bytes.filter(|bytes| bytes / UNIT != limit / UNIT && !(whole && *bytes < limit)) {
        change.memory = Some(MemoryAmount::Bytes(bytes));
        words.push(format!("memory {}", cleave_api::format_bytes(bytes)));
    }
    let share = spec.fraction.map(Fraction::percent).or(spec.compute);
    if let Some(share) = share.filter(|share| Some(share.get()) != there.compute_percent && !whole) {
        change.compute = Some(share);
        words.push(format!("compute {} %", share.get()));
    }
    if spec.mode != there.mode {
        change.mode = Some(spec.mode);
        words.push(format!("mode {}", spec.mode));
    }
    // Where nothing is held back nobody goes first.
    if spec.priority != there.priority && !whole {
        change.priority = Some(spec.priority);
        words.push(format!("priority {}", spec.priority));
    }
    if spec.burst_ms.is_some() && spec.burst_ms != there.burst_ms {
        change.burst_ms = spec.burst_ms;
        words.push(format!("burst {} ms", spec.burst_ms.unwrap_or(0)));
    }
    if spec.watchdog != there.watchdog {
        change.watchdog = Some(spec.watchdog);
        words.push(format!("watchdog {}", spec.watchdog));
    }
    if spec.suspend_after != there.suspend_after {
        change.suspend_after = Some(spec.suspend_after);
        words.push(format!("suspend after {}", spec.suspend_after));
    }
    let host = spec.host_memory.and_then(|amount| match amount {
        MemoryAmount::Bytes(bytes) => Some(bytes),
        part => cleave_daemon::machine_memory().map(|machine| part.of(machine)),
    });
    if let Some(host) = host.filter(|host| there.host_limit_bytes != Some(*host)) {
        change.host_memory = spec.host_memory;
        words.push(format!("host memory {}", cleave_api::format_bytes(host)));
    }
    Ok((change, words))
}

/// Does the steps; if one fails, those before it are undone.
fn carry_out(client: &Client, steps: &[(String, Step)]) -> Result<()> {
    for (at, (name, step)) in steps.iter().enumerate() {
        let path = format!("slices/{}", segment(name));
        let done = match step {
            Step::Create(spec) => client.post::<_, Slice>("slices", spec).map(drop),
            Step::Change(change, ..) => client.patch::<_, Slice>(&path, change).map(drop),
            Step::Keep => Ok(()),
            Step::Delete => client.delete(&path),
        };
        if let Err(error) = done {
            let undone = undo(client, steps.get(..at).unwrap_or_default());
            let message = format!("slice \"{name}\": {}", error.message);
            let hint = match undone {
                Ok(()) => format!("{}; nothing was changed", error.hint.clone().unwrap_or_default()),
                Err(why) => format!("what was done before could not be undone: {why}"),
            };
            return Err(ErrorBody::new(error.code, message, hint.trim_start_matches("; ")));
        }
    }
    Ok(())
}

fn undo(client: &Client, steps: &[(String, Step)]) -> Result<()> {
    for (name, step) in steps.iter().rev() {
        let path = format!("slices/{}", segment(name));
        match step {
            Step::Create(_) => client.delete(&path)?,
            Step::Change(_, _, before) => {
                let spec = spec_of(before);
                let back = SliceChange {
                    memory: spec.memory,
                    compute: spec.compute,
                    mode: Some(spec.mode),
                    priority: Some(spec.priority),
                    burst_ms: spec.burst_ms,
                    watchdog: Some(spec.watchdog),
                    suspend_after: Some(spec.suspend_after),
                    host_memory: spec.host_memory,
                    force: true,
                    ..SliceChange::default()
                };
                client.patch::<_, Slice>(&path, &back)?;
            }
            // Deletions come last: what was deleted had its time.
            Step::Delete | Step::Keep => {}
        }
    }
    Ok(())
}
