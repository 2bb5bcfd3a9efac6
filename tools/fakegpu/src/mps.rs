//! MPS: the control that is driven by commands, its server, and how a process becomes a client.
//!
//! All that they know of each other is in the shared state: a server is a process with a record, a client's record names
//! its server's. The control only starts the server, says which it is, and keeps the settings for new clients.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::install::INVENTORY;
use crate::model::{Inventory, visible};
use crate::shared::Shared;
use crate::slices::WHOLE;

/// The program that an installation has beside its libraries.
pub const CONTROL: &str = "nvidia-cuda-mps-control";
/// What the same program is called as a server.
const SERVER: &str = "nvidia-cuda-mps-server";
/// What a server has on each of its devices (measured on driver 580).
const SERVER_BYTES: u64 = 66 << 20;
/// What a client gets from a server that has a fault to get over: `CUDA_ERROR_MPS_SERVER_NOT_READY`.
const NOT_READY: i32 = 807;
/// What a terminated client gets: `CUDA_ERROR_MPS_CLIENT_TERMINATED`.
const TERMINATED: u32 = 810;
/// How often the server looks at its clients, to log who came and went.
const LOOK: Duration = Duration::from_millis(10);
/// How often a control looks whether its installation is still there.
const REST: Duration = Duration::from_millis(500);

/// What a client's processes may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The server's record.
    pub server: usize,
    /// The part of the multiprocessors, in hundredths of a percent.
    pub part: u32,
    /// The devices that the server has.
    pub devices: Vec<usize>,
    /// Bytes of a device's memory, by device.
    pub limits: BTreeMap<usize, u64>,
}

fn pipe_dir() -> PathBuf {
    std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map_or_else(|| "/tmp/nvidia-mps".into(), PathBuf::from)
}

/// Hundredths of a percent, from a text such as "12.5"; more than nothing and at most all.
fn part(text: &str) -> Option<u32> {
    let percent: f64 = text.trim().parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then(|| ((percent * 100.0).round() as u32).max(1))
}

/// Bytes, from a text such as "4G" or "512MB".
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['B', 'b']);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "G" | "g" => 1 << 30,
        "M" | "m" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The device that a text names by its number among `devices` or by the beginning of its UUID.
fn named(text: &str, devices: &[usize], inventory: &Inventory) -> Option<usize> {
    match text.trim().parse::<usize>() {
        Ok(number) => devices.get(number).copied(),
        Err(_) => devices.iter().copied().find(|device| inventory.uuid_text(*device).starts_with(text.trim())),
    }
}

/// Limits such as "0=4G,1=512M".
fn limits(text: &str, devices: &[usize], inventory: &Inventory) -> BTreeMap<usize, u64> {
    let one = |text: &str| {
        let (device, value) = text.split_once('=')?;
        Some((named(device, devices, inventory)?, bytes(value)?))
    };
    text.split(',').filter_map(one).collect()
}

/// Makes this process, whose record is `slot` and which would see `seen`, a client of the MPS server of its pipe folder;
/// `None` where there is no control, or one of other devices than this installation's.
pub fn join(inventory: &Inventory, shared: &Shared, slot: usize, seen: &[usize]) -> Result<Option<Client>, i32> {
    let Ok(mut control) = UnixStream::connect(pipe_dir().join("control")) else { return Ok(None) };
    let mut answer = String::new();
    let asked = writeln!(control, "client {slot} {}", shared.identity());
    if asked.is_err() || control.read_to_string(&mut answer).is_err() {
        return Err(NOT_READY);
    }
    let words: Vec<&str> = answer.split_whitespace().collect();
    let (server, part_given, given) = match words[..] {
        ["server", server, part] => (server, part, ""),
        ["server", server, part, limits] => (server, part, limits),
        ["busy"] => return Err(NOT_READY),
        _ => return Ok(None),
    };
    let (Ok(server), Ok(part_given)) = (server.parse::<usize>(), part_given.parse::<u32>()) else { return Ok(None) };
    let own = std::env::var("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE").ok().and_then(|text| part(&text));
    let all: Vec<usize> = (0..inventory.devices.len()).collect();
    let mut both = limits(&std::env::var("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT").unwrap_or_default(), seen, inventory);
    for one in given.split(',').filter_map(|one| one.split_once('=')) {
        if let (Some(device), Ok(limit)) = (named(one.0, &all, inventory), one.1.parse::<u64>()) {
            both.entry(device).and_modify(|own| *own = limit.min(*own)).or_insert(limit);
        }
    }
    let devices = shared.lock().served(server);
    Ok(Some(Client { server, part: own.unwrap_or(WHOLE).min(part_given), devices, limits: both }))
}

/// Multiprocessors that a part of a device is: the driver gives them out in pairs.
pub fn multiprocessors(all: u32, part: u32) -> u32 {
    if part >= WHOLE { all } else { ((u64::from(all) * u64::from(part) / u64::from(WHOLE)) as u32 / 2 * 2).max(2) }
}

/// What a client's context takes where one takes `whole` of a device: it grows with the part (measured: 516, 274, 144 and
/// 86 MiB for all, a half, a quarter and an eighth).
pub fn context_bytes(whole: u64, part: u32) -> u64 {
    if part >= WHOLE {
        whole
    } else {
        (whole / 100 * 6 + whole / 100 * 94 / u64::from(WHOLE) * u64::from(part)) >> 20 << 20
    }
}

/// The date and time, as the logs have them.
fn stamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    // Counted from a first of March, so that the odd day of a leap year is a year's last.
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (month, day) = (if shifted < 10 { shifted + 3 } else { shifted - 9 }, of_year - (153 * shifted + 2) / 5 + 1);
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", now.subsec_millis())
}

/// A log file, or none.
struct Log {
    file: Option<File>,
    who: &'static str,
}

impl Log {
    fn open(folder: &str, who: &'static str) -> Log {
        let name = format!("{}.log", who.to_lowercase());
        let open = |folder: &str| OpenOptions::new().append(true).create(true).open(Path::new(folder).join(name)).ok();
        Log { file: Some(folder).filter(|folder| !folder.is_empty()).and_then(open), who }
    }

    fn line(&mut self, text: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "[{} {} {:5}] {text}", stamp(), self.who, std::process::id());
        }
    }
}

/// The program: control, command line of the control, or server, by its name and arguments.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let result = if name == SERVER {
        serve(&arguments)
    } else {
        let mut flags = arguments.iter().take_while(|argument| argument.starts_with('-')).map(String::as_str);
        let command: Vec<&str> =
            arguments.iter().skip_while(|text| text.starts_with('-')).map(String::as_str).collect();
        let multiuser = ["-M", "-multiuser-server", "--multiuser-server"];
        if let Some(unknown) = flags.clone().find(|flag| {
            !["-d", "--daemon", "-f", "--forground", "--detached"].contains(flag) && !multiuser.contains(flag)
        }) {
            eprintln!("{CONTROL}: unknown option {unknown}: -d, -f and -multiuser-server are known");
            return ExitCode::FAILURE;
        }
        match flags.find(|flag| !multiuser.contains(flag)) {
            Some("-d" | "--daemon") => detach(),
            Some(flag) => control(flag == "--detached"),
            None if command.is_empty() => io::stdin().lines().try_for_each(|line| tell(&line?)),
            None => tell(&command.join(" ")),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Passes a command to the control and prints what it says.
fn tell(command: &str) -> io::Result<()> {
    let missing = |_| io::Error::other("Cannot find MPS control daemon process");
    let mut control = UnixStream::connect(pipe_dir().join("control")).map_err(missing)?;
    writeln!(control, "{command}")?;
    let mut answer = String::new();
    control.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

/// Starts the control in the background and waits until it can be reached.
fn detach() -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(CONTROL).arg("--detached").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).spawn()?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    if line.trim() == "up" {
        return Ok(());
    }
    let mut why = String::new();
    if let Some(mut err) = child.stderr.take() {
        err.read_to_string(&mut why)?;
    }
    Err(io::Error::other(why.trim_end().to_owned()))
}

/// A server, as the control knows it.
struct Server {
    child: Child,
    slot: usize,
    part: u32,
    limits: BTreeMap<usize, u64>,
}

struct Control {
    dir: PathBuf,
    inventory: Inventory,
    shared: Shared,
    devices: Vec<usize>,
    part: u32,
    limits: BTreeMap<usize, u64>,
    server: Option<Server>,
    /// Where the logs are; empty where there are none.
    logs: String,
    log: Log,
}

/// What the control leaves in its pipe folder.
const ENTRIES: [&str; 5] = ["control", "control_privileged", "log", "nvidia-cuda-mps-control.pid", "control_lock"];

fn control(logged: bool) -> io::Result<()> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().unwrap_or(Path::new("/")).to_path_buf();
    let missing = || io::Error::other(format!("{}: there are no simulated GPUs here", dir.display()));
    let (inventory, shared) = crate::place::open_at(&dir).ok_or_else(missing)?;
    let pipes = pipe_dir();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&pipes)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(pipes.join("control_lock"))?;
    if lock.try_lock().is_err() {
        return Err(io::Error::other("An instance of this daemon is already running"));
    }
    // What one that was killed left.
    ENTRIES.iter().take(4).for_each(|name| drop(fs::remove_file(pipes.join(name))));
    let logs = if logged {
        std::env::var("CUDA_MPS_LOG_DIRECTORY").unwrap_or("/var/log/nvidia-mps".into())
    } else {
        String::new()
    };
    if logged {
        fs::create_dir_all(&logs)?;
    }
    let devices = visible(&inventory, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
    let setting = |name| std::env::var(name).unwrap_or_default();
    let mut control = Control {
        part: part(&setting("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")).unwrap_or(WHOLE),
        limits: limits(&setting("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), &devices, &inventory),
        dir,
        inventory,
        shared,
        devices,
        server: None,
        log: Log::open(&logs, "Control"),
        logs,
    };
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    fs::write(pipes.join("nvidia-cuda-mps-control.pid"), format!("{}\n", std::process::id()))?;
    let _privileged = UnixListener::bind(pipes.join("control_privileged"))?;
    open_to_all(&pipes.join("control_lock"), 0o666)?;
    // Ready once it is there: under its name only when it listens and anybody may connect.
    let fresh = pipes.join(".control");
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    open_to_all(&fresh, 0o666)?;
    fs::rename(&fresh, pipes.join("control"))?;
    control.log.line("Starting control daemon");
    // The simulated GPUs are gone with their folder, and who uses them: a test that failed leaves nothing behind.
    let there = control.dir.join(INVENTORY);
    std::thread::spawn(move || {
        while there.exists() {
            std::thread::sleep(REST);
        }
        std::process::exit(0);
    });
    if logged {
        println!("up");
    }
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        control.log.line(&format!("Received: {}", words.join(" ")));
        if words.first() == Some(&"quit") {
            control.quit(words.get(2).and_then(|seconds| seconds.parse().ok()));
            ENTRIES.iter().for_each(|name| drop(fs::remove_file(pipes.join(name))));
            return Ok(());
        }
        let answer = control.answer(&words);
        // Who asked may be gone.
        let _ = stream.write_all(answer.as_bytes());
    }
    Ok(())
}

impl Control {
    /// The server, if it lives.
    fn server(&mut self) -> Option<&mut Server> {
        if self.server.as_mut().is_some_and(|server| !matches!(server.child.try_wait(), Ok(None))) {
            self.server = None;
            self.shared.lock().collect();
            self.log.line("Server exited");
        }
        self.server.as_mut()
    }

    /// The server, started if need be.
    fn started(&mut self) -> Option<&mut Server> {
        if self.server().is_none() {
            let mut command = Command::new("/proc/self/exe");
            command.arg0(SERVER).arg(&self.dir).arg(&self.logs);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
            self.log.line(&format!("Starting new server {}", child.id()));
            let mut line = String::new();
            BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
            let slot = line.trim().parse().ok()?;
            self.server = Some(Server { child, slot, part: self.part, limits: self.limits.clone() });
        }
        self.server.as_mut()
    }

    /// Waits for the clients, for some seconds where there is a limit, and ends the server.
    fn quit(&mut self, seconds: Option<u64>) {
        let began = Instant::now();
        let Some(Server { slot, .. }) = self.server() else { return };
        let slot = *slot;
        let patience = |began: Instant| seconds.is_none_or(|seconds| began.elapsed() < Duration::from_secs(seconds));
        while !self.shared.lock().clients(slot).is_empty() && patience(began) && self.server().is_some() {
            std::thread::sleep(LOOK);
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
        self.shared.lock().collect();
        self.log.line("Exit");
    }

    /// The server with this pid.
    fn of(&mut self, pid: &str) -> Option<&mut Server> {
        self.server().filter(|server| pid == server.child.id().to_string())
    }

    fn answer(&mut self, words: &[&str]) -> String {
        let percent = |part: u32| format!("{:.1}\n", f64::from(part) / 100.0);
        let unknown = |pid: &str| format!("Server {pid} not found\n");
        match *words {
            ["client", slot, identity] => self.client(slot, identity).unwrap_or_else(|| "other\n".into()),
            ["start_server", "-uid", _] => {
                self.started().map_or_else(|| "Server failed to start\n".into(), |_| String::new())
            }
            ["get_server_list"] => self.server().map(|server| format!("{}\n", server.child.id())).unwrap_or_default(),
            ["get_server_status", pid] => match self.of(pid).map(|server| server.slot) {
                Some(slot) if self.shared.lock().faulted(slot).is_some() => "FAULT\n".into(),
                Some(_) => "ACTIVE\n".into(),
                None => unknown(pid),
            },
            ["get_client_list", pid] => match self.of(pid).map(|server| server.slot) {
                Some(slot) => self.pids(slot).iter().map(|pid| format!("{pid}\n")).collect(),
                None => unknown(pid),
            },
            ["get_device_client_list"] | ["get_device_client_list", _] => self.by_device(),
            ["ps"] | ["ps", "-p", _] => self.ps(words.get(2).copied()),
            ["set_default_active_thread_percentage", text] => match part(text) {
                Some(part) => {
                    self.part = part;
                    percent(part)
                }
                None => format!("Invalid percentage {text}\n"),
            },
            ["get_default_active_thread_percentage"] => percent(self.part),
            ["set_active_thread_percentage", pid, text] => match (part(text), self.of(pid)) {
                (None, _) => format!("Invalid percentage {text}\n"),
                (_, None) => unknown(pid),
                (Some(part), Some(server)) => {
                    server.part = part;
                    percent(part)
                }
            },
            ["get_active_thread_percentage", pid] => {
                self.of(pid).map_or_else(|| unknown(pid), |server| percent(server.part))
            }
            ["set_default_device_pinned_mem_limit", device, value] => match self.limit(device, value) {
                Ok((device, limit)) => {
                    self.limits.insert(device, limit);
                    String::new()
                }
                Err(why) => why,
            },
            ["get_default_device_pinned_mem_limit", device] => {
                let device = named(device, &self.devices, &self.inventory);
                device
                    .and_then(|device| self.limits.get(&device))
                    .map(|limit| format!("{}M\n", limit >> 20))
                    .unwrap_or_default()
            }
            ["set_device_pinned_mem_limit", pid, device, value] => match (self.limit(device, value), self.of(pid)) {
                (Err(why), _) => why,
                (_, None) => unknown(pid),
                (Ok((device, limit)), Some(server)) => {
                    server.limits.insert(device, limit);
                    String::new()
                }
            },
            ["terminate_client", server, client] => {
                let slot = self.of(server).map(|server| server.slot);
                let mut state = self.shared.lock();
                let found = slot.and_then(|slot| {
                    state
                        .clients(slot)
                        .into_iter()
                        .find(|one| state.pid(*one).is_some_and(|pid| pid.to_string() == client))
                });
                match found {
                    Some(found) => {
                        state.end_client(found, TERMINATED);
                        "0\n".into()
                    }
                    None => format!("Client {client} not found\n"),
                }
            }
            _ => format!("Unrecognized command: {}\n", words.join(" ")),
        }
    }

    fn limit(&self, device: &str, value: &str) -> Result<(usize, u64), String> {
        let found =
            named(device, &self.devices, &self.inventory).ok_or_else(|| format!("Invalid device {device}\n"))?;
        Ok((found, bytes(value).ok_or_else(|| format!("Invalid limit {value}\n"))?))
    }

    fn pids(&self, server: usize) -> Vec<u32> {
        let state = self.shared.lock();
        state.clients(server).into_iter().filter_map(|slot| state.pid(slot)).collect()
    }

    /// The devices, each with the clients.
    fn by_device(&mut self) -> String {
        let clients = self.server().map(|server| server.slot).map(|slot| self.pids(slot)).unwrap_or_default();
        let device = |(number, device): (usize, &usize)| {
            let name = &self.inventory.devices[*device].name;
            let bus = self.inventory.bus(*device);
            let clients: String = clients.iter().map(|pid| format!("{pid}.1\n")).collect();
            format!("[{number}] {bus:02x}:00.0, {name}\n{clients}")
        };
        self.devices.iter().enumerate().map(device).collect()
    }

    fn ps(&mut self, only: Option<&str>) -> String {
        let mut table = "PID\tID\tSERVER\tDEVICE\tNAMESPACE\tCOMMAND\n".to_owned();
        let Some((pid, slot)) = self.server().map(|server| (server.child.id(), server.slot)) else { return table };
        let device = self.devices.first().map(|device| self.inventory.uuid_text(*device)).unwrap_or_default();
        for client in self.pids(slot).into_iter().filter(|pid| only.is_none_or(|only| only == pid.to_string())) {
            let namespace = fs::read_link(format!("/proc/{client}/ns/pid")).unwrap_or_default();
            let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
            let command = fs::read_to_string(format!("/proc/{client}/comm")).unwrap_or_default();
            table += &format!("{client}\t1\t{pid}\t{:.23}\t{namespace}\t{}\n", device, command.trim());
        }
        table
    }

    /// Takes a new client in; `None` for one of another installation.
    fn client(&mut self, slot: &str, identity: &str) -> Option<String> {
        if identity != self.shared.identity().to_string() {
            return None;
        }
        let client: usize = slot.parse().ok()?;
        let server = self.started()?;
        let (slot, part) = (server.slot, server.part);
        let limits: Vec<String> = server.limits.iter().map(|(device, limit)| format!("{device}={limit}")).collect();
        let mut state = self.shared.lock();
        if state.faulted(slot).is_some() {
            return Some("busy\n".into());
        }
        state.join(client, slot)?;
        Some(format!("server {slot} {part} {}\n", limits.join(",")))
    }
}

/// A server: holds a record until its control is gone, and logs.
fn serve(arguments: &[String]) -> io::Result<()> {
    let [dir, logs] = arguments else { return Err(io::Error::other("only a control starts a server")) };
    let missing = || io::Error::other(format!("{dir}: there are no simulated GPUs here"));
    let (inventory, shared) = crate::place::open_at(Path::new(dir)).ok_or_else(missing)?;
    let devices = visible(&inventory, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
    let slot = {
        let mut state = shared.lock();
        let slot = state.attach().ok_or_else(|| io::Error::other("too many processes"))?;
        state.serve(slot, &devices, SERVER_BYTES);
        slot
    };
    println!("{slot}");
    std::thread::spawn(|| {
        // Its end is the control's.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut log = Log::open(logs, "Server");
    log.line("New server started");
    let (mut known, mut fault) = (BTreeMap::<usize, u32>::new(), None);
    loop {
        std::thread::sleep(LOOK);
        let (clients, faulted): (BTreeMap<usize, u32>, Option<usize>) = {
            let mut state = shared.lock();
            let clients = state.clients(slot).into_iter().filter_map(|client| Some((client, state.pid(client)?)));
            (clients.collect(), state.faulted(slot))
        };
        for (_, pid) in clients.iter().filter(|(client, pid)| known.get(client) != Some(*pid)) {
            log.line(&format!("Client {{PID: {pid}, Context ID: 1}} connected"));
            log.line(&format!("Status of client {{PID: {pid}, Context ID: 1}} is ACTIVE"));
        }
        if let Some(culprit) = faulted.filter(|_| fault != faulted) {
            let pid = clients.get(&culprit).or(known.get(&culprit)).copied().unwrap_or(0);
            log.line(&format!("Client {{PID: {pid}, Context: 1}} encountered a fatal GPU error."));
            log.line("Server is handling a fatal GPU error.");
            for victim in clients.values() {
                log.line(&format!("Client {{PID: {victim}, Context ID: 1}} on device 0 to be torn down"));
            }
            log.line("The following client process have a sticky error set:");
            clients.values().for_each(|pid| log.line(&pid.to_string()));
        }
        fault = faulted;
        for (_, pid) in known.iter().filter(|(client, pid)| clients.get(client) != Some(*pid)) {
            log.line(&format!(
                "Client {{PID: {pid}, Context ID: 1}} exiting. Number of active client contexts is {}.",
                clients.len()
            ));
            log.line(&format!("Client process {pid} disconnected"));
        }
        known = clients;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_limits_are_read_as_they_are_written() {
        assert_eq!(
            [part("12.5"), part(" 100"), part("0"), part("101"), part("x")],
            [Some(1_250), Some(WHOLE), None, None, None]
        );
        assert_eq!([bytes("4G"), bytes("512MB"), bytes("7"), bytes("G")], [Some(4 << 30), Some(512 << 20), None, None]);
        let inventory = Inventory::parse("2xH100").expect("spec");
        let text = format!("0=1G,{}=2G,9=1G", inventory.uuid_text(0));
        assert_eq!(limits(&text, &[1, 0], &inventory), BTreeMap::from([(1, 1 << 30), (0, 2 << 30)]));
    }

    #[test]
    fn a_part_has_the_multiprocessors_and_contexts_that_were_measured() {
        assert_eq!([10_000, 5_000, 2_500, 1_250].map(|part| multiprocessors(132, part)), [132, 66, 32, 16]);
        let mib = [10_000, 5_000, 2_500, 1_250].map(|part| context_bytes(518 << 20, part) >> 20);
        for (mib, measured) in mib.into_iter().zip([516_u64, 274, 144, 86]) {
            assert!(mib.abs_diff(measured) <= 10, "{mib} for {measured}");
        }
    }

    #[test]
    fn the_date_is_todays() {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H"]).output().expect("date");
        let (now, expected) = (stamp(), String::from_utf8(date.stdout).expect("text"));
        // Not at the turn of an hour.
        assert!(now.starts_with(expected.trim()) || now[14..16] == *"00" || now[14..16] == *"59", "{now} {expected}");
    }
}
