//! Addresses from `/proc/kallsyms`.

use std::collections::BTreeSet;
use std::fs;

use guest_init::protocol::{FromGuest, Symbol};

use super::{Doing, Outcome};

/// A symbol's size is the distance to the next higher address of the same list.
pub fn find(names: &[String]) -> Outcome<FromGuest> {
    let table = fs::read_to_string("/proc/kallsyms").doing("reading /proc/kallsyms")?;
    let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut addresses = Vec::with_capacity(table.len() / 40);
    let mut symbols = Vec::new();
    for line in table.lines() {
        let Some((address, kind, name)) = split(line) else { continue };
        addresses.push(address);
        if wanted.contains(name) {
            symbols.push(Symbol { name: name.into(), address, size: 0, kind });
        }
    }
    for symbol in &mut symbols {
        let next = addresses.iter().filter(|address| **address > symbol.address).min();
        symbol.size = next.map_or(0, |next| next - symbol.address);
    }
    let found: BTreeSet<&str> = symbols.iter().map(|symbol| symbol.name.as_str()).collect();
    let missing = wanted.difference(&found).map(ToString::to_string).collect();
    Ok(FromGuest::Symbols { symbols, missing })
}

/// `ffffffff81000000 T _text [module]`
fn split(line: &str) -> Option<(u64, char, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((address, words.next()?.chars().next()?, words.next()?))
}
