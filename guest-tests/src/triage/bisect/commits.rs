//! Over our own commits: each is built in a work tree of its own, and runs and judges the scenario with what it built.
//!
//! What a commit's own judge said counts, since the judge may be what changed. One build folder serves all commits. Whatever
//! ends the search, work tree and build folder are removed.

use super::{Change, Halved, Judge, Report, Seen, Wanted, halve};
use crate::args;
use crate::failure::{At, Failure};
use crate::folder::{self, RunFolder};
use crate::interrupt::Interrupt;
use crate::triage::runs;
use crate::{show, space};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What a build may take of the disk.
const BUILD_BYTES: u64 = 4 << 30;

/// See the module.
pub fn over(from: &Wanted, wanted: &args::Bisect, range: &str, interrupt: &Interrupt) -> Result<Report, Failure> {
    let repository = Repository::here()?;
    space::require(&repository.path, BUILD_BYTES)?;
    over_in(&repository, from, wanted, range, interrupt)
}

fn over_in(
    repository: &Repository,
    from: &Wanted,
    wanted: &args::Bisect,
    range: &str,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let commits = repository.commits(range)?;
    let shop = Workshop::open(repository, wanted.scratch.as_deref())?;
    let scenario = shop.path.join(folder::SCENARIO);
    fs::write(&scenario, from.scenario.to_json()).at("write", &scenario)?;
    let mut judge = Judge::new(from.signature.clone());
    if from.signature.is_none() {
        judge.wanted = shop.at(&commits[commits.len() - 1], wanted, &scenario, interrupt)?.ok().flatten();
    }
    let halved = halve(commits.len(), |place| -> Result<Seen, Failure> {
        let commit = &commits[place];
        show::progress(&format!("building {}", commit.describe()));
        match shop.at(commit, wanted, &scenario, interrupt)? {
            Ok(signature) => Ok(judge.shown(place, &commit.describe(), signature)),
            Err(why) => Ok(judge.skipped(place, &commit.describe(), why)),
        }
    })?;
    let found = say(&halved, &commits)?;
    Ok(judge.report(found, true))
}

fn say(halved: &Halved, commits: &[Commit]) -> Result<Vec<String>, Failure> {
    match halved {
        Halved::Changes(Change { before, after, comes }) => {
            let word = if *comes { "appears" } else { "disappears" };
            let between = after - before - 1;
            let also = match between {
                0 => String::new(),
                n => format!(", or with one of the {n} before it that were skipped"),
            };
            Ok(vec![format!("it {word} with commit {}{also}", commits[*after].describe())])
        }
        Halved::Alike { .. } => Ok(Vec::new()),
        Halved::NoEnd { place, why } => {
            Err(Failure::BadInput(format!("nothing can be said of {}: {why}", commits[*place].describe())))
        }
    }
}

/// A commit by its hash and first line.
struct Commit {
    hash: String,
    subject: String,
}

impl Commit {
    fn describe(&self) -> String {
        format!("{} {}", self.hash.get(..12).unwrap_or(&self.hash), self.subject)
    }
}

/// The repository of this program's code.
struct Repository {
    path: PathBuf,
}

impl Repository {
    fn here() -> Result<Repository, Failure> {
        let path = git(Path::new("."), &["rev-parse", "--show-toplevel"]).map_err(|said| {
            Failure::BadInput(format!("--commits works in a clone of this project's repository: {said}"))
        })?;
        let path = PathBuf::from(path.trim());
        if !path.join("scripts/build").is_file() || !path.join("guest-tests").is_dir() {
            let text = format!("{} is not a clone of this project: it has no scripts/build", path.display());
            return Err(Failure::BadInput(format!("{text}; change to one")));
        }
        Ok(Repository { path })
    }

    /// GOOD itself, then what lies between, to BAD, along first parents.
    fn commits(&self, range: &str) -> Result<Vec<Commit>, Failure> {
        let (good, bad) = range
            .split_once("..")
            .filter(|(good, bad)| !good.is_empty() && !bad.is_empty() && !bad.starts_with('.'))
            .ok_or_else(|| Failure::BadInput(format!("--commits {range}: write GOOD..BAD")))?;
        let wrong = |said| Failure::BadInput(format!("--commits {range}: {said}"));
        git(&self.path, &["merge-base", "--is-ancestor", good, bad])
            .map_err(|_| wrong(format!("{good} is no ancestor of {bad}, or one of them is no commit")))?;
        let first = git(&self.path, &["log", "-1", "--format=%H %s", good]).map_err(wrong)?;
        let between = ["log", "--first-parent", "--reverse", "--format=%H %s", &format!("{good}..{bad}")];
        let rest = git(&self.path, &between).map_err(wrong)?;
        let commits: Vec<Commit> = first.lines().chain(rest.lines()).filter_map(commit).collect();
        if commits.len() < 2 {
            return Err(wrong("there is nothing between them".to_owned()));
        }
        Ok(commits)
    }
}

fn commit(line: &str) -> Option<Commit> {
    let (hash, subject) = line.split_once(' ')?;
    Some(Commit { hash: hash.to_owned(), subject: subject.to_owned() })
}

/// What git printed; an error: what it said.
fn git(at: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(at).args(args).output().map_err(|error| format!("git: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A work tree and a build folder, gone when the value is.
struct Workshop<'r> {
    repository: &'r Repository,
    path: PathBuf,
    tree: PathBuf,
    _folder: tempfile::TempDir,
}

impl<'r> Workshop<'r> {
    fn open(repository: &'r Repository, scratch: Option<&Path>) -> Result<Workshop<'r>, Failure> {
        let parent = scratch.map_or_else(|| repository.path.join("target"), Path::to_owned);
        fs::create_dir_all(&parent).at("make", &parent)?;
        let folder = tempfile::Builder::new().prefix("bisect-").tempdir_in(&parent).at("make a folder in", &parent)?;
        // Work trees of searches that were killed.
        let _ = git(&repository.path, &["worktree", "prune"]);
        let path = folder.path().to_owned();
        let tree = path.join("tree");
        let place = tree.display().to_string();
        git(&repository.path, &["worktree", "add", "--detach", "--force", &place, "HEAD"])
            .map_err(|said| Failure::infrastructure(format!("git cannot make a work tree: {said}"), ""))?;
        Ok(Workshop { repository, path, tree, _folder: folder })
    }

    /// The failure that this commit shows; none: nothing to report. The inner error: why nothing can be said of it.
    fn at(
        &self,
        commit: &Commit,
        wanted: &args::Bisect,
        scenario: &Path,
        interrupt: &Interrupt,
    ) -> Result<Result<Option<String>, String>, Failure> {
        if let Err(said) = git(&self.tree, &["checkout", "--detach", "--force", &commit.hash]) {
            return Ok(Err(format!("it cannot be checked out: {said}")));
        }
        let log = self.path.join("build.log");
        let mut build = Command::new("scripts/build");
        build.current_dir(&self.tree).env("CARGO_TARGET_DIR", self.path.join("target"));
        if !wait(start(&mut build, &log)?, interrupt)?.success() {
            return Ok(Err(format!("it does not build: {}", last_line(&log))));
        }
        let out = self.path.join("run");
        for _ in 0..wanted.tries.max(1) {
            let mut run = self.run(wanted, scenario, &out);
            let ended = wait(start(&mut run, &log)?, interrupt)?;
            if !matches!(ended.code(), Some(0 | 1 | 3)) {
                return Ok(Err(format!("guest-tests run ended with {ended}: {}", last_line(&log))));
            }
            let seen = judged(&out);
            if seen != Ok(None) {
                return Ok(seen);
            }
        }
        Ok(Ok(None))
    }

    fn run(&self, wanted: &args::Bisect, scenario: &Path, out: &Path) -> Command {
        let mut run = Command::new(self.path.join("target/release/guest-tests"));
        run.arg("run").arg(scenario).arg("--out").arg(out).arg("--time-limit").arg(wanted.time_limit.to_string());
        run.args(["--kernel", wanted.kernel.as_deref().unwrap_or(args::DEFAULT_KERNEL)]);
        run.args(["--accel", wanted.accel.word()]);
        if let Some(seed) = wanted.seed {
            run.arg("--seed").arg(seed.to_string());
        }
        run
    }
}

/// What the commit's own judge left in the folder.
fn judged(out: &Path) -> Result<Option<String>, String> {
    let look = || -> Result<Option<String>, Failure> {
        let folder = RunFolder::open(out)?;
        Ok(runs::look_as_judged(&folder)?.map(|signature| signature.to_string()))
    };
    look().map_err(|failure| format!("its run cannot be read: {failure}"))
}

impl Drop for Workshop<'_> {
    fn drop(&mut self) {
        let place = self.tree.display().to_string();
        if git(&self.repository.path, &["worktree", "remove", "--force", &place]).is_err() {
            let _ = fs::remove_dir_all(&self.tree);
            let _ = git(&self.repository.path, &["worktree", "prune"]);
        }
    }
}

/// Starts it in a process group of its own, so that all of it can be ended.
fn start(command: &mut Command, log: &Path) -> Result<Child, Failure> {
    let out = File::create(log).at("write", log)?;
    let err = out.try_clone().at("write", log)?;
    command.process_group(0).stdin(Stdio::null()).stdout(out).stderr(err);
    let program = PathBuf::from(command.get_program());
    command.spawn().at("start", program)
}

fn wait(mut child: Child, interrupt: &Interrupt) -> Result<ExitStatus, Failure> {
    loop {
        let ended = child.try_wait().map_err(|error| Failure::infrastructure(format!("cannot wait: {error}"), ""))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        if let Err(failure) = interrupt.check() {
            let group = Pid::from_raw(child.id().cast_signed());
            // SIGTERM, which our own programs take for Ctrl-C and clean up behind.
            let _ = killpg(group, Signal::SIGTERM);
            let _ = child.wait();
            return Err(failure);
        }
        std::thread::sleep(LOOK);
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let error = text.lines().rev().find(|line| line.starts_with("error"));
    error.or(text.lines().next_back()).unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use crate::failure::exit;

    fn run(at: &Path, args: &[&str]) {
        let mine = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"];
        git(at, &[&mine, args].concat()).unwrap();
    }

    /// A repository with four commits. The second does not build; from the third on the "program" leaves a run that failed,
    /// before that one with nothing to report.
    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &["init", "-q"]);
        for n in 0..4 {
            fs::create_dir_all(dir.path().join("scripts")).unwrap();
            fs::create_dir_all(dir.path().join("guest-tests")).unwrap();
            fs::write(dir.path().join("scripts/build"), build(n)).unwrap();
            fs::write(dir.path().join("guest-tests/n"), n.to_string()).unwrap();
            run(dir.path(), &["add", "-A"]);
            run(dir.path(), &["update-index", "--chmod=+x", "scripts/build"]);
            run(dir.path(), &["commit", "-q", "-m", &format!("commit {n}")]);
        }
        dir
    }

    /// A build that makes a "guest-tests" of two lines.
    fn build(n: usize) -> String {
        let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
        let (recording, code) = if n < 2 { ("clean-interleaved", 0) } else { ("stale-after-error", 1) };
        let recording = show::quote(&recordings.join(recording).display().to_string());
        let program = format!("#!/bin/sh\nrm -rf \"$4\"; cp -r {recording} \"$4\"; exit {code}\n");
        let exit = u8::from(n == 1);
        format!(
            "#!/bin/sh\necho error: no {n}\nmkdir -p \"$CARGO_TARGET_DIR/release\"\n\
             cat >\"$CARGO_TARGET_DIR/release/guest-tests\" <<'END'\n{program}END\n\
             chmod +x \"$CARGO_TARGET_DIR/release/guest-tests\"\nexit {exit}\n"
        )
    }

    fn from(signature: Option<&str>) -> Wanted {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/stale-after-error.json");
        Wanted { scenario: crate::scenario::load(&path).unwrap(), signature: signature.map(str::to_owned), host: None }
    }

    #[test]
    fn the_commit_with_which_a_failure_appears_is_found_past_one_that_does_not_build() {
        let (dir, scratch) = (repository(), tempfile::tempdir().unwrap());
        let repository = Repository { path: dir.path().to_owned() };
        let wanted = args::Bisect { scratch: Some(scratch.path().to_owned()), ..wanted() };
        let interrupt = Interrupt::default();
        let report = over_in(&repository, &from(None), &wanted, "HEAD~3..HEAD", &interrupt).unwrap();
        let seen: Vec<(&str, &str)> =
            report.looked.iter().map(|looked| (looked.place.split_at(13).1, looked.seen)).collect();
        let all = [("commit 0", "shows not"), ("commit 1", "skipped"), ("commit 2", "shows"), ("commit 3", "shows")];
        assert_eq!(seen, all);
        assert!(report.signature.unwrap().contains("converted-after-failed-write"));
        assert!(
            report.found[0].ends_with("commit 2, or with one of the 1 before it that were skipped"),
            "{:?}",
            report.found
        );
        let other = over_in(&repository, &from(Some("another failure")), &wanted, "HEAD~3..HEAD", &interrupt).unwrap();
        assert_eq!(
            (other.found.len(), other.exit_code()),
            (0, exit::NOT_JUDGED),
            "a failure of another name is not it"
        );
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn commits_come_from_good_to_bad_and_a_wrong_range_is_refused() {
        let dir = repository();
        let repository = Repository { path: dir.path().to_owned() };
        let subjects: Vec<String> =
            repository.commits("HEAD~3..HEAD").unwrap().into_iter().map(|commit| commit.subject).collect();
        assert_eq!(subjects, ["commit 0", "commit 1", "commit 2", "commit 3"]);
        for range in ["HEAD", "HEAD..HEAD~1", "nothing..HEAD", "HEAD..HEAD", "HEAD~1...HEAD"] {
            assert_eq!(repository.commits(range).map(|_| ()).unwrap_err().exit_code(), 2, "{range}");
        }
    }

    #[test]
    fn nothing_is_left_of_a_workshop() {
        let dir = repository();
        let scratch = tempfile::tempdir().unwrap();
        let repository = Repository { path: dir.path().to_owned() };
        let shop = Workshop::open(&repository, Some(scratch.path())).unwrap();
        assert!(shop.tree.join("guest-tests/n").is_file());
        drop(shop);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert_eq!(git(dir.path(), &["worktree", "list"]).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_commit_that_does_not_build_is_skipped_with_what_the_build_said() {
        let dir = repository();
        let scratch = tempfile::tempdir().unwrap();
        let repository = Repository { path: dir.path().to_owned() };
        let shop = Workshop::open(&repository, Some(scratch.path())).unwrap();
        let commits = repository.commits("HEAD~3..HEAD").unwrap();
        let interrupt = Interrupt::default();
        let seen = shop.at(&commits[1], &wanted(), Path::new("s.json"), &interrupt).unwrap();
        assert_eq!(seen, Err("it does not build: error: no 1".to_owned()));
    }

    #[test]
    fn ctrl_c_ends_what_is_under_way_with_all_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mut sleeper = Command::new("sh");
        sleeper.args(["-c", "sleep 600 & echo $! ; wait"]);
        let log = dir.path().join("log");
        let child = start(&mut sleeper, &log).unwrap();
        while fs::read_to_string(&log).unwrap().trim().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let interrupt = Interrupt::default();
        interrupt.flag().store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(wait(child, &interrupt), Err(Failure::Interrupted)));
        let grandchild: i32 = fs::read_to_string(&log).unwrap().trim().parse().unwrap();
        let gone = || match fs::read_to_string(format!("/proc/{grandchild}/stat")) {
            // Whoever adopts it may take its time to bury it.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wanted() -> args::Bisect {
        args::Bisect {
            from: "s.json".into(),
            kernels: None,
            commits: None,
            kernel: None,
            scratch: None,
            accel: args::Accel::Tcg,
            seed: None,
            tries: 1,
            time_limit: 120,
        }
    }
}
