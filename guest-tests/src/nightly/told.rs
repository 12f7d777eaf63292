//! What a night is told: the known failures, and the time.

use crate::failure::Failure;
use night_results::{Known, read_known};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The known failures: of this file, or of the one that lies where such a file is expected.
pub fn known(file: Option<&Path>, night: &Path) -> Result<Vec<Known>, Failure> {
    let usual = || {
        let beside = night.parent().map(|parent| parent.join("known.json"));
        beside.into_iter().chain([PathBuf::from("known.json")]).find(|path| path.is_file())
    };
    let Some(file) = file.map(Path::to_owned).or_else(usual) else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::BadInput(format!("cannot read {}: {error}", file.display())))?;
    read_known(&file.display().to_string(), &text).map_err(|damage| Failure::BadInput(damage.to_string()))
}

/// The time, as 2026-11-23T02:39:28Z.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
