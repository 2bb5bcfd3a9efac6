//! A model GPU, processes and a daemon around the real gate and arbiter, under simulated time.
//!
//! The GPU runs each context's kernels in order, and those of one domain at the same time. Contexts that have work at the same time take turns of 2.5 ms; each
//! switch costs 80 to 120 µs, which is what the windows measured on an H100 lose. A launch costs the host 3 µs, a mark
//! is visible 5 µs after the GPU got there, a wake of the daemon is 50 to 100 µs late, a waiter sees a new grant after
//! 5 to 15 µs. Each kind of kernel is launched once to warm up, where it does little, and a process waits for its oldest
//! kernel when it has 8 ms of work under way. All of it follows from the seed.

use cleave_policy::arbiter::{Arbiter, Config, GLANCE, Observation, Tenant};
use cleave_policy::gate::{self, Cost, Grant, MARKS, Mode, Track, Verdict, admit};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;
const START: u64 = 1_000 * SEC;
const SLICE: u64 = 2_500 * US;
const LAUNCH: u64 = 3 * US;
const MARK: u64 = 5 * US;
/// A first launch of a kernel lasts so long, and a saturating process waits while more than so much
/// is under way in several kernels.
const WARM_UP: u64 = 2 * US;
const AHEAD: u64 = 8 * MS;
/// As the gate does, a launch is timed at least every so often, behind own work that lasts longer than a launch takes.
const TIMING: u64 = 10 * MS;
const PACE: u64 = 20 * US;
/// Deliveries are recorded with this resolution.
const TICK: u64 = 5 * MS;

/// Splitmix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

/// What a process does.
#[derive(Clone, Debug)]
pub enum Load {
    /// Sends kernels of these lengths at random, without ever waiting.
    Saturate(Vec<u64>),
    /// The same with one kernel whose length a parameter says: these in turn.
    Varies(Vec<u64>),
    /// Sends one kernel, waits for it, does something else for `gap`.
    Loop { kernel: u64, gap: u64 },
    /// Each `period` sends `count` kernels one after the other, waiting for each: a request.
    Serve { period: u64, count: u32, kernel: u64 },
    /// Saturates with a kernel that is never known, because each launch has another shape; long by its name or not.
    Fresh { kernel: u64, long: bool },
    /// Saturates for `on`, sleeps for `off`.
    Bursts { on: u64, off: u64, kernel: u64 },
}

struct Kernel {
    left: u64,
    started: Option<u64>,
    mark: Option<u32>,
    length: u64,
    kind: usize,
    /// When it was expected to begin, and until when the GPU was the slice's own then.
    timed: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Gpu(u64),
    Arrive(usize),
    Host(usize, u64),
    Daemon(u64),
    /// The daemon sees whether a turn is left unused, while nothing was decided since.
    Glance(u64),
    Tick,
}

pub struct Process {
    pub id: u32,
    pub load: Load,
    pub alive: bool,
    /// It saturates or serves only from here on.
    pub begins: u64,
    kinds: Vec<u64>,
    pub costs: Vec<Cost>,
    track: Track,
    words: [Option<u32>; MARKS],
    marks: VecDeque<(u64, u32)>,
    pub grant: Grant,
    claim: u64,
    class: u8,
    domain: Option<u32>,
    /// The host loop: its event's generation, what it waits for, where it is in its load.
    turn: u64,
    waiting: bool,
    syncing: bool,
    /// Something of unknown length was under way when it last looked.
    open: bool,
    /// Waits for its oldest kernel.
    full: bool,
    asked: u64,
    warm: usize,
    timed: u64,
    step: u32,
    request: u64,
    last_op: u64,
    incoming: VecDeque<Kernel>,
    queue: VecDeque<Kernel>,
    /// Device time delivered; the same at each tick; when each request began and how long it took.
    pub delivered: u64,
    pub history: Vec<u64>,
    pub requests: Vec<(u64, u64)>,
    /// The longest time a launch waited at the gate.
    pub longest_wait: u64,
    pub last_run: u64,
}

pub struct Sim {
    pub now: u64,
    pub arbiter: Arbiter,
    pub processes: Vec<Process>,
    pub decisions: u64,
    /// How often the GPU went from one context, or domain, to another.
    pub switches: u64,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    daemon: u64,
    daemon_at: Option<u64>,
    /// The GPU: the context that runs, since when (in the future: a switch is under way), the end of its turn.
    current: Option<usize>,
    since: u64,
    slice_end: u64,
    generation: u64,
}

impl Process {
    /// Kernels that are not done, and their lengths taken together.
    fn under_way(&self) -> (usize, u64) {
        let kernels = || self.queue.iter().chain(&self.incoming);
        (kernels().count(), kernels().map(|kernel| kernel.length).sum())
    }
}

impl Sim {
    pub fn new(seed: u64, config: Config) -> Sim {
        let mut sim = Sim {
            now: START,
            arbiter: Arbiter::new(config),
            processes: Vec::new(),
            decisions: 0,
            switches: 0,
            random: Random(seed),
            events: BinaryHeap::new(),
            order: 0,
            daemon: 0,
            daemon_at: None,
            current: None,
            since: START,
            slice_end: START,
            generation: 0,
        };
        sim.at(START + TICK, Event::Tick);
        sim
    }

    /// Adds a tenant with one process; it begins after `after`.
    pub fn add(&mut self, id: u32, tenant: Tenant, load: Load, after: u64) -> usize {
        self.arbiter.set(id, tenant);
        let kinds = match &load {
            Load::Saturate(kinds) | Load::Varies(kinds) => kinds.clone(),
            Load::Fresh { kernel, .. }
            | Load::Loop { kernel, .. }
            | Load::Serve { kernel, .. }
            | Load::Bursts { kernel, .. } => vec![*kernel],
        };
        let begins = self.now + after;
        self.processes.push(Process {
            id,
            load,
            alive: true,
            begins,
            costs: vec![Cost::default(); kinds.len()],
            kinds,
            track: Track::default(),
            words: [None; MARKS],
            marks: VecDeque::new(),
            grant: Grant::CLOSED,
            claim: 0,
            class: tenant.class,
            domain: tenant.domain.map(|domain| domain.id),
            turn: 0,
            waiting: false,
            syncing: false,
            open: false,
            full: false,
            asked: 0,
            warm: 0,
            timed: 0,
            step: 0,
            request: begins,
            last_op: 0,
            incoming: VecDeque::new(),
            queue: VecDeque::new(),
            delivered: 0,
            history: Vec::new(),
            requests: Vec::new(),
            longest_wait: 0,
            last_run: 0,
        });
        let at = self.processes.len() - 1;
        self.host(at, begins);
        self.ring();
        at
    }

    /// Changes what a tenant is entitled to.
    pub fn change(&mut self, id: u32, tenant: Tenant) {
        self.arbiter.set(id, tenant);
        for process in self.processes.iter_mut().filter(|process| process.id == id) {
            process.class = tenant.class;
        }
        self.ring();
    }

    /// The process is killed and its slice removed: what is queued on the GPU goes with it.
    pub fn kill(&mut self, at: usize) {
        self.settle();
        let process = &mut self.processes[at];
        process.alive = false;
        process.turn += 1;
        process.queue.clear();
        process.incoming.clear();
        self.arbiter.remove(process.id);
        self.schedule();
        self.ring();
    }

    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(&Reverse((at, _, event))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            match event {
                Event::Gpu(generation) if generation == self.generation => {
                    self.settle();
                    self.schedule();
                }
                Event::Gpu(_) => {}
                Event::Arrive(at) => {
                    self.settle();
                    // While nobody else had work, the hardware gave the one that runs slice after slice.
                    let busy = |other: &usize| !self.processes[*other].queue.is_empty();
                    let first = (0..self.processes.len()).find(busy).unwrap_or(at);
                    let others = (0..self.processes.len()).filter(busy).any(|other| !self.together(first, other));
                    while !others && self.slice_end <= self.now {
                        self.slice_end += SLICE;
                    }
                    let process = &mut self.processes[at];
                    if let Some(kernel) = process.incoming.pop_front() {
                        process.queue.push_back(kernel);
                    }
                    self.schedule();
                }
                Event::Host(at, turn) if self.processes[at].alive && self.processes[at].turn == turn => self.step(at),
                Event::Host(..) => {}
                Event::Daemon(turn) if turn == self.daemon => self.decide(),
                Event::Daemon(_) => {}
                Event::Glance(decisions) if decisions == self.decisions => {
                    match self.arbiter.abandoned(self.now, &self.observations()) {
                        true => self.decide(),
                        false => self.at(self.now + GLANCE, event),
                    }
                }
                Event::Glance(_) => {}
                Event::Tick => {
                    self.settle();
                    self.schedule();
                    for process in &mut self.processes {
                        process.history.push(process.delivered);
                    }
                    self.at(self.now + TICK, Event::Tick);
                }
            }
        }
        self.now = end;
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((time, self.order, event)));
    }

    fn host(&mut self, at: usize, time: u64) {
        self.processes[at].turn += 1;
        let turn = self.processes[at].turn;
        self.at(time, Event::Host(at, turn));
    }

    // The GPU.

    /// Their kernels run at the same time.
    fn together(&self, one: usize, other: usize) -> bool {
        one == other || self.processes[one].domain.is_some_and(|id| self.processes[other].domain == Some(id))
    }

    /// Brings the GPU's state up to now.
    fn settle(&mut self) {
        let Some(current) = self.current else { return };
        if self.now <= self.since {
            return;
        }
        for at in 0..self.processes.len() {
            if self.together(current, at) {
                self.progress(at);
            }
        }
        self.since = self.now;
    }

    /// The front kernel of a process ran until now.
    fn progress(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let Some(kernel) = process.queue.front_mut() {
            let ran = (self.now - self.since).min(kernel.left);
            kernel.started.get_or_insert(self.since);
            kernel.left -= ran;
            process.delivered += ran;
            process.last_run = self.now;
            if kernel.left == 0 {
                let (mark, kind, timed, started) = (kernel.mark, kernel.kind, kernel.timed, kernel.started);
                process.queue.pop_front();
                if let Some(mark) = mark {
                    process.marks.push_back((self.now + MARK, mark));
                }
                if let Some((begins, own_until)) = timed {
                    let measured = self.now - started.unwrap_or(self.now);
                    let own_until = if own_until == u64::MAX { process.grant.own_until(begins) } else { own_until };
                    process.costs[kind].update(measured, own_until.saturating_sub(begins));
                }
                let (left, under_way) = process.under_way();
                if (process.full && (left <= 1 || under_way <= AHEAD)) || (process.syncing && left == 0) {
                    self.host(at, self.now + MARK);
                }
            }
        }
    }

    /// Chooses who runs, and when to look again.
    fn schedule(&mut self) {
        let count = self.processes.len();
        let has = |at: usize| !self.processes[at].queue.is_empty();
        let from = self.current.unwrap_or(0);
        let runs = |at: usize| self.current.is_some_and(|current| self.together(current, at));
        let other = (1..=count).map(|by| (from + by) % count).find(|&at| !runs(at) && has(at));
        let stays = (0..count).any(|at| runs(at) && has(at));
        if let Some(other) = other
            && (!stays || (self.now >= self.slice_end && self.now >= self.since))
            && self.now >= self.since
        {
            self.current = Some(other);
            self.switches += 1;
            self.since = self.now + self.random.within(80 * US, 120 * US);
            self.slice_end = self.since + SLICE;
        }
        self.generation += 1;
        let Some(current) = self.current else { return };
        let front = |at: usize| self.processes[at].queue.front().map(|kernel| kernel.left);
        let fronts = (0..count).filter(|&at| self.together(current, at)).filter_map(front);
        let Some(left) = fronts.min() else {
            if self.now < self.since {
                self.at(self.since, Event::Gpu(self.generation));
            }
            return;
        };
        let mut next = self.since.max(self.now) + left;
        if other.is_some() {
            next = next.min(self.slice_end.max(self.now + 1));
        }
        self.at(next, Event::Gpu(self.generation));
    }

    // The host.

    /// One step of a process: the next launch, or the end of a wait.
    fn step(&mut self, at: usize) {
        let (now, class) = (self.now, self.processes[at].class);
        let urgent = self.processes.iter().filter(|other| other.class > class).map(|other| other.claim).max();
        let process = &mut self.processes[at];
        while process.marks.front().is_some_and(|&(visible, _)| visible <= now) {
            if let Some((_, mark)) = process.marks.pop_front() {
                process.words[mark as usize % MARKS] = Some(mark);
            }
        }
        let words = process.words;
        if std::mem::take(&mut process.full) {
            process.track.waited(now, |mark| words[mark as usize % MARKS] == Some(mark));
        } else {
            process.track.poll(now, |mark| words[mark as usize % MARKS] == Some(mark));
        }
        if process.syncing {
            process.syncing = false;
            if process.grant.flags & gate::URGENT != 0 {
                process.claim = process.track.claim(now);
            }
            let next = match process.load {
                Load::Loop { gap, .. } => now + gap,
                Load::Serve { period, count, .. } if process.step >= count => {
                    process.requests.push((process.request, now - process.request));
                    process.step = 0;
                    process.request = (process.request + period).max(now);
                    process.request
                }
                _ => now + 2 * US,
            };
            if next > now {
                return self.host(at, next);
            }
        }
        let mut kind = 0;
        match process.load {
            Load::Saturate(ref kinds) if kinds.len() > 1 => {
                kind = Random(process.id as u64 ^ (u64::from(process.step) << 20)).next() as usize % kinds.len();
            }
            Load::Varies(ref lengths) => kind = process.step as usize % lengths.len(),
            Load::Bursts { on, off, .. } => {
                let phase = (now - process.begins) % (on + off);
                if phase >= on && process.asked == 0 {
                    return self.host(at, now - phase + on + off);
                }
            }
            _ => {}
        }
        let warms = process.warm < process.kinds.len();
        if warms {
            kind = process.warm;
        }
        let length = if warms { WARM_UP } else { process.kinds[kind] };
        if matches!(process.load, Load::Varies(_)) {
            kind = 0;
        }
        if process.asked == 0 {
            process.asked = now;
        }
        let long = matches!(process.load, Load::Fresh { long: true, .. });
        if matches!(process.load, Load::Fresh { .. }) {
            process.costs[kind] = Cost::default();
        }
        let cost = process.costs[kind].estimate(process.grant.unknown_cost(long));
        match admit(now, &process.grant, process.track.busy_until(), cost, urgent.unwrap_or(0)) {
            Verdict::WaitUntil(time) => {
                let time = process.track.again(now, time, &process.grant);
                process.waiting = true;
                self.host(at, time.max(now + 100));
            }
            Verdict::WaitForChange => {
                process.waiting = true;
                process.turn += 1;
                // Looked for while it is under way, and told once.
                let open = process.track.open();
                if std::mem::replace(&mut process.open, open) && !open {
                    return self.ring();
                }
                if open {
                    let late = self.random.within(60 * US, 110 * US);
                    self.host(at, now + late);
                }
                let process = &self.processes[at];
                if process.grant.mode != Mode::Paused && process.grant.flags & gate::QUIET == 0 {
                    let id = process.id;
                    self.arbiter.rang(id);
                    self.ring();
                }
            }
            Verdict::Go => {
                process.waiting = false;
                process.longest_wait = process.longest_wait.max(now - std::mem::take(&mut process.asked));
                process.last_op = if process.costs[kind].unknown() { 0 } else { cost };
                let pace = PACE.min(u64::from(process.grant.ahead) / 2);
                let queued = process.track.busy_until() > now + pace;
                let samples = process.costs[kind].launched() > 0 || queued && now > process.timed + TIMING;
                if samples {
                    process.timed = now;
                }
                let back = gate::comes_back(now, &process.grant, process.track.last_launch());
                process.track.sent(now, cost, &process.grant);
                if process.costs[kind].unknown() {
                    process.track.guessed(&process.grant);
                }
                if process.costs[kind].varies() {
                    process.track.doubt();
                    process.open = true;
                }
                let begins = process.track.busy_until() - cost;
                let timed = samples.then(|| (begins, process.grant.own_until(begins)));
                let mut syncs = matches!(process.load, Load::Loop { .. } | Load::Serve { .. });
                if warms {
                    process.warm += 1;
                    syncs = true;
                } else {
                    process.step += 1;
                }
                let (left, under_way) = process.under_way();
                process.full = left > 0 && under_way + length > AHEAD;
                let waits = syncs || process.full;
                let mark = (process.track.mark_due() || (waits && process.track.room())).then(|| process.track.mark());
                process.incoming.push_back(Kernel { left: length, started: None, mark, length, kind, timed });
                if process.grant.flags & gate::URGENT != 0 {
                    process.claim = process.track.claim(now);
                }
                process.syncing = syncs;
                self.at(now + LAUNCH, Event::Arrive(at));
                if !waits {
                    self.host(at, now + LAUNCH);
                }
                if back {
                    self.ring();
                }
            }
        }
    }

    // The daemon.

    /// Somebody rings the daemon; it comes 50 to 100 µs later, unless it comes sooner anyway.
    pub fn ring(&mut self) {
        let late = self.random.within(50 * US, 100 * US);
        self.wake(self.now + late);
    }

    fn wake(&mut self, time: u64) {
        if self.daemon_at.is_none_or(|at| time < at) {
            self.daemon += 1;
            self.daemon_at = Some(time);
            self.at(time, Event::Daemon(self.daemon));
        }
    }

    fn observations(&self) -> Vec<Observation> {
        let now = self.now;
        (self.processes.iter())
            .filter(|process| process.alive)
            .map(|process| {
                let track = &process.track;
                Observation {
                    tenant: process.id,
                    device_ns: gate::done(track.charged(), track.busy_until(), now),
                    waiting: process.waiting,
                    busy_until: track.busy_until(),
                    due: if process.full || process.syncing { track.busy_until().clamp(1, now) } else { 0 },
                    last_launch: track.last_launch(),
                    op_ns: process.last_op,
                    open: track.open() && (process.waiting || process.full || process.syncing),
                }
            })
            .collect()
    }

    fn decide(&mut self) {
        let now = self.now;
        self.daemon_at = None;
        self.decisions += 1;
        self.arbiter.observe(now, &self.observations());
        let decision = self.arbiter.decide(now);
        assert!(decision.next_wake.is_none_or(|wake| wake > now), "a wake lies in the future");
        for (id, grant) in decision.grants {
            let grant = Grant::from_words(grant.to_words());
            for at in 0..self.processes.len() {
                let process = &mut self.processes[at];
                if process.id == id && process.alive && process.grant != grant {
                    process.grant = grant;
                    if process.waiting {
                        let late = self.random.within(5 * US, 15 * US);
                        self.host(at, now + late);
                    }
                }
            }
        }
        if let Some(wake) = decision.next_wake {
            let late = self.random.within(50 * US, 100 * US);
            self.wake(wake + late);
        }
        if decision.contended {
            self.at(now + GLANCE, Event::Glance(self.decisions));
        }
    }

    // What came out.

    /// Device time of one process between two times since the start, as a part of that time.
    pub fn share(&self, at: usize, from: u64, to: u64) -> f64 {
        let history = &self.processes[at].history;
        let missing = self.processes[0].history.len() - history.len();
        let value = |time: u64| match (time / TICK) as usize {
            0 => 0,
            tick if tick <= missing => 0,
            tick => history[tick - 1 - missing],
        };
        (value(to) - value(from)) as f64 / (to - from) as f64
    }

    pub fn elapsed(&self) -> u64 {
        self.now - START
    }

    /// The `per_cent`-th percentile of the latencies of requests that began `after` the start, in ns.
    pub fn latency(&self, at: usize, per_cent: usize, after: u64) -> u64 {
        let requests = self.processes[at].requests.iter();
        let mut all: Vec<u64> = requests.filter(|r| r.0 >= START + after).map(|r| r.1).collect();
        all.sort_unstable();
        all[(all.len() - 1) * per_cent / 100]
    }
}
