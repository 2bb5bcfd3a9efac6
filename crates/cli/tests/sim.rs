//! The whole of it, on simulated GPUs: command line, daemon, stand-in, driver.
#[path = "support/place.rs"]
mod place;
mod support;

use place::Place;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::stderr;

const BINARY: &str = env!("CARGO_BIN_EXE_cleave");

fn last_report(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A program sees a card of at most the quota's size, is refused above it, and goes on.
#[test]
fn a_program_is_held_to_its_quota_and_goes_on() {
    for hold in ["environment", "auto"] {
        let place = Place::new("1xH100");
        let tenant = ["--", BINARY, "internal-tenant", "--mode", "grow", "--iterations", "3", "--pause-ms", "1"];
        let out = place.ok(&[&["run", "--memory", "10GiB", "--hold", hold], &tenant[..]].concat());
        let report = last_report(&out);
        assert_eq!(report["finished"], true, "{out}");
        assert!(report["out_of_memory"].as_u64().unwrap() > 0);
        let card = report["card_bytes"].as_u64().unwrap();
        assert!(card <= 10 << 30 && card > 9 << 30, "{card}");
    }
}

#[test]
fn the_slice_goes_with_its_program_and_the_private_daemon_after_it() {
    let place = Place::new("1xH100");
    let output = place.cleave(&["run", "-m", "1GiB", "--", "sh", "-c", "kill -9 $$"]).output().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{}", stderr(&output));
    assert!(place.slices().is_empty());
    let started = Instant::now();
    while place.cleave(&["status"]).output().unwrap().status.success() {
        assert!(started.elapsed() < Duration::from_secs(20), "the private daemon does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!place.run_dir().join("api.sock").exists());
}

/// `kill -9` of `cleave run` itself: its program goes on in its slice, and the slice goes with the program.
#[test]
fn a_killed_cleave_leaves_no_slice_behind() {
    let place = Place::new("1xH100");
    let tenant = [BINARY, "internal-tenant", "--mode", "steady", "--iterations", "10", "--pause-ms", "50"];
    let mut child =
        place.cleave(&[&["run", "-m", "16GiB", "--"], &tenant[..]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("running"))).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let last = lines.map_while(Result::ok).last().unwrap();
    assert_eq!(last_report(&last)["finished"], true);
    let started = Instant::now();
    while place.cleave(&["status"]).output().unwrap().status.success() && !place.slices().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is refused is refused to `run` as well, and given only to who asks for too much in so many words.
#[test]
fn a_full_card_is_oversubscribed_on_demand_only() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "100%"]);
    for arguments in [&["slice", "create", "--memory", "1%"][..], &["run", "--memory", "1%", "--", "true"]] {
        let said = place.fails(3, arguments);
        assert!(said.contains("--oversubscribe") && said.contains(" left of "), "{said}");
    }
    assert_eq!(place.slices().len(), 1);
    place.ok(&["slice", "create", "--memory", "1%", "--oversubscribe", "1.01", "--name", "more"]);
    assert_eq!(place.show("more")["overcommitted"], true);
    let said = place.fails(3, &["slice", "create", "--memory", "50%", "--oversubscribe", "1.5"]);
    assert!(
        said.contains("oversubscribed") && said.contains("sum up to") && said.contains("ask for at most"),
        "{said}"
    );
    assert!(place.ok(&["slice", "list"]).lines().filter(|line| line.contains("overcommitted")).count() == 2);
    assert!(place.ok(&["gpus"]).contains("GPU 0 is overcommitted: the quotas sum up to"));
    assert_eq!(place.json(&["gpus"])["items"][0]["overcommitted"], true);
    let page = place.ok(&["metrics"]);
    for line in ["cleave_gpu_overcommitted{gpu=\"0\"} 1", "cleave_slice_overcommitted{slice=\"more\"} 1"] {
        assert!(page.lines().any(|other| other == line), "{line}: {page}");
    }
    let ratio = page.lines().find_map(|line| line.strip_prefix("cleave_gpu_memory_committed_ratio{gpu=\"0\"} "));
    let ratio: f64 = ratio.unwrap().parse().unwrap();
    assert!((1.009..=1.01).contains(&ratio), "{ratio}");
    assert!(place.ok(&["top", "--once"]).contains("overcommitted"));
    assert!(place.ok(&["slice", "show", "more"]).contains("overcommitted"));
    assert!(
        place
            .ok(&["slice", "show", "more", "--explain"])
            .contains("is refused memory although its slice has some left")
    );
    let said = place.cleave(&["slice", "create", "--oversubscribe", "0.5"]).output().unwrap();
    assert!(support::stderr(&said).contains("\"0.5\" is no factor"));
    // What is resized is held to it as well.
    assert!(place.fails(3, &["slice", "resize", "more", "--memory", "60%"]).contains("sum up to"));
    place.ok(&["slice", "resize", "more", "--memory", "60%", "--oversubscribe", "2"]);
}

/// A daemon may have a factor of its own, which a slice's own factor replaces.
#[test]
fn a_daemon_may_oversubscribe_by_default() {
    let place = Place::new("1xH100");
    let mut daemon = place.cleave(&["daemon", "--oversubscribe", "1.5"]).spawn().unwrap();
    place::within(place::PATIENCE, "the daemon", || place.cleave(&["status"]).output().unwrap().status.success());
    place.ok(&["slice", "create", "a", "--memory", "100%"]);
    place.ok(&["slice", "create", "b", "--memory", "50%"]);
    assert!(place.fails(3, &["slice", "create", "--memory", "1%"]).contains("oversubscribed"));
    assert!(place.fails(3, &["slice", "create", "--memory", "1%", "--oversubscribe", "1"]).contains("0 B left"));
    place.ok(&["slice", "create", "--memory", "1%", "--oversubscribe", "1.6"]);
    place.ok(&["shutdown"]);
    daemon.wait().unwrap();
}

/// A24.
#[test]
fn one_gpu_is_advertised_as_many() {
    let place = Place::new("1xH100");
    let made = place.ok(&["slice", "create", "rep", "--count", "20"]);
    assert!(made.contains("created 20 slices rep-0 to rep-19"), "{made}");
    let slices = place.slices();
    let names: std::collections::BTreeSet<&str> = slices.iter().map(|slice| slice["name"].as_str().unwrap()).collect();
    assert_eq!((slices.len(), names.len()), (20, 20));
    for slice in &slices {
        let quota = &slices[0]["devices"][0]["limit_bytes"];
        assert_eq!((&slice["devices"][0]["limit_bytes"], &slice["compute_percent"]), (quota, &serde_json::Value::Null));
        assert_eq!(slice["overcommitted"], false);
    }
    let gpu = &place.json(&["gpus"])["items"][0];
    assert_eq!((&gpu["slice_count"], gpu["slices"].as_array().unwrap().len()), (&20.into(), 20));
    assert!(place.ok(&["gpus"]).contains("20: rep-0,"));
    // None of the next ones is made: one name is taken, or they do not fit.
    place.ok(&["slice", "delete", "rep-0", "rep-1"]);
    assert!(place.fails(5, &["slice", "create", "rep", "--count", "3"]).contains("\"rep-2\""));
    let said = place.fails(3, &["slice", "create", "more", "--count", "9", "--memory", "2GiB"]);
    assert!(said.contains("9 slices asked of GPU 0, 3 fit: its memory is the tightest"), "{said}");
    let said = place.fails(3, &["slice", "create", "more", "--count", "9", "--memory", "600MiB", "--compute", "20%"]);
    assert!(said.contains("5 fit: its compute is the tightest"), "{said}");
    assert_eq!(place.slices().len(), 18);
    let dry = place.json(&["slice", "create", "more", "--count", "3", "--memory", "2GiB", "--dry-run"]);
    assert_eq!((dry["items"].as_array().unwrap().len(), place.slices().len()), (3, 18));
    let all: Vec<String> = place.slices().iter().map(|slice| slice["name"].as_str().unwrap().to_owned()).collect();
    place.ok(&[&["slice", "delete"][..], &all.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert!(place.cleave(&["status"]).output().unwrap().status.code() != Some(0) || place.slices().is_empty());
}

#[test]
fn bad_requests_leave_nothing_half_made() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "a"]);
    place.fails(4, &["slice", "create", "--memory", "1GiB", "--gpu", "9"]);
    place.fails(4, &["run", "--memory", "1GiB", "--gpu", "GPU-00000000-0000-0000-0000-000000000000", "--", "true"]);
    place.fails(3, &["slice", "create", "--memory", "90GiB"]);
    place.fails(5, &["slice", "create", "--memory", "1GiB", "--name", "a"]);
    place.fails(1, &["slice", "create", "--memory", "1GiB", "--name", "No Such Name"]);
    place.fails(4, &["slice", "show", "b"]);
    place.fails(4, &["slice", "delete", "b"]);
    assert!(place.cleave(&["slice", "create", "--memory", "1MiB"]).output().unwrap().status.code() != Some(0));
    assert_eq!(place.slices().len(), 1);
}

#[test]
fn what_can_not_be_simulated_is_named() {
    let place = Place::new("1xNoSuchCard");
    let said = place.fails(1, &["gpus"]);
    assert!(said.contains("NoSuchCard"), "{said}");
}

/// Each GPU can run what it can, a slice gets what fits, and what can't be had is refused.
#[test]
fn engines_follow_what_each_gpu_can() {
    let place = Place::new("H100+4090+K80");
    let modes = place.json(&["modes"]);
    let mut all = Vec::new();
    for gpu in modes["items"].as_array().unwrap() {
        let engines = gpu["engines"].as_array().unwrap().iter();
        let can: Vec<&str> =
            engines.clone().filter(|e| e["available"] == true).map(|e| e["engine"].as_str().unwrap()).collect();
        let why: Vec<&str> = engines.filter_map(|e| e["reason"].as_str()).collect();
        all.push((gpu["compute_capability"].as_str().unwrap(), can.join(" "), why.join("; ")));
    }
    let expected = [
        ("9.0", "spatial temporal", "MIG mode is off"),
        ("8.9", "spatial temporal", "this model has no MIG"),
        ("3.7", "temporal", "this model has no MIG; its compute capability is 3.7"),
    ];
    for ((capability, can, why), (of, engines, part)) in all.iter().zip(expected) {
        assert!(*capability == of && can == engines && why.contains(part), "{all:?}");
    }
    assert!(place.ok(&["modes"]).contains("WHY NOT"));
    // A1 and G12: the same is told of a saved inventory, where no daemon is.
    let file = place.dir.path().join("node.yaml").display().to_string();
    place.ok(&["gpus", "--save", &file]);
    let mut alone = support::cleave(&place.dir.path().join("nowhere"));
    let output = alone.args(["modes", "--inventory", &file, "-o", "json"]).output().unwrap();
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read, modes);
    let live: Vec<(&str, bool)> = (modes["items"][0]["migration"].as_array().unwrap().iter())
        .map(|one| (one["way"].as_str().unwrap(), one["live"].as_bool().unwrap()))
        .collect();
    assert_eq!(live, [("temporal", false), ("spatial", false), ("vgpu", true), ("passthrough", false)]);

    let asked = ["slice", "create", "--dry-run", "--memory", "8GiB", "--compute", "25%"];
    for (more, engine) in [
        (&["--gpu", "0", "--trust-domain", "team"][..], "spatial"),
        (&["--gpu", "1", "--trust-domain", "team"], "spatial"),
        (&["--gpu", "2", "--trust-domain", "team"], "temporal"),
        (&["--gpu", "0"], "temporal"),
        (&["--gpu", "0", "--engine", "spatial"], "spatial"),
        (&["--gpu", "0", "--trust-domain", "team", "--engine", "temporal"], "temporal"),
        (&["--gpu", "0,1", "--trust-domain", "team"], "temporal"),
    ] {
        let shown = place.json(&[&asked[..], more].concat());
        assert_eq!(shown["engine"], engine, "{more:?}: {shown}");
    }
    for (more, part) in [
        (&["--gpu", "2", "--engine", "spatial"][..], "compute capability is 3.7"),
        (&["--gpu", "0", "--engine", "mig"], "MIG mode is off"),
        (&["--gpu", "1", "--engine", "mig"], "no MIG"),
        (&["--gpu", "0,1", "--engine", "spatial"], "2 GPUs"),
    ] {
        let said = place.fails(3, &[&asked[..], more].concat());
        assert!(said.contains(part), "{said}");
    }
    assert!(place.slices().is_empty());
    // Of any, one that can: the K80 has as much room as the others.
    place.ok(&["slice", "create", "--name", "a", "--memory", "1GiB", "--engine", "spatial", "--compute", "25%"]);
    let shown = place.ok(&["slice", "show", "a", "--explain"]);
    assert!(shown.contains("it is spatial: it was asked for"), "{shown}");
}

/// The id is as good as the name.
#[test]
fn a_slice_is_known_by_its_id() {
    let place = Place::new("8xH100");
    place.ok(&["slice", "create", "--fraction", "1/4", "--gpu", "3", "--name", "a"]);
    let slice = place.json(&["slice", "show", "a"]);
    let id = slice["id"].as_str().unwrap();
    assert!(id.starts_with("SLICE-"));
    assert_eq!(place.json(&["slice", "show", id])["name"], "a");
    assert_eq!(slice["devices"][0]["gpu"], 3);
    assert!(place.json(&["cdi", "a"])["cdiVersion"].is_string());
    assert!(place.ok(&["env", id]).contains("export LD_PRELOAD="));
    place.ok(&["slice", "delete", id]);
    assert!(place.slices().is_empty());
    assert!(place.json(&["events"])["items"].as_array().unwrap().iter().any(|e| e["kind"] == "slice-deleted"));
}

#[test]
fn everything_shown_has_its_schema() {
    let place = Place::new("8xH100");
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "a"]);
    for (arguments, schema) in [
        (&["gpus"][..], "gpus"),
        (&["slice", "list"], "slices"),
        (&["slice", "show", "a"], "slice"),
        (&["ps"], "processes"),
        (&["status"], "status"),
        (&["events"], "events"),
        (&["top", "--once"], "top"),
        (&["env", "a"], "environment"),
        (&["licenses"], "licenses"),
    ] {
        let value = place.json(arguments);
        assert_eq!(value["schema"], format!("cleave.dev/v1/{schema}"), "{arguments:?}");
        let table = place.ok(arguments);
        assert!(!table.is_empty() && !table.contains('\x1b'), "{table}");
        let yaml = place.ok(&[&["-o", "yaml"], arguments].concat());
        assert!(yaml.starts_with("schema: "), "{yaml}");
    }
    assert_eq!(place.json(&["gpus"])["items"].as_array().unwrap().len(), 8);
    assert!(place.json(&["openapi"])["openapi"].is_string());
}

/// One that starts while its predecessor ends waits for it.
#[test]
fn a_daemon_that_just_ends_is_no_obstacle() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "1GiB", "--name", "a"]);
    // Somebody who is in the middle of asking keeps it for a while.
    let mut asking = std::os::unix::net::UnixStream::connect(place.run_dir().join("api.sock")).unwrap();
    asking.write_all(b"GET /v1/sta").unwrap();
    place.ok(&["shutdown"]);
    assert_eq!(place.json(&["gpus"])["items"].as_array().unwrap().len(), 1);
    assert_eq!(place.slices().len(), 1);
    drop(asking);
}

/// Two that start at once share one daemon.
#[test]
fn daemons_started_at_once_do_not_fight() {
    let place = Place::new("1xH100");
    let children: Vec<_> = (0..4)
        .map(|_| place.cleave(&["run", "-m", "1GiB", "--", "sleep", "1"]).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

/// The main job: one tenant of three is refused, the others notice nothing.
#[test]
fn the_demo_passes() {
    let place = Place::new("1xH100");
    let started = Instant::now();
    let outcome = place.json(&["demo"]);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(outcome["passed"], true, "{outcome:#}");
    assert_eq!(outcome["simulated"], true);
    assert!(outcome["tenants"][0]["out_of_memory_errors"].as_u64().unwrap() > 0);
    assert_eq!(outcome["tenants"][1]["denied"], 0);
}

/// A paused slice launches nothing more, and goes on where it was when it is resumed.
#[test]
fn a_paused_slice_stops_at_its_next_kernel() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
    let tenant = ["--", BINARY, "internal-tenant", "--mode", "steady", "--iterations", "200", "--pause-ms", "10"];
    let mut child = place.cleave(&[&["exec", "a"], &tenant[..]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let launches = || place.show("a")["launches_total"].as_u64().unwrap();
    let waits = |more: u64| {
        let started = Instant::now();
        while launches() < more {
            assert!(started.elapsed() < Duration::from_secs(60), "no launches");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    waits(1);
    place.ok(&["pause", "a"]);
    // The launch that finds the gate closed is counted before it waits there.
    let paused = launches();
    std::thread::sleep(Duration::from_millis(500));
    assert!(launches() <= paused + 1, "{} launches more", launches() - paused);
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    place.ok(&["resume", "a"]);
    waits(paused + 2);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `kill -9` of the daemon while two slices contend: both go on, and neither waits for a turn that nobody gives.
#[test]
fn nobody_waits_for_a_daemon_that_is_gone() {
    let place = Place::new("1xH100");
    let tenant = ["--", BINARY, "internal-tenant", "--mode", "steady", "--iterations", "100", "--pause-ms", "5"];
    let children = ["a", "b"].map(|slice| {
        place.ok(&["slice", "create", "--memory", "8GiB", "--name", slice]);
        place.cleave(&[&["exec", slice], &tenant[..]].concat()).stdout(Stdio::piped()).spawn().unwrap()
    });
    let started = Instant::now();
    while ["a", "b"].iter().any(|slice| place.show(slice)["launches_total"] == 0) {
        assert!(started.elapsed() < Duration::from_secs(60), "no launches");
        std::thread::sleep(Duration::from_millis(10));
    }
    place::kill(place.daemon());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap().to_owned();
        assert_eq!(last_report(&last)["finished"], true);
    }
}
