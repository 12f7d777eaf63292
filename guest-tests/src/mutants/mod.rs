//! `guest-tests mutants`: how many wrong replicas are told from the true one.
//!
//! Each planted mistake ([`Mutation`]) is laid beside the recordings of real guests. It is told if a recording that agrees with the
//! true replica comes out `different` with it; a mistake in code that no recording runs changes nothing and so survives.
//! What the replica said before is never asked, so no file of its own output can tell anything. The recordings are frozen
//! ([`frozen`]), and every survivor has a reason in writing, or the count fails.

pub mod frozen;
mod search;
mod text;

#[cfg(test)]
mod tests;

pub use text::{list, list_json, text};

use crate::failure::{Failure, exit};
use crate::folder::RunFolder;
use crate::judge::{self, Recorded};
use crate::verdict::Outcome;
use ext4_replica::Mutation;
use frozen::{Frozen, FrozenError};
use search::Machine;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At least so many of a hundred must be told.
pub const LEAST_PERCENT: usize = 95;

/// What the count gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Recordings it was made on.
    pub recordings: Vec<String>,
    /// Machines that were searched.
    pub machines: Vec<&'static str>,
    /// Each mistake and what became of it.
    pub mutants: Vec<Mutant>,
    /// How many were told.
    pub told: usize,
    /// Listed as survivors though they are told.
    pub told_after_all: Vec<&'static str>,
    /// Every one was counted: what is asked for by name is not the whole count.
    pub whole: bool,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// The response it shows in.
    pub shows_in: &'static str,
    /// The function that is wrong.
    pub function: &'static str,
    /// What it does instead.
    pub what: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What became of a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It was told from the true replica.
    Told {
        /// The recording that told it first, or the machine whose search did.
        by: String,
        /// Where the two part.
        why: String,
    },
    /// Nothing tells it.
    Survived {
        /// A recording in which the replica says something else with it, though the judge does not mind; none: it changes nothing
        /// anywhere.
        says_otherwise_in: Option<String>,
        /// The reason on the list; none: it is not explained.
        reason: Option<String>,
    },
}

impl Mutant {
    /// Whether nothing tells it.
    pub fn survived(&self) -> bool {
        matches!(self.fate, Fate::Survived { .. })
    }

    fn is_unexplained(&self) -> bool {
        matches!(self.fate, Fate::Survived { reason: None, .. })
    }
}

impl Count {
    /// Enough are told, and every survivor is explained.
    pub fn is_enough(&self) -> bool {
        let enough = self.told * 100 >= LEAST_PERCENT * self.mutants.len() || !self.whole;
        enough && self.told_after_all.is_empty() && !self.mutants.iter().any(Mutant::is_unexplained)
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        if self.is_enough() { exit::AS_EXPECTED } else { exit::NOT_AS_EXPECTED }
    }
}

impl From<FrozenError> for Failure {
    fn from(error: FrozenError) -> Failure {
        Failure::BadInput(error.to_string())
    }
}

/// What tells one replica from another.
struct Witnesses {
    recordings: Vec<Agreed>,
    machines: Vec<Machine>,
}

/// A recording that agrees with the true replica, and what that says.
struct Agreed {
    name: String,
    recorded: Recorded,
    said: Vec<(u64, writeback_events::Response)>,
}

/// Counts `mutations` on the recordings in `dir`.
pub fn count(mutations: &[Mutation], frozen: &Frozen, dir: &Path) -> Result<Count, Failure> {
    let witnesses = Witnesses::read(frozen, dir)?;
    let mutants = in_parallel(mutations, |mutation| Mutant::of(mutation, frozen, &witnesses));
    let told = mutants.iter().filter(|mutant| !mutant.survived()).count();
    let listed = |mutant: &&Mutant| frozen.survivors.iter().any(|survivor| survivor.name == mutant.name);
    let told_after_all = mutants.iter().filter(|mutant| !mutant.survived()).filter(listed);
    Ok(Count {
        recordings: witnesses.recordings.iter().map(|agreed| agreed.name.clone()).collect(),
        machines: witnesses.machines.iter().map(|machine| machine.name).collect(),
        told,
        told_after_all: told_after_all.map(|mutant| mutant.name).collect(),
        whole: mutations.len() == Mutation::ALL.len(),
        mutants,
    })
}

impl Witnesses {
    fn read(frozen: &Frozen, dir: &Path) -> Result<Witnesses, Failure> {
        frozen.check(dir)?;
        let read = |one: &frozen::FrozenRecording| Agreed::read(&one.name, dir);
        let recordings = frozen.recordings.iter().map(read).collect::<Result<Vec<Agreed>, Failure>>()?;
        let listed = |machine: &Machine| frozen.machines.iter().any(|one| one.name == machine.name);
        let machines: Vec<Machine> = Machine::all().into_iter().filter(listed).collect();
        for machine in &machines {
            let broken = machine.broken(None).map_err(Failure::BadInput)?;
            if let Some(why) = broken {
                let what = format!("machine {} tells nothing, as the true replica breaks there: {why}", machine.name);
                return Err(Failure::BadInput(what));
            }
        }
        Ok(Witnesses { recordings, machines })
    }
}

impl Agreed {
    fn read(name: &str, dir: &Path) -> Result<Agreed, Failure> {
        let recorded = judge::read(&RunFolder::open(&dir.join(name))?)?;
        let differs = |why: String| {
            Failure::BadInput(format!("{name} tells nothing, as it does not agree with the true replica: {why}"))
        };
        let judgement = judge::compare_with(&recorded, None).map_err(differs)?;
        match judgement.verdict {
            Outcome::Same | Outcome::Allowed => Ok(Agreed { name: name.to_owned(), recorded, said: judgement.replica }),
            Outcome::Different | Outcome::Unjudged => Err(differs(judgement.why)),
        }
    }
}

impl Mutant {
    fn of(mutation: Mutation, frozen: &Frozen, witnesses: &Witnesses) -> Mutant {
        let (name, shows_in) = (mutation.name(), mutation.shows_in().name());
        let fate = told(mutation, witnesses).unwrap_or_else(|says_otherwise_in| {
            let listed = frozen.survivors.iter().find(|survivor| survivor.name == name);
            Fate::Survived { says_otherwise_in, reason: listed.map(|survivor| survivor.reason.clone()) }
        });
        Mutant { name, shows_in, function: mutation.function(), what: mutation.what(), fate }
    }
}

/// The first recording that tells it, else the first machine; or a recording in which it makes the replica say something else, if any does.
fn told(mutation: Mutation, witnesses: &Witnesses) -> Result<Fate, Option<String>> {
    let mut says_otherwise_in = None;
    for Agreed { name, recorded, said } in &witnesses.recordings {
        let Ok(judgement) = judge::compare_with(recorded, Some(mutation)) else { continue };
        if judgement.verdict == Outcome::Different {
            return Ok(Fate::Told { by: name.clone(), why: judgement.why });
        }
        if judgement.replica != *said {
            says_otherwise_in.get_or_insert_with(|| name.clone());
        }
    }
    for machine in &witnesses.machines {
        if let Ok(Some(why)) = machine.broken(Some(mutation)) {
            return Ok(Fate::Told { by: format!("search of {}", machine.name), why });
        }
    }
    Err(says_otherwise_in)
}

/// In the order of `mutations`, on all cores.
fn in_parallel(mutations: &[Mutation], one: impl Fn(Mutation) -> Mutant + Sync) -> Vec<Mutant> {
    let (next, one) = (AtomicUsize::new(0), &one);
    let work = || {
        let mut done = Vec::new();
        while let Some((place, mutation)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, mutations.get(n)?)))
        {
            done.push((place, one(*mutation)));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<(usize, Mutant)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("judging does not panic")).collect()
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, mutant)| mutant).collect()
}
