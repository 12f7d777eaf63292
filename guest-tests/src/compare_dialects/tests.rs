//! The comparison as a whole: what it says of the patch, that it says it twice alike, and that the page opens.

use super::*;
use html_page::browser::{Look, dom, screenshot};
use std::sync::LazyLock;

fn dialect(name: &str) -> Dialect {
    Dialect::by_name(name).expect("it is there")
}

/// Files up to 1 MiB: the largest ones say the same at four times the cost.
static PATCH: LazyLock<Comparison> =
    LazyLock::new(|| compare_on(dialect("per_bio"), dialect("seed"), &workloads_up_to(256)));

fn workloads_up_to(pages: u32) -> Vec<Workload> {
    Workload::all().into_iter().filter(|workload| workload.extent_pages <= pages).collect()
}

fn summary(defects: Defects, layout: Layout, one_bio_per_pass: bool) -> Summary {
    let variant = PATCH.variants.iter().find(|variant| variant.defects == defects).expect("both are there");
    let fits = |summary: &&Summary| (summary.layout, summary.one_bio_per_pass) == (layout, one_bio_per_pass);
    *variant.summary.iter().find(fits).expect("it is there")
}

/// The claim: no needless splitting and joining of unwritten extents when they cannot be submitted as a single bio.
#[test]
fn where_a_pass_takes_several_bios_the_patch_saves_splits_and_joins_and_elsewhere_none() {
    for layout in [Layout::Whole, Layout::Fragments, Layout::Passes] {
        let several = summary(Defects::None, layout, false);
        assert_eq!((several.fewer, several.equal, several.more), (several.workloads, 0, 0), "{layout:?}");
        let one = summary(Defects::None, layout, true);
        assert_eq!((one.fewer, one.equal, one.more), (0, one.workloads, 0), "{layout:?}");
    }
    let whole = summary(Defects::None, Layout::Whole, false);
    assert_eq!(whole.after.split_and_joined(), 0);
    let stripes = summary(Defects::None, Layout::Stripes, true);
    assert_eq!((stripes.fewer, stripes.more), (0, 0));
}

/// Of one extent in N bios, N - 1 splits and N - 1 joins go away: summed over all sizes, orders and workers.
#[test]
fn the_sums_over_one_extent_written_whole_are_what_they_must_be() {
    let mut splits = 0;
    for pages in [16_u32, 64, 256] {
        splits += workload::PAGES_PER_BIO.map(|room| u64::from(pages.div_ceil(room)) - 1).iter().sum::<u64>();
    }
    let each = splits * (Order::ALL.len() * Worker::ALL.len()) as u64;
    let whole = summary(Defects::None, Layout::Whole, false);
    assert_eq!((whole.before.splits, whole.before.merges), (each, each));
}

#[test]
fn across_gaps_only_the_defect_saves_conversions() {
    let posted = summary(Defects::Own, Layout::Gaps, false);
    assert!(posted.after.conversions < posted.before.conversions);
    assert!(posted.after.lost_blocks > 0 && posted.after.stale_blocks > 0);
    let clean = summary(Defects::None, Layout::Gaps, false);
    assert_eq!((clean.after.lost_blocks, clean.after.stale_blocks), (0, 0));
    assert_eq!((clean.before.lost_blocks, clean.before.stale_blocks), (0, 0));
}

#[test]
fn a_comparison_gives_the_same_bytes_twice() {
    let workloads = workloads_up_to(64);
    let bytes = || {
        let comparison = compare_on(dialect("v3_10"), dialect("v3_11"), &workloads);
        (text(&comparison), render(&comparison), serde_json::json!(comparison).to_string())
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_dialect_is_not_compared_with_itself() {
    let failure = compare(dialect("seed"), dialect("seed")).expect_err("nothing to compare");
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("per_bio"), "{failure}");
}

#[test]
fn rows_that_count_the_same_stand_together_and_none_is_lost() {
    let text = text(&PATCH);
    let whole = text.lines().find(|line| line.starts_with("whole      256   16")).expect("its row");
    assert!(whole.contains("prompt") && whole.contains("12 → 0"), "{whole}");
}

#[test]
fn the_page_opens_in_light_and_dark_with_all_its_plots() {
    let page = render(&PATCH);
    assert_eq!(page.matches("<svg").count(), 2 * Layout::ALL.len() * 4);
    for dark in [false, true] {
        let look = Look { width: 1280, dark };
        assert!(dom(&page, look).contains("per_bio → seed"));
        let keep = std::env::var_os("REPORT_SCREENSHOTS").map(|folder| {
            std::path::PathBuf::from(folder)
                .join(format!("compare-dialects-{}.png", if dark { "dark" } else { "light" }))
        });
        assert!(screenshot(&page, look, keep).len() > 10_000);
    }
}
