//! What a person reads on the terminal: the verdict, its reason, the findings, where the files are, and the command that
//! shows it again.

use crate::verdict::{Lockstep, Outcome, Verdict};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on the progress of runs is not told: of many at once it would be nobody's.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Writes to stderr, so that stdout holds the result alone.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// The same for the progress of one run.
pub fn progress(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        say(text);
    }
}

/// The result of a run or a replay.
pub fn verdict(verdict: &Verdict, folder: &Path, repeat: &str) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| writeln!(text, "{label:<10} {value}").expect("a String takes everything");
    line("verdict", &headline(verdict));
    line("why", &verdict.why);
    line("kernel", &format!("{}, dialect {}{}", verdict.kernel, verdict.dialect, exactness(verdict)));
    let compared = &verdict.compared;
    line(
        "compared",
        &format!(
            "{} io_ends, {} bios, {} requests, {} responses",
            compared.io_ends, compared.bios, compared.requests, compared.responses
        ),
    );
    line("oracles", &oracles(verdict));
    if !verdict.fired.is_empty() {
        let rules: Vec<String> = verdict.fired.iter().map(|(rule, count)| format!("{rule} {count}x")).collect();
        line("fired", &rules.join(", "));
    }
    for finding in &verdict.findings {
        line("finding", &format!("{}: {}", finding.id, finding.what));
    }
    if let Some(difference) = &verdict.first_difference {
        line("parts at", &parts_at(difference));
    }
    line("report", &folder.join(crate::folder::REPORT).display().to_string());
    line("folder", &folder.display().to_string());
    line("again", repeat);
    text
}

/// Both sides of the first difference, each as its event.
fn parts_at(difference: &serde_json::Value) -> String {
    let side = |name: &str| match &difference[name] {
        serde_json::Value::Null => "nothing".to_owned(),
        event => event.to_string(),
    };
    format!("counter {}: guest {}, replica {}", difference["seq"], side("guest"), side("replica"))
}

fn headline(verdict: &Verdict) -> String {
    let expected = if verdict.as_expected { "as expected" } else { "NOT as expected" };
    format!("{} ({expected}, exit code {})", verdict.verdict, verdict.exit_code)
}

fn exactness(verdict: &Verdict) -> &'static str {
    match verdict.dialect.as_str() {
        "none" => "",
        _ if verdict.dialect_exact => "",
        _ => " (the nearest one; this very kernel is not in the table)",
    }
}

fn oracles(verdict: &Verdict) -> String {
    let value = serde_json::to_value(&verdict.oracles).unwrap_or_default();
    let one = |(name, says): (&String, &serde_json::Value)| format!("{name} {}", says.as_str().unwrap_or("?"));
    value.as_object().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// The word for a lockstep that was compared.
pub fn lockstep_of(outcome: Outcome) -> Lockstep {
    match outcome {
        Outcome::Same => Lockstep::Same,
        Outcome::Allowed => Lockstep::Allowed,
        Outcome::Different => Lockstep::Different,
        Outcome::Unjudged => Lockstep::Unjudged,
    }
}

/// A word of a command line as a shell takes it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_through_a_shell_as_it_was() {
        assert_eq!(quote("scenarios/clean.json"), "scenarios/clean.json");
        assert_eq!(quote("my disk"), "'my disk'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
