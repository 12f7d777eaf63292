//! Delays drawn from a distribution: whole microseconds, the same on every machine.
//!
//! The system's logarithm and exponential differ between C libraries in the last bit, and a last bit can change a
//! rounded microsecond. So both are computed here from `+ - * /`, `sqrt` and `floor` alone, which IEEE 754 defines to
//! the bit and Rust neither fuses nor reorders. What remains is x87 arithmetic with its wider registers: refused below.
//! The file tests/golden/draws.txt holds the results still.

use serde::Serialize;

use crate::random::{below, unit};

#[cfg(all(target_arch = "x86", not(target_feature = "sse2")))]
compile_error!("delays would differ from those of other machines: build for a target with SSE2");

/// A delay longer than this needs `max_us` in the script: a heavy tail must not wedge a guest by accident.
pub const DEFAULT_MAX_US: u64 = 60_000_000;

/// A distribution with its parameters; `max_us` cuts off what lies above, `min_us` what lies below.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "dist", rename_all = "snake_case")]
pub enum Distribution {
    /// Every microsecond in `min_us..=max_us` as likely.
    Uniform { min_us: u64, max_us: u64 },
    /// Memoryless.
    Exponential { mean_us: u64, min_us: u64, max_us: u64 },
    /// Half of all delays above the median, one in a hundred above `p99_us`.
    Lognormal { median_us: u64, p99_us: u64, min_us: u64, max_us: u64 },
    /// Never below `min_us`, with a heavy tail.
    Pareto {
        min_us: u64,
        #[serde(flatten)]
        tail: Tail,
        max_us: u64,
    },
}

/// What fixes the tail of a Pareto distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Tail {
    #[serde(rename = "mean_us")]
    Mean(u64),
    #[serde(rename = "median_us")]
    Median(u64),
    #[serde(rename = "p99_us")]
    P99(u64),
}

impl Distribution {
    /// The delay for 64 uniform bits.
    pub fn us(&self, bits: u64) -> u64 {
        match *self {
            Distribution::Uniform { min_us, max_us } => min_us + below(bits, max_us - min_us + 1),
            Distribution::Exponential { mean_us, min_us, max_us } => {
                whole(-(mean_us as f64) * ln(unit(bits)), min_us, max_us)
            }
            Distribution::Lognormal { median_us, p99_us, min_us, max_us } => {
                let sigma = ln(p99_us as f64 / median_us as f64) / NORMAL_P99;
                whole(median_us as f64 * exp(sigma * normal(unit(bits))), min_us, max_us)
            }
            Distribution::Pareto { min_us, tail, max_us } => {
                let scale = min_us as f64;
                whole(scale * exp(-ln(unit(bits)) / tail.shape(scale)), min_us, max_us)
            }
        }
    }
}

impl Tail {
    /// Pareto's alpha: the larger, the lighter the tail.
    fn shape(self, scale: f64) -> f64 {
        match self {
            Tail::Mean(mean) => mean as f64 / (mean as f64 - scale),
            Tail::Median(median) => LN_2 / ln(median as f64 / scale),
            Tail::P99(p99) => ln(100.0) / ln(p99 as f64 / scale),
        }
    }
}

fn whole(us: f64, min_us: u64, max_us: u64) -> u64 {
    // The cast saturates, so that an infinite tail ends at max_us.
    ((us + 0.5).floor() as u64).clamp(min_us, max_us)
}

const LN_2: f64 = std::f64::consts::LN_2;
/// ln 2 in two parts, so that k·ln 2 subtracts without rounding: the first has 20 trailing zero bits.
const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() & !0xf_ffff);
const LN_2_LOW: f64 = 7.440617110012397e-11;
/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

/// Natural logarithm of a positive, finite, normal number; within a few units in the last place.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh s, and |s| < 0.172: twelve terms reach 2^-53.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / (2 * k + 1) as f64);
    exponent as f64 * LN_2 + 2.0 * s * series
}

/// e^x; infinite above 709, 0 below -708.
fn exp(x: f64) -> f64 {
    if x > 709.0 {
        return f64::INFINITY;
    }
    if x < -708.0 {
        return 0.0;
    }
    let k = (x / LN_2 + 0.5).floor();
    let rest = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    // |rest| < 0.35: fifteen terms reach 2^-53.
    let series = (1..16).rev().fold(1.0, |sum, n| 1.0 + sum * rest / n as f64);
    series * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// Inverse of the standard normal distribution function, for 0 < p < 1.
///
/// Rational approximations of Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), routine PPND16: relative
/// error about 1e-16.
fn normal(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * ratio(r, &CENTRE_OVER, &CENTRE_UNDER);
    }
    let r = (-ln(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let size = if r <= 5.0 { ratio(r - 1.6, &NEAR_OVER, &NEAR_UNDER) } else { ratio(r - 5.0, &FAR_OVER, &FAR_UNDER) };
    if q < 0.0 { -size } else { size }
}

/// One polynomial over another, coefficients rising.
fn ratio(x: f64, over: &[f64; 8], under: &[f64; 8]) -> f64 {
    let horner = |coefficients: &[f64; 8]| coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c);
    horner(over) / horner(under)
}

const CENTRE_OVER: [f64; 8] = [
    3.387_132_872_796_366_5,
    133.141_667_891_784_38,
    1_971.590_950_306_551_3,
    13_731.693_765_509_46,
    45_921.953_931_549_87,
    67_265.770_927_008_7,
    33_430.575_583_588_13,
    2_509.080_928_730_122_7,
];
const CENTRE_UNDER: [f64; 8] = [
    1.0,
    42.313_330_701_600_91,
    687.187_007_492_057_9,
    5_394.196_021_424_751,
    21_213.794_301_586_597,
    39_307.895_800_092_71,
    28_729.085_735_721_943,
    5_226.495_278_852_854,
];
const NEAR_OVER: [f64; 8] = [
    1.423_437_110_749_683_5,
    4.630_337_846_156_546,
    5.769_497_221_460_691,
    3.647_848_324_763_204_5,
    1.270_458_252_452_368_4,
    0.241_780_725_177_450_6,
    0.022_723_844_989_269_184,
    7.745_450_142_783_414e-4,
];
const NEAR_UNDER: [f64; 8] = [
    1.0,
    2.053_191_626_637_759,
    1.676_384_830_183_803_8,
    0.689_767_334_985_1,
    0.148_103_976_427_480_08,
    0.015_198_666_563_616_457,
    5.475_938_084_995_345e-4,
    1.050_750_071_644_416_9e-9,
];
const FAR_OVER: [f64; 8] = [
    6.657_904_643_501_103,
    5.463_784_911_164_114,
    1.784_826_539_917_291_3,
    0.296_560_571_828_504_87,
    0.026_532_189_526_576_124,
    1.242_660_947_388_078_4e-3,
    2.711_555_568_743_487_6e-5,
    2.010_334_399_292_288e-7,
];
const FAR_UNDER: [f64; 8] = [
    1.0,
    0.599_832_206_555_887_9,
    0.136_929_880_922_735_8,
    0.014_875_361_290_850_615,
    7.868_691_311_456_132e-4,
    1.846_318_317_510_054_8e-5,
    1.421_511_758_316_446e-7,
    2.044_263_103_389_939_8e-15,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 1e-14 * theirs.abs().max(1e-3)
    }

    #[test]
    fn logarithm_and_exponential_agree_with_the_machine() {
        for x in [1e-300, 1e-16, 0.001, 0.25, 0.7, 0.999, 1.0, 1.5, 2.0, 10.0, 12345.678, 1e300] {
            assert!(close(ln(x), x.ln()), "ln {x}: {} and {}", ln(x), x.ln());
        }
        for x in [-700.0, -20.5, -1.0, -1e-9, 0.0, 0.3, 1.0, 7.7, 100.0, 700.0] {
            assert!(close(exp(x), x.exp()), "exp {x}: {} and {}", exp(x), x.exp());
        }
    }

    /// Values from Python's statistics.NormalDist().inv_cdf.
    #[test]
    fn the_inverse_normal_agrees_with_another_implementation() {
        let table = [
            (1e-16, -8.222082216130437),
            (1e-10, -6.361340902404056),
            (1e-5, -4.264890793922825),
            (0.001, -3.090232306167813),
            (0.05, -1.6448536269514726),
            (0.2, -0.8416212335729142),
            (0.5, 0.0),
            (0.6, 0.2533471031357998),
            (0.9, 1.2815515655446008),
            (0.99, 2.3263478740408408),
            (0.999999, 4.753424308817087),
        ];
        for (p, z) in table {
            assert!(close(normal(p), z), "{p}: {} and {z}", normal(p));
        }
    }

    /// The delay at a given quantile.
    fn at(distribution: &Distribution, quantile: f64) -> u64 {
        distribution.us((quantile * 2f64.powi(64)) as u64)
    }

    #[test]
    fn the_parameters_are_what_they_say() {
        let max_us = DEFAULT_MAX_US;
        let lognormal = Distribution::Lognormal { median_us: 400, p99_us: 20_000, min_us: 0, max_us };
        assert_eq!((at(&lognormal, 0.5), at(&lognormal, 0.99)), (400, 20_000));
        // A draw near 0 is a long delay here: the quantile counts from above.
        for (tail, quantile, us) in
            [(Tail::Median(700), 0.5, 700), (Tail::P99(9_000), 0.01, 9_000), (Tail::Mean(200), 0.25, 200)]
        {
            let pareto = Distribution::Pareto { min_us: 100, tail, max_us };
            assert_eq!(at(&pareto, quantile), us);
        }
        let exponential = Distribution::Exponential { mean_us: 1_000, min_us: 0, max_us };
        assert_eq!(at(&exponential, 0.5), 693);
        let uniform = Distribution::Uniform { min_us: 10, max_us: 19 };
        assert_eq!((uniform.us(0), uniform.us(u64::MAX)), (10, 19));
    }

    #[test]
    fn no_draw_leaves_the_bounds() {
        let bounded = [
            Distribution::Exponential { mean_us: 1_000, min_us: 50, max_us: 5_000 },
            Distribution::Lognormal { median_us: 400, p99_us: 20_000, min_us: 50, max_us: 5_000 },
            Distribution::Pareto { min_us: 50, tail: Tail::P99(50_000), max_us: 5_000 },
        ];
        for distribution in bounded {
            for bits in [0, 1, u64::MAX >> 1, u64::MAX - 1, u64::MAX] {
                assert!((50..=5_000).contains(&distribution.us(bits)));
            }
        }
    }
}
