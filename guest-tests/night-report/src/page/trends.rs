//! Trends over the nights at hand: pace, failures, what was not judged. Small pictures, each with its numbers in words.

use super::{Told, section};
use crate::rate::percent;
use crate::summary::Summary;
use html_page::escape;
use std::fmt::Write;

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 110.0;
/// Room for the scale at the left and the days below.
const LEFT: f64 = 44.0;
const BELOW: f64 = 18.0;
const ABOVE: f64 = 8.0;

/// A night on a picture: its value, and between what it lies.
#[derive(Clone, Copy)]
struct Point {
    value: f64,
    low: f64,
    high: f64,
}

/// What a picture is of.
struct Trend {
    name: &'static str,
    of: fn(&Summary) -> Option<Point>,
    text: fn(f64) -> String,
}

const TRENDS: [Trend; 3] = [
    Trend { name: "scenarios an hour", of: pace, text: |value| format!("{value:.0}") },
    Trend { name: "failures of what was judged", of: failures, text: percent },
    Trend { name: "not judged", of: unjudged, text: percent },
];

fn pace(summary: &Summary) -> Option<Point> {
    summary.seeds_per_hour.map(|value| Point { value, low: value, high: value })
}

fn failures(summary: &Summary) -> Option<Point> {
    let rate = summary.failure_rate;
    (rate.of > 0).then_some(Point { value: rate.rate, low: rate.low, high: rate.high })
}

fn unjudged(summary: &Summary) -> Option<Point> {
    let rate = summary.unjudged_rate;
    (rate.of > 0).then_some(Point { value: rate.rate, low: rate.low, high: rate.high })
}

pub(super) fn trends(told: &Told<'_>) -> String {
    let nights: Vec<&Summary> = told.night.before.iter().chain([&told.summary]).collect();
    let pictures: String = TRENDS.iter().map(|trend| figure(trend, &nights)).collect();
    let note = match nights.len() {
        1 => "<p class=\"muted\">The first night here: a trend needs another.</p>",
        _ => "<p class=\"muted\">Shaded: 95 % intervals (Wilson). A night without a point has nothing to say.</p>",
    };
    section("trends", "Over the nights", &format!("<div class=\"trends\">{pictures}</div>{note}"))
}

fn figure(trend: &Trend, nights: &[&Summary]) -> String {
    let points: Vec<Option<Point>> = nights.iter().map(|night| (trend.of)(night)).collect();
    let now = points.last().copied().flatten().map_or_else(|| "nothing".to_owned(), |point| (trend.text)(point.value));
    format!(
        "<figure><figcaption>{}: <strong>{now}</strong></figcaption>{}</figure>",
        trend.name,
        picture(trend, &points, nights)
    )
}

fn picture(trend: &Trend, points: &[Option<Point>], nights: &[&Summary]) -> String {
    let most = points.iter().flatten().map(|point| point.high).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 1.0 };
    let step = (WIDTH - LEFT - 8.0) / (points.len().max(2) - 1) as f64;
    let at = |index: usize, value: f64| (LEFT + step * index as f64, ABOVE + (HEIGHT - ABOVE) * (1.0 - value / most));
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} over {} nights\"><path class=\"axis\" d=\"M{LEFT} {ABOVE}V{HEIGHT}H{WIDTH}\"/>",
        HEIGHT + BELOW,
        trend.name,
        points.len()
    );
    let known: Vec<(usize, Point)> = points.iter().enumerate().filter_map(|(i, point)| Some((i, (*point)?))).collect();
    if known.iter().any(|(_, point)| point.high > point.low) {
        let upper = known.iter().map(|(i, point)| at(*i, point.high));
        let lower = known.iter().rev().map(|(i, point)| at(*i, point.low));
        let _ = write!(svg, "<path class=\"band\" d=\"{}Z\"/>", path(upper.chain(lower)));
    }
    let _ = write!(svg, "<path class=\"line\" d=\"{}\"/>", path(known.iter().map(|(i, point)| at(*i, point.value))));
    for (i, point) in &known {
        let (x, y) = at(*i, point.value);
        let (day, said) = (nights[*i].day(), (trend.text)(point.value));
        let _ =
            write!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}: {said}</title></circle>", escape(day));
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" class=\"scale\">{}</text><text x=\"{}\" y=\"{HEIGHT}\" class=\"scale\">0</text>{}</svg>",
        LEFT - 4.0,
        ABOVE + 8.0,
        (trend.text)(most),
        LEFT - 4.0,
        days(nights)
    );
    svg
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
    }
    path
}

/// The first and the last day.
fn days(nights: &[&Summary]) -> String {
    let y = HEIGHT + BELOW - 3.0;
    let text = |x: f64, class: &str, night: &Summary| {
        format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escape(night.day()))
    };
    match nights {
        [first, .., last] => text(LEFT, "first", first) + &text(WIDTH, "last", last),
        [only] => text(LEFT, "first", only),
        [] => String::new(),
    }
}
