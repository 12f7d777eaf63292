//! A story as a sequence picture: a line down for each thread and the device, a row for each step, counts at the side.
//!
//! Plain SVG without script or style of its own: the page gives the classes their colours, so it is readable in light and dark.

use crate::schedule::Played;
use crate::story::{self, Step};
use ext4_replica::Event;
use ext4_replica::explore::{Activity, Move};
use html_page::escape;
use std::fmt::Write as _;

const ROW: usize = 30;
const HEAD: usize = 40;
const COLUMN: usize = 250;
const COUNTS: usize = 560;
/// The device says nothing itself, so its column is narrow.
const DEVICE_COLUMN: usize = 60;
const MARGIN: usize = 46;
const DEVICE: &str = "device";

/// Draws it.
pub fn svg(steps: &[Step], played: &[Played]) -> String {
    let mut lanes = story::threads(steps);
    lanes.push(DEVICE);
    let (width, height) = (counts_x(&lanes) + COUNTS, HEAD + ROW * (steps.len() + 1));
    let mut svg = format!(
        "<svg class=\"sequence\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"sequence of {} steps by {} threads\">",
        steps.len(),
        lanes.len() - 1
    );
    for (n, lane) in lanes.iter().enumerate() {
        let x = lane_x(n);
        let end = height - ROW / 2;
        put(&mut svg, &format!("<line class=\"lane\" x1=\"{x}\" y1=\"{HEAD}\" x2=\"{x}\" y2=\"{end}\"/>"));
        put(&mut svg, &format!("<text class=\"head\" x=\"{x}\" y=\"24\">{}</text>", escape(lane)));
    }
    for (row, (step, played)) in steps.iter().zip(played).enumerate() {
        draw_step(&mut svg, &lanes, row, step, played);
    }
    svg + "</svg>"
}

fn lane_x(n: usize) -> usize {
    MARGIN + n * COLUMN + 10
}

fn counts_x(lanes: &[&str]) -> usize {
    MARGIN + COLUMN * (lanes.len() - 1) + DEVICE_COLUMN
}

fn row_y(row: usize) -> usize {
    HEAD + ROW / 2 + ROW * row
}

fn draw_step(svg: &mut String, lanes: &[&str], row: usize, step: &Step, played: &Played) {
    let lane = lanes.iter().position(|lane| *lane == step.thread).unwrap_or(0);
    let (x, y, device) = (lane_x(lane), row_y(row), lane_x(lanes.len() - 1));
    let broken = !step.broken.is_empty();
    if broken {
        let (top, width) = (y - ROW / 2, counts_x(lanes) + COUNTS);
        put(svg, &format!("<rect class=\"broken\" x=\"0\" y=\"{top}\" width=\"{width}\" height=\"{ROW}\"/>"));
    }
    let to_device = played.events.iter().any(|event| matches!(event, Event::SubmitBio { .. }));
    let from_device = matches!(played.by, Move::Start(_, Activity::EndBio { .. } | Activity::EndDirect { .. }));
    if to_device {
        arrow(svg, x, device, y);
    } else if from_device {
        arrow(svg, device, x, y);
    }
    put(svg, &format!("<text class=\"number\" x=\"4\" y=\"{}\">{}</text>", y + 4, step.number));
    put(svg, &format!("<g><title>{}</title>", escape(&format!("{} {}: {}", step.thread, step.function, step.what))));
    put(svg, &format!("<circle class=\"{}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"/>", if broken { "bad" } else { "step" }));
    put(svg, &format!("<text class=\"function\" x=\"{}\" y=\"{}\">{}</text>", x + 11, y - 1, escape(&step.function)));
    put(
        svg,
        &format!("<text class=\"what\" x=\"{}\" y=\"{}\">{}</text>", x + 11, y + 11, escape(&short(&step.what, 46))),
    );
    put(svg, "</g>");
    let at = counts_x(lanes);
    put(svg, &format!("<text class=\"counts\" x=\"{at}\" y=\"{}\">{}</text>", y - 1, escape(&short(&step.counts, 84))));
    if let Some(what) = step.broken.first() {
        put(svg, &format!("<text class=\"why\" x=\"{at}\" y=\"{}\">{}</text>", y + 11, escape(what)));
    }
}

fn arrow(svg: &mut String, from: usize, to: usize, y: usize) {
    let (back, tip) = if to > from { (to - 8, to) } else { (to + 8, to) };
    put(svg, &format!("<line class=\"arrow\" x1=\"{from}\" y1=\"{y}\" x2=\"{back}\" y2=\"{y}\"/>"));
    let (above, below) = (y - 4, y + 4);
    put(svg, &format!("<path class=\"tip\" d=\"M{tip} {y}L{back} {above}L{back} {below}Z\"/>"));
}

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn put(svg: &mut String, piece: &str) {
    write!(svg, "{piece}").expect("a string takes all");
}
