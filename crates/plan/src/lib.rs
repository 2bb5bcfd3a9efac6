//! What workloads need of GPUs, as pure functions: no clock, no I/O.
//!
//! * [`capacity`] counts the slices that GPUs give.
//! * [`fit`] sizes language models.
pub mod capacity;
pub mod fit;
