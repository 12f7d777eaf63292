//! Makes a whole scenario from a seed.
//!
//! A seed is (boot, index). `boot` says what a guest is booted as: kernel, machine, disk ([`shape`]). `index` says what is done
//! in it: file system, workload, fault script ([`scenario`]). Pure: no clock, no files, nothing of the machine. The same seed is the
//! same scenario, byte for byte; a golden file holds that still, and [`VERSION`] says when it was changed knowingly.
//!
//! It knows the formats of scenarios and fault scripts, and neither the judge nor the disk: what comes out is JSON.
#![forbid(unsafe_code)]

mod draw;
mod seed;
mod shape;

pub use seed::{INDICES_PER_BOOT, Seed, SeedError};
pub use shape::{Device, KERNELS, Shape, shape};

/// Which generator this is. It is raised whenever any seed gives another scenario than before, so that a seed of an older night is not
/// taken for the same thing.
pub const VERSION: u32 = 1;

/// The scenario of a seed: a whole scenario.json.
pub fn scenario(seed: Seed) -> serde_json::Value {
    let shape = shape(seed.boot);
    let mut streams = draw::Streams::of(&seed.to_string());
    let path = "f";
    let len = 4096 * streams.named("workload").between(1, 256);
    serde_json::json!({
        "scenario": 1,
        "name": format!("seed-{seed}"),
        "why": format!("Drawn from seed {seed} by generator {VERSION}."),
        "kernels": "any",
        "guest": shape.guest(),
        "filesystem": {"size_mib": shape.size_mib, "block_bytes": 4096},
        "faults": {"faultscript": 1, "device": shape.device, "rules": []},
        "workload": [
            {"op": "mark", "name": "start"},
            {"op": "create", "path": path},
            {"op": "write", "path": path, "len": len, "pattern": "a"},
            {"op": "sync"},
            {"op": "drop_caches"},
            {"op": "read", "path": path},
        ],
    })
}
