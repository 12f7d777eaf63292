//! The verdict of a run, as it stands in verdict.json.
//!
//! Made from the run's folder alone, so that judging it again gives the same bytes: no times, no paths of this machine,
//! only ordered maps. Other programs read this file; fields are added, never renamed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What comparing gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Guest and replica did the same.
    Same,
    /// They differ only where a listed exception allows it.
    Allowed,
    /// They differ.
    Different,
    /// Not enough was seen to say.
    Unjudged,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Same => "same",
            Outcome::Allowed => "allowed",
            Outcome::Different => "different",
            Outcome::Unjudged => "unjudged",
        })
    }
}

/// Lockstep alone may also not apply: only where the scenario says so beforehand. It then counts as no pass of lockstep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockstep {
    /// See [`Outcome::Same`].
    Same,
    /// See [`Outcome::Allowed`].
    Allowed,
    /// See [`Outcome::Different`].
    Different,
    /// See [`Outcome::Unjudged`].
    Unjudged,
    /// The scenario says `"lockstep": "none"`.
    NotApplicable,
}

/// What an oracle other than lockstep says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It holds.
    Pass,
    /// It does not; a finding says more.
    Fail,
    /// Nobody looked.
    NotRun,
}

/// The independent judges of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oracles {
    /// Guest against replica.
    pub lockstep: Lockstep,
    /// The file system on the image after the guest has unmounted it (`e2fsck -fn`).
    pub end_state: Check,
    /// The guest kernel's own complaints: BUG, WARNING, hung tasks, EXT4-fs and JBD2 errors.
    pub kernel_log: Check,
    /// What survives a power cut.
    pub durability: Check,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// How much was compared. All zero is never a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// io_ends that lived.
    pub io_ends: u64,
    /// Bios on them.
    pub bios: u64,
    /// Block requests issued.
    pub requests: u64,
    /// Responses laid side by side.
    pub responses: u64,
    /// Worker starts whose moment of taking the list the trace leaves open, and that were settled by what followed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_splices: u64,
}

/// What the guest's trace offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFacts {
    /// The place where a bio takes its reference was found in the kernel.
    pub get: bool,
    /// The kernel carries BTF.
    pub btf: bool,
    /// CPUs that were traced.
    pub cpus: u32,
}

/// A broken property of the guest itself, whatever the replica says. docs/findings.md defines each id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its kind; expectations name it.
    pub id: String,
    /// What was seen, in one sentence.
    pub what: String,
    /// The io_end it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_end: Option<u32>,
    /// The operation of the workload that showed it, by index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<u32>,
    /// The file it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The inode it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// First byte of the file concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes concerned, from the first to the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Disk block that the data came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_block: Option<u64>,
}

impl Finding {
    /// A finding with nothing but its kind and sentence.
    pub fn new(id: &str, what: impl Into<String>) -> Finding {
        Finding {
            id: id.to_owned(),
            what: what.into(),
            io_end: None,
            op: None,
            path: None,
            ino: None,
            offset: None,
            bytes: None,
            disk_block: None,
        }
    }
}

/// What would be a finding if the disk had not done what it did, in a scenario that could not say so beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// What was seen.
    #[serde(flatten)]
    pub finding: Finding,
    /// What the disk did.
    pub by: String,
}

/// verdict.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The one word.
    pub verdict: Outcome,
    /// Verdict, findings and fired rules are what the scenario expects.
    pub as_expected: bool,
    /// What the program exits with for this verdict; `expectation` decides it.
    pub exit_code: u8,
    /// Release of the guest's kernel.
    pub kernel: String,
    /// The replica's dialect.
    pub dialect: String,
    /// The table names this very kernel; otherwise its nearest relative was taken.
    pub dialect_exact: bool,
    /// What each judge says.
    pub oracles: Oracles,
    /// How much was compared.
    pub compared: Compared,
    /// How much the model of files and results has looked at, and of how much it cannot say anything; none: the run is of a
    /// program without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<file_model::live::Counts>,
    /// What the trace offered.
    pub trace: TraceFacts,
    /// How often each rule of the script fired.
    pub fired: BTreeMap<String, u64>,
    /// Where guest and replica part first.
    pub first_difference: Option<serde_json::Value>,
    /// Differences that a listed exception allows.
    pub allowed: Vec<serde_json::Value>,
    /// Broken properties of the guest.
    pub findings: Vec<Finding>,
    /// What the disk's failures and lies explain, in a scenario whose expectation is open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<Explained>,
    /// The reason for the verdict, and for `as_expected` where that is false.
    pub why: String,
}

impl Verdict {
    /// The text of verdict.json.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a verdict holds nothing that JSON cannot say");
        text.push('\n');
        text
    }
}
