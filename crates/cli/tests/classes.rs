//! What a slice's GPU time is made of, by the names of its kernels.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{PATIENCE, Place, number, within};

/// Does each of its operations as often as it is told, and waits for it each time.
const WORKS: &str = r#"
import ctypes as c, json, sys
cuda = c.CDLL("libcuda.so.1")
def must(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    assert status == 0, (name, status)
must("cuInit", 0)
context, stream, module, at = c.c_void_p(), c.c_void_p(), c.c_void_p(), c.c_ulonglong()
must("cuDevicePrimaryCtxRetain", c.byref(context), 0)
must("cuCtxSetCurrent", context)
must("cuStreamCreate", c.byref(stream), 1)
must("cuMemAlloc_v2", c.byref(at), c.c_size_t(64 << 20))
NAMES = {
    "latency": b"_ZN4vllm25paged_attention_v1_kernelIttLi128ELi16ELi128ELb0EEEvPT_PKS1_PKT0_S7_ifPKiS9_iPKfiii",
    "throughput": b"nvjet_sm90_hss_320x128_64x3_1x2_h_bz_coopB_NNT",
    "short": b"flash_fwd_kernel",
    "collective": b"_Z39ncclDevKernel_AllReduce_Sum_f32_RING_LL24ncclDevKernelArgsStorageILm4096EE",
    "other": b"burn",
}
LENGTHS = {"latency": b"2ms", "throughput": b"3ms", "short": b"10us", "collective": b"1ms", "other": b"2ms"}
text = b"//fakegpu\n" + b"".join(b"kernel %s duration=%s\n" % (NAMES[what], LENGTHS[what]) for what in NAMES) + b"\0"
must("cuModuleLoadData", c.byref(module), text)
kernels = {}
for what, name in NAMES.items():
    kernels[what] = c.c_void_p()
    must("cuModuleGetFunction", c.byref(kernels[what]), module, name)
def launch(what):
    must("cuLaunchKernel", kernels[what], 1, 1, 1, 1, 1, 1, 0, stream, None, None)
graph, made = c.c_void_p(), c.c_void_p()
must("cuStreamBeginCapture_v2", stream, 2)
launch("other")
must("cuStreamEndCapture", stream, c.byref(graph))
must("cuGraphInstantiateWithFlags", c.byref(made), graph, c.c_ulonglong(0))
for line in sys.stdin:
    what, times = line.split()
    for _ in range(int(times)):
        if what == "copy":
            must("cuMemcpyDtoDAsync_v2", c.c_ulonglong(at.value + (32 << 20)), at, c.c_size_t(32 << 20), stream)
        elif what == "graph":
            must("cuGraphLaunch", made, stream)
        else:
            launch(what)
        must("cuStreamSynchronize", stream)
    print(json.dumps({"done": what}), flush=True)
"#;

#[test]
fn a28_a_slice_tells_what_its_gpu_time_is_made_of() {
    let place = Place::new("1xH100");
    place.ok(&["slice", "create", "--memory", "8GiB", "--name", "a"]);
    let mut program = place.start("a", &["python3", "-c", WORKS]);
    for work in ["latency 101", "throughput 101", "other 101", "collective 7", "graph 30", "copy 40"] {
        program.ask(work);
    }
    let shown = place.show("a");
    let classes = &shown["classes"];
    assert_eq!(classes, &shown["processes"][0]["classes"]);
    let sent = |class: &str| number(&classes[class]["launches"]);
    assert_eq!((sent("latency"), sent("throughput"), sent("collective"), sent("graph")), (101, 101, 7, 30));
    assert!((1..=40).contains(&sent("copy")), "{classes}");
    let time = |class: &str| number(&classes[class]["device_ns"]);
    // Of each kind the first launch is not known yet.
    for (class, whole) in [("latency", 200), ("throughput", 300), ("other", 200), ("graph", 58)] {
        let expected = whole * 1_000_000;
        assert!(time(class).abs_diff(expected) * 50 < expected, "{class}: {} instead of {expected}", time(class));
    }
    // What is not measured, or not counted, is absent.
    assert!(classes["collective"]["device_ns"].is_null() && classes["other"]["launches"].is_null());

    // Short ones are only counted, and found in the accounts later.
    program.ask("short 5000");
    let sent = number(&place.show("a")["classes"]["latency"]["launches"]) - 101;
    assert!((4400..=5000).contains(&sent), "{sent} of 5000");
    let explained = place.ok(&["slice", "show", "a", "--explain"]);
    assert!(explained.contains("GPU time: throughput (matrices, convolution)"), "{explained}");
    assert!(explained.contains("7 collective kernels, not measured"), "{explained}");

    // It stays when the program has ended.
    let before = place.show("a")["classes"].clone();
    program.end();
    within(PATIENCE, "it is gone", || place.show("a")["processes"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(place.show("a")["classes"], before);
}

#[test]
fn a_daemon_may_be_told_to_ignore_classes() {
    let place = Place::new("1xH100");
    let with = |arguments: &[&str], ignored: &str| {
        place.cleave(arguments).env("CLEAVE_IGNORE_CLASSES", ignored).output().unwrap()
    };
    let refused = with(&["daemon"], "collective,graph");
    assert_eq!(refused.status.code(), Some(2));
    assert!(support::stderr(&refused).contains("collective, throughput or latency"), "{refused:?}");
    assert!(with(&["slice", "create", "--memory", "8GiB", "--name", "a"], "collective,latency").status.success());
    let mut program = place.start("a", &["python3", "-c", WORKS]);
    for work in ["latency 11", "throughput 12", "collective 7"] {
        program.ask(work);
    }
    let classes = &place.show("a")["classes"];
    assert_eq!(number(&classes["throughput"]["launches"]), 12, "{classes}");
    assert!(classes["collective"].is_null() && classes["latency"].is_null(), "{classes}");
    assert!(number(&classes["other"]["device_ns"]) > 0, "{classes}");
}
