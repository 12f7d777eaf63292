//! Kinds of faults: an action, on a type of request, on a class of blocks. What a script is ready for, and what the language
//! has words for; so that it can be told what was never tried.

use std::collections::BTreeSet;

use crate::class::ClassSet;
use crate::request::Op;
use crate::rule::{OPS, OpSet};
use crate::script::Script;

/// What a script may do to a kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The action, in the script's word.
    pub action: &'static str,
    /// The request's type, in the script's word.
    pub op: &'static str,
    /// What the block is to ext4, in the script's word for one class or several; none: the rule does not look there.
    pub class: Option<&'static str>,
}

/// Every action that is a fault, with the types of requests it means something on. `get_id` reaches no disk and is left out.
const ACTIONS: &[(&str, OpSet)] = &[
    ("error", OpSet::ANY),
    ("partial", OpSet::SECTORED),
    ("torn", OpSet::of(&[Op::Write])),
    ("lose", OpSet::CHANGING),
    ("misdirect", OpSet::of(&[Op::Read, Op::Write])),
    ("corrupt", OpSet::of(&[Op::Read, Op::Write])),
    ("stale", OpSet::of(&[Op::Read])),
    ("delay", OpSet::ANY),
    ("hold", OpSet::ANY),
    ("reorder", OpSet::ANY),
    ("split", OpSet::SECTORED),
    ("power_cut", OpSet::ANY),
];

/// Every action with every type of request it means something on.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ACTIONS.iter().flat_map(|(action, ops)| ops.names().into_iter().map(|op| (*action, op)))
}

impl Script {
    /// What its rules are ready for, each once. A rule that is switched off is ready for nothing, and `set` is no fault.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        let mut kinds = BTreeSet::new();
        for rule in self.rules.iter().filter(|rule| rule.enabled && rule.action.competes()) {
            let ops = rule.matches.op.and(OpSet::ANY);
            for (op, _) in OPS.iter().filter(|(_, op)| ops.has(*op)) {
                kinds.extend(classes(rule.matches.class).map(|class| Kind { action: rule.action.name(), op, class }));
            }
        }
        kinds
    }
}

fn classes(set: Option<ClassSet>) -> impl Iterator<Item = Option<&'static str>> {
    let words = set.map_or_else(|| vec![None], |set| set.words().into_iter().map(Some).collect());
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Source, load};

    fn kinds(text: &str) -> Vec<(&'static str, &'static str, Option<&'static str>)> {
        let loaded = load(&[Source { name: "s", text }]).expect("nothing is wrong with it");
        loaded.script.kinds().into_iter().map(|kind| (kind.action, kind.op, kind.class)).collect()
    }

    #[test]
    fn a_script_is_ready_for_what_its_rules_match_and_no_more() {
        let text = r#"{"faultscript": 1, "rules": [
            {"id": "a", "match": {"op": "write", "class": ["ext4.data", "ext4.journal"]}, "action": {"lose": {}}},
            {"id": "b", "match": {"op": ["read", "flush"]}, "action": {"error": {"status": "ioerr"}}},
            {"id": "c", "enabled": false, "match": {"op": "discard"}, "action": {"error": {"status": "ioerr"}}}]}"#;
        assert_eq!(
            kinds(text),
            [
                ("error", "flush", None),
                ("error", "read", None),
                ("lose", "write", Some("ext4.data")),
                ("lose", "write", Some("ext4.journal")),
            ]
        );
    }

    /// Guards the list against an action added to the language.
    #[test]
    fn the_list_of_actions_says_of_each_what_the_language_says() {
        let rules: Vec<String> = [
            r#""error": {"status": "ioerr"}"#,
            r#""partial": {"sectors": 1, "status": "ioerr"}"#,
            r#""torn": {"unit": "sector", "keep": "prefix"}"#,
            r#""lose": {}"#,
            r#""misdirect": {"to_sector": 0}"#,
            r#""delay": {"us": 1}"#,
            r#""hold": {"until": "release", "max_ms": 1}"#,
            r#""split": {"max_sectors": 1}"#,
        ]
        .iter()
        .enumerate()
        .map(|(i, action)| format!(r#"{{"id": "r{i}", "action": {{{action}}}}}"#))
        .collect();
        let text = format!(r#"{{"faultscript": 1, "rules": [{}]}}"#, rules.join(", "));
        let loaded = load(&[Source { name: "s", text: &text }]).unwrap_or_else(|problems| panic!("{problems}"));
        for rule in &loaded.script.rules {
            let listed = ACTIONS.iter().find(|(name, _)| *name == rule.action.name()).expect("every action is listed");
            assert_eq!(listed.1, rule.action.ops().and(OpSet::ANY), "{}", listed.0);
        }
        let words: BTreeSet<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(words.len(), ACTIONS.len());
    }
}
