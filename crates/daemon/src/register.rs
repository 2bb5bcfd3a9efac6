//! A slice's sockets: processes come to register and to be measured.
//!
//! There are two. By the ordinary one the owner's processes and root's get in. The other lies where only the daemon's user
//! gets to, and is mounted into the containers that were given the slice: who comes by it, whatever its user, shows
//! by that alone that it belongs there. Which process it is the kernel says in both cases.
use crate::ffi::os;
use crate::files::open_to_all;
use crate::node::{Node, Peer, Registered};
use crate::process::{self, open_pidfd};
use crate::turns::Desk;
use cleave_ledger::{ABI, MAGIC, wire};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen as listen_on, recv, send, sendmsg, socket_with,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

/// Longest that a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most connections of one slice: four for each process that it can have.
const CONNECTIONS: usize = 4 * cleave_ledger::SLOTS;

/// Whom a socket lets in.
#[derive(Clone, Copy, Debug)]
pub enum Admits {
    /// This user and root.
    User(u32),
    /// Who gets to it.
    Anyone,
}

/// Descriptors that no slice's socket may take.
const SPARE: u64 = 256;

/// Binds `path` and serves the slice `id` there until aborted.
pub fn listen(node: &Arc<Node>, id: &str, admits: Admits, path: &Path) -> io::Result<AbortHandle> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // The kernel gives out the lowest number that is free: beyond this one few are left, and the daemon must be able to
    // answer, and its slices to take processes in.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if u64::from(socket.as_raw_fd().unsigned_abs()) + SPARE > most {
        return Err(Errno::MFILE.into());
    }
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    open_to_all(path)?;
    listen_on(&socket, 128)?;
    let socket = os::awaitable(socket, Interest::READABLE)?;
    let (node, id) = (Arc::clone(node), id.to_owned());
    let task = tokio::spawn(async move {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let accepted = match socket.readable().await {
                Ok(mut ready) => match ready.try_io(|s| Ok(accept_with(s.get_ref(), flags)?)) {
                    Ok(accepted) => accepted,
                    Err(_would_block) => continue,
                },
                Err(error) => Err(error),
            };
            match accepted {
                Ok(connection) if open.load(Ordering::Relaxed) < CONNECTIONS => {
                    let (node, id, open) = (Arc::clone(&node), id.clone(), Arc::clone(&open));
                    open.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(async move {
                        if let Err(error) = serve(&node, &id, admits, connection).await {
                            tracing::debug!(slice = id, "a connection ended: {error}");
                        }
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                Ok(_one_too_many) => {}
                Err(error) => {
                    tracing::warn!(slice = id, "can't accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(task.abort_handle())
}

/// Who is at the other end, as the kernel says; `None` if it is gone or not to be seen from here.
fn peer(connection: impl AsFd) -> io::Result<Option<Peer>> {
    let connected = process::ticks_now();
    let (pid, uid) = os::peer_credentials(&connection)?;
    if pid == 0 {
        return Ok(None);
    }
    let by_kernel = os::peer_pidfd(&connection).ok();
    // Read before and after the pidfd was opened or found alive: one process had this id throughout.
    let Some(stat) = process::stat(pid) else { return Ok(None) };
    let pidfd = match by_kernel {
        Some(pidfd) if is_alive(&pidfd) => Some(pidfd),
        Some(_) => None,
        // Without SO_PEERPIDFD the id may have passed on since it connected: to a process that is younger than that.
        None if connected.is_some_and(|now| stat.start_time > now) => None,
        None => open_pidfd(pid, stat.start_time),
    };
    Ok(pidfd.filter(|_| process::stat(pid).is_some_and(|s| s.start_time == stat.start_time)).map(|pidfd| Peer {
        pid,
        uid,
        stat,
        pidfd: Arc::new(pidfd),
    }))
}

fn is_alive(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&none)).is_ok_and(|ready| ready == 0)
}

/// One message, or `None` at the end. What is longer or shorter than a message is not one.
async fn receive(connection: &AsyncFd<OwnedFd>) -> io::Result<Option<Option<wire::Request>>> {
    loop {
        let mut ready = connection.readable().await?;
        let mut bytes = [0; wire::MESSAGE + 1];
        // Plain `recv`: descriptors that come along are dropped by the kernel.
        match ready.try_io(|c| Ok(recv(c.get_ref(), &mut bytes[..], RecvFlags::empty())?.1)) {
            Ok(Ok(0)) => return Ok(None),
            Ok(Ok(wire::MESSAGE)) => {
                let mut message = [0; wire::MESSAGE];
                message.copy_from_slice(&bytes[..wire::MESSAGE]);
                return Ok(Some(Some(wire::Request::from_bytes(message))));
            }
            Ok(Ok(_)) => return Ok(Some(None)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// Sends a reply. A peer that does not read its answers is not waited for.
fn answer(connection: &AsyncFd<OwnedFd>, reply: wire::Reply, fds: Option<&[OwnedFd; 3]>) -> io::Result<()> {
    let bytes = reply.to_bytes();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        let sent = match fds {
            None => send(connection.get_ref(), &bytes, flags),
            Some(fds) => {
                let all = fds.each_ref().map(AsFd::as_fd);
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&all)) {
                    return Err(io::Error::other("no room for three descriptors"));
                }
                sendmsg(connection.get_ref(), &[IoSlice::new(&bytes)], &mut control, flags)
            }
        };
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn serve(node: &Arc<Node>, id: &str, admits: Admits, connection: OwnedFd) -> io::Result<()> {
    let connection = os::awaitable(connection, Interest::READABLE)?;
    let peer = peer(connection.get_ref())?;
    let reply = |status: u32, slot: u32, value: u64| wire::Reply {
        magic: MAGIC,
        abi: ABI,
        status,
        slot,
        host_pid: peer.as_ref().map_or(0, |p| p.pid),
        value,
    };
    let allowed = peer.as_ref().filter(|p| match admits {
        Admits::User(owner) => p.uid == 0 || p.uid == owner,
        Admits::Anyone => true,
    });
    let mut registered: Option<Vec<Option<Arc<Desk>>>> = None;
    loop {
        // Who has registered may be silent for as long as it lives.
        let message = match registered {
            Some(_) => receive(&connection).await?,
            None => match tokio::time::timeout(PATIENCE, receive(&connection)).await {
                Ok(message) => message?,
                Err(_) => return Ok(()),
            },
        };
        let Some(message) = message else { return Ok(()) };
        let Some(request) = message.filter(|r| r.magic == MAGIC && r.abi == ABI) else {
            return answer(&connection, reply(wire::status::VERSION, 0, 0), None);
        };
        let Some(peer) = allowed else {
            return answer(&connection, reply(wire::status::DENIED, 0, 0), None);
        };
        match request.op {
            wire::op::REGISTER => match node
                .ready(id, peer)
                .await
                .and_then(|()| node.register(id, peer, u32::try_from(request.argument).unwrap_or(0)))
            {
                Ok(Registered { slot, descriptors, desks }) => {
                    let sent = answer(&connection, reply(wire::status::OK, slot, 0), Some(&descriptors));
                    if sent.is_err() {
                        node.unregister(id, slot, peer);
                    }
                    sent?;
                    registered = Some(desks);
                }
                Err(status) => answer(&connection, reply(status, 0, 0), None)?,
            },
            wire::op::RING => {
                // One that registered with the daemon before this one says no more than that.
                if registered.is_none() {
                    registered = node.desks_of(id, peer);
                }
                let desk = registered.as_ref().and_then(|desks| desks.get(request.device as usize)?.as_ref());
                if let Some(desk) = desk {
                    desk.ring(id);
                }
            }
            wire::op::MEASURE => {
                let measured = node.measure(id, peer, request.device as usize, request.argument);
                let (status, value) = measured.map_or_else(|status| (status, 0), |bytes| (wire::status::OK, bytes));
                answer(&connection, reply(status, 0, value), None)?;
            }
            _ => answer(&connection, reply(wire::status::VERSION, 0, 0), None)?,
        }
    }
}
