//! What a run needs of this machine: each need with its state and the command that mends it.

use crate::dialect;
use crate::failure::{Failure, exit};
use crate::programs;
use crate::sockets;
use crate::space;
use guest_vm::{Accel, KernelSpec, kernel};
use kernel_trace::KernelFacts;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Space that a usual run wants in its folder.
const USUAL_RUN_BYTES: u64 = 512 << 20;

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Ok,
    /// It is not, and nothing here is lost: it will be fetched, or only a part of the tests wants it.
    Advice,
    /// It is not, and no run is possible.
    Missing,
}

/// One need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// What.
    pub need: String,
    /// Whether it is there.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The command that mends it; empty where nothing is to be mended.
    pub mend: String,
}

impl Need {
    fn new(need: &str, state: State, found: impl Into<String>, mend: &str) -> Need {
        let mend = if state == State::Ok { "" } else { mend };
        Need { need: need.to_owned(), state, found: found.into(), mend: mend.to_owned() }
    }

    /// From something that is there or says why not.
    fn of<T: Into<String>>(need: &str, found: Result<T, String>, absent: State, mend: &str) -> Need {
        match found {
            Ok(found) => Need::new(need, State::Ok, found, mend),
            Err(why) => Need::new(need, absent, why, mend),
        }
    }
}

/// Looks at everything.
pub fn examine(vhost_blk: Option<&Path>, guest_init: Option<&Path>, wanted: Option<&str>) -> Vec<Need> {
    let mut needs = vec![
        architecture(),
        host_program("qemu-system-x86_64", "runs the guest", &["--version"], "apt-get install qemu-system-x86"),
    ];
    for name in ["mke2fs", "dumpe2fs", "e2fsck", "debugfs"] {
        needs.push(host_program(name, "makes and checks the image", &["-V"], "apt-get install e2fsprogs"));
    }
    needs.push(ours("vhost-blk", vhost_blk));
    needs.push(ours("guest-init", guest_init));
    needs.push(accelerator());
    needs.push(kernel_source());
    needs.extend(kernel_needs(wanted));
    needs.push(free_space(Path::new(".")));
    needs.push(browser());
    needs
}

/// The exit code that says the same.
pub fn exit_code(needs: &[Need]) -> u8 {
    let missing = needs.iter().any(|need| need.state == State::Missing);
    if missing { exit::INFRASTRUCTURE } else { exit::AS_EXPECTED }
}

/// Lines for people.
pub fn table(needs: &[Need]) -> String {
    let mut text = String::new();
    for need in needs {
        let state = match need.state {
            State::Ok => "ok",
            State::Advice => "note",
            State::Missing => "MISSING",
        };
        let mend = if need.mend.is_empty() { String::new() } else { format!("  ->  {}", need.mend) };
        writeln!(text, "{state:<8} {:<36} {}{mend}", need.need, need.found).expect("a String takes everything");
    }
    text
}

/// Removes what ended runs left behind, and says what.
pub fn clean() -> Vec<String> {
    sockets::remove_abandoned().iter().map(|path| path.display().to_string()).collect()
}

fn architecture() -> Need {
    let found = std::env::consts::ARCH;
    let state = if found == "x86_64" { State::Ok } else { State::Missing };
    Need::new("x86-64 host", state, found, "use an x86-64 Linux machine")
}

fn host_program(name: &str, why: &str, version: &[&str], mend: &str) -> Need {
    let found = programs::on_host(name).ok_or_else(|| "not in PATH, /usr/sbin or /sbin".to_owned());
    let found = found.map(|path| format!("{} ({})", path.display(), first_line(&path, version)));
    Need::of(&format!("{name}: {why}"), found, State::Missing, mend)
}

/// e2fsprogs print their version on stderr.
fn first_line(path: &Path, args: &[&str]) -> String {
    let Ok(output) = Command::new(path).args(args).output() else { return "cannot be started".into() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

fn ours(name: &str, given: Option<&Path>) -> Need {
    let found = programs::locate(name, given).and_then(|path| {
        programs::same_version(name, &path)?;
        Ok(format!("{} (version {})", path.display(), programs::VERSION))
    });
    // The remedy has a column of its own.
    let why = |failure| match failure {
        Failure::Infrastructure { what, .. } => what,
        other => other.to_string(),
    };
    Need::of(name, found.map_err(why), State::Missing, "scripts/build")
}

fn accelerator() -> Need {
    let choice = Accel::Auto.choose();
    Need::of(
        "accelerator",
        choice.map(|choice| choice.why).map_err(|error| error.to_string()),
        State::Advice,
        "nothing needs mending: TCG serves every scenario",
    )
}

fn kernel_source() -> Need {
    let found = match (programs::on_host("apt-get"), programs::on_host("dpkg-deb")) {
        (Some(apt), Some(_)) => Ok(format!("{} (downloads stock kernels as this user)", apt.display())),
        _ => Err("no apt-get and dpkg-deb: stock Debian kernels cannot be downloaded".to_owned()),
    };
    Need::of("apt-get: fetches kernels", found, State::Advice, "name a kernel of your own with --kernel PATH")
}

/// The kernel of a run, and what would be judged with it. Asks the cache only: nothing is downloaded here.
fn kernel_needs(wanted: Option<&str>) -> Vec<Need> {
    let text = wanted.unwrap_or(crate::args::DEFAULT_KERNEL);
    let name = format!("kernel {text}");
    let spec: KernelSpec = match text.parse() {
        Ok(spec) => spec,
        Err(error) => {
            return vec![Need::of::<String>(
                &name,
                Err(format!("{error}")),
                State::Missing,
                "name another with --kernel",
            )];
        }
    };
    let cache = kernel::default_cache();
    // A path of the user's own is unpacked into the cache; that downloads nothing.
    let found = match spec {
        KernelSpec::Path(_) => kernel::obtain(&spec, &cache).map(Some),
        _ => kernel::cached(&spec, &cache),
    };
    match found {
        Ok(Some(kernel)) => kernel_found(&name, &kernel),
        Ok(None) => {
            let why = format!("not in {} yet", cache.display());
            vec![Need::of::<String>(
                &name,
                Err(why),
                State::Advice,
                "nothing needs mending: the first run downloads it",
            )]
        }
        Err(error) => {
            vec![Need::of::<String>(&name, Err(error.to_string()), State::Missing, "name another with --kernel")]
        }
    }
}

fn kernel_found(name: &str, kernel: &guest_vm::Kernel) -> Vec<Need> {
    let version = kernel.version.as_deref().unwrap_or("of your own");
    let elf = std::fs::read(&kernel.vmlinux).map_err(|error| error.to_string());
    let build = elf.as_deref().map(kernel::build).unwrap_or_default();
    let facts = elf.and_then(|elf| KernelFacts::from_vmlinux(&elf).map_err(|error| error.to_string()));
    let identity = dialect::Identity { release: &kernel.release, build: &build };
    // What mends it depends on what is missing; the reason itself says what a kernel without types would need.
    let mend = if facts.is_ok() { "guest-tests run --dialect DIALECT" } else { "for lockstep, take another kernel" };
    let judged = facts.and_then(|_| dialect::choose(None, identity)).map(|chosen| {
        let exact = if chosen.exact { "" } else { " (the nearest one)" };
        format!("lockstep in dialect {}{exact}, findings, end state, kernel log", chosen.dialect.describe())
    });
    let judged = judged.map_err(|why| format!("findings, end state and kernel log, but no lockstep: {why}"));
    vec![
        Need::new(name, State::Ok, format!("{} ({version})", kernel.release), ""),
        Need::of("judged with it", judged, State::Advice, mend),
    ]
}

fn free_space(path: &Path) -> Need {
    let found = match space::free_bytes(path) {
        Ok(free) if free >= USUAL_RUN_BYTES => Ok(format!("{} MiB here", free >> 20)),
        Ok(free) => Err(format!("{} MiB here, a run wants {}", free >> 20, USUAL_RUN_BYTES >> 20)),
        Err(failure) => Err(failure.to_string()),
    };
    Need::of("free space", found, State::Missing, "make room, or choose another place with --out")
}

fn browser() -> Need {
    let given = std::env::var_os("CHROMIUM").map(std::path::PathBuf::from).filter(|path| path.is_file());
    let found = given.or_else(|| programs::on_host("chromium")).ok_or_else(|| "not found".to_owned());
    let found = found.map(|path| path.display().to_string());
    Need::of("chromium: only a test wants it", found, State::Advice, "scripts/setup --tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_need_fails_and_only_what_is_not_ok_has_a_remedy() {
        let note = Need::of::<String>("a", Err("no".into()), State::Advice, "mend a");
        let fine = Need::of("b", Ok("yes"), State::Missing, "mend b");
        assert_eq!((note.mend.as_str(), fine.mend.as_str()), ("mend a", ""));
        assert_eq!(exit_code(&[note.clone(), fine]), 0);
        let missing = Need::of::<String>("c", Err("no".into()), State::Missing, "mend c");
        assert_eq!(exit_code(&[note, missing.clone()]), 4);
        assert!(table(&[missing]).contains("mend c"));
    }
}
