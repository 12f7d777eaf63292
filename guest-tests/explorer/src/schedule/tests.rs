use super::*;
use ext4_replica::explore::{Activity, Choice, Role, ThreadName};
use writeback_events::Ino;

const LEAK: &str = "\
# a page stays locked
schedule 1
dialect seed
bugs enomem_lock_leak
max_pages 1
block_bits 12
files W
shows I14 enomem_lock_leak
writer1     start                          page:12:0
writer1     ext4_writepage                 -
writer1     ext4_writepage                 no_memory
";

#[test]
fn a_schedule_is_played_and_shows_what_it_says() {
    let schedule = Schedule::parse(LEAK).expect("sound");
    let played = schedule.play().expect("possible");
    let last = played.last().expect("three moves");
    assert!(last.broken.iter().any(|broken| broken.property == Property::I14), "{last:?}");
    assert_eq!(Some(last.causes), schedule.shows.map(|shows| shows.causes));
    assert!(last.done);
}

#[test]
fn a_schedule_reads_back_as_it_was_written() {
    let schedule = Schedule::parse(LEAK).expect("sound");
    let moves: Vec<Move> = schedule.moves.iter().map(|(_, planned)| planned.by).collect();
    let again = Schedule::of(schedule.dialect, &schedule.layout, &moves, schedule.shows);
    assert_eq!(again.to_text("a page stays locked"), LEAK);
}

/// Each line that is wrong is named, with what would be right where that can be said.
#[test]
fn a_bad_line_is_refused_by_its_number() {
    let with = |from: &str, to: &str| LEAK.replace(from, to);
    let cases = [
        (String::new(), 1, "`schedule 1`"),
        (with("schedule 1", "schedule 2"), 2, "`schedule 1`"),
        (with("dialect seed", "dialect sead"), 3, "`dialect sead` says nothing"),
        (with("bugs enomem_lock_leak", "bugs b1"), 4, "range_sum"),
        (with("max_pages 1", "max_pages one"), 5, "says nothing"),
        (with("files W", "files X"), 7, "no block of a file"),
        (with("files W", "files WWWWWWWWW"), 7, "1 to 8 whole pages"),
        (with("shows I14", "shows I99"), 8, "says nothing"),
        (with("page:12:0", "page:12"), 9, "begins nothing"),
        (with("page:12:0", "page:12:7"), 9, "is not possible here. What is: writer1 start pages:12:0:1"),
        (with("writer1     start ", "writre1     start "), 9, "no thread is called"),
        (with("writer1     start ", "worker1     start "), 9, "does not do"),
        (
            with("writer1     ext4_writepage                 -", "writer1 ext4_end_bio -"),
            10,
            "is in ext4_writepage here",
        ),
        (with("writer1     ext4_writepage                 -", "writer1 ext4_writepage"), 10, "three words"),
        (with("no_memory", "no_time"), 11, "no choice is called"),
        (with("no_memory", "fails"), 11, "is not possible here"),
        (with("files W\n", ""), 10, "no line `files"),
    ];
    for (text, line, why) in cases {
        let refused = Schedule::parse(&text).and_then(|schedule| schedule.play()).expect_err(why);
        assert_eq!(refused.line, line, "{refused}");
        assert!(refused.why.contains(why), "{refused}");
    }
}

#[test]
fn every_kind_of_move_reads_back() {
    let name = |role| ThreadName { role, number: 2 };
    let ino = Ino(12);
    let moves = [
        Move::Start(name(Role::Writer), Activity::SubmitRange { ino, first_page: 0, next_page: 3 }),
        Move::Start(name(Role::Interrupt), Activity::EndBio { bio: writeback_events::BioId(3), error: -5 }),
        Move::Start(name(Role::Direct), Activity::Direct { ino, first: 1, len: 2, is_async: true }),
        Move::Start(name(Role::Fsync), Activity::Fsync { ino }),
        Move::Start(name(Role::Truncate), Activity::Truncate { ino }),
        Move::Start(name(Role::Evict), Activity::Evict { ino }),
        Move::Start(name(Role::Worker), Activity::Work { ino }),
        Move::Step(name(Role::Worker), Choice::ConvertFails),
        Move::Step(name(Role::Direct), Choice::Generic(ext4_replica::explore::Outcome::PartialError)),
    ];
    for by in moves {
        let step = if matches!(by, Move::Start(..)) { "start" } else { "anything" };
        assert_eq!(Move::parse(&by.thread().to_string(), step, &by.choice()), Ok(by));
    }
}
