//! The night's canaries: one replica with a planted mistake, one disk that lies and whose record does not tell.
//!
//! Each has a scenario of its own in which nothing else is wrong, so that only the planted thing can be what is noticed. A night
//! in which one goes unnoticed says nothing, and is red. Which ones is drawn from the night's first seed, so that a week
//! tries many. Pure.

use crate::verdict::{Outcome, Verdict};
use ext4_replica::Mutation;
use night_results::{Canary, Seed, Unit};

/// A mistake that is planted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In the replica that the guest is compared with.
    Replica(Mutation),
    /// In the disk: `vhost-blk --planted-lie`.
    Device(&'static str),
}

/// Mistakes of the replica that the scenario below shows on every kernel we know.
pub const MISTAKES: &[&str] = &[
    "skip_deferred_put",
    "born_with_two",
    "unwritten_flag_lost",
    "get_not_counted",
    "release_without_convert",
    "convert_twice",
    "never_released",
    "put_counts_twice",
    "convert_one_block_less",
    "folio_ends_twice",
    "wrong_sync",
    "work_not_queued",
];

/// Lies of the disk.
pub const LIES: &[&str] = &["drop-write", "flip-bit", "zero-read", DROP_FLUSH];

/// A lie that nothing shows but a power cut.
const DROP_FLUSH: &str = "drop-flush";

/// One extent, four bios, one conversion; and what is read is what was written.
const CLEAN: (&str, &str) = ("clean-interleaved", include_str!("../../scenarios/clean-interleaved.json"));

/// An fsync, and then a cut of the power.
const CUT: (&str, &str) = ("power-cut-after-fsync", include_str!("../../scenarios/power-cut-after-fsync.json"));

/// The two of a night.
pub fn of_night(first: Seed) -> [Planted; 2] {
    // Nights begin a few boots apart: neighbours should not meet the same two for a week.
    let number = (u64::from(first.boot) << 8 | u64::from(first.index)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let pick = |list: &[&'static str], number: u64| list[(number % list.len() as u64) as usize];
    let mistake = Mutation::by_name(pick(MISTAKES, number)).expect("a test looks each of them up");
    [Planted::Replica(mistake), Planted::Device(pick(LIES, number / 64))]
}

impl Planted {
    /// What it is counted as.
    pub fn unit(&self) -> Unit {
        Unit::Canary(match self {
            Planted::Replica(_) => Canary::Replica,
            Planted::Device(_) => Canary::Device,
        })
    }

    /// Its name in night.json and in the results.
    pub fn name(&self) -> String {
        match self {
            Planted::Replica(mistake) => format!("replica:{}", mistake.name()),
            Planted::Device(lie) => format!("device:{lie}"),
        }
    }

    /// The scenario that shows it: its name among those of the repository, and its text.
    pub fn scenario(&self) -> (&'static str, &'static str) {
        if *self == Planted::Device(DROP_FLUSH) { CUT } else { CLEAN }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Planted> {
        let (where_, what) = name.split_once(':')?;
        match where_ {
            "replica" => Mutation::by_name(what).map(Planted::Replica),
            "device" => LIES.iter().find(|lie| **lie == what).map(|lie| Planted::Device(lie)),
            _ => None,
        }
    }
}

/// What a canary shows: it was noticed, it was not, or nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// By this.
    Noticed(String),
    /// Although everything was looked at.
    Missed(String),
    /// Something else was wrong.
    Unclear(String),
}

/// A replica with a mistake must part from the guest, and the true one, on the same recording, must not.
pub fn replica(with_mistake: &Verdict, without: &Verdict) -> Shown {
    match (with_mistake.verdict, without.verdict) {
        (_, Outcome::Different | Outcome::Unjudged) => {
            Shown::Unclear(format!("without the planted mistake: {}", without.why))
        }
        (Outcome::Different, _) => Shown::Noticed(with_mistake.why.clone()),
        (Outcome::Unjudged, _) => Shown::Unclear(with_mistake.why.clone()),
        (Outcome::Same | Outcome::Allowed, _) => {
            Shown::Missed("a replica with a planted mistake was judged to do what the guest does".into())
        }
    }
}

/// A lie about contents must be a finding about contents.
pub fn device(verdict: &Verdict) -> Shown {
    use crate::findings::{CORRUPT_DATA_RETURNED, STALE_DATA_READ, WRITTEN_DATA_LOST};
    let telling = [CORRUPT_DATA_RETURNED, STALE_DATA_READ, WRITTEN_DATA_LOST];
    match verdict.findings.iter().find(|finding| telling.contains(&finding.id.as_str())) {
        Some(finding) => Shown::Noticed(format!("{}: {}", finding.id, finding.what)),
        None if verdict.verdict == Outcome::Unjudged => Shown::Unclear(verdict.why.clone()),
        None => Shown::Missed("a disk that lied about its contents was judged to be sound".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_mistake_and_lie_has_its_turn_and_its_name() {
        let nights = (0..2000).flat_map(|boot| of_night(Seed { boot, index: 0 }));
        let names: BTreeSet<String> = nights.map(|planted| planted.name()).collect();
        assert_eq!(names.len(), MISTAKES.len() + LIES.len());
        for name in names {
            assert_eq!(Planted::by_name(&name).unwrap().name(), name);
        }
        assert_eq!(Planted::by_name("device:none"), None);
    }

    #[test]
    fn the_scenarios_are_such_as_can_be_run() {
        for (_, text) in [CLEAN, CUT] {
            let scenario = crate::scenario::parse(std::path::Path::new("canary.json"), text).unwrap();
            assert!(scenario.kernels.include("6.1") && scenario.script.normalized().contains("rules"));
        }
    }
}
