//! What is on the image after the run, asked of e2fsprogs: they know neither our guest nor our disk.

use crate::failure::{At, Failure};
use crate::host::E2fsck;
use crate::programs;
use guest_init::job::{Action, Op};
use guest_init::pattern::{Pattern, PatternMap, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asks `e2fsck -fn`, which changes nothing.
pub fn e2fsck(image: &Path) -> Result<E2fsck, Failure> {
    let program = tool("e2fsck")?;
    let output = Command::new(&program).args(["-f", "-n"]).arg(image).output().at("start", &program)?;
    let text = String::from_utf8_lossy(&output.stdout).replace(&image.display().to_string(), "IMAGE");
    match output.status.code() {
        // 8 and above: e2fsck itself could not work. With 1 or 4 beside it, it had found damage before it gave up, as it
        // does over a journal that it would have to change.
        Some(exit_code) if exit_code < 8 || exit_code & 5 != 0 => Ok(E2fsck { exit_code, text }),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::infrastructure(format!("e2fsck could not check the image: {}", said.trim()), ""))
        }
    }
}

/// What the files `paths` hold on the image, in the words of the workload's patterns.
pub fn contents(
    image: &Path,
    scratch: &Path,
    paths: &BTreeSet<String>,
    workload: &[Op],
    block_bytes: u64,
) -> Result<BTreeMap<String, Option<Vec<Run>>>, Failure> {
    let known = patterns(workload);
    let content = |path: &String| -> Result<_, Failure> {
        let data = dump(image, scratch, path)?;
        let map = data.map(|data| PatternMap::of(&data, 0, &known, block_bytes).runs);
        Ok((path.clone(), map))
    };
    paths.iter().map(content).collect()
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

/// Copies a file out of the image; none: it is not there. debugfs takes no descriptor, hence the scratch file.
fn dump(image: &Path, scratch: &Path, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let program = tool("debugfs")?;
    let request = format!("dump \"/{path}\" \"{}\"", scratch.display());
    let output = Command::new(&program).arg("-R").arg(request).arg(image).output().at("start", &program)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let data = match std::fs::read(scratch) {
        Ok(data) => Some(data),
        Err(_) if said.contains("File not found") => None,
        Err(_) => return Err(Failure::infrastructure(format!("debugfs could not read {path}: {}", said.trim()), "")),
    };
    let _ = std::fs::remove_file(scratch);
    Ok(data)
}

fn tool(name: &str) -> Result<PathBuf, Failure> {
    programs::on_host(name).ok_or_else(|| {
        Failure::infrastructure(format!("{name} is not installed"), "run scripts/setup (Debian package e2fsprogs)")
    })
}
