//! `kprobe_profile` of one job among several of a boot: the kernel counts from the moment a probe is set, and has no way to
//! begin anew.

use std::collections::BTreeMap;

/// The profile of what happened between two readings: a line per probe of the second, with the hits and misses since the
/// first. A probe that the first does not know had none.
///
/// # Errors
///
/// A sentence, if a line is none of a profile, or a count went backwards.
pub fn since(before: &str, after: &str) -> Result<String, String> {
    let before: BTreeMap<&str, (u64, u64)> = before.lines().map(line).collect::<Result<_, _>>()?;
    let mut profile = String::new();
    for (name, (hits, misses)) in after.lines().map(line).collect::<Result<Vec<_>, _>>()? {
        let (hits_before, misses_before) = before.get(name).copied().unwrap_or_default();
        let less = || format!("kprobe_profile counts {name} backwards");
        let hits = hits.checked_sub(hits_before).ok_or_else(less)?;
        let misses = misses.checked_sub(misses_before).ok_or_else(less)?;
        profile.push_str(&format!("  {name:<44} {hits:>15} {misses:>15}\n"));
    }
    Ok(profile)
}

/// Name, hits, misses.
fn line(text: &str) -> Result<(&str, (u64, u64)), String> {
    let mut words = text.split_whitespace();
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    match (words.next(), number(words.next()), number(words.next()), words.next()) {
        (Some(name), Some(hits), Some(misses), None) => Ok((name, (hits, misses))),
        _ => Err(format!("kprobe_profile has the line {text:?}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_since_is_left_and_new_probes_begin_at_zero() {
        let before = "  a    5    1\n  b 7 0\n";
        let after = "  a    9    1\n  b 7 2\n  c 3 0\n";
        let words: Vec<String> =
            since(before, after).unwrap().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(words, ["a 4 0", "b 0 2", "c 3 0"]);
        assert_eq!(since(after, after).unwrap().lines().count(), 3);
    }

    #[test]
    fn what_is_no_profile_and_what_went_backwards_is_an_error() {
        assert!(since("", "a 1").unwrap_err().contains("\"a 1\""));
        assert!(since("", "a 1 2 3").is_err());
        assert!(since("a 2 0\n", "a 1 0\n").unwrap_err().contains("backwards"));
    }
}
