//! What workloads need of GPUs, and where they go, as pure functions: no clock, no I/O.
//!
//! * [`capacity`] counts the slices that GPUs give.
//! * [`choice`] is the best engine that hardware has for a slice.
//! * [`fit`] sizes language models.
//! * [`profile`] sizes programs by what they used.
//! * [`label`] is what a node's labels say.
//! * [`spec`] is what people write about workloads and nodes, [`fleet`] the GPUs that there are, [`planner`] decides what goes
//!   where; [`told`] is its answer.
//! * [`tier`] is which engines the work of a tier may run on, [`yaml`] how files are read.
pub mod capacity;
pub mod choice;
pub mod fit;
pub mod fleet;
pub mod label;
mod llm;
pub mod logged;
mod need;
pub mod planner;
pub mod profile;
pub mod spec;
pub mod tier;
pub mod told;
pub mod yaml;
