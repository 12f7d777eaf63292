//! junit.xml: a suite per kernel, a case per unit, for whoever shows tests of a CI.
//!
//! A failure that known.json has is skipped with its reason, so that it turns nothing red; what was not judged is skipped
//! with its reason too, for it is no pass. What the machine lost is an error.

use crate::night::{Night, signature};
use night_results::{Again, Outcome, ResultLine, Unit};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::collections::BTreeMap;
use std::time::Duration;

/// Makes it. The same night gives the same bytes.
pub fn junit(night: &Night) -> String {
    let mut report = Report::new("nightly");
    report.set_time(Duration::from_millis(night.state.worked_ms));
    report.add_test_suites(suites(night).into_iter().map(|(name, lines)| suite(night, &name, &lines)));
    report.to_string().expect("text that was made safe becomes XML")
}

/// Units by kernel; the planted mistakes by themselves.
pub(crate) fn suites(night: &Night) -> BTreeMap<String, Vec<&ResultLine>> {
    let mut suites: BTreeMap<String, Vec<&ResultLine>> = BTreeMap::new();
    for line in night.results.values() {
        let name = if matches!(line.unit, Unit::Canary(_)) { "canary".to_owned() } else { line.series.clone() };
        suites.entry(name).or_default().push(line);
    }
    suites
}

fn suite(night: &Night, name: &str, lines: &[&ResultLine]) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.set_time(Duration::from_millis(lines.iter().map(|line| line.took_ms).sum()));
    suite.add_test_cases(lines.iter().map(|line| case(night, name, line)));
    suite
}

fn case(night: &Night, suite: &str, line: &ResultLine) -> TestCase {
    let mut case = TestCase::new(line.unit.to_string(), status(night, line));
    case.set_classname(format!("nightly.{suite}")).set_time(Duration::from_millis(line.took_ms));
    if line.outcome != Outcome::Plain {
        case.set_system_out(format!("{}\n{}\nto see this again: {}", line.scenario, line.why, line.repro));
    }
    case
}

fn status(night: &Night, line: &ResultLine) -> TestCaseStatus {
    let mut status = match line.outcome {
        Outcome::Plain => return TestCaseStatus::success(),
        Outcome::Unjudged => TestCaseStatus::skipped(),
        Outcome::Infrastructure => TestCaseStatus::non_success(NonSuccessKind::Error),
        Outcome::Failed if known_reason(night, line).is_some() => TestCaseStatus::skipped(),
        Outcome::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    status.set_message(message(night, line));
    if line.outcome == Outcome::Failed {
        let signature = signature(line);
        status.set_type(signature.id);
        status.set_description(signature.text);
    }
    status
}

/// What it says of a unit in one line.
pub(crate) fn message(night: &Night, line: &ResultLine) -> String {
    match (line.outcome, known_reason(night, line)) {
        (Outcome::Failed, Some(reason)) => format!("known: {reason}"),
        (Outcome::Failed, None) => format!("{}{}", line.why, flaky(line)),
        (Outcome::Unjudged, _) => format!("not judged: {}", line.why),
        _ => line.why.clone(),
    }
}

fn flaky(line: &ResultLine) -> String {
    let flaky = line.triage.as_ref().filter(|triage| triage.again == Again::Flaky);
    flaky.map_or_else(String::new, |triage| format!(" (flaky: {} of {})", triage.shown, triage.tried))
}

/// Why a failure is known, if it is.
pub(crate) fn known_reason<'a>(night: &'a Night, line: &ResultLine) -> Option<&'a str> {
    let signature = signature(line);
    let covers = night.known.iter().find(|known| known.covers(&signature, &line.series, night.asked.day()));
    covers.filter(|_| !matches!(line.unit, Unit::Canary(_))).map(|known| known.reason.as_str())
}
