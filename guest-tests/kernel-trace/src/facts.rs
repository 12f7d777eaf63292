//! What the probes need to know of a kernel's structs, taken from its own BTF.

use crate::btf::Btf;
use crate::error::FactsError;
use object::{Object, ObjectSection};

/// Byte offsets of the fields the probes read, and the values of the enumerators they compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    pub(crate) io_end_count: u32,
    pub(crate) io_end_flag: u32,
    pub(crate) io_end_inode: u32,
    pub(crate) inode_ino: u32,
    pub(crate) inode_sb: u32,
    pub(crate) sb_dev: u32,
    pub(crate) bio_opf: u32,
    pub(crate) bio_sector: u32,
    pub(crate) bio_size: u32,
    pub(crate) bio_status: u32,
    pub(crate) bio_private: u32,
    pub(crate) bio_end_io: u32,
    pub(crate) folio_index: u32,
    pub(crate) folio_mapping: u32,
    pub(crate) mapping_host: u32,
    pub(crate) submit_io_end: u32,
    /// From the conversion work in `ext4_inode_info` to `i_ino` of the inode around it; it may lie before the work.
    pub(crate) work_to_ino: i64,
    /// From an inode to the conversion work of its `ext4_inode_info`; as a two's complement.
    pub(crate) inode_to_work: i64,
    /// Where the order of a folio stands; none where ext4 knows no folio of more than one page.
    pub(crate) large_folio: Option<LargeFolio>,
    /// `__REQ_SYNC`: number of the bit.
    pub(crate) req_sync_bit: u64,
    /// `BH_Unwritten`: number of the bit, which `EXT4_MAP_UNWRITTEN` takes over.
    pub(crate) bh_unwritten_bit: u64,
    /// `WB_SYNC_ALL`.
    pub(crate) wb_sync_all: u64,
}

/// How a large folio tells its order: the low byte of its second flags word, valid if the first has PG_head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LargeFolio {
    pub(crate) order: u32,
    pub(crate) head_bit: u64,
}

/// Every function whose address [`crate::plan`] can use. Which of the alternatives exist tells the kernel's generation.
const SYMBOLS: &[&str] = &[
    "ext4_init_io_end",
    "ext4_put_io_end",
    "ext4_put_io_end_defer",
    "ext4_release_io_end",
    "ext4_end_bio",
    "ext4_bio_write_page",
    "ext4_bio_write_folio",
    "ext4_end_io_rsv_work",
    "ext4_convert_unwritten_io_end_vec",
    "ext4_convert_unwritten_extents",
    "ext4_writepages",
    "ext4_do_writepages",
    "ext4_writepage",
    "submit_bio",
    "folio_end_writeback",
    "end_page_writeback",
    "__x86_return_thunk",
];

impl KernelFacts {
    /// Reads the offsets out of an uncompressed kernel image.
    pub fn from_vmlinux(elf: &[u8]) -> Result<Self, FactsError> {
        let file = object::File::parse(elf).map_err(|error| FactsError::NotElf(error.to_string()))?;
        let section = file.section_by_name(".BTF").ok_or(FactsError::NoBtf)?;
        let bytes = section.data().map_err(|error| FactsError::NotElf(error.to_string()))?;
        Self::from_btf(bytes)
    }

    /// Reads the offsets out of bare BTF (`/sys/kernel/btf/vmlinux`).
    pub fn from_btf(bytes: &[u8]) -> Result<Self, FactsError> {
        let btf = Btf::parse(bytes)?;
        if btf.offset("ext4_io_end", &["flag"]).is_err() && btf.offset("ext4_inode_info", &["vfs_inode"]).is_err() {
            return Err(FactsError::Ext4IsModule);
        }
        // 5.10 has no folios; its end of writeback takes a page, whose fields lie at the same places under older names.
        let folio = |field: &'static str| btf.offset("folio", &[field]).or_else(|_| btf.offset("page", &[field]));
        // refcount_t since 6.1, a bare atomic_t before.
        let count = btf
            .offset("ext4_io_end", &["count", "refs", "counter"])
            .or_else(|_| btf.offset("ext4_io_end", &["count", "counter"]))?;
        Ok(KernelFacts {
            io_end_count: count,
            io_end_flag: btf.offset("ext4_io_end", &["flag"])?,
            io_end_inode: btf.offset("ext4_io_end", &["inode"])?,
            inode_ino: btf.offset("inode", &["i_ino"])?,
            inode_sb: btf.offset("inode", &["i_sb"])?,
            sb_dev: btf.offset("super_block", &["s_dev"])?,
            bio_opf: btf.offset("bio", &["bi_opf"])?,
            bio_sector: btf.offset("bio", &["bi_iter", "bi_sector"])?,
            bio_size: btf.offset("bio", &["bi_iter", "bi_size"])?,
            bio_status: btf.offset("bio", &["bi_status"])?,
            bio_private: btf.offset("bio", &["bi_private"])?,
            bio_end_io: btf.offset("bio", &["bi_end_io"])?,
            folio_index: folio("index")?,
            folio_mapping: folio("mapping")?,
            mapping_host: btf.offset("address_space", &["host"])?,
            submit_io_end: btf.offset("ext4_io_submit", &["io_end"])?,
            work_to_ino: work_to_ino(&btf)?,
            inode_to_work: inode_to_work(&btf)?,
            large_folio: btf.offset("folio", &["_flags_1"]).ok().map(|order| large_folio(&btf, order)).transpose()?,
            req_sync_bit: btf.enumerator("__REQ_SYNC")?,
            bh_unwritten_bit: btf.enumerator("BH_Unwritten")?,
            wb_sync_all: btf.enumerator("WB_SYNC_ALL")?,
        })
    }

    /// Functions whose addresses the guest is to look up in `/proc/kallsyms` before [`crate::plan`]. Not every kernel has
    /// all of them; those it has not are left out of the answer.
    pub fn needed_symbols(&self) -> Vec<&'static str> {
        SYMBOLS.to_vec()
    }
}

fn work_to_ino(btf: &Btf) -> Result<i64, FactsError> {
    Ok(i64::from(btf.offset("inode", &["i_ino"])?) - inode_to_work(btf)?)
}

fn inode_to_work(btf: &Btf) -> Result<i64, FactsError> {
    let work = btf.offset("ext4_inode_info", &["i_rsv_conversion_work"])?;
    Ok(i64::from(work) - i64::from(btf.offset("ext4_inode_info", &["vfs_inode"])?))
}

fn large_folio(btf: &Btf, order: u32) -> Result<LargeFolio, FactsError> {
    Ok(LargeFolio { order, head_bit: btf.enumerator("PG_head")? })
}
