//! Compute sharing in simulation: the real gate and arbiter around a model GPU.

mod sim;

use cleave_policy::account::jain;
use cleave_policy::arbiter::{Arbiter, Config, Domain, Isolation, Tenant};
use cleave_policy::gate::{self, Part};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sim::{Load, MS, Random, SEC, Sim, US};

fn tenant(share: u16) -> Tenant {
    Tenant { share, isolation: Isolation::Balanced, class: 0, burst: 0, paused: false, domain: None }
}

fn strict(share: u16) -> Tenant {
    Tenant { isolation: Isolation::Strict, ..tenant(share) }
}

fn saturate(kernel: u64) -> Load {
    Load::Saturate(vec![kernel])
}

/// A GPU with these balanced tenants.
fn shared(seed: u64, tenants: &[(u16, Load)]) -> Sim {
    let mut sim = Sim::new(seed, Config::default());
    for (id, (share, load)) in tenants.iter().enumerate() {
        sim.add(id as u32, tenant(*share), load.clone(), 0);
    }
    sim
}

fn shares(sim: &Sim, from: u64, to: u64) -> Vec<f64> {
    (0..sim.processes.len()).map(|at| sim.share(at, from, to)).collect()
}

fn sum(sim: &Sim, from: u64, to: u64) -> f64 {
    shares(sim, from, to).iter().sum()
}

/// Of what is delivered in each second, everybody gets its share to so many points.
fn assert_exact(sim: &Sim, weights: &[u16], points: &[f64]) {
    let total: u16 = weights.iter().sum();
    let mut from = SEC / 2;
    while from + SEC <= sim.elapsed() {
        let got = shares(sim, from, from + SEC);
        let all: f64 = got.iter().sum();
        for (at, (got, weight)) in got.iter().zip(weights).enumerate() {
            let (got, owed) = (got / all * 100.0, f64::from(*weight) / f64::from(total) * 100.0);
            assert!((got - owed).abs() <= points[at], "tenant {at} got {got:.2} of {owed:.2} from {} ms on", from / MS);
        }
        from += 250 * MS;
    }
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![Just(50 * US), Just(200 * US), Just(2 * MS), Just(10 * MS), 20 * US..3 * MS]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(40) })]

    #[test]
    fn shares_follow_the_weights(
        seed: u64,
        tenants in prop::collection::vec((50u16..500, lengths()), 2..9),
    ) {
        let weights: Vec<u16> = tenants.iter().map(|t| t.0).collect();
        let loads: Vec<_> = tenants.iter().map(|t| (t.0, saturate(t.1))).collect();
        let mut sim = shared(seed, &loads);
        sim.run(2 * SEC);
        // Nothing cuts a kernel: one of 10 ms is itself a point of a second.
        let longest = tenants.iter().map(|t| t.1).max().unwrap_or(0);
        assert_exact(&sim, &weights, &vec![1.0 + 150.0 * longest as f64 / SEC as f64; weights.len()]);
    }

    #[test]
    fn nothing_is_lost_while_somebody_has_work(
        seed: u64,
        kernels in prop::collection::vec(prop_oneof![Just(50 * US), Just(2 * MS), 20 * US..2 * MS], 1..9),
    ) {
        let loads: Vec<_> = kernels.iter().map(|kernel| (1000 / kernels.len() as u16, saturate(*kernel))).collect();
        let mut sim = shared(seed, &loads);
        sim.run(3 * SEC / 2);
        let delivered = sum(&sim, SEC / 2, 3 * SEC / 2);
        let least = if kernels.len() > 3 { 0.97 } else { 0.98 };
        prop_assert!(delivered >= least, "{delivered}");
    }

    /// Whatever its shares and kernels, the highest class that has work gets the GPU, by its shares; others what it leaves, which
    /// is nothing here.
    #[test]
    fn a_class_goes_before_those_below_it(
        seed: u64,
        tenants in prop::collection::vec((0u8..3, 50u16..300, 20 * US..MS), 2..7),
    ) {
        let mut sim = Sim::new(seed, Config::default());
        for (id, (class, share, kernel)) in tenants.iter().enumerate() {
            sim.add(id as u32, Tenant { class: *class, ..tenant(*share) }, saturate(*kernel), 0);
        }
        sim.run(2 * SEC);
        let got = shares(&sim, SEC, 2 * SEC);
        let highest = tenants.iter().map(|t| t.0).max().unwrap_or(0);
        let weights: u16 = tenants.iter().filter(|t| t.0 == highest).map(|t| t.1).sum();
        let all: f64 = got.iter().zip(&tenants).filter(|(_, t)| t.0 == highest).map(|(got, _)| got).sum();
        prop_assert!(all > 0.97, "{got:?}");
        for (got, (class, share, _)) in got.iter().zip(&tenants) {
            let owed = if *class == highest { f64::from(*share) / f64::from(weights) } else { 0.0 };
            prop_assert!((got / all - owed).abs() < 0.025, "{got} of {owed}");
        }
    }

    /// The slices of a spatial domain whose parts fit run at the same time, and take turns with others as one.
    #[test]
    fn a_domain_is_one_by_the_sum_of_its_shares(
        seed: u64,
        domain in prop::collection::vec((100u16..330, 20 * US..2 * MS, any::<bool>()), 1..4),
        others in prop::collection::vec((100u16..400, 20 * US..2 * MS), 0..3),
    ) {
        let mut sim = Sim::new(seed, Config::default());
        let (inside, outside): (u16, u16) = (domain.iter().map(|t| t.0).sum(), others.iter().map(|t| t.0).sum());
        for (id, (share, kernel, is_strict)) in domain.iter().enumerate() {
            let one = if *is_strict { strict(*share) } else { tenant(*share) };
            sim.add(id as u32, beside(7, *share, one), saturate(*kernel), 0);
        }
        for (id, (share, kernel)) in others.iter().enumerate() {
            sim.add(10 + id as u32, tenant(*share), saturate(*kernel), 0);
        }
        sim.run(2 * SEC);
        let got = shares(&sim, SEC, 2 * SEC);
        let whole = f64::from(inside + outside);
        // Who has short kernels uses less of a turn that ends with another's long one.
        let most = got[..domain.len()].iter().copied().fold(0.0, f64::max);
        prop_assert!((most - f64::from(inside) / whole).abs() < 0.02 && got[..domain.len()].iter().all(|one| *one > most - 0.05), "{got:?}");
        for (one, (share, _)) in got[domain.len()..].iter().zip(&others) {
            let owed = f64::from(*share) / whole;
            prop_assert!((one - owed).abs() < 0.02, "{one} of {owed}: {got:?}");
        }
    }

    /// Tenants come, go, change, are paused, are killed: the GPU is never idle for long while somebody may use it,
    /// nobody who may use it is starved, a strict tenant keeps within its share, and the daemon isn't kept busy.
    #[test]
    fn nothing_that_happens_breaks_the_rules(seed: u64) {
        let mut random = Random(seed);
        let mut sim = Sim::new(seed, Config::default());
        let mut live: Vec<(usize, Tenant)> = Vec::new();
        for id in 0..24 {
            let any = Tenant {
                share: random.within(50, 300) as u16,
                isolation: [Isolation::Balanced, Isolation::Adaptive, Isolation::Strict][random.within(0, 2) as usize],
                class: 0,
                burst: random.within(0, 20) * MS,
                paused: random.within(0, 5) == 0,
                domain: None,
            };
            match random.within(0, 3) {
                0 if live.len() > 2 => {
                    let (at, _) = live.swap_remove(random.within(0, live.len() as u64 - 1) as usize);
                    sim.kill(at);
                }
                1 if !live.is_empty() => {
                    let which = random.within(0, live.len() as u64 - 1) as usize;
                    live[which].1 = any;
                    sim.change(sim.processes[live[which].0].id, any);
                }
                _ => {
                    let kernel = random.within(20, 3000) * US;
                    let load = match random.within(0, 3) {
                        0 => Load::Loop { kernel, gap: 20 * US },
                        1 => Load::Bursts { on: 30 * MS, off: 40 * MS, kernel },
                        _ => saturate(kernel),
                    };
                    live.push((sim.add(id, any, load, random.within(0, 3) * MS), any));
                }
            }
            let (from, decisions) = (sim.elapsed().div_ceil(5 * MS) * 5 * MS + 100 * MS, sim.decisions);
            sim.run(400 * MS);
            let to = sim.elapsed() / (5 * MS) * 5 * MS;
            let endless =
                |at: usize| matches!(sim.processes[at].load, Load::Saturate(_)) && sim.processes[at].begins < sim.now;
            let may = |&&(at, tenant): &&(usize, Tenant)| !tenant.paused && endless(at);
            for &(at, tenant) in live.iter().filter(may) {
                let got = sim.share(at, from, to);
                prop_assert!(got > 0.0, "tenant {} ({at}) starves beside {live:?} {:?}", sim.processes[at].id, sim.processes.iter().map(|p| &p.load).collect::<Vec<_>>());
                if tenant.isolation == Isolation::Strict {
                    // Beside others it may gather what two cycles owe it.
                    let gathered = 2 * u64::from(tenant.share) * (7 * MS * live.len() as u64).max(20 * MS) / 1000 + 3 * MS;
                    let most = f64::from(tenant.share) / 1000.0 + (tenant.burst.max(gathered) as f64) / (to - from) as f64;
                    prop_assert!(got < most, "strict {} got {got} of at most {most}", sim.processes[at].id);
                }
            }
            for &(at, _) in live.iter().filter(|(_, tenant)| tenant.paused) {
                prop_assert_eq!(sim.share(at, from, to), 0.0);
            }
            if live.iter().filter(may).any(|(_, tenant)| tenant.isolation != Isolation::Strict) {
                let all = sum(&sim, from, to);
                prop_assert!(all > 0.7, "{all} with {live:?} {:?}", sim.processes.iter().map(|p| &p.load).collect::<Vec<_>>());
            }
            prop_assert!(sim.decisions - decisions < 240, "{} decisions in 0.4 s {live:?} {:?}", sim.decisions - decisions, sim.processes.iter().map(|p| &p.load).collect::<Vec<_>>());
        }
    }
}

#[test]
fn unlike_tenants_with_unlike_shares() {
    let loads = [(250, saturate(50 * US)), (350, saturate(2 * MS)), (400, saturate(10 * MS))];
    let mut sim = shared(1, &loads);
    sim.run(5 * SEC);
    assert_exact(&sim, &[250, 350, 400], &[1.0; 3]);
}

/// What a kernel's first launch lasts says nothing of the later ones, and one kernel may have lengths far apart.
#[test]
fn lengths_that_are_not_those_of_the_first_launch() {
    let varied = || Load::Varies(vec![50 * US, 200 * US, 2 * MS, 10 * MS]);
    // A kernel of 10 ms is itself a point of a second; of one with four lengths nobody knows which is next.
    for (one, other) in [(saturate(10 * MS), saturate(200 * US)), (varied(), varied()), (varied(), saturate(200 * US))]
    {
        for weights in [[300, 700], [700, 300], [500, 500]] {
            let mut sim = shared(1, &[(weights[0], one.clone()), (weights[1], other.clone())]);
            sim.run(4 * SEC);
            assert_exact(&sim, &weights, &[1.5; 2]);
            let delivered = sum(&sim, SEC, 4 * SEC);
            assert!(delivered >= 0.98, "{delivered} {weights:?}");
        }
    }
}

/// While nobody decides, the parts of a cycle are those that are owed, and none lies upon another.
#[test]
fn without_an_arbiter_everybody_has_its_part() {
    let beside = |id, share| Tenant { domain: Some(Domain { id, cap: 400 }), ..tenant(share) };
    let above = Tenant { class: 1, ..tenant(500) };
    let none = Tenant { isolation: Isolation::None, ..tenant(500) };
    let paused = Tenant { paused: true, ..tenant(500) };
    // Lengths in thousandths of the cycle.
    for (tenants, wanted) in [
        (vec![tenant(300)], vec![Some(1000)]),
        (vec![strict(250)], vec![Some(250)]),
        (vec![tenant(300), tenant(700)], vec![Some(300), Some(700)]),
        (vec![tenant(100), tenant(100)], vec![Some(500), Some(500)]),
        (vec![strict(250), tenant(250)], vec![Some(250), Some(750)]),
        (vec![strict(500), strict(250)], vec![Some(500), Some(250)]),
        (vec![strict(900), tenant(900)], vec![Some(500), Some(500)]),
        (vec![tenant(500), none, paused, tenant(500)], vec![Some(500), None, None, Some(500)]),
        (vec![beside(1, 250), tenant(500), beside(1, 250)], vec![Some(500), Some(500), Some(500)]),
        (vec![tenant(500), above, tenant(500)], vec![Some(500), Some(1000), Some(500)]),
    ] {
        let mut arbiter = Arbiter::new(Config::default());
        for (id, tenant) in tenants.iter().enumerate() {
            arbiter.set(id as u32, *tenant);
        }
        let ids: Vec<u32> = (0..tenants.len() as u32).collect();
        let parts = arbiter.parts(&ids);
        let lengths: Vec<Option<u64>> =
            parts.iter().map(|part| part.map(|part| u64::from(part.length) * 1_000_000 / gate::CYCLE)).collect();
        assert_eq!(lengths, wanted, "{tenants:?}");
        for (at, one) in parts.iter().enumerate() {
            let alone = |to: usize| tenants[to].domain.is_none();
            let same = |to: &usize| tenants[*to].class == tenants[at].class && alone(*to) && alone(at);
            for other in (0..at).filter(same).filter_map(|to| parts[to]) {
                let one = one.unwrap_or(Part { from: 0, length: 0, flags: 0 });
                assert!(other.from + other.length <= one.from || one.length == 0, "{parts:?}");
            }
            let flags = one.map_or(0, |one| one.flags);
            let wanted = if tenants.iter().all(|other| other.class == 0) {
                0
            } else if tenants[at].class == 1 {
                gate::URGENT
            } else {
                gate::YIELD
            };
            assert_eq!(flags, wanted, "{tenants:?}");
        }
    }
}

/// The GPU's hardware gives a kernel that never ends its part beside whoever runs: turns of its slice would only keep others out.
#[test]
fn a_kernel_that_never_ends_takes_no_more_than_the_hardware_gives_it() {
    let mut lengths = vec![200 * US; 3000];
    lengths.push(1000 * SEC);
    for weight in [500, 250] {
        let mut sim = shared(1, &[(1000 - weight, saturate(200 * US)), (weight, Load::Varies(lengths.clone()))]);
        sim.run(4 * SEC);
        let owed = f64::from(1000 - weight) / 1000.0;
        let got: Vec<f64> = (5..39).map(|at| sim.share(0, at * SEC / 10, (at + 1) * SEC / 10)).collect();
        // One tenth of a second in which it is found out.
        let fewer = got.iter().filter(|got| **got < owed.min(0.5) * 0.9).count();
        assert!(fewer <= 1 && got.iter().all(|got| *got > 0.3), "{got:.2?} beside one of {weight}");
    }
}

#[test]
fn a_loop_that_waits_for_each_kernel_gets_its_share() {
    let mut sim = shared(1, &[(500, saturate(200 * US)), (500, Load::Loop { kernel: 50 * US, gap: 20 * US })]);
    sim.run(3 * SEC);
    assert_exact(&sim, &[500, 500], &[1.0; 2]);
}

/// Who holds the GPU and hardly uses it pays for holding it.
#[test]
fn a_loop_that_leaves_the_gpu_idle_does_not_take_its_neighbours_share() {
    let mut sim = shared(1, &[(500, saturate(200 * US)), (500, Load::Loop { kernel: 5 * US, gap: 50 * US })]);
    sim.run(2 * SEC);
    assert!(sim.share(0, SEC, 2 * SEC) > 0.34, "{:?}", shares(&sim, SEC, 2 * SEC));
}

/// A14: two strict halves of the time are that, also where one of them holds the GPU and leaves it idle between its launches.
#[test]
fn a_strict_tenant_pays_for_its_turns_whether_it_uses_them_or_not() {
    let kinds =
        [saturate(US), Load::Loop { kernel: 20 * US, gap: 10 * US }, Load::Loop { kernel: 2 * US, gap: 2 * US }];
    for load in kinds {
        let mut sim = Sim::new(1, Config::default());
        sim.add(0, strict(500), saturate(200 * US), 0);
        sim.add(1, strict(500), load.clone(), 0);
        sim.run(3 * SEC);
        let got = sim.share(0, SEC, 3 * SEC);
        assert!((0.45..0.52).contains(&got), "{got} beside {load:?}");
    }
}

#[test]
fn equal_tenants_get_the_same() {
    let all = [10 * MS, 50 * US, 200 * US, 2 * MS, 500 * US, MS, 20 * US, 100 * US];
    for count in [4, 8] {
        let loads: Vec<_> = all[..count].iter().map(|kernel| (1000 / count as u16, saturate(*kernel))).collect();
        let mut sim = shared(1, &loads);
        sim.run(5 * SEC / 2);
        let index = jain(&shares(&sim, SEC / 2, 5 * SEC / 2)).unwrap_or(0.0);
        assert!(index >= 0.999, "{index}");
    }
    // One of them with a kernel whose lengths lie far apart.
    let varied = Load::Varies(vec![50 * US, 200 * US, 2 * MS]);
    let mut loads: Vec<_> = all[1..].iter().map(|kernel| (125, saturate(*kernel))).collect();
    loads.push((125, varied));
    let mut sim = shared(1, &loads);
    sim.run(5 * SEC / 2);
    let got = shares(&sim, SEC / 2, 5 * SEC / 2);
    assert!(jain(&got) >= Some(0.999), "{got:?}");
}

#[test]
fn a_strict_tenant_alone_gets_its_share_and_no_more() {
    for share in [250, 500, 750] {
        for load in [saturate(50 * US), saturate(2 * MS), Load::Saturate(vec![100 * US, 700 * US])] {
            let mut sim = Sim::new(1, Config::default());
            sim.add(0, strict(share), load, 0);
            sim.run(5 * SEC / 2);
            let owed = f64::from(share) / 10.0;
            for from in (500..1500).step_by(35) {
                let second = sim.share(0, from * MS, from * MS + SEC) * 100.0;
                assert!((second - owed).abs() <= 1.0, "{second:.2} of {owed} over 1 s");
                let tenth = sim.share(0, from * MS, (from + 100) * MS) * 100.0;
                assert!((tenth - owed).abs() <= 3.0, "{tenth:.2} of {owed} over 100 ms");
            }
        }
    }
}

#[test]
fn a_strict_tenant_beside_others_gets_its_share() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, tenant(250), saturate(200 * US), 0);
    sim.add(1, strict(250), saturate(200 * US), 0);
    sim.add(2, strict(500), saturate(2 * MS), 0);
    sim.run(2 * SEC);
    assert_exact(&sim, &[250, 250, 500], &[1.0; 3]);
}

/// What a strict tenant left unused may be used at once, up to its burst; then its rate holds.
/// A18: what was saved up goes at once, then the rate holds.
#[test]
fn a_burst_goes_through_unthrottled() {
    let wait = |burst| {
        let mut sim = Sim::new(1, Config::default());
        let tenant = Tenant { burst, ..strict(250) };
        sim.add(0, tenant, Load::Bursts { on: 30 * MS, off: 170 * MS, kernel: 200 * US }, 0);
        sim.run(2 * SEC);
        (sim.processes[0].longest_wait, sim.share(0, SEC, 2 * SEC))
    };
    let ((short, low), (long, high)) = (wait(0), wait(40 * MS));
    assert!(short > 5 * MS && long < MS, "{short} {long}");
    assert!(low < 0.1 && (high - 0.15).abs() < 0.01, "{low} {high}");
}

#[test]
fn a_lone_tenant_runs_free_and_costs_no_decisions() {
    let mut sim =
        shared(1, &[(250, saturate(50 * US)), (750, Load::Bursts { on: MS, off: 100 * SEC, kernel: 50 * US })]);
    sim.run(SEC);
    let decisions = sim.decisions;
    sim.run(SEC);
    assert!(sim.share(0, SEC, 2 * SEC) > 0.999);
    assert_eq!(sim.decisions, decisions);
}

#[test]
fn idle_time_is_lent_and_comes_back_within_10_ms() {
    for kernel in [50 * US, 2 * MS] {
        let mut sim = shared(1, &[(500, saturate(kernel)), (500, Load::Bursts { on: 50 * MS, off: 50 * MS, kernel })]);
        sim.run(1500 * MS);
        for from in (500..1500).step_by(100) {
            let lent = sim.share(0, (from + 60) * MS, (from + 100) * MS);
            assert!(lent > 0.97, "{lent} lent from {} ms on", from + 60);
            let back = sim.share(1, from * MS, (from + 10) * MS) + sim.share(1, (from + 10) * MS, (from + 50) * MS);
            assert!(back > 0.45, "{back} came back from {from} ms on");
            assert!(sim.share(1, from * MS, (from + 10) * MS) > 0.1, "nothing came back within 10 ms");
        }
    }
}

fn serve(class: u8, isolation: Isolation, kernel: u64) -> Sim {
    let mut sim = Sim::new(1, Config::default());
    let load = Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US };
    sim.add(0, Tenant { class, isolation, ..tenant(500) }, load, 0);
    sim.add(1, tenant(500), saturate(kernel), 0);
    sim.run(5 * SEC / 2);
    sim
}

/// The 99th percentile of a request that takes 1.02 ms alone, and what its neighbour keeps: the bounds are what a
/// crude gate got on an H100 with one kernel in flight (1.22, 1.37, 2.16 ms; 71, 82, 85 %), with a little room.
/// A20: who is urgent goes first, and the rest is its neighbour's.
#[test]
fn an_urgent_tenant_is_served_at_once_and_its_neighbour_keeps_the_rest() {
    for (kernel, latency, kept) in [(50 * US, 1300 * US, 0.83), (200 * US, 1600 * US, 0.83), (MS, 2300 * US, 0.83)] {
        let sim = serve(2, Isolation::Balanced, kernel);
        let (got, rest) = (sim.latency(0, 99, SEC / 2), sim.share(1, SEC / 2, 5 * SEC / 2));
        assert!(got <= latency && rest >= kept, "{} µs kernels: {} µs, {rest:.3}", kernel / US, got / US);
    }
}

/// A28: while a neighbour's kernels are not known yet (here they never are), a request waits for one of them at most, if they are
/// long by their names; without the guess and the marks of their own it was 10.1, 3.7 and 1.34 ms. Known, the first row has 2.1 ms.
#[test]
fn an_urgent_tenant_does_not_wait_for_several_unknown_kernels() {
    for (kernel, long, latency, kept) in [
        (MS, true, 2300 * US, 0.83),
        (200 * US, true, 1500 * US, 0.75),
        (MS, false, 5600 * US, 0.81),
        (200 * US, false, 2100 * US, 0.83),
        (20 * US, false, 1300 * US, 0.83),
    ] {
        let mut sim = Sim::new(1, Config::default());
        let load = Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US };
        sim.add(0, Tenant { class: 2, ..tenant(500) }, load, 0);
        sim.add(1, tenant(500), Load::Fresh { kernel, long }, 0);
        sim.run(5 * SEC / 2);
        let (got, rest) = (sim.latency(0, 99, SEC / 2), sim.share(1, SEC / 2, 5 * SEC / 2));
        assert!(got <= latency && rest >= kept, "{} µs kernels, long {long}: {} µs, {rest:.3}", kernel / US, got / US);
    }
}

#[test]
fn an_adaptive_tenant_is_served_sooner_than_a_balanced_one_at_little_cost() {
    for kernel in [50 * US, 200 * US, MS] {
        let [balanced, adaptive] =
            [Isolation::Balanced, Isolation::Adaptive].map(|isolation| serve(0, isolation, kernel));
        let (before, after) = (balanced.latency(0, 99, SEC / 2), adaptive.latency(0, 99, SEC / 2));
        assert!(after < before / 2, "{} µs kernels: {after} after {before}", kernel / US);
        let rest = [&balanced, &adaptive].map(|sim| sim.share(1, SEC / 2, 5 * SEC / 2));
        assert!(rest[1] > rest[0] - 0.03, "{rest:?}");
    }
}

#[test]
fn a_higher_class_takes_everything_but_the_floor() {
    for (floor, least) in [(0, 0.0), (20, 0.018)] {
        let mut sim = Sim::new(1, Config { floor, ..Config::default() });
        sim.add(0, Tenant { class: 2, ..tenant(250) }, saturate(200 * US), 0);
        sim.add(1, Tenant { class: 1, ..tenant(250) }, saturate(200 * US), 0);
        sim.add(2, tenant(500), saturate(200 * US), 0);
        sim.run(2 * SEC);
        let got = shares(&sim, SEC, 2 * SEC);
        assert!(got[1] >= least && got[1] <= least * 1.5 && got[2] >= least && got[2] <= least * 1.5, "{got:?}");
        assert!(got[0] > 0.99 - 4.0 * least, "{got:?}");
    }
}

#[test]
fn staging_goes_before_experiments() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, Tenant { class: 2, ..tenant(250) }, Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US }, 0);
    sim.add(1, Tenant { class: 1, ..tenant(250) }, Load::Bursts { on: 100 * MS, off: 100 * MS, kernel: 200 * US }, 0);
    sim.add(2, tenant(500), saturate(200 * US), 0);
    sim.run(2 * SEC);
    let got = shares(&sim, SEC, 2 * SEC);
    assert!(got[0] > 0.09 && (got[1] - 0.42).abs() < 0.04 && (got[2] - 0.42).abs() < 0.06, "{got:?}");
}

#[test]
fn who_is_urgent_after_a_while_is_made_room_for_at_once() {
    let mut sim = Sim::new(1, Config::default());
    // It has gaps, in one of which the daemon stops looking; and with a lease, nobody waits for a turn.
    sim.add(0, Tenant { class: 2, ..tenant(500) }, Load::Serve { period: 3 * SEC, count: 10, kernel: 100 * US }, 0);
    sim.add(1, tenant(500), Load::Loop { kernel: 200 * US, gap: MS }, 0);
    sim.run(29 * SEC / 10);
    let Config { lease_ahead, yield_ahead, .. } = Config::default();
    assert_eq!(sim.processes[1].grant.ahead, lease_ahead, "nobody else is there");
    sim.run(3 * SEC - sim.elapsed() + 20 * MS);
    assert_eq!(sim.processes[1].grant.ahead, yield_ahead);
}

#[test]
fn a_pause_stops_within_what_is_in_flight() {
    for kernel in [50 * US, 2 * MS] {
        for neighbours in [0, 2] {
            let loads: Vec<_> = (0..=neighbours).map(|_| (300, saturate(kernel))).collect();
            let mut sim = shared(1, &loads);
            sim.run(500 * MS);
            let paused = Tenant { paused: true, ..tenant(300) };
            sim.change(0, paused);
            let at = sim.now;
            sim.run(500 * MS);
            // The daemon's wake, what a lease lets queue, one operation more; beside others, their time slices.
            let bound = (300 * US + 4 * MS + kernel) * (1 + neighbours);
            let last = sim.processes[0].last_run.saturating_sub(at);
            assert!(last <= bound, "ran {last} ns after the pause, at most {bound}");
            sim.change(0, tenant(300));
            sim.run(500 * MS);
            assert!(sim.share(0, 1100 * MS, 1500 * MS) > 0.9 / (1 + neighbours) as f64);
        }
    }
}

#[test]
fn a_change_of_share_holds_from_the_next_turn_on() {
    let mut sim = shared(1, &[(500, saturate(200 * US)), (500, saturate(MS))]);
    sim.run(SEC);
    sim.change(0, tenant(250));
    sim.change(1, tenant(750));
    sim.run(1200 * MS);
    let got = sim.share(0, 1020 * MS, 2020 * MS);
    assert!((got - 0.25).abs() < 0.015, "{got}");
}

#[test]
fn a_tenant_that_is_only_counted_is_never_held() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, Tenant { isolation: Isolation::None, ..tenant(100) }, Load::Loop { kernel: 50 * US, gap: 20 * US }, 0);
    sim.add(1, tenant(900), saturate(200 * US), 0);
    sim.run(SEC);
    assert!(sim.processes[0].longest_wait < 200 * US, "{}", sim.processes[0].longest_wait);
}

/// The accounts say what the GPU delivered.
#[test]
fn accounts_are_true() {
    let mut sim = shared(1, &[(300, saturate(200 * US)), (700, saturate(2 * MS))]);
    sim.run(2 * SEC);
    for (at, share) in [(0, 0.3), (1, 0.7)] {
        let second = sim.arbiter.account(at).map(|account| account.last_second(sim.now)).unwrap_or_default();
        let delivered = sim.share(at as usize, SEC, 2 * SEC);
        assert!((second.given as f64 / SEC as f64 - delivered).abs() < 0.01, "{second:?}, delivered {delivered}");
        assert!((second.owed as f64 / SEC as f64 - share).abs() < 0.01, "{second:?}");
        assert!((second.throttled as f64 / SEC as f64 - (1.0 - share)).abs() < 0.05, "{second:?}");
    }
}

/// What a slice borrowed while it was balanced isn't held against it once it is strict.
#[test]
fn a_tenant_that_becomes_strict_is_not_in_debt() {
    let mut sim = shared(1, &[(250, saturate(200 * US))]);
    sim.run(SEC);
    sim.change(0, strict(250));
    sim.run(SEC);
    assert!((sim.share(0, 1100 * MS, 2 * SEC) - 0.25).abs() < 0.01);
}

fn beside(id: u32, cap: u16, tenant: Tenant) -> Tenant {
    Tenant { domain: Some(Domain { id, cap }), ..tenant }
}

/// Slices of one spatial engine have SMs of their own: none waits for another.
#[test]
fn tenants_of_a_domain_run_at_the_same_time() {
    for one in [tenant(500), strict(500), Tenant { class: 2, ..tenant(500) }] {
        let mut sim = Sim::new(1, Config::default());
        sim.add(0, beside(7, 500, one), Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US }, 0);
        sim.add(1, beside(7, 500, tenant(500)), saturate(5 * MS), 0);
        sim.run(2 * SEC);
        let alone = 1100 * US;
        assert!(sim.latency(0, 99, SEC / 2) < alone, "{}", sim.latency(0, 99, SEC / 2));
        assert!(sim.share(1, SEC, 2 * SEC) > 0.999, "{}", sim.share(1, SEC, 2 * SEC));
    }
}

/// An urgent slice that may have the whole GPU, and one that leaves the urgent one's share free: neither waits.
#[test]
fn who_leaves_an_urgent_tenants_share_free_does_not_give_way_to_it() {
    for one in [tenant(500), strict(500)] {
        let mut sim = Sim::new(1, Config::default());
        let load = Load::Serve { period: 10 * MS, count: 10, kernel: 100 * US };
        sim.add(0, beside(7, 1000, Tenant { class: 2, ..tenant(500) }), load, 0);
        sim.add(1, beside(7, 500, one), saturate(5 * MS), 0);
        sim.run(2 * SEC);
        assert!(sim.share(1, SEC, 2 * SEC) > 0.999, "{}", sim.share(1, SEC, 2 * SEC));
        // Of the same class both may have all of it, and take turns.
        sim.change(1, beside(7, 1000, tenant(500)));
        sim.change(0, beside(7, 1000, tenant(500)));
        sim.run(SEC);
        assert!(sim.share(1, 2 * SEC, 3 * SEC) < 0.95, "{}", sim.share(1, 2 * SEC, 3 * SEC));
    }
}

/// Its SMs hold a strict tenant to its share, also while it takes turns with others of its domain.
#[test]
fn who_is_held_by_its_multiprocessors_is_not_held_by_time_too() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, beside(7, 500, strict(500)), saturate(200 * US), 0);
    sim.add(1, beside(7, 1000, tenant(500)), Load::Loop { kernel: 100 * US, gap: 50 * MS }, 0);
    sim.run(2 * SEC);
    assert!(sim.share(0, SEC, 2 * SEC) > 0.9, "{}", sim.share(0, SEC, 2 * SEC));
}

/// A domain has its turns as one, with the weight of all in it; others of the GPU wait meanwhile.
#[test]
fn a_domain_takes_turns_with_others_as_one() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, beside(7, 500, tenant(300)), saturate(200 * US), 0);
    sim.add(1, beside(7, 500, strict(300)), saturate(2 * MS), 0);
    sim.add(2, tenant(400), saturate(500 * US), 0);
    sim.run(3 * SEC);
    let got = shares(&sim, SEC, 3 * SEC);
    for (got, owed) in got.iter().zip([0.6, 0.6, 0.4]) {
        assert!((got - owed).abs() < 0.03, "{got} of {owed}");
    }
    // Alone it has the GPU for good, and so it does when one of it has left.
    sim.kill(2);
    sim.run(SEC);
    assert!(sim.share(0, 3500 * MS, 4 * SEC) > 0.999 && sim.share(1, 3500 * MS, 4 * SEC) > 0.999);
    sim.kill(0);
    sim.run(SEC);
    assert!(sim.share(1, 4500 * MS, 5 * SEC) > 0.999);
}

/// Where the caps are more than the GPU has, weights decide.
#[test]
fn a_domain_with_too_much_promised_goes_by_weight() {
    let mut sim = Sim::new(1, Config::default());
    sim.add(0, beside(7, 1000, tenant(300)), saturate(200 * US), 0);
    sim.add(1, beside(7, 1000, tenant(700)), saturate(2 * MS), 0);
    sim.run(3 * SEC);
    let got = shares(&sim, SEC, 3 * SEC);
    assert!((got[0] / (got[0] + got[1]) - 0.3).abs() < 0.02, "{got:?}");
}

/// A22: an operator sets how long windows are, and so often two saturating tenants take turns.
#[test]
fn windows_are_as_long_as_they_are_set() {
    for length in [5 * MS, 20 * MS, 50 * MS] {
        let mut sim = Sim::new(1, Config::windows(length));
        sim.add(0, tenant(500), saturate(200 * US), 0);
        sim.add(1, tenant(500), saturate(500 * US), 0);
        sim.run(SEC);
        let before = sim.switches;
        sim.run(2 * SEC);
        let period = 2 * SEC / (sim.switches - before);
        assert!(period.abs_diff(length) * 5 <= length, "{period} ns instead of {length}");
    }
}

/// A23: beside a tenant of long kernels one of short ones has its share.
#[test]
fn long_kernels_do_not_take_short_ones_share() {
    for long in [2 * MS, 5 * MS, 10 * MS] {
        let mut sim = shared(1, &[(500, saturate(50 * US)), (500, saturate(long))]);
        sim.run(2 * SEC);
        assert!(sim.share(0, SEC, 2 * SEC) >= 0.4, "{:?}", shares(&sim, SEC, 2 * SEC));
    }
}

/// A17: who lent its share has it back within half a second, for good.
#[test]
fn entitlements_are_back_within_half_a_second() {
    let loads = [(250, saturate(200 * US)), (250, saturate(2 * MS)), (500, saturate(500 * US))];
    let mut sim = shared(1, &loads[..2]);
    sim.run(SEC);
    sim.add(2, tenant(500), loads[2].1.clone(), 0);
    sim.run(3 * SEC / 2);
    for from in [1500, 1750, 2000] {
        let got = sim.share(2, from * MS, (from + 500) * MS);
        assert!((got - 0.5).abs() < 0.03, "{got} from {from} ms on");
    }
}
