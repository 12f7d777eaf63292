//! The program `guest-init`.
fn main() {}
