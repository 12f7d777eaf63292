//! A power cut: which unflushed writes survive it, and what happens then. Pure: the device says what it holds, and is
//! told what is left of it.
//!
//! A write survives whole or not at all; to tear one, a `torn` rule does it before the cut. States are sets of writes by
//! their place in the order in which they were answered.

use serde::Serialize;

use crate::random::{CutDraws, below};

/// More states than this are never listed.
pub const MAX_STATES: u32 = 4096;

/// Most writes whose every subset is listed: 2^12 states.
pub const MAX_EXHAUSTIVE_WRITES: usize = 12;

/// The lights go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// Id of the rule or event that asked for it.
    pub by: String,
    /// What becomes of writes that were answered and not flushed.
    pub unflushed: Unflushed,
    /// What happens then.
    pub then: Then,
    /// Where drawn states come from: seed, rule and match.
    pub draws: CutDraws,
}

/// `unflushed`: what survives of the writes that were answered and not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unflushed {
    /// Nothing.
    #[default]
    None,
    /// Everything.
    All,
    /// The first so many, in the order in which they were answered: every number of them is a state.
    Prefix,
    /// Some of them.
    Subset(Subset),
}

/// `{"subset": {"strategy", "max_states"}}`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Subset {
    /// Which subsets.
    pub strategy: Strategy,
    /// Most states of one cut.
    pub max_states: u32,
}

/// Which subsets of the unflushed writes are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// None and all, all but one, one alone, all but one class, one class alone, then drawn ones.
    #[default]
    Reduced,
    /// Every one, where there are no more than 2^12 and `max_states` allows them; else as `reduced`.
    Exhaustive,
    /// None and all, then by turns a drawn prefix and a drawn set: few states that are spread over many writes.
    Drawn,
}

/// `then`: what happens after the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Whoever listens ends the virtual machine.
    #[default]
    KillVm,
    /// The front-end is disconnected, and finds what survived when it comes back.
    Disconnect,
    /// Nothing happens to the guest: the states are written out, and it goes on.
    Snapshot,
}

/// The states of one cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutStates {
    /// Each: the writes that survive, rising. No state is listed twice.
    pub states: Vec<Vec<usize>>,
    /// Every state that `unflushed` allows is among them.
    pub complete: bool,
}

impl PowerCut {
    /// Every state to be looked at, for `then: snapshot`. `classes`: one entry for each unflushed write, in the order in
    /// which they were answered, with its class where it is known.
    pub fn states(&self, classes: &[Option<&str>]) -> CutStates {
        let all: Vec<usize> = (0..classes.len()).collect();
        match self.unflushed {
            Unflushed::None => CutStates { states: vec![Vec::new()], complete: true },
            Unflushed::All => CutStates { states: vec![all], complete: true },
            Unflushed::Prefix => prefixes(&all),
            Unflushed::Subset(subset) => self.subsets(classes, &all, subset),
        }
    }

    /// The one state that the device itself goes on with, for `then: kill_vm` and `disconnect`: drawn where `unflushed`
    /// leaves a choice.
    pub fn state(&self, writes: usize) -> Vec<usize> {
        match self.unflushed {
            Unflushed::None => Vec::new(),
            Unflushed::All => (0..writes).collect(),
            Unflushed::Prefix => self.prefix(0, writes),
            Unflushed::Subset(_) => self.drawn(0, writes),
        }
    }

    fn subsets(&self, classes: &[Option<&str>], all: &[usize], subset: Subset) -> CutStates {
        let most = subset.max_states.min(MAX_STATES) as usize;
        let possible = 1usize.checked_shl(all.len() as u32).filter(|_| all.len() <= MAX_EXHAUSTIVE_WRITES);
        if subset.strategy == Strategy::Exhaustive
            && let Some(possible) = possible.filter(|possible| *possible <= most)
        {
            let of = |mask: usize| all.iter().copied().filter(|i| mask >> i & 1 == 1).collect();
            return CutStates { states: (0..possible).map(of).collect(), complete: true };
        }
        let mut states = Vec::new();
        let mut add = |state: Vec<usize>| {
            if states.len() < most && !states.contains(&state) {
                states.push(state);
            }
            states.len() < most
        };
        let mut room = add(Vec::new()) && add(all.to_vec());
        let parts = if subset.strategy == Strategy::Drawn { Vec::new() } else { vec![singles(all), by_class(classes)] };
        for part in parts.into_iter().flatten() {
            room = room && add(all.iter().copied().filter(|i| !part.contains(i)).collect()) && add(part);
        }
        // Few writes have few subsets: drawing on and on would find no new one.
        let mut tries = 0;
        while room && tries < 4 * most as u64 && possible.is_none_or(|possible| tries < 8 * possible as u64) {
            tries += 1;
            let by_turns = subset.strategy == Strategy::Drawn && tries % 2 == 1;
            room = add(if by_turns { self.prefix(tries, all.len()) } else { self.drawn(tries, all.len()) });
        }
        let complete = possible == Some(states.len());
        CutStates { states, complete }
    }

    /// The first so many.
    fn prefix(&self, number: u64, writes: usize) -> Vec<usize> {
        (0..below(self.draws.bits(number), writes as u64 + 1) as usize).collect()
    }

    /// Each write survives or does not, as a coin falls.
    fn drawn(&self, number: u64, writes: usize) -> Vec<usize> {
        let coins = self.draws.coins(number, writes);
        (0..writes).filter(|i| coins[*i]).collect()
    }
}

fn prefixes(all: &[usize]) -> CutStates {
    let lengths = all.len() + 1;
    let most = MAX_STATES as usize;
    // The longest ones: what an old write leaves behind is in each of them all the same.
    let states = (lengths.saturating_sub(most)..lengths).map(|n| all[..n].to_vec()).collect();
    CutStates { states, complete: lengths <= most }
}

fn singles(all: &[usize]) -> Vec<Vec<usize>> {
    all.iter().map(|i| vec![*i]).collect()
}

/// The writes of each known class, classes in alphabetical order.
fn by_class(classes: &[Option<&str>]) -> Vec<Vec<usize>> {
    let mut of: std::collections::BTreeMap<&str, Vec<usize>> = std::collections::BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        if let Some(class) = class {
            of.entry(class).or_default().push(i);
        }
    }
    of.into_values().collect()
}

impl Unflushed {
    /// The script's words, for sentences.
    pub(crate) fn words(&self) -> String {
        match self {
            Unflushed::None => "nothing".to_string(),
            Unflushed::All => "everything".to_string(),
            Unflushed::Prefix => "a prefix".to_string(),
            Unflushed::Subset(Subset { strategy: Strategy::Reduced, max_states }) => {
                format!("a subset ({max_states} states at most)")
            }
            Unflushed::Subset(Subset { strategy: Strategy::Exhaustive, max_states }) => {
                format!("a subset (every one, {max_states} states at most)")
            }
            Unflushed::Subset(Subset { strategy: Strategy::Drawn, max_states }) => {
                format!("a drawn subset ({max_states} states at most)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(unflushed: Unflushed) -> PowerCut {
        PowerCut { by: "cut".into(), unflushed, then: Then::Snapshot, draws: CutDraws::new(7, "cut", 1) }
    }

    fn subset(strategy: Strategy, max_states: u32) -> Unflushed {
        Unflushed::Subset(Subset { strategy, max_states })
    }

    #[test]
    fn exhaustive_lists_every_subset_of_two_writes_and_no_other() {
        let states = cut(subset(Strategy::Exhaustive, 4096)).states(&[None, None]);
        assert_eq!(states.states, [vec![], vec![0], vec![1], vec![0, 1]]);
        assert!(states.complete);
    }

    #[test]
    fn none_all_and_prefix_are_what_they_say() {
        let writes = [None; 3];
        assert_eq!(cut(Unflushed::None).states(&writes).states, [vec![]; 1] as [Vec<usize>; 1]);
        assert_eq!(cut(Unflushed::All).states(&writes).states, [vec![0, 1, 2]]);
        assert_eq!(cut(Unflushed::Prefix).states(&writes).states, [vec![], vec![0], vec![0, 1], vec![0, 1, 2]]);
        assert!(cut(Unflushed::Prefix).state(3).len() <= 3);
    }

    #[test]
    fn reduced_begins_with_drop_one_and_keep_one_takes_classes_and_keeps_to_its_bound() {
        let classes = [Some("ext4.data"), Some("ext4.journal.commit"), Some("ext4.data"), None];
        let states = cut(subset(Strategy::Reduced, 32)).states(&classes);
        let expected: [&[usize]; 12] = [
            &[],
            &[0, 1, 2, 3],
            &[1, 2, 3],
            &[0],
            &[0, 2, 3],
            &[1],
            &[0, 1, 3],
            &[2],
            &[0, 1, 2],
            &[3],
            &[1, 3],
            &[0, 2],
        ];
        assert_eq!(states.states[..12], expected.map(<[usize]>::to_vec));
        assert!(states.states.len() <= 16);
        let many = cut(subset(Strategy::Reduced, 32)).states(&[None; 100]);
        assert_eq!((many.states.len(), many.complete), (32, false));
        assert_eq!(many, cut(subset(Strategy::Reduced, 32)).states(&[None; 100]), "the same when asked again");
    }

    #[test]
    fn drawn_begins_with_none_and_all_and_spreads_prefixes_and_sets_over_all_writes() {
        let states = cut(subset(Strategy::Drawn, 12)).states(&[None; 100]);
        assert_eq!((states.states.len(), states.complete), (12, false));
        assert_eq!((states.states[0].len(), states.states[1].len()), (0, 100));
        let is_prefix = |state: &&Vec<usize>| state.iter().copied().eq(0..state.len());
        assert_eq!(states.states[2..].iter().filter(is_prefix).count(), 5);
        assert!(states.states[2..].iter().any(|state| state.last() > Some(&90)));
        assert_eq!(states, cut(subset(Strategy::Drawn, 12)).states(&[None; 100]), "the same when asked again");
        assert!(cut(subset(Strategy::Drawn, 12)).states(&[None; 2]).complete);
    }

    #[test]
    fn too_many_writes_for_every_subset_are_explored_as_reduced_and_that_is_said() {
        let states = cut(subset(Strategy::Exhaustive, 4096)).states(&[None; 13]);
        assert!(!states.complete);
        assert!(states.states.len() <= 4096);
        let few = cut(subset(Strategy::Exhaustive, 3)).states(&[None, None]);
        assert_eq!((few.states.len(), few.complete), (3, false));
    }

    #[test]
    fn another_match_of_the_rule_draws_another_state() {
        let at = |n| PowerCut { draws: CutDraws::new(7, "cut", n), ..cut(subset(Strategy::Reduced, 1)) }.state(64);
        assert_eq!(at(1), at(1));
        assert_ne!(at(1), at(2));
    }
}
