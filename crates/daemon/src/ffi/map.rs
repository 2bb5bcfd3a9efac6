//! A slice's policy page as the daemon holds it: mapped for writing. The usage file is never mapped, because a tenant
//! may cut it short, and a read behind its end would kill the daemon.
use cleave_ledger::Policy;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// A policy file, mapped.
#[derive(Debug)]
pub struct PolicyPage(NonNull<Policy>);

// SAFETY: `Policy` is shared memory made to be used from everywhere: what changes in it is atomic.
unsafe impl Send for PolicyPage {}
// SAFETY: as above.
unsafe impl Sync for PolicyPage {}

/// Size of a policy file.
pub const POLICY_BYTES: u64 = size_of::<Policy>() as u64;

/// The bytes of a policy that nobody else has seen yet.
pub fn policy_bytes(policy: &mut Policy) -> &[u8] {
    // SAFETY: `Policy` is `repr(C)` without padding (the layout's assertions add up its fields), it is borrowed
    // mutably, so nobody changes it while the slice lives.
    unsafe { std::slice::from_raw_parts((&raw const *policy).cast::<u8>(), size_of::<Policy>()) }
}

impl PolicyPage {
    /// Maps `file`, which the caller found to be at least [`POLICY_BYTES`] long. Nobody but the daemon may write or
    /// cut this file; its folder and mode see to that.
    pub fn map(file: impl AsFd) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        if rustix::fs::fstat(&file)?.st_size < POLICY_BYTES as i64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a new mapping at an address of the kernel's choice harms no memory of ours.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                POLICY_BYTES as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        NonNull::new(at.cast::<Policy>()).map(Self).ok_or_else(|| io::ErrorKind::Other.into())
    }
}

impl Deref for PolicyPage {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        // SAFETY: mapped until drop, page-aligned, long enough, valid for any bytes (integers only); its plain fields
        // are written only before the file is mapped, and its file is cut by nobody.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for PolicyPage {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this size, and no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), POLICY_BYTES as usize) };
    }
}
