//! The device record: what came, what was answered, in one order.
//!
//! Every event gets its number `n` under one short lock, so the file is in that order, and a number that is missing in
//! it was dropped. A queue thread never waits for the disk: events go through a bounded buffer to a writer thread, and
//! what does not fit is counted. Decisions and marks are never dropped. Times are for display; order is `n`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fault_injection::{Op, Piece};
use serde::Serialize;

use crate::inflight::InFlight;
use crate::record::{Event, Kind, MAGIC, Session};
use crate::request::Range;
use crate::transfer::Outcome;

/// Events that may wait for the writer; 5 MiB.
const CAPACITY: usize = 1 << 16;

/// The writer waits this long for more before it writes, so that a busy queue pays for few wake-ups.
const GATHER: Duration = Duration::from_millis(2);

/// How a request left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By the used ring.
    Answered,
    /// Not at all.
    Abandoned,
}

/// What the last line of a record says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Chains taken from the rings.
    pub requests: u64,
    /// Of those: chains that were no request we could carry out.
    pub malformed: u64,
    /// Given up without an answer.
    pub abandoned: u64,
    /// Still unanswered when the record ended. Anything but 0 is a bug.
    pub unanswered: u64,
    /// How often each rule fired.
    pub fired: BTreeMap<String, u64>,
    /// `expect`s of the script that were not met, in words.
    pub unmet: Vec<String>,
    /// What came of `--replay`, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replayed>,
    /// The first host error.
    pub host_error: Option<crate::disk::HostError>,
}

/// A recorded run that was forced on this one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replayed {
    /// Recorded decisions that came again.
    pub forced: u64,
    /// Those whose request never came, in words.
    pub missing: Vec<String>,
}

enum Entry {
    Event(Event),
    Text(Event, String),
    Decision(String),
    Trailer(Totals),
}

#[derive(Default)]
struct Buffer {
    entries: Vec<Entry>,
    next_n: u64,
    dropped: u64,
    closed: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    started: Instant,
}

/// The way into the record.
pub struct Recorder {
    shared: Arc<Shared>,
    events: bool,
    decisions: bool,
    writer: Mutex<Option<JoinHandle<Result<(), WriteError>>>>,
}

/// A record that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub struct WriteError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// A file of the record, open.
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// What it begins with: one JSON object.
    pub header: String,
}

impl Recorder {
    /// Starts the writer. Either file may be missing.
    pub fn start(trace: Option<Output>, decisions: Option<Output>) -> std::io::Result<Recorder> {
        let shared =
            Arc::new(Shared { buffer: Mutex::new(Buffer::default()), filled: Condvar::new(), started: Instant::now() });
        let (has_events, has_decisions) = (trace.is_some(), decisions.is_some());
        let writer = Writer { shared: shared.clone(), trace: trace.map(open), decisions: decisions.map(open) };
        let thread = std::thread::Builder::new().name("record".into()).spawn(move || writer.run())?;
        Ok(Recorder { shared, events: has_events, decisions: has_decisions, writer: Mutex::new(Some(thread)) })
    }

    /// A request was taken from its ring.
    pub fn issue(&self, token: &InFlight, inflight: impl FnOnce() -> u32) {
        let what = &token.request.what;
        self.event(Kind::Issue, |event| {
            event.session = token.session;
            event.seq = token.seq;
            event.queue = token.queue;
            event.set_request(Some(what.op()), what.range());
            event.inflight = inflight();
        });
    }

    /// A request left.
    pub fn complete(&self, token: &InFlight, ending: Ending, outcome: &Outcome) {
        let kind = if ending == Ending::Answered { Kind::Complete } else { Kind::Abandon };
        let what = &token.request.what;
        self.event(kind, |event| {
            event.session = token.session;
            event.seq = token.seq;
            event.queue = token.queue;
            event.set_request(Some(what.op()), what.range());
            event.set_outcome(outcome);
            event.set_fired(token.fired);
            event.set_past_end(token.past_end);
        });
    }

    /// A chain was taken that is no request; it is answered at once.
    pub fn refused(&self, session: u32, seq: u64, queue: u16, status: Option<u8>, used_len: u32) {
        self.event(Kind::Refuse, |event| {
            event.session = session;
            event.seq = seq;
            event.queue = queue;
            event.set_refusal(status, used_len);
        });
    }

    /// One child of a split was carried out.
    pub fn piece(&self, seq: u64, place: u32, piece: &Piece, moved_bytes: u64) {
        self.event(Kind::Piece, |event| {
            event.seq = seq;
            event.piece = place;
            event.set_request(None::<Op>, Some(Range { sector: piece.sector, sectors: piece.sectors }));
            event.status = piece.status.0;
            event.moved_bytes = moved_bytes;
        });
    }

    /// A front-end came or went, or a driver started or reset the device.
    pub fn session(&self, session: u32, what: Session) {
        self.event(Kind::Session, |event| {
            event.session = session;
            event.set_session(what);
        });
    }

    /// A mark was set before the request with this `seq`. Gives its `n`.
    pub fn mark(&self, name: &str, seq: u64, session: u32) -> u64 {
        let mut event = Event::new(Kind::Mark, self.now());
        event.seq = seq;
        event.session = session;
        let mut buffer = self.lock();
        event.n = take_number(&mut buffer);
        if self.events {
            self.push(&mut buffer, Entry::Text(event, name.to_string()));
        }
        event.n
    }

    /// Something that happened to the device as a whole, before the request with this `seq`. Never dropped.
    pub fn note(&self, kind: Kind, seq: u64, session: u32, text: &serde_json::Value) {
        if !self.events {
            return;
        }
        let mut event = Event::new(kind, self.now());
        event.seq = seq;
        event.session = session;
        let mut buffer = self.lock();
        event.n = take_number(&mut buffer);
        self.push(&mut buffer, Entry::Text(event, text.to_string()));
    }

    /// Lines for decisions.jsonl.
    pub fn decisions(&self, records: &[impl Serialize]) {
        if !self.decisions || records.is_empty() {
            return;
        }
        let mut buffer = self.lock();
        for record in records {
            let line = serde_json::to_string(record).expect("a record is plain data");
            self.push(&mut buffer, Entry::Decision(line));
        }
    }

    /// Writes the trailer and waits until all is written.
    pub fn finish(&self, totals: Totals) -> Result<(), WriteError> {
        let mut buffer = self.lock();
        self.push(&mut buffer, Entry::Trailer(totals));
        buffer.closed = true;
        drop(buffer);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match writer.map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }

    fn event(&self, kind: Kind, fill: impl FnOnce(&mut Event)) {
        if !self.events {
            return;
        }
        let mut event = Event::new(kind, self.now());
        fill(&mut event);
        let mut buffer = self.lock();
        event.n = take_number(&mut buffer);
        if buffer.entries.len() >= CAPACITY {
            buffer.dropped += 1;
        } else {
            self.push(&mut buffer, Entry::Event(event));
        }
    }

    fn push(&self, buffer: &mut Buffer, entry: Entry) {
        let was_empty = buffer.entries.is_empty();
        buffer.entries.push(entry);
        if was_empty {
            self.shared.filled.notify_one();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_number(buffer: &mut Buffer) -> u64 {
    buffer.next_n += 1;
    buffer.next_n - 1
}

struct OpenOutput {
    path: PathBuf,
    out: BufWriter<File>,
    header: String,
}

fn open(output: Output) -> OpenOutput {
    OpenOutput { path: output.path, out: BufWriter::new(output.file), header: output.header }
}

impl OpenOutput {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes).map_err(|source| WriteError { path: self.path.clone(), source })
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.out.flush().map_err(|source| WriteError { path: self.path.clone(), source })
    }
}

struct Writer {
    shared: Arc<Shared>,
    trace: Option<OpenOutput>,
    decisions: Option<OpenOutput>,
}

impl Writer {
    fn run(mut self) -> Result<(), WriteError> {
        let result = self.write_all();
        if let Err(error) = &result {
            // The device goes on: the guest is not to suffer for a full disk under the record. The end of the run says it.
            eprintln!("vhost-blk: {error}; the record ends here");
            self.swallow();
        }
        result
    }

    fn write_all(&mut self) -> Result<(), WriteError> {
        if let Some(trace) = &mut self.trace {
            let header = trace.header.clone();
            trace.put(MAGIC)?;
            trace.put(&(header.len() as u32).to_le_bytes())?;
            trace.put(header.as_bytes())?;
        }
        if let Some(decisions) = &mut self.decisions {
            let header = format!("{}\n", decisions.header);
            decisions.put(header.as_bytes())?;
        }
        self.flush()?;
        loop {
            let (entries, last) = self.gather();
            for entry in entries {
                self.write(entry)?;
            }
            self.flush()?;
            if last {
                return Ok(());
            }
        }
    }

    /// Everything that waits, and whether nothing more will come.
    fn gather(&self) -> (Vec<Entry>, bool) {
        let lock = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.filled.wait_while(lock, |buffer| buffer.entries.is_empty() && !buffer.closed);
        let closed = waited.unwrap_or_else(PoisonError::into_inner).closed;
        if !closed {
            std::thread::sleep(GATHER);
        }
        let mut buffer = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut buffer.entries), buffer.closed)
    }

    fn write(&mut self, entry: Entry) -> Result<(), WriteError> {
        match (entry, &mut self.trace, &mut self.decisions) {
            (Entry::Event(event), Some(trace), _) => trace.put(&event.encode()),
            (Entry::Text(event, text), Some(trace), _) => trace.put(&event.encode_with(text.as_bytes())),
            (Entry::Decision(line), _, Some(decisions)) => decisions.put(format!("{line}\n").as_bytes()),
            (Entry::Trailer(totals), Some(trace), _) => {
                let buffer = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
                let (events, dropped) = (buffer.next_n, buffer.dropped);
                drop(buffer);
                let mut trailer = serde_json::to_value(totals).expect("totals are plain data");
                trailer["events"] = events.into();
                trailer["dropped"] = dropped.into();
                trace.put(&Event::new(Kind::Trailer, 0).encode_with(trailer.to_string().as_bytes()))
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.trace.iter_mut().chain(&mut self.decisions).try_for_each(OpenOutput::flush)
    }

    fn swallow(&self) {
        while !self.gather().1 {}
    }
}
