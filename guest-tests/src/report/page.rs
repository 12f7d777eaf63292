//! The parts of the page that can be read without a script: verdict, first difference, findings, expectations, operations,
//! stages. The script adds the timeline, the stories and the table of events.

use super::input::{FirstDifference, OpRun, ReportInput};
use super::summary::{Finding, Summary, finding_meaning};
use super::timeline::{Item, Origin, Timeline};
use super::words;
use html_page::escape;
use std::collections::BTreeMap;
use std::fmt::Write;
use writeback_events::{Body, OpId, Response, Stimulus};

/// Banner: the verdict in words.
pub(super) fn verdict(input: &ReportInput, summary: &Summary) -> String {
    let tone = summary.tone();
    let why =
        if summary.why.is_empty() { String::new() } else { format!("<p class=\"why\">{}</p>", escape(&summary.why)) };
    format!(
        "<section id=\"verdict\" class=\"card {class}\" data-verdict=\"{word}\">\
         <div class=\"sign\" aria-hidden=\"true\">{sign}</div><div class=\"words\">\
         <p class=\"scenario\">{name}</p><h1>{headline}</h1>{why}\
         <dl class=\"plain\"><div><dt>What was run</dt><dd>{run}</dd></div>\
         <div><dt>What was found</dt><dd>{found}</dd></div>\
         <div><dt>What it means</dt><dd>{meaning}</dd></div></dl></div></section>",
        class = tone.class(),
        word = format!("{:?}", summary.word).to_lowercase(),
        sign = tone.sign(),
        name = scenario(input),
        headline = escape(&summary.headline()),
        run = escape(&summary.run(input)),
        found = escape(&summary.found(input)),
        meaning = escape(&summary.meaning(input)),
    )
}

fn scenario(input: &ReportInput) -> String {
    let why = &input.scenario.why;
    let why = if why.is_empty() { String::new() } else { format!(" <span class=\"muted\">{}</span>", escape(why)) };
    format!("<strong>{}</strong>{why}", escape(&input.scenario.name))
}

/// Numbers that a reader compares between reports.
pub(super) fn facts(input: &ReportInput, summary: &Summary) -> String {
    let exact = if summary.dialect_exact { "" } else { " (nearest known; this kernel is not in the table)" };
    let or_not = |known: &str, text: String| if known.is_empty() { "not known".into() } else { text };
    let mut facts = vec![
        ("verdict".to_owned(), format!("{:?}", summary.word).to_lowercase()),
        ("kernel".into(), or_not(&summary.kernel, summary.kernel.clone())),
        ("dialect".into(), or_not(&summary.dialect, format!("{}{exact}", summary.dialect))),
    ];
    if let Some(as_expected) = summary.as_expected {
        facts.push(("as expected".into(), if as_expected { "yes" } else { "no" }.into()));
    }
    facts.extend(input.scenario.seed.map(|seed| ("seed".into(), seed.to_string())));
    let compared = summary.compared.iter().filter_map(|(key, n)| n.map(|n| (format!("{key} compared"), n.to_string())));
    facts.extend(compared);
    facts.extend(summary.oracles.iter().cloned());
    let mut html = String::from("<dl class=\"facts\">");
    for (key, value) in facts {
        let _ = write!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(&key), escape(&value));
    }
    html + "</dl>"
}

/// The command that shows it again.
pub(super) fn repeat(input: &ReportInput) -> String {
    if input.repeat.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"repeat\"><span id=\"repeat-label\">Show it again</span>\
         <code id=\"repeat\" tabindex=\"0\" aria-labelledby=\"repeat-label\">{}</code>\
         <button type=\"button\" id=\"copy\">Copy</button><span id=\"copied\" role=\"status\"></span></div>",
        escape(&input.repeat)
    )
}

/// The first difference, guest and replica side by side.
pub(super) fn difference(input: &ReportInput, timeline: &Timeline) -> String {
    let Some(difference) = &input.first_difference else { return String::new() };
    let mut buttons = String::new();
    if let Some(item) = timeline.difference.first() {
        buttons += &goto(*item, "Show on the timeline");
    }
    if let Some(io_end) = difference.io_end {
        buttons += &story(io_end.0);
    }
    format!(
        "<section id=\"first-difference\" class=\"card\" data-seq=\"{seq}\"><h2>First difference</h2>\
         <p>{text} <span class=\"muted\">At {seq} of the guest's trace.</span></p>\
         {sides}<p class=\"buttons\">{buttons}</p></section>",
        seq = difference.seq,
        text = escape(&difference.text),
        sides = sides(difference),
    )
}

/// Both sides' responses; nothing where it is not about a response (a rule of the path itself is broken).
fn sides(difference: &FirstDifference) -> String {
    if difference.guest.is_none() && difference.replica.is_none() {
        return String::new();
    }
    let side = |response: &Option<Response>| match response {
        Some(response) => format!("<p>{}</p>{}", escape(&words::response(response).text), raw(response)),
        None => "<p class=\"muted\">nothing of the kind</p>".into(),
    };
    format!(
        "<div class=\"sides\"><div class=\"guest\"><h3>The guest</h3>{}</div>\
         <div class=\"replica\"><h3>The replica</h3>{}</div></div>",
        side(&difference.guest),
        side(&difference.replica)
    )
}

fn raw(response: &Response) -> String {
    let json = serde_json::to_string(response).expect("a response is plain data");
    format!("<pre>{}</pre>", escape(&json))
}

fn goto(item: usize, text: &str) -> String {
    format!("<button type=\"button\" data-goto=\"{item}\">{text}</button> ")
}

fn story(io_end: u32) -> String {
    format!("<button type=\"button\" data-story=\"{io_end}\">Story of io_end {io_end}</button> ")
}

/// Findings and allowed differences.
pub(super) fn findings(input: &ReportInput, summary: &Summary) -> String {
    let mut html = String::from("<section id=\"findings\" class=\"card\"><h2>Findings</h2>");
    if summary.findings.is_empty() {
        let _ = write!(html, "<p class=\"muted\">{}</p>", summary.no_finding());
    } else {
        html += "<ul class=\"findings\">";
        summary.findings.iter().for_each(|finding| html += &one_finding(input, finding));
        html += "</ul>";
    }
    html += &missing_findings(input, summary);
    if !summary.allowed.is_empty() {
        html += "<h3>Allowed differences</h3><ul>";
        for allowed in &summary.allowed {
            let _ = write!(html, "<li><code>{}</code></li>", escape(allowed));
        }
        html += "</ul>";
    }
    html + "</section>"
}

fn one_finding(input: &ReportInput, finding: &Finding) -> String {
    let expected = input.expected.as_ref().map(|expected| expected.findings.contains(&finding.id));
    let chip = match expected {
        Some(true) => "<span class=\"chip\">expected</span>",
        Some(false) => "<span class=\"chip bad\">not expected</span>",
        None => "",
    };
    let details = finding.details.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(" · ");
    format!(
        "<li><strong>{id}</strong> {chip}<p>{what}</p><p class=\"muted\">{meaning}</p>\
         <p class=\"muted\">{details}</p>{story}</li>",
        id = escape(&finding.id),
        what = escape(&finding.what),
        meaning = escape(finding_meaning(&finding.id).unwrap_or("")),
        details = escape(&details),
        story = finding.io_end.map(|io_end| story(io_end.0)).unwrap_or_default(),
    )
}

fn missing_findings(input: &ReportInput, summary: &Summary) -> String {
    let expected = input.expected.iter().flat_map(|expected| &expected.findings);
    let missing = expected.filter(|id| !summary.findings.iter().any(|finding| finding.id == **id));
    missing
        .map(|id| format!("<p><span class=\"chip bad\">expected, not found</span> <strong>{}</strong></p>", escape(id)))
        .collect()
}

/// Expectations, and how often each rule fired.
pub(super) fn expectations(input: &ReportInput, summary: &Summary, timeline: &Timeline) -> String {
    let mut html = String::from("<section id=\"rules\" class=\"card\"><h2>Expected, and fired</h2>");
    html += &match &input.expected {
        None => "<p class=\"muted\">The scenario names no expectation for this kernel.</p>".to_owned(),
        Some(expected) => {
            let verdict = expected.verdict.as_deref().unwrap_or("any");
            let findings = if expected.findings.is_empty() { "none".into() } else { expected.findings.join(", ") };
            format!("<p>Expected verdict: {}. Expected findings: {}.</p>", escape(verdict), escape(&findings))
        }
    };
    let rules = rules(input, summary);
    if rules.is_empty() {
        return html + "<p class=\"muted\">The fault script has no rule.</p></section>";
    }
    html += "<table><thead><tr><th>Rule</th><th>Does</th><th>Fired</th><th>Expected</th><th></th></tr></thead><tbody>";
    rules.iter().for_each(|(rule, fired)| html += &rule_row(rule, *fired, input, timeline));
    html + "</tbody></table></section>"
}

/// Every rule that is named anywhere, with how often it fired.
fn rules(input: &ReportInput, summary: &Summary) -> BTreeMap<String, u64> {
    let mut rules = BTreeMap::<String, u64>::new();
    let expected = input.expected.iter().flat_map(|expected| expected.fired.keys());
    rules.extend(expected.map(|rule| (rule.clone(), 0)));
    for rule in input.device.iter().flat_map(|request| &request.fired) {
        *rules.entry(rule.clone()).or_default() += 1;
    }
    // The verdict's own counts are the ones that were judged.
    rules.extend(summary.fired.iter().cloned());
    rules
}

fn rule_row(rule: &str, fired: u64, input: &ReportInput, timeline: &Timeline) -> String {
    let range = input.expected.as_ref().and_then(|expected| expected.fired.get(rule));
    let expected = match range {
        None => "–".into(),
        Some((least, most)) if *least <= fired && most.is_none_or(|most| fired <= most) => {
            format!("{} <span class=\"chip\">met</span>", times(*least, *most))
        }
        Some((least, most)) => format!("{} <span class=\"chip bad\">not met</span>", times(*least, *most)),
    };
    let action = input.decisions.iter().find(|decision| decision.rule == rule);
    let action = action.map(|decision| format!("{}: {}", decision.action, decision.text)).unwrap_or_default();
    let first = timeline.items.iter().position(|item| fired_on(item, rule, input));
    format!(
        "<tr><td><code>{}</code></td><td>{}</td><td>{fired}</td><td>{expected}</td><td>{}</td></tr>",
        escape(rule),
        escape(&action),
        first.map(|item| goto(item, "Show first")).unwrap_or_default(),
    )
}

fn times(least: u64, most: Option<u64>) -> String {
    match most {
        Some(most) if most == least => least.to_string(),
        Some(most) => format!("{least} to {most}"),
        None => format!("{least} or more"),
    }
}

fn fired_on(item: &Item, rule: &str, input: &ReportInput) -> bool {
    matches!(item.origin, Origin::Device(index) if input.device[index].fired.iter().any(|fired| fired == rule))
}

/// The workload's operations.
pub(super) fn operations(input: &ReportInput, timeline: &Timeline) -> String {
    if input.ops.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section id=\"operations\" class=\"card\"><h2>Operations</h2><table><thead><tr><th>#</th><th>Operation</th>\
         <th>Result</th><th class=\"wide\">Data</th><th></th></tr></thead><tbody>",
    );
    input.ops.iter().for_each(|run| html += &op_row(run, input, timeline));
    html + "</tbody></table></section>"
}

fn op_row(run: &OpRun, input: &ReportInput, timeline: &Timeline) -> String {
    let expected = run.expected_errno.unwrap_or(0);
    let result = run.errno.map_or_else(|| "did not come back".into(), words::errno_name);
    let chip = match run.errno {
        Some(errno) if errno == expected && errno != 0 => "<span class=\"chip\">expected</span>".to_owned(),
        Some(errno) if errno == expected => String::new(),
        _ => format!("<span class=\"chip bad\">expected {}</span>", words::errno_name(expected)),
    };
    let begins = timeline.items.iter().position(|item| begins(item, run.op, input));
    format!(
        "<tr><td>{}</td><td><strong>{}</strong> {}</td><td>{} {chip}</td><td class=\"wide\">{}</td><td>{}</td></tr>",
        run.op,
        escape(&run.kind),
        escape(&run.args),
        escape(&result),
        escape(&run.result),
        begins.map(|item| goto(item, "Show")).unwrap_or_default(),
    )
}

fn begins(item: &Item, wanted: OpId, input: &ReportInput) -> bool {
    let Origin::Guest(index) = item.origin else { return false };
    matches!(input.guest[index].body, Body::Stimulus(Stimulus::OpBegins { op, .. }) if op == wanted)
}

/// Colours that the style has for stages.
const PHASE_COLOURS: usize = 9;

/// The run's stages as one bar.
pub(super) fn phases(input: &ReportInput) -> String {
    let total: u64 = input.phases.iter().map(|phase| phase.took_ms).sum();
    if total == 0 {
        return String::new();
    }
    let (mut bar, mut list, mut at) = (String::new(), String::new(), 0.0);
    for (index, phase) in input.phases.iter().enumerate() {
        let width = phase.took_ms as f64 * 1000.0 / total as f64;
        let class = index % PHASE_COLOURS;
        let _ = write!(bar, "<rect class=\"phase{class}\" x=\"{at:.2}\" y=\"0\" width=\"{width:.2}\" height=\"20\"/>");
        let _ = write!(
            list,
            "<li><svg class=\"swatch\" aria-hidden=\"true\"><rect class=\"phase{class}\" width=\"12\" height=\"12\"/></svg>\
             {} <strong>{} ms</strong></li>",
            escape(&phase.name),
            phase.took_ms
        );
        at += width;
    }
    format!(
        "<section id=\"phases\" class=\"card\"><h2>Where the time went</h2>\
         <svg class=\"phases\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{bar}</svg>\
         <ul class=\"phases\">{list}<li>together <strong>{total} ms</strong></li></ul></section>"
    )
}
