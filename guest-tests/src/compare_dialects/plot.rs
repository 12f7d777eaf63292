//! The plots: one small SVG per layout and measure, before beside after, by room of a bio.

use super::table::{Pick, number};
use super::{Layout, Order, Row, Variant, Worker};
use std::fmt::Write;

/// What is plotted, as rates per MiB.
const MEASURES: [(&str, Pick); 4] = [
    ("splits and joins", |rates| rates.splits + rates.merges),
    ("conversions", |rates| rates.conversions),
    ("worker runs", |rates| rates.worker_runs),
    ("io_ends", |rates| rates.io_ends),
];

const WIDTH: f64 = 270.0;
const HEIGHT: f64 = 150.0;
const FLOOR: f64 = 118.0;
const CEILING: f64 = 22.0;
const BAR: f64 = 24.0;

/// All plots of a variant: a row of them per layout.
pub(super) fn plots(variant: &Variant) -> String {
    let mut html = String::new();
    for layout in Layout::ALL {
        let _ = write!(html, "<h3><code>{}</code>: {}</h3><div class=\"plots\">", layout.name(), layout.meaning());
        for (name, of) in MEASURES {
            html += &plot(layout, name, &bars(variant, layout, of));
        }
        html += "</div>";
    }
    html
}

/// Pages of the file whose workloads are plotted: the largest.
pub(super) fn plotted_pages(variant: &Variant) -> u32 {
    variant.rows.iter().map(|row| row.workload.extent_pages).max().unwrap_or(0)
}

/// Pages per bio, before, after. Answers in order and a prompt worker stand for the rest.
fn bars(variant: &Variant, layout: Layout, of: Pick) -> Vec<(u32, f64, f64)> {
    let extent_pages = plotted_pages(variant);
    let fits = |row: &&Row| {
        let workload = &row.workload;
        (workload.layout, workload.extent_pages) == (layout, extent_pages)
            && (workload.order, workload.worker) == (Order::Forward, Worker::Prompt)
    };
    let bar = |row: &Row| (row.workload.pages_per_bio, of(&row.per_mib.before), of(&row.per_mib.after));
    variant.rows.iter().filter(fits).map(bar).collect()
}

fn plot(layout: Layout, name: &str, bars: &[(u32, f64, f64)]) -> String {
    let top = bars.iter().fold(0.0_f64, |top, (_, before, after)| top.max(*before).max(*after));
    let words = |(pages, before, after): &(u32, f64, f64)| {
        format!("{pages} pages a bio: {} before, {} after", number(*before), number(*after))
    };
    let title = bars.iter().map(words).collect::<Vec<_>>().join("; ");
    let mut svg = format!(
        "<figure><figcaption>{name} per MiB</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}, {name} per MiB: {title}\">",
        layout.name()
    );
    let _ = write!(svg, "<line class=\"axis\" x1=\"0\" y1=\"{FLOOR}\" x2=\"{WIDTH}\" y2=\"{FLOOR}\"/>");
    let step = WIDTH / bars.len().max(1) as f64;
    for (place, (pages, before, after)) in bars.iter().enumerate() {
        let middle = step * (place as f64 + 0.5);
        svg += &bar("before", middle - BAR - 2.0, *before, top);
        svg += &bar("after", middle + 2.0, *after, top);
        let _ = write!(svg, "<text x=\"{middle}\" y=\"{}\">{pages}</text>", FLOOR + 14.0);
    }
    let _ = write!(svg, "<text class=\"axis-name\" x=\"{}\" y=\"{}\">pages per bio</text>", WIDTH / 2.0, HEIGHT - 4.0);
    svg + "</svg></figure>"
}

/// A bar with its value above it; one of nothing is a line on the floor.
fn bar(class: &str, x: f64, value: f64, top: f64) -> String {
    let height = if top == 0.0 { 0.0 } else { (FLOOR - CEILING) * value / top };
    let (height, y) = (height.max(1.0), FLOOR - height.max(1.0));
    format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y:.1}\" width=\"{BAR}\" height=\"{height:.1}\"/>\
         <text class=\"value\" x=\"{}\" y=\"{:.1}\">{}</text>",
        x + BAR / 2.0,
        y - 4.0,
        number(value)
    )
}
