//! Makes a whole scenario from a seed.
//!
//! A seed is (boot, index). `boot` says what a guest is booted as: kernel, machine, disk ([`shape()`]). `index` says what is done
//! in it: file system, workload, fault script ([`scenario`]). Pure: no clock, no files, nothing of the machine. The same seed is the
//! same scenario, byte for byte; a golden file holds that still, and [`VERSION`] says when it was changed knowingly.
//!
//! It knows the formats of scenarios and fault scripts, and neither the judge nor the disk: what comes out is JSON.
#![forbid(unsafe_code)]

mod draw;
mod faults;
mod filesystem;
mod print;
mod seed;
mod shape;
mod workload;

pub use seed::{INDICES_PER_BOOT, Seed, SeedError};
pub use shape::{Device, KERNELS, Shape, shape};

use draw::{Stream, Streams};
use filesystem::{Data, Filesystem};
use serde_json::{Value, json};
use workload::Shrink;

/// Which generator this is. It is raised whenever any seed gives another scenario than before, so that a seed of an older night is not
/// taken for the same thing.
pub const VERSION: u32 = 4;

/// The scenario of a seed: a whole scenario.json. [`text`] is how it is written down.
pub fn scenario(seed: Seed) -> Value {
    let shape = shape(seed.boot);
    let mut streams = Streams::of(&seed.to_string());
    let filesystem = Filesystem::draw(&mut streams.named("filesystem"), &shape);
    let shrink = shrink(&mut streams.named("size"), &shape);
    let logical_bytes = shape.device.logical_block_bytes.unwrap_or(512).into();
    let trims = shape.device.discard != Some(false);
    let workload = workload::draw(&mut streams, &filesystem, logical_bytes, trims, shrink);
    let mut faults = faults::draw(&mut streams, &shape, &filesystem, &workload.names, shrink);
    if shrink.is_none() {
        faults.cut_the_power(&mut streams.named("power cuts"), &shape, &filesystem);
    }
    json!({
        "scenario": 1,
        "name": format!("seed-{seed}"),
        "why": format!("Drawn from seed {seed} by version {VERSION} of the generator."),
        "kernels": "any",
        "disk": if faults.lying { "lying" } else { "honest" },
        "lockstep": if follows(&filesystem) && !faults.ends_early { "full" } else { "none" },
        "guest": shape.guest(),
        "filesystem": filesystem.json(),
        "faults": faults.script,
        "workload": workload.ops,
        "expect": [{"open": true}],
    })
}

/// The text of a scenario file: the same bytes for the same value.
pub fn text(scenario: &Value) -> String {
    print::text(scenario)
}

/// Whether data passes through io_ends, so that the replica can follow. With `data=journal` it goes through the journal.
fn follows(filesystem: &Filesystem) -> bool {
    filesystem.data != Data::Journal
}

/// Few disks change their size, and come back to it.
fn shrink(stream: &mut Stream, shape: &Shape) -> Option<Shrink> {
    let large_sectors = shape.size_mib << 11;
    let small_sectors = stream.between(large_sectors / 32, large_sectors / 16) * 8;
    stream.chance(1, 64).then_some(Shrink { small_sectors, large_sectors })
}
