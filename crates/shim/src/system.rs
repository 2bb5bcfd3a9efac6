//! System calls, made directly: no errno, no allocation, no dependence on libc's state.
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

pub const AF_UNIX: usize = 1;
pub const SOCK_SEQPACKET: usize = 5;
pub const SOCK_CLOEXEC: usize = 0o2000000;
pub const PROT_READ: usize = 1;
pub const PROT_READ_WRITE: usize = 3;
pub const MAP_SHARED: usize = 1;
pub const MAP_PRIVATE_ANONYMOUS_NORESERVE: usize = 0x02 | 0x20 | 0x4000;

/// Error numbers that decisions depend on.
pub const ENOENT: isize = -2;
pub const EINTR: isize = -4;
pub const ECONNREFUSED: isize = -111;

mod number {
    pub const READ: usize = 0;
    pub const OPEN: usize = 2;
    pub const LSEEK: usize = 8;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const MUNMAP: usize = 11;
    pub const SCHED_YIELD: usize = 24;
    pub const MADVISE: usize = 28;
    pub const NANOSLEEP: usize = 35;
    pub const GETPID: usize = 39;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const RECVMSG: usize = 47;
    pub const SETSOCKOPT: usize = 54;
    pub const FCNTL: usize = 72;
    #[cfg(debug_assertions)]
    pub const KILL: usize = 62;
    pub const ACCESS: usize = 21;
    pub const FUTEX: usize = 202;
}

/// # Safety
/// The arguments must be what system call `n` takes: pointers among them must be valid for what it does with them.
unsafe fn call(n: usize, a: [usize; 6]) -> isize {
    let result;
    // SAFETY: the kernel preserves all registers but rax, rcx and r11; memory effects are the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") n => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3],
             in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Writes `text` to stderr; a failure is of no consequence.
pub fn write_stderr(text: &[u8]) {
    // SAFETY: write reads `text.len()` bytes from `text`.
    unsafe { call(number::WRITE, [2, text.as_ptr() as usize, text.len(), 0, 0, 0]) };
}

pub fn close(fd: i32) {
    // SAFETY: touches no memory.
    unsafe { call(number::CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Whether `fd` is open in this process.
pub fn is_open(fd: i32) -> bool {
    const F_GETFD: usize = 1;
    // SAFETY: touches no memory.
    unsafe { call(number::FCNTL, [fd as usize, F_GETFD, 0, 0, 0, 0]) >= 0 }
}

/// Maps `size` bytes, of `fd` or (negative) anonymous; `None` if the kernel won't.
pub fn map(size: usize, protection: usize, flags: usize, fd: i32) -> Option<*mut u8> {
    // SAFETY: without MAP_FIXED no existing mapping is touched.
    let address = unsafe { call(number::MMAP, [0, size, protection, flags, fd as isize as usize, 0]) };
    (address > 0).then_some(address as *mut u8)
}

/// # Safety
/// Nothing may use the mapping any more.
pub unsafe fn unmap(address: *mut u8, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { call(number::MUNMAP, [address as usize, size, 0, 0, 0, 0]) };
}

/// Makes the mapping read as zeros in a forked child.
pub fn wipe_on_fork(address: *mut u8, size: usize) -> bool {
    const MADV_WIPEONFORK: usize = 18;
    // SAFETY: changes how fork treats the mapping, not its contents.
    unsafe { call(number::MADVISE, [address as usize, size, MADV_WIPEONFORK, 0, 0, 0]) == 0 }
}

pub fn process_id() -> u32 {
    // SAFETY: touches no memory.
    unsafe { call(number::GETPID, [0; 6]) as u32 }
}

pub fn yield_now() {
    // SAFETY: touches no memory.
    unsafe { call(number::SCHED_YIELD, [0; 6]) };
}

pub fn sleep_microseconds(microseconds: u64) {
    let time = [microseconds / 1_000_000, microseconds % 1_000_000 * 1000];
    // SAFETY: nanosleep reads two words.
    unsafe { call(number::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// Whether a file is there. `path` ends with a zero.
pub fn exists(path: &[u8]) -> bool {
    // SAFETY: access reads `path` up to its zero.
    path.ends_with(&[0]) && unsafe { call(number::ACCESS, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) } == 0
}

/// Calls `f` with the contents of the file at `path`, a zero behind them, and their length; `None` if it can't be read.
///
/// # Safety
/// `path` must end with a zero.
pub unsafe fn with_file<R>(path: *const u8, f: impl FnOnce(*const u8, usize) -> R) -> Option<R> {
    /// A pipe has no length, and must not keep this waiting.
    const O_CLOEXEC_NONBLOCK: usize = 0x8_0800;
    const SEEK_END: usize = 2;
    // SAFETY: open reads `path` up to its zero.
    let fd = i32::try_from(unsafe { call(number::OPEN, [path as usize, O_CLOEXEC_NONBLOCK, 0, 0, 0, 0]) }).ok()?;
    if fd < 0 {
        return None;
    }
    // SAFETY: touches no memory.
    let seek = |to| unsafe { call(number::LSEEK, [fd as usize, 0, to, 0, 0, 0]) };
    let length = usize::try_from(seek(SEEK_END)).unwrap_or(0);
    seek(0);
    // Read and not mapped: whoever cuts the file meanwhile would end this process.
    let room = map(length.saturating_add(1), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1);
    let result = room.map(|room| {
        let mut at = 0;
        while at < length {
            // SAFETY: read writes at most the rest of the room.
            let got = unsafe { call(number::READ, [fd as usize, room as usize + at, length - at, 0, 0, 0]) };
            match usize::try_from(got) {
                Ok(got) if got > 0 => at += got,
                _ => break,
            }
        }
        let result = f(room, at);
        // SAFETY: mapped above and no longer used.
        unsafe { unmap(room, length + 1) };
        result
    });
    close(fd);
    result
}

/// A connection to the socket at `path` (no zero at its end), or the kernel's error number.
pub fn connect(path: &[u8]) -> Result<i32, isize> {
    let mut address = [0u8; 110];
    let Some(place) = address.get_mut(2..2 + path.len()) else { return Err(ENOENT) };
    place.copy_from_slice(path);
    address[0] = AF_UNIX as u8;
    // SAFETY: touches no memory.
    let fd = unsafe { call(number::SOCKET, [AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0]) };
    if fd < 0 {
        return Err(fd);
    }
    // A daemon that hangs must not hang the program for ever: each message waits 10 s at most.
    let timeout = [10u64, 0];
    const SOL_SOCKET: usize = 1;
    const SO_RCVTIMEO: usize = 20;
    const SO_SNDTIMEO: usize = 21;
    // SAFETY: the calls read the given number of bytes from the given places.
    let error = unsafe {
        for direction in [SO_RCVTIMEO, SO_SNDTIMEO] {
            call(number::SETSOCKOPT, [fd as usize, SOL_SOCKET, direction, timeout.as_ptr() as usize, 16, 0]);
        }
        call(number::CONNECT, [fd as usize, address.as_ptr() as usize, 2 + path.len() + 1, 0, 0, 0])
    };
    if error < 0 {
        close(fd as i32);
        return Err(error);
    }
    Ok(fd as i32)
}

/// Sends one message.
pub fn send(fd: i32, message: &[u8]) -> bool {
    const MSG_NOSIGNAL: usize = 0x4000;
    // SAFETY: reads `message.len()` bytes from `message`.
    let sent =
        unsafe { call(number::SENDTO, [fd as usize, message.as_ptr() as usize, message.len(), MSG_NOSIGNAL, 0, 0]) };
    sent == message.len() as isize
}

#[repr(C)]
struct MessageHeader {
    name: *mut u8,
    name_length: usize,
    vectors: *mut [usize; 2],
    vector_count: usize,
    control: *mut u8,
    control_length: usize,
    flags: i32,
}

/// Receives one message and up to three file descriptors; `None` on error, end or a message of another size.
pub fn receive(fd: i32, message: &mut [u8]) -> Option<[i32; 3]> {
    const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
    let mut control = [0u64; 8];
    let started = seconds();
    loop {
        let mut vector = [message.as_mut_ptr() as usize, message.len()];
        let mut header = MessageHeader {
            name: core::ptr::null_mut(),
            name_length: 0,
            vectors: &mut vector,
            vector_count: 1,
            control: control.as_mut_ptr().cast(),
            control_length: 64,
            flags: 0,
        };
        // SAFETY: recvmsg writes at most the lengths given in the header.
        let got = unsafe { call(number::RECVMSG, [fd as usize, &raw mut header as usize, MSG_CMSG_CLOEXEC, 0, 0, 0]) };
        // The socket's own 10 s start anew with each try.
        if got == EINTR && seconds() < started + 10 {
            continue;
        }
        if got != message.len() as isize {
            return None;
        }
        // A control message: length, level and type (SOL_SOCKET, SCM_RIGHTS), then the descriptors.
        let mut fds = [-1, -1, -1];
        if header.control_length >= 28 && control[0] == 28 && control[1] == 1 | 1 << 32 {
            fds = [control[2] as i32, (control[2] >> 32) as i32, control[3] as i32];
        }
        return Some(fds);
    }
}

/// Seconds of a clock that never goes back.
fn seconds() -> u64 {
    nanoseconds() / 1_000_000_000
}

#[link(name = "c")]
unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
}

/// Nanoseconds of a clock that never goes back, the same for all processes. By libc, which asks the kernel's page rather
/// than the kernel.
#[inline]
pub fn nanoseconds() -> u64 {
    const MONOTONIC: i32 = 1;
    let mut time = [0; 2];
    // SAFETY: writes two words.
    unsafe { clock_gettime(MONOTONIC, &raw mut time) };
    (time[0] as u64).wrapping_mul(1_000_000_000).wrapping_add(time[1] as u64)
}

/// Waits until `word`, which other processes share, is no longer `value`, somebody wakes this thread, or `nanoseconds` are
/// over.
pub fn futex_wait_shared(word: &AtomicU32, value: u32, nanoseconds: u64) {
    const WAIT: usize = 0;
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    // SAFETY: futex reads the word, which outlives the call, and two words of time.
    unsafe { call(number::FUTEX, [word.as_ptr() as usize, WAIT, value as usize, time.as_ptr() as usize, 0, 0]) };
}

/// Waits until `word` is no longer `value`, or somebody wakes this thread.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    const WAIT_PRIVATE: usize = 128;
    // SAFETY: futex reads the word, which outlives the call.
    unsafe { call(number::FUTEX, [word.as_ptr() as usize, WAIT_PRIVATE, value as usize, 0, 0, 0]) };
}

/// Wakes one thread that waits for `word`.
pub fn futex_wake(word: &AtomicU32) {
    const WAKE_PRIVATE: usize = 129;
    // SAFETY: touches no memory.
    unsafe { call(number::FUTEX, [word.as_ptr() as usize, WAKE_PRIVATE, 1, 0, 0, 0]) };
}

/// A lock between the threads of this process. All zeros is unlocked, which is what a forked child finds.
#[repr(transparent)]
pub struct Lock(AtomicU32);

/// Holds a [`Lock`] until dropped.
pub struct Held<'a>(&'a AtomicU32);

impl Lock {
    #[inline]
    pub fn hold(&self) -> Held<'_> {
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        Held(&self.0)
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..100 {
            if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            core::hint::spin_loop();
        }
        while self.0.swap(2, Ordering::Acquire) != 0 {
            futex_wait(&self.0, 2);
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.swap(0, Ordering::Release) == 2 {
            futex_wake(self.0);
        }
    }
}

#[cfg(debug_assertions)]
pub fn abort() -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { call(number::KILL, [process_id() as usize, 6, 0, 0, 0, 0]) };
    }
}
