//! The whole of the core, as its caller sees it: events and time in, spans out.
//!
//! It puts the stages together (order, connections, correlation) and holds no logic of its own beyond that. The
//! caller's duty is *handle, then drain*: after every `handle_*` call, [`Engine::poll_span`] until it is empty.

mod connections;

use std::time::Duration;

use tracer_abi::conn::SocketCookie;
use tracer_abi::event::Runtime;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use self::connections::Connections;
use crate::connection::ConnectionLimits;
use crate::context::Propagators;
use crate::correlate::{Accuracy, Bounds, Correlator, is_of_wakes};
use crate::event::{
    ConnClosed, DataMoved, Event, HostFacts, Origin, PlaintextMoved, ProcessDescribed, TaskIdentified, Thread,
};
use crate::reorder::{Reorder, Slot};
use crate::span::{Confidence, Span};
use crate::stats::Stats;
use crate::tls::Tls;

pub use self::connections::Unrecognised;

/// What a run of the engine depends on, beside its events and its seed.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// How long after its end a span waits for its parent and its trace id at most, the reorder window included.
    pub decide_timeout: Duration,
    /// How late an event may come and still be put in its place.
    pub reorder_window: Duration,
    /// How late it may where some have come later than that; a quarter of `decide_timeout` at most.
    pub max_reorder_window: Duration,
    pub host: HostFacts,
    /// Replace the values of URL queries.
    pub redact_query: bool,
    /// The trace context headers that are read, and which of them decides.
    pub propagators: Propagators,
    /// Look for the requests that calls of the same process were made for; else parents are known by headers that name
    /// them and by joined ends alone.
    pub rules: bool,
    /// Parents that are less sure than this are not claimed.
    pub min_confidence: Confidence,
    /// What becomes of spans that programs report themselves.
    pub sdk_spans: SdkSpans,
    /// Whose wake-ups are asked for.
    pub handoffs: HandOffPolicy,
    pub limits: Limits,
    pub connection: ConnectionLimits,
}

/// What becomes of the spans of calls that a program which traces itself reports, too. Such a call names a span of its
/// own making in its headers; what is known of it is that it was made for this call and others like it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SdkSpans {
    /// They are children of the program's own.
    #[default]
    Keep,
    /// They are left out, and what they called is the child of the program's own. Not where a process makes several
    /// calls with one span: that is not the span of a call.
    Suppress,
}

/// In which processes it is followed which thread wakes which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandOffPolicy {
    /// In those whose threads call for requests that other threads serve.
    #[default]
    Auto,
    /// In all.
    On,
    Off,
}

/// What the engine asks of whoever hands in the events. It does not depend on being granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Report the process's [`crate::event::ThreadWoken`].
    FollowHandOffs(ProcessKey),
    /// They are of no more use.
    LeaveHandOffs(ProcessKey),
}

/// Bounds on what the engine holds. What a bound costs is counted.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events held to put them in order: at 100,000 events a second, more than the window holds.
    pub max_reordered: usize,
    /// Connections followed; beyond it the one that was opened first is given up.
    pub max_connections: usize,
    /// Exchanges held, open or waiting; beyond it the oldest leaves as it is. About 1 KiB each.
    pub max_exchanges: usize,
    /// Text of requests held: a hostile client may send a target of tens of kilobytes.
    pub max_text_bytes: usize,
    /// Threads followed; calls of others have no parent by thread.
    pub max_threads: usize,
    /// Processes described; others have a resource without facts.
    pub max_processes: usize,
    /// Ids in headers remembered, twice over, to know one that comes again: at 10 bits each. A call whose ids might
    /// have been forgotten has no parent by header.
    pub max_header_values: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            decide_timeout: Duration::from_secs(10),
            reorder_window: Duration::from_millis(50),
            max_reorder_window: Duration::from_millis(500),
            host: HostFacts::default(),
            redact_query: true,
            propagators: Propagators::default(),
            rules: true,
            min_confidence: Confidence::Likely,
            sdk_spans: SdkSpans::default(),
            handoffs: HandOffPolicy::default(),
            limits: Limits::default(),
            connection: ConnectionLimits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_reordered: 32_768,
            max_connections: 65_536,
            max_exchanges: 65_536,
            max_text_bytes: 32 * 1024 * 1024,
            max_threads: 65_536,
            max_processes: 16_384,
            max_header_values: 1_600_000,
        }
    }
}

/// Among what an event has lost its place that came too late.
enum Place {
    AmongWakes,
    /// Among those of other threads: a thread stamps and reports one after the other, so those of its own have come in
    /// order, whenever that was.
    AmongThreads(ProcessKey),
    /// It is dated back, or nobody's: what it comes behind may be its own thread's.
    Anywhere,
}

impl Place {
    fn of(event: &Event) -> Self {
        let among = |thread: Option<Thread>| match thread {
            Some(thread) if !thread.is_nobodys() => Self::AmongThreads(thread.process),
            Some(_) | None => Self::Anywhere,
        };
        match event {
            Event::ThreadWoken(_) | Event::WorkSubmitted(_) => Self::AmongWakes,
            Event::DataMoved(event) => among(Some(event.thread)),
            Event::TaskIdentified(event) => among(Some(event.thread)),
            Event::ConnOpened(event) => among(event.origin.thread),
            Event::ConnClosed(event) => among(event.origin.thread),
            Event::ListenStarted(event) => among(event.origin.thread),
            Event::ProcessForked(event) => among(event.origin.thread),
            Event::ProcessExeced(event) => among(event.origin.thread),
            Event::TaskExited(event) => among(event.origin.thread),
            Event::PlaintextMoved(_)
            | Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ProcessDescribed(_)
            | Event::AskingInterrupted { .. }
            | Event::LossCounted { .. } => Self::Anywhere,
        }
    }
}

/// From kernel events to spans.
#[derive(Debug)]
pub struct Engine {
    reorder: Reorder,
    connections: Connections,
    tls: Tls,
    correlator: Correlator,
    /// What the stages do not count themselves.
    stats: Stats,
}

impl Engine {
    /// `seed` is the only source of randomness: ids depend on it and on the events alone.
    pub fn new(config: EngineConfig, seed: [u8; 32]) -> Self {
        let EngineConfig {
            decide_timeout,
            reorder_window,
            max_reorder_window,
            host,
            redact_query,
            propagators,
            rules,
            min_confidence,
            sdk_spans,
            handoffs,
            limits,
            connection,
        } = config;
        let Limits {
            max_reordered,
            max_connections,
            max_exchanges,
            max_text_bytes,
            max_threads,
            max_processes,
            max_header_values,
        } = limits;
        let max_window = max_reorder_window.min(decide_timeout / 4).max(reorder_window);
        let bounds = Bounds {
            // Deadlines are looked at when the events up to them are known, which is a window later.
            decide_timeout: decide_timeout.saturating_sub(max_window),
            max_exchanges: max_exchanges.max(1),
            max_text_bytes,
            max_threads,
            max_processes,
            max_header_values,
            rules,
            min_confidence,
            sdk_spans,
            handoffs: if rules { handoffs } else { HandOffPolicy::Off },
            redact_query,
            propagators,
        };
        Self {
            reorder: Reorder::new(reorder_window, max_window, max_reordered),
            connections: Connections::new(connection, max_connections),
            tls: Tls::new(max_connections),
            correlator: Correlator::new(bounds, host, seed),
            stats: Stats::default(),
        }
    }

    /// Takes in one event. Bad input becomes a counter.
    pub fn handle_event(&mut self, event: Event) {
        let (time, place) = (event.time(), Place::of(&event));
        if self.reorder.push(event) {
            self.stats.events_late += 1;
            // Until now it was missing, and what it says of its place is lost.
            self.correlator.wakes_lost(time);
            match place {
                Place::AmongWakes => {}
                Place::AmongThreads(process) => self.correlator.came_late(process, time),
                Place::Anywhere => self.correlator.lost(time),
            }
        }
        self.release();
    }

    /// Takes in the clock: call it when [`Engine::poll_timeout`] says, and no less than a few times a second.
    pub fn handle_timeout(&mut self, now: KernelInstant) {
        self.reorder.advance(now);
        self.release();
    }

    /// When there will be something to do without a further event.
    pub fn poll_timeout(&self) -> Option<KernelInstant> {
        let window = self.reorder.window();
        let deadline = self.correlator.next_deadline().map(|at| at.plus(window));
        let quiet = self.connections.next_timeout().map(|at| at.plus(window));
        let waiting = self.tls.next_timeout().map(|at| at.plus(window));
        [self.reorder.next_release(), deadline, quiet, waiting].into_iter().flatten().min()
    }

    /// The next span that leaves.
    pub fn poll_span(&mut self) -> Option<Span> {
        self.correlator.poll_span()
    }

    /// The next thing that is asked for.
    pub fn poll_wish(&mut self) -> Option<Wish> {
        self.correlator.poll_wish()
    }

    /// The run ends: everything that is still open leaves as incomplete. Drain once more, then drop the engine.
    pub fn finish(&mut self, now: KernelInstant) {
        self.reorder.advance(now);
        while let Some(slot) = self.reorder.pop_any() {
            self.dispatch(slot);
        }
        self.give_up_waiting(KernelInstant::from_nanos(u64::MAX));
        self.connections.finish(now, &mut self.correlator);
        self.correlator.finish(now);
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        let Stats { events_late, records_malformed, kernel_losses, .. } = self.stats;
        let mut stats = self.correlator.stats.clone();
        self.connections.count(&mut stats);
        let tls = self.tls.stats();
        (stats.tls_sessions_unbound, stats.tls_unplaced) = (tls.unbound, tls.unplaced);
        Stats { events_late, records_malformed, kernel_losses, ..stats }
    }

    /// A record that `decode` refused: counted here, with the other losses.
    pub fn count_malformed(&mut self) {
        self.stats.records_malformed += 1;
        self.note_loss();
    }

    /// Events are missing here, whose number is counted elsewhere.
    pub fn note_loss(&mut self) {
        self.correlator.lost(self.reorder.newest());
    }

    /// Traffic of connections that ended, or were given up, without yielding an exchange; complete after
    /// [`Engine::finish`].
    pub fn unrecognised(&self) -> impl Iterator<Item = Unrecognised> {
        self.connections.unrecognised()
    }

    /// How each rule did in each process, on calls whose parent their headers prove; complete after
    /// [`Engine::finish`].
    pub fn accuracy(&self) -> impl Iterator<Item = &Accuracy> {
        self.correlator.accuracy()
    }

    fn release(&mut self) {
        while let Some(slot) = self.reorder.pop() {
            self.dispatch(slot);
        }
        let horizon = self.reorder.horizon();
        self.give_up_waiting(horizon);
        self.advance(horizon);
    }

    /// Plaintext whose record was not sent, as far as it is seen.
    fn give_up_waiting(&mut self, now: KernelInstant) {
        let mut moved = Vec::new();
        self.tls.advance(now, |data| moved.push(data));
        self.hand_on(moved, None);
    }

    fn advance(&mut self, now: KernelInstant) {
        self.connections.advance(now, &mut self.correlator);
        self.correlator.advance(now);
    }

    fn dispatch(&mut self, slot: Slot) {
        let Self { reorder, connections, correlator, tls, .. } = self;
        let Some(event) = reorder.event(slot) else { return };
        let time = event.time();
        connections.advance(time, correlator);
        correlator.advance(time);
        // Nearly all are of this kind: read in place.
        if let Event::DataMoved(event) = event {
            connections.data_moved(event, tls, correlator);
            reorder.drop(slot);
        } else if let Some(event) = reorder.take(slot) {
            self.dispatch_taken(event);
        }
    }

    fn plaintext_moved(&mut self, event: PlaintextMoved) {
        let mut moved = Vec::new();
        let identified = self.tls.take_identified(&event);
        self.tls.plaintext(event, |data| moved.push(data));
        self.hand_on(moved, identified);
    }

    fn hand_on(&mut self, moved: Vec<DataMoved>, mut identified: Option<TaskIdentified>) {
        for mut data in moved {
            let facts = self.tls.facts(data.cookie);
            self.connections.plaintext_moved(&mut data, identified.take(), facts, &mut self.correlator);
        }
    }

    /// Of sockets it is seen that they close; of these there is none.
    fn end_apart(&mut self, origin: Origin, connections: impl IntoIterator<Item = SocketCookie>) {
        for cookie in connections {
            let closed = ConnClosed { origin, cookie, by_packet: false, egress_bytes: 0, ingress_bytes: 0 };
            self.connections.closed(closed, [0; 2], &mut self.correlator);
        }
    }

    fn dispatch_taken(&mut self, event: Event) {
        match event {
            Event::DataMoved(mut event) => {
                self.connections.data_moved(&mut event, &self.tls, &mut self.correlator);
            }
            Event::PlaintextMoved(event) => self.plaintext_moved(*event),
            Event::CiphertextMoved(event) => {
                self.tls.ciphertext(&event);
                self.connections.ciphertext_moved(&event, &mut self.correlator);
            }
            Event::RecordSealed(event) => {
                let mut moved = Vec::new();
                self.tls.record_sealed(&event, |data| moved.push(data));
                self.hand_on(moved, None);
            }
            Event::SessionEnded(event) => {
                if let Some(thread) = event.origin.thread {
                    let ended = self.tls.session_ended(thread.process, event.session);
                    self.end_apart(event.origin, ended);
                }
            }
            Event::SessionSecured(event) => self.tls.session_secured(&event),
            Event::ConnOpened(event) => self.connections.opened(event, &mut self.correlator),
            Event::ConnClosed(event) => {
                let unheard = self.tls.unheard(event.cookie);
                self.tls.conn_closed(event.cookie);
                self.connections.closed(event, unheard, &mut self.correlator);
            }
            // Which processes and ports to trace is the caller's business.
            Event::ListenStarted(_) => {}
            Event::ProcessForked(event) => {
                if let Some(parent) = event.origin.thread {
                    self.correlator.process_forked(parent, event.child, event.origin.time);
                }
            }
            Event::ProcessExeced(event) => {
                if let Some(thread) = event.origin.thread {
                    self.correlator.process_execed(thread.process);
                }
            }
            Event::TaskExited(event) => {
                if let Some(thread) = event.origin.thread {
                    if event.process_gone {
                        let ended = self.tls.process_ended(thread.process);
                        self.end_apart(event.origin, ended);
                    }
                    self.correlator.task_exited(
                        thread.process,
                        thread.tid,
                        event.process_gone,
                        event.origin.time,
                    );
                }
            }
            Event::TaskIdentified(event) if event.runtime == Runtime::PythonMaker => {
                self.correlator.task_made(&event);
            }
            Event::TaskIdentified(event) if event.of_plaintext => self.tls.identified(*event),
            Event::TaskIdentified(event) => self.connections.identified(*event, &mut self.correlator),
            Event::ThreadWoken(event) => self.correlator.thread_woken(&event),
            Event::WorkSubmitted(event) => self.correlator.work_submitted(&event),
            Event::ProcessDescribed(described) => {
                let ProcessDescribed { time: _, process, facts } = *described;
                self.correlator.process_described(process, facts);
            }
            Event::AskingInterrupted { time, process } => self.correlator.asking_interrupted(process, time),
            Event::LossCounted { time, loss, count } => {
                self.stats.kernel_losses = self.stats.kernel_losses.saturating_add(count);
                if is_of_wakes(loss) {
                    self.correlator.wakes_lost(time);
                } else {
                    self.correlator.lost(time);
                }
            }
        }
    }
}
