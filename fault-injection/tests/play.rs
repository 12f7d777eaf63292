//! Scripts played against requests, as text: tests/play/*.txt.
//!
//! A file holds a script, `====`, one command per line, `----`, and what came of it. Commands: `OP [SECTOR+SECTORS]
//! [qQUEUE] [inflight=N] [xTIMES] [=CLASS[:INODE[:BLOCK]]*SECTORS,…]`, `bind PATH INODE|-`, `mark NAME`, `close RULE WINDOW`, `release RULE`, `ms N` (the clock jumps), `tick`, `reset`, `heal [RULE]`,
//! `fail_class CLASS`, `resize SECTORS`, `enable RULE`, `disable RULE`, `remove RULE`, `add JSON`.
//! To rewrite the outcome after a change on purpose: `REWRITE=1 cargo test -p fault-injection --test play`, and read
//! the difference.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use fault_injection::{
    Arrival, CLASSES, Decision, DeviceAction, DeviceFacts, Engine, EventRecord, FailClass, Gate, GateWhen, Moves, Op,
    Piece, Reached, Request, RuleIndex, ScriptError, Source, Stretch, UsedLen, Work, load,
};

struct Play {
    engine: Engine,
    seq: u64,
    elapsed_ms: u64,
    out: String,
}

impl Play {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["mark", name] => {
                let reached = self.engine.mark(name, self.seq, self.elapsed_ms);
                let text = format!("mark {name}: releases {}", self.names(&reached.released));
                self.reached(&text, &reached);
            }
            ["bind", path, inode] => {
                let event = self.engine.bind(path, inode.parse().ok(), self.seq);
                self.events(&Vec::from_iter(event));
            }
            ["tick"] => {
                let reached = self.engine.tick(self.seq, self.elapsed_ms);
                self.reached(
                    &format!("tick at {} ms, next {:?}:", self.elapsed_ms, self.engine.next_tick_ms()),
                    &reached,
                );
            }
            ["reset"] => self.engine.reset(),
            ["heal"] => self.by_hand(|engine, seq| engine.heal(None, seq)),
            ["heal", id] => self.by_hand(|engine, seq| engine.heal(Some(id), seq)),
            ["resize", sectors] => {
                let sectors = sectors.parse().expect("a number");
                self.by_hand(|engine, seq| Ok(engine.resize(sectors, seq)));
            }
            ["fail_class", class] => {
                let class: FailClass = serde_json::from_value(class.into()).expect("a class");
                self.by_hand(|engine, seq| Ok(engine.fail_class(class, seq)));
            }
            ["enable", id] => self.by_hand(|engine, seq| engine.enable(id, true, seq)),
            ["disable", id] => self.by_hand(|engine, seq| engine.enable(id, false, seq)),
            ["remove", id] => self.by_hand(|engine, seq| engine.remove(id, seq)),
            ["add", ..] => {
                let rule = serde_json::from_str(line.trim_start_matches("add ")).expect("JSON");
                let facts = DeviceFacts { capacity_sectors: 1 << 20, queues: 1, logical_block_bytes: 512 };
                self.by_hand(|engine, seq| engine.add(&rule, &facts, seq));
            }
            ["release", id] => {
                let released = self.engine.release(id).map(|rule| self.engine.rule_id(rule).to_string());
                writeln!(self.out, "release {id}: {released:?}").expect("a string");
            }
            ["close", id, window] => self.close(id, window.parse().expect("a number")),
            ["ms", n] => self.elapsed_ms = n.parse().expect("a number"),
            _ => self.requests(&words),
        }
    }

    fn requests(&mut self, words: &[&str]) {
        let op: Op = serde_json::from_value(words[0].into()).unwrap_or_else(|_| panic!("no command: {}", words[0]));
        let mut request = Request { op, sector: 0, sectors: 0, queue: 0, inflight: 0 };
        let mut times = 1;
        let mut known = Vec::new();
        for word in &words[1..] {
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("no number: {word}"));
            if let Some((sector, sectors)) = word.split_once('+') {
                (request.sector, request.sectors) = (number(sector), number(sectors));
            } else if let Some(queue) = word.strip_prefix('q') {
                request.queue = number(queue) as u16;
            } else if let Some(inflight) = word.strip_prefix("inflight=") {
                request.inflight = number(inflight) as u32;
            } else if let Some(parts) = word.strip_prefix('=') {
                known = stretches(parts, request.sector);
            } else if let Some(n) = word.strip_prefix('x') {
                times = number(n);
            } else {
                panic!("no part of a request: {word}");
            }
        }
        (0..times).for_each(|_| self.request(words[0], request, &known));
    }

    fn request(&mut self, op: &str, request: Request, known: &[Stretch]) {
        let arrival = Arrival { seq: self.seq, elapsed_ms: self.elapsed_ms };
        self.seq += 1;
        let Request { sector, sectors, queue, .. } = request;
        let asked = self.engine.filter().may_match(request.op, sector, sectors, queue);
        // As the device does: what the filter turns away is carried out without asking.
        if !asked {
            writeln!(self.out, "{} {op} {sector}+{sectors}: not asked", arrival.seq).expect("a string");
            return;
        }
        let decision = self.engine.decide_known(arrival, &request, known);
        let shown = self.show(&decision);
        writeln!(self.out, "{} {op} {sector}+{sectors}: {shown}", arrival.seq).expect("a string");
        for record in &decision.log {
            let json = serde_json::to_string(record).expect("a record is plain data");
            assert_eq!(serde_json::from_str::<fault_injection::Record>(&json).expect("reads back"), *record);
            writeln!(self.out, "    {json}").expect("a string");
        }
        self.events(&decision.events);
        self.device(&decision.device);
    }

    fn reached(&mut self, text: &str, reached: &Reached) {
        writeln!(self.out, "{text}").expect("a string");
        self.events(&reached.events);
        self.device(&reached.device);
    }

    fn events(&mut self, events: &[EventRecord]) {
        for event in events {
            let json = serde_json::to_string(event).expect("an event is plain data");
            assert_eq!(serde_json::from_str::<EventRecord>(&json).expect("reads back"), *event);
            writeln!(self.out, "    {json}").expect("a string");
        }
    }

    fn device(&mut self, actions: &[DeviceAction]) {
        for action in actions {
            let text = match action {
                DeviceAction::PowerCut(cut) => {
                    let (state, states) = (cut.state(3), cut.states(&[None; 3]).states.len());
                    format!(
                        "power cut by {}, {:?}, then {:?}; of 3: {state:?}, {states} states",
                        cut.by, cut.unflushed, cut.then
                    )
                }
                DeviceAction::Disconnect { reconnect_ms } => format!("disconnect, back after {reconnect_ms} ms"),
                DeviceAction::Resize { capacity_sectors } => format!("{capacity_sectors} sectors"),
                DeviceAction::WriteCache(on) => format!("write cache {}", if *on { "on" } else { "off" }),
            };
            writeln!(self.out, "    device: {text}").expect("a string");
        }
    }

    fn by_hand(&mut self, what: impl FnOnce(&mut Engine, u64) -> Result<EventRecord, ScriptError>) {
        match what(&mut self.engine, self.seq) {
            Ok(event) => self.events(&[event]),
            Err(error) => writeln!(self.out, "refused: {error}").expect("a string"),
        }
    }

    fn close(&mut self, id: &str, window: u64) {
        let counters = self.engine.counters();
        let rule = counters.iter().position(|rule| rule.id == id).expect("a rule of the script");
        let closed = self.engine.close_window(RuleIndex(rule as u32), window);
        writeln!(self.out, "close {id} {window}: {:?}", closed.order).expect("a string");
        if let Some(record) = &closed.record {
            writeln!(self.out, "    {}", serde_json::to_string(record).expect("plain data")).expect("a string");
        }
    }

    fn names(&self, rules: &[RuleIndex]) -> String {
        rules.iter().map(|rule| self.engine.rule_id(*rule)).collect::<Vec<_>>().join(" ")
    }

    fn show(&self, decision: &Decision) -> String {
        let mut text = match &decision.work {
            Work::Whole(piece) => show_piece(piece),
            Work::Split { rule, pieces, order } => {
                let pieces: Vec<String> = pieces
                    .iter()
                    .map(|piece| format!("{}+{} {}", piece.sector, piece.sectors, show_piece(piece)))
                    .collect();
                format!("{} splits, order {order:?}: {}", self.engine.rule_id(*rule), pieces.join(" | "))
            }
        };
        let when = |when: &GateWhen| if *when == GateWhen::Arrival { ", disk at arrival" } else { "" };
        let gate = match &decision.gate {
            Gate::Open => String::new(),
            Gate::Delay { rule, us, when: at } => {
                format!("; {} delays {us} us{}", self.engine.rule_id(*rule), when(at))
            }
            Gate::Hold { rule, max_ms, until_reset, until_ms, when: at } => {
                let until = if *until_reset { " until reset".to_string() } else { format!(" at most {max_ms} ms") };
                let point = until_ms.map_or(String::new(), |ms| format!(" until {ms} ms"));
                format!("; {} holds{until}{point}{}", self.engine.rule_id(*rule), when(at))
            }
            Gate::Reorder { rule, window, slot, order, max_wait_ms, when: at } => {
                let order = order.as_ref().map_or(String::new(), |order| format!(" order {order:?}"));
                let rule = self.engine.rule_id(*rule);
                format!("; {rule} window {window} slot {slot}{order} ({max_wait_ms} ms){}", when(at))
            }
        };
        text += &gate;
        if !decision.released.is_empty() {
            text += &format!("; releases {}", self.names(&decision.released));
        }
        text
    }
}

fn show_piece(piece: &Piece) -> String {
    let status = match piece.status.0 {
        0 => "ok".to_string(),
        1 => "ioerr".to_string(),
        2 => "unsupp".to_string(),
        n => format!("status {n}"),
    };
    let moves = match &piece.moves {
        Moves::All => "all".to_string(),
        Moves::Prefix { bytes } => format!("{bytes} bytes"),
        Moves::Torn { kept } => format!("torn, bytes {kept:?} kept"),
        Moves::Misdirected { to_sector, original_written } => {
            format!("all at sector {to_sector}{}", if *original_written { " and where it belongs" } else { "" })
        }
        Moves::Corrupt(corruption) => {
            let place = if corruption.media { "on the medium" } else { "on the wire" };
            format!("all, sectors {:?} wrong {place}", corruption.sectors)
        }
        Moves::Stale { versions, sectors } => format!("all, sectors {sectors:?} as {versions} writes ago"),
        Moves::Lost => "lost".to_string(),
    };
    let length = if piece.used_len == UsedLen::Full { " (full length)" } else { "" };
    format!("{status} {moves}{length}")
}

/// `CLASS[:INODE[:BLOCK]]*SECTORS,…`, in blocks of 8 sectors.
fn stretches(text: &str, mut sector: u64) -> Vec<Stretch> {
    let mut known = Vec::new();
    for part in text.split(',') {
        let (what, sectors) = part.split_once('*').expect("what it is, and how long");
        let sectors: u64 = sectors.parse().expect("sectors");
        let mut parts = what.split(':');
        let word = parts.next().expect("a class");
        let class = CLASSES.iter().find(|(name, _)| *name == word).unwrap_or_else(|| panic!("no class: {word}")).1;
        let inode = parts.next().map(|inode| inode.parse().expect("an inode"));
        let file_block = parts.next().map(|block| block.parse().expect("a block"));
        known.push(Stretch { sector, sectors, class, inode, file_block, block_sectors: 8 });
        sector += sectors;
    }
    known
}

fn play(script: &str, commands: &str) -> String {
    let loaded = load(&[Source { name: "script.json", text: script }]).unwrap_or_else(|problems| panic!("{problems}"));
    let mut out = String::new();
    for warning in &loaded.warnings {
        writeln!(out, "{warning}").expect("a string");
    }
    let engine = Engine::new(Arc::new(loaded.script), None);
    let mut play = Play { engine, seq: 0, elapsed_ms: 0, out };
    commands.lines().filter(|line| !line.trim().is_empty()).for_each(|line| play.command(line));
    for rule in play.engine.counters() {
        let counted =
            format!("{}: matched {}, fired {}, shadowed {}", rule.id, rule.matched, rule.fired, rule.shadowed);
        writeln!(play.out, "{counted}").expect("a string");
    }
    for unmet in play.engine.unmet() {
        writeln!(play.out, "unmet: {} fired {}, expected {}..{:?}", unmet.id, unmet.fired, unmet.min, unmet.max)
            .expect("a string");
    }
    play.out
}

#[test]
fn every_play_ends_as_written_and_the_same_when_played_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/play");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("in the tree").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let (script, rest) = text.split_once("\n====\n").unwrap_or_else(|| panic!("{}: no ====", file.display()));
        let (commands, expected) = rest.split_once("----\n").unwrap_or((rest, ""));
        let outcome = play(script, commands);
        assert_eq!(outcome, play(script, commands), "{} differs when played again", file.display());
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&file, format!("{script}\n====\n{commands}----\n{outcome}")).expect("writable");
        } else {
            assert_eq!(outcome, expected, "{}", file.display());
        }
    }
}
