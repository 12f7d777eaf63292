//! The way of a vhost-user connection through this process: message by message, in both directions.
//!
//! `VhostUserDaemon` accepts connections by itself and keeps the backend channel to itself. So every front-end is joined
//! to a private connection of the daemon's by two threads that carry messages, whole and with their descriptors. Only
//! the negotiation goes this way: rings, memory and eventfds are shared directly. On its way the descriptor of the
//! backend channel is kept (`backend_channel.rs`), since the crate cannot tell a front-end that the disk has changed.

use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::backend_channel::BackendChannel;

/// A vhost-user message: request, flags, length of what follows.
const HEADER_BYTES: usize = 12;
/// Longer messages do not exist (the crate's own limit).
const MESSAGE_BYTES: usize = 0x1000;
/// Most descriptors of one message.
const MESSAGE_FDS: usize = 32;
/// VHOST_USER_SET_VRING_ENABLE
const SET_VRING_ENABLE: u32 = 18;
/// VHOST_USER_SET_BACKEND_REQ_FD
const SET_BACKEND_REQ_FD: u32 = 21;

/// A message with its descriptors.
struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A listener in which one connection waits, whose other end is joined to `outside`.
pub fn join(outside: UnixStream, channel: Arc<BackendChannel>) -> io::Result<UnixListener> {
    let folder = private_folder()?;
    let path = folder.join("s");
    let made = UnixListener::bind(&path).and_then(|listener| Ok((listener, UnixStream::connect(&path)?)));
    let _ = std::fs::remove_file(&path);
    std::fs::remove_dir(&folder)?;
    let (listener, inside) = made?;
    relay("relay-in", outside.try_clone()?, inside.try_clone()?, Some(channel))?;
    relay("relay-out", inside, outside, None)?;
    Ok(listener)
}

/// A folder that only we can enter. A name that a dead process left behind is not used again.
fn private_folder() -> io::Result<PathBuf> {
    for attempt in 0..1000 {
        let folder = std::env::temp_dir().join(format!("vhost-blk-{}-{attempt}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => return other.map(|()| folder),
        }
    }
    Err(io::Error::other("the folder for temporary files is full of our leftovers (vhost-blk-*)"))
}

/// Carries messages, with their descriptors, one way until either end closes. `channel` belongs to the way in.
fn relay(name: &str, from: UnixStream, to: UnixStream, channel: Option<Arc<BackendChannel>>) -> io::Result<()> {
    let run = move || {
        while let Ok(Some(message)) = receive(&from) {
            let request = channel.as_ref().map(|channel| (channel, word(&message.bytes, 0)));
            // Before it is answered: who has been answered may rely on it.
            if let Some((channel, SET_BACKEND_REQ_FD)) = request {
                channel.keep(message.fds.first().and_then(|fd| fd.try_clone().ok()));
            }
            if send(&to, &message).is_err() {
                break;
            }
            // A front-end that starts its rings and has not read what has changed since it came is told again: QEMU
            // passes over what it hears before the guest's driver is there.
            if let Some((channel, SET_VRING_ENABLE)) = request {
                channel.remind();
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

/// One message whole, since descriptors belong to the message they came with. None: the sender has closed.
fn receive(from: &UnixStream) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; HEADER_BYTES + MESSAGE_BYTES];
    let mut fds = Vec::new();
    if !fill(from, &mut bytes[..HEADER_BYTES], &mut fds)? {
        return Ok(None);
    }
    let end = HEADER_BYTES + (word(&bytes, 8) as usize).min(MESSAGE_BYTES);
    if !fill(from, &mut bytes[HEADER_BYTES..end], &mut fds)? {
        return Ok(None);
    }
    bytes.truncate(end);
    Ok(Some(Message { bytes, fds }))
}

fn send(to: &UnixStream, message: &Message) -> io::Result<()> {
    let raw: Vec<RawFd> = message.fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let bytes = [io::IoSlice::new(&message.bytes)];
    let sent = sendmsg::<()>(to.as_raw_fd(), &bytes, rights, MsgFlags::MSG_NOSIGNAL, None)?;
    io::Write::write_all(&mut &*to, &message.bytes[sent..])
}

fn fill(from: &UnixStream, mut buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
    while !buf.is_empty() {
        let mut space = nix::cmsg_space!([RawFd; MESSAGE_FDS]);
        let mut into = [IoSliceMut::new(buf)];
        let got = match recvmsg::<()>(from.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = message {
                for fd in rights {
                    fds.push(take_fd(fd)?);
                }
            }
        }
        let bytes = got.bytes;
        if bytes == 0 {
            return Ok(false);
        }
        buf = &mut buf[bytes..];
    }
    Ok(true)
}

/// The owner of a descriptor that nobody else owns.
pub fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 3 || std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(own(fd))
}

#[allow(unsafe_code, reason = "descriptors come as numbers: from the command line and with messages")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: `take_fd` saw that the descriptor is open and none of the standard ones. Those that came with a message
    // are new and only ours; the one of --fd was given to this process to own, and is taken once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
