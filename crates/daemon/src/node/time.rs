//! The slices' shares of the GPUs' time.
use super::slices::forbidden;
use super::{Caller, Inner, Live, Node, Reply, store_fault};
use crate::slice::{Record, rest, thousandths};
use crate::turns::Party;
use cleave_api::{Mode, Slice};
use cleave_policy::arbiter::{Isolation, Tenant};
use std::sync::Arc;

impl Node {
    /// Tells the desks of `gpus` who has processes there and what each is entitled to. To be called after each change of
    /// either, under the lock: a slot is not given out again before its desk has read it for the last time.
    pub(super) fn arrange(&self, inner: &Inner, gpus: &[Option<usize>]) {
        for place in gpus.iter().copied().flatten() {
            let Some(desk) = self.desks.get(place) else { continue };
            let on_it = || inner.slices.values().filter(move |live| live.gpus.contains(&Some(place)));
            let works = |live: &&Live| live.processes.values().any(|member| !member.dead);
            let promised = on_it().filter_map(|live| live.record.compute_percent).sum();
            let without = on_it().filter(works).filter(|live| live.record.compute_percent.is_none()).count();
            let rest = rest(promised, without);
            let parties = on_it().filter(works).filter_map(|live| {
                Some(Party {
                    slice: live.record.id.clone(),
                    files: Arc::clone(&live.files),
                    device: live.gpus.iter().position(|gpu| *gpu == Some(place))?,
                    slots: live.processes.iter().filter(|(_, m)| !m.dead).map(|(slot, _)| *slot).collect(),
                    tenant: tenant(&live.record, rest),
                })
            });
            desk.arrange(parties.collect(), |id| inner.slices.contains_key(id));
        }
    }

    /// Stops a slice's programs at their next kernel, or lets them go on. It has happened when this returns.
    pub fn pause(&self, caller: &Caller, key: &str, paused: bool) -> Reply<Slice> {
        let mut inner = self.lock();
        let live = inner.seen(key, caller)?;
        if !caller.admin {
            return Err(forbidden(if paused { "pause slices" } else { "resume slices" }));
        }
        if live.record.paused != paused {
            let (record, gpus) = (Record { paused, ..live.record.clone() }, live.gpus.clone());
            inner.store.put(&record).map_err(store_fault)?;
            if let Some(live) = inner.slices.get_mut(&record.id) {
                live.record.paused = paused;
            }
            self.arrange(&inner, &gpus);
            let (kind, what) = if paused { ("slice-paused", "paused") } else { ("slice-resumed", "resumed") };
            inner.event(kind, Some(&record), &format!("slice {} was {what}", record.name));
        }
        let live = inner.seen(key, caller)?;
        Ok(self.show(live, &self.around(&inner, &live.record)))
    }
}

/// What a slice is entitled to; `rest` thousandths if it has no share of its own.
fn tenant(record: &Record, rest: u16) -> Tenant {
    Tenant {
        share: record.compute_percent.map_or(rest, thousandths),
        isolation: match record.mode {
            Mode::None => Isolation::None,
            Mode::Balanced => Isolation::Balanced,
            Mode::Strict => Isolation::Strict,
            Mode::Adaptive => Isolation::Adaptive,
        },
        class: record.priority.class(),
        burst: record.burst_ms.unwrap_or(0).saturating_mul(1_000_000),
        paused: record.paused,
    }
}
