//! Labels of a node, and their file (B15).
#[path = "support/place.rs"]
mod place;
mod support;

use place::Place;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells whether a file was touched.
fn touched(file: &Path) -> (u64, i64, i64) {
    let metadata = std::fs::metadata(file).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn labels_are_written_and_removed_and_a_second_time_nothing_is_done() {
    let place = Place::new("H100,mig+4090+K80");
    let printed = place.ok(&["labels"]);
    let labels: Vec<&str> = printed.lines().collect();
    let expected = [
        "cleave.dev/engine.mig=1",
        "cleave.dev/engine.spatial=1",
        "cleave.dev/engine.temporal=2",
        "cleave.dev/gpu-memory-mib=11441",
        "cleave.dev/gpus=3",
        "cleave.dev/model.GeForce-RTX-4090=1",
        "cleave.dev/model.H100-SXM=1",
        "cleave.dev/model.Tesla-K80=1",
        "cleave.dev/tier.dev=2",
        "cleave.dev/tier.prod=1",
        "cleave.dev/tier.staging=2",
    ];
    assert_eq!(labels, expected);
    let json = place.json(&["labels"]);
    assert_eq!(
        (json["schema"].as_str(), json["labels"]["cleave.dev/tier.prod"].as_str()),
        (Some("cleave.dev/v1/labels"), Some("1"))
    );

    let features = place.dir.path().join("features.d");
    std::fs::create_dir(&features).unwrap();
    let file = features.join("cleave");
    let path = file.to_str().unwrap();
    let write = |more: &[&str]| place.json(&[&["labels", "--feature-file", path], more].concat())["file"].clone();
    assert_eq!(write(&[]), "written");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), expected);
    let before = touched(&file);
    assert_eq!(write(&[]), "unchanged");
    assert_eq!(touched(&file), before);
    // Another policy is another file, whole.
    let tiers = place.dir.path().join("tiers.yaml");
    std::fs::write(&tiers, "tiers:\n  gold: { engines: [mig, spatial] }\n").unwrap();
    assert_eq!(write(&["--tiers", tiers.to_str().unwrap()]), "written");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("cleave.dev/tier.gold=2\n") && !text.contains("tier.prod"), "{text}");
    std::fs::write(&tiers, "tiers:\n  gold: { engines: [gold] }\n").unwrap();
    let said = place.fails(1, &["labels", "--feature-file", path, "--tiers", tiers.to_str().unwrap()]);
    assert!(said.contains("line 2") && said.contains("gold"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    assert_eq!(write(&["--remove"]), "removed");
    assert_eq!(write(&["--remove"]), "absent");
    // Nothing is left beside it, for whoever reads every file of the folder.
    assert_eq!(std::fs::read_dir(&features).unwrap().count(), 0);
    // Somebody else's file stays.
    std::fs::write(&file, "example.com/a=b\n").unwrap();
    for more in [&[][..], &["--remove"]] {
        let said = place.fails(5, &[&["labels", "--feature-file", path], more].concat());
        assert!(said.contains("did not write"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "example.com/a=b\n");
    place.fails(1, &["labels", "--feature-file", "/nowhere/features.d/cleave"]);
    assert_eq!(place.cleave(&["labels", "--remove"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn labels_of_a_saved_inventory_need_no_daemon() {
    let place = Place::new("8xH100");
    let file = place.dir.path().join("node.yaml").display().to_string();
    place.ok(&["gpus", "--save", &file]);
    let mut alone = support::cleave(&place.dir.path().join("nowhere"));
    let output = alone.args(["labels", "--inventory", &file]).output().unwrap();
    assert_eq!(support::stdout(&output), place.ok(&["labels"]));
}
