//! `report.html`: one run as a page that a person can read and pass on.
//!
//! The page holds everything it shows (data, style, scripts) and loads nothing. It is a pure function of its input, byte
//! for byte: no clock, no randomness. Whatever a scenario, a script or a guest wrote is text in it, never markup.
//!
//! ```text
//! input ─► links (what belongs to what) ─► axis (where) ─► timeline (items, bars) ─► story (per io_end) ─► data in the page
//! verdict.json ─► summary (in words) ─► page (what needs no script)
//! ```

mod axis;
mod bars;
mod excerpt;
mod input;
mod items;
mod links;
mod page;
mod perfetto;
mod rows;
mod story;
mod summary;
mod timeline;
mod words;

#[cfg(test)]
mod browser;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use input::{
    DeviceRequest, Expected, FaultDecision, FirstDifference, Match, OpRun, Phase, ReplicaResponse, ReportInput,
    ScenarioInfo,
};

pub use excerpt::excerpt;
pub use perfetto::trace;
pub use summary::finding_meaning;

use html_page::Page;
use links::Links;
use serde::Serialize;
use story::Story;
use summary::Summary;
use timeline::Timeline;

const TEMPLATE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/style.css");

/// In the order in which they build on each other; each opens with what it is for.
const SCRIPTS: &[&str] = &[
    include_str!("assets/problems.js"),
    include_str!("assets/page.js"),
    include_str!("assets/view.js"),
    include_str!("assets/layout.js"),
    include_str!("assets/glyphs.js"),
    include_str!("assets/overview.js"),
    include_str!("assets/draw.js"),
    include_str!("assets/details.js"),
    include_str!("assets/control.js"),
    include_str!("assets/stories.js"),
    include_str!("assets/table.js"),
    include_str!("assets/main.js"),
];

/// What the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    timeline: &'a Timeline,
    stories: Vec<Story>,
    /// The replica answered something: without that there is nothing to lay beside the guest.
    has_replica: bool,
}

/// Makes the page.
pub fn render(input: &ReportInput) -> String {
    let summary = Summary::new(&input.verdict);
    let timeline = timeline(input, &summary);
    let body = body(input, &summary, &timeline);
    Page { title: &input.scenario.name, style: STYLE, body: &body, script: &script() }.render()
}

fn body(input: &ReportInput, summary: &Summary, timeline: &Timeline) -> String {
    html_page::fill(
        TEMPLATE,
        &[
            ("verdict", &page::verdict(input, summary)),
            ("repeat", &page::repeat(input)),
            ("facts", &page::facts(input, summary)),
            ("difference", &page::difference(input, timeline)),
            ("findings", &page::findings(input, summary)),
            ("expectations", &page::expectations(input, summary, timeline)),
            ("operations", &page::operations(input, timeline)),
            ("phases", &page::phases(input)),
            ("data", &html_page::embed(&data(input, summary, timeline))),
        ],
    )
}

fn timeline(input: &ReportInput, summary: &Summary) -> Timeline {
    Timeline::new(input, &Links::new(input), &summary.io_ends())
}

fn data<'a>(input: &ReportInput, summary: &Summary, timeline: &'a Timeline) -> Data<'a> {
    Data {
        timeline,
        stories: story::stories(input, timeline, &summary.io_ends()),
        has_replica: !input.replica.is_empty(),
    }
}

/// One function around all files, so that none of their names meets the page's.
fn script() -> String {
    format!("(() => {{\n\"use strict\";\n{}\n}})();", SCRIPTS.join("\n"))
}
