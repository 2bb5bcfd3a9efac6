//! The shared layout is a contract between builds: this table changes together with `ABI`, or not at all.
#![cfg(not(loom))]
#![allow(unsafe_code)] // UNSAFETY: bytes are looked at as the shared structs, as a mapped file is.

use cleave_ledger::{
    ABI, Account, Activity, Book, DevicePolicy, Kind, MAGIC, Policy, Slot, Turn, Urgency, Usage, wire,
};
use std::mem::{align_of, offset_of, size_of};

macro_rules! offsets {
    ($($type:ident { $($field:ident),* $(,)? })*) => {
        vec![$(
            $((concat!(stringify!($type), ".", stringify!($field)), offset_of!($type, $field)),)*
            (concat!(stringify!($type), " size"), size_of::<$type>()),
            (concat!(stringify!($type), " align"), align_of::<$type>()),
        )*]
    };
}

#[test]
fn every_field_lies_where_abi_6_has_it() {
    use wire::{Reply, Request};
    let found = offsets! {
        Policy {
            magic, abi, size, epoch, flags, slots_high, device_count, reserved, slice_id, name, driver_dir, devices, turns,
            book,
        }
        DevicePolicy { uuid, limit, context_bytes, stack_factor, nvml_index, busy_percent }
        Turn { version, class, words, looked, alone }
        Book { state, host_pid, own_pid, namespace, start_time, adjust }
        Usage { slots }
        Slot { accounts, kinds, launches, graph_launches, denied, unknown_names, class_launches, exports, activity, class_ns }
        Activity { charged, busy_until, last_launch, op_ns, waiting, throttled_ns, throttled, syncing, overdue, open }
        Urgency { until }
        Account { held, ask }
        Request { magic, abi, op, device, reserved, argument }
        Reply { magic, abi, status, slot, host_pid, value }
    };
    let golden = [
        ("Policy.magic", 0),
        ("Policy.abi", 8),
        ("Policy.size", 12),
        ("Policy.epoch", 16),
        ("Policy.flags", 24),
        ("Policy.slots_high", 28),
        ("Policy.device_count", 32),
        ("Policy.reserved", 36),
        ("Policy.slice_id", 40),
        ("Policy.name", 56),
        ("Policy.driver_dir", 120),
        ("Policy.devices", 376),
        ("Policy.turns", 1192),
        ("Policy.book", 1960),
        ("Policy size", 21416),
        ("Policy align", 8),
        ("DevicePolicy.uuid", 0),
        ("DevicePolicy.limit", 16),
        ("DevicePolicy.context_bytes", 24),
        ("DevicePolicy.stack_factor", 32),
        ("DevicePolicy.nvml_index", 40),
        ("DevicePolicy.busy_percent", 44),
        ("DevicePolicy size", 48),
        ("DevicePolicy align", 8),
        ("Turn.version", 0),
        ("Turn.class", 4),
        ("Turn.words", 8),
        ("Turn.looked", 32),
        ("Turn.alone", 40),
        ("Turn size", 48),
        ("Turn align", 8),
        ("Book.state", 0),
        ("Book.host_pid", 4),
        ("Book.own_pid", 8),
        ("Book.namespace", 12),
        ("Book.start_time", 16),
        ("Book.adjust", 24),
        ("Book size", 152),
        ("Book align", 8),
        ("Usage.slots", 0),
        ("Usage size", 385024),
        ("Usage align", 64),
        ("Slot.accounts", 0),
        ("Slot.kinds", 272),
        ("Slot.launches", 1360),
        ("Slot.graph_launches", 1368),
        ("Slot.denied", 1376),
        ("Slot.unknown_names", 1384),
        ("Slot.class_launches", 1392),
        ("Slot.exports", 1424),
        ("Slot.activity", 1680),
        ("Slot.class_ns", 2960),
        ("Slot size", 3008),
        ("Slot align", 64),
        ("Activity.charged", 0),
        ("Activity.busy_until", 8),
        ("Activity.last_launch", 16),
        ("Activity.op_ns", 24),
        ("Activity.waiting", 32),
        ("Activity.throttled_ns", 40),
        ("Activity.throttled", 48),
        ("Activity.syncing", 56),
        ("Activity.overdue", 64),
        ("Activity.open", 72),
        ("Activity size", 80),
        ("Activity align", 8),
        ("Urgency.until", 0),
        ("Urgency size", 4096),
        ("Urgency align", 8),
        ("Account.held", 0),
        ("Account.ask", 8),
        ("Account size", 16),
        ("Account align", 8),
        ("Request.magic", 0),
        ("Request.abi", 8),
        ("Request.op", 12),
        ("Request.device", 16),
        ("Request.reserved", 20),
        ("Request.argument", 24),
        ("Request size", 32),
        ("Request align", 8),
        ("Reply.magic", 0),
        ("Reply.abi", 8),
        ("Reply.status", 12),
        ("Reply.slot", 16),
        ("Reply.host_pid", 20),
        ("Reply.value", 24),
        ("Reply size", 32),
        ("Reply align", 8),
    ];
    assert_eq!(ABI, 6, "a new ABI needs a new table");
    assert_eq!(found, golden);
    assert_eq!(MAGIC.to_le_bytes(), *b"cleaveSL");
    let kinds = Kind::ALL.map(|k| (k as usize, k.name(), k.seen_by_nvml()));
    assert_eq!(
        kinds,
        [
            (0, "linear", true),
            (1, "pool", true),
            (2, "graph", true),
            (3, "physical", true),
            (4, "array", true),
            (5, "context", true),
            (6, "import", false),
            (7, "managed", false),
        ]
    );
}

/// A page-aligned buffer, as a mapping is.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Mapped<const N: usize>([u8; N]);

const POLICY: usize = size_of::<Policy>();
const USAGE: usize = size_of::<Usage>();

fn policy_bytes() -> Box<Mapped<POLICY>> {
    let mut bytes = Box::new(Mapped([0; POLICY]));
    // SAFETY: the buffer has the size of a Policy and at least its alignment; it holds no value that needs dropping.
    unsafe { (&raw mut *bytes).cast::<Policy>().write(Policy::new()) };
    bytes
}

fn as_policy(bytes: &mut Mapped<POLICY>) -> &Policy {
    // SAFETY: size and alignment as above, and a Policy is made of integers: any bytes are one. It has atomics in it, which a
    // shared reference may write, so the bytes are borrowed for writing.
    unsafe { &*(&raw mut *bytes).cast::<Policy>() }
}

#[test]
fn a_mapped_policy_reads_as_it_was_written() {
    let mut bytes = policy_bytes();
    let policy = as_policy(&mut bytes);
    assert!(policy.is_ours());
    assert_eq!(policy.size as usize, POLICY);
    assert_eq!(&bytes.0[..8], b"cleaveSL");
}

#[test]
fn another_magic_abi_or_size_is_not_ours() {
    let mut bytes = policy_bytes();
    for at in 0..16 {
        for bit in 0..8 {
            bytes.0[at] ^= 1 << bit;
            assert!(!as_policy(&mut bytes).is_ours(), "bit {bit} of byte {at}");
            bytes.0[at] ^= 1 << bit;
        }
    }
    assert!(as_policy(&mut bytes).is_ours());
    assert!(!as_policy(&mut Mapped([0; POLICY])).is_ours());
    assert!(!as_policy(&mut Mapped([0xff; POLICY])).is_ours());
}

#[test]
fn a_new_usage_file_is_all_zeros() {
    let mut bytes = Box::new(Mapped([0xaa; USAGE]));
    // SAFETY: the buffer has the size of a Usage and at least its alignment; it holds no value that needs dropping.
    unsafe { (&raw mut *bytes).cast::<Usage>().write(Usage::new()) };
    // The padding of a type without any is none, so every byte was written.
    assert!(bytes.0 == [0; USAGE]);
}

#[test]
fn wire_messages_are_their_own_bytes() {
    let request =
        wire::Request { magic: MAGIC, abi: ABI, op: wire::op::MEASURE, device: 3, reserved: 0, argument: 1 << 40 };
    // SAFETY: a Request is made of integers and has no padding.
    let raw: [u8; wire::MESSAGE] = unsafe { std::mem::transmute(request) };
    assert_eq!(request.to_bytes(), raw);
    assert_eq!(wire::Request::from_bytes(raw), request);
    let reply =
        wire::Reply { magic: MAGIC, abi: ABI, status: wire::status::FULL, slot: 7, host_pid: 99, value: u64::MAX };
    // SAFETY: a Reply is made of integers and has no padding.
    let raw: [u8; wire::MESSAGE] = unsafe { std::mem::transmute(reply) };
    assert_eq!(reply.to_bytes(), raw);
    assert_eq!(wire::Reply::from_bytes(raw), reply);
}

/// Two containers and the host in one slice.
#[test]
fn a_process_is_known_by_its_id_where_one_looks_from() {
    use std::sync::atomic::Ordering::Relaxed;
    let policy = Policy::new();
    let book = |slot: usize, namespace: u32, own_pid: u32, host_pid: u32| {
        let book = &policy.book[slot];
        book.namespace.store(namespace, Relaxed);
        book.own_pid.store(own_pid, Relaxed);
        book.host_pid.store(host_pid, Relaxed);
        book
    };
    let (first, second) = (book(0, 10, 1, 500), book(1, 20, 1, 600));
    let (child, host) = (book(2, 10, 7, 501), book(3, 5, 400, 400));
    let seen = |viewer: &Book| [first, second, child, host].map(|one| one.pid_for(viewer));
    assert_eq!(seen(first), [Some(1), None, Some(7), None]);
    assert_eq!(seen(second), [None, Some(1), None, None]);
    assert_eq!(seen(host), [Some(500), Some(600), Some(501), Some(400)]);
}
