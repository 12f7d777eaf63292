//! `guest.raw`: everything a guest's kernel said in one run, so that it can be decoded again without guest or kernel.
//!
//! A mark of eight bytes, then records: one byte of kind, four of length, two of CPU (0 where none applies), the payload.
//! First the header (JSON), then ring-buffer pages as they arrived, then the trailer (JSON), then an empty END record. The
//! END is what tells a whole file from one whose writer died: without it nothing may be judged from the file.
//!
//! All numbers are little-endian. A reader refuses kinds it does not know: a file is read whole or not at all. The only
//! exception is its end, where a file that was cut off gives what it has and says so ([`Contents::ended`]).

use crate::error::ContainerError;
use crate::plan::ProbePlan;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Format version that is written and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"VBGUEST\n";
const RECORD_HEAD: usize = 7;
const HEADER: u8 = b'H';
const PAGE: u8 = b'P';
const TRAILER: u8 = b'T';
const END: u8 = b'E';

/// What is known before the first page: enough to read the pages without asking the kernel again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// `uname -r` of the guest.
    pub kernel_release: String,
    /// SHA-256 of the kernel image that was booted, in hexadecimal.
    pub image_sha256: String,
    /// Virtual CPUs of the guest.
    pub vcpus: u16,
    /// Trace clock; `counter` is the only one from which an order is taken.
    pub clock: String,
    /// Text of `events/header_page`.
    pub header_page: String,
    /// Text of `events/header_event`.
    pub header_event: String,
    /// Text of `events/SYSTEM/NAME/format` of every event of [`ProbePlan::formats_needed`].
    pub formats: Vec<EventFormat>,
    /// The probes that were set, with the symbols and constants they rest on.
    pub plan: ProbePlan,
}

/// An event's format file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFormat {
    /// `system/name`.
    pub event: String,
    /// The file's text.
    pub text: String,
}

/// What is known after the last page. The texts are the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// Text of `kprobe_profile`, read after tracing was switched off.
    pub kprobe_profile: String,
    /// Text of `per_cpu/cpuN/stats`, one per CPU, CPU 0 first.
    pub cpu_stats: Vec<String>,
}

/// A ring-buffer page as it came from `trace_pipe_raw`; it may be trimmed after its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// CPU it was read from.
    pub cpu: u16,
    /// Page header and events.
    pub bytes: Vec<u8>,
}

/// Writes a `guest.raw` record by record.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    has_header: bool,
    ended: bool,
}

impl<W: Write> Writer<W> {
    /// Writes the mark. Nothing else may have been written to `out`.
    pub fn new(mut out: W) -> Result<Self, ContainerError> {
        out.write_all(MAGIC)?;
        Ok(Writer { out, has_header: false, ended: false })
    }

    /// Writes the header: once, before any page.
    pub fn header(&mut self, header: &Header) -> Result<(), ContainerError> {
        if self.has_header {
            return Err(ContainerError::Order("a second header"));
        }
        self.record(HEADER, 0, &json("header", header)?)?;
        self.has_header = true;
        Ok(())
    }

    /// Writes a page as it arrived from `cpu`.
    pub fn page(&mut self, cpu: u16, bytes: &[u8]) -> Result<(), ContainerError> {
        if !self.has_header || self.ended {
            return Err(ContainerError::Order("a page outside header and trailer"));
        }
        self.record(PAGE, cpu, bytes)
    }

    /// Writes trailer and END, flushes, and gives the output back. To be called only when the guest said that it is done.
    pub fn finish(mut self, trailer: &Trailer) -> Result<W, ContainerError> {
        if !self.has_header {
            return Err(ContainerError::Order("a trailer without a header"));
        }
        self.ended = true;
        self.record(TRAILER, 0, &json("trailer", trailer)?)?;
        self.record(END, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Flushes and gives the output back without an END: the file of a guest that died.
    pub fn abandon(mut self) -> Result<W, ContainerError> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn record(&mut self, kind: u8, cpu: u16, payload: &[u8]) -> Result<(), ContainerError> {
        let len = u32::try_from(payload.len()).map_err(|_| ContainerError::Order("a record of more than 4 GiB"))?;
        let mut head = [0; RECORD_HEAD];
        head[0] = kind;
        head[1..5].copy_from_slice(&len.to_le_bytes());
        head[5..].copy_from_slice(&cpu.to_le_bytes());
        self.out.write_all(&head)?;
        Ok(self.out.write_all(payload)?)
    }
}

/// What a `guest.raw` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its header.
    pub header: Header,
    /// Its pages, in order of arrival.
    pub pages: Vec<Page>,
    /// Its trailer, unless the file ends before it.
    pub trailer: Option<Trailer>,
    /// The END was there and nothing came after it.
    pub ended: bool,
}

/// Reads a `guest.raw`. One that was cut off behind its header is no error: [`Contents::ended`] is then false.
pub fn read(raw: &[u8]) -> Result<Contents, ContainerError> {
    let mut at = MAGIC.len();
    if raw.get(..at) != Some(MAGIC) {
        return Err(ContainerError::NoMagic);
    }
    let header = match next_record(raw, at)? {
        Some(record) if record.kind == HEADER => {
            at = record.end;
            read_header(&record)?
        }
        _ => return Err(ContainerError::Record { at: at as u64, why: "the header is missing or cut off".into() }),
    };
    let mut contents = Contents { header, pages: Vec::new(), trailer: None, ended: false };
    while let Some(record) = next_record(raw, at)? {
        at = record.end;
        add(&mut contents, &record)?;
    }
    Ok(contents)
}

struct Record<'a> {
    at: usize,
    kind: u8,
    cpu: u16,
    payload: &'a [u8],
    end: usize,
}

/// The record at `at`; `None` where the file ends, be it within the record.
fn next_record(raw: &[u8], at: usize) -> Result<Option<Record<'_>>, ContainerError> {
    let Some(&[kind, a, b, c, d, low, high]) = raw.get(at..at.saturating_add(RECORD_HEAD)) else { return Ok(None) };
    if ![HEADER, PAGE, TRAILER, END].contains(&kind) {
        return Err(ContainerError::Record { at: at as u64, why: format!("unknown kind {kind:#04x}") });
    }
    let start = at + RECORD_HEAD;
    let end = start.saturating_add(u32::from_le_bytes([a, b, c, d]) as usize);
    let cpu = u16::from_le_bytes([low, high]);
    Ok(raw.get(start..end).map(|payload| Record { at, kind, cpu, payload, end }))
}

fn add(contents: &mut Contents, record: &Record) -> Result<(), ContainerError> {
    let wrong = |why: &str| Err(ContainerError::Record { at: record.at as u64, why: why.into() });
    if contents.ended {
        return wrong("something follows the END");
    }
    match record.kind {
        HEADER => wrong("a second header"),
        PAGE if contents.trailer.is_some() => wrong("a page after the trailer"),
        PAGE => {
            contents.pages.push(Page { cpu: record.cpu, bytes: record.payload.to_vec() });
            Ok(())
        }
        TRAILER if contents.trailer.is_some() => wrong("a second trailer"),
        TRAILER => {
            contents.trailer = Some(parse_json("trailer", record)?);
            Ok(())
        }
        _ if contents.trailer.is_none() => wrong("an END without a trailer"),
        _ => {
            contents.ended = true;
            Ok(())
        }
    }
}

/// The version is looked at before the rest, so that another version's header gets its own sentence.
fn read_header(record: &Record) -> Result<Header, ContainerError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let found: VersionOnly = parse_json("header", record)?;
    if found.version != VERSION {
        return Err(ContainerError::Version { found: found.version });
    }
    parse_json("header", record)
}

fn json<T: Serialize>(part: &'static str, value: &T) -> Result<Vec<u8>, ContainerError> {
    serde_json::to_vec(value).map_err(|error| ContainerError::Json { part, at: 0, why: error.to_string() })
}

fn parse_json<T: serde::de::DeserializeOwned>(part: &'static str, record: &Record) -> Result<T, ContainerError> {
    serde_json::from_slice(record.payload).map_err(|error| ContainerError::Json {
        part,
        at: record.at as u64,
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDING: &[u8] = include_bytes!("../testdata/failed-write.raw");

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind][..], &(payload.len() as u32).to_le_bytes(), &[0, 0], payload].concat()
    }

    fn written(contents: &Contents) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).expect("a vector takes all");
        writer.header(&contents.header).expect("first");
        contents.pages.iter().for_each(|page| writer.page(page.cpu, &page.bytes).expect("behind the header"));
        writer.finish(contents.trailer.as_ref().expect("it has one")).expect("last")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let contents = read(RECORDING).expect("whole");
        assert!(contents.ended);
        assert_eq!(read(&written(&contents)).expect("whole"), contents);
    }

    #[test]
    fn a_file_of_another_kind_or_version_is_refused_with_its_own_sentence() {
        assert!(matches!(read(b"VBGUESS\n"), Err(ContainerError::NoMagic)));
        let other = [&MAGIC[..], &record(HEADER, br#"{"version":2,"new":[]}"#)].concat();
        assert!(matches!(read(&other), Err(ContainerError::Version { found: 2 })));
        assert!(matches!(read(MAGIC), Err(ContainerError::Record { .. })), "no header");
    }

    #[test]
    fn a_record_that_no_writer_makes_is_refused() {
        let said = |more: &[u8]| read(&[RECORDING, more].concat()).expect_err("behind the END").to_string();
        assert!(said(&record(b'?', b"")).ends_with("unknown kind 0x3f"));
        for kind in [HEADER, PAGE, TRAILER, END] {
            assert!(said(&record(kind, b"")).ends_with("something follows the END"));
        }
    }

    #[test]
    fn a_writer_keeps_the_order() {
        let contents = read(RECORDING).expect("whole");
        let mut writer = Writer::new(Vec::new()).expect("a vector takes all");
        assert!(matches!(writer.page(0, b""), Err(ContainerError::Order(_))));
        writer.header(&contents.header).expect("first");
        assert!(matches!(writer.header(&contents.header), Err(ContainerError::Order(_))));
        let cut = writer.abandon().expect("a vector takes all");
        assert!(!read(&cut).expect("readable").ended);
        assert!(matches!(
            Writer::new(Vec::new()).expect("").finish(&Trailer::default()),
            Err(ContainerError::Order(_))
        ));
    }
}
