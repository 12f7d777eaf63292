//! A mapping's writeback error as `lib/errseq.c` keeps it: each open descriptor learns of an error once.

use writeback_events::Errno;

/// Error of one mapping, and what its one descriptor has been told.
///
/// The workload keeps one descriptor per file, opened before the first error, so one cursor is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ErrSeq {
    errno: Errno,
    reported: bool,
}

impl ErrSeq {
    /// `mapping_set_error`: the last error is the one that will be told.
    pub(crate) fn set(&mut self, errno: Errno) {
        if errno != 0 {
            *self = ErrSeq { errno, reported: false };
        }
    }

    /// There is an error that nobody was told.
    pub(crate) fn is_untold(&self) -> bool {
        self.errno != 0 && !self.reported
    }

    /// `file_check_and_advance_wb_err`: the error, or 0 if there was none since the last call.
    pub(crate) fn check_and_advance(&mut self) -> Errno {
        let told = if self.reported { 0 } else { self.errno };
        self.reported = true;
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_an_error_once_and_the_last_one_set() {
        let mut err = ErrSeq::default();
        assert_eq!(err.check_and_advance(), 0);
        err.set(-95);
        err.set(-5);
        err.set(0);
        assert_eq!([err.check_and_advance(), err.check_and_advance()], [-5, 0]);
        err.set(-5);
        assert_eq!(err.check_and_advance(), -5);
    }
}
