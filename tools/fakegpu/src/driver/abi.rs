//! Structs of `cuda.h` that only the simulated driver needs.
#![allow(non_camel_case_types)]

use core::ffi::{c_int, c_uint, c_void};

use crate::sms::Sms;

/// A copy between rectangles.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUDA_MEMCPY2D {
    pub src_x_in_bytes: usize,
    pub src_y: usize,
    pub src_memory_type: c_uint,
    pub src_host: u64,
    pub src_device: u64,
    pub src_array: u64,
    pub src_pitch: usize,
    pub dst_x_in_bytes: usize,
    pub dst_y: usize,
    pub dst_memory_type: c_uint,
    pub dst_host: u64,
    pub dst_device: u64,
    pub dst_array: u64,
    pub dst_pitch: usize,
    pub width_in_bytes: usize,
    pub height: usize,
}

/// One end of a [`CUDA_MEMCPY3D`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyEnd {
    pub x_in_bytes: usize,
    pub y: usize,
    pub z: usize,
    pub lod: usize,
    pub memory_type: c_uint,
    pub host: u64,
    pub device: u64,
    pub array: u64,
    /// A context in `CUDA_MEMCPY3D_PEER`.
    pub reserved: u64,
    pub pitch: usize,
    pub height: usize,
}

/// A copy between boxes; `CUDA_MEMCPY3D_PEER` has the same layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUDA_MEMCPY3D {
    pub src: CopyEnd,
    pub dst: CopyEnd,
    pub width_in_bytes: usize,
    pub height: usize,
    pub depth: usize,
}

const _: () = assert!(size_of::<CUDA_MEMCPY3D>() == 200 && size_of::<CUDA_MEMCPY2D>() == 128);

/// A kernel and its launch, first form; the second appends `kern` and `ctx`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_KERNEL_NODE_PARAMS {
    pub func: u64,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_mem_bytes: c_uint,
    pub kernel_params: u64,
    pub extra: u64,
}

/// A kernel and its launch, second form.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_KERNEL_NODE_PARAMS_v2 {
    pub first: CUDA_KERNEL_NODE_PARAMS,
    pub kern: u64,
    pub ctx: u64,
}

/// A fill.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_MEMSET_NODE_PARAMS {
    pub dst: u64,
    pub pitch: usize,
    pub value: c_uint,
    pub element_size: c_uint,
    pub width: usize,
    pub height: usize,
}

/// A host function.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_HOST_NODE_PARAMS {
    pub function: Option<super::engine::HostFunction>,
    pub user_data: u64,
}

/// A launch's configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUlaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_mem_bytes: c_uint,
    pub stream: *mut c_void,
    pub attributes: *const c_void,
    pub attribute_count: c_uint,
}

/// What `cuGraphAddNode` takes: a type and the parameters of that type.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUgraphNodeParams {
    pub kind: c_int,
    pub reserved0: [c_int; 3],
    pub words: [u64; 29],
    pub reserved2: u64,
}

const _: () = assert!(size_of::<CUgraphNodeParams>() == 256);

/// What `cuGraphInstantiateWithParams` takes and fills in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub upload_stream: *mut c_void,
    pub error_node: u64,
    pub result: c_int,
}

/// A resource of a device: `CUdevResource`. What the header calls internal says which multiprocessors they are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUdevResource {
    pub kind: c_uint,
    pub device: c_uint,
    pub sms: Sms,
    pub split: u64,
    pub internal: [u64; 6],
    pub count: c_uint,
    pub least: c_uint,
    pub alignment: c_uint,
    pub rest: [c_uint; 9],
}

const _: () = assert!(size_of::<CUdevResource>() == 144 && std::mem::offset_of!(CUdevResource, count) == 96);
