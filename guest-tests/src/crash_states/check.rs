//! Whether a state is a file system that a journal replay makes whole, asked of e2fsck on an image of the state's own.

use crate::failure::{At, Failure};
use crate::programs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Where ext4's superblock begins, and fields in it with what they may say (fs/ext4/ext4.h, struct ext4_super_block).
const SUPERBLOCK_AT: u64 = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: u16 = 0xef53;
const STATE_AT: usize = 0x3a;
const STATE_ERROR: u16 = 2;
const COMPAT_AT: usize = 0x5c;
const COMPAT_HAS_JOURNAL: u16 = 4;
const INCOMPAT_AT: usize = 0x60;
const INCOMPAT_RECOVER: u16 = 4;

/// Which step found that it is none, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The step.
    pub step: &'static str,
    /// Its words.
    pub said: String,
}

/// What became of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// None: it is a whole file system.
    pub damage: Option<Damage>,
    /// The kernel has written down that it met an error. That alone is no damage.
    pub error_recorded: bool,
}

/// Replays the journal as a mount would, in `image` itself, and looks at everything. A file system without a journal promises
/// no more than that `e2fsck` can make it whole, so there that is done.
pub fn replay_and_check(image: &Path) -> Result<Checked, Failure> {
    let Some(marks) = Marks::of(image)? else {
        let damage = Damage { step: "superblock", said: "no ext4 file system is there".into() };
        return Ok(Checked { damage: Some(damage), error_recorded: false });
    };
    let mut error_recorded = marks.error_recorded;
    let damaged = |step, said, error_recorded| Ok(Checked { damage: Some(Damage { step, said }), error_recorded });
    if !marks.has_journal {
        return repair_and_check(image, error_recorded);
    }
    if marks.needs_replay {
        let (code, said) = e2fsck(&["-p", "-E", "journal_only"], image)?;
        if code > 1 {
            return damaged("journal replay", said, error_recorded);
        }
        error_recorded |= Marks::of(image)?.is_some_and(|marks| marks.error_recorded);
    }
    if error_recorded {
        // With it `e2fsck -p` would look at everything and repair what a mount would not, in part without a word.
        forget_the_error(image)?;
    }
    let (code, said) = e2fsck(&["-p"], image)?;
    if code > 1 || said.lines().any(|line| !is_what_a_mount_does(line)) {
        return damaged("journal replay", said, error_recorded);
    }
    match e2fsck(&["-f", "-n"], image)? {
        (0, _) => Ok(Checked { damage: None, error_recorded }),
        (_, said) => damaged("e2fsck -fn", said, error_recorded),
    }
}

/// What one repair brings to light, another may have to mend: a person would run it twice too.
fn repair_and_check(image: &Path, error_recorded: bool) -> Result<Checked, Failure> {
    let mut last = (0, String::new());
    for _ in 0..2 {
        let (code, said) = e2fsck(&["-f", "-y"], image)?;
        if code & 4 != 0 {
            let damage = Damage { step: "e2fsck -fy", said };
            return Ok(Checked { damage: Some(damage), error_recorded });
        }
        last = e2fsck(&["-f", "-n"], image)?;
        if last.0 == 0 {
            return Ok(Checked { damage: None, error_recorded });
        }
    }
    Ok(Checked { damage: Some(Damage { step: "e2fsck -fn after -fy", said: last.1 }), error_recorded })
}

/// `e2fsck -p` repairs more than a mount would, a missing journal for one. A line that is none of these is such a repair.
fn is_what_a_mount_does(line: &str) -> bool {
    let harmless = ["recovering journal", "clean, ", "Clearing orphaned inode ", "Truncating orphaned inode "];
    let said = line.split_once(": ").map_or(line, |(_, said)| said);
    said.trim().is_empty() || harmless.iter().any(|words| said.starts_with(words))
}

/// Takes the error that the kernel has written down out of the superblock of this copy.
fn forget_the_error(image: &Path) -> Result<(), Failure> {
    let program = programs::on_host("debugfs").ok_or_else(|| {
        Failure::infrastructure("debugfs is not installed", "run scripts/setup (Debian package e2fsprogs)")
    })?;
    let mut command = Command::new(&program);
    let status = command.args(["-c", "-w", "-R", "ssv state 1"]).arg(image).output().at("start", &program)?.status;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::infrastructure(format!("debugfs ended with {status} on {}", image.display()), "")),
    }
}

/// What the superblock says of the file system as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// There is a journal.
    pub has_journal: bool,
    /// The journal must be replayed.
    pub needs_replay: bool,
    /// The kernel has met an error.
    pub error_recorded: bool,
}

impl Marks {
    /// None: there is no ext4 file system.
    pub fn of(image: &Path) -> Result<Option<Marks>, Failure> {
        use std::os::unix::fs::FileExt;
        let mut superblock = [0; 0x64];
        let file = std::fs::File::open(image).at("open", image)?;
        file.read_exact_at(&mut superblock, SUPERBLOCK_AT).at("read", image)?;
        let at = |offset: usize| u16::from_le_bytes([superblock[offset], superblock[offset + 1]]);
        let marks = || Marks {
            has_journal: at(COMPAT_AT) & COMPAT_HAS_JOURNAL != 0,
            needs_replay: at(INCOMPAT_AT) & INCOMPAT_RECOVER != 0,
            error_recorded: at(STATE_AT) & STATE_ERROR != 0,
        };
        Ok((at(MAGIC_AT) == MAGIC).then(marks))
    }
}

/// Its exit code and all it said. Only a code without "errors were left" (4) is trouble of its own: with one, it had enough
/// of what it found.
fn e2fsck(options: &[&str], image: &Path) -> Result<(i32, String), Failure> {
    let program = programs::on_host("e2fsck").ok_or_else(|| {
        Failure::infrastructure("e2fsck is not installed", "run scripts/setup (Debian package e2fsprogs)")
    })?;
    let mut command = Command::new(&program);
    // A group of its own: Ctrl-C is ours to answer, in between, and must not look like a program that failed.
    command.process_group(0);
    let output = command.args(options).arg(image).env("LC_ALL", "C").output().at("start", &program)?;
    // With -p what it did is on stdout; stderr begins with its version.
    let said = String::from_utf8_lossy(&output.stdout).replace(&image.display().to_string(), "IMAGE");
    match output.status.code() {
        Some(code) if code < 8 || code & 4 != 0 => Ok((code, said)),
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(
                format!("e2fsck could not work on a state ({}): {} {}", output.status, said.trim(), error.trim()),
                "look for memory and room that ran out, and run again",
            ))
        }
    }
}
