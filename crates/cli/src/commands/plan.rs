//! `cleave plan`: where workloads go, why, what would happen if, and to do it.
use super::{Context, inventory, manifest, mig};
use crate::client::Result;
use crate::output::{self, Format, Named, or_dash, percent, table};
use crate::{PlanOptions, yaml};
use cleave_api::{
    Engine, ErrorBody, ErrorCode, Inventory, List, MemoryAmount, MigGpu, MigLayout, MigOutcome, MigPlace, MigRequest,
    MigWish, Percent, Slice, SliceSpec, format_bytes,
};
use cleave_inventory::{drawing, geometry};
use cleave_plan::fleet::{self, Fleet};
use cleave_plan::planner::{Busy, Places, plan};
use cleave_plan::spec::{File, NodeSpec};
use cleave_plan::told::{Placement, Plan};
use cleave_policy::pack::rounded_up;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

const HINT: &str = "a plan is `workloads:`, a list of what shall run, and `fleet:`, a list of nodes, which may be left out for this \
    machine; SPECIFICATION.md lists the keys";
/// Candidates of each workload that the table shows.
const SHOWN: usize = 8;

/// Something that would be different.
#[derive(Serialize)]
struct Difference {
    name: String,
    /// Where it is, or would be without the changes; absent: nowhere.
    from: Option<String>,
    /// Where it would be with them.
    to: Option<String>,
}

/// A plan with changes, and what they change.
#[derive(Serialize)]
struct WhatIf {
    #[serde(flatten)]
    plan: Plan,
    gpus_used_before: usize,
    differences: Vec<Difference>,
}

fn invalid(message: String, hint: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Invalid, message, hint)
}

/// Plans a file, on its fleet or on this machine.
pub(crate) fn run(context: &Context, options: &PlanOptions) -> Result<i32> {
    if let (Some(profile), Some(gpus)) = (&options.profile, &options.gpus) {
        return mig::count_on(context, gpus, profile);
    }
    let Some(path) = &options.file else {
        return Err(invalid("there is no file".into(), "name a file with workloads, or - for stdin"));
    };
    let name = inventory::name_of(path);
    let text = inventory::text_of(path)?;
    let checked = |file: File| file.checked().map_err(|why| invalid(format!("{name}: {why}"), HINT));
    let file = checked(yaml::read(&name, &text, HINT)?)?;
    let (mut fleet, busy, keep) = match file.fleet.is_empty() {
        true => this_machine(context, options, &file)?,
        false if options.of.inventory.is_some() || options.of.import.is_some() => {
            let message = format!("{name} has a fleet of its own, and an inventory is named besides");
            return Err(invalid(message, "leave one of the two out"));
        }
        false => (of_file(path, &file.fleet)?, Vec::new(), Places::new()),
    };
    let planned = |file: &File, fleet: &Fleet, keep: &Places, explain| {
        plan(file, fleet, &busy, keep, explain).map_err(|why| invalid(format!("{name}: {why}"), HINT))
    };
    let changed =
        !(options.add.is_empty() && options.lose.is_empty() && options.change.is_empty() && options.watts.is_none());
    if !changed {
        let found = planned(&file, &fleet, &keep, options.explain)?;
        if options.apply {
            return apply(context, options, &name, &found);
        }
        output::print(context.format, &Named::new("plan", &found), || shown(&found, options.explain))?;
        found.warnings.iter().filter(|_| context.format == Format::Table).for_each(|one| output::warning(one));
        return Ok(if found.unplaced.is_empty() { 0 } else { 3 });
    }
    if options.apply {
        return Err(invalid(
            "--apply carries out what is, not what would be if".into(),
            "change the file, and apply that",
        ));
    }
    let before = planned(&file, &fleet, &keep, false)?;
    let other = checked(changes(&name, &text, options)?)?;
    for lost in &options.lose {
        let (node, gpu) = lost.split_once('/').map_or((lost.as_str(), None), |(node, gpu)| (node, Some(gpu)));
        let names: Vec<&str> = fleet.nodes.iter().take(5).map(|(name, _)| name.as_str()).collect();
        let known = format!("name NODE or NODE/GPU; there are {}", names.join(", "));
        let number = gpu.map(|gpu| {
            gpu.parse::<u32>().map_err(|_| invalid(format!("--lose {lost}: \"{gpu}\" is no number"), &known))
        });
        if !fleet.lose(node, number.transpose()?) {
            return Err(ErrorBody::new(ErrorCode::NotFound, format!("--lose {lost}: it is not in the fleet"), known));
        }
    }
    // Who has a place keeps it if that is still there: a change moves no more than it must.
    let keep: Places = before
        .placements
        .iter()
        .map(|one| (one.name.clone(), (one.place.node.clone(), one.place.gpus.clone())))
        .collect();
    let after = planned(&other, &fleet, &keep, options.explain)?;
    let told = WhatIf { differences: differences(&before, &after), gpus_used_before: before.gpus.len(), plan: after };
    output::print(context.format, &Named::new("plan", &told), || told_text(&told, options.explain))?;
    told.plan.warnings.iter().filter(|_| context.format == Format::Table).for_each(|one| output::warning(one));
    Ok(if told.plan.unplaced.is_empty() { 0 } else { 3 })
}

/// The file with `--add`, `--change` and `--watts`.
fn changes(name: &str, text: &str, options: &PlanOptions) -> Result<File> {
    let mut value: serde_json::Value = yaml::read(name, text, HINT)?;
    let mut set =
        |of: &str, workload: &str, key: &str, to: &dyn Fn(Option<&serde_json::Value>) -> serde_json::Value| {
            let all = value.get_mut("workloads").and_then(|all| all.as_array_mut());
            let found = all.into_iter().flatten().find(|one| one.get("name").is_some_and(|name| name == workload));
            let Some(serde_json::Value::Object(map)) = found else {
                return Err(ErrorBody::new(
                    ErrorCode::NotFound,
                    format!("{of}: {name} has no workload \"{workload}\""),
                    "name one of the file",
                ));
            };
            let new = to(map.get(key));
            map.insert(key.into(), new);
            Ok(())
        };
    for text in &options.add {
        let hint = "write NAME=COUNT, as in chat=2";
        let (workload, count) =
            text.split_once('=').ok_or_else(|| invalid(format!("--add {text}: = is missing"), hint))?;
        let more: u64 = count.parse().map_err(|_| invalid(format!("--add {text}: \"{count}\" is no number"), hint))?;
        set(&format!("--add {text}"), workload, "count", &|old| {
            (old.and_then(|old| old.as_u64()).unwrap_or(1) + more).into()
        })?;
    }
    for text in &options.change {
        let hint = "write NAME:KEY=VALUE, as in chat:memory=20GiB";
        let parts = text.split_once(':').and_then(|(name, rest)| Some((name, rest.split_once('=')?)));
        let (workload, (key, to)) = parts.ok_or_else(|| invalid(format!("--change {text}: it can't be read"), hint))?;
        let to: serde_json::Value = serde_saphyr::from_str(to)
            .map_err(|_| invalid(format!("--change {text}: \"{to}\" can't be read"), hint))?;
        set(&format!("--change {text}"), workload, key, &|_| to.clone())?;
    }
    // Through text once more: one reader, with its rules and its words.
    let text = serde_saphyr::to_string(&value).map_err(|e| ErrorBody::new(ErrorCode::Internal, e.to_string(), ""))?;
    let mut file: File = yaml::read(&format!("{name} with --change"), &text, HINT)?;
    file.site.watts = options.watts.or(file.site.watts);
    Ok(file)
}

/// The fleet that a file describes.
fn of_file(path: &Path, nodes: &[NodeSpec]) -> Result<Fleet> {
    let mut fleet = Fleet::default();
    let name = path.display();
    for node in nodes {
        let wrong = |key: &str, why: String| invalid(format!("{name}: node {}: {key}: {why}", node.name), HINT);
        let beside = |file: &String| path.parent().unwrap_or(Path::new("")).join(file);
        if let Some(gpus) = &node.gpus {
            let gpus = fleet::gpus(gpus).map_err(|why| wrong("gpus", why))?;
            match &node.topology {
                None => fleet.add(node, gpus).map_err(|why| wrong("engine", why))?,
                Some(file) => {
                    let links = inventory::import(&beside(file))?;
                    fleet.add_linked(node, gpus, &links).map_err(|why| wrong("topology", why))?;
                }
            }
        }
        if let Some(file) = &node.inventory {
            let read = inventory::load(&beside(file))?;
            let left_out = fleet.add_inventory(node, &read).map_err(|why| wrong("inventory", why))?;
            left_out.iter().for_each(|one| output::warning(one));
        }
    }
    Ok(fleet)
}

/// This machine, or the one of `--inventory`; what is on it; and which of the file's workloads it has already.
fn this_machine(context: &Context, options: &PlanOptions, file: &File) -> Result<(Fleet, Vec<Busy>, Places)> {
    let (found, gpus) = inventory::find(context, &options.of)?;
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut fleet = Fleet::default();
    let left_out = fleet.add_inventory(&NodeSpec::plain(&name), &found).map_err(|why| invalid(why, ""))?;
    left_out.iter().chain(&drawing::problems(&found.problems)).for_each(|one| output::warning(one));
    for gpu in gpus.iter().flatten().filter(|gpu| gpu.draining) {
        output::warning(&format!("GPU {} is being drained: it is left out", gpu.index));
        fleet.lose(&name, Some(gpu.index));
    }
    if fleet.count() == 0 {
        let message = "this machine has no GPU whose memory is known".to_owned();
        let hint = "describe nodes under `fleet:`, or name an inventory or --sim";
        return Err(ErrorBody::new(ErrorCode::Unavailable, message, hint));
    }
    if gpus.is_none() {
        return Ok((fleet, Vec::new(), Places::new()));
    }
    let client = context.client()?;
    let slices = client.get::<List<Slice>>("slices")?.items;
    let ours: Vec<String> = file.workloads.iter().flat_map(|workload| workload.names()).collect();
    let (mine, others): (Vec<&Slice>, Vec<&Slice>) = slices.iter().partition(|slice| ours.contains(&slice.name));
    let keep = mine.iter().map(|slice| {
        (slice.name.clone(), (name.clone(), slice.devices.iter().map(|device| device.gpu).collect::<Vec<u32>>()))
    });
    let mut busy = Vec::new();
    for slice in others.iter().filter(|slice| slice.engine != Engine::Mig) {
        let compute = slice.compute_percent.map_or(0, rounded_up);
        busy.extend(slice.devices.iter().map(|device| Busy {
            node: name.clone(),
            gpu: device.gpu,
            memory_mib: device.limit_bytes.div_ceil(1 << 20),
            compute,
            mask: 0,
        }));
    }
    for gpu in client.get::<List<MigGpu>>("mig")?.items.iter().filter(|gpu| gpu.enabled) {
        let shape = geometry(&gpu.profiles);
        let used = |slices: &[String]| slices.is_empty() || slices.iter().any(|slice| !ours.contains(slice));
        for one in gpu.instances.iter().filter(|one| one.busy && used(&one.slices)) {
            let profile = shape.named(&one.profile).and_then(|at| shape.profiles.get(at));
            let mask = profile.map_or(0, |profile| profile.mask(u8::try_from(one.start).unwrap_or(0)));
            let memory_mib = profile.map_or(0, |profile| profile.memory_mib);
            busy.push(Busy { node: name.clone(), gpu: gpu.gpu, memory_mib, compute: 0, mask });
        }
    }
    Ok((fleet, busy, keep.collect()))
}

fn differences(before: &Plan, after: &Plan) -> Vec<Difference> {
    let mut all: BTreeMap<&str, (Option<String>, Option<String>)> = BTreeMap::new();
    for one in &before.placements {
        all.entry(&one.name).or_default().0 = Some(place(one));
    }
    for one in &after.placements {
        all.entry(&one.name).or_default().1 = Some(place(one));
    }
    for one in before.unplaced.iter().chain(&after.unplaced) {
        all.entry(&one.name).or_default();
    }
    let told = before.unplaced.iter().map(|one| one.name.as_str()).collect::<Vec<_>>();
    all.into_iter()
        .filter(|(name, (from, to))| from != to || from.is_none() && !told.contains(name))
        .map(|(name, (from, to))| Difference { name: name.to_owned(), from, to })
        .collect()
}

/// `node-1 GPU 0 3g.40gb`.
fn place(one: &Placement) -> String {
    let profile = one.place.profile.as_ref().map(|profile| format!(" {profile}")).unwrap_or_default();
    format!("{}{profile}", one.place)
}

fn told_text(told: &WhatIf, explain: bool) -> String {
    let rows = told.differences.iter().map(|one| {
        let or = |place: &Option<String>| place.clone().unwrap_or_else(|| "nowhere".into());
        vec![one.name.clone(), or(&one.from), or(&one.to)]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let changes = if rows.is_empty() { "nothing would move".into() } else { table(&["WORKLOAD", "FROM", "TO"], rows) };
    let used = format!("GPUs in use: {} instead of {}", told.plan.gpus.len(), told.gpus_used_before);
    format!("{}\n\nwhat changes\n{changes}\n{used}", shown(&told.plan, explain))
}

fn shown(plan: &Plan, explain: bool) -> String {
    let rows = plan.placements.iter().map(|one| {
        vec![
            one.name.clone(),
            one.place.node.clone(),
            one.place.numbers(),
            one.model.clone(),
            one.place.engine.to_string(),
            one.place.profile.clone().unwrap_or_else(|| format_bytes(one.memory_bytes)),
            or_dash(one.compute_percent.map(|percent| format!("{percent} %"))),
            or_dash(one.cpus.clone()),
            one.reason.clone(),
        ]
    });
    let mut text = match plan.placements.is_empty() {
        true => "no workload has a place".to_owned(),
        false => table(
            &["WORKLOAD", "NODE", "GPU", "MODEL", "ENGINE", ">MEMORY", ">COMPUTE", "CPUS", "WHY THERE"],
            rows.collect(),
        ),
    };
    if explain {
        for one in &plan.placements {
            text.push_str(&explained(one));
        }
    }
    for one in &plan.unplaced {
        text.push_str(&format!("\n\n{} has no place: {}", one.name, one.why));
        let more = one.refused.iter().map(|one| {
            format!("\n  {} keeps {} GPUs from it, {} of them alone: {}", one.rule, one.gpus, one.alone, one.why)
        });
        text.extend(more.filter(|_| explain));
        text.extend(one.offers.iter().map(|offer| format!("\n  what would do: {offer}")));
    }
    let used = plan.gpus.len();
    let (mut memory, mut whole) = (0, 0);
    for gpu in &plan.gpus {
        memory += gpu.memory_bytes;
        whole += gpu.memory_total_bytes;
    }
    text.push_str(&format!("\n\n{used} of {} GPUs in use", plan.gpus_total));
    if whole > 0 {
        text.push_str(&format!(", {} of their memory ({})", format_bytes(memory), percent(memory, whole)));
    }
    match (plan.watts, plan.watts_limit) {
        (Some(watts), Some(limit)) => text.push_str(&format!(", {watts:.0} of {limit:.0} W at most")),
        (Some(watts), None) => text.push_str(&format!(", {watts:.0} W at most")),
        _ => {}
    }
    text
}

/// Every candidate of a workload with its score, and what kept it from others.
fn explained(one: &Placement) -> String {
    let mut text = format!("\n\n{}: {}", one.name, one.reason);
    let candidates = one.candidates.as_deref().unwrap_or_default();
    let rows = candidates.iter().take(SHOWN).enumerate().map(|(at, place)| {
        let links = place.links.chunk_by(|a, b| a == b).map(|run| match run {
            [one] => one.clone(),
            run => format!("{} {}", run.len(), run[0]),
        });
        let links: Vec<String> = links.collect();
        vec![
            (at + 1).to_string(),
            place.node.clone(),
            place.numbers(),
            place.profile.clone().unwrap_or_else(|| place.engine.to_string()),
            or_dash(Some(links.join(", ")).filter(|links| !links.is_empty())),
            if place.stays { "no" } else { "yes" }.into(),
            format!("{} %", place.conflict_percent),
            place.opens.to_string(),
            format!("{:.3}", place.waste),
            place.against.join(", "),
        ]
    });
    text.push('\n');
    text.push_str(&table(
        &[">RANK", "NODE", "GPU", "AS", "LINKS", "MOVES", ">SHORT", ">OPENS", ">WASTE", "AGAINST IT"],
        rows.collect(),
    ));
    if candidates.len() > SHOWN {
        text.push_str(&format!("\nand {} more; -o json has them", candidates.len() - SHOWN));
    }
    for refusal in one.refused.iter().flatten() {
        text.push_str(&format!("\nnot on {} GPUs, {}: {}", refusal.gpus, refusal.rule, refusal.why));
    }
    if let Some(cpus) = &one.cpus {
        text.push_str(&format!("\nnear it: taskset -c {cpus} PROGRAM"));
    }
    text
}

/// Makes the slices of a plan that are on this machine.
fn apply(context: &Context, options: &PlanOptions, name: &str, plan: &Plan) -> Result<i32> {
    if let Some(one) = plan.unplaced.first() {
        let more = plan.unplaced.len() - 1;
        let others = if more == 0 { String::new() } else { format!(", and {more} more") };
        let message = format!("{} has no place{others}: {}; nothing was done", one.name, one.why);
        return Err(ErrorBody::new(ErrorCode::Refused, message, "plan without --apply says what would do"));
    }
    let mut nodes: Vec<&str> = plan.placements.iter().map(|one| one.place.node.as_str()).collect();
    nodes.dedup();
    let node = match (&options.node, nodes.as_slice()) {
        (Some(node), _) => node.as_str(),
        (None, [only]) => only,
        (None, _) => {
            let message = "the plan is for several nodes".to_owned();
            return Err(invalid(message, "say with --node which of them this machine is; each applies its own part"));
        }
    };
    let here: Vec<&Placement> = plan.placements.iter().filter(|one| one.place.node == node).collect();
    let client = context.client_or_start()?;
    let devices = client.get::<Inventory>("inventory")?.devices;
    for one in &here {
        for number in &one.place.gpus {
            let there = devices.iter().find(|device| device.index == *number);
            // The plan may call it by its name in the device table.
            let is = |name: &String| fleet::same_model(name, &one.model);
            let same = there.is_some_and(|device| is(&device.name) || device.model.as_ref().is_some_and(is));
            if !same {
                let is = there.map_or_else(|| "is not there".into(), |gpu| format!("is a {}", gpu.name));
                let message = format!(
                    "{}: GPU {number} of {node} is to be a {}, and here it {is}; nothing was done",
                    one.name, one.model
                );
                return Err(ErrorBody::new(
                    ErrorCode::Conflict,
                    message,
                    "name the node that this machine is, or mend the fleet in the file",
                ));
            }
        }
    }
    // A GPU whose MIG mode is off yet gets the plan's layout; where it is on the daemon makes instances as slices need them.
    let mig = client.get::<List<MigGpu>>("mig")?.items;
    let mut request = MigRequest::default();
    for gpu in mig.iter().filter(|gpu| !gpu.enabled) {
        let on_it = here.iter().filter(|one| one.place.engine == Engine::Mig && one.place.gpus == [gpu.gpu]);
        let instances: Vec<MigPlace> = on_it
            .filter_map(|one| Some(MigPlace { profile: one.place.profile.clone()?, start: one.start.map(u32::from) }))
            .collect();
        if !instances.is_empty() {
            request
                .gpus
                .push(MigWish { gpu_uuid: gpu.gpu_uuid.clone(), layout: MigLayout { enabled: true, instances } });
        }
    }
    if !request.gpus.is_empty() {
        let outcome: MigOutcome = client.post("mig?dry_run=false", &request)?;
        outcome.steps.iter().for_each(|step| output::warning(&step.to_string()));
    }
    let specs = here.iter().map(|one| {
        // A profile that was asked for without a share has the part of the multiprocessors that makes it the one.
        let whole = mig.iter().find(|gpu| one.place.gpus == [gpu.gpu]).and_then(|gpu| {
            let shape = geometry(&gpu.profiles);
            let profile = shape.profiles.get(shape.named(one.place.profile.as_deref()?)?)?;
            Some(f64::from(shape.percent(profile)))
        });
        let spec = SliceSpec {
            name: Some(one.name.clone()),
            gpu: one.place.numbers(),
            memory: Some(MemoryAmount::Bytes(one.memory_bytes)),
            priority: one.priority,
            engine: one.place.engine,
            ..SliceSpec::default()
        };
        // Of a device that is given whole there is nothing to share out.
        match one.place.engine {
            Engine::Whole => spec,
            _ => SliceSpec {
                compute: one.compute_percent.or(whole).and_then(Percent::new),
                mode: one.mode,
                trust_domain: one.trust_domain.clone(),
                ..spec
            },
        }
    });
    manifest::settle(context, name, specs.collect(), false, false)
}
