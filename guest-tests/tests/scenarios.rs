//! Every scenario through the real programs: a real QEMU, a stock kernel, a faulty disk, a verdict.
//!
//! One guest at a time. Where QEMU, a program of ours or the kernel is missing, these tests fail and say what mends it:
//! a skipped guest would look like a judged one.

mod guests;

use guests::{one_at_a_time, scenario, start};
use serde_json::Value;

struct Ran {
    folder: tempfile::TempDir,
    code: Option<i32>,
    verdict: Value,
    stderr: String,
}

impl Ran {
    fn lines(&self, file: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join(file)).expect("a run writes it");
        text.lines().map(|line| serde_json::from_str(line).expect("one JSON document per line")).collect()
    }

    fn findings(&self) -> Vec<&str> {
        let list = self.verdict["findings"].as_array().expect("findings is a list");
        list.iter().map(|finding| finding["id"].as_str().expect("an id")).collect()
    }

    /// Digests of what the reads of a file gave.
    fn digests(&self, path: &str) -> Vec<String> {
        let reads = self.lines("ops.jsonl").into_iter().filter(|line| line["args"]["op"] == "read");
        reads
            .filter(|line| line["args"]["path"] == path)
            .map(|line| line["result"]["read"]["fnv1a64"].as_str().expect("a digest").to_owned())
            .collect()
    }

    /// Exit code and word, with everything there is to know if they are others.
    fn must_be(&self, code: i32, word: &str) {
        let is = (self.code, self.verdict["verdict"].as_str());
        assert_eq!(is, (Some(code), Some(word)), "{}\n{:#}", self.stderr, self.verdict);
    }

    /// Judging the folder again gives the same bytes.
    fn must_replay(&self) {
        let output = start(&["replay".as_ref(), self.folder.path().as_ref(), "--format".as_ref(), "json".as_ref()]);
        let recorded = std::fs::read(self.folder.path().join("verdict.json")).expect("a run writes it");
        assert!(output.stdout == recorded, "another verdict: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), self.code);
    }

    fn must_have_every_file(&self) {
        for file in [
            "scenario.json",
            "script.normalized.json",
            "device.jsonl",
            "decisions.jsonl",
            "ops.jsonl",
            "end-state.json",
            "guest.raw",
            "guest.log",
            "probes.txt",
            "guest.jsonl",
            "replica.jsonl",
            "verdict.json",
            "console.log",
            "qemu.log",
            "report.html",
        ] {
            assert!(self.folder.path().join(file).is_file(), "{file} is missing");
        }
        assert!(!self.folder.path().join("disk.img").exists(), "the image is kept only on request");
    }
}

/// Runs a scenario. A slow machine may take long; a guest that hangs is ended by the run's own limit.
fn run(name: &str, more: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = scenario(name);
    let mut args: Vec<&std::ffi::OsStr> =
        vec!["run".as_ref(), scenario.as_ref(), "--out".as_ref(), folder.path().as_ref()];
    args.extend(["--format", "json", "--time-limit", "600"].map(std::ffi::OsStr::new));
    args.extend(more.iter().map(std::ffi::OsStr::new));
    let output = start(&args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no JSON on stdout ({error}): {stderr}"));
    let ran = Ran { folder, code: output.status.code(), verdict, stderr };
    assert_ne!(
        ran.code,
        Some(4),
        "this machine cannot run guests; `guest-tests doctor` says what mends it: {}",
        ran.stderr
    );
    ran
}

/// A scenario that must come out as its file says, with exit code 0.
fn as_expected(name: &str) -> Ran {
    comes_out(name, "same")
}

fn comes_out(name: &str, word: &str) -> Ran {
    let ran = run(name, &[]);
    ran.must_be(0, word);
    assert_eq!(ran.verdict["as_expected"], true);
    // The file system is whole; where files do not hold what they should at the end, a finding of no operation says so.
    let findings = ran.verdict["findings"].as_array().expect("a list");
    let wrong_at_the_end = findings.iter().any(|finding| finding["op"].is_null() && finding["path"].is_string());
    assert_eq!(ran.verdict["oracles"]["end_state"], if wrong_at_the_end { "fail" } else { "pass" });
    ran.must_have_every_file();
    ran.must_replay();
    ran
}

fn count(lines: &[Value], ev: &str, io_end: &Value) -> usize {
    lines.iter().filter(|line| line["ev"] == ev && line["io_end"] == *io_end).count()
}

#[test]
fn four_bios_share_one_io_end_and_the_worker_converts() {
    let _guard = one_at_a_time();
    let ran = as_expected("clean-interleaved");
    assert_eq!(ran.findings(), [""; 0]);
    let guest = ran.lines("guest.jsonl");
    let mut queued = guest.iter().filter(|line| line["ev"] == "add_complete_io").map(|line| &line["io_end"]);
    let shared = queued.find(|io_end| count(&guest, "submit_bio", io_end) >= 4);
    assert!(shared.is_some(), "no io_end with four bios went to the worker");
}

#[test]
fn a_limit_of_segments_makes_many_requests_of_one_bio() {
    let _guard = one_at_a_time();
    let ran = as_expected("guest-splits");
    let device = ran.lines("device.jsonl");
    let sectors = |line: &Value| line["sectors"].as_u64().unwrap_or(0);
    let writes = device.iter().filter(|line| line["ev"] == "issue" && line["op"] == "write");
    assert!(writes.clone().all(|line| sectors(line) <= 64), "a request has more than 8 pages");
    assert!(writes.count() >= 128, "4 MiB in requests of 32 KiB");
}

#[test]
fn pieces_in_shuffled_order_do_not_show() {
    let _guard = one_at_a_time();
    let ran = as_expected("split-shuffled");
    assert!(ran.lines("device.jsonl").iter().any(|line| line["ev"] == "piece"), "no request was split");
}

#[test]
fn answers_in_reverse_order_do_not_show() {
    let _guard = one_at_a_time();
    as_expected("reorder-reverse");
}

#[test]
fn a_disk_that_grows_in_use_is_taken_at_its_new_size() {
    let _guard = one_at_a_time();
    let ran = as_expected("disk-grows");
    let device = ran.lines("device.jsonl");
    let resized = device.iter().find(|line| line["ev"] == "resize").expect("the device's record says so");
    assert_eq!((&resized["capacity_sectors"], &resized["notified"]), (&262_144.into(), &true.into()));
    let log = std::fs::read_to_string(ran.folder.path().join("guest.log")).expect("a run writes it");
    assert!(log.contains("new size: 262144 512-byte logical blocks"), "{log}");
}

#[test]
fn a_disk_that_leaves_in_the_middle_of_a_writeback_and_comes_back_does_not_show() {
    let _guard = one_at_a_time();
    let ran = as_expected("disk-comes-back");
    let device = ran.lines("device.jsonl");
    let whys: Vec<&Value> = device.iter().filter(|line| line["ev"] == "session").map(|line| &line["why"]).collect();
    assert_eq!(
        whys.iter().filter(|why| **why == "disconnect").count(),
        3,
        "two of the script, one of the end: {whys:?}"
    );
    let left =
        device.iter().rposition(|line| line["ev"] == "session" && line["why"] == "connect").expect("it came back");
    assert!(
        device[left..].iter().any(|line| line["ev"] == "issue" && line["op"] == "write"),
        "and the writeback went on"
    );
}

#[test]
fn answers_late_by_a_distribution_do_not_show() {
    let _guard = one_at_a_time();
    as_expected("delay-distribution");
}

#[test]
fn three_sectors_reach_the_disk_and_the_image_shows_exactly_that() {
    let _guard = one_at_a_time();
    let ran = as_expected("partial");
    let errnos: Vec<Value> = ran
        .lines("ops.jsonl")
        .into_iter()
        .filter(|line| line["args"]["op"] == "fsync")
        .map(|line| line["result"]["errno"].clone())
        .collect();
    assert_eq!(errnos, [Value::Null, Value::from("EIO"), Value::Null], "EIO once, then 0");
}

#[test]
fn an_extent_converted_after_a_failed_write_shows_the_disks_past() {
    let _guard = one_at_a_time();
    let ran = as_expected("stale-after-error");
    // Once by what a read gave, once by what the file holds at the end.
    assert_eq!(ran.findings(), ["converted-after-failed-write", "stale-data-read", "stale-data-read"]);
    assert_eq!(ran.verdict["oracles"]["end_state"], "fail");
    assert!(ran.verdict["findings"][1]["disk_block"].is_u64(), "the finding names the block");
}

/// Two CPUs, so that the writers really work at once.
#[test]
fn a_second_writer_of_the_file_neither_takes_the_error_nor_loses_its_own_data() {
    let _guard = one_at_a_time();
    let ran = as_expected("stale-after-error-two-writers");
    let stale = ran.verdict["findings"].as_array().expect("findings is a list").iter().skip(1);
    assert!(stale.clone().count() > 0);
    for finding in stale {
        let (first, bytes) = (finding["offset"].as_u64().expect("a place"), finding["bytes"].as_u64().expect("bytes"));
        assert!(first + bytes <= 4 << 20, "the second writer works behind the first one's range: {finding}");
    }
    let writers = ran.lines("ops.jsonl").into_iter().filter(|line| !line["args"]["writer"].is_null());
    assert_eq!(writers.filter(|line| line["result"]["errno"].is_null()).count(), 6, "all but the first one's fsync");
    ran.must_replay();
}

/// Also that its path is found once its directory's change is committed: the image had no such file at the start.
#[test]
fn an_error_on_the_data_of_one_file_leaves_the_other_whole() {
    let _guard = one_at_a_time();
    let ran = as_expected("one-file-fails");
    let decisions = ran.lines("decisions.jsonl");
    let path = decisions.iter().find(|line| line["rule"] == "@path").expect("the path came to be");
    let refused = decisions.iter().filter(|line| line["rule"] == "refuse");
    assert!(refused.clone().all(|line| line["file"]["inode"] == path["event"]["path"]["inode"]), "{decisions:?}");
    assert!(refused.clone().all(|line| line["file"]["class"] == "ext4.data"), "{decisions:?}");
}

#[test]
fn a_journal_descriptor_that_fails_aborts_the_journal() {
    let _guard = one_at_a_time();
    let ran = run("journal-descriptor-fails", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let log = std::fs::read_to_string(ran.folder.path().join("console.log")).expect("a run writes it")
        + &std::fs::read_to_string(ran.folder.path().join("guest.log")).expect("a run writes it");
    assert!(log.contains("Aborting journal") && log.contains("Remounting filesystem read-only"), "{log}");
    ran.must_replay();
}

#[test]
fn a_torn_write_shows_by_sectors_blocks_and_bytes_and_only_from_the_disk() {
    let _guard = one_at_a_time();
    as_expected("torn");
}

#[test]
fn wrong_bytes_stay_the_same_however_often_they_are_read_until_they_are_written_anew() {
    let _guard = one_at_a_time();
    let ran = as_expected("corrupt");
    let reads = ran.digests("f");
    assert_eq!((&reads[0], &reads[2]), (&reads[1], &reads[3]), "another damage on reading again");
    assert_ne!(reads[0], reads[2], "two rules do the same damage");
}

#[test]
fn data_that_went_astray_is_missing_in_one_place_and_shows_in_another() {
    let _guard = one_at_a_time();
    as_expected("misdirect");
}

#[test]
fn the_past_comes_back_and_a_lost_write_does_not() {
    let _guard = one_at_a_time();
    as_expected("stale-and-lost");
}

#[test]
fn a_stuck_request_ends_late_and_nothing_else_changes() {
    let _guard = one_at_a_time();
    let ran = as_expected("hold");
    let waited_us = |index: usize| ran.lines("ops.jsonl")[index]["result"]["elapsed_us"].as_u64();
    assert!(waited_us(10) >= Some(300_000), "the fsync did not wait for the held write");
    assert!(waited_us(12) >= Some(300_000), "the read was not held");
}

#[test]
fn bad_sectors_stay_bad_until_they_are_healed() {
    let _guard = one_at_a_time();
    as_expected("sticky");
}

#[test]
fn states_and_events_change_what_the_disk_does() {
    let _guard = one_at_a_time();
    as_expected("states-and-events");
}

#[test]
fn a_refused_flush_is_told_once() {
    let _guard = one_at_a_time();
    comes_out("flush-errors", "allowed");
}

#[test]
fn a_refused_discard_ends_fstrim_and_one_that_is_not_supported_counts_as_done() {
    let _guard = one_at_a_time();
    let ran = as_expected("discard");
    let ops = ran.lines("ops.jsonl");
    let trimmed_bytes = |index: usize| ops[index]["result"]["returned"].as_i64().expect("a number");
    assert_eq!(trimmed_bytes(4), 0);
    assert!(trimmed_bytes(5) > 32 << 20, "most of the disk is free");
}

#[test]
fn lost_zeroes_show_the_disks_past_and_unsupported_ones_are_written_as_data() {
    let _guard = one_at_a_time();
    as_expected("write-zeroes");
}

#[test]
fn part_of_a_request_moves_with_each_status_and_linux_looks_at_the_status_alone() {
    let _guard = one_at_a_time();
    let ran = as_expected("partial-kinds");
    let used: Vec<u64> = ran
        .lines("device.jsonl")
        .iter()
        .filter(|line| line["ev"] == "complete" && line["fired"] == true)
        .map(|line| line["used_len"].as_u64().expect("a number"))
        .collect();
    // A read writes its data and the status byte; a write the status byte alone.
    assert_eq!(used, [701, 65_537, 32_769, 1, 1, 1, 1]);
}

#[test]
fn a_checksum_of_metadata_notices_one_wrong_bit() {
    let _guard = one_at_a_time();
    as_expected("metadata-checksum");
}

#[test]
fn a_journal_dies_with_its_disk_and_is_replayed_when_it_works_again() {
    let _guard = one_at_a_time();
    let ran = as_expected("journal-dies");
    assert_eq!(ran.verdict["oracles"]["lockstep"], "not_applicable");
}

#[test]
fn an_error_that_sync_file_range_or_msync_has_told_is_not_owed_again() {
    let _guard = one_at_a_time();
    as_expected("sync-file-range");
}

#[test]
fn an_error_goes_with_its_inode_and_the_next_mount_does_not_know_of_it() {
    let _guard = one_at_a_time();
    let ran = as_expected("forgotten-error");
    let silent = ran.verdict["findings"].as_array().expect("a list").iter().filter(|is| is["id"] == "error-forgotten");
    assert_eq!(silent.map(|is| is["op"].as_u64()).collect::<Vec<_>>(), [Some(14)], "one fsync, of the file that lives");
}

#[test]
fn a_finding_nobody_expected_fails_the_run() {
    let _guard = one_at_a_time();
    let ran = run("stale-after-error-unexpected", &[]);
    ran.must_be(1, "same");
    assert_eq!(ran.verdict["as_expected"], false);
    ran.must_replay();
}

#[test]
fn a_script_that_never_fires_is_not_judged() {
    let _guard = one_at_a_time();
    run("never-fires", &[]).must_be(3, "unjudged");
}

#[test]
fn a_planted_mistake_is_found_at_its_place() {
    let _guard = one_at_a_time();
    let ran = run("clean-interleaved", &["--canary", "convert_one_block_less"]);
    ran.must_be(1, "different");
    let difference = &ran.verdict["first_difference"];
    assert_eq!(difference["guest"]["ev"], "convert_unwritten", "{difference:#}");
    assert_eq!(difference["replica"]["ev"], "convert_unwritten", "{difference:#}");
    ran.must_replay();
}
