//! The response direction: its messages answer the oldest open exchange.

use tracer_abi::conn::Direction;
use tracer_abi::time::KernelInstant;

use super::pairing::exchange_id;
use super::{Connection, Mode};
use crate::exchange::{BodyLen, ExchangeUpdate, Incomplete, Outcome};
use crate::protocol::detect::{self, Opening, Start, StartLine};
use crate::protocol::http1::{Part, Response, TAIL_BYTES};
use crate::protocol::{Invalid, Parsed, Parser as _};
use crate::stream::{Edge, HoleKind, Run};

/// Whether bytes belong to the response in progress.
enum Drift {
    GoesOn,
    Ended,
    /// Not to be told yet.
    Unclear,
}

impl Connection {
    /// Reads responses as far as there are any, and requests for them; whether it got anywhere.
    pub(super) fn follow_responses(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let mut progressed = false;
        while matches!(self.mode, Mode::Following | Mode::Draining { .. }) {
            if self.half(direction).stream.is_empty() {
                return progressed;
            }
            if self.half(direction).parser.is_at_start() && self.ledger.is_empty() {
                if !progressed && self.half(direction).stream.is_waiting() {
                    return false;
                }
                return self.hold_response(direction, now, out) || progressed;
            }
            match self.half(direction).stream.peek() {
                Run::Wait => return progressed,
                Run::Bytes { bytes, edge } => {
                    let is_blank = matches!(bytes.first(), Some(b'\r' | b'\n'));
                    if !self.read_response_bytes(direction, is_blank, edge, now, out) {
                        return progressed;
                    }
                }
                Run::Hole { len, kind, .. } => self.pass_response_hole(direction, len, kind, now, out),
            }
            progressed = true;
        }
        progressed
    }

    /// Bytes that no known request asked for wait: the request may be seen a moment later.
    fn hold_response(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let half = self.half(direction);
        let mut prefix = [0; detect::OPENING_BYTES];
        let len = half.stream.copy_prefix(&mut prefix);
        if let Run::Hole { kind, .. } = half.stream.peek() {
            self.lose_responses(kind.incomplete().unwrap_or(Incomplete::LimitReached), now, out);
            return true;
        }
        let is_response = match detect::opening(&prefix[..len]) {
            Opening::Undecided | Opening::Response => true,
            Opening::Request | Opening::Other => false,
        };
        if is_response && !half.stream.is_overfull(&self.limits.stream) {
            return false;
        }
        self.stats.responses_passed_over += 1;
        self.half_mut(direction).stream.discard();
        self.contradict(now, out);
        true
    }

    /// False: not before there are more bytes.
    fn read_response_bytes(
        &mut self,
        direction: Direction,
        is_blank: bool,
        edge: Edge,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let half = self.half(direction);
        let starts = half.parser.is_at_start() && !is_blank;
        if edge.starts_op && half.parser.is_adrift() {
            match self.read_past_drift(direction, now, out) {
                Drift::GoesOn => {}
                Drift::Ended => return true,
                Drift::Unclear => return false,
            }
        }
        if starts {
            if self.ledger.len() > 1 && !self.trust.is_certain() {
                self.contradict(now, out);
                return true;
            }
            let answering = self.ledger.front().map_or_else(Default::default, |open| open.answering);
            let tcp = self.tcp;
            let half = self.half_mut(direction);
            half.parser.set_answering(answering);
            half.first = half.stream.mark(half.stream.position(), tcp);
        }
        let tcp = self.tcp;
        let half = self.half_mut(direction);
        let position = half.stream.position();
        let Run::Bytes { bytes, edge } = half.stream.peek() else { return false };
        let step = half.parser.bytes(bytes, edge);
        half.in_doubt = half.in_doubt.saturating_sub(usize::try_from(step.consumed).unwrap_or(usize::MAX));
        let is_blank = matches!(step.parsed, Parsed::NeedMore) && half.parser.is_at_start();
        if step.consumed > 0 && !is_blank {
            half.last = half.stream.mark(position.saturating_add(step.consumed - 1), tcp);
        }
        half.stream.consume_bytes(step.consumed);
        self.take_response_part(direction, step.parsed, now, out);
        true
    }

    /// Adrift, at the start of an operation: does it belong to the response in progress, or is it another response?
    ///
    /// By its look alone, a status line may be a part of the body; a body's end may be as well. Both together are
    /// taken for what they look like, if a request asked for another response, or when one does.
    fn read_past_drift(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> Drift {
        let half = self.half(direction);
        let (candidate, is_overfull) =
            (half.parser.candidate(), half.stream.is_overfull(&self.limits.stream));
        if half.in_doubt > 0 {
            // What was lost may have been the end of the one and the request for the other.
            match half.start_so_far() {
                // It tells nothing of what comes behind it.
                Start::Partial if half.is_blank() => return Drift::GoesOn,
                Start::Partial if !half.hurried && !half.is_cut() => return Drift::Unclear,
                Start::Line(StartLine::Status { .. }) | Start::Partial => {
                    self.lose_responses(Incomplete::EventsLost, now, out);
                    return Drift::Ended;
                }
                Start::Line(StartLine::Request) | Start::Other => return Drift::GoesOn,
            }
        }
        let start = half.start();
        if !matches!(start, Start::Line(StartLine::Status { .. }) | Start::Partial) {
            return Drift::GoesOn;
        }
        let is_line = start != Start::Partial;
        if self.ledger.len() > 1 {
            return match (is_line, candidate || !self.trust.pipelines()) {
                (true, true) => {
                    self.end_drifting_response(Outcome::Complete, out);
                    Drift::Ended
                }
                (false, true) => Drift::Unclear,
                (_, false) => Drift::GoesOn,
            };
        }
        if !candidate || self.half(direction).hurried {
            return Drift::GoesOn;
        }
        if is_overfull {
            self.lose_responses(Incomplete::LimitReached, now, out);
            return Drift::Ended;
        }
        Drift::Unclear
    }

    fn take_response_part(
        &mut self,
        direction: Direction,
        parsed: Parsed<Part>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let last = self.half(direction).last;
        if let Some(open) = self.ledger.front_mut()
            && !self.halves[usize::from(direction.code())].parser.is_at_start()
        {
            open.last = last.or(open.last);
        }
        match parsed {
            Parsed::NeedMore => {}
            Parsed::Part(Part::Response(response)) => {
                self.take_response_head(direction, response, None, now, out)
            }
            Parsed::Part(Part::End(body_len)) => self.complete_front(direction, Some(body_len), now, out),
            // A response parser has no such part.
            Parsed::Part(Part::Request(_)) => {}
            Parsed::Torn => self.tear_response(direction, Incomplete::EventsLost, now, out),
            Parsed::Invalid(Invalid::HeadTooLong) => {
                self.tear_response(direction, Incomplete::LimitReached, now, out);
            }
            Parsed::Invalid(Invalid::StartLine) => {
                self.stats.malformed += 1;
                if self.trust.is_certain() {
                    self.lose_all(Incomplete::Malformed, now, out);
                    self.stats.given_up += 1;
                    self.turn_opaque();
                } else {
                    self.contradict(now, out);
                }
            }
            Parsed::Invalid(Invalid::Body) => {
                self.stats.malformed += 1;
                self.touch_response(Some(Incomplete::Malformed));
            }
        }
    }

    fn take_response_head(
        &mut self,
        direction: Direction,
        response: Response,
        incomplete: Option<Incomplete>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let half = self.half(direction);
        let (first, last, open_exchanges) = (half.first, half.last, self.ledger.len());
        let cookie = self.cookie;
        let Some((index, open)) = self.ledger.front_entry_mut() else { return };
        if response.interim {
            open.continued |= response.head.status == Some(100);
            return;
        }
        if response.h2c && open.h2c {
            self.upgrade_to_http2(last);
            self.lose_all(Incomplete::Malformed, now, out);
            return;
        }
        open.answered = true;
        open.last = last.or(open.last);
        open.touch(incomplete);
        if response.head.grpc || open.grpc.is_some() {
            open.grpc.get_or_insert_default().grpc_status = response.grpc_status;
        }
        if response.malformed {
            open.touch(Some(Incomplete::Malformed));
            self.stats.malformed += 1;
        }
        if let Mode::Draining { request_lines: 1.., .. } = self.mode {
            self.trust.response_began(open_exchanges + 1);
        } else {
            self.trust.response_began(open_exchanges);
        }
        let Some(first) = first else { return };
        out.push(ExchangeUpdate::ResponseBegan {
            id: exchange_id(cookie, index),
            response: response.head,
            first,
        });
        if response.switches {
            let time = last.map_or(now, |mark| mark.time);
            self.end_front(Outcome::Upgraded, time, Some(BodyLen::Exact(0)), None, out);
            self.lose_all(Incomplete::Malformed, now, out);
            self.turn_opaque();
        } else if response.ended {
            self.complete_front(direction, Some(BodyLen::Exact(0)), now, out);
        }
    }

    /// The oldest exchange's response has been seen to its last byte.
    fn complete_front(
        &mut self,
        direction: Direction,
        body_len: Option<BodyLen>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let last = self.half(direction).last;
        if let Some(open) = self.ledger.front_mut() {
            open.last = last.or(open.last);
        }
        let time = last.map_or(now, |mark| mark.time);
        self.end_front(Outcome::Complete, time, body_len, None, out);
    }

    fn pass_response_hole(
        &mut self,
        direction: Direction,
        len: u64,
        kind: HoleKind,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let tcp = self.tcp;
        let half = self.half_mut(direction);
        let Run::Hole { edge, .. } = half.stream.peek() else { return };
        let between_ops = half.stream.mark(half.stream.position(), tcp).is_none();
        if half.parser.is_adrift() && self.ledger.len() > 1 && (between_ops || edge.starts_op) {
            // The next response may have begun in there.
            let reason = kind.incomplete().unwrap_or(Incomplete::LimitReached);
            self.lose_responses(reason, now, out);
            return;
        }
        let half = self.half_mut(direction);
        let position = half.stream.position();
        let at_start = half.parser.is_at_start();
        let step = half.parser.hole(len, edge);
        let last = step.consumed.checked_sub(1).and_then(|more| half.stream.mark(position + more, tcp));
        half.last = last.or(half.last);
        if kind != HoleKind::Elided {
            half.in_doubt = TAIL_BYTES;
        }
        half.stream.consume(step.consumed);
        if step.consumed > 0 {
            self.touch_response(kind.incomplete());
        }
        match step.parsed {
            Parsed::Torn => {
                let reason = kind.incomplete();
                // With one request there is one response, however much of it is missing.
                let is_only = self.ledger.len() == 1 && matches!(self.mode, Mode::Following);
                let half = self.half_mut(direction);
                let in_body = !at_start && !half.parser.is_in_head();
                if is_only && in_body {
                    half.parser.drift();
                } else if is_only && !at_start && kind == HoleKind::Elided {
                    self.tear_response(direction, Incomplete::LimitReached, now, out);
                } else {
                    self.lose_responses(reason.unwrap_or(Incomplete::LimitReached), now, out);
                }
            }
            Parsed::Part(Part::End(body_len)) if last.is_none() => {
                // Where it ended is known, when is not.
                let time = self.half(direction).last.map_or(now, |mark| mark.time);
                self.end_front(Outcome::Lost, time, Some(body_len), Some(Incomplete::EventsLost), out);
            }
            parsed @ (Parsed::NeedMore | Parsed::Part(_) | Parsed::Invalid(_)) => {
                self.take_response_part(direction, parsed, now, out);
            }
        }
    }

    /// A head is not there whole, and no event was lost.
    fn tear_response(
        &mut self,
        direction: Direction,
        reason: Incomplete,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        match self.half_mut(direction).parser.take_partial_head() {
            Some(Part::Response(response)) if !response.interim && !response.switches => {
                self.take_response_head(direction, response, Some(reason), now, out);
            }
            Some(Part::Response(_) | Part::Request(_) | Part::End(_)) | None => {
                self.lose_responses(reason, now, out);
            }
        }
    }

    fn touch_response(&mut self, reason: Option<Incomplete>) {
        if let Some(open) = self.ledger.front_mut() {
            open.touch(reason);
        }
    }

    /// The place in the response direction is lost.
    fn lose_responses(&mut self, reason: Incomplete, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let follows_requests = matches!(self.mode, Mode::Following);
        self.seek(reason, follows_requests, now, out);
    }

    /// The other direction goes on while behind what looks like the end of the response in progress, adrift, there is what
    /// looks like another. Where it is more than one response it is none, but a part of the body.
    pub(super) fn read_past_false_start(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        if self.ledger.len() != 1
            || self.drift_end().is_none()
            || self.half(direction).stream.is_empty()
            || !self.half(direction).holds_more_than_a_response(self.limits.head_bytes)
        {
            return;
        }
        self.half_mut(direction).hurried = true;
        self.follow_responses(direction, now, out);
        self.half_mut(direction).hurried = false;
    }

    /// Adrift, the response in progress may have ended: time of that byte.
    pub(super) fn drift_end(&self) -> Option<KernelInstant> {
        let half = self.response_half().filter(|half| half.parser.candidate())?;
        match self.mode {
            Mode::Following | Mode::Draining { .. } => half.last.map(|mark| mark.time),
            Mode::Detecting | Mode::Seeking(_) | Mode::Streams(_) | Mode::Http2(_) | Mode::Opaque => None,
        }
    }

    /// The response in progress ended with the last byte that was read, as what follows shows (or does not refute).
    pub(super) fn end_drifting_response(&mut self, outcome: Outcome, out: &mut Vec<ExchangeUpdate>) {
        let Some(direction) = self.requests.map(Direction::flipped) else { return };
        let half = self.half_mut(direction);
        half.parser.reset();
        let Some(last) = half.last else { return };
        self.end_front(outcome, last.time, Some(BodyLen::Unknown), None, out);
    }

    /// Nothing followed what looks like the end of the response in progress. Where events were lost, a request that
    /// nobody saw may have been answered in the meantime.
    pub(super) fn end_quiet_response(&mut self, out: &mut Vec<ExchangeUpdate>) {
        let touched = self.ledger.front().is_some_and(|open| open.incomplete.is_some());
        self.end_drifting_response(if touched { Outcome::Lost } else { Outcome::Complete }, out);
    }
}
