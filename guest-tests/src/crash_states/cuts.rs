//! The folder of states, as `vhost-blk --snapshot-dir` left it: cuts.jsonl, and beside it what `guest-tests run` says of the run.

use crate::failure::{At, Failure};
use crate::folder;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The list of cuts.
pub const CUTS: &str = "cuts.jsonl";

/// Which run the states are of.
pub const RUN: &str = "run.json";

/// Scratch folders begin like this; one that was left behind is removed.
pub const SCRATCH: &str = ".examine-";

/// One line of cuts.jsonl, as far as it is used here.
#[derive(Clone, Debug, Deserialize)]
pub struct Cut {
    /// Its number, from 1.
    pub cut: u64,
    /// `seq` of the first request after it.
    #[serde(default)]
    pub seq: u64,
    /// The rule or event it is of.
    #[serde(default)]
    pub by: String,
    /// The unflushed writes, in the order in which they were answered.
    #[serde(default)]
    pub writes: Vec<UnflushedWrite>,
    /// Sets of surviving writes that were tried.
    pub tried: u64,
    /// Every allowed one was.
    pub complete: bool,
    /// Those that differ.
    pub states: Vec<State>,
}

/// A write that was not flushed when the cut came.
#[derive(Clone, Debug, Deserialize)]
pub struct UnflushedWrite {
    /// Its request.
    pub seq: u64,
}

impl Cut {
    /// Whether a state has the first writes that were answered, and no other: a disk that keeps its writes in order, and has lost
    /// its flushes alone, may be in it.
    pub fn keeps_order(&self, state: &State) -> bool {
        let first = self.writes.iter().map(|write| write.seq).take(state.survives.len());
        first.eq(state.survives.iter().copied())
    }
}

/// One state.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// Its file in the folder.
    pub file: PathBuf,
    /// `seq`s of the unflushed writes that survive in it.
    pub survives: Vec<u64>,
    /// Bytes in which it differs from the image at the cut.
    #[serde(default)]
    pub bytes: u64,
}

/// run.json
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunOf {
    /// Folder of the run.
    pub run: PathBuf,
    /// Its image.
    pub image: PathBuf,
}

/// A folder of states that nobody else works in.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub cuts: Vec<Cut>,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens it, and removes what a killed program left in it.
    pub fn open(path: &Path) -> Result<Folder, Failure> {
        let list = path.join(CUTS);
        let file = File::open(&list).map_err(|error| {
            Failure::BadInput(format!(
                "{} holds no states ({}: {error}); name the --snapshot-dir of a run that has ended",
                path.display(),
                list.display()
            ))
        })?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Failure::BadInput(format!("another program works on the states in {}", path.display())))?;
        for entry in std::fs::read_dir(path).at("list", path)?.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                // What cannot be removed is in nobody's way.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let text = std::fs::read_to_string(&list).at("read", &list)?;
        let cut = |(number, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| Failure::BadInput(format!("{}:{}: {error}", list.display(), number + 1)))
        };
        let cuts = text.lines().enumerate().map(cut).collect::<Result<_, _>>()?;
        Ok(Folder { path: path.to_owned(), cuts, _lock: lock })
    }

    /// A new scratch folder. It lies beside the states, since there is room for them, and the image's file system may
    /// share blocks with it.
    pub fn scratch(&self) -> Result<tempfile::TempDir, Failure> {
        tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.path).at("make a folder in", &self.path)
    }
}

/// Which run a folder's states are of; none: nobody wrote it down.
pub fn run_of(dir: &Path) -> Result<Option<RunOf>, Failure> {
    let path = dir.join(RUN);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::BadInput(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", &path, &error)),
    }
}

/// The run in whose folder the states lie, as a run leaves them that has judged them itself.
pub fn run_around(dir: &Path) -> Option<RunOf> {
    let run = dir.canonicalize().ok()?.parent()?.to_owned();
    let image = run.join(folder::IMAGE);
    (dir.file_name().is_some_and(|name| name == folder::STATES) && image.is_file()).then_some(RunOf { run, image })
}

/// Writes down which run a folder's states are of.
pub fn write_run_of(dir: &Path, run: &Path, image: &Path) -> Result<(), Failure> {
    let whole = |path: &Path| path.canonicalize().at("find", path);
    let text = serde_json::json!(RunOf { run: whole(run)?, image: whole(image)? });
    let path = dir.join(RUN);
    std::fs::write(&path, format!("{text}\n")).at("write", &path)
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
