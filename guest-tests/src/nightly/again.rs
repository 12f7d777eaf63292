//! What a night makes of a failure, while its worker still has it: looked at again, and made smaller.
//!
//! Of each signature the first few are looked at again, and the first alone is made smaller, if it is news: more of the same tell
//! nothing more, and the night has other seeds to run. What nobody looked at says so (`not_tried`).

use super::guests::{Common, load};
use super::queue::{Group, Source, Work};
use crate::args;
use crate::failure::{At, Failure};
use crate::scenario::Scenario;
use crate::triage::again::Limits;
use crate::triage::shrink;
use crate::triage::together::{Wanted, examine};
use night_results::{Again, Known, Needed, Outcome, ResultLine, Seed, Shrunk, Signature, Triage, Unit, known_as};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Failures of one signature that are looked at again.
const LOOKED_AT: u32 = 3;

/// Folders of one signature that are kept; of a thousand the seed is enough.
pub const KEPT: u32 = 10;

/// Of these, so many keep what their power cuts have left, with the disk's image beside it.
pub const STATES_KEPT: u32 = 3;

/// Candidates that are run to make one smaller.
const SHRINK_RUNS: usize = 150;

/// How many there were of each signature, over all workers of a night, and which are known.
#[derive(Debug)]
pub struct Done {
    counts: Mutex<BTreeMap<String, u32>>,
    known: Vec<Known>,
    /// Of the night; what expires that day is news.
    day: String,
}

impl Done {
    /// Those of a night that goes on.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a ResultLine>, known: &[Known], day: &str) -> Done {
        let done = Done { counts: Mutex::default(), known: known.to_vec(), day: day.to_owned() };
        for line in lines.into_iter().filter(|line| line.outcome != Outcome::Plain) {
            done.turn(line);
        }
        done
    }

    /// How many of this signature came before this one, with the same found beside it: what is news may be that.
    pub fn turn(&self, line: &ResultLine) -> u32 {
        let named = |signature: &Signature| format!("{}; {}", signature.id, signature.with.join("; "));
        let id = line.signature.as_ref().map_or_else(String::new, named);
        let mut done = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = done.entry(id).or_default();
        *count += 1;
        *count - 1
    }

    fn is_known(&self, line: &ResultLine) -> bool {
        known_as(&self.known, line, &self.day).is_some()
    }
}

/// Looks at a failure again, whose run lies in `folder` and is the `turn`-th of its signature, and says in its line what came of it.
pub fn look(
    line: &mut ResultLine,
    turn: u32,
    group: &Group,
    work: &Work,
    folder: &Path,
    common: &Common,
) -> Result<(), Failure> {
    let Some(wanted) = line.signature.clone().filter(|_| turn < LOOKED_AT) else {
        line.triage = Some(not_tried());
        return Ok(());
    };
    let scratch = folder.with_extension("again");
    let told = examine(
        &common.runs(group),
        &Wanted {
            recording: folder,
            signature: &wanted.text,
            predecessors: before(line, work)?,
            scratch: &scratch,
            limits: Limits::default(),
            shrink: None,
        },
    )?;
    let mut triage = told.triage;
    line.why = format!("{}; {}", line.why, told.why);
    if triage.again == Again::Infrastructure && triage.tried == 0 {
        line.outcome = Outcome::Infrastructure;
    } else if turn == 0 && triage.needed == Some(Needed::Alone) && !common.done.is_known(line) {
        triage.shrunk = make_smaller(line, group, folder, common)?;
    }
    if triage.needed == Some(Needed::Predecessors)
        && let (Some(seed), Some(first)) = (work.unit.seed(), line.after.first())
    {
        line.repro = with_predecessors(seed, *first, &group.kernel);
    }
    if let Some(shrunk) = &triage.shrunk {
        let repro = common.night.join(&shrunk.folder).join("repro.sh");
        line.repro = crate::show::quote(&repro.display().to_string());
    }
    line.triage = Some(triage);
    Ok(())
}

/// Alone it would not show.
fn with_predecessors(seed: Seed, first: u32, kernel: &str) -> String {
    let Seed { boot, index } = seed;
    let seeds = format!("{boot}.{first}..{boot}.{}", index + 1);
    let kernel = crate::show::quote(kernel);
    format!(
        "guest-tests nightly --seeds {seeds} --jobs 1 --kernel {kernel} --no-standing --no-old --shrink-minutes 0 --out again"
    )
}

/// Nobody looked.
pub fn not_tried() -> Triage {
    Triage { again: Again::NotTried, needed: None, shown: 0, tried: 0, shrunk: None }
}

/// The scenarios that ran before it in the same boot, in their order.
fn before(line: &ResultLine, work: &Work) -> Result<Vec<Scenario>, Failure> {
    let Some(Seed { boot, .. }) = work.unit.seed() else { return Ok(Vec::new()) };
    let one = |index: &u32| {
        let seed = Seed { boot, index: *index };
        load(&Work { unit: Unit::Fresh(seed), source: Source::Seed(seed) })
    };
    line.after.iter().map(one).collect()
}

/// None: there was no time, or it did not show in the search.
fn make_smaller(line: &ResultLine, group: &Group, folder: &Path, common: &Common) -> Result<Option<Shrunk>, Failure> {
    let most = Instant::now() + common.shrink;
    let until = common.deadline.map_or(most, |deadline| deadline.min(most));
    if common.shrink.is_zero() || Instant::now() >= until {
        return Ok(None);
    }
    let wanted = args::Shrink {
        run: folder.to_owned(),
        out: None,
        budget_runs: SHRINK_RUNS,
        kernel: Some(group.kernel.clone()),
        accel: common.accel,
        seed: None,
        time_limit: common.time_limit_s,
    };
    let programs = &common.programs;
    let shrunk = common.interrupt.until(until, |interrupt| {
        shrink::command(&wanted, Some(&programs.vhost_blk), Some(&programs.guest_init), interrupt)
    });
    common.interrupt.check()?;
    let place = format!("{}/{}/shrunk", super::folder::FAILURES, line.unit.folder());
    match shrunk {
        Ok(report) => {
            told_as_kept(report, folder, &common.night.join(&place)).map(|report| Some(report.for_night(&place)))
        }
        // Time was up, it did not show again, or the machine failed: the failure stands, as it is.
        Err(_) => super::folder::remove(&folder.join("shrunk")).map(|()| None),
    }
}

/// shrunk.json with the place where the night keeps it: it was made where the unit was at work.
fn told_as_kept(report: shrink::Report, folder: &Path, kept: &Path) -> Result<shrink::Report, Failure> {
    let repro = crate::show::quote(&kept.join("repro.sh").display().to_string());
    let report = shrink::Report { folder: kept.to_owned(), repro, ..report };
    let text = serde_json::to_string_pretty(&report).expect("it holds nothing that JSON cannot say") + "\n";
    let path = folder.join("shrunk/shrunk.json");
    std::fs::write(&path, text).at("write", &path)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_its_predecessors_is_shown_again_behind_them() {
        let command = with_predecessors(Seed { boot: 3, index: 4 }, 1, "6.1");
        assert!(command.starts_with("guest-tests nightly --seeds 3.1..3.5 --jobs 1 --kernel 6.1 "), "{command}");
    }
}
