//! What a disk's failures and lies explain, where nobody could say beforehand what they would do.
//!
//! A written scenario names the errors and complaints it is about. One that was drawn cannot, so what follows from a disk that
//! failed or broke its word is laid aside here, each with the reason. What no disk explains stays a finding: a BUG or a WARNING of the
//! kernel, an error that was kept from fsync, a range converted after its write failed, and, where the disk kept its word, data
//! that is stale, lost or corrupt, and damage that the kernel did not speak of.

use crate::findings::{
    CORRUPT_DATA_RETURNED, FILE_SYSTEM_DAMAGED, KERNEL_COMPLAINT, STALE_DATA_READ, UNEXPECTED_RESULT,
    WRITTEN_DATA_LOST, is_grave,
};
use crate::ops::OpLine;
use crate::verdict::{Explained, Finding};
use guest_init::job::Errno;

/// Errors by which a file system hands on what its disk did.
const OF_THE_DISK: &[i32] = &[libc::EIO, libc::EROFS, libc::EUCLEAN, libc::EBADMSG, libc::ENOSPC, libc::EOPNOTSUPP];

/// What there is to explain findings with.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// Requests that the disk answered with an error.
    pub failed: u64,
    /// Times that a rule fired by which the disk breaks its word.
    pub lies: u64,
    /// The guest's kernel log has a complaint.
    pub complained: bool,
    /// The workload with its results.
    pub ops: &'a [OpLine],
}

/// Lays aside what is explained. The order of the rest is kept.
pub fn sort(findings: Vec<Finding>, witness: &Witness<'_>) -> (Vec<Finding>, Vec<Explained>) {
    let (mut rest, mut explained) = (Vec::new(), Vec::new());
    for finding in findings {
        match witness.explains(&finding) {
            Some(by) => explained.push(Explained { finding, by }),
            None => rest.push(finding),
        }
    }
    (rest, explained)
}

impl Witness<'_> {
    /// Why the finding is none; none: nothing explains it.
    fn explains(&self, finding: &Finding) -> Option<String> {
        let lied = || (self.lies > 0).then(|| format!("the disk answered OK to what was not so, {} times", self.lies));
        let failed = || (self.failed > 0).then(|| format!("the disk failed {} requests", self.failed));
        match finding.id.as_str() {
            KERNEL_COMPLAINT if !is_grave(&finding.what) => failed().or_else(lied),
            UNEXPECTED_RESULT if self.is_error_of_the_disk(finding) => failed().or_else(lied),
            FILE_SYSTEM_DAMAGED => lied().or_else(|| failed().filter(|_| self.complained)),
            STALE_DATA_READ | WRITTEN_DATA_LOST | CORRUPT_DATA_RETURNED => lied(),
            _ => None,
        }
    }

    /// An error that the disk gave, or one that follows from an operation before it having failed: a file that could not be
    /// created is not there.
    fn is_error_of_the_disk(&self, finding: &Finding) -> bool {
        let Some(at) = self.ops.iter().position(|line| Some(line.index) == finding.op) else { return false };
        let of_the_disk = |errno: Errno| OF_THE_DISK.contains(&errno.0);
        let errno = |line: &OpLine| line.result.as_ref().and_then(|result| result.errno);
        let before = self.ops[..at].iter().filter_map(errno).any(of_the_disk);
        errno(&self.ops[at]).is_some_and(|errno| of_the_disk(errno) || before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{CONVERTED_AFTER_FAILED_WRITE, ERROR_NOT_REPORTED, KINDS};

    fn op(index: u32, errno: Option<i32>) -> OpLine {
        let line = serde_json::json!({
            "index": index, "args": {"op": "fsync", "path": "f"},
            "result": {"returned": 0, "errno": errno, "inode": null, "elapsed_us": 0},
        });
        serde_json::from_value(line).expect("an operation")
    }

    fn left(witness: &Witness<'_>, findings: &[Finding]) -> Vec<String> {
        sort(findings.to_vec(), witness).0.into_iter().map(|finding| finding.id).collect()
    }

    fn failed_op(index: u32) -> Finding {
        Finding { op: Some(index), ..Finding::new(UNEXPECTED_RESULT, "") }
    }

    const QUIET: Witness<'_> = Witness { failed: 0, lies: 0, complained: false, ops: &[] };

    #[test]
    fn a_disk_that_did_nothing_explains_nothing() {
        let ops = [op(0, Some(libc::EIO))];
        let mut findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        findings.push(failed_op(0));
        assert_eq!(left(&Witness { complained: true, ops: &ops, ..QUIET }, &findings).len(), findings.len());
    }

    #[test]
    fn a_disk_that_fails_and_keeps_its_word_explains_errors_and_complaints_and_no_wrong_data() {
        let findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        let failing = Witness { failed: 3, complained: true, ..QUIET };
        let expected = [
            CONVERTED_AFTER_FAILED_WRITE,
            STALE_DATA_READ,
            ERROR_NOT_REPORTED,
            WRITTEN_DATA_LOST,
            CORRUPT_DATA_RETURNED,
            UNEXPECTED_RESULT,
        ];
        assert_eq!(left(&failing, &findings), expected);
        let silent = Witness { complained: false, ..failing };
        assert!(left(&silent, &findings).contains(&FILE_SYSTEM_DAMAGED.to_owned()), "damage nobody spoke of");
    }

    #[test]
    fn a_disk_that_lies_explains_wrong_data_and_no_error_that_was_kept_back() {
        let findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        let lying = Witness { lies: 1, ..QUIET };
        assert_eq!(left(&lying, &findings), [CONVERTED_AFTER_FAILED_WRITE, ERROR_NOT_REPORTED, UNEXPECTED_RESULT]);
    }

    #[test]
    fn no_disk_explains_a_warning_of_the_kernel() {
        let worst = Witness { failed: 1, lies: 1, complained: true, ops: &[] };
        let warning = Finding::new(KERNEL_COMPLAINT, "1 line(s) …; first: WARNING: CPU: 0 PID: 9 at fs/ext4/inode.c:1");
        assert_eq!(left(&worst, &[warning]), [KERNEL_COMPLAINT]);
    }

    #[test]
    fn an_error_is_the_disks_or_follows_from_one_of_the_disks() {
        let failing = |ops| Witness { failed: 1, ops, ..QUIET };
        let odd = [op(0, None), op(1, Some(libc::ENOENT))];
        assert_eq!(left(&failing(&odd), &[failed_op(1)]), [UNEXPECTED_RESULT]);
        let following = [op(0, Some(libc::EIO)), op(1, Some(libc::ENOENT))];
        assert_eq!(left(&failing(&following), &[failed_op(0), failed_op(1)]), [""; 0]);
    }
}
