//! A run's folder: which files it holds, and that only one run writes into it.
//!
//! The names are a contract. What a folder holds is enough to judge it again with no VM.

use crate::failure::{At, Failure};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The scenario, with the fault script inside.
pub const SCENARIO: &str = "scenario.json";
/// The merged fault script with every default written out.
pub const SCRIPT: &str = "script.normalized.json";
/// What the device got and answered.
pub const DEVICE: &str = "device.jsonl";
/// What the fault script decided.
pub const DECISIONS: &str = "decisions.jsonl";
/// The workload's operations with their results.
pub const OPS: &str = "ops.jsonl";
/// The guest's trace as it arrived.
pub const GUEST_RAW: &str = "guest.raw";
/// What the guest's first process said.
pub const GUEST_LOG: &str = "guest.log";
/// The probes as they were set.
pub const PROBES: &str = "probes.txt";
/// The guest's trace, decoded.
pub const GUEST: &str = "guest.jsonl";
/// What the replica answered.
pub const REPLICA: &str = "replica.jsonl";
/// The verdict.
pub const VERDICT: &str = "verdict.json";
/// The guest kernel's console.
pub const CONSOLE: &str = "console.log";
/// What the guest's kernel said after the scenario before this one, in the same boot, was over: not this one's, and not judged here.
pub const BEFORE: &str = "before.log";
/// What QEMU said.
pub const QEMU_LOG: &str = "qemu.log";
/// The page for people.
pub const REPORT: &str = "report.html";
/// The run as a trace for Perfetto's and Chrome's viewers, if somebody asked for it.
pub const PERFETTO: &str = "trace.json";
/// What vhost-blk said.
pub const DISK_LOG: &str = "vhost-blk.log";
/// What the host saw and nothing else holds: options, kernel, exit codes, e2fsck's answer, times.
pub const HOST: &str = "host.json";
/// The disk image while the guest works; kept only on request.
pub const IMAGE: &str = "disk.img";
/// The device's record while it runs; device.jsonl is made from it.
pub const DEVICE_TRACE: &str = "device.trace";

/// What `crash-states` found.
pub const CRASH_STATES: &str = "crash-states.json";

/// What the files were on the disk when the run was over.
pub const END_STATE: &str = "end-state.json";

/// A copy of what a power cut left, and its files, while they are looked at.
pub const LEFT: &str = "left";

/// What power cuts may have left, while the run goes on; kept where one of the states is bad.
pub const STATES: &str = "states";

/// The guest's first files, while it works.
pub const INITRAMFS: &str = "initramfs.cpio";

/// What mends a folder that lost something.
pub const RUN_AGAIN: &str = "run the scenario again, or take an undamaged copy of the folder";

/// Everything that a run may leave. A folder with any other file is not ours to write into.
const ALL: &[&str] = &[
    SCENARIO,
    SCRIPT,
    DEVICE,
    DECISIONS,
    OPS,
    GUEST_RAW,
    GUEST_LOG,
    PROBES,
    GUEST,
    REPLICA,
    VERDICT,
    CONSOLE,
    BEFORE,
    QEMU_LOG,
    REPORT,
    PERFETTO,
    DISK_LOG,
    HOST,
    IMAGE,
    DEVICE_TRACE,
    CRASH_STATES,
    END_STATE,
    LEFT,
    STATES,
    INITRAMFS,
];

/// A folder that no other run writes into for as long as the value lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunFolder {
    /// Takes `path` for a new run: makes it, or empties what an earlier run left in it.
    pub fn take(path: &Path) -> Result<RunFolder, Failure> {
        fs::create_dir_all(path).at("make the run's folder", path)?;
        let folder = RunFolder { path: path.to_owned(), _lock: lock(path, FlockArg::LockExclusiveNonblock)? };
        let found = foreign_files(path)?;
        if let Some(name) = found.first() {
            return Err(Failure::BadInput(format!(
                "{} holds {name}, which is not of a run; name an empty folder with --out",
                path.display()
            )));
        }
        for name in ALL {
            remove_if_there(&path.join(name))?;
        }
        Ok(folder)
    }

    /// A new folder `runs/NAME-N` below the working directory.
    pub fn fresh(name: &str) -> Result<RunFolder, Failure> {
        let parent = Path::new("runs");
        fs::create_dir_all(parent).at("make", parent)?;
        for n in 1_u32.. {
            let path = parent.join(format!("{name}-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => return RunFolder::take(&path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::io("make the run's folder", &path, &error)),
            }
        }
        unreachable!("a folder has fewer than 2^32 entries")
    }

    /// The folder of an ended run, to judge it again.
    pub fn open(path: &Path) -> Result<RunFolder, Failure> {
        if !path.join(HOST).is_file() {
            let text = match path.join(SCENARIO).is_file() {
                true => format!(
                    "the run in {} did not come to its end (no {HOST}), so there is nothing to judge",
                    path.display()
                ),
                false => format!("{} is not the folder of a run (it has no {HOST})", path.display()),
            };
            return Err(Failure::BadInput(text));
        }
        Ok(RunFolder { path: path.to_owned(), _lock: lock(path, FlockArg::LockSharedNonblock)? })
    }

    /// Refuses a folder from which something was lost that a verdict is made from. The trace may be missing: there are
    /// guests that cannot be traced.
    pub fn must_be_whole(&self) -> Result<(), Failure> {
        let needed = [SCENARIO, HOST, DEVICE, DECISIONS, OPS, GUEST_LOG, CONSOLE];
        let missing: Vec<&str> = needed.into_iter().filter(|name| !self.file(name).is_file()).collect();
        let empty = [SCENARIO, HOST, DEVICE, DECISIONS];
        let empty: Vec<&str> = empty.into_iter().filter(|name| self.is_empty(name)).collect();
        if missing.is_empty() && empty.is_empty() {
            return Ok(());
        }
        let said = |what: &str, names: &[&str]| match names.is_empty() {
            true => String::new(),
            false => format!(" {what} {};", names.join(", ")),
        };
        let text = said("lacks", &missing) + &said("has nothing in", &empty);
        Err(Failure::BadInput(format!("the run in {}{text} {RUN_AGAIN}", self.path.display())))
    }

    fn is_empty(&self, name: &str) -> bool {
        fs::metadata(self.file(name)).is_ok_and(|file| file.len() == 0)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads one of its files.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = self.file(name);
        fs::read(&path).at("read", &path)
    }

    /// Reads one of its files as text.
    pub fn read_text(&self, name: &str) -> Result<String, Failure> {
        let path = self.file(name);
        fs::read_to_string(&path).at("read", &path)
    }

    /// Writes one of its files, whole.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), Failure> {
        let path = self.file(name);
        fs::write(&path, content).at("write", &path)
    }

    /// Writes one JSON document per line.
    pub fn write_lines<T: Serialize>(&self, name: &str, lines: impl IntoIterator<Item = T>) -> Result<(), Failure> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).expect("what we write can be said in JSON");
            text.push(b'\n');
        }
        self.write(name, text)
    }

    /// Removes one of its files, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        remove_if_there(&self.file(name))
    }
}

fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>, Failure> {
    let folder = File::open(path).at("open", path)?;
    Flock::lock(folder, how).map_err(|_| {
        Failure::BadInput(format!("another run is using {}; name another folder with --out", path.display()))
    })
}

fn foreign_files(path: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).at("read", path)? {
        let name = entry.at("read", path)?.file_name().to_string_lossy().into_owned();
        if !ALL.contains(&name.as_str()) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn remove_if_there(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::io("remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_in_the_same_folder_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::take(dir.path()).unwrap();
        assert_eq!(RunFolder::take(dir.path()).unwrap_err().exit_code(), 2);
        drop(first);
        RunFolder::take(dir.path()).unwrap();
    }

    #[test]
    fn what_an_earlier_run_left_goes_and_what_is_not_ours_stops_us() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(VERDICT), "old").unwrap();
        RunFolder::take(dir.path()).unwrap();
        assert!(!dir.path().join(VERDICT).exists());
        fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        let error = RunFolder::take(dir.path()).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunFolder::open(dir.path()).unwrap_err().exit_code(), 2);
    }
}
