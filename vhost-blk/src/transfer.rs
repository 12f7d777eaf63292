//! Carries out the plan for one request: moves bytes between guest memory, image and overlay.
//!
//! What reaches the image is what the device claims. With an answer other than OK that is exactly what the plan moves;
//! with OK it is all that was asked, and where the plan moves less, the old content goes to the overlay first. Data that
//! went wrong or astray is in the overlay whatever the answer, never in the image.

use fault_injection::{Corruption, Moves, Piece, SECTOR_BYTES, Status, UsedLen, Work};

use crate::device::Device;
use crate::disk::{DIRECT_ALIGN, HostError, Zeroing};
use crate::overlay::{LieKind, Lies, Told};
use crate::request::{GuestRequest, Memory, MemoryGone, Range, What};

/// Data passes through a buffer of ours of this size, so the length of a request does not decide our memory.
const STEP: usize = 1 << 20;

/// Bytes that GET_ID answers (virtio 1.3, 5.2.6).
pub const ID_BYTES: usize = 20;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the guest reads in the status byte.
    pub status: Status,
    /// What the used ring says.
    pub used_len: u32,
    /// Bytes that the plan let through to disk or guest.
    pub moved_bytes: u64,
    /// The host failed; the status is not the script's.
    pub host_error: bool,
}

impl Outcome {
    /// Nothing moved, nothing answered.
    pub const NOTHING: Outcome = Outcome { status: Status::IOERR, used_len: 0, moved_bytes: 0, host_error: false };
}

/// Buffers of one thread, used again for every request.
pub struct Scratch {
    room: Vec<u8>,
    start: usize,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let room = vec![0; STEP + DIRECT_ALIGN];
        let start = room.as_ptr().align_offset(DIRECT_ALIGN);
        Scratch { room, start }
    }
}

impl Scratch {
    /// Aligned for O_DIRECT.
    fn buffer(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.room[self.start..self.start + bytes]
    }
}

/// Why a piece was not carried out.
#[derive(Debug)]
enum Failure {
    Host(HostError),
    Memory(MemoryGone),
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Failure {
        Failure::Host(error)
    }
}

impl From<MemoryGone> for Failure {
    fn from(error: MemoryGone) -> Failure {
        Failure::Memory(error)
    }
}

/// One request on its way, with all it needs.
pub struct Transfer<'a> {
    /// The device.
    pub device: &'a Device,
    /// The guest's memory now.
    pub memory: &'a Memory,
    /// The thread's buffers.
    pub scratch: &'a mut Scratch,
    /// Whether a write must be durable before it is answered.
    pub write_through: bool,
    /// Whether the request is going to be answered. What is not answered claims nothing, whatever its status.
    pub answers: bool,
}

impl Transfer<'_> {
    /// Carries out a request without faults.
    pub fn plain(&mut self, request: &GuestRequest, seq: u64) -> Outcome {
        self.carry_out(request, &Work::Whole(whole(request)), seq)
    }

    /// Carries out a plan.
    pub fn carry_out(&mut self, request: &GuestRequest, work: &Work, seq: u64) -> Outcome {
        match self.try_carry_out(request, work, seq) {
            Ok(outcome) => outcome,
            Err(failure) => {
                let host_error = matches!(failure, Failure::Host(_));
                self.device.report_failure(&failure_text(&failure), host_error);
                Outcome { used_len: 1, host_error, ..Outcome::NOTHING }
            }
        }
    }

    fn try_carry_out(&mut self, request: &GuestRequest, work: &Work, seq: u64) -> Result<Outcome, Failure> {
        let in_order = in_order(work);
        let status = in_order.iter().map(|(_, piece)| piece.status).find(|s| *s != Status::OK).unwrap_or(Status::OK);
        let claims_all = self.answers && status == Status::OK;
        let (mut moved_bytes, mut used_len) = (0, 1);
        for (place, piece) in &in_order {
            let moved = self.carry_out_piece(request, piece, claims_all, seq)?;
            if matches!(work, Work::Split { .. }) {
                self.device.recorder().piece(seq, *place, piece, moved);
            }
            moved_bytes += moved;
            used_len += used_bytes(request, piece, moved, claims_all || matches!(work, Work::Whole(_)));
        }
        if self.write_through && request.what.mutates() && claims_all {
            self.device.disk.flush()?;
        }
        let used_len = u32::try_from(used_len).unwrap_or(u32::MAX);
        Ok(Outcome { status, used_len, moved_bytes, host_error: false })
    }

    /// Gives the bytes that the plan lets through.
    fn carry_out_piece(
        &mut self,
        request: &GuestRequest,
        piece: &Piece,
        claims_all: bool,
        seq: u64,
    ) -> Result<u64, Failure> {
        let offset = piece.sector * SECTOR_BYTES;
        let total = piece.sectors * SECTOR_BYTES;
        match (&piece.moves, request.what) {
            (Moves::Torn { kept }, What::Write(range)) => {
                return self.tear(request, (piece, range), kept, claims_all, seq);
            }
            (Moves::Misdirected { to_sector, original_written }, what) => {
                return self.misdirect(request, (piece, what), *to_sector, (*original_written, claims_all), seq);
            }
            (Moves::Corrupt(corruption), What::Write(range)) => {
                return self.write_corrupt(request, (piece, range), corruption, seq);
            }
            (Moves::Corrupt(corruption), What::Read(range)) => {
                return self.read_corrupt(request, (piece, range), corruption, seq);
            }
            (Moves::Stale { versions, sectors }, What::Read(range)) => {
                return self.read_stale(request, (piece, range), *versions, sectors);
            }
            _ => {}
        }
        let allowed = match &piece.moves {
            Moves::All => total,
            Moves::Prefix { bytes } => (*bytes).min(total),
            Moves::Lost => 0,
            // The loader lets none of these act on requests of other types.
            Moves::Torn { .. } | Moves::Misdirected { .. } | Moves::Corrupt(_) | Moves::Stale { .. } => total,
        };
        match request.what {
            What::Flush if piece.moves == Moves::All => self.device.disk.flush().map(|()| 0).map_err(Failure::from),
            What::GetId if piece.moves == Moves::All => self.tell_id(request),
            What::Flush | What::GetId => Ok(0),
            What::Read(range) => self.read(request, offset - range.offset(), offset, allowed),
            _ => {
                let whole_sectors = allowed / SECTOR_BYTES * SECTOR_BYTES;
                let allowed = if matches!(request.what, What::Write(_)) { allowed } else { whole_sectors };
                self.remember(offset, offset + allowed)?;
                if claims_all && allowed < total {
                    self.lie_about(offset + allowed, offset + total, seq)?;
                    self.change(request, seq, offset, total, allowed)?;
                } else {
                    self.change(request, seq, offset, allowed, allowed)?;
                }
                Ok(allowed)
            }
        }
    }

    fn read(&mut self, request: &GuestRequest, at: u64, offset: u64, bytes: u64) -> Result<u64, Failure> {
        self.read_changed(request, at, offset, bytes, |_, _| {})
    }

    /// Reads, and lets `change` spoil what the guest gets: it is given the first sector of whole ones.
    fn read_changed(
        &mut self,
        request: &GuestRequest,
        at: u64,
        offset: u64,
        bytes: u64,
        change: impl Fn(u64, &mut [u8]),
    ) -> Result<u64, Failure> {
        let mut done = 0;
        while done < bytes {
            let buf = self.scratch.buffer((bytes - done).min(STEP as u64) as usize);
            read_visible(self.device, buf, offset + done)?;
            change((offset + done) / SECTOR_BYTES, buf);
            request.data.write(self.memory, at + done, buf)?;
            done += buf.len() as u64;
        }
        Ok(done)
    }

    /// Some sectors of a read as they were. The past is laid over what is there now.
    fn read_stale(
        &mut self,
        request: &GuestRequest,
        (piece, range): (&Piece, Range),
        versions: u32,
        sectors: &[(u64, u64)],
    ) -> Result<u64, Failure> {
        let history = &self.device.history;
        let old = |first: u64, buf: &mut [u8]| {
            for (start, part) in parts(first, buf, sectors) {
                history.lay_over(versions, start, part);
            }
        };
        let offset = piece.sector * SECTOR_BYTES;
        self.read_changed(request, offset - range.offset(), offset, piece.sectors * SECTOR_BYTES, old)
    }

    /// Some sectors of a read are wrong: this once, or from now on.
    fn read_corrupt(
        &mut self,
        request: &GuestRequest,
        (piece, range): (&Piece, Range),
        corruption: &Corruption,
        seq: u64,
    ) -> Result<u64, Failure> {
        let (offset, bytes) = (piece.sector * SECTOR_BYTES, piece.sectors * SECTOR_BYTES);
        if corruption.media {
            for (start, end) in &corruption.sectors {
                self.damage_media(*start, *end, corruption, seq)?;
            }
            return self.read(request, offset - range.offset(), offset, bytes);
        }
        let wrong = |first: u64, buf: &mut [u8]| damage(first, buf, corruption);
        self.read_changed(request, offset - range.offset(), offset, bytes, wrong)
    }

    /// What these sectors hold goes wrong, unless it has by the same rule.
    fn damage_media(&mut self, start: u64, end: u64, corruption: &Corruption, seq: u64) -> Result<(), Failure> {
        let told = Told { seq, kind: LieKind::Corrupt, rule: Some(corruption.rule) };
        let overlay = &self.device.overlay;
        for sector in start..end {
            let mut lies = overlay.lock();
            if lies.is_damaged_by(sector, corruption.rule) {
                continue;
            }
            let mut content = [0; SECTOR_BYTES as usize];
            self.device.disk.read_at(&mut content, sector * SECTOR_BYTES)?;
            lies.lay_over(sector * SECTOR_BYTES, &mut content);
            corruption.damage(sector, &mut content);
            self.keep_lie(&mut lies, sector, &content, told)?;
        }
        Ok(())
    }

    fn keep_lie(&self, lies: &mut Lies, sector: u64, content: &[u8], told: Told) -> Result<(), Failure> {
        let kept = self.device.overlay.lie(lies, sector, content, told);
        kept.map_err(|error| self.device.overlay_error(sector * SECTOR_BYTES, content.len() as u64, &error).into())
    }

    /// The image holds what was written; the medium holds something else in the matched sectors.
    fn write_corrupt(
        &mut self,
        request: &GuestRequest,
        (piece, range): (&Piece, Range),
        corruption: &Corruption,
        seq: u64,
    ) -> Result<u64, Failure> {
        let (offset, bytes) = (piece.sector * SECTOR_BYTES, piece.sectors * SECTOR_BYTES);
        self.remember(offset, offset + bytes)?;
        self.write(request, seq, range, offset, (bytes, bytes))?;
        let told = Told { seq, kind: LieKind::Corrupt, rule: Some(corruption.rule) };
        for (start, end) in &corruption.sectors {
            self.lay_guest_data(request, start * SECTOR_BYTES - range.offset(), (*start, *end), told, |first, buf| {
                damage(first, buf, corruption);
            })?;
        }
        Ok(bytes)
    }

    /// Stretches of a write reach the medium. What it claims is in the image, what is there lies over it.
    fn tear(
        &mut self,
        request: &GuestRequest,
        (piece, range): (&Piece, Range),
        kept: &[(u64, u64)],
        claims_all: bool,
        seq: u64,
    ) -> Result<u64, Failure> {
        let (offset, bytes) = (piece.sector * SECTOR_BYTES, piece.sectors * SECTOR_BYTES);
        self.remember(offset, offset + bytes)?;
        if claims_all {
            self.lie_about(offset, offset + bytes, seq)?;
            self.write(request, seq, range, offset, (bytes, 0))?;
        }
        for (start, end) in kept {
            match claims_all {
                true => self.end_lies(request, range, offset + start, end - start)?,
                false => self.write(request, seq, range, offset + start, (end - start, end - start))?,
            }
        }
        Ok(kept.iter().map(|stretch| stretch.1 - stretch.0).sum())
    }

    /// A stretch of what was written is there after all.
    fn end_lies(&mut self, request: &GuestRequest, range: Range, offset: u64, bytes: u64) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes {
            let buf = self.scratch.buffer((bytes - done).min(STEP as u64) as usize);
            request.data.read(self.memory, offset - range.offset() + done, buf)?;
            let overlay = &self.device.overlay;
            let ended = overlay.written(&mut overlay.lock(), offset + done, buf);
            ended.map_err(|error| self.device.overlay_error(offset, bytes, &error))?;
            done += buf.len() as u64;
        }
        Ok(())
    }

    /// Data goes to another place, or comes from there. The image holds the claim: the data where it should be.
    fn misdirect(
        &mut self,
        request: &GuestRequest,
        (piece, what): (&Piece, What),
        to_sector: u64,
        (original_written, claims_all): (bool, bool),
        seq: u64,
    ) -> Result<u64, Failure> {
        let (offset, bytes) = (piece.sector * SECTOR_BYTES, piece.sectors * SECTOR_BYTES);
        let range = match what {
            What::Write(range) => range,
            What::Read(range) => {
                return self.read(request, offset - range.offset(), to_sector * SECTOR_BYTES, bytes);
            }
            // The loader lets it act on nothing else.
            _ => return Ok(0),
        };
        let victim = (to_sector, to_sector + piece.sectors);
        self.remember(victim.0 * SECTOR_BYTES, victim.1 * SECTOR_BYTES)?;
        if original_written {
            self.remember(offset, offset + bytes)?;
            self.write(request, seq, range, offset, (bytes, bytes))?;
        } else if claims_all {
            self.lie_about(offset, offset + bytes, seq)?;
            self.write(request, seq, range, offset, (bytes, 0))?;
        }
        // Last, since the two places may overlap.
        let told = Told { seq, kind: LieKind::Astray, rule: None };
        self.lay_guest_data(request, offset - range.offset(), victim, told, |_, _| {})?;
        Ok(bytes)
    }

    /// Lays the request's data from byte `at` on, changed, over these sectors.
    fn lay_guest_data(
        &mut self,
        request: &GuestRequest,
        at: u64,
        (start, end): (u64, u64),
        told: Told,
        change: impl Fn(u64, &mut [u8]),
    ) -> Result<(), Failure> {
        let (mut done, bytes) = (0, (end - start) * SECTOR_BYTES);
        while done < bytes {
            let first = start + done / SECTOR_BYTES;
            let buf = self.scratch.buffer((bytes - done).min(STEP as u64) as usize);
            request.data.read(self.memory, at + done, buf)?;
            change(first, buf);
            let overlay = &self.device.overlay;
            let kept = overlay.lie(&mut overlay.lock(), first, buf, told);
            kept.map_err(|error| self.device.overlay_error(first * SECTOR_BYTES, buf.len() as u64, &error))?;
            done += buf.len() as u64;
        }
        Ok(())
    }

    /// Keeps what these bytes hold, where a script may ask for it later. Call it before they change.
    fn remember(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        let device = self.device;
        if !device.history.is_tracking() || start == end {
            return Ok(());
        }
        for (mut sector, end) in device.history.wanted(start / SECTOR_BYTES, end.div_ceil(SECTOR_BYTES)) {
            while sector < end {
                let buf = self.scratch.buffer(((end - sector) * SECTOR_BYTES).min(STEP as u64) as usize);
                read_visible(device, buf, sector * SECTOR_BYTES)?;
                let kept = device.history.keep(sector, buf);
                kept.map_err(|error| device.overlay_error(sector * SECTOR_BYTES, buf.len() as u64, &error))?;
                sector += buf.len() as u64 / SECTOR_BYTES;
            }
        }
        Ok(())
    }

    /// Keeps what the guest is to go on seeing between these bytes.
    fn lie_about(&mut self, start: u64, end: u64, seq: u64) -> Result<(), Failure> {
        let (mut at, end) = (start / SECTOR_BYTES * SECTOR_BYTES, end);
        while at < end {
            let buf = self.scratch.buffer((end - at).min(STEP as u64) as usize);
            let overlay = &self.device.overlay;
            let mut lies = overlay.lock();
            self.device.disk.read_at(buf, at)?;
            lies.lay_over(at, buf);
            overlay
                .lie(&mut lies, at / SECTOR_BYTES, buf, Told::lost(seq))
                .map_err(|error| self.device.overlay_error(at, buf.len() as u64, &error))?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Changes `bytes` of the image; the first `true_bytes` of them are no lie.
    fn change(
        &mut self,
        request: &GuestRequest,
        seq: u64,
        offset: u64,
        bytes: u64,
        true_bytes: u64,
    ) -> Result<(), Failure> {
        match request.what {
            What::Write(range) => self.write(request, seq, range, offset, (bytes, true_bytes)),
            What::WriteZeroes { unmap: false, .. } => self.zero(seq, offset, bytes, true_bytes, Zeroing::Keep),
            _ => self.zero(seq, offset, bytes, true_bytes, Zeroing::Deallocate),
        }
    }

    fn write(
        &mut self,
        request: &GuestRequest,
        seq: u64,
        range: Range,
        offset: u64,
        (bytes, true_bytes): (u64, u64),
    ) -> Result<(), Failure> {
        let at = offset - range.offset();
        let mut done = 0;
        while done < bytes {
            let buf = self.scratch.buffer((bytes - done).min(STEP as u64) as usize);
            request.data.read(self.memory, at + done, buf)?;
            let honest = true_bytes.saturating_sub(done).min(buf.len() as u64) as usize;
            let overlay = &self.device.overlay;
            if overlay.is_empty() {
                self.device.disk.write_at(buf, offset + done, seq)?;
            } else {
                let mut lies = overlay.lock();
                self.device.disk.write_at(buf, offset + done, seq)?;
                let ended = overlay.written(&mut lies, offset + done, &buf[..honest]);
                ended.map_err(|error| self.device.overlay_error(offset, bytes, &error))?;
            }
            done += buf.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, seq: u64, offset: u64, bytes: u64, true_bytes: u64, zeroing: Zeroing) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        let overlay = &self.device.overlay;
        let mut lies = overlay.lock();
        self.device.disk.zero(offset, bytes, zeroing, seq)?;
        let ended = overlay.zeroed(&mut lies, offset, true_bytes);
        ended.map_err(|error| Failure::Host(self.device.overlay_error(offset, bytes, &error)))
    }

    fn tell_id(&mut self, request: &GuestRequest) -> Result<u64, Failure> {
        let room = request.data.bytes().min(ID_BYTES as u64);
        request.data.write(self.memory, 0, &self.device.serial[..room as usize])?;
        Ok(room)
    }
}

/// The image with the lies over it. Lies that are told while we read are told before the image changes, so the second
/// look sees them.
fn read_visible(device: &Device, buf: &mut [u8], offset: u64) -> Result<(), HostError> {
    if !device.overlay.is_empty() {
        let lies = device.overlay.lock();
        device.disk.read_at(buf, offset)?;
        lies.lay_over(offset, buf);
        return Ok(());
    }
    device.disk.read_at(buf, offset)?;
    if !device.overlay.is_empty() {
        device.overlay.lock().lay_over(offset, buf);
    }
    Ok(())
}

/// The parts of a buffer of whole sectors that lie in these ranges, each with its first sector.
fn parts<'b>(first: u64, buf: &'b mut [u8], sectors: &[(u64, u64)]) -> Vec<(u64, &'b mut [u8])> {
    let end = first + buf.len() as u64 / SECTOR_BYTES;
    let (mut rest, mut at) = (buf, first);
    let mut parts = Vec::new();
    for (start, stop) in sectors.iter().map(|(start, stop)| ((*start).max(first), (*stop).min(end))) {
        if start < stop {
            let (_, here) = rest.split_at_mut(((start - at) * SECTOR_BYTES) as usize);
            let (part, after) = here.split_at_mut(((stop - start) * SECTOR_BYTES) as usize);
            parts.push((start, part));
            (rest, at) = (after, stop);
        }
    }
    parts
}

fn damage(first: u64, buf: &mut [u8], corruption: &Corruption) {
    for (start, part) in parts(first, buf, &corruption.sectors) {
        for (content, sector) in part.as_chunks_mut::<{ SECTOR_BYTES as usize }>().0.iter_mut().zip(start..) {
            corruption.damage(sector, content);
        }
    }
}

/// The plan of a device that behaves.
pub fn whole(request: &GuestRequest) -> Piece {
    let (sector, sectors) = request.what.range().map_or((0, 0), |range| (range.sector, range.sectors));
    Piece { sector, sectors, moves: Moves::All, status: Status::OK, used_len: UsedLen::Honest }
}

/// The pieces in the order in which they reach the disk, each with its place in the request.
fn in_order(work: &Work) -> Vec<(u32, &Piece)> {
    match work {
        Work::Whole(piece) => vec![(0, piece)],
        Work::Split { pieces, order, .. } => order.iter().map(|i| (*i, &pieces[*i as usize])).collect(),
    }
}

/// Bytes in the guest's memory that the used length speaks of, the status byte aside.
fn used_bytes(request: &GuestRequest, piece: &Piece, moved: u64, may_claim: bool) -> u64 {
    match (request.what, piece.used_len) {
        (What::Read(_), UsedLen::Full) if may_claim => piece.sectors * SECTOR_BYTES,
        (What::Read(_) | What::GetId, _) => moved,
        _ => 0,
    }
}

fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::Host(error) => error.to_string(),
        Failure::Memory(error) => error.to_string(),
    }
}
