//! What a broken promise rests on: which fsync made it, and how the file got its blocks.
//!
//! Both tell bugs apart that look alike from outside. What an fsync promised before the journal aborted must be there; one that
//! answers 0 afterwards is a bug of its own. Where blocks count as written from the moment they are a file's, a write that fails
//! leaves what they held before; where they are unwritten until then, the same is another bug.

use crate::findings::{
    self, CONTENTS_NOT_ALLOWED, CORRUPT_DATA_RETURNED, EXTENT_MAP_NOT_ALLOWED, FILE_LOST, NAME_NOT_ALLOWED,
    STALE_DATA_READ, WRITTEN_DATA_LOST,
};
use crate::judge::Recorded;
use crate::modelled;
use crate::ops::OpLine;
use crate::verdict::Finding;
use guest_init::job::{Action, Errno};

/// The name of what an fsync promised that should have failed.
pub const AFTER_ABORT: &str = "what fsync promised after the journal aborted is not there";

/// Findings about what files hold.
pub const OF_DATA: &[&str] = &[STALE_DATA_READ, WRITTEN_DATA_LOST, CONTENTS_NOT_ALLOWED, CORRUPT_DATA_RETURNED];

/// Findings about what is not as an fsync promised.
const OF_PROMISES: &[&str] =
    &[FILE_LOST, WRITTEN_DATA_LOST, CONTENTS_NOT_ALLOWED, NAME_NOT_ALLOWED, EXTENT_MAP_NOT_ALLOWED];

/// Which promise a finding says was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It is about none, or about one made while the journal was alive.
    Other,
    /// Only about those of fsyncs that came after the disk had refused something, and the journal has aborted.
    AfterAbort,
}

/// See [`Promise`]. Asked of the model: had those fsyncs told the truth, it would find nothing here.
pub fn of(recorded: &Recorded, finding: &Finding) -> Promise {
    if !OF_PROMISES.contains(&finding.id.as_str()) || !journal_aborted(recorded) {
        return Promise::Other;
    }
    // 0: it is not known when the disk refused first.
    let Some(first_error) = modelled::facts(recorded).first_error.filter(|first| *first > 0) else {
        return Promise::Other;
    };
    if findings::is_after_cut(finding) {
        // The states are gone: what is sure is only that all there was of promises came from then on.
        let earlier = recorded.ops.iter().any(|line| line.index < first_error && line.succeeded() && is_promise(line));
        return if earlier { Promise::Other } else { Promise::AfterAbort };
    }
    let honest: Vec<OpLine> = recorded.ops.iter().map(|line| told_the_truth(line, first_error)).collect();
    let followed = modelled::follow_ops(recorded, &honest);
    let left = findings::not_allowed(&followed.followed.misfits, &honest, &followed.facts);
    let same = |other: &Finding| (&other.id, &other.path) == (&finding.id, &finding.path);
    match left.iter().any(same) {
        true => Promise::Other,
        false => Promise::AfterAbort,
    }
}

fn is_promise(line: &OpLine) -> bool {
    use Action::{Fdatasync, Fsync, MmapWrite, Remount, Sync};
    matches!(line.args.action, Fsync { .. } | Fdatasync { .. } | Sync {} | Remount {} | MmapWrite { msync: true, .. })
}

/// With an error, if it is an fsync that succeeded from then on.
fn told_the_truth(line: &OpLine, from: u32) -> OpLine {
    let mut line = line.clone();
    if line.index >= from && matches!(line.args.action, Action::Fsync { .. } | Action::Fdatasync { .. }) {
        line.result.iter_mut().for_each(|result| result.errno = result.errno.or(Some(Errno(libc::EIO))));
    }
    line
}

/// The kernel says that its journal is dead.
pub fn journal_aborted(recorded: &Recorded) -> bool {
    recorded.kernel_log.contains("Aborting journal")
}

/// How a file gets its blocks, where it is not as by default: unwritten until its data is on the disk.
pub fn allocation(recorded: &Recorded) -> Option<&'static str> {
    let filesystem = &recorded.scenario.filesystem;
    let mount = filesystem.mount.join(",");
    let has = |option: &str| mount.split(',').any(|word| word == option);
    let mkfs = filesystem.mkfs.join(" ");
    if has("data=journal") {
        return Some("data in the journal");
    }
    let locked = has("dioread_lock") || !has("dioread_nolock") && locked_by_default(recorded);
    let no_extents = mkfs.contains("^extent") || has("noextents");
    (locked || has("nodelalloc") || no_extents).then_some("blocks allocated as written")
}

/// Kernels up to 6.1 take `dioread_nolock` for granted only where blocks are as large as pages (ext4_set_def_opts, fs/ext4/super.c).
fn locked_by_default(recorded: &Recorded) -> bool {
    let mut numbers = recorded.host.kernel.release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    version < (Some(6), Some(2)) && recorded.scenario.filesystem.block_bytes < 4096
}
