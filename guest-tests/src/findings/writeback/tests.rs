//! Small traces written by hand, each with one thing wrong or right.

use super::*;

const INO: Ino = Ino(12);
const T: TaskId = TaskId(1);
const WORKER: TaskId = TaskId(9);
const E: IoEndId = IoEndId(1);
const REMOUNT: OpId = OpId(9);

fn entries(bodies: Vec<(TaskId, Body)>) -> Vec<Entry> {
    let entry = |(seq, (task, body))| Entry { seq, cpu: 0, task, interrupt: false, body };
    (1..).zip(bodies).map(entry).collect()
}

fn st(stimulus: Stimulus) -> (TaskId, Body) {
    (T, Body::Stimulus(stimulus))
}

fn re(response: Response) -> (TaskId, Body) {
    (T, Body::Response(response))
}

fn begins(op: u32) -> (TaskId, Body) {
    st(Stimulus::OpBegins { task: T, op: OpId(op), kind: OpKind::Fsync { ino: INO } })
}

fn remounts() -> (TaskId, Body) {
    st(Stimulus::OpBegins { task: T, op: REMOUNT, kind: OpKind::Other })
}

fn result(op: u32, errno: Errno) -> (TaskId, Body) {
    re(Response::OpResult { op: OpId(op), errno })
}

/// An io_end over an unwritten extent of 512 blocks with two bios of 1 MiB, one request each.
fn two_bios() -> Vec<(TaskId, Body)> {
    let mut bodies = vec![
        re(Response::InitIoEnd { io_end: E, ino: INO, count: 1, unwritten: false }),
        st(Stimulus::ExtentMapped { task: T, ino: INO, lblk: 100, pblk: 4096, len: 512, unwritten: true }),
    ];
    for (id, sector) in [(1, 32768), (2, 34816)] {
        let bio = BioId(id);
        bodies.push(re(Response::SubmitBio { bio, io_end: E, sector, bytes: 1 << 20 }));
        let request = RequestId(u64::from(id));
        bodies.push(st(Stimulus::RequestIssued { request, op: BlockOp::Write, sector, sectors: 2048 }));
    }
    bodies
}

fn answered(request: u64) -> (TaskId, Body) {
    (T, Body::Answered { request: RequestId(request) })
}

fn end_bio(bio: u32, error: Errno) -> (TaskId, Body) {
    re(Response::EndBio { bio: BioId(bio), io_end: E, error })
}

fn conversion(errno: Errno) -> Vec<(TaskId, Body)> {
    let convert = Response::ConvertUnwritten { ino: INO, io_end: E, offset: 100 * 4096, size: 512 * 4096 };
    vec![
        (WORKER, Body::Response(convert)),
        (WORKER, Body::Stimulus(Stimulus::ConversionResult { task: WORKER, errno })),
    ]
}

fn found(bodies: Vec<(TaskId, Body)>, refused: &[u64]) -> Vec<Finding> {
    let status = |id: u64| if refused.contains(&id) { RequestStatus::Ioerr } else { RequestStatus::Ok };
    let statuses = (1..=2).map(|id| (RequestId(id), status(id))).collect();
    let remounts = BTreeSet::from([REMOUNT]);
    find(&Writeback { guest: &entries(bodies), statuses: &statuses, block_bytes: 4096, remounts: &remounts })
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn a_range_converted_although_its_bio_failed_is_found_with_its_place_in_the_file() {
    let mut bodies = two_bios();
    bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5)]);
    bodies.extend(conversion(0));
    let found = found(bodies, &[2]);
    assert_eq!(ids(&found), [CONVERTED_AFTER_FAILED_WRITE]);
    assert_eq!((found[0].io_end, found[0].ino), (Some(1), Some(12)));
    assert_eq!((found[0].offset, found[0].bytes), (Some((100 + 256) * 4096), Some(1 << 20)));
}

#[test]
fn neither_a_good_bio_nor_a_failed_conversion_is_a_finding() {
    for (error, errno) in [(0, 0), (-5, -5)] {
        let mut bodies = two_bios();
        bodies.extend([end_bio(1, 0), end_bio(2, error)]);
        bodies.extend(conversion(errno));
        assert_eq!(ids(&found(bodies, &[])), [""; 0], "bio {error}, conversion {errno}");
    }
}

#[test]
fn a_conversion_of_another_part_of_the_file_is_no_finding() {
    let mut bodies = two_bios();
    bodies.extend([end_bio(1, 0), end_bio(2, -5)]);
    let convert = Response::ConvertUnwritten { ino: INO, io_end: E, offset: 100 * 4096, size: 256 * 4096 };
    bodies.push((WORKER, Body::Response(convert)));
    bodies.push((WORKER, Body::Stimulus(Stimulus::ConversionResult { task: WORKER, errno: 0 })));
    assert_eq!(ids(&found(bodies, &[2])), [""; 0]);
}

#[test]
fn an_error_that_the_fsync_under_way_and_the_next_one_keep_silent_about_is_found_once() {
    let mut bodies = vec![begins(3)];
    bodies.extend(two_bios());
    bodies.extend([answered(1), end_bio(1, -5), answered(2), end_bio(2, -5), result(3, 0), begins(4), result(4, 0)]);
    let found = found(bodies, &[1, 2]);
    assert_eq!(ids(&found), [ERROR_NOT_REPORTED]);
    assert_eq!(found[0].op, Some(4));
}

#[test]
fn an_error_that_fsync_reports_is_reported_and_the_next_may_return_0() {
    let mut bodies = vec![begins(3)];
    bodies.extend(two_bios());
    bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5), result(3, -5), begins(4), result(4, 0)]);
    assert_eq!(ids(&found(bodies, &[2])), [""; 0]);
}

#[test]
fn of_two_writers_fsyncs_at_once_either_may_report_and_one_must() {
    for (first, second, expected) in [(0, -5, &[][..]), (-5, 0, &[]), (0, 0, &[ERROR_NOT_REPORTED])] {
        let mut bodies = two_bios();
        bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5), begins(3), begins(4)]);
        bodies.extend([result(4, second), result(3, first), begins(5), result(5, 0)]);
        assert_eq!(ids(&found(bodies, &[2])), expected, "{first} {second}");
    }
}

#[test]
fn an_error_in_the_background_is_owed_to_the_next_fsync_even_if_the_guest_saw_none() {
    let mut bodies = two_bios();
    bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, 0), begins(4), result(4, 0)]);
    assert_eq!(ids(&found(bodies, &[2])), [ERROR_NOT_REPORTED]);
}

#[test]
fn an_error_that_nobody_was_told_of_before_or_at_an_unmount_is_forgotten_by_the_next_mount() {
    let silent = || [begins(4), result(4, 0)];
    let failed = || [answered(1), end_bio(1, 0), answered(2), end_bio(2, -5)];
    let during = [two_bios(), vec![remounts()], failed().into(), silent().into()].concat();
    let before = [two_bios(), failed().into(), vec![remounts()], silent().into()].concat();
    let owed = [two_bios(), failed().into(), silent().into(), vec![remounts(), begins(5), result(5, 0)]].concat();
    let after = [vec![remounts(), begins(3), result(3, 0)], two_bios(), failed().into(), silent().into()].concat();
    let told = [two_bios(), failed().into(), vec![begins(4), result(4, -5), remounts()], silent().into()].concat();
    for (bodies, expected) in [
        (during, &[ERROR_FORGOTTEN][..]),
        (before, &[ERROR_FORGOTTEN]),
        (owed, &[ERROR_NOT_REPORTED]),
        (after, &[ERROR_NOT_REPORTED]),
        (told, &[]),
    ] {
        assert_eq!(ids(&found(bodies, &[2])), expected);
    }
}

#[test]
fn without_a_later_fsync_nothing_is_owed() {
    let mut bodies = vec![begins(3), result(3, 0)];
    bodies.extend(two_bios());
    bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5)]);
    assert_eq!(ids(&found(bodies, &[2])), [""; 0]);
}

#[test]
fn a_request_that_carries_no_file_data_owes_nothing() {
    let request = RequestId(1);
    let issue = st(Stimulus::RequestIssued { request, op: BlockOp::Write, sector: 2048, sectors: 8 });
    let bodies = vec![issue, answered(1), begins(4), result(4, 0)];
    assert_eq!(ids(&found(bodies, &[1])), [""; 0]);
}

#[test]
fn another_file_with_the_number_of_a_deleted_one_owes_nothing() {
    let evicted = |deleted| st(Stimulus::InodeEvicted { ino: INO, deleted });
    for (deleted, expected) in [(true, &[][..]), (false, &[ERROR_NOT_REPORTED])] {
        let mut bodies = two_bios();
        bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5), evicted(deleted)]);
        bodies.extend([begins(4), result(4, 0)]);
        assert_eq!(ids(&found(bodies, &[2])), expected, "deleted: {deleted}");
    }
}

#[test]
fn what_a_file_owed_before_it_was_deleted_is_found_all_the_same() {
    let mut bodies = two_bios();
    bodies.extend([answered(1), end_bio(1, 0), answered(2), end_bio(2, -5), begins(4), result(4, 0)]);
    bodies.push(st(Stimulus::InodeEvicted { ino: INO, deleted: true }));
    assert_eq!(ids(&found(bodies, &[2])), [ERROR_NOT_REPORTED]);
}
