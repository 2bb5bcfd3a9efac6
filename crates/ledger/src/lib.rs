//! The memory ledger of a slice: what is shared between the daemon and the slice's processes, and how they charge
//! memory to it without a lock.
//!
//! # Two files, one writer each
//!
//! * [`Policy`] is written by the daemon alone. The slice's processes map it read-only. It holds the limits, and the
//!   [`Book`]: which process owns which slot, and what the daemon measured beyond what the process itself charged.
//! * [`Usage`] has a [`Slot`] for each process. A slot is written by its process alone, and after that process's death
//!   by the daemon alone. Nothing is ever written by two parties at a time, so a process may be killed between any two
//!   instructions and its slot still tells the truth.
//!
//! The use of a slice is the **sum of its slots**; no total is kept anywhere.
//!
//! # The protocol
//!
//! To take `n` bytes of a device, a process
//! 1. writes `ask = n` into its slot,
//! 2. reads the limit and, slot by slot, the others' `ask` and then `held`,
//! 3. if everything held and asked for fits beside `n`, adds `n` to its own `held`, then clears `ask`.
//!
//! *The limit holds at every instant.* Take the moment at which a grant makes `held` grow, and of all grants that make
//! up the total the one whose `ask` was written last. Its owner scanned after every other of these grants had been
//! asked for, and read each slot's `ask` before its `held`, while a grant moves from `ask` to `held` in the other
//! order. So it saw each of them, at least once, and found that all fit. (`ask` is written and everything is read
//! `SeqCst`, which gives the single order that this argument needs; `held`, and the clearing of `ask`, need only come after
//! what was written before. The daemon lowers a limit by the same rule: it writes first, scans after.)
//!
//! *What fits is not refused.* A refusal needs `held + n > limit` in a picture that was true at some instant: each
//! change of a `held` word also counts up a version in its upper bits, so two scans with the same sum of words had the
//! same words throughout. (The daemon keeps the versions too when it clears a slot.) What is merely *asked for* by
//! others never makes a refusal: the asker with the higher slot number withdraws and waits for the lower one, which
//! waits for those that were granted meanwhile to say so. Who waits looks again each time, and goes on once it fits
//! beside all requests, or no longer fits at all. A process that stops in the middle of asking would keep the others
//! waiting; the caller's `wait` decides for how long ([`Refused::Busy`]). Where it died, the daemon withdraws its
//! request at once ([`Slot::withdraw`]), and empties the slot when the driver has let go of its memory
//! ([`Slot::clear`]).
//!
//! # What is trusted
//!
//! Neither side follows a pointer or an index read from a page that the other writes. A tenant that scribbles over its
//! own [`Usage`] file harms the accounts of its own slice, which the daemon sees in its reconciliation with NVML.
#![no_std]

mod layout;
mod protocol;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
pub mod sync;
pub mod wire;

pub use layout::{
    ABI, Account, Activity, Book, CLASSES, DEVICES, DevicePolicy, EXPORTS, GPUS, HOST, KINDS, KernelClass, Kind, MAGIC,
    Policy, SLOTS, Slot, Turn, UNIT, UNLIMITED, Urgency, Usage, flags, owner,
};
pub use protocol::{Ledger, Picture, Refused, between, scan, units};
