//! `cuGetProcAddress`: from a name, a CUDA version and flags to the exported symbol of the right ABI.

use cleave_cuda::types::error;
use core::ffi::{c_char, c_int, c_void};

use super::{get_text, put, put_optional};

mod generated {
    //! Made by `build.rs`.
    #![allow(missing_docs, clashing_extern_declarations)]
    include!(concat!(env!("OUT_DIR"), "/procs.rs"));
}
use generated::{PROCS, SYMBOLS};

/// The address of an exported symbol.
fn address(symbol: &str) -> Option<*mut c_void> {
    let index = SYMBOLS.binary_search_by(|(name, _)| (*name).cmp(symbol)).ok()?;
    Some(SYMBOLS[index].1 as *mut c_void)
}

/// What a name means to a program built for `version`: the newest form not newer than that; with `per_thread`, the
/// form for per-thread default streams where there is one.
fn resolve(name: &str, version: c_int, per_thread: bool) -> Result<*mut c_void, c_int> {
    let forms = || PROCS.iter().filter(|(base, ..)| *base == name);
    let newest =
        |flags: u64| forms().filter(|(_, since, f, _)| *since <= version && *f == flags).max_by_key(|row| row.1);
    let found = if per_thread { newest(2).or_else(|| newest(0)) } else { newest(0) };
    match found {
        Some((.., symbol)) => address(symbol).ok_or(1),
        None if forms().next().is_some() => Err(2),
        // A name that no header gives a version: the symbol itself.
        None => address(name).ok_or(1),
    }
}

free_entry! {
    fn cuGetProcAddress(symbol: *const c_char, to: *mut *mut c_void, version: c_int, flags: u64) {
        put(to, std::ptr::null_mut())?;
        let name = get_text(symbol)?;
        put(to, resolve(&name, version, flags & 2 != 0).map_err(|_| error::NOT_FOUND)?)
    }
    fn cuGetProcAddress_v2(symbol: *const c_char, to: *mut *mut c_void, version: c_int, flags: u64, status: *mut c_int) {
        put(to, std::ptr::null_mut())?;
        let name = get_text(symbol)?;
        match resolve(&name, version, flags & 2 != 0) {
            Ok(found) => {
                put_optional(status, 0);
                put(to, found)
            }
            Err(why) => {
                put_optional(status, why);
                // With a place for the status, not finding a name is no error of the call.
                if status.is_null() { Err(error::NOT_FOUND) } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_leads_to_a_symbol() {
        for (name, version, flags, symbol) in PROCS {
            assert!(address(symbol).is_some(), "{symbol}");
            assert_eq!(resolve(name, *version, *flags == 2), Ok(address(symbol).expect("above")), "{name} {version}");
        }
    }

    #[test]
    fn a_version_chooses_the_form() {
        assert_eq!(resolve("cuMemAlloc", 2000, false), Ok(address("cuMemAlloc").expect("exported")));
        assert_eq!(resolve("cuMemAlloc", 12000, false), Ok(address("cuMemAlloc_v2").expect("exported")));
        assert_eq!(resolve("cuMemAlloc", 12000, true), Ok(address("cuMemAlloc_v2").expect("exported")));
        assert_eq!(resolve("cuLaunchKernel", 7000, true), Ok(address("cuLaunchKernel_ptsz").expect("exported")));
        assert_eq!(resolve("cuGetProcAddress", 12000, false), Ok(address("cuGetProcAddress_v2").expect("exported")));
        assert_eq!(resolve("cuNoSuch", 12000, false), Err(1));
        assert_eq!(resolve("cuLibraryLoadData", 11000, false), Err(2));
    }
}
