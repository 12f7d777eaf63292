//! Children that do not outlive us.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends, so one thread, which lives as long as
//! the process, forks for all. A [`Child`] is killed and reaped when dropped. Each child leads a process group of its
//! own: Ctrl-C reaches this process alone, which then ends its children in its own order.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

type Task = Box<dyn FnOnce() + Send>;

/// A running process that is killed on drop.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
}

impl Child {
    /// Starts `command`; the child keeps the descriptors `inherit` under their numbers, and this process closes them.
    ///
    /// # Errors
    ///
    /// As `Command::spawn`.
    pub fn spawn(mut command: Command, inherit: Vec<OwnedFd>) -> io::Result<Self> {
        let numbers = inherit.iter().map(AsRawFd::as_raw_fd).collect();
        tie(&mut command, numbers);
        let (send, receive) = mpsc::channel();
        let task = Box::new(move || {
            let spawned = command.spawn();
            // Our copies go first: else the child's streams never end when the child does.
            drop(inherit);
            let _ = send.send(spawned);
        });
        spawner().send(task).map_err(|_| io::Error::other("the spawner thread has ended"))?;
        let process = receive.recv().map_err(io::Error::other)??;
        Ok(Child { process })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Standard input, output and error, if the command asked for pipes.
    pub fn process(&mut self) -> &mut std::process::Child {
        &mut self.process
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// As `std::process::Child::try_wait`.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Waits for its end, but no longer than `limit`.
    ///
    /// # Errors
    ///
    /// As `std::process::Child::try_wait`.
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            match self.process.try_wait()? {
                None if start.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
                ended => return Ok(ended),
            }
        }
    }

    /// Sends SIGTERM and waits; after `grace` SIGKILL.
    ///
    /// # Errors
    ///
    /// As `std::process::Child::try_wait`.
    pub fn terminate(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        match self.wait_for(grace)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Sends SIGKILL and reaps.
    ///
    /// # Errors
    ///
    /// As `std::process::Child::kill`.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.process.kill()?;
        self.process.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[allow(unsafe_code, reason = "pre_exec: what runs between fork and exec")]
fn tie(command: &mut Command, inherit: Vec<i32>) {
    let parent = std::process::id().cast_signed();
    command.process_group(0);
    let before_exec = move || {
        // SAFETY: prctl, getppid, fcntl and _exit are async-signal-safe and take numbers only.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above; then nobody will send the signal.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            for fd in &inherit {
                if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and calls only async-signal-safe functions.
    unsafe { command.pre_exec(before_exec) };
}

/// The thread that forks. It ends with the process.
fn spawner() -> Sender<Task> {
    static SPAWNER: OnceLock<Mutex<Sender<Task>>> = OnceLock::new();
    let start = || {
        let (send, receive) = mpsc::channel::<Task>();
        let body = move || receive.into_iter().for_each(|task| task());
        thread::Builder::new()
            .name("spawner".into())
            .spawn(body)
            .expect("a host that cannot start one thread can do nothing");
        Mutex::new(send)
    };
    SPAWNER.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs a short-lived tool to its end; its output if it succeeded. `package` brings it on Debian.
pub(crate) fn output(command: &mut Command, package: &'static str) -> Result<Vec<u8>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let text = std::iter::once(program.as_str().into()).chain(arguments).collect::<Vec<_>>().join(" ");
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: program.clone(), package },
        _ => Error::Io { doing: format!("running {program}"), error },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
    Err(Error::Program { command: text, status: output.status.to_string(), said })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_dropped_child_is_gone() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = Child::spawn(command, Vec::new()).unwrap();
        let proc = format!("/proc/{}", child.id());
        assert!(std::path::Path::new(&proc).exists());
        drop(child);
        assert!(!std::path::Path::new(&proc).exists());
    }

    /// Not a test by itself: the parent in the test below, which that test kills.
    #[test]
    #[ignore = "started by the test of the parent's death, in a process of its own"]
    fn parent_that_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = Child::spawn(command, Vec::new()).unwrap();
        eprintln!("child {}.", child.id());
        thread::sleep(Duration::from_secs(1000));
    }

    #[test]
    fn a_child_dies_with_a_killed_parent_within_two_seconds() {
        use std::io::{BufRead, BufReader};
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::tests::parent_that_is_killed", "--ignored", "--nocapture"])
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(parent.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut pids =
            lines.filter_map(|line| line.strip_prefix("child ").map(|pid| pid.trim_end_matches('.').to_owned()));
        let child = pids.next().unwrap();
        parent.kill().unwrap();
        parent.wait().unwrap();
        let start = Instant::now();
        // Whoever adopted it may be slow to reap it: a zombie is no process any more.
        let runs = || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!runs(), "{child} still runs");
    }

    #[test]
    fn an_inherited_stream_ends_when_the_child_does() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("echo hello >&{}", theirs.as_raw_fd()));
        let child = Child::spawn(command, vec![theirs.into()]).unwrap();
        let mut said = String::new();
        (&ours).read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\n");
        drop(child);
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_after_the_grace() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        let script =
            format!("trap '' TERM; echo ready >&{fd}; while :; do sleep 1 {fd}>&-; done", fd = theirs.as_raw_fd());
        command.arg("-c").arg(script);
        let mut child = Child::spawn(command, vec![theirs.into()]).unwrap();
        (&ours).read_exact(&mut [0; 6]).unwrap();
        let status = child.terminate(Duration::from_millis(50)).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
