//! Kernels that do not end, and programs that ask for memory without end: `tests/gpu/runaway.c` on a simulated H100.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{PATIENCE, Place, number, within};

/// The events of a kind, as slice and message.
fn events(place: &Place, kind: &str) -> Vec<(String, String)> {
    let all = place.json(&["events"])["items"].as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    all.iter().filter(|e| e["kind"] == kind).map(|e| (text(&e["slice"]), text(&e["message"]))).collect()
}

/// A21: a kernel that never ends is ended with its process, and nobody else.
#[test]
fn a21_a_process_whose_kernel_hangs_is_killed_and_its_neighbours_go_on() {
    let place = Place::new("1xH100");
    let runaway = place.compile("runaway.c").display().to_string();
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "a", "--watchdog", "warn:1s,lower:1500ms,kill:3s"]);
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "b", "--watchdog", "kill:3s"]);
    // One beside it in its slice, one in another; both wait for kernels all the time, and neither for long.
    let mut beside = place.start("a", &[&runaway, "work"]);
    let mut neighbour = place.start("b", &[&runaway, "work"]);
    let pids = [&mut beside, &mut neighbour].map(|held| number(&held.line()["pid"]));
    let mut hangs = place.start("a", &[&runaway, "hang"]);
    let pid = number(&hangs.line()["pid"]);
    within(PATIENCE, "it is killed", || hangs.child.try_wait().unwrap().is_some());
    within(PATIENCE, "it is out of its slice", || place.show("a")["processes"].as_array().unwrap().len() == 1);

    let killed = events(&place, "watchdog-killed");
    assert_eq!(killed.len(), 1, "{killed:?}");
    assert!(killed[0].0 == "a" && killed[0].1.contains("GPU 0") && killed[0].1.contains("killed"), "{killed:?}");
    assert_eq!(events(&place, "watchdog-warned").len(), 1);
    assert_eq!(events(&place, "watchdog-lowered").len(), 1);
    for (held, own) in [&mut beside, &mut neighbour].into_iter().zip(pids) {
        let before = number(&held.ask("?")["count"]);
        let after = held.ask("?");
        assert!(number(&after["count"]) > before && number(&after["pid"]) == own && own != pid, "{after}");
    }
    within(PATIENCE, "nothing is late any more", || place.show("a")["lowered"] == false);
    beside.end();
    neighbour.end();
}

/// Who does not wait for its kernel is not known to hang; once it waits it is.
#[test]
fn a_hang_is_found_when_somebody_waits_for_it() {
    let place = Place::new("1xH100");
    let runaway = place.compile("runaway.c").display().to_string();
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "a", "--watchdog", "pause:1s"]);
    let mut hangs = place.start("a", &[&runaway, "sleep"]);
    hangs.line();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(place.show("a")["paused"], false);
    drop(hangs.child.stdin.take());
    within(PATIENCE, "it is paused", || place.show("a")["paused"] == true);
    assert_eq!(events(&place, "watchdog-paused").len(), 1);
    // A pause does not end the kernel; deleting the slice ends its process.
    place.ok(&["slice", "delete", "--force", "a"]);
}

#[test]
fn a_loop_of_refused_allocations_is_named() {
    let place = Place::new("1xH100");
    let runaway = place.compile("runaway.c").display().to_string();
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "a"]);
    let mut greedy = place.start("a", &[&runaway, "greedy"]);
    greedy.line();
    within(PATIENCE, "the loop is found", || !events(&place, "denial-loop").is_empty());
    let found = events(&place, "denial-loop");
    place.ok(&["slice", "delete", "--force", "a"]);
    assert!(found[0].0 == "a" && found[0].1.contains("again and again"), "{found:?}");
}

#[test]
fn a_watchdog_is_shown_and_changed() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "-m", "8GiB", "--name", "a", "--watchdog", "warn:2s,kill:1m"]);
    assert_eq!(place.show("a")["watchdog"], "warn:2s,kill:1m");
    assert!(place.ok(&["slice", "show", "a"]).contains("warn:2s,kill:1m"));
    place.ok(&["slice", "resize", "a", "--watchdog", "none"]);
    assert_eq!(place.show("a")["watchdog"], "none");
    let said = place.fails(2, &["slice", "resize", "a", "--watchdog", "kill:5"]);
    assert!(said.contains("kill:5"), "{said}");
}
