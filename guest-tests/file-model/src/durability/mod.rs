//! What must be on a disk after a power cut: the durability oracle. Pure: operations with their results in, a judgement out.
//!
//! The workload is a row of steps, each one operation or several writers' at once, so at a cut a beginning of it had surely returned, and
//! what comes after a further beginning had surely not begun ([`Reach`]; a step counts as a whole). From the first follows what was promised: after an fsync that returned 0 the file's
//! bytes, size and names are there, or what a later operation put in their place. From the second follows what may be there
//! at all: a byte that nobody wrote, nor left zero, is wrong even where nothing was promised.
//!
//! The names are those of one moment: ext4 logs changes of names in the order in which they were made, and a transaction
//! holds a beginning of them. The moment is not before the last change that a promise covers. docs/crash-states.md says what
//! counts as a promise and what is not looked at.

#[cfg(test)]
mod tests;

use crate::ops::OpLine;
use crate::state::{Promises, State};
use guest_init::pattern::Run;
use guest_init::writers::steps;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far the workload had come at a moment, in operations from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// So many had surely returned.
    pub returned: u32,
    /// No more than so many had begun.
    pub begun: u32,
}

/// What else decides what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A `sync` or `remount` is a promise. They cannot report an error, so where the disk refused a request they are none.
    pub sync_promises: bool,
    /// What nobody promised may show what the disk held before (`data=writeback`).
    pub past_may_show: bool,
}

/// A file system as it was found: every path without a leading `/`, `lost+found` left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A regular file with its bytes.
    File(Arc<[u8]>),
    /// A regular file of which only this is known.
    Mapped(Mapped),
    /// Neither.
    Other,
}

/// What is known of a file whose bytes are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Its size.
    pub size: u64,
    /// FNV-1a, 64 bit, of its bytes.
    pub fnv1a64: String,
    /// What its bytes are.
    pub runs: Vec<Run>,
    /// Which blocks it has: first, how many, and whether they are unwritten. None: it does not say (inline data).
    pub blocks: Option<Vec<(u64, u64, bool)>>,
}

/// A promise that was not kept, or something that may not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The file.
    pub path: String,
    /// First byte, where it is about bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// It was promised; else: nobody promised anything, but what is there cannot come from the workload.
    pub promised: bool,
    /// In a sentence.
    pub what: String,
}

/// What became of a judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Everything that is wrong.
    pub broken: Vec<Broken>,
    /// Files of which anything was promised.
    pub promised_files: u64,
    /// Bytes of files that were promised and held against what was found.
    pub promised_bytes: u64,
}

/// What may be on the disk after a cut.
#[derive(Debug)]
pub struct Expected {
    state: State,
    rules: Rules,
}

impl Expected {
    /// Follows the workload up to a cut.
    pub fn at(ops: &[OpLine], reach: Reach, rules: Rules) -> Expected {
        let mut state = State::default();
        for step in steps(ops.iter().map(|line| &line.args)) {
            let lines = &ops[step];
            let (first, last) = (lines.first().map_or(0, |line| line.index), lines.last().map_or(0, |line| line.index));
            if first >= reach.begun {
                break;
            }
            let promises = Promises { returned: last < reach.returned, sync: rules.sync_promises };
            match lines {
                [line] if line.args.writer.is_none() => state.follow(line, promises),
                _ => state.follow_together(lines, |_| promises),
            }
        }
        Expected { state, rules }
    }

    /// Holds what was found against it.
    pub fn judge(&self, found: &Tree) -> Judgement {
        let names = &self.state.names;
        let moments = names.moments(found);
        let judge = |moment: &&BTreeMap<String, usize>| self.contents(moment, found);
        // Several moments may have had these very names: one that fits is enough.
        let mut contents = moments.iter().map(judge);
        let Some(first) = contents.next() else {
            let broken = names.misfits(found).into_iter().map(|misfit| misfit.broken()).collect();
            return Judgement { broken, ..Judgement::default() };
        };
        match first.broken.is_empty() {
            true => first,
            false => contents.find(|other| other.broken.is_empty()).unwrap_or(first),
        }
    }

    /// Every path that the workload names, whether it is to be there or not.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.state.names.all_paths()
    }

    fn contents(&self, moment: &BTreeMap<String, usize>, found: &Tree) -> Judgement {
        let mut judgement = Judgement::default();
        for (path, id) in moment {
            if let Some(Node::File(data)) = found.0.get(path) {
                let file = &self.state.files[*id];
                judgement.promised_files += u64::from(file.anything_promised());
                judgement.promised_bytes += file.judge(path, data, self.rules.past_may_show, &mut judgement.broken);
            }
        }
        judgement
    }
}
