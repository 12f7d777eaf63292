//! The numbers as Markdown: what stdout shows, and what docs/performance.md quotes.

use super::result::{CaseResult, Goal, Report, Sample, ServerResult};
use std::fmt::Write;

/// Machine, goals, and a table for each case.
pub fn describe(report: &Report) -> String {
    let mut text = machine(report);
    if !report.goals.is_empty() {
        text += "\n| measure | goal | measured | |\n|---|---|---|---|\n";
        report.goals.iter().for_each(|goal| text += &goal_line(goal));
    }
    report.cases.iter().for_each(|case| text += &table(case));
    text
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} CPUs, {} MiB, Linux {}; load {:.1} before, {:.1} after; {}.\n\
         {} rounds in turns, {} ms each, {} MiB of disk.\n",
        machine.cpu,
        machine.cpus,
        machine.memory_mib,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        machine.versions.join("; "),
        report.rounds,
        report.sample_ms,
        report.span_bytes >> 20,
    );
    report.skipped.iter().for_each(|why| _ = writeln!(text, "Not measured: {why}."));
    text
}

fn goal_line(goal: &Goal) -> String {
    let (sign, unit) = (if goal.at_least { "≥" } else { "≤" }, goal.unit);
    let met = if goal.is_met() { "met" } else { "**missed**" };
    format!("| {} | {sign} {} {unit} | {:.2} {unit} | {met} |\n", goal.measure, goal.goal, goal.number)
}

fn table(case: &CaseResult) -> String {
    let by = if case.goes_by_cpu() { "CPU second" } else { "second" };
    let mut text = format!(
        "\n**{}** (`{}`)\n\n| server | requests per {by} | spread | ratio | requests/s | MiB/s | server us/request | peak MiB (own) |\n\
         |---|---|---|---|---|---|---|---|\n",
        case.title, case.id
    );
    let first = case.servers.first().map_or(0.0, |server| server.median(case.rate()));
    case.servers.iter().for_each(|server| text += &line(server, case.rate(), first));
    text
}

fn line(server: &ServerResult, rate: fn(&Sample) -> f64, first: f64) -> String {
    let (median, (least, most)) = (server.median(rate), server.spread(rate));
    let mib = |of: fn(&Sample) -> f64| server.spread(of).1 / 1024.0;
    format!(
        "| {} | {} | {} – {} | {:.2} | {} | {:.0} | {:.2} | {:.1} ({:.1}) |\n",
        server.server,
        thousands(median),
        thousands(least),
        thousands(most),
        if first > 0.0 { median / first } else { 0.0 },
        thousands(server.median(|sample| sample.per_second)),
        server.median(|sample| sample.mib_per_second),
        server.median(|sample| sample.server_us),
        mib(|sample| sample.peak_kib as f64),
        mib(|sample| sample.own_kib as f64),
    )
}

/// 123.4 k
pub fn thousands(number: f64) -> String {
    if number < 10_000.0 { format!("{:.2} k", number / 1e3) } else { format!("{:.1} k", number / 1e3) }
}
