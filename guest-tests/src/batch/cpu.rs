//! CPU time of a boot and of this process: what a scenario costs a machine that is full of them, whoever else uses it now.

use std::fs;

/// Milliseconds that these processes, this one and its ended children have used. A process that is gone counts no more.
pub fn used_ms(others: &[u32]) -> u64 {
    let clock_ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let own = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| ticks(&stat, 4));
    let of = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| ticks(&stat, 2));
    let sum: u64 = own.into_iter().chain(others.iter().filter_map(of)).sum();
    sum * 1000 / u64::try_from(clock_ticks).unwrap_or(100).max(1)
}

/// utime and stime, and with `fields` 4 those of ended children too: fields 14 to 17, counted behind the name in brackets.
fn ticks(stat: &str, fields: usize) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let numbers: Vec<u64> =
        behind.split_whitespace().skip(11).take(fields).map(str::parse).collect::<Result<_, _>>().ok()?;
    (numbers.len() == fields).then(|| numbers.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 0 1 2 3 4 50 60 700 800 20 0";
        assert_eq!((ticks(stat, 2), ticks(stat, 4)), (Some(110), Some(1610)));
        assert_eq!(ticks("7 (a) S 1", 2), None);
    }
}
