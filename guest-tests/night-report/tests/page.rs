//! What a reader of the page relies on.

use night_report::{Night, Result, Status, Summary, cards, page, samples};
use night_results::{Again, Canary, Known, KnownKernels, Outcome, Signature, Unit};

fn tile(page: &str, name: &str) -> (String, String) {
    let (before, rest) = page.split_once(&format!("</span> {name} <span class=\"delta\">")).expect("a tile");
    let n = before.rsplit_once('>').expect("a number").1;
    (n.to_owned(), rest.split_once('<').expect("an end").0.to_owned())
}

#[test]
fn the_same_night_gives_the_same_page_byte_for_byte() {
    assert!(page(&samples::busy()) == page(&samples::busy()));
}

#[test]
fn the_page_loads_nothing_and_needs_no_script_to_be_read() {
    let page = page(&samples::busy());
    for loader in ["http:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "<link", "<img", "onclick"] {
        assert!(!page.contains(loader), "{loader}");
    }
    assert!(page.contains("A write failed, and no fsync told the program so"));
}

#[test]
fn a_red_line_leads_to_the_card_of_its_signature_in_one_click() {
    let night = samples::busy();
    let page = page(&night);
    assert_eq!(cards(&night).len(), 3);
    for card in cards(&night) {
        let head = if card.status == Status::New { "s" } else { "k" };
        let id = format!("{head}-{}", card.signature.id);
        let (index, rest) = page.split_once("id=\"difference\"").expect("the list of failures is at the top");
        assert!(index.contains(&format!("href=\"#{id}\"")), "{id}");
        let (_, card_html) = rest.split_once(&format!("id=\"{id}\"")).expect("its card");
        let card_html = card_html.split_once("</section>").expect("ends").0;
        for needed in ["Show it again", "guest-tests nightly --seeds", "since", &card.signature.text] {
            assert!(card_html.contains(needed), "{id}: {needed}");
        }
    }
}

#[test]
fn the_numbers_stand_beside_last_nights() {
    let page = page(&samples::busy());
    assert_eq!(tile(&page, "new"), ("2".into(), "−1 since last night".into()));
    assert_eq!(tile(&page, "known"), ("1".into(), "+1 since last night".into()));
    assert_eq!(tile(&page, "fixed").0, "1");
    assert_eq!(tile(&page, "flaky").0, "1");
    assert_eq!(tile(&page, "not judged"), ("3".into(), "+2 since last night".into()));
}

#[test]
fn nothing_that_somebody_else_wrote_becomes_markup() {
    let mut night = samples::busy();
    let evil = "<img src=x onerror=alert(1)>\"'&";
    for line in night.results.values_mut() {
        line.why = evil.into();
        line.repro = evil.into();
        line.scenario = evil.into();
        line.kernel = evil.into();
        line.findings = vec![evil.into()];
        line.signature = line.signature.as_ref().map(|_| Signature::of(evil));
        line.fired.iter_mut().for_each(|fired| fired.outcome = evil.into());
        line.pairs = vec![evil.into()];
    }
    night.asked.hosts[0].kernel = evil.into();
    night.known.push(known(evil, "6.1"));
    let page = page(&night);
    assert!(!page.contains("<img") && page.contains("&lt;img src=x onerror="));
}

fn known(signature: &str, kernel: &str) -> Known {
    Known {
        signature: signature.into(),
        reason: "told".into(),
        link: "javascript:alert(1)".into(),
        with: Vec::new(),
        kernels: KnownKernels::These(vec![kernel.into()]),
        expires: None,
    }
}

#[test]
fn a_link_of_known_json_is_one_only_if_it_leads_to_a_page() {
    let mut night = samples::busy();
    night.known = vec![Known { kernels: KnownKernels::Any, ..known("stale-data-read / ioerr / data", "") }];
    assert!(!page(&night).contains("href=\"javascript"));
}

#[test]
fn a_missed_canary_makes_the_night_red_whatever_else_it_says() {
    let mut night = samples::quiet(23, 20);
    for outcome in [Outcome::Failed, Outcome::Unjudged, Outcome::Infrastructure] {
        night.results.get_mut(&Unit::Canary(Canary::Device)).expect("it is there").outcome = outcome;
        assert_eq!(Summary::of(&night).result, Result::CanaryMissed);
        assert!(page(&night).contains("nothing of this night can be trusted"));
    }
}

#[test]
fn a_night_in_which_nothing_was_judged_is_no_good_news() {
    let mut night = samples::quiet(23, 20);
    assert_eq!(Summary::of(&night).result, Result::NothingNew);
    night
        .results
        .values_mut()
        .filter(|line| line.unit.seed().is_some())
        .for_each(|line| line.outcome = Outcome::Unjudged);
    assert_eq!(Summary::of(&night).result, Result::NothingJudged);
    assert!(page(&night).contains("data-result=\"nothing_judged\""));
}

#[test]
fn a_failure_without_a_signature_is_not_lost() {
    let mut night = samples::quiet(23, 20);
    night.results.values_mut().last().expect("some").outcome = Outcome::Failed;
    let cards = cards(&night);
    assert_eq!((cards.len(), cards[0].status), (1, Status::New));
}

#[test]
fn what_is_known_on_one_kernel_is_new_on_another() {
    let mut night = samples::busy();
    night.known = vec![known("stale-data-read / ioerr / data", "5.10")];
    let of: Vec<_> = cards(&night)
        .iter()
        .filter(|card| card.signature.text.starts_with("stale"))
        .map(|card| (card.status, card.kernels().into_iter().map(str::to_owned).collect::<Vec<_>>()))
        .collect();
    assert_eq!(of, [(Status::New, vec!["6.1".into(), "7.2".into()]), (Status::Known, vec!["5.10".into()])]);
}

/// Nights one after another, each told of those before.
fn then(before: &[Night], mut night: Night) -> Night {
    night.before = before.iter().map(Summary::of).collect();
    night
}

fn with_failure(mut night: Night, units: &[u32], again: Again) -> Night {
    let busy = samples::failures(100, false);
    for n in units {
        let unit = busy.results.keys().nth(*n as usize + 2).expect("there are enough").clone();
        let mut line = busy.results[&unit].clone();
        line.triage.as_mut().expect("it was looked at").again = again;
        night.results.insert(unit, line);
    }
    night
}

#[test]
fn a_known_failure_whose_own_seeds_come_out_clean_is_fixed() {
    let last = with_failure(samples::quiet(22, 100), &[7], Again::Reproducible);
    let mut night = then(&[last], samples::quiet(23, 100));
    night.known = vec![Known { kernels: KnownKernels::Any, ..known("different / one / data", "") }];
    let summary = Summary::of(&night);
    assert_eq!((summary.fixed(), summary.absent.len()), (1, 1));
    assert!(page(&night).contains("1 of its units ran again and came out clean"));
}

#[test]
fn a_known_bug_with_two_names_is_not_fixed_while_it_shows_under_the_other() {
    let last = with_failure(samples::quiet(22, 100), &[7], Again::Reproducible);
    let mut tonight = with_failure(samples::quiet(23, 100), &[9], Again::Reproducible);
    let failed = tonight.results.values_mut().find(|line| line.outcome == Outcome::Failed).expect("it is there");
    failed.signature = Some(Signature::of("stale-data-read / ioerr / data"));
    let mut night = then(&[last], tonight);
    let entry =
        |signature: &str, link: &str| Known { kernels: KnownKernels::Any, link: link.into(), ..known(signature, "") };
    let both =
        |second: &str| vec![entry("different / one / data", "one"), entry("stale-data-read / ioerr / data", second)];
    night.known = both("one");
    let absent = Summary::of(&night).absent.remove(0);
    assert!(!absent.fixed && absent.why.contains("the same bug showed as"), "{absent:?}");
    night.known = both("another");
    assert!(Summary::of(&night).absent[0].fixed, "two bugs");
}

#[test]
fn a_known_one_of_kernels_that_the_night_did_not_run_is_not_said_to_be_fixed() {
    let last = with_failure(samples::quiet(22, 100), &[7], Again::Reproducible);
    let mut night = then(&[last], samples::quiet(23, 100));
    night.results.retain(|unit, _| unit.seed().is_none());
    night.known = vec![known("different / one / data", "6.1")];
    let absent = Summary::of(&night).absent.remove(0);
    assert!(absent.known && !absent.fixed && absent.why.contains("too few"), "{absent:?}");
}

#[test]
fn a_flaky_one_that_did_not_show_in_few_scenarios_is_not_said_to_be_fixed() {
    let last = with_failure(samples::quiet(22, 100), &[7], Again::Flaky);
    let night = then(&[last], samples::quiet(23, 100));
    let absent = Summary::of(&night).absent.remove(0);
    assert!(!absent.fixed && absent.why.contains("too few"), "{absent:?}");
}

#[test]
fn one_that_was_frequent_and_is_absent_from_many_is_gone_by_more_than_chance() {
    let frequent: Vec<u32> = (0..50).collect();
    let last = with_failure(samples::quiet(22, 100), &frequent, Again::Flaky);
    let night = then(&[last], samples::quiet(23, 100));
    let absent = Summary::of(&night).absent.remove(0);
    assert!(absent.fixed && absent.why.contains("by chance at most"), "{absent:?}");
}

#[test]
fn since_is_the_first_night_that_saw_it_even_if_that_night_is_not_at_hand() {
    let first = with_failure(samples::quiet(20, 100), &[7], Again::Reproducible);
    let second = then(&[first], with_failure(samples::quiet(21, 100), &[7], Again::Reproducible));
    let third = then(&[second], with_failure(samples::quiet(22, 100), &[7], Again::Reproducible));
    assert_eq!(cards(&third)[0].since, "2026-11-20");
}

#[test]
fn a_judge_that_did_not_apply_counts_as_nothing_good() {
    let page = page(&samples::quiet(23, 90));
    assert!(page.contains("<tr><td>lockstep</td><td>80</td><td>0</td><td>10</td>"), "not_applicable is no pass");
    assert!(page.contains("<tr><td>durability</td><td>0</td><td>0</td><td>90</td>"), "not_run is no pass");
}

#[test]
fn what_was_armed_and_never_fired_is_told_apart_from_what_was_never_armed() {
    let mut night = samples::quiet(23, 1);
    let line = night.results.values_mut().find(|line| line.unit.seed().is_some()).expect("one");
    line.fired.clear();
    line.armed[0] = night_results::Armed { action: "torn".into(), op: "write".into(), class: "ext4.journal".into() };
    let page = page(&night);
    let (_, row) = page.split_once("<th scope=\"row\">torn</th>").expect("a row");
    let row = row.split_once("</tr>").expect("ends").0;
    assert_eq!(row.matches("class=\"armed\"").count(), 6, "the journal and the five classes below it: {row}");
    assert_eq!(row.matches("class=\"never\"").count(), 13, "{row}");
    assert!(page.contains("<strong>torn write</strong>: journal ok, journal.superblock ok"));
}
