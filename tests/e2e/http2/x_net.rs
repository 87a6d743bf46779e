//! HTTP/2 of `golang.org/x/net`, which has its own copy of what `net/http` has: three processes in a row.

use std::collections::BTreeMap;

use tracer_tests::http2::{Call, ledger, x_net};
use tracer_tests::scale;
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::{self, Report};

use super::{by_name, check_joins, shell};

/// Asked by upgrade, behind the others.
const UPGRADED: &str = "/1000001";

/// A client, a server that asks another one twice for each request, and that one.
fn play(concurrency: usize, count: usize) -> (Report, BTreeMap<String, Call>) {
    let dir = TempDir::new().expect("a folder");
    let program = shell(&x_net().expect("a program"));
    let folder = dir.path().display();
    // Where goroutines take up streams is watched soon after a program has started, and not at once.
    let script = format!(
        "cd {folder}; {program} >back & B=$!; until grep -q PORT back; do sleep 0.05; done; \
         {program} --downstream 127.0.0.1:$(sed -n 's/PORT //p' back) >front & F=$!; \
         until grep -q PORT front; do sleep 0.05; done; sleep 2; P=$(sed -n 's/PORT //p' front); \
         {program} --target 127.0.0.1:$P --count {count} --concurrency {concurrency} >ledger; \
         curl -s --http2 -o out http://127.0.0.1:$P{UPGRADED}; sleep 0.5; kill $F $B; wait $F $B; true"
    );
    let report = tracer::run(&[], ["sh", "-c", &script]).expect("run");
    let written = std::fs::read_to_string(dir.join("ledger")).expect("a ledger");
    (report, ledger(&written).expect("a ledger"))
}

fn check_ending(call: &Call, span: &Span) {
    // One that is asked by upgrade began in HTTP/1.
    let version = if span.path() == Some(UPGRADED) { "1.1" } else { "2" };
    assert_eq!(span.str("network.protocol.version"), Some(version), "{span:#?}");
    if call.code == "E8" {
        assert_eq!(span.str("error.type"), Some("cancel"), "{span:#?}");
    } else {
        assert_eq!(span.int("http.response.status_code"), call.code.parse().ok(), "{span:#?}");
        assert_eq!(span.int("http.response.body.size"), Some(call.sent), "{span:#?}");
    }
}

/// What is asked behind a request is its child, whichever goroutine asks; each stream is joined.
#[test]
fn x_net_serves_and_calls() {
    for concurrency in [1, 10, 100] {
        let count = scale::count(if concurrency == 1 { 40 } else { 400 }).max(40);
        let (report, mut calls) = play(concurrency, count);
        assert_eq!(calls.len(), count);
        let upgraded = Call { code: "200".to_owned(), sent: 1, received: 0, nanos: 0 };
        calls.insert(UPGRADED.to_owned(), upgraded);
        let behind = |path: &String| [0, 1].map(|part| format!("{path}-{part}"));
        let paths: Vec<String> = calls.keys().cloned().chain(calls.keys().flat_map(behind)).collect();
        check_joins(&report, paths.iter());
        let (clients, servers) = (by_name(&report, Kind::Client), by_name(&report, Kind::Server));
        assert_eq!((clients.len(), servers.len()), (paths.len(), paths.len()), "{}", report.log);
        let mut placed = 0;
        for (path, call) in &calls {
            check_ending(call, clients[path.as_str()]);
            check_ending(call, servers[path.as_str()]);
            assert_eq!(clients[path.as_str()].parent, None);
            for path_behind in behind(path) {
                let Some(parent) = &clients[path_behind.as_str()].parent else { continue };
                assert_eq!(parent, &servers[path.as_str()].span_id, "{path_behind}\n{}", report.log);
                placed += 1;
            }
        }
        eprintln!("{concurrency} at a time: {placed} of {} have their parent", 2 * calls.len());
        assert!(placed * 20 >= 2 * calls.len() * 19, "{placed} of {}\n{}", 2 * calls.len(), report.log);
    }
}
