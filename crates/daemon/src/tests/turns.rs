//! Turns: what processes say that they do becomes grants.
use super::*;
use cleave_ledger::Turn;
use cleave_policy::gate::{Grant, Mode};

/// The grant of a slice on its first device, as its processes see it.
fn grant(daemon: &Daemon, slice: &Slice) -> Grant {
    let file = File::open(daemon.run_dir.join("slices").join(&slice.id).join("policy")).unwrap();
    let word = |offset: usize| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, (offset_of!(Policy, turns) + offset) as u64).unwrap();
        u64::from_ne_bytes(bytes)
    };
    loop {
        let version = word(offset_of!(Turn, version)) as u32;
        let words = [0, 8, 16].map(|at| word(offset_of!(Turn, words) + at));
        if version & 1 == 0 && word(offset_of!(Turn, version)) as u32 == version {
            return Grant::from_words(words);
        }
    }
}

fn create(daemon: &Daemon, name: &str, more: Value) -> Slice {
    let mut body = json!({ "name": name, "gpu": "0", "memory": "1GiB" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    daemon.ok("POST", "/v1/slices", body)
}

fn enter(daemon: &Daemon, slice: &Slice) -> Tenant {
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
    a.tell("ring 0");
    eventually("a has the GPU", || mode(0) == Mode::Lease);
    assert_eq!(mode(1), Mode::Closed);

    b.tell("work 0 0 1");
    b.tell("ring 0");
    for _ in 0..3 {
        for at in [1, 0] {
            let began = grant(&daemon, &slices[at]).from;
            eventually("each has another turn", || {
                let grant = grant(&daemon, &slices[at]);
                grant.mode == Mode::Window && grant.from > began
            });
        }
    }

    a.tell("work 0 0 0");
    eventually("b has the GPU alone", || mode(1) == Mode::Lease);
    drop(b);
    a.tell("work 0 0 1");
    a.tell("ring 0");
    eventually("a has it again", || mode(0) == Mode::Lease);
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
        tenant.tell("work 0 0 1");
        tenant.tell("ring 0");
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

#[test]
fn the_page_of_urgency_can_be_written_but_neither_cut_nor_grown() {
    let world = World::new();
    let daemon = world.start();
    let mut tenants = ["a", "b"].map(|name| enter(&daemon, &create(&daemon, name, json!({}))));
    for tenant in &mut tenants {
        assert_eq!(tenant.tell("urgency"), "written true, 1, grown false, cut false, sealed false");
    }
}
