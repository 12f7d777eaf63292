//! Looks at a failure again: from its recording, alone in a fresh boot, after what ran before it.
//!
//! Each step is taken only where the one before it does not answer. What the machine did (no boot, a full disk) counts as no
//! try. So the answer is one of: it shows every time, it shows so often out of so many, or the machine was at fault.

use crate::failure::Failure;
use night_results::{Again, Needed, Triage};

/// How a failure can be looked at again. Each gives the text of the signature that showed; none: no failure.
pub trait Trials {
    /// Judges the recording again.
    fn judged_again(&mut self) -> Result<Option<String>, Failure>;
    /// Runs the scenario alone in a fresh boot.
    fn alone(&mut self) -> Result<Option<String>, Failure>;
    /// Scenarios that ran before it in the same boot.
    fn predecessors(&self) -> usize;
    /// Runs the scenario in one boot after those.
    fn after_predecessors(&mut self) -> Result<Option<String>, Failure>;
}

/// How often a failure is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Times alone.
    pub alone: u32,
    /// Times after its predecessors.
    pub after: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { alone: 3, after: 2 }
    }
}

/// What was found out, and how, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// For the result line.
    pub triage: Triage,
    /// For people.
    pub why: String,
}

/// Looks again at the failure with this signature.
pub fn again(wanted: &str, trials: &mut impl Trials, limits: Limits) -> Result<Told, Failure> {
    let judged = trials.judged_again()?;
    if judged.as_deref() != Some(wanted) {
        let other = judged.map_or("nothing to report".to_owned(), |other| format!("{other:?}"));
        return Ok(told(
            Again::Infrastructure,
            None,
            Tally::default(),
            format!("its recording, judged again, gives {other}"),
        ));
    }
    let alone = tally(wanted, limits.alone, || trials.alone())?;
    if alone.shown > 0 {
        return Ok(conclude(Needed::Alone, alone, "alone in a fresh boot"));
    }
    let after = match trials.predecessors() {
        0 => Tally::default(),
        _ => tally(wanted, limits.after, || trials.after_predecessors())?,
    };
    if after.shown > 0 {
        return Ok(conclude(
            Needed::Predecessors,
            after,
            "after the scenarios that ran before it, and never without them",
        ));
    }
    let all = Tally { shown: 0, tried: alone.tried + after.tried, machine: alone.machine.or(after.machine) };
    match (all.tried, &all.machine) {
        (0, Some(machine)) => {
            let why = format!("it could not be run again: {machine}");
            Ok(told(Again::Infrastructure, None, all, why))
        }
        (tried, _) => Ok(told(Again::Flaky, None, all, format!("it was seen once, and not again in {tried} runs"))),
    }
}

/// What so many tries gave.
#[derive(Clone, Debug, Default)]
struct Tally {
    shown: u32,
    tried: u32,
    /// What the machine did instead, the first time.
    machine: Option<String>,
}

fn tally(wanted: &str, times: u32, mut run: impl FnMut() -> Result<Option<String>, Failure>) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for _ in 0..times {
        match run() {
            Ok(seen) => {
                tally.tried += 1;
                tally.shown += u32::from(seen.as_deref() == Some(wanted));
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                tally.machine.get_or_insert_with(|| failure.to_string());
            }
        }
    }
    Ok(tally)
}

fn conclude(needed: Needed, tally: Tally, how: &str) -> Told {
    let Tally { shown, tried, .. } = tally;
    let again = if shown == tried { Again::Reproducible } else { Again::Flaky };
    told(again, Some(needed), tally, format!("it showed in {shown} of {tried} runs {how}"))
}

fn told(again: Again, needed: Option<Needed>, tally: Tally, why: String) -> Told {
    Told { triage: Triage { again, needed, shown: tally.shown, tried: tally.tried, shrunk: None }, why }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    /// What each run will give, in turn: `x` the failure, `o` nothing, `y` another failure, `!` the machine fails, `^` Ctrl-C.
    struct Scripted<'t> {
        recording: char,
        alone: std::str::Chars<'t>,
        predecessors: usize,
        after: std::str::Chars<'t>,
    }

    fn play(what: Option<char>) -> Result<Option<String>, Failure> {
        match what.expect("no more runs are asked for than there are") {
            'o' => Ok(None),
            '!' => Err(Failure::infrastructure("the host's disk is full", "")),
            '^' => Err(Failure::Interrupted),
            other => Ok(Some(other.to_string())),
        }
    }

    impl Trials for Scripted<'_> {
        fn judged_again(&mut self) -> Result<Option<String>, Failure> {
            play(Some(self.recording))
        }
        fn alone(&mut self) -> Result<Option<String>, Failure> {
            play(self.alone.next())
        }
        fn predecessors(&self) -> usize {
            self.predecessors
        }
        fn after_predecessors(&mut self) -> Result<Option<String>, Failure> {
            play(self.after.next())
        }
    }

    fn look(recording: char, alone: &str, predecessors: usize, after: &str) -> Result<Told, Failure> {
        let mut trials = Scripted { recording, alone: alone.chars(), predecessors, after: after.chars() };
        again("x", &mut trials, Limits::default())
    }

    fn answer(alone: &str, predecessors: usize, after: &str) -> (Again, Option<Needed>, u32, u32) {
        let Triage { again, needed, shown, tried, .. } = look('x', alone, predecessors, after).unwrap().triage;
        (again, needed, shown, tried)
    }

    #[test]
    fn what_shows_alone_every_time_is_reproducible_and_needs_nothing_else() {
        assert_eq!(answer("xxx", 7, ""), (Again::Reproducible, Some(Needed::Alone), 3, 3));
    }

    #[test]
    fn what_shows_sometimes_has_its_rate() {
        assert_eq!(answer("oxo", 7, ""), (Again::Flaky, Some(Needed::Alone), 1, 3));
        assert_eq!(answer("oyo", 7, "xo"), (Again::Flaky, Some(Needed::Predecessors), 1, 2));
    }

    #[test]
    fn what_shows_only_behind_others_needs_them() {
        assert_eq!(answer("ooo", 1, "xx"), (Again::Reproducible, Some(Needed::Predecessors), 2, 2));
    }

    #[test]
    fn another_failure_is_not_this_one() {
        assert_eq!(answer("yyy", 0, ""), (Again::Flaky, None, 0, 3));
    }

    #[test]
    fn what_never_shows_again_is_flaky_and_says_how_often_it_was_tried() {
        assert_eq!(
            answer("ooo", 0, ""),
            (Again::Flaky, None, 0, 3),
            "without predecessors there is nothing else to try"
        );
        assert_eq!(answer("ooo", 2, "oo"), (Again::Flaky, None, 0, 5));
    }

    #[test]
    fn a_try_that_the_machine_spoiled_is_none() {
        assert_eq!(answer("!xx", 0, ""), (Again::Reproducible, Some(Needed::Alone), 2, 2));
        assert_eq!(answer("!!!", 0, ""), (Again::Infrastructure, None, 0, 0));
        assert!(look('x', "!!!", 0, "").unwrap().why.contains("disk is full"));
    }

    #[test]
    fn a_recording_that_gives_something_else_is_no_failure_of_the_guest() {
        assert_eq!(look('o', "", 0, "").unwrap().triage.again, Again::Infrastructure);
        assert_eq!(look('y', "", 0, "").unwrap().triage.again, Again::Infrastructure);
    }

    #[test]
    fn ctrl_c_ends_it() {
        assert!(matches!(look('x', "x^", 0, ""), Err(Failure::Interrupted)));
    }
}
