//! Draws: ChaCha8 by name, one stream for each thing that is drawn, and the few distributions as our own integer functions.
//!
//! A stream's name is mixed into its key, so that one more draw of one thing does not move those of another. Nothing here is a
//! library's distribution, because those may change between versions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The streams of one seed or boot.
pub struct Streams {
    root: String,
}

impl Streams {
    /// Of this seed or boot.
    pub fn of(root: &str) -> Streams {
        Streams { root: root.to_owned() }
    }

    /// The stream with this name, from its beginning.
    pub fn named(&mut self, name: &str) -> Stream {
        let mut hash = Sha256::new();
        for part in ["scenario-generator", &self.root, name] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        Stream(ChaCha8Rng::from_seed(hash.finalize().into()))
    }
}

/// Numbers one after another.
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// A number in `0..n`; the bias is below n / 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `least..=most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True `of` times in `out_of`.
    pub fn chance(&mut self, of: u64, out_of: u64) -> bool {
        self.below(out_of) < of
    }

    /// One of these, each as likely.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// One of these, by weight.
    pub fn weighted<T: Clone>(&mut self, of: &[(u64, T)]) -> T {
        let mut at = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, value) in of {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return value.clone(),
            }
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// These in a drawn order, every order as likely.
    pub fn shuffled<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        let mut order = of.to_vec();
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> Stream {
        Streams::of("3.17").named(name)
    }

    #[test]
    fn streams_of_other_names_and_seeds_are_others_and_the_same_is_the_same() {
        let first = |root: &str, name: &str| Streams::of(root).named(name).below(u64::MAX);
        assert_eq!(first("3.17", "a"), first("3.17", "a"));
        assert_ne!(first("3.17", "a"), first("3.17", "b"));
        assert_ne!(first("3.17", "a"), first("3.18", "a"));
        assert_ne!(first("3.1", "7a"), first("3.17", "a"), "where a name begins is part of it");
    }

    #[test]
    fn weights_are_kept() {
        let mut stream = stream("w");
        let drawn: Vec<char> = (0..10_000).map(|_| stream.weighted(&[(3, 'a'), (0, 'n'), (1, 'b')])).collect();
        let of = |wanted: char| drawn.iter().filter(|&&c| c == wanted).count();
        assert!((7_200..7_800).contains(&of('a')), "{}", of('a'));
        assert_eq!(of('n'), 0);
    }

    #[test]
    fn a_range_is_drawn_with_both_its_ends() {
        let mut stream = stream("r");
        let drawn: std::collections::BTreeSet<u64> = (0..1_000).map(|_| stream.between(5, 8)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8]);
    }

    #[test]
    fn every_order_of_three_comes_up() {
        let mut stream = stream("o");
        let orders: std::collections::BTreeSet<Vec<u8>> = (0..200).map(|_| stream.shuffled(&[1, 2, 3])).collect();
        assert_eq!(orders.len(), 6);
    }
}
