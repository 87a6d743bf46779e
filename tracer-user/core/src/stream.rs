//! One direction of one connection: the bytes in order, and exactly which are missing and why.
//!
//! Operations are put in by stream position; what comes out at the reading position is a run of bytes of one
//! operation, a hole, or nothing yet. It knows nothing of protocols, and it keeps no byte that was consumed.
//!
//! A hole is one of three kinds. *Elided*: the kernel half left bytes out on purpose; an operation says which
//! (`head_len`, `tail_len`). *Unreadable*: they were meant to be copied and could not be. *Lost*: they were captured
//! and did not arrive, as one operation's record or as whole operations; positions tell how many. A lost hole may
//! still be filled by an event that comes late, so it is first `Wait`, and is offered as a hole once the owner calls
//! [`Stream::give_up`] or when [`StreamLimits::patience_ops`] later operations are there.
//!
//! Cost: one queue entry for an operation, whatever its length, dropped when the reading position passes it.

use std::collections::VecDeque;

use bytes::Bytes;
use tracer_abi::error::PayloadState;
use tracer_abi::time::KernelInstant;

use crate::event::{DataMoved, Thread};
use crate::exchange::{Incomplete, Mark};

/// Bounds of one direction. What they cut becomes a lost hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// How many operations may wait behind a lost hole for it to be filled after all. Small: the events were put in
    /// time order before, so that only operations of several threads at the same instant come out of order.
    pub patience_ops: usize,
    /// How many operations may wait to be consumed, for whatever reason.
    pub held_ops: usize,
    /// How many captured bytes may wait to be consumed.
    pub held_bytes: usize,
}

/// Captured pieces of one operation at most: the head budget and the tail in the smallest chunks a kernel half sends
/// are far fewer. Further ones are ignored, hence lost.
const MAX_CHUNKS: usize = 64;

/// What is at the reading position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Bytes of one operation.
    Bytes { bytes: &'a [u8], edge: Edge },
    /// Bytes that are not there and will not come.
    Hole { len: u64, kind: HoleKind, edge: Edge },
    /// Nothing is known to be here yet, or what is missing may still come.
    Wait,
}

/// How a run lies in its operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Its first byte is the operation's first.
    pub starts_op: bool,
    /// Its last byte is the operation's last.
    pub ends_op: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleKind {
    Elided,
    Unreadable,
    Lost,
}

impl HoleKind {
    /// What an exchange that was touched by such a hole is marked with.
    pub const fn incomplete(self) -> Option<Incomplete> {
        match self {
            Self::Elided => None,
            Self::Unreadable => Some(Incomplete::PayloadUnreadable),
            Self::Lost => Some(Incomplete::EventsLost),
        }
    }
}

/// What was passed over. Taken by the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    pub lost_bytes: u64,
    pub unreadable_bytes: u64,
    /// Bytes that came after their place was given up or consumed, or that contradict what was there.
    pub late_bytes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Reading position.
    next: u64,
    /// What is missing before this position is lost.
    given_up: u64,
    /// Sorted by position, disjoint, all ending behind `next`.
    ops: VecDeque<Op>,
    held_bytes: usize,
    /// The payload that was put in last may share memory with others.
    shares: bool,
    counts: StreamCounts,
}

#[derive(Clone, Debug)]
struct Op {
    /// The part of the stream that this operation covers: all of it, unless others overlap it.
    from: u64,
    to: u64,
    /// The operation itself.
    start: u64,
    len: u32,
    head_len: u32,
    tail_len: u32,
    state: PayloadState,
    /// Its last record is here: nothing more comes, and what is missing is missing for good.
    whole: bool,
    /// Begins with a frame's header.
    frame: bool,
    tcp_seq_end: u32,
    time: KernelInstant,
    thread: Thread,
    blocking: Option<bool>,
    nvcsw: u64,
    user_r14: u64,
    /// Most operations have one record: it needs no allocation.
    first: Option<Chunk>,
    more: Vec<Chunk>,
    /// Captured bytes in them.
    held: usize,
}

#[derive(Clone, Debug)]
struct Chunk {
    at: u32,
    bytes: Bytes,
    shares: bool,
}

impl Op {
    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.first.iter().chain(&self.more)
    }

    /// The run of bytes from `at`, which lies in `chunk`.
    fn bytes<'a>(&self, chunk: &'a Chunk, at: u32) -> Run<'a> {
        let end = chunk.end().min((self.to - self.start) as u32);
        let bytes = &chunk.bytes[(at - chunk.at) as usize..(end - chunk.at) as usize];
        Run::Bytes { bytes, edge: self.edge(at, end) }
    }

    const fn edge(&self, at: u32, end: u32) -> Edge {
        Edge { starts_op: at == 0, ends_op: end == self.len }
    }

    fn mark(&self, offset: u64, tcp: bool) -> Mark {
        // The sequence number is known behind the last byte; count back from there (RFC 9293 section 3.4: modulo 2^32).
        let behind = u64::from(self.len).saturating_sub(offset.saturating_sub(self.start)) as u32;
        Mark {
            offset,
            // Zero says that it is not known.
            tcp_seq: (tcp && self.tcp_seq_end != 0).then(|| self.tcp_seq_end.wrapping_sub(behind)),
            time: self.time,
            thread: self.thread,
            blocking: self.blocking,
            nvcsw: self.nvcsw,
            user_r14: self.user_r14,
        }
    }
}

impl Stream {
    /// Puts in one record of an operation that moved `len` bytes, whose payload is taken. Whatever is known already is
    /// ignored.
    pub fn insert(&mut self, event: &mut DataMoved, len: u32, limits: &StreamLimits) {
        let Some(end) = event.offset.checked_add(u64::from(len)) else { return };
        self.shares = true;
        if end <= self.next {
            self.counts.late_bytes += event.payload.len() as u64;
            return;
        }
        if self.ops.is_empty() {
            // As nearly always: nothing waits, and this goes on where the last one ended.
            let mut op = Op::new(event, len, event.offset.max(self.next), end);
            self.held_bytes += op.add(event);
            if self.ops.capacity() == 0 {
                // Most connections never hold two, and there are many connections.
                self.ops.reserve_exact(1);
            }
            self.ops.push_back(op);
        } else if !self.insert_among(event, len, end) {
            self.counts.late_bytes += event.payload.len() as u64;
            return;
        }
        if self.ops.len() > limits.patience_ops && self.is_waiting() {
            self.give_up();
        }
    }

    /// Puts it where others wait. False: all of its place is taken.
    fn insert_among(&mut self, event: &mut DataMoved, len: u32, end: u64) -> bool {
        let at = self.ops.iter().rposition(|op| op.start <= event.offset).map_or(0, |at| at + 1);
        if let Some(op) = at.checked_sub(1).and_then(|at| self.ops.get_mut(at))
            && op.start == event.offset
            && op.len == len
        {
            self.held_bytes += op.add(event);
            return true;
        }
        let before = at.checked_sub(1).and_then(|at| self.ops.get(at)).map_or(0, |op| op.to);
        let behind = self.ops.get(at).map_or(u64::MAX, |op| op.from);
        let from = event.offset.max(before).max(self.next);
        let to = end.min(behind);
        if from >= to {
            return false;
        }
        let mut op = Op::new(event, len, from, to);
        self.held_bytes += op.add(event);
        self.ops.insert(at, op);
        true
    }

    /// Whether nothing waits to be consumed.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// To be called when what was put in last has been read as far as it can be: what is kept of it is copied, so that
    /// it does not keep the payloads of other connections that came with it.
    pub fn detach(&mut self) {
        if !std::mem::take(&mut self.shares) || self.ops.is_empty() {
            return;
        }
        let next = self.next;
        let mut last = self.ops.iter_mut().rev().flat_map(|op| {
            let start = op.start;
            op.more.iter_mut().chain(&mut op.first).map(move |chunk| (start, chunk))
        });
        if let Some((start, chunk)) = last.find(|(_, chunk)| chunk.shares) {
            // Of what was read already, only its place is kept.
            let is_read = start + u64::from(chunk.end()) <= next;
            chunk.bytes = if is_read { Bytes::new() } else { Bytes::copy_from_slice(&chunk.bytes) };
            chunk.shares = false;
        }
    }

    /// What is at the reading position.
    pub fn peek(&self) -> Run<'_> {
        let Some(op) = self.ops.front() else { return Run::Wait };
        // The rule: an operation in one record, with its first bytes there.
        if let Some(chunk) = &op.first
            && op.from <= self.next
        {
            let at = (self.next - op.start) as u32;
            if chunk.at <= at && at < chunk.end() {
                return op.bytes(chunk, at);
            }
        }
        self.peek_further(op)
    }

    fn peek_further<'a>(&self, op: &'a Op) -> Run<'a> {
        if let Some(missing @ 1..) = op.from.checked_sub(self.next) {
            if self.next >= self.given_up {
                return Run::Wait;
            }
            return Run::Hole {
                len: missing,
                kind: HoleKind::Lost,
                edge: Edge { starts_op: true, ends_op: true },
            };
        }
        let at = (self.next - op.start) as u32;
        if let Some(chunk) = op.more.iter().find(|chunk| chunk.at <= at && at < chunk.end()) {
            return op.bytes(chunk, at);
        }
        let limit = (op.to - op.start) as u32;
        let limit =
            op.chunks().map(|chunk| chunk.at).filter(|&start| start > at).min().unwrap_or(limit).min(limit);
        let (planned, plan_end) = op.plan(at);
        let end = plan_end.min(limit);
        let kind = match op.state {
            _ if !planned => HoleKind::Elided,
            PayloadState::Unreadable if op.whole || self.next < self.given_up => HoleKind::Unreadable,
            PayloadState::Copied | PayloadState::NoUserBuffer if self.next < self.given_up => HoleKind::Lost,
            PayloadState::Copied | PayloadState::NoUserBuffer | PayloadState::Unreadable => return Run::Wait,
        };
        Run::Hole { len: u64::from(end - at), kind, edge: op.edge(at, end) }
    }

    /// Moves the reading position over `len` bytes of the run that [`Stream::peek`] gave.
    pub fn consume(&mut self, len: u64) {
        if let Run::Hole { kind, len: hole, .. } = self.peek() {
            let len = len.min(hole);
            let add = |count: &mut u64, len| *count = count.saturating_add(len);
            match kind {
                HoleKind::Elided => {}
                HoleKind::Unreadable => add(&mut self.counts.unreadable_bytes, len),
                HoleKind::Lost => add(&mut self.counts.lost_bytes, len),
            }
        }
        self.pass(len);
    }

    /// The same, where the run is of bytes.
    pub fn consume_bytes(&mut self, len: u64) {
        self.pass(len);
    }

    fn pass(&mut self, len: u64) {
        self.next = self.next.saturating_add(len);
        while let Some(op) = self.ops.front()
            && op.to <= self.next
        {
            self.held_bytes -= op.held;
            if self.ops.len() == 1 {
                // Dropped where it is; taken out, it would be moved first.
                self.ops.clear();
            } else {
                self.ops.pop_front();
            }
        }
    }

    /// Drops all that waits and moves the reading position behind it.
    pub fn discard(&mut self) {
        self.next = self.end();
        self.ops.clear();
        self.held_bytes = 0;
    }

    /// What is missing before the last known operation is lost from now on.
    pub fn give_up(&mut self) {
        self.given_up = self.given_up.max(self.end());
    }

    /// Something is missing at the reading position, and later bytes are there already.
    pub fn is_waiting(&self) -> bool {
        !self.ops.is_empty() && matches!(self.peek(), Run::Wait)
    }

    /// More waits than the limits allow.
    pub fn is_overfull(&self, limits: &StreamLimits) -> bool {
        self.ops.len() > limits.held_ops || self.held_bytes > limits.held_bytes
    }

    /// The byte at the reading position is the first one of a frame, as the kernel half has followed them.
    pub fn starts_frame(&self) -> bool {
        self.ops.front().is_some_and(|op| op.frame && op.start == self.next && op.from == op.start)
    }

    /// How many captured bytes wait.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Time of the first operation that waits.
    pub fn waits_since(&self) -> Option<KernelInstant> {
        self.ops.front().map(|op| op.time)
    }

    /// Position behind the last known byte.
    pub fn end(&self) -> u64 {
        self.ops.back().map_or(self.next, |op| op.to)
    }

    /// Reading position.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The byte at `position`, which is not consumed yet; `None` when no operation is known to have moved it.
    pub fn mark(&self, position: u64, tcp: bool) -> Option<Mark> {
        let first = self.ops.front()?;
        let op = if position < first.to { first } else { self.ops.iter().find(|op| position < op.to)? };
        (op.from <= position).then(|| op.mark(position, tcp))
    }

    /// Copies the bytes from the reading position as far as they are there without a hole. Returns how many.
    pub fn copy_prefix(&self, into: &mut [u8]) -> usize {
        let (mut position, mut copied) = (self.next, 0);
        for chunk in self.ops.iter().flat_map(|op| op.chunks().map(move |chunk| (op, chunk))) {
            let (op, chunk) = chunk;
            let start = op.start + u64::from(chunk.at);
            let Some(skip) = position.checked_sub(start) else { break };
            let (Some(room), Some(bytes)) = (into.get_mut(copied..), chunk.bytes.get(skip as usize..)) else {
                continue;
            };
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            copied += len;
            position += len as u64;
            if copied == into.len() {
                break;
            }
        }
        copied
    }

    pub(crate) fn has_counts(&self) -> bool {
        self.counts != StreamCounts::default()
    }

    pub fn take_counts(&mut self) -> StreamCounts {
        std::mem::take(&mut self.counts)
    }
}

impl Op {
    fn new(event: &DataMoved, len: u32, from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            start: event.offset,
            len,
            head_len: event.head_len.min(len),
            tail_len: event.tail_len.min(len),
            state: event.payload_state,
            whole: false,
            frame: event.frame,
            tcp_seq_end: event.tcp_seq_end,
            time: event.time,
            thread: event.thread,
            blocking: event.blocking,
            nvcsw: event.nvcsw,
            user_r14: event.user_r14,
            first: None,
            more: Vec::new(),
            held: 0,
        }
    }

    /// Takes in a record's payload; returns how many bytes are held for it.
    fn add(&mut self, event: &mut DataMoved) -> usize {
        self.whole |= event.last;
        let room = self.len.saturating_sub(event.chunk_offset) as usize;
        let mut bytes = std::mem::take(&mut event.payload);
        bytes.truncate(room);
        if bytes.is_empty() || self.more.len() >= MAX_CHUNKS {
            return 0;
        }
        let (held, chunk) = (bytes.len(), Chunk { at: event.chunk_offset, bytes, shares: true });
        match &self.first {
            None => self.first = Some(chunk),
            Some(_) if self.chunks().any(|old| old.at == chunk.at) => return 0,
            Some(first) if first.at > chunk.at => {
                let moved = self.first.replace(chunk);
                self.more.splice(0..0, moved);
            }
            Some(_) => {
                let at = self.more.partition_point(|old| old.at < chunk.at);
                self.more.insert(at, chunk);
            }
        }
        self.held += held;
        held
    }

    /// Whether the byte at `at` was meant to be captured, and where that part of the plan ends.
    fn plan(&self, at: u32) -> (bool, u32) {
        let tail_start = self.len - self.tail_len;
        match self.state {
            PayloadState::NoUserBuffer => (false, self.len),
            PayloadState::Copied | PayloadState::Unreadable if at < self.head_len => {
                (true, if self.head_len >= tail_start { self.len } else { self.head_len })
            }
            PayloadState::Copied | PayloadState::Unreadable if at < tail_start => (false, tail_start),
            PayloadState::Copied | PayloadState::Unreadable => (true, self.len),
        }
    }
}

impl Chunk {
    /// At most the operation's length: `Op::add` cuts what goes beyond.
    fn end(&self) -> u32 {
        self.at + self.bytes.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use tracer_abi::conn::{Direction, SocketCookie};
    use tracer_abi::sniff::Class;
    use tracer_abi::task::{ProcessKey, Tid};

    use super::*;
    use crate::event::{IoOutcome, Waited};

    const LIMITS: StreamLimits = StreamLimits { patience_ops: 3, held_ops: 8, held_bytes: 1000 };

    /// A record of an operation of `len` bytes at `offset`, of which the first `head` and the last `tail` are
    /// planned; it carries `payload` from `at`.
    fn record(offset: u64, len: u32, (head, tail): (u32, u32), at: u32, payload: &str) -> (DataMoved, u32) {
        let event = DataMoved {
            time: KernelInstant::from_nanos(offset),
            thread: Thread { process: ProcessKey::default(), tid: Tid(1), seq: 0 },
            cpu: 0,
            cookie: SocketCookie(1),
            direction: Direction::Ingress,
            offset,
            outcome: IoOutcome::Moved(len),
            tcp_seq_end: (offset as u32).wrapping_add(len).wrapping_sub(5),
            head_len: head,
            tail_len: tail,
            chunk_offset: at,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            payload_state: PayloadState::Copied,
            last: true,
            muted: false,
            frame: false,
            class: Class::Undecided,
            blocking: None,
            waited: Waited::default(),
            in_tls_call: false,
            nvcsw: 0,
            user_r14: 0,
            syscall: 0,
        };
        (event, len)
    }

    fn whole(offset: u64, payload: &str) -> (DataMoved, u32) {
        record(offset, payload.len() as u32, (payload.len() as u32, 0), 0, payload)
    }

    /// Puts records in, giving up at the end; what comes out, one piece for a run.
    fn check(records: &[(DataMoved, u32)], want: &[&str]) {
        let mut stream = Stream::default();
        let mut got = Vec::new();
        let drain = |stream: &mut Stream, got: &mut Vec<String>| {
            loop {
                let (len, piece) = match stream.peek() {
                    Run::Wait => break,
                    Run::Bytes { bytes, edge } => {
                        let text = String::from_utf8(bytes.to_vec()).unwrap();
                        let (a, b) =
                            (if edge.starts_op { "[" } else { "" }, if edge.ends_op { "]" } else { "" });
                        (bytes.len() as u64, format!("{a}{text}{b}"))
                    }
                    Run::Hole { len, kind, edge } => {
                        let (a, b) =
                            (if edge.starts_op { "[" } else { "" }, if edge.ends_op { "]" } else { "" });
                        (len, format!("{a}{kind:?} {len}{b}"))
                    }
                };
                got.push(piece);
                stream.consume(len);
            }
        };
        for (event, len) in records {
            stream.insert(&mut event.clone(), *len, &LIMITS);
            drain(&mut stream, &mut got);
        }
        got.push("|".to_owned());
        stream.give_up();
        drain(&mut stream, &mut got);
        assert_eq!(got, want);
        assert_eq!((stream.held_bytes, stream.ops.len()), (0, 0));
    }

    #[test]
    fn what_is_kept_is_a_copy_and_what_was_read_is_not_kept() {
        let memory = |stream: &Stream| stream.ops[0].chunks().map(|chunk| chunk.bytes.as_ptr()).next();
        let held = |stream: &Stream| stream.ops[0].chunks().map(|chunk| chunk.bytes.len()).sum::<usize>();
        let mut stream = Stream::default();
        let (event, len) = record(2, 6, (6, 0), 0, "abc");
        stream.insert(&mut event.clone(), len, &LIMITS);
        assert_eq!(memory(&stream), Some(event.payload.as_ptr()));
        stream.detach();
        assert_ne!(memory(&stream), Some(event.payload.as_ptr()));
        assert_eq!(stream.ops[0].first.as_ref().map(|chunk| chunk.bytes.clone()), Some(event.payload));

        let mut stream = Stream { next: 2, ..Stream::default() };
        let (event, len) = record(2, 6, (6, 0), 0, "abc");
        stream.insert(&mut event.clone(), len, &LIMITS);
        stream.consume(3);
        stream.detach();
        assert_eq!((held(&stream), stream.peek()), (0, Run::Wait));
        let (event, len) = record(2, 6, (6, 0), 3, "def");
        stream.insert(&mut event.clone(), len, &LIMITS);
        let edge = Edge { starts_op: false, ends_op: true };
        assert_eq!(stream.peek(), Run::Bytes { bytes: b"def", edge });
    }

    #[test]
    fn in_order() {
        check(&[whole(0, "abc"), whole(3, "de")], &["[abc]", "[de]", "|"]);
    }

    #[test]
    fn small_disorder_duplicates_and_overlaps() {
        check(&[whole(3, "de"), whole(0, "abc")], &["[abc]", "[de]", "|"]);
        check(&[whole(3, "de"), whole(3, "de"), whole(0, "abc"), whole(0, "abc")], &["[abc]", "[de]", "|"]);
        check(&[whole(0, "abc"), whole(2, "cde")], &["[abc]", "de]", "|"]);
        check(&[whole(4, "e"), whole(0, "abc"), whole(2, "cdE")], &["[abc]", "d", "[e]", "|"]);
        check(&[whole(1, "b"), whole(0, "abc")], &["[a", "[b]", "|"]);
    }

    #[test]
    fn what_is_elided_is_known_from_the_plan() {
        let head = record(0, 10, (2, 3), 0, "ab");
        let tail = record(0, 10, (2, 3), 7, "hij");
        check(&[head.clone(), tail.clone()], &["[ab", "Elided 5", "hij]", "|"]);
        check(&[tail, head], &["[ab", "Elided 5", "hij]", "|"]);
        check(&[record(0, 10, (0, 0), 0, "")], &["[Elided 10]", "|"]);
    }

    #[test]
    fn what_is_lost_is_waited_for_and_then_known() {
        // A record of an operation, and the operation's neighbours.
        let head = record(0, 10, (2, 3), 0, "ab");
        check(&[head.clone(), whole(10, "k")], &["[ab", "Elided 5", "|", "Lost 3]", "[k]"]);
        check(&[whole(0, "a"), whole(5, "f")], &["[a]", "|", "[Lost 4]", "[f]"]);
        // Patience ends with the fourth operation that waits.
        let rest = [whole(6, "g"), whole(7, "h"), whole(8, "i")];
        let mut records = vec![whole(0, "a"), whole(5, "f")];
        records.extend(rest);
        check(&records, &["[a]", "[Lost 4]", "[f]", "[g]", "[h]", "[i]", "|"]);
        // Too late.
        records.push(whole(1, "bcde"));
        check(&records, &["[a]", "[Lost 4]", "[f]", "[g]", "[h]", "[i]", "|"]);
    }

    #[test]
    fn what_is_unreadable_is_known_at_once() {
        let mut event = record(0, 10, (10, 0), 0, "ab");
        event.0.payload_state = PayloadState::Unreadable;
        check(&[event.clone()], &["[ab", "Unreadable 8]", "|"]);
        event.0.payload_state = PayloadState::NoUserBuffer;
        check(&[event], &["[ab", "Elided 8]", "|"]);
    }

    #[test]
    fn marks_count_back_from_the_operation_s_end() {
        let mut stream = Stream::default();
        let (event, len) = whole(0, "0123456789");
        stream.insert(&mut event.clone(), len, &LIMITS);
        let seqs = [0, 4, 5, 9].map(|at| stream.mark(at, true).unwrap().tcp_seq.unwrap());
        assert_eq!(seqs, [u32::MAX - 4, u32::MAX, 0, 4]);
        assert_eq!(stream.mark(3, false).unwrap().tcp_seq, None);
        assert_eq!(stream.mark(10, true), None);
    }

    #[test]
    fn room_is_made_for_one_operation_where_one_waits_at_a_time() {
        let mut stream = Stream::default();
        assert_eq!(stream.ops.capacity(), 0);
        for n in 0..100 {
            let (event, len) = whole(n * 10, "0123456789");
            stream.insert(&mut event.clone(), len, &LIMITS);
            stream.consume_bytes(10);
        }
        assert_eq!((stream.ops.capacity(), stream.position()), (1, 1000));
    }

    #[test]
    fn positions_at_the_end_of_numbers_do_no_harm() {
        let mut stream = Stream::default();
        for offset in [u64::MAX, u64::MAX - 9, u64::MAX - 10, 5, 0] {
            let (event, len) = whole(offset, "0123456789");
            stream.insert(&mut event.clone(), len, &LIMITS);
        }
        stream.give_up();
        let mut lens = Vec::new();
        loop {
            let len = match stream.peek() {
                Run::Wait => break,
                Run::Hole { len, .. } => len,
                Run::Bytes { bytes, .. } => bytes.len() as u64,
            };
            lens.push(len);
            stream.consume(len);
        }
        assert_eq!(lens, [5, 10, u64::MAX - 10 - 15, 10]);
    }
}
