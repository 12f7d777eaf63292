//! The finite sets that coverage is a part of. Without them "never fired" could not be said, and a percentage meant nothing.
//!
//! **Faults**: every action of the script language, on every type of request it means something on, on every class of ext4
//! blocks (a flush has no blocks), with every answer that action alone can bring. `get_id` and `set` are left out: the first
//! reaches no disk, the second is no fault. Not every cell can happen on a disk (nobody discards a superblock): the set is
//! what a script can say, so 100 % is not the goal, and a cell never armed is told apart from one that never fired.
//!
//! **Pairs**: the state of an io_end before a step of the replica, and the step. A state is the UNWRITTEN flag, the references
//! (1, 2, 3+), whether a bio has failed, or where it waits after the last put. What was seen beyond these sets is counted
//! apart and shown, never dropped.

use std::collections::BTreeSet;

/// A fault without its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// In the script's word.
    pub action: &'static str,
    /// The type of request.
    pub op: &'static str,
    /// What it can bring as an answer.
    pub answers: &'static [&'static str],
}

/// Classes of ext4's blocks, in the script's words.
pub const CLASSES: [&str; 18] = [
    "ext4.superblock",
    "ext4.gdt",
    "ext4.block_bitmap",
    "ext4.inode_bitmap",
    "ext4.inode_table",
    "ext4.extent_node",
    "ext4.dir",
    "ext4.dir_index",
    "ext4.xattr",
    "ext4.data",
    "ext4.journal",
    "ext4.journal.superblock",
    "ext4.journal.descriptor",
    "ext4.journal.commit",
    "ext4.journal.revoke",
    "ext4.journal.data",
    "ext4.other",
    "ext4.unknown",
];

/// The class of a request without blocks.
pub const NO_BLOCKS: &str = "-";
/// Nobody looked what the block is: no rule of the script asked. Counted beside the classes, in no percentage.
pub const NOT_LOOKED: &str = "any";

const OK: &[&str] = &["ok"];
const FAILS: &[&str] = &["ioerr", "unsupp"];
const EITHER: &[&str] = &["ok", "ioerr"];
const HELD: &[&str] = &["ok", "unanswered"];

const ANY: &[&str] = &["read", "write", "flush", "discard", "write_zeroes"];
const SECTORED: &[&str] = &["read", "write", "discard", "write_zeroes"];
const CHANGING: &[&str] = &["write", "discard", "write_zeroes"];
const MOVING: &[&str] = &["read", "write"];

type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

const FAULTS: &[Row] = &[
    ("error", ANY, FAILS),
    ("partial", SECTORED, EITHER),
    ("torn", &["write"], OK),
    ("lose", CHANGING, OK),
    ("misdirect", MOVING, OK),
    ("corrupt", MOVING, OK),
    ("stale", &["read"], OK),
    ("delay", ANY, OK),
    ("hold", ANY, HELD),
    ("reorder", ANY, OK),
    ("split", SECTORED, OK),
    ("power_cut", ANY, HELD),
];

/// Every action with every type of request it means something on.
pub fn faults() -> impl Iterator<Item = Fault> {
    let each = |(action, ops, answers): &'static Row| {
        let one = move |op: &&'static str| Fault { action, op, answers };
        ops.iter().map(one)
    };
    FAULTS.iter().flat_map(each)
}

/// The classes that a type of request can be about.
pub fn classes(op: &str) -> &'static [&'static str] {
    if op == "flush" { &[NO_BLOCKS] } else { &CLASSES }
}

/// Whether `class` is what a script's word means: the class itself or one below it.
pub fn means(word: &str, class: &str) -> bool {
    class == word || class.strip_prefix(word).is_some_and(|rest| rest.starts_with('.'))
}

/// Every pair of a state and a step, as result lines name them.
pub fn pairs() -> BTreeSet<String> {
    let mut pairs = BTreeSet::from(["unborn > init_io_end".to_owned()]);
    for failed in ["", " failed"] {
        for kind in ["written", "unwritten"] {
            for refs in ["1", "2", "3+"] {
                let steps = ["get_io_end", "submit_bio", "end_bio", "end_bio error", "put_io_end", "put_io_end_defer"];
                // The task holds one reference while it submits, the bio another.
                let possible = |step: &&&str| refs != "1" || **step != "submit_bio";
                pairs.extend(steps.iter().filter(possible).map(|step| format!("{kind} {refs}{failed} > {step}")));
            }
        }
        let after = [
            ("written 0", "release_io_end"),
            ("unwritten 0", "add_complete_io"),
            ("unwritten 0", "convert_unwritten"),
            ("unwritten 0", "release_io_end"),
            ("unwritten queued", "convert_unwritten"),
            ("unwritten queued", "release_io_end"),
            ("unwritten converting", "convert_unwritten"),
            ("unwritten converting", "release_io_end"),
        ];
        pairs.extend(after.iter().map(|(state, step)| format!("{state}{failed} > {step}")));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_as_large_as_the_documentation_says() {
        let cells: usize = faults().map(|fault| classes(fault.op).len() * fault.answers.len()).sum();
        assert_eq!((faults().count(), cells, pairs().len()), (42, 962, 85));
    }

    #[test]
    fn a_scripts_word_means_its_class_and_those_below() {
        assert!(means("ext4", "ext4.data") && means("ext4.journal", "ext4.journal.commit"));
        assert!(!means("ext4.dir", "ext4.dir_index") && !means("ext4.journal.commit", "ext4.journal"));
    }
}
