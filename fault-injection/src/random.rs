//! Numbers that depend on the seed, the rule, the purpose and the key, and on nothing else.
//!
//! There is no stream that draws are taken from one after another: a draw is looked up. So adding a rule, or requests
//! coming in another order, does not move the draws of others. ChaCha8 by name, and everything on top of it is ours,
//! because a library's "default generator" and its ways to a range may change between versions. The file
//! tests/golden/draws.txt holds it still.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::event::{Key, Purpose};
use crate::request::Op;

/// What a draw is keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawKey {
    /// The `touch`-th request of this very type and extent, from 1.
    Address { op: Op, sector: u64, sectors: u64, touch: u64 },
    /// The so-manieth match of the rule, or its so-manieth window.
    Ordinal(u64),
    /// A digest of what the request is in the file system.
    File(u64, u64),
}

/// All draws of one rule for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: [u8; 32],
}

impl Draws {
    /// The rule's own name is mixed in, not its place nor the rest of the script: editing rule B leaves A alone.
    pub fn new(seed: u64, rule: &str, purpose: Purpose, key: Key) -> Draws {
        let mut hash = Sha256::new();
        hash.update(b"fault-injection draws 1\0");
        hash.update(seed.to_le_bytes());
        hash.update([purpose as u8, key as u8]);
        hash.update(rule.as_bytes());
        Draws { seed: hash.finalize().into() }
    }

    /// What all of them are made from.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// A stream of numbers for one thing that needs several.
    pub fn stream(&self, key: DrawKey) -> ChaCha8Rng {
        let mut seed = [0; 32];
        self.block(key).fill_bytes(&mut seed);
        ChaCha8Rng::from_seed(seed)
    }

    /// 64 uniform bits.
    pub fn bits(&self, key: DrawKey) -> u64 {
        self.block(key).next_u64()
    }

    /// A permutation of `0..n`, every one as likely.
    pub fn shuffled(&self, key: DrawKey, n: u32) -> Vec<u32> {
        let mut generator = self.stream(key);
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, below(generator.next_u64(), i as u64 + 1) as usize);
        }
        order
    }

    /// Each key has a ChaCha block of its own: type and sector are the nonce, length and touch the block number.
    fn block(&self, key: DrawKey) -> ChaCha8Rng {
        let mut generator = ChaCha8Rng::from_seed(self.seed);
        let (nonce, block) = match key {
            DrawKey::Address { op, sector, sectors, touch } => {
                (((op as u64) << 56) ^ sector, (sectors << 32) ^ (touch & 0xffff_ffff))
            }
            DrawKey::Ordinal(n) => (n, 0),
            DrawKey::File(nonce, block) => (nonce, block),
        };
        generator.set_stream(nonce);
        // Sixteen words of 32 bits to a block.
        generator.set_word_pos(u128::from(block) << 4);
        generator
    }
}

/// The draws of one power cut: of this seed and rule, at this match of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutDraws {
    draws: Draws,
    match_number: u64,
}

impl CutDraws {
    /// For the so-manieth match of a rule, or time of an event.
    pub fn new(seed: u64, id: &str, match_number: u64) -> CutDraws {
        CutDraws { draws: Draws::new(seed, id, Purpose::States, Key::Ordinal), match_number }
    }

    /// 64 uniform bits for the state with this number.
    pub fn bits(&self, state: u64) -> u64 {
        self.state(state).next_u64()
    }

    /// So many fair coins for the state with this number.
    pub fn coins(&self, state: u64, n: usize) -> Vec<bool> {
        let mut generator = self.state(state);
        (0..n).map(|_| generator.next_u32() & 1 == 1).collect()
    }

    /// A stream for each match, cut into stretches of 2^32 words for each state: none reaches into the next.
    fn state(&self, state: u64) -> ChaCha8Rng {
        let mut generator = ChaCha8Rng::from_seed(self.draws.seed);
        generator.set_stream(self.match_number);
        generator.set_word_pos(u128::from(state & 0xffff_ffff) << 32);
        generator
    }
}

/// A number in `0..n` from 64 uniform bits; the bias is below n / 2^64.
pub fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// A number strictly between 0 and 1 from 64 uniform bits. Exact in an f64, so the same on every machine.
pub fn unit(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// True with this probability: 0 never, 1 always.
pub fn happens(bits: u64, probability: f64) -> bool {
    // Both sides are multiples of 2^-53 scaled by a power of two: no rounding takes place.
    ((bits >> 11) as f64) < probability * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(sector: u64, sectors: u64, touch: u64) -> DrawKey {
        DrawKey::Address { op: Op::Write, sector, sectors, touch }
    }

    #[test]
    fn every_part_of_the_key_changes_the_draw() {
        let draws = |seed, rule, purpose, key| Draws::new(seed, rule, purpose, key).bits(address(8, 8, 1));
        let a = Draws::new(7, "a", Purpose::Probability, Key::Address);
        let read = DrawKey::Address { op: Op::Read, sector: 8, sectors: 8, touch: 1 };
        let all = [
            a.bits(address(8, 8, 1)),
            a.bits(address(16, 8, 1)),
            a.bits(address(8, 16, 1)),
            a.bits(address(8, 8, 2)),
            a.bits(read),
            draws(8, "a", Purpose::Probability, Key::Address),
            draws(7, "b", Purpose::Probability, Key::Address),
            draws(7, "a", Purpose::Delay, Key::Address),
            draws(7, "a", Purpose::Probability, Key::Ordinal),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn probability_zero_never_happens_and_one_always() {
        for bits in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!happens(bits, 0.0));
            assert!(happens(bits, 1.0));
        }
    }

    #[test]
    fn a_quarter_happens_about_a_quarter_of_the_time() {
        let draws = Draws::new(1, "r", Purpose::Probability, Key::Ordinal);
        let hits = (0..10_000).filter(|&n| happens(draws.bits(DrawKey::Ordinal(n)), 0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_all_of_three_come_up() {
        let draws = Draws::new(1, "r", Purpose::Order, Key::Ordinal);
        let seen: std::collections::BTreeSet<Vec<u32>> =
            (0..200).map(|n| draws.shuffled(DrawKey::Ordinal(n), 3)).collect();
        assert_eq!(seen.len(), 6);
        assert!(seen.iter().all(|order| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted == [0, 1, 2]
        }));
    }

    #[test]
    fn the_unit_interval_is_open_at_both_ends() {
        assert!(unit(0) > 0.0);
        assert!(unit(u64::MAX) < 1.0);
    }
}
