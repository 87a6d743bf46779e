//! What frames say about exchanges, and how each ends.

use std::mem;

use tracer_abi::conn::{Direction, Role, SocketCookie};
use tracer_abi::time::KernelInstant;

use super::Multiplexed;
use super::heads::{request_head, response_head, unknown_response};
use crate::connection::pairing::exchange_id;
use crate::connection::{Connection, Mode};
use crate::exchange::{BodyLen, ExchangeUpdate, Incomplete, Mark, Outcome, StreamEnd, Trailer};
use crate::protocol::grpc::BodyEnd;
use crate::protocol::http2::Part;
use crate::protocol::http2::head::{Head, Kind};

/// An exchange that has not ended.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) index: u64,
    pub(super) request_ended: bool,
    pub(super) request_messages: Option<u64>,
    pub(super) response_first: Option<Mark>,
    pub(super) responded: bool,
    /// A header block that is the response's, or an interim one's.
    pub(super) unclear: Option<(Mark, bool)>,
    pub(super) first_data: Option<KernelInstant>,
    pub(super) grpc_status: Option<u32>,
    pub(super) last: Option<Mark>,
    pub(super) in_doubt: bool,
    /// The first reason counts.
    pub(super) incomplete: Option<Incomplete>,
}

impl Open {
    pub(super) fn new(index: u64, last: Option<Mark>) -> Self {
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

    pub(super) fn touch(&mut self, reason: Option<Incomplete>) {
        self.incomplete = self.incomplete.or(reason);
    }

    /// Something of the response was seen.
    fn goes_on(&mut self, last: Option<Mark>) {
        self.last = last.or(self.last);
        self.in_doubt = false;
    }
}

/// An event of one direction.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    pub(super) direction: Direction,
    /// The last byte that was read.
    pub(super) last: Option<Mark>,
    pub(super) now: KernelInstant,
}

impl Connection {
    pub(super) fn take_http2(
        &mut self,
        h2: &mut Multiplexed,
        part: Part,
        moved: Moved,
        out: &mut Vec<ExchangeUpdate>,
    ) {
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
                let messages = h2.asks.grpc_end().messages;
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
        let messages = h2.asks.grpc_end().messages;
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
            stream: Some(stream),
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
                open.unclear = first.map(|first| (first, head.grpc().is_some()));
            }
            Kind::Unclear if !open.responded => {
                open.unclear = open.unclear.or(first.map(|first| (first, head.grpc().is_some())));
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
        let body = if outcome == Outcome::Complete { h2.answers.grpc_end() } else { BodyEnd::default() };
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
                grpc_status: open.grpc_status.or(body.status),
                first_data: open.first_data,
                request_messages: open.request_messages,
                response_messages: body.messages,
            })),
            incomplete: open.incomplete,
        });
    }

    /// Ends every open exchange as lost.
    pub(super) fn end_all(
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
    pub(in crate::connection) fn end_doubtful(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let Mode::Http2(h2) = &self.mode else { return };
        if h2.doubt_since.is_none_or(|since| since.plus(self.limits.quiet) > now) {
            return;
        }
        let Mode::Http2(mut h2) = mem::replace(&mut self.mode, Mode::Opaque) else { return };
        h2.doubt_since = None;
        self.end_lost(&mut h2, |open| open.in_doubt, Incomplete::EventsLost, now, out);
        self.mode = Mode::Http2(h2);
    }

    /// No response comes any more. `lost`: for this reason it is not known whether any came.
    pub(in crate::connection) fn close_http2(
        &mut self,
        time: KernelInstant,
        lost: Option<Incomplete>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        if !matches!(self.mode, Mode::Http2(_)) {
            return;
        }
        let Mode::Http2(mut h2) = mem::replace(&mut self.mode, Mode::Opaque) else { return };
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
    let response = unknown_response(grpc);
    out.push(ExchangeUpdate::ResponseBegan { id: exchange_id(cookie, open.index), response, first });
}
