//! Trace context headers.

use tracer_core::event::Event;

use crate::host::{End, Host, T, name, text};

const NOBODY: Option<T> = None;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent(span: &str, flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{span}-{flags}\r\n")
}

fn asks(
    host: &mut Host,
    client: impl Into<Option<T>>,
    ends: (End, End),
    server: impl Into<Option<T>>,
    path: &str,
    header: &str,
) {
    host.request_with(client, ends.0, path, header);
    host.read(server, ends.1);
}

#[test]
fn a_header_names_the_parent_of_a_request_from_outside() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let front = host.connect(None, Some(shop));
    asks(
        &mut host,
        NOBODY,
        front,
        shop,
        "/a",
        &(traceparent("00f067aa0ba902b7", "01") + "tracestate: a=b\r\n"),
    );
    host.answers(NOBODY, front, shop);
    let spans = host.spans();
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(span.trace_id.to_string(), TRACE);
    assert_eq!(span.trace_state.as_deref(), Some("a=b"));
    let parent = span.parent.unwrap();
    assert_eq!(parent.span_id.to_string(), "00f067aa0ba902b7");
    assert!(parent.remote && span.sampled);
    assert_eq!(text(span, "tracer.context.format"), Some("tracecontext"));
    assert_eq!(host.lines(), ["shop server /a < 00f067aa0ba902b7 (header)"]);
}

#[test]
fn a_traced_caller_comes_between_the_header_and_the_request() {
    let mut host = Host::new();
    let (app, shop) = (host.process("app"), host.process("shop"));
    let conn = host.connect(Some(app), Some(shop));
    asks(&mut host, app, conn, shop, "/a", &traceparent("00f067aa0ba902b7", "01"));
    host.answers(app, conn, shop);
    assert_eq!(
        host.lines(),
        ["app client /a < 00f067aa0ba902b7 (header)", "shop server /a < app client /a (tcp-sequence)"]
    );
    assert!(host.spans().iter().all(|span| span.trace_id.to_string() == TRACE));
}

/// The kernel stamps operations at their end: the call's own receiver may be seen to have the id first.
#[test]
fn a_caller_whose_request_is_seen_to_arrive_before_it_leaves_made_the_id() {
    let mut host = Host::new();
    let (app, shop) = (host.process("app"), host.process("shop"));
    let conn = host.connect(Some(app), Some(shop));
    asks(&mut host, app, conn, shop, "/a", &traceparent("00f067aa0ba902b7", "01"));
    let end = host.events.len();
    let times = [host.events[end - 1].time(), host.events[end - 2].time()];
    for (event, time) in host.events[end - 2..].iter_mut().zip(times) {
        let Event::DataMoved(moved) = event else { panic!("{event:?}") };
        moved.time = time;
    }
    host.answers(app, conn, shop);
    let mut lines = host.lines();
    lines.sort();
    assert_eq!(
        lines,
        ["app client /a < 00f067aa0ba902b7 (header)", "shop server /a < app client /a (tcp-sequence)"]
    );
}

/// A proxy that hands a header through: the id is an ancestor's, the trace is the same.
#[test]
fn an_id_that_passes_through_names_an_ancestor() {
    let mut host = Host::new();
    let (nginx, shop) = (host.nginx("nginx"), host.process("shop"));
    let front = host.connect(None, Some(nginx));
    let back = host.connect(Some(nginx), Some(shop));
    let header = traceparent("00f067aa0ba902b7", "01");
    asks(&mut host, NOBODY, front, nginx, "/a", &header);
    asks(&mut host, nginx, back, shop, "/b", &header);
    host.waits(nginx);
    host.answers(nginx, back, shop);
    host.answers(NOBODY, front, nginx);
    assert_eq!(
        host.lines(),
        [
            "nginx server /a < 00f067aa0ba902b7 (header)",
            "nginx client /b < nginx server /a (response-window)",
            "shop server /b < nginx client /b (tcp-sequence)",
        ]
    );
    assert!(host.spans().iter().all(|span| span.trace_id.to_string() == TRACE));
}

/// The same, where nothing but the header tells: no parent is claimed, but the trace is known.
#[test]
fn a_call_whose_cause_is_unknown_stays_in_its_headers_trace() {
    let mut host = Host::new();
    let (shop, worker) = (host.process("shop"), 1);
    let front = host.connect(None, Some(shop));
    let back = host.connect(Some(shop), None);
    let header = traceparent("00f067aa0ba902b7", "00");
    asks(&mut host, NOBODY, front, shop, "/a", &header);
    let worker = host.thread(shop, worker);
    asks(&mut host, worker, back, NOBODY, "/b", &header);
    host.answers(worker, back, NOBODY);
    host.answers(NOBODY, front, shop);
    assert_eq!(
        host.lines(),
        ["shop server /a < 00f067aa0ba902b7 (header)", "shop client /b - no-open-request"]
    );
    assert!(host.spans().iter().all(|span| span.trace_id.to_string() == TRACE && !span.sampled));
}

#[test]
fn a_call_in_another_trace_than_its_thread_serves_is_undecided() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, other) = (host.connect(None, Some(shop)), host.connect(None, Some(shop)));
    let back = host.connect(Some(shop), None);
    let header = traceparent("00f067aa0ba902b7", "01");
    let reader = host.thread(shop, 1);
    asks(&mut host, NOBODY, other, reader, "/other", &header);
    host.answers(NOBODY, other, reader);
    host.asks(NOBODY, front, shop, "/a");
    asks(&mut host, shop, back, NOBODY, "/b", &header);
    host.answers(shop, back, NOBODY);
    host.answers(NOBODY, front, shop);
    assert!(host.lines().contains(&"shop client /b - contradiction".to_owned()), "{:?}", host.lines());
}

#[test]
fn an_unsampled_trace_is_unsampled_in_its_whole_subtree() {
    let mut host = Host::new();
    let (app, shop, cart) = (host.process("app"), host.process("shop"), host.process("cart"));
    let front = host.connect(Some(app), Some(shop));
    let back = host.connect(Some(shop), Some(cart));
    asks(&mut host, app, front, shop, "/a", &traceparent("00f067aa0ba902b7", "00"));
    host.asks(shop, back, cart, "/b");
    host.answers(shop, back, cart);
    host.answers(app, front, shop);
    let spans = host.spans();
    assert_eq!(spans.len(), 4);
    for span in spans {
        assert!(!span.sampled, "{}", name(&span));
    }
}

/// The proxy's own call was lost: the header must not make it look as if the caller had called the service.
#[test]
fn a_lost_proxy_is_not_skipped() {
    let mut host = Host::new();
    let (proxy, shop) = (host.process("proxy"), host.process("shop"));
    let front = host.connect(None, Some(proxy));
    let back = host.connect(Some(proxy), Some(shop));
    let header = traceparent("00f067aa0ba902b7", "01");
    asks(&mut host, NOBODY, front, proxy, "/a", &header);
    asks(&mut host, proxy, back, shop, "/b", &header);
    host.answers(proxy, back, shop);
    host.answers(NOBODY, front, proxy);
    let events = host.events.clone();
    for lost in 0..events.len() {
        for second in 0..events.len() {
            let mut n = 0;
            host.events = events.clone();
            host.events.retain(|_| {
                n += 1;
                n - 1 != lost && n - 1 != second
            });
            let lines = host.lines();
            let skipped = |line: &String| {
                line.contains("/b < 00f067aa0ba902b7") || line.contains("shop server /b < proxy server")
            };
            assert!(!lines.iter().any(skipped), "without {lost} and {second}: {lines:?}");
        }
    }
}
