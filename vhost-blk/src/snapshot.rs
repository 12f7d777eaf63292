//! The states a disk may be in after a power cut, and the files that keep them.
//!
//! A state is the image at the cut with some of the unflushed writes over it. Its file holds only where it differs from
//! that image: a JSON header that says which cut and which writes, then stretches of the disk with their content. Two
//! sets of writes that leave the same bytes are one state. `apply` makes a whole image of one again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fault_injection::SECTOR_BYTES;
use nix::unistd::Whence;
use serde::{Deserialize, Serialize};

use crate::cache::Entry;
use crate::disk::{Disk, DiskOptions};
use crate::undo::{Stretch, StretchKind, UNDO_MAGIC, stretch};

/// How a state's file begins.
pub const STATE_MAGIC: &[u8; 8] = b"VBLKSNP1";

/// The list of a folder's power cuts, one JSON object per line.
pub const CUTS_FILE: &str = "cuts.jsonl";

/// The log that leads from the image of today back to that of a cut (`undo.rs`).
pub const UNDO_FILE: &str = "undo.log";

/// Stretches are compared and written in steps of this many bytes at most.
const STEP: u64 = 1 << 20;

/// A header longer than this is none.
const MAX_HEADER_BYTES: u32 = 1 << 24;

/// What a state's file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHeader {
    /// Version of this format: 1.
    pub snapshot: u32,
    /// Which cut of the run, from 1.
    pub cut: u64,
    /// Which state of the cut, from 0.
    pub state: usize,
    /// The image.
    pub image: PathBuf,
    /// Its size.
    pub capacity_sectors: u64,
    /// `seq` of the first request that came after the cut.
    pub seq: u64,
    /// The log that leads back to the cut, beside this file.
    pub undo: PathBuf,
    /// How long it was at the cut.
    pub undo_bytes: u64,
    /// `seq`s of the unflushed writes that survive, in the order of their completion.
    pub survives: Vec<u64>,
    /// `seq`s of those that do not.
    pub lost: Vec<u64>,
}

/// Something that may lie over the image: always, or when a write survives.
pub struct Layer {
    /// The write that must survive; `None`: always.
    pub needs: Option<u64>,
    /// Where and what.
    pub entry: Entry,
}

/// A stretch in which no layer begins or ends.
struct Tile {
    offset: u64,
    bytes: u64,
    /// From bottom to top: what must survive, and which content shows then.
    layers: Vec<(Option<u64>, u32)>,
    /// Content number → the layer to take it from. Content 0 is the image's and is not in here.
    contents: Vec<usize>,
}

/// All layers over the image of one cut.
pub struct Mosaic {
    layers: Vec<Layer>,
    tiles: Vec<Tile>,
}

/// A state by its contents, tile by tile. Equal states are equal here, and only they.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State(Vec<u32>);

impl Mosaic {
    /// Layers from bottom to top; `read` reads the image.
    pub fn new<E>(layers: Vec<Layer>, mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>) -> Result<Mosaic, E> {
        let mut tiles = Vec::new();
        for (offset, bytes, over) in tile_bounds(&layers) {
            let mut known = vec![vec![0; bytes as usize]];
            read(&mut known[0], offset)?;
            let mut tile = Tile { offset, bytes, layers: Vec::new(), contents: Vec::new() };
            for index in over {
                let mut content = vec![0; bytes as usize];
                layers[index].entry.copy_to(offset, &mut content);
                let number = known.iter().position(|other| *other == content).unwrap_or_else(|| {
                    known.push(content);
                    tile.contents.push(index);
                    known.len() - 1
                });
                tile.layers.push((layers[index].needs, number as u32));
            }
            tiles.push(tile);
        }
        Ok(Mosaic { layers, tiles })
    }

    /// What shows when these writes survive.
    pub fn state(&self, survives: &BTreeSet<u64>) -> State {
        let shows = |needs: &Option<u64>| needs.is_none_or(|seq| survives.contains(&seq));
        let top =
            |tile: &Tile| tile.layers.iter().rev().find(|(needs, _)| shows(needs)).map_or(0, |(_, number)| *number);
        State(self.tiles.iter().map(top).collect())
    }

    /// Where a state differs from the image, with what it has there.
    fn differences<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let changed = self.tiles.iter().zip(&state.0).filter(|(_, number)| **number > 0);
        changed.map(|(tile, number)| {
            let mut content = vec![0; tile.bytes as usize];
            let layer = tile.contents[*number as usize - 1];
            self.layers[layer].entry.copy_to(tile.offset, &mut content);
            (tile.offset, content)
        })
    }

    /// Writes a state's file. Gives the bytes in which it differs from the image.
    pub fn write(&self, state: &State, header: &StateHeader, path: &Path) -> io::Result<u64> {
        let mut out = BufWriter::new(File::create_new(path)?);
        let text = serde_json::to_vec(header)?;
        out.write_all(STATE_MAGIC)?;
        out.write_all(&(text.len() as u32).to_le_bytes())?;
        out.write_all(&text)?;
        let (mut stretches, mut differ) = (0, 0);
        for (offset, content) in self.differences(state) {
            out.write_all(&stretch(offset, &content))?;
            stretches += 1;
            differ += content.len() as u64;
        }
        out.write_all(&Stretch { kind: StretchKind::End, offset: stretches, bytes: 0 }.encode())?;
        out.flush()?;
        Ok(differ)
    }
}

/// Where layers begin and end, cut further into steps: offset, length, and the layers over it from bottom to top.
fn tile_bounds(layers: &[Layer]) -> Vec<(u64, u64, Vec<usize>)> {
    let mut bounds: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.entry.bytes() > 0) {
        bounds.entry(layer.entry.offset).or_default().0.push(index);
        bounds.entry(layer.entry.end()).or_default().1.push(index);
    }
    let ends: Vec<u64> = bounds.keys().skip(1).copied().collect();
    let mut over = BTreeSet::new();
    let mut tiles = Vec::new();
    for ((start, (begin, end)), stop) in bounds.iter().zip(ends) {
        over.extend(begin);
        over.retain(|index| !end.contains(index));
        let mut at = *start;
        while at < stop && !over.is_empty() {
            let bytes = (stop - at).min(STEP);
            tiles.push((at, bytes, over.iter().copied().collect()));
            at += bytes;
        }
    }
    tiles
}

/// Why a snapshot cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Not what it should be.
    #[error("{path}: {why}")]
    Not {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image does not suit, or is still served.
    #[error(transparent)]
    Image(#[from] crate::error::ImageError),
}

fn at(path: &Path) -> impl Fn(io::Error) -> ApplyError + '_ {
    move |source| ApplyError::Io { path: path.to_path_buf(), source }
}

/// Reads what a state's file says of itself.
pub fn read_header(path: &Path) -> Result<StateHeader, ApplyError> {
    open_state(path).map(|(header, _)| header)
}

fn open_state(path: &Path) -> Result<(StateHeader, BufReader<File>), ApplyError> {
    let not = |why: &str| ApplyError::Not { path: path.to_path_buf(), why: why.to_string() };
    let mut from = BufReader::new(File::open(path).map_err(at(path))?);
    let mut start = [0; 12];
    from.read_exact(&mut start).map_err(|_| not("too short for a snapshot of vhost-blk"))?;
    let length = u32::from_le_bytes(*start.last_chunk().expect("12 bytes end with 4"));
    if !start.starts_with(STATE_MAGIC) || length > MAX_HEADER_BYTES {
        return Err(not("not a snapshot of vhost-blk"));
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text).map_err(|_| not("its header is cut short"))?;
    let header = serde_json::from_slice(&text).map_err(|error| not(&format!("its header: {error}")))?;
    Ok((header, from))
}

/// Makes a whole image of a state: the image, led back to the cut, with the state over it. The run must have ended.
pub fn apply(state: &Path, image: &Path, out: &Path) -> Result<StateHeader, ApplyError> {
    let (header, mut stretches) = open_state(state)?;
    let disk = Disk::open(image, DiskOptions { read_only: true, raw: true, ..Default::default() })?;
    // One that was grown after the cut is longer, and is led back to the length it had.
    if disk.capacity_sectors() < header.capacity_sectors {
        let (now, then) = (disk.capacity_sectors(), header.capacity_sectors);
        let why = format!("{now} sectors long; the snapshot is of an image of {then} sectors");
        return Err(ApplyError::Not { path: image.to_path_buf(), why });
    }
    let source = File::open(image).map_err(at(image))?;
    let target = open_target(out, &source).map_err(at(out))?;
    copy_sparse(&source, &target, header.capacity_sectors * SECTOR_BYTES).map_err(at(out))?;
    let undo = state.parent().unwrap_or(Path::new("")).join(&header.undo);
    lead_back(&undo, header.undo_bytes, &target)?;
    lay_over(state, &mut stretches, &target)?;
    target.set_len(header.capacity_sectors * SECTOR_BYTES).map_err(at(out))?;
    Ok(header)
}

fn open_target(out: &Path, source: &File) -> io::Result<File> {
    let target = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(out)?;
    let (one, other) = (target.metadata()?, source.metadata()?);
    if (one.dev(), one.ino()) == (other.dev(), other.ino()) {
        return Err(io::Error::other("that is the image itself; give another --out"));
    }
    target.set_len(0)?;
    Ok(target)
}

/// Copies what is not a hole; shares blocks where the file system can.
fn copy_sparse(source: &File, target: &File, bytes: u64) -> io::Result<()> {
    target.set_len(bytes)?;
    let mut at = 0i64;
    while (at as u64) < bytes {
        let data = match nix::unistd::lseek(source, at, Whence::SeekData) {
            Ok(data) if data.cast_unsigned() >= bytes => return Ok(()),
            Ok(data) => data,
            Err(nix::errno::Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        at = nix::unistd::lseek(source, data, Whence::SeekHole)?.min(bytes.cast_signed());
        copy_range(source, target, data, at)?;
    }
    Ok(())
}

/// `io::copy` asks the kernel to do it, which shares blocks where the file system can.
fn copy_range(mut source: &File, mut target: &File, from: i64, to: i64) -> io::Result<()> {
    let (from, to) = (from.cast_unsigned(), to.cast_unsigned());
    source.seek(SeekFrom::Start(from))?;
    target.seek(SeekFrom::Start(from))?;
    let copied = io::copy(&mut source.take(to - from), &mut target)?;
    if copied == to - from { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Lays back what was saved since the cut, the last first.
fn lead_back(undo: &Path, undo_bytes: u64, target: &File) -> Result<(), ApplyError> {
    let mut log = BufReader::new(File::open(undo).map_err(at(undo))?);
    let mut magic = [0; 8];
    log.read_exact(&mut magic).map_err(at(undo))?;
    if &magic != UNDO_MAGIC {
        return Err(ApplyError::Not { path: undo.to_path_buf(), why: "not an undo log of vhost-blk".into() });
    }
    let length = log.get_ref().metadata().map_err(at(undo))?.len();
    if length < undo_bytes {
        let why = format!("{length} bytes long; it had {undo_bytes} at the cut");
        return Err(ApplyError::Not { path: undo.to_path_buf(), why });
    }
    log.seek(SeekFrom::Start(undo_bytes)).map_err(at(undo))?;
    let mut stretches = Vec::new();
    while let Some(stretch) = Stretch::read(&mut log).map_err(at(undo))? {
        let data = log.stream_position().map_err(at(undo))?;
        let behind = if stretch.kind == StretchKind::Data { stretch.bytes } else { 0 };
        if data.saturating_add(behind) > length {
            break;
        }
        stretches.push((stretch, data));
        log.seek(SeekFrom::Start(data + behind)).map_err(at(undo))?;
    }
    for (stretch, data) in stretches.into_iter().rev() {
        log.seek(SeekFrom::Start(data)).map_err(at(undo))?;
        put(&stretch, &mut log, target).map_err(at(undo))?;
    }
    Ok(())
}

fn lay_over(state: &Path, stretches: &mut impl Read, target: &File) -> Result<(), ApplyError> {
    let not = |why: &str| ApplyError::Not { path: state.to_path_buf(), why: why.to_string() };
    let mut seen = 0;
    loop {
        match Stretch::read(stretches).map_err(at(state))? {
            Some(Stretch { kind: StretchKind::End, offset, .. }) if offset == seen => return Ok(()),
            Some(Stretch { kind: StretchKind::End, .. }) => return Err(not("stretches are missing in it")),
            Some(stretch) => put(&stretch, stretches, target).map_err(at(state))?,
            None => return Err(not("it is cut short")),
        }
        seen += 1;
    }
}

fn put(stretch: &Stretch, from: &mut impl Read, target: &File) -> io::Result<()> {
    let (mut at, end) = (stretch.offset, stretch.offset.saturating_add(stretch.bytes));
    if end > target.metadata()?.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a stretch beyond the end of the disk"));
    }
    let mut buf = vec![0; STEP.min(stretch.bytes) as usize];
    while at < end {
        let part = &mut buf[..(end - at).min(STEP) as usize];
        if stretch.kind == StretchKind::Data {
            from.read_exact(part)?;
        }
        target.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::Content;

    fn layer(needs: Option<u64>, offset: u64, bytes: u64, fill: u8) -> Layer {
        let content = Content::Data(vec![fill; bytes as usize].into());
        Layer { needs, entry: Entry { seq: needs.unwrap_or(0), offset, content } }
    }

    fn read_zeroes(buf: &mut [u8], _offset: u64) -> Result<(), io::Error> {
        buf.fill(0);
        Ok(())
    }

    #[test]
    fn sets_of_writes_that_leave_the_same_bytes_are_one_state() {
        // 2 covers 1 whole; 3 writes what the image has already.
        let layers = vec![layer(Some(1), 0, 8, 1), layer(Some(2), 0, 8, 2), layer(Some(3), 16, 8, 0)];
        let mosaic = Mosaic::new(layers, read_zeroes).expect("read");
        let state = |seqs: &[u64]| mosaic.state(&seqs.iter().copied().collect());
        assert_eq!(state(&[2]), state(&[1, 2, 3]));
        assert_eq!(state(&[]), state(&[3]));
        assert_ne!(state(&[1]), state(&[2]));
        assert_eq!(mosaic.differences(&state(&[1, 3])).collect::<Vec<_>>(), [(0, vec![1; 8])]);
    }

    proptest! {
        /// Against writing the survivors to an array, one after the other.
        #[test]
        fn a_state_is_the_image_with_the_surviving_writes_in_order(
            writes in prop::collection::vec((0u64..40, 1u64..16, 0u8..3), 0..10), survivors in 0u32..1024
        ) {
            let layers = (0..).zip(&writes).map(|(seq, (at, bytes, fill))| layer(Some(seq), *at, *bytes, *fill));
            let mosaic = Mosaic::new(layers.collect(), read_zeroes).expect("read");
            let survives: BTreeSet<u64> = (0..writes.len() as u64).filter(|seq| survivors >> seq & 1 == 1).collect();
            let mut expected = [0; 64];
            for seq in &survives {
                let (at, bytes, fill) = writes[*seq as usize];
                expected[at as usize..(at + bytes) as usize].fill(fill);
            }
            let mut found = [0; 64];
            for (at, content) in mosaic.differences(&mosaic.state(&survives)) {
                found[at as usize..at as usize + content.len()].copy_from_slice(&content);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
