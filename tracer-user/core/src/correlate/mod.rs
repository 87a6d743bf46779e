//! From exchanges to spans with parents.
//!
//! Whether an exchange has ended and who caused it are two questions with two answers at two times. An exchange
//! enters when its request is understood; its question ([`exchange::Question`]) is settled by the rules
//! ([`ladder`]) when their evidence is complete, at the latest one decide timeout after its end; its span leaves when
//! it has ended and its fragment ([`fragment`]) is whole, or at that same deadline. A settled edge is never revised.
//!
//! | | question open | question settled |
//! |---|---|---|
//! | exchange open | rules look when evidence comes | waits for its end |
//! | ended, fragment not whole | rules look; at the deadline for the last time | waits; leaves at the deadline |
//! | ended, fragment whole | – | leaves |
//!
//! It reads no bytes: `connection` does that.

mod candidates;
mod carriers;
mod conn;
mod contexts;
mod deadlines;
mod exchange;
mod forks;
mod fragment;
mod generations;
mod goroutines;
mod handoffs;
pub(crate) mod hash;
mod ids;
mod intake;
mod join;
mod kinds;
mod ladder;
mod leave;
mod nginx;
mod processes;
mod readers;
mod rules;
mod sdk;
mod seen;
mod self_check;
mod starts;
mod streams;
mod table;
mod tasks;
mod threads;
mod tokio;
mod unsettled;
mod waits;
mod wakes;
mod works;

use std::collections::VecDeque;
use std::time::Duration;

use tracer_abi::conn::Role;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

pub(crate) use conn::ConnFacts;
pub use self_check::Accuracy;
pub(crate) use wakes::is_of_wakes;

use self::carriers::Carriers;
use self::contexts::Contexts;
use self::deadlines::{Deadlines, Look};
use self::exchange::{Exchange, Key, Question, Settled, Side, Undecided};
use self::fragment::{Fragments, Trace};
use self::handoffs::HandOffs;
use self::hash::HashKey;
use self::ids::Ids;
use self::join::{JoinTable, Occupant};
use self::processes::Processes;
use self::rules::{Moment, Tables, Verdict, same_bytes};
use self::self_check::SelfCheck;
use self::table::Exchanges;
use self::threads::Threads;
use crate::context::{Propagators, RequestIdKey};
use crate::engine::{HandOffPolicy, SdkSpans, Wish};
use crate::event::{ConnOpened, HostFacts, ProcessFacts};
use crate::span::{Confidence, Span, SpanId};
use crate::stats::Stats;

/// Bounds of the correlation's tables.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) decide_timeout: Duration,
    pub(crate) max_exchanges: usize,
    pub(crate) max_text_bytes: usize,
    pub(crate) max_threads: usize,
    pub(crate) max_processes: usize,
    pub(crate) max_header_values: usize,
    pub(crate) rules: bool,
    pub(crate) min_confidence: Confidence,
    pub(crate) sdk_spans: SdkSpans,
    pub(crate) handoffs: HandOffPolicy,
    pub(crate) redact_query: bool,
    pub(crate) propagators: Propagators,
}

#[derive(Debug)]
pub(crate) struct Correlator {
    bounds: Bounds,
    tables: Tables,
    fragments: Fragments,
    deadlines: Deadlines,
    ids: Ids,
    request_id_key: RequestIdKey,
    text_bytes: usize,
    now: KernelInstant,
    /// Time changes nothing before.
    wake: KernelInstant,
    /// Spans are held back until all questions are settled: the end of a run.
    holding: bool,
    /// Spans that calls name as their parents; for [`SdkSpans::Suppress`].
    named: Contexts,
    self_check: SelfCheck,
    wishes: VecDeque<Wish>,
    out: VecDeque<Span>,
    pub(crate) stats: Stats,
}

impl Correlator {
    pub(crate) fn new(bounds: Bounds, host: HostFacts, seed: [u8; 32]) -> Self {
        Self {
            tables: Tables {
                exchanges: Exchanges::new(),
                threads: Threads::new(bounds.max_threads),
                processes: Processes::new(host, bounds.max_processes),
                join: JoinTable::new(HashKey::new(seed)),
                contexts: Contexts::default(),
                traces: Contexts::default(),
                carriers: Carriers::new(seed, bounds.max_header_values),
                answers: tasks::answers(HashKey::new(seed)),
                handoffs: HandOffs::default(),
                rules: bounds.rules,
                min_confidence: bounds.min_confidence,
                last_loss: None,
                last_damage: None,
                last_late: None,
            },
            bounds,
            fragments: Fragments::default(),
            deadlines: Deadlines::default(),
            ids: Ids::new(seed),
            request_id_key: RequestIdKey::new(seed),
            text_bytes: 0,
            now: KernelInstant::ZERO,
            wake: KernelInstant::MAX,
            holding: false,
            named: Contexts::default(),
            self_check: SelfCheck::default(),
            wishes: VecDeque::new(),
            out: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    pub(crate) fn conn_opened(&mut self, opened: ConnOpened, facts: &mut ConnFacts) {
        let at = self.tables.join.conn_opened(&opened);
        if opened.preexisting
            && let Some(thread) = opened.origin.thread
            && let Some(process) = self.tables.processes.note(thread.process)
        {
            process.preexisting_since.get_or_insert(opened.origin.time);
        }
        facts.opened(opened, at);
    }

    /// May be said more than once.
    pub(crate) fn conn_closed(&mut self, facts: &mut ConnFacts, at: KernelInstant) {
        if let Some(conn) = facts.conn.take() {
            self.tables.join.conn_closed(conn.at, at);
            self.wake = self.wake.min(at.plus(join::MEMORY));
        }
    }

    pub(crate) fn process_described(&mut self, process: ProcessKey, facts: ProcessFacts) {
        self.tables.processes.described(process, facts);
    }

    pub(crate) fn process_execed(&mut self, process: ProcessKey) {
        self.tables.processes.execed(process);
        self.tables.handoffs.forget(process);
    }

    pub(crate) fn task_exited(
        &mut self,
        process: ProcessKey,
        tid: Tid,
        process_gone: bool,
        at: KernelInstant,
    ) {
        if let Some(thread) = self.tables.threads.exited(process, tid) {
            if thread.has_served() {
                self.serving_thread_gone(process, thread.reading);
            }
            for key in thread.open {
                let Some(exchange) = self.tables.exchanges.get_mut(&key) else { continue };
                let whole = thread.whole_since <= exchange.thread().seq;
                if let Some(served) = exchange.served_mut() {
                    served.thread_done = whole && !served.thread_lost;
                    served.thread_lost |= !whole;
                }
            }
        }
        if let Some(followed) = self.tables.handoffs.find_mut(process) {
            followed.exited(tid);
        }
        if process_gone {
            self.tables.processes.exited(process, at);
            self.forked_process_gone(process);
            self.wake = self.wake.min(at.plus(self.process_memory()));
        }
    }

    /// Something is missing of this process.
    pub(crate) fn damaged(&mut self, process: ProcessKey, at: KernelInstant) {
        self.tables.last_damage = self.tables.last_damage.max(Some(at));
        if let Some(process) = self.tables.processes.note(process) {
            process.last_damage = process.last_damage.max(Some(at));
        }
    }

    /// What its runtime would have told is missing, up to now or from now on.
    pub(crate) fn asking_interrupted(&mut self, process: ProcessKey, at: KernelInstant) {
        self.damaged(process, at);
        if let Some(followed) = self.tables.handoffs.find_mut(process) {
            followed.lose(at);
        }
    }

    /// Events were lost somewhere.
    pub(crate) fn lost(&mut self, at: KernelInstant) {
        self.tables.last_loss = self.tables.last_loss.max(Some(at));
    }

    /// An event of this process came later than others that it was before: their order was not known. Each thread's own was.
    pub(crate) fn came_late(&mut self, process: ProcessKey, at: KernelInstant) {
        self.tables.last_late = self.tables.last_late.max(Some(at));
        if let Some(process) = self.tables.processes.note(process) {
            process.last_late = process.last_late.max(Some(at));
        }
    }

    /// All events up to `now` have been handed in.
    pub(crate) fn advance(&mut self, now: KernelInstant) {
        self.now = self.now.max(now);
        if self.now >= self.wake {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        while let Some(key) = self.deadlines.pop(self.now) {
            self.look_again(key);
        }
        let join = self.tables.join.forget(self.now).map(|closed| closed.plus(join::MEMORY));
        let memory = self.process_memory();
        let processes = self.tables.processes.forget(self.now.minus(memory)).map(|gone| gone.plus(memory));
        if !self.tables.handoffs.is_empty() {
            let processes = &self.tables.processes;
            self.tables.handoffs.retain(|process| processes.find(process).is_some());
        }
        let next = [self.deadlines.next(), join, processes].into_iter().flatten().min();
        self.wake = next.unwrap_or(KernelInstant::MAX);
    }

    /// How long a process is remembered that has ended: its last spans may still wait.
    fn process_memory(&self) -> Duration {
        self.bounds.decide_timeout.saturating_mul(2)
    }

    fn plan(&mut self, look: Look, at: KernelInstant, key: Key) {
        self.deadlines.add(look, at, key);
        self.wake = self.wake.min(at);
    }

    pub(crate) fn next_deadline(&self) -> Option<KernelInstant> {
        self.deadlines.next()
    }

    pub(crate) fn poll_span(&mut self) -> Option<Span> {
        self.out.pop_front()
    }

    /// Settles every question with what is known, and lets every span leave. All exchanges have ended.
    pub(crate) fn finish(&mut self, now: KernelInstant) {
        self.now = self.now.max(now);
        let keys: Vec<Key> = self.tables.exchanges.keys().collect();
        self.holding = true;
        for key in &keys {
            self.look_at_handoff(*key, true);
        }
        for key in &keys {
            self.decide(*key, true);
        }
        self.holding = false;
        for key in keys {
            self.leave(key);
        }
    }

    fn look_again(&mut self, key: Key) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        if exchange.left {
            if exchange.end.is_some_and(|end| self.now >= end.time.plus(join::MEMORY)) {
                self.let_go(key);
            }
            return;
        }
        let last = exchange.end.is_some_and(|end| self.now >= end.time.plus(self.bounds.decide_timeout));
        let (fragment, began, server) =
            (exchange.fragment, exchange.first.time, exchange.role() == Role::Server);
        self.look_at_handoff(key, last);
        self.decide(key, last);
        let traced = began.plus(same_bytes::GRACE_TRACED);
        if server && self.now < traced && self.is_open(key) {
            self.plan(Look::Traced, traced, key);
        }
        if !last {
            self.plan_deadline(key);
            self.ready(key);
        }
        if last {
            // Whatever is known of those above it by now gives it its trace.
            while let Some(top) = self.fragments.open_top(fragment)
                && self.decide_parent(top)
            {}
            self.leave(key);
        }
    }

    /// Plans the look at a request when its other end should be known.
    fn plan_grace(&mut self, key: Key) {
        if let Some(exchange) = self.tables.exchanges.get_mut(&key)
            && !std::mem::replace(&mut exchange.has_grace, true)
        {
            let at = exchange.first.time.plus(same_bytes::GRACE);
            self.plan(Look::Grace, at, key);
        }
    }

    /// The same for all requests that are held: a call may be the other end of any of them.
    fn plan_graces(&mut self) {
        let alone = |(key, exchange): (Key, &mut Exchange)| {
            (exchange.role() != Role::Client && !exchange.has_grace).then_some(key)
        };
        let keys: Vec<Key> = self.tables.exchanges.iter_mut().filter_map(alone).collect();
        for key in keys {
            self.plan_grace(key);
        }
    }

    /// Plans the last look at an exchange that has ended.
    fn plan_deadline(&mut self, key: Key) {
        if let Some(exchange) = self.tables.exchanges.get_mut(&key)
            && let (Some(end), false, false) = (exchange.end, exchange.left, exchange.has_deadline)
        {
            exchange.has_deadline = true;
            self.plan(Look::Decide, end.time.plus(self.bounds.decide_timeout), key);
        }
    }

    fn is_open(&self, key: Key) -> bool {
        self.tables.exchanges.get(&key).is_some_and(|exchange| exchange.question == Question::Open)
    }

    /// Settles the question only if there is a parent now.
    fn decide_parent(&mut self, key: Key) -> bool {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return false };
        match ladder::weigh(&self.tables, exchange, Moment { now: self.now, last: true }) {
            Verdict::Wait | Verdict::Abstain(_) => return false,
            Verdict::Parent(..) | Verdict::Remote(..) => {}
        }
        self.decide(key, true);
        true
    }

    /// Asks the rules, if the question is still open.
    fn decide(&mut self, key: Key, last: bool) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        if exchange.question != Question::Open {
            return;
        }
        let moment = Moment { now: self.now, last };
        if ladder::is_early(&self.tables, exchange, moment) {
            return;
        }
        let verdict = ladder::weigh(&self.tables, exchange, moment);
        if same_bytes::was_awaited(exchange, moment) && verdict != Verdict::Wait {
            self.tables.join.note_other_end(exchange);
        }
        let settled = match verdict {
            Verdict::Wait => {
                self.hold_other_end(key);
                return;
            }
            Verdict::Abstain(reason) => Settled::Root(reason),
            Verdict::Remote(span_id, evidence, confidence) => {
                self.stand_aside(key, span_id);
                Settled::Parent { span_id, evidence, confidence, remote: true }
            }
            Verdict::Parent(parent, evidence, confidence) => match self.put_below(key, parent) {
                Ok(span_id) => Settled::Parent { span_id, evidence, confidence, remote: false },
                Err(reason) => Settled::Root(Some(reason)),
            },
        };
        self.check_rules(key);
        self.settle(key, settled);
    }

    fn settle(&mut self, key: Key, settled: Settled) {
        if settled == Settled::Root(Some(Undecided::Contradiction)) {
            self.stats.contradictions += 1;
        }
        if let Settled::Root(Some(_)) = settled {
            self.note_candidates(key);
        }
        self.pass_trace_on(key, matches!(settled, Settled::Parent { remote: true, .. }));
        self.note_missed(key, settled);
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
        exchange.question = Question::Settled(settled);
        let (ended, fragment) = (exchange.end.is_some(), exchange.fragment);
        let (pinned, beside) = match &mut exchange.side {
            Side::Server(served) => ([served.peer_pin.take(), None, None, None, None], Vec::new()),
            Side::Client(called) => {
                let pinned = [
                    called.served,
                    called.window_pin.take(),
                    called.carrier.take(),
                    called.answer_pin.take(),
                    called.forked_for,
                ];
                let mut others = std::mem::take(&mut called.beside);
                let handed = called.handed.take().map(|handed| handed.candidates).unwrap_or_default();
                others.extend(handed.iter().map(|candidate| candidate.request));
                (pinned, others)
            }
        };
        match settled {
            Settled::Parent { remote: false, .. } => {}
            Settled::Parent { remote: true, .. } | Settled::Root(_) => {
                // A header gives the trace, also where it does not give the parent.
                if let Some(context) = exchange.context.as_ref() {
                    let sampled = context.sampling().is_recorded();
                    let ids = &mut self.ids;
                    match context.remote() {
                        Some(remote) => {
                            let (id, state) = (remote.trace_id, remote.trace_state.clone());
                            self.fragments.fix_trace(fragment, || Trace { id, sampled, state });
                        }
                        // The decision alone, for a trace that begins here.
                        None if !sampled => {
                            let begun = || Trace { id: ids.trace_id(), sampled, state: None };
                            self.fragments.fix_trace(fragment, begun);
                        }
                        None => {}
                    }
                }
                for waiting in self.fragments.close(fragment).into_iter().flatten() {
                    self.ready(waiting);
                }
            }
        }
        for pinned in pinned.into_iter().flatten().chain(beside) {
            self.unpin(pinned);
        }
        if ended {
            self.ready(key);
        }
    }

    /// Makes `upper` the parent of `lower`, if their traces allow it.
    fn put_below(&mut self, lower: Key, upper: Key) -> Result<SpanId, Undecided> {
        let (Some(below), Some(above)) =
            (self.tables.exchanges.get(&lower), self.tables.exchanges.get(&upper))
        else {
            return Err(Undecided::LimitReached);
        };
        let (below, above, span_id) = (below.fragment, above.fragment, above.span_id);
        if !self.fragments.can_merge(below, above) {
            return Err(Undecided::Contradiction);
        }
        for waiting in self.fragments.merge(below, above).into_iter().flatten() {
            self.ready(waiting);
        }
        let received =
            self.tables.exchanges.get(&lower).and_then(|lower| lower.served().map(|_| lower.first.time));
        if let (Some(received), Some(call)) = (received, self.tables.exchanges.get_mut(&upper)) {
            call.received_by_peer = Some(received);
            if let Some(called) = call.called_mut() {
                called.receiver = Some(lower);
            }
            let suppressed = call.suppressed;
            if let Some(request) = self.tables.exchanges.get_mut(&lower) {
                request.parent_elsewhere = suppressed;
            }
            self.let_go(upper);
        }
        Ok(span_id)
    }

    /// A request whose other end may be this call waits for more evidence: the call stays until then.
    fn hold_other_end(&mut self, key: Key) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        if exchange.served().is_none_or(|served| served.peer_pin.is_some()) {
            return;
        }
        let (nearest, received) = (self.tables.join.nearest_end(exchange), exchange.first.time);
        let by_place = self.tables.join.other_end(exchange) == nearest;
        let Some(served) = self.tables.exchanges.get_mut(&key).and_then(|exchange| exchange.served_mut())
        else {
            return;
        };
        match nearest {
            Occupant::Nobody => {}
            Occupant::Several => served.peer_ambiguous = true,
            Occupant::One(call) => {
                served.peer_pin = Some(call);
                if let Some(held) = self.tables.exchanges.get_mut(&call) {
                    held.pins += 1;
                    // It may leave before the question is settled; the place of its first byte is known already.
                    held.received_by_peer = held.received_by_peer.or(by_place.then_some(received));
                }
            }
        }
    }
}
