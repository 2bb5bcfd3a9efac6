//! Graphs: nodes and edges, capture from streams, instantiation, launch and the memory of graphs.
//!
//! A launch executes the nodes one after the other in an order that the edges allow, on the stream it is given.

use std::collections::{BTreeMap, BTreeSet};

use cleave_cuda::types::{CUDA_MEM_ALLOC_NODE_PARAMS, CUmemLocation, CUmemPoolProps, error};
use core::ffi::{c_char, c_int, c_uint, c_void};

use super::abi::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2,
    CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUgraphNodeParams,
};
use super::engine::{Engine, HostFunction, Operation, StreamKind};
use super::memory::{Allocation, Kind};
use super::{Driver, Outcome, get, get_many, put, put_optional, with};
use crate::alloc::PAGE;
use crate::clock::Nanos;
use crate::map::Mapping;

/// What a stream is asked to do, or a node does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// With how long it takes.
    Kernel(CUDA_KERNEL_NODE_PARAMS_v2, Nanos),
    Copy(CUDA_MEMCPY3D),
    Fill(CUDA_MEMSET_NODE_PARAMS),
    Host {
        function: HostFunction,
        data: u64,
    },
    Child(u64),
    Empty,
    Wait(u64),
    Record(u64),
    Allocate {
        device: usize,
        bytes: u64,
        address: u64,
    },
    Free(u64),
    Memory(Vec<Operation>),
}

impl Work {
    /// The type as `cuda.h` numbers it.
    fn kind(&self) -> c_int {
        match self {
            Work::Kernel(..) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host { .. } => 3,
            Work::Child(_) => 4,
            Work::Empty => 5,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Allocate { .. } => 10,
            Work::Free(_) => 11,
            Work::Memory(_) => 12,
        }
    }
}

/// A node.
struct Node {
    work: Work,
    dependencies: Vec<u64>,
    /// The node that this one was cloned from.
    original: u64,
}

/// A graph.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<u64, Node>,
    id: u32,
    /// Part of a node of another graph: not to be destroyed.
    child: bool,
}

/// An instantiated graph: its nodes in an order that can be executed.
pub(crate) struct Executable {
    steps: Vec<Step>,
    flags: u64,
    id: u32,
}

#[derive(Clone)]
struct Step {
    node: u64,
    work: Work,
    enabled: bool,
}

/// A capture that goes on.
pub(crate) struct Capture {
    graph: u64,
    origin: u64,
    id: u64,
    spoiled: bool,
    /// What the program was last told to look at.
    shown: Vec<u64>,
    edges: Vec<u64>,
}

/// A program's object that lives as long as a graph needs it.
pub(crate) struct UserObject {
    references: u32,
    destroy: Option<HostFunction>,
    data: u64,
}

impl Driver {
    /// Gives a stream work, or a capture a node.
    pub(crate) fn submit(&mut self, stream: u64, work: Work) -> Outcome {
        let found = self.streams.get(&stream).ok_or(error::INVALID_HANDLE)?;
        let context = found.context;
        self.fault_of(context)?;
        if let Some(capture) = found.capture {
            let dependencies = found.dependencies.clone();
            let capture = self.captures.get(&capture).ok_or(error::UNKNOWN)?;
            if capture.spoiled {
                return Err(901);
            }
            let graph = capture.graph;
            let node = self.node_add(graph, dependencies, work)?;
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.dependencies = vec![node];
            }
            return Ok(());
        }
        for operation in self.operations(work, context)? {
            self.operate(stream, operation)?;
        }
        Ok(())
    }

    /// What a stream executes for a piece of work, checked.
    fn operations(&mut self, work: Work, context: u64) -> Outcome<Vec<Operation>> {
        Ok(match work {
            Work::Kernel(params, duration) => {
                self.kernel_check(&params, context)?;
                let handle = if params.first.func != 0 { params.first.func } else { params.kern };
                let kernel = &self.function(handle)?.kernel;
                vec![Operation::Kernel { duration, fault: kernel.fault }]
            }
            Work::Copy(copy) => self.copy_plan(&copy)?.map(Operation::Copy).into_iter().collect(),
            Work::Fill(params) => self.fill_plan(&params)?.map(Operation::Fill).into_iter().collect(),
            Work::Host { function, data } => vec![Operation::Host { function, data }],
            Work::Wait(event) => self.event_operation(event, false).into_iter().collect(),
            Work::Record(event) => self.event_operation(event, true).into_iter().collect(),
            Work::Memory(operations) => operations,
            Work::Child(_) | Work::Empty | Work::Allocate { .. } | Work::Free(_) => Vec::new(),
        })
    }

    fn graph(&self, handle: *mut c_void) -> Outcome<u64> {
        let id = handle as u64;
        if self.graphs.contains_key(&id) { Ok(id) } else { Err(error::INVALID_VALUE) }
    }

    fn graph_create(&mut self) -> u64 {
        let id = self.handle();
        self.sequence += 1;
        let number = self.sequence as u32;
        self.graphs.insert(id, Graph { id: number, ..Graph::default() });
        id
    }

    fn node_add(&mut self, graph: u64, dependencies: Vec<u64>, work: Work) -> Outcome<u64> {
        let work = match work {
            // A child is a copy of the graph as it is now.
            Work::Child(child) => {
                let copy = self.graph_clone(child)?;
                if let Some(copy) = self.graphs.get_mut(&copy) {
                    copy.child = true;
                }
                Work::Child(copy)
            }
            work => work,
        };
        let id = self.handle();
        let nodes = &mut self.graphs.get_mut(&graph).ok_or(error::INVALID_VALUE)?.nodes;
        if dependencies.iter().any(|dependency| !nodes.contains_key(dependency)) {
            return Err(error::INVALID_VALUE);
        }
        nodes.insert(id, Node { work, dependencies, original: 0 });
        self.nodes.insert(id, graph);
        Ok(id)
    }

    fn node(&self, handle: *mut c_void) -> Outcome<&Node> {
        let graph = self.nodes.get(&(handle as u64)).ok_or(error::INVALID_VALUE)?;
        self.graphs.get(graph).and_then(|graph| graph.nodes.get(&(handle as u64))).ok_or(error::INVALID_VALUE)
    }

    fn node_mut(&mut self, handle: *mut c_void) -> Outcome<&mut Node> {
        let graph = self.nodes.get(&(handle as u64)).ok_or(error::INVALID_VALUE)?;
        self.graphs.get_mut(graph).and_then(|graph| graph.nodes.get_mut(&(handle as u64))).ok_or(error::INVALID_VALUE)
    }

    fn graph_clone(&mut self, id: u64) -> Outcome<u64> {
        let source: Vec<(u64, Work, Vec<u64>)> = self
            .graphs
            .get(&id)
            .ok_or(error::INVALID_VALUE)?
            .nodes
            .iter()
            .map(|(id, node)| (*id, node.work.clone(), node.dependencies.clone()))
            .collect();
        let copy = self.graph_create();
        let mut names = BTreeMap::new();
        for (old, work, _) in &source {
            let new = self.node_add(copy, Vec::new(), work.clone())?;
            names.insert(*old, new);
        }
        if let Some(graph) = self.graphs.get_mut(&copy) {
            for (old, _, dependencies) in source {
                if let Some(node) = names.get(&old).and_then(|new| graph.nodes.get_mut(new)) {
                    node.original = old;
                    node.dependencies = dependencies.iter().filter_map(|old| names.get(old).copied()).collect();
                }
            }
        }
        Ok(copy)
    }

    fn graph_destroy(&mut self, id: u64) {
        let Some(graph) = self.graphs.remove(&id) else { return };
        for (node, contents) in graph.nodes {
            self.nodes.remove(&node);
            if let Work::Child(child) = contents.work {
                self.graph_destroy(child);
            }
        }
        self.graph_memory_forget();
    }

    /// Forgets the addresses of allocation nodes that no graph has any more.
    fn graph_memory_forget(&mut self) {
        let of_work = |work: &Work| if let Work::Allocate { address, .. } = work { Some(*address) } else { None };
        let named: BTreeSet<u64> = self
            .graphs
            .values()
            .flat_map(|graph| graph.nodes.values().filter_map(|node| of_work(&node.work)))
            .chain(self.executables.values().flat_map(|e| e.steps.iter().filter_map(|step| of_work(&step.work))))
            .collect();
        self.allocations
            .retain(|base, allocation| allocation.kind != (Kind::Graph { live: false }) || named.contains(base));
    }

    /// The nodes of a graph, children's in their place, in an order that the edges allow.
    fn steps(&self, id: u64) -> Outcome<Vec<Step>> {
        let graph = self.graphs.get(&id).ok_or(error::INVALID_VALUE)?;
        let mut done = BTreeSet::new();
        let mut steps = Vec::new();
        while done.len() < graph.nodes.len() {
            let before = done.len();
            for (&node, contents) in &graph.nodes {
                if done.contains(&node) || !contents.dependencies.iter().all(|d| done.contains(d)) {
                    continue;
                }
                done.insert(node);
                if let Work::Child(child) = contents.work {
                    steps.extend(self.steps(child)?);
                } else {
                    steps.push(Step { node, work: contents.work.clone(), enabled: true });
                }
            }
            if done.len() == before {
                // A cycle.
                return Err(error::INVALID_VALUE);
            }
        }
        Ok(steps)
    }

    fn instantiate(&mut self, graph: *mut c_void, flags: u64) -> Outcome<u64> {
        let graph = self.graph(graph)?;
        let steps = self.steps(graph)?;
        steps.iter().try_for_each(|step| self.stack_for(&step.work))?;
        let id = self.handle();
        self.sequence += 1;
        self.executables.insert(id, Executable { steps, flags, id: self.sequence as u32 });
        Ok(id)
    }

    /// Bytes that a launch takes on each device, after freeing or refusing what an earlier launch left.
    fn launch_memory(&mut self, executable: u64) -> Outcome<BTreeMap<usize, u64>> {
        let executable = self.executables.get(&executable).ok_or(error::INVALID_VALUE)?;
        let free_first = executable.flags & 1 != 0;
        let wanted: Vec<(usize, u64, u64)> = executable
            .steps
            .iter()
            .filter_map(|step| match step.work {
                Work::Allocate { device, bytes, address } => Some((device, bytes, address)),
                _ => None,
            })
            .collect();
        let mut sums = BTreeMap::new();
        for (device, bytes, address) in wanted {
            let live = self.allocations.get(&address).is_some_and(|a| a.kind == Kind::Graph { live: true });
            if live {
                if !free_first {
                    return Err(error::INVALID_VALUE);
                }
                self.graph_memory_free(address)?;
            }
            *sums.entry(device).or_default() += bytes;
        }
        Ok(sums)
    }

    fn upload(&mut self, executable: *mut c_void, stream: *mut c_void, per_thread: bool) -> Outcome {
        self.stream(stream, per_thread)?;
        for (device, bytes) in self.launch_memory(executable as u64)? {
            self.graph_memory_reserve(device, bytes)?;
        }
        Ok(())
    }

    fn graph_launch(&mut self, executable: *mut c_void, stream: *mut c_void, per_thread: bool) -> Outcome {
        let stream = self.stream(stream, per_thread)?;
        let id = executable as u64;
        let steps = self.executables.get(&id).ok_or(error::INVALID_VALUE)?.steps.clone();
        let found = &self.streams[&stream];
        let context = found.context;
        if let Some(capture) = found.capture {
            return match self.captures.get(&capture) {
                // Launching while capturing adds the graph's work to the capture.
                Some(_) => steps.into_iter().try_for_each(|step| self.submit(stream, step.work)),
                None => Err(error::UNKNOWN),
            };
        }
        let sums = self.launch_memory(id)?;
        for (&device, &bytes) in &sums {
            self.graph_memory_reserve(device, bytes)?;
        }
        // All of it at once: the high-water mark is that of the launch.
        for (device, bytes) in sums {
            self.graph_memory_take(device, bytes)?;
        }
        for step in &steps {
            if let Work::Allocate { address, .. } = step.work
                && let Some(allocation) = self.allocations.get_mut(&address)
            {
                allocation.kind = Kind::Graph { live: true };
            }
        }
        let mut all = Vec::new();
        for step in steps.into_iter().filter(|step| step.enabled) {
            if let Work::Free(address) = step.work {
                self.free(address)?;
            }
            for operation in self.operations(step.work, context)? {
                // Kernels that follow each other are one piece of work.
                match (all.last_mut(), operation) {
                    (
                        Some(Operation::Kernel { duration, fault: None }),
                        Operation::Kernel { duration: more, fault: None },
                    ) => *duration += more,
                    (_, operation) => all.push(operation),
                }
            }
        }
        for operation in all {
            self.operate(stream, operation)?;
        }
        self.launched(stream);
        Ok(())
    }

    /// Addresses for an allocation node.
    fn node_allocate(&mut self, device: usize, bytes: u64) -> Outcome<u64> {
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        let context = self.usable()?;
        let mapping = Mapping::memory(bytes.checked_next_multiple_of(PAGE).ok_or(error::OUT_OF_MEMORY)?)
            .ok_or(error::OUT_OF_MEMORY)?;
        let address = mapping.base();
        let id = self.allocation_id();
        let mut allocation = Allocation::block(bytes, Kind::Graph { live: false }, context, device, id);
        allocation.mapping = Some(mapping);
        self.allocations.insert(address, allocation);
        Ok(address)
    }

    /// `cuMemAllocAsync` on a stream that captures.
    pub(crate) fn capture_allocate(&mut self, stream: u64, device: usize, bytes: u64) -> Outcome<u64> {
        let address = self.node_allocate(device, bytes)?;
        self.submit(stream, Work::Allocate { device, bytes, address })?;
        Ok(address)
    }

    /// `cuMemFreeAsync` on a stream that captures.
    pub(crate) fn capture_free(&mut self, stream: u64, address: u64) -> Outcome {
        if !self.allocations.get(&address).is_some_and(|a| matches!(a.kind, Kind::Graph { .. })) {
            return Err(error::INVALID_VALUE);
        }
        self.submit(stream, Work::Free(address))
    }

    fn capture_begin(&mut self, stream: *mut c_void, per_thread: bool, graph: Option<(u64, Vec<u64>)>) -> Outcome {
        let id = self.stream(stream, per_thread)?;
        let found = &self.streams[&id];
        if found.kind == StreamKind::Legacy {
            return Err(900);
        }
        if found.capture.is_some() {
            return Err(401);
        }
        let (graph, dependencies) = match graph {
            Some(given) => given,
            None => (self.graph_create(), Vec::new()),
        };
        let capture = self.handle();
        self.sequence += 1;
        let number = self.sequence;
        self.captures.insert(
            capture,
            Capture { graph, origin: id, id: number, spoiled: false, shown: Vec::new(), edges: Vec::new() },
        );
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.capture = Some(capture);
            stream.dependencies = dependencies;
        }
        Ok(())
    }

    /// A stream waits for an event that was recorded in a capture: it takes part from now on.
    pub(crate) fn capture_join(&mut self, stream: u64, capture: u64, nodes: &[u64]) -> Outcome {
        if !self.captures.contains_key(&capture) {
            return Err(error::INVALID_VALUE);
        }
        let stream = self.streams.get_mut(&stream).ok_or(error::INVALID_HANDLE)?;
        match stream.capture {
            Some(other) if other != capture => return Err(902),
            Some(_) => {}
            None if stream.kind == StreamKind::Legacy => return Err(906),
            None => {
                stream.capture = Some(capture);
                stream.dependencies.clear();
            }
        }
        for node in nodes {
            if !stream.dependencies.contains(node) {
                stream.dependencies.push(*node);
            }
        }
        Ok(())
    }

    /// Something happened in a capturing stream that can't be captured.
    pub(crate) fn capture_spoil(&mut self, stream: u64) {
        if let Some(capture) = self.streams.get(&stream).and_then(|s| s.capture).and_then(|c| self.captures.get_mut(&c))
        {
            capture.spoiled = true;
        }
    }

    fn capture_end(&mut self, stream: *mut c_void, per_thread: bool) -> Outcome<u64> {
        let id = self.stream(stream, per_thread)?;
        let capture_id = self.streams[&id].capture.ok_or(401)?;
        let capture = self.captures.get(&capture_id).ok_or(error::UNKNOWN)?;
        if capture.origin != id {
            return Err(903);
        }
        let (graph, spoiled) = (capture.graph, capture.spoiled);
        let last: BTreeSet<u64> = self.streams[&id].dependencies.iter().copied().collect();
        for stream in self.streams.values_mut().filter(|stream| stream.capture == Some(capture_id)) {
            stream.capture = None;
            stream.dependencies.clear();
        }
        self.captures.remove(&capture_id);
        if spoiled {
            self.graph_destroy(graph);
            return Err(901);
        }
        let nodes = &self.graphs.get(&graph).ok_or(error::UNKNOWN)?.nodes;
        let needed: BTreeSet<u64> = nodes.values().flat_map(|node| node.dependencies.iter().copied()).collect();
        // Work that nothing in the origin stream waits for was forked and never joined.
        if nodes.keys().any(|node| !needed.contains(node) && !last.contains(node)) {
            self.graph_destroy(graph);
            return Err(904);
        }
        Ok(graph)
    }

    #[allow(clippy::too_many_arguments)] // One for each result of the C prototype.
    fn capture_info(
        &mut self,
        stream: *mut c_void,
        per_thread: bool,
        status: *mut c_int,
        id: *mut u64,
        graph: *mut u64,
        dependencies: *mut *const u64,
        edges: *mut *const u64,
        count: *mut usize,
    ) -> Outcome {
        let stream = self.stream(stream, per_thread)?;
        let Some(capture) = self.streams[&stream].capture else {
            return put(status, 0);
        };
        let nodes = self.streams[&stream].dependencies.clone();
        let capture = self.captures.get_mut(&capture).ok_or(error::UNKNOWN)?;
        capture.edges = vec![0; nodes.len()];
        capture.shown = nodes;
        put_optional(id, capture.id);
        put_optional(graph, capture.graph);
        put_optional(dependencies, capture.shown.as_ptr());
        put_optional(edges, capture.edges.as_ptr());
        put_optional(count, capture.shown.len());
        put(status, if capture.spoiled { 2 } else { 1 })
    }

    fn capture_dependencies(
        &mut self,
        stream: *mut c_void,
        per_thread: bool,
        nodes: *const u64,
        count: usize,
        flags: c_uint,
    ) -> Outcome {
        let stream = self.stream(stream, per_thread)?;
        let nodes = if count == 0 { Vec::new() } else { get_many(nodes, count)? };
        let stream = self.streams.get_mut(&stream).ok_or(error::INVALID_HANDLE)?;
        if stream.capture.is_none() {
            return Err(401);
        }
        // 0 adds, 1 sets.
        if flags & 1 != 0 {
            stream.dependencies.clear();
        }
        stream.dependencies.extend(nodes);
        Ok(())
    }

    fn dependencies(&self, nodes: *const u64, count: usize) -> Outcome<Vec<u64>> {
        if count == 0 { Ok(Vec::new()) } else { get_many(nodes, count) }
    }

    /// Adds a node for an entry point.
    fn node_put(&mut self, to: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, work: Work) -> Outcome {
        let graph = self.graph(graph)?;
        let dependencies = self.dependencies(nodes, count)?;
        let node = self.node_add(graph, dependencies, work)?;
        put(to, node)
    }

    /// Adds a node of any type; an allocation's address is written back.
    fn node_of_params(
        &mut self,
        to: *mut u64,
        graph: *mut c_void,
        nodes: *const u64,
        count: usize,
        params: *mut CUgraphNodeParams,
    ) -> Outcome {
        let mut given = get(params)?;
        let work = self.work_of(&mut given)?;
        self.node_put(to, graph, nodes, count, work)?;
        put(params, given)
    }

    fn work_of(&mut self, params: &mut CUgraphNodeParams) -> Outcome<Work> {
        let words = &params.words;
        Ok(match params.kind {
            0 => self.kernel_work(get(words.as_ptr().cast())?)?,
            1 => Work::Copy(get(words[2..].as_ptr().cast())?),
            2 => Work::Fill(get(words.as_ptr().cast())?),
            3 => {
                let host: CUDA_HOST_NODE_PARAMS = get(words.as_ptr().cast())?;
                Work::Host { function: host.function.ok_or(error::INVALID_VALUE)?, data: host.user_data }
            }
            4 => Work::Child(words[0]),
            5 => Work::Empty,
            6 => Work::Wait(words[0]),
            7 => Work::Record(words[0]),
            10 => {
                let mut allocation: CUDA_MEM_ALLOC_NODE_PARAMS = get(words.as_ptr().cast())?;
                let work = self.work_of_allocation(&mut allocation)?;
                params.words[14] = allocation.dptr;
                work
            }
            11 => Work::Free(words[0]),
            _ => return Err(error::NOT_SUPPORTED),
        })
    }

    fn work_of_allocation(&mut self, params: &mut CUDA_MEM_ALLOC_NODE_PARAMS) -> Outcome<Work> {
        if params.pool_props.location.kind != 1 {
            return Err(error::INVALID_VALUE);
        }
        let device = self.device(params.pool_props.location.id)?;
        let bytes = params.bytesize as u64;
        let address = self.node_allocate(device, bytes)?;
        params.dptr = address;
        Ok(Work::Allocate { device, bytes, address })
    }

    /// Makes room for a kernel's stack: an executable graph has its kernels' (measured on driver 580).
    fn stack_for(&mut self, work: &Work) -> Outcome {
        let Work::Kernel(params, _) = work else { return Ok(()) };
        let handle = if params.first.func != 0 { params.first.func } else { params.kern };
        let local = self.function(handle)?.kernel.local;
        let context = if params.ctx != 0 { params.ctx } else { self.usable()? };
        self.stack_grow(context, local)
    }

    fn step_set(&mut self, executable: *mut c_void, node: *mut c_void, work: Work) -> Outcome {
        self.stack_for(&work)?;
        let executable = self.executables.get_mut(&(executable as u64)).ok_or(error::INVALID_VALUE)?;
        let step = executable.steps.iter_mut().find(|step| step.node == node as u64).ok_or(error::INVALID_VALUE)?;
        if step.work.kind() != work.kind() {
            return Err(error::INVALID_VALUE);
        }
        step.work = work;
        Ok(())
    }

    fn node_set(&mut self, node: *mut c_void, work: Work) -> Outcome {
        let node = self.node_mut(node)?;
        if node.work.kind() != work.kind() {
            return Err(error::INVALID_VALUE);
        }
        node.work = work;
        Ok(())
    }

    /// Replaces what an executable does by what a graph of the same shape does: 0, or why not.
    fn update(&mut self, executable: *mut c_void, graph: *mut c_void) -> Outcome<c_int> {
        let graph = self.graph(graph)?;
        let steps = self.steps(graph)?;
        steps.iter().try_for_each(|step| self.stack_for(&step.work))?;
        let executable = self.executables.get_mut(&(executable as u64)).ok_or(error::INVALID_VALUE)?;
        if executable.steps.len() != steps.len() {
            return Ok(2);
        }
        let mut pairs = executable.steps.iter().zip(&steps);
        if pairs.any(|(old, new)| old.work.kind() != new.work.kind()) {
            return Ok(3);
        }
        for (old, new) in executable.steps.iter_mut().zip(steps) {
            // The nodes that the program knows stay the executable's.
            old.work = new.work;
        }
        Ok(0)
    }

    fn edges(&self, graph: *mut c_void) -> Outcome<Vec<(u64, u64)>> {
        let graph = self.graph(graph)?;
        Ok(self.graphs[&graph]
            .nodes
            .iter()
            .flat_map(|(to, node)| node.dependencies.iter().map(|from| (*from, *to)))
            .collect())
    }

    fn dependents(&self, node: *mut c_void) -> Outcome<Vec<u64>> {
        self.node(node)?;
        let graph = &self.graphs[&self.nodes[&(node as u64)]];
        let waits = |other: &&u64| graph.nodes[*other].dependencies.contains(&(node as u64));
        Ok(graph.nodes.keys().filter(waits).copied().collect())
    }

    fn edges_put(
        &self,
        graph: *mut c_void,
        from: *mut u64,
        to: *mut u64,
        data: *mut u64,
        count: *mut usize,
    ) -> Outcome {
        let edges = self.edges(graph)?;
        let sources: Vec<u64> = edges.iter().map(|edge| edge.0).collect();
        let targets: Vec<u64> = edges.iter().map(|edge| edge.1).collect();
        let room = get(count)?;
        let mut left = room;
        list(&sources, from, &mut left)?;
        list(&vec![0; edges.len()], data, &mut { room })?;
        list(&targets, to, count)
    }

    fn edges_change(
        &mut self,
        graph: *mut c_void,
        from: *const u64,
        to: *const u64,
        count: usize,
        add: bool,
    ) -> Outcome {
        let graph = self.graph(graph)?;
        let (from, to) = (self.dependencies(from, count)?, self.dependencies(to, count)?);
        let nodes = &mut self.graphs.get_mut(&graph).ok_or(error::INVALID_VALUE)?.nodes;
        if from.iter().chain(&to).any(|node| !nodes.contains_key(node)) {
            return Err(error::INVALID_VALUE);
        }
        for (from, to) in from.into_iter().zip(to) {
            let Some(node) = nodes.get_mut(&to) else { continue };
            let there = node.dependencies.contains(&from);
            match (add, there) {
                (true, false) => node.dependencies.push(from),
                (false, true) => node.dependencies.retain(|d| *d != from),
                _ => return Err(error::INVALID_VALUE),
            }
        }
        Ok(())
    }
}

/// Writes a list as these entry points do: the count alone where there is no array, else as many as there is room
/// for, the rest filled with null.
fn list(values: &[u64], to: *mut u64, count: *mut usize) -> Outcome {
    if to.is_null() {
        return put(count, values.len());
    }
    let room = get(count)?;
    for index in 0..room {
        put(to.wrapping_add(index), values.get(index).copied().unwrap_or(0))?;
    }
    put(count, values.len().min(room))
}

fn allocation_params(ordinal: c_int, bytes: u64, address: u64) -> CUDA_MEM_ALLOC_NODE_PARAMS {
    CUDA_MEM_ALLOC_NODE_PARAMS {
        pool_props: CUmemPoolProps {
            alloc_type: 1,
            handle_types: 0,
            location: CUmemLocation { kind: 1, id: ordinal },
            win32_security_attributes: std::ptr::null_mut(),
            max_size: 0,
            usage: 0,
            reserved: [0; 54],
        },
        access_descs: std::ptr::null(),
        access_desc_count: 0,
        bytesize: bytes as usize,
        dptr: address,
    }
}

fn first_form(first: CUDA_KERNEL_NODE_PARAMS) -> CUDA_KERNEL_NODE_PARAMS_v2 {
    CUDA_KERNEL_NODE_PARAMS_v2 { first, kern: 0, ctx: 0 }
}

fn host_work(params: *const CUDA_HOST_NODE_PARAMS) -> Outcome<Work> {
    let CUDA_HOST_NODE_PARAMS { function, user_data } = get(params)?;
    Ok(Work::Host { function: function.ok_or(error::INVALID_VALUE)?, data: user_data })
}

free_entry! {
    fn cuGraphLaunch | cuGraphLaunch_ptsz(executable: *mut c_void, stream: *mut c_void) {
        Engine::wait_room(stream, PER_THREAD)?;
        with(|d| d.graph_launch(executable, stream, PER_THREAD))
    }
}

entry! {
    fn cuGraphCreate(d, graph: *mut u64, _flags: c_uint) {
        let id = d.graph_create();
        put(graph, id)
    }
    fn cuGraphDestroy(d, graph: *mut c_void) {
        let id = d.graph(graph)?;
        if d.graphs[&id].child {
            return Err(error::INVALID_VALUE);
        }
        d.graph_destroy(id);
        Ok(())
    }
    fn cuGraphClone(d, copy: *mut u64, graph: *mut c_void) {
        let id = d.graph(graph)?;
        let clone = d.graph_clone(id)?;
        put(copy, clone)
    }
    fn cuGraphGetId(d, graph: *mut c_void, id: *mut c_uint) {
        let graph = d.graph(graph)?;
        put(id, d.graphs[&graph].id)
    }
    fn cuGraphDebugDotPrint(d, graph: *mut c_void, path: *const c_char, _flags: c_uint) {
        let edges = d.edges(graph)?;
        let lines: String = edges.iter().map(|(from, to)| format!("  \"{from:#x}\" -> \"{to:#x}\"\n")).collect();
        std::fs::write(super::get_text(path)?, format!("digraph g {{\n{lines}}}\n")).map_err(|_| 304)
    }
    fn cuGraphGetNodes(d, graph: *mut c_void, nodes: *mut u64, count: *mut usize) {
        let id = d.graph(graph)?;
        let all: Vec<u64> = d.graphs[&id].nodes.keys().copied().collect();
        list(&all, nodes, count)
    }
    fn cuGraphGetRootNodes(d, graph: *mut c_void, nodes: *mut u64, count: *mut usize) {
        let id = d.graph(graph)?;
        let roots: Vec<u64> =
            d.graphs[&id].nodes.iter().filter(|(_, node)| node.dependencies.is_empty()).map(|(id, _)| *id).collect();
        list(&roots, nodes, count)
    }
    fn cuGraphGetEdges(d, graph: *mut c_void, from: *mut u64, to: *mut u64, count: *mut usize) {
        d.edges_put(graph, from, to, std::ptr::null_mut(), count)
    }
    fn cuGraphGetEdges_v2(d, graph: *mut c_void, from: *mut u64, to: *mut u64, data: *mut u64, count: *mut usize) {
        d.edges_put(graph, from, to, data, count)
    }
    fn cuGraphAddDependencies(d, graph: *mut c_void, from: *const u64, to: *const u64, count: usize) {
        d.edges_change(graph, from, to, count, true)
    }
    fn cuGraphAddDependencies_v2(d, graph: *mut c_void, from: *const u64, to: *const u64, _data: *const c_void, count: usize) {
        d.edges_change(graph, from, to, count, true)
    }
    fn cuGraphRemoveDependencies(d, graph: *mut c_void, from: *const u64, to: *const u64, count: usize) {
        d.edges_change(graph, from, to, count, false)
    }
    fn cuGraphRemoveDependencies_v2(d, graph: *mut c_void, from: *const u64, to: *const u64, _data: *const c_void, count: usize) {
        d.edges_change(graph, from, to, count, false)
    }
    fn cuGraphNodeGetDependencies(d, node: *mut c_void, nodes: *mut u64, count: *mut usize) {
        list(&d.node(node)?.dependencies, nodes, count)
    }
    fn cuGraphNodeGetDependencies_v2(d, node: *mut c_void, nodes: *mut u64, data: *mut u64, count: *mut usize) {
        let found = d.node(node)?.dependencies.clone();
        let mut room = get(count)?;
        list(&vec![0; found.len()], data, &mut room)?;
        list(&found, nodes, count)
    }
    fn cuGraphNodeGetDependentNodes(d, node: *mut c_void, nodes: *mut u64, count: *mut usize) {
        list(&d.dependents(node)?, nodes, count)
    }
    fn cuGraphNodeGetDependentNodes_v2(d, node: *mut c_void, nodes: *mut u64, data: *mut u64, count: *mut usize) {
        let found = d.dependents(node)?;
        let mut room = get(count)?;
        list(&vec![0; found.len()], data, &mut room)?;
        list(&found, nodes, count)
    }
    fn cuGraphNodeGetType(d, node: *mut c_void, kind: *mut c_int) {
        put(kind, d.node(node)?.work.kind())
    }
    fn cuGraphNodeGetContainingGraph(d, node: *mut c_void, graph: *mut u64) {
        put(graph, *d.nodes.get(&(node as u64)).ok_or(error::INVALID_VALUE)?)
    }
    fn cuGraphNodeFindInClone(d, node: *mut u64, original: *mut c_void, clone: *mut c_void) {
        let clone = d.graph(clone)?;
        let found = d.graphs[&clone].nodes.iter().find(|(_, node)| node.original == original as u64);
        put(node, *found.ok_or(error::INVALID_VALUE)?.0)
    }
    fn cuGraphDestroyNode(d, node: *mut c_void) {
        let graph = d.nodes.remove(&(node as u64)).ok_or(error::INVALID_VALUE)?;
        if let Some(graph) = d.graphs.get_mut(&graph) {
            graph.nodes.remove(&(node as u64));
            for other in graph.nodes.values_mut() {
                other.dependencies.retain(|dependency| *dependency != node as u64);
            }
        }
        Ok(())
    }

    fn cuGraphAddKernelNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *const CUDA_KERNEL_NODE_PARAMS) {
        let params = first_form(get(params)?);
        let work = d.kernel_work(params)?;
        d.node_put(node, graph, nodes, count, work)
    }
    fn cuGraphAddKernelNode_v2(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *const CUDA_KERNEL_NODE_PARAMS_v2) {
        let work = d.kernel_work(get(params)?)?;
        d.node_put(node, graph, nodes, count, work)
    }
    fn cuGraphAddMemcpyNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *const CUDA_MEMCPY3D, _ctx: *mut c_void) {
        let params = get(params)?;
        d.node_put(node, graph, nodes, count, Work::Copy(params))
    }
    fn cuGraphAddMemsetNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *const CUDA_MEMSET_NODE_PARAMS, _ctx: *mut c_void) {
        let params = get(params)?;
        d.node_put(node, graph, nodes, count, Work::Fill(params))
    }
    fn cuGraphAddHostNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *const CUDA_HOST_NODE_PARAMS) {
        let work = host_work(params)?;
        d.node_put(node, graph, nodes, count, work)
    }
    fn cuGraphAddChildGraphNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, child: *mut c_void) {
        let child = d.graph(child)?;
        d.node_put(node, graph, nodes, count, Work::Child(child))
    }
    fn cuGraphAddEmptyNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize) {
        d.node_put(node, graph, nodes, count, Work::Empty)
    }
    fn cuGraphAddEventRecordNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, event: *mut c_void) {
        d.node_put(node, graph, nodes, count, Work::Record(event as u64))
    }
    fn cuGraphAddEventWaitNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, event: *mut c_void) {
        d.node_put(node, graph, nodes, count, Work::Wait(event as u64))
    }
    fn cuGraphAddMemAllocNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *mut CUDA_MEM_ALLOC_NODE_PARAMS) {
        let mut given = get(params)?;
        let work = d.work_of_allocation(&mut given)?;
        d.node_put(node, graph, nodes, count, work)?;
        put(params, given)
    }
    fn cuGraphAddMemFreeNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, address: u64) {
        if !d.allocations.get(&address).is_some_and(|a| matches!(a.kind, Kind::Graph { .. })) {
            return Err(error::INVALID_VALUE);
        }
        d.node_put(node, graph, nodes, count, Work::Free(address))
    }
    fn cuGraphAddNode(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, count: usize, params: *mut CUgraphNodeParams) {
        d.node_of_params(node, graph, nodes, count, params)
    }
    fn cuGraphAddNode_v2(d, node: *mut u64, graph: *mut c_void, nodes: *const u64, _data: *const c_void, count: usize, params: *mut CUgraphNodeParams) {
        d.node_of_params(node, graph, nodes, count, params)
    }

    fn cuGraphKernelNodeGetParams(d, node: *mut c_void, params: *mut CUDA_KERNEL_NODE_PARAMS) {
        let Work::Kernel(found, _) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, found.first)
    }
    fn cuGraphKernelNodeGetParams_v2(d, node: *mut c_void, params: *mut CUDA_KERNEL_NODE_PARAMS_v2) {
        let Work::Kernel(found, _) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, found)
    }
    fn cuGraphKernelNodeSetParams(d, node: *mut c_void, params: *const CUDA_KERNEL_NODE_PARAMS) {
        let work = d.kernel_work(first_form(get(params)?))?;
        d.node_set(node, work)
    }
    fn cuGraphKernelNodeSetParams_v2(d, node: *mut c_void, params: *const CUDA_KERNEL_NODE_PARAMS_v2) {
        let work = d.kernel_work(get(params)?)?;
        d.node_set(node, work)
    }
    fn cuGraphKernelNodeGetAttribute(d, node: *mut c_void, _attribute: c_int, value: *mut [u64; 8]) {
        d.node(node)?;
        put(value, [0; 8])
    }
    fn cuGraphKernelNodeSetAttribute(d, node: *mut c_void, _attribute: c_int, _value: *const c_void) {
        d.node(node).map(|_| ())
    }
    fn cuGraphKernelNodeCopyAttributes(d, to: *mut c_void, from: *mut c_void) {
        d.node(to)?;
        d.node(from).map(|_| ())
    }
    fn cuGraphMemcpyNodeGetParams(d, node: *mut c_void, params: *mut CUDA_MEMCPY3D) {
        let Work::Copy(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, found)
    }
    fn cuGraphMemcpyNodeSetParams(d, node: *mut c_void, params: *const CUDA_MEMCPY3D) {
        let params = get(params)?;
        d.node_set(node, Work::Copy(params))
    }
    fn cuGraphMemsetNodeGetParams(d, node: *mut c_void, params: *mut CUDA_MEMSET_NODE_PARAMS) {
        let Work::Fill(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, found)
    }
    fn cuGraphMemsetNodeSetParams(d, node: *mut c_void, params: *const CUDA_MEMSET_NODE_PARAMS) {
        let params = get(params)?;
        d.node_set(node, Work::Fill(params))
    }
    fn cuGraphHostNodeGetParams(d, node: *mut c_void, params: *mut CUDA_HOST_NODE_PARAMS) {
        let Work::Host { function, data } = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, CUDA_HOST_NODE_PARAMS { function: Some(function), user_data: data })
    }
    fn cuGraphHostNodeSetParams(d, node: *mut c_void, params: *const CUDA_HOST_NODE_PARAMS) {
        let work = host_work(params)?;
        d.node_set(node, work)
    }
    fn cuGraphChildGraphNodeGetGraph(d, node: *mut c_void, graph: *mut u64) {
        let Work::Child(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(graph, found)
    }
    fn cuGraphEventRecordNodeGetEvent(d, node: *mut c_void, event: *mut u64) {
        let Work::Record(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(event, found)
    }
    fn cuGraphEventWaitNodeGetEvent(d, node: *mut c_void, event: *mut u64) {
        let Work::Wait(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(event, found)
    }
    fn cuGraphEventRecordNodeSetEvent(d, node: *mut c_void, event: *mut c_void) {
        d.node_set(node, Work::Record(event as u64))
    }
    fn cuGraphEventWaitNodeSetEvent(d, node: *mut c_void, event: *mut c_void) {
        d.node_set(node, Work::Wait(event as u64))
    }
    fn cuGraphMemAllocNodeGetParams(d, node: *mut c_void, params: *mut CUDA_MEM_ALLOC_NODE_PARAMS) {
        let Work::Allocate { device, bytes, address } = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(params, allocation_params(d.ordinal(device), bytes, address))
    }
    fn cuGraphMemFreeNodeGetParams(d, node: *mut c_void, address: *mut u64) {
        let Work::Free(found) = d.node(node)?.work else { return Err(error::INVALID_VALUE) };
        put(address, found)
    }
    fn cuGraphNodeSetParams(d, node: *mut c_void, params: *mut CUgraphNodeParams) {
        let mut given = get(params)?;
        let work = d.work_of(&mut given)?;
        d.node_set(node, work)
    }

    fn cuGraphInstantiate | cuGraphInstantiate_v2(d, executable: *mut u64, graph: *mut c_void, error_node: *mut u64, _log: *mut c_char, _size: usize) {
        put_optional(error_node, 0);
        let id = d.instantiate(graph, 0)?;
        put(executable, id)
    }
    fn cuGraphInstantiateWithFlags(d, executable: *mut u64, graph: *mut c_void, flags: u64) {
        let id = d.instantiate(graph, flags)?;
        put(executable, id)
    }
    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(d, executable: *mut u64, graph: *mut c_void, params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS) {
        let mut given = get(params)?;
        let id = d.instantiate(graph, given.flags)?;
        // 2 = upload at once.
        if given.flags & 2 != 0 {
            d.upload(id as *mut c_void, given.upload_stream, PER_THREAD)?;
        }
        (given.error_node, given.result) = (0, 0);
        put(params, given)?;
        put(executable, id)
    }
    fn cuGraphExecDestroy(d, executable: *mut c_void) {
        d.executables.remove(&(executable as u64)).ok_or(error::INVALID_VALUE)?;
        d.graph_memory_forget();
        Ok(())
    }
    fn cuGraphExecGetFlags(d, executable: *mut c_void, flags: *mut u64) {
        put(flags, d.executables.get(&(executable as u64)).ok_or(error::INVALID_VALUE)?.flags)
    }
    fn cuGraphExecGetId(d, executable: *mut c_void, id: *mut c_uint) {
        put(id, d.executables.get(&(executable as u64)).ok_or(error::INVALID_VALUE)?.id)
    }
    fn cuGraphUpload | cuGraphUpload_ptsz(d, executable: *mut c_void, stream: *mut c_void) {
        d.upload(executable, stream, PER_THREAD)
    }
    fn cuGraphExecUpdate(d, executable: *mut c_void, graph: *mut c_void, error_node: *mut u64, result: *mut c_int) {
        let why = d.update(executable, graph)?;
        put_optional(error_node, 0);
        put_optional(result, why);
        if why == 0 { Ok(()) } else { Err(910) }
    }
    fn cuGraphExecUpdate_v2(d, executable: *mut c_void, graph: *mut c_void, info: *mut [u64; 3]) {
        let why = d.update(executable, graph)?;
        put_optional(info, [why as u64, 0, 0]);
        if why == 0 { Ok(()) } else { Err(910) }
    }
    fn cuGraphExecKernelNodeSetParams(d, executable: *mut c_void, node: *mut c_void, params: *const CUDA_KERNEL_NODE_PARAMS) {
        let work = d.kernel_work(first_form(get(params)?))?;
        d.step_set(executable, node, work)
    }
    fn cuGraphExecKernelNodeSetParams_v2(d, executable: *mut c_void, node: *mut c_void, params: *const CUDA_KERNEL_NODE_PARAMS_v2) {
        let work = d.kernel_work(get(params)?)?;
        d.step_set(executable, node, work)
    }
    fn cuGraphExecMemcpyNodeSetParams(d, executable: *mut c_void, node: *mut c_void, params: *const CUDA_MEMCPY3D, _ctx: *mut c_void) {
        let params = get(params)?;
        d.step_set(executable, node, Work::Copy(params))
    }
    fn cuGraphExecMemsetNodeSetParams(d, executable: *mut c_void, node: *mut c_void, params: *const CUDA_MEMSET_NODE_PARAMS, _ctx: *mut c_void) {
        let params = get(params)?;
        d.step_set(executable, node, Work::Fill(params))
    }
    fn cuGraphExecHostNodeSetParams(d, executable: *mut c_void, node: *mut c_void, params: *const CUDA_HOST_NODE_PARAMS) {
        let work = host_work(params)?;
        d.step_set(executable, node, work)
    }
    fn cuGraphExecEventRecordNodeSetEvent(d, executable: *mut c_void, node: *mut c_void, event: *mut c_void) {
        d.step_set(executable, node, Work::Record(event as u64))
    }
    fn cuGraphExecEventWaitNodeSetEvent(d, executable: *mut c_void, node: *mut c_void, event: *mut c_void) {
        d.step_set(executable, node, Work::Wait(event as u64))
    }
    fn cuGraphExecNodeSetParams(d, executable: *mut c_void, node: *mut c_void, params: *mut CUgraphNodeParams) {
        let mut given = get(params)?;
        let work = d.work_of(&mut given)?;
        d.step_set(executable, node, work)
    }
    fn cuGraphNodeSetEnabled(d, executable: *mut c_void, node: *mut c_void, enabled: c_uint) {
        let executable = d.executables.get_mut(&(executable as u64)).ok_or(error::INVALID_VALUE)?;
        let step = executable.steps.iter_mut().find(|step| step.node == node as u64).ok_or(error::INVALID_VALUE)?;
        if !matches!(step.work.kind(), 0..=2) {
            return Err(error::INVALID_VALUE);
        }
        step.enabled = enabled != 0;
        Ok(())
    }
    fn cuGraphNodeGetEnabled(d, executable: *mut c_void, node: *mut c_void, enabled: *mut c_uint) {
        let executable = d.executables.get(&(executable as u64)).ok_or(error::INVALID_VALUE)?;
        let step = executable.steps.iter().find(|step| step.node == node as u64).ok_or(error::INVALID_VALUE)?;
        put(enabled, c_uint::from(step.enabled))
    }

    fn cuStreamBeginCapture | cuStreamBeginCapture_ptsz(d, stream: *mut c_void) {
        d.capture_begin(stream, PER_THREAD, None)
    }
    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(d, stream: *mut c_void, mode: c_int) {
        if !matches!(mode, 0..=2) {
            return Err(error::INVALID_VALUE);
        }
        d.capture_begin(stream, PER_THREAD, None)
    }
    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz(d, stream: *mut c_void, graph: *mut c_void, nodes: *const u64, _data: *const c_void, count: usize, _mode: c_int) {
        let graph = d.graph(graph)?;
        let dependencies = d.dependencies(nodes, count)?;
        d.capture_begin(stream, PER_THREAD, Some((graph, dependencies)))
    }
    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(d, stream: *mut c_void, graph: *mut u64) {
        put_optional(graph, 0);
        let id = d.capture_end(stream, PER_THREAD)?;
        put_optional(graph, id);
        Ok(())
    }
    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(d, stream: *mut c_void, status: *mut c_int) {
        let none: *mut c_void = std::ptr::null_mut();
        d.capture_info(stream, PER_THREAD, status, none.cast(), none.cast(), none.cast(), none.cast(), none.cast())
    }
    fn cuStreamGetCaptureInfo | cuStreamGetCaptureInfo_ptsz(d, stream: *mut c_void, status: *mut c_int, id: *mut u64) {
        let none: *mut c_void = std::ptr::null_mut();
        d.capture_info(stream, PER_THREAD, status, id, none.cast(), none.cast(), none.cast(), none.cast())
    }
    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(d, stream: *mut c_void, status: *mut c_int, id: *mut u64, graph: *mut u64, nodes: *mut *const u64, count: *mut usize) {
        d.capture_info(stream, PER_THREAD, status, id, graph, nodes, std::ptr::null_mut(), count)
    }
    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz(d, stream: *mut c_void, status: *mut c_int, id: *mut u64, graph: *mut u64, nodes: *mut *const u64, edges: *mut *const u64, count: *mut usize) {
        d.capture_info(stream, PER_THREAD, status, id, graph, nodes, edges, count)
    }
    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz(d, stream: *mut c_void, nodes: *const u64, count: usize, flags: c_uint) {
        d.capture_dependencies(stream, PER_THREAD, nodes, count, flags)
    }
    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz(d, stream: *mut c_void, nodes: *const u64, _data: *const c_void, count: usize, flags: c_uint) {
        d.capture_dependencies(stream, PER_THREAD, nodes, count, flags)
    }

    fn cuUserObjectCreate(d, object: *mut u64, data: *mut c_void, destroy: Option<HostFunction>, references: c_uint, _flags: c_uint) {
        let id = d.handle();
        d.user_objects.insert(id, UserObject { references, destroy, data: data as u64 });
        put(object, id)
    }
    fn cuUserObjectRetain(d, object: *mut c_void, count: c_uint) {
        d.user_objects.get_mut(&(object as u64)).ok_or(error::INVALID_VALUE)?.references += count;
        Ok(())
    }
    fn cuGraphRetainUserObject(d, graph: *mut c_void, object: *mut c_void, count: c_uint, flags: c_uint) {
        d.graph(graph)?;
        let object = d.user_objects.get_mut(&(object as u64)).ok_or(error::INVALID_VALUE)?;
        // 1 = the caller's references move to the graph.
        if flags & 1 == 0 {
            object.references += count;
        }
        Ok(())
    }
}

free_entry! {
    fn cuUserObjectRelease(object: *mut c_void, count: c_uint) {
        release_object(object, count)
    }
    fn cuGraphReleaseUserObject(_graph: *mut c_void, object: *mut c_void, count: c_uint) {
        release_object(object, count)
    }
}

fn release_object(object: *mut c_void, count: c_uint) -> Outcome {
    let gone = super::with(|d| {
        let found = d.user_objects.get_mut(&(object as u64)).ok_or(error::INVALID_VALUE)?;
        found.references = found.references.saturating_sub(count);
        Ok(if found.references == 0 { d.user_objects.remove(&(object as u64)) } else { None })
    })?;
    if let Some(UserObject { destroy: Some(destroy), data, .. }) = gone {
        // SAFETY: the program passed this function to be called with this pointer.
        unsafe { destroy(data as *mut c_void) };
    }
    Ok(())
}
