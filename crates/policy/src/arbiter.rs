//! The arbiter of one GPU: who may run when.
//!
//! The daemon calls [`observe`](Arbiter::observe) and then [`decide`](Arbiter::decide) at each [`Decision::next_wake`],
//! and at once when a process rings because it begins to wait at its gate, or when tenants were changed. Between those
//! it sleeps: a lone tenant, or none, costs nothing.

use crate::account::{Account, Sum};
use crate::gate::{
    CYCLE, FREE, Grant, HOLD, LEASE_AHEAD, Mode, Part, QUIET, SLICES, TURN_AHEAD, URGENT, YIELD, YIELD_AHEAD,
};
use alloc::vec::Vec;

/// Names a tenant (a slice) of the GPU.
pub type TenantId = u32;

/// How far a slice's share is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Counted only: never held back.
    None,
    /// The share is guaranteed; what is idle is lent.
    Balanced,
    /// Never more than the share, even alone.
    Strict,
    /// Balanced, and while it is at work its neighbours queue less ahead, so that the GPU comes back sooner.
    Adaptive,
}

/// The tenants of one spatial engine (an MPS server): their kernels run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Names it among those of one GPU.
    pub id: u32,
    /// The most of the GPU's SMs that the tenant's kernels run on, in thousandths (1..=1000).
    pub cap: u16,
}

/// What a slice is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its share of the GPU's time, in thousandths (1..=1000).
    pub share: u16,
    /// How far that is enforced.
    pub isolation: Isolation,
    /// Its priority class: a higher one goes first (experiments 0, staging 1, production 2, ...).
    pub class: u8,
    /// Strict only: device time that may be used at once after it was left unused, in ns. At least one turn is.
    pub burst: u64,
    /// Stopped by an operator.
    pub paused: bool,
    /// Where its kernels run beside others' at the same time; `None`: it has the GPU to itself in its turns.
    pub domain: Option<Domain>,
}

/// What the processes of a slice have published, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Observation {
    /// Whose.
    pub tenant: TenantId,
    /// Device time done so far in ns: the sum of [`gate::done`](crate::gate::done) over its processes, those that ended
    /// included.
    pub device_ns: u64,
    /// Some thread waits at the gate.
    pub waiting: bool,
    /// When all that was sent is expected to be done: the latest of its processes.
    pub busy_until: u64,
    /// Threads wait for the GPU: when what they wait for was expected to be done, at the latest; `now`, if it isn't late; 0 = none does.
    pub due: u64,
    /// When something was sent last.
    pub last_launch: u64,
    /// Expected device time of the last operation sent, in ns (0: not known).
    pub op_ns: u64,
    /// Work is under way of which nobody knows how long it lasts, and a thread that waits will ring when it is done.
    pub open: bool,
}

/// Times of an arbiter, in ns.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// All contending tenants have their turn within about this time.
    pub cycle: u64,
    /// A turn's least length.
    pub least: u64,
    /// Turns are this long on average, at least: with many tenants the cycle grows.
    pub mean: u64,
    /// The same among tenants of equal shares: they take turns evenly, so longer ones, which cost fewer switches, leave the shares exact.
    pub even: u64,
    /// The next turn opens this much before the present one ends, so that the GPU doesn't idle.
    pub lead: u64,
    /// What a switch from one tenant's work to another's costs the GPU.
    pub switch: u64,
    /// How late the daemon may be woken.
    pub slack: u64,
    /// A tenant that sent nothing for this long after its work was done doesn't want the GPU.
    pub idle: u64,
    /// What may be queued under a lease.
    pub lease_ahead: u32,
    /// What may be queued in a turn.
    pub turn_ahead: u32,
    /// What may be queued under a lease while an adaptive tenant is at work.
    pub adaptive_ahead: u32,
    /// What may be queued below an active higher class: just enough to send an operation before the last one ends.
    pub yield_ahead: u32,
    /// The least that each class gets while a higher one takes everything, in thousandths.
    pub floor: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cycle: 24_000_000,
            least: 1_000_000,
            mean: 9_000_000,
            even: 12_000_000,
            lead: 100_000,
            switch: 100_000,
            slack: 150_000,
            idle: 300_000,
            lease_ahead: LEASE_AHEAD,
            turn_ahead: TURN_AHEAD,
            adaptive_ahead: 500_000,
            yield_ahead: YIELD_AHEAD,
            floor: 0,
        }
    }
}

impl Config {
    /// Windows of this length, in ns, for tenants of equal shares; those of unlike shares are up to a third shorter. At
    /// least 2 ms, at most 200 ms.
    pub fn windows(length: u64) -> Config {
        let mean = length.clamp(2_000_000, 200_000_000);
        Config { cycle: 2 * mean, mean, even: mean, ..Config::default() }
    }
}

/// What is to be published, and when to ask again.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    /// A grant for each tenant, in the order of their ids.
    pub grants: Vec<(TenantId, Grant)>,
    /// When to observe and decide again, if nobody rings before. `None`: not until somebody does.
    pub next_wake: Option<u64>,
    /// Others wait for a turn: until then see every [`GLANCE`] whether it is [`abandoned`](Arbiter::abandoned), and if so decide.
    pub contended: bool,
}

/// How often to see whether who has a turn has work, while others wait for it, in ns.
pub const GLANCE: u64 = 5_000_000;
/// How long a tenant that sent something counts as at work for its neighbours' `ahead`, in ns.
pub const RECENT: u64 = 1_000_000_000;
/// How often the arbiter looks whether a higher class is at work, while a lower one runs, in ns.
const LOOK: u64 = 100_000_000;
/// Of its decisions, the arbiter asks for no more than one in this time by itself, ends of turns apart; 20 may come at
/// once. In ns.
const PACE: u64 = 2_500_000;
/// The farthest that a tenant's virtual time may be ahead, in ns: so long at most can it be shut out for an overrun.
const DEBT: i64 = 2_000_000_000;

/// So long after a turn's end at most its last work is waited for, if nobody knows how long it lasts, in ns: what takes longer may not end.
const DRAIN: u64 = 25_000_000;
/// What a thread waits for is taken to last so much longer than expected, in ns; then it is looked at again.
const WORKING: u64 = 1_000_000;
/// What is late by so much in its own turn, and by [`DRAIN`] if nobody knows how long it lasts, may never end, and the GPU's hardware gives it
/// its part beside others': it needs no turn, which would only keep others out. In ns.
const LATE: u64 = 5_000_000;
/// Who lets so much of a turn pass at its open gate, and does not ring when that is closed, gets the next one so much later, in ns.
const DEAD: u64 = 1_000_000_000;

/// A tenant and its standing.
#[derive(Clone, Debug)]
struct Member {
    id: TenantId,
    tenant: Tenant,
    seen: Observation,
    /// The domain in which it runs beside others: one whose caps leave each SMs of its own.
    beside: Option<u32>,
    /// The share of all that have their turn together with it and are ready, in thousandths.
    weight: u64,
    /// It was observed once: what was used before isn't charged.
    known: bool,
    /// Virtual time: device time used over share. Among those that want the GPU, the least goes first.
    virtual_time: i64,
    /// Strict: device time that it may use, filled at the rate of its share.
    tokens: i64,
    /// It became strict, or ceased to be: what it used until it is observed again is no debt.
    starts: bool,
    /// Device time charged since it was added.
    used: u64,
    /// It has work, or had some a moment ago.
    wants: bool,
    /// Until then it doesn't want the GPU, unless it sends something, rings, or waits for something else ([`Member::stalls`]).
    stalled: u64,
    /// It wants the GPU and may have it: a strict tenant only with a turn's worth of tokens, or in its turn.
    ready: bool,
    /// It became ready, and has had no turn since.
    woke: bool,
    /// What it had used when it began to want the GPU.
    since: u64,
    account: Account,
}

impl Member {
    /// Takes part in rounds.
    fn governed(&self) -> bool {
        !self.tenant.paused && self.tenant.isolation != Isolation::None
    }

    /// Held to its share by tokens; not where its SMs hold it.
    fn strict(&self) -> bool {
        let walled = self.tenant.domain.is_some_and(|domain| domain.cap <= self.tenant.share);
        self.tenant.isolation == Isolation::Strict && self.tenant.share < 1000 && self.beside.is_none() && !walled
    }

    /// Both run at the same time, or are one.
    fn with(&self, other: &Member) -> bool {
        self.id == other.id || (self.beside.is_some() && self.beside == other.beside)
    }

    /// Both have the same turn.
    fn shares_turn(&self, other: &Member) -> bool {
        self.with(other) && self.tenant.class == other.tenant.class
    }

    /// `ns` of device time in this tenant's virtual time.
    fn virtual_of(&self, ns: u64) -> i64 {
        (u128::from(ns) * 1000 / u128::from(self.weight.max(1))) as i64
    }

    /// Strict: the tokens to begin a turn with. Alone, short turns keep the rate even (the tokens fill while it runs,
    /// too); beside others each costs a switch, so a whole cycle's share is gathered.
    fn turn_tokens(&self, cycle: u64, alone: bool) -> i64 {
        let share = u64::from(self.tenant.share);
        (if alone { cycle / 2 * share / 1000 * (1000 - share) / 1000 } else { cycle * share / 1000 }) as i64
    }

    /// Until when it is taken to have no use for turns, as it does nothing in them (0: it has). What it waits for is late in its `turn`; or it
    /// waits at its gate, which is open, and no class above it (`top`) is in its way: it was stopped, or killed and not yet buried.
    fn stalls(&self, seen: &Observation, turn: Option<&Turn>, top: u8, now: u64) -> u64 {
        let still =
            now < self.stalled && seen.last_launch == self.seen.last_launch && seen.waiting == self.seen.waiting;
        let longest = if seen.open || seen.op_ns == 0 { DRAIN } else { LATE };
        let late = match turn.filter(|turn| turn.is_of(self)) {
            _ if still && (seen.waiting || seen.due > 0) => return self.stalled,
            // Who lives rings soon, so a short turn is enough to tell.
            Some(turn) if seen.waiting && self.tenant.class >= top => {
                let since = seen.busy_until.max(seen.last_launch).max(turn.begins);
                let longest = longest.min(turn.until.saturating_sub(turn.begins) / 2);
                now.min(turn.until) >= since.saturating_add(longest)
            }
            Some(turn) if !seen.waiting && seen.due > 0 => {
                now >= seen.due.saturating_add(longest).max(turn.begins.saturating_add(LATE))
            }
            _ => false,
        };
        match late {
            true if seen.waiting => now.saturating_add(DEAD),
            true => u64::MAX,
            false => 0,
        }
    }

    /// When it last gave a sign of work.
    fn last_sign(&self) -> u64 {
        self.seen.busy_until.max(self.seen.last_launch)
    }

    /// When to look whether it still wants its turn. The more it used without a pause, the later: what it leaves unused
    /// before anybody looks is a quarter of that, and one that always has work costs no wakes.
    fn look(&self, now: u64, begins: u64, idle: u64) -> u64 {
        let sign = if self.seen.waiting { begins.max(now) } else { begins.max(self.last_sign()) };
        (sign + idle).max(now + (self.used.saturating_sub(self.since) / 4).max(2 * idle))
    }

    /// Strict: how long it may run now until its tokens, which go on filling, are used up.
    fn run_length(&self) -> u64 {
        self.tokens.max(0) as u64 * 1000 / u64::from(1000 - self.tenant.share)
    }
}

/// A turn: who runs, from when until when.
#[derive(Clone, Copy, Debug)]
struct Turn {
    holder: TenantId,
    /// The holder's domain, if all of that have the turn.
    beside: Option<u32>,
    from: u64,
    until: u64,
    /// When the GPU is expected to come to its work.
    begins: u64,
    /// Up to when holding it was charged for, and what the holder had used by then.
    charged: u64,
    used: u64,
    /// Nothing was under way when it began.
    free: bool,
}

impl Turn {
    /// The member has this turn, alone or with others.
    fn is_of(&self, member: &Member) -> bool {
        self.holder == member.id || (self.beside.is_some() && self.beside == member.beside)
    }
}

/// The state of one class.
#[derive(Clone, Debug)]
struct Round {
    class: u8,
    turn: Option<Turn>,
    /// The turn has no end: nobody else is ready.
    lease: bool,
    /// The turn before, while its end is still to come.
    last: Option<Turn>,
    /// The least virtual time among those that want the GPU; never goes back.
    virtual_now: i64,
    /// Since when a higher class keeps this one out, what it had used by then, and until when it gets its least.
    floor_since: u64,
    floor_used: u64,
    floor_until: u64,
}

/// Decides for one GPU.
///
/// Each priority class has a round of its own, and in it at most one tenant has the turn: a lease while nobody else is
/// ready, otherwise a window. When it ends, the tenant with the least virtual time is next. Lower classes give way to
/// higher ones at their gates, so that needs no decision.
#[derive(Clone, Debug)]
pub struct Arbiter {
    config: Config,
    members: Vec<Member>,
    rounds: Vec<Round>,
    /// When it observed last.
    at: u64,
    /// Time that nobody has said to have used, the last cycle's at most.
    unclaimed: u64,
    /// Looks that could wait come no sooner than this.
    paced: u64,
}

impl Arbiter {
    /// An arbiter without tenants.
    pub fn new(config: Config) -> Arbiter {
        Arbiter { config, members: Vec::new(), rounds: Vec::new(), at: 0, unclaimed: 0, paced: 0 }
    }

    /// Adds a tenant or changes what it is entitled to; effective with the next decision. A share of 0 counts as 1,
    /// one over 1000 as 1000.
    pub fn set(&mut self, id: TenantId, mut tenant: Tenant) {
        tenant.share = tenant.share.clamp(1, 1000);
        let at = match self.rounds.binary_search_by_key(&tenant.class, |round| round.class) {
            Ok(at) => at,
            Err(at) => {
                self.rounds.insert(
                    at,
                    Round {
                        class: tenant.class,
                        turn: None,
                        lease: false,
                        last: None,
                        virtual_now: 0,
                        floor_since: 0,
                        floor_used: 0,
                        floor_until: 0,
                    },
                );
                at
            }
        };
        let virtual_time = self.rounds[at].virtual_now;
        match self.members.binary_search_by_key(&id, |member| member.id) {
            Ok(at) => {
                let member = &mut self.members[at];
                if member.tenant.class != tenant.class {
                    member.virtual_time = virtual_time;
                }
                if member.strict() != (tenant.isolation == Isolation::Strict) {
                    member.starts = true;
                }
                member.tenant = tenant;
            }
            Err(at) => {
                let seen = Observation { tenant: id, ..Observation::default() };
                let member = Member {
                    id,
                    tenant,
                    seen,
                    beside: None,
                    weight: u64::from(tenant.share),
                    virtual_time,
                    tokens: i64::MAX,
                    starts: false,
                    used: 0,
                    known: false,
                    wants: false,
                    stalled: 0,
                    ready: false,
                    woke: false,
                    since: 0,
                    account: Account::default(),
                };
                self.members.insert(at, member);
            }
        }
        self.arrange();
    }

    /// The tenant rang because it waits at its gate: it lives, and was late for its last turn.
    pub fn rang(&mut self, id: TenantId) {
        if let Ok(at) = self.members.binary_search_by_key(&id, |member| member.id) {
            self.members[at].stalled = 0;
        }
    }

    /// Forgets a tenant.
    pub fn remove(&mut self, id: TenantId) {
        self.members.retain(|member| member.id != id);
        self.arrange();
    }

    /// Who runs beside whom? Where the caps of a domain are more than the GPU has, its tenants take turns like any others. The
    /// one of the highest class and adaptive ones count with their share: the others leave that free for them, and they may have
    /// more.
    fn arrange(&mut self) {
        self.rounds.retain(|round| self.members.iter().any(|member| member.tenant.class == round.class));
        for at in 0..self.members.len() {
            let domain = self.members[at].tenant.domain.filter(|_| self.members[at].governed()).map(|domain| domain.id);
            let of = |member: &&Member| member.governed() && member.tenant.domain.map(|domain| domain.id) == domain;
            let top = self.members.iter().filter(of).map(|member| member.tenant.class).max();
            let first = self.members.iter().filter(of).filter(|member| Some(member.tenant.class) == top).count() == 1;
            let part = |member: &Member| {
                let cap = member.tenant.domain.map_or(0, |domain| domain.cap);
                let free = first && Some(member.tenant.class) == top || member.tenant.isolation == Isolation::Adaptive;
                u32::from(if free { cap.min(member.tenant.share) } else { cap })
            };
            let parts: u32 = self.members.iter().filter(of).map(part).sum();
            self.members[at].beside = domain.filter(|_| parts <= 1000);
        }
    }

    /// Those that have their turn together with a member, itself included.
    fn group(&self, at: usize) -> impl Iterator<Item = &Member> {
        let lead = &self.members[at];
        self.members.iter().filter(move |member| member.shares_turn(lead))
    }

    /// What each of these tenants has of the GPU while nobody decides and no other is there; `None`: it is not held back. Those of a class divide a cycle by their shares; a strict one has no more than its share, and those that run together have theirs together. Lower classes give
    /// way at their gates, as always.
    pub fn parts(&self, ids: &[TenantId]) -> Vec<Option<Part>> {
        const WHOLE: u64 = CYCLE / 1000;
        let share = |member: &&Member| u64::from(member.tenant.share);
        // Where the next one of each class begins.
        let mut ends = [0; 256];
        let members: Vec<&Member> = ids.iter().filter_map(|id| self.member(*id)).collect();
        let mut all: Vec<Option<Part>> = Vec::with_capacity(members.len());
        for (at, &member) in members.iter().enumerate() {
            let class = member.tenant.class;
            let shares = |strict: bool| -> u64 {
                let same = |m: &&&Member| m.governed() && m.tenant.class == class && m.strict() == strict;
                members.iter().filter(same).map(share).sum()
            };
            let with = |before: &usize| members[*before].shares_turn(member);
            let part = if !member.governed() {
                None
            } else if let Some(first) = (0..at).find(with) {
                all[first]
            } else {
                let (strict, others) = (shares(true), shares(false));
                let total = (strict + others).max(1000);
                let own: u64 = members.iter().filter(|other| other.shares_turn(member)).map(share).sum();
                let length = match member.strict() {
                    true => WHOLE * own / total,
                    false => (WHOLE - WHOLE * strict / total) * own / others.max(1),
                };
                let apart = || members.iter().filter(|other| other.governed() && !other.with(member));
                let below = if apart().any(|other| other.tenant.class < class) { URGENT } else { 0 };
                let above = if apart().any(|other| other.tenant.class > class) { YIELD } else { 0 };
                let from = ends[usize::from(class)];
                ends[usize::from(class)] = (from + length).min(WHOLE);
                Some(Part { from: from as u16, length: length.max(1) as u16, flags: below | above })
            };
            all.push(part);
        }
        all
    }

    fn used(&self, at: usize) -> u64 {
        self.group(at).map(|member| member.used).sum()
    }

    fn busy_until(&self, at: usize) -> u64 {
        self.group(at).map(|member| member.seen.busy_until).max().unwrap_or(0)
    }

    /// [`Member::look`], for all that have the turn.
    fn look(&self, at: usize, now: u64, begins: u64, idle: u64) -> u64 {
        self.group(at).filter(|member| member.ready).map(|member| member.look(now, begins, idle)).max().unwrap_or(now)
    }

    /// What a tenant was given so far.
    pub fn account(&self, id: TenantId) -> Option<&Account> {
        self.member(id).map(|member| &member.account)
    }

    fn member(&self, id: TenantId) -> Option<&Member> {
        self.members.binary_search_by_key(&id, |member| member.id).ok().map(|at| &self.members[at])
    }

    /// Takes in what was published, as read at `now`. A tenant that isn't named did nothing. Time that runs backwards
    /// is taken to stand still.
    pub fn observe(&mut self, now: u64, observations: &[Observation]) {
        let since = if self.at == 0 { now } else { self.at.min(now) };
        let elapsed = now - since;
        self.at = self.at.max(now);
        let budget = elapsed + self.unclaimed;
        let mut used = alloc::vec![0; self.members.len()];
        let mut waited: Vec<bool> = self.members.iter().map(|member| member.seen.waiting).collect();
        let top = self.top(observations, now);
        let lowest = self.members.iter().filter(|member| member.wants).map(|member| member.tenant.class).min();
        for observation in observations {
            let Ok(at) = self.members.binary_search_by_key(&observation.tenant, |member| member.id) else { continue };
            let member = &mut self.members[at];
            if member.known {
                used[at] = observation.device_ns.saturating_sub(member.seen.device_ns).min(budget);
            }
            member.known = true;
            // Estimates are corrected: what was counted once isn't counted again.
            waited[at] |= observation.waiting;
            let device_ns = member.seen.device_ns.max(observation.device_ns);
            let round = self.rounds.iter().find(|round| round.class == member.tenant.class);
            // A lease is in nobody's way, but for classes below.
            let contended = |round: &&Round| !round.lease || lowest.is_some_and(|lowest| lowest < round.class);
            let turn = round.filter(contended).and_then(|round| round.turn.as_ref());
            let stalled = member.stalls(observation, turn, top, now);
            member.stalled = stalled;
            // Who waits for the GPU has work there, even if it should have been done by now.
            let sure = if observation.due > 0 && stalled == 0 { now + WORKING } else { 0 };
            member.seen = Observation { device_ns, busy_until: observation.busy_until.max(sure), ..*observation };
        }
        // Those that run beside each other use the same time: together as much as whoever used most of it.
        for at in 0..self.members.len() {
            if self.members[at].beside.is_some()
                && self.group(at).next().is_some_and(|first| first.id == self.members[at].id)
            {
                let with: Vec<usize> =
                    (at..used.len()).filter(|of| self.members[*of].shares_turn(&self.members[at])).collect();
                let (sum, most) = with.iter().fold((0, 0), |(sum, most), of| (sum + used[*of], most.max(used[*of])));
                for of in with {
                    used[of] = (u128::from(used[of]) * u128::from(most) / u128::from(sum.max(1))) as u64;
                }
            }
        }
        // Nobody can use more time than there was; who waits for a kernel longer than it expected says so late. Where the hardware ran several at once, or kernels took turns, each
        // process believes that it had the GPU alone: then each is charged its part.
        let total: u64 = used.iter().sum();
        let cycle = self.config.cycle.max(self.config.mean * self.members.len() as u64);
        self.unclaimed = budget.saturating_sub(total).min(self.config.cycle);
        for (member, (used, waited)) in self.members.iter_mut().zip(used.iter_mut().zip(waited)) {
            if total > budget {
                *used = (u128::from(*used) * u128::from(budget) / u128::from(total)) as u64;
            }
            member.used += *used;
            if member.beside.is_none() {
                member.virtual_time = member.virtual_time.saturating_add(member.virtual_of(*used));
            }
            let turn = cycle * u64::from(member.tenant.share) / 1000;
            let depth = member.tenant.burst.max(2 * turn) as i64;
            let earned = u128::from(elapsed) * u128::from(member.tenant.share) / 1000;
            // What it used, it used while the tokens came.
            let tokens = member.tokens.saturating_add(earned as i64).saturating_sub(*used as i64).min(depth);
            member.tokens = if core::mem::take(&mut member.starts) { 0 } else { tokens };
            let round = self.rounds.iter().find(|round| round.class == member.tenant.class);
            let turns = round.map_or([None, None], |round| [round.last, round.turn]);
            let allowed: u64 = (turns.into_iter().flatten())
                .filter(|turn| turn.is_of(member))
                .map(|turn| turn.until.min(now).saturating_sub(turn.from.max(since)))
                .sum();
            let sum = Sum {
                given: *used,
                owed: if member.wants { earned as u64 } else { 0 },
                throttled: if waited { elapsed.saturating_sub(allowed) } else { 0 },
            };
            member.account.add(since, now, sum);
        }
        // Those that run together have one virtual time.
        for at in 0..self.members.len() {
            if self.members[at].beside.is_some() {
                let sum = self.members.iter().zip(&used).filter(|(other, _)| other.shares_turn(&self.members[at]));
                let sum = sum.map(|(_, used)| *used).sum();
                let member = &mut self.members[at];
                member.virtual_time = member.virtual_time.saturating_add(member.virtual_of(sum));
            }
        }
        self.wishes(now);
    }

    /// The highest class that may be in others' way now.
    fn top(&self, observations: &[Observation], now: u64) -> u8 {
        let at_work = |seen: &&Observation| {
            let sign = seen.busy_until.max(seen.last_launch).saturating_add(HOLD + SLICES);
            seen.waiting || seen.due > 0 || now < sign
        };
        let members = observations.iter().filter(at_work).filter_map(|seen| self.member(seen.tenant));
        members
            .filter(|member| member.governed() && member.stalled <= now)
            .map(|member| member.tenant.class)
            .max()
            .unwrap_or(0)
    }

    /// Who wants the GPU now, and who may have it?
    fn wishes(&mut self, now: u64) {
        let Config { cycle, idle, .. } = self.config;
        for round in &mut self.rounds {
            let of = |member: &&Member| member.ready && member.tenant.class == round.class;
            let ready = || self.members.iter().filter(of);
            let total: u64 = ready().map(|member| u64::from(member.tenant.share)).sum();
            let credit = (cycle * 1000 / total.max(50)) as i64;
            let wanting =
                self.members.iter().filter(|member| member.wants && member.tenant.class == round.class).count();
            let turns = cycle.max(self.config.mean * wanting as u64);
            if let Some(least) = ready().map(|member| member.virtual_time).min() {
                round.virtual_now = round.virtual_now.max(least);
            }
            for member in self.members.iter_mut().filter(|member| member.tenant.class == round.class) {
                let turn = round.turn.filter(|turn| turn.is_of(member) && now < turn.until);
                let begins = turn.filter(|_| !round.lease).map_or(0, |turn| turn.from);
                let wants = member.governed()
                    && (member.seen.waiting && member.stalled <= now
                        || now < member.last_sign().max(begins).saturating_add(idle));
                if wants && !member.wants {
                    member.since = member.used;
                }
                member.wants = wants;
                let alone = wanting <= 1;
                let may = !member.strict() || turn.is_some() || member.tokens >= member.turn_tokens(turns, alone);
                let ready = member.wants && may;
                if ready && !member.ready {
                    // No hoarding: what was not used while it was away was others'.
                    member.virtual_time = member.virtual_time.max(round.virtual_now - credit);
                    member.woke = true;
                }
                member.ready = ready;
                member.woke &= ready;
                member.virtual_time = member.virtual_time.min(round.virtual_now.saturating_add(DEBT));
            }
        }
        for at in 0..self.members.len() {
            let group = || self.group(at).filter(|member| member.ready);
            let share = u64::from(self.members[at].tenant.share);
            let weight = if self.members[at].ready { group().map(|m| u64::from(m.tenant.share)).sum() } else { share };
            // Who joins others has what they have.
            let joined = group().map(|member| member.virtual_time).max();
            let member = &mut self.members[at];
            member.weight = weight;
            if let Some(joined) = joined.filter(|_| member.ready) {
                member.virtual_time = joined;
            }
        }
    }

    /// Is somebody ready who has not this round's turn?
    fn kept_waiting(&self, round: &Round) -> bool {
        let other = |member: &Member| !round.turn.is_some_and(|turn| turn.is_of(member));
        self.members.iter().any(|member| member.ready && member.tenant.class == round.class && other(member))
    }

    /// Has somebody nothing to do in its turn, for which others wait? As [`observe`](Self::observe) is told it, but nothing is
    /// charged: what is charged by halves of a turn is less exact.
    pub fn abandoned(&self, now: u64, observations: &[Observation]) -> bool {
        let top = self.top(observations, now);
        let busy = |turn: &Turn, seen: &Observation| {
            let Some(member) = self.member(seen.tenant).filter(|member| turn.is_of(member)) else { return false };
            let works = (seen.waiting || seen.due > 0) && member.stalls(seen, Some(turn), top, now) == 0;
            works || now < seen.busy_until.max(seen.last_launch).max(turn.from).saturating_add(self.config.idle)
        };
        self.rounds.iter().any(|round| {
            let turn = round.turn.filter(|turn| !round.lease && now < turn.until && self.kept_waiting(round));
            turn.is_some_and(|turn| !observations.iter().any(|seen| busy(&turn, seen)))
        })
    }

    /// Decides who may run. Publish the grants of those that lose first, then the others'.
    pub fn decide(&mut self, now: u64) -> Decision {
        self.wishes(now);
        self.paced = self.paced.max(now.saturating_sub(PACE * 20)) + PACE;
        let mut wake = Wake { now, at: None };
        for at in 0..self.rounds.len() {
            let mut round = self.rounds[at].clone();
            self.turn(&mut round, &mut wake);
            self.rounds[at] = round;
        }
        let grants: Vec<_> =
            (0..self.members.len()).map(|at| (self.members[at].id, self.grant(at, &mut wake))).collect();
        let contended =
            self.rounds.iter().any(|round| round.turn.is_some() && !round.lease && self.kept_waiting(round));
        Decision { grants, next_wake: wake.at, contended }
    }

    /// Advances one class.
    fn turn(&mut self, round: &mut Round, wake: &mut Wake) {
        let now = wake.now;
        let Config { cycle, least, mean, lead, switch, slack, idle, .. } = self.config;
        round.last = round.last.filter(|last| now < last.until);
        round.turn = round.turn.filter(|turn| {
            self.member(turn.holder).is_some_and(|member| member.governed() && member.tenant.class == round.class)
        });
        let of_class = |at: &usize| self.members[*at].tenant.class == round.class;
        // Of those that have their turn together one stands for all.
        let stands = |at: &usize| {
            let first = (0..*at)
                .any(|before| self.members[before].ready && self.members[before].shares_turn(&self.members[*at]));
            self.members[*at].ready && !first
        };
        let ready: Vec<usize> = (0..self.members.len()).filter(of_class).filter(stands).collect();
        if let Some(turn) = &mut round.turn
            && let Some(&at) = ready.iter().find(|&&at| turn.is_of(&self.members[at]))
        {
            turn.holder = self.members[at].id;
        }
        let wanting = self.members.iter().filter(|member| member.wants && member.tenant.class == round.class).count();
        let turns = cycle.max(mean * wanting as u64);
        let mut throttled = false;
        for member in self.members.iter().filter(|member| member.tenant.class == round.class) {
            if member.seen.waiting && now < member.stalled && member.stalled < u64::MAX {
                wake.at(member.stalled);
            }
            if member.wants && !member.ready {
                let missing = (member.turn_tokens(turns, wanting == 1) - member.tokens).max(0) as u64;
                // While others run, its tokens may pile up a little: one wake serves several.
                let soonest = if ready.is_empty() { now } else { now + 2 * least };
                wake.at(soonest.max(now + missing * 1000 / u64::from(member.tenant.share)));
                throttled = true;
            }
        }
        self.floor(round, !ready.is_empty(), wake);

        if ready.is_empty() {
            // The last holder keeps its lease, so that it can go on without asking.
            if throttled || !round.lease {
                self.end(round, now, now);
            }
            return;
        }
        let alone = ready.len() == 1;
        if let &[at] = &ready[..]
            && !self.members[at].strict()
        {
            let (holder, beside, used) = (self.members[at].id, self.members[at].beside, self.used(at));
            if !round.turn.is_some_and(|turn| turn.holder == holder && turn.beside == beside && round.lease) {
                if round
                    .turn
                    .is_some_and(|turn| !turn.is_of(&self.members[at]) && turn.until <= now && self.drains(&turn, now))
                {
                    wake.at(now + GLANCE);
                    return;
                }
                self.end(round, now, now);
                let (from, until) = (now, u64::MAX);
                round.turn = Some(Turn { holder, beside, from, until, begins: now, charged: now, used, free: false });
                round.lease = true;
            }
            self.rested(at);
            return;
        }

        // Several contend, or a strict one is alone.
        let mut outgoing = None;
        if let Some(turn) = &mut round.turn
            && let Ok(holder) = self.members.binary_search_by_key(&turn.holder, |member| member.id)
        {
            let ahead = |&at: &usize| {
                self.members[at].woke && self.members[at].virtual_time < self.members[holder].virtual_time
            };
            let overtaken = ready.iter().any(|at| *at != holder && ahead(at));
            let cut = turn.from.saturating_add(least);
            let ends = if alone { turn.until } else { turn.until.saturating_sub(lead + slack) };
            let member = &self.members[holder];
            if member.ready && !round.lease && now < ends && !(overtaken && now >= cut) {
                if !alone {
                    wake.at(self.look(holder, now, turn.from, idle).max(self.paced));
                }
                if overtaken {
                    wake.at(cut);
                }
                wake.at(ends);
                return;
            }
            if !alone && self.drains(turn, now) {
                if round.lease {
                    (turn.charged, turn.used) = (now, self.used(holder));
                }
                if round.lease || overtaken {
                    (turn.until, round.lease) = (turn.until.min(now), false);
                }
                wake.at(if now < turn.until { turn.until } else { now + GLANCE });
                return;
            }
            if member.ready {
                let closes = if round.lease || overtaken { now } else { turn.until };
                outgoing = Some((holder, closes, self.expected_end(holder, closes, now)));
            }
        }
        let end = outgoing.map_or(now, |(_, _, end)| end).min(now + cycle);
        let rest = |at: usize| outgoing.filter(|&(holder, ..)| holder == at).map_or(0, |(_, _, end)| end - now);
        let projected = |&at: &usize| {
            let member = &self.members[at];
            member.virtual_time.saturating_add(member.virtual_of(rest(at)))
        };
        // A strict tenant that has just used up its tokens isn't next.
        let may = |&at: &usize| {
            let member = &self.members[at];
            !member.strict() || member.tokens - rest(at) as i64 >= member.turn_tokens(turns, wanting == 1)
        };
        let Some(next) = ready.iter().copied().filter(may).min_by_key(projected) else {
            self.end(round, now, now);
            wake.at(now + 1);
            return;
        };
        let total: u64 = ready.iter().map(|&at| self.members[at].weight).sum();
        let count = ready.len() as u64;
        let member = &self.members[next];
        let even = ready.iter().all(|&at| self.members[at].weight == member.weight);
        let mean = if even { self.config.even } else { mean };
        let cycle = cycle.max(mean * count);
        // Unlike shares are more a matter of how often than of how long: long turns make shares coarse, short ones cost
        // switches.
        let mut length = (cycle * member.weight / total).clamp(mean * 2 / 3, cycle / count.max(2));
        if member.strict() {
            length = if alone { member.run_length() } else { length.min(member.run_length()) };
        }
        match (&mut round.turn, outgoing) {
            (Some(turn), Some((holder, closes, _))) if holder == next && closes > now => {
                turn.until = end + length;
                self.charge_holding(round, now);
            }
            _ => {
                let (holder, beside, used) = (member.id, member.beside, self.used(next));
                // An outgoing tenant that doesn't queue ahead leaves gaps, in which its neighbour would slip too early.
                let queued = outgoing.map_or(0, |(holder, ..)| self.busy_until(holder).saturating_sub(now));
                let lead = if queued > lead { lead } else { 0 };
                let from = end.saturating_sub(lead).max(now);
                self.end(round, now, outgoing.map_or(now, |(_, closes, end)| if closes > now { end } else { now }));
                let free = outgoing.is_some_and(|(holder, closes, _)| closes < now && self.busy_until(holder) <= now);
                let (until, begins) = (end + length, end + switch);
                round.turn = Some(Turn { holder, beside, from, until, begins, charged: from, used, free });
            }
        }
        round.lease = false;
        self.rested(next);
        let member = &mut self.members[next];
        if member.seen.waiting {
            member.account.throttle();
        }
        wake.at(if alone { end + length } else { (end + length).saturating_sub(lead + slack) });
        if !alone {
            wake.at(self.look(next, now, end, idle).max(self.paced));
        }
    }

    /// Is what was sent in this turn waited for? Where nobody knows how long it lasts, the next turn begins when it is done: work of
    /// two that the hardware takes slice by slice would be charged to both, and cost a switch each slice.
    fn drains(&self, turn: &Turn, now: u64) -> bool {
        let open = |member: &Member| turn.is_of(member) && member.seen.open && member.stalled <= now;
        now < turn.until.saturating_add(DRAIN) && self.members.iter().any(open)
    }

    /// Gives a class that is kept out by higher ones its least.
    fn floor(&self, round: &mut Round, ready: bool, wake: &mut Wake) {
        let (now, floor, least) = (wake.now, u64::from(self.config.floor), self.config.least);
        let of_class = |member: &&Member| member.tenant.class == round.class;
        let used = self.members.iter().filter(of_class).fold(0u64, |sum, member| sum.wrapping_add(member.used));
        let kept_out = ready && self.members.iter().any(|member| member.wants && member.tenant.class > round.class);
        if !kept_out || floor == 0 {
            (round.floor_since, round.floor_used, round.floor_until) = (now, used, 0);
            return;
        }
        let due =
            |round: &Round| round.floor_since + used.saturating_sub(round.floor_used).max(least / 2) * 1000 / floor;
        if now >= due(round) {
            (round.floor_since, round.floor_used, round.floor_until) = (now, used, now + least);
        }
        wake.at(if now < round.floor_until { round.floor_until } else { due(round) });
    }

    /// The member and those with it have a turn.
    fn rested(&mut self, at: usize) {
        let (class, beside, id) = (self.members[at].tenant.class, self.members[at].beside, self.members[at].id);
        let with = |member: &Member| member.id == id || (beside.is_some() && member.beside == beside);
        for member in self.members.iter_mut().filter(|member| member.tenant.class == class && with(member)) {
            member.woke = false;
        }
    }

    /// When the holder's work will be done if its turn ends at `until`: an operation that is under way, or would be the
    /// last to begin, is waited for.
    fn expected_end(&self, holder: usize, until: u64, now: u64) -> u64 {
        let op_ns = self.group(holder).map(|member| member.seen.op_ns).max().unwrap_or(0);
        let busy = self.busy_until(holder).max(now);
        if busy >= until || op_ns <= self.config.lead { busy.max(until) } else { busy + op_ns }
    }

    /// Ends the turn at `closes`, and charges for it: who holds the GPU without using it keeps others out.
    fn end(&mut self, round: &mut Round, now: u64, closes: u64) {
        self.charge_holding(round, now);
        let Some(turn) = round.turn else { return };
        round.last = (closes > now && !round.lease).then_some(Turn { until: turn.until.min(closes), ..turn });
        (round.turn, round.lease) = (None, false);
    }

    /// Charges the holder for time in which it kept others out and left the GPU unused. A strict one is entitled to time, and so pays
    /// for all of it.
    fn charge_holding(&mut self, round: &mut Round, now: u64) {
        let kept = self.kept_waiting(round);
        let Some(turn) = &mut round.turn else { return };
        let higher = self.members.iter().any(|member| member.wants && member.tenant.class > round.class);
        if let Ok(at) = self.members.binary_search_by_key(&turn.holder, |member| member.id)
            && !round.lease
            && !higher
        {
            let used = self.used(at);
            let whole = kept && self.members[at].strict();
            let held = match whole {
                true => now.saturating_sub(turn.charged.max(turn.begins)),
                false => now.saturating_sub(turn.charged) * 3 / 5,
            };
            let unused = held.saturating_sub(used.saturating_sub(turn.used));
            if whole {
                self.members[at].tokens = self.members[at].tokens.saturating_sub_unsigned(unused);
            }
            let by = self.members[at].virtual_of(unused);
            let (class, id) = (self.members[at].tenant.class, self.members[at].id);
            for member in self.members.iter_mut().filter(|member| member.tenant.class == class) {
                if member.id == id || turn.is_of(member) {
                    member.virtual_time = member.virtual_time.saturating_add(by);
                }
            }
            (turn.charged, turn.used) = (turn.charged.max(now), used);
        }
    }

    /// What a tenant is granted in its round as it stands.
    fn grant(&self, at: usize, wake: &mut Wake) -> Grant {
        let (now, member) = (wake.now, &self.members[at]);
        if member.tenant.paused {
            return Grant { mode: Mode::Paused, ..Grant::CLOSED };
        }
        if member.tenant.isolation == Isolation::None {
            return Grant { mode: Mode::Lease, ahead: u32::MAX, ..Grant::CLOSED };
        }
        let Some(round) = self.rounds.iter().find(|round| round.class == member.tenant.class) else {
            return Grant::CLOSED;
        };
        // Who has SMs of its own is in nobody's way.
        let others = || self.members.iter().filter(|other| !other.with(member) && other.governed());
        let recent = |other: &Member| other.seen.waiting || now < other.last_sign().saturating_add(RECENT);
        let mut higher = others().filter(|other| other.tenant.class > member.tenant.class).peekable();
        // While several contend, or tokens are waited for, a wake is due.
        let mut flags = if member.wants && !round.lease { QUIET } else { 0 };
        if others().any(|other| other.tenant.class < member.tenant.class) {
            flags |= URGENT;
        }
        let mut most = u32::MAX;
        if higher.peek().is_some() {
            flags |= YIELD;
            if member.wants {
                wake.at(now + LOOK);
            }
            if let Some(last) = higher.filter(|other| recent(other)).map(Member::last_sign).max() {
                most = self.config.yield_ahead;
                // After that it may queue again, and need not ring for it.
                wake.at(last.max(now).saturating_add(RECENT));
            }
        }
        let mine = |turn: &Turn| turn.is_of(member) && now < turn.until;
        let Some(turn) = round.turn.filter(mine).or(round.last.filter(mine)) else {
            return Grant { flags, ..Grant::CLOSED };
        };
        if now < round.floor_until {
            let (flags, until) = (flags & !YIELD, turn.until.min(round.floor_until));
            // A third of the piece may be queued: more overshoots it, less leaves it half used.
            let ahead = self.config.turn_ahead.min((self.config.least / 3) as u32);
            return Grant { mode: Mode::Window, flags, delay: 0, ahead, from: now, until };
        }
        if turn.until < u64::MAX {
            let ahead = self.config.turn_ahead.min(most);
            let delay = (turn.begins.saturating_sub(turn.from) / 1000).min(u64::from(u16::MAX)) as u16;
            let flags = if turn.free { flags | FREE } else { flags };
            return Grant { mode: Mode::Window, flags, delay, ahead, from: turn.from, until: turn.until };
        }
        let adaptive = others().filter(|other| other.tenant.isolation == Isolation::Adaptive && recent(other));
        if let Some(last) = adaptive.map(Member::last_sign).max() {
            most = most.min(self.config.adaptive_ahead);
            wake.at(last.max(now).saturating_add(RECENT));
        }
        Grant {
            mode: Mode::Lease,
            flags,
            delay: 0,
            ahead: self.config.lease_ahead.min(most),
            from: turn.from,
            until: 0,
        }
    }
}

/// The earliest time to decide again.
struct Wake {
    now: u64,
    at: Option<u64>,
}

impl Wake {
    fn at(&mut self, time: u64) {
        let time = time.max(self.now + 1);
        self.at = Some(self.at.map_or(time, |at| at.min(time)));
    }
}
