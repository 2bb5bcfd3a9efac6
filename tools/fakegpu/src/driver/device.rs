//! Initialisation, devices and their attributes, errors' names.

use std::ffi::CStr;

use cleave_cuda::types::{CUuuid, error};
use core::ffi::{c_char, c_int, c_uint, c_void};

use crate::mps::multiprocessors;

use super::{Driver, Outcome, get_text, put, put_optional, put_text, start};

/// One device attribute; 0 for those that mean nothing here.
fn attribute(d: &Driver, device: usize, attribute: c_int) -> Outcome<c_int> {
    let model = d.model(device);
    let [major, minor] = model.compute_capability;
    let cc = major * 10 + minor;
    let kib = 1024;
    // Shared memory of a multiprocessor, and the most that a block may ask for, by compute capability.
    let (shared, block) = match cc {
        90.. if cc < 120 => (228, 227),
        80 | 87 => (164, 163),
        75 => (64, 64),
        86.. => (100, 99),
        70..=79 => (96, 96),
        _ => (112, 48),
    };
    Ok(match attribute {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 * kib,
        9 => 64 * kib,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536 * if cc == 37 && attribute == 82 { 2 } else { 1 },
        13 => (model.sm_clock_mhz * 1000) as c_int,
        14 | 30 => 512,
        15 => 1,
        16 => multiprocessors(model.sms, d.part()) as c_int,
        17 | 18 => 0,
        19 => 1,
        20 => 0,
        21 | 22 | 55 | 61 | 63 | 66 | 67 => 131072,
        23 => 65536,
        24..=26 => 16384,
        27 | 28 => 32768,
        29 | 43 | 54 | 62 | 65 | 68 => 2048,
        31 | 41 | 78 | 79 | 80 | 83 | 90 | 95 | 99 | 102 | 103 | 115 | 122 | 123 | 125 => 1,
        32 => c_int::from(model.brand == 14),
        33 => d.inventory.bus(device) as c_int,
        34 | 35 | 50 => 0,
        36 => (model.memory_clock_mhz * 1000) as c_int,
        37 => model.bus_width as c_int,
        38 => model.l2_bytes as c_int,
        39 => {
            if cc == 75 {
                1024
            } else if matches!(cc, 86..=89 | 120..) {
                1536
            } else {
                2048
            }
        }
        40 => {
            if model.brand == 14 {
                3
            } else {
                2
            }
        }
        42 => 32768,
        44 => 1,
        45 | 46 => 32768,
        47 | 48 => 8192,
        49 => 32768,
        51 => 32,
        52 | 53 => 32768,
        56 | 57 => 65536,
        58 | 59 => 32768,
        60 => 16384,
        64 => 32768,
        69 => 268_435_456,
        70 => 131072,
        71 => 65000,
        72 => 2_097_120,
        73 | 74 | 77 => 32768,
        75 => major,
        76 => minor,
        81 => shared * kib,
        84 | 85 => 0,
        87 => 2,
        88 => c_int::from(cc >= 90),
        89 | 91 | 92 | 93 | 94 => c_int::from(cc >= 60),
        96 => 0,
        97 => block * kib,
        98 => c_int::from(cc >= 70),
        106 => {
            if cc >= 80 {
                32
            } else {
                16
            }
        }
        108 => (model.l2_bytes / 8 * 5) as c_int,
        109 => 134_213_632,
        110 | 116 => c_int::from(model.brand == 14),
        111 => {
            if cc >= 80 {
                kib
            } else {
                0
            }
        }
        112 | 113 | 114 | 121 => 1,
        117 => 1,
        118 => 200,
        119 => 1,
        120 | 127 | 129 => c_int::from(cc >= 90),
        124 => 0,
        126 => {
            if cc >= 90 {
                4
            } else {
                1
            }
        }
        130 => 0,
        131 => -1,
        132 | 133 => 0,
        134 => 0,
        139 => model.pci_device_id as c_int,
        other if (1..=147).contains(&other) => 0,
        _ => return Err(error::INVALID_VALUE),
    })
}

/// Name and text of the errors that programs meet.
const ERRORS: &[(c_int, &CStr, &CStr)] = &[
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"driver shutting down"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"peer access is not supported between these two devices"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"OS call failed or operation not supported on this OS"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is already enabled"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access has not been enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"cannot set while device is active in this process"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"part or all of the requested memory range is already mapped"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"pointer does not correspond to a registered memory region"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"system has unsupported display driver / cuda driver combination"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"operation would result in a merge of separate capture sequences"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not ended in the same stream as it began"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"capturing stream has unjoined work"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"dependency created on uncaptured work in another stream"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"operation would make the legacy stream depend on a capturing blocking stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"operation not permitted on an event last recorded in a capturing stream"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

fn describe(
    code: c_int,
    to: *mut *const c_char,
    pick: impl Fn(&(c_int, &'static CStr, &'static CStr)) -> &'static CStr,
) -> Outcome {
    match ERRORS.iter().find(|(known, ..)| *known == code) {
        Some(row) => put(to, pick(row).as_ptr()),
        None => {
            put_optional(to, std::ptr::null());
            Err(error::INVALID_VALUE)
        }
    }
}

free_entry! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        start()
    }
    fn cuDriverGetVersion(version: *mut c_int) {
        // Answers before cuInit, too.
        let known = super::with(|d| Ok(d.inventory.cuda));
        put(version, known.ok().or_else(|| crate::place::open().map(|(inventory, _)| inventory.cuda)).unwrap_or(0))
    }
    fn cuGetErrorName(code: c_int, to: *mut *const c_char) {
        describe(code, to, |row| row.1)
    }
    fn cuGetErrorString(code: c_int, to: *mut *const c_char) {
        describe(code, to, |row| row.2)
    }
}

entry! {
    fn cuDeviceGetCount(d, count: *mut c_int) {
        put(count, d.visible.len() as c_int)
    }
    fn cuDeviceGet(d, device: *mut c_int, ordinal: c_int) {
        d.device(ordinal)?;
        put(device, ordinal)
    }
    fn cuDeviceGetName(d, name: *mut c_char, length: c_int, dev: c_int) {
        let device = d.device(dev)?;
        put_text(name, usize::try_from(length).unwrap_or(0), &d.model(device).name)
    }
    fn cuDeviceGetUuid(d, uuid: *mut CUuuid, dev: c_int) {
        let device = d.device(dev)?;
        put(uuid, CUuuid { bytes: d.inventory.uuid(device) })
    }
    fn cuDeviceGetUuid_v2(d, uuid: *mut CUuuid, dev: c_int) {
        let device = d.device(dev)?;
        // Unlike the first form it names a MIG device itself.
        put(uuid, CUuuid { bytes: d.mig.map_or(d.inventory.uuid(device), |ids| d.inventory.mig_uuid(device, ids)) })
    }
    fn cuDeviceGetLuid(d, _luid: *mut c_char, _mask: *mut c_uint, dev: c_int) {
        d.device(dev)?;
        Err(error::NOT_SUPPORTED)
    }
    fn cuDeviceTotalMem_v2(d, bytes: *mut usize, dev: c_int) {
        let device = d.device(dev)?;
        put(bytes, d.model(device).total_bytes as usize)
    }
    fn cuDeviceGetAttribute(d, value: *mut c_int, which: c_int, dev: c_int) {
        let device = d.device(dev)?;
        put(value, attribute(d, device, which)?)
    }
    fn cuDeviceComputeCapability(d, major: *mut c_int, minor: *mut c_int, dev: c_int) {
        let device = d.device(dev)?;
        let [first, second] = d.model(device).compute_capability;
        put(major, first)?;
        put(minor, second)
    }
    fn cuDeviceGetProperties(d, properties: *mut [c_int; 14], dev: c_int) {
        let device = d.device(dev)?;
        let of = |which| attribute(d, device, which);
        put(properties, [of(1)?, of(2)?, of(3)?, of(4)?, of(5)?, of(6)?, of(7)?, of(8)?, of(9)?, of(10)?, of(11)?, of(12)?, of(13)?, of(14)?])
    }
    fn cuDeviceGetPCIBusId(d, to: *mut c_char, length: c_int, dev: c_int) {
        let device = d.device(dev)?;
        // The driver prints a domain of four digits where NVML prints eight.
        put_text(to, usize::try_from(length).unwrap_or(0), &d.inventory.bus_id(device)[4..])
    }
    fn cuDeviceGetByPCIBusId(d, device: *mut c_int, bus_id: *const c_char) {
        let wanted = get_text(bus_id)?.to_ascii_uppercase();
        let found = d.visible.iter().copied().find(|&index| {
            let full = d.inventory.bus_id(index);
            [&full[..], &full[4..], &full[9..]].iter().any(|form| *form == wanted)
        });
        put(device, d.ordinal(found.ok_or(error::INVALID_DEVICE)?))
    }
    fn cuDeviceCanAccessPeer(d, can: *mut c_int, dev: c_int, peer: c_int) {
        let (device, peer) = (d.device(dev)?, d.device(peer)?);
        put(can, c_int::from(device != peer && d.model(device).id == d.model(peer).id && d.model(device).nvlinks > 0))
    }
    fn cuDeviceGetP2PAttribute(d, value: *mut c_int, which: c_int, dev: c_int, peer: c_int) {
        let (device, peer) = (d.device(dev)?, d.device(peer)?);
        if device == peer {
            return Err(error::INVALID_DEVICE);
        }
        let linked = d.model(device).id == d.model(peer).id && d.model(device).nvlinks > 0;
        // 1 performance rank, 2 access, 3 atomics, 4 arrays
        put(value, match which { 1 => 0, 2..=4 => c_int::from(linked), _ => return Err(error::INVALID_VALUE) })
    }
    fn cuDeviceGetTexture1DLinearMaxWidth(d, width: *mut usize, _format: c_int, channels: c_uint, dev: c_int) {
        d.device(dev)?;
        put(width, (1_usize << 28) / channels.max(1) as usize)
    }
    fn cuDeviceGetExecAffinitySupport(d, value: *mut c_int, _kind: c_int, dev: c_int) {
        d.device(dev)?;
        put(value, c_int::from(d.client.is_some()))
    }
    fn cuDeviceGetHostAtomicCapabilities(d, capabilities: *mut c_uint, _operations: *const c_int, count: c_uint, dev: c_int) {
        d.device(dev)?;
        for index in 0..count as usize {
            put(capabilities.wrapping_add(index), 0)?;
        }
        Ok(())
    }
    fn cuDeviceGetP2PAtomicCapabilities(d, capabilities: *mut c_uint, _operations: *const c_int, count: c_uint, dev: c_int, peer: c_int) {
        d.device(dev)?;
        d.device(peer)?;
        for index in 0..count as usize {
            put(capabilities.wrapping_add(index), 0)?;
        }
        Ok(())
    }
    fn cuDeviceRegisterAsyncNotification(d, dev: c_int, _callback: *mut c_void, _data: *mut c_void, handle: *mut u64) {
        d.device(dev)?;
        let id = d.handle();
        put(handle, id)
    }
    fn cuDeviceUnregisterAsyncNotification(d, dev: c_int, _handle: *mut c_void) {
        d.device(dev).map(|_| ())
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(d, blocks: *mut c_int, function: *mut c_void, threads: c_int, _shared: usize) {
        d.occupancy(blocks, function, threads)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(d, blocks: *mut c_int, function: *mut c_void, threads: c_int, _shared: usize, _flags: c_uint) {
        d.occupancy(blocks, function, threads)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(d, bytes: *mut usize, function: *mut c_void, _blocks: c_int, _threads: c_int) {
        d.function(function as u64)?;
        put(bytes, 48 * 1024)
    }
    fn cuOccupancyMaxPotentialBlockSize(d, grid: *mut c_int, block: *mut c_int, function: *mut c_void) {
        d.function(function as u64)?;
        let device = d.current_device()?;
        put(grid, d.model(device).sms as c_int * 2)?;
        put(block, 1024)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(d, grid: *mut c_int, block: *mut c_int, function: *mut c_void) {
        d.function(function as u64)?;
        let device = d.current_device()?;
        put(grid, d.model(device).sms as c_int * 2)?;
        put(block, 1024)
    }
    fn cuOccupancyMaxActiveClusters | cuOccupancyMaxPotentialClusterSize(d, value: *mut c_int, function: *mut c_void, _config: *const c_void) {
        d.function(function as u64)?;
        put(value, 8)
    }
}

impl Driver {
    fn occupancy(&self, blocks: *mut c_int, function: *mut c_void, threads: c_int) -> Outcome {
        self.function(function as u64)?;
        if threads <= 0 {
            return Err(error::INVALID_VALUE);
        }
        let resident = attribute(self, self.current_device()?, 39)?;
        put(blocks, (resident / ((threads + 31) / 32 * 32)).min(32))
    }
}
