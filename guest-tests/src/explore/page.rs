//! What was searched and found as a page: each finding as a sequence picture and a table. Style of the run's report, no script,
//! nothing loaded.

use super::report::{Explored, Finding, Searched};
use crate::report::{STYLE, html};
use explorer::story::Step;
use std::fmt::Write as _;

const TEMPLATE: &str = include_str!("page.html");
const OWN_STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(explored: &Explored) -> String {
    let style = format!("{STYLE}\n{OWN_STYLE}");
    let policy =
        format!("default-src 'none'; style-src {}; base-uri 'none'; form-action 'none'", html::allow_inline(&style));
    let findings: String = explored.found.iter().map(finding).collect();
    html::fill(
        TEMPLATE,
        &[
            ("policy", &policy),
            ("style", &style),
            ("dialect", &html::escape(&explored.dialect)),
            ("outcome", &html::escape(&explored.outcome())),
            ("defects", &html::escape(&explored.defects())),
            ("repeat", &html::escape(&explored.repeat)),
            ("scopes", &scopes(&explored.scopes)),
            ("findings", &findings),
        ],
    )
}

fn scopes(scopes: &[Searched]) -> String {
    let mut rows = String::new();
    for scope in scopes {
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td>{} of {}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            html::escape(&scope.name),
            html::escape(&scope.who),
            scope.starts_done,
            scope.starts,
            scope.states,
            scope.moves,
            scope.depth,
            scope.beyond,
            html::escape(&scope.ended),
        );
    }
    format!(
        "<table><thead><tr><th>scope</th><th>who is in it</th><th>starts</th><th>states</th><th>moves tried</th><th>longest way</th>\
         <th>outside the bounds</th><th>ended</th></tr></thead><tbody>{rows}</tbody></table>"
    )
}

fn finding(finding: &Finding) -> String {
    format!(
        "<section class=\"card finding{}\"><h2>{}: {}</h2><p>{} <span class=\"muted\">{} moves in scope <code>{}</code>, from \
         <code>{}</code></span></p>{}<div class=\"wide\">{}</div><details><summary>All of it, step by step</summary>\
         <div class=\"wide\">{}</div></details><details><summary>The schedule</summary><pre>{}</pre></details></section>",
        if finding.expected { " expected" } else { "" },
        html::escape(&finding.property),
        html::escape(&finding.how),
        html::escape(&owed_to(finding)),
        finding.moves,
        html::escape(&finding.scope),
        html::escape(&finding.files.join(" and ")),
        finding.play.as_deref().map_or(String::new(), |play| {
            format!("<div class=\"repeat\"><span>Play it</span><code>{}</code></div>", html::escape(play))
        }),
        finding.picture,
        table(&finding.steps),
        html::escape(&finding.schedule),
    )
}

fn owed_to(finding: &Finding) -> String {
    match finding.causes.is_empty() {
        true => "No known defect had a part in it.".into(),
        false => format!("Owed to {}.", finding.causes.join(" and ")),
    }
}

fn table(steps: &[Step]) -> String {
    let mut rows = String::new();
    for step in steps {
        let class = if step.broken.is_empty() { "" } else { " class=\"broken\"" };
        let what = [std::slice::from_ref(&step.what), &step.broken].concat().join(" — ");
        let _ = write!(
            rows,
            "<tr{class}><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td><td class=\"muted\">{}</td></tr>",
            step.number,
            html::escape(&step.thread),
            html::escape(&step.function),
            html::escape(&what),
            html::escape(&step.counts),
        );
    }
    format!(
        "<table class=\"steps\"><thead><tr><th></th><th>thread</th><th>in</th><th>what</th><th>counts afterwards</th></tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}
