//! night.json: what a night was asked to do, and where. And state.json: how far it has come.

use crate::Damage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What was asked. Written once, when the night begins; a night that goes on is asked the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NightJson {
    /// Version of this form.
    pub night: u32,
    /// When it began, as 2026-11-23T02:39:28Z. After a merge: the earliest.
    pub began: String,
    /// Seeds that were asked for, as `3.0..5.0`; `3.0..` has no end but the budget's.
    pub seeds: Vec<String>,
    /// Series that were asked for.
    pub kernels: Vec<String>,
    /// The one kernel that every boot runs, in place of its shape's.
    pub kernel: Option<String>,
    /// Wall time that was given, in seconds.
    pub budget_s: Option<u64>,
    /// Guests at the same time. After a merge: their sum.
    pub jobs: u32,
    /// The parts of the night that this folder holds.
    pub shards: Vec<Shard>,
    /// The planted mistakes of this night.
    pub canaries: Vec<String>,
    /// Nothing but the canaries was asked for.
    pub canary_only: bool,
    /// How the scenarios of the repository are run: `one` kernel each, `all`, or `none`.
    pub standing: String,
    /// Seeds that failed in earlier nights, run first.
    pub old: Vec<String>,
    /// The programs. After a merge: each version once.
    pub versions: Vec<Versions>,
    /// The machines.
    pub hosts: Vec<HostFacts>,
}

/// One part of a night, as `I/N` says it, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

/// The programs of a night.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// guest-tests, and with it vhost-blk and guest-init, which are refused otherwise.
    pub guest_tests: String,
    /// What `qemu-system-x86_64 --version` says first.
    pub qemu: String,
}

/// A machine of a night.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u64,
    /// `uname -r`
    pub kernel: String,
}

/// state.json: how far a night has come. Written anew every minute and at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NightState {
    /// Wall time that it has worked, over all its starts. After a merge: the longest.
    pub worked_ms: u64,
    /// How often it was started.
    pub starts: u32,
    /// Boots of a guest.
    pub boots: u64,
    /// Why it ended: `seeds`, `budget`, `interrupted` or `infrastructure`; none: it is at work, or was killed.
    pub ended: Option<String>,
}

impl Shard {
    /// The whole of a night.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Whether the n-th of a list, counted from 0, is this part's.
    pub fn takes(self, n: u64) -> bool {
        n % u64::from(self.count.max(1)) == u64::from(self.index)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let wrong = || format!("{text:?} is not a shard: write I/N, the first of four being 0/4");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let shard = Shard { index: index.parse().map_err(|_| wrong())?, count: count.parse().map_err(|_| wrong())? };
        if shard.index >= shard.count {
            return Err(format!("there is no shard {text}: of {} the last is {}", shard.count, shard.count.max(1) - 1));
        }
        Ok(shard)
    }
}

impl NightJson {
    /// The version that this program writes and reads.
    pub const VERSION: u32 = 1;

    /// Reads night.json; `file` is what an error calls it.
    pub fn read(file: &str, text: &str) -> Result<NightJson, Damage> {
        let night: NightJson = read_json(file, text)?;
        if night.night != Self::VERSION {
            let what = format!("this is form {} of night.json; this program reads form {}", night.night, Self::VERSION);
            return Err(damaged(file, 1, what));
        }
        Ok(night)
    }

    /// The text of night.json.
    pub fn to_text(&self) -> String {
        pretty(self)
    }

    /// What two nights were asked that is not the same, one sentence for each. What the machine says of itself is not asked.
    pub fn differs_from(&self, other: &NightJson) -> Vec<String> {
        let fields = |night: &NightJson| {
            [
                ("--seeds", night.seeds.join(", ")),
                ("--kernels", night.kernels.join(",")),
                ("--kernel", night.kernel.clone().unwrap_or_else(|| "none".into())),
                ("--shard", night.shards.iter().map(Shard::to_string).collect::<Vec<_>>().join(", ")),
                ("--canary-only", night.canary_only.to_string()),
                ("--standing", night.standing.clone()),
                ("old failing seeds", night.old.join(", ")),
                ("the programs", night.versions.iter().map(|version| version.guest_tests.clone()).collect()),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        let differs = pairs.filter(|((_, mine), (_, theirs))| mine != theirs);
        differs.map(|((name, mine), (_, theirs))| format!("{name}: {mine} there, {theirs} here")).collect()
    }

    /// The day it began, as 2026-11-23.
    pub fn day(&self) -> &str {
        self.began.get(..10).unwrap_or(&self.began)
    }
}

impl NightState {
    /// Reads state.json.
    pub fn read(file: &str, text: &str) -> Result<NightState, Damage> {
        read_json(file, text)
    }

    /// The text of state.json.
    pub fn to_text(&self) -> String {
        pretty(self)
    }
}

/// Every value once, in order: what a merge does to lists.
pub(crate) fn each_once<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    all.into_iter().collect::<BTreeSet<T>>().into_iter().collect()
}

fn read_json<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Damage> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| damaged(file, error.inner().line().max(1), error.to_string()))
}

fn damaged(file: &str, line: usize, what: String) -> Damage {
    let remedy = "take an undamaged copy of the night's folder, or name a new one with --out".to_owned();
    Damage { file: file.to_owned(), line, what, remedy }
}

fn pretty<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("it holds nothing that JSON cannot say");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_those_there_are() {
        assert_eq!("1/4".parse(), Ok(Shard { index: 1, count: 4 }));
        for text in ["4/4", "0/0", "1", "a/b", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_shards_of_a_night_take_everything_once() {
        for n in 0..20 {
            let takers = (0..3).filter(|index| Shard { index: *index, count: 3 }.takes(n)).count();
            assert_eq!(takers, 1);
        }
    }
}
