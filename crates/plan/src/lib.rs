//! What workloads need of GPUs, and where they go, as pure functions: no clock, no I/O.
//!
//! * [`capacity`] counts the slices that GPUs give.
//! * [`fit`] sizes language models.
//! * [`profile`] sizes programs by what they used.
//! * [`spec`] is what people write about workloads and nodes, [`fleet`] the GPUs that there are, [`planner`] decides what goes
//!   where; [`told`] is its answer.
pub mod capacity;
pub mod fit;
pub mod fleet;
mod llm;
pub mod logged;
mod need;
pub mod planner;
pub mod profile;
pub mod spec;
pub mod told;
