//! How long a file may be: everything between two ends, or one of a few sizes.

use std::collections::BTreeSet;

/// The sizes a file may have; both ends are possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest.
    pub least: u64,
    /// Largest.
    pub most: u64,
    /// None in between but these; empty: any in between.
    only: BTreeSet<u64>,
}

impl Sizes {
    /// This and no other.
    pub fn exactly(size: u64) -> Sizes {
        Sizes::between(size, size)
    }

    /// Both and all in between.
    pub fn between(least: u64, most: u64) -> Sizes {
        Sizes { least, most, only: BTreeSet::new() }
    }

    /// One of these; none: of nothing.
    pub fn one_of(sizes: BTreeSet<u64>) -> Sizes {
        let (least, most) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
        Sizes { least, most, only: if least == most { BTreeSet::new() } else { sizes } }
    }

    /// What becomes of them by a change that makes none larger than a larger one.
    pub fn map(&self, change: impl Fn(u64) -> u64) -> Sizes {
        match self.only.is_empty() {
            true => Sizes::between(change(self.least), change(self.most)),
            false => Sizes::one_of(self.only.iter().map(|size| change(*size)).collect()),
        }
    }

    /// All between the smallest and the largest of both.
    pub fn hull(&self, other: &Sizes) -> Sizes {
        Sizes::between(self.least.min(other.least), self.most.max(other.most))
    }

    /// These alone, where nothing in between is possible.
    pub fn each(&self) -> Option<BTreeSet<u64>> {
        match self.least == self.most {
            true => Some([self.least].into()),
            false => Some(self.only.clone()).filter(|only| !only.is_empty()),
        }
    }

    /// Whether a file may be so long.
    pub fn allow(&self, size: u64) -> bool {
        (self.least..=self.most).contains(&size) && (self.only.is_empty() || self.only.contains(&size))
    }

    /// For a person.
    pub fn describe(&self) -> String {
        let Sizes { least, most, only } = self;
        let sizes: Vec<String> = only.iter().map(u64::to_string).collect();
        match sizes.is_empty() {
            _ if least == most => format!("{least}"),
            true => format!("{least} to {most}"),
            false => sizes.join(" or "),
        }
    }
}
