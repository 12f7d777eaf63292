//! Records to typed events: which event it is, and its fields as numbers.
//!
//! Every event a plan can enable has its variant here; any other is an error, for it might be one that matters.

use crate::container::Header;
use crate::contexts::in_interrupt;
use crate::error::DecodeError;
use crate::format::Format;
use crate::page::Record;
use crate::plan::GROUP;
use std::collections::BTreeMap;
use writeback_events::PutBy;

/// `common_flags`: interrupts were off.
pub(crate) const IRQS_OFF: u8 = 0x01;
/// `common_flags`: within a hard interrupt.
pub(crate) const HARDIRQ: u8 = 0x08;
/// `common_flags`: serving a soft interrupt.
pub(crate) const SOFTIRQ: u8 = 0x10;
/// `common_flags`: within an NMI, or what counts as one, such as a breakpoint.
pub(crate) const NMI: u8 = 0x40;

/// One event of the ring buffer, in the terms of the writeback path.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub seq: u64,
    pub cpu: u16,
    pub task: u32,
    /// `common_flags`.
    pub flags: u8,
    pub interrupt: bool,
    pub kind: Kind,
}

/// What happened. Addresses are still the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    WritepagesEnter {
        dev: u64,
        ino: u64,
        sync: bool,
    },
    WritepagesLeave {
        dev: u64,
        ino: u64,
    },
    /// `ext4_ext_map_blocks` or `ext4_ind_map_blocks` returned; with `for_writeback` the extent is on behalf of writepages.
    Mapped {
        ino: u64,
        lblk: u64,
        pblk: u64,
        ret: i64,
        unwritten: bool,
        for_writeback: bool,
    },
    SyncFile {
        ino: u64,
    },
    /// `ext4_evict_inode`: the inode leaves memory.
    EvictInode {
        ino: u64,
        links: u64,
    },
    Init {
        io_end: u64,
        count: u32,
        unwritten: bool,
        inode: u64,
        ino: u64,
    },
    Release {
        io_end: u64,
        unwritten: bool,
    },
    Folio {
        io_end: u64,
        ino: u64,
        index: u64,
        order: u8,
    },
    Get {
        io_end: u64,
        count: Count,
        unwritten: bool,
    },
    /// A put is entered: the reference is still held.
    PutIn {
        by: PutBy,
        io_end: u64,
        count: u32,
        unwritten: bool,
        caller: u64,
    },
    /// The put's atomic step is done.
    PutDone {
        by: PutBy,
        io_end: u64,
        old: u32,
    },
    SubmitBio {
        bio: u64,
        sector: u64,
        bytes: u64,
        sync: bool,
        end_io: u64,
        io_end: u64,
    },
    EndBio {
        bio: u64,
        status: u8,
        io_end: u64,
    },
    WorkerStarts {
        ino: u64,
    },
    ConvertIoEnd {
        io_end: u64,
    },
    ConvertIoEndDone {
        ret: i64,
    },
    Convert {
        ino: u64,
        offset: i64,
        len: i64,
    },
    ConvertDone {
        ret: i64,
    },
    EndWriteback {
        dev: u64,
        ino: u64,
        index: u64,
    },
    Issue(RequestKey),
    Requeue(RequestKey),
    Complete {
        key: RequestKey,
        errno: i64,
    },
    QueueWork {
        work: u64,
        function: u64,
    },
    Marker(String),
}

/// What a probe says of a reference count before its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// What the atomic instruction returned.
    Exact(u32),
    /// Read before it: an interrupt may have come between.
    Read(u32),
}

/// By what a block request is recognised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestKey {
    pub dev: u64,
    pub op: char,
    pub sector: u64,
    pub sectors: u64,
}

/// All formats of a trace by event type.
pub(crate) struct Formats<'a> {
    by_id: BTreeMap<u16, Format>,
    header: &'a Header,
    puts_are_exact: [bool; 2],
}

impl<'a> Formats<'a> {
    pub(crate) fn parse(header: &'a Header) -> Result<Self, DecodeError> {
        let mut by_id = BTreeMap::new();
        for format in &header.formats {
            let parsed = Format::parse(format.event.clone(), &format.text)?;
            if let Some(other) = by_id.insert(parsed.id, parsed) {
                let why = format!("its ID {} is also that of {}", other.id, other.event);
                return Err(DecodeError::Format { event: format.event.clone(), why });
            }
        }
        let has = |name: &str| header.formats.iter().any(|format| format.event == format!("{GROUP}/{name}"));
        Ok(Formats { by_id, header, puts_are_exact: [has("put"), has("putd")] })
    }

    /// Whether the steps of this put have a probe behind the atomic instruction.
    pub(crate) fn put_is_exact(&self, by: PutBy) -> bool {
        self.puts_are_exact[usize::from(by == PutBy::PutIoEndDefer)]
    }

    /// The format of a record; `Err` with its type if there is none.
    pub(crate) fn of(&self, record: &Record) -> Result<&Format, u16> {
        // The type is the first field of every format; all agree on its place, so any format can read it.
        let any = self.by_id.values().next();
        let id = any.and_then(|format| format.number(record.bytes, "common_type")).unwrap_or_default() as u16;
        self.by_id.get(&id).ok_or(id)
    }

    pub(crate) fn typed(&self, cpu: u16, record: &Record) -> Result<Event, Problem> {
        let format = self.of(record).map_err(Problem::UnknownType)?;
        let fields = Fields { format, bytes: record.bytes, constants: &self.header.plan.constants };
        let kind = fields
            .kind()
            .map_err(|why| Problem::Event(DecodeError::Event { event: format.event.clone(), seq: record.seq, why }))?;
        let (flags, task) = self.common(format, record.bytes);
        Ok(Event { seq: record.seq, cpu, task, flags, interrupt: in_interrupt(flags), kind })
    }

    pub(crate) fn common(&self, format: &Format, bytes: &[u8]) -> (u8, u32) {
        let number = |name| format.number(bytes, name).unwrap_or_default();
        (number("common_flags") as u8, number("common_pid") as u32)
    }
}

/// Why a record is no typed event.
pub(crate) enum Problem {
    UnknownType(u16),
    Event(DecodeError),
}

struct Fields<'a> {
    format: &'a Format,
    bytes: &'a [u8],
    constants: &'a BTreeMap<String, u64>,
}

impl Fields<'_> {
    fn kind(&self) -> Result<Kind, String> {
        let (system, name) = self.format.event.split_once('/').unwrap_or_default();
        if system == GROUP {
            return self.probe(name.trim_end_matches(|last: char| last.is_ascii_digit()));
        }
        Ok(match name {
            "ext4_writepages" => Kind::WritepagesEnter {
                dev: self.unsigned("dev")?,
                ino: self.unsigned("ino")?,
                sync: self.unsigned("sync_mode")? == self.constant("WB_SYNC_ALL")?,
            },
            "ext4_writepages_result" => {
                Kind::WritepagesLeave { dev: self.unsigned("dev")?, ino: self.unsigned("ino")? }
            }
            "ext4_ext_map_blocks_exit" => self.mapped()?,
            // Files without extents: no part of an io_end is ever unwritten, so it only matters where they lie.
            "ext4_ind_map_blocks_exit" => self.looked_up()?,
            "ext4_evict_inode" => Kind::EvictInode { ino: self.unsigned("ino")?, links: self.unsigned("nlink")? },
            "ext4_sync_file_enter" => Kind::SyncFile { ino: self.unsigned("ino")? },
            "block_rq_issue" => Kind::Issue(self.request()?),
            "block_rq_requeue" => Kind::Requeue(self.request()?),
            "block_rq_complete" => Kind::Complete { key: self.request()?, errno: self.signed("error")? },
            "workqueue_queue_work" => {
                Kind::QueueWork { work: self.unsigned("work")?, function: self.unsigned("function")? }
            }
            "print" => Kind::Marker(self.format.text(self.bytes, "buf").ok_or("no text")?),
            _ => return Err("this program does not know what this event means".into()),
        })
    }

    fn probe(&self, name: &str) -> Result<Kind, String> {
        Ok(match name {
            "init" => Kind::Init {
                io_end: self.unsigned("io_end")?,
                count: self.unsigned("count")? as u32,
                unwritten: self.unwritten()?,
                inode: self.unsigned("inode")?,
                ino: self.unsigned("ino")?,
            },
            "release" => Kind::Release { io_end: self.unsigned("io_end")?, unwritten: self.unwritten()? },
            "folio" => Kind::Folio {
                io_end: self.unsigned("io_end")?,
                ino: self.unsigned("ino")?,
                index: self.unsigned("index")?,
                order: self.order()?,
            },
            "get" => Kind::Get { io_end: self.unsigned("io_end")?, count: self.count()?, unwritten: self.unwritten()? },
            "put_in" => self.put_in(PutBy::PutIoEnd)?,
            "putd_in" => self.put_in(PutBy::PutIoEndDefer)?,
            "put" => self.put_done(PutBy::PutIoEnd)?,
            "putd" => self.put_done(PutBy::PutIoEndDefer)?,
            "sbio" => Kind::SubmitBio {
                bio: self.unsigned("bio")?,
                sector: self.unsigned("sector")?,
                bytes: self.unsigned("size")?,
                sync: self.unsigned("opf")? & self.constant("REQ_SYNC")? != 0,
                end_io: self.unsigned("end_io")?,
                io_end: self.unsigned("priv")?,
            },
            "endbio" => Kind::EndBio {
                bio: self.unsigned("bio")?,
                status: self.unsigned("status")? as u8,
                io_end: self.unsigned("io_end")?,
            },
            "rsvwork" => Kind::WorkerStarts { ino: self.unsigned("ino")? },
            "convvec" => Kind::ConvertIoEnd { io_end: self.unsigned("io_end")? },
            "convvec_ret" => Kind::ConvertIoEndDone { ret: self.signed("ret")? },
            "conv" => {
                Kind::Convert { ino: self.unsigned("ino")?, offset: self.signed("offset")?, len: self.signed("len")? }
            }
            "conv_ret" => Kind::ConvertDone { ret: self.signed("ret")? },
            "endwb" => Kind::EndWriteback {
                dev: self.unsigned("dev")?,
                ino: self.unsigned("ino")?,
                index: self.unsigned("index")?,
            },
            _ => return Err("this program does not know what this probe means".into()),
        })
    }

    fn mapped(&self) -> Result<Kind, String> {
        let for_writeback = self.format.flag("IO_SUBMIT").ok_or("its print format has no flag IO_SUBMIT")?;
        // From 7.2 on the conversion of an extent maps it with IO_SUBMIT too (seen in a 7.2.13 guest); it stands within the
        // conversion, which has events of its own, and gives no io_end anything.
        let converts = self.format.flag("CONVERT").ok_or("its print format has no flag CONVERT")?;
        let flags = self.unsigned("flags")?;
        Ok(Kind::Mapped {
            ino: self.unsigned("ino")?,
            lblk: self.unsigned("lblk")?,
            pblk: self.unsigned("pblk")?,
            ret: self.signed("ret")?,
            unwritten: self.unsigned("mflags")? & self.constant("EXT4_MAP_UNWRITTEN")? != 0,
            for_writeback: flags & for_writeback != 0 && flags & converts == 0,
        })
    }

    fn looked_up(&self) -> Result<Kind, String> {
        Ok(Kind::Mapped {
            ino: self.unsigned("ino")?,
            lblk: self.unsigned("lblk")?,
            pblk: self.unsigned("pblk")?,
            ret: self.signed("ret")?,
            unwritten: false,
            for_writeback: false,
        })
    }

    fn put_in(&self, by: PutBy) -> Result<Kind, String> {
        Ok(Kind::PutIn {
            by,
            io_end: self.unsigned("io_end")?,
            count: self.unsigned("count")? as u32,
            unwritten: self.unwritten()?,
            caller: self.unsigned("caller")?,
        })
    }

    fn put_done(&self, by: PutBy) -> Result<Kind, String> {
        Ok(Kind::PutDone { by, io_end: self.unsigned("io_end")?, old: self.unsigned("old")? as u32 })
    }

    fn count(&self) -> Result<Count, String> {
        if self.format.has("old") {
            return Ok(Count::Exact(self.unsigned("old")? as u32));
        }
        Ok(Count::Read(self.unsigned("count")? as u32))
    }

    fn unwritten(&self) -> Result<bool, String> {
        Ok(self.unsigned("flag")? & self.constant("EXT4_IO_END_UNWRITTEN")? != 0)
    }

    /// The order field holds something else unless the folio is a large one.
    fn order(&self) -> Result<u8, String> {
        if !self.format.has("order") || self.unsigned("flags")? & self.constant("PG_head")? == 0 {
            return Ok(0);
        }
        Ok(self.unsigned("order")? as u8)
    }

    fn request(&self) -> Result<RequestKey, String> {
        let rwbs = self.format.text(self.bytes, "rwbs").ok_or("no field rwbs")?;
        Ok(RequestKey {
            dev: self.unsigned("dev")?,
            op: operation(&rwbs),
            // A flush has no place: issued it is shown as 0, completed as the highest number.
            sector: Some(self.unsigned("sector")?).filter(|&sector| sector != u64::MAX).unwrap_or_default(),
            sectors: self.unsigned("nr_sector")?,
        })
    }

    fn unsigned(&self, name: &str) -> Result<u64, String> {
        let value = self.format.number(self.bytes, name);
        // A signed field (an `int` that never is negative) gives the same bits.
        value.map(|value| value as u64).ok_or_else(|| format!("no number {name} in the record"))
    }

    fn signed(&self, name: &str) -> Result<i64, String> {
        let value = self.format.number(self.bytes, name);
        value.map(|value| value as i64).ok_or_else(|| format!("no number {name} in the record"))
    }

    fn constant(&self, name: &str) -> Result<u64, String> {
        self.constants.get(name).copied().ok_or_else(|| format!("the header has no constant {name}"))
    }
}

/// The operation in a text like `WS`, `FWFS` (a write with a flush before it), `FF` (a flush), `DS`, `N`.
fn operation(rwbs: &str) -> char {
    let behind_preflush = rwbs.strip_prefix('F').filter(|rest| rest.starts_with(|c| "RWDFNZ".contains(c)));
    let text = behind_preflush.unwrap_or(rwbs);
    // No data comes with these: zeroes to be written. Before 7.2 they had no letters of their own and were `N`.
    if text.starts_with("WZ") { 'N' } else { text.chars().next().unwrap_or('N') }
}

#[cfg(test)]
mod tests {
    use super::operation;

    #[test]
    fn the_operation_is_the_letter_behind_a_preflush() {
        let cases =
            [("WS", 'W'), ("FF", 'F'), ("FWFS", 'W'), ("FWS", 'W'), ("R", 'R'), ("RAM", 'R'), ("DS", 'D'), ("", 'N')];
        for (rwbs, op) in cases {
            assert_eq!(operation(rwbs), op, "{rwbs}");
        }
    }

    /// Seed 2.21 on 7.2: `write of 8 sectors never reached the device`, which had got it as write_zeroes.
    #[test]
    fn zeroes_to_be_written_are_no_write_whatever_a_kernel_calls_them() {
        for (rwbs, op) in [("WZS", 'N'), ("WZ", 'N'), ("FWZFS", 'N'), ("N", 'N'), ("NS", 'N'), ("WSM", 'W')] {
            assert_eq!(operation(rwbs), op, "{rwbs}");
        }
    }
}
