//! Mistakes in code that no guest of today runs, or that none shows: looked for in every order of steps.
//!
//! The dialect is the patch without its defects, which comes out clean. With a mistake in it, a search of one of these small
//! machines must find something that does not hold; the machines are part of what is frozen.

use explorer::search::{Ended, Limits, search};
use ext4_replica::explore::{Bounds, Layout};
use ext4_replica::{Bugs, Dialect, Mutation};
use sha2::{Digest, Sha256};
use std::sync::atomic::AtomicBool;

/// The most states of one machine: all of them, of a true replica.
const STATES: u64 = 400_000;
const MEMORY_BYTES: u64 = 2 << 30;

/// A machine that is searched.
pub struct Machine {
    /// Its name.
    pub name: &'static str,
    bounds: Bounds,
}

impl Machine {
    /// All of them, in the order in which they are tried.
    pub fn all() -> Vec<Machine> {
        let nobody = || Bounds { pages: 1, max_pages: vec![1], ..Bounds::default() };
        vec![
            Machine { name: "writer", bounds: Bounds { pages: 2, writers: 1, evicts: 1, ..nobody() } },
            Machine { name: "direct", bounds: Bounds { direct_writes: 1, evicts: 1, errors: 1, ..nobody() } },
        ]
    }

    /// Who is in it, as a hash for the list of what is frozen.
    pub fn sha256(&self) -> String {
        let hash = Sha256::digest(format!("{:?}", self.bounds));
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What does not hold with this mistake, or with none; none: everything does. An error: it was not searched to the end.
    pub fn broken(&self, mutation: Option<Mutation>) -> Result<Option<String>, String> {
        let clean = Dialect::SEED.with_bugs(Bugs::NONE);
        let dialect = mutation.map_or(clean, |mutation| clean.with_mutation(mutation));
        let limits = Limits { states: STATES, memory_bytes: MEMORY_BYTES, threads: 1 };
        let starts = Layout::all(&self.bounds, &dialect);
        let searched = search(dialect, &self.bounds, &starts, limits, &AtomicBool::new(false));
        let first = searched.found.iter().min_by_key(|found| found.moves.len());
        match (first, searched.ended) {
            (Some(found), _) => {
                Ok(Some(format!("{}, after {} moves", found.broken.property.sentence(), found.moves.len())))
            }
            (None, Ended::Exhaustive) => Ok(None),
            (None, _) => Err(format!("machine {} has more than {STATES} states", self.name)),
        }
    }
}
