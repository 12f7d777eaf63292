//! The grammar of the workload: which keys each operation takes.
//!
//! What the values have to be together (a path below the mount point, a stride that goes on) `guest_init::job::Op` knows and says;
//! this finds misspelt and missing keys and wrong types, all of them, each at its place.

use fault_injection::reader::{At, Fields, MAX_INTEGER, Reader, did_you_mean};
use guest_init::job::{Errno, Op};
use guest_init::writers::MOST;
use std::collections::BTreeMap;

/// An operation with its keys; every one takes `errno` besides, and `writer` where it may be done beside others.
struct Form {
    op: &'static str,
    needs: &'static [&'static str],
    may: &'static [&'static str],
}

const fn form(op: &'static str, needs: &'static [&'static str], may: &'static [&'static str]) -> Form {
    Form { op, needs, may }
}

const FORMS: &[Form] = &[
    form("create", &["path"], &[]),
    form("fallocate", &["path", "len"], &["offset", "keep_size"]),
    form("write", &["path", "len", "pattern"], &["offset", "direct", "stride"]),
    form("read", &["path"], &["offset", "len", "direct"]),
    form("fsync", &["path"], &[]),
    form("fdatasync", &["path"], &[]),
    form("sync", &[], &[]),
    form("sync_file_range", &["path"], &["offset", "len", "start_only"]),
    form("truncate", &["path", "len"], &[]),
    form("punch", &["path", "offset", "len"], &[]),
    form("rename", &["path", "to"], &[]),
    form("unlink", &["path"], &[]),
    form("link", &["path", "to"], &[]),
    form("mkdir", &["path"], &[]),
    form("fstrim", &[], &[]),
    form("drop_caches", &[], &[]),
    form("mmap_write", &["path", "len", "pattern"], &["offset", "msync"]),
    form("aio_write", &["path", "len", "pattern"], &["offset", "direct", "stride"]),
    form("mark", &["name"], &[]),
    form("sleep_ms", &["ms"], &[]),
    form("await_capacity", &["sectors"], &[]),
    form("remount", &[], &[]),
];

/// How often each file is read.
#[derive(Default)]
pub struct Reads(BTreeMap<String, usize>);

impl Reads {
    /// Reads of a file.
    pub fn of(&self, path: &str) -> usize {
        self.0.get(path).copied().unwrap_or(0)
    }

    /// The files that are read.
    pub fn paths(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Checks a whole workload.
pub fn workload(reader: &mut Reader<'_>, at: &At<'_>) -> Reads {
    let mut reads = Reads::default();
    let Some(ops) = reader.array(at) else { return reads };
    if ops.is_empty() {
        reader.report("E103", at, "nothing is done, so nothing could be judged", Some("name an operation".into()));
    }
    let mut writers = Vec::new();
    for at in &ops {
        let checked = op(reader, at);
        if let Some(Checked { op: "read", path, .. }) = checked {
            *reads.0.entry(path.to_owned()).or_default() += 1;
        }
        writers.push(checked.and_then(|checked| checked.writer));
    }
    alone(reader, &writers);
    reads
}

/// An operation that was understood.
struct Checked<'n> {
    op: &'static str,
    path: &'n str,
    writer: Option<(u64, At<'n>)>,
}

/// A stretch in which one writer has nobody beside it is a sequence, and perhaps not what was meant.
fn alone(reader: &mut Reader<'_>, writers: &[Option<(u64, At<'_>)>]) {
    for stretch in writers.split(Option::is_none) {
        if let Some((first, at)) = stretch.iter().flatten().next()
            && stretch.iter().flatten().all(|(writer, _)| writer == first)
        {
            let hint = Some("let an operation of another writer stand beside these, or leave `writer` out".to_owned());
            reader.report("W302", at, format!("writer {first} works alone here"), hint);
        }
    }
}

/// Checks one operation.
fn op<'n>(reader: &mut Reader<'_>, at: &At<'n>) -> Option<Checked<'n>> {
    let before = reader.problems.len();
    let any = reader.any_object(at)?;
    let word = reader.required(&any, "op")?.clone();
    let names: Vec<(&str, &Form)> = FORMS.iter().map(|form| (form.op, form)).collect();
    let form = reader.choice(&word, &names)?;
    let known: Vec<&str> = ["op", "errno", "writer"].iter().chain(form.needs).chain(form.may).copied().collect();
    // A key given twice was told by `any_object`.
    let twice = reader.problems.len();
    let fields = reader.object(at, &known)?;
    let told = reader.problems.split_off(twice);
    reader.problems.extend(told.into_iter().filter(|(_, problem)| problem.code != "E108"));
    for key in form.needs {
        reader.required(&fields, key);
    }
    for (key, at) in &fields.entries {
        value(reader, key, at);
    }
    if reader.problems.len() == before {
        meaning(reader, at);
    }
    let path = fields.get("path").and_then(|at| text_of(at)).unwrap_or_default();
    let writer =
        fields.get("writer").and_then(|at| Some((serde_json::from_str(reader.text_of(at)?).ok()?, at.clone())));
    Some(Checked { op: form.op, path, writer })
}

fn text_of<'n>(at: &At<'n>) -> Option<&'n str> {
    match at.node.get_ref() {
        fault_injection::json::Value::String(text) => Some(text),
        _ => None,
    }
}

/// A key means the same in every operation.
fn value(reader: &mut Reader<'_>, key: &str, at: &At<'_>) {
    match key {
        "offset" | "len" | "ms" | "sectors" => drop(reader.integer(at, 0, MAX_INTEGER)),
        "keep_size" | "direct" | "start_only" | "msync" => drop(reader.boolean(at)),
        "stride" => stride(reader, at),
        "errno" => errno(reader, at),
        "writer" => drop(reader.integer(at, 1, MOST.into())),
        _ => drop(reader.string(at)),
    }
}

fn stride(reader: &mut Reader<'_>, at: &At<'_>) {
    let Some(fields): Option<Fields<'_>> = reader.object(at, &["chunk", "step", "phases"]) else { return };
    reader.required(&fields, "chunk");
    reader.required(&fields, "step");
    for (_, at) in &fields.entries {
        reader.integer(at, 1, MAX_INTEGER);
    }
}

fn errno(reader: &mut Reader<'_>, at: &At<'_>) {
    let Some(name) = text_of(at) else {
        reader.integer(at, 1, 4095);
        return;
    };
    if name.parse::<Errno>().is_err() {
        let names: Vec<&str> = Errno::names().collect();
        let hint = did_you_mean(name, &names).or(Some("write its number".into()));
        reader.report("E102", at, format!("{name:?} is not the name of an error known here, such as \"EIO\""), hint);
    }
}

/// What only the operation as a whole can say.
fn meaning(reader: &mut Reader<'_>, at: &At<'_>) {
    let Some(text) = reader.text_of(at) else { return };
    if let Err(error) = serde_json::from_str::<Op>(text) {
        reader.report("E103", at, super::without_place(&error.to_string()), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an operation with these keys is to serde.
    fn parsed(op: &str, keys: &[&str]) -> Result<Op, String> {
        let mut map = serde_json::Map::from_iter([("op".to_owned(), op.into())]);
        for key in keys {
            let value = match *key {
                "keep_size" | "direct" | "start_only" | "msync" => true.into(),
                "offset" | "len" | "ms" | "sectors" => 4096.into(),
                "stride" => serde_json::json!({ "chunk": 512, "step": 1024 }),
                _ => "f".into(),
            };
            map.insert((*key).to_owned(), value);
        }
        serde_json::from_value(map.into()).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn each_operation_takes_these_keys_and_needs_each_of_those_it_needs() {
        for form in FORMS {
            let all: Vec<&str> = form.needs.iter().chain(form.may).copied().collect();
            parsed(form.op, &all).unwrap_or_else(|error| panic!("{}: {error}", form.op));
            parsed(form.op, form.needs).unwrap_or_else(|error| panic!("{}: {error}", form.op));
            for left_out in form.needs {
                let rest: Vec<&str> = form.needs.iter().filter(|key| *key != left_out).copied().collect();
                assert!(parsed(form.op, &rest).is_err(), "{} does not need {left_out}", form.op);
            }
        }
    }

    #[test]
    fn every_operation_of_the_guest_is_known_here_with_every_key() {
        let said = parsed("?", &[]).expect_err("no operation");
        let names: Vec<&str> = said.split('`').skip(3).step_by(2).collect();
        assert_eq!(names, FORMS.iter().map(|form| form.op).collect::<Vec<_>>(), "{said}");
        for form in FORMS {
            let said = parsed(form.op, &[form.needs, &["?"]].concat()).expect_err("no such key");
            let mut keys: Vec<&str> = said.split('`').skip(3).step_by(2).collect();
            let mut ours = [form.needs, form.may].concat();
            keys.sort_unstable();
            ours.sort_unstable();
            assert_eq!(keys, ours, "{}: {said}", form.op);
        }
    }
}
