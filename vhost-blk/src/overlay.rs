//! Lies, kept beside the image.
//!
//! The image always holds what the device claims is on media. Where a script makes that claim false (`lose`, `partial`
//! with status ok, `torn`, `misdirect`, `corrupt`), what the guest is to read instead lies here, sector by sector, and is
//! laid over the answer. A later write to those sectors ends the lie. So the image can be checked against the claims afterwards.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use fault_injection::{RuleIndex, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

const SECTOR: usize = SECTOR_BYTES as usize;

/// Beyond this the device says that it cannot carry out the lie, rather than eat the host's memory.
pub const MAX_SECTORS: usize = (256 << 20) / SECTOR;

/// Sectors whose content is a lie, and the request that told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lie {
    /// First sector.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// `seq` of the request that told it.
    pub seq: u64,
    /// What is wrong with them.
    #[serde(default)]
    pub kind: LieKind,
}

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LieKind {
    /// What was written to it is not there, or not all of it.
    #[default]
    Lost,
    /// It holds what was written to another place.
    Astray,
    /// Its content went wrong.
    Corrupt,
}

/// Who tells a lie, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The request.
    pub seq: u64,
    /// What is wrong.
    pub kind: LieKind,
    /// The rule that damaged it, so that it does so once for each content.
    pub rule: Option<RuleIndex>,
}

impl Told {
    /// What a request wrote is not there.
    pub fn lost(seq: u64) -> Told {
        Told { seq, kind: LieKind::Lost, rule: None }
    }
}

/// One line of the overlay's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
enum Line {
    Lie(Lie),
    Cleared { sector: u64, sectors: u64 },
}

struct Sector {
    told: Told,
    content: Box<[u8; SECTOR]>,
}

/// All lies of one image.
#[derive(Default)]
pub struct Overlay {
    /// Whether there is any: the one thing that a request without faults looks at.
    any: AtomicBool,
    lies: Mutex<Lies>,
}

/// The overlay, locked: nobody reads or writes under a lie while it changes.
#[derive(Default)]
pub struct Lies {
    sectors: BTreeMap<u64, Sector>,
    file: Option<File>,
}

impl Overlay {
    /// An empty overlay that keeps its list in `file`.
    pub fn new(file: Option<File>) -> Overlay {
        Overlay { any: AtomicBool::new(false), lies: Mutex::new(Lies { sectors: BTreeMap::new(), file }) }
    }

    /// No sector is a lie.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::SeqCst)
    }

    /// For as long as the guard lives, lies stay as they are.
    pub fn lock(&self) -> MutexGuard<'_, Lies> {
        self.lies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts whole sectors over the image from `sector` on: what was there before, where it is about to be written; call it
    /// before the image changes.
    pub fn lie(&self, lies: &mut Lies, sector: u64, content: &[u8], told: Told) -> std::io::Result<()> {
        if lies.sectors.len() + content.len() / SECTOR > MAX_SECTORS {
            return Err(std::io::Error::other("more than 256 MiB of lies; the overlay holds no more"));
        }
        let sectors = (content.len() / SECTOR) as u64;
        for (content, number) in content.as_chunks::<SECTOR>().0.iter().zip(sector..) {
            lies.sectors.insert(number, Sector { told, content: Box::new(*content) });
        }
        self.any.store(true, Ordering::SeqCst);
        lies.note(&Line::Lie(Lie { sector, sectors, seq: told.seq, kind: told.kind }))
    }

    /// Bytes from `offset` on were truly written: lies of whole sectors end, the rest of a sector keeps its old bytes.
    pub fn written(&self, lies: &mut Lies, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.end_lies(lies, offset, bytes.len() as u64, |at, content, within| {
            content[within.clone()].copy_from_slice(&bytes[at..at + within.len()]);
        })
    }

    /// As `written`, with zeroes.
    pub fn zeroed(&self, lies: &mut Lies, offset: u64, bytes: u64) -> std::io::Result<()> {
        self.end_lies(lies, offset, bytes, |_, content, within| content[within].fill(0))
    }

    /// Ends the lies that these requests told.
    pub fn forget(&self, lies: &mut Lies, told_by: impl Fn(u64) -> bool) -> std::io::Result<()> {
        let ended: Vec<u64> =
            lies.sectors.iter().filter(|(_, s)| told_by(s.told.seq)).map(|(number, _)| *number).collect();
        for sector in ended {
            lies.sectors.remove(&sector);
            lies.note(&Line::Cleared { sector, sectors: 1 })?;
        }
        self.any.store(!lies.sectors.is_empty(), Ordering::SeqCst);
        Ok(())
    }

    fn end_lies(
        &self,
        lies: &mut Lies,
        offset: u64,
        bytes: u64,
        patch: impl Fn(usize, &mut [u8; SECTOR], std::ops::Range<usize>),
    ) -> std::io::Result<()> {
        let end = offset + bytes;
        let touched: Vec<u64> = lies.within(offset, bytes).collect();
        for number in touched {
            let start = number * SECTOR_BYTES;
            if start >= offset && start + SECTOR_BYTES <= end {
                lies.sectors.remove(&number);
                lies.note(&Line::Cleared { sector: number, sectors: 1 })?;
            } else if let Some(sector) = lies.sectors.get_mut(&number) {
                let (from, to) = (offset.max(start), end.min(start + SECTOR_BYTES));
                patch((from - offset) as usize, &mut sector.content, (from - start) as usize..(to - start) as usize);
            }
        }
        self.any.store(!lies.sectors.is_empty(), Ordering::SeqCst);
        Ok(())
    }
}

impl Lies {
    /// Lays the lies over what was read from the image.
    pub fn lay_over(&self, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        for number in self.within(offset, buf.len() as u64) {
            let start = number * SECTOR_BYTES;
            let (from, to) = (offset.max(start), end.min(start + SECTOR_BYTES));
            let content = &self.sectors[&number].content[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(content);
        }
    }

    /// Every lie with its content: first byte on the disk, `seq`, bytes.
    pub fn contents(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        self.sectors.iter().map(|(number, sector)| (number * SECTOR_BYTES, sector.told.seq, &sector.content[..]))
    }

    /// Whether this rule has damaged what the sector holds already.
    pub fn is_damaged_by(&self, sector: u64, rule: RuleIndex) -> bool {
        self.sectors.get(&sector).is_some_and(|sector| sector.told.rule == Some(rule))
    }

    /// Every lie, as ranges in rising order.
    pub fn list(&self) -> Vec<Lie> {
        ranges(self.sectors.iter().map(|(number, sector)| (*number, (sector.told.seq, sector.told.kind))))
    }

    fn within(&self, offset: u64, bytes: u64) -> impl Iterator<Item = u64> {
        let sectors = offset / SECTOR_BYTES..(offset + bytes).div_ceil(SECTOR_BYTES);
        self.sectors.range(sectors).map(|(number, _)| *number)
    }

    fn note(&mut self, line: &Line) -> std::io::Result<()> {
        match &mut self.file {
            Some(file) => writeln!(file, "{}", serde_json::to_string(line)?),
            None => Ok(()),
        }
    }
}

/// The lies that still stand by a file of `--overlay-file`.
pub fn list_file(path: &Path) -> std::io::Result<Vec<Lie>> {
    let mut standing = BTreeMap::new();
    for line in std::io::BufReader::new(File::open(path)?).lines() {
        match serde_json::from_str(&line?)? {
            Line::Lie(lie) => {
                standing.extend((lie.sector..lie.sector + lie.sectors).map(|number| (number, (lie.seq, lie.kind))));
            }
            Line::Cleared { sector, sectors } => standing.retain(|n, _| !(sector..sector + sectors).contains(n)),
        }
    }
    Ok(ranges(standing.into_iter()))
}

fn ranges(sectors: impl Iterator<Item = (u64, (u64, LieKind))>) -> Vec<Lie> {
    let mut lies: Vec<Lie> = Vec::new();
    for (sector, (seq, kind)) in sectors {
        match lies.last_mut() {
            Some(last) if (last.seq, last.kind) == (seq, kind) && last.sector + last.sectors == sector => {
                last.sectors += 1;
            }
            _ => lies.push(Lie { sector, sectors: 1, seq, kind }),
        }
    }
    lies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(overlay: &Overlay, truth: &[u8]) -> Vec<u8> {
        let mut buf = truth.to_vec();
        overlay.lock().lay_over(0, &mut buf);
        buf
    }

    #[test]
    fn a_lie_covers_its_sectors_until_they_are_written_again() {
        let overlay = Overlay::default();
        let truth = vec![9; 4 * SECTOR];
        overlay.lie(&mut overlay.lock(), 1, &[1; 2 * SECTOR], Told::lost(5)).expect("room");
        assert_eq!(seen(&overlay, &truth), [vec![9; SECTOR], vec![1; 2 * SECTOR], vec![9; SECTOR]].concat());
        assert_eq!(overlay.lock().list(), [Lie { sector: 1, sectors: 2, seq: 5, kind: LieKind::Lost }]);

        overlay.written(&mut overlay.lock(), SECTOR_BYTES, &[9; SECTOR]).expect("written");
        assert_eq!(overlay.lock().list(), [Lie { sector: 2, sectors: 1, seq: 5, kind: LieKind::Lost }]);
        overlay.zeroed(&mut overlay.lock(), 0, 4 * SECTOR_BYTES).expect("zeroed");
        assert!(overlay.is_empty());
    }

    #[test]
    fn a_write_that_ends_inside_a_sector_leaves_the_rest_of_it_a_lie() {
        let overlay = Overlay::default();
        overlay.lie(&mut overlay.lock(), 0, &[1; SECTOR], Told::lost(0)).expect("room");
        overlay.written(&mut overlay.lock(), 0, &[2; 100]).expect("written");
        assert_eq!(seen(&overlay, &[9; SECTOR]), [vec![2; 100], vec![1; SECTOR - 100]].concat());
    }

    #[test]
    fn the_list_file_tells_which_lies_still_stand() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let overlay = Overlay::new(Some(file.reopen().expect("a handle")));
        overlay.lie(&mut overlay.lock(), 8, &[1; 4 * SECTOR], Told::lost(3)).expect("room");
        overlay.written(&mut overlay.lock(), 9 * SECTOR_BYTES, &[0; SECTOR]).expect("written");
        let standing = [
            Lie { sector: 8, sectors: 1, seq: 3, kind: LieKind::Lost },
            Lie { sector: 10, sectors: 2, seq: 3, kind: LieKind::Lost },
        ];
        assert_eq!(list_file(file.path()).expect("readable"), standing);
        assert_eq!(overlay.lock().list(), standing);
    }
}
