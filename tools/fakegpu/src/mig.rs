//! MIG: the instances of a device, as arithmetic on what the processes share. All zeros is a device in the mode that its
//! model starts in, without instances.
//!
//! An instance's id follows from where it lies, as on the real cards; its serial number is never given out twice, and so
//! a handle made of one goes stale with it.
use cleave_cuda::types::{nvml_error as error, nvmlReturn_t};

use crate::model::{Inventory, MigProfile, Model};

/// Ids of GPU instances are below this.
pub const INSTANCES: usize = 16;
/// Ids of compute instances are below this.
pub const COMPUTES: usize = 7;

/// A compute instance: a part of a GPU instance's multiprocessors, and what a program sees as a device.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Compute {
    /// 0: there is none.
    pub serial: u32,
    /// Its first compute slice within the GPU instance, and how many it has.
    pub start: u32,
    /// See `start`.
    pub slices: u32,
}

/// A GPU instance: memory slices with what computes beside them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Instance {
    /// 0: there is none.
    pub serial: u32,
    /// The id of its profile.
    pub profile: u32,
    /// Its first memory slice.
    pub start: u32,
    /// By id.
    pub computes: [Compute; COMPUTES],
}

/// The MIG state of a device.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Mig {
    /// Whether its mode, and the mode that is wanted, are other than the model's at the start.
    flipped: u32,
    pending: u32,
    /// The last serial number given out.
    serial: u32,
    /// By id.
    instances: [Instance; INSTANCES],
}

/// A MIG device: the ids of a compute instance and of the GPU instance that it is in.
pub type Ids = (usize, usize);

/// The slices that an instance takes, the media extension as the last bit.
fn mask(profile: &MigProfile, start: u32) -> u32 {
    let media = if profile.name.contains("+me") { 1 << 31 } else { 0 };
    ((1 << profile.size) - 1) << start | media
}

/// The id of an instance: that of the whole GPU is 0, and so on down to single slices.
fn id_of(size: u32, start: u32, whole: u32) -> usize {
    let id = match size {
        _ if size == whole => 0,
        1 => 7 + start,
        2 => 3 + start / 2,
        _ if start > 0 => 1,
        _ => 2,
    };
    id as usize
}

/// The slices of a compute profile, by its id.
pub fn compute_slices(profile: u32) -> Option<u32> {
    [1, 2, 3, 4, 7].get(profile as usize).copied()
}

/// The compute profile of so many slices.
pub fn compute_profile(slices: u32) -> u32 {
    (0..5).find(|id| compute_slices(*id) == Some(slices)).unwrap_or(0)
}

impl Mig {
    /// Whether MIG divides the device, and whether that is wanted.
    pub fn mode(&self, model: &Model) -> (bool, bool) {
        (model.mig_enabled ^ (self.flipped != 0), model.mig_enabled ^ (self.pending != 0))
    }

    /// Wants a mode, which comes at once where nothing uses the device; what hinders it else. Instances must be gone first.
    pub fn set_mode(&mut self, model: &Model, on: bool, idle: bool) -> Result<nvmlReturn_t, nvmlReturn_t> {
        if !model.mig {
            return Err(error::NOT_SUPPORTED);
        }
        if !on && self.instances.iter().any(|one| one.serial != 0) {
            return Err(error::IN_USE);
        }
        self.pending = u32::from(on != model.mig_enabled);
        if self.pending != self.flipped && !idle {
            return Ok(error::IN_USE);
        }
        self.flipped = self.pending;
        Ok(error::SUCCESS)
    }

    /// The profile with this id, on a device that MIG divides now.
    pub fn profile<'a>(&self, model: &'a Model, id: u32) -> Result<&'a MigProfile, nvmlReturn_t> {
        if !self.mode(model).0 {
            return Err(error::NOT_SUPPORTED);
        }
        model.mig_profiles.iter().find(|profile| profile.id == id).ok_or(error::INVALID_ARGUMENT)
    }

    /// The slices that are taken.
    fn taken(&self, model: &Model) -> u32 {
        let taken = |(_, one): (usize, &Instance)| Some(mask(profile_of(model, one)?, one.start));
        self.instances().filter_map(taken).fold(0, |all, one| all | one)
    }

    /// Where an instance of a profile could be made now.
    pub fn places(&self, model: &Model, profile: &MigProfile) -> Vec<u32> {
        let taken = self.taken(model);
        profile.starts.iter().copied().filter(|start| mask(profile, *start) & taken == 0).collect()
    }

    /// How many instances of a profile could be made now.
    pub fn room(&self, model: &Model, profile: &MigProfile) -> u32 {
        let mut rest = *self;
        let more = || rest.create(model, profile.id, None).is_ok();
        std::iter::repeat_with(more).take_while(|made| *made).count() as u32
    }

    /// Makes an instance, where `start` says or else as early as there is room; its id.
    pub fn create(&mut self, model: &Model, profile: u32, start: Option<u32>) -> Result<usize, nvmlReturn_t> {
        let profile = self.profile(model, profile)?;
        if start.is_some_and(|start| !profile.starts.contains(&start)) {
            return Err(error::INVALID_ARGUMENT);
        }
        let mut places = self.places(model, profile).into_iter();
        let place = places.find(|place| start.is_none_or(|start| start == *place));
        let start = place.ok_or(error::INSUFFICIENT_RESOURCES)?;
        let whole = model.mig_profiles.iter().map(|profile| profile.size).max().unwrap_or(0);
        let id = id_of(profile.size, start, whole);
        self.serial += 1;
        self.instances[id] = Instance { serial: self.serial, profile: profile.id, start, ..Instance::default() };
        Ok(id)
    }

    /// Ends an instance; not one with compute instances in it.
    pub fn destroy(&mut self, id: usize) -> Result<(), nvmlReturn_t> {
        let one = self.instances.get_mut(id).ok_or(error::INVALID_ARGUMENT)?;
        if one.computes.iter().any(|compute| compute.serial != 0) {
            return Err(error::IN_USE);
        }
        *one = Instance::default();
        Ok(())
    }

    /// The compute slices of a GPU instance at which a compute instance of so many could start now.
    pub fn compute_places(&self, model: &Model, id: usize, slices: u32) -> Vec<u32> {
        let Some(all) = self.instance(id).and_then(|one| Some(profile_of(model, one)?.slices)) else {
            return Vec::new();
        };
        let computes = self.computes(id);
        let free =
            |start: &u32| computes.iter().all(|(_, c)| start + slices <= c.start || c.start + c.slices <= *start);
        (0..(all + 1).saturating_sub(slices)).step_by(slices as usize).filter(free).collect()
    }

    /// Makes a compute instance in a GPU instance; its id.
    pub fn create_compute(
        &mut self,
        model: &Model,
        id: usize,
        slices: u32,
        start: Option<u32>,
    ) -> Result<usize, nvmlReturn_t> {
        let mut places = self.compute_places(model, id, slices).into_iter();
        let place = places.find(|place| start.is_none_or(|start| start == *place));
        let start = place.ok_or(error::INSUFFICIENT_RESOURCES)?;
        let computes = &mut self.instances.get_mut(id).ok_or(error::INVALID_ARGUMENT)?.computes;
        let free = computes.iter().position(|compute| compute.serial == 0).ok_or(error::INSUFFICIENT_RESOURCES)?;
        self.serial += 1;
        computes[free] = Compute { serial: self.serial, start, slices };
        Ok(free)
    }

    /// Ends a compute instance; whether anything runs in it is the caller's to know.
    pub fn destroy_compute(&mut self, (id, compute): Ids) {
        if let Some(place) = self.instances.get_mut(id).and_then(|one| one.computes.get_mut(compute)) {
            *place = Compute::default();
        }
    }

    /// The instances with their ids.
    pub fn instances(&self) -> impl Iterator<Item = (usize, &Instance)> {
        self.instances.iter().enumerate().filter(|(_, one)| one.serial != 0)
    }

    /// The instance with this id.
    pub fn instance(&self, id: usize) -> Option<&Instance> {
        self.instances.get(id).filter(|one| one.serial != 0)
    }

    /// The compute instances of an instance with their ids.
    pub fn computes(&self, id: usize) -> Vec<(usize, Compute)> {
        let all = self.instance(id).map(|one| one.computes).unwrap_or_default();
        all.into_iter().enumerate().filter(|(_, compute)| compute.serial != 0).collect()
    }

    /// The MIG devices, in their order.
    pub fn devices(&self) -> Vec<Ids> {
        let of = |(id, _)| self.computes(id).into_iter().map(move |(compute, _)| (id, compute));
        self.instances().flat_map(of).collect()
    }

    /// The instance with this serial number.
    pub fn by_serial(&self, serial: u32) -> Option<usize> {
        self.instances().find(|(_, one)| one.serial == serial).map(|(id, _)| id)
    }

    /// The compute instance with this serial number.
    pub fn compute_by_serial(&self, serial: u32) -> Option<Ids> {
        let is = |(id, compute): &Ids| self.instances[*id].computes[*compute].serial == serial;
        self.devices().into_iter().find(is)
    }

    /// A MIG device as a model of its own: what a program sees.
    pub fn model(&self, model: &Model, (id, compute): Ids) -> Option<Model> {
        let one = self.instance(id)?;
        let profile = profile_of(model, one)?;
        let slices = one.computes.get(compute)?.slices;
        let part = if slices == profile.slices { String::new() } else { format!("{slices}c.") };
        Some(Model {
            name: format!("{} MIG {part}{}", model.name, profile.name),
            memory_mib: profile.memory_mib,
            total_bytes: profile.memory_mib << 20,
            sms: profile.sms * slices / profile.slices.max(1),
            nvlinks: 0,
            mig: false,
            ..model.clone()
        })
    }
}

fn profile_of<'a>(model: &'a Model, one: &Instance) -> Option<&'a MigProfile> {
    model.mig_profiles.iter().find(|profile| profile.id == one.profile)
}

/// What of the machine a program is shown: devices, or one MIG device, which shuts all others out.
pub(crate) fn visible(
    inventory: &Inventory,
    migs: &[Mig],
    setting: Option<&str>,
) -> (Vec<usize>, Option<(usize, Ids)>) {
    let devices = |device: usize| migs.get(device).map(Mig::devices).unwrap_or_default();
    if let Some(name) = setting.and_then(|text| text.split(',').next()).map(str::trim)
        && name.starts_with("MIG-")
    {
        let all = (0..inventory.devices.len()).flat_map(|at| devices(at).into_iter().map(move |ids| (at, ids)));
        let mut named = all.filter(|(at, ids)| name.len() > 4 && inventory.mig_uuid_text(*at, *ids).starts_with(name));
        let found = named.next().filter(|_| named.next().is_none());
        return (found.iter().map(|(at, _)| *at).collect(), found);
    }
    let divided = |device: &usize| inventory.devices[*device].mig && migs[*device].mode(&inventory.devices[*device]).0;
    let chosen = crate::model::visible(inventory, setting);
    // Whole devices come first; where there is none, the first MIG device is all there is.
    let whole: Vec<usize> = chosen.iter().copied().filter(|device| !divided(device)).collect();
    if !whole.is_empty() {
        return (whole, None);
    }
    let first = chosen.into_iter().find_map(|at| Some((at, *devices(at).first()?)));
    (first.iter().map(|(at, _)| *at).collect(), first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(spec: &str) -> Model {
        Inventory::parse(spec).expect("spec").devices.remove(0)
    }

    #[test]
    fn every_card_holds_what_its_profiles_promise() {
        for model in crate::model::models().into_iter().filter(|model| !model.mig_profiles.is_empty()) {
            let mut mig = Mig::default();
            assert_eq!(mig.set_mode(&model, true, true), Ok(error::SUCCESS));
            for profile in &model.mig_profiles {
                assert_eq!(mig.room(&model, profile), profile.instances, "{} {}", model.id, profile.name);
                // Ids of neighbours differ.
                let mut full = mig;
                while full.create(&model, profile.id, None).is_ok() {}
                assert_eq!(full.instances().count() as u32, profile.instances, "{} {}", model.id, profile.name);
            }
        }
    }

    #[test]
    fn a_mode_waits_for_an_idle_card_and_for_instances_to_go() {
        let (h100, t4) = (card("H100"), card("T4"));
        let mut mig = Mig::default();
        assert_eq!(mig.set_mode(&t4, true, true), Err(error::NOT_SUPPORTED));
        assert_eq!(mig.create(&h100, 19, None), Err(error::NOT_SUPPORTED));
        assert_eq!((mig.set_mode(&h100, true, false), mig.mode(&h100)), (Ok(error::IN_USE), (false, true)));
        assert_eq!((mig.set_mode(&h100, true, true), mig.mode(&h100)), (Ok(error::SUCCESS), (true, true)));
        let id = mig.create(&h100, 9, None).expect("room");
        assert_eq!(mig.set_mode(&h100, false, true), Err(error::IN_USE));
        let compute = mig.create_compute(&h100, id, 3, None).expect("room");
        assert_eq!(mig.destroy(id), Err(error::IN_USE));
        mig.destroy_compute((id, compute));
        assert_eq!((mig.destroy(id), mig.set_mode(&h100, false, true)), (Ok(()), Ok(error::SUCCESS)));
        assert_eq!(Mig::default().mode(&card("H100,mig")), (true, true));
    }

    #[test]
    fn instances_go_where_there_is_room_and_never_twice_by_one_serial_number() {
        let h100 = card("H100,mig");
        let mut mig = Mig::default();
        let four = mig.create(&h100, 5, None).expect("room");
        assert_eq!(mig.create(&h100, 5, None), Err(error::INSUFFICIENT_RESOURCES));
        assert_eq!(mig.create(&h100, 9, Some(0)), Err(error::INSUFFICIENT_RESOURCES));
        assert_eq!(mig.create(&h100, 9, Some(1)), Err(error::INVALID_ARGUMENT));
        assert_eq!(mig.create(&h100, 77, None), Err(error::INVALID_ARGUMENT));
        let three = mig.create(&h100, 9, Some(4)).expect("room");
        assert!(h100.mig_profiles.iter().all(|profile| mig.room(&h100, profile) == 0));
        let serial = mig.instance(three).expect("made").serial;
        assert_eq!((mig.destroy(three), mig.create(&h100, 9, None)), (Ok(()), Ok(three)));
        assert_eq!(mig.by_serial(serial), None);
        // A compute instance for each slice, and no more.
        for _ in 0..4 {
            mig.create_compute(&h100, four, 1, None).expect("room");
        }
        assert_eq!(mig.create_compute(&h100, four, 1, None), Err(error::INSUFFICIENT_RESOURCES));
        assert_eq!(mig.devices().len(), 4);
        let seen = mig.model(&h100, (four, 0)).expect("made");
        assert_eq!((seen.name.as_str(), seen.sms), ("NVIDIA H100 80GB HBM3 MIG 1c.4g.40gb", 16));
        // One media extension.
        let mut me = Mig::default();
        assert!(me.create(&h100, 20, None).is_ok());
        assert_eq!(me.create(&h100, 20, None), Err(error::INSUFFICIENT_RESOURCES));
    }

    #[test]
    fn a_program_sees_whole_devices_or_one_mig_device() {
        let inventory = Inventory::parse("2xH100,mig+T4").expect("spec");
        let mut migs = [Mig::default(); 3];
        for device in [0, 1] {
            let id = migs[device].create(&inventory.devices[device], 14, Some(2)).expect("room");
            migs[device].create_compute(&inventory.devices[device], id, 2, None).expect("room");
        }
        let seen = |setting: Option<&str>| visible(&inventory, &migs, setting);
        let name = inventory.mig_uuid_text(1, (4, 0));
        assert!(name.starts_with("MIG-") && name.len() == 40, "{name}");
        assert_eq!(seen(Some(&name)), (vec![1], Some((1, (4, 0)))));
        assert_eq!(seen(Some("MIG-")), (vec![], None));
        assert_eq!(seen(None), (vec![2], None));
        assert_eq!(seen(Some("1")), (vec![1], Some((1, (4, 0)))));
        assert_eq!(seen(Some(&inventory.uuid_text(0))), (vec![0], Some((0, (4, 0)))));
        migs[0] = Mig::default();
        assert_eq!(visible(&inventory, &migs, Some("0")), (vec![], None));
    }
}
