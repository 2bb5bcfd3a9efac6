//! `cleave plan` from its command line: on fleets that are written down, on this machine, and carried out on simulated ones.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Place, number};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn plan(dir: &Path, text: &str, arguments: &[&str]) -> Output {
    let file = dir.join("plan.yaml");
    std::fs::write(&file, text).unwrap();
    support::cleave(dir).arg("plan").arg(&file).args(arguments).output().unwrap()
}

/// What it printed as JSON, and how it ended.
fn json(dir: &Path, text: &str, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = plan(dir, text, &[&["-o", "json"], arguments].concat());
    let value = serde_json::from_slice(&output.stdout);
    (value.unwrap_or_else(|_| panic!("{}", support::stderr(&output))), output.status.code())
}

/// The places, by name.
fn places(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = plan["placements"].as_array().unwrap().iter();
    all.map(|one| (text(&one["name"]), format!("{} {}", text(&one["node"]), one["gpus"]))).collect()
}

const FLEET: &str = "
site: { watts: 8000 }
fleet:
  - { name: dc, count: 2, gpus: '2xH100,mig+2xH100', location: paris }
  - { name: edge, gpus: 2xT4, tier: dev }
  - { name: lab, gpus: 1xTesla K80 }
  - { name: amd, gpus: 4xMI300X }
  - { name: npu, gpus: 2xAscend 910A }
workloads:
  - { name: chat, count: 3, model: llama-3-8b, context: 8192, concurrency: 8, tier: prod, priority: production }
  - { name: embed, count: 2, memory: 6GiB, compute: 30, bandwidth: 60, trust_domain: team, location: paris }
  - { name: note, count: 2, memory: 4GiB, tier: dev }
  - { name: old, memory: 2GiB, gpu: K80 }
  - { name: big, model: llama-3-70b, gpus: 2, vendor: amd }
";

/// One file with several vendors and generations is planned, and every candidate is explained.
#[test]
fn a_mixed_fleet_is_planned_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let text = FLEET.replace("gpu: K80", "gpu: Tesla K80");
    let (found, code) = json(dir.path(), &text, &["--explain"]);
    assert_eq!(code, Some(0), "{found}");
    let places = places(&found);
    assert_eq!(places.len(), 9);
    for (name, place) in &places {
        let node = match name.split('-').next().unwrap() {
            "chat" | "embed" => "dc-",
            "note" => "edge",
            "old" => "lab",
            _ => "amd",
        };
        assert!(place.starts_with(node), "{name}: {place}");
    }
    for one in found["placements"].as_array().unwrap() {
        assert!(!one["reason"].as_str().unwrap().is_empty());
        assert_eq!(one["candidates"][0]["gpus"], one["gpus"]);
    }
    assert!(found["watts"].as_f64().unwrap() <= 8000.0 && found["schema"] == "cleave.dev/v1/plan", "{found}");
    let shown = support::stdout(&plan(dir.path(), &text, &["--explain"]));
    for words in
        ["chat-1", "3g.40gb", "RANK", "WASTE", "of 17 GPUs in use", "8000 W at most", "tier: edge is for tier dev"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

/// The example of the documentation.
#[test]
fn the_example_has_a_place_for_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (found, code) = json(dir.path(), include_str!("../../../docs/examples/fleet.yaml"), &["--explain"]);
    assert_eq!((code, found["placements"].as_array().map(Vec::len)), (Some(0), Some(17)), "{found}");
}

/// What if: more tenants, a node or a GPU less, another size, less power. No more is moved than must be.
#[test]
fn what_would_happen_if() {
    let dir = tempfile::tempdir().unwrap();
    let text = "fleet:\n  - { name: n, count: 2, gpus: 2xH100 }\nworkloads:\n  - { name: a, count: 2, memory: 60GiB }\n  - { name: b, memory: 30GiB }\n";
    let before = places(&json(dir.path(), text, &[]).0);
    let what = |arguments: &[&str]| {
        let (found, code) = json(dir.path(), text, arguments);
        let text = |value: &Value| value.as_str().unwrap_or("nowhere").to_owned();
        let all = found["differences"].as_array().unwrap().iter();
        let moved: Vec<_> = all.map(|one| (text(&one["name"]), text(&one["from"]), text(&one["to"]))).collect();
        (moved, found, code)
    };
    let (moved, _, code) = what(&["--add", "a=1"]);
    assert!(code == Some(0) && moved.len() == 1 && moved[0].0 == "a-3" && moved[0].1 == "nowhere", "{moved:?}");
    let (moved, found, code) = what(&["--add", "a=3"]);
    assert!(code == Some(3) && moved.iter().any(|one| one.0 == "a-5" && one.2 == "nowhere"), "{moved:?}");
    assert_eq!(found["unplaced"][0]["rule"], "memory");
    let lost = before.iter().find(|one| one.0 == "a-2").unwrap().1.replace(" [", "/").replace(']', "");
    let (moved, found, code) = what(&["--lose", &lost]);
    assert_eq!((code, moved.iter().map(|one| one.0.as_str()).collect::<Vec<_>>()), (Some(0), vec!["a-2"]));
    assert_eq!(number(&found["gpus_total"]), 3);
    let (moved, ..) = what(&["--lose", "n-1", "--lose", "n-2/0"]);
    assert!(moved.iter().any(|one| one.2 == "nowhere"), "{moved:?}");
    let (moved, ..) = what(&["--change", "b:memory=70GiB"]);
    assert!(moved.iter().all(|one| one.0 == "b"), "{moved:?}");
    let (moved, found, code) = what(&["--watts", "1400"]);
    assert_eq!((code, moved.len(), found["watts"].as_f64()), (Some(3), 1, Some(1400.0)));
    let shown = support::stdout(&plan(dir.path(), text, &["--add", "a=1"]));
    assert!(shown.contains("what changes") && shown.contains("GPUs in use: 4 instead of 3"), "{shown}");
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let base = "fleet:\n  - { name: n, gpus: 2xH100 }\nworkloads:\n";
    for (text, arguments, code, words) in [
        ("workloads:\n  - { name: a, memory: lots }\n", &[][..], 1, ["line 2", "lots", "bytes with a unit"]),
        (
            "workloads:\n  - name: a\n    memory: 1GiB\n    compute: 120\n",
            &[],
            1,
            ["line 4", "`compute: 120`", "at most 100"],
        ),
        ("workloads:\n  - { name: a, colour: red }\n", &[], 1, ["line 2", "colour", "unknown field"]),
        ("workloads: []\n", &[], 1, ["plan.yaml", "workloads", "nothing to plan"]),
        (
            "fleet:\n  - { name: n, gpus: 8xH900 }\nworkloads:\n  - { name: a, memory: 1GiB }\n",
            &[],
            1,
            ["node n", "gpus", "H900"],
        ),
        (
            "fleet:\n  - { name: n, inventory: none.yaml }\nworkloads:\n  - { name: a, memory: 1GiB }\n",
            &[],
            1,
            ["none.yaml", "No such file", ""],
        ),
        ("@  - { name: a, model: gpt-9 }\n", &[], 1, ["workload a", "model", "gpt-9"]),
        ("@  - { name: a, memory: 1GiB }\n", &["--lose", "m"], 4, ["--lose m", "not in the fleet", "there are n"]),
        (
            "@  - { name: a, memory: 1GiB }\n",
            &["--add", "b=1"],
            4,
            ["--add b=1", "no workload", "name one of the file"],
        ),
        ("@  - { name: a, memory: 1GiB }\n", &["--add", "a"], 1, ["--add a", "= is missing", "chat=2"]),
        ("@  - { name: a, memory: 1GiB }\n", &["--change", "a:size=2"], 1, ["size", "unknown field", "--change"]),
        (
            "@  - { name: a, memory: 1GiB }\n",
            &["--apply", "--watts", "3"],
            1,
            ["--apply", "what would be if", "change the file"],
        ),
    ] {
        let output = plan(dir.path(), &text.replace('@', base), arguments);
        let said = support::stderr(&output);
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
        assert!(output.status.code() == Some(code) && output.stdout.is_empty(), "{text}: {:?}", output.status.code());
    }
}

/// B10.
#[test]
fn a_wrong_count_of_slots_comes_out_right() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        support::cleave(dir.path()).args(["plan", "--profile", "4g.40gb", "--gpus", "8xH100"]).output().unwrap();
    let said = support::stdout(&output);
    for words in ["8 of 4g.40gb on 8 GPUs", "not 16", "16 instances", "3g.40gb"] {
        assert!(output.status.success() && said.contains(words), "{said}");
    }
}

/// A plan is made of what a machine has, beside what is on it, and carried out; the second time there is nothing to do.
#[test]
fn a_plan_is_carried_out_on_this_machine() {
    let place = Place::new("2xH100");
    place.ok(&["slice", "create", "other", "--gpu", "0", "--memory", "60GiB"]);
    let file = place.dir.path().join("plan.yaml");
    let file = file.to_str().unwrap();
    let text = "workloads:\n  - { name: big, memory: 40GiB, compute: 50, priority: production }\n  - { name: small, count: 2, memory: 15GiB }\n";
    std::fs::write(file, text).unwrap();
    let found = place.json(&["plan", file]);
    assert!(
        places(&found).contains(&("big".into(), places(&found)[0].1.clone())) && places(&found)[0].1.ends_with("[1]")
    );
    place.ok(&["plan", file, "--apply"]);
    let slices = place.slices();
    assert_eq!(slices.len(), 4);
    let big = slices.iter().find(|one| one["name"] == "big").unwrap();
    assert_eq!((number(&big["devices"][0]["limit_bytes"]) >> 30, number(&big["devices"][0]["gpu"])), (40, 1));
    assert_eq!((big["compute_percent"].as_f64(), &big["priority"]), (Some(50.0), &Value::from("production")));
    let again = place.json(&["plan", file, "--apply"]);
    assert!(again["items"].as_array().unwrap().iter().all(|one| one["action"] == "unchanged"), "{again}");
    // What has no place: nothing is done about the rest either.
    std::fs::write(file, text.replace("count: 2", "count: 9")).unwrap();
    let said = place.fails(3, &["plan", file, "--apply"]);
    assert!(said.contains("nothing was done") && place.slices().len() == 4, "{said}");
}

#[test]
fn nothing_new_goes_to_a_gpu_that_is_drained() {
    let place = Place::new("2xH100");
    let file = place.dir.path().join("plan.yaml");
    std::fs::write(&file, "workloads:\n  - { name: a, count: 2, memory: 50GiB }\n").unwrap();
    place.ok(&["plan", file.to_str().unwrap()]);
    place.ok(&["drain", "0"]);
    let output = place.cleave(&["-o", "json", "plan", file.to_str().unwrap()]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(places(&found).len() == 1 && places(&found)[0].1.ends_with("[1]"), "{found}");
    assert!(support::stderr(&output).contains("GPU 0 is being drained"), "{}", support::stderr(&output));
}

/// One file for nodes of unlike generations: each makes its own part, by hardware's walls, in space and in turns.
#[test]
fn a_fleet_is_carried_out_node_by_node() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yaml");
    std::fs::write(
        &file,
        "fleet:
  - { name: big, gpus: '1xH100,mig+1xH100,temporal' }
  - { name: mid, gpus: 1xL40S, engine: spatial }
  - { name: low, gpus: 1xTesla K80 }
  - { name: amd, gpus: 1xMI300X }
workloads:
  - { name: prod, count: 2, memory: 16GiB, compute: 22, tier: prod }
  - { name: whole, slice: 4g.40gb, count: 1, node: big, priority: experiment }
  - { name: side, memory: 10GiB, compute: 25, trust_domain: team, node: mid }
  - { name: turn, memory: 2GiB, tier: dev, node: low }
  - { name: other, memory: 20GiB, vendor: amd }
",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let engines = |place: &Place| {
        let mut all: Vec<(String, String)> = (place.slices().iter())
            .map(|one| (one["name"].as_str().unwrap().to_owned(), one["engine"].as_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    };
    let named = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    // 4g beside two of 2g does not fit: the one of the lowest class has no place.
    let refused = Place::new("H100,mig+1xH100").fails(3, &["plan", file, "--node", "big", "--apply"]);
    assert!(refused.contains("whole"), "{refused}");
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.replace("count: 2, memory: 16GiB, compute: 22", "count: 1, memory: 16GiB, compute: 22"))
        .unwrap();
    let big = Place::new("H100,mig+1xH100");
    big.ok(&["plan", file, "--node", "big", "--apply"]);
    assert_eq!(engines(&big), named(&[("prod", "mig"), ("whole", "mig")]));
    let profile = |name: &str| big.show(name)["devices"][0]["mig_profile"].as_str().unwrap().to_owned();
    assert_eq!((profile("prod").as_str(), profile("whole").as_str()), ("2g.20gb", "4g.40gb"));
    let low = Place::new("1xK80");
    low.ok(&["plan", file, "--node", "low", "--apply"]);
    assert_eq!(engines(&low), named(&[("turn", "temporal")]));
    // A machine that is not what the file says it is gets nothing.
    let said = low.fails(5, &["plan", file, "--node", "mid", "--apply"]);
    assert!(said.contains("L40S") && said.contains("K80") && said.contains("nothing was done"), "{said}");
    assert_eq!(engines(&low).len(), 1);
    // What nothing divides is given whole.
    let amd = Place::new("1xMI300X");
    amd.ok(&["plan", file, "--node", "amd", "--apply"]);
    assert_eq!(engines(&amd), named(&[("other", "whole")]));
}

/// A fleet of six makers and five generations from one file: planned, explained, and carried out on every node, where a second
/// time there is nothing to do. Each replica is where the plan says, and none is anywhere else.
#[test]
fn a_fleet_of_many_makers_is_planned_explained_and_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../../docs/examples/makers.yaml");
    let file = dir.path().join("makers.yaml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (planned, code) = json(dir.path(), text, &["--explain"]);
    assert_eq!(code, Some(0), "{planned}");
    let all = places(&planned);
    assert_eq!(planned["unplaced"], Value::Array(Vec::new()));
    for one in planned["placements"].as_array().unwrap() {
        assert!(!one["reason"].as_str().unwrap().is_empty() && one["candidates"][0]["gpus"] == one["gpus"], "{one}");
        assert_eq!(one["engine"] == "whole", one["vendor"] != "nvidia", "{one}");
    }
    let mut made = Vec::new();
    for (node, spec) in [
        ("dc", "2xH100,mig+2xH100"),
        ("edge", "L40S+2xT4"),
        ("lab", "K80"),
        ("amd", "4xMI300X"),
        ("intel", "2xMax1550"),
        ("gaudi", "2xGaudi3"),
        ("npu", "2x910A"),
        ("mixed", "A100+MI210"),
    ] {
        let place = Place::new(spec);
        place.ok(&["plan", file, "--node", node, "--apply"]);
        let again = place.json(&["plan", file, "--node", node, "--apply"]);
        assert!(again["items"].as_array().unwrap().iter().all(|one| one["action"] == "unchanged"), "{node}: {again}");
        for slice in place.slices() {
            let gpus: Vec<u64> = slice["devices"].as_array().unwrap().iter().map(|one| number(&one["gpu"])).collect();
            made.push((slice["name"].as_str().unwrap().to_owned(), format!("{node} {gpus:?}").replace(", ", ",")));
        }
        // Its programs start.
        for slice in place.slices() {
            place.ok(&["exec", slice["name"].as_str().unwrap(), "--", "true"]);
        }
    }
    let (mut made, mut all) = (made, all);
    made.sort();
    all.sort();
    assert_eq!(made, all);
}

/// Which GPU a slice gets that may have any is the operator's to say.
#[test]
fn any_gpu_is_the_emptiest_or_the_one_that_it_fills_best() {
    for (placement, expected) in [(None, [0, 1, 0]), (Some("pack"), [0, 0, 0])] {
        let place = Place::new("2xH100");
        let gpus = ["a", "b", "c"].map(|name| {
            let mut command =
                place.cleave(&["slice", "create", "--name", name, "--memory", "20GiB", "--compute", "25%"]);
            if let Some(placement) = placement {
                command.env("CLEAVE_PLACEMENT", placement);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", support::stderr(&output));
            number(&place.show(name)["devices"][0]["gpu"])
        });
        assert_eq!(gpus, expected, "{placement:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = support::cleave(dir.path()).args(["daemon", "--placement", "tetris"]).output().unwrap();
    let said = support::stderr(&output);
    assert!(output.status.code() == Some(2) && said.contains("tetris") && said.contains("spread or pack"), "{said}");
}
