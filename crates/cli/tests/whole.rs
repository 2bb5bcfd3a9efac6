//! Other makers' devices, given whole: on a machine that simulates them beside NVIDIA's GPUs, and on one that has no others.
#[path = "support/place.rs"]
mod place;
mod support;

use place::Place;
use serde_json::Value;
use std::path::Path;

const BINARY: &str = env!("CARGO_BIN_EXE_cleave");

/// What a program in a slice is told: the variables that choose devices.
fn told(place: &Place, arguments: &[&str]) -> Vec<String> {
    let printed = place.ok(&[arguments, &["--", "env"]].concat());
    let mut told: Vec<String> = printed
        .lines()
        .filter(|line| line.contains("_VISIBLE_") || line.starts_with("ZE_"))
        .map(str::to_owned)
        .collect();
    told.sort();
    told
}

/// A program has what its slice has and is told so as its maker's runtime reads it; nobody else gets the device meanwhile, and no
/// program there sees NVIDIA's GPUs.
#[test]
fn a_device_is_one_slices_and_its_programs_are_told_which() {
    let place = Place::new("H100+2xMI300X+Max1550+2xGaudi3+2x910A+AI100");
    place.ok(&["slice", "create", "amd", "--gpu", "2"]);
    let amd = place.show("amd");
    assert_eq!((&amd["engine"], &amd["devices"][0]["gpu"]), (&Value::from("whole"), &Value::from(2)));
    assert_eq!(amd["devices"][0]["limit_bytes"], Value::from(206_141_652_992_u64));
    // What is not measured is not 0.
    assert!(amd["devices"][0]["used_bytes"].is_null() && amd["devices"][0]["peak_bytes"].is_null(), "{amd}");
    assert_eq!(told(&place, &["exec", "amd"]), ["ROCR_VISIBLE_DEVICES=GPU-5ca1ab1e00000001"]);
    assert_eq!(
        told(&place, &["run", "--gpu", "3"]),
        ["ZE_AFFINITY_MASK=0", "ZE_ENABLE_PCI_ID_DEVICE_ORDER=1", "ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE"]
    );
    assert_eq!(told(&place, &["run", "--gpu", "5"]), ["HABANA_VISIBLE_MODULES=1"]);
    assert_eq!(told(&place, &["run", "--gpu", "6,7"]), ["ASCEND_RT_VISIBLE_DEVICES=0,1"]);
    assert_eq!(told(&place, &["run", "--gpu", "PCI-0000:27:00.0"]), ["ROCR_VISIBLE_DEVICES=GPU-5ca1ab1e00000000"]);
    assert_eq!(
        told(&place, &["run", "--engine", "whole", "--memory", "100GiB"]),
        ["ROCR_VISIBLE_DEVICES=GPU-5ca1ab1e00000000"]
    );
    let cdi = |slice: &str| place.ok(&["cdi", slice]);
    assert!(cdi("amd").contains("ROCR_VISIBLE_DEVICES=GPU-5ca1ab1e00000001"), "{}", cdi("amd"));
    // A container has the nodes of its device alone, and counts anew: a number of the machine's would be another there.
    place.ok(&["slice", "create", "npu", "--gpu", "7"]);
    assert_eq!(told(&place, &["exec", "npu"]), ["ASCEND_RT_VISIBLE_DEVICES=1"]);
    assert!(!cdi("npu").contains("ASCEND_RT"), "{}", cdi("npu"));
    place.ok(&["slice", "delete", "npu"]);
    let metrics = place.ok(&["metrics"]);
    let of_amd: Vec<&str> = metrics.lines().filter(|line| line.contains("\"amd\"")).collect();
    assert!(of_amd.len() == 2 && of_amd[0].contains("_info") && of_amd[1].contains("_limit_bytes"), "{of_amd:?}");

    for (arguments, code, words) in [
        (&["slice", "create", "--gpu", "2"][..], 3, ["MI300X", "is slice amd's"]),
        (&["slice", "create", "--gpu", "1,2"], 3, ["GPU 2", "is slice amd's"]),
        (&["slice", "create", "--gpu", "0,1"], 3, ["not all of \"0,1\"", "given whole"]),
        (&["slice", "create", "--gpu", "1,1"], 1, ["GPU 1", "named twice"]),
        (&["slice", "create", "--gpu", "1,3"], 3, ["several makers", "one maker"]),
        (&["slice", "create", "--gpu", "1", "--engine", "temporal"], 3, ["temporal", "divides NVIDIA's GPUs only"]),
        (&["slice", "create", "--gpu", "0", "--engine", "whole"], 3, ["\"0\"", "given whole"]),
        (&["slice", "create", "--gpu", "1", "--memory", "300GiB"], 3, ["300 GiB", "191.98 GiB"]),
        (&["slice", "create", "--gpu", "1", "--mode", "strict"], 3, ["--mode", "nothing is held back"]),
        (&["slice", "create", "--gpu", "1", "--compute", "30"], 3, ["--compute", "nothing is held back"]),
        (&["slice", "create", "--gpu", "1", "--fraction", "1/4"], 3, ["--fraction", "given whole"]),
        (&["slice", "create", "--gpu", "1", "--on-missing", "allow"], 3, ["--on-missing", "given whole"]),
        (&["profile", "--engine", "whole", "--", "true"], 3, ["nothing is measured", "given whole"]),
        (&["slice", "create", "many", "--gpu", "1", "--count", "2"], 3, ["to itself", "one by one"]),
        (&["slice", "create", "--gpu", "8"], 3, ["memory", "not known"]),
        (&["slice", "create", "--gpu", "9"], 4, ["no GPU \"9\"", "0: NVIDIA"]),
        (&["slice", "resize", "amd", "--memory", "1GiB"], 3, ["amd", "can't be changed"]),
        (&["pause", "amd"], 3, ["amd", "can't be paused"]),
        (&["suspend", "amd"], 3, ["amd", "can't be suspended"]),
    ] {
        let said = place.fails(code, arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
    assert_eq!(place.slices().len(), 1);
    assert!(place.ok(&["slice", "show", "amd", "--explain"]).contains("has the device to itself"));
    let gpus = place.ok(&["gpus"]);
    assert!(gpus.lines().any(|line| line.contains("MI300X") && line.contains("amd ")), "{gpus}");
    let modes = place.json(&["modes"]);
    let engines = |gpu: usize| -> Vec<&str> {
        let all = modes["items"][gpu]["engines"].as_array().unwrap().iter();
        all.filter(|one| one["available"] == true).map(|one| one["engine"].as_str().unwrap()).collect()
    };
    assert_eq!((engines(0), engines(1), engines(4)), (vec!["spatial", "temporal"], vec!["whole"], vec!["whole"]));

    // What is another's whole is no place for a plan.
    let file = place.dir.path().join("plan.yaml");
    std::fs::write(&file, "workloads:\n  - { name: x, count: 2, memory: 10GiB, vendor: amd }\n").unwrap();
    let output = place.cleave(&["-o", "json", "plan", file.to_str().unwrap()]).output().unwrap();
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &planned["placements"][0]["gpus"]),
        (Some(3), &serde_json::json!([1])),
        "{planned}"
    );
    assert_eq!(
        (&planned["unplaced"][0]["name"], planned["placements"].as_array().map(Vec::len)),
        (&"x-2".into(), Some(1))
    );

    // CUDA shows nothing in a slice that has none of NVIDIA's.
    let tenant = [BINARY, "internal-tenant", "--mode", "grow", "--iterations", "1", "--pause-ms", "1"];
    let output = place.cleave(&[&["exec", "amd", "--"], &tenant[..]].concat()).output().unwrap();
    let said = support::stdout(&output);
    assert!(!output.status.success() && said.contains("cuInit: CUDA_ERROR_NO_DEVICE"), "{said}");
    assert_eq!(place.json(&["gpus"])["items"][0]["used_bytes"], 0);

    // The file that makes it again is the one that it gives out; once it is gone the device is free.
    let file = place.dir.path().join("slices.yaml");
    std::fs::write(&file, place.ok(&["slice", "export"])).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(place.json(&["apply", "-f", file])["items"][0]["action"], "unchanged");
    place.ok(&["slice", "delete", "amd"]);
    place.ok(&["apply", "-f", file]);
    assert_eq!(place.show("amd")["engine"], "whole");
}

/// A device that is gone after a restart: that is said, and nothing starts there, where it would take others' devices.
#[test]
fn nothing_starts_where_the_device_is_gone() {
    let place = Place::new("2xMI210");
    place.ok(&["slice", "create", "first", "--gpu", "0"]);
    place.ok(&["slice", "create", "second", "--gpu", "1"]);
    let cleave = |sim: &str, arguments: &[&str]| {
        let output = support::cleave(&place.run_dir()).args(["--sim", sim]).args(arguments).output().unwrap();
        (output.status.code(), support::stdout(&output), support::stderr(&output))
    };
    place.ok(&["shutdown"]);
    let mut daemon = support::cleave(&place.run_dir()).args(["--sim", "1xMI210", "daemon"]).spawn().unwrap();
    place::within(place::PATIENCE, "the daemon", || cleave("1xMI210", &["status"]).0 == Some(0));
    let (code, _, said) = cleave("1xMI210", &["exec", "second", "--", "true"]);
    assert!(code != Some(0) && said.contains("second") && said.contains("is not there"), "{code:?} {said}");
    let (code, printed, said) = cleave("1xMI210", &["exec", "first", "--", "env"]);
    assert!(code == Some(0) && printed.contains("ROCR_VISIBLE_DEVICES=GPU-0ddba11000000000\n"), "{printed}{said}");
    assert!(cleave("1xMI210", &["events"]).1.contains("nothing can start in slice"));
    cleave("1xMI210", &["shutdown"]);
    daemon.wait().unwrap();
}

/// A machine without NVIDIA's driver is a node, too, and its slices outlive the daemon.
#[test]
fn a_machine_without_nvidias_gpus_serves() {
    let place = Place::new("2xMI210");
    let mut daemon = place.cleave(&["daemon"]).spawn().unwrap();
    let answers = || place.cleave(&["status"]).output().unwrap().status.success();
    place::within(place::PATIENCE, "the daemon", answers);
    place.ok(&["slice", "create", "both", "--gpu", "0,1"]);
    place.ok(&["shutdown"]);
    daemon.wait().unwrap();
    let mut daemon = place.cleave(&["daemon"]).spawn().unwrap();
    place::within(place::PATIENCE, "the next daemon", answers);
    assert_eq!(told(&place, &["exec", "both"]), ["ROCR_VISIBLE_DEVICES=GPU-0ddba11000000000,GPU-0ddba11000000001"]);
    assert!(place.fails(3, &["run", "--gpu", "1", "--", "true"]).contains("is slice both's"));
    // Where there is nothing else, any GPU is one of those.
    assert!(place.fails(3, &["slice", "create", "--memory", "1GiB"]).contains("is slice both's"));
    place.ok(&["slice", "delete", "both"]);
    assert_eq!(told(&place, &["run"]), ["ROCR_VISIBLE_DEVICES=GPU-0ddba11000000000"]);
    assert!(place.fails(3, &["run", "--engine", "temporal", "--", "true"]).contains("temporal"));
    place.ok(&["shutdown"]);
    daemon.wait().unwrap();
}

/// The same where there is no driver of NVIDIA's at all: a simulated machine's devices laid over this one's.
#[test]
fn a_machine_without_nvidias_driver_serves() {
    let machine = Place::new("2xMI300X");
    machine.ok(&["slice", "create", "keeps-it", "--gpu", "0"]);
    let tree = machine.run_dir().join("driver/root/sys/bus/pci/devices");
    let dir = tempfile::tempdir().unwrap();
    let over = |program: &str| {
        let script = format!("mount --bind {} /sys/bus/pci/devices && exec {program}", tree.display());
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).env_remove("CLEAVE_SIM");
        command.env("CLEAVE_RUN_DIR", dir.path().join("run")).env("CLEAVE_STATE_DIR", dir.path().join("state"));
        command.output()
    };
    let real = ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/dev/nvidiactl"].iter().any(|path| Path::new(path).exists());
    if real || !over("true").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: it needs root, mount namespaces and /sys/bus/pci, and no driver of NVIDIA's");
        return;
    }
    let output = over(&format!("{BINARY} run --gpu 1 -- env")).unwrap();
    let told = support::stdout(&output);
    assert!(output.status.success(), "{}", support::stderr(&output));
    assert!(told.contains("ROCR_VISIBLE_DEVICES=GPU-5ca1ab1e00000001\n"), "{told}");
    let output = over(&format!("{BINARY} doctor")).unwrap();
    assert!(support::stdout(&output).contains("2 devices of other makers than NVIDIA"), "{}", support::stdout(&output));
}
