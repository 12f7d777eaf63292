//! The name of a scenario: which boot, and which of its scenarios.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Scenarios of one boot.
pub const INDICES_PER_BOOT: u32 = 256;

/// (boot, index), written `BOOT.INDEX`. Ordered by boot, then index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    /// What the guest is booted as.
    pub boot: u32,
    /// What is done in it; below [`INDICES_PER_BOOT`].
    pub index: u32,
}

/// Why a text is no seed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not two numbers with a dot between them.
    #[error("{text:?} is no seed; write BOOT.INDEX, such as 3.17")]
    Form {
        /// What was given.
        text: String,
    },
    /// There are not so many scenarios to a boot.
    #[error("{text:?}: a boot has the scenarios 0 to {}", INDICES_PER_BOOT - 1)]
    Index {
        /// What was given.
        text: String,
    },
}

impl Seed {
    /// The first scenario of a boot.
    pub fn first_of(boot: u32) -> Seed {
        Seed { boot, index: 0 }
    }

    /// The one after this in order; none: this is the last of all.
    pub fn next(self) -> Option<Seed> {
        match self.index + 1 {
            INDICES_PER_BOOT => self.boot.checked_add(1).map(Seed::first_of),
            index => Some(Seed { index, ..self }),
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot, self.index)
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Seed, SeedError> {
        let form = || SeedError::Form { text: text.to_owned() };
        let (boot, index) = text.split_once('.').ok_or_else(form)?;
        let seed = Seed { boot: number(boot).ok_or_else(form)?, index: number(index).ok_or_else(form)? };
        match seed.index < INDICES_PER_BOOT {
            true => Ok(seed),
            false => Err(SeedError::Index { text: text.to_owned() }),
        }
    }
}

/// One way to write each number, so that one scenario has one name.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seed, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_seed_is_its_text(boot: u32, index in 0..INDICES_PER_BOOT) {
            let seed = Seed { boot, index };
            prop_assert_eq!(seed.to_string().parse(), Ok(seed));
            let json = serde_json::to_string(&seed).expect("it is a string");
            prop_assert_eq!(&json, &format!("\"{boot}.{index}\""));
            prop_assert_eq!(serde_json::from_str::<Seed>(&json).expect("it was written just now"), seed);
        }

        #[test]
        fn the_next_seed_is_greater_and_none_lies_between(boot in 0..u32::MAX, index in 0..INDICES_PER_BOOT) {
            let seed = Seed { boot, index };
            let next = seed.next().expect("it is not the last");
            let place = |seed: Seed| u64::from(seed.boot) * u64::from(INDICES_PER_BOOT) + u64::from(seed.index);
            prop_assert!(next > seed);
            prop_assert_eq!(place(next), place(seed) + 1);
        }
    }

    #[test]
    fn what_is_no_seed_is_refused_with_the_form_to_write() {
        for text in ["", "3", "3.", ".17", "3.17.1", "03.17", "3.017", "+3.17", "3,17", "-1.0", "4294967296.0", "3.x"] {
            let said = text.parse::<Seed>().expect_err(text).to_string();
            assert!(said.contains("BOOT.INDEX"), "{said}");
        }
        let said = "3.256".parse::<Seed>().expect_err("there are 256").to_string();
        assert_eq!(said, "\"3.256\": a boot has the scenarios 0 to 255");
    }

    #[test]
    fn the_last_seed_of_all_has_none_after_it() {
        assert_eq!(Seed { boot: u32::MAX, index: INDICES_PER_BOOT - 1 }.next(), None);
    }
}
