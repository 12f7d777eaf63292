//! The file system of a scenario: how it is made, and how it is mounted.
//!
//! Only what every kernel of [`crate::KERNELS`] mounts, and only options that go together: a scenario that none can mount tests nothing.

use crate::draw::Stream;
use crate::shape::Shape;
use serde_json::{Value, json};

/// What was drawn, as far as the workload and the question of lockstep depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    size_mib: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// How data and journal go together.
    pub data: Data,
    mkfs: Vec<String>,
    mount: Vec<String>,
}

/// How data and journal go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Data is written before the transaction that needs it.
    Ordered,
    /// In no order.
    Writeback,
    /// Data goes through the journal.
    Journal,
    /// There is no journal.
    NoJournal,
}

impl Filesystem {
    /// Draws one for a disk of this shape.
    pub fn draw(stream: &mut Stream, shape: &Shape) -> Filesystem {
        let data =
            stream.weighted(&[(10, Data::Ordered), (3, Data::Writeback), (2, Data::Journal), (2, Data::NoJournal)]);
        let block_bytes = match shape.device.logical_block_bytes {
            // A file system's block cannot be smaller than the disk's.
            Some(bytes) => bytes.into(),
            None => stream.weighted(&[(6, 4096), (3, 1024), (2, 2048)]),
        };
        let mut drawn = Filesystem { size_mib: shape.size_mib, block_bytes, data, mkfs: Vec::new(), mount: Vec::new() };
        drawn.features(stream);
        drawn.journal(stream);
        drawn.allocation(stream);
        drawn.others(stream, shape);
        drawn
    }

    /// Whether it promises to be whole after a power cut, and to show nothing that was on the disk before.
    pub fn survives_power_cuts(&self) -> bool {
        matches!(self.data, Data::Ordered | Data::Journal) && !self.has_fast_commits()
    }

    /// Whether what a cut leaves of it can be judged. A commit block that does not wait for what it commits relies on checksums alone, and
    /// no program of the host replays fast commits as a kernel does.
    pub fn keeps_order(&self) -> bool {
        !self.has("journal_async_commit") && !self.has_fast_commits()
    }

    fn has_fast_commits(&self) -> bool {
        self.mkfs.iter().any(|word| word.contains("fast_commit"))
    }

    /// `filesystem` of a scenario.
    pub fn json(&self) -> Value {
        json!({"size_mib": self.size_mib, "block_bytes": self.block_bytes, "mkfs": self.mkfs, "mount": self.mount})
    }

    fn features(&mut self, stream: &mut Stream) {
        let mut features = Vec::new();
        let mut switch = |stream: &mut Stream, of: u64, out_of: u64, feature: &'static str| {
            if stream.chance(of, out_of) {
                features.push(feature);
            }
        };
        switch(stream, 1, 4, "^metadata_csum");
        switch(stream, 1, 6, "inline_data");
        switch(stream, 1, 8, "^flex_bg");
        switch(stream, 1, 8, "^64bit");
        switch(stream, 1, 8, "^dir_index");
        let bigalloc = stream.chance(1, 8);
        if bigalloc {
            features.push("bigalloc");
        }
        if self.data == Data::NoJournal {
            features.push("^has_journal");
        } else if stream.chance(1, 5) {
            features.push("fast_commit");
        }
        if !features.is_empty() {
            self.mkfs.extend(["-O".to_owned(), features.join(",")]);
        }
        if bigalloc {
            let blocks = stream.pick(&[2, 4, 16]);
            self.mkfs.extend(["-C".to_owned(), (self.block_bytes * blocks).to_string()]);
        }
    }

    fn journal(&mut self, stream: &mut Stream) {
        match self.data {
            Data::Ordered if stream.chance(1, 2) => self.option("data=ordered"),
            Data::Ordered | Data::NoJournal => {}
            Data::Writeback => self.option("data=writeback"),
            Data::Journal => self.option("data=journal"),
        }
        if self.data == Data::NoJournal {
            return;
        }
        let commit = stream.weighted(&[(3, None), (2, Some("commit=300")), (1, Some("commit=1"))]);
        commit.into_iter().for_each(|option| self.option(option));
        if self.data == Data::Ordered && stream.chance(1, 6) {
            self.option("data_err=abort");
        }
        if stream.chance(1, 10) {
            self.option("journal_checksum");
        }
        if stream.chance(1, 12) {
            self.option("journal_async_commit");
            // The kernel refuses the two together where data has to be on the disk before the commit record.
            if self.data == Data::Ordered {
                self.mount.retain(|option| !option.starts_with("data"));
                self.option("data=writeback");
                self.data = Data::Writeback;
            }
        }
    }

    fn allocation(&mut self, stream: &mut Stream) {
        if self.data == Data::Journal {
            return;
        }
        match stream.weighted(&[(3, None), (3, Some("dioread_nolock")), (2, Some("dioread_lock"))]) {
            Some(option) => self.option(option),
            None if stream.chance(1, 6) => self.option("nodelalloc"),
            None => {}
        }
    }

    fn others(&mut self, stream: &mut Stream, shape: &Shape) {
        if stream.chance(1, 8) && shape.device.discard != Some(false) {
            self.option("discard");
        }
        if stream.chance(1, 10) {
            self.option("errors=remount-ro");
        }
        for option in
            ["noauto_da_alloc", "noatime", "lazytime", "max_batch_time=0", "auto_da_alloc", "noblock_validity"]
        {
            if stream.chance(1, 12) && !(option == "auto_da_alloc" && self.has("noauto_da_alloc")) {
                self.option(option);
            }
        }
        // `sync` is left out: each write tells its own error then, which the judge looks for at an fsync only.
    }

    fn option(&mut self, option: &str) {
        self.mount.push(option.to_owned());
    }

    fn has(&self, option: &str) -> bool {
        self.mount.iter().any(|known| known == option)
    }
}
