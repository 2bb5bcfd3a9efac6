//! How a GPU's time is shared: decisions without a clock, without I/O, under whatever time the caller names.
//!
//! * [`gate`] decides in the process, at each launch, whether an operation may be sent to the GPU now.
//! * [`arbiter`] decides in the daemon, a few hundred times a second at most, who may run when.
//! * [`watchdog`] decides what is done about a process whose work does not end.
//! * [`account`] tells what each slice was given of what it was owed.
//! * [`layout`] finds the way from the hardware instances that are there to those that are wanted.
//! * [`mig`] knows which hardware instances fit on a GPU beside which.
//! * [`pack`] finds the GPU for a workload, or the fewest GPUs for many.
//! * [`rest`] decides whose memory leaves the GPUs, and who comes back next.
//! * [`topology`] knows which devices are close to each other, and the best groups of them.
//!
//! The arbiter publishes a [`gate::Grant`] for each slice; the gates publish what they used and whether they wait. All
//! times are nanoseconds of one monotonic clock that daemon and processes share (`CLOCK_MONOTONIC`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "arbiter")]
extern crate alloc;

#[cfg(feature = "arbiter")]
pub mod account;
#[cfg(feature = "arbiter")]
pub mod arbiter;
pub mod gate;
#[cfg(feature = "arbiter")]
pub mod layout;
#[cfg(feature = "arbiter")]
pub mod mig;
#[cfg(feature = "arbiter")]
pub mod pack;
#[cfg(feature = "arbiter")]
pub mod rest;
#[cfg(feature = "arbiter")]
pub mod topology;
#[cfg(feature = "arbiter")]
pub mod watchdog;
