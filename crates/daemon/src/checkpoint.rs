//! Takes the memory of processes off their GPUs and brings it back, by the driver's checkpoints: in a process of its own,
//! because the daemon does not load the driver. All of the processes are away afterwards, or none is.
use crate::config::Config;
use crate::ffi::cuda::Checkpoints;
use crate::gpu::LIBRARIES;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The hidden command that [`checkpoint`] serves.
pub const COMMAND: &str = "internal-checkpoint";
/// Longest wait for the work that a process has sent, in ms.
const LOCK_MS: u32 = 10_000;
/// Longest that it may take altogether: the memory of a whole card and more goes over the bus.
const PATIENCE: Duration = Duration::from_secs(300);

/// The driver's error of a process that is gone, or uses no GPU.
const NO_PROCESS: u32 = 3;
/// The driver's states of a process.
const LOCKED: i32 = 1;
const AWAY: i32 = 2;

/// One call of the driver about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Waits until nothing of it is in flight, then holds up all of its calls; so many ms at most.
    Lock(u32),
    /// Takes the memory of a locked one off its GPUs.
    Checkpoint,
    /// Brings it back.
    Restore,
    /// Lets its calls go on.
    Unlock,
}

/// The driver, as far as it is needed here. Errors are the driver's numbers.
pub trait Driver {
    /// Makes a call about the process `pid`.
    fn call(&self, call: Call, pid: i32) -> Result<(), u32>;
    /// The state of a process.
    fn state(&self, pid: i32) -> Result<i32, u32>;
    /// An error's name.
    fn name(&self, error: u32) -> String;
}

/// Makes `call` about each process in `pids`, and leaves those that are gone out. At an error gives back whom it was made about
/// so far, and the error.
fn each(driver: &impl Driver, call: Call, pids: &[i32]) -> Result<Vec<i32>, (Vec<i32>, String)> {
    let mut done = Vec::new();
    for pid in pids {
        match driver.call(call, *pid) {
            Ok(()) => done.push(*pid),
            Err(NO_PROCESS) => {}
            Err(error) => return Err((done, format!("process {pid}: {call:?}: {}", driver.name(error)))),
        }
    }
    Ok(done)
}

/// Takes all of them off their GPUs, or none.
pub fn suspend(driver: &impl Driver, pids: &[i32]) -> Result<(), String> {
    let locked = match each(driver, Call::Lock(LOCK_MS), pids) {
        Ok(locked) => locked,
        Err((locked, error)) => {
            let _ = each(driver, Call::Unlock, &locked);
            return Err(error);
        }
    };
    let Err((away, error)) = each(driver, Call::Checkpoint, &locked) else { return Ok(()) };
    let restored = each(driver, Call::Restore, &away);
    let unlocked = each(driver, Call::Unlock, &locked);
    match restored.and(unlocked) {
        Ok(_) => Err(error),
        Err((_, more)) => Err(format!("{error}; and it can't be undone: {more}")),
    }
}

/// Brings all of them back that are away, or none, and lets those go on that are locked.
pub fn wake(driver: &impl Driver, pids: &[i32]) -> Result<(), String> {
    let in_state = |state: i32| -> Result<Vec<i32>, String> {
        let mut all = Vec::new();
        for pid in pids {
            match driver.state(*pid) {
                Ok(found) if found == state => all.push(*pid),
                Ok(_) | Err(NO_PROCESS) => {}
                Err(error) => return Err(format!("process {pid}: its state is not known: {}", driver.name(error))),
            }
        }
        Ok(all)
    };
    if let Err((restored, error)) = each(driver, Call::Restore, &in_state(AWAY)?) {
        let _ = each(driver, Call::Checkpoint, &restored);
        return Err(error);
    }
    each(driver, Call::Unlock, &in_state(LOCKED)?).map(drop).map_err(|(_, error)| error)
}

/// Starts the helper for the slice of this folder and waits for it.
pub async fn run(config: &Config, driver_dir: &Path, slice: &Path, away: bool, pids: &[u32]) -> anyhow::Result<()> {
    let program = match &config.probe_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("this program's own file is not known")?,
    };
    let mut command = tokio::process::Command::new(&program);
    command.arg(COMMAND).arg(if away { "suspend" } else { "wake" }).arg(driver_dir).arg(slice);
    command.args(pids.iter().map(u32::to_string)).env_remove("LD_PRELOAD");
    // Not killed when the request is dropped: it must not stop half way.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("{} can't be started", program.display()))?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()))??;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.trim().lines().last().unwrap_or("it failed without a word").trim_start_matches("error: ");
        bail!("{last}");
    }
    Ok(())
}

/// `cleave internal-checkpoint suspend|wake DIR SLICE PID…`, with the real driver of the folder DIR.
pub fn checkpoint(arguments: &[String]) -> anyhow::Result<()> {
    let [what, dir, slice, pids @ ..] = arguments else {
        bail!("suspend or wake, two folders and process ids are missing")
    };
    // One that an earlier daemon started may still be at it: it comes to its end first.
    let folder = std::fs::File::open(slice).with_context(|| format!("{slice} can't be opened"))?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).context("the slice can't be locked")?;
    let pids: Vec<i32> = pids.iter().map(|pid| pid.parse()).collect::<Result<_, _>>().context("no process id")?;
    let [cuda, _] = LIBRARIES.map(|name| PathBuf::from(dir).join(name));
    let driver = Checkpoints::open(&cuda).map_err(anyhow::Error::msg)?;
    let done = match what.as_str() {
        "suspend" => suspend(&driver, &pids),
        "wake" => wake(&driver, &pids),
        other => bail!("\"{other}\" is neither suspend nor wake"),
    };
    done.map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Processes by id with their states, and which call fails about whom.
    struct Fake(RefCell<BTreeMap<i32, i32>>, Option<(Call, i32)>);

    impl Driver for Fake {
        fn call(&self, call: Call, pid: i32) -> Result<(), u32> {
            if self.1 == Some((call, pid)) {
                return Err(2);
            }
            let mut states = self.0.borrow_mut();
            let state = states.get_mut(&pid).ok_or(NO_PROCESS)?;
            let (from, to) = match call {
                Call::Lock(_) => (0, LOCKED),
                Call::Checkpoint => (LOCKED, AWAY),
                Call::Restore => (AWAY, LOCKED),
                Call::Unlock => (LOCKED, 0),
            };
            if *state != from {
                return Err(401);
            }
            *state = to;
            Ok(())
        }

        fn state(&self, pid: i32) -> Result<i32, u32> {
            self.0.borrow().get(&pid).copied().ok_or(NO_PROCESS)
        }

        fn name(&self, error: u32) -> String {
            error.to_string()
        }
    }

    fn fake(states: [i32; 3], fails: Option<(Call, i32)>) -> Fake {
        Fake(RefCell::new((1..).zip(states).collect()), fails)
    }

    fn states(fake: &Fake) -> Vec<i32> {
        fake.0.borrow().values().copied().collect()
    }

    #[test]
    fn all_go_and_come_back_and_the_dead_are_left_out() {
        let driver = fake([0; 3], None);
        suspend(&driver, &[1, 2, 3, 9]).unwrap();
        assert_eq!(states(&driver), [AWAY; 3]);
        driver.0.borrow_mut().remove(&2);
        wake(&driver, &[1, 2, 3]).unwrap();
        assert_eq!(states(&driver), [0, 0]);
        wake(&driver, &[1, 2, 3]).unwrap();
    }

    #[test]
    fn whatever_fails_leaves_all_as_they_were() {
        for pid in 1..=3 {
            for call in [Call::Lock(LOCK_MS), Call::Checkpoint] {
                let driver = fake([0; 3], Some((call, pid)));
                let error = suspend(&driver, &[1, 2, 3]).unwrap_err();
                assert!(error.contains(&format!("process {pid}")), "{error}");
                assert_eq!(states(&driver), [0; 3], "{call:?} {pid}");
            }
            let driver = fake([AWAY; 3], Some((Call::Restore, pid)));
            assert!(wake(&driver, &[1, 2, 3]).is_err());
            assert_eq!(states(&driver), [AWAY; 3]);
        }
    }

    /// A helper that was killed half way leaves some locked.
    #[test]
    fn waking_mends_what_was_left_half_done() {
        let driver = fake([AWAY, LOCKED, 0], None);
        wake(&driver, &[1, 2, 3]).unwrap();
        assert_eq!(states(&driver), [0; 3]);
    }
}
