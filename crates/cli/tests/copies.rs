//! Copies count against the share where they occupy the GPU, and half a collective operation is never held back.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{PATIENCE, Place, number, within};

/// Does what it is told on a stream of device 0 (`here`) or of the last device, with the first device's context current.
const COPIES: &str = r#"
import ctypes as c, json, sys
cuda = c.CDLL("libcuda.so.1")
u64, size, u32 = c.c_ulonglong, c.c_size_t, c.c_uint
def must(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    assert status == 0, (name, status)
must("cuInit", 0)
count = c.c_int()
must("cuDeviceGetCount", c.byref(count))
BIG = 8 << 20
HOST = (c.c_char * (2 * BIG))()
def device(ordinal):
    context, stream, pointer, module = c.c_void_p(), c.c_void_p(), u64(), c.c_void_p()
    must("cuDevicePrimaryCtxRetain", c.byref(context), ordinal)
    must("cuCtxSetCurrent", context)
    must("cuStreamCreate", c.byref(stream), 1)
    must("cuMemAlloc_v2", c.byref(pointer), size(2 * BIG))
    return context, stream, pointer.value
there, here = device(count.value - 1), device(0)
context, stream, at = here
text = b"//fakegpu\nkernel ncclDevKernel_AllReduce_Sum_f32_RING_LL duration=10us\nkernel plain duration=10us\n\0"
module = c.c_void_p()
must("cuModuleLoadData", c.byref(module), text)
def graph_of(name):
    kernel, graph, made = c.c_void_p(), c.c_void_p(), c.c_void_p()
    must("cuModuleGetFunction", c.byref(kernel), module, name)
    must("cuStreamBeginCapture_v2", stream, 2)
    for _ in range(2):
        must("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, stream, None, None)
    must("cuStreamEndCapture", stream, c.byref(graph))
    must("cuGraphInstantiateWithFlags", c.byref(made), graph, u64(0))
    return made
graphs = {"plain": graph_of(b"plain"), "collective": graph_of(b"ncclDevKernel_AllReduce_Sum_f32_RING_LL")}
two = lambda *values: (u64 * len(values))(*values)
flat = lambda bytes: two(0, 0, 2, 0, at, 0, bytes >> 3, 0, 0, 2, 0, at + BIG, 0, bytes >> 3, bytes >> 3, 8)
DO = {
    "cuMemcpyDtoDAsync_v2": lambda n: (u64(at + BIG), u64(at), size(n), stream),
    "cuMemcpyDtoD_v2": lambda n: (u64(at + BIG), u64(at), size(n)),
    "cuMemcpyDtoD_v2_ptds": lambda n: (u64(at + BIG), u64(at), size(n)),
    "cuMemcpyHtoDAsync_v2_ptsz": lambda n: (u64(at), HOST, size(n), stream),
    "cuMemcpyDtoH_v2": lambda n: (HOST, u64(at), size(n)),
    "cuMemcpyAsync": lambda n: (u64(at), u64(at + BIG), size(n), stream),
    "cuMemcpyAsync_ptsz": lambda n: (u64(at), HOST, size(n), stream),
    "cuMemcpy2DAsync_v2": lambda n: (flat(n), stream),
    "cuMemsetD32Async": lambda n: (u64(at), u32(1), size(n >> 2), stream),
    "cuMemsetD2D8_v2": lambda n: (u64(at), size(n >> 3), c.c_ubyte(1), size(n >> 3), size(8)),
    "cuMemcpyBatchAsync_v2": lambda n: (
        two(at + BIG), two(at), two(n), size(1), two(0), two(0), size(0), stream),
    "cuMemcpyPeerAsync": lambda n: (u64(at + BIG), context, u64(at), context, size(n), stream),
}
for line in sys.stdin:
    what, how = line.split()
    if what == "graph":
        must("cuGraphLaunch", graphs[how], stream)
    elif what == "there":
        for _ in range(int(how)):
            must("cuMemsetD8Async", u64(there[2]), c.c_ubyte(1), size(BIG), there[1])
        must("cuStreamSynchronize", there[1])
    else:
        must(what, *DO[what](int(how)))
    print(json.dumps({"done": what}), flush=True)
"#;

const HELD: [&str; 7] = [
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoD_v2",
    "cuMemcpyDtoD_v2_ptds",
    "cuMemcpyAsync",
    "cuMemcpy2DAsync_v2",
    "cuMemsetD32Async",
    "cuMemsetD2D8_v2",
];

/// Copies between the device and the host, which keep nobody from the device.
const HOSTS: [&str; 3] = ["cuMemcpyHtoDAsync_v2_ptsz 8388608", "cuMemcpyDtoH_v2 8388608", "cuMemcpyAsync_ptsz 8388608"];

/// While the slice is paused, a small copy goes and a large one waits.
#[test]
fn large_copies_wait_for_their_turn() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
    let mut program = place.start("a", &["python3", "-c", COPIES]);
    program.ask("cuMemcpyDtoD_v2 4096");
    let waited = || number(&place.show("a")["devices"][0]["time"]["throttled_total"]);
    for name in HELD.into_iter().chain(["graph"]) {
        place.ok(&["pause", "a"]);
        // Small copies, and those between devices, which collective operations are made of.
        for free in
            ["cuMemcpyDtoD_v2 65536", "cuMemsetD2D8_v2 4096", "cuMemcpyPeerAsync 8388608"].into_iter().chain(HOSTS)
        {
            program.ask(free);
        }
        let before = waited();
        let how = if name == "graph" { "plain" } else { "8388608" };
        program.tell(&format!("{name} {how}"));
        within(PATIENCE, name, || waited() > before);
        place.ok(&["resume", "a"]);
        assert_eq!(program.line()["done"], name);
    }
    // A graph that was captured with a collective operation goes, and so do batches beside such operations.
    place.ok(&["pause", "a"]);
    for free in ["graph collective", "cuMemcpyBatchAsync_v2 8388608"] {
        program.ask(free);
    }
    place.ok(&["resume", "a"]);
    program.end();
}

/// What goes to another device's stream is charged to that device.
#[test]
fn copies_are_charged_to_the_device_of_their_stream() {
    let place = Place::new("2xH100");
    place.ok(&["slice", "create", "--gpu", "0,1", "--memory", "8GiB", "--name", "a"]);
    let mut program = place.start("a", &["python3", "-c", COPIES]);
    let used = |device: usize| number(&place.show("a")["devices"][device]["time"]["device_ns"]);
    let before = used(0);
    program.ask("there 40");
    within(PATIENCE, "it is charged", || used(1) > 0);
    assert_eq!(used(0), before);
    program.end();
}
