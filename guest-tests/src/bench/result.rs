//! The numbers: samples, medians, ratios, and how they stand to the goals of docs/performance.md.
//!
//! Two rates say the same on an idle machine and not on a busy one: requests a second of wall time, and requests a second
//! of CPU time that client and server used together. Where both share one CPU and nothing waits for a disk, the second
//! is the number to go by, since other programs do not change it.

use super::cases::{Case, Media};
use super::servers::{Peers, Server};
use crate::args::Bench;
use raw_client::Done;
use serde::Serialize;
use std::time::Duration;

/// Everything that `bench.json` holds.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: u32,
    /// The machine.
    pub machine: Machine,
    /// The command that measures again.
    pub repeat: String,
    /// Length of a sample.
    pub sample_ms: u64,
    /// Samples of each server in each case.
    pub rounds: u32,
    /// Size of the disk that was touched.
    pub span_bytes: u64,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// Case by case.
    pub cases: Vec<CaseResult>,
    /// Goal by goal, as far as it was measured.
    pub goals: Vec<Goal>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// uname -r
    pub kernel: String,
    /// MemTotal
    pub memory_mib: u64,
    /// Load average over a minute when it began.
    pub load_before: f64,
    /// And when it ended. What is measured loads the machine too.
    pub load_after: f64,
    /// What the programs say of themselves.
    pub versions: Vec<String>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseResult {
    /// Name.
    pub id: String,
    /// For people.
    pub title: String,
    /// The image.
    pub media: Media,
    /// Client and server on one CPU.
    pub same_cpu: bool,
    /// Queues.
    pub queues: usize,
    /// Server by server.
    pub servers: Vec<ServerResult>,
}

/// One server in one case.
#[derive(Debug, Serialize)]
pub struct ServerResult {
    /// Who.
    pub server: String,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Requests a second of wall time.
    pub per_second: f64,
    /// Requests a second of CPU time of client and server together.
    pub per_cpu_second: f64,
    /// Data a second of wall time.
    pub mib_per_second: f64,
    /// CPU time of the server for each request.
    pub server_us: f64,
    /// CPU time of the client for each request.
    pub client_us: f64,
    /// The most the server had in memory.
    pub peak_kib: u64,
    /// How much it had for itself alone at the end.
    pub own_kib: u64,
}

impl Sample {
    /// Of what the client did and the server used.
    pub fn new(done: &Done, server_cpu: Duration, block_bytes: usize, (peak_kib, own_kib): (u64, u64)) -> Sample {
        let requests = done.requests as f64;
        let each_us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / requests.max(1.0);
        Sample {
            per_second: requests / done.elapsed.as_secs_f64(),
            per_cpu_second: requests / (server_cpu + done.client_cpu).as_secs_f64().max(1e-9),
            mib_per_second: requests * block_bytes as f64 / f64::from(1 << 20) / done.elapsed.as_secs_f64(),
            server_us: each_us(server_cpu),
            client_us: each_us(done.client_cpu),
            peak_kib,
            own_kib,
        }
    }
}

impl ServerResult {
    /// Nothing yet.
    pub fn new(server: String) -> ServerResult {
        ServerResult { server, samples: Vec::new() }
    }

    /// Median of a number; 0 without samples.
    pub fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        let mut numbers: Vec<f64> = self.samples.iter().map(of).collect();
        numbers.sort_by(f64::total_cmp);
        match numbers.len() {
            0 => 0.0,
            n if n % 2 == 1 => numbers[n / 2],
            n => f64::midpoint(numbers[n / 2 - 1], numbers[n / 2]),
        }
    }

    /// Least and most of a number.
    pub fn spread(&self, of: fn(&Sample) -> f64) -> (f64, f64) {
        let numbers = self.samples.iter().map(of);
        numbers.fold((f64::INFINITY, 0.0), |(least, most), n| (least.min(n), most.max(n)))
    }
}

impl CaseResult {
    /// Of one case.
    pub fn new(case: &Case, servers: Vec<ServerResult>) -> CaseResult {
        let (media, same_cpu, queues) = (case.media, case.same_cpu, case.queues);
        CaseResult { id: case.id(), title: case.title(), media, same_cpu, queues, servers }
    }

    /// The rate to go by: see the module.
    pub fn rate(&self) -> fn(&Sample) -> f64 {
        match self.goes_by_cpu() {
            true => |sample| sample.per_cpu_second,
            false => |sample| sample.per_second,
        }
    }

    /// Whether other programs on the machine leave the rate as it is.
    pub fn goes_by_cpu(&self) -> bool {
        self.same_cpu && matches!(self.media, Media::Memory | Media::Hot)
    }

    fn of(&self, server: Server) -> Option<&ServerResult> {
        let name = server.name();
        self.servers.iter().find(|result| result.server == name)
    }
}

/// One line of the table of goals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// What.
    pub measure: &'static str,
    /// How much it should be.
    pub goal: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// What it is.
    pub number: f64,
    /// Unit; a ratio has none.
    pub unit: &'static str,
}

impl Goal {
    /// Whether it is reached.
    pub fn is_met(&self) -> bool {
        if self.at_least { self.number >= self.goal } else { self.number <= self.goal }
    }
}

impl Report {
    /// A machine, and nothing measured yet.
    pub fn new(wanted: &Bench, peers: &Peers, repeat: &str) -> Report {
        Report {
            bench: 1,
            machine: Machine::look(peers),
            repeat: repeat.to_owned(),
            sample_ms: wanted.time().as_millis() as u64,
            rounds: wanted.rounds(),
            span_bytes: wanted.span_bytes(),
            skipped: peers.skipped.clone(),
            cases: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// After the last case.
    pub fn finish(&mut self) {
        self.machine.load_after = load();
        self.goals = self.find_goals();
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and names become JSON")
    }

    fn case(&self, id: &str) -> Option<&CaseResult> {
        self.cases.iter().find(|case| case.id == id)
    }

    /// The rate of one server in a case.
    fn rate(&self, id: &str, server: Server) -> Option<f64> {
        let case = self.case(id)?;
        case.of(server).map(|result| result.median(case.rate()))
    }

    fn over_best_qsd(&self, id: &str) -> Option<f64> {
        let peers = [Server::QsdThreads, Server::QsdUring].into_iter().filter_map(|peer| self.rate(id, peer));
        let best = peers.fold(0.0, f64::max);
        (best > 0.0).then_some(self.rate(id, Server::Plain)? / best)
    }

    fn over_ceiling(&self) -> Option<f64> {
        let id = "memory-4k-randread-d32-q1-same_cpu";
        Some(self.rate(id, Server::Plain)? / self.rate(id, Server::Ceiling)?)
    }

    fn over_plain(&self, server: Server) -> Option<f64> {
        let faults = "memory-4k-randread-d32-q1-same_cpu-faults";
        Some(self.rate(faults, server)? / self.rate(faults, Server::Plain)?)
    }

    fn direct_cpu(&self) -> Option<f64> {
        let case = self.case("direct-4k-randread-d32-q1-all_cpus")?;
        let us = |server| Some(case.of(server)?.median(|sample| sample.server_us));
        Some(us(Server::Plain)? / us(Server::QsdUring)?)
    }

    fn two_queues(&self) -> Option<f64> {
        let one = self.rate("memory-4k-randread-d32-q1-all_cpus", Server::Plain)?;
        Some(self.rate("memory-4k-randread-d32-q2-all_cpus", Server::Plain)? / one)
    }

    fn peak_mib(&self) -> Option<f64> {
        let case = self.case("memory-4k-randread-d128-q4-all_cpus")?;
        let peak = |server| Some(case.of(server)?.spread(|sample| sample.peak_kib as f64).1 / 1024.0);
        Some(peak(Server::Plain)?.max(peak(Server::Traced)?))
    }

    fn find_goals(&self) -> Vec<Goal> {
        let least = |measure, goal, number| goal_of(measure, goal, true, "", number);
        let most = |measure, goal, unit, number| goal_of(measure, goal, false, unit, number);
        let qsd = |id: &str| self.over_best_qsd(id);
        let goals = [
            least("4K random read, depth 32, over the better QSD", 3.5, qsd("memory-4k-randread-d32-q1-same_cpu")),
            least("4K random read, depth 32, over the crates' ceiling", 0.9, self.over_ceiling()),
            least("4K random write, depth 32, over the better QSD", 3.2, qsd("memory-4k-randwrite-d32-q1-same_cpu")),
            least("4K random read, depth 1, over the better QSD", 2.5, qsd("memory-4k-randread-d1-q1-same_cpu")),
            least(
                "128K sequential read, depth 32, over the better QSD",
                1.25,
                qsd("memory-128k-seqread-d32-q1-same_cpu"),
            ),
            least(
                "128K sequential write, depth 32, over the better QSD",
                1.25,
                qsd("memory-128k-seqwrite-d32-q1-same_cpu"),
            ),
            least(
                "cold page cache, 4K random read, depth 32, over QSD io_uring",
                1.25,
                qsd("cold-4k-randread-d32-q1-all_cpus"),
            ),
            least(
                "O_DIRECT, 4K random read, depth 32, over QSD io_uring",
                1.1,
                qsd("direct-4k-randread-d32-q1-all_cpus"),
            ),
            least(
                "O_DIRECT, 4K random write, depth 32, over QSD io_uring",
                1.1,
                qsd("direct-4k-randwrite-d32-q1-all_cpus"),
            ),
            most("O_DIRECT, CPU per request, to QSD's", 0.45, "", self.direct_cpu()),
            least("two queues over one, all CPUs, depth 32 per queue", 1.25, self.two_queues()),
            least("100 idle rules over none", 0.97, self.over_plain(Server::IdleRules(100))),
            least("tracing on over off", 0.85, self.over_plain(Server::Traced)),
            most("peak memory at depth 128 on 4 queues, with and without trace", 32.0, "MiB", self.peak_mib()),
        ];
        goals.into_iter().flatten().collect()
    }
}

fn goal_of(measure: &'static str, goal: f64, at_least: bool, unit: &'static str, number: Option<f64>) -> Option<Goal> {
    number.map(|number| Goal { measure, goal, at_least, number, unit })
}

impl Machine {
    fn look(peers: &Peers) -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Machine {
            cpu: after(&read("/proc/cpuinfo"), "model name"),
            cpus: super::measure::last_cpu() + 1,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_kib >> 10,
            load_before: load(),
            load_after: 0.0,
            versions: peers.versions.clone(),
        }
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(per_second: f64) -> Sample {
        let done = Done { requests: 100, elapsed: Duration::from_secs(1), client_cpu: Duration::from_millis(100) };
        Sample { per_second, ..Sample::new(&done, Duration::from_millis(300), 4096, (2048, 1024)) }
    }

    #[test]
    fn a_median_is_not_moved_by_one_bad_round() {
        let samples = [1.0, 100.0, 90.0, 110.0].map(sample).to_vec();
        let result = ServerResult { server: "x".into(), samples };
        assert_eq!(result.median(|sample| sample.per_second), 95.0);
        assert_eq!(result.spread(|sample| sample.per_second), (1.0, 110.0));
    }

    #[test]
    fn cpu_time_of_client_and_server_counts_together() {
        let sample = sample(0.0);
        assert_eq!((sample.server_us, sample.client_us), (3000.0, 1000.0));
        assert!((sample.per_cpu_second - 250.0).abs() < 1e-6);
    }

    #[test]
    fn a_goal_may_be_a_floor_or_a_ceiling() {
        let goal = |at_least, number| goal_of("x", 2.0, at_least, "", Some(number)).expect("a number").is_met();
        assert!(goal(true, 2.0) && !goal(true, 1.9) && goal(false, 2.0) && !goal(false, 2.1));
    }
}
