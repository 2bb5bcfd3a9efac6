//! NVML's MIG calls: modes, GPU instances, compute instances and the devices that they make.
use super::*;
use crate::mig::{Mig, compute_profile, compute_slices};
use crate::model::MigProfile;

/// That of a GPU instance is this, its device's index in the middle and its serial number; that of a compute instance likewise.
const INSTANCE: usize = 0x6e74 << 48;
const COMPUTE: usize = 0x6e73 << 48;

/// The handle of a MIG device.
pub(super) fn handle(index: usize, mig: &Mig, (id, compute): Ids) -> nvmlDevice_t {
    let computes = mig.computes(id);
    let serial = computes.iter().find(|(at, _)| *at == compute).map_or(0, |(_, compute)| compute.serial);
    (MIG_HANDLE + (index << 32) + serial as usize) as nvmlDevice_t
}

/// An instance of one call: its device, its state as it was found, and its ids.
struct Found<T> {
    device: Device,
    mig: Mig,
    ids: T,
}

fn find<T>(handle: *mut c_void, kind: usize, by: impl Fn(&Mig, u32) -> Option<T>) -> Outcome<Found<T>> {
    let nvml = started()?;
    let (index, serial) = parts(&nvml, handle as usize, kind).ok_or(error::INVALID_ARGUMENT)?;
    let mig = *nvml.shared.lock().mig(index);
    let ids = by(&mig, serial).ok_or(error::INVALID_ARGUMENT)?;
    Ok(Found { device: Device { nvml, index, mig: None }, mig, ids })
}

fn instance(handle: *mut c_void) -> Outcome<Found<usize>> {
    find(handle, INSTANCE, Mig::by_serial)
}

fn compute(handle: *mut c_void) -> Outcome<Found<Ids>> {
    find(handle, COMPUTE, Mig::compute_by_serial)
}

impl Device {
    pub(super) fn state(&self) -> Mig {
        *self.nvml.shared.lock().mig(self.index)
    }

    fn divided(&self) -> Outcome<Mig> {
        let mig = self.state();
        if self.model().mig && mig.mode(self.model()).0 { Ok(mig) } else { Err(error::NOT_SUPPORTED) }
    }

    fn profile(&self, wanted: impl Fn(&MigProfile) -> bool) -> Outcome<&MigProfile> {
        if !self.model().mig {
            return Err(error::NOT_SUPPORTED);
        }
        self.model().mig_profiles.iter().find(|profile| wanted(profile)).ok_or(error::NOT_SUPPORTED)
    }

    fn instance_handle(&self, mig: &Mig, id: usize) -> *mut c_void {
        let serial = mig.instance(id).map_or(0, |one| one.serial) as usize;
        (INSTANCE + (self.index << 32) + serial) as *mut c_void
    }

    fn compute_handle(&self, mig: &Mig, (id, compute): Ids) -> *mut c_void {
        let computes = mig.computes(id);
        let serial = computes.iter().find(|(at, _)| *at == compute).map_or(0, |(_, one)| one.serial as usize);
        (COMPUTE + (self.index << 32) + serial) as *mut c_void
    }

    fn create(&self, profile: u32, start: Option<u32>, to: *mut *mut c_void) -> Outcome {
        let mut shared = self.nvml.shared.lock();
        let mig = shared.mig(self.index);
        let id = mig.create(self.model(), profile, start)?;
        write(to, self.instance_handle(mig, id))
    }
}

impl Found<usize> {
    fn create(&self, profile: u32, start: Option<u32>, to: *mut *mut c_void) -> Outcome {
        let slices = compute_slices(profile).ok_or(error::INVALID_ARGUMENT)?;
        let mut shared = self.device.nvml.shared.lock();
        let mig = shared.mig(self.device.index);
        let compute = mig.create_compute(self.device.model(), self.ids, slices, start)?;
        write(to, self.device.compute_handle(mig, (self.ids, compute)))
    }

    /// The slices of an instance, and its profile.
    fn profile(&self) -> Outcome<&MigProfile> {
        let id = self.mig.instance(self.ids).map_or(0, |one| one.profile);
        self.device.profile(|profile| profile.id == id)
    }

    /// What a compute profile is of it: slices, most instances, multiprocessors; not supported where it is too large.
    fn compute_profile(&self, profile: c_uint, engine: c_uint) -> Outcome<[c_uint; 9]> {
        let own = self.profile()?;
        let slices = compute_slices(profile).filter(|_| engine == 0).ok_or(error::INVALID_ARGUMENT)?;
        if slices > own.slices {
            return Err(error::NOT_SUPPORTED);
        }
        let sms = own.sms * slices / own.slices;
        Ok([profile, slices, own.slices / slices, sms, own.copy_engines, own.decoders, 0, own.jpegs, own.ofas])
    }
}

/// A `nvmlGpuInstanceProfileInfo_t`, its first form.
#[repr(C)]
pub struct Profile {
    /// Id, peer access, slices, instances, multiprocessors, copy engines, decoders, encoders, JPEG, optical flow.
    first: [c_uint; 10],
    memory_mib: u64,
}

/// Its second form.
#[repr(C)]
pub struct ProfileV2 {
    version: c_uint,
    first: [c_uint; 10],
    memory_mib: u64,
    name: [u8; 96],
}

/// Its third form: no peer access, but capabilities.
#[repr(C)]
pub struct ProfileV3 {
    version: c_uint,
    first: [c_uint; 9],
    memory_mib: u64,
    name: [u8; 96],
    capabilities: c_uint,
}

/// A `nvmlComputeInstanceProfileInfo_v2_t`.
#[repr(C)]
pub struct ComputeProfileV2 {
    version: c_uint,
    first: [c_uint; 9],
    name: [u8; 96],
}

/// A `nvmlGpuInstanceInfo_t`.
#[repr(C)]
pub struct InstanceInfo {
    device: nvmlDevice_t,
    id: c_uint,
    profile: c_uint,
    start: c_uint,
    size: c_uint,
}

/// A `nvmlComputeInstanceInfo_t`, its second form; the first ends before the placement.
#[repr(C)]
pub struct ComputeInfo<const N: usize> {
    device: nvmlDevice_t,
    instance: *mut c_void,
    /// Id, profile, and where it lies.
    rest: [c_uint; N],
}

/// A `nvmlDeviceAttributes_t`.
#[repr(C)]
pub struct Attributes {
    /// Multiprocessors, copy engines, decoders, encoders, JPEG, optical flow, GPU slices, compute slices.
    first: [c_uint; 8],
    memory_mib: u64,
}

/// Writes a profile in the form that the caller names.
fn versioned(p: &MigProfile, to: *mut c_uint) -> Outcome {
    let version = argument(get(to))?;
    let name = fixed(&format!("MIG {}", p.name));
    let [a, b, c, d, e, f, g, h] = [p.slices, p.instances, p.sms, p.copy_engines, p.decoders, 0, p.jpegs, p.ofas];
    if version == size_of::<ProfileV2>() as c_uint | 2 << 24 {
        let first = [p.id, 0, a, b, c, d, e, f, g, h];
        return write(to.cast(), ProfileV2 { version, first, memory_mib: p.memory_mib, name });
    }
    if version == size_of::<ProfileV3>() as c_uint | 3 << 24 {
        let first = [p.id, a, b, c, d, e, f, g, h];
        return write(to.cast(), ProfileV3 { version, first, memory_mib: p.memory_mib, name, capabilities: 0 });
    }
    Err(error::ARGUMENT_VERSION_MISMATCH)
}

/// Writes handles; the caller has room for as many as there can be.
fn handles(found: Vec<*mut c_void>, to: *mut *mut c_void, count: *mut c_uint) -> Outcome {
    write(count, found.len() as c_uint)?;
    found.into_iter().enumerate().try_for_each(|(at, handle)| write(to.wrapping_add(at), handle))
}

/// Writes placements, or how many there are.
fn places(starts: &[u32], size: u32, to: *mut [c_uint; 2], count: *mut c_uint) -> Outcome {
    if to.is_null() {
        return write(count, starts.len() as c_uint);
    }
    list(starts.iter().map(|start| [*start, size]).collect(), count, to)
}

nvml! {
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) {
        let device = Device::whole(device)?;
        if !device.model().mig {
            return Err(error::NOT_SUPPORTED);
        }
        let (on, wanted) = device.state().mode(device.model());
        write(current, c_uint::from(on))?;
        write(pending, c_uint::from(wanted))
    }
    fn nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: c_uint, activation: *mut nvmlReturn_t) {
        let device = Device::whole(device)?;
        if mode > 1 {
            return Err(error::INVALID_ARGUMENT);
        }
        let mut shared = device.nvml.shared.lock();
        shared.collect();
        let idle = shared.users(device.index).is_empty();
        let outcome = shared.mig(device.index).set_mode(device.model(), mode == 1, idle)?;
        write(activation, outcome)
    }
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is: *mut c_uint) {
        write(is, c_uint::from(Device::of(device)?.mig.is_some()))
    }
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) {
        let device = Device::whole(device)?;
        let most = device.model().mig_profiles.iter().map(|profile| profile.instances).max();
        write(count, if device.model().mig { most.unwrap_or(7) } else { 0 })
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, to: *mut nvmlDevice_t) {
        let device = Device::whole(device)?;
        let mig = device.divided()?;
        let ids = mig.devices().get(index as usize).copied().ok_or(error::NOT_FOUND)?;
        write(to, handle(device.index, &mig, ids))
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig: nvmlDevice_t, to: *mut nvmlDevice_t) {
        let device = Device::of(mig)?;
        if device.mig.is_none() {
            return Err(error::INVALID_ARGUMENT);
        }
        write(to, (HANDLE + device.index) as nvmlDevice_t)
    }
    fn nvmlDeviceGetGpuInstanceId(mig: nvmlDevice_t, id: *mut c_uint) {
        write(id, Device::of(mig)?.mig.ok_or(error::INVALID_ARGUMENT)?.0.0 as c_uint)
    }
    fn nvmlDeviceGetComputeInstanceId(mig: nvmlDevice_t, id: *mut c_uint) {
        write(id, Device::of(mig)?.mig.ok_or(error::INVALID_ARGUMENT)?.0.1 as c_uint)
    }
    fn nvmlDeviceGetAttributes | nvmlDeviceGetAttributes_v2(mig: nvmlDevice_t, to: *mut Attributes) {
        let device = Device::of(mig)?;
        let ((id, compute), seen) = device.mig.as_ref().ok_or(error::INVALID_ARGUMENT)?;
        let state = device.state();
        let profile = state.instance(*id).map_or(0, |one| one.profile);
        let whole = &device.nvml.inventory.devices[device.index];
        let p = whole.mig_profiles.iter().find(|p| p.id == profile).ok_or(error::NOT_FOUND)?;
        let slices = state.computes(*id).into_iter().find(|(at, _)| at == compute).map_or(0, |(_, one)| one.slices);
        write(to, Attributes {
            first: [seen.sms, p.copy_engines, p.decoders, 0, p.jpegs, p.ofas, p.slices, slices],
            memory_mib: p.memory_mib,
        })
    }
    fn nvmlDeviceGetGpuInstanceProfileInfo(device: nvmlDevice_t, index: c_uint, to: *mut Profile) {
        let device = Device::whole(device)?;
        let p = device.profile(|profile| profile.index == index)?;
        let first = [p.id, 0, p.slices, p.instances, p.sms, p.copy_engines, p.decoders, 0, p.jpegs, p.ofas];
        write(to, Profile { first, memory_mib: p.memory_mib })
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoV(device: nvmlDevice_t, index: c_uint, to: *mut c_uint) {
        versioned(Device::whole(device)?.profile(|profile| profile.index == index)?, to)
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoByIdV(device: nvmlDevice_t, id: c_uint, to: *mut c_uint) {
        versioned(Device::whole(device)?.profile(|profile| profile.id == id)?, to)
    }
    fn nvmlDeviceGetGpuInstancePossiblePlacements | nvmlDeviceGetGpuInstancePossiblePlacements_v2(device: nvmlDevice_t, id: c_uint, to: *mut [c_uint; 2], count: *mut c_uint) {
        let device = Device::whole(device)?;
        let p = device.profile(|profile| profile.id == id)?;
        places(&p.starts, p.size, to, count)
    }
    fn nvmlDeviceGetGpuInstanceRemainingCapacity(device: nvmlDevice_t, id: c_uint, count: *mut c_uint) {
        let device = Device::whole(device)?;
        let mig = device.divided()?;
        write(count, mig.room(device.model(), mig.profile(device.model(), id)?))
    }
    fn nvmlDeviceCreateGpuInstance(device: nvmlDevice_t, profile: c_uint, to: *mut *mut c_void) {
        Device::whole(device)?.create(profile, None, to)
    }
    fn nvmlDeviceCreateGpuInstanceWithPlacement(device: nvmlDevice_t, profile: c_uint, place: *const [c_uint; 2], to: *mut *mut c_void) {
        let device = Device::whole(device)?;
        let [start, size] = argument(get(place))?;
        if device.profile(|p| p.id == profile)?.size != size {
            return Err(error::INVALID_ARGUMENT);
        }
        device.create(profile, Some(start), to)
    }
    fn nvmlDeviceGetGpuInstances(device: nvmlDevice_t, profile: c_uint, to: *mut *mut c_void, count: *mut c_uint) {
        let device = Device::whole(device)?;
        let mig = device.divided()?;
        mig.profile(device.model(), profile)?;
        let found = mig.instances().filter(|(_, one)| one.profile == profile);
        handles(found.map(|(id, _)| device.instance_handle(&mig, id)).collect(), to, count)
    }
    fn nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: c_uint, to: *mut *mut c_void) {
        let device = Device::whole(device)?;
        let mig = device.divided()?;
        mig.instance(id as usize).ok_or(error::NOT_FOUND)?;
        write(to, device.instance_handle(&mig, id as usize))
    }
    fn nvmlGpuInstanceGetInfo(gi: *mut c_void, to: *mut InstanceInfo) {
        let found = instance(gi)?;
        let profile = found.profile()?;
        let start = found.mig.instance(found.ids).map_or(0, |one| one.start);
        let device = (HANDLE + found.device.index) as nvmlDevice_t;
        write(to, InstanceInfo { device, id: found.ids as c_uint, profile: profile.id, start, size: profile.size })
    }
    fn nvmlGpuInstanceDestroy(gi: *mut c_void) {
        let found = instance(gi)?;
        found.device.nvml.shared.lock().mig(found.device.index).destroy(found.ids)
    }
    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(gi: *mut c_void, profile: c_uint, engine: c_uint, to: *mut [c_uint; 9]) {
        write(to, instance(gi)?.compute_profile(profile, engine)?)
    }
    fn nvmlGpuInstanceGetComputeInstanceProfileInfoV(gi: *mut c_void, profile: c_uint, engine: c_uint, to: *mut ComputeProfileV2) {
        let found = instance(gi)?;
        let version = argument(get(to.cast::<c_uint>()))?;
        if version != size_of::<ComputeProfileV2>() as c_uint | 2 << 24 {
            return Err(error::ARGUMENT_VERSION_MISMATCH);
        }
        let first = found.compute_profile(profile, engine)?;
        let own = found.profile()?;
        let part = if first[1] == own.slices { String::new() } else { format!("{}c.", first[1]) };
        write(to, ComputeProfileV2 { version, first, name: fixed(&format!("MIG {part}{}", own.name)) })
    }
    fn nvmlGpuInstanceGetComputeInstancePossiblePlacements(gi: *mut c_void, profile: c_uint, to: *mut [c_uint; 2], count: *mut c_uint) {
        let found = instance(gi)?;
        let slices = found.compute_profile(profile, 0)?[1];
        let starts: Vec<u32> = (0..found.profile()?.slices / slices).map(|at| at * slices).collect();
        places(&starts, slices, to, count)
    }
    fn nvmlGpuInstanceGetComputeInstanceRemainingCapacity(gi: *mut c_void, profile: c_uint, count: *mut c_uint) {
        let found = instance(gi)?;
        let slices = found.compute_profile(profile, 0)?[1];
        write(count, found.mig.compute_places(found.device.model(), found.ids, slices).len() as c_uint)
    }
    fn nvmlGpuInstanceCreateComputeInstance(gi: *mut c_void, profile: c_uint, to: *mut *mut c_void) {
        instance(gi)?.create(profile, None, to)
    }
    fn nvmlGpuInstanceCreateComputeInstanceWithPlacement(gi: *mut c_void, profile: c_uint, place: *const [c_uint; 2], to: *mut *mut c_void) {
        let [start, _] = argument(get(place))?;
        instance(gi)?.create(profile, Some(start), to)
    }
    fn nvmlGpuInstanceGetComputeInstances(gi: *mut c_void, profile: c_uint, to: *mut *mut c_void, count: *mut c_uint) {
        let found = instance(gi)?;
        let slices = compute_slices(profile).ok_or(error::INVALID_ARGUMENT)?;
        let computes = found.mig.computes(found.ids).into_iter().filter(|(_, one)| one.slices == slices);
        let all = computes.map(|(at, _)| found.device.compute_handle(&found.mig, (found.ids, at)));
        handles(all.collect(), to, count)
    }
    fn nvmlGpuInstanceGetComputeInstanceById(gi: *mut c_void, id: c_uint, to: *mut *mut c_void) {
        let found = instance(gi)?;
        let is = |(at, _): &(usize, _)| *at == id as usize;
        found.mig.computes(found.ids).into_iter().find(is).ok_or(error::NOT_FOUND)?;
        write(to, found.device.compute_handle(&found.mig, (found.ids, id as usize)))
    }
    fn nvmlComputeInstanceGetInfo(ci: *mut c_void, to: *mut ComputeInfo<2>) {
        let found = compute(ci)?;
        let [id, profile, ..] = found.numbers();
        let (device, instance) = found.around();
        write(to, ComputeInfo { device, instance, rest: [id, profile] })
    }
    fn nvmlComputeInstanceGetInfo_v2(ci: *mut c_void, to: *mut ComputeInfo<4>) {
        let found = compute(ci)?;
        let (device, instance) = found.around();
        write(to, ComputeInfo { device, instance, rest: found.numbers() })
    }
    fn nvmlComputeInstanceDestroy(ci: *mut c_void) {
        let found = compute(ci)?;
        let mut shared = found.device.nvml.shared.lock();
        shared.collect();
        let ids = (found.ids.0 as u32 + 1, found.ids.1 as u32 + 1);
        if shared.users(found.device.index).iter().any(|user| (user.usage.instance, user.usage.compute) == ids) {
            return Err(error::IN_USE);
        }
        shared.mig(found.device.index).destroy_compute(found.ids);
        Ok(())
    }
}

impl Found<Ids> {
    fn around(&self) -> (nvmlDevice_t, *mut c_void) {
        let device = (HANDLE + self.device.index) as nvmlDevice_t;
        (device, self.device.instance_handle(&self.mig, self.ids.0))
    }

    /// Id, profile, start and size.
    fn numbers(&self) -> [c_uint; 4] {
        let computes = self.mig.computes(self.ids.0);
        let one = computes.into_iter().find(|(at, _)| *at == self.ids.1).map(|(_, one)| one).unwrap_or_default();
        [self.ids.1 as c_uint, compute_profile(one.slices), one.start, one.slices]
    }
}
