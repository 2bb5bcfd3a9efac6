//! Slices of engine `mig`: the smallest instance that suffices, a free one or a new one, and its end with the slice that it
//! was made for.
use super::slices::{forbidden, some_name};
use super::{Caller, Node, Reply, store_fault};
use crate::engine::Choice;
use crate::gpu::{GpuInfo, MigFound, format_uuid};
use crate::mig::{Card, carry_out};
use crate::process;
use crate::slice::{self, Admitted, Held, Record, RecordDevice};
use cleave_api::{
    Engine, ErrorBody, ErrorCode, Fraction, MemoryAmount, MigAction, MigPlace, MigStep, Percent, Slice, SliceSpec,
    format_bytes,
};
use cleave_inventory::geometry;
use cleave_policy::mig::{Geometry, Instance, Mask};
use std::sync::Arc;

/// What a slice needs of a GPU.
#[derive(Clone, Copy, Debug)]
struct Need {
    bytes: u64,
    percent: f64,
}

/// Where a slice goes.
#[derive(Clone, Debug)]
struct Found {
    /// Place of the GPU.
    gpu: usize,
    instance: MigPlace,
    memory_bytes: u64,
    /// It has to be made first.
    new: bool,
    reason: String,
}

/// A GPU that MIG divides, as a slice may go to it.
struct Site<'a> {
    gpu: usize,
    card: Card<'a>,
    geometry: Geometry,
    taken: Mask,
}

impl<'a> Site<'a> {
    fn new(gpu: usize, card: Card<'a>) -> Self {
        let geometry = geometry(&card.now.profiles);
        let taken = card.taken(&geometry);
        Self { gpu, card, geometry, taken }
    }

    /// A free instance of a profile.
    fn free(&self, profile: usize) -> Option<MigPlace> {
        let name = &self.geometry.profiles.get(profile)?.name;
        let idle = self.card.now.instances.iter().filter(|found| found.uuid.is_some() && !self.card.is_busy(found));
        idle.map(|found| self.card.place_of(found)).find(|place| place.profile == *name)
    }

    /// Where a new instance costs least of what the GPU is still worth, and what it costs.
    fn room(&self, profile: usize) -> Option<(u64, MigPlace)> {
        let weights = vec![1; self.geometry.profiles.len()];
        let now = self.geometry.worth(self.taken, &weights);
        let cost =
            |one: &Instance| now.saturating_sub(self.geometry.worth(self.taken | self.geometry.mask(*one), &weights));
        let best = self.geometry.fits(self.taken, profile).min_by_key(cost)?;
        let profile = self.geometry.profiles.get(profile)?.name.clone();
        Some((cost(&best), MigPlace { profile, start: Some(best.start.into()) }))
    }

    /// Why a profile does not suffice, or there is none to be had.
    fn lacks(&self, profile: usize, need: Need) -> Option<String> {
        let kind = self.geometry.profiles.get(profile)?;
        let (usable, percent) = (kind.memory_mib << 20, self.geometry.percent(kind));
        Some(if usable < need.bytes {
            format!("{} has {} usable, less than {}", kind.name, format_bytes(usable), format_bytes(need.bytes))
        } else if f64::from(percent) < need.percent {
            format!("{} has {percent} % of the multiprocessors, less than {} %", kind.name, need.percent)
        } else {
            format!("no {} is free or fits", kind.name)
        })
    }
}

/// The first of the smallest profiles that suffice of which an instance is free or fits, on any of the GPUs.
fn find(sites: &[Site<'_>], need: Need) -> Result<Found, ErrorBody> {
    let mib = need.bytes.div_ceil(1 << 20);
    // GPUs of several models: what is smallest is decided by size and memory.
    let mut kinds: Vec<(u8, u64, usize, usize)> = Vec::new();
    for (at, site) in sites.iter().enumerate() {
        let suit = site.geometry.suitable(mib, need.percent);
        let key =
            |profile: &usize| site.geometry.profiles.get(*profile).map_or((0, 0), |kind| (kind.size, kind.memory_mib));
        kinds.extend(suit.iter().map(|profile| (key(profile).0, key(profile).1, at, *profile)));
    }
    kinds.sort_unstable();
    for group in kinds.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let with = || group.iter().filter_map(|(.., at, profile)| Some((sites.get(*at)?, *profile)));
        let free = with().find_map(|(site, profile)| Some((site, profile, site.free(profile)?, false)));
        let new = || {
            let rooms = with().filter_map(|(site, profile)| Some((site.room(profile)?, site, profile)));
            let best = rooms.min_by_key(|((cost, _), site, _)| (*cost, site.gpu));
            best.map(|((_, place), site, profile)| (site, profile, place, true))
        };
        if let Some((site, profile, instance, new)) = free.or_else(new) {
            return Ok(found(site, profile, instance, new, need));
        }
    }
    let Some(site) = sites.first() else {
        return Err(ErrorBody::new(ErrorCode::Refused, "no GPU is in MIG mode", "`cleave mig apply` turns it on"));
    };
    Err(none(sites, site, need, !kinds.is_empty()))
}

fn found(site: &Site<'_>, profile: usize, instance: MigPlace, new: bool, need: Need) -> Found {
    let order = site.geometry.by_size();
    let smaller = order.iter().take_while(|at| **at != profile);
    let mut words: Vec<String> = smaller.filter_map(|at| site.lacks(*at, need)).collect();
    let kind = site.geometry.profiles.get(profile);
    let memory_bytes = kind.map_or(0, |kind| kind.memory_mib << 20);
    let (name, start) = (&instance.profile, instance.start.unwrap_or_default());
    let how = if new { "a new one at memory slice" } else { "a free one at memory slice" };
    words.push(format!(
        "{name} has {} and {} % of the multiprocessors: {how} {start}",
        format_bytes(memory_bytes),
        kind.map_or(0, |kind| site.geometry.percent(kind)),
    ));
    Found { gpu: site.gpu, instance, memory_bytes, new, reason: words.join("; ") }
}

/// What is tightest, and what can be had.
fn none(sites: &[Site<'_>], site: &Site<'_>, need: Need, suits: bool) -> ErrorBody {
    let asked = match (need.bytes, need.percent) {
        (0, percent) => format!("{percent} % of the multiprocessors"),
        (bytes, 0.0) => format_bytes(bytes),
        (bytes, percent) => format!("{} and {percent} % of the multiprocessors", format_bytes(bytes)),
    };
    let order = site.geometry.by_size();
    if !suits {
        let largest = order.last().and_then(|at| site.lacks(*at, need)).unwrap_or_default();
        let message = format!("no MIG instance has {asked}: the largest, {largest}");
        return ErrorBody::new(
            ErrorCode::Refused,
            message,
            "ask for less, or for a slice of the whole GPU with MIG mode off",
        );
    }
    let nearest = sites.iter().find_map(|site| {
        let mut order = site.geometry.by_size();
        order.reverse();
        let near = order.into_iter().find(|at| site.free(*at).is_some() || site.room(*at).is_some())?;
        let kind = site.geometry.profiles.get(near)?;
        Some(format!(
            "nearest: {} with {} on GPU {}",
            kind.name,
            format_bytes(kind.memory_mib << 20),
            site.card.info.index
        ))
    });
    let message = format!("no MIG instance with {asked} is free, and none fits beside those that are there");
    ErrorBody::new(
        ErrorCode::Refused,
        message,
        nearest.unwrap_or_else(|| "delete a slice, or `cleave mig list` shows who has what".into()),
    )
}

impl Node {
    /// Makes a slice that has a MIG instance. Blocks for as long as making the instance takes.
    pub(super) fn create_mig(
        self: &Arc<Self>,
        caller: &Caller,
        spec: &SliceSpec,
        owner: u32,
        dry_run: bool,
    ) -> Reply<Slice> {
        let _one = self.mig_lock();
        let found = self.find_instance(spec)?;
        let gpu = self.nvml.gpus().get(found.gpu).cloned().unwrap_or_default();
        let (action, profile, start) = (MigAction::Create, Some(found.instance.profile.clone()), found.instance.start);
        let step = MigStep { gpu: gpu.index, action, profile, start };
        let admitted = self.admit_mig(spec, &gpu, &found)?;
        if dry_run {
            let instance = if found.new { MigFound::default() } else { self.instance(&found)? };
            return self.settle_mig(caller, spec, owner, (admitted, &gpu, instance, found), true);
        }
        if found.new {
            // First the row: what was made, and nothing has, is destroyed sooner or later.
            self.lock().store.put_made(&gpu.uuid, &found.instance).map_err(store_fault)?;
            carry_out(&*self.nvml, &[(found.gpu, step)])?;
        }
        let made = self
            .instance(&found)
            .and_then(|instance| self.settle_mig(caller, spec, owner, (admitted, &gpu, instance, found), false));
        if made.is_err() {
            self.end_unused();
        }
        made
    }

    /// The instance for a slice.
    fn find_instance(&self, spec: &SliceSpec) -> Reply<Found> {
        let gpus = self.gpus_now();
        let wanted = slice::places(&spec.gpu, &gpus)?;
        if let Some([_, _, ..]) = wanted.as_deref() {
            let message =
                format!("engine mig can't be had: the slice has GPUs {}, and an instance is of one", spec.gpu);
            return Err(ErrorBody::new(ErrorCode::Refused, message, "name one GPU, or `any`"));
        }
        let draining = self.lock().draining.clone();
        let mut sites = Vec::new();
        for (place, gpu) in gpus.iter().enumerate().filter(|(at, _)| wanted.as_ref().is_none_or(|all| all.contains(at)))
        {
            match self.mig_card(place)? {
                Some(card) if card.now.enabled && (wanted.is_some() || !draining.contains(&gpu.uuid)) => {
                    sites.push(Site::new(place, card));
                }
                _ if wanted.is_none() => {}
                other => {
                    let why = if other.is_some() { "MIG mode is off" } else { "this model has no MIG" };
                    let message = format!("engine mig can't be had: GPU {} ({}): {why}", gpu.index, gpu.name);
                    let hint = "`cleave mig apply` turns MIG mode on; `cleave modes` lists what each GPU can";
                    return Err(ErrorBody::new(ErrorCode::Refused, message, hint));
                }
            }
        }
        // Parts are parts of the whole GPU; of unlike ones, of the first.
        let whole = sites.first().map_or(0, |site| site.card.info.memory_bytes);
        let bytes = match (spec.fraction, spec.memory) {
            (Some(fraction), _) => fraction.of(whole),
            (None, memory) => memory.map_or(0, |memory| memory.of(whole)),
        };
        let percent = spec.fraction.map(Fraction::percent).or(spec.compute).map_or(0.0, Percent::get);
        find(&sites, Need { bytes, percent })
    }

    /// Checks the rest of the spec, with the instance as the card; what it may use of it.
    fn admit_mig(&self, spec: &SliceSpec, gpu: &GpuInfo, found: &Found) -> Reply<Admitted> {
        let card = GpuInfo { memory_bytes: found.memory_bytes, ..gpu.clone() };
        let mut asked = SliceSpec { gpu: "any".into(), ..spec.clone() };
        match (spec.fraction, spec.memory, spec.compute) {
            (Some(fraction), None, None) => {
                asked.memory = Some(MemoryAmount::Bytes(fraction.of(gpu.memory_bytes)));
                asked.compute = Some(fraction.percent());
                asked.fraction = None;
            }
            _ => asked.memory = spec.memory.map(|memory| MemoryAmount::Bytes(memory.of(gpu.memory_bytes))),
        }
        let inner = self.lock();
        let draining = inner.draining.contains(&gpu.uuid);
        let cards = [slice::Card { info: &card, context_bytes: None, can: true, draining }];
        let terms = slice::Terms { machine_bytes: process::machine_memory(), ..slice::Terms::default() };
        slice::admit(&asked, None, &cards, &[], terms, some_name(), |name| inner.names.contains_key(name))
    }

    /// The instance as it is now.
    fn instance(&self, found: &Found) -> Reply<MigFound> {
        let instance = self.mig_card(found.gpu)?.and_then(|card| {
            let is = |one: &&MigFound| one.uuid.is_some() && card.place_of(one) == found.instance;
            card.now.instances.iter().find(is).cloned()
        });
        let gone = || {
            let message = format!("the instance {} is gone again", found.instance.profile);
            ErrorBody::new(ErrorCode::Unavailable, message, "somebody else changes MIG; try again")
        };
        instance.ok_or_else(gone)
    }

    fn settle_mig(
        self: &Arc<Self>,
        caller: &Caller,
        spec: &SliceSpec,
        owner: u32,
        (admitted, gpu, instance, found): (Admitted, &GpuInfo, MigFound, Found),
        dry_run: bool,
    ) -> Reply<Slice> {
        let limit_bytes = admitted.devices.first().map_or(0, |(_, bytes)| *bytes);
        let uuid =
            super::slices::new_uuid().ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "no random numbers", ""))?;
        let base = super::slices::record_of(caller, spec, owner, &admitted);
        let record = Record {
            id: format!("SLICE-{}", format_uuid(uuid)),
            name: admitted.names.into_iter().next().unwrap_or_default(),
            devices: vec![RecordDevice {
                uuid: gpu.uuid.clone(),
                index: gpu.index,
                limit_bytes,
                ..RecordDevice::default()
            }],
            choice: Choice { engine: Engine::Mig, reason: found.reason },
            trust_domain: spec.trust_domain.clone(),
            mig: Some(Held {
                place: found.instance,
                uuid: instance.uuid.unwrap_or_default(),
                id: instance.id,
                memory_bytes: found.memory_bytes,
            }),
            ..base
        };
        let mut inner = self.lock();
        if !dry_run {
            self.make(&mut inner, std::slice::from_ref(&record))?;
        }
        let around = self.around(&inner, &record);
        Ok(self.show_made(&inner, &record, &around))
    }

    /// Destroys the instances that were made for slices and that no slice has any more, once nothing runs in them; those that
    /// a layout has stay. To be called under the lock.
    pub(super) fn end_unused(&self) {
        let made = self.lock().store.made().unwrap_or_default();
        for (uuid, place) in made {
            if let Err(error) = self.end_one(&uuid, &place) {
                tracing::warn!("the MIG instance {} is left: {error}", place.profile);
            }
        }
    }

    fn end_one(&self, uuid: &str, place: &MigPlace) -> Reply<()> {
        let layout = self.layouts()?.remove(uuid);
        let card =
            self.place(uuid).map_or(Ok(None), |gpu| self.mig_card(gpu).map(|card| card.map(|card| (gpu, card))))?;
        if let Some((gpu, card)) = card.filter(|_| layout.is_none_or(|layout| !layout.instances.contains(place))) {
            if card.slices.iter().any(|(_, held)| held.as_ref() == Some(place)) {
                return Ok(());
            }
            if let Some(found) = card.now.instances.iter().find(|found| card.place_of(found) == *place) {
                if card.is_busy(found) {
                    return Ok(());
                }
                let (action, profile, start) = (MigAction::Destroy, Some(place.profile.clone()), place.start);
                carry_out(&*self.nvml, &[(gpu, MigStep { gpu: card.info.index, action, profile, start })])?;
            }
        }
        self.lock().store.remove_made(uuid, place).map_err(store_fault)
    }

    /// As [`Node::end_unused`], where blocking is not allowed.
    pub(super) fn ending_unused(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let node = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _one = node.mig_lock();
            node.end_unused();
        })
    }

    /// Makes a slice whose engine may be `mig`; `None` where it is to be made otherwise.
    pub(super) async fn try_mig(
        self: &Arc<Self>,
        caller: &Caller,
        spec: &SliceSpec,
        owner: u32,
        dry_run: bool,
    ) -> Reply<Option<Slice>> {
        if !caller.admin {
            return Err(forbidden("create slices"));
        }
        let gpus = self.gpus_now();
        let chosen = slice::places(&spec.gpu, &gpus)?;
        let candidates =
            || gpus.iter().enumerate().filter(|(at, _)| chosen.as_ref().is_none_or(|all| all.contains(at)));
        let divided = candidates().any(|(_, gpu)| gpu.mig == Some(true));
        let whole = candidates().any(|(_, gpu)| gpu.mig != Some(true));
        // A trust domain, or the operator, asks for something that whole GPUs have; where there is none, an instance will do.
        let told = !matches!(self.config.engine, Engine::Auto | Engine::Mig) || spec.trust_domain.is_some();
        let may = spec.engine == Engine::Auto && divided && !(whole && told);
        if spec.engine != Engine::Mig && !may {
            return Ok(None);
        }
        let (node, caller, own) = (Arc::clone(self), *caller, spec.clone());
        let made = tokio::task::spawn_blocking(move || node.create_mig(&caller, &own, owner, dry_run)).await;
        let made = made.map_err(|e| ErrorBody::new(ErrorCode::Internal, format!("it ended half way: {e}"), ""))?;
        match made {
            Err(error) if error.code == ErrorCode::Refused && may && whole => Ok(None),
            made => made.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::MigNow;
    use cleave_api::MigProfile;

    fn profiles() -> Vec<MigProfile> {
        let rows: [(&str, u32, u64, u32, &[u32]); 4] = [
            ("1g.18gb", 16, 16384, 1, &[0, 1, 2, 3, 4, 5, 6]),
            ("1g.35gb", 26, 33024, 2, &[0, 2, 4, 6]),
            ("3g.71gb", 60, 71168, 4, &[0, 4]),
            ("7g.141gb", 132, 142_848, 8, &[0]),
        ];
        let profile = |(id, (name, sms, memory_mib, size, starts)): (u32, (&str, u32, u64, u32, &[u32]))| MigProfile {
            name: name.into(),
            id,
            multiprocessors: sms,
            memory_mib,
            starts: starts.into(),
            size,
            ..MigProfile::default()
        };
        (0..).zip(rows).map(profile).collect()
    }

    /// Which instance a need gets on an H200 where `instances` (profile, start, whose slice) are.
    fn place(
        instances: &[(u32, u32, Option<&str>)],
        gib: u64,
        percent: f64,
    ) -> Result<(MigPlace, bool, String), ErrorBody> {
        let info = GpuInfo::default();
        let all = instances.iter().map(|(profile, start, _)| MigFound {
            id: *start,
            profile: *profile,
            start: *start,
            uuid: Some("MIG-".into()),
        });
        let now = MigNow { enabled: true, profiles: profiles(), instances: all.collect(), ..MigNow::default() };
        let mut card = Card { info: &info, now, users: Vec::new(), slices: Vec::new() };
        for (found, (.., name)) in card.now.instances.clone().iter().zip(instances) {
            let held = card.place_of(found);
            card.slices.extend(name.map(|name| (name.to_owned(), Some(held))));
        }
        let found = find(&[Site::new(0, card)], Need { bytes: gib << 30, percent })?;
        Ok((found.instance, found.new, found.reason))
    }

    fn at(profile: &str, start: u32) -> MigPlace {
        MigPlace { profile: profile.into(), start: Some(start) }
    }

    #[test]
    fn b11_the_smallest_instance_whose_usable_memory_suffices_and_why() {
        let (instance, new, reason) = place(&[], 18, 20.0).unwrap();
        assert!(instance.profile == "1g.35gb" && new, "{instance:?}");
        assert!(reason.starts_with("1g.18gb has 16 GiB usable, less than 18 GiB; 1g.35gb has 32.25 GiB"), "{reason}");
        assert!(reason.contains("20 % of the multiprocessors"), "{reason}");
        let (instance, _, reason) = place(&[], 1, 40.0).unwrap();
        assert_eq!(instance, at("3g.71gb", 4));
        assert!(reason.contains("1g.35gb has 20 % of the multiprocessors, less than 40 %"), "{reason}");
        let error = place(&[], 200, 0.0).unwrap_err();
        assert!(error.message.contains("7g.141gb has 139.50 GiB usable, less than 200 GiB"), "{error}");
    }

    #[test]
    fn a_free_instance_is_taken_before_a_new_one_is_made() {
        assert_eq!(place(&[(1, 2, None)], 18, 0.0).unwrap().0, at("1g.35gb", 2));
        let (instance, new, _) = place(&[(1, 2, Some("a"))], 18, 0.0).unwrap();
        assert!(new && instance != at("1g.35gb", 2), "{instance:?}");
        // A larger one where no smaller fits.
        let full = [(2, 0, Some("a")), (2, 4, None)];
        let (instance, new, reason) = place(&full, 18, 0.0).unwrap();
        assert_eq!((instance, new), (at("3g.71gb", 4), false));
        assert!(reason.contains("no 1g.35gb is free or fits"), "{reason}");
        let error = place(&[(2, 0, Some("a")), (0, 4, None), (2, 4, Some("b"))], 18, 0.0).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("nearest: 1g.18gb with 16 GiB on GPU 0"));
    }
}
