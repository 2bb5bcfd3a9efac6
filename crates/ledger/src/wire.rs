//! What a process says to the daemon over the slice's socket, and what the daemon answers.
//!
//! The socket is of type `SOCK_SEQPACKET`: one message is one struct, as it lies in memory. A process connects once,
//! registers, and keeps the connection to ask for a measurement now and then. With [`Reply`] to [`op::REGISTER`] come
//! three file descriptors: the policy (to be mapped read-only), the usage file and the node's [`crate::Urgency`] (both to be
//! mapped read-write).

/// Where the socket lies in a container and in a mount namespace of `cleave run`: tried before anything else.
pub const SOCKET: &str = "/run/cleave/slice/sock";
/// The environment variable that names the socket where no such place could be made; a hint, no credential.
pub const SOCKET_VARIABLE: &str = "CLEAVE_SOCKET";
/// A file of this name beside the socket lets programs run unmetered while the daemon can't be reached.
pub const FAIL_OPEN: &str = "fail-open";

/// What is asked; values of [`Request::op`].
pub mod op {
    /// Gives this process a slot. `argument` = the process's own id as it sees it.
    pub const REGISTER: u32 = 1;
    /// Measures this process on device `device` now: `argument` = bytes that it has charged as an estimate, to be
    /// replaced by the measurement. The daemon writes the difference to [`crate::Book::adjust`] before it answers.
    pub const MEASURE: u32 = 2;
    /// A thread waits for a turn on device `device`. Nothing is answered but a changed [`crate::Turn`].
    pub const RING: u32 = 3;
}

/// How it went; values of [`Reply::status`].
pub mod status {
    /// Done.
    pub const OK: u32 = 0;
    /// The daemon speaks another version; its own is in [`super::Reply::abi`].
    pub const VERSION: u32 = 1;
    /// The slice has as many processes as it can have.
    pub const FULL: u32 = 2;
    /// The caller is not of this slice.
    pub const DENIED: u32 = 3;
    /// The slice has been deleted.
    pub const GONE: u32 = 4;
    /// The measurement can't be made: NVML does not answer for this process.
    pub const UNMEASURED: u32 = 5;
    /// The daemon could not make room for the process's slot.
    pub const NO_ROOM: u32 = 6;
    /// The slice's MPS server can't be had.
    pub const NO_SERVER: u32 = 7;
}

/// A process's message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// [`crate::MAGIC`].
    pub magic: u64,
    /// [`crate::ABI`].
    pub abi: u32,
    /// One of [`op`].
    pub op: u32,
    /// Index of the device in the slice.
    pub device: u32,
    /// Unused.
    pub reserved: u32,
    /// See [`op`].
    pub argument: u64,
}

/// The daemon's answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// [`crate::MAGIC`].
    pub magic: u64,
    /// [`crate::ABI`].
    pub abi: u32,
    /// One of [`status`].
    pub status: u32,
    /// The slot given ([`op::REGISTER`]).
    pub slot: u32,
    /// The caller's process id in the daemon's namespace.
    pub host_pid: u32,
    /// Bytes that NVML shows for the process ([`op::MEASURE`]).
    pub value: u64,
}

/// Size of either message in bytes.
pub const MESSAGE: usize = 32;

const _: () = {
    assert!(core::mem::size_of::<Request>() == MESSAGE);
    assert!(core::mem::size_of::<Reply>() == MESSAGE);
};

impl Request {
    /// The message as it goes over the socket.
    pub fn to_bytes(self) -> [u8; MESSAGE] {
        join(self.magic, self.abi, self.op, self.device, self.reserved, self.argument)
    }

    /// Reads a message.
    pub fn from_bytes(bytes: [u8; MESSAGE]) -> Self {
        let (magic, abi, op, device, reserved, argument) = split(bytes);
        Self { magic, abi, op, device, reserved, argument }
    }
}

impl Reply {
    /// The message as it goes over the socket.
    pub fn to_bytes(self) -> [u8; MESSAGE] {
        join(self.magic, self.abi, self.status, self.slot, self.host_pid, self.value)
    }

    /// Reads a message.
    pub fn from_bytes(bytes: [u8; MESSAGE]) -> Self {
        let (magic, abi, status, slot, host_pid, value) = split(bytes);
        Self { magic, abi, status, slot, host_pid, value }
    }
}

fn join(a: u64, b: u32, c: u32, d: u32, e: u32, f: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    let words = [a, u64::from(b) | u64::from(c) << 32, u64::from(d) | u64::from(e) << 32, f];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn split(bytes: [u8; MESSAGE]) -> (u64, u32, u32, u32, u32, u64) {
    let mut words = [0u64; 4];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(from);
        *word = u64::from_le_bytes(eight);
    }
    let [a, bc, de, f] = words;
    (a, bc as u32, (bc >> 32) as u32, de as u32, (de >> 32) as u32, f)
}
