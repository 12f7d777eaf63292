//! Runs as a 6.1 guest does them. One is a real trace with a real judgement; the others are made by hand, with order, sizes and
//! counts of recorded traces (4 MiB written as even pages, then odd ones: four bios of 1 MiB on one io_end, each split into
//! 1008 + 1008 + 32 sectors).

use super::input::*;
use crate::differ::Exceptions;
use crate::differ::tests::{ONE_WRITE_FAILS, Recording, setup};
use crate::verdict::Outcome;
use ext4_replica::Mutation;
use serde_json::json;
use writeback_events::{
    BioId, BlockOp, Body, Entry, Errno, Ino, IoEndId, OpId, OpKind, PutBy, RequestId, RequestStatus, Response,
    Stimulus, TaskId,
};

const INIT: TaskId = TaskId(1);
const WORKER: TaskId = TaskId(9);
const INO: Ino = Ino(12);
const MIB: u64 = 1 << 20;

/// Writes a trace, the replica's equal answers and the device's record at once.
#[derive(Default)]
struct Recorder {
    input: ReportInput,
    seq: u64,
    cause: u64,
    clock_ns: u64,
    answers: u64,
    in_flight: Vec<(RequestId, u64)>,
    bios: u32,
    requests: u64,
    io_ends: u32,
}

impl Recorder {
    fn entry(&mut self, task: TaskId, interrupt: bool, body: Body) {
        self.input.guest.push(Entry { seq: self.seq, cpu: u16::from(interrupt), task, interrupt, body });
    }

    fn stimulus(&mut self, stimulus: Stimulus) {
        self.seq += 1;
        self.cause = self.seq;
        let task = if matches!(stimulus, Stimulus::WorkerStarts { .. } | Stimulus::ConversionResult { .. }) {
            WORKER
        } else {
            INIT
        };
        self.entry(task, false, Body::Stimulus(stimulus));
    }

    /// A response at its stimulus' place.
    fn at_once(&mut self, response: Response) {
        self.input.replica.push(ReplicaResponse { cause: self.cause, response: response.clone() });
        let interrupt = matches!(
            response,
            Response::EndBio { .. } | Response::PutIoEndDefer { .. } | Response::RequestError { .. }
        );
        let task = if matches!(response, Response::ConvertUnwritten { .. }) { WORKER } else { INIT };
        self.entry(task, interrupt, Body::Response(response));
    }

    /// A response with a place of its own.
    fn later(&mut self, response: Response) {
        self.seq += 1;
        self.at_once(response);
    }

    fn op(&mut self, kind: &str, args: &str, errno: Errno, within: impl FnOnce(&mut Recorder)) {
        let op = OpId(u32::try_from(self.input.ops.len()).expect("few"));
        self.input.ops.push(OpRun {
            op,
            kind: kind.into(),
            args: args.into(),
            errno: Some(errno),
            expected_errno: (errno != 0).then_some(errno),
            result: String::new(),
        });
        let what = if kind == "fsync" { OpKind::Fsync { ino: INO } } else { OpKind::Other };
        self.stimulus(Stimulus::OpBegins { task: INIT, op, kind: what });
        within(self);
        self.stimulus(Stimulus::OpEnds { task: INIT, op });
        self.at_once(Response::OpResult { op, errno });
    }

    fn issue(&mut self, op: BlockOp, sector: u64, sectors: u64) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.stimulus(Stimulus::RequestIssued { request, op, sector, sectors });
        self.clock_ns += 43_000;
        let seq = self.input.device.len() as u64;
        self.input.device.push(DeviceRequest {
            seq,
            op: format!("{op:?}").to_lowercase(),
            queue: 0,
            sector,
            sectors,
            arrived_ns: self.clock_ns,
            answered_ns: None,
            answered_order: None,
            status: None,
            fired: Vec::new(),
            host_error: None,
        });
        self.input.matched.push(Match { guest: request, device: seq });
        self.in_flight.push((request, seq));
        request
    }

    fn answer(&mut self, request: RequestId, fault: Option<(&str, &str, &str)>) {
        let at = self.in_flight.iter().position(|one| one.0 == request).expect("in flight");
        let (_, seq) = self.in_flight.remove(at);
        self.clock_ns += 61_000;
        let failed = fault.is_some_and(|fault| fault.1 == "error");
        let device = &mut self.input.device[seq as usize];
        (device.answered_ns, device.answered_order) = (Some(self.clock_ns), Some(self.answers));
        device.status = Some(u8::from(failed));
        self.answers += 1;
        if let Some((rule, action, text)) = fault {
            device.fired.push(rule.into());
            self.input.decisions.push(FaultDecision {
                seq,
                rule: rule.into(),
                action: action.into(),
                text: text.into(),
            });
        }
        let status = if failed { RequestStatus::Ioerr } else { RequestStatus::Ok };
        self.stimulus(Stimulus::RequestAnswered { request, status });
        self.at_once(Response::RequestError { request, errno: if failed { -5 } else { 0 } });
    }

    fn whole(&mut self, op: BlockOp, sector: u64, sectors: u64) {
        let request = self.issue(op, sector, sectors);
        self.answer(request, None);
    }

    fn born(&mut self) -> IoEndId {
        self.io_ends += 1;
        let io_end = IoEndId(self.io_ends);
        self.stimulus(Stimulus::InitIoEnd { task: INIT, ino: INO, failed: false });
        self.at_once(Response::InitIoEnd { io_end, ino: INO, count: 1, unwritten: false });
        io_end
    }

    fn folios(&mut self, from: u64, to: u64) {
        (from..to).for_each(|index| self.stimulus(Stimulus::FolioSubmitted { task: INIT, ino: INO, index, order: 0 }));
    }

    fn open(&mut self, io_end: IoEndId, count: u32) -> BioId {
        self.bios += 1;
        let bio = BioId(self.bios);
        self.stimulus(Stimulus::BioOpened { task: INIT });
        self.at_once(Response::GetIoEnd { io_end, bio, count, unwritten: true });
        bio
    }

    fn submit(&mut self, bio: BioId, io_end: IoEndId, sector: u64, bytes: u64) {
        self.stimulus(Stimulus::BioSubmitted { task: INIT, sector, bytes, sync: true });
        self.at_once(Response::SubmitBio { bio, io_end, sector, bytes });
    }

    fn end(&mut self, bio: BioId, io_end: IoEndId, error: Errno, count: u32) {
        self.later(Response::EndBio { bio, io_end, error });
        self.later(Response::PutIoEndDefer { io_end, count, unwritten: true });
    }

    fn verdict(mut self, name: &str, why: &str, verdict: serde_json::Value) -> ReportInput {
        self.input.scenario = ScenarioInfo { name: name.into(), why: why.into(), seed: Some(7) };
        self.input.verdict = verdict;
        self.input.phases = [("image", 310), ("boot", 1950), ("workload", 820), ("judge", 90), ("report", 12)]
            .map(|(name, took_ms)| Phase { name: name.into(), took_ms })
            .into();
        self.input.repeat = format!("guest-tests run scenarios/{name}.json --kernel 6.1 --seed 7");
        self.input
    }
}

fn verdict(word: &str, as_expected: bool) -> serde_json::Value {
    json!({
        "verdict": word, "as_expected": as_expected, "kernel": "6.1.0-56-cloud-amd64", "dialect": "v6_1",
        "dialect_exact": true,
        "oracles": {"lockstep": word, "end_state": "pass", "kernel_log": "pass", "durability": "not_run"},
        "compared": {"io_ends": 2, "bios": 4, "requests": 19, "responses": 1107},
        "trace": {"get": true, "btf": true, "cpus": 2}, "fired": {}, "first_difference": null, "allowed": [],
        "findings": [], "why": ""
    })
}

/// A fault on a request: rule, action, what it did.
type Fault = Option<(&'static str, &'static str, &'static str)>;

fn writeback(r: &mut Recorder, fault: Fault) {
    let failed = |bio: u64| if bio == 1 && fault.is_some_and(|fault| fault.1 == "error") { -5 } else { 0 };
    r.stimulus(Stimulus::WritepagesEnter { task: INIT, ino: INO, sync: true });
    let first = r.born();
    r.stimulus(Stimulus::RefDropped { task: INIT, by: PutBy::PutIoEndDefer });
    r.at_once(Response::PutIoEndDefer { io_end: first, count: 0, unwritten: false });
    r.later(Response::ReleaseIoEnd { io_end: first, unwritten: false });
    let io_end = r.born();
    r.stimulus(Stimulus::ExtentMapped { task: INIT, ino: INO, lblk: 0, pblk: 4139, len: 1024, unwritten: true });
    let sector = |bio: u64| 33_112 + 2048 * bio;
    let mut tails = Vec::new();
    let mut bios = Vec::new();
    for bio in 0..4 {
        r.folios(bio * 256, bio * 256 + 1);
        // Bio `bio - 2` has ended by the time bio 3 takes its reference, as in the recorded trace.
        let id = r.open(io_end, [2, 3, 4, 4][bio as usize]);
        r.folios(bio * 256 + 1, bio * 256 + 256);
        r.submit(id, io_end, sector(bio), MIB);
        let a = r.issue(BlockOp::Write, sector(bio), 1008);
        let b = r.issue(BlockOp::Write, sector(bio) + 1008, 1008);
        let c = r.issue(BlockOp::Write, sector(bio) + 2016, 32);
        r.answer(b, None);
        r.answer(a, fault.filter(|_| bio == 1));
        tails.push(c);
        bios.push(id);
        if bio == 2 {
            r.answer(tails[0], None);
            r.end(bios[0], io_end, failed(0), 3);
        }
    }
    r.answer(tails[1], None);
    r.end(bios[1], io_end, failed(1), 3);
    r.stimulus(Stimulus::RefDropped { task: INIT, by: PutBy::PutIoEnd });
    r.at_once(Response::PutIoEnd { io_end, count: 2, unwritten: true });
    r.stimulus(Stimulus::WritepagesLeave { task: INIT, ino: INO });
    r.answer(tails[2], None);
    r.end(bios[2], io_end, 0, 1);
    r.answer(tails[3], None);
    r.end(bios[3], io_end, 0, 0);
    r.later(Response::AddCompleteIo { io_end, queued: true });
    r.stimulus(Stimulus::WorkerStarts { task: WORKER, ino: INO });
    r.later(Response::ConvertUnwritten { ino: INO, io_end, offset: 0, size: 4 * MIB });
    r.stimulus(Stimulus::ConversionResult { task: WORKER, errno: 0 });
    (0..1024).for_each(|page| r.later(Response::EndPageWriteback { ino: INO, page }));
    r.later(Response::ReleaseIoEnd { io_end, unwritten: false });
    r.whole(BlockOp::Write, 262_496, 8);
    r.whole(BlockOp::Flush, 0, 0);
}

fn workload(fault: Fault) -> Recorder {
    let mut r = Recorder { seq: 400, ..Recorder::default() };
    r.op("create", "/f", 0, |r| r.whole(BlockOp::Read, 33_064, 8));
    r.op("fallocate", "/f offset 0 len 4194304", 0, |r| r.whole(BlockOp::Read, 280, 8));
    r.op("write", "/f even pages", 0, |_| {});
    r.op("write", "/f odd pages", 0, |_| {});
    let errno = if fault.is_some_and(|fault| fault.1 == "error") { -5 } else { 0 };
    r.op("fsync", "/f", errno, |r| writeback(r, fault));
    r
}

/// Four bios on one io_end, nothing wrong.
pub(super) fn clean() -> ReportInput {
    let mut input = workload(None).verdict(
        "clean-4-bios",
        "Four bios share one io_end; the worker converts once, after the last.",
        verdict("same", true),
    );
    input.expected = Some(Expected { verdict: Some("same".into()), ..Expected::default() });
    input
}

/// One of the four bios fails; 6.1 converts all the same and the old data can be read.
pub(super) fn error_on_one_bio() -> ReportInput {
    let fault = Some(("w3", "error", "write 35160 + 1008 answered ioerr, nothing transferred"));
    let mut judged = verdict("same", true);
    judged["findings"] = json!([
        {"id": "converted-after-failed-write", "io_end": 2, "sectors": [35160, 36168]},
        {"id": "stale-data-read", "io_end": 2, "offset": 1048576, "blocks_seen": "4395 to 4520"},
    ]);
    judged["fired"] = json!({"w3": 1});
    judged["oracles"]["end_state"] = json!("fail");
    let mut input = workload(fault).verdict(
        "error-1-of-4-stale",
        "A write into a fallocated file fails. Is the extent converted all the same, and can the old data be read?",
        judged,
    );
    input.ops.push(OpRun {
        op: OpId(5),
        kind: "read".into(),
        args: "/f offset 1048576 len 516096".into(),
        errno: Some(0),
        expected_errno: None,
        result: "126 blocks with their old content, numbers 4395 to 4520".into(),
    });
    input.expected = Some(Expected {
        verdict: Some("same".into()),
        findings: vec!["converted-after-failed-write".into(), "stale-data-read".into()],
        fired: [("w3".to_owned(), (1, Some(1)))].into(),
    });
    input
}

/// A replica that forgets one put: it parts from the guest at the second bio's end.
pub(super) fn different() -> ReportInput {
    let fault = Some(("slow", "delay", "answered 40 ms later"));
    let mut judged = verdict("different", false);
    judged["fired"] = json!({"slow": 1});
    judged["compared"] = json!({"io_ends": 2, "bios": 4, "requests": 19, "responses": 61});
    let mut input = workload(fault).verdict("canary", "A replica with one planted mistake must be caught.", judged);
    let bio = BioId(2);
    let put = input
        .replica
        .iter()
        .position(|one| matches!(one.response, Response::EndBio { bio: of, .. } if of == bio))
        .expect("bio 2 ends")
        + 1;
    let guest = input.replica.remove(put).response;
    let mistaken = Response::PutIoEndDefer { io_end: IoEndId(2), count: 4, unwritten: true };
    input.replica.insert(put, ReplicaResponse { cause: input.replica[put - 1].cause, response: mistaken.clone() });
    let seq = input
        .guest
        .iter()
        .skip_while(|entry| !matches!(entry.body, Body::Response(Response::EndBio { bio: of, .. }) if of == bio))
        .find(|entry| entry.body == Body::Response(guest.clone()))
        .expect("the guest drops the reference")
        .seq;
    input.first_difference = Some(FirstDifference {
        seq,
        io_end: Some(IoEndId(2)),
        guest: Some(guest),
        replica: Some(mistaken),
        text: "put_io_end_defer: the guest's count is 3, the replica's is 4.".into(),
    });
    input
}

/// The trace lost events.
pub(super) fn unjudged() -> ReportInput {
    let mut judged = verdict("unjudged", false);
    judged["why"] = json!("the guest's trace lost 1112 events on cpu 0: the ring buffer was full");
    judged["compared"] = json!({"io_ends": 0, "bios": 0, "requests": 0, "responses": 0});
    let mut input = workload(None).verdict("clean-4-bios", "Four bios share one io_end.", judged);
    input.replica.clear();
    input
}

/// One page, one bio, one io_end, converted by the worker: small enough to read its whole data.
pub(super) fn tiny() -> ReportInput {
    let mut r = Recorder { seq: 10, ..Recorder::default() };
    r.op("fsync", "/f", 0, |r| {
        r.stimulus(Stimulus::WritepagesEnter { task: INIT, ino: INO, sync: true });
        let io_end = r.born();
        r.stimulus(Stimulus::ExtentMapped { task: INIT, ino: INO, lblk: 0, pblk: 4139, len: 2, unwritten: true });
        r.folios(0, 2);
        let bio = r.open(io_end, 2);
        r.submit(bio, io_end, 33_112, 8192);
        let request = r.issue(BlockOp::Write, 33_112, 16);
        r.stimulus(Stimulus::RefDropped { task: INIT, by: PutBy::PutIoEnd });
        r.at_once(Response::PutIoEnd { io_end, count: 1, unwritten: true });
        r.answer(request, Some(("slow", "delay", "answered 5 ms later")));
        r.end(bio, io_end, 0, 0);
        r.later(Response::AddCompleteIo { io_end, queued: true });
        r.stimulus(Stimulus::WorkerStarts { task: WORKER, ino: INO });
        r.later(Response::ConvertUnwritten { ino: INO, io_end, offset: 0, size: 8192 });
        r.stimulus(Stimulus::ConversionResult { task: WORKER, errno: 0 });
        r.later(Response::ReleaseIoEnd { io_end, unwritten: false });
    });
    r.verdict("tiny", "", verdict("same", true))
}

/// A run with at least `entries` entries: many small bios over many io_ends, some of them hit.
pub(super) fn many(entries: usize) -> ReportInput {
    let mut r = Recorder { seq: 1, ..Recorder::default() };
    let mut round = 0_u32;
    while r.input.guest.len() < entries {
        round += 1;
        let errno = if round % 10 == 3 { -5 } else { 0 };
        r.op("fsync", "/f", errno, |r| scattered(r, errno));
    }
    let failed = round.div_ceil(10);
    let mut judged = verdict("same", true);
    judged["fired"] = json!({"now-and-then": failed});
    r.verdict("many", "Every page is its own bio; now and then one fails.", judged)
}

fn scattered(r: &mut Recorder, errno: Errno) {
    r.stimulus(Stimulus::WritepagesEnter { task: INIT, ino: INO, sync: true });
    let io_end = r.born();
    let mut open = Vec::new();
    for page in 0..16 {
        r.folios(page * 16, page * 16 + 1);
        let bio = r.open(io_end, page as u32 + 2);
        r.submit(bio, io_end, 40_000 + page * 128, 4096);
        open.push((bio, r.issue(BlockOp::Write, 40_000 + page * 128, 8)));
    }
    r.stimulus(Stimulus::RefDropped { task: INIT, by: PutBy::PutIoEnd });
    r.at_once(Response::PutIoEnd { io_end, count: 16, unwritten: false });
    r.stimulus(Stimulus::WritepagesLeave { task: INIT, ino: INO });
    let last = open.len() - 1;
    for (index, (bio, request)) in open.into_iter().enumerate() {
        let error = if index == 5 { errno } else { 0 };
        r.answer(request, (error != 0).then_some(("now-and-then", "error", "answered ioerr, nothing transferred")));
        r.end(bio, io_end, error, (last - index) as u32);
        r.later(Response::EndPageWriteback { ino: INO, page: index as u64 * 16 });
    }
    r.later(Response::ReleaseIoEnd { io_end, unwritten: false });
}

/// A recorded guest of which one write failed, judged by a replica that may be mistaken. The clock alone is made up: the
/// recording has none of the device's.
pub(super) fn recorded(mistake: Option<Mutation>) -> ReportInput {
    let recording = Recording::of(ONE_WRITE_FAILS);
    let judgement = recording.judge_with(setup(mistake), &Exceptions::default());
    let mut judged = verdict(&judgement.verdict.to_string(), judgement.verdict == Outcome::Same);
    judged["why"] = json!(judgement.why);
    judged["compared"] = json!(judgement.compared);
    judged["fired"] = json!({"w3": 1});
    let difference = judgement.first_difference.as_ref();
    let mut r = Recorder::default();
    r.input.first_difference = difference.map(|difference| FirstDifference {
        seq: difference.seq,
        io_end: difference.io_end,
        guest: difference.guest.clone(),
        replica: difference.replica.clone(),
        text: difference.why.clone(),
    });
    r.input.replica = judgement
        .replica
        .iter()
        .map(|(cause, response)| ReplicaResponse { cause: *cause, response: response.clone() })
        .collect();
    for entry in &recording.entries {
        r.clock_ns += 50_000;
        match entry.body {
            Body::Stimulus(Stimulus::RequestIssued { op, sector, sectors, .. }) => {
                r.issue(op, sector, sectors);
            }
            Body::Answered { request } => {
                let failed = recording.device[judgement.joined[&request]].status == Some(RequestStatus::Ioerr);
                r.answer(request, failed.then_some(("w3", "error", "answered ioerr, nothing transferred")));
            }
            _ => {}
        }
    }
    r.input.guest = recording.entries;
    r.verdict("recorded-one-write-fails", "The second of four bios fails.", judged)
}

/// Every text that comes from outside tries to become markup.
pub(super) fn hostile() -> ReportInput {
    let bad = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>\u{2028}{{data}}";
    let mut input = different();
    input.scenario.name = bad.into();
    input.scenario.why = bad.into();
    input.repeat = bad.into();
    input.verdict["why"] = json!(bad);
    input.verdict["kernel"] = json!(bad);
    input.verdict["oracles"][bad] = json!(bad);
    input.verdict["fired"][bad] = json!(1);
    input.verdict["allowed"] = json!([bad, {bad: bad}]);
    input.verdict["findings"] = json!([{"id": bad, "io_end": 2, bad: bad}]);
    for op in &mut input.ops {
        (op.kind, op.args, op.result) = (bad.into(), bad.into(), bad.into());
    }
    for decision in &mut input.decisions {
        (decision.rule, decision.action, decision.text) = (bad.into(), bad.into(), bad.into());
    }
    for request in &mut input.device {
        (request.op, request.host_error) = (bad.into(), Some(bad.into()));
        request.fired.iter_mut().for_each(|rule| *rule = bad.into());
    }
    input.phases.iter_mut().for_each(|phase| phase.name = bad.into());
    input.expected = Some(Expected {
        verdict: Some(bad.into()),
        findings: vec![bad.into()],
        fired: [(bad.to_owned(), (0, Some(9)))].into(),
    });
    input.first_difference.as_mut().expect("different").text = bad.into();
    input
}
