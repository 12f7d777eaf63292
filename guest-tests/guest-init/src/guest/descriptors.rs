//! What the workload holds open: one descriptor for buffered and one for direct I/O for each path, shared by all its writers.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ops::under;

type Open = BTreeMap<(String, bool), Arc<File>>;

/// By path and whether with O_DIRECT.
#[derive(Default)]
pub struct Descriptors(Mutex<Open>);

impl Descriptors {
    /// The descriptor kept for `path`, opened now if there is none. Nobody waits for somebody else's `open`.
    pub fn get(&self, path: &str, direct: bool) -> io::Result<Arc<File>> {
        if let Some(file) = self.kept(path, direct) {
            return Ok(file);
        }
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(under(path))?;
        Ok(Arc::clone(self.lock().entry((path.to_owned(), direct)).or_insert(Arc::new(file))))
    }

    /// The descriptor, if there is one.
    pub fn kept(&self, path: &str, direct: bool) -> Option<Arc<File>> {
        self.lock().get(&(path.to_owned(), direct)).cloned()
    }

    /// Creates a file, and keeps it open.
    pub fn create(&self, path: &str) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(under(path))?;
        self.lock().insert((path.to_owned(), false), Arc::new(file));
        Ok(())
    }

    /// Closes what is kept for a path.
    pub fn close(&self, path: &str) {
        self.lock().retain(|(open, _), _| open != path);
    }

    /// A file has another name now; what had that name is gone.
    pub fn rename(&self, path: &str, to: &str) {
        self.close(to);
        let mut open = self.lock();
        for direct in [false, true] {
            if let Some(file) = open.remove(&(path.to_owned(), direct)) {
                open.insert((to.to_owned(), direct), file);
            }
        }
    }

    /// Closes everything.
    pub fn close_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
