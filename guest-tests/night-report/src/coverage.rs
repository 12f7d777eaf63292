//! What the scenarios of a night tried, held against what there is to try.

use crate::night::Night;
use crate::universe::{self, Fault, NOT_LOOKED};
use night_results::{Armed, Fired, PowerCuts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Faults by action, type of request, class, answer; and the replica's pairs.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// What was tried of the universe, and of class `any`, by fault and class.
    cells: BTreeMap<(Fault, &'static str), Tried>,
    /// How often what is in no cell, or brought another answer, fired.
    beyond: BTreeMap<String, u64>,
    /// In how many scenarios each pair was seen.
    pairs: BTreeMap<String, u64>,
    power_cuts: CutsCovered,
}

/// What was tried of one fault on one class.
#[derive(Clone, Debug, Default)]
struct Tried {
    /// Scenarios whose script was ready for it.
    armed: u64,
    /// How often it fired.
    fired: u64,
    /// How often with each answer.
    answers: BTreeMap<&'static str, u64>,
}

/// A fault on a class, over all answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// No script was ready for it.
    NeverArmed,
    /// So many scenarios were, and it never fired.
    NeverFired {
        /// Scenarios.
        armed: u64,
    },
    /// It fired.
    Fired {
        /// How often.
        n: u64,
        /// Answers seen, of those it can bring.
        answers: usize,
        /// Answers it can bring.
        of: usize,
    },
}

/// The numbers of it, as they stand in summary.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Faults.
    pub faults: FaultsCovered,
    /// The replica's pairs.
    pub pairs: PairsCovered,
    /// Power cuts that leave states.
    #[serde(default)]
    pub power_cuts: CutsCovered,
}

/// Power cuts that leave states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutsCovered {
    /// Scenarios whose script has one.
    pub scenarios: u64,
    /// Those in which none came.
    pub never_came: u64,
    /// Those in which one came, and nothing had been promised before it that could have been looked for.
    pub nothing_promised: u64,
    /// Cuts that came.
    pub cuts: u64,
    /// States that were written down.
    pub states: u64,
    /// States that were judged.
    pub judged: u64,
    /// States of a cache that lies, without what was fsynced.
    pub losses: u64,
    /// States that may not be.
    pub bad: u64,
}

/// Cells of action, type of request, class and answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultsCovered {
    /// All there are.
    pub universe: u64,
    /// A script was ready for it.
    pub armed: u64,
    /// It fired.
    pub fired: u64,
    /// Seen, and not in the universe.
    pub beyond: u64,
}

/// Pairs of a state and a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairsCovered {
    /// All there are.
    pub universe: u64,
    /// Seen.
    pub seen: u64,
    /// Seen, and not in the universe.
    pub beyond: u64,
}

impl Coverage {
    /// Of all scenarios, the planted mistakes left out.
    pub fn of(night: &Night) -> Coverage {
        let mut coverage = Coverage::default();
        for line in night.scenarios() {
            line.fired.iter().for_each(|fired| coverage.add_fired(fired));
            coverage.add_armed(&line.armed);
            for pair in &line.pairs {
                *coverage.pairs.entry(pair.clone()).or_default() += 1;
            }
            line.power_cuts.iter().for_each(|cuts| coverage.power_cuts.add(cuts));
        }
        coverage
    }

    fn add_fired(&mut self, Fired { action, op, class, outcome, n }: &Fired) {
        let fault = fault(action, op);
        let cell = fault.and_then(|fault| Some((fault, classes(fault).find(|known| known == class)?)));
        let answer = fault.and_then(|fault| fault.answers.iter().find(|known| *known == outcome));
        if let Some(cell) = cell {
            let tried = self.cells.entry(cell).or_default();
            tried.fired += n;
            answer.into_iter().for_each(|answer| *tried.answers.entry(answer).or_default() += n);
        }
        if cell.is_none() || answer.is_none() {
            *self.beyond.entry(format!("{action} {op} {class} {outcome}")).or_default() += n;
        }
    }

    /// Of one scenario. A script's word can mean several classes, and two rules can mean the same one.
    fn add_armed(&mut self, armed: &[Armed]) {
        let mut ready = BTreeSet::new();
        for Armed { action, op, class: word } in armed {
            let Some(fault) = fault(action, op) else { continue };
            let meant = classes(fault).filter(|class| universe::means(word, class));
            ready.extend(meant.map(|class| (fault, class)));
        }
        ready.into_iter().for_each(|cell| self.cells.entry(cell).or_default().armed += 1);
    }

    /// How often it fired with this answer.
    pub fn fired(&self, fault: Fault, class: &'static str, answer: &str) -> u64 {
        self.cells.get(&(fault, class)).and_then(|tried| tried.answers.get(answer)).copied().unwrap_or(0)
    }

    /// A rule was ready for it: in so many scenarios.
    pub fn armed(&self, fault: Fault, class: &'static str) -> u64 {
        self.cells.get(&(fault, class)).map_or(0, |tried| tried.armed)
    }

    /// What is to be shown of it.
    pub fn cell(&self, fault: Fault, class: &'static str) -> Cell {
        match self.cells.get(&(fault, class)) {
            Some(Tried { fired: 0, armed, .. }) if *armed > 0 => Cell::NeverFired { armed: *armed },
            Some(Tried { fired, answers, .. }) if *fired > 0 => {
                Cell::Fired { n: *fired, answers: answers.len(), of: fault.answers.len() }
            }
            _ => Cell::NeverArmed,
        }
    }

    /// What fired and is not in the universe, with how often. Class `any` is none of it: it is shown in its own column.
    pub fn beyond(&self) -> &BTreeMap<String, u64> {
        &self.beyond
    }

    /// In how many scenarios each pair of the universe was seen.
    pub fn pairs(&self) -> BTreeMap<String, u64> {
        universe::pairs().into_iter().map(|pair| (pair.clone(), self.pairs.get(&pair).copied().unwrap_or(0))).collect()
    }

    /// Pairs that are not in the universe.
    pub fn pairs_beyond(&self) -> BTreeSet<&str> {
        let universe = universe::pairs();
        self.pairs.keys().filter(|pair| !universe.contains(*pair)).map(String::as_str).collect()
    }

    /// In numbers.
    pub fn covered(&self) -> Covered {
        let mut faults = FaultsCovered { beyond: self.beyond().len() as u64, ..FaultsCovered::default() };
        for fault in universe::faults() {
            for class in universe::classes(fault.op) {
                let armed = self.cell(fault, class) != Cell::NeverArmed;
                faults.universe += fault.answers.len() as u64;
                faults.armed += if armed { fault.answers.len() as u64 } else { 0 };
                let fired = |answer: &&&str| self.fired(fault, class, answer) > 0;
                faults.fired += fault.answers.iter().filter(fired).count() as u64;
            }
        }
        let pairs = self.pairs();
        Covered {
            faults,
            power_cuts: self.power_cuts,
            pairs: PairsCovered {
                universe: pairs.len() as u64,
                seen: pairs.values().filter(|n| **n > 0).count() as u64,
                beyond: self.pairs_beyond().len() as u64,
            },
        }
    }
}

impl CutsCovered {
    fn add(&mut self, of: &PowerCuts) {
        self.scenarios += 1;
        self.never_came += u64::from(of.cuts == 0);
        self.nothing_promised += u64::from(of.cuts > 0 && of.promised_files == 0);
        self.cuts += of.cuts;
        self.states += of.states;
        self.judged += of.judged;
        self.losses += of.losses;
        self.bad += of.bad;
    }
}

fn fault(action: &str, op: &str) -> Option<Fault> {
    universe::faults().find(|fault| fault.action == action && fault.op == op)
}

/// The classes that can be told of it.
fn classes(fault: Fault) -> impl Iterator<Item = &'static str> {
    universe::classes(fault.op).iter().copied().chain([NOT_LOOKED])
}
