//! Programs whose threads hand calls to others: the honest ones, and those whose threads wait for something else.
//!
//! A thread for each connection serves; a few workers call. Who wakes whom, and where who sleeps, is what the kernel half
//! would report of the futexes of such a program, the interpreter's lock included.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use tracer_abi::event::Awaited;
use tracer_abi::python_work::MAX_FUTURES;
use tracer_core::event::Results;

use crate::host::{End, Host, T};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// Submits a call, waits for its result.
    Pool,
    /// The same, and every worker waits at an address of its own.
    Parked,
    /// A worker of one pool submits to another and waits.
    Nested,
    /// Submits all calls, waits for all.
    FanOut,
    /// Nobody waits.
    Forget,
    /// Nobody waits for calls, but for other work of the same workers, between them.
    Mixed,
    /// Who finds the queue full waits for a place in it.
    BoundedQueue,
    /// Who finds no permit waits for one.
    Semaphore,
    /// The end of any call lets all that wait go on: its worker wakes each of them.
    Latch,
    /// The same: its worker wakes the first, who wakes the next.
    Cascade,
    /// Requests wait for the next refresh, which none of them causes, and call themselves.
    Refresh,
    /// Requests that come while a call is under way wait for its result.
    Coalesce,
    /// Submits a call, and waits for the result of the one that was submitted longest ago, for whomever.
    Handed,
}

impl Model {
    pub(crate) const ALL: [Self; 13] = [
        Self::Pool,
        Self::Parked,
        Self::Nested,
        Self::FanOut,
        Self::Forget,
        Self::Mixed,
        Self::BoundedQueue,
        Self::Semaphore,
        Self::Latch,
        Self::Cascade,
        Self::Refresh,
        Self::Coalesce,
        Self::Handed,
    ];
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLoad {
    pub(crate) model: Model,
    /// Requests; the first quarter of them come one at a time.
    pub(crate) requests: usize,
    pub(crate) connections: usize,
    pub(crate) workers: usize,
    pub(crate) timer: bool,
    /// The runtime tells what threads wait for, and in which items of work.
    pub(crate) is_told: bool,
    /// And who submits which, whether or not that wakes a thread.
    pub(crate) submits: bool,
}

/// The interpreter's lock, the pools' queues.
const GIL: u64 = 0x10;
const QUEUE: [u64; 2] = [0x20, 0x30];

#[derive(Clone, Debug)]
struct Handler {
    thread: T,
    ends: (End, End),
    path: Option<String>,
    calls: usize,
    made: usize,
    /// Calls of which the result is not there.
    missing: usize,
    asleep: bool,
    /// What it sleeps for has come.
    go: bool,
    /// It has to wake the next one that waits for the same.
    passes_on: bool,
    /// It calls itself.
    own: Option<Call>,
    /// Results that it has not let go of.
    futures: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Job {
    handler: usize,
    /// Of the call: its request may be answered before. `None`: other work.
    path: Option<String>,
    /// Of its result.
    future: u64,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    ends: (End, End),
    answered: bool,
}

#[derive(Clone, Debug)]
struct Worker {
    thread: T,
    pool: usize,
    asleep: bool,
    job: Option<Job>,
    call: Option<Call>,
    /// Waits for a worker of the other pool.
    waits: bool,
    done: bool,
}

pub(crate) struct Pools {
    pub(crate) host: Host,
    rng: ChaCha8Rng,
    load: PoolLoad,
    main: T,
    handlers: Vec<Handler>,
    workers: Vec<Worker>,
    queues: [VecDeque<(Job, Option<usize>)>; 2],
    /// Who submitted to the second pool, by worker of it.
    outer: Vec<Option<usize>>,
    /// Handlers that wait for one thing, the longest first.
    waiters: VecDeque<usize>,
    permits: usize,
    /// The handler whose call others share.
    shared: Option<usize>,
    /// Addresses of futures that are free, the last one freed last; and who holds those that are not.
    free: Vec<u64>,
    held: BTreeMap<u64, u32>,
    /// Handed on, the longest first; and those of them whose results are there.
    handed: VecDeque<u64>,
    finished: BTreeSet<u64>,
    idle: Vec<(End, End)>,
    timer: (T, Option<Call>, usize),
}

impl Pools {
    pub(crate) fn run(load: PoolLoad, seed: u64) -> Self {
        let mut host = Host::new();
        host.step = std::time::Duration::from_micros(200);
        let main = host.process("front");
        let handlers = (0..load.connections)
            .map(|n| Handler {
                thread: host.thread(main, 1 + n as u32),
                ends: host.connect(None, Some(main)),
                path: None,
                calls: 0,
                made: 0,
                missing: 0,
                asleep: false,
                go: false,
                passes_on: false,
                own: None,
                futures: Vec::new(),
            })
            .collect();
        let pools = if load.model == Model::Nested { 2 } else { 1 };
        let workers: Vec<Worker> = (0..load.workers * pools)
            .map(|n| Worker {
                thread: host.thread(main, 50 + n as u32),
                pool: n % pools,
                asleep: false,
                job: None,
                call: None,
                waits: false,
                done: false,
            })
            .collect();
        let timer = (host.thread(main, 95), None, 0);
        let outer = vec![None; workers.len()];
        let mut pools = Self {
            host,
            rng: ChaCha8Rng::seed_from_u64(seed),
            load,
            main,
            handlers,
            workers,
            queues: [VecDeque::new(), VecDeque::new()],
            outer,
            waiters: VecDeque::new(),
            permits: 2,
            shared: None,
            free: (0..400).map(|n| 0x70_0000 + 0x100 * n).collect(),
            held: BTreeMap::new(),
            handed: VecDeque::new(),
            finished: BTreeSet::new(),
            idle: Vec::new(),
            timer,
        };
        let mut begun = 0;
        let mut steps = 0;
        while begun < load.requests || pools.handlers.iter().any(|handler| handler.path.is_some()) {
            steps += 1;
            assert!(steps < 2_000_000, "{load:?} seed {seed} hangs");
            pools.step(&mut begun);
        }
        // What nobody waited for comes to its end.
        for _ in 0..2000 {
            pools.step(&mut begun);
        }
        pools
    }

    fn pick(&mut self, count: usize) -> usize {
        (self.rng.next_u64() % count.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }

    fn step(&mut self, begun: &mut usize) {
        match self.pick(10) {
            0..=3 => {
                let handler = self.pick(self.handlers.len());
                self.handle(handler, begun);
            }
            4..=6 => {
                let worker = self.pick(self.workers.len());
                self.work(worker);
            }
            7..=8 => self.back_answers(),
            _ if self.load.timer || self.load.model == Model::Refresh => self.timer_moves(),
            _ => {}
        }
    }

    /// Now and then a thread has to wait for the interpreter.
    fn runs(&mut self, thread: T) {
        // Where the runtime is known, so is its lock.
        if self.load.model == Model::Parked || self.load.is_told || !self.chance(40) {
            return;
        }
        // Somebody else that runs has to, too.
        let workers = self.workers.iter().filter(|worker| !worker.asleep && !worker.waits);
        let handlers = self.handlers.iter().filter(|handler| !handler.asleep);
        let running: Vec<T> = workers
            .map(|worker| worker.thread)
            .chain(handlers.map(|handler| handler.thread))
            .filter(|other| *other != thread)
            .collect();
        self.host.falls_asleep(thread);
        if !running.is_empty() {
            let other = running[self.pick(running.len())];
            self.host.falls_asleep(other);
            self.host.wakes(self.main, other, GIL);
        }
        self.host.wakes(self.main, thread, GIL);
    }

    fn handle(&mut self, n: usize, begun: &mut usize) {
        let Handler { thread, ends, asleep, go, own, .. } = self.handlers[n].clone();
        if asleep && !go {
            return;
        }
        if asleep {
            (self.handlers[n].asleep, self.handlers[n].go) = (false, false);
        }
        if std::mem::take(&mut self.handlers[n].passes_on) {
            self.wake_next(thread);
        }
        if self.handlers[n].path.is_none() {
            let alone = *begun * 4 < self.load.requests;
            let busy = self.handlers.iter().any(|handler| handler.path.is_some());
            if *begun < self.load.requests && !(alone && busy) {
                let path = format!("/{begun}");
                *begun += 1;
                self.host.request(None, ends.0, &path);
                self.host.read(thread, ends.1);
                let calls = self.pick(4);
                self.handlers[n] = Handler {
                    path: Some(path),
                    calls: if matches!(self.load.model, Model::Coalesce | Model::Refresh) {
                        calls.min(1)
                    } else {
                        calls
                    },
                    made: 0,
                    missing: 0,
                    ..self.handlers[n].clone()
                };
            }
            return;
        }
        self.runs(thread);
        if let Some(call) = own {
            if call.answered {
                self.host.read(thread, call.ends.0);
                self.idle.push(call.ends);
                self.handlers[n].own = None;
                self.handlers[n].made += 1;
            }
            return;
        }
        self.serve(n);
    }

    fn serve(&mut self, n: usize) {
        let Handler { thread, ends, path, calls, made, missing, .. } = self.handlers[n].clone();
        let waits_for_all = matches!(self.load.model, Model::FanOut);
        let waits_for_each = matches!(
            self.load.model,
            Model::Pool | Model::Parked | Model::Nested | Model::Mixed | Model::Coalesce | Model::Handed
        );
        if missing == 0 {
            for future in std::mem::take(&mut self.handlers[n].futures) {
                self.let_go(future);
            }
        }
        if missing > 0 && (waits_for_each || (waits_for_all && made == calls)) {
            self.sleeps(n);
            return;
        }
        if made == calls {
            self.host.response(thread, ends.1);
            self.host.read(None, ends.0);
            self.handlers[n].path = None;
            return;
        }
        match self.load.model {
            Model::BoundedQueue if self.queues[0].len() >= 2 => {
                self.waiters.push_back(n);
                self.sleeps(n);
                return;
            }
            Model::Semaphore if self.permits == 0 => {
                self.waiters.push_back(n);
                self.sleeps(n);
                return;
            }
            Model::Semaphore => self.permits -= 1,
            Model::Refresh => {
                if self.handlers[n].missing == 0 {
                    self.handlers[n].missing = 1;
                    self.waiters.push_back(n);
                    self.sleeps(n);
                } else {
                    self.handlers[n].missing = 0;
                    let path = format!("{}.{made}", path.expect("it serves"));
                    self.handlers[n].own = Some(self.call(thread, &path, None));
                }
                return;
            }
            Model::Coalesce if self.shared.is_some() => {
                let shared = self.shared.and_then(|first| self.handlers[first].futures.last().copied());
                if let Some(future) = shared {
                    self.hold(n, future);
                }
                self.handlers[n].made += 1;
                self.handlers[n].missing += 1;
                self.waiters.push_back(n);
                return;
            }
            Model::Coalesce => {
                self.shared = Some(n);
                self.waiters.push_back(n);
            }
            Model::Latch | Model::Cascade => {
                self.waiters.push_back(n);
            }
            Model::Pool
            | Model::Parked
            | Model::Nested
            | Model::FanOut
            | Model::Forget
            | Model::Mixed
            | Model::BoundedQueue
            | Model::Handed => {}
        }
        self.handlers[n].made += 1;
        self.handlers[n].missing += 1;
        let path = format!("{}.{made}", path.expect("it serves"));
        let future = self.new_future();
        let waits = waits_for_each || waits_for_all;
        if self.load.model == Model::Handed {
            *self.held.entry(future).or_default() += 1;
            self.handed.push_back(future);
        } else if waits && self.load.model != Model::Mixed {
            self.hold(n, future);
        }
        self.submit(thread, 0, Job { handler: n, path: Some(path), future }, None);
        if self.load.model == Model::Mixed {
            let future = self.new_future();
            self.hold(n, future);
            self.submit(thread, 0, Job { handler: n, path: None, future }, None);
        }
        if self.load.model == Model::Handed
            && let Some(future) = self.handed.pop_front()
        {
            self.handlers[n].futures.push(future);
            if self.finished.remove(&future) {
                self.handlers[n].missing = 0;
            }
        }
        // Mostly it comes to wait before anything else happens.
        let at_once = waits_for_each && self.chance(85);
        if at_once || matches!(self.load.model, Model::Latch | Model::Cascade) {
            self.sleeps(n);
        }
    }

    fn awaited(&self, really: Awaited) -> Awaited {
        if self.load.is_told { really } else { Awaited::Unknown }
    }

    /// At an address of its own.
    fn sleeps(&mut self, n: usize) {
        let thread = self.handlers[n].thread;
        self.handlers[n].asleep = true;
        self.handlers[n].go = false;
        self.host.falls_asleep(thread);
    }

    fn wake_handler(&mut self, by: T, n: usize) {
        let thread = self.handlers[n].thread;
        if self.handlers[n].asleep && !self.handlers[n].go {
            let awaited = self.awaited(match self.load.model {
                Model::Pool
                | Model::Parked
                | Model::Nested
                | Model::FanOut
                | Model::Mixed
                | Model::Coalesce
                | Model::Handed => Awaited::Result,
                Model::Forget
                | Model::BoundedQueue
                | Model::Semaphore
                | Model::Latch
                | Model::Cascade
                | Model::Refresh => Awaited::Other,
            });
            let address = 0x1000 + u64::from(thread.tid);
            let futures = self.handlers[n].futures.clone();
            self.wakes_with(by, thread, address, awaited, None, &futures);
        }
        self.handlers[n].go = true;
    }

    fn wake_next(&mut self, by: T) {
        if let Some(next) = self.waiters.pop_front() {
            self.handlers[next].passes_on = true;
            self.wake_handler(by, next);
        }
    }

    /// Where nothing is known of results, nothing is told of them.
    fn wakes_with(
        &mut self,
        by: T,
        thread: T,
        address: u64,
        awaited: Awaited,
        within: Option<u64>,
        told: &[u64],
    ) {
        let mut futures = [0; MAX_FUTURES];
        futures.iter_mut().zip(told).for_each(|(future, told)| *future = *told);
        if self.load.is_told && !told.is_empty() {
            self.host.wakes_with(by, thread, address, awaited, Results { within, futures });
        } else {
            self.host.wakes_for(by, thread, address, awaited);
        }
    }

    /// What the job holds that makes it.
    fn new_future(&mut self) -> u64 {
        let future = self.free.pop().expect("few are held at a time");
        self.held.insert(future, 1);
        future
    }

    fn hold(&mut self, handler: usize, future: u64) {
        *self.held.entry(future).or_default() += 1;
        self.handlers[handler].futures.push(future);
    }

    fn let_go(&mut self, future: u64) {
        let held = self.held.get_mut(&future).expect("it is held");
        *held -= 1;
        if *held == 0 {
            self.held.remove(&future);
            self.free.push(future);
        }
    }

    fn submit(&mut self, by: T, pool: usize, job: Job, outer: Option<usize>) {
        let future = job.future;
        let within = outer.and_then(|outer| self.workers[outer].job.as_ref()).map(|job| job.future);
        if self.load.is_told && self.load.submits {
            self.host.submits(by, within, future);
        }
        self.queues[pool].push_back((job, outer));
        let asleep: Vec<usize> = (0..self.workers.len())
            .filter(|n| self.workers[*n].asleep && self.workers[*n].pool == pool)
            .collect();
        if !asleep.is_empty() {
            let n = asleep[self.pick(asleep.len())];
            self.workers[n].asleep = false;
            let thread = self.workers[n].thread;
            let awaited = self.awaited(Awaited::Other);
            self.wakes_with(by, thread, self.queue_of(n), awaited, within, &[future]);
        }
    }

    fn queue_of(&self, worker: usize) -> u64 {
        let Worker { thread, pool, .. } = self.workers[worker];
        if self.load.model == Model::Parked { 0x2000 + u64::from(thread.tid) } else { QUEUE[pool] }
    }

    fn work(&mut self, n: usize) {
        let Worker { thread, pool, asleep, job, call, waits, done } = self.workers[n].clone();
        if asleep || waits {
            return;
        }
        self.runs(thread);
        match (job, call) {
            (None, _) => match self.queues[pool].pop_front() {
                Some((job, outer)) => {
                    self.workers[n].job = Some(job);
                    self.outer[n] = outer;
                    if self.load.model == Model::BoundedQueue
                        && let Some(waiter) = self.waiters.pop_front()
                    {
                        self.wake_handler(thread, waiter);
                    }
                }
                None => {
                    self.workers[n].asleep = true;
                    self.host.falls_asleep(thread);
                }
            },
            // A task of the outer pool: its result has come, or it hands its own task on and waits.
            (Some(job), None) if self.load.model == Model::Nested && pool == 0 => {
                if done {
                    self.workers[n].done = false;
                    self.workers[n].job = None;
                    self.result(thread, job);
                } else {
                    self.workers[n].waits = true;
                    let future = self.new_future();
                    self.submit(thread, 1, Job { future, ..job }, Some(n));
                    self.host.falls_asleep(thread);
                }
            }
            (Some(job), None) => match &job.path {
                Some(path) => self.workers[n].call = Some(self.call(thread, path, Some(job.future))),
                None => {
                    self.workers[n].job = None;
                    self.result(thread, job);
                }
            },
            (Some(job), Some(call)) if call.answered => {
                if self.load.is_told {
                    self.host.in_work(job.future);
                }
                self.host.read(thread, call.ends.0);
                self.idle.push(call.ends);
                (self.workers[n].call, self.workers[n].job) = (None, None);
                match self.outer[n].take() {
                    Some(outer) => {
                        let waiting = self.workers[outer].thread;
                        self.workers[outer].waits = false;
                        self.workers[outer].done = true;
                        let address = 0x3000 + u64::from(waiting.tid);
                        let within = self.workers[outer].job.as_ref().map(|job| job.future);
                        let awaited = self.awaited(Awaited::Result);
                        self.wakes_with(thread, waiting, address, awaited, within, &[job.future]);
                        self.let_go(job.future);
                    }
                    None => self.result(thread, job),
                }
            }
            (Some(_), Some(_)) => {}
        }
    }

    /// A job is done.
    fn result(&mut self, by: T, job: Job) {
        self.let_go(job.future);
        if self.load.model == Model::Mixed && job.path.is_some() {
            return;
        }
        if self.load.model == Model::Handed {
            match self.handlers.iter().position(|handler| handler.futures.contains(&job.future)) {
                Some(waits) => {
                    self.handlers[waits].missing = 0;
                    self.wake_handler(by, waits);
                }
                None => {
                    self.finished.insert(job.future);
                }
            }
            return;
        }
        let handler = &mut self.handlers[job.handler];
        handler.missing = handler.missing.saturating_sub(1);
        let missing = handler.missing;
        match self.load.model {
            Model::Pool | Model::Parked | Model::Nested | Model::Mixed => {
                self.wake_handler(by, job.handler);
            }
            Model::FanOut if missing == 0 => self.wake_handler(by, job.handler),
            Model::FanOut | Model::Forget | Model::BoundedQueue | Model::Refresh | Model::Handed => {}
            Model::Semaphore => {
                self.permits += 1;
                if let Some(waiter) = self.waiters.pop_front() {
                    self.wake_handler(by, waiter);
                }
            }
            Model::Latch | Model::Coalesce => {
                self.shared = None;
                for waiter in std::mem::take(&mut self.waiters) {
                    self.handlers[waiter].missing = 0;
                    self.wake_handler(by, waiter);
                }
            }
            Model::Cascade => self.wake_next(by),
        }
    }

    fn call(&mut self, by: T, path: &str, future: Option<u64>) -> Call {
        let pooled = self.chance(70);
        let ends =
            self.idle.pop().filter(|_| pooled).unwrap_or_else(|| self.host.connect(Some(self.main), None));
        if let Some(future) = future.filter(|_| self.load.is_told) {
            self.host.in_work(future);
        }
        self.host.request(by, ends.0, path);
        self.host.read(None, ends.1);
        Call { ends, answered: false }
    }

    fn back_answers(&mut self) {
        let timer = self.timer.1.iter_mut();
        let own = self.handlers.iter_mut().filter_map(|handler| handler.own.as_mut());
        let calls = self.workers.iter_mut().filter_map(|worker| worker.call.as_mut()).chain(own).chain(timer);
        let mut open: Vec<&mut Call> = calls.filter(|call| !call.answered).collect();
        if open.is_empty() {
            return;
        }
        let n = (self.rng.next_u64() % open.len() as u64) as usize;
        open[n].answered = true;
        let end = open[n].ends.1;
        self.host.response(None, end);
    }

    fn timer_moves(&mut self) {
        let (thread, call, number) = self.timer;
        match call {
            None if self.load.model == Model::Refresh || self.chance(30) => {
                self.timer.1 = Some(self.call(thread, &format!("/bg{number}"), None));
                self.timer.2 += 1;
            }
            Some(call) if call.answered => {
                self.host.read(thread, call.ends.0);
                self.idle.push(call.ends);
                self.timer.1 = None;
                if self.load.model == Model::Refresh {
                    for waiter in std::mem::take(&mut self.waiters) {
                        self.wake_handler(thread, waiter);
                    }
                }
            }
            None | Some(_) => {}
        }
    }
}
