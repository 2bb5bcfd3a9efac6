//! Compute sharing in simulation: the real gate and arbiter around a model GPU.
#[allow(dead_code)]
mod sim;

use cleave_policy::arbiter::{Config, Isolation, Tenant};
use sim::{Load, MS, SEC, Sim, US};

fn tenant(share: u16) -> Tenant {
    Tenant { share, isolation: Isolation::Balanced, class: 0, burst: 0, paused: false }
}

fn strict(share: u16) -> Tenant {
    Tenant { isolation: Isolation::Strict, ..tenant(share) }
}

fn report(name: &str, sim: &Sim) {
    let t = sim.elapsed();
    let shares: Vec<_> = (0..sim.processes.len()).map(|at| sim.share(at, t / 4, t) * 100.0).collect();
    println!(
        "{name}: sum {:.2} shares {shares:.2?} decisions/s {}",
        shares.iter().sum::<f64>(),
        sim.decisions * SEC / t
    );
}

#[test]
fn explore() {
    for (name, kernels) in [
        ("50us/50us", vec![50 * US, 50 * US]),
        ("2ms/0.2ms", vec![2 * MS, 200 * US]),
        ("10ms/0.05", vec![10 * MS, 50 * US]),
        ("4 mixed", vec![10 * MS, 50 * US, 200 * US, 2 * MS]),
        ("8 mixed", vec![10 * MS, 50 * US, 200 * US, 2 * MS, 500 * US, MS, 20 * US, 100 * US]),
        ("8 short", vec![2 * MS, 50 * US, 200 * US, 2 * MS, 500 * US, MS, 20 * US, 100 * US]),
    ] {
        let mut sim = Sim::new(1, Config::default());
        for (id, k) in kernels.iter().enumerate() {
            sim.add(id as u32, tenant((1000 / kernels.len()) as u16), Load::Saturate(vec![*k]), 0);
        }
        sim.run(2 * SEC);
        report(name, &sim);
    }
    let mut sim = Sim::new(1, Config::default());
    for (id, share) in [250, 350, 400].into_iter().enumerate() {
        sim.add(id as u32, tenant(share), Load::Saturate(vec![[50 * US, 2 * MS, 10 * MS][id]]), 0);
    }
    sim.run(2 * SEC);
    report("25/35/40", &sim);
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(500), Load::Saturate(vec![50 * US, 200 * US, 2 * MS]), 0);
    sim.add(1, tenant(500), Load::Loop { kernel: 50 * US, gap: 20 * US }, 0);
    sim.run(2 * SEC);
    report("loop", &sim);
    for share in [250, 500, 750] {
        let mut sim = Sim::new(1, Config::default());
        sim.add(0, strict(share), Load::Saturate(vec![200 * US]), 0);
        sim.run(2 * SEC);
        report("strict alone", &sim);
        let delivered = sim.share(0, SEC, 2 * SEC) * 1000.0;
        assert!((delivered - f64::from(share)).abs() < 10.0, "{delivered} of {share}");
    }
}

#[test]
fn explore2() {
    for k in [50 * US, 200 * US, MS, 5 * MS] {
        let serve = Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US };
        for (name, class, isolation) in
            [("urgent", 2, Isolation::Balanced), ("same", 0, Isolation::Balanced), ("adaptive", 0, Isolation::Adaptive)]
        {
            let mut sim = Sim::new(1, Config::default());
            sim.add(0, Tenant { class, isolation, ..tenant(500) }, serve.clone(), 0);
            sim.add(1, tenant(500), Load::Saturate(vec![k]), 0);
            sim.run(2 * SEC);
            let l = [50, 95, 99].map(|p| sim.latency(0, p, SEC / 2) / 1000);
            report(&format!("{name} {k} {l:?} {}", sim.processes[1].costs[0].estimate(0)), &sim);
        }
    }
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(500), Load::Saturate(vec![200 * US]), 0);
    sim.add(1, tenant(500), Load::Bursts { on: 50 * MS, off: 50 * MS, kernel: 200 * US }, 0);
    sim.run(2 * SEC);
    report(&format!("bursts wait {}", sim.processes[1].longest_wait), &sim);
    for t in (0..20).map(|i| 1000 * MS + i * 10 * MS) {
        print!(" {:.2}/{:.2}", sim.share(0, t, t + 10 * MS), sim.share(1, t, t + 10 * MS));
    }
    println!();
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(500), Load::Saturate(vec![200 * US]), 0);
    sim.run(2 * SEC);
    println!("sum {} {}", sim.share(0, SEC, 2 * SEC), sim.decisions);
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(500), Load::Saturate(vec![200 * US]), 0);
    sim.add(1, tenant(500), Load::Loop { kernel: 5 * US, gap: 50 * US }, 0);
    sim.run(2 * SEC);
    report("low duty", &sim);
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(250), Load::Saturate(vec![200 * US]), 0);
    sim.add(1, strict(250), Load::Saturate(vec![200 * US]), 0);
    sim.add(2, strict(500), Load::Saturate(vec![2 * MS]), 0);
    sim.run(2 * SEC);
    report("strict 25 50", &sim);
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, Tenant { class: 2, ..tenant(250) }, Load::Saturate(vec![200 * US]), 0);
    sim.add(1, Tenant { class: 1, ..tenant(250) }, Load::Saturate(vec![200 * US]), 0);
    sim.add(2, tenant(500), Load::Saturate(vec![2 * MS]), 0);
    sim.run(2 * SEC);
    report("classes", &sim);
    let mut sim = Sim::new(1, Config { floor: 20, ..Config::default() });
    sim.add(0, Tenant { class: 2, ..tenant(250) }, Load::Saturate(vec![200 * US]), 0);
    sim.add(1, Tenant { class: 1, ..tenant(250) }, Load::Saturate(vec![200 * US]), 0);
    sim.add(2, tenant(500), Load::Saturate(vec![2 * MS]), 0);
    sim.run(2 * SEC);
    report("classes floor", &sim);
}
