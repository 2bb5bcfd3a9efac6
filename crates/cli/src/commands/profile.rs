//! `cleave profile`: what a program needs of a GPU, measured in a slice of its own, as a workload for the planner.
use super::program::{duration, enter, gpus_of, in_own_slice};
use super::{Context, inventory::save};
use crate::ProfileOptions;
use crate::client::{Client, Result, segment};
use crate::launch::{self, Ended, Pids, Prints};
use crate::output::{self, grouped};
use cleave_api::{Engine, ErrorBody, ErrorCode, Gpu, List, MemoryAmount, Slice, SliceSpec, format_bytes};
use cleave_plan::profile::{self, Reading, compute, curve, memory, percentile};
use cleave_plan::spec::{LONGEST, check_name};
use rustix::fs::Access;
use serde::Serialize;
use serde_saphyr::FlowSeq;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Points of the curve of memory over time.
const POINTS: usize = 60;
/// A slice that lacks less than this of its GPU has all of it, in bytes.
const WHOLE: u64 = 64 << 20;

/// Time between two questions about the GPUs.
const GPUS: Duration = Duration::from_millis(100);
/// Device time of others that shows in no figure, in ns: a hundredth of a window. Two answers may be so far apart, too.
const SLACK: u64 = profile::WINDOW / 100;

/// How a program ended that was asked to.
const INTERRUPTED: &str = "interrupted";

/// A file for `cleave plan`.
#[derive(Serialize)]
struct Workloads {
    workloads: [Workload; 1],
}

/// Seconds and bytes.
type Curve = FlowSeq<Vec<FlowSeq<(f64, u64)>>>;

/// What to ask for, and why.
#[derive(Serialize)]
struct Workload {
    name: String,
    /// GPUs that it used, if more than one; the rest is of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<usize>,
    memory: MemoryAmount,
    /// Percent of a GPU's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    compute: Option<u64>,
    /// Percent of a GPU's memory bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
    profile: Profile,
}

/// What was measured; on several GPUs the most on any one of them.
#[derive(Serialize)]
struct Profile {
    gpu: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    simulated: bool,
    /// RFC 3339.
    measured_at: String,
    seconds: f64,
    /// `by itself` or [`INTERRUPTED`].
    ended: &'static str,
    memory_peak_bytes: u64,
    /// While it used any. This and the next two are absent if it used memory between two readings only.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_p95_bytes: Option<u64>,
    /// What memory was used for when most was, in bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    memory_used_for: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_over_time: Option<Curve>,
    /// Allocations that it was refused.
    #[serde(skip_serializing_if = "is_zero")]
    memory_refused: u64,
    /// Over its whole run.
    device_time_percent: f64,
    /// Of what `compute` is made: 95 % of the seconds in which it was at work had no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_time_p95_percent: Option<f64>,
    /// Of what `bandwidth` is made, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_p95_percent: Option<f64>,
    /// Time in which NVML saw its kernels run, while it used memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvml_busy_percent: Option<f64>,
    launches_per_second: f64,
    /// Work that was sent and still to come, while it used memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_ms_p95: Option<f64>,
}

/// What was read of a program.
#[derive(Default)]
struct Log {
    /// For each of its GPUs.
    gpus: Vec<GpuLog>,
    /// The slice as it was last.
    last: Option<Slice>,
    /// Readings that failed.
    missed: u64,
}

/// What was read of a program on one GPU.
#[derive(Default)]
struct GpuLog {
    readings: Vec<Reading>,
    /// Work that was sent and still to come, in ns, wherever memory was in use.
    queued: Vec<u64>,
    /// NVML's percent of time, wherever memory was in use.
    busy: Vec<u32>,
    peak_bytes: u64,
    /// The most in any reading, and what it was used for.
    most_read: u64,
    used_for: BTreeMap<String, u64>,
    /// Processes in no slice had memory of it.
    outside: bool,
}

impl Log {
    /// Adds what was read `at` a time; `gpus` are those that were asked about, too.
    fn add(&mut self, at: Duration, slice: Slice, gpus: &[Gpu], verbose: bool) {
        self.gpus.resize_with(slice.devices.len(), GpuLog::default);
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        for (log, device) in self.gpus.iter_mut().zip(&slice.devices) {
            let gpu = gpus.iter().find(|gpu| gpu.uuid == device.gpu_uuid);
            log.outside |= gpu.is_some_and(|gpu| gpu.untracked_bytes > 0);
            let bandwidth_percent = gpu.and_then(|gpu| gpu.bandwidth_percent);
            let (used_bytes, device_ns) = (device.used_bytes.unwrap_or(0), device.time.device_ns);
            let reading = Reading { at, used_bytes, device_ns, bandwidth_percent };
            let before = log.readings.last().map_or(0, |last| last.used_bytes);
            if verbose && before != reading.used_bytes {
                let (seconds, used) = (at as f64 / 1e9, reading.used_bytes);
                anstream::eprintln!("debug: {seconds:.3} s: {used} bytes on GPU {}", device.gpu);
            }
            if reading.used_bytes > log.most_read {
                log.most_read = reading.used_bytes;
                log.used_for.clone_from(&device.used_for);
            }
            log.readings.push(reading);
            log.peak_bytes = log.peak_bytes.max(device.peak_bytes.unwrap_or(0)).max(used_bytes);
            if used_bytes > 0 {
                log.queued.push(device.time.in_flight_ns);
                log.busy.extend(device.busy_percent);
            }
        }
        self.last = Some(slice);
    }
}

/// Runs a program, measures it, and prints what to ask for.
pub(crate) fn run(context: &Context, options: &ProfileOptions) -> Result<i32> {
    if let Some(file) = &options.save {
        check_place(file)?;
    }
    if options.engine == Engine::Whole {
        let message = "nothing is measured of a device that is given whole";
        return Err(ErrorBody::new(
            ErrorCode::Refused,
            message,
            "profile it with its maker's tools, and write the workload's memory by hand",
        ));
    }
    let spec = SliceSpec {
        gpu: options.gpu.clone(),
        memory: options.memory,
        engine: options.engine,
        ephemeral: true,
        ..SliceSpec::default()
    };
    let (ended, workload) = in_own_slice(context, &spec, |client, slice| {
        let gpus = list(client)?;
        let gpus: Vec<Gpu> = slice
            .devices
            .iter()
            .filter_map(|device| gpus.iter().find(|gpu| gpu.uuid == device.gpu_uuid).cloned())
            .collect();
        warn_before(slice, &gpus, options);
        let started = Instant::now();
        let (ended, mut log) = watched(context, client, slice, options, started)?;
        let seconds = started.elapsed();
        match read(client, slice) {
            Ok(last) => log.add(seconds, last, &[], context.verbose > 0),
            Err(error) => output::warning(&format!("what it used last is not known: {}", error.message)),
        }
        let after = list(client).unwrap_or_default();
        Ok((ended, workload(options, [&gpus, &after], ended, seconds.as_secs_f64(), log)))
    })?;
    match workload {
        Ok(workload) => deliver(context, options, workload)?,
        Err(error) => output::error(&error),
    }
    launch::end_as(ended.status)
}

/// Runs the program, and reads its slice meanwhile.
fn watched(
    context: &Context,
    client: &Client,
    slice: &Slice,
    options: &ProfileOptions,
    started: Instant,
) -> Result<(Ended, Log)> {
    let prints = if options.save.is_some() { Prints::Out } else { Prints::Aside };
    let own = Client::new(&context.run_dir)?;
    let (end, over) = channel();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&own, slice, options.every, started, over, context.verbose > 0));
        let ended = enter(context, client, &slice.id, &options.entry, Pids::Own, prints);
        drop(end);
        let log = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((ended?, log))
    })
}

/// Reads a slice again and again until it is `over`.
fn watch(client: &Client, slice: &Slice, every: Duration, started: Instant, over: Receiver<()>, verbose: bool) -> Log {
    let mut log = Log::default();
    log.add(Duration::ZERO, slice.clone(), &[], verbose);
    let (mut next, mut asked) = (started + every, started);
    while over.recv_timeout(next.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
        let mut gpus = Vec::new();
        if asked.elapsed() >= GPUS {
            asked = Instant::now();
            // Without an answer there are fewer figures of bandwidth.
            gpus = list(client).unwrap_or_default();
        }
        match read(client, slice) {
            Ok(now) => log.add(started.elapsed(), now, &gpus, verbose),
            Err(_) => log.missed += 1,
        }
        next = (next + every).max(Instant::now());
    }
    log
}

fn read(client: &Client, slice: &Slice) -> Result<Slice> {
    client.get(&format!("slices/{}", segment(&slice.id)))
}

fn list(client: &Client) -> Result<Vec<Gpu>> {
    Ok(client.get::<List<Gpu>>("gpus")?.items)
}

/// What the operator should know before a program is measured for hours.
fn warn_before(slice: &Slice, gpus: &[Gpu], options: &ProfileOptions) {
    for (device, gpu) in slice.devices.iter().zip(gpus) {
        if let Some(profile) = &device.mig_profile {
            output::warning(&format!(
                "it runs in a {profile} of GPU {}, whose time is not the GPU's: `compute` is left out",
                device.gpu
            ));
        } else if options.memory.is_none() && device.limit_bytes + WHOLE < gpu.memory_bytes {
            output::warning(&format!(
                "it can have {} of the {} of GPU {}: other slices hold the rest",
                format_bytes(device.limit_bytes),
                format_bytes(gpu.memory_bytes),
                device.gpu
            ));
        }
    }
}

/// Percent of a GPU's memory bandwidth that the program used, or why that can't be said. What is counted is all that uses a
/// GPU, so it is the program's where nobody else was at work: `gpus` are as they were before it and after.
fn bandwidth(log: &Log, slice: &Slice, [before, after]: [&[Gpu]; 2]) -> std::result::Result<f64, String> {
    let mut most = None;
    for (log, device) in log.gpus.iter().zip(&slice.devices).filter(|(log, _)| log.peak_bytes > 0) {
        let worked = |gpus: &[Gpu]| gpus.iter().find(|gpu| gpu.uuid == device.gpu_uuid).map(|gpu| gpu.device_ns);
        let Some((before, after)) = worked(before).zip(worked(after)) else {
            return Err(format!("what else was at work on GPU {} is not known", device.gpu));
        };
        let alone = after.abs_diff(before.saturating_add(device.time.device_ns)) <= SLACK;
        let together = format!("all that use GPU {} are counted together", device.gpu);
        if device.mig_profile.is_some() {
            return Err(format!("it is counted for all of GPU {}, and not for an instance", device.gpu));
        }
        if log.outside {
            return Err(format!("processes in no slice used the GPU, too, and {together}"));
        }
        if !alone {
            return Err(format!("other slices were at work meanwhile, and {together}"));
        }
        if log.readings.iter().all(|reading| reading.bandwidth_percent.is_none()) {
            return Err(format!("the driver doesn't count it on GPU {}; it does from Hopper on", device.gpu));
        }
        let found = profile::bandwidth(&log.readings);
        most = found.into_iter().chain(most).reduce(f64::max);
    }
    most.ok_or_else(|| "the program was not at work for long enough".into())
}

/// What to ask for after what was read, or why that can't be said.
fn workload(
    options: &ProfileOptions,
    [gpus, after]: [&[Gpu]; 2],
    ended: Ended,
    seconds: f64,
    log: Log,
) -> std::result::Result<Workload, ErrorBody> {
    let nothing = || {
        ErrorBody::new(
            ErrorCode::Unavailable,
            "nothing was measured: no memory of a GPU was in use at any reading, so nothing is written",
            "does the program use a GPU? One that does so with a driver library of its own is not seen (`cleave events`), and one that ends at once may be missed (--every 10ms)",
        )
    };
    let (place, most) = log.gpus.iter().enumerate().max_by_key(|(_, gpu)| gpu.peak_bytes).ok_or_else(nothing)?;
    let (Some(last), Some(gpu)) = (&log.last, gpus.get(place)) else { return Err(nothing()) };
    if most.peak_bytes == 0 {
        return Err(nothing());
    }
    if !ended.status.success() && !ended.asked {
        return Err(ErrorBody::new(
            ErrorCode::Unavailable,
            format!(
                "the program failed ({}) after {}, with {} of GPU memory in use at most: nothing is written, because it may need more",
                ended.status,
                duration(seconds),
                format_bytes(most.peak_bytes)
            ),
            match last.denied_total {
                0 => "see what it says; a program that has to be interrupted is measured until then".to_owned(),
                _ => format!("it was refused memory {} times: give it more", grouped(last.denied_total)),
            },
        ));
    }
    let used: Vec<u64> = most.readings.iter().map(|reading| reading.used_bytes).filter(|used| *used > 0).collect();
    let in_instance = last.devices.iter().any(|device| device.mig_profile.is_some());
    let part = log.gpus.iter().filter_map(|gpu| compute(&gpu.readings)).reduce(f64::max).filter(|_| !in_instance);
    let bandwidth = bandwidth(&log, last, [gpus, after]);
    let moved = bandwidth.as_ref().ok().copied();
    let whole = |percent: f64| (percent.ceil() as u64).clamp(1, 100);
    let device_ns = last.devices.iter().map(|device| device.time.device_ns).max().unwrap_or(0);
    let busy: u64 = most.busy.iter().map(|percent| u64::from(*percent)).sum();
    let count = log.gpus.iter().filter(|gpu| gpu.peak_bytes > 0).count();
    let points = curve(&most.readings, POINTS);
    let points = points.iter().map(|one| FlowSeq((rounded(one.at as f64 / 1e9, 1000.0), one.used_bytes))).collect();
    let workload = Workload {
        name: options.name.clone().unwrap_or_else(|| {
            let program = options.entry.program.first().map(Path::new);
            plain(&program.and_then(Path::file_name).unwrap_or_default().to_string_lossy())
        }),
        gpus: (count > 1).then_some(count),
        memory: MemoryAmount::Bytes(memory(most.peak_bytes, options.margin, gpu.memory_bytes)),
        compute: part.map(whole),
        bandwidth: moved.map(whole),
        profile: Profile {
            gpu: gpu.name.clone(),
            simulated: gpu.simulated,
            measured_at: last.created_at.clone(),
            seconds: rounded(seconds, 1000.0),
            ended: if ended.asked { INTERRUPTED } else { "by itself" },
            memory_peak_bytes: most.peak_bytes,
            memory_p95_bytes: percentile(used, 95),
            memory_used_for: most.used_for.clone(),
            memory_over_time: (most.most_read > 0).then_some(FlowSeq(points)),
            memory_refused: last.denied_total,
            device_time_percent: rounded(device_ns as f64 / 1e7 / seconds, 100.0),
            device_time_p95_percent: part.map(|part| rounded(part, 100.0)),
            bandwidth_p95_percent: moved.map(|moved| rounded(moved, 100.0)),
            nvml_busy_percent: (!most.busy.is_empty()).then(|| rounded(busy as f64 / most.busy.len() as f64, 10.0)),
            launches_per_second: rounded(last.launches_total as f64 / seconds, 10.0),
            queued_ms_p95: percentile(most.queued.clone(), 95).map(|ns| rounded(ns as f64 / 1e6, 1000.0)),
        },
    };
    sum_up(&workload, last, &log, part, bandwidth);
    Ok(workload)
}

/// For people, to stderr.
fn sum_up(
    workload: &Workload,
    slice: &Slice,
    log: &Log,
    part: Option<f64>,
    bandwidth: std::result::Result<f64, String>,
) {
    let Workload { name, memory: MemoryAmount::Bytes(memory), profile, .. } = workload else { return };
    let mut at_work = part.map_or_else(String::new, |part| format!(", {part:.1}% of its time while at work"));
    if let Ok(percent) = bandwidth {
        at_work.push_str(&format!(", {percent:.1}% of its memory bandwidth"));
    }
    anstream::eprintln!(
        "cleave: {name}: {} on GPU {} ({}): at most {} in use, {} to ask for{at_work}, {} launches",
        duration(profile.seconds),
        gpus_of(slice),
        profile.gpu,
        format_bytes(profile.memory_peak_bytes),
        format_bytes(*memory),
        grouped(slice.launches_total)
    );
    if profile.ended == INTERRUPTED {
        output::warning("it was interrupted: what it needs later is not known");
    }
    if part.is_none() && slice.devices.iter().all(|device| device.mig_profile.is_none()) {
        output::warning("too little device time was measured to tell its part of a GPU: `compute` is left out");
    }
    if slice.denied_total > 0 {
        output::warning(&format!(
            "{} refused: the program takes more than this where it can have more",
            if slice.denied_total == 1 {
                "1 allocation was".into()
            } else {
                format!("{} allocations were", grouped(slice.denied_total))
            }
        ));
    }
    let waited: u64 = slice.devices.iter().map(|device| device.time.throttled_ns).sum();
    // It takes a moment until its first work may go.
    if waited as f64 / 1e9 > profile.seconds / 100.0 {
        output::warning(&format!(
            "its work waited {} for its turns on the GPU: without others there it may take more of the time",
            duration(waited as f64 / 1e9)
        ));
    }
    if log.missed > 0 {
        output::warning(&format!("{} readings failed: a peak may have been missed", grouped(log.missed)));
    }
    if let Err(why) = bandwidth {
        anstream::eprintln!("cleave: bandwidth is left out: {why}");
    }
}

/// Prints the workload, or writes it to its file.
fn deliver(context: &Context, options: &ProfileOptions, workload: Workload) -> Result<()> {
    let all = Workloads { workloads: [workload] };
    match &options.save {
        Some(file) => save(&all, file),
        None => output::print(context.format, &all, || serde_saphyr::to_string(&all).unwrap_or_default()),
    }
}

/// Whether a file can be written, before a program runs for hours.
fn check_place(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if !file.is_dir() => return Ok(()),
        Ok(()) => "it is a folder".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("{} can't be written: {why}", file.display());
    Err(ErrorBody::new(ErrorCode::Invalid, message, "name a file in a folder that is there and yours"))
}

/// A workload's name, as `cleave plan` reads it.
pub(crate) fn name(text: &str) -> std::result::Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// `text` as a name.
fn plain(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let text = text.replace(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit(), "-");
    let text: String = text.trim_matches('-').chars().take(LONGEST).collect();
    match text.trim_end_matches('-') {
        "" => "program".into(),
        name => name.into(),
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_becomes_a_name() {
        for (file, wanted) in [
            ("train", "train"),
            ("python3.12", "python3-12"),
            ("A.Out", "a-out"),
            ("_x_", "x"),
            ("", "program"),
            ("--", "program"),
            ("\u{fc}ber", "ber"),
        ] {
            assert_eq!(plain(file), wanted);
            assert_eq!(name(wanted).as_deref(), Ok(wanted));
            assert!(file == wanted || name(file).is_err_and(|error| error.contains("1 to 50")), "{file}");
        }
        let long = format!("{}-{}", "a".repeat(49), "b".repeat(9));
        assert!(name(&long).is_err());
        assert_eq!(name(&plain(&long)), Ok("a".repeat(49)));
    }
}
