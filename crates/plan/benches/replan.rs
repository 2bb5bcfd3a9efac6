//! How long it takes to plan anew: `cargo bench -p cleave-plan`. 2000 workloads on 32 nodes of 8 GPUs, which they fill, and
//! on 10 000 such nodes; each also with the places that they have in the first plan, after a GPU was lost.
use cleave_plan::fleet::{Fleet, gpus};
use cleave_plan::planner::{Places, plan};
use cleave_plan::spec::File;
use criterion::{Criterion, criterion_main};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Duration;

/// The same in every run.
fn workload(at: u64) -> Value {
    let part = |salt: u64, most: u64| 1 + (at * 2_654_435_761 + salt * 40_503) % 1013 % most;
    json!({
        "name": format!("w{at}"),
        "memory": format!("{}GiB", part(1, 18)),
        "compute": part(2, 20).to_string(),
        "bandwidth": part(3, 20).to_string(),
        "tier": if at.is_multiple_of(3) { "staging" } else { "dev" },
        "trust_domain": format!("team{}", at % 7),
        "priority": (at % 3).to_string(),
    })
}

fn replan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan 2000 workloads");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    for (name, nodes) in [("256 GPUs", 32), ("80000 GPUs", 10_000)] {
        let workloads: Vec<Value> = (0..2000).map(workload).collect();
        let value = json!({"fleet": [{"name": "n", "count": nodes, "gpus": "8xH100"}], "workloads": workloads});
        let file = serde_json::from_value::<File>(value).map_err(|e| e.to_string()).and_then(File::checked);
        let file = file.expect("a plan's file");
        let mut fleet = Fleet::default();
        fleet.add(&file.fleet[0], gpus("8xH100").expect("GPUs")).expect("a node");
        let mut places = Places::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(plan(&file, &fleet, &[], &places, false)));
        });
        let planned = plan(&file, &fleet, &[], &places, false).expect("a plan");
        places.extend(planned.placements.into_iter().map(|one| (one.name, (one.place.node, one.place.gpus))));
        fleet.lose("n-1", Some(0));
        group.bench_function(format!("{name}, one lost"), |bencher| {
            bencher.iter(|| black_box(plan(&file, &fleet, &[], &places, false)));
        });
    }
    group.finish();
}

fn benches() {
    let mut criterion = Criterion::default().configure_from_args();
    replan(&mut criterion);
    criterion.final_summary();
}

criterion_main!(benches);
