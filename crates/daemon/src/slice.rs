//! The rules of slices: what may be created and changed. Decides only; nothing here acts.
use crate::engine::Choice;
use crate::files::Work;
use crate::gpu::GpuInfo;
use crate::turns::HORIZON;
use cleave_api::{
    ErrorBody, ErrorCode, Factor, Fraction, MemoryAmount, MigPlace, Mode, OnBypass, OnMissing, Percent, Placement,
    Priority, SliceChange, SliceSpec, SuspendAfter, Watchdog, format_bytes,
};
use cleave_ledger::{DEVICES, KernelClass, UNIT};
use cleave_policy::gate::done;
use cleave_policy::pack::{Amount, WHOLE, order, rounded_up};
use serde::{Deserialize, Serialize};

/// A slice as it is kept in the database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `SLICE-` and a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// User id of its owner.
    pub owner: u32,
    /// RFC 3339.
    pub created_at: String,
    /// Its part of each GPU.
    pub devices: Vec<RecordDevice>,
    /// Percent of each GPU's time.
    pub compute_percent: Option<f64>,
    /// How far that is enforced.
    #[serde(default)]
    pub mode: Mode,
    /// Its class.
    #[serde(default)]
    pub priority: Priority,
    /// Mode `strict` only, in ms.
    #[serde(default)]
    pub burst_ms: Option<u64>,
    /// Stopped by an operator, or by its watchdog.
    #[serde(default)]
    pub paused: bool,
    /// Its processes' memory is, or may be, away from its GPUs.
    #[serde(default)]
    pub suspended: bool,
    /// What is done about work that does not end.
    #[serde(default)]
    pub watchdog: Watchdog,
    /// After how much idleness its memory leaves its GPUs.
    #[serde(default)]
    pub suspend_after: SuspendAfter,
    /// How its GPU is divided, and why so.
    #[serde(default)]
    pub choice: Choice,
    /// Whom it trusts.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// The longest operation of the programs that ran in it last, in ns; 0 before any did.
    #[serde(default)]
    pub longest_op_ns: u64,
    /// The MIG instance that it has.
    #[serde(default)]
    pub mig: Option<Held>,
    /// Most host memory that it may pin.
    pub host_limit_bytes: Option<u64>,
    /// What its programs do while the daemon can't be reached.
    pub on_missing: OnMissing,
    /// What happens to its programs that use a GPU past the stand-in.
    #[serde(default)]
    pub on_bypass: OnBypass,
    /// Goes away with its last process.
    pub ephemeral: bool,
    /// A process has been in it.
    pub started: bool,
    /// Who made it, or runs a program in it, while it is ephemeral: without this process nobody will start in it.
    pub holder: Option<Holder>,
    /// Refused allocations of processes that have ended.
    pub denied_total: u64,
    /// Launches of processes that have ended.
    pub launches_total: u64,
    /// What their operations did, by class.
    #[serde(default)]
    pub classes: Classes,
}

/// A MIG instance that a slice has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its profile and where it lies, on the slice's one GPU.
    pub place: MigPlace,
    /// `MIG-…`.
    pub uuid: String,
    /// NVML's id of the GPU instance.
    pub id: u32,
    /// Memory that programs can have in it.
    pub memory_bytes: u64,
}

/// The process that an ephemeral slice waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// On the host.
    pub pid: u32,
    /// With the id it names the process.
    pub start_time: u64,
    /// It has asked for a launch plan: the slice stays as long as it does.
    pub launched: bool,
}

impl Holder {
    /// Whether the two are the same process.
    pub fn is(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }
}

/// A slice's part of one GPU, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordDevice {
    /// The GPU.
    pub uuid: String,
    /// Its index when the slice was made; for when the GPU is gone.
    pub index: u32,
    /// The quota.
    pub limit_bytes: u64,
    /// Most memory in use at any reading.
    pub peak_bytes: u64,
    /// The GPU to which it goes when nothing runs in it; its room there is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_to: Option<String>,
    /// The GPU that it was on before that was drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// What processes that have ended did with its time.
    #[serde(default)]
    pub time: RecordTime,
}

/// What processes that have ended did with the time of a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTime {
    /// Device time, in ns.
    pub device_ns: u64,
    /// Time that operations waited for a turn, in ns.
    pub throttled_ns: u64,
    /// Operations that did.
    pub throttled: u64,
}

impl RecordTime {
    /// With what a process did until `now`.
    pub fn plus(self, work: &Work, now: u64) -> Self {
        let busy_until = work.busy_until.min(now.saturating_add(HORIZON));
        Self {
            device_ns: self.device_ns.saturating_add(done(work.charged, busy_until, now)),
            throttled_ns: self.throttled_ns.saturating_add(work.throttled_ns),
            throttled: self.throttled.saturating_add(work.throttled),
        }
    }
}

/// What operations did on the GPUs, by class: each [`KernelClass`] has a place of its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// Operations sent. Of the class that nothing is known of they are not counted.
    pub launches: [u64; KernelClass::ALL.len()],
    /// Device time, in ns. That of collective operations is not measured.
    pub device_ns: [u64; KernelClass::ALL.len()],
}

impl Classes {
    /// Both together.
    pub fn plus(self, other: &Self) -> Self {
        let sum = |one: [u64; 6], other: [u64; 6]| std::array::from_fn(|at| one[at].saturating_add(other[at]));
        Self { launches: sum(self.launches, other.launches), device_ns: sum(self.device_ns, other.device_ns) }
    }
}

/// A GPU as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    /// What was found.
    pub info: &'a GpuInfo,
    /// Bytes of one context, where known.
    pub context_bytes: Option<u64>,
    /// It can run the engine that was asked for.
    pub can: bool,
    /// Nothing new goes there.
    pub draining: bool,
}

/// What new slices get, each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Their names.
    pub names: Vec<String>,
    /// Place among the cards, and quota.
    pub devices: Vec<(usize, u64)>,
    /// Percent of each GPU's compute.
    pub compute_percent: Option<f64>,
    /// Mode `strict` only, in ms.
    pub burst_ms: Option<u64>,
    /// Most host memory that it may pin.
    pub host_limit_bytes: Option<u64>,
}

/// What a slice gets after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Quota of each of its devices, in their order.
    pub limits: Vec<u64>,
    /// Percent of each GPU's compute.
    pub compute_percent: Option<f64>,
    /// How far that is enforced.
    pub mode: Mode,
    /// Its class.
    pub priority: Priority,
    /// Mode `strict` only, in ms.
    pub burst_ms: Option<u64>,
    /// Most host memory that it may pin.
    pub host_limit_bytes: Option<u64>,
}

/// What is promised to slices on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reserved {
    /// Sum of quotas.
    pub bytes: u64,
    /// Sum of compute shares.
    pub compute: f64,
}

fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::Invalid, message, hint)
}

fn refused(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::Refused, message, hint)
}

/// Whether `name` can name a slice; if not, why.
pub fn check_name(name: &str) -> Result<(), ErrorBody> {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if name.len() <= 63 && inside && ends(name.chars().next()) && ends(name.chars().last()) {
        return Ok(());
    }
    Err(invalid(
        format!("\"{}\" can't be a slice's name", name.chars().take(80).collect::<String>()),
        "a name is 1 to 63 of a-z, 0-9 and -, and starts and ends with a letter or digit",
    ))
}

/// What is promised on the GPU `uuid`.
pub fn reserved<'a>(records: impl IntoIterator<Item = &'a Record>, uuid: &str) -> Reserved {
    let mut sum = Reserved::default();
    for record in records {
        for device in record.devices.iter().filter(|d| d.uuid == uuid || d.moves_to.as_deref() == Some(uuid)) {
            sum.bytes = sum.bytes.saturating_add(device.limit_bytes);
            sum.compute += record.compute_percent.unwrap_or(0.0);
        }
    }
    sum
}

/// A share in thousandths; at least one.
pub fn thousandths(percent: f64) -> u16 {
    (percent * 10.0).round().clamp(1.0, 1000.0) as u16
}

/// What each of `slices` without a share of their own gets of a GPU, in thousandths: `promised` percent are others'.
pub fn rest(promised: f64, slices: usize) -> u16 {
    thousandths((100.0 - promised) / slices.max(1) as f64)
}

/// "train 10 GiB, serve 20 GiB and 3 more": who has what of a GPU, the largest first.
fn holders(records: &[&Record], uuid: &str, amount: impl Fn(&Record, u64) -> Option<(f64, String)>) -> String {
    let mut all: Vec<(f64, String)> = records
        .iter()
        .filter_map(|r| {
            let device = r.devices.iter().find(|d| d.uuid == uuid)?;
            let (weight, text) = amount(r, device.limit_bytes)?;
            Some((weight, format!("{} {text}", r.name)))
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let more = all.len().saturating_sub(5);
    let mut text = all.into_iter().take(5).map(|(_, t)| t).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() { "nobody".into() } else { text }
}

fn memory_holders(records: &[&Record], uuid: &str) -> String {
    holders(records, uuid, |_, bytes| Some((bytes as f64, format_bytes(bytes))))
}

fn list_of(gpus: &[&GpuInfo]) -> String {
    match gpus {
        [] => "this machine has none".into(),
        _ => {
            let list: Vec<String> =
                gpus.iter().map(|gpu| format!("{}: {} ({})", gpu.index, gpu.name, gpu.uuid)).collect();
            format!("there are {}", list.join(", "))
        }
    }
}

fn infos<'a>(cards: &[Card<'a>]) -> Vec<&'a GpuInfo> {
    cards.iter().map(|card| card.info).collect()
}

/// The places of the GPUs that `text` names: `None` = any.
pub fn places<'a>(text: &str, gpus: impl IntoIterator<Item = &'a GpuInfo>) -> Result<Option<Vec<usize>>, ErrorBody> {
    let text = text.trim();
    let gpus: Vec<&GpuInfo> = gpus.into_iter().collect();
    if gpus.is_empty() {
        return Err(ErrorBody::new(ErrorCode::Unavailable, "this machine has no GPU", "--sim 1xH100 simulates one"));
    }
    if text.is_empty() || text == "any" {
        return Ok(None);
    }
    if text == "all" {
        return Ok(Some((0..gpus.len()).collect()));
    }
    let mut chosen = Vec::new();
    for part in text.split(',').map(str::trim) {
        let index: Option<u32> = part.parse().ok();
        let uuid = |gpu: &GpuInfo| part.len() >= 8 && gpu.uuid.to_lowercase().starts_with(&part.to_lowercase());
        let mut matches =
            gpus.iter().enumerate().filter(|(_, gpu)| index.map_or_else(|| uuid(gpu), |i| gpu.index == i));
        let Some((place, _)) = matches.next() else {
            return Err(ErrorBody::new(ErrorCode::NotFound, format!("there is no GPU \"{part}\""), list_of(&gpus)));
        };
        if matches.next().is_some() {
            return Err(invalid(format!("\"{part}\" names more than one GPU"), list_of(&gpus)));
        }
        if chosen.contains(&place) {
            return Err(invalid(format!("GPU \"{part}\" is named twice"), "name each GPU once"));
        }
        chosen.push(place);
    }
    if chosen.len() > DEVICES {
        return Err(invalid(format!("{} GPUs are too many", chosen.len()), format!("a slice has at most {DEVICES}")));
    }
    Ok(Some(chosen))
}

/// Quotas are whole units of the driver's smallest allocation.
fn whole_units(bytes: u64) -> u64 {
    bytes / UNIT * UNIT
}

/// Most that a slice may save up, in ms.
const BURST: u64 = 10_000;

fn check_burst(burst_ms: Option<u64>, mode: Mode) -> Result<(), ErrorBody> {
    let Some(burst) = burst_ms else { return Ok(()) };
    if mode != Mode::Strict {
        return Err(invalid(
            format!("a burst of {burst} ms means nothing in mode {mode}, in which idle time is lent anyway"),
            "leave it out, or choose mode strict",
        ));
    }
    if burst > BURST {
        return Err(invalid(format!("a burst of {burst} ms is too long"), format!("it must be at most {BURST} ms")));
    }
    Ok(())
}

enum Ask {
    Memory(MemoryAmount),
    Fraction(Fraction),
    Rest,
}

impl Ask {
    fn bytes(&self, card: u64, left: u64) -> u64 {
        whole_units(match self {
            Ask::Memory(amount) => amount.of(card),
            Ask::Fraction(fraction) => fraction.of(card),
            Ask::Rest => left,
        })
    }
}

fn host_limit(amount: Option<MemoryAmount>, machine_bytes: Option<u64>) -> Result<Option<u64>, ErrorBody> {
    match (amount, machine_bytes) {
        (None, _) => Ok(None),
        (Some(MemoryAmount::Bytes(bytes)), _) => Ok(Some(bytes)),
        (Some(amount), Some(machine)) => Ok(Some(amount.of(machine))),
        (Some(_), None) => Err(invalid("host memory can't be a percentage here: the machine's size is unknown", "")),
    }
}

/// Checks one card's memory: `others` = what other slices have of it, `limit` = what all may have together.
fn check_memory(card: &Card<'_>, asked: u64, others: u64, limit: u64, records: &[&Record]) -> Result<(), ErrorBody> {
    let (total, index) = (card.info.memory_bytes, card.info.index);
    if asked > total {
        return Err(refused(
            format!("{} is more than GPU {index} has: {}", format_bytes(asked), format_bytes(total)),
            format!("ask for at most {}, or for a part such as 50%", format_bytes(total)),
        ));
    }
    if let Some(context) = card.context_bytes.filter(|c| asked < *c) {
        return Err(refused(
            format!(
                "{} is less than one CUDA context takes on GPU {index}: {}",
                format_bytes(asked),
                format_bytes(context)
            ),
            format!("no program could start in it; ask for well over {}", format_bytes(context)),
        ));
    }
    let left = limit.saturating_sub(others);
    if asked > left {
        return Err(refused(
            format!(
                "{} asked of GPU {index}, {}; the quotas would sum up to {}",
                format_bytes(asked),
                memory_left(card, left, limit, records),
                format_bytes(others.saturating_add(asked))
            ),
            format!(
                "ask for at most {}, delete or shrink a slice, or allow a higher sum with --oversubscribe FACTOR",
                format_bytes(whole_units(left.min(total)))
            ),
        ));
    }
    Ok(())
}

/// "10 GiB left of 120 GiB, its 80 GiB oversubscribed (taken: a 110 GiB)".
fn memory_left(card: &Card<'_>, left: u64, limit: u64, records: &[&Record]) -> String {
    let total = card.info.memory_bytes;
    let over = if limit == total { String::new() } else { format!(", its {} oversubscribed", format_bytes(total)) };
    let taken = memory_holders(records, &card.info.uuid);
    format!("{} left of {}{over} (taken: {taken})", format_bytes(left), format_bytes(limit))
}

/// "30 % left (taken: a 70 %)".
fn compute_left(card: &Card<'_>, others: f64, records: &[&Record]) -> String {
    let by = holders(records, &card.info.uuid, |r, _| r.compute_percent.map(|p| (p, format!("{p} %"))));
    let left = (100.0 - others).max(0.0);
    format!("{} % left (taken: {by})", (left * 1000.0).round() / 1000.0)
}

/// Shares are small decimal numbers; their sum in binary may be off by a hair.
const HAIR: f64 = 1e-6;

fn check_compute(card: &Card<'_>, asked: Option<f64>, others: f64, records: &[&Record]) -> Result<(), ErrorBody> {
    let Some(asked) = asked.filter(|asked| asked + others > 100.0 + HAIR) else { return Ok(()) };
    let left = compute_left(card, others, records);
    Err(refused(
        format!("{asked} % of the compute of GPU {} asked, {left}", card.info.index),
        "ask for less, or lower another slice's share",
    ))
}

/// Most slices that are made at once.
const MOST: u32 = 1000;

/// The names of `count` slices, or of one that is not numbered.
pub fn names(name: String, count: Option<u32>, taken: impl Fn(&str) -> bool) -> Result<Vec<String>, ErrorBody> {
    let names: Vec<String> = match count {
        None => vec![name],
        Some(count @ 1..=MOST) => (0..count).map(|number| format!("{name}-{number}")).collect(),
        Some(count) => {
            let hint = format!("a count is from 1 to {MOST}");
            return Err(invalid(format!("{count} slices can't be made at once"), hint));
        }
    };
    for name in &names {
        check_name(name)?;
        if taken(name) {
            return Err(ErrorBody::new(
                ErrorCode::Conflict,
                format!("there is a slice \"{name}\" already"),
                "choose another name, or delete that one first",
            ));
        }
    }
    Ok(names)
}

/// What the node is, and was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Host memory of the machine, in bytes; `None` if that is not known.
    pub machine_bytes: Option<u64>,
    /// The GPU of slices that may have any.
    pub placement: Placement,
}

/// Decides on a new slice, or on `count` alike on the same GPUs. `name` is the one to use if the spec has none; `taken` says
/// whether a name is in use.
pub fn admit(
    spec: &SliceSpec,
    count: Option<u32>,
    cards: &[Card<'_>],
    records: &[&Record],
    terms: Terms,
    name: String,
    taken: impl Fn(&str) -> bool,
) -> Result<Admitted, ErrorBody> {
    let names = names(spec.name.clone().unwrap_or(name), count, taken)?;
    if (spec.on_missing, spec.on_bypass) == (OnMissing::Allow, OnBypass::Kill) {
        return Err(invalid(
            "on-missing allow and on-bypass kill exclude each other",
            "a program that was let through without the daemon would be killed by it; choose one of the two",
        ));
    }
    let ask = match (spec.fraction, spec.memory) {
        (Some(_), Some(_)) => {
            return Err(invalid("fraction and memory exclude each other", "a fraction is memory and compute in one"));
        }
        (Some(_), None) if spec.compute.is_some() => {
            return Err(invalid("fraction and compute exclude each other", "a fraction is memory and compute in one"));
        }
        (Some(fraction), None) => Ask::Fraction(fraction),
        (None, Some(memory)) => Ask::Memory(memory),
        (None, None) => Ask::Rest,
    };
    let compute_percent = spec.fraction.map(Fraction::percent).or(spec.compute).map(Percent::get);
    check_burst(spec.burst_ms, spec.mode)?;
    let host_limit_bytes = host_limit(spec.host_memory, terms.machine_bytes)?;

    let factor = spec.oversubscribe.unwrap_or(Factor::ONE);
    let decide = |place: usize| -> Result<(usize, u64), ErrorBody> {
        let card = cards.get(place).ok_or_else(|| invalid("no such GPU", ""))?;
        if card.draining {
            return Err(refused(
                format!("GPU {} is being drained", card.info.index),
                format!("choose another, or take it back into use with `cleave undrain {}`", card.info.index),
            ));
        }
        let (total, index) = (card.info.memory_bytes, card.info.index);
        let others = reserved(records.iter().copied(), &card.info.uuid);
        let limit = factor.of(total);
        let left = limit.saturating_sub(others.bytes);
        let asked = ask.bytes(total, (left / names.len() as u64).min(total));
        if asked == 0 {
            return Err(match ask {
                Ask::Rest => refused(
                    format!("nothing is left of GPU {index}: {}", memory_left(card, left, limit, records)),
                    "delete or shrink a slice, or allow a higher sum with --oversubscribe FACTOR",
                ),
                _ => refused(format!("that is 0 B of GPU {index}"), "ask for at least 1MiB"),
            });
        }
        if names.len() > 1 && asked <= total {
            // How many fit by each constraint; the tightest is told.
            let least = if matches!(ask, Ask::Rest) { card.context_bytes.unwrap_or(UNIT).max(UNIT) } else { asked };
            let memory = (left / least, "memory", format_bytes(least), memory_left(card, left, limit, records));
            let share = compute_percent.map(|share| {
                let fit = ((100.0 - others.compute + HAIR) / share).max(0.0) as u64;
                (fit, "compute", format!("{share} %"), compute_left(card, others.compute, records))
            });
            let tightest = share.into_iter().chain([memory]).min_by_key(|(fit, ..)| *fit);
            if let Some((fit, what, each, left)) = tightest.filter(|(fit, ..)| *fit < names.len() as u64) {
                return Err(refused(
                    format!(
                        "{} slices asked of GPU {index}, {fit} fit: its {what} is the tightest, with {each} for each and {left}",
                        names.len()
                    ),
                    format!("ask for at most {fit} with --count, or for less for each"),
                ));
            }
        }
        check_memory(card, asked, others.bytes, limit, records)?;
        check_compute(card, compute_percent, others.compute, records)?;
        Ok((place, asked))
    };

    let devices = match places(&spec.gpu, infos(cards))? {
        Some(places) => places.into_iter().map(decide).collect::<Result<Vec<_>, _>>()?,
        None => {
            let amounts = |card: &Card<'_>| {
                let others = reserved(records.iter().copied(), &card.info.uuid);
                let whole = Amount { memory: card.info.memory_bytes >> 20, compute: WHOLE, bandwidth: 0 };
                // What is left is rounded, and not what is taken: what fits exactly still does.
                let left = Amount {
                    memory: whole.memory.saturating_sub(others.bytes.div_ceil(1 << 20)),
                    compute: rounded_up(100.0 - others.compute),
                    bandwidth: 0,
                };
                let memory = ask.bytes(card.info.memory_bytes, left.memory << 20) >> 20;
                let compute = rounded_up(compute_percent.unwrap_or(0.0));
                (Amount { memory, compute, bandwidth: 0 }, left, whole)
            };
            let amounts: Vec<_> = cards.iter().map(amounts).collect();
            let mut places = order(&amounts, terms.placement == Placement::Pack);
            // Those that can first.
            places.sort_by_key(|place| !cards.get(*place).is_some_and(|card| card.can && !card.draining));
            let mut first_error = None;
            let fits = places.into_iter().find_map(|place| match decide(place) {
                Ok(found) => Some(found),
                Err(error) => {
                    first_error.get_or_insert(error);
                    None
                }
            });
            vec![fits.ok_or_else(|| first_error.unwrap_or_else(|| invalid("no GPU fits", "")))?]
        }
    };
    // Shown as the same quota on each of its GPUs, so a part of unlike cards is a part of the smallest.
    let least = devices.iter().map(|d| d.1).min().unwrap_or(0);
    let devices = devices.into_iter().map(|(place, _)| (place, least)).collect();
    Ok(Admitted { names, devices, compute_percent, burst_ms: spec.burst_ms, host_limit_bytes })
}

/// Decides on a change of `record`, which is one of `records`. Use is not looked at here: it moves.
pub fn change(
    record: &Record,
    change: &SliceChange,
    cards: &[Card<'_>],
    records: &[&Record],
    machine_bytes: Option<u64>,
) -> Result<Changed, ErrorBody> {
    let time =
        change.compute.is_some() || change.mode.is_some() || change.priority.is_some() || change.burst_ms.is_some();
    if change.memory.is_none()
        && change.host_memory.is_none()
        && change.watchdog.is_none()
        && change.suspend_after.is_none()
        && !time
    {
        return Err(invalid(
            "nothing to change",
            "give memory, compute, mode, priority, burst_ms, watchdog, suspend_after or host_memory",
        ));
    }
    let mode = change.mode.unwrap_or(record.mode);
    check_burst(change.burst_ms, mode)?;
    let burst_ms = change.burst_ms.or(record.burst_ms).filter(|_| mode == Mode::Strict);
    let others: Vec<&Record> = records.iter().copied().filter(|r| r.id != record.id).collect();
    let compute_percent = change.compute.map(Percent::get).or(record.compute_percent);
    let host_limit_bytes = host_limit(change.host_memory, machine_bytes)?.or(record.host_limit_bytes);
    let mut limits = Vec::with_capacity(record.devices.len());
    for device in &record.devices {
        let Some(card) = cards.iter().find(|c| c.info.uuid == device.uuid) else {
            return Err(ErrorBody::new(
                ErrorCode::Unavailable,
                format!("GPU {} of slice \"{}\" is not on this machine now", device.uuid, record.name),
                list_of(&infos(cards)),
            ));
        };
        let taken = reserved(others.iter().copied(), &device.uuid);
        let asked = match change.memory {
            Some(amount) => whole_units(amount.of(card.info.memory_bytes)),
            None => device.limit_bytes,
        };
        if asked == 0 {
            return Err(refused(format!("that is 0 B of GPU {}", card.info.index), "ask for at least 1MiB"));
        }
        if change.memory.is_some() {
            // Giving back is always fine, even where the card is promised more than once over.
            let gives = asked <= device.limit_bytes;
            let factor = change.oversubscribe.unwrap_or(Factor::ONE);
            let limit = if gives { u64::MAX } else { factor.of(card.info.memory_bytes) };
            check_memory(card, asked, taken.bytes, limit, &others)?;
        }
        if change.compute.is_some() && compute_percent > record.compute_percent {
            check_compute(card, compute_percent, taken.compute, &others)?;
        }
        limits.push(asked);
    }
    let least = limits.iter().copied().min().unwrap_or(0);
    if change.memory.is_some() {
        limits.fill(least);
    }
    let priority = change.priority.unwrap_or(record.priority);
    Ok(Changed { limits, compute_percent, mode, priority, burst_ms, host_limit_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn gpus() -> Vec<GpuInfo> {
        (0..2)
            .map(|index| GpuInfo {
                index,
                minor: index,
                uuid: format!("GPU-0000000{index}-0000-0000-0000-000000000000"),
                name: "H100".into(),
                pci: String::new(),
                memory_bytes: (80 - u64::from(index) * 40) * GIB,
                ..GpuInfo::default()
            })
            .collect()
    }

    fn record(name: &str, gpu: u32, gib: u64, compute: Option<f64>) -> Record {
        Record {
            id: format!("SLICE-{name}"),
            name: name.into(),
            devices: vec![RecordDevice {
                uuid: format!("GPU-0000000{gpu}-0000-0000-0000-000000000000"),
                index: gpu,
                limit_bytes: gib * GIB,
                ..RecordDevice::default()
            }],
            compute_percent: compute,
            ..Record::default()
        }
    }

    fn spec(gpu: &str, memory: &str) -> SliceSpec {
        SliceSpec {
            gpu: gpu.into(),
            memory: (!memory.is_empty()).then(|| memory.parse().unwrap()),
            ..SliceSpec::default()
        }
    }

    fn try_admit(spec: &SliceSpec, records: &[Record]) -> Result<Admitted, ErrorBody> {
        let gpus = gpus();
        let cards: Vec<Card<'_>> =
            gpus.iter().map(|info| Card { info, context_bytes: Some(GIB / 2), can: true, draining: false }).collect();
        let records: Vec<&Record> = records.iter().collect();
        admit(
            spec,
            None,
            &cards,
            &records,
            Terms { machine_bytes: Some(64 * GIB), ..Terms::default() },
            "chosen".into(),
            |n| records.iter().any(|r| r.name == n),
        )
    }

    #[test]
    fn names() {
        for good in ["a", "train-1", "0", &"x".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä", "SLICE-1", "a/b", "..", &"x".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().code, ErrorCode::Invalid, "{bad}");
        }
    }

    #[test]
    fn any_is_the_card_with_most_left() {
        let admitted = try_admit(&spec("any", "10GiB"), &[record("a", 0, 30, None)]).unwrap();
        assert_eq!(admitted.devices, [(0, 10 * GIB)]);
        let admitted = try_admit(&spec("", "10GiB"), &[record("a", 0, 50, None)]).unwrap();
        assert_eq!(admitted.devices, [(1, 10 * GIB)]);
        assert_eq!(admitted.names, ["chosen"]);
        // Packed, what is in use is filled first.
        let packed = |spec: &SliceSpec, records: &[Record]| {
            let (gpus, records) = (gpus(), records.iter().collect::<Vec<_>>());
            let cards: Vec<Card<'_>> =
                gpus.iter().map(|info| Card { info, context_bytes: None, can: true, draining: false }).collect();
            let name = "chosen".into();
            admit(spec, None, &cards, &records, Terms { placement: Placement::Pack, ..Terms::default() }, name, |_| {
                false
            })
            .unwrap()
            .devices
        };
        let ten = spec("any", "10GiB");
        assert_eq!(packed(&ten, &[record("a", 0, 30, None)]), [(0, 10 * GIB)]);
        assert_eq!(packed(&ten, &[record("a", 1, 20, None)]), [(1, 10 * GIB)]);
        // The third third fits exactly.
        let third = 100.0 / 3.0;
        let two = [record("a", 1, 10, Some(third)), record("b", 1, 10, Some(third))];
        assert_eq!(packed(&SliceSpec { compute: Percent::new(third), ..ten }, &two), [(1, 10 * GIB)]);
        // 35 GiB fits only on card 1, though 25% of compute is gone there.
        let admitted = try_admit(&spec("any", "35GiB"), &[record("a", 0, 50, None)]).unwrap();
        assert_eq!(admitted.devices, [(1, 35 * GIB)]);
    }

    #[test]
    fn nothing_said_is_what_is_left() {
        let admitted = try_admit(&spec("0", ""), &[record("a", 0, 30, None)]).unwrap();
        assert_eq!(admitted.devices, [(0, 50 * GIB)]);
        let error = try_admit(&spec("1", ""), &[record("a", 1, 40, None)]).unwrap_err();
        assert_eq!(error.code, ErrorCode::Refused);
        assert!(error.message.contains("0 B left of 40 GiB") && error.message.contains("a 40 GiB"), "{error}");
    }

    #[test]
    fn a_part_is_of_the_card() {
        let admitted = try_admit(&spec("1", "25%"), &[]).unwrap();
        assert_eq!(admitted.devices, [(1, 10 * GIB)]);
        let fraction = SliceSpec { fraction: Some("1/4".parse().unwrap()), ..spec("0", "") };
        let admitted = try_admit(&fraction, &[]).unwrap();
        assert_eq!((admitted.devices, admitted.compute_percent), (vec![(0, 20 * GIB)], Some(25.0)));
    }

    #[test]
    fn several_cards_get_the_same_quota() {
        let admitted = try_admit(&spec("0,1", "50%"), &[]).unwrap();
        assert_eq!(admitted.devices, [(0, 20 * GIB), (1, 20 * GIB)]);
        let by_uuid = try_admit(&spec("GPU-00000001,0", "1GiB"), &[]).unwrap();
        assert_eq!(by_uuid.devices, [(1, GIB), (0, GIB)]);
    }

    /// Each refusal: the code, and what its message must name.
    #[test]
    fn refusals_say_the_numbers() {
        let taken = [record("a", 0, 60, Some(70.0)), record("b", 0, 10, Some(30.0))];
        let compute = SliceSpec { compute: Some("5%".parse().unwrap()), ..spec("0", "1GiB") };
        let both = SliceSpec { fraction: Some("1/4".parse().unwrap()), ..spec("0", "1GiB") };
        let named = SliceSpec { name: Some("a".into()), ..spec("0", "1GiB") };
        let cases: &[(SliceSpec, ErrorCode, &[&str])] = &[
            (spec("0", "100GiB"), ErrorCode::Refused, &["100 GiB", "80 GiB"]),
            (spec("0", "20GiB"), ErrorCode::Refused, &["20 GiB asked", "10 GiB left", "80 GiB", "a 60 GiB, b 10 GiB"]),
            (spec("0", "100MiB"), ErrorCode::Refused, &["100 MiB", "512 MiB", "context"]),
            (spec("7", "1GiB"), ErrorCode::NotFound, &["\"7\"", "0: H100", "1: H100"]),
            (spec("GPU-ffffffff", "1GiB"), ErrorCode::NotFound, &["GPU-ffffffff"]),
            (spec("GPU-0000000", "1GiB"), ErrorCode::Invalid, &["more than one"]),
            (spec("0,0", "1GiB"), ErrorCode::Invalid, &["twice"]),
            (spec("0,", "1GiB"), ErrorCode::NotFound, &["\"\""]),
            (compute, ErrorCode::Refused, &["5 %", "0 % left", "a 70 %, b 30 %"]),
            (both, ErrorCode::Invalid, &["fraction"]),
            (named, ErrorCode::Conflict, &["\"a\""]),
        ];
        for (spec, code, parts) in cases {
            let error = try_admit(spec, &taken).unwrap_err();
            assert_eq!(error.code, *code, "{error}");
            for part in *parts {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
        let still_too_much = SliceSpec { oversubscribe: Some("9".parse().unwrap()), ..spec("0", "81GiB") };
        assert!(try_admit(&still_too_much, &taken).is_err());
    }

    #[test]
    fn oversubscribing_goes_as_far_as_the_factor() {
        let taken = [record("a", 0, 60, None), record("b", 0, 40, None)];
        let over = |memory: &str| SliceSpec { oversubscribe: Some("1.5".parse().unwrap()), ..spec("0", memory) };
        assert_eq!(try_admit(&over("20GiB"), &taken).unwrap().devices, [(0, 20 * GIB)]);
        assert_eq!(try_admit(&over(""), &taken).unwrap().devices, [(0, 20 * GIB)]);
        // Never more than the card has, however much may be promised of it.
        assert_eq!(try_admit(&over(""), &[]).unwrap().devices, [(0, 80 * GIB)]);
        let error = try_admit(&over("30GiB"), &taken).unwrap_err();
        for part in
            ["30 GiB asked", "20 GiB left of 120 GiB", "sum up to 130 GiB", "at most 20 GiB", "a 60 GiB, b 40 GiB"]
        {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        let grow = |factor: Option<&str>| SliceChange {
            memory: Some("80GiB".parse().unwrap()),
            oversubscribe: factor.map(|f| f.parse().unwrap()),
            ..SliceChange::default()
        };
        assert_eq!(try_change(&taken[0], &grow(Some("1.5")), &taken).unwrap().limits, [80 * GIB]);
        assert!(try_change(&taken[0], &grow(Some("1.4")), &taken).unwrap_err().message.contains("112 GiB"));
        assert!(try_change(&taken[0], &grow(None), &taken).is_err());
    }

    #[test]
    fn several_alike_are_checked_together() {
        let gpus = gpus();
        let cards: Vec<Card<'_>> =
            gpus.iter().map(|info| Card { info, context_bytes: Some(GIB / 2), can: true, draining: false }).collect();
        let taken = [record("a-0", 0, 20, Some(40.0))];
        let records: Vec<&Record> = taken.iter().collect();
        let many = |spec: &SliceSpec, count: u32| {
            admit(spec, Some(count), &cards, &records, Terms::default(), "r".into(), |n| {
                records.iter().any(|r| r.name == n)
            })
        };
        let admitted = many(&spec("0", ""), 20).unwrap();
        assert_eq!((admitted.names.len(), admitted.names[19].as_str()), (20, "r-19"));
        assert_eq!((admitted.devices, admitted.compute_percent), (vec![(0, 3 * GIB)], None));
        assert_eq!(many(&spec("0", "5GiB"), 12).unwrap().devices, [(0, 5 * GIB)]);
        // All of them are on the card that has room for all.
        assert_eq!(many(&spec("any", "20GiB"), 3).unwrap().devices, [(0, 20 * GIB)]);
        let share = |percent: &str| SliceSpec { compute: Some(percent.parse().unwrap()), ..spec("0", "5GiB") };
        assert_eq!(many(&share("5%"), 12).unwrap().compute_percent, Some(5.0));
        let named = SliceSpec { name: Some("a".into()), ..spec("0", "1GiB") };
        let cases: &[(Result<Admitted, ErrorBody>, &[&str])] = &[
            (
                many(&spec("0", "5GiB"), 13),
                &["13 slices", "12 fit", "memory is the tightest", "60 GiB left of 80 GiB", "a-0 20 GiB"],
            ),
            (many(&share("10%"), 12), &["6 fit", "compute is the tightest", "10 %", "60 % left", "at most 6"]),
            (many(&spec("0", ""), 121), &["120 fit", "512 MiB"]),
            (many(&spec("0", "81GiB"), 2), &["81 GiB is more than"]),
            (many(&named, 2), &["\"a-0\"", "already"]),
            (many(&spec("0", "1GiB"), 0), &["0 slices", "1 to 1000"]),
            (many(&spec("0", "1GiB"), 1001), &["1001 slices"]),
        ];
        for (outcome, parts) in cases {
            let error = outcome.as_ref().unwrap_err().to_string();
            for part in *parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }

    #[test]
    fn no_gpu_at_all() {
        let error = admit(&spec("any", "1GiB"), None, &[], &[], Terms::default(), "x".into(), |_| false).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
    }

    fn try_change(record: &Record, what: &SliceChange, all: &[Record]) -> Result<Changed, ErrorBody> {
        let gpus = gpus();
        let cards: Vec<Card<'_>> =
            gpus.iter().map(|info| Card { info, context_bytes: Some(GIB / 2), can: true, draining: false }).collect();
        change(record, what, &cards, &all.iter().collect::<Vec<_>>(), Some(64 * GIB))
    }

    #[test]
    fn growing_counts_the_others_only() {
        let all = [record("a", 0, 60, Some(70.0)), record("b", 0, 10, None)];
        let grow = |m: &str| SliceChange { memory: Some(m.parse().unwrap()), ..SliceChange::default() };
        assert_eq!(try_change(&all[0], &grow("70GiB"), &all).unwrap().limits, [70 * GIB]);
        let error = try_change(&all[0], &grow("71GiB"), &all).unwrap_err();
        assert!(error.message.contains("70 GiB left"), "{error}");
        assert_eq!(try_change(&all[0], &grow("5GiB"), &all).unwrap().compute_percent, Some(70.0));
        assert!(try_change(&all[0], &grow("1MiB"), &all).unwrap_err().message.contains("512 MiB"));
        assert!(try_change(&all[0], &SliceChange::default(), &all).is_err());
        let compute = SliceChange { compute: Some("100%".parse().unwrap()), ..SliceChange::default() };
        assert_eq!(try_change(&all[0], &compute, &all).unwrap().compute_percent, Some(100.0));
        assert!(try_change(&all[1], &compute, &all).unwrap_err().message.contains("30 % left"));
    }

    #[test]
    fn mode_priority_and_burst_change_alone() {
        let strict = Record { mode: Mode::Strict, burst_ms: Some(50), ..record("a", 0, 60, Some(70.0)) };
        let change = |what: SliceChange| try_change(&strict, &what, std::slice::from_ref(&strict));
        let none = SliceChange::default();
        let priority = Some("production".parse().unwrap());
        let changed = change(SliceChange { priority, ..none.clone() }).unwrap();
        assert_eq!((changed.mode, Some(changed.priority), changed.burst_ms), (Mode::Strict, priority, Some(50)));
        let changed = change(SliceChange { burst_ms: Some(0), ..none.clone() }).unwrap();
        assert_eq!((changed.limits, changed.burst_ms), (vec![60 * GIB], Some(0)));
        let changed = change(SliceChange { mode: Some(Mode::None), ..none.clone() }).unwrap();
        assert_eq!((changed.mode, changed.burst_ms), (Mode::None, None));
        let error = change(SliceChange { mode: Some(Mode::Balanced), burst_ms: Some(9), ..none.clone() }).unwrap_err();
        assert!(error.message.contains("9 ms") && error.message.contains("balanced"), "{error}");
        let error = change(SliceChange { burst_ms: Some(10_001), ..none }).unwrap_err();
        assert!(error.to_string().contains("10001 ms") && error.to_string().contains("10000 ms"), "{error}");
        let spec = SliceSpec { burst_ms: Some(5), ..spec("0", "1GiB") };
        assert_eq!(try_admit(&spec, &[]).unwrap_err().code, ErrorCode::Invalid);
        assert_eq!(try_admit(&SliceSpec { mode: Mode::Strict, ..spec }, &[]).unwrap().burst_ms, Some(5));
    }

    #[test]
    fn those_without_a_share_share_the_rest() {
        assert_eq!(
            (thousandths(12.5), thousandths(33.333), thousandths(0.01), thousandths(100.0)),
            (125, 333, 1, 1000)
        );
        assert_eq!((rest(0.0, 0), rest(0.0, 3), rest(40.0, 2), rest(100.0, 5)), (1000, 333, 300, 1));
    }

    #[test]
    fn a_card_promised_twice_over_can_always_shrink() {
        let all = [record("a", 0, 60, None), record("b", 0, 60, None)];
        let shrink = SliceChange { memory: Some("50GiB".parse().unwrap()), ..SliceChange::default() };
        assert_eq!(try_change(&all[0], &shrink, &all).unwrap().limits, [50 * GIB]);
    }
}
