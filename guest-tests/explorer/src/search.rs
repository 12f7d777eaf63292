//! The search: from every start, every move, every state once, breadth first.
//!
//! Breadth first, so the first way to a finding is a shortest one; of equally short ones it is the first in the order in which
//! moves are listed, which is the one with the fewest interruptions early on. Each start is searched by itself, several at a
//! time, and what they found is put together in the order of the starts: the result does not depend on how many threads
//! searched.
//!
//! A state is kept as a 64-bit fingerprint. Two different states with the same one would be taken for one; [`Searched::may_have_missed`]
//! says how likely that was. Whole states are kept only of the depth that is being worked on and the next.

use ext4_replica::explore::{Bounds, Broken, Layout, Move, World};
use ext4_replica::{Causes, Dialect};
use foldhash::quality::FixedState;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Where a search must stop, whether or not it is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// States in all.
    pub states: u64,
    /// Memory of this process.
    pub memory_bytes: u64,
    /// Starts that are searched at the same time.
    pub threads: usize,
}

/// Why a search stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Ended {
    /// Everything within bounds has been tried.
    Exhaustive,
    /// There were more states than allowed.
    States,
    /// It took more memory than allowed.
    Memory,
    /// The user wanted it.
    Interrupted,
}

/// One thing that does not hold, and a shortest way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What does not hold.
    pub broken: Broken,
    /// What had made a difference by then.
    pub causes: Causes,
    /// Where it starts.
    pub layout: Layout,
    /// From there, move by move.
    pub moves: Vec<Move>,
}

/// What a search came to. As JSON: how far it went; what it found is told by others.
#[derive(Clone, Debug, Serialize)]
pub struct Searched {
    /// Places to start from, and how many of them were searched to the end.
    pub starts: usize,
    /// See `starts`.
    pub starts_done: usize,
    /// Different states.
    pub states: u64,
    /// Moves tried.
    pub moves: u64,
    /// Moves of the longest way.
    pub depth: usize,
    /// Moves that led outside the bounds.
    pub beyond: u64,
    /// Why it stopped.
    pub ended: Ended,
    /// One of each kind, the shortest, and none that is another one with more causes. By property.
    #[serde(skip)]
    pub found: Vec<Found>,
    /// States of the start that has most of them.
    #[serde(skip)]
    pub most_states: u64,
}

impl Ended {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Ended::Exhaustive => "exhaustive",
            Ended::States => "states",
            Ended::Memory => "memory",
            Ended::Interrupted => "interrupted",
        }
    }
}

impl Searched {
    /// How likely it is that a state was taken for another with the same fingerprint: pairs of states of one start, of 2^64.
    pub fn may_have_missed(&self) -> f64 {
        self.states as f64 * self.most_states as f64 / 2.0 / 2f64.powi(64)
    }
}

/// Keys are fingerprints already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only 64-bit fingerprints are hashed");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// What all threads look at.
struct Shared<'a> {
    dialect: Dialect,
    bounds: &'a Bounds,
    limits: Limits,
    interrupt: &'a AtomicBool,
    states: AtomicU64,
    ended: AtomicU8,
}

impl Shared<'_> {
    fn stop(&self, why: Ended) {
        self.ended.fetch_max(why as u8, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.ended.load(Ordering::Relaxed) != Ended::Exhaustive as u8
    }

    /// Asked now and then: reading how much memory we have is a system call.
    fn look(&self) {
        if self.interrupt.load(Ordering::Relaxed) {
            self.stop(Ended::Interrupted);
        }
        if resident_bytes() > self.limits.memory_bytes {
            self.stop(Ended::Memory);
        }
    }

    fn one_more_state(&self) {
        let before = self.states.fetch_add(1, Ordering::Relaxed);
        if before >= self.limits.states {
            self.stop(Ended::States);
        }
        if before.is_multiple_of(4096) {
            self.look();
        }
    }
}

/// Memory of this process; 0 where the host does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Searches from every start.
pub fn search(
    dialect: Dialect,
    bounds: &Bounds,
    starts: &[Layout],
    limits: Limits,
    interrupt: &AtomicBool,
) -> Searched {
    let shared = Shared {
        dialect,
        bounds,
        limits,
        interrupt,
        states: AtomicU64::new(0),
        ended: AtomicU8::new(Ended::Exhaustive as u8),
    };
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while !shared.stopped() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(layout) = starts.get(number) else { break };
            done.push((number, from(&shared, layout)));
        }
        done
    };
    let mut each: Vec<(usize, FromOne)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..limits.threads.max(1)).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a search does not panic")).collect()
    });
    each.sort_by_key(|(number, _)| *number);
    together(starts, &each, shared.ended.load(Ordering::Relaxed))
}

/// A kind of finding: only the shortest way to each is kept.
type Kind = (Broken, Causes);

/// What one start led to.
#[derive(Debug, Default)]
struct FromOne {
    found: BTreeMap<Kind, Vec<Move>>,
    states: u64,
    moves: u64,
    depth: usize,
    beyond: u64,
    whole: bool,
}

/// A state, by the one it was reached from and the move that led to it.
struct Step {
    from: u32,
    by: Move,
}

fn from(shared: &Shared, layout: &Layout) -> FromOne {
    let hasher = FixedState::with_seed(0);
    let mut one = FromOne { states: 1, ..FromOne::default() };
    let start = World::new(shared.dialect, shared.bounds, layout);
    let mut seen: HashSet<u64, BuildHasherDefault<AsItIs>> = HashSet::default();
    seen.insert(start.fingerprint(&hasher, shared.bounds));
    let (mut steps, mut level, mut moves) = (Vec::<Step>::new(), vec![(start, u32::MAX)], Vec::new());
    while !level.is_empty() {
        let mut next = Vec::new();
        for (world, at) in level {
            if shared.stopped() {
                return one;
            }
            world.moves(shared.bounds, &mut moves);
            for by in &moves {
                let mut then = world.clone();
                let taken = then.take(*by, shared.bounds);
                one.moves += 1;
                if taken.beyond {
                    one.beyond += 1;
                    continue;
                }
                for broken in taken.broken {
                    one.found.entry((broken, then.causes())).or_insert_with(|| way(&steps, at, *by));
                }
                if seen.insert(then.fingerprint(&hasher, shared.bounds)) {
                    one.states += 1;
                    shared.one_more_state();
                    steps.push(Step { from: at, by: *by });
                    next.push((then, steps.len() as u32 - 1));
                }
            }
        }
        one.depth += usize::from(!next.is_empty());
        level = next;
    }
    one.whole = true;
    one
}

/// The moves that led there, and one more.
fn way(steps: &[Step], mut at: u32, last: Move) -> Vec<Move> {
    let mut moves = vec![last];
    while let Some(step) = steps.get(at as usize) {
        moves.push(step.by);
        at = step.from;
    }
    moves.reverse();
    moves
}

fn together(starts: &[Layout], each: &[(usize, FromOne)], ended: u8) -> Searched {
    let mut shortest: BTreeMap<Kind, (usize, &Vec<Move>)> = BTreeMap::new();
    for (number, one) in each {
        for (kind, moves) in &one.found {
            let known = shortest.entry(*kind).or_insert((*number, moves));
            if moves.len() < known.1.len() {
                *known = (*number, moves);
            }
        }
    }
    let kinds: Vec<Kind> = shortest.keys().copied().collect();
    let needless = |(broken, causes): &Kind| {
        let same = |(other, fewer): &&Kind| other == broken && fewer != causes && fewer.is_subset(*causes);
        kinds.iter().find(same).is_some()
    };
    let found = shortest.iter().filter(|(kind, _)| !needless(kind)).map(|((broken, causes), (number, moves))| Found {
        broken: *broken,
        causes: *causes,
        layout: starts[*number].clone(),
        moves: moves.to_vec(),
    });
    let sum = |of: fn(&FromOne) -> u64| each.iter().map(|(_, one)| of(one)).sum();
    Searched {
        ended: match ended {
            0 => Ended::Exhaustive,
            1 => Ended::States,
            2 => Ended::Memory,
            _ => Ended::Interrupted,
        },
        found: found.collect(),
        starts: starts.len(),
        starts_done: each.iter().filter(|(_, one)| one.whole).count(),
        states: sum(|one| one.states),
        moves: sum(|one| one.moves),
        depth: each.iter().map(|(_, one)| one.depth).max().unwrap_or(0),
        beyond: sum(|one| one.beyond),
        most_states: each.iter().map(|(_, one)| one.states).max().unwrap_or(0),
    }
}
