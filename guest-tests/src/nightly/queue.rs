//! What a night runs, in its order: canaries, what failed before, the standing scenarios, fresh seeds.
//!
//! Handed out as groups; those of a group share a boot. What the ledger counts already is left out. Pure.

use super::canary::Planted;
use super::seeds::SeedRange;
use night_results::{Seed, Shard, Unit};
use scenario_generator::{INDICES_PER_BOOT, shape};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

/// More boots than these are not counted beforehand: weeks of work, and looking at each takes its time.
const COUNTED_BOOTS: u32 = 20_000;

/// Units that one guest can run one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The kernel, as `run --kernel` takes it.
    pub kernel: String,
    /// What the results call it: its series, or the kernel as it was asked for.
    pub series: String,
    /// In their order.
    pub work: Vec<Work>,
}

/// One unit, and where its scenario comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What it is counted as.
    pub unit: Unit,
    /// Where its scenario comes from.
    pub source: Source,
}

/// Where a scenario comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The generator.
    Seed(Seed),
    /// A file.
    File(PathBuf),
    /// A planted mistake has one of its own.
    Planted(Planted),
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    first: VecDeque<Group>,
    fresh: Option<Fresh>,
    over: BTreeSet<Unit>,
}

/// Fresh seeds, boot by boot.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Which.
    pub seeds: SeedRange,
    /// The part of the night that takes them.
    pub shard: Shard,
    /// Kernels.
    pub kernels: Kernels,
}

/// Which kernel a boot gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Its shape's; a boot with another than these is left out.
    OfShapes(Vec<String>),
    /// This one, whatever its shape says.
    Always(String),
}

impl Kernels {
    /// The kernel of a boot; none: it is left out.
    pub fn of(&self, boot: u32) -> Option<String> {
        match self {
            Kernels::Always(kernel) => Some(kernel.clone()),
            Kernels::OfShapes(wanted) => {
                let series = shape(boot).kernel;
                wanted.iter().any(|one| one == series).then(|| series.to_owned())
            }
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        match self {
            Kernels::Always(kernel) => vec![kernel.clone()],
            Kernels::OfShapes(wanted) => wanted.clone(),
        }
    }
}

impl Queue {
    /// `first` in its order, then `fresh`; without what is `over`.
    pub fn new(first: Vec<Group>, fresh: Option<Fresh>, over: BTreeSet<Unit>) -> Queue {
        Queue { first: first.into(), fresh, over }
    }

    /// The next group, if there is one.
    pub fn next_group(&mut self) -> Option<Group> {
        loop {
            let mut group = match self.first.pop_front() {
                Some(group) => group,
                None => self.fresh.as_mut()?.next_group()?,
            };
            group.work.retain(|work| !self.over.contains(&work.unit));
            if !group.work.is_empty() {
                return Some(group);
            }
        }
    }

    /// Units that are still to come; none: there is no end, or it is far away.
    pub fn left(&self) -> Option<u64> {
        let open = |group: &Group| group.work.iter().filter(|work| !self.over.contains(&work.unit)).count() as u64;
        let first: u64 = self.first.iter().map(open).sum();
        let Some(fresh) = &self.fresh else { return Some(first) };
        let boots = fresh.seeds.until?.boot - fresh.seeds.from.boot;
        if boots > COUNTED_BOOTS {
            return None;
        }
        let mut rest = fresh.clone();
        let fresh = std::iter::from_fn(|| rest.next_group()).map(|group| open(&group)).sum::<u64>();
        Some(first + fresh)
    }
}

impl Fresh {
    /// The next boot that is ours, with those of its seeds that were asked for.
    fn next_group(&mut self) -> Option<Group> {
        loop {
            let from = self.seeds.from;
            if self.seeds.until.is_some_and(|until| from >= until) {
                return None;
            }
            self.seeds.from = Seed::first_of(from.boot.checked_add(1)?);
            let kernel = self.shard.takes(from.boot.into()).then(|| self.kernels.of(from.boot)).flatten();
            if let Some(kernel) = kernel {
                return Some(self.boot(from, kernel));
            }
        }
    }

    fn boot(&self, from: Seed, kernel: String) -> Group {
        let seeds = (from.index..INDICES_PER_BOOT).map(|index| Seed { index, ..from });
        let ours = seeds.filter(|seed| self.seeds.until.is_none_or(|until| *seed < until));
        let work = ours.map(|seed| Work { unit: Unit::Fresh(seed), source: Source::Seed(seed) }).collect();
        Group { series: kernel.clone(), kernel, work }
    }
}

/// What failed before, boot by boot.
pub fn old(seeds: &[Seed], shard: Shard, kernels: &Kernels) -> Vec<Group> {
    let mut boots: BTreeMap<u32, BTreeSet<Seed>> = BTreeMap::new();
    for seed in seeds.iter().filter(|seed| shard.takes(seed.boot.into())) {
        boots.entry(seed.boot).or_default().insert(*seed);
    }
    let work = |seed| Work { unit: Unit::Old(seed), source: Source::Seed(seed) };
    let group = |(boot, seeds): (u32, BTreeSet<Seed>)| {
        let kernel = kernels.of(boot)?;
        Some(Group { series: kernel.clone(), kernel, work: seeds.into_iter().map(work).collect() })
    };
    boots.into_iter().filter_map(group).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn fresh(seeds: &str, shard: &str) -> Fresh {
        let kernels = Kernels::OfShapes(scenario_generator::KERNELS.iter().map(|k| (*k).to_owned()).collect());
        Fresh { seeds: seeds.parse().unwrap(), shard: shard.parse().unwrap(), kernels }
    }

    fn units(mut queue: Queue) -> Vec<String> {
        let groups = std::iter::from_fn(|| queue.next_group());
        groups.flat_map(|group| group.work).map(|work| work.unit.to_string()).collect()
    }

    #[test]
    fn seeds_come_in_order_and_the_last_does_not_belong() {
        let queue = Queue::new(Vec::new(), Some(fresh("3.254..4.2", "0/1")), BTreeSet::new());
        assert_eq!(queue.left(), Some(4));
        assert_eq!(units(queue), ["3.254", "3.255", "4.0", "4.1"]);
    }

    #[test]
    fn the_parts_of_a_night_run_every_seed_once() {
        let all = units(Queue::new(Vec::new(), Some(fresh("0..7", "0/1")), BTreeSet::new()));
        let mut parts: Vec<String> = ["0/3", "1/3", "2/3"]
            .iter()
            .flat_map(|shard| units(Queue::new(Vec::new(), Some(fresh("0..7", shard)), BTreeSet::new())))
            .collect();
        parts.sort_by_key(|unit| unit.parse::<Unit>().unwrap());
        assert_eq!(parts, all);
    }

    #[test]
    fn what_is_over_is_not_run_again() {
        let over = ["3.254", "4.0"].iter().map(|unit| unit.parse().unwrap()).collect();
        let queue = Queue::new(Vec::new(), Some(fresh("3.254..4.2", "0/1")), over);
        assert_eq!((queue.left(), units(queue)), (Some(2), vec!["3.255".to_owned(), "4.1".to_owned()]));
    }

    #[test]
    fn only_boots_of_the_wanted_kernels_are_run_unless_one_kernel_runs_all() {
        let mut some = fresh("0..8", "0/1");
        some.kernels = Kernels::OfShapes(vec!["6.1".into()]);
        let boots = |fresh: Fresh| {
            let mut queue = Queue::new(Vec::new(), Some(fresh), BTreeSet::new());
            std::iter::from_fn(move || queue.next_group()).map(|group| group.kernel).collect::<Vec<_>>()
        };
        assert_eq!(boots(some.clone()), ["6.1", "6.1"], "one of each four");
        some.kernels = Kernels::Always("/boot/mine".into());
        assert_eq!(boots(some), vec!["/boot/mine"; 8]);
    }

    #[test]
    fn old_failures_of_one_boot_share_it() {
        let seeds = ["5.3", "2.1", "5.1", "5.3"].map(|seed| seed.parse().unwrap());
        let groups = old(&seeds, Shard::WHOLE, &Kernels::Always("k".into()));
        let told: Vec<Vec<String>> =
            groups.iter().map(|group| group.work.iter().map(|work| work.unit.to_string()).collect()).collect();
        assert_eq!(told, [vec!["old/2.1"], vec!["old/5.1", "old/5.3"]]);
    }
}
