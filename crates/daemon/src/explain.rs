//! Why a slice runs as it does: from how it and its neighbours stand, reasons. Decides only; nothing here acts.
use crate::turns::Standing;
use cleave_api::{Mode, Priority, Reason, ReasonKind};
use cleave_policy::arbiter::Isolation;

/// Who did something within this time is at work, in ns.
const RECENT: u64 = 100_000_000;

/// A slice with processes on the GPU, and the name under which the caller may know it.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    /// `None`: not to be told.
    pub name: Option<&'a str>,
    /// How far its share is enforced.
    pub mode: Mode,
    /// Its class.
    pub priority: Priority,
    /// How it stands.
    pub standing: &'a Standing,
}

impl Standing {
    /// It has, or had a moment ago, something to do.
    pub fn at_work(&self, now: u64) -> bool {
        self.seen.waiting
            || self.seen.due > 0
            || now < self.seen.busy_until.max(self.seen.last_launch).saturating_add(RECENT)
    }
}

fn percent(share: u64) -> String {
    format!("{} %", share as f64 / 10.0)
}

/// "a (25 %), b (40 %) and 2 of other users".
fn names<'a>(of: impl Iterator<Item = &'a Neighbour<'a>>) -> Option<String> {
    let (known, hidden): (Vec<&Neighbour<'_>>, Vec<_>) = of.partition(|one| one.name.is_some());
    let mut words: Vec<String> = known
        .iter()
        .map(|one| format!("{} ({})", one.name.unwrap_or_default(), percent(one.standing.tenant.share.into())))
        .collect();
    if !hidden.is_empty() {
        words.push(format!("{} of other users", hidden.len()));
    }
    let last = words.pop()?;
    Some(if words.is_empty() { last } else { format!("{} and {last}", words.join(", ")) })
}

/// That a spatial slice's next program gets a part of the multiprocessors only, and why.
pub fn part((part, why): &(f64, Option<String>)) -> Option<Reason> {
    let why = why.as_deref()?;
    let message =
        format!("its next program gets {part} % of the multiprocessors: {why}; what runs keeps what it started with");
    Some(Reason { kind: ReasonKind::Processors, message })
}

/// That a slice shares its device with nobody.
pub fn whole() -> Reason {
    let message = "it has the device to itself: nothing is held back there, and nothing measured".into();
    Reason { kind: ReasonKind::Whole, message }
}

/// Why the slice `me` runs as it does beside `others`, the weightiest reason first.
pub fn reasons(me: Option<&Standing>, paused: bool, others: &[Neighbour<'_>], now: u64) -> Vec<Reason> {
    let mut found = Vec::new();
    let mut say = |kind, message: String| found.push(Reason { kind, message });
    if paused {
        say(ReasonKind::Paused, "it is paused: its programs wait at their next kernel until it is resumed".into());
    }
    let Some(me) = me.filter(|me| me.here) else {
        say(ReasonKind::NoProcess, "no program uses this GPU in it".into());
        return found;
    };
    let idle = !me.at_work(now);
    if paused || idle {
        if idle {
            say(ReasonKind::Idle, "its programs send no work; what it is owed is lent to others meanwhile".into());
        }
        return found;
    }
    let (share, class) = (u64::from(me.tenant.share), me.tenant.class);
    let held = |one: &&Neighbour<'_>| one.standing.tenant.isolation != Isolation::None;
    let at_work = || others.iter().filter(|one| one.standing.at_work(now) && !one.standing.tenant.paused);
    if me.tenant.isolation == Isolation::None {
        say(ReasonKind::NotHeld, "its mode is none: what it uses is counted, and nothing holds it back".into());
    } else {
        if let Some(higher) = names(at_work().filter(held).filter(|one| one.standing.tenant.class > class)) {
            say(ReasonKind::GivesWay, format!("it gives way to {higher}, of higher priority, while that has work"));
        }
        if me.tenant.isolation == Isolation::Strict && share < 1000 {
            say(
                ReasonKind::Capped,
                format!("its mode is strict: it gets no more than {}, even if nobody else is at work", percent(share)),
            );
        }
        let peers = || at_work().filter(held).filter(|one| one.standing.tenant.class == class);
        match names(peers()) {
            Some(names) => {
                let sum = share + peers().map(|one| u64::from(one.standing.tenant.share)).sum::<u64>();
                let part = percent((share * 1000 + sum / 2) / sum.max(1));
                say(
                    ReasonKind::TakesTurns,
                    format!(
                        "it takes turns with {names}, of the same priority; its part among them is {part}, for a share of {}",
                        percent(share)
                    ),
                );
            }
            None if at_work().next().is_none() && me.tenant.isolation != Isolation::Strict => {
                say(ReasonKind::Alone, "nobody else is at work: it has the whole GPU".into());
            }
            None => {}
        }
        if let Some(lower) = names(at_work().filter(held).filter(|one| one.standing.tenant.class < class)) {
            say(ReasonKind::GoesFirst, format!("it goes first: {lower}, of lower priority, waits while it has work"));
        }
    }
    if let Some(free) = names(at_work().filter(|one| one.standing.tenant.isolation == Isolation::None)) {
        say(ReasonKind::Beside, format!("{free} runs beside it, whose mode is none: nothing holds that back"));
    }
    let [_, second, _] = me.last;
    let text = || format!("{:.0} ms of {:.0} ms", second.given as f64 / 1e6, second.owed as f64 / 1e6);
    if second.given * 100 < second.owed * 95 {
        say(ReasonKind::Behind, format!("in the last second it was given {} that it was owed", text()));
    } else if second.owed > 0 && second.given * 100 > second.owed * 105 {
        say(ReasonKind::Ahead, format!("in the last second it was given {}: what others left", text()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReasonKind::*;
    use cleave_policy::account::Sum;
    use cleave_policy::arbiter::{Observation, Tenant};
    use cleave_policy::gate::Grant;

    const NOW: u64 = 10_000_000_000;

    fn standing(share: u16, isolation: Isolation, class: u8, last_launch: u64) -> Standing {
        Standing {
            here: true,
            tenant: Tenant { share, isolation, class, burst: 0, paused: false, domain: None },
            seen: Observation { last_launch, ..Observation::default() },
            grant: Grant::CLOSED,
            last: [Sum::default(); 3],
        }
    }

    /// What is said of a slice beside others, named in order; the last of three belongs to somebody else.
    fn said(me: &Standing, paused: bool, others: &[&Standing]) -> (Vec<ReasonKind>, String) {
        let names = [Some("a"), Some("b"), None];
        let others: Vec<Neighbour<'_>> = (others.iter().zip(names))
            .map(|(standing, name)| Neighbour { name, mode: Mode::default(), priority: Priority::default(), standing })
            .collect();
        let reasons = reasons(Some(me), paused, &others, NOW);
        (reasons.iter().map(|r| r.kind).collect(), reasons.into_iter().map(|r| r.message + "\n").collect())
    }

    #[test]
    fn each_state_has_its_reasons() {
        use Isolation::{Adaptive, Balanced, None, Strict};
        let me = standing(250, Balanced, 1, NOW);
        let peer = standing(500, Adaptive, 1, NOW);
        let idle = standing(500, Balanced, 1, NOW - RECENT);
        let (higher, lower) = (standing(100, Balanced, 2, NOW), standing(100, Balanced, 0, NOW));
        let free = standing(100, None, 1, NOW);
        let strict = standing(250, Strict, 1, NOW);
        let away = Standing { here: false, ..me.clone() };
        type Case<'a> = (&'a Standing, bool, &'a [&'a Standing], &'a [ReasonKind]);
        let cases: &[Case<'_>] = &[
            (&me, false, &[], &[Alone]),
            (&me, false, &[&idle], &[Alone]),
            (&me, false, &[&peer, &idle], &[TakesTurns]),
            (&me, false, &[&higher, &peer, &lower], &[GivesWay, TakesTurns, GoesFirst]),
            (&me, false, &[&free], &[Beside]),
            (&strict, false, &[], &[Capped]),
            (&strict, false, &[&peer], &[Capped, TakesTurns]),
            (&free, false, &[&peer], &[NotHeld]),
            (&idle, false, &[&peer], &[Idle]),
            (&me, true, &[&peer], &[Paused]),
            (&idle, true, &[&peer], &[Paused, Idle]),
            (&away, false, &[&peer], &[NoProcess]),
            (&away, true, &[&peer], &[Paused, NoProcess]),
        ];
        for (me, paused, others, kinds) in cases {
            assert_eq!(said(me, *paused, others).0, *kinds, "{me:?} {others:?}");
        }
        assert_eq!(reasons(Option::None, false, &[], NOW)[0].kind, NoProcess);
        let (_, text) = said(&me, false, &[&peer, &peer, &peer]);
        assert!(text.contains("a (50 %), b (50 %) and 1 of other users") && text.contains("14.3 %"), "{text}");
    }

    #[test]
    fn being_behind_or_ahead_is_told_with_numbers() {
        let sum = |given: u64, owed: u64| Sum { given: given * 1_000_000, owed: owed * 1_000_000, throttled: 0 };
        let cases: [(Sum, &[ReasonKind]); 4] = [
            (sum(240, 250), &[Alone]),
            (sum(100, 250), &[Alone, Behind]),
            (sum(900, 250), &[Alone, Ahead]),
            (sum(5, 0), &[Alone]),
        ];
        for (second, kinds) in cases {
            let last = [Sum::default(), second, Sum::default()];
            let me = Standing { last, ..standing(250, Isolation::Balanced, 1, NOW) };
            assert_eq!(said(&me, false, &[]).0, kinds);
        }
        let last = [Sum::default(), sum(100, 250), Sum::default()];
        let me = Standing { last, ..standing(250, Isolation::Balanced, 1, NOW) };
        assert!(said(&me, false, &[]).1.contains("100 ms of 250 ms"));
    }
}
