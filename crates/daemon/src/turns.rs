//! Whose turn it is on a GPU: reads what the slices' processes do, lets the arbiter decide, publishes the grants.
//!
//! A thread for each GPU that has processes does so; it sleeps until the arbiter wants to look again, or until somebody
//! rings. While nobody contends it sleeps for good.
use crate::files::{SliceFiles, Work};
use cleave_ledger::{CLASSES, Turn};
use cleave_policy::account::{Account, Sum};
use cleave_policy::arbiter::{Arbiter, Config, GLANCE, Observation, Tenant, TenantId};
use cleave_policy::gate::{Grant, Mode, Part, QUIET, done};
use rustix::thread::futex;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who waits for a turn takes a daemon that did not look for longer than a few of these to be gone. In ns.
const BEAT: u64 = 50_000_000;
/// Between two looks, however much it rings: a tenant can't keep a core busy. In ns.
const PACE: u64 = 50_000;
/// What is shown is not older than this, in ns.
const FRESH: u64 = 10_000_000;
/// How long a slice without processes is remembered, and so what it used beyond its share. In ns.
const MEMORY: u64 = 60_000_000_000;
/// Work that is waited for although it should have been done so long ago is still there, and uses the GPU: its process,
/// which waits, can't say so. In ns.
const STUCK: u64 = 25_000_000;
/// What a process says of the future isn't believed beyond this, in ns.
pub const HORIZON: u64 = 10_000_000_000;

/// The clock of everything that has to do with turns: `CLOCK_MONOTONIC`, in ns.
pub fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A slice with processes on a GPU.
#[derive(Clone, Debug)]
pub struct Party {
    /// The slice's id.
    pub slice: String,
    /// Its files.
    pub files: Arc<SliceFiles>,
    /// Index of the GPU in the slice.
    pub device: usize,
    /// The slots of its processes, in ascending order.
    pub slots: Vec<usize>,
    /// What it is entitled to.
    pub tenant: Tenant,
}

/// How a slice stands at a desk.
#[derive(Clone, Debug)]
pub struct Standing {
    /// It has processes on the GPU.
    pub here: bool,
    /// What it is entitled to.
    pub tenant: Tenant,
    /// What its processes said at the last look.
    pub seen: Observation,
    /// What it was granted then.
    pub grant: Grant,
    /// What it was given over the last 10 ms, second and minute.
    pub last: [Sum; 3],
}

/// Shares out the time of one GPU.
#[derive(Debug)]
pub struct Desk {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    arbiter: Arbiter,
    /// In the order of their ids.
    seats: Vec<Seat>,
    next_id: TenantId,
    /// What the seats' processes said at the last look, in the seats' order.
    seen: Vec<Observation>,
    buffer: Vec<u8>,
    /// When it looked last.
    looked: u64,
    /// When to look again, and when to see in between whether who has the turn has work.
    wake: Option<u64>,
    glance: Option<u64>,
    rung: bool,
    /// Its thread is there.
    runs: bool,
    /// The daemon ends.
    left: bool,
}

#[derive(Debug)]
struct Seat {
    id: TenantId,
    party: Party,
    /// Device time of its processes that have ended.
    base: u64,
    /// Since when it has no processes.
    left: Option<u64>,
}

impl State {
    fn new(config: Config) -> Self {
        Self {
            arbiter: Arbiter::new(config),
            seats: Vec::new(),
            next_id: 0,
            seen: Vec::new(),
            buffer: Vec::new(),
            looked: 0,
            wake: None,
            glance: None,
            rung: false,
            runs: false,
            left: false,
        }
    }
}

/// Takes together what the processes of a slice said, as far as it can be true. `base` = device time of those that have ended.
fn observation(tenant: TenantId, base: u64, works: impl Iterator<Item = Work>, now: u64) -> Observation {
    let mut all = Observation { tenant, device_ns: base, ..Observation::default() };
    for work in works {
        let busy_until = work.busy_until.min(now + HORIZON);
        let last_launch = work.last_launch.min(now);
        let waits = work.syncing > 0 && work.overdue > 0;
        let stuck = if waits { now.saturating_sub(work.overdue.saturating_add(STUCK)) } else { 0 };
        all.device_ns = all.device_ns.saturating_add(done(work.charged, busy_until, now)).saturating_add(stuck);
        all.waiting |= work.waiting > 0;
        all.open |= work.open > 0 && (work.waiting > 0 || work.syncing > 0);
        let due = if work.overdue > 0 { work.overdue.min(now) } else { now };
        all.due = all.due.max(if work.syncing > 0 { due } else { 0 });
        all.busy_until = all.busy_until.max(busy_until);
        if last_launch >= all.last_launch {
            (all.last_launch, all.op_ns) = (last_launch, work.op_ns.min(HORIZON));
        }
    }
    all
}

impl Party {
    /// Tells the slice's processes.
    fn publish(&self, words: [u64; 3], now: u64) {
        let Some(turn) = self.turn() else { return };
        turn.looked.store(now, Relaxed);
        if turn.write(words, u32::from(self.tenant.class).min(CLASSES as u32 - 1)) {
            Self::wake(turn);
        }
    }

    fn wake(turn: &Turn) {
        // Not a private futex: it is waited for by other processes. The kernel takes the count as a signed number.
        let _ = futex::wake(&turn.version, futex::Flags::empty(), i32::MAX as u32);
    }

    /// Tells them what they have if nobody looks.
    fn provide(&self, part: Option<Part>) {
        if let Some(turn) = self.turn() {
            turn.alone.store(part.map_or(0, Part::to_word), Relaxed);
        }
    }

    /// Says that nobody looks after the slice's turns.
    fn leave(&self) {
        let Some(turn) = self.turn() else { return };
        turn.looked.store(0, Relaxed);
        Self::wake(turn);
    }

    fn turn(&self) -> Option<&Turn> {
        self.files.policy.turns.get(self.device)
    }
}

impl State {
    /// Takes in who is there, in whatever order. Who is not named has no processes; `known` says whether that slice is there still.
    fn arrange(&mut self, mut parties: Vec<Party>, known: impl Fn(&str) -> bool, now: u64) {
        for seat in &mut self.seats {
            let here = parties.iter().position(|party| party.slice == seat.party.slice);
            let slots = here.map_or(&[][..], |at| &parties[at].slots);
            let gone: Vec<usize> = seat.party.slots.iter().copied().filter(|slot| !slots.contains(slot)).collect();
            let works = seat.party.files.work(seat.party.device, &gone, &mut self.buffer);
            seat.base = observation(seat.id, seat.base, works, now).device_ns;
            match here {
                Some(at) => {
                    seat.party = parties.swap_remove(at);
                    seat.left = None;
                    self.arbiter.set(seat.id, seat.party.tenant);
                }
                None => {
                    seat.party.slots.clear();
                    seat.left.get_or_insert(now);
                }
            }
        }
        for party in parties {
            self.next_id += 1;
            self.arbiter.set(self.next_id, party.tenant);
            self.seats.push(Seat { id: self.next_id, party, base: 0, left: None });
        }
        let (arbiter, memory) = (&mut self.arbiter, now.saturating_sub(MEMORY));
        self.seats.retain(|seat| {
            let stays = seat.left.is_none_or(|left| left >= memory) && known(&seat.party.slice);
            if !stays {
                arbiter.remove(seat.id);
            }
            stays
        });
        let here: Vec<&Seat> = self.seats.iter().filter(|seat| seat.left.is_none()).collect();
        let ids: Vec<TenantId> = here.iter().map(|seat| seat.id).collect();
        for (seat, part) in here.into_iter().zip(self.arbiter.parts(&ids)) {
            seat.party.provide(part);
        }
    }

    fn ring(&mut self, slice: &str) {
        if let Some(seat) = self.seats.iter().find(|seat| seat.party.slice == slice) {
            self.arbiter.rang(seat.id);
        }
        self.rung = true;
    }

    /// Looks, decides and publishes.
    fn look(&mut self, now: u64) {
        self.observe(now);
        self.arbiter.observe(now, &self.seen);
        let mut decision = self.arbiter.decide(now);
        // Who loses its turn hears of it before the next one gets it: its grant is none, or began earlier.
        decision.grants.sort_by_key(|(_, grant)| grant.from);
        let mut watched = self.seen.iter().any(|seen| seen.waiting);
        for (id, grant) in decision.grants {
            let Ok(at) = self.seats.binary_search_by_key(&id, |seat| seat.id) else { continue };
            let Some(seat) = self.seats.get(at) else { continue };
            seat.party.publish(grant.to_words(), now);
            // These begin to wait without ringing.
            watched |= seat.left.is_none() && (grant.mode == Mode::Paused || grant.flags & QUIET != 0);
        }
        (self.looked, self.rung) = (now, false);
        self.wake = decision.next_wake.into_iter().chain(watched.then_some(now + BEAT)).min();
        self.glance = decision.contended.then_some(now + GLANCE);
    }

    /// Looks if it is time to, or if somebody keeps a turn for nothing.
    fn step(&mut self, now: u64) {
        if self.due().is_none_or(|due| due > now) {
            self.observe(now);
            if !self.arbiter.abandoned(now, &self.seen) {
                self.glance = Some(now + GLANCE);
                return;
            }
        }
        self.look(now);
    }

    /// Reads what the processes do.
    fn observe(&mut self, now: u64) {
        self.seen.clear();
        for seat in &self.seats {
            let works = seat.party.files.work(seat.party.device, &seat.party.slots, &mut self.buffer);
            self.seen.push(observation(seat.id, seat.base, works, now));
        }
    }

    fn standings(&self, now: u64) -> HashMap<String, Standing> {
        let standing = |(seat, seen): (&Seat, &Observation)| {
            let last = |account: &Account| [account.last_10ms(now), account.last_second(now), account.last_minute(now)];
            let words = seat.party.turn().and_then(Turn::read).unwrap_or_default().0;
            let standing = Standing {
                here: seat.left.is_none(),
                tenant: seat.party.tenant,
                seen: *seen,
                grant: Grant::from_words(words),
                last: self.arbiter.account(seat.id).map(last).unwrap_or_default(),
            };
            (seat.party.slice.clone(), standing)
        };
        self.seats.iter().zip(&self.seen).map(standing).collect()
    }

    /// When to do something next; `None`: when somebody rings.
    fn next(&self) -> Option<u64> {
        self.due().into_iter().chain(self.glance).min()
    }

    /// When to look next.
    fn due(&self) -> Option<u64> {
        if self.rung { Some(self.looked + PACE) } else { self.wake.map(|wake| wake.max(self.looked + PACE)) }
    }
}

impl Desk {
    /// A desk without slices; `window_ms`: how long windows are, if that is set.
    pub fn new(window_ms: Option<u64>) -> Self {
        let config = window_ms.map_or_else(Config::default, |ms| Config::windows(ms.saturating_mul(1_000_000)));
        Self { state: Mutex::new(State::new(config)), bell: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in which slices have processes now, and what they are entitled to; all others have none. `known` says whether
    /// a slice is there still. When this returns, the grants that follow from it are published.
    pub fn arrange(self: &Arc<Self>, parties: Vec<Party>, known: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        if state.left {
            return;
        }
        let now = clock();
        state.arrange(parties, known, now);
        state.look(now);
        if state.runs || state.seats.iter().all(|seat| seat.left.is_some()) {
            self.bell.notify_one();
            return;
        }
        let desk = Arc::clone(self);
        match std::thread::Builder::new().name("cleave-turns".into()).spawn(move || desk.run()) {
            Ok(_) => state.runs = true,
            // Gates open by themselves where nobody looks.
            Err(error) => tracing::error!("a GPU's time can't be shared out: no thread: {error}"),
        }
    }

    /// How each slice stands that has processes, or had some a while ago; as of the last few milliseconds.
    pub fn standings(&self) -> HashMap<String, Standing> {
        let mut state = self.lock();
        let now = clock();
        // While nobody contends nobody looks, and nothing is counted.
        if state.runs && now >= state.looked + FRESH {
            state.look(now);
            self.bell.notify_one();
        }
        state.standings(now)
    }

    /// A process of the slice with this id waits for a turn.
    pub fn ring(&self, slice: &str) {
        self.lock().ring(slice);
        self.bell.notify_one();
    }

    /// The daemon ends: until another one is there each slice has its part, and who was paused waits.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        for seat in state.seats.drain(..) {
            seat.party.leave();
        }
        // Its thread ends.
        drop(state);
        self.bell.notify_one();
    }

    /// Shares the GPU's time out as long as some slice has processes on it.
    fn run(&self) {
        let mut state = self.lock();
        while state.seats.iter().any(|seat| seat.left.is_none()) {
            let now = clock();
            let next = state.next();
            if next.is_some_and(|next| next <= now) {
                state.step(now);
                continue;
            }
            state = match next {
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let waited = self.bell.wait_timeout(state, Duration::from_nanos(next - now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.runs = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RunDir;
    use crate::slice::{Record, RecordDevice};
    use cleave_ledger::{Activity, Slot};
    use cleave_policy::arbiter::Isolation;
    use cleave_policy::gate::Grant;
    use std::fs::File;
    use std::mem::offset_of;
    use std::os::unix::fs::FileExt;

    const MS: u64 = 1_000_000;
    const START: u64 = 1000 * MS;

    /// A desk with a clock of its own, and slices with files.
    struct World {
        dir: tempfile::TempDir,
        state: State,
        parties: Vec<Party>,
    }

    impl World {
        /// Slices with these shares in percent, and as many processes each.
        fn new(shares: &[u16], processes: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let run = RunDir::open(dir.path()).unwrap();
            let party = |(index, percent): (usize, &u16)| {
                let device = RecordDevice { limit_bytes: 1 << 30, ..RecordDevice::default() };
                let record = Record { id: format!("SLICE-{index}"), devices: vec![device], ..Record::default() };
                let files = SliceFiles::create(&run, &record, &[]).unwrap();
                let slots: Vec<usize> = (0..processes).collect();
                slots.iter().for_each(|slot| files.make_room(*slot).unwrap());
                let isolation = Isolation::Balanced;
                let tenant = Tenant { share: percent * 10, isolation, class: 1, burst: 0, paused: false, domain: None };
                Party { slice: record.id, files: Arc::new(files), device: 0, slots, tenant }
            };
            let parties = shares.iter().enumerate().map(party).collect();
            let mut world = Self { dir, state: State::new(Config::default()), parties };
            world.arrange(START);
            world
        }

        fn arrange(&mut self, now: u64) {
            self.state.arrange(self.parties.clone(), |_| true, now);
        }

        /// What a process says.
        fn say(&self, slice: usize, slot: usize, work: Work) {
            let path = self.dir.path().join("slices").join(format!("SLICE-{slice}")).join("usage");
            let file = File::options().write(true).open(path).unwrap();
            let at = (slot * size_of::<Slot>() + offset_of!(Slot, activity)) as u64;
            for (offset, value) in [
                (offset_of!(Activity, charged), work.charged),
                (offset_of!(Activity, busy_until), work.busy_until),
                (offset_of!(Activity, last_launch), work.last_launch),
                (offset_of!(Activity, op_ns), work.op_ns),
                (offset_of!(Activity, waiting), work.waiting),
                (offset_of!(Activity, syncing), work.syncing),
                (offset_of!(Activity, overdue), work.overdue),
                (offset_of!(Activity, open), work.open),
            ] {
                file.write_all_at(&value.to_ne_bytes(), at + offset as u64).unwrap();
            }
        }

        fn grant(&self, slice: usize) -> Grant {
            let turn = &self.parties[slice].files.policy.turns[0];
            let (words, class) = turn.read().unwrap();
            assert_eq!(class, 1);
            Grant::from_words(words)
        }
    }

    #[test]
    fn what_is_said_is_taken_together_and_not_believed_beyond_reason() {
        let now = 50 * MS;
        let one = Work {
            charged: 30 * MS,
            busy_until: now + 2 * MS,
            last_launch: now - 5,
            op_ns: 7,
            open: 1,
            ..Work::default()
        };
        let two = Work { charged: 9 * MS, busy_until: now - MS, last_launch: now - 1, op_ns: 8, waiting: 2, ..one };
        let all = observation(3, MS, [one, two].into_iter(), now);
        let wanted = Observation {
            tenant: 3,
            device_ns: (1 + 28 + 9) * MS,
            waiting: true,
            busy_until: now + 2 * MS,
            due: 0,
            last_launch: now - 1,
            op_ns: 8,
            open: true,
        };
        assert_eq!(all, wanted);
        assert!(!observation(3, MS, [one].into_iter(), now).open, "nobody waits who would tell");
        // The latest of what is waited for.
        let due = |overdue| Work { syncing: 1, overdue, ..one };
        for (works, wanted) in
            [(vec![due(3 * MS), due(4 * MS)], 4 * MS), (vec![due(3 * MS), due(0)], now), (vec![due(now + 1)], now)]
        {
            assert_eq!(observation(3, MS, works.into_iter(), now).due, wanted);
        }
        let most = u64::MAX;
        let wild = Work { charged: most, busy_until: most, last_launch: most, op_ns: most, waiting: most, ..one };
        let all = observation(3, MS, [wild, wild].into_iter(), now);
        assert_eq!((all.device_ns, all.busy_until, all.last_launch), (most, now + HORIZON, now));
        assert_eq!(all.op_ns, HORIZON);
        // And the arbiter lives with that.
        let mut world = World::new(&[50, 50], 1);
        for at in 0..2 {
            world.say(at, 0, wild);
        }
        for step in 0..1000 {
            world.state.look(START + step * MS);
        }
    }

    #[test]
    fn nobody_looks_while_nobody_contends() {
        let mut world = World::new(&[50, 50], 1);
        world.state.look(START);
        assert_eq!((world.state.next(), world.grant(0).mode), (None, Mode::Closed));
        // One alone is given a lease, for good.
        let now = START + MS;
        world.say(0, 0, Work { busy_until: now + MS, last_launch: now, ..Work::default() });
        world.state.look(now);
        assert_eq!((world.state.next(), world.grant(0).mode), (None, Mode::Lease));
        // A ring is heard, but not more often than that.
        world.state.rung = true;
        assert_eq!(world.state.next(), Some(now + PACE));
        // Two contend: it looks by itself, and at least every 50 ms.
        let now = now + MS;
        for at in 0..2 {
            world.say(at, 0, Work { busy_until: now + MS, last_launch: now, waiting: 1, ..Work::default() });
        }
        world.state.look(now);
        let next = world.state.next().unwrap();
        assert!(next > now && next <= now + BEAT);
        assert_eq!(world.parties[1].files.policy.turns[0].looked.load(Relaxed), now);
        assert!([0, 1].iter().any(|at| world.grant(*at).mode == Mode::Window));
    }

    #[test]
    fn device_time_does_not_go_back_when_processes_end() {
        let mut world = World::new(&[100], 3);
        let now = START + MS;
        for slot in 0..3 {
            world.say(0, slot, Work { charged: 5 * MS, busy_until: now + MS, last_launch: now, ..Work::default() });
        }
        let total = |world: &mut World, now: u64| {
            world.state.look(now);
            world.state.seen[0].device_ns
        };
        assert_eq!(total(&mut world, now), 12 * MS);
        // Two end: what they had sent was not done to its end. Their slots are cleared, and one is given out again.
        world.parties[0].slots = vec![1];
        world.arrange(now);
        for slot in [0, 2] {
            world.say(0, slot, Work::default());
        }
        assert_eq!(total(&mut world, now), 12 * MS);
        world.parties[0].slots = vec![0, 1];
        world.arrange(now);
        assert_eq!(total(&mut world, now + MS), 13 * MS);
        // All end: it is remembered for a while.
        let party = world.parties.remove(0);
        world.arrange(now + MS);
        assert_eq!(total(&mut world, now + 2 * MS), 13 * MS);
        world.parties = vec![Party { slots: vec![7], ..party }];
        world.arrange(now + 3 * MS);
        assert_eq!(total(&mut world, now + 3 * MS), 13 * MS);
        world.parties.clear();
        world.arrange(now + 4 * MS);
        world.arrange(now + 5 * MS + MEMORY);
        assert!(world.state.seats.is_empty());
    }

    #[test]
    fn a_standing_tells_what_was_given_of_what_was_owed() {
        let mut world = World::new(&[25, 75], 1);
        for step in 0..=200 {
            let now = START + step * 10 * MS;
            let busy_until = now + MS;
            // Both always have work; each uses half of the time.
            for at in 0..2 {
                let charged = step * 5 * MS + MS;
                world.say(at, 0, Work { charged, busy_until, last_launch: now, ..Work::default() });
            }
            world.state.look(now);
        }
        let now = START + 2000 * MS;
        let standings = world.state.standings(now);
        let [ten, second, _] = standings["SLICE-0"].last;
        assert_eq!((ten.given, ten.owed), (5 * MS, 10 * MS / 4));
        assert_eq!((second.given, second.owed), (500 * MS, 250 * MS));
        assert_eq!(standings["SLICE-1"].last[1].owed, 750 * MS);
        assert_eq!(standings["SLICE-1"].tenant.share, 750);
        assert_eq!(standings["SLICE-1"].seen.busy_until, now + MS);
    }

    #[test]
    fn nobody_keeps_the_gpu_by_waiting_in_its_own_turn() {
        for late in [0, 100_000, 300_000] {
            let mut world = World::new(&[30, 70], 1);
            for at in 0..2 {
                world.say(at, 0, Work { waiting: 1, ..Work::default() });
            }
            let mut now = START + MS;
            world.state.rung = true;
            let mut turns = [0; 2];
            let mut began = [0; 2];
            while now < START + 2000 * MS {
                world.state.step(now);
                for at in 0..2 {
                    let grant = world.grant(at);
                    if grant.mode == Mode::Window && grant.from != began[at] {
                        (began[at], turns[at]) = (grant.from, turns[at] + 1);
                    }
                    // It sends something that is done at once.
                    if grant.mode == Mode::Window && (grant.from..grant.until).contains(&now) {
                        world.say(at, 0, Work { busy_until: now, last_launch: now, waiting: 1, ..Work::default() });
                    } else if grant.mode == Mode::Closed && grant.flags & QUIET == 0 {
                        world.state.ring(["SLICE-0", "SLICE-1"][at]);
                    }
                }
                now = world.state.next().unwrap() + late;
            }
            assert!(turns.iter().all(|turns| *turns > 20), "{turns:?} with wakes late by {late} ns");
        }
    }

    /// A process that was stopped, or killed and is not yet buried, says for ever that it waits; once it goes on it has its turns again.
    #[test]
    fn who_does_nothing_in_its_turns_gets_few_and_short_ones() {
        let mut world = World::new(&[50, 50], 1);
        let (stops, goes, ends) = (START + 500 * MS, START + 1100 * MS, START + 2100 * MS);
        let (mut now, mut charged, mut sent, mut had) = (START + MS, [0; 2], [0; 2], [[0; 2]; 3]);
        for at in 0..2 {
            world.say(at, 0, Work { waiting: 1, ..Work::default() });
        }
        world.state.look(START);
        while now < ends {
            let next = now + MS / 10;
            for at in 0..2 {
                let grant = world.grant(at);
                let turn = match grant.mode {
                    Mode::Window => grant.from <= now && now < grant.until,
                    mode => mode == Mode::Lease,
                };
                had[usize::from(now >= stops) + usize::from(now >= goes)][at] += usize::from(turn);
                if at == 0 && (stops..goes).contains(&now) {
                    continue;
                }
                if turn {
                    (charged[at], sent[at]) = (charged[at] + MS / 10, now);
                } else if grant.flags & QUIET == 0 {
                    world.state.ring(["SLICE-0", "SLICE-1"][at]);
                }
                let (charged, last_launch, busy_until) = (charged[at], sent[at], sent[at] + MS / 10);
                world.say(at, 0, Work { charged, last_launch, busy_until, waiting: 1, ..Work::default() });
            }
            if world.state.next().is_some_and(|wake| wake <= now) {
                world.state.step(now);
            }
            now = next;
        }
        for (had, stopped) in had.into_iter().zip([false, true, false]) {
            let part = had[0] * 100 / had.iter().sum::<usize>();
            assert!(if stopped { part < 10 } else { part > 40 }, "{had:?} while it was stopped: {stopped}");
        }
    }

    #[test]
    fn who_leaves_in_its_turn_is_soon_noticed() {
        let mut world = World::new(&[50, 50], 1);
        // When the first one's last work was done; until then it always has some.
        let leaves = START + 1000 * MS;
        let (mut now, mut looks) = (START + MS, 0);
        world.state.rung = true;
        let reached = loop {
            let works = now < leaves;
            assert!(now < leaves + 100 * MS);
            let charged = (now - START) / 2;
            for at in 0..=1 {
                let busy = Work { charged, busy_until: now + MS, last_launch: now, waiting: 1, ..Work::default() };
                let left = Work { charged: 500 * MS, busy_until: leaves, last_launch: leaves, ..Work::default() };
                world.say(at, 0, if at == 1 || works { busy } else { left });
            }
            let before = world.state.looked;
            world.state.step(now);
            looks += usize::from(world.state.looked > before);
            let grant = world.grant(1);
            if !works && matches!(grant.mode, Mode::Window | Mode::Lease) && grant.from <= now {
                break now - leaves;
            }
            now = world.state.next().unwrap().max(now + 1);
        };
        assert!(reached < 7 * MS, "{reached}");
        assert!(looks < 200, "{looks}: it doesn't look more often for that");
    }

    /// The GPU's hardware gives a kernel that never ends its part beside whoever runs: more turns for its slice would only
    /// keep the others out.
    #[test]
    fn a_kernel_that_never_ends_gets_no_turns() {
        // What is not known to be short is waited for a little longer.
        for (op_ns, most) in [(MS / 5, 4), (0, 8)] {
            let mut world = World::new(&[50, 50], 1);
            let mut turns = [0; 2];
            for step in 0..400 {
                let now = START + step * 5 * MS;
                let (charged, overdue) = (MS, START + MS);
                let hung = Work { charged, busy_until: overdue, overdue, syncing: 1, op_ns, ..Work::default() };
                world.say(0, 0, hung);
                let charged = step * 5 * MS / 2;
                world.say(
                    1,
                    0,
                    Work { charged, busy_until: now + MS, last_launch: now, waiting: 1, ..Work::default() },
                );
                world.state.look(now);
                for (at, turns) in turns.iter_mut().enumerate() {
                    let grant = world.grant(at);
                    *turns += usize::from(matches!(grant.mode, Mode::Window | Mode::Lease) && grant.from <= now);
                }
            }
            assert!(turns[0] < most && turns[1] > 380, "{turns:?}");
        }
    }

    #[test]
    fn a_slice_that_is_gone_is_forgotten() {
        let mut world = World::new(&[50, 50], 1);
        world.state.arrange(world.parties.split_off(1), |slice| slice == "SLICE-1", START);
        assert_eq!(world.state.seats.len(), 1);
        world.state.look(START + MS);
    }

    #[test]
    fn a_file_that_was_cut_is_no_work() {
        let mut world = World::new(&[50, 50], 2);
        let path = world.dir.path().join("slices/SLICE-0/usage");
        world.say(0, 1, Work { charged: MS, waiting: 1, ..Work::default() });
        File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        world.state.look(START + MS);
        assert_eq!(world.state.seen[0], Observation { tenant: 1, ..Observation::default() });
    }
}
