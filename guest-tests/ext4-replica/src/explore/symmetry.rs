//! Which worlds are the same: those that differ only in which of several like threads, or files, is which.
//!
//! Threads that do the same are told apart by their numbers alone, and no step reads one, so they are hashed without, as a
//! multiset. Numbers of io_ends, bios and iocbs rise in order of creation, which exchanging two threads leaves as it is. Files differ
//! in their numbers alone as well: of all ways to number them the smallest hash is taken.

use super::activity::place;
use super::layout::{FILE_APART, FIRST_INO};
use super::{Bounds, World};
use crate::direct_io::DirectWrite;
use crate::thread::{FlushCompleted, Frame};
use std::hash::{BuildHasher, Hash as _, Hasher as _};
use writeback_events::Ino;

impl World {
    /// The same for worlds that are the same but for names.
    pub fn fingerprint(&self, hasher: &impl BuildHasher, bounds: &Bounds) -> u64 {
        if bounds.every_name {
            let names: Vec<_> = self.slots.iter().map(|slot| slot.name).collect();
            return hasher.hash_one((names, self.hash_as_it_is(hasher)));
        }
        let files = self.path.state.inodes.len();
        if files == 1 {
            return self.hash_as_it_is(hasher);
        }
        orders(files).into_iter().map(|order| self.renamed(&order).hash_as_it_is(hasher)).min().unwrap_or(0)
    }

    fn hash_as_it_is(&self, hasher: &impl BuildHasher) -> u64 {
        let World { path, slots, queued, left, going, tally, numbers: _, last: _ } = self;
        let mut shared = hasher.build_hasher();
        (&path.state, path.acted, left, going, tally).hash(&mut shared);
        let threads = slots.iter().fold(0_u64, |sum, slot| {
            sum.wrapping_add(hasher.hash_one((slot.name.role, slot.ino, &slot.thread, slot.part, slot.holds_mutex)))
        });
        let writes = queued.iter().fold(0_u64, |sum, write| sum.wrapping_add(hasher.hash_one(write)));
        (threads, writes).hash(&mut shared);
        shared.finish()
    }

    /// File number `n` becomes number `order[n]`.
    fn renamed(&self, order: &[u64]) -> World {
        let rename = |ino: &mut Ino| ino.0 = FIRST_INO + order[place(*ino)];
        let mut world = self.clone();
        let state = &mut world.path.state;
        let inodes = std::mem::take(&mut state.inodes);
        state.inodes = inodes.into_iter().map(|(mut ino, inode)| (rename(&mut ino), (ino, inode)).1).collect();
        state.io_ends.values_mut().for_each(|io_end| rename(&mut io_end.ino));
        state.iocbs.values_mut().for_each(|iocb| rename(&mut iocb.ino));
        world.queued.iter_mut().for_each(|write| rename(&mut write.ino));
        for slot in &mut world.slots {
            rename(&mut slot.ino);
            slot.thread.stack.iter_mut().filter_map(Frame::ino_mut).for_each(rename);
        }
        world.lay_elsewhere(order);
        world.going = (0..order.len()).fold(0, |going, n| going | (self.going >> n & 1) << order[n]);
        world.tally.rename(order);
        world
    }
}

impl World {
    /// On the disk a file lies where its number says.
    fn lay_elsewhere(&mut self, order: &[u64]) {
        let World { path, slots, .. } = self;
        // By the new number of a file.
        let mut further = vec![0_i64; order.len()];
        (0..).zip(order).for_each(|(old, new)| further[*new as usize] = FILE_APART * (*new as i64 - old));
        let state = &mut path.state;
        for (ino, inode) in &mut state.inodes {
            inode.extents.lies(further[place(*ino)]);
            let buffers = inode.pages.values_mut().flat_map(|page| &mut page.buffers);
            buffers.filter_map(|buffer| buffer.pblk.as_mut()).for_each(|pblk| lies(pblk, further[place(*ino)]));
        }
        for bio in state.bios.values_mut() {
            let ino = state.io_ends.get(&bio.io_end).map_or(Ino(FIRST_INO), |io_end| io_end.ino);
            lies(&mut bio.pblk, further[place(ino)]);
        }
        for slot in slots {
            let by = further[place(slot.ino)];
            slot.thread.io.iter_mut().for_each(|io| lies(&mut io.io_next_block, by));
            let bits = state.inodes.get(&slot.ino).map_or(12, |inode| inode.block_bits);
            for frame in &mut slot.thread.stack {
                if let Frame::IoSubmit { sector, .. } = frame {
                    lies(sector, by << (bits - 9));
                }
            }
        }
    }
}

/// What is no place yet stays none.
fn lies(pblk: &mut u64, further: i64) {
    *pblk = if *pblk == 0 { 0 } else { pblk.wrapping_add_signed(further) };
}

/// Every order of `0..n`.
fn orders(n: usize) -> Vec<Vec<u64>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert =
        |order: Vec<u64>| (0..=order.len()).map(move |at| [&order[..at], &[n as u64 - 1], &order[at..]].concat());
    orders(n - 1).into_iter().flat_map(insert).collect()
}

impl Frame {
    fn ino_mut(&mut self) -> Option<&mut Ino> {
        match self {
            Frame::InitIoEnd { ino, .. }
            | Frame::Submit { ino, .. }
            | Frame::BioWritePage { ino, .. }
            | Frame::IoSubmitAddBh { ino, .. }
            | Frame::EndIoRsvWork { ino }
            | Frame::DoFlushCompletedIo { at: FlushCompleted::Splice(ino) }
            | Frame::ConvertUnwrittenExtents { ino, .. }
            | Frame::InodeDioDone { ino }
            | Frame::DirectIo { write: DirectWrite { ino, .. }, .. } => Some(ino),
            Frame::SetIoUnwrittenFlag { .. }
            | Frame::GetIoEnd { .. }
            | Frame::IoSubmit { .. }
            | Frame::EndBio { .. }
            | Frame::SetErrorFlag { .. }
            | Frame::FinishBio { .. }
            | Frame::PutIoEndDefer { .. }
            | Frame::PutIoEnd { .. }
            | Frame::AddCompleteIo { .. }
            | Frame::DoFlushCompletedIo { at: FlushCompleted::Next(..) }
            | Frame::EndIoEnd { .. }
            | Frame::ConvertUnwrittenIoEndVec { .. }
            | Frame::ClearIoUnwrittenFlag { .. }
            | Frame::ReleaseIoEnd { .. }
            | Frame::AioComplete { .. }
            | Frame::EndIoDio { .. }
            | Frame::DirectIoReturn { .. } => None,
        }
    }
}
