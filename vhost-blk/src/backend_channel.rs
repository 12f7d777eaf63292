//! The way back to the front-end, for the one thing this device has to say unasked: its configuration has changed.
//!
//! The front-end hands us a socket (VHOST_USER_SET_BACKEND_REQ_FD). What goes over it here is
//! VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, twelve bytes without a body and without a wish for a reply, so there is nothing
//! to wait for and no queue can be held up. Nobody else in this process speaks on it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{MsgFlags, send};

/// Request 2, version 1, no body (vhost-user specification, "Back-end message types").
const CONFIG_CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// The channel of one connection.
#[derive(Default)]
pub struct BackendChannel {
    socket: Mutex<Option<OwnedFd>>,
    /// The configuration has changed, and the front-end has not read it since.
    unread: AtomicBool,
}

impl BackendChannel {
    /// The front-end has given its end, or taken it back.
    pub fn keep(&self, socket: Option<OwnedFd>) {
        *self.socket() = socket;
    }

    /// The configuration has changed. Gives whether the front-end could be told.
    pub fn config_changed(&self) -> bool {
        self.unread.store(true, Ordering::SeqCst);
        self.tell()
    }

    /// The front-end has read the configuration.
    pub fn config_read(&self) {
        self.unread.store(false, Ordering::SeqCst);
    }

    /// Says it again if the front-end has not looked.
    pub fn remind(&self) {
        if self.unread.load(Ordering::SeqCst) {
            self.tell();
        }
    }

    fn tell(&self) -> bool {
        let socket = self.socket();
        let Some(socket) = &*socket else { return false };
        // A front-end that lets its channel fill up has been told often enough.
        let how = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(socket.as_raw_fd(), &CONFIG_CHANGE, how).is_ok_and(|bytes| bytes == CONFIG_CHANGE.len())
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
