//! A simulated node in a folder of its own, and the C programs of `tests/gpu`, for tests of the whole.
#![allow(dead_code, missing_docs)]
use crate::support::{self, stderr, stdout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
/// How long something may take that ought to take no time, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A place for a daemon, which is ended with it.
pub struct Place {
    pub dir: tempfile::TempDir,
    sim: &'static str,
}

impl Place {
    pub fn new(sim: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("cleave").tempdir().unwrap();
        // What the daemon insists on: nobody else may write there. Other users may look, so that what keeps them out of
        // something is not this folder.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir, sim }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn cleave(&self, arguments: &[&str]) -> Command {
        let mut command = support::cleave(&self.run_dir());
        command.args(["--sim", self.sim]).args(arguments);
        command
    }

    /// Runs it, expects it to succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.cleave(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["-o", "json"], arguments].concat())).unwrap()
    }

    /// Runs it, expects it to fail with `code`, and returns what it said.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.cleave(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
        stderr(&output)
    }

    pub fn slices(&self) -> Vec<Value> {
        self.json(&["slice", "list"])["items"].as_array().unwrap().clone()
    }

    pub fn show(&self, slice: &str) -> Value {
        self.json(&["slice", "show", slice])
    }

    /// Bytes charged to the slice, on its first GPU and of the host.
    pub fn used(&self, slice: &str) -> (u64, u64) {
        let shown = self.show(slice);
        (number(&shown["devices"][0]["used_bytes"]), number(&shown["host_used_bytes"]))
    }

    /// The daemon's process.
    pub fn daemon(&self) -> u64 {
        number(&self.json(&["status"])["pid"])
    }

    /// Whether nothing is left of what ran in the slice.
    pub fn is_empty(&self, slice: &str) -> bool {
        let shown = self.show(slice);
        number(&shown["devices"][0]["used_bytes"]) == 0
            && number(&shown["host_used_bytes"]) == 0
            && shown["processes"].as_array().unwrap().is_empty()
    }

    /// What the simulated NVML says of the first card, whoever took it.
    pub fn card_used(&self) -> u64 {
        number(&self.json(&["gpus"])["items"][0]["used_bytes"])
    }

    /// A program of `tests/gpu`, compiled in this place.
    pub fn compile(&self, source: &str) -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu");
        compile(&sources.join(source), &self.dir.path().join(source.trim_end_matches(".c")))
    }

    /// A program given as text, compiled in this place.
    pub fn compile_text(&self, name: &str, text: &str) -> PathBuf {
        let source = self.dir.path().join(format!("{name}.c"));
        std::fs::write(&source, text).unwrap();
        compile(&source, &self.dir.path().join(name))
    }

    /// Starts a program in a slice.
    pub fn start(&self, slice: &str, program: &[&str]) -> Held {
        Held::new(self.cleave(&[&["exec", slice, "--"], program].concat()))
    }

    /// Starts the program of `tests/gpu/mps_facts.py` in a slice, with a context and kernels; it, its process id and what it says of
    /// its beginning.
    pub fn client(&self, slice: &str) -> (Held, u64, Value) {
        let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu/mps_facts.py");
        let mut held = self.start(slice, &["python3", client.to_str().unwrap(), "client"]);
        let pid = number(&held.line()["pid"]);
        let init = held.ask("init");
        assert!(init["error"].is_null(), "{init}");
        let load = held.ask("load");
        assert!(load["error"].is_null(), "{load}");
        (held, pid, init)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.cleave(&["shutdown"]).output();
    }
}

fn compile(source: &Path, program: &Path) -> PathBuf {
    let output = Command::new("gcc").arg("-O1").arg("-o").arg(program).arg(source).args(["-ldl", "-lpthread"]).output();
    let output = output.unwrap_or_else(|e| panic!("these tests need gcc: {e}"));
    assert!(output.status.success(), "{}", stderr(&output));
    program.to_owned()
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Kills a process. After the daemon's death there is none until a command is given.
pub fn kill(pid: u64) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

/// A program that says things in lines of JSON, and goes on until its input ends.
pub struct Held {
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Held {
    pub fn new(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Its next line. One that does not come is a failure, and no wait for ever.
    pub fn line(&mut self) -> Value {
        if self.lines.buffer().is_empty() {
            let mut out = [PollFd::new(self.lines.get_ref(), PollFlags::IN)];
            let longest = Timespec::try_from(PATIENCE).unwrap();
            assert!(poll(&mut out, Some(&longest)).unwrap() > 0, "it said nothing within {PATIENCE:?}");
        }
        let mut text = String::new();
        self.lines.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
    }

    /// Tells it a line. In one piece: a program that reads what there is would take two for two lines.
    pub fn tell(&mut self, what: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// Tells it something; its answer.
    pub fn ask(&mut self, what: &str) -> Value {
        self.tell(what);
        self.line()
    }

    /// Ends its input and waits for its end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // After a failure: nothing may stay behind.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done`, at most so long.
pub fn within(longest: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < longest, "{what}: not within {longest:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
