//! `bench.html`: the same numbers as bars. It holds everything it shows, runs no script and loads nothing.

use super::result::{CaseResult, Report, ServerResult};
use super::text::thousands;
use html_page::{Page, escape};

const STYLE: &str = include_str!("page.css");
const WIDTH: f64 = 520.0;
const ROW: usize = 26;
const LABEL: f64 = 250.0;

/// Makes the page.
pub fn render(report: &Report) -> String {
    let cases: String = report.cases.iter().map(case).collect();
    let body = format!(
        "<main><section class=\"card\"><h1>vhost-blk and its peers</h1>\n{}{}</section>\n{cases}{}</main>",
        machine(report),
        goals(report),
        html_page::repeat("To measure again", &report.repeat),
    );
    Page { title: "vhost-blk and its peers", style: STYLE, body: &body, ..Page::default() }.render()
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let skipped: String = report.skipped.iter().map(|why| format!("<p class=\"missed\">{}</p>", escape(why))).collect();
    format!(
        "<p>{}, {} CPUs, {} MiB, Linux {}; load {:.1} before, {:.1} after. {}. {} rounds in turns, {} ms each, {} MiB of disk. \
         Bars are medians, lines their spread.</p>{skipped}\n",
        escape(&machine.cpu),
        machine.cpus,
        machine.memory_mib,
        escape(&machine.kernel),
        machine.load_before,
        machine.load_after,
        escape(&machine.versions.join("; ")),
        report.rounds,
        report.sample_ms,
        report.span_bytes >> 20,
    )
}

fn goals(report: &Report) -> String {
    let line = |goal: &super::result::Goal| {
        let (class, word) = if goal.is_met() { ("met", "met") } else { ("missed", "missed") };
        let sign = if goal.at_least { "≥" } else { "≤" };
        format!(
            "<tr><td>{}</td><td>{sign} {} {}</td><td>{:.2}</td><td class=\"{class}\">{word}</td></tr>",
            goal.measure, goal.goal, goal.unit, goal.number
        )
    };
    let lines: String = report.goals.iter().map(line).collect();
    format!("<table><tr><th>measure</th><th>goal</th><th>measured</th><th></th></tr>{lines}</table>\n")
}

fn case(case: &CaseResult) -> String {
    let by = if case.goes_by_cpu() { "CPU second of client and server" } else { "second" };
    let most = case.servers.iter().map(|server| server.spread(case.rate()).1).fold(1.0, f64::max);
    let bars: String = case.servers.iter().enumerate().map(|(row, server)| bar(case, server, row, most)).collect();
    let height = case.servers.len() * ROW;
    format!(
        "<section class=\"card\"><h2>{}</h2><p class=\"muted\">requests per {by}; server CPU per request; peak memory</p>\
         <svg viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">{bars}</svg></section>\n",
        escape(&case.title),
        LABEL + WIDTH + 260.0,
        escape(&case.title),
    )
}

fn bar(case: &CaseResult, server: &ServerResult, row: usize, most: f64) -> String {
    let (median, (least, top)) = (server.median(case.rate()), server.spread(case.rate()));
    let (y, at) = (row * ROW, |number: f64| LABEL + number / most * WIDTH);
    let class = if server.server.starts_with("vhost-blk") { "ours" } else { "peer" };
    let middle = y + ROW / 2;
    format!(
        "<text x=\"{}\" y=\"{}\" class=\"name\">{}</text><rect x=\"{LABEL}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" class=\"{class}\"/>\
         <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/><text x=\"{:.1}\" y=\"{}\">{} · {:.2} us · {:.1} MiB</text>",
        LABEL - 8.0,
        middle + 5,
        escape(&server.server),
        y + 3,
        at(median) - LABEL,
        ROW - 6,
        at(least),
        at(top),
        at(top) + 8.0,
        middle + 5,
        thousands(median),
        server.median(|sample| sample.server_us),
        server.spread(|sample| sample.peak_kib as f64).1 / 1024.0,
    )
}
