//! Workloads in a line each, for tests.

use crate::ops::{OpLine, OpResult};
use guest_init::job::Op;
use guest_init::pattern::Pattern;

/// One line per operation, as in a scenario; `! ERRNO` at its end: it failed; `?`: it never came back.
pub fn ops(lines: &[&str]) -> Vec<OpLine> {
    (0..).zip(lines).map(|(index, line)| op(index, line)).collect()
}

fn op(index: u32, line: &str) -> OpLine {
    let (words, result) = match line.rsplit_once(" ! ") {
        Some((words, errno)) => (words, Some(Some(errno.parse().expect("an errno")))),
        None => match line.strip_suffix(" ?") {
            Some(words) => (words, None),
            None => (line, Some(None)),
        },
    };
    let args: Op = serde_json::from_str(words).expect("an operation");
    let result = result.map(|errno| OpResult { returned: 0, errno, inode: None, read: None, elapsed_us: 0 });
    OpLine { index, args, result }
}

pub fn create(path: &str) -> String {
    format!(r#"{{"op":"create","path":"{path}"}}"#)
}

pub fn write(path: &str, offset: u64, len: u64, pattern: &str) -> String {
    format!(r#"{{"op":"write","path":"{path}","offset":{offset},"len":{len},"pattern":"{pattern}"}}"#)
}

pub fn fsync(path: &str) -> String {
    format!(r#"{{"op":"fsync","path":"{path}"}}"#)
}

pub fn two(op: &str, path: &str, to: &str) -> String {
    format!(r#"{{"op":"{op}","path":"{path}","to":"{to}"}}"#)
}

pub fn bytes(pattern: &str, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Pattern::new(pattern).fill(offset, &mut data);
    data
}
