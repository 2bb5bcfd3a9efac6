//! MIG, whole, on simulated GPUs: layouts that are applied, kept and planned (A12, A13, B10), and what is in the way.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, PATIENCE, Place, within};
use serde_json::Value;
use std::path::PathBuf;

/// A program that is no slice's: with a context in a MIG device, or as an operator who destroys GPU 0's instances.
const OUTSIDER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#define CALL(name, ...) ((int (*)())dlsym(library, name))(__VA_ARGS__)
int main(int count, char **arguments) {
    if (!strcmp(arguments[1], "hold")) {
        void *library = dlopen("libcuda.so.1", RTLD_NOW), *context = 0;
        int codes[3] = {CALL("cuInit", 0), CALL("cuDevicePrimaryCtxRetain", &context, 0), 0}, seen = 0, units = 0, mib;
        char name[99] = "";
        size_t total = 0, where = 0;
        codes[2] = CALL("cuDeviceGetName", name, 99, 0);
        CALL("cuDeviceGetCount", &seen);
        CALL("cuDeviceGetAttribute", &units, 16, 0);
        CALL("cuDeviceTotalMem_v2", &total, 0);
        CALL("cuCtxSetCurrent", context);
        printf("{\"codes\": [%d, %d, %d], \"name\": \"%s\", ", codes[0], codes[1], codes[2], name);
        printf("\"devices\": %d, \"multiprocessors\": %d, \"mib\": %zu}\n", seen, units, total >> 20);
        fflush(stdout);
        while (scanf("%d", &mib) == 1) {
            printf("{\"code\": %d}\n", CALL("cuMemAlloc_v2", &where, (size_t)mib << 20));
            fflush(stdout);
        }
        return 0;
    }
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW), *gpu = 0;
    int gone = 0;
    CALL("nvmlInit_v2");
    CALL("nvmlDeviceGetHandleByIndex_v2", 0, &gpu);
    for (int id = 0; id < 16; id++) {
        void *instance = 0, *compute = 0;
        if (CALL("nvmlDeviceGetGpuInstanceById", gpu, id, &instance)) continue;
        for (int at = 0; at < 7; at++)
            if (!CALL("nvmlGpuInstanceGetComputeInstanceById", instance, at, &compute)) CALL("nvmlComputeInstanceDestroy", compute);
        gone += !CALL("nvmlGpuInstanceDestroy", instance);
    }
    printf("{\"gone\": %d}\n", gone);
    return 0;
}
"#;

/// A file of mig-parted's format with one config.
fn layout(place: &Place, name: &str, devices: &str, instances: &str) -> String {
    let path = place.dir.path().join(name);
    let enabled = if instances == "off" { "false" } else { "true" };
    let instances = if instances == "off" { "{}" } else { instances };
    let text = format!(
        "version: v1\nmig-configs:\n  {}:\n  - devices: {devices}\n    mig-enabled: {enabled}\n    mig-devices: {instances}\n",
        name.trim_end_matches(".yaml")
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The profiles and starts of a GPU's instances.
fn instances(place: &Place, gpu: usize) -> Vec<(String, u64)> {
    let shown = place.json(&["mig", "list"]);
    let all = shown["items"][gpu]["instances"].as_array().unwrap().clone();
    all.iter().map(|one| (one["profile"].as_str().unwrap().to_owned(), one["start"].as_u64().unwrap())).collect()
}

fn uuid(place: &Place, gpu: usize, instance: usize) -> String {
    place.json(&["mig", "list"])["items"][gpu]["instances"][instance]["uuid"].as_str().unwrap().to_owned()
}

fn outsider(place: &Place) -> PathBuf {
    place.compile_text("outsider", OUTSIDER)
}

/// Starts the outsider on the simulated driver, beside cleave.
fn beside(place: &Place, program: &PathBuf, role: &str, visible: Option<&str>) -> Held {
    let mut command = std::process::Command::new(program);
    command.arg(role).env("LD_LIBRARY_PATH", place.run_dir().join("driver")).env_remove("CUDA_VISIBLE_DEVICES");
    visible.map(|name| command.env("CUDA_VISIBLE_DEVICES", name));
    Held::new(command)
}

fn events(place: &Place, kind: &str) -> Vec<String> {
    let events = place.json(&["events"]);
    let of = events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
    of.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a12_a_layout_is_applied_once_checked_written_down_and_brought_back() {
    let place = Place::new("2xH100+T4");
    let balanced = layout(&place, "balanced.yaml", "[0, 1]", r#"{"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}"#);
    let differs = place.cleave(&["mig", "assert", "-f", &balanced]).output().unwrap();
    assert_eq!(differs.status.code(), Some(1));
    assert!(support::stdout(&differs).contains("GPU 1: MIG mode is off, not on"));
    let dry = place.json(&["mig", "apply", "-f", &balanced, "--dry-run"]);
    assert_eq!(dry["steps"].as_array().unwrap().len(), 10);
    assert_eq!(instances(&place, 0), []);
    let done = place.json(&["mig", "apply", "-f", &balanced]);
    assert_eq!(done["steps"], dry["steps"]);
    place.ok(&["mig", "assert", "-f", &balanced]);
    let expected = [("2g.20gb", 0), ("1g.10gb", 2), ("1g.10gb", 3), ("3g.40gb", 4)].map(|(p, s)| (p.to_owned(), s));
    assert_eq!((instances(&place, 0), instances(&place, 1)), (expected.to_vec(), expected.to_vec()));
    let first = uuid(&place, 0, 0);
    assert!(first.starts_with("MIG-") && first != uuid(&place, 1, 0));
    // The second time there is nothing to do.
    assert_eq!(place.json(&["mig", "apply", "-f", &balanced])["steps"], Value::Array(Vec::new()));
    assert!(place.ok(&["mig", "apply", "-f", &balanced]).contains("nothing to do"));
    assert_eq!(events(&place, "mig-applied").len(), 1);

    // What is exported is a file for apply; a checkpoint has the places.
    let exported = place.dir.path().join("exported.yaml");
    std::fs::write(&exported, place.ok(&["mig", "export"])).unwrap();
    place.ok(&["mig", "assert", "-f", exported.to_str().unwrap()]);
    let kept = place.dir.path().join("kept.json");
    let kept = kept.to_str().unwrap();
    place.ok(&["mig", "checkpoint", kept]);
    // A13: seven on a GPU, and only what differs is changed.
    let sevens = layout(&place, "sevens.yaml", "[0]", r#"{"1g.10gb": 7}"#);
    let steps = place.json(&["mig", "apply", "-f", &sevens])["steps"].as_array().unwrap().len();
    assert_eq!(steps, 2 + 5, "two are there already");
    assert_eq!(instances(&place, 0).len(), 7);
    let list = place.json(&["mig", "list"]);
    let small = &list["items"][0]["profiles"][0];
    assert_eq!(
        (small["name"].as_str(), small["memory_mib"].as_u64(), small["multiprocessors"].as_u64()),
        (Some("1g.10gb"), Some(9984), Some(16))
    );
    place.ok(&["mig", "restore", kept]);
    assert_eq!(instances(&place, 0), expected);
    assert_eq!(uuid(&place, 0, 0), first);
    let off = layout(&place, "off.yaml", "all", "off");
    place.ok(&["mig", "apply", "-f", &off]);
    place.ok(&["mig", "assert", "-f", &off]);
    assert_eq!(place.json(&["mig", "list"])["items"][0]["enabled"], false);
}

#[test]
fn what_is_busy_is_never_touched_and_its_user_is_named() {
    let place = Place::new("H100,mig+H100+T4");
    let two = layout(&place, "two.yaml", "[0]", r#"{"3g.40gb": 1, "2g.20gb": 1}"#);
    place.ok(&["mig", "apply", "-f", &two]);
    let program = outsider(&place);
    let mut held = beside(&place, &program, "hold", Some(&uuid(&place, 0, 1)));
    let said = held.line();
    assert_eq!(said["codes"], serde_json::json!([0, 0, 0]));
    assert_eq!(said["name"], "NVIDIA H100 80GB HBM3 MIG 3g.40gb");
    let pid = held.child.id().to_string();
    let shown = place.ok(&["mig", "list"]);
    assert!(shown.contains(&format!("pid {pid}")), "{shown}");
    let before = instances(&place, 0);
    let sevens = layout(&place, "sevens.yaml", "[0]", r#"{"1g.10gb": 7}"#);
    let refused = place.fails(5, &["mig", "apply", "-f", &sevens]);
    assert!(refused.contains("3g.40gb at 4 is used by") && refused.contains(&format!("process {pid} (")), "{refused}");
    let off = layout(&place, "off.yaml", "[0]", "off");
    let refused = place.fails(5, &["mig", "apply", "-f", &off]);
    assert!(refused.contains("only while it is idle") && refused.contains(&pid), "{refused}");
    assert_eq!(instances(&place, 0), before);
    // What is idle beside it is.
    let more = layout(&place, "more.yaml", "[0]", r#"{"3g.40gb": 1, "1g.10gb": 4}"#);
    place.ok(&["mig", "apply", "-f", &more]);
    assert_eq!(instances(&place, 0).len(), 5);
    held.end();

    // A mode waits for the GPU; all GPUs of a file are changed or none.
    let mut held = beside(&place, &program, "hold", Some("1"));
    assert_eq!(held.line()["codes"][0], 0);
    let both = layout(&place, "both.yaml", "[0, 1]", r#"{"7g.80gb": 1}"#);
    assert!(place.fails(5, &["mig", "apply", "-f", &both]).contains("GPU 1: its MIG mode"));
    assert_eq!(instances(&place, 0).len(), 5);
    held.end();
    place.ok(&["mig", "apply", "-f", &both]);
    assert_eq!(instances(&place, 1), [("7g.80gb".to_owned(), 0)]);
    let all = layout(&place, "all.yaml", "all", r#"{"7g.80gb": 1}"#);
    assert!(place.fails(3, &["mig", "apply", "-f", &all]).contains("GPU 2 (Tesla T4): this model has no MIG"));
}

#[test]
fn bad_layouts_say_what_is_wrong_and_change_nothing() {
    let place = Place::new("H100");
    for (instances, code, words) in [
        (r#"{"1g.5gb": 1}"#, 1, ["no profile \"1g.5gb\"", "it has 1g.10gb"]),
        (r#"{"1c.3g.40gb": 1}"#, 1, ["no profile \"1c.3g.40gb\"", "one compute instance each"]),
        (r#"{"4g.40gb": 2}"#, 3, ["2 instances of 4g.40gb are asked, and a GPU holds 1", "nearest: 4g.40gb + 3g.40gb"]),
        (r#"{"3g.40gb": 2, "1g.10gb": 1}"#, 3, ["take 9 memory slices, and a GPU has 8", "nearest"]),
        (r#"{"1g.10gb": many}"#, 1, ["line 6", "many"]),
    ] {
        let file = layout(&place, "bad.yaml", "[0]", instances);
        let said = place.fails(code, &["mig", "apply", "-f", &file]);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(place.fails(4, &["mig", "apply", "-f", &layout(&place, "far.yaml", "[3]", "{}")]).contains("no GPU \"3\""));
    assert!(place.fails(1, &["mig", "apply", "-f", "/nowhere.yaml"]).contains("/nowhere.yaml"));
    assert!(place.fails(1, &["mig", "restore", &layout(&place, "no.yaml", "[0]", "{}")]).contains("unknown field"));
    assert_eq!(place.json(&["mig", "list"])["items"][0]["enabled"], false);
}

#[test]
fn b10_plans_say_what_can_be_had_and_what_is_nearest() {
    let place = Place::new("H100,mig+T4");
    // "8 H100 with MIG at 4g = 16 slots" is wrong.
    let fours = ["mig", "plan", "--profile", "4g.40gb", "--gpus", "8xH100"];
    let counted = place.json(&fours);
    assert_eq!((counted["instances"].as_u64(), counted["offer"]["instances"].as_u64()), (Some(8), Some(16)));
    assert_eq!(counted["offer"]["per_gpu"], serde_json::json!(["4g.40gb", "3g.40gb"]));
    let said = place.ok(&fours);
    for words in [
        "8 of 4g.40gb on 8 GPUs",
        "not 16: 2 instances of 4g.40gb are asked, and a GPU holds 1",
        "16 instances: 4g.40gb + 3g.40gb",
    ] {
        assert!(said.contains(words), "{said}");
    }
    // What leaves most to others: 3g where four small ones fit beside it.
    let planned = place.json(&["mig", "plan", "--profiles", "3g.40gb"]);
    let first = &planned["items"][0];
    assert_eq!(first["instances"], serde_json::json!([{ "profile": "3g.40gb", "start": 4 }]));
    assert_eq!((first["room"]["1g.10gb"].as_u64(), first["room"]["4g.40gb"].as_u64()), (Some(4), Some(1)));
    place.ok(&["mig", "apply", "-f", &layout(&place, "four.yaml", "[0]", r#"{"4g.40gb": 1}"#)]);
    let planned = place.json(&["mig", "plan", "--profiles", "2g.20gb,1g.10gb", "--gpu", "0"]);
    assert_eq!(planned["items"][0]["instances"][0], serde_json::json!({ "profile": "2g.20gb", "start": 4 }));
    for (arguments, code, words) in [
        (vec!["--profiles", "4g.40gb", "--gpu", "0"], 3, "nearest: 3g.40gb"),
        (vec!["--profiles", "4g.40gb,4g.40gb,4g.40gb", "--gpus", "2xH100"], 3, "nearest on each: 4g.40gb + 3g.40gb"),
        (vec!["--profiles", "9g.1gb"], 1, "they have 1g.10gb"),
        (vec!["--profiles", "1g.10gb", "--gpu", "1"], 3, "has no MIG"),
        (vec!["--profile", "1g.10gb", "--gpus", "0xH100"], 1, "1 to 4096"),
        (vec!["--profile", "1g.10gb", "--gpus", "T4"], 1, "T4 has no MIG"),
        (vec!["--profile", "1g.10gb", "--gpus", "H1000"], 1, "no GPU \"H1000\""),
        (vec!["--profile", "1g.24gb", "--gpus", "B300"], 1, "not known"),
    ] {
        let said = place.fails(code, &[&["mig", "plan"], arguments.as_slice()].concat());
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let mixed = place.json(&["mig", "plan", "--profile", "1g.6gb", "--gpus", "2xA30+H100"]);
    assert_eq!(mixed["instances"], 8);
}

/// A daemon that stays, with its state beside it.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(place: &Place) -> Self {
        let state = place.dir.path().join("state");
        let child = place.cleave(&["daemon", "--state-dir", state.to_str().unwrap()]).spawn().unwrap();
        let answers = || place.cleave(&["status"]).output().unwrap().status.success();
        within(PATIENCE, "the daemon answers", answers);
        Self(child)
    }

    fn stop(mut self, place: &Place) {
        place.ok(&["shutdown"]);
        self.0.wait().unwrap();
    }
}

#[test]
fn a_layout_comes_back_after_a_reboot_and_after_somebody_else_changed_it() {
    let place = Place::new("H100");
    let daemon = Daemon::start(&place);
    let two = layout(&place, "two.yaml", "[0]", r#"{"4g.40gb": 1, "1g.10gb": 2}"#);
    place.ok(&["mig", "apply", "-f", &two]);
    let before = instances(&place, 0);
    daemon.stop(&place);
    // A restart changes nothing; a reboot takes mode and instances.
    let daemon = Daemon::start(&place);
    assert_eq!(instances(&place, 0), before);
    assert!(events(&place, "mig-restored").is_empty());
    daemon.stop(&place);
    std::fs::remove_file(place.run_dir().join("driver/state")).unwrap();
    let daemon = Daemon::start(&place);
    assert_eq!(instances(&place, 0), before);
    assert_eq!(events(&place, "mig-restored").len(), 1);

    let program = outsider(&place);
    let mut held = beside(&place, &program, "hold", Some(&uuid(&place, 0, 0)));
    held.line();
    assert_eq!(beside(&place, &program, "destroy", None).line()["gone"], 2, "the one in use can't be");
    within(PATIENCE, "they are back", || instances(&place, 0) == before);
    assert_eq!(events(&place, "mig-restored").len(), 2);
    held.end();
    // Who wants to look after it alone may.
    place.ok(&["mig", "forget", "0"]);
    assert!(place.fails(4, &["mig", "forget", "0"]).contains("has no layout"));
    assert_eq!(beside(&place, &program, "destroy", None).line()["gone"], 3);
    assert_eq!(place.json(&["mig", "list"])["items"][0]["layout"], Value::Null);
    daemon.stop(&place);
    let daemon = Daemon::start(&place);
    assert_eq!(instances(&place, 0), []);
    daemon.stop(&place);
}

fn create(place: &Place, name: &str, more: &[&str]) -> Value {
    place.json(&[&["slice", "create", "--name", name], more].concat())
}

#[test]
fn b11_a_slice_gets_the_smallest_instance_that_suffices_and_its_programs_see_that_alone() {
    let place = Place::new("H200,mig");
    let asked = ["--engine", "mig", "--memory", "18GiB", "--compute", "20"];
    let dry = create(&place, "one", &[&asked[..], &["--dry-run"]].concat());
    assert_eq!((dry["engine"].as_str(), dry["devices"][0]["mig_profile"].as_str()), (Some("mig"), Some("1g.35gb")));
    let reason = dry["engine_reason"].as_str().unwrap();
    assert!(reason.contains("1g.18gb has 16 GiB usable, less than 18 GiB; 1g.35gb has 32.25 GiB"), "{reason}");
    assert_eq!(instances(&place, 0), []);
    let made = create(&place, "one", &asked);
    let uuid = made["devices"][0]["mig_uuid"].as_str().unwrap().to_owned();
    assert!(uuid.starts_with("MIG-"), "{made}");
    create(&place, "two", &["--memory", "10GiB"]);
    let listed = place.json(&["mig", "list"]);
    let users: Vec<&Value> =
        listed["items"][0]["instances"].as_array().unwrap().iter().map(|one| &one["slices"][0]).collect();
    assert_eq!(users, ["two", "one"]);
    assert!(place.ok(&["env", "one"]).contains(&uuid));

    // Its instance's multiprocessors, its quota of the instance's memory; and the neighbour's is the neighbour's.
    let program = outsider(&place);
    let program = program.to_str().unwrap();
    let (mut one, mut two) = (place.start("one", &[program, "hold"]), place.start("two", &[program, "hold"]));
    let said = one.line();
    assert_eq!(said["codes"], serde_json::json!([0, 0, 0]), "{said}");
    assert_eq!(said["name"], "NVIDIA H200 MIG 1g.35gb");
    assert_eq!([&said["devices"], &said["multiprocessors"], &said["mib"]], [1, 26, 18 << 10]);
    let said = two.line();
    assert_eq!([&said["devices"], &said["multiprocessors"], &said["mib"]], [1, 16, 10 << 10]);
    assert_eq!(
        [one.ask("16384"), two.ask("8192")],
        [serde_json::json!({ "code": 0 }), serde_json::json!({ "code": 0 })]
    );
    assert_eq!(one.ask("4096")["code"], 2, "beyond its quota, within its instance");
    within(PATIENCE, "what NVML shows is charged", || place.used("one").0 > 16384 << 20);
    let gpu = place.json(&["gpus"]);
    assert_eq!(gpu["items"][0]["untracked_bytes"], 0, "{gpu}");
    assert!(events(&place, "bypass").is_empty() && events(&place, "untracked").is_empty());
    // Software on top: its quota moves within the instance, and it is paused and goes on.
    assert!(place.fails(3, &["slice", "resize", "one", "--memory", "40GiB"]).contains("32.25 GiB"));
    place.ok(&["slice", "resize", "one", "--memory", "30GiB"]);
    assert_eq!(one.ask("4096")["code"], 0);
    place.ok(&["pause", "one"]);
    place.ok(&["resume", "one"]);
    let explained = place.json(&["slice", "show", "one", "--explain"]);
    assert_eq!(explained["devices"][0]["neighbours"], serde_json::json!([]), "{explained}");
    assert_eq!(explained["devices"][0]["share_percent"], 100.0);

    // What is promised is not touched, and the instance ends with its slice.
    let refused = place.fails(5, &["mig", "apply", "-f", &layout(&place, "whole.yaml", "[0]", r#"{"7g.141gb": 1}"#)]);
    assert!(refused.contains("slice one") && refused.contains("slice two"), "{refused}");
    one.end();
    within(PATIENCE, "its program is gone", || place.is_empty("one"));
    place.ok(&["slice", "delete", "one"]);
    assert_eq!(instances(&place, 0).len(), 1);
    place.ok(&["slice", "delete", "two", "--force"]);
    assert_eq!(instances(&place, 0), []);
    let error = place.fails(3, &["slice", "create", "--engine", "mig", "--memory", "150GiB"]);
    assert!(error.contains("no MIG instance has 150 GiB: the largest, 7g.141gb has 139.50 GiB usable"), "{error}");
}

#[test]
fn a2_mig_is_chosen_where_it_is_on_and_whole_gpus_serve_the_rest() {
    let place = Place::new("H100,mig+H100+T4");
    let engine = |more: &[&str]| {
        let made = create(&place, "x", &[more, &["--dry-run"]].concat());
        (made["engine"].as_str().unwrap().to_owned(), made["devices"][0]["gpu"].as_u64().unwrap())
    };
    let expect = |engine: &str, gpu| (engine.to_owned(), gpu);
    assert_eq!(engine(&["--gpu", "0", "--memory", "8GiB", "--compute", "25"]), expect("mig", 0));
    assert_eq!(engine(&["--memory", "8GiB"]), expect("mig", 0));
    assert_eq!(engine(&["--gpu", "1", "--memory", "8GiB"]), expect("temporal", 1));
    assert_eq!(
        engine(&["--gpu", "2", "--memory", "8GiB", "--compute", "25", "--trust-domain", "team"]),
        expect("spatial", 2)
    );
    assert_eq!(engine(&["--engine", "temporal", "--memory", "8GiB"]), expect("temporal", 1));
    // A trust domain asks for whole GPUs, where there are some.
    assert_eq!(engine(&["--memory", "8GiB", "--trust-domain", "team"]).0, "temporal");
    assert_eq!(engine(&["--memory", "8GiB", "--trust-domain", "team", "--gpu", "0"]), expect("mig", 0));
    for (arguments, words) in [
        (vec!["--gpu", "0", "--engine", "temporal"], "MIG mode is on"),
        (vec!["--gpu", "1", "--engine", "mig"], "MIG mode is off"),
        (vec!["--gpu", "2", "--engine", "mig"], "this model has no MIG"),
        (vec!["--gpu", "0,1", "--engine", "mig"], "an instance is of one"),
    ] {
        let said = place.fails(3, &[&["slice", "create", "--memory", "8GiB"], arguments.as_slice()].concat());
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let modes = place.json(&["modes"]);
    let can = |gpu: usize| {
        let engines = modes["items"][gpu]["engines"].as_array().unwrap().clone();
        engines
            .iter()
            .filter(|one| one["available"] == true)
            .map(|one| one["engine"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!((can(0), can(2)), (vec!["mig".to_owned()], vec!["spatial".to_owned(), "temporal".to_owned()]));
    // Nothing new goes to a GPU that is drained, and no slice leaves its instance.
    place.ok(&["drain", "0"]);
    assert_eq!(engine(&["--memory", "8GiB"]), expect("temporal", 1));
    assert!(place.fails(3, &["slice", "create", "--gpu", "0", "--memory", "8GiB"]).contains("drained"));
    place.ok(&["undrain", "0"]);
    create(&place, "walled", &["--memory", "8GiB"]);
    assert!(place.fails(3, &["drain", "0"]).contains("slice \"walled\" has a MIG instance of it"));
    place.ok(&["slice", "delete", "walled"]);
    // When the instances are gone, whole GPUs serve; and what MIG has is not offered in software.
    create(&place, "all", &["--engine", "mig", "--compute", "100"]);
    assert_eq!(engine(&["--memory", "8GiB"]), expect("temporal", 1));
    let full = place.fails(3, &["slice", "create", "--gpu", "0", "--memory", "8GiB"]);
    assert!(full.contains("no MIG instance with 8 GiB is free, and none fits"), "{full}");
    let whole = create(&place, "whole", &["--gpu", "1", "--memory", "8GiB"]);
    assert_eq!(whole["devices"][0]["mig_profile"], Value::Null);
    // And a GPU with slices of its own is not divided under them.
    let both = layout(&place, "both.yaml", "[1]", "{}");
    assert!(place.fails(5, &["mig", "apply", "-f", &both]).contains("slice whole"));
}

#[test]
fn a_slice_takes_a_free_instance_of_the_layout_which_stays_and_comes_back_with_it_after_a_reboot() {
    let place = Place::new("A30,mig");
    let daemon = Daemon::start(&place);
    place.ok(&["mig", "apply", "-f", &layout(&place, "two.yaml", "[0]", r#"{"2g.12gb": 1}"#)]);
    let before = instances(&place, 0);
    let taken = create(&place, "taken", &["--engine", "mig", "--memory", "8GiB"]);
    assert!(taken["engine_reason"].as_str().unwrap().contains("a free one at memory slice 0"), "{taken}");
    assert_eq!(instances(&place, 0), before);
    let made = create(&place, "made", &["--memory", "4GiB"]);
    assert_eq!(made["devices"][0]["mig_profile"], "1g.6gb");
    let both = instances(&place, 0);
    assert_eq!(both.len(), 2);
    daemon.stop(&place);
    std::fs::remove_file(place.run_dir().join("driver/state")).unwrap();
    let daemon = Daemon::start(&place);
    assert_eq!(instances(&place, 0), both);
    let program = outsider(&place);
    let mut held = place.start("made", &[program.to_str().unwrap(), "hold"]);
    assert_eq!(held.line()["name"], "NVIDIA A30 MIG 1g.6gb");
    held.end();
    within(PATIENCE, "its program is gone", || place.is_empty("made"));
    place.ok(&["slice", "delete", "made", "taken"]);
    assert_eq!(instances(&place, 0), before);
    // What still runs in an instance that was made for a slice keeps it, though the slice is no more.
    create(&place, "left", &["--memory", "4GiB"]);
    let mut held = beside(&place, &program, "hold", Some(&uuid(&place, 0, 1)));
    held.line();
    place.ok(&["slice", "delete", "left"]);
    assert_eq!(instances(&place, 0), both);
    held.end();
    within(PATIENCE, "it goes when nobody is in it", || instances(&place, 0) == before);
    daemon.stop(&place);
}
