//! Takes the samples: servers in turns, so that what else the machine does meets all of them.

use super::cases::{Case, Media};
use super::images::Images;
use super::result::{CaseResult, Sample, ServerResult};
use super::servers::{Peers, Running, Server};
use crate::args::Bench;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use raw_client::{Client, Job};
use std::time::Duration;

/// Before the clock runs: the caches of a CPU that did something else.
const WARM_UP: Duration = Duration::from_millis(50);

/// The last CPU of the machine: the first one has the interrupts.
pub fn last_cpu() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

/// All samples of one case.
pub fn case(
    case: &Case,
    wanted: &Bench,
    peers: &Peers,
    images: &Images,
    interrupt: &Interrupt,
) -> Result<CaseResult, Failure> {
    let servers: Vec<Server> = case.servers.iter().copied().filter(|server| peers.has(*server)).collect();
    let mut results: Vec<ServerResult> = servers.iter().map(|server| ServerResult::new(server.name())).collect();
    for round in 0..wanted.rounds() {
        for (server, result) in servers.iter().zip(&mut results) {
            interrupt.check()?;
            images.prepare(case.media)?;
            result.samples.push(sample(*server, case, (wanted, peers), images, round)?);
        }
    }
    Ok(CaseResult::new(case, results))
}

fn sample(
    server: Server,
    case: &Case,
    (wanted, peers): (&Bench, &Peers),
    images: &Images,
    round: u32,
) -> Result<Sample, Failure> {
    let running = Running::start(server, case, &images.path(case.media), (wanted, peers))?;
    let _pinned = Pinned::to(case.same_cpu.then(|| wanted.cpu()))?;
    let measured = drive(case, wanted, &running, round);
    let sample = measured.map_err(|error| running.failure(server, &format!("failed ({error})")))?;
    running.end(server)?;
    Ok(sample)
}

fn drive(case: &Case, wanted: &Bench, running: &Running, round: u32) -> Result<Sample, raw_client::Error> {
    let job = Job {
        op: case.op,
        place: case.place,
        block_bytes: case.block_bytes,
        depth: case.depth,
        span_bytes: wanted.span_bytes(),
        time: wanted.time(),
        seed: u64::from(round) + 1,
    };
    let mut client = Client::connect(&running.socket, case.queues, case.depth, case.block_bytes)?;
    if case.media != Media::Cold {
        client.run(&Job { time: WARM_UP, seed: 99, ..job })?;
    }
    let before = running.cpu();
    let done = client.run(&job)?;
    let server_cpu = running.cpu().saturating_sub(before);
    let (peak_kib, own_kib) = running.memory_kib();
    Ok(Sample::new(&done, server_cpu, case.block_bytes, (peak_kib, own_kib)))
}

/// This thread, and those it starts, on one CPU, for as long as the value lives.
struct Pinned(Option<CpuSet>);

impl Pinned {
    fn to(cpu: Option<usize>) -> Result<Pinned, Failure> {
        let Some(cpu) = cpu else { return Ok(Pinned(None)) };
        let us = Pid::from_raw(0);
        let pin = || {
            let before = sched_getaffinity(us)?;
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(us, &set)?;
            Ok(Pinned(Some(before)))
        };
        pin()
            .map_err(|errno: nix::Error| Failure::infrastructure(format!("cannot stay on CPU {cpu}: {errno}"), "--cpu"))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It was ours a moment ago.
            let _ = sched_setaffinity(Pid::from_raw(0), before);
        }
    }
}
