//! `cleave mig …`: what GPUs are divided into, what they could be, and what they shall be.
use super::Context;
use super::inventory::{invalid, text_of, write_whole};
use crate::client::{Client, Result, segment};
use crate::output::{self, Format, Named, or_dash, table};
use crate::yaml;
use clap::{Args, Subcommand};
use cleave_api::{
    ErrorBody, ErrorCode, List, MigGpu, MigLayout, MigOutcome, MigPlace, MigProfile, MigRequest, MigWish,
};
use cleave_inventory::{Table, geometry};
use cleave_plan::capacity::of_profile;
use cleave_policy::layout::Wanted;
use cleave_policy::mig::{Geometry, Instance, Mask};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(crate) enum MigCommand {
    /// List profiles, what still fits, the instances that are there, and who uses them
    List,
    /// Say where instances would go, what that strands, and what can be had instead of what can't; changes nothing
    Plan(Plan),
    /// Divide GPUs as a file says, all or none, and keep them so; what is busy is never touched
    Apply {
        #[command(flatten)]
        from: From,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Check whether GPUs are as a file says: exit code 0, or 1 and the differences
    Assert {
        #[command(flatten)]
        from: From,
    },
    /// Print what is there as a file for `apply`
    Export,
    /// Write down what is there, each instance with its place
    Checkpoint {
        /// The file
        file: PathBuf,
    },
    /// Divide GPUs as they were at a checkpoint
    Restore {
        /// The file
        file: PathBuf,
    },
    /// Look after the layouts of GPUs no longer; they stay as they are
    Forget {
        /// Their indices or UUIDs
        #[arg(required = true, value_name = "GPU")]
        gpus: Vec<String>,
    },
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["profiles", "profile"])))]
pub(crate) struct Plan {
    /// Instances to place, such as 3g.40gb,2g.20gb,2g.20gb
    #[arg(long, value_name = "PROFILES", value_delimiter = ',')]
    profiles: Vec<String>,
    /// One profile: how many instances of it can be had
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// On this GPU of the machine, beside the instances that are there; on all of them if not given
    #[arg(long, value_name = "GPU", conflicts_with = "gpus")]
    gpu: Option<String>,
    /// On empty GPUs that need not be here: 8xH100, or 4xH100+8xA30
    #[arg(long, value_name = "GPUS")]
    gpus: Option<String>,
}

#[derive(Args)]
pub(crate) struct From {
    /// The file, in the format of NVIDIA's mig-parted; - for stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Which of its configs; needed if it has several
    #[arg(short, long, value_name = "NAME")]
    config: Option<String>,
}

pub(crate) fn run(context: &Context, command: MigCommand) -> Result<i32> {
    match command {
        MigCommand::List => list(context),
        MigCommand::Plan(plan) => self::plan(context, &plan),
        MigCommand::Apply { from, dry_run } => {
            let client = client(context)?;
            let request = from.request(&gpus(&client)?)?;
            apply(context, &client, &request, dry_run)
        }
        MigCommand::Assert { from } => assert(context, &from),
        MigCommand::Export => export(context),
        MigCommand::Checkpoint { file } => checkpoint(context, &file),
        MigCommand::Restore { file } => restore(context, &file),
        MigCommand::Forget { gpus } => forget(context, &gpus),
    }
}

fn client(context: &Context) -> Result<Client> {
    if context.sim.is_some() { context.client_or_start() } else { context.client() }
}

fn gpus(client: &Client) -> Result<Vec<MigGpu>> {
    Ok(client.get::<List<MigGpu>>("mig")?.items)
}

/// The GPU with this index, or a UUID that starts so.
fn named<'a>(gpus: &'a [MigGpu], name: &str) -> Result<&'a MigGpu> {
    let index: Option<u32> = name.parse().ok();
    let is = |gpu: &&MigGpu| match index {
        Some(index) => gpu.gpu == index,
        None => name.len() >= 8 && gpu.gpu_uuid.to_lowercase().starts_with(&name.to_lowercase()),
    };
    gpus.iter().find(is).ok_or_else(|| {
        let message = format!("there is no GPU \"{name}\"");
        ErrorBody::new(ErrorCode::NotFound, message, "`cleave mig list` shows what there is")
    })
}

fn starts(all: &[u32]) -> String {
    or_dash((!all.is_empty()).then(|| all.iter().map(u32::to_string).collect::<Vec<_>>().join(",")))
}

/// Lists what there is and what could be.
fn list(context: &Context) -> Result<i32> {
    let gpus = gpus(&client(context)?)?;
    output::print(context.format, &List::new("mig", gpus.clone()), || {
        gpus.iter().map(list_text).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(0)
}

fn list_text(gpu: &MigGpu) -> String {
    let mode = match (gpu.profiles.is_empty(), gpu.enabled, gpu.pending) {
        (true, ..) => "no MIG",
        (_, true, true) => "MIG mode on",
        (_, true, false) => "MIG mode on, off after a reset",
        (_, false, true) => "MIG mode off, on after a reset",
        (_, false, false) => "MIG mode off",
    };
    let kept = if gpu.layout.is_some() { ", kept as it was applied" } else { "" };
    let mut text = format!("GPU {} ({}): {mode}{kept}", gpu.gpu, gpu.name);
    if !gpu.profiles.is_empty() {
        let row = |(profile, room): (&MigProfile, &Vec<u32>)| {
            vec![
                profile.name.clone(),
                profile.id.to_string(),
                profile.instances.to_string(),
                profile.multiprocessors.to_string(),
                format!("{} MiB", profile.memory_mib),
                profile.size.to_string(),
                starts(&profile.starts),
                starts(room),
            ]
        };
        let headers = ["PROFILE", ">ID", ">MOST", ">SMS", ">MEMORY", ">SLICES", "STARTS", "FITS NOW AT"];
        text.push('\n');
        text.push_str(&table(&headers, gpu.profiles.iter().zip(&gpu.room).map(row).collect()));
    }
    if !gpu.instances.is_empty() {
        let rows = gpu.instances.iter().map(|one| {
            let processes = one.processes.iter().map(|pid| format!("pid {pid}"));
            let users: Vec<String> = one.slices.iter().cloned().chain(processes).collect();
            let used = if users.is_empty() && one.busy { "busy".into() } else { users.join(", ") };
            vec![
                one.profile.clone(),
                one.id.to_string(),
                format!("{}-{}", one.start, one.start + one.size.max(1) - 1),
                if used.is_empty() { "-".into() } else { used },
                or_dash(one.uuid.clone()),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(&["INSTANCE", ">ID", "SLICES", "USED BY", "UUID"], rows.collect()));
    }
    text
}

/// Divides GPUs, or says what would be done.
fn apply(context: &Context, client: &Client, request: &MigRequest, dry_run: bool) -> Result<i32> {
    let outcome: MigOutcome = client.post(&format!("mig?dry_run={dry_run}"), request)?;
    output::print(context.format, &Named::new("mig-outcome", &outcome), || {
        if outcome.steps.is_empty() {
            return "nothing to do: everything is as it shall be".into();
        }
        let would = if dry_run { "would do\n" } else { "" };
        let steps: Vec<String> = outcome.steps.iter().map(ToString::to_string).collect();
        format!("{would}{}", steps.join("\n"))
    })?;
    Ok(0)
}

/// `2 x 1g.10gb, 3g.40gb`.
fn counted(names: &[&str]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    let words =
        counts.into_iter().map(|(name, count)| if count == 1 { name.into() } else { format!("{count} x {name}") });
    match words.collect::<Vec<String>>() {
        words if words.is_empty() => "no instances".into(),
        words => words.join(", "),
    }
}

/// What of `gpus` is not as `request` says.
fn differences(request: &MigRequest, gpus: &[MigGpu]) -> Vec<String> {
    let mut found = Vec::new();
    for wish in &request.gpus {
        let Some(gpu) = gpus.iter().find(|gpu| gpu.gpu_uuid == wish.gpu_uuid) else { continue };
        let layout = &wish.layout;
        if gpu.enabled != layout.enabled {
            let word = |on| if on { "on" } else { "off" };
            found.push(format!("GPU {}: MIG mode is {}, not {}", gpu.gpu, word(gpu.enabled), word(layout.enabled)));
            continue;
        }
        let mut there: Vec<&str> = gpu.instances.iter().map(|one| one.profile.as_str()).collect();
        let mut wanted: Vec<&str> = layout.instances.iter().map(|place| place.profile.as_str()).collect();
        there.sort_unstable();
        wanted.sort_unstable();
        if there != wanted {
            found.push(format!("GPU {}: it has {}, not {}", gpu.gpu, counted(&there), counted(&wanted)));
        }
    }
    found
}

/// What `cleave mig assert` prints.
#[derive(Serialize)]
struct Checked {
    same: bool,
    differences: Vec<String>,
}

fn assert(context: &Context, from: &From) -> Result<i32> {
    let gpus = gpus(&client(context)?)?;
    let differences = differences(&from.request(&gpus)?, &gpus);
    let checked = Checked { same: differences.is_empty(), differences };
    output::print(context.format, &Named::new("mig-assert", &checked), || match checked.same {
        true => "everything is as it shall be".into(),
        false => checked.differences.join("\n"),
    })?;
    Ok(i32::from(!checked.same))
}

fn forget(context: &Context, names: &[String]) -> Result<i32> {
    let client = client(context)?;
    let all = gpus(&client)?;
    for name in names {
        let gpu = named(&all, name)?;
        client.delete(&format!("mig/{}", segment(&gpu.gpu_uuid)))?;
        if context.format == Format::Table {
            output::line(&format!("GPU {} is no longer looked after", gpu.gpu))?;
        }
    }
    if context.format != Format::Table {
        output::print(context.format, &List::new("forgotten-layouts", names.to_vec()), String::new)?;
    }
    Ok(0)
}

// Files.

/// A file of mig-parted's format.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    #[serde(rename = "mig-configs")]
    configs: BTreeMap<String, Vec<Part>>,
}

/// What some GPUs shall be.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Part {
    /// PCI ids, device before vendor: `0x233010DE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_filter: Option<Filter>,
    devices: Devices,
    mig_enabled: bool,
    /// How many instances of each profile.
    #[serde(default)]
    mig_devices: BTreeMap<String, u32>,
}

/// `all`, or indices.
#[derive(Debug, PartialEq)]
enum Devices {
    All,
    These(Vec<u32>),
}

/// One PCI id, or several.
#[derive(Debug, PartialEq, Serialize)]
#[serde(transparent)]
struct Filter(Vec<String>);

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Devices::All => serializer.serialize_str("all"),
            Devices::These(indices) => indices.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Devices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all`, or a list of GPUs' indices such as [0, 1]")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Devices, E> {
                if text == "all" { Ok(Devices::All) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Devices, A::Error> {
                let mut indices = Vec::new();
                while let Some(index) = list.next_element()? {
                    indices.push(index);
                }
                Ok(Devices::These(indices))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Filter;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PCI id such as \"0x233010DE\", or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Filter, E> {
                match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
                    Ok(_) => Ok(Filter(vec![text.to_owned()])),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<Filter, E> {
                Ok(Filter(vec![format!("{number:#010x}")]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Filter, A::Error> {
                let mut ids = Vec::new();
                while let Some(Filter(more)) = list.next_element()? {
                    ids.extend(more);
                }
                Ok(Filter(ids))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Filter {
    /// Whether a PCI id, vendor before device, is among them.
    fn holds(&self, pci_id: &str) -> bool {
        let number = |text: &String| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let form = |id: u32| format!("{:04x}:{:04x}", id & 0xffff, id >> 16);
        self.0.iter().filter_map(number).any(|id| form(id) == pci_id)
    }
}

const FORMAT: &str = "it must be as mig-parted's files are: `version: v1`, and under `mig-configs` a name with a list of \
                      devices, mig-enabled and mig-devices";

impl From {
    fn request(&self, gpus: &[MigGpu]) -> Result<MigRequest> {
        request(&self.file, &text_of(&self.file)?, self.config.as_deref(), gpus)
    }
}

/// What a config of a file asks of these GPUs. What it says later of a GPU counts.
fn request(file: &Path, text: &str, config: Option<&str>, gpus: &[MigGpu]) -> Result<MigRequest> {
    let read: File = yaml::read(&file.display().to_string(), text, FORMAT)?;
    if read.version != "v1" {
        return Err(invalid(file, &format!("version \"{}\" is not known, `v1` is", read.version), FORMAT));
    }
    let names = read.configs.keys().cloned().collect::<Vec<_>>().join(", ");
    let parts = match (config, read.configs.len()) {
        (Some(name), _) => read.configs.get(name),
        (None, 1) => read.configs.values().next(),
        (None, _) => None,
    };
    let parts = parts.ok_or_else(|| {
        let why = config.map_or("it has several configs".into(), |name| format!("it has no config \"{name}\""));
        invalid(file, &why, &format!("choose one with --config: {names}"))
    })?;
    let mut wishes: BTreeMap<u32, MigWish> = BTreeMap::new();
    for part in parts {
        let mut chosen: Vec<&MigGpu> = match &part.devices {
            Devices::All => gpus.iter().collect(),
            Devices::These(indices) => {
                indices.iter().map(|index| named(gpus, &index.to_string())).collect::<Result<_>>()?
            }
        };
        if let Some(filter) = &part.device_filter {
            chosen.retain(|gpu| gpu.pci_id.as_deref().is_some_and(|id| filter.holds(id)));
        }
        let places = part.mig_devices.iter().flat_map(|(profile, count)| {
            let place = MigPlace { profile: profile.clone(), start: None };
            std::iter::repeat_n(place, *count as usize)
        });
        let layout = MigLayout { enabled: part.mig_enabled, instances: places.collect() };
        for gpu in chosen {
            wishes.insert(gpu.gpu, MigWish { gpu_uuid: gpu.gpu_uuid.clone(), layout: layout.clone() });
        }
    }
    Ok(MigRequest { gpus: wishes.into_values().collect() })
}

fn export(context: &Context) -> Result<i32> {
    let mut parts: Vec<Part> = Vec::new();
    for gpu in gpus(&client(context)?)?.iter().filter(|gpu| !gpu.profiles.is_empty()) {
        let mut mig_devices = BTreeMap::new();
        gpu.instances.iter().for_each(|one| *mig_devices.entry(one.profile.clone()).or_default() += 1);
        let same = |part: &&mut Part| part.mig_enabled == gpu.enabled && part.mig_devices == mig_devices;
        match parts.iter_mut().find(same) {
            Some(Part { devices: Devices::These(indices), .. }) => indices.push(gpu.gpu),
            _ => parts.push(Part {
                device_filter: None,
                devices: Devices::These(vec![gpu.gpu]),
                mig_enabled: gpu.enabled,
                mig_devices,
            }),
        }
    }
    let file = File { version: "v1".into(), configs: [("current".into(), parts)].into() };
    // A file for `apply` is YAML unless JSON is asked for.
    let format = if context.format == Format::Table { Format::Yaml } else { context.format };
    output::print(format, &file, String::new)?;
    Ok(0)
}

/// What `cleave mig checkpoint` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    schema: String,
    gpus: Vec<MigWish>,
}

const CHECKPOINT: &str = "cleave.dev/v1/mig-checkpoint";

fn checkpoint(context: &Context, file: &Path) -> Result<i32> {
    let wish = |gpu: MigGpu| {
        let place = |one: cleave_api::MigInstance| MigPlace { profile: one.profile, start: Some(one.start) };
        let instances = gpu.instances.into_iter().map(place).collect();
        MigWish { gpu_uuid: gpu.gpu_uuid, layout: MigLayout { enabled: gpu.enabled, instances } }
    };
    let all = gpus(&client(context)?)?.into_iter().filter(|gpu| !gpu.profiles.is_empty()).map(wish);
    let written = Checkpoint { schema: CHECKPOINT.into(), gpus: all.collect() };
    write_whole(file, serde_json::to_string_pretty(&written).map_err(|e| e.to_string()))?;
    output::print(context.format, &written, || format!("wrote {} GPUs to {}", written.gpus.len(), file.display()))?;
    Ok(0)
}

fn restore(context: &Context, file: &Path) -> Result<i32> {
    let hint = "`cleave mig checkpoint FILE` writes one";
    let read: Checkpoint = yaml::read(&file.display().to_string(), &text_of(file)?, hint)?;
    if read.schema != CHECKPOINT {
        return Err(invalid(file, &format!("its schema is \"{}\", and \"{CHECKPOINT}\" is read", read.schema), hint));
    }
    apply(context, &client(context)?, &MigRequest { gpus: read.gpus }, false)
}

// Plans.

/// A GPU to place instances on.
struct Site {
    name: String,
    geometry: Geometry,
    taken: Mask,
}

/// Instances on one GPU, as `cleave mig plan` shows them.
#[derive(Debug, Serialize)]
struct Planned {
    gpu: String,
    instances: Vec<MigPlace>,
    /// What is neither used nor can be by any further instance.
    stranded_mib: u64,
    stranded_multiprocessors: u32,
    /// Of each profile, how many still fit.
    room: BTreeMap<String, u32>,
}

fn site(gpu: &MigGpu) -> Site {
    let geometry = geometry(&gpu.profiles);
    let mask = |one: &cleave_api::MigInstance| {
        let start = u8::try_from(one.start).unwrap_or(u8::MAX);
        geometry.named(&one.profile).map_or(0, |profile| geometry.mask(Instance { profile, start }))
    };
    let taken = gpu.instances.iter().fold(0, |taken, one| taken | mask(one));
    Site { name: format!("GPU {} ({})", gpu.gpu, gpu.name), geometry, taken }
}

/// Most GPUs of a model that are written down: each is laid out on its own.
const MOST: u32 = 4096;

/// Empty GPUs that need not be here.
fn imagined(spec: &str) -> Result<Vec<Site>> {
    let bad = |why: String| {
        let hint = "write MODEL or COUNTxMODEL, joined by +, such as 8xH100 or 4xH100+8xA30";
        ErrorBody::new(ErrorCode::Invalid, format!("--gpus {spec}: {why}"), hint)
    };
    let mut sites = Vec::new();
    for part in spec.split('+') {
        let table = Table::get();
        let known = || {
            let models = table.models.iter().filter(|model| model.mig.is_some()).map(|model| model.name.as_str());
            models.collect::<Vec<_>>().join(", ")
        };
        let (count, found) =
            table.counted(part, MOST).map_err(|why| bad(format!("{why}; with MIG are {}", known())))?;
        let geometry = found.mig.as_deref().and_then(|name| table.geometry(name));
        let geometry = geometry.ok_or_else(|| bad(format!("{} has no MIG; {} have", found.name, known())))?;
        let (shape, unknown) = geometry.known_shape();
        if shape.profiles.is_empty() {
            return Err(bad(format!("{}: {}", found.name, unknown.join("; "))));
        }
        if !unknown.is_empty() {
            output::warning(&format!("left out: {}", unknown.join("; ")));
        }
        let first = sites.len();
        sites.extend((first..first + count as usize).map(|at| Site {
            name: format!("{} #{at}", found.name),
            geometry: shape.clone(),
            taken: 0,
        }));
    }
    Ok(sites)
}

/// The index of a profile, on the GPUs that have it.
fn known(sites: &[Site], name: &str) -> Result<()> {
    if sites.iter().any(|site| site.geometry.named(name).is_some()) {
        return Ok(());
    }
    let mut names: Vec<&str> = Vec::new();
    for kind in sites.iter().flat_map(|site| &site.geometry.profiles) {
        if !names.contains(&kind.name.as_str()) {
            names.push(&kind.name);
        }
    }
    let message = format!("no profile \"{name}\" on these GPUs");
    Err(ErrorBody::new(ErrorCode::Invalid, message, format!("they have {}", names.join(", "))))
}

fn plan(context: &Context, plan: &Plan) -> Result<i32> {
    let sites = match &plan.gpus {
        Some(spec) => imagined(spec)?,
        None => {
            let all = gpus(&client(context)?)?;
            let chosen = match &plan.gpu {
                Some(name) => vec![named(&all, name)?],
                None => all.iter().filter(|gpu| !gpu.profiles.is_empty()).collect(),
            };
            if let [gpu] = chosen.as_slice()
                && gpu.profiles.is_empty()
            {
                let message = format!("GPU {} ({}) has no MIG", gpu.gpu, gpu.name);
                return Err(ErrorBody::new(
                    ErrorCode::Refused,
                    message,
                    "--gpus 8xH100 plans for GPUs that are not here",
                ));
            }
            chosen.into_iter().map(site).collect()
        }
    };
    if sites.is_empty() {
        let hint = "--gpus 8xH100 plans for GPUs that are not here";
        return Err(ErrorBody::new(ErrorCode::Refused, "no GPU of this machine has MIG", hint));
    }
    match &plan.profile {
        Some(profile) => count(context, &sites, profile),
        None => place(context, &sites, &plan.profiles),
    }
}

/// The same for GPUs that are written down: `8xH100`.
pub(crate) fn count_on(context: &Context, gpus: &str, profile: &str) -> Result<i32> {
    count(context, &imagined(gpus)?, profile)
}

/// How many instances of a profile the GPUs hold, and what to put beside them.
fn count(context: &Context, sites: &[Site], profile: &str) -> Result<i32> {
    known(sites, profile)?;
    let counted = of_profile(sites.iter().map(|site| (&site.geometry, site.taken)), profile);
    output::print(context.format, &Named::new("mig-count", &counted), || counted.to_string())?;
    Ok(0)
}

/// Where instances go so that least is lost to those that come later.
fn place(context: &Context, sites: &[Site], names: &[String]) -> Result<i32> {
    names.iter().try_for_each(|name| known(sites, name))?;
    let size = |name: &String| {
        let kinds = sites.iter().filter_map(|site| site.geometry.profiles.get(site.geometry.named(name)?));
        kinds.map(|kind| kind.size).max().unwrap_or(0)
    };
    let mut order: Vec<&String> = names.iter().collect();
    order.sort_by_key(|name| std::cmp::Reverse(size(name)));
    let mut held: Vec<Vec<Wanted>> = sites.iter().map(|_| Vec::new()).collect();
    let mut left_out: Vec<&str> = Vec::new();
    // What a GPU is worth with these instances where they do least harm; nothing if they don't fit.
    let worth = |site: &Site, held: &[Wanted]| {
        let layout = site.geometry.arrange(site.taken, held, &[])?;
        let taken = layout.iter().fold(site.taken, |taken, one| taken | site.geometry.mask(*one));
        Some(site.geometry.worth(taken, &vec![1; site.geometry.profiles.len()]))
    };
    for name in order {
        let mut best: Option<(u64, usize, Wanted)> = None;
        for (at, (site, held)) in sites.iter().zip(&held).enumerate() {
            let Some(profile) = site.geometry.named(name) else { continue };
            let one = Wanted { profile, start: None };
            let Some(after) = worth(site, &[held.as_slice(), &[one]].concat()) else { continue };
            let loss = worth(site, held).unwrap_or(0).saturating_sub(after);
            if best.is_none_or(|(least, ..)| loss < least) {
                best = Some((loss, at, one));
            }
        }
        match best.and_then(|(_, at, one)| Some((held.get_mut(at)?, one))) {
            Some((held, one)) => held.push(one),
            None => left_out.push(name),
        }
    }
    if !left_out.is_empty() {
        return Err(impossible(sites, names, &left_out));
    }
    let planned: Vec<Planned> = sites.iter().zip(&held).filter(|(_, held)| !held.is_empty()).map(planned).collect();
    output::print(context.format, &List::new("mig-plan", planned.iter().collect()), || {
        planned.iter().map(planned_text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(0)
}

/// Why not all of these can be had, and what can.
fn impossible(sites: &[Site], names: &[String], left_out: &[&str]) -> ErrorBody {
    let here = |site: &&Site| left_out.iter().any(|name| site.geometry.named(name).is_some());
    let Some(site) = sites.iter().find(here) else {
        return ErrorBody::new(ErrorCode::Refused, "there is no GPU for these", "");
    };
    let asked: Vec<usize> = names.iter().filter_map(|name| site.geometry.named(name)).collect();
    let (message, hint) = match sites {
        [_] => {
            let beside = match site.taken {
                0 => site.geometry.tightest(&asked),
                _ => format!("beside the instances that are there is no room for {}", site.geometry.list(&asked)),
            };
            (format!("{}: {beside}", site.name), site.geometry.offer(site.taken, &asked))
        }
        _ => {
            let kind = site.geometry.named(left_out.first().copied().unwrap_or_default()).unwrap_or(0);
            let room = site.geometry.room(0, kind) as usize;
            let rule = site.geometry.tightest(&vec![kind; room + 1]);
            let message = format!("on {} GPUs there is no place for {}: {rule}", sites.len(), counted(left_out));
            (message, site.geometry.offer(0, &vec![kind; room + 1]))
        }
    };
    let hint = match (hint.as_slice(), sites.len()) {
        ([], _) => "nothing like it fits; destroy what is idle, or choose another GPU".into(),
        (_, 1) => format!("nearest: {}", site.geometry.list(&hint)),
        _ => format!("nearest on each: {}", site.geometry.list(&hint)),
    };
    ErrorBody::new(ErrorCode::Refused, message, hint)
}

fn planned((site, held): (&Site, &Vec<Wanted>)) -> Planned {
    let geometry = &site.geometry;
    let mut layout = geometry.arrange(site.taken, held, &[]).unwrap_or_default();
    layout.sort_by_key(|one| one.start);
    let taken = layout.iter().fold(site.taken, |taken, one| taken | geometry.mask(*one));
    let (before, after) = (geometry.most(site.taken), geometry.most(taken));
    let kinds = || layout.iter().filter_map(|one| geometry.profiles.get(one.profile));
    let used = kinds().fold((0, 0), |(memory, sms), kind| (memory + kind.memory_mib, sms + kind.sms));
    let place = |one: &Instance| MigPlace {
        profile: geometry.profiles.get(one.profile).map_or_else(String::new, |kind| kind.name.clone()),
        start: Some(one.start.into()),
    };
    let room = geometry.profiles.iter().enumerate().map(|(at, kind)| (kind.name.clone(), geometry.room(taken, at)));
    Planned {
        gpu: site.name.clone(),
        instances: layout.iter().map(place).collect(),
        stranded_mib: before.0.saturating_sub(used.0 + after.0),
        stranded_multiprocessors: before.1.saturating_sub(used.1 + after.1),
        room: room.filter(|(_, count)| *count > 0).collect(),
    }
}

fn planned_text(plan: &Planned) -> String {
    let places = plan.instances.iter().map(|one| format!("{} at {}", one.profile, one.start.unwrap_or(0)));
    let rooms = plan.room.iter().map(|(name, count)| format!("{count} x {name}"));
    let room: Vec<String> = rooms.collect();
    format!(
        "{}: {}\n  stranded: {} multiprocessors, {} MiB\n  room for: {}",
        plan.gpu,
        places.collect::<Vec<_>>().join(", "),
        plan.stranded_multiprocessors,
        plan.stranded_mib,
        if room.is_empty() { "nothing more".into() } else { format!("{} (any one of these)", room.join(", ")) }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, pci: &str) -> MigGpu {
        MigGpu { gpu: index, gpu_uuid: format!("GPU-{index}"), pci_id: Some(pci.into()), ..MigGpu::default() }
    }

    const BALANCED: &str = r#"
version: v1
mig-configs:
  all-disabled:
  - devices: all
    mig-enabled: false
  all-balanced:
  - device-filter: ["0x20B010DE", "0x20B110DE"]
    devices: all
    mig-enabled: true
    mig-devices:
      "1g.5gb": 2
      "2g.10gb": 1
  - device-filter: 0x233010DE
    devices: all
    mig-enabled: true
    mig-devices: {"1g.10gb": 2, "3g.40gb": 1}
  custom:
  - devices: [1]
    mig-enabled: true
    mig-devices: {}
"#;

    fn of(text: &str, config: Option<&str>) -> Result<MigRequest> {
        request(Path::new("f.yaml"), text, config, &[gpu(0, "10de:2330"), gpu(1, "10de:20b0")])
    }

    #[test]
    fn mig_parted_s_files_are_read() {
        let balanced = of(BALANCED, Some("all-balanced")).unwrap().gpus;
        let shown: Vec<(&str, Vec<&str>)> = (balanced.iter())
            .map(|wish| {
                (wish.gpu_uuid.as_str(), wish.layout.instances.iter().map(|one| one.profile.as_str()).collect())
            })
            .collect();
        let expected =
            [("GPU-0", vec!["1g.10gb", "1g.10gb", "3g.40gb"]), ("GPU-1", vec!["1g.5gb", "1g.5gb", "2g.10gb"])];
        assert_eq!(shown, expected);
        assert!(of(BALANCED, Some("all-disabled")).unwrap().gpus.iter().all(|wish| !wish.layout.enabled));
        assert_eq!(of(BALANCED, Some("custom")).unwrap().gpus.len(), 1);
        for (text, config, words) in [
            (BALANCED, None, "several configs"),
            (BALANCED, Some("other"), "no config \"other\""),
            ("version: v2\nmig-configs: {a: []}", None, "version \"v2\""),
            (
                "version: v1\nmig-configs:\n  a:\n  - devices: some\n    mig-enabled: true",
                None,
                "line 4, `- devices: some`: invalid value",
            ),
            ("version: v1\nmig-configs:\n  a:\n  - devices: all\n    mig-enabled: 3", None, "line 5, `mig-enabled: 3`"),
            ("version: v1\nmig-configs:\n  a:\n  - devices: all\n    mig-on: true", None, "unknown field `mig-on`"),
            (
                "version: v1\nmig-configs:\n  a:\n  - devices: all\n    mig-enabled: true\n    mig-devices: {\"1g\": -1}",
                None,
                "line 6",
            ),
            ("version: v1\nmig-configs:\n  a:\n  - devices: [7]\n    mig-enabled: true", None, "no GPU \"7\""),
        ] {
            let error = of(text, config).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn differences_are_told() {
        let request = of(
            "version: v1\nmig-configs:\n  a:\n  - devices: all\n    mig-enabled: true\n    mig-devices: {\"1g\": 2}",
            None,
        );
        let mut gpus = [gpu(0, ""), gpu(1, "")];
        gpus[0].enabled = true;
        gpus[0].instances = vec![cleave_api::MigInstance { profile: "3g".into(), ..Default::default() }];
        let found = differences(&request.unwrap(), &gpus);
        assert_eq!(found, ["GPU 0: it has 3g, not 2 x 1g", "GPU 1: MIG mode is off, not on"]);
    }
}
