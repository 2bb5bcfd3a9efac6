//! How the contexts of one device share its time, where time is real: pure arithmetic over a plain struct that lives in
//! shared memory.
//!
//! Every context has one queue, which the device works off in order. Queues take turns by group: a context has a group of
//! its own, the clients of one MPS server are in one together. Among groups that hold work the device goes round, a slice
//! of time each; a switch between two that both hold work costs time in which nothing runs. Work is cut at the end of a
//! slice and goes on in the next one. A group that holds the only work runs on without a pause.
//!
//! Within a group, kernels of different queues run side by side as long as the parts of the device that they may use fit
//! in the whole; the others wait, first come, first served, and no kernel is cut for them. A queue may be pinned to certain
//! multiprocessors: then its kernels wait for those, and what needs none of them passes by.
//!
//! Nothing runs by itself: whoever submits or asks says what time it is, and the schedule is evaluated up to then. It
//! depends on the submissions alone, not on how often somebody asks.

use crate::clock::{Nanos, Span};
use crate::sms::Sms;

/// How long one context runs while others wait.
pub const SLICE: Nanos = 2_500_000;
/// What a switch costs.
pub const SWITCH: Nanos = 200_000;
/// Most contexts of one device.
pub const MAX_QUEUES: usize = 128;
/// All of a device, as the part of it that a client's kernels may use: hundredths of a percent.
pub const WHOLE: u32 = 10_000;
/// Kernels that each queue of a group of several keeps apart; those beyond count as part of the last.
const KERNELS: usize = 64;
/// Stretches of service that each queue remembers, to tell when something in the past was done.
const LOG: usize = 256;

/// Whose turn it is. All zero is a valid beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// The time up to which the schedule is evaluated.
    at: Nanos,
    /// What the current group had of its slice, and what is left of the switch to it.
    used: Nanos,
    switch: Nanos,
    current: u64,
}

/// How far a queue is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    /// Work that was done, since the queue was opened.
    served: Nanos,
    /// Kernels that are over, where they are kept apart.
    over: u64,
    /// Since when the first that is not over could run, and whether it does.
    ready: Nanos,
    running: bool,
}

/// Service without a pause: of a queue's work, the part from `from` to `to`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    start: Nanos,
    from: Nanos,
    to: Nanos,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Queue {
    /// One more than the process's number; 0 where the queue is not in use.
    owner: u64,
    /// Which others it takes its turns with.
    group: u64,
    /// The part of the device that its kernels use where they run beside others; 0 where its group is its own.
    width: u32,
    /// Its multiprocessors, where it has certain ones.
    sms: Sms,
    /// Work that came in, since the queue was opened.
    submitted: Nanos,
    /// Kernels so far, where they are kept apart, and the marks at which the last of them end.
    kernels: u64,
    ends: [Nanos; KERNELS],
}

impl Queue {
    /// The mark up to which nothing else of the queue can begin.
    fn head(&self, lane: &Lane) -> Nanos {
        if self.width == 0 || lane.over >= self.kernels {
            return self.submitted;
        }
        self.ends[(lane.over % KERNELS as u64) as usize]
    }

    fn left(&self, lane: &Lane) -> Nanos {
        self.submitted - lane.served
    }
}

/// A queue's last stretches, the newest at the number of stretches so far less one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Log {
    stretches: u64,
    last: [Stretch; LOG],
}

/// The schedule of one device. All zero is a valid new one.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Schedule {
    turn: Turn,
    queues: [Queue; MAX_QUEUES],
    lanes: [Lane; MAX_QUEUES],
    logs: [Log; MAX_QUEUES],
}

type Lanes = [Lane; MAX_QUEUES];

/// The next group after `current` that holds work, and whether `current` does.
fn next(queues: &[Queue], lanes: &Lanes, current: u64) -> (Option<u64>, bool) {
    let busy = || queues.iter().zip(lanes).filter(|(queue, lane)| queue.left(lane) > 0).map(|(queue, _)| queue.group);
    let later = busy().filter(|group| *group > current).min();
    (later.or_else(|| busy().filter(|group| *group < current).min()), busy().any(|group| group == current))
}

/// Lets what fits of a group's kernels begin, in the order in which they could.
fn admit(queues: &[Queue], lanes: &mut Lanes, group: u64) {
    let of_group = |index: &usize| queues[*index].group == group;
    let running = || (0..MAX_QUEUES).filter(of_group);
    let mut taken: u32 = running().filter(|index| lanes[*index].running).map(|index| queues[index].width).sum();
    let mut busy =
        running().filter(|index| lanes[*index].running).fold(Sms::ANY, |busy, index| busy.with(&queues[index].sms));
    let waits = |index: &usize| !lanes[*index].running && queues[*index].left(&lanes[*index]) > 0;
    let mut waiting: Vec<usize> = running().filter(waits).collect();
    waiting.sort_by_key(|index| lanes[*index].ready);
    let mut passed = false;
    for index in waiting {
        let Queue { width, sms, .. } = queues[index];
        let fits = taken + width <= WHOLE && !busy.meets(&sms);
        if sms.is_empty() && (passed || !fits) {
            return;
        }
        if fits {
            taken += width;
            lanes[index].running = true;
        }
        // Also of one that waits: nobody takes its place.
        busy = busy.with(&sms);
        passed |= !fits;
    }
}

impl Turn {
    /// Evaluates up to `until`: moves the lanes on and reports what was served.
    fn run(
        &mut self,
        queues: &[Queue; MAX_QUEUES],
        lanes: &mut Lanes,
        until: Nanos,
        mut served: impl FnMut(usize, Nanos, Span),
    ) {
        while self.at < until {
            let room = until - self.at;
            if self.switch > 0 {
                let step = self.switch.min(room);
                self.switch -= step;
                self.at += step;
                continue;
            }
            let (other, busy) = next(queues, lanes, self.current);
            match other {
                // Out of work: the next one takes over at once, if there is one.
                _ if !busy => match other {
                    Some(other) => (self.current, self.used) = (other, 0),
                    None => (self.at, self.used) = (until, 0),
                },
                Some(other) if self.used >= SLICE => {
                    (self.current, self.used, self.switch) = (other, 0, SWITCH);
                }
                _ => {
                    admit(queues, lanes, self.current);
                    let current = self.current;
                    let runs = |index: &usize, lanes: &Lanes| queues[*index].group == current && lanes[*index].running;
                    let running: Vec<usize> = (0..MAX_QUEUES).filter(|index| runs(index, lanes)).collect();
                    let first =
                        running.iter().map(|index| queues[*index].head(&lanes[*index]) - lanes[*index].served).min();
                    let slice = if other.is_some() { SLICE - self.used } else { Nanos::MAX };
                    let step = first.unwrap_or(room).min(room).min(slice);
                    let span = Span { start: self.at, end: self.at + step };
                    for index in running {
                        let (queue, lane) = (&queues[index], &mut lanes[index]);
                        served(index, lane.served, span);
                        lane.served += step;
                        if lane.served == queue.head(lane) {
                            (lane.running, lane.ready, lane.over) = (false, span.end, lane.over + 1);
                        }
                    }
                    self.at += step;
                    self.used = match other {
                        Some(_) => self.used + step,
                        // Alone, it gets one slice after the other.
                        None => (self.used + step) % SLICE,
                    };
                }
            }
        }
    }
}

impl Log {
    fn serve(&mut self, before: Nanos, span: Span) {
        let length = span.end - span.start;
        let last = self.stretches.checked_sub(1).map(|index| &mut self.last[(index % LOG as u64) as usize]);
        match last {
            Some(last) if last.start + (last.to - last.from) == span.start => last.to += length,
            _ => {
                let stretch = Stretch { start: span.start, from: before, to: before + length };
                self.last[(self.stretches % LOG as u64) as usize] = stretch;
                self.stretches += 1;
            }
        }
    }
}

impl Schedule {
    /// A queue for a context of the process `owner`; `None` where all are in use. With a `server`, it takes its turns
    /// together with all others of that number, and its kernels use `width` of the device.
    pub fn open(&mut self, owner: usize, server: Option<(usize, u32)>) -> Option<usize> {
        let index = self.queues.iter().position(|queue| queue.owner == 0)?;
        let queue = &mut self.queues[index];
        queue.owner = owner as u64 + 1;
        (queue.submitted, queue.kernels, queue.sms) = (0, 0, Sms::ANY);
        (queue.group, queue.width) = match server {
            Some((server, width)) => ((MAX_QUEUES + server) as u64, width.clamp(1, WHOLE)),
            None => (index as u64, 0),
        };
        self.lanes[index] = Lane::default();
        self.logs[index].stretches = 0;
        Some(index)
    }

    /// Has a new queue's kernels run on these multiprocessors only.
    pub fn pin(&mut self, queue: usize, sms: Sms) {
        self.queues[queue].sms = sms;
    }

    /// Ends a queue; what it still holds is never done.
    pub fn close(&mut self, queue: usize) {
        let (queue, lane) = (&mut self.queues[queue], &mut self.lanes[queue]);
        queue.owner = 0;
        queue.submitted = lane.served;
        lane.running = false;
    }

    /// Ends all queues of a process.
    pub fn close_all(&mut self, owner: usize) {
        for index in 0..MAX_QUEUES {
            if self.queues[index].owner == owner as u64 + 1 {
                self.close(index);
            }
        }
    }

    /// Evaluates up to `now`; `busy` hears which process had the device when.
    pub fn advance(&mut self, now: Nanos, mut busy: impl FnMut(usize, Span)) {
        let Schedule { turn, queues, lanes, logs } = self;
        turn.run(queues, lanes, now, |index, before, span| {
            logs[index].serve(before, span);
            if let Some(owner) = queues[index].owner.checked_sub(1) {
                busy(owner as usize, span);
            }
        });
    }

    /// Adds work at the time of the last [`Schedule::advance`]; returns the mark at which it is done: see
    /// [`Schedule::finished`].
    pub fn submit(&mut self, queue: usize, duration: Nanos) -> Nanos {
        let (queue, lane) = (&mut self.queues[queue], &mut self.lanes[queue]);
        if queue.left(lane) == 0 {
            (lane.ready, lane.over) = (self.turn.at, queue.kernels);
        }
        queue.submitted = queue.submitted.saturating_add(duration);
        // With the first one running or about to, the last place is never its own.
        if duration > 0 && queue.kernels - lane.over.min(queue.kernels) < KERNELS as u64 {
            queue.kernels += 1;
        }
        if queue.kernels > 0 {
            queue.ends[((queue.kernels - 1) % KERNELS as u64) as usize] = queue.submitted;
        }
        queue.submitted
    }

    /// When a queue's work up to `mark` was done; `None` while it is not.
    pub fn finished(&self, queue: usize, mark: Nanos) -> Option<Nanos> {
        let (lane, log) = (&self.lanes[queue], &self.logs[queue]);
        if lane.served < mark {
            return None;
        }
        let known = log.stretches.min(LOG as u64);
        let newest_first = (1..=known).map(|back| log.last[((log.stretches - back) % LOG as u64) as usize]);
        let mut oldest = 0;
        for stretch in newest_first {
            if stretch.from < mark && mark <= stretch.to {
                return Some(stretch.start + (mark - stretch.from));
            }
            oldest = stretch.start;
        }
        // So long ago that it is forgotten.
        Some(oldest)
    }

    /// When a queue's work up to `mark` will be done if nobody submits anything, but not later than `horizon`; the time of
    /// the last [`Schedule::advance`] where it is done.
    pub fn predict(&self, queue: usize, mark: Nanos, horizon: Nanos) -> Nanos {
        let (mut turn, mut lanes) = (self.turn, self.lanes);
        if lanes[queue].served >= mark {
            return turn.at;
        }
        let mut when = horizon;
        turn.run(&self.queues, &mut lanes, horizon, |index, before, span| {
            if index == queue && before < mark && mark <= before + (span.end - span.start) {
                when = span.start + (mark - before);
            }
        });
        when
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Schedule {
        fn new() -> Box<Schedule> {
            let queue =
                Queue { owner: 0, group: 0, width: 0, sms: Sms::ANY, submitted: 0, kernels: 0, ends: [0; KERNELS] };
            let logs = [Log { stretches: 0, last: [Stretch::default(); LOG] }; MAX_QUEUES];
            let lanes = [Lane::default(); MAX_QUEUES];
            Box::new(Schedule { turn: Turn::default(), queues: [queue; MAX_QUEUES], lanes, logs })
        }
    }

    /// What one submission of a test is, and when it was done.
    #[derive(Clone, Copy, Debug)]
    struct Job {
        at: Nanos,
        queue: usize,
        duration: Nanos,
        done: Nanos,
    }

    /// Executes the submissions `(pause before it, queue, duration)` on `queues` contexts. Between them somebody asks at
    /// every multiple of `asks`.
    fn execute(queues: usize, submissions: &[(Nanos, usize, Nanos)], asks: Nanos) -> (Vec<Job>, Vec<(usize, Span)>) {
        let mut schedule = Schedule::new();
        for owner in 0..queues {
            assert_eq!(schedule.open(owner, None), Some(owner));
        }
        let mut spans: Vec<(usize, Span)> = Vec::new();
        let mut record = |owner: usize, span: Span| match spans.last_mut() {
            Some((last, whole)) if *last == owner && whole.end == span.start => whole.end = span.end,
            _ => spans.push((owner, span)),
        };
        let (mut now, mut jobs) = (0, Vec::<Job>::new());
        let mut marks = Vec::new();
        for (pause, queue, duration) in submissions {
            let at = now + pause;
            while now < at {
                now = at.min((now / asks + 1) * asks);
                schedule.advance(now, &mut record);
                // The log forgets: look as often as a process does.
                for (job, mark) in jobs.iter_mut().zip(&marks) {
                    if job.done == 0 {
                        job.done = schedule.finished(job.queue, *mark).unwrap_or(0);
                    }
                }
            }
            marks.push(schedule.submit(*queue, *duration));
            jobs.push(Job { at, queue: *queue, duration: *duration, done: 0 });
        }
        for (job, mark) in jobs.iter_mut().zip(&marks) {
            while job.done == 0 {
                let expected = schedule.predict(job.queue, *mark, Nanos::MAX);
                schedule.advance(expected.max(now), &mut record);
                now = now.max(expected);
                job.done = schedule.finished(job.queue, *mark).expect("done when it was predicted");
            }
        }
        (jobs, spans)
    }

    fn submissions() -> impl Strategy<Value = Vec<(Nanos, usize, Nanos)>> {
        prop::collection::vec((0..6_000_000_u64, 0..4_usize, 1..9_000_000_u64), 1..40)
    }

    proptest! {
        /// Nothing is done before its time, and a queue is in order.
        #[test]
        fn work_takes_its_time_and_its_turn(list in submissions()) {
            let (jobs, _) = execute(4, &list, 1_000_000);
            for queue in 0..4 {
                let mut before = 0;
                for job in jobs.iter().filter(|job| job.queue == queue) {
                    prop_assert!(job.done >= job.at.max(before) + job.duration, "{job:?} after {before}");
                    before = job.done;
                }
            }
        }

        /// The device does all the work once, never two things at a time, and pauses with work at hand only to switch.
        #[test]
        fn no_time_is_lost_but_for_switches(list in submissions()) {
            let (jobs, spans) = execute(4, &list, 1_000_000);
            for queue in 0..4 {
                let done: Nanos = spans.iter().filter(|s| s.0 == queue).map(|(_, s)| s.end - s.start).sum();
                let given: Nanos = jobs.iter().filter(|job| job.queue == queue).map(|job| job.duration).sum();
                prop_assert_eq!(done, given);
            }
            for pair in spans.windows(2) {
                let ((one, before), (other, after)) = (pair[0], pair[1]);
                prop_assert!(before.end <= after.start);
                let gap = after.start - before.end;
                let waiting = jobs.iter().any(|job| job.at <= before.end && job.done > before.end);
                if waiting {
                    prop_assert!(gap == 0 || one != other && gap == SWITCH, "{pair:?}");
                }
            }
        }

        /// Who asks, and how often, changes nothing.
        #[test]
        fn asking_changes_nothing(list in submissions(), asks in 1_000..3_000_000_u64) {
            let (often, _) = execute(4, &list, asks);
            let (seldom, _) = execute(4, &list, Nanos::MAX / 2);
            for (one, other) in often.iter().zip(&seldom) {
                prop_assert_eq!(one.done, other.done);
            }
        }

        /// Contexts that never run out of work get the same time, to one slice.
        #[test]
        fn those_that_always_have_work_share_alike(count in 2..6_usize, piece in 10_000..20_000_000_u64) {
            let mut schedule = Schedule::new();
            for owner in 0..count {
                schedule.open(owner, None);
                schedule.submit(owner, 1_000_000_000_000 / piece * piece);
            }
            let mut got = vec![0; count];
            schedule.advance(1_000_000_000, |owner, span| got[owner] += span.end - span.start);
            let (least, most) = (got.iter().min().expect("two"), got.iter().max().expect("two"));
            prop_assert!(most - least <= SLICE, "{got:?}");
            let all: Nanos = got.iter().sum();
            // One switch to each slice.
            prop_assert!(all.abs_diff(1_000_000_000 / (SLICE + SWITCH) * SLICE) <= SLICE, "{got:?}");
        }
    }

    #[test]
    fn one_context_runs_without_a_pause() {
        let (jobs, spans) = execute(2, &[(5, 0, 10 * SLICE), (0, 0, 7)], SLICE / 3);
        assert_eq!((jobs[0].done, jobs[1].done), (5 + 10 * SLICE, 12 + 10 * SLICE));
        assert_eq!(spans, [(0, Span { start: 5, end: 12 + 10 * SLICE })]);
    }

    #[test]
    fn long_work_is_cut_where_another_waits() {
        let (jobs, spans) = execute(2, &[(0, 0, 4 * SLICE), (0, 1, 1_000)], SLICE);
        let second = SLICE + SWITCH;
        assert_eq!(jobs[1].done, second + 1_000);
        assert_eq!(jobs[0].done, second + 1_000 + 3 * SLICE, "and goes on where nobody else has work");
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn a_new_one_waits_for_the_rest_of_the_slice() {
        // In the fifth slice, a fifth of it over.
        let (jobs, _) = execute(2, &[(0, 0, 20 * SLICE), (4 * SLICE + SLICE / 5, 1, 10)], Nanos::MAX / 2);
        assert_eq!(jobs[1].done, 5 * SLICE + SWITCH + 10);
    }

    #[test]
    fn what_a_closed_queue_held_is_never_done() {
        let mut schedule = Schedule::new();
        let (one, two) = (schedule.open(7, None).expect("queue"), schedule.open(8, None).expect("queue"));
        schedule.submit(one, 100 * SLICE);
        let mark = schedule.submit(two, SLICE);
        schedule.advance(SLICE / 2, |_, _| {});
        schedule.close_all(7);
        assert_eq!(schedule.predict(two, mark, Nanos::MAX), SLICE / 2 + SLICE, "the next one takes over at once");
        assert_eq!(schedule.open(9, None), Some(one), "and it is free for another");
    }

    #[test]
    fn the_past_is_told_to_the_nanosecond_until_it_is_forgotten() {
        let mut schedule = Schedule::new();
        schedule.open(0, None);
        let mut marks = Vec::new();
        for index in 0..LOG as u64 + 10 {
            schedule.advance(index * 1_000, |_, _| {});
            marks.push(schedule.submit(0, 100));
        }
        schedule.advance(1_000_000_000, |_, _| {});
        let at = |index: usize| schedule.finished(0, marks[index]);
        assert_eq!(at(LOG + 9), Some((LOG as u64 + 9) * 1_000 + 100));
        assert_eq!(at(10), Some(10_100));
        assert_eq!(at(3), Some(10_000), "not later than the oldest that is known");
        assert_eq!(schedule.finished(0, marks[LOG + 9] + 1), None);
        assert_eq!(schedule.predict(0, marks[LOG + 9], Nanos::MAX), 1_000_000_000, "it needs no more waiting");
    }

    /// Clients of one server with the given widths, each with the given kernels; when each is done.
    fn side_by_side(clients: &[(u32, &[Nanos])]) -> Vec<Nanos> {
        let mut schedule = Schedule::new();
        let mut last = Vec::new();
        for (owner, (width, kernels)) in clients.iter().enumerate() {
            let queue = schedule.open(owner, Some((3, *width))).expect("queue");
            let marks = kernels.iter().map(|duration| schedule.submit(queue, *duration));
            last.push((queue, marks.last().expect("a kernel")));
        }
        last.into_iter().map(|(queue, mark)| schedule.predict(queue, mark, Nanos::MAX)).collect()
    }

    #[test]
    fn clients_whose_parts_fit_run_side_by_side() {
        assert_eq!(side_by_side(&[(5_000, &[700, 700]), (5_000, &[100; 3])]), [1_400, 300]);
        assert_eq!(side_by_side(&[(3_000, &[SLICE * 9]), (7_000, &[5])]), [SLICE * 9, 5]);
    }

    #[test]
    fn clients_whose_parts_do_not_fit_wait_for_whole_kernels_first_come_first_served() {
        assert_eq!(side_by_side(&[(WHOLE, &[SLICE * 9, 10]), (WHOLE, &[5, 7])]), [SLICE * 9 + 15, SLICE * 9 + 22]);
        // The small one came after the large one, which does not fit: nobody is passed over.
        assert_eq!(side_by_side(&[(6_000, &[100]), (6_000, &[50]), (4_000, &[30])]), [100, 150, 130]);
    }

    #[test]
    fn pinned_clients_wait_for_their_multiprocessors_only() {
        let mut schedule = Schedule::new();
        let second = Sms::first(16).without(&Sms::first(8));
        let clients = [
            (1_000, Sms::first(8), 100),
            (2_000, Sms::first(16), 50),
            (1_000, second, 10),
            (3_000, Sms::first(32).without(&Sms::first(16)), 20),
            (1_000, Sms::ANY, 7),
        ];
        let mut marks = Vec::new();
        for (owner, (width, sms, duration)) in clients.into_iter().enumerate() {
            let queue = schedule.open(owner, Some((3, width))).expect("queue");
            schedule.pin(queue, sms);
            marks.push((queue, schedule.submit(queue, duration)));
        }
        let done = |index: usize| schedule.predict(marks[index].0, marks[index].1, Nanos::MAX);
        assert_eq!([done(0), done(1)], [100, 150], "it needs the same ones");
        assert_eq!(done(2), 160, "the one before it waits for them");
        assert_eq!(done(3), 20, "its own are free");
        assert_eq!(done(4), 157, "nobody without certain ones passes by");
    }

    #[test]
    fn servers_take_turns_like_contexts() {
        let mut schedule = Schedule::new();
        let mut marks = Vec::new();
        for (owner, server) in [(0, 1), (1, 1), (2, 5)] {
            let queue = schedule.open(owner, Some((server, 5_000))).expect("queue");
            marks.push((queue, schedule.submit(queue, SLICE * 2)));
        }
        let done = |index: usize| schedule.predict(marks[index].0, marks[index].1, Nanos::MAX);
        assert_eq!([done(0), done(1)], [3 * SLICE + 2 * SWITCH; 2]);
        assert_eq!(done(2), 4 * SLICE + 2 * SWITCH);
    }

    #[test]
    fn a_client_that_ends_makes_room_at_once() {
        let mut schedule = Schedule::new();
        let (one, two) =
            (schedule.open(0, Some((1, WHOLE))).expect("queue"), schedule.open(1, Some((1, WHOLE))).expect("queue"));
        schedule.submit(one, 1_000_000);
        let mark = schedule.submit(two, 10);
        schedule.advance(500, |_, _| {});
        schedule.close_all(0);
        assert_eq!(schedule.predict(two, mark, Nanos::MAX), 510);
    }

    proptest! {
        /// Clients of a server never use more than the whole device at once, each does all its work once, and nobody waits
        /// while nothing runs.
        #[test]
        fn a_group_never_uses_more_than_the_device(
            list in prop::collection::vec((0..3_000_000_u64, 0..4_usize, 1..9_000_000_u64), 1..150),
            widths in prop::collection::vec(1_000..=WHOLE, 4),
        ) {
            let mut schedule = Schedule::new();
            for (owner, width) in widths.iter().enumerate() {
                schedule.open(owner, Some((0, *width)));
            }
            let mut spans = Vec::new();
            let (mut now, mut given) = (0, [0; 4]);
            for (pause, queue, duration) in &list {
                now += pause;
                schedule.advance(now, |owner, span| spans.push((owner, span)));
                schedule.submit(*queue, *duration);
                given[*queue] += duration;
            }
            schedule.advance(Nanos::MAX / 2, |owner, span| spans.push((owner, span)));
            for (owner, all) in given.iter().enumerate() {
                let got: Nanos = spans.iter().filter(|(o, _)| *o == owner).map(|(_, span)| span.end - span.start).sum();
                prop_assert_eq!(got, *all);
            }
            for (_, at) in &spans {
                let together = spans.iter().filter(|(_, span)| span.start <= at.start && at.start < span.end);
                prop_assert!(together.map(|(owner, _)| widths[*owner]).sum::<u32>() <= WHOLE);
            }
        }
    }
}
