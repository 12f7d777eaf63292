//! The past of a block: what the disk holds where no file ever wrote.
//!
//! Before a run every free block is filled with its own number and the run's nonce. If such
//! bytes come back from a file, they are stale data, and they say from which block, even when
//! only one 512-byte unit of it is seen.

/// Bytes of the unit that is recognised on its own; a disk sector.
pub const UNIT_BYTES: usize = 512;

/// The 512-byte unit of the disk that says whose past it holds, as a unit of block 0: sector 1, between the first sector,
/// which is for a boot loader, and the superblock at 1024, whatever the file system's block size. No file can ever own it.
pub const NONCE_UNIT: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"PASTBLK\n");

/// Whose past a unit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Past {
    /// The run's nonce.
    pub nonce: u64,
    /// The file system block that was filled.
    pub block: u64,
    /// Which 512-byte unit of that block.
    pub unit: u32,
}

/// Fills `buf`, one whole file system block, with the past of `block`.
///
/// # Panics
///
/// If `buf` is not a whole number of 512-byte units.
pub fn fill(nonce: u64, block: u64, buf: &mut [u8]) {
    let (units, rest) = buf.as_chunks_mut::<UNIT_BYTES>();
    assert!(rest.is_empty(), "a block is a whole number of 512-byte units");
    for (unit, bytes) in (0u32..).zip(units) {
        fill_unit(Past { nonce, block, unit }, bytes);
    }
}

/// What [`NONCE_UNIT`] holds.
#[must_use]
pub fn nonce_unit(nonce: u64) -> [u8; UNIT_BYTES] {
    let mut unit = [0; UNIT_BYTES];
    fill_unit(Past { nonce, block: 0, unit: NONCE_UNIT }, &mut unit);
    unit
}

/// Says whose past the 512-byte `unit` holds, if every byte of it fits.
#[must_use]
pub fn recognise(unit: &[u8]) -> Option<Past> {
    let (words, rest) = unit.as_chunks::<8>();
    if unit.len() != UNIT_BYTES || !rest.is_empty() || u64::from_le_bytes(words[0]) != MAGIC {
        return None;
    }
    let index = u32::try_from(u64::from_le_bytes(words[3])).ok()?;
    let past = Past { nonce: u64::from_le_bytes(words[1]), block: u64::from_le_bytes(words[2]), unit: index };
    let mut expected = [0; UNIT_BYTES];
    fill_unit(past, &mut expected);
    (expected[..] == *unit).then_some(past)
}

fn fill_unit(past: Past, bytes: &mut [u8; UNIT_BYTES]) {
    let head = [MAGIC, past.nonce, past.block, u64::from(past.unit)];
    let salt = past.nonce ^ past.block.rotate_left(20) ^ u64::from(past.unit);
    let words = bytes.as_chunks_mut::<8>().0;
    for (i, word) in words.iter_mut().enumerate() {
        *word = salt.wrapping_add(i as u64).to_le_bytes();
    }
    for (word, head) in words.iter_mut().zip(head) {
        *word = head.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_a_filled_block_names_its_block() {
        let mut block = [0; 4096];
        fill(7, 1813, &mut block);
        let found: Vec<_> = block.chunks(UNIT_BYTES).map(recognise).collect();
        let expected: Vec<_> = (0..8).map(|unit| Some(Past { nonce: 7, block: 1813, unit })).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn one_changed_byte_anywhere_is_no_longer_the_past() {
        let mut unit = [0; UNIT_BYTES];
        fill(7, 1, &mut unit);
        for at in 0..UNIT_BYTES {
            let mut torn = unit;
            torn[at] ^= 1;
            // A flipped bit in the numbers themselves gives another block's head over this one's body.
            assert_eq!(recognise(&torn), None, "byte {at}");
        }
    }

    #[test]
    fn zeros_and_short_pieces_are_not_the_past() {
        assert_eq!(recognise(&[0; UNIT_BYTES]), None);
        assert_eq!(recognise(&[0; 100]), None);
    }
}
