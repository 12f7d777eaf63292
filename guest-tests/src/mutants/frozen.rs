//! What mutants are counted on: a list of recordings with their hashes, laid down before the count (`mutants.toml`).
//!
//! A recording that has changed, or that somebody added until the number was right, would make the count worthless. So the
//! list is compiled into the program, and a recording that is not what the list says is refused.

use super::search::Machine;
use crate::folder::{self, RunFolder};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files of a recording that a judgement is made from.
const JUDGED_FROM: [&str; 6] =
    [folder::SCENARIO, folder::HOST, folder::DEVICE, folder::DECISIONS, folder::OPS, folder::GUEST_RAW];

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Recordings, in the order in which they are tried.
    #[serde(default, rename = "recording")]
    pub recordings: Vec<FrozenRecording>,
    /// Machines that are searched.
    #[serde(default, rename = "machine")]
    pub machines: Vec<FrozenMachine>,
    /// Mistakes that nothing tells, each with the reason.
    #[serde(default, rename = "survivor")]
    pub survivors: Vec<Survivor>,
}

/// One recording.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenRecording {
    /// Its folder's name.
    pub name: String,
    /// Of its files ([`fingerprint`]).
    pub sha256: String,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenMachine {
    /// Its name.
    pub name: String,
    /// Of who is in it ([`Machine::sha256`]).
    pub sha256: String,
}

/// A mistake that nothing tells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    /// Its name.
    pub name: String,
    /// Why; of an equivalent one the proof.
    pub reason: String,
}

/// What is wrong with the list, or with what it names.
#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    /// It cannot be read.
    #[error("mutants.toml: {0}")]
    Toml(String),
    /// Two entries have one name.
    #[error("mutants.toml: {0} is listed twice; drop one")]
    Twice(String),
    /// A survivor is none of our mistakes.
    #[error("mutants.toml: no mistake is called {0}; `guest-tests mutants --list` names all")]
    NoMistake(String),
    /// A survivor without a reason.
    #[error("mutants.toml: survivor {0} has no reason; say why nothing tells it")]
    NoReason(String),
    /// A recording that the count is made on is not there.
    #[error("{path}: {why}; --recordings names the folder that holds guest-tests/recordings")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A recording or a machine is not the one the count was made on.
    #[error(
        "{name} is not the one that the list was frozen with (it has {found}, the list says {listed}); restore it, or freeze \
         the list anew: `guest-tests mutants --freeze` prints it"
    )]
    Changed {
        /// Which.
        name: String,
        /// Its fingerprint.
        found: String,
        /// What the list says.
        listed: String,
    },
}

impl Frozen {
    /// Reads a list.
    pub fn parse(text: &str) -> Result<Frozen, FrozenError> {
        let frozen: Frozen = toml::from_str(text).map_err(|error| FrozenError::Toml(error.to_string()))?;
        let mut names = BTreeSet::new();
        let recordings = frozen.recordings.iter().map(|recording| &recording.name);
        let listed = recordings.chain(frozen.machines.iter().map(|machine| &machine.name));
        if let Some(twice) =
            listed.chain(frozen.survivors.iter().map(|one| &one.name)).find(|name| !names.insert(*name))
        {
            return Err(FrozenError::Twice(twice.clone()));
        }
        for Survivor { name, reason } in &frozen.survivors {
            if ext4_replica::Mutation::by_name(name).is_none() {
                return Err(FrozenError::NoMistake(name.clone()));
            }
            if reason.trim().is_empty() {
                return Err(FrozenError::NoReason(name.clone()));
            }
        }
        Ok(frozen)
    }

    /// The list that goes with this program.
    pub fn built_in() -> Frozen {
        Frozen::parse(include_str!("../../mutants.toml")).expect("a test reads the list we ship")
    }

    /// Whether every recording is what it was.
    pub fn check(&self, recordings: &Path) -> Result<(), FrozenError> {
        let machines = Machine::all();
        for FrozenMachine { name, sha256 } in &self.machines {
            let known = machines.iter().find(|machine| machine.name == name);
            let found = known.map_or_else(|| "none".to_owned(), Machine::sha256);
            if found != *sha256 {
                return Err(FrozenError::Changed { name: name.clone(), found, listed: sha256.clone() });
            }
        }
        for FrozenRecording { name, sha256 } in &self.recordings {
            let found = fingerprint(&recordings.join(name))?;
            if found != *sha256 {
                return Err(FrozenError::Changed { name: name.clone(), found, listed: sha256.clone() });
            }
        }
        Ok(())
    }
}

/// SHA-256 over name, length and bytes of each file that a judgement is made from.
pub fn fingerprint(recording: &Path) -> Result<String, FrozenError> {
    let missing = |path: &Path, why: String| FrozenError::Missing { path: path.to_owned(), why };
    let folder = RunFolder::open(recording).map_err(|failure| missing(recording, failure.to_string()))?;
    let mut hash = Sha256::new();
    for name in JUDGED_FROM {
        let bytes = std::fs::read(folder.file(name)).map_err(|error| missing(&folder.file(name), error.to_string()))?;
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The list of all recordings below `recordings` as they are now, survivors as they stand: a new mutants.toml.
pub fn freeze(recordings: &Path, survivors: &[Survivor]) -> Result<String, FrozenError> {
    let missing = |error: std::io::Error| FrozenError::Missing { path: recordings.to_owned(), why: error.to_string() };
    let entries = std::fs::read_dir(recordings).map_err(missing)?.collect::<Result<Vec<_>, _>>().map_err(missing)?;
    let mut names: Vec<_> =
        entries.iter().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    names.sort();
    let mut text = include_str!("head.toml").to_owned();
    for name in names {
        let sha256 = fingerprint(&recordings.join(&name))?;
        text += &format!("\n[[recording]]\nname = {:?}\nsha256 = \"{sha256}\"\n", name.to_string_lossy());
    }
    for machine in Machine::all() {
        text += &format!("\n[[machine]]\nname = {:?}\nsha256 = \"{}\"\n", machine.name, machine.sha256());
    }
    for Survivor { name, reason } in survivors {
        text += &format!("\n[[survivor]]\nname = {name:?}\nreason = {reason:?}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_we_ship_can_be_read() {
        assert!(!Frozen::built_in().recordings.is_empty());
    }

    #[test]
    fn a_survivor_needs_a_reason_and_a_name_that_is_there() {
        let survivor = |name: &str, reason: &str| {
            Frozen::parse(&format!("[[survivor]]\nname = \"{name}\"\nreason = \"{reason}\""))
        };
        assert!(survivor("convert_twice", "none").is_ok());
        assert!(matches!(survivor("convert_thrice", "none"), Err(FrozenError::NoMistake(_))));
        assert!(matches!(survivor("convert_twice", " "), Err(FrozenError::NoReason(_))));
        assert!(matches!(Frozen::parse("[[survivors]]"), Err(FrozenError::Toml(_))));
    }

    #[test]
    fn a_recording_that_has_changed_is_refused() {
        let frozen = Frozen::built_in();
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
        let copy = tempfile::tempdir().expect("a folder");
        let one = &frozen.recordings[..1];
        let to = copy.path().join(&one[0].name);
        std::fs::create_dir(&to).expect("room");
        for name in JUDGED_FROM {
            std::fs::copy(all.join(&one[0].name).join(name), to.join(name)).expect("it is there");
        }
        let only = Frozen { recordings: one.to_vec(), ..Frozen::default() };
        only.check(copy.path()).expect("the copy is the same");
        std::fs::write(to.join(folder::OPS), "").expect("it can be changed");
        assert!(matches!(only.check(copy.path()), Err(FrozenError::Changed { .. })));
        std::fs::remove_file(to.join(folder::OPS)).expect("it can be removed");
        assert!(matches!(only.check(copy.path()), Err(FrozenError::Missing { .. })));
    }

    /// A recording that was added since is no part of the count until the list is frozen anew.
    #[test]
    fn freezing_again_gives_the_same_hashes_and_keeps_the_survivors() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
        let frozen = Frozen::built_in();
        let again = Frozen::parse(&freeze(&all, &frozen.survivors).expect("all are there")).expect("it is a list");
        assert!(frozen.recordings.iter().all(|one| again.recordings.contains(one)));
        assert_eq!(again.survivors, frozen.survivors);
    }
}
