//! Runs a guest on a faulty disk and judges where its kernel and the replica part.

pub mod report;
