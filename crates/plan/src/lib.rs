//! What workloads need of GPUs, as pure functions: no clock, no I/O.
//!
//! * [`fit`] sizes language models.
pub mod fit;
