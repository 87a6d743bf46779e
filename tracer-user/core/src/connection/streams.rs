//! Protocols whose exchanges are told apart by the number of a stream, in both directions.
//!
//! Nothing is counted here: a response says whose it is. An exchange is known by the order in which its request's head
//! was complete, because numbers of streams are used again. As long as every record's header was seen, all is certain.
//! Where only content was left out, the place of the next record is known; where headers were left out on purpose, the
//! parser finds the end of the request at the end of an operation; where they were lost, all open exchanges are lost
//! and the next request counts that begins an operation, directly after one that ended with the end of another. A
//! connection that has had several requests at a time is given up then.

use std::collections::BTreeMap;

use tracer_abi::conn::{Direction, Role};
use tracer_abi::time::KernelInstant;

use super::pairing::exchange_id;
use super::{Connection, Mode};
use crate::exchange::{BodyLen, ExchangeUpdate, Incomplete, Mark, Outcome, Trailer};
use crate::protocol::fastcgi::{self, FastCgi, Opening};
use crate::protocol::{Parsed, Parser as _, StreamPart};
use crate::stream::{HoleKind, Run};

#[derive(Debug)]
pub(super) struct Streams {
    /// The direction in which requests go.
    pub(super) requests: Direction,
    asks: FastCgi,
    answers: FastCgi,
    open: BTreeMap<u64, Open>,
    next_index: u64,
    /// First byte of the record in progress, by direction.
    record: [Option<Mark>; 2],
    /// Several were open at a time.
    multiplexes: bool,
    /// The place is lost.
    seeking: Option<Seeking>,
}

#[derive(Debug)]
struct Seeking {
    reason: Incomplete,
    /// Last bytes of the responses, as many as end a request.
    tail: Vec<u8>,
    /// When the last operation was that ended with the end of a request, if none has followed that did not.
    after_end: Option<KernelInstant>,
}

impl Seeking {
    const fn new(reason: Incomplete) -> Self {
        Self { reason, tail: Vec::new(), after_end: None }
    }
}

/// A request whose end was not seen.
#[derive(Debug)]
struct Open {
    first: Mark,
    /// Since its head is complete.
    index: Option<u64>,
    response_first: Option<Mark>,
    responded: bool,
    last: Option<Mark>,
    /// The first reason counts.
    incomplete: Option<Incomplete>,
}

impl Streams {
    fn new(requests: Direction, max_head_bytes: usize) -> Self {
        Self {
            requests,
            asks: FastCgi::requests(max_head_bytes),
            answers: FastCgi::responses(max_head_bytes),
            open: BTreeMap::new(),
            next_index: 0,
            record: [None; 2],
            multiplexes: false,
            seeking: None,
        }
    }

    fn parser(&mut self, direction: Direction) -> &mut FastCgi {
        if direction == self.requests { &mut self.asks } else { &mut self.answers }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.asks.held_bytes() + self.answers.held_bytes()
    }

    pub(super) const fn ever_began(&self) -> bool {
        self.next_index > 0
    }

    pub(super) fn awaits_answer(&self) -> bool {
        self.open.values().any(|open| open.index.is_some() && open.response_first.is_none())
    }

    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    fn touch(&mut self, stream: u64, reason: Option<Incomplete>) {
        if let Some(open) = self.open.get_mut(&stream) {
            open.incomplete = open.incomplete.or(reason);
        }
    }
}

impl Connection {
    /// The connection is this protocol's.
    pub(super) fn follow_streams(&mut self, requests: Direction) {
        self.requests = Some(requests);
        self.mode = Mode::Streams(Box::new(Streams::new(requests, self.limits.head_bytes)));
    }

    /// As [`Connection::follow_streams`], from where pairing can begin.
    pub(super) fn seek_in_streams(&mut self, requests: Direction, reason: Incomplete) {
        self.follow_streams(requests);
        if let Mode::Streams(streams) = &mut self.mode {
            streams.seeking = Some(Seeking::new(reason));
        }
    }

    /// What is missing is lost where nothing else can go on: a request waits until the last one with its number has
    /// ended, or the place is sought.
    pub(super) fn hurry_streams(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let Mode::Streams(streams) = &self.mode else { return };
        let (asks, answers) = (streams.requests, streams.requests.flipped());
        if streams.seeking.is_some() {
            // What is missing is lost already.
            for direction in [asks, answers] {
                if self.half(direction).stream.is_waiting() {
                    self.hurry(direction, now, out);
                }
            }
            return;
        }
        let held = !self.half(asks).stream.is_empty() && !self.half(asks).stream.is_waiting();
        if held && self.half(answers).stream.is_waiting() {
            self.hurry(answers, now, out);
        }
    }

    /// A request of such a protocol begins with the operation that is read next.
    pub(super) fn begins_stream(&self, direction: Direction) -> bool {
        match self.half(direction).stream.peek() {
            Run::Bytes { bytes, edge } => edge.starts_op && fastcgi::opening(bytes) == Opening::Requests,
            Run::Hole { .. } | Run::Wait => false,
        }
    }

    /// Whether the first bytes of a direction are this protocol's; then it is followed. `None`: too few to tell.
    pub(super) fn detect_streams(&mut self, direction: Direction, bytes: &[u8]) -> Option<bool> {
        match fastcgi::opening(bytes) {
            Opening::Undecided => None,
            Opening::Requests => {
                self.follow_streams(direction);
                Some(true)
            }
            Opening::Responses => {
                self.follow_streams(direction.flipped());
                Some(true)
            }
            Opening::Other => Some(false),
        }
    }

    /// Reads one direction as far as it goes; whether it got anywhere.
    pub(super) fn run_streams(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let mut progressed = false;
        loop {
            // What is not read again is put back below.
            let Mode::Streams(mut streams) = std::mem::replace(&mut self.mode, Mode::Opaque) else {
                return progressed;
            };
            let step = self.step_streams(&mut streams, direction, now, out);
            match step {
                Progress::Stuck => {
                    self.mode = Mode::Streams(streams);
                    return progressed;
                }
                Progress::Went => {
                    self.mode = Mode::Streams(streams);
                    progressed = true;
                }
                Progress::Over => {
                    self.end_streams(&mut streams, Incomplete::LimitReached, now, out);
                    self.stats.given_up += 1;
                    self.turn_opaque();
                    return true;
                }
            }
        }
    }

    fn step_streams(
        &mut self,
        streams: &mut Streams,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Progress {
        if streams.seeking.is_some() {
            return self.seek_streams(streams, direction);
        }
        let tcp = self.tcp;
        let overfull = self.half(direction).stream.is_overfull(&self.limits.stream);
        let half = self.half_mut(direction);
        let position = half.stream.position();
        match half.stream.peek() {
            Run::Wait => Progress::Stuck,
            Run::Bytes { bytes, edge } => {
                if !half.hurried && streams.must_wait(direction, bytes) {
                    return if overfull { Progress::Over } else { Progress::Stuck };
                }
                let asks = direction == streams.requests;
                // What was left out may hold a body's end, which the response's end makes up for.
                if asks
                    && streams.asks.is_adrift()
                    && (streams.open.is_empty() || streams.answers.is_adrift())
                    && edge.starts_op
                    && fastcgi::opening(bytes) == Opening::Requests
                {
                    streams.asks.reset();
                }
                if streams.parser(direction).is_between() {
                    streams.record[usize::from(direction.code())] = half.stream.mark(position, tcp);
                }
                let step = streams.parser(direction).bytes(bytes, edge);
                let last =
                    step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
                half.stream.consume_bytes(step.consumed);
                match step.parsed {
                    Parsed::NeedMore => Progress::Went,
                    Parsed::Part(part) => {
                        self.take_stream_part(streams, direction, part, last, now, out);
                        if streams.open.len() > self.limits.open_exchanges {
                            return Progress::Over;
                        }
                        Progress::Went
                    }
                    Parsed::Torn | Parsed::Invalid(_) => {
                        self.stats.malformed += 1;
                        if streams.ever_began() {
                            self.end_streams(streams, Incomplete::Malformed, now, out);
                        }
                        Progress::Over
                    }
                }
            }
            Run::Hole { len, kind, edge } => {
                let current = streams.parser(direction).current();
                let step = streams.parser(direction).hole(len, edge);
                let last =
                    step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
                half.stream.consume(step.consumed);
                if let Some(stream) = current.filter(|_| step.consumed > 0) {
                    streams.touch(stream, kind.incomplete());
                }
                match (step.parsed, kind) {
                    (Parsed::Part(part), _) => {
                        self.take_stream_part(streams, direction, part, last, now, out);
                        Progress::Went
                    }
                    (Parsed::Torn, HoleKind::Elided) => {
                        streams.parser(direction).drift();
                        Progress::Went
                    }
                    (Parsed::Torn | Parsed::Invalid(_), _) => {
                        let reason = kind.incomplete().unwrap_or(Incomplete::LimitReached);
                        self.lose_streams(streams, reason, now, out)
                    }
                    (Parsed::NeedMore, _) => Progress::Went,
                }
            }
        }
    }

    /// Where a record begins is lost.
    fn lose_streams(
        &mut self,
        streams: &mut Streams,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Progress {
        self.stats.places_lost += 1;
        self.end_streams(streams, reason, now, out);
        if streams.multiplexes {
            return Progress::Over;
        }
        streams.asks.reset();
        streams.answers.reset();
        streams.seeking = Some(Seeking::new(reason));
        Progress::Went
    }

    /// Passes over operations until one begins a request directly after one that ended another.
    fn seek_streams(&mut self, streams: &mut Streams, direction: Direction) -> Progress {
        let Some(seeking) = &mut streams.seeking else { return Progress::Stuck };
        // Operations of the other direction that wait may have come before.
        let others = self.half(direction.flipped()).stream.waits_since();
        let half = self.half_mut(direction);
        let time = half.stream.waits_since().unwrap_or(KernelInstant::ZERO);
        let asks = direction == streams.requests;
        let len = match half.stream.peek() {
            Run::Wait => return Progress::Stuck,
            Run::Hole { len, .. } => {
                if !asks {
                    seeking.tail.clear();
                }
                if !asks || seeking.after_end.is_some_and(|end| end < time) {
                    seeking.after_end = None;
                }
                len
            }
            Run::Bytes { bytes, edge } => {
                let begins = asks && edge.starts_op && fastcgi::opening(bytes) == Opening::Requests;
                let follows = seeking.after_end.is_some_and(|end| end < time);
                if begins && follows && others.is_none_or(|others| others > time) {
                    streams.seeking = None;
                    self.stats.resyncs += 1;
                    return Progress::Went;
                }
                if !asks {
                    let tail = &mut seeking.tail;
                    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(fastcgi::END_BYTES)..]);
                    tail.drain(..tail.len().saturating_sub(fastcgi::END_BYTES));
                    let ends = edge.ends_op && fastcgi::ends_with_end(tail).is_some();
                    seeking.after_end = ends.then_some(time);
                } else if follows {
                    seeking.after_end = None;
                }
                let len = bytes.len() as u64;
                self.stats.requests_passed_over += u64::from(begins);
                len
            }
        };
        self.half_mut(direction).stream.consume(len);
        Progress::Went
    }

    fn take_stream_part(
        &mut self,
        streams: &mut Streams,
        direction: Direction,
        part: StreamPart,
        last: Option<Mark>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        match part {
            StreamPart::Opened { stream } => {
                let Some(first) = streams.record[usize::from(direction.code())] else { return };
                if let Some(old) = streams.open.remove(&stream) {
                    self.end_reused(streams, old, now, out);
                }
                streams.multiplexes |= !streams.open.is_empty();
                streams.open.insert(
                    stream,
                    Open {
                        first,
                        index: None,
                        response_first: None,
                        responded: false,
                        last,
                        incomplete: None,
                    },
                );
            }
            StreamPart::Request { stream, head, torn, malformed } => {
                self.stats.malformed += u64::from(malformed);
                if torn {
                    streams.touch(stream, Some(Incomplete::LimitReached));
                }
                if malformed {
                    streams.touch(stream, Some(Incomplete::Malformed));
                }
                let index = streams.next_index;
                let Some(open) = streams.open.get_mut(&stream).filter(|open| open.index.is_none()) else {
                    return;
                };
                // Of what is lost it is not known what it would have said; without a method it is no request.
                let lost =
                    matches!(open.incomplete, Some(Incomplete::EventsLost | Incomplete::PayloadUnreadable));
                if torn && lost || head.method.is_none() {
                    self.stats.requests_passed_over += 1;
                    return;
                }
                open.last = last.or(open.last);
                open.index = Some(index);
                streams.next_index += 1;
                self.streamed = true;
                let role = match direction {
                    Direction::Ingress => Role::Server,
                    Direction::Egress => Role::Client,
                };
                out.push(ExchangeUpdate::RequestBegan {
                    id: exchange_id(self.cookie, index),
                    role,
                    request: head,
                    first: open.first,
                    head_last: last.unwrap_or(open.first),
                    stream: None,
                });
            }
            StreamPart::RequestEnd { stream, body_len } => {
                let Some(open) = streams.open.get_mut(&stream) else { return };
                if open.response_first.is_none() {
                    open.last = last.or(open.last);
                }
                if let (Some(index), Some(last)) = (open.index, last) {
                    let id = exchange_id(self.cookie, index);
                    out.push(ExchangeUpdate::RequestEnded { id, last, body_len });
                }
            }
            StreamPart::Answered { stream } => match streams.open.get_mut(&stream) {
                Some(open) => {
                    open.response_first = streams.record[usize::from(direction.code())];
                    open.last = last.or(open.last);
                }
                None => self.stats.responses_passed_over += 1,
            },
            StreamPart::Response { stream, head } => {
                let Some(open) = streams.open.get_mut(&stream) else { return };
                open.last = last.or(open.last);
                open.responded = true;
                if let (Some(index), Some(first)) = (open.index, open.response_first) {
                    let id = exchange_id(self.cookie, index);
                    out.push(ExchangeUpdate::ResponseBegan { id, response: head, first });
                }
            }
            StreamPart::End { stream, body_len, trailer } => {
                let Some(mut open) = streams.open.remove(&stream) else { return };
                open.last = last.or(open.last);
                streams.asks.forget(stream);
                let outcome = match (open.responded, open.response_first) {
                    (true, _) => Outcome::Complete,
                    // What it answered is not known.
                    (false, Some(_)) => {
                        open.incomplete = open.incomplete.or(Some(Incomplete::LimitReached));
                        Outcome::Complete
                    }
                    (false, None) => Outcome::NoResponse,
                };
                let body_len = open.responded.then_some(body_len);
                let time = last.map_or(now, |mark| mark.time);
                self.end_stream(&open, outcome, time, body_len, trailer, out);
            }
        }
    }

    /// A number is used again, and its last use was not seen to end: it was left out of sight, or is lost.
    fn end_reused(
        &mut self,
        streams: &mut Streams,
        mut old: Open,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let seen = old.last.filter(|_| old.response_first.is_some()).map_or(now, |mark| mark.time);
        if streams.answers.is_adrift() && old.response_first.is_some() {
            streams.answers.reset();
            let body_len = old.responded.then_some(BodyLen::Unknown);
            self.end_stream(&old, Outcome::Complete, seen, body_len, None, out);
        } else {
            old.incomplete = old.incomplete.or(Some(Incomplete::EventsLost));
            self.end_stream(&old, Outcome::Lost, seen, None, None, out);
        }
    }

    fn end_stream(
        &mut self,
        open: &Open,
        outcome: Outcome,
        time: KernelInstant,
        response_body_len: Option<BodyLen>,
        trailer: Option<Trailer>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Some(index) = open.index else { return };
        self.stats.exchanges_lost += u64::from(outcome == Outcome::Lost);
        out.push(ExchangeUpdate::Ended {
            id: exchange_id(self.cookie, index),
            last: open.last,
            time,
            outcome,
            response_body_len,
            trailer,
            incomplete: open.incomplete,
        });
    }

    /// Ends every open exchange as lost.
    fn end_streams(
        &mut self,
        streams: &mut Streams,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        for mut open in std::mem::take(&mut streams.open).into_values() {
            open.incomplete = open.incomplete.or(Some(reason));
            // As of exchanges in order: whose response was seen in part ended no earlier than that.
            let time = open.last.filter(|_| open.response_first.is_some()).map_or(now, |mark| mark.time);
            self.stats.requests_passed_over += u64::from(open.index.is_none());
            self.end_stream(&open, Outcome::Lost, time, None, None, out);
        }
    }

    /// No response comes any more. `lost`: for this reason it is not known whether any came.
    pub(super) fn close_streams(
        &mut self,
        time: KernelInstant,
        lost: Option<Incomplete>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Mode::Streams(streams) = &mut self.mode else { return };
        let adrift = streams.answers.is_adrift();
        let seeking = streams.seeking.as_ref().map(|seeking| seeking.reason);
        let open = std::mem::take(&mut streams.open);
        for mut open in open.into_values() {
            let outcome = match (lost.or(seeking), open.response_first) {
                (Some(reason), _) => {
                    open.incomplete = open.incomplete.or(Some(reason));
                    if reason == Incomplete::StillOpen { Outcome::StillOpen } else { Outcome::Lost }
                }
                // The end was among what was left out.
                (None, Some(_)) if adrift => Outcome::Complete,
                (None, Some(_)) => Outcome::ResponseCut,
                (None, None) => Outcome::NoResponse,
            };
            let time = match outcome {
                Outcome::Complete => open.last.map_or(time, |mark| mark.time),
                Outcome::Upgraded
                | Outcome::Reset(_)
                | Outcome::Dropped
                | Outcome::NoResponse
                | Outcome::ResponseCut
                | Outcome::Lost
                | Outcome::StillOpen => time,
            };
            let body_len = (outcome == Outcome::Complete && open.responded).then_some(BodyLen::Unknown);
            self.end_stream(&open, outcome, time, body_len, None, out);
        }
    }
}

/// What became of a step.
enum Progress {
    Went,
    Stuck,
    /// The connection is not understood, or too much.
    Over,
}

impl Streams {
    /// The bytes belong to what has not been seen yet in the other direction: a thread that was kept from running is
    /// stamped late.
    fn must_wait(&mut self, direction: Direction, bytes: &[u8]) -> bool {
        if !self.parser(direction).is_between() {
            return false;
        }
        if direction == self.requests {
            // The number is used again before its last use was seen to end.
            return !self.answers.is_adrift()
                && fastcgi::stream_of(bytes, true).is_some_and(|stream| self.open.contains_key(&stream));
        }
        self.open.is_empty() && fastcgi::stream_of(bytes, false) != Some(0)
    }
}
