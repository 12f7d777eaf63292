//! A kernel to boot: obtained, unpacked, and with the modules a virtio guest needs, in order.
//!
//! A stock kernel is downloaded once and kept in the cache, which is filled under a lock and by rename: a half-filled
//! entry is never seen. What is obtained from a path of the user's own is kept by its content.

mod apt;
mod cache;
mod modules;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::child;
use crate::disk::sha256;
use crate::error::{Doing, Error};

pub use cache::default_cache;
pub use unpack::build;

/// What kernel is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSpec {
    /// The newest stock kernel of a series, such as `6.1`.
    Series(String),
    /// A stock kernel by exact release (`6.1.0-56-cloud-amd64`), or a pinned one by its package's version (`6.1.192-2`).
    Release(String),
    /// A bzImage, a vmlinux, a .deb, or a folder that holds an unpacked package or a build tree. One that is named like a
    /// series or a pinned version needs a `/`: `./6.1`.
    Path(PathBuf),
}

impl std::str::FromStr for KernelSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        KernelSpec::read(text, |path| path.exists())
    }
}

impl KernelSpec {
    /// What lies in the current folder does not matter to a series or a pinned version: a night in a folder `6.1` must not turn
    /// `--kernel 6.1` into that folder.
    fn read(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Self, Error> {
        let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let path = || Ok(KernelSpec::Path(text.into()));
        match text {
            _ if text.contains('/') => path(),
            _ if text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor)) => {
                Ok(KernelSpec::Series(text.into()))
            }
            _ if is_pinned(text) => Ok(KernelSpec::Release(text.into())),
            _ if exists(Path::new(text)) => path(),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => Ok(KernelSpec::Release(text.into())),
            _ => {
                let why = "it is neither a series (6.1), nor a release (6.1.0-56-cloud-amd64), nor a pinned version (6.1.192-2), nor a path that exists";
                Err(Error::NoKernel { spec: text.into(), why: why.into() })
            }
        }
    }
}

impl std::fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KernelSpec::Series(text) | KernelSpec::Release(text) => f.write_str(text),
            KernelSpec::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A module to load, as an unpacked `.ko`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// Loaded only when the probes are set: the disk's driver.
    pub late: bool,
}

/// A kernel, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `6.1`.
    pub series: String,
    /// The distribution's package, if it came as one.
    pub package: Option<String>,
    /// The package's version, such as `6.1.192-2`.
    pub version: Option<String>,
    /// `uname -r`.
    pub release: String,
    /// SHA-256 of the file as it was shipped (vmlinuz, or vmlinux if there is no other).
    pub image_hash: String,
    /// The file as it was shipped.
    pub image: PathBuf,
    /// The ELF inside it, for PVH boot and for its BTF.
    pub vmlinux: PathBuf,
    /// In the order to load them.
    pub modules: Vec<Module>,
    /// This kernel's own folder in the cache; what else is worth keeping for it may lie there and goes with it.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Gets the kernel from the cache, or fills the cache first.
///
/// # Errors
///
/// If it cannot be had; the sentence says what was tried.
pub fn obtain(spec: &KernelSpec, cache: &Path) -> Result<Kernel, Error> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::Architecture { arch: std::env::consts::ARCH });
    }
    cache::obtain(spec, cache)
}

/// The kernel if the cache has it already; asks nobody. For doctor.
///
/// # Errors
///
/// If the cache cannot be read.
pub fn cached(spec: &KernelSpec, cache: &Path) -> Result<Option<Kernel>, Error> {
    cache::cached(spec, cache)
}

/// One row of kernels.toml.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Series {
    series: String,
    suite: String,
    package: String,
    #[serde(default)]
    also: Vec<String>,
    #[serde(default)]
    pin: Vec<Pin>,
}

/// One kernel by exact version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    version: String,
    /// The image's first.
    debs: Vec<PinnedDeb>,
}

/// A package, and what its file must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinnedDeb {
    package: String,
    sha256: String,
}

/// Every series of kernels.toml, oldest first, with its pinned versions.
#[must_use]
pub fn listed() -> Vec<(String, Vec<String>)> {
    let versions = |row: &Series| row.pin.iter().map(|pin| pin.version.clone()).collect();
    table().iter().map(|row| (row.series.clone(), versions(row))).collect()
}

fn table() -> Vec<Series> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        series: Vec<Series>,
    }
    let table: Table =
        toml::from_str(include_str!("../../../kernels.toml")).expect("kernels.toml is checked by a test");
    table.series
}

fn row_of(spec: &KernelSpec, wanted: &str) -> Result<Series, Error> {
    let fits = |row: &Series| match spec {
        KernelSpec::Series(series) => row.series == *series,
        _ => wanted.starts_with(&format!("{}.", row.series)),
    };
    let known = || table().iter().map(|row| row.series.clone()).collect::<Vec<_>>().join(", ");
    table().into_iter().find(fits).ok_or_else(|| Error::NoKernel {
        spec: spec.to_string(),
        why: format!("kernels.toml knows the series {}; give a path to use any other kernel", known()),
    })
}

/// The pin that is meant by a version: `6.1.192-2`.
fn pin_of<'a>(row: &'a Series, spec: &KernelSpec) -> Option<&'a Pin> {
    let KernelSpec::Release(wanted) = spec else { return None };
    row.pin.iter().find(|pin| pin.version == *wanted)
}

fn is_pinned(version: &str) -> bool {
    table().iter().flat_map(|row| &row.pin).any(|pin| pin.version == version)
}

/// Makes a [`Kernel`] of what lies in `folder`; what has to be unpacked goes there too.
fn describe(source: &Path, folder: &Path, spec: &KernelSpec) -> Result<Kernel, Error> {
    let found = find_image(source, spec)?;
    let vmlinux = unpack::vmlinux(&found, folder)?;
    let release = unpack::release(&vmlinux)?;
    let series = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let tree = if source.is_dir() { Some(source) } else { None };
    let modules = modules::resolve(tree, folder, &release)?;
    let image_hash = sha256(&found)?;
    Ok(Kernel {
        series,
        package: None,
        version: None,
        release,
        image_hash,
        image: found,
        vmlinux,
        modules,
        folder: folder.to_owned(),
    })
}

/// The kernel image in an unpacked package or a build tree; `source` itself if it is a file.
fn find_image(source: &Path, spec: &KernelSpec) -> Result<PathBuf, Error> {
    if source.is_file() {
        return Ok(source.to_owned());
    }
    let fixed = ["arch/x86/boot/bzImage", "vmlinux", "vmlinuz", "bzImage"].map(|name| source.join(name));
    let packaged =
        ["boot", "lib/modules", "usr/lib/modules"].iter().flat_map(|folder| images_below(&source.join(folder)));
    let candidates: Vec<PathBuf> = fixed.into_iter().filter(|path| path.is_file()).chain(packaged).collect();
    candidates.into_iter().next().ok_or_else(|| Error::NoKernel {
        spec: spec.to_string(),
        why: format!("{} holds neither vmlinuz, bzImage nor vmlinux", source.display()),
    })
}

fn images_below(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = files_below(folder, 2).into_iter().filter(|path| is_image(path)).collect();
    found.sort();
    found
}

fn is_image(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
}

/// All files of a folder, `depth` levels deep; nothing if there is no such folder.
fn files_below(folder: &Path, depth: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let below = |path: PathBuf| match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() && depth > 1 => files_below(&path, depth - 1),
        Ok(meta) if meta.is_file() => vec![path],
        _ => Vec::new(),
    };
    entries.filter_map(Result::ok).flat_map(|entry| below(entry.path())).collect()
}

/// Unpacks a .deb into `folder`.
fn unpack_deb(deb: &Path, folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).doing(|| format!("creating {}", folder.display()))?;
    child::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder), "dpkg").map(drop)
}

/// Package name and version of a .deb.
fn deb_fields(deb: &Path) -> Result<(String, String), Error> {
    let field = |name: &str| {
        let output = child::output(Command::new("dpkg-deb").arg("-f").arg(deb).arg(name), "dpkg")?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    };
    Ok((field("Package")?, field("Version")?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_by_series_release_or_path() {
        let spec = |text: &str| text.parse::<KernelSpec>().unwrap();
        assert_eq!(spec("6.1"), KernelSpec::Series("6.1".into()));
        assert_eq!(spec("6.1.0-56-cloud-amd64"), KernelSpec::Release("6.1.0-56-cloud-amd64".into()));
        assert_eq!(spec("./bzImage"), KernelSpec::Path("./bzImage".into()));
        assert!("newest".parse::<KernelSpec>().is_err());
    }

    #[test]
    fn a_folder_named_like_a_series_or_a_pin_is_meant_only_with_a_slash() {
        let all_there = |text: &str| KernelSpec::read(text, |_| true).unwrap();
        assert_eq!(all_there("6.1"), KernelSpec::Series("6.1".into()));
        assert_eq!(all_there("6.1.192-2"), KernelSpec::Release("6.1.192-2".into()));
        for path in ["./6.1", "nights/6.1", "linux", "6.1.0-own"] {
            assert_eq!(all_there(path), KernelSpec::Path(path.into()));
        }
    }

    #[test]
    fn the_table_of_kernels_parses_and_names_each_series_once() {
        let mut names: Vec<String> = table().into_iter().map(|row| row.series).collect();
        assert!(names.contains(&"6.1".into()));
        let rows = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows);
    }

    #[test]
    fn every_pin_is_of_its_series_and_has_whole_hashes() {
        for row in table() {
            for pin in &row.pin {
                assert!(pin.version.starts_with(&format!("{}.", row.series)), "{}", pin.version);
                assert!(!pin.debs.is_empty());
                let whole =
                    |deb: &PinnedDeb| deb.sha256.len() == 64 && deb.sha256.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(pin.debs.iter().all(whole), "{:?}", pin.debs);
                let spec: KernelSpec = pin.version.parse().unwrap();
                assert_eq!(pin_of(&row_of(&spec, &pin.version).unwrap(), &spec), Some(pin));
            }
        }
    }

    #[test]
    fn a_series_that_is_not_in_the_table_is_named_with_those_that_are() {
        let spec = KernelSpec::Series("4.4".into());
        let said = row_of(&spec, "4.4").unwrap_err().to_string();
        assert!(said.contains("4.4") && said.contains("6.1"), "{said}");
    }
}
