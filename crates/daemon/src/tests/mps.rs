//! Trust domains, with a control daemon of shell that does what the real one was seen to do. Its server is a `sleep`, and the
//! test writes the server's log.
use super::*;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;

/// As much of NVIDIA's control daemon as the daemon uses.
const CONTROL: &str = r#"#!/bin/sh
pipe=$CUDA_MPS_PIPE_DIRECTORY
case $* in *-d)
    (
        echo "$CUDA_VISIBLE_DEVICES" > "$CUDA_MPS_LOG_DIRECTORY/control.log"
        sleep 1000 > /dev/null & child=$!
        trap 'kill $child; exit' TERM
        sh -c 'echo $PPID' > "$pipe/nvidia-cuda-mps-control.pid"
        : > "$pipe/control"
        wait
    ) < /dev/null > /dev/null 2>&1 &
    exit 0 ;;
esac
read command rest
case $command in
    quit) kill "$(cat "$pipe/nvidia-cuda-mps-control.pid")" ;;
    get_server_status) cat "$CUDA_MPS_LOG_DIRECTORY/status" 2>/dev/null || echo ACTIVE ;;
esac
"#;

/// A world with MPS, and what a server of it is.
struct Mps {
    world: World,
    servers: Vec<Child>,
}

impl Mps {
    fn new() -> Self {
        let world = World::new();
        let dir = world.path("mps");
        fs::create_dir(&dir).unwrap();
        let program = dir.join(crate::mps::CONTROL);
        fs::write(&program, CONTROL).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { world, servers: Vec::new() }
    }

    /// A server's process.
    fn server(&mut self) -> u32 {
        self.servers.push(Command::new("sleep").arg("1000").spawn().unwrap());
        self.servers.last().unwrap().id()
    }
}

impl Drop for Mps {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        // A control daemon that a failed test left.
        for file in folders(&self.world.path("r")).into_iter().map(|dir| dir.join("pipe/nvidia-cuda-mps-control.pid")) {
            if let Some(pid) = number(&file).and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}

fn folders(run_dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(run_dir.join("mps")).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn number(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The folder of a slice's trust domain, from its launch plan.
fn folder(daemon: &Daemon, slice: &str) -> PathBuf {
    let plan: LaunchPlan = daemon.ok("POST", &format!("/v1/slices/{slice}/launch"), json!({}));
    Path::new(&plan.environment["CUDA_MPS_PIPE_DIRECTORY"]).parent().unwrap().to_owned()
}

fn control(folder: &Path) -> i32 {
    number(&folder.join("pipe/nvidia-cuda-mps-control.pid")).expect("no control daemon")
}

fn say(folder: &Path, server: u32, text: &str) {
    let mut log = File::options().create(true).append(true).open(folder.join("log/server.log")).unwrap();
    writeln!(log, "[2026-11-26 15:19:40.606 Server {server:5}] {text}").unwrap();
}

fn connects(folder: &Path, server: u32, tenant: &Tenant) {
    say(folder, server, &format!("Client {{PID: {}, Context ID: 1}} connected", tenant.pid()));
}

fn create(daemon: &Daemon, name: &str, more: Value) -> Slice {
    let mut body = json!({ "name": name, "gpu": "0", "memory": "1GiB", "compute": "20%" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    daemon.ok("POST", "/v1/slices", body)
}

fn enter(daemon: &Daemon, slice: &Slice) -> Tenant {
    let mut tenant = Tenant::start(&daemon.socket(slice));
    tenant.register();
    tenant
}

fn ended(tenant: &mut Tenant) -> bool {
    tenant.child.try_wait().unwrap().is_some()
}

fn is_there(pid: i32) -> bool {
    crate::process::is_alive(pid as u32, crate::process::stat(pid as u32).map_or(0, |s| s.start_time))
}

#[test]
fn a_server_comes_with_the_first_program_and_goes_with_the_last_slice() {
    let mps = Mps::new();
    let daemon = mps.world.start();
    let domain = json!({ "trust_domain": "team" });
    let (a, b) = (create(&daemon, "a", domain.clone()), create(&daemon, "b", domain));
    let alone = create(&daemon, "alone", json!({ "engine": "spatial" }));
    let temporal = create(&daemon, "temporal", json!({}));
    assert_eq!(
        [&a, &b, &alone, &temporal].map(|s| s.engine.to_string()),
        ["spatial", "spatial", "spatial", "temporal"]
    );
    assert!(temporal.engine_reason.contains("trust domain"), "{}", temporal.engine_reason);
    let (team, other) = (folder(&daemon, "a"), folder(&daemon, "alone"));
    assert_eq!(team, folder(&daemon, "b"));
    assert_ne!(team, other);
    assert_eq!(fs::metadata(&team).unwrap().permissions().mode() & 0o777, 0o700);
    // Nobody has started a program: there is no server.
    assert_eq!(fs::read_dir(team.join("pipe")).unwrap().count(), 0);

    let one = enter(&daemon, &a);
    let first = control(&team);
    assert_eq!(fs::read_to_string(team.join("log/control.log")).unwrap().trim(), a.devices[0].gpu_uuid);
    let two = enter(&daemon, &b);
    assert_eq!(control(&team), first);
    assert_eq!(fs::read_dir(other.join("pipe")).unwrap().count(), 0);
    drop((one, two));
    for name in ["a", "b"] {
        eventually("its programs are gone", || daemon.slice(name).processes.is_empty());
        assert!(is_there(first));
        daemon.ok::<()>("DELETE", &format!("/v1/slices/{name}"), Value::Null);
    }
    eventually("the server is gone", || !is_there(first) && !team.exists());
    daemon.ok::<()>("DELETE", "/v1/slices/alone", Value::Null);
    eventually("a folder goes that was never used", || !other.exists());
    daemon.stop();
}

#[test]
fn the_environment_holds_what_a_client_may_have() {
    let mps = Mps::new();
    let daemon = mps.world.start();
    let environment = |name: &str| {
        let plan: LaunchPlan = daemon.ok("POST", &format!("/v1/slices/{name}/launch"), json!({}));
        [
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
            "CLEAVE_MULTIPROCESSORS",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
            "CUDA_MPS_CLIENT_PRIORITY",
        ]
        .map(|key| plan.environment.get(key).cloned().unwrap_or_default())
    };
    create(&daemon, "strict", json!({ "trust_domain": "a", "mode": "strict" }));
    assert_eq!(environment("strict"), ["100", "0-200", "0=1024M", "1"]);
    create(&daemon, "burn", json!({ "trust_domain": "b", "priority": "experiment" }));
    assert_eq!(environment("burn"), ["100", "", "0=1024M", "1"]);
    // Multiprocessors are kept for one that goes first, in this domain only.
    create(&daemon, "serve", json!({ "trust_domain": "b", "priority": "production", "compute": "30%" }));
    assert_eq!(environment("serve"), ["100", "", "0=1024M", "0"]);
    assert_eq!(environment("burn"), ["100", "0-700", "0=1024M", "1"]);
    assert_eq!(environment("strict"), ["100", "0-200", "0=1024M", "1"]);
    let written = fs::read_to_string(mps.world.path("cdi/cleave.dev-slice-burn.json")).unwrap();
    assert!(written.contains("CLEAVE_MULTIPROCESSORS=0-700"), "{written}");
    // Too little to be cut off, and what finds no place: a number of them, which are nobody's own.
    create(&daemon, "little", json!({ "trust_domain": "a", "mode": "strict", "compute": "5%" }));
    assert_eq!(environment("little"), ["5", "", "0=1024M", "1"]);
    let explained: Explanation = daemon.ok("GET", "/v1/slices/burn/explain", Value::Null);
    assert_eq!(explained.devices[0].processors_percent, Some(70.0));
    assert!(explained.devices[0].reasons[0].message.contains("30 % are kept free"), "{explained:?}");
    create(&daemon, "turns", json!({}));
    assert_eq!(environment("turns"), ["", "", "", ""]);
    // It joins no server of the machine's either.
    assert!(folder(&daemon, "turns").ends_with("mps/none"));
    let spec: Value = daemon.ok("GET", "/v1/slices/strict/cdi", Value::Null);
    let edits = &spec["devices"][0]["containerEdits"];
    assert!(edits["env"].as_array().unwrap().contains(&json!("CUDA_MPS_PIPE_DIRECTORY=/run/cleave/mps")), "{edits}");
    let pipe = folder(&daemon, "strict").join("pipe");
    assert!(edits["mounts"].as_array().unwrap().iter().any(|m| m["hostPath"] == json!(pipe)), "{edits}");
}

#[test]
fn a_fault_ends_the_programs_of_its_domain_and_no_others() {
    let mut mps = Mps::new();
    let daemon = mps.world.start();
    let domain = json!({ "trust_domain": "team" });
    let (a, b) = (create(&daemon, "a", domain.clone()), create(&daemon, "b", domain));
    let (alone, temporal) =
        (create(&daemon, "alone", json!({ "engine": "spatial" })), create(&daemon, "turns", json!({})));
    let (mut culprit, mut victim, mut bystander) = (enter(&daemon, &a), enter(&daemon, &b), enter(&daemon, &b));
    let (mut far, mut turns) = (enter(&daemon, &alone), enter(&daemon, &temporal));
    let (team, other) = (folder(&daemon, "a"), folder(&daemon, "alone"));
    let (server, second) = (mps.server(), mps.server());
    for tenant in [&culprit, &victim] {
        connects(&team, server, tenant);
    }
    connects(&other, second, &far);
    say(&team, server, &format!("Client {{PID: {}, Context: 1}} encountered a fatal GPU error.", culprit.pid()));
    say(&team, server, "Server is handling a fatal GPU error.");
    eventually("both are ended", || ended(&mut culprit) && ended(&mut victim));
    eventually("the server serves again", || daemon.events("recovered").len() == 1);
    assert!(daemon.events("recovered")[0].message.contains("serves again"));
    let events = daemon.events("fault");
    let names: Vec<_> = events.iter().map(|e| e.slice.clone().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    for event in &events {
        let words = [
            format!("(pid {}) of slice a made a fatal GPU error", culprit.pid()),
            format!("(pid {}) of slice b", victim.pid()),
        ];
        assert!(words.iter().all(|part| event.message.contains(part)), "{}", event.message);
    }
    // Who was not on that server goes on, and the next program is let in.
    assert!(![&mut far, &mut turns, &mut bystander].into_iter().any(ended));
    let next = enter(&daemon, &a);
    connects(&team, server, &next);

    // A server that does not recover is replaced.
    fs::write(team.join("log/status"), "FAULT\n").unwrap();
    let before = control(&team);
    say(&team, server, "Server is handling a fatal GPU error.");
    eventually("it is stopped", || daemon.events("recovered").len() == 2);
    assert!(daemon.events("recovered")[1].message.contains("starts anew"));
    eventually("both are gone", || !is_there(before) && !is_there(server as i32));
    let _last = enter(&daemon, &a);
    assert_ne!(control(&team), before);
    assert!(![&mut far, &mut turns].into_iter().any(ended));
}

#[test]
fn a_dead_server_ends_its_programs_and_a_new_daemon_knows_them() {
    let mut mps = Mps::new();
    let daemon = mps.world.start();
    let domain = json!({ "trust_domain": "team" });
    let (a, b) = (create(&daemon, "a", domain.clone()), create(&daemon, "b", domain));
    let (mut one, mut two) = (enter(&daemon, &a), enter(&daemon, &b));
    let team = folder(&daemon, "a");
    let (first, second) = (mps.server(), mps.server());
    connects(&team, first, &one);
    say(&team, first, &format!("Client {{PID: {}, Context: 1}} encountered a fatal GPU error.", one.pid()));
    eventually("the fault is mended", || daemon.events("recovered").len() == 1);
    connects(&team, second, &two);
    let before = control(&team);
    daemon.crash();

    let daemon = mps.world.start();
    let third = enter(&daemon, &a);
    assert_eq!(control(&team), before);
    connects(&team, second, &third);
    // The old fault is not taken for a new one.
    assert_eq!(daemon.events("fault").len(), 1);
    assert!(ended(&mut one) && !ended(&mut two));
    eventually("the server's memory is nobody's", || {
        mps.world.nvml(&[(0, second, 66 * MIB), (0, two.pid(), MIB), (0, third.pid(), MIB)]);
        let gpus: List<cleave_api::Gpu> = daemon.ok("GET", "/v1/gpus", Value::Null);
        gpus.items[0].untracked_bytes == 0
    });
    mps.servers[1].kill().unwrap();
    mps.servers[1].wait().unwrap();
    eventually("its program is ended", || ended(&mut two));
    eventually("that is told", || daemon.events("recovered").len() == 2);
    let said = &daemon.events("fault")[1].message;
    assert!(said.contains(&format!("MPS server (pid {second}) has ended")), "{said}");
    assert!(is_there(before) && daemon.events("untracked").is_empty() && daemon.events("bypass").is_empty());
}

#[test]
fn who_is_no_client_is_seen_and_other_users_have_other_servers() {
    let mut mps = Mps::new();
    let daemon = mps.world.start();
    let a = create(&daemon, "a", json!({ "trust_domain": "team" }));
    let (client, stray) = (enter(&daemon, &a), enter(&daemon, &a));
    connects(&folder(&daemon, "a"), mps.server(), &client);
    mps.world.nvml(&[(0, client.pid(), 5 * MIB), (0, stray.pid(), 7 * MIB)]);
    eventually("it is seen", || !daemon.events("bypass").is_empty());
    let events = daemon.events("bypass");
    let said = &events[0].message;
    assert!(said.contains(&format!("(pid {}) uses 7 MiB beside the MPS server", stray.pid())), "{said}");
    if rustix::process::geteuid().is_root() {
        // Of the same name, but another user's.
        let theirs = create(&daemon, "theirs", json!({ "trust_domain": "team", "owner": "65534" }));
        let (ours, other) = (folder(&daemon, "a"), folder(&daemon, "theirs"));
        let mut tenant = Tenant::start_as(&daemon.socket(&theirs), Some(65534));
        tenant.register();
        assert_ne!(control(&ours), control(&other));
        use std::os::unix::fs::MetadataExt;
        assert_eq!((fs::metadata(&ours).unwrap().uid(), fs::metadata(&other).unwrap().uid()), (0, 65534));
    }
}

#[test]
fn what_can_not_be_had_is_refused_with_the_reason() {
    let world = World::new();
    let daemon = world.start();
    let spec = |more: Value| {
        let mut body = json!({ "name": "x", "gpu": "0", "memory": "1GiB", "compute": "20%" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, part) in [
        (json!({ "engine": "spatial" }), "nvidia-cuda-mps-control"),
        (json!({ "engine": "mig" }), "MIG"),
        (json!({ "engine": "spatial", "gpu": "0,1" }), "2 GPUs"),
        (json!({ "trust_domain": "No Domain" }), "trust domain's name"),
    ] {
        let (_, error) = daemon.error("POST", "/v1/slices", spec(more));
        assert!(error.message.contains(part), "{error}");
    }
    let dry: Slice = daemon.ok("POST", "/v1/slices?dry_run=true", spec(json!({ "trust_domain": "team" })));
    assert_eq!((dry.engine, dry.trust_domain.as_deref()), (cleave_api::Engine::Temporal, Some("team")));
    assert!(dry.engine_reason.contains("nvidia-cuda-mps-control"), "{}", dry.engine_reason);
    assert!(!world.path("r/mps").exists());
    let modes: List<cleave_api::GpuModes> = daemon.ok("GET", "/v1/modes", Value::Null);
    let can: Vec<_> = modes.items[0].engines.iter().map(|e| (e.engine.to_string(), e.available)).collect();
    assert_eq!(can, [("mig".into(), false), ("spatial".into(), false), ("temporal".into(), true)]);
}
