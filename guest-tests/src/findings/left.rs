//! Findings in what a power cut left: a file system that no journal replay mends, and what was fsynced and is not there.

use super::{FILE_SYSTEM_DAMAGED, STALE_DATA_READ, WRITTEN_DATA_LOST};
use crate::crash_states::Left;
use crate::crash_states::within::Cuts;
use crate::durability::Broken;
use crate::verdict::Finding;

/// One finding of each kind for each file.
pub fn find(left: &Left) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((step, said)) = &left.damage {
        findings.push(damaged(format!("after the power cut, {step}: {}", telling(said))));
    }
    add(&mut findings, &left.broken, |what| format!("after the power cut {what}"));
    findings
}

/// The same in the states of cuts after which the guest went on: of each kind and file the first.
pub fn in_cuts(cuts: &Cuts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for state in &cuts.bad {
        if let Some((step, said)) = &state.damage
            && !findings.iter().any(|finding| finding.id == FILE_SYSTEM_DAMAGED)
        {
            findings.push(damaged(state.sentence(&format!("{step}: {}", telling(said)))));
        }
        add(&mut findings, &state.broken, |what| state.sentence(what));
    }
    findings
}

/// Whether it is one of a state after which the guest went on.
pub fn is_after_cut(finding: &Finding) -> bool {
    finding.what.starts_with("after power cut ")
}

/// The line of a checker that says what is wrong.
pub fn telling(said: &str) -> &str {
    let says_nothing = |line: &&str| {
        line.starts_with("Pass") || line.starts_with("Warning: skipping") || line.contains("recovering journal")
    };
    said.lines().find(|line| !says_nothing(line)).unwrap_or_default()
}

fn damaged(what: String) -> Finding {
    Finding::new(FILE_SYSTEM_DAMAGED, what)
}

fn add(findings: &mut Vec<Finding>, broken: &[Broken], sentence: impl Fn(&str) -> String) {
    for broken in broken {
        let id = if broken.promised { WRITTEN_DATA_LOST } else { STALE_DATA_READ };
        let known = |finding: &Finding| finding.id == id && finding.path.as_ref() == Some(&broken.path);
        if !findings.iter().any(known) {
            findings.push(finding(id, broken, sentence(&broken.what)));
        }
    }
}

fn finding(id: &str, broken: &Broken, what: String) -> Finding {
    Finding { path: Some(broken.path.clone()), offset: broken.offset, bytes: broken.bytes, ..Finding::new(id, what) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_told_once_by_what_was_broken() {
        let broken = |path: &str, promised, offset| Broken {
            path: path.into(),
            offset: Some(offset),
            bytes: Some(512),
            promised,
            what: format!("{path} {offset}"),
        };
        let left = Left {
            damage: Some(("e2fsck -fn".into(), "Pass 1: x\nFree blocks count wrong\n".into())),
            broken: vec![broken("a", true, 0), broken("a", true, 1024), broken("a", false, 0), broken("b", true, 0)],
            ..Left::default()
        };
        let found: Vec<(String, Option<String>)> =
            find(&left).into_iter().map(|finding| (finding.id, finding.path)).collect();
        let expected = [
            (FILE_SYSTEM_DAMAGED, None),
            (WRITTEN_DATA_LOST, Some("a")),
            (STALE_DATA_READ, Some("a")),
            (WRITTEN_DATA_LOST, Some("b")),
        ];
        assert_eq!(found, expected.map(|(id, path)| (id.to_owned(), path.map(str::to_owned))));
        assert_eq!(find(&Left::default()), []);
    }
}
