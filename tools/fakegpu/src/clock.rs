//! The virtual clock of one device: pure arithmetic over a plain struct that lives in shared memory.
//!
//! A device executes work first come, first served, whichever process it comes from, and one piece at a time; those of
//! clients of one MPS server run side by side as far as their parts of the device fit in the whole and, where it is known
//! which multiprocessors they are, have none in common. Work has a time at which it may start (its stream reached it) and a
//! duration; [`Clock::submit`] gives it its place. Nothing here reads a real clock: the caller says what time it is. Where
//! time is real, [`crate::slices`] takes the place of the queue.

use crate::slices::WHOLE;
use crate::sms::Sms;

/// Nanoseconds on a device's clock.
pub type Nanos = u64;

/// Width of one utilisation window.
pub const WINDOW: Nanos = 100_000_000;
/// Windows that are kept.
const WINDOWS: usize = 64;
/// Windows that one report looks back.
const REPORT: u64 = 10;

/// When a piece of work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First nanosecond.
    pub start: Nanos,
    /// First nanosecond after it.
    pub end: Nanos,
}

/// Most pieces of work that are kept apart.
const PIECES: usize = 32;

/// Work that was placed without a gap: how much of the device it uses from when to when, and the number of its MPS server;
/// which multiprocessors, where that is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    start: Nanos,
    end: Nanos,
    part: u32,
    server: u32,
    sms: Sms,
}

/// The clock of one device. All zero is a valid new clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What time it is, where time is virtual.
    now: Nanos,
    /// The work that was submitted and may not be done.
    pieces: [Piece; PIECES],
}

impl Clock {
    /// The time, never earlier than `floor` (the real clock's reading where the pace is real, 0 elsewhere).
    pub fn now(&mut self, floor: Nanos) -> Nanos {
        self.now = self.now.max(floor);
        self.now
    }

    /// Moves the time forward to `to`; never back.
    pub fn advance(&mut self, to: Nanos) {
        self.now = self.now.max(to);
    }

    /// Places work that may start at `ready` and takes `duration`. Without a `server` (0) it comes behind everything
    /// submitted before; with one, where what was submitted before leaves it its `part` of the device (in hundredths of a
    /// percent) and its `sms` for all of its time and is of the same server.
    pub fn submit(&mut self, ready: Nanos, duration: Nanos, server: u32, part: u32, sms: Sms) -> Span {
        let all = self.pieces.iter().map(|piece| piece.end).max().unwrap_or(0);
        let mut start = ready.max(self.now);
        if server == 0 {
            start = start.max(all);
        }
        while let Some(later) = self.taken(start, duration, server, part, sms) {
            start = later;
        }
        let same = |piece: &Piece| (piece.server, piece.part, piece.sms) == (server, part, sms);
        let fits = |piece: &Piece| piece.end == start && same(piece);
        let now = self.now;
        if let Some(before) = self.pieces.iter_mut().find(|piece| fits(piece)) {
            before.end = start.saturating_add(duration);
        } else if let Some(free) = self.pieces.iter_mut().find(|piece| piece.end <= now) {
            *free = Piece { start, end: start.saturating_add(duration), part, server, sms };
        } else {
            // More than are kept apart: behind all of them, which count as one.
            start = start.max(all);
            self.pieces = [Piece::default(); PIECES];
            self.pieces[0] = Piece { start: now, end: start, part: WHOLE, ..Piece::default() };
            self.pieces[1] = Piece { start, end: start.saturating_add(duration), part, server, sms };
        }
        Span { start, end: start.saturating_add(duration) }
    }

    /// When to try again, where work of this time and part does not fit.
    fn taken(&self, start: Nanos, duration: Nanos, server: u32, part: u32, sms: Sms) -> Option<Nanos> {
        let end = start.saturating_add(duration.max(1));
        let beside = || self.pieces.iter().filter(|piece| piece.start < end && piece.end > start);
        let taken = |at: Nanos| -> u32 {
            let then = beside().filter(|piece| piece.start <= at && at < piece.end);
            then.map(|piece| if piece.server == server { piece.part } else { WHOLE }).sum()
        };
        let most = beside().map(|piece| taken(piece.start.max(start))).max()?;
        let clash = beside().any(|piece| piece.sms.meets(&sms));
        (clash || most + part > WHOLE).then(|| beside().map(|piece| piece.end).min()).flatten()
    }
}

/// How long something was busy in each of the last windows. All zero is a valid new meter.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    windows: [Window; WINDOWS],
    /// The last busy stretch; in the windows only once another one follows it, as it may lie in the future.
    last: [Nanos; 2],
    /// Busy time since the beginning.
    total: Nanos,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    index: u32,
    busy: u32,
}

impl Default for Meter {
    fn default() -> Self {
        Meter { windows: [Window::default(); WINDOWS], last: [0; 2], total: 0 }
    }
}

impl Meter {
    /// Counts `span` as busy.
    pub fn add(&mut self, span: Span) {
        self.total = self.total.saturating_add(span.end - span.start);
        let [start, end] = self.last;
        if span.start <= end && span.start >= start {
            self.last[1] = end.max(span.end);
        } else {
            self.settle(start, end);
            self.last = [span.start, span.end];
        }
    }

    /// Moves a stretch into the windows; of a long one, what reports can still look back to.
    fn settle(&mut self, start: Nanos, end: Nanos) {
        let oldest = (end / WINDOW).saturating_sub(WINDOWS as u64 - 1);
        for index in (start / WINDOW).max(oldest)..=end / WINDOW {
            let busy = overlap([start, end], [index * WINDOW, (index + 1) * WINDOW]);
            let window = &mut self.windows[(index % WINDOWS as u64) as usize];
            if window.index != index as u32 {
                *window = Window { index: index as u32, busy: 0 };
            }
            window.busy = window.busy.saturating_add(busy as u32).min(WINDOW as u32);
        }
    }

    /// Percent busy over the last second before `now`.
    pub fn percent(&self, now: Nanos) -> u32 {
        let open = now / WINDOW;
        let first = open.saturating_sub(REPORT);
        let settled: u64 = (first..=open)
            .map(|index| {
                let window = self.windows[(index % WINDOWS as u64) as usize];
                let passed = (now - index * WINDOW).min(WINDOW);
                if window.index == index as u32 { u64::from(window.busy).min(passed) } else { 0 }
            })
            .sum();
        let busy = settled + overlap(self.last, [first * WINDOW, now]);
        (busy * 100 / (now - first * WINDOW).max(1)).min(100) as u32
    }

    /// Busy time since the beginning.
    pub fn total(&self) -> Nanos {
        self.total
    }
}

/// Most transfers that are kept apart.
const FLOWS: usize = 16;

/// Bytes that a device's memory gives or takes from when to when, evenly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    start: Nanos,
    end: Nanos,
    bytes: u64,
}

impl Flow {
    fn until(&self, now: Nanos) -> u64 {
        let part = u128::from(now.min(self.end).saturating_sub(self.start));
        (u128::from(self.bytes) * part / u128::from((self.end - self.start).max(1))) as u64
    }
}

/// What a device's memory gave and took. All zero is a valid new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// By the transfers that are over.
    moved: u64,
    flows: [Flow; FLOWS],
}

impl Traffic {
    /// Counts `bytes` in `span`, as it is submitted at `now`. Of more than are kept apart, the first to end counts at once.
    pub fn add(&mut self, span: Span, bytes: u64, now: Nanos) {
        let over = |flow: &Flow| if flow.end <= now { (0, 0) } else { (1, flow.end) };
        if let Some(place) = self.flows.iter_mut().min_by_key(|flow| over(flow)) {
            self.moved = self.moved.saturating_add(place.bytes);
            *place = Flow { start: span.start, end: span.end, bytes };
        }
    }

    /// Bytes until `now`.
    pub fn total(&self, now: Nanos) -> u64 {
        self.flows.iter().fold(self.moved, |sum, flow| sum.saturating_add(flow.until(now)))
    }
}

/// Length of what two stretches have in common.
fn overlap([a, b]: [Nanos; 2], [c, d]: [Nanos; 2]) -> Nanos {
    b.min(d).saturating_sub(a.max(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// It is not known which multiprocessors.
    const ANY: Sms = Sms::ANY;

    #[test]
    fn work_queues_behind_all_earlier_work_of_the_device() {
        let mut clock = Clock::default();
        assert_eq!(clock.submit(0, 100, 0, WHOLE, ANY), Span { start: 0, end: 100 });
        assert_eq!(clock.submit(0, 50, 0, WHOLE, ANY), Span { start: 100, end: 150 });
        assert_eq!(clock.submit(400, 50, 0, WHOLE, ANY), Span { start: 400, end: 450 });
    }

    #[test]
    fn clients_of_a_server_run_side_by_side_as_they_fit_and_others_do_not() {
        let mut clock = Clock::default();
        let mut start = |duration, server, part| clock.submit(0, duration, server, part, ANY).start;
        assert_eq!([start(100, 1, 5_000), start(40, 1, 3_000), start(10, 1, 2_000)], [0, 0, 0]);
        assert_eq!(start(10, 1, 2_500), 40, "as soon as there is room");
        assert_eq!(start(5, 1, 2_000), 10, "it fits before");
        assert_eq!(start(95, 1, 2_000), 15, "for all of its time");
        assert_eq!(start(7, 2, 1_000), 110, "another server's");
        assert_eq!(start(1, 0, WHOLE), 117, "without a server");
        assert_eq!(start(7, 1, 1_000), 50, "long before them");
        let mut last = 0;
        for round in 0..2 * PIECES as u64 {
            last = clock.submit(1_000 * round, 10, 3, 1, ANY).start;
        }
        assert!(last >= 1_000 * (2 * PIECES as u64 - 1), "more than are kept apart");
    }

    /// `count` multiprocessors of 256 behind the first `skipped`.
    fn sms(skipped: u32, count: u32) -> Sms {
        Sms::first(skipped + count).without(&Sms::first(skipped))
    }

    #[test]
    fn the_same_multiprocessors_do_one_thing_at_a_time() {
        let mut clock = Clock::default();
        let mut start = |duration, server, part, sms| clock.submit(0, duration, server, part, sms).start;
        assert_eq!(start(100, 1, 2_500, sms(0, 64)), 0);
        assert_eq!(start(40, 1, 2_500, sms(64, 64)), 0, "others");
        assert_eq!(start(10, 1, 2_500, sms(32, 64)), 100, "there is room, but not where it has to run");
        assert_eq!(start(30, 1, 2_500, sms(64, 64)), 40, "it fits before");
        assert_eq!(start(30, 1, 2_500, ANY), 0, "anywhere, as much as is left");
        assert_eq!(start(5, 2, 2_500, sms(128, 64)), 110, "another server's");
    }

    proptest! {
        /// Of every moment: what runs then is of one server, fits in the device and has no multiprocessor in common; nothing runs
        /// before it may.
        #[test]
        fn what_runs_at_once_fits(
            list in prop::collection::vec((0..50_u64, 1..40_u64, 0..3_u32, 1..=WHOLE, 0..512_u32), 1..80),
            later in 0..60_u64,
        ) {
            let mut clock = Clock::default();
            let mut placed = Vec::new();
            for (index, (ready, duration, server, part, at)) in list.into_iter().enumerate() {
                if index % 7 == 6 {
                    clock.advance(later * index as u64);
                }
                let part = if server == 0 { WHOLE } else { part };
                // Half of them say where.
                let sms = if server == 0 || at >= 256 { ANY } else { sms(at, (part * 256 / WHOLE).clamp(1, 256 - at)) };
                let now = clock.now(0);
                let span = clock.submit(ready, duration, server, part, sms);
                prop_assert!(span.start >= ready.max(now) && span.end == span.start + duration);
                placed.push((span, server, part, sms));
            }
            for (at, server, ..) in &placed {
                let then = || placed.iter().filter(|(span, ..)| span.start <= at.start && at.start < span.end);
                prop_assert!(then().all(|(_, other, ..)| other == server));
                prop_assert!(then().map(|(_, _, part, _)| part).sum::<u32>() <= WHOLE);
                let together = then().fold(Sms::default(), |all, (.., sms)| all.with(sms));
                prop_assert_eq!(then().map(|(.., sms)| sms.count()).sum::<u32>(), together.count());
            }
        }
    }

    #[test]
    fn time_never_goes_back_and_work_never_starts_in_the_past() {
        let mut clock = Clock::default();
        clock.advance(1000);
        clock.advance(10);
        assert_eq!(clock.now(500), 1000);
        assert_eq!(clock.now(1500), 1500);
        assert_eq!(clock.submit(0, 1, 0, WHOLE, ANY).start, 1500);
    }

    #[test]
    fn traffic_counts_as_time_passes() {
        let mut traffic = Traffic::default();
        traffic.add(Span { start: 100, end: 200 }, 1000, 0);
        traffic.add(Span { start: 150, end: 250 }, 4000, 0);
        let totals = [0, 100, 150, 200, 250, 900].map(|now| traffic.total(now));
        assert_eq!(totals, [0, 0, 500, 3000, 5000, 5000]);
        for number in 0..3 * FLOWS as u64 {
            traffic.add(Span { start: 300, end: 310 + number }, 10, 260 + number / 32);
        }
        assert_eq!(traffic.total(1000), 5000 + 30 * FLOWS as u64);
    }

    #[test]
    fn a_meter_reports_the_last_second() {
        let mut meter = Meter::default();
        meter.add(Span { start: 0, end: WINDOW * 5 });
        assert_eq!(meter.percent(WINDOW * 10), 50);
        assert_eq!(meter.percent(WINDOW * 5), 100);
        assert_eq!(meter.percent(WINDOW * 20), 0);
        assert_eq!(meter.total(), WINDOW * 5);
        meter.add(Span { start: WINDOW * 10, end: WINDOW * 300 });
        assert_eq!(meter.percent(WINDOW * 10), 50, "what is to come does not count");
        assert_eq!(meter.percent(WINDOW * 100), 100, "a long stretch counts all the time");
        meter.add(Span { start: WINDOW * 305, end: WINDOW * 306 });
        assert_eq!(meter.percent(WINDOW * 310), 10);
        assert_eq!(meter.percent(WINDOW * 306), 50);
    }
}
