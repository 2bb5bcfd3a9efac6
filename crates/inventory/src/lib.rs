//! What a machine has, and how it is linked: pure functions of a system tree, of what NVML answers, and of what other tools wrote.
//!
//! * [`survey()`] makes the inventory from `/sys` and `/proc` under a root, and NVML's answers.
//! * [`matrix`] prints links as `nvidia-smi topo -m` does, reads them back, and finds the best groups of GPUs.
//! * [`geometry()`] is what MIG instances fit on a GPU.
//! * [`hwloc`] reads `lstopo --of xml`.
//! * [`makers`] is how a program is given other makers' devices whole.
//! * [`modes`] is which engines a GPU can run, and what can be moved off it.
//! * [`Table`] is what is known of models without asking them.
pub mod drawing;
mod geometry;
pub mod hwloc;
pub mod makers;
pub mod matrix;
pub mod modes;
mod survey;
mod table;

pub use geometry::geometry;
pub use survey::{NvLinkEnd, NvmlAnswers, NvmlGpu, pci_address, survey};
pub use table::{Basis, Confidence, Geometry, Model, Profile, Table};
