//! Committed recordings of real guests: judged again with no VM they give the same verdict byte for byte, and what is
//! flipped in them is noticed.

use ext4_replica::{Dialect, Setup};
use guest_tests::device_record;
use guest_tests::differ::{Case, Exceptions, flip_test};
use guest_tests::folder::{self, RunFolder};
use guest_tests::judge::{self, Recorded};
use std::path::{Path, PathBuf};
use writeback_events::{Body, Entry, Response};

fn recordings() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let entries = std::fs::read_dir(dir).expect("the recordings are in the tree");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.sort();
    assert!(folders.len() >= 10, "{folders:?}");
    folders
}

fn read(path: &Path) -> (RunFolder, Recorded) {
    let folder = RunFolder::open(path).unwrap_or_else(|failure| panic!("{failure}"));
    let recorded = judge::read(&folder).unwrap_or_else(|failure| panic!("{failure}"));
    (folder, recorded)
}

#[test]
fn every_recording_is_judged_as_it_was_byte_for_byte() {
    for path in recordings() {
        let (folder, recorded) = read(&path);
        let judged = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}"));
        let before = folder.read_text(folder::VERDICT).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(judged.verdict.to_json(), before, "{}", path.display());
        assert_eq!(judged.verdict.exit_code, 0, "{}", path.display());
    }
}

#[test]
fn a_trace_that_was_cut_off_is_never_judged_the_same() {
    for path in recordings() {
        let (folder, mut recorded) = read(&path);
        let raw = folder.read(folder::GUEST_RAW).unwrap_or_else(|failure| panic!("{failure}"));
        for end in [raw.len() / 2, raw.len() - 7, raw.len() - 1] {
            recorded.trace = kernel_trace::decode(&raw[..end]).map_err(|error| error.to_string());
            let judged = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(judged.verdict.exit_code, 3, "cut at {end} of {}: {}", raw.len(), judged.verdict.why);
        }
    }
}

#[test]
fn a_device_record_that_was_cut_off_is_never_judged_the_same() {
    for path in recordings() {
        let (folder, mut recorded) = read(&path);
        let text = folder.read_text(folder::DEVICE).unwrap_or_else(|failure| panic!("{failure}"));
        let lines: Vec<&str> = text.lines().collect();
        recorded.device = device_record::read(&lines[..lines.len() - 1].join("\n"));
        let judged = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(judged.verdict.exit_code, 3, "{}", judged.verdict.why);
    }
}

/// A guest of each series that runs here, in the dialect of its own series: no other one would do.
#[test]
fn there_is_a_recording_of_every_series() {
    let verdicts: Vec<_> =
        recordings().iter().map(|path| judge::judge(&read(path).1).expect("judged").verdict).collect();
    for dialect in ["v5_10", "v6_1", "v6_12", "v7_2"] {
        assert!(
            verdicts.iter().any(|verdict| verdict.dialect == dialect && verdict.dialect_exact),
            "none in {dialect}"
        );
    }
}

/// A kernel that behaves otherwise than its table's dialect must come out different: here each guest is held against the
/// wrong side of the fix for failed writes.
#[test]
fn a_guest_followed_in_a_dialect_with_one_switch_thrown_is_different() {
    let mut thrown = 0;
    for path in recordings().iter().filter(|path| path.to_string_lossy().contains("data-err-abort")) {
        let (_folder, mut recorded) = read(path);
        let own = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}")).verdict.dialect;
        let other = if own == "v5_10" { "no" } else { "yes" };
        recorded.host.dialect = Some(format!("{own},convert_after_error={other}"));
        let verdict = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}")).verdict;
        assert_eq!(verdict.verdict.to_string(), "different", "{}: {}", path.display(), verdict.why);
        thrown += 1;
    }
    assert_eq!(thrown, 3);
}

/// One folio ends like a thousand others: of those, some are picked.
fn picked(entry: &Entry) -> bool {
    match entry.body {
        Body::Response(Response::EndPageWriteback { page, .. }) => page % 101 == 0,
        _ => true,
    }
}

#[test]
fn a_flipped_response_of_a_real_guest_is_noticed() {
    for path in recordings() {
        let (_folder, recorded) = read(&path);
        let verdict = judge::judge(&recorded).unwrap_or_else(|failure| panic!("{failure}")).verdict;
        let dialect = Dialect::parse(&verdict.dialect).expect("it was judged in it");
        let trace = recorded.trace.as_ref().expect("it was decoded before");
        let device = recorded.device.as_ref().expect("it was read before");
        let decisions = recorded.decisions.as_ref().expect("they were read before");
        let requests = device_record::all_for_differ(device, Some(decisions), false);
        let resized = device_record::resized(device, &recorded.ops);
        let case = Case {
            entries: &trace.entries,
            device: &requests,
            resized: &resized,
            queues: device.queues,
            cpus: trace.header.vcpus,
            setup: Setup { cpus: trace.header.vcpus, ..judge::setup(&recorded.scenario, dialect, None) },
            exceptions: &Exceptions::built_in(),
        };
        let test = flip_test(&case, picked).expect("trace and record belong together");
        assert!(test.tried > 50, "{} flips of {}", test.tried, path.display());
        assert_eq!(test.unnoticed, [""; 0], "{}: of {} flips", path.display(), test.tried);
    }
}
