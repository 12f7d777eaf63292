//! The programs that a run starts: where they are, and that they belong together.

use crate::failure::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of this program; the other two must have the same, and be made from the same code where they talk with us.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Our own programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The disk.
    pub vhost_blk: PathBuf,
    /// PID 1 of the guest.
    pub guest_init: PathBuf,
}

/// Finds both, beside this program or where the user says, and refuses another version.
pub fn find(vhost_blk: Option<&Path>, guest_init: Option<&Path>) -> Result<Programs, Failure> {
    let programs =
        Programs { vhost_blk: locate("vhost-blk", vhost_blk)?, guest_init: locate("guest-init", guest_init)? };
    same_version("vhost-blk", &programs.vhost_blk)?;
    same_version("guest-init", &programs.guest_init)?;
    Ok(programs)
}

/// Where one of them is.
pub fn locate(name: &str, given: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => beside_us(name)?,
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::infrastructure(
        format!("{} is not there", path.display()),
        format!("run scripts/build, or name it with --{name}"),
    ))
}

fn beside_us(name: &str) -> Result<PathBuf, Failure> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::infrastructure(format!("cannot tell where this program is: {error}"), ""))?;
    Ok(exe.with_file_name(name))
}

/// Asks a program for its version, and for the contract it was built with, and compares both with ours.
pub fn same_version(name: &str, path: &Path) -> Result<(), Failure> {
    let wanted = match name {
        "guest-init" => guest_init::version(),
        _ => fault_injection::version(),
    };
    let output = Command::new(path).arg("--version").output().map_err(|error| {
        Failure::infrastructure(format!("cannot start {}: {error}", path.display()), "run scripts/build")
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim().strip_prefix(name).map_or("of unknown version", str::trim);
    if version == wanted {
        return Ok(());
    }
    Err(Failure::infrastructure(
        format!("{} is {name} {version}, and this guest-tests was built with {wanted}", path.display()),
        "run scripts/build, which builds all programs from one tree",
    ))
}

/// Finds a program of the host in PATH, or where Debian keeps those for root, which an ordinary user may run as well.
pub fn on_host(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}
