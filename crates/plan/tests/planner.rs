//! Where workloads go: each rule of requirements.md that the planner answers for, on fleets that are written down.
use cleave_api::Engine;
use cleave_inventory::matrix;
use cleave_plan::fleet::{Fleet, gpus};
use cleave_plan::planner::{Busy, Places, plan};
use cleave_plan::spec::File;
use cleave_plan::told::{Placement, Plan, Rule};
use cleave_policy::pack::{Amount, WHOLE, lower_bound, pack};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

fn file(value: Value) -> Result<File, String> {
    serde_json::from_value::<File>(value).map_err(|e| e.to_string())?.checked()
}

fn fleet(file: &File) -> Fleet {
    let mut fleet = Fleet::default();
    for node in &file.fleet {
        fleet.add(node, gpus(node.gpus.as_deref().unwrap()).unwrap()).unwrap();
    }
    fleet
}

fn planned(value: Value) -> Plan {
    let file = file(value).unwrap();
    plan(&file, &fleet(&file), &[], &Places::new(), true).unwrap()
}

fn of<'a>(plan: &'a Plan, name: &str) -> &'a Placement {
    plan.placements.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name}: {:?}", plan.unplaced))
}

fn place(plan: &Plan, name: &str) -> (String, Vec<u32>) {
    let place = &of(plan, name).place;
    (place.node.clone(), place.gpus.clone())
}

/// B1: as many GPUs as the fewest that can be; among GPUs of two kinds one more at most.
#[test]
fn twelve_workloads_need_no_more_gpus_than_the_best_packing() {
    let strategy = proptest::collection::vec((1u64..60, 5u32..70), 12);
    let config =
        ProptestConfig { cases: 300, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Default::default() };
    proptest!(config, |(sizes in strategy)| {
        let workloads: Vec<Value> = sizes
            .iter()
            .enumerate()
            .map(|(at, (gib, percent))| json!({"name": format!("w{at}"), "memory": format!("{gib}GiB"), "compute": percent.to_string()}))
            .collect();
        let found = planned(json!({"fleet": [{"name": "n", "gpus": "16xH100"}], "workloads": workloads.clone()}));
        prop_assert!(found.unplaced.is_empty());
        // The same GPUs, of which some stand elsewhere.
        let nodes = json!([{"name": "n", "gpus": "8xH100"}, {"name": "m", "gpus": "8xH100", "location": "there"}]);
        let apart = planned(json!({"fleet": nodes, "workloads": workloads}));
        prop_assert!(apart.unplaced.is_empty());
        let needs: Vec<Amount> = sizes
            .iter()
            .map(|(gib, percent)| Amount { memory: gib << 10, compute: *percent as u16 * 10, bandwidth: 0 })
            .collect();
        let whole = Amount { memory: 81559, compute: WHOLE, bandwidth: WHOLE };
        let best = pack(&needs, &whole).unwrap().len();
        prop_assert_eq!(found.gpus.len(), best);
        prop_assert!(apart.gpus.len() <= best + 1, "{} GPUs, and {best} would do", apart.gpus.len());
        for gpu in &found.gpus {
            prop_assert!(gpu.memory_bytes <= gpu.memory_total_bytes && gpu.compute_percent <= 100.0, "{gpu:?}");
        }
        prop_assert!(found.gpus.len() >= lower_bound(&needs, &whole));
    });
}

/// B2.
#[test]
fn two_that_live_on_bandwidth_are_kept_apart_where_that_is_possible() {
    let workloads = json!([
        {"name": "a", "memory": "10GiB", "compute": "30", "bandwidth": "70"},
        {"name": "b", "memory": "10GiB", "compute": "30", "bandwidth": "70"},
        {"name": "c", "memory": "10GiB", "compute": "30", "bandwidth": "20"},
    ]);
    let apart = planned(json!({"fleet": [{"name": "n", "gpus": "2xH100"}], "workloads": workloads}));
    assert_ne!(place(&apart, "a"), place(&apart, "b"));
    assert!(of(&apart, "b").reason.contains("memory bandwidth"), "{}", of(&apart, "b").reason);
    assert!(apart.warnings.is_empty() && apart.gpus.len() == 2, "{apart:?}");
    let together = planned(json!({"fleet": [{"name": "n", "gpus": "1xH100"}], "workloads": workloads}));
    assert_eq!(place(&together, "a"), place(&together, "b"));
    assert!(
        together.warnings.iter().any(|one| one.contains("short by") && one.contains("nowhere less")),
        "{together:?}"
    );
    // MIG divides bandwidth too.
    let two = json!([{"name": "w", "count": 2, "memory": "10GiB", "compute": "30", "bandwidth": "70"}]);
    let mig = planned(json!({"fleet": [{"name": "n", "gpus": "2xH100,mig"}], "workloads": two}));
    assert!(mig.gpus.len() == 1 && mig.warnings.is_empty(), "{mig:?}");
}

/// A fleet of one node whose links a real machine's matrix says.
fn linked(matrix: &str, model: &str, workloads: Value) -> Plan {
    let read = matrix::read(matrix).unwrap();
    let text = format!("{}x{model}", read.devices.len());
    let file = file(json!({"fleet": [{"name": "n", "gpus": text}], "workloads": workloads})).unwrap();
    let mut fleet = Fleet::default();
    fleet.add_linked(&file.fleet[0], gpus(&text).unwrap(), &read).unwrap();
    plan(&file, &fleet, &[], &Places::new(), true).unwrap()
}

/// B3, B4, B5.
#[test]
fn gpus_that_work_together_are_those_that_are_linked_best() {
    let pair = json!([{"name": "tp", "memory": "10GiB", "gpus": 2}]);
    let bridge = linked(include_str!("../../inventory/tests/topo/a6000-bridge.txt"), "RTX A6000", pair.clone());
    let one = of(&bridge, "tp");
    assert!(one.place.links.iter().all(|link| link.starts_with("NV")), "{one:?}");
    assert!(one.cpus.as_deref().is_some_and(|cpus| cpus.contains('-')), "{one:?}");
    // Without NVLink: every kind of path, the best taken first, and every pair has a score.
    let pcie = linked(include_str!("../../inventory/tests/topo/pcie-paths.txt"), "RTX A6000", pair);
    let one = of(&pcie, "tp");
    let candidates = one.candidates.as_ref().unwrap();
    let devices = pcie.gpus_total;
    assert_eq!(candidates.len(), devices * (devices - 1) / 2);
    let rank = |link: &str| ["PIX", "PXB", "PHB", "NODE", "SYS"].iter().position(|path| *path == link).unwrap();
    let ranks: Vec<usize> = candidates.iter().map(|one| rank(&one.links[0])).collect();
    assert!(ranks.is_sorted() && ranks.first() < ranks.last(), "{ranks:?}");
    assert_eq!(one.place, candidates[0]);
    assert!(one.reason.contains(&one.place.links[0]), "{}", one.reason);
    // The second pair takes what the first has left, where the first holds all of its GPUs' time.
    let two = json!([{"name": "tp", "count": 2, "memory": "10GiB", "compute": "100", "gpus": 2}]);
    let two = linked(include_str!("../../inventory/tests/topo/pcie-paths.txt"), "RTX A6000", two);
    let (first, second) = (place(&two, "tp-1"), place(&two, "tp-2"));
    assert!(first.1.iter().all(|gpu| !second.1.contains(gpu)), "{first:?} {second:?}");
}

/// B6.
#[test]
fn a_vendor_is_asked_for_or_not() {
    let nodes = json!([{"name": "nv", "gpus": "1xL40S"}, {"name": "amd", "gpus": "1xMI300X"}, {"name": "npu", "gpus": "1x910B4"}]);
    let found = planned(json!({"fleet": nodes, "workloads": [
        {"name": "any", "memory": "10GiB", "vendor": "any"},
        {"name": "amd", "memory": "10GiB", "vendor": "amd"},
        {"name": "npu", "memory": "10GiB", "vendor": ["huawei", "habana"]},
        {"name": "none", "memory": "10GiB", "vendor": "intel"},
    ]}));
    assert_eq!(place(&found, "amd"), ("amd".into(), vec![0]));
    assert_eq!(place(&found, "npu"), ("npu".into(), vec![0]));
    assert!(found.placements.iter().any(|one| one.name == "any"));
    let [none] = found.unplaced.as_slice() else { panic!("{:?}", found.unplaced) };
    assert_eq!((none.name.as_str(), none.rule), ("none", Rule::Vendor));
    assert!(none.offers.iter().any(|offer| offer.starts_with("another vendor")), "{:?}", none.offers);
    assert!(
        found.warnings.iter().any(|one| one.contains("to itself") && one.contains("amd, npu")),
        "{:?}",
        found.warnings
    );
}

/// Nothing divides other makers' devices, so none is shared: each workload has the smallest that suffices to itself.
#[test]
fn other_makers_devices_are_given_whole() {
    let nodes = json!([{"name": "n", "gpus": "2xMI300X+2xMI210"}]);
    let found = planned(json!({"fleet": nodes, "workloads": [
        {"name": "a", "count": 4, "memory": "10GiB", "compute": "10"},
        {"name": "b", "memory": "100GiB", "priority": "production"},
        {"name": "t", "memory": "10GiB", "engine": "temporal", "priority": "production"},
    ]}));
    assert!(found.placements.iter().all(|one| one.place.engine == Engine::Whole), "{found:?}");
    let mut used: Vec<u32> = found.placements.iter().flat_map(|one| one.place.gpus.clone()).collect();
    used.sort_unstable();
    assert_eq!(used, [0, 1, 2, 3]);
    assert!(place(&found, "b").1[0] < 2 && place(&found, "a-1").1[0] >= 2, "{found:?}");
    assert_eq!(found.placements.iter().find(|one| one.name == "a-1").unwrap().compute_percent, Some(10.0));
    let without: Vec<(&str, Rule)> = found.unplaced.iter().map(|one| (one.name.as_str(), one.rule)).collect();
    assert!(without.len() == 2 && without.contains(&("t", Rule::Engine)), "{without:?}");
    let tier = json!({"prod": {"engines": ["mig", "whole"]}, "dev": {"engines": ["temporal"]}});
    let found = planned(json!({"fleet": [{"name": "n", "gpus": "2xMI210"}], "tiers": tier, "workloads": [
        {"name": "p", "memory": "10GiB", "tier": "prod"}, {"name": "d", "memory": "10GiB", "tier": "dev"},
    ]}));
    assert_eq!((found.placements[0].name.as_str(), found.unplaced[0].name.as_str()), ("p", "d"));
}

/// B8, A3: what a tier may have, and what a pool is kept for.
#[test]
fn tiers_and_pools_are_kept() {
    let nodes = json!([
        {"name": "walls", "gpus": "2xH100", "engine": "mig"},
        {"name": "turns", "gpus": "2xH100", "engine": "temporal", "tier": "dev"},
        {"name": "parts", "gpus": "2xH100", "engine": "spatial"},
    ]);
    let found = planned(json!({"fleet": nodes, "workloads": [
        {"name": "p", "count": 3, "memory": "10GiB", "tier": "prod"},
        {"name": "s", "memory": "10GiB", "compute": "20", "tier": "staging"},
        {"name": "d", "count": 3, "memory": "10GiB", "tier": "dev"},
        {"name": "pinned", "memory": "10GiB", "compute": "20", "engine": "spatial"},
        {"name": "impossible", "memory": "10GiB", "tier": "dev", "node": "walls"},
    ]}));
    for one in &found.placements {
        let expected = match one.workload.as_str() {
            "p" => vec!["walls"],
            "s" => vec!["walls", "parts"],
            "d" => vec!["turns"],
            _ => vec!["parts"],
        };
        assert!(expected.contains(&one.place.node.as_str()), "{one:?}");
    }
    assert_eq!(of(&found, "pinned").place.engine, Engine::Spatial);
    let [left] = found.unplaced.as_slice() else { panic!("{:?}", found.unplaced) };
    assert_eq!(left.name, "impossible");
    let tier = left.refused.iter().find(|one| one.rule == Rule::Tier).unwrap();
    assert!(tier.alone == 2 && tier.why.contains("no engine temporal"), "{tier:?}");
    assert!(left.offers.iter().any(|offer| offer.starts_with("another node: turns")), "{:?}", left.offers);
}

/// B11.
#[test]
fn a_profile_that_is_too_small_is_refused_with_the_next() {
    let fleet = json!([{"name": "n", "gpus": "1xH200"}]);
    let refused = planned(
        json!({"fleet": fleet, "workloads": [{"name": "w", "memory": "18GiB", "compute": "10", "slice": "1g.18gb"}]}),
    );
    let left = &refused.unplaced[0];
    assert!(
        left.rule == Rule::Slice && left.why.contains("1g.18gb has 16") && left.why.contains("1g.35gb"),
        "{left:?}"
    );
    let found = planned(
        json!({"fleet": fleet, "workloads": [{"name": "w", "memory": "18GiB", "compute": "10", "engine": "mig"}]}),
    );
    assert_eq!(of(&found, "w").place.profile.as_deref(), Some("1g.35gb"));
}

/// G4: whatever is asked for, the site draws no more than it may; and who comes first has it.
#[test]
fn a_site_never_draws_more_than_it_may() {
    let strategy = (1u32..6000, proptest::collection::vec((1u64..80, 0u8..3), 1..12));
    let config =
        ProptestConfig { cases: 200, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Default::default() };
    proptest!(config, |((watts, sizes) in strategy)| {
        let workloads: Vec<Value> = sizes
            .iter()
            .enumerate()
            .map(|(at, (gib, class))| json!({"name": format!("w{at}"), "memory": format!("{gib}GiB"), "priority": class.to_string(), "gpus": 1 + at % 2}))
            .collect();
        let nodes = json!([{"name": "a", "gpus": "2xH100"}, {"name": "b", "gpus": "4xT4+2xL40S"}]);
        let found = planned(json!({"site": {"watts": watts, "base_watts": 100}, "fleet": nodes, "workloads": workloads}));
        let drawn: f64 = found.gpus.iter().map(|gpu| gpu.watts.unwrap()).sum();
        prop_assert!(found.gpus.is_empty() || drawn + 100.0 <= f64::from(watts), "{drawn} of {watts}");
        prop_assert_eq!(found.watts, Some(drawn + 100.0));
    });
    // What a GPU draws must be known.
    let unknown = json!([{"name": "a", "gpus": "1xB300"}]);
    let found =
        planned(json!({"site": {"watts": 9000}, "fleet": unknown, "workloads": [{"name": "w", "memory": "8GiB"}]}));
    assert!(found.unplaced[0].rule == Rule::Watts && found.unplaced[0].why.contains("not known"), "{found:?}");
    let found = planned(json!({"fleet": unknown, "workloads": [{"name": "w", "memory": "8GiB"}]}));
    assert!(found.unplaced.is_empty() && found.watts.is_none(), "{found:?}");
    let tight = planned(json!({"site": {"watts": 750}, "fleet": [{"name": "a", "gpus": "2xH100"}], "workloads": [
        {"name": "late", "memory": "60GiB"}, {"name": "first", "memory": "60GiB", "priority": "production"},
    ]}));
    assert_eq!(place(&tight, "first").0, "a");
    let [left] = tight.unplaced.as_slice() else { panic!("{:?}", tight.unplaced) };
    assert!(left.refused.iter().any(|one| one.rule == Rule::Watts && one.why.contains("750 W")), "{left:?}");
}

/// A latency that no engine of a pool keeps goes where one does; and beside it headroom is left.
#[test]
fn a_promised_latency_chooses_the_engine() {
    let nodes = json!([{"name": "turns", "gpus": "2xL40S,temporal"}, {"name": "walls", "gpus": "1xH100,mig"}]);
    let slo = |p99: f64| json!({"p99_ms": p99, "alone_ms": 20});
    let found = planned(json!({"fleet": nodes, "workloads": [
        {"name": "tight", "memory": "8GiB", "slo": slo(22.0)},
        {"name": "loose", "memory": "8GiB", "compute": "60", "slo": slo(60.0), "node": "turns"},
        {"name": "other", "memory": "8GiB", "compute": "35", "node": "turns"},
        {"name": "never", "memory": "8GiB", "slo": slo(20.5)},
    ]}));
    assert_eq!(place(&found, "tight").0, "walls");
    assert_ne!(place(&found, "loose"), place(&found, "other"));
    let [left] = found.unplaced.as_slice() else { panic!("{:?}", found.unplaced) };
    assert!((left.rule, left.name.as_str()) == (Rule::Slo, "never") && left.why.contains("20.5 ms"), "{left:?}");
}

/// B13: a canary has what its original has, less of the GPU's time, and another GPU of the same model.
#[test]
fn canaries_and_shadows_keep_away_from_what_they_follow() {
    let found = planned(
        json!({"fleet": [{"name": "n", "gpus": "2xH100"}, {"name": "m", "gpus": "2xMI300X+2xL40S"}], "workloads": [
            {"name": "chat", "model": "llama-3-8b", "slo": {"p99_ms": 10, "alone_ms": 2}, "compute": "40", "priority": "production", "node": "n"},
            {"name": "try", "canary_of": "chat"},
            {"name": "copy", "shadow_of": "chat"},
            {"name": "part", "canary_of": "chat", "fraction": "1/4"},
        ]}),
    );
    for name in ["try", "copy", "part"] {
        assert_ne!(place(&found, name), place(&found, "chat"), "{name}");
        assert_eq!(of(&found, name).model, "H100 SXM");
        assert_eq!(of(&found, name).memory_bytes, of(&found, "chat").memory_bytes);
        assert_eq!(of(&found, name).priority.class(), 0);
    }
    let percent = |name| of(&found, name).compute_percent;
    assert_eq!([percent("try"), percent("copy"), percent("part")], [Some(5.0), Some(40.0), Some(10.0)]);
}

/// What was measured on one GPU is converted for another.
#[test]
fn shares_are_converted_between_models() {
    let found = planned(json!({"fleet": [{"name": "n", "gpus": "1xA100-80"}], "workloads": [
        {"name": "w", "memory": "8GiB", "compute": "10", "bandwidth": "10", "on": "H100"},
        {"name": "much", "memory": "8GiB", "compute": "60", "profile": {"gpu": "NVIDIA H100 80GB HBM3", "seconds": 3}},
    ]}));
    let (compute, bandwidth) = (of(&found, "w").compute_percent.unwrap(), of(&found, "w").bandwidth_percent.unwrap());
    assert!((31.0..33.0).contains(&compute) && (16.0..17.0).contains(&bandwidth), "{compute} {bandwidth}");
    let left = &found.unplaced[0];
    assert!(left.rule == Rule::Compute && left.why.contains("190 %"), "{left:?}");
}

/// What is there stays, and what is kept stays where it is if it can.
#[test]
fn what_runs_is_left_alone() {
    let value = json!({"fleet": [{"name": "n", "gpus": "2xH100"}], "workloads": [{"name": "w", "memory": "50GiB"}, {"name": "v", "memory": "20GiB"}]});
    let file = file(value).unwrap();
    let fleet = fleet(&file);
    let busy = [Busy { node: "n".into(), gpu: 0, memory_mib: 60 << 10, compute: 500, mask: 0 }];
    let found = plan(&file, &fleet, &busy, &Places::new(), false).unwrap();
    assert_eq!((place(&found, "w").1, place(&found, "v").1), (vec![1], vec![1]));
    let keep = Places::from([("v".to_owned(), ("n".to_owned(), vec![0]))]);
    let found = plan(&file, &fleet, &[], &keep, false).unwrap();
    assert_eq!(place(&found, "v").1, vec![0]);
    assert_eq!(of(&found, "v").reason, "it is there already");
    // Nor does it matter that nothing could go anywhere.
    let nowhere =
        serde_json::from_value::<File>(json!({"workloads": [{"name": "w", "memory": "8GiB", "vendor": "amd"}]}));
    let found = plan(&nowhere.unwrap().checked().unwrap(), &fleet, &busy, &Places::new(), false).unwrap();
    assert_eq!((found.unplaced.len(), found.unplaced[0].rule), (1, Rule::Vendor));
    // A GPU that others share in software is not cut.
    let mig = serde_json::from_value::<File>(
        json!({"workloads": [{"name": "w", "memory": "8GiB", "engine": "mig", "count": 8}]}),
    );
    let mig = mig.unwrap().checked().unwrap();
    let found = plan(&mig, &fleet, &busy, &Places::new(), false).unwrap();
    assert_eq!((found.placements.len(), found.unplaced.len()), (7, 1));
    assert!(found.placements.iter().all(|one| one.place.gpus == [1]), "{found:?}");
}

/// Without a place: the rule that is tightest, and the nearest that would do.
#[test]
fn what_would_do_is_said() {
    let nodes = json!([{"name": "n", "gpus": "2xH100"}, {"name": "m", "gpus": "1xT4"}]);
    let found = planned(json!({"fleet": nodes, "workloads": [
        {"name": "base", "memory": "60GiB", "compute": "70", "node": "n", "count": 2, "priority": "production"},
        {"name": "memory", "memory": "30GiB"},
        {"name": "compute", "memory": "16GiB", "compute": "50"},
        {"name": "group", "memory": "1GiB", "gpus": 4},
        {"name": "model", "model": "llama-3-70b", "node": "m"},
    ]}));
    let left = |name: &str| found.unplaced.iter().find(|one| one.name == name).unwrap();
    for (name, rule, offer) in [
        ("memory", Rule::Memory, "memory of 19.6"),
        ("compute", Rule::Compute, "compute of 30"),
        ("group", Rule::Gpus, "2 GPUs"),
        ("model", Rule::Memory, "16 such GPUs on T4"),
    ] {
        let left = left(name);
        assert!(left.rule == rule && left.offers.iter().any(|one| one.contains(offer)), "{name}: {left:?}");
    }
}

/// Of models: a name that is not in the table, and GPUs that can't share the heads; without a format it is as it was published.
#[test]
fn models_have_their_rules() {
    let with = |workload: Value| {
        let file = file(json!({"fleet": [{"name": "n", "gpus": "4xL4"}], "workloads": [workload]})).unwrap();
        plan(&file, &fleet(&file), &[], &Places::new(), false)
    };
    for (workload, words) in [
        (json!({"name": "a", "model": "lama-3-8b"}), ["workload a: model: \"lama-3-8b\"", "near it are llama-3-8b"]),
        (json!({"name": "a", "model": "qwen2.5-7b", "gpus": 3}), ["workload a: gpus: 3", "2 or 4"]),
    ] {
        let error = with(workload).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let unplaced = |workload: Value| with(workload).unwrap().unplaced.len();
    assert_eq!(unplaced(json!({"name": "a", "model": "gpt-oss-20b"})), 0);
    assert_eq!(unplaced(json!({"name": "a", "model": "gpt-oss-20b", "dtype": "bf16"})), 1);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let with = |workload: Value| file(json!({"workloads": [{"name": "a", "memory": "1GiB"}, workload]})).unwrap_err();
    for (workload, words) in [
        (json!({"name": "a", "memory": "1GiB"}), ["workload a: name:", "twice"]),
        (json!({"name": "A", "memory": "1GiB"}), ["workload A: name:", "a-z"]),
        (json!({"name": "b"}), ["workload b: memory:", "missing"]),
        (json!({"name": "b", "memory": "1GiB", "count": 0}), ["count: 0", "1 to"]),
        (json!({"name": "b", "memory": "1GiB", "gpus": 65}), ["gpus: 65", "1 to 64"]),
        (json!({"name": "b", "memory": "1GiB", "tier": "gold"}), ["\"gold\"", "dev, prod, staging"]),
        (json!({"name": "b", "memory": "1GiB", "context": 5}), ["context:", "`model` is missing"]),
        (json!({"name": "b", "memory": "1GiB", "slo": {"p99_ms": 1, "alone_ms": 2}}), ["p99_ms: 1", "alone_ms"]),
        (json!({"name": "b", "canary_of": "c"}), ["\"c\"", "follow"]),
        (json!({"name": "b", "memory": "1GiB", "fraction": "1/2"}), ["fraction:", "canary_of"]),
        (json!({"name": "b", "slice": "1g.10gb", "engine": "temporal"}), ["slice:", "temporal"]),
        (json!({"name": "b", "memory": "1GiB", "vendor": "acme"}), ["acme", "nvidia"]),
        (json!({"name": "b", "memory": "1GiB", "gpus": 2, "engine": "mig"}), ["gpus:", "one GPU"]),
        (json!({"name": "b", "memory": "1GiB", "colour": "red"}), ["colour", "unknown"]),
    ] {
        let error = with(workload);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    for (text, word) in [
        ("8xH900", "H900"),
        ("0xH100", "1 to 64"),
        ("H100,fast", "no engine"),
        ("2xK80,spatial", "device table"),
        ("2xTesla K80,mig", "no MIG"),
    ] {
        let error = gpus(text).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
