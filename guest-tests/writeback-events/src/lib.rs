//! What a kernel's writeback path is told and what it answers: stimuli, responses, ids. Types only.
#![forbid(unsafe_code)]
