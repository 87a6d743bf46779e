//! gRPC through nginx: a proxy has streams of its own on either side, and each side is joined by itself.

use std::collections::BTreeMap;

use tracer_tests::http2::{Call, Grpc, ledger};
use tracer_tests::program::free_port;
use tracer_tests::scale;
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;

use super::leg::Leg;
use super::{CODES, behind_nginx, shell};

/// Go, nginx, Go: each side of the proxy is joined by itself, and what it does inside it says.
#[test]
fn grpc_through_nginx() {
    for concurrency in [1, 10, 100] {
        through_nginx(concurrency, scale::count(if concurrency == 1 { 100 } else { 300 }).max(40));
    }
}

fn through_nginx(concurrency: usize, count: usize) {
    let (front, back) = (free_port().expect("a port"), free_port().expect("a port"));
    let dir = TempDir::new().expect("a folder");
    let servers = format!(
        "upstream back {{ server 127.0.0.1:{back}; keepalive 8; }} \
         server {{ listen 127.0.0.1:{front} http2; location / {{ grpc_pass grpc://back; }} }}"
    );
    let listen = format!("127.0.0.1:{back}");
    let server = shell(&Grpc::Go.command(&["--listen", &listen]).expect("a server"));
    let target = format!("127.0.0.1:{front}");
    let options =
        ["--target", &target, "--count", &count.to_string(), "--concurrency", &concurrency.to_string()];
    let client = shell(&Grpc::Go.command(&options).expect("a client"));
    let script = format!("{server} >log & S=$!; sleep 0.3; {client} >ledger; sleep 0.2; kill $S");
    let report = behind_nginx(&dir, &servers, &script);
    let calls = ledger(&std::fs::read_to_string(dir.join("ledger")).expect("a ledger")).expect("a ledger");
    assert_eq!(calls.len(), count);
    let [asked, handed_on] = [front, back].map(|port| Leg::of(&report, port));
    assert_eq!(asked.spans() + handed_on.spans(), report.spans.len(), "{}", report.log);
    let answered = |call: &&Call| !call.is_given_up();
    for (name, call) in calls.iter().filter(|(_, call)| answered(call)) {
        let code = CODES[call.code.parse::<usize>().expect("a number")];
        for leg in [&asked, &handed_on] {
            for span in leg.joined(name) {
                assert_eq!(span.str("rpc.response.status_code"), Some(code), "{span:#?}");
                assert_eq!(span.str("tracer.incomplete"), None, "{span:#?}");
            }
        }
    }
    // What is given up is told of too, as far as it got: nginx may reset a connection on which nothing was read yet.
    for leg in [&asked, &handed_on] {
        leg.check_joined();
    }
    let unended = report.spans.iter().find(|span| span.str("tracer.incomplete") == Some("still_open"));
    assert!(unended.is_none(), "{unended:#?}\n{}", report.log);
    let caused = handed_on.check_causes(&asked);
    let answered = calls.values().filter(answered).count();
    eprintln!(
        "{concurrency} at a time: {answered} of {count} answered; spans {} and {} on both sides of nginx, {caused} below each other",
        asked.spans(),
        handed_on.spans()
    );
    assert!(caused * 100 >= answered * 95, "{caused} of {answered}\n{}", report.log);
}

/// Requests that share a connection: nginx has with each of its calls which stream it is for. It asks a server of its own, so
/// that the same worker has all of it.
#[test]
fn nginx_says_for_which_stream_it_asks() {
    for tls in [false, true] {
        let [front, back] = [(); 2].map(|()| free_port().expect("a port"));
        let dir = TempDir::new().expect("a folder");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        dir.write("certificate.pem", &made.cert.pem()).expect("a file");
        dir.write("key.pem", &made.signing_key.serialize_pem()).expect("a file");
        let (how, scheme) = if tls {
            ("ssl http2; ssl_certificate certificate.pem; ssl_certificate_key key.pem", "https")
        } else {
            ("http2", "http")
        };
        let servers = format!(
            "upstream back {{ server 127.0.0.1:{back}; keepalive 4; }} \
             server {{ listen 127.0.0.1:{back}; location / {{ return 200 'hello'; }} }} \
             server {{ listen 127.0.0.1:{front} {how}; location / {{ proxy_pass http://back; \
               proxy_http_version 1.1; proxy_set_header Connection ''; }} }}"
        );
        let count = scale::count(1000).max(200);
        let urls: Vec<String> =
            (0..count).map(|number| format!("{scheme}://127.0.0.1:{front}/r{number}")).collect();
        dir.write("urls", &urls.join("\n")).expect("a file");
        // The library is watched, and the worker's memory known, soon after it has started, and not at once.
        let script = format!("sleep 2; h2load -n {count} -c 1 -m 20 -i urls >log 2>&1; sleep 0.3");
        let report = behind_nginx(&dir, &servers, &script);
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(log.contains(&format!("{count} succeeded")), "{log}");
        let [asked, handed_on] = [front, back].map(|port| Leg::of(&report, port));
        let caused = handed_on.check_causes(&asked);
        eprintln!("{scheme}: {caused} of {count} calls for a stream");
        assert!(caused * 100 >= count * 95, "{caused} of {count}\n{}", report.log);
    }
}

/// gRPC under TLS, between two servers of one nginx that have it from OpenSSL: streams of such connections are joined as those
/// in clear.
#[test]
fn grpc_under_tls() {
    let [front, middle, back] = [(); 3].map(|()| free_port().expect("a port"));
    let dir = TempDir::new().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    dir.write("certificate.pem", &made.cert.pem()).expect("a file");
    dir.write("key.pem", &made.signing_key.serialize_pem()).expect("a file");
    let servers = format!(
        "upstream back {{ server 127.0.0.1:{back}; keepalive 8; }} \
         upstream middle {{ server 127.0.0.1:{middle}; keepalive 8; }} \
         server {{ listen 127.0.0.1:{front} http2; location / {{ grpc_pass grpcs://middle; }} }} \
         server {{ listen 127.0.0.1:{middle} ssl http2; ssl_certificate certificate.pem; \
           ssl_certificate_key key.pem; location / {{ grpc_pass grpc://back; }} }}"
    );
    let count = scale::count(400).max(100);
    let (listen, target, count_text) =
        (format!("127.0.0.1:{back}"), format!("127.0.0.1:{front}"), count.to_string());
    let server = shell(&Grpc::Go.command(&["--listen", &listen]).expect("a server"));
    let client = ["--target", &target, "--count", &count_text, "--concurrency", "20", "--kinds", "Unary"];
    let client = shell(&Grpc::Go.command(&client).expect("a client"));
    // Its library is watched soon after it has started, and not at once.
    let script = format!("{server} >log & S=$!; sleep 2; {client} >ledger; sleep 0.5; kill $S");
    let report = behind_nginx(&dir, &servers, &script);
    let calls = ledger(&std::fs::read_to_string(dir.join("ledger")).expect("a ledger")).expect("a ledger");
    assert_eq!(calls.len(), count);
    let spans: BTreeMap<&str, &Span> =
        report.spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let under_tls = |span: &&Span| span.str("tls.protocol.version").is_some();
    for kind in [Kind::Client, Kind::Server] {
        let of = || report.spans.iter().filter(|span| span.kind == kind).filter(under_tls);
        let answered = calls.iter().filter(|(_, call)| ["0", "5", "14"].contains(&call.code.as_str()));
        let (mut seen, mut all) = (0, 0);
        for (name, call) in answered {
            all += 1;
            let Some(span) = of().find(|span| span.str("rpc.method") == Some(name)) else { continue };
            let code = CODES[call.code.parse::<usize>().expect("a number")];
            assert_eq!(span.str("rpc.response.status_code"), Some(code), "{span:#?}");
            seen += 1;
        }
        eprintln!("{kind:?}: {seen} of {all} calls that were answered under TLS");
        assert!(seen * 10 >= all * 9, "{kind:?}: {seen} of {all}\n{}", report.log);
    }
    let (mut joined, mut alone) = (0, 0);
    for span in report.spans.iter().filter(|span| span.kind == Kind::Server).filter(under_tls) {
        let Some(parent) = span.parent.as_deref().map(|parent| spans[parent]) else {
            alone += 1;
            continue;
        };
        assert!(under_tls(&parent) && parent.str("rpc.method") == span.str("rpc.method"), "{span:#?}");
        joined += 1;
    }
    eprintln!("{joined} joined under TLS, {alone} not");
    assert!(joined * 10 >= count * 8, "{joined} of {count}\n{}", report.log);
}
