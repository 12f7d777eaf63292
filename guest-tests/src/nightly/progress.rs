//! What a person sees while a night is at work: a bar on a terminal, a line a minute elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use night_results::Outcome;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Where nobody watches, a line this often.
const QUIET: Duration = Duration::from_secs(60);

/// Counts, and when they were counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Units over, since this process began.
    pub now: u64,
    /// Units over before, in a night that goes on.
    pub before: u64,
    /// Failures in all.
    pub failures: u64,
    /// Units that could not be judged, in all.
    pub unjudged: u64,
    /// Units of the whole; none: the budget alone ends it.
    pub of: Option<u64>,
}

impl Counts {
    /// One more is over.
    pub fn add(&mut self, outcome: Outcome) {
        self.now += 1;
        self.note(outcome);
    }

    /// One that was over before.
    pub fn add_before(&mut self, outcome: Outcome) {
        self.before += 1;
        self.note(outcome);
    }

    fn note(&mut self, outcome: Outcome) {
        self.failures += u64::from(outcome == Outcome::Failed);
        self.unjudged += u64::from(outcome == Outcome::Unjudged);
    }

    /// All of it in a line: `left` is what the budget leaves.
    pub fn line(&self, worked: Duration, left: Option<Duration>) -> String {
        let per_second = self.now as f64 / worked.as_secs_f64().max(0.001);
        let total = self.before + self.now;
        let of = self.of.map_or(String::new(), |of| format!(" of {of}"));
        let rate = if self.now == 0 { "-".to_owned() } else { format!("{per_second:.1}") };
        let left = match self.left(per_second, left) {
            _ if self.of == Some(total) => "all done".into(),
            Some(left) => format!("{} left", spoken(left)),
            None => "no end known".into(),
        };
        let unjudged = if self.unjudged == 0 { String::new() } else { format!(", {} unjudged", self.unjudged) };
        let failures = if self.failures == 1 { "1 failure".into() } else { format!("{} failures", self.failures) };
        format!("{total}{of} seeds, {rate}/s, {failures}{unjudged}, {left}")
    }

    /// Whichever comes first: the end of the units at this rate, or of the budget.
    fn left(&self, per_second: f64, budget: Option<Duration>) -> Option<Duration> {
        let rest = self.of.map(|of| of.saturating_sub(self.before + self.now));
        let of_units = rest.filter(|_| self.now > 0).map(|rest| Duration::from_secs_f64(rest as f64 / per_second));
        match (of_units, budget) {
            (Some(units), Some(budget)) => Some(units.min(budget)),
            (one, other) => one.or(other),
        }
    }
}

fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// See the module.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    budget: Option<Duration>,
    told: Instant,
}

impl Progress {
    /// Begins now. `budget` is what is left of it.
    pub fn start(of: Option<u64>, budget: Option<Duration>) -> Progress {
        let begun = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| bar(of, budget));
        Progress { bar, begun, budget, told: begun }
    }

    /// Shows how it stands.
    pub fn show(&mut self, counts: &Counts) {
        let worked = self.begun.elapsed();
        let line = counts.line(worked, self.budget.map(|budget| budget.saturating_sub(worked)));
        if let Some(bar) = &self.bar {
            bar.set_position(if counts.of.is_some() { counts.before + counts.now } else { worked.as_secs() });
            bar.set_message(line);
        } else if self.told.elapsed() >= QUIET {
            self.told = Instant::now();
            eprintln!("{line}");
        }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// The last word.
    pub fn end(&mut self, counts: &Counts) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let left = self.budget.map(|budget| budget.saturating_sub(self.begun.elapsed()));
        eprintln!("{}", counts.line(self.begun.elapsed(), left));
    }
}

fn bar(of: Option<u64>, budget: Option<Duration>) -> ProgressBar {
    match of.or(budget.map(|budget| budget.as_secs())) {
        Some(length) => {
            let style = ProgressStyle::with_template("{bar:30} {msg}").expect("the template is ours");
            ProgressBar::new(length).with_style(style)
        }
        None => ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg}").expect("ours")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(now: u64, of: Option<u64>) -> Counts {
        Counts { now, before: 10, failures: 1, unjudged: 0, of }
    }

    #[test]
    fn the_line_has_rate_failures_and_time_left() {
        let line = counts(300, Some(610)).line(Duration::from_secs(100), None);
        assert_eq!(line, "310 of 610 seeds, 3.0/s, 1 failure, 2 min left");
    }

    #[test]
    fn whichever_end_comes_first_is_told() {
        let minute = Duration::from_secs(60);
        assert!(counts(300, Some(610)).line(Duration::from_secs(100), Some(minute)).ends_with("1 min left"));
        assert!(counts(300, None).line(Duration::from_secs(100), Some(4 * 60 * minute)).ends_with("4.0 h left"));
        assert!(counts(300, None).line(Duration::from_secs(100), None).ends_with("no end known"));
    }

    #[test]
    fn a_night_that_has_nothing_left_to_do_says_so() {
        assert!(counts(0, Some(10)).line(Duration::from_secs(1), None).ends_with("all done"));
    }

    #[test]
    fn before_the_first_result_no_rate_is_made_up() {
        let line = counts(0, Some(610)).line(Duration::from_secs(100), None);
        assert_eq!(line, "10 of 610 seeds, -/s, 1 failure, no end known");
    }
}
