//! The guest's end of the port `ctl`, and how ports are found.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_init::protocol::{CTL_PORT, FromGuest, ToGuest};

use super::{Doing, Outcome};

/// QEMU names its ports in messages that arrive some time after the driver was loaded.
const PORT_WAIT: Duration = Duration::from_secs(60);

/// The device node of the virtio-serial port called `name`.
pub fn port(name: &str) -> Outcome<PathBuf> {
    let start = Instant::now();
    loop {
        match named_port(name) {
            Some(device) => return Ok(device),
            None if start.elapsed() < PORT_WAIT => thread::sleep(Duration::from_millis(2)),
            None => return Err("QEMU offers no such port").doing(format!("looking for the virtio-serial port {name}")),
        }
    }
}

fn named_port(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.filter_map(Result::ok);
    let is_it =
        |port: &fs::DirEntry| fs::read_to_string(port.path().join("name")).is_ok_and(|named| named.trim() == name);
    let device = ports.into_iter().find(is_it).map(|port| PathBuf::from("/dev").join(port.file_name()))?;
    device.exists().then_some(device)
}

/// Speaks from any thread; a message is one write.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<File>>);

impl Sender {
    pub fn send(&self, messages: &[FromGuest]) -> Outcome<()> {
        let mut lines = Vec::new();
        for message in messages {
            serde_json::to_writer(&mut lines, message).doing("writing a message")?;
            lines.push(b'\n');
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&lines).doing("talking to the host")
    }
}

pub struct Ctl {
    sender: Sender,
    from: BufReader<File>,
}

impl Ctl {
    pub fn open() -> Outcome<Self> {
        let path = port(CTL_PORT)?;
        let file = File::options().read(true).write(true).open(&path).doing(format!("opening {}", path.display()))?;
        let from = BufReader::new(file.try_clone().doing("opening the port ctl twice")?);
        Ok(Ctl { sender: Sender(Arc::new(Mutex::new(file))), from })
    }

    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    pub fn send(&self, message: &FromGuest) -> Outcome<()> {
        self.sender.send(std::slice::from_ref(message))
    }

    pub fn send_all(&self, messages: &[FromGuest]) -> Outcome<()> {
        self.sender.send(messages)
    }

    /// A host that has gone has nothing more to say than "power off".
    pub fn receive(&mut self) -> Outcome<ToGuest> {
        let mut line = String::new();
        match self.from.read_line(&mut line).doing("listening to the host")? {
            0 => Ok(ToGuest::PowerOff),
            _ => serde_json::from_str(&line).doing("reading a message of the host"),
        }
    }
}
