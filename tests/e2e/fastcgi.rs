//! nginx → a FastCGI application → a service: every edge of real programs, at 1 and at 16 requests at a time.

use std::collections::{BTreeMap, BTreeSet};

use tracer_tests::fastcgi::{PhpFpm, Transport};
use tracer_tests::http::Client;
use tracer_tests::load::Load;
use tracer_tests::nginx::Nginx;
use tracer_tests::scale;
use tracer_tests::score::{Naming, Score, Truth};
use tracer_tests::service::{Runtime, Service};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::Tracer;

/// The proxy's edges, and the application's.
struct Scores {
    proxy: Score,
    application: Score,
    log: String,
    spans: Vec<Span>,
}

fn run(nginx: &Nginx, application: &BTreeSet<u32>, leaf: u32, concurrency: usize, count: usize) -> Scores {
    let mut old = Client::new(nginx.addr);
    old.get("/work/warm1").expect("warm up");
    let proxy = nginx.pid_set().expect("pids");
    let pids: Vec<u32> = proxy.iter().chain(application).copied().chain([leaf]).collect();
    let tracer = Tracer::attach(&pids).expect("attach");
    let load = Load { prefix: "r", concurrency, count, naming: Naming::Numbered, reconnects: true };
    let happened = load.run(nginx.addr).expect("load");
    let report = tracer.finish().expect("tracer");
    let ids: BTreeSet<String> = happened.requests.keys().cloned().collect();
    let proxied = Truth {
        front: proxy,
        back: application.clone(),
        requests: happened.requests,
        abandoned: BTreeSet::new(),
        calls: Naming::Same.calls(&ids),
    };
    // Children of the application are part of it.
    let inside: BTreeSet<u32> = report
        .spans
        .iter()
        .map(Span::pid)
        .filter(|pid| !proxied.front.contains(pid) && *pid != leaf)
        .chain(application.iter().copied())
        .collect();
    let called = Truth {
        front: inside,
        back: BTreeSet::from([leaf]),
        requests: BTreeMap::new(),
        abandoned: BTreeSet::new(),
        calls: Naming::Numbered.calls(&happened.calls),
    };
    Scores {
        proxy: Score::of(&report.spans, &proxied),
        application: Score::of(&report.spans, &called),
        log: report.log,
        spans: report.spans,
    }
}

impl Scores {
    /// Nothing is wrong, nothing is lost, and all edges are known but `undecided` of a hundred in the application.
    fn check(&self, undecided: usize) {
        let Self { proxy, application, log, spans: _ } = self;
        eprintln!(
            "proxy {} {} application {} {} {:?} {:?}",
            proxy.in_process,
            proxy.cross_process,
            application.in_process,
            application.background,
            application.evidence,
            application.reasons
        );
        assert!(proxy.is_clean() && application.is_clean(), "{proxy:#?} {application:#?}\n{log}");
        let edges = [&proxy.in_process, &proxy.cross_process, &application.cross_process];
        for edges in edges {
            assert_eq!(edges.lost, 0, "{proxy:#?} {application:#?}\n{log}");
            assert!(edges.right * 100 >= edges.total() * 99, "{proxy:#?} {application:#?}\n{log}");
        }
        let told = proxy.evidence.get("runtime-task").copied().unwrap_or(0);
        assert!(told * 100 >= proxy.in_process.right * 99, "nginx says for whom it asks: {proxy:#?}\n{log}");
        let Score { in_process, .. } = application;
        assert_eq!(in_process.lost, 0, "{application:#?}\n{log}");
        assert!(in_process.total() > 0);
        assert!(in_process.right * 100 >= in_process.total() * (100 - undecided), "{application:#?}\n{log}");
    }
}

fn volume(count: usize) -> usize {
    (count as f64 * scale::volume()).max(20.0) as usize
}

fn php(transport: Transport, keep_alive: bool, after: bool, concurrency: usize) -> Scores {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    let pool = PhpFpm::start(transport, 8).expect("start php-fpm");
    let nginx = Nginx::start(&pool.nginx(keep_alive, leaf.addr, after)).expect("start nginx");
    let application = pool.pids().expect("pids");
    run(&nginx, &application, leaf.pid(), concurrency, volume(600))
}

#[test]
fn php_over_a_unix_socket() {
    for concurrency in [1, 16] {
        php(Transport::Unix, false, false, concurrency).check(1);
    }
}

#[test]
fn php_over_tcp_that_is_kept() {
    for concurrency in [1, 8] {
        let scores = php(Transport::Tcp, true, false, concurrency);
        scores.check(1);
        let described = scores.spans.iter().filter(|span| span.kind == Kind::Server);
        assert!(described.filter(|span| span.str("network.protocol.name") == Some("fastcgi")).count() > 100);
    }
}

/// What is called after the answer has no parent.
#[test]
fn php_that_works_after_its_answer() {
    let Scores { proxy, application, log, spans: _ } = php(Transport::Unix, true, true, 4);
    assert!(proxy.is_clean() && application.is_clean(), "{proxy:#?} {application:#?}\n{log}");
    assert_eq!((proxy.in_process.lost, application.in_process.lost), (0, 0));
    assert!(application.background.right > volume(600) / 2, "{application:#?}");
}
