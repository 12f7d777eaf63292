//! Lines of ops.jsonl: each operation of the workload with what came of it.

use guest_init::job::{Errno, Op};
use guest_init::protocol::{OpEnd, ReadBack};
use serde::{Deserialize, Serialize};

/// One operation. The index in the scenario is the `OpId` of the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpLine {
    /// Its place in the workload, from 0.
    pub index: u32,
    /// What was to be done, as the scenario says it.
    pub args: Op,
    /// What came back; none: it never did.
    pub result: Option<OpResult>,
}

/// What an operation returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpResult {
    /// The call's return value; for writes and reads the bytes done before any error.
    pub returned: i64,
    /// The error, if it ended with one.
    pub errno: Option<Errno>,
    /// Inode of the file.
    pub inode: Option<u64>,
    /// Digest and pattern map of the data read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadBack>,
    /// How long it took in the guest; order never comes from it.
    pub elapsed_us: u64,
}

impl From<&OpEnd> for OpResult {
    fn from(end: &OpEnd) -> OpResult {
        OpResult {
            returned: end.returned,
            errno: end.errno,
            inode: end.inode,
            read: end.read.clone(),
            elapsed_us: end.elapsed_us,
        }
    }
}

impl OpLine {
    /// Pairs the workload with what the guest said.
    pub fn pair(workload: &[Op], ends: &[OpEnd]) -> Vec<OpLine> {
        let result = |index: u32| ends.iter().find(|end| end.index == index).map(OpResult::from);
        let line = |(index, op): (u32, &Op)| OpLine { index, args: op.clone(), result: result(index) };
        (0..).zip(workload).map(line).collect()
    }

    /// It came back without an error.
    pub fn succeeded(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.errno.is_none())
    }

    /// The arguments for a person: `write f offset 0 len 4096 …`.
    pub fn describe(&self) -> String {
        let value = serde_json::to_value(&self.args).unwrap_or_default();
        let mut words = vec![self.args.action.name().to_owned()];
        for (key, value) in value.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("op" | "errno", _) => {}
                ("path" | "name", serde_json::Value::String(text)) => words.insert(1, text.clone()),
                (_, serde_json::Value::String(text)) => words.push(format!("{key} {text}")),
                (_, serde_json::Value::Bool(true)) => words.push(key.clone()),
                _ => words.push(format!("{key} {value}")),
            }
        }
        words.join(" ")
    }
}
