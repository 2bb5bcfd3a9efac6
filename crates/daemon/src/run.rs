//! From a configuration to a daemon that serves, and back to nothing.
use crate::config::{Config, own_dir};
use crate::ffi::nvml::RealNvml;
use crate::files::{RunDir, lock};
use crate::gpu::{DriverFiles, LIBRARIES, NoGpus, Nvml, NvmlError, find_driver};
use crate::install;
use crate::inventory;
use crate::node::{self, Node};
use crate::reconcile;
use crate::serve;
use crate::store::Store;
use crate::watchdog;
use anyhow::Context;
use cleave_api::{API_SOCKET, Device, ErrorBody, ErrorCode, Vendor};
use cleave_inventory::{NvmlAnswers, modes, survey};
use cleave_ledger::flags;
use fakegpu::install::{OWNERS, ROOT, STATE};
use fakegpu::mps::CONTROL;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long open connections may finish what they are at when the daemon ends.
const FINISH: Duration = Duration::from_secs(2);
/// How long a daemon that is ending is waited for: a little longer than that.
const PREDECESSOR: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to end (SIGTERM, SIGINT, `POST /v1/shutdown`), or, if it is private, until its last
/// slice is gone. Slices and the programs in them outlive it, unless it is private.
pub fn run(config: Config) -> anyhow::Result<()> {
    start_log();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    raise_file_limit(FILES);
    let prepared = Prepared::new(&config)?;
    let (nvml, driver) = find_gpus(&config, &prepared.run)?;
    run_with(config, prepared, nvml, driver)
}

/// What must be there before anything else: folders, locks, the database.
pub struct Prepared {
    /// The run directory.
    pub run: RunDir,
    /// The database.
    pub store: Store,
    locks: [File; 2],
}

impl Prepared {
    /// Makes the folders, or says why not.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        own_dir(&config.run_dir, if root { 0o755 } else { 0o700 })?;
        let run_lock = lock(&config.run_dir.join("daemon.lock"), &config.run_dir, PREDECESSOR)?;
        own_dir(&config.state_dir, 0o700)?;
        let state_lock = lock(&config.state_dir.join("daemon.lock"), &config.state_dir, PREDECESSOR)?;
        let mut run = RunDir::open(&config.run_dir)
            .with_context(|| format!("the run directory {} can't be used", config.run_dir.display()))?;
        run.ignored = config.ignore_classes.iter().fold(0, |bits, class| bits | flags::ignores(*class));
        let path = config.state_dir.join("cleave.db");
        let store = Store::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        Ok(Self { run, store, locks: [run_lock, state_lock] })
    }
}

/// Loads NVML, real or simulated, and puts the libraries in place. A machine that has none, but devices of other makers, does
/// without.
fn find_gpus(config: &Config, run: &RunDir) -> anyhow::Result<(Box<dyn Nvml>, DriverFiles)> {
    let there = || survey(&inventory::root(config, run), &NvmlAnswers::default()).devices;
    // A display of the machine's own is no reason to go without a driver that does not work.
    let given = |there: &[Device]| there.iter().any(|device| modes::whole(device).is_none());
    // Nor are other makers' devices, where the bus has NVIDIA's; and who names the driver's folder, or simulates one, wants it.
    let wanted = |there: &[Device]| there.iter().any(|device| device.vendor == Vendor::Nvidia) || !given(there);
    let (nvml, driver): (Box<dyn Nvml>, DriverFiles) = match find_nvidia(config, run) {
        Ok((nvml, driver)) if !nvml.gpus().is_empty() => (Box::new(nvml), driver),
        Ok(_) if !given(&there()) => return Err(no_driver("the driver shows no GPU".into())),
        Ok((_, driver)) => (Box::new(NoGpus), driver),
        Err(error) if config.driver_library_dir.is_some() || config.sim.is_some() || wanted(&there()) => {
            return Err(error);
        }
        Err(error) => {
            tracing::info!("{error:#}; other makers' devices are given whole");
            (Box::new(NoGpus), DriverFiles::default())
        }
    };
    install::stand_in(run, &nvml.driver_version())?;
    Ok((nvml, driver))
}

fn find_nvidia(config: &Config, run: &RunDir) -> anyhow::Result<(RealNvml, DriverFiles)> {
    let dir = run.driver_dir();
    let driver = match &config.sim {
        Some(spec) => simulate(&dir, spec)?,
        None => {
            let driver = find_driver(config.driver_library_dir.as_deref(), install::SHIM);
            if let Some(missing) = LIBRARIES.iter().find(|name| !driver.real.contains_key(**name)) {
                let place = match &config.driver_library_dir {
                    Some(dir) => format!("not in {}", dir.display()),
                    None => "in none of the dynamic linker's folders".into(),
                };
                return Err(no_driver(format!("no NVIDIA driver: {missing} is {place}")));
            }
            install::real_driver(run, &driver)?;
            driver
        }
    };
    let [_, nvml] = LIBRARIES.map(|name| dir.join(name));
    let nvml = RealNvml::open(&nvml).map_err(|error| match error {
        NvmlError::Missing(why) => no_driver(format!("the driver's NVML can't be loaded: {why}")),
        NvmlError::TooOld(_) => no_driver(error.to_string()),
        NvmlError::Call(why) => no_driver(format!("the driver does not answer: {why}")),
    })?;
    Ok((nvml, driver))
}

fn no_driver(message: String) -> anyhow::Error {
    let hint = "install or start the NVIDIA driver, name its folder with --driver-library-dir, or simulate GPUs with --sim 1xH100";
    ErrorBody::new(ErrorCode::Unavailable, message, hint).into()
}

fn simulate(dir: &Path, spec: &str) -> anyhow::Result<DriverFiles> {
    // Programs that run on the simulated GPUs share state with this folder's: a new daemon must not make it anew.
    let made_from = dir.join("made-from");
    let library = dir.join("libfakegpu.so");
    let there = fs::read_to_string(&made_from).is_ok_and(|old| old == spec)
        && fs::read(&library).is_ok_and(|bytes| bytes == install::SIMULATED)
        && fs::read(dir.join(CONTROL)).is_ok_and(|bytes| bytes == install::SIMULATED_CONTROL)
        && dir.join(STATE).exists()
        && dir.join(ROOT).exists();
    if !there && let Err(error) = fakegpu::install(dir, spec, install::SIMULATED, install::SIMULATED_CONTROL) {
        return Err(match error {
            fakegpu::Error::Spec(error) => {
                ErrorBody::new(ErrorCode::Invalid, format!("--sim {spec}: {error}"), "as in --sim 8xH100").into()
            }
            error => anyhow::Error::from(error).context("the simulated driver can't be installed"),
        });
    }
    fs::write(&made_from, spec).with_context(|| format!("no room in {}", dir.display()))?;
    // A slice's owner may be another user, and every program on a simulated GPU writes to what they share.
    for shared in [STATE, OWNERS] {
        fs::set_permissions(dir.join(shared), fs::Permissions::from_mode(0o666))?;
    }
    // Memory that a process exports is a file of its own here.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o1777))?;
    Ok(DriverFiles {
        real: LIBRARIES.iter().map(|name| ((*name).to_owned(), dir.join(name))).collect(),
        covers: Vec::new(),
    })
}

/// Serves with everything in hand; the tests come in here with GPUs of their own.
pub fn run_with(config: Config, prepared: Prepared, nvml: Box<dyn Nvml>, driver: DriverFiles) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cleave")
        .enable_all()
        .build()
        .context("no event loop")?;
    let Prepared { run, store, locks } = prepared;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let socket = config.run_dir.join(API_SOCKET);
        let tcp = match &config.tcp {
            Some(tcp) => Some(serve::bind_tcp(tcp).await?),
            None => None,
        };
        let node = Node::new(config.clone(), nvml, driver, run, store);
        node.adopt()?;
        // After a reboot slices find their instances again before anything can start in them.
        let first = Arc::clone(&node);
        let _ = tokio::task::spawn_blocking(move || first.reconcile_mig()).await;
        let listener = serve::bind_unix(&socket)?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve::unix(Arc::clone(&node), listener));
        if let Some(door) = tcp {
            tracing::info!("the API is served on {} too", door.address()?);
            tasks.spawn(serve::tcp(Arc::clone(&node), door));
        }
        tokio::spawn(reconcile::run(Arc::clone(&node)));
        tokio::spawn(watchdog::run(Arc::clone(&node)));
        tokio::spawn(node::wake_wanted(Arc::clone(&node)));
        tracing::info!("serving on {}", socket.display());
        notify("READY=1");
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // There is nothing to read anew.
                _ = hangup.recv() => {}
                () = node.stopped() => break,
                Some(ended) = tasks.join_next() => {
                    if let Ok(Err(error)) = ended {
                        tracing::error!("the API can't be served: {error}");
                    }
                    break;
                }
            }
        }
        notify("STOPPING=1");
        node.shut_down();
        // Open connections may finish what they are at, but not keep the daemon.
        let finish = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FINISH, finish).await;
        let _ = fs::remove_file(&socket);
        node.leave_turns();
        let inner = node.lock();
        let ids: Vec<String> = inner.slices.keys().cloned().collect();
        for id in &ids {
            inner.keep(id);
        }
        inner.store.close();
        Ok::<bool, anyhow::Error>(ids.is_empty())
    });
    // What still runs (a blocked NVML call) is not waited for.
    runtime.shutdown_background();
    let over = outcome?;
    if config.private && over {
        let _ = fs::remove_dir_all(&config.state_dir);
        remove_run_dir(&config.run_dir);
    }
    drop(locks);
    Ok(())
}

/// Removes the run directory, but for the place at which the slices of other daemons may have their sockets mounted: a
/// mount point that is removed here takes the mounts on it in other namespaces along.
fn remove_run_dir(dir: &Path) {
    let kept = Path::new(cleave_ledger::wire::SOCKET).parent();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if Some(entry.path().as_path()) != kept {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
    let _ = fs::remove_dir(dir);
}

fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The command line may have set up its own.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

/// Descriptors for 10 000 slices with eight processes each: a slice has two sockets and, once used, a file; a process has two
/// pidfds and a connection.
pub const FILES: u64 = 524_288;

/// Allows this process to have `wanted` descriptors, or as many as it may.
pub fn raise_file_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.map_or(wanted, |m| m.max(wanted));
    let higher = Rlimit { current: Some(wanted), maximum: Some(most) };
    if now.current.is_none_or(|c| c >= wanted) || setrlimit(Resource::Nofile, higher).is_ok() {
        return;
    }
    // Without privilege: as far as we may.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// Tells the service manager.
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::debug!("the service manager can't be told: {error}");
    }
}
