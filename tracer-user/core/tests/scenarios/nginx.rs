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

    /// The same, and nginx tells for whom.
    fn forwards_for(&mut self, front: (End, End), back: (End, End), path: &str) {
        self.host.is_for(front.1, None);
        self.forwards(back, path);
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

/// With `limit_req`, requests go upstream when a timer says so: what came last before is another one.
#[test]
fn nginx_tells_whose_request_a_timer_lets_go() {
    let mut proxy = Proxy::new();
    let (a, b) = (proxy.front(), proxy.front());
    let (x, y) = (proxy.back(), proxy.back());
    for (front, back) in [(a, x), (b, y)] {
        proxy.arrives(front, "/warm");
        proxy.forwards_for(front, back, "/warm-up");
        proxy.waits();
        proxy.gets(back);
        proxy.answers(front);
        proxy.waits();
    }
    proxy.arrives(a, "/a");
    proxy.waits();
    proxy.arrives(b, "/b");
    proxy.forwards_for(a, x, "/x");
    proxy.waits();
    proxy.forwards_for(b, y, "/y");
    proxy.gets(y);
    proxy.answers(b);
    proxy.gets(x);
    proxy.answers(a);
    let lines = proxy.host.lines();
    for line in [
        "nginx client /x < nginx server /a (runtime-task)",
        "nginx client /y < nginx server /b (runtime-task)",
    ] {
        assert!(lines.iter().any(|known| known == line), "{lines:?}");
    }
}

/// Their answers are nobody's: no window names a request for them.
#[test]
fn nginx_tells_whose_subrequests_are() {
    let mut proxy = Proxy::new();
    let a = proxy.front();
    let (auth, mirror, x) = (proxy.back(), proxy.back(), proxy.back());
    proxy.arrives(a, "/a");
    proxy.forwards_for(a, auth, "/auth");
    proxy.waits();
    proxy.gets(auth);
    proxy.forwards_for(a, mirror, "/mirror");
    proxy.forwards_for(a, x, "/x");
    proxy.waits();
    proxy.gets(mirror);
    proxy.gets(x);
    proxy.answers(a);
    proxy.expect(&[
        "nginx server /a",
        "nginx client /auth < nginx server /a (runtime-task)",
        "nginx client /mirror < nginx server /a (runtime-task)",
        "nginx client /x < nginx server /a (runtime-task)",
    ]);
}

/// A request that was read together with the one before it is not what nginx is about, as long as that one's mirror is to be
/// sent.
#[test]
fn a_request_that_came_too_early_is_not_named() {
    let mut proxy = Proxy::new();
    let (a, x, mirror) = (proxy.front(), proxy.back(), proxy.back());
    let y = proxy.back();
    proxy.arrives(a, "/a");
    proxy.arrives(a, "/early");
    proxy.forwards_for(a, x, "/x");
    proxy.waits();
    proxy.gets(x);
    proxy.answers(a);
    proxy.forwards_for(a, mirror, "/mirror");
    proxy.waits();
    proxy.gets(mirror);
    proxy.forwards_for(a, y, "/y");
    proxy.waits();
    proxy.gets(y);
    proxy.answers(a);
    proxy.expect(&[
        "nginx server /a",
        "nginx server /early",
        "nginx client /x < nginx server /a (response-window)",
        "nginx client /mirror - no-response-window",
        "nginx client /y < nginx server /early (response-window)",
    ]);
}

/// What nginx tells of a connection is not of the request that seems to be open there when its end was lost.
#[test]
fn what_was_lost_names_no_other_request() {
    let mut proxy = Proxy::new();
    let (a, x, y) = (proxy.front(), proxy.back(), proxy.back());
    for (path, back, call) in [("/a", x, "/x"), ("/b", y, "/y")] {
        proxy.arrives(a, path);
        proxy.forwards_for(a, back, call);
        proxy.waits();
        proxy.gets(back);
        proxy.answers(a);
    }
    let events = proxy.host.events.clone();
    for first in 0..events.len() {
        for last in first..events.len() {
            proxy.host.events = events.clone();
            proxy.host.events.drain(first..=last);
            for line in proxy.host.lines() {
                assert!(!line.starts_with("nginx client /x < nginx server /b"), "without {first} to {last}");
                assert!(!line.starts_with("nginx client /y < nginx server /a"), "without {first} to {last}");
            }
        }
    }
}
