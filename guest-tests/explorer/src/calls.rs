//! A schedule as replica calls, where no call is interrupted: what another implementation of the path can be held against.
//!
//! Waiting is no call, and does not interrupt one. The last call may still be under way where the schedule ends: then the calls go a
//! little further than it.

use crate::schedule::{Played, Schedule};
use ext4_replica::Event;
use ext4_replica::explore::{Activity, Choice, Move, Outcome, Role, ThreadName};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A thread between two of its steps.
#[derive(Clone, Debug)]
struct Doing {
    activity: Activity,
    stage: Stage,
}

/// Which call a thread is in, or makes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    /// Of a direct write: what the generic code came to.
    Generic(Outcome),
    Return(Outcome),
}

/// A call under way.
struct Open {
    thread: ThreadName,
    line: usize,
    conversions: Vec<i32>,
    allocations: u32,
}

struct Writer<'a> {
    schedule: &'a Schedule,
    lines: Vec<Value>,
    doing: BTreeMap<ThreadName, Doing>,
    open: Option<Open>,
}

/// The calls, one JSON object per line; none where one call interrupts another.
pub fn calls(schedule: &Schedule, played: &[Played]) -> Option<String> {
    let mut writer = Writer { schedule, lines: machine(schedule), doing: BTreeMap::new(), open: None };
    for step in played {
        writer.step(step)?;
    }
    let lines: Vec<String> = writer.close()?.into_iter().map(|line| line.to_string() + "\n").collect();
    Some(lines.concat())
}

/// The calls that make the machine.
fn machine(schedule: &Schedule) -> Vec<Value> {
    let layout = &schedule.layout;
    let mut lines = vec![json!({ "call": "device", "max_pages": layout.max_pages })];
    for (ino, size, extents, dirty) in layout.described() {
        let ino = ino.0;
        lines.push(
            json!({ "call": "inode", "ino": ino, "block_bits": layout.block_bits, "size": size, "extents": extents }),
        );
        lines.extend(dirty.iter().map(|lblk| json!({ "call": "dirty", "ino": ino, "lblk": lblk, "len": 1 })));
    }
    lines
}

impl Writer<'_> {
    fn step(&mut self, step: &Played) -> Option<()> {
        let thread = step.by.thread();
        if matches!(thread.role, Role::Truncate | Role::Evict) || is_wait(step.function) {
            return Some(());
        }
        match step.by {
            Move::Start(_, activity) => {
                self.doing.insert(thread, Doing { activity, stage: Stage::First });
                // Only these take a step as they begin.
                if matches!(thread.role, Role::Interrupt | Role::Worker) {
                    self.enter(thread)?;
                }
            }
            Move::Step(_, Choice::Generic(outcome)) => {
                self.close_if_of(thread);
                let stage = if is_at_once(outcome, self.doing.get(&thread)?) {
                    Stage::Return(outcome)
                } else {
                    Stage::Generic(outcome)
                };
                self.doing.get_mut(&thread)?.stage = stage;
            }
            Move::Step(..) => {
                self.ends_direct(thread, step);
                self.enter(thread)?;
            }
        }
        self.take_note(step)?;
        if step.done {
            self.close_if_of(thread);
        }
        Some(())
    }

    /// `ext4_end_io_dio` has come back, and the generic code with it.
    fn ends_direct(&mut self, thread: ThreadName, step: &Played) {
        let Some(doing) = self.doing.get_mut(&thread) else { return };
        if let (Stage::Generic(outcome), "ext4_ext_direct_IO") = (doing.stage, step.function) {
            doing.stage = Stage::Return(outcome);
            self.close_if_of(thread);
        }
    }

    /// A step of a thread: of the call under way, which must be its own, or the first of a new one.
    fn enter(&mut self, thread: ThreadName) -> Option<()> {
        if let Some(open) = &self.open {
            return (open.thread == thread).then_some(());
        }
        let call = self.call(self.doing.get(&thread)?);
        self.open = Some(Open { thread, line: self.lines.len(), conversions: Vec::new(), allocations: 0 });
        self.lines.push(call);
        Some(())
    }

    /// What a call's line must say of what happens within it.
    fn take_note(&mut self, step: &Played) -> Option<()> {
        let Some(open) = &mut self.open else { return Some(()) };
        let asked = |event: &Event| matches!(event, Event::InitIoEnd { .. } | Event::AllocFailed { .. });
        if step.by == Move::Step(open.thread, Choice::NoMemory) {
            // Only the first one of a call can be told to fail.
            if open.allocations > 0 {
                return None;
            }
            self.lines[open.line]["fail_alloc"] = json!(true);
        }
        open.allocations += step.events.iter().filter(|event| asked(event)).count() as u32;
        let result = |event: &Event| match event {
            Event::ConvertUnwritten { result, .. } => Some(*result),
            _ => None,
        };
        open.conversions.extend(step.events.iter().filter_map(result));
        Some(())
    }

    fn close_if_of(&mut self, thread: ThreadName) {
        if self.open.as_ref().is_some_and(|open| open.thread == thread) {
            self.close_call();
        }
    }

    fn close_call(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.conversions.iter().any(|result| *result != 0) {
            let ino = self.doing.get(&open.thread).and_then(|doing| self.inode_of(doing.activity)).unwrap_or(0);
            self.lines.insert(open.line, json!({ "call": "fail_convert", "ino": ino, "errors": open.conversions }));
        }
    }

    fn close(mut self) -> Option<Vec<Value>> {
        self.close_call();
        Some(self.lines)
    }

    fn inode_of(&self, activity: Activity) -> Option<u64> {
        Some(match activity {
            Activity::SubmitRange { ino, .. }
            | Activity::Writepage { ino, .. }
            | Activity::Work { ino }
            | Activity::Direct { ino, .. }
            | Activity::Fsync { ino }
            | Activity::Truncate { ino }
            | Activity::Evict { ino } => ino.0,
            // A machine with two files has no direct writes that fail to convert in an interrupt.
            Activity::EndBio { .. } | Activity::EndDirect { .. } => self.schedule.layout.described().first()?.0.0,
        })
    }

    fn call(&self, doing: &Doing) -> Value {
        let bits = self.schedule.layout.block_bits;
        match doing.activity {
            Activity::SubmitRange { ino, first_page, next_page } => {
                json!({ "call": "submit_range", "ino": ino.0, "first_page": first_page, "next_page": next_page })
            }
            Activity::Writepage { ino, page } => json!({ "call": "writepage", "ino": ino.0, "page": page }),
            Activity::EndBio { bio, error } => json!({ "call": "end_bio", "bio": bio.0, "error": error }),
            Activity::Work { ino } => json!({ "call": "run_work", "ino": ino.0 }),
            Activity::Fsync { ino } => json!({ "call": "flush_completed", "ino": ino.0 }),
            Activity::EndDirect { iocb, error } => {
                let (offset, bytes) =
                    self.direct_of(iocb.0).map_or((0, 0), |(first, len)| (first << bits, len << bits));
                let ret = if error == 0 { bytes as i64 } else { i64::from(error) };
                json!({ "call": "dio_end", "iocb": iocb.0, "offset": offset, "bytes": bytes, "ret": ret, "async": true })
            }
            Activity::Direct { ino, first, len, is_async } => {
                self.direct(doing, ino.0, first << bits, len << bits, is_async)
            }
            Activity::Truncate { .. } | Activity::Evict { .. } => Value::Null,
        }
    }

    fn direct(&self, doing: &Doing, ino: u64, offset: u64, len: u64, is_async: bool) -> Value {
        let iocb = self.iocb_of(doing);
        let block = 1_u64 << self.schedule.layout.block_bits;
        let (bytes, ret) = match doing.stage {
            Stage::First => {
                return json!({ "call": "dio_submit", "ino": ino, "offset": offset, "len": len, "async": is_async });
            }
            Stage::Generic(outcome) | Stage::Return(outcome) => match outcome {
                Outcome::Whole if is_async => (len, -529),
                Outcome::Whole => (len, len as i64),
                Outcome::WholeFails => (len, -5),
                Outcome::Partial => (block, block as i64),
                Outcome::PartialError => (block, -14),
                Outcome::Nothing => (0, -14),
            },
        };
        match doing.stage {
            Stage::Return(_) => json!({ "call": "dio_return", "iocb": iocb, "ret": ret }),
            _ => json!({ "call": "dio_end", "iocb": iocb, "offset": offset, "bytes": bytes, "ret": ret }),
        }
    }

    /// Direct writes are numbered in the order of their `dio_submit`s, as whole calls have one. One without memory has no number.
    fn submitted(&self) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["call"] == "dio_submit" && line["fail_alloc"] != true).collect()
    }

    fn direct_of(&self, iocb: u32) -> Option<(u64, u64)> {
        let line = *self.submitted().get(iocb as usize - 1)?;
        let bits = self.schedule.layout.block_bits;
        Some((line["offset"].as_u64()? >> bits, line["len"].as_u64()? >> bits))
    }

    fn iocb_of(&self, doing: &Doing) -> usize {
        let Activity::Direct { ino, first, len, is_async } = doing.activity else { return 0 };
        let bits = self.schedule.layout.block_bits;
        let is = |line: &&Value| {
            line["ino"] == ino.0
                && line["offset"] == first << bits
                && line["len"] == len << bits
                && line["async"] == is_async
        };
        // Of two equal ones the later is meant: the earlier has returned, unless one interrupts the other.
        self.submitted().iter().rposition(is).map_or(0, |place| place + 1)
    }
}

/// The generic code returns without a call of `ext4_end_io_dio` by this thread.
fn is_at_once(outcome: Outcome, doing: &Doing) -> bool {
    let is_async = matches!(doing.activity, Activity::Direct { is_async: true, .. });
    outcome == Outcome::Nothing || outcome == Outcome::Whole && is_async
}

fn is_wait(function: &str) -> bool {
    ["ext4_unwritten_wait", "ext4_ioend_wait", "inode_dio_wait", "wait_on_page_writeback"].contains(&function)
}
