//! Links of undecided spans: to what evidence names, and to nothing else.

use std::time::Duration;

use tracer_core::event::Event;
use tracer_core::span::{Link, Span, Value};
use tracer_core::{Engine, EngineConfig};

use crate::host::{Host, T, key, lines, name, path};

const NOBODY: Option<T> = None;

/// `path: linked span (evidence, why it is no parent)`, for every span that has links.
fn links(spans: &[Span]) -> Vec<String> {
    let told = |span: &Span, link: &Link| {
        let target = spans.iter().find(|other| other.span_id == link.span_id).expect("it left, too");
        assert_eq!(target.trace_id, link.trace_id);
        assert!(span.parent.is_none() && target.sampled);
        let words: Vec<&str> = link
            .attributes
            .iter()
            .map(|(key, value)| match value {
                Value::Str(text) if key.starts_with("tracer.candidate.") => text.as_str(),
                Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::StrArray(_) => {
                    panic!("{key}: {value:?}")
                }
            })
            .collect();
        assert_eq!(words.get(1).copied(), span.undecided);
        format!("{}: {} ({})", path(span), name(target), words.join(", "))
    };
    let mut all: Vec<String> =
        spans.iter().flat_map(|span| span.links.iter().map(move |link| told(span, link))).collect();
    all.sort();
    all
}

/// A process whose only thread reads `requests` one after the other with reads that wait, calls, and answers them all.
fn held_together(requests: &[(&str, &str)]) -> Host {
    let mut host = Host::new();
    let shop = host.process("shop");
    let back = host.connect(Some(shop), None);
    let fronts: Vec<_> = requests.iter().map(|_| host.connect(NOBODY, Some(shop))).collect();
    for (front, (path, headers)) in fronts.iter().zip(requests) {
        host.request_with(NOBODY, front.0, path, headers);
        host.read(shop, front.1);
    }
    host.asks(shop, back, NOBODY, "/call");
    host.answers(shop, back, NOBODY);
    for front in fronts {
        host.answers(NOBODY, front, shop);
    }
    host
}

#[test]
fn a_thread_that_holds_two_requests_names_both() {
    let host = held_together(&[("/a", ""), ("/b", "")]);
    assert_eq!(
        links(&host.spans()),
        [
            "/call: shop server /a (thread, not-thread-per-request)",
            "/call: shop server /b (thread, not-thread-per-request)"
        ]
    );
}

#[test]
fn of_more_than_three_nothing_is_said() {
    let three = held_together(&[("/a", ""), ("/b", ""), ("/c", "")]);
    assert_eq!(links(&three.spans()).len(), 3);
    let four = held_together(&[("/a", ""), ("/b", ""), ("/c", ""), ("/d", "")]);
    assert!(links(&four.spans()).is_empty());
}

#[test]
fn a_span_that_is_not_exported_is_not_linked() {
    let unsampled = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
    let host = held_together(&[("/a", unsampled), ("/b", "")]);
    assert_eq!(links(&host.spans()), ["/call: shop server /b (thread, not-thread-per-request)"]);
}

/// What an event loop has open is open, and no more.
#[test]
fn being_open_is_no_evidence() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, back) = (host.connect(NOBODY, Some(shop)), host.connect(Some(shop), None));
    host.nonblocking(front.1);
    host.asks(NOBODY, front, shop, "/a");
    host.asks(shop, back, NOBODY, "/call");
    host.answers(shop, back, NOBODY);
    host.answers(NOBODY, front, shop);
    let spans = host.spans();
    assert_eq!(spans.iter().filter(|span| span.undecided == Some("event-loop")).count(), 1);
    assert!(links(&spans).is_empty());
}

/// It waits for the task that calls, which was there before.
#[test]
fn a_request_that_waits_for_a_task_of_another_is_named() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, back) = (host.connect(NOBODY, Some(shop)), host.connect(Some(shop), None));
    host.nonblocking(front.1);
    for n in 0..40 {
        host.request(NOBODY, front.0, "/a");
        host.counts(Some(11), 2000 + n);
        host.read(shop, front.1);
        host.works(&[11]);
        host.answers(NOBODY, front, shop);
    }
    host.request(NOBODY, front.0, "/waits");
    host.counts(Some(11), 2100);
    host.read(shop, front.1);
    host.works(&[2050, 11]);
    host.asks(shop, back, NOBODY, "/call");
    host.answers(shop, back, NOBODY);
    host.works(&[11]);
    host.answers(NOBODY, front, shop);
    assert_eq!(links(&host.spans()), ["/call: shop server /waits (runtime-task, task-older)"]);
}

const ID: &str = "X-Request-Id: 7f9c24e8-3b12-4fef-91e0-3c5d2a1b6f07\r\n";

/// Two requests on an event loop with one id, and a call that carries it.
fn shared_id(before: bool, answered_first: bool) -> Host {
    let mut host = Host::new();
    let shop = host.process("shop");
    let back = host.connect(Some(shop), None);
    let fronts = [host.connect(NOBODY, Some(shop)), host.connect(NOBODY, Some(shop))];
    for front in fronts {
        host.nonblocking(front.1);
    }
    if before {
        host.request_with(NOBODY, fronts[0].0, "/before", ID);
        host.read(shop, fronts[0].1);
        host.answers(NOBODY, fronts[0], shop);
        host.sleep(Duration::from_secs(1));
    }
    for (front, path) in fronts.iter().zip(["/a", "/b"]) {
        host.request_with(NOBODY, front.0, path, ID);
        host.read(shop, front.1);
    }
    if answered_first {
        host.answers(NOBODY, fronts[0], shop);
    }
    host.request_with(shop, back.0, "/call", ID);
    host.read(NOBODY, back.1);
    host.answers(shop, back, NOBODY);
    for front in &fronts[usize::from(answered_first)..] {
        host.answers(NOBODY, *front, shop);
    }
    host
}

#[test]
fn requests_that_alone_share_what_the_call_carries_are_named() {
    assert_eq!(
        links(&shared_id(false, false).spans()),
        [
            "/call: shop server /a (header-continuity, not-thread-per-request)",
            "/call: shop server /b (header-continuity, not-thread-per-request)"
        ]
    );
}

#[test]
fn what_was_over_is_no_candidate() {
    assert_eq!(
        links(&shared_id(false, true).spans()),
        ["/call: shop server /b (header-continuity, not-thread-per-request)"]
    );
}

/// An id that comes again and again names nobody.
#[test]
fn an_id_that_others_had_before_names_nobody() {
    assert!(links(&shared_id(true, false).spans()).is_empty());
}

/// What the client sent is not seen, so that the requests wait for their other end; the call's question is settled
/// meanwhile.
#[test]
fn a_link_waits_for_the_trace_of_what_it_names() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let back = host.connect(Some(shop), None);
    let fronts = [host.connect(Some(curl), Some(shop)), host.connect(Some(curl), Some(shop))];
    for (front, path) in fronts.iter().zip(["/a", "/b"]) {
        host.asks(curl, *front, shop, path);
    }
    host.asks(shop, back, NOBODY, "/call");
    host.answers(shop, back, NOBODY);
    for front in fronts {
        host.answers(curl, front, shop);
    }
    host.events.retain(
        |event| !matches!(event, Event::DataMoved(moved) if moved.thread.process == key(curl.process)),
    );
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    for event in &host.events {
        engine.handle_event(event.clone());
    }
    engine.handle_timeout(host.clock.plus(Duration::from_millis(900)));
    assert!(engine.poll_span().is_none(), "the requests may still have a parent");
    engine.handle_timeout(host.clock.plus(Duration::from_secs(3)));
    let spans: Vec<_> = std::iter::from_fn(|| engine.poll_span()).collect();
    assert_eq!(links(&spans).len(), 2, "{:?}", lines(&spans));
    assert_eq!(engine.stats().links_not_made, 0);
}

/// A request that lasts longer than a call may wait has a trace all the same.
#[test]
fn what_is_still_open_is_linked_too() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let back = host.connect(Some(shop), None);
    let fronts = [host.connect(NOBODY, Some(shop)), host.connect(NOBODY, Some(shop))];
    for (front, path) in fronts.iter().zip(["/a", "/b"]) {
        host.asks(NOBODY, *front, shop, path);
    }
    host.asks(shop, back, NOBODY, "/call");
    host.answers(shop, back, NOBODY);
    host.sleep(Duration::from_secs(30));
    for front in fronts {
        host.answers(NOBODY, front, shop);
    }
    // Their questions are settled by then: what is open has a trace, and leaves when it ends.
    assert_eq!(links(&host.spans()).len(), 2);
}
