//! The comparison as a page that a person can read and pass on: style of the run's report, no script, nothing loaded.

use super::plot::{plots, plotted_pages};
use super::table::{COLUMNS, bios, capital, change, factor, wrong};
use super::workload::PAGE_BYTES;
use super::{Comparison, Layout, Row, Summary, Variant};
use html_page::{Page, escape};
use std::fmt::Write;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(comparison: &Comparison) -> String {
    let repeat = format!("guest-tests compare-dialects {} {} --out FILE", comparison.before, comparison.after);
    let variants: String = comparison.variants.iter().map(variant).collect();
    let (before, after) = (comparison.before.to_string(), comparison.after.to_string());
    let body = html_page::fill(
        TEMPLATE,
        &[
            ("before", &escape(&before)),
            ("after", &escape(&after)),
            ("repeat", &html_page::repeat("Show it again", &repeat)),
            ("layouts", &layouts()),
            ("variants", &variants),
        ],
    );
    Page { title: &format!("{before} and {after}"), style: STYLE, body: &body, ..Page::default() }.render()
}

fn layouts() -> String {
    let item = |layout: Layout| format!("<li><code>{}</code>: {}</li>", layout.name(), layout.meaning());
    Layout::ALL.map(item).concat()
}

fn variant(variant: &Variant) -> String {
    format!(
        "<section class=\"card\"><h2>{title}</h2>{summary}</section>\
         <section class=\"card\"><h2>{title}: a file of {kib} KiB, answered in order, a prompt worker</h2>{legend}{plots}</section>\
         <section class=\"card\"><details><summary>{title}: every workload, per MiB of data written</summary>\
         <div class=\"wide\">{details}</div></details></section>",
        title = capital(variant.title()),
        kib = u64::from(plotted_pages(variant)) * PAGE_BYTES / 1024,
        summary = summary(variant),
        legend = "<p class=\"key\"><span class=\"before\"></span> before <span class=\"after\"></span> after</p>",
        plots = plots(variant),
        details = details(variant),
    )
}

fn summary(variant: &Variant) -> String {
    let mut rows = String::new();
    for summary in &variant.summary {
        let Summary { layout, workloads, fewer, equal, more, before, after, .. } = summary;
        let right = after.lost_blocks == 0 && after.stale_blocks == 0;
        let class = if fewer == workloads && right { "holds" } else { "holds-not" };
        let _ = write!(
            rows,
            "<tr class=\"{class}\"><td><code>{}</code></td><td>{}</td><td>{workloads}</td><td>{fewer}</td><td>{equal}</td>\
             <td>{more}</td><td>{} → {}</td><td>{}</td><td>{} → {}</td><td>{} → {}</td></tr>",
            layout.name(),
            bios(summary),
            before.split_and_joined(),
            after.split_and_joined(),
            factor(before, after),
            before.conversions,
            after.conversions,
            wrong(before),
            wrong(after),
        );
    }
    format!(
        "<div class=\"wide\"><table><thead><tr><th>layout</th><th>bios a pass</th><th>workloads</th><th>fewer splits and joins</th>\
         <th>equal</th><th>more</th><th>splits and joins</th><th>factor</th><th>conversions</th><th>wrong blocks</th></tr></thead>\
         <tbody>{rows}</tbody></table></div>"
    )
}

fn details(variant: &Variant) -> String {
    let mut rows = String::new();
    for group in variant.groups() {
        let Row { workload, per_mib, .. } = group.first;
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td>",
            workload.layout.name(),
            workload.file_bytes() >> 10,
            workload.pages_per_bio,
            group.when(),
        );
        for (_, of) in COLUMNS {
            let _ = write!(rows, "<td>{}</td>", change(per_mib, of));
        }
        rows += "</tr>";
    }
    let names = COLUMNS.map(|(name, _)| format!("<th>{name}</th>")).concat();
    format!(
        "<table><thead><tr><th>layout</th><th>KiB</th><th>pages per bio</th><th>answers, worker</th>{names}</tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}
