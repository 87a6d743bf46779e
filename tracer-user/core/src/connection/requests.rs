//! The request direction: its messages begin exchanges.

use tracer_abi::conn::{Direction, Role};
use tracer_abi::time::KernelInstant;

use super::half::{Current, Half};
use super::pairing::{Open, exchange_id};
use super::{Connection, Mode};
use crate::exchange::{BodyLen, ExchangeUpdate, Incomplete, Outcome, StreamEnd};
use crate::protocol::detect::{Start, StartLine};
use crate::protocol::http1::{Answering, Part, Request};
use crate::protocol::{Invalid, Parsed, Parser as _};
use crate::stream::{Edge, HoleKind, Run};

/// Whether the reading of a direction goes on.
enum Next {
    Go,
    /// Not before there are more bytes.
    Wait,
    /// The mode has changed.
    Stop,
}

impl Connection {
    /// Reads requests as far as there are any; whether it got anywhere.
    pub(super) fn follow_requests(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let mut progressed = false;
        loop {
            if self.half(direction).stream.is_empty() {
                return progressed;
            }
            if self.awaits_switch() {
                if !progressed && self.half(direction).stream.is_waiting() {
                    return false;
                }
                // What follows is HTTP or not, as the response will tell.
                if self.half(direction).stream.is_overfull(&self.limits.stream) {
                    self.lose_requests(Incomplete::LimitReached, false, now, out);
                    return true;
                }
                return progressed;
            }
            let next = match self.half(direction).stream.peek() {
                Run::Wait => return progressed,
                Run::Bytes { bytes, edge } => {
                    let is_blank = matches!(bytes.first(), Some(b'\r' | b'\n'));
                    self.read_request_bytes(direction, is_blank, edge, now, out)
                }
                Run::Hole { len, kind, .. } => self.pass_request_hole(direction, len, kind, now, out),
            };
            match next {
                Next::Go => progressed = true,
                Next::Wait => return progressed,
                Next::Stop => return true,
            }
        }
    }

    /// The last request may make the connection another protocol's.
    fn awaits_switch(&self) -> bool {
        self.ledger.back().is_some_and(|open| open.upgrade && open.request_ended && !open.answered)
    }

    fn read_request_bytes(
        &mut self,
        direction: Direction,
        is_blank: bool,
        edge: Edge,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        if edge.starts_op {
            self.read_past_false_start(direction.flipped(), now, out);
        }
        let starts = self.half(direction).parser.is_at_start() && !is_blank;
        if starts {
            let line = StartLine::Request;
            if let Next::Stop = self.request_starts(direction, line, now, out) {
                return Next::Stop;
            }
        } else if edge.starts_op {
            if self.may_be_unframed_end(direction) {
                match self.half(direction).start() {
                    Start::Line(StartLine::Request) => {
                        return self.end_unframed_request(direction, now, out);
                    }
                    Start::Partial => return Next::Wait,
                    Start::Line(StartLine::Status { .. }) | Start::Other => {}
                }
            } else if self.half(direction).parser.is_adrift()
                && self.half(direction).start() == Start::Line(StartLine::Request)
            {
                // It is passed over as a part of the body that was left out, but may as well be the next request.
                self.trust.passed_over_request_line();
            }
            self.seek_at(direction, None, now, out);
        }
        let tcp = self.tcp;
        let half = self.half_mut(direction);
        let position = half.stream.position();
        if starts {
            half.first = half.stream.mark(position, tcp);
        }
        let Run::Bytes { bytes, edge } = half.stream.peek() else { return Next::Stop };
        let step = half.parser.bytes(bytes, edge);
        let is_blank = matches!(step.parsed, Parsed::NeedMore) && half.parser.is_at_start();
        if step.consumed > 0 && !is_blank {
            half.last = half.stream.mark(position.saturating_add(step.consumed - 1), tcp);
        }
        half.stream.consume_bytes(step.consumed);
        self.take_request_part(direction, step.parsed, now, out)
    }

    /// A request's first byte was reached. `Stop`: it cannot be taken up.
    fn request_starts(
        &mut self,
        direction: Direction,
        line: StartLine,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        if matches!(self.mode, Mode::Seeking(_)) {
            self.seek_at(direction, Some(line), now, out);
            return Next::Go;
        }
        // A client that does not pipeline asks again when it has the whole answer.
        if self.is_response_over() {
            self.end_drifting_response(Outcome::Complete, out);
        }
        if self.ledger.len() >= self.limits.open_exchanges {
            self.lose_requests(Incomplete::LimitReached, false, now, out);
            return Next::Stop;
        }
        let unpaired = self.response_half().is_some_and(|half| half.stream.end() > half.stream.position());
        if unpaired && self.ledger.is_empty() {
            if self.trust.is_certain() {
                if self.is_stamped_behind_response(direction) {
                    self.trust.saw_inversion();
                }
            } else {
                // Its own response, seen early, or the rest of another's: not to be told apart.
                self.stats.responses_passed_over += 1;
                self.half_mut(direction.flipped()).stream.discard();
                self.contradict(now, out);
            }
        }
        Next::Go
    }

    /// The request at the reading position is stamped later than the response that waits. Not so a connection's first
    /// one if its first bytes alone did not tell what it is, and it was recognised by the response. Of later ones it is
    /// not asked: one that is read late may be one of several that were sent at once.
    fn is_stamped_behind_response(&self, direction: Direction) -> bool {
        if self.ledger.ever_began() {
            return true;
        }
        let response = self.response_half().and_then(Half::next_time);
        self.half(direction).next_time().zip(response).is_none_or(|(request, response)| request > response)
    }

    fn take_request_part(
        &mut self,
        direction: Direction,
        parsed: Parsed<Part>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        match parsed {
            Parsed::NeedMore => {}
            Parsed::Part(Part::Request(request)) => self.begin_exchange(direction, request, None, out),
            Parsed::Part(Part::End(body_len)) => self.end_request(direction, body_len, out),
            // A request parser has no such part.
            Parsed::Part(Part::Response(_)) => {}
            Parsed::Torn => return self.tear_request(direction, Incomplete::EventsLost, now, out),
            Parsed::Invalid(Invalid::HeadTooLong) => {
                return self.tear_request(direction, Incomplete::LimitReached, now, out);
            }
            Parsed::Invalid(Invalid::StartLine) => {
                self.stats.malformed += 1;
                if !self.ledger.ever_began() {
                    self.classify(&[]);
                    self.turn_opaque();
                } else {
                    self.lose_requests(Incomplete::Malformed, true, now, out);
                }
                return Next::Stop;
            }
            Parsed::Invalid(Invalid::Body) => {
                self.stats.malformed += 1;
                self.touch_request(direction, Some(Incomplete::Malformed));
            }
        }
        Next::Go
    }

    /// `incomplete`: its head is, for this reason.
    fn begin_exchange(
        &mut self,
        direction: Direction,
        request: Request,
        incomplete: Option<Incomplete>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let half = self.half(direction);
        let (Some(first), Some(head_last)) = (half.first, half.last) else { return };
        if request.malformed {
            self.stats.malformed += 1;
        }
        let malformed = request.malformed.then_some(Incomplete::Malformed);
        let index = self.ledger.begin(Open {
            answering: request.answering,
            upgrade: request.upgrade || request.answering == Answering::Connect,
            h2c: request.h2c,
            expects_continue: request.expects_continue,
            continued: false,
            request_ended: request.ended,
            shared: false,
            last: Some(head_last),
            answered: false,
            grpc: request.head.grpc.map(|_| StreamEnd::default()),
            incomplete: incomplete.or(malformed),
        });
        let id = exchange_id(self.cookie, index);
        let role = match direction {
            Direction::Ingress => Role::Server,
            Direction::Egress => Role::Client,
        };
        out.push(ExchangeUpdate::RequestBegan {
            id,
            role,
            request: request.head,
            first,
            head_last,
            stream: None,
        });
        if request.ended {
            out.push(ExchangeUpdate::RequestEnded { id, last: head_last, body_len: BodyLen::Exact(0) });
        } else {
            self.half_mut(direction).current = Some(Current { index, may_withhold: false });
        }
    }

    /// The connection has ended with a response to a request whose head had not: a server that waits no longer (RFC 9110
    /// section 15.5.9) or refuses to read on (RFC 6585 section 5). What came of the request begins the exchange.
    pub(super) fn begin_refused_request(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let Some(requests) = self.requests.filter(|_| matches!(self.mode, Mode::Following)) else { return };
        let request = self.half(requests);
        let is_cut = request.parser.is_in_head() && request.stream.is_empty() && request.tail_lost() == 0;
        let is_refused = self.response_half().is_some_and(|half| !half.stream.is_empty());
        if !is_cut || !is_refused || !self.ledger.is_empty() {
            return;
        }
        if let Some(Part::Request(request)) = self.half_mut(requests).parser.take_partial_head() {
            self.begin_exchange(requests, request, None, out);
            self.run(requests.flipped(), now, out);
        }
    }

    fn end_request(&mut self, direction: Direction, body_len: BodyLen, out: &mut Vec<ExchangeUpdate>) {
        let half = self.half_mut(direction);
        let (last, body) = (half.last, half.parser.grpc_end());
        let Some(Current { index, .. }) = half.current.take() else { return };
        let Some(open) = self.ledger.entry_mut(index) else { return };
        open.request_ended = true;
        if let Some(grpc) = &mut open.grpc {
            grpc.request_messages = body.messages;
        }
        let Some(last) = last else { return };
        if !open.answered {
            open.last = Some(last);
        }
        out.push(ExchangeUpdate::RequestEnded { id: exchange_id(self.cookie, index), last, body_len });
    }

    /// Whether the request in progress may be over, which only the next one would tell: its exchange has ended, and
    /// it was left out of sight how it ends, or it need not go on.
    fn may_be_unframed_end(&mut self, direction: Direction) -> bool {
        let half = self.half(direction);
        let Some(current) = half.current else { return false };
        let may_end = half.parser.is_adrift() || half.parser.is_before_body() && current.may_withhold;
        let candidate = half.parser.candidate();
        may_end && (self.ledger.entry_mut(current.index).is_none() || candidate && self.is_response_over())
    }

    /// The only open exchange's response seems to have ended, and this client waits for that before it asks again.
    fn is_response_over(&self) -> bool {
        self.ledger.len() == 1 && !self.trust.pipelines() && self.drift_end().is_some()
    }

    fn end_unframed_request(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        if self.is_response_over() {
            self.end_drifting_response(Outcome::Complete, out);
        }
        if self.half(direction).parser.is_adrift() {
            // What was left out may have held other requests.
            if self.trust.may_pipeline() {
                self.lose_requests(Incomplete::LimitReached, false, now, out);
                return Next::Stop;
            }
            self.trust.assume();
        }
        let half = self.half_mut(direction);
        half.parser.reset();
        half.current = None;
        Next::Go
    }

    fn pass_request_hole(
        &mut self,
        direction: Direction,
        len: u64,
        kind: HoleKind,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        let half = self.half(direction);
        let Run::Hole { edge, .. } = half.stream.peek() else { return Next::Stop };
        let at_start = half.parser.is_at_start();
        if edge.starts_op {
            self.seek_at(direction, None, now, out);
        }
        let tcp = self.tcp;
        let half = self.half_mut(direction);
        let position = half.stream.position();
        let step = half.parser.hole(len, edge);
        let last = step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
        half.last = last.or(half.last);
        half.stream.consume(step.consumed);
        if step.consumed > 0 && !at_start {
            self.touch_request(direction, kind.incomplete());
        }
        match (step.parsed, kind) {
            (Parsed::Torn, HoleKind::Elided) if !at_start => {
                if self.half(direction).current.is_some() {
                    self.half_mut(direction).parser.drift();
                    return Next::Go;
                }
                self.tear_request(direction, Incomplete::LimitReached, now, out)
            }
            (Parsed::Torn, _) => {
                let reason = kind.incomplete().unwrap_or(Incomplete::LimitReached);
                self.lose_requests(reason, false, now, out);
                Next::Stop
            }
            // Its last byte was lost: that all of it was seen cannot be said.
            (Parsed::Part(Part::End(_)), _) if last.is_none() => {
                self.half_mut(direction).current = None;
                Next::Go
            }
            (parsed, _) => self.take_request_part(direction, parsed, now, out),
        }
    }

    /// A head is not there whole, and no event was lost: what there is of it begins an exchange all the same.
    fn tear_request(
        &mut self,
        direction: Direction,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Next {
        match self.half_mut(direction).parser.take_partial_head() {
            Some(Part::Request(request)) => {
                self.begin_exchange(direction, request, Some(reason), out);
                Next::Go
            }
            Some(Part::Response(_) | Part::End(_)) | None => {
                self.lose_requests(reason, false, now, out);
                Next::Stop
            }
        }
    }

    fn touch_request(&mut self, direction: Direction, reason: Option<Incomplete>) {
        if let Some(current) = self.half(direction).current
            && let Some(open) = self.ledger.entry_mut(current.index)
        {
            open.touch(reason);
        }
    }

    /// The place in the request direction is lost; responses to what is open still come. `last`: for good.
    fn lose_requests(
        &mut self,
        reason: Incomplete,
        last: bool,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Some(requests) = self.requests else { return };
        self.touch_request(requests, Some(reason));
        let half = self.half_mut(requests);
        half.parser.reset();
        half.first = None;
        half.current = None;
        // Of a response that drifts it is not known whether it is still the first open exchange's.
        let drifts = self.half(requests.flipped()).parser.is_adrift();
        if drifts {
            self.lose_all(reason, now, out);
        }
        if self.ledger.is_empty() || matches!(self.mode, Mode::Seeking(_)) {
            let responses = self.half_mut(requests.flipped());
            if responses.stream.end() > responses.stream.position() {
                self.stats.responses_passed_over += 1;
                self.half_mut(requests.flipped()).stream.discard();
            }
            self.seek(reason, false, now, out);
        } else {
            self.stats.places_lost += 1;
            self.mode = Mode::Draining { reason, request_lines: 0, last };
        }
    }
}
