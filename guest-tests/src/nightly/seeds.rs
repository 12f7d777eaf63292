//! Seeds as a user names them: `3.0..5.10`, half open; a boot alone is its first seed, so that `3..5` are two whole boots.

use night_results::Seed;

/// Seeds from one on, up to another that is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedRange {
    /// The first.
    pub from: Seed,
    /// The first that does not belong to it; none: it goes on.
    pub until: Option<Seed>,
}

impl SeedRange {
    /// In order; of one without an end, all there are.
    pub fn seeds(&self) -> impl Iterator<Item = Seed> + use<> {
        let until = self.until;
        let follows = move |seed: &Seed| until.is_none_or(|until| *seed < until);
        std::iter::successors(Some(self.from), |seed| seed.next()).take_while(follows)
    }
}

impl std::fmt::Display for SeedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..", self.from)?;
        self.until.map_or(Ok(()), |until| write!(f, "{until}"))
    }
}

impl std::str::FromStr for SeedRange {
    type Err = String;

    fn from_str(text: &str) -> Result<SeedRange, String> {
        let (from, until) = text
            .split_once("..")
            .ok_or_else(|| format!("{text:?} are no seeds: write FROM..UNTIL, such as 3..5 or 3.0..3.20"))?;
        let until = if until.is_empty() { None } else { Some(seed(until)?) };
        let range = SeedRange { from: seed(from)?, until };
        if range.until.is_some_and(|until| until <= range.from) {
            return Err(format!("there are no seeds in {text}: its end does not belong to it"));
        }
        Ok(range)
    }
}

/// A range with an end.
pub fn ended(text: &str) -> Result<SeedRange, String> {
    let range: SeedRange = text.parse()?;
    range.until.map(|_| range).ok_or_else(|| format!("{text:?} has no end: write FROM..UNTIL, such as 6.0..6.50"))
}

/// A seed, or a boot for its first one.
pub fn seed(text: &str) -> Result<Seed, String> {
    let whole = if text.contains('.') { text.to_owned() } else { format!("{text}.0") };
    whole.parse().map_err(|error: scenario_generator::SeedError| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_as_they_are_told() {
        for (text, told) in [("3..5", "3.0..5.0"), ("3.7..3.9", "3.7..3.9"), ("3..", "3.0.."), ("0.0..1", "0.0..1.0")] {
            assert_eq!(text.parse::<SeedRange>().unwrap().to_string(), told);
        }
    }

    #[test]
    fn a_range_gives_its_seeds_and_not_its_end() {
        let seeds: Vec<String> = ended("3.254..4.1").unwrap().seeds().map(|seed| seed.to_string()).collect();
        assert_eq!(seeds, ["3.254", "3.255", "4.0"]);
        assert!(ended("3..").unwrap_err().contains("no end"));
    }

    #[test]
    fn what_are_no_seeds_is_refused_with_the_form() {
        for text in ["", "3", "..", "5..3", "3..3", "a..b", "3.999..4", "..4"] {
            assert!(text.parse::<SeedRange>().is_err(), "{text:?}");
        }
    }
}
