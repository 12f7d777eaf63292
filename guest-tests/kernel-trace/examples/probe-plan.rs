//! Prints the probe plan for a kernel: `probe-plan VMLINUX KALLSYMS`, the latter as `/proc/kallsyms` reads.
#![allow(clippy::unwrap_used, reason = "a tool for people at work on the probes")]

use kernel_trace::{KernelFacts, SymbolAddress, plan};

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [vmlinux, kallsyms] = &paths[..] else {
        eprintln!("usage: probe-plan VMLINUX KALLSYMS");
        std::process::exit(2);
    };
    let elf = std::fs::read(vmlinux).unwrap();
    let facts = KernelFacts::from_vmlinux(&elf).unwrap_or_else(|error| panic!("{error}"));
    let listed = std::fs::read_to_string(kallsyms).unwrap();
    let symbols = wanted(&listed, &facts.needed_symbols());
    let plan = plan(&facts, &elf, &symbols).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", serde_json::to_string_pretty(&plan).unwrap());
}

/// Addresses of the wanted functions; each ends where the next symbol begins.
fn wanted(kallsyms: &str, names: &[&str]) -> Vec<SymbolAddress> {
    let mut all: Vec<(u64, &str)> = kallsyms
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let address = u64::from_str_radix(columns.next()?, 16).ok()?;
            Some((address, columns.nth(1)?))
        })
        .collect();
    all.sort_unstable();
    let end = |address| all.iter().map(|&(other, _)| other).find(|&other| other > address);
    let found = all.iter().filter(|(_, name)| names.contains(name));
    found
        .filter_map(|&(address, name)| Some(SymbolAddress { name: name.into(), address, end: end(address)? }))
        .collect()
}
