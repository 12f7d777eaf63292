//! Shows what a `guest.raw` holds: `guest-raw FILE [events|entries]`; without a word, the totals and what is wrong.
#![allow(clippy::unwrap_used, reason = "a tool for people at work on the decoder")]

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(path) = arguments.first() else {
        eprintln!("usage: guest-raw FILE [events|entries]");
        std::process::exit(2);
    };
    let raw = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    match arguments.get(1).map(String::as_str) {
        Some("events") => {
            for event in kernel_trace::ring_events(&raw).unwrap_or_else(|error| panic!("{error}")) {
                println!("{}", serde_json::to_string(&event).unwrap());
            }
        }
        shown => {
            let decoded = kernel_trace::decode(&raw).unwrap_or_else(|error| panic!("{error}"));
            if shown.is_some() {
                decoded.entries.iter().for_each(|entry| println!("{}", serde_json::to_string(entry).unwrap()));
            }
            eprintln!("{:?}\n{} entries", decoded.totals, decoded.entries.len());
            decoded.losses.describe().iter().for_each(|loss| eprintln!("lost: {loss}"));
            decoded.unplaced.iter().for_each(|event| eprintln!("unplaced: {event:?}"));
        }
    }
}
