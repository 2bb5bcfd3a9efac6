//! What workloads need of GPUs, as pure functions: no clock, no I/O.
//!
//! * [`capacity`] counts the slices that GPUs give.
//! * [`fit`] sizes language models.
//! * [`profile`] sizes programs by what they used.
pub mod capacity;
pub mod fit;
pub mod profile;
