//! MIG geometry: which instances fit on a GPU beside which, as arithmetic over what the hardware tells of its profiles.
//!
//! A GPU has up to 16 memory slices. An instance of a profile takes `size` of them in a row, from one of its `starts` on;
//! which starts those are is all that the rules come to. A set of slices is a [`Mask`], so whether something fits is one
//! operation, and everything that can ever be asked of a GPU is one of a few hundred masks.
use alloc::string::String;
use alloc::vec::Vec;

/// A set of memory slices: bit *n* is slice *n*.
pub type Mask = u16;

/// A kind of instance, as NVML tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name, such as `1g.10gb`. Ids are not portable between GPUs; names are.
    pub name: String,
    /// The memory slices at which an instance may start.
    pub starts: Vec<u8>,
    /// How many of them it takes.
    pub size: u8,
    /// Most instances of it on one GPU.
    pub most: u8,
    /// Multiprocessors of an instance.
    pub sms: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u64,
}

impl Profile {
    /// The slices of an instance that starts at `start`.
    pub fn mask(&self, start: u8) -> Mask {
        let ones = (1u32 << self.size.min(16)) - 1;
        (ones << start.min(16)) as Mask
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

    /// The slices that these take together, or the first that overlaps with those before it, starts where its profile may
    /// not, or is one more than its profile allows.
    pub fn check(&self, layout: &[Instance]) -> Result<Mask, Instance> {
        let mut taken = 0;
        for (at, instance) in layout.iter().enumerate() {
            let profile = self.profiles.get(instance.profile).ok_or(*instance)?;
            let same = layout[..at].iter().filter(|other| other.profile == instance.profile).count();
            let mask = profile.mask(instance.start);
            if !profile.starts.contains(&instance.start) || taken & mask != 0 || same >= usize::from(profile.most) {
                return Err(*instance);
            }
            taken |= mask;
        }
        Ok(taken)
    }

    /// Where an instance of `profile` can start beside those of `layout`.
    pub fn free_starts(&self, layout: &[Instance], profile: usize) -> Vec<u8> {
        let Some(kind) = self.profiles.get(profile) else { return Vec::new() };
        if layout.iter().filter(|one| one.profile == profile).count() >= usize::from(kind.most) {
            return Vec::new();
        }
        let taken = layout.iter().fold(0, |taken, one| taken | self.mask(*one));
        kind.starts.iter().copied().filter(|start| kind.mask(*start) & taken == 0).collect()
    }

    /// Every layout to which nothing can be added, of the profiles that `with` accepts, each in the order of its starts.
    pub fn maximal(&self, with: impl Fn(&Profile) -> bool) -> Vec<Vec<Instance>> {
        let mut all: Vec<Instance> = Vec::new();
        for (profile, kind) in self.profiles.iter().enumerate().filter(|(_, kind)| with(kind)) {
            all.extend(kind.starts.iter().map(|start| Instance { profile, start: *start }));
        }
        all.sort_by_key(|instance| (instance.start, instance.profile));
        let (mut found, mut layout) = (Vec::new(), Vec::new());
        self.extend(&all, 0, &mut layout, &mut found);
        found
    }

    /// Adds instances from `all[from..]`, which are in the order of their starts.
    fn extend(&self, all: &[Instance], from: usize, layout: &mut Vec<Instance>, found: &mut Vec<Vec<Instance>>) {
        let fits = |layout: &[Instance], one: &Instance| self.free_starts(layout, one.profile).contains(&one.start);
        if !all.iter().any(|one| fits(layout, one)) {
            found.push(layout.clone());
        }
        for (at, one) in all.iter().enumerate().skip(from) {
            if fits(layout, one) {
                layout.push(*one);
                self.extend(all, at + 1, layout, found);
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
    use alloc::vec;

    /// The geometry of an H100 (measured), without the profile with media engines, which lies as `1g.10gb` does.
    pub(crate) fn h100() -> Geometry {
        let rows: [(&str, &[u8], u8, u8, u32, u64); 6] = [
            ("1g.10gb", &[0, 1, 2, 3, 4, 5, 6], 1, 7, 16, 9984),
            ("1g.20gb", &[0, 2, 4, 6], 2, 4, 26, 20096),
            ("2g.20gb", &[0, 2, 4], 2, 3, 32, 20096),
            ("3g.40gb", &[0, 4], 4, 2, 60, 40448),
            ("4g.40gb", &[0], 4, 1, 64, 40448),
            ("7g.80gb", &[0], 8, 1, 132, 81152),
        ];
        geometry(&rows)
    }

    fn a30() -> Geometry {
        let rows: [(&str, &[u8], u8, u8, u32, u64); 3] = [
            ("1g.6gb", &[0, 1, 2, 3], 1, 4, 14, 5836),
            ("2g.12gb", &[0, 2], 2, 2, 28, 11672),
            ("4g.24gb", &[0], 4, 1, 56, 23344),
        ];
        geometry(&rows)
    }

    fn geometry(rows: &[(&str, &[u8], u8, u8, u32, u64)]) -> Geometry {
        let profile = |&(name, starts, size, most, sms, memory_mib): &(&str, &[u8], u8, u8, u32, u64)| Profile {
            name: name.to_owned(),
            starts: starts.to_vec(),
            size,
            most,
            sms,
            memory_mib,
        };
        Geometry { profiles: rows.iter().map(profile).collect() }
    }

    #[test]
    fn the_layouts_are_as_many_as_there_are() {
        let count = |geometry: Geometry, base: bool| {
            let layouts = geometry.maximal(|profile| !base || profile.name != "1g.20gb");
            (layouts.len(), Geometry::multisets(&layouts).len())
        };
        assert_eq!(count(h100(), true), (19, 14));
        assert_eq!(count(h100(), false), (78, 38));
        assert_eq!(count(a30(), true), (5, 4));
    }

    #[test]
    fn a_layout_is_checked_against_the_rules() {
        let h100 = h100();
        let at = |name, start| Instance { profile: h100.named(name).unwrap(), start };
        assert_eq!(h100.check(&[at("4g.40gb", 0), at("3g.40gb", 4)]), Ok(0xff));
        assert_eq!(h100.check(&[at("4g.40gb", 0), at("4g.40gb", 4)]), Err(at("4g.40gb", 4)));
        assert_eq!(h100.check(&[at("3g.40gb", 0), at("1g.10gb", 3)]), Err(at("1g.10gb", 3)));
        assert_eq!(h100.check(&[at("1g.10gb", 7)]), Err(at("1g.10gb", 7)));
        // Three slices in front of it are lost where it starts at 0; one is where it starts at 4.
        assert_eq!(h100.free_starts(&[at("3g.40gb", 0)], 0), vec![4, 5, 6]);
        assert_eq!(h100.free_starts(&[at("3g.40gb", 4)], 0), vec![0, 1, 2, 3]);
        assert_eq!(h100.free_starts(&[at("4g.40gb", 0)], h100.named("4g.40gb").unwrap()), Vec::<u8>::new());
    }
}
