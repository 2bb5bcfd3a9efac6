//! The watchdog: what processes say of late work becomes warnings, a lower class, a pause, a kill.
use super::turns::{create, enter};
use super::*;

fn kinds(daemon: &Daemon) -> Vec<String> {
    let all = ["watchdog-warned", "watchdog-lowered", "watchdog-paused", "watchdog-killed", "watchdog-ended"];
    let mut events: Vec<Event> = all.iter().flat_map(|kind| daemon.events(kind)).collect();
    events.sort_by_key(|event| event.id);
    events.into_iter().map(|event| event.kind).collect()
}

/// Longer than any rule here, in ns.
const LONG: u64 = 40_000_000_000;

#[test]
fn only_the_process_whose_work_hangs_is_killed() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "a", json!({ "watchdog": "kill:30s" }));
    let other = create(&daemon, "b", json!({}));
    let [mut hangs, mut beside] = [0, 1].map(|_| enter(&daemon, &slice));
    let mut neighbour = enter(&daemon, &other);
    neighbour.tell(&format!("late {} 1", LONG));
    beside.tell(&format!("late {} 1", LONG / 40));
    // Late, but it looks at nothing, and so nobody knows.
    hangs.tell(&format!("late {} 0", LONG));
    eventually("the slices are there", || daemon.slice("a").processes.len() == 2);
    hangs.tell(&format!("late {} 1", LONG));
    let pid = hangs.pid();
    eventually("it is killed", || daemon.slice("a").processes.iter().all(|process| process.pid != pid));
    assert_eq!(daemon.slice("a").processes.len(), 1);
    assert_eq!(daemon.slice("b").processes.len(), 1);
    let events = daemon.events("watchdog-killed");
    assert_eq!(events.len(), 1);
    let message = &events[0].message;
    assert!(
        events[0].slice.as_deref() == Some("a")
            && [&format!("pid {pid}"), "slice a", "GPU 0", "over"].iter().all(|part| message.contains(part)),
        "{message}"
    );
    assert_eq!(kinds(&daemon), ["watchdog-killed"]);
}

#[test]
fn a_slice_is_lowered_until_its_work_ends() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "a", json!({ "watchdog": "lower:30s", "priority": "production" }));
    let mut process = enter(&daemon, &slice);
    let class = || {
        let file = File::open(daemon.run_dir.join("slices").join(&slice.id).join("policy")).unwrap();
        let at = offset_of!(Policy, turns) + offset_of!(cleave_ledger::Turn, class);
        let mut word = [0; 4];
        file.read_exact_at(&mut word, at as u64).unwrap();
        u32::from_ne_bytes(word)
    };
    eventually("it is in its class", || class() == 2);
    process.tell(&format!("late {} 1", LONG));
    eventually("it is lowered", || class() == 0 && daemon.slice("a").lowered);
    process.tell("late 0 1");
    eventually("it is back", || class() == 2 && !daemon.slice("a").lowered);
    assert_eq!(kinds(&daemon), ["watchdog-lowered", "watchdog-ended"]);
    // Without the rule nobody is lowered, and with its process the reason goes.
    process.tell(&format!("late {} 1", LONG));
    eventually("it is lowered again", || class() == 0);
    let changed: Slice = daemon.ok("PATCH", "/v1/slices/a", json!({ "watchdog": "warn:30s" }));
    assert_eq!(changed.watchdog.to_string(), "warn:30s");
    eventually("it is back again", || class() == 2);
}

#[test]
fn a_pause_by_the_watchdog_is_a_pause() {
    let world = World::new();
    let daemon = world.start();
    let slice = create(&daemon, "a", json!({ "watchdog": "pause:30s" }));
    let mut process = enter(&daemon, &slice);
    process.tell(&format!("late {} 1", LONG));
    eventually("it is paused", || daemon.slice("a").paused);
    daemon.crash();
    let daemon = world.start();
    assert!(daemon.slice("a").paused);
    assert_eq!(daemon.slice("a").watchdog.to_string(), "pause:30s");
    let _: Slice = daemon.ok("POST", "/v1/slices/a/resume", Value::Null);
    // The new daemon knows nothing of what was done before, and finds the work late.
    eventually("it is paused again", || daemon.slice("a").paused);
}

#[test]
fn what_is_no_watchdog_is_refused() {
    let world = World::new();
    let daemon = world.start();
    let (status, error) = daemon.error("POST", "/v1/slices", json!({ "memory": "1GiB", "watchdog": "kill:5" }));
    assert_eq!(status, 400);
    assert!(error.message.contains("kill:5"), "{}", error.message);
}
