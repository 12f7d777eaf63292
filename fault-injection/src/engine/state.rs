//! What one rule remembers of a run: how often it matched, what stuck, which window is open.

use crate::event::{Key, Purpose, Record};
use crate::random::Draws;
use crate::ranges::Ranges;
use crate::request::Request;
use crate::rule::{Action, ChildOrder, Keep, Length, Policy, Rule, Scope, StickySectors, Transfer};
use crate::trigger::Progress;

#[derive(Debug)]
pub(super) struct RuleState {
    pub(super) progress: Progress,
    pub(super) carried_out: u64,
    pub(super) shadowed: u64,
    pub(super) probability: Option<Draws>,
    /// For what the action itself draws.
    pub(super) action: Option<(Purpose, Draws)>,
    /// Rules that look at the children of this split.
    pub(super) children: Vec<u32>,
    pub(super) window: Window,
    /// A hold that holds something and has not been released.
    pub(super) holding: bool,
    /// Sectors on which the rule acts whatever its trigger says.
    pub(super) bad: Ranges,
    /// It acts on every request of its types.
    pub(super) everywhere: bool,
    /// Its heal point has come: nothing sticks any more.
    pub(super) healed_for_good: bool,
    pub(super) removed: bool,
}

/// The open window of a reorder rule.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) number: u64,
    pub(super) filled: u32,
    pub(super) last: Option<Record>,
}

impl RuleState {
    pub(super) fn new(rule: &Rule, seed: u64) -> RuleState {
        let key = rule.trigger.key;
        let draws = |purpose, key| Draws::new(seed, &rule.id, purpose, key);
        let action = match rule.action {
            Action::Delay { length: Length::Drawn(_), .. } => Some((Purpose::Delay, key)),
            Action::Error { transfer: Transfer::Random, .. } => Some((Purpose::Transfer, key)),
            Action::Split { order: ChildOrder::Shuffle, .. } => Some((Purpose::Order, key)),
            Action::Torn { keep: Keep::Prefix | Keep::Suffix | Keep::Random, .. } => Some((Purpose::Tear, key)),
            // Keyed by what the sector holds.
            Action::Corrupt { .. } => Some((Purpose::Damage, Key::Address)),
            // A window has no address, only a number.
            Action::Reorder { policy: Policy::Shuffle, .. } => Some((Purpose::Order, Key::Ordinal)),
            _ => None,
        };
        let mut bad = Ranges::default();
        // Where the file system is asked, only the device can say which these are.
        if rule.is_latent() && !rule.asks_the_file_system() {
            bad = Ranges::of(rule.matched_sectors(0, u64::MAX));
        }
        RuleState {
            progress: Progress::default(),
            carried_out: 0,
            shadowed: 0,
            probability: rule.trigger.probability.map(|_| draws(Purpose::Probability, key)),
            action: action.map(|(purpose, key)| (purpose, draws(purpose, key))),
            children: Vec::new(),
            window: Window::default(),
            holding: false,
            bad,
            everywhere: false,
            healed_for_good: false,
            removed: false,
        }
    }

    /// Whether the rule acts on a request because it has fired before.
    pub(super) fn sticks_to(&self, rule: &Rule, request: &Request) -> bool {
        let Request { op, sector, sectors, .. } = *request;
        let touches = self.everywhere || self.bad.meet(sector, sector.saturating_add(sectors));
        touches && rule.matches.op.has(op) && sectors >= rule.action.least_sectors()
    }

    /// The rule was carried out on a request: what of it lasts.
    pub(super) fn stick(&mut self, rule: &Rule, request: &Request, matched: Vec<(u64, u64)>) {
        let (start, end) = (request.sector, request.sector.saturating_add(request.sectors));
        match &rule.scope {
            Scope::Request => {}
            Scope::Device => self.everywhere = true,
            Scope::Sticky { .. } if self.healed_for_good => {}
            Scope::Sticky { sectors: StickySectors::Request, .. } => self.bad.add(start, end),
            // What was bad from the start and has been healed does not go bad again.
            Scope::Sticky { .. } if rule.is_latent() => {}
            Scope::Sticky { .. } => {
                matched.into_iter().for_each(|(start, end)| self.bad.add(start, end));
            }
        }
    }

    /// Nothing of the rule lasts any more.
    pub(super) fn heal(&mut self) {
        self.bad.clear();
        self.everywhere = false;
    }
}
