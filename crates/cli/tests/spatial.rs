//! The spatial engine, whole, on simulated GPUs: slices, the daemon, MPS servers and their clients.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, PATIENCE, Place, kill, number, within};

fn works(held: &mut Held) -> bool {
    held.ask("one 100")["codes"] == serde_json::json!([0, 0])
}

fn create(place: &Place, name: &str, more: &[&str]) {
    place.ok(&[&["slice", "create", "--name", name, "--memory", "4GiB", "--compute", "25%"], more].concat());
}

fn events(place: &Place, kind: &str) -> Vec<String> {
    let events = place.json(&["events"]);
    let of = events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
    of.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

fn ends(held: &mut Held, what: &str) {
    within(PATIENCE, what, || held.child.try_wait().unwrap().is_some());
}

#[test]
fn a_program_has_its_slice_s_part_of_the_multiprocessors_and_of_the_memory() {
    let place = Place::new("1xH100");
    create(&place, "quarter", &["--trust-domain", "team", "--mode", "strict"]);
    create(&place, "serve", &["--trust-domain", "shop", "--priority", "production"]);
    create(&place, "burn", &["--trust-domain", "shop", "--priority", "experiment"]);
    let (mut quarter, pid, init) = place.client("quarter");
    assert_eq!(init["processors"], 32);
    assert_eq!(init["total_mib"], 4096.0);
    let (_serve, _, init) = place.client("serve");
    assert_eq!(init["processors"], 132);
    let (_burn, _, init) = place.client("burn");
    // 98 of 132, as far as they can be cut.
    assert_eq!(init["processors"], 96);
    // The quota holds, and what is charged is what NVML shows.
    assert_eq!(quarter.ask("alloc 3072")["code"], 0);
    assert_eq!(quarter.ask("alloc 1024")["code"], 2);
    let gpu = place.json(&["gpus"]);
    assert_eq!(gpu["items"][0]["untracked_bytes"], 0, "{gpu}");
    assert!(events(&place, "bypass").is_empty() && events(&place, "untracked").is_empty());
    assert!(place.ok(&["ps"]).contains(&pid.to_string()));
    let shown = place.ok(&["slice", "show", "burn", "--explain"]);
    assert!(shown.contains("25 % are kept free"), "{shown}");
}

/// The multiprocessors that a program was given for its own.
fn own(pid: u64) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut all = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    all.find_map(|entry| Some(entry.strip_prefix("CLEAVE_MULTIPROCESSORS=")?.to_owned()))
}

#[test]
fn strict_slices_have_multiprocessors_of_their_own() {
    let place = Place::new("1xH100");
    let strict = |name, share| {
        let slice = ["slice", "create", "--name", name, "--memory", "8GiB", "--compute", share, "--mode", "strict"];
        place.ok(&[&slice[..], &["--trust-domain", "team"]].concat());
    };
    strict("half", "50%");
    strict("third", "30%");
    strict("little", "5%");
    let (mut third, pid, init) = place.client("third");
    assert_eq!((init["processors"].as_u64(), own(pid).as_deref()), (Some(40), Some("500-800")));
    let (mut half, pid, init) = place.client("half");
    assert_eq!((init["processors"].as_u64(), own(pid).as_deref()), (Some(64), Some("0-500")));
    // Less than can be cut: as many, but not certain ones.
    let (mut little, pid, init) = place.client("little");
    assert_eq!((init["processors"].as_u64(), own(pid)), (Some(6), None));
    assert!(works(&mut little));

    // A part is all that a program sees of the device, whatever it asks, and its context looks like the primary one.
    let seen = |held: &mut Held, processors: u64| {
        let part = held.ask("part");
        assert_eq!(part["primary"], serde_json::json!([true, true, true]), "{part}");
        for what in ["device", "context", "beside"] {
            assert_eq!(part[what], processors, "{part}");
        }
        assert!(works(held));
    };
    seen(&mut third, 40);
    seen(&mut half, 64);
    // Also for who makes the primary context current behind its back.
    let past = third.ask("past");
    assert_eq!(past["streams"], serde_json::json!([40, 40]), "{past}");
    assert!(past["codes"].as_array().unwrap().iter().all(|code| number(code) == 0), "{past}");
    let threads = third.ask("threads 8 0.3");
    assert_eq!(threads["wrong"], serde_json::json!([]), "{threads}");
    assert!(threads["rounds"].as_array().unwrap().iter().all(|rounds| number(rounds) > 0), "{threads}");
    // It goes with the last hold on the primary context, and comes with the next one.
    for renew in ["renew", "renew 1"] {
        assert_eq!(third.ask(renew)["active"], 0, "{renew}");
        seen(&mut third, 40);
    }
    // A reset lets no hold go, so there are two now, which are let go one by one.
    assert_eq!(third.ask("let_go")["active"], 1);
    seen(&mut third, 40);
    assert_eq!(third.ask("let_go")["active"], 0);
    assert!(third.ask("init")["error"].is_null() && third.ask("load")["error"].is_null());

    // What a slice has it keeps from program to program, and while other daemons come and go.
    drop(third.child.kill());
    ends(&mut third, "a program ends");
    kill(number(&place.json(&["status"])["pid"]));
    within(PATIENCE, "the daemon is gone", || !place.cleave(&["status"]).output().unwrap().status.success());
    place.ok(&["gpus"]);
    let (mut again, pid, _) = place.client("third");
    assert_eq!(own(pid).as_deref(), Some("500-800"));
    assert!(works(&mut again) && works(&mut half));
    let (_twin, pid, _) = place.client("half");
    assert_eq!(own(pid).as_deref(), Some("0-500"));
}

#[test]
fn an_operator_may_have_parts_by_number() {
    let place = Place::new("1xH100");
    let slice = ["slice", "create", "--name", "half", "--memory", "8GiB", "--compute", "50%", "--mode", "strict"];
    let made = place.cleave(&[&slice[..], &["--trust-domain", "team"]].concat()).env("CLEAVE_PARTS", "number").output();
    assert!(made.unwrap().status.success());
    let (mut half, pid, init) = place.client("half");
    assert_eq!((init["processors"].as_u64(), own(pid)), (Some(66), None));
    assert!(works(&mut half));
    // A context of so few costs less.
    within(PATIENCE, "the charge is right", || place.used("half").0 < 400 << 20);
}

#[test]
fn a_fault_ends_its_trust_domain_only_and_that_serves_again() {
    let place = Place::new("1xH100");
    for name in ["a", "b"] {
        create(&place, name, &["--trust-domain", "team"]);
    }
    create(&place, "far", &["--engine", "spatial"]);
    create(&place, "turns", &[]);
    let (mut culprit, pid, _) = place.client("a");
    let (mut victim, other, _) = place.client("b");
    let (mut far, ..) = place.client("far");
    let (mut turns, ..) = place.client("turns");
    culprit.ask("fault");
    ends(&mut culprit, "the culprit ends");
    ends(&mut victim, "who shares its server ends");
    within(PATIENCE, "the server serves again", || !events(&place, "recovered").is_empty());
    let said = events(&place, "fault").concat();
    assert!(said.contains(&format!("(pid {pid}) of slice a made a fatal GPU error")), "{said}");
    assert!(said.contains(&format!("(pid {other}) of slice b")), "{said}");
    assert!(works(&mut far) && works(&mut turns));
    assert!(works(&mut place.client("b").0));
}

#[test]
fn a_killed_server_is_replaced_also_by_a_new_daemon() {
    let place = Place::new("1xH100");
    create(&place, "a", &["--trust-domain", "team"]);
    // The server, once its log has `client`.
    let server = |client: u64| -> u64 {
        let domain = std::fs::read_dir(place.run_dir().join("mps")).unwrap().next().unwrap().unwrap().path();
        let read = || std::fs::read_to_string(domain.join("log/server.log")).unwrap_or_default();
        within(PATIENCE, "it is connected", || read().contains(&format!("{{PID: {client}, Context ID: 1}} connected")));
        let log = read();
        log.rsplit_once(" Server ").unwrap().1.split(']').next().unwrap().trim().parse().unwrap()
    };
    let (mut one, pid, _) = place.client("a");
    kill(server(pid));
    ends(&mut one, "its program ends");
    within(PATIENCE, "that is told", || events(&place, "recovered").len() == 1);
    let said = events(&place, "fault").concat();
    assert!(said.contains("has ended"), "{said}");

    let (mut two, pid, _) = place.client("a");
    assert!(works(&mut two));
    kill(number(&place.json(&["status"])["pid"]));
    within(PATIENCE, "the daemon is gone", || !place.cleave(&["status"]).output().unwrap().status.success());
    place.ok(&["gpus"]);
    assert!(works(&mut two));
    let before = server(pid);
    let (mut three, pid, _) = place.client("a");
    assert_eq!(server(pid), before);
    kill(before);
    ends(&mut two, "who was there before the daemon ends");
    ends(&mut three, "who came after ends");
    within(PATIENCE, "that is told", || events(&place, "recovered").len() == 2);
    assert!(works(&mut place.client("a").0));
}
