//! What tests that run guests share: the programs as a user would start them, and one guest at a time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One guest at a time: they share the machine.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The three programs side by side, as scripts/build leaves them.
pub fn program() -> PathBuf {
    let folder = match std::env::var_os("GUEST_TESTS_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_BIN_EXE_guest-tests")).with_file_name("../release"),
    };
    let program = folder.join("guest-tests");
    assert!(
        program.is_file(),
        "{} is not there: run scripts/build, or scripts/test, which does (GUEST_TESTS_PROGRAMS names the folder)",
        program.display()
    );
    program
}

/// A scenario of the tree.
pub fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.json"))
}

/// Starts `guest-tests` and waits for it.
pub fn start(args: &[&std::ffi::OsStr]) -> Output {
    Command::new(program()).args(args).output().expect("it was there a moment ago")
}
