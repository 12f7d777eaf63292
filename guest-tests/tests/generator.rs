//! What the generator makes, held against the grammar of scenarios: it does not know the judge, so this is where the two meet.

use guest_tests::scenario::{self, Disk};
use proptest::prelude::*;
use scenario_generator::{INDICES_PER_BOOT, Seed, scenario, shape, text};
use std::path::Path;

fn parsed(seed: Seed) -> scenario::Scenario {
    let text = text(&scenario(seed));
    scenario::parse(Path::new("seed.json"), &text).unwrap_or_else(|problems| panic!("{seed}: {problems}\n{text}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_scenario_is_one_without_error_or_warning(boot in 0..1_000_000_u32, index in 0..INDICES_PER_BOOT) {
        let seed = Seed { boot, index };
        let scenario = parsed(seed);
        prop_assert!(scenario.warnings.is_empty(), "{}: {:?}", seed, scenario.warnings);
        prop_assert_eq!(scenario.name, format!("seed-{seed}"));
        prop_assert_eq!(scenario.disk, Disk::of(&scenario.script));
        prop_assert!(scenario.expect[0].open);
        let shape = shape(boot);
        prop_assert_eq!(u32::from(scenario.guest.queues()), shape.queues);
        prop_assert_eq!(scenario.filesystem.size_mib, shape.size_mib);
        prop_assert_eq!(scenario.script.device().seg_max, shape.device.seg_max);
    }
}
