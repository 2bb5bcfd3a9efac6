//! The gate: may this operation be sent to the GPU now?
//!
//! A process keeps one [`Track`] for each GPU: what it has sent, and when that is expected to be done. The daemon
//! publishes a [`Grant`]. [`admit`] compares the two. The caller's loop at each launch:
//!
//! ```text
//! track.poll(now, |mark| words[mark % MARKS] == mark);        // what has the GPU finished?
//! match admit(now, &grant, track.busy_until(), cost, urgent_until) {
//!     Go              => { driver call; track.sent(now, cost, &grant); if track.mark_due() { have the GPU write track.mark() } }
//!     WaitUntil(time) => spin or sleep until then, or until the grant changes; look again
//!     WaitForChange   => publish that a thread waits, ring the daemon unless the grant is QUIET or Paused,
//!                        sleep until the grant changes; look again. While track.open(), look every 0.1 ms, and ring when it
//!                        no longer is
//! }
//! ```
//! Only shifts, sums and comparisons; nothing here can panic.

/// What a grant lets its slice do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Mode {
    /// It is somebody else's turn. Whoever waits rings the daemon.
    #[default]
    Closed = 0,
    /// Nobody else wants the GPU: run, with no more than `ahead` queued, so that the GPU can be taken back soon.
    Lease = 1,
    /// Run between `from` and `until`.
    Window = 2,
    /// Stopped by an operator. Ringing the daemon changes nothing.
    Paused = 3,
}

/// The slice gives way while a slice of a higher class says that it is at work (the `urgent_until` of [`admit`]).
pub const YIELD: u8 = 1;
/// Slices of a lower class give way to this one: after each launch and each wait for the GPU it publishes
/// [`Track::claim`] in its class's word.
pub const URGENT: u8 = 2;

/// The daemon looks soon anyway: who begins to wait need not ring.
pub const QUIET: u8 = 4;

/// Nothing else was under way on the GPU when the turn was given: what is late by more than a switch is the slice's own work.
pub const FREE: u8 = 8;

/// What the arbiter lets a slice do on a GPU. In shared memory it is the three words of [`Grant::to_words`], which a
/// reader must get from one moment (a sequence lock); a page of zeros is [`Mode::Closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Grant {
    /// What is granted.
    pub mode: Mode,
    /// [`YIELD`], [`URGENT`], [`QUIET`] and [`FREE`].
    pub flags: u8,
    /// The GPU is expected to come to this slice's work this many µs after `from`: until then the last turn's work ends.
    pub delay: u16,
    /// An operation may be sent while what was sent before it lasts no longer than this beyond now, in ns.
    pub ahead: u32,
    /// Start of the window or lease. A lease may be used at once, whatever this says.
    pub from: u64,
    /// End of the window ([`Mode::Window`] only).
    pub until: u64,
}

impl Grant {
    /// It is somebody else's turn.
    pub const CLOSED: Grant = Grant { mode: Mode::Closed, flags: 0, delay: 0, ahead: 0, from: 0, until: 0 };

    /// The words for shared memory.
    pub const fn to_words(self) -> [u64; 3] {
        let word = (self.ahead as u64) << 32 | (self.delay as u64) << 16 | (self.flags as u64) << 8 | self.mode as u64;
        [word, self.from, self.until]
    }

    /// A grant from shared memory. An unknown mode is [`Mode::Closed`].
    pub const fn from_words([word, from, until]: [u64; 3]) -> Grant {
        let mode = match word as u8 {
            1 => Mode::Lease,
            2 => Mode::Window,
            3 => Mode::Paused,
            _ => Mode::Closed,
        };
        Grant { mode, flags: (word >> 8) as u8, delay: (word >> 16) as u16, ahead: (word >> 32) as u32, from, until }
    }

    /// Until when the GPU is this slice's own, as far as the grant tells, if it came to its work at `begins`; 0: it was not
    /// its own by then.
    pub const fn own_until(&self, begins: u64) -> u64 {
        if self.from.saturating_add(self.delay as u64 * 1000) > begins {
            return 0;
        }
        match self.mode {
            Mode::Lease => u64::MAX,
            Mode::Window => self.until,
            Mode::Closed | Mode::Paused => 0,
        }
    }

    /// What an operation of unknown length is taken to cost, in ns: all that may be queued, so that two of them are in
    /// flight at most. One that is `long` by its name is the only one, while a higher class may come.
    pub const fn unknown_cost(&self, long: bool) -> u32 {
        if long && self.flags & YIELD != 0 && self.ahead < LONG {
            return LONG;
        }
        let window = self.until.saturating_sub(self.from);
        if matches!(self.mode, Mode::Window) && window < self.ahead as u64 { window as u32 } else { self.ahead }
    }
}

/// The answer of [`admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Go,
    /// Not before this time; look again then, or when the grant changes.
    WaitUntil(u64),
    /// Not before the grant changes.
    WaitForChange,
}

/// How long after its last work a slice still counts as urgent, in ns. A switch between contexts costs about as much, so
/// nothing is gained by letting others into a shorter gap.
pub const HOLD: u64 = 200_000;
/// How much later than expected the GPU may come to an urgent slice's work, in ns: other contexts' time slices end first.
pub const SLICES: u64 = 5_000_000;
/// A claim may end sooner than it said, so who gives way looks again after this long, in ns.
const LOOK: u64 = 50_000;
/// A claim that reaches further than this beyond now, in ns, isn't believed: so a word that a process left behind or
/// scribbled over stops nobody for long.
pub const CLAIM: u64 = 20_000_000;

/// What may be queued under a lease, in a turn, and below an active higher class (just enough to send an operation before the last one
/// ends), in ns.
pub const LEASE_AHEAD: u32 = 4_000_000;
/// See [`LEASE_AHEAD`].
pub const TURN_AHEAD: u32 = 1_000_000;
/// See [`LEASE_AHEAD`].
pub const YIELD_AHEAD: u32 = 12_000;
/// How long the cycle is whose parts slices have while no daemon looks, in ns.
pub const CYCLE: u64 = 24_000_000;

/// A slice's part of each [`CYCLE`] of `CLOCK_MONOTONIC`: what it has of a GPU while no daemon looks. In shared memory one word,
/// [`Part::to_word`]; zero = it is not held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins, in µs of the cycle.
    pub from: u16,
    /// How long it is, in µs; all of the cycle: a lease.
    pub length: u16,
    /// [`YIELD`] and [`URGENT`].
    pub flags: u8,
}

impl Part {
    /// The word to publish.
    pub const fn to_word(self) -> u64 {
        1 << 63 | (self.flags as u64) << 32 | (self.length as u64) << 16 | self.from as u64
    }

    /// From a published word; `None`: not held back.
    pub const fn from_word(word: u64) -> Option<Part> {
        let part =
            Part { from: word as u16, length: (word >> 16) as u16, flags: (word >> 32) as u8 & (YIELD | URGENT) };
        if word >> 63 != 0 { Some(part) } else { None }
    }

    /// What is granted at `now`: the part that is, or the next one.
    pub const fn grant(self, now: u64) -> Grant {
        let yields = self.flags & YIELD != 0;
        let length = self.length as u64 * 1000;
        if length >= CYCLE {
            let ahead = if yields { YIELD_AHEAD } else { LEASE_AHEAD };
            return Grant { mode: Mode::Lease, flags: self.flags, delay: 0, ahead, from: 0, until: 0 };
        }
        let from = (now - now % CYCLE).saturating_add(self.from as u64 * 1000);
        let from = if now < from.saturating_add(length) { from } else { from.saturating_add(CYCLE) };
        let ahead = if yields { YIELD_AHEAD } else { TURN_AHEAD };
        let until = from.saturating_add(length);
        Grant { mode: Mode::Window, flags: self.flags, delay: 200, ahead, from, until }
    }
}

/// May an operation that costs `cost` ns be sent at `now`? `busy_until` is the process's own ([`Track::busy_until`]);
/// `urgent_until` the latest word of the classes above this one (0: none), and is only looked at under [`YIELD`].
#[inline]
pub const fn admit(now: u64, grant: &Grant, busy_until: u64, cost: u64, urgent_until: u64) -> Verdict {
    if grant.flags & YIELD != 0 && urgent_until > now && urgent_until - now <= CLAIM {
        return match grant.mode {
            Mode::Closed | Mode::Paused => Verdict::WaitForChange,
            Mode::Lease | Mode::Window if urgent_until - now > LOOK => Verdict::WaitUntil(now + LOOK),
            Mode::Lease | Mode::Window => Verdict::WaitUntil(urgent_until),
        };
    }
    let queued = busy_until.saturating_sub(now);
    match grant.mode {
        Mode::Closed | Mode::Paused => return Verdict::WaitForChange,
        Mode::Lease => {}
        Mode::Window if now >= grant.until => return Verdict::WaitForChange,
        Mode::Window if now < grant.from => return Verdict::WaitUntil(grant.from),
        // What would be done too late by more than half of it waits until nothing is in flight, and then goes however long
        // it is: a kernel longer than every window must run some time, and the arbiter takes the overrun from later
        // windows.
        Mode::Window if queued > 0 && busy_until.saturating_add(cost / 2) > grant.until => {
            return Verdict::WaitUntil(busy_until);
        }
        Mode::Window => {}
    }
    // Below a higher class, each operation that waits behind another makes the urgent one wait for both. A long one can be
    // sent when the last one is done: the gap is short beside it. Short ones are sent a little before.
    let ahead =
        if grant.flags & YIELD != 0 { (grant.ahead as u64).saturating_sub(cost / 16) } else { grant.ahead as u64 };
    if queued > ahead { Verdict::WaitUntil(busy_until - ahead) } else { Verdict::Go }
}

/// Who sends nothing for so long (ns) is taken to be away.
const AWAY: u64 = 100_000_000;

/// Whether an operation that is sent at `now`, the last before it having been sent at `last_launch`, is to be told to the daemon, by ringing: where
/// classes contend, nobody waits for a turn when one comes back, and what the others may queue depends on who is there.
#[inline]
pub const fn comes_back(now: u64, grant: &Grant, last_launch: u64) -> bool {
    grant.flags & (YIELD | URGENT) != 0 && now.saturating_sub(last_launch) > AWAY
}

/// How many marks of a [`Track`] can be on their way at a time.
pub const MARKS: usize = 16;
/// A mark is due after this many operations, or as much work as may be queued ([`Grant::ahead`]) between these bounds (ns),
/// whichever comes first: each costs an H100 2 µs.
const MARK_OPS: u32 = 64;
const MARK_LEAST: u32 = 100_000;
const MARK_MOST: u32 = 4_000_000;
/// How long after the GPU got there a mark may become visible to a process, in ns: a mark isn't late before.
const MARK_LATENCY: u64 = 20_000;

/// How often to look whether work is done whose length nobody knows, in ns.
pub const AGAIN: u64 = 100_000;

/// At the start of a turn the last one's end (a slice of the hardware's at most) and the switch between contexts are waited
/// for, in ns: what comes later is the turn's own work, and longer than it was thought.
const GRACE: u64 = 2_600_000;
/// The same where the last one's work is known to be done.
const SWITCH: u64 = 300_000;

/// A process's own picture of its work on one GPU: sent, done, and the expected end.
///
/// The picture is corrected by *marks*: numbers that the GPU writes into host memory when a stream gets there. A mark
/// counts when every earlier one is there too, so with several streams each stream that got work since the last mark
/// needs one, and overlapping work on several streams is charged as the union of its busy time.
#[derive(Clone, Debug, Default)]
pub struct Track {
    busy_until: u64,
    charged: u64,
    last_launch: u64,
    /// Operations and work since the last mark.
    ops: u32,
    work: u64,
    /// How much work a mark is due after.
    spacing: u32,
    /// The next mark's number; marks `tail..head` are on their way.
    head: u32,
    tail: u32,
    /// When each mark on its way is expected.
    expected: [u64; MARKS],
    /// The turn (its `from`) that the last operation was sent in, its first mark while that isn't there yet, and how much
    /// of the time until then is nobody's use still.
    turn: u64,
    first: Option<u32>,
    grace: u64,
    /// When the oldest mark that isn't there was expected, before it was found to be late; 0 = it isn't late.
    late: u64,
    /// The mark after the last operation whose length nobody knows.
    guessed: Option<u32>,
}

impl Track {
    /// When everything sent is expected to be done.
    pub const fn busy_until(&self) -> u64 {
        self.busy_until
    }

    /// Device time of everything sent so far, in ns, done or not; corrected as marks tell.
    pub const fn charged(&self) -> u64 {
        self.charged
    }

    /// When the last operation was sent.
    pub const fn last_launch(&self) -> u64 {
        self.last_launch
    }

    /// Since when the oldest work that isn't done should have been, as of the last look; 0 = nothing is late.
    pub const fn late(&self) -> u64 {
        self.late
    }

    /// Until when lower classes shall keep out of the way: what a slice with [`URGENT`] publishes after each launch and
    /// each wait for the GPU (the latest of its processes' values counts). Short once all that was sent is known to be
    /// done, so it pays to put a mark before a wait.
    pub const fn claim(&self, now: u64) -> u64 {
        if self.head == self.tail && self.ops == 0 {
            return now.saturating_add(HOLD);
        }
        let end = if self.busy_until > now { self.busy_until } else { now }.saturating_add(HOLD + SLICES);
        let most = now.saturating_add(CLAIM - SLICES);
        if end < most { end } else { most }
    }

    /// An operation that is expected to cost `cost` ns was sent under `grant`.
    #[inline]
    pub fn sent(&mut self, now: u64, cost: u64, grant: &Grant) {
        if self.turn != grant.from {
            (self.turn, self.first, self.grace) =
                (grant.from, Some(self.head), if grant.flags & FREE != 0 { SWITCH } else { GRACE });
        }
        let begins = grant.from.saturating_add(grant.delay as u64 * 1000);
        self.busy_until = self.busy_until.max(now).max(begins).saturating_add(cost);
        self.charged = self.charged.saturating_add(cost);
        self.last_launch = now;
        self.ops = self.ops.saturating_add(1);
        self.work = self.work.saturating_add(cost);
        self.spacing = if grant.ahead < MARK_MOST { grant.ahead.max(MARK_LEAST) } else { MARK_MOST };
    }

    /// What was sent last may last longer or shorter by far: a mark is due, so that what it really took is known soon, and its end
    /// is looked for.
    #[inline]
    pub const fn doubt(&mut self) {
        self.work = self.work.saturating_add(MARK_MOST as u64);
        self.guessed = Some(self.head);
    }

    /// Something is under way of which nobody knows how long it lasts.
    #[inline]
    pub const fn open(&self) -> bool {
        // Without its mark nobody can tell.
        matches!(self.guessed, Some(mark) if mark != self.head && !self.done_with(mark))
    }

    /// The length of what was sent last is only a guess. Below a higher class, which must not wait for two such, it is doubted
    /// and looked at often.
    #[inline]
    pub const fn guessed(&mut self, grant: &Grant) {
        if grant.flags & YIELD != 0 {
            self.doubt();
        }
    }

    /// When to look again, for one that is to wait until `time`: soon while a guess is under way, for it may be far too long; at once
    /// where a higher class must not wait for it.
    #[inline]
    pub const fn again(&self, now: u64, time: u64, grant: &Grant) -> u64 {
        let soon = now.saturating_add(if grant.flags & YIELD != 0 { MARK_LATENCY } else { AGAIN });
        if self.open() && soon < time { soon } else { time }
    }

    /// The oldest mark that was not found to be there.
    #[inline]
    pub const fn oldest(&self) -> Option<u32> {
        if self.head == self.tail { None } else { Some(self.tail) }
    }

    /// Is there room for a mark?
    #[inline]
    pub const fn room(&self) -> bool {
        self.head.wrapping_sub(self.tail) < MARKS as u32
    }

    /// The number that the next mark will have.
    #[inline]
    pub const fn next_mark(&self) -> u32 {
        self.head
    }

    /// Is that mark there, and everything before it done?
    #[inline]
    pub const fn done_with(&self, mark: u32) -> bool {
        self.tail.wrapping_sub(mark) as i32 > 0
    }

    /// Is it time for a mark, and is there room for one? The first operation of a turn has one of its own, so that what is
    /// nobody's use ends with it.
    #[inline]
    pub const fn mark_due(&self) -> bool {
        let opens = matches!(self.first, Some(first) if first == self.head);
        (opens || self.ops >= MARK_OPS || self.work >= self.spacing as u64) && self.room()
    }

    /// The number that the GPU shall write after what was sent so far. Only after [`mark_due`](Self::mark_due), or
    /// before a wait for the GPU while there is room.
    pub fn mark(&mut self) -> u32 {
        let mark = self.head;
        self.expected[mark as usize % MARKS] = self.busy_until;
        self.head = mark.wrapping_add(1);
        (self.ops, self.work) = (0, 0);
        mark
    }

    /// Looks which marks are there, oldest first, and corrects what is expected and charged: a mark that is there early
    /// gives time back, one that is late takes more.
    #[inline]
    pub fn poll(&mut self, now: u64, mut there: impl FnMut(u32) -> bool) {
        while self.tail != self.head {
            let expected = self.expected[self.tail as usize % MARKS];
            if there(self.tail) {
                if expected > now {
                    self.shift((now.wrapping_sub(expected)) as i64);
                }
                self.passed();
            } else {
                if now > expected.saturating_add(MARK_LATENCY) {
                    if self.late == 0 {
                        self.late = expected;
                    }
                    self.shift((now - expected) as i64);
                }
                return;
            }
        }
    }

    /// The oldest mark is there.
    const fn passed(&mut self) {
        if matches!(self.first, Some(first) if first == self.tail) {
            self.first = None;
        }
        self.tail = self.tail.wrapping_add(1);
        self.late = 0;
    }

    /// As [`poll`](Self::poll), right after a wait for the GPU: the last mark that is there came just now, early or late.
    pub fn waited(&mut self, now: u64, mut there: impl FnMut(u32) -> bool) {
        while self.tail != self.head && there(self.tail) {
            if self.tail.wrapping_add(1) == self.head || !there(self.tail.wrapping_add(1)) {
                let expected = self.expected[self.tail as usize % MARKS];
                self.shift(now.wrapping_sub(expected) as i64);
            }
            self.passed();
        }
        self.poll(now, |_| false);
    }

    /// Everything that is not done yet will be done `by` ns later than was thought.
    fn shift(&mut self, by: i64) {
        self.busy_until = self.busy_until.saturating_add_signed(by);
        let mut charge = by;
        if self.first.is_some() {
            let free = by.unsigned_abs().min(self.grace);
            charge = if by < 0 { by + free as i64 } else { by - free as i64 };
            self.grace -= free;
        }
        self.charged = self.charged.saturating_add_signed(charge);
        let mut mark = self.tail;
        while mark != self.head {
            let expected = &mut self.expected[mark as usize % MARKS];
            *expected = expected.saturating_add_signed(by);
            mark = mark.wrapping_add(1);
        }
    }
}

/// The device time that is done at `now`, from what a process published: what it sent less what is still to come.
pub const fn done(charged: u64, busy_until: u64, now: u64) -> u64 {
    charged.saturating_sub(busy_until.saturating_sub(now))
}

/// The known cost of one kind of operation (function, grid, block and shared memory; or a graph). Eight bytes, so that a
/// table of them can be words that threads read and write without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cost {
    mean: u32,
    /// Launches since the last that was to be timed.
    since: u16,
    /// Samples in a row during which the GPU was the slice's own only in part, up to [`BELIEVED`].
    cut: u8,
    /// Samples taken, up to [`KNOWN`].
    samples: u8,
    /// Samples in a row that were far off.
    odd: u8,
    /// More the more samples were far off of late while the GPU was the slice's own, up to [`WILD`].
    wild: u8,
    /// What kind of work it is; the caller's number, below 8.
    class: u8,
}

/// Of this many launches one is timed once the cost is known: under 1 %, so that the 99th percentile never sees it. A prime, so that
/// of lengths that come round not always the same one is timed.
pub const SAMPLE_EVERY: u16 = 127;
/// Until it is known, the first two launches and then one of this many.
const LEARN_EVERY: u16 = 17;
/// So many launches may only be counted: then one is to be looked at, so that the accounts by class are not far behind.
const COUNTED: u16 = 2048;
/// An operation that lasts so long (ns) is timed each time: next to it the timing costs nothing.
const LONG: u32 = 1_000_000;
/// A cost is known after this many samples.
const KNOWN: u8 = 8;
/// A mean of several samples moves by `1 / 2^SETTLED` of the difference with each.
const SETTLED: u8 = 3;
/// A sample more than this many times off is doubted, unless both are shorter than `SHORT` ns, where the host's pace decides
/// what is measured...
const FAR: u32 = 4;
const SHORT: u32 = 10_000;
/// ...until this many in a row say so.
const BELIEVED: u8 = 3;
/// A sample that is far off counts for so many that are not. Where two of them are no farther apart, a parameter may say how long the
/// operation lasts: it varies.
const ODD: u8 = 12;
const WILD: u8 = 31;
/// Of an operation that varies one in this many is timed; a prime, too.
const VARYING_EVERY: u16 = 7;

impl Cost {
    /// Nothing is known of it but its `class`.
    pub const fn of(class: u8) -> Cost {
        Cost { mean: 0, since: 0, cut: 0, samples: 0, odd: 0, wild: 0, class: class & 7 }
    }

    /// The word to keep. Never all ones.
    pub const fn to_word(self) -> u64 {
        (self.class as u64) << 61
            | (self.wild as u64) << 56
            | (self.samples as u64) << 52
            | (self.odd as u64) << 50
            | (self.cut as u64) << 48
            | (self.since as u64) << 32
            | self.mean as u64
    }

    /// From a kept word; 0 is one that nothing is known about.
    pub const fn from_word(word: u64) -> Cost {
        let (cut, odd, samples) = ((word >> 48) as u8 & 3, (word >> 50) as u8 & 3, (word >> 52) as u8 & 0xf);
        let (wild, class) = ((word >> 56) as u8 & 0x1f, (word >> 61) as u8);
        Cost { mean: word as u32, since: (word >> 32) as u16, cut, samples, odd, wild, class }
    }

    /// What [`Cost::of`] was told.
    #[inline]
    pub const fn class(&self) -> u8 {
        self.class
    }

    /// Launches since the last that was to be timed: see [`Cost::launched`].
    #[inline]
    pub const fn since(&self) -> u16 {
        self.since
    }

    /// The expected device time in ns; before the second sample no less than `unknown` ([`Grant::unknown_cost`]).
    #[inline]
    pub const fn estimate(&self, unknown: u32) -> u64 {
        if self.unknown() && self.mean < unknown { unknown as u64 } else { self.mean as u64 }
    }

    /// Is its length a guess, since no two samples say it?
    #[inline]
    pub const fn unknown(&self) -> bool {
        self.samples < 2
    }

    /// Is it known so well, and so short, that the next launch need only be counted?
    #[inline]
    pub const fn settled(&self) -> bool {
        self.samples >= KNOWN && self.mean < LONG && self.since < COUNTED
    }

    /// Nobody knows how long the next one lasts: see [`Track::doubt`].
    #[inline]
    pub const fn varies(&self) -> bool {
        self.wild > ODD
    }

    /// Counts a launch that is not to be timed.
    #[inline]
    pub const fn counted(&mut self) {
        self.since = self.since.saturating_add(1);
    }

    /// Counts a launch; if it is one to be timed (the first two, long ones, some more, then one in [`SAMPLE_EVERY`]) the
    /// number of those since the last such, this one included, otherwise 0.
    #[inline]
    pub const fn launched(&mut self) -> u16 {
        self.since = self.since.saturating_add(1);
        let every = match self.samples {
            0 | 1 => 1,
            _ if self.mean >= LONG => 1,
            _ if self.varies() => VARYING_EVERY,
            2..KNOWN => LEARN_EVERY,
            _ => SAMPLE_EVERY,
        };
        if self.since >= every { core::mem::replace(&mut self.since, 0) } else { 0 }
    }

    /// Learns from a timed launch that took `measured` ns, in `own` of which the GPU was the slice's own
    /// ([`Grant::own_until`]): its device time lies between the two. What is believed moves no farther than there. A sample
    /// that is far off moves it only so far, until several in a row say the same.
    pub const fn update(&mut self, measured: u64, own: u64) {
        let measured = if measured > u32::MAX as u64 { u32::MAX } else { measured as u32 };
        let own = if own > measured as u64 { measured } else { own as u32 };
        self.cut = match own < measured {
            true if self.cut < BELIEVED => self.cut + 1,
            true => BELIEVED,
            false => 0,
        };
        let sample = match self.samples {
            0 => measured,
            _ if self.mean < own => own,
            _ if self.mean > measured => measured,
            // Too short an estimate of a kernel that never has a turn to itself would show no other way: the neighbour comes too soon, and
            // both take longer. Too long a one shows at once.
            _ if self.mean >= LONG && self.cut >= BELIEVED => measured,
            _ => self.mean,
        };
        let low = if self.mean < SHORT { 0 } else { self.mean / FAR };
        let high = self.mean.saturating_mul(FAR);
        let high = if high < SHORT { SHORT } else { high };
        if self.samples < 2 {
            // The first may have had to load code, or was a warm-up that did nothing: the second stands in for it.
            let near = low <= sample && sample <= high;
            self.odd = 0;
            self.learn(sample, if near { self.samples } else { 0 });
            return;
        }
        if own == measured {
            let off = sample < low || high < sample;
            self.wild = if off { self.wild + ODD } else { self.wild.saturating_sub(1) };
            self.wild = if self.wild < WILD { self.wild } else { WILD };
        }
        if low <= sample && sample <= high {
            self.odd = 0;
            // That it can't last longer is certain, as far as lengths are.
            self.learn(sample, if own < sample && sample < self.mean { 0 } else { self.samples });
        } else if self.odd.saturating_add(1) < BELIEVED {
            self.odd += 1;
            self.learn(if sample < low { low } else { high }, SETTLED);
        } else {
            (self.odd, self.samples) = (0, 1);
            self.mean = sample;
        }
    }

    const fn learn(&mut self, measured: u32, weight: u8) {
        let weight = if weight < SETTLED { weight } else { SETTLED };
        let by = (measured as i64 - self.mean as i64) >> weight;
        self.mean = (self.mean as i64 + by) as u32;
        if self.samples < KNOWN {
            self.samples += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;
    const NOW: u64 = 1_000_000_000;

    fn lease(flags: u8) -> Grant {
        Grant { mode: Mode::Lease, flags, ahead: 15_000, ..Grant::CLOSED }
    }

    fn window(from: u64, until: u64) -> Grant {
        Grant { mode: Mode::Window, ahead: 1_000_000, from, until, ..Grant::CLOSED }
    }

    #[test]
    fn who_may_go() {
        use Verdict::{Go, WaitForChange, WaitUntil};
        let paused = Grant { mode: Mode::Paused, ..Grant::CLOSED };
        for (grant, busy_until, cost, urgent, verdict) in [
            (Grant::CLOSED, 0, 0, 0, WaitForChange),
            (paused, 0, 0, 0, WaitForChange),
            (lease(0), 0, u64::MAX, 0, Go),
            // Just in time: once no more than `ahead` is left of what was sent.
            (lease(0), NOW + 15 * US, 50 * US, 0, Go),
            (lease(0), NOW + 50 * US, 50 * US, 0, WaitUntil(NOW + 35 * US)),
            // Only who yields looks at the word; a claim is looked at again soon; one that is too far off isn't believed.
            (lease(0), 0, 0, NOW + 10 * US, Go),
            (lease(YIELD), 0, 0, NOW + 10 * US, WaitUntil(NOW + 10 * US)),
            (lease(YIELD), 0, 0, NOW + CLAIM, WaitUntil(NOW + LOOK)),
            (lease(YIELD), 0, 0, NOW, Go),
            (lease(YIELD), 0, 0, NOW + CLAIM + 1, Go),
            (lease(YIELD), 0, 0, u64::MAX, Go),
            (Grant { flags: YIELD, ..paused }, 0, 0, NOW + 1, WaitForChange),
            (window(NOW + 1, NOW + 9), 0, 0, 0, WaitUntil(NOW + 1)),
            (window(0, NOW), 0, 0, 0, WaitForChange),
            (window(0, NOW + 100 * US), NOW + 10 * US, 180 * US, 0, Go),
            // Not done in time: not while something is in flight, but then however long it is.
            (window(0, NOW + 100 * US), NOW + 10 * US, 182 * US, 0, WaitUntil(NOW + 10 * US)),
            // Who yields sends short operations a little ahead, long ones when the last one is done.
            (lease(YIELD), NOW + 10 * US, 50 * US, 0, Go),
            (lease(YIELD), NOW + 10 * US, 240 * US, 0, WaitUntil(NOW + 10 * US)),
            (window(0, NOW + 100 * US), NOW, u64::MAX, 0, Go),
            (window(0, u64::MAX), NOW + 3000 * US, 1, 0, WaitUntil(NOW + 2000 * US)),
        ] {
            assert_eq!(admit(NOW, &grant, busy_until, cost, urgent), verdict, "{grant:?} {busy_until} {cost} {urgent}");
        }
    }

    #[test]
    fn a_cost_that_is_far_too_low_is_not_believed_for_ever() {
        // A first launch that did little, then long ones that never have the GPU to themselves.
        let mut cost = Cost::default();
        cost.update(20 * US, u64::MAX);
        for _ in 0..60 {
            cost.update(2000 * US, 900 * US);
        }
        assert!((500 * US..=2000 * US).contains(&cost.estimate(0)), "{cost:?}");
        // One that was held up three times in a thousand is still known for what it is.
        let mut cost = Cost::default();
        for sample in 0..1000 {
            let held_up = [300, 301, 700].contains(&sample);
            cost.update(if held_up { 3000 * US } else { 200 * US }, if held_up { 0 } else { u64::MAX });
        }
        assert_eq!(cost.estimate(0), 200 * US);
    }

    /// Empty kernels last as long as the host lets them: that is no reason to learn them anew at each launch.
    #[test]
    fn a_short_cost_that_varies_stays_known() {
        let mut cost = Cost::default();
        for sample in 0..1000 {
            cost.update(if sample % 7 < 4 { 500 } else { 6000 }, u64::MAX);
            assert!(sample < 10 || cost.settled(), "{cost:?} after {sample}");
        }
    }

    #[test]
    fn a_part_comes_round_with_each_cycle() {
        let part = Part { from: 6000, length: 12_000, flags: YIELD };
        assert_eq!(Part::from_word(part.to_word()), Some(part));
        assert_eq!((Part::from_word(0), Part::from_word(u64::MAX >> 1)), (None, None));
        let start = NOW - NOW % CYCLE;
        for (now, begins) in
            [(0, 6000), (6000, 6000), (17_999, 6000), (18_000, 30_000), (23_999, 30_000), (24_000, 30_000)]
        {
            let grant = part.grant(start + now * US);
            assert_eq!((grant.from, grant.until), (start + begins * US, start + (begins + 12_000) * US), "at {now}");
            assert_eq!((grant.mode, grant.flags), (Mode::Window, YIELD));
        }
        assert_eq!(Part { from: 0, length: 24_000, flags: 0 }.grant(NOW).mode, Mode::Lease);
        let _ = Part { from: u16::MAX, length: 23_999, flags: 0 }.grant(u64::MAX);
    }

    #[test]
    fn words_keep_a_grant() {
        for mode in [Mode::Closed, Mode::Lease, Mode::Window, Mode::Paused] {
            let grant = Grant { mode, flags: YIELD | QUIET, delay: 200, ahead: u32::MAX - 1, from: 7, until: u64::MAX };
            assert_eq!(Grant::from_words(grant.to_words()), grant);
        }
        assert_eq!(Grant::from_words([0; 3]), Grant::CLOSED);
        assert_eq!(Grant::from_words([0xff, 0, 0]).mode, Mode::Closed);
    }

    #[test]
    fn marks_correct_what_is_expected_and_charged() {
        let grant = lease(0);
        let mut track = Track::default();
        track.sent(NOW, 100 * US, &grant);
        assert!(track.mark_due());
        let first = track.mark();
        track.sent(NOW, 50 * US, &grant);
        assert_eq!((track.busy_until(), track.charged()), (NOW + 150 * US, 150 * US));
        assert_eq!(done(track.charged(), track.busy_until(), NOW + 60 * US), 60 * US);
        // There 40 µs early: all that follows is, too, and the time is given back.
        track.poll(NOW + 60 * US, |mark| mark == first);
        assert_eq!((track.busy_until(), track.charged()), (NOW + 110 * US, 110 * US));
        assert_eq!(done(track.charged(), track.busy_until(), NOW + 60 * US), 60 * US, "what is done stays done");
        // Late: a little isn't, more is charged.
        track.mark();
        track.poll(NOW + 110 * US + MARK_LATENCY, |_| false);
        assert_eq!(track.charged(), 110 * US);
        track.poll(NOW + 160 * US, |_| false);
        assert_eq!((track.busy_until(), track.charged()), (NOW + 160 * US, 160 * US));
        // In a new turn nothing is expected before the GPU is free, and waiting for that is nobody's use.
        let turn = Grant { delay: 200, ..window(NOW + 1000 * US, NOW + 5000 * US) };
        track.poll(NOW + 160 * US, |_| true);
        track.sent(turn.from, 100 * US, &turn);
        assert_eq!(track.busy_until(), turn.from + 300 * US);
        let mark = track.mark();
        track.poll(turn.from + 400 * US, |_| false);
        assert_eq!((track.busy_until(), track.charged()), (turn.from + 400 * US, 260 * US));
        track.poll(turn.from + 400 * US, |there| there == mark);
        track.sent(turn.from + 400 * US, 100 * US, &turn);
        track.mark();
        track.poll(turn.from + 600 * US, |_| false);
        assert_eq!(track.charged(), 460 * US, "later in the turn lateness is use");
    }

    #[test]
    fn no_more_marks_than_there_is_room_for() {
        let mut track = Track::default();
        for sent in 0..100 {
            track.sent(NOW, 200 * US, &lease(0));
            assert_eq!(track.mark_due(), sent < MARKS);
            if track.mark_due() {
                track.mark();
            }
        }
        track.poll(NOW, |mark| mark < 3);
        assert!(track.mark_due());
    }

    #[test]
    fn a_guess_below_a_higher_class_is_looked_at_soon() {
        for (flags, long, cost) in [(YIELD, true, LONG), (YIELD, false, 15_000), (0, true, 15_000)] {
            let grant = lease(flags);
            assert_eq!(grant.unknown_cost(long), cost, "{flags} {long}");
            let mut track = Track::default();
            track.sent(NOW, u64::from(cost), &grant);
            track.mark();
            track.sent(NOW, u64::from(cost), &grant);
            track.guessed(&grant);
            let (soon, late) = (NOW + MARK_LATENCY, NOW + 500 * US);
            assert_eq!(track.mark_due(), flags == YIELD);
            let last = track.mark();
            assert_eq!(track.again(NOW, late, &grant), if flags == YIELD { soon } else { late });
            assert_eq!(track.again(NOW, NOW + US, &grant), NOW + US);
            track.poll(NOW, |mark| mark <= last);
            assert_eq!(track.again(NOW, late, &grant), late, "it is done");
        }
    }

    #[test]
    fn what_nobody_knows_the_length_of_is_open_until_its_mark() {
        let mut track = Track::default();
        let turn = Grant { flags: FREE, delay: 100, ..window(NOW, NOW + 9000 * US) };
        track.sent(NOW, 200 * US, &turn);
        assert!(!track.open());
        track.doubt();
        assert!(!track.open() && track.mark_due(), "no mark will tell its end yet");
        let mark = track.mark();
        assert!(track.open());
        assert_eq!(track.again(NOW, NOW + 5000 * US, &turn), NOW + AGAIN);
        // Nothing else was under way when the turn was given: all but a switch of what is late is the slice's own.
        track.poll(NOW + 2300 * US, |_| false);
        assert_eq!((track.open(), track.charged()), (true, 1900 * US));
        track.poll(NOW + 2300 * US, |there| there == mark);
        assert!(!track.open());
    }

    /// Only what was measured while the GPU was the slice's own says that a kernel's length varies.
    #[test]
    fn a_kernel_that_never_has_the_gpu_to_itself_does_not_vary() {
        let mut cost = Cost::default();
        for sample in 0..60 {
            cost.update(if sample % 2 == 0 { 20_000 } else { 200 } * US, 100 * US);
        }
        assert!(!cost.varies());
        for sample in 0..10 {
            cost.update(if sample % 2 == 0 { 20_000 } else { 200 } * US, u64::MAX);
        }
        assert!(cost.varies());
        assert_eq!(Cost::from_word(cost.to_word()), cost);
        // Nor one that does not do so any more, or did once in a while.
        for sample in 0..100 {
            cost.update(if sample % 20 == 19 { 20_000 } else { 200 } * US, u64::MAX);
            assert!(sample < 60 || !cost.varies(), "{cost:?} after {sample}");
        }
    }

    #[test]
    fn a_claim_lasts_until_the_work_is_known_to_be_done() {
        let mut track = Track::default();
        track.sent(NOW, 100 * US, &lease(0));
        assert_eq!(track.claim(NOW), NOW + 100 * US + HOLD + SLICES);
        let mark = track.mark();
        track.poll(NOW + 100 * US, |there| there == mark);
        assert_eq!(track.claim(NOW + 100 * US), NOW + 100 * US + HOLD);
        track.sent(NOW, 1000 * CLAIM, &lease(0));
        assert!(track.claim(NOW) <= NOW + CLAIM, "or nobody would believe it");
    }

    #[test]
    fn costs_are_learned() {
        let mut cost = Cost::default();
        assert_eq!(cost.estimate(33), 33);
        // The first launch loads code.
        cost.update(1_800_000, u64::MAX);
        cost.update(20_000, u64::MAX);
        assert_eq!(cost.estimate(0), 20_000);
        // One that is far off moves little; several are believed.
        cost.update(2_000_000, u64::MAX);
        assert_eq!(cost.estimate(0), 27_500);
        cost.update(2_000_000, u64::MAX);
        cost.update(2_000_000, u64::MAX);
        assert_eq!(cost.estimate(0), 2_000_000);
        // A disturbed one is only an upper bound.
        cost.update(4_000_000, 0);
        assert_eq!(cost.estimate(0), 2_000_000);
        cost.update(1_600_000, 0);
        assert_eq!(cost.estimate(0), 1_600_000);
        assert_eq!(Cost::from_word(cost.to_word()), cost);
        // Kernels of varying length: the mean.
        let mut cost = Cost::default();
        for turn in 0..200 {
            cost.update(if turn % 2 == 0 { 1000 } else { 3000 }, u64::MAX);
        }
        assert!((1700..2300).contains(&cost.estimate(0)), "{cost:?}");
    }

    /// The accounts by class are made of what [`Cost::launched`] returns: nothing is lost, and none of it is very late.
    #[test]
    fn every_launch_is_told_of_in_the_end() {
        let mut cost = Cost::of(5);
        let (mut told, mut longest) = (0, 0);
        for sent in 1..=100_000 {
            if cost.settled() {
                cost.counted();
            } else {
                let launches = u64::from(cost.launched());
                told += launches;
                longest = longest.max(launches);
                cost.update(5000, u64::MAX);
            }
            cost = Cost::from_word(cost.to_word());
            assert_eq!((told + u64::from(cost.since()), cost.class()), (sent, 5));
        }
        assert_eq!(longest, u64::from(COUNTED) + 1);
    }

    #[test]
    fn few_launches_are_timed() {
        let timed = |length: u64| {
            let mut cost = Cost::default();
            let mut count = 0;
            for _ in 0..10_000 {
                if cost.launched() > 0 {
                    count += 1;
                    cost.update(length, u64::MAX);
                }
            }
            count
        };
        assert!((70..90).contains(&timed(5000)), "{}", timed(5000));
        assert_eq!(timed(1_000_000), 10_000);
    }
}
