//! ktap.txt: the same in the kernel's own form (Documentation/dev-tools/ktap.rst, version 1): a test per kernel, a subtest per unit.
//!
//! A known failure is `ok … # XFAIL` (as kselftest.h says it), what was not judged `ok … # SKIP`, what the machine lost `not ok … # ERROR`: the
//! directives that form has for them. A test of subtests is `not ok` if one of them is that neither expects nor explains it.

use crate::junit::{known_reason, message, suites};
use crate::night::Night;
use night_results::{Outcome, ResultLine};

const VERSION: &str = "KTAP version 1\n";

/// Makes it. The same night gives the same bytes.
pub fn ktap(night: &Night) -> String {
    let suites = suites(night);
    let mut text = format!("{VERSION}1..{}\n", suites.len());
    for (number, (name, lines)) in (1..).zip(&suites) {
        text += &format!("  {VERSION}  # Subtest: {}\n  1..{}\n", plain(name), lines.len());
        for (number, line) in (1..).zip(lines) {
            text += &subtest(night, number, line);
        }
        let good = lines.iter().all(|line| is_good(night, line));
        text += &format!("{} {number} {}\n", ok(good), plain(name));
    }
    text
}

fn ok(good: bool) -> &'static str {
    if good { "ok" } else { "not ok" }
}

/// A known failure is no news, and what was not judged is no failure.
fn is_good(night: &Night, line: &ResultLine) -> bool {
    match line.outcome {
        Outcome::Plain | Outcome::Unjudged => true,
        Outcome::Failed => known_reason(night, line).is_some(),
        Outcome::Infrastructure => false,
    }
}

fn subtest(night: &Night, number: usize, line: &ResultLine) -> String {
    let name = plain(&line.unit.to_string());
    let said = plain(&message(night, line));
    let result = match (line.outcome, known_reason(night, line)) {
        (Outcome::Plain, _) => format!("ok {number} {name}"),
        (Outcome::Unjudged, _) => format!("ok {number} {name} # SKIP {said}"),
        (Outcome::Infrastructure, _) => format!("not ok {number} {name} # ERROR {said}"),
        (Outcome::Failed, Some(_)) => format!("ok {number} {name} # XFAIL {said}"),
        (Outcome::Failed, None) => format!("not ok {number} {name}"),
    };
    let again = match (line.outcome, known_reason(night, line)) {
        (Outcome::Failed, None) => format!("  # {said}\n  # to see this again: {}\n", plain(&line.repro)),
        _ => String::new(),
    };
    format!("{again}  {}\n", result.trim_end())
}

/// Text for one line, in which nothing begins a directive.
fn plain(text: &str) -> String {
    let safe = |c: char| match c {
        '#' => '/',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(safe).collect::<String>().trim().to_owned()
}
