//! Which goroutine works on which stream of a connection that others read and write, as Go told: of the streams' requests,
//! wherever they are known first.
//!
//! It notes; what follows is for [`super::goroutines`].

use std::collections::BTreeMap;

use tracer_abi::conn::Direction;

use super::Correlator;
use super::conn::ConnFacts;
use super::exchange::Key;
use crate::event::TaskIdentified;

/// Streams of a connection that were taken up and are not known yet. A call's is told of before it is sent, and one that is
/// given up before is never: as many at a time as a server usually lets a client have, four times over.
const MAX_TAKEN: usize = 1024;

/// By number.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    streams: BTreeMap<u32, TaskIdentified>,
    /// Calls that were sent before it was told whose they are.
    untold: BTreeMap<u32, Key>,
    /// Of calls it is told.
    tells_calls: bool,
}

impl Taken {
    fn add(&mut self, stream: u32, event: TaskIdentified) {
        self.streams.insert(stream, event);
        if self.streams.len() > MAX_TAKEN {
            // Numbers grow.
            self.streams.pop_first();
        }
    }

    fn awaits(&mut self, stream: u32, call: Key) {
        self.untold.insert(stream, call);
        if self.untold.len() > MAX_TAKEN {
            self.untold.pop_first();
        }
    }
}

impl Correlator {
    /// A goroutine takes up a stream, or has done so.
    pub(super) fn stream_taken(&mut self, event: TaskIdentified, conn: &mut ConnFacts) {
        let Some(stream) = event.stream else { return };
        let taken = conn.taken.get_or_insert_default();
        taken.tells_calls |= event.direction == Direction::Egress;
        // Who sends for all may be ahead of who calls, and so may be who answers.
        if let Some(key) = taken.untold.remove(&stream) {
            self.goroutine_takes(key, &event);
            self.decide(key, false);
            return;
        }
        let exchanges = &self.tables.exchanges;
        let is = |key: &Key| exchanges.get(key).is_some_and(|exchange| exchange.stream == Some(stream));
        match conn.open.iter().rev().map(|(_, key)| *key).find(is) {
            Some(key) => self.goroutine_takes(key, &event),
            None => taken.add(stream, event),
        }
    }

    /// A stream begins, whose goroutine may be known.
    pub(super) fn stream_began(&mut self, key: Key, conn: &mut ConnFacts) {
        let Some(taken) = conn.taken.as_deref_mut() else { return };
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        let Some(stream) = exchange.stream else { return };
        if let Some(event) = taken.streams.remove(&stream) {
            self.goroutine_takes(key, &event);
        } else if taken.tells_calls && exchange.called().is_some() {
            taken.awaits(stream, key);
            self.goroutine_will_tell(key);
        }
    }

    fn goroutine_takes(&mut self, key: Key, event: &TaskIdentified) {
        if event.direction == Direction::Ingress {
            self.goroutine_serves(key, event);
        } else {
            self.goroutine_sends(key, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_abi::conn::{Direction, SocketCookie};
    use tracer_abi::event::Runtime;
    use tracer_abi::task::{ProcessKey, Tid};
    use tracer_abi::time::KernelInstant;

    use super::*;
    use crate::event::Thread;

    #[test]
    fn streams_that_never_begin_are_bounded() {
        let event = TaskIdentified {
            time: KernelInstant::ZERO,
            thread: Thread { process: ProcessKey::default(), tid: Tid(0), seq: 0 },
            cookie: SocketCookie(1),
            of_plaintext: false,
            runtime: Runtime::Go,
            direction: Direction::Egress,
            tasks: Vec::new(),
            made: Vec::new(),
            end: 0,
            stream: Some(1),
        };
        let mut taken = Taken::default();
        (0..5000).for_each(|stream| taken.add(2 * stream + 1, event.clone()));
        assert_eq!(taken.streams.len(), MAX_TAKEN);
        assert_eq!(taken.streams.last_key_value().map(|(stream, _)| *stream), Some(9999));
        (0..5000).for_each(|stream| taken.awaits(2 * stream + 1, Key { number: 1, slot: 0 }));
        assert_eq!(taken.untold.len(), MAX_TAKEN);
    }
}
