//! `tracer attach --all`: every process of the machine. Runs only where the machine is the test's own.

use std::process::Command;
use std::time::Duration;

use tracer_tests::demo;
use tracer_tests::service::{Service, workload};
use tracer_tests::spans::Span;
use tracer_tests::tracer::Tracer;

/// The tracer exports to a collector that it traces as well: exporting must not be traffic worth exporting.
#[test]
fn all_processes_but_never_the_tracer() {
    if std::env::var_os("TRACER_TESTS_OWN_MACHINE").is_none() {
        eprintln!(
            "skipped: traces every process, so it runs only in a virtual machine (TRACER_TESTS_OWN_MACHINE=1)"
        );
        return;
    }
    let mut collector = Command::new("python3");
    collector.arg(workload("collector.py"));
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
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(tracer.spans_so_far().expect("spans").len(), 0, "spans of nothing");

    demo.ask().expect("ask");
    collector.program.wait_stdout("TAKEN /v1/traces", Duration::from_secs(60)).expect("an export");
    // Were the exports traced, each would cause the next.
    std::thread::sleep(Duration::from_secs(20));
    let report = tracer.finish().expect("tracer");
    let services: Vec<&str> = report.spans.iter().map(Span::service).collect();
    assert_eq!(
        report.spans.len(),
        8,
        "curl, nginx twice, shop three times, stock twice: {services:?}\n{}",
        report.log
    );
    assert!(report.spans.iter().all(|span| span.pid() != collector.pid()), "{services:?}");
    let traces: std::collections::BTreeSet<&str> =
        report.spans.iter().map(|span| span.trace_id.as_str()).collect();
    assert_eq!(traces.len(), 1, "{:#?}", report.spans);
}
