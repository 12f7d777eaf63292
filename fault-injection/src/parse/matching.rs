//! `match`: which requests a rule looks at.

use super::Parser;
use crate::class::{CLASSES, ClassSet};
use crate::reader::{At, Fields, MAX_INTEGER};
use crate::rule::{Action, Bounds, Match, OPS, OpSet, Overlap, Place, Places, Rule, Scope, Stage};

/// `match.op` as written.
#[derive(Clone, Default)]
pub(super) struct NamedOps<'n> {
    at: Option<At<'n>>,
    any: bool,
    ops: OpSet,
}

impl Parser<'_> {
    pub(super) fn matches<'n>(&mut self, at: Option<&At<'n>>, places: &mut Places) -> (Match, NamedOps<'n>) {
        let mut matches = Match {
            op: OpSet::NONE,
            sectors: Vec::new(),
            overlap: Overlap::Any,
            size: Bounds::default(),
            queue: None,
            class: None,
            inode: None,
            path: None,
            must_exist: None,
            inflight: Bounds::default(),
            child_of: None,
        };
        let mut op = NamedOps::default();
        let known = [
            "op",
            "sectors",
            "overlap",
            "size",
            "queue",
            "class",
            "inode",
            "path",
            "must_exist",
            "inflight",
            "child_of",
        ];
        let Some(fields) = at.and_then(|at| self.r.object(at, &known)) else { return (matches, op) };
        if let Some(at) = fields.get("op") {
            op = self.named_ops(at);
        }
        if let Some(at) = fields.get("sectors") {
            matches.sectors = self.ranges(at, places);
        }
        if let Some(at) = fields.get("overlap") {
            let choices = [("any", Overlap::Any), ("within", Overlap::Within), ("covers", Overlap::Covers)];
            matches.overlap = self.r.choice(at, &choices).unwrap_or_default();
        }
        matches.size = fields.get("size").map(|at| self.bounds(at)).unwrap_or_default();
        matches.inflight = fields.get("inflight").map(|at| self.bounds(at)).unwrap_or_default();
        if let Some(at) = fields.get("queue") {
            places.queue = Some(self.r.place(at));
            matches.queue = self.r.integer(at, 0, 65_535).map(|n| n as u16);
        }
        if let Some(at) = fields.get("child_of") {
            places.child_of = Some(self.r.place(at));
            matches.child_of = self.r.string(at).map(str::to_string);
        }
        self.file_system_parts(&fields, &mut matches, places);
        (matches, op)
    }

    /// `class`, `inode` and `path`: what the blocks are to the file system.
    fn file_system_parts(&mut self, fields: &Fields<'_>, matches: &mut Match, places: &mut Places) {
        matches.class = fields.get("class").map(|at| self.classes(at));
        if let Some(at) = fields.get("inode") {
            matches.inode = self.r.integer(at, 1, u32::MAX.into()).map(|inode| inode as u32);
        }
        if let Some(at) = fields.get("path") {
            places.path = Some(self.r.place(at));
            matches.path = self.path(at);
        }
        if let Some(at) = fields.get("must_exist") {
            matches.must_exist = self.r.boolean(at);
            if !fields.has("path") {
                self.r.report("E111", at, "\"must_exist\" means nothing without \"path\"", None);
            }
        }
        let asks = fields.present(&["class", "inode", "path"]);
        if let (Overlap::Covers, Some(key), None) = (matches.overlap, asks.first(), fields.get("sectors")) {
            let text = format!("{key:?} has no end that a request could cover");
            let hint = "give \"sectors\" too, or use \"any\" or \"within\"".to_string();
            self.r.report("E111", fields.get("overlap").unwrap_or(&fields.at), text, Some(hint));
        }
    }

    fn classes(&mut self, at: &At<'_>) -> ClassSet {
        let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
        if items.is_empty() {
            let hint = "leave \"class\" out for any".to_string();
            self.r.report("E103", at, "an empty list of classes matches nothing", Some(hint));
        }
        let words = CLASSES.map(|(word, _)| (word, ClassSet::named(word)));
        items.iter().filter_map(|item| self.r.choice(item, &words)).fold(ClassSet::default(), ClassSet::or)
    }

    /// Names from the root on, as the directories have them.
    fn path(&mut self, at: &At<'_>) -> Option<String> {
        let path = self.r.string(at)?;
        let odd = path.split('/').skip(1).any(|name| matches!(name, "" | "." | "..") || name.len() > 255);
        if !path.starts_with('/') || (odd && path != "/") {
            let hint = "from the root of the file system on, as in \"/dir/file\"".to_string();
            self.r.report("E102", at, format!("{path:?} is not a path of plain names"), Some(hint));
            return None;
        }
        Some(path.to_string())
    }

    fn named_ops<'n>(&mut self, at: &At<'n>) -> NamedOps<'n> {
        let mut choices: Vec<(&str, Option<crate::Op>)> = OPS.iter().map(|(name, op)| (*name, Some(*op))).collect();
        choices.push(("any", None));
        let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
        if items.is_empty() {
            self.r.report("E103", at, "an empty list of ops matches nothing", Some("leave \"op\" out for any".into()));
        }
        let mut named = NamedOps { at: Some(at.clone()), any: false, ops: OpSet::NONE };
        for item in &items {
            match self.r.choice(item, &choices) {
                Some(Some(op)) => named.ops = named.ops.or(OpSet::of(&[op])),
                Some(None) => named.any = true,
                None => {}
            }
        }
        named
    }

    /// Fixes the types a rule looks at: those named must make sense, "any" shrinks to those that do.
    pub(super) fn settle_ops(&mut self, rule: &mut Rule, named: &NamedOps<'_>, fields: &Fields<'_>) {
        let matches = &rule.matches;
        let sticky = matches!(rule.scope, Scope::Sticky { .. });
        let placed = sticky || !matches.sectors.is_empty() || !matches.size.is_open() || matches.child_of.is_some();
        let placed = placed || rule.asks_the_file_system();
        let meant = if placed { rule.action.ops().and(OpSet::SECTORED) } else { rule.action.ops() };
        self.refuse_ops(named, rule, meant);
        let any = if named.any || named.ops == OpSet::NONE { OpSet::ANY } else { OpSet::NONE };
        rule.matches.op = named.ops.or(any).and(meant);
        let gate_or_split =
            rule.action.stage() == Stage::Gate || matches!(rule.action, Action::Split { .. } | Action::PowerCut { .. });
        if rule.matches.child_of.is_some() && gate_or_split {
            let at = fields.get("action").unwrap_or(&fields.at);
            let text = format!("{:?} on the child of a split", rule.action.name());
            let hint = "a child takes error, partial, torn, lose, misdirect, corrupt, stale and set; put a gate on the request, or use split's \"order\"";
            self.r.report("E111", at, text, Some(hint.to_string()));
        }
    }

    fn refuse_ops(&mut self, named: &NamedOps<'_>, rule: &Rule, meant: OpSet) {
        let odd = named.ops.without(meant);
        let Some(at) = named.at.as_ref().filter(|_| odd != OpSet::NONE) else { return };
        let names = odd.names().join(", ");
        if rule.action.ops().covers(odd) {
            let text = format!(
                "{names} has no sectors: \"sectors\", \"size\", \"class\", \"inode\", \"path\", \"child_of\" and \"sticky\" never match it"
            );
            self.r.report("E111", at, text, None);
            return;
        }
        let hint = match rule.action {
            Action::Lose {} if odd.has(crate::Op::Read) => {
                "a read has nothing to lose; old data is \"stale\"".to_string()
            }
            _ => format!("it acts on {}", rule.action.ops().names().join(", ")),
        };
        self.r.report("E111", at, format!("{:?} means nothing on {names}", rule.action.name()), Some(hint));
    }

    fn ranges(&mut self, at: &At<'_>, places: &mut Places) -> Vec<(u64, u64)> {
        let items = self.r.array(at).unwrap_or_default();
        if items.is_empty() && at.is_array() {
            let hint = "leave \"sectors\" out for the whole disk".to_string();
            self.r.report("E103", at, "an empty list of ranges matches nothing", Some(hint));
        }
        let mut ranges: Vec<((u64, u64), Place, At<'_>)> = Vec::new();
        for item in items {
            if let Some(range) = self.range(&item) {
                ranges.push((range, self.r.place(&item), item));
            }
        }
        ranges.sort_by_key(|(range, _, _)| *range);
        for pair in ranges.windows(2) {
            let ((first, _, _), (second, _, at)) = (&pair[0], &pair[1]);
            if second.0 < first.1 {
                let text = format!("[{},{}) overlaps [{},{})", second.0, second.1, first.0, first.1);
                self.r.report("E103", at, text, None);
            }
        }
        places.sectors = ranges.iter().map(|(_, place, _)| place.clone()).collect();
        ranges.into_iter().map(|(range, _, _)| range).collect()
    }

    fn range(&mut self, at: &At<'_>) -> Option<(u64, u64)> {
        let items = self.r.array(at)?;
        let [start, end] = &items[..] else {
            self.r.report("E103", at, format!("a range is [start, end), found {} numbers", items.len()), None);
            return None;
        };
        let (start, end) = (self.r.integer(start, 0, MAX_INTEGER), self.r.integer(end, 0, MAX_INTEGER));
        let (start, end) = (start?, end?);
        if start >= end {
            let hint = "the end is the first sector after the range".to_string();
            self.r.report("E103", at, format!("[{start},{end}) holds no sector"), Some(hint));
            return None;
        }
        Some((start, end))
    }

    fn bounds(&mut self, at: &At<'_>) -> Bounds {
        let Some(fields) = self.r.object(at, &["min", "max"]) else { return Bounds::default() };
        let min = fields.get("min").and_then(|at| self.r.integer(at, 0, MAX_INTEGER));
        let max = fields.get("max").and_then(|at| self.r.integer(at, 0, MAX_INTEGER));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            self.r.report("E103", at, format!("min {min} is above max {max}"), None);
        }
        Bounds { min, max }
    }
}
