//! The transfer and status stages: what moves of a request that is carried out as one, and what is answered.

use super::{Engine, Firing, Played, Unit};
use crate::corrupt::Corruption;
use crate::decision::{Moves, Piece, RuleIndex, Status, UsedLen, Work};
use crate::event::Outcome;
use crate::random::below;
use crate::ranges::Ranges;
use crate::request::{Request, SECTOR_BYTES};
use crate::rule::{Action, OpSet, Original, Stage, Transfer, Where};
use crate::script::Script;
use crate::tear;

impl Engine {
    /// Transfer and status stages of what is carried out as one.
    pub(super) fn resolve_piece(&self, script: &Script, unit: &Unit, played: &mut Played) -> Piece {
        let Request { sector, sectors, .. } = unit.request;
        let mut piece = Piece { sector, sectors, moves: Moves::All, status: Status::OK, used_len: UsedLen::Honest };
        let transfer = played.winner(Stage::Transfer);
        if played.overruled.is_some() {
            return Piece { moves: Moves::Prefix { bytes: 0 }, status: Status::IOERR, ..piece };
        }
        if let Some(firing) = transfer {
            let index = played.firings[firing].rule;
            match &script.rules[played.firings[firing].rule as usize].action {
                Action::Partial { amount, status, used_len } => {
                    let moved_bytes = amount.bytes_of(sectors);
                    piece.moves = prefix(moved_bytes, unit.bytes());
                    piece.status = *status;
                    piece.used_len = *used_len;
                    played.settle(firing, Outcome::Partial { status: status.0, moved_bytes });
                }
                Action::Lose {} => {
                    piece.moves = Moves::Lost;
                    played.settle(firing, Outcome::Lose {});
                }
                Action::Torn { unit: size, keep } => {
                    let drawn = self.rules[index as usize].action.as_ref().map(|(_, draws)| draws);
                    let kept = tear::kept(*size, keep, unit.bytes(), drawn, played.firings[firing].key);
                    if drawn.is_some() {
                        self.draw(&mut played.firings[firing]);
                    }
                    piece.moves = Moves::Torn { kept: kept.clone() };
                    played.settle(firing, Outcome::Torn { kept });
                }
                Action::Misdirect { to, original } => {
                    let to_sector = to.of(sector).expect("a rule without a target does not fire");
                    let original_written = *original == Original::Written;
                    piece.moves = Moves::Misdirected { to_sector, original_written };
                    played.settle(firing, Outcome::Misdirect { to_sector });
                }
                Action::Corrupt { damage, place } => {
                    let (_, draws) = self.rules[index as usize].action.as_ref().expect("prepared for every corruption");
                    let sectors = self.affected(script, index, unit);
                    played.settle(firing, Outcome::Corrupt { sectors: sectors.clone() });
                    let (rule, media, draws) = (RuleIndex(index), *place == Where::Media, draws.clone());
                    piece.moves = Moves::Corrupt(Corruption { rule, media, sectors, damage: *damage, draws });
                }
                Action::Stale { versions } => {
                    let sectors = self.affected(script, index, unit);
                    piece.moves = Moves::Stale { versions: *versions, sectors };
                    played.settle(firing, Outcome::Stale { versions: *versions });
                }
                _ => unreachable!("a split is resolved apart, and no other action is in the transfer stage"),
            }
        }
        if let Some(firing) = played.winner(Stage::Status) {
            let Action::Error { status, transfer: passes } = &script.rules[played.firings[firing].rule as usize].action
            else {
                unreachable!("only error is in the status stage")
            };
            if transfer.is_none() {
                piece.moves = self.error_moves(*passes, unit, &mut played.firings[firing]);
            }
            fail(&mut piece, *status);
            let moved_bytes = moved_bytes(&piece);
            played.settle(firing, Outcome::Error { status: status.0, moved_bytes });
        }
        piece
    }

    /// Sectors of a request that the rule is about: those in its ranges, and those that are bad by it.
    fn affected(&self, script: &Script, rule: u32, unit: &Unit) -> Vec<(u64, u64)> {
        let (state, rule) = (&self.rules[rule as usize], &script.rules[rule as usize]);
        let Request { sector: start, sectors, .. } = unit.request;
        let end = start + sectors;
        if state.everywhere {
            return vec![(start, end)];
        }
        let bad = state.bad.within(start, end);
        let matched = if rule.is_latent() { Vec::new() } else { self.matched_sectors(rule, unit) };
        Ranges::of(bad.into_iter().chain(matched)).list().to_vec()
    }

    fn error_moves(&self, passes: Transfer, unit: &Unit, firing: &mut Firing) -> Moves {
        match passes {
            Transfer::None => Moves::Prefix { bytes: 0 },
            Transfer::All => Moves::All,
            Transfer::Random => {
                // A request without sectors is served or not.
                let steps = unit.request.sectors.max(1);
                let sectors = below(self.draw(firing), steps + 1);
                if sectors == steps { Moves::All } else { Moves::Prefix { bytes: sectors * SECTOR_BYTES } }
            }
        }
    }

    /// A write heals what it reaches.
    pub(super) fn heal_by(&mut self, request: &Request, work: &Work) {
        if self.healed_by_writes.is_empty() || !OpSet::CHANGING.has(request.op) {
            return;
        }
        let pieces = match work {
            Work::Whole(piece) => std::slice::from_ref(piece),
            Work::Split { pieces, .. } => pieces,
        };
        for (start, end) in pieces.iter().flat_map(rewritten) {
            for index in &self.healed_by_writes {
                self.rules[*index as usize].bad.remove(start, end);
            }
        }
    }
}

fn prefix(bytes: u64, of: u64) -> Moves {
    if bytes < of { Moves::Prefix { bytes } } else { Moves::All }
}

/// Replaces the status. A loss that is owned up to is no lie.
pub(super) fn fail(piece: &mut Piece, status: Status) {
    piece.status = status;
    if piece.moves == Moves::Lost {
        piece.moves = Moves::Prefix { bytes: 0 };
    }
}

pub(super) fn moved_bytes(piece: &Piece) -> u64 {
    match &piece.moves {
        Moves::All | Moves::Misdirected { .. } | Moves::Corrupt(_) | Moves::Stale { .. } => {
            piece.sectors * SECTOR_BYTES
        }
        Moves::Prefix { bytes } => *bytes,
        Moves::Torn { kept } => kept.iter().map(|stretch| stretch.1 - stretch.0).sum(),
        Moves::Lost => 0,
    }
}

/// Sectors that a write leaves with new content, whole ones only.
fn rewritten(piece: &Piece) -> Vec<(u64, u64)> {
    let stretches = match &piece.moves {
        Moves::All | Moves::Corrupt(_) | Moves::Misdirected { original_written: true, .. } => {
            vec![(0, piece.sectors * SECTOR_BYTES)]
        }
        Moves::Prefix { bytes } => vec![(0, *bytes)],
        Moves::Torn { kept } => kept.clone(),
        Moves::Lost | Moves::Misdirected { .. } | Moves::Stale { .. } => Vec::new(),
    };
    let whole = |(start, end): (u64, u64)| (start.div_ceil(SECTOR_BYTES), end / SECTOR_BYTES);
    let in_place = |(start, end): (u64, u64)| (piece.sector + start, piece.sector + end);
    stretches.into_iter().map(whole).filter(|(start, end)| start < end).map(in_place).collect()
}
