//! The slices of a node from one file, and slices after another's example: `cleave apply`, `slice export`, `slice clone`.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{MIB, Place, number};
use serde_json::Value;

fn write(place: &Place, name: &str, text: &str) -> String {
    let file = place.dir.path().join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn actions(applied: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    applied["items"].as_array().unwrap().iter().map(|one| (text(&one["slice"]), text(&one["action"]))).collect()
}

/// The engine of each slice, by name.
fn engines(place: &Place) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> = (place.slices().iter())
        .map(|one| (text(&one["name"]), text(&one["engine"]), number(&one["devices"][0]["gpu"])))
        .collect();
    all.sort();
    all
}

const THREE: &str = "
slices:
  - {name: hard, gpu: '0', engine: mig, memory: 16GiB, compute: 40%}
  - {name: beside, gpu: '1', engine: spatial, trust_domain: team, memory: 20GiB, compute: 25%}
  - {name: turns, gpu: '2', engine: temporal, memory: 20GiB, compute: 25%, priority: production}
";

/// A4: one file, three GPUs of one node, three engines.
#[test]
fn one_file_has_slices_of_every_engine() {
    let place = Place::new("H100,mig+2xH100");
    let file = write(&place, "three.yaml", THREE);
    let names = ["hard", "beside", "turns"].map(str::to_owned);
    let would = place.json(&["apply", "-f", &file, "--dry-run"]);
    assert_eq!(actions(&would), names.clone().map(|name| (name, "created".into())));
    assert!(place.slices().is_empty());
    assert_eq!(actions(&place.json(&["apply", "-f", &file])), names.clone().map(|name| (name, "created".into())));
    let wanted = [("beside", "spatial", 1), ("hard", "mig", 0), ("turns", "temporal", 2)];
    assert_eq!(engines(&place), wanted.map(|(name, engine, gpu)| (name.to_owned(), engine.to_owned(), gpu)));
    // A second time there is nothing to do; nor from what is printed of them.
    let unchanged = names.clone().map(|name| (name, "unchanged".to_owned()));
    assert_eq!(actions(&place.json(&["apply", "-f", &file])), unchanged);
    let export = write(&place, "export.yaml", &place.ok(&["slice", "export"]));
    let mut again = actions(&place.json(&["apply", "-f", &export]));
    again.sort();
    let mut all = unchanged.to_vec();
    all.sort();
    assert_eq!(again, all);
}

/// G6: the same file on unlike generations gives slices of the same promises.
#[test]
fn one_file_is_the_same_on_unlike_gpus() {
    let text = "slices:\n  - {name: a, fraction: 1/4, mode: strict}\n  - {name: b, memory: 50%, compute: 50%}\n";
    let mut promises = Vec::new();
    for sim in ["1xK80", "1x4090", "1xH100"] {
        let place = Place::new(sim);
        place.ok(&["apply", "-f", &write(&place, "m.yaml", text)]);
        let whole = number(&place.json(&["gpus"])["items"][0]["memory_bytes"]);
        let part = |one: &Value| (number(&one["devices"][0]["limit_bytes"]) * 100).div_ceil(whole);
        let all: Vec<_> = place.slices().iter().map(|one| (part(one), one["compute_percent"].as_f64())).collect();
        promises.push(all);
    }
    assert_eq!(promises[0], [(25, Some(25.0)), (50, Some(50.0))]);
    assert!(promises.iter().all(|one| *one == promises[0]), "{promises:?}");
}

#[test]
fn slices_become_what_the_file_says_or_stay_what_they_were() {
    let place = Place::new("1xH100");
    let first = "slices:\n  - {name: a, memory: 10GiB, compute: 20%}\n  - {name: b, memory: 10GiB}\n";
    place.ok(&["apply", "-f", &write(&place, "m.yaml", first)]);
    let second = "slices:\n  - {name: a, memory: 20GiB, compute: 30%, mode: strict}\n  - {name: c, memory: 5GiB}\n";
    let file = write(&place, "m.yaml", second);
    let applied = place.json(&["apply", "-f", &file, "--prune"]);
    let wanted = [("a", "changed"), ("c", "created"), ("b", "deleted")];
    assert_eq!(actions(&applied), wanted.map(|(name, action)| (name.to_owned(), action.to_owned())));
    assert_eq!(applied["items"][0]["changes"], serde_json::json!(["memory 20 GiB", "compute 30 %", "mode strict"]));
    let before = place.json(&["slice", "export"]);
    // The last step fails: what was done before it is undone.
    let over = "slices:\n  - {name: a, memory: 30GiB, mode: balanced}\n  - {name: d, memory: 5GiB}\n  - {name: e, memory: 70GiB}\n";
    let said = place.fails(3, &["apply", "-f", &write(&place, "m.yaml", over)]);
    assert!(said.contains("slice \"e\"") && said.contains("nothing was changed"), "{said}");
    assert_eq!(place.json(&["slice", "export"]), before);
    for (text, code, words) in [
        ("slices:\n  - {name: a, memory: much}\n", 1, ["line 2", "much"]),
        ("slices:\n  - {name: a, colour: red}\n", 1, ["line 2", "colour"]),
        ("slices:\n  - {memory: 1GiB}\n", 1, ["slice 1", "no name"]),
        ("slices:\n  - {name: a}\n  - {name: a}\n", 1, ["\"a\"", "twice"]),
        ("slices:\n  - {name: a, engine: spatial}\n", 5, ["engine temporal", "can't be changed"]),
    ] {
        let said = place.fails(code, &["apply", "-f", &write(&place, "m.yaml", text)]);
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
        assert_eq!(place.json(&["slice", "export"]), before);
    }
    place.fails(1, &["apply", "-f", "/nowhere/m.yaml"]);
}

/// Quotas are whole units of 512 bytes, as the daemon keeps them: every one more or less is a change.
#[test]
fn a_small_change_of_memory_is_one() {
    let place = Place::new("1xH100");
    let (ten, unit) = (10u64 << 30, cleave_ledger::UNIT);
    for (bytes, action, limit) in [
        (ten, "created", ten),
        (ten + MIB, "changed", ten + MIB),
        (ten + MIB + unit - 1, "unchanged", ten + MIB),
        (ten + MIB + unit, "changed", ten + MIB + unit),
    ] {
        let file = write(&place, "m.yaml", &format!("slices:\n  - {{name: a, memory: '{bytes}'}}\n"));
        assert_eq!(actions(&place.json(&["apply", "-f", &file])), [("a".into(), action.into())], "{bytes}");
        assert_eq!(number(&place.show("a")["devices"][0]["limit_bytes"]), limit);
    }
}

/// Host memory that is a part of the machine's changes like any other.
#[test]
fn a_changed_part_of_host_memory_is_a_change() {
    let place = Place::new("1xH100");
    for (part, action) in [("1%", "created"), ("2%", "changed"), ("2%", "unchanged")] {
        let text = format!("slices:\n  - {{name: a, memory: 1GiB, host_memory: '{part}'}}\n");
        let applied = place.json(&["apply", "-f", &write(&place, "m.yaml", &text)]);
        assert_eq!(actions(&applied), [("a".into(), action.into())], "{part}");
    }
}

/// B13: a canary beside production, which its end leaves as it was.
#[test]
fn a_canary_comes_and_goes_beside_production() {
    let place = Place::new("2xH100");
    place.ok(&[
        "slice",
        "create",
        "--name",
        "prod",
        "--gpu",
        "1",
        "-m",
        "40GiB",
        "--compute",
        "50%",
        "--priority",
        "production",
    ]);
    let runaway = place.compile("runaway.c").display().to_string();
    let mut program = place.start("prod", &[&runaway, "keep", "64"]);
    program.line();
    let before = place.show("prod");
    place.ok(&["slice", "clone", "prod", "--as", "canary", "--fraction", "1/8"]);
    let canary = place.show("canary");
    assert_eq!((number(&canary["devices"][0]["gpu"]), &canary["compute_percent"]), (1, &12.5.into()));
    assert_eq!((&canary["priority"], &canary["engine"]), (&before["priority"], &before["engine"]));
    let mut beside = place.start("canary", &[&runaway, "keep", "64"]);
    beside.line();
    beside.end();
    place.ok(&["slice", "delete", "canary", "--force"]);
    assert_eq!(program.ask("?")["right"], 1);
    let after = place.show("prod");
    for what in ["id", "compute_percent", "mode", "priority", "engine"] {
        assert_eq!(before[what], after[what]);
    }
    assert_eq!(before["devices"][0]["limit_bytes"], after["devices"][0]["limit_bytes"]);
    let said = place.fails(3, &["slice", "clone", "prod", "--as", "other", "-m", "10GiB", "--compute", "60%"]);
    assert!(said.contains("50 % left"), "{said}");
    place.fails(4, &["slice", "clone", "none", "--as", "other"]);
}
