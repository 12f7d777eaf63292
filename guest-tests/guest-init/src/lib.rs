//! Both ends of the talk between a host and the program that is PID 1 in its guest.
//!
//! The library is what the two share: the job ([`job`]), the messages ([`protocol`]) and
//! their host side ([`host`]), the frames of the trace stream ([`frames`]), and what the
//! bytes on the disk say about themselves ([`pattern`], [`past`]). The program `guest-init`
//! is the guest's side. It judges nothing: it does, and reports what came back.

pub mod frames;
pub mod host;
pub mod job;
pub mod past;
pub mod pattern;
pub mod protocol;
