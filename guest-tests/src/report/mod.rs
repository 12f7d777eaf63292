//! `report.html`: one run as a page that a person can read and pass on.
//!
//! The page holds everything it shows (data, style, scripts) and loads nothing. It is a pure function of its input, byte
//! for byte: no clock, no randomness. Whatever a scenario, a script or a guest wrote is text in it, never markup.

mod input;

pub use input::{
    DeviceRequest, Expected, FaultDecision, FirstDifference, Match, OpRun, Phase, ReplicaResponse, ReportInput,
    ScenarioInfo,
};

/// Makes the page.
pub fn render(input: &ReportInput) -> String {
    let verdict = input.verdict["verdict"].as_str().unwrap_or("unjudged");
    format!("<!doctype html><meta charset=\"utf-8\"><title>guest-tests</title><p>{}</p>\n", escape(verdict))
}

/// Makes any text safe between tags and in quoted attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
