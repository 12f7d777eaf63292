//! A replica of ext4's shared io_end writeback path, stepped by whoever knows the stimuli. Pure.
#![forbid(unsafe_code)]
