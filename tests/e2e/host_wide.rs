//! `tracer attach --all`: every process of the machine. Runs only where the machine is the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use tracer_tests::demo;
use tracer_tests::load::Load;
use tracer_tests::program::Program;
use tracer_tests::scale;
use tracer_tests::score::Naming;
use tracer_tests::service::{Runtime, Service, workload};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::Tracer;

/// How many connections the kernel keeps in TIME_WAIT.
const CLOSED_CONNECTIONS: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// The tracer exports to a collector that it traces as well: exporting must not be traffic worth exporting.
#[test]
fn all_processes_but_never_the_tracer() {
    if std::env::var_os("TRACER_TESTS_OWN_MACHINE").is_none() {
        eprintln!(
            "skipped: traces every process, so it runs only in a virtual machine (TRACER_TESTS_OWN_MACHINE=1)"
        );
        return;
    }
    // A closed connection's port is free at once, for whoever wants it.
    let remembered = std::fs::read(CLOSED_CONNECTIONS).expect("how many are remembered");
    std::fs::write(CLOSED_CONNECTIONS, "0").expect("forget closed connections");
    let mut collector = Command::new("python3");
    collector.arg(workload("collector.py")).arg("--close");
    let collector = Service::from_command("collector", collector).expect("start the collector");
    let mut demo = demo::start().expect("start the programs");
    let options = [
        "--all",
        "--otlp-endpoint",
        &format!("http://{}", collector.addr),
        "--otlp-protocol",
        "http/protobuf",
    ];
    let tracer = Tracer::attach_to(&options.map(str::to_owned)).expect("attach");

    // No load, but an open collector: nothing.
    std::thread::sleep(Duration::from_secs(30));
    assert_eq!(tracer.spans_so_far().expect("spans").len(), 0, "spans of nothing");

    demo.ask().expect("ask");
    let taken = collector.program.wait_stdout("TAKEN /v1/traces", scale::time(Duration::from_secs(20)));
    let own_port: u16 = port(&taken.expect("an export"));
    // Were the exports traced, each would cause the next.
    std::thread::sleep(Duration::from_secs(10));
    let spans = tracer.spans_so_far().expect("spans");
    assert_chain(&spans);

    // A program that nobody named, started later; its caller, this test, is no less traced.
    let late = Service::start(Runtime::Python, None).expect("start a server");
    let count = scale::count(100);
    let load = Load { prefix: "late", concurrency: 4, count, naming: Naming::Same, reconnects: true };
    load.run(late.addr).expect("load");
    reuse(own_port, late.addr.port());
    std::fs::write(CLOSED_CONNECTIONS, remembered).expect("remember closed connections again");

    let report = tracer.finish().expect("tracer");
    assert!(report.spans.iter().all(|span| span.pid() != collector.pid()), "{:#?}", report.spans);
    assert_eq!(report.spans.len(), spans.len() + 2 * (count + 1), "{}", report.log);
    let clients: BTreeMap<&str, &Span> = report
        .spans
        .iter()
        .filter(|span| span.kind == Kind::Client && !spans.iter().any(|old| old.span_id == span.span_id))
        .map(|span| (span.span_id.as_str(), span))
        .collect();
    let served: Vec<&Span> =
        report.spans.iter().filter(|span| span.kind == Kind::Server && span.pid() == late.pid()).collect();
    assert_eq!((clients.len(), served.len()), (count + 1, count + 1), "{}", report.log);
    for span in served {
        let client = span.parent.as_deref().and_then(|parent| clients.get(parent));
        let client = client.unwrap_or_else(|| panic!("no client of {span:#?}"));
        assert_eq!(client.path(), span.path());
        let reused = span.path() == Some("/work/reused");
        assert_eq!(client.pid() == std::process::id(), !reused, "{client:#?}");
    }
}

/// `curl`, nginx twice, shop three times, stock twice, as one trace.
fn assert_chain(spans: &[Span]) {
    let services: Vec<&str> = spans.iter().map(Span::service).collect();
    assert_eq!(spans.len(), 8, "{services:?}");
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.trace_id.as_str()).collect();
    assert_eq!(traces.len(), 1, "{spans:#?}");
    assert_eq!(spans.iter().filter(|span| span.parent.is_none()).count(), 1, "{spans:#?}");
}

/// The port that the tracer exported from, as the collector names it behind the length.
fn port(taken: &str) -> u16 {
    taken.split_whitespace().last().and_then(|port| port.parse().ok()).expect("port of the tracer")
}

/// Who gets a port that the tracer has given back is not the tracer.
fn reuse(port: u16, server: u16) {
    let mut client = Command::new("python3");
    client.arg(workload("from_port.py")).args([&port.to_string(), &server.to_string(), "/work/reused"]);
    let client = Program::spawn("client on a used port", client).expect("start");
    let patience = scale::time(Duration::from_secs(10));
    assert_eq!(client.wait_stdout("STATUS ", patience).expect("answer"), "HTTP/1.1 200 OK");
}
