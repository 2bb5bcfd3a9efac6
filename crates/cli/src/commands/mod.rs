//! The commands, and what they have in common: which daemon they talk to.
pub(crate) mod capacity;
pub(crate) mod daemon;
pub(crate) mod drain;
pub(crate) mod fit;
pub(crate) mod inventory;
pub(crate) mod labels;
pub(crate) mod licenses;
pub(crate) mod manifest;
pub(crate) mod mig;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod program;
pub(crate) mod show;
pub(crate) mod slice;
pub(crate) mod system;

use crate::Global;
use crate::client::{Client, Presence, Result};
use crate::output::Format;
use cleave_api::{ErrorBody, ErrorCode, Status};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a daemon takes to start.
const START: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(10);
/// How long another daemon, whose start has crossed ours, is waited for.
const CROSSED: Duration = Duration::from_secs(2);

/// The global options, made definite.
pub(crate) struct Context {
    pub(crate) run_dir: PathBuf,
    pub(crate) sim: Option<String>,
    pub(crate) format: Format,
    pub(crate) verbose: u8,
    /// Whether the run directory was chosen, not ours to change.
    chosen: bool,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self> {
        let chosen = global.run_dir.is_some();
        let run_dir = match global.run_dir {
            Some(dir) => std::path::absolute(&dir)
                .map_err(|e| ErrorBody::new(ErrorCode::Invalid, format!("run directory {}: {e}", dir.display()), ""))?,
            None => cleave_daemon::default_run_dir(),
        };
        let mut context = Self { run_dir, sim: None, format: global.output, verbose: global.verbose, chosen };
        if let Some(sim) = &global.sim {
            context.simulate(sim);
        }
        Ok(context)
    }

    /// Turns to simulated GPUs, which have a daemon of their own.
    pub(crate) fn simulate(&mut self, spec: &str) {
        self.sim = Some(spec.to_owned());
        if !self.chosen {
            let mut name = self.run_dir.file_name().unwrap_or_default().to_owned();
            name.push("-sim");
            self.run_dir.set_file_name(name);
        }
    }

    /// Whether a daemon answers.
    pub(crate) fn daemon_runs(&self) -> bool {
        Client::new(&self.run_dir).is_ok_and(|client| client.presence() == Presence::Answers)
    }

    /// The daemon that runs, whatever its version.
    pub(crate) fn any_client(&self) -> Result<Client> {
        let client = Client::new(&self.run_dir)?;
        match client.presence() {
            Presence::Answers => Ok(client),
            other => Err(client.explain(&other)),
        }
    }

    /// The daemon that runs.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = self.any_client()?;
        let status = client.checked_status()?;
        self.same_sim(&status)?;
        Ok(client)
    }

    /// The daemon that runs, or a private one, started now.
    pub(crate) fn client_or_start(&self) -> Result<Client> {
        let client = Client::new(&self.run_dir)?;
        match client.presence() {
            // A private one may just be ending.
            Presence::Answers => match client.checked_status() {
                Ok(status) => {
                    self.same_sim(&status)?;
                    return Ok(client);
                }
                Err(error) if error.code != ErrorCode::Unavailable => return Err(error),
                Err(_) => {}
            },
            Presence::Absent | Presence::Stale => {}
            other => return Err(client.explain(&other)),
        }
        self.start(&client)?;
        Ok(client)
    }

    fn same_sim(&self, status: &Status) -> Result<()> {
        let same = |a: &str, b: &str| {
            let plain = |text: &str| {
                let text = text.to_ascii_lowercase();
                text.strip_prefix("1x").map(str::to_owned).unwrap_or(text)
            };
            plain(a) == plain(b)
        };
        match (&self.sim, &status.driver.simulated) {
            (Some(asked), Some(there)) if !same(asked, there) => Err(ErrorBody::new(
                ErrorCode::Conflict,
                format!("the daemon in {} simulates {there}, not {asked}", self.run_dir.display()),
                format!(
                    "end it with `cleave --sim {there} shutdown`, ask for --sim {there}, or choose another place with --run-dir"
                ),
            )),
            (Some(asked), None) => Err(ErrorBody::new(
                ErrorCode::Conflict,
                format!("the daemon in {} has real GPUs, and does not simulate {asked}", self.run_dir.display()),
                "leave out --run-dir or --sim",
            )),
            _ => Ok(()),
        }
    }

    /// Starts a private daemon, and waits until it answers.
    fn start(&self, client: &Client) -> Result<()> {
        let failed = |why: String, hint: &str| ErrorBody::new(ErrorCode::Unavailable, why, hint);
        if self.verbose > 0 {
            anstream::eprintln!("debug: starting a private daemon in {}", self.run_dir.display());
        }
        // In memory: what it says matters only if it fails, and it outlives this process.
        let log = rustix::fs::memfd_create("cleave-daemon-stderr", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| failed(format!("no place for the daemon's messages: {e}"), ""))?;
        let mut log = std::fs::File::from(log);
        let copy = log.try_clone().map_err(|e| failed(format!("no place for the daemon's messages: {e}"), ""))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cleave").arg("--run-dir").arg(&self.run_dir).args(["daemon", "--private"]);
        if let Some(sim) = &self.sim {
            command.args(["--sim", sim]);
        }
        // A folder that may go away, or be on a share that shall be unmounted, is not to be held by it.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(copy);
        let mut child = command.spawn().map_err(|e| failed(format!("can't start a daemon: {e}"), ""))?;
        let started = Instant::now();
        let mut ended: Option<Instant> = None;
        loop {
            if client.presence() == Presence::Answers {
                match client.checked_status() {
                    Ok(status) => return self.same_sim(&status),
                    Err(error) if error.code != ErrorCode::Unavailable => return Err(error),
                    Err(_) => {}
                }
            }
            if ended.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
                ended = Some(Instant::now());
            }
            // One that ended may have found that another, started at the same time, has the place.
            if ended.is_some_and(|at| at.elapsed() > CROSSED) {
                break;
            }
            if started.elapsed() > START {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(ASK);
        }
        let mut said = String::new();
        let _ = log.rewind().and_then(|()| log.read_to_string(&mut said));
        Err(explain_start(&said, ended.is_some(), &self.run_dir))
    }
}

/// The error for a daemon that did not start: its own, if it gave one.
fn explain_start(said: &str, ended: bool, run_dir: &std::path::Path) -> ErrorBody {
    let plain = anstream::adapter::strip_str(said).to_string();
    let found = |prefix: &str| plain.lines().find_map(|line| line.strip_prefix(prefix).map(str::to_owned));
    let message = found("error: ").unwrap_or_else(|| match (plain.trim(), ended) {
        ("", true) => "it ended without a word".into(),
        ("", false) => format!("it did not answer within {} s", START.as_secs()),
        (text, _) => text.to_owned(),
    });
    let hint = found("hint: ").unwrap_or_else(|| {
        format!("see what it says: `cleave --run-dir {} daemon`, or `cleave doctor`", run_dir.display())
    });
    ErrorBody::new(ErrorCode::Unavailable, format!("the daemon can't be started: {message}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn global(sim: Option<&str>, run_dir: Option<&str>) -> Global {
        Global {
            sim: sim.map(str::to_owned),
            run_dir: run_dir.map(PathBuf::from),
            output: Format::Table,
            color: crate::Color::Auto,
            verbose: 0,
        }
    }

    #[test]
    fn simulated_gpus_have_a_place_of_their_own() {
        let real = Context::new(global(None, None)).unwrap();
        let simulated = Context::new(global(Some("1xH100"), None)).unwrap();
        assert_eq!(format!("{}-sim", real.run_dir.display()), simulated.run_dir.display().to_string());
        let chosen = Context::new(global(Some("1xH100"), Some("/x"))).unwrap();
        assert_eq!(chosen.run_dir, Path::new("/x"));
    }

    #[test]
    fn a_daemon_that_fails_is_quoted() {
        let dir = Path::new("/run/cleave");
        let own = explain_start("log line\nerror: no driver: libcuda.so.1 is nowhere\nhint: install one\n", true, dir);
        assert_eq!(own.message, "the daemon can't be started: no driver: libcuda.so.1 is nowhere");
        assert_eq!(own.hint.as_deref(), Some("install one"));
        assert!(explain_start("", true, dir).message.contains("without a word"));
        assert!(explain_start("", false, dir).message.contains("10 s"));
        assert!(explain_start("thread panicked", true, dir).message.contains("thread panicked"));
    }
}
