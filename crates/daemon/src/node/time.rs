//! The slices' shares of the GPUs' time.
use super::{Inner, Live, Node};
use crate::slice::{rest, thousandths};
use crate::turns::Party;
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
                    tenant: Tenant {
                        share: live.record.compute_percent.map_or(rest, thousandths),
                        isolation: Isolation::Balanced,
                        class: 1,
                        burst: 0,
                        paused: false,
                    },
                })
            });
            desk.arrange(parties.collect(), |id| inner.slices.contains_key(id));
        }
    }
}
