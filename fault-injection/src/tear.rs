//! Where a torn write tears.

use rand_chacha::rand_core::Rng;

use crate::random::{DrawKey, Draws, below};
use crate::rule::{Keep, Unit};

/// Most places at which `random` tears.
const MAX_TEARS: u64 = 8;

/// The stretches of a write of `total` bytes that reach the medium: at least one byte, and never all of them. The write
/// has at least two units (a rule whose `keep` leaves nothing out of a write does not match it).
pub fn kept(unit: Unit, keep: &Keep, total: u64, draws: Option<&Draws>, key: DrawKey) -> Vec<(u64, u64)> {
    let size = unit.bytes();
    let units = total.div_ceil(size);
    let drawn = |n: u64| 1 + draws.map_or(0, |draws| below(draws.bits(key), n));
    match keep {
        Keep::Prefix => vec![(0, drawn(units - 1) * size)],
        Keep::Suffix => vec![(drawn(units - 1) * size, total)],
        Keep::Random => stretches(size, units, total, draws, key),
        Keep::Units(kept) => {
            joined(kept.iter().filter(|i| **i < units).map(|i| (i * size, ((i + 1) * size).min(total))))
        }
    }
}

fn stretches(size: u64, units: u64, total: u64, draws: Option<&Draws>, key: DrawKey) -> Vec<(u64, u64)> {
    let Some(draws) = draws else { return vec![(0, size)] };
    let mut stream = draws.stream(key);
    let tears = 1 + below(stream.next_u64(), MAX_TEARS.min(units - 1));
    let mut places = std::collections::BTreeSet::new();
    while (places.len() as u64) < tears {
        places.insert(size * (1 + below(stream.next_u64(), units - 1)));
    }
    let ends: Vec<u64> = [0].into_iter().chain(places).chain([total]).collect();
    let first = (stream.next_u32() & 1) as usize;
    ends.windows(2).skip(first).step_by(2).map(|pair| (pair[0], pair[1])).collect()
}

fn joined(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.1 == range.0 => last.1 = range.1,
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Key, Purpose};

    fn all(unit: Unit, keep: &Keep, total: u64) -> Vec<Vec<(u64, u64)>> {
        let draws = Draws::new(1, "r", Purpose::Tear, Key::Ordinal);
        (0..200).map(|n| kept(unit, keep, total, Some(&draws), DrawKey::Ordinal(n))).collect()
    }

    #[test]
    fn something_is_kept_something_is_lost_and_all_of_it_in_whole_units() {
        for (unit, total) in [(Unit::Sector, 1024), (Unit::Sector, 4096), (Unit::Byte, 512), (Unit::Block, 4608)] {
            for keep in [Keep::Prefix, Keep::Suffix, Keep::Random] {
                for kept in all(unit, &keep, total) {
                    let bytes: u64 = kept.iter().map(|r| r.1 - r.0).sum();
                    assert!(bytes > 0 && bytes < total, "{keep:?} {kept:?}");
                    assert!(kept.windows(2).all(|pair| pair[0].1 < pair[1].0));
                    let whole = |at: u64| at.is_multiple_of(unit.bytes()) || at == total;
                    assert!(kept.iter().all(|r| r.0 < r.1 && whole(r.0) && whole(r.1)), "{keep:?} {kept:?}");
                }
            }
        }
    }

    #[test]
    fn every_prefix_of_four_sectors_comes_up() {
        let seen: std::collections::BTreeSet<u64> =
            all(Unit::Sector, &Keep::Prefix, 2048).iter().map(|kept| kept[0].1).collect();
        assert_eq!(seen, [512, 1024, 1536].into());
    }

    #[test]
    fn listed_units_are_kept_and_neighbours_are_one_stretch() {
        let keep = Keep::Units(vec![0, 1, 3, 9]);
        assert_eq!(kept(Unit::Sector, &keep, 2048, None, DrawKey::Ordinal(0)), [(0, 1024), (1536, 2048)]);
    }
}
