//! Which response answers which request, and how far that is to be believed.
//!
//! Responses come in the order of their requests (RFC 9112 section 9.3.2), so pairing is counting. It is *certain*
//! from a connection's first byte on, as long as every byte that could start a message was seen: where events are
//! missing, positions say so. After a loss the count is unknown for good, in principle. Then one thing is assumed: *a
//! client that was never seen to pipeline does not*, it sends a request when all earlier responses have come. Pairing
//! begins again on that assumption ([`super::seek`]), remains *assumed* until it has held for a while, and what
//! contradicts it ends all open exchanges as lost, and after some times the connection's tracing.

use std::collections::VecDeque;

use super::Connection;
use crate::exchange::{BodyLen, ExchangeId, ExchangeUpdate, Incomplete, Mark, Outcome, StreamEnd, Trailer};
use crate::protocol::http1::Answering;
use tracer_abi::conn::SocketCookie;
use tracer_abi::time::KernelInstant;

/// Exchanges one after the other that make a client's habit: pairing can begin again at its next request.
const HABIT: u32 = 4;
/// As many, since pairing began again, make it certain.
const PROOF: u32 = 8;
/// Two requests open at once may be one that is stamped before the response it followed; twice is a habit.
const PIPELINING: u8 = 2;
/// A connection that contradicts the assumption so often is not understood.
const MAX_CONTRADICTIONS: u8 = 3;

/// How far pairing is to be believed, from what the connection has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    certain: bool,
    /// Exchanges that had the connection for themselves: in all, and since pairing last began.
    sequential: u32,
    sequential_since: u32,
    /// Signs of pipelining.
    signs: u8,
    /// What may be further signs, or parts of bodies: they count where nothing else can be known, after a loss.
    hints: u8,
    contradictions: u8,
}

impl Trust {
    pub(super) const fn from_start() -> Self {
        Self { certain: true, sequential: 0, sequential_since: 0, signs: 0, hints: 0, contradictions: 0 }
    }

    pub(super) const fn is_certain(&self) -> bool {
        self.certain
    }

    /// From here on pairing rests on the assumption.
    pub(super) fn assume(&mut self) {
        self.certain = false;
        self.sequential_since = 0;
    }

    pub(super) fn exchange_was_alone(&mut self) {
        self.sequential = self.sequential.saturating_add(1);
        self.sequential_since = self.sequential_since.saturating_add(1);
        if self.sequential_since >= PROOF {
            self.certain = true;
        }
    }

    /// A response began while `open` exchanges were open.
    pub(super) fn response_began(&mut self, open: usize) {
        match open {
            0 | 1 => {}
            2 => self.signs = self.signs.saturating_add(1),
            _ => self.signs = PIPELINING,
        }
    }

    /// A request line was passed over in a body that was left out in part.
    pub(super) fn passed_over_request_line(&mut self) {
        self.hints = self.hints.saturating_add(1);
    }

    /// A response was seen before its request: this client's threads are stamped out of order, so that after a loss the
    /// order in which messages are seen proves nothing.
    pub(super) fn saw_inversion(&mut self) {
        self.signs = PIPELINING;
    }

    pub(super) const fn pipelines(&self) -> bool {
        self.signs >= PIPELINING
    }

    /// There has been a sign of pipelining.
    pub(super) const fn may_pipeline(&self) -> bool {
        self.signs > 0
    }

    pub(super) fn contradicted(&mut self) {
        self.contradictions = self.contradictions.saturating_add(1);
    }

    /// Pairing cannot begin again on this connection.
    pub(super) const fn is_spent(&self) -> bool {
        self.signs.saturating_add(self.hints) >= PIPELINING || self.contradictions >= MAX_CONTRADICTIONS
    }

    /// How many request-response turns must be seen after a loss before pairing begins again.
    pub(super) const fn turns_to_prove(&self) -> u8 {
        if self.sequential >= HABIT && self.signs == 0 && self.hints == 0 { 0 } else { 1 }
    }
}

/// A request that was begun, and its response as far as it is known.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) answering: Answering,
    pub(super) upgrade: bool,
    /// To HTTP/2 in clear.
    pub(super) h2c: bool,
    pub(super) expects_continue: bool,
    /// It was told to continue.
    pub(super) continued: bool,
    pub(super) request_ended: bool,
    /// Another exchange was open at some time.
    pub(super) shared: bool,
    /// Last byte that was seen of it.
    pub(super) last: Option<Mark>,
    /// A byte of its final response was seen.
    pub(super) answered: bool,
    /// It is a grpc-web call's: what is known of it so far.
    pub(super) grpc: Option<StreamEnd>,
    /// The first reason counts.
    pub(super) incomplete: Option<Incomplete>,
}

impl Open {
    pub(super) fn touch(&mut self, reason: Option<Incomplete>) {
        self.incomplete = self.incomplete.or(reason);
    }
}

/// Open exchanges, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: VecDeque<Open>,
    /// Index of the oldest.
    front: u64,
}

impl Ledger {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn ever_began(&self) -> bool {
        self.front > 0 || !self.open.is_empty()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Open> {
        self.open.front_mut()
    }

    pub(super) fn front_entry_mut(&mut self) -> Option<(u64, &mut Open)> {
        Some((self.front, self.open.front_mut()?))
    }

    pub(super) fn front(&self) -> Option<&Open> {
        self.open.front()
    }

    pub(super) fn back(&self) -> Option<&Open> {
        self.open.back()
    }

    pub(super) fn mark_shared(&mut self) {
        for open in &mut self.open {
            open.shared = true;
        }
    }

    /// `None`: it has ended.
    pub(super) fn entry_mut(&mut self, index: u64) -> Option<&mut Open> {
        self.open.get_mut(usize::try_from(index.checked_sub(self.front)?).ok()?)
    }

    /// Adds an exchange; returns its index.
    pub(super) fn begin(&mut self, mut open: Open) -> u64 {
        if !self.open.is_empty() {
            open.shared = true;
            self.mark_shared();
        }
        self.open.push_back(open);
        self.front + (self.open.len() as u64 - 1)
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Open)> {
        let open = self.open.pop_front()?;
        self.front += 1;
        Some((self.front - 1, open))
    }
}

impl Connection {
    /// Ends the oldest open exchange.
    pub(super) fn end_front(
        &mut self,
        outcome: Outcome,
        time: KernelInstant,
        response_body_len: Option<BodyLen>,
        reason: Option<Incomplete>,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        let Some((index, mut open)) = self.ledger.pop() else { return };
        if let (Some(grpc), Some(half), true) =
            (&mut open.grpc, self.response_half(), open.answered && outcome == Outcome::Complete)
        {
            let body = half.parser.grpc_end();
            grpc.response_messages = body.messages;
            grpc.grpc_status = grpc.grpc_status.or(body.status);
        }
        let id = exchange_id(self.cookie, index);
        open.touch(reason);
        if let Some(requests) = self.requests {
            let half = self.half_mut(requests);
            if let Some(current) = half.current.as_mut().filter(|current| current.index == index) {
                current.may_withhold = open.expects_continue && !open.continued;
                if let Some(last) = half.last.filter(|_| half.parser.candidate()) {
                    out.push(ExchangeUpdate::RequestEnded { id, last, body_len: BodyLen::Unknown });
                }
            }
        }
        match outcome {
            Outcome::Complete if !open.shared => self.trust.exchange_was_alone(),
            Outcome::Lost => self.stats.exchanges_lost += 1,
            Outcome::Complete
            | Outcome::Upgraded
            | Outcome::Reset(_)
            | Outcome::Dropped
            | Outcome::NoResponse
            | Outcome::ResponseCut
            | Outcome::StillOpen => {}
        }
        out.push(ExchangeUpdate::Ended {
            id,
            last: open.last,
            time,
            outcome,
            response_body_len,
            trailer: open.grpc.map(Trailer::Stream),
            incomplete: open.incomplete,
        });
    }

    /// Ends every open exchange as lost.
    pub(super) fn lose_all(&mut self, reason: Incomplete, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        while let Some(front) = self.ledger.front() {
            // Whose response was seen in part ended no earlier than that; of others nothing more is known than that
            // they were open until now.
            let time = front.last.filter(|_| front.answered).map_or(now, |mark| mark.time);
            self.end_front(Outcome::Lost, time, None, Some(reason), out);
        }
    }
}

pub(super) const fn exchange_id(cookie: SocketCookie, index: u64) -> ExchangeId {
    ExchangeId { cookie, index }
}
