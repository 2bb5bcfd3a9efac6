//! The daemon as a process, with real sockets, real tenants and GPUs that a text file describes.
//!
//! The test program plays all parts: started again with a variable set, it is a daemon or a tenant.
mod api;
mod life;
mod mps;
mod slots;
mod turns;
mod watchdog;

use crate::config::Config;
use crate::gpu::{DriverFiles, GpuInfo, MemoryState, Nvml, NvmlError};
use crate::run::{Prepared, run_with};
use cleave_api::{ErrorBody, Event, Explanation, LaunchPlan, List, Slice};
use cleave_ledger::{ABI, Account, Activity, Book, KINDS, Kind, MAGIC, Policy, Slot, UNIT, Urgency, wire};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const DAEMON: &str = "CLEAVE_TEST_DAEMON";
const TENANT: &str = "CLEAVE_TEST_TENANT";

/// GPUs whose processes are the lines of a file: `GPU PID BYTES`.
struct TextNvml {
    gpus: Vec<GpuInfo>,
    file: PathBuf,
}

impl TextNvml {
    fn new(file: PathBuf) -> Self {
        let gpus = (0..2)
            .map(|index| GpuInfo {
                index,
                minor: index,
                uuid: format!("GPU-0000000{index}-1111-2222-3333-444444444444"),
                name: "Text".into(),
                pci: format!("00000000:0{index}:00.0"),
                memory_bytes: 80 * GIB,
                capability: Some((9, 0)),
                mig: Some(false),
            })
            .collect();
        Self { gpus, file }
    }
}

impl Nvml for TextNvml {
    fn driver_version(&self) -> String {
        "580.1".into()
    }
    fn cuda_version(&self) -> u32 {
        13000
    }
    fn gpus(&self) -> &[GpuInfo] {
        &self.gpus
    }
    fn memory(&self, gpu: usize) -> Result<MemoryState, NvmlError> {
        let used = self.processes(gpu)?.iter().filter_map(|p| p.1).sum();
        Ok(MemoryState { usable: 80 * GIB, used })
    }
    fn processes(&self, gpu: usize) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let line = |line: &str| {
            let numbers: Vec<u64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
            (numbers.len() == 3 && numbers[0] == gpu as u64).then(|| (numbers[1] as u32, Some(numbers[2])))
        };
        Ok(text.lines().filter_map(line).collect())
    }
    fn busy(&self, _: usize, _: u64) -> Option<Vec<(u32, u64, u32)>> {
        None
    }
    fn utilization(&self, _: usize) -> Option<u32> {
        None
    }
}

/// A run and a state directory, and what NVML says.
struct World {
    dir: tempfile::TempDir,
}

/// A daemon in a world.
struct Daemon {
    child: Child,
    run_dir: PathBuf,
    log: PathBuf,
}

/// A program in a slice.
struct Tenant {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl World {
    fn new() -> Self {
        // Short, for the sockets' sake, and open, for other users'.
        let dir = tempfile::Builder::new().prefix("cl").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Config {
        let mut config = Config::new(None);
        config.run_dir = self.path("r");
        config.state_dir = self.path("s");
        config.cdi_dir = Some(self.path("cdi"));
        config.probe = false;
        config
    }

    /// What NVML shows from now on.
    fn nvml(&self, processes: &[(u32, u32, u64)]) {
        let text: String = processes.iter().map(|(gpu, pid, bytes)| format!("{gpu} {pid} {bytes}\n")).collect();
        let temporary = self.path("nvml.new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path("nvml")).unwrap();
    }

    fn try_start(&self, options: &str) -> Daemon {
        let log = self.path("log");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::daemon_process", "--nocapture", "--test-threads=1"])
            .env(DAEMON, self.dir.path())
            .env("CLEAVE_TEST_OPTIONS", options)
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Daemon { child, run_dir: self.path("r"), log }
    }

    fn start(&self) -> Daemon {
        self.start_with("")
    }

    fn start_with(&self, options: &str) -> Daemon {
        let daemon = self.try_start(options);
        let socket = daemon.run_dir.join("api.sock");
        eventually("the daemon serves", || UnixStream::connect(&socket).is_ok());
        daemon
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Daemon {
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        let mut stream = UnixStream::connect(self.run_dir.join("api.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A body that is too long is refused before it is read to its end.
        let _ = stream.write_all(body.as_bytes());
        read_reply(stream)
    }

    fn ok<T: DeserializeOwned>(&self, method: &str, path: &str, body: Value) -> T {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, reply) = self.request(method, path, &text);
        assert!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&reply));
        let reply: &[u8] = if reply.is_empty() { b"null" } else { &reply };
        serde_json::from_slice(reply).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(reply)))
    }

    fn error(&self, method: &str, path: &str, body: Value) -> (u16, ErrorBody) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, reply) = self.request(method, path, &text);
        let body: ErrorBody = serde_json::from_slice(&reply)
            .unwrap_or_else(|e| panic!("{method} {path}: {status}, {e}: {}", String::from_utf8_lossy(&reply)));
        (status, body)
    }

    fn create(&self, name: &str, memory: &str) -> Slice {
        self.ok("POST", "/v1/slices", json!({ "name": name, "gpu": "0", "memory": memory }))
    }

    fn slice(&self, name: &str) -> Slice {
        self.ok("GET", &format!("/v1/slices/{name}"), Value::Null)
    }

    fn events(&self, kind: &str) -> Vec<Event> {
        let all: List<Event> = self.ok("GET", "/v1/events?limit=20000", Value::Null);
        all.items.into_iter().filter(|e| e.kind == kind).collect()
    }

    fn socket(&self, slice: &Slice) -> PathBuf {
        self.run_dir.join("slices").join(&slice.id).join("socket/sock")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it as the kernel does.
    fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

fn read_reply(mut stream: impl Read) -> (u16, Vec<u8>) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{bytes:?}"));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), bytes[end + 4..].to_vec())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

impl Tenant {
    fn start(socket: &Path) -> Self {
        Self::start_as(socket, None)
    }

    fn start_as(socket: &Path, uid: Option<u32>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "tests::tenant_process", "--nocapture", "--test-threads=1"])
            .env(TENANT, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something; its answer.
    fn tell(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the tenant ended at \"{what}\"");
            // The test harness may have written something before it on the same line.
            if let Some((_, answer)) = line.trim().split_once("> ") {
                return answer.to_owned();
            }
        }
    }

    /// Registers, and gives the slot.
    fn register(&mut self) -> u32 {
        let answer = self.tell("register");
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a slice's socket, as the stand-in makes one.
struct Link(OwnedFd);

impl Link {
    fn open(path: &Path) -> rustix::io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    fn send(&self, bytes: &[u8]) {
        send(&self.0, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    fn ask(&self, op: u32, device: u32, argument: u64) -> (wire::Reply, Vec<OwnedFd>) {
        self.say(op, device, argument);
        self.reply()
    }

    fn say(&self, op: u32, device: u32, argument: u64) {
        self.send(&Self::request(op, device, argument));
    }

    fn request(op: u32, device: u32, argument: u64) -> [u8; wire::MESSAGE] {
        wire::Request { magic: MAGIC, abi: ABI, op, device, reserved: 0, argument }.to_bytes()
    }

    /// A daemon that is gone hears nothing.
    fn ring(&self) {
        let _ = send(&self.0, &Self::request(wire::op::RING, 0, 0), SendFlags::NOSIGNAL);
    }

    fn reply(&self) -> (wire::Reply, Vec<OwnedFd>) {
        let mut bytes = [0; wire::MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(got.bytes, wire::MESSAGE, "the connection was closed without an answer");
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        (wire::Reply::from_bytes(bytes), fds)
    }
}

/// Plays a daemon when told to; as a test it does nothing.
#[test]
fn daemon_process() {
    let Some(dir) = std::env::var_os(DAEMON) else { return };
    let dir = PathBuf::from(dir);
    let options = std::env::var("CLEAVE_TEST_OPTIONS").unwrap_or_default();
    let world_config = |dir: &Path| {
        let mut config = Config::new(None);
        config.run_dir = dir.join("r");
        config.state_dir = dir.join("s");
        config.cdi_dir = Some(dir.join("cdi"));
        config.probe = false;
        config.mps_dir = Some(dir.join("mps"));
        config
    };
    let mut config = world_config(&dir);
    for option in options.split(' ').filter(|o| !o.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("private", _) => config = Config { probe: false, ..Config::private(dir.join("r"), None) },
            ("listen", address) => {
                config.tcp = Some(crate::config::Tcp {
                    listen: address.parse().unwrap(),
                    token_file: dir.join("token"),
                    tls_cert: dir.join("cert.pem").exists().then(|| dir.join("cert.pem")),
                    tls_key: dir.join("key.pem").exists().then(|| dir.join("key.pem")),
                });
            }
            ("files", most) => {
                let most = Some(most.parse().unwrap());
                let limit = rustix::process::Rlimit { current: most, maximum: most };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    if !options.contains("files") {
        crate::run::raise_file_limit(crate::run::FILES);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    let nvml = Box::new(TextNvml::new(dir.join("nvml")));
    let driver = DriverFiles {
        real: [("libcuda.so.1".to_owned(), PathBuf::from("/opt/nv/libcuda.so.580.1"))].into(),
        covers: vec!["/opt/nv/libcuda.so.1".into()],
    };
    let done = Prepared::new(&config).and_then(|prepared| run_with(config, prepared, nvml, driver));
    if let Err(error) = done {
        eprintln!("failed: {error:#}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// Plays a program in a slice when told to; as a test it does nothing.
#[test]
fn tenant_process() {
    let Some(socket) = std::env::var_os(TENANT) else { return };
    let socket = PathBuf::from(socket);
    let mut links: Vec<Link> = Vec::new();
    let mut files: Option<[File; 3]> = None;
    let mut slot = 0u64;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        let answer = match words[0] {
            "register" => {
                let link = Link::open(&socket).unwrap();
                let (reply, fds) = link.ask(wire::op::REGISTER, 0, u64::from(std::process::id()));
                links.push(link);
                if reply.status == wire::status::OK {
                    files = Some(<[OwnedFd; 3]>::try_from(fds).unwrap().map(File::from));
                    slot = u64::from(reply.slot);
                    format!("ok {}", reply.slot)
                } else {
                    format!("status {}", reply.status)
                }
            }
            // A connection that does not register.
            "reconnect" => {
                links.push(Link::open(&socket).unwrap());
                "connected".into()
            }
            "connect" => Link::open(&socket).err().map_or("connected".into(), |e| e.to_string()),
            // hold KIND BYTES: of device 0, as if nothing was held before.
            "hold" => {
                let [_, usage, _] = files.as_ref().unwrap();
                let base = slot * size_of::<Slot>() as u64;
                let kind = Kind::ALL.into_iter().find(|k| k.name() == words[1]).unwrap();
                let mut kinds = [0u8; 8 * KINDS];
                kinds[kind as usize * 8..][..8].copy_from_slice(&number(2).to_ne_bytes());
                usage.write_all_at(&kinds, base + offset_of!(Slot, kinds) as u64).unwrap();
                let held = base + (offset_of!(Slot, accounts) + offset_of!(Account, held)) as u64;
                usage.write_all_at(&(number(2) / UNIT).to_ne_bytes(), held).unwrap();
                "held".into()
            }
            "deny" => {
                let [_, usage, _] = files.as_ref().unwrap();
                let at = slot * size_of::<Slot>() as u64 + offset_of!(Slot, denied) as u64;
                usage.write_all_at(&number(1).to_ne_bytes(), at).unwrap();
                "denied".into()
            }
            "measure" => {
                let (reply, _) = links.last().unwrap().ask(wire::op::MEASURE, number(1) as u32, number(2));
                let [policy, ..] = files.as_ref().unwrap();
                let at = offset_of!(Policy, book) + slot as usize * size_of::<Book>() + offset_of!(Book, adjust);
                let mut adjust = [0; 8];
                policy.read_exact_at(&mut adjust, at as u64).unwrap();
                format!("{} {} {}", reply.status, reply.value, i64::from_ne_bytes(adjust))
            }
            // work CHARGED BUSY WAITING: on device 0, with something sent just now that will keep it busy for BUSY ns.
            "work" => {
                let [_, usage, _] = files.as_ref().unwrap();
                let at = slot * size_of::<Slot>() as u64 + offset_of!(Slot, activity) as u64;
                let now = crate::turns::clock();
                for (offset, value) in [
                    (offset_of!(Activity, charged), number(1)),
                    (offset_of!(Activity, busy_until), now + number(2)),
                    (offset_of!(Activity, last_launch), now),
                    (offset_of!(Activity, waiting), number(3)),
                ] {
                    usage.write_all_at(&value.to_ne_bytes(), at + offset as u64).unwrap();
                }
                "done".into()
            }
            // late NS WAITING: what it sent to device 0 should have been done NS ns ago; 0 = all is done.
            "late" => {
                let [_, usage, _] = files.as_ref().unwrap();
                let at = slot * size_of::<Slot>() as u64 + offset_of!(Slot, activity) as u64;
                let overdue = if number(1) == 0 { 0 } else { crate::turns::clock().saturating_sub(number(1)).max(1) };
                for (offset, value) in
                    [(offset_of!(Activity, overdue), overdue), (offset_of!(Activity, syncing), number(2))]
                {
                    usage.write_all_at(&value.to_ne_bytes(), at + offset as u64).unwrap();
                }
                "done".into()
            }
            // From now on it always has work for device 0, and sends it a millisecond at a time while it may.
            "saturate" => {
                let link = Link(links.last().unwrap().0.try_clone().unwrap());
                let [policy, usage, _] = files.as_ref().unwrap().each_ref().map(|file| file.try_clone().unwrap());
                let at = slot * size_of::<Slot>() as u64 + offset_of!(Slot, activity) as u64;
                std::thread::spawn(move || turns::saturate(&link, &policy, &usage, at));
                "it does".into()
            }
            "ring" => {
                links.last().unwrap().say(wire::op::RING, number(1) as u32, 0);
                "rung".into()
            }
            // What it can do to the page of urgency.
            "urgency" => {
                let [_, _, urgency] = files.as_ref().unwrap();
                let size = size_of::<Urgency>() as u64;
                let written = urgency.write_all_at(&[1; 8], size - 8).is_ok();
                let grown = urgency.set_len(size + 1).is_ok() || urgency.write_all_at(&[1], size).is_ok();
                let cut = urgency.set_len(size - 1).is_ok();
                let unsealed = rustix::fs::fcntl_add_seals(urgency, rustix::fs::SealFlags::WRITE).is_ok();
                let mut last = [0; 8];
                urgency.read_exact_at(&mut last, size - 8).unwrap();
                format!("written {written}, {}, grown {grown}, cut {cut}, sealed {unsealed}", last[0])
            }
            "cut" => {
                files.as_ref().unwrap()[1].set_len(number(1)).unwrap();
                "cut".into()
            }
            // request METHOD PATH BODY: of the API, whose socket it was given.
            "request" => {
                let body = words[3..].join(" ");
                let mut stream = UnixStream::connect(&socket).unwrap();
                let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length:";
                write!(stream, "{} {} {head} {}\r\n\r\n{body}", words[1], words[2], body.len()).unwrap();
                read_reply(stream).0.to_string()
            }
            // Becomes another program, with everything that execve closes closed.
            "exec" => {
                println!("> going");
                let error = Command::new("sleep").arg("1000").exec();
                panic!("{error}");
            }
            other => panic!("{other}"),
        };
        println!("> {answer}");
    }
    std::process::exit(0);
}
