//! The virtual clock of one device: pure arithmetic over a plain struct that lives in shared memory.
//!
//! A device executes one piece of work at a time, first come, first served, whichever process it comes from. Work has
//! a time at which it may start (its stream reached it) and a duration; [`Clock::submit`] gives it its place. Nothing
//! here reads a real clock: the caller says what time it is. Where time is real, [`crate::slices`] takes the place of
//! the queue.

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

/// The clock of one device. All zero is a valid new clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What time it is, where time is virtual.
    now: Nanos,
    /// When the work that has been submitted so far is done.
    busy_until: Nanos,
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

    /// Places work that may start at `ready` and takes `duration` behind everything submitted before.
    pub fn submit(&mut self, ready: Nanos, duration: Nanos) -> Span {
        let start = ready.max(self.now).max(self.busy_until);
        let end = start.saturating_add(duration);
        self.busy_until = end;
        Span { start, end }
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

/// Length of what two stretches have in common.
fn overlap([a, b]: [Nanos; 2], [c, d]: [Nanos; 2]) -> Nanos {
    b.min(d).saturating_sub(a.max(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_queues_behind_all_earlier_work_of_the_device() {
        let mut clock = Clock::default();
        assert_eq!(clock.submit(0, 100), Span { start: 0, end: 100 });
        assert_eq!(clock.submit(0, 50), Span { start: 100, end: 150 });
        assert_eq!(clock.submit(400, 50), Span { start: 400, end: 450 });
    }

    #[test]
    fn time_never_goes_back_and_work_never_starts_in_the_past() {
        let mut clock = Clock::default();
        clock.advance(1000);
        clock.advance(10);
        assert_eq!(clock.now(500), 1000);
        assert_eq!(clock.now(1500), 1500);
        assert_eq!(clock.submit(0, 1).start, 1500);
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
