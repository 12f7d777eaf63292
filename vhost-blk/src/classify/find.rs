//! Where on the disk the file system lies: on the whole of it, or in a partition of a GPT or MBR table.
//!
//! What lies there instead is said by name, since "no ext4" helps nobody.

use super::layout::MAGIC;
use super::{Blocks, SECTOR, Unreadable};

/// Logical partitions of an MBR form a chain; a longer one is a loop.
const MAX_PARTITIONS: usize = 128;
/// Partition types of an MBR.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE: u8 = 0xee;

/// A partition, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partition {
    number: u32,
    start: u64,
    end: u64,
}

fn found<T>(text: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Found(text.into()))
}

struct Disk<'d> {
    blocks: &'d dyn Blocks,
    bytes: u64,
}

impl Disk<'_> {
    /// Bytes from there; none where the disk ends before.
    fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, Unreadable> {
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.bytes) {
            return Ok(vec![0; bytes]);
        }
        let mut content = vec![0; bytes];
        self.blocks.read(&mut content, offset).map_err(|error| Unreadable::Host(error.to_string()))?;
        Ok(content)
    }

    fn has(&self, offset: u64, magic: &[u8]) -> Result<bool, Unreadable> {
        Ok(self.read(offset, magic.len())? == magic)
    }

    fn is_ext4(&self, start: u64) -> Result<bool, Unreadable> {
        self.has(start + 1024 + 0x38, &MAGIC.to_le_bytes())
    }

    /// What is there that is no ext4, by the marks that are known.
    fn other(&self, start: u64) -> Result<Option<&'static str>, Unreadable> {
        const MARKS: [(u64, &[u8], &str); 12] = [
            (0, b"LUKS\xba\xbe", "a LUKS container"),
            (512, b"LABELONE", "an LVM physical volume"),
            (0, b"LABELONE", "an LVM physical volume"),
            (1024, b"LABELONE", "an LVM physical volume"),
            (4096, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
            (0, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
            (0, b"XFSB", "XFS"),
            (0x1_0040, b"_BHRfS_M", "btrfs"),
            (4086, b"SWAPSPACE2", "swap space"),
            (1024, b"\x10\x20\xf5\xf2", "F2FS"),
            (3, b"NTFS    ", "NTFS"),
            (82, b"FAT32   ", "FAT"),
        ];
        for (offset, magic, name) in MARKS {
            if self.has(start + offset, magic)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Where the file system begins and ends, in bytes.
pub fn locate(blocks: &dyn Blocks, wanted: Option<u32>) -> Result<(u64, u64), Unreadable> {
    let bytes = blocks.bytes();
    let disk = Disk { blocks, bytes };
    if let Some(number) = wanted {
        let partitions = partitions(&disk)?;
        let numbers: Vec<String> = partitions.iter().map(|partition| partition.number.to_string()).collect();
        return match partitions.iter().find(|partition| partition.number == number) {
            Some(partition) if disk.is_ext4(partition.start)? => Ok((partition.start, partition.end)),
            Some(partition) => found(format!("partition {number} holds {}", what(&disk, partition.start)?)),
            None if numbers.is_empty() => found("the disk has no partitions"),
            None => found(format!("there is no partition {number}; there are {}", numbers.join(", "))),
        };
    }
    if disk.is_ext4(0)? {
        return Ok((0, bytes));
    }
    let partitions = partitions(&disk)?;
    if partitions.is_empty() {
        return found(format!("the disk holds {}", what(&disk, 0)?));
    }
    let mut with_ext4 = Vec::new();
    let mut others = Vec::new();
    for partition in partitions {
        match disk.is_ext4(partition.start)? {
            true => with_ext4.push(partition),
            false => others.push(format!("{} holds {}", partition.number, what(&disk, partition.start)?)),
        }
    }
    match with_ext4[..] {
        [only] => Ok((only.start, only.end)),
        [] => found(format!("none of its partitions is ext4: {}", others.join(", "))),
        _ => {
            let numbers: Vec<String> = with_ext4.iter().map(|partition| partition.number.to_string()).collect();
            let (list, first) = (numbers.join(", "), &numbers[0]);
            found(format!("partitions {list} are ext4; say which: \"filesystem\": {{\"partition\": {first}}}"))
        }
    }
}

fn what(disk: &Disk<'_>, start: u64) -> Result<String, Unreadable> {
    Ok(disk
        .other(start)?
        .map_or("no file system that is known here".to_string(), |name| format!("{name}, which is not ext4")))
}

fn partitions(disk: &Disk<'_>) -> Result<Vec<Partition>, Unreadable> {
    let table = disk.read(0, SECTOR as usize)?;
    if table[510..] != [0x55, 0xaa] {
        return gpt(disk);
    }
    let entries = mbr_entries(&table);
    match entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        true => gpt(disk),
        false => mbr(disk, &entries),
    }
}

/// One of the four entries of a table of an MBR.
struct MbrEntry {
    kind: u8,
    start_sector: u64,
    sectors: u64,
}

fn mbr_entries(table: &[u8]) -> Vec<MbrEntry> {
    let word = |entry: &[u8], at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| entry[at + i])));
    let read = |entry: &[u8]| MbrEntry { kind: entry[4], start_sector: word(entry, 8), sectors: word(entry, 12) };
    table[446..510].chunks_exact(16).map(read).collect()
}

fn mbr(disk: &Disk<'_>, entries: &[MbrEntry]) -> Result<Vec<Partition>, Unreadable> {
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        if EXTENDED.contains(&entry.kind) {
            logical(disk, entry.start_sector, &mut partitions)?;
        } else if entry.kind != 0 {
            partitions.extend(on_disk(disk, number, entry.start_sector * SECTOR, entry.sectors * SECTOR));
        }
    }
    partitions.sort_by_key(|partition| partition.number);
    Ok(partitions)
}

/// The chain of logical partitions, from 5 on: each table has one, and the place of the next table.
fn logical(disk: &Disk<'_>, extended: u64, partitions: &mut Vec<Partition>) -> Result<(), Unreadable> {
    let mut at = extended;
    for number in (5..).take(MAX_PARTITIONS) {
        let table = disk.read(at * SECTOR, SECTOR as usize)?;
        if table[510..] != [0x55, 0xaa] {
            break;
        }
        let entries = mbr_entries(&table);
        let [own, next] = [&entries[0], &entries[1]];
        partitions.extend(on_disk(disk, number, (at + own.start_sector) * SECTOR, own.sectors * SECTOR));
        if next.start_sector == 0 {
            break;
        }
        at = extended + next.start_sector;
    }
    Ok(())
}

fn gpt(disk: &Disk<'_>) -> Result<Vec<Partition>, Unreadable> {
    // Sectors of the table are the disk's own, which the table does not say.
    for sector_bytes in [512, 4096] {
        let header = disk.read(sector_bytes, 512)?;
        if &header[..8] != b"EFI PART" {
            continue;
        }
        let long = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let word = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|i| header[at + i])));
        let (place, count, entry_bytes) = (long(&header, 72), word(80), word(84));
        if !(128..=4096).contains(&entry_bytes) {
            return found("its partition table (GPT) is damaged");
        }
        let mut partitions = Vec::new();
        for number in 0..count.min(MAX_PARTITIONS as u64) {
            let at = place.saturating_mul(sector_bytes).saturating_add(number * entry_bytes);
            let entry = disk.read(at, 128)?;
            let (first, last) = (long(&entry, 32), long(&entry, 40));
            if entry[..16] != [0; 16] && first <= last {
                let bytes = (last - first).saturating_add(1).saturating_mul(sector_bytes);
                partitions.extend(on_disk(disk, number as u32 + 1, first.saturating_mul(sector_bytes), bytes));
            }
        }
        return Ok(partitions);
    }
    Ok(Vec::new())
}

fn on_disk(disk: &Disk<'_>, number: u32, start: u64, bytes: u64) -> Option<Partition> {
    let end = start.checked_add(bytes)?;
    (bytes > 0 && start > 0 && end <= disk.bytes).then_some(Partition { number, start, end })
}
