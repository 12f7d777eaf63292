//! Lines of decisions.jsonl: what was decided, by which rule, from which draw.

use serde::{Deserialize, Serialize};

/// One decision of one rule about one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `Arrival::seq` of the request.
    pub seq: u64,
    /// The rule's id.
    pub rule: String,
}
