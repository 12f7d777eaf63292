//! Enough of BTF to find a struct member's offset by its path and an enumerator's value by its name.
//!
//! Layout as in the kernel's documentation of the BTF type format: a header, then types numbered from 1, then strings. Only
//! 64-bit little-endian kernels are read here. Every index and length is checked: the image comes from outside.

use crate::error::FactsError;
use std::collections::BTreeMap;

const MAGIC: u16 = 0xeb9f;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_ENUM64: u32 = 19;

/// Parsed type information: where each type begins, and the bytes themselves.
pub(crate) struct Btf<'a> {
    bytes: &'a [u8],
    types: Vec<usize>,
    /// Structs by name. A kernel can have several of one name, private to different files.
    structs: BTreeMap<&'a [u8], Vec<u32>>,
    strings: std::ops::Range<usize>,
}

/// One type's head, and where what follows it begins.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    vlen: u32,
    kind: u32,
    kind_flag: bool,
    size_or_type: u32,
    body: usize,
}

impl<'a> Btf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, FactsError> {
        let damaged = |at, what| FactsError::DamagedBtf { at, what };
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(damaged(0, "the magic number is not BTF's"));
        }
        let word = |at| read_u32(bytes, at).map(|value| value as usize);
        let header_len = word(4)?;
        let types = section(bytes, header_len, word(8)?, word(12)?)?;
        let strings = section(bytes, header_len, word(16)?, word(20)?)?;
        let mut btf = Btf { bytes, types: Vec::new(), structs: BTreeMap::new(), strings };
        let mut at = types.start;
        while at < types.end {
            let head = btf.head(at)?;
            btf.types.push(at);
            if head.kind == KIND_STRUCT {
                let id = btf.types.len() as u32;
                btf.structs.entry(btf.string(head.name)?).or_default().push(id);
            }
            at = head.body + body_len(&head).ok_or(damaged(at, "a type of a kind this program does not know"))?;
        }
        if at != types.end {
            return Err(damaged(at, "the last type reaches past the end"));
        }
        Ok(btf)
    }

    /// Byte offset of `members` (`["b_iter", "bi_sector"]`) within struct `name`, unnamed members looked through.
    pub(crate) fn offset(&self, name: &str, members: &[&str]) -> Result<u32, FactsError> {
        let missing = || FactsError::NoField { path: format!("{name}.{}", members.join(".")) };
        let mut found = None;
        for &id in self.structs.get(name.as_bytes()).into_iter().flatten() {
            found = found.or(self.walk(id, members)?);
        }
        found.ok_or_else(missing)
    }

    /// Value of an enumerator, of whichever enum.
    pub(crate) fn enumerator(&self, name: &str) -> Result<u64, FactsError> {
        for &at in &self.types {
            let head = self.head(at)?;
            let width = match head.kind {
                KIND_ENUM => 8,
                KIND_ENUM64 => 12,
                _ => continue,
            };
            for index in 0..head.vlen as usize {
                let at = head.body + index * width;
                if self.string(read_u32(self.bytes, at)?)? == name.as_bytes() {
                    let low = u64::from(read_u32(self.bytes, at + 4)?);
                    let high = if head.kind == KIND_ENUM64 { u64::from(read_u32(self.bytes, at + 8)?) } else { 0 };
                    return Ok(high << 32 | low);
                }
            }
        }
        Err(FactsError::NoField { path: format!("enumerator {name}") })
    }

    /// Offset of a member path within type `id`; `None` if the type has no such member.
    fn walk(&self, id: u32, members: &[&str]) -> Result<Option<u32>, FactsError> {
        let Some((first, rest)) = members.split_first() else { return Ok(Some(0)) };
        // Types that contain themselves do not exist; damaged bytes could say so all the same.
        self.member(id, first, 6)?
            .map_or(Ok(None), |(offset, inner)| Ok(self.walk(inner, rest)?.map(|deeper| offset.saturating_add(deeper))))
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Result<Option<(u32, u32)>, FactsError> {
        let head = self.resolve(id)?;
        if depth == 0 || !matches!(head.kind, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        for index in 0..head.vlen as usize {
            let at = head.body + index * 12;
            let (member_name, inner) = (read_u32(self.bytes, at)?, read_u32(self.bytes, at + 4)?);
            let bits = read_u32(self.bytes, at + 8)?;
            let offset = if head.kind_flag { bits & 0xff_ffff } else { bits } / 8;
            if self.string(member_name)? == name.as_bytes() {
                return Ok(Some((offset, inner)));
            }
            let unnamed = self.string(member_name)?.is_empty();
            if unnamed && let Some((deeper, found)) = self.member(inner, name, depth - 1)? {
                return Ok(Some((offset.saturating_add(deeper), found)));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<Type, FactsError> {
        for _ in 0..32 {
            let head = self.get(id)?;
            // typedef, volatile, const, restrict, type tag
            if !matches!(head.kind, 8..=11 | 18) {
                return Ok(head);
            }
            id = head.size_or_type;
        }
        Err(FactsError::DamagedBtf { at: 0, what: "a chain of typedefs without an end" })
    }

    fn get(&self, id: u32) -> Result<Type, FactsError> {
        let missing = FactsError::DamagedBtf { at: 0, what: "a type number that does not exist" };
        let index = (id as usize).checked_sub(1);
        self.head(*index.and_then(|index| self.types.get(index)).ok_or(missing)?)
    }

    fn head(&self, at: usize) -> Result<Type, FactsError> {
        let info = read_u32(self.bytes, at + 4)?;
        Ok(Type {
            name: read_u32(self.bytes, at)?,
            vlen: info & 0xffff,
            kind: info >> 24 & 0x1f,
            kind_flag: info >> 31 == 1,
            size_or_type: read_u32(self.bytes, at + 8)?,
            body: at + 12,
        })
    }

    fn string(&self, offset: u32) -> Result<&'a [u8], FactsError> {
        let all = &self.bytes[self.strings.clone()];
        let tail = all
            .get(offset as usize..)
            .ok_or(FactsError::DamagedBtf { at: offset as usize, what: "a name outside the string section" })?;
        Ok(tail.split(|&byte| byte == 0).next().unwrap_or_default())
    }
}

/// Bytes that follow a type's head, by kind.
fn body_len(head: &Type) -> Option<usize> {
    let vlen = head.vlen as usize;
    Some(match head.kind {
        1 | 14 | 17 => 4,          // integer, variable, declaration tag
        2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef, qualifiers, function, float, type tag
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_ENUM64 => vlen * 12,
        15 => vlen * 12,            // data section
        KIND_ENUM | 13 => vlen * 8, // 13: function prototype
        _ => return None,
    })
}

fn section(bytes: &[u8], header: usize, offset: usize, len: usize) -> Result<std::ops::Range<usize>, FactsError> {
    let start = header.checked_add(offset);
    let range = start.and_then(|start| Some(start..start.checked_add(len)?));
    range
        .filter(|range| range.end <= bytes.len())
        .ok_or(FactsError::DamagedBtf { at: 8, what: "a section that reaches past the end" })
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, FactsError> {
    let word = at.checked_add(4).and_then(|end| bytes.get(at..end));
    let word = word.and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).ok_or(FactsError::DamagedBtf { at, what: "it ends here" })
}
