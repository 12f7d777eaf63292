//! Ends a virtual machine through QEMU's control socket, for a device that is used without a harness.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// A QEMU that does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer answers are none.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Says `quit`: QEMU ends at once and asks the guest nothing, as when the plug is pulled.
pub fn quit(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut from = BufReader::new(&stream).take(MAX_ANSWER_BYTES);
    answer(&mut from, "QMP")?;
    for command in ["qmp_capabilities", "quit"] {
        writeln!(&mut &stream, "{{\"execute\":\"{command}\"}}")?;
        answer(&mut from, "return")?;
    }
    Ok(())
}

/// Waits for an object with this key; events may stand before it.
fn answer(from: &mut impl BufRead, key: &str) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it closed before it answered \"{key}\""),
            ));
        }
        let value: Value = serde_json::from_str(&line)?;
        if value.get("error").is_some() {
            return Err(io::Error::other(format!("it answered {line}")));
        }
        if value.get(key).is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A QEMU that says these lines, one more after each it is told, and gives what it was told.
    fn qemu(says: &'static [&'static str]) -> (tempfile::TempDir, std::thread::JoinHandle<Vec<String>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("q")).expect("listens");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut told = BufReader::new(&stream).lines();
            let mut heard = Vec::new();
            for say in says {
                writeln!(&mut &stream, "{say}").expect("written");
                heard.extend(told.next().map(|line| line.expect("a line")));
            }
            heard
        });
        (folder, thread)
    }

    #[test]
    fn says_quit_after_the_greeting_and_passes_over_events() {
        let (folder, thread) =
            qemu(&[r#"{"QMP": {"version": {}}}"#, r#"{"return": {}}"#, "{\"event\": \"SHUTDOWN\"}\n{\"return\": {}}"]);
        quit(&folder.path().join("q")).expect("quits");
        let heard = thread.join().expect("ended");
        assert_eq!(heard, [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"quit"}"#]);
    }

    #[test]
    fn an_error_of_qemu_and_a_closed_socket_are_errors() {
        let (folder, _thread) = qemu(&[r#"{"QMP": {}}"#, r#"{"error": {"desc": "no"}}"#]);
        assert!(quit(&folder.path().join("q")).expect_err("refused").to_string().contains("no"));
        let (folder, _thread) = qemu(&[r#"{"QMP": {}}"#]);
        assert_eq!(quit(&folder.path().join("q")).expect_err("closed").kind(), io::ErrorKind::UnexpectedEof);
    }
}
