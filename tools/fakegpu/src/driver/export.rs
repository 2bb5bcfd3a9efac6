//! `cuGetExportTable`: NVIDIA's private tables of functions without published prototypes.
//!
//! The simulated driver has none. NVIDIA's CUDA runtimes ask for some of them when they start, among them one by which
//! the driver proves to be NVIDIA's own; the simulated driver does not pretend to be, so these runtimes stop there with
//! an error of their own. Programs that use the driver API or NVML are not concerned.

use cleave_cuda::types::{CUuuid, error};
use core::ffi::c_void;

free_entry! {
    fn cuGetExportTable(_to: *mut *const c_void, _id: *const CUuuid) {
        Err(error::NOT_FOUND)
    }
}
