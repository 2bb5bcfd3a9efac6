//! MPS servers: one for each GPU and trust domain, started with the first program, watched, mended, and stopped when idle.
//!
//! A domain's folder holds what NVIDIA's control daemon makes (`pipe`) and what it and its server say (`log`). It outlives this
//! daemon, as the servers do: what is known of a domain is read from its log, from the beginning after a restart.
use crate::gpu::GpuInfo;
use crate::node::{Inhabitant, Node};
use crate::process;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// NVIDIA's control daemon, which is its own client too.
pub const CONTROL: &str = "nvidia-cuda-mps-control";
/// Where it has its process id, in the pipe folder.
const CONTROL_PID: &str = "nvidia-cuda-mps-control.pid";
/// Between two looks at a domain with programs.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server without programs stays; longer than a program takes from being let in to the driver.
const IDLE: Duration = Duration::from_secs(15);
/// Longest wait for the control daemon to start, and for an answer of its.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long programs on a dead server may end by themselves. Measured: a server serves again some 0.1 s after the last is gone.
const GRACE: Duration = Duration::from_millis(300);
/// Longest wait for killed programs to be gone, and for the server to serve again then.
const MEND: Duration = Duration::from_secs(2);

/// What a server's log says, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Programs that connected, with the server that took them in, by process id.
    pub clients: BTreeMap<u32, u32>,
    /// The server that wrote last.
    pub server: Option<u32>,
    /// A fault that was not dealt with: the server, and who made it, where that was said.
    pub fault: Option<(u32, Option<u32>)>,
}

/// The number behind `name` in `text`.
fn number(text: &str, name: &str) -> Option<u32> {
    let rest = text.split_once(name)?.1.trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Log {
    /// Takes in one line, as drivers of 580 write them: `[2026-11-26 15:19:40.606 Server   453] Client {PID: 456, Context: 1} …`.
    pub fn read(&mut self, line: &str) {
        let Some((head, text)) = line.split_once("] ") else { return };
        let Some(server) = number(head, " Server ") else { return };
        self.server = Some(server);
        let client = number(text, "{PID:");
        if let Some(pid) = client.filter(|_| text.ends_with(" connected")) {
            self.clients.insert(pid, server);
        } else if text.contains("encountered a fatal GPU error") {
            let known = self.fault.and_then(|(of, culprit)| culprit.filter(|_| of == server));
            self.fault = Some((server, known.or(client)));
        } else if text.contains("is handling a fatal GPU error") && self.fault.is_none_or(|(of, _)| of != server) {
            self.fault = Some((server, None));
        }
    }
}

/// Process ids, one a line.
fn pids(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Where the control daemon is, in `dirs`; if there is none, says so.
pub fn find(dirs: &[PathBuf]) -> Result<PathBuf, String> {
    let program = dirs.iter().map(|dir| dir.join(CONTROL)).find(|path| path.is_file());
    program.ok_or_else(|| format!("there is no {CONTROL}, which comes with the driver's tools"))
}

/// A process, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    pid: u32,
    start_time: u64,
}

impl Id {
    /// The process that has this id now, if there is one.
    fn of(pid: u32) -> Option<Self> {
        process::stat(pid).filter(|stat| stat.state != 'Z').map(|stat| Self { pid, start_time: stat.start_time })
    }

    fn is_alive(self) -> bool {
        process::is_alive(self.pid, self.start_time)
    }

    fn kill(self) {
        if let Some(pidfd) = process::open_pidfd(self.pid, self.start_time) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
    }
}

/// One trust domain on one GPU.
#[derive(Debug)]
pub struct Domain {
    /// Its folder's name.
    pub id: String,
    dir: PathBuf,
    /// Its user.
    owner: u32,
    known: Mutex<Known>,
    /// Held while something is done to its servers: who comes meanwhile waits.
    gate: tokio::sync::Mutex<Gate>,
}

/// What is known of a domain.
#[derive(Debug, Default)]
struct Known {
    log: Log,
    /// How far the log was read.
    read: u64,
    /// A line whose end is not there yet.
    rest: String,
    /// The servers, since they were first seen.
    servers: Vec<Id>,
}

#[derive(Debug)]
struct Gate {
    /// A task watches it.
    watched: bool,
    /// When a program was let in last, or was there.
    used: Instant,
}

/// The node's domains.
#[derive(Debug)]
pub struct Domains {
    /// The control daemon's program; if MPS can't be used, why not.
    pub program: Result<PathBuf, String>,
    dir: PathBuf,
    domains: Mutex<HashMap<String, Arc<Domain>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Domains {
    /// Domains with their folders in `run_dir`, which are made when needed.
    pub fn new(run_dir: &Path, program: Result<PathBuf, String>) -> Self {
        Self { program, dir: run_dir.join("mps"), domains: Mutex::default() }
    }

    /// The domain whose folder has this name.
    pub fn get(&self, id: &str, owner: u32) -> Arc<Domain> {
        let new = || Domain {
            id: id.to_owned(),
            dir: self.dir.join(id),
            owner,
            known: Mutex::default(),
            gate: tokio::sync::Mutex::new(Gate { watched: false, used: Instant::now() }),
        };
        Arc::clone(lock(&self.domains).entry(id.to_owned()).or_insert_with(|| Arc::new(new())))
    }

    /// The folder that a domain's programs are told of.
    pub fn pipe(&self, id: &str) -> PathBuf {
        self.dir.join(id).join("pipe")
    }

    /// The names of the domains' folders, also of those that nobody is in any more.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Every server's process id, as of now: their memory is nobody's.
    pub fn servers(&self) -> HashSet<u32> {
        let domains: Vec<_> = lock(&self.domains).values().cloned().collect();
        let mut found = HashSet::new();
        for domain in domains {
            domain.look();
            let known = lock(&domain.known);
            found.extend(known.log.clients.values().copied().chain(known.log.server));
        }
        found
    }

    /// Whether the process ever connected to a server of the domain; `None` if nothing is known of the domain.
    pub fn has_client(&self, id: &str, pid: u32) -> Option<bool> {
        lock(&self.domains).get(id).map(|one| lock(&one.known).log.clients.contains_key(&pid))
    }
}

impl Domain {
    fn pipe(&self) -> PathBuf {
        self.dir.join("pipe")
    }

    /// Makes its folders. Nobody but its user gets to them; a container gets the inner one.
    pub fn prepare(&self) -> io::Result<()> {
        let parent = self.dir.parent().unwrap_or(&self.dir);
        let root = rustix::process::geteuid().is_root();
        for (dir, mode) in
            [(parent, 0o711), (&*self.dir, 0o700), (&*self.pipe(), 0o755), (&*self.dir.join("log"), 0o755)]
        {
            if !dir.is_dir() {
                fs::create_dir(dir)?;
            }
            fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
            if root && dir != parent {
                std::os::unix::fs::chown(dir, Some(self.owner), None)?;
            }
        }
        Ok(())
    }

    /// The control daemon, if it is alive.
    fn control(&self) -> Option<Id> {
        let text = fs::read_to_string(self.pipe().join(CONTROL_PID)).ok()?;
        let id = Id::of(*pids(&text).first()?)?;
        // Whoever has its process id after a crash is not it.
        process::command(id.pid).filter(|command| command.contains(CONTROL)).map(|_| id)
    }

    fn command(&self, program: &Path, gpu: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command
            .env("CUDA_MPS_PIPE_DIRECTORY", self.pipe())
            .env("CUDA_MPS_LOG_DIRECTORY", self.dir.join("log"))
            .env("CUDA_VISIBLE_DEVICES", gpu)
            .env_remove("LD_PRELOAD")
            .current_dir("/")
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// What the control daemon answers to one of its commands.
    async fn ask(&self, program: &Path, words: &str) -> io::Result<String> {
        let asked = async {
            let mut child = self
                .command(program, "")
                .env_remove("CUDA_VISIBLE_DEVICES")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(format!("{words}\n").as_bytes()).await?;
            }
            let output = child.wait_with_output().await?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Starts the control daemon where none is. Its server comes with the first program.
    async fn start(&self, program: &Path, gpu: &str) -> Result<(), String> {
        if self.control().is_some() {
            return Ok(());
        }
        self.prepare().map_err(|e| format!("{}: {e}", self.dir.display()))?;
        // What a dead one left would be taken for a living one.
        for entry in fs::read_dir(self.pipe()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let mut command = self.command(program, gpu);
        if rustix::process::geteuid().is_root() {
            // Otherwise a program of another user, as in a container, waits in the driver until those of the first are gone.
            command.arg("-multiuser-server");
        }
        command.arg("-d").stdin(Stdio::null()).stdout(Stdio::null());
        let failed = |e: io::Error| format!("{}: {e}", program.display());
        let status = tokio::time::timeout(PATIENCE, async { command.spawn()?.wait().await }).await;
        let status = status.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        if !status.success() {
            return Err(format!("{} ended with {status}; see {}", program.display(), self.dir.join("log").display()));
        }
        let began = Instant::now();
        while self.control().is_none() || !self.pipe().join("control").exists() {
            if began.elapsed() > PATIENCE {
                return Err(format!("{CONTROL} did not come up; see {}", self.dir.join("log").display()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Ends the control daemon and its servers, in whatever state they are.
    async fn stop(&self, program: Option<&Path>) {
        let control = self.control();
        if let (Some(control), Some(program)) = (control, program) {
            let _ = self.ask(program, "quit -t 1").await;
            let began = Instant::now();
            while control.is_alive() && began.elapsed() < MEND {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.look();
        let servers = std::mem::take(&mut lock(&self.known).servers);
        servers.into_iter().chain(control).for_each(Id::kill);
        for file in ["server.log", "control.log"] {
            let _ = fs::remove_file(self.dir.join("log").join(file));
        }
        *lock(&self.known) = Known::default();
    }

    /// Reads a log that was there before this daemon. A fault in it was dealt with, unless the server says otherwise.
    async fn read_old(&self, program: &Path) {
        self.look();
        let fault = lock(&self.known).log.fault;
        let Some((server, _)) = fault else { return };
        if !is_faulty(self, program, server).await {
            let mut known = lock(&self.known);
            known.log.fault = known.log.fault.filter(|now| Some(*now) != fault);
        }
    }

    /// Reads what was added to the log.
    fn look(&self) {
        let mut known = lock(&self.known);
        let Ok(mut file) = fs::File::open(self.dir.join("log/server.log")) else { return };
        if file.metadata().is_ok_and(|meta| meta.len() < known.read) {
            // A new control daemon began a new one.
            (known.read, known.rest) = (0, String::new());
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(known.read)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
            return;
        }
        known.read += bytes.len() as u64;
        let text = std::mem::take(&mut known.rest) + &String::from_utf8_lossy(&bytes);
        let (whole, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
        whole.lines().for_each(|line| known.log.read(line));
        known.rest = rest.to_owned();
        known.servers.retain(|id| id.is_alive());
        let new = known.log.server.filter(|pid| known.servers.iter().all(|id| id.pid != *pid)).and_then(Id::of);
        known.servers.extend(new);
    }

    /// What is wrong: the server that is dead or faulty, the culprit if one is named, and the programs on it.
    fn trouble(&self, programs: &[Inhabitant]) -> Option<(u32, Option<u32>, Vec<Inhabitant>)> {
        let mut known = lock(&self.known);
        let fault = known.log.fault.take();
        let on = |server: u32, known: &Known| -> Vec<Inhabitant> {
            programs.iter().filter(|one| known.log.clients.get(&one.pid) == Some(&server)).cloned().collect()
        };
        if let Some((server, culprit)) = fault {
            return Some((server, culprit, on(server, &known)));
        }
        let dead = |server: &u32| known.servers.iter().all(|id| id.pid != *server);
        let server =
            programs.iter().filter_map(|one| known.log.clients.get(&one.pid)).find(|server| dead(server)).copied()?;
        Some((server, None, on(server, &known)))
    }
}

/// Lets a program into `domain`: when this returns, a server serves there. If none can be had, says why.
pub async fn enter(node: &Arc<Node>, domain: &Arc<Domain>, gpu: &GpuInfo) -> Result<(), String> {
    let program = node.mps.program.clone()?;
    let mut gate = domain.gate.lock().await;
    // What its log says by now is not left for the next look: a newcomer to a broken server would fail.
    if !gate.watched {
        domain.read_old(&program).await;
    }
    tend(node, domain, &node.inhabitants(&domain.id).1).await;
    domain.start(&program, &gpu.uuid).await?;
    gate.used = Instant::now();
    if !std::mem::replace(&mut gate.watched, true) {
        tokio::spawn(watch(Arc::clone(node), Arc::clone(domain)));
    }
    Ok(())
}

/// Looks after a domain from now on, if nobody does: of an earlier daemon, whose programs go on, or of nobody, which ends.
pub fn look_after(node: &Arc<Node>, domain: &Arc<Domain>) {
    let (node, domain) = (Arc::clone(node), Arc::clone(domain));
    tokio::spawn(async move {
        let mut gate = domain.gate.lock().await;
        if std::mem::replace(&mut gate.watched, true) {
            return;
        }
        if let Ok(program) = &node.mps.program {
            domain.read_old(program).await;
        }
        tokio::spawn(watch(Arc::clone(&node), Arc::clone(&domain)));
    });
}

async fn is_faulty(domain: &Domain, program: &Path, server: u32) -> bool {
    domain.ask(program, &format!("get_server_status {server}")).await.is_ok_and(|said| said.contains("FAULT"))
}

/// Looks after a domain until nobody needs it.
async fn watch(node: Arc<Node>, domain: Arc<Domain>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut gate = domain.gate.lock().await;
        let (slices, programs) = node.inhabitants(&domain.id);
        if !programs.is_empty() {
            gate.used = Instant::now();
            tend(&node, &domain, &programs).await;
        } else if slices.is_empty() || gate.used.elapsed() >= IDLE {
            domain.stop(node.mps.program.as_deref().ok()).await;
            gate.watched = false;
            if slices.is_empty() {
                let _ = fs::remove_dir_all(&domain.dir);
                lock(&node.mps.domains).remove(&domain.id);
            }
            return;
        }
    }
}

/// Reads what the server's log says, and mends what is broken. The caller holds the gate.
async fn tend(node: &Arc<Node>, domain: &Arc<Domain>, programs: &[Inhabitant]) {
    domain.look();
    if let Some((server, culprit, on_it)) = domain.trouble(programs) {
        mend(node, domain, server, culprit, on_it).await;
    }
}

/// "python a.py (pid 7) of slice a, …", at most eight.
fn named<'a>(programs: impl Iterator<Item = &'a Inhabitant>) -> String {
    let mut words: Vec<String> =
        programs.map(|one| format!("{} (pid {}) of slice {}", one.command, one.pid, one.slice.name)).collect();
    let more = words.len().saturating_sub(8);
    words.truncate(8);
    if more > 0 {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

/// Ends the programs on a server that is dead or faulty, which can't go on, and sees that it serves again.
async fn mend(node: &Node, domain: &Domain, server: u32, culprit: Option<u32>, on_it: Vec<Inhabitant>) {
    let began = Instant::now();
    let by = culprit.and_then(|pid| on_it.iter().find(|one| one.pid == pid));
    let cause = match (by, culprit) {
        (Some(one), _) => format!("{} made a fatal GPU error", named(std::iter::once(one))),
        (None, Some(pid)) => format!("process {pid}, which has ended, made a fatal GPU error"),
        (None, None) if Id::of(server).is_some() => "its MPS server reports a fatal GPU error".into(),
        (None, None) => format!("its MPS server (pid {server}) has ended"),
    };
    let mut told = HashSet::new();
    for one in by.into_iter().chain(&on_it) {
        if told.insert(one.slice.id.clone()) {
            let victims = named(on_it.iter().filter(|victim| Some(victim.pid) != culprit));
            let ends = if victims.is_empty() { String::new() } else { format!("; with it end {victims}") };
            let message = format!("trust domain of slice {}: {cause}{ends}", one.slice.name);
            node.lock().event("fault", Some(&one.slice), &message);
        }
    }
    if told.is_empty() {
        node.lock().event("fault", None, &cause);
    }
    // They have an error that sticks: some end by it, the others are ended.
    let gone = async |longest: Duration| {
        let until = Instant::now() + longest;
        while on_it.iter().any(|one| process::is_alive(one.pid, one.start_time)) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    gone(GRACE).await;
    for one in &on_it {
        Id { pid: one.pid, start_time: one.start_time }.kill();
    }
    gone(MEND).await;
    let program = node.mps.program.as_deref().ok();
    let again = async {
        let Some(program) = program else { return };
        while Id::of(server).is_some() && is_faulty(domain, program, server).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let serves = tokio::time::timeout(MEND, again).await.is_ok() && domain.control().is_some();
    if !serves {
        // The next program finds none, and starts anew.
        domain.stop(program).await;
    }
    domain.look();
    {
        let mut known = lock(&domain.known);
        known.log.fault = None;
        // Also who can't be killed: it was told once.
        known.log.clients.retain(|pid, _| on_it.iter().all(|one| one.pid != *pid));
    }
    let how = if serves { "serves again" } else { "was stopped, and starts anew with the next program" };
    let slice = by.or(on_it.first()).map(|one| &one.slice);
    let message = format!(
        "the MPS server of the trust domain {how}, {} ms after the fault was seen",
        began.elapsed().as_millis()
    );
    node.lock().event("recovered", slice, &message);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "[2026-11-26 15:19:39.100 Server   453] Client {PID: 456, Context ID: 1} connected\n\
        [2026-11-26 15:19:39.101 Server   453] Status of client {PID: 456, Context ID: 1} is ACTIVE\n\
        [2026-11-26 15:19:39.500 Server   453] Client {PID: 470, Context ID: 1} connected\n";
    const FAULT: &str = "[2026-11-26 15:19:40.606 Server   453] Client {PID: 456, Context: 1} encountered a fatal GPU error.\n\
        [2026-11-26 15:19:40.606 Server   453] Server is handling a fatal GPU error.\n\
        [2026-11-26 15:19:40.607 Server   453] Client {PID: 470, Context ID: 1} on device 0 to be torn down\n\
        [2026-11-26 15:19:40.608 Server   453] The following client process have a sticky error set:\n\
        470\n456\n";

    fn read(text: &str) -> Log {
        let mut log = Log::default();
        text.lines().for_each(|line| log.read(line));
        log
    }

    #[test]
    fn the_log_says_who_is_on_a_server_and_who_broke_it() {
        let log = read(LOG);
        assert_eq!(log, Log { clients: [(456, 453), (470, 453)].into(), server: Some(453), fault: None });
        assert_eq!(read(&[LOG, FAULT].concat()).fault, Some((453, Some(456))));
        // Another that falls with it does not become the culprit.
        let second = "[x Server   453] Client {PID: 470, Context: 1} encountered a fatal GPU error.\n";
        assert_eq!(read(&[LOG, FAULT, second].concat()).fault, Some((453, Some(456))));
        let unnamed = "[x Server   453] Server is handling a fatal GPU error.";
        assert_eq!(read(unnamed).fault, Some((453, None)));
        assert_eq!(read("[x Server 99999] Client {PID: 7, Context ID: 1} connected").clients, [(7, 99999)].into());
        for nothing in
            ["", "470", "no] brackets", "[x Control 1] Server 5 started", "[x Server y] Client {PID: 1} connected"]
        {
            assert_eq!(read(nothing), Log::default(), "{nothing}");
        }
    }

    #[test]
    fn a_log_is_read_as_it_grows_and_anew_if_it_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let domains = Domains::new(dir.path(), Err("none".into()));
        let domain = domains.get("d", rustix::process::geteuid().as_raw());
        domain.look();
        domain.prepare().unwrap();
        assert_eq!(fs::metadata(dir.path().join("mps/d")).unwrap().permissions().mode() & 0o777, 0o700);
        let file = dir.path().join("mps/d/log/server.log");
        let (first, second) = LOG.split_at(90);
        fs::write(&file, first).unwrap();
        domain.look();
        assert_eq!(domains.has_client("d", 456), Some(true));
        assert_eq!(domains.has_client("d", 470), Some(false));
        fs::write(&file, [first, second].concat()).unwrap();
        domain.look();
        assert_eq!(domains.has_client("d", 470), Some(true));
        fs::write(&file, "[x Server 9] Client {PID: 5, Context ID: 1} connected\n").unwrap();
        domain.look();
        assert_eq!((domains.has_client("d", 5), domains.has_client("e", 5)), (Some(true), None));
        assert_eq!((domains.left(), domains.servers()), (vec!["d".to_owned()], HashSet::from([9, 453])));
    }

    #[test]
    fn the_control_daemon_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("none"), dir.path().to_owned()];
        assert!(find(&dirs).unwrap_err().contains(CONTROL));
        fs::write(dir.path().join(CONTROL), []).unwrap();
        assert_eq!(find(&dirs), Ok(dir.path().join(CONTROL)));
        assert_eq!((pids("12\n 13 \nx\n"), pids("")), (vec![12, 13], vec![]));
    }
}
