//! Whose a block is: runs of blocks, found by place.
//!
//! What the superblock and the descriptors fix is kept apart from what inodes claim, and goes before it: a damaged inode
//! cannot take a bitmap over.

use std::collections::BTreeMap;

use fault_injection::Class;

/// What a block is to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Fixed by the layout.
    Fixed(Class),
    /// Of an extent tree, or numbers of blocks.
    Node,
    /// Names.
    Dir,
    /// Content.
    Data,
    /// Attributes.
    Xattr,
    /// The log.
    Journal,
    /// Content of a hidden inode.
    Other,
    /// Nobody's, as far as is known.
    Unowned,
}

/// Some blocks of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What they are.
    pub role: Role,
    /// Whose.
    pub inode: Option<u32>,
    /// Place of the first one in the file, where it has one.
    pub file_block: Option<u64>,
}

impl Run {
    const UNOWNED: Run = Run { role: Role::Unowned, inode: None, file_block: None };

    fn after(self, blocks: u64) -> Run {
        Run { file_block: self.file_block.map(|first| first + blocks), ..self }
    }
}

/// Runs by their first block; they never overlap.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, (u64, Run)>);

impl Runs {
    /// The run at a block, and how far it reaches; without one, how far it is to the next.
    fn at(&self, block: u64) -> (Option<Run>, u64) {
        if let Some((start, (blocks, run))) = self.0.range(..=block).next_back()
            && block - start < *blocks
        {
            return (Some(run.after(block - start)), blocks - (block - start));
        }
        let next = self.0.range(block..).next().map_or(u64::MAX, |(start, _)| *start);
        (None, next - block)
    }

    fn remove(&mut self, start: u64, blocks: u64, of: impl Fn(&Run) -> bool) {
        let end = start.saturating_add(blocks);
        let first = self.0.range(..start).next_back().map_or(start, |(first, _)| *first);
        let meeting: Vec<u64> = self.0.range(first..end).map(|(first, _)| *first).collect();
        for first in meeting {
            let Some(&(length, run)) = self.0.get(&first) else { continue };
            let after = first + length;
            if after <= start || !of(&run) {
                continue;
            }
            self.0.remove(&first);
            if first < start {
                self.0.insert(first, (start - first, run));
            }
            if after > end {
                self.0.insert(end, (after - end, run.after(end - first)));
            }
        }
    }

    fn insert(&mut self, start: u64, blocks: u64, run: Run) {
        if blocks > 0 {
            self.remove(start, blocks, |_| true);
            self.0.insert(start, (blocks, run));
        }
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Owners {
    fixed: Runs,
    claimed: Runs,
}

impl Owners {
    /// What a block is, and how many blocks from there on are the next of the same: `most` at most.
    pub fn at(&self, block: u64, most: u64) -> (Run, u64) {
        let (fixed, until_fixed) = self.fixed.at(block);
        let (claimed, until_claimed) = self.claimed.at(block);
        match (fixed, claimed) {
            (Some(run), _) => (run, until_fixed.min(most)),
            (None, Some(run)) => (run, until_claimed.min(until_fixed).min(most)),
            (None, None) => (Run::UNOWNED, until_claimed.min(until_fixed).min(most)),
        }
    }

    /// The layout says so.
    pub fn fix(&mut self, start: u64, blocks: u64, class: Class) {
        self.fixed.insert(start, blocks, Run { role: Role::Fixed(class), inode: None, file_block: None });
    }

    /// Nothing is fixed any more.
    pub fn unfix(&mut self) {
        self.fixed = Runs::default();
    }

    /// An inode says so. The last to speak is believed.
    pub fn claim(&mut self, start: u64, blocks: u64, run: Run) {
        self.claimed.insert(start, blocks, run);
    }

    /// An inode has these no more, if it still had them.
    pub fn give_up(&mut self, start: u64, blocks: u64, inode: u32) {
        self.claimed.remove(start, blocks, |run| run.inode == Some(inode));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: u64 = 40;

    proptest! {
        /// Runs are what a table of single blocks is, whatever was claimed and given up before.
        #[test]
        fn runs_are_the_table_of_their_blocks(
            steps in prop::collection::vec((0..4u8, 0..SPACE, 1..12u64, 1..4u32), 0..40),
        ) {
            let (mut owners, mut fixed, mut claimed) = (Owners::default(), [None; 64], [None; 64]);
            for (what, start, blocks, inode) in steps {
                match what {
                    0 => {
                        owners.fix(start, blocks, Class::Gdt);
                        (start..start + blocks).for_each(|block| fixed[block as usize] = Some(()));
                    }
                    1 | 2 => {
                        let run = Run { role: Role::Data, inode: Some(inode), file_block: Some(100) };
                        owners.claim(start, blocks, run);
                        (0..blocks).for_each(|i| claimed[(start + i) as usize] = Some((inode, 100 + i)));
                    }
                    _ => {
                        owners.give_up(start, blocks, inode);
                        for owner in &mut claimed[start as usize..(start + blocks) as usize] {
                            *owner = owner.filter(|(of, _)| *of != inode);
                        }
                    }
                }
            }
            let mut block = 0;
            while block < SPACE {
                let (run, blocks) = owners.at(block, SPACE - block);
                prop_assert!(blocks > 0);
                for i in 0..blocks {
                    let at = (block + i) as usize;
                    let expected = match (fixed[at], claimed[at]) {
                        (Some(()), _) => (Some(Role::Fixed(Class::Gdt)), None, None),
                        (None, Some((inode, file_block))) => (Some(Role::Data), Some(inode), Some(file_block)),
                        (None, None) => (Some(Role::Unowned), None, None),
                    };
                    prop_assert_eq!((Some(run.role), run.inode, run.file_block.map(|first| first + i)), expected);
                }
                block += blocks;
            }
        }
    }
}
