//! A folder for named sockets: mode 0700, with a name short enough for a socket's path (108 bytes), never under `--out`.
//!
//! Gone when the run ends. A run that was killed leaves it behind; its lock then is free, and the next run or
//! `doctor --clean` removes it.

use crate::failure::{At, Failure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "guest-tests-";

/// The folder of this run, for as long as the value lives.
#[derive(Debug)]
pub struct SocketFolder {
    // Before the folder: it is unlocked once there is nothing left to lock.
    dir: tempfile::TempDir,
    _lock: Flock<File>,
}

impl SocketFolder {
    /// Makes one, and removes what killed runs left.
    pub fn new() -> Result<SocketFolder, Failure> {
        remove_abandoned();
        let parent = parent();
        let dir =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent).at("make a folder for sockets in", parent)?;
        let file = File::open(dir.path()).at("open", dir.path())?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| Failure::io("lock", dir.path(), &errno.into()))?;
        Ok(SocketFolder { dir, _lock: lock })
    }

    /// Path for a socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Not `std::env::temp_dir`: TMPDIR may be long.
fn parent() -> PathBuf {
    PathBuf::from("/tmp")
}

/// Removes the folders of runs that were killed, and says which.
pub fn remove_abandoned() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent()) else { return Vec::new() };
    let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(ours);
    paths.filter(|path| is_abandoned(path) && fs::remove_dir_all(path).is_ok()).collect()
}

/// A folder of this user that nobody holds. A folder that was made an instant ago and is not locked yet is left alone.
fn is_abandoned(path: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    let mine = meta.is_dir() && meta.uid() == nix::unistd::getuid().as_raw();
    let old = meta.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_secs() >= 5);
    mine && old && File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_fits_and_the_folder_goes_with_the_value() {
        let folder = SocketFolder::new().unwrap();
        let path = folder.socket("control");
        assert!(path.as_os_str().len() < 108);
        assert!(!is_abandoned(path.parent().unwrap()), "a folder in use is not abandoned");
        drop(folder);
        assert!(!path.parent().unwrap().exists());
    }
}
