//! How often something happens, with what can be said of it from so many tries.

use serde::{Deserialize, Serialize};

/// Standard deviations to either side of a normal distribution that hold 95 % of it.
const Z_95: f64 = 1.959_963_984_540_054;

/// `n` of `of`, with the Wilson score interval at 95 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How often it happened.
    pub n: u64,
    /// How often it could have.
    pub of: u64,
    /// `n / of`; 0 where nothing was tried, and then `low` and `high` say that nothing is known.
    pub rate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Rate {
    /// `n` of `of`, which is not less.
    pub fn of(n: u64, of: u64) -> Rate {
        if of == 0 {
            return Rate { n, of, rate: 0.0, low: 0.0, high: 1.0 };
        }
        let (tries, rate) = (of as f64, n as f64 / of as f64);
        let z2 = Z_95 * Z_95;
        let middle = (rate + z2 / (2.0 * tries)) / (1.0 + z2 / tries);
        let half = Z_95 / (1.0 + z2 / tries) * (rate * (1.0 - rate) / tries + z2 / (4.0 * tries * tries)).sqrt();
        // At the ends the formula is exact but for the last digits.
        let low = if n == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if n == of { 1.0 } else { (middle + half).min(1.0) };
        Rate { n, of, rate: digits(rate), low: digits(low), high: digits(high) }
    }

    /// The two intervals have nothing in common.
    pub fn differs_from(&self, other: &Rate) -> bool {
        self.of > 0 && other.of > 0 && (self.low > other.high || other.low > self.high)
    }

    /// `3 of 40 (7.5 %, 2.6–20 %)`.
    pub fn text(&self) -> String {
        match self.of {
            0 => "none tried".to_owned(),
            _ => format!(
                "{} of {} ({}, {}–{})",
                self.n,
                self.of,
                percent(self.rate),
                percent(self.low),
                percent(self.high)
            ),
        }
    }
}

/// Six digits behind the point: the same text on every machine.
fn digits(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// A share as people write it, with two digits that matter.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p == 0.0 || p >= 99.95 => format!("{p:.0} %"),
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p => format!("{p:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of the formula as Wilson gave it, computed by other means (R's prop.test without correction).
    #[test]
    fn the_interval_is_wilsons() {
        for (n, of, low, high) in
            [(0, 10, 0.0, 0.277_533), (5, 10, 0.236_593, 0.763_407), (1, 100, 0.001_767, 0.054_486)]
        {
            let rate = Rate::of(n, of);
            assert!((rate.low - low).abs() < 2e-6 && (rate.high - high).abs() < 2e-6, "{rate:?}");
        }
    }

    #[test]
    fn of_nothing_tried_nothing_is_known() {
        let rate = Rate::of(0, 0);
        assert_eq!((rate.low, rate.high, rate.text()), (0.0, 1.0, "none tried".to_owned()));
        assert!(!rate.differs_from(&Rate::of(9, 10)));
    }

    proptest! {
        #[test]
        fn the_rate_lies_in_its_interval_and_more_tries_narrow_it(of in 1_u64..10_000, share in 0.0_f64..1.0) {
            let n = (of as f64 * share) as u64;
            let rate = Rate::of(n, of);
            prop_assert!(0.0 <= rate.low && rate.low <= rate.rate && rate.rate <= rate.high && rate.high <= 1.0, "{rate:?}");
            let more = Rate::of(n * 10, of * 10);
            prop_assert!(more.high - more.low <= rate.high - rate.low);
        }
    }
}
