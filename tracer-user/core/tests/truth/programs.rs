//! Programs as schedulers of small steps: which thread takes which step of which request is what tells them apart.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::host::{ALONE, End, Host, SEVERAL, T};

/// How the front service works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// A thread for each connection; reads wait.
    ThreadPerConnection,
    /// Any of a few threads takes the next request of any connection; reads wait.
    Pool,
    /// One thread, reads do not wait; the timer runs on it, too.
    Loop,
    /// The same, and what it sleeps for is known.
    FollowedLoop,
    /// The same, and it sleeps for its connections only: for one alone where it has no more.
    LoopOfConnections,
    /// A pool whose reads do not wait: each thread sleeps for the one socket that it uses next.
    Alone,
    /// One thread reads, another calls and answers.
    HandOff,
    /// A pool whose threads run each other's calls while they wait for their own.
    ForkJoin,
    /// One thread; a request is forwarded and answered when the response comes; some by timers.
    Nginx,
    /// A thread for each connection, which forks a process for each call.
    Cgi,
    /// The same, but the processes are kept and call for anybody.
    ProcessPool,
}

impl Front {
    pub(crate) const ALL: [Self; 11] = [
        Self::ThreadPerConnection,
        Self::Pool,
        Self::Loop,
        Self::FollowedLoop,
        Self::LoopOfConnections,
        Self::Alone,
        Self::HandOff,
        Self::ForkJoin,
        Self::Nginx,
        Self::Cgi,
        Self::ProcessPool,
    ];
}

impl Front {
    /// All of it runs on one thread.
    const fn is_loop(self) -> bool {
        matches!(self, Self::Loop | Self::FollowedLoop | Self::LoopOfConnections | Self::Nginx)
    }

    const fn is_followed(self) -> bool {
        matches!(self, Self::FollowedLoop | Self::LoopOfConnections | Self::Alone)
    }
}

/// What the headers of requests are, and what programs make of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    None,
    /// A request id for each request, handed on with every call.
    Ids,
    /// One id for all, which the timer carries, too.
    ConstantId,
    /// A few ids in turn, as clients that are known by one have.
    Sessions,
    /// Some requests have the id of one before them: a retry.
    Retries,
    /// A trace and a span for each request, handed on as they are.
    PassThrough,
    /// Several requests are of one trace, each from a span of its own; handed on as they are.
    FanIn,
    /// The same, and of the span nothing is handed on.
    FanInTraceOnly,
    /// Calls are made by a span of their own: the program traces itself.
    Sdk,
    /// The same, where several requests are of one trace.
    SdkFanIn,
    /// The program traces itself, and starts a trace for each request, which brings none.
    SdkStarts,
    /// It starts a trace for each call.
    SdkStartsApart,
}

impl Headers {
    pub(crate) const ALL: [Self; 12] = [
        Self::None,
        Self::Ids,
        Self::ConstantId,
        Self::Sessions,
        Self::Retries,
        Self::PassThrough,
        Self::FanIn,
        Self::FanInTraceOnly,
        Self::Sdk,
        Self::SdkFanIn,
        Self::SdkStarts,
        Self::SdkStartsApart,
    ];

    /// Of the request with this number.
    fn brought(self, number: usize) -> String {
        match self {
            Self::None | Self::SdkStarts | Self::SdkStartsApart => String::new(),
            Self::Ids => request_id(number),
            Self::ConstantId => request_id(0),
            Self::Sessions => request_id(number % 7),
            Self::Retries => request_id(number - usize::from(number % 5 == 4)),
            Self::PassThrough | Self::Sdk => traceparent(number, number),
            Self::FanIn | Self::FanInTraceOnly | Self::SdkFanIn => traceparent(number / 3, number),
        }
    }

    /// Of call `call` of the request with this number.
    fn handed_on(self, number: usize, call: u32) -> String {
        let own_span = 1_000_000 + number * 10 + call as usize;
        match self {
            Self::None => String::new(),
            Self::Sdk | Self::SdkStarts => traceparent(number, own_span),
            Self::SdkStartsApart => traceparent(own_span, own_span),
            Self::SdkFanIn => traceparent(number / 3, own_span),
            Self::FanInTraceOnly => {
                let trace = trace_id(number / 3);
                format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &trace[..8], &trace[8..])
            }
            Self::Ids
            | Self::ConstantId
            | Self::Sessions
            | Self::Retries
            | Self::PassThrough
            | Self::FanIn => self.brought(number),
        }
    }

    /// The span that a call's headers name as its parent: of the timer's, or call `call` of request `number`.
    pub(crate) fn maker(self, path: &str) -> Option<String> {
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let headers = match (path.strip_prefix("/bg"), path[1..].split_once('.')) {
            (Some(timer), _) => self.of_timer(number(timer)),
            (None, Some((request, call))) => self.handed_on(number(request), call.parse().unwrap_or(0)),
            (None, None) => self.brought(number(&path[1..])),
        };
        headers.strip_prefix("traceparent: ").and_then(|value| value.split('-').nth(2)).map(str::to_owned)
    }

    /// The trace that a program starts for the request with this number, if it does.
    pub(crate) fn started(self, number: usize) -> Option<String> {
        (self == Self::SdkStarts).then(|| trace_id(number))
    }

    /// A program makes spans of its own for its calls.
    pub(crate) const fn traces_itself(self) -> bool {
        matches!(self, Self::Sdk | Self::SdkFanIn | Self::SdkStarts | Self::SdkStartsApart)
    }

    /// Of the timer's call with this number.
    fn of_timer(self, number: usize) -> String {
        match self {
            Self::None => String::new(),
            Self::ConstantId => request_id(0),
            Self::Sdk | Self::SdkFanIn | Self::SdkStarts | Self::SdkStartsApart => {
                traceparent(5_000_000 + number, 5_000_000 + number)
            }
            Self::Ids
            | Self::Sessions
            | Self::Retries
            | Self::PassThrough
            | Self::FanIn
            | Self::FanInTraceOnly => request_id(5_000_000 + number),
        }
    }
}

/// Numbers made to look as if by chance.
fn scattered(number: usize) -> u64 {
    let mut word = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2 {
        word = (word ^ word >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    word ^ word >> 29
}

fn trace_id(number: usize) -> String {
    format!("{:016x}{:016x}", scattered(number), scattered(number + 7_000_000))
}

fn request_id(number: usize) -> String {
    format!("X-Request-Id: {}\r\n", trace_id(number + 3_000_000))
}

fn traceparent(trace: usize, span: usize) -> String {
    format!("traceparent: 00-{}-{:016x}-01\r\n", trace_id(trace), scattered(span + 11_000_000))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: usize,
    /// Client connections, each with one request at a time.
    pub(crate) concurrency: usize,
    /// A background timer calls the back service, too; nginx delays and answers some requests by timer.
    pub(crate) timer: bool,
    pub(crate) headers: Headers,
    /// Time passes as on a busy host; otherwise all happens within milliseconds.
    pub(crate) slow: bool,
}

/// A request that is being served.
#[derive(Debug)]
struct Job {
    front: usize,
    path: String,
    calls: u32,
    made: u32,
    /// The thread that serves it.
    thread: T,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between steps.
    Ready,
    /// Its call `back` is under way, made by `by`.
    Calling {
        back: usize,
        by: T,
    },
    /// The call waits for a thread to take it.
    Forked,
    /// nginx: it will be answered by a timer.
    Delayed,
    Done,
}

#[derive(Debug)]
struct Back {
    ends: (End, End),
    thread: T,
    busy: bool,
    state: BackState,
    /// Length of its last response's body.
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackState {
    Idle,
    Asked,
    Read,
    Answered,
}

pub(crate) struct World {
    pub(crate) host: Host,
    rng: ChaCha8Rng,
    front: Front,
    timer: bool,
    headers: Headers,
    main: T,
    back_main: T,
    fronts: Vec<(End, End)>,
    busy: Vec<bool>,
    backs: Vec<Back>,
    jobs: Vec<Job>,
    arrived: VecDeque<(usize, String)>,
    timer_call: Option<usize>,
    timer_calls: usize,
    next_back_thread: u32,
    /// Forked processes that wait for work.
    idle: Vec<T>,
}

const POOL: u32 = 5;

impl World {
    pub(crate) fn run(front: Front, load: Load, seed: u64) -> Self {
        let mut host = Host::new();
        let main = if front == Front::Nginx { host.nginx("front") } else { host.process("front") };
        let back_main = host.process("back");
        let mut world = Self {
            host,
            rng: ChaCha8Rng::seed_from_u64(seed),
            front,
            timer: load.timer,
            headers: load.headers,
            main,
            back_main,
            fronts: Vec::new(),
            busy: Vec::new(),
            backs: Vec::new(),
            jobs: Vec::new(),
            arrived: VecDeque::new(),
            timer_call: None,
            timer_calls: 0,
            next_back_thread: 1,
            idle: Vec::new(),
        };
        for _ in 0..load.concurrency {
            let ends = world.host.connect(None, Some(main));
            if front.is_loop() || front == Front::Alone {
                world.host.nonblocking(ends.1);
            }
            world.fronts.push(ends);
            world.busy.push(false);
        }
        world.host.followed = front.is_followed();
        if load.slow {
            world.host.step = std::time::Duration::from_millis(5);
        }
        let mut sent = 0;
        while sent < load.requests || !world.jobs.is_empty() || !world.arrived.is_empty() {
            if sent < load.requests && world.chance(30) {
                sent += usize::from(world.client_asks(sent));
            }
            if world.chance(60) {
                world.back_moves();
            }
            if load.timer && world.chance(8) {
                world.timer_moves();
            }
            world.front_moves();
        }
        world
    }

    fn pick(&mut self, count: usize) -> usize {
        (self.rng.next_u64() % count.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }

    fn client_asks(&mut self, number: usize) -> bool {
        let idle: Vec<usize> = (0..self.fronts.len()).filter(|front| !self.busy[*front]).collect();
        if idle.is_empty() {
            return false;
        }
        let front = idle[self.pick(idle.len())];
        self.busy[front] = true;
        let path = format!("/{number}");
        self.host.request_with(None, self.fronts[front].0, &path, &self.headers.brought(number));
        self.arrived.push_back((front, path));
        true
    }

    /// The thread that reads and the one that serves.
    fn threads_for(&mut self, front: usize) -> Option<(T, T)> {
        let process = self.main.process;
        let thread = |n: u32| T { process, tid: process + n };
        let serving = |t: T| self.jobs.iter().any(|job| job.thread == t);
        match self.front {
            Front::ThreadPerConnection | Front::Cgi | Front::ProcessPool => {
                let own = thread(1 + front as u32);
                Some((own, own))
            }
            Front::Pool | Front::Alone | Front::ForkJoin => {
                let idle: Vec<T> =
                    (1..=POOL).map(thread).filter(|t| !serving(*t) && !self.makes_call(*t)).collect();
                let n = self.pick(idle.len());
                idle.get(n).map(|t| (*t, *t))
            }
            Front::HandOff => {
                let idle: Vec<T> = (1..=POOL).map(thread).filter(|t| !serving(*t)).collect();
                let n = self.pick(idle.len());
                idle.get(n).map(|t| (thread(90), *t))
            }
            Front::Loop | Front::FollowedLoop | Front::LoopOfConnections | Front::Nginx => {
                Some((self.main, self.main))
            }
        }
    }

    /// Before the thread reads it may have slept until it could.
    fn naps(&mut self, thread: T) {
        let others = self.fronts.len() + self.backs.iter().filter(|back| back.busy).count();
        let waited = match self.front {
            Front::Alone => ALONE,
            Front::LoopOfConnections if others == 1 => ALONE,
            Front::FollowedLoop | Front::LoopOfConnections => SEVERAL,
            Front::ThreadPerConnection
            | Front::Pool
            | Front::Loop
            | Front::HandOff
            | Front::ForkJoin
            | Front::Nginx
            | Front::Cgi
            | Front::ProcessPool => return,
        };
        if self.chance(50) {
            self.host.naps(thread, waited);
        }
    }

    fn makes_call(&self, thread: T) -> bool {
        self.jobs.iter().any(|job| matches!(job.state, State::Calling { by, .. } if by == thread))
    }

    /// One step of the front service.
    fn front_moves(&mut self) {
        if !self.arrived.is_empty() && self.chance(40) {
            let (front, _) = self.arrived[0];
            if let Some((reader, thread)) = self.threads_for(front) {
                let (front, path) = self.arrived.pop_front().expect("looked at");
                self.host.waits(reader);
                self.naps(reader);
                self.host.read(reader, self.fronts[front].1);
                let calls = if self.front == Front::Nginx { 1 } else { self.rng.next_u32() % 4 };
                let delayed = self.front == Front::Nginx && self.timer && self.chance(10);
                let state = if delayed { State::Delayed } else { State::Ready };
                self.jobs.push(Job { front, path, calls, made: 0, thread, state });
                // A pooled connection takes the call at once; one that has to be made first, later.
                if self.front == Front::Nginx
                    && !delayed
                    && self.chance(50)
                    && self.backs.iter().any(|b| !b.busy)
                {
                    self.call(self.jobs.len() - 1, thread, Some(true));
                }
            }
            return;
        }
        if self.jobs.is_empty() {
            return;
        }
        let job = self.pick(self.jobs.len());
        self.step(job);
        self.jobs.retain(|job| job.state != State::Done);
    }

    fn step(&mut self, n: usize) {
        let Job { thread, state, made, calls, front, .. } = self.jobs[n];
        if state == State::Ready && self.makes_call(thread) && self.front == Front::ForkJoin {
            // It is still busy with another request's call.
            return;
        }
        match state {
            State::Ready if made < calls => {
                if self.front == Front::ForkJoin && self.chance(60) {
                    self.jobs[n].state = State::Forked;
                } else if matches!(self.front, Front::Cgi | Front::ProcessPool) {
                    let process = self.idle.pop().unwrap_or_else(|| self.host.forks(thread));
                    self.call(n, process, Some(false));
                } else {
                    self.call(n, thread, (self.front == Front::Nginx).then_some(false));
                }
            }
            State::Ready => {
                let len = self.pick(3000);
                self.answer(n, front, thread, len);
            }
            State::Forked => {
                // Any thread of the pool that has nothing to do but wait takes it, or its own.
                let any = T {
                    process: self.main.process,
                    tid: self.main.process + 1 + self.pick(POOL as usize) as u32,
                };
                let waits =
                    self.jobs.iter().all(|job| job.thread != any || matches!(job.state, State::Forked));
                if waits && !self.makes_call(any) {
                    self.call(n, any, None);
                }
            }
            State::Calling { back, by } => {
                if self.backs[back].state == BackState::Answered {
                    // What one readiness brings may be handled without a wait since the last.
                    if self.front != Front::Nginx || self.chance(50) {
                        self.host.waits(by);
                    }
                    self.naps(by);
                    self.host.read(by, self.backs[back].ends.0);
                    self.backs[back].state = BackState::Idle;
                    self.backs[back].busy = false;
                    self.jobs[n].state = State::Ready;
                    match self.front {
                        Front::Cgi => {
                            self.backs[back].busy = true;
                            self.host.exits(by);
                        }
                        Front::ProcessPool => {
                            self.backs[back].busy = true;
                            self.idle.push(by);
                        }
                        Front::ThreadPerConnection
                        | Front::Pool
                        | Front::Alone
                        | Front::Loop
                        | Front::FollowedLoop
                        | Front::LoopOfConnections
                        | Front::HandOff
                        | Front::ForkJoin
                        | Front::Nginx => {}
                    }
                    if self.front == Front::Nginx {
                        self.answer(n, front, thread, self.backs[back].len);
                    }
                }
            }
            State::Delayed => {
                // A timer fires: the request goes on, or is answered.
                if self.chance(30) {
                    self.jobs[n].state = State::Ready;
                    if self.chance(50) {
                        self.jobs[n].calls = 0;
                    }
                    if self.chance(80) {
                        self.host.waits(thread);
                    }
                    if self.jobs[n].calls == 0 {
                        self.step(n);
                    } else {
                        self.call(n, thread, Some(true));
                    }
                }
            }
            State::Done => {}
        }
    }

    fn call(&mut self, n: usize, by: T, pooled: Option<bool>) {
        let name = if self.front == Front::Nginx { "p".to_owned() } else { self.jobs[n].made.to_string() };
        let path = format!("{}.{name}", self.jobs[n].path);
        let number = self.jobs[n].path[1..].parse().expect("a path is a number");
        let headers = self.headers.handed_on(number, self.jobs[n].made);
        let back = self.back_connection(by, pooled);
        self.host.request_with(by, self.backs[back].ends.0, &path, &headers);
        self.backs[back].state = BackState::Asked;
        self.jobs[n].made += 1;
        self.jobs[n].state = State::Calling { back, by };
    }

    fn answer(&mut self, n: usize, front: usize, thread: T, len: usize) {
        self.host.response_of(thread, self.fronts[front].1, len);
        self.host.read(None, self.fronts[front].0);
        self.busy[front] = false;
        self.jobs[n].state = State::Done;
    }

    fn back_connection(&mut self, by: T, pooled: Option<bool>) -> usize {
        if let Some(idle) = self.backs.iter().position(|back| !back.busy)
            && pooled.unwrap_or_else(|| self.chance(70))
        {
            self.backs[idle].busy = true;
            return idle;
        }
        let ends = self.host.connect(Some(by), Some(self.back_main));
        let thread = self.host.thread(self.back_main, self.next_back_thread);
        self.next_back_thread += 1;
        self.backs.push(Back { ends, thread, busy: true, state: BackState::Idle, len: 0 });
        self.backs.len() - 1
    }

    fn back_moves(&mut self) {
        let active: Vec<usize> = (0..self.backs.len())
            .filter(|n| matches!(self.backs[*n].state, BackState::Asked | BackState::Read))
            .collect();
        if active.is_empty() {
            return;
        }
        let n = active[self.pick(active.len())];
        let Back { ends, thread, state, .. } = self.backs[n];
        if state == BackState::Asked {
            self.host.read(thread, ends.1);
            self.backs[n].state = BackState::Read;
        } else {
            let len = self.pick(3000);
            self.host.response_of(thread, ends.1, len);
            self.backs[n].len = len;
            self.backs[n].state = BackState::Answered;
        }
    }

    /// The background timer: on its own thread, or on the loop's.
    fn timer_moves(&mut self) {
        let on_loop = self.front.is_loop();
        let thread =
            if on_loop { self.main } else { T { process: self.main.process, tid: self.main.process + 95 } };
        match self.timer_call {
            None => {
                let back = self.back_connection(thread, None);
                let path = format!("/bg{}", self.timer_calls);
                let headers = self.headers.of_timer(self.timer_calls);
                self.timer_calls += 1;
                self.host.waits(thread);
                self.host.request_with(thread, self.backs[back].ends.0, &path, &headers);
                self.backs[back].state = BackState::Asked;
                self.timer_call = Some(back);
            }
            Some(back) if self.backs[back].state == BackState::Answered => {
                self.host.waits(thread);
                self.naps(thread);
                self.host.read(thread, self.backs[back].ends.0);
                self.backs[back].state = BackState::Idle;
                self.backs[back].busy = false;
                self.timer_call = None;
            }
            Some(_) => {}
        }
    }
}
