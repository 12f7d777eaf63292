//! The name of a failure: the same for the same bug whatever the seed, another for another bug as far as one run can tell.
//!
//! It is made of what was seen, never of how often or where: the gravest finding (the first of its kind says more: which
//! operation, which errno, which sentence of the kernel), the first response in which guest and replica part, the fault
//! before that as the guest saw it and what it hit in ext4, and the kernel's functions if it complained with a call trace. What else
//! was found is told beside the name, so that a bug that is known cannot hide one that is not (known.json says what may be beside).

use super::cause::{self, Place};
use super::promise::{self, Promise};
use super::{frames, words};
use crate::findings;
use crate::host::GuestEnd;
use crate::judge::{Judged, Recorded};
use crate::verdict::{Finding, Outcome};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use writeback_events::{Ino, IoEndId, OpId};

/// What kind of failure it is; the gravest that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The guest died or hung.
    GuestEnd,
    /// Guest and replica part.
    Different,
    /// Something about the guest itself is broken.
    Finding,
    /// Not enough was seen to say.
    Unjudged,
    /// The scenario expected something that did not come.
    NotAsExpected,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::GuestEnd => "guest-end",
            Kind::Different => "different",
            Kind::Finding => "finding",
            Kind::Unjudged => "unjudged",
            Kind::NotAsExpected => "not-as-expected",
        }
    }
}

/// See the module. Two are equal if they have the same name.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The kind.
    pub kind: Kind,
    /// What was seen, in a fixed order.
    pub parts: Vec<String>,
    /// What else was found, sorted; no part of the name.
    pub with: Vec<String>,
}

impl PartialEq for Signature {
    fn eq(&self, other: &Signature) -> bool {
        (self.kind, &self.parts) == (other.kind, &other.parts)
    }
}

impl Eq for Signature {}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.parts.join("; "))
    }
}

impl Signature {
    /// Short name: the first 12 hex digits of the SHA-256 of the text.
    pub fn id(&self) -> String {
        self.for_night().id
    }

    /// The same for a night's result line.
    pub fn for_night(&self) -> night_results::Signature {
        night_results::Signature { with: self.with.clone(), ..night_results::Signature::of(self.to_string()) }
    }
}

/// Names what went wrong in a run, expected or not; none: guest and replica agree and nothing was found.
pub fn signature(recorded: &Recorded, judged: &Judged) -> Option<Signature> {
    let kind = kind(recorded, judged)?;
    let mut parts = Vec::new();
    parts.extend(end_of_guest(recorded));
    parts.extend(first_difference(judged));
    let mut with = found(recorded, judged);
    // A difference is the failure; findings are what it may have led to.
    let gravest = if kind == Kind::Finding && !with.is_empty() { Some(with.remove(0)) } else { None };
    let place = place(judged, gravest.as_ref());
    parts.extend(gravest.as_ref().map(|gravest| gravest.said.clone()));
    match kind {
        Kind::Unjudged => parts.push(why_unjudged(recorded, judged)),
        Kind::NotAsExpected => parts.extend(unmet(judged)),
        Kind::Finding if gravest.is_some_and(|gravest| gravest.after_abort) => {}
        Kind::GuestEnd | Kind::Different | Kind::Finding => parts.push(cause(recorded, place)),
    }
    let frames = frames::of_log(&recorded.kernel_log);
    if !frames.is_empty() {
        parts.push(format!("in {}", frames.join(" < ")));
    }
    let with: BTreeSet<String> = with.into_iter().map(|found| found.said).collect();
    let with = with.into_iter().filter(|said| !parts.contains(said)).collect();
    Some(Signature { kind, parts, with })
}

/// The fault on the very data; else that the journal has aborted, whichever request did that; else the last fault.
fn cause(recorded: &Recorded, place: Place) -> String {
    match cause::before(recorded, place) {
        Some(fault) if fault.own => format!("after {fault}"),
        _ if promise::journal_aborted(recorded) => "after the journal aborted".to_owned(),
        Some(fault) => format!("after {fault}"),
        None => "no fault before it".to_owned(),
    }
}

fn kind(recorded: &Recorded, judged: &Judged) -> Option<Kind> {
    let verdict = &judged.verdict;
    match verdict.verdict {
        _ if end_of_guest(recorded).is_some() => Some(Kind::GuestEnd),
        Outcome::Different => Some(Kind::Different),
        _ if !verdict.findings.is_empty() => Some(Kind::Finding),
        Outcome::Unjudged => Some(Kind::Unjudged),
        Outcome::Same | Outcome::Allowed if verdict.as_expected => None,
        Outcome::Same | Outcome::Allowed => Some(Kind::NotAsExpected),
    }
}

/// A guest that the script ended by cutting the power did what it should.
fn end_of_guest(recorded: &Recorded) -> Option<String> {
    match &recorded.host.guest_end {
        GuestEnd::Done | GuestEnd::PowerCut { .. } => None,
        GuestEnd::TimeLimit { .. } => Some("the guest did not end in time".to_owned()),
        GuestEnd::Died { .. } => Some(format!("the guest died{}", last_words(recorded))),
    }
}

fn last_words(recorded: &Recorded) -> String {
    let panic = recorded.kernel_log.lines().find(|line| line.contains("Kernel panic"));
    panic.map_or_else(String::new, |line| format!(" ({})", words::normalised(line)))
}

/// `end_bio differs in error`, `the guest converts, the replica does nothing`, by the names of responses.
fn first_difference(judged: &Judged) -> Option<String> {
    if judged.verdict.verdict != Outcome::Different {
        return None;
    }
    let Some(difference) = &judged.verdict.first_difference else {
        return Some(words::normalised(&judged.verdict.why));
    };
    let (guest, replica) = (&difference["guest"], &difference["replica"]);
    let name = |side: &Value| side["ev"].as_str().unwrap_or("nothing").to_owned();
    let fields = differing_fields(guest, replica);
    Some(match (name(guest), name(replica)) {
        (one, other) if one == other && !fields.is_empty() => format!("{one} differs in {}", fields.join(", ")),
        (one, other) if one == other => {
            format!("{one}: {}", words::normalised(difference["why"].as_str().unwrap_or_default()))
        }
        (one, other) => format!("guest {one}, replica {other}"),
    })
}

fn differing_fields(guest: &Value, replica: &Value) -> Vec<String> {
    let (Some(guest), Some(replica)) = (guest.as_object(), replica.as_object()) else { return Vec::new() };
    let keys: BTreeSet<&String> = guest.keys().chain(replica.keys()).collect();
    keys.into_iter().filter(|&key| guest.get(key) != replica.get(key)).cloned().collect()
}

/// Kinds of findings, those first that tell most of what is broken.
const RANK: &[&str] = &[
    findings::CONVERTED_AFTER_FAILED_WRITE,
    findings::ERROR_NOT_REPORTED,
    findings::CORRUPT_DATA_RETURNED,
    findings::FILE_LOST,
    findings::WRITTEN_DATA_LOST,
    findings::ERROR_FORGOTTEN,
    findings::CONTENTS_NOT_ALLOWED,
    findings::STALE_DATA_READ,
    findings::NAME_NOT_ALLOWED,
    findings::EXTENT_MAP_NOT_ALLOWED,
    findings::FILE_SYSTEM_DAMAGED,
    findings::ERRNO_NOT_ALLOWED,
    findings::UNEXPECTED_RESULT,
    findings::KERNEL_COMPLAINT,
];

/// What a finding adds.
struct Found<'f> {
    said: String,
    /// What is gone was promised by an fsync after the journal had aborted, and that is all there is to say.
    after_abort: bool,
    finding: &'f Finding,
}

/// One for each kind of finding, the gravest first; of several of a kind the first says more.
fn found<'j>(recorded: &Recorded, judged: &'j Judged) -> Vec<Found<'j>> {
    let all = &judged.verdict.findings;
    let rank = |finding: &Finding| match finding.id.as_str() {
        findings::KERNEL_COMPLAINT if complaint(recorded).is_some_and(findings::is_grave) => 0,
        id => 1 + RANK.iter().position(|known| *known == id).unwrap_or(RANK.len()),
    };
    let mut found: Vec<&Finding> = Vec::new();
    for finding in all {
        if !found.iter().any(|known| known.id == finding.id) {
            found.push(finding);
        }
    }
    found.sort_by_key(|finding| rank(finding));
    found.into_iter().map(|finding| describe(recorded, finding)).collect()
}

fn describe<'f>(recorded: &Recorded, finding: &'f Finding) -> Found<'f> {
    let promised = promise::of(recorded, finding);
    if promised == Promise::AfterAbort {
        return Found { said: promise::AFTER_ABORT.to_owned(), after_abort: true, finding };
    }
    let more = match finding.id.as_str() {
        _ if findings::is_after_cut(finding) => Some(after_cut(recorded, finding)),
        findings::UNEXPECTED_RESULT => result_of(recorded, finding),
        findings::ERRNO_NOT_ALLOWED => unexplained_result(recorded, finding),
        findings::KERNEL_COMPLAINT => {
            let complaints = recorded.complaints();
            complaint(recorded).or(complaints.first().copied()).map(words::normalised)
        }
        findings::FILE_SYSTEM_DAMAGED => {
            let damage = recorded.host.e2fsck.as_ref().and_then(|e2fsck| e2fsck.damage());
            let text = damage.map(|(_, said)| said).unwrap_or_default();
            let says_nothing = |line: &&str| line.starts_with("Pass") || line.starts_with("Warning: skipping");
            text.lines().find(|line| !says_nothing(line)).map(words::normalised)
        }
        id if promise::OF_DATA.contains(&id) => promise::allocation(recorded).map(str::to_owned),
        _ => None,
    };
    let said = more.map_or_else(|| finding.id.clone(), |more| format!("{} ({more})", finding.id));
    Found { said, after_abort: false, finding }
}

/// The first line in which the kernel complains of anything but that it stood still.
fn complaint(recorded: &Recorded) -> Option<&str> {
    recorded.complaints().into_iter().find(|line| !findings::is_stall(line))
}

/// `after a power cut: bytes`, and what a checker said of a file system that is none.
fn after_cut(recorded: &Recorded, finding: &Finding) -> String {
    let states = recorded.host.cuts.iter().flat_map(|cuts| &cuts.bad);
    let what = match finding.id.as_str() {
        findings::FILE_SYSTEM_DAMAGED => states
            .filter_map(|state| state.damage.as_ref())
            .map(|(step, said)| format!("{step}: {}", words::normalised(findings::telling(said))))
            .next()
            .unwrap_or_default(),
        _ if finding.offset.is_some() => "bytes".to_owned(),
        _ if finding.what.contains("bytes long") => "size".to_owned(),
        _ => "name".to_owned(),
    };
    format!("after a power cut: {what}")
}

/// `fsync: EIO where success was expected`
fn result_of(recorded: &Recorded, finding: &Finding) -> Option<String> {
    let line = recorded.ops.iter().find(|line| Some(line.index) == finding.op)?;
    let word = |errno: Option<guest_init::job::Errno>| errno.map_or("success".to_owned(), |errno| errno.to_string());
    let got = match &line.result {
        Some(result) => word(result.errno),
        None => "nothing".to_owned(),
    };
    Some(format!("{}: {got} where {} was expected", line.args.action.name(), word(line.args.errno)))
}

/// `fsync: EIO`
fn unexplained_result(recorded: &Recorded, finding: &Finding) -> Option<String> {
    let line = recorded.ops.iter().find(|line| Some(line.index) == finding.op)?;
    let errno = line.result.as_ref()?.errno;
    let got = errno.map_or("success".to_owned(), |errno| errno.to_string());
    Some(format!("{}: {got}", line.args.action.name()))
}

/// The reason without what follows from it.
fn why_unjudged(recorded: &Recorded, judged: &Judged) -> String {
    match recorded.host.mount_errors.first() {
        Some(error) => words::normalised(error),
        None => words::normalised(judged.verdict.why.split(';').next().unwrap_or_default()),
    }
}

/// What was expected and did not come.
fn unmet(judged: &Judged) -> Vec<String> {
    judged.verdict.why.split("; ").skip(1).map(words::normalised).collect()
}

/// Where it showed: the difference, else the gravest finding, else the first that says more than another where it is.
fn place(judged: &Judged, gravest: Option<&Found<'_>>) -> Place {
    if let Some(difference) = &judged.verdict.first_difference {
        let io_end = difference["io_end"].as_u64().and_then(|io_end| u32::try_from(io_end).ok());
        return Place { seq: difference["seq"].as_u64(), io_end: io_end.map(IoEndId), ..Place::default() };
    }
    let findings = &judged.verdict.findings;
    let by = |has: fn(&Finding) -> bool| findings.iter().find(|finding| has(finding));
    let says = |finding: &&Finding| finding.io_end.is_some() || finding.ino.is_some() || finding.op.is_some();
    let finding = gravest
        .map(|gravest| gravest.finding)
        .filter(says)
        .or_else(|| by(|finding| finding.io_end.is_some()))
        .or_else(|| by(|finding| finding.ino.is_some()))
        .or_else(|| by(|finding| finding.op.is_some()));
    finding.map_or_else(Place::default, |finding| Place {
        seq: None,
        io_end: finding.io_end.map(IoEndId),
        ino: finding.ino.map(Ino),
        op: finding.op.map(OpId),
    })
}
