//! The front-end's socket: who may connect, one connection at a time, and its end.
//!
//! Nothing else knows how a front-end is reached. `VhostUserDaemon` of the `vhost-user-backend` crate does the talking,
//! over a connection of its own that is joined to the front-end's (`relay.rs`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};

use crate::backend_channel::BackendChannel;
use crate::drive::Drive;
use crate::error::{SocketError, StartError};
use crate::power::{Errand, Power};
use crate::record::Session as SessionEvent;
use crate::relay::{join, take_fd};
use crate::session::Session;

/// Where front-ends come from.
pub struct Frontend {
    source: Source,
    /// Our own socket file, removed at the end.
    path: Option<PathBuf>,
}

enum Source {
    /// They come one after the other.
    Listener(UnixListener),
    /// The one connection of `--fd`, until it is served.
    Only(Option<UnixStream>),
}

impl Frontend {
    /// Listens on a path. A socket file that nobody listens on any more is a dead process's, and is taken over.
    pub fn listen(path: &Path) -> Result<Frontend, SocketError> {
        Ok(Frontend { source: Source::Listener(listen(path)?), path: Some(path.to_path_buf()) })
    }

    /// Serves an inherited descriptor, connected or listening.
    pub fn inherit(fd: RawFd) -> Result<Frontend, SocketError> {
        let error = |source| SocketError::Descriptor { fd, source };
        let owned = take_fd(fd).map_err(error)?;
        if getsockopt(&owned, sockopt::AcceptConn).map_err(|errno| error(errno.into()))? {
            return Ok(Frontend { source: Source::Listener(UnixListener::from(owned)), path: None });
        }
        UnixStream::from(owned.try_clone().map_err(error)?).peer_addr().map_err(error)?;
        Ok(Frontend { source: Source::Only(Some(UnixStream::from(owned))), path: None })
    }

    /// Whether no second front-end can come.
    pub fn is_single(&self) -> bool {
        matches!(self.source, Source::Only(_))
    }

    /// Waits for a front-end. `None`: the run is to end first, or nobody can come any more.
    pub fn accept(&mut self, drive: &Arc<Drive>, stop: &impl AsFd) -> Result<Option<Connection>, StartError> {
        let host = |what| move |source| StartError::Host { what, source };
        let Some(outside) = self.next(drive, stop).map_err(host("wait for a front-end"))? else { return Ok(None) };
        let mut held = drive.hold();
        let device = drive.device();
        // A script that left while nobody was there has nobody to leave.
        let _ = device.take_leave();
        let channel = Arc::new(BackendChannel::default());
        let session = Session::new(drive.clone(), channel.clone()).map_err(host("set up the queues"))?;
        let session = Arc::new(session);
        let daemon_error = |error: DaemonError| StartError::Host {
            what: "start the vhost-user session",
            source: io::Error::other(error.to_string()),
        };
        let mut daemon =
            VhostUserDaemon::new("vhost-user".into(), session.clone(), session.memory.clone()).map_err(daemon_error)?;
        session.register(&daemon).map_err(host("watch the queues"))?;
        // Calls that were for the front-end before.
        let _ = device.call.read();
        device.begin_session(SessionEvent::Connect);
        held.begin(&session);
        drop(held);
        let inside = join(outside, channel).map_err(host("carry the front-end's messages"))?;
        daemon.start(&mut Listener::from(inside)).map_err(daemon_error)?;
        Connection::new(daemon, session).map(Some).map_err(host("watch the connection"))
    }

    /// The next connection on which somebody speaks: a mere look at the socket is no front-end.
    fn next(&mut self, drive: &Drive, stop: &impl AsFd) -> io::Result<Option<UnixStream>> {
        loop {
            let stream = match &mut self.source {
                Source::Only(stream) => stream.take(),
                Source::Listener(listener) => match wait_for(listener.as_fd(), stop.as_fd(), None, drive)? {
                    Woken::Stop => None,
                    _ => Some(listener.accept()?.0),
                },
            };
            let Some(stream) = stream else { return Ok(None) };
            if wait_for(stream.as_fd(), stop.as_fd(), None, drive)? == Woken::Stop {
                return Ok(None);
            }
            if recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK).is_ok_and(|bytes| bytes > 0) {
                return Ok(Some(stream));
            }
        }
    }
}

impl Frontend {
    /// Lets nobody in for a while: our socket is gone, and back afterwards. `false`: the run is to end first.
    pub fn pause(&mut self, reconnect_ms: u64, stop: &impl AsFd) -> Result<bool, StartError> {
        if reconnect_ms == 0 {
            return Ok(true);
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        let host = |source| StartError::Host { what: "wait before the front-end is let in again", source };
        if sleep_unless(stop, Duration::from_millis(reconnect_ms)).map_err(host)? {
            return Ok(false);
        }
        if let Some(path) = self.path.take() {
            *self = Frontend::listen(&path)?;
        }
        Ok(true)
    }
}

/// Whether the run is to end before this time is over.
fn sleep_unless(stop: &impl AsFd, time: Duration) -> io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(Some(left))) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(0) if Instant::now() >= until => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
        }
    }
}

/// Rounded up, so that what is due is due when it is over.
fn poll_timeout(time: Option<Duration>) -> PollTimeout {
    let Some(time) = time else { return PollTimeout::NONE };
    let ms = time.as_millis() + u128::from(time.subsec_nanos() % 1_000_000 > 0);
    PollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
}

impl Drop for Frontend {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A front-end that is connected.
pub struct Connection {
    session: Arc<Session>,
    shutdown: Option<ShutdownHandle>,
    /// Closed at the other end when the session has ended.
    ended: UnixStream,
    waiter: std::thread::JoinHandle<VhostUserDaemon<Arc<Session>>>,
}

impl Connection {
    fn new(mut daemon: VhostUserDaemon<Arc<Session>>, session: Arc<Session>) -> io::Result<Connection> {
        let (ended, tell) = UnixStream::pair()?;
        let shutdown = daemon.shutdown_handle();
        let waiter = std::thread::Builder::new().name("front-end".into()).spawn(move || {
            if let Err(error) = daemon.wait()
                && !is_goodbye(&error)
            {
                tell!("vhost-blk: the front-end's session ended: {error}");
            }
            drop(tell);
            // Handed back, not dropped: dropping it ends the queue threads, and those have requests to settle first.
            daemon
        })?;
        Ok(Connection { session, shutdown, ended, waiter })
    }

    /// Waits until the front-end leaves or the run is to end. Everything in flight is settled when it returns, and no
    /// thread of the connection touches the guest any more.
    pub fn serve(self, drive: &Drive, stop: &impl AsFd) -> io::Result<Left> {
        let woken = self.wait(drive, stop)?;
        // From here on the device stays what it is.
        let mut held = drive.hold();
        let device = drive.device();
        if woken == Woken::Stop {
            device.stopping.store(true, Ordering::SeqCst);
        }
        let drained = self.session.settle();
        if let Some(shutdown) = &self.shutdown {
            shutdown.shutdown();
        }
        // Ends the queue threads and waits for them. A panic in the session's thread has ended the process already.
        drop(self.waiter.join());
        held.end();
        self.session.leave(&device);
        if self.session.was_used() {
            device.past.is_known_from_now_on();
        }
        device.begin_session(SessionEvent::Disconnect);
        let asked = device.take_leave();
        drained.map(|()| match (woken, asked) {
            _ if device.past.unsettled().is_some() => Left::Unknown,
            (Woken::Stop, _) => Left::RunEnds,
            (_, Some(reconnect_ms)) => Left::Asked { reconnect_ms },
            _ => Left::FrontEnd { was_used: self.session.was_used() },
        })
    }
}

impl Connection {
    /// Waits for the end of the connection, doing what the device asks for meanwhile.
    fn wait(&self, drive: &Drive, stop: &impl AsFd) -> io::Result<Woken> {
        loop {
            let woken = wait_for(self.ended.as_fd(), stop.as_fd(), Some(drive.call.as_fd()), drive)?;
            if woken != Woken::Called {
                return Ok(woken);
            }
            let _ = drive.call.read();
            let device = drive.device();
            if device.is_leaving() || device.past.unsettled().is_some() {
                return Ok(Woken::Called);
            }
            match device.power.as_ref().and_then(Power::take_errand) {
                Some(Errand::KillVm(qmp)) => device.kill_vm(&qmp),
                Some(Errand::Disconnect) => return Ok(Woken::Called),
                None => {}
            }
        }
    }
}

/// A front-end that leaves is no error, however abruptly it does.
fn is_goodbye(error: &DaemonError) -> bool {
    matches!(
        error,
        DaemonError::HandleRequest(
            VhostError::Disconnected
                | VhostError::PartialMessage
                | VhostError::SocketBroken(_)
                | VhostError::SocketError(_)
        )
    )
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The front-end left.
    FrontEnd {
        /// It had a driver.
        was_used: bool,
    },
    /// We left it, because the script says so.
    Asked {
        /// Nobody is let in for so long.
        reconnect_ms: u64,
    },
    /// Its ring holds requests of which nothing is known.
    Unknown,
    /// The run is to end.
    RunEnds,
}

/// Who woke us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// What we waited for happened.
    Ready,
    /// The run is to end.
    Stop,
    /// The device has something to be done.
    Called,
}

/// Waits, and lets events of the script happen that are due by the clock meanwhile.
fn wait_for(
    what: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    call: Option<BorrowedFd<'_>>,
    drive: &Drive,
) -> io::Result<Woken> {
    loop {
        let mut fds: Vec<PollFd<'_>> =
            [what, stop].into_iter().chain(call).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, poll_timeout(drive.device().until_tick())) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) => drive.device().tick(),
            other => drop(other?),
        };
        let is_ready = |i: usize| fds.get(i).is_some_and(|fd| fd.any().unwrap_or(false));
        match (is_ready(0), is_ready(1), is_ready(2)) {
            (_, true, _) => return Ok(Woken::Stop),
            (true, ..) => return Ok(Woken::Ready),
            (.., true) => return Ok(Woken::Called),
            _ => {}
        }
    }
}

/// Listens on a Unix socket, taking over a dead one.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let here = || path.to_path_buf();
    if path.as_os_str().len() > 107 {
        return Err(SocketError::TooLong { path: here() });
    }
    match listen_at(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(|source| SocketError::Bind { path: here(), source }),
    }
    if !std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Err(SocketError::NotASocket { path: here() });
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken { path: here() });
    }
    let taken_over = std::fs::remove_file(path).and_then(|()| listen_at(path));
    taken_over.map_err(|source| SocketError::Bind { path: here(), source })
}

/// The name appears when somebody listens there, never before: `bind` alone makes it a moment earlier, and whoever waits for the name is
/// refused in between.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let made = tempfile::Builder::new().prefix(".").rand_bytes(4).make_in(folder, |aside| UnixListener::bind(aside))?;
    made.persist_noclobber(path).map_err(|refused| refused.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sees_the_name_can_connect() {
        let folder = tempfile::tempdir().expect("a folder");
        for round in 0..300 {
            let path = folder.path().join(round.to_string());
            let seen = path.clone();
            let client = std::thread::spawn(move || {
                while !seen.exists() {
                    std::hint::spin_loop();
                }
                UnixStream::connect(&seen)
            });
            let _listener = listen(&path).expect("listens");
            client.join().expect("no panic").expect("somebody listens");
        }
    }

    #[test]
    fn a_dead_socket_is_taken_over_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(listen(&path).expect("listens"));
        let alive = listen(&path).expect("takes the dead one over");
        assert!(matches!(listen(&path), Err(SocketError::Taken { .. })));
        drop(alive);
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        assert!(matches!(listen(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }
}
