//! QEMU's control connection: one command at a time, and the events it sends by itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Doing, Error};

/// QEMU answers at once or never.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What QEMU told by itself, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// `SHUTDOWN` with its reason, such as `guest-shutdown`.
    Shutdown(String),
    /// `GUEST_PANICKED`.
    Panicked,
}

#[derive(Debug)]
pub(crate) struct Qmp {
    to: UnixStream,
    answers: Receiver<Value>,
    events: Arc<Mutex<Vec<Event>>>,
    reader: Option<JoinHandle<()>>,
}

impl Qmp {
    /// Takes our end of the connection and negotiates.
    pub fn connect(stream: UnixStream) -> Result<Self, Error> {
        let from = stream.try_clone().doing(|| "sharing QEMU's control connection".into())?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let (send, answers) = mpsc::channel();
        let heard = Arc::clone(&events);
        let body = move || {
            for line in BufReader::new(from).lines() {
                let Ok(message) =
                    line.map_err(drop).and_then(|line| serde_json::from_str::<Value>(&line).map_err(drop))
                else {
                    break;
                };
                match event(&message) {
                    Some(event) => heard.lock().unwrap_or_else(PoisonError::into_inner).push(event),
                    None if message.get("return").is_some() || message.get("error").is_some() => {
                        let _ = send.send(message);
                    }
                    None => {}
                }
            }
        };
        let reader = thread::Builder::new().name("qmp".into()).spawn(body).doing(|| "starting a thread".into())?;
        let mut qmp = Qmp { to: stream, answers, events, reader: Some(reader) };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.to
            .write_all(line.as_bytes())
            .map_err(|error| Error::Qmp { why: format!("{command} could not be sent: {error}") })?;
        let mut answer = self
            .answers
            .recv_timeout(ANSWER_WITHIN)
            .map_err(|_| Error::Qmp { why: format!("no answer to {command}") })?;
        if let Some(error) = answer.get("error") {
            return Err(Error::Qmp { why: format!("{command}: {}", error["desc"].as_str().unwrap_or("refused")) });
        }
        Ok(answer["return"].take())
    }

    /// Everything told until now; after QEMU's end, everything.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// QEMU has ended: waits until its last words are read.
    pub fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn event(message: &Value) -> Option<Event> {
    match message.get("event")?.as_str()? {
        "SHUTDOWN" => Some(Event::Shutdown(message["data"]["reason"].as_str().unwrap_or("unknown").into())),
        "GUEST_PANICKED" => Some(Event::Panicked),
        _ => None,
    }
}
