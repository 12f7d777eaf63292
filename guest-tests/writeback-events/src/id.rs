//! Numbers by life, from 1 in order of first sight; never kernel addresses.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An io_end, numbered from 1 in order of `ext4_init_io_end`. The same address lives many times.
    IoEndId(u32)
);
id!(
    /// A bio of ext4's writeback, numbered from 1 in the order in which bios took their reference (were opened).
    BioId(u32)
);
id!(
    /// A block request, numbered from 1 in order of the guest's first `block_rq_issue` of it.
    RequestId(u64)
);
id!(
    /// An operation of the workload: its index in the scenario, from 0.
    OpId(u32)
);
id!(
    /// A guest task (pid).
    TaskId(u32)
);
id!(
    /// An inode number of the file system under test.
    Ino(u64)
);
