//! Lets spans leave: when they are ready, at their deadline, or when a bound is reached.

use tracer_abi::conn::Role;
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::carriers;
use super::deadlines::Look;
use super::exchange::{End, Exchange, Key, Question, Settled, Undecided};
use super::join;
use super::rules::same_bytes;
use crate::attributes::{self, Described, keys};
use crate::exchange::{BodyLen, Incomplete, Outcome, Trailer};
use crate::span::{Parent, Span, SpanKind, Value};

/// A body of this size in the operation that carries the request's first byte may have made it wait for buffer
/// space: default socket buffers hold less.
const LONG_SEND_BYTES: u64 = 64 * 1024;

/// Text of an exchange whose box is kept: a target, a host and a program's name.
const KEPT_TEXT_BYTES: usize = 1024;

impl Correlator {
    /// An exchange has ended, or its question has been settled: if both, it leaves or waits for its fragment.
    pub(super) fn ready(&mut self, key: Key) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        if exchange.left || exchange.end.is_none() || exchange.question == Question::Open {
            return;
        }
        if !self.fragments.is_whole(exchange.fragment) || self.holding {
            self.fragments.wait(exchange.fragment, key);
        } else if let Some(awaited) = self.awaited_candidate(exchange) {
            self.fragments.wait(awaited, key);
        } else if let Some(read) = self.may_be_read_soon(exchange) {
            self.plan(Look::Grace, read, key);
        } else {
            self.leave(key);
        }
    }

    /// A call that was given up, and whose peer has not been seen to receive it: until when that would be soon. Only with
    /// that is it known when it began at the latest.
    fn may_be_read_soon(&self, call: &Exchange) -> Option<KernelInstant> {
        let until = call.end?.time.plus(same_bytes::GRACE);
        let unseen = call.role() == Role::Client && call.received_by_peer.is_none();
        (unseen && call.is_unanswered() && self.now < until && self.tables.join.peer_is_traced(call))
            .then_some(until)
    }

    /// The span leaves now, as far as it is known. It must have ended and its question be settled.
    pub(super) fn leave(&mut self, key: Key) {
        if self.holding {
            return;
        }
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
        let (Some(end), Question::Settled(settled), false) = (exchange.end, exchange.question, exchange.left)
        else {
            return;
        };
        exchange.left = true;
        let fragment = exchange.fragment;
        self.fragments.unwait(fragment, key);
        let links = if exchange.candidates.is_empty() { Vec::new() } else { self.links(key) };
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        let ids = &mut self.ids;
        let trace = self.fragments.trace_for(fragment, || ids.trace_id());
        let process = exchange.process();
        let resource = self.tables.processes.resource(process);

        let start =
            exchange.received_by_peer.map_or(exchange.first.time, |peer| exchange.first.time.min(peer));
        let (name, status, mut attributes) =
            attributes::describe(&described(exchange, end, start, self.bounds.redact_query));
        if let Some(context) = &exchange.context {
            attributes::context(context, &mut attributes);
        }
        let (parent, undecided) = match settled {
            Settled::Parent { span_id, evidence, confidence, remote } => {
                let remote = remote || exchange.parent_elsewhere;
                attributes.push((keys::PARENT_EVIDENCE, Value::word(evidence.as_str())));
                attributes.push((keys::PARENT_CONFIDENCE, Value::word(confidence.as_str())));
                (Some(Parent { span_id, evidence, confidence, remote }), None)
            }
            Settled::Root(reason) => (None, reason.map(Undecided::as_str)),
        };
        if let Some(reason) = undecided {
            attributes.push((keys::PARENT_UNDECIDED, Value::word(reason)));
            self.stats.spans_undecided += 1;
        }
        let span = Span {
            trace_id: trace.id,
            span_id: exchange.span_id,
            parent,
            undecided,
            trace_state: trace.state,
            sampled: trace.sampled,
            kind: if exchange.role() == Role::Server { SpanKind::Server } else { SpanKind::Client },
            name,
            start,
            end: end.time.max(start),
            attributes,
            links,
            status,
            process,
            resource,
        };
        if exchange.suppressed {
            self.stats.spans_suppressed += 1;
        } else {
            self.stats.spans += 1;
            self.stats.spans_incomplete += u64::from(end.incomplete.is_some());
            self.stats.spans_unsampled += u64::from(!span.sampled);
            self.out.push_back(span);
        }
        let unseen = exchange.role() == Role::Client && exchange.received_by_peer.is_none();
        // A server that is behind reads what was sent by somebody who has given up. Until it accepts the connection it is
        // not known to be traced; such calls are not to fill the table.
        let room = self.tables.exchanges.len() < self.bounds.max_exchanges / 2;
        let may_be_read_late = exchange.is_unanswered() && room;
        let may_go_on = exchange.is_given_up() && room;
        if (may_go_on || unseen && (may_be_read_late || self.tables.join.peer_is_traced(exchange)))
            && let Some(exchange) = self.tables.exchanges.get_mut(&key)
        {
            exchange.kept = true;
            exchange.pins += 1;
            self.plan(Look::Kept, end.time.plus(join::MEMORY), key);
        }
        self.forget_if_unpinned(key);
    }

    /// The other end has been seen, or will not be any more.
    pub(super) fn let_go(&mut self, key: Key) {
        if let Some(exchange) = self.tables.exchanges.get_mut(&key)
            && std::mem::take(&mut exchange.kept)
        {
            self.unpin(key);
        }
    }

    pub(super) fn unpin(&mut self, key: Key) {
        if let Some(exchange) = self.tables.exchanges.get_mut(&key) {
            exchange.pins = exchange.pins.saturating_sub(1);
            self.forget_if_unpinned(key);
        }
    }

    fn forget_if_unpinned(&mut self, key: Key) {
        if self.tables.exchanges.get(&key).is_some_and(|exchange| exchange.left && exchange.pins == 0) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: Key) {
        self.goroutine_is_forgotten(key);
        if let Some(exchange) = self.tables.exchanges.remove(&key) {
            if let (Some(context), Role::Server) = (&exchange.context, exchange.role()) {
                let values = carriers::values(context);
                self.tables.carriers.forget(exchange.process(), &values, key);
            }
            self.tables.join.exchange_left(key, &exchange);
            let text_bytes = exchange.text_bytes();
            self.text_bytes = self.text_bytes.saturating_sub(text_bytes);
            self.fragments.release(exchange.fragment);
            // Its strings stay in its box for a while: only what is usual.
            if text_bytes <= KEPT_TEXT_BYTES {
                self.tables.exchanges.keep(exchange);
            }
        }
    }

    /// Makes room for one more exchange: the oldest goes, with what is known of it.
    pub(super) fn make_room(&mut self) {
        while self.tables.exchanges.len() >= self.bounds.max_exchanges
            || self.text_bytes > self.bounds.max_text_bytes
        {
            let Some(key) = self.tables.exchanges.oldest() else { return };
            let Some(exchange) = self.tables.exchanges.get(&key) else { return };
            let (reader, open) = (exchange.thread(), exchange.end.is_none());
            let exchange_is_request = exchange.role() == Role::Server;
            if !exchange.left {
                self.stats.exchanges_cut += 1;
            }
            if open {
                if let Some(thread) = self.tables.threads.find_mut(reader) {
                    thread.request_ended(key);
                }
                if exchange_is_request {
                    if let Some(process) = self.tables.processes.note(reader.process) {
                        process.open_requests = process.open_requests.saturating_sub(1);
                    }
                    self.handed_request_ended(key, reader.process, &cut(self.now));
                }
                let now = self.now;
                if let Some(exchange) = self.tables.exchanges.get_mut(&key) {
                    exchange.end = Some(cut(now.max(exchange.first.time)));
                    if let Some(served) = exchange.served_mut() {
                        served.thread_lost = true;
                    }
                }
                self.settle_rivals(key, reader.process);
                self.task_serves_no_more(key, reader.process);
                self.goroutine_serves_no_more(key, reader.process);
                self.tokio_serves_no_more(key, reader.process);
            }
            self.decide(key, true);
            self.leave(key);
            // What pins it will find it gone, and abstain.
            self.forget(key);
        }
    }
}

fn cut(time: KernelInstant) -> End {
    End {
        last: None,
        time,
        outcome: Outcome::StillOpen,
        response_body: None,
        trailer: None,
        incomplete: Some(Incomplete::LimitReached),
    }
}

fn first_data(end: End) -> Option<KernelInstant> {
    match end.trailer {
        Some(Trailer::Stream(end)) => end.first_data,
        Some(Trailer::FastCgi { .. }) | None => None,
    }
}

fn described(exchange: &Exchange, end: End, start: KernelInstant, redact_query: bool) -> Described<'_> {
    let in_one_send = exchange.request_last.is_some_and(|last| last.time == exchange.first.time);
    let long = match exchange.request_body {
        Some(BodyLen::Exact(len)) => len >= LONG_SEND_BYTES,
        Some(BodyLen::Unknown) | None => false,
    };
    Described {
        role: exchange.role(),
        request: &exchange.request,
        request_body: exchange.request_body,
        response: exchange.response.as_ref().map(|(head, _)| head),
        response_body: end.response_body,
        trailer: end.trailer,
        outcome: end.outcome,
        incomplete: end.incomplete,
        time_to_first_byte: exchange.response.as_ref().map(|(_, first)| first.time.since(start)),
        time_to_first_data: first_data(end).map(|time| time.since(start)),
        start_late: exchange.role() == Role::Client
            && in_one_send
            && long
            && exchange.received_by_peer.is_none(),
        socket: exchange.conn.as_deref().map(|conn| &conn.socket),
        redact_query,
        kept_alive: exchange.id.index > 0,
    }
}
