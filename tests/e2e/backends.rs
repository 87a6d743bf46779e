//! Spans of real programs at real receivers: Jaeger, the strict sink, and one that is not there.

use std::collections::BTreeSet;
use std::time::Duration;

use tracer_tests::demo;
use tracer_tests::jaeger::{self, Jaeger};
use tracer_tests::program::free_port;
use tracer_tests::sink::{Options, Reply, Sink};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::{Report, Tracer};

const PATIENCE: Duration = Duration::from_secs(30);

/// Traces one request through the demonstration's programs, to a file and to `endpoint`.
fn trace_demo(options: &[&str]) -> Report {
    let mut demo = demo::start().expect("start the programs");
    let tracer = Tracer::attach_with(&demo.pids().expect("pids"), options).expect("attach");
    let answer = demo.ask().expect("ask");
    assert!(answer.contains("cups"), "{answer}");
    let report = tracer.finish().expect("tracer");
    assert!(report.spans.len() >= 8, "{:#?}\n{}", report.spans, report.log);
    report
}

type Fact = (String, String, Option<String>, Kind, String, u64, u64, Option<String>);

fn facts(spans: &[Span]) -> BTreeSet<Fact> {
    let fact = |span: &Span| {
        (
            span.trace_id.clone(),
            span.span_id.clone(),
            span.parent.clone(),
            span.kind,
            span.service().to_owned(),
            span.start,
            span.end,
            span.evidence().map(str::to_owned),
        )
    };
    spans.iter().map(fact).collect()
}

#[test]
fn jaeger_has_the_whole_trace() {
    if let Err(error) = jaeger::binary() {
        eprintln!("skipped: {error:#}");
        return;
    }
    let jaeger = Jaeger::start().expect("start Jaeger");
    for (protocol, endpoint) in [("grpc", jaeger.grpc_endpoint()), ("http/protobuf", jaeger.http_endpoint())]
    {
        let report = trace_demo(&["--otlp-endpoint", &endpoint, "--otlp-protocol", protocol]);
        let root = report.spans.iter().find(|span| span.service() == "curl").expect("curl's span");
        let whole: Vec<Span> =
            report.spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect();
        let services: BTreeSet<&str> = whole.iter().map(Span::service).collect();
        assert_eq!(services, BTreeSet::from(["curl", "nginx", "shop", "stock"]), "{}", report.log);
        let found = jaeger.wait_for_trace(&root.trace_id, whole.len(), PATIENCE).expect("Jaeger's answer");
        assert_eq!(facts(&found), facts(&whole), "{protocol}\n{}", report.log);
    }
}

#[test]
fn every_span_is_valid_and_arrives_once() {
    for protocol in ["grpc", "http/protobuf"] {
        let sink = Sink::start(Options::default()).expect("start the sink");
        // The first answer is lost, so that the first batch comes again.
        sink.script([Reply::Die]);
        let report = trace_demo(&["--otlp-endpoint", &sink.endpoint(), "--otlp-protocol", protocol]);
        let spans = sink.wait_for_spans(report.spans.len(), PATIENCE).expect("spans at the sink");
        let sent: BTreeSet<String> = spans
            .iter()
            .map(|(_, span)| span.span_id.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        let written: BTreeSet<String> = report.spans.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!((spans.len(), sent), (report.spans.len(), written), "{protocol}\n{}", report.log);
    }
}

#[test]
fn a_dead_endpoint_is_said_once_and_harms_nobody() {
    let endpoint = format!("http://127.0.0.1:{}", free_port().expect("a free port"));
    let report = trace_demo(&["--otlp-endpoint", &endpoint]);
    assert_eq!(report.log.matches("does not take spans").count(), 1, "{}", report.log);
    let lost = format!("lost {}", report.spans.len());
    assert!(report.log.contains(&lost), "{lost} is not in the summary:\n{}", report.log);
}
