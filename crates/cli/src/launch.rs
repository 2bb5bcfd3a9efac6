//! Puts a program into a slice, and stands for it towards whoever started `cleave`.
//!
//! The program is a child in the same process group, so that the terminal's signals reach it by themselves; signals
//! sent to `cleave` alone are handed on. Between the two stands `cleave internal-enter`, single-threaded, which lays
//! the stand-in over the driver's libraries in a mount namespace of its own where it may, sets the environment, and
//! becomes the program. The program and what it starts have a PID namespace of their own where they have mounts of their
//! own: they see nobody else's processes (`nvidia-smi` takes its list from the kernel, past every library), and nothing
//! of them outlives the program.
use crate::client::Result;
use crate::output;
use clap::ValueEnum;
use cleave_api::{ErrorBody, ErrorCode, LaunchPlan};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use signal_hook::consts::signal as number;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Exit code when the program is not there, as the shells have it.
const NOT_FOUND: i32 = 127;
/// Exit code when the program can't be executed.
const NOT_EXECUTABLE: i32 = 126;
/// Exit code when it could not be put into the slice, as env, docker and timeout have it.
const NOT_ENTERED: i32 = 125;
/// Where the slice's socket is to be seen.
const SOCKET_PLACE: &str = "/run/cleave/slice";

/// The signals that ask a program to end.
const ENDING: [i32; 4] = [number::SIGTERM, number::SIGINT, number::SIGHUP, number::SIGQUIT];

/// What is handed on to the program.
const FORWARDED: [i32; 8] = [
    number::SIGTERM,
    number::SIGINT,
    number::SIGHUP,
    number::SIGQUIT,
    number::SIGUSR1,
    number::SIGUSR2,
    number::SIGWINCH,
    number::SIGCONT,
];

/// How the stand-in is put in the driver's place: by a mount namespace, which gives it to absolute paths, `dlmopen` and
/// `env -i` too; by `LD_PRELOAD` and `LD_LIBRARY_PATH` alone; or by mounts where this user may mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hold {
    #[default]
    Auto,
    Mounts,
    Environment,
}

/// Which processes the program sees: its own and those that it starts, which end with it, where mounts can be made; or all
/// of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pids {
    Own,
    Host,
}

/// What `internal-enter` is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    plan: LaunchPlan,
    hold: Hold,
    /// Whether it is in a PID namespace of its own.
    apart: bool,
    verbose: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Somebody asked it to end, by a key or a signal.
    pub(crate) asked: bool,
}

/// Where a program's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prints {
    /// To stdout, as it says.
    Out,
    /// To stderr, because stdout has something else.
    Aside,
}

/// Runs `program` in the slice of `plan` and waits for its end.
pub(crate) fn run(
    plan: LaunchPlan,
    hold: Hold,
    pids: Pids,
    prints: Prints,
    verbose: bool,
    program: &[OsString],
) -> Result<Ended> {
    let failed = |what: &str, e: &io::Error| ErrorBody::new(ErrorCode::Unavailable, format!("can't {what}: {e}"), "");
    // Registered before the program starts: from here on a signal finds either nobody or the program.
    let mut signals = SignalsInfo::<WithOrigin>::new(caught()).map_err(|e| failed("watch signals", &e))?;
    let wanted = pids == Pids::Own && hold != Hold::Environment && rustix::process::geteuid().is_root();
    let start = |apart| {
        let entry = serde_json::to_string(&Entry { plan: plan.clone(), hold, apart, verbose })?;
        let mut command = Command::new("/proc/self/exe");
        if prints == Prints::Aside {
            command.stdout(io::stderr());
        }
        command.arg0("cleave").arg("internal-enter").arg(entry).arg("--").args(program).spawn()
    };
    // On a thread of its own: the thread that has made a PID namespace for its children can start no threads, and no
    // processes either if the first one there has failed.
    let in_namespace =
        || -> std::result::Result<_, String> { Ok((First::start()?, start(true).map_err(|e| e.to_string())?)) };
    let started = wanted.then(|| {
        std::thread::scope(|scope| {
            scope.spawn(in_namespace).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let (mut first, child) = match started {
        Some(Ok((first, child))) => (Some(first), Ok(child)),
        Some(Err(error)) => {
            if verbose {
                anstream::eprintln!("debug: no PID namespace ({error}): the program sees the machine's processes");
            }
            (None, start(false))
        }
        None => (None, start(false)),
    };
    let mut child = child.map_err(|e| failed("start the program", &e))?;
    let pid = Pid::from_child(&child);
    if let Some(first) = &mut first {
        first.watch(pid).map_err(|e| failed("watch the program", &e))?;
    }
    let handle = signals.handle();
    // The descriptor stays the child's even after another process has got its number.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    let forwarder = std::thread::spawn(move || {
        let mut asked = false;
        for origin in &mut signals {
            // The terminal sends to the whole process group; the program has had that signal. And what the program
            // sends to its parent is not meant for the program.
            let by_itself = origin.process.is_some_and(|sender| sender.pid == pid.as_raw_nonzero().get());
            asked |= ENDING.contains(&origin.signal) && !by_itself;
            if matches!(origin.cause, Cause::Kernel) || by_itself {
                continue;
            }
            if let (Some(signal), Ok(pidfd)) = (Signal::from_named_raw(origin.signal), &pidfd) {
                let _ = rustix::process::pidfd_send_signal(pidfd, signal);
            }
        }
        asked
    });
    let status = child.wait().map_err(|e| failed("wait for the program", &e))?;
    handle.close();
    let asked = forwarder.join().unwrap_or(false);
    drop(first);
    // It may have died of the signal before the forwarder has seen it.
    Ok(Ended { status, asked: asked || status.signal().is_some_and(|signal| ENDING.contains(&signal)) })
}

/// The first process of a PID namespace, with which the kernel ends all others there. It ends when this is dropped; if
/// `cleave` is killed, when the program ends.
struct First(Child);

impl First {
    /// Makes a PID namespace for what this thread starts from now on, and its first process.
    // UNSAFETY: rustix marks every unshare as unsafe because of CLONE_FILES.
    #[allow(unsafe_code)]
    fn start() -> std::result::Result<Self, String> {
        // SAFETY: CLONE_NEWPID leaves the table of file descriptors alone, and changes nothing but where children go.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }.map_err(|e| e.to_string())?;
        let child = Command::new("/proc/self/exe")
            .arg0("cleave")
            .arg("internal-first")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut first = Self(child);
        let mut ready = [0];
        let read = first.0.stdout.as_mut().map(|out| out.read(&mut ready));
        if !matches!(read, Some(Ok(1))) {
            return Err("its first process did not start".into());
        }
        Ok(first)
    }

    /// Says which process the program is, on the machine.
    fn watch(&mut self, program: Pid) -> io::Result<()> {
        match &mut self.0.stdin {
            Some(stdin) => writeln!(stdin, "{program}"),
            None => Ok(()),
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// `cleave internal-first`: the first process of a PID namespace. Collects the orphans that come to it.
pub(crate) fn first() -> i32 {
    // The kernel counts ids up from 1 in every namespace. The driver takes two processes with equal ids for one when they
    // hand each other memory (CUDA IPC), so this one starts at the id that the machine gave its first process.
    let own = std::fs::read_link("/proc/self").ok();
    let Some(own) = own.as_deref().and_then(Path::to_str) else { return 1 };
    if std::fs::write("/proc/sys/kernel/ns_last_pid", own).is_err() {
        return 1;
    }
    let Ok(mut orphans) = signal_hook::iterator::Signals::new([number::SIGCHLD]) else { return 1 };
    // Whoever started it may be gone by now.
    if writeln!(io::stdout()).is_err() {
        return 1;
    }
    std::thread::spawn(|| {
        let mut line = String::new();
        let _ = io::stdin().read_line(&mut line);
        // This `/proc` is still the machine's. Once the process is gone its open file can't be read, whoever has its id then.
        let program = line.trim().parse().map(|id: u32| std::fs::File::open(format!("/proc/{id}/stat")));
        // Its end is that of `cleave`, which outlives the program unless it is killed.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        while matches!(&program, Ok(Ok(file)) if file.read_at(&mut [0; 16], 0).is_ok()) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        std::process::exit(0);
    });
    for _ in orphans.forever() {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
    0
}

/// Ends as the program ended: with its exit code, or by the signal that killed it.
pub(crate) fn end_as(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal() {
        // The program's core dump has been written; ours would only overwrite it.
        let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        std::process::exit(128 + signal);
    }
    std::process::exit(status.code().unwrap_or(1));
}

/// The signals to be handed on, less those that this process was told to ignore: whoever wrote `nohup cleave run`
/// wants the program to ignore them as well, and it inherits that only if no handler is set.
fn caught() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    FORWARDED.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0).collect()
}

/// `cleave internal-enter`: becomes the program, or says why not; returns the exit code for that.
pub(crate) fn enter(entry: &str, program: &[OsString]) -> i32 {
    let Ok(Entry { plan, hold, apart, verbose }) = serde_json::from_str(entry) else {
        output::error(&ErrorBody::new(
            ErrorCode::Invalid,
            "internal-enter: this is no launch plan",
            "use `cleave run`",
        ));
        return NOT_ENTERED;
    };
    if hold != Hold::Environment {
        match lay_over(&plan, apart) {
            Ok(()) => {}
            Err(error) if hold == Hold::Mounts => {
                output::error(&ErrorBody::new(
                    ErrorCode::Unavailable,
                    format!("can't lay the stand-in over the driver's libraries: {error}"),
                    "mounts need root (CAP_SYS_ADMIN); `--hold environment` does without",
                ));
                return NOT_ENTERED;
            }
            Err(error) if verbose => {
                anstream::eprintln!("debug: no mount namespace ({error}): the environment alone holds the slice");
            }
            Err(_) => {}
        }
    }
    let Some((name, arguments)) = program.split_first() else {
        output::error(&ErrorBody::new(ErrorCode::Invalid, "no program given", "write it after `--`"));
        return NOT_ENTERED;
    };
    let mut command = Command::new(name);
    command.args(arguments);
    for (key, value) in environment(&plan, |key| std::env::var_os(key)) {
        command.env(key, value);
    }
    let error = command.exec();
    let shown = Path::new(name).display();
    if error.kind() == io::ErrorKind::NotFound {
        // Also what the kernel says where a script's interpreter is missing.
        let hint = match Path::new(name).exists() && name.as_encoded_bytes().contains(&b'/') {
            true => "the file is there; the interpreter or loader that its first line names is not",
            false => "is it installed, spelt right, and in PATH?",
        };
        output::error(&ErrorBody::new(ErrorCode::NotFound, format!("{shown}: program not found"), hint));
        return NOT_FOUND;
    }
    output::error(&ErrorBody::new(
        ErrorCode::Invalid,
        format!("{shown}: can't be executed: {error}"),
        "is it a program, for this machine, with the right to execute it?",
    ));
    NOT_EXECUTABLE
}

/// The variables to set: the plan's, with the stand-in in front of what the user preloads and searches.
pub(crate) fn environment(plan: &LaunchPlan, user: impl Fn(&str) -> Option<OsString>) -> Vec<(String, OsString)> {
    let mut variables: Vec<(String, OsString)> =
        plan.environment.iter().map(|(key, value)| (key.clone(), value.into())).collect();
    for (key, ours) in [("LD_PRELOAD", &plan.library), ("LD_LIBRARY_PATH", &plan.library_dir)] {
        variables.retain(|(set, _)| set != key);
        variables.push((key.into(), in_front(ours, user(key).as_deref())));
    }
    variables
}

fn in_front(ours: &str, users: Option<&OsStr>) -> OsString {
    let mut value = OsString::from(ours);
    if let Some(users) = users.filter(|users| !users.is_empty()) {
        // In a slice within a slice, the outer one's stand-in stays behind ours, once.
        let again = users.as_encoded_bytes().split(|b| *b == b':').next() == Some(ours.as_bytes());
        if again {
            return users.to_owned();
        }
        value.push(":");
        value.push(users);
    }
    value
}

/// Gives this process a mount namespace in which the stand-in lies over every real library, the real ones are in the
/// plan's folder, and the slice's socket is at its place; `apart`: with the `/proc` of this PID namespace. Undone where it can't be completed.
fn lay_over(plan: &LaunchPlan, apart: bool) -> std::result::Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may mount".into());
    }
    // On the host, where it stays: in the namespace it would not outlive the program, but neither could it be made
    // under a read-only /run.
    std::fs::create_dir_all(SOCKET_PLACE).map_err(|e| format!("can't create {SOCKET_PLACE}: {e}"))?;
    unshare_mounts()?;
    let mut made = Mounts(Vec::new());
    match made.all(plan).and_then(|()| if apart { made.processes() } else { Ok(()) }) {
        Ok(()) => Ok(()),
        Err(error) => {
            for place in made.0.iter().rev() {
                let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
            }
            Err(error)
        }
    }
}

/// A mount namespace of its own, to which the host's mounts still come but from which none go back.
// UNSAFETY: rustix marks every unshare as unsafe because of CLONE_FILES.
#[allow(unsafe_code)]
fn unshare_mounts() -> std::result::Result<(), String> {
    // SAFETY: CLONE_NEWNS leaves the table of file descriptors alone, and nothing here holds on to what a path meant before.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(|e| format!("no mount namespace: {e}"))?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(|e| format!("can't make / a mount of its own: {e}"))
}

/// The mounts made so far.
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn all(&mut self, plan: &LaunchPlan) -> std::result::Result<(), String> {
        let driver_dir = Path::new(&plan.driver_dir);
        // A simulated driver lives in that folder and is nowhere else.
        let set_aside: Vec<_> =
            plan.real_libraries.iter().filter(|(_, real)| !Path::new(real).starts_with(driver_dir)).collect();
        if !set_aside.is_empty() {
            rustix::mount::mount(
                "tmpfs",
                driver_dir,
                "tmpfs",
                MountFlags::NOSUID | MountFlags::NODEV,
                c"mode=0755,size=64k",
            )
            .map_err(|e| format!("{}: no tmpfs: {e}", driver_dir.display()))?;
            self.0.push(driver_dir.to_owned());
        }
        // The real files are bound to their new place before anything lies over them.
        for (name, real) in set_aside {
            let place = driver_dir.join(name);
            empty_file(&place)?;
            self.bind(Path::new(real), &place)?;
        }
        // Several names often lead to one file, which needs covering once.
        let covers: BTreeSet<PathBuf> =
            plan.covers.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
        for place in covers {
            self.bind(Path::new(&plan.library), &place)?;
        }
        self.bind(Path::new(&plan.socket_dir), Path::new(SOCKET_PLACE))
    }

    /// `/proc` as this PID namespace has it.
    fn processes(&mut self) -> std::result::Result<(), String> {
        let place = Path::new("/proc");
        rustix::mount::mount("proc", place, "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .map_err(|e| format!("no /proc for its processes: {e}"))?;
        self.0.push(place.to_owned());
        Ok(())
    }

    fn bind(&mut self, from: &Path, to: &Path) -> std::result::Result<(), String> {
        rustix::mount::mount_bind(from, to)
            .map_err(|e| format!("can't bind {} on {}: {e}", from.display(), to.display()))?;
        self.0.push(to.to_owned());
        Ok(())
    }
}

fn empty_file(path: &Path) -> std::result::Result<(), String> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o444))
        .map(drop)
        .map_err(|e| format!("can't create {}: {e}", path.display()))
}

/// Whether this process could make a mount namespace: found out in a child, which the answer does not change.
pub(crate) fn can_mount() -> std::result::Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may mount".into());
    }
    let output = Command::new("/proc/self/exe")
        .arg0("cleave")
        .args(["internal-enter", "--probe", ""])
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// `cleave internal-enter --probe`: tries a mount namespace, and returns the exit code.
pub(crate) fn probe() -> i32 {
    match unshare_mounts() {
        Ok(()) => 0,
        Err(error) => {
            anstream::eprintln!("{error}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> LaunchPlan {
        LaunchPlan {
            id: "SLICE-1".into(),
            name: "a".into(),
            library_dir: "/lib/cleave".into(),
            library: "/lib/cleave/libcuda.so.1".into(),
            socket_dir: "/run/s".into(),
            driver_dir: "/run/d".into(),
            real_libraries: Default::default(),
            covers: vec![],
            environment: [("CLEAVE_SOCKET".to_owned(), "/run/s/sock".to_owned())].into(),
        }
    }

    fn value(variables: &[(String, OsString)], key: &str) -> String {
        let found: Vec<_> = variables.iter().filter(|(k, _)| k == key).collect();
        assert_eq!(found.len(), 1, "{key}");
        found[0].1.to_string_lossy().into_owned()
    }

    #[test]
    fn the_stand_in_comes_before_what_the_user_preloads() {
        let users =
            |key: &str| Some(OsString::from(if key == "LD_PRELOAD" { "libjemalloc.so" } else { "/opt/lib:/x" }));
        let variables = environment(&plan(), users);
        assert_eq!(value(&variables, "LD_PRELOAD"), "/lib/cleave/libcuda.so.1:libjemalloc.so");
        assert_eq!(value(&variables, "LD_LIBRARY_PATH"), "/lib/cleave:/opt/lib:/x");
        assert_eq!(value(&variables, "CLEAVE_SOCKET"), "/run/s/sock");
    }

    #[test]
    fn an_empty_search_path_gets_no_empty_entry() {
        // An empty entry would mean the current directory.
        let variables = environment(&plan(), |_| Some(OsString::new()));
        assert_eq!(value(&variables, "LD_LIBRARY_PATH"), "/lib/cleave");
        let twice = environment(&plan(), |_| Some("/lib/cleave:/x".into()));
        assert_eq!(value(&twice, "LD_LIBRARY_PATH"), "/lib/cleave:/x");
    }

    #[test]
    fn a_plan_survives_the_way_to_the_child() {
        let text =
            serde_json::to_string(&Entry { plan: plan(), hold: Hold::Mounts, apart: true, verbose: true }).unwrap();
        let entry: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!(entry.plan, plan());
        assert_eq!(entry.hold, Hold::Mounts);
    }
}
