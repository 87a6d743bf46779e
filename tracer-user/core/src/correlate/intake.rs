//! Takes in what happens: operations of threads, and progress of exchanges.

use tracer_abi::conn::{Direction, Role};
use tracer_abi::sniff::Class;
use tracer_abi::task::ProcessKey;

use super::Correlator;
use super::candidates;
use super::carriers::{self, Value};
use super::conn::ConnFacts;
use super::deadlines::Look;
use super::exchange::{Called, End, Exchange, Key, Question, Served, Side};
use super::join::Occupant;
use super::readers::Reading;
use super::rules::{header_continuity, response_window, same_bytes, thread};
use super::threads::{Continuity, Received};
use super::waits;
use crate::event::{DataMoved, IoOutcome};
use crate::exchange::{ExchangeId, ExchangeUpdate, Incomplete, Mark, Outcome, RequestHead};

impl Correlator {
    /// An operation, before its bytes are understood. Further records of one operation may be shown, too.
    pub(crate) fn observe(&mut self, event: &DataMoved, conn: &mut ConnFacts) {
        conn.note_direction(event);
        if !self.bounds.rules {
            return;
        }
        self.note_unread(event, conn);
        if event.thread.is_nobodys() {
            // Which thread a goroutine was on says nothing.
            self.note_served(event, conn);
            return;
        }
        let Some(thread) = self.tables.threads.note(event.thread) else {
            self.stats.threads_untracked += 1;
            return;
        };
        let (had_served, reading) = (thread.has_served(), thread.reading);
        match thread.follow(event.thread.seq, event.nvcsw) {
            Continuity::Next => {}
            Continuity::Same | Continuity::Late => return,
            Continuity::Gap | Continuity::Unnumbered => {
                self.stats.thread_gaps += 1;
                if let Some(process) = self.tables.processes.find_mut(event.thread.process) {
                    process.lost_events_of(event.thread.tid, event.time);
                }
                self.damaged(event.thread.process, event.time);
            }
            Continuity::Fresh => {
                let stale = std::mem::take(&mut thread.open);
                self.lose_thread(&stale);
                if had_served {
                    self.serving_thread_gone(event.thread.process, reading);
                }
            }
        }
        self.note_readers(event, conn);
        self.note_waits(event);
        self.note_handoffs(event, conn);
        self.note_served(event, conn);
        if event.direction == Direction::Ingress {
            self.note_received(event, conn);
        }
    }

    /// Requests may come in where nothing is read.
    fn note_unread(&mut self, event: &DataMoved, conn: &ConnFacts) {
        let unread = match event.class {
            // Its plaintext is told of.
            Class::Tls if event.in_tls_call => false,
            Class::Tls | Class::Http2 | Class::Unknown => !conn.is_read,
            Class::Undecided | Class::Http1 | Class::FastCgi => false,
        };
        if unread
            && conn.calls != Some(true)
            && event.direction == Direction::Ingress
            && let Some(process) = self.tables.processes.note(event.thread.process)
        {
            process.unread_at = process.unread_at.max(Some(event.time));
        }
    }

    /// What the operation says about the requests that are open on its connection and on its thread.
    fn note_served(&mut self, event: &DataMoved, conn: &mut ConnFacts) {
        let ingress = event.direction == Direction::Ingress;
        let moved = matches!(event.outcome, IoOutcome::Moved(_));
        conn.nonblocking |= ingress && event.blocking != Some(true);
        let (exchanges, processes) = (&mut self.tables.exchanges, &self.tables.processes);
        // A process that was started for a request is told of each time.
        let forked_for = processes.forked_for(event.thread.process);
        let shown = if forked_for.is_none() { conn.shown_to(event.thread) } else { 0 };
        let mut answered = false;
        let mut show = |key: &Key| {
            let Some(exchange) = exchanges.get_mut(key) else { return false };
            let owner = exchange.thread();
            let own = owner.process == event.thread.process
                && owner.tid == event.thread.tid
                && !event.thread.is_nobodys();
            let Some(served) = exchange.served_mut() else { return false };
            served.nonblocking |= conn.nonblocking;
            // A program that was started for the request may answer it itself.
            let child = !own && owner.process != event.thread.process && forked_for == Some(*key);
            if child && moved && !ingress {
                served.child_sent = Some(event.time);
            } else if !own && !child {
                served.shared.get_or_insert(event.time);
            }
            if own && moved && !ingress && !answered {
                served.last_sent = Some(event.time);
            }
            // Responses come in order: what is sent belongs to the first that is open.
            answered = true;
            true
        };
        if conn.calls != Some(true) {
            let _ = conn.open.range(..shown).any(|(_, key)| show(key));
        }
        for (_, key) in conn.open.range(shown..) {
            show(key);
        }
        if forked_for.is_none() {
            conn.show(event.thread);
        }
        if ingress
            && moved
            && conn.calls != Some(true)
            && let Some(thread) = self.tables.threads.find_mut(event.thread)
        {
            for key in &thread.open {
                let other = exchanges.get_mut(key).filter(|exchange| exchange.cookie() != event.cookie);
                if let Some(served) = other.and_then(|exchange| exchange.served_mut()) {
                    served.foreign_read.get_or_insert(event.time);
                }
            }
        }
    }

    /// A thread is gone, or not the one it was: its requests rest on nothing.
    pub(super) fn lose_thread(&mut self, open: &[Key]) {
        for key in open {
            if let Some(served) =
                self.tables.exchanges.get_mut(key).and_then(|exchange| exchange.served_mut())
            {
                served.thread_lost = true;
            }
        }
    }

    /// Progress of an exchange.
    pub(crate) fn update(&mut self, update: ExchangeUpdate, conn: &mut ConnFacts) {
        match update {
            ExchangeUpdate::RequestBegan { id, role, request, first, head_last, stream } => {
                self.request_began((id, stream), role, request, first, head_last, conn);
            }
            ExchangeUpdate::RequestEnded { id, last, body_len } => {
                let exchange = conn.find(id.index).and_then(|key| self.tables.exchanges.get_mut(&key));
                if let Some(exchange) = exchange {
                    exchange.request_last = Some(last.into());
                    exchange.request_body = Some(body_len);
                }
            }
            ExchangeUpdate::ResponseBegan { id, response, first } => {
                let Some(key) = conn.find(id.index) else { return };
                let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
                exchange.response = Some((response, first.into()));
                let server = exchange.role() == Role::Server;
                if self.bounds.rules {
                    self.response_began(key, server, first, conn);
                }
                self.decide(key, false);
                self.decide_other_end(key);
            }
            ExchangeUpdate::Ended { id, last, time, outcome, response_body_len, trailer, incomplete } => {
                let end = End { last, time, outcome, response_body: response_body_len, trailer, incomplete };
                self.ended(id, end, conn);
            }
        }
    }

    /// What a response's beginning tells of what happens inside of its process.
    fn response_began(&mut self, key: Key, server: bool, first: Mark, conn: &mut ConnFacts) {
        if server {
            self.response_in_window(key, first.thread);
            self.task_answers(key, first, conn);
        } else {
            self.goroutine_calls(key, Direction::Ingress, &first, conn);
            self.tokio_calls(key, Direction::Ingress, &first, conn);
            self.work_calls(key, Direction::Ingress, &first, conn);
        }
    }

    fn request_began(
        &mut self,
        (id, stream): (ExchangeId, Option<u32>),
        role: Role,
        mut request: Box<RequestHead>,
        first: Mark,
        head_last: Mark,
        conn: &mut ConnFacts,
    ) {
        self.make_room();
        let key = self.tables.exchanges.next_key();
        let client = role == Role::Client;
        if client && self.tables.join.is_quiet() {
            self.tables.join.end_quiet(self.tables.exchanges.iter_mut());
            self.plan_graces();
        }
        conn.calls = Some(client);
        conn.is_read = true;
        conn.has_streams = request.protocol.has_streams();
        let side = if client { Side::Client(Called::default()) } else { Side::Server(Served::default()) };
        let context = request
            .context
            .take()
            .and_then(|carried| carried.choose(&self.bounds.propagators, &self.request_id_key));
        if let Some(context) = &context {
            self.stats.context_headers_refused += context.refused().len() as u64;
            self.stats.context_conflicts += u64::from(context.conflicts().next().is_some());
        }
        self.tables.exchanges.add(Exchange {
            id,
            stream,
            side,
            request,
            context: context.map(Box::new),
            first,
            head_last: head_last.into(),
            request_last: None,
            request_body: None,
            response: None,
            end: None,
            seats: self.tables.join.exchange_began(key, conn.conn.as_deref(), role, &first),
            conn: conn.conn.clone(),
            span_id: self.ids.span_id(),
            fragment: self.fragments.begin(key),
            question: Question::Open,
            candidates: Vec::new(),
            received_by_peer: None,
            pins: 0,
            has_grace: false,
            has_deadline: false,
            suppressed: false,
            parent_elsewhere: false,
            left: false,
            kept: false,
        });
        conn.open.push_back((id.index, key));
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        self.text_bytes += exchange.text_bytes();
        let values = exchange.context.as_deref().map(carriers::values);
        if let (false, Some(context)) = (client, &exchange.context) {
            // Not only the one that was chosen: any of them may be handed on alone.
            for span_id in context.span_ids() {
                self.tables.contexts.came_in(span_id, key, exchange.process(), first.time);
            }
        }
        if !client {
            self.note_traces(key);
        }
        if let (Some(values), true) = (values, self.bounds.rules) {
            let process = first.thread.process;
            if client {
                self.note_named(key);
                self.hands_on(key, &values, first);
            } else {
                self.tables.carriers.brought_in(process, &values, key, first.time);
            }
        }
        if !self.bounds.rules {
            if !client {
                self.serves_somewhere(key, first.thread.process);
            }
        } else if client {
            self.call_began(key, first);
            self.task_calls(key, first, conn);
            self.goroutine_calls(key, Direction::Egress, &first, conn);
            self.tokio_calls(key, Direction::Egress, &first, conn);
            self.work_calls(key, Direction::Egress, &first, conn);
            self.upstream_calls(key, first, conn);
        } else {
            self.service_began(key, first, head_last, conn);
        }
        self.stream_began(key, conn);
        self.decide(key, false);
        self.decide_other_end(key);
    }

    /// A call carries values: the request that alone brought them stays until the call's question is settled.
    fn hands_on(&mut self, key: Key, values: &[Value], first: Mark) {
        let process = first.thread.process;
        let call = self.tables.exchanges.get(&key);
        let carrier = call.and_then(|call| header_continuity::carrier(&self.tables, call).ok().flatten());
        self.tables.carriers.sent_out(process, values, first.time);
        if !values.is_empty() {
            self.deadlines.add(Look::Losses, first.time.plus(header_continuity::SETTLE), key);
        }
        let Some(carrier) = carrier else { return };
        let Some(request) = self.tables.exchanges.get_mut(&carrier) else { return };
        request.pins += 1;
        let open = request.end.is_none();
        let Some(served) = request.served_mut() else { return };
        served.carried_on.push(key);
        let another = open && !served.hands_on;
        served.hands_on |= open;
        if let (true, Some(process)) = (another, self.tables.processes.note(process)) {
            process.hands_on += 1;
        }
        if let Some(called) = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut()) {
            called.carrier = Some(carrier);
        }
        self.await_trace(key, carrier);
    }

    fn call_began(&mut self, key: Key, first: Mark) {
        let Some(thread) = self.tables.threads.find_mut(first.thread) else { return };
        let (served, after_loss) = (thread.open.last().copied(), thread.after_loss);
        // One more than are told is enough of them.
        let beside = match thread.open.as_slice() {
            [beside @ .., _] => beside[beside.len().saturating_sub(candidates::MAX)..].to_vec(),
            [] => Vec::new(),
        };
        let trigger = match thread.run.last {
            Received::Request(request) => request,
            Received::Nothing | Received::Response(_) | Received::Other | Received::Unknown => None,
        };
        let process = self.tables.processes.note(first.thread.process);
        let (mut alone, mut beside_idle, mut outside) = (false, false, false);
        if let Some(process) = &process {
            alone = process.open_requests == 1;
            beside_idle = process.has_idle_thread();
            outside = served.is_none() && !after_loss && process.has_served;
            if outside && process.adrift > 0 {
                thread.reading.unplaced.get_or_insert(first.time);
                outside = false;
            }
        }
        self.acts(first.thread);
        if outside {
            self.called_outside(first.thread);
        }
        if let Some(exchange) = self.tables.exchanges.get_mut(&key)
            && let Some(called) = exchange.called_mut()
        {
            let carrier = called.carrier;
            let awaited_by = called.awaited_by;
            *called = Called {
                served,
                alone,
                beside_idle,
                after_loss,
                trigger,
                carrier,
                awaited_by,
                ..Called::default()
            };
            called.beside.clone_from(&beside);
        }
        self.note_calling(key, first, served);
        self.call_may_be_handed(key, first);
        if let Some(served) = served
            && let Some(exchange) = self.tables.exchanges.get_mut(&served)
        {
            exchange.pins += 1;
            if let Some(served) = exchange.served_mut() {
                served.calls.push(key);
            }
        }
        if let Some(served) = served {
            self.await_trace(key, served);
        } else {
            self.forked_call_began(key, first);
        }
        for key in beside {
            if let Some(exchange) = self.tables.exchanges.get_mut(&key) {
                exchange.pins += 1;
            }
        }
    }

    fn service_began(&mut self, key: Key, first: Mark, head_last: Mark, conn: &mut ConnFacts) {
        let tid = first.thread.tid;
        let read_by = conn.read_by.replace(tid);
        self.places_no_more(first.thread);
        self.request_may_drift(key, first.thread);
        let thread = self.tables.threads.find_mut(first.thread);
        let called_outside = thread.is_some_and(|thread| thread.called_outside);
        let mut owned = true;
        self.handed_request_began(key, first);
        if let Some(process) = self.tables.processes.note(first.thread.process) {
            process.has_served = true;
            process.open_requests += 1;
            process.connections_migrate |= read_by.is_some_and(|by| by != tid);
            // Requests that were under way when the tracer came are not seen: their calls are not outside of any.
            process.not_exclusive |= called_outside && process.preexisting_since.is_none();
            owned = !process.not_exclusive && !process.is_nginx();
        }
        if let Some(thread) = self.tables.threads.find_mut(first.thread)
            && let Received::Request(request @ None) = &mut thread.run.last
        {
            *request = Some(key);
        }
        let exchange = self.tables.exchanges.get_mut(&key);
        let waited = self.tables.threads.find(first.thread.process, tid).map(|thread| thread.waited);
        if let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) {
            served.nonblocking = conn.nonblocking;
            served.waits.began(waited.unwrap_or_default());
        }
        self.task_may_serve(key, first, conn);
        self.goroutine_reads(key, &head_last, conn);
        self.tokio_reads(key, conn);
        if owned {
            self.thread_serves(key, first, read_by == Some(tid));
        }
        self.passes(key, head_last.thread);
        self.plan_grace_beside_others(key);
    }

    /// All that is to be known of a request where nobody asks what it causes.
    fn serves_somewhere(&mut self, key: Key, process: ProcessKey) {
        if let Some(process) = self.tables.processes.note(process) {
            process.has_served = true;
        }
        self.plan_grace_beside_others(key);
    }

    /// Whether anybody called is known then; that nobody did may be known before, but not before the request has ended,
    /// and what it calls waits for it.
    fn plan_grace_beside_others(&mut self, key: Key) {
        let exchange = self.tables.exchanges.get(&key);
        let join = &self.tables.join;
        if exchange.is_some_and(|exchange| !join.is_quiet() || !join.is_alone(exchange)) {
            self.plan_grace(key);
        }
    }

    /// Where threads may own requests: what this one holds besides.
    fn thread_serves(&mut self, key: Key, first: Mark, again: bool) {
        let Some(cookie) = self.tables.exchanges.get(&key).map(|exchange| exchange.cookie()) else { return };
        let Some(thread) = self.tables.threads.note(first.thread) else { return };
        let first_here = !thread.has_served();
        let (rivals, pushed_out) = thread.request_began(key, cookie, again);
        let on_return = thread.returns;
        if let (true, Some(process)) = (first_here, self.tables.processes.note(first.thread.process)) {
            process.serving_threads += 1;
        }
        self.lose_thread(pushed_out.as_slice());
        for rival in &rivals {
            let exchange = self.tables.exchanges.get_mut(rival);
            if let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) {
                served.rivals.push(key);
            }
        }
        let exchange = self.tables.exchanges.get_mut(&key);
        if let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) {
            served.on_return = on_return;
            served.rivals = rivals;
        }
    }

    /// A thread that had read a request has ended.
    pub(super) fn serving_thread_gone(&mut self, process: ProcessKey, reading: Reading) {
        let Some(known) = self.tables.processes.find_mut(process) else { return };
        known.serving_threads = known.serving_threads.saturating_sub(1);
        known.readers = known.readers.saturating_sub(u32::from(reading.for_others > 0));
        if reading.unplaced.is_some() {
            known.not_exclusive = true;
            self.decide_awaiting(process);
        }
    }

    fn ended(&mut self, id: ExchangeId, end: End, conn: &mut ConnFacts) {
        let Some(key) = conn.take(id.index) else { return };
        if conn.has_streams && conn.calls == Some(true) {
            conn.last_call = Some(key);
        }
        conn.last_end = conn.last_end.max(Some(end.time));
        let Some(reader) = self.tables.exchanges.get(&key).map(Exchange::thread) else { return };
        if matches!(end.incomplete, Some(Incomplete::EventsLost)) {
            self.stats.exchanges_incomplete += 1;
            self.damaged(reader.process, end.time);
        }
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
        exchange.end = Some(end);
        if let Some(served) = exchange.served() {
            let adrift = served.adrift;
            if let Some(thread) = self.tables.threads.find_mut(reader) {
                thread.request_ended(key);
            }
            for span_id in exchange.context.iter().flat_map(|context| context.span_ids()) {
                self.tables.contexts.ended(span_id, key, end.time);
            }
            if let Some(process) = self.tables.processes.note(reader.process) {
                process.open_requests = process.open_requests.saturating_sub(1);
                process.adrift = process.adrift.saturating_sub(u32::from(adrift));
                if end.outcome == Outcome::Upgraded {
                    process.unread_at = process.unread_at.max(Some(end.time));
                }
            }
            self.handed_request_ended(key, reader.process, &end);
            self.settle_waits(key);
            self.settle_rivals(key, reader.process);
            self.examine(key, reader.process);
            self.examine_forks(key, reader.process);
            self.decide_carried_on(key);
            self.task_serves_no_more(key, reader.process);
            self.goroutine_serves_no_more(key, reader.process);
            self.tokio_serves_no_more(key, reader.process);
            self.works_serve_no_more(reader.process);
            self.decide_named(key);
        }
        self.handed_call_ended(key, &end);
        self.decide(key, false);
        self.decide_other_end(key);
        self.ready(key);
        // Most leave before their deadline: it is planned when an earlier look has left them waiting.
        let Some(exchange) = self.tables.exchanges.get(&key).filter(|exchange| !exchange.left) else {
            return;
        };
        let earlier = match exchange.role() {
            Role::Server | Role::Unknown => {
                let grace = exchange.first.time.plus(same_bytes::GRACE);
                self.plan_grace(key);
                Some(grace).filter(|grace| *grace > self.now)
            }
            Role::Client if exchange.question == Question::Open => {
                let settled = end.time.plus(response_window::SETTLE);
                self.plan(Look::Settle, settled, key);
                Some(settled)
            }
            Role::Client => None,
        };
        if earlier.is_none_or(|earlier| earlier > end.time.plus(self.bounds.decide_timeout)) {
            self.plan_deadline(key);
        }
    }

    /// A request has ended: others of its thread may have waited for that.
    pub(super) fn settle_rivals(&mut self, key: Key, process: ProcessKey) {
        for request in thread::settle_rivals(&mut self.tables, key) {
            self.examine(request, process);
            self.unpin(request);
        }
    }

    /// A request has been answered, and it is known of all others that its thread held whether they overlap: what that
    /// says about the calls of its thread, and about the process.
    fn examine(&mut self, request: Key, process: ProcessKey) {
        let exchange = self.tables.exchanges.get_mut(&request);
        let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) else { return };
        if !served.rivals.is_empty() {
            return;
        }
        let calls = std::mem::take(&mut served.calls);
        let known = waits::are_known(&self.tables, request);
        for key in calls {
            let Some(call) = self.tables.exchanges.get(&key) else { continue };
            let examined = thread::examine(&self.tables, call, request);
            let called = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut());
            let proves = called.is_some_and(|called| {
                called.examined = Some(examined);
                called.beside_idle && known
            });
            if let (Ok(()), Some(process)) = (examined, self.tables.processes.note(process)) {
                process.proofs += u32::from(proves);
                process.awaiting.push(key);
                let believed = process.proofs >= thread::PROOFS;
                let losses_known = self.tables.exchanges.get(&key).map(thread::losses_known);
                if let (false, Some(at)) = (believed, losses_known) {
                    self.plan(Look::Losses, at, key);
                }
            }
            self.decide(key, false);
        }
        let proven = self
            .tables
            .processes
            .find(process)
            .is_some_and(|process| process.proofs >= thread::PROOFS || process.not_exclusive);
        if proven {
            self.decide_awaiting(process);
        }
    }

    /// A request has ended: calls that carry what it brought may have waited for that.
    fn decide_carried_on(&mut self, request: Key) {
        let exchange = self.tables.exchanges.get_mut(&request);
        let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) else { return };
        for key in std::mem::take(&mut served.carried_on) {
            self.decide(key, false);
        }
    }

    /// Whether the process is to be believed has become clear.
    pub(super) fn decide_awaiting(&mut self, process: ProcessKey) {
        let Some(process) = self.tables.processes.note(process) else { return };
        for key in std::mem::take(&mut process.awaiting) {
            self.decide(key, false);
        }
    }

    /// What became known of a call may settle the question of the request at its other end.
    fn decide_other_end(&mut self, key: Key) {
        let Some(call) = self.tables.exchanges.get(&key).filter(|exchange| exchange.role() == Role::Client)
        else {
            return;
        };
        if let Occupant::One(other) = self.tables.join.nearest_end(call) {
            self.decide(other, false);
        }
    }
}
