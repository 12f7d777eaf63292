//! Every way in which a line can be refused, and what the user is told.

use ext4_replica::{Calls, Dialect};

/// A machine with an inode of three 4 KiB pages (the last byte in the third), a bio of its first page answered, one of its
/// second under way, and five direct writes: 1 synchronous; 2 ended; 3 queued; 4 over; 5 queued and ended, so over too.
const BEFORE: &str = r#"{"call":"inode","ino":7,"block_bits":11,"size":9000,"extents":[{"lblk":0,"len":6,"pblk":100,"unwritten":false}]}
{"call":"dirty","ino":7,"lblk":0,"len":4}
{"call":"submit_range","ino":7,"first_page":0,"next_page":1}
{"call":"submit_range","ino":7,"first_page":1,"next_page":2}
{"call":"end_bio","bio":1,"error":0}
{"call":"dio_submit","ino":7,"offset":0,"len":1}
{"call":"dio_submit","ino":7,"offset":0,"len":1,"async":true}
{"call":"dio_end","iocb":2,"offset":0,"bytes":1}
{"call":"dio_submit","ino":7,"offset":0,"len":1,"async":true}
{"call":"dio_return","iocb":3,"ret":-529}
{"call":"dio_submit","ino":7,"offset":0,"len":1}
{"call":"dio_return","iocb":4,"ret":-5}
{"call":"dio_submit","ino":7,"offset":0,"len":1,"async":true}
{"call":"dio_end","iocb":5,"offset":0,"bytes":1,"async":true}
{"call":"dio_return","iocb":5,"ret":-529}"#;

#[test]
fn each_bad_line_is_refused_by_its_field_and_changes_nothing() {
    let table = [
        ("", "not a JSON object: EOF while parsing a value at line 1 column 0"),
        ("{\"call\":\"state\"", "not a JSON object: EOF while parsing an object at line 1 column 15"),
        ("7", "not a JSON object: it is a number"),
        ("[]", "not a JSON object: it is a list"),
        ("null", "not a JSON object: it is null"),
        ("{\"call\":\"state\"} {}", "not a JSON object: trailing characters at line 1 column 18"),
        ("{}", "field `call`: missing field `call`"),
        (r#"{"call":7}"#, "field `call`: invalid type: integer `7`, expected a string"),
        (r#"{"call":null}"#, "field `call`: invalid type: null, expected a string"),
        (r#"{"call":"fsync"}"#, "field `call`: no call is named \"fsync\""),
        (r#"{"call":"state","call":"state"}"#, "field `call`: duplicate field `call`"),
        (r#"{"call":"state","ino":7}"#, "field `ino`: `state` has no such field"),
        (r#"{"call":"run_work","ino":7,"inode":7}"#, "field `inode`: unknown field `inode`, expected one of"),
        (r#"{"call":"run_work","ino":7,"ino":7}"#, "field `ino`: duplicate field `ino`"),
        (r#"{"call":"run_work"}"#, "field `ino`: missing"),
        (r#"{"call":"run_work","ino":null}"#, "field `ino`: invalid type: null, expected u64"),
        (r#"{"call":"run_work","ino":"7"}"#, "field `ino`: invalid type: string \"7\", expected u64"),
        (r#"{"call":"run_work","ino":7.0}"#, "field `ino`: invalid type: floating point `7.0`, expected u64"),
        (r#"{"call":"run_work","ino":-7}"#, "field `ino`: invalid value: integer `-7`, expected u64"),
        (r#"{"call":"run_work","ino":8}"#, "field `ino`: inode 8 is not there"),
        (r#"{"call":"flush_completed","ino":8}"#, "field `ino`: inode 8 is not there"),
        (r#"{"call":"inode","ino":7,"block_bits":12,"size":0,"extents":[]}"#, "field `ino`: inode 7 is there already"),
        (r#"{"call":"inode","ino":8,"block_bits":9,"size":0,"extents":[]}"#, "field `block_bits`: 9 is not in 10..=12"),
        (
            r#"{"call":"inode","ino":8,"block_bits":13,"size":0,"extents":[]}"#,
            "field `block_bits`: 13 is not in 10..=12",
        ),
        (r#"{"call":"inode","ino":8,"block_bits":12,"extents":[]}"#, "field `size`: missing"),
        (r#"{"call":"inode","ino":8,"block_bits":12,"size":0}"#, "field `extents`: missing"),
        (
            r#"{"call":"inode","ino":8,"block_bits":10,"size":4398046511105,"extents":[]}"#,
            "field `size`: 4398046511105 is more than the 4398046511104 bytes that 32-bit block numbers reach",
        ),
        (&extents(r#"{"lblk":0,"len":0,"pblk":1,"unwritten":false}"#), "field `extents[0].len`: 0 is not in 1..=32768"),
        (
            &extents(r#"{"lblk":0,"len":32769,"pblk":1,"unwritten":false}"#),
            "field `extents[0].len`: 32769 is not in 1..=32768",
        ),
        (
            &extents(r#"{"lblk":0,"len":32768,"pblk":1,"unwritten":true}"#),
            "field `extents[0].len`: 32768 is not in 1..=32767",
        ),
        (
            &extents(r#"{"lblk":4,"len":2,"pblk":1,"unwritten":true},{"lblk":5,"len":1,"pblk":9,"unwritten":true}"#),
            "field `extents[1].lblk`: 5 is not behind the extent before it, which ends at 6",
        ),
        (
            &extents(r#"{"lblk":4294967295,"len":2,"pblk":1,"unwritten":true}"#),
            "field `extents[0].lblk`: 4294967295 with 2 blocks is past the last file block, 4294967295",
        ),
        (
            &extents(r#"{"lblk":18446744073709551615,"len":2,"pblk":1,"unwritten":true}"#),
            "field `extents[0].lblk`: 18446744073709551615 with 2 blocks is past the last file block, 4294967295",
        ),
        (
            &extents(r#"{"lblk":0,"len":2,"pblk":281474976710655,"unwritten":true}"#),
            "field `extents[0].pblk`: 281474976710655 with 2 blocks is past the last block, 281474976710655",
        ),
        (&extents(r#"{"lblk":0,"len":1,"pblk":1}"#), "field `extents[0].unwritten`: missing field `unwritten`"),
        (
            &extents(r#"{"lblk":0,"len":1,"pblk":1,"unwritten":1}"#),
            "field `extents[0].unwritten`: invalid type: integer `1`, expected a boolean",
        ),
        (
            &extents(r#"{"lblk":0,"len":1,"pblk":1,"unwritten":true,"x":1}"#),
            "field `extents[0].x`: unknown field `x`, expected one of",
        ),
        (r#"{"call":"device","max_pages":0}"#, "field `max_pages`: 0 is less than 1"),
        (r#"{"call":"dirty","ino":7,"lblk":0,"len":0}"#, "field `len`: 0 is less than 1"),
        (
            r#"{"call":"dirty","ino":7,"lblk":6,"len":1}"#,
            "field `lblk`: block 6 is beyond the page of the file's last byte, blocks end at 6",
        ),
        (
            r#"{"call":"dirty","ino":7,"lblk":5,"len":2}"#,
            "field `len`: 2 blocks from 5 reach beyond the page of the file's last byte, blocks end at 6",
        ),
        (
            r#"{"call":"dirty","ino":7,"lblk":1,"len":18446744073709551615}"#,
            "field `len`: 18446744073709551615 blocks from 1 reach beyond the page of the file's last byte, blocks end at 6",
        ),
        (r#"{"call":"submit_range","ino":7,"first_page":0}"#, "field `next_page`: missing"),
        (
            r#"{"call":"submit_range","ino":7,"first_page":0,"next_page":1,"sync":1}"#,
            "field `sync`: invalid type: integer `1`, expected a boolean",
        ),
        (
            r#"{"call":"submit_range","ino":7,"first_page":0,"next_page":1,"race_error":0}"#,
            "field `race_error`: 0 is not a negative errno (-1 to -4095)",
        ),
        (
            r#"{"call":"writepage","ino":7,"page":0,"race_error":-5}"#,
            "field `race_error`: `writepage` has no such field",
        ),
        (r#"{"call":"end_bio","bio":2,"error":5}"#, "field `error`: 5 is not 0 or a negative errno (-1 to -4095)"),
        (
            r#"{"call":"end_bio","bio":2,"error":-4096}"#,
            "field `error`: -4096 is not 0 or a negative errno (-1 to -4095)",
        ),
        (r#"{"call":"end_bio","bio":2}"#, "field `error`: missing"),
        (r#"{"call":"end_bio","bio":1,"error":0}"#, "field `bio`: bio 1 has been answered already"),
        (r#"{"call":"end_bio","bio":3,"error":0}"#, "field `bio`: bio 3 is not there"),
        (r#"{"call":"end_bio","bio":0,"error":0}"#, "field `bio`: bio 0 is not there"),
        (r#"{"call":"end_bio","bio":4294967296,"error":0}"#, "field `bio`: bio 4294967296 is not there"),
        (
            r#"{"call":"fail_convert","ino":7,"errors":[0,1]}"#,
            "field `errors[1]`: 1 is not 0 or a negative errno (-1 to -4095)",
        ),
        (
            r#"{"call":"fail_convert","ino":7,"errors":-5}"#,
            "field `errors`: invalid type: integer `-5`, expected a sequence",
        ),
        (r#"{"call":"fail_convert","ino":7}"#, "field `errors`: missing"),
        (r#"{"call":"dio_submit","ino":7,"offset":0,"len":0}"#, "field `len`: 0 is less than 1"),
        (r#"{"call":"dio_end","iocb":6,"offset":0,"bytes":1}"#, "field `iocb`: iocb 6 is not there"),
        (r#"{"call":"dio_end","iocb":2,"offset":0,"bytes":1}"#, "field `iocb`: iocb 2 has had its dio_end already"),
        (r#"{"call":"dio_end","iocb":4,"offset":0,"bytes":1}"#, "field `iocb`: iocb 4 has ended already"),
        (r#"{"call":"dio_end","iocb":5,"offset":0,"bytes":1}"#, "field `iocb`: iocb 5 has ended already"),
        (r#"{"call":"dio_end","iocb":1,"offset":0}"#, "field `bytes`: missing"),
        (r#"{"call":"dio_return","iocb":1,"ret":1}"#, "field `ret`: 1 is more than 0, but iocb 1 has had no dio_end"),
        (r#"{"call":"dio_return","iocb":3,"ret":0}"#, "field `iocb`: iocb 3 has had its dio_return already"),
        (r#"{"call":"dio_return","iocb":4,"ret":0}"#, "field `iocb`: iocb 4 has had its dio_return already"),
        (r#"{"call":"dio_return","iocb":6,"ret":0}"#, "field `iocb`: iocb 6 is not there"),
    ];
    let (mut machine, mut out) = (Calls::new(Dialect::SEED), Vec::new());
    BEFORE.lines().for_each(|line| machine.line(line.as_bytes(), &mut out).expect("sound"));
    let before = state(&mut machine);
    out.clear();
    for (line, expected) in table {
        let refused = machine.line(line.as_bytes(), &mut out).expect_err(line).to_string();
        assert!(refused.starts_with(expected), "{line}\n  says     {refused}\n  expected {expected}");
        assert!(out.is_empty(), "{line} is refused and says {out:?}");
    }
    assert_eq!(state(&mut machine), before);
}

fn extents(list: &str) -> String {
    format!(r#"{{"call":"inode","ino":8,"block_bits":12,"size":0,"extents":[{list}]}}"#)
}

fn state(machine: &mut Calls) -> Vec<u8> {
    let mut out = Vec::new();
    machine.line(br#"{"call":"state"}"#, &mut out).expect("always");
    out
}

/// The largest numbers that are in range are taken, and nothing overflows.
#[test]
fn the_largest_numbers_are_taken() {
    let (mut machine, mut out) = (Calls::new(Dialect::SEED), Vec::new());
    let max = u64::MAX;
    for line in [
        r#"{"call":"inode","ino":18446744073709551615,"block_bits":10,"size":4398046511104,"extents":[{"lblk":4294967294,"len":2,"pblk":281474976710654,"unwritten":true}]}"#.to_owned(),
        format!(r#"{{"call":"device","max_pages":{max}}}"#),
        format!(r#"{{"call":"dirty","ino":{max},"lblk":4294967294,"len":2}}"#),
        format!(r#"{{"call":"submit_range","ino":{max},"first_page":0,"next_page":{max}}}"#),
        format!(r#"{{"call":"writepage","ino":{max},"page":{max}}}"#),
        r#"{"call":"end_bio","bio":1,"error":-4095}"#.to_owned(),
        format!(r#"{{"call":"run_work","ino":{max}}}"#),
        format!(r#"{{"call":"dio_submit","ino":{max},"offset":{max},"len":{max}}}"#),
        format!(r#"{{"call":"dio_submit","ino":{max},"offset":4398046511103,"len":1,"async":true}}"#),
        format!(r#"{{"call":"dio_end","iocb":1,"offset":{max},"bytes":{max},"ret":-1}}"#),
        format!(r#"{{"call":"dio_return","iocb":1,"ret":{}}}"#, i64::MAX),
    ] {
        machine.line(line.as_bytes(), &mut out).unwrap_or_else(|refused| panic!("{line}: {refused}"));
    }
    assert!(!machine.is_dead());
}
