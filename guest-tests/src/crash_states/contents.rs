//! What the files of an image hold, read by debugfs: as an ordinary user, without a mount, and by neither the kernel nor any
//! code of ours.
//!
//! The crate `ext4-view` 1.0.0 was tried first. It does not know unwritten extents and gives what the disk held there
//! before; the guest's kernel, asked about the same states, did not agree.

use crate::durability::{Node, Tree};
use crate::failure::{At, Failure};
use crate::programs;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of files that are alive, each once: the states of a cut hold mostly the same.
#[derive(Debug, Default)]
pub struct Pool(Mutex<BTreeMap<[u8; 32], Weak<[u8]>>>);

impl Pool {
    fn keep(&self, data: Vec<u8>) -> Arc<[u8]> {
        let digest: [u8; 32] = Sha256::digest(&data).into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = known.get(&digest).and_then(Weak::upgrade) {
            return kept;
        }
        let kept: Arc<[u8]> = data.into();
        known.retain(|_, other| other.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&kept));
        kept
    }
}

/// What debugfs says of inodes, by path.
pub type Stats = BTreeMap<String, String>;

/// Reads everything, and what the inodes of `named` are; the files lie in `scratch` meanwhile. The inner error: the file system is
/// not readable, and why.
pub fn read(
    image: &Path,
    scratch: &Path,
    pool: &Pool,
    named: &[String],
) -> Result<Result<(Tree, Stats), String>, Failure> {
    let files = tempfile::tempdir_in(scratch).at("make a folder in", scratch)?;
    let stats = match dump(image, files.path(), named)? {
        Ok(stats) => stats,
        Err(said) => return Ok(Err(said)),
    };
    let mut tree = Tree::default();
    let lost_and_found = files.path().join("lost+found");
    // It is nobody's but the file system's.
    if lost_and_found.is_dir() {
        std::fs::remove_dir_all(&lost_and_found).at("remove", &lost_and_found)?;
    }
    folder(files.path(), "", pool, &mut tree)?;
    Ok(Ok((tree, stats)))
}

/// Copies all files out. The inner error: what debugfs has to complain of.
fn dump(image: &Path, to: &Path, named: &[String]) -> Result<Result<Stats, String>, Failure> {
    let program = programs::on_host("debugfs").ok_or_else(|| {
        Failure::infrastructure("debugfs is not installed", "run scripts/setup (Debian package e2fsprogs)")
    })?;
    let mut commands = tempfile::NamedTempFile::new().at("make a file in", Path::new("the temporary folder"))?;
    let lines = named.iter().map(|path| format!("{STAT}{path}\"\n")).collect::<String>();
    let script = format!("rdump / \"{}\"\n{lines}", to.display());
    std::io::Write::write_all(&mut commands, script.as_bytes()).at("write", commands.path())?;
    let mut command = Command::new(&program);
    // Bitmaps are e2fsck's to judge: a file can be read without them.
    command.args(["-c", "-f"]).arg(commands.path()).arg(image).env("LC_ALL", "C");
    let output = command.output().at("start", &program)?;
    if !output.status.success() {
        return Err(Failure::infrastructure(
            format!("debugfs ended with {} on {}", output.status, image.display()),
            "",
        ));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No space left on device") {
        return Err(Failure::infrastructure(
            format!("no room for the files of a state in {}", to.display()),
            "make room",
        ));
    }
    let complaints: Vec<&str> = said.lines().filter(|line| !is_harmless(line)).collect();
    Ok(match complaints.is_empty() {
        true => Ok(stats(&String::from_utf8_lossy(&output.stdout))),
        false => Err(complaints.join("\n").replace(&image.display().to_string(), "IMAGE")),
    })
}

/// How debugfs is asked for an inode.
const STAT: &str = "stat \"/";

/// Each answer stands behind its question.
fn stats(said: &str) -> Stats {
    let answers = said.split("debugfs: ").filter_map(|answer| answer.strip_prefix(STAT)?.split_once("\"\n"));
    answers.map(|(path, answer)| (path.to_owned(), answer.to_owned())).collect()
}

/// Its version, and that an ordinary user's copies are his own.
fn is_harmless(line: &str) -> bool {
    let harmless = ["while changing ownership of", ": File not found by ext2_lookup"];
    line.trim().is_empty() || line.starts_with("debugfs 1.") || harmless.iter().any(|words| line.contains(words))
}

fn folder(at: &Path, path: &str, pool: &Pool, tree: &mut Tree) -> Result<(), Failure> {
    for entry in std::fs::read_dir(at).at("list", at)? {
        let entry = entry.at("list", at)?;
        let (name, here) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let below = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
        // Not of what a link leads to, which is a place on this machine.
        let kind = entry.file_type().at("look at", &here)?;
        let node = match (kind.is_dir(), kind.is_file()) {
            (true, _) => Node::Folder,
            (_, true) => Node::File(pool.keep(std::fs::read(&here).at("read", &here)?)),
            _ => Node::Other,
        };
        let is_folder = node == Node::Folder;
        tree.0.insert(below.clone(), node);
        if is_folder {
            folder(&here, &below, pool, tree)?;
        }
    }
    Ok(())
}
