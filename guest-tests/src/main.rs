//! The program `guest-tests`.
fn main() {}
