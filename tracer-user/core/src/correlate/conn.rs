//! What the correlation keeps of a connection, as the process at this end uses it.

use std::collections::VecDeque;
use std::sync::Arc;

use tracer_abi::conn::{Direction, Role};
use tracer_abi::event::Runtime;
use tracer_abi::python::TaskId;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::exchange::Key;
use super::join::{self, OtherEnd, PeerTraced};
use super::streams::Taken;
use crate::attributes::Socket;
use crate::event::{ConnOpened, DataMoved, IoOutcome, Made, TaskIdentified, Thread};
use crate::exchange::Mark;
use crate::tls::TlsFacts;

/// A connection as it was opened: shared by its exchanges, which may outlive it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) opened: ConnOpened,
    pub(super) at: join::Socket,
    pub(super) socket: Socket,
    pub(super) peer_traced: PeerTraced,
    pub(super) other_end: OtherEnd,
}

#[derive(Debug, Default)]
pub(crate) struct ConnFacts {
    pub(super) conn: Option<Arc<Conn>>,
    /// The process makes requests here (true) or serves them (false).
    pub(super) calls: Option<bool>,
    /// A read was seen that could not have waited, or of which that is not known.
    pub(super) nonblocking: bool,
    /// It has had an exchange: its bytes are read.
    pub(super) is_read: bool,
    /// Its exchanges need not end in the order in which they began.
    pub(super) has_streams: bool,
    /// The call that ended last, on a connection that has streams.
    pub(super) last_call: Option<Key>,
    /// The thread that read the last request's first byte.
    pub(super) read_by: Option<Tid>,
    /// Whose work the operation was that began the last turn, by direction, as the runtime told.
    pub(super) identified: [Option<Box<TaskIdentified>>; 2],
    /// nginx: the request for which the operation was that began the last turn.
    pub(crate) used_for: Option<(Thread, Key)>,
    /// Whose work streams are that have not begun yet.
    pub(super) taken: Option<Box<Taken>>,
    /// The task that answered the last request here.
    pub(super) answered_by: Option<TaskId>,
    /// When the last exchange here ended.
    pub(super) last_end: Option<KernelInstant>,
    /// Exchanges that have not ended, in order of their numbers on the connection, which come with them.
    pub(super) open: VecDeque<(u64, Key)>,
    pub(super) shown: Option<Shown>,
}

/// Open exchanges that were shown an operation of a thread: another one of that thread is the same to them, so that what an
/// operation costs does not grow with the streams of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    process: ProcessKey,
    tid: Tid,
    /// As it was on the connection then.
    nonblocking: bool,
    /// The number of the first one that was not.
    below: u64,
}

impl ConnFacts {
    pub(super) fn opened(&mut self, opened: ConnOpened, at: join::Socket) {
        self.calls = match opened.role {
            Role::Client => Some(true),
            Role::Server => Some(false),
            Role::Unknown => None,
        };
        let socket = Socket::of(&opened);
        self.conn = Some(Arc::new(Conn {
            opened,
            at,
            socket,
            peer_traced: PeerTraced::default(),
            other_end: OtherEnd::default(),
        }));
    }

    pub(crate) fn opened_as(&self) -> Option<&ConnOpened> {
        self.conn.as_ref().map(|conn| &conn.opened)
    }

    /// It carries TLS, of which this is known.
    pub(crate) fn secure(&self, facts: &TlsFacts) {
        if let Some(conn) = &self.conn {
            conn.socket.secure(facts);
        }
    }

    /// Whose work the operation was that moved a byte, if that is known.
    pub(super) fn tasks(&self, direction: Direction, byte: &Mark) -> Option<&[TaskId]> {
        self.python_tasks(direction, byte).map(|identified| identified.tasks.as_slice())
    }

    /// The same of what was sent, and how they came to be.
    pub(super) fn made_tasks(&self, byte: &Mark) -> Option<(&[TaskId], &[Made])> {
        self.python_tasks(Direction::Egress, byte)
            .map(|identified| (identified.tasks.as_slice(), identified.made.as_slice()))
    }

    fn python_tasks(&self, direction: Direction, byte: &Mark) -> Option<&TaskIdentified> {
        let identified = self.identified[usize::from(direction.code())].as_deref()?;
        (identified.runtime == Runtime::Python && identified.thread == byte.thread).then_some(identified)
    }

    /// The request's first byte was read, at that time, while the one before it was not done: what is left to be done for
    /// that one cannot be told apart.
    pub(super) fn is_early(&self, request: Key, first: KernelInstant) -> bool {
        self.open.iter().any(|(_, other)| *other != request) || self.last_end.is_some_and(|end| end >= first)
    }

    /// The open exchange of this number.
    pub(super) fn find(&self, index: u64) -> Option<Key> {
        let at = self.open.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.open.get(at).map(|(_, key)| *key)
    }

    /// The exchange of this number has ended.
    pub(super) fn take(&mut self, index: u64) -> Option<Key> {
        let at = self.open.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.open.remove(at).map(|(_, key)| key)
    }

    /// How many of the open exchanges, from the front, an operation of this thread was shown to.
    pub(super) fn shown_to(&self, thread: Thread) -> usize {
        let same = |shown: &Shown| {
            (shown.process, shown.tid, shown.nonblocking) == (thread.process, thread.tid, self.nonblocking)
        };
        let below = self.shown.filter(same).map_or(0, |shown| shown.below);
        self.open.partition_point(|(index, _)| *index < below)
    }

    /// Now it was to all of them.
    pub(super) fn show(&mut self, thread: Thread) {
        let below = self.open.back().map_or(0, |(index, _)| index + 1);
        let Thread { process, tid, seq: _ } = thread;
        self.shown = Some(Shown { process, tid, nonblocking: self.nonblocking, below });
    }

    /// Learns from an operation which way requests go, where the opening did not say.
    pub(super) fn note_direction(&mut self, event: &DataMoved) {
        let whole = self.conn.as_ref().is_none_or(|conn| !conn.opened.preexisting);
        if self.calls.is_none() && whole && event.offset == 0 && matches!(event.outcome, IoOutcome::Moved(_))
        {
            self.calls = Some(event.direction == Direction::Egress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(tid: u32, seq: u32) -> Thread {
        Thread { process: ProcessKey::default(), tid: Tid(tid), seq }
    }

    #[test]
    fn who_was_shown_an_operation_is_not_shown_another_of_that_thread() {
        let mut facts = ConnFacts::default();
        let begin = |facts: &mut ConnFacts, number| {
            facts.open.push_back((number, Key { number, slot: number as u32 }));
        };
        (0..3).for_each(|number| begin(&mut facts, number));
        assert_eq!(facts.shown_to(thread(7, 1)), 0);
        facts.show(thread(7, 1));
        begin(&mut facts, 3);
        assert_eq!(facts.shown_to(thread(7, 2)), 3, "the newest was not");
        facts.take(1);
        assert_eq!(facts.shown_to(thread(7, 2)), 2);
        // Another thread, and what became known of the connection, concern all of them.
        assert_eq!(facts.shown_to(thread(8, 1)), 0);
        facts.nonblocking = true;
        assert_eq!(facts.shown_to(thread(7, 2)), 0);
        facts.show(thread(7, 2));
        assert_eq!(facts.shown_to(thread(7, 3)), 3);
        // After another's, they are shown again: it may have changed what they take it for.
        facts.show(thread(8, 1));
        assert_eq!(facts.shown_to(thread(7, 3)), 0);
    }
}
