//! What a judge must agree with (real traces), what it must notice (flips, planted mistakes), and what it must not decide.

#[path = "../../ext4-replica/tests/story/mod.rs"]
mod story;

use super::*;
use crate::verdict::Outcome;
use ext4_replica::{Dialect, Mutation, Setup};
use writeback_events::{Body, RequestStatus, Response, Stimulus};

const CLEAN: &str = include_str!("testdata/clean-6.1.txt");
pub(crate) const ONE_WRITE_FAILS: &str = include_str!("testdata/one-write-fails-6.1.txt");
const ALL_PARTS: &str = include_str!("testdata/all-parts.txt");

/// A guest's trace and the device's record.
#[derive(Clone)]
pub(crate) struct Recording {
    pub(crate) entries: Vec<Entry>,
    pub(crate) device: Vec<DeviceRequest>,
}

impl Recording {
    /// A story; its `answer` lines are what the device recorded.
    pub(crate) fn of(text: &str) -> Recording {
        let mut entries = story::parse(text);
        let mut device: Vec<(RequestId, DeviceRequest)> = Vec::new();
        for entry in &mut entries {
            match entry.body {
                Body::Stimulus(Stimulus::RequestIssued { request, op, sector, sectors }) => {
                    device
                        .push((request, DeviceRequest { session: 1, op, sector, sectors, status: None, untrue: None }));
                }
                Body::Stimulus(Stimulus::RequestRequeued { request }) => {
                    let last = device.iter().rposition(|(asked, _)| *asked == request).expect("it was issued");
                    device.remove(last);
                }
                Body::Stimulus(Stimulus::RequestAnswered { request, status }) => {
                    let asked = device.iter_mut().rfind(|(asked, _)| *asked == request).expect("it was issued");
                    asked.1.status = Some(status);
                    entry.body = Body::Answered { request };
                }
                _ => {}
            }
        }
        Recording { entries, device: device.into_iter().map(|(_, request)| request).collect() }
    }

    /// A story without responses, of a guest that does what the replica says.
    fn agreeing(text: &str) -> Recording {
        let told = Recording::of(text);
        let joined = join(&told.entries, &told.device, 1).expect("the story is whole");
        let followed = follow(&setup(None), &joined);
        assert_eq!(followed.misfits, []);
        let mut responses = followed.responses.into_iter().peekable();
        let mut entries = Vec::new();
        for entry in told.entries {
            let seq = entry.seq;
            entries.push(entry.clone());
            while let Some(caused) = responses.next_if(|caused| caused.seq == seq) {
                entries.push(Entry { body: Body::Response(caused.response), ..entry.clone() });
            }
        }
        Recording { entries, device: told.device }
    }

    pub(crate) fn judge_with(&self, setup: Setup, exceptions: &Exceptions) -> Judgement {
        let Recording { entries, device } = self;
        judge(&Case { entries, device, resized: &[], queues: 1, cpus: 1, setup, exceptions })
    }

    fn judge(&self) -> Judgement {
        self.judge_with(setup(None), &Exceptions::default())
    }
}

pub(crate) fn setup(mutation: Option<Mutation>) -> Setup {
    Setup { mutation, ..Setup::new(Dialect::V6_1) }
}

fn ev(response: &Response) -> String {
    serde_json::to_value(response).expect("plain")["ev"].as_str().expect("a name").to_owned()
}

#[test]
fn a_real_clean_trace_of_6_1_is_the_same_and_says_how_much_was_compared() {
    let judgement = Recording::of(CLEAN).judge();
    assert_eq!((judgement.verdict, &judgement.first_difference), (Outcome::Same, &None), "{}", judgement.why);
    let Compared { io_ends, bios, requests, responses, .. } = judgement.compared;
    assert_eq!((io_ends, bios, requests), (12, 28, 98));
    assert!(responses > 1056, "{responses}");
}

#[test]
fn a_real_trace_of_6_1_with_a_failed_write_is_the_same_down_to_fsync() {
    let judgement = Recording::of(ONE_WRITE_FAILS).judge();
    assert_eq!((judgement.verdict, &judgement.first_difference), (Outcome::Same, &None), "{}", judgement.why);
    let failed = judgement.replica.iter().filter(|(_, response)| {
        matches!(response, Response::OpResult { errno: -5, .. } | Response::EndBio { error: -5, .. })
    });
    assert_eq!(failed.count(), 2, "one bio and one fsync");
}

#[test]
fn the_same_recording_is_judged_the_same_twice() {
    let judge = || serde_json::to_string(&Recording::of(ONE_WRITE_FAILS).judge()).expect("plain");
    assert_eq!(judge(), judge());
}

#[test]
fn nothing_is_not_a_pass() {
    let nothing = Recording { entries: Vec::new(), device: Vec::new() };
    assert_eq!(nothing.judge().verdict, Outcome::Unjudged);
    let no_writeback =
        Recording::of("t1 issue 1 r 0 8\nirq answer 1 ok\nirq > {\"ev\":\"request_error\",\"request\":1,\"errno\":0}");
    let judgement = no_writeback.judge();
    assert_eq!((judgement.verdict, judgement.compared.requests), (Outcome::Unjudged, 1));
}

#[test]
fn a_trace_and_a_record_that_do_not_go_together_are_not_judged() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    recording.device.remove(3);
    let judgement = recording.judge();
    assert_eq!(judgement.verdict, Outcome::Unjudged, "{}", judgement.why);
    assert!(judgement.why.contains("never reached the device"), "{}", judgement.why);
}

#[test]
fn a_lost_response_is_different_and_names_its_place() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    let lost = |entry: &Entry| matches!(entry.body, Body::Response(Response::ConvertUnwritten { .. }));
    let place = recording.entries.iter().position(lost).expect("6.1 converts after an error");
    recording.entries.remove(place);
    let judgement = recording.judge();
    let difference = judgement.first_difference.expect("a conversion is missing");
    assert_eq!((judgement.verdict, difference.io_end), (Outcome::Different, Some(IoEndId(2))));
    assert!(matches!(difference.replica, Some(Response::ConvertUnwritten { .. })), "{difference:?}");
}

/// Planted mistakes, and where a judge that looks must say the two part first: the replica's response, or the
/// guest's where the replica has none.
const PLANTED: &[(Mutation, &str)] = &[
    (Mutation::SkipDeferredPut, "put_io_end_defer"),
    (Mutation::GetNotCounted, "get_io_end"),
    (Mutation::ReleaseWithoutConvert, "add_complete_io"),
    (Mutation::ReleaseBeforeConvert, "release_io_end"),
    (Mutation::ConvertOneBlockLess, "convert_unwritten"),
    (Mutation::ConvertTwice, "convert_unwritten"),
    (Mutation::NoConvertAfterError, "convert_unwritten"),
    (Mutation::UnwrittenFlagLost, "get_io_end"),
    (Mutation::WorkNotQueued, "add_complete_io"),
    (Mutation::WorkerTakesLastFirst, "convert_unwritten"),
    (Mutation::MappingErrorDropped, "op_result"),
    (Mutation::BioErrorDropped, "end_bio"),
    (Mutation::FoliosEndEarly, "end_page_writeback"),
    (Mutation::FinishFirstBioFirst, "end_page_writeback"),
    (Mutation::FolioEndsTwice, "end_page_writeback"),
    (Mutation::EmptyFolioStays, "end_page_writeback"),
    (Mutation::BornWithTwo, "init_io_end"),
    (Mutation::BioEndsWithFirstRequest, "end_bio"),
];

#[test]
fn a_planted_mistake_comes_out_different_at_its_place() {
    let recording = Recording::agreeing(ALL_PARTS);
    assert_eq!(recording.judge().verdict, Outcome::Same);
    for (mutation, place) in PLANTED {
        let judgement = recording.judge_with(setup(Some(*mutation)), &Exceptions::default());
        assert_eq!(judgement.verdict, Outcome::Different, "{}", mutation.name());
        let difference = judgement.first_difference.expect("it says where");
        let sides = [&difference.guest, &difference.replica].into_iter().flatten();
        let parts: Vec<_> = sides.map(ev).collect();
        assert!(parts.iter().any(|part| part == place), "{} parts at {difference:?}", mutation.name());
    }
}

#[test]
fn the_canary_is_noticed_in_a_real_trace() {
    let recording = Recording::of(ONE_WRITE_FAILS);
    for mutation in [Mutation::SkipDeferredPut, Mutation::NoConvertAfterError, Mutation::FinishFirstBioFirst] {
        let judgement = recording.judge_with(setup(Some(mutation)), &Exceptions::default());
        assert_eq!(judgement.verdict, Outcome::Different, "{}", mutation.name());
    }
}

/// Flips a recording that agrees.
fn flipped(recording: &Recording, picks: impl Fn(&Entry) -> bool) -> FlipTest {
    assert_eq!(recording.judge().verdict, Outcome::Same, "before anything is flipped");
    let Recording { entries, device } = recording;
    let exceptions = Exceptions::default();
    let case = Case { entries, device, resized: &[], queues: 1, cpus: 1, setup: setup(None), exceptions: &exceptions };
    flip_test(&case, picks).expect("the recording is whole")
}

#[test]
fn every_flip_of_a_synthetic_recording_is_noticed() {
    let test = flipped(&Recording::agreeing(ALL_PARTS), |_| true);
    assert!(test.tried > 300, "{}", test.tried);
    assert_eq!(test.unnoticed, Vec::<String>::new(), "of {} flips", test.tried);
}

#[test]
fn every_flip_of_a_real_trace_is_noticed() {
    // Of the thousand folios that leave writeback in turn, every 61st: the others are no different.
    let picks = |entry: &Entry| match &entry.body {
        Body::Response(Response::EndPageWriteback { page, .. }) => page % 61 == 0,
        _ => true,
    };
    let test = flipped(&Recording::of(ONE_WRITE_FAILS), picks);
    assert!(test.tried > 500, "{}", test.tried);
    assert_eq!(test.unnoticed, Vec::<String>::new(), "of {} flips", test.tried);
}

const COUNT_MAY_DIFFER: &str = r#"
    [[exception]]
    id = "racy-count"
    dialects = ["v6_1"]
    response = "put_io_end"
    condition = { differs = "count" }
    reason = "a fixture"
    source = "a fixture"
    recording = "a fixture"
"#;

/// Adds to the count of the first `ext4_put_io_end`.
fn with_another_count(mut recording: Recording) -> Recording {
    let put = recording.entries.iter_mut().find_map(|entry| match &mut entry.body {
        Body::Response(Response::PutIoEnd { count, .. }) => Some(count),
        _ => None,
    });
    *put.expect("the submitter drops its reference") += 1;
    recording
}

#[test]
fn an_exception_allows_its_one_difference_and_no_other() {
    // Counts are checked against the guest's own word too, so only several CPUs make them no witness.
    let recording = with_another_count(Recording::of(ONE_WRITE_FAILS));
    let judge = |exceptions: &str| {
        let exceptions = Exceptions::parse(exceptions).expect("a fixture");
        let Recording { entries, device } = &recording;
        judge(&Case { entries, device, resized: &[], queues: 1, cpus: 2, setup: setup(None), exceptions: &exceptions })
    };
    let allowed = judge(COUNT_MAY_DIFFER);
    assert_eq!(allowed.verdict, Outcome::Allowed, "{}", allowed.why);
    assert_eq!(allowed.allowed.iter().map(|allowed| &allowed.id[..]).collect::<Vec<_>>(), ["racy-count"]);
    assert_eq!(allowed.io_ends[&IoEndId(2)].verdict, Outcome::Allowed);
    assert_eq!(judge("").verdict, Outcome::Different);
    assert_eq!(judge(&COUNT_MAY_DIFFER.replace("\"count\"", "\"unwritten\"")).verdict, Outcome::Different);
    assert_eq!(judge(&COUNT_MAY_DIFFER.replace("put_io_end\"", "get_io_end\"")).verdict, Outcome::Different);
}

#[test]
fn one_side_alone_may_be_allowed_too() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    let last = recording
        .entries
        .iter()
        .position(|entry| matches!(entry.body, Body::Response(Response::EndPageWriteback { page: 255, .. })));
    recording.entries.remove(last.expect("page 255 is the last of its io_end"));
    let only_replica = COUNT_MAY_DIFFER
        .replace("put_io_end", "end_page_writeback")
        .replace("{ differs = \"count\" }", "{ only = \"replica\" }");
    let judgement = recording.judge_with(setup(None), &Exceptions::parse(&only_replica).expect("a fixture"));
    assert_eq!(judgement.verdict, Outcome::Allowed, "{}", judgement.why);
    assert_eq!(recording.judge().verdict, Outcome::Different);
}

#[test]
fn too_many_allowed_responses_are_different_all_the_same() {
    let recording = with_another_count(Recording::agreeing(ALL_PARTS));
    let exceptions = Exceptions::parse(COUNT_MAY_DIFFER).expect("a fixture");
    let Recording { entries, device } = &recording;
    let judgement =
        judge(&Case { entries, device, resized: &[], queues: 1, cpus: 2, setup: setup(None), exceptions: &exceptions });
    assert_eq!(judgement.verdict, Outcome::Different);
    assert!(judgement.why.contains("too many"), "{}", judgement.why);
}

/// Ids of the exceptions that the committed recordings need.
fn exercised() -> std::collections::BTreeSet<String> {
    [CLEAN, ONE_WRITE_FAILS]
        .into_iter()
        .flat_map(|text| Recording::of(text).judge_with(setup(None), &Exceptions::built_in()).allowed)
        .map(|allowed| allowed.id)
        .collect()
}

#[test]
fn every_exception_we_ship_is_exercised_by_a_recording() {
    let exercised = exercised();
    let idle: Vec<_> =
        Exceptions::built_in().entries.into_iter().map(|entry| entry.id).filter(|id| !exercised.contains(id)).collect();
    assert_eq!(idle, Vec::<String>::new(), "no recording needs these; drop them");
}

/// An fsync after a failed flush, which gave this.
fn an_unsure_fsync(errno: i32) -> Recording {
    let story = format!("{ALL_PARTS}\nt1 begin 90 fsync 12\nt1 issue 90 f 0 0\nirq answer 90 ioerr\nt1 end 90");
    let mut recording = Recording::agreeing(&story);
    let end = recording.entries.pop().expect("it ends");
    assert!(matches!(end.body, Body::Response(Response::OpResult { errno: 0, .. })), "the file itself has no error");
    let result = Response::OpResult { op: writeback_events::OpId(90), errno };
    recording.entries.push(Entry { body: Body::Response(result), ..end });
    recording
}

#[test]
fn a_result_that_the_replica_is_not_sure_of_may_be_another() {
    let judgement = an_unsure_fsync(-5).judge();
    assert_eq!(judgement.verdict, Outcome::Allowed, "{}", judgement.why);
    let [allowed] = &judgement.allowed[..] else { panic!("{:?}", judgement.allowed) };
    assert_eq!(allowed.id, "not-predicted");
    assert!(allowed.why.contains("request 90"), "{}", allowed.why);
}

#[test]
fn a_result_that_the_replica_is_not_sure_of_may_not_come_twice() {
    let mut recording = an_unsure_fsync(-5);
    let again = recording.entries.last().expect("it ends").clone();
    recording.entries.push(Entry { seq: again.seq + 1, ..again });
    assert_eq!(recording.judge().verdict, Outcome::Different);
}

#[test]
fn a_result_that_the_replica_is_not_sure_of_and_that_comes_is_the_same_but_must_come() {
    let mut recording = an_unsure_fsync(0);
    let judgement = recording.judge();
    assert_eq!((judgement.verdict, judgement.allowed.len()), (Outcome::Same, 0), "{}", judgement.why);
    recording.entries.pop();
    assert_eq!(recording.judge().verdict, Outcome::Different, "an fsync without a result");
}

/// Two writers' fsyncs of one file overlap, and an error is told in between: to these.
fn two_fsyncs(story: &str, first: i32, second: i32) -> Recording {
    let story = story
        .replace("t1 begin 1 fsync 12\n", "t1 begin 1 fsync 12\nt2 begin 7 fsync 12\n")
        .replace("t1 end 1\n", "t2 end 7\nt1 end 1\n");
    let mut recording = Recording::agreeing(&story);
    for entry in &mut recording.entries {
        if let Body::Response(Response::OpResult { op, errno }) = &mut entry.body {
            match op.0 {
                1 => *errno = first,
                7 => *errno = second,
                _ => {}
            }
        }
    }
    recording
}

#[test]
fn of_two_writers_that_sync_one_file_at_once_either_may_be_told_its_error() {
    for (first, second) in [(-5, 0), (0, -5)] {
        let judgement = two_fsyncs(ALL_PARTS, first, second).judge();
        assert_ne!(judgement.verdict, Outcome::Different, "{first} {second}: {}", judgement.why);
    }
    let nothing_fails = ALL_PARTS.replace("ioerr", "ok");
    assert_eq!(two_fsyncs(&nothing_fails, 0, 0).judge().verdict, Outcome::Same);
    assert_eq!(two_fsyncs(&nothing_fails, 0, -5).judge().verdict, Outcome::Different, "nothing had failed");
}

#[test]
fn a_stimulus_that_does_not_fit_makes_its_io_end_different() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    let handed = |entry: &Entry| matches!(entry.body, Body::Stimulus(Stimulus::FolioSubmitted { index: 5, .. }));
    let again = recording.entries.iter().find(|entry| handed(entry)).expect("page 5 is written").clone();
    let submitted = |entry: &Entry| matches!(entry.body, Body::Response(Response::SubmitBio { .. }));
    let place = recording.entries.iter().position(submitted).expect("its bio is submitted") + 1;
    recording.entries.insert(place, Entry { seq: recording.entries[place].seq, ..again });
    let judgement = recording.judge();
    let difference = judgement.first_difference.expect("it cannot be handed over twice");
    assert_eq!(difference.io_end, Some(IoEndId(2)));
    assert!(difference.why.contains("still under writeback"), "{}", difference.why);
}

#[test]
fn an_io_end_queued_while_a_worker_takes_the_list_may_belong_to_either_round() {
    let this_round = include_str!("testdata/queued-while-worker-starts.txt");
    let judgement = Recording::of(this_round).judge();
    assert_eq!(judgement.verdict, Outcome::Same, "{}: {:?}", judgement.why, judgement.first_difference);
    let next_round = this_round.replace("\"io_end\":2,\"queued\":false", "\"io_end\":2,\"queued\":true").replace(
        "t9 > {\"ev\":\"convert_unwritten\",\"ino\":12,\"io_end\":2",
        "t9 worker 12\nt9 > {\"ev\":\"convert_unwritten\",\"ino\":12,\"io_end\":2",
    );
    let judgement = Recording::of(&next_round).judge();
    assert_eq!(judgement.verdict, Outcome::Same, "{}: {:?}", judgement.why, judgement.first_difference);
    let neither = this_round.replace("\"io_end\":2,\"queued\":false", "\"io_end\":2,\"queued\":true");
    assert_eq!(Recording::of(&neither).judge().verdict, Outcome::Different);
}

#[test]
fn a_bio_that_reaches_outside_its_folios_is_a_difference() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    let handed = |entry: &Entry| matches!(entry.body, Body::Stimulus(Stimulus::FolioSubmitted { index: 1000, .. }));
    recording.entries.retain(|entry| !handed(entry));
    let difference = recording.judge().first_difference.expect("page 1000 was never handed over");
    assert!(matches!(difference.replica, Some(Response::BioOutsideFolios { .. })), "{difference:?}");
}

#[test]
fn an_answer_that_the_device_never_gave_is_different() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    recording.device[20].status = None;
    let judgement = recording.judge();
    assert_eq!(judgement.verdict, Outcome::Different);
    assert!(judgement.why.contains("the device never answered it"), "{}", judgement.why);
}

#[test]
fn a_status_the_guest_did_not_act_on_is_different() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    let failed = recording.device.iter_mut().find(|request| request.status == Some(RequestStatus::Ioerr));
    failed.expect("one write fails").status = Some(RequestStatus::Ok);
    assert_eq!(recording.judge().verdict, Outcome::Different);
}

#[test]
fn the_wrong_thread_is_a_difference() {
    let mut recording = Recording::of(ONE_WRITE_FAILS);
    for entry in &mut recording.entries {
        if matches!(entry.body, Body::Response(Response::ReleaseIoEnd { io_end: IoEndId(2), .. })) {
            entry.task = writeback_events::TaskId(1);
        }
    }
    let difference = recording.judge().first_difference.expect("the worker releases");
    assert!(difference.why.contains("task 1 takes this step, and should be task 9"), "{}", difference.why);
}
