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
#[derive(Debug)]
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
    /// What the thread came to, where `check` saw it end before `finish` asked.
    ended: Option<Outcome>,
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
        Ok(TraceStream { header: Some(header), stream, thread: Some(thread), ended: None, path: path.to_owned() })
    }

    /// Hands over what stands before the first page.
    pub fn header(&mut self, header: Header) {
        if let Some(sender) = self.header.take() {
            // A thread that is gone says why in `finish` or `check`.
            let _ = sender.send(header);
        }
    }

    /// Fails if the host could not write the trace; the guest would wait for ever.
    ///
    /// A thread that has ended well is no failure: END can arrive long before the guest says on its other port that it is
    /// done. What the thread came to is then kept for `finish`.
    pub fn check(&mut self) -> Result<(), Failure> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join()?;
        }
        Ok(())
    }

    /// Ends the file: with a trailer, if the stream was whole. Says what is missing otherwise.
    pub fn finish(mut self, trailer: Option<&Trailer>) -> Result<Option<String>, Failure> {
        self.header = None;
        if trailer.is_none() {
            // The guest is gone; the thread must not wait for it.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        self.join()?;
        match (self.ended.take(), trailer) {
            (Some(Outcome::Whole(writer)), Some(trailer)) => {
                writer.finish(trailer).map_err(|error| container_failure(&self.path, error))?;
                Ok(None)
            }
            (Some(Outcome::Whole(writer)), None) => {
                writer.abandon().map_err(|error| container_failure(&self.path, error))?;
                Ok(Some("the guest went away before it said that the trace is complete".into()))
            }
            (Some(Outcome::Cut(error)), _) => Ok(Some(error.to_string())),
            (Some(Outcome::Nothing), _) => Ok(None),
            // `check` has reported the failure that left nothing behind; the file is not whole all the same.
            (None, _) => Ok(Some("the trace could not be written".into())),
        }
    }

    fn join(&mut self) -> Result<(), Failure> {
        if let Some(thread) = self.thread.take() {
            self.ended = Some(thread.join().expect("the trace thread does not panic")?);
        }
        Ok(())
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use guest_init::frames::{End, write_end, write_page};
    use kernel_trace::container;

    const RECORDING: &[u8] = include_bytes!("../recordings/partial/guest.raw");

    /// Guards against a run that lost its trailer, and with it its verdict, when more than one look at the stream fell
    /// between END on this port and "done" on the other.
    #[test]
    fn a_stream_that_ended_long_before_it_is_asked_for_is_whole() {
        let recorded = container::read(RECORDING).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.raw");
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let mut stream = TraceStream::start(ours, &path).unwrap();
        stream.header(recorded.header.clone());
        for page in &recorded.pages {
            write_page(&mut guest, page.cpu.into(), &page.bytes).unwrap();
        }
        let bytes = recorded.pages.iter().map(|page| page.bytes.len() as u64).sum();
        write_end(&mut guest, &End { pages: vec![recorded.pages.len() as u64], bytes: vec![bytes] }).unwrap();
        while stream.ended.is_none() {
            stream.check().unwrap();
            std::thread::yield_now();
        }
        stream.check().unwrap();
        assert_eq!(stream.finish(recorded.trailer.as_ref()).unwrap(), None);
        assert_eq!(container::read(&std::fs::read(&path).unwrap()).unwrap(), recorded);
    }

    #[test]
    fn a_stream_that_was_cut_off_says_so_however_late_it_is_asked() {
        let recorded = container::read(RECORDING).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.raw");
        let (ours, guest) = UnixStream::pair().unwrap();
        let mut stream = TraceStream::start(ours, &path).unwrap();
        stream.header(recorded.header.clone());
        drop(guest);
        while stream.ended.is_none() {
            stream.check().unwrap();
            std::thread::yield_now();
        }
        assert!(stream.finish(recorded.trailer.as_ref()).unwrap().is_some());
        assert!(!container::read(&std::fs::read(&path).unwrap()).unwrap().ended);
    }
}
