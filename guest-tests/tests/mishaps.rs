//! Runs that are disturbed, or kept from starting: each ends with its exit code and a sentence, and leaves nothing behind.

mod guests;

use guests::{one_at_a_time, program, scenario, start};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn what_is_wrong_before_anything_starts_has_exit_code_2_and_starts_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let bad = dir.path().join("bad.json");
    let text = std::fs::read_to_string(scenario("never-fires")).expect("it is in the tree");
    std::fs::write(&bad, text.replace("\"nth\"", "\"nht\"")).expect("written");
    let out = dir.path().join("out");
    let output = start(&["run".as_ref(), bad.as_ref(), "--out".as_ref(), out.as_ref()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nht") && said.contains("did you mean"), "{said}");
    assert!(!out.exists(), "a run was begun");
    assert_eq!(start(&["no-such-command".as_ref()]).status.code(), Some(2));
}

/// A run that a test breaks, and the processes it has started.
struct Broken {
    folder: tempfile::TempDir,
    run: std::process::Child,
    progress: BufReader<std::process::ChildStderr>,
    children: Vec<(i32, String)>,
    sockets: PathBuf,
}

/// A scenario whose guest stays at work until it is disturbed.
fn endless(folder: &Path) -> PathBuf {
    let path = folder.join("endless.json");
    let text = r#"{"scenario":1,"name":"endless","why":"a guest at work until it is disturbed","kernels":"any",
        "workload":[{"op":"create","path":"f"},{"op":"sleep_ms","ms":300000}],"expect":[{"verdict":"same"}]}"#;
    std::fs::write(&path, text).expect("written");
    path
}

/// Starts a run and waits until its guest is at work, which the run's own progress tells.
fn start_to_break() -> Broken {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let aside = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(program());
    command.arg("run").arg(endless(aside.path())).arg("--out").arg(folder.path()).args(["--time-limit", "600"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = command.spawn().expect("it was there a moment ago");
    let mut progress = BufReader::new(run.stderr.take().expect("it is a pipe"));
    let mut said = String::new();
    while !said.contains("sleep_ms") {
        assert_ne!(
            progress.read_line(&mut said).expect("text"),
            0,
            "the run ended before its guest was at work: {said}"
        );
    }
    let children = children(run.id());
    assert_eq!(children.len(), 2, "{children:?}");
    let disk = children.iter().find(|(_, name)| name == "vhost-blk").expect("one of the two");
    let sockets = folder_of_sockets(disk.0);
    Broken { folder, run, progress, children, sockets }
}

/// Processes whose parent is `parent`, with their names; not the short-lived tools that make the image.
fn children(parent: u32) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux has /proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let name = &stat[open + 1..close];
        let of_parent = stat[close + 1..].split_whitespace().nth(1) == Some(&parent.to_string());
        if of_parent && (name.starts_with("qemu-system") || name == "vhost-blk") {
            found.push((stat[..open].trim().parse().expect("a pid"), name.to_owned()));
        }
    }
    found
}

/// Where the control socket of this disk lies, by its command line.
fn folder_of_sockets(disk: i32) -> PathBuf {
    let words = std::fs::read(format!("/proc/{disk}/cmdline")).expect("it lives");
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let at = words.iter().position(|word| *word == b"--control-path").expect("every run has one");
    let path = PathBuf::from(String::from_utf8_lossy(words[at + 1]).into_owned());
    path.parent().expect("a file in a folder").to_owned()
}

impl Broken {
    fn pid_of(&self, name: &str) -> i32 {
        self.children.iter().find(|(_, child)| child.starts_with(name)).expect("it was started").0
    }

    fn signal(&self, pid: i32, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it lives");
    }

    /// Exit code and stderr; and nothing that was started is left, on the machine or of the image.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.progress.read_to_string(&mut said).expect("text");
        let code = self.run.wait().expect("our own child").code();
        for (pid, name) in &self.children {
            let gone = || !Path::new(&format!("/proc/{pid}")).exists();
            let waited = (0..2000).find(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                gone()
            });
            assert!(waited.is_some(), "{name} ({pid}) outlived its run");
        }
        if code.is_some() {
            assert!(!self.folder.path().join("disk.img").exists(), "the image is left behind");
            assert!(!self.sockets.exists(), "{} is left behind", self.sockets.display());
        }
        (code, said)
    }
}

#[test]
fn ctrl_c_ends_everything_with_130() {
    let _guard = one_at_a_time();
    let broken = start_to_break();
    broken.signal(broken.run.id().cast_signed(), nix::sys::signal::Signal::SIGINT);
    let (code, said) = broken.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("ended by Ctrl-C"), "{said}");
}

#[test]
fn a_killed_qemu_or_disk_is_named_and_the_run_is_not_judged() {
    let _guard = one_at_a_time();
    for (victim, sentence) in
        [("qemu", "QEMU ended (killed by signal 9)"), ("vhost-blk", "vhost-blk was killed by signal 9")]
    {
        let broken = start_to_break();
        broken.signal(broken.pid_of(victim), nix::sys::signal::Signal::SIGKILL);
        let (code, said) = broken.end();
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn nothing_outlives_a_killed_run_and_its_folder_is_no_recording() {
    let _guard = one_at_a_time();
    let broken = start_to_break();
    broken.signal(broken.run.id().cast_signed(), nix::sys::signal::Signal::SIGKILL);
    let folder = broken.folder.path().to_owned();
    let left = start(&["replay".as_ref(), folder.as_ref()]);
    assert_eq!(left.status.code(), Some(2), "a folder that was never finished is no recording");
    assert_eq!(broken.end().0, None);
}

#[test]
fn two_runs_at_once_do_not_disturb_each_other() {
    let _guard = one_at_a_time();
    let run = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(program());
        command.arg("run").arg(scenario("partial")).arg("--out").arg(folder.path()).args(["--time-limit", "600"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it was there a moment ago");
        (folder, child)
    };
    for (_folder, child) in [run(), run()] {
        let output = child.wait_with_output().expect("our own child");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Where the kernels that runs start by default are kept.
fn kernels() -> PathBuf {
    guest_vm::kernel::default_cache().join("kernels/6.1")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-rL").arg(from).arg(to).status().expect("every Linux has cp");
    assert!(copied.success());
}

/// Root runs it as somebody who owns nothing but one folder; everybody else is that already.
#[test]
fn an_ordinary_user_can_run_a_scenario() {
    let _guard = one_at_a_time();
    let home = tempfile::tempdir().expect("a temporary folder");
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    for name in ["guest-tests", "vhost-blk", "guest-init"] {
        copy(&program().with_file_name(name), &bin.join(name));
    }
    copy(&scenario("partial"), &home.path().join("scenario.json"));
    // An earlier run has fetched the kernel; nobody fetches it twice for a test.
    let cache = home.path().join("cache");
    if !kernels().is_dir() {
        start(&["run".as_ref(), scenario("partial").as_ref(), "--out".as_ref(), home.path().join("first").as_ref()]);
    }
    std::fs::create_dir_all(cache.join("guest-tests/kernels")).expect("made");
    copy(&kernels(), &cache.join("guest-tests/kernels/6.1"));
    let mut command = Command::new(bin.join("guest-tests"));
    command.current_dir(&home).args(["run", "scenario.json", "--out", "out", "--time-limit", "600"]);
    command.env("HOME", home.path()).env("XDG_CACHE_HOME", &cache);
    if nix::unistd::geteuid().is_root() {
        const NOBODY: u32 = 65_534;
        let given = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(home.path()).status();
        assert!(given.expect("every Linux has chown").success());
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().expect("it was copied just now");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A limit on the size of files stands for a full disk: what is too much is refused by the same call.
#[test]
fn a_host_without_room_is_named_with_the_path_and_is_no_finding() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" run \"$1\" --out \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program()).arg(scenario("partial")).arg(dir.path());
    let output = command.output().expect("every Linux has sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("{}/disk.img", dir.path().display())), "{said}");
    assert!(!dir.path().join("disk.img").exists(), "the image is left behind");
}

#[test]
fn a_folder_that_lost_something_is_refused_with_what_it_lost() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = start(&["run".as_ref(), scenario("partial").as_ref(), "--out".as_ref(), folder.path().as_ref()]);
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let replay = || {
        let output = start(&["replay".as_ref(), folder.path().as_ref()]);
        let said = [&output.stderr[..], &output.stdout[..]].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let file = |name: &str| folder.path().join(name);
    let cut = |name: &str, keep: usize| {
        let whole = std::fs::read(file(name)).expect("a run writes it");
        std::fs::write(file(name), &whole[..keep.min(whole.len() / 2)]).expect("written");
        whole
    };
    for (name, keep, code, says) in [
        ("device.jsonl", 0, 2, "has nothing in device.jsonl"),
        ("decisions.jsonl", 0, 2, "has nothing in decisions.jsonl"),
        ("device.jsonl", usize::MAX, 3, "device.jsonl"),
        ("decisions.jsonl", usize::MAX, 3, "decisions.jsonl"),
        ("ops.jsonl", usize::MAX, 2, "ops.jsonl is damaged"),
        ("guest.raw", usize::MAX, 3, "guest.raw"),
        ("host.json", usize::MAX, 2, "host.json"),
        ("scenario.json", usize::MAX, 2, "scenario.json"),
    ] {
        let whole = cut(name, keep);
        let (is, said) = replay();
        assert!(is == Some(code) && said.contains(says), "{name}: {is:?} {said}");
        std::fs::write(file(name), whole).expect("written");
    }
    std::fs::remove_file(file("ops.jsonl")).expect("it was there");
    let (is, said) = replay();
    assert!(is == Some(2) && said.contains("lacks ops.jsonl; run the scenario again"), "{said}");
}

#[test]
fn a_mount_option_or_an_argument_for_qemu_that_is_refused_is_told_in_their_own_words() {
    let _guard = one_at_a_time();
    let text = std::fs::read_to_string(scenario("partial")).expect("it is in the tree");
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (more, code, says) in [
        (
            r#""filesystem": {"mount": ["no_such_option"]},"#,
            3,
            ["the kernel said", "Unknown parameter 'no_such_option'"],
        ),
        (r#""guest": {"qemu": ["-no-such-argument"]},"#, 4, ["-no-such-argument", "/guest/qemu"]),
    ] {
        let file = dir.path().join("scenario.json");
        std::fs::write(&file, text.replacen('{', &format!("{{{more}"), 1)).expect("written");
        let out = dir.path().join("out");
        let output = start(&["run".as_ref(), file.as_ref(), "--out".as_ref(), out.as_ref()]);
        let said = [&output.stderr[..], &output.stdout[..]].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(says.iter().all(|word| said.contains(word)), "{said}");
    }
}
