//! The spatial engine, whole, on simulated GPUs: slices, the daemon, MPS servers and their clients.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, PATIENCE, Place, kill, number, within};
use serde_json::Value;
use std::path::Path;

/// A program of `tests/gpu/mps_facts.py` in a slice, with a context and kernels, and its process id.
fn start(place: &Place, slice: &str) -> (Held, u64, Value) {
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu/mps_facts.py");
    let mut held = place.start(slice, &["python3", client.to_str().unwrap(), "client"]);
    let pid = number(&held.line()["pid"]);
    let init = held.ask("init");
    assert!(init["error"].is_null(), "{init}");
    let load = held.ask("load");
    assert!(load["error"].is_null(), "{load}");
    (held, pid, init)
}

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
    let (mut quarter, pid, init) = start(&place, "quarter");
    assert_eq!(init["processors"], 32);
    assert_eq!(init["total_mib"], 4096.0);
    let (_serve, _, init) = start(&place, "serve");
    assert_eq!(init["processors"], 132);
    let (_burn, _, init) = start(&place, "burn");
    assert_eq!(init["processors"], 98);
    // The quota holds, and what is charged is what NVML shows: a context of a part costs less.
    assert_eq!(quarter.ask("alloc 3072")["code"], 0);
    assert_eq!(quarter.ask("alloc 1024")["code"], 2);
    within(PATIENCE, "the charge is right", || place.used("quarter").0 < (3072 + 200) << 20);
    let gpu = place.json(&["gpus"]);
    assert_eq!(gpu["items"][0]["untracked_bytes"], 0, "{gpu}");
    assert!(events(&place, "bypass").is_empty() && events(&place, "untracked").is_empty());
    assert!(place.ok(&["ps"]).contains(&pid.to_string()));
    let shown = place.ok(&["slice", "show", "burn", "--explain"]);
    assert!(shown.contains("25 % are kept free"), "{shown}");
}

#[test]
fn a_fault_ends_its_trust_domain_only_and_that_serves_again() {
    let place = Place::new("1xH100");
    for name in ["a", "b"] {
        create(&place, name, &["--trust-domain", "team"]);
    }
    create(&place, "far", &["--engine", "spatial"]);
    create(&place, "turns", &[]);
    let (mut culprit, pid, _) = start(&place, "a");
    let (mut victim, other, _) = start(&place, "b");
    let (mut far, ..) = start(&place, "far");
    let (mut turns, ..) = start(&place, "turns");
    culprit.ask("fault");
    ends(&mut culprit, "the culprit ends");
    ends(&mut victim, "who shares its server ends");
    within(PATIENCE, "the server serves again", || !events(&place, "recovered").is_empty());
    let said = events(&place, "fault").concat();
    assert!(said.contains(&format!("(pid {pid}) of slice a made a fatal GPU error")), "{said}");
    assert!(said.contains(&format!("(pid {other}) of slice b")), "{said}");
    assert!(works(&mut far) && works(&mut turns));
    assert!(works(&mut start(&place, "b").0));
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
    let (mut one, pid, _) = start(&place, "a");
    kill(server(pid));
    ends(&mut one, "its program ends");
    within(PATIENCE, "that is told", || events(&place, "recovered").len() == 1);
    let said = events(&place, "fault").concat();
    assert!(said.contains("has ended"), "{said}");

    let (mut two, pid, _) = start(&place, "a");
    assert!(works(&mut two));
    kill(number(&place.json(&["status"])["pid"]));
    within(PATIENCE, "the daemon is gone", || !place.cleave(&["status"]).output().unwrap().status.success());
    place.ok(&["gpus"]);
    assert!(works(&mut two));
    let before = server(pid);
    let (mut three, pid, _) = start(&place, "a");
    assert_eq!(server(pid), before);
    kill(before);
    ends(&mut two, "who was there before the daemon ends");
    ends(&mut three, "who came after ends");
    within(PATIENCE, "that is told", || events(&place, "recovered").len() == 2);
    assert!(works(&mut start(&place, "a").0));
}
