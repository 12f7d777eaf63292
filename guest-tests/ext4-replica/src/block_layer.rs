//! The block layer's part: which requests a bio travels in, and when and how it ends.
//!
//! A bio is cut into pieces, pieces of several bios may share a request; what was split and what was merged shows in the
//! sectors. A bio ends once, when all its sectors have been answered.
//!
//! Its error: splitting chains the pieces in front to the bio itself, which keeps the last piece. A piece in front hands
//! its error on only if the bio has none yet (`block/bio.c, __bio_chain_endio, v6.1`); the last piece's own error is
//! written over what is there (`block/blk-mq.c, req_bio_endio, v6.1`). So it is the first error to arrive, unless the last
//! piece fails: then it is that one.

use crate::misfit::MisfitKind;
use crate::mutation::Mutation;
use crate::page_io::EIO;
use std::collections::BTreeMap;
use std::ops::Range;
use writeback_events::{BioId, BlockOp, Errno, RequestId, RequestStatus};

/// Bios and requests in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockLayer {
    /// By first sector.
    by_sector: BTreeMap<u64, BioId>,
    bios: BTreeMap<BioId, Flying>,
    requests: BTreeMap<RequestId, Request>,
    /// Sectors that the disk is known to have; none: nothing reaches past it.
    pub(crate) disk_sectors: Option<u64>,
    mutation: Option<Mutation>,
}

/// A submitted bio.
#[derive(Clone, Debug)]
struct Flying {
    sectors: Range<u64>,
    /// Parts of it that are in a request with the driver or have been answered.
    taken: Vec<Range<u64>>,
    unanswered_sectors: u64,
    errno: Errno,
}

/// A request with the driver.
#[derive(Clone, Debug)]
struct Request {
    pieces: Vec<(BioId, Range<u64>)>,
    /// Something in it is not ext4's file data.
    other_data: bool,
}

/// What an answered request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) errno: Errno,
    /// Bios that end by it, in the order of their sectors, with their errors.
    pub(crate) ended: Vec<(BioId, Errno)>,
    /// Something failed that is not ext4's file data.
    pub(crate) other_data_failed: bool,
}

/// What does not fit, and the bio it touches.
pub(crate) type Unfit = (MisfitKind, Option<BioId>);

impl BlockLayer {
    pub(crate) fn new(mutation: Option<Mutation>) -> BlockLayer {
        BlockLayer { mutation, ..BlockLayer::default() }
    }

    fn planted(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn submit(&mut self, bio: BioId, sectors: Range<u64>) -> Result<(), Unfit> {
        if let Some(&(other, _)) = self.overlapping(&sectors).first() {
            let Range { start: first, end } = sectors;
            return Err((MisfitKind::BioOverlaps { bio, first, end, other }, Some(bio)));
        }
        let unanswered_sectors = sectors.end - sectors.start;
        if unanswered_sectors != 0 {
            self.by_sector.insert(sectors.start, bio);
        }
        self.bios.insert(bio, Flying { sectors, taken: Vec::new(), unanswered_sectors, errno: 0 });
        Ok(())
    }

    /// A bio that reaches past the end of the disk is ended with an I/O error where it is submitted; it never becomes a request
    /// (`block/blk-core.c, bio_check_eod`, v5.10 to v7.2).
    pub(crate) fn is_past_end(&self, sectors: &Range<u64>) -> bool {
        self.disk_sectors.is_some_and(|disk| sectors.end > disk)
    }

    /// Whether something in the request is not ext4's file data.
    pub(crate) fn carries_other_data(&self, request: RequestId) -> bool {
        self.requests.get(&request).is_none_or(|request| request.other_data)
    }

    pub(crate) fn issue(&mut self, request: RequestId, op: BlockOp, sectors: Range<u64>) -> Result<(), Unfit> {
        if let Some(known) = self.requests.get(&request) {
            let bio = known.pieces.first().map(|(bio, _)| *bio);
            return Err((MisfitKind::IssuedTwice { request }, bio));
        }
        let pieces = if op == BlockOp::Write { self.overlapping(&sectors) } else { Vec::new() };
        for (bio, piece) in &pieces {
            let taken = &self.flying(*bio).taken;
            if taken.iter().any(|other| overlap(other, piece)) {
                return Err((MisfitKind::SectorsIssuedTwice { request, bio: *bio }, Some(*bio)));
            }
        }
        for (bio, piece) in &pieces {
            self.flying(*bio).taken.push(piece.clone());
        }
        let ours: u64 = pieces.iter().map(|(_, piece)| piece.end - piece.start).sum();
        let other_data = pieces.is_empty() || ours < sectors.end - sectors.start;
        self.requests.insert(request, Request { pieces, other_data });
        Ok(())
    }

    pub(crate) fn requeue(&mut self, request: RequestId) -> Result<(), Unfit> {
        if self.planted(Mutation::RequeueForgotten) {
            return Ok(());
        }
        let Some(Request { pieces, .. }) = self.requests.remove(&request) else {
            return Err((MisfitKind::NotIssued { request, what: "requeued" }, None));
        };
        for (bio, piece) in pieces {
            if let Some(flying) = self.bios.get_mut(&bio) {
                flying.taken.retain(|taken| *taken != piece);
            }
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, request: RequestId, status: RequestStatus) -> Result<Answered, Unfit> {
        let Some(Request { pieces, other_data }) = self.requests.remove(&request) else {
            return Err((MisfitKind::NotIssued { request, what: "answered" }, None));
        };
        let errno = if self.planted(Mutation::UnsuppIsEio) { errno_of(status).max(EIO) } else { errno_of(status) };
        let taken = if self.planted(Mutation::MergedBioForgotten) { 1 } else { pieces.len() };
        let pieces = pieces.into_iter().take(taken);
        let mut ended: Vec<_> = pieces.filter_map(|(bio, piece)| self.piece_answered(bio, &piece, errno)).collect();
        if self.planted(Mutation::MergedBiosEndBackwards) {
            ended.reverse();
        }
        let told = if self.planted(Mutation::RequestErrorDropped) { 0 } else { errno };
        Ok(Answered { errno: told, ended, other_data_failed: other_data && errno != 0 })
    }

    /// The bio and its error, if this was its last piece.
    fn piece_answered(&mut self, bio: BioId, piece: &Range<u64>, errno: Errno) -> Option<(BioId, Errno)> {
        let end_with_first = self.planted(Mutation::BioEndsWithFirstRequest);
        let writes_over = |is_last_piece, errno| match self.mutation {
            Some(Mutation::LastErrorStays) => true,
            Some(Mutation::FirstErrorStays) => errno == 0,
            Some(Mutation::FrontErrorLost) => is_last_piece,
            _ => is_last_piece || errno == 0,
        };
        let flying = self.bios.get_mut(&bio)?;
        let is_last_piece = piece.end == flying.sectors.end;
        if errno != 0 && writes_over(is_last_piece, flying.errno) {
            flying.errno = errno;
        }
        flying.unanswered_sectors -= piece.end - piece.start;
        if flying.unanswered_sectors != 0 && !end_with_first {
            return None;
        }
        let Flying { sectors, errno, .. } = self.bios.remove(&bio)?;
        self.by_sector.remove(&sectors.start);
        Some((bio, errno))
    }

    /// Bios in flight that have a part in `sectors`, and which part, by rising sector.
    fn overlapping(&self, sectors: &Range<u64>) -> Vec<(BioId, Range<u64>)> {
        // Bios in flight are disjoint, so only the last one that begins before `sectors` can reach into it.
        let before = self.by_sector.range(..=sectors.start).next_back();
        let second = sectors.start.saturating_add(1);
        let within = self.by_sector.range(second..sectors.end.max(second));
        before.into_iter().chain(within).filter_map(|(_, bio)| self.part(*bio, sectors)).collect()
    }

    fn part(&self, bio: BioId, sectors: &Range<u64>) -> Option<(BioId, Range<u64>)> {
        let own = &self.bios.get(&bio)?.sectors;
        let part = own.start.max(sectors.start)..own.end.min(sectors.end);
        (!part.is_empty()).then_some((bio, part))
    }

    fn flying(&mut self, bio: BioId) -> &mut Flying {
        self.bios.get_mut(&bio).expect("overlapping names only bios in flight")
    }

    /// Bios submitted and not ended.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.bios.len()
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What virtio_blk makes of a status byte (`drivers/block/virtio_blk.c, virtblk_result, v6.1`), as an errno.
pub(crate) fn errno_of(status: RequestStatus) -> Errno {
    match status {
        RequestStatus::Ok => 0,
        RequestStatus::Unsupp => -95,
        RequestStatus::Ioerr | RequestStatus::Other(_) => EIO,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]
mod tests {
    use super::*;
    use RequestStatus::{Ioerr, Ok as Good, Unsupp};
    use proptest::prelude::*;

    const WRITE: BlockOp = BlockOp::Write;

    fn bio(n: u32) -> BioId {
        BioId(n)
    }

    fn rq(n: u64) -> RequestId {
        RequestId(n)
    }

    fn answer(layer: &mut BlockLayer, request: u64, status: RequestStatus) -> Vec<(BioId, Errno)> {
        layer.answer(rq(request), status).expect("issued").ended
    }

    #[test]
    fn a_bio_in_three_requests_ends_once_with_the_last_answer() {
        let mut layer = BlockLayer::default();
        layer.submit(bio(1), 0..24).unwrap();
        for n in 0..3 {
            layer.issue(rq(n), WRITE, n * 8..n * 8 + 8).unwrap();
        }
        assert_eq!(answer(&mut layer, 2, Good), []);
        assert_eq!(answer(&mut layer, 0, Ioerr), []);
        assert_eq!(answer(&mut layer, 1, Good), [(bio(1), -5)]);
        assert_eq!(layer.in_flight(), 0);
    }

    #[test]
    fn the_first_error_stays_but_the_last_piece_writes_over_it() {
        let ends = |statuses: [(u64, RequestStatus); 3]| {
            let mut layer = BlockLayer::default();
            layer.submit(bio(1), 0..24).unwrap();
            for n in 0..3 {
                layer.issue(rq(n), WRITE, n * 8..n * 8 + 8).unwrap();
            }
            statuses.into_iter().flat_map(|(n, status)| answer(&mut layer, n, status)).collect::<Vec<_>>()
        };
        assert_eq!(ends([(0, Ioerr), (1, Unsupp), (2, Good)]), [(bio(1), -5)]);
        assert_eq!(ends([(1, Unsupp), (0, Ioerr), (2, Good)]), [(bio(1), -95)]);
        assert_eq!(ends([(0, Ioerr), (2, Unsupp), (1, Good)]), [(bio(1), -95)]);
        assert_eq!(ends([(2, Unsupp), (0, Ioerr), (1, Ioerr)]), [(bio(1), -95)]);
    }

    #[test]
    fn a_merged_request_fails_all_its_bios_and_only_them() {
        let mut layer = BlockLayer::default();
        for n in 0..4 {
            layer.submit(bio(n as u32), n * 8..n * 8 + 8).unwrap();
        }
        layer.issue(rq(1), WRITE, 8..24).unwrap();
        layer.issue(rq(2), WRITE, 0..8).unwrap();
        assert_eq!(answer(&mut layer, 1, Ioerr), [(bio(1), -5), (bio(2), -5)]);
        assert_eq!(answer(&mut layer, 2, Good), [(bio(0), 0)]);
        assert_eq!(layer.in_flight(), 1);
    }

    #[test]
    fn a_requeued_request_may_come_back_and_ends_its_bio_once() {
        let mut layer = BlockLayer::default();
        layer.submit(bio(1), 0..8).unwrap();
        layer.issue(rq(1), WRITE, 0..8).unwrap();
        layer.requeue(rq(1)).unwrap();
        assert!(matches!(layer.answer(rq(1), Good), Err((MisfitKind::NotIssued { .. }, None))));
        layer.issue(rq(1), WRITE, 0..8).unwrap();
        assert!(matches!(layer.issue(rq(1), WRITE, 0..8), Err((MisfitKind::IssuedTwice { .. }, Some(_)))));
        assert!(matches!(layer.issue(rq(2), WRITE, 0..8), Err((MisfitKind::SectorsIssuedTwice { .. }, Some(_)))));
        assert_eq!(answer(&mut layer, 1, Good), [(bio(1), 0)]);
    }

    #[test]
    fn what_is_not_file_data_ends_no_bio_but_is_known_to_have_failed() {
        let mut layer = BlockLayer::default();
        layer.submit(bio(1), 8..16).unwrap();
        layer.issue(rq(1), BlockOp::Flush, 0..0).unwrap();
        layer.issue(rq(2), BlockOp::Read, 8..16).unwrap();
        layer.issue(rq(3), WRITE, 0..16).unwrap();
        assert_eq!(layer.answer(rq(1), Unsupp), Ok(Answered { errno: -95, ended: vec![], other_data_failed: true }));
        assert_eq!(layer.answer(rq(2), Good), Ok(Answered { errno: 0, ended: vec![], other_data_failed: false }));
        assert_eq!(
            layer.answer(rq(3), Ioerr),
            Ok(Answered { errno: -5, ended: vec![(bio(1), -5)], other_data_failed: true })
        );
    }

    #[test]
    fn two_bios_in_flight_never_share_a_sector() {
        let mut layer = BlockLayer::default();
        layer.submit(bio(1), 8..24).unwrap();
        assert!(layer.submit(bio(2), 0..9).is_err());
        assert!(layer.submit(bio(2), 16..17).is_err());
        assert!(layer.submit(bio(2), 24..32).is_ok());
    }

    proptest! {
        /// However bios are cut and in whatever order pieces are answered: every bio ends exactly once, with its last
        /// piece, and an error ends up on every bio that had a part in a failed request and on no other.
        #[test]
        fn every_bio_ends_exactly_once(
            lengths in proptest::collection::vec(1u64..6, 1..6),
            cut in 1u64..5,
            order in proptest::collection::vec((any::<u16>(), any::<bool>()), 1..32),
        ) {
            let mut layer = BlockLayer::default();
            let mut bios = Vec::new();
            let mut at = 0;
            for (n, len) in lengths.iter().enumerate() {
                layer.submit(bio(n as u32), at..at + len).unwrap();
                bios.push((bio(n as u32), at..at + len));
                at += len;
            }
            let mut requests = Vec::new();
            for (n, start) in (0..at).step_by(cut as usize).enumerate() {
                let sectors = start..(start + cut).min(at);
                layer.issue(rq(n as u64), WRITE, sectors.clone()).unwrap();
                let (key, fails) = order[n % order.len()];
                requests.push((key, n as u64, sectors, fails));
            }
            requests.sort_by_key(|(key, n, ..)| (*key, *n));
            let mut ended = Vec::new();
            for (_, n, _, fails) in &requests {
                ended.extend(answer(&mut layer, *n, if *fails { Ioerr } else { Good }));
            }
            ended.sort();
            let expected: Vec<_> = bios.iter().map(|(bio, sectors)| {
                let failed = requests.iter().any(|(_, _, part, fails)| *fails && overlap(part, sectors));
                (*bio, if failed { -5 } else { 0 })
            }).collect();
            prop_assert_eq!(ended, expected);
        }
    }
}
