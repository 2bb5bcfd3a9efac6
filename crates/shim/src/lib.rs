//! The stand-in for `libcuda.so.1` and `libnvidia-ml.so.1` inside a slice.
//!
//! One library under both names: it exports every name of both real libraries. Most exports jump straight to the real
//! entry point ([`real`]); the hooked ones charge the slice's ledger around it ([`hooks`]). The real libraries are opened
//! when the first call is made, never before, so that a program which uses no GPU pays for nothing.
//!
//! * No allocation: the process's own bookkeeping lies in reserved address space that is touched as it grows
//!   ([`table`]).
//! * No panic: the panic handler calls a function that does not exist, so a panic that the optimiser can't rule out
//!   fails the link.
//! * Nothing shared with other processes but the two mapped files, which are used by the ledger's lock-free protocol.
//! * A forked child starts from nothing: all state lies in a mapping that the kernel wipes on fork ([`process`]).
#![no_std]
// UNSAFETY: this crate *is* the foreign-function boundary: every export receives raw pointers from C programs.
#![allow(unsafe_code)]
// The exports bear the driver's names, and the driver's header says what they require of their callers.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

mod gate;
#[rustfmt::skip]
mod generated;
mod hooks;
mod image;
mod message;
mod process;
mod real;
mod system;
mod table;

#[cfg(not(debug_assertions))]
unsafe extern "C" {
    fn cleave_shim_has_a_reachable_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    #[cfg(not(debug_assertions))]
    // SAFETY: never runs: the symbol does not exist, so a build in which this could be reached does not link.
    unsafe {
        cleave_shim_has_a_reachable_panic()
    }
    #[cfg(debug_assertions)]
    system::abort()
}
