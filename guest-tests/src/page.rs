//! Puts together what report.html is made of.

use crate::device_record::{DeviceRecord, Request};
use crate::host::Host;
use crate::judge::{Judged, Recorded};
use crate::ops::OpLine;
use crate::report::{
    self, DeviceRequest, Expected, FaultDecision, FirstDifference, Match, OpRun, Phase, ReplicaResponse, ReportInput,
    ScenarioInfo,
};
use fault_injection::{Op, Record};
use guest_init::job::Errno;
use std::collections::BTreeMap;
use writeback_events::OpId;

/// The page of a judged run.
pub fn render(recorded: &Recorded, judged: &Judged) -> String {
    report::render(&input(recorded, judged))
}

/// The run as a trace for Perfetto's and Chrome's viewers.
pub fn trace(recorded: &Recorded, judged: &Judged) -> String {
    report::trace(&input(recorded, judged))
}

/// A picture of the run around what is wrong with it, for a page that tells of many.
pub fn excerpt(recorded: &Recorded, judged: &Judged) -> String {
    report::excerpt(&input(recorded, judged))
}

fn input(recorded: &Recorded, judged: &Judged) -> ReportInput {
    let device = recorded.device.as_ref().ok();
    let records: &[Record] = recorded.decisions.as_ref().map_or(&[], |decisions| &decisions.records);
    let mut fired: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for record in records {
        fired.entry(record.seq).or_default().push(record.rule.clone());
    }
    let comparison = judged.comparison.as_ref();
    ReportInput {
        scenario: ScenarioInfo {
            name: recorded.scenario.name.clone(),
            why: recorded.scenario.why.clone(),
            seed: recorded.host.seed,
        },
        verdict: serde_json::to_value(&judged.verdict).unwrap_or_default(),
        first_difference: comparison.and_then(|judgement| judgement.first_difference.as_ref()).map(first_difference),
        guest: recorded.trace.as_ref().map_or_else(|_| Vec::new(), |trace| trace.entries.clone()),
        replica: comparison.map_or_else(Vec::new, replica),
        device: device.map_or_else(Vec::new, |device| requests(device, &fired)),
        decisions: records.iter().map(decision).collect(),
        ops: recorded.ops.iter().map(op).collect(),
        matched: matched(device, comparison),
        expected: Some(expected(judged)),
        phases: phases(&recorded.host),
        repeat: recorded.host.repeat.clone(),
    }
}

fn first_difference(difference: &crate::differ::Difference) -> FirstDifference {
    FirstDifference {
        seq: difference.seq,
        io_end: difference.io_end,
        guest: difference.guest.clone(),
        replica: difference.replica.clone(),
        text: difference.why.clone(),
    }
}

fn replica(judgement: &crate::differ::Judgement) -> Vec<ReplicaResponse> {
    let one = |(cause, response): &(u64, writeback_events::Response)| ReplicaResponse {
        cause: *cause,
        response: response.clone(),
    };
    judgement.replica.iter().map(one).collect()
}

fn requests(device: &DeviceRecord, fired: &BTreeMap<u64, Vec<String>>) -> Vec<DeviceRequest> {
    let one = |request: &Request| DeviceRequest {
        seq: request.seq,
        op: op_word(request.op),
        queue: request.queue,
        sector: request.sector,
        sectors: request.sectors,
        arrived_ns: request.arrived_ns,
        answered_ns: request.answer.map(|answer| answer.at_ns),
        answered_order: request.answer.map(|answer| answer.order),
        status: request.answer.map(|answer| answer.status),
        fired: fired.get(&request.seq).cloned().unwrap_or_default(),
        host_error: request.answer.filter(|answer| answer.host_error).map(|_| "the host's disk failed".to_owned()),
    };
    device.requests.iter().map(one).collect()
}

pub(crate) fn op_word(op: Op) -> String {
    serde_json::to_value(op).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The outcome's name is the action's; what it says beside that is for people.
fn decision(record: &Record) -> FaultDecision {
    let outcome = serde_json::to_value(&record.outcome).unwrap_or_default();
    let (action, text) = match &outcome {
        serde_json::Value::Object(map) => {
            let (name, fields) = map.iter().next().map(|(name, fields)| (name.clone(), fields)).unzip();
            (name.unwrap_or_default(), fields.map(words).unwrap_or_default())
        }
        serde_json::Value::String(name) => (name.clone(), String::new()),
        _ => (String::new(), String::new()),
    };
    FaultDecision { seq: record.seq, rule: record.rule.clone(), action, text }
}

fn words(fields: &serde_json::Value) -> String {
    let word = |(key, value): (&String, &serde_json::Value)| format!("{} {value}", key.replace('_', " "));
    fields.as_object().into_iter().flatten().map(word).collect::<Vec<_>>().join(", ")
}

fn op(line: &OpLine) -> OpRun {
    let negative = |errno: Option<Errno>| errno.map_or(0, |errno| -errno.0);
    let described = line.describe();
    OpRun {
        op: OpId(line.index),
        kind: line.args.action.name().to_owned(),
        args: described.split_once(' ').map_or(String::new(), |(_, args)| args.to_owned()),
        errno: line.result.as_ref().map(|result| negative(result.errno)),
        expected_errno: line.args.errno.map(|errno| -errno.0),
        result: line.result.as_ref().map_or(String::new(), result),
    }
}

fn result(result: &crate::ops::OpResult) -> String {
    match &result.read {
        None => format!("returned {}", result.returned),
        Some(read) => {
            let map = serde_json::to_string(&read.map).unwrap_or_default();
            format!("read {} bytes, FNV-1a {}: {map}", result.returned, read.fnv1a64)
        }
    }
}

fn matched(device: Option<&DeviceRecord>, comparison: Option<&crate::differ::Judgement>) -> Vec<Match> {
    let (Some(device), Some(judgement)) = (device, comparison) else { return Vec::new() };
    let traced = device.traced();
    let one = |(guest, place): (&writeback_events::RequestId, &usize)| {
        Some(Match { guest: *guest, device: traced.get(*place)?.seq })
    };
    judgement.joined.iter().filter_map(one).collect()
}

fn expected(judged: &Judged) -> Expected {
    let expected = &judged.expected;
    let times = |(rule, times): (&String, &crate::expectation::Times)| (rule.clone(), (times.0, times.1));
    Expected {
        verdict: expected.verdict.map(|verdict| verdict.to_string()),
        findings: expected.findings.iter().cloned().collect(),
        fired: expected.fired.iter().flatten().map(times).collect(),
    }
}

fn phases(host: &Host) -> Vec<Phase> {
    host.phases.iter().map(|phase| Phase { name: phase.name.clone(), took_ms: phase.took_ms }).collect()
}
