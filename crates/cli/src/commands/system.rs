//! The machine around cleave: `cleave doctor`, `cdi`, `openapi`, `completions`, `man`.
use super::{Context, inventory::save};
use crate::client::{Client, Presence, Result, segment};
use crate::output::{self, BAD, Format, GOOD, Named, WARN, table};
use crate::{Cdi, demo, launch};
use clap::Command;
use cleave_api::{ErrorBody, ErrorCode, List, Slice, Vendor};
use cleave_inventory::modes::whole;
use rustix::fs::Access;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What statfs says of a tmpfs.
const TMPFS: u64 = 0x0102_1994;
/// What it says of NFS, CIFS, SMB and FUSE.
const NO_SHARED_MEMORY: [u64; 4] = [0x6969, 0xff53_4d42, 0x517b, 0x6573_5546];
/// Exit code of a check that failed.
const FAILED_CHECK: i32 = 2;
/// Least room in the run directory: the ledgers of a few hundred slices.
const LEAST_ROOM: u64 = 16 << 20;
/// Oldest driver that cleave supports, as the major number of the kernel driver.
const OLDEST_DRIVER: u32 = 470;

/// Prints the OpenAPI document of this version's daemon.
pub(crate) fn openapi(context: &Context) -> Result<i32> {
    let format = if context.format == Format::Table { Format::Json } else { context.format };
    output::print(format, &cleave_daemon::openapi_document(), String::new)?;
    Ok(0)
}

/// Prints completions.
pub(crate) fn completions(mut command: Command, shell: clap_complete::Shell) -> Result<i32> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "cleave", &mut text);
    output::line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(0)
}

/// Writes the man pages.
pub(crate) fn man(command: Command, dir: &Path) -> Result<i32> {
    std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir)).map_err(|e| {
        ErrorBody::new(
            ErrorCode::Unavailable,
            format!("can't write man pages to {}: {e}", dir.display()),
            "choose a folder that you may write to",
        )
    })?;
    Ok(0)
}

/// Prints or writes CDI specs.
pub(crate) fn cdi(context: &Context, options: &Cdi) -> Result<i32> {
    let client = context.client()?;
    let names = match &options.slice {
        Some(slice) => vec![slice.clone()],
        None => client.get::<List<Slice>>("slices")?.items.into_iter().map(|s| s.name).collect(),
    };
    let mut specs = Vec::new();
    for name in names {
        let spec: serde_json::Value = client.get(&format!("slices/{}/cdi", segment(&name)))?;
        specs.push((name, spec));
    }
    if !options.write {
        // CDI is JSON or YAML; there is no table of it. One spec is printed as it would be written.
        let format = if context.format == Format::Table { Format::Json } else { context.format };
        match specs.as_slice() {
            [(_, spec)] if !options.all => output::print(format, spec, String::new)?,
            _ => {
                let specs: Vec<_> = specs.iter().map(|(_, spec)| spec).collect();
                output::print(format, &List::new("cdi-specs", specs), String::new)?;
            }
        }
        return Ok(0);
    }
    let hint = "CDI folders belong to root; choose another with --dir, and name it to the container engine";
    std::fs::create_dir_all(&options.dir).map_err(|e| {
        ErrorBody::new(ErrorCode::Unavailable, format!("{} can't be made: {e}", options.dir.display()), hint)
    })?;
    let mut written = Vec::new();
    for (name, spec) in &specs {
        // Named for its devices, as the CDI specification has it; a slice's id would do as well as its name.
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let path = options.dir.join(format!("cleave.dev-slice-{name}.json"));
        save(spec, &path).map_err(|error| ErrorBody { hint: Some(hint.into()), ..error })?;
        if context.format == Format::Table {
            output::line(&format!("wrote {}", path.display()))?;
        }
        written.push(path);
    }
    if context.format != Format::Table {
        output::print(context.format, &List::new("written-files", written), String::new)?;
    }
    Ok(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warning,
    Failed,
}

/// One check of `cleave doctor`.
#[derive(Serialize)]
struct Check {
    /// Stable name.
    id: &'static str,
    grade: Grade,
    /// What was found.
    found: String,
    /// What to do, if it is not ok.
    fix: Option<String>,
}

/// A file or folder that cleave writes.
#[derive(Serialize)]
struct Written {
    path: String,
    purpose: &'static str,
    exists: bool,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
    files_written: Vec<Written>,
}

fn ok(id: &'static str, found: impl Into<String>) -> Check {
    Check { id, grade: Grade::Ok, found: found.into(), fix: None }
}

fn bad(id: &'static str, grade: Grade, found: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { id, grade, found: found.into(), fix: Some(fix.into()) }
}

/// Checks the machine.
pub(crate) fn doctor(context: &Context) -> Result<i32> {
    let mut checks = Vec::new();
    let real = context.sim.is_none();
    // Devices of other makers than NVIDIA's need no driver of theirs. NVML is not asked where there are its GPUs.
    let there = if real && !demo::has_gpu() { cleave_daemon::inventory().devices } else { Vec::new() };
    let nvidia = there.iter().any(|device| device.vendor == Vendor::Nvidia);
    let others = there.iter().filter(|device| whole(device).is_none()).count();
    if others > 0 && !nvidia {
        checks.push(ok("driver", format!("{others} devices of other makers than NVIDIA, which are given whole")));
    } else if real {
        checks.push(driver());
        checks.push(library());
    } else {
        checks.push(ok("driver", "simulated GPUs need none"));
    }
    checks.push(run_dir(&context.run_dir));
    checks.push(daemon(context));
    checks.push(match launch::can_mount() {
        Ok(()) => ok("mount-namespace", "programs are held by mounts: absolute paths and `env -i` too"),
        Err(why) => bad(
            "mount-namespace",
            Grade::Warning,
            format!("{why}: programs are held by LD_PRELOAD alone, which a program can shed"),
            "use cleave as root, or containers with `cleave cdi`, where programs are not to be trusted",
        ),
    });
    checks.push(pidfd());
    let report = Report { checks, files_written: files(context) };
    output::print(context.format, &Named::new("doctor", &report), || doctor_text(&report))?;
    let failed = report.checks.iter().any(|c| c.grade == Grade::Failed);
    Ok(if failed { FAILED_CHECK } else { 0 })
}

fn doctor_text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.grade {
            Grade::Ok => format!("{GOOD}ok  {GOOD:#}"),
            Grade::Warning => format!("{WARN}warn{WARN:#}"),
            Grade::Failed => format!("{BAD}FAIL{BAD:#}"),
        };
        text.push_str(&format!("{mark}  {:<16} {}\n", check.id, check.found));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("      {:<16} {GOOD}fix{GOOD:#}: {fix}\n", ""));
        }
    }
    text.push_str("\nWhat cleave writes:\n");
    let rows = report
        .files_written
        .iter()
        .map(|file| vec![file.path.clone(), if file.exists { "yes" } else { "no" }.into(), file.purpose.into()]);
    text.push_str(&table(&["PATH", "EXISTS", "PURPOSE"], rows.collect()));
    text
}

fn driver() -> Check {
    let fix = "install NVIDIA's driver, or try `cleave --sim 1xH100 demo`, which needs none";
    let path = "/proc/driver/nvidia/version";
    let Ok(text) = std::fs::read_to_string(path) else {
        return match demo::has_gpu() {
            true => ok("driver", "a GPU device is there; this system does not say which driver"),
            false => bad("driver", Grade::Failed, format!("no NVIDIA driver: there is no {path}"), fix),
        };
    };
    let version = text.split_whitespace().find(|word| {
        let mut numbers = word.split('.');
        numbers.clone().count() >= 2 && numbers.all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    let major = version.and_then(|v| v.split('.').next()).and_then(|v| v.parse::<u32>().ok());
    match (version, major) {
        (Some(version), Some(major)) if major >= OLDEST_DRIVER => ok("driver", format!("version {version}")),
        (Some(version), Some(_)) => bad(
            "driver",
            Grade::Failed,
            format!("version {version} is older than {OLDEST_DRIVER}, the oldest that cleave supports"),
            "install a newer driver",
        ),
        _ => bad("driver", Grade::Warning, format!("{path} names no version"), "see `nvidia-smi`"),
    }
}

fn library() -> Check {
    let places = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib",
    ];
    let found = |name: &str| places.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    match (found("libcuda.so.1"), found("libnvidia-ml.so.1")) {
        (Some(cuda), Some(_)) => ok("driver-libraries", cuda.display().to_string()),
        (cuda, nvml) => {
            let mut missing = Vec::new();
            if cuda.is_none() {
                missing.push("libcuda.so.1");
            }
            if nvml.is_none() {
                missing.push("libnvidia-ml.so.1");
            }
            bad(
                "driver-libraries",
                Grade::Failed,
                format!("not in the usual places: {}", missing.join(", ")),
                "install the driver's libraries, or name their folder with `cleave daemon --driver-library-dir DIR`",
            )
        }
    }
}

fn run_dir(dir: &Path) -> Check {
    let id = "run-dir";
    // The nearest folder that is there decides whether it can be made.
    let Some(there) = dir.ancestors().find(|path| path.exists()) else {
        return bad(id, Grade::Failed, format!("{}: nothing of this path is there", dir.display()), "choose --run-dir");
    };
    if let Err(error) = rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let running = dir.join(cleave_api::API_SOCKET).exists();
        let grade = if running { Grade::Ok } else { Grade::Failed };
        return Check {
            id,
            grade,
            found: format!("{} can't be written by this user: {error}", there.display()),
            fix: (!running).then(|| "choose a folder of your own with --run-dir DIR".into()),
        };
    }
    match rustix::fs::statvfs(there) {
        Ok(stat) if stat.f_bavail.saturating_mul(stat.f_frsize) < LEAST_ROOM => bad(
            id,
            Grade::Failed,
            format!("{} has {} KiB left", there.display(), stat.f_bavail * stat.f_frsize / 1024),
            "make room: ledgers need 16 MiB",
        ),
        Ok(_) => match rustix::fs::statfs(there) {
            // Ledgers are shared memory: on a disk they work, and are written to it.
            Ok(fs) if fs.f_type as u64 == TMPFS => ok(id, format!("{} (tmpfs)", dir.display())),
            Ok(fs) if NO_SHARED_MEMORY.contains(&(fs.f_type as u64)) => bad(
                id,
                Grade::Failed,
                format!("{} is on a network or user file system, where memory can't be shared", there.display()),
                "choose a local folder, best a tmpfs, with --run-dir DIR",
            ),
            _ => bad(
                id,
                Grade::Warning,
                format!("{} is on no tmpfs: ledgers are written to a disk", there.display()),
                "choose a folder under /run or /dev/shm with --run-dir DIR",
            ),
        },
        Err(error) => bad(id, Grade::Failed, format!("{}: {error}", there.display()), "choose --run-dir DIR"),
    }
}

fn daemon(context: &Context) -> Check {
    let id = "daemon";
    let client = match Client::new(&context.run_dir) {
        Ok(client) => client,
        Err(error) => return bad(id, Grade::Failed, error.message, error.hint.unwrap_or_default()),
    };
    match client.presence() {
        Presence::Answers => match client.checked_status() {
            Ok(status) => ok(id, format!("cleave {} answers, process {}", status.version, status.pid)),
            Err(error) => bad(id, Grade::Failed, error.message, error.hint.unwrap_or_default()),
        },
        Presence::Absent => ok(id, "none runs; `cleave run` starts a private one"),
        Presence::Stale => ok(id, "none runs; a left-over socket will be replaced"),
        other => {
            let error = client.explain(&other);
            bad(id, Grade::Failed, error.message, error.hint.unwrap_or_default())
        }
    }
}

fn pidfd() -> Check {
    let this = rustix::process::getpid();
    match rustix::process::pidfd_open(this, rustix::process::PidfdFlags::empty()) {
        Ok(_) => ok("kernel", "process file descriptors work"),
        Err(error) => bad(
            "kernel",
            Grade::Failed,
            format!("no process file descriptors: {error}"),
            "Linux 5.3 or newer is needed, and a sandbox must allow pidfd_open",
        ),
    }
}

/// Everything that cleave writes outside the folders of its user's choice.
fn files(context: &Context) -> Vec<Written> {
    let run = |name: &str| context.run_dir.join(name);
    let list: Vec<(PathBuf, &'static str)> = super::daemon::files(context)
        .into_iter()
        .chain([
            (run(cleave_api::API_SOCKET), "the daemon's HTTP socket"),
            (
                PathBuf::from("/run/cleave/slice"),
                "empty; in a slice's mount namespace its socket is seen here (root only)",
            ),
            (PathBuf::from("/run/cdi/cleave.dev-slice-NAME.json"), "CDI specs, also by `cleave cdi --write`"),
            (PathBuf::from("DIR/cleave*.1"), "man pages, by `cleave man DIR` only"),
        ])
        .collect();
    list.into_iter()
        .map(|(path, purpose)| Written { exists: path.exists(), path: path.display().to_string(), purpose })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_missing_run_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let check = run_dir(&dir.path().join("cleave"));
        assert_ne!(check.grade, Grade::Failed, "{}", check.found);
        assert_eq!(run_dir(Path::new("/proc/cleave")).grade, Grade::Failed);
    }
}
