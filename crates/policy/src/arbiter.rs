//! The arbiter of one GPU: who may run when.
//!
//! The daemon calls [`observe`](Arbiter::observe) and then [`decide`](Arbiter::decide) at each [`Decision::next_wake`],
//! and at once when a process rings because it begins to wait at its gate, or when tenants were changed. Between those
//! it sleeps: a lone tenant, or none, costs nothing.

use crate::gate::Grant;
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
    /// Balanced, with shorter turns while a tenant of this kind needs little but soon.
    Adaptive,
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
    /// When something was sent last.
    pub last_launch: u64,
    /// Expected device time of the last operation sent, in ns (0: not known).
    pub op_ns: u64,
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
    /// The next turn opens this much before the present one ends, so that the GPU doesn't idle.
    pub lead: u64,
    /// How late the daemon may be woken.
    pub slack: u64,
    /// A tenant that sent nothing for this long after its work was done doesn't want the GPU.
    pub idle: u64,
    /// What may be queued under a lease.
    pub lease_ahead: u32,
    /// What may be queued in a turn.
    pub turn_ahead: u32,
    /// What may be queued below an active higher class: just enough to send an operation before the last one ends.
    pub yield_ahead: u32,
    /// The least that each class gets while a higher one takes everything, in thousandths.
    pub floor: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cycle: 20_000_000,
            least: 1_000_000,
            mean: 5_000_000,
            lead: 100_000,
            slack: 150_000,
            idle: 500_000,
            lease_ahead: 4_000_000,
            turn_ahead: 1_000_000,
            yield_ahead: 15_000,
            floor: 0,
        }
    }
}

/// What is to be published, and when to ask again.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    /// A grant for each tenant, in the order of their ids.
    pub grants: Vec<(TenantId, Grant)>,
    /// When to observe and decide again, if nobody rings before. `None`: not until somebody does.
    pub next_wake: Option<u64>,
}

/// Decides for one GPU.
#[derive(Clone, Debug)]
pub struct Arbiter {
    config: Config,
    tenants: Vec<(TenantId, Tenant)>,
}

impl Arbiter {
    /// An arbiter without tenants.
    pub fn new(config: Config) -> Arbiter {
        Arbiter { config, tenants: Vec::new() }
    }

    /// Adds a tenant or changes what it is entitled to; effective with the next decision.
    pub fn set(&mut self, id: TenantId, tenant: Tenant) {
        match self.tenants.binary_search_by_key(&id, |t| t.0) {
            Ok(at) => self.tenants[at].1 = tenant,
            Err(at) => self.tenants.insert(at, (id, tenant)),
        }
    }

    /// Forgets a tenant.
    pub fn remove(&mut self, id: TenantId) {
        self.tenants.retain(|t| t.0 != id);
    }

    /// Takes in what was published, as read at `now`. A tenant that isn't named did nothing.
    pub fn observe(&mut self, _now: u64, _observations: &[Observation]) {}

    /// Decides who may run. Publish the grants of those that lose first, then the others'.
    pub fn decide(&mut self, _now: u64) -> Decision {
        let open = Grant { mode: crate::gate::Mode::Lease, ahead: self.config.lease_ahead, ..Grant::CLOSED };
        Decision { grants: self.tenants.iter().map(|t| (t.0, open)).collect(), next_wake: None }
    }
}
