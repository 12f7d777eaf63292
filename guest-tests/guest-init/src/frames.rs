//! The stream on the port `trace`: ring-buffer pages as the kernel gave them, cut to their length.
//!
//! A frame is a head of 12 bytes (kind, CPU, length; little-endian u32 each) and a body. A stream without
//! its END frame, or cut inside a frame, is not a trace: reading it is an error, never a short trace.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

const KIND_PAGE: u32 = 0x4547_4150; // "PAGE"
const KIND_END: u32 = 0x2e44_4e45; // "END."

/// No body is longer: a ring-buffer page is one memory page, a sub-buffer of newer kernels at most 64 KiB.
const MAX_BODY_BYTES: u32 = 1 << 17;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A ring-buffer page: header (8-byte time stamp, 8-byte commit word) and committed bytes.
    Page {
        /// Whose buffer it is from.
        cpu: u32,
        /// Header and data; without the unused rest of the page.
        bytes: Vec<u8>,
    },
    /// Nothing follows.
    End(End),
}

/// What the stream should have held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Pages sent, by CPU.
    pub pages: Vec<u64>,
    /// Their bytes, by CPU.
    pub bytes: Vec<u64>,
}

/// Why a stream is not a whole trace.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream could not be read.
    #[error("the trace stream could not be read: {0}")]
    Io(#[from] io::Error),
    /// It ended early.
    #[error("the trace stream ended without its END frame, after {pages} pages: the guest or QEMU went away")]
    NoEnd {
        /// Pages seen.
        pages: u64,
    },
    /// Not a frame.
    #[error("the trace stream holds what is no frame (kind {kind:#x}, {len} bytes) after {pages} pages")]
    Malformed {
        /// The kind read.
        kind: u32,
        /// The length read.
        len: u32,
        /// Pages seen.
        pages: u64,
    },
    /// The END frame counts other pages than came.
    #[error("the trace stream lost pages: the guest sent {sent:?} pages by CPU, {seen:?} came")]
    Lost {
        /// By CPU.
        sent: Vec<u64>,
        /// By CPU.
        seen: Vec<u64>,
    },
}

/// Writes one page.
///
/// # Errors
///
/// As the stream's writer.
pub fn write_page(out: &mut impl Write, cpu: u32, bytes: &[u8]) -> io::Result<()> {
    write_frame(out, KIND_PAGE, cpu, bytes)
}

/// Writes the last frame.
///
/// # Errors
///
/// As the stream's writer.
pub fn write_end(out: &mut impl Write, end: &End) -> io::Result<()> {
    write_frame(out, KIND_END, 0, &serde_json::to_vec(end)?)
}

fn write_frame(out: &mut impl Write, kind: u32, cpu: u32, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(12 + body.len());
    for word in [kind, cpu, len] {
        frame.extend(word.to_le_bytes());
    }
    frame.extend(body);
    out.write_all(&frame)
}

/// Bytes of a raw page, as read from `trace_pipe_raw`, that mean something; `None` if its head lies.
///
/// The commit word's low 20 bits count the data; bit 30 says that the number of missed events (8 bytes) follows it.
#[must_use]
pub fn used_bytes(page: &[u8]) -> Option<usize> {
    const HEAD_BYTES: usize = 16;
    let commit = u64::from_le_bytes(page.get(8..HEAD_BYTES)?.try_into().ok()?);
    let count = if commit & (1 << 30) != 0 { 8 } else { 0 };
    let used = HEAD_BYTES + (commit & 0xf_ffff) as usize + count;
    (used <= page.len()).then_some(used)
}

/// Reads the frames of a stream up to its END.
pub struct Frames<R> {
    stream: R,
    pages: Vec<u64>,
    ended: bool,
}

impl<R: Read> Frames<R> {
    /// Reads from `stream`, which should be buffered.
    pub fn new(stream: R) -> Self {
        Frames { stream, pages: Vec::new(), ended: false }
    }

    fn read(&mut self) -> Result<Frame, FrameError> {
        let mut head = [0; 12];
        self.exact(&mut head)?;
        let word = |i: usize| u32::from_le_bytes(head[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let (kind, cpu, len) = (word(0), word(1), word(2));
        if !matches!(kind, KIND_PAGE | KIND_END) || len > MAX_BODY_BYTES || cpu > 4096 {
            return Err(FrameError::Malformed { kind, len, pages: self.seen() });
        }
        let mut bytes = vec![0; len as usize];
        self.exact(&mut bytes)?;
        match kind {
            KIND_PAGE => Ok(self.page(cpu, bytes)),
            _ => self.end(&bytes),
        }
    }

    fn page(&mut self, cpu: u32, bytes: Vec<u8>) -> Frame {
        let index = cpu as usize;
        if self.pages.len() <= index {
            self.pages.resize(index + 1, 0);
        }
        self.pages[index] += 1;
        Frame::Page { cpu, bytes }
    }

    fn end(&mut self, body: &[u8]) -> Result<Frame, FrameError> {
        let malformed = || FrameError::Malformed { kind: KIND_END, len: body.len() as u32, pages: self.seen() };
        let end: End = serde_json::from_slice(body).map_err(|_| malformed())?;
        let mut seen = self.pages.clone();
        seen.resize(end.pages.len().max(seen.len()), 0);
        if seen != end.pages {
            return Err(FrameError::Lost { sent: end.pages, seen });
        }
        self.ended = true;
        Ok(Frame::End(end))
    }

    fn exact(&mut self, buf: &mut [u8]) -> Result<(), FrameError> {
        self.stream.read_exact(buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::NoEnd { pages: self.seen() },
            _ => FrameError::Io(error),
        })
    }

    fn seen(&self) -> u64 {
        self.pages.iter().sum()
    }
}

impl<R: Read> Iterator for Frames<R> {
    type Item = Result<Frame, FrameError>;

    /// The next frame; `None` only after END, or after an error was returned.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = self.read();
        self.ended |= frame.is_err();
        Some(frame)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        write_page(&mut out, 1, b"one").unwrap();
        write_page(&mut out, 0, b"").unwrap();
        write_end(&mut out, &End { pages: vec![1, 1], bytes: vec![0, 3] }).unwrap();
        out
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let frames: Vec<_> = Frames::new(&stream()[..]).map(Result::unwrap).collect();
        let end = Frame::End(End { pages: vec![1, 1], bytes: vec![0, 3] });
        let page = |cpu, bytes: &[u8]| Frame::Page { cpu, bytes: bytes.to_vec() };
        assert_eq!(frames, [page(1, b"one"), page(0, b""), end]);
    }

    #[test]
    fn a_stream_cut_anywhere_ends_in_an_error() {
        let whole = stream();
        for cut in 0..whole.len() {
            let last = Frames::new(&whole[..cut]).last().unwrap();
            assert!(matches!(last, Err(FrameError::NoEnd { .. })), "cut at {cut}: {last:?}");
        }
    }

    #[test]
    fn a_page_that_never_came_is_named() {
        let mut out = Vec::new();
        write_page(&mut out, 0, b"x").unwrap();
        write_end(&mut out, &End { pages: vec![2], bytes: vec![2] }).unwrap();
        let last = Frames::new(&out[..]).last().unwrap();
        assert!(matches!(last, Err(FrameError::Lost { .. })), "{last:?}");
    }

    #[test]
    fn a_raw_page_is_cut_behind_its_committed_bytes() {
        let mut page = vec![0; 4096];
        page[8..16].copy_from_slice(&100u64.to_le_bytes());
        assert_eq!(used_bytes(&page), Some(116));
        page[8..16].copy_from_slice(&(100u64 | 3 << 30).to_le_bytes());
        assert_eq!(used_bytes(&page), Some(124));
        page[8..16].copy_from_slice(&4081u64.to_le_bytes());
        assert_eq!(used_bytes(&page), None);
    }
}
