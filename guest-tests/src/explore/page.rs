//! What was searched and found as a page: each finding as a sequence picture and a table. Style of the run's report, no script,
//! nothing loaded.

use super::report::{Explored, Finding, Scope};
use explorer::story::Step;
use html_page::{Page, escape};
use std::fmt::Write as _;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(explored: &Explored) -> String {
    let findings: String = explored.found.iter().map(finding).collect();
    let body = html_page::fill(
        TEMPLATE,
        &[
            ("dialect", &escape(&explored.dialect)),
            ("outcome", &escape(&explored.outcome())),
            ("defects", &escape(&explored.defects())),
            ("repeat", &html_page::repeat("Show it again", &explored.repeat)),
            ("scopes", &scopes(&explored.scopes)),
            ("findings", &findings),
        ],
    );
    let title = format!("{} explored", explored.dialect);
    Page { title: &title, style: STYLE, body: &body, ..Page::default() }.render()
}

fn scopes(scopes: &[Scope]) -> String {
    let mut rows = String::new();
    for scope in scopes {
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td>{} of {}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(scope.name),
            escape(scope.who),
            scope.searched.starts_done,
            scope.searched.starts,
            scope.searched.states,
            scope.searched.moves,
            scope.searched.depth,
            scope.searched.beyond,
            scope.searched.ended.word(),
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
        escape(&finding.property),
        escape(&finding.how),
        escape(&owed_to(finding)),
        finding.moves,
        escape(&finding.scope),
        escape(&finding.files.join(" and ")),
        finding.play.as_deref().map_or(String::new(), |play| { html_page::repeat("Play it", play) }),
        finding.picture,
        table(&finding.steps),
        escape(&finding.schedule),
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
            escape(&step.thread),
            escape(&step.function),
            escape(&what),
            escape(&step.counts),
        );
    }
    format!(
        "<table class=\"steps\"><thead><tr><th></th><th>thread</th><th>in</th><th>what</th><th>counts afterwards</th></tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}
