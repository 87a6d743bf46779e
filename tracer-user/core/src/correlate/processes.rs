//! What is known of each process: what it is, and whether its requests stay with threads.

use std::collections::VecDeque;
use std::sync::Arc;

use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::exchange::Key;
use super::goroutines::Goroutines;
use super::hash::NumberMap;
use super::rules::{process_fork, thread};
use super::tasks::Tasks;
use super::tokio::TokioTasks;
use super::waits::Waits;
use crate::attributes;
use crate::event::{HostFacts, ProcessFacts};
use crate::span::{Evidence, Resource};

#[derive(Debug, Default)]
pub(super) struct Process {
    facts: Option<ProcessFacts>,
    /// Made when first asked for.
    resource: Option<Arc<Resource>>,
    /// It has served a request: a call of it may have a cause inside.
    pub(super) has_served: bool,
    /// A request was answered by another thread than read it, a thread held two at once, or one that serves called
    /// outside of requests: for good, thread ownership means nothing here.
    pub(super) not_exclusive: bool,
    /// Requests that are open now.
    pub(super) open_requests: u32,
    /// Threads that have begun to read a request and were not seen to end.
    pub(super) serving_threads: u32,
    /// A request was answered by another thread than a reader that had read it.
    pub(super) hands_over: bool,
    /// Serving threads that are known to read for others; and requests that are open now and that may be handed over.
    pub(super) readers: u32,
    pub(super) adrift: u32,
    /// When events were last found to be lost, and of which thread; and when of another than that.
    gap: Option<(KernelInstant, Tid)>,
    gap_beside: Option<KernelInstant>,
    /// When an event of it came later than others that it was before.
    pub(super) last_late: Option<KernelInstant>,
    /// When an exchange of it ended of which something was lost.
    pub(super) last_damage: Option<KernelInstant>,
    /// Calls that stood the thread rule's examination, made beside a thread that had nothing to do.
    pub(super) proofs: u32,
    /// Calls that did, and wait for the process to be believed.
    pub(super) awaiting: Vec<Key>,
    /// Connections are read by one thread now and by another later, as pools do and loops do not.
    pub(super) connections_migrate: bool,
    /// nginx: a response began although nothing had been received since the thread last waited, or two began after one
    /// thing had been (a timer, a disk): what was received last says less then.
    pub(super) answers_unprompted: bool,
    /// Requests whose headers' values calls have carried on.
    pub(super) hands_on: u32,
    /// When bytes last came in, from a client, in a protocol that is not read.
    pub(super) unread_at: Option<KernelInstant>,
    /// Several calls named one span as their parent: what calls name here is not theirs alone.
    pub(super) shares_spans: bool,
    /// What its runtime tells about its tasks.
    pub(super) tasks: Option<Box<Tasks>>,
    /// The same, where it is Go.
    pub(super) goroutines: Option<Box<Goroutines>>,
    /// The same, where it is tokio.
    pub(super) tokio: Option<Box<TokioTasks>>,
    pub(super) following: Following,
    pub(super) waits: Waits,
    /// While it is not asked for: calls, and of them those that were made by threads without a request while requests were
    /// open.
    pub(super) calls_begun: u32,
    pub(super) calls_aside: u32,
    /// Rules that headers have shown to be wrong here.
    pub(super) demoted: Vec<Evidence>,
    /// The process that forked it, and the open request that this was done for.
    pub(super) forked_by: Option<ProcessKey>,
    pub(super) forked_for: Option<ForkedFor>,
    pub(super) exited: Option<KernelInstant>,
    /// Requests inside of which forks stood the examination, beside a thread that had nothing to do; and calls that wait
    /// for there to be enough.
    pub(super) fork_proofs: u32,
    pub(super) forks_awaiting: Vec<Key>,
    /// A thread that serves forked outside of requests.
    pub(super) forks_outside: bool,
    /// It had connections before the tracer came, and when it was first seen: requests may be under way unseen.
    pub(super) preexisting_since: Option<KernelInstant>,
}

/// Whether its hand-offs between threads are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Following {
    #[default]
    Unasked,
    Asked,
    /// Nothing comes of it, for good.
    Refused,
}

/// What a process was forked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForkedFor {
    pub(super) request: Key,
    /// That request was the only one open in its process.
    pub(super) alone: bool,
}

impl Process {
    /// Events of a thread were lost: among them may have been what would have told another sort of program. What was
    /// proven before stays so.
    pub(super) fn lost_events_of(&mut self, thread: Tid, at: KernelInstant) {
        self.gap_beside = self.last_gap_beside(thread);
        self.gap = Some((at, thread));
        self.waits.lose();
        if self.proofs < thread::PROOFS {
            self.proofs = 0;
        }
        if self.fork_proofs < process_fork::PROOFS {
            self.fork_proofs = 0;
        }
    }

    /// When events of another thread were last found to be lost.
    pub(super) fn last_gap_beside(&self, thread: Tid) -> Option<KernelInstant> {
        match self.gap {
            Some((at, other)) if other != thread => Some(at),
            Some(_) | None => self.gap_beside,
        }
    }

    /// One at least of the threads that serve here holds no request.
    pub(super) const fn has_idle_thread(&self) -> bool {
        self.open_requests < self.serving_threads.saturating_sub(self.readers)
    }

    /// Every request stays with the thread that has read it, as far as is known.
    pub(super) const fn keeps_requests(&self) -> bool {
        !self.not_exclusive && !self.hands_over
    }

    pub(super) fn is_nginx(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.is_nginx)
    }
}

#[derive(Debug)]
pub(super) struct Processes {
    table: NumberMap<ProcessKey, Process>,
    /// Processes that ended, in order: forgotten later, when their spans have left.
    gone: VecDeque<(KernelInstant, ProcessKey)>,
    host: HostFacts,
    max: usize,
}

impl Processes {
    pub(super) fn new(host: HostFacts, max: usize) -> Self {
        Self { table: NumberMap::default(), gone: VecDeque::new(), host, max: max.max(1) }
    }

    pub(super) fn find(&self, process: ProcessKey) -> Option<&Process> {
        self.table.get(&process)
    }

    pub(super) fn find_mut(&mut self, process: ProcessKey) -> Option<&mut Process> {
        self.table.get_mut(&process)
    }

    /// `None` when the table is full.
    pub(super) fn note(&mut self, process: ProcessKey) -> Option<&mut Process> {
        if self.table.len() >= self.max && !self.table.contains_key(&process) {
            let (_, oldest) = self.gone.pop_front()?;
            self.table.remove(&oldest);
        }
        Some(self.table.entry(process).or_default())
    }

    pub(super) fn described(&mut self, process: ProcessKey, facts: ProcessFacts) {
        if let Some(known) = self.note(process) {
            known.facts = Some(facts);
            known.resource = None;
        }
    }

    /// The request that a process was forked for.
    pub(super) fn forked_for(&self, process: ProcessKey) -> Option<Key> {
        Some(self.find(process)?.forked_for?.request)
    }

    /// A child is what its parent is until it is described itself.
    pub(super) fn forked(&mut self, parent: ProcessKey, child: ProcessKey) {
        let facts = self.find(parent).and_then(|parent| parent.facts.clone());
        if let (Some(mut facts), Some(child)) = (facts, self.note(child))
            && child.facts.is_none()
        {
            facts.ns_pid = None;
            child.facts = Some(facts);
        }
    }

    /// Another program runs in the process: what was learned of the old one says nothing.
    pub(super) fn execed(&mut self, process: ProcessKey) {
        if let Some(known) = self.note(process) {
            let Process { forked_by, forked_for, .. } = *known;
            let facts = known.facts.take().map(without_runtime);
            *known = Process { facts, forked_by, forked_for, ..Process::default() };
        }
    }

    pub(super) fn exited(&mut self, process: ProcessKey, at: KernelInstant) {
        if let Some(known) = self.table.get_mut(&process) {
            known.exited = Some(at);
            self.gone.push_back((at, process));
        }
    }

    /// Forgets processes that ended before `then`. Returns when the first of the others ended.
    pub(super) fn forget(&mut self, then: KernelInstant) -> Option<KernelInstant> {
        while let Some((at, process)) = self.gone.front().copied()
            && at < then
        {
            self.gone.pop_front();
            self.table.remove(&process);
        }
        self.gone.front().map(|(at, _)| *at)
    }

    pub(super) fn resource(&mut self, process: ProcessKey) -> Arc<Resource> {
        let Some(known) = self.table.get_mut(&process) else {
            return Arc::new(attributes::resource(process, None, &self.host));
        };
        let facts = known.facts.as_ref();
        Arc::clone(
            known.resource.get_or_insert_with(|| Arc::new(attributes::resource(process, facts, &self.host))),
        )
    }
}

/// The name stays until user space has looked again; rules that depend on the program do not.
fn without_runtime(facts: ProcessFacts) -> ProcessFacts {
    ProcessFacts { is_nginx: false, ..facts }
}
