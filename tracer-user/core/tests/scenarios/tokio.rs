//! Calls of a program on tokio, whose memory tells which task reads a request and which one waits for a call.

use tracer_abi::python::TaskId;
use tracer_abi::tokio::walk_end;
use tracer_core::event::Event;
use tracer_core::span::Confidence;

use crate::host::{End, Host, T, lines, path};

const NOBODY: Option<T> = None;

/// Kinds of tasks: what serves connections, what is started for calls.
const SERVES: u64 = 0x48_0000;
const CHILD: u64 = 0x48_1000;

type Conn = (End, End);

fn serves(id: u64) -> TaskId {
    TaskId { address: SERVES, number: id }
}

fn child(id: u64) -> TaskId {
    TaskId { address: CHILD, number: id }
}

/// A service on two threads, between clients and services that are not traced.
struct Service {
    host: Host,
    main: T,
    other: T,
    /// The number of the next task.
    next: u64,
}

impl Service {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let other = host.thread(main, 1);
        Self { host, main, other, next: 100 }
    }

    fn client(&mut self) -> Conn {
        let conn = self.host.connect(None, Some(self.main));
        self.host.nonblocking(conn.1);
        conn
    }

    fn arrives(&mut self, conn: Conn, path: &str, task: u64) {
        self.host.request(NOBODY, conn.0, path);
        self.reads(conn, task);
    }

    fn reads(&mut self, conn: Conn, task: u64) {
        self.host.polls(vec![serves(task), TaskId { address: self.next, number: 0 }], walk_end::READS);
        self.host.read(self.main, conn.1);
    }

    fn answers(&mut self, conn: Conn) {
        self.host.answers(NOBODY, conn, self.main);
    }

    /// Who calls and who waits for that, if that is known.
    fn begins_call(&mut self, path: &str, chain: &[TaskId]) -> Conn {
        let conn = self.host.connect(Some(self.other), None);
        self.host.nonblocking(conn.0);
        self.tells(chain);
        self.host.asks(self.other, conn, NOBODY, path);
        conn
    }

    fn ends_call(&mut self, conn: Conn, chain: &[TaskId]) {
        self.host.response(NOBODY, conn.1);
        self.tells(chain);
        self.host.read(self.other, conn.0);
    }

    fn tells(&mut self, chain: &[TaskId]) {
        if chain.is_empty() {
            self.host.polls(vec![TaskId::default()], walk_end::NOBODY_YET);
        } else {
            self.host.polls(chain.to_vec(), walk_end::TOP);
        }
    }

    fn calls(&mut self, path: &str, chain: &[TaskId]) {
        let conn = self.begins_call(path, chain);
        self.ends_call(conn, chain);
    }

    /// Requests whose children are their own.
    fn proves(&mut self, times: u64) {
        for number in 0..times {
            let conn = self.client();
            self.arrives(conn, "/proof", 1000 + number);
            let made = child(self.next);
            self.next += 1;
            self.calls("/proof", &[made, serves(1000 + number)]);
            self.answers(conn);
        }
    }

    #[track_caller]
    fn expect(&self, wanted: &[&str]) {
        let calls: Vec<String> = lines(&self.host.spans())
            .into_iter()
            .filter(|line| line.starts_with("shop client") && !line.contains("/proof"))
            .collect();
        let wanted: Vec<String> = wanted.iter().map(|line| format!("shop client {line}")).collect();
        assert_eq!(calls, wanted);
    }

    fn confidence(&self, of: &str) -> Option<Confidence> {
        self.host.spans().iter().find(|span| path(span) == of)?.parent.map(|parent| parent.confidence)
    }
}

#[test]
fn a_call_belongs_to_the_request_whose_task_makes_it_or_waits_for_it() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    let a1 = shop.begins_call("/a1", &[serves(11)]);
    let b1 = shop.begins_call("/b1", &[]);
    shop.ends_call(b1, &[serves(12)]);
    shop.ends_call(a1, &[]);
    shop.calls("/bg", &[child(7)]);
    shop.answers(two);
    shop.answers(one);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/bg - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/a1"), Some(Confidence::Certain));
}

#[test]
fn who_waits_may_not_change() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    let call = shop.begins_call("/x", &[serves(11)]);
    shop.ends_call(call, &[serves(12)]);
    shop.answers(one);
    shop.answers(two);
    shop.expect(&["/x - contradiction"]);
}

/// A task answers, and then calls, while the next request is there already, unread or read together with the one before.
#[test]
fn what_is_done_after_the_answer_is_not_done_for_the_next_request() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.answers(conn);
    shop.host.request(NOBODY, conn.0, "/b");
    shop.calls("/after", &[serves(11)]);
    shop.reads(conn, 11);
    shop.calls("/b1", &[serves(11)]);
    shop.answers(conn);
    shop.expect(&["/after - task-unrelated", "/b1 < shop server /b (runtime-task)"]);

    let mut shop = Service::new();
    let conn = shop.client();
    shop.host.write(NOBODY, conn.0, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    shop.reads(conn, 11);
    shop.answers(conn);
    shop.calls("/after", &[serves(11)]);
    shop.answers(conn);
    shop.expect(&["/after - task-not-fresh"]);
}

/// One task has all connections: what it does is for any of them.
#[test]
fn a_task_that_reads_several_connections_works_for_none() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.answers(one);
    shop.arrives(two, "/b", 11);
    shop.calls("/late", &[serves(11)]);
    shop.answers(two);
    shop.expect(&["/late - task-not-fresh"]);
}

#[test]
fn a_child_is_believed_when_enough_of_its_kind_were_seen() {
    let mut shop = Service::new();
    shop.proves(7);
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.calls("/a1", &[child(shop.next), serves(11)]);
    shop.answers(conn);
    shop.expect(&["/a1 - below-confidence"]);

    let mut shop = Service::new();
    shop.proves(6);
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.calls("/a1", &[child(shop.next), serves(11)]);
    shop.answers(conn);
    shop.expect(&["/a1 - process-unproven"]);
}

/// One request starts a task, and another one waits for its handle.
#[test]
fn children_that_are_handed_on_are_nobodys() {
    let mut shop = Service::new();
    shop.proves(20);
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/starts", 11);
    let started = child(shop.next);
    shop.next += 1;
    shop.arrives(two, "/waits", 12);
    shop.calls("/x", &[started, serves(12)]);
    // Younger than both, but its kind is handed on.
    shop.calls("/y", &[child(shop.next), serves(12)]);
    shop.answers(one);
    shop.answers(two);
    shop.expect(&["/x - task-older", "/y - task-older"]);
}

/// A request that is over before its child's call is.
#[test]
fn a_child_that_outlives_its_request_is_not_claimed() {
    let mut shop = Service::new();
    shop.proves(20);
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    let call = shop.begins_call("/x", &[child(shop.next), serves(11)]);
    shop.answers(conn);
    shop.ends_call(call, &[child(shop.next)]);
    shop.expect(&["/x - below-confidence"]);
}

/// Whatever is not told makes an edge undecided, never another one.
#[test]
fn what_is_not_told_is_not_claimed() {
    let mut shop = Service::new();
    shop.proves(17);
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    shop.calls("/a1", &[serves(11)]);
    shop.calls("/b1", &[child(shop.next), serves(12)]);
    shop.answers(one);
    shop.answers(two);
    let told: Vec<usize> = (0..shop.host.events.len())
        .filter(|at| matches!(shop.host.events[*at], Event::TaskIdentified(_)))
        .collect();
    for at in told {
        let mut less = Service::new();
        less.host.events = shop.host.events.clone();
        less.host.events.remove(at);
        for span in lines(&less.host.spans()) {
            assert!(
                !span.contains("/a1 < shop server /b") && !span.contains("/b1 < shop server /a"),
                "{span}"
            );
        }
    }
}

/// What was lost is known only later; the task seems to work on the first request still.
#[test]
fn the_end_of_a_request_and_the_beginning_of_the_next_may_be_lost() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    let before = shop.host.events.len();
    shop.answers(conn);
    shop.arrives(conn, "/b", 11);
    shop.host.events.truncate(before);
    shop.calls("/b1", &[serves(11)]);
    shop.answers(conn);
    shop.expect(&["/b1 - events-lost"]);
}
