//! Where a search starts: how many segments a bio may have, and what each block of each file is.
//!
//! A file is written as a word: `W` written and dirty, `U` unwritten and dirty, `w` and `u` the same but clean, `.` a hole; `|` in
//! front of a block: it does not follow the one before it on the disk. Of two starts that a search could not tell apart there is one.

use super::Bounds;
use crate::dialect::Dialect;
use crate::extents::{Extent, ExtentMap};
use crate::state::Inode;
use writeback_events::Ino;

/// Number of the first inode; the next ones follow.
pub(super) const FIRST_INO: u64 = 12;
/// First block of a file on the disk. Files lie far apart.
const FIRST_PBLK: u64 = 100;
pub(super) const FILE_APART: i64 = 1000;
/// A block that does not follow the one before it is this far behind.
const GAP: u64 = 10;

/// One block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Block {
    /// `W`, `U`, `w`, `u` or `.`
    kind: u8,
    apart: bool,
}

/// A start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layout {
    /// Segments that a bio has room for.
    pub max_pages: u32,
    /// log2 of the bytes of a block.
    pub block_bits: u32,
    files: Vec<Vec<Block>>,
}

/// Why a start cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// A character stands for no block.
    #[error("{0:?} is no block of a file: W, U, w, u, a dot or |")]
    NoBlock(char),
    /// A file of that many blocks has no whole number of pages.
    #[error("a file of {blocks} blocks of {bytes} bytes is not 1 to {most} whole pages")]
    Length {
        /// Blocks of the file.
        blocks: usize,
        /// Bytes of each.
        bytes: u64,
        /// Most pages a file may have.
        most: u64,
    },
    /// A number is outside its range.
    #[error("{0}")]
    Number(&'static str),
}

impl Layout {
    /// Reads files as words.
    pub fn parse(max_pages: u32, block_bits: u32, files: &[&str]) -> Result<Layout, BadLayout> {
        if max_pages == 0 {
            return Err(BadLayout::Number("a bio has room for at least 1 segment"));
        }
        if !(10..=12).contains(&block_bits) {
            return Err(BadLayout::Number("block_bits is 10, 11 or 12"));
        }
        if files.is_empty() || files.len() > usize::from(Bounds::MOST_INODES) {
            return Err(BadLayout::Number("there are 1 to 3 files"));
        }
        let files = files.iter().map(|word| file(word, block_bits)).collect::<Result<_, _>>()?;
        Ok(Layout { max_pages, block_bits, files })
    }

    /// The words.
    pub fn files(&self) -> Vec<String> {
        self.files.iter().map(|blocks| word(blocks)).collect()
    }

    /// All starts within bounds, none of which stands for another.
    pub fn all(bounds: &Bounds, dialect: &Dialect) -> Vec<Layout> {
        let files: Vec<Vec<Block>> = words(bounds, dialect);
        let mut starts = Vec::new();
        // Where nothing is written back, no bio has to have room.
        let of_use = if bounds.writers == 0 { 1 } else { bounds.max_pages.len() };
        for max_pages in bounds.max_pages.iter().take(of_use) {
            combine(&files, usize::from(bounds.inodes), 0, &mut Vec::new(), &mut |files| {
                starts.push(Layout { max_pages: *max_pages, block_bits: bounds.block_bits, files: files.to_vec() });
            });
        }
        starts
    }

    /// What the replica's calls would be told: each inode's number, bytes, extents and dirty blocks.
    pub fn described(&self) -> Vec<(Ino, u64, Vec<Extent>, Vec<u64>)> {
        let one = |(n, blocks): (u64, &Vec<Block>)| {
            let dirty = (0..).zip(blocks).filter(|(_, block)| block.kind.is_ascii_uppercase()).map(|(lblk, _)| lblk);
            (Ino(FIRST_INO + n), (blocks.len() as u64) << self.block_bits, extents(blocks, n), dirty.collect())
        };
        (0..).zip(&self.files).map(one).collect()
    }

    /// No more starts than this lie within bounds.
    pub fn at_most(bounds: &Bounds) -> u64 {
        let blocks = u32::from(bounds.pages) * (4096 >> bounds.block_bits);
        // Four kinds of block, each apart from the one before it or not.
        let files = 8_u64.saturating_pow(blocks);
        files.saturating_pow(u32::from(bounds.inodes)).saturating_mul(bounds.max_pages.len() as u64)
    }

    pub(super) fn inodes(&self) -> impl Iterator<Item = (Ino, Inode)> {
        (0..).zip(&self.files).map(|(n, blocks)| (Ino(FIRST_INO + n), inode(blocks, self.block_bits, n)))
    }
}

fn file(word: &str, block_bits: u32) -> Result<Vec<Block>, BadLayout> {
    let (mut blocks, mut apart) = (Vec::new(), false);
    for c in word.chars() {
        match c {
            '|' => apart = true,
            'W' | 'U' | 'w' | 'u' | '.' => {
                blocks.push(Block { kind: c as u8, apart: std::mem::take(&mut apart) });
            }
            c => return Err(BadLayout::NoBlock(c)),
        }
    }
    let per_page = 4096_usize >> block_bits;
    let most = u64::from(Bounds::MOST_PAGES);
    let whole = blocks.len().is_multiple_of(per_page) && (1..=most as usize).contains(&(blocks.len() / per_page));
    if whole { Ok(blocks) } else { Err(BadLayout::Length { blocks: blocks.len(), bytes: 1 << block_bits, most }) }
}

fn word(blocks: &[Block]) -> String {
    let block = |block: &Block| format!("{}{}", if block.apart { "|" } else { "" }, char::from(block.kind));
    blocks.iter().map(block).collect()
}

/// Files of the wanted length. A file without anything to do is none, and where nothing is written from the page cache, dirty
/// blocks are not worth a start of their own.
fn words(bounds: &Bounds, dialect: &Dialect) -> Vec<Vec<Block>> {
    let kinds: &[u8] = match (bounds.writers, bounds.direct_writes) {
        (0, _) => b"wu",
        (_, 0) => b"WUu.",
        _ => b"WUuw",
    };
    let len = u32::from(bounds.pages) * (4096 >> bounds.block_bits);
    let number = kinds.len().pow(len);
    let mut all = Vec::new();
    for n in 0..number {
        let kind = |place: u32| kinds[n / kinds.len().pow(place) % kinds.len()];
        let kinds: Vec<u8> = (0..len).map(kind).collect();
        let dirty = kinds.iter().any(|kind| kind.is_ascii_uppercase());
        if dirty || bounds.writers == 0 {
            all.extend(placements(&kinds, bounds, dialect));
        }
    }
    all
}

/// The ways in which neighbours can lie on the disk. It matters only between dirty blocks with nothing but holes between.
fn placements(kinds: &[u8], bounds: &Bounds, dialect: &Dialect) -> Vec<Vec<Block>> {
    let places: Vec<usize> = (1..kinds.len()).filter(|n| may_adjoin(kinds, *n, bounds, dialect)).collect();
    let one = |choice: usize| {
        let apart = |n: usize| places.iter().position(|place| *place == n).is_some_and(|bit| choice & (1 << bit) != 0);
        kinds.iter().enumerate().map(|(n, kind)| Block { kind: *kind, apart: apart(n) }).collect()
    };
    (0..1 << places.len()).map(one).collect()
}

fn may_adjoin(kinds: &[u8], n: usize, bounds: &Bounds, dialect: &Dialect) -> bool {
    let before = kinds[..n].iter().rposition(|kind| *kind != b'.');
    let adjacent = before == Some(n - 1);
    // A gap closes the bio, so what lies behind it on the disk is the same.
    let gap_matters = !dialect.hole_ends_bio;
    bounds.writers > 0
        && kinds[n].is_ascii_uppercase()
        && before.is_some_and(|before| kinds[before].is_ascii_uppercase())
        && (adjacent || gap_matters)
}

/// Files in rising order: which inode is which cannot be told.
fn combine(
    files: &[Vec<Block>],
    left: usize,
    from: usize,
    chosen: &mut Vec<Vec<Block>>,
    take: &mut impl FnMut(&[Vec<Block>]),
) {
    if left == 0 {
        return take(chosen);
    }
    for (n, file) in files.iter().enumerate().skip(from) {
        chosen.push(file.clone());
        combine(files, left - 1, n, chosen, take);
        chosen.pop();
    }
}

fn inode(blocks: &[Block], block_bits: u32, number: u64) -> Inode {
    let size = (blocks.len() as u64) << block_bits;
    let extents = ExtentMap::new(&extents(blocks, number));
    let mut inode = Inode { block_bits, size, extents, ..Inode::default() };
    let dirty = |(_, block): &(u64, &Block)| block.kind.is_ascii_uppercase();
    (0..).zip(blocks).filter(dirty).for_each(|(lblk, _)| inode.dirty(lblk));
    inode
}

/// Blocks of one kind that adjoin are one extent.
fn extents(blocks: &[Block], number: u64) -> Vec<Extent> {
    let (mut pblk, mut extents) = (FIRST_PBLK + number * FILE_APART as u64, Vec::<Extent>::new());
    for (lblk, block) in (0..).zip(blocks).filter(|(_, block)| block.kind != b'.') {
        let unwritten = block.kind.eq_ignore_ascii_case(&b'u');
        pblk += if block.apart { GAP } else { 0 };
        match extents.last_mut() {
            Some(last) if !block.apart && last.unwritten == unwritten && last.lblk + u64::from(last.len) == lblk => {
                last.len += 1;
            }
            _ => extents.push(Extent { lblk, len: 1, pblk, unwritten }),
        }
        pblk += 1;
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_back_as_it_was_written() {
        for files in [vec!["U.Wu"], vec!["W|U", "u|W"]] {
            assert_eq!(Layout::parse(1, 11, &files).expect("sound").files(), files);
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert_eq!(Layout::parse(1, 12, &["UxW"]), Err(BadLayout::NoBlock('x')));
        assert_eq!(Layout::parse(1, 11, &["U"]), Err(BadLayout::Length { blocks: 1, bytes: 2048, most: 8 }));
        for (max_pages, bits, files) in [(0, 12, &["U"][..]), (1, 9, &["U"]), (1, 12, &[])] {
            assert!(matches!(Layout::parse(max_pages, bits, files), Err(BadLayout::Number(_))));
        }
    }

    #[test]
    fn blocks_that_adjoin_and_are_alike_are_one_extent() {
        let layout = Layout::parse(1, 12, &["UU|U.WW"]).expect("sound");
        let list: Vec<_> =
            layout.inodes().next().expect("one").1.extents.iter().map(|e| (e.lblk, e.len, e.pblk)).collect();
        assert_eq!(list, [(0, 2, 100), (2, 1, 112), (4, 2, 113)]);
    }

    #[test]
    fn two_files_are_tried_in_one_order_alone() {
        let bounds = Bounds { inodes: 2, pages: 1, writers: 1, max_pages: vec![1], ..Bounds::default() };
        let starts: Vec<_> = Layout::all(&bounds, &Dialect::SEED).iter().map(Layout::files).collect();
        assert_eq!(starts, [["W", "W"], ["W", "U"], ["U", "U"]]);
    }
}
