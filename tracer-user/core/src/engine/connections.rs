//! The connections that are open: each event goes to its connection, what comes of it goes to the correlation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::Runtime;
use tracer_abi::sniff::Class;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use crate::connection::{Connection, ConnectionLimits, ConnectionStats};
use crate::correlate::hash::NumberMap;
use crate::correlate::{ConnFacts, Correlator};
use crate::event::{CiphertextMoved, ConnClosed, ConnOpened, DataMoved, IoOutcome, TaskIdentified};
use crate::exchange::ExchangeUpdate;
use crate::stats::Stats;
use crate::tls::{Tls, TlsFacts};

/// Traffic in which no exchange was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrecognised {
    pub process: ProcessKey,
    pub class: Class,
    pub connections: u64,
    /// Of both directions.
    pub bytes: u64,
}

/// Processes and classes counted apart; traffic of further ones is counted under the process key of zeros.
const MAX_UNRECOGNISED: usize = 1024;

/// How long a connection of TLS that was closed is kept for what its program was given before, and is told of after: a
/// library's call is when it returns, and another thread may close the socket inside of it.
const LINGER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Connections {
    limits: Arc<ConnectionLimits>,
    max: usize,
    /// Places in `entries`.
    table: NumberMap<SocketCookie, u32>,
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
    /// The one looked for last: what a program does on a connection comes in a row.
    recent: Option<(SocketCookie, u32)>,
    /// In the order in which they were first seen; closed ones are skipped when met.
    order: VecDeque<(u64, u32)>,
    timers: BinaryHeap<Reverse<(KernelInstant, SocketCookie)>>,
    next_number: u64,
    updates: Vec<ExchangeUpdate>,
    unrecognised: BTreeMap<(ProcessKey, Class), (u64, u64)>,
    lost: ConnectionStats,
    cut: u64,
}

#[derive(Debug)]
struct Entry {
    cookie: SocketCookie,
    connection: Connection,
    facts: ConnFacts,
    number: u64,
    process: Option<ProcessKey>,
    bytes: u64,
    /// Its bytes are plaintext of TLS: those of the socket are passed over.
    secured: bool,
    /// It was closed, and [`LINGER`] is not over.
    closed: Option<ConnClosed>,
    /// The earliest entry in `timers`.
    timer: Option<KernelInstant>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, max: usize) -> Self {
        Self {
            limits: Arc::new(limits),
            max: max.max(1),
            table: NumberMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
            recent: None,
            order: VecDeque::new(),
            timers: BinaryHeap::new(),
            next_number: 0,
            updates: Vec::new(),
            unrecognised: BTreeMap::new(),
            lost: ConnectionStats::default(),
            cut: 0,
        }
    }

    pub(super) fn opened(&mut self, event: ConnOpened, correlator: &mut Correlator) {
        let cookie = event.cookie;
        let process = event.origin.thread.map(|thread| thread.process);
        let place = self.place(cookie, event.origin.time, correlator);
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        entry.process = entry.process.or(process);
        entry.connection.handle_opened(&event);
        correlator.conn_opened(event, &mut entry.facts);
    }

    pub(super) fn data_moved(&mut self, event: &mut DataMoved, tls: &Tls, correlator: &mut Correlator) {
        let place = self.place(event.cookie, event.time, correlator);
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        match event.outcome {
            // Encrypted, of a socket older than the tracer, which the kernel half does not know to be TLS.
            IoOutcome::Moved(_) if entry.secured => correlator.observe(event, &mut entry.facts),
            // What came before it may still be told of, and if it is not, the close says so.
            IoOutcome::EndOfStream | IoOutcome::Failed(_)
                if entry.secured && !entry.connection.leaves_out_calls() && awaits(event, tls) => {}
            IoOutcome::EndOfStream | IoOutcome::Failed(_) if entry.secured => {
                event.offset = 0;
                self.feed(place, event, correlator);
            }
            IoOutcome::Moved(_) | IoOutcome::EndOfStream | IoOutcome::Failed(_) => {
                self.feed(place, event, correlator);
            }
        }
    }

    fn feed(&mut self, place: u32, event: &mut DataMoved, correlator: &mut Correlator) {
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        let mut updates = std::mem::take(&mut self.updates);
        entry.process.get_or_insert(event.thread.process);
        if let (IoOutcome::Moved(moved), 0, false) = (event.outcome, event.chunk_offset, event.in_tls_call) {
            entry.bytes = entry.bytes.saturating_add(u64::from(moved));
        }
        correlator.observe(event, &mut entry.facts);
        entry.connection.handle_data(event, &mut updates);
        self.apply(place, updates, event.time, correlator);
        self.remove_if_over(place);
    }

    /// Plaintext of TLS, as operations of the socket that carries it, and whose work they are where that is known.
    pub(super) fn plaintext_moved(
        &mut self,
        event: &mut DataMoved,
        identified: Option<TaskIdentified>,
        facts: Option<&TlsFacts>,
        correlator: &mut Correlator,
    ) {
        let place = self.place(event.cookie, event.time, correlator);
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        if !std::mem::replace(&mut entry.secured, true) {
            // What was understood of the bytes of the socket is that they are not.
            entry.connection = Connection::new(&self.limits);
            if let Some(opened) = entry.facts.opened_as() {
                entry.connection.handle_opened(opened);
            }
            if let Some(facts) = facts {
                entry.facts.secure(facts);
            }
        }
        if let Some(identified) = identified {
            correlator.identified(identified, &mut entry.facts);
        }
        self.feed(place, event, correlator);
    }

    /// A socket operation of a TLS connection: how much it carries.
    pub(super) fn ciphertext_moved(&mut self, event: &CiphertextMoved, correlator: &mut Correlator) {
        let place = self.place(event.cookie, event.time, correlator);
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        entry.process.get_or_insert(event.process);
        // What is told of inside of a call would be told of in clear, too, if it carried anything.
        if !entry.secured && !event.more && event.session.is_none() {
            entry.bytes = entry.bytes.saturating_add(u64::from(event.op_len));
        }
    }

    /// Whose work the next operation on a connection is.
    pub(super) fn identified(&mut self, event: TaskIdentified, correlator: &mut Correlator) {
        let Some(place) = self.find(event.cookie) else { return };
        // It names a request, by another connection.
        let request = (event.runtime == Runtime::Nginx).then(|| {
            let stream = event.tasks.get(1).map(|stream| stream.address);
            self.client_of(&event).and_then(|client| correlator.request_of(client, stream))
        });
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        match request {
            Some(request) => entry.facts.used_for = request.map(|request| (event.thread, request)),
            None => correlator.identified(event, &mut entry.facts),
        }
    }

    /// The connection that nginx named.
    fn client_of(&self, event: &TaskIdentified) -> Option<&ConnFacts> {
        let client = *self.table.get(&SocketCookie(event.tasks.first()?.number))?;
        Some(&self.entries[client as usize].as_ref()?.facts)
    }

    /// `unheard`: as of [`Tls::unheard`].
    pub(super) fn closed(&mut self, event: ConnClosed, unheard: [u64; 2], correlator: &mut Correlator) {
        let Some(place) = self.find(event.cookie) else { return };
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        let time = event.origin.time;
        let event = if entry.secured { plain(&entry.connection, event, unheard) } else { event };
        let mut updates = std::mem::take(&mut self.updates);
        if entry.secured && entry.connection.may_be_told_more(unheard) {
            entry.closed.get_or_insert(event);
        } else {
            entry.connection.handle_closed(&event, &mut updates);
            self.apply(place, updates, time, correlator);
            return self.forget(place, time, correlator);
        }
        self.apply(place, updates, time, correlator);
    }

    /// Time has passed.
    pub(super) fn advance(&mut self, now: KernelInstant, correlator: &mut Correlator) {
        while let Some(Reverse((at, cookie))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(place) = self.find(cookie) else { continue };
            let entry = self.entries[place as usize].as_mut().filter(|entry| entry.timer == Some(at));
            let Some(entry) = entry else { continue };
            entry.timer = None;
            let mut updates = std::mem::take(&mut self.updates);
            if entry.connection.poll_timeout().is_some_and(|due| due <= at) {
                entry.connection.handle_timeout(at, &mut updates);
            }
            let closed = entry.closed.take_if(|closed| closed.origin.time.plus(LINGER) <= at);
            if let Some(closed) = &closed {
                entry.connection.handle_closed(closed, &mut updates);
            }
            self.apply(place, updates, at, correlator);
            match closed {
                Some(closed) => self.forget(place, closed.origin.time, correlator),
                None => self.remove_if_over(place),
            }
        }
    }

    pub(super) fn next_timeout(&self) -> Option<KernelInstant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The run ends: every connection says its last.
    pub(super) fn finish(&mut self, now: KernelInstant, correlator: &mut Correlator) {
        let in_use =
            self.entries.iter().zip(0..).filter_map(|(entry, place)| Some((entry.as_ref()?.cookie, place)));
        let mut places: Vec<(SocketCookie, u32)> = in_use.collect();
        places.sort_unstable();
        for (_, place) in places {
            self.give_up(place, now, correlator);
        }
    }

    pub(super) fn unrecognised(&self) -> impl Iterator<Item = Unrecognised> {
        self.unrecognised.iter().map(|(&(process, class), &(connections, bytes))| Unrecognised {
            process,
            class,
            connections,
            bytes,
        })
    }

    pub(super) fn count(&self, stats: &mut Stats) {
        let ConnectionStats {
            lost_bytes,
            unreadable_bytes,
            late_bytes,
            exchanges_lost,
            requests_passed_over,
            responses_passed_over,
            responses_joined,
            places_lost,
            resyncs,
            given_up,
            malformed,
        } = self.lost;
        stats.stream_bytes_lost = lost_bytes;
        stats.stream_bytes_unreadable = unreadable_bytes;
        stats.stream_bytes_late = late_bytes;
        stats.exchanges_lost = exchanges_lost;
        stats.requests_passed_over = requests_passed_over;
        stats.responses_passed_over = responses_passed_over.saturating_add(responses_joined);
        stats.places_lost = places_lost;
        stats.resyncs = resyncs;
        stats.connections_given_up = given_up;
        stats.messages_malformed = malformed;
        stats.connections_cut = self.cut;
    }

    /// Hands updates on, takes the connection's counts, and sees to its timer or its end.
    fn apply(
        &mut self,
        place: u32,
        mut updates: Vec<ExchangeUpdate>,
        now: KernelInstant,
        correlator: &mut Correlator,
    ) {
        if let Some(entry) = self.entries[place as usize].as_mut() {
            for mut update in updates.drain(..) {
                if let (true, ExchangeUpdate::RequestBegan { request, .. }) = (entry.secured, &mut update) {
                    request.secure = true;
                }
                correlator.update(update, &mut entry.facts);
            }
            if entry.connection.has_stats() {
                let stats = entry.connection.stats();
                if stats.is_loss() {
                    match entry.process {
                        Some(process) => correlator.damaged(process, now),
                        None => correlator.lost(now),
                    }
                }
                self.lost.add(stats);
            }
            let lingers = entry.closed.as_ref().map(|closed| closed.origin.time.plus(LINGER));
            let due = entry.connection.poll_timeout().into_iter().chain(lingers).min();
            if let Some(due) = due
                && entry.timer.is_none_or(|timer| due < timer)
            {
                entry.timer = Some(due);
                self.timers.push(Reverse((due, entry.cookie)));
            }
        }
        self.updates = updates;
    }

    /// The connection was closed, and all that came of it was told: an exchange that the close began is on it still.
    fn forget(&mut self, place: u32, at: KernelInstant, correlator: &mut Correlator) {
        if let Some(entry) = self.entries[place as usize].as_mut() {
            correlator.conn_closed(&mut entry.facts, at);
        }
        self.remove_if_over(place);
    }

    fn remove_if_over(&mut self, place: u32) {
        if self.entries[place as usize].as_ref().is_some_and(|entry| entry.connection.is_over()) {
            self.remove(place);
        }
    }

    /// The connection is ended from this side.
    fn give_up(&mut self, place: u32, now: KernelInstant, correlator: &mut Correlator) {
        let Some(entry) = self.entries[place as usize].as_mut() else { return };
        let mut updates = std::mem::take(&mut self.updates);
        match entry.closed.take() {
            Some(closed) => entry.connection.handle_closed(&closed, &mut updates),
            None => entry.connection.finish(now, &mut updates),
        }
        self.apply(place, updates, now, correlator);
        self.forget(place, now, correlator);
        self.remove(place);
    }

    fn remove(&mut self, place: u32) {
        let Some(entry) = self.entries[place as usize].take() else { return };
        self.table.remove(&entry.cookie);
        self.free.push(place);
        self.recent = None;
        if let Some(class) = entry.connection.unrecognised() {
            let key = (entry.process.unwrap_or_default(), class);
            let full = self.unrecognised.len() >= MAX_UNRECOGNISED && !self.unrecognised.contains_key(&key);
            let key = if full { (ProcessKey::default(), class) } else { key };
            let (connections, bytes) = self.unrecognised.entry(key).or_default();
            *connections += 1;
            *bytes = bytes.saturating_add(entry.bytes);
        }
        // Closed connections at the front are not to fill the queue.
        while let Some((number, place)) = self.order.front()
            && !is_numbered(&self.entries, *place, *number)
        {
            self.order.pop_front();
        }
    }

    fn find(&mut self, cookie: SocketCookie) -> Option<u32> {
        if let Some((recent, place)) = self.recent
            && recent == cookie
        {
            return Some(place);
        }
        let place = *self.table.get(&cookie)?;
        self.recent = Some((cookie, place));
        Some(place)
    }

    /// Where the connection is, from now on if need be.
    fn place(&mut self, cookie: SocketCookie, now: KernelInstant, correlator: &mut Correlator) -> u32 {
        if let Some(place) = self.find(cookie) {
            return place;
        }
        while self.table.len() >= self.max
            && let Some((number, oldest)) = self.order.pop_front()
        {
            if is_numbered(&self.entries, oldest, number) {
                self.cut += 1;
                self.give_up(oldest, now, correlator);
            }
        }
        // An hour-long connection at the front must not let the queue grow behind it.
        if self.order.len() >= self.max.saturating_mul(2) {
            let entries = &self.entries;
            self.order.retain(|(number, place)| is_numbered(entries, *place, *number));
        }
        let number = self.next_number;
        self.next_number += 1;
        let entry = Box::new(Entry {
            cookie,
            connection: Connection::new(&self.limits),
            facts: ConnFacts::default(),
            number,
            process: None,
            bytes: 0,
            secured: false,
            closed: None,
            timer: None,
        });
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // As many as the bound allows.
            self.entries.len() as u32 - 1
        });
        self.entries[place as usize] = Some(entry);
        self.table.insert(cookie, place);
        self.order.push_back((number, place));
        place
    }
}

/// Of TLS, what the socket counts is not what the program moved.
fn plain(connection: &Connection, event: ConnClosed, unheard: [u64; 2]) -> ConnClosed {
    let total = |direction: Direction| {
        let bytes = unheard[usize::from(direction.code())];
        if bytes == 0 || connection.leaves_out_calls() {
            return 0;
        }
        connection.moved(direction).saturating_add(bytes)
    };
    ConnClosed { egress_bytes: total(Direction::Egress), ingress_bytes: total(Direction::Ingress), ..event }
}

fn awaits(event: &DataMoved, tls: &Tls) -> bool {
    tls.unheard(event.cookie)[usize::from(event.direction.code())] > 0
}

/// Whether the connection of this number is still there.
fn is_numbered(entries: &[Option<Box<Entry>>], place: u32, number: u64) -> bool {
    entries.get(place as usize).and_then(Option::as_ref).is_some_and(|entry| entry.number == number)
}
