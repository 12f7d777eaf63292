//! The disk image: ext4 made the same way every time, and a past in every free block.
//!
//! Same [`DiskSpec`] and same fill, same image, byte for byte. Everything mke2fs would take from the machine (its
//! configuration file, the clock, random numbers) is given. Free blocks are those the image's own bitmaps name.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::child;
use crate::error::{Doing, Error};

const E2FSPROGS: &str = "e2fsprogs";

/// No default of the machine's /etc/mke2fs.conf may reach the image.
const MKE2FS_CONF: &str = "[defaults]
base_features = sparse_super
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
inode_size = 256
}
floppy = {
inode_size = 256
}
small = {
inode_size = 256
}
default = {
inode_size = 256
}
big = {
inode_size = 256
}
huge = {
inode_size = 256
}
";

/// Debian 12's set for ext4, without what only matters for large disks.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

const UUID: &str = "6d9f3b1e-0f4e-4c3c-9a59-7d6f1f1d0001";
const HASH_SEED: &str = "6d9f3b1e-0f4e-4c3c-9a59-7d6f1f1d0002";

/// 2020-09-13 12:26:40 UTC: the time all inodes and the superblock carry.
const MKFS_TIME_S: u64 = 1_600_000_000;

/// Free blocks are written in pieces of at most this many bytes.
const FILL_BYTES: usize = 1 << 20;

/// What image to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Where; must not exist.
    pub path: PathBuf,
    /// Size.
    pub size_mib: u64,
    /// 1024, 2048 or 4096.
    pub block_bytes: u32,
    /// Further arguments of mke2fs, before the image's name, such as `-O ^has_journal`.
    pub mkfs: Vec<String>,
}

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskImage {
    /// Where it is.
    pub path: PathBuf,
    /// Size.
    pub bytes: u64,
    /// The file system's block size.
    pub block_bytes: u32,
    /// Ranges of blocks that are free and were filled: first and last, ascending.
    pub free: Vec<(u64, u64)>,
}

impl DiskImage {
    /// How many blocks were filled.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.free.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// SHA-256 of the whole image, now. It reads the image once: 0.1 to 0.5 s for 100 MiB.
    ///
    /// # Errors
    ///
    /// If the image cannot be read.
    pub fn sha256(&self) -> Result<String, Error> {
        sha256(&self.path)
    }
}

/// Makes the file system and fills every free block: `fill` is given the block's number and its bytes. The second sector
/// is filled as that of block 0, whoever owns the block: it lies between a boot loader's and the superblock, no file system
/// uses it, and so it tells one image from another.
///
/// # Errors
///
/// If mke2fs is missing or fails, or the host's disk refuses.
pub fn build(spec: &DiskSpec, fill: &dyn Fn(u64, &mut [u8])) -> Result<DiskImage, Error> {
    let path = &spec.path;
    let bytes = spec.size_mib << 20;
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let file = file.doing(|| format!("creating the disk image {}", path.display()))?;
    file.set_len(bytes).doing(|| format!("sizing the disk image {}", path.display()))?;
    make_file_system(spec)?;
    let free = free_blocks(path)?;
    let image = DiskImage { path: path.clone(), bytes, block_bytes: spec.block_bytes, free };
    let filled = fill_free_blocks(&image, &file, fill).and_then(|()| fill_second_sector(&image, &file, fill));
    filled.doing(|| format!("filling free blocks of {}", path.display()))?;
    Ok(image)
}

fn make_file_system(spec: &DiskSpec) -> Result<(), Error> {
    let conf = tempfile::NamedTempFile::new().doing(|| "creating mke2fs.conf".into())?;
    fs::write(conf.path(), MKE2FS_CONF).doing(|| format!("writing {}", conf.path().display()))?;
    let mut mke2fs = tool("mke2fs");
    mke2fs.env("MKE2FS_CONFIG", conf.path()).env("E2FSPROGS_FAKE_TIME", MKFS_TIME_S.to_string());
    mke2fs.args(["-F", "-q", "-t", "ext4", "-m", "0", "-o", "Linux", "-L", "guest-tests", "-O", FEATURES, "-I", "256"]);
    mke2fs.args(["-b", &spec.block_bytes.to_string(), "-U", UUID]);
    mke2fs.args([
        "-E",
        &format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed={HASH_SEED}"),
    ]);
    mke2fs.args(&spec.mkfs).arg(&spec.path);
    child::output(&mut mke2fs, E2FSPROGS).map(drop)
}

/// mke2fs and dumpe2fs lie in /sbin, which an ordinary user's PATH may lack.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

fn free_blocks(path: &Path) -> Result<Vec<(u64, u64)>, Error> {
    let output = child::output(tool("dumpe2fs").arg(path), E2FSPROGS)?;
    parse_free(&String::from_utf8_lossy(&output)).map_err(|why| Error::BadImage { path: path.to_owned(), why })
}

/// The first `Free blocks:` of dumpe2fs counts, every further one (inside a group) lists ranges. Both must agree.
///
/// With `bigalloc` blocks are free by clusters, and a range names the first blocks of its first and its last cluster.
fn parse_free(text: &str) -> Result<Vec<(u64, u64)>, String> {
    let mut lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("Free blocks:"));
    let count: u64 =
        lines.next().and_then(|n| n.trim().parse().ok()).ok_or("dumpe2fs names no number of free blocks")?;
    let mut free = Vec::new();
    let rest_of_cluster = blocks_per_cluster(text) - 1;
    for range in lines.flat_map(|line| line.split(',')).map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("dumpe2fs says free blocks {range:?}"));
        free.push((number(first)?, number(last)? + rest_of_cluster));
    }
    let listed: u64 = free.iter().map(|(first, last)| last - first + 1).sum();
    if listed != count {
        return Err(format!("the superblock counts {count} free blocks, the bitmaps {listed}"));
    }
    Ok(free)
}

fn blocks_per_cluster(text: &str) -> u64 {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    match (field("Cluster size:"), field("Block size:")) {
        (Some(cluster), Some(block)) if block > 0 => (cluster / block).max(1),
        _ => 1,
    }
}

fn fill_free_blocks(image: &DiskImage, file: &File, fill: &dyn Fn(u64, &mut [u8])) -> std::io::Result<()> {
    let block_bytes = image.block_bytes as usize;
    let per_piece = (FILL_BYTES / block_bytes) as u64;
    let mut buffer = vec![0; FILL_BYTES];
    for (first, last) in &image.free {
        for start in (*first..=*last).step_by(per_piece as usize) {
            let end = (start + per_piece).min(last + 1);
            let piece = &mut buffer[..(end - start) as usize * block_bytes];
            (start..end).zip(piece.chunks_mut(block_bytes)).for_each(|(block, bytes)| fill(block, bytes));
            file.write_all_at(piece, start * block_bytes as u64)?;
        }
    }
    Ok(())
}

fn fill_second_sector(image: &DiskImage, file: &File, fill: &dyn Fn(u64, &mut [u8])) -> std::io::Result<()> {
    let mut block = vec![0; image.block_bytes as usize];
    fill(0, &mut block);
    file.write_all_at(&block[512..1024], 512)
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String, Error> {
    let doing = || format!("reading {}", path.display());
    let mut file = File::open(path).doing(doing)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).doing(doing)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn build_in(folder: &Path, name: &str, block_bytes: u32) -> DiskImage {
        let spec = DiskSpec { path: folder.join(name), size_mib: 24, block_bytes, mkfs: Vec::new() };
        build(&spec, &|block, bytes| bytes.fill(block as u8 | 1)).unwrap()
    }

    #[test]
    fn the_same_spec_gives_the_same_image_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        for block_bytes in [1024, 4096] {
            let one = build_in(folder.path(), &format!("one{block_bytes}"), block_bytes);
            // A second later by every clock, were one asked.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            let two = build_in(folder.path(), &format!("two{block_bytes}"), block_bytes);
            assert!(
                fs::read(&one.path).unwrap() == fs::read(&two.path).unwrap(),
                "images of {block_bytes}-byte blocks differ"
            );
            assert_eq!(one.sha256().unwrap(), two.sha256().unwrap());
        }
    }

    #[test]
    fn every_free_block_is_filled_and_no_other_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let filled = build_in(folder.path(), "filled", 4096);
        let spec = DiskSpec { path: folder.path().join("bare"), size_mib: 24, block_bytes: 4096, mkfs: Vec::new() };
        build(&spec, &|_, bytes| bytes.fill(0)).unwrap();
        let (filled_bytes, bare) = (fs::read(&filled.path).unwrap(), fs::read(&spec.path).unwrap());
        let is_free = |block: u64| filled.free.iter().any(|(first, last)| (*first..=*last).contains(&block));
        for (block, (now, before)) in (0..).zip(filled_bytes.chunks(4096).zip(bare.chunks(4096))) {
            let mut expected = if is_free(block) { vec![block as u8 | 1; 4096] } else { before.to_vec() };
            if block == 0 {
                expected[512..1024].fill(1);
            }
            assert!(now == expected, "block {block}, free: {}", is_free(block));
        }
        assert!(filled.free_blocks() > 4000, "{} free blocks", filled.free_blocks());
    }

    #[test]
    fn a_file_system_check_finds_nothing_to_mend() {
        let folder = tempfile::tempdir().unwrap();
        let image = build_in(folder.path(), "image", 4096);
        child::output(tool("e2fsck").args(["-f", "-n"]).arg(&image.path), E2FSPROGS).unwrap();
    }

    #[test]
    fn free_blocks_are_read_only_if_bitmaps_and_superblock_agree() {
        let text =
            "Free blocks:   5\nGroup 0:\n  Free blocks: 3-5, 9\n  Free inodes: 1-2\nGroup 1:\n  Free blocks: 20\n";
        assert_eq!(parse_free(text).unwrap(), [(3, 5), (9, 9), (20, 20)]);
        assert!(parse_free(&text.replace("  5", "  6")).is_err());
        assert!(parse_free("").is_err());
    }

    #[test]
    fn free_clusters_are_free_to_their_last_block() {
        let text = "Free blocks:   12\nBlock size:  1024\nCluster size:  4096\nGroup 0:\n  Free blocks: 4-8, 32\n";
        assert_eq!(parse_free(text).unwrap(), [(4, 11), (32, 35)]);
    }

    #[test]
    fn clusters_of_every_size_can_be_made_and_filled() {
        let folder = tempfile::tempdir().unwrap();
        for (block_bytes, cluster) in [(1024, "2048"), (4096, "65536")] {
            let path = folder.path().join(cluster);
            let mkfs = ["-O", "bigalloc", "-C", cluster].map(str::to_owned).to_vec();
            let image = build(&DiskSpec { path, size_mib: 24, block_bytes, mkfs }, &|_, bytes| bytes.fill(1)).unwrap();
            child::output(tool("e2fsck").args(["-f", "-n"]).arg(&image.path), E2FSPROGS).unwrap();
        }
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        build_in(folder.path(), "image", 4096);
        let spec = DiskSpec { path: folder.path().join("image"), size_mib: 24, block_bytes: 4096, mkfs: Vec::new() };
        let error = build(&spec, &|_, _| ()).unwrap_err().to_string();
        assert!(error.contains("creating the disk image"), "{error}");
    }
}
