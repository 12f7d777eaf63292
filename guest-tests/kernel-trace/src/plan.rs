//! Which probes a guest shall set so that its trace says all that lockstep needs.
//!
//! Two things decide the shape of the plan:
//!
//! - **No completion may be lost.** Every probe is a breakpoint behind the function's entry (see `text.rs`); returns are
//!   probed at the return instructions, not by kretprobes. `kprobes-optimization` must be off before the probes are set.
//! - **Counts must be true.** A probe before a reference's atomic step can read a count that an interrupt changes before
//!   the step is taken. Where the kernel counts by `lock xadd`, the probe sits behind that instruction and takes the old
//!   value from the register. What the last holder may free (flag, inode) is then read by a second probe at the
//!   function's entry, while the reference is still held.

use crate::error::PlanError;
use crate::facts::KernelFacts;
use crate::text::{Atomic, Function, kprobe_register};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Group of all kprobe events of a plan.
pub(crate) const GROUP: &str = "io";

/// `EXT4_IO_END_UNWRITTEN`: a macro, so BTF does not hold it. The same since the flag exists; checked against the
/// kernel's own code where that tests it in memory.
const EXT4_IO_END_UNWRITTEN: u64 = 0x1;

/// Where a function lies in the running kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SymbolAddress {
    /// Its name.
    pub name: String,
    /// Address of its first byte.
    pub address: u64,
    /// Address of the next symbol.
    pub end: u64,
}

/// An event by the names under `events/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventName {
    /// Folder.
    pub system: String,
    /// Event.
    pub name: String,
}

/// An event that is to be switched on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventSetting {
    /// Folder.
    pub system: String,
    /// Event.
    pub name: String,
    /// Text for its `filter`, to be written before it is switched on.
    pub filter: Option<String>,
}

/// What a trace made with a plan can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceAbilities {
    /// A bio's reference is seen when it is taken. If not, counts can be checked at puts only.
    pub get: bool,
    /// Offsets come from the kernel's own type information.
    pub btf: bool,
    /// Every reference step gives the old value that the atomic instruction itself returned.
    pub exact_counts: bool,
}

/// What a guest is to set up before its first write, and what its trace then rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbePlan {
    /// Lines for `kprobe_events`, in order. `debug/kprobes-optimization` must be 0 before.
    pub kprobe_events: Vec<String>,
    /// Events to switch on, the kprobe events among them.
    pub events: Vec<EventSetting>,
    /// Events whose `format` the header of `guest.raw` must hold.
    pub formats_needed: Vec<EventName>,
    /// What the trace can tell.
    pub summary: TraceAbilities,
    /// Addresses the plan was made with; the decoder compares recorded addresses with them.
    pub symbols: Vec<SymbolAddress>,
    /// Numbers from the kernel's type information that the decoder needs, by name.
    pub constants: BTreeMap<String, u64>,
}

/// Makes the probe plan for a kernel: its facts, its uncompressed image, and the addresses of those of
/// [`KernelFacts::needed_symbols`] that it has. The image must run where it was linked (`nokaslr`).
pub fn plan(facts: &KernelFacts, elf: &[u8], symbols: &[SymbolAddress]) -> Result<ProbePlan, PlanError> {
    Planner { facts, elf, symbols, lines: Vec::new(), events: Vec::new(), exact: true }.run()
}

struct Planner<'a> {
    facts: &'a KernelFacts,
    elf: &'a [u8],
    symbols: &'a [SymbolAddress],
    lines: Vec<String>,
    events: Vec<EventSetting>,
    exact: bool,
}

impl Planner<'_> {
    fn run(mut self) -> Result<ProbePlan, PlanError> {
        self.check_unwritten_flag()?;
        self.lives()?;
        let get = self.get()?;
        self.puts("put", "ext4_put_io_end")?;
        self.puts("putd", "ext4_put_io_end_defer")?;
        self.bios()?;
        self.conversions()?;
        self.end_of_writeback()?;
        self.tracepoints()?;
        let mut formats_needed: Vec<_> = self
            .events
            .iter()
            .map(|event| EventName { system: event.system.clone(), name: event.name.clone() })
            .collect();
        formats_needed.push(EventName { system: "ftrace".into(), name: "print".into() });
        Ok(ProbePlan {
            kprobe_events: self.lines,
            events: self.events,
            formats_needed,
            summary: TraceAbilities { get, btf: true, exact_counts: self.exact },
            symbols: self.symbols.to_vec(),
            constants: constants(self.facts),
        })
    }

    /// Birth and death of io_ends, and the folios handed over for them.
    fn lives(&mut self) -> Result<(), PlanError> {
        let facts = self.facts;
        let args = format!(
            "io_end=%ax:x64 count=+{}(%ax):u32 flag=+{}(%ax):x32 inode=+{}(%ax):x64 ino=+{}(+{}(%ax)):u64",
            facts.io_end_count, facts.io_end_flag, facts.io_end_inode, facts.inode_ino, facts.io_end_inode
        );
        self.at_returns("init", "ext4_init_io_end", &args)?;
        let args =
            format!("io_end=%di:x64 count=+{}(%di):u32 flag=+{}(%di):x32", facts.io_end_count, facts.io_end_flag);
        self.at_entry("release", "ext4_release_io_end", &args)?;
        let mut args = format!(
            "io_end=+{}(%di):x64 index=+{}(%si):u64 ino=+{}(+{}(+{}(%si))):u64",
            facts.submit_io_end, facts.folio_index, facts.inode_ino, facts.mapping_host, facts.folio_mapping
        );
        let name = self.bio_write()?;
        if let Some(folio) = facts.large_folio.as_ref().filter(|_| name == "ext4_bio_write_folio") {
            args += &format!(" flags=+0(%si):x64 order=+{}(%si):u8", folio.order);
        }
        self.at_entry("folio", name, &args)
    }

    /// The reference a bio takes: inlined everywhere, so it is found by its atomic instruction. No such place is no error:
    /// instrumented kernels have none.
    fn get(&mut self) -> Result<bool, PlanError> {
        let name = self.bio_write()?;
        let Ok(atomic) = self.function(name)?.atomic(self.facts.io_end_count) else { return Ok(false) };
        let base = register(name, &atomic)?;
        let flag = self.facts.io_end_flag;
        match exact_old(&atomic) {
            Some(old) => {
                let args = format!("io_end=%{base}:x64 old=%{old}:u32 flag=+{flag}(%{base}):x32");
                self.probe("get", name, atomic.behind, &args);
            }
            None => {
                let count = self.facts.io_end_count;
                let args = format!("io_end=%{base}:x64 count=+{count}(%{base}):u32 flag=+{flag}(%{base}):x32");
                self.probe("get", name, atomic.offset, &args);
                self.exact = false;
            }
        }
        Ok(true)
    }

    /// One of the two functions that drop a reference: at its entry what must be read while it is held, behind its atomic
    /// instruction the true old count.
    fn puts(&mut self, event: &str, name: &'static str) -> Result<(), PlanError> {
        let held = format!(
            "io_end=%di:x64 count=+{}(%di):u32 flag=+{}(%di):x32 caller=$stack0:x64",
            self.facts.io_end_count, self.facts.io_end_flag
        );
        self.at_entry(&format!("{event}_in"), name, &held)?;
        let atomic = self.function(name)?.atomic(self.facts.io_end_count).ok();
        match atomic.and_then(|atomic| exact_old(&atomic).map(|old| (atomic, old))) {
            Some((atomic, old)) => {
                let base = register(name, &atomic)?;
                self.probe(event, name, atomic.behind, &format!("io_end=%{base}:x64 old=%{old}:u32"));
            }
            None => self.exact = false,
        }
        Ok(())
    }

    fn bios(&mut self) -> Result<(), PlanError> {
        let facts = self.facts;
        let args = format!(
            "bio=%di:x64 sector=+{}(%di):u64 size=+{}(%di):u32 opf=+{}(%di):x32 end_io=+{}(%di):x64 priv=+{}(%di):x64",
            facts.bio_sector, facts.bio_size, facts.bio_opf, facts.bio_end_io, facts.bio_private
        );
        self.at_entry("sbio", "submit_bio", &args)?;
        let end_bio = self.symbol("ext4_end_bio")?.address;
        self.filter_last(format!("end_io == {end_bio:#x}"));
        let args = format!("bio=%di:x64 status=+{}(%di):u8 io_end=+{}(%di):x64", facts.bio_status, facts.bio_private);
        self.at_entry("endbio", "ext4_end_bio", &args)
    }

    fn conversions(&mut self) -> Result<(), PlanError> {
        let to_ino = self.facts.work_to_ino;
        let ino = self.facts.inode_ino;
        self.at_entry("rsvwork", "ext4_end_io_rsv_work", &format!("work=%di:x64 ino={to_ino:+}(%di):u64"))?;
        self.at_entry("convvec", "ext4_convert_unwritten_io_end_vec", "io_end=%si:x64")?;
        self.at_returns("convvec_ret", "ext4_convert_unwritten_io_end_vec", "ret=%ax:s32")?;
        let args = format!("ino=+{ino}(%si):u64 offset=%dx:s64 len=%cx:s64");
        self.at_entry("conv", "ext4_convert_unwritten_extents", &args)?;
        self.at_returns("conv_ret", "ext4_convert_unwritten_extents", "ret=%ax:s32")
    }

    fn end_of_writeback(&mut self) -> Result<(), PlanError> {
        let facts = self.facts;
        let name = self.first_of(&["folio_end_writeback", "end_page_writeback"])?;
        let inode = format!("+{}(+{}(%di))", facts.mapping_host, facts.folio_mapping);
        let args = format!(
            "index=+{}(%di):u64 ino=+{}({inode}):u64 dev=+{}(+{}({inode})):u32",
            facts.folio_index, facts.inode_ino, facts.sb_dev, facts.inode_sb
        );
        self.at_entry("endwb", name, &args)
    }

    fn tracepoints(&mut self) -> Result<(), PlanError> {
        let plain = [
            ("ext4", "ext4_writepages"),
            ("ext4", "ext4_writepages_result"),
            ("ext4", "ext4_ext_map_blocks_exit"),
            ("ext4", "ext4_ind_map_blocks_exit"),
            ("ext4", "ext4_sync_file_enter"),
            ("ext4", "ext4_evict_inode"),
            ("block", "block_rq_issue"),
            ("block", "block_rq_requeue"),
            ("block", "block_rq_complete"),
        ];
        for (system, name) in plain {
            self.events.push(EventSetting { system: system.into(), name: name.into(), filter: None });
        }
        let work = self.symbol("ext4_end_io_rsv_work")?.address;
        self.events.push(EventSetting {
            system: "workqueue".into(),
            name: "workqueue_queue_work".into(),
            filter: Some(format!("function == {work:#x}")),
        });
        Ok(())
    }

    /// Where the kernel's code tests the flag in memory, one of the tests must be of the bit this program means.
    fn check_unwritten_flag(&self) -> Result<(), PlanError> {
        let mut tested = Vec::new();
        for name in ["ext4_put_io_end", "ext4_put_io_end_defer", "ext4_release_io_end"] {
            tested.extend(self.function(name)?.tested_bits(self.facts.io_end_flag));
        }
        if tested.is_empty() || tested.contains(&EXT4_IO_END_UNWRITTEN) {
            return Ok(());
        }
        Err(PlanError::Code {
            function: "ext4_put_io_end".into(),
            what: format!("io_end flags {tested:x?} are tested, but not {EXT4_IO_END_UNWRITTEN:#x}"),
        })
    }

    fn at_entry(&mut self, event: &str, name: &'static str, args: &str) -> Result<(), PlanError> {
        let offset = self.function(name)?.behind_entry();
        self.probe(event, name, offset, args);
        Ok(())
    }

    /// One event per return instruction: `event`, `event1`, …
    fn at_returns(&mut self, event: &str, name: &'static str, args: &str) -> Result<(), PlanError> {
        for (index, offset) in self.function(name)?.returns()?.into_iter().enumerate() {
            let event = if index == 0 { event.to_string() } else { format!("{event}{index}") };
            self.probe(&event, name, offset, args);
        }
        Ok(())
    }

    fn probe(&mut self, event: &str, function: &str, offset: u64, args: &str) {
        self.lines.push(format!("p:{GROUP}/{event} {function}+{offset} {args}"));
        self.events.push(EventSetting { system: GROUP.into(), name: event.into(), filter: None });
    }

    fn filter_last(&mut self, filter: String) {
        if let Some(event) = self.events.last_mut() {
            event.filter = Some(filter);
        }
    }

    fn bio_write(&self) -> Result<&'static str, PlanError> {
        self.first_of(&["ext4_bio_write_folio", "ext4_bio_write_page"])
    }

    fn first_of(&self, names: &[&'static str]) -> Result<&'static str, PlanError> {
        let found = names.iter().find(|name| self.symbol(name).is_ok());
        found.copied().ok_or(PlanError::NoSymbol { name: names[0] })
    }

    fn symbol(&self, name: &'static str) -> Result<&SymbolAddress, PlanError> {
        self.symbols.iter().find(|symbol| symbol.name == name).ok_or(PlanError::NoSymbol { name })
    }

    fn function(&self, name: &'static str) -> Result<Function, PlanError> {
        let symbol = self.symbol(name)?;
        let thunk = self.symbol("__x86_return_thunk").ok().map(|thunk| thunk.address);
        Function::decode(self.elf, name, symbol.address, symbol.end, thunk)
    }
}

/// The register with the old count, where the instruction gives one.
fn exact_old(atomic: &Atomic) -> Option<&'static str> {
    atomic.old.and_then(kprobe_register)
}

fn register(function: &str, atomic: &Atomic) -> Result<&'static str, PlanError> {
    kprobe_register(atomic.base).ok_or_else(|| PlanError::Code {
        function: function.into(),
        what: format!("the counter is reached through {:?}, which probes cannot read", atomic.base),
    })
}

fn constants(facts: &KernelFacts) -> BTreeMap<String, u64> {
    let mut constants = BTreeMap::from([
        ("EXT4_IO_END_UNWRITTEN".to_string(), EXT4_IO_END_UNWRITTEN),
        ("EXT4_MAP_UNWRITTEN".to_string(), 1 << (facts.bh_unwritten_bit & 63)),
        ("REQ_SYNC".to_string(), 1 << (facts.req_sync_bit & 63)),
        ("WB_SYNC_ALL".to_string(), facts.wb_sync_all),
        ("inode_to_conversion_work".to_string(), facts.inode_to_work as u64),
    ]);
    if let Some(folio) = &facts.large_folio {
        constants.insert("PG_head".to_string(), 1 << (folio.head_bit & 63));
    }
    constants
}

#[cfg(test)]
mod tests;
