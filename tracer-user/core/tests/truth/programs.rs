//! Programs as schedulers of small steps: which thread takes which step of which request is what tells them apart.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::host::{End, Host, T};

/// How the front service works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// A thread for each connection; reads wait.
    ThreadPerConnection,
    /// Any of a few threads takes the next request of any connection; reads wait.
    Pool,
    /// One thread, reads do not wait; the timer runs on it, too.
    Loop,
    /// One thread reads, another calls and answers.
    HandOff,
    /// A pool whose threads run each other's calls while they wait for their own.
    ForkJoin,
    /// One thread; a request is forwarded and answered when the response comes; some by timers.
    Nginx,
}

impl Front {
    pub(crate) const ALL: [Self; 6] =
        [Self::ThreadPerConnection, Self::Pool, Self::Loop, Self::HandOff, Self::ForkJoin, Self::Nginx];
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: usize,
    /// Client connections, each with one request at a time.
    pub(crate) concurrency: usize,
    /// A background timer calls the back service, too; nginx delays and answers some requests by timer.
    pub(crate) timer: bool,
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
        };
        for _ in 0..load.concurrency {
            let ends = world.host.connect(None, Some(main));
            if matches!(front, Front::Loop | Front::Nginx) {
                world.host.nonblocking(ends.1);
            }
            world.fronts.push(ends);
            world.busy.push(false);
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
        self.host.request(None, self.fronts[front].0, &path);
        self.arrived.push_back((front, path));
        true
    }

    /// The thread that reads and the one that serves.
    fn threads_for(&mut self, front: usize) -> Option<(T, T)> {
        let process = self.main.process;
        let thread = |n: u32| T { process, tid: process + n };
        let serving = |t: T| self.jobs.iter().any(|job| job.thread == t);
        match self.front {
            Front::ThreadPerConnection => {
                let own = thread(1 + front as u32);
                Some((own, own))
            }
            Front::Pool | Front::ForkJoin => {
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
            Front::Loop | Front::Nginx => Some((self.main, self.main)),
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
                    self.host.read(by, self.backs[back].ends.0);
                    self.backs[back].state = BackState::Idle;
                    self.backs[back].busy = false;
                    self.jobs[n].state = State::Ready;
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
        let back = self.back_connection(pooled);
        self.host.request(by, self.backs[back].ends.0, &path);
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

    fn back_connection(&mut self, pooled: Option<bool>) -> usize {
        if let Some(idle) = self.backs.iter().position(|back| !back.busy)
            && pooled.unwrap_or_else(|| self.chance(70))
        {
            self.backs[idle].busy = true;
            return idle;
        }
        let ends = self.host.connect(Some(self.main), Some(self.back_main));
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
        let on_loop = matches!(self.front, Front::Loop | Front::Nginx);
        let thread =
            if on_loop { self.main } else { T { process: self.main.process, tid: self.main.process + 95 } };
        match self.timer_call {
            None => {
                let back = self.back_connection(None);
                let path = format!("/bg{}", self.timer_calls);
                self.timer_calls += 1;
                self.host.waits(thread);
                self.host.request(thread, self.backs[back].ends.0, &path);
                self.backs[back].state = BackState::Asked;
                self.timer_call = Some(back);
            }
            Some(back) if self.backs[back].state == BackState::Answered => {
                self.host.waits(thread);
                self.host.read(thread, self.backs[back].ends.0);
                self.backs[back].state = BackState::Idle;
                self.backs[back].busy = false;
                self.timer_call = None;
            }
            Some(_) => {}
        }
    }
}
