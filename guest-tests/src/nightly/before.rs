//! The nights before this one: where it begins, what failed, and what to compare with.

use super::folder::{self, failing_seeds, last_boot};
use crate::failure::{At, Failure};
use night_results::Seed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Of failures with one signature so many are tried again.
const OF_EACH_SIGNATURE: usize = 3;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The night to compare with.
    pub last: Option<PathBuf>,
    /// The first boot of which it has run nothing.
    pub next_boot: u32,
    /// What failed.
    pub failing: BTreeSet<Seed>,
}

/// Looks at the last night and at further ones. `night` is this night's folder, or its parts' parent.
pub fn look(night: &Path, last: Option<&Path>, old: &[PathBuf]) -> Result<Before, Failure> {
    let last = match last {
        Some(last) => Some(is_night(last)?),
        None => newest_beside(night)?,
    };
    let mut before = Before { last: last.clone(), ..Before::default() };
    if let Some(last) = &last {
        let ledger = folder::read_results(last)?;
        before.next_boot = last_boot(&ledger).map_or(0, |boot| boot.saturating_add(1));
        before.failing.extend(failing_seeds(&ledger, OF_EACH_SIGNATURE));
    }
    for night in old {
        let ledger = folder::read_results(&is_night(night)?)?;
        before.failing.extend(failing_seeds(&ledger, OF_EACH_SIGNATURE));
    }
    Ok(before)
}

fn is_night(path: &Path) -> Result<PathBuf, Failure> {
    match path.join(folder::RESULTS).is_file() {
        true => Ok(path.to_owned()),
        false => Err(Failure::BadInput(format!(
            "{} is not the folder of a night (it has no {})",
            path.display(),
            folder::RESULTS
        ))),
    }
}

/// The folder beside this one that holds the night which began last and has come to a report.
fn newest_beside(night: &Path) -> Result<Option<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in beside(night)? {
        if path.join("summary.json").is_file() && path.join(folder::RESULTS).is_file() {
            let began = folder::read_asked(&path)?.map(|asked| asked.began);
            found.push((began, path));
        }
    }
    Ok(found.into_iter().max().map(|(_, path)| path))
}

/// Folders beside a night's own.
pub fn beside(night: &Path) -> Result<Vec<PathBuf>, Failure> {
    let parent = match night.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => return Ok(Vec::new()),
    };
    if !parent.is_dir() {
        return Ok(Vec::new());
    }
    let own = night.file_name().map(ToOwned::to_owned);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&parent).at("read", &parent)? {
        let entry = entry.at("read", &parent)?;
        if Some(entry.file_name()) != own && entry.path().is_dir() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use night_results::{Outcome, ResultLine};

    fn night(path: &Path, lines: &[(&str, Outcome)], whole: bool) {
        std::fs::create_dir_all(path).unwrap();
        let line = |(unit, outcome): &(&str, Outcome)| {
            ResultLine { outcome: *outcome, ..ResultLine::new(unit.parse().unwrap(), "s", "6.1") }.to_text()
        };
        std::fs::write(path.join(folder::RESULTS), lines.iter().map(line).collect::<String>()).unwrap();
        if whole {
            std::fs::write(path.join("summary.json"), "{}").unwrap();
        }
    }

    #[test]
    fn a_night_begins_behind_the_last_one_with_what_failed_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let nights = dir.path();
        night(
            &nights.join("a"),
            &[("3.1", Outcome::Plain), ("4.0", Outcome::Failed), ("old/1.2", Outcome::Failed)],
            true,
        );
        night(&nights.join("unfinished"), &[("9.1", Outcome::Failed)], false);
        let before = look(&nights.join("b"), None, &[]).unwrap();
        assert_eq!(before.last, Some(nights.join("a")));
        assert_eq!(before.next_boot, 5);
        let failing: Vec<String> = before.failing.iter().map(ToString::to_string).collect();
        assert_eq!(failing, ["1.2", "4.0"]);
        let more = look(&nights.join("b"), None, &[nights.join("unfinished")]).unwrap();
        assert_eq!((more.next_boot, more.failing.len()), (5, 3));
    }

    #[test]
    fn the_first_night_of_all_begins_with_the_first_boot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&dir.path().join("nights/a"), None, &[]).unwrap(), Before::default());
    }

    #[test]
    fn a_folder_that_is_no_night_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let said = look(&dir.path().join("a"), Some(dir.path()), &[]).unwrap_err();
        assert!(said.exit_code() == 2 && said.to_string().contains("results.jsonl"), "{said}");
    }
}
