//! Free space on the host, looked at before anything is started: a full disk found later looks like a fault of the guest's.

use crate::failure::Failure;
use nix::sys::statvfs::statvfs;
use std::path::Path;

/// Bytes an ordinary user may still write where `path` lies. `path` must exist.
pub fn free_bytes(path: &Path) -> Result<u64, Failure> {
    let stat = statvfs(path).map_err(|errno| Failure::io("ask for free space on", path, &errno.into()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Refuses a run that would not fit.
pub fn require(path: &Path, bytes: u64) -> Result<(), Failure> {
    let free = free_bytes(path)?;
    if free >= bytes {
        return Ok(());
    }
    Err(Failure::infrastructure(
        format!("{} has {} MiB free, this run may need {} MiB", path.display(), free >> 20, bytes.div_ceil(1 << 20)),
        "make room there, or choose another place with --out",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_place_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        require(dir.path(), 1).unwrap();
        let error = require(dir.path(), u64::MAX).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("--out"), "{error}");
    }
}
