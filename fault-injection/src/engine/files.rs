//! What the device tells of the file system: which inode a path is, and which sectors are bad from the start.

use super::{Engine, Unit};
use crate::event::{EventRecord, Happened};
use crate::files::Wanted;
use crate::rule::Rule;

impl Engine {
    /// The device says what requests are in the file system, from the first one on.
    pub fn know_files(&mut self) {
        self.knows_files = true;
    }

    /// Whether the device says so.
    pub fn knows_files(&self) -> bool {
        self.knows_files
    }

    /// The path is this inode from the request with the next `seq` on, or nothing. Gives a line for decisions.jsonl if
    /// that is news.
    pub fn bind(&mut self, path: &str, inode: Option<u32>, seq: u64) -> Option<EventRecord> {
        if self.paths.insert(path.to_string(), inode).flatten() == inode {
            return None;
        }
        let event = Happened::Path { path: path.to_string(), inode };
        Some(EventRecord { seq, after: false, rule: "@path".to_string(), event })
    }

    /// Rules whose sectors are bad from the start and lie where the file system says: `sectors` gives those of what is
    /// wanted. To be called once, after the paths are bound.
    pub fn begin_bad(&mut self, sectors: impl Fn(&Wanted) -> Vec<(u64, u64)>) {
        let script = std::sync::Arc::clone(&self.script);
        for (rule, state) in script.rules.iter().zip(&mut self.rules) {
            if let (true, Some(Ok(wanted))) = (rule.is_latent(), rule.wanted(&self.paths)) {
                let all = sectors(&wanted).into_iter();
                all.flat_map(|(start, end)| rule.matched_sectors(start, end - start))
                    .for_each(|(start, end)| state.bad.add(start, end));
            }
        }
    }

    /// Sectors of a request that the effect of a rule is about.
    pub(super) fn matched_sectors(&self, rule: &Rule, unit: &Unit) -> Vec<(u64, u64)> {
        match rule.wanted(&self.paths) {
            None => rule.matched_sectors(unit.request.sector, unit.request.sectors),
            Some(Ok(wanted)) => rule.stretches_matched(&unit.known, wanted),
            Some(Err(_)) => Vec::new(),
        }
    }
}
