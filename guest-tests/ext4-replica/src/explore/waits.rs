//! The waits: `ext4_unwritten_wait` and `ext4_ioend_wait` with their wake-ups, and those whose wake-up is taken for granted.
//!
//! The first two sleep on the inode's wait queue (`ext4_ioend_wq`, one for both), as `wait_event` does: onto the queue, look,
//! sleep. Whoever brings a counter down to 0 wakes all of it, and each looks again. So a wake-up that does not come, or comes
//! before anyone looks, shows as a thread that sleeps. Waiting for pages and for direct writes is only a condition here.

use super::activity::{Part, Slot, Wait};
use crate::event::Event;
use crate::page_io::Path;
use crate::state::Inode;
use writeback_events::Ino;

impl Part {
    /// It waits, and whether it may go on.
    pub(super) fn may_go_on(&self, path: &Path, ino: Ino) -> Option<bool> {
        let inode = path.state.inodes.get(&ino);
        match self {
            Part::Unwritten(wait) | Part::IoEnds(wait) => Some(*wait != Wait::Sleep),
            Part::Pages => Some(inode.is_none_or(Inode::pages_are_free)),
            Part::Dio => Some(inode.is_none_or(|inode| inode.i_dio_count == 0)),
            _ => None,
        }
    }

    /// The kernel function it waits in.
    pub(super) fn waits_in(&self) -> &'static str {
        match self {
            Part::Unwritten(_) => "ext4_unwritten_wait",
            Part::IoEnds(_) => "ext4_ioend_wait",
            Part::Dio => "inode_dio_wait",
            Part::Generic { .. } => "__blockdev_direct_IO",
            _ => "wait_on_page_writeback",
        }
    }

    /// What is wrong if it still waits when nothing is under way.
    pub(super) fn waits_for(&self, path: &Path, ino: Ino) -> &'static str {
        let Some(inode) = path.state.inodes.get(&ino) else { return "a thread waits for ever" };
        match self {
            Part::Unwritten(_) if inode.i_unwritten == 0 => {
                "ext4_unwritten_wait sleeps though i_unwritten is 0: nobody woke it"
            }
            Part::Unwritten(_) => "ext4_unwritten_wait waits for ever: i_unwritten never comes to 0",
            Part::IoEnds(_) if inode.i_ioend_count == 0 => {
                "ext4_ioend_wait sleeps though i_ioend_count is 0: nobody woke it"
            }
            Part::IoEnds(_) => "ext4_ioend_wait waits for ever: i_ioend_count never comes to 0",
            Part::Dio => "inode_dio_wait waits for ever: i_dio_count never comes to 0",
            _ => "a thread waits for ever for a page",
        }
    }
}

impl Inode {
    fn pages_are_free(&self) -> bool {
        self.writeback.is_empty() && self.pages.values().all(|page| !page.locked)
    }
}

/// One step of `wait_event`; none once what is waited for has come.
pub(super) fn wait(wait: Wait, come: bool) -> Option<Wait> {
    match wait {
        Wait::Prepare => Some(Wait::Check { woken: false }),
        Wait::Check { .. } if come => None,
        Wait::Check { woken: true } => Some(Wait::Check { woken: false }),
        Wait::Check { woken: false } | Wait::Sleep => Some(Wait::Sleep),
    }
}

/// Wakes whoever is on the wait queue of an inode whose counter has come to 0.
pub(super) fn wake(path: &Path, events: &[Event], slots: &mut [Slot]) {
    for event in events {
        let io_end = match *event {
            Event::ReleaseIoEnd { io_end, i_ioend_count: 0, .. } => io_end,
            Event::ClearUnwritten { io_end, i_unwritten: 0 } => io_end,
            _ => continue,
        };
        let ino = path.io_end(io_end).ino;
        for slot in slots.iter_mut().filter(|slot| slot.ino == ino) {
            if let Part::Unwritten(wait) | Part::IoEnds(wait) = &mut slot.part {
                *wait = match *wait {
                    Wait::Prepare => Wait::Prepare,
                    Wait::Check { .. } => Wait::Check { woken: true },
                    Wait::Sleep => Wait::Check { woken: false },
                };
            }
        }
    }
}
