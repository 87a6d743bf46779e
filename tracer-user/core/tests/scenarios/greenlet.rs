//! Calls of greenlets, whose library tells which of them runs: their numbers are addresses, which are given out again.

use tracer_core::span::Confidence;

use crate::host::{End, Host, T, lines, path, task};

const NOBODY: Option<T> = None;

type Conn = (End, End);

/// A service on one thread, between clients and services that are not traced.
struct Service {
    host: Host,
    main: T,
}

impl Service {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        Self { host, main }
    }

    fn client(&mut self) -> Conn {
        let conn = self.host.connect(None, Some(self.main));
        self.host.nonblocking(conn.1);
        conn
    }

    fn arrives(&mut self, conn: Conn, path: &str, greenlet: u64) {
        self.host.request(NOBODY, conn.0, path);
        self.reads(conn, greenlet);
    }

    fn reads(&mut self, conn: Conn, greenlet: u64) {
        self.host.switches(task(greenlet));
        self.host.read(self.main, conn.1);
    }

    fn answers(&mut self, conn: Conn) {
        self.host.answers(NOBODY, conn, self.main);
    }

    fn calls(&mut self, path: &str, greenlet: u64) {
        let conn = self.host.connect(Some(self.main), None);
        self.host.nonblocking(conn.0);
        self.host.switches(task(greenlet));
        self.host.asks(self.main, conn, NOBODY, path);
        self.host.response(NOBODY, conn.1);
        self.host.switches(task(greenlet));
        self.host.read(self.main, conn.0);
    }

    #[track_caller]
    fn expect(&self, wanted: &[&str]) {
        let calls: Vec<String> =
            lines(&self.host.spans()).into_iter().filter(|line| line.starts_with("shop client")).collect();
        let wanted: Vec<String> = wanted.iter().map(|line| format!("shop client {line}")).collect();
        assert_eq!(calls, wanted);
    }
}

#[test]
fn a_call_belongs_to_the_request_of_its_greenlet() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 12);
    shop.calls("/b1", 12);
    shop.calls("/a1", 11);
    shop.calls("/bg", 7);
    shop.answers(two);
    shop.answers(one);
    shop.expect(&[
        "/b1 < shop server /b (runtime-task)",
        "/a1 < shop server /a (runtime-task)",
        "/bg - task-unrelated",
    ]);
    let spans = shop.host.spans();
    let called = spans.iter().find(|span| path(span) == "/a1").unwrap();
    assert_eq!(called.parent.map(|parent| parent.confidence), Some(Confidence::Certain));
}

#[test]
fn a_greenlet_at_the_place_of_another_serves_what_it_has_read() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.calls("/a1", 11);
    shop.answers(one);
    shop.arrives(two, "/b", 11);
    shop.calls("/b1", 11);
    shop.answers(two);
    // What is started at that place later works for nobody.
    shop.calls("/late", 11);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/late - task-unrelated",
    ]);
}

/// The first was ended without an answer, and its connection was not.
#[test]
fn two_requests_at_one_place_cannot_be_told_apart() {
    let mut shop = Service::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a", 11);
    shop.arrives(two, "/b", 11);
    shop.calls("/x", 11);
    shop.answers(two);
    shop.expect(&["/x - several-open-requests"]);
}

#[test]
fn what_is_done_after_the_answer_is_not_done_for_the_next_request() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.host.write(NOBODY, conn.0, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    shop.reads(conn, 11);
    shop.answers(conn);
    shop.calls("/after", 11);
    shop.answers(conn);
    shop.expect(&["/after - task-not-fresh"]);

    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    shop.answers(conn);
    shop.host.request(NOBODY, conn.0, "/b");
    shop.calls("/after", 11);
    shop.reads(conn, 11);
    shop.calls("/b1", 11);
    shop.answers(conn);
    shop.expect(&["/after - task-unrelated", "/b1 < shop server /b (runtime-task)"]);
}

/// What was lost is known only later; the greenlet seems to work on the first request still.
#[test]
fn the_end_of_a_request_and_the_beginning_of_the_next_may_be_lost() {
    let mut shop = Service::new();
    let conn = shop.client();
    shop.arrives(conn, "/a", 11);
    let before = shop.host.events.len();
    shop.answers(conn);
    shop.arrives(conn, "/b", 11);
    shop.host.events.truncate(before);
    shop.calls("/b1", 11);
    shop.answers(conn);
    shop.expect(&["/b1 - events-lost"]);
}
