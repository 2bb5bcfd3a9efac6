//! What the daemon is told when it starts.
use cleave_api::{Engine, Factor, Placement};
use cleave_ledger::KernelClass;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How a daemon shall be run. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets, ledgers, the stand-in library: lost with a reboot.
    pub run_dir: PathBuf,
    /// The database of slices and events: kept.
    pub state_dir: PathBuf,
    /// End when the last slice is gone, and leave no files.
    pub private: bool,
    /// Simulate GPUs instead of using the machine's: `8xH100`.
    pub sim: Option<String>,
    /// Where `libcuda.so.1` and `libnvidia-ml.so.1` are, if not where the dynamic linker looks.
    pub driver_library_dir: Option<PathBuf>,
    /// Serve the API over TCP as well.
    pub tcp: Option<Tcp>,
    /// Where container engines look for device specs; `None` = write none.
    pub cdi_dir: Option<PathBuf>,
    /// The program that is run as `PROGRAM internal-probe-context …` to measure a context; this one if absent.
    pub probe_program: Option<PathBuf>,
    /// Measure contexts at all.
    pub probe: bool,
    /// How long windows are in ms, where slices take turns; `None`: as shares and their number make it.
    pub window_ms: Option<u64>,
    /// Classes of kernels that are not told apart from others in slices made from now on.
    pub ignore_classes: Vec<KernelClass>,
    /// A part of the multiprocessors is of certain ones, where the driver gives those; else of a number of them.
    pub own_multiprocessors: bool,
    /// The engine of slices that name none: `auto`, `temporal`, or `spatial`, for which they need not name a trust domain.
    pub engine: Engine,
    /// How many times over a GPU's memory may be promised to slices that name no factor.
    pub oversubscribe: Factor,
    /// The GPU of slices that may have any.
    pub placement: Placement,
    /// Where NVIDIA's MPS control daemon is, if not where commands are looked for.
    pub mps_dir: Option<PathBuf>,
}

/// The API over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Where to listen. Without TLS only a loopback address is accepted.
    pub listen: SocketAddr,
    /// A file with the token that callers send as `Authorization: Bearer …`.
    pub token_file: PathBuf,
    /// Certificate chain, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// Where the daemon of this user has its sockets.
pub fn default_run_dir() -> PathBuf {
    match (uid(), variable("XDG_RUNTIME_DIR")) {
        (0, _) => "/run/cleave".into(),
        (_, Some(dir)) => dir.join("cleave"),
        (uid, None) => format!("/tmp/cleave-{uid}").into(),
    }
}

/// Where the daemon of this user keeps its database.
pub fn default_state_dir() -> PathBuf {
    match (uid(), variable("XDG_STATE_HOME"), variable("HOME")) {
        (0, _, _) => "/var/lib/cleave".into(),
        (_, Some(dir), _) => dir.join("cleave"),
        (_, None, Some(home)) => home.join(".local/state/cleave"),
        (uid, None, None) => format!("/tmp/cleave-{uid}/state").into(),
    }
}

/// The folder of the simulating daemon beside that of the real one.
pub fn simulated(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push("-sim");
    name.into()
}

impl Config {
    /// The defaults of this user; a simulating daemon has folders of its own, so that both can run.
    pub fn new(sim: Option<String>) -> Self {
        let (mut run_dir, mut state_dir) = (default_run_dir(), default_state_dir());
        let mut cdi_dir = (uid() == 0).then(|| PathBuf::from("/run/cdi"));
        if sim.is_some() {
            run_dir = simulated(&run_dir);
            state_dir = simulated(&state_dir);
            cdi_dir = None;
        }
        Self {
            run_dir,
            state_dir,
            private: false,
            sim,
            driver_library_dir: None,
            tcp: None,
            cdi_dir,
            probe_program: None,
            probe: true,
            window_ms: None,
            ignore_classes: Vec::new(),
            own_multiprocessors: true,
            engine: Engine::Auto,
            oversubscribe: Factor::ONE,
            placement: Placement::Spread,
            mps_dir: None,
        }
    }

    /// A private daemon in `run_dir`: its state is there too, and no container engine hears of it.
    pub fn private(run_dir: PathBuf, sim: Option<String>) -> Self {
        let state_dir = run_dir.join("state");
        Self { run_dir, state_dir, private: true, cdi_dir: None, ..Self::new(sim) }
    }
}

/// Makes `dir` if it is not there, and refuses one that somebody else could put files into.
pub fn own_dir(dir: &Path, mode: u32) -> anyhow::Result<()> {
    use anyhow::Context;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let fresh = !dir.exists();
    if fresh {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        }
        match std::fs::DirBuilder::new().mode(mode).create(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("can't make {}", dir.display()))?,
        }
    }
    let meta = std::fs::symlink_metadata(dir).with_context(|| format!("can't look at {}", dir.display()))?;
    if !meta.is_dir() || meta.uid() != uid() || (meta.mode() & 0o022 != 0 && !fresh) {
        anyhow::bail!(
            "{} can't be used: it must be a folder of user {} that nobody else can write to (it is user {}'s, mode {:o})",
            dir.display(),
            uid(),
            meta.uid(),
            meta.mode() & 0o7777
        );
    }
    if meta.mode() & 0o777 != mode {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("can't set the mode of {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulating_daemon_has_its_own_folders() {
        let (real, sim) = (Config::new(None), Config::new(Some("1xH100".into())));
        assert_ne!(real.run_dir, sim.run_dir);
        assert_ne!(real.state_dir, sim.state_dir);
        assert_eq!(sim.cdi_dir, None);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("run");
        own_dir(&ours, 0o755).unwrap();
        own_dir(&ours, 0o755).unwrap();
        std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = own_dir(&ours, 0o755).unwrap_err().to_string();
        assert!(error.contains("mode 777"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(own_dir(&link, 0o755).is_err());
    }
}
