//! The program `vhost-blk` as a process: its exit codes, signals, sockets and descriptors.

mod common;

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::*;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vhost-blk"))
}

fn folder_with_image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("disk"), pattern(64, 1)).expect("an image");
    folder
}

/// Starts to serve in a folder, and waits for the line that says so.
fn serve(folder: &Path, more: &[&str]) -> Served {
    let mut command = program();
    command.arg("--blk-file").arg(folder.join("disk")).arg("--socket-path").arg(folder.join("s")).args(more);
    started(command)
}

struct Served {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

fn started(mut command: Command) -> Served {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("ready on") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("stderr"), 0, "it ended before it was ready");
    }
    Served { child, stderr }
}

impl Served {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a living process");
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut said).expect("stderr");
        (self.child.wait().expect("it ends").code(), said)
    }
}

fn refused(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn capabilities_are_one_json_object() {
    let output = program().arg("--print-capabilities").output().expect("runs");
    assert!(output.status.success());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told, serde_json::json!({"type": "block", "features": ["read-only", "blk-file"]}));
}

#[test]
fn wrong_arguments_and_images_are_refused_with_2_and_a_remedy() {
    let folder = folder_with_image();
    std::fs::write(folder.path().join("q"), [b"QFI\xfb".as_slice(), &[0; 1020]].concat()).expect("an image");
    let socket = folder.path().join("s");
    let (socket, image) = (socket.to_str().expect("text"), folder.path().join("q"));
    let cases: [(&[&str], &str); 4] = [
        (&["--socket-path", socket], "--blk-file"),
        (&["--blk-file", "/nonexistent/disk", "--socket-path", socket], "/nonexistent/disk"),
        (&["--blk-file", image.to_str().expect("text"), "--socket-path", socket], "qemu-img convert -O raw"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (args, says) in cases {
        let (code, said) = refused(program().args(args).output().expect("runs"));
        assert_eq!(code, Some(2), "{args:?}");
        assert!(said.contains(says), "{said}");
        assert!(!Path::new(socket).exists(), "no socket was made");
    }
}

#[test]
fn sigterm_answers_what_is_held_and_ends_with_0() {
    let folder = folder_with_image();
    let script = folder.path().join("f.json");
    let text = r#"{"faultscript":1,"rules":[{"id":"h","match":{"op":"write"},"action":{"hold":{"until":"release"}}}]}"#;
    std::fs::write(&script, text).expect("a script");
    let trace = folder.path().join("t");
    let flags = ["--faults", script.to_str().expect("text"), "--trace-file", trace.to_str().expect("text")];
    let served = serve(folder.path(), &flags);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    let held = guest.send(0, OUT, 8, &pattern(1, 5), 0);
    assert_eq!(guest.read(0, 1).0, OK);
    served.signal(Signal::SIGTERM);
    assert_eq!(guest.used(0), (held.head, 1));
    assert_eq!(guest.status(&held), OK);
    assert_eq!(served.ends().0, Some(0));
    assert_eq!(std::fs::read(folder.path().join("disk")).expect("image")[8 * 512..9 * 512], pattern(1, 5));
    assert!(!folder.path().join("s").exists(), "its socket is gone");
    let record = read_record(&trace);
    assert_eq!(record.last().expect("a trailer")["complete"], true);
    assert_eq!(answers(&record), [(1, 0), (0, 0)]);
    let printed = program().arg("trace").arg(&trace).output().expect("runs");
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).expect("text").lines().count(), record.len());
}

#[test]
fn an_expect_that_was_not_met_ends_with_3_and_says_which() {
    let folder = folder_with_image();
    let script = folder.path().join("f.json");
    let text = r#"{"faultscript":1,"rules":[{"id":"never","match":{"op":"write"},"action":{"error":{"status":"ioerr"}}}],
        "expect":{"fired":{"never":[1,null]}}}"#;
    std::fs::write(&script, text).expect("a script");
    let served = serve(folder.path(), &["--faults", script.to_str().expect("text")]);
    served.signal(Signal::SIGINT);
    let (code, said) = served.ends();
    assert_eq!(code, Some(3));
    assert!(said.contains("never"), "{said}");
}

#[test]
fn a_bad_script_is_refused_with_its_place() {
    let folder = folder_with_image();
    let script = folder.path().join("bad.json");
    std::fs::write(&script, "{\"faultscript\":1,\n\"rulez\":[]}").expect("a script");
    let (code, said) = refused(program().args(["script", "check"]).arg(&script).output().expect("runs"));
    assert_eq!(code, Some(2));
    assert!(said.contains("bad.json:2:") && said.contains("E101"), "{said}");
}

#[test]
fn a_second_writer_is_refused_with_4() {
    let folder = folder_with_image();
    let served = serve(folder.path(), &[]);
    let mut second = program();
    second.arg("--blk-file").arg(folder.path().join("disk")).arg("--socket-path").arg(folder.path().join("s2"));
    let (code, said) = refused(second.output().expect("runs"));
    assert_eq!(code, Some(4));
    assert!(said.contains("in use by another process"), "{said}");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
}

#[test]
fn a_dead_process_s_socket_is_taken_over_and_a_living_one_s_is_not() {
    let folder = folder_with_image();
    let mut served = serve(folder.path(), &[]);
    served.child.kill().expect("killed");
    served.child.wait().expect("reaped");
    assert!(folder.path().join("s").exists(), "a killed process leaves its socket");
    let served = serve(folder.path(), &[]);
    std::fs::write(folder.path().join("other"), pattern(64, 1)).expect("an image");
    let mut second = program();
    second.arg("--blk-file").arg(folder.path().join("other")).arg("--socket-path").arg(folder.path().join("s"));
    let (code, said) = refused(second.output().expect("runs"));
    assert_eq!(code, Some(4));
    assert!(said.contains("already listens"), "{said}");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
}

/// Lets a child inherit a descriptor under its own number.
fn inheritable(fd: OwnedFd) -> OwnedFd {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    fd
}

#[test]
fn an_inherited_descriptor_may_be_connected_or_listening() {
    let folder = folder_with_image();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let theirs = inheritable(theirs.into());
    let mut command = program();
    command.arg("--blk-file").arg(folder.path().join("disk")).arg(format!("--fd={}", theirs.as_raw_fd()));
    let served = started(command);
    drop(theirs);
    let mut guest = Guest::over(ours, 2, !0);
    assert_eq!(guest.read(3, 2).2, pattern(64, 1)[3 * 512..5 * 512]);
    drop(guest);
    assert_eq!(served.ends().0, Some(0), "the only front-end left");

    let path = folder.path().join("listening");
    let listener = inheritable(UnixListener::bind(&path).expect("listens").into());
    let mut command = program();
    command.arg("--blk-file").arg(folder.path().join("disk")).arg(format!("--fd={}", listener.as_raw_fd()));
    let served = started(command);
    for _ in 0..2 {
        let mut guest = Guest::connect(&path, 1);
        assert_eq!(guest.read(0, 1).0, OK);
    }
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let folder = folder_with_image();
    let mut command = program();
    command.arg("--blk-file").arg(folder.path().join("disk")).arg("--fd=77");
    let (code, said) = refused(command.output().expect("runs"));
    assert_eq!(code, Some(4));
    assert!(said.contains("--fd=77"), "{said}");
}

#[test]
fn once_ends_with_its_front_end() {
    let folder = folder_with_image();
    let served = serve(folder.path(), &["--once"]);
    drop(UnixStream::connect(folder.path().join("s")).expect("a look at the socket is no front-end"));
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    assert_eq!(guest.read(0, 1).0, OK);
    drop(guest);
    assert_eq!(served.ends().0, Some(0));
}

#[test]
fn ctl_speaks_to_a_running_device_and_says_when_there_is_none() {
    let folder = folder_with_image();
    let control = folder.path().join("c");
    let served = serve(folder.path(), &["--control-path", control.to_str().expect("text")]);
    let asked = program().arg("ctl").arg(&control).args(["mark", "A"]).output().expect("runs");
    assert!(asked.status.success());
    let told: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    assert_eq!(told["name"], "A");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
    let (code, said) = refused(program().arg("ctl").arg(&control).arg("status").output().expect("runs"));
    assert_eq!(code, Some(4));
    assert!(said.contains("--control-path"), "{said}");
}

#[test]
fn an_idle_device_takes_less_than_20_mib() {
    let folder = folder_with_image();
    let served = serve(folder.path(), &[]);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    assert_eq!(guest.read(0, 1).0, OK);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).expect("proc");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("RssAnon");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    assert!(kib < 20 << 10, "{kib} KiB");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
}

fn ctl(folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = program().arg("ctl").arg(folder.join("c")).args(words).output().expect("runs");
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn people_change_a_running_script_from_the_command_line() {
    let folder = folder_with_image();
    let control = folder.path().join("c");
    let served = serve(folder.path(), &["--control-path", control.to_str().expect("text")]);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    let rule = r#"{"id":"x","match":{"op":"write"},"action":{"error":{"status":"ioerr"}}}"#;
    assert_eq!(ctl(folder.path(), &["rules", "add", rule]).0, Some(0));
    assert_eq!(guest.write(0, &pattern(1, 2)).0, IOERR);
    assert_eq!(ctl(folder.path(), &["rules", "disable", "x"]).0, Some(0));
    assert_eq!(guest.write(0, &pattern(1, 2)).0, OK);
    assert!(ctl(folder.path(), &["rules", "list"]).1.contains(r#""fired":1"#));
    for class in ["writes", "reads", "all"] {
        assert_eq!(ctl(folder.path(), &["fail_class", class]).0, Some(0));
        let answers = [guest.write(0, &pattern(1, 2)).0, guest.read(0, 1).0];
        assert_eq!(answers.map(|status| status == IOERR), [class != "reads", class != "writes"], "{class}");
    }
    assert_eq!(ctl(folder.path(), &["heal"]).0, Some(0));
    assert_eq!((guest.write(0, &pattern(1, 2)).0, guest.read(0, 1).0), (OK, OK));
    for (words, says) in [
        (&["rules", "remove", "nobody"][..], "no rule"),
        (&["rules", "add", "{"], "not JSON"),
        (&["rules", "add", r#"{"id":"y","action":{"eror":{}}}"#], "did you mean"),
        (&["fail_class", "flushes"], "writes, reads, all, none"),
    ] {
        let (code, said) = ctl(folder.path(), words);
        assert_eq!(code, Some(2), "{words:?}");
        assert!(said.contains(says), "{said}");
    }
    drop(guest);
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
}

#[test]
fn a_replay_that_diverges_ends_with_3_and_says_where() {
    let folder = folder_with_image();
    let script = folder.path().join("f.json");
    let text = r#"{"faultscript":1,"rules":[{"id":"r","match":{"op":"write"},"action":{"error":{"status":"ioerr"}}}]}"#;
    std::fs::write(&script, text).expect("a script");
    let recorded = folder.path().join("recorded");
    let faults = ["--faults", script.to_str().expect("text")];
    let (record, replay) =
        (["--decisions-file", recorded.to_str().expect("text")], ["--replay", recorded.to_str().expect("text")]);
    for (flags, sectors, code) in [(record, &[0, 8][..], 0), (replay, &[8, 0], 0), (replay, &[0], 3)] {
        let served = serve(folder.path(), &[&faults[..], &flags].concat());
        let mut guest = Guest::connect(&folder.path().join("s"), 1);
        sectors.iter().for_each(|sector| assert_eq!(guest.write(*sector, &pattern(1, 2)).0, IOERR));
        drop(guest);
        served.signal(Signal::SIGTERM);
        let (ended, said) = served.ends();
        assert_eq!(ended, Some(code), "{said}");
        assert_eq!(said.contains("replay diverged: rule \"r\": write 8+1, touch 1"), code == 3, "{said}");
    }
}

#[test]
fn a_new_process_under_a_guest_with_unanswered_requests_refuses_to_guess() {
    let folder = folder_with_image();
    let script = r#"{"faultscript":1,"rules":[{"id":"h","match":{"op":"write","sectors":[[8,16]]},"action":{"hold":{"until":"release"}}}]}"#;
    std::fs::write(folder.path().join("faults"), script).expect("a script");
    let faults = folder.path().join("faults");
    let first = serve(folder.path(), &["--faults", faults.to_str().expect("text")]);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    assert_eq!(guest.write(0, &pattern(1, 2)).0, OK);
    let held = guest.send(0, OUT, 8, &pattern(1, 3), 0);
    assert_eq!(guest.write(16, &pattern(1, 4)).0, OK, "answered before the one that came before it");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ends().0, None);
    let second = serve(folder.path(), &[]);
    guest.reconnect(&folder.path().join("s"));
    let (code, said) = second.ends();
    assert_eq!((code, said.lines().count()), (Some(4), 1), "{said}");
    assert!(said.contains("holds 1 requests that an earlier vhost-blk may have taken"), "{said}");
    assert_eq!(guest.status(&held), UNTOUCHED);
    assert_eq!(
        std::fs::read(folder.path().join("disk")).expect("the image")[8 * 512..9 * 512],
        pattern(64, 1)[8 * 512..9 * 512]
    );
}

#[test]
fn a_new_process_under_a_guest_at_rest_goes_on() {
    let folder = folder_with_image();
    let first = serve(folder.path(), &[]);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    assert_eq!(guest.write(0, &pattern(1, 2)).0, OK);
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ends().0, None);
    let second = serve(folder.path(), &[]);
    guest.reconnect(&folder.path().join("s"));
    assert_eq!(guest.read(0, 1).2, pattern(1, 2));
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ends().0, Some(0));
}

#[test]
fn who_only_looks_whether_the_socket_is_taken_is_no_session() {
    let folder = folder_with_image();
    let record = folder.path().join("t");
    let served = serve(folder.path(), &["--trace-file", record.to_str().expect("text")]);
    std::fs::write(folder.path().join("other"), pattern(64, 1)).expect("an image");
    let mut second = program();
    second.arg("--blk-file").arg(folder.path().join("other")).arg("--socket-path").arg(folder.path().join("s"));
    let (code, said) = refused(second.output().expect("runs"));
    assert_eq!(code, Some(4));
    assert!(said.contains("somebody already listens"), "{said}");
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    assert_eq!(guest.read(0, 1).0, OK);
    drop(guest);
    served.signal(Signal::SIGTERM);
    assert_eq!(served.ends().0, Some(0));
    let sessions: Vec<_> =
        read_record(&record).iter().filter(|line| line["ev"] == "session").map(|line| line["why"].clone()).collect();
    assert_eq!(sessions, ["connect", "features", "disconnect"]);
}

#[test]
fn small_mistakes_are_told_once_with_their_remedy() {
    let folder = folder_with_image();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("written");
        folder.path().join(name).to_str().expect("text").to_string()
    };
    let check = |name: &str, bytes: &[u8]| {
        let path = file(name, bytes);
        let output = program().args(["script", "check", &path]).output().expect("runs");
        let (code, said) = refused(output);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
        said.trim_end().strip_prefix(&path).expect("the file first").to_string()
    };
    assert_eq!(
        check("latin", b"{\"faultscript\": 1,\n \"name\": \"\xe9\"}"),
        ":2:11: E100 : not UTF-8; save the file as UTF-8"
    );
    assert!(check("bom", "\u{feff}{\"faultscript\": 1}".as_bytes()).ends_with("save it as UTF-8 without one"));
    assert!(check("comma", b"{\"faultscript\": 1, \"rules\": [],}").ends_with("take that away"));
    let misspelt = br#"{"faultscript": 1, "rules": [{"id": "a", "action": {"eror": {"status": "ioerr"}}}]}"#;
    assert!(check("word", misspelt).contains("E101 /rules/0/action/eror"), "and no second line about the same thing");
    let image = folder.path().join("disk");
    let serve = |more: &[&str]| refused(program().arg("--blk-file").arg(&image).args(more).output().expect("runs"));
    let (code, said) = serve(&["--socket-path", "/x", "--seed", "-1"]);
    assert!(code == Some(2) && said.contains("a seed is a whole number from 0"), "{said}");
    for words in [&["snapshot", "show"][..], &["overlay", "list"], &["trace"], &["script", "check"]] {
        let output = program().args(words).arg(folder.path().join("nothing")).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
    std::fs::write(&image, vec![0; 1000]).expect("an image");
    let mut child = program();
    child.arg("--blk-file").arg(&image).arg("--socket-path").arg(folder.path().join("s")).stderr(Stdio::piped());
    let mut child = child.spawn().expect("starts");
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut said).expect("stderr");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("a living process");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(said.contains("the last 488 bytes of"), "{said}");
}

#[test]
fn a_device_whose_stderr_nobody_reads_any_more_serves_on() {
    let folder = folder_with_image();
    let Served { mut child, stderr } = serve(folder.path(), &[]);
    drop(stderr);
    let mut guest = Guest::connect(&folder.path().join("s"), 1);
    let header = guest.header(OUT, 0);
    guest.odd(&[(header, 16, false)]);
    assert_eq!(guest.read(0, 1).0, OK, "what it had to say about the chain was said to nobody");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("a living process");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
