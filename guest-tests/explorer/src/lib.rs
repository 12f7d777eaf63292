//! Tries every order of steps, and every fault, that the replica's threads can meet within bounds.
//!
//! `search` walks the worlds of [`ext4_replica::explore`] and finds what does not hold, by a shortest way; `scope` says which
//! machines are searched where the user does not; `schedule` writes such a way down and plays it again; `story`, `picture` and
//! `calls` tell it to a person, an eye and another implementation. Nothing here knows a guest, a device or a command line.

pub mod calls;
pub mod expect;
pub mod picture;
pub mod schedule;
pub mod scope;
pub mod search;
pub mod story;
mod words;
