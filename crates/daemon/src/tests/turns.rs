//! Turns: what processes say that they do becomes grants.
use super::*;
use cleave_ledger::Turn;
use cleave_policy::gate::{self, Grant, Mode, Verdict};

/// The grant of a slice on its first device, as its processes see it.
fn grant(daemon: &Daemon, slice: &Slice) -> Grant {
    read_grant(&File::open(daemon.run_dir.join("slices").join(&slice.id).join("policy")).unwrap())
}

/// Plays a gate before a program that always has work. `at` = where its activity lies.
pub fn saturate(link: &Link, policy: &File, usage: &File, at: u64) {
    const PIECE: u64 = 1_000_000;
    let mut work = [0u64; 5];
    loop {
        let now = crate::turns::clock();
        let grant = read_grant(policy);
        let [charged, busy_until, last_launch, _, waiting] = &mut work;
        let verdict = gate::admit(now, &grant, *busy_until, PIECE, 0);
        *waiting = u64::from(verdict != Verdict::Go);
        if verdict == Verdict::Go {
            (*charged, *busy_until, *last_launch) = (*charged + PIECE, now.max(*busy_until) + PIECE, now);
        }
        usage.write_all_at(&work.map(u64::to_ne_bytes).concat(), at).unwrap();
        if verdict == Verdict::WaitForChange && grant.flags & gate::QUIET == 0 {
            link.ring();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A word of the turns on the first device.
fn turn_word(policy: &File, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    policy.read_exact_at(&mut bytes, (offset_of!(Policy, turns) + offset) as u64).unwrap();
    u64::from_ne_bytes(bytes)
}

fn read_grant(file: &File) -> Grant {
    let word = |offset: usize| turn_word(file, offset);
    loop {
        let version = word(offset_of!(Turn, version)) as u32;
        let words = [0, 8, 16].map(|at| word(offset_of!(Turn, words) + at));
        if version & 1 == 0 && word(offset_of!(Turn, version)) as u32 == version {
            return Grant::from_words(words);
        }
    }
}

pub fn create(daemon: &Daemon, name: &str, more: Value) -> Slice {
    let mut body = json!({ "name": name, "gpu": "0", "memory": "1GiB" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    daemon.ok("POST", "/v1/slices", body)
}

pub fn enter(daemon: &Daemon, slice: &Slice) -> Tenant {
    let mut tenant = Tenant::start(&daemon.socket(slice));
    tenant.register();
    tenant
}

#[test]
fn who_rings_gets_the_gpu_and_two_take_turns() {
    let world = World::new();
    let daemon = world.start();
    let slices = [("a", "30%"), ("b", "70%")].map(|(name, share)| create(&daemon, name, json!({ "compute": share })));
    let [mut a, mut b] = [0, 1].map(|at| enter(&daemon, &slices[at]));
    let mode = |at: usize| grant(&daemon, &slices[at]).mode;

    // Nobody looks before somebody rings.
    a.tell("work 0 0 1");
    assert_eq!((mode(0), mode(1)), (Mode::Closed, Mode::Closed));
    assert_eq!(daemon.slice("a").devices[0].time.waiting, 1);
    a.tell("ring 0");
    eventually("a has the GPU", || mode(0) == Mode::Lease);
    assert_eq!(mode(1), Mode::Closed);

    a.tell("saturate");
    b.tell("saturate");
    for _ in 0..3 {
        for at in [1, 0] {
            let began = grant(&daemon, &slices[at]).from;
            eventually("each has another turn", || {
                let grant = grant(&daemon, &slices[at]);
                grant.mode == Mode::Window && grant.from > began
            });
        }
    }

    drop(a);
    eventually("b has the GPU alone", || mode(1) == Mode::Lease);
    a = enter(&daemon, &slices[0]);
    a.tell("saturate");
    eventually("they take turns again", || mode(1) == Mode::Window);
    drop(b);
    eventually("a has the GPU alone", || mode(0) == Mode::Lease);
}

/// What a slice's processes do on a GPU that they don't have, or in a slot that they don't have, moves nobody.
#[test]
fn a_ring_for_nothing_is_none() {
    let world = World::new();
    let daemon = world.start();
    let slice = daemon.create("train", "1GiB");
    let mut tenant = enter(&daemon, &slice);
    for device in ["1", "16", "4294967295"] {
        tenant.tell(&format!("ring {device}"));
    }
    // By a connection that has not registered.
    let link = Link::open(&daemon.socket(&slice)).unwrap();
    link.say(wire::op::RING, 0, 0);
    assert_eq!(link.ask(wire::op::MEASURE, 0, 0).0.status, wire::status::DENIED);
    tenant.tell("work 18446744073709551615 9223372036854775807 18446744073709551615");
    tenant.tell("ring 0");
    eventually("it has the GPU", || grant(&daemon, &slice).mode == Mode::Lease);
}

#[test]
fn a_restarted_daemon_goes_on_sharing() {
    let world = World::new();
    let daemon = world.start();
    let slices = ["a", "b"].map(|name| create(&daemon, name, json!({})));
    let mut tenants = [0, 1].map(|at| enter(&daemon, &slices[at]));
    for tenant in &mut tenants {
        tenant.tell("saturate");
    }
    let turns = |daemon: &Daemon| {
        for slice in &slices {
            let began = grant(daemon, slice).from;
            eventually("each has another turn", || {
                let grant = grant(daemon, slice);
                grant.mode == Mode::Window && grant.from > began
            });
        }
    };
    turns(&daemon);
    daemon.crash();
    // Nobody rings: the new one looks by itself.
    turns(&world.start());
}

/// A process that registered with the daemon before rings the new one.
#[test]
fn a_ring_is_heard_by_the_next_daemon_and_one_that_ends_says_so() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "train", json!({}));
    let mut tenant = enter(&daemon, &slice);
    tenant.tell("work 0 0 0");
    daemon.crash();
    let daemon = world.start();
    assert_eq!(grant(&daemon, &slice).mode, Mode::Closed);
    tenant.tell("work 0 0 1");
    tenant.tell("reconnect");
    tenant.tell("ring 0");
    eventually("it has the GPU", || grant(&daemon, &slice).mode == Mode::Lease);

    let policy = File::open(daemon.run_dir.join("slices").join(&slice.id).join("policy")).unwrap();
    let looked = || turn_word(&policy, offset_of!(Turn, looked));
    assert_ne!(looked(), 0);
    daemon.stop();
    assert_eq!(looked(), 0);
}

#[test]
fn the_page_of_urgency_can_be_written_but_neither_cut_nor_grown() {
    let world = World::new();
    let daemon = world.start();
    let mut tenants = ["a", "b"].map(|name| enter(&daemon, &create(&daemon, name, json!({}))));
    for tenant in &mut tenants {
        assert_eq!(tenant.tell("urgency"), "written true, 1, grown false, cut false, sealed false");
    }
}

#[test]
fn a_paused_slice_is_closed_until_it_is_resumed() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "train", json!({}));
    let mut tenant = enter(&daemon, &slice);
    let mode = |daemon: &Daemon| grant(daemon, &slice).mode;
    tenant.tell("work 0 0 1");
    tenant.tell("ring 0");
    eventually("it runs", || mode(&daemon) == Mode::Lease);
    let paused: Slice = daemon.ok("POST", "/v1/slices/train/pause", Value::Null);
    assert_eq!((paused.paused, mode(&daemon)), (true, Mode::Paused));
    let _: Slice = daemon.ok("POST", "/v1/slices/train/pause", Value::Null);

    // It stays so for those who come, for a new daemon, and whoever rings.
    let _late = enter(&daemon, &slice);
    assert_eq!(mode(&daemon), Mode::Paused);
    daemon.crash();
    let daemon = world.start();
    assert!(daemon.slice("train").paused);
    assert_eq!(mode(&daemon), Mode::Paused);

    let resumed: Slice = daemon.ok("POST", "/v1/slices/train/resume", Value::Null);
    assert_eq!((resumed.paused, mode(&daemon)), (false, Mode::Lease));
    assert_eq!((daemon.events("slice-paused").len(), daemon.events("slice-resumed").len()), (1, 1));
    assert_eq!(daemon.error("POST", "/v1/slices/nope/pause", Value::Null).0, 404);
}

#[test]
fn what_a_slice_is_entitled_to_changes_at_once() {
    let world = World::new();
    let daemon = world.start();
    let a = create(&daemon, "a", json!({ "compute": "20%", "mode": "adaptive", "priority": "production" }));
    let b = create(&daemon, "b", json!({}));
    assert_eq!((a.mode.to_string(), a.priority.to_string()), ("adaptive".into(), "production".into()));
    assert_eq!((b.mode.to_string(), b.priority.to_string()), ("balanced".into(), "staging".into()));
    let mut tenants = [&a, &b].map(|slice| enter(&daemon, slice));
    for tenant in &mut tenants {
        tenant.tell("work 0 0 1");
        tenant.tell("ring 0");
    }
    // Classes apart: each has its own lease, and the lower one gives way at its gates.
    eventually("both have a lease", || [&a, &b].iter().all(|slice| grant(&daemon, slice).mode == Mode::Lease));
    assert_ne!(grant(&daemon, &b).flags & cleave_policy::gate::YIELD, 0);
    // The same class: they take turns.
    let change = |what: Value| daemon.ok::<Slice>("PATCH", "/v1/slices/a", what);
    change(json!({ "priority": "1" }));
    let turns = |slice: &Slice| grant(&daemon, slice).mode;
    assert!(turns(&a) != Mode::Lease && turns(&b) != Mode::Lease);
    // Never held back.
    change(json!({ "mode": "none" }));
    assert_eq!((turns(&a), turns(&b)), (Mode::Lease, Mode::Lease));
    let strict = change(json!({ "mode": "strict", "burst_ms": 30 }));
    assert_eq!(strict.burst_ms, Some(30));
    daemon.crash();
    let daemon = world.start();
    let read = daemon.slice("a");
    assert_eq!((read.mode, read.priority, read.burst_ms), (strict.mode, strict.priority, Some(30)));
    assert_eq!(daemon.events("slice-resized").len(), 3);
}

#[test]
fn a_death_does_not_make_device_time_go_back() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "train", json!({ "compute": "25%" }));
    let time = |daemon: &Daemon| daemon.slice("train").devices[0].time.clone();
    assert_eq!((time(&daemon).share_percent, time(&daemon).last_1s), (Some(25.0), None));
    let [mut stays, mut leaves] = [0, 1].map(|_| enter(&daemon, &slice));
    stays.tell("work 7000000000 0 0");
    leaves.tell("work 5000000000 0 0");
    assert_eq!(time(&daemon).device_ns, 12_000_000_000);
    // Work that will never be done: it is not counted however long its slot is kept.
    leaves.tell("work 65000000000 9000000000 0");
    let pid = leaves.pid();
    world.nvml(&[(0, pid, GIB)]);
    let shown = time(&daemon);
    assert!(shown.in_flight_ns > 0 && shown.device_ns < 65_000_000_000);
    drop(leaves);
    let mut least = shown.device_ns;
    let mut never_less = || {
        let now = time(&daemon).device_ns;
        assert!(now >= least, "{now} after {least}");
        least = now;
    };
    eventually("it is dead", || {
        never_less();
        daemon.slice("train").processes[1].state == "exiting"
    });
    let at_death = time(&daemon).device_ns;
    world.nvml(&[]);
    eventually("its slot is free", || {
        never_less();
        daemon.slice("train").processes.len() == 1
    });
    assert_eq!(time(&daemon).device_ns, at_death);
    drop(stays);
    eventually("nothing runs", || daemon.slice("train").processes.is_empty());
    assert_eq!((time(&daemon).device_ns, time(&daemon).in_flight_ns), (at_death, 0));
    daemon.crash();
    let daemon = world.start();
    assert_eq!(time(&daemon).device_ns, at_death, "it is kept");
}

#[test]
fn why_a_slice_runs_as_it_does() {
    let world = World::new();
    let daemon = world.start();
    let slices = [("a", "30%"), ("b", "50%")].map(|(name, share)| create(&daemon, name, json!({ "compute": share })));
    let explain = |name: &str| -> cleave_api::DeviceExplanation {
        let path = format!("/v1/slices/{name}/explain");
        daemon.ok::<cleave_api::Explanation>("GET", &path, Value::Null).devices.remove(0)
    };
    let kinds = |name: &str| -> Vec<cleave_api::ReasonKind> { explain(name).reasons.iter().map(|r| r.kind).collect() };
    assert_eq!(kinds("a"), [cleave_api::ReasonKind::NoProcess]);
    let [mut a, mut b] = [0, 1].map(|at| enter(&daemon, &slices[at]));
    a.tell("work 0 0 1");
    a.tell("ring 0");
    eventually("a is alone", || kinds("a").contains(&cleave_api::ReasonKind::Alone));
    b.tell("work 0 0 1");
    b.tell("ring 0");
    eventually("they take turns", || kinds("a").contains(&cleave_api::ReasonKind::TakesTurns));
    let shown = explain("a");
    assert_eq!((shown.gpu, shown.engine.to_string().as_str(), shown.share_percent), (0, "temporal", Some(30.0)));
    assert_eq!(shown.neighbours.len(), 1);
    assert_eq!((shown.neighbours[0].slice.as_deref(), shown.neighbours[0].at_work), (Some("b"), true));
    let taken = shown.reasons.iter().find(|r| r.kind == cleave_api::ReasonKind::TakesTurns).unwrap();
    assert!(taken.message.contains("b (50 %)") && taken.message.contains("37.5 %"), "{}", taken.message);
    let _: Slice = daemon.ok("POST", "/v1/slices/b/pause", Value::Null);
    assert_eq!(kinds("b"), [cleave_api::ReasonKind::Paused]);
    assert_eq!(explain("b").turn, Some(cleave_api::TurnKind::Paused));
    eventually("a is alone again", || kinds("a").contains(&cleave_api::ReasonKind::Alone));
}
