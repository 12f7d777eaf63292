//! What the engine tells the device to do with one request: a finished plan, nothing left to choose.
//!
//! The four stages of a script (gate, transfer, status, device) have been played through when a `Decision` exists;
//! the device carries it out and decides nothing of its own.

use crate::corrupt::Corruption;
use crate::event::{EventRecord, Record};
use crate::power_cut::PowerCut;

/// Index of a rule in the merged script, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(pub u32);

/// The status byte of virtio 1.3, 5.2.6: 0 OK, 1 IOERR, 2 UNSUPP. A script may ask for any other value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// VIRTIO_BLK_S_OK
    pub const OK: Status = Status(0);
    /// VIRTIO_BLK_S_IOERR
    pub const IOERR: Status = Status(1);
    /// VIRTIO_BLK_S_UNSUPP
    pub const UNSUPP: Status = Status(2);
}

/// The plan for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When it may be answered.
    pub gate: Gate,
    /// What moves, and what is answered.
    pub work: Work,
    /// What the device itself does, in this order, once this request has been carried out and before it is answered. A
    /// `PowerCut` comes last: unless it only takes a snapshot, the request is not answered. A cut at a flush comes before
    /// the flush: what the flush would have made durable is still unflushed.
    pub device: Vec<DeviceAction>,
    /// Gates of earlier requests that open because of this arrival (a `hold` whose point was reached).
    pub released: Vec<RuleIndex>,
    /// Lines for decisions.jsonl, in the order in which they were decided.
    pub log: Vec<Record>,
    /// More lines for it: events whose point was reached with this request. They took effect after it.
    pub events: Vec<EventRecord>,
}

/// What came of something that is no request: a mark, the clock, a verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Gates that open.
    pub released: Vec<RuleIndex>,
    /// What the device does.
    pub device: Vec<DeviceAction>,
    /// Lines for decisions.jsonl.
    pub events: Vec<EventRecord>,
}

/// What the device stage of a request, or an event, asks of the device as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAction {
    /// The power goes.
    PowerCut(PowerCut),
    /// The front-end is left once every request that was taken has been settled. Requests made meanwhile wait in the
    /// ring until it comes back, which is let in after this many milliseconds.
    Disconnect {
        /// Milliseconds during which nobody is let in.
        reconnect_ms: u64,
    },
    /// The disk has this many sectors from now on, and the guest is told.
    Resize {
        /// Its new size.
        capacity_sectors: u64,
    },
    /// The write cache is switched: `true` is writeback.
    WriteCache(bool),
}

/// Whether a gated request touches the disk at once, or when it leaves the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateWhen {
    /// The disk is touched when the gate opens, immediately before the answer (the default).
    Completion,
    /// The disk is touched on arrival; only the answer is late.
    Arrival,
}

/// The gate stage. Overlapping writes reach the disk in arrival order whatever is said here; the device sees to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// No gate.
    Open,
    /// Opens after this many microseconds.
    Delay {
        /// Who decided it.
        rule: RuleIndex,
        /// Microseconds from arrival.
        us: u64,
        /// When the disk is touched.
        when: GateWhen,
    },
    /// Opens when the rule is released: by a later `Decision::released`, by the control socket, or after `max_ms`.
    Hold {
        /// Who decided it.
        rule: RuleIndex,
        /// Upper bound in milliseconds from arrival; then the request is let go and the record says so.
        max_ms: u64,
        /// `"until": "reset"`: never answered before the ring stops; then abandoned, not answered.
        until_reset: bool,
        /// Absolute release time for `"until": {"ms": n}`, in the clock of `Arrival::elapsed_ms`.
        until_ms: Option<u64>,
        /// When the disk is touched.
        when: GateWhen,
    },
    /// Waits in a window with others of the same rule; the window's order comes with the request that fills it, or
    /// from `Engine::close_window` when `max_wait_ms` since the window's first request have passed.
    Reorder {
        /// Who decided it.
        rule: RuleIndex,
        /// Number of the window of this rule, from 0.
        window: u64,
        /// Place of arrival in the window, from 0.
        slot: u32,
        /// Only in the request that fills the window: slots in the order in which they are to be answered.
        order: Option<Vec<u32>>,
        /// Milliseconds the window may stay open.
        max_wait_ms: u64,
        /// When the disk is touched.
        when: GateWhen,
    },
}

/// The transfer and status stages, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Carried out as one.
    Whole(Piece),
    /// Carried out as several transfers. The request's status is the first of its pieces' that is not OK, in `order`;
    /// its used length is honest about what moved, unless all pieces are OK. A piece that fails does not stop the
    /// others. Where a rule replaced the status of the whole, every piece carries that status.
    Split {
        /// Who decided it.
        rule: RuleIndex,
        /// The pieces in rising sector order, covering the request without gaps.
        pieces: Vec<Piece>,
        /// Indices into `pieces` in the order in which they reach the disk.
        order: Vec<u32>,
    },
}

/// A stretch of a request, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// What reaches the disk (write, discard, write_zeroes) or the guest's memory (read).
    pub moves: Moves,
    /// What is answered.
    pub status: Status,
    /// What the used ring says of the length.
    pub used_len: UsedLen,
}

/// How much of a piece moves, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moves {
    /// All of it.
    All,
    /// The first bytes of it, and no more. With status OK the rest is a lie, for the device's overlay to keep. Zero
    /// bytes: nothing is done at all; so also for a flush or get_id, which has no bytes and is then answered unserved.
    /// A discard or write_zeroes moves the whole sectors of it.
    Prefix {
        /// Bytes, less than the piece's (0 for a piece without bytes).
        bytes: u64,
    },
    /// These stretches of it, in bytes from its first one, rising. With status OK the rest is a lie.
    Torn {
        /// Half-open.
        kept: Vec<(u64, u64)>,
    },
    /// All of it, to (write) or from (read) another place on the disk, which begins at this sector and is as long.
    Misdirected {
        /// Lies on the disk, with all that follows.
        to_sector: u64,
        /// A write reaches the right place too.
        original_written: bool,
    },
    /// All of it, and some of it wrong.
    Corrupt(Corruption),
    /// All of a read, and these sectors as they were so many writes ago.
    Stale {
        /// From 1.
        versions: u32,
        /// Half-open, rising, inside the piece.
        sectors: Vec<(u64, u64)>,
    },
    /// None of it, although OK is answered: the lie of `lose`. Reads go on to show what was there before.
    Lost,
}

/// What goes into the used ring's `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedLen {
    /// Bytes really written to the guest's memory, status byte included.
    Honest,
    /// As if all had moved.
    Full,
}
