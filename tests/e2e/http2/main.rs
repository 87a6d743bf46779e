//! HTTP/2 and gRPC in clear, of real programs: every exchange is a span on both sides, what it says is what the program
//! itself saw, and each server's span is the child of the client's on the same stream, however many streams there are.

mod chains;
mod go_tls;
mod leg;
mod nginx;
mod x_net;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tracer_tests::http2::{Call, Grpc, Server, ledger, node};
use tracer_tests::program::{Program, free_port, wait_listening};
use tracer_tests::scale;
use tracer_tests::service::workload;
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::{self, Report, Tracer};

/// A command as a shell reads it. No argument has anything to quote.
fn shell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().expect("plain words")).collect::<Vec<_>>().join(" ")
}

/// A server that says its port, and a client that is told it and writes a ledger, both seen from their first byte.
fn play(server: &Command, client: &Command) -> (Report, BTreeMap<String, Call>) {
    let dir = TempDir::new().expect("a folder");
    let (said, written) = (dir.join("said"), dir.join("ledger"));
    let (said, written) = (said.display(), written.display());
    let (server, client) = (shell(server), shell(client));
    let script = format!(
        "{server} > {said} & S=$!; until grep -q PORT {said}; do sleep 0.05; done; \
         {client} --target 127.0.0.1:$(sed -n 's/PORT //p' {said}) > {written}; sleep 0.3; kill $S; wait $S; true"
    );
    let report = tracer::run(&[], ["sh", "-c", &script]).expect("run");
    let written = std::fs::read_to_string(dir.join("ledger")).expect("a ledger");
    (report, ledger(&written).expect("a ledger"))
}

/// Span of this kind by what it is called: of each there is one.
fn by_name(report: &Report, kind: Kind) -> BTreeMap<&str, &Span> {
    let mut spans = BTreeMap::new();
    for span in report.spans.iter().filter(|span| span.kind == kind) {
        let name = span.str("rpc.method").or(span.path()).unwrap_or(&span.name);
        assert!(spans.insert(name, span).is_none(), "{name} twice\n{}", report.log);
    }
    spans
}

/// Every server's span is the child of the client's of the same name.
fn check_joins(report: &Report, names: impl Iterator<Item = impl AsRef<str>>) {
    let (clients, servers) = (by_name(report, Kind::Client), by_name(report, Kind::Server));
    for name in names {
        let name = name.as_ref();
        let client = clients.get(name).unwrap_or_else(|| panic!("no client's {name}\n{}", report.log));
        let server = servers.get(name).unwrap_or_else(|| panic!("no server's {name}\n{}", report.log));
        assert_eq!(server.parent.as_ref(), Some(&client.span_id), "{server:#?}\n{}", report.log);
        assert_eq!(server.trace_id, client.trace_id);
    }
    assert!(!report.log.contains("lost:"), "{}", report.log);
}

const CODES: [&str; 15] = [
    "OK",
    "CANCELLED",
    "",
    "",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "UNAVAILABLE",
];

/// What both sides say of a call is what its client saw.
fn check_call(name: &str, call: &Call, client: &Span, server: &Span) {
    let code: usize = call.code.parse().expect("a number");
    let [said, answered] = [client, server].map(|span| span.str("rpc.response.status_code"));
    for span in [client, server] {
        assert_eq!(span.name, name);
        assert_eq!(span.str("rpc.system.name"), Some("grpc"));
        assert_eq!(span.str("tracer.incomplete"), None, "{span:#?}");
    }
    // The program's own clock is around the stream's, except for one that is given up: the program goes on at once, and
    // what tells the server is written when its turn comes. A span begins when the send has ended that carried its head.
    let given_up = call.is_given_up();
    let took = client.end - client.start;
    let slack = if given_up { 500_000_000 } else { 2_000_000 };
    assert!(took <= call.nanos + slack, "{name}: {took} of {call:?}");
    match CODES[code] {
        "OK" => {
            assert_eq!((said, answered), (Some("OK"), Some("OK")), "{name}");
            assert_eq!((client.status, server.status), (0, 0));
            for span in [client, server] {
                assert_eq!(span.int("tracer.grpc.request_messages"), Some(call.sent), "{span:#?}");
                assert_eq!(span.int("tracer.grpc.response_messages"), Some(call.received), "{span:#?}");
            }
        }
        code @ ("NOT_FOUND" | "UNAVAILABLE") => {
            assert_eq!((said, answered), (Some(code), Some(code)), "{name}");
            assert_eq!(client.str("error.type"), Some(code));
            assert_eq!((client.status, server.status), (2, if code == "UNAVAILABLE" { 2 } else { 0 }));
        }
        code @ ("CANCELLED" | "DEADLINE_EXCEEDED") => {
            // The client gives the stream up, unless the server's answer was faster; in HTTP/1 it has to close.
            let closes = client.str("network.protocol.version") == Some("1.1");
            let given_up = if closes { "connection_closed" } else { "cancel" };
            for (span, said) in [(client, said), (server, answered)] {
                let error = span.str("error.type");
                assert!(error == Some(given_up) || said == Some(code), "{span:#?}");
            }
        }
        code => panic!("{name} ended with {code}"),
    }
}

fn grpc(server: Grpc, client: Grpc, concurrency: usize, count: usize) {
    let (count, concurrency) = (scale::count(count).max(40).to_string(), concurrency.to_string());
    let client = client.command(&["--count", &count, "--concurrency", &concurrency]).expect("a client");
    // As many threads as there are calls, where a call keeps one: what waits for one may be given up before it is served.
    let threads = if server == Grpc::Python { &["--concurrency", &concurrency][..] } else { &[] };
    let server = server.command(threads).expect("a server");
    check_grpc(&server, &client, count.parse().expect("a number"));
}

fn check_grpc(server: &Command, client: &Command, count: usize) {
    let (report, calls) = play(server, client);
    check_calls(&report, calls, count);
}

/// Every call that was sent is a span on both sides, as its client's ledger says, and joined.
fn check_calls(report: &Report, mut calls: BTreeMap<String, Call>, count: usize) {
    assert_eq!(calls.len(), count);
    // On a busy machine a client gives some up before they are sent.
    let sent = by_name(report, Kind::Client);
    calls.retain(|name, call| sent.contains_key(name.as_str()) || !call.is_given_up());
    assert!(calls.len() * 10 >= count * 9, "{} of {count}\n{}", calls.len(), report.log);
    check_joins(report, calls.keys());
    let (clients, servers) = (by_name(report, Kind::Client), by_name(report, Kind::Server));
    assert_eq!((clients.len(), servers.len()), (calls.len(), calls.len()));
    for (name, call) in &calls {
        check_call(name, call, clients[name.as_str()], servers[name.as_str()]);
    }
}

#[test]
fn grpc_go() {
    for concurrency in [1, 10, 100] {
        grpc(Grpc::Go, Grpc::Go, concurrency, if concurrency == 1 { 100 } else { 1000 });
    }
}

#[test]
fn grpc_python_calls_go() {
    for concurrency in [1, 10, 100] {
        grpc(Grpc::Go, Grpc::Python, concurrency, if concurrency == 1 { 60 } else { 200 });
    }
}

#[test]
fn grpc_go_calls_python() {
    for concurrency in [1, 10, 100] {
        grpc(Grpc::Python, Grpc::Go, concurrency, if concurrency == 1 { 60 } else { 200 });
    }
}

#[test]
fn grpc_rust() {
    for concurrency in [1, 10, 100] {
        grpc(Grpc::Rust, Grpc::Rust, concurrency, if concurrency == 1 { 60 } else { 1000 });
    }
}

/// One pair of processes, because they take long to start.
#[test]
fn grpc_java() {
    let count = scale::count(300).max(40);
    let options = ["--count", &count.to_string(), "--concurrency", "1,10,100"];
    let server = Grpc::Java.command(&[]).expect("a server");
    check_grpc(&server, &Grpc::Java.command(&options).expect("a client"), 3 * count);
}

/// Whose work streams are is known of a program with grpc-go, and said.
#[test]
fn doctor_knows_grpc_go() {
    let server = Grpc::Go.serve(&[]).expect("a server");
    let pid = server.program.pid().to_string();
    let mut doctor = Command::new(tracer::binary().expect("a tracer"));
    let said = doctor.args(["doctor", "--pid", &pid]).output().expect("doctor");
    let said = String::from_utf8_lossy(&said.stdout);
    let known = format!("known   process {pid}");
    let what = "grpc-go 1.64.1: whose work a stream is, is known";
    assert!(said.lines().any(|line| line.starts_with(&known) && line.ends_with(what)), "{said}");
}

/// grpc-web of tonic over both versions of HTTP, with calls of all kinds, and in Base64 as from a browser: how a call ended
/// is read from its body.
#[test]
fn grpc_web() {
    for (web, concurrency) in [("1", 1), ("1", 20), ("2", 1), ("2", 100)] {
        let count = scale::count(if concurrency == 1 { 60 } else { 600 }).max(40).to_string();
        let options = ["--count", &count, "--concurrency", &concurrency.to_string(), "--web", web];
        let client = Grpc::Rust.command(&options).expect("a client");
        let version = if web == "1" { "1.1" } else { "2" };
        check_web(&client, version, count.parse().expect("a number"));
    }
    let mut client = Command::new("node");
    client.arg(workload("grpc_web_text.js")).args(["--count", "100"]);
    check_web(&client, "1.1", 90);
}

fn check_web(client: &Command, version: &str, count: usize) {
    let (report, calls) = play(&Grpc::Rust.command(&[]).expect("a server"), client);
    assert_eq!(calls.len(), count);
    check_joins(&report, calls.keys());
    let (clients, servers) = (by_name(&report, Kind::Client), by_name(&report, Kind::Server));
    assert_eq!((clients.len(), servers.len()), (calls.len(), calls.len()));
    for (name, call) in &calls {
        let (client, server) = (clients[name.as_str()], servers[name.as_str()]);
        for span in [client, server] {
            assert_eq!(span.str("network.protocol.version"), Some(version));
        }
        check_call(name, call, client, server);
    }
}

/// HTTP/2 of Node.js on both sides: interim answers, trailers, streams that the client gives up and that the server
/// refuses.
#[test]
fn node_calls_node() {
    for concurrency in [1, 10, 100] {
        let count = scale::count(if concurrency == 1 { 60 } else { 200 }).max(40);
        check_node(concurrency, count);
    }
}

fn check_node(concurrency: usize, count: usize) {
    let options = ["--count", &count.to_string(), "--concurrency", &concurrency.to_string()];
    let (report, calls) = play(&node(&[]), &node(&options));
    assert_eq!(calls.len(), count);
    check_joins(&report, calls.keys());
    let (clients, servers) = (by_name(&report, Kind::Client), by_name(&report, Kind::Server));
    for (path, call) in &calls {
        let number: i64 = path[1..].parse().expect("a number");
        for span in [clients[path.as_str()], servers[path.as_str()]] {
            assert_eq!(span.str("network.protocol.version"), Some("2"));
            match call.code.strip_prefix('E') {
                None => {
                    assert_eq!(span.int("http.response.status_code"), call.code.parse().ok(), "{span:#?}");
                    assert_eq!(span.int("http.request.body.size"), Some(number), "{span:#?}");
                    assert_eq!(span.int("http.response.body.size"), Some(call.sent), "{span:#?}");
                }
                Some("7") => assert_eq!(span.str("error.type"), Some("refused_stream"), "{span:#?}"),
                Some("8") => assert_eq!(span.str("error.type"), Some("cancel"), "{span:#?}"),
                Some(other) => panic!("{path} ended with {other}"),
            }
        }
    }
}

/// Some programs of one shell script, behind an nginx with these servers, all seen from their first byte.
fn behind_nginx(dir: &TempDir, servers: &str, script: &str) -> Report {
    let config = format!(
        "user root; daemon off; worker_processes 1; pid nginx.pid; error_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n\
           client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n\
           {servers} }}\n"
    );
    dir.write("nginx.conf", &config).expect("a file");
    let folder = dir.path().display();
    let script = format!(
        "cd {folder}; nginx -p . -c nginx.conf -e error.log & N=$!; until [ -s nginx.pid ]; do sleep 0.05; done; \
         sleep 0.2; {script}; sleep 0.3; kill $N; wait $N; true"
    );
    tracer::run(&[], ["sh", "-c", &script]).expect("run")
}

/// One connection of h2load, with 1, 10 and 100 streams at a time: paths tell them apart.
#[test]
fn h2load_and_nginx() {
    let port = free_port().expect("a port");
    let servers = format!(
        "server {{ listen 127.0.0.1:{port} http2; http2_max_concurrent_streams 200; location / {{ return 200 'hello'; }} }}"
    );
    for streams in [1, 10, 100] {
        let dir = TempDir::new().expect("a folder");
        let count = scale::count(2000).max(100);
        let paths: Vec<String> = (0..count).map(|number| format!("/r{number}")).collect();
        let urls: Vec<String> = paths.iter().map(|path| format!("http://127.0.0.1:{port}{path}")).collect();
        dir.write("urls", &urls.join("\n")).expect("a file");
        let report =
            behind_nginx(&dir, &servers, &format!("h2load -n {count} -c 1 -m {streams} -i urls >log 2>&1"));
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(log.contains(&format!("{count} succeeded")), "{log}");
        check_joins(&report, paths.iter());
        assert_eq!(report.spans.len(), 2 * count, "{}", report.log);
        for span in &report.spans {
            assert_eq!(span.int("http.response.status_code"), Some(200), "{span:#?}");
            assert_eq!(span.int("http.response.body.size"), Some(5), "{span:#?}");
        }
    }
}

/// Long bodies both ways: their lengths are exact, though hardly anything of them is captured.
#[test]
fn long_bodies() {
    const LEN: usize = 3_000_000;
    let port = free_port().expect("a port");
    let dir = TempDir::new().expect("a folder");
    dir.write("long", &"x".repeat(LEN)).expect("a file");
    let servers = format!("server {{ listen 127.0.0.1:{port} http2; client_max_body_size 0; root .; }}");
    let gets: Vec<String> = (0..20).map(|number| format!("http://127.0.0.1:{port}/long?{number}")).collect();
    let script = format!(
        "nghttp -n -m 1 {}; curl -s --http2-prior-knowledge -o out --data-binary @long http://127.0.0.1:{port}/long",
        gets.join(" ")
    );
    let report = behind_nginx(&dir, &servers, &script);
    let of = |kind| report.spans.iter().filter(move |span| span.kind == kind && span.path() == Some("/long"));
    for kind in [Kind::Client, Kind::Server] {
        let gets: Vec<&Span> = of(kind).filter(|span| span.name == "GET").collect();
        assert_eq!(gets.len(), 20, "{}", report.log);
        for span in gets {
            assert_eq!(span.int("http.response.body.size"), i64::try_from(LEN).ok(), "{span:#?}");
        }
        let posts: Vec<&Span> = of(kind).filter(|span| span.name == "POST").collect();
        let [post] = posts.as_slice() else { panic!("{posts:#?}\n{}", report.log) };
        assert_eq!(post.int("http.response.status_code"), Some(405), "{post:#?}");
    }
    assert!(!report.log.contains("lost:"), "{}", report.log);
}

/// curl asks for HTTP/2 over HTTP/1.1, nghttpx agrees: the answer's status is not the one of the switch. From nghttpx to
/// nginx there are other streams.
#[test]
fn an_upgrade_in_clear() {
    let (front, back) = (free_port().expect("a port"), free_port().expect("a port"));
    let dir = TempDir::new().expect("a folder");
    let servers = format!(
        "server {{ listen 127.0.0.1:{back} http2; location /no {{ return 404; }} location / {{ return 200 'hello'; }} }}"
    );
    let script = format!(
        "nghttpx --conf=/dev/null -f127.0.0.1,{front}\\;no-tls -b127.0.0.1,{back}\\;\\;proto=h2 --workers=1 --single-process \
           >log 2>&1 & X=$!; sleep 1; \
         curl -s --http2 -o out http://127.0.0.1:{front}/a; \
         curl -s --http2 -o out -o out http://127.0.0.1:{front}/no1 http://127.0.0.1:{front}/b; \
         nghttp -n -u http://127.0.0.1:{front}/c http://127.0.0.1:{front}/d; \
         curl -s --http2-prior-knowledge -o out http://127.0.0.1:{front}/e; kill $X; wait $X"
    );
    let report = behind_nginx(&dir, &servers, &script);
    for path in ["/a", "/b", "/c", "/d", "/e", "/no1"] {
        let spans: Vec<&Span> = report.spans.iter().filter(|span| span.path() == Some(path)).collect();
        // The client's, both of nghttpx, nginx's.
        assert_eq!(spans.len(), 4, "{path} {spans:#?}\n{}", report.log);
        for span in spans {
            let status = if path == "/no1" { 404 } else { 200 };
            assert_eq!(span.int("http.response.status_code"), Some(status), "{span:#?}");
            let parent = report.spans.iter().find(|other| Some(&other.span_id) == span.parent.as_ref());
            assert_eq!(parent.is_some(), span.kind == Kind::Server, "{span:#?}");
            assert!(parent.is_none_or(|parent| parent.kind == Kind::Client && parent.path() == Some(path)));
        }
    }
    assert!(!report.log.contains("lost:"), "{}", report.log);
}

/// Connections that are older than the tracer, with 50 streams at a time: how much is known after a while.
struct Joined {
    who: &'static str,
    /// Of a hundred requests, how many have a span with its name, on either side, from one and from ten seconds on.
    named: [[u64; 2]; 2],
    /// Of either side, with a name or without.
    spans: [usize; 2],
}

const PER_SECOND: u64 = 200;

fn join_late(who: &'static str, mut server: Server, client: Command, name: &str) -> Joined {
    let mut client = Program::spawn("client", client).expect("a client");
    std::thread::sleep(Duration::from_secs(2));
    let mut pids = vec![client.pid(), server.program.pid()];
    pids.extend(tracer_tests::nginx::children(server.program.pid()).expect("children"));
    let tracer = Tracer::attach(&pids).expect("attach");
    let attached = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64;
    std::thread::sleep(Duration::from_secs(12));
    let report = tracer.finish().expect("tracer");
    client.stop(Signal::TERM).ok();
    server.program.stop(Signal::TERM).ok();
    let mut named = [[0; 2]; 2];
    let mut names = BTreeMap::new();
    for span in &report.spans {
        let known = span.str("rpc.method").or(span.path());
        *names.entry((span.kind, known.map(str::to_owned))).or_insert(0) += 1;
        // Nothing is made up: what is said is what all of these calls are.
        assert!(known.is_none_or(|known| known == name), "{span:#?}");
        assert!(span.str("rpc.response.status_code").is_none_or(|code| code == "OK"), "{span:#?}");
        assert!(span.int("http.response.status_code").is_none_or(|code| code == 200), "{span:#?}");
        assert!(
            span.str("http.request.method").is_none_or(|method| ["GET", "POST"].contains(&method)),
            "{span:#?}"
        );
        let side = usize::from(span.kind == Kind::Server);
        for (at, second) in [(0, 1), (1, 10)] {
            let since = span.start.saturating_sub(attached) / 1_000_000_000;
            if known.is_some() && since == second && span.start > attached {
                named[side][at] += 1;
            }
        }
    }
    let shares = named.map(|side| side.map(|count: u64| count * 100 / PER_SECOND));
    eprintln!("{who}: {shares:?} {names:?}\n{}", report.log);
    // Every join is one of two ends of a connection: start and end of the two agree.
    let clients: BTreeMap<&str, &Span> = report
        .spans
        .iter()
        .filter(|span| span.kind == Kind::Client)
        .map(|span| (span.span_id.as_str(), span))
        .collect();
    for span in report.spans.iter().filter(|span| span.parent.is_some()) {
        let parent = clients[span.parent.as_deref().unwrap_or_default()];
        assert!(parent.start <= span.end && span.start <= parent.end, "{span:#?} {parent:#?}");
    }
    let spans =
        [Kind::Client, Kind::Server].map(|kind| report.spans.iter().filter(|s| s.kind == kind).count());
    Joined { who, named: shares, spans }
}

#[test]
fn late_join() {
    let rate = PER_SECOND.to_string();
    let calls =
        ["--fixed", "--kinds", "Unary", "--concurrency", "50", "--count", "100000", "--per-second", &rate];
    let grpc = |who, runtime: Grpc, tls: &[&str]| {
        let server = Grpc::Go.serve(&[&["--hold-ms", "200"], tls].concat()).expect("a server");
        let target = server.addr.to_string();
        let client = runtime.command(&[&["--target", &target], tls, &calls[..]].concat()).expect("a client");
        join_late(who, server, client, "test.Echo/Unary")
    };
    let h2load = || {
        let port = free_port().expect("a port");
        let mut command = Command::new("nghttpd");
        let folder = TempDir::new().expect("a folder");
        folder.write("a", "hello").expect("a file");
        command.args(["--no-tls", "-a", "127.0.0.1", "-d"]).arg(folder.path()).arg(port.to_string());
        let program = Program::spawn("nghttpd", command).expect("a server");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        wait_listening(addr, Duration::from_secs(10)).expect("it listens");
        let mut client = Command::new("h2load");
        client.args(["-c", "1", "-m", "50", "--rps", &rate, "-D", "60", &format!("http://{addr}/a")]);
        join_late("nghttp2", Server { program, addr }, client, "/a")
    };
    let programs = [
        grpc("grpc-go", Grpc::Go, &[]),
        grpc("grpc-go, TLS", Grpc::Go, &["--tls"]),
        grpc("grpc-python", Grpc::Python, &[]),
        h2load(),
    ];
    for joined in programs {
        let Joined { who, named, spans } = joined;
        assert!(spans.iter().all(|count| *count as u64 > 5 * PER_SECOND), "{who}: {spans:?}");
        for (side, [early, late]) in ["client", "server"].into_iter().zip(named) {
            eprintln!("{who} {side}: of 100 requests {early} are named after a second, {late} after ten");
        }
    }
}

/// Operations that end behind any byte of a frame, and gather it from pieces of any size, on real sockets: frames are
/// followed through all of it, and what is left out of long bodies is known to the byte.
#[test]
fn frames_in_pieces() {
    const LONG: i64 = 5000;
    let sizes: Vec<String> =
        (1..=14).chain([17, 100, 255, 999, 1010, 4096]).map(|size: u32| size.to_string()).collect();
    let script = workload("frames.py").display().to_string();
    let mut command = vec!["python3".to_owned(), script];
    command.extend(sizes.iter().cloned());
    let report = tracer::run(&[], command).expect("run");
    let mut paths = Vec::new();
    for size in &sizes {
        for how in ["single", "gathered"] {
            paths.extend([1, 2].map(|number| format!("/{size}-{how}/{number}")));
        }
    }
    check_joins(&report, paths.iter());
    assert_eq!(report.spans.len(), 2 * paths.len(), "{}", report.log);
    for span in &report.spans {
        let len = if span.path().is_some_and(|path| path.ends_with("/1")) { LONG } else { 0 };
        for key in ["http.request.body.size", "http.response.body.size"] {
            assert_eq!(span.int(key), Some(len), "{key} {span:#?}");
        }
        assert_eq!(span.int("http.response.status_code"), Some(200), "{span:#?}");
        assert_eq!(span.str("tracer.incomplete"), None, "{span:#?}");
    }
}
