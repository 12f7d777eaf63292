//! What is searched where the user does not say: a handful of small machines, each with its own kind of company.
//!
//! One machine with everybody in it has too many states long before it has enough blocks. Each of these is searched whole; together
//! they have every pair of parties that touch the same thing.

use ext4_replica::Dialect;
use ext4_replica::explore::Bounds;

/// A machine to search, with a name.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name on a command line.
    pub name: &'static str,
    /// Who is in it, for people.
    pub who: &'static str,
    /// How far the search goes.
    pub bounds: Bounds,
}

impl Scope {
    /// The standard ones, in the order in which they are searched.
    pub fn standard(dialect: &Dialect) -> Vec<Scope> {
        let nobody = Bounds::default;
        // Before the patch each bio has an io_end: four of them at once are millions of states of the same kind.
        let io_ends = if dialect.io_end_per_bio { 2 } else { 8 };
        let faults = || Bounds { errors: 1, alloc_failures: 1, ..nobody() };
        let waits = || Bounds { fsyncs: 1, evicts: 1, convert_failures: 1, ..faults() };
        vec![
            Scope {
                name: "pages",
                who: "one pass of writeback over three pages; a bio and an allocation may fail",
                bounds: Bounds { pages: 3, writers: 1, io_ends: io_ends + 1, ..faults() },
            },
            Scope {
                name: "blocks",
                who: "one pass of writeback over two pages of two blocks each; nothing fails",
                bounds: Bounds { block_bits: 11, writers: 1, io_ends, ..nobody() },
            },
            Scope {
                name: "waits",
                who: "one pass over two pages, an fsync, an eviction; a bio, an allocation and a conversion may fail",
                bounds: Bounds { writers: 1, ..waits() },
            },
            Scope {
                name: "two_writers",
                who: "two passes over two pages; nothing fails",
                bounds: Bounds { writers: 2, io_ends, ..nobody() },
            },
            Scope {
                name: "two_interrupts",
                who: "one pass over two pages, two interrupts at once; two bios may fail",
                bounds: Bounds { writers: 1, interrupts: 2, errors: 2, ..nobody() },
            },
            Scope {
                name: "direct",
                who: "a direct write, an fsync, a truncate, an eviction; a bio, an allocation and a conversion may fail",
                bounds: Bounds { direct_writes: 1, truncates: 1, ..waits() },
            },
            Scope {
                name: "two_directs",
                who: "two direct writes; nothing fails",
                bounds: Bounds { direct_writes: 2, ..nobody() },
            },
            Scope {
                name: "mixed",
                who: "one pass of writeback and a direct write on one page of one block; a bio may fail",
                bounds: Bounds { pages: 1, writers: 1, direct_writes: 1, errors: 1, ..nobody() },
            },
            Scope {
                name: "two_inodes",
                who: "two files of one page, a pass of writeback over each; nothing fails",
                bounds: Bounds { inodes: 2, pages: 1, writers: 2, max_pages: vec![256], ..nobody() },
            },
        ]
    }

    /// The one of that name; `custom` begins with nobody in it.
    pub fn by_name(name: &str, dialect: &Dialect) -> Option<Scope> {
        let custom = Scope { name: "custom", who: "as the bounds say", bounds: Bounds::default() };
        Scope::standard(dialect).into_iter().chain([custom]).find(|scope| scope.name == name)
    }

    /// Names of all of them.
    pub fn names() -> Vec<&'static str> {
        Scope::standard(&Dialect::SEED).iter().map(|scope| scope.name).chain(["custom"]).collect()
    }
}
