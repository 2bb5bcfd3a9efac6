//! From the MIG instances that are on a GPU to those that are wanted: what to destroy and what to make, in which order, and
//! where. What is busy is never touched. And the profile for a need, and what can be had instead of what can't.
use crate::mig::{Geometry, Instance, Mask, Profile};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// An instance that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Which.
    pub instance: Instance,
    /// Somebody uses it, or it is promised to somebody.
    pub busy: bool,
}

/// An instance that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index of the profile.
    pub profile: usize,
    /// Its first memory slice; anywhere if not given.
    pub start: Option<u8>,
}

/// One change of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Destroy an instance.
    Destroy(Instance),
    /// Make one.
    Create(Instance),
}

impl Step {
    /// What undoes it.
    pub const fn back(self) -> Step {
        match self {
            Step::Destroy(instance) => Step::Create(instance),
            Step::Create(instance) => Step::Destroy(instance),
        }
    }
}

/// Why what is wanted can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// These are busy and not wanted.
    Busy(Vec<Instance>),
    /// It would fit, but not beside these, which are busy where they are.
    InTheWay(Vec<Instance>),
    /// It fits on no GPU of this model.
    NoRoom,
}

/// What there will be, and how it comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The instances, in the order of their starts.
    pub layout: Vec<Instance>,
    /// First what is destroyed, then what is made.
    pub steps: Vec<Step>,
}

/// Instances to find places for, and the best that was found.
struct Search<'a> {
    geometry: &'a Geometry,
    weights: Vec<u32>,
    /// Idle instances, which had better stay.
    idle: &'a [Instance],
    best: Option<((usize, u64), Vec<Instance>)>,
}

impl Search<'_> {
    /// Places `rest`, in which equals are neighbours, beside what is `taken`. One like `before`, which could lie anywhere,
    /// lies behind it: any other order is the same layout.
    fn place(&mut self, rest: &[Wanted], taken: Mask, before: Option<Instance>, placed: &mut Vec<Instance>) {
        let Some((first, rest)) = rest.split_first() else {
            let kept = placed.iter().filter(|one| self.idle.contains(one)).count();
            let key = (kept, self.geometry.worth(taken, &self.weights));
            if self.best.as_ref().is_none_or(|(best, _)| key > *best) {
                self.best = Some((key, placed.clone()));
            }
            return;
        };
        let geometry = self.geometry;
        let behind = |one: &Instance| before.is_none_or(|last| last.profile != one.profile || last.start < one.start);
        for one in geometry.fits(taken, first.profile) {
            if first.start.map_or_else(|| behind(&one), |start| start == one.start) {
                placed.push(one);
                self.place(rest, taken | geometry.mask(one), first.start.is_none().then_some(one), placed);
                placed.pop();
            }
        }
    }
}

impl Geometry {
    /// Places for `wanted` beside what is `taken`: such that as many of `idle` as can be are among them, and what is left is
    /// worth most to those who come. `None` if they don't fit.
    pub fn arrange(&self, taken: Mask, wanted: &[Wanted], idle: &[Instance]) -> Option<Vec<Instance>> {
        // More than there are slices never fit.
        if wanted.len() > Mask::BITS as usize || wanted.iter().any(|one| one.profile >= self.profiles.len()) {
            return None;
        }
        let mut order = wanted.to_vec();
        // Those with a place of their own first, then the large ones, which have the fewest places.
        let size = |one: &Wanted| self.profiles.get(one.profile).map_or(0, |kind| kind.size);
        order.sort_by_key(|one| (one.start.is_none(), core::cmp::Reverse(size(one)), one.profile, one.start));
        let mut search = Search { geometry: self, weights: vec![1; self.profiles.len()], idle, best: None };
        search.place(&order, taken, None, &mut Vec::new());
        search.best.map(|(_, layout)| layout)
    }

    /// How a GPU gets from what is `present` to what is `wanted`. Whatever is there already stays where it is, as far as
    /// that leaves room for the rest. From the layout that comes out there is nothing left to do.
    pub fn change(&self, present: &[Present], wanted: &[Wanted]) -> Result<Change, Obstacle> {
        let mut rest = wanted.to_vec();
        let (mut layout, mut strange) = (Vec::new(), Vec::new());
        for one in present.iter().filter(|one| one.busy) {
            let same = |want: &Wanted| want.profile == one.instance.profile;
            let here = rest.iter().position(|want| same(want) && want.start == Some(one.instance.start));
            match here.or_else(|| rest.iter().position(|want| same(want) && want.start.is_none())) {
                Some(at) => {
                    rest.swap_remove(at);
                    layout.push(one.instance);
                }
                None => strange.push(one.instance),
            }
        }
        if !strange.is_empty() {
            return Err(Obstacle::Busy(strange));
        }
        let taken = layout.iter().fold(0, |mask, one| mask | self.mask(*one));
        let idle: Vec<Instance> = present.iter().filter(|one| !one.busy).map(|one| one.instance).collect();
        let Some(placed) = self.arrange(taken, &rest, &idle) else {
            let alone = self.arrange(0, wanted, &[]).is_some();
            return Err(if alone { Obstacle::InTheWay(layout) } else { Obstacle::NoRoom });
        };
        let order = |one: &Instance| (one.start, one.profile);
        let mut gone: Vec<Instance> = idle.iter().filter(|one| !placed.contains(one)).copied().collect();
        let mut new: Vec<Instance> = placed.iter().filter(|one| !idle.contains(one)).copied().collect();
        gone.sort_by_key(order);
        new.sort_by_key(order);
        let steps = gone.into_iter().map(Step::Destroy).chain(new.into_iter().map(Step::Create)).collect();
        layout.extend(placed);
        layout.sort_by_key(order);
        Ok(Change { layout, steps })
    }

    /// What can be had of `wanted` beside what is `taken`, and in place of the others what is nearest to them: by index of the
    /// profile. Most memory counts, then most instances.
    pub fn offer(&self, taken: Mask, wanted: &[usize]) -> Vec<usize> {
        let memory = |profile: usize| self.profiles.get(profile).map_or(0, |kind| kind.memory_mib);
        let open = |profile: &usize| Wanted { profile: *profile, start: None };
        let fit = |set: &[usize]| self.arrange(taken, &set.iter().map(open).collect::<Vec<_>>(), &[]).is_some();
        let mut kinds: Vec<usize> = wanted.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        // Of each profile no more than fit at all.
        let most = |kind: usize| wanted.iter().filter(|one| **one == kind).count().min(self.room(taken, kind) as usize);
        let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
        for kind in kinds {
            let more = |set: &Vec<usize>| {
                (0..=most(kind)).map(|count| [set.clone(), vec![kind; count]].concat()).collect::<Vec<_>>()
            };
            sets = sets.iter().flat_map(more).filter(|set| fit(set)).collect();
        }
        let value = |set: &Vec<usize>| (set.iter().map(|kind| memory(*kind)).sum::<u64>(), set.len());
        let mut best = sets.into_iter().max_by_key(value).unwrap_or_default();
        let mut missing = wanted.to_vec();
        for had in &best {
            if let Some(at) = missing.iter().position(|kind| kind == had) {
                missing.swap_remove(at);
            }
        }
        missing.sort_by_key(|kind| core::cmp::Reverse(memory(*kind)));
        for kind in missing {
            let Some(lacked) = self.profiles.get(kind) else { continue };
            let distance = |other: &Profile| {
                (lacked.memory_mib.abs_diff(other.memory_mib), lacked.sms.abs_diff(other.sms), other.media)
            };
            let with = |other: usize| [best.clone(), vec![other]].concat();
            let mut near: Vec<usize> = (0..self.profiles.len()).filter(|other| fit(&with(*other))).collect();
            near.retain(|other| self.profiles.get(*other).is_some_and(|other| lacked.media || !other.media));
            if let Some(nearest) = near.into_iter().min_by_key(|other| self.profiles.get(*other).map(distance)) {
                best = with(nearest);
            }
        }
        best
    }

    /// What keeps `wanted` from fitting on an empty GPU: the tightest rule, in words.
    pub fn tightest(&self, wanted: &[usize]) -> String {
        let count = |kind: usize| wanted.iter().filter(|one| **one == kind).count();
        for (at, kind) in self.profiles.iter().enumerate() {
            let room = self.room(0, at) as usize;
            if count(at) > room {
                let starts: Vec<String> = kind.starts.iter().map(u8::to_string).collect();
                return format!(
                    "{} {} of {} are asked, and a GPU holds {room}: it takes {} memory slice{}, from {} on",
                    count(at),
                    if count(at) == 1 { "instance" } else { "instances" },
                    kind.name,
                    kind.size,
                    if kind.size == 1 { "" } else { "s" },
                    starts.join(", ")
                );
            }
        }
        let kinds = || wanted.iter().filter_map(|at| self.profiles.get(*at));
        if kinds().filter(|kind| kind.media).count() > 1 {
            return "a GPU has one media extension, and several instances ask for it".into();
        }
        let slices: u32 = kinds().map(|kind| u32::from(kind.size)).sum();
        let whole =
            self.profiles.iter().flat_map(|kind| kind.starts.iter().map(|start| start.saturating_add(kind.size))).max();
        let whole = u32::from(whole.unwrap_or(0));
        let list = self.list(wanted);
        match slices > whole {
            true => format!("{list} take {slices} memory slices, and a GPU has {whole}"),
            false => {
                format!("{list} take {slices} of {whole} memory slices, and the places where they may start overlap")
            }
        }
    }

    /// `4g.40gb + 2 x 1g.10gb`, the largest first.
    pub fn list(&self, profiles: &[usize]) -> String {
        let mut order = self.by_size();
        order.extend((0..self.profiles.len()).filter(|at| self.profiles.get(*at).is_some_and(|kind| kind.media)));
        let words = order.into_iter().rev().filter_map(|at| {
            let name = &self.profiles.get(at)?.name;
            match profiles.iter().filter(|one| **one == at).count() {
                0 => None,
                1 => Some(name.clone()),
                count => Some(format!("{count} x {name}")),
            }
        });
        match words.collect::<Vec<_>>() {
            words if words.is_empty() => "nothing".into(),
            words => words.join(" + "),
        }
    }

    /// The most that can still be given beside what is `taken`: memory in MiB, and multiprocessors.
    pub fn most(&self, taken: Mask) -> (u64, u32) {
        let kinds = |layout: &Vec<Instance>| {
            let each = layout.iter().filter_map(|one| self.profiles.get(one.profile));
            each.fold((0, 0), |(memory, sms), kind| (memory + kind.memory_mib, sms + kind.sms))
        };
        self.beside(taken, |kind| !kind.media).iter().map(kinds).max().unwrap_or_default()
    }

    /// The multiprocessors that MIG can give of a GPU; at least so many, where the largest profile is not known.
    pub fn multiprocessors(&self) -> u32 {
        let beside = |(at, kind): (usize, &Profile)| kind.sms * self.room(0, at);
        self.profiles.iter().enumerate().map(beside).max().unwrap_or(0)
    }

    /// A profile's share of them, rounded to whole percent.
    pub fn percent(&self, profile: &Profile) -> u32 {
        let all = self.multiprocessors().max(1);
        (profile.sms * 100 + all / 2) / all
    }

    /// The profiles for a need of so much usable memory and such a part of the multiprocessors, the smallest first, without
    /// those that hold the media extension.
    pub fn suitable(&self, memory_mib: u64, percent: f64) -> Vec<usize> {
        let mut order = self.by_size();
        order.retain(|at| {
            let kind = self.profiles.get(*at);
            kind.is_some_and(|kind| kind.memory_mib >= memory_mib && f64::from(self.percent(kind)) >= percent)
        });
        order
    }

    /// The profiles without the media extension, the smallest first.
    pub fn by_size(&self) -> Vec<usize> {
        let kind = |at: &usize| self.profiles.get(*at);
        let mut order: Vec<usize> = (0..self.profiles.len()).filter(|at| kind(at).is_some_and(|k| !k.media)).collect();
        order.sort_by_key(|at| kind(at).map(|kind| (kind.size, kind.sms, kind.memory_mib)));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mig::tests::{a30, h100};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn named(geometry: &Geometry, names: &[&str]) -> Vec<Wanted> {
        names
            .iter()
            .map(|name| {
                let (name, start) = name.split_once('@').map_or((*name, None), |(name, at)| (name, at.parse().ok()));
                Wanted { profile: geometry.named(name).unwrap(), start }
            })
            .collect()
    }

    fn at(geometry: &Geometry, name: &str) -> Instance {
        let one = named(geometry, &[name])[0];
        Instance { profile: one.profile, start: one.start.unwrap() }
    }

    fn here(geometry: &Geometry, idle: &[&str], busy: &[&str]) -> Vec<Present> {
        let all = idle.iter().map(|name| (name, false)).chain(busy.iter().map(|name| (name, true)));
        all.map(|(name, busy)| Present { instance: at(geometry, name), busy }).collect()
    }

    #[test]
    fn shares_are_of_the_whole_also_where_the_largest_profile_is_not_known() {
        let mut h100 = h100();
        assert_eq!(h100.multiprocessors(), 132);
        h100.profiles.retain(|profile| profile.size < 4);
        assert_eq!((h100.multiprocessors(), h100.percent(&h100.profiles[0])), (112, 14));
    }

    #[test]
    fn what_is_busy_stays_and_what_is_idle_stays_where_it_can() {
        let h100 = h100();
        let change = |idle: &[&str], busy: &[&str], wanted: &[&str]| {
            h100.change(&here(&h100, idle, busy), &named(&h100, wanted))
        };
        let steps = |change: Result<Change, Obstacle>| change.unwrap().steps;
        let (destroy, create) = (|name| Step::Destroy(at(&h100, name)), |name| Step::Create(at(&h100, name)));
        // 3g where it leaves four small ones.
        assert_eq!(steps(change(&[], &[], &["3g.40gb"])), [create("3g.40gb@4")]);
        assert_eq!(steps(change(&["3g.40gb@0"], &[], &["3g.40gb"])), []);
        // One that is idle gives way where the rest would have no room.
        assert_eq!(
            steps(change(&["3g.40gb@0"], &[], &["3g.40gb", "4g.40gb"])),
            [destroy("3g.40gb@0"), create("4g.40gb@0"), create("3g.40gb@4")]
        );
        assert_eq!(
            change(&[], &["3g.40gb@0"], &["3g.40gb", "4g.40gb"]),
            Err(Obstacle::InTheWay([at(&h100, "3g.40gb@0")].into()))
        );
        let unwanted = change(&[], &["1g.10gb@2", "3g.40gb@4"], &["3g.40gb"]);
        assert_eq!(unwanted, Err(Obstacle::Busy([at(&h100, "1g.10gb@2")].into())));
        assert_eq!(change(&[], &[], &["4g.40gb", "4g.40gb"]), Err(Obstacle::NoRoom));
        assert_eq!(steps(change(&[], &["1g.10gb@3"], &["1g.10gb@3", "1g.10gb"])).len(), 1);
        assert_eq!(steps(change(&["4g.40gb@0"], &[], &["4g.40gb", "1g.10gb@6", "1g.10gb", "1g.10gb"])).len(), 3);
        assert_eq!(steps(change(&["7g.80gb@0"], &[], &[])), [destroy("7g.80gb@0")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(1000) })]
        #[test]
        fn steps_lead_from_any_layout_to_any_that_fits_and_back(
            model in 0..2usize,
            seed in proptest::collection::vec((0..64usize, any::<bool>(), any::<bool>()), 0..8),
            wishes in proptest::collection::vec((0..8usize, any::<bool>()), 0..8),
            keep in any::<bool>(),
        ) {
            let geometry = if model == 0 { h100() } else { a30() };
            // Whatever is drawn and fits is there.
            let mut present: Vec<Present> = Vec::new();
            let mut taken = 0;
            for (draw, busy, _) in &seed {
                let profile = draw % geometry.profiles.len();
                let fits: Vec<Instance> = geometry.fits(taken, profile).collect();
                if let Some(instance) = fits.get(draw / 8 % fits.len().max(1)).copied() {
                    taken |= geometry.mask(instance);
                    present.push(Present { instance, busy: *busy });
                }
            }
            let open = |(profile, _): &(usize, bool)| Wanted { profile: profile % geometry.profiles.len(), start: None };
            let mut wanted: Vec<Wanted> = wishes.iter().map(open).collect();
            if keep {
                let kept = present.iter().filter(|one| one.busy).zip(&seed);
                let place = |one: Instance, exact: bool| Wanted { profile: one.profile, start: exact.then_some(one.start) };
                wanted.extend(kept.map(|(one, (_, _, exact))| place(one.instance, *exact)));
            }
            let profiles = |of: &mut dyn Iterator<Item = usize>| {
                let mut all: Vec<usize> = of.collect();
                all.sort_unstable();
                all
            };
            match geometry.change(&present, &wanted) {
                Ok(change) => {
                    prop_assert!(geometry.check(&change.layout).is_ok());
                    let (had, asked) = (change.layout.iter().map(|one| one.profile), wanted.iter().map(|one| one.profile));
                    prop_assert_eq!(profiles(&mut had.into_iter()), profiles(&mut asked.into_iter()));
                    for want in wanted.iter().filter(|want| want.start.is_some()) {
                        let here = |one: &Instance| one.profile == want.profile && Some(one.start) == want.start;
                        prop_assert!(change.layout.iter().any(here));
                    }
                    // Each step is possible when it comes, none touches what is busy, and undone they lead back.
                    let mut now: Vec<Instance> = present.iter().map(|one| one.instance).collect();
                    let start = now.clone();
                    let back = change.steps.iter().rev().map(|step| step.back());
                    for (count, step) in change.steps.iter().copied().chain(back).enumerate() {
                        match step {
                            Step::Create(one) => now.push(one),
                            Step::Destroy(one) => {
                                let at = now.iter().position(|other| *other == one);
                                prop_assert!(at.is_some(), "{:?}", step);
                                now.swap_remove(at.unwrap());
                            }
                        }
                        prop_assert!(geometry.check(&now).is_ok(), "{:?}", now);
                        prop_assert!(present.iter().all(|one| !one.busy || now.contains(&one.instance)));
                        if count + 1 == change.steps.len() {
                            let done = |one: &Instance| Present { instance: *one, busy: false };
                            let again = geometry.change(&now.iter().map(done).collect::<Vec<_>>(), &wanted).unwrap();
                            prop_assert_eq!(again.steps, []);
                        }
                    }
                    prop_assert!(start.len() == now.len() && start.iter().all(|one| now.contains(one)));
                }
                Err(Obstacle::Busy(strange)) => prop_assert!(!strange.is_empty()),
                Err(Obstacle::InTheWay(way)) => prop_assert!(!way.is_empty()),
                Err(Obstacle::NoRoom) => {
                    let asked: Vec<usize> = wanted.iter().map(|one| one.profile).collect();
                    let offer = geometry.offer(0, &asked);
                    let had = offer.iter().map(|profile| Wanted { profile: *profile, start: None }).collect::<Vec<_>>();
                    prop_assert!(geometry.change(&[], &had).is_ok());
                    prop_assert!(offer.len() <= asked.len());
                }
            }
        }
    }

    #[test]
    fn b10_what_can_t_be_had_comes_with_what_is_nearest() {
        let h100 = h100();
        let offer = |wanted: &[&str]| {
            let wanted: Vec<usize> = named(&h100, wanted).iter().map(|one| one.profile).collect();
            h100.offer(0, &wanted).iter().map(|at| h100.profiles[*at].name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(offer(&["4g.40gb", "4g.40gb"]), ["4g.40gb", "3g.40gb"]);
        assert_eq!(offer(&["7g.80gb", "1g.10gb"]), ["7g.80gb"]);
        assert_eq!(offer(&["2g.20gb"; 4]), ["2g.20gb", "2g.20gb", "2g.20gb", "1g.20gb"]);
        assert_eq!(offer(&["1g.10gb"; 8]).len(), 7);
    }

    #[test]
    fn b11_the_smallest_profile_that_suffices() {
        let h200 = Geometry {
            profiles: h100()
                .profiles
                .into_iter()
                .zip([16384, 16384, 33024, 33024, 71168, 71168, 142_848])
                .map(|(kind, memory_mib)| Profile { memory_mib, ..kind })
                .collect(),
        };
        let first = |gib: u64, percent| h200.suitable(gib << 10, percent).first().copied();
        let named = |name| h200.named(name);
        assert_eq!(first(16, 10.0), named("1g.10gb"));
        assert_eq!(first(18, 20.0), named("1g.20gb"));
        assert_eq!(first(18, 24.0), named("2g.20gb"));
        assert_eq!(first(1, 46.0), named("4g.40gb"));
        assert_eq!(first(140, 1.0), None);
        assert_eq!(a30().suitable(6 << 10, 0.0).first(), Some(&2));
    }
}
