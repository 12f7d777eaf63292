//! What a search finds, and that none of its savings loses anything. Small machines: each test is seconds without optimisation.

use explorer::schedule::{Played, Schedule};
use explorer::search::{Ended, Found, Limits, Searched, search};
use ext4_replica::explore::{Bounds, Broken, Layout, Property};
use ext4_replica::{Bug, Bugs, Call, Calls, Cause, Causes, Dialect, Event};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

const LIMITS: Limits = Limits { states: 3_000_000, memory_bytes: 4 << 30, threads: 2 };

fn dialect(name: &str) -> Dialect {
    Dialect::by_name(name).expect("it is there")
}

fn look(dialect: Dialect, bounds: &Bounds) -> Searched {
    look_from(dialect, bounds, &Layout::all(bounds, &dialect))
}

fn look_from(dialect: Dialect, bounds: &Bounds, starts: &[Layout]) -> Searched {
    let searched = search(dialect, bounds, starts, LIMITS, &AtomicBool::new(false));
    assert_eq!(searched.ended, Ended::Exhaustive);
    searched
}

fn from(max_pages: u32, block_bits: u32, files: &str) -> Vec<Layout> {
    vec![Layout::parse(max_pages, block_bits, &[files]).expect("sound")]
}

fn kinds(searched: &Searched) -> BTreeSet<(Broken, Causes)> {
    searched.found.iter().map(|found| (found.broken, found.causes)).collect()
}

fn writer() -> Bounds {
    Bounds { writers: 1, errors: 1, alloc_failures: 1, ..Bounds::default() }
}

fn direct() -> Bounds {
    Bounds { direct_writes: 1, errors: 1, alloc_failures: 1, truncates: 1, ..Bounds::default() }
}

fn small_blocks() -> Bounds {
    Bounds { writers: 1, block_bits: 11, ..Bounds::default() }
}

/// A defect by itself, the machine it shows in, and what it breaks.
fn shown() -> Vec<(&'static str, Bug, Bounds, Vec<Property>)> {
    use Property::*;
    let waits = Bounds { fsyncs: 1, ..writer() };
    vec![
        ("seed", Bug::EnomemLockLeak, writer(), vec![I14]),
        ("seed", Bug::DioDoublePut, direct(), vec![I3, Warns]),
        ("seed", Bug::DioDoubleDone, direct(), vec![I12, Waits]),
        ("seed", Bug::RacyFlag, waits, vec![I7, Waits]),
        ("seed", Bug::ConvertAfterError, writer(), vec![I9]),
        ("v3_10", Bug::UninitClearedEarly, writer(), vec![I4, I10]),
        ("per_bio", Bug::InflatedRange, writer(), vec![I9]),
        ("per_bio", Bug::DioFreeUnwritten, direct(), vec![I6]),
        ("v3_11", Bug::DioFlagZeroed, direct(), vec![I7, Warns]),
    ]
}

#[test]
fn each_defect_by_itself_is_found_and_blamed() {
    for (name, bug, bounds, properties) in shown() {
        let searched = look(dialect(name).with_bugs(Bugs::of(&[bug])), &bounds);
        let blamed = Causes::of([Cause::Defect(bug)]);
        let broken: BTreeSet<Property> = searched.found.iter().map(|found| found.broken.property).collect();
        assert!(properties.iter().all(|property| broken.contains(property)), "{}: {broken:?}", bug.name());
        assert!(searched.found.iter().all(|found| found.causes == blamed), "{}: {:?}", bug.name(), kinds(&searched));
    }
}

/// Both forms of B5: in the gap nobody wrote, behind it nobody converts.
#[test]
fn a_summed_range_converts_what_was_never_written_and_misses_what_was() {
    let dialect = dialect("seed").with_bugs(Bugs::of(&[Bug::RangeSum]));
    let starts = [from(1, 11, "uUuW"), from(1, 11, "W.WU"), from(256, 11, "WuUU")].concat();
    let searched = look_from(dialect, &small_blocks(), &starts);
    let found: BTreeSet<Property> = searched.found.iter().map(|found| found.broken.property).collect();
    assert_eq!(found, BTreeSet::from([Property::I9, Property::I10]));
}

/// The first buffer's bio ends before the second one finds no memory: that page is under writeback for ever. Found by a walk
/// through a larger machine.
#[test]
fn a_page_whose_last_bio_ended_before_memory_ran_out_ends_its_writeback_all_the_same() {
    let bounds = Bounds { writers: 1, block_bits: 11, alloc_failures: 1, ..Bounds::default() };
    let dialect = dialect("per_bio").with_bugs(Bugs::of(&[Bug::EnomemWritebackLeak]));
    let starts = from(1, 11, "W|W");
    let searched = look_from(dialect, &bounds, &starts);
    assert!(searched.found.iter().any(|found| found.broken.property == Property::I11), "{:?}", kinds(&searched));
    let blamed = Causes::of([Cause::Defect(Bug::EnomemWritebackLeak)]);
    assert!(searched.found.iter().all(|found| found.causes == blamed), "{:?}", kinds(&searched));
    assert_eq!(kinds(&look_from(dialect.with_bugs(Bugs::NONE), &bounds, &starts)), BTreeSet::new());
}

/// B12: an overwrite takes no `i_mutex`, and takes the pointer away from a write that has one.
#[test]
fn a_pointer_in_the_inode_puts_the_flag_on_the_wrong_io_end() {
    let bounds = Bounds { direct_writes: 2, ..Bounds::default() };
    let dialect = dialect("seed").with_bugs(Bugs::of(&[Bug::AioPointer]));
    let searched = look_from(dialect, &bounds, &from(1, 12, "uw"));
    assert!(!searched.found.is_empty());
    assert!(searched.found.iter().all(|found| found.causes.has(Cause::Defect(Bug::AioPointer))));
    assert!(look_from(dialect.with_bugs(Bugs::NONE), &bounds, &from(1, 12, "uw")).found.is_empty());
}

#[test]
fn with_every_defect_off_nothing_is_found_in_any_dialect() {
    for name in Dialect::names() {
        let dialect = dialect(name).with_bugs(Bugs::NONE);
        let io_ends = 2;
        for bounds in [Bounds { io_ends, fsyncs: 1, ..writer() }, Bounds { fsyncs: 1, evicts: 1, ..direct() }] {
            let searched = look(dialect, &bounds);
            assert_eq!(kinds(&searched), BTreeSet::new(), "{name}");
        }
        let searched = look_from(dialect, &small_blocks(), &from(1, 11, "U.Wu"));
        assert_eq!(kinds(&searched), BTreeSet::new(), "{name}");
    }
}

/// 3.11 rounds to pages, 6.12 converts in one place of two: by design, and each under its own name.
#[test]
fn what_a_later_dialect_does_by_design_has_a_name() {
    let mapped = look_from(dialect("v3_11"), &small_blocks(), &from(256, 11, "UuWW"));
    assert!(
        kinds(&mapped)
            .iter()
            .any(|(broken, causes)| { broken.property == Property::I9 && *causes == Causes::of([Cause::MappedPages]) })
    );
    let converted = look(dialect("v6_12"), &writer());
    let expected = Causes::of([Cause::PutConvertsAfterError]);
    assert!(converted.found.iter().all(|found| found.causes == expected && found.broken.property == Property::I9));
    assert!(!converted.found.is_empty() && look(dialect("v7_2"), &writer()).found.is_empty());
}

/// Steps that nobody else can see are taken along with the one before them. Taken one by one they lead to the same findings.
#[test]
fn taking_local_steps_along_loses_nothing() {
    for name in ["per_bio", "seed", "v3_11", "v6_12"] {
        for bounds in [Bounds { pages: 1, fsyncs: 1, ..writer() }, Bounds { pages: 1, fsyncs: 1, ..direct() }] {
            let every = Bounds { every_step: true, ..bounds.clone() };
            let (few, all) = (look(dialect(name), &bounds), look(dialect(name), &every));
            assert_eq!(kinds(&few), kinds(&all), "{name}");
            assert!(few.states < all.states);
        }
    }
}

/// Threads and files that are alike are not told apart. Told apart they lead to the same findings.
#[test]
fn taking_like_threads_and_files_for_one_loses_nothing() {
    let threads = Bounds { pages: 1, block_bits: 11, writers: 1, interrupts: 2, errors: 1, ..Bounds::default() };
    let files = Bounds { inodes: 2, pages: 1, writers: 2, max_pages: vec![1], ..Bounds::default() };
    for bounds in [threads, files] {
        let every = Bounds { every_name: true, ..bounds.clone() };
        let (few, all) = (look(dialect("seed"), &bounds), look(dialect("seed"), &every));
        assert_eq!(kinds(&few), kinds(&all));
        assert!(few.states < all.states, "{} of {}", few.states, all.states);
    }
}

#[test]
fn the_result_does_not_depend_on_how_many_threads_search() {
    let alone = |threads| {
        let limits = Limits { threads, ..LIMITS };
        let bounds = writer();
        search(Dialect::SEED, &bounds, &Layout::all(&bounds, &Dialect::SEED), limits, &AtomicBool::new(false)).found
    };
    assert_eq!(alone(1), alone(3));
}

#[test]
fn what_stops_a_search_is_said() {
    let bounds = writer();
    let starts = Layout::all(&bounds, &Dialect::SEED);
    let ended = |limits, interrupt| search(Dialect::SEED, &bounds, &starts, limits, &AtomicBool::new(interrupt)).ended;
    assert_eq!(ended(Limits { states: 1000, ..LIMITS }, false), Ended::States);
    assert_eq!(ended(Limits { memory_bytes: 1 << 20, ..LIMITS }, false), Ended::Memory);
    assert_eq!(ended(LIMITS, true), Ended::Interrupted);
    let few = Bounds { bios: 1, io_ends: 1, ..bounds.clone() };
    let few = look(Dialect::SEED, &few);
    assert!(few.beyond > 0 && few.states < look(Dialect::SEED, &bounds).states);
}

/// No way of fewer moves leads to the same finding: every way of that length is walked, without keeping what was seen.
#[test]
fn the_way_to_a_finding_is_a_shortest_one() {
    let bounds = Bounds { pages: 1, direct_writes: 1, errors: 1, ..Bounds::default() };
    let dialect = Dialect::SEED;
    let searched = look_from(dialect, &bounds, &from(1, 12, "w"));
    let found = searched.found.iter().find(|found| found.broken.property == Property::I12).expect("B4 shows");
    let start = ext4_replica::explore::World::new(dialect, &bounds, &found.layout);
    assert!(!leads_to(&start, &bounds, found, found.moves.len() - 1));
    assert!(leads_to(&start, &bounds, found, found.moves.len()));
}

fn leads_to(world: &ext4_replica::explore::World, bounds: &Bounds, found: &Found, moves_left: usize) -> bool {
    let mut moves = Vec::new();
    world.moves(bounds, &mut moves);
    moves_left > 0
        && moves.into_iter().any(|by| {
            let mut then = world.clone();
            let taken = then.take(by, bounds);
            taken.broken.contains(&found.broken) && then.causes() == found.causes
                || leads_to(&then, bounds, found, moves_left - 1)
        })
}

proptest! {
    /// Machines too large to search whole: any way through them, in any dialect with every defect off.
    #[test]
    fn any_way_through_a_larger_machine_breaks_nothing(
        name in prop::sample::select(Dialect::names().collect::<Vec<_>>()),
        max_pages in 1..4u32,
        file in prop::collection::vec(prop::sample::select(vec!["W", "U", "w", "u", ".", "|W", "|U"]), 8),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 0..250),
    ) {
        let most = 3;
        let bounds = Bounds {
            writers: most, direct_writes: most, fsyncs: 2, truncates: 2, evicts: 1, interrupts: most,
            errors: 2, alloc_failures: 2, convert_failures: 2, bios: 99, io_ends: 99, ..Bounds::default()
        };
        let layout = Layout::parse(max_pages, 11, &[&file.concat()]).expect("four pages");
        let mut world = ext4_replica::explore::World::new(dialect(name).with_bugs(Bugs::NONE), &bounds, &layout);
        let mut moves = Vec::new();
        for choice in choices {
            world.moves(&bounds, &mut moves);
            if moves.is_empty() {
                break;
            }
            let by = *choice.get(&moves);
            let taken = world.take(by, &bounds);
            prop_assert_eq!(taken.broken, [], "{:?} in {}", by, taken.function);
        }
    }
}

/// What no call interrupts is carried out by whole calls as well, event by event.
#[test]
fn calls_of_a_finding_give_the_same_events() {
    let (mut with_calls, mut without) = (0, 0);
    for (name, bug, bounds, _) in shown() {
        let dialect = dialect(name).with_bugs(Bugs::of(&[bug]));
        for found in look(dialect, &bounds).found {
            let schedule = Schedule::of(dialect, &found.layout, &found.moves, None);
            let played = schedule.play().expect("it was found so");
            let Some(calls) = explorer::calls::calls(&schedule, &played) else {
                without += 1;
                continue;
            };
            with_calls += 1;
            let (ours, theirs) = (events_of(&played), carried_out(dialect, &calls));
            assert!(theirs.starts_with(&ours), "{} {:?}:\n{calls}\n{ours:#?}\n{theirs:#?}", bug.name(), found.broken);
        }
    }
    assert!(with_calls >= 6 && without >= 1, "{with_calls} with calls, {without} without");
}

fn events_of(played: &[Played]) -> Vec<Event> {
    played.iter().flat_map(|step| step.events.clone()).filter(is_line).collect()
}

fn carried_out(dialect: Dialect, calls: &str) -> Vec<Event> {
    let mut machine = Calls::new(dialect);
    let call = |line: &str| Call::from_json(line.as_bytes()).expect("a call");
    let events = calls.lines().flat_map(|line| machine.call(&call(line)).expect("sound"));
    events.filter(|event| is_line(event) && !is_of_calls(event)).collect()
}

fn is_line(event: &Event) -> bool {
    !matches!(event, Event::ConvertBegins { .. })
}

/// What only a call as a whole says.
fn is_of_calls(event: &Event) -> bool {
    matches!(event, Event::Return { .. } | Event::PageLeftLocked { .. })
}
