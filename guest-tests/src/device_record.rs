//! Reads device.jsonl, the device's record (docs/trace-format.md), and decisions.jsonl beside it.
//!
//! One typed line per event. A record without its trailer was cut short, and nothing may be judged from it.

use crate::differ::{self, Untrue};
use crate::ops::OpLine;
use fault_injection::event::Outcome;
use fault_injection::{EventRecord, Happened, Op, Record};
use guest_init::job::Action;
use serde::Deserialize;
use std::collections::BTreeMap;
use writeback_events::{BlockOp, OpId, RequestStatus};

/// What a device's record holds.
#[derive(Clone, Debug, Default)]
pub struct DeviceRecord {
    /// Requests in order of arrival.
    pub requests: Vec<Request>,
    /// The last line; none: the record was cut short.
    pub trailer: Option<Trailer>,
    /// Queues that saw requests, at most this number.
    pub queues: u16,
    /// Numbers of events that are missing between others.
    pub gaps: u64,
    /// Changes of the disk's size, in order.
    pub resizes: Vec<Resize>,
    marks: usize,
}

/// A change of the disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Sectors from then on.
    pub sectors: u64,
    /// `seq` of the first request that met it.
    pub seq: u64,
    /// Marks that had been set by then.
    pub marks: usize,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Arrival order, from 0.
    pub seq: u64,
    /// Connection and driver it came by.
    pub session: u32,
    /// Virtqueue.
    pub queue: u16,
    /// What was asked.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// When it came, on the device's clock.
    pub arrived_ns: u64,
    /// How it was answered; none: never.
    pub answer: Option<Answer>,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Order of answering, from 0.
    pub order: u64,
    /// virtio-blk's status byte.
    pub status: u8,
    /// When, on the device's clock.
    pub at_ns: u64,
    /// The host failed, not a script.
    pub host_error: bool,
}

/// The last line of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Trailer {
    /// The device wrote its record to the end.
    pub complete: bool,
    /// Events that did not fit the recorder's buffer.
    #[serde(default)]
    pub dropped: u64,
    /// How often each rule was carried out.
    #[serde(default)]
    pub fired: BTreeMap<String, u64>,
    /// What the script's own `expect` found missing.
    #[serde(default)]
    pub unmet: Vec<String>,
    /// Chains that were no request.
    #[serde(default)]
    pub malformed: u64,
    /// Requests still unanswered at the end.
    #[serde(default)]
    pub unanswered: u64,
    /// The first host error.
    #[serde(default)]
    pub host_error: Option<serde_json::Value>,
}

/// Every event is numbered without gaps.
#[derive(Deserialize)]
struct Numbered {
    n: Option<u64>,
}

/// One line, as far as it is used here.
#[derive(Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
enum Line {
    Issue {
        seq: u64,
        session: u32,
        queue: u16,
        op: Option<Op>,
        sector: u64,
        sectors: u64,
        t_ns: u64,
    },
    Complete {
        seq: u64,
        status: u8,
        host_error: bool,
        t_ns: u64,
    },
    Mark {},
    Resize {
        seq: u64,
        capacity_sectors: u64,
    },
    Trailer(Trailer),
    #[serde(other)]
    Other,
}

/// Reads device.jsonl. The first line is its header.
pub fn read(text: &str) -> Result<DeviceRecord, String> {
    let mut record = DeviceRecord::default();
    let mut place: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut answered, mut next_n) = (0, 0);
    for (number, line) in text.lines().enumerate().skip(1) {
        let wrong = |error| format!("line {} of device.jsonl: {error}", number + 1);
        if let Numbered { n: Some(n) } = serde_json::from_str(line).map_err(wrong)? {
            record.gaps += n.abs_diff(next_n);
            next_n = n + 1;
        }
        let line: Line = serde_json::from_str(line).map_err(wrong)?;
        match line {
            Line::Issue { seq, session, queue, op: Some(op), sector, sectors, t_ns } => {
                place.insert(seq, record.requests.len());
                record.queues = record.queues.max(queue + 1);
                record.requests.push(Request {
                    seq,
                    session,
                    queue,
                    op,
                    sector,
                    sectors,
                    arrived_ns: t_ns,
                    answer: None,
                });
            }
            Line::Complete { seq, status, host_error, t_ns } => {
                if let Some(&at) = place.get(&seq) {
                    record.requests[at].answer = Some(Answer { order: answered, status, at_ns: t_ns, host_error });
                    answered += 1;
                }
            }
            Line::Mark {} => record.marks += 1,
            Line::Resize { seq, capacity_sectors: sectors } => {
                record.resizes.push(Resize { sectors, seq, marks: record.marks });
            }
            Line::Trailer(trailer) => record.trailer = Some(trailer).filter(|trailer| trailer.complete),
            Line::Issue { .. } | Line::Other => {}
        }
    }
    record.requests.sort_by_key(|request| request.seq);
    Ok(record)
}

impl DeviceRecord {
    /// Why nothing may be judged from it; empty: it is whole.
    pub fn losses(&self) -> Vec<String> {
        match &self.trailer {
            None => vec!["the device's record, device.jsonl, was cut short: its trailer is missing".to_owned()],
            Some(trailer) if trailer.dropped + self.gaps > 0 => {
                vec![format!("the device's record, device.jsonl, lost {} events", trailer.dropped.max(self.gaps))]
            }
            Some(_) => Vec::new(),
        }
    }

    /// Requests that the guest's block layer traces: all but GET_ID.
    pub fn traced(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.op != Op::GetId).collect()
    }
}

/// The same request in the differ's words.
pub fn for_differ(request: &Request) -> differ::DeviceRequest {
    differ::DeviceRequest {
        session: request.session,
        op: match request.op {
            Op::Read => BlockOp::Read,
            Op::Write => BlockOp::Write,
            Op::Flush => BlockOp::Flush,
            Op::Discard => BlockOp::Discard,
            Op::WriteZeroes | Op::GetId => BlockOp::Other,
        },
        sector: request.sector,
        sectors: request.sectors,
        status: request.answer.map(|answer| match answer.status {
            0 => RequestStatus::Ok,
            1 => RequestStatus::Ioerr,
            2 => RequestStatus::Unsupp,
            other => RequestStatus::Other(other),
        }),
        untrue: None,
    }
}

/// All that the guest's block layer traces, in the differ's words, with what the decisions say of lies. `goes_on`: the guest goes on
/// behind a power cut, and is not told of it.
pub fn all_for_differ(
    device: &DeviceRecord,
    decisions: Option<&Decisions>,
    goes_on: bool,
) -> Vec<differ::DeviceRequest> {
    let untrue = decisions.map(|decisions| decisions.untrue(goes_on)).unwrap_or_default();
    let one = |request: &Request| {
        let untrue = untrue.get(&request.seq).copied();
        differ::DeviceRequest { untrue, ..for_differ(request) }
    };
    device.traced().into_iter().map(one).collect()
}

/// Changes of the disk's size, in the differ's words. The k-th mark is the k-th that the workload sets.
pub fn resized(device: &DeviceRecord, ops: &[OpLine]) -> Vec<differ::Resized> {
    let traced = device.traced();
    let marks: Vec<OpId> = ops
        .iter()
        .filter(|line| matches!(line.args.action, Action::Mark { .. }))
        .map(|line| OpId(line.index))
        .collect();
    let mut to_come = ops.iter();
    let mut seen = |wanted: u64| {
        let waits = |line: &&OpLine| matches!(line.args.action, Action::AwaitCapacity { sectors } if sectors == wanted);
        let came = |line: &&OpLine| line.result.as_ref().is_some_and(|result| result.errno.is_none());
        to_come.find(waits).filter(came).map(|line| OpId(line.index))
    };
    let one = |resize: &Resize| differ::Resized {
        sectors: resize.sectors,
        before: traced.iter().position(|request| request.seq >= resize.seq).unwrap_or(traced.len()),
        behind: resize.marks.checked_sub(1).and_then(|last| marks.get(last).copied()),
        seen: seen(resize.sectors),
    };
    device.resizes.iter().map(one).collect()
}

/// What decisions.jsonl holds.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// Every rule of the script, with how often it was carried out (not: shadowed by another), and every event that happened.
    pub fired: BTreeMap<String, u64>,
    /// Every firing, in order.
    pub records: Vec<Record>,
    /// What happened to the device as a whole, in order: events of the script, and what was done by hand.
    pub events: Vec<EventRecord>,
}

impl Decisions {
    /// What lies have made untrue, by `seq` of the request that was answered with one.
    fn untrue(&self, goes_on: bool) -> BTreeMap<u64, Untrue> {
        let counts = |outcome: &Outcome| goes_on || !matches!(outcome, Outcome::PowerCut {});
        let of_rule = self.records.iter().filter(|record| counts(&record.outcome));
        let of_rule = of_rule.filter_map(|record| Some((record.seq, untrue(&record.outcome)?)));
        let cut = |event: &&EventRecord| goes_on && matches!(event.event, Happened::PowerCut {});
        let of_event = self.events.iter().filter(cut).map(|event| (event.seq, Untrue::Elsewhere));
        let mut all = BTreeMap::new();
        for (seq, untrue) in of_rule.chain(of_event) {
            let worst = all.entry(seq).or_insert(untrue);
            *worst = untrue.max(*worst);
        }
        all
    }

    /// Where it holds another number of firings than the device counted; empty: it is whole.
    pub fn losses(&self, counted: &BTreeMap<String, u64>) -> Vec<String> {
        let held = |rule: &String| self.fired.get(rule).copied().unwrap_or(0);
        let differing = counted.iter().filter(|(rule, count)| held(rule) != **count);
        let say = |(rule, count): (&String, &u64)| {
            format!("decisions.jsonl holds {} firings of rule {rule}, the device counted {count}", held(rule))
        };
        differing.map(say).collect()
    }
}

fn untrue(outcome: &Outcome) -> Option<Untrue> {
    match outcome {
        Outcome::Partial { status: 0, .. }
        | Outcome::Torn { .. }
        | Outcome::Lose {}
        | Outcome::Corrupt { .. }
        | Outcome::Stale { .. } => Some(Untrue::Itself),
        Outcome::Misdirect { .. } | Outcome::PowerCut {} => Some(Untrue::Elsewhere),
        Outcome::Partial { .. }
        | Outcome::Error { .. }
        | Outcome::Delay { .. }
        | Outcome::Hold {}
        | Outcome::Reorder { .. }
        | Outcome::ReorderStarved { .. }
        | Outcome::Split { .. }
        | Outcome::Set(_)
        | Outcome::Shadowed { .. } => None,
    }
}

/// Reads decisions.jsonl: a header, then one line per firing or event.
pub fn read_decisions(text: &str) -> Result<Decisions, String> {
    let mut lines = text.lines().enumerate();
    let mut decisions = Decisions::default();
    let Some((_, header)) = lines.next() else { return Err("decisions.jsonl is empty: its header is missing".into()) };
    let header: fault_injection::Header =
        serde_json::from_str(header).map_err(|error| format!("the header of decisions.jsonl: {error}"))?;
    decisions.fired = header.rules.into_iter().map(|rule| (rule, 0)).collect();
    for (number, line) in lines {
        let wrong = |error| format!("line {} of decisions.jsonl: {error}", number + 1);
        let value: serde_json::Value = serde_json::from_str(line).map_err(wrong)?;
        if value.get("event").is_some() {
            let event: EventRecord = serde_json::from_value(value).map_err(wrong)?;
            // Where a path leads is what the device has learned, and no fault.
            if !matches!(event.event, Happened::Path { .. }) {
                *decisions.fired.entry(event.rule.clone()).or_default() += 1;
            }
            decisions.events.push(event);
            continue;
        }
        let record: Record = serde_json::from_value(value).map_err(wrong)?;
        // What ends a window that did not fill is said beside the firing that put its last request there.
        let carried_out = !matches!(record.outcome, Outcome::Shadowed { .. } | Outcome::ReorderStarved { .. });
        *decisions.fired.entry(record.rule.clone()).or_default() += u64::from(carried_out);
        decisions.records.push(record);
    }
    Ok(decisions)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"record":1}
{"n":0,"ev":"session","session":1,"why":"connect","t_ns":1}
{"n":1,"ev":"issue","seq":0,"session":1,"queue":0,"op":"write","sector":8,"sectors":8,"inflight":0,"t_ns":10}
{"n":2,"ev":"issue","seq":1,"session":1,"queue":0,"op":"get_id","sector":0,"sectors":0,"inflight":1,"t_ns":11}
{"n":3,"ev":"complete","seq":0,"session":1,"queue":0,"op":"write","sector":8,"sectors":8,"status":1,"used_len":1,"moved_bytes":0,"fired":true,"host_error":false,"t_ns":20}
"#;
    const END: &str = r#"{"ev":"trailer","complete":true,"dropped":0,"requests":2,"unmet":[]}"#;

    #[test]
    fn requests_come_in_arrival_order_with_their_answers() {
        let record = read(&format!("{RECORD}{END}\n")).unwrap();
        assert_eq!(record.traced().len(), 1);
        assert_eq!(for_differ(record.traced()[0]).status, Some(RequestStatus::Ioerr));
        assert_eq!(record.requests[1].answer, None);
        assert_eq!(record.losses(), [""; 0]);
    }

    #[test]
    fn a_record_without_its_end_or_with_dropped_events_is_a_loss() {
        assert_eq!(read(RECORD).unwrap().losses().len(), 1);
        let dropped = END.replace(r#""dropped":0"#, r#""dropped":3"#);
        let lost = |n| [format!("the device's record, device.jsonl, lost {n} events")];
        assert_eq!(read(&format!("{RECORD}{dropped}\n")).unwrap().losses(), lost(3));
        let gap = RECORD.replace(r#""n":3"#, r#""n":4"#);
        assert_eq!(read(&format!("{gap}{END}\n")).unwrap().losses(), lost(1));
        let cut = END.replace("true", "false");
        assert_eq!(read(&format!("{RECORD}{cut}\n")).unwrap().losses().len(), 1);
    }

    #[test]
    fn an_event_of_the_script_stands_among_the_firings() {
        let text = r#"{"decisions":1,"seed":0,"queues":1,"deterministic":true,"why":[],"rules":["r"]}
{"seq":3,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"lose":{}}}
{"seq":4,"rule":"ro","event":{"fail_class":"writes"}}
{"seq":5,"rule":"@path","event":{"path":{"path":"/f","inode":12}}}
"#;
        let decisions = read_decisions(text).unwrap();
        assert_eq!((decisions.records.len(), decisions.events.len()), (1, 2));
        assert_eq!(decisions.fired, [("r".to_owned(), 1), ("ro".to_owned(), 1)].into());
        assert!(read_decisions(&format!("{text}{{}}\n")).unwrap_err().contains("line 5"));
        assert!(read_decisions("").unwrap_err().contains("empty"));
        assert_eq!(decisions.losses(&[("r".to_owned(), 1)].into()), [""; 0]);
        assert_eq!(decisions.losses(&[("r".to_owned(), 2)].into()).len(), 1, "a line was lost");
    }

    #[test]
    fn a_rule_that_another_shadowed_was_not_carried_out() {
        let text = r#"{"decisions":1,"seed":0,"queues":1,"deterministic":true,"why":[],"rules":["r","s"]}
{"seq":3,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"lose":{}}}
{"seq":3,"rule":"s","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"shadowed":{"by":"r"}}}
"#;
        let decisions = read_decisions(text).unwrap();
        assert_eq!(decisions.fired, [("r".to_owned(), 1), ("s".to_owned(), 0)].into());
        assert_eq!(decisions.records.len(), 2);
    }

    #[test]
    fn a_window_that_time_closed_is_no_firing_of_its_own() {
        let text = r#"{"decisions":1,"seed":0,"queues":1,"deterministic":true,"why":[],"rules":["r"]}
{"seq":3,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"reorder":{"window":0,"slot":0}}}
{"seq":3,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"reorder_starved":{"window":0,"order":[0]}}}
"#;
        assert_eq!(read_decisions(text).unwrap().fired, [("r".to_owned(), 1)].into());
    }

    #[test]
    fn a_resize_lies_behind_the_marks_before_it_and_is_seen_by_the_operation_that_waits_for_its_size() {
        let text = format!(
            "{RECORD}{}\n{}\n{}\n{END}\n",
            r#"{"n":4,"ev":"mark","session":1,"name":"small","t_ns":21}"#,
            r#"{"n":5,"ev":"resize","seq":2,"session":1,"capacity_sectors":64,"was_sectors":128,"by":"event","notified":true,"t_ns":22}"#,
            r#"{"n":6,"ev":"issue","seq":2,"session":1,"queue":0,"op":"write","sector":8,"sectors":8,"inflight":0,"t_ns":30}"#,
        );
        let op = |index: u32, op: &str| -> OpLine {
            let result = r#"{"returned":0,"errno":null,"inode":null,"elapsed_us":1}"#;
            serde_json::from_str(&format!(r#"{{"index":{index},"args":{op},"result":{result}}}"#)).unwrap()
        };
        let waits = |index, sectors: u64| op(index, &format!(r#"{{"op":"await_capacity","sectors":{sectors}}}"#));
        let ops = [op(3, r#"{"op":"mark","name":"small"}"#), waits(4, 32), waits(5, 64)];
        let resized = resized(&read(&text).unwrap(), &ops);
        let (behind, seen) = (Some(OpId(3)), Some(OpId(5)));
        assert_eq!(resized, [differ::Resized { sectors: 64, before: 1, behind, seen }]);
    }

    #[test]
    fn lies_make_their_own_requests_untrue_and_a_misdirected_one_others_too() {
        let text = r#"{"decisions":1,"seed":0,"queues":1,"deterministic":true,"why":[],"rules":["r"]}
{"seq":0,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"lose":{}}}
{"seq":1,"rule":"r","match":1,"op":"write","sector":8,"sectors":8,"touch":1,"key":"address","outcome":{"partial":{"status":1,"moved_bytes":0}}}
{"seq":2,"rule":"cut","event":{"power_cut":{}}}
"#;
        let decisions = read_decisions(text).unwrap();
        assert_eq!(decisions.untrue(false), [(0, Untrue::Itself)].into());
        assert_eq!(decisions.untrue(true), [(0, Untrue::Itself), (2, Untrue::Elsewhere)].into());
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        assert!(read(&format!("{RECORD}nonsense\n")).unwrap_err().contains("line 6"));
    }
}
