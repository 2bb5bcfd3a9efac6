//! Charging and giving back, as told in the crate's documentation.
use crate::layout::{Account, Kind, Policy, SLOTS, Slot, UNIT, Usage};
use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::{AtomicU64, Counter, publish};

const UNITS: u64 = (1 << 40) - 1;
const VERSION: u64 = 1 << 40;

/// Units that `bytes` take, rounded up.
pub const fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

/// Why memory was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not fit: `used` bytes are held, of `limit`. (Or it is more than an account can hold, 512 TiB.)
    OverLimit {
        /// Bytes held by the slice when it was refused.
        used: u64,
        /// The limit then.
        limit: u64,
    },
    /// Another process stopped in the middle of asking, and the caller would wait no longer.
    Busy,
}

/// The sum over a slice's slots for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Sum of the `held` words, versions included. Each change counts a version up, so an equal sum and equal `units`
    /// mean equal words (unless there was a multiple of 2^24 changes in between).
    words: u64,
    /// Sum of the units held. Summed apart, for it may carry into the versions.
    units: u64,
    /// Sum of the daemon's measurements, in bytes.
    adjust: i64,
    /// Units asked for by slots with a lower number.
    below: u64,
    /// Units asked for by slots with a higher number.
    above: u64,
}

impl Picture {
    /// Bytes held.
    pub fn used(&self) -> u64 {
        (self.units * UNIT).saturating_add_signed(self.adjust)
    }

    /// Bytes that others ask for.
    pub fn asked(&self) -> u64 {
        self.below.saturating_add(self.above).saturating_mul(UNIT)
    }

    /// Whether the two show the same words and measurements, so that both are true of any instant between them.
    fn stood_still(&self, later: &Picture) -> bool {
        (self.words, self.units, self.adjust) == (later.words, later.units, later.adjust)
    }
}

/// Reads every slot's account of `device`, leaving out the request of slot `me` (`SLOTS` = nobody's).
pub fn scan(policy: &Policy, usage: &Usage, device: usize, me: usize) -> Picture {
    let high = (policy.slots_high.load(SeqCst) as usize).min(SLOTS);
    let mut picture = Picture { words: 0, units: 0, adjust: 0, below: 0, above: 0 };
    for (index, (slot, book)) in usage.slots.iter().zip(&policy.book).take(high).enumerate() {
        let Some(account) = slot.accounts.get(device) else { break };
        // `ask` before `held`: a grant moves from the one to the other in the other order, so it is seen at least once.
        let ask = account.ask.load(SeqCst);
        let held = account.held.load(SeqCst);
        picture.words = picture.words.wrapping_add(held);
        picture.units += held & UNITS;
        if let Some(adjust) = book.adjust.get(device) {
            picture.adjust = picture.adjust.saturating_add(adjust.load(SeqCst));
        }
        if index < me {
            picture.below = picture.below.saturating_add(ask);
        } else if index > me {
            picture.above = picture.above.saturating_add(ask);
        }
    }
    picture
}

/// What one `held` word tells of any instant between two readings of it: bytes that were held at least, and whether it was
/// exactly those.
///
/// Who reads all words of a slice and then all of them again, and adds up what this says, has what was held at an instant
/// between the two, or less; a sum of single readings can be more than there ever was, where memory moved meanwhile from
/// a slot that was read to one that was not.
pub const fn between(before: u64, after: u64) -> (u64, bool) {
    let (first, last) = (before & UNITS, after & UNITS);
    let least = if first < last { first } else { last };
    match (after & !UNITS).wrapping_sub(before & !UNITS) {
        0 if first == last => (first * UNIT, true),
        VERSION => (least * UNIT, false),
        // More than one change, or bytes that no process of ours wrote: it may have held nothing meanwhile.
        _ => (0, false),
    }
}

/// A process's view of its slice: both files and its own slot.
///
/// A slot has one writer at a time: whoever calls [`Ledger::reserve`], [`Ledger::take`] or [`Ledger::release`] holds its
/// process's own lock. That makes every change of `held` an ordinary store.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    policy: &'a Policy,
    usage: &'a Usage,
    index: usize,
    slot: &'a Slot,
}

impl<'a> Ledger<'a> {
    /// The view of the owner of slot `index`; `None` if there is no such slot.
    pub fn new(policy: &'a Policy, usage: &'a Usage, index: usize) -> Option<Self> {
        Some(Self { policy, usage, index, slot: usage.slots.get(index)? })
    }

    /// The slice's policy.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// The slots of the slice's processes.
    pub fn usage(&self) -> &'a Usage {
        self.usage
    }

    /// This process's own slot.
    pub fn slot(&self) -> &'a Slot {
        self.slot
    }

    /// Bytes that the slice may use on `device`; 0 where it has no such device.
    pub fn limit(&self, device: usize) -> u64 {
        self.policy.devices.get(device).map_or(0, |d| d.limit.load(SeqCst))
    }

    /// Bytes that the slice uses on `device`.
    pub fn used(&self, device: usize) -> u64 {
        scan(self.policy, self.usage, device, SLOTS).used()
    }

    /// Takes `bytes` of `device` for `kind`, or says why not.
    ///
    /// `wait` is called with 0, 1, 2 … where another process is in the middle of asking for the same memory; it
    /// passes some time, or returns `false` to give up.
    pub fn reserve(
        &self,
        device: usize,
        kind: Kind,
        bytes: u64,
        mut wait: impl FnMut(u32) -> bool,
    ) -> Result<(), Refused> {
        let n = units(bytes);
        let Some(account) = self.slot.accounts.get(device) else {
            return Err(Refused::OverLimit { used: 0, limit: 0 });
        };
        if n == 0 {
            return Ok(());
        }
        // No account can hold so much, limit or none; and its size in bytes may not fit a u64.
        if n > UNITS {
            return Err(Refused::OverLimit { used: self.used(device), limit: self.limit(device) });
        }
        let bytes = n * UNIT;
        let mut rounds = 0;
        account.ask.store(n, SeqCst);
        let outcome = loop {
            // Looks after `ask` was written: who lowers the limit writes it first and looks for requests after.
            let (now, limit, view) = self.look(device, bytes);
            match view {
                View::Fits => {
                    if !change(&account.held, |held| (held + n <= UNITS).then_some(held + n)) {
                        break Err(Refused::OverLimit { used: now.used(), limit });
                    }
                    self.count(device, kind, bytes);
                    break Ok(());
                }
                View::Full => {
                    let again = scan(self.policy, self.usage, device, self.index);
                    if now.stood_still(&again) && self.limit(device) == limit {
                        break Err(Refused::OverLimit { used: now.used(), limit });
                    }
                }
                View::Behind => {
                    account.ask.store(0, SeqCst);
                    loop {
                        if !wait(rounds) {
                            return Err(Refused::Busy);
                        }
                        rounds = rounds.saturating_add(1);
                        // Not only once nobody is below: the one there may be stopped, and memory be given back.
                        if self.look(device, bytes).2 != View::Behind {
                            break;
                        }
                    }
                    account.ask.store(n, SeqCst);
                    continue;
                }
                View::Before => {}
            }
            if !wait(rounds) {
                break Err(Refused::Busy);
            }
            rounds = rounds.saturating_add(1);
        };
        publish(&account.ask, 0);
        outcome
    }

    /// Reads the limit, then the slots, and says what that means for a request of `bytes`.
    fn look(&self, device: usize, bytes: u64) -> (Picture, u64, View) {
        let limit = self.limit(device);
        let now = scan(self.policy, self.usage, device, self.index);
        let with_mine = now.used().saturating_add(bytes);
        let view = if with_mine.saturating_add(now.asked()) <= limit {
            View::Fits
        } else if with_mine > limit {
            View::Full
        } else if now.below > 0 {
            View::Behind
        } else {
            View::Before
        };
        (now, limit, view)
    }

    /// Takes `bytes` without asking: for what the driver has taken already, so that the account stays true. (No more
    /// than the account can hold.)
    pub fn take(&self, device: usize, kind: Kind, bytes: u64) {
        if let Some(account) = self.slot.accounts.get(device) {
            let n = units(bytes).min(UNITS);
            change(&account.held, |held| Some((held + n).min(UNITS)));
            self.count(device, kind, n * UNIT);
        }
    }

    /// Gives `bytes` back that were taken for `kind`. Never more than is held: what is left over is dropped.
    pub fn release(&self, device: usize, kind: Kind, bytes: u64) {
        let Some(account) = self.slot.accounts.get(device) else { return };
        let n = units(bytes).min(UNITS);
        change(&account.held, |held| Some(held.saturating_sub(n)));
        if let Some(counter) = self.counter(device, kind) {
            counter.store(counter.load(Relaxed).saturating_sub(n * UNIT), Relaxed);
        }
    }

    fn count(&self, device: usize, kind: Kind, bytes: u64) {
        if let Some(counter) = self.counter(device, kind) {
            counter.store(counter.load(Relaxed).saturating_add(bytes), Relaxed);
        }
    }

    fn counter(&self, device: usize, kind: Kind) -> Option<&'a Counter> {
        self.slot.kinds.get(device)?.get(kind as usize)
    }
}

/// How a request stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// It fits beside all that is held and asked for.
    Fits,
    /// It does not fit beside what is held.
    Full,
    /// It fits beside what is held, and a lower slot asks too: that one goes first.
    Behind,
    /// It fits beside what is held, and only higher slots ask too: those will withdraw.
    Before,
}

/// Changes the units of a `held` word and counts its version up, unless `to` says no. One writer at a time.
fn change(held: &AtomicU64, to: impl Fn(u64) -> Option<u64>) -> bool {
    let now = held.load(Relaxed);
    let Some(units) = to(now & UNITS) else { return false };
    publish(held, (now & !UNITS).wrapping_add(VERSION) | units);
    true
}

impl Account {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        (self.held.load(SeqCst) & UNITS) * UNIT
    }
}

/// For the daemon, once the owner of the slot is dead: nobody else writes to it.
impl Slot {
    /// Takes back what the dead process was asking for: it will not be granted, so nobody need wait for it. What it
    /// held stays charged.
    pub fn withdraw(&self) {
        for account in &self.accounts {
            account.ask.store(0, SeqCst);
        }
    }

    /// Empties the slot, for the next process: when the driver has let go of the dead process's memory.
    ///
    /// The versions stay and count up: zeroed with the rest, they would repeat, and two different pictures could be
    /// taken for the same.
    pub fn clear(&self) {
        self.withdraw();
        for account in &self.accounts {
            change(&account.held, |_| Some(0));
        }
        let shown = self.kinds.iter().flatten().chain(&self.class_launches).chain(&self.class_ns).chain(&self.exports);
        let counted = [&self.launches, &self.graph_launches, &self.denied, &self.unknown_names];
        for counter in shown.chain(counted) {
            counter.store(0, Relaxed);
        }
    }
}
