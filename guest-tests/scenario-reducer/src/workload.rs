//! Smaller operations: shorter, in one call, from the beginning of the file.

use crate::Oracle;
use crate::search::{Passed, Search};
use crate::tidy::{changed, ops};
use serde_json::{Value, json};

/// Lengths that are tried for all operations at once, smallest first.
const LENGTHS: [u64; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// No operation is made shorter than this.
const SHORTEST: u64 = 512;

/// Operations that go through a range of a file; a `truncate`'s length is a place, and goes along.
const WITH_LENGTH: [&str; 8] =
    ["fallocate", "write", "read", "aio_write", "mmap_write", "punch", "sync_file_range", "truncate"];

fn ops_mut(scenario: &mut Value) -> impl Iterator<Item = &mut Value> {
    scenario.get_mut("workload").and_then(Value::as_array_mut).into_iter().flatten()
}

fn shorten(op: &mut Value, most: u64) {
    let has_length = WITH_LENGTH.iter().any(|name| op["op"] == *name);
    if !has_length || op["len"].as_u64().is_none_or(|len| len <= most) {
        return;
    }
    op["len"] = json!(most);
    if op["stride"]["step"].as_u64().is_some_and(|step| step > most) {
        remove(op, "stride");
    }
}

fn remove(op: &mut Value, key: &str) {
    op.as_object_mut().map(|op| op.remove(key));
}

fn drops_caches(op: &Value) -> bool {
    op["op"] == "drop_caches" || op["op"] == "remount"
}

fn syncs(op: &Value) -> bool {
    op["op"] == "sync" || op["op"] == "fsync" || op["op"] == "fdatasync"
}

fn read_directly(ops: &mut Vec<Value>) {
    let Some(first) = ops.iter().position(drops_caches) else { return };
    ops.iter_mut().skip(first).filter(|op| op["op"] == "read").for_each(|op| op["direct"] = json!(true));
    ops.retain(|op| !drops_caches(op));
}

/// A `sync` of everything becomes the `fsync` of what was written last.
fn sync_to_fsync(ops: &mut [Value], errno: Option<&str>) {
    let mut written = None;
    for op in ops {
        if op["op"] == "sync"
            && let Some(path) = &written
        {
            let writer = op.get("writer").cloned();
            *op = json!({ "op": "fsync", "path": path });
            if let Some(writer) = writer {
                op["writer"] = writer;
            }
            if let Some(errno) = errno {
                op["errno"] = json!(errno);
            }
        } else if op.get("pattern").is_some() {
            written = op["path"].as_str().map(str::to_owned);
        }
    }
}

/// The first `drop_caches` becomes a `remount`, and what is synced right before it goes.
fn remount(ops: &mut Vec<Value>) {
    let Some(place) = ops.iter().position(|op| op["op"] == "drop_caches") else { return };
    ops[place] = json!({ "op": "remount" });
    let first = ops[..place].iter().rposition(|op| !syncs(op)).map_or(0, |place| place + 1);
    ops.drain(first..place);
}

/// Another workload in place of this one.
type Way = fn(&mut Vec<Value>);

impl<O: Oracle> Search<'_, O> {
    /// See the module.
    pub fn smaller_operations(&mut self) -> Passed<O> {
        let mut found = self.read_past_the_cache()?;
        found |= self.all_shorter()?;
        found |= self.everywhere("every operation from the beginning of its file", |op| remove(op, "offset"))?;
        found |= self.everywhere("every write in one call", |op| remove(op, "stride"))?;
        for place in 0..ops(&self.best) {
            found |= self.one_smaller(place)?;
        }
        Ok(found)
    }

    /// The shortest way to see what the disk holds: a direct read needs no `drop_caches` before it, but a file whose error
    /// nobody was told of answers with that first, so it may need an `fsync`; one that is mounted anew needs neither.
    fn read_past_the_cache(&mut self) -> Passed<O> {
        let ways: [(&str, Way); 4] = [
            ("direct reads instead of dropped caches", read_directly),
            ("fsync and direct reads", |ops| {
                sync_to_fsync(ops, None);
                read_directly(ops);
            }),
            ("fsync that tells the error, and direct reads", |ops| {
                sync_to_fsync(ops, Some("EIO"));
                read_directly(ops);
            }),
            ("mounted anew instead of synced and dropped", remount),
        ];
        for (what, way) in ways {
            let candidate = changed(&self.best, |candidate| {
                candidate.get_mut("workload").and_then(Value::as_array_mut).into_iter().for_each(way);
            });
            let smaller = candidate.filter(|candidate| ops(candidate) < ops(&self.best));
            if let Some(candidate) = smaller
                && self.attempt(what, candidate)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn all_shorter(&mut self) -> Passed<O> {
        for most in LENGTHS {
            let what = format!("no operation longer than {most} bytes");
            if self.everywhere(&what, |op| shorten(op, most))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn everywhere(&mut self, what: &str, change: impl Fn(&mut Value)) -> Passed<O> {
        let candidate = changed(&self.best, |candidate| ops_mut(candidate).for_each(&change));
        candidate.map_or(Ok(false), |candidate| self.attempt(what, candidate))
    }

    fn one_smaller(&mut self, place: usize) -> Passed<O> {
        let mut found = false;
        for key in ["stride", "offset", "start_only", "keep_size", "msync"] {
            found |= self.one_op(place, &format!("without {key}"), |op| remove(op, key))?;
        }
        while let Some(len) = self.best["workload"][place]["len"].as_u64().filter(|&len| len >= 2 * SHORTEST) {
            let half = (len / 2).next_multiple_of(SHORTEST);
            if !self.one_op(place, "half as long", |op| shorten(op, half))? {
                break;
            }
            found = true;
        }
        Ok(found)
    }

    fn one_op(&mut self, place: usize, what: &str, change: impl FnOnce(&mut Value)) -> Passed<O> {
        let candidate = changed(&self.best, |candidate| {
            if let Some(op) = ops_mut(candidate).nth(place) {
                change(op);
            }
        });
        candidate.map_or(Ok(false), |candidate| self.attempt(format!("operation {place}: {what}"), candidate))
    }
}
