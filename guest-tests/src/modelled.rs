//! What the model of files is told of a run (`file-model`), and what it says.
//!
//! The facts come from what the device, the script's decisions and the guest's kernel say themselves. What they do not say is taken
//! for the worst: a record with a gap may hide an error.

use crate::crash_states::order::Seen;
use crate::host::E2fsck;
use crate::judge::Recorded;
use crate::ops::OpLine;
use crate::scenario::Scenario;
use fault_injection::event::Outcome;
use fault_injection::{Happened, Then};
use file_model::{Facts, Followed};
use guest_init::job::Errno;
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug)]
pub struct Modelled {
    /// What the model was told.
    pub facts: Facts,
    /// What it says.
    pub followed: Followed,
}

/// What the kernel logs when metadata may not have reached the disk.
const METADATA_FAILED: &[&str] = &[
    "Aborting journal",
    "aborted journal",
    "Remounting filesystem read-only",
    "EXT4-fs error",
    "JBD2: ",
    "lost async page write",
    "lost sync page write",
    "I/O error while writing superblock",
    "Delayed block allocation failed",
];

/// A cluster of `bigalloc` has so many blocks where nobody says otherwise.
const BLOCKS_PER_CLUSTER: u64 = 16;

/// Follows the workload of a run.
pub fn follow(recorded: &Recorded) -> Modelled {
    follow_ops(recorded, &recorded.ops)
}

/// The same, had the workload's results been these.
pub fn follow_ops(recorded: &Recorded, ops: &[OpLine]) -> Modelled {
    let facts = facts(recorded);
    let end = recorded.end.as_ref().filter(|end| end.unreadable.is_none() && end_is_known(recorded));
    let end = end.map(|end| end.tree());
    Modelled { facts, followed: file_model::follow(ops, &facts, end.as_ref()) }
}

/// Whether what e2fsck made of the image is what the next mount would. Where fast commits wait for their replay it is not: e2fsck 1.47.0
/// replays them with inodes from before the rest of the journal was replayed, and files that share a block with the journal's
/// inode lose their blocks (docs/findings.md). With `data=journal` the kernel writes none.
pub fn end_is_known(recorded: &Recorded) -> bool {
    let filesystem = &recorded.scenario.filesystem;
    let words = |list: &[String], wanted: &str| list.iter().any(|text| text.split(',').any(|word| word == wanted));
    let fast_commits = words(&filesystem.mkfs, "fast_commit") && !words(&filesystem.mount, "data=journal");
    !(fast_commits && recorded.host.e2fsck.as_ref().is_some_and(E2fsck::journal_waits))
}

/// What the model is told.
pub fn facts(recorded: &Recorded) -> Facts {
    let mut facts = of_file_system(&recorded.scenario);
    facts.folio_bytes = folio_bytes(&recorded.host.kernel.release);
    facts.metadata_failed = metadata_failed(recorded);
    match (&recorded.device, &recorded.order, &recorded.decisions) {
        (Ok(device), Ok(order), Ok(_)) if device.losses().is_empty() => {
            let answers = device.requests.iter().filter_map(|request| request.answer);
            facts.other_status = answers.into_iter().any(|answer| answer.status > 1);
            if order.refused_something {
                let seen = recorded.trace.as_ref().ok().and_then(|trace| Seen::join(trace, device).ok());
                let op = |at: u64| order.reach_at(at, &recorded.ops, seen.as_ref()).returned;
                facts.first_error = order.first_refused.map(op);
                facts.first_write_error = order.first_refused_write.map(op);
            }
            facts.disk_lied = lies(recorded) > 0;
            if changes_under_the_guest(recorded) {
                at_any_time(&mut facts);
            }
        }
        _ => at_any_time(&mut facts),
    }
    facts
}

/// The disk may have failed before the first operation.
fn at_any_time(facts: &mut Facts) {
    facts.first_error = Some(0);
    facts.first_write_error = Some(0);
}

fn of_file_system(scenario: &Scenario) -> Facts {
    let filesystem = &scenario.filesystem;
    let block_bytes = u64::from(filesystem.block_bytes);
    let mkfs = filesystem.mkfs.join(" ");
    let mount = filesystem.mount.join(",");
    let has = |option: &str| mount.split(',').any(|word| word == option);
    let cluster = filesystem.mkfs.iter().skip_while(|word| *word != "-C").nth(1).and_then(|word| word.parse().ok());
    let cluster_bytes =
        if mkfs.contains("bigalloc") { cluster.unwrap_or(block_bytes * BLOCKS_PER_CLUSTER) } else { block_bytes };
    Facts {
        block_bytes,
        cluster_bytes: cluster_bytes.max(block_bytes),
        size_bytes: filesystem.size_mib << 20,
        direct_bytes: scenario.script.device().logical_block_bytes.map_or(512, u64::from),
        extents: !mkfs.contains("^extent") && !has("noextents"),
        read_only: has("ro"),
        ordered_names: !["^has_journal", "fast_commit"].iter().any(|word| mkfs.contains(word)),
        past_may_show: has("data=writeback"),
        ..Facts::default()
    }
}

/// ext4 keeps files in large folios since v6.16 (fs/ext4/inode.c, ext4_set_inode_mapping_order). Of a kernel that does not say its version
/// that is assumed.
fn folio_bytes(release: &str) -> u64 {
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    match numbers.next().zip(numbers.next()) {
        Some(version) if version < (6, 16) => 4 << 10,
        _ => 2 << 20,
    }
}

/// The kernel says that metadata may not have reached the disk, or refuses to write.
pub fn metadata_failed(recorded: &Recorded) -> bool {
    let said = |line: &str| METADATA_FAILED.iter().any(|words| line.contains(words));
    let errno = |line: &OpLine| line.result.as_ref().and_then(|result| result.errno);
    recorded.kernel_log.lines().any(said)
        || recorded.ops.iter().filter_map(errno).any(|errno| errno == Errno(libc::EROFS))
}

/// How often the disk broke its word: by a rule or an event of the script, by half a sector that it left behind, or by losing its power
/// under a guest that goes on and is told nothing of what is gone.
pub fn lies(recorded: &Recorded) -> u64 {
    let Ok(decisions) = &recorded.decisions else { return 0 };
    let script = &recorded.scenario.script;
    // A cut after which the guest goes on as if nothing had happened takes nothing from it, whatever the cache forgets.
    let spared = script.ids_of_cuts(Then::Snapshot);
    let lies = script.lies().into_iter().filter(|id| !spared.contains(id));
    let rules: BTreeSet<&str> = lies.chain(script.tears_sectors()).collect();
    let told: u64 = rules.into_iter().filter_map(|rule| decisions.fired.get(rule)).sum();
    let goes_on = script.power_cuts().contains(&Then::Disconnect);
    let by_rule = decisions.records.iter().filter(|record| matches!(record.outcome, Outcome::PowerCut {})).count();
    let by_event = decisions.events.iter().filter(|event| matches!(event.event, Happened::PowerCut {})).count();
    told + if goes_on { (by_rule + by_event) as u64 } else { 0 }
}

/// The kernel meets the end of a smaller disk by itself, and a disk that lost its power has forgotten what it had answered: neither
/// stands in the record as an answer.
fn changes_under_the_guest(recorded: &Recorded) -> bool {
    became_smaller(recorded) || recorded.scenario.script.power_cuts().iter().any(|then| *then != Then::Snapshot)
}

/// The script has changed the disk's size, and the kernel refuses what lies behind the end of a smaller one by itself.
pub fn became_smaller(recorded: &Recorded) -> bool {
    let decisions = recorded.decisions.as_ref();
    decisions
        .is_ok_and(|decisions| decisions.events.iter().any(|event| matches!(event.event, Happened::CapacitySectors(_))))
}
