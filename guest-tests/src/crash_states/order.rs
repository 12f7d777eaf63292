//! What the workload had done when the power was cut: from recorded orders alone, never from a clock.
//!
//! Two witnesses, and what each of them makes certain:
//!
//! - A `mark` of the workload returns after the device has acknowledged it, and the device's record has it among everything
//!   else in one order. If it stands there before the cut, every operation before the mark had returned; if behind the cut,
//!   no operation after the mark had begun.
//! - Where trace and record are whole, each request of the guest is one of the device's. What the guest's trace has before
//!   the issue of a request that the device had when the cut came is before the cut; what it has behind the answer to a
//!   request that the device answered after the cut is after it.
//!
//! What neither says is not known: such an operation may have been under way.

use crate::device_record::{self, DeviceRecord};
use crate::differ;
use crate::durability::Reach;
use crate::ops::OpLine;
use fault_injection::Op;
use guest_init::job::Action;
use guest_init::writers::steps;
use kernel_trace::Decoded;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{Body, RequestId, Stimulus};

/// The device's record, reduced to what stands in which order.
#[derive(Debug, Default)]
pub struct Order {
    /// Names of marks with their places.
    marks: Vec<(u64, String)>,
    /// By the number of the cut: its place, and the `seq` of the first request after it.
    cuts: BTreeMap<u64, (u64, u64)>,
    /// By `seq` of the request.
    issued: BTreeMap<u64, u64>,
    completed: BTreeMap<u64, u64>,
    /// Bytes that a full cache wrote to the image before a flush.
    pub early_bytes: u64,
    /// A request was answered with something else than OK.
    pub refused_something: bool,
    /// Where the first of these answers stands.
    pub first_refused: Option<u64>,
    /// The same for requests that change the disk.
    pub first_refused_write: Option<u64>,
}

#[derive(Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
enum Line {
    Issue {
        n: u64,
        seq: u64,
        #[serde(default)]
        op: Option<Op>,
    },
    Complete {
        n: u64,
        seq: u64,
        status: u8,
    },
    Mark {
        n: u64,
        name: String,
    },
    PowerCut {
        n: u64,
        cut: u64,
        seq: u64,
    },
    CacheFull {
        early_bytes: u64,
    },
    #[serde(other)]
    Other,
}

impl Order {
    /// Reads device.jsonl; its first line is a header.
    pub fn read(text: &str) -> Result<Order, String> {
        let mut order = Order::default();
        let mut reads = BTreeSet::new();
        for (number, line) in text.lines().enumerate().skip(1) {
            let wrong = |error| format!("line {} of the device's record: {error}", number + 1);
            match serde_json::from_str(line).map_err(wrong)? {
                Line::Issue { n, seq, op } => {
                    order.issued.insert(seq, n);
                    if op == Some(Op::Read) {
                        reads.insert(seq);
                    }
                }
                Line::Complete { n, seq, status } => {
                    order.completed.insert(seq, n);
                    if status != 0 {
                        order.refused_something = true;
                        order.first_refused.get_or_insert(n);
                        if !reads.contains(&seq) {
                            order.first_refused_write.get_or_insert(n);
                        }
                    }
                }
                Line::Mark { n, name } => order.marks.push((n, name)),
                Line::PowerCut { n, cut, seq } => drop(order.cuts.insert(cut, (n, seq))),
                Line::CacheFull { early_bytes } => order.early_bytes += early_bytes,
                Line::Other => {}
            }
        }
        Ok(order)
    }

    /// The `seq` of the first request after a cut; none: the record has no such cut.
    pub fn seq(&self, cut: u64) -> Option<u64> {
        self.cuts.get(&cut).map(|(_, seq)| *seq)
    }

    /// How far the workload had come at a cut; none: the record has no such cut.
    pub fn reach(&self, cut: u64, ops: &[OpLine], seen: Option<&Seen>) -> Option<Reach> {
        let (at, _) = *self.cuts.get(&cut)?;
        Some(self.reach_at(at, ops, seen))
    }

    /// The same at any place of the record.
    pub fn reach_at(&self, at: u64, ops: &[OpLine], seen: Option<&Seen>) -> Reach {
        let by_marks = self.by_marks(at, ops);
        let by_trace = seen.map_or(everything_possible(ops), |seen| seen.reach(at, self));
        let returned = by_marks.returned.max(by_trace.returned);
        let begun = by_marks.begun.min(by_trace.begun).max(returned);
        in_whole_steps(Reach { returned, begun }, ops)
    }

    fn by_marks(&self, cut: u64, ops: &[OpLine]) -> Reach {
        let mut reach = everything_possible(ops);
        let of_workload = ops.iter().filter_map(|line| match &line.args.action {
            Action::Mark { name } if line.succeeded() => Some((line.index, name)),
            _ => None,
        });
        for ((index, name), (at, recorded)) in of_workload.zip(&self.marks) {
            // Somebody else sets marks too: then these say nothing.
            if name != recorded {
                return everything_possible(ops);
            }
            if *at < cut {
                reach.returned = index;
            } else {
                reach.begun = reach.begun.min(index);
            }
        }
        reach
    }
}

/// What several writers do at once has returned when all of it has, and has begun when any of it has.
fn in_whole_steps(reach: Reach, ops: &[OpLine]) -> Reach {
    let steps = steps(ops.iter().map(|line| &line.args));
    let step_at = |number: u32| steps.iter().find(|step| step.contains(&(number as usize)));
    let returned = step_at(reach.returned).map_or(reach.returned, |step| step.start as u32);
    let begun = reach.begun.checked_sub(1).and_then(step_at).map_or(reach.begun, |step| step.end as u32);
    Reach { returned, begun }
}

fn everything_possible(ops: &[OpLine]) -> Reach {
    Reach { returned: 0, begun: ops.len() as u32 }
}

/// The guest's trace, reduced to operations and requests.
#[derive(Debug, Default)]
pub struct Seen {
    /// By operation: where it begins and ends in the trace.
    ops: BTreeMap<u32, (u64, Option<u64>)>,
    /// `seq` of the device's request, with the places of its issue and its answer in the trace.
    requests: Vec<(u64, u64, Option<u64>)>,
}

impl Seen {
    /// Joins trace and record; an error says what one of them lacks.
    pub fn join(trace: &Decoded, device: &DeviceRecord) -> Result<Seen, String> {
        let mut gaps = trace.losses.describe();
        gaps.extend(device.losses());
        if !gaps.is_empty() {
            return Err(gaps.join("; "));
        }
        let traced = device.traced();
        let requests: Vec<differ::DeviceRequest> = traced.iter().copied().map(device_record::for_differ).collect();
        let joined = differ::join(&trace.entries, &requests, device.queues).map_err(|error| error.to_string())?;
        let (mut issued, mut answered) = (BTreeMap::<RequestId, u64>::new(), BTreeMap::new());
        for entry in &trace.entries {
            match &entry.body {
                // One that was requeued is issued again; the last time it went to the device.
                Body::Stimulus(Stimulus::RequestIssued { request, .. }) => {
                    issued.insert(*request, entry.seq);
                }
                Body::Answered { request } => {
                    answered.insert(*request, entry.seq);
                }
                _ => {}
            }
        }
        let request = |(request, place): (&RequestId, &usize)| {
            Some((traced.get(*place)?.seq, *issued.get(request)?, answered.get(request).copied()))
        };
        let requests = joined.device_of.iter().filter_map(request).collect();
        let ops = trace.ops.iter().map(|op| (op.op.0, (op.begins, op.ends.map(|(at, _)| at)))).collect();
        Ok(Seen { ops, requests })
    }

    /// `cut` is a place in the device's record.
    fn reach(&self, cut: u64, order: &Order) -> Reach {
        let before = |(seq, at, _): &(u64, u64, Option<u64>)| {
            order.issued.get(seq).is_some_and(|issued| *issued < cut).then_some(*at)
        };
        let after = |(seq, _, at): &(u64, u64, Option<u64>)| {
            order.completed.get(seq).is_some_and(|completed| *completed > cut).then_some(*at)?
        };
        // Everything up to here in the trace was before the cut, and everything from there on after it.
        let before = self.requests.iter().filter_map(before).max().unwrap_or(0);
        let after = self.requests.iter().filter_map(after).min().unwrap_or(u64::MAX);
        let returned = self.ops.iter().take_while(|(_, (_, ends))| ends.is_some_and(|ends| ends < before)).count();
        // Of several writers' operations a later one may have begun before an earlier one.
        let begun = self.ops.iter().rev().find(|(_, (begins, _))| *begins < after).map_or(0, |(op, _)| op + 1);
        Reach { returned: returned as u32, begun }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OpResult;
    use guest_init::writers::Writer;

    const HEADER: &str = "{\"record\":1}\n";

    fn ops(names: &[&str]) -> Vec<OpLine> {
        let op = |(index, name): (u32, &&str)| {
            let action = match name.strip_prefix("mark ") {
                Some(name) => Action::Mark { name: name.into() },
                None => Action::Sync {},
            };
            let result = OpResult { returned: 0, errno: None, inode: None, read: None, elapsed_us: 0 };
            let writer = name.strip_prefix("writer ").and_then(|number| Writer::new(number.parse().ok()?));
            OpLine { index, args: guest_init::job::Op { action, errno: None, writer }, result: Some(result) }
        };
        (0..).zip(names).map(op).collect()
    }

    fn mark(n: u64, name: &str) -> String {
        format!("{{\"n\":{n},\"ev\":\"mark\",\"seq\":0,\"session\":1,\"name\":\"{name}\",\"t_ns\":1}}\n")
    }

    fn cut(n: u64, cut: u64) -> String {
        format!("{{\"n\":{n},\"ev\":\"power_cut\",\"cut\":{cut},\"seq\":3,\"by\":\"x\",\"t_ns\":1}}\n")
    }

    fn request(n: u64, seq: u64) -> String {
        let issue = format!("{{\"n\":{n},\"ev\":\"issue\",\"seq\":{seq},\"t_ns\":1}}\n");
        issue + &format!("{{\"n\":{},\"ev\":\"complete\",\"seq\":{seq},\"status\":0,\"t_ns\":1}}\n", n + 1)
    }

    fn reach(returned: u32, begun: u32) -> Option<Reach> {
        Some(Reach { returned, begun })
    }

    #[test]
    fn what_stands_before_a_mark_before_the_cut_had_returned_and_what_stands_behind_one_after_it_had_not_begun() {
        let ops = ops(&["a", "mark one", "b", "c", "mark two", "d"]);
        let text = [HEADER.into(), cut(0, 1), mark(1, "one"), cut(2, 2), mark(3, "two"), cut(4, 3)].concat();
        let order = Order::read(&text).expect("a record");
        assert_eq!(order.reach(1, &ops, None), reach(0, 1));
        assert_eq!(order.reach(2, &ops, None), reach(1, 4));
        assert_eq!(order.reach(3, &ops, None), reach(4, 6));
        assert_eq!(order.reach(4, &ops, None), None);
        assert_eq!((order.seq(3), order.seq(4)), (Some(3), None));
    }

    #[test]
    fn marks_that_somebody_else_set_say_nothing() {
        let ops = ops(&["a", "mark one", "b"]);
        let text = [HEADER.into(), mark(1, "other"), mark(2, "one"), cut(3, 1)].concat();
        assert_eq!(Order::read(&text).expect("a record").reach(1, &ops, None), reach(0, 3));
    }

    #[test]
    fn a_request_that_was_with_the_device_at_the_cut_shows_what_had_returned() {
        // The trace: a 10..20, its request; b 30..60 with the requests 1 (31..39) and 2 (41..59); c 70..80.
        let ops = ops(&["a", "b", "c"]);
        let seen = Seen {
            ops: [(0, (10, Some(20))), (1, (30, Some(60))), (2, (70, Some(80)))].into(),
            requests: vec![(0, 11, Some(19)), (1, 31, Some(39)), (2, 41, Some(59)), (3, 71, Some(79))],
        };
        let text = |cut_at: u64| {
            let lines = [request(0, 0), request(10, 1), request(20, 2), request(30, 3)];
            [HEADER.into(), lines.concat(), cut(cut_at, 1)].concat()
        };
        let at = |n: u64| Order::read(&text(n)).expect("a record").reach(1, &ops, Some(&seen));
        assert_eq!(at(5), reach(0, 2), "a has surely answered, but nothing says that it had returned");
        assert_eq!(at(15), reach(1, 2));
        // Between the issue of request 2 and its answer.
        let text = [HEADER.into(), request(0, 0), request(10, 1), request(20, 2)].concat();
        let text = text.replace("\"n\":21", "\"n\":29") + &cut(25, 1);
        assert_eq!(Order::read(&text).expect("a record").reach(1, &ops, Some(&seen)), reach(1, 2));
        assert_eq!(at(35), reach(2, 3), "c's own request shows that b had returned");
    }

    #[test]
    fn what_several_writers_do_has_returned_when_all_of_it_has_and_begun_when_any_of_it_has() {
        // The second writer's operation begins and ends before the first one's has begun.
        let ops = ops(&["a", "writer 1", "writer 2", "d"]);
        let at = |cut_at: u64, requests: Vec<(u64, u64, Option<u64>)>| {
            let seen = Seen {
                ops: [(0, (10, Some(20))), (1, (50, Some(60))), (2, (30, Some(40))), (3, (70, Some(80)))].into(),
                requests,
            };
            let text = [HEADER.into(), request(0, 0), request(10, 1), cut(cut_at, 1)].concat();
            Order::read(&text).expect("a record").reach(1, &ops, Some(&seen))
        };
        assert_eq!(at(5, vec![(0, 31, Some(32)), (1, 45, Some(46))]), reach(1, 3), "the first has not begun");
        assert_eq!(at(15, vec![(0, 45, Some(46)), (1, 55, Some(56))]), reach(1, 4), "the second alone has returned");
        assert_eq!(at(15, vec![(0, 45, Some(46)), (1, 71, Some(72))]), reach(3, 4));
    }

    #[test]
    fn what_a_full_cache_wrote_early_and_refusals_are_counted() {
        let full = "{\"n\":0,\"ev\":\"cache_full\",\"seq\":1,\"limit_bytes\":9,\"early_bytes\":7,\"t_ns\":1}\n";
        let order = Order::read(&[HEADER, full, full].concat()).expect("a record");
        assert_eq!((order.early_bytes, order.refused_something), (14, false));
        let refused = request(0, 0).replace("\"status\":0", "\"status\":1");
        assert!(Order::read(&(HEADER.to_owned() + &refused)).expect("a record").refused_something);
        assert!(Order::read("{}\nnonsense\n").expect_err("no record").contains("line 2"));
    }
}
