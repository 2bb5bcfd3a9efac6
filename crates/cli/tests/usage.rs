//! The command line: help, malformed input, and what is said where there is no daemon or a strange one.
mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use support::{Fake, cleave, stderr, stdout};

fn run(arguments: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = cleave(dir.path()).args(arguments).output().unwrap();
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

#[test]
fn help_names_every_command() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
}

#[test]
fn help_of_run() {
    let (code, out, _) = run(&["run", "--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
}

#[test]
fn malformed_amounts_are_named_with_their_rule() {
    let cases = [
        (&["run", "--memory", "10XB", "--", "true"][..], "\"10XB\" is not an amount"),
        (&["run", "--memory", "0", "--", "true"], "it must be above 0"),
        (&["run", "--memory", "101%", "--", "true"], "\"101%\" is not a percentage"),
        (&["run", "--compute", "0%", "--", "true"], "\"0%\" is not a percentage"),
        (&["run", "--fraction", "5/4", "--", "true"], "\"5/4\" is not a part of one"),
        (&["slice", "create", "--host-memory=-1"], "\"-1\" is not an amount"),
        (&["slice", "resize", "a", "--memory", "1e9"], "\"1e9\" is not an amount"),
        (&["slice", "create", "--on-missing", "panic"], "must be `refuse` or `allow`"),
        (&["slice", "create", "--on-bypass", "panic"], "must be `warn` or `kill`"),
        (&["slice", "create", "--mode", "hard"], "\"hard\" is no mode: it must be none, balanced, strict or adaptive"),
        (&["run", "--priority", "8", "--", "true"], "\"8\" is no priority: it must be experiment, staging, production"),
        (&["slice", "resize", "a", "--burst", "1s"], "invalid value '1s' for '--burst <MS>'"),
        (&["top", "-n", "0"], "between 0.1 and 3600"),
        (&["profile", "--every", "5ms", "--", "true"], "between 10ms and 1s"),
        (&["profile", "--margin", "101", "--", "true"], "101 is not in 0..=100"),
        (&["profile", "--name", "A_b", "--", "true"], "it must be 1 to 50 of a-z, 0-9 and -"),
        (&["profile", "--memory", "0", "--", "true"], "it must be above 0"),
    ];
    for (arguments, said) in cases {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn what_excludes_each_other_is_refused() {
    let cases: [&[&str]; 9] = [
        &["run", "--fraction", "1/4", "--memory", "1GiB", "--", "true"],
        &["run", "--fraction", "1/4", "--compute", "20%", "--", "true"],
        &["run", "--slice", "a", "--memory", "1GiB", "--", "true"],
        &["run", "--slice", "a", "--mode", "strict", "--", "true"],
        &["run", "--memory", "1GiB"],
        &["slice", "resize", "a"],
        &["cdi"],
        &["cdi", "a", "--dir", "/x"],
        &["daemon", "--listen", "127.0.0.1:1"],
    ];
    for arguments in cases {
        let (code, _, err) = run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
    }
}

#[test]
fn without_a_daemon_each_command_says_so() {
    for arguments in
        [&["slice", "list"][..], &["status"], &["ps"], &["events"], &["exec", "a", "--", "true"], &["env", "a"]]
    {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}");
        assert!(
            err.contains("error: no daemon runs") && err.contains("api.sock") && err.contains("hint: start one"),
            "{err}"
        );
    }
}

#[test]
fn a_stale_socket_is_told_from_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("api.sock")).unwrap());
    let output = cleave(dir.path()).args(["slice", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("left over and nobody listens"), "{}", stderr(&output));
}

#[test]
fn a_socket_without_permission_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        // Root may use any socket.
        return;
    }
    let output = cleave(dir.path()).args(["slice", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no permission"), "{}", stderr(&output));
}

#[test]
fn a_daemon_of_another_version_is_refused() {
    let status = support::STATUS.replace("0.1.0", "7.0.0").replace("ABI", "1");
    let fake = Fake::new(&[("GET /v1/status", 200, &status)]);
    for arguments in [&["slice", "list"][..], &["run", "--", "true"], &["gpus"]] {
        let output = fake.cleave().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        assert!(stderr(&output).contains("is cleave 7.0.0"), "{}", stderr(&output));
    }
    // Its status is shown all the same.
    let output = fake.cleave().arg("status").output().unwrap();
    assert!(stdout(&output).contains("cleave 7.0.0"));
    assert_eq!(output.status.code(), Some(5));
    assert!(fake.asked().is_empty());
}

#[test]
fn a_daemon_that_simulates_something_else_is_refused() {
    let status = support::STATUS.replace("ABI", &cleave_ledger::ABI.to_string());
    let simulates = status.replace("\"simulated\":null", "\"simulated\":\"8xH100\"");
    let fake = Fake::new(&[("GET /v1/status", 200, &simulates)]);
    let output = fake.cleave().args(["--sim", "1xT4", "slice", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("simulates 8xH100, not 1xT4"), "{}", stderr(&output));
    let output = fake.cleave().args(["--sim", "8xh100", "slice", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn the_daemons_refusal_decides_the_exit_code() {
    let cases = [
        (404, "not-found", 4, "GPU 9: this machine has GPUs 0 to 7"),
        (422, "refused", 3, "90 GiB is more than GPU 0 has"),
        (403, "forbidden", 3, "uid 1000 may not"),
        (409, "conflict", 5, "name \"a\" is taken"),
        (400, "invalid", 1, "malformed"),
        (503, "unavailable", 1, "no room in /dev/shm"),
    ];
    for (status, code, exit, message) in cases {
        let body =
            format!(r#"{{"code":"{code}","message":"{message}","hint":"do this"}}"#).replace("\"a\"", "\\\"a\\\"");
        let fake = Fake::new(&[("POST /v1/slices", status, &body)]);
        for command in [&["run", "--gpu", "9", "--", "touch", "/nonexistent/x"][..], &["slice", "create", "--gpu", "9"]]
        {
            let output = fake.cleave().args(command).output().unwrap();
            assert_eq!(output.status.code(), Some(exit), "{}", stderr(&output));
            assert_eq!(stderr(&output), format!("error: {message}\nhint: do this\n"));
            assert_eq!(stdout(&output), "");
        }
    }
}

#[test]
fn lists_have_a_schema_in_json_and_yaml() {
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["slice", "list", "-o", "json"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["schema"], "cleave.dev/v1/slices");
    assert_eq!(value["items"][0]["devices"][0]["limit_bytes"], 10_737_418_240u64);
    let output = fake.cleave().args(["-o", "json", "slice", "show", "a"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((value["schema"].as_str(), value["name"].as_str()), (Some("cleave.dev/v1/slice"), Some("a")));
    let output = fake.cleave().args(["-o", "yaml", "slice", "show", "a"]).output().unwrap();
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn tables_are_plain_without_a_terminal_and_coloured_on_request() {
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["slice", "list"]).output().unwrap();
    insta::assert_snapshot!("slice-list", stdout(&output));
    let output = fake.cleave().args(["slice", "show", "a"]).output().unwrap();
    insta::assert_snapshot!("slice-show", stdout(&output));
    let output = fake.cleave().args(["slice", "list", "--color", "always"]).output().unwrap();
    assert!(stdout(&output).contains("\x1b["));
}

#[test]
fn what_shares_time_is_asked_for_and_shown() {
    let explanation = r#"{"slice":"a","devices":[{"gpu":0,"engine":"spatial","engine_reason":"it was asked for",
        "processors_percent":30.0,"share_percent":30.0,"mode":"strict",
        "priority":"production","turn":"window","neighbours":[
        {"slice":"b","share_percent":50.0,"mode":"balanced","priority":"production","at_work":true},
        {"slice":null,"share_percent":20.0,"mode":"none","priority":"5","at_work":false}],
        "reasons":[{"kind":"capped","message":"it gets no more than 30 %"}]}]}"#;
    let paused = support::SLICE.replace("\"paused\":false", "\"paused\":true");
    let fake = Fake::new(&[
        ("GET /v1/slices/a/explain", 200, explanation),
        ("POST /v1/slices/a/pause", 200, &paused),
        ("POST /v1/slices/a/resume", 200, support::SLICE),
        ("PATCH /v1/slices/a", 200, support::SLICE),
    ]);
    let said = |arguments: &[&str]| {
        let output = fake.cleave().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    insta::assert_snapshot!("slice-explain", said(&["slice", "show", "a", "--explain"]));
    let json: serde_json::Value =
        serde_json::from_str(&said(&["slice", "show", "a", "--explain", "-o", "json"])).unwrap();
    assert_eq!((&json["schema"], &json["slice"]), (&"cleave.dev/v1/explanation".into(), &"a".into()));
    assert_eq!(said(&["pause", "a"]), "slice a is paused\n");
    assert_eq!(said(&["resume", "a"]), "slice a goes on\n");
    assert_eq!(
        said(&["slice", "resize", "a", "--mode", "strict", "--priority", "2", "--burst", "50"]),
        "slice a: 10 GiB of GPU 0, compute 30%, strict, burst 50 ms, production\n"
    );
}

#[test]
fn names_can_not_leave_their_place_in_the_path() {
    let fake = Fake::new(&[]);
    let output = fake.cleave().args(["slice", "delete", "../shutdown?x=1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(fake.asked(), ["DELETE /v1/slices/..%2Fshutdown%3Fx%3D1?force=false"]);
}

#[test]
fn each_slice_that_can_not_be_deleted_is_named() {
    let fake = Fake::new(&[
        ("DELETE /v1/slices/a?force=false", 200, ""),
        ("DELETE /v1/slices/c?force=false", 409, r#"{"code":"conflict","message":"c is in use","hint":null}"#),
    ]);
    let output = fake.cleave().args(["slice", "delete", "c", "a"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("deleted slice a\n", "error: c is in use\n"));
}

#[test]
fn a_reader_that_has_gone_ends_it_quietly() {
    let fake = Fake::new(&[]);
    let mut child = fake.cleave().args(["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn completions_and_man_pages_cover_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let (code, out, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("oversubscribe") && out.contains("doctor"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = run(&["man", &dir.path().display().to_string()]);
    assert_eq!(code, 0, "{err}");
    for page in ["cleave.1", "cleave-run.1", "cleave-slice-create.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    assert!(!dir.path().join("cleave-internal-enter.1").exists());
}

/// A26: `cleave doctor` lists the files that cleave writes.
#[test]
fn doctor_lists_what_is_written_and_fails_without_a_driver() {
    let dir = tempfile::tempdir().unwrap();
    let output = cleave(dir.path()).args(["doctor", "-o", "json"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["schema"], "cleave.dev/v1/doctor");
    let files = value["files_written"].as_array().unwrap();
    let socket = dir.path().join("api.sock").display().to_string();
    assert!(files.iter().any(|f| f["path"] == socket.as_str()));
    assert!(files.iter().all(|f| !f["purpose"].as_str().unwrap().is_empty()));
    let grade = |id: &str| {
        let checks = value["checks"].as_array().unwrap();
        checks.iter().find(|c| c["id"] == id).unwrap()["grade"].as_str().unwrap().to_owned()
    };
    let failed = value["checks"].as_array().unwrap().iter().any(|c| c["grade"] == "failed");
    assert_eq!(output.status.code(), Some(if failed { 2 } else { 0 }));
    if !std::path::Path::new("/dev/nvidiactl").exists() && !std::path::Path::new("/dev/dxg").exists() {
        assert_eq!(grade("driver"), "failed");
    }
    assert_eq!(grade("daemon"), "ok");
}
