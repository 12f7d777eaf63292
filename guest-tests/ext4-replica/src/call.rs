//! A replica call: one JSON object becomes one typed value, or an error that names the field.
//!
//! Fields are read into one flat struct, and a table says which of them a call has. That a number is in its range is
//! settled here too; whether what it names is there depends on what came before, and is asked in `calls.rs`.

use crate::extents::{Extent, MAX_LEN};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use writeback_events::{BioId, Errno, Ino};

/// The largest file block number, and the largest block number on a disk, that ext4 can express.
const MAX_LBLK: u64 = u32::MAX as u64;
const MAX_PBLK: u64 = (1 << 48) - 1;
/// The largest errno there is.
const MAX_ERRNO: i64 = 4095;

/// One call, ready to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/replica.md has a table of all calls and their fields")]
pub enum Call {
    Inode { ino: Ino, block_bits: u32, size: u64, extents: Vec<Extent> },
    Device { max_pages: u32 },
    Dirty { ino: Ino, lblk: u64, len: u64 },
    SubmitRange { ino: Ino, first_page: u64, next_page: u64, sync: bool, fail_alloc: bool, race_error: Option<Errno> },
    Writepage { ino: Ino, page: u64, sync: bool, fail_alloc: bool },
    EndBio { bio: BioId, error: Errno },
    RunWork { ino: Ino },
    FlushCompleted { ino: Ino },
    FailConvert { ino: Ino, errors: Vec<Errno> },
    DioSubmit { ino: Ino, offset: u64, len: u64, is_async: bool, fail_alloc: bool },
    DioEnd { iocb: u32, offset: u64, bytes: u64, ret: i64, is_async: bool },
    DioReturn { iocb: u32, ret: i64 },
    State,
}

/// Why a line is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The line is no JSON object.
    #[error("not a JSON object: {0}")]
    NotAnObject(String),
    /// Something is wrong with one field.
    #[error("field `{field}`: {why}")]
    Field {
        /// The field, as it stands in the line; of a list with the place within.
        field: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An error about one field.
pub(crate) fn refuse<T>(field: &str, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Field { field: field.into(), why: why.into() })
}

macro_rules! fields {
    ($($name:ident $(= $key:literal)?: $type:ty),* $(,)?) => {
        /// A line's fields, whichever call they belong to.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            #[serde(borrow)]
            call: Cow<'a, str>,
            $($(#[serde(rename = $key)])? #[serde(default, deserialize_with = "present")] $name: Option<$type>,)*
        }

        impl Fields<'_> {
            /// The first field that is there and that this call does not have.
            fn stranger(&self, allowed: &[&str]) -> Option<&'static str> {
                $(if self.$name.is_some() && !allowed.contains(&fields!(@key $name $($key)?)) {
                    return Some(fields!(@key $name $($key)?));
                })*
                None
            }
        }
    };
    (@key $name:ident $key:literal) => { $key };
    (@key $name:ident) => { stringify!($name) };
}

fields! {
    ino: u64, block_bits: u64, size: u64, extents: Vec<Extent>, max_pages: u64, lblk: u64, len: u64,
    first_page: u64, next_page: u64, page: u64, sync: bool, fail_alloc: bool, race_error: i64,
    bio: u64, error: i64, errors: Vec<i64>, offset: u64, is_async = "async": bool, iocb: u64, bytes: u64, ret: i64,
}

/// A field that is there has a value: null is none.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Fields of each call.
fn allowed(call: &str) -> Option<&'static [&'static str]> {
    Some(match call {
        "inode" => &["ino", "block_bits", "size", "extents"],
        "device" => &["max_pages"],
        "dirty" => &["ino", "lblk", "len"],
        "submit_range" => &["ino", "first_page", "next_page", "sync", "fail_alloc", "race_error"],
        "writepage" => &["ino", "page", "sync", "fail_alloc"],
        "end_bio" => &["bio", "error"],
        "run_work" | "flush_completed" => &["ino"],
        "fail_convert" => &["ino", "errors"],
        "dio_submit" => &["ino", "offset", "len", "async", "fail_alloc"],
        "dio_end" => &["iocb", "offset", "bytes", "ret", "async"],
        "dio_return" => &["iocb", "ret"],
        "state" => &[],
        _ => return None,
    })
}

impl Call {
    /// Reads one line.
    pub fn from_json(line: &[u8]) -> Result<Call, Refused> {
        match serde_json::from_slice::<Fields>(line) {
            Ok(fields) => Call::from_fields(fields),
            Err(_) => Err(why_not(line)),
        }
    }

    fn from_fields(fields: Fields) -> Result<Call, Refused> {
        let call = fields.call.as_ref();
        let Some(allowed) = allowed(call) else { return refuse("call", format!("no call is named {call:?}")) };
        if let Some(field) = fields.stranger(allowed) {
            return refuse(field, format!("`{call}` has no such field"));
        }
        let must = |field, value: Option<u64>| value.ok_or(()).or_else(|()| refuse(field, "missing"));
        let ino = || must("ino", fields.ino).map(Ino);
        let (sync, fail_alloc) = (fields.sync.unwrap_or(false), fields.fail_alloc.unwrap_or(false));
        let is_async = fields.is_async.unwrap_or(false);
        Ok(match call {
            "inode" => return inode(ino()?, fields),
            "device" => {
                let max_pages = at_least_1("max_pages", must("max_pages", fields.max_pages)?)?;
                Call::Device { max_pages: u32::try_from(max_pages).unwrap_or(u32::MAX) }
            }
            "dirty" => {
                let lblk = must("lblk", fields.lblk)?;
                Call::Dirty { ino: ino()?, lblk, len: at_least_1("len", must("len", fields.len)?)? }
            }
            "submit_range" => Call::SubmitRange {
                ino: ino()?,
                first_page: must("first_page", fields.first_page)?,
                next_page: must("next_page", fields.next_page)?,
                sync,
                fail_alloc,
                race_error: fields.race_error.map(|error| errno("race_error", error, -1)).transpose()?,
            },
            "writepage" => Call::Writepage { ino: ino()?, page: must("page", fields.page)?, sync, fail_alloc },
            "end_bio" => {
                let bio = id("bio", must("bio", fields.bio)?)?;
                Call::EndBio { bio: BioId(bio), error: errno("error", signed("error", fields.error)?, 0)? }
            }
            "run_work" => Call::RunWork { ino: ino()? },
            "flush_completed" => Call::FlushCompleted { ino: ino()? },
            "fail_convert" => Call::FailConvert { ino: ino()?, errors: errors(fields.errors)? },
            "dio_submit" => {
                let (offset, len) = (must("offset", fields.offset)?, must("len", fields.len)?);
                Call::DioSubmit { ino: ino()?, offset, len: at_least_1("len", len)?, is_async, fail_alloc }
            }
            "dio_end" => {
                let (iocb, bytes) = (id("iocb", must("iocb", fields.iocb)?)?, must("bytes", fields.bytes)?);
                let offset = must("offset", fields.offset)?;
                let ret = fields.ret.map_or_else(|| fits("bytes", bytes), Ok)?;
                Call::DioEnd { iocb, offset, bytes, ret, is_async }
            }
            "dio_return" => {
                Call::DioReturn { iocb: id("iocb", must("iocb", fields.iocb)?)?, ret: signed("ret", fields.ret)? }
            }
            _ => Call::State,
        })
    }
}

fn inode(ino: Ino, fields: Fields) -> Result<Call, Refused> {
    let Some(bits) = fields.block_bits else { return refuse("block_bits", "missing") };
    let Some(size) = fields.size else { return refuse("size", "missing") };
    let Some(extents) = fields.extents else { return refuse("extents", "missing") };
    if !(10..=12).contains(&bits) {
        return refuse("block_bits", format!("{bits} is not in 10..=12"));
    }
    let max = (MAX_LBLK + 1) << bits;
    if size > max {
        return refuse("size", format!("{size} is more than the {max} bytes that 32-bit block numbers reach"));
    }
    let mut free_from = 0;
    for (place, extent) in extents.iter().enumerate() {
        let Extent { lblk, len, pblk, unwritten } = *extent;
        let field = |name: &str| format!("extents[{place}].{name}");
        let max_len = if unwritten { MAX_LEN - 1 } else { MAX_LEN };
        if !(1..=max_len).contains(&len) {
            return refuse(&field("len"), format!("{len} is not in 1..={max_len}"));
        }
        if lblk < free_from {
            return refuse(
                &field("lblk"),
                format!("{lblk} is not behind the extent before it, which ends at {free_from}"),
            );
        }
        if lblk.saturating_add(u64::from(len)) > MAX_LBLK + 1 {
            return refuse(&field("lblk"), format!("{lblk} with {len} blocks is past the last file block, {MAX_LBLK}"));
        }
        if pblk.saturating_add(u64::from(len)) > MAX_PBLK + 1 {
            return refuse(&field("pblk"), format!("{pblk} with {len} blocks is past the last block, {MAX_PBLK}"));
        }
        free_from = lblk + u64::from(len);
    }
    Ok(Call::Inode { ino, block_bits: bits as u32, size, extents })
}

fn signed(field: &str, value: Option<i64>) -> Result<i64, Refused> {
    value.ok_or(()).or_else(|()| refuse(field, "missing"))
}

fn errors(errors: Option<Vec<i64>>) -> Result<Vec<Errno>, Refused> {
    let Some(errors) = errors else { return refuse("errors", "missing") };
    errors.into_iter().enumerate().map(|(place, error)| errno(&format!("errors[{place}]"), error, 0)).collect()
}

/// A negative errno, or 0 where `highest` is 0.
fn errno(field: &str, value: i64, highest: i64) -> Result<Errno, Refused> {
    let what = if highest == 0 { "0 or a negative errno" } else { "a negative errno" };
    match i32::try_from(value) {
        Ok(errno) if (-MAX_ERRNO..=highest).contains(&value) => Ok(errno),
        _ => refuse(field, format!("{value} is not {what} (-1 to -{MAX_ERRNO})")),
    }
}

fn at_least_1(field: &str, value: u64) -> Result<u64, Refused> {
    if value == 0 { refuse(field, "0 is less than 1") } else { Ok(value) }
}

/// An id that no one can have is one that is not there.
fn id(field: &str, value: u64) -> Result<u32, Refused> {
    u32::try_from(value).or_else(|_| refuse(field, format!("{field} {value} is not there")))
}

fn fits(field: &str, value: u64) -> Result<i64, Refused> {
    i64::try_from(value).or_else(|_| refuse(field, format!("{value} is more than {}", i64::MAX)))
}

/// Reads a refused line once more, slowly, to say what is wrong and where.
fn why_not(line: &[u8]) -> Refused {
    let value: serde_json::Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => return Refused::NotAnObject(error.to_string()),
    };
    if !value.is_object() {
        return Refused::NotAnObject(format!("it is {}", kind(&value)));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    match serde_path_to_error::deserialize::<_, Fields>(&mut deserializer) {
        Ok(_) => Refused::NotAnObject("something follows the object".into()),
        Err(error) => {
            let why = plain(&error.inner().to_string());
            let path = error.path().to_string();
            // Of a field that is missing, or there twice, the path does not say which.
            let named = why.split('`').nth(1).filter(|_| !why.starts_with("invalid")).map(str::to_owned);
            let field = match (path.as_str(), named) {
                (".", Some(name)) => name,
                (path, Some(name)) if !path.ends_with(&name) => format!("{path}.{name}"),
                (path, _) => path.to_owned(),
            };
            Refused::Field { field, why }
        }
    }
}

/// Without the place in the text: a line is one object.
fn plain(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}
