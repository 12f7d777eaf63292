//! What is on the image after the run, asked of e2fsprogs: they know neither our guest nor our disk.
//!
//! Kept as `end-state.json` in the run's folder, without the files' bytes: what they are, their digest, and which blocks they have. So
//! the run can be judged again when its image is long gone.

use crate::crash_states::check::{self, Marks};
use crate::crash_states::contents::{self, Pool, Stats};
use crate::failure::{At, Failure};
use crate::folder::{self, RUN_AGAIN, RunFolder};
use crate::host::{E2fsck, Replayed};
use crate::programs;
use crate::scenario::Scenario;
use file_model::durability::{Mapped, Node, Tree};
use guest_init::job::{Action, Op};
use guest_init::pattern::{Pattern, PatternMap, Run, fnv1a64};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// end-state.json
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndState {
    /// Everything there is, by path.
    pub files: BTreeMap<String, Entry>,
    /// Why the files could not be read; none: they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// FNV-1a, 64 bit, of all of them.
        fnv1a64: String,
        /// What they are, as in ops.jsonl.
        map: Vec<Run>,
        /// Its extents, in order; none: its data is inside the inode, or nobody asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        extents: Option<Vec<Extent>>,
    },
    /// Neither.
    Other,
}

/// Blocks of a file that lie behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first, counted in the file.
    pub block: u64,
    /// How many.
    pub blocks: u64,
    /// They are allocated and read as zeros.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unwritten: bool,
}

impl EndState {
    /// Reads it from a run's folder; none: the run has none, since there was nothing to look at or the program was older.
    pub fn read(run: &RunFolder) -> Result<Option<EndState>, Failure> {
        let path = run.file(folder::END_STATE);
        if !path.exists() {
            return Ok(None);
        }
        let text = run.read_text(folder::END_STATE)?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::BadInput(format!("{} is damaged: {error}; {RUN_AGAIN}", path.display())))
    }

    /// Writes it.
    pub fn write(&self, run: &RunFolder) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("it holds nothing that JSON cannot say");
        run.write(folder::END_STATE, text + "\n")
    }

    /// In the model's words.
    pub fn tree(&self) -> Tree {
        let node = |entry: &Entry| match entry {
            Entry::Folder => Node::Folder,
            Entry::Other => Node::Other,
            Entry::File { size, fnv1a64, map, extents } => Node::Mapped(Mapped {
                size: *size,
                fnv1a64: fnv1a64.clone(),
                runs: map.clone(),
                blocks: extents
                    .as_ref()
                    .map(|list| list.iter().map(|it| (it.block, it.blocks, it.unwritten)).collect()),
            }),
        };
        Tree(self.files.iter().map(|(path, entry)| (path.clone(), node(entry))).collect())
    }

    /// What these files hold; none: the file is not there.
    pub fn contents(&self, paths: &BTreeSet<String>) -> BTreeMap<String, Option<Vec<Run>>> {
        let content = |path: &String| match self.files.get(path) {
            Some(Entry::File { map, .. }) => Some(map.clone()),
            _ => None,
        };
        paths.iter().map(|path| (path.clone(), content(path))).collect()
    }
}

/// Looks at an image that the guest has unmounted. Where its journal waits for a replay, or e2fsck is not content, a copy in the
/// new folder `scratch` is looked at as the next mount would find it.
pub fn look(image: &Path, scratch: &Path, scenario: &Scenario) -> Result<(E2fsck, EndState), Failure> {
    std::fs::create_dir(scratch).at("make", scratch)?;
    let looked = look_with(image, scratch, scenario);
    let removed = std::fs::remove_dir_all(scratch).at("remove", scratch);
    looked.and_then(|looked| removed.map(|()| looked))
}

fn look_with(image: &Path, scratch: &Path, scenario: &Scenario) -> Result<(E2fsck, EndState), Failure> {
    let mut e2fsck = e2fsck(image)?;
    let marks = Marks::of(image)?;
    e2fsck.error_recorded = marks.is_some_and(|marks| marks.error_recorded);
    if e2fsck.exit_code == 0 && marks.is_some_and(|marks| !marks.needs_replay) {
        let end = read(image, scratch, scenario)?;
        return Ok((e2fsck, end));
    }
    let copy = scratch.join("replayed.img");
    std::fs::copy(image, &copy).at("copy", image)?;
    let checked = check::replay_and_check(&copy)?;
    e2fsck.error_recorded |= checked.error_recorded;
    let damage = checked.damage.map(|damage| (damage.step.to_owned(), damage.said));
    e2fsck.replayed = Some(Replayed { damage });
    Ok((e2fsck, read(&copy, scratch, scenario)?))
}

/// Asks `e2fsck -fn`, which changes nothing.
fn e2fsck(image: &Path) -> Result<E2fsck, Failure> {
    let program = tool("e2fsck")?;
    let output = Command::new(&program).args(["-f", "-n"]).arg(image).output().at("start", &program)?;
    let text = String::from_utf8_lossy(&output.stdout).replace(&image.display().to_string(), "IMAGE");
    match output.status.code() {
        // 8 and above: e2fsck itself could not work. With 1 or 4 beside it, it had found damage before it gave up, as it
        // does over a journal that it would have to change.
        Some(exit_code) if exit_code < 8 || exit_code & 5 != 0 => {
            Ok(E2fsck { exit_code, text, replayed: None, error_recorded: false })
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(format!("e2fsck could not check the image: {}", said.trim()), ""))
        }
    }
}

fn read(image: &Path, scratch: &Path, scenario: &Scenario) -> Result<EndState, Failure> {
    let (known, named) = (patterns(&scenario.workload), named(&scenario.workload));
    let block_bytes = scenario.filesystem.block_bytes.into();
    Ok(match contents::read(image, scratch, &Pool::default(), &named)? {
        Ok((tree, stats)) => {
            let entries =
                tree.0.iter().map(|(path, node)| (path.clone(), entry(path, node, &stats, &known, block_bytes)));
            EndState { files: entries.collect(), unreadable: None }
        }
        Err(said) => EndState { files: BTreeMap::new(), unreadable: Some(said) },
    })
}

fn entry(path: &str, node: &Node, stats: &Stats, known: &[Pattern], block_bytes: u64) -> Entry {
    match node {
        Node::Folder => Entry::Folder,
        Node::File(data) => Entry::File {
            size: data.len() as u64,
            fnv1a64: format!("{:016x}", fnv1a64(data)),
            map: PatternMap::of(data, 0, known, block_bytes).runs,
            extents: stats.get(path).and_then(|stat| extents(stat)),
        },
        Node::Mapped(_) | Node::Other => Entry::Other,
    }
}

/// Every path that the workload names and that debugfs can be asked for, in the spelling of a listing.
fn named(workload: &[Op]) -> Vec<String> {
    let paths = workload.iter().flat_map(|op| {
        let to = match &op.action {
            Action::Rename { to, .. } | Action::Link { to, .. } => Some(to.as_str()),
            _ => None,
        };
        op.action.path().into_iter().chain(to)
    });
    let plain =
        |path: &str| path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/");
    let paths: BTreeSet<String> = paths.map(plain).collect();
    paths.into_iter().filter(|path| !path.is_empty() && !path.contains(['"', '\n'])).collect()
}

/// The extents in what debugfs says of an inode: `(0-7):1291-1298, (8-9[u]):1400-1401`. Blocks that hold the map itself have words
/// in place of numbers.
fn extents(stat: &str) -> Option<Vec<Extent>> {
    let (_, list) = stat.split_once("EXTENTS:\n").or_else(|| stat.split_once("BLOCKS:\n")).unwrap_or(("", ""));
    let has_data_inside = stat.contains("inline data") || stat.contains("Inline data");
    let extent = |place: &str| {
        let (place, unwritten) = place.strip_suffix("[u]").map_or((place, false), |place| (place, true));
        let (first, last) = place.split_once('-').unwrap_or((place, place));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(Extent { block: first, blocks: last.checked_sub(first)? + 1, unwritten })
    };
    let places = list.split('(').skip(1).filter_map(|rest| rest.split_once(')').map(|(place, _)| place));
    let mut extents: Vec<Extent> = places.filter_map(extent).collect();
    extents.sort_by_key(|extent| extent.block);
    (!has_data_inside && stat.contains("Type: regular")).then_some(extents)
}

fn patterns(workload: &[Op]) -> Vec<Pattern> {
    let name = |op: &Op| match &op.action {
        Action::Write(write) | Action::AioWrite(write) => Some(write.pattern.clone()),
        Action::MmapWrite { pattern, .. } => Some(pattern.clone()),
        _ => None,
    };
    let names: BTreeSet<String> = workload.iter().filter_map(name).collect();
    names.iter().map(|name| Pattern::new(name)).collect()
}

fn tool(name: &str) -> Result<PathBuf, Failure> {
    programs::on_host(name).ok_or_else(|| {
        Failure::infrastructure(format!("{name} is not installed"), "run scripts/setup (Debian package e2fsprogs)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(block: u64, blocks: u64, unwritten: bool) -> Extent {
        Extent { block, blocks, unwritten }
    }

    #[test]
    fn extents_are_read_from_what_debugfs_says_of_an_inode() {
        let stat = "Inode: 12   Type: regular    Mode:  0644   Flags: 0x80000\nEXTENTS:\n\
                    (ETB0):1300, (0-1):1291-1292, (2[u]):1293, (8-9[u]):1400-1401\n";
        let expected = vec![extent(0, 2, false), extent(2, 1, true), extent(8, 2, true)];
        assert_eq!(extents(stat), Some(expected));
        let stat = "Type: regular\nBLOCKS:\n(0-11):20-31, (IND):32, (12):33\nTOTAL: 14\n";
        assert_eq!(extents(stat), Some(vec![extent(0, 12, false), extent(12, 1, false)]));
        assert_eq!(extents("Type: regular\nEXTENTS:\n"), Some(vec![]));
        assert_eq!(extents("Type: regular\nSize of inline data: 60\n"), None);
        assert_eq!(extents("Type: directory\nEXTENTS:\n(0):9\n"), None);
    }
}
