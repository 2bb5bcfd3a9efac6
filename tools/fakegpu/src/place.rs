//! Where this library lies, and what is configured there.
#![allow(unsafe_code)] // UNSAFETY: asks the loader with dladdr.

use std::ffi::{CStr, OsStr, c_void};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::install::{INVENTORY, OWNERS, STATE};
use crate::model::{Inventory, Pace};
use crate::shared::Shared;

/// The directory that this code was loaded from, links resolved.
fn directory() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: asks about an address of this very object and writes to `info`.
    if unsafe { libc::dladdr(directory as *const c_void, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gave a C string that lives as long as the object is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    let given = path.parent()?.to_path_buf();
    let real = std::fs::canonicalize(&path).ok().and_then(|path| path.parent().map(PathBuf::from));
    // A container may mount the library alone over another file: then the name it was loaded by leads nowhere.
    [real, Some(given)].into_iter().flatten().find(|dir| dir.join(INVENTORY).exists())
}

/// The file in which this library's process owns its record: opened once and never closed, or the kernel would take the
/// process for gone.
/// By its number in the file system.
static OWNERS_FILES: Mutex<Vec<(u64, &'static File)>> = Mutex::new(Vec::new());

/// The inventory and the shared state of the installation that this library belongs to.
pub fn open() -> Option<(Inventory, Shared)> {
    open_at(&directory()?)
}

/// The same of the installation in a folder.
pub fn open_at(dir: &Path) -> Option<(Inventory, Shared)> {
    let inventory = Inventory::read(&dir.join(INVENTORY)).ok()?;
    let mut files = OWNERS_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let number = std::fs::metadata(dir.join(OWNERS)).ok()?.ino();
    let owners = match files.iter().find(|(known, _)| *known == number) {
        Some((_, file)) => file,
        None => {
            let file = OpenOptions::new().read(true).write(true).open(dir.join(OWNERS)).ok()?;
            let file: &'static File = Box::leak(Box::new(file));
            files.push((number, file));
            file
        }
    };
    let shared = Shared::open(&dir.join(STATE), owners, inventory.pace == Pace::Real).ok()?;
    Some((inventory, shared))
}
