//! Restarts, crashes, ends.
use super::*;

#[test]
fn a_restarted_daemon_goes_on_with_what_runs() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    daemon.create("idle", "1GiB");
    let socket = daemon.socket(&slice);
    let mut stays = Tenant::start(&socket);
    let mut leaves = Tenant::start(&socket);
    stays.register();
    leaves.register();
    stays.tell(&format!("hold linear {GIB}"));
    leaves.tell(&format!("hold linear {GIB}"));
    leaves.tell("deny 4");
    daemon.crash();
    drop(leaves);

    let daemon = world.start();
    eventually("the dead one is reaped", || daemon.slice("train").processes.len() == 1);
    let seen = daemon.slice("train");
    assert_eq!((seen.id.as_str(), seen.processes[0].pid), (slice.id.as_str(), stays.pid()));
    assert_eq!((seen.devices[0].used_bytes.unwrap(), seen.denied_total), (GIB, 4));
    assert_eq!(daemon.slice("idle").devices[0].limit_bytes, GIB);
    assert_eq!(daemon.events("adopted").len(), 1);
    // The page that it maps is the one that the new daemon writes.
    world.nvml(&[(0, stays.pid(), GIB + 7 * MIB)]);
    eventually("it is measured", || daemon.slice("train").devices[0].used_bytes.unwrap() == GIB + 7 * MIB);
    let mut late = Tenant::start(&socket);
    assert_eq!(late.register(), 1);

    daemon.stop();
    let daemon = world.start();
    assert_eq!(daemon.slice("train").processes.len(), 2);
    world.nvml(&[]);
    drop((stays, late));
    eventually("both are reaped", || daemon.slice("train").processes.is_empty());
    assert_eq!(daemon.slice("train").devices[0].used_bytes.unwrap(), 0);
}

#[test]
fn a_reboot_empties_the_run_directory_only() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    daemon.stop();
    fs::remove_dir_all(world.path("r")).unwrap();
    fs::remove_dir_all(world.path("cdi")).unwrap();
    let daemon = world.start();
    assert_eq!(daemon.slice("train").id, slice.id);
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    assert_eq!(tenant.register(), 0);
    assert!(world.path("cdi/cleave.dev-slice-train.json").exists());
}

/// Killed between the row and the files, or between the files and the row's end: neither is half there afterwards.
#[test]
fn what_a_crash_left_half_made_is_whole_or_gone() {
    let world = World::new();
    let daemon = world.start();
    let row_only = daemon.create("row-only", "1GiB");
    let damaged = daemon.create("damaged", "1GiB");
    daemon.crash();
    let slices = world.path("r/slices");
    fs::remove_dir_all(slices.join(&row_only.id)).unwrap();
    fs::write(slices.join(&damaged.id).join("policy"), b"nonsense").unwrap();
    for stray in ["SLICE-00000000-0000-0000-0000-000000000000", ".new-SLICE-x"] {
        fs::create_dir_all(slices.join(stray).join("socket")).unwrap();
    }
    let daemon = world.start();
    let mut there: Vec<String> =
        fs::read_dir(&slices).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    let mut wanted = vec![row_only.id.clone(), damaged.id.clone()];
    wanted.sort();
    assert_eq!(there, wanted);
    assert!(daemon.events("warning")[0].message.contains("damaged"));
    for slice in [row_only, damaged] {
        assert_eq!(Tenant::start(&daemon.socket(&slice)).register(), 0);
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_unharmed() {
    let world = World::new();
    let daemon = world.start();
    let mut second = world.try_start("");
    assert!(!second.child.wait().unwrap().success());
    let log = second.log();
    assert!(
        log.contains(&format!("process {}", daemon.child.id())) && log.contains(env!("CARGO_PKG_VERSION")),
        "{log}"
    );
    daemon.create("train", "1GiB");
}

#[test]
fn a_stale_socket_is_no_obstacle_and_a_hangup_no_end() {
    let world = World::new();
    let daemon = world.start();
    daemon.crash();
    assert!(world.path("r/api.sock").exists());
    let daemon = world.start();
    daemon.signal(rustix::process::Signal::HUP);
    std::thread::sleep(Duration::from_millis(50));
    daemon.create("train", "1GiB");
    let _: Value = daemon.ok("POST", "/v1/shutdown", Value::Null);
    let mut daemon = daemon;
    assert!(daemon.child.wait().unwrap().success());
    assert!(!world.path("r/api.sock").exists());
}

#[test]
fn a_private_daemon_ends_with_its_last_slice_and_leaves_nothing() {
    let world = World::new();
    let mut daemon = world.start_with("private");
    let body = json!({ "name": "once", "gpu": "any", "memory": "1GiB", "ephemeral": true });
    let slice: Slice = daemon.ok("POST", "/v1/slices", body);
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(daemon.child.try_wait().unwrap().is_none());
    drop(tenant);
    assert!(daemon.child.wait().unwrap().success());
    assert!(!world.path("r").exists());
}

#[test]
fn an_ephemeral_slice_outlives_neither_its_processes_nor_its_launcher() {
    let world = World::new();
    let daemon = world.start();
    let body = json!({ "name": "once", "gpu": "any", "memory": "1GiB", "ephemeral": true });
    let slice: Slice = daemon.ok("POST", "/v1/slices", body.clone());
    // This process asks for the plan, so it is the launcher, and the slice stays while it lives.
    let _: Value = daemon.ok("POST", "/v1/slices/once/launch", Value::Null);
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    drop(tenant);
    eventually("its process is gone", || daemon.slice("once").processes.is_empty());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(daemon.slice("once").name, "once");
    let _: Value = daemon.ok("DELETE", "/v1/slices/once", Value::Null);

    // Without a launcher it goes with its last process.
    let slice: Slice = daemon.ok("POST", "/v1/slices", body.clone());
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    drop(tenant);
    eventually("it is gone", || daemon.request("GET", "/v1/slices/once", "").0 == 404);

    // A launcher that dies before it launched anything takes it along.
    let mut creator = Creator::new(&daemon);
    creator.create("once");
    assert_eq!(creator.0.tell("request POST /v1/slices/once/launch "), "200");
    drop(creator);
    eventually("it is gone", || is_gone(&daemon, "once"));
}

/// A process that makes slices, as `cleave run` does.
struct Creator(Tenant);

impl Creator {
    fn new(daemon: &Daemon) -> Self {
        Self(Tenant::start(&daemon.run_dir.join("api.sock")))
    }

    fn create(&mut self, name: &str) {
        let body = json!({ "name": name, "gpu": "any", "memory": "1GiB", "ephemeral": true });
        assert_eq!(self.0.tell(&format!("request POST /v1/slices {body}")), "201");
    }
}

fn is_gone(daemon: &Daemon, name: &str) -> bool {
    daemon.request("GET", &format!("/v1/slices/{name}"), "").0 == 404
}

/// `kill -9` between making a slice and launching a program in it.
#[test]
fn an_ephemeral_slice_whose_creator_is_killed_goes() {
    let world = World::new();
    let daemon = world.start();
    let mut creator = Creator::new(&daemon);
    creator.create("empty");
    creator.create("used");
    let mut tenant = Tenant::start(&daemon.socket(&daemon.slice("used")));
    tenant.register();
    // A slice that is not ephemeral is nobody's to take along.
    let body = json!({ "name": "lasting", "gpu": "any", "memory": "1GiB" });
    assert_eq!(creator.0.tell(&format!("request POST /v1/slices {body}")), "201");
    drop(creator);
    eventually("the empty one is gone", || is_gone(&daemon, "empty"));
    assert_eq!(daemon.slice("used").processes.len(), 1);
    drop(tenant);
    eventually("the other one follows", || is_gone(&daemon, "used"));
    daemon.slice("lasting");
}

/// The same, with the daemon gone in between.
#[test]
fn a_restarted_daemon_knows_whom_ephemeral_slices_wait_for() {
    let world = World::new();
    let daemon = world.start();
    let (mut dies, mut lives, mut launches) = (Creator::new(&daemon), Creator::new(&daemon), Creator::new(&daemon));
    dies.create("dies");
    lives.create("lives");
    launches.create("launches");
    assert_eq!(launches.0.tell("request POST /v1/slices/launches/launch "), "200");
    let mut tenant = Tenant::start(&daemon.socket(&daemon.slice("launches")));
    tenant.register();
    daemon.crash();
    drop((dies, tenant));
    let daemon = world.start();
    eventually("the dead one's is gone", || is_gone(&daemon, "dies"));
    // Its first program has ended, and it may start another.
    eventually("the dead process is reaped", || daemon.slice("launches").processes.is_empty());
    std::thread::sleep(Duration::from_millis(100));
    for name in ["lives", "launches"] {
        daemon.slice(name);
    }
    drop((lives, launches));
    eventually("both are gone", || is_gone(&daemon, "lives") && is_gone(&daemon, "launches"));
}

#[test]
fn a_run_directory_that_cannot_be_used_is_named() {
    let world = World::new();
    fs::create_dir(world.path("r")).unwrap();
    fs::set_permissions(world.path("r"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut daemon = world.try_start("");
    assert!(!daemon.child.wait().unwrap().success());
    assert!(daemon.log().contains("nobody else can write to"), "{}", daemon.log());
}

/// A run directory on a file system of 200 KiB: what does not fit leaves nothing behind.
#[test]
fn a_tiny_run_directory_gives_a_clear_error_and_nothing_half_made() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    let run = world.path("r");
    fs::create_dir(&run).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=200k,mode=755", "tmpfs"]).arg(&run).status();
    if !mount.is_ok_and(|s| s.success()) {
        return;
    }
    let daemon = world.start();
    let mut made = 0;
    let (status, error) = loop {
        let body = json!({ "gpu": "0", "memory": "1MiB" });
        let (status, reply) = daemon.request("POST", "/v1/slices", &body.to_string());
        if status != 201 {
            break (status, serde_json::from_slice::<ErrorBody>(&reply).unwrap());
        }
        made += 1;
        assert!(made < 100);
    };
    assert_eq!(status, 503);
    assert!(error.message.contains("no room left") && error.message.contains("nothing was made"), "{error}");
    assert!(error.hint.unwrap().contains("run directory"));
    let list: List<Slice> = daemon.ok("GET", "/v1/slices", Value::Null);
    assert_eq!(list.items.len(), made);
    assert_eq!(fs::read_dir(run.join("slices")).unwrap().count(), made);
    // No room for a slot is said to the process.
    if let Some(slice) = list.items.first() {
        let fill = fs::write(run.join("fill"), vec![0; 1 << 20]);
        assert!(fill.is_err());
        let answer = Tenant::start(&daemon.socket(slice)).tell("register");
        assert_eq!(answer, format!("status {}", wire::status::NO_ROOM));
    }
    daemon.stop();
    Command::new("umount").arg("-l").arg(&run).status().unwrap();
}
