//! The node daemon: owns the slices of this machine's GPUs, their ledgers and their processes, and serves the API.
mod cdi;
mod checkpoint;
mod config;
mod engine;
mod explain;
mod ffi;
mod files;
mod gpu;
mod http;
mod install;
mod inventory;
mod levels;
mod metrics;
mod mig;
mod mps;
mod node;
mod probe;
mod process;
mod reconcile;
mod register;
mod run;
mod serve;
mod slice;
mod store;
#[cfg(test)]
mod tests;
mod turns;
mod watchdog;

pub use checkpoint::checkpoint;
pub use config::{Config, Tcp, default_run_dir, default_state_dir};
pub use http::document as openapi_document;
pub use inventory::inventory;
pub use probe::probe_context;
pub use process::machine_memory;
pub use run::run;
