//! The TLS records of one direction of a socket that may carry data, and which of them an operation of plaintext is in.
//!
//! | direction | what is known | so the records of an operation are |
//! |---|---|---|
//! | sent | a call that writes ends when its last record is sent | the last ones, as many as its plaintext takes |
//! | received | a library reads on when nothing that it has read is left | among those read since: the one whose length agrees |
//!
//! Where it is known how far the session has come, the record of what was received is the one that ends there. What was sent
//! will be on the socket later, so where its records begin is computed from their lengths, and seen to be so as they come;
//! once it was not, no further one is computed.
//!
//! A call that came to the socket itself tells how far: what it sent ends there, and what it received is before it. Records up
//! to there must have been seen, else the operation is in none of those that were.
//!
//! Some libraries are seen to say where the records end that they have written, or have taken from what they read. Then an
//! operation is in those up to there, and a record must end there.
//!
//! In TLS 1.3 records of data look like those of handshakes and alerts, so lengths must tell. Where two could be meant, none
//! is.

use std::collections::VecDeque;

use tracer_abi::conn::Direction;
use tracer_abi::event::RecordStart;

use super::cipher::Protection;
use crate::event::CiphertextMoved;

/// `ContentType` of RFC 8446 section 5.1.
const APPLICATION_DATA: u8 = 23;

pub(super) const HEADER_BYTES: u32 = 5;

/// Plaintext of a record at most (RFC 8446 section 5.1).
const MAX_PLAIN: u32 = 1 << 14;

/// A record of data with no more behind its header may be an alert or a change of keys instead (RFC 8446 sections 6 and
/// 4.6.3): at most five bytes, their type, and a tag.
const CONTROL_BYTES: u16 = 24;

/// Records whose plaintext may be yet to come. That there are any is what counts.
const MAX_UNHEARD: usize = 64;

/// Records that may wait to be told apart: those of a call that writes 64 MiB. What is read ahead is far less.
const MAX_WAITING: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Records {
    waiting: VecDeque<Record>,
    /// Sequence number behind the last byte that moved.
    seen: Option<u32>,
    /// Received: a record of which only a part was handed out.
    current: Option<Current>,
    /// Received: what was handed out since the library last read on is not known.
    confused: bool,
    /// Sent: where records are to begin that are not on the socket yet.
    expected: VecDeque<u32>,
    /// Sent: one of them began elsewhere.
    surprised: bool,
    /// Sequence number up to which all plaintext was told of. Before any was, records may be of the handshake.
    heard: Option<u32>,
    /// Records of data behind it.
    unheard: VecDeque<Record>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Of its header's first byte.
    seq: u32,
    len: u16,
    /// Its type is that of data.
    data: bool,
}

/// What a call has moved of plaintext.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) len: u32,
    /// Received, and there may be more in the record.
    pub(super) filled: bool,
    /// As of [`crate::event::PlaintextMoved`].
    pub(super) record_end: Option<u32>,
    /// As of [`crate::event::PlaintextMoved`].
    pub(super) moved_to: Option<u32>,
    /// All plaintext of its direction before it was told of.
    pub(super) follows: bool,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    seq: u32,
    /// Where the library had come to.
    record_end: Option<u32>,
    taken: u32,
    left_max: u32,
}

/// A part of an operation, from `at` on: that in one record. Its first byte has a sequence number of its own, if known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: u32,
    pub(super) len: u32,
    seq: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pieces(Vec<Piece>),
    Ambiguous,
    Disagrees,
}

impl Piece {
    pub(super) const fn unplaced(len: u32) -> Self {
        Self::of(len, None)
    }

    /// All of a record.
    pub(super) const fn of(len: u32, seq: Option<u32>) -> Self {
        Self { at: 0, len, seq }
    }

    /// What of it is among these bytes, counted from the first of them.
    pub(super) fn inside(self, from: u32, len: u32) -> Option<Self> {
        let start = self.at.max(from);
        let end = self.at.saturating_add(self.len).min(from.saturating_add(len));
        let seq = self.seq.map(|seq| seq.wrapping_add(start.wrapping_sub(self.at)));
        (start < end).then(|| Self { at: start - from, len: end - start, seq })
    }

    /// As events tell it: zero where it is not known.
    pub(super) const fn seq_end(self) -> u32 {
        match self.seq {
            Some(seq) => seq.wrapping_add(self.len),
            None => 0,
        }
    }
}

impl Record {
    /// One of an operation that begins at `start`.
    const fn of(record: &RecordStart, start: u32) -> Self {
        let data = record.kind == APPLICATION_DATA;
        Self { seq: start.wrapping_add(record.at as u32), len: record.len, data }
    }

    /// Sequence number behind its last byte.
    const fn end(self) -> u32 {
        self.seq.wrapping_add(HEADER_BYTES + self.len as u32)
    }

    /// All of it is before this sequence number.
    const fn ends_by(self, seq: u32) -> bool {
        seq.wrapping_sub(self.end()) as i32 >= 0
    }

    /// How much plaintext it may hold, if that may be these bytes: all of it, or with `filled` some.
    fn holds(self, len: u32, filled: bool, by: Protection) -> Option<u32> {
        let plain = by.plain(self.len).filter(|_| self.data)?;
        (plain.max >= len && (filled || plain.min <= len)).then_some(plain.max)
    }
}

impl Records {
    /// `drains`: the library would not have read if it had had anything left.
    pub(super) fn note(&mut self, event: &CiphertextMoved, drains: bool) {
        if self.seen.is_some_and(|seen| seen.wrapping_sub(event.tcp_seq_end) as i32 > 0) {
            // It has come behind others that it was before: what is between them is not known.
            self.waiting.clear();
            self.current = None;
            self.expected.clear();
            self.confused = true;
            return;
        }
        let start = event.tcp_seq_end.wrapping_sub(event.op_len);
        if drains && self.seen != Some(event.tcp_seq_end) {
            self.waiting.retain(|record| !record.ends_by(start));
            self.current = None;
            self.confused = false;
        }
        if event.lost {
            self.waiting.clear();
        }
        if event.lost || self.seen.is_some_and(|seen| seen != start && seen != event.tcp_seq_end) {
            self.expected.clear();
        }
        self.compare(event, start);
        for record in &event.starts {
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_front();
            }
            let record = Record::of(record, start);
            self.waiting.push_back(record);
            let is_behind = self.heard.is_some_and(|heard| !record.ends_by(heard));
            if is_behind && record.data && record.len > CONTROL_BYTES && self.unheard.len() < MAX_UNHEARD {
                self.unheard.push_back(record);
            }
        }
        self.seen = Some(event.tcp_seq_end);
    }

    /// Bytes of plaintext, about, that moved behind the last of which was told.
    pub(super) fn unheard(&self) -> u64 {
        self.unheard.iter().map(|record| u64::from(record.len - CONTROL_BYTES)).sum()
    }

    /// Which record was told of is said elsewhere: it ends there, or somewhere before what has moved.
    pub(super) fn told_of(&mut self, end: Option<u32>) {
        let Some(end) = end.or(self.seen) else { return };
        while self.waiting.pop_front_if(|record| record.ends_by(end)).is_some() {}
        self.heard_to(end);
    }

    fn heard_to(&mut self, end: u32) {
        self.heard = Some(end);
        while self.unheard.pop_front_if(|record| record.ends_by(end)).is_some() {}
    }

    /// What was told of is somewhere among what has moved.
    fn heard_somewhere(&mut self, place: &Place) {
        if matches!(place, Place::Ambiguous | Place::Disagrees)
            && let Some(seen) = self.seen
        {
            self.heard_to(seen);
        }
    }

    /// Records that were expected have come, or others.
    fn compare(&mut self, event: &CiphertextMoved, start: u32) {
        for record in &event.starts {
            let record = Record::of(record, start);
            let is_inside = |expected: &u32| record.end().wrapping_sub(*expected) as i32 > 0;
            while let Some(expected) = self.expected.pop_front_if(|expected| is_inside(expected)) {
                self.surprised |= expected != record.seq;
            }
        }
    }

    /// Where an operation of plaintext is, of a session that has come to this sequence number.
    pub(super) fn place_before(
        &mut self,
        end: u32,
        direction: Direction,
        part: Part,
        by: Protection,
    ) -> Place {
        let place = match direction {
            Direction::Egress => self.expects(end, part, by),
            Direction::Ingress => self.received_before(end, part, by),
        };
        self.heard_to(end);
        self.heard_somewhere(&place);
        place
    }

    fn expects(&mut self, end: u32, part: Part, by: Protection) -> Place {
        let len = part.len;
        if self.has_seen(end) {
            // The library itself has sent them.
            return self.sent(end, len, by);
        }
        self.waiting.clear();
        let records = len.div_ceil(MAX_PLAIN) as usize;
        let Protection::Exact { more, .. } = by else { return Place::Ambiguous };
        if self.surprised || records > MAX_WAITING {
            return Place::Ambiguous;
        }
        let each = HEADER_BYTES + more;
        let start = end.wrapping_sub(len + records as u32 * each);
        if self.seen.is_some_and(|seen| seen.wrapping_sub(start) as i32 > 0) {
            self.surprised = true;
            return Place::Disagrees;
        }
        let piece = |n: u32| {
            let at = n * MAX_PLAIN;
            let seq = start.wrapping_add(n * (MAX_PLAIN + each));
            Piece { at, len: MAX_PLAIN.min(len - at), seq: Some(seq) }
        };
        let pieces: Vec<Piece> = (0..records as u32).map(piece).collect();
        self.expected.extend(pieces.iter().filter_map(|piece| piece.seq));
        while self.expected.len() > MAX_WAITING {
            self.expected.pop_front();
        }
        Place::Pieces(pieces)
    }

    /// It is of the record that ends there.
    fn received_before(&mut self, end: u32, Part { len, filled, .. }: Part, by: Protection) -> Place {
        let (seq, taken, plain) = match self.current.take() {
            Some(current) if current.record_end == Some(end) && current.left_max >= len => {
                (current.seq, current.taken, current.left_max)
            }
            _ => {
                let Some(count) = self.up_to(end) else { return Place::Disagrees };
                let Some(record) = self.waiting.drain(..count).next_back() else { return Place::Disagrees };
                let Some(plain) = record.holds(len, filled, by) else { return Place::Disagrees };
                (record.seq, 0, plain)
            }
        };
        let left_max = plain - len;
        if filled && left_max > 0 {
            self.current = Some(Current { seq, record_end: Some(end), taken: taken + len, left_max });
        }
        Place::Pieces(vec![Piece { at: 0, len, seq: Some(seq.wrapping_add(taken)) }])
    }

    /// Where an operation of plaintext is.
    pub(super) fn place(&mut self, direction: Direction, part: Part, by: Protection) -> Place {
        let place = match (direction, part.record_end) {
            (Direction::Egress, _) => match part.record_end.or(part.moved_to) {
                Some(end) => self.sent(end, part.len, by),
                None => Place::Ambiguous,
            },
            (Direction::Ingress, None) => self.received(part, by),
            (Direction::Ingress, Some(end)) => self.received_up_to(end, part, by),
        };
        match (direction, part.record_end) {
            (_, Some(end)) => self.heard_to(end),
            (Direction::Egress, None) => self.seen.into_iter().for_each(|seen| self.heard_to(seen)),
            // It has said so itself.
            (Direction::Ingress, None) => {}
        }
        self.heard_somewhere(&place);
        place
    }

    /// What moved up to there was told of.
    fn has_seen(&self, end: u32) -> bool {
        self.seen.is_some_and(|seen| seen.wrapping_sub(end) as i32 >= 0)
    }

    /// One ends there of which nothing was told yet.
    pub(super) fn end_waits(&self, end: u32) -> bool {
        self.up_to(end).is_some()
    }

    /// How many of the waiting records end by a place, if one ends there.
    fn up_to(&self, end: u32) -> Option<usize> {
        let count = self.waiting.iter().take_while(|record| record.ends_by(end)).count();
        let last = self.waiting.get(count.checked_sub(1)?)?;
        (last.end() == end).then_some(count)
    }

    /// Its last record ends there.
    fn sent(&mut self, end: u32, len: u32, by: Protection) -> Place {
        if !self.has_seen(end) {
            return Place::Ambiguous;
        }
        let Some(count) = self.up_to(end) else { return Place::Disagrees };
        let mut pieces = Vec::new();
        let (mut min, mut max) = (0_u32, 0_u32);
        let mut behind = end;
        for record in self.waiting.drain(..count).rev() {
            if record.end() != behind {
                // Of those between nothing was told.
                return Place::Ambiguous;
            }
            behind = record.seq;
            if !record.data {
                continue;
            }
            let Some(plain) = by.plain(record.len) else { break };
            pieces.push((record.seq, plain));
            min = min.saturating_add(plain.min);
            max = max.saturating_add(plain.max);
            if min > len || max >= len {
                break;
            }
        }
        if min > len || max < len {
            return Place::Disagrees;
        }
        if min < max && pieces.len() > 1 {
            // Where the second one begins is known to the block only.
            let seq = pieces.last().map(|(seq, _)| *seq);
            let first = pieces.last().map_or(0, |(_, plain)| plain.min).clamp(1, (len - 1).max(1));
            let rest = Piece { at: first, len: len - first, seq: None };
            return Place::Pieces(vec![Piece { at: 0, len: first, seq }, rest]);
        }
        let mut at = 0;
        let pieces = pieces.iter().rev().map(|(seq, plain)| {
            let piece = Piece { at, len: plain.max.min(len - at), seq: Some(*seq) };
            at += piece.len;
            piece
        });
        Place::Pieces(pieces.collect())
    }

    fn received(&mut self, part: Part, by: Protection) -> Place {
        let Part { len, filled, moved_to, follows, .. } = part;
        self.confused |= moved_to.map_or(!follows, |end| !self.has_seen(end));
        if self.confused {
            self.current = None;
            return Place::Ambiguous;
        }
        let seen = moved_to.or(self.seen).unwrap_or_default();
        let (seq, taken, plain) = match self.current.take() {
            Some(current) if current.left_max >= len => (current.seq, current.taken, current.left_max),
            // The record was over, which blocks do not tell.
            _ => {
                let mut fitting = self.waiting.iter().enumerate().filter_map(|(n, record)| {
                    Some((n, record.holds(len, filled, by).filter(|_| record.ends_by(seen))?))
                });
                let Some((first, plain)) = fitting.next() else { return Place::Disagrees };
                // Where all are of data, they come in order.
                let alone = if by.tells_data() && follows {
                    self.waiting.iter().take(first).all(|record| !record.data)
                } else {
                    fitting.next().is_none()
                };
                if !alone {
                    self.confused = true;
                    return Place::Ambiguous;
                }
                let Some(record) = self.waiting.drain(..=first).next_back() else { return Place::Disagrees };
                self.heard_to(record.end());
                (record.seq, 0, plain)
            }
        };
        let left_max = plain - len;
        if filled && left_max > 0 {
            self.current = Some(Current { seq, record_end: None, taken: taken + len, left_max });
        }
        Place::Pieces(vec![Piece { at: 0, len, seq: Some(seq.wrapping_add(taken)) }])
    }

    /// The library has taken all records up to `end`, and this is of the last one of them that holds data.
    fn received_up_to(&mut self, end: u32, Part { len, filled, .. }: Part, by: Protection) -> Place {
        let (seq, taken, plain) = match self.current.take() {
            Some(current) if current.record_end == Some(end) => {
                if current.left_max < len {
                    return Place::Disagrees;
                }
                (current.seq, current.taken, current.left_max)
            }
            _ => {
                let Some(count) = self.up_to(end) else { return Place::Disagrees };
                let fitting = self
                    .waiting
                    .drain(..count)
                    .filter_map(|record| Some((record, record.holds(len, filled, by)?)))
                    .collect::<Vec<_>>();
                match *fitting.as_slice() {
                    [] => return Place::Disagrees,
                    [(record, plain)] => (record.seq, 0, plain),
                    // Behind a record of data it looks at an alert at most. The end of a handshake may be before it.
                    [.., (record, plain)] if record.end() == end && record.len > CONTROL_BYTES => {
                        (record.seq, 0, plain)
                    }
                    _ => return Place::Ambiguous,
                }
            }
        };
        let left_max = plain - len;
        if filled && left_max > 0 {
            self.current = Some(Current { seq, record_end: Some(end), taken: taken + len, left_max });
        }
        Place::Pieces(vec![Piece { at: 0, len, seq: Some(seq.wrapping_add(taken)) }])
    }
}
