//! The one place of the daemon with `unsafe`: libraries opened at run time, the mapped policy page, and the few system
//! calls that have no safe wrapper. Everything it gives away is safe to use.
// UNSAFETY: foreign functions are called through pointers, a file is mapped, and system calls are made by number; each
// block says why it is sound.
#![allow(unsafe_code)]

pub mod cuda;
mod gpm;
mod library;
pub mod map;
mod mig;
pub mod nvml;
pub mod os;
mod survey;
