//! `cleave run` and `exec` stand for their program: exit codes, signals, environment; the slice goes with it.
mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use support::{Fake, stderr, stdout};

const DELETED: &str = "DELETE /v1/slices/SLICE-1?force=true";

#[test]
fn the_exit_code_is_the_programs() {
    for code in [0, 1, 42, 255] {
        let fake = Fake::new(&[]);
        let output = fake.cleave().args(["run", "--", "sh", "-c", &format!("exit {code}")]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(fake.asked().last().unwrap(), DELETED);
        let first = fake.asked()[0].clone();
        assert!(first.starts_with("POST /v1/slices {") && first.contains(r#""ephemeral":true"#), "{first}");
    }
}

#[test]
fn a_program_killed_by_a_signal_kills_cleave_by_it() {
    for signal in [Signal::KILL, Signal::TERM, Signal::SEGV, Signal::ABORT, Signal::INT, Signal::USR1, Signal::PIPE] {
        let fake = Fake::new(&[]);
        let script = format!("kill -{} $$", signal.as_raw());
        let output = fake.cleave().args(["run", "--", "sh", "-c", &script]).output().unwrap();
        assert_eq!(output.status.signal(), Some(signal.as_raw()), "{:?}", output);
        assert_eq!(fake.asked().last().unwrap(), DELETED, "{signal:?}");
    }
}

/// Whether this process was told to ignore `signal`, as under `nohup`.
fn ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn signals_sent_to_cleave_reach_the_program() {
    for (name, signal) in [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
        ("CONT", Signal::CONT),
    ] {
        if ignored(signal) {
            eprintln!(
                "skipped: SIG{name} is ignored by whoever started this test, so cleave and its program ignore it too"
            );
            continue;
        }
        let fake = Fake::new(&[]);
        let script = format!("trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.01; done");
        let mut child = fake.cleave().args(["run", "--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "got", "{name}");
        assert_eq!(child.wait().unwrap().code(), Some(9), "{name}");
    }
}

/// A key of the terminal reaches the program once: by the terminal, not by `cleave` again.
#[test]
fn interrupt_keys_reach_the_program_once() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let fake = Fake::new(&[]);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = || std::fs::File::options().read(true).write(true).open(&name).unwrap();
    let script =
        "n=0; trap 'n=$((n+1))' INT; echo ready; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.05; done; echo got $n";
    // setsid makes it the leader of the terminal's session, as a shell would be.
    let mut child = std::process::Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(fake.cleave().get_program())
        .args(["run", "--no-summary", "--", "sh", "-c", script])
        .env("CLEAVE_RUN_DIR", fake.dir.path())
        .stdin(terminal())
        .stdout(terminal())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(std::fs::File::from(master.try_clone().unwrap())).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    rustix::io::write(&master, b"\x03").unwrap();
    let got = lines.map_while(Result::ok).find(|line| line.contains("got")).unwrap();
    assert!(got.ends_with("got 1"), "{got}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cleave_was_told_to_ignore_the_program_ignores() {
    let fake = Fake::new(&[]);
    let binary = fake.cleave().get_program().to_owned();
    let script = "trap '' HUP; exec \"$0\" run -- grep SigIgn /proc/self/status";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(binary)
        .env("CLEAVE_RUN_DIR", fake.dir.path())
        .output()
        .unwrap();
    let mask = u64::from_str_radix(stdout(&output).split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(mask & 1, 1, "{}", stdout(&output));
}

#[test]
fn a_missing_program_is_127_and_one_that_can_not_run_126() {
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["run", "--", "no-such-program-here"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("error: no-such-program-here: program not found"), "{}", stderr(&output));
    assert_eq!(fake.asked().last().unwrap(), DELETED);
    let file = fake.dir.path().join("no-program");
    std::fs::write(&file, "").unwrap();
    let output = fake.cleave().args(["run", "--"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert_eq!(fake.asked().last().unwrap(), DELETED);
}

#[test]
fn input_output_and_environment_are_passed() {
    let fake = Fake::new(&[]);
    let mut command = fake.cleave();
    command.args(["run", "--hold", "environment", "--", "sh", "-c", "cat; env; echo err >&2"]);
    command.env("LD_LIBRARY_PATH", "/mine").env("OTHER", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let out = stdout(&output);
    assert!(out.starts_with("hello\n"), "{out}");
    let library_dir = fake.dir.path().join("lib").display().to_string();
    assert!(out.contains(&format!("LD_LIBRARY_PATH={library_dir}:/mine\n")), "{out}");
    assert!(out.contains("OTHER=1\n") && out.contains("CLEAVE_SOCKET=it's\n") && out.contains("LD_PRELOAD=/"), "{out}");
    assert_eq!(stderr(&output), "err\n");
}

#[test]
fn a_summary_is_given_on_request() {
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["run", "--summary", "--", "true"]).output().unwrap();
    let text = stderr(&output);
    assert!(text.starts_with("cleave: slice a: "), "{text}");
    assert!(text.contains("peak 5 GiB of 10 GiB (50%) on GPU 0; 2 allocations refused; 1,234 launches"), "{text}");
}

#[test]
fn an_existing_slice_stays() {
    for arguments in [&["exec", "a", "--", "true"][..], &["run", "--slice", "a", "--", "true"]] {
        let fake = Fake::new(&[]);
        let output = fake.cleave().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(fake.asked(), ["POST /v1/slices/a/launch {}"]);
    }
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["exec", "b", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn a_slice_that_went_by_itself_is_no_error() {
    let gone = r#"{"code":"not-found","message":"no slice a","hint":null}"#;
    let fake = Fake::new(&[(DELETED, 404, gone)]);
    let output = fake.cleave().args(["run", "--", "sh", "-c", "exit 3"]).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(3), ""));
}

#[test]
fn the_environment_can_be_set_by_hand() {
    let fake = Fake::new(&[]);
    let script = format!("eval \"$({} env a)\"; echo \"$CLEAVE_SOCKET\"", fake.cleave().get_program().display());
    let output =
        std::process::Command::new("sh").args(["-c", &script]).env("CLEAVE_RUN_DIR", fake.dir.path()).output().unwrap();
    assert_eq!(stdout(&output), "it's\n", "{}", stderr(&output));
    let output = fake.cleave().args(["env", "a", "-o", "json"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["variables"]["CLEAVE_SOCKET"], "it's");
}

/// Whether this process may make mounts: as root outside of a sandbox.
fn can_mount() -> bool {
    std::process::Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|o| o.status.success())
}

#[test]
fn mounts_put_the_stand_in_under_every_name_and_the_real_library_aside() {
    let fake = Fake::new(&[]);
    let arguments = ["run", "--hold", "mounts", "--", "sh", "-c"];
    let dir = fake.dir.path().display();
    std::fs::write(fake.dir.path().join("socket/sock"), "the socket").unwrap();
    let script = format!(
        "echo $LD_PRELOAD; for f in libcuda.so.1 libcuda.so.580; do cmp {dir}/$f $LD_PRELOAD || exit 9; done
         cat {dir}/driver/libcuda.so.1 /run/cleave/slice/sock; ls {dir}/driver"
    );
    let output = fake.cleave().args(arguments).arg(&script).output().unwrap();
    if !can_mount() {
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("`--hold environment` does without"), "{}", stderr(&output));
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with("realthe socketlibcuda.so.1\n"), "{}", stdout(&output));
    // The host has seen nothing of it.
    assert_eq!(std::fs::read_to_string(fake.dir.path().join("libcuda.so.1")).unwrap(), "real");
    assert_eq!(std::fs::read_dir(fake.dir.path().join("driver")).unwrap().count(), 0);
    assert!(!std::path::Path::new("/run/cleave/slice/sock").exists());
}

#[test]
fn mounts_that_can_not_be_completed_are_undone() {
    let fake = Fake::new(&[]);
    // The last mount fails: the slice's socket is gone.
    std::fs::remove_dir(fake.dir.path().join("socket")).unwrap();
    let dir = fake.dir.path().display();
    let script = format!("cat {dir}/libcuda.so.1; ls {dir}/driver");
    let output = fake.cleave().args(["run", "-v", "--", "sh", "-c", &script]).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "real"), "{}", stderr(&output));
    assert!(stderr(&output).contains("debug: no mount namespace"), "{}", stderr(&output));
    let output = fake.cleave().args(["run", "--hold", "mounts", "--", "sh", "-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

/// Whether a program of these words runs on this machine.
fn runs(words: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim() == words
    })
}

/// Waits for what must come; the test's own time limit ends it otherwise.
fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_program_sees_its_own_processes_and_they_end_with_it() {
    let fake = Fake::new(&[]);
    if !can_mount() {
        eprintln!("skipped: PID namespaces: this process may make none");
        return;
    }
    let unique = format!("sleep 1{:06}", std::process::id());
    // What it leaves behind is gone when cleave is.
    let script = format!("{unique} & cd /proc; ls -d [0-9]* | wc -l; echo $$");
    let first = fake.cleave().args(["run", "--", "sh", "-c", &script]).output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(!runs(&unique), "a process of the slice is left");
    // The first process, the shell, the sleep and what counts.
    let said = stdout(&first);
    let (seen, id) = said.trim().split_once('\n').unwrap();
    assert!(seen.trim().parse::<u32>().unwrap() <= 5, "it sees {seen} processes");
    // Programs in different namespaces that hand each other memory need different ids.
    let second = fake.cleave().args(["run", "--", "sh", "-c", "echo $$"]).output().unwrap();
    assert_ne!(stdout(&second).trim(), id);
    // The machine's processes are there where they are asked for.
    let script = "cd /proc; ls -d [0-9]* | wc -l";
    let all = fake.cleave().args(["run", "--pids", "host", "--", "sh", "-c", script]).output().unwrap();
    assert!(stdout(&all).trim().parse::<u32>().unwrap() > 5, "{}", stdout(&all));
    // If cleave is killed, the program goes on, and what it leaves behind still goes with it.
    let go_on = fake.dir.path().join("go-on");
    let script = format!("{unique}9 & while ! test -e {}; do sleep 0.01; done; echo done", go_on.display());
    let mut cleave = fake.cleave();
    let mut cleave = cleave.args(["run", "--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let unique = format!("{unique}9");
    until(|| runs(&unique));
    cleave.kill().unwrap();
    cleave.wait().unwrap();
    std::fs::write(go_on, "").unwrap();
    let said = BufReader::new(cleave.stdout.take().unwrap()).lines().next();
    assert_eq!(said.unwrap().unwrap(), "done");
    until(|| !runs(&unique));
}
