//! Trace context in other headers than W3C's, and several of them together.

use tracer_core::EngineConfig;
use tracer_core::context::Propagators;
use tracer_core::span::{Span, Value};

use crate::host::{End, Host, T, lines, name, run, text};

const NOBODY: Option<T> = None;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

const W3C: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
const B3: &str = "b3: 4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1\r\n";
const B3_DENIED: &str =
    "X-B3-TraceId: 4bf92f3577b34da6a3ce929d0e0e4736\r\nX-B3-SpanId: 00f067aa0ba902b7\r\nX-B3-Sampled: 0\r\n";

fn asks(host: &mut Host, client: Option<T>, ends: (End, End), server: Option<T>, path: &str, header: &str) {
    host.request_with(client, ends.0, path, header);
    host.read(server, ends.1);
}

/// One request from outside with these headers.
fn request(headers: &str, config: EngineConfig) -> Span {
    let mut host = Host::new();
    let shop = host.process("shop");
    let front = host.connect(None, Some(shop));
    asks(&mut host, NOBODY, front, Some(shop), "/a", headers);
    host.answers(NOBODY, front, shop);
    let spans = run(&host.events, config, host.clock);
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    span.clone()
}

fn list<'s>(span: &'s Span, key: &str) -> &'s [String] {
    let found = span.attributes.iter().find(|(name, _)| *name == key);
    match found {
        Some((_, Value::StrArray(list))) => list,
        Some(other) => panic!("{other:?}"),
        None => &[],
    }
}

#[test]
fn each_format_names_the_parent_of_a_request_from_outside() {
    for (format, headers) in [
        ("b3", B3.to_owned()),
        ("b3multi", B3_DENIED.replace("Sampled: 0", "Sampled: 1")),
        ("jaeger", format!("uber-trace-id: {TRACE}%3Af067aa0ba902b7%3A0%3A1\r\n")),
        ("xray", format!("X-Amzn-Trace-Id: Root=1-{}-{};Parent={SPAN}\r\n", &TRACE[..8], &TRACE[8..])),
        ("gcp", format!("X-Cloud-Trace-Context: {TRACE}/67667974448284343;o=1\r\n")),
        ("elastic", W3C.replace("traceparent", "elastic-apm-traceparent")),
        ("ottrace", format!("ot-tracer-traceid: {TRACE}\r\not-tracer-spanid: {SPAN}\r\n")),
        (
            "datadog",
            "x-datadog-trace-id: 11803532876627986230\r\nx-datadog-parent-id: 67667974448284343\r\n\
             x-datadog-tags: _dd.p.tid=4bf92f3577b34da6\r\n"
                .to_owned(),
        ),
        ("opencensus", "grpc-trace-bin: AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE=\r\n".to_owned()),
    ] {
        let span = request(&headers, EngineConfig::default());
        assert_eq!(span.trace_id.to_string(), TRACE, "{format}");
        let parent = span.parent.unwrap();
        assert_eq!(parent.span_id.to_string(), SPAN, "{format}");
        assert!(parent.remote && span.sampled, "{format}");
        assert_eq!(text(&span, "tracer.parent.evidence"), Some("header"), "{format}");
        assert_eq!(text(&span, "tracer.context.format"), Some(format));
        assert_eq!(list(&span, "tracer.context.conflicts"), [""; 0], "{format}");
    }
}

#[test]
fn not_sampled_is_respected_in_the_whole_subtree() {
    for header in [B3_DENIED, "b3: 0\r\n", "x-datadog-sampling-priority: -1\r\n"] {
        let mut host = Host::new();
        let (app, shop, cart) = (host.process("app"), host.process("shop"), host.process("cart"));
        let front = host.connect(Some(app), Some(shop));
        let back = host.connect(Some(shop), Some(cart));
        asks(&mut host, Some(app), front, Some(shop), "/a", header);
        host.asks(shop, back, cart, "/b");
        host.answers(shop, back, cart);
        host.answers(app, front, shop);
        let spans = host.spans();
        assert_eq!(spans.len(), 4);
        for span in &spans {
            assert!(!span.sampled, "{header} {}", name(span));
            assert_eq!(span.trace_id, spans[0].trace_id, "{header}");
        }
    }
    let sampled = request("b3: 1\r\n", EngineConfig::default());
    assert!(sampled.sampled && sampled.parent.is_none());
}

/// As with W3C's: the id is an ancestor's, the trace is the same. Whatever of it the proxy hands on.
#[test]
fn ids_that_pass_through_name_an_ancestor() {
    let both = format!("{W3C}b3: {TRACE}-e457b5a2e4d86bd1-1\r\n");
    let other = &both[W3C.len()..];
    for (brought, handed_on, parent) in
        [(B3, B3, SPAN), (B3, W3C, SPAN), (both.as_str(), other, SPAN), (both.as_str(), W3C, SPAN)]
    {
        let mut host = Host::new();
        let (nginx, shop) = (host.nginx("nginx"), host.process("shop"));
        let front = host.connect(None, Some(nginx));
        let back = host.connect(Some(nginx), Some(shop));
        asks(&mut host, NOBODY, front, Some(nginx), "/a", brought);
        asks(&mut host, Some(nginx), back, Some(shop), "/b", handed_on);
        host.waits(nginx);
        host.answers(nginx, back, shop);
        host.answers(NOBODY, front, nginx);
        let want = [
            &*format!("nginx server /a < {parent} (header)"),
            "nginx client /b < nginx server /a (response-window)",
            "shop server /b < nginx client /b (tcp-sequence)",
        ];
        assert_eq!(host.lines(), want, "{brought} {handed_on}");
        assert!(host.spans().iter().all(|span| span.trace_id.to_string() == TRACE));
    }
}

/// And where the proxy's own call was not seen, the service's request is not the outside caller's.
#[test]
fn a_pass_through_in_another_format_is_no_parent() {
    let mut host = Host::new();
    let (proxy, shop) = (host.process("proxy"), host.process("shop"));
    let front = host.connect(None, Some(proxy));
    let back = host.connect(None, Some(shop));
    let both = format!("{W3C}b3: {TRACE}-e457b5a2e4d86bd1-1\r\n");
    asks(&mut host, NOBODY, front, Some(proxy), "/a", &both);
    asks(&mut host, NOBODY, back, Some(shop), "/b", &both[W3C.len()..]);
    host.answers(NOBODY, back, shop);
    host.answers(NOBODY, front, proxy);
    assert_eq!(
        host.lines(),
        [&*format!("proxy server /a < {SPAN} (header)"), "shop server /b - header-passed-through"]
    );
}

#[test]
fn the_configured_order_decides_and_the_rest_is_told() {
    let headers = format!("{W3C}b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0\r\n");
    let span = request(&headers, EngineConfig::default());
    assert_eq!(span.trace_id.to_string(), TRACE);
    assert!(span.sampled);
    let told = ["b3=80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0"];
    assert_eq!(list(&span, "tracer.context.conflicts"), told);

    let with = |list: &str| EngineConfig {
        propagators: Propagators::parse(list).unwrap(),
        ..EngineConfig::default()
    };
    let span = request(&headers, with("b3,tracecontext"));
    assert_eq!(span.trace_id.to_string(), "80f198ee56343ba864fe8b2a57d3eff7");
    assert_eq!(span.parent.unwrap().span_id.to_string(), "e457b5a2e4d86bd1");
    assert!(!span.sampled);
    assert_eq!(list(&span, "tracer.context.conflicts"), [format!("tracecontext={TRACE}-{SPAN}-1")]);

    let span = request(&headers, with("none"));
    assert_eq!((span.parent, text(&span, "tracer.context.format")), (None, None));
    assert_ne!(span.trace_id.to_string(), TRACE);
}

#[test]
fn a_header_that_is_not_valid_is_told_and_counts_as_absent() {
    let span = request(&format!("traceparent: 00-{TRACE}-{SPAN}-1\r\n{B3}"), EngineConfig::default());
    assert_eq!(text(&span, "tracer.context.format"), Some("b3"));
    assert_eq!(list(&span, "tracer.context.refused"), ["tracecontext"]);
    let span = request(&format!("{W3C}{W3C}"), EngineConfig::default());
    assert_eq!(span.parent, None);
    assert_eq!(list(&span, "tracer.context.refused"), ["tracecontext"]);
}

/// A load balancer began the trace and has no span of it.
#[test]
fn a_trace_without_a_span_makes_a_root_of_that_trace() {
    let root = format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &TRACE[..8], &TRACE[8..]);
    let mut host = Host::new();
    let shop = host.process("shop");
    let front = host.connect(None, Some(shop));
    let back = host.connect(Some(shop), None);
    asks(&mut host, NOBODY, front, Some(shop), "/a", &root);
    asks(&mut host, Some(shop), back, NOBODY, "/b", &root);
    host.answers(shop, back, NOBODY);
    host.answers(NOBODY, front, shop);
    let spans = host.spans();
    assert!(spans.iter().all(|span| span.trace_id.to_string() == TRACE), "{:?}", lines(&spans));
    assert!(spans.iter().all(|span| span.parent.is_none_or(|parent| !parent.remote)), "{:?}", lines(&spans));
}

/// The thread's request and its call carry one trace, each in the format that it has.
#[test]
fn one_trace_in_two_formats_is_no_contradiction() {
    let datadog = "x-datadog-trace-id: 11803532876627986230\r\nx-datadog-parent-id: 67667974448284343\r\n";
    for (call, contradicts) in
        [(datadog, false), ("b3: 80f198ee56343ba864fe8b2a57d3eff7-f067aa0ba902b70a-1\r\n", true)]
    {
        let mut host = Host::new();
        let shop = host.process("shop");
        let (front, other) = (host.connect(None, Some(shop)), host.connect(None, Some(shop)));
        let back = host.connect(Some(shop), None);
        // Brings the call's ids in before, so that the header names an ancestor and the thread decides.
        let reader = host.thread(shop, 1);
        asks(&mut host, NOBODY, other, Some(reader), "/other", call);
        host.answers(NOBODY, other, reader);
        asks(&mut host, NOBODY, front, Some(shop), "/a", W3C);
        asks(&mut host, Some(shop), back, NOBODY, "/b", call);
        host.answers(shop, back, NOBODY);
        host.answers(NOBODY, front, shop);
        let contradicted = host.lines().contains(&"shop client /b - contradiction".to_owned());
        assert_eq!(contradicted, contradicts, "{call}: {:?}", host.lines());
    }
}

#[test]
fn sky_walking_is_an_attribute_and_never_a_parent() {
    let header = "sw8: 1-YS4xLjI=-Yi4xLjI=-3-c2hvcA==-aQ==-L2E=-cA==\r\n";
    let span = request(header, EngineConfig::default());
    assert_eq!((span.parent, span.links.len()), (None, 0));
    assert_eq!(text(&span, "tracer.context.sw8.trace_id"), Some("a.1.2"));
    assert_eq!(text(&span, "tracer.context.sw8.segment_id"), Some("b.1.2"));
    assert!(span.attributes.iter().any(|found| *found == ("tracer.context.sw8.span_id", Value::Int(3))));
    let denied = request(&header.replace(" 1-", " 0-"), EngineConfig::default());
    assert!(!denied.sampled);
}

#[test]
fn only_the_baggage_that_is_asked_for_is_kept_and_no_request_id() {
    let headers = "baggage: tenant=acme%20inc;ttl=1,secret=hunter2\r\nX-Request-Id: hunter2\r\n";
    let propagators = Propagators::default().with_baggage_keys("tenant").unwrap();
    let span = request(headers, EngineConfig { propagators, ..EngineConfig::default() });
    assert_eq!(text(&span, "baggage.tenant"), Some("acme inc"));
    assert!(!format!("{span:?}").contains("hunter2"));
    let span = request(headers, EngineConfig::default());
    assert!(!format!("{span:?}").contains("acme"));
}
