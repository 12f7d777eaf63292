//! The same seed is the same scenario, byte for byte, for as long as the generator has this version.
//!
//! After a change on purpose: raise `VERSION`, run `REWRITE=1 cargo test -p scenario-generator --test golden`, and say in the commit what
//! is drawn otherwise.

use scenario_generator::{INDICES_PER_BOOT, Seed, VERSION, scenario, shape, text};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Some of the first boots, some far ones, and one line for very many: a change that few seeds meet shows there.
fn digests() -> String {
    let mut lines = format!("version {VERSION}\n");
    for boot in [0, 1, 2, 3, 4, 17, 255, 4_000_000_000] {
        writeln!(lines, "shape {boot} {}", digest(&text(&shape(boot).json()))).expect("a string takes it");
        for index in [0, 1, 2, 100, INDICES_PER_BOOT - 1] {
            let seed = Seed { boot, index };
            writeln!(lines, "{seed} {}", digest(&text(&scenario(seed)))).expect("a string takes it");
        }
    }
    let many: String = (0..500).map(|n| text(&scenario(Seed { boot: n, index: n % INDICES_PER_BOOT }))).collect();
    writeln!(lines, "many {}", digest(&many)).expect("a string takes it");
    lines
}

#[test]
fn scenarios_are_those_of_the_golden_file() {
    let drawn = digests();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scenarios.txt");
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&file, &drawn).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&file).expect("the golden file is in the tree");
    assert_eq!(drawn, golden, "raise VERSION if this is on purpose, and see the head of this file");
}
