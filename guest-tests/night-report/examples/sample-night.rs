//! Prints the page of a made-up night, to look at: `busy`, or a number of failures with a signature each.

use night_report::{page, samples};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_else(|| "busy".into());
    let night = what.parse().map_or_else(|_| samples::busy(), |n| samples::failures(n, true));
    print!("{}", page(&night));
}
