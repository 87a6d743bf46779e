//! What tokio tells about the tasks of a process: which of them reads which request, and which waits for which call.
//!
//! It notes; what follows is for the rule ([`super::rules::tokio`]) to judge.

use std::collections::BTreeMap;

use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::Runtime;
use tracer_abi::python::TaskId;
use tracer_abi::task::ProcessKey;
use tracer_abi::tokio::walk_end;

use super::Correlator;
use super::conn::ConnFacts;
use super::deadlines::Look;
use super::exchange::Key;
use super::kinds::{AwaitedTask, Kinds};
use super::rules::awaited::SETTLE;
use crate::exchange::Mark;

/// Tasks remembered to have read requests: those of the youngest connections.
const MAX_READERS: usize = 16_384;

/// A process some of whose tasks are known.
#[derive(Debug, Default)]
pub(super) struct TokioTasks {
    readers: BTreeMap<u64, Reads>,
    pub(super) kinds: Kinds,
}

/// What a task reads.
#[derive(Debug)]
struct Reads {
    conn: SocketCookie,
    /// Requests that are open.
    open: Vec<Key>,
    /// It reads several connections: it works for many at a time.
    several: bool,
}

/// Which task reads a request.
#[derive(Debug)]
pub(crate) struct Polled {
    task: u64,
    /// All tasks before have been started when the request had been read; zero where that is not known.
    pub(super) next_task: u64,
    /// The task may have had something to do for another request.
    pub(super) is_shared: bool,
}

/// Whose a call is.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    /// Between the task that reads the request and the one that makes the call.
    pub(super) below: Vec<TaskId>,
    /// Another one made it at its end than at its beginning.
    pub(super) changed: bool,
    /// The task that made it is known.
    known: Option<TaskId>,
}

impl Correlator {
    /// A request came in, with its whole head.
    pub(super) fn tokio_reads(&mut self, key: Key, conn: &ConnFacts) {
        let Some(identified) = conn.identified(Runtime::Tokio, Direction::Ingress) else { return };
        let Some(request) = self.tables.exchanges.get_mut(&key) else { return };
        let (first, last, process, cookie) =
            (request.first.time, request.head_last.time, request.process(), request.cookie());
        let &[task, TaskId { address: next_task, .. }] = identified.tasks.as_slice() else { return };
        if u64::from(identified.end) != walk_end::READS || identified.time < first || identified.time > last {
            return;
        }
        let is_early = conn.is_early(key, first);
        let Some(known) = self.tables.processes.note(process) else { return };
        let tasks = known.tokio.get_or_insert_default();
        let reads = tasks.readers.entry(task.number).or_insert_with(|| Reads {
            conn: cookie,
            open: Vec::new(),
            several: false,
        });
        reads.several |= reads.conn != cookie;
        reads.open.push(key);
        let is_shared = is_early || reads.several;
        if tasks.readers.len() > MAX_READERS {
            tasks.readers.pop_first();
        }
        if let Some(served) = request.served_mut() {
            served.polled = Some(Box::new(Polled { task: task.number, next_task, is_shared }));
        }
    }

    /// A call was made, or its response begins.
    pub(super) fn tokio_calls(&mut self, key: Key, direction: Direction, at: &Mark, conn: &ConnFacts) {
        let Some(identified) = conn.identified(Runtime::Tokio, direction) else { return };
        let Some(call) = self.tables.exchanges.get_mut(&key) else { return };
        if identified.time < call.first.time
            || identified.time > at.time
            || u64::from(identified.end) == walk_end::LEARNS
            || u64::from(identified.end) == walk_end::READS
        {
            return;
        }
        let (sent, process) = (call.first.time, call.process());
        let Some(called) = call.called_mut() else { return };
        let polls = called.polls.get_or_insert_default();
        let chain = identified.tasks.as_slice();
        let Some(&caller) = chain.first().filter(|caller| caller.number != 0) else { return };
        polls.changed |= polls.known.is_some_and(|known| known != caller);
        polls.known = Some(caller);
        let again = !polls.below.is_empty();
        let Some(known) = self.tables.processes.note(process) else { return };
        let tasks = known.tokio.get_or_insert_default();
        let exchanges = &self.tables.exchanges;
        let reads = |(place, task): (usize, &TaskId)| Some((place, tasks.readers.get(&task.number)?));
        let Some((place, reads)) = chain.iter().enumerate().find_map(reads) else { return };
        let requests = exchanges.read_before(&reads.open, sent);
        let below = chain.get(..place).unwrap_or_default();
        if !below.is_empty()
            && let [request] = *requests.as_slice()
            && let Some(polled) =
                exchanges.get(&request).and_then(|request| request.served()?.polled.as_deref())
            && polled.next_task != 0
        {
            let kinds = &mut tasks.kinds;
            below.iter().map(AwaitedTask::started).for_each(|task| kinds.awaited(task, polled.next_task));
        }
        let later = !below.is_empty();
        if let Some(polls) = self.polls_mut(key) {
            polls.changed |= again && polls.below != below;
            polls.below = below.to_vec();
        }
        for request in requests {
            self.name_request(key, request);
        }
        if later {
            self.plan(Look::Outlived, sent.plus(SETTLE), key);
        }
    }

    fn polls_mut(&mut self, call: Key) -> Option<&mut Polls> {
        self.tables.exchanges.get_mut(&call)?.called_mut()?.polls.as_deref_mut()
    }

    /// A request has ended.
    pub(super) fn tokio_serves_no_more(&mut self, key: Key, process: ProcessKey) {
        let polled = self.tables.exchanges.get(&key).and_then(|request| request.served()?.polled.as_deref());
        let Some(task) = polled.map(|polled| polled.task) else { return };
        let known = self.tables.processes.find_mut(process);
        let tasks = known.and_then(|process| process.tokio.as_deref_mut());
        if let Some(reads) = tasks.and_then(|tasks| tasks.readers.get_mut(&task)) {
            reads.open.retain(|request| *request != key);
        }
    }
}
