//! Findings in what a power cut left: a file system that no journal replay mends, and what was fsynced and is not there.

use super::{FILE_SYSTEM_DAMAGED, STALE_DATA_READ, WRITTEN_DATA_LOST};
use crate::crash_states::Left;
use crate::durability::Broken;
use crate::verdict::Finding;

/// One finding of each kind for each file.
pub fn find(left: &Left) -> Vec<Finding> {
    let damage = left.damage.as_ref().map(|(step, said)| {
        let said = said.lines().find(|line| !line.starts_with("Pass")).unwrap_or_default();
        Finding::new(FILE_SYSTEM_DAMAGED, format!("after the power cut, {step}: {said}"))
    });
    let mut findings: Vec<Finding> = damage.into_iter().collect();
    for broken in &left.broken {
        let id = if broken.promised { WRITTEN_DATA_LOST } else { STALE_DATA_READ };
        let known = |finding: &Finding| finding.id == id && finding.path.as_ref() == Some(&broken.path);
        if !findings.iter().any(known) {
            findings.push(finding(id, broken));
        }
    }
    findings
}

fn finding(id: &str, broken: &Broken) -> Finding {
    Finding {
        path: Some(broken.path.clone()),
        offset: broken.offset,
        bytes: broken.bytes,
        ..Finding::new(id, format!("after the power cut {}", broken.what))
    }
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
