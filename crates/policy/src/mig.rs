//! MIG geometry: which instances fit on a GPU beside which, as arithmetic over what the hardware tells of its profiles.
//!
//! A GPU has up to 15 memory slices. An instance of a profile takes `size` of them in a row, from one of its `starts` on;
//! which starts those are is all that the rules come to. A set of slices is a [`Mask`], so whether something fits is one
//! operation, and everything that can ever be asked of a GPU is one of a few hundred masks.
use alloc::string::String;
use alloc::vec::Vec;

/// A set of memory slices: bit *n* is slice *n*; the last bit is the GPU's one media extension, [`MEDIA`].
pub type Mask = u16;

/// Of profiles that take the GPU's one media extension there can be one instance.
pub const MEDIA: Mask = 1 << 15;

/// A kind of instance, as NVML tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name, such as `1g.10gb`. Ids are not portable between GPUs; names are.
    pub name: String,
    /// The memory slices at which an instance may start.
    pub starts: Vec<u8>,
    /// How many of them it takes.
    pub size: u8,
    /// It takes the media extension besides (`+me`).
    pub media: bool,
    /// Multiprocessors of an instance.
    pub sms: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u64,
}

impl Profile {
    /// The slices of an instance that starts at `start`.
    pub fn mask(&self, start: u8) -> Mask {
        let ones = (1u32 << self.size.min(15)) - 1;
        let media = if self.media { MEDIA } else { 0 };
        (ones << start.min(15)) as Mask & !MEDIA | media
    }
}

/// An instance: a profile, by its place in the [`Geometry`], and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// Index of the profile.
    pub profile: usize,
    /// Its first memory slice.
    pub start: u8,
}

/// The profiles of a GPU model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// What instances there can be.
    pub profiles: Vec<Profile>,
}

impl Geometry {
    /// The profile with this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == name)
    }

    /// The slices that an instance takes.
    pub fn mask(&self, instance: Instance) -> Mask {
        self.profiles.get(instance.profile).map_or(0, |profile| profile.mask(instance.start))
    }

    /// The slices that these take together, or the first that overlaps with those before it or starts where its profile may
    /// not.
    pub fn check(&self, layout: &[Instance]) -> Result<Mask, Instance> {
        layout.iter().try_fold(0, |taken, instance| {
            let fits = self.fits(taken, instance.profile).any(|other| other == *instance);
            if fits { Ok(taken | self.mask(*instance)) } else { Err(*instance) }
        })
    }

    /// The instances of `profile` that fit beside what is `taken`.
    pub fn fits(&self, taken: Mask, profile: usize) -> impl Iterator<Item = Instance> {
        let kind = self.profiles.get(profile);
        let starts =
            kind.into_iter().flat_map(move |kind| kind.starts.iter().filter(move |s| kind.mask(**s) & taken == 0));
        starts.map(move |start| Instance { profile, start: *start })
    }

    /// How many instances of `profile` fit beside what is `taken`: taken one after the other as early as they go, which
    /// is the most, because all are equally long.
    pub fn room(&self, mut taken: Mask, profile: usize) -> u32 {
        let mut count = 0;
        while let Some(instance) = self.fits(taken, profile).next() {
            taken |= self.mask(instance);
            count += 1;
        }
        count
    }

    /// What a GPU with these slices taken is still worth: the instances of each profile that it has room for, each by how
    /// often it is asked for and by the square of its size, because room for a large one is what runs out.
    pub fn worth(&self, taken: Mask, weights: &[u32]) -> u64 {
        let profiles = self.profiles.iter().enumerate().zip(weights);
        let each = profiles.map(|((at, kind), weight)| {
            u64::from(self.room(taken, at)) * u64::from(kind.size).pow(2) * u64::from(*weight)
        });
        each.sum()
    }

    /// Every layout to which nothing can be added, of the profiles that `with` accepts, each in the order of its starts.
    pub fn maximal(&self, with: impl Fn(&Profile) -> bool) -> Vec<Vec<Instance>> {
        self.beside(0, with)
    }

    /// The same of what fits beside the slices that are `taken`.
    pub fn beside(&self, taken: Mask, with: impl Fn(&Profile) -> bool) -> Vec<Vec<Instance>> {
        let mut all: Vec<Instance> = Vec::new();
        for (profile, kind) in self.profiles.iter().enumerate().filter(|(_, kind)| with(kind)) {
            all.extend(kind.starts.iter().map(|start| Instance { profile, start: *start }));
        }
        all.sort_by_key(|instance| (instance.start, instance.profile));
        let (mut found, mut layout) = (Vec::new(), Vec::new());
        self.extend(&all, 0, taken, &mut layout, &mut found);
        found
    }

    /// Adds instances from `all[from..]`, which are in the order of their starts, to a layout that takes `taken`.
    fn extend(
        &self,
        all: &[Instance],
        from: usize,
        taken: Mask,
        layout: &mut Vec<Instance>,
        found: &mut Vec<Vec<Instance>>,
    ) {
        let fits = |one: &Instance| self.mask(*one) & taken == 0;
        if !all.iter().any(fits) {
            found.push(layout.clone());
        }
        for (at, one) in all.iter().enumerate().skip(from) {
            if fits(one) {
                layout.push(*one);
                self.extend(all, at + 1, taken | self.mask(*one), layout, found);
                layout.pop();
            }
        }
    }

    /// The layouts that differ in what they hold, whatever lies where: profiles by index, in ascending order.
    pub fn multisets(layouts: &[Vec<Instance>]) -> Vec<Vec<usize>> {
        let mut sets: Vec<Vec<usize>> = (layouts.iter())
            .map(|layout| {
                let mut set: Vec<usize> = layout.iter().map(|instance| instance.profile).collect();
                set.sort_unstable();
                set
            })
            .collect();
        sets.sort();
        sets.dedup();
        sets
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    /// The geometry of an H100 (measured).
    pub(crate) fn h100() -> Geometry {
        geometry(&[
            ("1g.10gb", &[0, 1, 2, 3, 4, 5, 6], 1, 16, 9984),
            ("1g.10gb+me", &[0, 1, 2, 3, 4, 5, 6], 1, 16, 9984),
            ("1g.20gb", &[0, 2, 4, 6], 2, 26, 20096),
            ("2g.20gb", &[0, 2, 4], 2, 32, 20096),
            ("3g.40gb", &[0, 4], 4, 60, 40448),
            ("4g.40gb", &[0], 4, 64, 40448),
            ("7g.80gb", &[0], 8, 132, 81152),
        ])
    }

    pub(crate) fn a30() -> Geometry {
        geometry(&[
            ("1g.6gb", &[0, 1, 2, 3], 1, 14, 5836),
            ("1g.6gb+me", &[0, 1, 2, 3], 1, 14, 5836),
            ("2g.12gb", &[0, 2], 2, 28, 11672),
            ("2g.12gb+me", &[0, 2], 2, 28, 11672),
            ("4g.24gb", &[0], 4, 56, 23344),
        ])
    }

    fn geometry(rows: &[(&str, &[u8], u8, u32, u64)]) -> Geometry {
        let profile = |&(name, starts, size, sms, memory_mib): &(&str, &[u8], u8, u32, u64)| Profile {
            name: name.to_owned(),
            starts: starts.to_vec(),
            size,
            media: name.ends_with("+me"),
            sms,
            memory_mib,
        };
        Geometry { profiles: rows.iter().map(profile).collect() }
    }

    #[test]
    fn the_layouts_are_as_many_as_there_are() {
        let count = |geometry: Geometry, without: &[&str]| {
            let layouts = geometry.maximal(|profile| !without.iter().any(|part| profile.name.contains(part)));
            (layouts.len(), Geometry::multisets(&layouts).len())
        };
        assert_eq!(count(h100(), &["+me", "1g.20gb"]), (19, 14));
        assert_eq!(count(h100(), &["+me"]), (78, 38));
        assert_eq!(count(a30(), &["+me"]), (5, 4));
    }

    #[test]
    fn every_layout_is_allowed_and_has_no_room() {
        for geometry in [h100(), a30()] {
            for layout in geometry.maximal(|_| true) {
                let taken = geometry.check(&layout).unwrap();
                assert!((0..geometry.profiles.len()).all(|profile| geometry.room(taken, profile) == 0), "{layout:?}");
                assert!(layout.iter().filter(|one| geometry.profiles[one.profile].media).count() <= 1);
            }
        }
    }

    #[test]
    fn a_layout_is_checked_against_the_rules() {
        let h100 = h100();
        let at = |name, start| Instance { profile: h100.named(name).unwrap(), start };
        assert_eq!(h100.check(&[at("4g.40gb", 0), at("3g.40gb", 4)]), Ok(0xff));
        assert_eq!(h100.check(&[at("4g.40gb", 0), at("4g.40gb", 4)]), Err(at("4g.40gb", 4)));
        assert_eq!(h100.check(&[at("3g.40gb", 0), at("1g.10gb", 3)]), Err(at("1g.10gb", 3)));
        assert_eq!(h100.check(&[at("1g.10gb", 7)]), Err(at("1g.10gb", 7)));
        assert_eq!(h100.check(&[at("1g.10gb+me", 0), at("1g.10gb+me", 1)]), Err(at("1g.10gb+me", 1)));
        // Of what it leaves, a slice is lost beside one that starts at 0.
        let room = |start| h100.room(h100.mask(at("3g.40gb", start)), 0);
        assert_eq!((room(0), room(4)), (3, 4));
        assert_eq!(h100.room(0, 0), 7);
        assert_eq!((0..7).map(|profile| h100.room(0, profile)).collect::<Vec<_>>(), [7, 1, 4, 3, 2, 1, 1]);
    }
}
