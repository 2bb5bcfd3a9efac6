//! Whose memory leaves the GPUs, and who comes back next, where slices are promised more than the GPUs have.
//!
//! Who wants the GPU again comes back in the order of asking. If there is no room, those that agreed to it and have been idle for the
//! longest make some; who was at work a moment ago is left alone, or two would do nothing but change places. And who agreed to leave
//! after a time of idleness leaves then.
use alloc::vec;
use alloc::vec::Vec;

/// So long (ns) nobody is sent away after it was at work.
pub const CALM: u64 = 1_000_000_000;

/// Where a slice's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs in it.
    Empty,
    /// On its GPUs.
    Awake,
    /// In host memory.
    Asleep,
    /// On its way, in either direction.
    Moving,
}

/// A slice as it stands.
#[derive(Clone, Debug)]
pub struct Sleeper {
    /// Its quota on each of its GPUs, by the GPU's place, in bytes.
    pub memory: Vec<(usize, u64)>,
    /// Where its memory is.
    pub state: State,
    /// When it was at work last.
    pub worked: u64,
    /// After so much idleness it may be sent away; `None`: never.
    pub after: Option<u64>,
    /// Since when a program of it waits for the GPU.
    pub wants: Option<u64>,
}

impl Sleeper {
    fn on(&self, gpu: usize) -> u64 {
        self.memory.iter().filter(|(at, _)| *at == gpu).map(|(_, bytes)| bytes).sum()
    }

    fn idle(&self, now: u64) -> u64 {
        if self.wants.is_some() { 0 } else { now.saturating_sub(self.worked) }
    }
}

/// What is to be done about a slice, by its place among those that were asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its memory comes back.
    Wake(usize),
    /// Its memory leaves, because it was idle for so long as it agreed to.
    Rest(usize),
    /// Its memory leaves, to make room for another, or because the GPU is promised to more than it has (`None`).
    MakeRoom(usize, Option<usize>),
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At once.
    pub acts: Vec<Act>,
    /// Slices that want to come back, and for which nobody can make room yet.
    pub waiting: Vec<usize>,
}

/// What is on the GPUs, as a plan comes about.
struct Room<'a> {
    slices: &'a [Sleeper],
    whole: &'a [u64],
    /// Bytes that are promised to those on each GPU.
    taken: Vec<u64>,
    /// A move is under way there, or somebody waits for one.
    busy: Vec<bool>,
    /// Who is idle and may go, the longest idle first; and who goes.
    idle: Vec<usize>,
    gone: Vec<bool>,
    plan: Plan,
}

impl Room<'_> {
    /// What a slice has on each GPU that there is.
    fn of(&self, at: usize) -> impl Iterator<Item = (usize, u64)> {
        let count = self.whole.len();
        self.slices[at].memory.iter().copied().filter(move |(gpu, _)| *gpu < count)
    }

    /// None of its GPUs is busy.
    fn free(&self, at: usize) -> bool {
        self.of(at).all(|(gpu, _)| !self.busy[gpu])
    }

    fn occupy(&mut self, at: usize) {
        for (gpu, _) in self.of(at).collect::<Vec<_>>() {
            self.busy[gpu] = true;
        }
    }

    /// Who goes so that `need` more fits on those GPUs; `None` if that is not enough.
    fn victims(&self, need: &[(usize, u64)]) -> Option<Vec<usize>> {
        let mut left = self.taken.clone();
        let lacks = |left: &[u64], &(gpu, bytes): &(usize, u64)| left[gpu].saturating_add(bytes) > self.whole[gpu];
        let mut all = Vec::new();
        for &at in &self.idle {
            let helps = need.iter().any(|one| lacks(&left, one) && self.slices[at].on(one.0) > 0);
            if helps && self.free(at) && !self.gone[at] {
                for (gpu, bytes) in self.of(at) {
                    left[gpu] = left[gpu].saturating_sub(bytes);
                }
                all.push(at);
            }
        }
        (!need.iter().any(|one| lacks(&left, one))).then_some(all)
    }

    /// These go, for another one or for nobody.
    fn make_room(&mut self, victims: Vec<usize>, other: Option<usize>) {
        for victim in victims {
            self.gone[victim] = true;
            self.plan.acts.push(Act::MakeRoom(victim, other));
            self.occupy(victim);
        }
    }
}

/// Decides for GPUs with so much memory, in bytes. On each GPU one move is under way at a time.
pub fn decide(now: u64, slices: &[Sleeper], whole: &[u64]) -> Plan {
    let all = 0..slices.len();
    let may_go = |at: &usize| {
        let slice = &slices[*at];
        slice.state == State::Awake && slice.after.is_some() && slice.idle(now) >= CALM
    };
    let mut idle: Vec<usize> = all.clone().filter(may_go).collect();
    idle.sort_by_key(|&at| (slices[at].worked, at));
    let (taken, busy, gone) = (vec![0; whole.len()], vec![false; whole.len()], vec![false; slices.len()]);
    let mut room = Room { slices, whole, taken, busy, idle, gone, plan: Plan::default() };
    for at in all.clone().filter(|&at| matches!(slices[at].state, State::Awake | State::Moving)) {
        for (gpu, bytes) in room.of(at).collect::<Vec<_>>() {
            room.taken[gpu] = room.taken[gpu].saturating_add(bytes);
            room.busy[gpu] |= slices[at].state == State::Moving;
        }
    }

    let mut wanting: Vec<usize> =
        all.filter(|&at| slices[at].state == State::Asleep && slices[at].wants.is_some()).collect();
    wanting.sort_by_key(|&at| (slices[at].wants, at));
    for at in wanting {
        let need: Vec<(usize, u64)> = room.of(at).collect();
        if room.free(at) {
            match room.victims(&need) {
                None => room.plan.waiting.push(at),
                Some(none) if none.is_empty() => {
                    room.plan.acts.push(Act::Wake(at));
                    for (gpu, bytes) in need {
                        room.taken[gpu] = room.taken[gpu].saturating_add(bytes);
                    }
                }
                Some(some) => room.make_room(some, Some(at)),
            }
        }
        // Who asked later waits behind it.
        room.occupy(at);
    }
    // Programs that started meanwhile may have made it too many.
    for (gpu, &bytes) in whole.iter().enumerate() {
        if room.taken[gpu] > bytes && !room.busy[gpu] {
            let victims = room.victims(&[(gpu, 0)]).unwrap_or_default();
            room.make_room(victims, None);
        }
    }
    for at in room.idle.clone() {
        let slice = &slices[at];
        if !room.gone[at] && room.free(at) && slice.after.is_some_and(|after| slice.idle(now) >= after) {
            room.plan.acts.push(Act::Rest(at));
            room.occupy(at);
        }
    }
    room.plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const NOW: u64 = 100 * S;

    fn slice(state: State, bytes: u64, worked: u64, after: Option<u64>, wants: Option<u64>) -> Sleeper {
        Sleeper {
            memory: vec![(0, bytes)],
            state,
            worked: worked * S,
            after: after.map(|after| after * S),
            wants: wants.map(|at| at * S),
        }
    }

    #[test]
    fn who_agreed_to_it_leaves_and_comes_back() {
        use State::{Asleep, Awake, Empty, Moving};
        let awake = |worked, after| slice(Awake, 60, worked, after, None);
        let asleep = |wants| slice(Asleep, 60, 0, Some(10), wants);
        for (slices, acts, waiting) in [
            // Idle for as long as was said, or not yet, or never.
            (vec![awake(90, Some(10))], vec![Act::Rest(0)], vec![]),
            (vec![awake(91, Some(10))], vec![], vec![]),
            (vec![awake(0, None)], vec![], vec![]),
            (vec![slice(Awake, 60, 0, Some(10), Some(99))], vec![], vec![]),
            (vec![slice(Empty, 60, 0, Some(10), None)], vec![], vec![]),
            // There is room, there is some to be made, or nobody may be sent away.
            (vec![asleep(Some(99))], vec![Act::Wake(0)], vec![]),
            (vec![asleep(None)], vec![], vec![]),
            (vec![asleep(Some(99)), awake(98, Some(50))], vec![Act::MakeRoom(1, Some(0))], vec![]),
            (vec![asleep(Some(99)), awake(98, None)], vec![], vec![0]),
            // It was at work a moment ago.
            (vec![asleep(Some(99)), slice(Awake, 60, 100, Some(50), None)], vec![], vec![0]),
            // First come, first served; and one move at a time.
            (vec![asleep(Some(99)), asleep(Some(98))], vec![Act::Wake(1)], vec![]),
            (vec![asleep(Some(99)), slice(Moving, 60, 0, Some(10), None)], vec![], vec![]),
            // Two awake that don't fit: the longer idle one goes.
            (vec![awake(98, Some(50)), awake(97, Some(50))], vec![Act::MakeRoom(1, None)], vec![]),
            (vec![awake(98, None), awake(97, None)], vec![], vec![]),
        ] {
            let plan = decide(NOW, &slices, &[80]);
            assert_eq!(plan, Plan { acts, waiting }, "{slices:?}");
        }
    }

    /// Slices that work in turns, on a GPU that holds two of five: whatever comes, what is awake fits, nobody is sent away in the midst
    /// of its work, and everybody gets its turn.
    #[test]
    fn whatever_comes_it_fits_and_everybody_has_a_turn() {
        let mut random = 12345u64;
        let mut below = |end: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % end
        };
        for round in 0..50 {
            let count = 5;
            let mut slices: Vec<Sleeper> = (0..count)
                .map(|_| Sleeper {
                    memory: vec![(0, 30 + below(10))],
                    state: State::Asleep,
                    worked: 0,
                    after: Some((2 + below(20)) * S),
                    wants: None,
                })
                .collect();
            // Until when each is at work, and until when it moves and to what.
            let mut works = vec![0u64; count];
            let mut moves: Vec<Option<(u64, State)>> = vec![None; count];
            let mut turns = vec![0; count];
            let mut now = S;
            while now < 4000 * S {
                for at in 0..count {
                    if let Some((until, state)) = moves[at].filter(|(until, _)| *until <= now) {
                        (slices[at].state, moves[at]) = (state, None);
                        if state == State::Awake {
                            works[at] = until + below(5) * S;
                            slices[at].wants = None;
                            slices[at].worked = now;
                            turns[at] += 1;
                        }
                    }
                    match slices[at].state {
                        State::Awake if now < works[at] => slices[at].worked = now,
                        State::Awake if below(40) == 0 => (works[at], slices[at].worked) = (now + below(5) * S, now),
                        State::Asleep if slices[at].wants.is_none() && below(40) == 0 => slices[at].wants = Some(now),
                        _ => {}
                    }
                }
                let plan = decide(now, &slices, &[80]);
                for act in &plan.acts {
                    let (at, state) = match *act {
                        Act::Wake(at) => (at, State::Awake),
                        Act::Rest(at) | Act::MakeRoom(at, _) => (at, State::Asleep),
                    };
                    if state == State::Asleep {
                        assert!(
                            slices[at].state == State::Awake && works[at] <= now && now - slices[at].worked >= CALM
                        );
                    } else {
                        assert!(slices[at].state == State::Asleep && slices[at].wants.is_some());
                    }
                    slices[at].state = State::Moving;
                    moves[at] = Some((now + (1 + below(3)) * S / 2, state));
                }
                let there = slices.iter().filter(|s| matches!(s.state, State::Awake | State::Moving));
                assert!(there.map(|s| s.on(0)).sum::<u64>() <= 80, "{slices:?}");
                now += S / 4;
            }
            assert!(turns.iter().all(|turns| *turns > 20), "{round}: {turns:?}");
        }
    }
}
