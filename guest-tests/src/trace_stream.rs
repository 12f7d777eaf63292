//! The guest's trace on its way into guest.raw, on a thread of its own.
//!
//! Pages are written as they arrive. A file gets its trailer and END only when the guest's stream was whole; anything less stays
//! without them, so that nothing can be judged from it.

use crate::failure::{At, Failure};
use guest_init::frames::{Frame, FrameError, Frames};
use kernel_trace::ContainerError;
use kernel_trace::container::{Header, Trailer, Writer};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What became of the stream.
enum Outcome {
    /// Every page and the END arrived; the trailer is still to come.
    Whole(Writer<BufWriter<File>>),
    /// It was cut off or damaged; the file has no END.
    Cut(FrameError),
    /// The guest traced nothing.
    Nothing,
}

/// The thread and the ways to it.
#[derive(Debug)]
pub struct TraceStream {
    header: Option<Sender<Header>>,
    stream: UnixStream,
    thread: Option<JoinHandle<Result<Outcome, Failure>>>,
    path: PathBuf,
}

impl TraceStream {
    /// Begins to read. Nothing is written before [`TraceStream::header`].
    pub fn start(stream: UnixStream, path: &Path) -> Result<TraceStream, Failure> {
        let (header, receiver) = channel();
        let reader = stream.try_clone().at("duplicate the socket for", path)?;
        let file = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || receive(reader, &receiver, &file))
            .at("start the thread for", path)?;
        Ok(TraceStream { header: Some(header), stream, thread: Some(thread), path: path.to_owned() })
    }

    /// Hands over what stands before the first page.
    pub fn header(&mut self, header: Header) {
        if let Some(sender) = self.header.take() {
            // A thread that is gone says why in `finish` or `check`.
            let _ = sender.send(header);
        }
    }

    /// Fails if the host could not write the trace; the guest would wait for ever.
    pub fn check(&mut self) -> Result<(), Failure> {
        match &self.thread {
            Some(thread) if thread.is_finished() => self.join().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Ends the file: with a trailer, if the stream was whole. Says what is missing otherwise.
    pub fn finish(mut self, trailer: Option<&Trailer>) -> Result<Option<String>, Failure> {
        self.header = None;
        if trailer.is_none() {
            // The guest is gone; the thread must not wait for it.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        match (self.join()?, trailer) {
            (Some(Outcome::Whole(writer)), Some(trailer)) => {
                writer.finish(trailer).map_err(|error| container_failure(&self.path, error))?;
                Ok(None)
            }
            (Some(Outcome::Whole(writer)), None) => {
                writer.abandon().map_err(|error| container_failure(&self.path, error))?;
                Ok(Some("the guest went away before it said that the trace is complete".into()))
            }
            (Some(Outcome::Cut(error)), _) => Ok(Some(error.to_string())),
            (Some(Outcome::Nothing) | None, _) => Ok(None),
        }
    }

    fn join(&mut self) -> Result<Option<Outcome>, Failure> {
        let Some(thread) = self.thread.take() else { return Ok(None) };
        thread.join().expect("the trace thread does not panic").map(Some)
    }
}

fn receive(stream: UnixStream, header: &Receiver<Header>, path: &Path) -> Result<Outcome, Failure> {
    let mut frames = Frames::new(BufReader::with_capacity(1 << 16, stream));
    // Without a job there is no header, and nothing that could need one.
    let Ok(header) = header.recv() else { return Ok(Outcome::Nothing) };
    let file = File::create(path).at("create", path)?;
    let mut writer =
        Writer::new(BufWriter::with_capacity(1 << 16, file)).map_err(|error| container_failure(path, error))?;
    writer.header(&header).map_err(|error| container_failure(path, error))?;
    for frame in &mut frames {
        match frame {
            Ok(Frame::Page { cpu, bytes }) => {
                let cpu = u16::try_from(cpu).unwrap_or(u16::MAX);
                writer.page(cpu, &bytes).map_err(|error| container_failure(path, error))?;
            }
            Ok(Frame::End(_)) => return Ok(Outcome::Whole(writer)),
            Err(error) => {
                writer.abandon().map_err(|error| container_failure(path, error))?;
                return Ok(Outcome::Cut(error));
            }
        }
    }
    unreachable!("frames end with END or an error")
}

fn container_failure(path: &Path, error: ContainerError) -> Failure {
    match error {
        ContainerError::Io(error) => Failure::io("write", path, &error),
        other => Failure::infrastructure(other.to_string(), ""),
    }
}
