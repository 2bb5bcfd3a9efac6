//! The driver's memory rules, through the real library.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use common::{CONTEXT, Installed, MIB, TOTAL};

#[test]
fn small_allocations_share_two_mib_and_large_ones_are_rounded_up() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    assert_eq!(gpu.used(), CONTEXT);
    assert_eq!(gpu.visible(0), CONTEXT);
    let small: Vec<u64> = (0..4096).map(|_| gpu.alloc(512)).collect();
    assert_eq!(gpu.used() - CONTEXT, 2 * MIB);
    assert!(small.windows(2).all(|pair| pair[1] - pair[0] == 512));
    let next = gpu.alloc(1);
    assert_eq!(gpu.used() - CONTEXT, 4 * MIB);
    for pointer in &small[1..] {
        ok!(gpu, cuMemFree_v2, *pointer);
    }
    assert_eq!(gpu.used() - CONTEXT, 4 * MIB, "one is left in the first chunk");
    ok!(gpu, cuMemFree_v2, small[0]);
    ok!(gpu, cuMemFree_v2, next);
    assert_eq!(gpu.used(), CONTEXT);
    let large = gpu.alloc(MIB + 1);
    assert_eq!(gpu.used() - CONTEXT, 2 * MIB);
    assert_eq!(gpu.visible(0), CONTEXT + 2 * MIB);
    assert_eq!(large % (2 * MIB), 0);
    ok!(gpu, cuMemFree_v2, large);
    assert_eq!(call!(gpu, cuMemFree_v2, large), 1);
    let mut pointer = 0_u64;
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut pointer, 0_u64), 1);
}

#[test]
fn the_card_can_be_filled_and_no_further() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let rest = (TOTAL - CONTEXT) / (2 * MIB) * (2 * MIB);
    let all = gpu.alloc(rest);
    let mut pointer = 0_u64;
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut pointer, 2 * MIB), 2);
    assert_eq!(call!(gpu, cuMemAlloc_v2, &mut pointer, 1_u64), 2);
    let mut stream = 0_u64;
    ok!(gpu, cuStreamCreate, &mut stream, 0);
    assert_eq!(call!(gpu, cuMemAllocAsync, &mut pointer, 1_u64, stream), 2);
    let mut second = 0_u64;
    assert_eq!(call!(gpu, cuCtxCreate_v2, &mut second, 0, 0), 2);
    ok!(gpu, cuMemFree_v2, all);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn contexts_and_stacks_cost_memory_and_give_it_back() {
    let installed = Installed::new("2xH100");
    let gpu = installed.load();
    gpu.start(0);
    let mut second = 0_u64;
    ok!(gpu, cuCtxCreate_v2, &mut second, 0, 0);
    assert_eq!(gpu.used(), 2 * CONTEXT);
    gpu.alloc(10 * MIB);
    gpu.alloc(100);
    ok!(gpu, cuCtxSetLimit, 0, 2048_u64);
    assert_eq!(gpu.used() - 2 * CONTEXT, 12 * MIB + 1024 * 132 * 2048);
    ok!(gpu, cuCtxSetLimit, 2, 64 * MIB);
    assert_eq!(gpu.used() - 2 * CONTEXT, 12 * MIB + 1024 * 132 * 2048, "the heap costs nothing until used");
    ok!(gpu, cuCtxDestroy_v2, second);
    let mut current = 0_u64;
    ok!(gpu, cuCtxGetCurrent, &mut current);
    assert_ne!(current, second);
    assert_eq!(gpu.used(), CONTEXT);
    // A kernel with more local memory than the limit grows the stacks, too.
    let kernel = gpu.kernel("kernel deep local=3KiB", "deep");
    assert_eq!(gpu.launch(kernel, 0), 0);
    assert_eq!(gpu.used() - CONTEXT, 2048 * 132 * 2048);
    ok!(gpu, cuDevicePrimaryCtxReset_v2, 0);
    gpu.start(0);
    assert_eq!(gpu.used(), CONTEXT);
    // The other device is untouched.
    gpu.start(1);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn managed_memory_is_charged_and_not_attributed() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let mut pointer = 0_u64;
    ok!(gpu, cuMemAllocManaged, &mut pointer, 100 * MIB, 1);
    assert_eq!(gpu.used(), CONTEXT + 100 * MIB);
    assert_eq!(gpu.visible(0), CONTEXT);
    ok!(gpu, cuMemFree_v2, pointer);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn a_pool_reserves_by_32_mib_and_trims_when_the_program_synchronises() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut stream, mut event) = (0_u64, 0_u64);
    ok!(gpu, cuStreamCreate, &mut stream, 1);
    ok!(gpu, cuEventCreate, &mut event, 0);
    let alloc = |bytes: u64| {
        let mut pointer = 0_u64;
        ok!(gpu, cuMemAllocAsync, &mut pointer, bytes, stream);
        pointer
    };
    let extra = || gpu.used() - CONTEXT;
    let a = alloc(MIB);
    assert_eq!(extra(), 32 * MIB);
    let b = alloc(40 * MIB);
    assert_eq!(extra(), 64 * MIB);
    ok!(gpu, cuMemFreeAsync, b, stream);
    assert_eq!(extra(), 64 * MIB);
    ok!(gpu, cuEventRecord, event, stream);
    let _ = call!(gpu, cuStreamQuery, stream);
    let _ = call!(gpu, cuEventQuery, event);
    assert_eq!(extra(), 64 * MIB, "a query returns nothing");
    ok!(gpu, cuEventSynchronize, event);
    assert_eq!(extra(), 32 * MIB);

    let mut pool = 0_u64;
    ok!(gpu, cuDeviceGetDefaultMemPool, &mut pool, 0);
    let attribute = |which: i32| {
        let mut value = 0_u64;
        ok!(gpu, cuMemPoolGetAttribute, pool, which, &mut value);
        value
    };
    assert_eq!([5, 6, 7, 8].map(attribute), [32 * MIB, 64 * MIB, MIB, 41 * MIB]);
    let keep = u64::MAX;
    ok!(gpu, cuMemPoolSetAttribute, pool, 4, &keep);
    let c = alloc(100 * MIB);
    ok!(gpu, cuMemFreeAsync, c, stream);
    ok!(gpu, cuStreamSynchronize, stream);
    assert_eq!(extra(), 128 * MIB, "the threshold keeps it");
    ok!(gpu, cuMemPoolTrimTo, pool, 0_u64);
    assert_eq!(extra(), 32 * MIB);
    let none = 0_u64;
    ok!(gpu, cuMemPoolSetAttribute, pool, 4, &none);
    ok!(gpu, cuMemFree_v2, a);
    assert_eq!(extra(), 0, "cuMemFree takes a pool's pointer and trims");
}

/// `CUmemPoolProps` or `CUmemAllocationProp` of device 0.
fn properties(max_size: u64) -> [u64; 11] {
    let mut words = [0; 11];
    words[0] = 1;
    words[1] = 1; // location: device 0
    words[3] = max_size;
    words
}

#[test]
fn a_pool_of_ones_own_has_a_limit_and_dies_with_its_last_block() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut pool, mut pointer, mut more) = (0_u64, 0_u64, 0_u64);
    ok!(gpu, cuMemPoolCreate, &mut pool, &properties(64 * MIB));
    ok!(gpu, cuMemAllocFromPoolAsync, &mut pointer, 60 * MIB, pool, 0);
    assert_eq!(call!(gpu, cuMemAllocFromPoolAsync, &mut more, 8 * MIB, pool, 0), 2);
    assert_eq!(gpu.used() - CONTEXT, 64 * MIB);
    ok!(gpu, cuMemPoolDestroy, pool);
    assert_eq!(gpu.used() - CONTEXT, 64 * MIB);
    ok!(gpu, cuMemFreeAsync, pointer, 0);
    assert_eq!(gpu.used(), CONTEXT);
    assert_eq!(call!(gpu, cuMemPoolDestroy, pool), 1);
}

#[test]
fn virtual_memory_lives_until_handle_and_mappings_are_gone() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let step = 2 * MIB;
    let (mut handle, mut other, mut address, mut granularity) = (0_u64, 0_u64, 0_u64, 0_u64);
    ok!(gpu, cuMemGetAllocationGranularity, &mut granularity, &properties(0), 0);
    assert_eq!(granularity, step);
    assert_eq!(call!(gpu, cuMemCreate, &mut handle, step + 1, &properties(0), 0_u64), 1);
    ok!(gpu, cuMemCreate, &mut handle, 2 * step, &properties(0), 0_u64);
    ok!(gpu, cuMemCreate, &mut other, step, &properties(0), 0_u64);
    assert_eq!(gpu.used() - CONTEXT, 3 * step);
    ok!(gpu, cuMemAddressReserve, &mut address, 16 * step, 0_u64, 0_u64, 0_u64);
    ok!(gpu, cuMemMap, address, 2 * step, 0_u64, handle, 0_u64);
    assert_eq!(call!(gpu, cuMemMap, address + 4 * step, step, step, handle, 0_u64), 801, "part of an allocation");
    ok!(gpu, cuMemMap, address + 2 * step, step, 0_u64, other, 0_u64);
    ok!(gpu, cuMemMap, address + 8 * step, 2 * step, 0_u64, handle, 0_u64);

    // No access yet; then both mappings of the handle show the same bytes.
    assert_eq!(call!(gpu, cuMemsetD8_v2, address, 7, 16_u64), 1);
    let access = [1_i32, 0, 3];
    ok!(gpu, cuMemSetAccess, address, 3 * step, &access, 1_u64);
    ok!(gpu, cuMemSetAccess, address + 8 * step, 2 * step, &access, 1_u64);
    ok!(gpu, cuMemsetD8_v2, address, 7, 3 * step);
    let mut bytes = [0_u8; 8];
    ok!(gpu, cuMemcpyDtoH_v2, &mut bytes, address + 8 * step, 8_u64);
    assert_eq!(bytes, [7; 8]);

    ok!(gpu, cuMemRelease, handle);
    assert_eq!(gpu.used() - CONTEXT, 3 * step);
    assert_eq!(call!(gpu, cuMemUnmap, address, step), 1, "part of a mapping");
    ok!(gpu, cuMemUnmap, address, 3 * step);
    assert_eq!(gpu.used() - CONTEXT, 3 * step, "one mapping and one handle are left");
    ok!(gpu, cuMemUnmap, address + 8 * step, 2 * step);
    assert_eq!(gpu.used() - CONTEXT, step);
    ok!(gpu, cuMemRelease, other);
    assert_eq!(gpu.used(), CONTEXT);
    ok!(gpu, cuMemAddressFree, address, 16 * step);
    assert_eq!(call!(gpu, cuMemRelease, other), 1);
}

#[test]
fn arrays_take_what_a_block_linear_layout_takes() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut array, mut chain, mut tiny) = (0_u64, 0_u64, 0_u64);
    // width, height, format FLOAT and four channels
    ok!(gpu, cuArrayCreate_v2, &mut array, &[1000_u64, 1000, 0x20 | 4 << 32]);
    assert_eq!(gpu.used() - CONTEXT, 16 * MIB);
    let mut requirements = [0_u64; 4];
    assert_eq!(call!(gpu, cuArrayGetMemoryRequirements, &mut requirements, array, 0), 1);
    ok!(gpu, cuArrayDestroy, array);
    ok!(gpu, cuMipmappedArrayCreate, &mut chain, &[1024_u64, 1024, 0, 0x20 | 4 << 32, 0], 11);
    assert_eq!(gpu.used() - CONTEXT, 22 * MIB);
    ok!(gpu, cuMipmappedArrayDestroy, chain);
    ok!(gpu, cuArrayCreate_v2, &mut tiny, &[64_u64, 0, 0x20 | 1 << 32]);
    assert_eq!(gpu.used() - CONTEXT, 2 * MIB);

    let source: Vec<u8> = (0..=255).collect();
    let mut back = [0_u8; 256];
    ok!(gpu, cuMemcpyHtoA_v2, tiny, 0_u64, source.as_ptr(), 256_u64);
    ok!(gpu, cuMemcpyAtoH_v2, &mut back, tiny, 0_u64, 256_u64);
    assert_eq!(back[..], source[..]);
    assert_eq!(call!(gpu, cuMemcpyHtoA_v2, tiny, 1_u64, source.as_ptr(), 256_u64), 1);
    ok!(gpu, cuArrayDestroy, tiny);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn graph_memory_is_taken_at_launch_and_returned_by_trim() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let attribute = |which: i32| {
        let mut value = 0_u64;
        ok!(gpu, cuDeviceGetGraphMemAttribute, 0, which, &mut value);
        value
    };
    let (mut stream, mut graph, mut executable, mut pointer) = (0_u64, 0_u64, 0_u64, 0_u64);
    ok!(gpu, cuStreamCreate, &mut stream, 1);
    ok!(gpu, cuStreamBeginCapture_v2, stream, 0);
    ok!(gpu, cuMemAllocAsync, &mut pointer, 40 * MIB, stream);
    ok!(gpu, cuMemsetD8Async, pointer, 1, 16_u64, stream);
    ok!(gpu, cuStreamEndCapture, stream, &mut graph);
    ok!(gpu, cuGraphInstantiateWithFlags, &mut executable, graph, 0_u64);
    assert_eq!(gpu.used(), CONTEXT);
    ok!(gpu, cuGraphLaunch, executable, stream);
    assert_eq!(gpu.used() - CONTEXT, 64 * MIB);
    assert_eq!([0, 2].map(attribute), [40 * MIB, 64 * MIB]);
    assert_eq!(call!(gpu, cuGraphLaunch, executable, stream), 1, "not freed yet");
    ok!(gpu, cuMemFreeAsync, pointer, stream);
    ok!(gpu, cuGraphLaunch, executable, stream);
    ok!(gpu, cuMemFree_v2, pointer);
    ok!(gpu, cuGraphExecDestroy, executable);
    ok!(gpu, cuGraphDestroy, graph);
    assert_eq!([0, 1, 2, 3].map(attribute), [0, 40 * MIB, 64 * MIB, 64 * MIB]);
    assert_eq!(gpu.used() - CONTEXT, 64 * MIB);
    ok!(gpu, cuDeviceGraphMemTrim, 0);
    assert_eq!(attribute(2), 0);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn globals_are_charged_while_their_module_is_loaded() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let (mut module, mut address, mut size) = (0_u64, 0_u64, 0_u64);
    ok!(gpu, cuModuleLoadData, &mut module, c"//fakegpu\nglobal table size=3MiB\n".as_ptr());
    assert_eq!(gpu.used() - CONTEXT, 4 * MIB);
    ok!(gpu, cuModuleGetGlobal_v2, &mut address, &mut size, module, c"table".as_ptr());
    assert_eq!(size, 3 * MIB);
    ok!(gpu, cuMemsetD32_v2, address, 1, 3 * MIB / 4);
    assert_eq!(call!(gpu, cuModuleGetGlobal_v2, &mut address, &mut size, module, c"no".as_ptr()), 500);
    ok!(gpu, cuModuleUnload, module);
    assert_eq!(gpu.used(), CONTEXT);
}

#[test]
fn pointers_say_what_they_are() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let context = gpu.start(0);
    let device = gpu.alloc(3 * MIB);
    let mut host = 0_u64;
    ok!(gpu, cuMemAllocHost_v2, &mut host, 4096_u64);
    let attribute = |which: i32, pointer: u64| {
        let mut value = 0_u64;
        (call!(gpu, cuPointerGetAttribute, &mut value, which, pointer), value)
    };
    assert_eq!(attribute(1, device + 5), (0, context));
    assert_eq!(attribute(2, device), (0, 2));
    assert_eq!(attribute(2, host), (0, 1));
    assert_eq!(attribute(11, device + 5), (0, device));
    assert_eq!(attribute(2, 0x10).0, 1);
    let (mut base, mut size) = (0_u64, 0_u64);
    ok!(gpu, cuMemGetAddressRange_v2, &mut base, &mut size, device + 100);
    assert_eq!((base, size), (device, 3 * MIB));
    let mut flags = 0_u32;
    ok!(gpu, cuMemHostGetFlags, &mut flags, host);
    assert_eq!(flags & 2, 2);
    ok!(gpu, cuMemFreeHost, host);
    let own = vec![0_u8; 8192];
    ok!(gpu, cuMemHostRegister_v2, own.as_ptr(), 8192_u64, 0);
    assert_eq!(call!(gpu, cuMemHostRegister_v2, own.as_ptr(), 8192_u64, 0), 712);
    ok!(gpu, cuMemHostUnregister, own.as_ptr());
    assert_eq!(call!(gpu, cuMemHostUnregister, own.as_ptr()), 713);
}
