//! What a worker of nginx shows: for which request it uses an upstream's connection, and what it answers after it has
//! received something.
//!
//! It notes; what follows is for the rules ([`super::rules::upstream`], [`super::rules::response_window`]) to judge.

use super::Correlator;
use super::conn::ConnFacts;
use super::exchange::Key;
use super::rules::response_window;
use super::threads::Received;
use crate::event::{DataMoved, IoOutcome, Thread};
use crate::exchange::Mark;

impl Correlator {
    /// The request that a client's connection is about: of this stream; or the only one there, whose first byte was not read
    /// before the answer to the one before had ended.
    pub(crate) fn request_of(&self, client: &ConnFacts, stream: Option<u64>) -> Option<Key> {
        if client.calls != Some(false) || client.has_streams != stream.is_some() {
            return None;
        }
        let exchanges = &self.tables.exchanges;
        let mut open = client.open.iter().map(|(_, key)| *key);
        if let Some(stream) = stream {
            return open.find(|key| {
                let of = exchanges.get(key).and_then(|request| request.stream);
                of.is_some_and(|of| u64::from(of) == stream)
            });
        }
        let (Some(key), None) = (open.next(), open.next()) else { return None };
        let request = exchanges.get(&key)?;
        (!client.is_early(key, request.first.time)).then_some(key)
    }

    /// A call was made.
    pub(super) fn upstream_calls(&mut self, key: Key, first: Mark, conn: &ConnFacts) {
        let Some((thread, request)) = conn.used_for else { return };
        let Thread { process, .. } = thread;
        let read = self.tables.exchanges.get(&request).filter(|request| request.process() == process);
        if thread != first.thread || read.is_none_or(|request| request.head_last.time >= first.time) {
            return;
        }
        if let Some(called) = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut()) {
            called.is_upstream = true;
        }
        self.name_request(key, request);
    }

    /// What the thread received last, for rules about nginx.
    pub(super) fn note_received(&mut self, event: &DataMoved, conn: &ConnFacts) {
        if !self.tables.processes.find(event.thread.process).is_some_and(|process| process.is_nginx()) {
            return;
        }
        let mut open =
            conn.open.iter().map(|(_, key)| *key).filter(|key| self.tables.exchanges.contains(key));
        let call = open.next();
        // Of several streams it is not known yet whose bytes these are.
        let several = conn.has_streams && open.next().is_some();
        let what = match (event.outcome, conn.calls, call) {
            (IoOutcome::Failed(_), _, _) => return,
            (IoOutcome::Moved(_), _, _) if several => Received::Unknown,
            (IoOutcome::Moved(_) | IoOutcome::EndOfStream, Some(true), Some(call)) => {
                Received::Response(call)
            }
            // Where an answer says itself that it is over, nginx goes on when the connection is.
            (IoOutcome::EndOfStream, Some(true), None) if self.is_held(conn.last_call) => {
                conn.last_call.map_or(Received::Other, Received::Response)
            }
            // The end of a connection that nothing waits for starts nothing that is seen.
            (IoOutcome::EndOfStream, _, _) => return,
            (IoOutcome::Moved(_), Some(true), None) => Received::Other,
            (IoOutcome::Moved(_), Some(false) | None, _) => Received::Request(None),
        };
        let Some(thread) = self.tables.threads.find_mut(event.thread) else { return };
        thread.run.last = what;
        let opened = if let Received::Response(call) = what { Some(call) } else { None };
        let closed = std::mem::replace(&mut thread.window, opened);
        if let Some(call) = closed.filter(|_| closed != opened) {
            self.window_closed(call);
        }
    }

    /// nginx has gone on to something else: where a call and its connection have nothing more to tell, it is known by now
    /// whom its response answered. That it is known early keeps few exchanges waiting.
    fn window_closed(&mut self, call: Key) {
        let Some(exchange) = self.tables.exchanges.get_mut(&call) else { return };
        // The end of the connection may open the window of a stream once more.
        let over = exchange.end.is_some() && !exchange.request.protocol.has_streams();
        if let Some(called) = exchange.called_mut().filter(|_| over) {
            called.window_closed = true;
            self.decide(call, false);
        }
    }

    fn is_held(&self, call: Option<Key>) -> bool {
        call.is_some_and(|call| self.tables.exchanges.contains(&call))
    }

    /// A request is answered.
    pub(super) fn response_in_window(&mut self, key: Key, by: Thread) {
        let Some(call) = response_window::response_began(&mut self.tables, key, by) else { return };
        if let Some(exchange) = self.tables.exchanges.get_mut(&key) {
            exchange.pins += 1;
        }
        self.await_trace(call, key);
    }
}
