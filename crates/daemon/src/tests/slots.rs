//! Slots: given, measured, taken back.
use super::*;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsRawFd;

#[test]
fn a_process_gets_a_slot_and_loses_it_with_its_life() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    assert_eq!(tenant.register(), 0);
    // A second copy of the library in the same process.
    assert_eq!(tenant.register(), 1);
    let mut other = Tenant::start(&daemon.socket(&slice));
    assert_eq!(other.register(), 2);
    tenant.tell("hold pool 1073741824");
    tenant.tell("deny 3");
    let seen = daemon.slice("train");
    assert_eq!(seen.processes.len(), 3);
    assert_eq!(seen.processes[1].pid, tenant.pid());
    assert_eq!(seen.processes[1].used_bytes, [GIB]);
    assert_eq!(seen.processes[0].state, "running");
    assert!(seen.processes[0].command.contains("tenant_process"));
    assert_eq!((seen.devices[0].used_bytes.unwrap(), seen.devices[0].used_for["pool"]), (GIB, GIB));
    assert_eq!(seen.denied_total, 3);

    let pid = tenant.pid();
    drop(tenant);
    eventually("both slots are free", || daemon.slice("train").processes.len() == 1);
    let seen = daemon.slice("train");
    assert_eq!((seen.devices[0].used_bytes.unwrap(), seen.denied_total), (0, 3));
    assert_eq!(seen.devices[0].peak_bytes, Some(GIB));
    let ended = daemon.events("process-ended");
    assert_eq!(ended.len(), 2);
    assert!(ended.iter().any(|e| e.message.contains(&format!("pid {pid}")) && e.message.contains("1 GiB")));
    let mut third = Tenant::start(&daemon.socket(&slice));
    assert_eq!(third.register(), 0, "the lowest free slot");
}

#[test]
fn a_dead_process_is_charged_until_the_driver_lets_go() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell("hold linear 1073741824");
    let pid = tenant.pid();
    world.nvml(&[(0, pid, GIB)]);
    drop(tenant);
    eventually("it is being reaped", || daemon.slice("train").processes[0].state == "exiting");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(daemon.slice("train").devices[0].used_bytes.unwrap(), GIB);
    let began = Instant::now();
    world.nvml(&[]);
    eventually("its slot is free", || daemon.slice("train").processes.is_empty());
    assert!(began.elapsed() < Duration::from_millis(500));
    assert!(daemon.events("warning").is_empty());

    // A driver that never lets go is not waited for for ever.
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    world.nvml(&[(0, tenant.pid(), GIB)]);
    drop(tenant);
    eventually("its slot is free all the same", || daemon.slice("train").processes.is_empty());
    assert!(daemon.events("warning")[0].message.contains("still says that it has 1 GiB"));
}

#[test]
fn a_measurement_replaces_an_estimate() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    let unmeasured = wire::status::UNMEASURED.to_string();
    assert!(tenant.tell("measure 0 0").starts_with(&unmeasured), "NVML does not show it");
    assert!(tenant.tell("measure 9 0").starts_with(&unmeasured), "no such device");
    assert!(tenant.tell("measure 4294967295 0").starts_with(&unmeasured));
    // 500 MiB estimated, 520 shown.
    tenant.tell(&format!("hold context {}", 500 * MIB));
    world.nvml(&[(0, tenant.pid(), 520 * MIB)]);
    assert_eq!(tenant.tell(&format!("measure 0 {}", 500 * MIB)), format!("0 {} {}", 520 * MIB, 520 * MIB));
    // The estimate is given back now; what is measured stands.
    tenant.tell("hold context 0");
    eventually("520 MiB are shown", || daemon.slice("train").devices[0].used_bytes.unwrap() == 520 * MIB);
    assert_eq!(daemon.slice("train").devices[0].measured_bytes, (520 * MIB) as i64);
    // Memory that NVML does not see does not make up for memory that it does.
    tenant.tell(&format!("hold managed {GIB}"));
    assert_eq!(tenant.tell("measure 0 0"), format!("0 {} {}", 520 * MIB, 520 * MIB));
    // Charged in full: nothing to add.
    tenant.tell(&format!("hold linear {}", 520 * MIB));
    assert_eq!(tenant.tell("measure 0 0"), format!("0 {} 0", 520 * MIB));
}

#[test]
fn the_loop_finds_what_a_process_did_not_charge() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell(&format!("hold linear {GIB}"));
    world.nvml(&[(0, tenant.pid(), GIB + 300 * MIB)]);
    let used = || daemon.slice("train").devices[0].used_bytes.unwrap();
    eventually("300 MiB more are found", || used() == GIB + 300 * MIB);
    // Less than charged: believed only after a second of silence.
    let began = Instant::now();
    world.nvml(&[(0, tenant.pid(), GIB - 100 * MIB)]);
    eventually("100 MiB less are found", || used() == GIB - 100 * MIB);
    assert!(began.elapsed() > Duration::from_millis(500));
    // Not shown at all is not the same as nothing.
    world.nvml(&[]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(used(), GIB - 100 * MIB);
}

#[test]
fn refusals_become_events() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "1GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell(&format!("hold linear {}", 900 * MIB));
    for count in [2, 5, 9] {
        tenant.tell(&format!("deny {count}"));
        std::thread::sleep(Duration::from_millis(250));
    }
    eventually("all are reported", || daemon.events("denied").len() == 2);
    let events = daemon.events("denied");
    assert!(events[0].message.contains("2 allocations"), "{}", events[0].message);
    assert!(events[0].message.contains("900 MiB of 1 GiB in use on GPU 0"), "{}", events[0].message);
    assert!(events[1].message.contains("7 allocations"), "{}", events[1].message);
}

#[test]
fn a_process_that_becomes_another_program_gives_its_slot_back() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell(&format!("hold linear {GIB}"));
    assert_eq!(tenant.tell("exec"), "going");
    eventually("its slot is free", || daemon.slice("train").processes.is_empty());
    assert!(tenant.child.try_wait().unwrap().is_none(), "it lives");
}

#[test]
fn whoever_cuts_the_usage_file_is_seen() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    tenant.tell("cut 0");
    eventually("it is reported", || daemon.events("warning").iter().any(|e| e.message.contains("cut or grew")));
    tenant.tell("cut 1099511627776");
    let usage = daemon.run_dir.join("slices").join(&slice.id).join("usage");
    eventually("it has its size", || fs::metadata(&usage).unwrap().len() == size_of::<cleave_ledger::Usage>() as u64);
}

#[test]
fn what_is_no_message_is_answered_as_such() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let path = daemon.socket(&slice);
    let good = wire::Request { magic: MAGIC, abi: ABI, op: wire::op::REGISTER, device: 0, reserved: 0, argument: 1 };
    let odd = [
        wire::Request { abi: ABI + 1, ..good }.to_bytes().to_vec(),
        wire::Request { magic: 1, ..good }.to_bytes().to_vec(),
        wire::Request { op: 77, ..good }.to_bytes().to_vec(),
        b"x".to_vec(),
        vec![0xff; 33],
        vec![0xff; 60_000],
    ];
    for bytes in odd {
        let link = Link::open(&path).unwrap();
        link.send(&bytes);
        let (reply, fds) = link.reply();
        assert_eq!((reply.status, reply.abi, fds.len()), (wire::status::VERSION, ABI, 0));
    }
    let link = Link::open(&path).unwrap();
    let (reply, _) = link.ask(wire::op::MEASURE, 0, 0);
    assert_eq!(reply.status, wire::status::DENIED, "not registered");
    assert!(daemon.slice("train").processes.is_empty());
}

#[test]
fn only_the_owner_and_root_get_in() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: other users at a slice's socket: this is not root");
        return;
    }
    let world = World::new();
    let daemon = world.start();
    let body = json!({ "name": "theirs", "gpu": "0", "memory": "1GiB", "owner": "4711" });
    let slice: Slice = daemon.ok("POST", "/v1/slices", body);
    assert_eq!(slice.owner.uid, 4711);
    let socket = daemon.socket(&slice);
    // The test program itself may lie where other users can't read: then this can't be tried here.
    if Command::new(std::env::current_exe().unwrap()).arg("--list").uid(4711).stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: other users at a slice's socket: they can't execute this test");
        return;
    }
    let mut stranger = Tenant::start_as(&socket, Some(4712));
    assert_eq!(stranger.tell("register"), format!("status {}", wire::status::DENIED));
    let mut owner = Tenant::start_as(&socket, Some(4711));
    assert_eq!(owner.register(), 0);
    assert_eq!(daemon.slice("theirs").processes[0].uid, Some(4711));

    // On the host nobody gets to the containers' socket.
    let guests = world.path("r/slices").join(&slice.id).join("guest/slice");
    let mut stranger = Tenant::start_as(&guests.join("sock"), Some(4712));
    assert_eq!(stranger.tell("connect"), "Permission denied (os error 13)");
    // Where it was mounted, whoever is there is of the slice; here a descriptor of the folder stands for the mount.
    let folder = rustix::fs::open(&guests, OFlags::PATH, Mode::empty()).unwrap();
    let mut guest = Tenant::start_as(Path::new(&format!("/proc/self/fd/{}/sock", folder.as_raw_fd())), Some(4712));
    assert_eq!(guest.register(), 1);
    let seen = &daemon.slice("theirs").processes[1];
    assert_eq!((seen.pid, seen.uid), (guest.pid(), Some(4712)));
    guest.tell(&format!("hold linear {GIB}"));
    assert_eq!(daemon.slice("theirs").devices[0].used_bytes.unwrap(), GIB);
    drop(guest);
    eventually("its slot is free", || daemon.slice("theirs").processes.len() == 1);
}

#[test]
fn a_full_slice_says_so() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    for slot in 0..cleave_ledger::SLOTS as u32 {
        assert_eq!(tenant.register(), slot);
    }
    assert_eq!(tenant.tell("register"), format!("status {}", wire::status::FULL));
    drop(tenant);
    eventually("all slots are free", || daemon.slice("train").processes.is_empty());
}

#[test]
fn strangers_and_bypasses_are_reported() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "10GiB");
    let mut tenant = Tenant::start(&daemon.socket(&slice));
    tenant.register();
    // A program started in the slice by its environment, one that has nothing to do with it.
    let sleeper = |socket: Option<PathBuf>| {
        let mut command = Command::new("sleep");
        command.arg("1000");
        if let Some(socket) = socket {
            command.env(wire::SOCKET_VARIABLE, socket);
        }
        command.spawn().unwrap()
    };
    let (mut inside, mut outside) = (sleeper(Some(daemon.socket(&slice))), sleeper(None));
    world.nvml(&[(0, inside.id(), GIB), (0, outside.id(), 2 * GIB)]);
    eventually("both are reported", || daemon.events("bypass").len() + daemon.events("untracked").len() == 2);
    let bypass = daemon.events("bypass").remove(0);
    assert_eq!(bypass.slice.as_deref(), Some("train"));
    assert!(bypass.message.contains(&format!("pid {}", inside.id())), "{}", bypass.message);
    assert!(daemon.events("untracked")[0].message.contains("2 GiB"));
    let gpus: List<cleave_api::Gpu> = daemon.ok("GET", "/v1/gpus", Value::Null);
    assert_eq!((gpus.items[0].untracked_bytes, gpus.items[0].reserved_bytes), (3 * GIB, 10 * GIB));
    for child in [&mut inside, &mut outside] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn who_bypasses_a_slice_that_says_so_is_killed() {
    let world = World::new();
    let daemon = world.start();
    let spec = |name, policy| json!({ "name": name, "memory": "10GiB", "on_bypass": policy });
    let strict: Slice = daemon.ok("POST", "/v1/slices", spec("strict", "kill"));
    let lenient: Slice = daemon.ok("POST", "/v1/slices", spec("lenient", "warn"));
    let both = json!({ "name": "both", "memory": "10GiB", "on_bypass": "kill", "on_missing": "allow" });
    let (_, error) = daemon.error("POST", "/v1/slices", both);
    assert!(error.message.contains("exclude each other"), "{error:?}");
    // One that is in the slice, and that the rule is not about.
    let mut tenant = Tenant::start(&daemon.socket(&strict));
    tenant.register();
    let sleeper = |slice: Option<&Slice>| {
        let mut command = Command::new("sleep");
        command.arg("1000");
        if let Some(slice) = slice {
            command.env(wire::SOCKET_VARIABLE, daemon.socket(slice));
        }
        command.spawn().unwrap()
    };
    let (mut doomed, mut warned, mut outside) = (sleeper(Some(&strict)), sleeper(Some(&lenient)), sleeper(None));
    world.nvml(&[(0, doomed.id(), GIB), (0, warned.id(), GIB), (0, outside.id(), GIB), (0, tenant.pid(), GIB)]);
    eventually("the one is killed", || doomed.try_wait().unwrap().is_some());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&doomed.wait().unwrap()), Some(9));
    eventually("all is said", || daemon.events("bypass").len() == 3 && daemon.events("untracked").len() == 1);
    let killed: Vec<_> = daemon.events("bypass").into_iter().filter(|event| event.message.contains("killed")).collect();
    assert_eq!(killed.len(), 1, "{killed:?}");
    assert_eq!(killed[0].slice.as_deref(), Some("strict"));
    assert!(killed[0].message.contains(&format!("pid {}", doomed.id())), "{}", killed[0].message);
    assert!(warned.try_wait().unwrap().is_none() && outside.try_wait().unwrap().is_none());
    assert_eq!(daemon.slice("strict").processes.len(), 1);
    for child in [&mut warned, &mut outside] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
