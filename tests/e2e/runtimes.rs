//! Parents in real programs, at 1 and at 32 requests at a time, against the truth in the request paths.
//!
//! Per program: driver (not traced) → program → program of the same kind that makes no calls. Every program makes
//! background calls to the same downstream, through the same connections, all the while.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Once;

use tracer_tests::http::Client;
use tracer_tests::load::Load;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::scale;
use tracer_tests::score::{Call, Naming, Score, Truth};
use tracer_tests::service::{Runtime, Service};
use tracer_tests::spans::Span;
use tracer_tests::tracer::Tracer;

/// What the tracer must reach inside a process. That nothing may be wrong goes for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InProcess {
    /// At least 99 of 100 in-process parents are right.
    Decided,
    /// May abstain.
    MayAbstain,
}

/// In-process and cross-process edges that one run at 32 must have at least.
const MIN_EDGES: usize = 3000;

/// Prints to standard error itself, which the test harness does not hold back: the table is of interest when all is
/// well, too.
fn print_row(row: &str) {
    static HEADER: Once = Once::new();
    HEADER.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{}", header());
    });
    let _ = writeln!(std::io::stderr(), "{row}");
}

/// One line of the table per run.
fn row(name: &str, concurrency: usize, score: &Score, seconds: f64) -> String {
    let Score { in_process, cross_process, background, entry, flawed, evidence, reasons, notes: _ } = score;
    format!(
        "{name:<24} {concurrency:>3} {in_process} {cross_process} {background} {entry} {flawed:>4} {seconds:>5.1}s  {evidence:?} {reasons:?}"
    )
}

fn header() -> String {
    format!(
        "{:<24} {:>3} {:>21} {:>21} {:>21} {:>21} {:>4}  (right/wrong/undecided/lost)",
        "program", "at", "in-process", "cross-process", "background", "entry", "flaw"
    )
}

/// Traces these processes under load and judges the result. A front that dies fails the run by refusing requests.
fn judged(
    name: &str,
    front: (SocketAddr, &[u32]),
    back: &[u32],
    naming: Naming,
    (concurrency, count): (usize, usize),
    wanted: InProcess,
) {
    let begin = std::time::Instant::now();
    // Warm up before the tracer comes: connections and threads older than it are part of the exercise.
    let mut old = Client::new(front.0);
    for number in 0..3 {
        old.get(&format!("/work/warm{number}")).expect("warm up");
    }
    let pids: Vec<u32> = front.1.iter().chain(back).copied().collect();
    let tracer = Tracer::attach(&pids).expect("attach");
    let load = Load { prefix: &format!("r{concurrency}x"), concurrency, count, naming, reconnects: true };
    let happened = load.run(front.0).expect("load");
    let report = tracer.finish().expect("tracer");
    let truth = Truth {
        front: front.1.iter().copied().collect(),
        back: back.iter().copied().collect(),
        requests: happened.requests,
        abandoned: BTreeSet::new(),
        calls: naming.calls(&happened.calls),
    };
    let score = Score::of(&report.spans, &truth);
    print_row(&row(name, concurrency, &score, begin.elapsed().as_secs_f64()));
    let context = || format!("{name} at {concurrency}: {score:#?}\n{}", report.log);
    assert!(score.is_clean(), "wrong: {}", context());
    assert_eq!(score.entry.lost, 0, "lost: {}", context());
    assert_eq!(score.cross_process.right, score.cross_process.total(), "not all joined: {}", context());
    if concurrency == 32 {
        let wanted = (MIN_EDGES as f64 * scale::volume()) as usize;
        assert!(score.in_process.total() >= wanted, "too few edges: {}", context());
    }
    match wanted {
        InProcess::Decided => {
            assert!(
                score.in_process.right * 100 >= score.in_process.total() * 99,
                "undecided: {}",
                context()
            );
        }
        InProcess::MayAbstain => {}
    }
}

/// What is asked to decide about a request, and what gets a copy of it, answers nobody; and requests go on when a timer says
/// so. nginx itself says for which request it uses a connection.
#[test]
fn nginx_says_for_whom_it_asks() {
    let count = scale::count(600);
    let back = Service::start_with(Runtime::Go, None, &["--delay-ms", "5"]).expect("start the service");
    let mut config = Config::proxy(1, &back.addr.to_string(), true);
    config.http += "map $request_uri $asked { ~^(?<path>[^?]*) $path; }
        limit_req_zone $server_port zone=slow:1m rate=1000r/s;";
    let kept = "proxy_http_version 1.1; proxy_set_header Connection '';";
    config.server = format!(
        "location / {{
             limit_req zone=slow burst=2000;
             auth_request /auth; mirror /mirror; proxy_pass http://backend; {kept}
         }}
         location = /auth {{
             internal; proxy_pass http://backend$asked.auth; {kept}
             proxy_pass_request_body off; proxy_set_header Content-Length '';
         }}
         location = /mirror {{ internal; proxy_pass http://backend$asked.mirror; {kept} }}"
    );
    let nginx = Nginx::start(&config).expect("start nginx");
    let mut pids = nginx.pids().expect("pids");
    pids.push(back.pid());
    let tracer = Tracer::attach(&pids).expect("attach");
    let load = Load { prefix: "n", concurrency: 32, count, naming: Naming::Same, reconnects: true };
    let happened = load.run(nginx.addr).expect("load");
    let report = tracer.finish().expect("tracer");
    let mut calls = Naming::Same.calls(&happened.calls);
    for id in &happened.calls {
        for what in ["auth", "mirror"] {
            calls.insert(format!("{id}.{what}"), Call { cause: Some(id.clone()), status: 200 });
        }
    }
    let truth = Truth {
        front: nginx.pid_set().expect("pids"),
        back: [back.pid()].into(),
        requests: happened.requests,
        abandoned: BTreeSet::new(),
        calls,
    };
    let score = Score::of(&report.spans, &truth);
    let context = || format!("{score:#?}\n{}", report.log);
    assert!(score.is_clean(), "wrong: {}", context());
    assert_eq!(score.in_process.total(), 3 * count, "{}", context());
    assert!(score.in_process.right * 100 >= score.in_process.total() * 99, "undecided: {}", context());
    let told = score.evidence.get("runtime-task").copied().unwrap_or(0);
    assert!(told * 100 >= score.in_process.right * 99, "{}", context());
}

/// Concurrency and number of requests of each run.
fn volumes(edges_per_request: f64) -> [(usize, usize); 2] {
    let at_32 = (MIN_EDGES as f64 * 1.08 / edges_per_request * scale::volume()) as usize;
    [(1, (150.0 * scale::volume()) as usize), (32, at_32)]
}

fn service(runtime: Runtime, wanted: InProcess) {
    for volume in volumes(1.5) {
        let back = Service::start(runtime, None).expect("start the leaf");
        let front = Service::start(runtime, Some(back.addr)).expect("start the front");
        judged(runtime.name(), (front.addr, &[front.pid()]), &[back.pid()], Naming::Numbered, volume, wanted);
    }
}

fn nginx(workers: usize, keep_alive: bool) {
    for volume in volumes(1.0) {
        // Slow answers keep as many requests open at once as are asked for.
        let back = Service::start_with(Runtime::Go, None, &["--delay-ms", "30"]).expect("start the leaf");
        let nginx =
            Nginx::start(&Config::proxy(workers, &back.addr.to_string(), keep_alive)).expect("start nginx");
        let pids = nginx.pids().expect("pids");
        let name = format!("nginx {workers}w {}", if keep_alive { "keep-alive" } else { "new conns" });
        judged(&name, (nginx.addr, &pids), &[back.pid()], Naming::Same, volume, InProcess::Decided);
    }
}

#[test]
fn nginx_one_worker_new_connections() {
    nginx(1, false);
}

#[test]
fn nginx_one_worker_keep_alive() {
    nginx(1, true);
}

#[test]
fn nginx_two_workers_new_connections() {
    nginx(2, false);
}

#[test]
fn nginx_two_workers_keep_alive() {
    nginx(2, true);
}

#[test]
fn python_threads() {
    service(Runtime::Python, InProcess::Decided);
}

#[test]
fn python_shared_pool() {
    service(Runtime::PythonPool, InProcess::MayAbstain);
}

#[test]
fn python_hand_off() {
    service(Runtime::PythonHandoff, InProcess::MayAbstain);
}

#[test]
fn python_asyncio() {
    service(Runtime::Asyncio, InProcess::MayAbstain);
}

#[test]
fn node() {
    service(Runtime::Node, InProcess::MayAbstain);
}

#[test]
fn go() {
    service(Runtime::Go, InProcess::MayAbstain);
}

#[test]
fn go_on_one_processor() {
    service(Runtime::GoOneProc, InProcess::MayAbstain);
}

#[test]
fn tokio_on_two_threads() {
    service(Runtime::Tokio, InProcess::MayAbstain);
}

#[test]
fn tokio_on_one_thread() {
    service(Runtime::TokioOneThread, InProcess::MayAbstain);
}

#[test]
fn java_work_stealing() {
    service(Runtime::JavaFork, InProcess::MayAbstain);
}

#[test]
fn java_threads() {
    service(Runtime::Java, InProcess::Decided);
}

#[test]
fn java_pool_hop() {
    service(Runtime::JavaHop, InProcess::MayAbstain);
}

#[test]
fn java_virtual_threads() {
    service(Runtime::JavaVirtual, InProcess::Decided);
}

/// A process per connection, born with it: who serves is known only afterwards.
#[test]
fn python_processes() {
    let back = Service::start(Runtime::Python, None).expect("start the leaf");
    let front = Service::start(Runtime::PythonFork, Some(back.addr)).expect("start the front");
    let tracer = Tracer::attach(&[front.pid(), back.pid()]).expect("attach");
    let load = Load { prefix: "f", concurrency: 16, count: 1000, naming: Naming::Numbered, reconnects: true };
    let happened = load.run(front.addr).expect("load");
    let report = tracer.finish().expect("tracer");
    let pids = report.spans.iter().map(Span::pid);
    let truth = Truth {
        front: pids.filter(|pid| *pid != back.pid()).collect(),
        back: [back.pid()].into(),
        requests: happened.requests,
        abandoned: BTreeSet::new(),
        calls: Naming::Numbered.calls(&happened.calls),
    };
    assert!(truth.front.len() > 50, "processes: {:?}\n{}", truth.front, report.log);
    let score = Score::of(&report.spans, &truth);
    print_row(&row(Runtime::PythonFork.name(), 16, &score, 0.0));
    assert!(score.is_clean() && score.entry.lost == 0, "{score:#?}\n{}", report.log);
    assert_eq!(score.cross_process.right, score.cross_process.total(), "{score:#?}\n{}", report.log);
}

/// The workloads themselves, without a tracer: every request is answered, and calls are made.
#[test]
fn workloads_answer_under_load() {
    let all = [
        Runtime::Python,
        Runtime::PythonPool,
        Runtime::PythonHandoff,
        Runtime::PythonFork,
        Runtime::Asyncio,
        Runtime::Node,
        Runtime::Go,
        Runtime::GoOneProc,
        Runtime::Tokio,
        Runtime::TokioOneThread,
        Runtime::Java,
        Runtime::JavaHop,
        Runtime::JavaFork,
        Runtime::JavaVirtual,
    ];
    for runtime in all {
        let back = Service::start(runtime, None).expect("start the leaf");
        let front = Service::start(runtime, Some(back.addr)).expect("start the front");
        let load =
            Load { prefix: "d", concurrency: 32, count: 200, naming: Naming::Numbered, reconnects: true };
        let begin = std::time::Instant::now();
        let happened = load
            .run(front.addr)
            .unwrap_or_else(|error| panic!("{}: {error:#}\n{}", runtime.name(), front.program.stderr()));
        println!("{:<24} {} calls in {:?}", runtime.name(), happened.calls.len(), begin.elapsed());
        assert!(happened.requests.len() == 200 && happened.calls.len() > 200, "{happened:?}");
    }
}
