//! How fast scenarios came: by the clock, and by the CPU, which tells what a machine full of guests would do. A script that
//! waits by wall time leaves the CPU idle meanwhile, so those that do and those that do not are told apart.

use super::command::Line;
use serde::Serialize;

/// Of some scenarios, each with its guest still up at its end: of a guest that is gone nobody knows what it used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Which ones.
    pub of: &'static str,
    /// How many.
    pub scenarios: usize,
    /// From image to verdict, all together, one after the other.
    pub seconds: f64,
    /// Of all our processes meanwhile.
    pub cpu_seconds: f64,
    /// Scenarios a second by the clock.
    pub per_second: f64,
    /// Scenarios a second of CPU time: what one core does, if nothing waits.
    pub per_core_second: f64,
}

/// Those that hold nothing back, those that do, and all; none of what there is none of.
pub fn rates(lines: &[Line]) -> Vec<Rate> {
    let some = [("nothing held back", Some(false)), ("delays or sleeps", Some(true)), ("all", None)];
    let of = |waits: Option<bool>| lines.iter().filter(move |line| waits.is_none_or(|waits| line.waits == waits));
    some.into_iter().filter_map(|(name, waits)| rate(name, of(waits))).collect()
}

fn rate<'a>(of: &'static str, lines: impl Iterator<Item = &'a Line>) -> Option<Rate> {
    let (mut scenarios, mut took_ms, mut cpu_ms) = (0, 0, 0);
    for (line, cpu) in lines.filter_map(|line| Some((line, line.cpu_ms?))) {
        scenarios += 1;
        took_ms += line.took_ms;
        cpu_ms += cpu;
    }
    let per = |ms: u64| scenarios as f64 * 1000.0 / ms.max(1) as f64;
    (scenarios > 0).then(|| Rate {
        of,
        scenarios,
        seconds: took_ms as f64 / 1000.0,
        cpu_seconds: cpu_ms as f64 / 1000.0,
        per_second: per(took_ms),
        per_core_second: per(cpu_ms),
    })
}

/// A table for people; nothing of nothing.
pub fn text(rates: &[Rate]) -> String {
    let line = |rate: &Rate| {
        let Rate { of, scenarios, seconds, cpu_seconds, per_second, per_core_second } = rate;
        format!(
            "{of:<20} {scenarios:>9} {seconds:>9.1} {cpu_seconds:>9.1} {per_second:>12.2} {per_core_second:>16.2}\n"
        )
    };
    let head = "after boot           scenarios   seconds CPU secs.     a second  a second and core\n";
    if rates.is_empty() { String::new() } else { rates.iter().fold(head.to_owned(), |text, rate| text + &line(rate)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn line(waits: bool, took_ms: u64, cpu_ms: Option<u64>) -> Line {
        Line {
            scenario: "s".into(),
            folder: PathBuf::new(),
            verdict: None,
            exit_code: 0,
            why: String::new(),
            findings: Vec::new(),
            boot: 1,
            before: 0,
            waits,
            took_ms,
            cpu_ms,
            phases: Vec::new(),
        }
    }

    #[test]
    fn those_that_wait_are_told_apart_and_guests_that_are_gone_are_left_out() {
        let lines = [line(false, 500, Some(250)), line(true, 2000, Some(400)), line(false, 9000, None)];
        let told: Vec<_> = rates(&lines).iter().map(|r| (r.of, r.scenarios, r.per_second, r.per_core_second)).collect();
        assert_eq!(
            told,
            [("nothing held back", 1, 2.0, 4.0), ("delays or sleeps", 1, 0.5, 2.5), ("all", 2, 0.8, 2000.0 / 650.0)]
        );
        assert_eq!(text(&rates(&lines)).lines().count(), 4);
    }

    #[test]
    fn of_nothing_there_is_no_rate() {
        assert_eq!(rates(&[line(true, 10, None)]), []);
        assert_eq!(text(&[]), "");
    }
}
