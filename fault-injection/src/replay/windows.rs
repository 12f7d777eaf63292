//! Windows of `reorder` rules as a recorded run filled and ordered them.
//!
//! A request goes to the window and the place in which it was, whichever comes first now, and a window is ordered when
//! all that were in it have come. So several may be open at once.

use std::collections::BTreeMap;

use crate::event::{Draw, Outcome, Purpose, Record};

/// The windows of all rules, by rule and number.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows(BTreeMap<(u32, u64), Window>);

#[derive(Clone, Debug, Default)]
struct Window {
    members: u32,
    came: u32,
    /// As it was answered; a run that ended before does not say.
    order: Option<Vec<u32>>,
    draw: Vec<Draw>,
    last: Option<Record>,
}

/// Where a request goes.
pub(crate) struct Placed {
    pub window: u64,
    pub slot: u32,
    /// With the last that comes.
    pub order: Option<Vec<u32>>,
    pub draw: Vec<Draw>,
}

/// A window that the clock closed.
pub(crate) struct Closed {
    pub order: Vec<u32>,
    pub draw: Vec<Draw>,
    pub last: Option<Record>,
}

impl Windows {
    /// A line of the recorded run.
    pub fn remember(&mut self, rule: u32, record: &Record) {
        match &record.outcome {
            Outcome::Reorder { window, order, .. } => {
                let known = self.0.entry((rule, *window)).or_default();
                known.members += 1;
                if order.is_some() {
                    known.order.clone_from(order);
                    known.draw = order_draws(record);
                }
            }
            Outcome::ReorderStarved { window, order } => {
                let known = self.0.entry((rule, *window)).or_default();
                known.order = Some(order.clone());
                known.draw = order_draws(record);
            }
            _ => {}
        }
    }

    /// The place of a request with this recorded outcome; none if it was in no window.
    pub fn place(&mut self, rule: u32, record: &Record) -> Option<Placed> {
        let Outcome::Reorder { window, slot, .. } = record.outcome else { return None };
        let known = self.0.get_mut(&(rule, window))?;
        known.came += 1;
        let order = known.order.clone().filter(|_| known.came == known.members);
        let draw = if order.is_some() { known.draw.clone() } else { Vec::new() };
        Some(Placed { window, slot, order, draw })
    }

    /// The request that came last to a window, as it came now.
    pub fn remember_last(&mut self, rule: u32, window: u64, record: Record) {
        if let Some(known) = self.0.get_mut(&(rule, window)) {
            known.last = Some(record);
        }
    }

    /// The clock closes a window that waits. What is wrong with that is said in words.
    pub fn close(&mut self, rule: u32, window: u64) -> Option<(Closed, String)> {
        let known = self.0.get_mut(&(rule, window)).filter(|known| known.came < known.members)?;
        let said = format!("window {window} was closed by time with {} of its {} requests", known.came, known.members);
        let (order, draw) = (known.order.clone().unwrap_or_default(), known.draw.clone());
        Some((Closed { order, draw, last: known.last.take() }, said))
    }

    /// One more than any recorded window of this rule.
    pub fn next(&self, rule: u32) -> u64 {
        self.0.keys().filter(|(of, _)| *of == rule).map(|(_, window)| window + 1).max().unwrap_or(0)
    }
}

fn order_draws(record: &Record) -> Vec<Draw> {
    record.draw.iter().filter(|draw| draw.purpose == Purpose::Order).cloned().collect()
}
