//! What others make of the spans: Jaeger's backend and the Collector's JSON reader.
//!
//! They need programs that take minutes to build, so they are left out of a plain `cargo test`: `cargo xtask test`
//! builds the programs and runs them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute::{HTTP_RESPONSE_STATUS_CODE, URL_FULL, URL_PATH};
use tracer_core::span::{Evidence, Link, Span, Status, Value};
use tracer_tests::jaeger::Jaeger;
use tracer_tests::spans::Kind;

use super::config::{BatchLimits, ExportConfig, Pace};
use super::testing::{EPOCH, span, span_id, trace_id};
use super::{otlp, otlp_json, start};
use crate::cli::{Format, Protocol};
use crate::clock::WallClock;
use crate::config::otel::{Compression, Otlp};

/// A trace through three services, with what can be difficult in spans.
fn trace(trace: u8) -> Vec<Span> {
    let mut root = span(trace, 1).client("http://shop:80/cart?x=REDACTED").service("curl", 1).build();
    root.trace_state = Some("vendor=a,other=b".to_owned());
    let mut server =
        span(trace, 2).parent(1, Evidence::TcpSequence).path("GET", "/ü\u{1b}[2J\u{202e}\"\\\n").build();
    server.links = vec![Link {
        trace_id: trace_id(99),
        span_id: span_id(98),
        attributes: vec![("why", Value::StrArray(vec!["a".to_owned(), String::new()]))],
    }];
    let mut call =
        span(trace, 3).parent(2, Evidence::Thread).client("http://db:1/").status(500).error("500").build();
    call.resource = Arc::clone(&server.resource);
    call.status = Status::Error { description: Some("why".to_owned()) };
    call.attributes.extend([
        ("big", Value::Int(i64::MIN)),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
    ]);
    let remote = span(trace, 4).remote_parent(77).service("db", 3).no_response().at_us(1, 3);
    vec![root, server, call, remote.build()]
}

#[test]
#[ignore = "needs the Collector's reader in TRACER_PDATA: cargo xtask test"]
fn the_collector_reads_the_json_as_it_reads_the_binary_form() {
    let pdata = std::env::var_os("TRACER_PDATA").expect("TRACER_PDATA names the program of tests/pdata");
    let clock = WallClock::from_offset_nanos(EPOCH);
    let host = [("host.name".to_owned(), Value::from("box"))];
    let spans = trace(1);
    let mut json = Vec::new();
    for span in &spans {
        otlp_json::write(span, &host, clock, &mut json).unwrap();
    }
    let mut reader = Command::new(pdata).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    reader.stdin.take().unwrap().write_all(&json).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success());
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!(read.lines().count(), spans.len());
    for (line, span) in read.lines().zip(spans) {
        otlp::tests::check_hex(line, span, &host, clock);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Jaeger in TRACER_JAEGER: cargo xtask test"]
async fn jaeger_gives_back_the_whole_trace() {
    let jaeger = Jaeger::start().unwrap();
    let cases = [
        (Protocol::Grpc, Compression::None, jaeger.grpc_endpoint(), 11),
        (Protocol::Grpc, Compression::Gzip, jaeger.grpc_endpoint(), 12),
        (Protocol::HttpProtobuf, Compression::None, jaeger.http_endpoint() + "/v1/traces", 13),
        (Protocol::HttpProtobuf, Compression::Gzip, jaeger.http_endpoint() + "/v1/traces", 14),
    ];
    for (protocol, compression, endpoint, number) in cases {
        let otlp = Otlp {
            endpoint: endpoint.parse().unwrap(),
            protocol,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            compression,
            certificate: None,
            batch: BatchLimits::default(),
        };
        let config = ExportConfig {
            format: Format::None,
            output: None,
            otlp: Some(otlp),
            host_attributes: Vec::new(),
            pace: Pace::Live,
        };
        let mut export = start(config, WallClock::from_offset_nanos(EPOCH)).unwrap();
        trace(number).into_iter().for_each(|span| export.push(span));
        let stats = export.shutdown(Duration::from_secs(20)).await;
        assert_eq!((stats.pushed, stats.lost()), (4, 0), "{stats:?}");

        let id = trace_id(number).to_string();
        let mut spans = jaeger.wait_for_trace(&id, 4, Duration::from_secs(20)).unwrap();
        spans.sort_by(|a, b| a.span_id.cmp(&b.span_id));
        let facts: Vec<_> = spans
            .iter()
            .map(|span| {
                (span.service(), span.kind, span.parent.clone().unwrap_or_default(), span.end - span.start)
            })
            .collect();
        let id = |n: u8| span_id(n).to_string();
        assert_eq!(
            facts,
            [
                ("curl", Kind::Client, String::new(), 1_000_000),
                ("shop", Kind::Server, id(1), 1_000_000),
                ("shop", Kind::Client, id(2), 1_000_000),
                ("db", Kind::Server, id(77), 2_000),
            ],
            "{protocol:?}"
        );
        assert_eq!(spans[0].str(URL_FULL), Some("http://shop:80/cart?x=REDACTED"));
        assert_eq!(spans[0].trace_state, "vendor=a,other=b");
        assert_eq!(spans[1].str(URL_PATH), Some("/ü\u{1b}[2J\u{202e}\"\\\n"));
        assert_eq!((spans[2].int(HTTP_RESPONSE_STATUS_CODE), spans[2].status), (Some(500), 2));
        assert_eq!((spans[2].int("big"), spans[3].flags), (Some(i64::MIN), 0x301));
    }
}
