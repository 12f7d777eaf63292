//! One thing a night runs and counts once.
//!
//! The order of the variants is the order of a night: canaries, what failed before, the standing scenarios, fresh seeds.

use scenario_generator::Seed;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A planted mistake, to see that it is noticed.
    Canary(Canary),
    /// A seed that failed in an earlier night.
    Old(Seed),
    /// A scenario of the repository.
    Standing {
        /// Its name.
        name: String,
        /// The kernel's series, or the kernel as it was asked for.
        kernel: String,
    },
    /// A seed nobody has tried.
    Fresh(Seed),
}

/// What the planted mistake is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Canary {
    /// The replica.
    Replica,
    /// The disk: it lies, and its record does not tell.
    Device,
}

/// Not the name of a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a unit: those are 3.17, old/3.17, standing/NAME@6.1, canary/replica and canary/device")]
pub struct UnitError(pub String);

impl Unit {
    /// Its seed, if it has one.
    pub fn seed(&self) -> Option<Seed> {
        match self {
            Unit::Old(seed) | Unit::Fresh(seed) => Some(*seed),
            _ => None,
        }
    }

    /// Its name as that of a folder: one path component.
    pub fn folder(&self) -> String {
        self.to_string().replace('/', "-")
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Canary(Canary::Replica) => f.write_str("canary/replica"),
            Unit::Canary(Canary::Device) => f.write_str("canary/device"),
            Unit::Old(seed) => write!(f, "old/{seed}"),
            Unit::Standing { name, kernel } => write!(f, "standing/{name}@{kernel}"),
            Unit::Fresh(seed) => write!(f, "{seed}"),
        }
    }
}

impl FromStr for Unit {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Unit, UnitError> {
        let wrong = || UnitError(text.to_owned());
        let seed = |text: &str| text.parse::<Seed>().map_err(|_| wrong());
        match text.split_once('/') {
            None => Ok(Unit::Fresh(seed(text)?)),
            Some(("canary", "replica")) => Ok(Unit::Canary(Canary::Replica)),
            Some(("canary", "device")) => Ok(Unit::Canary(Canary::Device)),
            Some(("old", rest)) => Ok(Unit::Old(seed(rest)?)),
            Some(("standing", rest)) => standing(rest).ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }
}

fn standing(rest: &str) -> Option<Unit> {
    let (name, kernel) = rest.split_once('@')?;
    let whole = !name.is_empty() && !kernel.is_empty();
    whole.then(|| Unit::Standing { name: name.to_owned(), kernel: kernel.to_owned() })
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unit, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_is_read_as_the_unit_it_is_of() {
        let names = ["canary/replica", "canary/device", "old/0.3", "standing/torn@6.1", "3.17", "12.255"];
        let units: Vec<Unit> = names.iter().map(|name| name.parse().unwrap()).collect();
        let told: Vec<String> = units.iter().map(Unit::to_string).collect();
        assert_eq!(told, names);
        assert!(units.is_sorted(), "a night's order is that of the units");
    }

    #[test]
    fn seeds_stand_in_the_order_of_their_numbers() {
        let mut units: Vec<Unit> = ["10.2", "9.3", "9.20"].iter().map(|name| name.parse().unwrap()).collect();
        units.sort();
        assert_eq!(units.iter().map(Unit::to_string).collect::<Vec<_>>(), ["9.3", "9.20", "10.2"]);
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in ["", "3", "old/", "canary/host", "standing/x", "standing/@6.1", "new/3.1", "3.1/x"] {
            assert!(text.parse::<Unit>().is_err(), "{text:?}");
        }
    }
}
