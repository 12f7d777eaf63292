//! Tells a night: one page for people, summary.json, junit.xml and KTAP for programs.
//!
//! Pure: results in, text out. No files, clocks or guests; the same night gives the same bytes. What the page says is counted
//! from result lines alone, so it can be made again wherever the night's folder is.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test ends there"))]

pub mod universe;
