//! The kernel's own description of its events: where each field lies, and how the ring buffer packs events.
//!
//! Nothing about positions is known in advance. The texts are `events/SYSTEM/NAME/format`, `events/header_page` and
//! `events/header_event` of the guest.

use crate::error::DecodeError;
use std::collections::BTreeMap;

/// One event's layout.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    /// `system/name`.
    pub event: String,
    pub id: u16,
    fields: Vec<Field>,
    print: String,
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    offset: usize,
    size: usize,
    signed: bool,
    data_loc: bool,
    /// Declared as an array without a length: reaches to the end of the record.
    open: bool,
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i128),
    Text(String),
}

impl Format {
    pub(crate) fn parse(event: String, text: &str) -> Result<Self, DecodeError> {
        let wrong = |why: &str| DecodeError::Format { event: event.clone(), why: why.into() };
        let id = text.lines().find_map(|line| line.strip_prefix("ID:")).and_then(|id| id.trim().parse().ok());
        let id = id.ok_or_else(|| wrong("no line `ID: NUMBER`"))?;
        let lines = text.lines().filter(|line| line.trim_start().starts_with("field:"));
        let fields: Option<Vec<_>> = lines.map(parse_field).collect();
        let fields = fields.ok_or_else(|| wrong("a field line that cannot be understood"))?;
        let print = text.lines().find_map(|line| line.strip_prefix("print fmt:")).unwrap_or_default().to_string();
        let format = Format { event: event.clone(), id, fields, print };
        for needed in ["common_type", "common_flags", "common_pid"] {
            format.field(needed).ok_or_else(|| wrong(&format!("no field {needed}")))?;
        }
        Ok(format)
    }

    /// A number field of a record; `None` if the format has no such field or the record is too short for it.
    pub(crate) fn number(&self, record: &[u8], name: &str) -> Option<i128> {
        read_number(record, self.field(name)?)
    }

    /// A text field of a record, up to its first zero byte.
    pub(crate) fn text(&self, record: &[u8], name: &str) -> Option<String> {
        read_text(record, self.field(name)?)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// Every field of a record but the common ones.
    pub(crate) fn values(&self, record: &[u8]) -> BTreeMap<String, Value> {
        let own =
            self.fields.iter().filter(|field| !field.name.starts_with("common_") && !field.name.starts_with("__probe"));
        let value = |field: &Field| {
            let text = field.data_loc || field.open || !matches!(field.size, 1 | 2 | 4 | 8);
            let number = || read_number(record, field).map(Value::Number);
            if text || field.name == "rwbs" { read_text(record, field).map(Value::Text) } else { number() }
        };
        own.filter_map(|field| Some((field.name.clone(), value(field)?))).collect()
    }

    /// Value of a flag as the print format lists it: `{ 0x0400, "IO_SUBMIT" }`.
    pub(crate) fn flag(&self, name: &str) -> Option<u64> {
        let (before, _) = self.print.split_once(&format!("\"{name}\""))?;
        let number = before.rsplit_once('{')?.1.trim().trim_end_matches(',').trim();
        match number.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        }
    }

    /// Writes a number or a text into a record, lengthening it if need be. Panics on a field that is not there.
    #[cfg(test)]
    pub(crate) fn write(&self, record: &mut Vec<u8>, name: &str, value: &Value) {
        let field = self.field(name).unwrap_or_else(|| panic!("{} has no field {name}", self.event));
        let bytes = match value {
            Value::Number(number) => number.to_le_bytes()[..field.size].to_vec(),
            Value::Text(text) => [text.as_bytes(), b"\0"].concat(),
        };
        record.resize(record.len().max(field.offset + field.size.max(bytes.len())), 0);
        record[field.offset..][..bytes.len()].copy_from_slice(&bytes);
    }

    fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// `field:unsigned short common_type; offset:0; size:2; signed:0;`, tabs between
fn parse_field(line: &str) -> Option<Field> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse::<usize>().ok();
    let (offset, size, signed) = (number("offset:")?, number("size:")?, number("signed:")? == 1);
    let last = declaration.split_whitespace().next_back()?;
    let name = last.split('[').next()?.trim_start_matches('*').to_string();
    let data_loc = declaration.starts_with("__data_loc") || declaration.starts_with("__rel_loc");
    Some(Field { name, offset, size, signed, data_loc, open: last.ends_with("[]") && !data_loc })
}

fn read_number(record: &[u8], field: &Field) -> Option<i128> {
    let bytes = record.get(field.offset..field.offset.checked_add(field.size)?)?;
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(wide);
    let unused = 64 - 8 * bytes.len() as u32;
    Some(if field.signed { i128::from((value << unused) as i64 >> unused) } else { i128::from(value) })
}

fn read_text(record: &[u8], field: &Field) -> Option<String> {
    let bytes = if field.data_loc {
        let place = read_number(record, field)? as u64;
        let (offset, len) = ((place & 0xffff) as usize, (place >> 16 & 0xffff) as usize);
        record.get(offset..offset + len)?
    } else if field.open {
        record.get(field.offset..)?
    } else {
        record.get(field.offset..field.offset.checked_add(field.size)?)?
    };
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Layout of a ring-buffer page's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLayout {
    pub timestamp: usize,
    pub commit: usize,
    pub commit_size: usize,
    pub data: usize,
    pub data_size: usize,
}

impl PageLayout {
    pub(crate) fn parse(text: &str) -> Result<Self, DecodeError> {
        let wrong = |why: &str| DecodeError::Format { event: "header_page".into(), why: why.into() };
        let fields: Option<Vec<_>> = text.lines().filter(|line| line.contains("field:")).map(parse_field).collect();
        let fields = fields.ok_or_else(|| wrong("a field line that cannot be understood"))?;
        let find = |name: &str| {
            fields.iter().find(|field| field.name == name).ok_or_else(|| wrong(&format!("no field {name}")))
        };
        let (timestamp, commit, data) = (find("timestamp")?, find("commit")?, find("data")?);
        let sound =
            timestamp.size == 8 && matches!(commit.size, 4 | 8) && data.offset >= commit.offset.saturating_add(4);
        if !sound || data.offset > 4096 || timestamp.offset > 4096 || data.size > 1 << 20 {
            return Err(wrong("field sizes that no kernel has"));
        }
        Ok(PageLayout {
            timestamp: timestamp.offset,
            commit: commit.offset,
            commit_size: commit.size,
            data: data.offset,
            data_size: data.size,
        })
    }
}

/// Layout of an event's head: 5 bits of type or length, 27 bits of time, in one word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordLayout {
    pub type_bits: u32,
    pub padding: u32,
    pub time_extend: u32,
    pub time_stamp: u32,
    pub max_data: u32,
}

impl RecordLayout {
    pub(crate) fn parse(text: &str) -> Result<Self, DecodeError> {
        let wrong = |what: &str| DecodeError::Format { event: "header_event".into(), why: format!("no {what}") };
        // `type_len    :    5 bits`, `padding     : type == 29`, `data max type_len  == 28`
        let number = |prefix: &str, mark: &str| {
            let line = text.lines().map(str::trim).find(|line| line.starts_with(prefix));
            let rest = line.and_then(|line| line.rsplit_once(mark)).map(|(_, rest)| rest.trim());
            let digits = rest.and_then(|rest| rest.split_whitespace().next());
            digits.and_then(|digits| digits.parse::<u32>().ok()).ok_or_else(|| wrong(prefix))
        };
        let type_bits = number("type_len", ":")?;
        if type_bits == 0 || type_bits + number("time_delta", ":")? != 32 {
            return Err(wrong("word of 32 bits made of type_len and time_delta"));
        }
        Ok(RecordLayout {
            type_bits,
            padding: number("padding", "==")?,
            time_extend: number("time_extend", "==")?,
            time_stamp: number("time_stamp", "==")?,
            max_data: number("data max type_len", "==")?,
        })
    }
}
