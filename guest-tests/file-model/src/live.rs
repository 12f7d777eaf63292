//! A run without a power cut: what every read gave, what every call returned, and what was on the disk at the end.
//!
//! While nothing has failed there is one answer: the newest bytes, the names as they are. Once the disk has refused something that
//! changes it, what was not fsynced may be there or not (`durability` has the same rule for power cuts); what was fsynced must be
//! there, and what was never written to a file must not. Where metadata failed too, names and sizes are those of some moment since
//! the last promise.

use crate::Facts;
use crate::durability::{Mapped, Node, Tree};
use crate::errno::{self, Said};
use crate::file::{Fault, File, Sure, overlap};
use crate::names::{NameMisfit, WrongName};
use crate::ops::{OpLine, OpResult};
use crate::state::{Promises, State, Stretch, Wanted, is_direct};
use guest_init::job::{Action, Errno};
use guest_init::pattern::{Content, Run, fnv1a64};
use guest_init::protocol::ReadBack;
use guest_init::writers::steps;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Something that the operations' results do not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What it is.
    pub kind: MisfitKind,
    /// The operation that showed it; none: the end of the run.
    pub op: Option<u32>,
    /// The file.
    pub path: Option<String>,
    /// Its inode, where the operation told it.
    pub ino: Option<u64>,
    /// The first stretch.
    pub first: Option<Range<u64>>,
    /// Bytes in all stretches.
    pub total: u64,
    /// Stretches.
    pub places: usize,
}

/// What a misfit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MisfitKind {
    /// What the disk or another file held.
    Stale(Content),
    /// What was fsynced is gone: this.
    Lost(String),
    /// Bytes that nobody wrote.
    Corrupt,
    /// Not what was written last, though nothing has failed: this was expected.
    Contents(String),
    /// Another size.
    Size {
        /// So many bytes.
        found: u64,
        /// These were possible.
        allowed: String,
    },
    /// A result that nothing explains.
    Result {
        /// What came; none: success.
        got: Option<Errno>,
        /// What may come.
        allowed: Vec<Option<Errno>>,
    },
    /// A name is gone.
    NameLost,
    /// A name is there that should not be, or leads to something else.
    NameWrong(&'static str),
    /// Blocks that should be there are not, or the other way round.
    Blocks(&'static str),
}

/// How much the model has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Results of operations.
    pub results: u64,
    /// Of these: the model cannot say whether they are right.
    pub unknown_results: u64,
    /// Bytes that reads gave.
    pub read_bytes: u64,
    /// Files on the disk at the end.
    pub files: u64,
    /// Bytes in them.
    pub file_bytes: u64,
    /// Files whose blocks were looked at.
    pub block_maps: u64,
    /// Of all these bytes: the model cannot say what they should be.
    pub unknown_bytes: u64,
}

/// What became of it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// What is not allowed, in order.
    pub misfits: Vec<Misfit>,
    /// How much was looked at.
    pub counts: Counts,
}

/// Follows a workload to its end. `end`: what was on the disk then; none: nobody knows.
pub fn follow(ops: &[OpLine], facts: &Facts, end: Option<&Tree>) -> Followed {
    let state = State::with_folios_of(facts.folio_bytes);
    let mut walk = Walk { facts, state, demand_bytes: 0, blind: false, followed: Followed::default() };
    for step in steps(ops.iter().map(|line| &line.args)) {
        match &ops[step] {
            [line] if line.args.writer.is_none() => walk.step(line),
            lines => walk.together(lines),
        }
    }
    if let Some(tree) = end.filter(|_| !walk.blind) {
        walk.end(tree);
    }
    walk.followed
}

struct Walk<'a> {
    facts: &'a Facts,
    state: State,
    demand_bytes: u64,
    /// Something happened after which the model knows nothing any more: an operation that never came back, a file system that
    /// could not be mounted again.
    blind: bool,
    followed: Followed,
}

impl Walk<'_> {
    fn step(&mut self, line: &OpLine) {
        let Some(result) = line.result.as_ref().filter(|_| !self.blind) else {
            self.blind = true;
            return;
        };
        self.demand_bytes = self.demand_bytes.saturating_add(errno::demand_bytes(&line.args.action, self.facts));
        self.judge(line, result);
        let trouble = self.facts.write_trouble_at(line.index);
        self.state.follow(line, Promises { returned: true, sync: !trouble });
        if matches!(line.args.action, Action::Remount {}) {
            self.remounted(line.succeeded(), trouble);
        }
    }

    /// Operations that were done at once. Each writer is followed through its own, with all that the others do beside it; then all are.
    fn together(&mut self, lines: &[OpLine]) {
        if self.blind || lines.iter().any(|line| line.result.is_none()) {
            self.blind = true;
            return;
        }
        let demand = lines.iter().map(|line| errno::demand_bytes(&line.args.action, self.facts));
        self.demand_bytes = demand.fold(self.demand_bytes, u64::saturating_add);
        let facts = self.facts;
        let promises = |line: &OpLine| Promises { returned: true, sync: !facts.write_trouble_at(line.index) };
        let first = self.followed.misfits.len();
        let before = std::mem::take(&mut self.state);
        let stretch = Stretch::read(&before, lines);
        for writer in lines.iter().map(|line| line.args.writer).collect::<BTreeSet<_>>() {
            self.state = before.beside(&stretch, writer);
            for line in lines.iter().filter(|line| line.args.writer == writer) {
                let Some(result) = &line.result else { continue };
                self.judge(line, result);
                self.state.follow(line, promises(line));
            }
        }
        self.followed.misfits[first..].sort_by_key(|misfit| misfit.op);
        self.state = before;
        self.state.follow_together(lines, promises);
    }

    fn judge(&mut self, line: &OpLine, result: &OpResult) {
        self.judge_result(line, result);
        if let (Action::Read { path, offset, .. }, Some(read)) = (&line.args.action, &result.read) {
            self.judge_read(line, result, path, *offset, read);
        }
    }

    fn judge_result(&mut self, line: &OpLine, result: &OpResult) {
        self.followed.counts.results += 1;
        match errno::judge(&self.state, line, self.facts, self.demand_bytes) {
            Said::Allowed => {}
            Said::Unknown => self.followed.counts.unknown_results += 1,
            Said::NotAllowed(allowed) => {
                let path = line.args.action.path().map(str::to_owned);
                let kind = MisfitKind::Result { got: result.errno, allowed };
                let misfit = Misfit { kind, op: Some(line.index), path, ino: None, first: None, total: 0, places: 0 };
                self.followed.misfits.push(misfit);
            }
        }
    }

    fn judge_read(&mut self, line: &OpLine, result: &OpResult, path: &str, offset: u64, read: &ReadBack) {
        let Some(id) = self.state.target(path, is_direct(&line.args.action)) else { return };
        let file = &self.state.files[id];
        let sure = self.sure(self.facts.write_trouble_at(line.index));
        let got = read.map.runs.iter().map(|run| run.len).sum::<u64>();
        self.followed.counts.read_bytes += got;
        let seen = Seen { op: Some(line.index), path, ino: result.inode };
        let mut misfits = Vec::new();
        if let (Action::Read { len, .. }, true) = (&line.args.action, line.succeeded()) {
            let reach = |size: u64| size.saturating_sub(offset).min(len.unwrap_or(u64::MAX));
            let allowed = file.now().map(reach);
            if !allowed.allow(got) {
                misfits.push(seen.misfit(MisfitKind::Size { found: got, allowed: allowed.describe() }));
            }
        }
        let bytes = offset..offset + got;
        let unknown = judge_bytes(file, &bytes, &read.fnv1a64, &read.map.runs, sure, &seen, &mut misfits);
        self.followed.counts.unknown_bytes += unknown;
        self.followed.misfits.extend(misfits);
    }

    /// What is in memory is that of the disk from now on. A file system that could not be mounted leaves the workload somewhere else.
    fn remounted(&mut self, done: bool, trouble: bool) {
        self.blind |= !done;
        if trouble {
            self.state.files.iter_mut().for_each(File::read_anew);
            if self.facts.metadata_failed {
                self.state.names.lose_track();
            }
        }
    }

    fn sure(&self, trouble: bool) -> Sure {
        if trouble { Sure::Promised } else { Sure::Returned }
    }

    fn end(&mut self, tree: &Tree) {
        match self.facts.any_write_trouble() && self.facts.metadata_failed {
            false => self.state.names.all_synced(),
            true if self.facts.ordered_names => {}
            true => self.state.names.lose_track(),
        }
        let moments = self.state.names.moments(tree);
        let mut judged = moments.iter().map(|moment| self.judge_files(moment, tree));
        let Some(first) = judged.next() else {
            let names = self.state.names.misfits(tree).into_iter().map(of_name);
            self.followed.misfits.extend(names);
            return;
        };
        // Several moments may have had these very names: one that fits is enough.
        let best =
            if first.misfits.is_empty() { first } else { judged.find(|it| it.misfits.is_empty()).unwrap_or(first) };
        let counts = &mut self.followed.counts;
        counts.files += best.counts.files;
        counts.file_bytes += best.counts.file_bytes;
        counts.block_maps += best.counts.block_maps;
        counts.unknown_bytes += best.counts.unknown_bytes;
        self.followed.misfits.extend(best.misfits);
    }

    fn judge_files(&self, moment: &BTreeMap<String, usize>, tree: &Tree) -> Followed {
        let mut judged = Followed::default();
        let mut seen_files = BTreeSet::new();
        for (path, id) in moment {
            let Some(Node::Mapped(found)) = tree.0.get(path) else { continue };
            // Two names of one file hold the same, which is on the disk once.
            if seen_files.insert(*id) {
                self.judge_file(path, &self.state.files[*id], found, &mut judged);
            }
        }
        judged
    }

    fn judge_file(&self, path: &str, file: &File, found: &Mapped, judged: &mut Followed) {
        let trouble = self.facts.any_write_trouble();
        let seen = Seen { op: None, path, ino: None };
        judged.counts.files += 1;
        judged.counts.file_bytes += found.size;
        let sizes = if trouble { file.on_disk() } else { file.now() };
        if !sizes.allow(found.size) {
            let kind = MisfitKind::Size { found: found.size, allowed: sizes.describe() };
            judged.misfits.push(seen.misfit(kind));
        }
        let bytes = 0..found.size;
        let sure = self.sure(trouble);
        let unknown = judge_bytes(file, &bytes, &found.fnv1a64, &found.runs, sure, &seen, &mut judged.misfits);
        judged.counts.unknown_bytes += unknown;
        if let (Some(blocks), false) = (&found.blocks, trouble) {
            judged.counts.block_maps += 1;
            let wanted = file.blocks().wanted(self.facts.block_bytes, self.facts.cluster_bytes);
            let misfit = wrong_blocks(&wanted, blocks).map(|(range, what)| Misfit {
                total: range.end - range.start,
                places: 1,
                first: Some(range.start * self.facts.block_bytes..range.end * self.facts.block_bytes),
                ..seen.misfit(MisfitKind::Blocks(what))
            });
            judged.misfits.extend(misfit);
        }
    }
}

/// Who saw it.
struct Seen<'a> {
    op: Option<u32>,
    path: &'a str,
    ino: Option<u64>,
}

impl Seen<'_> {
    fn misfit(&self, kind: MisfitKind) -> Misfit {
        Misfit { kind, op: self.op, path: Some(self.path.to_owned()), ino: self.ino, first: None, total: 0, places: 0 }
    }
}

fn of_name(misfit: NameMisfit) -> Misfit {
    let kind = match misfit.wrong {
        WrongName::Missing { .. } => MisfitKind::NameLost,
        WrongName::Extra => MisfitKind::NameWrong("is there, though it never was or is no more"),
        WrongName::Kind => MisfitKind::NameWrong("is not of the kind that was made"),
        WrongName::NoMoment => MisfitKind::NameWrong("has names that fit no moment of the workload"),
    };
    Seen { op: None, path: &misfit.path, ino: None }.misfit(kind)
}

/// Holds bytes of a file against the model: where that leaves nothing open by their digest, so that every byte counts; else by what
/// their sectors are. Gives the bytes of which it cannot say anything. One misfit of each kind.
fn judge_bytes(
    file: &File,
    bytes: &Range<u64>,
    digest: &str,
    runs: &[Run],
    sure: Sure,
    seen: &Seen<'_>,
    misfits: &mut Vec<Misfit>,
) -> u64 {
    let exactly = file.exactly(bytes, sure);
    let differs = exactly.map(|data| format!("{:016x}", fnv1a64(&data)) != digest);
    if differs == Some(false) {
        return 0;
    }
    let mapped = file.judge_map(runs, sure);
    if mapped.faults.is_empty() && differs == Some(true) {
        let kind = MisfitKind::Contents("other bytes in a sector that several writes share".to_owned());
        misfits.push(Misfit {
            first: Some(bytes.clone()),
            total: bytes.end - bytes.start,
            places: 1,
            ..seen.misfit(kind)
        });
    }
    let of = |fault: &Fault| match fault {
        Fault::Stale(_) => 0,
        Fault::Lost(_) => 1,
        Fault::Corrupt => 2,
        Fault::Expected(_) => 3,
    };
    for kind in 0..4 {
        let same: Vec<&(Range<u64>, Fault)> = mapped.faults.iter().filter(|(_, fault)| of(fault) == kind).collect();
        misfits.extend(in_one(&same, seen));
    }
    if differs.is_some() { 0 } else { mapped.unknown_bytes }
}

/// All stretches of one kind in one misfit.
fn in_one(faults: &[&(Range<u64>, Fault)], seen: &Seen<'_>) -> Option<Misfit> {
    let (first, fault) = *faults.first()?;
    let kind = match fault {
        Fault::Stale(content) => MisfitKind::Stale(content.clone()),
        Fault::Lost(wanted) => MisfitKind::Lost(wanted.clone()),
        Fault::Corrupt => MisfitKind::Corrupt,
        Fault::Expected(wanted) => MisfitKind::Contents(wanted.clone()),
    };
    let total = faults.iter().map(|(range, _)| range.end - range.start).sum();
    Some(Misfit { first: Some(first.clone()), total, places: faults.len(), ..seen.misfit(kind) })
}

/// The first blocks that are not as they should be. `found`: first, how many, unwritten; ascending.
fn wrong_blocks(wanted: &[(u64, Wanted)], found: &[(u64, u64, bool)]) -> Option<(Range<u64>, &'static str)> {
    let ends = wanted.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
    wanted.iter().zip(ends).find_map(|((start, wanted), end)| {
        let over = found.iter().filter_map(|(first, count, unwritten)| {
            Some((overlap(&(*first..first + count), &(*start..end))?, *unwritten))
        });
        let over: Vec<(Range<u64>, bool)> = over.collect();
        if !wanted.may_be_mapped {
            return over.first().map(|(range, _)| {
                (range.clone(), "are there, though nothing was ever put there or it was given back")
            });
        }
        let gap = || first_gap(&(*start..end), &over);
        if let Some(gap) = wanted.mapped.then(gap).flatten() {
            return Some((gap, "are not there, though they were written or allocated"));
        }
        let unwritten = over.iter().find(|(_, unwritten)| *unwritten && wanted.written);
        unwritten.map(|(range, _)| (range.clone(), "are unwritten, though data was written to them"))
    })
}

/// The first part of a range that no piece covers.
fn first_gap(range: &Range<u64>, pieces: &[(Range<u64>, bool)]) -> Option<Range<u64>> {
    let mut at = range.start;
    for (piece, _) in pieces {
        if piece.start > at {
            return Some(at..piece.start);
        }
        at = at.max(piece.end);
    }
    (at < range.end).then_some(at..range.end)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_together;
