//! How fast a recorded run is decoded and judged, on one core: `cargo bench -p guest-tests --bench judge`.
//!
//! The committed recordings, one after the other; the best of several runs, since the machine may do something else.

use guest_tests::folder::{self, RunFolder};
use guest_tests::judge;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

const RUNS: usize = 15;

fn best(mut work: impl FnMut()) -> Duration {
    let once = |_| {
        let since = Instant::now();
        work();
        since.elapsed()
    };
    (0..RUNS).map(once).min().unwrap_or_default()
}

fn main() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let mut folders: Vec<_> =
        std::fs::read_dir(dir).expect("the recordings").flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for path in folders {
        let folder = RunFolder::open(&path).expect("a recording");
        let raw = folder.read(folder::GUEST_RAW).expect("its trace");
        let decode = best(|| _ = black_box(kernel_trace::decode(black_box(&raw))));
        let recorded = judge::read(&folder).expect("readable");
        let responses = judge::judge(&recorded).expect("judged").verdict.compared.responses;
        let judged = best(|| _ = black_box(judge::judge(black_box(&recorded))));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!(
            "{name}: decodes {:.0} MB/s of raw trace ({} KB); joins, steps the replica and compares {:.0} k responses/s ({responses})",
            raw.len() as f64 / 1e6 / decode.as_secs_f64(),
            raw.len() / 1000,
            responses as f64 / 1e3 / judged.as_secs_f64(),
        );
    }
}
