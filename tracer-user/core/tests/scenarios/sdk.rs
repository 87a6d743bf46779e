//! Programs that trace themselves: they make spans for their calls, and write them into the calls' headers.

use tracer_abi::error::KernelLoss;
use tracer_core::event::Event;
use tracer_core::span::Span;
use tracer_core::{Engine, EngineConfig, SdkSpans};

use crate::host::{Host, T, lines};

const NOBODY: Option<T> = None;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CAME_IN: &str = "00f067aa0ba902b7";
const MADE: &str = "e457b5a2e4d86bd1";
const MADE_TOO: &str = "05e3ac9a4f6e3b90";

fn traceparent(span: &str) -> String {
    format!("traceparent: 00-{TRACE}-{span}-01\r\n")
}

/// The spans, and how many were left out.
fn run(host: &Host, sdk_spans: SdkSpans) -> (Vec<Span>, u64) {
    let mut engine = Engine::new(EngineConfig { sdk_spans, ..EngineConfig::default() }, [1; 32]);
    let mut spans = Vec::new();
    for event in &host.events {
        engine.handle_event(event.clone());
        spans.extend(std::iter::from_fn(|| engine.poll_span()));
    }
    engine.finish(host.clock);
    spans.extend(std::iter::from_fn(|| engine.poll_span()));
    assert_eq!(engine.stats().spans, spans.len() as u64);
    (spans, engine.stats().spans_suppressed)
}

/// A request, and a call for each of these headers, one after the other.
fn program(calls: &[String]) -> Host {
    let mut host = Host::new();
    let (shop, stock) = (host.process("shop"), host.process("stock"));
    let front = host.connect(NOBODY, Some(shop));
    let back = host.connect(Some(shop), Some(stock));
    host.request_with(NOBODY, front.0, "/a", &traceparent(CAME_IN));
    host.read(shop, front.1);
    for (n, headers) in calls.iter().enumerate() {
        host.request_with(shop, back.0, &format!("/b{n}"), headers);
        host.read(stock, back.1);
        host.answers(shop, back, stock);
    }
    host.answers(NOBODY, front, shop);
    host
}

#[test]
fn a_call_is_kept_below_the_programs_own_span() {
    let host = program(&[traceparent(MADE)]);
    let (spans, suppressed) = run(&host, SdkSpans::Keep);
    assert_eq!(
        (lines(&spans), suppressed),
        (
            vec![
                format!("shop server /a < {CAME_IN} (header)"),
                format!("shop client /b0 < {MADE} (header)"),
                "stock server /b0 < shop client /b0 (tcp-sequence)".to_owned(),
            ],
            0
        )
    );
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE));
}

#[test]
fn a_call_that_is_left_out_leaves_its_place_to_the_programs_own_span() {
    let host = program(&[traceparent(MADE), traceparent(MADE_TOO)]);
    let (spans, suppressed) = run(&host, SdkSpans::Suppress);
    assert_eq!(
        (lines(&spans), suppressed),
        (
            vec![
                format!("shop server /a < {CAME_IN} (header)"),
                format!("stock server /b0 < {MADE} (tcp-sequence)"),
                format!("stock server /b1 < {MADE_TOO} (tcp-sequence)"),
            ],
            2
        )
    );
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE));
    assert!(spans.iter().all(|span| span.parent.unwrap().remote));
}

/// The receiver is understood before or after the call.
#[test]
fn the_receiver_may_be_known_first() {
    let mut host = program(&[traceparent(MADE)]);
    let at = host.events.iter().rposition(|event| matches!(event, Event::ConnOpened(_))).unwrap();
    let mut times: Vec<_> = host.events[at + 1..].iter().map(Event::time).collect();
    // Call sent, call read: the other way round.
    times.swap(1, 2);
    for (event, time) in host.events[at + 1..].iter_mut().zip(times) {
        if let Event::DataMoved(moved) = event {
            moved.time = time;
        }
    }
    let (spans, suppressed) = run(&host, SdkSpans::Suppress);
    assert_eq!(suppressed, 1);
    assert!(
        lines(&spans).contains(&format!("stock server /b0 < {MADE} (tcp-sequence)")),
        "{:?}",
        lines(&spans)
    );
}

#[test]
fn what_is_not_the_span_of_one_call_is_never_left_out() {
    // An id that came in, two calls below one span, a request id only, no header.
    for calls in [
        vec![traceparent(CAME_IN)],
        vec![traceparent(MADE), traceparent(MADE)],
        vec!["X-Request-Id: 7f9c24e8-3b12-4fef-91e0-3c5d2a1b6f07\r\n".to_owned()],
        vec![String::new()],
    ] {
        let host = program(&calls);
        let (spans, suppressed) = run(&host, SdkSpans::Suppress);
        assert_eq!(suppressed, 0, "{calls:?}: {:?}", lines(&spans));
        assert_eq!(spans.len(), 1 + 2 * calls.len());
    }
}

#[test]
fn after_a_loss_nothing_is_left_out() {
    let mut host = program(&[]);
    let lost = Event::LossCounted { time: host.clock, loss: KernelLoss::DataRingFull, count: 1 };
    host.events.push(lost);
    let (shop, stock) = (T { process: 100, tid: 100 }, T { process: 200, tid: 200 });
    let back = host.connect(Some(shop), Some(stock));
    host.request_with(shop, back.0, "/b", &traceparent(MADE));
    host.read(stock, back.1);
    host.answers(shop, back, stock);
    let (spans, suppressed) = run(&host, SdkSpans::Suppress);
    assert_eq!(suppressed, 0, "{:?}", lines(&spans));
}
