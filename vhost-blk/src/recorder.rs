//! The device record: what came, what was answered, in one order.
//!
//! Every event gets its number `n` under one short lock, so the file is in that order, and a number that is missing in
//! it was dropped. A queue thread never waits for the disk: events go as the bytes of the file through a bounded buffer
//! to a writer thread, and what does not fit is counted. Decisions and marks are never dropped: should the writer be so
//! far behind that decisions fill their buffer, the request waits for it, and that is counted too. Times are for
//! display; order is `n`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fault_injection::{Op, Piece};
use serde::Serialize;

use crate::inflight::InFlight;
use crate::record::{EVENT_BYTES, Event, Kind, MAGIC, Session};
use crate::request::Range;
use crate::transfer::Outcome;

/// Events that may wait for the writer, in bytes: 65,536 of them.
const EVENT_CAPACITY: usize = EVENT_BYTES << 16;

/// Decisions that may wait for the writer, in bytes.
const DECISION_CAPACITY: usize = 4 << 20;

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
    /// Queues by which requests came. The header knows only how many were offered.
    pub queues_used: u16,
    /// Whether, over so many queues, the run follows from script, seed and requests alone.
    pub deterministic: bool,
    /// Why not.
    pub why: Vec<String>,
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
    /// Those whose request never came, and events that did not happen, in words.
    pub missing: Vec<String>,
    /// What came otherwise than recorded, in words.
    pub differs: Vec<String>,
}

/// What waits for the writer, in the bytes of the files.
#[derive(Default)]
struct Buffer {
    events: Vec<u8>,
    decisions: Vec<u8>,
    next_n: u64,
    dropped: u64,
    /// Requests that had to wait for room among the decisions.
    waited: u64,
    closed: bool,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.decisions.is_empty()
    }

    fn take_number(&mut self) -> u64 {
        self.next_n += 1;
        self.next_n - 1
    }

    fn put_event(&mut self, mut event: Event, capacity: usize) {
        event.n = self.take_number();
        if self.events.len() < capacity {
            self.events.extend_from_slice(&event.encode());
        } else {
            self.dropped += 1;
        }
    }
}

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    /// The writer has taken what there was.
    emptied: Condvar,
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
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer::default()),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            started: Instant::now(),
        });
        let (has_events, has_decisions) = (trace.is_some(), decisions.is_some());
        let writer = Writer { shared: shared.clone(), trace, decisions };
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
        event.n = buffer.take_number();
        if self.events {
            self.push(&mut buffer, |buffer| buffer.events.extend(event.encode_with(name.as_bytes())));
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
        event.n = buffer.take_number();
        self.push(&mut buffer, |buffer| buffer.events.extend(event.encode_with(text.to_string().as_bytes())));
    }

    /// Lines for decisions.jsonl.
    pub fn decisions(&self, records: &[impl Serialize]) {
        if !self.decisions || records.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record).expect("a record is plain data");
            lines.push(b'\n');
        }
        let mut buffer = self.lock();
        let is_full = |buffer: &mut Buffer| buffer.decisions.len() > DECISION_CAPACITY;
        if is_full(&mut buffer) {
            buffer.waited += 1;
            buffer = self.shared.emptied.wait_while(buffer, is_full).unwrap_or_else(PoisonError::into_inner);
        }
        self.push(&mut buffer, |buffer| buffer.decisions.append(&mut lines));
    }

    /// Writes the trailer and waits until all is written.
    pub fn finish(&self, totals: Totals) -> Result<(), WriteError> {
        let mut buffer = self.lock();
        if self.events {
            let trailer = trailer(totals, &buffer);
            self.push(&mut buffer, |buffer| buffer.events.extend(trailer));
        }
        buffer.closed = true;
        self.shared.filled.notify_one();
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
        self.push(&mut self.lock(), |buffer| buffer.put_event(event, EVENT_CAPACITY));
    }

    fn push(&self, buffer: &mut Buffer, put: impl FnOnce(&mut Buffer)) {
        let was_empty = buffer.is_empty();
        put(buffer);
        // A writer that has something already need not be told.
        if was_empty && !buffer.is_empty() {
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

/// The last event.
fn trailer(totals: Totals, buffer: &Buffer) -> Vec<u8> {
    let mut trailer = serde_json::to_value(totals).expect("totals are plain data");
    trailer["events"] = buffer.next_n.into();
    trailer["dropped"] = buffer.dropped.into();
    trailer["decisions_waited"] = buffer.waited.into();
    Event::new(Kind::Trailer, 0).encode_with(trailer.to_string().as_bytes())
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file.write_all(bytes).map_err(|source| WriteError { path: self.path.clone(), source })
    }
}

struct Writer {
    shared: Arc<Shared>,
    trace: Option<Output>,
    decisions: Option<Output>,
}

impl Writer {
    fn run(mut self) -> Result<(), WriteError> {
        let result = self.write_all();
        if let Err(error) = &result {
            // The device goes on: the guest is not to suffer for a full disk under the record. The end of the run says it.
            tell!("vhost-blk: {error}; the record ends here");
            self.swallow();
        }
        result
    }

    fn write_all(&mut self) -> Result<(), WriteError> {
        if let Some(trace) = &mut self.trace {
            let header = trace.header.clone();
            trace.put(&[&MAGIC[..], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat())?;
        }
        if let Some(decisions) = &mut self.decisions {
            let header = format!("{}\n", decisions.header);
            decisions.put(header.as_bytes())?;
        }
        let (mut events, mut decisions) = (Vec::new(), Vec::new());
        loop {
            let last = self.gather(&mut events, &mut decisions);
            self.trace.as_mut().map_or(Ok(()), |trace| trace.put(&events))?;
            self.decisions.as_mut().map_or(Ok(()), |file| file.put(&decisions))?;
            if last {
                return Ok(());
            }
        }
    }

    /// Takes everything that waits, and says whether nothing more will come. The buffers change places, so that neither
    /// has to grow again.
    fn gather(&self, events: &mut Vec<u8>, decisions: &mut Vec<u8>) -> bool {
        let lock = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.filled.wait_while(lock, |buffer| buffer.is_empty() && !buffer.closed);
        let closed = waited.unwrap_or_else(PoisonError::into_inner).closed;
        if !closed {
            std::thread::sleep(GATHER);
        }
        events.clear();
        decisions.clear();
        let mut buffer = self.shared.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut buffer.events, events);
        std::mem::swap(&mut buffer.decisions, decisions);
        self.shared.emptied.notify_all();
        buffer.closed
    }

    fn swallow(&self) {
        let (mut events, mut decisions) = (Vec::new(), Vec::new());
        while !self.gather(&mut events, &mut decisions) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dir: &tempfile::TempDir, name: &str) -> Output {
        let path = dir.path().join(name);
        Output { file: File::create(&path).expect("a file"), path, header: "{}".into() }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_its_number_is_missing() {
        let mut buffer = Buffer::default();
        let put = |buffer: &mut Buffer| buffer.put_event(Event::new(Kind::Issue, 0), 2 * EVENT_BYTES);
        (0..3).for_each(|_| put(&mut buffer));
        assert_eq!((buffer.events.len(), buffer.dropped), (2 * EVENT_BYTES, 1));
        let mut later = Buffer { events: Vec::new(), ..buffer };
        put(&mut later);
        assert_eq!(later.events[16..24], 3u64.to_le_bytes(), "number 2 is not in the file");
    }

    #[test]
    fn a_flood_of_decisions_waits_and_loses_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let recorder = Recorder::start(None, Some(output(&dir, "d"))).expect("starts");
        let long = "x".repeat(1 << 10);
        let count = 3 * DECISION_CAPACITY / long.len();
        for i in 0..count {
            recorder.decisions(&[(i, &long)]);
        }
        recorder.finish(Totals::default()).expect("written");
        let text = std::fs::read_to_string(dir.path().join("d")).expect("decisions");
        let numbers = text.lines().skip(1).map(|line| {
            let (number, _): (usize, String) = serde_json::from_str(line).expect("whole lines");
            number
        });
        assert!(numbers.eq(0..count), "in order, and all of them");
    }
}
