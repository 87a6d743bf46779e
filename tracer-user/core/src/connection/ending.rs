//! How a connection ends, and what is open on it with it.
//!
//! | what is seen | open exchanges |
//! |---|---|
//! | responses come no more (end of the stream, a fatal error) | end: complete, cut, or without a response |
//! | a close by the program | the same |
//! | a close by a packet | the same once the program has been told, or a while later: it may read, or be sending, still |
//! | the tracer stops | end as still open |

use tracer_abi::conn::Direction;
use tracer_abi::time::KernelInstant;

use super::half::Half;
use super::{Connection, ConnectionStats, Mode};
use crate::event::{ConnClosed, DataMoved};
use crate::exchange::{ExchangeUpdate, Incomplete, Outcome};
use crate::protocol::http1::Finish;

impl Connection {
    /// The connection ended. Exchanges end with it, except while the program may still read responses that it had
    /// received before, or be sending: see [`Connection::is_over`].
    pub fn handle_closed(&mut self, event: &ConnClosed, out: &mut Vec<ExchangeUpdate>) {
        let time = event.origin.time;
        self.closed = true;
        for (direction, total) in
            [(Direction::Egress, event.egress_bytes), (Direction::Ingress, event.ingress_bytes)]
        {
            self.half_mut(direction).total = total;
            self.hurry(direction, time, out);
        }
        // A peer's FIN behind our own, or a reset, closes the socket under the program, in whatever context the packet
        // came in.
        let closer = event.origin.thread.map(|thread| thread.process);
        let by_program = closer.is_some() && closer == self.process && !event.by_packet;
        let ingress_ended = self.half(Direction::Ingress).ended;
        let may_go_on = match self.requests.map(Direction::flipped) {
            // The program may still read what is there, and learn of the end.
            Some(Direction::Ingress) => !ingress_ended && !by_program,
            // It may be sending: that is told of when it has been done.
            Some(Direction::Egress) => event.by_packet,
            None => false,
        };
        let goes_on = may_go_on && self.has_open();
        if !goes_on {
            self.close(time, true, out);
        }
        // Where nothing comes of it, it is kept so that late events find it.
        if goes_on || !by_program && !ingress_ended {
            self.closing = Some(time);
        }
    }

    /// A request was read of whose response nothing was seen; or is not over, and so many bytes that have moved in each
    /// direction are not told of.
    pub(crate) fn may_be_told_more(&self, unheard: [u64; 2]) -> bool {
        let awaits_answer = match &self.mode {
            Mode::Streams(streams) => streams.awaits_answer(),
            Mode::Http2(h2) => h2.awaits_answer(),
            Mode::Detecting | Mode::Following | Mode::Draining { .. } | Mode::Seeking(_) | Mode::Opaque => {
                self.ledger.front().is_some_and(|open| !open.answered)
            }
        };
        awaits_answer || self.has_open() && unheard != [0; 2]
    }

    /// It was closed and nothing more comes of it. While false, keep it: after [`Connection::handle_closed`] too,
    /// until data, a timeout or [`Connection::finish`] end what is open.
    pub fn is_over(&self) -> bool {
        self.closed && self.closing.is_none()
    }

    /// The tracer stops: what is open ends as still open.
    pub fn finish(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        for direction in [Direction::Egress, Direction::Ingress] {
            self.hurry(direction, now, out);
        }
        if let Some(time) = self.closing {
            self.close(time, true, out);
            return;
        }
        if self.drift_end().is_some() {
            self.end_quiet_response(out);
        }
        if let Mode::Seeking(seek) = &self.mode {
            let reason = seek.reason();
            self.lose_all(reason, now, out);
        }
        self.close_streams(now, Some(Incomplete::StillOpen), out);
        self.close_http2(now, Some(Incomplete::StillOpen), out);
        while !self.ledger.is_empty() {
            self.end_front(Outcome::StillOpen, now, None, Some(Incomplete::StillOpen), out);
        }
        self.turn_opaque();
    }

    /// No more bytes come in this direction. The event's position says how many there were.
    pub(super) fn handle_stream_end(
        &mut self,
        event: &DataMoved,
        orderly: bool,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let (direction, time) = (event.direction, event.time);
        self.hurry(direction, time, out);
        let half = self.half_mut(direction);
        half.ended = true;
        half.total = half.total.max(event.offset);
        let tail_lost = half.tail_lost() > 0;
        if let Some(closed) = self.closing {
            self.close(closed.max(time), orderly, out);
        } else if self.requests.is_some_and(|requests| requests.flipped() == direction) {
            self.end_responses(time, orderly, tail_lost, out);
        }
    }

    pub(super) fn close(&mut self, time: KernelInstant, orderly: bool, out: &mut Vec<ExchangeUpdate>) {
        let response = self.response_half();
        let drifts = response.is_some_and(|half| half.parser.is_adrift());
        let tail_lost = response.is_some_and(|half| half.tail_lost() > 0)
            || drifts && self.halves.iter().any(|half| half.tail_lost() > 0);
        if !tail_lost {
            self.begin_refused_request(time, out);
        }
        self.end_responses(time, orderly, tail_lost, out);
        if !matches!(self.mode, Mode::Opaque) {
            for lost_bytes in self.halves.each_ref().map(Half::tail_lost) {
                self.stats.add(ConnectionStats { lost_bytes, ..ConnectionStats::default() });
            }
        }
        self.closing = None;
        self.turn_opaque();
    }

    /// No response comes any more: every open exchange ends. `tail_lost`: bytes are missing at the end.
    fn end_responses(
        &mut self,
        time: KernelInstant,
        orderly: bool,
        tail_lost: bool,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        if let Mode::Seeking(seek) = &self.mode {
            let reason = seek.reason();
            self.lose_all(reason, time, out);
            return;
        }
        self.close_streams(time, tail_lost.then_some(Incomplete::EventsLost), out);
        self.close_http2(time, tail_lost.then_some(Incomplete::EventsLost), out);
        if tail_lost {
            self.lose_all(Incomplete::EventsLost, time, out);
            return;
        }
        let finish = self.response_half().map_or(Finish::Idle, |half| half.parser.finish(orderly));
        let last = self.response_half().and_then(|half| half.last);
        match finish {
            Finish::Idle => {}
            Finish::Complete(body_len) => {
                let time = last.map_or(time, |mark| mark.time);
                self.end_front(Outcome::Complete, time, Some(body_len), None, out);
            }
            Finish::Cut => self.end_front(Outcome::ResponseCut, time, None, None, out),
        }
        while !self.ledger.is_empty() {
            self.end_front(Outcome::NoResponse, time, None, None, out);
        }
        if let Some(requests) = self.requests {
            self.half_mut(requests.flipped()).parser.reset();
        }
    }
}

/// Errors after which a socket moves no more bytes. Others (would block, interrupted, bad argument) say nothing of it.
pub(super) const fn is_fatal(errno: u32) -> bool {
    /// Linux, `include/uapi/asm-generic/errno.h`.
    const FATAL: [u32; 8] = [
        32,  // EPIPE
        100, // ENETDOWN
        101, // ENETUNREACH
        103, // ECONNABORTED
        104, // ECONNRESET
        110, // ETIMEDOUT
        111, // ECONNREFUSED
        113, // EHOSTUNREACH
    ];
    let mut at = 0;
    while at < FATAL.len() {
        if FATAL[at] == errno {
            return true;
        }
        at += 1;
    }
    false
}
