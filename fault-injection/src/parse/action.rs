//! `action`: exactly one of thirteen.

use super::{MAX_VERSIONS, Parser};
use crate::corrupt::{Damage, Pattern, SECTOR_BITS, With};
use crate::decision::{Status, UsedLen};
use crate::reader::{At, Fields, MAX_INTEGER, did_you_mean, quoted};
use crate::request::SECTOR_BYTES;
use crate::rule::{Action, Amount, ChildOrder, Cut, Keep, Original, Target, Transfer, Unit, Where};

const ACTIONS: [&str; 13] = [
    "error",
    "partial",
    "torn",
    "delay",
    "hold",
    "reorder",
    "lose",
    "misdirect",
    "corrupt",
    "stale",
    "split",
    "power_cut",
    "set",
];

impl Parser<'_> {
    pub(super) fn action(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &ACTIONS)?;
        let present = fields.present(&ACTIONS);
        let [kind] = present[..] else {
            if !present.is_empty() || !fields.some_unknown {
                self.not_one_action(at, &present);
            }
            return None;
        };
        let at = fields.get(kind)?;
        match kind {
            "error" => self.error(at),
            "partial" => self.partial(at),
            "lose" => self.r.object(at, &[]).map(|_| Action::Lose {}),
            "delay" => self.delay(at),
            "hold" => self.hold(at),
            "reorder" => self.reorder(at),
            "split" => self.split(at),
            "torn" => self.torn(at),
            "misdirect" => self.misdirect(at),
            "corrupt" => self.corrupt(at),
            "stale" => self.stale(at),
            "power_cut" => self.cut(at).map(|(unflushed, then)| Action::PowerCut { unflushed, then }),
            _ => Some(Action::Set(self.state_values(at))),
        }
    }

    fn not_one_action(&mut self, at: &At<'_>, present: &[&str]) {
        if present.is_empty() {
            let hint = format!("it is one of {}", ACTIONS.join(", "));
            self.r.report("E104", at, "exactly one action per rule, found none", Some(hint));
            return;
        }
        let mut stages: Vec<&str> = present.iter().map(|kind| stage_of(kind)).collect();
        stages.sort_unstable();
        stages.dedup();
        let hint = if stages.len() == present.len() {
            "use two rules (they are in different stages)".replace("two", number_word(present.len()))
        } else {
            format!("use {} rules (in one stage the first that fires wins)", number_word(present.len()))
        };
        self.r.report("E104", at, format!("exactly one action per rule, found {}", quoted(present)), Some(hint));
    }

    fn status(&mut self, at: &At<'_>) -> Option<Status> {
        if !at.is_string() {
            return self.r.integer(at, 0, 255).map(|n| Status(n as u8));
        }
        let word = self.r.string(at)?;
        let words = ["ok", "ioerr", "unsupp"];
        match word {
            "ok" => Some(Status::OK),
            "ioerr" => Some(Status::IOERR),
            "unsupp" => Some(Status::UNSUPP),
            _ if did_you_mean(word, &words).is_some() => {
                self.r.choice(at, &words.map(|word| (word, ())));
                None
            }
            _ => {
                let hint = "Linux shows every failure as EIO (or EOPNOTSUPP for \"unsupp\")".to_string();
                self.r.report("E105", at, format!("virtio-blk cannot carry {word:?}"), Some(hint));
                None
            }
        }
    }

    fn error(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["status", "transfer"])?;
        let status = self.r.required(&fields, "status").cloned().and_then(|at| self.status(&at));
        let choices = [("none", Transfer::None), ("all", Transfer::All), ("random", Transfer::Random)];
        let transfer = fields.get("transfer").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        if status == Some(Status::OK) {
            let at = fields.get("status").unwrap_or(at);
            let hint = "use \"lose\" for a write that is answered OK and does not happen".to_string();
            self.r.report("E111", at, "an \"error\" with status ok is none", Some(hint));
        }
        Some(Action::Error { status: status?, transfer })
    }

    fn partial(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["sectors", "bytes", "fraction", "status", "used_len"])?;
        let status = self.r.required(&fields, "status").cloned().and_then(|at| self.status(&at));
        let choices = [("honest", UsedLen::Honest), ("full", UsedLen::Full)];
        let used_len = fields.get("used_len").and_then(|at| self.r.choice(at, &choices)).unwrap_or(UsedLen::Honest);
        let kind = self.r.exactly_one(&fields, &["sectors", "bytes", "fraction"])?;
        let at = fields.get(kind)?;
        let amount = match kind {
            "sectors" => Amount::Sectors(self.r.integer(at, 0, MAX_INTEGER)?),
            "bytes" => Amount::Bytes(self.r.integer(at, 0, MAX_INTEGER)?),
            _ => Amount::Fraction(self.r.share(at, "percent")?),
        };
        if amount == Amount::Fraction(1.0) {
            let hint = "for \"all of it moved, and it failed\" use \"error\" with \"transfer\": \"all\"".to_string();
            self.r.report("E111", at, "a fraction of 1 leaves nothing out", Some(hint));
        }
        Some(Action::Partial { amount, status: status?, used_len })
    }

    pub(super) fn refuse_parameters(&mut self, fields: &Fields<'_>, odd: &[&str], of: &str) {
        for key in odd {
            if let Some(at) = fields.get(key) {
                self.r.report("E111", at, format!("{key:?} means nothing to {of}"), None);
            }
        }
    }

    fn split(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["max_sectors", "at", "order"])?;
        let choices =
            [("forward", ChildOrder::Forward), ("reverse", ChildOrder::Reverse), ("shuffle", ChildOrder::Shuffle)];
        let order = fields.get("order").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let kind = self.r.exactly_one(&fields, &["max_sectors", "at"])?;
        let at = fields.get(kind)?;
        if kind == "max_sectors" {
            return Some(Action::Split { cut: Cut::MaxSectors(self.r.integer(at, 1, MAX_INTEGER)?), order });
        }
        let items = self.r.array(at)?;
        let offsets: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 1, MAX_INTEGER)).collect();
        if offsets.is_empty() || offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
            let hint = "offsets from the request's first sector, as in [1, 4]".to_string();
            self.r.report("E103", at, "\"at\" needs rising offsets", Some(hint));
        }
        Some(Action::Split { cut: Cut::At(offsets), order })
    }

    fn torn(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["unit", "keep"])?;
        let units = [("sector", Unit::Sector), ("byte", Unit::Byte), ("block", Unit::Block)];
        let unit = fields.get("unit").map_or(Some(Unit::Sector), |at| self.r.choice(at, &units));
        let keep = fields.get("keep").map_or(Some(Keep::Prefix), |at| self.keep(at));
        Some(Action::Torn { unit: unit?, keep: keep? })
    }

    fn keep(&mut self, at: &At<'_>) -> Option<Keep> {
        if !at.is_array() {
            return self.r.choice(at, &[("prefix", 0), ("suffix", 1), ("random", 2)]).map(|word| match word {
                0 => Keep::Prefix,
                1 => Keep::Suffix,
                _ => Keep::Random,
            });
        }
        let items = self.r.array(at)?;
        if items.is_empty() {
            let hint = "\"lose\" is a write of which nothing is kept".to_string();
            self.r.report("E103", at, "an empty list keeps nothing", Some(hint));
        }
        let mut units: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 0, MAX_INTEGER)).collect();
        units.sort_unstable();
        units.dedup();
        Some(Keep::Units(units))
    }

    fn misdirect(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["to_sector", "delta_sectors", "original"])?;
        let choices = [("stale", Original::Stale), ("written", Original::Written)];
        let original = fields.get("original").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let kind = self.r.exactly_one(&fields, &["to_sector", "delta_sectors"])?;
        let at = fields.get(kind)?;
        if kind == "to_sector" {
            let to = Target::ToSector(self.r.integer(at, 0, MAX_INTEGER)?);
            return Some(Action::Misdirect { to, original });
        }
        let delta = self.r.signed(at)?;
        if delta == 0 {
            self.r.report("E103", at, "a delta of 0 goes to the right place", None);
        }
        Some(Action::Misdirect { to: Target::DeltaSectors(delta), original })
    }

    fn corrupt(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["bits", "bytes", "offset", "value", "pattern", "where"])?;
        let choices = [("wire", Where::Wire), ("media", Where::Media)];
        let place = fields.get("where").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        if fields.present(&["bits", "bytes", "offset"]).is_empty() {
            self.r.report("E104", at, "\"corrupt\" needs bits, or bytes or offset with value or pattern", None);
            return None;
        }
        let damage = if fields.has("bits") { self.bits(&fields) } else { self.bytes(&fields) };
        Some(Action::Corrupt { damage: damage?, place })
    }

    fn bits(&mut self, fields: &Fields<'_>) -> Option<Damage> {
        self.refuse_parameters(fields, &["bytes", "offset", "value", "pattern"], "flipped bits");
        let bits = self.r.integer(fields.get("bits")?, 1, SECTOR_BITS)?;
        Some(Damage::Bits { bits: bits as u32 })
    }

    /// Bytes of each sector, so that a sector is wrong in the same way by whatever request it is read.
    fn bytes(&mut self, fields: &Fields<'_>) -> Option<Damage> {
        let offset = fields.get("offset").map_or(Some(0), |at| self.r.integer(at, 0, SECTOR_BYTES - 1))?;
        let bytes = fields.get("bytes").map_or(Some(1), |at| self.r.integer(at, 1, SECTOR_BYTES))?;
        if offset + bytes > SECTOR_BYTES {
            let hint = "offset and bytes are of each sector; name the sectors in \"match\"".to_string();
            let text = format!("bytes {offset} to {} reach beyond a sector", offset + bytes);
            self.r.report("E103", &fields.at, text, Some(hint));
        }
        if fields.has("value") && fields.has("pattern") {
            self.r.report("E104", &fields.at, "exactly one of value, pattern, found \"value\" and \"pattern\"", None);
        }
        let patterns = [("zero", Pattern::Zero), ("ones", Pattern::Ones), ("random", Pattern::Random)];
        let with = match (fields.get("value"), fields.get("pattern")) {
            (Some(at), _) => With::Value(self.r.integer(at, 0, 255)? as u8),
            (None, Some(at)) => With::Pattern(self.r.choice(at, &patterns)?),
            (None, None) => With::Pattern(Pattern::Random),
        };
        Some(Damage::Bytes { offset: offset as u32, bytes: bytes as u32, with })
    }

    fn stale(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["versions"])?;
        let versions = fields.get("versions").map_or(Some(1), |at| self.r.integer(at, 1, MAX_VERSIONS))?;
        Some(Action::Stale { versions: versions as u32 })
    }
}

fn stage_of(action: &str) -> &'static str {
    match action {
        "delay" | "hold" | "reorder" => "gate",
        "error" => "status",
        "power_cut" | "set" => "device",
        _ => "transfer",
    }
}

fn number_word(n: usize) -> &'static str {
    match n {
        2 => "two",
        3 => "three",
        _ => "several",
    }
}
