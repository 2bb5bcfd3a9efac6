//! Host memory that stands for device memory: mapped without reserving it, touched when a program touches it.
#![allow(unsafe_code)] // UNSAFETY: mmap and its kin.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::{Path, PathBuf};

use crate::alloc::PAGE;

/// A mapping that is undone when this is dropped.
#[derive(Debug)]
pub struct Mapping {
    base: u64,
    len: usize,
    /// The file that it was shared through; its name goes with the mapping.
    shared: Option<PathBuf>,
}

fn map(at: u64, len: usize, protection: i32, flags: i32, fd: RawFd, offset: i64) -> Option<u64> {
    // SAFETY: either the kernel chooses the address, or `at` lies in a mapping that the caller owns.
    let address = unsafe { libc::mmap(at as *mut _, len, protection, flags | libc::MAP_NORESERVE, fd, offset) };
    (address != libc::MAP_FAILED).then_some(address as u64)
}

fn unmap(at: u64, len: usize) {
    if len > 0 {
        // SAFETY: the range belongs to a mapping that the caller owns.
        unsafe { libc::munmap(at as *mut _, len) };
    }
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

impl Mapping {
    fn aligned(len: u64, align: u64, protection: i32) -> Option<Mapping> {
        let len = usize::try_from(len.max(1).checked_next_multiple_of(4096)?).ok()?;
        let align = align.max(4096);
        let whole = len.checked_add(align as usize)?;
        let start = map(0, whole, protection, ANONYMOUS, -1, 0)?;
        let base = start.next_multiple_of(align);
        unmap(start, (base - start) as usize);
        unmap(base + len as u64, (start + whole as u64 - base) as usize - len);
        Some(Mapping { base, len, shared: None })
    }

    /// Fresh zeroed memory at an address that is a multiple of [`PAGE`].
    pub fn memory(len: u64) -> Option<Mapping> {
        Mapping::aligned(len, PAGE, READ_WRITE)
    }

    /// Addresses without memory.
    pub fn addresses(len: u64, align: u64) -> Option<Mapping> {
        Mapping::aligned(len, align.max(PAGE), libc::PROT_NONE)
    }

    /// Memory of another process, through its file.
    pub fn of_file(file: &File, len: u64) -> Option<Mapping> {
        let mapping = Mapping::aligned(len, PAGE, libc::PROT_NONE)?;
        map(mapping.base, mapping.len, READ_WRITE, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd(), 0)?;
        Some(mapping)
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Moves the contents into a new file at `path` that other processes can open, unless they are in one already;
    /// returns where.
    pub fn share(&mut self, path: PathBuf) -> Option<&Path> {
        if self.shared.is_none() {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).ok()?;
            if !self.move_into(&file) {
                let _ = std::fs::remove_file(&path);
                return None;
            }
            self.shared = Some(path);
        }
        self.shared.as_deref()
    }

    fn move_into(&self, file: &File) -> bool {
        if file.set_len(self.len as u64).is_err() {
            return false;
        }
        // Only pages that were touched hold anything; writing all of them would touch the rest.
        let mut resident = vec![0_u8; self.len / 4096];
        // SAFETY: asks about our own mapping, with one byte for each of its pages.
        unsafe { libc::mincore(self.base as *mut _, self.len, resident.as_mut_ptr()) };
        for (page, _) in resident.iter().enumerate().filter(|(_, flags)| **flags & 1 != 0) {
            let offset = page * 4096;
            let at = (self.base as usize + offset) as *const _;
            // SAFETY: writes one page of our own readable mapping to a file of the same length.
            if unsafe { libc::pwrite(file.as_raw_fd(), at, 4096, offset as i64) } != 4096 {
                return false;
            }
        }
        map(self.base, self.len, READ_WRITE, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd(), 0).is_some()
    }

    /// Puts `len` bytes of `file` at `at`, inaccessible until [`Mapping::protect`].
    pub fn place(&self, at: u64, len: u64, file: &File) -> bool {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        map(at, len as usize, libc::PROT_NONE, flags, file.as_raw_fd(), 0).is_some()
    }

    /// Takes what lies at `at` away again; the addresses stay ours.
    pub fn clear(&self, at: u64, len: u64) {
        map(at, len as usize, libc::PROT_NONE, ANONYMOUS | libc::MAP_FIXED, -1, 0);
    }

    /// Gives pages back to the host; they read as zero afterwards.
    pub fn discard(&self, at: u64, len: u64) {
        // SAFETY: the range lies in our own mapping; its contents are no longer wanted.
        unsafe { libc::madvise(at as *mut _, len as usize, libc::MADV_DONTNEED) };
    }

    /// Allows (`write`), allows reading (`read`) or forbids access to a range.
    pub fn protect(&self, at: u64, len: u64, read: bool, write: bool) {
        let protection = match (read, write) {
            (_, true) => READ_WRITE,
            (true, false) => libc::PROT_READ,
            (false, false) => libc::PROT_NONE,
        };
        // SAFETY: changes the protection of our own mapping.
        unsafe { libc::mprotect(at as *mut _, len as usize, protection) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.base, self.len);
        if let Some(path) = &self.shared {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A file without a name that holds memory.
pub fn memory_file(len: u64) -> Option<File> {
    // SAFETY: passes a C string and takes ownership of the descriptor returned.
    let fd = unsafe { libc::memfd_create(c"fakegpu".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len).ok()?;
    Some(file)
}
