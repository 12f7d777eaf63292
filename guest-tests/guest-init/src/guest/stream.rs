//! Ring-buffer pages to the host, while the workload runs and after it.
//!
//! The kernel does not wait for us: a reader too slow shows as `overrun` in the statistics and as a flag
//! on the page. What was read is never dropped: the port's back-pressure stops this thread alone.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guest_init::frames::{self, End};

use super::boot::page_bytes;
use super::{Doing, Failure, Outcome};

/// Between two rounds over the CPUs. Long enough that mostly full pages travel, short against the time a buffer takes to fill.
const PAUSE: Duration = Duration::from_millis(20);

/// Frames travel together up to this: at each write to the port the guest waits for the host.
const GATHER_BYTES: usize = 256 << 10;

pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<End>>,
}

impl Stream {
    /// Starts to send what the CPUs in the tracefs folders `per_cpu` record.
    pub fn start(port: File, per_cpu: &[PathBuf]) -> Outcome<Self> {
        let open = |folder: &PathBuf| {
            let raw = folder.join("trace_pipe_raw");
            File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&raw)
                .doing(format!("opening {}", raw.display()))
        };
        let buffers = per_cpu.iter().map(open).collect::<Outcome<Vec<_>>>()?;
        let end = End { pages: vec![0; buffers.len()], bytes: vec![0; buffers.len()] };
        let stop = Arc::new(AtomicBool::new(false));
        let mut pump = Pump { port, buffers, page: vec![0; page_bytes()], frames: Vec::new(), end };
        let stopped = Arc::clone(&stop);
        let body = move || pump.run(&stopped);
        let thread = thread::Builder::new().name("trace".into()).spawn(body).doing("starting the trace's thread")?;
        Ok(Stream { stop, thread })
    }

    /// Tracing is off: drains what is left and writes END.
    pub fn finish(self) -> Outcome<End> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        let panicked = |_| Failure { doing: "streaming the trace".into(), error: "its thread panicked".into() };
        self.thread.join().map_err(panicked)?
    }
}

struct Pump {
    port: File,
    buffers: Vec<File>,
    page: Vec<u8>,
    /// Frames that are not sent yet.
    frames: Vec<u8>,
    end: End,
}

impl Pump {
    fn run(&mut self, stop: &AtomicBool) -> Outcome<End> {
        loop {
            // Read the flag before the buffers: what was recorded before it was set is then in this round.
            let last = stop.load(Ordering::SeqCst);
            for cpu in 0..self.buffers.len() {
                while self.take_page(cpu)? {}
            }
            if last {
                frames::write_end(&mut self.frames, &self.end).doing("ending the trace")?;
            }
            self.send()?;
            if last {
                return Ok(self.end.clone());
            }
            // `finish` ends the pause.
            thread::park_timeout(PAUSE);
        }
    }

    fn send(&mut self) -> Outcome<()> {
        self.port.write_all(&self.frames).doing("sending ring-buffer pages")?;
        self.frames.clear();
        Ok(())
    }

    /// Whether there was a page.
    fn take_page(&mut self, cpu: usize) -> Outcome<bool> {
        let len = match self.buffers[cpu].read(&mut self.page) {
            Ok(0) => return Ok(false),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).doing("reading trace_pipe_raw"),
        };
        let used = frames::used_bytes(&self.page[..len]).ok_or("its head counts more bytes than it has");
        let page = &self.page[..used.doing("reading a ring-buffer page")?];
        self.end.pages[cpu] += 1;
        self.end.bytes[cpu] += page.len() as u64;
        frames::write_page(&mut self.frames, cpu as u32, page).doing("gathering ring-buffer pages")?;
        if self.frames.len() >= GATHER_BYTES {
            self.send()?;
        }
        Ok(true)
    }
}
