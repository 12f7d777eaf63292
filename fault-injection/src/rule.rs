//! Rules after loading: typed, complete, every default filled in. `Serialize` writes the script form back, which
//! `Script::normalized` relies on.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::class::ClassSet;
use crate::corrupt::Damage;
use crate::decision::{GateWhen, Status, UsedLen};
use crate::distribution::Distribution;
use crate::event::{FailClass, Key};
use crate::power_cut::{Then, Unflushed};
use crate::ranges::within;
use crate::request::{Op, Request, SECTOR_BYTES};

/// Where something stands in a script file, for messages that come after parsing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Position of the file among the sources.
    pub source: usize,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Name of the file.
    pub file: String,
    /// JSON pointer.
    pub pointer: String,
}

/// One rule: match × trigger × action × scope.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    pub id: String,
    pub enabled: bool,
    #[serde(rename = "match")]
    pub matches: Match,
    pub trigger: Trigger,
    pub action: Action,
    pub scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip)]
    pub places: Places,
}

/// How long the effect of a rule lasts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// For the request on which it fired.
    #[default]
    Request,
    /// For every later request of the rule's types, wherever it lies, until it is healed by hand or by an event.
    Device,
    /// For every later request that touches these sectors, until they are healed.
    Sticky { sectors: StickySectors, heal: Heal },
}

/// Which sectors go bad when a sticky rule fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StickySectors {
    /// Those of the request that lie in the rule's ranges.
    #[default]
    Matched,
    /// All of the request's.
    Request,
}

/// What makes bad sectors good.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heal {
    /// A write that reaches them.
    #[default]
    Rewrite,
    /// Nothing but the verb and event `heal`.
    Never,
    /// The driver resets the device, or another front-end comes.
    Reset,
    #[serde(untagged)]
    Point(Point),
}

/// Where the parts stand that only the device can judge.
#[derive(Clone, Debug)]
pub struct Places {
    pub rule: Place,
    pub sectors: Vec<Place>,
    pub queue: Option<Place>,
    pub path: Option<Place>,
    pub child_of: Option<Place>,
    pub to_sector: Option<Place>,
}

/// A set of request types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpSet(pub u8);

/// Every type, in the script's words. The order is that of `Op`.
pub const OPS: [(&str, Op); 6] = [
    ("read", Op::Read),
    ("write", Op::Write),
    ("flush", Op::Flush),
    ("discard", Op::Discard),
    ("write_zeroes", Op::WriteZeroes),
    ("get_id", Op::GetId),
];

impl OpSet {
    pub const NONE: OpSet = OpSet(0);
    /// What a rule without `op` looks at; `get_id` is matched by name only.
    pub const ANY: OpSet = OpSet::of(&[Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes]);
    /// Types that carry sectors.
    pub const SECTORED: OpSet = OpSet::of(&[Op::Read, Op::Write, Op::Discard, Op::WriteZeroes]);
    /// Types that change the disk.
    pub const CHANGING: OpSet = OpSet::of(&[Op::Write, Op::Discard, Op::WriteZeroes]);
    pub const ALL: OpSet = OpSet(0b11_1111);

    pub const fn of(ops: &[Op]) -> OpSet {
        let mut mask = 0;
        let mut i = 0;
        while i < ops.len() {
            mask |= 1 << ops[i] as u8;
            i += 1;
        }
        OpSet(mask)
    }

    pub fn has(self, op: Op) -> bool {
        self.0 & (1 << op as u8) != 0
    }

    pub fn and(self, other: OpSet) -> OpSet {
        OpSet(self.0 & other.0)
    }

    pub fn or(self, other: OpSet) -> OpSet {
        OpSet(self.0 | other.0)
    }

    pub fn without(self, other: OpSet) -> OpSet {
        OpSet(self.0 & !other.0)
    }

    pub fn covers(self, other: OpSet) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn names(self) -> Vec<&'static str> {
        OPS.iter().filter(|(_, op)| self.has(*op)).map(|(name, _)| *name).collect()
    }
}

impl Serialize for OpSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

impl FailClass {
    /// The types that fail.
    pub(crate) fn ops(self) -> OpSet {
        let writes = OpSet::CHANGING.or(OpSet::of(&[Op::Flush]));
        match self {
            FailClass::None => OpSet::NONE,
            FailClass::Writes => writes,
            FailClass::Reads => OpSet::of(&[Op::Read]),
            FailClass::All => OpSet::ANY,
        }
    }
}

/// Which requests a rule looks at. All parts must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Match {
    /// Only types that the action can act on.
    pub op: OpSet,
    /// Half-open, rising, without overlap; empty is everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors: Vec<(u64, u64)>,
    pub overlap: Overlap,
    #[serde(skip_serializing_if = "Bounds::is_open")]
    pub size: Bounds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// With a path: refuse to start where the image has none of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must_exist: Option<bool>,
    #[serde(skip_serializing_if = "Bounds::is_open")]
    pub inflight: Bounds,
    /// Looks at the children of that split rule instead of at requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child_of: Option<String>,
}

/// How a request must lie to a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// They share a sector.
    #[default]
    Any,
    /// The request lies inside one range.
    Within,
    /// The request contains one whole range.
    Covers,
}

/// Inclusive bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bounds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

impl Bounds {
    pub fn is_open(&self) -> bool {
        self.min.is_none() && self.max.is_none()
    }

    pub fn holds(&self, n: u64) -> bool {
        self.min.is_none_or(|min| n >= min) && self.max.is_none_or(|max| n <= max)
    }

    pub fn contain(&self, other: &Bounds) -> bool {
        self.min.is_none_or(|min| other.min.is_some_and(|other| min <= other))
            && self.max.is_none_or(|max| other.max.is_some_and(|other| max >= other))
    }
}

/// Which of the matching requests fire. The parts are asked in the order in which they stand here.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trigger {
    /// All of these states must have these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Point>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Point>,
    /// From 1, rising; empty is no condition. Counts the matches between `after` and `until`, as `every` does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nth: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    pub key: Key,
}

impl Trigger {
    /// Fires on every match.
    pub fn is_always(&self) -> bool {
        *self == Trigger { key: self.key, ..Trigger::default() }
    }
}

/// A moment of a run, reached once and for good.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// So many matches of this rule.
    Matches(u64),
    /// So many requests of any type.
    Requests(u64),
    /// So many requests of type write.
    Writes(u64),
    /// So many flushes.
    Flushes(u64),
    /// So many bytes of reads and writes.
    Bytes(u64),
    /// So many milliseconds since the device was started.
    Ms(u64),
    /// The mark of that name was set.
    Mark(String),
}

/// The stages of a request, in order. In each, the first rule in file order that fires wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Gate,
    Transfer,
    Status,
    Device,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Gate => "gate",
            Stage::Transfer => "transfer",
            Stage::Status => "status",
            Stage::Device => "device",
        }
    }
}

/// What happens to a request on which a rule fires.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Error {
        #[serde(serialize_with = "status_word")]
        status: Status,
        transfer: Transfer,
    },
    Partial {
        #[serde(flatten)]
        amount: Amount,
        #[serde(serialize_with = "status_word")]
        status: Status,
        #[serde(serialize_with = "used_len_word")]
        used_len: UsedLen,
    },
    Torn {
        unit: Unit,
        keep: Keep,
    },
    Lose {},
    Misdirect {
        #[serde(flatten)]
        to: Target,
        original: Original,
    },
    Corrupt {
        #[serde(flatten)]
        damage: Damage,
        #[serde(rename = "where")]
        place: Where,
    },
    Stale {
        versions: u32,
    },
    Delay {
        #[serde(flatten)]
        length: Length,
        #[serde(serialize_with = "when_word")]
        when: GateWhen,
    },
    Hold {
        until: HoldUntil,
        /// `None` only with `HoldUntil::Reset`.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_ms: Option<u64>,
        #[serde(serialize_with = "when_word")]
        when: GateWhen,
    },
    Reorder {
        window: u32,
        policy: Policy,
        max_wait_ms: u64,
        #[serde(serialize_with = "when_word")]
        when: GateWhen,
    },
    Split {
        #[serde(flatten)]
        cut: Cut,
        order: ChildOrder,
    },
    PowerCut {
        unflushed: Unflushed,
        then: Then,
    },
    Set(BTreeMap<String, String>),
}

/// What a torn write is torn into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Byte,
    #[default]
    Sector,
    /// 4096 bytes from the request's first byte on: a page, and a block of most file systems.
    Block,
}

impl Unit {
    pub fn bytes(self) -> u64 {
        match self {
            Unit::Byte => 1,
            Unit::Sector => SECTOR_BYTES,
            Unit::Block => 4096,
        }
    }
}

/// Which units of a torn write reach the medium.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// A drawn number from the front, at least one and not all.
    #[default]
    Prefix,
    /// The same from the back.
    Suffix,
    /// Stretches between drawn places, every other one.
    Random,
    /// These, from 0.
    #[serde(untagged)]
    Units(Vec<u64>),
}

/// Where misdirected data goes, or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    ToSector(u64),
    DeltaSectors(i64),
}

impl Target {
    /// Where a request that begins at `sector` goes; nowhere, if that lies before the disk.
    pub fn of(self, sector: u64) -> Option<u64> {
        match self {
            Target::ToSector(to) => Some(to),
            Target::DeltaSectors(delta) => sector.checked_add_signed(delta),
        }
    }
}

/// What a misdirected write leaves at the place it should have gone to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Original {
    /// What was there before.
    #[default]
    Stale,
    /// The data, as it should be: it went to both places.
    Written,
}

/// Where data goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// On the way.
    #[default]
    Wire,
    /// On the medium.
    Media,
}

/// What an `error` lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    #[default]
    None,
    All,
    Random,
}

/// How much a `partial` lets through.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    Sectors(u64),
    Bytes(u64),
    Fraction(f64),
}

impl Amount {
    /// Bytes let through of a request of so many sectors, never more than it has.
    pub fn bytes_of(self, sectors: u64) -> u64 {
        let bytes = match self {
            Amount::Sectors(n) => n.saturating_mul(SECTOR_BYTES),
            Amount::Bytes(n) => n,
            // Requests are far shorter than 2^53 sectors, so the product is rounded once and truncated: portable.
            Amount::Fraction(f) => ((sectors as f64 * f) as u64).saturating_mul(SECTOR_BYTES),
        };
        bytes.min(sectors.saturating_mul(SECTOR_BYTES))
    }
}

/// How long a `delay` is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Length {
    Fixed { us: u64 },
    Drawn(Distribution),
}

/// What ends a `hold`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldUntil {
    Release,
    Reset,
    #[serde(untagged)]
    Point(Point),
}

/// The order in which a window is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    Reverse,
    Shuffle,
    /// The same as `reverse`: a window is answered as a whole, so last in, first out is its reverse.
    Lifo,
}

/// Where a `split` cuts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    MaxSectors(u64),
    /// Offsets from the request's first sector, rising.
    At(Vec<u64>),
}

impl Cut {
    /// Lengths of the children of a request of so many sectors.
    pub fn lengths(&self, sectors: u64) -> Vec<u64> {
        let mut lengths = Vec::new();
        let mut done = 0;
        match self {
            Cut::MaxSectors(max) => {
                while done < sectors {
                    lengths.push((sectors - done).min(*max));
                    done += (sectors - done).min(*max);
                }
            }
            Cut::At(offsets) => {
                for &offset in offsets.iter().filter(|&&offset| offset < sectors) {
                    lengths.push(offset - done);
                    done = offset;
                }
                lengths.push(sectors - done);
            }
        }
        lengths
    }
}

/// The order in which children reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildOrder {
    #[default]
    Forward,
    Reverse,
    Shuffle,
}

impl Action {
    /// In the script's words.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Error { .. } => "error",
            Action::Partial { .. } => "partial",
            Action::Torn { .. } => "torn",
            Action::Lose {} => "lose",
            Action::Misdirect { .. } => "misdirect",
            Action::Corrupt { .. } => "corrupt",
            Action::Stale { .. } => "stale",
            Action::Delay { .. } => "delay",
            Action::Hold { .. } => "hold",
            Action::Reorder { .. } => "reorder",
            Action::Split { .. } => "split",
            Action::PowerCut { .. } => "power_cut",
            Action::Set(_) => "set",
        }
    }

    pub fn stage(&self) -> Stage {
        match self {
            Action::Delay { .. } | Action::Hold { .. } | Action::Reorder { .. } => Stage::Gate,
            Action::Partial { .. }
            | Action::Torn { .. }
            | Action::Lose {}
            | Action::Misdirect { .. }
            | Action::Corrupt { .. }
            | Action::Stale { .. }
            | Action::Split { .. } => Stage::Transfer,
            Action::Error { .. } => Stage::Status,
            Action::PowerCut { .. } | Action::Set(_) => Stage::Device,
        }
    }

    /// Request types on which it means something.
    pub fn ops(&self) -> OpSet {
        match self {
            Action::Error { .. } | Action::Delay { .. } | Action::Hold { .. } | Action::Reorder { .. } => OpSet::ALL,
            Action::PowerCut { .. } | Action::Set(_) => OpSet::ALL,
            Action::Torn { .. } => OpSet::of(&[Op::Write]),
            Action::Misdirect { .. } | Action::Corrupt { .. } => OpSet::of(&[Op::Read, Op::Write]),
            Action::Stale { .. } => OpSet::of(&[Op::Read]),
            Action::Partial { .. } | Action::Split { .. } => OpSet::SECTORED,
            Action::Lose {} => OpSet::CHANGING,
        }
    }

    /// Whether it may leave a sector that is part new, part old, which no disk does that writes whole sectors or none.
    pub fn tears_sectors(&self) -> bool {
        matches!(self, Action::Partial { amount: Amount::Bytes(bytes), .. } if bytes % SECTOR_BYTES != 0)
    }

    /// Whether it answers OK to what is not so.
    pub fn lies(&self) -> bool {
        match self {
            Action::Partial { status, .. } => *status == Status::OK,
            Action::Torn { .. }
            | Action::Lose {}
            | Action::Misdirect { .. }
            | Action::Corrupt { .. }
            | Action::Stale { .. } => true,
            Action::Error { .. }
            | Action::Delay { .. }
            | Action::Hold { .. }
            | Action::Reorder { .. }
            | Action::Split { .. }
            | Action::PowerCut { .. }
            | Action::Set(_) => false,
        }
    }

    /// Whether rules of this kind compete for their stage. `set` never does.
    pub fn competes(&self) -> bool {
        !matches!(self, Action::Set(_))
    }

    /// A `partial`, `torn` or `split` looks only at requests it would cut short: one that changes nothing must not count as
    /// fired.
    pub fn least_sectors(&self) -> u64 {
        match self {
            Action::Partial { amount: Amount::Sectors(n), .. } => n + 1,
            Action::Partial { amount: Amount::Bytes(n), .. } => n / SECTOR_BYTES + 1,
            Action::Partial { .. } => 1,
            Action::Torn { unit, keep } => keep.least_units().saturating_mul(unit.bytes()) / SECTOR_BYTES + 1,
            Action::Split { cut: Cut::MaxSectors(n), .. } => n + 1,
            Action::Split { cut: Cut::At(offsets), .. } => offsets.first().map_or(0, |first| first + 1),
            _ => 0,
        }
    }
}

impl Keep {
    /// A request of no more than so many units would be kept whole, or has nothing to tear.
    fn least_units(&self) -> u64 {
        match self {
            Keep::Prefix | Keep::Suffix | Keep::Random => 1,
            // The first unit that is not kept must be in it.
            Keep::Units(units) => (0..).zip(units).take_while(|(i, unit)| i == *unit).count() as u64,
        }
    }
}

impl Rule {
    /// Sectors of a request that the effect is about: those in the rule's ranges.
    pub fn matched_sectors(&self, sector: u64, sectors: u64) -> Vec<(u64, u64)> {
        let end = sector.saturating_add(sectors);
        match self.matches.sectors.is_empty() {
            true => vec![(sector, end)],
            false => within(&self.matches.sectors, sector, end),
        }
    }

    /// Bad from the start: a sticky rule that no trigger holds back speaks of sectors that are bad already.
    pub fn is_latent(&self) -> bool {
        matches!(self.scope, Scope::Sticky { .. }) && self.trigger.is_always()
    }

    /// The point at which everything that stuck is healed.
    pub fn heal_point(&self) -> Option<&Point> {
        match &self.scope {
            Scope::Sticky { heal: Heal::Point(point), .. } => Some(point),
            _ => None,
        }
    }

    /// The point at which what it holds is let go.
    pub fn hold_point(&self) -> Option<&Point> {
        match &self.action {
            Action::Hold { until: HoldUntil::Point(point), .. } => Some(point),
            _ => None,
        }
    }

    /// Whether its effect may reach sectors outside its ranges.
    pub fn may_stick_anywhere(&self) -> bool {
        matches!(self.scope, Scope::Device | Scope::Sticky { sectors: StickySectors::Request, .. })
    }

    /// Whether chance, from the seed, has a say in it. The order of a window is drawn by its number, not by address.
    pub fn draws(&self) -> bool {
        self.trigger.probability.is_some()
            || matches!(
                self.action,
                Action::Error { transfer: Transfer::Random, .. }
                    | Action::Delay { length: Length::Drawn(_), .. }
                    | Action::Split { order: ChildOrder::Shuffle, .. }
                    | Action::Torn { keep: Keep::Prefix | Keep::Suffix | Keep::Random, .. }
            )
    }

    /// Bounds of the request's length, what the action itself asks for included.
    pub fn size(&self) -> Bounds {
        let least = self.action.least_sectors();
        let min = self.matches.size.min.unwrap_or(0).max(least);
        Bounds { min: (min > 0).then_some(min), max: self.matches.size.max }
    }

    /// The part of `match` that depends on type and place alone; the same for every request of one extent.
    pub fn fits_place(&self, op: Op, sector: u64, sectors: u64) -> bool {
        self.matches.op.has(op) && self.size().holds(sectors) && self.fits_ranges(sector, sectors)
    }

    fn fits_ranges(&self, sector: u64, sectors: u64) -> bool {
        let ranges = &self.matches.sectors;
        if ranges.is_empty() {
            return true;
        }
        let end = sector.saturating_add(sectors);
        // The first range that ends after the request begins: the only one it can lie in, and the first it can meet.
        let first = ranges.partition_point(|range| range.1 <= sector);
        let Some(range) = ranges.get(first) else { return false };
        match self.matches.overlap {
            Overlap::Any => range.0 < end,
            Overlap::Within => range.0 <= sector && end <= range.1,
            Overlap::Covers => ranges[first..].iter().take(2).any(|range| sector <= range.0 && range.1 <= end),
        }
    }

    /// The part of `match` that depends on the moment.
    pub fn fits_moment(&self, request: &Request) -> bool {
        self.matches.queue.is_none_or(|queue| queue == request.queue)
            && self.matches.inflight.holds(u64::from(request.inflight))
    }
}

/// The script's word for a status byte, or its number.
pub fn status_name(status: Status) -> String {
    match status {
        Status::OK => "ok".to_string(),
        Status::IOERR => "ioerr".to_string(),
        Status::UNSUPP => "unsupp".to_string(),
        Status(n) => n.to_string(),
    }
}

fn status_word<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    match *status {
        Status::OK | Status::IOERR | Status::UNSUPP => status_name(*status).serialize(serializer),
        Status(n) => n.serialize(serializer),
    }
}

fn used_len_word<S: Serializer>(used_len: &UsedLen, serializer: S) -> Result<S::Ok, S::Error> {
    match used_len {
        UsedLen::Honest => "honest",
        UsedLen::Full => "full",
    }
    .serialize(serializer)
}

fn when_word<S: Serializer>(when: &GateWhen, serializer: S) -> Result<S::Ok, S::Error> {
    match when {
        GateWhen::Completion => "completion",
        GateWhen::Arrival => "arrival",
    }
    .serialize(serializer)
}
