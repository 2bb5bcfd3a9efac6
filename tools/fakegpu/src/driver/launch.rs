//! Launching kernels.

use cleave_cuda::types::error;
use core::ffi::{c_int, c_uint, c_void};

use super::abi::{CUDA_KERNEL_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2, CUlaunchConfig};
use super::engine::Engine;
use super::graph::Work;
use super::{Driver, Outcome, get, with};

impl Driver {
    /// Checks a launch and makes room for its stack.
    pub(crate) fn kernel_check(&mut self, params: &CUDA_KERNEL_NODE_PARAMS_v2, context: u64) -> Outcome {
        let first = &params.first;
        let handle = if first.func != 0 { first.func } else { params.kern };
        let function = self.function(handle)?;
        let (module, local) = (function.module, function.kernel.local);
        self.module_arrives(module)?;
        let threads: u64 = first.block.iter().map(|&n| u64::from(n)).product();
        if first.grid.contains(&0) || threads == 0 || threads > 1024 || first.block[2] > 64 {
            return Err(error::INVALID_VALUE);
        }
        if first.shared_mem_bytes > 227 * 1024 {
            return Err(error::INVALID_VALUE);
        }
        self.stack_grow(context, local)
    }

    #[allow(clippy::too_many_arguments)] // The C prototype has more.
    fn launch(
        &mut self,
        func: *mut c_void,
        grid: [c_uint; 3],
        block: [c_uint; 3],
        shared_mem_bytes: c_uint,
        stream: *mut c_void,
        per_thread: bool,
        kernel_params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Outcome {
        let stream = self.stream(stream, per_thread)?;
        let params = CUDA_KERNEL_NODE_PARAMS_v2 {
            first: CUDA_KERNEL_NODE_PARAMS {
                func: func as u64,
                grid,
                block,
                shared_mem_bytes,
                kernel_params: kernel_params as u64,
                extra: extra as u64,
            },
            kern: 0,
            ctx: 0,
        };
        let work = self.kernel_work(params)?;
        self.submit(stream, work)?;
        self.launched(stream);
        Ok(())
    }

    /// A launch of a kernel, with how long it takes as the parameters are now.
    pub(crate) fn kernel_work(&self, params: CUDA_KERNEL_NODE_PARAMS_v2) -> Outcome<Work> {
        let first = &params.first;
        let kernel = &self.function(if first.func != 0 { first.func } else { params.kern })?.kernel;
        let duration = kernel.launch_duration(first.kernel_params, first.extra)?;
        Ok(Work::Kernel(params, duration))
    }
}

free_entry! {
    fn cuLaunchKernel | cuLaunchKernel_ptsz(f: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: *mut c_void, params: *mut *mut c_void, extra: *mut *mut c_void) {
        Engine::wait_room(stream, PER_THREAD)?;
        with(|d| d.launch(f, [gx, gy, gz], [bx, by, bz], shared, stream, PER_THREAD, params, extra))
    }
    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(f: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: *mut c_void, params: *mut *mut c_void) {
        Engine::wait_room(stream, PER_THREAD)?;
        with(|d| d.launch(f, [gx, gy, gz], [bx, by, bz], shared, stream, PER_THREAD, params, std::ptr::null_mut()))
    }
    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(config: *const CUlaunchConfig, f: *mut c_void, params: *mut *mut c_void, extra: *mut *mut c_void) {
        let c = get(config)?;
        Engine::wait_room(c.stream, PER_THREAD)?;
        with(|d| d.launch(f, c.grid, c.block, c.shared_mem_bytes, c.stream, PER_THREAD, params, extra))
    }
}

entry! {
    fn cuLaunch(d, f: *mut c_void) {
        d.launch(f, [1; 3], [1; 3], 0, std::ptr::null_mut(), false, std::ptr::null_mut(), std::ptr::null_mut())
    }
    fn cuLaunchGrid(d, f: *mut c_void, width: c_int, height: c_int) {
        d.launch(f, [width as c_uint, height as c_uint, 1], [1; 3], 0, std::ptr::null_mut(), false, std::ptr::null_mut(), std::ptr::null_mut())
    }
    fn cuLaunchGridAsync(d, f: *mut c_void, width: c_int, height: c_int, stream: *mut c_void) {
        d.launch(f, [width as c_uint, height as c_uint, 1], [1; 3], 0, stream, false, std::ptr::null_mut(), std::ptr::null_mut())
    }
    fn cuFuncSetBlockShape(d, f: *mut c_void, _x: c_int, _y: c_int, _z: c_int) {
        d.function(f as u64).map(|_| ())
    }
    fn cuFuncSetSharedSize(d, f: *mut c_void, _bytes: c_uint) {
        d.function(f as u64).map(|_| ())
    }
    fn cuParamSetSize(d, f: *mut c_void, _bytes: c_uint) {
        d.function(f as u64).map(|_| ())
    }
    fn cuParamSeti(d, f: *mut c_void, _offset: c_int, _value: c_uint) {
        d.function(f as u64).map(|_| ())
    }
    fn cuParamSetf(d, f: *mut c_void, _offset: c_int, _value: f32) {
        d.function(f as u64).map(|_| ())
    }
    fn cuParamSetv(d, f: *mut c_void, _offset: c_int, _pointer: *mut c_void, _bytes: c_uint) {
        d.function(f as u64).map(|_| ())
    }
}
