//! HTTP/2 (RFC 9113): exchanges are told apart by stream, and any number of them are open at a time.
//!
//! A response names its stream, so nothing is counted, and numbers of streams are not used twice. A loss costs what it
//! takes away: in a body nothing; in a header block the fields behind it; only where a frame's header is missing the place
//! is lost, until the parser has found it again. Exchanges whose end may have been in between are *in doubt*: the next
//! frame of theirs shows that they go on, and without one they are lost after a while.
//!
//! On a connection that is joined in its middle, streams that were open before are passed over: when they began is not
//! known. Which side asks is told by the first header block that only one side can send.
//!
//! | what ends an exchange | outcome |
//! |---|---|
//! | `END_STREAM` of the response, whatever becomes of the request | complete |
//! | `RST_STREAM` of either side before that | reset, with its code |
//! | `GOAWAY` of the server that names an earlier stream, before an answer | dropped |
//! | the end of the connection | no response, or cut |

mod exchanges;
mod heads;

use std::collections::BTreeMap;

use tracer_abi::conn::Direction;
use tracer_abi::sniff::Class;
use tracer_abi::time::KernelInstant;

use self::exchanges::{Moved, Open};
use super::{Connection, Mode};
use crate::exchange::{ExchangeUpdate, Incomplete, Mark};
use crate::protocol::http2::{self, Http2, Http2Limits, Side};
use crate::protocol::{Parsed, Parser as _};
use crate::stream::{HoleKind, Run};

#[derive(Debug)]
pub(super) struct Multiplexed {
    /// The direction in which requests go.
    requests: Direction,
    /// That this is so was shown.
    certain: bool,
    asks: Http2,
    answers: Http2,
    open: BTreeMap<u32, Open>,
    next_index: u64,
    /// The last stream on which a request was seen; `None` where earlier ones may have been missed.
    newest: Option<u32>,
    /// The server works on no stream beyond this one.
    last_stream: Option<u32>,
    /// First byte of the frame, or header block, in progress, by direction.
    first: [Option<Mark>; 2],
    /// Some of the header block in progress is missing, by direction.
    torn: [Option<Incomplete>; 2],
    /// Why fields may refer to what was not seen, by direction.
    unknown: [Incomplete; 2],
    /// When exchanges came to be in doubt.
    doubt_since: Option<KernelInstant>,
}

/// What became of a step.
enum Progress {
    Went,
    Stuck,
    /// It is not HTTP/2.
    Over,
}

impl Multiplexed {
    fn new(requests: Direction, asks: Http2, answers: Http2) -> Self {
        Self {
            requests,
            certain: true,
            asks,
            answers,
            open: BTreeMap::new(),
            next_index: 0,
            newest: Some(0),
            last_stream: None,
            first: [None; 2],
            torn: [None; 2],
            unknown: [Incomplete::EventsLost; 2],
            doubt_since: None,
        }
    }

    fn parser(&mut self, direction: Direction) -> &mut Http2 {
        if direction == self.requests { &mut self.asks } else { &mut self.answers }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.asks.held_bytes() + self.answers.held_bytes()
    }

    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn awaits_answer(&self) -> bool {
        self.open.values().any(|open| open.response_first.is_none())
    }

    pub(super) const fn doubt_since(&self) -> Option<KernelInstant> {
        self.doubt_since
    }

    /// The bytes answer a request that has not been seen yet: a thread that was kept from running is stamped late.
    fn must_wait(&self, prefix: &[u8]) -> bool {
        let (Some(newest), Some(stream)) = (self.newest, http2::opens_answer(prefix)) else { return false };
        stream > newest && self.last_stream.is_none() && !self.asks.is_adrift()
    }

    /// It is the other direction in which requests go.
    fn turn(&mut self) {
        self.requests = self.requests.flipped();
        std::mem::swap(&mut self.asks, &mut self.answers);
        self.asks.turn(Side::Client);
        self.answers.turn(Side::Server);
    }
}

impl Connection {
    fn http2_limits(&self) -> Http2Limits {
        Http2Limits { list_bytes: self.limits.head_bytes as u64, ..Http2Limits::default() }
    }

    /// Whether the first bytes of a direction are HTTP/2's; then it is followed. `None`: too few to tell.
    pub(super) fn detect_http2(&mut self, direction: Direction, bytes: &[u8]) -> Option<bool> {
        let requests = match http2::opening(bytes) {
            Some(Side::Client) => direction,
            // Mid-stream, it says nothing about what came before.
            Some(Side::Server) if self.preexisting == Some(false) => direction.flipped(),
            Some(Side::Server) => return Some(false),
            None if http2::may_open(bytes) => return None,
            None => return Some(false),
        };
        let limits = self.http2_limits();
        let asks = Http2::new(Side::Client, &limits);
        let answers = if self.preexisting == Some(false) {
            Http2::new(Side::Server, &limits)
        } else {
            Http2::joined(Side::Server, &limits)
        };
        self.follow_http2(Multiplexed::new(requests, asks, answers));
        Some(true)
    }

    /// The kernel half has seen frames, and not from the start.
    pub(super) fn join_http2(&mut self) {
        let limits = self.http2_limits();
        let reason = match self.preexisting {
            Some(false) => Incomplete::EventsLost,
            Some(true) | None => Incomplete::StartedBeforeTracer,
        };
        let [asks, answers] = [Side::Client, Side::Server].map(|side| Http2::joined(side, &limits));
        let joined = Multiplexed {
            certain: self.requests.is_some(),
            newest: None,
            unknown: [reason; 2],
            ..Multiplexed::new(self.requests.unwrap_or(Direction::Egress), asks, answers)
        };
        self.follow_http2(joined);
    }

    /// The oldest open exchange, and no other, is stream 1's from now on (RFC 7540 section 3.2).
    pub(super) fn upgrade_to_http2(&mut self, last: Option<Mark>) {
        let (Some(requests), Some((index, open))) = (self.requests, self.ledger.front_entry_mut()) else {
            return;
        };
        let first =
            Open { request_ended: open.request_ended, incomplete: open.incomplete, ..Open::new(index, last) };
        let limits = self.http2_limits();
        let asks = Http2::new(Side::Client, &limits);
        let mut upgraded = Multiplexed::new(requests, asks, Http2::new(Side::Server, &limits));
        upgraded.open.insert(1, first);
        upgraded.next_index = index + 1;
        upgraded.newest = Some(1);
        self.ledger.pop();
        self.follow_http2(upgraded);
    }

    fn follow_http2(&mut self, multiplexed: Multiplexed) {
        self.requests = Some(multiplexed.requests);
        self.class = Class::Http2;
        self.mode = Mode::Http2(Box::new(multiplexed));
    }

    /// Reads one direction as far as it goes; whether it got anywhere.
    pub(super) fn run_http2(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        // What is not read again is put back below.
        let Mode::Http2(mut h2) = std::mem::replace(&mut self.mode, Mode::Opaque) else { return false };
        let mut progressed = false;
        loop {
            match self.step_http2(&mut h2, direction, now, out) {
                Progress::Went => progressed = true,
                Progress::Stuck => break,
                Progress::Over => {
                    self.end_all(&mut h2, Incomplete::Malformed, now, out);
                    self.stats.given_up += 1;
                    self.turn_opaque();
                    return true;
                }
            }
        }
        let counts = h2.asks.take_counts();
        self.stats.resyncs += counts.resyncs;
        self.stats.malformed += counts.blocks_broken;
        let counts = h2.answers.take_counts();
        self.stats.resyncs += counts.resyncs;
        self.stats.malformed += counts.blocks_broken;
        self.requests = Some(h2.requests);
        self.mode = Mode::Http2(h2);
        progressed
    }

    fn step_http2(
        &mut self,
        h2: &mut Multiplexed,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Progress {
        let (tcp, asks, at) = (self.tcp, direction == h2.requests, usize::from(direction.code()));
        let limits = self.limits.stream;
        let half = self.half_mut(direction);
        let position = half.stream.position();
        if half.stream.starts_frame() {
            h2.parser(direction).place();
        }
        let between = h2.parser(direction).is_between() && !h2.parser(direction).is_in_block();
        if between && !asks && !half.hurried && !half.stream.is_overfull(&limits) {
            let mut prefix = [0; http2::HEADER_BYTES];
            let len = half.stream.copy_prefix(&mut prefix);
            let more_comes = half.stream.end() - position == len as u64 && len < prefix.len();
            if h2.newest.is_some() && more_comes || h2.must_wait(&prefix[..len]) {
                return Progress::Stuck;
            }
        }
        match half.stream.peek() {
            Run::Wait => Progress::Stuck,
            Run::Bytes { bytes, edge } => {
                if between {
                    h2.first[at] = half.stream.mark(position, tcp);
                    h2.torn[at] = None;
                }
                let step = h2.parser(direction).bytes(bytes, edge);
                let last =
                    step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
                half.stream.consume_bytes(step.consumed);
                match step.parsed {
                    Parsed::NeedMore => {}
                    Parsed::Part(part) => self.take_http2(h2, part, Moved { direction, last, now }, out),
                    Parsed::Torn | Parsed::Invalid(_) => {
                        self.stats.malformed += 1;
                        if !h2.parser(direction).is_adrift() {
                            // No preface.
                            return Progress::Over;
                        }
                        self.lose_place(h2, direction, Incomplete::Malformed, now);
                    }
                }
                Progress::Went
            }
            Run::Hole { len, kind, edge } => {
                let current = h2.parser(direction).current();
                let step = h2.parser(direction).hole(len, edge);
                let last =
                    step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
                half.stream.consume(step.consumed);
                if kind != HoleKind::Elided || h2.parser(direction).is_in_block() {
                    h2.torn[at] = h2.torn[at].or(Some(kind.incomplete().unwrap_or(Incomplete::LimitReached)));
                }
                if let Some(open) = current.and_then(|stream| h2.open.get_mut(&stream)) {
                    open.touch(kind.incomplete());
                }
                match step.parsed {
                    Parsed::NeedMore => {}
                    Parsed::Part(part) => self.take_http2(h2, part, Moved { direction, last, now }, out),
                    Parsed::Torn | Parsed::Invalid(_) => {
                        if h2.parser(direction).is_in_preface() {
                            let limits = self.http2_limits();
                            h2.asks = Http2::joined(Side::Client, &limits);
                        } else {
                            h2.parser(direction).drift();
                        }
                        let reason = kind.incomplete().unwrap_or(Incomplete::LimitReached);
                        self.lose_place(h2, direction, reason, now);
                    }
                }
                Progress::Went
            }
        }
    }

    /// Frames are missing, among which there may be the end of any exchange.
    fn lose_place(
        &mut self,
        h2: &mut Multiplexed,
        direction: Direction,
        reason: Incomplete,
        now: KernelInstant,
    ) {
        self.stats.places_lost += 1;
        h2.unknown[usize::from(direction.code())] = reason;
        if direction == h2.requests {
            h2.newest = None;
        }
        for open in h2.open.values_mut() {
            open.touch(Some(reason));
            open.in_doubt = true;
        }
        if h2.has_open() {
            h2.doubt_since = Some(now);
        }
    }
}
