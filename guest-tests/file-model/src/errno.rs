//! Which result a call may have, given the names there are and what the disk has done until then.
//!
//! Names decide exactly (ENOENT, EEXIST, EISDIR, …). Beside that an error must have a reason that is known: the disk answered with
//! one at or before the call, the volume can be full, the range cannot be. What has none is [`Said::NotAllowed`]; what the model
//! cannot decide is [`Said::Unknown`] and counted.

use crate::Facts;
use crate::names::{Lookup, is_below, plain};
use crate::ops::OpLine;
use crate::sizes::Sizes;
use crate::state::{State, is_direct};
use guest_init::job::{Action, Errno, MAX_LEN_BYTES, Write};
use std::collections::BTreeSet;

/// From here on a file may be too large: the smallest limit of ext4 (blocks of 1 KiB, no extents).
const BIG_BYTES: u64 = 16 << 30;

/// No system call takes more.
const LONGEST_BYTES: u64 = i64::MAX as u64;

/// What an operation's result is to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is allowed.
    Allowed,
    /// The model cannot say.
    Unknown,
    /// It is not allowed; these are: `None` is success.
    NotAllowed(Vec<Option<Errno>>),
}

/// What a call may return.
#[derive(Clone, Debug, Default)]
struct May {
    /// Errors without which it cannot succeed: the names or its arguments say so.
    refused: BTreeSet<i32>,
    /// Errors that it may end with although nothing refuses it.
    also: BTreeSet<i32>,
}

/// Holds a result against the model. `demand_bytes`: what has been asked for until now, this operation included.
pub fn judge(state: &State, line: &OpLine, facts: &Facts, demand_bytes: u64) -> Said {
    let Some(result) = &line.result else { return Said::Unknown };
    let action = &line.args.action;
    if facts.disk_lied || state.names.track_is_lost() || paths(action).any(is_unusual) {
        return Said::Unknown;
    }
    let mut may = by_names(state, action);
    if may.refused.is_empty() {
        by_arguments(&mut may, state, action, facts);
    }
    if demand_bytes >= facts.size_bytes / 4 {
        may.also.insert(if matches!(action, Action::MmapWrite { .. }) { libc::EFAULT } else { libc::ENOSPC });
    }
    if facts.trouble_at(line.index) {
        may.also.extend([libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::ENOSPC, libc::EFAULT]);
        if facts.metadata_failed {
            may.also.insert(libc::EROFS);
        }
    }
    if facts.read_only {
        may.also.insert(libc::EROFS);
    }
    may.say(result.errno, facts.trouble_at(line.index) && (facts.other_status || matches!(action, Action::Remount {})))
}

impl May {
    fn say(self, errno: Option<Errno>, anything_goes: bool) -> Said {
        let fine = match errno {
            None => self.refused.is_empty(),
            Some(Errno(number)) => self.refused.contains(&number) || self.also.contains(&number),
        };
        // Memory was short, or a signal came: nothing that is modelled.
        let of_machine = |errno: Errno| [libc::ENOMEM, libc::EINTR, libc::EAGAIN].contains(&errno.0);
        match errno {
            _ if fine => Said::Allowed,
            Some(errno) if anything_goes || of_machine(errno) => Said::Unknown,
            _ => {
                let success = self.refused.is_empty().then_some(None);
                let errors = self.refused.union(&self.also).map(|number| Some(Errno(*number)));
                Said::NotAllowed(success.into_iter().chain(errors).collect())
            }
        }
    }
}

fn paths(action: &Action) -> impl Iterator<Item = &str> {
    let to = match action {
        Action::Rename { to, .. } | Action::Link { to, .. } => Some(to.as_str()),
        _ => None,
    };
    action.path().into_iter().chain(to)
}

/// Paths that are looked up in another way than by their parts alone.
fn is_unusual(path: &str) -> bool {
    let part_is_long = path.split('/').any(|part| part.len() > 255);
    path.ends_with('/') || part_is_long || plain(path).split('/').next() == Some("lost+found")
}

fn by_names(state: &State, action: &Action) -> May {
    let lookup = |path: &str| state.names.lookup(path);
    let refused = match action {
        Action::Create { path } | Action::Mkdir { path } => to_be_made(lookup(path)),
        Action::Unlink { path } => match lookup(path) {
            Lookup::Folder => vec![libc::EISDIR, libc::EPERM, libc::EBUSY, libc::EINVAL],
            other => to_be_found(other),
        },
        Action::Link { path, to } => of_link(lookup(path), lookup(to)),
        Action::Rename { path, to } => of_rename(state, path, to),
        Action::Fsync { path } | Action::Fdatasync { path } if !state.is_open(path, false) => to_be_found(lookup(path)),
        Action::Fsync { .. } | Action::Fdatasync { .. } => Vec::new(),
        other => match other.path() {
            Some(path) if !state.is_open(path, is_direct(other)) => to_be_opened(lookup(path)),
            _ => Vec::new(),
        },
    };
    // The folder is opened; whether it is read depends on its size.
    let (refused, also) = match action {
        Action::Read { .. } if refused == [libc::EISDIR] => (Vec::new(), refused),
        _ => (refused, Vec::new()),
    };
    May { refused: refused.into_iter().collect(), also: also.into_iter().collect() }
}

fn to_be_found(lookup: Lookup) -> Vec<i32> {
    match lookup {
        Lookup::File(_) | Lookup::Folder => Vec::new(),
        Lookup::Absent | Lookup::NoParent => vec![libc::ENOENT],
        Lookup::ThroughFile => vec![libc::ENOTDIR],
    }
}

fn to_be_opened(lookup: Lookup) -> Vec<i32> {
    match lookup {
        Lookup::Folder => vec![libc::EISDIR],
        other => to_be_found(other),
    }
}

fn to_be_made(lookup: Lookup) -> Vec<i32> {
    match lookup {
        Lookup::File(_) | Lookup::Folder => vec![libc::EEXIST],
        Lookup::Absent => Vec::new(),
        Lookup::NoParent => vec![libc::ENOENT],
        Lookup::ThroughFile => vec![libc::ENOTDIR],
    }
}

/// What exists is looked up first.
fn of_link(from: Lookup, to: Lookup) -> Vec<i32> {
    match (from, to) {
        (Lookup::File(_), to) => to_be_made(to),
        (Lookup::Folder, Lookup::Absent) => vec![libc::EPERM],
        (Lookup::Folder, to) => to_be_made(to),
        (from, _) => to_be_found(from),
    }
}

fn of_rename(state: &State, path: &str, to: &str) -> Vec<i32> {
    let (from, there) = (state.names.lookup(path), state.names.lookup(to));
    let (path, to) = (plain(path), plain(to));
    if path.is_empty() || to.is_empty() {
        return vec![libc::EBUSY, libc::EINVAL, libc::ENOTEMPTY, libc::EISDIR, libc::ENOENT];
    }
    // Both folders are looked up first, then the old name.
    let mut refused = match (from, there) {
        (Lookup::NoParent | Lookup::ThroughFile, _) => return to_be_found(from),
        (_, Lookup::NoParent | Lookup::ThroughFile) => return to_be_made(there),
        (Lookup::Absent, _) => return to_be_found(from),
        (Lookup::Folder, Lookup::File(_)) => vec![libc::ENOTDIR],
        (Lookup::File(_), Lookup::Folder) => vec![libc::EISDIR, libc::ENOTEMPTY],
        (Lookup::Folder, Lookup::Folder) if path != to && !state.names.is_empty_folder(&to) => vec![libc::ENOTEMPTY],
        _ => Vec::new(),
    };
    if is_below(&to, &path) {
        refused.push(libc::EINVAL);
    }
    refused
}

fn by_arguments(may: &mut May, state: &State, action: &Action, facts: &Facts) {
    let end = |offset: &u64, len: &u64| offset.saturating_add(*len);
    let too_big = |may: &mut May, end: u64| {
        if end > BIG_BYTES {
            may.also.extend([libc::EFBIG, libc::ENOSPC, libc::EINVAL]);
        }
    };
    match action {
        Action::Write(write) | Action::AioWrite(write) => {
            too_big(may, end(&write.offset, &write.len));
            if write.direct && !is_aligned(write, facts) {
                may.also.insert(libc::EINVAL);
            }
        }
        Action::Read { path, offset, len, direct } => {
            let sizes = state.target(path, *direct).map_or_else(Sizes::default, |id| state.files[id].now());
            let wanted = len.unwrap_or(sizes.most.saturating_sub(*offset));
            let is_open = sizes.least != sizes.most;
            if wanted > MAX_LEN_BYTES {
                may.also.insert(libc::EFBIG);
            }
            if *direct && (is_open || offset % facts.direct_bytes != 0 || wanted % facts.direct_bytes != 0) {
                may.also.insert(libc::EINVAL);
            }
        }
        Action::Fallocate { offset, len, .. } => {
            too_big(may, end(offset, len));
            if *len == 0 {
                may.refused.insert(libc::EINVAL);
            } else if !facts.extents {
                may.also.insert(libc::EOPNOTSUPP);
            }
        }
        Action::Punch { offset, len, .. } => {
            too_big(may, end(offset, len));
            if *len == 0 {
                may.refused.insert(libc::EINVAL);
            } else if !facts.extents {
                may.also.insert(libc::EOPNOTSUPP);
            }
        }
        Action::Truncate { len, .. } => too_big(may, *len),
        Action::SyncFileRange { offset, len, .. } if end(offset, len) > LONGEST_BYTES => {
            may.also.insert(libc::EINVAL);
        }
        Action::MmapWrite { path, offset, len, .. } => {
            let size = state.target(path, false).map_or(0, |id| state.files[id].now().least);
            if end(offset, len) > size {
                may.also.extend([libc::EFAULT, libc::EINVAL]);
            }
        }
        Action::Fstrim {} => may.also.extend([libc::EOPNOTSUPP]),
        Action::AwaitCapacity { .. } => may.also.extend([libc::ETIMEDOUT]),
        _ => {}
    }
}

fn is_aligned(write: &Write, facts: &Facts) -> bool {
    write.calls().iter().all(|(offset, len)| offset % facts.direct_bytes == 0 && len % facts.direct_bytes == 0)
}

/// How many bytes of the disk an operation may need at most.
pub fn demand_bytes(action: &Action, facts: &Facts) -> u64 {
    let cluster = facts.cluster_bytes;
    let whole = |len: u64| len.saturating_add(2 * cluster);
    match action {
        Action::Write(write) | Action::AioWrite(write) => {
            write.calls().iter().map(|(_, len)| whole(*len)).fold(0, u64::saturating_add)
        }
        Action::MmapWrite { len, .. } | Action::Fallocate { len, .. } => whole(*len),
        Action::Create { .. } | Action::Mkdir { .. } | Action::Link { .. } | Action::Rename { .. } => whole(0),
        _ => 0,
    }
}
