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

use std::collections::BTreeMap;

use tracer_abi::conn::{Direction, Role, SocketCookie};
use tracer_abi::sniff::Class;
use tracer_abi::time::KernelInstant;

use super::pairing::exchange_id;
use super::{Connection, Mode};
use crate::exchange::{
    BodyLen, ExchangeUpdate, Incomplete, Mark, Outcome, Protocol, RequestHead, ResponseHead, StreamEnd,
    Trailer,
};
use crate::protocol::http2::head::{Head, Kind};
use crate::protocol::http2::{self, Http2, Http2Limits, Part, Side};
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

/// An exchange that has not ended.
#[derive(Debug)]
struct Open {
    index: u64,
    request_ended: bool,
    request_messages: Option<u64>,
    response_first: Option<Mark>,
    responded: bool,
    /// A header block that is the response's, or an interim one's.
    unclear: Option<(Mark, bool)>,
    first_data: Option<KernelInstant>,
    grpc_status: Option<u32>,
    last: Option<Mark>,
    in_doubt: bool,
    /// The first reason counts.
    incomplete: Option<Incomplete>,
}

impl Open {
    fn new(index: u64, last: Option<Mark>) -> Self {
        Self {
            index,
            request_ended: false,
            request_messages: None,
            response_first: None,
            responded: false,
            unclear: None,
            first_data: None,
            grpc_status: None,
            last,
            in_doubt: false,
            incomplete: None,
        }
    }

    fn touch(&mut self, reason: Option<Incomplete>) {
        self.incomplete = self.incomplete.or(reason);
    }

    /// Something of the response was seen.
    fn goes_on(&mut self, last: Option<Mark>) {
        self.last = last.or(self.last);
        self.in_doubt = false;
    }
}

/// What became of a step.
enum Progress {
    Went,
    Stuck,
    /// It is not HTTP/2.
    Over,
}

/// An event of one direction.
#[derive(Clone, Copy)]
struct Moved {
    direction: Direction,
    /// The last byte that was read.
    last: Option<Mark>,
    now: KernelInstant,
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

    fn take_http2(&mut self, h2: &mut Multiplexed, part: Part, moved: Moved, out: &mut Vec<ExchangeUpdate>) {
        if let Part::Head { head, .. } = &part {
            let by_client = match head.kind() {
                Kind::Request => Some(true),
                Kind::Response | Kind::Interim => Some(false),
                Kind::Trailers | Kind::Unclear => None,
            };
            let asks = moved.direction == h2.requests;
            match by_client {
                Some(by_client) if by_client != asks && !h2.certain => h2.turn(),
                Some(by_client) if by_client != asks => {
                    self.stats.malformed += 1;
                    return;
                }
                Some(_) | None => {}
            }
            h2.certain |= by_client.is_some();
        }
        let asks = moved.direction == h2.requests;
        match part {
            Part::Head { stream, head, ended } if asks => {
                self.take_request_block(h2, stream, &head, ended, moved, out);
            }
            Part::Head { stream, head, ended } => {
                self.take_response_block(h2, stream, &head, ended, moved, out);
            }
            // Nobody asked for it, so there is no exchange that an answer could belong to.
            Part::Promise { .. } => self.stats.requests_passed_over += 1,
            Part::Body { stream } => {
                let cookie = self.cookie;
                if let Some(open) = h2.open.get_mut(&stream).filter(|_| !asks) {
                    open.goes_on(moved.last);
                    open.first_data = moved.last.map(|mark| mark.time);
                    respond_unclear(open, cookie, out);
                }
            }
            Part::End { stream, body_len } if asks => {
                let messages = h2.asks.messages();
                self.end_request_body(h2, stream, body_len, messages, moved.last, out);
            }
            Part::End { stream, body_len } => self.end_response(h2, stream, body_len, moved, out),
            Part::Reset { stream, error } => {
                let Some(mut open) = h2.open.remove(&stream) else { return };
                open.last = moved.last.or(open.last);
                respond_unclear(&mut open, self.cookie, out);
                self.end_open(h2, stream, &open, Outcome::Reset(error), moved.time(), None, out);
            }
            Part::GoAway { last_stream: Some(last), .. } if !asks => {
                h2.last_stream = Some(h2.last_stream.map_or(last, |before| before.min(last)));
                self.drop_beyond(h2, moved, out);
            }
            Part::GoAway { .. } => {}
            Part::Settings(settings) if asks => h2.answers.peer_settings(&settings),
            Part::Settings(settings) => h2.asks.peer_settings(&settings),
        }
    }

    /// What the server has not worked on, and will not.
    fn drop_beyond(&mut self, h2: &mut Multiplexed, moved: Moved, out: &mut Vec<ExchangeUpdate>) {
        let Some(last) = h2.last_stream else { return };
        let beyond = h2.open.range(last.saturating_add(1)..);
        let dropped: Vec<u32> =
            beyond.filter(|(_, open)| open.response_first.is_none()).map(|(stream, _)| *stream).collect();
        for stream in dropped {
            let Some(open) = h2.open.remove(&stream) else { continue };
            self.end_open(h2, stream, &open, Outcome::Dropped, moved.time(), None, out);
        }
    }

    fn take_request_block(
        &mut self,
        h2: &mut Multiplexed,
        stream: u32,
        head: &Head,
        ended: Option<BodyLen>,
        moved: Moved,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let messages = h2.asks.messages();
        if h2.open.contains_key(&stream) {
            // Trailers.
            if let Some(body_len) = ended {
                self.end_request_body(h2, stream, body_len, messages, moved.last, out);
            }
            return;
        }
        // Numbers grow (section 5.1.1). What is not known to be a request may be the trailers of one that was not seen.
        let is_new = match (head.kind(), h2.newest) {
            (Kind::Request, Some(newest)) => stream > newest,
            (Kind::Request, None) => true,
            (Kind::Unclear, Some(newest)) => stream > newest && newest > 0,
            (Kind::Unclear, None) | (Kind::Trailers | Kind::Response | Kind::Interim, _) => false,
        };
        let at = usize::from(moved.direction.code());
        let (true, Some(first)) = (is_new, h2.first[at]) else {
            self.stats.requests_passed_over += u64::from(head.kind() != Kind::Trailers);
            return;
        };
        h2.newest = Some(stream);
        while h2.open.len() >= self.limits.open_exchanges
            && let Some((oldest, mut open)) = h2.open.pop_first()
        {
            open.touch(Some(Incomplete::LimitReached));
            self.end_open(h2, oldest, &open, Outcome::Lost, moved.time(), None, out);
        }
        let index = h2.next_index;
        h2.next_index += 1;
        self.streamed = true;
        let mut open = Open::new(index, moved.last);
        open.touch(h2.why(at, head));
        h2.open.insert(stream, open);
        let role = match moved.direction {
            Direction::Ingress => Role::Server,
            Direction::Egress => Role::Client,
        };
        out.push(ExchangeUpdate::RequestBegan {
            id: exchange_id(self.cookie, index),
            role,
            request: Box::new(request_head(head)),
            first,
            head_last: moved.last.unwrap_or(first),
        });
        if let Some(body_len) = ended {
            self.end_request_body(h2, stream, body_len, messages, moved.last, out);
        }
        self.drop_beyond(h2, moved, out);
    }

    fn end_request_body(
        &mut self,
        h2: &mut Multiplexed,
        stream: u32,
        body_len: BodyLen,
        messages: Option<u64>,
        last: Option<Mark>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Some(open) = h2.open.get_mut(&stream).filter(|open| !open.request_ended) else { return };
        open.request_ended = true;
        open.request_messages = messages;
        if open.response_first.is_none() {
            open.last = last.or(open.last);
        }
        if let Some(last) = last {
            out.push(ExchangeUpdate::RequestEnded {
                id: exchange_id(self.cookie, open.index),
                last,
                body_len,
            });
        }
    }

    fn take_response_block(
        &mut self,
        h2: &mut Multiplexed,
        stream: u32,
        head: &Head,
        ended: Option<BodyLen>,
        moved: Moved,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let at = usize::from(moved.direction.code());
        let (first, why, cookie) = (h2.first[at], h2.why(at, head), self.cookie);
        let Some(open) = h2.open.get_mut(&stream) else {
            // One that has ended may still be answered: it was given up.
            self.stats.responses_passed_over +=
                u64::from(head.kind() == Kind::Response && h2.newest.is_none());
            return;
        };
        open.goes_on(moved.last);
        open.touch(why);
        if open.response_first.is_none() && head.kind() != Kind::Interim {
            open.response_first = first;
        }
        open.grpc_status = open.grpc_status.or(head.grpc_status);
        match head.kind() {
            Kind::Interim => return,
            Kind::Response if !open.responded => {
                open.responded = true;
                open.response_first = first;
                open.unclear = None;
                if let Some(first) = first {
                    let response = response_head(head);
                    out.push(ExchangeUpdate::ResponseBegan {
                        id: exchange_id(cookie, open.index),
                        response,
                        first,
                    });
                }
            }
            Kind::Unclear if !open.responded && ended.is_none() && open.unclear.is_none() => {
                open.unclear = first.map(|first| (first, head.is_grpc()));
            }
            Kind::Unclear if !open.responded => {
                open.unclear = open.unclear.or(first.map(|first| (first, head.is_grpc())));
                respond_unclear(open, cookie, out);
            }
            Kind::Response | Kind::Unclear | Kind::Trailers | Kind::Request => {
                respond_unclear(open, cookie, out);
            }
        }
        if let Some(body_len) = ended {
            self.end_response(h2, stream, body_len, moved, out);
        }
    }

    fn end_response(
        &mut self,
        h2: &mut Multiplexed,
        stream: u32,
        body_len: BodyLen,
        moved: Moved,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Some(mut open) = h2.open.remove(&stream) else { return };
        open.goes_on(moved.last);
        respond_unclear(&mut open, self.cookie, out);
        let body_len = open.responded.then_some(body_len);
        if !open.responded {
            // What it answered is not known.
            open.touch(Some(h2.unknown[usize::from(moved.direction.code())]));
        }
        self.end_open(h2, stream, &open, Outcome::Complete, moved.time(), body_len, out);
    }

    #[expect(clippy::too_many_arguments, reason = "what an end consists of")]
    fn end_open(
        &mut self,
        h2: &mut Multiplexed,
        stream: u32,
        open: &Open,
        outcome: Outcome,
        time: KernelInstant,
        response_body_len: Option<BodyLen>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let response_messages = h2.answers.messages().filter(|_| outcome == Outcome::Complete);
        h2.asks.forget(stream);
        h2.answers.forget(stream);
        self.stats.exchanges_lost += u64::from(outcome == Outcome::Lost);
        out.push(ExchangeUpdate::Ended {
            id: exchange_id(self.cookie, open.index),
            last: open.last,
            time,
            outcome,
            response_body_len,
            trailer: Some(Trailer::Stream(StreamEnd {
                grpc_status: open.grpc_status,
                first_data: open.first_data,
                request_messages: open.request_messages,
                response_messages,
            })),
            incomplete: open.incomplete,
        });
    }

    /// Ends every open exchange as lost.
    fn end_all(
        &mut self,
        h2: &mut Multiplexed,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        self.end_lost(h2, |_| true, reason, now, out);
    }

    fn end_lost(
        &mut self,
        h2: &mut Multiplexed,
        which: impl Fn(&Open) -> bool,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let lost: Vec<u32> =
            h2.open.iter().filter(|(_, open)| which(open)).map(|(stream, _)| *stream).collect();
        for stream in lost {
            let Some(mut open) = h2.open.remove(&stream) else { continue };
            open.touch(Some(reason));
            // As of exchanges in order: whose response was seen in part ended no earlier than that.
            let time = open.last.filter(|_| open.response_first.is_some()).map_or(now, |mark| mark.time);
            self.end_open(h2, stream, &open, Outcome::Lost, time, None, out);
        }
    }

    /// Time has passed: what is still in doubt is lost.
    pub(super) fn end_doubtful(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let Mode::Http2(h2) = &self.mode else { return };
        if h2.doubt_since.is_none_or(|since| since.plus(self.limits.quiet) > now) {
            return;
        }
        let Mode::Http2(mut h2) = std::mem::replace(&mut self.mode, Mode::Opaque) else { return };
        h2.doubt_since = None;
        self.end_lost(&mut h2, |open| open.in_doubt, Incomplete::EventsLost, now, out);
        self.mode = Mode::Http2(h2);
    }

    /// No response comes any more. `lost`: for this reason it is not known whether any came.
    pub(super) fn close_http2(
        &mut self,
        time: KernelInstant,
        lost: Option<Incomplete>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        if !matches!(self.mode, Mode::Http2(_)) {
            return;
        }
        let Mode::Http2(mut h2) = std::mem::replace(&mut self.mode, Mode::Opaque) else { return };
        while let Some((stream, mut open)) = h2.open.pop_first() {
            respond_unclear(&mut open, self.cookie, out);
            let outcome = match (lost, open.response_first) {
                (Some(Incomplete::StillOpen), _) => {
                    open.touch(lost);
                    Outcome::StillOpen
                }
                (Some(_), _) => {
                    open.touch(lost);
                    Outcome::Lost
                }
                (None, _) if open.in_doubt => Outcome::Lost,
                (None, Some(_)) => Outcome::ResponseCut,
                (None, None) => Outcome::NoResponse,
            };
            self.end_open(&mut h2, stream, &open, outcome, time, None, out);
        }
        self.mode = Mode::Http2(h2);
    }
}

impl Moved {
    fn time(self) -> KernelInstant {
        self.last.map_or(self.now, |mark| mark.time)
    }
}

impl Multiplexed {
    /// Why a head is not all that was sent.
    fn why(&self, at: usize, head: &Head) -> Option<Incomplete> {
        if head.end.torn {
            return self.torn[at].or(Some(Incomplete::EventsLost));
        }
        if head.end.broken.is_some() {
            return Some(Incomplete::Malformed);
        }
        if head.end.cut {
            return Some(Incomplete::LimitReached);
        }
        (head.unknown > 0).then_some(self.unknown[at])
    }
}

/// The header block that was unclear was the response's: no other came before what follows it.
fn respond_unclear(open: &mut Open, cookie: SocketCookie, out: &mut Vec<ExchangeUpdate>) {
    let Some((first, grpc)) = open.unclear.take().filter(|_| !open.responded) else { return };
    open.responded = true;
    open.response_first = Some(first);
    let response = ResponseHead { version: VERSION, grpc, ..ResponseHead::default() };
    out.push(ExchangeUpdate::ResponseBegan { id: exchange_id(cookie, open.index), response, first });
}

const VERSION: &str = "2";

fn request_head(head: &Head) -> RequestHead {
    RequestHead {
        protocol: Protocol::Http2,
        version: VERSION,
        secure: head.scheme.as_deref() == Some("https"),
        method: head.method.clone().filter(|method| !method.is_empty()),
        target: head.path.clone().or_else(|| connect_target(head)).filter(|target| !target.is_empty()),
        host: head.authority.clone().or_else(|| head.host.clone()),
        user_agent: head.user_agent.clone(),
        content_length: head.content_length,
        grpc: head.is_grpc().then(|| head.grpc_call()),
        context: head.context.clone(),
    }
}

/// RFC 9113 section 8.5: CONNECT has no path.
fn connect_target(head: &Head) -> Option<smol_str::SmolStr> {
    head.authority.clone().filter(|_| head.method.as_deref() == Some("CONNECT"))
}

fn response_head(head: &Head) -> ResponseHead {
    ResponseHead {
        version: VERSION,
        status: head.status,
        content_length: head.content_length,
        grpc: head.is_grpc(),
    }
}
