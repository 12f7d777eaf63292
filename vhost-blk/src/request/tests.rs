use fault_injection::DeviceLimits;
use vm_memory::Bytes;

use super::*;

fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("guest memory")
}

#[test]
fn bytes_are_gathered_from_any_offset_over_any_cut() {
    let memory = memory();
    memory.write_slice(b"abcdefghij", GuestAddress(100)).expect("guest memory");
    let scattered = GuestBuffer::of(&[(108, 2), (100, 3), (105, 1)]);
    for offset in 0..=6u64 {
        for length in 0..=(6 - offset as usize) {
            let mut got = vec![0; length];
            scattered.read(&memory, offset, &mut got).expect("inside");
            assert_eq!(got, b"ijabcf"[offset as usize..offset as usize + length]);
        }
    }
    assert_eq!(scattered.read(&memory, 4, &mut [0; 3]), Err(MemoryGone), "one byte too many");
}

#[test]
fn splitting_off_keeps_every_byte_once() {
    for at in 0..=6 {
        let mut head = GuestBuffer::of(&[(10, 2), (20, 3), (30, 1)]);
        let tail = head.split_off(at);
        assert_eq!((head.bytes(), tail.bytes()), (at, 6 - at));
        let addresses = |b: &GuestBuffer| b.parts.iter().flat_map(|(a, l)| a.0..a.0 + l).collect::<Vec<_>>();
        assert_eq!([addresses(&head), addresses(&tail)].concat(), [10, 11, 20, 21, 22, 30]);
    }
}

#[test]
fn header_and_status_are_cut_off_whatever_parts_they_share() {
    let addresses = |b: &GuestBuffer| b.parts.iter().flat_map(|(a, l)| a.0..a.0 + l).collect::<Vec<_>>();
    for parts in [&[(10, 16), (50, 4), (90, 1)][..], &[(10, 17), (51, 4)], &[(10, 7), (17, 9), (50, 5)], &[(10, 16)]] {
        let (mut front, mut back) = (GuestBuffer::of(parts), GuestBuffer::of(parts));
        let all = addresses(&front);
        front.cut_front(16);
        assert_eq!((addresses(&front), front.bytes()), (all[16..].to_vec(), all.len() as u64 - 16), "{parts:?}");
        back.cut_last_byte();
        assert_eq!(
            (addresses(&back), back.bytes()),
            (all[..all.len() - 1].to_vec(), all.len() as u64 - 1),
            "{parts:?}"
        );
    }
    let mut none = GuestBuffer::default();
    none.cut_last_byte();
    assert_eq!(none.bytes(), 0);
}

#[test]
fn ranges_are_whole_blocks_that_a_disk_could_have_or_are_refused() {
    let limits = DeviceLimits { logical_block_bytes: Some(1024), ..Default::default() };
    let offer = Offer::new(64, 512, 1, false, &limits);
    let ask = |sector, sectors| on_disk(Range { sector, sectors }, &offer).is_ok();
    assert!(ask(0, 64) && ask(62, 2) && ask(62, 4), "the end is looked for with the place in the arrival order");
    for (sector, sectors) in [(0, 0), (1, 2), (0, 1), (MAX_SECTORS, 2), (u64::MAX - 1, 2), (u64::MAX, u64::MAX)] {
        assert!(!ask(sector, sectors), "{sector}+{sectors}");
    }
}

#[test]
fn ranges_overlap_when_they_share_a_sector_and_not_when_they_touch() {
    let range = |sector, sectors| Range { sector, sectors };
    assert!(range(0, 4).overlaps(&range(3, 1)) && range(3, 1).overlaps(&range(0, 4)));
    assert!(!range(0, 4).overlaps(&range(4, 1)) && !range(4, 1).overlaps(&range(0, 4)));
}

#[test]
fn the_status_byte_is_the_last_writable_one_or_nowhere() {
    let memory = memory();
    let at = |parts: &[(u64, u64)]| status_in_memory(&GuestBuffer::of(parts), &memory);
    assert_eq!(at(&[(100, 4), (0xfffe, 2)]), Some(GuestAddress(0xffff)));
    assert_eq!(at(&[(u64::MAX, 2), (100, 1)]), Some(GuestAddress(100)), "what comes before it is not asked");
    assert_eq!(at(&[]), None);
    assert_eq!(at(&[(0xfff0, 0x11)]), None, "one byte behind the memory");
    assert_eq!(at(&[(u64::MAX - 0x1ff, 0x1000)]), None, "addresses do not begin again at 0");
}
