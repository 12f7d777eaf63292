//! The plan on a "kernel" of our own (testdata/tiny-kernel.c), whose structs are laid out unlike any real one's.

use super::*;
use object::{Object, ObjectSymbol};

const KERNEL: &[u8] = include_bytes!("../../testdata/tiny-kernel.elf");

fn symbols(leave_out: &[&str]) -> Vec<SymbolAddress> {
    let file = object::File::parse(KERNEL).expect("an ELF file");
    let mut all: Vec<(u64, String)> = file
        .symbols()
        .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_string())))
        .filter(|(address, _)| (0x100_0000..0x100_0100).contains(address))
        .collect();
    all.sort();
    let ends: Vec<u64> = all.iter().skip(1).map(|(address, _)| *address).collect();
    let pairs = all.into_iter().zip(ends);
    let made = pairs.map(|((address, name), end)| SymbolAddress { name, address, end });
    made.filter(|symbol| !leave_out.contains(&symbol.name.as_str())).collect()
}

fn facts() -> KernelFacts {
    KernelFacts::from_vmlinux(KERNEL).expect("its BTF is whole")
}

fn function(name: &str) -> Function {
    let all = symbols(&[]);
    let symbol = all.iter().find(|symbol| symbol.name == name).expect("there is such a function");
    Function::decode(KERNEL, name, symbol.address, symbol.end, None).expect("it can be decoded")
}

#[test]
fn every_offset_comes_from_the_kernels_own_types() {
    let facts = facts();
    assert_eq!((facts.io_end_inode, facts.io_end_flag, facts.io_end_count), (0, 8, 12), "through const and refcount_t");
    assert_eq!((facts.inode_sb, facts.inode_ino, facts.sb_dev), (8, 16, 20));
    assert_eq!((facts.bio_status, facts.bio_sector, facts.bio_size, facts.bio_private), (4, 5, 13, 24));
    assert_eq!((facts.folio_mapping, facts.folio_index), (8, 16), "through unnamed unions and structs");
    assert_eq!((facts.inode_to_work, facts.work_to_ino), (32, -16), "the work lies behind the inode around it");
    assert_eq!((facts.req_sync_bit, facts.bh_unwritten_bit, facts.wb_sync_all), (11, 12, 1));
    assert_eq!(facts.large_folio, None);
}

#[test]
fn the_probes_are_set_behind_entries_at_returns_and_behind_atomic_steps() {
    let plan = plan(&facts(), KERNEL, &symbols(&[])).expect("everything is there");
    let lines = plan.kprobe_events.join("\n");
    assert_eq!(
        lines,
        "\
p:io/init ext4_init_io_end+15 io_end=%ax:x64 count=+12(%ax):u32 flag=+8(%ax):x32 inode=+0(%ax):x64 ino=+16(+0(%ax)):u64
p:io/init1 ext4_init_io_end+18 io_end=%ax:x64 count=+12(%ax):u32 flag=+8(%ax):x32 inode=+0(%ax):x64 ino=+16(+0(%ax)):u64
p:io/release ext4_release_io_end+5 io_end=%di:x64 count=+12(%di):u32 flag=+8(%di):x32
p:io/folio ext4_bio_write_page+5 io_end=+8(%di):x64 index=+16(%si):u64 ino=+16(+8(+8(%si))):u64
p:io/get ext4_bio_write_page+20 io_end=%r14:x64 old=%dx:u32 flag=+8(%r14):x32
p:io/put_in ext4_put_io_end+5 io_end=%di:x64 count=+12(%di):u32 flag=+8(%di):x32 caller=$stack0:x64
p:io/put ext4_put_io_end+16 io_end=%di:x64 old=%ax:u32
p:io/putd_in ext4_put_io_end_defer+5 io_end=%di:x64 count=+12(%di):u32 flag=+8(%di):x32 caller=$stack0:x64
p:io/putd ext4_put_io_end_defer+15 io_end=%di:x64 old=%cx:u32
p:io/sbio submit_bio+5 bio=%di:x64 sector=+5(%di):u64 size=+13(%di):u32 opf=+0(%di):x32 end_io=+32(%di):x64 priv=+24(%di):x64
p:io/endbio ext4_end_bio+5 bio=%di:x64 status=+4(%di):u8 io_end=+24(%di):x64
p:io/rsvwork ext4_end_io_rsv_work+5 work=%di:x64 ino=-16(%di):u64
p:io/convvec ext4_convert_unwritten_io_end_vec+5 io_end=%si:x64
p:io/convvec_ret ext4_convert_unwritten_io_end_vec+5 ret=%ax:s32
p:io/conv ext4_convert_unwritten_extents+5 ino=+16(%si):u64 offset=%dx:s64 len=%cx:s64
p:io/conv_ret ext4_convert_unwritten_extents+5 ret=%ax:s32
p:io/endwb folio_end_writeback+9 index=+16(%di):u64 ino=+16(+8(+8(%di))):u64 dev=+20(+8(+8(+8(%di)))):u32"
    );
    assert_eq!(plan.summary, TraceAbilities { get: true, btf: true, exact_counts: true });
    let filters: Vec<_> = plan.events.iter().filter_map(|event| event.filter.as_deref()).collect();
    assert_eq!(filters, ["end_io == 0x1000053", "function == 0x1000071"]);
    assert_eq!(plan.constants["EXT4_MAP_UNWRITTEN"], 1 << 12);
}

#[test]
fn a_function_that_is_not_there_is_named() {
    let error = plan(&facts(), KERNEL, &symbols(&["ext4_end_bio"])).expect_err("it is left out");
    assert_eq!(error.to_string(), PlanError::NoSymbol { name: "ext4_end_bio" }.to_string());
}

#[test]
fn addresses_outside_the_image_are_refused() {
    let mut moved = symbols(&[]);
    moved.iter_mut().for_each(|symbol| (symbol.address, symbol.end) = (symbol.address << 8, symbol.end << 8));
    let error = plan(&facts(), KERNEL, &moved).expect_err("nothing is there");
    assert!(error.to_string().contains("are not code of the kernel image"), "{error}");
}

#[test]
fn an_atomic_step_gives_its_old_count_only_where_a_probe_behind_it_can_trust_the_registers() {
    let old = |name: &str| function(name).atomic(12).map(|atomic| atomic.old.and_then(kprobe_register));
    assert_eq!(old("ext4_put_io_end").expect("one"), Some("ax"));
    assert_eq!(old("no_xadd").expect("one"), None, "lock inc gives no value");
    assert_eq!(old("jumped_behind").expect("one"), None, "the place behind is also reached without the step");
    assert_eq!(old("base_lost").expect("one"), None, "the pointer is overwritten by the old count");
    assert!(old("two_atomics").is_err(), "which of the two is not known");
}

#[test]
fn damaged_type_information_is_an_error_and_never_a_panic() {
    let file = object::File::parse(KERNEL).expect("an ELF file");
    let section = object::ObjectSection::data(&file.section_by_name(".BTF").expect("it has one")).expect("readable");
    for len in 0..section.len() {
        assert!(KernelFacts::from_btf(&section[..len]).is_err(), "cut at {len}");
    }
    for at in 0..section.len() {
        let mut damaged = section.to_vec();
        damaged[at] ^= 0xff;
        let _ = KernelFacts::from_btf(&damaged);
    }
    assert!(matches!(KernelFacts::from_vmlinux(b"MZ"), Err(crate::FactsError::NotElf(_))));
}
