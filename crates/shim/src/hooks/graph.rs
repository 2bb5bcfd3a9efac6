//! Graphs whose nodes allocate: the driver takes their memory when the graph is first launched or uploaded, and keeps
//! it until it is trimmed (measured on driver 580). What they may need is reserved before a launch; what the device's
//! graph memory then has reserved is the charge.
use super::memory::charge;
use super::{for_each_ordinal, member};
use crate::process::Process;
use crate::real::{driver, real};
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUDA_MEM_ALLOC_NODE_PARAMS, CUresult, CUstream, Handle, error};
use cleave_ledger::Kind;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

const STEP: u64 = 32 << 20;
const USED_CURRENT: i32 = 0;
const RESERVED_CURRENT: i32 = 2;
const MEM_ALLOC: i32 = 10;
const CHILD_GRAPH: i32 = 4;

fn attribute(ordinal: i32, which: i32) -> Option<u64> {
    let mut value = 0u64;
    let status = driver!(cuDeviceGetGraphMemAttribute(ordinal => i32, which => i32, &raw mut value => *mut u64));
    (status == error::SUCCESS).then_some(value)
}

/// What the device has reserved for graphs and none of them uses.
fn idle(p: &Process, device: usize) -> u64 {
    let mut idle = 0;
    for_each_ordinal(p, |ordinal, of| {
        if of == device
            && let (Some(reserved), Some(used)) =
                (attribute(ordinal, RESERVED_CURRENT), attribute(ordinal, USED_CURRENT))
        {
            idle = reserved.saturating_sub(used);
        }
    });
    idle
}

/// Brings the charge of each device's graph memory to what the driver has reserved.
#[inline(never)]
pub fn settle_graphs(p: &Process) {
    for_each_ordinal(p, |ordinal, device| {
        p.books(|books, ledger| {
            let (Some(now), Some(charged)) =
                (attribute(ordinal, RESERVED_CURRENT), books.graph_charged.get_mut(device))
            else {
                return;
            };
            if now > *charged {
                ledger.take(device, Kind::Graph, now - *charged);
            } else {
                ledger.release(device, Kind::Graph, *charged - now);
            }
            *charged = now;
        });
    });
}

/// Bytes that the allocation nodes of `graph` ask for, child graphs included, each rounded up to a step; and whose
/// device they are on. Graphs are walked in pieces of 64 nodes, because nothing is allocated here.
fn allocations(p: &Process, graph: Handle, depth: u32) -> (u64, usize) {
    let (mut bytes, mut device) = (0u64, 0usize);
    let mut count = 0usize;
    if depth > 8
        || driver!(cuGraphGetNodes(graph => Handle, null_mut() => *mut Handle, &raw mut count => *mut usize)) != 0
    {
        return (0, 0);
    }
    let size = count.saturating_mul(size_of::<Handle>()).max(1);
    // The driver only gives all nodes at once; the pages go back to the kernel right after.
    let flags = crate::system::MAP_PRIVATE_ANONYMOUS_NORESERVE;
    let Some(pages) = crate::system::map(size, crate::system::PROT_READ_WRITE, flags, -1) else { return (0, 0) };
    let nodes: *mut Handle = pages.cast();
    if driver!(cuGraphGetNodes(graph => Handle, nodes => *mut Handle, &raw mut count => *mut usize)) == 0 {
        for place in 0..count {
            // SAFETY: the driver wrote `count` handles, no more than were asked for.
            let node = unsafe { *nodes.add(place) };
            let mut kind = -1;
            driver!(cuGraphNodeGetType(node => Handle, &raw mut kind => *mut i32));
            if kind == MEM_ALLOC {
                let mut parameters = MaybeUninit::<CUDA_MEM_ALLOC_NODE_PARAMS>::zeroed();
                let status = driver!(cuGraphMemAllocNodeGetParams(
                    node => Handle, parameters.as_mut_ptr() => *mut CUDA_MEM_ALLOC_NODE_PARAMS));
                if status == 0 {
                    // SAFETY: zeros are valid parameters, and the driver wrote others.
                    let parameters = unsafe { parameters.assume_init() };
                    bytes = bytes.saturating_add((parameters.bytesize as u64).div_ceil(STEP).saturating_mul(STEP));
                    device = p.device_of(parameters.pool_props.location.id).unwrap_or(device);
                }
            } else if kind == CHILD_GRAPH {
                let mut child: Handle = null_mut();
                if driver!(cuGraphChildGraphNodeGetGraph(node => Handle, &raw mut child => *mut Handle)) == 0 {
                    let (more, on) = allocations(p, child, depth + 1);
                    if more > 0 {
                        (bytes, device) = (bytes.saturating_add(more), on);
                    }
                }
            }
        }
    }
    // SAFETY: mapped above and no longer used.
    unsafe { crate::system::unmap(pages, size) };
    (bytes, device)
}

/// After an instantiation: notes what the executable graph may need.
fn instantiated(p: &Process, executable: *const Handle, graph: Handle) {
    if p.graph_memory.load(Ordering::Relaxed) == 0 {
        return;
    }
    let (bytes, device) = allocations(p, graph, 0);
    if bytes > 0 {
        // SAFETY: the driver has written the caller's handle.
        let executable = unsafe { *executable } as u64;
        p.books(|books, _| {
            books.table.remove(Space::Graph, executable);
            books.table.insert(Space::Graph, executable, Entry::new(bytes, 0, device, Kind::Graph));
        });
    }
}

/// Runs `call`, which launches or uploads `executable`.
fn launch(p: &Process, executable: Handle, call: &dyn Fn() -> CUresult) -> CUresult {
    if p.graph_memory.load(Ordering::Relaxed) == 0 {
        return call();
    }
    let Some((bytes, device)) = p.books(|books, _| {
        books.table.get(Space::Graph, executable as u64).map(|entry| (entry.a, usize::from(entry.device)))
    }) else {
        return call();
    };
    // What the device has reserved for graphs serves this one too, unless others use it.
    let spare = if idle(p, device) >= bytes { 0 } else { bytes };
    if !charge(p, device, Kind::Graph, spare) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    settle_graphs(p);
    p.release(device, Kind::Graph, spare);
    status
}

macro_rules! instantiating {
    ($($name:ident($executable:ident, $graph:ident $(, $argument:ident: $type:ty)*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($executable: *mut Handle, $graph: Handle $(, $argument: $type)*) -> CUresult {
            let status = real!($name($executable: *mut Handle, $graph: Handle $(, $argument: $type)*));
            if let (Some(p), error::SUCCESS) = (member!(), status) {
                instantiated(p, $executable, $graph);
            }
            status
        }
    )*};
}
instantiating!(
    cuGraphInstantiate(executable, graph, error_node: *mut Handle, log: *mut u8, log_size: usize),
    cuGraphInstantiate_v2(executable, graph, error_node: *mut Handle, log: *mut u8, log_size: usize),
    cuGraphInstantiateWithFlags(executable, graph, flags: u64),
    cuGraphInstantiateWithParams(executable, graph, parameters: *mut c_void),
    cuGraphInstantiateWithParams_ptsz(executable, graph, parameters: *mut c_void),
);

macro_rules! launching {
    ($($name:ident counts $counts:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(executable: Handle, stream: CUstream) -> CUresult {
            let call = || real!($name(executable: Handle, stream: CUstream));
            let Some(p) = member!() else { return call() };
            if $counts {
                p.slot().graph_launches.fetch_add(1, Ordering::Relaxed);
            }
            launch(p, executable, &call)
        }
    )*};
}
launching!(
    cuGraphLaunch counts true,
    cuGraphLaunch_ptsz counts true,
    cuGraphUpload counts false,
    cuGraphUpload_ptsz counts false
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    if let Some(p) = member!()
        && p.graph_memory.load(Ordering::Relaxed) != 0
    {
        p.books(|books, _| books.table.remove(Space::Graph, executable as u64));
    }
    let status = real!(cuGraphExecDestroy(executable: Handle));
    if let Some(p) = crate::process::member()
        && p.graph_memory.load(Ordering::Relaxed) != 0
    {
        settle_graphs(p);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGraphMemTrim(ordinal: i32) -> CUresult {
    let status = real!(cuDeviceGraphMemTrim(ordinal: i32));
    if let Some(p) = member!() {
        settle_graphs(p);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemAllocNode(
    node: *mut Handle,
    graph: Handle,
    dependencies: *const Handle,
    count: usize,
    parameters: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
) -> CUresult {
    if let Some(p) = member!() {
        p.graph_memory.store(1, Ordering::Relaxed);
    }
    real!(cuGraphAddMemAllocNode(
        node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize,
        parameters: *mut CUDA_MEM_ALLOC_NODE_PARAMS))
}

/// A node of any kind; the first word of its parameters says which.
fn note_kind(p: &Process, parameters: *const i32) {
    // SAFETY: the caller's parameters start with the kind of node.
    if !parameters.is_null() && unsafe { *parameters } == MEM_ALLOC {
        p.graph_memory.store(1, Ordering::Relaxed);
    }
}

macro_rules! adding {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*, parameters: *mut i32) -> CUresult {
            if let Some(p) = member!() {
                note_kind(p, parameters);
            }
            real!($name($($argument: $type),*, parameters: *mut i32))
        }
    )*};
}
adding!(
    cuGraphAddNode(node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize),
    cuGraphAddNode_v2(node: *mut Handle, graph: Handle, dependencies: *const Handle, edges: *const c_void, count: usize),
    cuGraphAddNode_v3(node: *mut Handle, graph: Handle, dependencies: *const Handle, edges: *const c_void, count: usize),
);
