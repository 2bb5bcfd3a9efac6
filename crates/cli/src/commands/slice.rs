//! `cleave slice …`.
use super::program::{self, gpus_of};
use super::{Context, inventory, show};
use crate::ChangeOptions;
use crate::client::{Result, segment};
use crate::output::{self, Format, Named, bar, grouped, or_dash, percent, table};
use cleave_api::{
    ClassUse, DeviceTime, ErrorBody, ErrorCode, Explanation, Fraction, List, Percent, Slice, SliceChange, SliceSpec,
    format_bytes,
};
use cleave_plan::choice::{Choice, Wish, choose};
use cleave_plan::fleet::Fleet;
use cleave_plan::spec::NodeSpec;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Creates a slice, or `count` alike, or says what they would be.
pub(crate) fn create(context: &Context, spec: &SliceSpec, count: Option<u32>, dry_run: bool) -> Result<i32> {
    let made = match count {
        Some(count) => {
            let path = format!("replicas?count={count}&dry_run={dry_run}");
            program::create::<List<Slice>>(context, &path, spec)?.1
        }
        None => {
            let path = if dry_run { "slices?dry_run=true" } else { "slices" };
            List::new("slices", vec![program::create::<Slice>(context, path, spec)?.1])
        }
    };
    let (Some(first), Some(last)) = (made.items.first(), made.items.last()) else { return Ok(0) };
    if first.overcommitted {
        output::warning(&format!("the quotas on GPU {} sum up to more than it has", gpus_of(first)));
    }
    let verb = if dry_run { "would create" } else { "created" };
    let what = || {
        let engine = format!("{} ({})", first.engine, first.engine_reason);
        format!("{} of GPU {}, {engine}", limit_of(first), gpus_of(first))
    };
    match count {
        None => output::print(context.format, &Named::new("slice", first), || {
            format!("{verb} slice {}: {}", first.name, what())
        })?,
        Some(count) => output::print(context.format, &made, || {
            format!("{verb} {count} slices {} to {}: each {}", first.name, last.name, what())
        })?,
    }
    Ok(0)
}

/// What a slice would best be on the GPUs of an inventory.
#[derive(Serialize)]
struct Imagined<'a> {
    gpu: u32,
    model: &'a str,
    memory_bytes: Option<u64>,
    compute_percent: Option<f64>,
    #[serde(flatten)]
    choice: Choice,
}

/// Says which engine is the best that the hardware of an inventory has for a slice; nothing need be here.
pub(crate) fn imagine(context: &Context, spec: &SliceSpec, file: &Path) -> Result<i32> {
    let invalid = |message: String, hint: &str| ErrorBody::new(ErrorCode::Invalid, message, hint);
    let mut fleet = Fleet::default();
    let left_out = fleet.add_inventory(&NodeSpec::plain("the inventory"), &inventory::load(file)?);
    left_out.map_err(|why| invalid(why, ""))?.iter().for_each(|one| output::warning(one));
    let cards = fleet.shapes.iter().flat_map(|shape| &shape.cards);
    let mut cards: Vec<_> = cards.filter_map(|(gpu, kind)| Some((*gpu, fleet.kinds.get(*kind)?))).collect();
    if spec.gpu != "any" {
        cards.retain(|(gpu, _)| spec.gpu.parse() == Ok(*gpu));
    }
    let mut refused = None;
    for (gpu, kind) in cards {
        let whole = kind.memory_mib << 20;
        let memory = spec.fraction.map(|part| part.of(whole)).or(spec.memory.map(|memory| memory.of(whole)));
        let percent = spec.fraction.map(Fraction::percent).or(spec.compute).map(Percent::get);
        let domain = spec.trust_domain.is_some();
        let wish = Wish { engine: spec.engine, bytes: memory.unwrap_or(0), percent, domain };
        match choose(kind, &wish) {
            Err(why) => {
                refused
                    .get_or_insert(format!("engine {} can't be had: GPU {gpu} ({}): {why}", spec.engine, kind.model));
            }
            Ok(choice) => {
                let found =
                    Imagined { gpu, model: &kind.model, memory_bytes: memory, compute_percent: percent, choice };
                output::print(context.format, &Named::new("choice", &found), || {
                    let Choice { engine, profile, reason, needs } = &found.choice;
                    let profile = profile.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                    let needs: String = needs.iter().map(|need| format!("\nit needs {need}")).collect();
                    format!("would be best on GPU {gpu} ({}): {engine}{profile} ({reason}){needs}", found.model)
                })?;
                return Ok(0);
            }
        }
    }
    match refused {
        Some(why) => Err(ErrorBody::new(
            ErrorCode::Refused,
            why,
            format!("`cleave modes --inventory {}` lists what each GPU can", file.display()),
        )),
        None => Err(ErrorBody::new(
            ErrorCode::NotFound,
            format!("there is no GPU \"{}\" in {}", spec.gpu, file.display()),
            "name one GPU by its index, or `any`",
        )),
    }
}

/// Lists the slices.
pub(crate) fn list(context: &Context) -> Result<i32> {
    let slices: List<Slice> = context.client()?.get("slices")?;
    output::print(context.format, &slices, || list_text(&slices.items))?;
    Ok(0)
}

/// A table of slices.
pub(crate) fn list_text(slices: &[Slice]) -> String {
    if slices.is_empty() {
        return "no slices; `cleave slice create --memory 10GiB` makes one".into();
    }
    let mut rows = Vec::new();
    for slice in slices {
        for device in &slice.devices {
            rows.push(vec![
                slice.name.clone(),
                device.gpu.to_string(),
                format_bytes(device.limit_bytes),
                or_dash(device.used_bytes.map(format_bytes)),
                device.used_bytes.map_or_else(String::new, |used| bar(used, device.limit_bytes, 16)),
                or_dash(device.used_bytes.map(|used| percent(used, device.limit_bytes))),
                or_dash(slice.compute_percent.map(|c| format!("{c}%"))),
                if slice.suspended {
                    "suspended".into()
                } else if slice.paused {
                    "paused".into()
                } else {
                    or_dash(device.time.last_1s.map(|last| share(last.given_ns, SECOND)))
                },
                show::busy(device.busy_percent),
                slice.processes.len().to_string(),
                grouped(slice.launches_total),
                grouped(slice.denied_total),
                slice.owner.name.clone().unwrap_or_else(|| slice.owner.uid.to_string()),
                if slice.overcommitted { "overcommitted" } else { "" }.into(),
            ]);
        }
    }
    let headers = [
        "SLICE",
        ">GPU",
        ">QUOTA",
        ">USED",
        "",
        ">%",
        ">COMPUTE",
        ">GIVEN",
        ">BUSY",
        ">PROCS",
        ">LAUNCHES",
        ">DENIED",
        "OWNER",
        "",
    ];
    table(&headers, rows)
}

/// Shows one slice.
pub(crate) fn show(context: &Context, slice: &str) -> Result<i32> {
    let slice: Slice = context.client()?.get(&format!("slices/{}", segment(slice)))?;
    output::print(context.format, &Named::new("slice", &slice), || show_text(&slice))?;
    Ok(0)
}

/// Says why a slice runs as it does.
pub(crate) fn explain(context: &Context, slice: &str) -> Result<i32> {
    let explanation: Explanation = context.client()?.get(&format!("slices/{}/explain", segment(slice)))?;
    output::print(context.format, &Named::new("explanation", &explanation), || explain_text(&explanation))?;
    Ok(0)
}

fn explain_text(explanation: &Explanation) -> String {
    let mut text = format!("slice {}\n", explanation.slice);
    if let Some(made) = made_of(&explanation.classes) {
        text.push_str(&format!("GPU time: {made}\n"));
    }
    for device in &explanation.devices {
        let share = device.share_percent.map_or("no share set".into(), |percent| format!("{percent}%"));
        let (mode, priority, engine) = (device.mode, device.priority, &device.engine);
        let window = device.window_ms.map_or(String::new(), |ms| format!(", windows of {ms} ms"));
        text.push_str(&format!("\nGPU {}: {share}, {mode}, {priority} ({engine}{window})\n", device.gpu));
        text.push_str(&format!("  * it is {engine}: {}\n", device.engine_reason));
        for reason in &device.reasons {
            text.push_str(&format!("  * {}\n", reason.message));
        }
        let rows = device.neighbours.iter().map(|other| {
            vec![
                or_dash(other.slice.clone()),
                format!("{}%", other.share_percent),
                other.mode.to_string(),
                other.priority.to_string(),
                if other.at_work { "at work" } else { "idle" }.into(),
            ]
        });
        if rows.len() > 0 {
            text.push_str(&format!("\n{}\n", table(&["BESIDE", ">SHARE", "MODE", "PRIORITY", "NOW"], rows.collect())));
        }
    }
    text
}

/// What GPU time was used for, the most first; `None` if nothing is known to have been.
fn made_of(classes: &BTreeMap<String, ClassUse>) -> Option<String> {
    let what = |class: &str| match class {
        "latency" => " (attention, decode)",
        "throughput" => " (matrices, convolution)",
        _ => "",
    };
    let mut times: Vec<_> = classes.iter().filter_map(|(class, used)| Some((used.device_ns?, class))).collect();
    let whole = times.iter().fold(0u64, |sum, (time, _)| sum.saturating_add(*time));
    times.retain(|(time, _)| *time > 0);
    times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let mut parts: Vec<_> =
        times.iter().map(|(time, class)| format!("{class}{} {}", what(class), percent(*time, whole))).collect();
    if let Some(launches) = classes.get("collective").and_then(|used| used.launches) {
        parts.push(format!("{} collective kernels, not measured", grouped(launches)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

const SECOND: u64 = 1_000_000_000;

/// A part of a GPU's time.
fn share(given_ns: u64, of_ns: u64) -> String {
    format!("{:.1}%", given_ns as f64 * 100.0 / of_ns as f64)
}

/// What a slice did with a GPU's time.
fn time_lines(time: &DeviceTime) -> Vec<(&'static str, String)> {
    let seconds = |ns: u64| format!("{:.3} s", ns as f64 / 1e9);
    let mut lines = Vec::new();
    for (span, given, length) in [
        ("last 10 ms", time.last_10ms, SECOND / 100),
        ("last second", time.last_1s, SECOND),
        ("last minute", time.last_1min, 60 * SECOND),
    ] {
        if let Some(given) = given {
            lines.push((
                span,
                format!("{} given, {} owed", share(given.given_ns, length), share(given.owed_ns, length)),
            ));
        }
    }
    if time.device_ns > 0 {
        let in_flight = format!("{:.3} ms in flight", time.in_flight_ns as f64 / 1e6);
        lines.push(("device time", format!("{}, {in_flight}", seconds(time.device_ns))));
    }
    if time.throttled_total > 0 {
        let times = grouped(time.throttled_total);
        let now = if time.waiting > 0 { format!(", {} now", grouped(time.waiting)) } else { String::new() };
        lines.push(("waited", format!("{} for turns, {times} times{now}", seconds(time.throttled_ns))));
    }
    lines
}

fn show_text(slice: &Slice) -> String {
    let mut lines = vec![
        ("name", slice.name.clone()),
        ("id", slice.id.clone()),
        ("owner", slice.owner.name.clone().unwrap_or_else(|| format!("uid {}", slice.owner.uid))),
        ("created", slice.created_at.clone()),
        ("compute", compute(slice)),
        ("engine", format!("{} ({})", slice.engine, slice.engine_reason)),
        ("trust domain", or_dash(slice.trust_domain.clone())),
        (
            "host memory",
            match slice.host_limit_bytes {
                Some(limit) => format!("{} of {} pinned", format_bytes(slice.host_used_bytes), format_bytes(limit)),
                None => format!("{} pinned, no limit", format_bytes(slice.host_used_bytes)),
            },
        ),
        ("launches", grouped(slice.launches_total)),
        ("refused", format!("{} allocations", grouped(slice.denied_total))),
    ];
    if let Some(made) = made_of(&slice.classes) {
        lines.push(("GPU time", made));
    }
    if !slice.watchdog.is_none() {
        let lowered = if slice.lowered { " (in the lowest class now)" } else { "" };
        lines.push(("watchdog", format!("{}{lowered}", slice.watchdog)));
    }
    if slice.suspend_after.ms().is_some() {
        lines.push(("suspended", format!("after {} of idleness, sooner if room is needed", slice.suspend_after)));
    }
    if slice.ephemeral {
        lines.push(("ends", "with its last process".into()));
    }
    if slice.overcommitted {
        let note =
            "overcommitted: the quotas on its GPUs sum up to more than they have; --explain tells what that means";
        lines.push(("note", note.into()));
    }
    if slice.in_motion {
        lines.push(("note", "memory comes and goes too fast to add up: at least so much is in use".into()));
    }
    let mut text = String::new();
    for (key, value) in lines {
        text.push_str(&format!("{key:<13} {value}\n"));
    }
    for device in &slice.devices {
        let peak = device.peak_bytes.map(|peak| format!("peak {}", format_bytes(peak)));
        let line = match device.used_bytes {
            Some(used) => show::memory_line(used, device.limit_bytes, peak.as_slice(), device.busy_percent),
            None => format!("{}, all of it; what is in use nobody measures", format_bytes(device.limit_bytes)),
        };
        let uuid = device.mig_uuid.as_ref().unwrap_or(&device.gpu_uuid);
        let instance = device.mig_profile.as_ref().map_or(String::new(), |profile| format!(", {profile}"));
        text.push_str(&format!("\nGPU {}{instance} ({uuid})\n  {line}\n", device.gpu));
        for (what, line) in time_lines(&device.time) {
            text.push_str(&format!("  {what:<12} {line}\n"));
        }
        for (what, bytes) in &device.used_for {
            if *bytes > 0 {
                text.push_str(&format!("  {what:<12} {}\n", format_bytes(*bytes)));
            }
        }
        if device.measured_bytes != 0 {
            let sign = if device.measured_bytes < 0 { "-" } else { "+" };
            text.push_str(&format!(
                "  {:<12} {sign}{}\n",
                "measured",
                format_bytes(device.measured_bytes.unsigned_abs())
            ));
        }
    }
    if !slice.processes.is_empty() {
        text.push('\n');
        text.push_str(&show::ps_text(&slice.processes));
    }
    text
}

/// Changes a slice's quotas.
pub(crate) fn resize(context: &Context, slice: &str, change: ChangeOptions) -> Result<i32> {
    let change = SliceChange {
        memory: change.memory,
        compute: change.compute,
        mode: change.mode,
        priority: change.priority,
        burst_ms: change.burst,
        watchdog: change.watchdog,
        suspend_after: change.suspend_after,
        host_memory: change.host_memory,
        force: change.force,
        oversubscribe: change.oversubscribe,
    };
    let slice: Slice = context.client()?.patch(&format!("slices/{}", segment(slice)), &change)?;
    output::print(context.format, &Named::new("slice", &slice), || {
        format!("slice {}: {} of GPU {}, compute {}", slice.name, limit_of(&slice), gpus_of(&slice), compute(&slice))
    })?;
    Ok(0)
}

/// A slice's share, and how it is meant.
fn compute(slice: &Slice) -> String {
    let share = slice.compute_percent.map_or("no share set".into(), |c| format!("{c}%"));
    let burst = slice.burst_ms.map(|ms| format!(", burst {ms} ms")).unwrap_or_default();
    let paused = if slice.paused { ", paused" } else { "" };
    let suspended = if slice.suspended { ", suspended" } else { "" };
    format!("{share}, {}{burst}, {}{paused}{suspended}", slice.mode, slice.priority)
}

/// Stops a slice's programs, or lets them go on.
pub(crate) fn pause(context: &Context, slice: &str, paused: bool) -> Result<i32> {
    let what = if paused { "pause" } else { "resume" };
    let slice: Slice = context.client()?.post(&format!("slices/{}/{what}", segment(slice)), &())?;
    output::print(context.format, &Named::new("slice", &slice), || {
        format!("slice {} {}", slice.name, if slice.paused { "is paused" } else { "goes on" })
    })?;
    Ok(0)
}

/// Takes a slice's memory off its GPUs, or brings it back.
pub(crate) fn suspend(context: &Context, slice: &str, away: bool) -> Result<i32> {
    let what = if away { "suspend" } else { "wake" };
    let slice: Slice = context.client()?.post(&format!("slices/{}/{what}", segment(slice)), &())?;
    output::print(context.format, &Named::new("slice", &slice), || {
        format!("slice {} is {}", slice.name, if slice.suspended { "suspended" } else { "awake" })
    })?;
    Ok(0)
}

/// Deletes slices; each that can't be deleted is named, and the others are deleted.
pub(crate) fn delete(context: &Context, slices: &[String], force: bool) -> Result<i32> {
    let client = context.client()?;
    let (mut deleted, mut code) = (Vec::new(), 0);
    for slice in slices {
        match client.delete(&format!("slices/{}?force={force}", segment(slice))) {
            Ok(()) => {
                if context.format == Format::Table {
                    output::line(&format!("deleted slice {slice}"))?;
                }
                deleted.push(slice.clone());
            }
            // A daemon that has gone will not answer for the next one either.
            Err(error) if error.code == ErrorCode::Unavailable => return Err(error),
            Err(error) => {
                output::error(&error);
                code = error.code.exit_code();
            }
        }
    }
    if context.format != Format::Table {
        output::print(context.format, &List::new("deleted-slices", deleted), String::new)?;
    }
    Ok(code)
}

fn limit_of(slice: &Slice) -> String {
    match slice.devices.first() {
        Some(device) => format_bytes(device.limit_bytes),
        None => "nothing".into(),
    }
}
