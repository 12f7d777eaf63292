//! What a block is to the file system, in the script's words.

use serde::{Deserialize, Serialize, Serializer};

/// A class of blocks of ext4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// The superblock and its backups.
    #[serde(rename = "ext4.superblock")]
    Superblock,
    /// Group descriptors, their backups, and the blocks reserved for more of them.
    #[serde(rename = "ext4.gdt")]
    Gdt,
    /// Which blocks (clusters) of a group are used.
    #[serde(rename = "ext4.block_bitmap")]
    BlockBitmap,
    /// Which inodes of a group are used.
    #[serde(rename = "ext4.inode_bitmap")]
    InodeBitmap,
    /// Inodes, with all that is inside them: up to four extents, inline data, inline attributes.
    #[serde(rename = "ext4.inode_table")]
    InodeTable,
    /// A node of an extent tree outside the inode, or a block of block numbers of an inode without extents.
    #[serde(rename = "ext4.extent_node")]
    ExtentNode,
    /// A block of names.
    #[serde(rename = "ext4.dir")]
    Dir,
    /// A block of the hash tree over a directory's names.
    #[serde(rename = "ext4.dir_index")]
    DirIndex,
    /// Extended attributes outside the inode: their block, or an inode that holds one value.
    #[serde(rename = "ext4.xattr")]
    Xattr,
    /// The content of a file or a long symbolic link.
    #[serde(rename = "ext4.data")]
    Data,
    /// A block of the journal that is none of the kinds below: fast commits.
    #[serde(rename = "ext4.journal")]
    Journal,
    /// The journal's own superblock.
    #[serde(rename = "ext4.journal.superblock")]
    JournalSuperblock,
    /// Says which blocks follow in the log.
    #[serde(rename = "ext4.journal.descriptor")]
    JournalDescriptor,
    /// Ends a transaction.
    #[serde(rename = "ext4.journal.commit")]
    JournalCommit,
    /// Says which blocks a replay must leave alone.
    #[serde(rename = "ext4.journal.revoke")]
    JournalRevoke,
    /// A block on its way to its place.
    #[serde(rename = "ext4.journal.data")]
    JournalData,
    /// Known, and none of these: quota files, the orphan file, blocks outside the file system.
    #[serde(rename = "ext4.other")]
    Other,
    /// Nothing that has reached the disk says what it is.
    #[serde(rename = "ext4.unknown")]
    Unknown,
}

/// Every class, by its word.
pub const CLASSES: [(&str, Class); 18] = [
    ("ext4.superblock", Class::Superblock),
    ("ext4.gdt", Class::Gdt),
    ("ext4.block_bitmap", Class::BlockBitmap),
    ("ext4.inode_bitmap", Class::InodeBitmap),
    ("ext4.inode_table", Class::InodeTable),
    ("ext4.extent_node", Class::ExtentNode),
    ("ext4.dir", Class::Dir),
    ("ext4.dir_index", Class::DirIndex),
    ("ext4.xattr", Class::Xattr),
    ("ext4.data", Class::Data),
    ("ext4.journal", Class::Journal),
    ("ext4.journal.superblock", Class::JournalSuperblock),
    ("ext4.journal.descriptor", Class::JournalDescriptor),
    ("ext4.journal.commit", Class::JournalCommit),
    ("ext4.journal.revoke", Class::JournalRevoke),
    ("ext4.journal.data", Class::JournalData),
    ("ext4.other", Class::Other),
    ("ext4.unknown", Class::Unknown),
];

impl Class {
    /// In the script's word.
    pub fn word(self) -> &'static str {
        CLASSES[self as usize].0
    }
}

/// Some classes. Written as the fewest words that name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSet(u32);

impl ClassSet {
    /// The class of this word and all below it.
    pub fn named(word: &str) -> ClassSet {
        let below = |name: &str| name == word || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('.'));
        ClassSet(CLASSES.iter().filter(|(name, _)| below(name)).fold(0, |set, (_, class)| set | 1 << *class as u32))
    }

    /// What is in one of them.
    pub fn or(self, other: ClassSet) -> ClassSet {
        ClassSet(self.0 | other.0)
    }

    /// Whether a class is among them.
    pub fn has(self, class: Class) -> bool {
        self.0 & 1 << class as u32 != 0
    }

    /// Whether all of the other's are among them.
    pub fn covers(self, other: ClassSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// The fewest words for it: a class whose lower ones are all there stands for them.
    pub fn words(self) -> Vec<&'static str> {
        let whole = |word: &str| self.covers(ClassSet::named(word));
        let within = |word: &str| CLASSES.iter().any(|(name, _)| word.starts_with(&format!("{name}.")) && whole(name));
        CLASSES.iter().map(|(word, _)| *word).filter(|word| whole(word) && !within(word)).collect()
    }
}

impl Serialize for ClassSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.words().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_classes_and_says_what_the_record_says() {
        for (i, (word, class)) in CLASSES.iter().enumerate() {
            assert_eq!(*class as usize, i);
            assert_eq!(serde_json::to_value(class).expect("a word"), *word);
        }
    }

    #[test]
    fn a_class_names_itself_and_all_below_it() {
        let journal = ClassSet::named("ext4.journal");
        assert!(journal.has(Class::Journal) && journal.has(Class::JournalCommit) && !journal.has(Class::Data));
        assert_eq!(journal.words(), ["ext4.journal"]);
        assert_eq!(ClassSet::named("ext4.dir").words(), ["ext4.dir"]);
        assert_eq!(
            ClassSet::named("ext4.journal.commit").or(ClassSet::named("ext4.gdt")).words(),
            ["ext4.gdt", "ext4.journal.commit"]
        );
        assert_eq!(ClassSet::named("ext4"), ClassSet((1 << CLASSES.len()) - 1));
        assert_eq!(ClassSet::named("ext4.jour"), ClassSet::default());
    }
}
