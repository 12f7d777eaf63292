//! Reads what the guest kernel said: probe plans from its BTF, raw ring-buffer pages to stimuli and responses.
#![forbid(unsafe_code)]
