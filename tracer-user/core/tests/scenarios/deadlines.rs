//! When spans leave, and what bounds cost.

use std::time::Duration;

use tracer_abi::time::KernelInstant;
use tracer_core::span::Span;
use tracer_core::{Engine, EngineConfig, Limits};

use crate::host::{Host, T, lines, path};

const NOBODY: Option<T> = None;

/// An engine that is fed a host's events as time goes by.
struct Live {
    engine: Engine,
    fed: usize,
    spans: Vec<Span>,
}

impl Live {
    fn new(config: EngineConfig) -> Self {
        Self { engine: Engine::new(config, [3; 32]), fed: 0, spans: Vec::new() }
    }

    /// Everything up to the host's clock; returns the spans that left.
    fn until_now(&mut self, host: &Host) -> Vec<Span> {
        for event in &host.events[self.fed..] {
            self.engine.handle_event(event.clone());
        }
        self.fed = host.events.len();
        self.engine.handle_timeout(host.clock);
        let left: Vec<Span> = std::iter::from_fn(|| self.engine.poll_span()).collect();
        self.spans.extend(left.iter().cloned());
        left
    }

    fn finish(&mut self, host: &Host) -> Vec<Span> {
        self.engine.finish(host.clock);
        let left: Vec<Span> = std::iter::from_fn(|| self.engine.poll_span()).collect();
        self.spans.extend(left.iter().cloned());
        left
    }
}

#[test]
fn a_plain_request_leaves_within_a_blink() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let conn = host.connect(None, Some(shop));
    let mut live = Live::new(EngineConfig::default());
    host.asks(NOBODY, conn, shop, "/a");
    host.answers(NOBODY, conn, shop);
    host.sleep(Duration::from_millis(100));
    assert_eq!(live.until_now(&host).len(), 1);
}

/// Its connection has shown that nobody here calls on it, and so it does not wait for that again.
#[test]
fn another_request_of_an_outsider_leaves_with_its_answer() {
    let mut host = Host::new();
    let (shop, curl) = (host.process("shop"), host.process("curl"));
    let (conn, elsewhere) = (host.connect(None, Some(shop)), host.connect(Some(curl), None));
    let mut live = Live::new(EngineConfig::default());
    host.asks(NOBODY, conn, shop, "/a");
    host.answers(NOBODY, conn, shop);
    host.sleep(Duration::from_millis(100));
    host.asks(curl, elsewhere, NOBODY, "/elsewhere");
    assert_eq!(lines(&live.until_now(&host)), ["shop server /a"]);
    host.asks(NOBODY, conn, shop, "/b");
    host.answers(NOBODY, conn, shop);
    // Events are held for 50 ms to be put in order.
    host.sleep(Duration::from_millis(60));
    assert_eq!(lines(&live.until_now(&host)), ["shop server /b"]);
}

/// What a worker of nginx does next says that the window of a call's response is closed: it does not wait for a second answer.
#[test]
fn a_call_of_nginx_leaves_when_its_window_is_closed() {
    let mut host = Host::new();
    let worker = host.nginx("nginx");
    let (front, back, next) = (
        host.connect(None, Some(worker)),
        host.connect(Some(worker), None),
        host.connect(None, Some(worker)),
    );
    for end in [front.1, back.0, next.1] {
        host.nonblocking(end);
    }
    let mut live = Live::new(EngineConfig::default());
    host.asks(NOBODY, front, worker, "/a");
    host.asks(worker, back, NOBODY, "/x");
    host.waits(worker);
    host.answers(worker, back, NOBODY);
    host.answers(NOBODY, front, worker);
    host.sleep(Duration::from_millis(30));
    host.asks(NOBODY, next, worker, "/later");
    host.sleep(Duration::from_millis(60));
    let expected = ["nginx server /a", "nginx client /x < nginx server /a (response-window)"];
    assert_eq!(lines(&live.until_now(&host)), expected);
}

/// It waits for its server to read it, but not long.
#[test]
fn a_call_given_up_leaves_within_a_blink() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let (near, _) = host.connect(Some(curl), Some(shop));
    let mut live = Live::new(EngineConfig::default());
    host.request(curl, near, "/a");
    host.close(curl, near);
    for _ in 0..2 {
        host.sleep(Duration::from_millis(100));
        live.until_now(&host);
    }
    assert_eq!(lines(&live.spans), ["curl client /a"]);
}

/// A parent that is open for an hour: its calls leave ten seconds after their end, in its trace.
#[test]
fn calls_leave_under_an_hour_long_parent() {
    let mut host = Host::new();
    let (curl, shop, cart) = (host.process("curl"), host.process("shop"), host.process("cart"));
    let front = host.connect(Some(curl), Some(shop));
    let back = host.connect(Some(shop), Some(cart));
    let mut live = Live::new(EngineConfig::default());
    host.asks(curl, front, shop, "/stream");
    host.write(shop, front.1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    host.read(curl, front.0);
    for n in 0..3600 {
        host.asks(shop, back, cart, &format!("/{n}"));
        host.answers(shop, back, cart);
        host.write(shop, front.1, b"2\r\nhi\r\n");
        host.read(curl, front.0);
        host.sleep(Duration::from_secs(1));
        for span in live.until_now(&host) {
            let waited = host.clock.since(span.end);
            assert!(waited <= Duration::from_secs(11), "{} waited {waited:?}", path(&span));
        }
        let expected = 2 * (n as usize).saturating_sub(10);
        assert!(live.spans.len() >= expected, "after {n} s: {} spans", live.spans.len());
    }
    host.write(shop, front.1, b"0\r\n\r\n");
    host.read(curl, front.0);
    host.sleep(Duration::from_millis(200));
    live.until_now(&host);
    assert_eq!(live.spans.len(), 2 * 3600 + 2);
    assert!(live.spans.iter().all(|span| span.trace_id == live.spans[0].trace_id), "one trace");
    let lines = lines(&live.spans);
    let expected =
        ["shop client /7 < shop server /stream (thread)", "cart server /7 < shop client /7 (tcp-sequence)"];
    for line in expected {
        assert!(lines.contains(&line.to_owned()), "{line}");
    }
}

#[test]
fn a_call_leaves_undecided_when_its_request_shows_nothing_in_time() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, back) = (host.connect(None, Some(shop)), host.connect(Some(shop), None));
    let mut live = Live::new(EngineConfig::default());
    host.asks(NOBODY, front, shop, "/slow");
    host.asks(shop, back, NOBODY, "/a");
    host.answers(shop, back, NOBODY);
    host.sleep(Duration::from_millis(9_400));
    assert_eq!(live.until_now(&host).len(), 0);
    // Events may be held longer than they are here.
    host.sleep(Duration::from_millis(600));
    assert_eq!(lines(&live.until_now(&host)), ["shop client /a - request-still-open"]);
    host.answers(NOBODY, front, shop);
    host.sleep(Duration::from_secs(1));
    assert_eq!(lines(&live.until_now(&host)), ["shop server /slow"], "a settled question stays settled");
}

#[test]
fn poll_timeout_names_every_deadline() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, back) = (host.connect(None, Some(shop)), host.connect(Some(shop), None));
    host.asks(NOBODY, front, shop, "/slow");
    host.asks(shop, back, NOBODY, "/a");
    host.answers(shop, back, NOBODY);
    let mut engine = Engine::new(EngineConfig::default(), [3; 32]);
    for event in &host.events {
        engine.handle_event(event.clone());
    }
    // Following the deadlines alone must bring the call out in time.
    let mut wakes = 0;
    let span = loop {
        if let Some(span) = engine.poll_span() {
            break span;
        }
        let at = engine.poll_timeout().expect("something is still to do");
        engine.handle_timeout(at);
        wakes += 1;
        assert!(wakes < 100);
        assert!(at.since(host.clock) <= Duration::from_secs(10));
    };
    assert_eq!(path(&span), "/a");
}

#[test]
fn what_is_open_at_the_end_is_incomplete_and_without_a_status() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.asks(curl, conn, shop, "/a");
    let spans = host.spans();
    assert_eq!(
        lines(&spans),
        ["curl client /a !still_open", "shop server /a < curl client /a (tcp-sequence) !still_open"]
    );
    for span in &spans {
        let invented = |key: &str| key.starts_with("http.response") || key == "error.type";
        assert!(!span.attributes.iter().any(|(key, _)| invented(key)), "{:?}", span.attributes);
    }
}

#[test]
fn the_bound_on_exchanges_holds_and_is_counted() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let limits = Limits { max_exchanges: 1000, ..Limits::default() };
    let mut live = Live::new(EngineConfig { limits, ..EngineConfig::default() });
    for n in 0..100_000 / 500 {
        let conn = host.connect(None, Some(shop));
        for request in 0..500 {
            host.request(NOBODY, conn.0, &format!("/{n}/{request}"));
        }
        host.read(shop, conn.1);
        host.sleep(Duration::from_millis(100));
        live.until_now(&host);
    }
    assert_eq!(live.spans.len(), 99_000);
    assert_eq!(live.engine.stats().exchanges_cut, 99_000);
    let left = live.finish(&host);
    assert_eq!(left.len(), 1000);
    assert!(lines(&live.spans[..10]).iter().all(|line| line.ends_with("!limit_reached")));
}

#[test]
fn the_bound_on_connections_holds_and_is_counted() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let limits = Limits { max_connections: 10, ..Limits::default() };
    let mut live = Live::new(EngineConfig { limits, ..EngineConfig::default() });
    for n in 0..30 {
        let conn = host.connect(None, Some(shop));
        host.asks(NOBODY, conn, shop, &format!("/{n}"));
    }
    host.sleep(Duration::from_millis(100));
    assert_eq!(live.until_now(&host).len(), 20);
    assert_eq!(live.engine.stats().connections_cut, 20);
}

#[test]
fn the_same_events_and_seed_give_the_same_spans() {
    let mut host = Host::new();
    let (curl, shop, cart) = (host.process("curl"), host.process("shop"), host.process("cart"));
    for n in 0..50 {
        let front = host.connect(Some(curl), Some(shop));
        let back = host.connect(Some(shop), Some(cart));
        host.asks(curl, front, shop, &format!("/{n}"));
        host.asks(shop, back, cart, &format!("/{n}.0"));
        if n % 3 == 0 {
            host.answers(shop, back, cart);
            host.answers(curl, front, shop);
        }
    }
    let (first, second) = (host.spans(), host.spans());
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    let other = {
        let mut engine = Engine::new(EngineConfig::default(), [9; 32]);
        host.events.iter().for_each(|event| engine.handle_event(event.clone()));
        engine.finish(KernelInstant::MAX);
        engine.poll_span().expect("a span")
    };
    assert_ne!(first[0].span_id, other.span_id, "the seed matters");
}

/// The other end is gone: the answer's first bytes are met by a reset, which closes the connection inside of the call
/// that sends them, before that call is reported.
#[test]
fn an_answer_that_was_reset_was_given_all_the_same() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let conn = host.connect(None, Some(shop));
    host.asks(NOBODY, conn, shop, "/a");
    let sent = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    host.is_reset(conn.1);
    host.write(shop, conn.1, sent);
    host.sleep(Duration::from_secs(1));
    let spans = host.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert!(format!("{spans:?}").contains("(\"http.response.status_code\", Int(200))"), "{spans:?}");
}
