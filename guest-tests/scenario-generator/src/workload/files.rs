//! The files of a workload as they are if every operation succeeds, and the operations that were drawn so far.

use crate::draw::Stream;
use serde_json::{Value, json};

/// A file, by its place in [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(usize);

#[derive(Debug)]
struct State {
    name: String,
    bytes: u64,
    here: bool,
}

/// Largest file, but for a few.
const USUAL_BYTES: u64 = 1 << 20;
const LARGEST_BYTES: u64 = 4 << 20;

/// Most calls of one strided operation: under an emulated CPU each takes its time.
const MOST_CALLS: u64 = 160;

/// Files and operations.
#[derive(Debug)]
pub struct Files {
    /// What was drawn so far.
    pub ops: Vec<Value>,
    /// Bytes of the file system's block.
    pub block_bytes: u64,
    /// Smallest unit of direct I/O.
    pub logical_bytes: u64,
    files: Vec<State>,
    folders: Vec<String>,
    patterns: u32,
    /// What a pattern's name begins with.
    prefix: &'static str,
    /// Every operation is on this one.
    only: Option<File>,
}

impl Files {
    /// None yet.
    pub fn new(block_bytes: u64, logical_bytes: u64) -> Files {
        let (files, folders) = (Vec::new(), Vec::new());
        Files { ops: Vec::new(), block_bytes, logical_bytes, files, folders, patterns: 0, prefix: "p", only: None }
    }

    /// Adds an operation that changes nothing here.
    pub fn op(&mut self, op: Value) {
        self.ops.push(op);
    }

    /// Adds an operation that takes a path alone.
    pub fn on(&mut self, file: File, op: &str) {
        self.op(json!({"op": op, "path": self.name(file)}));
    }

    /// The files that are there, each by one of its names.
    pub fn present(&self) -> Vec<File> {
        (0..self.files.len()).map(File).filter(|file| self.files[file.0].here).collect()
    }

    /// Every name a file has had.
    pub fn all_names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }

    /// From here on every operation is on this one; none: on any.
    pub fn work_on(&mut self, only: Option<File>) {
        self.only = only;
    }

    /// Patterns have names of their own meanwhile, so that those that come later are named as without them.
    pub fn named_apart(&mut self, draw: impl FnOnce(&mut Files)) {
        let before = (std::mem::replace(&mut self.patterns, 0), std::mem::replace(&mut self.prefix, "w"));
        draw(self);
        (self.patterns, self.prefix) = before;
    }

    /// The file is at least so long, and nobody counts on more.
    pub fn forget_growth(&mut self, file: File, bytes: u64) {
        self.files[file.0].bytes = bytes;
    }

    /// One that is there; made if there is none.
    pub fn any(&mut self, stream: &mut Stream) -> File {
        if let Some(only) = self.only {
            return only;
        }
        match &self.present()[..] {
            [] => self.create(),
            present => stream.pick(present),
        }
    }

    /// The size of a file.
    pub fn bytes(&self, file: File) -> u64 {
        self.files[file.0].bytes
    }

    /// Its name.
    pub fn name(&self, file: File) -> &str {
        &self.files[file.0].name
    }

    fn new_name(&self, folder: Option<&String>) -> String {
        let name = format!("f{}", self.files.len());
        folder.map_or(name.clone(), |folder| format!("{folder}/{name}"))
    }

    fn add(&mut self, name: String, bytes: u64) -> File {
        self.files.push(State { name, bytes, here: true });
        File(self.files.len() - 1)
    }

    /// An empty file at the top.
    pub fn create(&mut self) -> File {
        self.create_in(None)
    }

    /// An empty file, in a folder if there is one.
    pub fn create_anywhere(&mut self, stream: &mut Stream) -> File {
        let folder = (!self.folders.is_empty()).then(|| stream.pick(&self.folders));
        self.create_in(folder.as_ref())
    }

    fn create_in(&mut self, folder: Option<&String>) -> File {
        let name = self.new_name(folder);
        self.op(json!({"op": "create", "path": name}));
        self.add(name, 0)
    }

    /// A new folder.
    pub fn mkdir(&mut self) {
        let name = format!("d{}", self.folders.len());
        self.op(json!({"op": "mkdir", "path": name}));
        self.folders.push(name);
    }

    /// Another name; with `over`, that of a file which is gone then.
    pub fn rename(&mut self, stream: &mut Stream, file: File, over: Option<File>) {
        let to = match over {
            Some(over) => self.name(over).to_owned(),
            None => self.new_name((stream.chance(1, 2) && !self.folders.is_empty()).then(|| &self.folders[0])),
        };
        self.op(json!({"op": "rename", "path": self.name(file), "to": to}));
        let bytes = self.bytes(file);
        self.files[file.0].here = false;
        match over {
            Some(over) => self.files[over.0].bytes = bytes,
            None => drop(self.add(to, bytes)),
        }
    }

    /// A second name. Sizes are kept by name, so the first is not drawn any more.
    pub fn link(&mut self, file: File) {
        let to = self.new_name(None);
        self.op(json!({"op": "link", "path": self.name(file), "to": to}));
        let bytes = self.bytes(file);
        self.files[file.0].here = false;
        self.add(to, bytes);
    }

    /// The name goes.
    pub fn unlink(&mut self, file: File) {
        self.on(file, "unlink");
        self.files[file.0].here = false;
    }

    /// Another size.
    pub fn truncate(&mut self, file: File, bytes: u64) {
        self.op(json!({"op": "truncate", "path": self.name(file), "len": bytes}));
        self.files[file.0].bytes = bytes;
    }

    /// Blocks, as an unwritten extent.
    pub fn fallocate(&mut self, file: File, offset: u64, len: u64, keep_size: bool) {
        let mut op = json!({"op": "fallocate", "path": self.name(file), "offset": offset, "len": len});
        if keep_size {
            op["keep_size"] = true.into();
        } else {
            self.grow(file, offset + len);
        }
        self.op(op);
    }

    /// A hole.
    pub fn punch(&mut self, file: File, offset: u64, len: u64) {
        self.op(json!({"op": "punch", "path": self.name(file), "offset": offset, "len": len}));
    }

    /// Writeback of a range, awaited or only started.
    pub fn sync_file_range(&mut self, stream: &mut Stream, file: File, start_only: bool) {
        let (offset, len) = if stream.chance(1, 2) { (0, 0) } else { self.range(stream, self.bytes(file)) };
        let mut op = json!({"op": "sync_file_range", "path": self.name(file), "offset": offset, "len": len});
        if start_only {
            op["start_only"] = true.into();
        }
        self.op(op);
    }

    /// The next pattern's name, as no other write has it.
    fn pattern(&mut self) -> String {
        self.patterns += 1;
        format!("{}{}", self.prefix, self.patterns)
    }

    /// A write, with more keys.
    pub fn write(&mut self, file: File, offset: u64, len: u64, more: &[(&str, Value)]) {
        self.writing("write", file, offset, len, more);
    }

    /// Any operation that writes a range.
    pub fn writing(&mut self, op: &str, file: File, offset: u64, len: u64, more: &[(&str, Value)]) {
        let pattern = self.pattern();
        let mut op = json!({"op": op, "path": self.name(file), "offset": offset, "len": len, "pattern": pattern});
        for (key, value) in more {
            op[*key] = value.clone();
        }
        let end = end_of(&op, offset, len);
        self.grow(file, end);
        self.op(op);
    }

    fn grow(&mut self, file: File, end: u64) {
        let bytes = &mut self.files[file.0].bytes;
        *bytes = (*bytes).max(end);
    }

    /// Reads the whole file.
    pub fn read(&mut self, file: File) {
        self.on(file, "read");
    }

    /// Reads some of it.
    pub fn read_range(&mut self, file: File, offset: u64, len: u64, direct: bool) {
        let mut op = json!({"op": "read", "path": self.name(file), "offset": offset, "len": len});
        if direct {
            op["direct"] = true.into();
        }
        self.op(op);
    }

    /// A size for a file: many small ones, few large ones.
    pub fn size(&self, stream: &mut Stream) -> u64 {
        let most = if stream.chance(1, 16) { LARGEST_BYTES } else { USUAL_BYTES };
        scaled(stream, most / 4096) * 4096
    }

    /// A range that begins inside `bytes` or at its end, in units of pages, blocks, sectors or bytes.
    pub fn range(&self, stream: &mut Stream, bytes: u64) -> (u64, u64) {
        let unit = stream.weighted(&[(6, 4096), (3, self.block_bytes), (1, 512), (1, 1)]);
        let offset = stream.below(bytes / unit + 1) * unit;
        let most = (USUAL_BYTES / 2 / unit).min(4096);
        let len = scaled(stream, most) * unit;
        // A pattern is known by its sectors: a few bytes amid another look like either. A file of its own may be that small.
        (offset, if unit == 1 && bytes > 0 { len + 1024 } else { len })
    }

    /// A range that direct I/O takes.
    pub fn direct_range(&self, stream: &mut Stream, bytes: u64) -> (u64, u64) {
        let unit = stream.weighted(&[(4, 4096), (2, self.block_bytes), (1, 512)]).max(self.logical_bytes);
        let offset = stream.below(bytes / unit + 1) * unit;
        (offset, scaled(stream, USUAL_BYTES / 4 / unit) * unit)
    }

    /// A range that ends inside `bytes`, which is more than nothing.
    pub fn range_within(&self, stream: &mut Stream, bytes: u64) -> (u64, u64) {
        let unit = stream.weighted(&[(4, 4096), (2, self.block_bytes)]);
        let unit = if unit < bytes { unit } else { 1 };
        let offset = stream.below(bytes.div_ceil(unit)) * unit;
        (offset, (scaled(stream, bytes / unit) * unit).min(bytes - offset))
    }

    /// Cuts a range of `len` bytes into calls, so that neighbours do not merge; not too many of them.
    pub fn stride(&self, stream: &mut Stream, len: u64, unit: u64) -> Value {
        let chunk = stream.pick(&[unit, unit, self.block_bytes.max(unit), 4096.max(unit), 4096.max(unit) * 4]);
        let step = chunk * stream.pick(&[2, 2, 3, 4]);
        let step = step.max(len.div_ceil(MOST_CALLS).next_multiple_of(unit));
        let phases = if step == chunk * 2 && len / chunk <= MOST_CALLS { stream.between(1, 2) } else { 1 };
        json!({"chunk": chunk, "step": step, "phases": phases})
    }
}

/// Where the last byte of a drawn write ends: of a stride that stops short, the gaps at the end are not written.
fn end_of(op: &Value, offset: u64, len: u64) -> u64 {
    let Some(stride) = op.get("stride") else { return offset + len };
    let of = |key: &str| stride[key].as_u64().expect("a stride was drawn with it");
    let (chunk, step, phases) = (of("chunk"), of("step"), of("phases"));
    let last_of = |phase: u64| {
        let first = phase * chunk;
        (first < len).then(|| (first + (len - 1 - first) / step * step + chunk).min(len))
    };
    offset + (0..phases).filter_map(last_of).max().unwrap_or(0)
}

/// A number from 1 to `most`, each doubling as likely.
fn scaled(stream: &mut Stream, most: u64) -> u64 {
    let bits = u64::from(most.max(1).ilog2());
    let low = 1 << stream.between(0, bits);
    stream.between(low, (low * 2 - 1).min(most.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Streams;
    use proptest::prelude::*;

    #[test]
    fn a_stride_that_stops_short_ends_where_its_last_call_ends() {
        let end = |len: u64, chunk: u64, step: u64, phases: u64| {
            end_of(&json!({"stride": {"chunk": chunk, "step": step, "phases": phases}}), 100, len)
        };
        assert_eq!(end(16_384, 4096, 8192, 1), 100 + 12_288);
        assert_eq!(end(16_384, 4096, 8192, 2), 100 + 16_384);
        assert_eq!(end(9000, 4096, 8192, 1), 100 + 9000);
        assert_eq!(end(1, 4096, 8192, 2), 101);
        assert_eq!(end_of(&json!({}), 100, 7), 107);
    }

    proptest! {
        #[test]
        fn ranges_lie_where_they_should(seed: u64, bytes in 1..=LARGEST_BYTES) {
            let mut stream = Streams::of(&seed.to_string()).named("t");
            let files = Files::new(1024, 512);
            let (offset, len) = files.range_within(&mut stream, bytes);
            prop_assert!(len > 0 && offset + len <= bytes);
            let (offset, len) = files.range(&mut stream, bytes);
            prop_assert!(len > 0 && offset <= bytes && len <= LARGEST_BYTES);
            let (offset, len) = files.direct_range(&mut stream, bytes);
            prop_assert!(len > 0 && offset <= bytes && offset % 512 == 0 && len % 512 == 0);
        }

        #[test]
        fn a_stride_has_few_calls(seed: u64, len in 1..=LARGEST_BYTES) {
            let mut stream = Streams::of(&seed.to_string()).named("t");
            let stride = Files::new(1024, 512).stride(&mut stream, len, 512);
            let of = |key: &str| stride[key].as_u64().expect("it was drawn");
            prop_assert!(of("chunk") * of("phases") <= of("step"));
            prop_assert!(len.div_ceil(of("step")) * of("phases") <= MOST_CALLS + 2, "{}", stride);
        }
    }
}
