//! `guest-tests merge`: several nights, or parts of one, as one folder.

use super::args::Merge;
use super::folder::{self, FAILURES, NIGHT, NightFolder, STATE};
use super::{before, report, sum, told};
use crate::failure::{At, Failure};
use night_results::{Ledger, NightJson, NightState, ResultLine, Unit, merge, merge_asked};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What came of merging.
pub struct Merged {
    /// What it comes to.
    pub sum: sum::Sum,
    /// The exit code.
    pub exit_code: u8,
}

/// Merges; writes the folder and its report.
pub fn merge_nights(args: &Merge) -> Result<Merged, Failure> {
    let known = told::known(args.known.as_deref(), &args.out)?;
    let mut nights = Vec::new();
    for path in each_once(&args.nights)? {
        nights.push(read(&path)?);
    }
    let asked: Vec<NightJson> = nights.iter().map(|night| night.asked.clone()).collect();
    let asked = merge_asked(&asked).map_err(Failure::BadInput)?;
    let lines = merge(nights.iter().flat_map(|night| night.ledger.lines.values().cloned()));
    let last = before::look(&args.out, args.last.as_deref(), &[])?.last;
    std::fs::create_dir_all(&args.out).at("make", &args.out)?;
    // What an earlier merge left, and no part of a night: those lie in folders of their own.
    folder::remove(&args.out.join(folder::RESULTS))?;
    folder::remove(&args.out.join(FAILURES))?;
    let (out, _) = NightFolder::take(&args.out)?;
    keep_failures(&nights, &lines, &args.out)?;
    out.write(NIGHT, &asked.to_text())?;
    out.write(folder::RESULTS, &lines.values().map(ResultLine::to_text).collect::<String>())?;
    let state = state(&nights);
    out.write(STATE, &state.to_text())?;
    report::tell(&out, &asked, &state, &known, last.as_deref())?;
    let sum = sum::sum(lines.values(), &known, asked.day());
    Ok(Merged { exit_code: sum.exit_code(asked.canary_only), sum })
}

struct Night {
    path: PathBuf,
    asked: NightJson,
    ledger: Ledger,
    state: NightState,
}

fn read(path: &Path) -> Result<Night, Failure> {
    let Some(asked) = folder::read_asked(path)? else {
        return Err(Failure::BadInput(format!("{} is not the folder of a night (it has no {NIGHT})", path.display())));
    };
    let ledger = folder::read_results(path)?;
    if let Some(torn) = &ledger.torn {
        crate::show::say(&format!(
            "{}: line {} has no end and is left out; the unit was under way when that night was killed",
            path.join(folder::RESULTS).display(),
            torn.line
        ));
    }
    Ok(Night { path: path.to_owned(), asked, ledger, state: folder::read_state(path)? })
}

/// A folder that is named twice, in whatever words, is one.
fn each_once(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = std::collections::BTreeSet::new();
    for path in paths {
        found.insert(path.canonicalize().at("find", path)?);
    }
    Ok(found.into_iter().collect())
}

fn state(nights: &[Night]) -> NightState {
    let states = || nights.iter().map(|night| &night.state);
    NightState {
        worked_ms: states().map(|state| state.worked_ms).max().unwrap_or_default(),
        starts: states().map(|state| state.starts).sum(),
        boots: states().map(|state| state.boots).sum(),
        ended: states().map(|state| state.ended.clone()).max().flatten(),
    }
}

/// The folder of each failure, from the night whose line is the one that counts.
fn keep_failures(nights: &[Night], lines: &BTreeMap<Unit, ResultLine>, out: &Path) -> Result<(), Failure> {
    for (unit, line) in lines {
        let said = |night: &&Night| {
            night
                .ledger
                .lines
                .get(unit)
                .is_some_and(|own| own == line || line.merged.contains(own) || own.outcome == line.outcome)
        };
        let from = nights.iter().filter(said).map(|night| night.path.join(FAILURES).join(unit.folder()));
        if let Some(from) = from.into_iter().find(|path| path.is_dir()) {
            copy(&from, &out.join(FAILURES).join(unit.folder()))?;
        }
    }
    Ok(())
}

/// As links where the file system lets us: nothing writes into these files again.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).at("make", to)?;
    for entry in std::fs::read_dir(from).at("read", from)? {
        let entry = entry.at("read", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else if std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target).at("copy", &source)?;
        }
    }
    Ok(())
}
