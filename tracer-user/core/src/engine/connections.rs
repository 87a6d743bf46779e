//! The connections that are open: each event goes to its connection, what comes of it goes to the correlation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use tracer_abi::conn::SocketCookie;
use tracer_abi::sniff::Class;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use crate::connection::{Connection, ConnectionLimits, ConnectionStats};
use crate::correlate::{ConnFacts, Correlator};
use crate::event::{ConnClosed, ConnOpened, DataMoved, IoOutcome};
use crate::exchange::ExchangeUpdate;
use crate::stats::Stats;

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

#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    max: usize,
    table: BTreeMap<SocketCookie, Box<Entry>>,
    /// In the order in which they were first seen; closed ones are skipped when met.
    order: VecDeque<(u64, SocketCookie)>,
    timers: BinaryHeap<Reverse<(KernelInstant, SocketCookie)>>,
    next_number: u64,
    updates: Vec<ExchangeUpdate>,
    unrecognised: BTreeMap<(ProcessKey, Class), (u64, u64)>,
    lost: ConnectionStats,
    cut: u64,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    facts: ConnFacts,
    number: u64,
    process: Option<ProcessKey>,
    bytes: u64,
    /// The earliest entry in `timers`.
    timer: Option<KernelInstant>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, max: usize) -> Self {
        Self {
            limits,
            max: max.max(1),
            table: BTreeMap::new(),
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
        self.make_room(cookie, event.origin.time, correlator);
        let entry = self.entry(cookie);
        entry.process = entry.process.or(process);
        entry.connection.handle_opened(&event);
        correlator.conn_opened(event, &mut entry.facts);
    }

    pub(super) fn data_moved(&mut self, event: &DataMoved, correlator: &mut Correlator) {
        let cookie = event.cookie;
        self.make_room(cookie, event.time, correlator);
        let mut updates = std::mem::take(&mut self.updates);
        let entry = self.entry(cookie);
        entry.process.get_or_insert(event.thread.process);
        if let (IoOutcome::Moved(moved), 0) = (event.outcome, event.chunk_offset) {
            entry.bytes = entry.bytes.saturating_add(u64::from(moved));
        }
        correlator.observe(event, &mut entry.facts);
        entry.connection.handle_data(event, &mut updates);
        self.apply(cookie, updates, event.time, correlator);
    }

    pub(super) fn closed(&mut self, event: &ConnClosed, correlator: &mut Correlator) {
        let Some(entry) = self.table.get_mut(&event.cookie) else { return };
        let mut updates = std::mem::take(&mut self.updates);
        entry.connection.handle_closed(event, &mut updates);
        correlator.conn_closed(&mut entry.facts, event.origin.time);
        self.apply(event.cookie, updates, event.origin.time, correlator);
    }

    /// Time has passed.
    pub(super) fn advance(&mut self, now: KernelInstant, correlator: &mut Correlator) {
        while let Some(Reverse((at, cookie))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(entry) = self.table.get_mut(&cookie).filter(|entry| entry.timer == Some(at)) else {
                continue;
            };
            entry.timer = None;
            let mut updates = std::mem::take(&mut self.updates);
            if entry.connection.poll_timeout().is_some_and(|due| due <= at) {
                entry.connection.handle_timeout(at, &mut updates);
            }
            self.apply(cookie, updates, at, correlator);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<KernelInstant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The run ends: every connection says its last.
    pub(super) fn finish(&mut self, now: KernelInstant, correlator: &mut Correlator) {
        while let Some((cookie, _)) = self.table.first_key_value() {
            let cookie = *cookie;
            self.give_up(cookie, now, correlator);
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
        stats.responses_passed_over = responses_passed_over;
        stats.places_lost = places_lost;
        stats.resyncs = resyncs;
        stats.connections_given_up = given_up;
        stats.messages_malformed = malformed;
        stats.connections_cut = self.cut;
    }

    /// Hands updates on, takes the connection's counts, and sees to its timer or its end.
    fn apply(
        &mut self,
        cookie: SocketCookie,
        mut updates: Vec<ExchangeUpdate>,
        now: KernelInstant,
        correlator: &mut Correlator,
    ) {
        if let Some(entry) = self.table.get_mut(&cookie) {
            for update in updates.drain(..) {
                correlator.update(update, &mut entry.facts);
            }
            let lost = entry.connection.stats();
            if lost != ConnectionStats::default() {
                correlator.lost(now);
                self.lost.add(lost);
            }
            let due = entry.connection.poll_timeout();
            if let Some(due) = due
                && entry.timer.is_none_or(|timer| due < timer)
            {
                entry.timer = Some(due);
                self.timers.push(Reverse((due, cookie)));
            }
            if entry.connection.is_over() {
                self.remove(cookie);
            }
        }
        self.updates = updates;
    }

    /// The connection is ended from this side.
    fn give_up(&mut self, cookie: SocketCookie, now: KernelInstant, correlator: &mut Correlator) {
        let Some(entry) = self.table.get_mut(&cookie) else { return };
        let mut updates = std::mem::take(&mut self.updates);
        entry.connection.finish(now, &mut updates);
        correlator.conn_closed(&mut entry.facts, now);
        self.apply(cookie, updates, now, correlator);
        self.remove(cookie);
    }

    fn remove(&mut self, cookie: SocketCookie) {
        let Some(entry) = self.table.remove(&cookie) else { return };
        if let Some(class) = entry.connection.unrecognised() {
            let key = (entry.process.unwrap_or_default(), class);
            let full = self.unrecognised.len() >= MAX_UNRECOGNISED && !self.unrecognised.contains_key(&key);
            let key = if full { (ProcessKey::default(), class) } else { key };
            let (connections, bytes) = self.unrecognised.entry(key).or_default();
            *connections += 1;
            *bytes = bytes.saturating_add(entry.bytes);
        }
        // Closed connections at the front are not to fill the queue.
        while let Some((number, cookie)) = self.order.front()
            && self.table.get(cookie).is_none_or(|entry| entry.number != *number)
        {
            self.order.pop_front();
        }
    }

    fn make_room(&mut self, cookie: SocketCookie, now: KernelInstant, correlator: &mut Correlator) {
        if self.table.contains_key(&cookie) {
            return;
        }
        while self.table.len() >= self.max {
            let Some((number, oldest)) = self.order.pop_front() else { return };
            if self.table.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.cut += 1;
                self.give_up(oldest, now, correlator);
            }
        }
        // An hour-long connection at the front must not let the queue grow behind it.
        if self.order.len() >= self.max.saturating_mul(2) {
            let table = &self.table;
            self.order
                .retain(|(number, cookie)| table.get(cookie).is_some_and(|entry| entry.number == *number));
        }
    }

    fn entry(&mut self, cookie: SocketCookie) -> &mut Entry {
        self.table.entry(cookie).or_insert_with(|| {
            let number = self.next_number;
            self.next_number += 1;
            self.order.push_back((number, cookie));
            Box::new(Entry {
                connection: Connection::new(&self.limits),
                facts: ConnFacts::default(),
                number,
                process: None,
                bytes: 0,
                timer: None,
            })
        })
    }
}
