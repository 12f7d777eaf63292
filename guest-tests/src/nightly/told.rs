//! What a night is told: the known failures, and the time.

use crate::failure::Failure;
use night_results::{Known, read_known};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What ext4 does by design, and bugs of stock kernels that are known.
const SHIPPED: &str = include_str!("../../known.json");

/// The known failures: of this file; else of the one that lies where such a file is expected; else those that are known to us.
pub fn known(file: Option<&Path>, night: &Path) -> Result<Vec<Known>, Failure> {
    let usual = || {
        let beside = night.parent().map(|parent| parent.join("known.json"));
        beside.into_iter().chain([PathBuf::from("known.json")]).find(|path| path.is_file())
    };
    let read = |name: &str, text: &str| read_known(name, text).map_err(|damage| Failure::BadInput(damage.to_string()));
    let Some(file) = file.map(Path::to_owned).or_else(usual) else {
        return read("guest-tests/known.json", SHIPPED);
    };
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::BadInput(format!("cannot read {}: {error}", file.display())))?;
    read(&file.display().to_string(), &text)
}

/// The time, as 2026-11-23T02:39:28Z.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use night_results::Signature;

    #[test]
    fn without_a_file_what_ext4_does_by_design_is_known() {
        let night = tempfile::tempdir().unwrap();
        let known = known(None, &night.path().join("night")).unwrap();
        let covers = |text: &str, series: &str| {
            known.iter().any(|known| known.covers(&Signature::of(text), series, "2026-11-23"))
        };
        let converted = "finding: converted-after-failed-write; after error on write of file data";
        assert!(covers(converted, "6.1") && !covers(converted, "6.12"), "e856f93e0fb2 is in 6.12");
        let stale = |how: &str| format!("finding: stale-data-read{how}; after error on write of file data");
        assert!(covers(&stale(" (blocks allocated as written)"), "6.12"));
        assert!(!covers(&stale(""), "6.12"), "with default options it is news");
        let lost = "finding: written-data-lost; after error on write of file data";
        let any = ["5.10", "6.1", "6.12", "7.2"].iter().any(|series| covers(lost, series));
        assert!(!any, "more than one defect has this name: each loss is looked at");
    }

    #[test]
    fn a_file_beside_the_night_takes_the_place_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("known.json"), "[]").unwrap();
        assert_eq!(known(None, &folder.path().join("night")).unwrap(), []);
    }
}
