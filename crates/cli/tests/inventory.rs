//! What a machine has and how it is linked (B3, B4, B5, E1, G1), on simulated machines and from files.
#[path = "support/place.rs"]
mod place;
mod support;

use place::Place;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{stderr, stdout};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../inventory/tests");

/// `cleave` where no daemon is.
fn alone(arguments: &[&str]) -> std::process::Output {
    let dir = tempfile::tempdir().unwrap();
    support::cleave(dir.path()).args(arguments).output().unwrap()
}

fn ok(arguments: &[&str]) -> String {
    let output = alone(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn refused(arguments: &[&str], words: &[&str]) {
    let output = alone(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stdout(&output));
    for word in words {
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
    }
}

/// A2 and A3, of an inventory and without a daemon: MIG before parts of the multiprocessors before turns, or what is pinned.
#[test]
fn the_best_engine_of_hardware_that_is_not_here() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yaml").display().to_string();
    let models = [
        ("nvidia", "A100 80GB SXM", "mig"),
        ("nvidia", "NVIDIA H100 80GB HBM3", "mig"),
        ("nvidia", "B200", "mig"),
        ("nvidia", "Tesla T4", "spatial"),
        ("nvidia", "L40S", "spatial"),
        ("amd", "MI300X", "spatial"),
        ("nvidia", "Tesla K80", "temporal"),
        ("nvidia", "Tesla M60", "temporal"),
    ];
    let mut text = "schema: cleave.dev/v1/inventory\ndevices:\n".to_owned();
    for (at, (vendor, name, _)) in models.iter().enumerate() {
        text += &format!(
            "  - {{index: {at}, label: GPU{at}, vendor: {vendor}, name: {name}, memory_total_bytes: {}}}\n",
            12u64 << 30
        );
    }
    std::fs::write(&file, text).unwrap();
    let asked = |more: &[&str]| {
        let create = ["slice", "create", "--dry-run", "--inventory", &file, "--memory", "8GiB", "--compute", "25"];
        alone(&[&create, more, &["-o", "json"]].concat())
    };
    for (at, (_, name, engine)) in models.iter().enumerate() {
        let output = asked(&["--gpu", &at.to_string()]);
        let chosen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&chosen["engine"], &chosen["gpu"]), (&Value::from(*engine), &at.into()), "{name}: {chosen}");
        assert_eq!(chosen["profile"].is_string(), *engine == "mig", "{chosen}");
        assert!(chosen["reason"].is_string() && chosen["needs"].is_array(), "{chosen}");
    }
    let chosen: Value = serde_json::from_slice(&asked(&["--engine", "spatial"]).stdout).unwrap();
    assert_eq!((&chosen["engine"], &chosen["gpu"]), (&"spatial".into(), &0.into()));
    for (more, code, word) in [
        (&["--gpu", "3", "--engine", "mig"][..], 3, "engine mig can't be had: GPU 3 (Tesla T4): Tesla T4 has no MIG"),
        (&["--gpu", "6", "--engine", "spatial"], 3, "compute capability is 3.7"),
        (&["--gpu", "9"], 4, "no GPU \"9\""),
        (&["--memory", "20GiB"], 2, "cannot be used multiple times"),
        (&["--count", "2"], 2, "cannot be used with"),
    ] {
        let output = asked(more);
        assert!(output.status.code() == Some(code) && stderr(&output).contains(word), "{more:?}: {}", stderr(&output));
    }
    let output = alone(&["slice", "create", "--inventory", &file]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--dry-run"), "{}", stderr(&output));
}

#[test]
fn eight_cards_with_nvlink_are_told_whole() {
    let place = Place::new("8xH100");
    let shown = place.json(&["gpus"]);
    let card = &shown["items"][5];
    for (key, value) in [
        ("label", Value::from("GPU5")),
        ("vendor", "nvidia".into()),
        ("name", "NVIDIA H100 80GB HBM3".into()),
        ("model", "H100 SXM".into()),
        ("pci_id", "10de:2330".into()),
        ("driver", "nvidia".into()),
        ("memory_total_bytes", (81559u64 << 20).into()),
        ("units", 132.into()),
        ("compute_capability", "9.0".into()),
        ("clock_max_mhz", 1980.into()),
        ("power_limit_watts", 700.0.into()),
        ("power_limit_min_watts", 200.0.into()),
        ("ecc", true.into()),
        ("numa_node", 1.into()),
        ("cpus", "32-63".into()),
        ("iommu_group", 25.into()),
        ("nvlinks", 18.into()),
        ("simulated", true.into()),
    ] {
        assert_eq!(card[key], value, "{key}: {card:#}");
    }
    assert_eq!(card["pcie"]["generation_max"], 5);
    // Geometry is answered with MIG off.
    assert_eq!(card["mig"]["enabled"], false);
    let profiles = card["mig"]["profiles"].as_array().unwrap();
    let three = profiles.iter().find(|profile| profile["name"] == "3g.40gb").unwrap();
    assert_eq!((three["starts"].to_string(), three["size"].clone()), ("[0,4]".into(), 4.into()));
    assert_eq!(profiles.len(), 7);
    assert_eq!(shown["nvidia_driver"], "580.159.04");
    assert_eq!(shown["nics"].as_array().unwrap().len(), 8);
    assert_eq!(shown["problems"].to_string(), "[]");

    let matrix = place.ok(&["topo"]);
    let lines: Vec<&str> = matrix.lines().collect();
    assert!(
        lines[0].starts_with("\tGPU0\tGPU1\t")
            && lines[0].ends_with("\tNIC7\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID")
    );
    assert_eq!(
        lines[6],
        "GPU5\tNV18\tNV18\tNV18\tNV18\tNV18\t X \tNV18\tNV18\tSYS\tSYS\tSYS\tSYS\tNODE\tPIX\tNODE\tNODE\t32-63\t1\t\tN/A"
    );
    assert!(matrix.contains("\nNIC Legend:\n\n  NIC0: mlx5_0\n"));
    assert!(place.ok(&["topo", "--numa"]).contains("GPU5  NVIDIA H100 80GB HBM3  0000:57:00.0  PIX NIC5"));
    let topology = place.json(&["topo", "--best", "4"]);
    assert_eq!(topology["schema"], "cleave.dev/v1/topology");
    assert_eq!(topology["matrix"][0][1], "NV18");
    assert_eq!(topology["groups"].as_array().unwrap().len(), 70);
    assert_eq!(topology["groups"][0]["gpus"].to_string(), "[0,1,2,3]");
    assert_eq!(topology["groups"][0]["cpus"], "0-31");
}

/// Without NVLink the pair behind one switch is the best, and the processors are those of its node.
#[test]
fn a_pair_without_nvlink_is_taken_behind_one_switch() {
    let place = Place::new("8xL40S");
    let best = place.json(&["topo", "--best", "2"]);
    let first: Vec<String> = best["groups"].as_array().unwrap().iter().take(4).map(|g| g["gpus"].to_string()).collect();
    assert_eq!(first, ["[0,1]", "[2,3]", "[4,5]", "[6,7]"]);
    assert_eq!(best["groups"][2]["cpus"], "32-63");
    assert_eq!(best["groups"][0]["links"].to_string(), "[\"PIX\"]");
    let text = place.ok(&["topo", "--best", "2"]);
    assert!(text.contains("\nnear the first: taskset -c 0-31 PROGRAM\n"), "{text}");
    assert!(text.contains(" 4 NODE") || text.contains("1 SYS"), "{text}");
    // What is suggested is what taskset takes, as far as there are so many processors here.
    let cpus = best["groups"][0]["cpus"].as_str().unwrap();
    assert!(Command::new("taskset").args(["-c", cpus, "true"]).status().is_ok_and(|status| status.success()));
    let said = place.fails(1, &["topo", "--best", "9"]);
    assert!(said.contains("--best 9") && said.contains("1 to 8"), "{said}");
}

#[test]
fn an_inventory_is_saved_and_read_again() {
    let place = Place::new("2xH100+2xT4");
    for name in ["machine.json", "machine.yaml"] {
        let file = place.dir.path().join(name);
        let file = file.to_str().unwrap();
        place.ok(&["gpus", "--save", file]);
        assert_eq!(ok(&["topo", "--inventory", file]), place.ok(&["topo"]), "{name}");
        let shown: Value = serde_json::from_str(&ok(&["gpus", "--inventory", file, "-o", "json"])).unwrap();
        assert_eq!(shown["items"].as_array().unwrap().len(), 4);
        assert_eq!(shown["items"][3]["name"], "Tesla T4");
    }
    assert!(std::fs::read_to_string(place.dir.path().join("machine.json")).unwrap().starts_with('{'));
    let nowhere = place.dir.path().join("no/such/folder/x.json");
    place.fails(1, &["gpus", "--save", nowhere.to_str().unwrap()]);
}

#[test]
fn what_other_tools_wrote_is_imported() {
    let file = |name: &str| format!("{FIXTURES}/{name}");
    let matrix = std::fs::read_to_string(file("topo/hgx-h100.txt")).unwrap();
    assert_eq!(ok(&["topo", "--import", &file("topo/hgx-h100.txt")]), matrix);
    let groups = ok(&["topo", "--import", &file("topo/pcie-5.txt"), "--best", "2"]);
    assert!(groups.lines().nth(1).unwrap().contains("1,2   1 PHB"), "{groups}");
    let gpus = ok(&["gpus", "--import", &file("hwloc.xml")]);
    assert!(gpus.contains("H100 SXM") && gpus.contains("AMD Instinct MI300X"), "{gpus}");
    // A pipe from the tool itself.
    let dir = tempfile::tempdir().unwrap();
    let mut command = support::cleave(dir.path());
    let mut child =
        command.args(["topo", "--import", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), matrix.as_bytes()).unwrap();
    drop(child.stdin.take());
    assert_eq!(stdout(&child.wait_with_output().unwrap()), matrix);
}

/// Neither a daemon nor a GPU is needed, and none is started.
#[test]
fn a_machine_is_answered_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let output = support::cleave(dir.path()).args(["gpus", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(shown["schema"], "cleave.dev/v1/gpus");
    assert!(shown["items"].is_array() && shown["numa"].is_array());
    assert!(!dir.path().join("api.sock").exists());
    let nodes = Path::new("/sys/devices/system/node/node0/cpulist");
    if let Ok(cpus) = std::fs::read_to_string(nodes) {
        assert_eq!(shown["numa"][0]["cpus"], cpus.trim());
    }
}

#[test]
fn bad_files_are_refused_with_value_rule_and_fix() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let other = write("other.yaml", "schema: cleave.dev/v7/inventory\n");
    refused(&["topo", "--inventory", &other], &["cleave.dev/v7/inventory", "cleave.dev/v1/inventory", "hint: "]);
    let key = write("key.yaml", "schema: cleave.dev/v1/inventory\ndevices:\n  - index: 0\n    lable: GPU0\n");
    refused(&["gpus", "--inventory", &key], &["lable", "line 4", "hint: "]);
    let matrix = write("matrix.txt", "\tGPU0\tGPU1\nGPU0\t X \tNVX\nGPU1\tNVX\t X \n");
    refused(&["topo", "--import", &matrix], &["line 2: \"NVX\" is none of X, NV#", "nvidia-smi topo -m"]);
    let xml = write("cut.xml", "<topology>\n<object type=\"Machine\">\n");
    refused(&["topo", "--import", &xml], &["it ends in the middle", "lstopo --of xml"]);
    refused(&["topo", "--import", "/no/such/file"], &["/no/such/file", "No such file"]);
    let output = alone(&["topo", "--import", &xml, "--inventory", &other]);
    assert_eq!(output.status.code(), Some(2));
}
