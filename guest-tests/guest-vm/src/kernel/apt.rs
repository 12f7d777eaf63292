//! Stock kernels by apt, without touching the machine's own apt.
//!
//! Where the archive is, how to reach it and whom to trust comes from the machine's own settings; state and cache are
//! our own, so an ordinary user may do it. A suite the machine does not follow is asked for at the same archive.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KernelSpec, Pin, Series};
use crate::child;
use crate::disk::sha256;
use crate::error::{Doing, Error};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads the newest package that fits `pattern`, and those the row adds; the image's package first.
pub fn download(row: &Series, pattern: &str, spec: &KernelSpec, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let apt = Apt::prepare(&row.suite, folder)?;
    let update = apt.update();
    let names = apt.names(pattern)?;
    let cannot = |why: String| Error::CannotFetch { spec: spec.to_string(), why };
    let Some(image) = names.last() else {
        return Err(match (update, spec) {
            (Err(error), _) => cannot(format!("apt-get update failed: {error}")),
            (Ok(()), KernelSpec::Release(_)) => {
                let pinned: Vec<&str> = row.pin.iter().map(|pin| pin.version.as_str()).collect();
                let (suite, pinned) = (&row.suite, pinned.join(", "));
                let why = format!("{suite} has no package {pattern}, and kernels.toml pins {pinned} of this series");
                Error::NoKernel { spec: spec.to_string(), why }
            }
            (Ok(()), _) => cannot(format!("the archive has no package {pattern} in {}", row.suite)),
        });
    };
    let download = |package: &str| apt.download(package).map_err(|error| cannot(error.to_string()));
    let mut debs = vec![download(image)?];
    let stem = |pattern: &str| pattern.split('*').next().unwrap_or_default().to_owned();
    let version = image.strip_prefix(&stem(&row.package)).unwrap_or_default();
    for also in &row.also {
        debs.push(download(&format!("{}{version}", stem(also)))?);
    }
    Ok(debs)
}

/// Downloads a pin's packages, and lets no other file through.
pub fn download_pinned(row: &Series, pin: &Pin, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let apt = Apt::prepare(&row.suite, folder)?;
    // What went wrong with the lists shows in the download; lists that are old may still have the version.
    let update = apt.update();
    let cannot = |error: Error| {
        let lists = update.as_ref().err().map_or(String::new(), |error| format!("; apt-get update said: {error}"));
        let why = format!("{error}{lists}. A suite keeps old versions for a while only");
        Error::CannotFetch { spec: pin.version.clone(), why }
    };
    let deb = |pinned: &super::PinnedDeb| {
        let path = apt.download(&format!("{}={}", pinned.package, pin.version)).map_err(cannot)?;
        check(&path, row, pin, pinned)?;
        Ok(path)
    };
    pin.debs.iter().map(deb).collect()
}

fn check(path: &Path, row: &Series, pin: &Pin, pinned: &super::PinnedDeb) -> Result<(), Error> {
    let found = sha256(path)?;
    if found == pinned.sha256 {
        return Ok(());
    }
    Err(Error::WrongHash {
        package: pinned.package.clone(),
        version: pin.version.clone(),
        expected: pinned.sha256.clone(),
        found,
        series: row.series.clone(),
    })
}

struct Apt {
    folder: PathBuf,
    /// Our own list of sources; `None`: the machine's.
    sources: Option<PathBuf>,
}

impl Apt {
    fn prepare(suite: &str, folder: &Path) -> Result<Self, Error> {
        let folder = folder.join("apt");
        for below in ["state/lists/partial", "cache/archives/partial", "debs"] {
            let path = folder.join(below);
            fs::create_dir_all(&path).doing(|| format!("creating {}", path.display()))?;
        }
        let targets = indextargets()?;
        let sources = match sources_for(suite, &targets)? {
            None => None,
            Some(text) => {
                let path = folder.join("sources.list");
                fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
                Some(path)
            }
        };
        Ok(Apt { folder, sources })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").current_dir(&self.folder);
        let mut set = |key: &str, value: String| {
            command.args(["-o", &format!("{key}={value}")]);
        };
        set("Dir::State", self.folder.join("state").display().to_string());
        set("Dir::Cache", self.folder.join("cache").display().to_string());
        set("Acquire::Languages", "none".into());
        // As root apt would hand the download to the user _apt, who cannot write here.
        set("APT::Sandbox::User", String::new());
        if let Some(sources) = &self.sources {
            set("Dir::Etc::sourcelist", sources.display().to_string());
            set("Dir::Etc::sourceparts", "-".into());
        }
        command
    }

    fn update(&self) -> Result<(), Error> {
        child::output(self.command("apt-get").args(["update", "-q"]), "apt").map(drop)
    }

    /// Package names that fit, oldest first.
    fn names(&self, pattern: &str) -> Result<Vec<String>, Error> {
        let stem = pattern.split('*').next().unwrap_or_default();
        let output = child::output(self.command("apt-cache").args(["pkgnames", stem]), "apt")?;
        let output = String::from_utf8_lossy(&output);
        let mut names: Vec<String> = output.lines().filter(|name| fits(pattern, name)).map(str::to_owned).collect();
        names.sort_by(|a, b| by_number(a, b));
        Ok(names)
    }

    /// `package` may name a version: `NAME=VERSION`.
    fn download(&self, package: &str) -> Result<PathBuf, Error> {
        let debs = self.folder.join("debs");
        let mut command = self.command("apt-get");
        child::output(command.args(["download", "-q", package]).current_dir(&debs), "apt")?;
        let (name, _) = package.split_once('=').unwrap_or((package, ""));
        let start = format!("{name}_");
        let named = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&start));
        let found = super::files_below(&debs, 1).into_iter().find(named);
        found.ok_or_else(|| Error::BadKernel { path: debs, why: format!("apt-get download left no {package}_*.deb") })
    }
}

/// A source the machine follows.
struct Target {
    uri: String,
    release: String,
    codename: String,
}

fn indextargets() -> Result<Vec<Target>, Error> {
    let format = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)";
    let mut command = Command::new("apt-get");
    let output = child::output(command.args(["indextargets", "--format", format, "Created-By: Packages"]), "apt")?;
    let target = |line: &str| match line.split('|').collect::<Vec<_>>()[..] {
        [uri, release, codename, "main"] => {
            Some(Target { uri: uri.into(), release: release.into(), codename: codename.into() })
        }
        _ => None,
    };
    Ok(String::from_utf8_lossy(&output).lines().filter_map(target).collect())
}

/// A sources list for `suite`, made of the machine's own; `None` if the machine follows the suite itself.
fn sources_for(suite: &str, targets: &[Target]) -> Result<Option<String>, Error> {
    if targets.iter().any(|target| target.release == suite || target.codename == suite) {
        return Ok(None);
    }
    let security = |target: &&Target| target.release.ends_with("-security");
    let pocket = |target: &&Target| target.release.contains('-');
    let Some(archive) = targets.iter().find(|target| !pocket(target)) else {
        let why = format!("apt follows no archive of which to ask for {suite}; add one, or give a kernel's path");
        return Err(Error::NoKernel { spec: suite.into(), why });
    };
    let keyring = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let mut text = format!("deb {keyring}{} {suite} main\n", archive.uri);
    if let Some(security) = targets.iter().find(security).filter(|_| suite != "sid") {
        text += &format!("deb {keyring}{} {suite}-security main\n", security.uri);
    }
    Ok(Some(text))
}

/// Whether `name` fits `pattern`, in which `*` stands for digits and dots.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|middle| {
                !middle.is_empty() && middle.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            })
        }
    }
}

/// Compares digits as numbers: 6.1.0-9 comes before 6.1.0-56.
fn by_number(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_numbers_only_and_the_newest_comes_last() {
        let pattern = "linux-image-6.1.0-*-cloud-amd64";
        assert!(fits(pattern, "linux-image-6.1.0-56-cloud-amd64"));
        assert!(!fits(pattern, "linux-image-6.1.0-56-cloud-amd64-dbg"));
        assert!(!fits(pattern, "linux-image-6.1.0-rt-cloud-amd64"));
        assert_eq!(by_number("linux-image-6.1.0-9-cloud", "linux-image-6.1.0-56-cloud"), Ordering::Less);
    }

    #[test]
    fn a_package_that_is_not_the_pinned_one_is_refused_with_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let deb = folder.path().join("image.deb");
        fs::write(&deb, "what somebody else built").unwrap();
        let row = super::super::table().into_iter().find(|row| row.series == "6.1").unwrap();
        let (pin, pinned) = (&row.pin[0], &row.pin[0].debs[0]);
        let said = check(&deb, &row, pin, pinned).unwrap_err().to_string();
        assert!(
            said.contains(&pinned.sha256) && said.contains("--kernel 6.1)") && said.contains("nothing was kept"),
            "{said}"
        );
        let right = super::super::PinnedDeb { sha256: sha256(&deb).unwrap(), ..pinned.clone() };
        assert!(check(&deb, &row, pin, &right).is_ok());
    }

    #[test]
    fn another_suite_is_asked_for_at_the_machines_own_archive() {
        let target =
            |uri: &str, release: &str| Target { uri: uri.into(), release: release.into(), codename: release.into() };
        let own = [target("mirror:/debian/", "bookworm"), target("mirror:/security/", "bookworm-security")];
        assert!(sources_for("bookworm", &own).unwrap().is_none());
        let other = sources_for("bullseye", &own).unwrap().unwrap();
        let lines: Vec<_> =
            other.lines().map(|line| line.split_whitespace().rev().take(3).collect::<Vec<_>>()).collect();
        assert_eq!(
            lines,
            [["main", "bullseye", "mirror:/debian/"], ["main", "bullseye-security", "mirror:/security/"]]
        );
        assert!(sources_for("bullseye", &[]).is_err());
    }
}
