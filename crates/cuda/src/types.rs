//! Types and constants of `cuda.h` and `nvml.h` that cross the ABI, as far as the stand-ins and the simulated driver
//! need them. Names and layouts are the headers' own.
#![allow(non_camel_case_types)]

use core::ffi::{c_int, c_uint, c_void};

/// Result of a driver call; 0 is success.
pub type CUresult = c_int;
/// Device ordinal.
pub type CUdevice = c_int;
/// Device address.
pub type CUdeviceptr = u64;
/// Opaque context handle.
pub type CUcontext = *mut c_void;
/// Opaque stream handle; 0, 1 and 2 name the default streams.
pub type CUstream = *mut c_void;
/// Opaque handle of any other kind.
pub type Handle = *mut c_void;

/// `CUresult` values.
pub mod error {
    use super::CUresult;
    /// No error.
    pub const SUCCESS: CUresult = 0;
    /// A parameter is out of range.
    pub const INVALID_VALUE: CUresult = 1;
    /// Not enough memory.
    pub const OUT_OF_MEMORY: CUresult = 2;
    /// `cuInit` has not been called or failed.
    pub const NOT_INITIALIZED: CUresult = 3;
    /// No CUDA device.
    pub const NO_DEVICE: CUresult = 100;
    /// The device ordinal is not valid.
    pub const INVALID_DEVICE: CUresult = 101;
    /// No context is bound to the calling thread.
    pub const INVALID_CONTEXT: CUresult = 201;
    /// The handle is not valid.
    pub const INVALID_HANDLE: CUresult = 400;
    /// A named symbol was not found.
    pub const NOT_FOUND: CUresult = 500;
    /// Work is still pending.
    pub const NOT_READY: CUresult = 600;
    /// A kernel used an address that is not mapped; the context is lost.
    pub const ILLEGAL_ADDRESS: CUresult = 700;
    /// The operation is not permitted.
    pub const NOT_PERMITTED: CUresult = 800;
    /// The operation is not supported.
    pub const NOT_SUPPORTED: CUresult = 801;
    /// The system is not yet ready to start CUDA work.
    pub const SYSTEM_NOT_READY: CUresult = 802;
    /// Driver and user-mode library disagree.
    pub const SYSTEM_DRIVER_MISMATCH: CUresult = 803;
    /// An unknown internal error.
    pub const UNKNOWN: CUresult = 999;
}

/// 16 bytes that name a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CUuuid {
    /// The bytes in the order in which `GPU-…` prints them.
    pub bytes: [u8; 16],
}

/// Where memory lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUmemLocation {
    /// 1 = device; other values are host, NUMA node or none.
    pub kind: c_int,
    /// The device ordinal where `kind` is 1.
    pub id: c_int,
}

/// `CUmemLocation::kind` of device memory.
pub const MEM_LOCATION_DEVICE: c_int = 1;

/// What `cuMemCreate` makes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUmemAllocationProp {
    /// Kind of allocation; 1 = pinned.
    pub kind: c_int,
    /// Handle types that may be exported.
    pub requested_handle_types: c_int,
    /// Where it lies.
    pub location: CUmemLocation,
    /// Windows only.
    pub win32_handle_meta_data: *mut c_void,
    /// Compression, GPUDirect and usage flags.
    pub alloc_flags: [u8; 8],
}

/// What `cuMemPoolCreate` makes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUmemPoolProps {
    /// Kind of allocation; 1 = pinned.
    pub alloc_type: c_int,
    /// Handle types that may be exported.
    pub handle_types: c_int,
    /// Where it lies.
    pub location: CUmemLocation,
    /// Windows only.
    pub win32_security_attributes: *mut c_void,
    /// Most bytes that the pool may reserve; 0 = no limit.
    pub max_size: usize,
    /// Usage flags.
    pub usage: u16,
    /// Must be zero.
    pub reserved: [u8; 54],
}

/// Parameters of a graph's allocation node; `bytesize` in, `dptr` out.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_MEM_ALLOC_NODE_PARAMS {
    /// The pool's properties; only the location matters.
    pub pool_props: CUmemPoolProps,
    /// Array of access descriptors.
    pub access_descs: *const c_void,
    /// Their number.
    pub access_desc_count: usize,
    /// Bytes asked for.
    pub bytesize: usize,
    /// Address of the allocation.
    pub dptr: CUdeviceptr,
}

/// One- or two-dimensional array.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_ARRAY_DESCRIPTOR {
    /// Elements in a row.
    pub width: usize,
    /// Rows; 0 for one dimension.
    pub height: usize,
    /// Element format.
    pub format: c_int,
    /// Channels of an element.
    pub num_channels: c_uint,
}

/// Array of up to three dimensions.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_ARRAY3D_DESCRIPTOR {
    /// Elements in a row.
    pub width: usize,
    /// Rows; 0 for one dimension.
    pub height: usize,
    /// Slices; 0 for two dimensions.
    pub depth: usize,
    /// Element format.
    pub format: c_int,
    /// Channels of an element.
    pub num_channels: c_uint,
    /// Layered, surface, cube map, sparse, deferred mapping …
    pub flags: c_uint,
}

/// A memory handle of another process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUipcMemHandle {
    /// Opaque.
    pub reserved: [u8; 64],
}

/// Result of an NVML call; 0 is success.
pub type nvmlReturn_t = c_int;
/// Opaque NVML device handle.
pub type nvmlDevice_t = *mut c_void;

/// `nvmlReturn_t` values.
pub mod nvml_error {
    use super::nvmlReturn_t;
    /// No error.
    pub const SUCCESS: nvmlReturn_t = 0;
    /// `nvmlInit` has not been called.
    pub const UNINITIALIZED: nvmlReturn_t = 1;
    /// A parameter is not valid.
    pub const INVALID_ARGUMENT: nvmlReturn_t = 2;
    /// The query is not supported on this device.
    pub const NOT_SUPPORTED: nvmlReturn_t = 3;
    /// The caller may not do this.
    pub const NO_PERMISSION: nvmlReturn_t = 4;
    /// No such device.
    pub const NOT_FOUND: nvmlReturn_t = 6;
    /// The caller's array is too small; the count needed was written.
    pub const INSUFFICIENT_SIZE: nvmlReturn_t = 7;
    /// The driver is not loaded.
    pub const DRIVER_NOT_LOADED: nvmlReturn_t = 9;
    /// The library could not be found.
    pub const LIBRARY_NOT_FOUND: nvmlReturn_t = 12;
    /// The library has no such function.
    pub const FUNCTION_NOT_FOUND: nvmlReturn_t = 13;
    /// Somebody uses it.
    pub const IN_USE: nvmlReturn_t = 19;
    /// There is no room for another one.
    pub const INSUFFICIENT_RESOURCES: nvmlReturn_t = 23;
    /// A versioned struct has a version that is not known.
    pub const ARGUMENT_VERSION_MISMATCH: nvmlReturn_t = 25;
    /// An unknown internal error.
    pub const UNKNOWN: nvmlReturn_t = 999;
}

/// `nvmlDeviceGetMemoryInfo`: bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlMemory_t {
    /// Physical memory.
    pub total: u64,
    /// Not allocated.
    pub free: u64,
    /// Allocated, the driver's own included.
    pub used: u64,
}

/// `nvmlDeviceGetMemoryInfo_v2`: bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlMemory_v2_t {
    /// Size of this struct with its version in the top byte.
    pub version: c_uint,
    /// Physical memory.
    pub total: u64,
    /// Kept by the driver and firmware.
    pub reserved: u64,
    /// Not allocated.
    pub free: u64,
    /// Allocated.
    pub used: u64,
}

/// One process of `nvmlDeviceGetComputeRunningProcesses` (first form).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlProcessInfo_v1_t {
    /// Process id.
    pub pid: c_uint,
    /// Bytes it uses, or `u64::MAX` where unknown.
    pub used_gpu_memory: u64,
}

/// One process of `nvmlDeviceGetComputeRunningProcesses_v2` and `_v3`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlProcessInfo_t {
    /// Process id.
    pub pid: c_uint,
    /// Bytes it uses, or `u64::MAX` where unknown.
    pub used_gpu_memory: u64,
    /// MIG GPU instance, or `u32::MAX`.
    pub gpu_instance_id: c_uint,
    /// MIG compute instance, or `u32::MAX`.
    pub compute_instance_id: c_uint,
}

/// `nvmlDeviceGetUtilizationRates`: percent of the last sample period.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlUtilization_t {
    /// Time in which a kernel ran.
    pub gpu: c_uint,
    /// Time in which device memory was read or written.
    pub memory: c_uint,
}

/// One sample of `nvmlDeviceGetProcessUtilization`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct nvmlProcessUtilizationSample_t {
    /// Process id.
    pub pid: c_uint,
    /// When, in microseconds since the epoch.
    pub time_stamp: u64,
    /// Percent of SM time.
    pub sm_util: c_uint,
    /// Percent of memory time.
    pub mem_util: c_uint,
    /// Percent of encoder time.
    pub enc_util: c_uint,
    /// Percent of decoder time.
    pub dec_util: c_uint,
}
