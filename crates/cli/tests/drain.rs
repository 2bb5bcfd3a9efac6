//! A GPU is taken out of use and back (E17): real programs on simulated GPUs.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{MIB, PATIENCE, Place, number, within};
use serde_json::Value;

fn keeper(place: &Place, slice: &str) -> place::Held {
    let runaway = place.compile("runaway.c").display().to_string();
    let mut keeper = place.start(slice, &[&runaway, "keep", "64"]);
    assert_eq!(number(&keeper.line()["kept"]), 64);
    keeper
}

fn gpu(place: &Place, slice: &str) -> u64 {
    number(&place.show(slice)["devices"][0]["gpu"])
}

fn moves(drain: &Value) -> Vec<(String, u64, bool)> {
    let all = drain["moves"].as_array().unwrap().iter();
    all.map(|one| (one["slice"].as_str().unwrap().into(), number(&one["to"]), one["done"] == true)).collect()
}

#[test]
fn slices_leave_a_drained_gpu_and_come_back() {
    let place = Place::new("3xH100");
    for (name, gpu, memory, compute) in
        [("busy", "0", "30GiB", "50%"), ("idle", "0", "40GiB", "25%"), ("there", "1", "50GiB", "60%")]
    {
        place.ok(&["slice", "create", "--name", name, "--gpu", gpu, "-m", memory, "--compute", compute]);
    }
    let mut program = keeper(&place, "busy");
    // Who goes where is said before, and nothing is changed by that.
    let plan = place.json(&["drain", "0", "--plan"]);
    let wanted = [("busy".to_owned(), 2, false), ("idle".to_owned(), 2, false)];
    assert_eq!((moves(&plan), &plan["draining"]), (wanted.to_vec(), &false.into()));
    assert!(place.ok(&["drain", "0", "--plan"]).contains("when pid"));
    assert_eq!((gpu(&place, "idle"), place.json(&["gpus"])["items"][0]["draining"] == false), (0, true));

    // What nothing runs in goes at once; the other has its place there already.
    let drain = place.json(&["drain", "0"]);
    assert_eq!(moves(&drain), [("busy".to_owned(), 2, false), ("idle".to_owned(), 2, true)]);
    assert_eq!((gpu(&place, "busy"), gpu(&place, "idle")), (0, 2));
    assert_eq!(program.ask("?")["right"], 1);
    let said = place.fails(3, &["slice", "create", "-m", "20GiB", "--gpu", "2"]);
    assert!(said.contains("GiB left"), "{said}");
    let said = place.fails(3, &["slice", "create", "-m", "1GiB", "--gpu", "0"]);
    assert!(said.contains("GPU 0 is being drained") && said.contains("undrain 0"), "{said}");
    place.ok(&["slice", "create", "-m", "1GiB", "--name", "new"]);
    assert_ne!(gpu(&place, "new"), 0);
    // A second time is nothing new, and a new daemon knows of it.
    assert_eq!(moves(&place.json(&["drain", "0"])), [("busy".to_owned(), 2, false)]);
    place::kill(place.daemon());
    within(PATIENCE, "a new daemon", || place.cleave(&["gpus", "-o", "json"]).output().unwrap().status.success());
    assert_eq!(place.json(&["gpus"])["items"][0]["draining"], true);

    program.end();
    within(PATIENCE, "it has gone", || gpu(&place, "busy") == 2);
    assert_eq!(place.json(&["drain", "0"])["empty"], true);
    let events: Vec<Value> = place.json(&["events"])["items"].as_array().unwrap().clone();
    for (kind, text) in [("slice-moved", "busy went from GPU 0 to GPU 2"), ("drained", "GPU 0 is drained")] {
        let said = |event: &Value| event["kind"] == kind && event["message"].as_str().unwrap().contains(text);
        assert!(events.iter().any(said), "{kind}: {events:?}");
    }
    // It works there, within its quota.
    let mut program = keeper(&place, "busy");
    assert_eq!(number(&place.show("busy")["devices"][0]["limit_bytes"]), 30 * 1024 * MIB);
    let back = place.json(&["undrain", "0"]);
    assert_eq!(moves(&back), [("busy".to_owned(), 0, false), ("idle".to_owned(), 0, true)]);
    assert_eq!(program.ask("?")["right"], 1);
    program.end();
    within(PATIENCE, "it is back", || gpu(&place, "busy") == 0);
    assert_eq!(place.json(&["gpus"])["items"][0]["draining"], false);
}

#[test]
fn a_gpu_is_not_drained_without_room_for_its_slices() {
    let place = Place::new("2xH100");
    place.ok(&["slice", "create", "--name", "a", "--gpu", "0", "-m", "30GiB", "--compute", "50%"]);
    place.ok(&["slice", "create", "--name", "b", "--gpu", "1", "-m", "40GiB", "--compute", "60%"]);
    for arguments in [&["drain", "0"][..], &["drain", "0", "--plan"]] {
        let said = place.fails(3, arguments);
        for part in ["slice \"a\", 30 GiB and 50 %", "GPU 1", "40 % of its time", "nothing was changed"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert_eq!((gpu(&place, "a"), place.json(&["gpus"])["items"][0]["draining"] == false), (0, true));
    // With room there is, programs are ended if need be.
    place.ok(&["slice", "resize", "b", "--compute", "50%"]);
    let program = keeper(&place, "a");
    place.ok(&["drain", "0", "--force"]);
    within(PATIENCE, "it has gone", || gpu(&place, "a") == 1);
    drop(program);
    place.fails(4, &["drain", "7"]);
    place.fails(1, &["drain", "all"]);
}

#[test]
fn equal_parts_of_a_gpu_fit_on_another() {
    let place = Place::new("2xH100");
    for parts in [3, 6, 7, 9] {
        let (count, fraction) = (parts.to_string(), format!("1/{parts}"));
        place.ok(&["slice", "create", "r", "--gpu", "0", "--count", &count, "--fraction", &fraction]);
        assert_eq!(moves(&place.json(&["drain", "0", "--plan"])).len(), parts);
        for at in 0..parts {
            place.ok(&["slice", "delete", &format!("r-{at}")]);
        }
    }
}
