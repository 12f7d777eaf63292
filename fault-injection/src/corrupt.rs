//! Wrong bytes that stay the same: what `corrupt` makes of a sector follows from the seed, the rule, the sector's number
//! and what the sector holds, and from nothing else.
//!
//! So a read that is tried again gets the same wrong data however it is cut into requests, and a sector that was written
//! anew is wrong in another way. The content is the version: no counter has to outlive a run.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::decision::RuleIndex;
use crate::random::{Draws, below};
use crate::request::SECTOR_BYTES;

const SECTOR: usize = SECTOR_BYTES as usize;

/// Bits of a sector.
pub const SECTOR_BITS: u64 = SECTOR_BYTES * 8;

/// The damage of one rule to the sectors of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Who decided it.
    pub rule: RuleIndex,
    /// Whether it is the medium that goes wrong, for later reads too. Data of a write goes wrong on its way to the
    /// medium in either case.
    pub media: bool,
    /// Which sectors of the request, in rising ranges.
    pub sectors: Vec<(u64, u64)>,
    pub(crate) damage: Damage,
    pub(crate) draws: Draws,
}

/// What is done to each sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Damage {
    /// So many bits flip.
    Bits {
        /// Different bits of the sector.
        bits: u32,
    },
    /// Bytes are replaced.
    Bytes {
        /// From here on in the sector.
        offset: u32,
        /// So many.
        bytes: u32,
        /// By what.
        #[serde(flatten)]
        with: With,
    },
}

/// What replaces bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum With {
    /// This byte, over and over.
    Value(u8),
    /// A pattern.
    Pattern(Pattern),
}

/// `pattern`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// 0x00
    Zero,
    /// 0xff
    Ones,
    /// Drawn bytes, each other than what was there.
    #[default]
    Random,
}

impl Corruption {
    /// Makes the content of a sector wrong. The same content goes wrong in the same way.
    pub fn damage(&self, sector: u64, content: &mut [u8; SECTOR]) {
        match self.damage {
            Damage::Bits { bits } => {
                let mut generator = self.generator(sector, content);
                let mut flipped = std::collections::BTreeSet::new();
                while flipped.len() < bits as usize {
                    flipped.insert(below(generator.next_u64(), SECTOR_BITS) as usize);
                }
                flipped.into_iter().for_each(|bit| content[bit / 8] ^= 1 << (bit % 8));
            }
            Damage::Bytes { offset, bytes, with } => {
                let mut generator = self.generator(sector, content);
                let part = &mut content[offset as usize..(offset + bytes) as usize];
                match with {
                    With::Value(value) => part.fill(value),
                    With::Pattern(Pattern::Zero) => part.fill(0),
                    With::Pattern(Pattern::Ones) => part.fill(0xff),
                    With::Pattern(Pattern::Random) => {
                        part.iter_mut().for_each(|byte| *byte ^= 1 + below(generator.next_u64(), 255) as u8);
                    }
                }
            }
        }
    }

    fn generator(&self, sector: u64, content: &[u8; SECTOR]) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(b"fault-injection damage 1\0");
        hash.update(self.draws.seed());
        hash.update(sector.to_le_bytes());
        hash.update(content);
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Key, Purpose};

    fn corruption(damage: Damage, rule: &str) -> Corruption {
        let draws = Draws::new(3, rule, Purpose::Damage, Key::Address);
        Corruption { rule: RuleIndex(0), media: false, sectors: vec![(0, 8)], damage, draws }
    }

    fn damaged(damage: Damage, rule: &str, sector: u64, content: u8) -> [u8; SECTOR] {
        let mut bytes = [content; SECTOR];
        corruption(damage, rule).damage(sector, &mut bytes);
        bytes
    }

    #[test]
    fn exactly_so_many_bits_flip_and_the_same_ones_again() {
        for bits in [1, 7, 4096] {
            let wrong = damaged(Damage::Bits { bits }, "r", 5, 0x5a);
            let flipped: u32 = wrong.iter().map(|byte| (byte ^ 0x5a).count_ones()).sum();
            assert_eq!(flipped, bits);
            assert_eq!(wrong, damaged(Damage::Bits { bits }, "r", 5, 0x5a));
        }
    }

    #[test]
    fn another_sector_version_or_rule_goes_wrong_elsewhere() {
        let damage = Damage::Bits { bits: 3 };
        let flips = |rule, sector, content: u8| damaged(damage, rule, sector, content).map(|byte| byte ^ content);
        let one = flips("r", 5, 0);
        assert!([flips("r", 6, 0), flips("r", 5, 1), flips("s", 5, 0)].iter().all(|other| *other != one));
    }

    #[test]
    fn bytes_are_replaced_where_they_were_asked_for_and_nowhere_else() {
        let with = |with| damaged(Damage::Bytes { offset: 10, bytes: 4, with }, "r", 0, 7);
        for (how, byte) in [(With::Value(9), 9), (With::Pattern(Pattern::Zero), 0), (With::Pattern(Pattern::Ones), 255)]
        {
            let mut expected = [7; SECTOR];
            expected[10..14].fill(byte);
            assert_eq!(with(how), expected);
        }
        let random = with(With::Pattern(Pattern::Random));
        assert!(random[10..14].iter().all(|byte| *byte != 7), "every drawn byte is wrong");
        assert!(random[..10].iter().chain(&random[14..]).all(|byte| *byte == 7));
    }
}
