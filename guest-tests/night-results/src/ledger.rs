//! Reads results.jsonl.
//!
//! A line is written whole and then made durable, so all that a machine's death can leave is a last line without its end:
//! that unit was under way, and is run again. Everything else was not our writing.

use crate::{Damage, ResultLine, Unit};
use std::collections::BTreeMap;

/// What a ledger holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The lines, by unit.
    pub lines: BTreeMap<Unit, ResultLine>,
    /// The last line, if its end is missing.
    pub torn: Option<Torn>,
}

/// A last line that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The line, from 1.
    pub line: usize,
    /// Bytes of the ledger that are whole; what follows is to be cut away.
    pub keep_bytes: u64,
}

/// Reads a ledger; `file` is what an error calls it.
pub fn read_ledger(file: &str, bytes: &[u8]) -> Result<Ledger, Damage> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut ledger = Ledger::default();
    let mut first_seen = BTreeMap::new();
    let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
    for (number, line) in (1..).zip(lines) {
        let line = read_line(line).map_err(|what| damage(file, number, what))?;
        if let Some(first) = first_seen.insert(line.unit.clone(), number) {
            let what = format!("{} was counted before, in line {first}", line.unit);
            return Err(damage(file, number, what));
        }
        ledger.lines.insert(line.unit.clone(), line);
    }
    if whole < bytes.len() {
        ledger.torn = Some(Torn { line: first_seen.len() + 1, keep_bytes: whole as u64 });
    }
    Ok(ledger)
}

fn read_line(line: &[u8]) -> Result<ResultLine, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let read: ResultLine = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(read)
}

fn damage(file: &str, line: usize, what: String) -> Damage {
    let remedy =
        "take an undamaged copy of the night's folder, or cut this line away and let `nightly` run its unit again";
    Damage { file: file.to_owned(), line, what, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(units: &[&str]) -> String {
        units.iter().map(|unit| ResultLine::new(unit.parse().unwrap(), *unit, "6.1").to_text()).collect()
    }

    #[test]
    fn an_empty_ledger_is_a_night_that_has_just_begun() {
        assert_eq!(read_ledger("r", b"").unwrap(), Ledger::default());
    }

    #[test]
    fn wherever_a_ledger_is_cut_off_its_whole_lines_are_kept_and_no_other() {
        let text = text(&["0.0", "0.1", "0.2"]);
        for cut in 0..=text.len() {
            let ledger = read_ledger("r", &text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count();
            assert_eq!(ledger.lines.len(), whole, "cut at {cut}");
            let kept = ledger.torn.map_or(cut as u64, |torn| torn.keep_bytes);
            assert_eq!(kept as usize, text[..cut].rfind('\n').map_or(0, |end| end + 1), "cut at {cut}");
        }
    }

    #[test]
    fn damage_inside_names_its_line_and_what_mends_it() {
        let broken = text(&["0.0"]) + "{\"unit\":\"0.1\"\n" + &text(&["0.2"]);
        let said = read_ledger("night/results.jsonl", broken.as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with("night/results.jsonl:2: "), "{said}");
        assert!(said.contains("cut this line away"), "{said}");
    }

    #[test]
    fn a_unit_that_stands_there_twice_is_damage() {
        let said = read_ledger("r", text(&["0.0", "0.1", "0.0"]).as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with("r:3: 0.0 was counted before, in line 1"), "{said}");
    }

    #[test]
    fn a_field_that_nobody_knows_is_damage_and_is_named() {
        let text = text(&["0.0"]).replace("\"took_ms\"", "\"took_us\"");
        let said = read_ledger("r", text.as_bytes()).unwrap_err().to_string();
        assert!(said.contains("took_us"), "{said}");
    }

    #[test]
    fn two_documents_in_one_line_are_damage() {
        let text = text(&["0.0", "0.1"]).replacen("\n", "", 1);
        assert!(read_ledger("r", text.as_bytes()).is_err());
    }
}
