//! Whether a state is a file system that a journal replay makes whole, asked of e2fsck on an image of the state's own.

use crate::failure::{At, Failure};
use crate::programs;
use std::path::Path;
use std::process::Command;

/// Where the magic number of ext4 stands, and the number.
const MAGIC_AT: u64 = 1024 + 56;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// Which step found that it is none, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The step.
    pub step: &'static str,
    /// Its words.
    pub said: String,
}

/// Replays the journal as a mount would, in `image` itself, and looks at everything. None: it is a whole file system.
pub fn replay_and_check(image: &Path) -> Result<Option<Damage>, Failure> {
    if !has_magic(image)? {
        return Ok(Some(Damage { step: "superblock", said: "no ext4 file system is there".into() }));
    }
    let (code, said) = e2fsck(&["-p"], image)?;
    if code > 1 || said.lines().any(|line| !is_what_a_mount_does(line)) {
        return Ok(Some(Damage { step: "journal replay", said }));
    }
    let (code, said) = e2fsck(&["-f", "-n"], image)?;
    Ok((code != 0).then_some(Damage { step: "e2fsck -fn", said }))
}

/// `e2fsck -p` repairs more than a mount would, a missing journal for one. A line that is none of these is such a repair.
fn is_what_a_mount_does(line: &str) -> bool {
    let harmless = ["recovering journal", "clean, ", "Clearing orphaned inode ", "Truncating orphaned inode "];
    let said = line.split_once(": ").map_or(line, |(_, said)| said);
    said.trim().is_empty() || harmless.iter().any(|words| said.starts_with(words))
}

fn has_magic(image: &Path) -> Result<bool, Failure> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 2];
    let file = std::fs::File::open(image).at("open", image)?;
    file.read_exact_at(&mut magic, MAGIC_AT).at("read", image)?;
    Ok(magic == MAGIC)
}

/// Its exit code and all it said. Only a code without "errors were left" (4) is trouble of its own: with one, it had enough
/// of what it found.
fn e2fsck(options: &[&str], image: &Path) -> Result<(i32, String), Failure> {
    let program = programs::on_host("e2fsck").ok_or_else(|| {
        Failure::infrastructure("e2fsck is not installed", "run scripts/setup (Debian package e2fsprogs)")
    })?;
    let mut command = Command::new(&program);
    let output = command.args(options).arg(image).env("LC_ALL", "C").output().at("start", &program)?;
    // With -p what it did is on stdout; stderr begins with its version.
    let said = String::from_utf8_lossy(&output.stdout).replace(&image.display().to_string(), "IMAGE");
    match output.status.code() {
        Some(code) if code < 8 || code & 4 != 0 => Ok((code, said)),
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(
                format!("e2fsck could not work on a state: {} {}", said.trim(), error.trim()),
                "",
            ))
        }
    }
}
