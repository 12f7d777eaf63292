//! The kernel's log, record by record, to the host.
//!
//! A thread of its own, so that a BUG or a hung task is heard of while an op hangs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use guest_init::protocol::{FromGuest, LogLine};

use super::ctl::Sender;
use super::{Doing, Outcome};

const PAUSE: Duration = Duration::from_millis(100);

pub struct KernelLog {
    kmsg: Mutex<File>,
    to: Sender,
}

impl KernelLog {
    pub fn start(to: Sender) -> Outcome<Arc<Self>> {
        let kmsg =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").doing("opening /dev/kmsg")?;
        let log = Arc::new(KernelLog { kmsg: Mutex::new(kmsg), to });
        let thread_log = Arc::clone(&log);
        let body = move || {
            loop {
                thread_log.drain();
                thread::sleep(PAUSE);
            }
        };
        thread::Builder::new().name("kernel-log".into()).spawn(body).doing("starting the log's thread")?;
        Ok(log)
    }

    /// Sends everything logged so far. Whether the host still listens shows elsewhere.
    pub fn drain(&self) {
        let mut kmsg = self.kmsg.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match kmsg.read(&mut record) {
                Ok(0) => break,
                Ok(len) => lines.extend(parse(&String::from_utf8_lossy(&record[..len])).map(FromGuest::Log)),
                // Records were overwritten before they were read: say so, and go on with the oldest there is.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => lines.push(FromGuest::Log(lost())),
                Err(_) => break,
            }
        }
        if !lines.is_empty() {
            let _ = self.to.send(&lines);
        }
    }
}

fn lost() -> LogLine {
    LogLine { level: 4, seq: 0, time_us: 0, text: "guest-init: records of the kernel log were lost".into() }
}

/// `LEVEL,SEQ,TIME,FLAGS[,…];TEXT`, then lines that begin with a space.
fn parse(record: &str) -> Option<LogLine> {
    let (head, text) = record.split_once(';')?;
    let mut numbers = head.split(',').map(|word| word.parse::<u64>().unwrap_or_default());
    let level = (numbers.next()? & 7) as u8;
    let (seq, time_us) = (numbers.next()?, numbers.next()?);
    Some(LogLine { level, seq, time_us, text: text.lines().next().unwrap_or_default().into() })
}
