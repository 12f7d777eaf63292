//! Where along a line of places a failure comes or goes. Pure: it is handed a way to look.

/// What was seen at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The failure shows.
    Shows,
    /// It does not.
    ShowsNot,
    /// Nothing can be said of this place: it does not build, it cannot run the scenario.
    Skipped(String),
}

/// A change between two neighbours, but for places of which nothing can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The last place before it.
    pub before: usize,
    /// The first place behind it.
    pub after: usize,
    /// The failure comes with it; else it goes.
    pub comes: bool,
}

/// Looks at every place, in order, and gives what was seen: for lists so short that nothing need be taken for granted.
pub fn sweep<E>(count: usize, look: impl FnMut(usize) -> Result<Seen, E>) -> Result<Vec<Seen>, E> {
    (0..count).map(look).collect()
}

/// All changes of a sweep. More than one: it comes and goes.
pub fn changes(seen: &[Seen]) -> Vec<Change> {
    let known: Vec<(usize, bool)> = seen
        .iter()
        .enumerate()
        .filter_map(|(place, seen)| match seen {
            Seen::Shows => Some((place, true)),
            Seen::ShowsNot => Some((place, false)),
            Seen::Skipped(_) => None,
        })
        .collect();
    let change = |pair: &[(usize, bool)]| {
        let [(before, was), (after, is)] = *pair else { return None };
        (was != is).then_some(Change { before, after, comes: is })
    };
    known.windows(2).filter_map(change).collect()
}

/// What halving found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halved {
    /// It changes between these two; what lies between them could not be looked at.
    Changes(Change),
    /// Both ends are alike: it shows there, or it does not.
    Alike {
        /// It shows at both.
        shows: bool,
    },
    /// An end could not be looked at.
    NoEnd {
        /// Which.
        place: usize,
        /// Why.
        why: String,
    },
}

/// Halves the way between the first place and the last, which are looked at first, until one change is left. A place of
/// which nothing can be said is passed over for its nearest neighbour.
pub fn halve<E>(count: usize, mut look: impl FnMut(usize) -> Result<Seen, E>) -> Result<Halved, E> {
    let (mut low, mut high) = (0, count - 1);
    let mut ends = [false; 2];
    for (end, place) in ends.iter_mut().zip([low, high]) {
        *end = match look(place)? {
            Seen::Shows => true,
            Seen::ShowsNot => false,
            Seen::Skipped(why) => return Ok(Halved::NoEnd { place, why }),
        };
    }
    let [was, is] = ends;
    if was == is {
        return Ok(Halved::Alike { shows: was });
    }
    let mut skipped = vec![false; count];
    while let Some(place) = nearest(low, high, &skipped) {
        match look(place)? {
            Seen::Skipped(_) => skipped[place] = true,
            seen if (seen == Seen::Shows) == was => low = place,
            _ => high = place,
        }
    }
    Ok(Halved::Changes(Change { before: low, after: high, comes: is }))
}

/// The place nearest to the middle that has not been passed over; none: there is nothing between.
fn nearest(low: usize, high: usize, skipped: &[bool]) -> Option<usize> {
    let middle = usize::midpoint(low, high);
    (low + 1..high).filter(|&place| !skipped[place]).min_by_key(|&place| place.abs_diff(middle))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// `x` shows, `.` does not, `-` is skipped.
    fn line(text: &str) -> Vec<Seen> {
        text.chars()
            .map(|c| match c {
                'x' => Seen::Shows,
                '.' => Seen::ShowsNot,
                _ => Seen::Skipped("does not build".into()),
            })
            .collect()
    }

    fn halved(text: &str) -> Halved {
        let line = line(text);
        halve(line.len(), |place| Ok::<_, Infallible>(line[place].clone())).unwrap()
    }

    #[test]
    fn the_first_place_with_the_failure_is_found_whichever_way_it_changes() {
        assert_eq!(halved("...xxxxx"), Halved::Changes(Change { before: 2, after: 3, comes: true }));
        assert_eq!(halved("xxxxxx."), Halved::Changes(Change { before: 5, after: 6, comes: false }));
        assert_eq!(halved(".x"), Halved::Changes(Change { before: 0, after: 1, comes: true }));
    }

    #[test]
    fn what_does_not_build_is_passed_over_and_named_by_its_neighbours() {
        assert_eq!(halved("..--xx"), Halved::Changes(Change { before: 1, after: 4, comes: true }));
        assert_eq!(halved(".----x"), Halved::Changes(Change { before: 0, after: 5, comes: true }));
        assert!(matches!(halved("-..x"), Halved::NoEnd { place: 0, .. }));
    }

    #[test]
    fn ends_that_are_alike_have_nothing_between_them() {
        assert_eq!(halved("..x."), Halved::Alike { shows: false });
        assert_eq!(halved("x"), Halved::Alike { shows: true });
    }

    #[test]
    fn a_sweep_tells_every_change() {
        let change = |before, after, comes| Change { before, after, comes };
        assert_eq!(changes(&line("..xx")), [change(1, 2, true)]);
        assert_eq!(changes(&line("x-.x")), [change(0, 2, false), change(2, 3, true)]);
        assert_eq!(changes(&line("xxx")), []);
    }

    proptest! {
        /// One change, anywhere, with anything skipped between: it is found, and in few looks.
        #[test]
        fn one_change_is_found(count in 2usize..200, at in 0usize..200, skips in prop::collection::vec(1usize..199, 0..3)) {
            let at = 1 + at % (count - 1);
            let mut looks = 0;
            let skipped = |place: usize| place != 0 && place != count - 1 && skips.contains(&place);
            let look = |place: usize| {
                looks += 1;
                Ok::<_, Infallible>(match place {
                    _ if skipped(place) => Seen::Skipped(String::new()),
                    _ if place >= at => Seen::Shows,
                    _ => Seen::ShowsNot,
                })
            };
            let Halved::Changes(change) = halve(count, look).unwrap() else { panic!("there is one") };
            prop_assert!(change.before < at && at <= change.after && change.comes);
            prop_assert!((change.before + 1..change.after).all(skipped));
            prop_assert!(looks <= 2 + 8 + 2 * skips.len(), "{} looks", looks);
        }
    }
}
