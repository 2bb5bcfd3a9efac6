//! The entry points that are not simulated: each returns "not supported" and is counted by name.
#![allow(unsafe_code)] // UNSAFETY: exports symbols under fixed names.
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cleave_cuda::types::{CUresult, error, nvml_error, nvmlReturn_t};

include!(concat!(env!("OUT_DIR"), "/stubs.rs"));

static CALLS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

fn count(symbol: &'static str) {
    *CALLS.lock().unwrap_or_else(PoisonError::into_inner).entry(symbol).or_default() += 1;
}

/// Counts a call of a driver entry point that is not simulated.
fn cuda(symbol: &'static str) -> CUresult {
    count(symbol);
    error::NOT_SUPPORTED
}

/// Counts a call of an NVML entry point that is not simulated.
fn nvml(symbol: &'static str) -> nvmlReturn_t {
    count(symbol);
    nvml_error::NOT_SUPPORTED
}

/// Writes how often each entry point that is not simulated was called, one line each, into `buffer`, and returns the
/// length of the whole text. For tests and for finding out what a program misses.
///
/// # Safety
/// `buffer` must be null or have room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakegpu_unsupported(buffer: *mut u8, size: usize) -> usize {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let text: String = calls.iter().map(|(symbol, count)| format!("{symbol}\t{count}\n")).collect();
    if !buffer.is_null() {
        // SAFETY: the caller passes room for `size` bytes, and no more than that is written.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, text.len().min(size)) };
    }
    text.len()
}
