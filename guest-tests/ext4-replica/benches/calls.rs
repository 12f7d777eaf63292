//! How many calls a second, JSON in and JSON out, on one core: `cargo bench -p ext4-replica --bench calls`.
//!
//! The mix is buffered writeback of eight pages in four bios with one asynchronous direct write beside it, over eight
//! inodes, and a look at the state now and then. `-- --print N` writes N rounds of it for `guest-tests replica`.

use ext4_replica::{Calls, Dialect};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const INODES: u64 = 8;
const ROUNDS: u64 = 2000;
const RUNS: usize = 15;

/// Calls of the whole mix, one per line.
fn mix(rounds: u64) -> String {
    let mut calls = String::from("{\"call\":\"device\",\"max_pages\":2}\n");
    for ino in 1..=INODES {
        let pblk = ino * 100_000;
        writeln!(calls, "{{\"call\":\"inode\",\"ino\":{ino},\"block_bits\":12,\"size\":1048576,\"extents\":[{{\"lblk\":0,\"len\":256,\"pblk\":{pblk},\"unwritten\":true}}]}}").expect("a string takes all");
    }
    (0..rounds).for_each(|round| add_round(&mut calls, round));
    calls
}

fn add_round(calls: &mut String, round: u64) {
    let (ino, page) = (1 + round % INODES, (round / INODES * 8) % 248);
    let (next, bio, iocb) = (page + 8, round * 4 + 1, round + 1);
    writeln!(calls, "{{\"call\":\"dirty\",\"ino\":{ino},\"lblk\":{page},\"len\":8}}").expect("a string takes all");
    writeln!(
        calls,
        "{{\"call\":\"submit_range\",\"ino\":{ino},\"first_page\":{page},\"next_page\":{next},\"sync\":true}}"
    )
    .expect("a string takes all");
    writeln!(calls, "{{\"call\":\"dio_submit\",\"ino\":{ino},\"offset\":1015808,\"len\":8192,\"async\":true}}")
        .expect("a string takes all");
    writeln!(calls, "{{\"call\":\"dio_return\",\"iocb\":{iocb},\"ret\":-529}}").expect("a string takes all");
    for bio in [bio + 1, bio, bio + 3, bio + 2] {
        let error = if bio % 97 == 0 { -5 } else { 0 };
        writeln!(calls, "{{\"call\":\"end_bio\",\"bio\":{bio},\"error\":{error}}}").expect("a string takes all");
    }
    writeln!(calls, "{{\"call\":\"dio_end\",\"iocb\":{iocb},\"offset\":1015808,\"bytes\":8192,\"async\":true}}")
        .expect("a string takes all");
    writeln!(calls, "{{\"call\":\"run_work\",\"ino\":{ino}}}").expect("a string takes all");
    if round % 100 == 99 {
        calls.push_str("{\"call\":\"state\"}\n");
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == "--print") {
        print!("{}", mix(words.get(at + 1).and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)));
        return;
    }
    let mix = mix(ROUNDS);
    let lines: Vec<&[u8]> = mix.lines().map(str::as_bytes).collect();
    let (mut best, mut events, mut bytes) = (Duration::MAX, 0, 0);
    for _ in 0..RUNS {
        let (took, out) = play(&lines);
        best = best.min(took);
        (events, bytes) = (out.iter().filter(|byte| **byte == b'\n').count(), out.len());
    }
    let a_second = lines.len() as f64 / best.as_secs_f64();
    println!(
        "calls {}  events {events} ({:.1} a call)  output {bytes} bytes",
        lines.len(),
        events as f64 / lines.len() as f64
    );
    println!("{a_second:.0} calls a second, best of {RUNS} runs");
}

fn play(lines: &[&[u8]]) -> (Duration, Vec<u8>) {
    let mut machine = Calls::new(Dialect::SEED);
    let mut out = Vec::with_capacity(32 << 20);
    let began = Instant::now();
    for line in lines {
        machine.line(line, &mut out).expect("the mix is sound");
    }
    (began.elapsed(), out)
}
