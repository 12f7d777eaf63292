//! Calls in, events out: `cargo run -p ext4-replica --example replica-lines -- seed none < calls`.
//!
//! The program for users is `guest-tests replica`; this one needs no other member of the workspace.

use ext4_replica::{Bugs, Calls, Dialect};
use std::io::{BufRead, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_else(|| "seed".into());
    let mut dialect = Dialect::by_name(&name).ok_or("no such dialect")?;
    if let Some(list) = words.next() {
        dialect = dialect.with_bugs(Bugs::parse(&list)?);
    }
    let mut calls = Calls::new(dialect);
    let mut out = Vec::new();
    for line in std::io::stdin().lock().split(b'\n') {
        calls.line(&line?, &mut out)?;
        std::io::stdout().write_all(&out)?;
        out.clear();
    }
    Ok(())
}
