//! The device record's file format, and its way back to JSON lines (docs/trace-format.md, "Device record").
//!
//! Fixed-size little-endian records behind a JSON header; a mark's name and the trailer follow theirs as text. A file
//! without a trailer was cut short, and says so.

use std::io::{self, Read, Write};

use fault_injection::Op;
use serde_json::{Value, json};

use crate::request::Range;
use crate::transfer::Outcome;

/// How a record begins.
pub const MAGIC: &[u8; 8] = b"VBLKREC1";

/// Length of an event without its text.
pub const EVENT_BYTES: usize = 72;
const FIRED: u8 = 1;
const HOST_ERROR: u8 = 2;
const HAS_STATUS: u8 = 4;
const PAST_END: u8 = 8;
const NO_OP: u8 = u8::MAX;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Taken from the ring.
    Issue = 1,
    /// Answered.
    Complete = 2,
    /// Given up.
    Abandon = 3,
    /// No request: given back at once.
    Refuse = 4,
    /// A child of a split.
    Piece = 5,
    /// A mark.
    Mark = 6,
    /// Front-end or driver came or went.
    Session = 7,
    /// The power was cut.
    PowerCut = 8,
    /// The states that a cut may leave were written down.
    Snapshot = 9,
    /// The write cache was full.
    CacheFull = 10,
    /// The disk got another size.
    Resize = 11,
    /// The last one.
    Trailer = 255,
}

/// Why a new session number begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Session {
    /// A front-end connected.
    Connect = 1,
    /// A driver negotiated features.
    Features = 2,
    /// The device was reset.
    Reset = 3,
    /// The front-end left.
    Disconnect = 4,
}

/// One fixed-size record. Which fields mean something depends on `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    op: u8,
    /// Status byte.
    pub status: u8,
    flags: u8,
    /// Queue.
    pub queue: u16,
    /// Session number.
    pub session: u32,
    /// Requests in flight before this one.
    pub inflight: u32,
    /// Place in the order of all events.
    pub n: u64,
    /// Arrival number.
    pub seq: u64,
    sector: u64,
    sectors: u64,
    /// Used length.
    pub used_len: u32,
    /// Place of a child in its request.
    pub piece: u32,
    /// Bytes moved.
    pub moved_bytes: u64,
    /// Since the record began; for display.
    pub t_ns: u64,
}

impl Event {
    /// An event of which nothing is known yet.
    pub fn new(kind: Kind, t_ns: u64) -> Event {
        Event {
            kind,
            op: NO_OP,
            status: 0,
            flags: 0,
            queue: 0,
            session: 0,
            inflight: 0,
            n: 0,
            seq: 0,
            sector: 0,
            sectors: 0,
            used_len: 0,
            piece: 0,
            moved_bytes: 0,
            t_ns,
        }
    }

    /// What is asked of which sectors.
    pub fn set_request(&mut self, op: Option<Op>, range: Option<Range>) {
        self.op = op.map_or(NO_OP, |op| op as u8);
        (self.sector, self.sectors) = range.map_or((0, 0), |range| (range.sector, range.sectors));
    }

    /// What became of it.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        self.status = outcome.status.0;
        self.used_len = outcome.used_len;
        self.moved_bytes = outcome.moved_bytes;
        self.flags |= if outcome.host_error { HOST_ERROR } else { 0 };
    }

    /// Whether a rule fired on it.
    pub fn set_fired(&mut self, fired: bool) {
        self.flags |= if fired { FIRED } else { 0 };
    }

    /// Whether it lay past the end of the disk.
    pub fn set_past_end(&mut self, past_end: bool) {
        self.flags |= if past_end { PAST_END } else { 0 };
    }

    /// What a chain that is no request was given.
    pub fn set_refusal(&mut self, status: Option<u8>, used_len: u32) {
        self.status = status.unwrap_or(0);
        self.flags |= if status.is_some() { HAS_STATUS } else { 0 };
        self.used_len = used_len;
    }

    /// Why the session number changed.
    pub fn set_session(&mut self, what: Session) {
        self.status = what as u8;
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; EVENT_BYTES] {
        let mut bytes = [0; EVENT_BYTES];
        bytes[..4].copy_from_slice(&[self.kind as u8, self.op, self.status, self.flags]);
        bytes[4..6].copy_from_slice(&self.queue.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.session.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.inflight.to_le_bytes());
        for (at, word) in [(16, self.n), (24, self.seq), (32, self.sector), (40, self.sectors)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[48..52].copy_from_slice(&self.used_len.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.piece.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.moved_bytes.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.t_ns.to_le_bytes());
        bytes
    }

    /// As bytes, with a text behind them whose length stands in `sectors`.
    pub fn encode_with(mut self, text: &[u8]) -> Vec<u8> {
        self.sectors = text.len() as u64;
        [&self.encode()[..], text].concat()
    }

    fn decode(bytes: &[u8; EVENT_BYTES]) -> Option<Event> {
        let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the record"));
        let half = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside the record"));
        Some(Event {
            kind: kind(bytes[0])?,
            op: bytes[1],
            status: bytes[2],
            flags: bytes[3],
            queue: u16::from_le_bytes([bytes[4], bytes[5]]),
            session: half(8),
            inflight: half(12),
            n: word(16),
            seq: word(24),
            sector: word(32),
            sectors: word(40),
            used_len: half(48),
            piece: half(52),
            moved_bytes: word(56),
            t_ns: word(64),
        })
    }

    fn json(&self, text: &str) -> Value {
        let flag = |bit: u8| self.flags & bit != 0;
        match self.kind {
            Kind::Issue => json!({
                "n": self.n, "ev": "issue", "seq": self.seq, "session": self.session, "queue": self.queue,
                "op": op_name(self.op), "sector": self.sector, "sectors": self.sectors, "inflight": self.inflight,
                "t_ns": self.t_ns,
            }),
            Kind::Complete | Kind::Abandon => {
                let mut line = json!({
                    "n": self.n, "ev": if self.kind == Kind::Complete { "complete" } else { "abandon" },
                    "seq": self.seq, "session": self.session, "queue": self.queue, "op": op_name(self.op),
                    "sector": self.sector, "sectors": self.sectors,
                    "status": if self.kind == Kind::Complete { json!(self.status) } else { Value::Null },
                    "used_len": self.used_len, "moved_bytes": self.moved_bytes, "fired": flag(FIRED),
                    "host_error": flag(HOST_ERROR), "t_ns": self.t_ns,
                });
                if flag(PAST_END) {
                    line["past_end"] = true.into();
                }
                line
            }
            Kind::Refuse => json!({
                "n": self.n, "ev": "refuse", "seq": self.seq, "session": self.session, "queue": self.queue,
                "status": flag(HAS_STATUS).then_some(self.status), "used_len": self.used_len, "t_ns": self.t_ns,
            }),
            Kind::Piece => json!({
                "n": self.n, "ev": "piece", "seq": self.seq, "piece": self.piece, "sector": self.sector,
                "sectors": self.sectors, "status": self.status, "moved_bytes": self.moved_bytes, "t_ns": self.t_ns,
            }),
            Kind::Mark => json!({
                "n": self.n, "ev": "mark", "seq": self.seq, "session": self.session, "name": text, "t_ns": self.t_ns,
            }),
            Kind::Session => json!({
                "n": self.n, "ev": "session", "session": self.session, "why": session_name(self.status),
                "t_ns": self.t_ns,
            }),
            Kind::PowerCut | Kind::Snapshot | Kind::CacheFull | Kind::Resize => {
                let mut line = json!({
                    "n": self.n, "ev": self.kind.word(), "seq": self.seq, "session": self.session, "t_ns": self.t_ns,
                });
                extend(&mut line, text);
                line
            }
            Kind::Trailer => {
                let mut trailer = json!({"ev": "trailer", "complete": true});
                extend(&mut trailer, text);
                trailer
            }
        }
    }
}

/// Adds what stands behind an event to its line.
fn extend(line: &mut Value, text: &str) {
    if let (Some(line), Ok(Value::Object(more))) = (line.as_object_mut(), serde_json::from_str(text)) {
        line.extend(more);
    }
}

fn kind(byte: u8) -> Option<Kind> {
    use Kind::*;
    [Issue, Complete, Abandon, Refuse, Piece, Mark, Session, PowerCut, Snapshot, CacheFull, Resize, Trailer]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
}

impl Kind {
    /// The word for events that carry their own text.
    pub fn word(self) -> &'static str {
        match self {
            Kind::PowerCut => "power_cut",
            Kind::Snapshot => "snapshot",
            Kind::CacheFull => "cache_full",
            Kind::Resize => "resize",
            _ => "",
        }
    }

    fn has_text(self) -> bool {
        matches!(self, Kind::Mark | Kind::PowerCut | Kind::Snapshot | Kind::CacheFull | Kind::Resize | Kind::Trailer)
    }
}

fn op_name(op: u8) -> Value {
    let ops = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes, Op::GetId];
    json!(ops.into_iter().find(|known| *known as u8 == op))
}

fn session_name(why: u8) -> &'static str {
    match why {
        1 => "connect",
        2 => "features",
        3 => "reset",
        _ => "disconnect",
    }
}

/// Whether a record went to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It has its trailer.
    Complete,
    /// It was cut short.
    CutShort,
}

/// Prints a record as JSON lines. A record that was cut short ends in a trailer that says so.
pub fn print(mut from: impl Read, mut to: impl Write) -> io::Result<Completeness> {
    writeln!(to, "{}", read_header(&mut from)?)?;
    let mut events = 0u64;
    loop {
        let Some((event, text)) = read_event(&mut from)? else {
            let trailer = json!({"ev": "trailer", "complete": false, "events": events});
            writeln!(to, "{trailer}")?;
            return Ok(Completeness::CutShort);
        };
        writeln!(to, "{}", event.json(&text))?;
        events += 1;
        if event.kind == Kind::Trailer {
            return Ok(Completeness::Complete);
        }
    }
}

fn read_header(from: &mut impl Read) -> io::Result<String> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a device record: {why}"));
    let mut start = [0; 12];
    from.read_exact(&mut start).map_err(|_| bad("too short"))?;
    if !start.starts_with(MAGIC) {
        return Err(bad("it does not begin with VBLKREC1"));
    }
    let length = u32::from_le_bytes(*start.last_chunk().expect("12 bytes end with 4"));
    let mut header = String::new();
    from.take(u64::from(length)).read_to_string(&mut header)?;
    if header.len() != length as usize {
        return Err(bad("its header is cut short"));
    }
    Ok(header)
}

/// The next event and its text, or nothing where the file was cut.
fn read_event(from: &mut impl Read) -> io::Result<Option<(Event, String)>> {
    let mut bytes = [0; EVENT_BYTES];
    match from.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a damaged event in the device record");
    let event = Event::decode(&bytes).ok_or_else(damaged)?;
    if !event.kind.has_text() {
        return Ok(Some((event, String::new())));
    }
    let mut text = Vec::new();
    from.take(event.sectors).read_to_end(&mut text)?;
    if text.len() as u64 != event.sectors {
        return Ok(None);
    }
    String::from_utf8(text).map(|text| Some((event, text))).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(events: &[Vec<u8>]) -> Vec<u8> {
        [&MAGIC[..], &2u32.to_le_bytes(), b"{}", &events.concat()].concat()
    }

    #[test]
    fn an_event_comes_back_from_its_bytes() {
        let mut event = Event::new(Kind::Complete, 12);
        event.set_request(Some(Op::WriteZeroes), Some(Range { sector: u64::MAX / 2, sectors: 7 }));
        event.set_fired(true);
        (event.queue, event.session, event.inflight, event.n, event.seq) = (3, 4, 5, 6, 8);
        (event.used_len, event.piece, event.moved_bytes) = (9, 10, 11);
        assert_eq!(Event::decode(&event.encode()), Some(event));
    }

    #[test]
    fn a_record_that_was_cut_says_so_wherever_it_was_cut() {
        let mark = Event::new(Kind::Mark, 0).encode_with(b"A");
        let whole = record(&[mark.clone(), Event::new(Kind::Trailer, 0).encode_with(b"{\"events\":1}")]);
        let print_to = |bytes: &[u8]| {
            let mut out = Vec::new();
            (print(bytes, &mut out).expect("printable"), String::from_utf8(out).expect("text"))
        };
        let (ending, text) = print_to(&whole);
        assert_eq!(ending, Completeness::Complete);
        let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last, json!({"ev": "trailer", "complete": true, "events": 1}));
        for cut in record(&[]).len()..whole.len() {
            let (ending, text) = print_to(&whole[..cut]);
            assert_eq!(ending, Completeness::CutShort, "cut at {cut}");
            assert!(text.contains("\"complete\":false"));
        }
    }
}
