//! The comparison as text: a summary per layout, then every workload.
//!
//! Workloads that differ in completion order or worker alone and count the same stand in one row.

use super::{Comparison, Counts, Defects, Order, PerMib, Rates, Row, Summary, Variant, Worker};
use std::fmt::Write;

/// Rows of the same file and bios with the same counts.
pub(super) struct Group<'a> {
    pub(super) first: &'a Row,
    rows: Vec<&'a Row>,
}

impl Variant {
    /// Rows that count the same, together.
    pub(super) fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for row in &self.rows {
            let same = |group: &Group<'_>| {
                group.first.workload.writes() == row.workload.writes()
                    && (group.first.before, group.first.after) == (row.before, row.after)
            };
            match groups.iter_mut().find(|group| same(group)) {
                Some(group) => group.rows.push(row),
                None => groups.push(Group { first: row, rows: vec![row] }),
            }
        }
        groups
    }

    /// What it is called.
    pub(super) fn title(&self) -> &'static str {
        match self.defects {
            Defects::Own => "each dialect with its own defects",
            Defects::None => "every defect off on both sides",
        }
    }
}

impl Group<'_> {
    /// Completion orders and workers of its rows.
    pub(super) fn when(&self) -> String {
        let orders = |worker: Worker| -> Vec<&str> {
            let of = self.rows.iter().filter(|row| row.workload.worker == worker);
            of.map(|row| row.workload.order.name()).collect()
        };
        let said = |worker: Worker| {
            let orders = orders(worker);
            match orders.len() {
                0 => None,
                all if all == Order::ALL.len() => Some(format!("any order, {}", worker.name())),
                _ => Some(format!("{}, {}", orders.join("+"), worker.name())),
            }
        };
        if self.rows.len() == Order::ALL.len() * Worker::ALL.len() {
            return "any".to_owned();
        }
        Worker::ALL.into_iter().filter_map(said).collect::<Vec<_>>().join("; ")
    }
}

/// Picks what is told of a row.
pub(super) type Pick = fn(&Rates) -> f64;

/// What is told of a row, each with its value without and with the change.
pub(super) const COLUMNS: [(&str, Pick); 5] = [
    ("splits", |rates| rates.splits),
    ("joins", |rates| rates.merges),
    ("conversions", |rates| rates.conversions),
    ("worker runs", |rates| rates.worker_runs),
    ("io_ends", |rates| rates.io_ends),
];

/// `before → after`.
pub(super) fn change(per_mib: &PerMib, of: Pick) -> String {
    format!("{} → {}", number(of(&per_mib.before)), number(of(&per_mib.after)))
}

/// At most two decimals, none that say nothing.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many times fewer splits and joins there are.
pub(super) fn factor(before: &Counts, after: &Counts) -> String {
    match (before.split_and_joined(), after.split_and_joined()) {
        (0, 0) => "none either way".to_owned(),
        (_, 0) => "all gone".to_owned(),
        (before, after) => format!("{}×", number(before as f64 / after as f64)),
    }
}

/// Blocks that a dialect got wrong.
pub(super) fn wrong(counts: &Counts) -> String {
    match (counts.lost_blocks, counts.stale_blocks) {
        (0, 0) => "none".to_owned(),
        (lost, stale) => format!("{lost} lost, {stale} stale"),
    }
}

/// A pass and its bios.
pub(super) fn bios(summary: &Summary) -> &'static str {
    if summary.one_bio_per_pass { "one" } else { "several" }
}

/// The whole comparison as text.
pub fn text(comparison: &Comparison) -> String {
    let mut text = format!(
        "{} (before) and {} (after), per MiB of data written, on {} workloads\n",
        comparison.before,
        comparison.after,
        comparison.variants.first().map_or(0, |variant| variant.rows.len()),
    );
    for variant in &comparison.variants {
        let _ = writeln!(text, "\n{}\n", capital(variant.title()));
        text += &summary(variant);
        text.push('\n');
        text += &details(variant);
    }
    text
}

fn summary(variant: &Variant) -> String {
    let head =
        ["layout", "bios a pass", "workloads", "fewer", "equal", "more", "splits+joins", "factor", "wrong blocks"];
    let row = |summary: &Summary| {
        vec![
            summary.layout.name().to_owned(),
            bios(summary).to_owned(),
            summary.workloads.to_string(),
            summary.fewer.to_string(),
            summary.equal.to_string(),
            summary.more.to_string(),
            format!("{} → {}", summary.before.split_and_joined(), summary.after.split_and_joined()),
            factor(&summary.before, &summary.after),
            format!("{} → {}", wrong(&summary.before), wrong(&summary.after)),
        ]
    };
    columns(&head, &variant.summary.iter().map(row).collect::<Vec<_>>())
}

fn details(variant: &Variant) -> String {
    let mut head = vec!["layout", "KiB", "pages/bio", "answers, worker"];
    head.extend(COLUMNS.map(|(name, _)| name));
    let row = |group: &Group<'_>| {
        let Row { workload, per_mib, .. } = group.first;
        let mut row = vec![
            workload.layout.name().to_owned(),
            (workload.file_bytes() >> 10).to_string(),
            workload.pages_per_bio.to_string(),
            group.when(),
        ];
        row.extend(COLUMNS.map(|(_, of)| change(per_mib, of)));
        row
    };
    columns(&head, &variant.groups().iter().map(row).collect::<Vec<_>>())
}

fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    std::iter::once(&head).chain(rows).map(line).collect()
}

/// With a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}
