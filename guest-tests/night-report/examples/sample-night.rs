//! Prints what is told of a made-up night, to look at or to hand to what reads it: `page`, `junit`, `ktap` or `summary`, of a
//! `busy` night or of so many failures with a signature each.

use night_report::{Summary, junit, ktap, page, samples};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let night = match arguments.get(1).map(|n| n.parse()) {
        Some(Ok(n)) => samples::failures(n, true),
        _ => samples::busy(),
    };
    print!(
        "{}",
        match arguments.first().map(String::as_str) {
            Some("junit") => junit(&night),
            Some("ktap") => ktap(&night),
            Some("summary") => Summary::of(&night).to_text(),
            _ => page(&night),
        }
    );
}
