//! nginx workers: response windows.

use std::time::Duration;

use crate::host::{End, Host, T};

const NOBODY: Option<T> = None;

struct Proxy {
    host: Host,
    worker: T,
}

impl Proxy {
    fn new() -> Self {
        let mut host = Host::new();
        let worker = host.nginx("nginx");
        Self { host, worker }
    }

    fn front(&mut self) -> (End, End) {
        let conn = self.host.connect(None, Some(self.worker));
        self.host.nonblocking(conn.1);
        conn
    }

    fn back(&mut self) -> (End, End) {
        let conn = self.host.connect(Some(self.worker), None);
        self.host.nonblocking(conn.0);
        conn
    }

    fn arrives(&mut self, front: (End, End), path: &str) {
        self.host.asks(NOBODY, front, self.worker, path);
    }

    fn forwards(&mut self, back: (End, End), path: &str) {
        self.host.asks(self.worker, back, NOBODY, path);
    }

    fn gets(&mut self, back: (End, End)) {
        self.host.answers(self.worker, back, NOBODY);
    }

    fn answers(&mut self, front: (End, End)) {
        self.host.answers(NOBODY, front, self.worker);
    }

    fn waits(&mut self) {
        self.host.waits(self.worker);
    }

    #[track_caller]
    fn expect(&self, lines: &[&str]) {
        assert_eq!(self.host.lines(), lines);
    }
}

#[test]
fn a_call_belongs_to_the_request_that_its_response_answers() {
    let mut proxy = Proxy::new();
    let (a, b) = (proxy.front(), proxy.front());
    let (x, y) = (proxy.back(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.arrives(b, "/b");
    // Connections are made later, in any order: what was received last says nothing.
    proxy.forwards(y, "/y");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.gets(y);
    proxy.answers(b);
    proxy.expect(&[
        "nginx server /a",
        "nginx server /b",
        "nginx client /y < nginx server /b (response-window)",
        "nginx client /x < nginx server /a (response-window)",
    ]);
}

#[test]
fn several_reads_of_one_response_are_one_window() {
    let mut proxy = Proxy::new();
    let (a, x) = (proxy.front(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.host.write(NOBODY, x.1, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    proxy.host.read(proxy.worker, x.0);
    proxy.host.would_block(proxy.worker, x.0);
    proxy.waits();
    proxy.host.write(NOBODY, x.1, b"foobar");
    proxy.host.read(proxy.worker, x.0);
    proxy.host.response_of(proxy.worker, a.1, 6);
    proxy.host.read(NOBODY, a.0);
    proxy.expect(&["nginx server /a", "nginx client /x < nginx server /a (response-window)"]);
}

/// Two answers in one window: the second is a timer's, but which one is the second is not known in general.
#[test]
fn a_window_with_two_answers_binds_nothing() {
    let mut proxy = Proxy::new();
    let (a, b, x) = (proxy.front(), proxy.front(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.answers(b);
    proxy.expect(&["nginx server /a", "nginx server /b", "nginx client /x - response-windows-disagree"]);
}

#[test]
fn subrequests_stay_undecided() {
    let mut proxy = Proxy::new();
    let (a, auth, x, mirror) = (proxy.front(), proxy.back(), proxy.back(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards(auth, "/auth");
    proxy.forwards(mirror, "/mirror");
    proxy.waits();
    proxy.gets(auth);
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.gets(mirror);
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.expect(&[
        "nginx server /a",
        "nginx client /auth - no-response-window",
        "nginx client /mirror - no-response-window",
        "nginx client /x < nginx server /a (response-window)",
    ]);
}

/// A mirrored call's response starts nothing; a delayed request is answered right behind it.
#[test]
fn a_timer_behind_a_mirrored_response_is_not_its_answer() {
    let mut proxy = Proxy::new();
    let (a, b, delayed) = (proxy.front(), proxy.front(), proxy.front());
    let (x, mirror) = (proxy.back(), proxy.back());
    // The worker has been seen to answer from a timer before.
    proxy.arrives(delayed, "/early");
    proxy.waits();
    proxy.answers(delayed);
    // Pooled connections: the calls leave in the step that causes them.
    for conn in [x, mirror] {
        proxy.arrives(a, "/warm");
        proxy.forwards(conn, "/warm-up");
        proxy.waits();
        proxy.gets(conn);
        proxy.answers(a);
        proxy.waits();
    }
    proxy.arrives(b, "/delayed");
    proxy.waits();
    proxy.arrives(a, "/a");
    proxy.forwards(x, "/x");
    proxy.forwards(mirror, "/mirror");
    proxy.waits();
    proxy.gets(mirror);
    proxy.answers(b);
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    let lines = proxy.host.lines();
    assert!(lines.contains(&"nginx client /mirror - response-windows-disagree".to_owned()), "{lines:?}");
    assert!(lines.contains(&"nginx client /x < nginx server /a (response-window)".to_owned()), "{lines:?}");
}

#[test]
fn a_cached_answer_binds_nothing() {
    let mut proxy = Proxy::new();
    let (a, b, x) = (proxy.front(), proxy.front(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.arrives(b, "/cached");
    proxy.answers(b);
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.expect(&[
        "nginx server /a",
        "nginx client /x < nginx server /a (response-window)",
        "nginx server /cached",
    ]);
}

#[test]
fn an_answer_after_a_wait_is_in_no_window() {
    let mut proxy = Proxy::new();
    let (a, x) = (proxy.front(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.gets(x);
    proxy.waits();
    proxy.answers(a);
    proxy.expect(&["nginx server /a", "nginx client /x - no-response-window"]);
}

#[test]
fn a_lost_event_closes_the_window() {
    let mut proxy = Proxy::new();
    let (a, b, x, y) = (proxy.front(), proxy.front(), proxy.back(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.forwards(y, "/y");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.gets(y);
    proxy.answers(b);
    let events = proxy.host.events.clone();
    for lost in 0..events.len() {
        proxy.host.events = events.clone();
        proxy.host.events.remove(lost);
        for line in proxy.host.lines() {
            assert!(!line.starts_with("nginx client /x < nginx server /b"), "without {lost}");
            assert!(!line.starts_with("nginx client /y < nginx server /a"), "without {lost}");
        }
    }
}

/// The request's span waits for its call's question, and does not leave before it can be a parent.
#[test]
fn requests_stay_until_their_calls_are_decided() {
    let mut proxy = Proxy::new();
    let (a, x) = (proxy.front(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.host.sleep(Duration::from_secs(1));
    let idle = proxy.front();
    proxy.arrives(idle, "/later");
    let spans = proxy.host.spans();
    let trace =
        |path: &str| spans.iter().find(|span| crate::host::path(span) == path).map(|span| span.trace_id);
    assert_eq!(trace("/x"), trace("/a"));
}

impl Proxy {
    /// Requests on pooled connections, each served before the next comes.
    fn serves(&mut self, front: (End, End), back: (End, End), times: usize) {
        for _ in 0..times {
            self.arrives(front, "/before");
            self.forwards(back, "/before");
            self.waits();
            self.gets(back);
            self.answers(front);
            self.waits();
        }
    }
}

/// What `limit_req` holds back is sent on by a timer, right behind another request that has just come.
#[test]
fn a_call_of_a_timer_is_not_of_the_request_that_came_before() {
    let mut proxy = Proxy::new();
    let (a, b, c) = (proxy.front(), proxy.front(), proxy.front());
    let (x, y, z) = (proxy.back(), proxy.back(), proxy.back());
    for (front, back) in [(a, x), (b, y), (c, z)] {
        proxy.serves(front, back, 30);
    }
    proxy.arrives(a, "/a");
    proxy.waits();
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.waits();
    // This one is not held back itself.
    proxy.arrives(c, "/c");
    proxy.forwards(z, "/z");
    proxy.forwards(y, "/y");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.waits();
    proxy.gets(y);
    proxy.answers(b);
    proxy.gets(z);
    proxy.answers(c);
    let lines = proxy.host.lines();
    for (call, request) in [("/x", "/a"), ("/y", "/b"), ("/z", "/c")] {
        let line = format!("nginx client {call} < nginx server {request} (response-window)");
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    let likely = proxy
        .host
        .spans()
        .iter()
        .filter(|span| {
            span.parent.is_some_and(|parent| parent.confidence == tracer_core::span::Confidence::Likely)
        })
        .count();
    assert_eq!(likely, 2);
}

/// A worker that has not shown yet that it makes no subrequests is not believed.
#[test]
fn a_call_of_a_timer_in_a_young_worker_is_undecided() {
    let mut proxy = Proxy::new();
    let (a, b, x, y) = (proxy.front(), proxy.front(), proxy.back(), proxy.back());
    proxy.serves(a, x, 20);
    proxy.serves(b, y, 20);
    proxy.arrives(a, "/a");
    proxy.waits();
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.forwards(y, "/y");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.waits();
    proxy.gets(y);
    proxy.answers(b);
    let lines = proxy.host.lines();
    assert!(lines.contains(&"nginx client /x - response-windows-disagree".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"nginx client /y < nginx server /b (response-window)".to_owned()), "{lines:#?}");
}

/// What came last was never answered by another call: the call may be its own, and the answer a timer's.
#[test]
fn a_call_of_somebody_who_has_gone_is_not_of_who_is_answered_meanwhile() {
    let mut proxy = Proxy::new();
    let (a, b, x) = (proxy.front(), proxy.front(), proxy.back());
    proxy.serves(a, x, 80);
    proxy.arrives(a, "/a");
    proxy.waits();
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.host.end_of_stream(proxy.worker, b.1);
    proxy.host.close(proxy.worker, b.1);
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    let lines = proxy.host.lines();
    assert!(lines.contains(&"nginx client /x - response-windows-disagree".to_owned()), "{lines:#?}");
}

/// A worker that mirrors: the mirrored call leaves with its request's own, and its response starts nothing.
#[test]
fn a_timer_behind_a_mirrored_response_is_not_its_answer_where_nothing_was_unprompted() {
    let mut proxy = Proxy::new();
    let (a, delayed, x, mirror) = (proxy.front(), proxy.front(), proxy.back(), proxy.back());
    for _ in 0..80 {
        proxy.arrives(a, "/a");
        proxy.forwards(x, "/x");
        proxy.forwards(mirror, "/mirror");
        proxy.waits();
        proxy.gets(mirror);
        proxy.waits();
        proxy.gets(x);
        proxy.answers(a);
        proxy.waits();
    }
    proxy.arrives(delayed, "/delayed");
    proxy.waits();
    proxy.arrives(a, "/last");
    proxy.forwards(x, "/x");
    proxy.forwards(mirror, "/mirror");
    proxy.waits();
    proxy.gets(mirror);
    proxy.answers(delayed);
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    let lines = proxy.host.lines();
    assert!(!lines.iter().any(|line| line.contains("/mirror <")), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("/x <")).count(), 81, "{lines:#?}");
}

/// The answer is not what was received.
#[test]
fn a_call_of_a_timer_whose_answer_is_of_another_length_is_undecided() {
    let mut proxy = Proxy::new();
    let (a, b, x, y) = (proxy.front(), proxy.front(), proxy.back(), proxy.back());
    proxy.serves(a, x, 40);
    proxy.serves(b, y, 40);
    proxy.arrives(a, "/a");
    proxy.waits();
    proxy.arrives(b, "/b");
    proxy.forwards(x, "/x");
    proxy.waits();
    proxy.forwards(y, "/y");
    proxy.waits();
    proxy.host.response_of(NOBODY, x.1, 7);
    proxy.host.read(proxy.worker, x.0);
    proxy.host.response_of(proxy.worker, a.1, 8);
    proxy.host.read(NOBODY, a.0);
    proxy.waits();
    proxy.gets(y);
    proxy.answers(b);
    let lines = proxy.host.lines();
    assert!(lines.contains(&"nginx client /x - response-windows-disagree".to_owned()), "{lines:#?}");
}
