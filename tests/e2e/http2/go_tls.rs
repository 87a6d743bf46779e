//! gRPC under TLS of Go's own, at both ends of a connection.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use tracer_tests::http2::{Grpc, ledger};
use tracer_tests::program::Program;
use tracer_tests::scale;
use tracer_tests::tracer::Tracer;

use super::check_calls;

/// grpc-go calls grpc-go, unary and streaming, on one connection: what holds in clear holds here.
#[test]
fn grpc_go_under_tls() {
    for concurrency in [1, 10, 100] {
        let count = scale::count(if concurrency == 1 { 100 } else { 1000 }).max(40);
        // Both are there before the tracer, and connect behind it: nothing of TLS is missed.
        let server = Grpc::Go.serve(&["--tls"]).expect("a server");
        let (target, count_text, at_a_time) =
            (server.addr.to_string(), count.to_string(), concurrency.to_string());
        let options =
            ["--tls", "--waits", "--target", &target, "--count", &count_text, "--concurrency", &at_a_time];
        let mut client = Grpc::Go.command(&options).expect("a client");
        client.stdin(Stdio::piped());
        let mut client = Program::spawn("client", client).expect("a client");
        let tracer = Tracer::attach(&[server.program.pid(), client.pid()]).expect("attach");
        client.stdin().expect("standard input").write_all(b"go\n").expect("go");
        let exit = client.wait(Duration::from_secs(60)).expect("its end");
        assert!(exit.success(), "{}", client.stderr());
        client.wait_output_end(Duration::from_secs(5));
        let report = tracer.finish().expect("tracer");
        for span in &report.spans {
            assert_eq!(span.str("tls.protocol.version"), Some("1.3"), "{span:#?}");
        }
        eprintln!("{concurrency} at a time: {} spans of {count} calls", report.spans.len());
        check_calls(&report, ledger(&client.stdout()).expect("a ledger"), count);
    }
}
