//! What the machine has and how it is linked: `cleave gpus`, `cleave topo`.
use super::{Context, show::busy};
use crate::client::Result;
use crate::output::{self, Format, Named, or_dash, percent, table};
use crate::{Topo, Where};
use cleave_api::{
    Device, Engine, ErrorBody, ErrorCode, Gpu, GpuModes, Inventory, List, MemoryFrom, Migration, Slice, Vendor,
    format_bytes, risk,
};
use cleave_inventory::{drawing, hwloc, matrix};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// Names of slices that a table shows.
const MOST_NAMES: usize = 5;
/// Groups that a table shows.
const MOST_GROUPS: usize = 40;

/// The inventory that `of` names, or this machine's; and what a daemon knows of NVIDIA's GPUs besides, where one runs.
pub(super) fn find(context: &Context, of: &Where) -> Result<(Inventory, Option<Vec<Gpu>>)> {
    let (inventory, gpus) = match (&of.inventory, &of.import) {
        (Some(file), _) => (load(file)?, None),
        (_, Some(file)) => (import(file)?, None),
        _ if context.sim.is_some() || context.daemon_runs() => {
            let client = if context.sim.is_some() { context.client_or_start()? } else { context.client()? };
            (client.get("inventory")?, Some(client.get::<List<Gpu>>("gpus")?.items))
        }
        _ => (cleave_daemon::inventory(), None),
    };
    drawing::problems(&inventory.problems).iter().for_each(|problem| output::warning(problem));
    Ok((inventory, gpus))
}

/// What a file is called in messages.
pub(super) fn name_of(file: &Path) -> String {
    if file.as_os_str() == "-" { "stdin".into() } else { file.display().to_string() }
}

/// The text of a file, or of stdin for `-`.
pub(super) fn text_of(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(|_| text),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|e| invalid(file, &e.to_string(), "name a file that can be read, or - for stdin"))
}

/// What is wrong with a file.
pub(super) fn invalid(file: &Path, why: &str, hint: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Invalid, format!("{}: {why}", file.display()), hint)
}

pub(super) fn load(file: &Path) -> Result<Inventory> {
    let hint = "`cleave gpus --save FILE` writes one; what other tools wrote is read with --import";
    let read: Inventory = serde_saphyr::from_str(&text_of(file)?).map_err(|e| invalid(file, &e.to_string(), hint))?;
    let known = Inventory::default().schema;
    if read.schema != known {
        return Err(invalid(file, &format!("its schema is \"{}\", and \"{known}\" is read", read.schema), hint));
    }
    Ok(read)
}

pub(super) fn import(file: &Path) -> Result<Inventory> {
    let text = text_of(file)?;
    let xml = text.trim_start().starts_with('<');
    let read = if xml { hwloc::read(&text) } else { matrix::read(&text) };
    read.map_err(|why| invalid(file, &why, "it must be what `nvidia-smi topo -m` or `lstopo --of xml` wrote"))
}

/// Writes a value to a file, whole or not at all: as JSON where the name says so, else as YAML.
pub(super) fn save(value: &impl Serialize, file: &Path) -> Result<()> {
    let json = file.extension().is_some_and(|end| end == "json");
    let text = match json {
        true => serde_json::to_string_pretty(value).map_err(|e| e.to_string()),
        false => serde_saphyr::to_string(value).map(|text| text.trim_end().to_owned()).map_err(|e| e.to_string()),
    };
    write_whole(file, text)
}

/// Writes a file whole or not at all: its folder may be read at any moment.
pub(super) fn write_whole(file: &Path, text: std::result::Result<String, String>) -> Result<()> {
    // Hidden, because there are folders of which every other file is read.
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = text.and_then(|text| {
        std::fs::write(&temporary, text + "\n")
            .and_then(|()| std::fs::rename(&temporary, file))
            .map_err(|e| e.to_string())
    });
    written.map_err(|why| {
        let _ = std::fs::remove_file(&temporary);
        let why = format!("{} can't be written: {why}", file.display());
        ErrorBody::new(ErrorCode::Unavailable, why, "name a file in a folder that is there and yours")
    })
}

/// What `cleave gpus -o json` prints: the devices, each with what a daemon knows of it, and the rest of the inventory.
#[derive(Serialize)]
struct Gpus<'a> {
    items: Vec<Value>,
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

/// Lists the GPUs and other accelerators.
pub(crate) fn gpus(context: &Context, of: &Where, to: Option<&Path>) -> Result<i32> {
    let (inventory, gpus) = find(context, of)?;
    // Other makers' devices are given to slices whole.
    let owners = match gpus.is_some() && inventory.devices.iter().any(|device| device.vendor != Vendor::Nvidia) {
        true => context.client()?.get::<List<Slice>>("slices")?.items,
        false => Vec::new(),
    };
    let gpus = gpus.unwrap_or_default();
    if let Some(file) = to {
        save(&inventory, file)?;
    }
    let live = |device: &Device| gpus.iter().find(|gpu| device.uuid.as_ref() == Some(&gpu.uuid));
    let unwritable = |e: serde_json::Error| ErrorBody::new(ErrorCode::Internal, e.to_string(), "");
    let object = |value: Value| if let Value::Object(map) = value { map } else { Map::new() };
    let mut rest = object(serde_json::to_value(&inventory).map_err(unwritable)?);
    rest.retain(|key, _| key != "devices" && key != "schema");
    let mut items = Vec::new();
    for device in &inventory.devices {
        let mut item = object(serde_json::to_value(device).map_err(unwritable)?);
        if let Some(gpu) = live(device) {
            item.extend(object(serde_json::to_value(gpu).map_err(unwritable)?));
        }
        items.push(Value::Object(item));
    }
    output::print(context.format, &Named::new("gpus", &Gpus { items, rest: &rest }), || {
        if inventory.devices.is_empty() {
            return "no GPUs or other accelerators".into();
        }
        let headers = [
            ">GPU", "MODEL", ">MEMORY", ">USED", ">OUTSIDE", ">QUOTAS", ">BUSY", "SLICES", ">NUMA", "PCI", "DRIVER",
            "UUID",
        ];
        let mut text =
            table(&headers, inventory.devices.iter().map(|device| row(device, live(device), &owners)).collect());
        for gpu in &gpus {
            if let Some(risk) = risk(gpu.memory_bytes, gpu.reserved_bytes) {
                text.push_str(&format!("\nGPU {} is {risk}", gpu.index));
            }
        }
        text
    })?;
    Ok(0)
}

fn row(device: &Device, live: Option<&Gpu>, owners: &[Slice]) -> Vec<String> {
    let whose =
        |slice: &&Slice| slice.engine == Engine::Whole && slice.devices.iter().any(|one| one.gpu == device.index);
    let whose = owners.iter().find(whose).map(|slice| slice.name.clone());
    let bytes = |of: fn(&Gpu) -> u64| or_dash(live.map(|gpu| format_bytes(of(gpu))));
    let simulated = live.is_some_and(|gpu| gpu.simulated);
    let whole = device.memory_total_bytes.map(|bytes| match device.memory_from {
        // What the model has; nobody asked this device.
        Some(MemoryFrom::Table) => format!("~{}", format_bytes(bytes)),
        _ => format_bytes(bytes),
    });
    let quotas =
        |gpu: &Gpu| format!("{} ({})", format_bytes(gpu.reserved_bytes), percent(gpu.reserved_bytes, gpu.memory_bytes));
    vec![
        device.index.to_string(),
        if simulated { format!("{} (simulated)", device.name) } else { device.name.clone() },
        or_dash(live.map(|gpu| format_bytes(gpu.memory_bytes)).or(whole)),
        bytes(|gpu| gpu.used_bytes),
        bytes(|gpu| gpu.untracked_bytes),
        or_dash(live.map(quotas)),
        busy(live.and_then(|gpu| gpu.busy_percent)),
        or_dash(live.filter(|gpu| gpu.slice_count > 0).map(slices).or(whose)),
        or_dash(device.numa_node),
        or_dash(device.pci.clone()),
        or_dash(device.driver.clone()),
        or_dash(device.uuid.clone()),
    ]
}

/// The slices on a GPU: their names, or, where they are many or another's, their number.
fn slices(gpu: &Gpu) -> String {
    let (names, count) = (&gpu.slices, gpu.slice_count);
    match names.get(..MOST_NAMES) {
        None if names.len() == count => names.join(","),
        some => format!("{count}: {},…", some.unwrap_or(names).join(",")),
    }
}

/// Lists the engines that each GPU can run, and what can be moved off it.
pub(crate) fn modes(context: &Context, of: &Where) -> Result<i32> {
    let modes = match of.inventory.is_some() || of.import.is_some() {
        true => List::new("modes", cleave_inventory::modes::modes(&find(context, of)?.0)),
        false => context.client_or_start()?.get::<List<GpuModes>>("modes")?,
    };
    output::print(context.format, &modes, || {
        let engines = modes.items.iter().flat_map(|gpu| {
            gpu.engines.iter().map(|one| {
                vec![
                    gpu.index.to_string(),
                    gpu.name.clone(),
                    or_dash(gpu.compute_capability.clone()),
                    one.engine.to_string(),
                    yes(one.available).into(),
                    one.reason.clone().unwrap_or_default(),
                ]
            })
        });
        // GPUs of which the same is said stand together.
        let mut alike: Vec<(&Migration, Vec<String>)> = Vec::new();
        for (gpu, said) in
            modes.items.iter().flat_map(|gpu| gpu.migration.iter().map(|said| (gpu.index.to_string(), said)))
        {
            match alike.iter_mut().find(|(other, _)| *other == said) {
                Some((_, gpus)) => gpus.push(gpu),
                None => alike.push((said, vec![gpu])),
            }
        }
        let moved = alike.iter().map(|(one, gpus)| {
            let suspend = one.suspend.map_or("not tried", yes);
            vec![one.way.clone(), gpus.join(","), yes(one.live).into(), suspend.into(), one.reason.clone()]
        });
        format!(
            "{}\n\n{}",
            table(&[">GPU", "MODEL", ">CAPABILITY", "ENGINE", "AVAILABLE", "WHY NOT"], engines.collect()),
            table(&["GIVEN AS", "GPUS", "LIVE MIGRATION", "SUSPEND", "HOW, OR WHY NOT"], moved.collect())
        )
    })?;
    Ok(0)
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// What `cleave topo -o json` prints.
#[derive(Serialize)]
struct Topology<'a> {
    /// What rows and columns of the matrix are.
    labels: Vec<&'a str>,
    /// `X`, `NV18`, `PIX` and so on; `?` where nothing is known.
    matrix: Vec<Vec<String>>,
    #[serde(flatten)]
    inventory: &'a Inventory,
    /// With `--best`: the groups, the best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<Chosen>>,
}

/// A group of GPUs.
#[derive(Serialize)]
struct Chosen {
    gpus: Vec<u32>,
    /// The links between each two, the worst first.
    links: Vec<String>,
    /// The processors near them, as `taskset -c` reads it.
    cpus: String,
}

/// Shows how the devices are linked.
pub(crate) fn topo(context: &Context, asked: &Topo) -> Result<i32> {
    let (inventory, _) = find(context, &asked.of)?;
    let groups = asked.best.map(|size| chosen(&inventory, size)).transpose()?;
    let labels = matrix::labels(&inventory);
    let links = matrix::links(&inventory, &labels);
    let cell = |a: usize, b: usize| if a == b { "X".to_owned() } else { links.get(a, b).to_string() };
    let rows = (0..labels.len()).map(|a| (0..labels.len()).map(|b| cell(a, b)).collect()).collect();
    let shown = Topology { labels, matrix: rows, inventory: &inventory, groups };
    let print = || match (&shown.groups, asked.numa) {
        (Some(groups), _) => groups_text(groups),
        (None, true) => drawing::boxes(&inventory, output::columns()),
        (None, false) if inventory.devices.is_empty() => "no GPUs or other accelerators".into(),
        (None, false) => matrix::text(&inventory),
    };
    match context.format {
        Format::Table => output::line(print().trim_end_matches('\n'))?,
        format => {
            // The inventory's own schema gives way to that of the whole.
            let mut value = serde_json::to_value(&shown).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.remove("schema");
            }
            output::print(format, &Named::new("topology", &value), String::new)?;
        }
    }
    Ok(0)
}

fn chosen(inventory: &Inventory, size: usize) -> Result<Vec<Chosen>> {
    let count = inventory.devices.len();
    if size == 0 || size > count {
        let message = format!("--best {size}: groups of 1 to {count} can be chosen, there are {count} GPUs");
        return Err(ErrorBody::new(ErrorCode::Invalid, message, "ask for as many as there are"));
    }
    let number = |at: &usize| inventory.devices.get(*at).map(|device| device.index);
    let each = matrix::best(inventory, size).into_iter().map(|(group, cpus)| Chosen {
        gpus: group.members.iter().filter_map(number).collect(),
        links: group.links.iter().map(ToString::to_string).collect(),
        cpus: cpus.to_string(),
    });
    Ok(each.collect())
}

fn groups_text(groups: &[Chosen]) -> String {
    let rows = groups.iter().take(MOST_GROUPS).enumerate().map(|(at, group)| {
        let gpus: Vec<String> = group.gpus.iter().map(u32::to_string).collect();
        vec![(at + 1).to_string(), gpus.join(","), counted(&group.links), group.cpus.clone()]
    });
    let mut text = table(&[">RANK", "GPUS", "LINKS", "CPUS"], rows.collect());
    if let Some(more) = groups.len().checked_sub(MOST_GROUPS).filter(|more| *more > 0) {
        text.push_str(&format!("\nand {more} more; -o json has all"));
    }
    if let Some(best) = groups.first().filter(|best| !best.cpus.is_empty()) {
        text.push_str(&format!("\n\nnear the first: taskset -c {} PROGRAM", best.cpus));
    }
    text
}

/// `NODE NODE PIX` as `2 NODE, 1 PIX`.
fn counted(links: &[String]) -> String {
    let runs: Vec<String> =
        links.chunk_by(|a, b| a == b).filter_map(|run| Some(format!("{} {}", run.len(), run.first()?))).collect();
    if runs.is_empty() { "-".into() } else { runs.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (json, yaml, folder) = (dir.path().join("a.json"), dir.path().join("a.yaml"), dir.path().join("a"));
        std::fs::create_dir_all(folder.join("full")).unwrap();
        save(&[1], &json).unwrap();
        save(&[1], &yaml).unwrap();
        assert_eq!(std::fs::read_to_string(&json).unwrap(), "[\n  1\n]\n");
        assert_eq!(std::fs::read_to_string(&yaml).unwrap(), "- 1\n");
        let error = save(&[1], &folder).unwrap_err();
        assert!(error.message.contains("can't be written"), "{error}");
        assert!(save(&[1], &folder.join("missing/a.json")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
