//! Calls of a Go program, whose runtime tells which goroutine reads a request and which one waits for a call.

use std::time::Duration;

use tracer_abi::python::TaskId;
use tracer_core::event::Event;
use tracer_core::span::Confidence;
use tracer_core::{Engine, EngineConfig};

use crate::host::{End, Host, T, lines, path, task};

const NOBODY: Option<T> = None;

/// Where a goroutine is started.
const SITE: u64 = 0x48_0000;

type Conn = (End, End);

/// A service whose goroutines run on two threads, between clients and services that are not traced.
struct Service {
    host: Host,
    main: T,
    other: T,
    /// The last number that a goroutine has.
    last: u64,
}

/// Who waits for a call.
#[derive(Clone, Copy)]
struct Waits {
    goroutine: u64,
    parent: u64,
}

impl Service {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let other = host.thread(main, 1);
        Self { host, main, other, last: 100 }
    }

    fn client(&mut self) -> Conn {
        let conn = self.host.connect(None, Some(self.main));
        self.host.nonblocking(conn.1);
        conn
    }

    /// This goroutine reads it. Numbers up to the last are given out, but for `unused` ones, one processor's.
    fn arrives_with(&mut self, conn: Conn, path: &str, goroutine: u64, unused: (u64, u64)) {
        self.host.request(NOBODY, conn.0, path);
        self.reads(conn, goroutine, unused);
    }

    fn reads(&mut self, conn: Conn, goroutine: u64, unused: (u64, u64)) {
        let mut tasks = vec![TaskId::default(); 8];
        tasks[0] = task(goroutine);
        tasks[1] = TaskId { address: self.last, number: unused.0 << 8 | unused.1 };
        self.host.goes(tasks);
        self.host.read(self.main, conn.1);
    }

    fn arrives(&mut self, conn: Conn, path: &str, goroutine: u64) {
        self.arrives_with(conn, path, goroutine, (0, 0));
    }

    fn answers(&mut self, conn: Conn) {
        self.host.answers(NOBODY, conn, self.main);
    }

    /// A goroutine of the connection's sends; who waits, if that is known.
    fn begins_call(&mut self, path: &str, waits: Option<Waits>) -> Conn {
        let conn = self.host.connect(Some(self.other), None);
        self.host.nonblocking(conn.0);
        self.tells(50, waits);
        self.host.asks(self.other, conn, NOBODY, path);
        conn
    }

    fn ends_call(&mut self, conn: Conn, waits: Option<Waits>) {
        self.host.response(NOBODY, conn.1);
        self.tells(51, waits);
        self.host.read(self.other, conn.0);
    }

    fn tells(&mut self, runs: u64, waits: Option<Waits>) {
        let told = waits.map_or([TaskId::default(); 2], |Waits { goroutine, parent }| {
            [task(goroutine), TaskId { address: SITE, number: parent }]
        });
        self.host.goes(vec![task(runs), told[0], told[1]]);
    }

    fn calls(&mut self, path: &str, goroutine: u64, parent: u64) {
        let conn = self.begins_call(path, None);
        self.ends_call(conn, Some(Waits { goroutine, parent }));
    }

    #[track_caller]
    fn expect(&self, wanted: &[&str]) {
        let calls: Vec<String> =
            lines(&self.host.spans()).into_iter().filter(|line| line.starts_with("shop client")).collect();
        let wanted: Vec<String> = wanted.iter().map(|line| format!("shop client {line}")).collect();
        assert_eq!(calls, wanted);
    }

    fn confidence(&self, of: &str) -> Option<Confidence> {
        self.host.spans().iter().find(|span| path(span) == of)?.parent.map(|parent| parent.confidence)
    }
}

#[test]
fn a_call_belongs_to_the_request_whose_goroutine_waits() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    let a1 = shop.begins_call("/a1", Some(Waits { goroutine: 11, parent: 1 }));
    let b1 = shop.begins_call("/b1", None);
    shop.ends_call(b1, Some(Waits { goroutine: 12, parent: 1 }));
    shop.ends_call(a1, None);
    shop.calls("/bg", 7, 1);
    shop.answers(two);
    shop.answers(one);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/bg - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/a1"), Some(Confidence::Certain));
}

/// Its threads read without waiting, and what they sleep for would say nothing: goroutines move between them.
#[test]
fn what_threads_wait_for_is_not_asked_where_goroutines_are_known() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.other = shop.main;
    shop.arrives(conn, "/a", 11);
    shop.calls("/x", 11, 1);
    shop.answers(conn);
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    shop.host.events.iter().for_each(|event| engine.handle_event(event.clone()));
    engine.handle_timeout(shop.host.clock.plus(Duration::from_secs(5)));
    assert_eq!(engine.poll_wish(), None);
}

#[test]
fn who_waits_may_not_change() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    let call = shop.begins_call("/x", Some(Waits { goroutine: 11, parent: 1 }));
    shop.ends_call(call, Some(Waits { goroutine: 12, parent: 1 }));
    shop.answers(one);
    shop.answers(two);
    shop.expect(&["/x - contradiction"]);
}

#[test]
fn another_goroutine_at_the_same_address_is_another_one() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.calls("/x", 13, 1);
    shop.answers(conn);
    for event in &mut shop.host.events {
        if let Event::TaskIdentified(identified) = event {
            for known in identified.tasks.iter_mut().filter(|known| known.number == 13) {
                known.address = task(11).address;
            }
        }
    }
    shop.expect(&["/x - task-unrelated"]);
}

/// A goroutine answers, and then calls, while the next request is there already: read together with the one before, or
/// by a goroutine that reads a byte ahead.
#[test]
fn what_is_done_after_the_answer_is_not_done_for_the_next_request() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.host.write(NOBODY, conn.0, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    shop.reads(conn, 11, (0, 0));
    shop.answers(conn);
    shop.calls("/after", 11, 1);
    shop.answers(conn);
    shop.expect(&["/after - task-not-fresh"]);

    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.answers(conn);
    shop.host.request(NOBODY, conn.0, "/b");
    shop.host.read_some(shop.other, conn.1, 1);
    shop.calls("/after", 11, 1);
    shop.reads(conn, 11, (0, 0));
    shop.calls("/b1", 11, 1);
    shop.answers(conn);
    shop.expect(&["/after - task-unrelated", "/b1 < shop server /b (runtime-task)"]);
}

#[test]
fn a_goroutine_that_was_started_for_a_request_calls_for_it() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives_with(one, "/a", 11, (90, 5));
    shop.arrives(two, "/b", 12);
    shop.calls("/a1", 92, 11);
    shop.calls("/a2", 101, 11);
    shop.calls("/a3", 95, 13);
    shop.answers(one);
    shop.answers(two);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/a2 < shop server /a (runtime-task)",
        "/a3 - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/a1"), Some(Confidence::Likely));
}

/// A worker that a request started stays for those that come later.
#[test]
fn a_place_whose_goroutines_stay_is_not_believed() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.calls("/a1", 101, 11);
    shop.last = 101;
    shop.arrives(two, "/b", 12);
    shop.calls("/b1", 101, 11);
    shop.answers(one);
    shop.calls("/b2", 101, 11);
    shop.answers(two);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 - child-outlives", "/b1 - child-outlives", "/b2 - task-unrelated"]);
}

/// Where it is not known which goroutines are younger than a request, none is known to live on either.
#[test]
fn a_place_is_not_suspected_without_reason() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.host.request(NOBODY, one.0, "/a");
    shop.host.goes(vec![task(11)]);
    shop.host.read(shop.main, one.1);
    shop.calls("/a1", 101, 11);
    shop.last = 101;
    shop.arrives(two, "/b", 12);
    shop.calls("/b1", 102, 12);
    shop.answers(one);
    shop.answers(two);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 - task-unrelated", "/b1 < shop server /b (runtime-task)"]);
}

/// The goroutine of a connection starts one for a request; the next request is read by the same.
#[test]
fn a_goroutine_of_the_request_before_is_not_the_next_ones() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.answers(conn);
    shop.last = 101;
    shop.arrives_with(conn, "/b", 11, (95, 3));
    shop.calls("/late", 101, 11);
    shop.answers(conn);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/late - task-unrelated"]);
}

/// Whatever is not told makes an edge undecided, never another one.
#[test]
fn what_is_not_told_is_not_claimed() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    shop.calls("/a1", 11, 1);
    shop.calls("/b1", 102, 12);
    shop.answers(one);
    shop.answers(two);
    shop.host.sleep(Duration::from_millis(200));
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

/// What was lost is known only later; the goroutine seems to work on the first request still.
#[test]
fn the_end_of_a_request_and_the_beginning_of_the_next_may_be_lost() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    let before = shop.host.events.len();
    shop.answers(conn);
    shop.arrives(conn, "/b", 11);
    shop.host.events.truncate(before);
    shop.calls("/b1", 11, 1);
    shop.answers(conn);
    shop.expect(&["/b1 - events-lost"]);
}
