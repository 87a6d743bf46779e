//! Traces that programs start for requests that brought none.

use std::time::Duration;

use tracer_abi::error::KernelLoss;
use tracer_core::event::Event;
use tracer_core::span::{Span, SpanKind};
use tracer_core::{Engine, EngineConfig, SdkSpans};

use crate::host::{Host, T, lines, name, run};

const NOBODY: Option<T> = None;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER: &str = "0af7651916cd43dd8448eb211c80319c";
const SPANS: [&str; 3] = ["e457b5a2e4d86bd1", "05e3ac9a4f6e3b90", "b7ad6b7169203331"];

fn traceparent(trace: &str, span: &str) -> String {
    format!("traceparent: 00-{trace}-{span}-01\r\n")
}

/// `curl` asks `shop`, which calls `stock` with each of these headers.
struct Shop {
    host: Host,
    curl: T,
    shop: T,
    stock: T,
    front: (crate::host::End, crate::host::End),
    back: (crate::host::End, crate::host::End),
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let (curl, shop, stock) = (host.process("curl"), host.process("shop"), host.process("stock"));
        let front = host.connect(Some(curl), Some(shop));
        let back = host.connect(Some(shop), Some(stock));
        Self { host, curl, shop, stock, front, back }
    }

    fn call(&mut self, path: &str, headers: &str) {
        self.host.request_with(self.shop, self.back.0, path, headers);
        self.host.read(self.stock, self.back.1);
        self.host.answers(self.shop, self.back, self.stock);
    }

    fn served(brought: &str, calls: &[String]) -> Self {
        let mut shop = Self::new();
        shop.host.request_with(shop.curl, shop.front.0, "/a", brought);
        shop.host.read(shop.shop, shop.front.1);
        for (n, headers) in calls.iter().enumerate() {
            shop.call(&format!("/b{n}"), headers);
        }
        shop.host.answers(shop.curl, shop.front, shop.shop);
        shop
    }
}

fn trace_of(spans: &[Span], wanted: &str) -> String {
    let span = spans.iter().find(|span| name(span) == wanted);
    span.unwrap_or_else(|| panic!("{wanted}: {:?}", lines(spans))).trace_id.to_string()
}

#[test]
fn a_request_is_of_the_trace_that_its_program_starts() {
    let shop = Shop::served("", &[traceparent(TRACE, SPANS[0]), traceparent(TRACE, SPANS[1])]);
    let spans = shop.host.spans();
    assert_eq!(
        lines(&spans),
        [
            "curl client /a".to_owned(),
            "shop server /a < curl client /a (tcp-sequence)".to_owned(),
            format!("shop client /b0 < {} (header)", SPANS[0]),
            "stock server /b0 < shop client /b0 (tcp-sequence)".to_owned(),
            format!("shop client /b1 < {} (header)", SPANS[1]),
            "stock server /b1 < shop client /b1 (tcp-sequence)".to_owned(),
        ]
    );
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE), "{spans:?}");
    assert!(spans.iter().all(|span| span.sampled && span.trace_state.is_none()));
}

/// The client's span waits, too, and no longer than the losses before the call need to be known.
#[test]
fn what_is_above_waits_for_it() {
    let shop = Shop::served("", &[traceparent(TRACE, SPANS[0])]);
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    for event in &shop.host.events {
        engine.handle_event(event.clone());
    }
    engine.handle_timeout(shop.host.clock.plus(Duration::from_millis(300)));
    assert!(engine.poll_span().is_none());
    engine.handle_timeout(shop.host.clock.plus(Duration::from_millis(600)));
    let spans: Vec<Span> = std::iter::from_fn(|| engine.poll_span()).collect();
    assert_eq!((spans.len(), trace_of(&spans, "curl client /a").as_str()), (4, TRACE));
}

#[test]
fn the_trace_is_one_where_the_programs_spans_replace_those_made_here() {
    let shop = Shop::served("", &[traceparent(TRACE, SPANS[0])]);
    let config = EngineConfig { sdk_spans: SdkSpans::Suppress, ..EngineConfig::default() };
    let mut engine = Engine::new(config, [1; 32]);
    for event in &shop.host.events {
        engine.handle_event(event.clone());
    }
    engine.finish(shop.host.clock.plus(Duration::from_secs(1)));
    let spans: Vec<Span> = std::iter::from_fn(|| engine.poll_span()).collect();
    assert_eq!(
        lines(&spans),
        [
            "curl client /a".to_owned(),
            "shop server /a < curl client /a (tcp-sequence)".to_owned(),
            format!("stock server /b0 < {} (tcp-sequence)", SPANS[0]),
        ]
    );
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE));
}

/// The request keeps a trace of its own: its calls' traces are these.
#[track_caller]
fn stays_apart(host: &Host, calls: &[(&str, &str)]) {
    let spans = host.spans();
    let own = trace_of(&spans, "shop server /a");
    assert!(calls.iter().all(|(_, trace)| *trace != own), "{own}: {:?}", lines(&spans));
    assert_eq!(trace_of(&spans, "curl client /a"), own, "{:?}", lines(&spans));
    for (call, trace) in calls {
        assert_eq!(trace_of(&spans, call), *trace, "{:?}", lines(&spans));
    }
}

#[test]
fn a_program_that_starts_a_trace_for_every_call_has_none_for_the_request() {
    let shop = Shop::served("", &[traceparent(TRACE, SPANS[0]), traceparent(OTHER, SPANS[1])]);
    stays_apart(&shop.host, &[("shop client /b0", TRACE), ("shop client /b1", OTHER)]);
}

#[test]
fn a_trace_that_is_not_recorded_is_not_joined() {
    let unsampled = format!("traceparent: 00-{TRACE}-{}-00\r\n", SPANS[0]);
    let shop = Shop::served("", &[unsampled]);
    stays_apart(&shop.host, &[("shop client /b0", TRACE)]);
    assert!(shop.host.spans().iter().any(|span| span.sampled && span.kind == SpanKind::Server));
}

/// Another request had brought the trace: what continues it on this thread does not make it this request's.
#[test]
fn a_trace_that_came_in_before_is_not_the_requests() {
    let mut shop = Shop::new();
    let other = shop.host.connect(NOBODY, Some(shop.stock));
    shop.host.request_with(NOBODY, other.0, "/queue", &traceparent(TRACE, SPANS[2]));
    shop.host.read(shop.stock, other.1);
    shop.host.answers(NOBODY, other, shop.stock);
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.call("/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.answers(shop.curl, shop.front, shop.shop);
    stays_apart(&shop.host, &[("shop client /b0", TRACE)]);
}

/// The trace comes back before it goes out again: it started here all the same.
#[test]
fn a_trace_that_comes_back_was_started_here() {
    let mut shop = Shop::new();
    let again = shop.host.connect(Some(shop.stock), Some(shop.shop));
    let worker = shop.host.thread(shop.shop, 1);
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.host.request_with(shop.shop, shop.back.0, "/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.read(shop.stock, shop.back.1);
    shop.host.request_with(shop.stock, again.0, "/again", &traceparent(TRACE, SPANS[1]));
    shop.host.read(worker, again.1);
    shop.host.answers(shop.stock, again, worker);
    shop.host.answers(shop.shop, shop.back, shop.stock);
    shop.call("/b1", &traceparent(TRACE, SPANS[2]));
    shop.host.answers(shop.curl, shop.front, shop.shop);
    let spans = shop.host.spans();
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE), "{:?}", lines(&spans));
}

#[test]
fn what_is_not_certain_joins_nothing() {
    // An event loop.
    let mut shop = Shop::new();
    shop.host.nonblocking(shop.front.1);
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.call("/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.answers(shop.curl, shop.front, shop.shop);
    stays_apart(&shop.host, &[("shop client /b0", TRACE)]);
    // Another thread.
    let mut shop = Shop::new();
    let worker = shop.host.thread(shop.shop, 1);
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.host.request_with(worker, shop.back.0, "/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.read(shop.stock, shop.back.1);
    shop.host.answers(worker, shop.back, shop.stock);
    shop.host.answers(shop.curl, shop.front, shop.shop);
    stays_apart(&shop.host, &[("shop client /b0", TRACE)]);
    // A loss.
    let mut shop = Shop::new();
    let lost = Event::LossCounted { time: shop.host.clock, loss: KernelLoss::DataRingFull, count: 1 };
    shop.host.events.push(lost);
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.call("/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.answers(shop.curl, shop.front, shop.shop);
    stays_apart(&shop.host, &[("shop client /b0", TRACE)]);
}

#[test]
fn a_request_that_brought_a_trace_keeps_it() {
    let shop = Shop::served(&traceparent(OTHER, SPANS[2]), &[traceparent(TRACE, SPANS[0])]);
    let spans = shop.host.spans();
    assert_eq!(trace_of(&spans, "shop server /a"), OTHER);
    assert_eq!(trace_of(&spans, "shop client /b0"), TRACE);
}

/// nginx with a module that traces: the window shows whose call it is.
#[test]
fn a_proxy_that_starts_the_trace() {
    let mut host = Host::new();
    let (proxy, stock) = (host.nginx("proxy"), host.process("stock"));
    let front = host.connect(NOBODY, Some(proxy));
    let back = host.connect(Some(proxy), Some(stock));
    host.nonblocking(front.1);
    host.asks(NOBODY, front, proxy, "/a");
    host.request_with(proxy, back.0, "/b", &traceparent(TRACE, SPANS[0]));
    host.waits(proxy);
    host.read(stock, back.1);
    host.answers(proxy, back, stock);
    host.answers(NOBODY, front, proxy);
    let spans = host.spans();
    assert_eq!(trace_of(&spans, "proxy server /a"), TRACE, "{:?}", lines(&spans));
}

/// A call that is never answered is not waited for beyond the deadline.
#[test]
fn nobody_waits_for_ever() {
    let mut shop = Shop::new();
    shop.host.asks(shop.curl, shop.front, shop.shop, "/a");
    shop.host.request_with(shop.shop, shop.back.0, "/b0", &traceparent(TRACE, SPANS[0]));
    shop.host.answers(shop.curl, shop.front, shop.shop);
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    for event in &shop.host.events {
        engine.handle_event(event.clone());
    }
    engine.handle_timeout(shop.host.clock.plus(Duration::from_secs(11)));
    let mut left: Vec<String> = std::iter::from_fn(|| engine.poll_span()).map(|span| name(&span)).collect();
    left.sort();
    assert_eq!(left, ["curl client /a", "shop server /a"]);
}

/// Whatever is lost, a request is of the trace that its own calls carry or of none that is known.
#[test]
fn no_loss_puts_a_request_into_another_trace() {
    let shop = Shop::served("", &[traceparent(TRACE, SPANS[0]), traceparent(OTHER, SPANS[1])]);
    for lost in 0..shop.host.events.len() {
        let mut events = shop.host.events.clone();
        let time = events[lost].time().plus(Duration::from_millis(250));
        events.remove(lost);
        events.push(Event::LossCounted { time, loss: KernelLoss::DataRingFull, count: 1 });
        let spans = run(&events, EngineConfig::default(), shop.host.clock.plus(Duration::from_secs(1)));
        for span in spans.iter().filter(|span| name(span) == "shop server /a") {
            let trace = span.trace_id.to_string();
            assert!(trace != TRACE && trace != OTHER, "without event {lost}: {:?}", lines(&spans));
        }
    }
}
