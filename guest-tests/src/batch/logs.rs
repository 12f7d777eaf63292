//! Logs that are written as long as the boot lives, cut into what belongs to each scenario.

use crate::failure::{At, Failure};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A log that grows.
#[derive(Debug)]
pub struct Growing {
    path: PathBuf,
    seen_bytes: u64,
}

impl Growing {
    /// From its beginning.
    pub fn new(path: PathBuf) -> Growing {
        Growing { path, seen_bytes: 0 }
    }

    /// Copies what has come since the last time.
    pub fn pass_on(&mut self, to: &Path) -> Result<(), Failure> {
        std::fs::write(to, self.news()?).at("write", to)
    }

    /// What has come since the last time.
    pub fn news(&mut self) -> Result<Vec<u8>, Failure> {
        let mut news = Vec::new();
        let mut file = File::open(&self.path).at("open", &self.path)?;
        file.seek(SeekFrom::Start(self.seen_bytes)).at("read", &self.path)?;
        let bytes = file.read_to_end(&mut news).at("read", &self.path)?;
        self.seen_bytes += bytes as u64;
        Ok(news)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn each_copy_holds_what_came_since_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (log, copy) = (folder.path().join("log"), folder.path().join("copy"));
        let mut growing = Growing::new(log.clone());
        for (written, news) in [("one\n", "one\n"), ("one\ntwo\n", "two\n"), ("one\ntwo\n", "")] {
            std::fs::write(&log, written).unwrap();
            growing.pass_on(&copy).unwrap();
            assert_eq!(std::fs::read_to_string(&copy).unwrap(), news);
        }
    }
}
