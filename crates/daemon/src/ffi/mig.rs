//! NVML's MIG calls. Instances are found anew at each call: handles go stale when somebody else destroys what they name.
use super::nvml::{Device, Pci, RealNvml, Return, SUCCESS, text};
use super::survey::Asked;
use crate::gpu::{MigFound, MigNow, NvmlError};
use cleave_api::MigProfile;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
/// Indices of compute instance profiles to ask for: `nvml.h` counts them from 0, and knows fewer.
const COMPUTE_PROFILES: c_uint = 8;
/// Compute instances that a GPU instance can have at most.
const MOST_COMPUTES: usize = 16;
/// Compute instances of which all share their instance's engines.
const SHARED: c_uint = 0;

/// A GPU instance's or a compute instance's handle.
type Handle = *mut c_void;
type Handles = unsafe extern "C" fn(*mut c_void, c_uint, *mut Handle, *mut c_uint) -> Return;
type Destroy = unsafe extern "C" fn(Handle) -> Return;

/// A `nvmlGpuInstanceInfo_t`.
#[repr(C)]
struct InstanceInfo {
    device: Device,
    id: c_uint,
    profile: c_uint,
    start: c_uint,
    size: c_uint,
}

/// A `nvmlComputeInstanceProfileInfo_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ComputeProfile {
    id: c_uint,
    slices: c_uint,
    instances: c_uint,
    multiprocessors: c_uint,
    engines: [c_uint; 5],
}

impl RealNvml {
    /// A function of this name with the type that `nvml.h` declares for it.
    fn mig_function<T: Copy>(&self, name: &CStr) -> Result<T, NvmlError> {
        // SAFETY: each caller in this module names the type that `nvml.h` declares for the name.
        let found = unsafe { self.library().function(name) };
        found.ok_or_else(|| NvmlError::TooOld(format!("its NVML has no {}", name.to_string_lossy())))
    }

    /// MIG mode now and after a reset; `None` where the GPU has no MIG.
    pub(super) fn mig_modes(&self, device: Device) -> Result<Option<(bool, bool)>, NvmlError> {
        let name = c"nvmlDeviceGetMigMode";
        let Ok(function) = self.mig_function::<unsafe extern "C" fn(Device, *mut c_uint, *mut c_uint) -> Return>(name)
        else {
            return Ok(None);
        };
        let (mut now, mut pending) = (0, 0);
        // SAFETY: writes two numbers.
        match unsafe { function(device, &mut now, &mut pending) } {
            NOT_SUPPORTED => Ok(None),
            code => self.check(name, code).map(|()| Some((now == 1, pending == 1))),
        }
    }

    pub(super) fn mig_now(&self, device: Device) -> Result<Option<MigNow>, NvmlError> {
        let Some((enabled, pending)) = self.mig_modes(device)? else { return Ok(None) };
        let mut asked = Asked::new(self.library());
        let profiles = asked.profiles("", device);
        if let Some(problem) = asked.problems().first() {
            return Err(NvmlError::Call(problem.message.clone()));
        }
        let mut instances = Vec::new();
        let name = c"nvmlGpuInstanceGetInfo";
        for profile in profiles.iter().filter(|_| enabled) {
            for handle in self.instances(device, profile)? {
                let get: unsafe extern "C" fn(Handle, *mut InstanceInfo) -> Return = self.mig_function(name)?;
                let mut info = InstanceInfo { device: null_mut(), id: 0, profile: 0, start: 0, size: 0 };
                // SAFETY: writes one struct.
                self.check(name, unsafe { get(handle, &mut info) })?;
                instances.push(MigFound { id: info.id, profile: info.profile, start: info.start, uuid: None });
            }
        }
        if !instances.is_empty() {
            self.name_instances(device, &mut instances)?;
        }
        instances.sort_by_key(|one| (one.start, one.id));
        Ok(Some(MigNow { enabled, pending, pci_id: self.pci_id(device), profiles, instances }))
    }

    fn pci_id(&self, device: Device) -> Option<String> {
        let get: unsafe extern "C" fn(Device, *mut Pci) -> Return =
            self.mig_function(c"nvmlDeviceGetPciInfo_v3").ok()?;
        let mut pci = Pci::default();
        // SAFETY: writes one struct of this version.
        let code = unsafe { get(device, &mut pci) };
        (code == SUCCESS).then(|| format!("{:04x}:{:04x}", pci.device_id & 0xffff, pci.device_id >> 16))
    }

    /// Gives instances the UUIDs of their first MIG devices.
    fn name_instances(&self, device: Device, instances: &mut [MigFound]) -> Result<(), NvmlError> {
        let most: unsafe extern "C" fn(Device, *mut c_uint) -> Return =
            self.mig_function(c"nvmlDeviceGetMaxMigDeviceCount")?;
        let by_index: unsafe extern "C" fn(Device, c_uint, *mut Device) -> Return =
            self.mig_function(c"nvmlDeviceGetMigDeviceHandleByIndex")?;
        let number: unsafe extern "C" fn(Device, *mut c_uint) -> Return =
            self.mig_function(c"nvmlDeviceGetGpuInstanceId")?;
        let uuid: unsafe extern "C" fn(Device, *mut c_char, c_uint) -> Return =
            self.mig_function(c"nvmlDeviceGetUUID")?;
        let mut count = 0;
        // SAFETY: writes one number.
        self.check(c"nvmlDeviceGetMaxMigDeviceCount", unsafe { most(device, &mut count) })?;
        for index in 0..count {
            let mut mig: Device = null_mut();
            // SAFETY: writes one handle.
            match unsafe { by_index(device, index, &mut mig) } {
                NOT_FOUND => continue,
                code => self.check(c"nvmlDeviceGetMigDeviceHandleByIndex", code)?,
            }
            let (mut id, mut buffer) = (0, [0; 96]);
            // SAFETY: writes one number.
            self.check(c"nvmlDeviceGetGpuInstanceId", unsafe { number(mig, &mut id) })?;
            // SAFETY: writes at most the length given.
            let code = unsafe { uuid(mig, buffer.as_mut_ptr(), buffer.len() as c_uint) };
            self.check(c"nvmlDeviceGetUUID", code)?;
            if let Some(one) = instances.iter_mut().find(|one| one.id == id) {
                one.uuid.get_or_insert_with(|| text(&buffer));
            }
        }
        Ok(())
    }

    /// The handles of a profile's instances.
    fn instances(&self, device: Device, profile: &MigProfile) -> Result<Vec<Handle>, NvmlError> {
        let name = c"nvmlDeviceGetGpuInstances";
        let function: Handles = self.mig_function(name)?;
        let mut found = vec![null_mut(); profile.instances.clamp(16, 64) as usize];
        let mut count = 0;
        // SAFETY: writes as many handles as there are instances, for which `found` has room.
        self.check(name, unsafe { function(device, profile.id, found.as_mut_ptr(), &mut count) })?;
        found.truncate(count as usize);
        Ok(found)
    }

    pub(super) fn set_mode(&self, device: Device, on: bool) -> Result<(), NvmlError> {
        let name = c"nvmlDeviceSetMigMode";
        let function: unsafe extern "C" fn(Device, c_uint, *mut Return) -> Return = self.mig_function(name)?;
        let mut activation: Return = SUCCESS;
        // SAFETY: writes one code.
        let code = unsafe { function(device, c_uint::from(on), &mut activation) };
        self.check(name, code)?;
        if activation != SUCCESS {
            // It would come at some later reset, when nobody expects it.
            let mut ignored: Return = SUCCESS;
            // SAFETY: as above.
            unsafe { function(device, c_uint::from(!on), &mut ignored) };
        }
        self.check(c"MIG mode", activation)
    }

    pub(super) fn create(&self, device: Device, profile: &MigProfile, start: u32) -> Result<(), NvmlError> {
        let name = c"nvmlDeviceCreateGpuInstanceWithPlacement";
        let function: unsafe extern "C" fn(Device, c_uint, *const [c_uint; 2], *mut Handle) -> Return =
            self.mig_function(name)?;
        let (mut instance, place) = (null_mut(), [start, profile.size]);
        // SAFETY: reads one placement and writes one handle.
        self.check(name, unsafe { function(device, profile.id, &place, &mut instance) })?;
        self.create_compute(instance).inspect_err(|_| {
            if let Ok(destroy) = self.mig_function::<Destroy>(c"nvmlGpuInstanceDestroy") {
                // SAFETY: the handle is new, and nothing is in the instance.
                unsafe { destroy(instance) };
            }
        })
    }

    /// The compute profiles of a GPU instance.
    fn compute_profiles(&self, instance: Handle) -> Result<Vec<ComputeProfile>, NvmlError> {
        type Get = unsafe extern "C" fn(Handle, c_uint, c_uint, *mut ComputeProfile) -> Return;
        let get: Get = self.mig_function(c"nvmlGpuInstanceGetComputeInstanceProfileInfo")?;
        let ask = |index| {
            let mut profile = ComputeProfile::default();
            // SAFETY: writes one struct.
            (unsafe { get(instance, index, SHARED, &mut profile) } == SUCCESS).then_some(profile)
        };
        Ok((0..COMPUTE_PROFILES).filter_map(ask).collect())
    }

    /// Makes one compute instance of the whole of a GPU instance.
    fn create_compute(&self, instance: Handle) -> Result<(), NvmlError> {
        let whole = self.compute_profiles(instance)?.into_iter().max_by_key(|profile| profile.slices);
        let whole = whole.ok_or_else(|| NvmlError::Call("the instance has no compute profiles".into()))?;
        let name = c"nvmlGpuInstanceCreateComputeInstance";
        let function: unsafe extern "C" fn(Handle, c_uint, *mut Handle) -> Return = self.mig_function(name)?;
        let mut compute = null_mut();
        // SAFETY: writes one handle.
        self.check(name, unsafe { function(instance, whole.id, &mut compute) })
    }

    pub(super) fn destroy(&self, device: Device, id: u32) -> Result<(), NvmlError> {
        let name = c"nvmlDeviceGetGpuInstanceById";
        let by_id: unsafe extern "C" fn(Device, c_uint, *mut Handle) -> Return = self.mig_function(name)?;
        let destroy_compute: Destroy = self.mig_function(c"nvmlComputeInstanceDestroy")?;
        let destroy: Destroy = self.mig_function(c"nvmlGpuInstanceDestroy")?;
        let computes: Handles = self.mig_function(c"nvmlGpuInstanceGetComputeInstances")?;
        let mut instance = null_mut();
        // SAFETY: writes one handle.
        self.check(name, unsafe { by_id(device, id, &mut instance) })?;
        let mut gone = false;
        for profile in self.compute_profiles(instance)? {
            let (mut found, mut count) = ([null_mut(); MOST_COMPUTES], 0);
            // SAFETY: writes as many handles as there are compute instances, for which `found` has room.
            let code = unsafe { computes(instance, profile.id, found.as_mut_ptr(), &mut count) };
            self.check(c"nvmlGpuInstanceGetComputeInstances", code)?;
            for compute in found.into_iter().take(count as usize) {
                // SAFETY: the handle was found just now; a stale one is an error.
                let code = unsafe { destroy_compute(compute) };
                self.check(c"nvmlComputeInstanceDestroy", code)?;
                gone = true;
            }
        }
        // SAFETY: as above.
        self.check(c"nvmlGpuInstanceDestroy", unsafe { destroy(instance) }).inspect_err(|_| {
            if gone {
                let _ = self.create_compute(instance);
            }
        })
    }
}

/// The value that NVML writes where a process is in no instance.
pub(super) fn in_instance(id: c_uint) -> Option<u32> {
    (id as c_int >= 0).then_some(id)
}
