//! What a disk's failures and lies explain, where nobody could say beforehand what they would do.
//!
//! A written scenario names the errors and complaints it is about. One that was drawn cannot, so what follows from a disk that
//! failed or broke its word is laid aside here, each with the reason. What no disk explains stays a finding: a BUG or a WARNING of the
//! kernel, an error that was kept from fsync, a range converted after its write failed, and, where the disk kept its word, data
//! that is stale, lost or corrupt, and damage that the kernel did not speak of.

use crate::crash_states::within::Cuts;
use crate::findings::{
    CONTENTS_NOT_ALLOWED, CORRUPT_DATA_RETURNED, EXTENT_MAP_NOT_ALLOWED, FILE_LOST, FILE_SYSTEM_DAMAGED,
    KERNEL_COMPLAINT, NAME_NOT_ALLOWED, STALE_DATA_READ, WRITTEN_DATA_LOST, is_grave, telling,
};
use crate::verdict::{Explained, Finding};

/// What there is to explain findings with. Results of operations need none: there the model of files says what a disk's failures allow.
#[derive(Clone, Copy, Debug)]
pub struct Witness {
    /// Requests that the disk answered with an error.
    pub failed: u64,
    /// Times that a rule fired by which the disk breaks its word.
    pub lies: u64,
    /// The guest's kernel log has a complaint, or says that something was not written.
    pub complained: bool,
    /// The disk's size changed; what lies behind its end the kernel refuses by itself.
    pub became_smaller: bool,
}

/// Lays aside what is explained. The order of the rest is kept.
pub fn sort(findings: Vec<Finding>, witness: &Witness) -> (Vec<Finding>, Vec<Explained>) {
    let (mut rest, mut explained) = (Vec::new(), Vec::new());
    for finding in findings {
        match witness.explains(&finding) {
            Some(by) => explained.push(Explained { finding, by }),
            None => rest.push(finding),
        }
    }
    (rest, explained)
}

/// What a disk lost whose cache answers flushes and carries none out, if the power was cut: as it must be, and told with how often.
pub fn lost_with_the_cache(cuts: &Cuts) -> Option<Explained> {
    let first = cuts.first_loss.as_ref()?;
    let what = match (&first.damage, first.broken.first()) {
        (Some((step, said)), _) => format!("{step}: {}", telling(said)),
        (None, broken) => broken.map_or_else(String::new, |broken| broken.what.clone()),
    };
    let id = if first.damage.is_some() { FILE_SYSTEM_DAMAGED } else { WRITTEN_DATA_LOST };
    let by = format!("the disk's cache answers flushes and carries none out: so it is in {} states", cuts.losses);
    Some(Explained { finding: Finding::new(id, first.sentence(&what)), by })
}

impl Witness {
    /// Why the finding is none; none: nothing explains it.
    fn explains(&self, finding: &Finding) -> Option<String> {
        let lied = || {
            (self.lies > 0)
                .then(|| format!("the disk answered OK to what was not so, or left half a sector, {} times", self.lies))
        };
        let smaller = || self.became_smaller.then(|| "the disk became smaller".to_owned());
        let failed = || (self.failed > 0).then(|| format!("the disk failed {} requests", self.failed)).or_else(smaller);
        match finding.id.as_str() {
            KERNEL_COMPLAINT if !is_grave(&finding.what) => failed().or_else(lied),
            FILE_SYSTEM_DAMAGED => lied().or_else(|| failed().filter(|_| self.complained)),
            STALE_DATA_READ
            | WRITTEN_DATA_LOST
            | CORRUPT_DATA_RETURNED
            | CONTENTS_NOT_ALLOWED
            | EXTENT_MAP_NOT_ALLOWED
            | FILE_LOST
            | NAME_NOT_ALLOWED => lied(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{
        CONVERTED_AFTER_FAILED_WRITE, ERRNO_NOT_ALLOWED, ERROR_FORGOTTEN, ERROR_NOT_REPORTED, KINDS, UNEXPECTED_RESULT,
    };

    fn left(witness: &Witness, findings: &[Finding]) -> Vec<String> {
        sort(findings.to_vec(), witness).0.into_iter().map(|finding| finding.id).collect()
    }

    const QUIET: Witness = Witness { failed: 0, lies: 0, complained: false, became_smaller: false };

    #[test]
    fn a_disk_that_did_nothing_explains_nothing() {
        let findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        assert_eq!(left(&Witness { complained: true, ..QUIET }, &findings).len(), findings.len());
    }

    #[test]
    fn a_disk_that_fails_and_keeps_its_word_explains_errors_and_complaints_and_no_wrong_data() {
        let findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        let failing = Witness { failed: 3, complained: true, ..QUIET };
        let expected = [
            CONVERTED_AFTER_FAILED_WRITE,
            STALE_DATA_READ,
            ERROR_NOT_REPORTED,
            ERROR_FORGOTTEN,
            WRITTEN_DATA_LOST,
            CORRUPT_DATA_RETURNED,
            UNEXPECTED_RESULT,
            CONTENTS_NOT_ALLOWED,
            ERRNO_NOT_ALLOWED,
            EXTENT_MAP_NOT_ALLOWED,
            FILE_LOST,
            NAME_NOT_ALLOWED,
        ];
        assert_eq!(left(&failing, &findings), expected);
        let silent = Witness { complained: false, ..failing };
        assert!(left(&silent, &findings).contains(&FILE_SYSTEM_DAMAGED.to_owned()), "damage nobody spoke of");
    }

    #[test]
    fn a_disk_that_became_smaller_has_failed_what_lies_behind_its_end() {
        let complaint = Finding::new(KERNEL_COMPLAINT, "1 line(s) …; first: Aborting journal on device vda-8.");
        let stale = Finding::new(STALE_DATA_READ, "");
        let smaller = Witness { became_smaller: true, ..QUIET };
        assert_eq!(left(&smaller, &[complaint, stale]), [STALE_DATA_READ]);
    }

    #[test]
    fn a_disk_that_lies_explains_wrong_data_and_no_error_that_was_kept_back() {
        let findings: Vec<Finding> = KINDS.iter().map(|id| Finding::new(id, "")).collect();
        let lying = Witness { lies: 1, ..QUIET };
        let expected =
            [CONVERTED_AFTER_FAILED_WRITE, ERROR_NOT_REPORTED, ERROR_FORGOTTEN, UNEXPECTED_RESULT, ERRNO_NOT_ALLOWED];
        assert_eq!(left(&lying, &findings), expected);
    }

    #[test]
    fn no_disk_explains_a_warning_of_the_kernel() {
        let worst = Witness { failed: 1, lies: 1, complained: true, became_smaller: true };
        let warning = Finding::new(KERNEL_COMPLAINT, "1 line(s) …; first: WARNING: CPU: 0 PID: 9 at fs/ext4/inode.c:1");
        assert_eq!(left(&worst, &[warning]), [KERNEL_COMPLAINT]);
    }
}
