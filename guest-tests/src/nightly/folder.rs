//! A night's folder: the ledger, what was asked, the folders of what failed; and that only one process writes into it.
//!
//! A unit is over when its line stands in the ledger, durable. Whatever a killed night left of a unit without a line (a
//! folder at work, a failure's folder that no line speaks of) is removed before the night goes on.

use crate::failure::{At, Failure};

use night_results::{Ledger, NightJson, NightState, ResultLine, Unit, read_ledger};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What was asked.
pub const NIGHT: &str = "night.json";
/// How far it has come.
pub const STATE: &str = "state.json";
/// The ledger.
pub const RESULTS: &str = "results.jsonl";
/// Folders of units that are not plain.
pub const FAILURES: &str = "failures";
/// Folders of units under way.
pub const WORKING: &str = "working";
/// The page, and the same for programs.
pub const TOLD: &[&str] = &["report.html", "summary.json", "junit.xml", "ktap.txt"];

/// A night's folder that no other process writes into for as long as the value lives.
#[derive(Debug)]
pub struct NightFolder {
    path: PathBuf,
    ledger: File,
    /// Bytes of the ledger that are whole.
    whole_bytes: u64,
    _lock: Flock<File>,
}

impl NightFolder {
    /// Takes the folder, new or with a night in it, and what its ledger holds.
    pub fn take(path: &Path) -> Result<(NightFolder, Ledger), Failure> {
        fs::create_dir_all(path).at("make the night's folder", path)?;
        let lock = lock(path)?;
        refuse_foreign(path)?;
        let file = path.join(RESULTS);
        let mut ledger =
            OpenOptions::new().create(true).read(true).append(true).open(&file).at("open the ledger", &file)?;
        let read = read_results(path)?;
        let mut whole_bytes = ledger.seek(SeekFrom::End(0)).at("read", &file)?;
        if let Some(torn) = &read.torn {
            let (line, cut) = (torn.line, whole_bytes - torn.keep_bytes);
            crate::show::say(&format!(
                "{}:{line}: cut away {cut} bytes of a line without its end; its unit is run again",
                file.display()
            ));
            ledger.set_len(torn.keep_bytes).at("mend", &file)?;
            whole_bytes = torn.keep_bytes;
        }
        let folder = NightFolder { path: path.to_owned(), ledger, whole_bytes, _lock: lock };
        folder.remove_leftovers(&read)?;
        Ok((folder, read))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was asked of the night that is in here; none: it is new.
    pub fn asked(&self) -> Result<Option<NightJson>, Failure> {
        read_asked(&self.path)
    }

    /// How far it has come.
    pub fn state(&self) -> Result<NightState, Failure> {
        read_state(&self.path)
    }

    /// Writes one of its files anew: whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        written().at("write", &path)
    }

    /// A folder for the unit that this worker is about to run.
    pub fn working(&self, worker: u32) -> PathBuf {
        self.path.join(WORKING).join(worker.to_string())
    }

    /// Counts a unit. `worked` is its run's folder, which is kept under its name if there is anything to look at.
    pub fn count(&mut self, line: &ResultLine, worked: Option<&Path>) -> Result<(), Failure> {
        if let Some(worked) = worked.filter(|path| path.exists()) {
            self.settle(line, worked)?;
        }
        let file = self.path.join(RESULTS);
        let text = line.to_text();
        let added = self.ledger.write_all(text.as_bytes()).and_then(|()| self.ledger.sync_data());
        if let Err(error) = added {
            // Half a line is no line, also for whoever reads before this night goes on.
            let _ = self.ledger.set_len(self.whole_bytes);
            return Err(Failure::io("add to the ledger", &file, &error));
        }
        self.whole_bytes += text.len() as u64;
        Ok(())
    }

    /// First the folder, then the line: a line never speaks of a folder that is not there.
    fn settle(&self, line: &ResultLine, worked: &Path) -> Result<(), Failure> {
        if !keeps(line) {
            return remove(worked);
        }
        let failures = self.path.join(FAILURES);
        fs::create_dir_all(&failures).at("make", &failures)?;
        let kept = failures.join(line.unit.folder());
        remove(&kept)?;
        fs::rename(worked, &kept).at("keep", &kept)
    }

    fn remove_leftovers(&self, ledger: &Ledger) -> Result<(), Failure> {
        remove(&self.path.join(WORKING))?;
        for name in [NIGHT, STATE].into_iter().chain(TOLD.iter().copied()) {
            remove(&self.path.join(format!("{name}.new")))?;
        }
        let failures = self.path.join(FAILURES);
        let told: BTreeSet<String> =
            ledger.lines.values().filter(|line| keeps(line)).map(|l| l.unit.folder()).collect();
        for name in names(&failures)?.difference(&told) {
            crate::show::say(&format!("removed {FAILURES}/{name}, of a unit that was not over"));
            remove(&failures.join(name))?;
        }
        Ok(())
    }
}

/// Whether there is anything to look at.
fn keeps(line: &ResultLine) -> bool {
    line.outcome != night_results::Outcome::Plain
}

/// The ledger of a night that this process need not own.
pub fn read_results(night: &Path) -> Result<Ledger, Failure> {
    let file = night.join(RESULTS);
    let bytes = fs::read(&file).at("read", &file)?;
    read_ledger(&file.display().to_string(), &bytes).map_err(|damage| Failure::BadInput(damage.to_string()))
}

/// What was asked of a night; none: there is none.
pub fn read_asked(night: &Path) -> Result<Option<NightJson>, Failure> {
    let Some((name, text)) = read_if_there(&night.join(NIGHT))? else { return Ok(None) };
    NightJson::read(&name, &text).map(Some).map_err(|damage| Failure::BadInput(damage.to_string()))
}

/// How far a night has come.
pub fn read_state(night: &Path) -> Result<NightState, Failure> {
    let Some((name, text)) = read_if_there(&night.join(STATE))? else { return Ok(NightState::default()) };
    NightState::read(&name, &text).map_err(|damage| Failure::BadInput(damage.to_string()))
}

fn read_if_there(file: &Path) -> Result<Option<(String, String)>, Failure> {
    if !file.exists() {
        return Ok(None);
    }
    Ok(Some((file.display().to_string(), fs::read_to_string(file).at("read", file)?)))
}

/// Seeds of an ended night that failed, at most `most` of each signature: more of the same tell nothing more.
pub fn failing_seeds(ledger: &Ledger, most: usize) -> Vec<night_results::Seed> {
    let mut of_signature = std::collections::BTreeMap::<Option<&str>, usize>::new();
    let failed = ledger.lines.values().filter(|line| line.outcome == night_results::Outcome::Failed);
    let wanted = failed.filter_map(|line| {
        let count = of_signature.entry(line.signature.as_ref().map(|signature| signature.id.as_str())).or_default();
        *count += 1;
        (*count <= most).then(|| line.unit.seed()).flatten()
    });
    wanted.collect()
}

/// The last boot of which a night has run a fresh seed.
pub fn last_boot(ledger: &Ledger) -> Option<u32> {
    let fresh = |unit: &Unit| if let Unit::Fresh(seed) = unit { Some(seed.boot) } else { None };
    ledger.lines.keys().filter_map(fresh).max()
}

fn lock(path: &Path) -> Result<Flock<File>, Failure> {
    let folder = File::open(path).at("open", path)?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::BadInput(format!(
            "another process is at work in {}; wait for it, or name another folder with --out",
            path.display()
        ))
    })
}

fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    let ours = |name: &str| {
        let name = name.strip_suffix(".new").unwrap_or(name);
        [NIGHT, STATE, RESULTS, FAILURES, WORKING].contains(&name) || TOLD.contains(&name) || name.starts_with("shard-")
    };
    match names(path)?.into_iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::BadInput(format!(
            "{} holds {name}, which is not of a night; name an empty folder, or one with a night, with --out",
            path.display()
        ))),
    }
}

fn names(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let entries = fs::read_dir(folder).at("read", folder)?;
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<Result<_, _>>().at("read", folder)
}

/// Removes a file or a folder, if it is there.
pub fn remove(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use night_results::Outcome;

    fn line(unit: &str, outcome: Outcome) -> ResultLine {
        ResultLine { outcome, ..ResultLine::new(unit.parse().unwrap(), "s", "6.1") }
    }

    #[test]
    fn a_second_night_in_the_same_folder_is_refused_while_the_first_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let first = NightFolder::take(dir.path()).unwrap();
        let said = NightFolder::take(dir.path()).unwrap_err();
        assert!(said.exit_code() == 2 && said.to_string().contains("--out"), "{said}");
        drop(first);
        NightFolder::take(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        assert!(NightFolder::take(dir.path()).unwrap_err().to_string().contains("thesis.tex"));
        assert_eq!(names(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn what_a_killed_night_left_of_a_unit_that_was_not_over_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut night, _) = NightFolder::take(dir.path()).unwrap();
        let worked = night.working(0);
        fs::create_dir_all(&worked).unwrap();
        night.count(&line("0.1", Outcome::Failed), Some(&worked)).unwrap();
        drop(night);
        for half in ["failures/0.2", "working/0"] {
            fs::create_dir_all(dir.path().join(half)).unwrap();
        }
        fs::write(dir.path().join("report.html.new"), "half").unwrap();
        let (_night, ledger) = NightFolder::take(dir.path()).unwrap();
        assert_eq!(ledger.lines.len(), 1);
        assert_eq!(names(&dir.path().join(FAILURES)).unwrap(), ["0.1".to_owned()].into());
        assert_eq!(names(dir.path()).unwrap(), [FAILURES.to_owned(), RESULTS.to_owned()].into());
    }

    #[test]
    fn a_torn_last_line_is_cut_away_and_the_ledger_goes_on_behind_the_whole_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (mut night, _) = NightFolder::take(dir.path()).unwrap();
        night.count(&line("0.0", Outcome::Plain), None).unwrap();
        drop(night);
        let file = dir.path().join(RESULTS);
        let torn = fs::read_to_string(&file).unwrap() + "{\"unit\":\"0.1\",\"scen";
        fs::write(&file, torn).unwrap();
        let (mut night, ledger) = NightFolder::take(dir.path()).unwrap();
        assert_eq!(ledger.lines.len(), 1);
        night.count(&line("0.1", Outcome::Plain), None).unwrap();
        let read = read_results(dir.path()).unwrap();
        assert_eq!((read.lines.len(), read.torn), (2, None));
    }

    #[test]
    fn of_many_failures_that_are_the_same_a_few_are_tried_again() {
        let mut ledger = Ledger::default();
        for index in 0..9 {
            let mut line = line(&format!("0.{index}"), Outcome::Failed);
            line.signature = Some(night_results::Signature::of(if index < 8 { "a" } else { "b" }));
            ledger.lines.insert(line.unit.clone(), line);
        }
        let seeds: Vec<String> = failing_seeds(&ledger, 2).iter().map(ToString::to_string).collect();
        assert_eq!(seeds, ["0.0", "0.1", "0.8"]);
        assert_eq!(last_boot(&ledger), Some(0));
    }
}
