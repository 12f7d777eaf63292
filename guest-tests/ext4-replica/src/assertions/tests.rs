//! Each invariant has an account that keeps it and one that breaks it, and it alone.

use super::*;
use writeback_events::TaskId;

const A: IoEndId = IoEndId(1);
const B: IoEndId = IoEndId(2);
const INO: Ino = Ino(12);

fn init(io_end: IoEndId) -> Response {
    Response::InitIoEnd { io_end, ino: INO, count: 1, unwritten: false }
}

fn get(io_end: IoEndId, bio: u32, count: u32) -> Response {
    Response::GetIoEnd { io_end, bio: BioId(bio), count, unwritten: true }
}

fn end(io_end: IoEndId, bio: u32) -> Response {
    Response::EndBio { bio: BioId(bio), io_end, error: 0 }
}

fn put(io_end: IoEndId, count: u32) -> Response {
    Response::PutIoEnd { io_end, count, unwritten: true }
}

fn put_defer(io_end: IoEndId, count: u32) -> Response {
    Response::PutIoEndDefer { io_end, count, unwritten: true }
}

fn queue(io_end: IoEndId, queued: bool) -> Response {
    Response::AddCompleteIo { io_end, queued }
}

fn convert(io_end: IoEndId, offset: u64) -> Response {
    Response::ConvertUnwritten { ino: INO, io_end, offset, size: 4096 }
}

fn release(io_end: IoEndId) -> Response {
    Response::ReleaseIoEnd { io_end, unwritten: false }
}

/// An io_end with one bio that the worker converts.
fn life(io_end: IoEndId, bio: u32) -> Vec<Response> {
    vec![init(io_end), get(io_end, bio, 2), put(io_end, 1), end(io_end, bio), put_defer(io_end, 0)]
}

fn worker() -> Stimulus {
    Stimulus::WorkerStarts { task: TaskId(9), ino: INO }
}

/// What is violated on 6.1; `None` stands for the start of a worker.
fn broken(account: impl IntoIterator<Item = Option<Response>>) -> Vec<Invariant> {
    broken_in("v6_1", account)
}

fn broken_in(dialect: &str, account: impl IntoIterator<Item = Option<Response>>) -> Vec<Invariant> {
    let mut assertions = Assertions::new(1, &Dialect::by_name(dialect).expect("there is one"));
    for event in account {
        match event {
            Some(response) => assertions.response(&response),
            None => assertions.stimulus(&worker()),
        }
    }
    assertions.violations().iter().map(|violation| violation.invariant).collect()
}

fn with(before: Vec<Response>, after: Vec<Response>) -> Vec<Option<Response>> {
    before.into_iter().chain(after).map(Some).collect()
}

/// The whole life of two io_ends, as it should be.
fn good() -> Vec<Option<Response>> {
    let mut account = with(life(A, 1), vec![queue(A, true)]);
    account.extend(with(life(B, 2), vec![queue(B, false)]));
    account.push(None);
    account.extend(with(vec![convert(A, 0), release(A)], vec![convert(B, 0), release(B)]));
    account
}

#[test]
fn a_sound_account_violates_nothing() {
    assert_eq!(broken(good()), []);
}

#[test]
fn i1_counts_what_is_held() {
    assert_eq!(broken(with(vec![init(A)], vec![get(A, 1, 3)])), [Invariant::I1]);
    assert_eq!(broken(with(vec![init(A)], vec![end(A, 1)])), [Invariant::I1]);
}

#[test]
fn i1_is_no_witness_on_several_cpus() {
    let mut assertions = Assertions::new(2, &Dialect::V6_1);
    [init(A), get(A, 1, 3)].iter().for_each(|response| assertions.response(response));
    assert_eq!(assertions.violations(), []);
}

#[test]
fn i2_holds_that_no_reference_is_taken_from_zero() {
    assert_eq!(broken(with(life(A, 1), vec![get(A, 2, 1)])), [Invariant::I2]);
}

#[test]
fn i3_holds_that_the_last_put_is_the_last() {
    assert!(broken(with(life(A, 1), vec![put_defer(A, u32::MAX)])).contains(&Invariant::I3));
    assert!(broken(with(vec![init(A), get(A, 1, 2)], vec![release(A)])).contains(&Invariant::I3));
    assert_eq!(broken(with(vec![init(A)], vec![init(A)])), [Invariant::I3]);
}

#[test]
fn i4_wants_one_conversion_after_the_last_put_and_before_the_release() {
    let queued = || with(life(A, 1), vec![queue(A, true)]);
    let then = |after: Vec<Response>| queued().into_iter().chain([None]).chain(after.into_iter().map(Some));
    assert_eq!(broken(then(vec![convert(A, 0), convert(A, 0), release(A)])), [Invariant::I4]);
    assert_eq!(broken(then(vec![convert(A, 0), convert(A, 4096), release(A)])), []);
    assert!(broken(then(vec![release(A)])).contains(&Invariant::I4));
    assert!(broken(with(vec![init(A), get(A, 1, 2)], vec![convert(A, 0)])).contains(&Invariant::I4));
    let written = vec![init(A), Response::PutIoEnd { io_end: A, count: 0, unwritten: false }];
    assert!(broken(with(written, vec![convert(A, 0), release(A)])).contains(&Invariant::I4));
}

#[test]
fn i5_queues_exactly_what_a_deferred_last_put_leaves_unwritten() {
    assert_eq!(broken(with(vec![init(A), put(A, 0)], vec![queue(A, true)])), [Invariant::I5]);
    assert!(broken(with(life(A, 1), vec![convert(A, 0), release(A)])).contains(&Invariant::I5));
}

#[test]
fn i6_releases_once_off_the_list_and_converted() {
    let unwritten = Response::ReleaseIoEnd { io_end: A, unwritten: true };
    assert_eq!(broken(with(vec![init(A), put(A, 0)], vec![convert(A, 0), unwritten])), [Invariant::I6]);
    assert_eq!(broken(good().into_iter().chain([Some(release(A))])), [Invariant::I6]);
    let on_list = with(life(A, 1), vec![queue(A, true), release(A)]);
    assert!(broken(on_list).contains(&Invariant::I6));
}

#[test]
fn i8_queues_the_work_when_the_list_was_empty_and_only_then() {
    assert_eq!(broken(with(life(A, 1), vec![queue(A, false)])), [Invariant::I8]);
    let mut second = with(life(A, 1), vec![queue(A, true)]);
    second.extend(with(life(B, 2), vec![queue(B, true)]));
    assert_eq!(broken(second), [Invariant::I8]);
}

#[test]
fn i8_does_not_guess_while_a_worker_takes_the_list() {
    for queued in [false, true] {
        let mut account = with(life(A, 1), vec![queue(A, true)]);
        account.push(None);
        account.extend(with(life(B, 2), vec![queue(B, queued), convert(A, 0)]));
        assert_eq!(broken(account), []);
    }
}

#[test]
fn i8_does_not_guess_which_round_took_what_came_while_a_worker_took_the_list() {
    let (c, d) = (IoEndId(7), IoEndId(8));
    let until_c = |queued| {
        let mut account = with(life(A, 1), vec![queue(A, true)]);
        account.push(None);
        account.extend(with(life(B, 2), vec![queue(B, false), convert(A, 0)]));
        account.extend(with(life(c, 3), vec![queue(c, queued)]));
        account
    };
    for queued in [false, true] {
        assert_eq!(broken(until_c(queued)), []);
        let mut then = until_c(queued);
        then.extend(with(life(d, 4), vec![queue(d, true)]));
        assert_eq!(broken(then), [Invariant::I8], "the next is certain again: the list holds one at least");
    }
    // B was taken with A, so C finds an empty list.
    let mut account = with(life(A, 1), vec![queue(A, true)]);
    account.push(None);
    account.extend(with(life(B, 2), vec![queue(B, false), convert(A, 0), release(A), convert(B, 0)]));
    account.extend(with(life(c, 3), vec![queue(c, false)]));
    assert_eq!(broken(account), [Invariant::I8]);
}

#[test]
fn i11_ends_writeback_as_often_as_it_began() {
    let ended = Response::EndPageWriteback { ino: INO, page: 3 };
    let handed = Stimulus::FolioSubmitted { task: TaskId(1), ino: INO, index: 3, order: 0 };
    let mut assertions = Assertions::new(1, &Dialect::V6_1);
    assertions.stimulus(&handed);
    assertions.response(&ended);
    assert_eq!(assertions.violations(), []);
    assertions.response(&ended);
    assertions.stimulus(&handed);
    assertions.stimulus(&handed);
    let violated: Vec<_> = assertions.violations().iter().map(|violation| violation.invariant).collect();
    assert_eq!(violated, [Invariant::I11, Invariant::I11]);
}

#[test]
fn i15_takes_first_in_first_out() {
    let mut account = with(life(A, 1), vec![queue(A, true)]);
    account.extend(with(life(B, 2), vec![queue(B, false)]));
    account.push(None);
    account.extend(with(vec![convert(B, 0), release(B)], vec![convert(A, 0), release(A)]));
    assert_eq!(broken(account), [Invariant::I15]);
}

/// `life`, but its bio fails.
fn failed_life(io_end: IoEndId, bio: u32) -> Vec<Response> {
    let mut life = life(io_end, bio);
    life[3] = Response::EndBio { bio: BioId(bio), io_end, error: -5 };
    life
}

#[test]
fn a_failed_io_end_may_go_unconverted_where_the_kernel_keeps_it_unwritten() {
    let mut account = with(failed_life(A, 1), vec![queue(A, true)]);
    account.extend([None, Some(release(A))]);
    assert_eq!(broken_in("v6_12", account.clone()), []);
    assert_eq!(broken_in("v6_1", account), [Invariant::I6, Invariant::I4]);
}

/// The bio ends in `submit_bio`, so that the submitter drops the last reference.
#[test]
fn a_failed_io_end_whose_submitter_drops_it_last_goes_unconverted_in_7_2_alone() {
    let failed = Response::EndBio { bio: BioId(1), io_end: A, error: -5 };
    let account = || [init(A), get(A, 1, 2), failed.clone(), put_defer(A, 1), put(A, 0), release(A)].map(Some);
    assert_eq!(broken_in("v7_2", account()), []);
    assert_eq!(broken_in("v6_12", account()), [Invariant::I4]);
    let sound = account().map(|event| if event.as_ref() == Some(&failed) { Some(end(A, 1)) } else { event });
    assert_eq!(broken_in("v7_2", sound), [Invariant::I4]);
}

#[test]
fn a_sound_io_end_may_not_go_unconverted_anywhere() {
    let mut account = with(life(A, 1), vec![queue(A, true)]);
    account.extend([None, Some(release(A))]);
    assert_eq!(broken_in("v6_12", account), [Invariant::I6, Invariant::I4]);
}

#[test]
fn a_failed_io_end_keeps_its_turn_in_the_list() {
    let mut account = with(life(A, 1), vec![queue(A, true)]);
    account.extend(with(failed_life(B, 2), vec![queue(B, false)]));
    account.extend([None, Some(release(B)), Some(convert(A, 0)), Some(release(A))]);
    assert_eq!(broken_in("v6_12", account), [Invariant::I15]);
}
