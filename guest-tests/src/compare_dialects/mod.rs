//! `guest-tests compare-dialects BEFORE AFTER`: what a change of the path is worth, counted on the replica.
//!
//! Both dialects are driven through the same workloads, once as they are and once with every defect switched off on both
//! sides, so that what a defect saves (by converting too little, say) is not credited to the change. No VM, no clock, no
//! randomness: the same program gives the same bytes.

mod measure;
mod page;
mod plot;
mod table;
mod workload;

#[cfg(test)]
mod tests;

pub use measure::{Counts, measure};
pub use page::render;
pub use table::text;
pub use workload::{Layout, Order, Worker, Workload};

use crate::failure::Failure;
use ext4_replica::{Bugs, Dialect, DialectName};
use measure::Machine;
use serde::Serialize;

/// Two dialects beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The one without the change.
    pub before: DialectName,
    /// The one with it.
    pub after: DialectName,
    /// As they are, and without defects.
    pub variants: Vec<Variant>,
}

/// All workloads with one choice of defects.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// Which defects are on.
    pub defects: Defects,
    /// One row per workload.
    pub rows: Vec<Row>,
    /// Per layout, apart by whether a pass takes more than one bio.
    pub summary: Vec<Summary>,
}

/// Which defects are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Defects {
    /// Each dialect's own.
    Own,
    /// None on either side.
    None,
}

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which.
    #[serde(flatten)]
    pub workload: Workload,
    /// Every pass fits into one bio.
    pub one_bio_per_pass: bool,
    /// Data written.
    pub written_bytes: u64,
    /// Counts without the change.
    pub before: Counts,
    /// Counts with it.
    pub after: Counts,
    /// The counts per MiB of data written.
    pub per_mib: PerMib,
}

/// Counts per MiB of data written, without and with the change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerMib {
    /// Without the change.
    pub before: Rates,
    /// With it.
    pub after: Rates,
}

/// Counts per MiB of data written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "named as the counts they are made of")]
pub struct Rates {
    pub io_ends: f64,
    pub conversions: f64,
    pub worker_runs: f64,
    pub splits: f64,
    pub merges: f64,
}

/// Workloads that go together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Their layout.
    pub layout: Layout,
    /// Every pass fits into one bio.
    pub one_bio_per_pass: bool,
    /// How many they are.
    pub workloads: u64,
    /// In how many of them there are fewer splits and joins than before.
    pub fewer: u64,
    /// In how many there are as many.
    pub equal: u64,
    /// In how many there are more.
    pub more: u64,
    /// Sums over them.
    pub before: Counts,
    /// Sums over them.
    pub after: Counts,
}

/// Measures all workloads.
pub fn compare(before: Dialect, after: Dialect) -> Result<Comparison, Failure> {
    if before.name == after.name {
        return Err(Failure::BadInput(format!(
            "{} is compared with itself; name two of: {}",
            before.name,
            Dialect::names().collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(compare_on(before, after, &Workload::all()))
}

fn compare_on(before: Dialect, after: Dialect, workloads: &[Workload]) -> Comparison {
    let clean = |dialect: Dialect| dialect.with_bugs(Bugs::NONE);
    let variants = vec![
        Variant::of(Defects::Own, before, after, workloads),
        Variant::of(Defects::None, clean(before), clean(after), workloads),
    ];
    Comparison { before: before.name, after: after.name, variants }
}

impl Variant {
    fn of(defects: Defects, before: Dialect, after: Dialect, workloads: &[Workload]) -> Variant {
        let same_writes = |a: &Workload, b: &Workload| a.writes() == b.writes();
        let rows: Vec<Row> = (workloads.chunk_by(same_writes))
            .flat_map(|workloads| {
                let written = [before, after].map(|dialect| Machine::after_writing(dialect, &workloads[0]));
                workloads.iter().map(move |workload| Row::of(*workload, &written))
            })
            .collect();
        let summary = summarise(&rows);
        Variant { defects, rows, summary }
    }
}

impl Row {
    fn of(workload: Workload, written: &[Machine; 2]) -> Row {
        let [before, after] = written.clone().map(|machine| machine.answered(&workload));
        let written_bytes = workload.written_bytes();
        let per_mib = PerMib { before: Rates::of(&before, written_bytes), after: Rates::of(&after, written_bytes) };
        let one_bio_per_pass = workload.one_bio_per_pass();
        Row { workload, one_bio_per_pass, written_bytes, before, after, per_mib }
    }
}

impl Rates {
    fn of(counts: &Counts, bytes: u64) -> Rates {
        let rate = |count: u64| count as f64 * f64::from(1 << 20) / bytes as f64;
        Rates {
            io_ends: rate(counts.io_ends),
            conversions: rate(counts.conversions),
            worker_runs: rate(counts.worker_runs),
            splits: rate(counts.splits),
            merges: rate(counts.merges),
        }
    }
}

fn summarise(rows: &[Row]) -> Vec<Summary> {
    let mut summary: Vec<Summary> = Vec::new();
    for row in rows {
        let (layout, one_bio_per_pass) = (row.workload.layout, row.one_bio_per_pass);
        let fits = |known: &Summary| known.layout == layout && known.one_bio_per_pass == one_bio_per_pass;
        let place = summary.iter().position(fits).unwrap_or_else(|| {
            summary.push(Summary::empty(layout, one_bio_per_pass));
            summary.len() - 1
        });
        summary[place].add(row);
    }
    summary.sort_by_key(|known| (known.layout, known.one_bio_per_pass));
    summary
}

impl Summary {
    fn empty(layout: Layout, one_bio_per_pass: bool) -> Summary {
        let (before, after) = (Counts::default(), Counts::default());
        Summary { layout, one_bio_per_pass, workloads: 0, fewer: 0, equal: 0, more: 0, before, after }
    }

    fn add(&mut self, row: &Row) {
        self.workloads += 1;
        match row.after.split_and_joined().cmp(&row.before.split_and_joined()) {
            std::cmp::Ordering::Less => self.fewer += 1,
            std::cmp::Ordering::Equal => self.equal += 1,
            std::cmp::Ordering::Greater => self.more += 1,
        }
        self.before += row.before;
        self.after += row.after;
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.io_ends += other.io_ends;
        self.bios += other.bios;
        self.conversions += other.conversions;
        self.worker_runs += other.worker_runs;
        self.splits += other.splits;
        self.merges += other.merges;
        self.lost_blocks += other.lost_blocks;
        self.stale_blocks += other.stale_blocks;
    }
}
