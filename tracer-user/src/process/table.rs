//! The processes of this run: which of them are traced, which are still alive, and what each of them is.
//!
//! It watches the events go by. A process is described when it executes a program, and else at its first event on a
//! socket; where it has gone already, its exec record or its parent tells. With selectors it also decides who is
//! traced at all:
//!
//! | state | becomes | when |
//! |---|---|---|
//! | unknown | traced | selected at start; forked by a traced one; its first event, if a selector matches |
//! | unknown | rejected | its first event, if no selector matches: its events are dropped, the kernel half told |
//! | rejected | traced | it executes a program, or listens on a port, that a selector matches |
//! | any | unknown | it ended, some seconds ago: its last records may be read after the record of its end, or late |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;
use tracer_core::event::{Event, ProcessDescribed, ProcessExeced, ProcessFacts};

use super::facts::Describer;
use super::procfs::{ProcDir, StartTick};
use super::select;
use crate::config::Selectors;

/// Processes remembered. As many live ones as the kernel half traces at most, and some that were rejected.
const MAX_PROCESSES: usize = 20_000;

/// How long a process that has ended is remembered.
const REMEMBER_ENDED: Duration = Duration::from_secs(5);

/// The table.
#[derive(Debug)]
pub(crate) struct Processes {
    entries: HashMap<Tgid, Entry>,
    describer: Describer,
    /// `None`: whatever the kernel half reports is meant.
    selectors: Option<Selectors>,
    /// Describe at exec, not at the first use of a socket: right for short-lived processes, too costly for all of a
    /// host's.
    at_exec: bool,
    settled: Settled,
}

/// Traced and described processes that moved data lately: nothing is to be done for more of it. Nearly every event is
/// of such a process, and several processes on several CPUs take turns.
#[derive(Debug, Default)]
struct Settled([Option<ProcessKey>; 16]);

impl Settled {
    fn place(&mut self, process: ProcessKey) -> &mut Option<ProcessKey> {
        &mut self.0[process.tgid.0 as usize % 16]
    }

    fn holds(&mut self, process: ProcessKey) -> bool {
        *self.place(process) == Some(process)
    }

    fn clear(&mut self) {
        self.0 = [None; 16];
    }
}

#[derive(Debug)]
struct Entry {
    start: StartTick,
    state: State,
    exec: Option<Box<ProcessExeced>>,
    facts: Option<Arc<ProcessFacts>>,
    described: bool,
    ended: Option<KernelInstant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Traced,
    Rejected,
}

/// What an event leads to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The event is not of this run.
    pub(crate) drop: bool,
    /// To be told before the event.
    pub(crate) before: Option<ProcessDescribed>,
    /// To be told after it.
    pub(crate) after: Option<ProcessDescribed>,
    /// What the kernel half is to be told.
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Trace(ProcessKey),
    Leave(ProcessKey),
}

impl Processes {
    pub(crate) fn new(describer: Describer, selectors: Option<Selectors>, at_exec: bool) -> Self {
        Self { entries: HashMap::new(), describer, selectors, at_exec, settled: Settled::default() }
    }

    /// A process that is traced from the start.
    pub(crate) fn add(&mut self, tgid: Tgid, start: StartTick) {
        self.settled.clear();
        self.entries.insert(tgid, Entry::new(start, State::Traced));
    }

    pub(crate) fn is_traced(&self, tgid: Tgid, start: StartTick) -> bool {
        let entry = self.entries.get(&tgid).filter(|entry| entry.start == start);
        entry.is_some_and(|entry| entry.state == State::Traced)
    }

    /// Traced processes that have not been seen to end.
    pub(crate) fn alive(&self) -> usize {
        self.entries.values().filter(|entry| entry.state == State::Traced && entry.ended.is_none()).count()
    }

    /// Whether its end was seen.
    pub(crate) fn has_ended(&self, process: ProcessKey) -> bool {
        let entry = self.entries.get(&process.tgid).filter(|entry| entry.start == StartTick::of(process));
        entry.is_some_and(|entry| entry.ended.is_some())
    }

    /// To be called now and then: forgets processes that ended a while ago.
    pub(crate) fn forget_before(&mut self, now: KernelInstant) {
        self.settled.clear();
        self.entries.retain(|_, entry| entry.ended.is_none_or(|ended| now.since(ended) < REMEMBER_ENDED));
    }

    /// Looks which processes have ended without that being seen: the record may have been lost, or wait to be read with
    /// others of theirs. So they are remembered like those whose end was seen.
    pub(crate) fn find_ended(&mut self, now: KernelInstant) {
        for (tgid, entry) in &mut self.entries {
            let stat = || ProcDir::open(*tgid).and_then(|dir| dir.stat());
            if entry.ended.is_none() && !stat().is_ok_and(|stat| stat.start == entry.start && !stat.zombie) {
                entry.ended = Some(now);
            }
        }
    }

    /// Must be called with every event, in the order in which they came.
    pub(crate) fn observe(&mut self, event: &Event) -> Outcome {
        let moved = match event {
            Event::DataMoved(data) => Some(data.thread.process),
            Event::PlaintextMoved(moved) => Some(moved.data.thread.process),
            Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ConnOpened(_)
            | Event::ConnClosed(_)
            | Event::ListenStarted(_)
            | Event::ProcessForked(_)
            | Event::ProcessExeced(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_)
            | Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::ProcessDescribed(_)
            | Event::AskingInterrupted { .. }
            | Event::LossCounted { .. } => None,
        };
        if moved.is_some_and(|process| self.settled.holds(process)) {
            return Outcome::default();
        }
        let outcome = self.look(event);
        if let Some(process) = moved
            && let Some(entry) = self.entries.get(&process.tgid)
            && entry.start == StartTick::of(process)
            && (entry.state, entry.described) == (State::Traced, true)
        {
            *self.settled.place(process) = Some(process);
        }
        outcome
    }

    fn look(&mut self, event: &Event) -> Outcome {
        let process = match event {
            Event::DataMoved(data) => Some(data.thread.process),
            Event::PlaintextMoved(moved) => Some(moved.data.thread.process),
            Event::CiphertextMoved(moved) => Some(moved.process),
            Event::SessionEnded(ended) => ended.origin.thread.map(|thread| thread.process),
            Event::SessionSecured(secured) => Some(secured.process),
            Event::RecordSealed(sealed) => Some(sealed.process),
            Event::ConnOpened(opened) => opened.origin.thread.map(|thread| thread.process),
            Event::ConnClosed(closed) => closed.origin.thread.map(|thread| thread.process),
            Event::ListenStarted(listen) => listen.origin.thread.map(|thread| thread.process),
            Event::ProcessForked(fork) => fork.origin.thread.map(|thread| thread.process),
            Event::ProcessExeced(exec) => exec.origin.thread.map(|thread| thread.process),
            Event::TaskExited(exit) => exit.origin.thread.map(|thread| thread.process),
            Event::TaskIdentified(identified) => Some(identified.thread.process),
            // Of a process that is traced; it says nothing of what the process is.
            Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::ProcessDescribed(_)
            | Event::AskingInterrupted { .. }
            | Event::LossCounted { .. } => None,
        };
        // Made in a context that is no process's: about a connection that the kernel half follows already.
        let Some(process) = process else { return Outcome::default() };
        let mut outcome = self.admit(process, event);
        if outcome.drop {
            if let Event::ProcessForked(fork) = event {
                // It may have inherited its parent's place among the traced.
                outcome.verdict = Some(Verdict::Leave(fork.child));
            }
            return outcome;
        }
        match event {
            Event::DataMoved(_) | Event::PlaintextMoved(_) | Event::ConnOpened(_) => {
                outcome.before = self.describe_once(process, event.time());
            }
            Event::ProcessForked(fork) => {
                let parent = self.entries.get(&process.tgid);
                let facts = parent.and_then(|parent| parent.facts.clone());
                let exec = parent.and_then(|parent| parent.exec.clone());
                let child = Entry::new(StartTick::of(fork.child), State::Traced);
                self.insert(fork.child.tgid, Entry { facts, exec, ..child });
            }
            Event::ProcessExeced(exec) => {
                self.settled.clear();
                if let Some(entry) = self.entries.get_mut(&process.tgid) {
                    entry.exec = Some(Box::new(exec.clone()));
                    entry.facts = None;
                    entry.described = false;
                }
                if self.at_exec {
                    outcome.after = self.describe_once(process, event.time());
                }
            }
            Event::TaskExited(exit) if exit.process_gone => {
                if let Some(entry) = self.entries.get_mut(&process.tgid) {
                    entry.ended = Some(exit.origin.time);
                }
            }
            Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_)
            | Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::ConnClosed(_)
            | Event::ListenStarted(_)
            | Event::ProcessDescribed(_)
            | Event::AskingInterrupted { .. }
            | Event::LossCounted { .. } => {}
        }
        outcome
    }

    /// Whether the process is traced, deciding it if need be.
    fn admit(&mut self, process: ProcessKey, event: &Event) -> Outcome {
        let start = StartTick::of(process);
        let known =
            self.entries.get(&process.tgid).filter(|entry| entry.start == start).map(|entry| entry.state);
        let Some(selectors) = &self.selectors else {
            if known.is_none() {
                self.insert(process.tgid, Entry::new(start, State::Traced));
            }
            return Outcome::default();
        };
        if known == Some(State::Traced) {
            return Outcome::default();
        }
        let selected = match event {
            Event::ProcessExeced(exec) => select::execed(selectors, process.tgid, &exec.filename),
            Event::ListenStarted(listen) => select::listening(selectors, process.tgid, listen.local.port()),
            // Traced by the kernel half without this table knowing why: the record that told was lost, or is still
            // in the other ring.
            Event::DataMoved(_)
            | Event::PlaintextMoved(_)
            | Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ConnOpened(_)
            | Event::ConnClosed(_)
            | Event::ProcessForked(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_)
            | Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::ProcessDescribed(_)
            | Event::AskingInterrupted { .. }
            | Event::LossCounted { .. } => {
                known.is_none()
                    && (select::execed(selectors, process.tgid, b"")
                        || self.has_traced_ancestor(process.tgid))
            }
        };
        let ended = matches!(event, Event::TaskExited(exit) if exit.process_gone);
        if ended {
            self.settled.clear();
            self.entries.remove(&process.tgid);
        } else {
            let state = if selected { State::Traced } else { State::Rejected };
            self.insert(process.tgid, Entry::new(start, state));
        }
        let verdict = match (selected, event) {
            _ if ended => None,
            (true, _) => Some(Verdict::Trace(process)),
            (false, _) => Some(Verdict::Leave(process)),
        };
        Outcome { drop: !selected, verdict, ..Outcome::default() }
    }

    fn has_traced_ancestor(&self, tgid: Tgid) -> bool {
        let mut current = tgid;
        // Deeper than any real tree of processes; the parents of a changing system may form a circle.
        for _ in 0..64 {
            let Ok(stat) = ProcDir::open(current).and_then(|dir| dir.stat()) else { return false };
            if current != tgid && self.is_traced(current, stat.start) {
                return true;
            }
            current = stat.parent;
        }
        false
    }

    fn describe_once(&mut self, process: ProcessKey, time: KernelInstant) -> Option<ProcessDescribed> {
        let entry = self.entries.get_mut(&process.tgid)?;
        if entry.described {
            return None;
        }
        entry.described = true;
        let facts =
            self.describer.describe(process, entry.exec.as_deref()).map(Arc::new).or(entry.facts.clone())?;
        entry.facts = Some(Arc::clone(&facts));
        Some(ProcessDescribed { time, process, facts: (*facts).clone() })
    }

    fn insert(&mut self, tgid: Tgid, entry: Entry) {
        self.settled.clear();
        if self.entries.len() >= MAX_PROCESSES {
            // Forgotten at once, below: what is full cannot remember.
            self.find_ended(KernelInstant::ZERO);
            self.forget_before(KernelInstant::ZERO.plus(REMEMBER_ENDED));
        }
        if self.entries.len() >= MAX_PROCESSES {
            // The others are only remembered to save work, or for a record that comes late.
            self.entries.retain(|_, entry| entry.state == State::Traced && entry.ended.is_none());
        }
        if self.entries.len() < MAX_PROCESSES {
            self.entries.insert(tgid, entry);
        }
    }
}

impl Entry {
    const fn new(start: StartTick, state: State) -> Self {
        Self { start, state, exec: None, facts: None, described: false, ended: None }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use bytes::Bytes;
    use tracer_abi::conn::{Endpoint, SocketCookie};
    use tracer_abi::task::Tid;
    use tracer_core::event::{ListenStarted, Origin, ProcessForked, TaskExited, Thread};

    use super::*;

    /// Ends with the test.
    struct Running {
        child: Child,
        key: ProcessKey,
    }

    impl Running {
        fn start() -> Self {
            let child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
            let tgid = Tgid(child.id());
            let dir = ProcDir::open(tgid).unwrap();
            while dir.read("environ", 1).unwrap().0.is_empty() {
                std::thread::yield_now();
            }
            let start_boottime = dir.stat().unwrap().start.0 * 10_000_000;
            Self { child, key: ProcessKey { tgid, start_boottime } }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn origin(process: ProcessKey) -> Origin {
        let thread = Thread { process, tid: Tid(process.tgid.0), seq: 0 };
        Origin { time: KernelInstant::from_nanos(7), thread: Some(thread), cpu: 0 }
    }

    fn exec(process: ProcessKey, program: &str) -> Event {
        Event::ProcessExeced(ProcessExeced {
            origin: origin(process),
            comm: Bytes::new(),
            parent: Tgid(1),
            filename: Bytes::copy_from_slice(program.as_bytes()),
            argv: Bytes::copy_from_slice(format!("{program}\0").as_bytes()),
            traced: false,
        })
    }

    fn listen(process: ProcessKey, port: u16) -> Event {
        Event::ListenStarted(ListenStarted {
            origin: origin(process),
            cookie: SocketCookie(1),
            local: Endpoint::new(([0, 0, 0, 0], port).into()),
            netns: 1,
        })
    }

    fn fork(parent: ProcessKey, child: ProcessKey) -> Event {
        Event::ProcessForked(ProcessForked { origin: origin(parent), child, child_tid: Tid(child.tgid.0) })
    }

    fn exit(process: ProcessKey) -> Event {
        Event::TaskExited(TaskExited { origin: origin(process), process_gone: true, exit_code: 0 })
    }

    /// Another event on a socket, of the kind of which there are many.
    fn moved_data(process: ProcessKey) -> Event {
        Event::DataMoved(tracer_core::event::DataMoved {
            time: KernelInstant::from_nanos(7),
            thread: Thread { process, tid: Tid(process.tgid.0), seq: 1 },
            cpu: 0,
            cookie: SocketCookie(2),
            direction: tracer_abi::conn::Direction::Ingress,
            offset: 0,
            outcome: tracer_core::event::IoOutcome::Moved(1),
            tcp_seq_end: 1,
            head_len: 1,
            tail_len: 0,
            chunk_offset: 0,
            payload: Bytes::from_static(b"x"),
            payload_state: tracer_abi::error::PayloadState::Copied,
            last: true,
            muted: false,
            frame: false,
            class: tracer_abi::sniff::Class::Undecided,
            blocking: None,
            waited: tracer_core::event::Waited::default(),
            in_tls_call: false,
            nvcsw: 0,
            user_r14: 0,
            syscall: 0,
        })
    }

    /// Any event on a socket.
    fn used_socket(process: ProcessKey) -> Event {
        Event::ConnOpened(tracer_core::event::ConnOpened {
            origin: origin(process),
            cookie: SocketCookie(2),
            peer_cookie: None,
            family: tracer_abi::conn::Family::Inet,
            role: tracer_abi::conn::Role::Client,
            local: Endpoint::default(),
            remote: Endpoint::default(),
            netns: 0,
            egress_seq: 0,
            ingress_seq: 0,
            preexisting: false,
            over: false,
            unix_path: Bytes::new(),
        })
    }

    /// A process that does not exist.
    fn gone(n: u32) -> ProcessKey {
        ProcessKey { tgid: Tgid(u32::MAX - n), start_boottime: 10_000_000 }
    }

    fn all() -> Processes {
        Processes::new(Describer::new(false), None, true)
    }

    fn selecting(exe: &str, port: u16) -> Processes {
        let exes = vec![glob::Pattern::new(exe).unwrap()];
        let selectors = Selectors { exes, ports: vec![port], ..Selectors::default() };
        Processes::new(Describer::new(false), Some(selectors), true)
    }

    fn name(described: Option<ProcessDescribed>) -> Option<String> {
        described.map(|described| described.facts.service_name)
    }

    #[test]
    fn a_process_is_described_once_and_again_after_exec() {
        let running = Running::start();
        let mut table = all();
        assert_eq!(name(table.observe(&used_socket(running.key)).before).as_deref(), Some("cat"));
        assert_eq!(table.observe(&used_socket(running.key)), Outcome::default());
        assert_eq!(name(table.observe(&exec(running.key, "/bin/x")).after).as_deref(), Some("cat"));
        assert_eq!(table.observe(&used_socket(running.key)), Outcome::default());
        table.observe(&exit(running.key));
        assert_eq!(table.alive(), 0);
    }

    #[test]
    fn much_data_changes_nothing_of_what_is_told() {
        let running = Running::start();
        let mut table = all();
        assert_eq!(name(table.observe(&moved_data(running.key)).before).as_deref(), Some("cat"));
        for _ in 0..3 {
            assert_eq!(table.observe(&moved_data(running.key)), Outcome::default());
        }
        // Another program.
        table.at_exec = false;
        table.observe(&exec(running.key, "/bin/x"));
        assert_eq!(name(table.observe(&moved_data(running.key)).before).as_deref(), Some("cat"));
        assert_eq!(table.observe(&moved_data(running.key)), Outcome::default());

        let mut table = selecting("curl", 80);
        table.observe(&exec(gone(1), "/usr/bin/curl"));
        assert_eq!(table.observe(&moved_data(gone(1))), Outcome::default());
        // Another process with its number, one with its place, and itself when it is forgotten.
        let reused = ProcessKey { start_boottime: 20_000_000, ..gone(1) };
        assert!(table.observe(&moved_data(reused)).drop);
        assert!(table.observe(&moved_data(gone(17))).drop);
        table.observe(&exec(gone(2), "/usr/bin/curl"));
        assert!(!table.observe(&moved_data(gone(2))).drop);
        table.forget_before(KernelInstant::from_nanos(7).plus(REMEMBER_ENDED));
        assert!(!table.observe(&moved_data(gone(2))).drop);
        table.find_ended(KernelInstant::from_nanos(7));
        table.forget_before(KernelInstant::from_nanos(7).plus(REMEMBER_ENDED));
        assert!(table.observe(&moved_data(gone(2))).drop);
    }

    #[test]
    fn what_has_gone_is_known_by_its_exec_or_its_parent() {
        let mut table = all();
        assert_eq!(table.observe(&used_socket(gone(1))).before, None);
        assert_eq!(name(table.observe(&exec(gone(2), "/usr/bin/curl")).after).as_deref(), Some("curl"));
        table.observe(&fork(gone(2), gone(3)));
        assert_eq!(name(table.observe(&used_socket(gone(3))).before).as_deref(), Some("curl"));
        assert_eq!(table.alive(), 3);
        table.find_ended(KernelInstant::from_nanos(7));
        assert_eq!(table.alive(), 0);
    }

    #[test]
    fn selectors_decide_at_exec() {
        let mut table = selecting("curl", 80);
        let outcome = table.observe(&exec(gone(1), "/usr/bin/wget"));
        assert_eq!((outcome.drop, outcome.verdict), (true, Some(Verdict::Leave(gone(1)))));
        assert!(table.observe(&used_socket(gone(1))).drop);
        // What it forked while nobody had decided.
        let outcome = table.observe(&fork(gone(1), gone(2)));
        assert_eq!((outcome.drop, outcome.verdict), (true, Some(Verdict::Leave(gone(2)))));
        let outcome = table.observe(&exec(gone(1), "/usr/bin/curl"));
        assert_eq!((outcome.drop, outcome.verdict), (false, Some(Verdict::Trace(gone(1)))));
        assert_eq!(name(outcome.after).as_deref(), Some("curl"));
        table.observe(&fork(gone(1), gone(3)));
        assert!(!table.observe(&used_socket(gone(3))).drop);
        assert_eq!(table.alive(), 2);
    }

    #[test]
    fn records_may_be_read_after_that_of_the_end() {
        let mut table = selecting("curl", 80);
        table.observe(&exec(gone(1), "/usr/bin/curl"));
        table.observe(&exit(gone(1)));
        assert!(table.has_ended(gone(1)));
        assert_eq!(table.observe(&used_socket(gone(1))), Outcome::default());
        assert_eq!(table.alive(), 0);
        table.forget_before(KernelInstant::from_nanos(7).plus(REMEMBER_ENDED));
        assert!(table.observe(&used_socket(gone(1))).drop);
    }

    /// A process that lived for a moment only is gone when the first of its records is read.
    #[test]
    fn records_of_a_process_that_has_gone_are_read_after_a_look_for_the_ended() {
        let mut table = selecting("curl", 80);
        table.observe(&exec(gone(1), "/usr/bin/curl"));
        table.observe(&fork(gone(1), gone(2)));
        table.find_ended(KernelInstant::from_nanos(7));
        assert_eq!(table.alive(), 0);
        for event in
            [exec(gone(2), "/usr/bin/wget"), used_socket(gone(2)), moved_data(gone(2)), exit(gone(2))]
        {
            let outcome = table.observe(&event);
            assert_eq!((outcome.drop, outcome.verdict), (false, None), "{event:?}");
        }
    }

    #[test]
    fn selectors_decide_at_listen() {
        let mut table = selecting("curl", 80);
        let outcome = table.observe(&listen(gone(1), 81));
        assert_eq!((outcome.drop, outcome.verdict), (true, Some(Verdict::Leave(gone(1)))));
        let outcome = table.observe(&listen(gone(1), 80));
        assert_eq!((outcome.drop, outcome.verdict), (false, Some(Verdict::Trace(gone(1)))));
    }

    #[test]
    fn a_pid_that_was_reused_starts_anew() {
        let mut table = selecting("curl", 80);
        table.add(gone(1).tgid, StartTick::of(gone(1)));
        assert!(!table.observe(&used_socket(gone(1))).drop);
        let reused = ProcessKey { start_boottime: 20_000_000, ..gone(1) };
        assert!(table.observe(&used_socket(reused)).drop);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = selecting("curl", 80);
        for n in 0..2 * MAX_PROCESSES as u32 {
            table.observe(&exec(gone(n), "/usr/bin/wget"));
        }
        assert!(table.entries.len() <= MAX_PROCESSES);
    }
}
