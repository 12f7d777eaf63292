//! What a power cut may leave, examined state by state: is each one a file system that a journal replay makes whole?
//!
//! `vhost-blk` has written the states of each cut as small files (docs/fault-scripts.md). Each is made into an image of
//! its own, never into the run's; there e2fsck does what a mount would do (it replays the journal and settles orphans; a
//! state in which it repairs more is bad), and `e2fsck -fn` then has to find nothing. What the files hold is not looked at.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::failure::{At, Failure, exit};
use crate::interrupt::Interrupt;
use crate::programs;

/// Where the magic number of ext4 stands, and the number.
const MAGIC_AT: u64 = 1024 + 56;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// One line of cuts.jsonl, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Cut {
    cut: u64,
    tried: u64,
    complete: bool,
    states: Vec<State>,
}

#[derive(Debug, Deserialize)]
struct State {
    file: PathBuf,
    survives: Vec<u64>,
}

/// A state that is no whole file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The cut it is of.
    pub cut: u64,
    /// Its file in the folder.
    pub file: PathBuf,
    /// `seq`s of the unflushed writes that survive in it.
    pub survives: Vec<u64>,
    /// Which step found it.
    pub step: &'static str,
    /// What the step said.
    pub said: String,
}

/// What became of all states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Power cuts.
    pub cuts: u64,
    /// Sets of surviving writes that the device tried.
    pub tried: u64,
    /// States that differ, each examined.
    pub distinct: u64,
    /// Whole file systems.
    pub good: u64,
    /// The others.
    pub bad: u64,
    /// Cuts of which not every state that was allowed was tried.
    pub sampled_cuts: u64,
    /// Each bad one.
    pub bad_states: Vec<Bad>,
}

impl Report {
    /// The program's exit code. Nothing examined is nothing judged.
    pub fn exit_code(&self) -> u8 {
        match (self.distinct, self.bad) {
            (0, _) => exit::NOT_JUDGED,
            (_, 0) => exit::AS_EXPECTED,
            _ => exit::NOT_AS_EXPECTED,
        }
    }
}

/// Examines every state in `dir`. `view` makes an image of a state's file.
pub fn examine(
    dir: &Path,
    interrupt: &Interrupt,
    view: impl Fn(&Path, &Path) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    // Beside the states, since there is room for them, and the image's file system may share blocks with it.
    let scratch = tempfile::tempdir_in(dir).at("make a folder in", dir)?;
    let image = scratch.path().join("state.img");
    let mut report = Report::default();
    for cut in read_cuts(dir)? {
        report.cuts += 1;
        report.tried += cut.tried;
        report.sampled_cuts += u64::from(!cut.complete);
        for state in cut.states {
            interrupt.check()?;
            view(&dir.join(&state.file), &image)?;
            report.distinct += 1;
            match replay_and_check(&image)? {
                None => report.good += 1,
                Some((step, said)) => {
                    report.bad += 1;
                    let State { file, survives } = state;
                    report.bad_states.push(Bad { cut: cut.cut, file, survives, step, said });
                }
            }
        }
    }
    Ok(report)
}

/// The way from a state's file to its image: `vhost-blk snapshot apply`.
pub fn apply(vhost_blk: &Path, image: &Path, state: &Path, out: &Path) -> Result<(), Failure> {
    let mut command = Command::new(vhost_blk);
    command.args(["snapshot", "apply"]).arg(state).arg("--image").arg(image).arg("--out").arg(out);
    let output = command.output().at("start", vhost_blk)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(format!("cannot make an image of {}: {}", state.display(), said.trim()), ""))
        }
    }
}

fn read_cuts(dir: &Path) -> Result<Vec<Cut>, Failure> {
    let path = dir.join("cuts.jsonl");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    let cut = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Failure::BadInput(format!("{}:{}: {error}", path.display(), number + 1)))
    };
    text.lines().enumerate().map(cut).collect()
}

/// None: it is a whole file system. Else the step that found that it is not, and what it said.
fn replay_and_check(image: &Path) -> Result<Option<(&'static str, String)>, Failure> {
    if !has_magic(image)? {
        return Ok(Some(("superblock", "no ext4 file system is there".into())));
    }
    let (code, said) = e2fsck(&["-p"], image)?;
    if code > 1 || said.lines().any(|line| !is_what_a_mount_does(line)) {
        return Ok(Some(("journal replay", said)));
    }
    let (code, said) = e2fsck(&["-f", "-n"], image)?;
    Ok((code != 0).then_some(("e2fsck -fn", said)))
}

/// `e2fsck -p` repairs more than a mount would, a missing journal for one. A line that is none of these is such a repair.
fn is_what_a_mount_does(line: &str) -> bool {
    let harmless = ["recovering journal", "clean, ", "Clearing orphaned inode ", "Truncating orphaned inode "];
    let said = line.split_once(": ").map_or(line, |(_, said)| said);
    said.trim().is_empty() || harmless.iter().any(|words| said.starts_with(words))
}

fn has_magic(image: &Path) -> Result<bool, Failure> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 2];
    let file = std::fs::File::open(image).at("open", image)?;
    file.read_exact_at(&mut magic, MAGIC_AT).at("read", image)?;
    Ok(magic == MAGIC)
}

/// Its exit code and all it said. Only a code without "errors were left" (4) is trouble of its own: with one, it had enough
/// of what it found.
fn e2fsck(options: &[&str], image: &Path) -> Result<(i32, String), Failure> {
    let program = programs::on_host("e2fsck").ok_or_else(|| {
        Failure::infrastructure("e2fsck is not installed", "run scripts/setup (Debian package e2fsprogs)")
    })?;
    let mut command = Command::new(&program);
    let output = command.args(options).arg(image).env("LC_ALL", "C").output().at("start", &program)?;
    // With -p what it did is on stdout; stderr begins with its version.
    let said = String::from_utf8_lossy(&output.stdout).replace(&image.display().to_string(), "IMAGE");
    match output.status.code() {
        Some(code) if code < 8 || code & 4 != 0 => Ok((code, said)),
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(
                format!("e2fsck could not work on a state: {} {}", said.trim(), error.trim()),
                "",
            ))
        }
    }
}

/// The report for people.
pub fn describe(report: &Report) -> String {
    let Report { cuts, tried, distinct, good, bad, sampled_cuts, .. } = report;
    let mut text = format!("{cuts} power cuts, {tried} states tried, {distinct} distinct: {good} good, {bad} bad\n");
    if *sampled_cuts > 0 {
        text += &format!("of {sampled_cuts} cuts only a part of the states was tried\n");
    }
    for state in &report.bad_states {
        let said = state.said.lines().find(|line| !line.starts_with("Pass")).unwrap_or_default();
        let (file, writes) = (state.file.display(), state.survives.len());
        text += &format!("bad: {file} ({writes} unflushed writes survive), {}: {said}\n", state.step);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, args: &[&str], image: &Path) {
        let program = programs::on_host(program).expect("e2fsprogs");
        let output = Command::new(program).args(args).arg(image).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Four states: a fresh file system, one without its root directory, one without its journal, and none at all.
    fn examined() -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let line = r#"{"cut":1,"tried":4,"complete":false,"states":[{"file":"good","survives":[]},
            {"file":"rootless","survives":[3]},{"file":"unlogged","survives":[4]},{"file":"nothing","survives":[3,4]}]}"#;
        std::fs::write(folder.path().join("cuts.jsonl"), line.replace('\n', " ") + "\n").expect("written");
        for (name, formatted) in [("good", true), ("rootless", true), ("unlogged", true), ("nothing", false)] {
            let image = folder.path().join(name);
            std::fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("an image");
            if formatted {
                run("mke2fs", &["-q", "-t", "ext4", "-F"], &image);
            }
        }
        run("debugfs", &["-w", "-R", "clri <2>"], &folder.path().join("rootless"));
        run("debugfs", &["-w", "-R", "clri <8>"], &folder.path().join("unlogged"));
        let interrupt = Interrupt::default();
        let copy = |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).at("copy", from);
        examine(folder.path(), &interrupt, copy).expect("examined")
    }

    #[test]
    fn a_whole_file_system_is_good_and_a_damaged_one_and_none_are_bad() {
        let report = examined();
        let counts = (report.cuts, report.tried, report.distinct, report.good, report.bad, report.sampled_cuts);
        assert_eq!(counts, (1, 4, 4, 1, 3, 1));
        assert_eq!(report.exit_code(), exit::NOT_AS_EXPECTED);
        let found: Vec<(&str, &[u64])> = report.bad_states.iter().map(|bad| (bad.step, &bad.survives[..])).collect();
        let expected: [(&str, &[u64]); 3] = [("e2fsck -fn", &[3]), ("journal replay", &[4]), ("superblock", &[3, 4])];
        assert_eq!(found, expected);
        assert!(describe(&report).starts_with("1 power cuts, 4 states tried, 4 distinct: 1 good, 3 bad\n"));
    }

    #[test]
    fn no_state_at_all_is_not_judged() {
        assert_eq!(Report::default().exit_code(), exit::NOT_JUDGED);
    }
}
