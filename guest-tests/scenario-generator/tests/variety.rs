//! What comes up in some thousand seeds: everything the languages of scenarios and fault scripts have, but for what is left out on purpose.

use scenario_generator::{INDICES_PER_BOOT, KERNELS, Seed, scenario, shape};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The scenarios of 4,000 seeds.
static MANY: LazyLock<Vec<Value>> =
    LazyLock::new(|| (0..4_000).map(|n| scenario(Seed { boot: n / 4, index: n * 67 % INDICES_PER_BOOT })).collect());

type Words = BTreeSet<String>;

fn rules() -> impl Iterator<Item = &'static Value> {
    MANY.iter().flat_map(|scenario| scenario["faults"]["rules"].as_array().expect("rules are a list"))
}

fn events() -> impl Iterator<Item = &'static Value> {
    MANY.iter().flat_map(|scenario| scenario["faults"]["events"].as_array().into_iter().flatten())
}

fn ops() -> impl Iterator<Item = &'static Value> {
    MANY.iter().flat_map(|scenario| scenario["workload"].as_array().expect("a workload is a list"))
}

fn keys<'a>(of: impl Iterator<Item = &'a Value>) -> Words {
    of.filter_map(Value::as_object).flat_map(|map| map.keys().cloned()).collect()
}

/// A word, or a list of them.
fn words<'a>(of: impl Iterator<Item = &'a Value>) -> Words {
    let each = |value: &Value| match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        other => other.as_str().map(str::to_owned).into_iter().collect::<Vec<_>>(),
    };
    of.flat_map(each).collect()
}

fn these(words: &str) -> Words {
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_operation_of_a_workload_comes_up() {
    let all = "aio_write await_capacity create drop_caches fallocate fdatasync fstrim fsync link mark mkdir mmap_write punch read remount \
               rename sleep_ms sync sync_file_range truncate unlink write";
    assert_eq!(words(ops().map(|op| &op["op"])), these(all));
    assert!(ops().any(|op| op["direct"] == true) && ops().any(|op| op["stride"]["phases"] == 2));
}

#[test]
fn every_action_match_and_trigger_comes_up() {
    let actions = "corrupt delay error hold lose misdirect partial power_cut reorder set split stale torn";
    assert_eq!(keys(rules().map(|rule| &rule["action"])), these(actions));
    let matches = "child_of class inflight inode must_exist op overlap path queue sectors size";
    assert_eq!(keys(rules().map(|rule| &rule["match"])), these(matches));
    assert_eq!(keys(rules().map(|rule| &rule["trigger"])), these("after every key limit nth probability until when"));
    assert_eq!(words(rules().map(|rule| &rule["match"]["op"])), these("any discard flush read write write_zeroes"));
    assert_eq!(words(rules().map(|rule| &rule["match"]["overlap"])), these("covers within"));
    // No `ms`, `requests` or `bytes`: the machine's speed, or what came before, would move them.
    assert_eq!(keys(rules().map(|rule| &rule["trigger"]["after"])), these("flushes mark matches writes"));
    assert!(rules().any(|rule| rule["scope"] == "device") && rules().any(|rule| !rule["scope"]["sticky"].is_null()));
}

#[test]
fn every_class_of_blocks_comes_up() {
    let all = "ext4.block_bitmap ext4.data ext4.dir ext4.dir_index ext4.extent_node ext4.gdt ext4.inode_bitmap ext4.inode_table ext4.journal \
               ext4.journal.commit ext4.journal.data ext4.journal.descriptor ext4.journal.revoke ext4.journal.superblock ext4.other \
               ext4.superblock ext4.unknown ext4.xattr";
    assert_eq!(words(rules().map(|rule| &rule["match"]["class"])), these(all));
}

#[test]
fn every_event_comes_up() {
    let all = "capacity_sectors disconnect fail_class heal power_cut set write_cache";
    assert_eq!(keys(events().map(|event| &event["do"])), these(all));
}

#[test]
fn every_way_to_make_and_mount_a_file_system_comes_up() {
    let of = |key: &str| words(MANY.iter().map(|scenario| &scenario["filesystem"][key]));
    let mount = these(
        "dioread_nolock dioread_lock nodelalloc data=ordered data=writeback data=journal data_err=abort journal_async_commit",
    );
    assert!(of("mount").is_superset(&mount), "{:?}", of("mount"));
    let features: Words = of("mkfs").iter().flat_map(|word| word.split(',')).map(str::to_owned).collect();
    let wanted = these("bigalloc inline_data fast_commit ^has_journal ^metadata_csum ^flex_bg ^64bit");
    assert!(features.is_superset(&wanted), "{features:?}");
    let blocks: BTreeSet<u64> =
        MANY.iter().filter_map(|scenario| scenario["filesystem"]["block_bytes"].as_u64()).collect();
    assert_eq!(blocks, BTreeSet::from([1024, 2048, 4096]));
}

#[test]
fn all_of_a_boot_share_guest_disk_and_size() {
    for boot in 0..10 {
        let shape = shape(boot);
        for index in 0..INDICES_PER_BOOT {
            let scenario = scenario(Seed { boot, index });
            assert_eq!(scenario["guest"], shape.guest());
            assert_eq!(scenario["filesystem"]["size_mib"], shape.size_mib);
            let mut device = serde_json::to_value(&shape.device).expect("it is JSON");
            let mut found = scenario["faults"].get("device").cloned().unwrap_or(serde_json::json!({}));
            // That a cache is volatile, or lies, is between the disk and its script; the driver is told whether there is one.
            for device in [&mut device, &mut found] {
                if device["write_cache"] != "writethrough" {
                    device.as_object_mut().expect("an object").remove("write_cache");
                }
            }
            assert_eq!(found, device);
        }
    }
}

/// Swarm: no class of faults is in every script that has rules, and most scripts lack most classes.
#[test]
fn each_seed_switches_classes_on_and_off() {
    let mut with: BTreeMap<String, usize> = BTreeMap::new();
    let mut distinct = 0;
    for scenario in MANY.iter() {
        let rules = scenario["faults"]["rules"].as_array().expect("rules are a list");
        let actions = keys(rules.iter().map(|rule| &rule["action"]));
        distinct += actions.len();
        actions.into_iter().for_each(|action| *with.entry(action).or_default() += 1);
    }
    assert!(with.values().all(|&scripts| scripts < MANY.len() * 2 / 3), "{with:?}");
    assert!(distinct < MANY.len() * 3, "{distinct}");
    let lying = MANY.iter().filter(|scenario| scenario["disk"] == "lying").count();
    assert!((MANY.len() / 20..MANY.len() / 4).contains(&lying), "{lying}");
}

/// On one file and on several, two writers and more, on one CPU and on two.
#[test]
fn every_fifth_workload_has_several_writers_at_once_in_one_place() {
    let mut seen = BTreeMap::<String, usize>::new();
    for scenario in MANY.iter() {
        let ops = scenario["workload"].as_array().expect("a workload is a list");
        let stretches: Vec<&[Value]> =
            ops.split(|op| op.get("writer").is_none()).filter(|stretch| !stretch.is_empty()).collect();
        let Some(stretch) = stretches.first() else { continue };
        assert_eq!(stretches.len(), 1);
        let writers: BTreeSet<u64> = stretch.iter().filter_map(|op| op["writer"].as_u64()).collect();
        assert!(writers.len() > 1, "{stretch:?}");
        let files = words(stretch.iter().map(|op| &op["path"])).len();
        let vcpus = scenario["guest"]["vcpus"].as_u64().unwrap_or(1);
        for word in
            ["all".to_owned(), format!("{} writers", writers.len()), format!("{vcpus} vcpus"), format!("{files} files")]
        {
            *seen.entry(word).or_default() += 1;
        }
    }
    assert!((MANY.len() / 6..MANY.len() / 4).contains(&seen["all"]), "{seen:?}");
    let often = ["2 writers", "3 writers", "4 writers", "1 vcpus", "2 vcpus", "1 files", "2 files"];
    assert!(often.iter().all(|word| seen.get(*word).is_some_and(|&count| count > 20)), "{seen:?}");
}

/// Cuts that leave states need a cache to lose something, and one scenario in six has one to three.
#[test]
fn about_a_sixth_of_all_seeds_cut_the_power_and_let_the_guest_go_on() {
    let cuts = |scenario: &Value| {
        let faults = &scenario["faults"];
        let of = |list: &str| faults[list].as_array().cloned().unwrap_or_default();
        let actions = of("rules").into_iter().map(|rule| rule["action"].clone());
        let all = actions.chain(of("events").into_iter().map(|event| event["do"].clone()));
        all.filter(|does| does["power_cut"]["then"] == "snapshot").count()
    };
    let with: Vec<(&Value, usize)> = MANY.iter().map(|it| (it, cuts(it))).filter(|(_, cuts)| *cuts > 0).collect();
    assert!((MANY.len() / 8..MANY.len() / 5).contains(&with.len()), "{} of {}", with.len(), MANY.len());
    assert_eq!(with.iter().map(|(_, cuts)| *cuts).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    let cache = |scenario: &Value| scenario["faults"]["device"]["write_cache"].clone();
    assert!(with.iter().all(|(scenario, _)| cache(scenario) == "writeback" || cache(scenario) == "lying"));
    let lying = with.iter().filter(|(scenario, _)| cache(scenario) == "lying");
    assert!(lying.clone().count() > 0 && lying.clone().all(|(scenario, _)| scenario["disk"] == "lying"));
    for (scenario, _) in &with {
        let mount = words(std::iter::once(&scenario["filesystem"]["mount"]));
        assert!(!mount.contains("journal_async_commit") && !mount.contains("nobarrier"));
    }
}

#[test]
fn a_night_has_every_kernel_about_as_often() {
    let of = |series: &str| (0..1_000).filter(|boot| shape(*boot).kernel == series).count();
    assert!(KERNELS.iter().all(|series| of(series) == 250));
}

/// The same scenario, alone or after others, has to meet the same decisions.
#[test]
fn a_workload_begins_with_a_mark_and_ends_with_reads_from_the_disk() {
    for scenario in MANY.iter() {
        let ops = scenario["workload"].as_array().expect("a workload is a list");
        assert_eq!(ops[0], serde_json::json!({"op": "mark", "name": "start"}));
        let verify = ops.iter().position(|op| op["name"] == "verify").expect("every workload has it");
        assert_eq!(ops[verify + 1]["op"], "sync");
        assert!(["drop_caches", "remount"].iter().any(|op| ops[verify + 2]["op"] == *op));
        assert!(ops[verify + 3..].iter().all(|op| op["op"] == "read" && op.get("len").is_none()));
    }
}
