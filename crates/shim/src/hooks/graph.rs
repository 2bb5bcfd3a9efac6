//! Graphs whose nodes allocate: the driver takes their memory when the graph is first launched or uploaded, and keeps
//! it until it is trimmed (measured on driver 580). What they may need is reserved before a launch; what the device's
//! graph memory then has reserved is the charge. And graphs whose kernels need much local memory: see [`instantiate`].
use super::context::{STACK, charge_stack, uncharge_stack};
use super::launch::local_bytes;
use super::memory::charge;
use super::{context_of, device_of_context, device_of_stream, for_each_ordinal, member};
use crate::gate::{self, Operation, collective, per_thread};
use crate::process::{self, Process};
use crate::real::{driver, real};
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUDA_MEM_ALLOC_NODE_PARAMS, CUresult, CUstream, Handle, MEM_LOCATION_DEVICE, error};
use cleave_ledger::{DEVICES, KernelClass, Kind};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

const STEP: u64 = 32 << 20;
const USED_CURRENT: i32 = 0;
const RESERVED_CURRENT: i32 = 2;
const KERNEL: i32 = 0;
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

/// Calls `visit` with each node of `graph` and its kind, child graphs included.
fn walk(graph: Handle, depth: u32, visit: &mut dyn FnMut(Handle, i32)) {
    let mut count = 0usize;
    if depth > 8
        || driver!(cuGraphGetNodes(graph => Handle, null_mut() => *mut Handle, &raw mut count => *mut usize)) != 0
    {
        return;
    }
    let size = count.saturating_mul(size_of::<Handle>()).max(1);
    // The driver only gives all nodes at once; the pages go back to the kernel right after.
    let flags = crate::system::MAP_PRIVATE_ANONYMOUS_NORESERVE;
    let Some(pages) = crate::system::map(size, crate::system::PROT_READ_WRITE, flags, -1) else { return };
    let nodes: *mut Handle = pages.cast();
    if driver!(cuGraphGetNodes(graph => Handle, nodes => *mut Handle, &raw mut count => *mut usize)) == 0 {
        for place in 0..count {
            // SAFETY: the driver wrote `count` handles, no more than were asked for.
            let node = unsafe { *nodes.add(place) };
            let mut kind = -1;
            driver!(cuGraphNodeGetType(node => Handle, &raw mut kind => *mut i32));
            visit(node, kind);
            let mut child: Handle = null_mut();
            if kind == CHILD_GRAPH
                && driver!(cuGraphChildGraphNodeGetGraph(node => Handle, &raw mut child => *mut Handle)) == 0
            {
                walk(child, depth + 1, visit);
            }
        }
    }
    // SAFETY: mapped above and no longer used.
    unsafe { crate::system::unmap(pages, size) };
}

/// What a graph needs of each device: bytes of its allocation nodes, each rounded up to a step, and the most local memory
/// per thread of its kernels, with the context of the one that needs it.
struct Needs {
    bytes: [u64; DEVICES],
    local: [u64; DEVICES],
    context: [u64; DEVICES],
    /// One of its kernels belongs to a collective operation: the graph is never held back.
    collective: bool,
}

impl Needs {
    fn of(p: &Process, graph: Handle) -> Self {
        let mut needs = Self::none();
        if watched(p) {
            walk(graph, 0, &mut |node, kind| match kind {
                KERNEL => needs.add_kernel(p, kernel_of(node)),
                MEM_ALLOC => needs.add_allocation(p, node),
                _ => {}
            });
        }
        needs
    }

    fn none() -> Self {
        Self { bytes: [0; DEVICES], local: [0; DEVICES], context: [0; DEVICES], collective: false }
    }

    fn add_allocation(&mut self, p: &Process, node: Handle) {
        let mut parameters = MaybeUninit::<CUDA_MEM_ALLOC_NODE_PARAMS>::zeroed();
        let status = driver!(cuGraphMemAllocNodeGetParams(
            node => Handle, parameters.as_mut_ptr() => *mut CUDA_MEM_ALLOC_NODE_PARAMS));
        // SAFETY: zeros are valid parameters, and the driver may have written others.
        let parameters = unsafe { parameters.assume_init() };
        let location = parameters.pool_props.location;
        if status == 0
            && location.kind == MEM_LOCATION_DEVICE
            && let Some(bytes) = p.device_of(location.id).and_then(|device| self.bytes.get_mut(device))
        {
            *bytes = bytes.saturating_add((parameters.bytesize as u64).div_ceil(STEP).saturating_mul(STEP));
        }
    }

    fn add_kernel(&mut self, p: &Process, kernel: KernelNode) {
        let context = kernel.context();
        self.collective |= p.collectives.load(Ordering::Relaxed) != 0 && collective(p, kernel.handle() as u64);
        let bytes = local_bytes(p, kernel.handle());
        if let Ok(device) = device_of_context(p, context)
            && let (Some(local), Some(of)) = (self.local.get_mut(device), self.context.get_mut(device))
            && bytes > (*local).max(STACK)
        {
            (*local, *of) = (bytes, context);
        }
    }

    /// Runs `call`, which makes the driver take the local memory of the graph's kernels.
    fn with_stacks(&self, p: &Process, call: &dyn Fn() -> CUresult) -> CUresult {
        let mut added = [0u64; DEVICES];
        let mut fits = true;
        for (device, ((&local, &context), added)) in self.local.iter().zip(&self.context).zip(&mut added).enumerate() {
            match charge_stack(p, device, context, local) {
                Some(more) => *added = more,
                None => fits = false,
            }
        }
        let status = if fits { call() } else { error::OUT_OF_MEMORY };
        for (device, (&context, &more)) in self.context.iter().zip(&added).enumerate() {
            if more > 0 && status != error::SUCCESS {
                uncharge_stack(p, device, context, more);
            } else if more > 0 {
                p.measure(device);
            }
        }
        status
    }
}

/// A kernel node's parameters, up to what is needed here: function at 0, kernel at 7, context at 8. The first form ends
/// before these two.
#[derive(Clone, Copy)]
struct KernelNode([u64; 12]);

impl KernelNode {
    /// The parameters that a caller passes.
    ///
    /// # Safety
    /// `words` of them must be at `from`.
    unsafe fn read(from: *const u64, words: usize) -> Self {
        let mut node = Self([0; 12]);
        for (place, word) in node.0.iter_mut().take(words).enumerate() {
            // SAFETY: the caller's promise.
            *word = unsafe { from.add(place).read() };
        }
        node
    }

    fn handle(&self) -> Handle {
        let [function, .., kernel, _, _, _, _] = self.0;
        (if function == 0 { kernel } else { function }) as Handle
    }

    fn context(&self) -> u64 {
        match self.0 {
            [.., 0, _, _, _] => context_of(null_mut()),
            [.., context, _, _, _] => context,
        }
    }
}

/// Words of a kernel node's parameters in their first and second form.
const FIRST_FORM: usize = 7;
const SECOND_FORM: usize = 9;

fn kernel_of(node: Handle) -> KernelNode {
    let mut kernel = KernelNode([0; 12]);
    let place = kernel.0.as_mut_ptr();
    if driver!(cuGraphKernelNodeGetParams_v2(node => Handle, place => *mut u64)) != error::SUCCESS {
        // A driver before 12.0.
        driver!(cuGraphKernelNodeGetParams(node => Handle, place => *mut u64));
    }
    kernel
}

/// An executable graph's entry for `device`: handles are addresses, which have less than 56 bits.
fn entry_of(executable: u64, device: usize) -> u64 {
    executable << 4 | device as u64 & 15
}

/// Notes what an executable graph may need: instead of what it needed, or the most of both.
fn note(p: &Process, executable: u64, needs: &Needs, anew: bool) {
    for (device, (&bytes, &local)) in needs.bytes.iter().zip(&needs.local).enumerate() {
        let key = entry_of(executable, device);
        p.books(|books, _| {
            if anew {
                books.table.remove(Space::Graph, key);
            }
            match books.table.get(Space::Graph, key) {
                Some(entry) => (entry.a, entry.b) = (entry.a.max(bytes), entry.b.max(local)),
                None if bytes > 0 || local > 0 => {
                    books.table.insert(Space::Graph, key, Entry::new(bytes, local, device, Kind::Graph));
                }
                None => {}
            }
        });
    }
    p.books(|books, _| {
        if anew {
            books.table.remove(Space::Collective, executable);
        }
        if needs.collective && books.table.get(Space::Collective, executable).is_none() {
            books.table.insert(Space::Collective, executable, Entry::new(0, 0, 0, Kind::Graph));
        }
    });
}

/// Whether something was seen because of which graphs must be looked at.
fn watched(p: &Process) -> bool {
    [&p.graph_memory, &p.local_memory, &p.collectives].iter().any(|seen| seen.load(Ordering::Relaxed) != 0)
}

/// Whether `executable` has a part of a collective operation.
fn passes(p: &Process, executable: Handle) -> bool {
    p.collectives.load(Ordering::Relaxed) != 0
        && p.books(|books, _| books.table.get(Space::Collective, executable as u64).is_some())
}

/// Runs `call`, which makes `graph` executable: the driver takes its kernels' local memory with that (measured on driver
/// 580), and the memory of its allocation nodes with the first launch.
fn instantiate(p: &Process, executable: *const Handle, graph: Handle, call: &dyn Fn() -> CUresult) -> CUresult {
    if !watched(p) {
        return call();
    }
    let needs = Needs::of(p, graph);
    let status = needs.with_stacks(p, call);
    if status == error::SUCCESS {
        // SAFETY: the driver has written the caller's handle.
        note(p, unsafe { *executable } as u64, &needs, true);
    }
    status
}

/// Runs `call`, which changes `executable` to what `graph` says.
fn update(p: &Process, executable: Handle, graph: Handle, call: &dyn Fn() -> CUresult) -> CUresult {
    if !watched(p) {
        return call();
    }
    let needs = Needs::of(p, graph);
    let status = needs.with_stacks(p, call);
    if status == error::SUCCESS {
        note(p, executable as u64, &needs, false);
    }
    status
}

/// Runs `call`, which puts `kernel` into `executable`.
fn change_kernel(p: &Process, executable: Handle, kernel: KernelNode, call: &dyn Fn() -> CUresult) -> CUresult {
    let mut needs = Needs::none();
    needs.add_kernel(p, kernel);
    let status = needs.with_stacks(p, call);
    if status == error::SUCCESS && watched(p) {
        note(p, executable as u64, &needs, false);
    }
    status
}

/// Runs `call`, which launches or uploads `executable`.
fn launch(p: &Process, executable: Handle, stream: CUstream, call: &dyn Fn() -> CUresult) -> CUresult {
    if !watched(p) {
        return call();
    }
    let mut needs = Needs::none();
    let (mut memory, mut stacks) = (false, false);
    for_each_ordinal(p, |_, device| {
        let entry = p.books(|books, _| {
            books.table.get(Space::Graph, entry_of(executable as u64, device)).map(|entry| (entry.a, entry.b))
        });
        if let (Some((bytes, local)), Some(to), Some(stack)) =
            (entry, needs.bytes.get_mut(device), needs.local.get_mut(device))
        {
            (*to, *stack) = (bytes, local);
            (memory, stacks) = (memory || bytes > 0, stacks || local > STACK);
        }
    });
    if stacks {
        let context = context_of(stream);
        let of = device_of_context(p, context).ok().and_then(|device| needs.context.get_mut(device));
        if let Some(of) = of {
            *of = context;
        }
    }
    // Its kernels' local memory is charged already, unless the limit was lowered since.
    let launched = || if stacks { needs.with_stacks(p, call) } else { call() };
    if !memory {
        return launched();
    }
    let mut spare = [0u64; DEVICES];
    let mut fits = true;
    for (device, (&bytes, spare)) in needs.bytes.iter().zip(&mut spare).enumerate() {
        // What the device has reserved for graphs serves this one too, unless others use it.
        if fits && bytes > 0 && idle(p, device) < bytes {
            fits = charge(p, device, Kind::Graph, bytes);
            *spare = if fits { bytes } else { 0 };
        }
    }
    let status = if fits { launched() } else { error::OUT_OF_MEMORY };
    if fits {
        settle_graphs(p);
    }
    for (device, &spare) in spare.iter().enumerate() {
        p.release(device, Kind::Graph, spare);
    }
    status
}

macro_rules! instantiating {
    ($($name:ident($executable:ident, $graph:ident $(, $argument:ident: $type:ty)*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($executable: *mut Handle, $graph: Handle $(, $argument: $type)*) -> CUresult {
            let call = || real!($name($executable: *mut Handle, $graph: Handle $(, $argument: $type)*));
            let Some(p) = member!() else { return call() };
            instantiate(p, $executable, $graph, &call)
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
    ($($name:ident on $stream:expr),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(executable: Handle, stream: CUstream) -> CUresult {
            let call = || real!($name(executable: Handle, stream: CUstream));
            let Some(p) = member!() else { return call() };
            p.slot().graph_launches.fetch_add(1, Ordering::Relaxed);
            let (handle, passes) = (executable as u64, passes(p, executable));
            let operation = Operation { handle, shape: 0, class: Some(KernelClass::Graph), passes, stream: $stream(stream) };
            launch(p, executable, stream, &|| match device_of_stream(p, operation.stream) {
                Ok(device) => gate::send(p, device, operation, call),
                Err(_) => call(),
            })
        }
    )*};
}
launching!(cuGraphLaunch on core::convert::identity, cuGraphLaunch_ptsz on per_thread);

macro_rules! uploading {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(executable: Handle, stream: CUstream) -> CUresult {
            let call = || real!($name(executable: Handle, stream: CUstream));
            let Some(p) = member!() else { return call() };
            launch(p, executable, stream, &call)
        }
    )*};
}
uploading!(cuGraphUpload, cuGraphUpload_ptsz);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    if let Some(p) = process::member()
        && watched(p)
    {
        p.books(|books, _| books.table.remove(Space::Collective, executable as u64));
        for device in 0..DEVICES {
            p.books(|books, _| books.table.remove(Space::Graph, entry_of(executable as u64, device)));
        }
    }
    let status = real!(cuGraphExecDestroy(executable: Handle));
    if let Some(p) = process::member()
        && p.graph_memory.load(Ordering::Relaxed) != 0
    {
        settle_graphs(p);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGraphMemTrim(ordinal: i32) -> CUresult {
    let status = real!(cuDeviceGraphMemTrim(ordinal: i32));
    if let Some(p) = process::member() {
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

/// Parameters of a node of any kind: the first word says which; those of a kernel start 16 bytes after it.
///
/// # Safety
/// Null, or a `CUgraphNodeParams`.
unsafe fn kernel_in(parameters: *const i32) -> Option<KernelNode> {
    // SAFETY: the caller's promise: 256 bytes.
    unsafe {
        (!parameters.is_null() && *parameters == KERNEL)
            .then(|| KernelNode::read(parameters.add(4).cast(), SECOND_FORM))
    }
}

macro_rules! adding {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*, parameters: *mut i32) -> CUresult {
            if let Some(p) = member!() {
                // SAFETY: the caller's parameters start with the kind of node.
                if !parameters.is_null() && unsafe { *parameters } == MEM_ALLOC {
                    p.graph_memory.store(1, Ordering::Relaxed);
                }
                // SAFETY: the caller's parameters.
                if let Some(kernel) = unsafe { kernel_in(parameters) } {
                    see(p, kernel);
                }
            }
            real!($name($($argument: $type),*, parameters: *mut i32))
        }
    )*};
}
adding!(
    cuGraphAddNode(node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize),
    cuGraphAddNode_v2(node: *mut Handle, graph: Handle, dependencies: *const Handle, edges: *const c_void, count: usize),
    cuGraphAddNode_v3(node: *mut Handle, graph: Handle, dependencies: *const Handle, edges: *const c_void, count: usize),
    cuGraphNodeSetParams(node: Handle),
    cuGraphNodeSetParams_v2(node: Handle),
);

/// Looks at a kernel that comes into a graph by hand: one that needs much local memory, or belongs to a collective operation,
/// makes graphs be looked at when they are made executable.
fn see(p: &Process, kernel: KernelNode) {
    if p.collectives.load(Ordering::Relaxed) == 0 {
        collective(p, kernel.handle() as u64);
    }
    if p.local_memory.load(Ordering::Relaxed) == 0 {
        local_bytes(p, kernel.handle());
    }
}

macro_rules! kernels {
    ($($name:ident($($argument:ident: $type:ty),*) of $words:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type,)* parameters: *const u64) -> CUresult {
            if let Some(p) = member!()
                && !parameters.is_null()
            {
                // SAFETY: the caller's parameters, in the form that this name takes.
                see(p, unsafe { KernelNode::read(parameters, $words) });
            }
            real!($name($($argument: $type,)* parameters: *const u64))
        }
    )*};
}
kernels!(
    cuGraphAddKernelNode(node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize) of FIRST_FORM,
    cuGraphAddKernelNode_v2(node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize) of SECOND_FORM,
    cuGraphKernelNodeSetParams(node: Handle) of FIRST_FORM,
    cuGraphKernelNodeSetParams_v2(node: Handle) of SECOND_FORM,
);

macro_rules! changing {
    ($($name:ident($parameters:ident: $type:ty) with $kernel:expr),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(executable: Handle, node: Handle, $parameters: $type) -> CUresult {
            let call = || real!($name(executable: Handle, node: Handle, $parameters: $type));
            let Some(p) = member!() else { return call() };
            // SAFETY: the caller's parameters, in the form that this name takes.
            match unsafe { $kernel } {
                Some(kernel) => change_kernel(p, executable, kernel, &call),
                None => call(),
            }
        }
    )*};
}
changing!(
    cuGraphExecKernelNodeSetParams(parameters: *const u64)
        with (!parameters.is_null()).then(|| KernelNode::read(parameters, FIRST_FORM)),
    cuGraphExecKernelNodeSetParams_v2(parameters: *const u64)
        with (!parameters.is_null()).then(|| KernelNode::read(parameters, SECOND_FORM)),
    cuGraphExecNodeSetParams(parameters: *mut i32) with kernel_in(parameters),
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate(
    executable: Handle,
    graph: Handle,
    node: *mut Handle,
    result: *mut i32,
) -> CUresult {
    let call = || real!(cuGraphExecUpdate(executable: Handle, graph: Handle, node: *mut Handle, result: *mut i32));
    let Some(p) = member!() else { return call() };
    update(p, executable, graph, &call)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, result: *mut c_void) -> CUresult {
    let call = || real!(cuGraphExecUpdate_v2(executable: Handle, graph: Handle, result: *mut c_void));
    let Some(p) = member!() else { return call() };
    update(p, executable, graph, &call)
}
