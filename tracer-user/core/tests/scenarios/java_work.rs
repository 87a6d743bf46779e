//! Calls that a thread of Java's pools makes inside of a task, whose result another one waits for.

use std::time::Duration;

use tracer_abi::event::Awaited;
use tracer_abi::python_work::MAX_FUTURES;
use tracer_core::event::Results;

use crate::host::{End, Host, T};

/// Tasks, after so many collections.
const ONE: u64 = 1 << 48 | 0x7000;
const OTHER: u64 = 1 << 48 | 0x7100;
const OUTER: u64 = 1 << 48 | 0x7200;

/// Two threads that serve, two of a pool.
struct Pool {
    host: Host,
    serve: [T; 2],
    work: [T; 2],
    fronts: [(End, End); 2],
    backs: [(End, End); 2],
}

impl Pool {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let serve = [host.thread(main, 1), host.thread(main, 2)];
        let work = [host.thread(main, 11), host.thread(main, 12)];
        let fronts = [host.connect(None, Some(main)), host.connect(None, Some(main))];
        let backs = [host.connect(Some(main), None), host.connect(Some(main), None)];
        let mut pool = Self { host, serve, work, fronts, backs };
        // The first wake-up of all tells nothing but that hand-offs are followed.
        pool.host.falls_asleep(serve[1]);
        pool.host.wakes(serve[0], serve[1], 1);
        pool
    }

    fn request(&mut self, n: usize, path: &str) {
        self.host.request(None, self.fronts[n].0, path);
        self.host.read(self.serve[n], self.fronts[n].1);
    }

    fn response(&mut self, n: usize) {
        self.host.response(self.serve[n], self.fronts[n].1);
        self.host.read(None, self.fronts[n].0);
    }

    /// Both inside of tasks, which are one as a rule.
    fn calls(&mut self, worker: usize, [sends, receives]: [u64; 2], path: &str) {
        self.host.in_task(sends);
        self.host.request(self.work[worker], self.backs[worker].0, path);
        self.host.read(None, self.backs[worker].1);
        self.host.response(None, self.backs[worker].1);
        self.host.in_task(receives);
        self.host.read(self.work[worker], self.backs[worker].0);
    }

    fn tells(&mut self, worker: usize, thread: T, within: Option<u64>, task: u64, awaited: Awaited) {
        let mut futures = [0; MAX_FUTURES];
        futures[0] = task;
        let address = 0x100 + u64::from(thread.tid);
        self.host.wakes_with(self.work[worker], thread, address, awaited, Results { within, futures });
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        self.host.sleep(Duration::from_secs(2));
        let lines = self.host.lines();
        assert!(lines.iter().any(|found| found == line), "{lines:#?}");
    }
}

#[test]
fn a_call_is_of_the_request_that_made_its_task_and_waits() {
    let mut pool = Pool::new();
    pool.request(0, "/a");
    pool.host.falls_asleep(pool.serve[0]);
    pool.calls(0, [ONE, ONE], "/x");
    pool.tells(0, pool.serve[0], None, ONE, Awaited::OwnResult);
    pool.response(0);
    pool.expect("shop client /x < shop server /a (runtime-task)");
}

/// Names of tasks are never given twice: it does not matter since when it waits.
#[test]
fn who_waits_late_waits_for_the_same_task() {
    let mut pool = Pool::new();
    pool.request(0, "/a");
    pool.calls(0, [ONE, ONE], "/x");
    pool.host.falls_asleep(pool.serve[0]);
    pool.tells(0, pool.serve[0], None, ONE, Awaited::OwnResult);
    pool.response(0);
    pool.expect("shop client /x < shop server /a (runtime-task)");
}

#[test]
fn who_waits_for_what_it_was_handed_is_not_claimed() {
    let mut pool = Pool::new();
    pool.request(0, "/a");
    pool.host.falls_asleep(pool.serve[0]);
    pool.calls(0, [ONE, ONE], "/x");
    pool.tells(0, pool.serve[0], None, ONE, Awaited::Result);
    pool.response(0);
    pool.expect("shop client /x - below-confidence");
}

/// The request had ended that made it, or another waits for it as well: one of them is not the cause.
#[test]
fn a_task_that_two_wait_for_is_nobodys() {
    for second in [Awaited::Result, Awaited::OwnResult] {
        let mut pool = Pool::new();
        pool.request(0, "/a");
        pool.request(1, "/b");
        pool.host.falls_asleep(pool.serve[0]);
        pool.host.falls_asleep(pool.serve[1]);
        pool.calls(0, [ONE, ONE], "/x");
        pool.tells(0, pool.serve[0], None, ONE, Awaited::OwnResult);
        pool.tells(0, pool.serve[1], None, ONE, second);
        pool.response(0);
        pool.response(1);
        pool.expect("shop client /x - several-hand-offs");
    }
}

#[test]
fn a_task_inside_of_another_leads_to_who_waits_for_that() {
    let mut pool = Pool::new();
    let [outer, serve] = [pool.work[1], pool.serve[0]];
    pool.request(0, "/a");
    pool.host.falls_asleep(serve);
    pool.host.falls_asleep(outer);
    pool.calls(0, [ONE, ONE], "/x");
    pool.tells(0, outer, Some(OUTER), ONE, Awaited::OwnResult);
    pool.tells(1, serve, None, OUTER, Awaited::OwnResult);
    pool.response(0);
    pool.expect("shop client /x < shop server /a (runtime-task)");
}

/// As it is where the inner one was made by somebody else.
#[test]
fn a_link_that_is_not_proven_proves_nothing() {
    let mut pool = Pool::new();
    let [outer, serve] = [pool.work[1], pool.serve[0]];
    pool.request(0, "/a");
    pool.host.falls_asleep(serve);
    pool.host.falls_asleep(outer);
    pool.calls(0, [ONE, ONE], "/x");
    pool.tells(0, outer, Some(OUTER), ONE, Awaited::Result);
    pool.tells(1, serve, None, OUTER, Awaited::OwnResult);
    pool.response(0);
    pool.expect("shop client /x - below-confidence");
}

/// A thread goes on to another task before the answer is read: which of them the call is of is not known.
#[test]
fn a_call_that_two_tasks_have_to_do_with_is_nobodys() {
    let mut pool = Pool::new();
    pool.request(0, "/a");
    pool.host.falls_asleep(pool.serve[0]);
    pool.calls(0, [ONE, OTHER], "/x");
    pool.tells(0, pool.serve[0], None, OTHER, Awaited::OwnResult);
    pool.response(0);
    pool.host.sleep(Duration::from_secs(2));
    assert!(!pool.host.lines().iter().any(|line| line.starts_with("shop client /x <")));
}

/// It was made for the request before, by the same thread.
#[test]
fn what_another_task_did_on_the_thread_is_not_its() {
    let mut pool = Pool::new();
    pool.request(0, "/a");
    pool.calls(0, [ONE, ONE], "/x");
    pool.host.falls_asleep(pool.serve[0]);
    pool.tells(0, pool.serve[0], None, OTHER, Awaited::OwnResult);
    pool.response(0);
    pool.host.sleep(Duration::from_secs(2));
    assert!(!pool.host.lines().iter().any(|line| line.starts_with("shop client /x <")));
}
