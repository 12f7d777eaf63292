//! Lines of guest.jsonl and replica.jsonl: event names and fields of the replica's calls, each with its `seq`.

use serde::Serialize;
use writeback_events::{Body, Entry, RequestId, Response, Stimulus};

/// One entry of the guest's trace.
#[derive(Serialize)]
pub struct GuestLine<'a> {
    seq: u64,
    cpu: u16,
    task: u32,
    interrupt: bool,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Stimulus(&'a Stimulus),
    Response(&'a Response),
    /// Without its status: that is the device's to say.
    Answered {
        st: &'static str,
        request: RequestId,
    },
}

impl<'a> GuestLine<'a> {
    /// The line for an entry.
    pub fn of(entry: &'a Entry) -> GuestLine<'a> {
        let what = match &entry.body {
            Body::Stimulus(stimulus) => What::Stimulus(stimulus),
            Body::Response(response) => What::Response(response),
            Body::Answered { request } => What::Answered { st: "request_answered", request: *request },
        };
        GuestLine { seq: entry.seq, cpu: entry.cpu, task: entry.task.0, interrupt: entry.interrupt, what }
    }
}

/// One response of the replica, at the place of the stimulus that caused it.
#[derive(Serialize)]
pub struct ReplicaLine<'a> {
    /// `seq` of that stimulus in the guest's trace.
    pub seq: u64,
    /// What it answered.
    #[serde(flatten)]
    pub response: &'a Response,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use writeback_events::{IoEndId, TaskId};

    #[test]
    fn a_line_has_the_names_of_the_replicas_events() {
        let response = Response::PutIoEndDefer { io_end: IoEndId(3), count: 1, unwritten: true };
        let entry = Entry { seq: 41, cpu: 0, task: TaskId(1), interrupt: true, body: Body::Response(response.clone()) };
        let line = serde_json::to_string(&GuestLine::of(&entry)).unwrap();
        let expected = r#"{"seq":41,"cpu":0,"task":1,"interrupt":true,"ev":"put_io_end_defer","io_end":3,"count":1,"unwritten":true}"#;
        assert_eq!(line, expected);
        let line = serde_json::to_string(&ReplicaLine { seq: 41, response: &response }).unwrap();
        assert_eq!(line, r#"{"seq":41,"ev":"put_io_end_defer","io_end":3,"count":1,"unwritten":true}"#);
    }
}
