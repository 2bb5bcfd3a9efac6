//! MIG: what the GPUs are divided into, and how they become what they shall be. What is decided is in [`crate::mig`].
//!
//! One lock is held over everything that changes instances or promises them to slices. NVML is asked while it is held, so it
//! is never taken under the lock of the slices, and only where blocking is allowed.
use super::slices::forbidden;
use super::{Caller, Inner, Node, Reply, store_fault};
use crate::gpu::GpuInfo;
use crate::mig::{Card, carry_out};
use cleave_api::{
    ErrorBody, ErrorCode, MigAction, MigGpu, MigInstance, MigLayout, MigOutcome, MigPlace, MigRequest, MigStep,
};
use cleave_inventory::geometry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

/// Steps, each at its GPU's place, and the layouts that they lead to.
type Decided = (Vec<(usize, MigStep)>, BTreeMap<String, MigLayout>);

/// What was last said of each GPU that is not as it shall be, by UUID: said once.
pub type Trouble = HashMap<String, String>;

impl Node {
    /// Held over everything that changes instances or promises them to slices.
    pub(super) fn mig_lock(&self) -> MutexGuard<'_, Trouble> {
        self.mig_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The GPUs, each with the MIG mode that it is in now.
    pub(super) fn gpus_now(&self) -> Vec<GpuInfo> {
        let now = |(place, gpu): (usize, &GpuInfo)| GpuInfo { mig: self.nvml.mig_mode(place), ..gpu.clone() };
        self.nvml.gpus().iter().enumerate().map(now).collect()
    }

    /// A GPU with what uses it; `None` where it has no MIG.
    pub(super) fn mig_card(&self, place: usize) -> Reply<Option<Card<'_>>> {
        let Some(info) = self.nvml.gpus().get(place) else { return Ok(None) };
        let failed = |e: crate::gpu::NvmlError| {
            ErrorBody::new(ErrorCode::Unavailable, format!("GPU {}: {e}", info.index), "see the kernel's log")
        };
        let Some(now) = self.nvml.mig(place).map_err(failed)? else { return Ok(None) };
        let users = self.nvml.instance_users(place).map_err(failed)?;
        Ok(Some(Card { info, now, users, slices: slices_on(&self.lock(), &info.uuid) }))
    }

    /// The layouts that were applied, by GPU.
    pub(super) fn layouts(&self) -> Reply<BTreeMap<String, MigLayout>> {
        self.lock().store.layouts().map_err(store_fault)
    }

    /// MIG on every GPU.
    pub fn mig(&self, caller: &Caller) -> Reply<Vec<MigGpu>> {
        let layouts = self.layouts()?;
        let mut all = Vec::new();
        for (place, info) in self.nvml.gpus().iter().enumerate() {
            let mut shown = MigGpu {
                gpu: info.index,
                gpu_uuid: info.uuid.clone(),
                name: info.name.clone(),
                layout: layouts.get(&info.uuid).cloned(),
                ..MigGpu::default()
            };
            if let Some(card) = self.mig_card(place)? {
                self.show_mig(caller, &card, &mut shown);
            }
            all.push(shown);
        }
        Ok(all)
    }

    fn show_mig(&self, caller: &Caller, card: &Card<'_>, shown: &mut MigGpu) {
        (shown.enabled, shown.pending, shown.pci_id) = (card.now.enabled, card.now.pending, card.now.pci_id.clone());
        let seen: Vec<String> = {
            let inner = self.lock();
            let records = inner.slices.values().map(|live| &live.record);
            records.filter(|record| caller.sees(record)).map(|record| record.name.clone()).collect()
        };
        let geometry = geometry(&card.now.profiles);
        let taken = card.taken(&geometry);
        for found in &card.now.instances {
            let place = card.place_of(found);
            let profile = geometry.named(&place.profile);
            let (slices, processes) = card.users_of(found);
            shown.instances.push(MigInstance {
                id: found.id,
                size: profile.and_then(|at| card.now.profiles.get(at)).map_or(0, |profile| profile.size),
                profile: place.profile,
                start: found.start,
                uuid: found.uuid.clone(),
                slices: slices
                    .into_iter()
                    .filter(|name| seen.iter().any(|one| one == name))
                    .map(str::to_owned)
                    .collect(),
                processes: if caller.admin { processes } else { Vec::new() },
                busy: card.is_busy(found),
            });
        }
        let room = |at| geometry.fits(taken, at).map(|one| u32::from(one.start)).collect();
        shown.room = (0..geometry.profiles.len()).map(room).collect();
        shown.profiles = card.now.profiles.clone();
    }

    /// Makes GPUs what they shall be, all or none, and remembers it; with `dry_run` only says what would be done.
    pub fn apply_mig(&self, caller: &Caller, request: &MigRequest, dry_run: bool) -> Reply<MigOutcome> {
        if !caller.admin {
            return Err(forbidden("change MIG"));
        }
        let mut trouble = self.mig_lock();
        let outcome =
            |steps: &[(usize, MigStep)]| MigOutcome { steps: steps.iter().map(|(_, step)| step.clone()).collect() };
        if dry_run {
            return Ok(outcome(&self.decide_mig(request)?.0));
        }
        let (steps, layouts) = self.divide(|| self.decide_mig(request))?;
        let outcome = outcome(&steps);
        let mut inner = self.lock();
        for (uuid, layout) in &layouts {
            inner.store.put_layout(uuid, layout).map_err(store_fault)?;
            trouble.remove(uuid);
        }
        if let Some(words) = words_of(&outcome.steps) {
            inner.event("mig-applied", None, &words);
        }
        Ok(outcome)
    }

    /// What has to be done, each at its GPU's place, and the layouts with every place decided.
    fn decide_mig(&self, request: &MigRequest) -> Reply<Decided> {
        let (mut steps, mut layouts) = (Vec::new(), BTreeMap::new());
        for wish in &request.gpus {
            let unknown = || {
                let message = format!("there is no GPU \"{}\"", wish.gpu_uuid);
                ErrorBody::new(ErrorCode::NotFound, message, "`cleave mig list` shows what there is")
            };
            let place = self.place(&wish.gpu_uuid).ok_or_else(unknown)?;
            let (more, layout) = match self.mig_card(place)? {
                Some(card) => card.change(&wish.layout)?,
                None if !wish.layout.enabled && wish.layout.instances.is_empty() => continue,
                None => {
                    let info = self.nvml.gpus().get(place).ok_or_else(unknown)?;
                    let message =
                        format!("GPU {} ({}): this model has no MIG; nothing was changed", info.index, info.name);
                    let hint = "name other GPUs under `devices`, or filter them";
                    return Err(ErrorBody::new(ErrorCode::Refused, message, hint));
                }
            };
            if layouts.insert(wish.gpu_uuid.clone(), layout).is_some() {
                let message = format!("GPU {} is named twice", wish.gpu_uuid);
                return Err(ErrorBody::new(ErrorCode::Invalid, message, "give each GPU one layout"));
            }
            steps.extend(more.into_iter().map(|step| (place, step)));
        }
        Ok((steps, layouts))
    }

    /// Decides and does it. While a mode changes, no slice of a whole GPU is made, and those made before are seen.
    fn divide(&self, decide: impl Fn() -> Reply<Decided>) -> Reply<Decided> {
        let decided = decide()?;
        let mode = |(_, step): &(usize, MigStep)| matches!(step.action, MigAction::Enable | MigAction::Disable);
        if !decided.0.iter().any(mode) {
            return carry_out(&*self.nvml, &decided.0).map(|()| decided);
        }
        self.lock().modes += 1;
        let done = decide().and_then(|decided| carry_out(&*self.nvml, &decided.0).map(|()| decided));
        self.lock().modes += 1;
        done
    }

    /// Leaves a GPU as it is from now on: its layout is no longer looked after.
    pub fn forget_mig(&self, caller: &Caller, uuid: &str) -> Reply<()> {
        if !caller.admin {
            return Err(forbidden("change MIG"));
        }
        let _one = self.mig_lock();
        if self.lock().store.remove_layout(uuid).map_err(store_fault)? {
            return Ok(());
        }
        let message = format!("GPU {uuid} has no layout");
        Err(ErrorBody::new(ErrorCode::NotFound, message, "`cleave mig list` shows which GPUs have"))
    }

    /// Makes every GPU that has a layout, or slices with instances, what it shall be, as far as nothing busy is touched: after a
    /// reboot, or after somebody else changed it.
    pub fn reconcile_mig(&self) {
        let mut trouble = self.mig_lock();
        self.end_unused();
        let Ok(layouts) = self.layouts() else { return };
        for (place, info) in self.nvml.gpus().iter().enumerate() {
            let held: Vec<MigPlace> =
                slices_on(&self.lock(), &info.uuid).into_iter().filter_map(|(_, place)| place).collect();
            let wanted = layouts.get(&info.uuid);
            if wanted.is_none() && held.is_empty() {
                continue;
            }
            match self.restore_mig(place, wanted, &held) {
                Ok(steps) => {
                    trouble.remove(&info.uuid);
                    if let Some(words) = words_of(&steps) {
                        self.lock().event("mig-restored", None, &format!("not as it shall be: {words}"));
                    }
                }
                Err(error) if trouble.get(&info.uuid) != Some(&error.message) => {
                    self.lock().event("warning", None, &format!("MIG is not as it shall be: {}", error.message));
                    trouble.insert(info.uuid.clone(), error.message);
                }
                Err(_) => {}
            }
        }
    }

    fn restore_mig(&self, place: usize, wanted: Option<&MigLayout>, held: &[MigPlace]) -> Reply<Vec<MigStep>> {
        let decide = || {
            let Some(mut card) = self.mig_card(place)? else { return Ok(Decided::default()) };
            // Without a layout what else is there is nobody's business.
            let mut layout = wanted.cloned().unwrap_or_else(|| card.layout());
            for one in held {
                layout.enabled = true;
                if !layout.instances.contains(one) {
                    layout.instances.push(one.clone());
                }
            }
            if layout.enabled && !card.now.enabled {
                // Its slices have lost their instances, and nothing of them runs: they don't keep the mode from coming back.
                card.slices.retain(|(_, held)| held.is_none());
            }
            let (steps, _) = card.change(&layout)?;
            Ok((steps.into_iter().map(|step| (place, step)).collect(), BTreeMap::new()))
        };
        Ok(self.divide(decide)?.0.into_iter().map(|(_, step)| step).collect())
    }
}

/// The slices on a GPU, each with the instance that it has.
pub(super) fn slices_on(inner: &Inner, uuid: &str) -> Vec<(String, Option<MigPlace>)> {
    let records = inner.slices.values().map(|live| &live.record);
    let on = records.filter(|record| record.devices.iter().any(|device| device.uuid == uuid));
    on.map(|record| (record.name.clone(), record.mig.as_ref().map(|held| held.place.clone()))).collect()
}

/// The steps as a sentence; `None` without any.
fn words_of(steps: &[MigStep]) -> Option<String> {
    let made = steps.iter().filter(|step| step.action == MigAction::Create).count();
    let shown: Vec<String> = steps.iter().take(8).map(ToString::to_string).collect();
    let more = if steps.len() > 8 { format!(" and so on, {made} made in all") } else { String::new() };
    (!steps.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}
