//! What a report is made of. Plain data, as `run` or `replay` hold it when the verdict is known; nothing here is computed.
//!
//! Every sequence number named `seq` of the guest is the trace clock `counter`; every one named `seq` of the device is
//! its arrival order, from 0. The two meet only in [`Match`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use writeback_events::{Entry, IoEndId, OpId, RequestId, Response};

/// One run, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportInput {
    /// What was to be shown.
    pub scenario: ScenarioInfo,
    /// verdict.json as it is written: the report reads its contract fields and passes over the rest.
    pub verdict: serde_json::Value,
    /// Where guest and replica part for the first time.
    pub first_difference: Option<FirstDifference>,
    /// The guest's decoded trace, in rising `seq`.
    pub guest: Vec<Entry>,
    /// What the replica answered, in its order.
    pub replica: Vec<ReplicaResponse>,
    /// What the device got and answered, in rising `seq`.
    pub device: Vec<DeviceRequest>,
    /// What the fault script decided.
    pub decisions: Vec<FaultDecision>,
    /// The workload's operations with their results; the index is the `OpId`.
    pub ops: Vec<OpRun>,
    /// Which guest request is which device request.
    pub matched: Vec<Match>,
    /// The scenario's expectation that fitted this kernel.
    pub expected: Option<Expected>,
    /// The run's own stages (image, boot, workload, …), in order.
    pub phases: Vec<Phase>,
    /// The command that shows it again, as one line for a shell.
    pub repeat: String,
}

/// The scenario, as far as a reader must know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioInfo {
    /// Its name.
    pub name: String,
    /// Its `why`.
    pub why: String,
    /// Seed of the fault script.
    pub seed: Option<u64>,
}

/// A response of the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaResponse {
    /// `seq` of the guest's entry with the stimulus that caused it: its place on the axis.
    pub cause: u64,
    /// What it answered.
    pub response: Response,
}

/// The first difference. Where neither `guest` nor `replica` is there, the guest breaks a rule by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstDifference {
    /// Place in the guest's trace: of the guest's response if there is one, else of the cause of the replica's.
    pub seq: u64,
    /// The io_end it is about, if it is about one.
    pub io_end: Option<IoEndId>,
    /// What the guest did; none: nothing where the replica did something.
    pub guest: Option<Response>,
    /// What the replica did; none: nothing where the guest did something.
    pub replica: Option<Response>,
    /// One sentence about it.
    pub text: String,
}

/// One request as the device saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Arrival order, from 0.
    pub seq: u64,
    /// In the script's words: read, write, flush, discard, write_zeroes, get_id.
    pub op: String,
    /// The virtqueue.
    pub queue: u16,
    /// First sector.
    pub sector: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Nanoseconds on the device's clock, from its start.
    pub arrived_ns: u64,
    /// Nanoseconds on the device's clock; none: never answered.
    pub answered_ns: Option<u64>,
    /// Order of answering, from 0; none: never answered.
    pub answered_order: Option<u64>,
    /// virtio-blk's status byte.
    pub status: Option<u8>,
    /// Ids of the rules that fired on it, in the order in which they were decided.
    pub fired: Vec<String>,
    /// The host failed, not a script: what and where.
    pub host_error: Option<String>,
}

/// One line of decisions.jsonl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDecision {
    /// `DeviceRequest::seq` it is about.
    pub seq: u64,
    /// The rule's id.
    pub rule: String,
    /// The action's name: error, partial, delay, hold, reorder, split, lose, …
    pub action: String,
    /// What exactly, for a person: `3 of 8 sectors, then ioerr`.
    pub text: String,
}

/// One operation of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRun {
    /// Which one: its index in the scenario.
    pub op: OpId,
    /// As the scenario writes it: fsync, write, …
    pub kind: String,
    /// Its arguments, for a person: `/f offset 0 len 4194304 stride 8192`.
    pub args: String,
    /// 0 or a negative errno; none: it did not come back.
    pub errno: Option<i32>,
    /// The errno the scenario expects, if it names one.
    pub expected_errno: Option<i32>,
    /// What else is known of its result, for a person (digest, what the data read was); may be empty.
    pub result: String,
}

/// One guest request is one device request; a resubmitted one has a line per device request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The guest's number.
    pub guest: RequestId,
    /// `DeviceRequest::seq`.
    pub device: u64,
}

/// What the scenario expects of this kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The verdict, if it names one.
    pub verdict: Option<String>,
    /// Ids of the findings; exactly these.
    pub findings: Vec<String>,
    /// How often each rule must fire: at least, at most; without the second there is no bound.
    pub fired: BTreeMap<String, (u64, Option<u64>)>,
}

/// A stage of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// image, boot, workload, judge, …
    pub name: String,
    /// How long it took.
    pub took_ms: u64,
}
