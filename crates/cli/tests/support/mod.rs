//! What the tests share: `cleave` in a folder of its own, and a daemon that gives canned answers.
#![allow(dead_code, missing_docs)]
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// `cleave` with a run directory and without the tester's settings.
pub fn cleave(run_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cleave"));
    command.env("CLEAVE_RUN_DIR", run_dir).env_remove("CLEAVE_SIM").env_remove("LD_PRELOAD");
    command.env_remove("LD_LIBRARY_PATH").env("NO_COLOR", "1").env("COLUMNS", "100");
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A daemon that knows one slice, `a`, and answers what it is told to for the rest.
pub struct Fake {
    pub dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

pub const STATUS: &str = r#"{"version":"0.1.0","ledger_abi":ABI,"pid":1,"started_at":"2026-01-01T00:00:00Z",
    "run_dir":"/r","state_dir":"/s","private":false,"driver":{"version":"580.95.05","cuda_version":13000,
    "library_dir":"/usr/lib","simulated":null},"gpus":1,"slices":1,"processes":0}"#;

pub const SLICE: &str = r#"{"id":"SLICE-1","name":"a","owner":{"uid":0,"name":"root"},"created_at":"2026-01-01T00:00:00Z",
    "devices":[{"gpu":0,"gpu_uuid":"GPU-1","limit_bytes":10737418240,"used_bytes":1073741824,"peak_bytes":5368709120,
    "used_for":{"context":536870912,"linear":536870912},"measured_bytes":0,"busy_percent":12,"time":{"device_ns":61234000000,
    "in_flight_ns":1500000,"waiting":3,"throttled_ns":2000000,"throttled_total":41,"share_percent":30.0,
    "last_10ms":{"given_ns":3100000,"owed_ns":3000000},"last_1s":{"given_ns":299500000,"owed_ns":300000000},
    "last_1min":{"given_ns":17970000000,"owed_ns":18000000000}}}],"compute_percent":30.0,
    "mode":"strict","priority":"production","burst_ms":50,"paused":false,
    "engine":"spatial","engine_reason":"it was asked for","trust_domain":"team",
    "host_limit_bytes":null,"host_used_bytes":0,"processes":[],"denied_total":2,"launches_total":1234,
    "classes":{"latency":{"launches":700,"device_ns":24000000000},"throughput":{"launches":400,"device_ns":33000000000},
    "collective":{"launches":30,"device_ns":null},"other":{"launches":null,"device_ns":3000000000}},
    "overcommitted":false,"on_missing":"refuse","ephemeral":false}"#;

impl Fake {
    /// A daemon with these answers, by method and path, beside the usual ones.
    pub fn new(answers: &[(&str, u16, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        // Something that can be preloaded without doing anything.
        let library = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("");
        // A driver's library, under two names.
        let real = dir.path().join("libcuda.so.580");
        std::fs::write(&real, "real").unwrap();
        let link = dir.path().join("libcuda.so.1");
        std::os::unix::fs::symlink("libcuda.so.580", &link).unwrap();
        let (real, link) = (real.display(), link.display());
        let place = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let plan = format!(
            r#"{{"id":"SLICE-1","name":"a","library_dir":"{}","library":"{library}","socket_dir":"{}",
            "driver_dir":"{}","real_libraries":{{"libcuda.so.1":"{real}"}},"covers":["{link}","{real}","/nowhere/libcuda.so"],
            "environment":{{"CLEAVE_SOCKET":"it's"}}}}"#,
            place("lib"),
            place("socket"),
            place("driver")
        );
        let mut table: BTreeMap<String, (u16, String)> = BTreeMap::new();
        let status = STATUS.replace("ABI", &cleave_ledger::ABI.to_string());
        let list = format!(r#"{{"schema":"cleave.dev/v1/slices","items":[{SLICE}]}}"#);
        for (key, body) in [
            ("GET /v1/status", status.as_str()),
            ("GET /v1/slices", &list),
            ("GET /v1/slices/a", SLICE),
            ("GET /v1/slices/SLICE-1", SLICE),
            ("POST /v1/slices", SLICE),
            ("POST /v1/slices/a/launch", &plan),
            ("POST /v1/slices/SLICE-1/launch", &plan),
            ("DELETE /v1/slices/SLICE-1?force=true", ""),
        ] {
            table.insert(key.into(), (200, body.into()));
        }
        for (key, status, body) in answers {
            table.insert((*key).into(), (*status, (*body).into()));
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                let whole = |request: &[u8]| {
                    let text = String::from_utf8_lossy(request).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                    (body.len() >= length.unwrap_or(0)).then(|| (head.to_owned(), body.to_owned()))
                };
                let mut read = None;
                while read.is_none() {
                    match stream.read(&mut buffer) {
                        Ok(n @ 1..) => request.extend(&buffer[..n]),
                        // Someone who only looked whether we are here.
                        _ => break,
                    }
                    read = whole(&request);
                }
                let Some((head, body)) = read else { continue };
                let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
                let missing = (404, r#"{"code":"not-found","message":"no such thing","hint":"look elsewhere"}"#.into());
                let (status, answer) = table.get(&line).cloned().unwrap_or(missing);
                log.lock().unwrap().push(format!("{line} {body}").trim_end().to_owned());
                let length = answer.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
                );
            }
        });
        Self { dir, asked }
    }

    /// `cleave` that talks to this daemon.
    pub fn cleave(&self) -> Command {
        cleave(self.dir.path())
    }

    /// What it was asked so far, less the questions for its status.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|line| *line != "GET /v1/status").cloned().collect()
    }
}
