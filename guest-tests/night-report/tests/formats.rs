//! summary.json, junit.xml and KTAP, read by what reads them.

use night_report::{Rate, Summary, junit, ktap, samples};
use quick_junit::{NonSuccessKind, Report, TestCaseStatus};
use std::collections::BTreeMap;

#[test]
fn a_summary_reads_back_as_it_was_written() {
    let summary = Summary::of(&samples::busy());
    assert_eq!(Summary::read("summary.json", &summary.to_text()), Ok(summary));
}

#[test]
fn a_damaged_or_foreign_summary_is_refused_with_its_place_and_a_remedy() {
    let text = Summary::of(&samples::quiet(1, 3)).to_text();
    for (from, to, wanted) in [
        ("\"summary\": 1", "\"summary\": 7", "form 7"),
        ("\"boots\": 12", "\"boots\": -1", "boots"),
        ("\"began\"", "\"begun\"", "began"),
    ] {
        let said = Summary::read("last/summary.json", &text.replace(from, to)).expect_err("it is refused").to_string();
        assert!(
            said.contains(wanted) && said.starts_with("last/summary.json: ") && said.contains("report DIR"),
            "{said}"
        );
    }
}

/// Other programs read these names: they are added to, never renamed.
#[test]
fn the_fields_of_a_summary_have_the_names_that_are_documented() {
    let json: serde_json::Value = serde_json::from_str(&Summary::of(&samples::busy()).to_text()).expect("JSON");
    let names = |at: &str| -> Vec<String> {
        json.pointer(at).and_then(|value| value.as_object()).expect(at).keys().cloned().collect()
    };
    let documented = include_str!("../../../docs/nightly-report.md");
    for at in [
        "",
        "/scenarios",
        "/failure_rate",
        "/signatures/0",
        "/absent/0",
        "/coverage",
        "/coverage/faults",
        "/coverage/pairs",
    ] {
        for name in names(at) {
            assert!(documented.contains(&format!("`{name}`")), "docs/nightly-report.md does not tell {at}/{name}");
        }
    }
    assert_eq!(json["failure_rate"]["of"], 396);
    assert_eq!(json["signatures"][0]["status"], "new");
}

#[test]
fn junit_counts_a_known_failure_and_what_was_not_judged_as_skipped_and_never_as_passed() {
    let text = junit(&samples::busy());
    let report = Report::deserialize_from_str(&text).expect("what reads JUnit can read it");
    assert_eq!((report.tests, report.failures, report.errors), (402, 3, 1));
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for case in report.test_suites.iter().flat_map(|suite| &suite.test_cases) {
        let word = match &case.status {
            TestCaseStatus::Success { .. } => "success",
            TestCaseStatus::Skipped { .. } => "skipped",
            TestCaseStatus::NonSuccess { kind: NonSuccessKind::Failure, .. } => "failure",
            TestCaseStatus::NonSuccess { .. } => "error",
        };
        *counted.entry(word).or_default() += 1;
    }
    assert_eq!(counted, [("error", 1), ("failure", 3), ("skipped", 7), ("success", 391)].into());
    let suites: Vec<&str> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!(suites, ["5.10", "6.1", "6.12", "7.2", "canary"]);
}

#[test]
fn the_same_night_gives_the_same_junit_and_ktap_byte_for_byte() {
    assert_eq!(junit(&samples::busy()), junit(&samples::busy()));
    assert_eq!(ktap(&samples::busy()), ktap(&samples::busy()));
}

/// A test as KTAP has it.
#[derive(Debug, PartialEq)]
struct Test {
    ok: bool,
    name: String,
    directive: String,
    subtests: Vec<Test>,
}

/// Reads KTAP version 1 strictly: nothing but version, plan, results in turn, diagnostics, and subtests two spaces in.
fn parse(lines: &mut std::iter::Peekable<std::str::Lines<'_>>, indent: usize) -> Vec<Test> {
    let head = " ".repeat(indent);
    assert_eq!(lines.next(), Some(format!("{head}KTAP version 1").as_str()));
    let mut next = || loop {
        let line = lines.peek().copied()?;
        if line.trim_start().starts_with("# ") {
            lines.next();
        } else {
            return Some(line);
        }
    };
    let plan =
        next().expect("a plan").trim_start().strip_prefix("1..").expect("a plan").parse::<usize>().expect("a number");
    lines.next();
    (1..=plan)
        .map(|number| {
            let mut subtests = Vec::new();
            while let Some(line) = lines.peek().copied() {
                if line == format!("{head}  KTAP version 1") {
                    subtests = parse(lines, indent + 2);
                } else if line.trim_start().starts_with("# ") {
                    lines.next();
                } else {
                    break;
                }
            }
            let line = lines.next().expect("a result").strip_prefix(head.as_str()).expect("at its indentation");
            result(line, number, subtests)
        })
        .collect()
}

fn result(line: &str, number: usize, subtests: Vec<Test>) -> Test {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ").expect("a result")),
    };
    let (counted, rest) = rest.split_once(' ').expect("a name");
    assert_eq!(counted.parse::<usize>().expect("a number"), number, "{line}");
    let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
    assert!(!name.contains('#'), "{line}");
    Test { ok, name: name.to_owned(), directive: directive.split(' ').next().unwrap_or_default().to_owned(), subtests }
}

#[test]
fn ktap_reads_as_the_kernels_form_and_a_test_fails_with_its_subtests() {
    let text = ktap(&samples::busy());
    let mut lines = text.lines().peekable();
    let tests = parse(&mut lines, 0);
    assert_eq!(lines.next(), None, "nothing behind it");
    let names: Vec<(&str, bool, usize)> =
        tests.iter().map(|test| (test.name.as_str(), test.ok, test.subtests.len())).collect();
    assert_eq!(
        names,
        [("5.10", false, 128), ("6.1", true, 128), ("6.12", true, 80), ("7.2", true, 64), ("canary", true, 2)]
    );
    let all = || tests.iter().flat_map(|test| &test.subtests);
    let count = |ok: bool, directive: &str| all().filter(|test| test.ok == ok && test.directive == directive).count();
    assert_eq!(
        [count(true, ""), count(false, ""), count(true, "SKIP"), count(true, "XFAIL"), count(false, "ERROR")],
        [391, 3, 3, 4, 1]
    );
}

#[test]
fn a_reason_with_a_hash_or_a_line_end_stays_on_its_line() {
    let mut night = samples::busy();
    night.results.values_mut().for_each(|line| line.why = "one # SKIP\nok 1 forged".into());
    let text = ktap(&night);
    assert!(!text.contains("\nok 1 forged") && !text.contains("one # SKIP"));
    parse(&mut text.lines().peekable(), 0);
}

#[test]
fn a_rate_without_tries_says_that_nothing_is_known() {
    assert_eq!(Rate::of(0, 0).high, 1.0);
}
