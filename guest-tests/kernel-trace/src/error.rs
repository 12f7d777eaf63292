//! What can be wrong with the inputs, one enum per edge of the crate.

use thiserror::Error;

/// Why struct offsets could not be taken from a kernel image.
#[derive(Debug, Error)]
pub enum FactsError {
    /// Not an ELF file this crate can read.
    #[error("the kernel image is not a 64-bit x86 ELF file ({0}); pass the uncompressed vmlinux")]
    NotElf(String),
    /// No type information.
    #[error("the kernel image has no .BTF section; lockstep needs a kernel built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf,
    /// Type information that ends early or contradicts itself.
    #[error("the kernel's BTF is damaged at byte {at}: {what}")]
    DamagedBtf {
        /// Offset within the section.
        at: usize,
        /// What was found.
        what: &'static str,
    },
    /// The types of ext4 are not among the kernel's own.
    #[error(
        "the kernel's BTF does not know ext4: it is a module here, or left out; lockstep needs it built in (CONFIG_EXT4_FS=y, as in Debian's cloud flavour)"
    )]
    Ext4IsModule,
    /// A field the probes read is not there.
    #[error("the kernel's BTF has no {path}; this kernel's writeback path is not one this program knows")]
    NoField {
        /// `struct.member.member`.
        path: String,
    },
}

/// Why no probes could be planned.
#[derive(Debug, Error)]
pub enum PlanError {
    /// See [`FactsError`].
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A function the plan rests on has no address.
    #[error("the kernel has no function {name} in its symbol list, so its writeback path cannot be followed")]
    NoSymbol {
        /// One of the alternatives that would do.
        name: &'static str,
    },
    /// The machine code is not what the plan rests on.
    #[error("in {function}: {what}")]
    Code {
        /// The function.
        function: String,
        /// What was looked for and not found.
        what: String,
    },
}

/// Why a `guest.raw` could not be read as a container.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// Reading or writing failed.
    #[error("guest.raw: {0}")]
    Io(#[from] std::io::Error),
    /// Not our file.
    #[error("not a guest.raw: it does not begin with the mark of one")]
    NoMagic,
    /// Written by another version.
    #[error("guest.raw has format version {found}; this program reads version {}", crate::container::VERSION)]
    Version {
        /// What the file says.
        found: u32,
    },
    /// The header or the trailer is not the JSON it should be.
    #[error("guest.raw: {part} at byte {at} cannot be read: {why}")]
    Json {
        /// Header or trailer.
        part: &'static str,
        /// Offset of the record.
        at: u64,
        /// What the parser says.
        why: String,
    },
    /// A record of a kind or length that no writer of ours makes.
    #[error("guest.raw: record at byte {at}: {why}")]
    Record {
        /// Offset of the record.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A writer was used after the end or without a header.
    #[error("guest.raw: {0}")]
    Order(&'static str),
}

/// Why a trace could not be decoded at all. What is merely missing from it is told in [`crate::Losses`] instead.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// See [`ContainerError`].
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// An event's format text, or the ring buffer's, cannot be understood.
    #[error("format of {event}: {why}")]
    Format {
        /// `system/name`, or `header_page`, `header_event`.
        event: String,
        /// What is wrong with it.
        why: String,
    },
    /// A page contradicts the layout.
    #[error("ring-buffer page {page} (CPU {cpu}), byte {at}: {why}")]
    Page {
        /// Place of the page in the file, from 0.
        page: usize,
        /// CPU it belongs to.
        cpu: u16,
        /// Offset in the page.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An event whose format the header does not hold.
    #[error(
        "ring-buffer page {page} (CPU {cpu}), byte {at}: an event of unknown type {id}; its format is not in the header"
    )]
    UnknownEvent {
        /// Place of the page in the file, from 0.
        page: usize,
        /// CPU it belongs to.
        cpu: u16,
        /// Offset in the page.
        at: usize,
        /// `common_type` of the event.
        id: u16,
    },
    /// An event whose payload does not hold what its format promises.
    #[error("{event} at counter {seq}: {why}")]
    Event {
        /// `system/name`.
        event: String,
        /// Trace clock.
        seq: u64,
        /// What is wrong with it.
        why: String,
    },
}
