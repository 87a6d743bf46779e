//! Plaintext of libraries that are seen to encrypt and decrypt each record: it is on the socket that has the record's bytes.
//!
//! Eight bytes of ciphertext and its length are a record's seal. Who has the keys makes it, and nobody sends it again but who
//! hands on what came; so a record is where exactly one socket of the process has its seal, in its direction. Where others
//! have it too, as in a process that passes TLS on to itself, it is nobody's. Both ends of one connection may be in the
//! process: there it has the same sequence number.
//!
//! | direction | the plaintext is told of | and goes to its connection |
//! |---|---|---|
//! | received | when its record was on the socket already | at once |
//! | sent | before its record is | when that is, and after what was sent before it; after [`PATIENCE`] without a place |
//!
//! Each direction is a session of its own, since nothing else says which two are of one connection: one that was found on no
//! socket yet has nothing to go to, which is counted. One that was has its connection for good, also where a record of it was
//! not seen.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::records::{HEADER_BYTES, Piece};
use super::{SessionKey, TlsStats, make_room};
use crate::event::{PlaintextMoved, RecordSealed};

/// What was sent is on the socket within microseconds, unless the other end does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Records that wait to be sent: those of some hundred writes of 64 KiB, which is what rustls gathers.
const MAX_WAITING: usize = 1024;

/// Records on sockets that are remembered: what is received is decrypted at once.
const MAX_MET: usize = 16 << 10;

/// Sockets of one process with the same record. More than a few is nobody's honest connection.
const MAX_PLACES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Sealed {
    halves: BTreeMap<SessionKey, Half>,
    met: BTreeMap<(ProcessKey, u64), Vec<Met>>,
    /// In the order in which they were met.
    order: VecDeque<(ProcessKey, u64)>,
    waiting: VecDeque<Waiting>,
}

/// A record on a socket.
#[derive(Clone, Copy, Debug)]
struct Met {
    cookie: SocketCookie,
    direction: Direction,
    /// Of its header's first byte.
    seq: u32,
    len: u16,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Half {
    /// As of [`SealedPlace::Library`](crate::event::SealedPlace::Library).
    birth: u32,
    seat: Seat,
    /// As of [`super::Session`].
    base: u64,
    /// The record that was told of last.
    current: Option<Current>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seat {
    #[default]
    Unknown,
    On(SocketCookie),
    /// Its records were on two.
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    seal: u64,
    len: u16,
    /// Position of its plaintext, once that was told of, and where it is.
    found: Option<(u64, Place)>,
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    cookie: SocketCookie,
    /// Of its header's first byte, and behind its last one.
    seq: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waits,
    /// In its record, where that is known.
    At(Option<Found>),
}

/// A record that was encrypted.
#[derive(Debug)]
struct Waiting {
    key: SessionKey,
    seal: u64,
    len: u16,
    plaintext: Vec<PlaintextMoved>,
}

/// Plaintext that goes to its connection.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) cookie: SocketCookie,
    /// To be taken off its positions.
    pub(super) base: u64,
    pub(super) piece: Piece,
    /// Sequence number behind its record.
    pub(super) record_end: Option<u32>,
    /// When it was sent.
    pub(super) sent_at: Option<KernelInstant>,
    pub(super) plaintext: PlaintextMoved,
}

/// Where plaintext of a connection has come to, by its direction.
pub(super) trait Positions {
    fn position(&self, cookie: SocketCookie, direction: Direction) -> u64;
}

impl Sealed {
    /// A library has encrypted or decrypted a record, whose plaintext comes next.
    pub(super) fn in_library(
        &mut self,
        (session, birth): (u64, u32),
        event: &RecordSealed,
        max: usize,
        positions: &impl Positions,
        stats: &mut TlsStats,
    ) -> Vec<Placed> {
        let key = (event.process, session);
        let mut placed = Vec::new();
        if self.halves.get(&key).is_some_and(|half| half.birth != birth) {
            // What was at the address is over.
            while let Some(at) = self.waiting.iter().position(|waiting| waiting.key == key)
                && let Some(waiting) = self.waiting.remove(at)
            {
                self.sent(waiting, None, None, positions, stats, &mut placed);
            }
            self.halves.remove(&key);
        }
        make_room(&mut self.halves, &key, max);
        let half = self.halves.entry(key).or_insert_with(|| Half { birth, ..Half::default() });
        half.current = Some(Current { seal: event.seal, len: event.len, found: None });
        placed
    }

    /// A record moved on a socket: whose plaintext waited for that.
    pub(super) fn on_socket(
        &mut self,
        (cookie, seq): (SocketCookie, u32),
        event: &RecordSealed,
        positions: &impl Positions,
        stats: &mut TlsStats,
    ) -> Vec<Placed> {
        let RecordSealed { process, direction, seal, len, time, .. } = *event;
        if self.order.len() >= MAX_MET
            && let Some(oldest) = self.order.pop_front()
        {
            self.met.remove(&oldest);
        }
        let places = self.met.entry((process, seal)).or_default();
        if places.is_empty() {
            self.order.push_back((process, seal));
        }
        if places.len() < MAX_PLACES {
            places.push(Met { cookie, direction, seq, len });
        }
        let mut placed = Vec::new();
        let is = |waiting: &Waiting| (waiting.key.0, waiting.seal, waiting.len) == (process, seal, len);
        if direction == Direction::Egress
            && let Some(key) = self.waiting.iter().find(|waiting| is(waiting)).map(|waiting| waiting.key)
            && let found @ Some(_) = self.find(process, seal, len, direction)
        {
            // What was sent before it is on the socket, too.
            let earliest = self.waiting.iter().find(|waiting| waiting.key == key).and_then(Waiting::first);
            if let (Some(half), Some(first)) = (self.halves.get_mut(&key), earliest) {
                half.sit(cookie, first, positions.position(cookie, direction), stats);
            }
            while let Some(at) = self.waiting.iter().position(|waiting| waiting.key == key)
                && let Some(waiting) = self.waiting.remove(at)
            {
                let last = is(&waiting);
                let found = found.filter(|_| last);
                self.sent(waiting, found, Some(time), positions, stats, &mut placed);
                if last {
                    break;
                }
            }
        }
        placed
    }

    /// Plaintext of the record that was told of last.
    pub(super) fn plaintext(
        &mut self,
        event: PlaintextMoved,
        positions: &impl Positions,
        stats: &mut TlsStats,
    ) -> Vec<Placed> {
        let key = (event.data.thread.process, event.session);
        let direction = event.data.direction;
        let first = event.data.offset.saturating_sub(event.at.into());
        let mut placed = Vec::new();
        let half = self.halves.get(&key);
        let current = half.and_then(|half| half.current);
        let (Some(half), Some(Current { seal, len, found })) = (half, current) else {
            stats.unplaced += 1;
            return placed;
        };
        if event.seal != Some(seal as u32) {
            // Which record it is of is not known.
            stats.unplaced += 1;
            return placed;
        }
        if let Some((at, place)) = found
            && at == first
        {
            // More of it.
            match (place, self.waiting.iter_mut().rev().find(|waiting| waiting.key == key)) {
                (Place::Waits, Some(waiting)) if (waiting.seal, waiting.len) == (seal, len) => {
                    waiting.plaintext.push(event);
                }
                (Place::Waits, _) => placed.extend(half.place(event, None, None)),
                (Place::At(found), _) => placed.extend(half.place(event, found, None)),
            }
            return placed;
        }
        let found = self.find(key.0, seal, len, direction);
        if found.is_none() && direction == Direction::Egress {
            self.settle(key, first, Place::Waits);
            if self.waiting.len() >= MAX_WAITING
                && let Some(oldest) = self.waiting.pop_front()
            {
                self.sent(oldest, None, None, positions, stats, &mut placed);
            }
            self.waiting.push_back(Waiting { key, seal, len, plaintext: vec![event] });
            return placed;
        }
        if direction == Direction::Ingress {
            self.met.remove(&(key.0, seal));
        }
        self.go(key, first, vec![event], found, None, positions, stats, &mut placed);
        placed
    }

    /// What has waited for too long goes without a place.
    pub(super) fn overdue(
        &mut self,
        now: KernelInstant,
        positions: &impl Positions,
        stats: &mut TlsStats,
    ) -> Vec<Placed> {
        let mut placed = Vec::new();
        let is_due = |waiting: &mut Waiting| {
            waiting.plaintext.first().is_none_or(|first| first.data.time.plus(PATIENCE) <= now)
        };
        while let Some(waiting) = self.waiting.pop_front_if(is_due) {
            self.sent(waiting, None, None, positions, stats, &mut placed);
        }
        placed
    }

    /// When something has waited for too long.
    pub(super) fn next_timeout(&self) -> Option<KernelInstant> {
        let first = self.waiting.front()?.plaintext.first()?;
        Some(first.data.time.plus(PATIENCE))
    }

    pub(super) fn process_ended(&mut self, process: ProcessKey, stats: &mut TlsStats) {
        self.halves.retain(|key, _| key.0 != process);
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.key.0 != process);
        stats.unplaced += (before - self.waiting.len()) as u64;
        self.met.retain(|key, _| key.0 != process);
        self.order.retain(|key| key.0 != process);
    }

    /// Sessions that are followed.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        assert!(self.waiting.len() <= MAX_WAITING && self.met.len() <= MAX_MET, "what is kept is bounded");
        self.halves.len()
    }

    /// The one place where the record is.
    fn find(&self, process: ProcessKey, seal: u64, len: u16, direction: Direction) -> Option<Found> {
        let met = self.met.get(&(process, seal)).filter(|met| met.len() < MAX_PLACES)?;
        let mut own = met.iter().filter(|met| met.direction == direction && met.len == len);
        let found = own.next().filter(|_| own.next().is_none())?;
        let is_alone = met.iter().all(|met| met.seq == found.seq);
        let end = found.seq.wrapping_add(HEADER_BYTES + u32::from(len));
        is_alone.then_some(Found { cookie: found.cookie, seq: found.seq, end })
    }

    fn settle(&mut self, key: SessionKey, first: u64, place: Place) {
        if let Some(current) = self.halves.get_mut(&key).and_then(|half| half.current.as_mut()) {
            current.found = Some((first, place));
        }
    }

    /// A record that waited is sent, or will not be seen to be.
    fn sent(
        &mut self,
        waiting: Waiting,
        found: Option<Found>,
        at: Option<KernelInstant>,
        positions: &impl Positions,
        stats: &mut TlsStats,
        placed: &mut Vec<Placed>,
    ) {
        let Some(first) = waiting.first() else { return };
        let Waiting { key, plaintext, .. } = waiting;
        self.go(key, first, plaintext, found, at, positions, stats, placed);
    }

    /// Plaintext of a record goes to its connection.
    #[expect(clippy::too_many_arguments, reason = "what is known of a record, and what is known beside")]
    fn go(
        &mut self,
        key: SessionKey,
        first: u64,
        plaintext: Vec<PlaintextMoved>,
        found: Option<Found>,
        at: Option<KernelInstant>,
        positions: &impl Positions,
        stats: &mut TlsStats,
        placed: &mut Vec<Placed>,
    ) {
        let Some(half) = self.halves.get_mut(&key) else {
            stats.unplaced += 1;
            return;
        };
        if let (Some(Found { cookie, .. }), Some(event)) = (found, plaintext.first()) {
            half.sit(cookie, first, positions.position(cookie, event.data.direction), stats);
        }
        if found.is_none() || !matches!(half.seat, Seat::On(_)) {
            stats.unplaced += 1;
        }
        if let Some(current) = &mut half.current
            && current.found.is_none_or(|(position, _)| position == first)
        {
            current.found = Some((first, Place::At(found)));
        }
        placed.extend(plaintext.into_iter().filter_map(|event| half.place(event, found, at)));
    }
}

impl Waiting {
    /// Position of its plaintext.
    fn first(&self) -> Option<u64> {
        let event = self.plaintext.first()?;
        Some(event.data.offset.saturating_sub(event.at.into()))
    }
}

impl Half {
    /// One of its records was on this socket, whose plaintext has come to `position`.
    fn sit(&mut self, cookie: SocketCookie, first: u64, position: u64, stats: &mut TlsStats) {
        match self.seat {
            Seat::Unknown => {
                self.seat = Seat::On(cookie);
                self.base = first.wrapping_sub(position);
            }
            Seat::On(known) if known != cookie => {
                self.seat = Seat::Nowhere;
                stats.unbound += 1;
            }
            Seat::On(_) | Seat::Nowhere => {}
        }
    }

    /// Nothing: it is not known which connection it is of.
    fn place(
        &self,
        event: PlaintextMoved,
        found: Option<Found>,
        sent_at: Option<KernelInstant>,
    ) -> Option<Placed> {
        let Seat::On(cookie) = self.seat else { return None };
        let piece = Piece::of(event.total, found.map(|found| found.seq));
        let record_end = found.map(|found| found.end);
        Some(Placed { cookie, base: self.base, piece, record_end, sent_at, plaintext: event })
    }
}
