//! Green contexts: multiprocessors that are split, combined, and had by a context.
#![allow(unsafe_code)] // UNSAFETY: calls C functions by name.

mod common;
use common::{Gpu, Installed, MIB, Resource, event, stream};

fn elapsed(gpu: &Gpu, start: u64, end: u64) -> f32 {
    let mut milliseconds = 0_f32;
    ok!(gpu, cuEventSynchronize, end);
    ok!(gpu, cuEventElapsedTime, &mut milliseconds, start, end);
    milliseconds
}

/// The first group of eight of the first device, and a green context that has it: handle and `CUcontext`.
fn eight(gpu: &Gpu) -> (Resource, u64, u64) {
    let (groups, _) = gpu.split(&gpu.sms(0), 1, 0, 8).expect("one");
    let (green, context) = gpu.green(&groups).expect("made");
    (groups[0], green, context)
}

fn counts(groups: &[Resource]) -> Vec<u32> {
    groups.iter().map(|group| group.count).collect()
}

#[test]
fn a_devices_multiprocessors_are_a_resource() {
    let mut resource = Resource::NONE;
    for (model, expected) in [("H100", [132, 8, 8]), ("A100", [108, 4, 2]), ("T4", [40, 2, 2])] {
        let installed = Installed::new(model);
        let gpu = installed.load();
        assert_eq!(call!(gpu, cuDeviceGetDevResource, 0, &mut resource, 1), 3);
        ok!(gpu, cuInit, 0);
        let all = gpu.sms(0);
        assert_eq!((all.kind, [all.count, all.least, all.alignment]), (1, expected), "{model}");
        assert_eq!(call!(gpu, cuDeviceGetDevResource, 0, &mut resource, 2), 914);
        assert_eq!(call!(gpu, cuDeviceGetDevResource, 1, &mut resource, 1), 101);
    }
}

#[test]
fn they_are_split_by_count() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    ok!(gpu, cuInit, 0);
    let all = gpu.sms(0);
    let sizes = |from: &Resource, most, flags, size| {
        gpu.split(from, most, flags, size).map(|(groups, rest)| (counts(&groups), rest.kind, rest.count))
    };
    assert_eq!(sizes(&all, 99, 0, 8), Ok((vec![8; 15], 1, 12)));
    assert_eq!(sizes(&all, 5, 0, 8), Ok((vec![8; 5], 1, 92)));
    assert_eq!(sizes(&all, 1, 0, 1), Ok((vec![8], 1, 124)), "no fewer than the least");
    assert_eq!(sizes(&all, 1, 0, 9), Ok((vec![16], 1, 116)), "rounded up");
    assert_eq!(sizes(&all, 99, 1, 2), Ok((vec![2; 66], 0, 0)), "nothing is left");
    assert_eq!(sizes(&all, 99, 0, 128), Ok((vec![128], 1, 4)));
    assert_eq!(sizes(&all, 99, 0, 133), Err(915));
    assert_eq!(sizes(&all, 99, 4, 8), Err(1));
    assert_eq!(sizes(&Resource { kind: 2, ..all }, 99, 0, 8), Err(914));
    let mut made = 0_u32;
    ok!(gpu, cuDevSmResourceSplitByCount, 0, &mut made, &all, 0, 0, 8);
    assert_eq!(made, 15, "only asked");
    let (groups, rest) = gpu.split(&all, 99, 0, 8).expect("split");
    assert_eq!(sizes(&groups[3], 9, 0, 16), Err(915), "it does not cover that");
    assert_eq!(sizes(&groups[3], 9, 1, 2), Ok((vec![2; 4], 0, 0)));
    assert_eq!(sizes(&rest, 9, 0, 8), Ok((vec![8], 1, 4)));
    // The same ones everywhere, and each once.
    let elsewhere = Installed::new("H100");
    let other = elsewhere.load();
    ok!(other, cuInit, 0);
    assert_eq!(other.split(&other.sms(0), 99, 0, 8), Ok((groups.clone(), rest)));
    let different = |index: usize| groups[index + 1..].iter().chain([&rest]).all(|group| *group != groups[index]);
    assert!((0..15).all(different));
    let installed = Installed::new("A100");
    let gpu = installed.load();
    ok!(gpu, cuInit, 0);
    assert_eq!(gpu.split(&gpu.sms(0), 99, 0, 3).map(|(groups, _)| counts(&groups)), Ok(vec![4; 27]));
}

#[test]
fn groups_of_one_split_are_combined() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    ok!(gpu, cuInit, 0);
    let all = gpu.sms(0);
    let (groups, rest) = gpu.split(&all, 99, 0, 8).expect("split");
    let has = |resources: &[Resource]| {
        let (green, context) = gpu.green(resources)?;
        let mut both = [Resource::NONE; 2];
        ok!(gpu, cuGreenCtxGetDevResource, green, &mut both[0], 1);
        ok!(gpu, cuCtxGetDevResource, context, &mut both[1], 1);
        assert_eq!(call!(gpu, cuGreenCtxGetDevResource, green, &mut both[0], 3), 914);
        assert_eq!(both[0], both[1]);
        Ok::<_, i32>(both[0])
    };
    assert_eq!(has(&groups[4..5]), Ok(groups[4]));
    assert_eq!(has(&[groups[9], groups[0], rest]).map(|one| one.count), Ok(28));
    assert_eq!(has(&[&groups[..], &[rest]].concat()).map(|one| one.count), Ok(132));
    assert_eq!(has(&[all]), Ok(all));
    assert_eq!(has(&[]), Err(1));
    assert_eq!(has(&[groups[1], groups[1]]), Err(915));
    assert_eq!(has(&[groups[1], all]), Err(915));
    let (pairs, nothing) = gpu.split(&all, 99, 1, 2).expect("split");
    assert_eq!(has(&[groups[0], pairs[60]]), Err(915), "of two splits");
    assert_eq!(has(&[pairs[0], nothing]), Err(914));
}

#[test]
fn a_green_context_keeps_the_primary_one_and_takes_little_more() {
    let installed = Installed::new("2xH100");
    let gpu = installed.load();
    ok!(gpu, cuInit, 0);
    let (groups, _) = gpu.split(&gpu.sms(0), 1, 0, 8).expect("one");
    let (mut description, mut green) = (0_u64, 0_u64);
    ok!(gpu, cuDevResourceGenerateDesc, &mut description, groups.as_ptr(), 1);
    assert_eq!(call!(gpu, cuGreenCtxCreate, &mut green, description, 0, 0), 1, "without a default stream");
    assert_eq!(call!(gpu, cuGreenCtxCreate, &mut green, description, 1, 1), 1, "another device's");
    assert_eq!(call!(gpu, cuGreenCtxCreate, &mut green, 0x77_u64, 0, 1), 1);
    let active = || {
        let mut active = 9_i32;
        ok!(gpu, cuDevicePrimaryCtxGetState, 0, 0, &mut active);
        active
    };
    assert_eq!(active(), 0);
    ok!(gpu, cuGreenCtxCreate, &mut green, description, 0, 1);
    assert_eq!(active(), 1);
    let before = gpu.visible(0);
    let (_, second, _) = eight(&gpu);
    assert_eq!(gpu.visible(0), before + 6 * MIB);
    ok!(gpu, cuGreenCtxDestroy, second);
    assert_eq!(gpu.visible(0), before);
    assert_eq!(call!(gpu, cuGreenCtxDestroy, second), 201);
    let mut context = 0_u64;
    ok!(gpu, cuCtxFromGreenCtx, &mut context, green);
    assert_eq!(call!(gpu, cuCtxDestroy_v2, context), 201);
    assert_eq!(call!(gpu, cuCtxSetCurrent, green), 201, "it is no CUcontext");
    gpu.start(0);
    ok!(gpu, cuDevicePrimaryCtxRelease_v2, 0);
    assert_eq!(active(), 1, "the green one has it");
    ok!(gpu, cuGreenCtxDestroy, green);
    assert_eq!(active(), 0);
    // A reset ends both.
    ok!(gpu, cuGreenCtxCreate, &mut green, description, 0, 1);
    ok!(gpu, cuCtxFromGreenCtx, &mut context, green);
    ok!(gpu, cuDevicePrimaryCtxReset_v2, 0);
    assert_eq!((active(), gpu.visible(0)), (0, 0));
    assert_eq!(call!(gpu, cuCtxSetCurrent, context), 201);
    assert_eq!(call!(gpu, cuGreenCtxDestroy, green), 201);
    gpu.start(0);
    assert_eq!(gpu.visible(0), before - 6 * MIB);
}

#[test]
fn what_is_made_in_it_is_the_primary_ones_but_for_streams() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let primary = gpu.start(0);
    let kernel = gpu.kernel("kernel work duration=1us", "work");
    let (memory, marked, outside) = (gpu.alloc(4096), event(&gpu), stream(&gpu, 0));
    let (_, green, context) = eight(&gpu);
    ok!(gpu, cuCtxPushCurrent_v2, context);
    let (mut got, mut other, mut number) = (0_u64, 0_u64, -1_i32);
    ok!(gpu, cuCtxGetCurrent, &mut got);
    assert_eq!(got, context);
    ok!(gpu, cuCtxGetDevice, &mut number);
    assert_eq!(number, 0);
    ok!(gpu, cuDeviceGetAttribute, &mut number, 16, 0);
    assert_eq!(number, 132, "the device is as it was");
    ok!(gpu, cuCtxGetId, context, &mut got);
    ok!(gpu, cuCtxGetId, primary, &mut other);
    assert_ne!(got, other);
    let inside = stream(&gpu, 0);
    let mut made = 0_u64;
    ok!(gpu, cuGreenCtxStreamCreate, &mut made, green, 1, -3);
    assert_eq!(call!(gpu, cuGreenCtxStreamCreate, &mut got, green, 0, 0), 1, "it must not block");
    for (stream, has, whose) in
        [(inside, green, context), (made, green, context), (0, green, context), (outside, 0, primary)]
    {
        let mut three = [99_u64; 4];
        ok!(gpu, cuStreamGetCtx, stream, &mut three[0]);
        ok!(gpu, cuStreamGetCtx_v2, stream, &mut three[1], &mut three[2]);
        ok!(gpu, cuStreamGetGreenCtx, stream, &mut three[3]);
        assert_eq!(three, [whose, primary, has, has]);
    }
    ok!(gpu, cuCtxGetFlags, &mut number);
    ok!(gpu, cuCtxSetLimit, 1, 1_u64 << 21);
    ok!(gpu, cuCtxGetLimit, &mut got, 1);
    assert_eq!(got, 1 << 21);
    // Modules, memory and events of the primary one.
    assert_eq!(gpu.launch(kernel, inside), 0);
    ok!(gpu, cuEventRecord, marked, inside);
    ok!(gpu, cuMemsetD8_v2, memory, 7, 16_u64);
    ok!(gpu, cuCtxSynchronize);
    ok!(gpu, cuEventQuery, marked);
    let own = gpu.alloc(4096);
    ok!(gpu, cuPointerGetAttribute, &mut got, 1, own);
    assert_eq!(got, primary);
    ok!(gpu, cuGreenCtxDestroy, green);
    ok!(gpu, cuCtxSetCurrent, primary);
    ok!(gpu, cuStreamQuery, outside);
    ok!(gpu, cuMemFree_v2, own);
    ok!(gpu, cuEventQuery, marked);
}

#[test]
fn its_kernels_have_its_multiprocessors_and_its_default_stream_is_its_own() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let primary = gpu.start(0);
    let kernel = gpu.kernel("kernel work duration=800us", "work");
    let (before, after) = (event(&gpu), event(&gpu));
    let (_, _, context) = eight(&gpu);
    let timed = || {
        ok!(gpu, cuEventRecord, before, 0);
        assert_eq!(gpu.launch(kernel, 0), 0);
        ok!(gpu, cuEventRecord, after, 0);
        elapsed(&gpu, before, after)
    };
    assert_eq!(timed(), 0.8);
    ok!(gpu, cuCtxSetCurrent, context);
    assert_eq!(timed(), 13.2, "a 132nd of the device is 8");
    assert_eq!(gpu.launch(kernel, 0), 0);
    assert_eq!(call!(gpu, cuStreamQuery, 0), 600);
    ok!(gpu, cuCtxSetCurrent, primary);
    ok!(gpu, cuStreamQuery, 0);
    // Waiting for the primary one waits for those that it has.
    ok!(gpu, cuCtxSynchronize);
    ok!(gpu, cuCtxSetCurrent, context);
    ok!(gpu, cuStreamQuery, 0);
}

#[test]
fn an_event_is_of_the_whole_context() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    gpu.start(0);
    let kernel = gpu.kernel("kernel work duration=800us", "work");
    let (before, after, later) = (event(&gpu), event(&gpu), event(&gpu));
    let (_, green, context) = eight(&gpu);
    let mut streams = [0_u64; 2];
    streams.iter_mut().for_each(|stream| ok!(gpu, cuGreenCtxStreamCreate, stream, green, 1, 0));
    let outside = stream(&gpu, 1);
    ok!(gpu, cuGreenCtxRecordEvent, green, before);
    streams.iter().for_each(|stream| assert_eq!(gpu.launch(kernel, *stream), 0));
    ok!(gpu, cuGreenCtxRecordEvent, green, after);
    ok!(gpu, cuCtxPushCurrent_v2, context);
    ok!(gpu, cuStreamQuery, 0);
    ok!(gpu, cuCtxPopCurrent_v2, 0);
    ok!(gpu, cuStreamWaitEvent, outside, after, 0);
    ok!(gpu, cuEventRecord, later, outside);
    assert_eq!(elapsed(&gpu, before, after), 26.4, "one behind the other");
    assert_eq!(elapsed(&gpu, before, later), 26.4);
    // The other way round.
    let spin = gpu.kernel("kernel spin duration=3ms", "spin");
    ok!(gpu, cuEventRecord, before, outside);
    assert_eq!(gpu.launch(spin, outside), 0);
    ok!(gpu, cuEventRecord, after, outside);
    ok!(gpu, cuCtxWaitEvent, context, after);
    ok!(gpu, cuEventRecord, later, streams[1]);
    assert_eq!(elapsed(&gpu, before, later), 3.0);
    assert_eq!(call!(gpu, cuGreenCtxWaitEvent, green, 0x77_u64), 400);
}

#[test]
fn a_fault_in_it_is_the_primary_ones() {
    let installed = Installed::new("H100");
    let gpu = installed.load();
    let primary = gpu.start(0);
    let bad = gpu.kernel("kernel bad fault=illegal_address", "bad");
    let (_, _, context) = eight(&gpu);
    ok!(gpu, cuCtxSetCurrent, context);
    assert_eq!(gpu.launch(bad, 0), 0);
    assert_eq!(call!(gpu, cuCtxSynchronize), 700);
    ok!(gpu, cuCtxSetCurrent, primary);
    assert_eq!(call!(gpu, cuCtxSynchronize), 700);
}
