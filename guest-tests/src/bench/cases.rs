//! What is measured. A case is one job of the client on one kind of image, put to several servers in turns.

use super::servers::Server;
use crate::args::{Bench, BenchSet};
use crate::failure::Failure;
use raw_client::{Op, Place};

/// Where the image lies, and what the page cache knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// tmpfs.
    Memory,
    /// On disk, and all of it in the page cache.
    Hot,
    /// On disk, and nothing of it in the page cache.
    Cold,
    /// On disk, past the page cache.
    Direct,
}

/// One job, and who does it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Read or write.
    pub op: Op,
    /// Where.
    pub place: Place,
    /// Length of a request.
    pub block_bytes: usize,
    /// Requests under way at once, on each queue.
    pub depth: usize,
    /// Queues.
    pub queues: usize,
    /// The image.
    pub media: Media,
    /// Client and server on one CPU. Else they have all.
    pub same_cpu: bool,
    /// Who is measured.
    pub servers: Vec<Server>,
}

impl Case {
    fn new(op: Op, place: Place, depth: usize) -> Case {
        let block_bytes = if place == Place::Random { 4 << 10 } else { 128 << 10 };
        let servers = Server::COMPARED.to_vec();
        Case { op, place, block_bytes, depth, queues: 1, media: Media::Memory, same_cpu: true, servers }
    }

    fn queues(self, queues: usize) -> Case {
        Case { queues, ..self }
    }

    fn media(self, media: Media) -> Case {
        Case { media, ..self }
    }

    fn all_cpus(self) -> Case {
        Case { same_cpu: false, ..self }
    }

    fn servers(self, servers: &[Server]) -> Case {
        Case { servers: servers.to_vec(), ..self }
    }

    /// Names it among the results.
    pub fn id(&self) -> String {
        let place = if self.place == Place::Random { "rand" } else { "seq" };
        let media = match self.media {
            Media::Memory => "memory",
            Media::Hot => "hot",
            Media::Cold => "cold",
            Media::Direct => "direct",
        };
        let cpus = if self.same_cpu { "same_cpu" } else { "all_cpus" };
        let (op, kib) = (self.op.word(), self.block_bytes >> 10);
        let faults = if self.servers.contains(&Server::IdleRules(100)) { "-faults" } else { "" };
        format!("{media}-{kib}k-{place}{op}-d{}-q{}-{cpus}{faults}", self.depth, self.queues)
    }

    /// For people.
    pub fn title(&self) -> String {
        let place = if self.place == Place::Random { "random" } else { "sequential" };
        let media = match self.media {
            Media::Memory => "image on tmpfs",
            Media::Hot => "image on disk, page cache hot",
            Media::Cold => "image on disk, page cache cold",
            Media::Direct => "image on disk, O_DIRECT",
        };
        let queues = if self.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", self.queues) };
        let cpus = if self.same_cpu { "client and server on one CPU" } else { "on all CPUs" };
        let (kib, op) = (self.block_bytes >> 10, self.op.word());
        let faults = if self.servers.contains(&Server::IdleRules(100)) { ", with faults that do not come" } else { "" };
        format!("{kib} KiB {place} {op}, depth {}, {queues}, {media}, {cpus}{faults}", self.depth)
    }
}

const RANDOM: Place = Place::Random;
const SEQUENTIAL: Place = Place::Sequential;

/// The cases that `--set` and `--only` leave.
pub fn plan(wanted: &Bench) -> Result<Vec<Case>, Failure> {
    let mut plan = goals();
    if wanted.set == BenchSet::All && !wanted.quick {
        plan.extend(everything());
    }
    let mut seen = std::collections::BTreeSet::new();
    plan.retain(|case| seen.insert(case.id()));
    let ids: Vec<String> = plan.iter().map(Case::id).collect();
    if let Some(only) = &wanted.only {
        plan.retain(|case| case.id().contains(only.as_str()));
        if plan.is_empty() {
            return Err(Failure::BadInput(format!("no case's name contains {only:?}; there are: {}", ids.join(", "))));
        }
    }
    Ok(plan)
}

/// Those that the goals of docs/performance.md speak of.
fn goals() -> Vec<Case> {
    let faults = [Server::Plain, Server::IdleRules(1), Server::IdleRules(100), Server::Traced, Server::Decided];
    let faults = [&faults[..], &[Server::QsdUring, Server::QsdBlkdebug]].concat();
    let ours_and_uring = [Server::Plain, Server::QsdUring];
    let with_ceiling = [Server::COMPARED, &[Server::Ceiling]].concat();
    vec![
        Case::new(Op::Read, RANDOM, 32).servers(&with_ceiling),
        Case::new(Op::Write, RANDOM, 32).servers(&with_ceiling),
        Case::new(Op::Read, RANDOM, 1),
        Case::new(Op::Read, SEQUENTIAL, 32),
        Case::new(Op::Write, SEQUENTIAL, 32),
        Case::new(Op::Read, RANDOM, 32).servers(&faults),
        Case::new(Op::Read, RANDOM, 32).media(Media::Cold).all_cpus().servers(&ours_and_uring),
        Case::new(Op::Read, RANDOM, 32).media(Media::Direct).all_cpus().servers(&ours_and_uring),
        Case::new(Op::Write, RANDOM, 32).media(Media::Direct).all_cpus().servers(&ours_and_uring),
        Case::new(Op::Read, RANDOM, 32).all_cpus(),
        Case::new(Op::Read, RANDOM, 32).queues(2).all_cpus(),
        Case::new(Op::Read, RANDOM, 128).queues(4).all_cpus().servers(&[Server::Plain, Server::Traced]),
    ]
}

/// Every combination.
fn everything() -> Vec<Case> {
    let mut all = Vec::new();
    for queues in [1, 2] {
        for depth in [1, 32, 128] {
            for (op, place) in
                [(Op::Read, RANDOM), (Op::Write, RANDOM), (Op::Read, SEQUENTIAL), (Op::Write, SEQUENTIAL)]
            {
                all.push(Case::new(op, place, depth).queues(queues));
            }
        }
    }
    for media in [Media::Hot, Media::Cold, Media::Direct] {
        for depth in [1, 32, 128] {
            all.push(Case::new(Op::Read, RANDOM, depth).media(media).all_cpus());
        }
        all.push(Case::new(Op::Read, SEQUENTIAL, 32).media(media).all_cpus());
    }
    for media in [Media::Hot, Media::Direct] {
        all.push(Case::new(Op::Write, RANDOM, 32).media(media).all_cpus());
        all.push(Case::new(Op::Write, SEQUENTIAL, 32).media(media).all_cpus());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn bench(words: &[&str]) -> Bench {
        let args = crate::args::Args::parse_from([&["guest-tests", "bench", "--out", "x"], words].concat());
        let crate::args::Command::Bench(bench) = args.command else { panic!("another command") };
        bench
    }

    #[test]
    fn every_case_has_a_name_of_its_own_and_the_goals_are_in_every_plan() {
        let ids = |words: &[&str]| plan(&bench(words)).expect("a plan").iter().map(Case::id).collect::<Vec<_>>();
        let (quick, all) = (ids(&["--quick"]), ids(&["--set", "all"]));
        assert!(quick.len() < all.len() && quick.iter().all(|id| all.contains(id)), "{quick:?}");
        assert!(quick.contains(&"memory-4k-randread-d32-q1-same_cpu-faults".to_owned()), "{quick:?}");
    }

    #[test]
    fn a_name_that_fits_no_case_is_refused_with_those_there_are() {
        let error = plan(&bench(&["--only", "tape"])).expect_err("refused").to_string();
        assert!(error.contains("memory-4k-randread-d1-q1-same_cpu"), "{error}");
    }
}
