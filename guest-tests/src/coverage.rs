//! What a run has tried: which faults fired on what, which were ready to, and which steps the replica took in which state.
//!
//! Made from a run's folder as the judge reads it, so judging again tells the same. The words and the finite sets they come
//! from are those of `night_report::universe`; docs/nightly-report.md lists them.

use crate::device_record::{Decisions, DeviceRecord};
use crate::judge::{Judged, Recorded};
use fault_injection::event::Outcome;
use fault_injection::{Op, Record};
use night_results::{Armed, Fired};
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{IoEndId, Response};

/// The class of a request without blocks, such as a flush.
const NO_BLOCKS: &str = "-";
/// Nobody looked what the block is to ext4: no rule of the script asks.
const NOT_LOOKED: &str = "any";
/// All classes.
const EVERY_CLASS: &str = "ext4";

/// What a result line tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Faults that happened.
    pub fired: Vec<Fired>,
    /// Faults the script was ready for.
    pub armed: Vec<Armed>,
    /// Steps of the replica with the io_end's state before each.
    pub pairs: Vec<String>,
}

/// What this run has tried. Of what cannot be read there is nothing to tell.
pub fn of(recorded: &Recorded, judged: &Judged) -> Coverage {
    let none = Decisions::default();
    let decisions = recorded.decisions.as_ref().unwrap_or(&none);
    Coverage {
        fired: fired(decisions, recorded.device.as_ref().ok()),
        armed: armed(recorded),
        pairs: judged.comparison.as_ref().map_or_else(Vec::new, |judgement| {
            pairs(judgement.replica.iter().map(|(_, response)| response)).into_iter().collect()
        }),
    }
}

fn fired(decisions: &Decisions, device: Option<&DeviceRecord>) -> Vec<Fired> {
    let mut counted: BTreeMap<(&str, String, &str, &str), u64> = BTreeMap::new();
    for record in decisions.records.iter().filter(|record| record.op != Op::GetId) {
        let Some(action) = action(&record.outcome) else { continue };
        *counted.entry((action, op_word(record.op), class(record), answer(record, device))).or_default() += 1;
    }
    let one = |((action, op, class, outcome), n): ((&str, String, &str, &str), u64)| Fired {
        action: action.to_owned(),
        op,
        class: class.to_owned(),
        outcome: outcome.to_owned(),
        n,
    };
    counted.into_iter().map(one).collect()
}

/// The action that was carried out. None: it was not (another rule had won), it is no fault, or it is told by another line.
fn action(outcome: &Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Error { .. } => "error",
        Outcome::Partial { .. } => "partial",
        Outcome::Torn { .. } => "torn",
        Outcome::Lose {} => "lose",
        Outcome::Misdirect { .. } => "misdirect",
        Outcome::Corrupt { .. } => "corrupt",
        Outcome::Stale { .. } => "stale",
        Outcome::PowerCut {} => "power_cut",
        Outcome::Delay { .. } => "delay",
        Outcome::Hold {} => "hold",
        Outcome::Reorder { .. } => "reorder",
        Outcome::Split { .. } => "split",
        Outcome::Set(_) | Outcome::ReorderStarved { .. } | Outcome::Shadowed { .. } => return None,
    })
}

fn op_word(op: Op) -> String {
    serde_json::to_value(op).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn class(record: &Record) -> &'static str {
    match &record.file {
        _ if record.op == Op::Flush => NO_BLOCKS,
        Some(file) => file.class.word(),
        None => NOT_LOOKED,
    }
}

/// What the guest was answered in the end, whatever other rules had a part in it.
fn answer(record: &Record, device: Option<&DeviceRecord>) -> &'static str {
    let Some(device) = device else { return "unknown" };
    let request = device.requests.binary_search_by_key(&record.seq, |request| request.seq).ok();
    match request.map(|place| device.requests[place].answer) {
        None => "unknown",
        Some(None) => "unanswered",
        Some(Some(answer)) if answer.host_error => "host_error",
        Some(Some(answer)) => match answer.status {
            0 => "ok",
            1 => "ioerr",
            2 => "unsupp",
            _ => "other",
        },
    }
}

fn armed(recorded: &Recorded) -> Vec<Armed> {
    let script = &recorded.scenario.script;
    let unnamed = if script.needs_the_file_system() { EVERY_CLASS } else { NOT_LOOKED };
    let one = |kind: fault_injection::kinds::Kind| Armed {
        action: kind.action.to_owned(),
        op: kind.op.to_owned(),
        class: if kind.op == "flush" { NO_BLOCKS } else { kind.class.unwrap_or(unnamed) }.to_owned(),
    };
    script.kinds().into_iter().map(one).collect::<BTreeSet<_>>().into_iter().collect()
}

/// An io_end between two steps.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    count: u32,
    unwritten: bool,
    /// One of its bios has ended with an error.
    failed: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Somebody holds it, or has just dropped the last reference.
    #[default]
    Held,
    /// It waits for the worker.
    Queued,
    /// Its extents are being converted.
    Converting,
}

impl State {
    fn words(self) -> String {
        let refs = match (self.stage, self.count) {
            (Stage::Queued, _) => "queued",
            (Stage::Converting, _) => "converting",
            (Stage::Held, 0) => "0",
            (Stage::Held, 1) => "1",
            (Stage::Held, 2) => "2",
            (Stage::Held, _) => "3+",
        };
        let kind = if self.unwritten { "unwritten" } else { "written" };
        format!("{kind} {refs}{}", if self.failed { " failed" } else { "" })
    }
}

/// Each step of the replica with the state of its io_end before it: `unwritten 2 failed > put_io_end_defer`.
fn pairs<'a>(responses: impl Iterator<Item = &'a Response>) -> BTreeSet<String> {
    let mut states: BTreeMap<IoEndId, State> = BTreeMap::new();
    responses.filter_map(|response| pair(&mut states, response)).collect()
}

fn pair(states: &mut BTreeMap<IoEndId, State>, response: &Response) -> Option<String> {
    if let Response::InitIoEnd { io_end, count, unwritten, .. } = *response {
        states.insert(io_end, State { count, unwritten, ..State::default() });
        return Some("unborn > init_io_end".to_owned());
    }
    let (io_end, step) = step(response)?;
    let state = states.entry(io_end).or_default();
    let before = before(*state, response);
    *state = after(before, response);
    Some(format!("{} > {step}", before.words()))
}

fn step(response: &Response) -> Option<(IoEndId, &'static str)> {
    Some(match *response {
        Response::GetIoEnd { io_end, .. } => (io_end, "get_io_end"),
        Response::SubmitBio { io_end, .. } => (io_end, "submit_bio"),
        Response::EndBio { io_end, error: 0, .. } => (io_end, "end_bio"),
        Response::EndBio { io_end, .. } => (io_end, "end_bio error"),
        Response::PutIoEndDefer { io_end, .. } => (io_end, "put_io_end_defer"),
        Response::PutIoEnd { io_end, .. } => (io_end, "put_io_end"),
        Response::AddCompleteIo { io_end, .. } => (io_end, "add_complete_io"),
        Response::ConvertUnwritten { io_end, .. } => (io_end, "convert_unwritten"),
        Response::ReleaseIoEnd { io_end, .. } => (io_end, "release_io_end"),
        _ => return None,
    })
}

/// An extent that is mapped sets the flag without a step of its own: the next step that tells it counts for what was before.
fn before(state: State, response: &Response) -> State {
    match *response {
        Response::GetIoEnd { count, unwritten, .. } => State { count: count.saturating_sub(1), unwritten, ..state },
        Response::PutIoEnd { count, unwritten, .. } | Response::PutIoEndDefer { count, unwritten, .. } => {
            State { count: count + 1, unwritten, ..state }
        }
        _ => state,
    }
}

fn after(state: State, response: &Response) -> State {
    match *response {
        Response::GetIoEnd { count, .. } | Response::PutIoEnd { count, .. } | Response::PutIoEndDefer { count, .. } => {
            State { count, ..state }
        }
        Response::EndBio { error, .. } => State { failed: state.failed || error != 0, ..state },
        Response::AddCompleteIo { .. } => State { stage: Stage::Queued, ..state },
        Response::ConvertUnwritten { .. } => State { stage: Stage::Converting, ..state },
        _ => state,
    }
}

#[cfg(test)]
mod tests;
