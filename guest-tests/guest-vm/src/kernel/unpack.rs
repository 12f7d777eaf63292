//! From a bzImage to the ELF inside it.
//!
//! The boot protocol's header says where the payload lies; its first bytes say how it is packed; a 4-byte length,
//! the unpacked size, ends it. Layout: Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset, payload_length.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Doing, Error};

const ELF: &[u8] = b"\x7fELF";
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// How much one block of the LZ4 legacy format unpacks to at most.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// Packings that are left to a tool: first bytes, tool, its package.
const BY_TOOL: [(&[u8], &str, &str); 4] = [
    (&[0x1f, 0x8b], "gzip", "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "xz-utils"),
    (b"BZh", "bzip2", "bzip2"),
    (&[0x5d, 0x00, 0x00], "xz", "xz-utils"),
];

/// The path of the ELF: `image` itself, or what was unpacked to `folder`.
pub fn vmlinux(image: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let bytes = fs::read(image).doing(|| format!("reading {}", image.display()))?;
    if bytes.starts_with(ELF) {
        return Ok(image.to_owned());
    }
    let bad = |why: &str| Error::BadKernel { path: image.to_owned(), why: why.into() };
    let payload = payload(&bytes).ok_or_else(|| bad("it is neither an ELF nor a bzImage"))?;
    let elf = unpack(payload, image)?;
    if !elf.starts_with(ELF) {
        return Err(bad("what is packed in it is no ELF"));
    }
    let path = folder.join("vmlinux");
    fs::write(&path, elf).doing(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// `uname -r` as the kernel's banner says it.
pub fn release(vmlinux: &Path) -> Result<String, Error> {
    let bytes = fs::read(vmlinux).doing(|| format!("reading {}", vmlinux.display()))?;
    let release = banners(&bytes).find_map(|banner| {
        let end = banner.iter().position(|byte| *byte == b' ')?;
        String::from_utf8(banner[..end].to_vec()).ok()
    });
    release
        .ok_or_else(|| Error::BadKernel { path: vmlinux.to_owned(), why: "it holds no \"Linux version\" line".into() })
}

/// `uname -v` as the kernel's banner says it: from the last `#` of its line on. Empty if there is no such line.
pub fn build(vmlinux: &[u8]) -> String {
    let build = banners(vmlinux).find_map(|banner| {
        let line = banner.split(|byte| *byte == b'\n').next()?;
        let from = line.iter().rposition(|byte| *byte == b'#')?;
        Some(String::from_utf8_lossy(&line[from..]).into_owned())
    });
    build.unwrap_or_default()
}

/// What follows "Linux version " where a number does.
fn banners(vmlinux: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BANNER: &[u8] = b"Linux version ";
    let starts = vmlinux.windows(BANNER.len() + 1).enumerate();
    let starts = starts.filter(|(_, w)| w.starts_with(BANNER) && w[BANNER.len()].is_ascii_digit());
    starts.map(|(at, _)| &vmlinux[at + BANNER.len()..])
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

fn unpack(payload: &[u8], image: &Path) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::BadKernel { path: image.to_owned(), why };
    let (packed, length) = payload.split_last_chunk::<4>().ok_or_else(|| bad("its payload is empty".into()))?;
    let elf = if packed.starts_with(LZ4_LEGACY) {
        lz4_legacy(&packed[4..]).map_err(bad)?
    } else if packed.starts_with(ZSTD) {
        zstd(packed, image)?
    } else if let Some((_, tool, package)) = BY_TOOL.iter().find(|(magic, ..)| packed.starts_with(magic)) {
        by_tool(tool, package, packed)?
    } else {
        return Err(bad(format!(
            "its payload is packed in a way not known here ({:02x?})",
            &packed[..packed.len().min(4)]
        )));
    };
    let expected = u32::from_le_bytes(*length) as usize;
    if elf.len() != expected {
        return Err(bad(format!("its payload unpacks to {} bytes, not {expected}: the file is damaged", elf.len())));
    }
    Ok(elf)
}

/// Blocks of a 4-byte length and so many bytes.
fn lz4_legacy(mut packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut elf = Vec::new();
    while let Some((length, rest)) = packed.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).ok_or("an LZ4 block reaches past the payload's end")?;
        elf.extend(lz4_flex::block::decompress(block, LZ4_BLOCK_BYTES).map_err(|e| format!("LZ4: {e}"))?);
        packed = &rest[length..];
    }
    Ok(elf)
}

pub fn zstd(packed: &[u8], path: &Path) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::BadKernel { path: path.to_owned(), why: format!("zstd: {why}") };
    let mut elf = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|e| bad(e.to_string()))?;
    decoder.read_to_end(&mut elf).map_err(|e| bad(e.to_string()))?;
    Ok(elf)
}

fn by_tool(tool: &str, package: &'static str, packed: &[u8]) -> Result<Vec<u8>, Error> {
    let spawned =
        Command::new(tool).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|_| Error::Missing { program: tool.into(), package })?;
    let mut stdin = child.stdin.take().expect("asked for above");
    // The tool writes while we feed it: two threads, or both wait for ever. A tool that stops early shows in the size.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(packed));
        child.wait_with_output()
    });
    Ok(output.doing(|| format!("running {tool}"))?.stdout)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image
    }

    fn lz4(elf: &[u8], length: u32) -> Vec<u8> {
        let block = lz4_flex::block::compress(elf);
        [LZ4_LEGACY, &(block.len() as u32).to_le_bytes(), &block, &length.to_le_bytes()].concat()
    }

    #[test]
    fn the_elf_comes_out_of_the_image_and_says_its_release() {
        let folder = tempfile::tempdir().unwrap();
        let elf = b"\x7fELF....Linux version %s\0Linux version 6.1.0-56-cloud (gcc)";
        let image = folder.path().join("vmlinuz");
        fs::write(&image, bzimage(&lz4(elf, elf.len() as u32))).unwrap();
        let vmlinux = vmlinux(&image, folder.path()).unwrap();
        assert_eq!(fs::read(&vmlinux).unwrap(), elf);
        assert_eq!(release(&vmlinux).unwrap(), "6.1.0-56-cloud");
        let banner = b"Linux version 6.1.0-56-cloud (gcc (Debian 12)) #1 SMP Debian 6.1.192-2 (2026)\n\0#";
        assert_eq!(build(banner), "#1 SMP Debian 6.1.192-2 (2026)");
    }

    #[test]
    fn a_damaged_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vmlinuz");
        let elf = b"\x7fELF";
        for bytes in [bzimage(&lz4(elf, 5)), bzimage(b"what is this"), b"short".to_vec(), bzimage(&lz4(b"text", 4))] {
            fs::write(&image, bytes).unwrap();
            assert!(matches!(vmlinux(&image, folder.path()), Err(Error::BadKernel { .. })));
        }
    }
}
