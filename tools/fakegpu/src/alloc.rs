//! How the driver hands out device memory, as pure arithmetic: sizes, chunks for small allocations, the heap of a
//! pool. Every rule here was measured on a real card; nothing here touches memory.

use std::collections::BTreeMap;

/// Granularity of physical memory, and the size of a chunk that small allocations share.
pub const PAGE: u64 = 2 << 20;
/// Largest allocation that shares a chunk.
pub const SMALL: u64 = 1 << 20;
/// Alignment of an allocation within its chunk or pool.
pub const ALIGN: u64 = 512;
/// Step in which a pool and graph memory reserve.
pub const POOL_STEP: u64 = 32 << 20;

/// `bytes` rounded up to a multiple of `step`.
pub const fn round_up(bytes: u64, step: u64) -> u64 {
    bytes.div_ceil(step).saturating_mul(step)
}

/// Bytes that a block-linear array occupies before small ones share a chunk: rows in 64-byte columns, blocks of 8
/// rows stacked up to 16 high (fewer for a low array).
pub fn array_bytes(row_bytes: u64, height: u64, layers: u64) -> u64 {
    let height = height.max(1);
    let blocks = height.div_ceil(8).next_power_of_two().min(16);
    round_up(row_bytes.max(1), 64) * round_up(height, blocks * 8) * layers.max(1)
}

/// Free and used ranges of one chunk or heap.
#[derive(Debug)]
struct Ranges {
    used: BTreeMap<u64, u64>,
    /// Never adjacent to each other.
    gaps: BTreeMap<u64, u64>,
}

impl Ranges {
    fn new(length: u64) -> Ranges {
        Ranges { used: BTreeMap::new(), gaps: BTreeMap::from([(0, length)]) }
    }

    /// The start of the lowest gap that takes `length`.
    fn first_fit(&self, length: u64) -> Option<u64> {
        self.gaps.iter().find(|(_, gap)| **gap >= length).map(|(start, _)| *start)
    }

    /// Uses `length` at the start of the gap at `at`.
    fn take(&mut self, at: u64, length: u64) {
        if let Some(gap) = self.gaps.remove(&at) {
            if gap > length {
                self.gaps.insert(at + length, gap - length);
            }
            self.used.insert(at, length);
        }
    }

    /// Frees what begins at `at`; its length.
    fn give(&mut self, at: u64) -> Option<u64> {
        let length = self.used.remove(&at)?;
        let (mut start, mut end) = (at, at + length);
        if let Some(after) = self.gaps.remove(&end) {
            end += after;
        }
        if let Some((&before, &gap)) = self.gaps.range(..at).next_back()
            && before + gap == at
        {
            start = before;
        }
        self.gaps.insert(start, end - start);
        Some(length)
    }

    /// The end of what is used.
    fn end(&self) -> u64 {
        self.used.last_key_value().map_or(0, |(start, length)| start + length)
    }
}

/// The chunks of one context: small allocations, first fit, at 512 bytes alignment.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: BTreeMap<u64, Ranges>,
}

impl Chunks {
    /// A place for `bytes` in a chunk that exists: its address.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let length = round_up(bytes.max(1), ALIGN);
        for (&base, ranges) in &mut self.chunks {
            if let Some(at) = ranges.first_fit(length) {
                ranges.take(at, length);
                return Some(base + at);
            }
        }
        None
    }

    /// Adds an empty chunk of [`PAGE`] bytes at `base`.
    pub fn add(&mut self, base: u64) {
        self.chunks.insert(base, Ranges::new(PAGE));
    }

    /// Gives the allocation at `address` back; `Some` is the base of a chunk that is now empty and no longer ours.
    pub fn give(&mut self, address: u64) -> Option<u64> {
        let (&base, ranges) = self.chunks.range_mut(..=address).next_back()?;
        ranges.give(address - base)?;
        if !ranges.used.is_empty() {
            return None;
        }
        self.chunks.remove(&base);
        Some(base)
    }

    /// Bases of all chunks.
    pub fn bases(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.keys().copied()
    }
}

/// The heap of a memory pool: offsets only.
#[derive(Debug)]
pub struct Heap {
    ranges: Ranges,
    limit: u64,
    reserved: u64,
    used: u64,
    /// High-water marks, as the attributes report them.
    pub reserved_high: u64,
    /// High-water mark of what is in use.
    pub used_high: u64,
}

impl Heap {
    /// An empty heap that may reserve up to `limit` bytes.
    pub fn new(limit: u64) -> Heap {
        Heap { ranges: Ranges::new(limit), limit, reserved: 0, used: 0, reserved_high: 0, used_high: 0 }
    }

    /// Where `bytes` would go, and how much must be reserved then; `None` where the limit forbids it.
    pub fn plan(&self, bytes: u64) -> Option<(u64, u64)> {
        let length = round_up(bytes.max(1), ALIGN);
        let at = self.ranges.first_fit(length)?;
        let reserved = self.reserved.max(round_up(at.checked_add(length)?, POOL_STEP));
        (reserved <= self.limit).then_some((at, reserved))
    }

    /// Takes what [`Heap::plan`] proposed.
    pub fn take(&mut self, at: u64, bytes: u64, reserved: u64) {
        let length = round_up(bytes.max(1), ALIGN);
        self.ranges.take(at, length);
        self.used += length;
        self.used_high = self.used_high.max(self.used);
        self.reserved = reserved;
        self.reserved_high = self.reserved_high.max(reserved);
    }

    /// Gives the block at `at` back. What is reserved stays as it is until [`Heap::trim`].
    pub fn give(&mut self, at: u64) {
        if let Some(length) = self.ranges.give(at) {
            self.used -= length;
        }
    }

    /// Lets go of the tail that nothing uses, as far as `keep` bytes stay reserved; returns the bytes let go.
    pub fn trim(&mut self, keep: u64) -> u64 {
        let floor = round_up(self.ranges.end(), POOL_STEP).max(round_up(keep.min(self.reserved), POOL_STEP));
        let released = self.reserved.saturating_sub(floor);
        self.reserved -= released;
        released
    }

    /// Bytes reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MIB: u64 = 1 << 20;

    #[test]
    fn arrays_have_the_sizes_that_were_measured() {
        assert_eq!(round_up(array_bytes(1000 * 16, 1000, 1), PAGE), 16 * MIB);
        let chain: u64 = (0..11).map(|level| array_bytes((1024 >> level) * 16, 1024 >> level, 1)).sum();
        assert_eq!(round_up(chain, PAGE), 22 * MIB);
        assert_eq!(array_bytes(64, 1, 1), 512);
        assert_eq!(array_bytes(64, 20, 1), 64 * 32);
    }

    #[test]
    fn small_allocations_share_a_chunk_and_the_last_one_returns_it() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.take(1), None);
        chunks.add(0x1000_0000);
        let first = chunks.take(1).expect("fits");
        let second = chunks.take(513).expect("fits");
        let third = chunks.take(SMALL).expect("fits");
        assert_eq!((first, second, third), (0x1000_0000, 0x1000_0200, 0x1000_0600));
        assert_eq!(chunks.take(SMALL), None, "two megabytes less 1536 bytes");
        assert_eq!(chunks.give(second), None);
        assert_eq!(chunks.take(1024), Some(second), "first fit");
        assert_eq!(chunks.give(first), None);
        assert_eq!(chunks.give(third), None);
        assert_eq!(chunks.give(second), Some(0x1000_0000));
        assert_eq!(chunks.take(1), None);
    }

    #[test]
    fn a_pool_grows_by_32_mib_reuses_and_trims_its_tail() {
        let limit = 1 << 30;
        let mut heap = Heap::new(limit);
        let alloc = |heap: &mut Heap, bytes| {
            let (at, reserved) = heap.plan(bytes).expect("fits");
            heap.take(at, bytes, reserved);
            at
        };
        let a = alloc(&mut heap, MIB);
        assert_eq!(heap.reserved(), 32 * MIB);
        let b = alloc(&mut heap, 40 * MIB);
        assert_eq!((b, heap.reserved()), (MIB, 64 * MIB));
        let c = alloc(&mut heap, 100 * MIB);
        assert_eq!(heap.reserved(), 160 * MIB);
        heap.give(b);
        assert_eq!(alloc(&mut heap, 30 * MIB), b, "a freed block is used again");
        heap.give(c);
        assert_eq!(heap.reserved(), 160 * MIB, "a free alone returns nothing");
        assert_eq!(heap.trim(100 * MIB), 32 * MIB, "the threshold is kept");
        assert_eq!(heap.trim(0), 96 * MIB);
        assert_eq!(heap.reserved(), 32 * MIB);
        heap.give(a);
        heap.give(b);
        assert_eq!(heap.trim(0), 32 * MIB);
        assert_eq!((heap.used(), heap.used_high, heap.reserved_high), (0, 141 * MIB, 160 * MIB));
        assert!(heap.plan(limit + 1).is_none());
    }
}
