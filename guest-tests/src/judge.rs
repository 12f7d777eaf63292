//! Makes the verdict of a run from its folder alone. No VM, no clock, no machine: the same folder, the same bytes.
//!
//! Lockstep is judged only if the guest's trace and the device's record are whole; findings that need neither are looked
//! for in any case.

use crate::crash_states::order::Order;
use crate::device_record::{self, Decisions, DeviceRecord};
use crate::differ::{self, Case, Exceptions};
use crate::end_state::EndState;
use crate::expectation::{self, Expectation, Seen};
use crate::explained::{self, Witness};
use crate::failure::Failure;
use crate::findings::{self, Writeback};
use crate::folder::{self, RUN_AGAIN, RunFolder};
use crate::folder_lines::{GuestLine, ReplicaLine};
use crate::host::{E2fsck, GuestEnd, Host};
use crate::modelled::{self, Modelled};
use crate::ops::OpLine;
use crate::scenario::{self, LockstepMode, Scenario};
use crate::show::lockstep_of;
use crate::verdict::{Check, Compared, Explained, Finding, Lockstep, Oracles, Outcome, TraceFacts, Verdict};
use crate::{dialect, run};
use ext4_replica::{Mutation, Setup};
use fault_injection::Then;
use guest_init::job::Action;
use guest_init::pattern::Run;
use kernel_trace::Decoded;
use std::collections::BTreeMap;
use writeback_events::{OpId, RequestId, RequestStatus};

/// What is read from a folder.
pub struct Recorded {
    /// The scenario of the run.
    pub scenario: Scenario,
    /// What the host saw.
    pub host: Host,
    /// The device's record; an error: it cannot be read.
    pub device: Result<DeviceRecord, String>,
    /// The script's decisions; an error: they cannot be read.
    pub decisions: Result<Decisions, String>,
    /// The workload with its results.
    pub ops: Vec<OpLine>,
    /// The guest's trace; an error: why there is none.
    pub trace: Result<Decoded, String>,
    /// Everything the guest's kernel logged.
    pub kernel_log: String,
    /// The device's record, reduced to what stands in which order; an error: it cannot be read.
    pub order: Result<Order, String>,
    /// What the files were on the disk at the end; none: nobody looked.
    pub end: Option<EndState>,
    /// What `crash-states` has found about the states of this run's power cuts; none: nobody has looked.
    pub crash_states: Option<Check>,
}

impl Recorded {
    /// The kernel's complaints.
    pub fn complaints(&self) -> Vec<&str> {
        findings::complaints(&self.kernel_log, self.host.guest_end.unasked())
    }
}

/// A verdict, and what it was made from.
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What guest and replica were compared from; none: nothing could be.
    pub comparison: Option<differ::Judgement>,
    /// The expectation that fitted this kernel.
    pub expected: Expectation,
}

/// Reads a run's folder.
pub fn read(run: &RunFolder) -> Result<Recorded, Failure> {
    let path = run.file(folder::SCENARIO);
    run.must_be_whole()?;
    let scenario = scenario::parse(&path, &run.read_text(folder::SCENARIO)?)?;
    let ops = run.read_text(folder::OPS)?.lines().map(serde_json::from_str).collect::<Result<Vec<OpLine>, _>>();
    let ops = ops.map_err(|error| {
        Failure::BadInput(format!("{} is damaged: {error}; {RUN_AGAIN}", run.file(folder::OPS).display()))
    })?;
    // The console has what the kernel said before and after our own process listened.
    let kernel_log = run.read_text(folder::GUEST_LOG)? + &String::from_utf8_lossy(&run.read(folder::CONSOLE)?);
    let host = Host::read(run)?;
    let device = run.read_text(folder::DEVICE)?;
    Ok(Recorded {
        trace: read_trace(run, &host),
        scenario,
        host,
        device: device_record::read(&device),
        order: Order::read(&device),
        end: EndState::read(run)?,
        decisions: device_record::read_decisions(&run.read_text(folder::DECISIONS)?),
        ops,
        kernel_log,
        crash_states: read_crash_states(run)?,
    })
}

fn read_crash_states(run: &RunFolder) -> Result<Option<Check>, Failure> {
    #[derive(serde::Deserialize)]
    struct Found {
        durability: Check,
    }
    let path = run.file(folder::CRASH_STATES);
    if !path.exists() {
        return Ok(None);
    }
    let found: Result<Found, _> = serde_json::from_str(&run.read_text(folder::CRASH_STATES)?);
    let found = found.map_err(|error| Failure::BadInput(format!("{}: {error}", path.display())))?;
    Ok(Some(found.durability))
}

fn read_trace(run: &RunFolder, host: &Host) -> Result<Decoded, String> {
    if !run.file(folder::GUEST_RAW).exists() {
        return Err(match &host.not_traced {
            Some(why) => format!("the guest's kernel could not be traced: {why}"),
            None => "there is no guest.raw: the guest was never traced, or the file was removed".to_owned(),
        });
    }
    decoded(run)
}

/// The guest's trace, as far as the folder has one.
pub fn decoded(run: &RunFolder) -> Result<Decoded, String> {
    let raw = run.read(folder::GUEST_RAW).map_err(|failure| failure.to_string())?;
    kernel_trace::decode(&raw).map_err(|error| error.to_string())
}

/// Judges. The same arguments give the same verdict.
pub fn judge(recorded: &Recorded) -> Result<Judged, Failure> {
    let host = &recorded.host;
    let release = &host.kernel.release;
    let identity = dialect::Identity { release, build: &host.kernel.build };
    let chosen = dialect::choose(host.dialect.as_deref(), identity);
    let comparison = compare(recorded, chosen.as_ref().ok().map(|chosen| chosen.dialect))?;
    let (lockstep, why) = lockstep(recorded, &comparison, chosen.as_ref().err());
    let modelled = modelled::follow(recorded);
    let expected = expectation::choose(&recorded.scenario.expect, release);
    let fired = fired(recorded);
    let (mut findings, mut explained) = sorted(find(recorded, &modelled, &expected), &expected, recorded);
    let after_cuts = recorded.host.cuts.iter().flat_map(findings::in_cuts).collect();
    let (after_cuts, cuts_explained) = sorted(after_cuts, &expected, recorded);
    let durability = durability(recorded, !after_cuts.is_empty());
    findings.extend(after_cuts);
    explained.extend(cuts_explained);
    explained.extend(recorded.host.cuts.iter().filter_map(explained::lost_with_the_cache));
    let script_unmet = script_unmet(recorded);
    let reads = reads(&recorded.ops);
    let (outcome, why) = outcome(recorded, lockstep, why);
    let seen = Seen {
        outcome,
        why: &why,
        findings: &findings,
        fired: &fired,
        script_unmet: script_unmet.as_deref(),
        reads: &reads,
        image: &host.image,
    };
    let conclusion = expectation::conclude(&expected, &seen);
    let oracles = oracles(lockstep, recorded, &findings, durability);
    let counts = recorded.end.as_ref().map(|_| modelled.followed.counts);
    let comparison = comparison.ok();
    let verdict = Verdict {
        verdict: conclusion.outcome,
        as_expected: conclusion.as_expected,
        exit_code: conclusion.exit_code,
        kernel: release.clone(),
        dialect: chosen.as_ref().map_or("none".to_owned(), |chosen| chosen.dialect.describe()),
        dialect_exact: chosen.as_ref().is_ok_and(|chosen| chosen.exact),
        oracles,
        compared: comparison.as_ref().map_or(Compared::default(), |judgement| judgement.compared.clone()),
        modelled: counts,
        trace: trace_facts(recorded),
        fired,
        first_difference: comparison.as_ref().and_then(|judgement| value(judgement.first_difference.as_ref()?)),
        allowed: comparison.iter().flat_map(|judgement| &judgement.allowed).filter_map(value).collect(),
        findings,
        explained,
        why: conclusion.why,
    };
    Ok(Judged { verdict, comparison, expected })
}

/// Guest against replica; an error says why that is not possible.
fn compare(
    recorded: &Recorded,
    dialect: Option<ext4_replica::Dialect>,
) -> Result<Result<differ::Judgement, String>, Failure> {
    let mutation = recorded.host.canary.as_deref().map(run::canary).transpose()?;
    Ok(compare_as(recorded, dialect, mutation))
}

/// Guest against a replica with this mistake, or the true one, in the guest's dialect; an error says why that is not possible.
pub fn compare_with(recorded: &Recorded, mutation: Option<Mutation>) -> Result<differ::Judgement, String> {
    let host = &recorded.host;
    let identity = dialect::Identity { release: &host.kernel.release, build: &host.kernel.build };
    let chosen = dialect::choose(host.dialect.as_deref(), identity)?;
    compare_as(recorded, Some(chosen.dialect), mutation)
}

fn compare_as(
    recorded: &Recorded,
    dialect: Option<ext4_replica::Dialect>,
    mutation: Option<Mutation>,
) -> Result<differ::Judgement, String> {
    let (trace, device) = match (&recorded.trace, &recorded.device) {
        (Ok(trace), Ok(device)) => (trace, device),
        (Err(why), _) | (_, Err(why)) => return Err(why.clone()),
    };
    let gaps = gaps(recorded, trace, device);
    let (Some(dialect), true) = (dialect, gaps.is_empty()) else { return Err(gaps.join("; ")) };
    let decisions = recorded.decisions.as_ref().ok();
    let goes_on = recorded.scenario.script.power_cuts().contains(&Then::Disconnect);
    let requests = device_record::all_for_differ(device, decisions, goes_on);
    let resized = device_record::resized(device, &recorded.ops);
    let case = Case {
        entries: &trace.entries,
        device: &requests,
        resized: &resized,
        queues: device.queues,
        cpus: trace.header.vcpus,
        setup: Setup { cpus: trace.header.vcpus, ..setup(&recorded.scenario, dialect, mutation) },
        exceptions: &Exceptions::built_in(),
    };
    let judgement = differ::judge(&case);
    // Without exact counts the order of two CPUs' steps is that of their records, which need not be the true one.
    let uncertain = trace.header.vcpus > 1 && !trace.header.plan.summary.exact_counts;
    if uncertain && judgement.verdict == Outcome::Different {
        let why = "this kernel does not tell its reference counts exactly, so that the order of several CPUs' steps is not certain";
        return Err(format!("{why}: {}", judgement.why));
    }
    Ok(judgement)
}

/// The replica for a scenario's file system.
pub fn setup(scenario: &Scenario, dialect: ext4_replica::Dialect, mutation: Option<ext4_replica::Mutation>) -> Setup {
    let filesystem = &scenario.filesystem;
    let options = filesystem.mount.iter().flat_map(|options| options.split(','));
    Setup {
        mutation,
        block_bytes: filesystem.block_bytes,
        data_err_abort: options.map(str::trim).any(|option| option == "data_err=abort"),
        ..Setup::new(dialect)
    }
}

/// Everything that is missing from the witnesses.
fn gaps(recorded: &Recorded, trace: &Decoded, device: &DeviceRecord) -> Vec<String> {
    let mut gaps = Vec::new();
    match &recorded.host.guest_end {
        GuestEnd::Done => {}
        GuestEnd::Died { why } => gaps.push(why.clone()),
        GuestEnd::PowerCut { why } => gaps.push(format!("{why}; the guest's trace was cut off with it")),
        GuestEnd::TimeLimit { seconds } => gaps.push(format!("the guest was still at work after {seconds} s")),
    }
    gaps.extend(trace.losses.describe());
    gaps.extend(device.losses());
    match (&recorded.decisions, &device.trailer) {
        (Err(why), _) => gaps.push(why.clone()),
        (Ok(decisions), Some(trailer)) => gaps.extend(decisions.losses(&trailer.fired)),
        (Ok(_), None) => {}
    }
    if let Some(first) = trace.unplaced.first() {
        let place = first.place.map_or(String::new(), |place| format!(" at counter {}", place.seq));
        gaps.push(format!(
            "{} trace events could not be placed, the first{place}: {}",
            trace.unplaced.len(),
            first.why
        ));
    }
    gaps
}

fn lockstep(
    recorded: &Recorded,
    comparison: &Result<differ::Judgement, String>,
    no_dialect: Option<&String>,
) -> (Lockstep, String) {
    match (recorded.scenario.lockstep, comparison, no_dialect) {
        (LockstepMode::None, _, _) => (
            Lockstep::NotApplicable,
            "the scenario asks for no lockstep; findings, end state and kernel log were judged".to_owned(),
        ),
        (LockstepMode::Full, Ok(judgement), _) => (lockstep_of(judgement.verdict), judgement.why.clone()),
        (LockstepMode::Full, Err(why), None) => (Lockstep::Unjudged, why.clone()),
        (LockstepMode::Full, Err(_), Some(why)) => (Lockstep::Unjudged, why.clone()),
    }
}

/// The one word. Without lockstep the rest must at least have been seen to its end.
fn outcome(recorded: &Recorded, lockstep: Lockstep, why: String) -> (Outcome, String) {
    let host = &recorded.host;
    if let Some(error) = host.mount_errors.first() {
        return (Outcome::Unjudged, format!("the file system: {error}{}; {why}", of_the_mount(recorded)));
    }
    match lockstep {
        Lockstep::Same => (Outcome::Same, why),
        Lockstep::Allowed => (Outcome::Allowed, why),
        Lockstep::Different => (Outcome::Different, why),
        Lockstep::Unjudged => (Outcome::Unjudged, why),
        Lockstep::NotApplicable => match &host.guest_end {
            GuestEnd::Done if recorded.ops.iter().all(|op| op.result.is_some()) => (Outcome::Same, why),
            GuestEnd::Done => (Outcome::Unjudged, "an operation has no result".to_owned()),
            GuestEnd::Died { why } => (Outcome::Unjudged, why.clone()),
            GuestEnd::PowerCut { why: cut } => match durability(recorded, false) {
                Check::NotRun => (Outcome::Unjudged, format!("{cut}; {}", left_unjudged(recorded))),
                Check::Pass | Check::Fail => (Outcome::Same, format!("{why}; {cut}; what it left was judged")),
            },
            GuestEnd::TimeLimit { seconds } => {
                (Outcome::Unjudged, format!("the guest was still at work after {seconds} s"))
            }
        },
    }
}

/// What there is to know of a mount that failed: what was asked for, and what the kernel said of it last.
fn of_the_mount(recorded: &Recorded) -> String {
    let options = recorded.scenario.filesystem.mount.join(",");
    let asked =
        if options.is_empty() { String::new() } else { format!(" with the scenario's mount options {options:?}") };
    // EXT4-fs, or ext4 where the options are at fault; the guest's own messages stand in between.
    let of_kernel =
        |line: &&str| line.starts_with('[') && (line.to_lowercase().contains("ext4") || line.contains("JBD2"));
    let said = recorded.kernel_log.lines().rev().find(of_kernel);
    asked + &said.map_or_else(String::new, |line| format!(", and the kernel said: {}", line.trim()))
}

fn find(recorded: &Recorded, modelled: &Modelled, expected: &Expectation) -> Vec<Finding> {
    let block_bytes = u64::from(recorded.scenario.filesystem.block_bytes);
    let mut found = Vec::new();
    if let (Ok(trace), Some(statuses)) = (&recorded.trace, statuses(recorded)) {
        let remount = |line: &&OpLine| matches!(line.args.action, Action::Remount {});
        let remounts = recorded.ops.iter().filter(remount).map(|line| OpId(line.index)).collect();
        found.extend(findings::in_writeback(&Writeback {
            guest: &trace.entries,
            statuses: &statuses,
            block_bytes,
            remounts: &remounts,
        }));
    }
    // Where nobody could say beforehand what each operation gives, the model alone says what it may give.
    if !expected.open {
        found.extend(findings::unexpected_results(&recorded.ops));
    }
    found.extend(findings::not_allowed(&modelled.followed.misfits, &recorded.ops, &modelled.facts));
    let looked = recorded.host.e2fsck.as_ref().filter(|_| modelled::end_is_known(recorded));
    if let Some((step, said)) = looked.and_then(E2fsck::damage) {
        let said = said.lines().find(|line| !line.starts_with("Pass")).unwrap_or_default();
        found.push(Finding::new(findings::FILE_SYSTEM_DAMAGED, format!("{step}: {said}")));
    }
    found.extend(recorded.host.left.iter().flat_map(findings::in_left));
    let complaints = recorded.complaints();
    if let Some(first) = complaints.first() {
        let what = format!("{} line(s) of the kernel's log are complaints; first: {first}", complaints.len());
        found.push(Finding::new(findings::KERNEL_COMPLAINT, what));
    }
    found
}

/// Where nobody could say beforehand what the disk's faults would do, what they explain is laid aside.
fn sorted(findings: Vec<Finding>, expected: &Expectation, recorded: &Recorded) -> (Vec<Finding>, Vec<Explained>) {
    if !expected.open {
        return (findings, Vec::new());
    }
    let failed = |request: &&device_record::Request| request.answer.is_some_and(|answer| answer.status != 0);
    let requests = recorded.device.as_ref().map_or(&[][..], |device| &device.requests);
    let witness = Witness {
        failed: requests.iter().filter(failed).count() as u64,
        lies: modelled::lies(recorded),
        complained: !recorded.complaints().is_empty() || modelled::metadata_failed(recorded),
        became_smaller: modelled::became_smaller(recorded),
    };
    explained::sort(findings, &witness)
}

/// What the device answered to each of the guest's requests; none where trace or record have a gap, which could hold the
/// report of an error. No dialect is needed for it, and no replica.
fn statuses(recorded: &Recorded) -> Option<BTreeMap<RequestId, RequestStatus>> {
    let (Ok(trace), Ok(device)) = (&recorded.trace, &recorded.device) else { return None };
    if !gaps(recorded, trace, device).is_empty() {
        return None;
    }
    let requests: Vec<differ::DeviceRequest> = device.traced().into_iter().map(device_record::for_differ).collect();
    let joined = differ::join(&trace.entries, &requests, device.queues).ok()?;
    let status = |place: usize| requests.get(place)?.status;
    Some(joined.device_of.iter().filter_map(|(request, place)| Some((*request, status(*place)?))).collect())
}

fn fired(recorded: &Recorded) -> BTreeMap<String, u64> {
    recorded.decisions.as_ref().map_or_else(|_| BTreeMap::new(), |decisions| decisions.fired.clone())
}

/// What each read gave, by file. One that never came back gave nothing.
fn reads(ops: &[OpLine]) -> BTreeMap<String, Vec<Vec<Run>>> {
    let mut reads: BTreeMap<String, Vec<Vec<Run>>> = BTreeMap::new();
    for line in ops {
        let Action::Read { path, .. } = &line.args.action else { continue };
        let back = line.result.as_ref().and_then(|result| result.read.as_ref());
        reads.entry(path.clone()).or_default().push(back.map(|back| back.map.runs.clone()).unwrap_or_default());
    }
    reads
}

fn script_unmet(recorded: &Recorded) -> Option<String> {
    let trailer = recorded.device.as_ref().ok().and_then(|device| device.trailer.as_ref());
    let unmet = trailer.map(|trailer| trailer.unmet.join(", ")).filter(|unmet| !unmet.is_empty());
    unmet.or_else(|| recorded.host.expect_unmet.then(|| "vhost-blk says so by its exit code".to_owned()))
}

fn oracles(lockstep: Lockstep, recorded: &Recorded, findings: &[Finding], durability: Check) -> Oracles {
    let host = &recorded.host;
    let found = |id: &str| findings.iter().any(|finding| finding.id == id);
    let check = |id: &str| if found(id) { Check::Fail } else { Check::Pass };
    let of_the_end = |finding: &&Finding| {
        let at_the_end = finding.op.is_none() && !findings::is_after_cut(finding);
        at_the_end && findings::OF_THE_END.contains(&finding.id.as_str())
    };
    let end_state = if findings.iter().any(|finding| of_the_end(&finding)) { Check::Fail } else { Check::Pass };
    Oracles {
        lockstep,
        end_state: host
            .e2fsck
            .as_ref()
            .filter(|_| modelled::end_is_known(recorded))
            .map_or(Check::NotRun, |_| end_state),
        kernel_log: check(findings::KERNEL_COMPLAINT),
        durability,
    }
}

/// What a power cut left, if the run ended with one; what others may have left, if they were judged with the run; else what
/// `crash-states` has found since.
fn durability(recorded: &Recorded, bad_states: bool) -> Check {
    if bad_states {
        return Check::Fail;
    }
    match &recorded.host.left {
        Some(left) if left.damage.is_some() || !left.broken.is_empty() => Check::Fail,
        Some(left) if left.not_judged.is_none() && left.promised_files > 0 => Check::Pass,
        Some(_) => Check::NotRun,
        None => match &recorded.host.cuts {
            // A disk that lies keeps no promise: that is told, and is no pass.
            Some(cuts) if cuts.promised_files > 0 && cuts.losses == 0 && cuts.bad.is_empty() => Check::Pass,
            _ => recorded.crash_states.unwrap_or(Check::NotRun),
        },
    }
}

fn left_unjudged(recorded: &Recorded) -> String {
    let why = recorded.host.left.as_ref().and_then(|left| left.not_judged.clone());
    why.unwrap_or_else(|| "nothing had been fsynced before it, so nothing was promised".to_owned())
}

fn trace_facts(recorded: &Recorded) -> TraceFacts {
    match &recorded.trace {
        Ok(trace) => TraceFacts {
            get: trace.header.plan.summary.get,
            btf: trace.header.plan.summary.btf,
            cpus: trace.header.vcpus.into(),
        },
        Err(_) => TraceFacts::default(),
    }
}

fn value(what: impl serde::Serialize) -> Option<serde_json::Value> {
    serde_json::to_value(what).ok()
}

/// Writes what was read and judged into the folder: the decoded trace, the replica's answers, the verdict.
pub fn write(run: &RunFolder, recorded: &Recorded, judged: &Judged) -> Result<(), Failure> {
    let entries = recorded.trace.as_ref().map(|trace| trace.entries.as_slice()).unwrap_or_default();
    run.write_lines(folder::GUEST, entries.iter().map(GuestLine::of))?;
    let replica = judged.comparison.iter().flat_map(|judgement| &judgement.replica);
    run.write_lines(folder::REPLICA, replica.map(|(seq, response)| ReplicaLine { seq: *seq, response }))?;
    run.write(folder::VERDICT, judged.verdict.to_json())
}
