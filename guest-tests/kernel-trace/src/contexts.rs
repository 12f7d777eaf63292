//! Task or interrupt, where a breakpoint's own flags do not tell.
//!
//! A breakpoint is handled with interrupts off. From 6.1 on its record says whether they were off before; in 5.10 every such
//! record has the flag (seen in 5.10.262 guests), so that only a soft interrupt can be told from a task. There an interrupt is known by
//! what it does: a tracepoint, whose flags are true, says that it completes a request, and what follows on that CPU is its
//! doing as long as it is about the io_end of the bio that it has ended. A task can do nothing on that CPU until it is over.

use crate::typed::{Event, HARDIRQ, IRQS_OFF, Kind, NMI, SOFTIRQ};
use std::collections::BTreeMap;
use writeback_events::PutBy;

/// Breakpoint or tracepoint, the flags of the record say this.
pub(crate) fn in_interrupt(flags: u8) -> bool {
    if flags & NMI != 0 {
        return flags & (SOFTIRQ | IRQS_OFF) != 0;
    }
    flags & (SOFTIRQ | HARDIRQ) != 0
}

/// Gives every event its context. `events` of all CPUs, in order.
pub(crate) fn settle(events: &mut [Event]) {
    let says_nothing = |event: &Event| event.flags & (NMI | IRQS_OFF) == NMI | IRQS_OFF && is_of_tasks(&event.kind);
    if !events.iter().any(says_nothing) {
        return;
    }
    let mut cpus: BTreeMap<u16, Cpu> = BTreeMap::new();
    let mut io_end_of: Pages = BTreeMap::new();
    for event in events {
        if let Kind::Folio { io_end, ino, index, .. } = event.kind {
            io_end_of.insert((ino, index), io_end);
        }
        event.interrupt = cpus.entry(event.cpu).or_default().interrupted(event, &io_end_of);
    }
}

/// The io_end that a page was last handed over for, by inode and index. A page is under writeback for one at a time.
type Pages = BTreeMap<(u64, u64), u64>;

/// What no interrupt ever does.
fn is_of_tasks(kind: &Kind) -> bool {
    matches!(kind, Kind::Init { .. } | Kind::Folio { .. } | Kind::Get { .. } | Kind::WorkerStarts { .. })
}

#[derive(Default)]
struct Cpu {
    /// An interrupt completes a request here, as far as is known.
    completes: bool,
    /// The io_end of the bio that it has ended last.
    ended: Option<u64>,
}

impl Cpu {
    fn interrupted(&mut self, event: &Event, io_end_of: &Pages) -> bool {
        let its_own = self.ended;
        let interrupted = match event.kind {
            _ if event.flags & NMI == 0 => {
                self.ended = None;
                in_interrupt(event.flags)
            }
            _ if event.flags & SOFTIRQ != 0 => return true,
            Kind::EndBio { io_end, .. } => {
                self.ended = Some(io_end);
                self.completes
            }
            Kind::PutIn { by: PutBy::PutIoEndDefer, io_end, .. }
            | Kind::PutDone { by: PutBy::PutIoEndDefer, io_end, .. }
            | Kind::Release { io_end, .. } => self.completes && its_own == Some(io_end),
            Kind::EndWriteback { ino, index, .. } => {
                let of = io_end_of.get(&(ino, index)).copied();
                // Pages that no io_end is known of are no file's.
                self.completes && (of.is_none() || of == its_own)
            }
            _ => false,
        };
        self.completes = interrupted;
        interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::RequestKey;

    #[test]
    fn a_breakpoint_in_a_task_is_no_interrupt_though_it_looks_like_one() {
        assert!(!in_interrupt(0x48), "NMI and hard interrupt are the breakpoint's own");
        assert!(in_interrupt(0x49), "interrupts were off: a hard interrupt under the driver's lock");
        assert!(in_interrupt(0x58), "a soft interrupt");
        assert!(in_interrupt(0x08), "a tracepoint in a hard interrupt");
        assert!(!in_interrupt(0x01), "a tracepoint in a task with interrupts off");
    }

    const BREAKPOINT: u8 = 0x49;

    fn breakpoint(kind: Kind) -> Event {
        Event { seq: 0, cpu: 0, task: 7, flags: BREAKPOINT, interrupt: in_interrupt(BREAKPOINT), kind }
    }

    fn completes() -> Event {
        let key = RequestKey { dev: 1, op: 'W', sector: 0, sectors: 8 };
        Event { flags: 0x09, interrupt: true, ..breakpoint(Kind::Complete { key, errno: 0 }) }
    }

    fn folio(io_end: u64, index: u64) -> Event {
        breakpoint(Kind::Folio { io_end, ino: 12, index, order: 0 })
    }

    fn end_bio(io_end: u64) -> Event {
        breakpoint(Kind::EndBio { bio: 1, status: 0, io_end })
    }

    fn put(io_end: u64) -> Event {
        breakpoint(Kind::PutDone { by: PutBy::PutIoEndDefer, io_end, old: 1 })
    }

    fn release(io_end: u64) -> Event {
        breakpoint(Kind::Release { io_end, unwritten: false })
    }

    fn end_page(index: u64) -> Event {
        breakpoint(Kind::EndWriteback { dev: 1, ino: 12, index })
    }

    fn convert() -> Event {
        breakpoint(Kind::Convert { ino: 12, offset: 0, len: 4096 })
    }

    fn settled(mut events: Vec<Event>) -> Vec<bool> {
        settle(&mut events);
        events.iter().map(|event| event.interrupt).collect()
    }

    /// Seed 14.21 on 5.10: a worker that converts one io_end after the other was taken for an interrupt.
    #[test]
    fn an_interrupt_within_a_worker_has_what_is_its_own_and_the_worker_the_rest() {
        let (worker, interrupts) = (1, 2);
        let events = vec![
            folio(worker, 0),
            folio(worker, 1),
            folio(interrupts, 5),
            release(worker),
            end_page(0),
            completes(),
            end_bio(interrupts),
            put(interrupts),
            release(interrupts),
            end_page(5),
            end_page(1),
            convert(),
        ];
        let (task, irq) = (false, true);
        assert_eq!(settled(events), [task, task, task, task, task, irq, irq, irq, irq, irq, task, task]);
    }

    #[test]
    fn a_bio_that_ends_while_it_is_submitted_ends_in_its_task() {
        let submit = breakpoint(Kind::SubmitBio { bio: 1, sector: 0, bytes: 4096, sync: true, end_io: 0, io_end: 1 });
        assert_eq!(
            settled(vec![folio(1, 0), completes(), submit, end_bio(1), put(1)]),
            [false, true, false, false, false]
        );
    }

    #[test]
    fn a_soft_interrupt_is_told_by_its_flag() {
        let soft = |event: Event| Event { flags: 0x59, ..event };
        assert_eq!(settled(vec![folio(1, 0), soft(end_bio(1)), put(1)]), [false, true, false]);
    }

    #[test]
    fn flags_that_tell_are_left_as_they_are() {
        let task = |event: Event| Event { flags: 0x48, interrupt: false, ..event };
        assert_eq!(settled(vec![task(folio(1, 0)), end_bio(1), put(1), task(release(1))]), [false, true, true, false]);
    }
}
