//! Streams, events, kernels, graphs and NVML, through the real library.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Installed, MIB, event, stream};

#[test]
fn calls_fail_as_the_driver_fails_them() {
    let installed = Installed::new("2xT4");
    let gpu = installed.load();
    let mut value = 0_u64;
    assert_eq!(call!(gpu, cuDeviceGetCount, &mut value), 3);
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut value, 1_u64), 3);
    ok!(gpu, cuDriverGetVersion, &mut value);
    assert_eq!(value, 13000);
    ok!(gpu, cuInit, 0);
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut value, 1_u64), 201);
    assert_eq!(call!(gpu, cuDeviceGet, &mut value, 2), 101);
    assert_eq!(call!(gpu, cuDevicePrimaryCtxRetain, &mut value, -1), 101);
    gpu.start(1);
    assert_eq!(call!(gpu, cuStreamSynchronize, 0x1234_u64), 400);
    assert_eq!(call!(gpu, cuEventQuery, 0x1234_u64), 400);
    assert_eq!(gpu.launch(0x1234, 0), 400);
    assert_eq!(call!(gpu, cuEGLStreamConsumerConnect), 801);
}

#[test]
fn kernels_take_virtual_time_and_queue_behind_each_other() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let kernel = gpu.kernel("kernel spin duration=200us", "spin");
    let (a, b) = (stream(&gpu, 1), stream(&gpu, 1));
    let (start, end) = (event(&gpu), event(&gpu));
    ok!(gpu, cuEventRecord, start, a);
    assert_eq!(gpu.launch(kernel, a), 0);
    assert_eq!(gpu.launch(kernel, b), 0);
    ok!(gpu, cuEventRecord, end, b);
    assert_eq!(call!(gpu, cuEventQuery, end), 600);
    ok!(gpu, cuEventSynchronize, end);
    ok!(gpu, cuEventQuery, end);
    let mut milliseconds = 0_f32;
    ok!(gpu, cuEventElapsedTime, &mut milliseconds, start, end);
    assert!((milliseconds - 0.4).abs() < 1e-6, "{milliseconds}");
    // One that only polls gets there, too.
    assert_eq!(gpu.launch(kernel, a), 0);
    while call!(gpu, cuStreamQuery, a) == 600 {}
    ok!(gpu, cuStreamQuery, a);
}

#[test]
fn a_fault_ends_the_context_and_no_other() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let mut second = 0_u64;
    ok!(gpu, cuCtxCreate_v2, &mut second, 0, 0);
    let bad = gpu.kernel("kernel bad fault=illegal_address", "bad");
    assert_eq!(gpu.launch(bad, 0), 0);
    assert_eq!(call!(gpu, cuCtxSynchronize), 700);
    let mut pointer = 0_u64;
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut pointer, 1_u64), 700);
    ok!(gpu, cuCtxDestroy_v2, second);
    gpu.alloc(MIB);
    ok!(gpu, cuCtxSynchronize);
}

#[test]
fn a_hanging_kernel_holds_its_stream_up_and_no_other() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let stuck = gpu.kernel("kernel stuck fault=hang", "stuck");
    let (a, b) = (stream(&gpu, 1), stream(&gpu, 1));
    assert_eq!(gpu.launch(stuck, a), 0);
    assert_eq!(call!(gpu, cuStreamQuery, a), 600);
    ok!(gpu, cuStreamSynchronize, b);
    let reached = event(&gpu);
    ok!(gpu, cuEventRecord, reached, a);
    ok!(gpu, cuStreamWaitEvent, b, reached, 0);
    assert_eq!(call!(gpu, cuStreamQuery, b), 600);
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(data: *mut c_void) {
    CALLS.fetch_add(data as u32, Ordering::SeqCst);
}

#[test]
fn host_functions_run_in_the_order_of_their_stream() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let s = stream(&gpu, 1);
    let device = gpu.alloc(16);
    for _ in 0..5 {
        ok!(gpu, cuLaunchHostFunc, s, count as *const c_void, 1_u64);
    }
    ok!(gpu, cuMemsetD8Async, device, 9, 16_u64, s);
    ok!(gpu, cuStreamSynchronize, s);
    assert_eq!(CALLS.load(Ordering::SeqCst), 5);
    let mut bytes = [0_u8; 16];
    ok!(gpu, cuMemcpyDtoH_v2, &mut bytes, device, 16_u64);
    assert_eq!(bytes, [9; 16]);
}

#[test]
fn a_stream_waits_for_a_word() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (a, b) = (stream(&gpu, 1), stream(&gpu, 1));
    let word = gpu.alloc(4);
    ok!(gpu, cuMemsetD32_v2, word, 0, 1_u64);
    ok!(gpu, cuStreamWaitValue32_v2, a, word, 3, 0);
    assert_eq!(call!(gpu, cuStreamQuery, a), 600);
    ok!(gpu, cuStreamWriteValue32_v2, b, word, 2, 0);
    assert_eq!(call!(gpu, cuStreamQuery, a), 600);
    ok!(gpu, cuStreamWriteValue32_v2, b, word, 3, 0);
    ok!(gpu, cuStreamSynchronize, a);
}

#[test]
fn a_write_behind_a_kernel_moves_virtual_time_there() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let kernel = gpu.kernel("kernel spin duration=200us", "spin");
    let (a, word) = (stream(&gpu, 1), gpu.alloc(4));
    ok!(gpu, cuMemsetD32_v2, word, 0, 1_u64);
    assert_eq!(gpu.launch(kernel, a), 0);
    assert_eq!(call!(gpu, cuStreamQuery, a), 600);
    ok!(gpu, cuStreamWriteValue32_v2, a, word, 5, 0);
    ok!(gpu, cuStreamQuery, a);
    // Device memory is the program's own here, as that of a real device mapped by the host would be.
    // SAFETY: allocated above.
    assert_eq!(unsafe { (word as *const u32).read_volatile() }, 5);
}

#[test]
fn copies_move_bytes_in_one_two_and_three_dimensions() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let source: Vec<u8> = (0..4096_u32).map(|i| (i % 253) as u8).collect();
    let (a, b) = (gpu.alloc(4096), gpu.alloc(4096));
    ok!(gpu, cuMemcpyHtoD_v2, a, source.as_ptr(), 4096_u64);
    ok!(gpu, cuMemcpyDtoD_v2, b, a, 4096_u64);
    let mut back = vec![0_u8; 4096];
    ok!(gpu, cuMemcpy, back.as_mut_ptr(), b, 4096_u64);
    assert_eq!(back, source);
    assert_eq!(call!(gpu, cuMemcpyHtoD_v2, a, source.as_ptr(), 4097_u64), 1, "beyond the allocation");
    assert_eq!(call!(gpu, cuMemcpyHtoD_v2, 0x10_u64, source.as_ptr(), 1_u64), 1);
    // 16 rows of 10 bytes out of rows of 64, to rows of 10 on the host.
    let out = [0_u8; 160];
    let copy: [u64; 16] = [0, 0, 2, 0, a, 0, 64, 0, 0, 1, out.as_ptr() as u64, 0, 0, 10, 10, 16];
    ok!(gpu, cuMemcpy2D_v2, &copy);
    for (row, bytes) in out.chunks(10).enumerate() {
        assert_eq!(bytes, &source[row * 64..row * 64 + 10]);
    }
    let width = 100;
    let (mut pitched, mut pitch) = (0_u64, 0_u64);
    ok!(gpu, cuMemAllocPitch_v2, &mut pitched, &mut pitch, width as u64, 7_u64, 4);
    assert_eq!(pitch, 512);
    ok!(gpu, cuMemsetD2D16_v2, pitched, pitch, 0x0102, 50_u64, 7_u64);
    ok!(gpu, cuMemcpyDtoH_v2, back.as_mut_ptr(), pitched + 512, 100_u64);
    assert!(back[..100].chunks(2).all(|pair| pair == [2, 1]));
}

#[test]
fn graphs_are_captured_across_streams_and_replayed() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let kernel = gpu.kernel("kernel spin duration=100us", "spin");
    let (a, b, fork, join) = (stream(&gpu, 1), stream(&gpu, 1), event(&gpu), event(&gpu));
    let device = gpu.alloc(64);
    let (mut graph, mut executable, mut count, mut status) = (0_u64, 0_u64, 0_u64, 0_u32);
    ok!(gpu, cuStreamBeginCapture_v2, a, 0);
    assert_eq!(gpu.launch(kernel, a), 0);
    ok!(gpu, cuEventRecord, fork, a);
    ok!(gpu, cuStreamWaitEvent, b, fork, 0);
    ok!(gpu, cuStreamIsCapturing, b, &mut status);
    assert_eq!(status, 1);
    assert_eq!(gpu.launch(kernel, b), 0);
    ok!(gpu, cuEventRecord, join, b);
    ok!(gpu, cuMemsetD8Async, device, 5, 64_u64, a);
    ok!(gpu, cuStreamWaitEvent, a, join, 0);
    ok!(gpu, cuStreamEndCapture, a, &mut graph);
    ok!(gpu, cuGraphGetNodes, graph, std::ptr::null::<u64>(), &mut count);
    assert_eq!(count, 3);
    ok!(gpu, cuGraphInstantiateWithFlags, &mut executable, graph, 0_u64);
    let mut first = 0_u8;
    ok!(gpu, cuMemcpyDtoH_v2, &mut first, device, 1_u64);
    assert_eq!(first, 0, "captured, not executed");
    let (start, end) = (event(&gpu), event(&gpu));
    ok!(gpu, cuEventRecord, start, a);
    ok!(gpu, cuGraphLaunch, executable, a);
    ok!(gpu, cuGraphLaunch, executable, a);
    ok!(gpu, cuEventRecord, end, a);
    ok!(gpu, cuStreamSynchronize, a);
    let mut milliseconds = 0_f32;
    ok!(gpu, cuEventElapsedTime, &mut milliseconds, start, end);
    assert!((0.4..0.5).contains(&milliseconds), "{milliseconds}");
    ok!(gpu, cuMemcpyDtoH_v2, &mut first, device, 1_u64);
    assert_eq!(first, 5);

    // A fork that is not joined, and a synchronisation while capturing, spoil the capture.
    ok!(gpu, cuStreamBeginCapture_v2, a, 0);
    ok!(gpu, cuEventRecord, fork, a);
    ok!(gpu, cuStreamWaitEvent, b, fork, 0);
    assert_eq!(gpu.launch(kernel, b), 0);
    assert_eq!(call!(gpu, cuStreamEndCapture, a, &mut graph), 904);
    ok!(gpu, cuStreamBeginCapture_v2, a, 0);
    assert_eq!(call!(gpu, cuStreamSynchronize, a), 900);
    assert_eq!(call!(gpu, cuStreamEndCapture, a, &mut graph), 901);
    assert_eq!(gpu.launch(kernel, a), 0);
    ok!(gpu, cuStreamSynchronize, a);
}

#[test]
fn nvml_describes_the_cards_and_counts_their_work() {
    let installed = Installed::new("2xH100+T4");
    let gpu = installed.load();
    let mut count = 0_u32;
    assert_eq!(call!(gpu, nvmlDeviceGetCount_v2, &mut count), 1);
    ok!(gpu, nvmlInit_v2);
    ok!(gpu, nvmlDeviceGetCount_v2, &mut count);
    assert_eq!(count, 3);
    let handle = |index: u32| {
        let mut handle = 0_u64;
        ok!(gpu, nvmlDeviceGetHandleByIndex_v2, index, &mut handle);
        handle
    };
    let mut memory = [0_u64; 3];
    ok!(gpu, nvmlDeviceGetMemoryInfo, handle(0), &mut memory);
    assert_eq!(memory[0], 81559 * MIB);
    let mut text = [0_u8; 96];
    ok!(gpu, nvmlDeviceGetUUID, handle(1), &mut text, 96);
    let uuid = CString::new(text.split(|b| *b == 0).next().expect("text")).expect("no zero");
    let mut found = 0_u64;
    ok!(gpu, nvmlDeviceGetHandleByUUID, uuid.as_ptr(), &mut found);
    assert_eq!(found, handle(1));
    assert_eq!(call!(gpu, nvmlDeviceGetUUID, handle(1), &mut text, 8), 7);
    assert_eq!(call!(gpu, nvmlDeviceGetHandleByIndex_v2, 3, &mut found), 2);
    let (mut mode, mut pending) = (9_u32, 9_u32);
    ok!(gpu, nvmlDeviceGetMigMode, handle(0), &mut mode, &mut pending);
    assert_eq!((mode, pending), (0, 0));
    assert_eq!(call!(gpu, nvmlDeviceGetMigMode, handle(2), &mut mode, &mut pending), 3);
    let mut list = [[0_u64; 3]; 1];
    count = 0;
    ok!(gpu, nvmlDeviceGetComputeRunningProcesses_v3, handle(0), &mut count, &mut list);
    assert_eq!(count, 0);

    gpu.start(0);
    count = 0;
    assert_eq!(call!(gpu, nvmlDeviceGetComputeRunningProcesses_v3, handle(0), &mut count, &mut list), 7);
    assert_eq!(count, 1);
    let kernel = gpu.kernel("kernel long duration=5s", "long");
    assert_eq!(gpu.launch(kernel, 0), 0);
    ok!(gpu, cuCtxSynchronize);
    let mut utilisation = [0_u32; 2];
    ok!(gpu, nvmlDeviceGetUtilizationRates, handle(0), &mut utilisation);
    assert!(utilisation[0] > 0, "{utilisation:?}");
    ok!(gpu, nvmlDeviceGetUtilizationRates, handle(1), &mut utilisation);
    assert_eq!(utilisation[0], 0);
    ok!(gpu, nvmlShutdown);
    assert_eq!(call!(gpu, nvmlShutdown), 1);
}

#[test]
fn get_proc_address_gives_the_exported_symbol_of_the_right_form() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    for (name, version, flags, symbol) in [
        ("cuMemAlloc", 3020, 0_u64, "cuMemAlloc_v2"),
        ("cuLaunchKernel", 7000, 2, "cuLaunchKernel_ptsz"),
        ("cuStreamGetCaptureInfo", 12030, 0, "cuStreamGetCaptureInfo_v3"),
    ] {
        let text = CString::new(name).expect("no zero");
        let (mut found, mut status) = (0_u64, 9_u32);
        ok!(gpu, cuGetProcAddress_v2, text.as_ptr(), &mut found, version, flags, &mut status);
        assert_eq!((found, status), (gpu.symbol(symbol) as u64, 0), "{name}");
    }
    let (mut found, mut status) = (1_u64, 9_u32);
    ok!(gpu, cuGetProcAddress_v2, c"cuNoSuch".as_ptr(), &mut found, 13000, 0_u64, &mut status);
    assert_eq!((found, status), (0, 1));
}

/// What `nvmlGpmMetricsGet` takes, with room for one metric.
#[repr(C)]
#[derive(Clone, Copy)]
struct Metrics {
    version: u32,
    count: u32,
    samples: [u64; 2],
    id: u32,
    result: i32,
    value: f64,
    names: [u64; 3],
}

#[test]
fn bandwidth_is_what_copies_and_fills_move_while_the_device_s_time_passes() {
    let installed = Installed::new("H100+T4+H100,mig");
    let gpu = installed.load();
    gpu.start(0);
    ok!(gpu, nvmlInit_v2);
    let card = |index: u32| {
        let mut handle = 0_u64;
        ok!(gpu, nvmlDeviceGetHandleByIndex_v2, index, &mut handle);
        handle
    };
    let sample = |card: u64| {
        let mut sample = 0_u64;
        ok!(gpu, nvmlGpmSampleAlloc, &mut sample);
        (call!(gpu, nvmlGpmSampleGet, card, sample), sample)
    };
    for (index, supported, code) in [(0, 1, 0), (1, 0, 3), (2, 0, 3)] {
        let mut asked = [1_u32, 9];
        ok!(gpu, nvmlGpmQueryDeviceSupport, card(index), &mut asked);
        let (got, sample) = sample(card(index));
        assert_eq!((asked[1], got), (supported, code), "{index}");
        ok!(gpu, nvmlGpmSampleFree, sample);
    }
    let percent = |one: u64, other: u64, id: u32| {
        let mut asked =
            Metrics { version: 1, count: 1, samples: [one, other], id, result: -1, value: -1.0, names: [9; 3] };
        ok!(gpu, nvmlGpmMetricsGet, &mut asked);
        (asked.result, (asked.value * 1e3).round() / 1e3)
    };
    let bytes = 28_000_000_u64;
    let (mut a, mut b, host) = (0_u64, 0_u64, vec![1_u8; bytes as usize]);
    ok!(gpu, cuMemAlloc_v2, &mut a, bytes);
    ok!(gpu, cuMemAlloc_v2, &mut b, bytes);
    let kernel = gpu.kernel("kernel spin duration=78500ns", "spin");
    let (card, stream) = (card(0), stream(&gpu, 1));
    let take = || sample(card).1;
    // 3352.32 bytes in a nanosecond are all that it has.
    let part = |bytes: u64, nanos: u64| (0, (bytes as f64 * 1e5 / (3352.32 * nanos as f64)).round() / 1e3);

    let first = take();
    assert_eq!(percent(first, take(), 10), (21, 0.0), "no time has passed");
    // Read and written; the kernel moves nothing. What is to come does not count.
    ok!(gpu, cuMemcpyDtoDAsync_v2, a, b, bytes, stream);
    assert_eq!(gpu.launch(kernel, stream), 0);
    assert_eq!(percent(first, take(), 10).0, 21);
    ok!(gpu, cuStreamSynchronize, stream);
    let second = take();
    assert_eq!(percent(first, second, 10), part(2 * bytes, 1500 + 20_000 + 78_500));
    assert_eq!((percent(first, second, 2).0, percent(second, first, 10).0), (3, 2));
    ok!(gpu, cuMemsetD8_v2, a, 7, bytes);
    let third = take();
    assert_eq!(percent(second, third, 10), part(bytes, 1500 + 10_000));
    ok!(gpu, cuMemcpyHtoD_v2, a, host.as_ptr(), bytes);
    assert_eq!(percent(third, take(), 10), part(bytes, 1500 + 560_000));
    // Samples that were taken longer ago still do.
    assert_eq!(percent(first, third, 10), part(3 * bytes, 100_000 + 11_500));
}
