//! Which devices are close to each other: links between pairs, and the groups whose links are best.
//!
//! What several GPUs do together goes at the pace of their worst link, so a group is as good as its worst pair; of equally
//! bad ones the second worst decides, and so on. NVLink comes before any way over PCIe, more of it before less, and
//! then the nearer way: PIX, PXB, PHB, NODE, SYS.
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::{Ordering, Reverse};
use core::fmt;
use core::str::FromStr;

/// The way between two devices over PCIe, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// At most one PCIe bridge.
    Pix,
    /// Several bridges, but not the CPU's.
    Pxb,
    /// Over the CPU's PCIe host bridge.
    Phb,
    /// Between host bridges of one NUMA node.
    Node,
    /// Between NUMA nodes.
    Sys,
}

impl Path {
    /// All, the nearest first.
    pub const ALL: [Self; 5] = [Self::Pix, Self::Pxb, Self::Phb, Self::Node, Self::Sys];

    /// As `nvidia-smi topo` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pix => "PIX",
            Self::Pxb => "PXB",
            Self::Phb => "PHB",
            Self::Node => "NODE",
            Self::Sys => "SYS",
        }
    }

    /// The way between two devices, each given by what is above it on the bus, from its root on, and itself: `["pci0000:00",
    /// "0000:00:01.0", "0000:01:00.0"]`; and by its NUMA node.
    pub fn between<T: PartialEq>(one: (&[T], Option<u32>), other: (&[T], Option<u32>)) -> Self {
        let ((a, node_a), (b, node_b)) = (one, other);
        let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let beyond = a.len().max(b.len()).saturating_sub(common);
        match common {
            0 if node_a == node_b => Self::Node,
            0 => Self::Sys,
            1 => Self::Phb,
            // Each device itself, and at most the port of one switch that leads to it.
            _ if beyond <= 2 => Self::Pix,
            _ => Self::Pxb,
        }
    }
}

impl FromStr for Path {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|path| path.name() == text).ok_or(())
    }
}

/// How two devices are linked. The greater, the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// NVLinks that join them, directly or over switches.
    pub nvlinks: u32,
    /// The way over PCIe, where known.
    pub path: Option<Path>,
}

impl Link {
    /// What orders links. A way that is not known is behind all others.
    fn rank(&self) -> (u32, Reverse<Option<Path>>, bool) {
        (self.nvlinks, Reverse(self.path.or(Some(Path::Sys))), self.path.is_some())
    }
}

impl Ord for Link {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Link {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Link {
    /// `NV18` or `PIX`, as `nvidia-smi topo` writes it; `?` where nothing is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nvlinks, self.path) {
            (1.., _) => write!(f, "NV{}", self.nvlinks),
            (0, Some(path)) => f.write_str(path.name()),
            (0, None) => f.write_str("?"),
        }
    }
}

/// The links between each two of several devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    count: usize,
    links: Vec<Link>,
}

impl Links {
    /// `count` devices of whose links nothing is known.
    pub fn new(count: usize) -> Self {
        Self { count, links: vec![Link::default(); count * count] }
    }

    /// How many devices there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The link between two of them.
    pub fn get(&self, a: usize, b: usize) -> Link {
        if a.max(b) < self.count {
            self.links.get(a * self.count + b).copied().unwrap_or_default()
        } else {
            Link::default()
        }
    }

    /// Sets it, in both directions.
    pub fn set(&mut self, a: usize, b: usize, link: Link) {
        if a.max(b) >= self.count {
            return;
        }
        for at in [a * self.count + b, b * self.count + a] {
            if let Some(to) = self.links.get_mut(at) {
                *to = link;
            }
        }
    }
}

/// Devices, and the links between each two of them, the worst first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The devices, ascending.
    pub members: Vec<usize>,
    /// Their links: of groups of one size the one whose list is greater is better.
    pub links: Vec<Link>,
}

impl Group {
    /// The group of these devices.
    pub fn of(links: &Links, members: &[usize]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        let mut found = Vec::with_capacity(members.len() * members.len() / 2);
        for (at, a) in members.iter().enumerate() {
            found.extend(members.iter().skip(at + 1).map(|b| links.get(*a, *b)));
        }
        found.sort_unstable();
        Self { members, links: found }
    }
}

/// The best first; of equal ones that of the lower devices.
impl Ord for Group {
    fn cmp(&self, other: &Self) -> Ordering {
        other.links.cmp(&self.links).then_with(|| self.members.cmp(&other.members))
    }
}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As many groups are looked at one by one: all of up to 16 devices, and all pairs of far more.
pub const EXHAUSTIVE: usize = 20_000;

/// The groups of `size` of the devices `from`, the best first. All of them, if they are at most [`EXHAUSTIVE`]; else one
/// for each device, grown from it by whoever joins it best.
pub fn groups(links: &Links, size: usize, from: &[usize]) -> Vec<Group> {
    if size == 0 || size > from.len() {
        return Vec::new();
    }
    let mut found = match choose(from.len(), size) {
        Some(count) if count <= EXHAUSTIVE => subsets(from, size).iter().map(|set| Group::of(links, set)).collect(),
        _ => from.iter().map(|first| grow(links, size, from, *first)).collect::<Vec<_>>(),
    };
    found.sort_unstable();
    found.dedup();
    found
}

/// How many subsets of `size` a set of `count` has; `None` if they are too many to count.
fn choose(count: usize, size: usize) -> Option<usize> {
    (0..size.min(count - size)).try_fold(1usize, |all, at| Some(all.checked_mul(count - at)? / (at + 1)))
}

fn subsets(from: &[usize], size: usize) -> Vec<Vec<usize>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in from.iter().enumerate() {
        for mut rest in subsets(from.get(at + 1..).unwrap_or_default(), size - 1) {
            rest.insert(0, *first);
            all.push(rest);
        }
    }
    all
}

fn grow(links: &Links, size: usize, from: &[usize], first: usize) -> Group {
    let mut group = Group::of(links, &[first]);
    while group.members.len() < size {
        let others = from.iter().filter(|device| !group.members.contains(device));
        let joined = others.map(|device| Group::of(links, &[group.members.as_slice(), &[*device]].concat()));
        match joined.min() {
            Some(better) => group = better,
            None => break,
        }
    }
    group
}

/// A set of processors, or of NUMA nodes, as the kernel and `taskset -c` write it: `0-15,64-79`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(Vec<(u32, u32)>);

impl Cpus {
    /// The set of these.
    pub fn of(all: impl IntoIterator<Item = u32>) -> Self {
        Self(all.into_iter().map(|cpu| (cpu, cpu)).collect()).joined()
    }

    /// Those of bit masks of 64 each, the lowest first, as NVML gives them.
    pub fn of_masks(masks: &[u64]) -> Self {
        let bits = |(word, mask): (usize, &u64)| {
            let (word, mask) = (word as u32 * 64, *mask);
            (0..64).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| word + bit)
        };
        Self::of(masks.iter().enumerate().flat_map(bits))
    }

    /// Both together.
    pub fn with(&self, other: &Self) -> Self {
        Self([self.0.as_slice(), &other.0].concat()).joined()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// Whether all of `other` are in it.
    pub fn holds(&self, other: &Self) -> bool {
        other.0.iter().all(|(first, last)| self.0.iter().any(|(from, to)| from <= first && last <= to))
    }

    /// The only one, if it is one.
    pub fn only(&self) -> Option<u32> {
        match self.0.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }

    fn joined(mut self) -> Self {
        self.0.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0 {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        Self(ranges)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for Cpus {
    type Err = ();

    /// Reads `0-15,64-79`; an empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, ()> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().map_err(|_| ())?, last.trim().parse().map_err(|_| ())?);
            if first <= last { Ok((first, last)) } else { Err(()) }
        };
        let parts = text.trim().split(',').filter(|part| !part.is_empty());
        Ok(Self(parts.map(range).collect::<Result<_, ()>>()?).joined())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn link(text: &str) -> Link {
        match text.strip_prefix("NV") {
            Some(count) => Link { nvlinks: count.parse().unwrap(), path: None },
            None => Link { nvlinks: 0, path: Some(text.parse().unwrap()) },
        }
    }

    /// Devices with the links that `between` names.
    fn links(count: usize, between: impl Fn(usize, usize) -> &'static str) -> Links {
        let mut links = Links::new(count);
        for a in 0..count {
            for b in a + 1..count {
                links.set(a, b, link(between(a, b)));
            }
        }
        links
    }

    /// Two sockets of two switches of two GPUs each, without NVLink.
    fn pcie(a: usize, b: usize) -> &'static str {
        match (a / 2 == b / 2, a / 4 == b / 4) {
            (true, _) => "PIX",
            (_, true) => "NODE",
            _ => "SYS",
        }
    }

    #[test]
    fn nvlink_comes_first_and_the_nearer_way_next() {
        let order = ["NV18", "NV12", "NV1", "PIX", "PXB", "PHB", "NODE", "SYS"];
        for (at, better) in order.iter().enumerate() {
            assert_eq!(link(better).to_string(), *better);
            for worse in &order[at + 1..] {
                assert!(link(better) > link(worse), "{better} {worse}");
            }
        }
        assert!(link("SYS") > Link::default());
        assert_eq!(Link::default().to_string(), "?");
    }

    #[test]
    fn the_way_over_pcie_is_where_the_two_part() {
        let way = |a: &[&str], b: &[&str], same: bool| Path::between((a, Some(0)), (b, Some(u32::from(!same))));
        let gpu = ["pci15", "root", "up", "down1", "gpu"];
        assert_eq!(way(&gpu, &["pci15", "root", "up", "down2", "nic"], true), Path::Pix);
        assert_eq!(way(&gpu, &["pci15", "root", "up", "down1", "gpu.1"], true), Path::Pix);
        assert_eq!(way(&gpu, &["pci15", "root", "up", "down2", "up2", "down", "nic"], true), Path::Pxb);
        assert_eq!(way(&gpu, &["pci15", "root2", "nic"], true), Path::Phb);
        assert_eq!(way(&["pci0", "gpu"], &["pci0", "nic"], true), Path::Phb);
        assert_eq!(way(&gpu, &["pci26", "root", "nic"], true), Path::Node);
        assert_eq!(way(&gpu, &["pci97", "root", "nic"], false), Path::Sys);
    }

    /// Whatever the links, the best group is the one that no other beats: each size, each number of devices.
    #[test]
    fn the_best_group_is_the_best_of_all() {
        for count in 1..=10 {
            // Links without a pattern, but the same at each run.
            let mut seed = count as u64;
            let mut all = Links::new(count);
            for a in 0..count {
                for b in a + 1..count {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let choice = (seed >> 33) as usize % 7;
                    let nvlinks = [0, 0, 0, 0, 0, 4, 18][choice];
                    all.set(a, b, Link { nvlinks, path: Path::ALL.get(choice).copied() });
                }
            }
            let from: Vec<usize> = (0..count).collect();
            for size in 1..=count {
                let found = groups(&all, size, &from);
                let sets: Vec<Vec<usize>> = (0u32..1 << count)
                    .filter(|mask| mask.count_ones() as usize == size)
                    .map(|mask| (0..count).filter(|bit| mask >> bit & 1 == 1).collect())
                    .collect();
                assert_eq!(found.len(), sets.len());
                for set in sets {
                    let worst = |group: &Group| group.links.first().copied();
                    assert!(worst(&found[0]) >= worst(&Group::of(&all, &set)), "{set:?}");
                    assert!(found[0].links >= Group::of(&all, &set).links, "{set:?}");
                }
            }
        }
    }

    #[test]
    fn sixteen_gpus_are_looked_at_whole() {
        let box16 = links(16, |a, b| if a / 8 == b / 8 { "NV12" } else { "SYS" });
        let all: Vec<usize> = (0..16).collect();
        for size in 1..=16 {
            let found = groups(&box16, size, &all);
            assert_eq!(Some(found.len()), choose(16, size), "{size}");
            assert!(found.is_sorted());
            let together = found[0].members.iter().all(|gpu| gpu / 8 == found[0].members[0] / 8);
            assert_eq!(together, size <= 8);
        }
        assert_eq!(groups(&box16, 8, &all)[0].members, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    /// B3: an NVLink pair before SYS; and without NVLink the nearest.
    #[test]
    fn a_pair_is_taken_where_it_is_closest() {
        let pair = |between: fn(usize, usize) -> &'static str, from: &[usize]| {
            groups(&links(8, between), 2, from)[0].members.clone()
        };
        assert_eq!(pair(pcie, &[0, 1, 2, 3, 4, 5, 6, 7]), [0, 1]);
        assert_eq!(pair(pcie, &[1, 2, 4, 5]), [4, 5]);
        assert_eq!(pair(pcie, &[1, 2, 4, 7]), [1, 2]);
        assert_eq!(pair(pcie, &[1, 4]), [1, 4]);
        // A ring of NVLinks that lie across the sockets.
        let across = |a, b| if a + 4 == b { "NV4" } else { pcie(a, b) };
        assert_eq!(pair(across, &[0, 1, 2, 3, 4, 5, 6, 7]), [0, 4]);
        for (better, worse) in [("NV1", "PIX"), ("PIX", "PXB"), ("PXB", "PHB"), ("PHB", "NODE"), ("NODE", "SYS")] {
            let mut three = Links::new(3);
            three.set(0, 1, link(worse));
            three.set(0, 2, link(worse));
            three.set(1, 2, link(better));
            assert_eq!(groups(&three, 2, &[0, 1, 2])[0].members, [1, 2], "{better} {worse}");
        }
    }

    /// A third that spoils the worst link is worse than one that does not, whatever else it brings.
    #[test]
    fn a_group_is_as_good_as_its_worst_link() {
        let found = groups(&links(8, pcie), 4, &[0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(found[0].members, [4, 5, 6, 7]);
        assert_eq!(
            found[0].links.iter().map(Link::to_string).collect::<Vec<_>>().join(" "),
            "NODE NODE NODE NODE PIX PIX"
        );
        assert_eq!(groups(&links(8, pcie), 9, &[0, 1]), []);
        assert_eq!(groups(&links(8, pcie), 0, &[0, 1]), []);
    }

    #[test]
    fn a_rack_is_searched_from_each_of_its_gpus() {
        let rack = links(72, |a, b| if a / 4 == b / 4 { "NV18" } else { "SYS" });
        let all: Vec<usize> = (0..72).collect();
        let found = groups(&rack, 4, &all);
        assert_eq!(found[0].members, [0, 1, 2, 3]);
        assert_eq!(found.len(), 18);
        assert_eq!(groups(&rack, 2, &all).len(), 72 * 71 / 2);
    }

    #[test]
    fn processors_read_and_print() {
        for text in ["", "0", "0-55,112-167", "1,3,5,7"] {
            assert_eq!(text.parse::<Cpus>().unwrap().to_string(), text);
        }
        assert_eq!("4-7,0-3,9\n".parse::<Cpus>().unwrap().to_string(), "0-7,9");
        for bad in ["a", "3-1", "1-", "-1", "1--2"] {
            assert_eq!(bad.parse::<Cpus>(), Err(()), "{bad}");
        }
        let node = Cpus::of_masks(&[0xff, 1 << 63, 1]);
        assert_eq!(node.to_string(), "0-7,127-128");
        assert_eq!(node.count(), 10);
        assert_eq!(node.with(&"8-9".parse().unwrap()).to_string(), "0-9,127-128");
        assert!(node.holds(&"2-3,128".parse().unwrap()) && !node.holds(&"7-8".parse().unwrap()));
        assert_eq!(Cpus::of([5]).only(), Some(5));
        assert_eq!(node.only(), None);
    }
}
