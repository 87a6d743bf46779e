//! The exporter against a strict receiver that misbehaves.

use ::http::{HeaderName, HeaderValue};
use tracer_core::span::{Evidence, Span, Value};
use tracer_tests::sink::{Options, Reply, Sink};

use super::super::config::{ExportConfig, Pace};
use super::super::testing::{EPOCH, span};
use super::super::{ExportHandle, ExportStats, start_with};
use super::reference::Reference;
use super::*;
use crate::cli::Format;
use crate::clock::WallClock;
use crate::config::otel::Compression;

/// `hex` is the message for this span, and nothing else.
pub(in super::super) fn check_hex(hex: &str, span: Span, host: &[(String, Value)], clock: WallClock) {
    use prost::Message as _;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let mut expected = Reference { clock, host: host.into() }.request(&[Arc::new(span)]);
    for span in expected.resource_spans.iter_mut().flat_map(|group| &mut group.scope_spans[0].spans) {
        // The reader makes no difference between no status and an unset one.
        span.status.get_or_insert_default();
    }
    let read =
        opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(&bytes[..]);
    assert_eq!(read.unwrap(), expected);
}

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
/// For what must happen.
const LONG: Duration = Duration::from_secs(20);
const FAST: Backoff = Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(100) };

fn otlp(endpoint: &str, protocol: Protocol) -> Otlp {
    let path = match protocol {
        Protocol::Grpc => "/",
        Protocol::HttpProtobuf => "/v1/traces",
    };
    Otlp {
        endpoint: format!("{endpoint}{path}").parse().unwrap(),
        protocol,
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        compression: Compression::None,
        certificate: None,
        batch: BatchLimits { schedule_delay: Duration::from_millis(20), ..BatchLimits::default() },
    }
}

fn start(otlp: Otlp) -> ExportHandle {
    let config = ExportConfig {
        format: Format::None,
        output: None,
        otlp: Some(otlp),
        host_attributes: vec![("host.name".to_owned(), Value::from("box"))],
        pace: Pace::Live,
    };
    start_with(config, WallClock::from_offset_nanos(EPOCH), FAST).unwrap()
}

/// `count` spans of three services with different ids.
fn push(export: &mut ExportHandle, count: u8) {
    let services =
        [("shop", 1), ("stock", 2), ("price", 3)].map(|(name, pid)| span(1, 1).service(name, pid).build());
    for n in 1..=count {
        let mut span = span(n, n).build();
        span.resource = Arc::clone(&services[usize::from(n) % 3].resource);
        export.push(span);
    }
}

/// Counts of the only destination.
fn counts(stats: &ExportStats) -> [u64; 5] {
    let stats = &stats.destinations[0];
    [stats.delivered, stats.refused, stats.rejected, stats.failed, stats.unsent]
}

/// Sends 10 spans to a receiver that follows `script`, and returns what became of them, the receiver, and how often
/// something was sent again.
async fn scripted(protocol: Protocol, script: Vec<Reply>) -> (ExportStats, Sink) {
    let sink = Sink::start(Options::default()).unwrap();
    sink.script(script);
    let mut otlp = otlp(&sink.endpoint(), protocol);
    otlp.timeout = Duration::from_millis(300);
    let mut export = start(otlp);
    push(&mut export, 10);
    let stats = export.shutdown(LONG).await;
    assert_eq!(sink.violations(), Vec::<String>::new(), "{protocol:?}");
    (stats, sink)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_many_services_share_a_connection() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        let mut otlp = otlp(&sink.endpoint(), protocol);
        otlp.batch.max_batch = 20;
        let mut export = start(otlp);
        push(&mut export, 250);
        let stats = export.shutdown(LONG).await;
        assert_eq!(counts(&stats), [250, 0, 0, 0, 0]);
        let spans = sink.wait_for_spans(250, LONG).unwrap();
        let requests = sink.requests();
        assert_eq!((requests.len(), sink.connections()), (13, 1), "{protocol:?}");
        assert!(
            requests
                .iter()
                .all(|request| request.resources == 3 && request.grpc == (protocol == Protocol::Grpc))
        );
        let names =
            |text: &str| spans.iter().filter(|(resource, _)| format!("{resource:?}").contains(text)).count();
        assert_eq!([names("\"shop\""), names("\"stock\""), names("\"box\"")], [83, 84, 250]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_compression_are_as_configured() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        for compression in [Compression::None, Compression::Gzip] {
            let mut otlp = otlp(&sink.endpoint(), protocol);
            otlp.headers = vec![(HeaderName::from_static("x-key"), HeaderValue::from_static("a b"))];
            otlp.compression = compression;
            let mut export = start(otlp);
            for n in 1..=100 {
                let trace = if compression == Compression::Gzip { 1 } else { 2 };
                export.push(span(trace, n).parent(101, Evidence::Thread).build());
            }
            assert_eq!(counts(&export.shutdown(LONG).await), [100, 0, 0, 0, 0]);
        }
        sink.wait_for_spans(200, LONG).unwrap();
        let requests = sink.requests();
        let encoding = if protocol == Protocol::Grpc { "grpc-encoding" } else { "content-encoding" };
        assert_eq!((requests[0].header(encoding), requests[1].header(encoding)), (None, Some("gzip")));
        assert!(requests[1].body_len * 4 < requests[0].body_len, "{requests:?}");
        assert!(requests.iter().all(|request| request.header("x-key") == Some("a b")));
        assert!(requests.iter().all(|request| request.header("user-agent").unwrap().starts_with(USER_AGENT)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_or_broken_receiver_gets_the_same_batch_again() {
    let fail = |http, grpc| Reply::Fail { http, grpc, message: "not now".to_owned() };
    for script in [
        vec![fail(503, tonic::Code::Unavailable), fail(502, tonic::Code::Aborted)],
        vec![Reply::Die, Reply::DieMidway],
        vec![Reply::Hang],
        vec![Reply::Slow(Duration::from_millis(100))],
    ] {
        for protocol in BOTH {
            let (stats, sink) = scripted(protocol, script.clone()).await;
            assert_eq!(counts(&stats), [10, 0, 0, 0, 0], "{protocol:?} {script:?} {stats:?}");
            let again = script.iter().filter(|reply| !matches!(reply, Reply::Slow(_))).count();
            assert_eq!(stats.destinations[0].retries, again as u64, "{protocol:?} {script:?}");
            assert_eq!(sink.requests().len(), again + 1);
            assert_eq!(sink.spans().len(), 10);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttling_receiver_is_not_hurried() {
    for protocol in BOTH {
        let (stats, sink) = scripted(protocol, vec![Reply::Throttle(Duration::from_secs(1))]).await;
        assert_eq!(counts(&stats), [10, 0, 0, 0, 0]);
        let requests = sink.requests();
        let waited = requests[1].at - requests[0].at;
        assert!((1.0..1.9).contains(&waited.as_secs_f64()), "{protocol:?}: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_throttle_that_outlasts_its_batch_the_next_one_waits_too() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        sink.script([Reply::Throttle(Duration::from_secs(2))]);
        let mut otlp = otlp(&sink.endpoint(), protocol);
        otlp.batch.export_timeout = Duration::from_millis(500);
        let mut export = start(otlp);
        push(&mut export, 10);
        sink.wait_for_requests(1, LONG).unwrap();
        export.push(span(77, 77).build());
        assert_eq!(counts(&export.shutdown(LONG).await), [1, 0, 0, 10, 0], "{protocol:?}");
        let requests = sink.requests();
        assert!(requests[1].at - requests[0].at >= Duration::from_secs(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_final_for_its_batch_only() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        let message = "no such tenant".to_owned();
        sink.script([Reply::Fail { http: 403, grpc: tonic::Code::PermissionDenied, message }]);
        let mut export = start(otlp(&sink.endpoint(), protocol));
        push(&mut export, 10);
        sink.wait_for_requests(1, LONG).unwrap();
        // The next batch.
        export.push(span(77, 77).build());
        let stats = export.shutdown(LONG).await;
        assert_eq!((counts(&stats), stats.destinations[0].retries), ([1, 0, 0, 10, 0], 0), "{protocol:?}");
        assert!(stats.destinations[0].error.as_ref().unwrap().ends_with(": no such tenant"), "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_spans_are_counted() {
    for (said, rejected) in [(4, 4), (0, 0), (-3, 0), (99, 10)] {
        for protocol in BOTH {
            let partial = Reply::Partial { rejected: said, message: "too old".to_owned() };
            let (stats, _) = scripted(protocol, vec![partial]).await;
            assert_eq!(counts(&stats), [10 - rejected, 0, rejected, 0, 0], "{protocol:?} {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_stays_busy_costs_the_batch_after_its_time() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        let busy = Reply::Fail { http: 504, grpc: tonic::Code::DataLoss, message: String::new() };
        sink.script(vec![busy; 1000]);
        let mut otlp = otlp(&sink.endpoint(), protocol);
        otlp.batch.export_timeout = Duration::from_millis(600);
        let mut export = start(otlp);
        push(&mut export, 10);
        let stats = export.shutdown(LONG).await;
        assert_eq!(counts(&stats), [0, 0, 0, 10, 0]);
        let requests = sink.requests();
        let tried = requests[requests.len() - 1].at - requests[0].at;
        assert!(requests.len() > 4 && tried < Duration::from_millis(700), "{} in {tried:?}", requests.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_costs_what_the_queue_cannot_hold() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        sink.script(vec![Reply::Slow(Duration::from_millis(300)); 4]);
        let mut otlp = otlp(&sink.endpoint(), protocol);
        (otlp.batch.max_queue, otlp.batch.max_batch) = (40, 20);
        let mut export = start(otlp);
        push(&mut export, 20);
        sink.wait_for_requests(1, LONG).unwrap();
        for n in 21..=160 {
            export.push(span(n, n).build());
        }
        let stats = export.shutdown(LONG).await;
        assert_eq!(counts(&stats), [60, 100, 0, 0, 0], "{protocol:?}");
        assert_eq!(sink.wait_for_spans(60, LONG).unwrap().len(), 60);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_blocks_nobody_and_is_used_again_when_it_comes() {
    for protocol in BOTH {
        let port = Sink::start(Options::default()).unwrap().port();
        let mut export = start(otlp(&format!("http://127.0.0.1:{port}"), protocol));
        push(&mut export, 10);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(counts(&export.stats()), [0, 0, 0, 0, 10]);
        let sink = Sink::start(Options { port, tls: false }).unwrap();
        sink.wait_for_spans(10, LONG).unwrap();
        // It has them before it has said so.
        let began = Instant::now();
        while counts(&export.stats())[0] < 10 && began.elapsed() < LONG {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(sink);

        // It dies again, for good.
        push(&mut export, 100);
        let began = Instant::now();
        let stats = export.shutdown(LONG).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(counts(&stats), [10, 0, 0, 100, 0], "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shutdown_has_a_deadline() {
    for protocol in BOTH {
        let sink = Sink::start(Options::default()).unwrap();
        sink.script([Reply::Hang]);
        let mut export = start(otlp(&sink.endpoint(), protocol));
        push(&mut export, 10);
        let began = Instant::now();
        let stats = export.shutdown(Duration::from_millis(400)).await;
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        assert_eq!(counts(&stats), [0, 0, 0, 0, 10], "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_used_and_the_receiver_verified() {
    for protocol in BOTH {
        let sink = Sink::start(Options { port: 0, tls: true }).unwrap();
        let mut trusted = otlp(&sink.endpoint(), protocol);
        trusted.certificate = sink.certificate().map(Into::into);
        let mut export = start(trusted);
        push(&mut export, 10);
        assert_eq!(counts(&export.shutdown(LONG).await), [10, 0, 0, 0, 0], "{protocol:?}");
        sink.wait_for_spans(10, LONG).unwrap();

        let stranger = Sink::start(Options { port: 0, tls: true }).unwrap();
        let mut untrusted = otlp(&sink.endpoint(), protocol);
        untrusted.certificate = stranger.certificate().map(Into::into);
        let mut export = start(untrusted);
        push(&mut export, 10);
        let stats = export.shutdown(LONG).await;
        assert_eq!(counts(&stats), [0, 0, 0, 10, 0], "{protocol:?}");
        let error = stats.destinations[0].error.as_ref().unwrap();
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(sink.spans().len(), 10);
    }
}

#[test]
fn delays_double_up_to_the_longest_and_differ() {
    let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
    for (attempt, longest) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (1000, 1000)] {
        let longest = Duration::from_millis(longest);
        let delays: Vec<_> = (0..50).map(|_| backoff.delay(attempt)).collect();
        assert!(delays.iter().all(|delay| (longest / 2..=longest).contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
