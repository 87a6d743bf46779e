//! Programs with rustls: hyper as a server, and as a client, of each build that cargo makes without being told much.

use tracer_tests::rust::{Build, rust_program};

use super::*;

/// What has symbols is read.
const BUILDS: [Build; 3] = [Build::Debug, Build::Release, Build::Lto];

/// As the tracer says it of each process.
const PROBED: &str = "rustls 0.23.";

const NAME: &str = "tls_rustls";

impl Identity {
    fn rustls(&self, build: Build) -> (Program, u16) {
        let mut command = Command::new(rust_program(NAME, build).expect("build"));
        command.args(["serve", &self.certificate, &self.key]);
        let program = Program::spawn(build.name(), command).expect("server");
        let port = program.wait_stdout("port ", PATIENCE).expect("port").parse().expect("port");
        (program, port)
    }

    fn rustls_asker(&self, build: Build) -> Asker {
        let mut command = Command::new(rust_program(NAME, build).expect("build"));
        command.args(["ask", &self.authority]);
        Asker::spawn(build.name(), command)
    }
}

/// Each row's cells, half of them with TLS 1.2: kept connections for one build, new ones for the next.
fn rows(name: &str, pids: &[u32], port: u16, asker: Asker, turn: usize) {
    let versions = if turn.is_multiple_of(2) { ["1.3", "1.2"] } else { ["1.2", "1.3"] };
    rows_with(name, pids, port, asker, &versions);
}

fn rows_with(name: &str, pids: &[u32], port: u16, mut asker: Asker, versions: &[&str]) {
    let pids: Vec<u32> = pids.iter().copied().chain([asker.program.pid()]).collect();
    let tracer = Tracer::attach_with(&pids, &["-vv"]).expect("attach");
    let asked = ask_all(&mut asker, port, versions);
    let report = tracer.finish().expect("tracer");
    let told = report.log.lines().any(|line| {
        line.contains(PROBED) && line.contains("MessageEncrypter::encrypt") && line.contains("is probed")
    });
    assert!(told, "{}", report.log);
    let scored = asked.iter().map(|(cell, ports, version)| {
        let said = (*version != "h2").then_some(*version).or(Some("1.3"));
        (cell, *version, score(&report.spans, ports, port, said))
    });
    check_row(name, scored, &report.log);
}

#[test]
fn rust_asks_rust() {
    let identity = Identity::new();
    for (turn, build) in BUILDS.into_iter().enumerate() {
        let (server, port) = identity.rustls(build);
        let other = BUILDS[(turn + 1) % BUILDS.len()];
        let name = format!("rustls {} → rustls {}", other.name(), build.name());
        rows(&name, &[server.pid()], port, identity.rustls_asker(other), turn);
    }
}

#[test]
fn rust_asks_rust_by_http2() {
    let identity = Identity::new();
    for (turn, build) in BUILDS.into_iter().enumerate() {
        let (server, port) = identity.rustls(build);
        let other = BUILDS[(turn + 1) % BUILDS.len()];
        let name = format!("rustls {} → rustls {}", other.name(), build.name());
        rows_with(&name, &[server.pid()], port, identity.rustls_asker(other), &["h2"]);
    }
}

#[test]
fn python_asks_rust() {
    let identity = Identity::new();
    for (turn, build) in BUILDS.into_iter().enumerate() {
        let (server, port) = identity.rustls(build);
        let name = format!("python → rustls {}", build.name());
        rows(&name, &[server.pid()], port, Asker::start(&identity), turn);
    }
}

#[test]
fn rust_asks_nginx() {
    let identity = Identity::new();
    let nginx = identity.nginx(2);
    let pids = nginx.pids().expect("pids");
    for (turn, build) in BUILDS.into_iter().enumerate() {
        let name = format!("rustls {} → nginx", build.name());
        rows(&name, &pids, nginx.addr.port(), identity.rustls_asker(build), turn);
    }
}

/// Go's records of TLS 1.2 begin with a number that those of all connections share.
#[test]
fn go_asks_rust() {
    let identity = Identity::new();
    let go = go_builds().into_iter().next().expect("Go");
    for (turn, build) in BUILDS.into_iter().enumerate() {
        let (server, port) = identity.rustls(build);
        let name = format!("go → rustls {}", build.name());
        rows(&name, &[server.pid()], port, Asker::go(&identity, &go), turn);
    }
}

/// Without symbols it is not read, which is said, and nothing else of it.
#[test]
fn a_stripped_program_is_named() {
    let identity = Identity::new();
    let (server, port) = identity.rustls(Build::Stripped);
    let mut doctor = Command::new(tracer_tests::tracer::binary().expect("tracer"));
    doctor.args(["doctor", "--pid", &server.pid().to_string()]);
    let said = doctor.output().expect("doctor");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains(PROBED) && said.contains("no symbol to probe"), "{said}");
    let mut asker = Asker::start(&identity);
    let tracer = Tracer::attach(&[server.pid(), asker.program.pid()]).expect("attach");
    let cell = Cell { name: "stripped".to_owned(), concurrency: 1, keep: true };
    assert_eq!(asker.ask(port, &cell, 5, "1.3").len(), 5);
    let report = tracer.finish().expect("tracer");
    assert!(report.spans.iter().all(|span| span.kind == Kind::Client), "{:#?}", report.spans);
    let named = report.log.lines().any(|line| {
        line.contains("not recognised: ")
            && line.contains("TLS on 1 connection")
            && line.contains("no symbol to probe")
    });
    assert!(named, "{}", report.log);
}
