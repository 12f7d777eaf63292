//! Requests that are carried out as several: the children are asked about one by one.

use super::transfer::{fail, moved_bytes};
use super::{Engine, Firing, Played, Unit, record, sets_of};
use crate::decision::{Piece, RuleIndex, Work};
use crate::event::{Outcome, Record};
use crate::files::part;
use crate::request::Request;
use crate::rule::{Action, ChildOrder, Stage};
use crate::script::Script;
use crate::trigger::Counts;
use std::collections::BTreeMap;

impl Engine {
    pub(super) fn split_winner(&self, script: &Script, played: &Played) -> Option<usize> {
        let is_split =
            |firing: &usize| matches!(script.rules[played.firings[*firing].rule as usize].action, Action::Split { .. });
        played.winner(Stage::Transfer).filter(is_split)
    }

    pub(super) fn resolve_split(
        &mut self,
        script: &Script,
        unit: &Unit,
        played: &mut Played,
        firing: usize,
        counts: (Counts, Counts),
        log: &mut Vec<Record>,
    ) -> (Work, Vec<BTreeMap<String, String>>) {
        let index = played.firings[firing].rule;
        let Action::Split { cut, order } = &script.rules[index as usize].action else {
            unreachable!("the caller found a split")
        };
        let sectors = cut.lengths(unit.request.sectors);
        let order = self.child_order(*order, sectors.len() as u32, &mut played.firings[firing]);
        let (mut pieces, sets) = self.decide_children(script, unit, index, &sectors, counts, log);
        played.settle(firing, Outcome::Split { sectors, order: order.clone() });
        if let Some(firing) = played.winner(Stage::Status)
            && let Action::Error { status, .. } = &script.rules[played.firings[firing].rule as usize].action
        {
            pieces.iter_mut().for_each(|piece| fail(piece, *status));
            let moved_bytes = pieces.iter().map(moved_bytes).sum();
            played.settle(firing, Outcome::Error { status: status.0, moved_bytes });
        }
        (Work::Split { rule: RuleIndex(index), pieces, order }, sets)
    }

    fn child_order(&self, order: ChildOrder, children: u32, firing: &mut Firing) -> Vec<u32> {
        match order {
            ChildOrder::Forward => (0..children).collect(),
            ChildOrder::Reverse => (0..children).rev().collect(),
            ChildOrder::Shuffle => {
                self.draw(firing);
                let (_, draws) =
                    self.rules[firing.rule as usize].action.as_ref().expect("a draw was just made from it");
                draws.shuffled(firing.key, children)
            }
        }
    }

    /// Children are asked about in rising sector order, whatever the order in which they reach the disk.
    fn decide_children(
        &mut self,
        script: &Script,
        parent: &Unit,
        split: u32,
        lengths: &[u64],
        counts: (Counts, Counts),
        log: &mut Vec<Record>,
    ) -> (Vec<Piece>, Vec<BTreeMap<String, String>>) {
        let mut sets = Vec::new();
        let candidates = std::mem::take(&mut self.rules[split as usize].children);
        let mut pieces = Vec::with_capacity(lengths.len());
        let mut sector = parent.request.sector;
        for (child, &sectors) in (0u32..).zip(lengths) {
            let request = Request { sector, sectors, ..parent.request };
            let known = part(&parent.known, sector, sectors);
            let mut unit =
                Unit { seq: parent.seq, request, split: Some(split), child: Some(child), touch: 0, known, file: None };
            let mut played = self.play(script, &mut unit, &candidates, counts);
            pieces.push(self.resolve_piece(script, &unit, &mut played));
            sets.append(&mut sets_of(script, &played));
            log.extend(played.firings.into_iter().map(|firing| record(script, &unit, firing)));
            sector += sectors;
        }
        self.rules[split as usize].children = candidates;
        (pieces, sets)
    }
}
