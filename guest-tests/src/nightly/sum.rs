//! What a night comes to: what is new, what is known, and the exit code. Pure.

use crate::failure::exit;
use night_results::{Canary, Known, Outcome, ResultLine, Unit, known_as};
use serde::Serialize;
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Units that are over, canaries aside.
    pub units: u64,
    /// Those with nothing to report.
    pub plain: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that could not be judged.
    pub unjudged: u64,
    /// Those that could not be run.
    pub infrastructure: u64,
    /// Failures that nobody has looked at, by signature.
    pub new: BTreeMap<String, Kind>,
    /// Failures that somebody has, by signature.
    pub known: BTreeMap<String, Kind>,
    /// Planted mistakes of which it is not shown that they would be noticed, with the reason.
    pub missed: Vec<String>,
}

/// All failures of one signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// How many.
    pub count: u64,
    /// The first in the order of units.
    pub first: String,
    /// Its signature in words, or its reason.
    pub text: String,
    /// Shows the first one again.
    pub repro: String,
}

/// Sums up. `today` is a day as 2027-01-31.
pub fn sum<'a>(lines: impl IntoIterator<Item = &'a ResultLine>, known: &[Known], today: &str) -> Sum {
    let mut sum = Sum::default();
    let mut canaries = BTreeMap::from([(Canary::Replica, None), (Canary::Device, None)]);
    for line in lines {
        match line.unit {
            Unit::Canary(canary) => drop(canaries.insert(canary, Some(line))),
            _ => sum.add(line, known, today),
        }
    }
    for (canary, line) in canaries {
        match line {
            None => sum.missed.push(format!("{}: was not run", Unit::Canary(canary))),
            Some(line) if line.is_missed_canary() => sum.missed.push(format!("{}: {}", line.unit, line.why)),
            Some(_) => {}
        }
    }
    sum
}

impl Sum {
    fn add(&mut self, line: &ResultLine, known: &[Known], today: &str) {
        self.units += 1;
        *match line.outcome {
            Outcome::Plain => &mut self.plain,
            Outcome::Failed => &mut self.failed,
            Outcome::Unjudged => &mut self.unjudged,
            Outcome::Infrastructure => &mut self.infrastructure,
        } += 1;
        if line.outcome == Outcome::Failed {
            let is_known = known_as(known, line, today).is_some();
            note(if is_known { &mut self.known } else { &mut self.new }, line);
        }
    }

    /// The exit code. A night whose canaries are missed says nothing, whatever else it found.
    pub fn exit_code(&self, canary_only: bool) -> u8 {
        let judged = self.plain + self.failed > 0 || canary_only;
        match () {
            () if !self.missed.is_empty() || !judged => exit::NOT_JUDGED,
            () if !self.new.is_empty() => exit::NOT_AS_EXPECTED,
            () => exit::AS_EXPECTED,
        }
    }
}

fn note(kinds: &mut BTreeMap<String, Kind>, line: &ResultLine) {
    let id = line.signature.as_ref().map_or_else(|| format!("unit {}", line.unit), |signature| signature.id.clone());
    let kind = kinds.entry(id).or_default();
    if kind.count == 0 {
        kind.first = line.unit.to_string();
        kind.text = line.signature.as_ref().map_or_else(|| line.why.clone(), |signature| signature.text.clone());
        kind.repro.clone_from(&line.repro);
    }
    kind.count += 1;
}

/// What a person reads at the end.
pub fn text(sum: &Sum) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "night      {} scenarios: {} plain, {} failed, {} unjudged, {} not run\n",
        sum.units, sum.plain, sum.failed, sum.unjudged, sum.infrastructure
    );
    for missed in &sum.missed {
        writeln!(text, "MISSED     {missed}").expect("a String takes everything");
    }
    for (name, kinds) in [("new", &sum.new), ("known", &sum.known)] {
        for (id, kind) in kinds {
            writeln!(text, "{name:<10} {id} {}x {}", kind.count, kind.text).expect("a String takes everything");
            if name == "new" && !kind.repro.is_empty() {
                writeln!(text, "  again    {}", kind.repro).expect("a String takes everything");
            }
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use night_results::{Signature, read_known};

    fn line(unit: &str, outcome: Outcome) -> ResultLine {
        ResultLine { outcome, ..ResultLine::new(unit.parse().unwrap(), "s", "6.1") }
    }

    fn night(canary: Outcome, others: &[Outcome]) -> Vec<ResultLine> {
        let mut lines = vec![line("canary/replica", Outcome::Plain), line("canary/device", canary)];
        lines.extend(others.iter().enumerate().map(|(n, outcome)| line(&format!("0.{n}"), *outcome)));
        lines
    }

    fn code(lines: &[ResultLine]) -> u8 {
        sum(lines, &[], "2026-11-23").exit_code(false)
    }

    #[test]
    fn a_night_is_green_only_with_something_judged_and_both_canaries_noticed() {
        use Outcome::{Failed, Infrastructure, Plain, Unjudged};
        assert_eq!(code(&night(Plain, &[Plain, Unjudged])), 0);
        assert_eq!(code(&night(Plain, &[Plain, Failed])), 1);
        assert_eq!(code(&night(Plain, &[Unjudged, Infrastructure])), 3, "nothing judged");
        assert_eq!(code(&night(Plain, &[])), 3, "nothing run");
        for missed in [Failed, Unjudged, Infrastructure] {
            assert_eq!(code(&night(missed, &[Plain, Failed])), 3, "a canary missed");
        }
        assert_eq!(code(&night(Plain, &[Plain])[1..]), 3, "a canary was not run");
    }

    #[test]
    fn what_is_known_is_no_news() {
        let mut lines = night(Outcome::Plain, &[Outcome::Failed, Outcome::Failed]);
        for line in &mut lines[2..] {
            line.signature = Some(Signature::of("stale"));
        }
        let known = r#"[{"signature": "stale", "reason": "r", "link": "e856f93e0fb2", "kernels": ["6.1"]}]"#;
        let known = read_known("known.json", known).unwrap();
        let sum = sum(&lines, &known, "2026-11-23");
        assert_eq!((sum.exit_code(false), sum.new.len(), sum.known[&Signature::of("stale").id].count), (0, 0, 2));
    }
}
