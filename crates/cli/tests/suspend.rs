//! Slices whose memory is taken off their GPU and brought back: `tests/gpu/runaway.c` on a simulated H100.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{MIB, PATIENCE, Place, kill, number, within};
use std::process::Stdio;
use std::time::Duration;

/// A program in slice `a` that keeps `mib`, and its place.
fn keeper(place: &Place, slice: &str, mib: u64) -> place::Held {
    let runaway = place.compile("runaway.c").display().to_string();
    let mut keeper = place.start(slice, &[&runaway, "keep", &mib.to_string()]);
    assert_eq!(number(&keeper.line()["kept"]), mib);
    keeper
}

#[test]
fn a_suspended_slice_frees_the_card_and_its_programs_go_on_where_they_were() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "a"]);
    let mut keeper = keeper(&place, "a", 64);
    let before = place.card_used();
    assert!(before > 64 * MIB);
    assert!(place.ok(&["suspend", "a"]).contains("is suspended"));
    assert_eq!(place.card_used(), 0);
    let shown = place.show("a");
    assert_eq!((&shown["suspended"], &shown["paused"]), (&true.into(), &false.into()));
    assert!(
        place.ok(&["slice", "list"]).contains("suspended") && place.ok(&["slice", "show", "a"]).contains("suspended")
    );
    place.ok(&["suspend", "a"]);

    assert!(place.ok(&["wake", "a"]).contains("is awake"));
    assert_eq!(place.card_used(), before);
    assert_eq!(keeper.ask("?")["right"], 1);

    // By itself, when its program wants the GPU.
    place.ok(&["suspend", "a"]);
    assert_eq!(place.card_used(), 0);
    assert_eq!(keeper.ask("?")["right"], 1);
    // Its calls go on before the daemon has written down that they may.
    within(PATIENCE, "it is awake", || place.show("a")["suspended"] == false);
    let events = || place.json(&["events", "--slice", "a"])["items"].as_array().unwrap().clone();
    let kinds = |kind: &str| events().iter().filter(|event| event["kind"] == kind).count();
    within(PATIENCE, "it is written down", || (kinds("slice-suspended"), kinds("slice-woken")) == (2, 2));
    keeper.end();
}

#[test]
fn two_slices_that_do_not_fit_together_take_turns() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "-m", "60GiB", "--name", "a"]);
    place.ok(&["slice", "create", "-m", "60GiB", "--name", "b", "--oversubscribe", "2"]);
    let mut first = keeper(&place, "a", 64);
    place.ok(&["suspend", "a"]);
    let mut second = keeper(&place, "b", 64);
    let said = place.fails(3, &["wake", "a"]);
    assert!(said.contains("b 60 GiB") && said.contains("60 GiB of GPU 0"), "{said}");
    place.ok(&["suspend", "b"]);
    assert_eq!(first.ask("?")["right"], 1);
    place.ok(&["suspend", "a"]);
    assert_eq!(second.ask("?")["right"], 1);
    first.end();
    second.end();
}

/// A daemon that comes after wakes what one before it has suspended, and the dead leave nothing behind.
#[test]
fn suspended_slices_outlive_the_daemon_and_not_their_processes() {
    let place = Place::new("1xH100");
    for slice in ["a", "b"] {
        place.ok(&["slice", "create", "-m", "8GiB", "--name", slice]);
    }
    let mut stays = keeper(&place, "a", 64);
    let _dies = keeper(&place, "b", 64);
    place.ok(&["suspend", "a"]);
    place.ok(&["suspend", "b"]);
    kill(place.daemon());
    within(PATIENCE, "a new daemon", || place.cleave(&["gpus"]).output().unwrap().status.success());
    assert_eq!(place.show("a")["suspended"], true);
    assert_eq!(stays.ask("?")["right"], 1);
    kill(number(&place.show("b")["processes"][0]["pid"]));
    within(PATIENCE, "nothing is left", || place.is_empty("b"));
    assert_eq!(place.show("b")["suspended"], false);
    stays.end();
}

/// What two slices are promised is more than the card has: they take turns on it by themselves, and lose nothing, also over a
/// daemon's end (A19).
#[test]
fn idle_slices_make_room_for_those_at_work() {
    let place = Place::new("1xH100");
    for name in ["a", "b", "c"] {
        let rest = if name == "c" { "1440m" } else { "1s" };
        place.ok(&["slice", "create", "-m", "45GiB", "--name", name, "--oversubscribe", "2", "--suspend-after", rest]);
    }
    let suspended = |slice: &str| place.show(slice)["suspended"] == true;
    let mut first = keeper(&place, "a", 64);
    within(PATIENCE, "it is idle, and leaves", || suspended("a") && place.card_used() == 0);
    let mut third = keeper(&place, "c", 64);
    // Who was told to stay for long leaves all the same where another one needs the room.
    assert_eq!(first.ask("?")["right"], 1);
    within(PATIENCE, "it has made room", || suspended("c"));
    let mut second = keeper(&place, "b", 64);
    for _ in 0..2 {
        for program in [&mut second, &mut third, &mut first] {
            assert_eq!(program.ask("?")["right"], 1);
        }
    }
    let messages = || {
        let events = place.json(&["events"])["items"].as_array().unwrap().clone();
        let all: Vec<String> = events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
        all.join("\n")
    };
    for text in ["slice a was suspended: it was idle", "slice c was suspended: to make room for"] {
        within(PATIENCE, text, || messages().contains(text));
    }
    // A daemon's end at any moment of a move loses nothing.
    for delay in [0, 3, 10, 30] {
        let mut moving = place.cleave(&["suspend", "a"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = place.daemon();
        std::thread::sleep(Duration::from_millis(delay));
        kill(daemon);
        let _ = moving.wait();
        within(PATIENCE, "a new daemon", || place.cleave(&["gpus", "-o", "json"]).output().unwrap().status.success());
        for program in [&mut second, &mut third, &mut first] {
            assert_eq!(program.ask("?")["right"], 1);
        }
    }
    // Nobody who did not agree to it is sent away: who needs the room waits, and says so.
    for name in ["a", "b", "c"] {
        place.ok(&["slice", "resize", name, "--suspend-after", "none"]);
    }
    place.ok(&["suspend", "c"]);
    within(PATIENCE, "they are awake or can be", || {
        let _ = place.cleave(&["suspend", "b"]).output();
        place.cleave(&["wake", "a"]).output().unwrap().status.success()
    });
    let waits = || messages().matches("slice \"b\" can't wake").count();
    let before = waits();
    second.tell("?");
    within(PATIENCE, "it says that it waits", || waits() > before);
    place.ok(&["slice", "resize", "a", "--suspend-after", "1s"]);
    assert_eq!(second.line()["right"], 1);
    for program in [second, third, first] {
        program.end();
    }
    let said = place.fails(2, &["slice", "create", "-m", "1GiB", "--suspend-after", "soon"]);
    assert!(said.contains("soon") && said.contains("30s"), "{said}");
    let mut spatial = vec!["slice", "create", "-m", "1GiB", "--oversubscribe", "2", "--suspend-after", "30s"];
    spatial.extend(["--engine", "spatial"]);
    let said = place.fails(3, &spatial);
    assert!(said.contains("spatial can't be suspended"), "{said}");
}
