//! A piece of the timeline as a picture that needs no script: around the first difference, else the first fault.
//!
//! The same items, bars and rows as on the page of the run, drawn once. Classes name lanes and marks (`guest`, `device`,
//! `replica`, `fault`, `error`, `difference`, `finding`); the page that it stands on gives them their colours.

use super::input::ReportInput;
use super::links::Links;
use super::summary::Summary;
use super::timeline::{Bar, Item, Mark, Timeline, Track};
use html_page::escape;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Steps of the sequence that are shown before and behind the place.
const BEFORE: f64 = 40.0;
const BEHIND: f64 = 42.0;
const STEP: f64 = 12.0;
const ROW: f64 = 17.0;
/// Room for the tracks' names.
const LEFT: f64 = 118.0;
const WIDTH: f64 = LEFT + (BEFORE + BEHIND) * STEP;
/// Rows of one track. Those with a mark come first, for they are why it is drawn.
const ROWS: usize = 10;
/// What a letter takes, about.
const LETTER: f64 = 6.2;

/// Draws it. Empty: there is nothing to draw.
pub fn excerpt(input: &ReportInput) -> String {
    let timeline = Timeline::new(input, &Links::new(input), &Summary::new(&input.verdict).io_ends());
    let Some(centre) = centre(&timeline) else { return String::new() };
    let mut picture = Picture { from: centre - BEFORE, to: centre + BEHIND, svg: String::new() };
    let tops = picture.lanes(&timeline);
    for bar in &timeline.bars {
        picture.bar(bar, &tops);
    }
    picture.quiet(&timeline, &tops);
    for item in timeline.items.iter().filter(|item| !item.marks.is_empty() && item.track != Track::Device as usize) {
        picture.marked(item, &tops);
    }
    format!(
        "<svg class=\"excerpt\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Timeline around the first difference or fault: guest, device, replica\">{}</svg>",
        picture.svg,
        height = tops.height,
    )
}

/// Where to look: the first difference, else the first io_end with a finding, the first fault, the first error, the first event.
fn centre(timeline: &Timeline) -> Option<f64> {
    let difference = timeline.difference.first().map(|index| timeline.items[*index].at.x);
    let has = |mark: Mark| {
        let of_bar = timeline.bars.iter().find(|bar| bar.marks.contains(&mark)).map(|bar| bar.at.x);
        of_bar.or_else(|| timeline.items.iter().find(|item| item.marks.contains(&mark)).map(|item| item.at.x))
    };
    difference
        .or_else(|| has(Mark::Fault))
        .or_else(|| has(Mark::Finding))
        .or_else(|| has(Mark::Error))
        .or_else(|| timeline.items.first().map(|item| item.at.x + BEFORE))
}

/// Where each row that is in use lies.
struct Tops {
    of: BTreeMap<(usize, usize), f64>,
    height: f64,
}

struct Picture {
    from: f64,
    to: f64,
    svg: String,
}

impl Picture {
    fn x(&self, step: f64) -> f64 {
        LEFT + (step.clamp(self.from, self.to) - self.from) * STEP
    }

    fn sees(&self, at: f64, until: f64) -> bool {
        at <= self.to && until >= self.from
    }

    /// Backgrounds and names, and the rows that something lies in.
    fn lanes(&mut self, timeline: &Timeline) -> Tops {
        let rows = self.rows(timeline);
        let mut tops = Tops { of: BTreeMap::new(), height: 2.0 };
        let mut last = None;
        for (track, row) in rows {
            let of = Track::of_index(track);
            if last.is_some_and(|last: Track| last.lane() != of.lane()) {
                tops.height += 6.0;
            }
            let top = tops.height;
            self.put(format_args!(
                "<rect class=\"lane {}\" x=\"0\" y=\"{top}\" width=\"{WIDTH}\" height=\"{ROW}\"/>",
                of.lane()
            ));
            if last != Some(of) {
                let begins = last.is_none_or(|last: Track| last.lane() != of.lane());
                let name = if begins { format!("{}: {}", of.lane(), of.name()) } else { of.name().to_owned() };
                self.put(format_args!(
                    "<text class=\"name\" x=\"4\" y=\"{}\">{}</text>",
                    top + 12.0,
                    escape(&short(&name, 19))
                ));
            }
            tops.of.insert((track, row), top);
            tops.height += ROW;
            last = Some(of);
        }
        tops.height += 2.0;
        tops
    }

    /// Tracks and rows in use.
    fn rows(&self, timeline: &Timeline) -> BTreeSet<(usize, usize)> {
        let bars = timeline.bars.iter().map(|bar| ((bar.track, bar.row), self.sees(bar.at.x, end(bar)), &bar.marks));
        let items =
            timeline.items.iter().map(|item| ((item.track, item.row), self.sees(item.at.x, item.at.x), &item.marks));
        let mut marked: BTreeMap<(usize, usize), bool> = BTreeMap::new();
        for (row, _, marks) in bars.chain(items).filter(|(_, seen, _)| *seen) {
            *marked.entry(row).or_default() |= !marks.is_empty();
        }
        let mut rows: Vec<_> = marked.into_iter().collect();
        rows.sort_by_key(|((track, row), marked)| (*track, !marked, *row));
        let mut of_track: BTreeMap<usize, usize> = BTreeMap::new();
        let mut fits = |((track, _), _): &((usize, usize), bool)| {
            let count = of_track.entry(*track).or_default();
            *count += 1;
            *count <= ROWS
        };
        rows.into_iter().filter(|row| fits(row)).map(|(row, _)| row).collect()
    }

    fn bar(&mut self, bar: &Bar, tops: &Tops) {
        let (Some(top), true) = (tops.of.get(&(bar.track, bar.row)), self.sees(bar.at.x, end(bar))) else { return };
        let (left, right) = (self.x(bar.at.x), self.x(end(bar)));
        let width = (right - left).max(3.0);
        let lane = Track::of_index(bar.track).lane();
        let label = short(&bar.label, (width / LETTER) as usize);
        self.put(format_args!(
            "<rect class=\"bar {lane}{}\" x=\"{left:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"><title>{}</title></rect>",
            classes(&bar.marks),
            top + 2.0,
            ROW - 4.0,
            escape(&bar.label),
        ));
        self.put(format_args!("<text x=\"{:.1}\" y=\"{}\">{}</text>", left + 3.0, top + 12.0, escape(&label)));
    }

    /// Events without a mark, each a stroke; one path for a lane.
    fn quiet(&mut self, timeline: &Timeline, tops: &Tops) {
        let mut strokes: BTreeMap<&str, String> = BTreeMap::new();
        for item in timeline.items.iter().filter(|item| item.marks.is_empty() && item.track != Track::Device as usize) {
            if let (Some(top), true) = (tops.of.get(&(item.track, item.row)), self.sees(item.at.x, item.at.x)) {
                let path = strokes.entry(Track::of_index(item.track).lane()).or_default();
                let _ = write!(path, "M{:.1} {}v7", self.x(item.at.x), top + 5.0);
            }
        }
        for (lane, path) in strokes {
            self.put(format_args!("<path class=\"stroke {lane}\" d=\"{path}\"/>"));
        }
    }

    fn marked(&mut self, item: &Item, tops: &Tops) {
        let (Some(top), true) = (tops.of.get(&(item.track, item.row)), self.sees(item.at.x, item.at.x)) else { return };
        let x = self.x(item.at.x);
        self.put(format_args!(
            "<circle class=\"mark{}\" cx=\"{x:.1}\" cy=\"{}\" r=\"4.5\"><title>{}</title></circle>",
            classes(&item.marks),
            top + ROW / 2.0,
            escape(&item.text),
        ));
        if item.marks.contains(&Mark::Difference) {
            self.put(format_args!(
                "<text class=\"difference\" x=\"{:.1}\" y=\"{}\">{}</text>",
                x + 7.0,
                top + 12.0,
                escape(&item.label)
            ));
        }
    }

    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.svg.write_fmt(what).expect("a string takes all");
    }
}

/// What did not end reaches to the right edge and beyond.
fn end(bar: &Bar) -> f64 {
    bar.until.map_or(f64::INFINITY, |until| until.x)
}

fn classes(marks: &[Mark]) -> String {
    let word = |mark: &Mark| match mark {
        Mark::Fault => " fault",
        Mark::Error | Mark::HostError => " error",
        Mark::Finding => " finding",
        Mark::Difference => " difference",
    };
    marks.iter().map(word).collect()
}

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) if most < 3 => String::new(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::tests::all;
    use super::*;

    #[test]
    fn every_sample_gives_a_picture_of_bounded_size_in_which_no_text_is_markup() {
        for (name, input) in all() {
            let svg = excerpt(&input);
            assert_eq!(svg.is_empty(), name == "empty", "{name}");
            assert!(svg.len() < 40_000, "{name}: {} bytes", svg.len());
            assert!(!svg.contains("<img") && !svg.contains("NaN") && !svg.contains("inf"), "{name}");
        }
    }

    #[test]
    fn the_first_difference_is_in_the_middle_and_marked_on_both_sides() {
        let svg = excerpt(&samples::different());
        assert_eq!(svg.matches("<circle class=\"mark difference\"").count(), 2, "{svg}");
        let middle = LEFT + BEFORE * STEP;
        assert!(svg.contains(&format!("<circle class=\"mark difference\" cx=\"{middle:.1}\"")), "{svg}");
    }

    #[test]
    fn without_a_difference_it_shows_the_first_fault() {
        assert!(excerpt(&samples::error_on_one_bio()).contains("class=\"bar device fault"));
    }
}
