//! The watchdog: what is done about a process whose work on a GPU does not end, and about one that asks for memory
//! again and again.
//!
//! A process publishes since when its work should have been done ([`Seen`]). [`overrun`] tells how far over that it is,
//! and each process has a [`Watch`], which compares that with its slice's [`Rules`].

/// What is done, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is written down.
    Warn,
    /// The slice goes to the lowest class until the work ends.
    Lower,
    /// The slice is paused until an operator resumes it.
    Pause,
    /// The process is killed.
    Kill,
}

impl Action {
    /// Every action, the mildest first.
    pub const ALL: [Action; 4] = [Action::Warn, Action::Lower, Action::Pause, Action::Kill];
}

/// How far over its expected time work may be before each action is taken, in ns; `None` = it is never taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// In the order of [`Action::ALL`].
    pub after: [Option<u64>; 4],
}

/// What a process says of its work on a GPU. Times are `CLOCK_MONOTONIC`'s, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Since when it should have been done; 0 = nothing is late.
    pub overdue: u64,
    /// When something was sent last.
    pub last_launch: u64,
    /// A thread waits at the gate, or for the GPU.
    pub waits: bool,
}

/// What a process says is believed so long after it last sent something, in ns, if none of its threads waits: whoever
/// computes elsewhere does not look whether its work was done meanwhile.
const FRESH: u64 = 1_000_000_000;

/// How far over its expected time the work is, in ns; 0 = it isn't, or nobody knows.
pub const fn overrun(seen: &Seen, now: u64) -> u64 {
    let looks = seen.waits || now.saturating_sub(seen.last_launch) <= FRESH;
    if seen.overdue == 0 || !looks { 0 } else { now.saturating_sub(seen.overdue) }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// This, because the work is `over` ns over its expected time.
    Act(Action, u64),
    /// The work has ended after all; it was `over` ns over its expected time when that was last seen.
    Ended(u64),
}

/// What was done about a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    taken: Option<Action>,
    over: u64,
}

impl Watch {
    /// The hardest that was done about the work that is late now.
    pub const fn taken(&self) -> Option<Action> {
        self.taken
    }

    /// Looks at work that is `over` ns over its expected time. Each action is taken once, harder ones later; of several
    /// that are due at once only the hardest.
    pub fn look(&mut self, over: u64, rules: &Rules) -> Step {
        // Later work is late now: what was late before has ended.
        let before = core::mem::replace(&mut self.over, over);
        if over < before && self.taken.take().is_some() {
            return Step::Ended(before);
        }
        let due = |(action, after): (Action, Option<u64>)| after.is_some_and(|after| over >= after).then_some(action);
        let hardest = Action::ALL.into_iter().zip(rules.after).filter_map(due).max();
        match hardest.filter(|action| over > 0 && self.taken < Some(*action)) {
            Some(action) => {
                self.taken = Some(action);
                Step::Act(action, over)
            }
            None => Step::Rest,
        }
    }
}

/// So many refused allocations in a second are more than a program makes that gives way when it is refused...
const DENIALS: u64 = 100;
/// ...and so many such seconds in a row are a loop.
const SECONDS: u8 = 3;

/// Whether a process asks for memory again and again that it does not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    at: u64,
    total: u64,
    seconds: u8,
}

impl Denials {
    /// Takes in that `total` allocations were refused in all until `now` (ns). Gives the count of the last second once the
    /// process is seen to be in a loop; again only after it has left it.
    pub const fn look(&mut self, now: u64, total: u64) -> Option<u64> {
        const SECOND: u64 = 1_000_000_000;
        let past = now.saturating_sub(self.at);
        if past < SECOND {
            return None;
        }
        // The first look knows nothing of the time before.
        let count = if self.at == 0 { 0 } else { total.saturating_sub(self.total) };
        (self.at, self.total) = (now, total);
        if count / (past / SECOND) < DENIALS {
            self.seconds = 0;
            return None;
        }
        self.seconds = self.seconds.saturating_add(1);
        if self.seconds == SECONDS { Some(count) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const S: u64 = 1_000_000_000;
    const RULES: Rules = Rules { after: [Some(2 * S), Some(5 * S), Some(10 * S), Some(30 * S)] };

    #[test]
    fn each_action_is_taken_once_and_in_order() {
        let mut watch = Watch::default();
        let steps: Vec<(u64, Action)> = (0..400)
            .filter_map(|tenth| match watch.look(tenth * S / 10, &RULES) {
                Step::Act(action, over) => Some((over, action)),
                _ => None,
            })
            .collect();
        let expected = [(2, Action::Warn), (5, Action::Lower), (10, Action::Pause), (30, Action::Kill)];
        assert_eq!(steps, expected.map(|(seconds, action)| (seconds * S, action)));
        assert_eq!(watch.taken(), Some(Action::Kill));
    }

    #[test]
    fn who_looks_late_takes_the_hardest_only() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(31 * S, &RULES), Step::Act(Action::Kill, 31 * S));
        assert_eq!(watch.look(32 * S, &RULES), Step::Rest);
        let kill_only = Rules { after: [None, None, None, Some(5 * S)] };
        let mut watch = Watch::default();
        assert_eq!(watch.look(5 * S - 1, &kill_only), Step::Rest);
        assert_eq!(watch.look(5 * S, &kill_only), Step::Act(Action::Kill, 5 * S));
    }

    #[test]
    fn work_that_ends_is_forgiven_and_later_work_begins_anew() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(S, &RULES), Step::Rest);
        assert_eq!(watch.look(0, &RULES), Step::Rest, "nothing was done, so nothing is to be undone");
        assert_eq!(watch.look(6 * S, &RULES), Step::Act(Action::Lower, 6 * S));
        // Other work, which is late by less.
        assert_eq!(watch.look(S, &RULES), Step::Ended(6 * S));
        assert_eq!(watch.taken(), None);
        assert_eq!(watch.look(2 * S, &RULES), Step::Act(Action::Warn, 2 * S));
        assert_eq!(watch.look(0, &RULES), Step::Ended(2 * S));
    }

    #[test]
    fn without_rules_nothing_is_done() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(1000 * S, &Rules::default()), Step::Rest);
        assert_eq!(watch.look(0, &Rules::default()), Step::Rest);
        // Not even at once, where the limit is none at all.
        assert_eq!(watch.look(0, &Rules { after: [Some(0); 4] }), Step::Rest);
    }

    #[test]
    fn who_neither_waits_nor_sends_does_not_know_what_is_done() {
        let now = 100 * S;
        let seen = Seen { overdue: 90 * S, last_launch: 90 * S, waits: true };
        assert_eq!(overrun(&seen, now), 10 * S);
        assert_eq!(overrun(&Seen { waits: false, ..seen }, now), 0);
        assert_eq!(overrun(&Seen { waits: false, last_launch: now - FRESH, ..seen }, now), 10 * S);
        assert_eq!(overrun(&Seen { overdue: 0, ..seen }, now), 0);
        assert_eq!(overrun(&Seen { overdue: u64::MAX, last_launch: u64::MAX, ..seen }, now), 0);
    }

    #[test]
    fn a_loop_of_refusals_is_seen_once() {
        let mut denials = Denials::default();
        let mut said = Vec::new();
        let mut total = 5_000_000;
        for tenth in 10..200 {
            // From second 5 to second 12.
            total += if (50..120).contains(&tenth) { 20 } else { 1 };
            said.extend(denials.look(tenth * S / 10, total).map(|count| (tenth, count)));
        }
        assert_eq!(said, [(80, 200)]);
        // A long pause between two looks is no burst.
        assert_eq!(denials.look(100 * S, total + 2000), None);
    }
}
