//! A modelled host: processes, threads and connections; one line of a test is one operation, and becomes the events
//! that the kernel half would report.

#![allow(dead_code, reason = "each test target uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::PayloadState;
use tracer_abi::event::{Awaited, Runtime};
use tracer_abi::python::TaskId;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;
use tracer_core::event::{
    Cause, ConnClosed, ConnOpened, DataMoved, Event, IoOutcome, Made, Origin, ProcessDescribed, ProcessFacts,
    ProcessForked, Results, TaskExited, TaskIdentified, Thread, ThreadWoken, Waited, WorkSubmitted,
};
use tracer_core::span::{Span, SpanKind, Value};
use tracer_core::{Engine, EngineConfig};

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct T {
    pub(crate) process: u32,
    pub(crate) tid: u32,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct End(pub(crate) usize);

#[derive(Clone, Debug)]
struct Socket {
    process: Option<u32>,
    peer: usize,
    cookie: SocketCookie,
    sent: u64,
    received: u64,
    /// First sequence numbers.
    egress_seq: u32,
    ingress_seq: u32,
    tcp: bool,
    pending: Vec<u8>,
    blocking: Option<bool>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) events: Vec<Event>,
    pub(crate) clock: KernelInstant,
    /// What each operation takes.
    pub(crate) step: Duration,
    sockets: Vec<Socket>,
    seqs: BTreeMap<T, u32>,
    nvcsw: BTreeMap<T, u64>,
    /// Since when threads sleep.
    asleep: BTreeMap<T, KernelInstant>,
    wakes: BTreeMap<T, u32>,
    /// What threads sleep for is known.
    pub(crate) followed: bool,
    /// What each has slept for since its last operation.
    naps: BTreeMap<T, Waited>,
    names: BTreeMap<u32, String>,
    /// Whose work the next operation is, as the runtime tells.
    tasks: Vec<TaskId>,
    made: Vec<Made>,
    runtime: Runtime,
    task_end: u8,
    next_port: u16,
    next_tid: u32,
    next_seq: u32,
}

pub(crate) fn key(process: u32) -> ProcessKey {
    ProcessKey { tgid: Tgid(process), start_boottime: u64::from(process) * 1000 }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            events: Vec::new(),
            clock: KernelInstant::from_nanos(1_000_000_000),
            step: Duration::from_micros(10),
            sockets: Vec::new(),
            seqs: BTreeMap::new(),
            nvcsw: BTreeMap::new(),
            asleep: BTreeMap::new(),
            wakes: BTreeMap::new(),
            followed: false,
            naps: BTreeMap::new(),
            names: BTreeMap::new(),
            tasks: Vec::new(),
            made: Vec::new(),
            runtime: Runtime::Python,
            task_end: 0,
            next_port: 40_000,
            next_tid: 100,
            next_seq: u32::MAX - 500,
        }
    }

    /// A traced process and its main thread.
    pub(crate) fn process(&mut self, name: &str) -> T {
        self.process_with(ProcessFacts { service_name: name.to_owned(), ..ProcessFacts::default() })
    }

    pub(crate) fn nginx(&mut self, name: &str) -> T {
        self.process_with(ProcessFacts {
            service_name: name.to_owned(),
            is_nginx: true,
            ..ProcessFacts::default()
        })
    }

    fn process_with(&mut self, facts: ProcessFacts) -> T {
        let process = self.next_tid;
        self.next_tid += 100;
        self.names.insert(process, facts.service_name.clone());
        let event = ProcessDescribed { time: self.tick(), process: key(process), facts };
        self.events.push(Event::ProcessDescribed(Box::new(event)));
        T { process, tid: process }
    }

    /// Another thread of the process.
    pub(crate) fn thread(&self, of: T, number: u32) -> T {
        T { process: of.process, tid: of.process + number }
    }

    /// The thread forks a process, which is traced; returns its only thread.
    pub(crate) fn forks(&mut self, thread: T) -> T {
        let child = self.next_tid;
        self.next_tid += 100;
        let name = self.names.get(&thread.process).cloned().unwrap_or_default();
        self.names.insert(child, name);
        let time = self.tick();
        let origin = Origin { time, thread: Some(self.at(thread, 0)), cpu: 0 };
        let (child_key, child_tid) = (key(child), Tid(child));
        self.events.push(Event::ProcessForked(ProcessForked { origin, child: child_key, child_tid }));
        T { process: child, tid: child }
    }

    /// The process ends with this thread.
    pub(crate) fn exits(&mut self, thread: T) {
        self.ends(thread, true);
    }

    /// The thread ends, and others of its process do not.
    pub(crate) fn leaves(&mut self, thread: T) {
        self.ends(thread, false);
    }

    fn ends(&mut self, thread: T, process_gone: bool) {
        let time = self.tick();
        let origin = Origin { time, thread: Some(self.at(thread, 0)), cpu: 0 };
        self.events.push(Event::TaskExited(TaskExited { origin, process_gone, exit_code: 0 }));
    }

    /// The end belongs to another process from now on, which has inherited it.
    pub(crate) fn inherits(&mut self, thread: T, end: End) {
        self.sockets[end.0].process = Some(thread.process);
    }

    pub(crate) fn sleep(&mut self, duration: Duration) {
        self.clock = self.clock.plus(duration);
    }

    /// The thread waits: its voluntary context switches go up.
    pub(crate) fn waits(&mut self, thread: T) {
        *self.nvcsw.entry(thread).or_default() += 1;
    }

    /// The next operation is the work of the first of these tasks, for which the second waits, and so on. A receive is
    /// what the task had waited for.
    pub(crate) fn works(&mut self, tasks: &[u64]) {
        self.works_for(tasks, &[]);
    }

    /// The same, of which what waits has made some. Each thousand of numbers is a kind.
    pub(crate) fn works_for(&mut self, tasks: &[u64], own: &[u64]) {
        self.tasks = tasks.iter().map(|number| task(*number)).collect();
        self.made =
            tasks.iter().map(|task| Made { kind: (task / 1000) as u32, own: own.contains(task) }).collect();
        self.runtime = Runtime::Python;
    }

    /// The next operation is a receive, before which all tasks up to this number were made.
    pub(crate) fn counts(&mut self, waited: Option<u64>, youngest: u64) {
        self.tasks = vec![waited.map(task).unwrap_or_default(), TaskId { address: youngest, number: 0 }];
        self.runtime = Runtime::Python;
    }

    /// A task makes another one, as a probe in CPython tells. The new one's number may not be known: zero.
    pub(crate) fn makes(&mut self, thread: T, maker: TaskId, task: TaskId) {
        let (time, thread) = (self.tick(), self.at(thread, 0));
        self.events.push(Event::TaskIdentified(Box::new(TaskIdentified {
            time,
            thread,
            cookie: SocketCookie(0),
            of_plaintext: false,
            runtime: Runtime::PythonMaker,
            direction: Direction::Egress,
            tasks: vec![task, maker],
            made: Vec::new(),
            end: 0,
            stream: None,
        })));
    }

    /// The next operation is told of by Go: see `tracer_abi::event::IdentityRecord::tasks`.
    pub(crate) fn goes(&mut self, tasks: Vec<TaskId>) {
        self.tasks = tasks;
        self.runtime = Runtime::Go;
    }

    /// A goroutine takes up a stream of this end's connection: see `tracer_abi::event::StreamRecord`.
    pub(crate) fn takes(
        &mut self,
        thread: T,
        end: End,
        stream: u32,
        direction: Direction,
        tasks: Vec<TaskId>,
    ) {
        let time = self.tick();
        let thread = Thread { tid: Tid(0), ..self.at(thread, 0) };
        let cookie = self.sockets[end.0].cookie;
        self.events.push(Event::TaskIdentified(Box::new(TaskIdentified {
            time,
            thread,
            cookie,
            of_plaintext: false,
            runtime: Runtime::Go,
            direction,
            tasks,
            made: Vec::new(),
            end: 0,
            stream: Some(stream),
        })));
    }

    /// The same, of greenlets.
    pub(crate) fn switches(&mut self, greenlet: TaskId) {
        self.tasks = vec![greenlet];
        self.runtime = Runtime::Greenlet;
    }

    /// The same, of Java's virtual threads.
    pub(crate) fn mounts(&mut self, thread: TaskId) {
        self.tasks = vec![thread];
        self.runtime = Runtime::Java;
    }

    /// The next operation is inside of the work item with this future.
    pub(crate) fn in_work(&mut self, future: u64) {
        self.tasks = vec![TaskId { address: future + 0x40, number: future }];
        self.runtime = Runtime::PythonWork;
    }

    /// The next operation is inside of this task of a pool of Java's.
    pub(crate) fn in_task(&mut self, task: u64) {
        self.tasks = vec![TaskId { address: task & ((1 << 48) - 1), number: task }];
        self.runtime = Runtime::JavaWork;
    }

    /// The next operation is for the request that came on this end, as nginx tells.
    pub(crate) fn is_for(&mut self, client: End, stream: Option<u64>) {
        let client = TaskId { address: 0x5500_0000, number: self.sockets[client.0].cookie.0 };
        let stream = stream.map(|number| TaskId { address: number, number: 0 });
        self.tasks = std::iter::once(client).chain(stream).collect();
        self.runtime = Runtime::Nginx;
    }

    /// The same, in tokio's terms, and how the walk ended.
    pub(crate) fn polls(&mut self, tasks: Vec<TaskId>, end: u64) {
        self.tasks = tasks;
        self.runtime = Runtime::Tokio;
        self.task_end = end as u8;
    }

    pub(crate) fn falls_asleep(&mut self, thread: T) {
        let time = self.tick();
        self.waits(thread);
        self.asleep.insert(thread, time);
    }

    /// A thread wakes another one of its process, which sleeps for the futex at this address.
    pub(crate) fn wakes(&mut self, by: T, thread: T, address: u64) {
        self.wakes_for(by, thread, address, Awaited::Unknown);
    }

    /// The same, and it is known what the other one waited for.
    pub(crate) fn wakes_for(&mut self, by: T, thread: T, address: u64, awaited: Awaited) {
        let asleep_since = self.asleep.remove(&thread);
        self.woken(by, thread, Cause::Futex { address, asleep_since, awaited });
    }

    /// The same, and whose results the two have to do with.
    pub(crate) fn wakes_with(&mut self, by: T, thread: T, address: u64, awaited: Awaited, results: Results) {
        self.wakes_for(by, thread, address, awaited);
        if let Some(Event::ThreadWoken(woken)) = self.events.last_mut() {
            woken.results = Some(Box::new(results));
        }
    }

    /// The thread submits the item that [`Self::in_work`] has of this future.
    pub(crate) fn submits(&mut self, by: T, within: Option<u64>, future: u64) {
        let number = self.wakes.entry(by).or_default();
        *number += 1;
        let number = *number;
        let (time, by) = (self.tick(), self.at(by, number));
        let work = TaskId { address: future + 0x40, number: future };
        self.events.push(Event::WorkSubmitted(WorkSubmitted { time, by, cpu: 0, work, within }));
    }

    pub(crate) fn creates(&mut self, by: T, thread: T) {
        self.woken(by, thread, Cause::Born);
    }

    fn woken(&mut self, by: T, thread: T, cause: Cause) {
        let number = self.wakes.entry(by).or_default();
        *number += 1;
        let number = *number;
        let time = self.tick();
        let by = self.at(by, number);
        self.events.push(Event::ThreadWoken(ThreadWoken {
            time,
            by,
            cpu: 0,
            woken: Tid(thread.tid),
            cause,
            results: None,
        }));
    }

    /// A TCP connection between two processes; `None` is one that is not traced.
    pub(crate) fn connect(&mut self, client: Option<T>, server: Option<T>) -> (End, End) {
        self.connect_as(client, server, Wiring::default())
    }

    pub(crate) fn connect_as(&mut self, client: Option<T>, server: Option<T>, wiring: Wiring) -> (End, End) {
        let port = self.next_port;
        self.next_port = self.next_port.wrapping_add(1);
        let (there, back) = (self.next_seq, self.next_seq.wrapping_add(0x4000_0000));
        self.next_seq = self.next_seq.wrapping_add(1_000_003);
        let ends = (End(self.sockets.len()), End(self.sockets.len() + 1));
        for (n, process) in [client, server].into_iter().enumerate() {
            let id = self.sockets.len();
            self.sockets.push(Socket {
                process: process.map(|thread| thread.process),
                peer: if n == 0 { id + 1 } else { id - 1 },
                cookie: SocketCookie(id as u64 + 1),
                sent: 0,
                received: 0,
                egress_seq: if n == 0 { there } else { back },
                ingress_seq: if n == 0 { back } else { there },
                tcp: !wiring.unix,
                pending: Vec::new(),
                blocking: Some(true),
            });
        }
        let near: Endpoint = endpoint(&format!("10.0.0.1:{port}"));
        let far = endpoint("10.0.0.2:80");
        let seen_near = if wiring.translated { endpoint("192.168.7.7:999") } else { near };
        for (end, thread, local, remote, role) in
            [(ends.0, client, near, far, Role::Client), (ends.1, server, far, seen_near, Role::Server)]
        {
            let Some(thread) = thread else { continue };
            let time = self.tick();
            let socket = &self.sockets[end.0];
            self.events.push(Event::ConnOpened(ConnOpened {
                origin: Origin { time, thread: Some(self.at(thread, 0)), cpu: 0 },
                cookie: socket.cookie,
                peer_cookie: wiring.unix.then(|| self.sockets[socket.peer].cookie),
                family: if wiring.unix { Family::Unix } else { Family::Inet },
                role,
                local: if wiring.unix { Endpoint::default() } else { local },
                remote: if wiring.unix { Endpoint::default() } else { remote },
                netns: if role == Role::Client { 1 } else { 2 },
                egress_seq: socket.egress_seq,
                ingress_seq: socket.ingress_seq,
                preexisting: wiring.preexisting,
                over: false,
                unix_path: Bytes::new(),
            }));
        }
        ends
    }

    /// As [`Self::connect`], but the server is behind: what it will see is not told of until it accepts.
    pub(crate) fn dial(&mut self, client: T, server: T) -> (End, End, ConnOpened) {
        let ends = self.connect(Some(client), Some(server));
        let Some(Event::ConnOpened(accepted)) = self.events.pop() else { panic!("no connection") };
        (ends.0, ends.1, accepted)
    }

    pub(crate) fn accept(&mut self, mut accepted: ConnOpened) {
        accepted.origin.time = self.tick();
        self.events.push(Event::ConnOpened(accepted));
    }

    /// Its reads never wait: the socket of an event loop.
    pub(crate) fn nonblocking(&mut self, end: End) -> End {
        self.sockets[end.0].blocking = Some(false);
        end
    }

    /// The thread sleeps until descriptors are ready.
    pub(crate) fn naps(&mut self, thread: T, waited: Waited) {
        self.waits(thread);
        let naps = self.naps.entry(thread).or_default();
        naps.alone |= waited.alone;
        naps.aside |= waited.aside;
        naps.several |= waited.several;
    }

    /// Writes bytes; for an end that is not traced nothing is reported.
    pub(crate) fn write(&mut self, thread: impl Into<Option<T>>, end: End, bytes: &[u8]) {
        let peer = self.sockets[end.0].peer;
        self.sockets[peer].pending.extend_from_slice(bytes);
        if self.sockets[end.0].process.is_some() {
            let thread = thread.into().expect("a traced end is written by a thread");
            self.moved(thread, end, Direction::Egress, bytes);
        }
    }

    /// Reads what has been written by the other end.
    pub(crate) fn read(&mut self, thread: impl Into<Option<T>>, end: End) -> Vec<u8> {
        let all = self.sockets[end.0].pending.len();
        self.read_some(thread, end, all)
    }

    pub(crate) fn read_some(&mut self, thread: impl Into<Option<T>>, end: End, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.sockets[end.0].pending.drain(..len).collect();
        if self.sockets[end.0].process.is_some() {
            let thread = thread.into().expect("a traced end is read by a thread");
            assert!(!bytes.is_empty(), "nothing to read");
            self.moved(thread, end, Direction::Ingress, &bytes);
        }
        bytes
    }

    pub(crate) fn request(&mut self, thread: impl Into<Option<T>>, end: End, path: &str) {
        self.request_with(thread, end, path, "");
    }

    /// `headers`: whole lines.
    pub(crate) fn request_with(&mut self, thread: impl Into<Option<T>>, end: End, path: &str, headers: &str) {
        self.write(thread, end, format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n").as_bytes());
    }

    pub(crate) fn response(&mut self, thread: impl Into<Option<T>>, end: End) {
        self.response_of(thread, end, 2);
    }

    /// `len`: of the body.
    pub(crate) fn response_of(&mut self, thread: impl Into<Option<T>>, end: End, len: usize) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
        self.write(thread, end, &[head.as_bytes(), &vec![b'x'; len]].concat());
    }

    /// A request is sent and read: the usual two operations.
    pub(crate) fn asks(
        &mut self,
        client: impl Into<Option<T>>,
        ends: (End, End),
        server: impl Into<Option<T>>,
        path: &str,
    ) {
        self.request(client, ends.0, path);
        self.read(server, ends.1);
    }

    /// A response is sent and read.
    pub(crate) fn answers(
        &mut self,
        client: impl Into<Option<T>>,
        ends: (End, End),
        server: impl Into<Option<T>>,
    ) {
        self.response(server, ends.1);
        self.read(client, ends.0);
    }

    /// The end is closed by its process.
    pub(crate) fn close(&mut self, thread: T, end: End) {
        self.is_closed(Some(thread), end);
    }

    /// A packet closes it.
    pub(crate) fn is_reset(&mut self, end: End) {
        self.is_closed(None, end);
    }

    fn is_closed(&mut self, by: Option<T>, end: End) {
        let time = self.tick();
        let socket = &self.sockets[end.0];
        self.events.push(Event::ConnClosed(ConnClosed {
            origin: Origin { time, thread: by.map(|thread| self.at(thread, 0)), cpu: 0 },
            cookie: socket.cookie,
            by_packet: by.is_none(),
            egress_bytes: socket.sent,
            ingress_bytes: socket.received,
        }));
    }

    pub(crate) fn end_of_stream(&mut self, thread: T, end: End) {
        self.operation(thread, end, Direction::Ingress, IoOutcome::EndOfStream, &[]);
    }

    /// A read that found nothing.
    pub(crate) fn would_block(&mut self, thread: T, end: End) {
        self.operation(thread, end, Direction::Ingress, IoOutcome::Failed(11), &[]);
    }

    /// A write to a connection that was reset.
    pub(crate) fn broken_pipe(&mut self, thread: T, end: End) {
        self.operation(thread, end, Direction::Egress, IoOutcome::Failed(32), &[]);
    }

    fn moved(&mut self, thread: T, end: End, direction: Direction, bytes: &[u8]) {
        self.operation(thread, end, direction, IoOutcome::Moved(bytes.len() as u32), bytes);
    }

    fn operation(&mut self, thread: T, end: End, direction: Direction, outcome: IoOutcome, bytes: &[u8]) {
        let seq = self.seqs.entry(thread).or_default();
        *seq += 1;
        let seq = *seq;
        let time = self.tick();
        let nvcsw = self.nvcsw.get(&thread).copied().unwrap_or(0);
        let nap = self.naps.remove(&thread).unwrap_or_default();
        let thread = self.at(thread, seq);
        let socket = &mut self.sockets[end.0];
        assert_eq!(socket.process, Some(thread.process.tgid.0), "a thread uses its own process's socket");
        let (position, first) = match direction {
            Direction::Egress => (&mut socket.sent, socket.egress_seq),
            Direction::Ingress => (&mut socket.received, socket.ingress_seq),
        };
        let offset = *position;
        *position += bytes.len() as u64;
        let seq_end = first.wrapping_add((offset + bytes.len() as u64) as u32);
        let tasks = std::mem::take(&mut self.tasks);
        let runtime = self.runtime;
        let user_r14 = tasks.first().filter(|_| runtime == Runtime::Go).map_or(0, |task| task.address);
        if !tasks.is_empty() {
            let cookie = socket.cookie;
            let identified = TaskIdentified {
                time,
                thread,
                cookie,
                of_plaintext: false,
                runtime,
                direction,
                tasks,
                made: std::mem::take(&mut self.made),
                end: self.task_end,
                stream: None,
            };
            self.events.push(Event::TaskIdentified(Box::new(identified)));
        }
        let event = DataMoved {
            time,
            thread,
            cpu: 0,
            cookie: socket.cookie,
            direction,
            offset,
            outcome,
            tcp_seq_end: if socket.tcp { seq_end } else { 0 },
            head_len: bytes.len() as u32,
            tail_len: 0,
            chunk_offset: 0,
            payload: Bytes::copy_from_slice(bytes),
            payload_state: PayloadState::Copied,
            last: true,
            muted: false,
            frame: false,
            class: Class::Http1,
            blocking: socket.blocking,
            waited: Waited { known: self.followed, ..nap },
            in_tls_call: false,
            nvcsw,
            user_r14,
            syscall: 0,
        };
        self.events.push(Event::DataMoved(event));
    }

    fn at(&self, thread: T, seq: u32) -> Thread {
        Thread { process: key(thread.process), tid: Tid(thread.tid), seq }
    }

    pub(crate) fn tick(&mut self) -> KernelInstant {
        self.clock = self.clock.plus(self.step);
        self.clock
    }

    /// All events through an engine, then the end of the run.
    pub(crate) fn spans(&self) -> Vec<Span> {
        run(&self.events, EngineConfig::default(), self.clock)
    }

    /// The spans as lines, in order of their start.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.spans())
    }
}

pub(crate) fn task(number: u64) -> TaskId {
    TaskId { address: 0x7f00_0000_0000 + number * 64, number }
}

pub(crate) const ALONE: Waited = Waited { known: true, alone: true, aside: false, several: false };
pub(crate) const ASIDE: Waited = Waited { known: true, alone: false, aside: true, several: false };
pub(crate) const SEVERAL: Waited = Waited { known: true, alone: false, aside: false, several: true };

/// What is unusual about a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wiring {
    pub(crate) unix: bool,
    /// The server sees another client address than the client has.
    pub(crate) translated: bool,
    pub(crate) preexisting: bool,
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    Endpoint::new(text.parse().expect("an address"))
}

/// Feeds events in the given order, lets ten seconds pass, and finishes.
pub(crate) fn run(events: &[Event], config: EngineConfig, end: KernelInstant) -> Vec<Span> {
    let mut engine = Engine::new(config, [1; 32]);
    let mut spans = Vec::new();
    for event in events {
        engine.handle_event(event.clone());
        spans.extend(std::iter::from_fn(|| engine.poll_span()));
    }
    let end = end.plus(Duration::from_secs(1));
    engine.handle_timeout(end);
    engine.finish(end);
    spans.extend(std::iter::from_fn(|| engine.poll_span()));
    assert_eq!(engine.stats().spans, spans.len() as u64);
    spans
}

pub(crate) fn text<'s>(span: &'s Span, key: &str) -> Option<&'s str> {
    span.attributes.iter().find_map(|(name, value)| match value {
        Value::Str(text) if *name == key => Some(text.as_str()),
        Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::StrArray(_) => None,
    })
}

/// The path of a span's request.
pub(crate) fn path(span: &Span) -> &str {
    match text(span, "url.path") {
        Some(path) => path,
        None => {
            let url = text(span, "url.full").unwrap_or("?");
            ["http://h", "https://h"].into_iter().find_map(|start| url.strip_prefix(start)).unwrap_or("?")
        }
    }
}

pub(crate) fn name(span: &Span) -> String {
    let kind = match span.kind {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
    };
    format!("{} {kind} {}", span.resource.service_name(), path(span))
}

/// `shop server /a < curl client /a (tcp-sequence)`, or `shop client /b - no-open-request`.
pub(crate) fn lines(spans: &[Span]) -> Vec<String> {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| (span.start, span.kind == SpanKind::Server, name(span)));
    sorted
        .iter()
        .map(|span| {
            let mut line = name(span);
            match (&span.parent, span.undecided) {
                (Some(parent), None) => {
                    let above = spans.iter().find(|above| above.span_id == parent.span_id);
                    match above {
                        Some(above) => {
                            assert_eq!(above.trace_id, span.trace_id, "parent and child are of one trace");
                            line += &format!(" < {} ({})", name(above), parent.evidence.as_str());
                        }
                        None => line += &format!(" < {} ({})", parent.span_id, parent.evidence.as_str()),
                    }
                }
                (None, Some(reason)) => line += &format!(" - {reason}"),
                (None, None) => {}
                (Some(_), Some(_)) => panic!("{span:?} has both a parent and a reason for none"),
            }
            if let Some(reason) = text(span, "tracer.incomplete") {
                line += &format!(" !{reason}");
            }
            line
        })
        .collect()
}
