//! TLS of unmodified programs: every exchange is seen at both ends, has the addresses of its socket, and is joined.
//!
//! The oracle is in the paths of the requests, each of which is asked for once, and in the ports that the programs
//! themselves say they used for it.

mod boringssl;
mod gnutls;
mod newer;
mod older;
mod rustls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tracer_tests::http::drive;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::Program;
use tracer_tests::scale;
use tracer_tests::service::{go_program, workload};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;

/// The interpreter whose `ssl` uses the system's OpenSSL.
const PYTHON: &str = "/usr/bin/python3";

const PATIENCE: Duration = Duration::from_secs(120);

const CONCURRENCY: [usize; 3] = [1, 8, 64];

/// An authority, and a certificate of it for loopback.
struct Identity {
    authority: String,
    certificate: String,
    key: String,
    _dir: TempDir,
}

impl Identity {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate whose issuer has the name of its subject counts as one that is its own issuer's.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("key");
        let authority = params.self_signed(&key).expect("authority").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("key");
        let params =
            CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("certificate").pem();
        let dir = TempDir::new().expect("folder");
        let write = |name: &str, text: &str| dir.write(name, text).expect("write").display().to_string();
        Self {
            authority: write("authority.pem", &authority),
            certificate: write("certificate.pem", &certificate),
            key: write("key.pem", &key.serialize_pem()),
            _dir: dir,
        }
    }

    fn nginx(&self, workers: usize) -> Nginx {
        let Self { certificate, key, .. } = self;
        let http = "log_format port '$request_uri $remote_port';";
        let server = format!(
            "access_log ports.log port; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}; \
             location / {{ return 200 'hello\\n'; }}"
        );
        Nginx::start_tls(&Config { workers, http: http.to_owned(), server }).expect("nginx")
    }

    fn go(&self, go: &Go) -> (Program, u16) {
        let mut command = Command::new(&go.program);
        command.args(["serve", &self.certificate, &self.key]);
        let program = Program::spawn(go.name, command).expect("server");
        let port = program.wait_stdout("port ", PATIENCE).expect("port").parse().expect("port");
        (program, port)
    }

    fn python(&self) -> (Program, u16) {
        self.server(PYTHON, "tls_server.py")
    }

    /// A server that says on which port it is.
    fn server(&self, runs: &str, name: &str) -> (Program, u16) {
        self.server_of(Command::new(runs), name)
    }

    fn server_of(&self, mut command: Command, name: &str) -> (Program, u16) {
        command.arg(workload(name)).args([&self.certificate, &self.key]);
        let program = Program::spawn(name, command).expect("server");
        let port = program.wait_stdout("port ", PATIENCE).expect("port").parse().expect("port");
        (program, port)
    }
}

/// A program with Go's own TLS, by a version of Go that is here, with its symbols or without.
struct Go {
    name: &'static str,
    /// As the tracer says it, or how that begins.
    version: String,
    program: PathBuf,
}

/// Those which the rows use: the version of this machine, the newest, and the oldest that is known.
fn go_builds() -> Vec<Go> {
    let stripped: &[&str] = &["-ldflags=-s -w"];
    [
        ("go", "local", &[][..]),
        ("go-1.27-stripped", "go1.27.3", stripped),
        ("go-1.22", "go1.22.12", &[]),
        ("go-1.22-stripped", "go1.22.12", stripped),
    ]
    .into_iter()
    .filter_map(|(name, version, flags)| {
        let built = go_program("tls.go", &format!("tls-{name}"), version, flags);
        match built {
            Ok(program) => {
                Some(Go { name, version: version.replace("local", "go1.").replace("go", "Go "), program })
            }
            Err(error) if version != "local" => {
                eprintln!("{name}: {error:#}");
                None
            }
            Err(error) => panic!("{name}: {error:#}"),
        }
    })
    .collect()
}

/// Which local port each path was asked for from.
type Ports = BTreeMap<String, u16>;

/// A client that asks when it is told to.
struct Asker {
    program: Program,
    input: std::process::ChildStdin,
    lines: usize,
}

impl Asker {
    fn start(identity: &Identity) -> Self {
        Self::running(PYTHON, "tls_client.py", identity)
    }

    fn running(runs: &str, name: &str, identity: &Identity) -> Self {
        Self::running_on(Command::new(runs), name, identity)
    }

    fn running_on(mut command: Command, name: &str, identity: &Identity) -> Self {
        command.arg(workload(name)).arg(&identity.authority);
        Self::spawn(name, command)
    }

    fn go(identity: &Identity, go: &Go) -> Self {
        let mut command = Command::new(&go.program);
        command.args(["ask", &identity.authority]);
        Self::spawn(go.name, command)
    }

    fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        let mut program = Program::spawn(name, command).expect("client");
        let input = program.stdin().expect("standard input");
        Self { program, input, lines: 0 }
    }

    fn ask(&mut self, port: u16, cell: &Cell, count: usize, version: &str) -> Ports {
        let Cell { name, concurrency, keep } = cell;
        let mode = if *keep { "keep" } else { "new" };
        writeln!(self.input, "{port} {name} {concurrency} {count} {mode} {version}").expect("ask");
        self.program.wait_stdout(&format!("done {name}"), PATIENCE).expect("answers");
        let lines = self.program.stdout_lines(self.lines);
        self.lines += lines.len();
        lines.iter().filter_map(|line| port_of(line)).collect()
    }
}

/// `PATH PORT`, or a whole URL in place of the path.
fn port_of(line: &str) -> Option<(String, u16)> {
    let (path, port) = line.split_once(' ')?;
    Some((path.get(path.find("/work/")?..)?.to_owned(), port.parse().ok()?))
}

struct Cell {
    name: String,
    concurrency: usize,
    keep: bool,
}

fn cells(row: &str) -> Vec<Cell> {
    let cell = |(concurrency, keep): (usize, bool)| Cell {
        name: format!("{row}-{concurrency}-{}", if keep { "keep" } else { "new" }),
        concurrency,
        keep,
    };
    CONCURRENCY
        .iter()
        .flat_map(|&concurrency| [(concurrency, true), (concurrency, false)])
        .map(cell)
        .collect()
}

fn count(cell: &Cell) -> usize {
    // A whole number of requests for each connection.
    let wanted = scale::count(if cell.keep { 1600 } else { 320 });
    wanted.div_ceil(cell.concurrency) * cell.concurrency
}

/// What became of a cell's requests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    asked: usize,
    /// Seen at both ends, with the ports that the programs say, and joined.
    right: usize,
    incomplete: usize,
    /// Spans that are missing, or have no addresses, or no parent.
    missing: usize,
    /// What is said and is not so.
    wrong: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, right, incomplete, missing, wrong } = self;
        write!(
            f,
            "{asked} asked, {right} right, {missing} missing, {incomplete} incomplete, {} wrong",
            wrong.len()
        )
    }
}

/// Every request is one span of a client and one of the server on this port, the server's below the client's.
fn score(spans: &[Span], ports: &Ports, server: u16, version: Option<&str>) -> Outcome {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let mut ends: BTreeMap<&str, [Vec<&Span>; 2]> = BTreeMap::new();
    for span in spans {
        let secured = span.str("url.scheme") == Some("https")
            || span.str("url.full").is_some_and(|url| url.starts_with("https://"));
        if let Some(path) = span.path().filter(|_| secured) {
            ends.entry(path).or_default()[usize::from(span.kind == Kind::Client)].push(span);
        }
    }
    let mut outcome = Outcome { asked: ports.len(), ..Outcome::default() };
    for (path, &port) in ports {
        let [served, called] = ends.remove(path.as_str()).unwrap_or_default();
        if served.len() > 1 || called.len() > 1 {
            outcome.wrong.push(format!("{path}: {} servers, {} clients", served.len(), called.len()));
            continue;
        }
        let (Some(served), Some(called)) = (served.first(), called.first()) else {
            outcome.missing += 1;
            continue;
        };
        let port_is = |span: &Span, key: &str, want: u16| span.int(key).map(|found| found == i64::from(want));
        let facts = [
            port_is(served, "network.local.port", server),
            port_is(served, "network.peer.port", port),
            port_is(called, "network.local.port", port),
            port_is(called, "network.peer.port", server),
            served
                .parent
                .as_deref()
                .map(|parent| by_id.get(parent).is_some_and(|span| span.path() == Some(path))),
            version.and_then(|version| Some(served.str("tls.protocol.version")? == version)).or(Some(true)),
        ];
        if facts.contains(&Some(false)) {
            outcome.wrong.push(format!("{path} from {port}: {facts:?}: {served:#?} {called:#?}"));
        } else if facts.contains(&None) {
            outcome.missing += 1;
        } else {
            outcome.right += 1;
        }
        outcome.incomplete +=
            usize::from([served, called].iter().any(|span| span.str("tracer.incomplete").is_some()));
    }
    outcome
}

/// The same of a whole row, whose cells are small.
fn check_row<'c>(name: &str, cells: impl Iterator<Item = (&'c Cell, &'c str, Outcome)>, log: &str) {
    let mut row = Outcome::default();
    for (cell, version, outcome) in cells {
        eprintln!("{:<40} {outcome}", format!("{name} {} {version}", cell.name));
        row.asked += outcome.asked;
        row.right += outcome.right;
        row.incomplete += outcome.incomplete;
        row.missing += outcome.missing;
        row.wrong.extend(outcome.wrong);
    }
    assert!(row.asked > 0, "{name}: nothing was asked");
    assert!(row.wrong.is_empty(), "{name}: {:#?}\n{log}", row.wrong.first());
    assert!(row.right * 1000 >= row.asked * 999, "{name}: {row}\n{log}");
    assert!(row.incomplete * 1000 <= row.asked, "{name}: {row}\n{log}");
}

/// Prints a line of the table; nothing may be wrong, and of a thousand at most one not known.
fn check(name: &str, outcome: &Outcome, log: &str) {
    eprintln!("{name:<28} {outcome}");
    assert!(outcome.asked > 0, "{name}: nothing was asked");
    assert!(outcome.wrong.is_empty(), "{name}: {:#?}\n{log}", outcome.wrong.first());
    assert!(outcome.right * 1000 >= outcome.asked * 999, "{name}: {outcome}\n{log}");
    assert_eq!(outcome.incomplete, 0, "{name}: {outcome}\n{log}");
}

#[test]
fn python_asks_nginx() {
    let identity = Identity::new();
    let nginx = identity.nginx(2);
    nginx_is_joined("python → nginx", "pn", &nginx, Asker::start(&identity));
}

fn nginx_is_joined(name: &str, row: &str, nginx: &Nginx, asker: Asker) {
    let pids = nginx.pids().expect("pids");
    are_joined(name, row, &pids, nginx.addr.port(), asker, count);
}

fn all_is_joined(name: &str, row: &str, (server, port): (Program, u16), asker: Asker) {
    let half = |cell: &Cell| (count(cell) / 2).max(cell.concurrency);
    are_joined(name, row, &[server.pid()], port, asker, half);
}

/// Every cell of a client and a server; at eight at a time with TLS 1.2.
fn are_joined(
    name: &str,
    row: &str,
    servers: &[u32],
    port: u16,
    mut asker: Asker,
    count: impl Fn(&Cell) -> usize,
) {
    let pids: Vec<u32> = servers.iter().copied().chain([asker.program.pid()]).collect();
    let tracer = Tracer::attach(&pids).expect("attach");
    let asked: Vec<(Cell, Ports, &str)> = cells(row)
        .into_iter()
        .map(|cell| {
            let version = if cell.concurrency == 8 { "1.2" } else { "1.3" };
            let ports = asker.ask(port, &cell, count(&cell), version);
            (cell, ports, version)
        })
        .collect();
    let report = tracer.finish().expect("tracer");
    for (cell, ports, version) in &asked {
        let outcome = score(&report.spans, ports, port, Some(version));
        check(&format!("{name} {} {version}", cell.name), &outcome, &report.log);
    }
}

#[test]
fn python_asks_python() {
    let identity = Identity::new();
    all_is_joined("python → python", "pp", identity.python(), Asker::start(&identity));
}

/// Records that the program itself moves between the library and the socket.
#[test]
fn asyncio_asks_asyncio() {
    let identity = Identity::new();
    let server = identity.server(PYTHON, "tls_asyncio_server.py");
    let asker = Asker::running(PYTHON, "tls_asyncio_client.py", &identity);
    all_is_joined("asyncio → asyncio", "aa", server, asker);
}

/// A library that is a part of the program, besides.
#[test]
fn node_asks_node() {
    let identity = Identity::new();
    let server = identity.server("node", "tls_server.js");
    let asker = Asker::running("node", "tls_client.js", &identity);
    all_is_joined("node → node", "jj", server, asker);
}

#[test]
fn node_asks_asyncio() {
    let identity = Identity::new();
    let server = identity.server(PYTHON, "tls_asyncio_server.py");
    let asker = Asker::running("node", "tls_client.js", &identity);
    all_is_joined("node → asyncio", "ja", server, asker);
}

#[test]
fn asyncio_asks_node() {
    let identity = Identity::new();
    let server = identity.server("node", "tls_server.js");
    let asker = Asker::running(PYTHON, "tls_asyncio_client.py", &identity);
    all_is_joined("asyncio → node", "aj", server, asker);
}

/// Go's own TLS at both ends, of several versions, with symbols and without: each build serves, and asks another one.
#[test]
fn go_asks_go() {
    let identity = Identity::new();
    let builds = go_builds();
    for (n, server) in builds.iter().enumerate() {
        let client = &builds[(n + 1) % builds.len()];
        ask_go(&identity, server, Asker::go(&identity, client), client.name, &["1.3", "1.2"]);
    }
}

/// HTTP/2, which both ends of Go agree on.
#[test]
fn go_asks_go_by_http2() {
    let identity = Identity::new();
    let builds = go_builds();
    for (server, client) in builds.iter().zip(builds.iter().rev()) {
        ask_go(&identity, server, Asker::go(&identity, client), client.name, &["h2"]);
    }
}

/// Each end of Go with one of OpenSSL.
#[test]
fn go_asks_nginx_and_python_asks_go() {
    let identity = Identity::new();
    let builds = go_builds();
    for go in &builds {
        ask_go(&identity, go, Asker::start(&identity), "python", &["1.3", "1.2"]);
    }
    for go in &builds {
        let nginx = identity.nginx(2);
        let mut asker = Asker::go(&identity, go);
        let mut pids = nginx.pids().expect("pids");
        pids.push(asker.program.pid());
        let tracer = Tracer::attach(&pids).expect("attach");
        let asked = ask_all(&mut asker, nginx.addr.port(), &["1.3", "1.2"]);
        let report = tracer.finish().expect("tracer");
        let scored = asked.iter().map(|(cell, ports, version)| {
            (cell, *version, score(&report.spans, ports, nginx.addr.port(), Some(version)))
        });
        check_row(&format!("{} → nginx", go.name), scored, &report.log);
    }
}

/// Every cell of a row, its versions of TLS taking turns.
fn ask_all<'v>(asker: &mut Asker, port: u16, versions: &[&'v str]) -> Vec<(Cell, Ports, &'v str)> {
    let ask = |(cell, version): (Cell, &'v str)| {
        let ports = asker.ask(port, &cell, count(&cell) / 2, version);
        (cell, ports, version)
    };
    cells("go").into_iter().zip(versions.iter().copied().cycle()).map(ask).collect()
}

fn ask_go(identity: &Identity, go: &Go, mut asker: Asker, client: &str, versions: &[&str]) {
    let (server, port) = identity.go(go);
    let tracer = Tracer::attach_with(&[server.pid(), asker.program.pid()], &["-vv"]).expect("attach");
    let asked = ask_all(&mut asker, port, versions);
    let report = tracer.finish().expect("tracer");
    let told = report.log.lines().any(|line| {
        line.contains(&format!("process {}: crypto/tls of {}", server.pid(), go.version))
            && line.contains("crypto/tls.(*Conn).Read")
    });
    assert!(told, "{}", report.log);
    let scored = asked.iter().map(|(cell, ports, version)| {
        let said = (*version != "h2").then_some(*version).or(Some("1.3"));
        (cell, *version, score(&report.spans, ports, port, said))
    });
    check_row(&format!("{client} → {}", go.name), scored, &report.log);
}

/// A program of Go whose functions have no names that are known says so.
#[test]
fn a_program_of_go_without_its_tables_is_named() {
    let identity = Identity::new();
    let stripped = go_program("tls.go", "tls-go-stripped", "local", &["-ldflags=-s -w"]).expect("build");
    let dir = TempDir::new().expect("folder");
    let program = dir.path().join("nameless");
    let mut bytes = std::fs::read(stripped).expect("program");
    // The names of the functions that would be probed, and nothing that the program itself uses.
    let names: [&[u8]; 5] = [b"Read", b"Write", b"Close", b"clientHandshake", b"serverHandshake"];
    for name in names {
        let full = [&b"\0crypto/tls.(*Conn)."[..], name, b"\0"].concat();
        let at = bytes.windows(full.len()).position(|window| window == full).expect("name");
        bytes[at + full.len() - 2] = b'_';
    }
    std::fs::write(&program, &bytes).expect("write");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let nameless = Go { name: "nameless", version: String::new(), program };
    let (server, port) = identity.go(&nameless);
    let mut asker = Asker::start(&identity);
    let tracer = Tracer::attach(&[server.pid(), asker.program.pid()]).expect("attach");
    let cell = Cell { name: "nameless".to_owned(), concurrency: 1, keep: true };
    assert_eq!(asker.ask(port, &cell, 5, "1.3").len(), 5);
    let report = tracer.finish().expect("tracer");
    assert!(report.spans.iter().all(|span| span.kind == Kind::Client), "{:#?}", report.spans);
    let named = report.log.lines().any(|line| {
        line.contains("not recognised: nameless")
            && line.contains("TLS on 1 connection")
            && line.contains("no crypto/tls, or under other names")
    });
    assert!(named, "{}", report.log);
}

/// Debian's curl, each one started by a shell while it is traced already.
#[test]
fn curl_asks_nginx() {
    started_ask_nginx("curl", "cn", |started| {
        let Started { authority, cell, port, number, each } = started;
        let close = if cell.keep { "" } else { "-H 'Connection: close'" };
        format!(
            "curl -s -o /dev/null --cacert {authority} {close} \
             'https://127.0.0.1:{port}/work/[0-{}].{number}.{}'",
            each - 1,
            cell.name
        )
    });
}

/// One of the programs of a cell that a shell starts at a time.
struct Started<'a> {
    authority: &'a str,
    cell: &'a Cell,
    port: u16,
    number: usize,
    /// How often it is to ask, for `/work/N.{number}.{cell}`, from 0 on.
    each: usize,
}

fn started_ask_nginx(name: &str, row: &str, command: impl Fn(Started<'_>) -> String) {
    let identity = Identity::new();
    let nginx = identity.nginx(2);
    let port = nginx.addr.port();
    let mut shell = Command::new("sh");
    let script = "while read -r line; do eval \"$line\"; done";
    shell.args(["-c", script]).stdin(Stdio::piped());
    let mut shell = Program::spawn("sh", shell).expect("shell");
    let mut input = shell.stdin().expect("standard input");
    let mut pids = nginx.pids().expect("pids");
    pids.push(shell.pid());
    let tracer = Tracer::attach(&pids).expect("attach");
    let mut asked = Vec::new();
    for cell in cells(row) {
        let each = (count(&cell) / 2).div_ceil(cell.concurrency);
        let one = |number| {
            let (authority, cell) = (identity.authority.as_str(), &cell);
            command(Started { authority, cell, port, number, each }) + " & "
        };
        let all: String = (0..cell.concurrency).map(one).collect();
        writeln!(input, "{all} wait; echo done {}", cell.name).expect("ask");
        shell.wait_stdout(&format!("done {}", cell.name), PATIENCE).expect("answers");
        asked.push((each * cell.concurrency, cell));
    }
    let report = tracer.finish().expect("tracer");
    // nginx says from which port each request came.
    let log = std::fs::read_to_string(nginx.dir().join("ports.log")).expect("log");
    let mut unheard = BTreeSet::new();
    for (count, cell) in &asked {
        let of_cell = |(path, _): &(String, u16)| path.ends_with(&format!(".{}", cell.name));
        let ports: Ports = log.lines().filter_map(port_of).filter(of_cell).collect();
        assert_eq!(ports.len(), *count, "{}", shell.stderr());
        let outcome = score(&report.spans, &ports, port, None);
        let row = format!("{name} → nginx {}", cell.name);
        // Those that are started may be over before they are probed, many at a time rather than one on a machine that does
        // little else: then that is said, and nothing wrong.
        eprintln!("{row:<28} {outcome}");
        assert!(cell.concurrency > 1 || outcome.right * 100 >= outcome.asked * 95, "{row}\n{}", report.log);
        assert!(outcome.wrong.is_empty(), "{row}: {:#?}\n{}", outcome.wrong.first(), report.log);
        let called: BTreeSet<&str> =
            report.spans.iter().filter(|span| span.kind == Kind::Client).filter_map(Span::path).collect();
        let (heard, missed): (Vec<_>, Vec<_>) =
            ports.iter().partition(|(path, _)| called.contains(path.as_str()));
        // Of a connection that was heard from its middle on nothing says that it had begun before.
        let heard: BTreeSet<u16> = heard.into_iter().map(|(_, port)| *port).collect();
        unheard.extend(missed.into_iter().map(|(_, port)| *port).filter(|port| !heard.contains(port)));
    }
    // A connection has a port, and each of those that were not heard is counted.
    let said: usize = report.log.lines().filter_map(|line| connections_of(line, name)).sum();
    assert!(said >= unheard.len(), "{said} of {} are said\n{}", unheard.len(), report.log);
}

/// Of `not recognised: NAME (PIDS): WHAT on N connections, …`.
fn connections_of(line: &str, name: &str) -> Option<usize> {
    let (_, what) = line.split_once(&format!("not recognised: {name} ("))?;
    let (_, count) = what.split_once(" on ")?;
    count.split(' ').next()?.parse().ok()
}

/// What a shell starts one after the other is heard from the first one on.
#[test]
fn curls_in_a_loop() {
    const CURLS: usize = 40;
    let identity = Identity::new();
    let nginx = identity.nginx(1);
    let script = format!(
        "for n in $(seq {CURLS}); do curl -s --cacert {} https://127.0.0.1:{}/loop/$n >/dev/null; done",
        identity.authority,
        nginx.addr.port()
    );
    let report = tracer_tests::tracer::run(&["-vv"], ["sh", "-c", &script]).expect("run");
    let heard =
        report.spans.iter().filter(|span| span.path().is_some_and(|path| path.starts_with("/loop/"))).count();
    let said: usize = report.log.lines().filter_map(|line| connections_of(line, "curl")).sum();
    eprintln!("{heard} of {CURLS} heard, {said} said");
    assert!(heard + said >= CURLS, "not all are told of\n{}", report.log);
    // What waits to execute a program is the tracer's own image. It was looked at once, which made the tracer deaf for a
    // third of a second.
    assert!(!report.log.contains("tokio"), "{}", report.log);
    assert!(2 * heard > CURLS, "{heard} of {CURLS}\n{}", report.log);
}

/// nginx as the client: requests in clear come in, and go on through TLS.
#[test]
fn nginx_asks_nginx() {
    let identity = Identity::new();
    let backend = identity.nginx(1);
    for keep in [true, false] {
        let upstream = backend.addr.to_string();
        let config = Config::proxy(1, &upstream, keep);
        let server = config.server.replace("http://backend", "https://backend");
        let front = Nginx::start(&Config { server, ..config }).expect("nginx");
        let pids: Vec<u32> =
            front.pids().expect("pids").into_iter().chain(backend.pids().expect("pids")).collect();
        let log = backend.dir().join("ports.log");
        let before = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        let tracer = Tracer::attach(&pids).expect("attach");
        let mut names = Vec::new();
        for cell in cells("nn").into_iter().filter(|cell| cell.keep == keep) {
            drive(front.addr, cell.concurrency, count(&cell), |client, number| {
                let response = client.get(&format!("/work/{}.{number}", cell.name))?;
                anyhow::ensure!(response.status == 200, "{}", response.status);
                Ok(())
            })
            .expect("requests");
            names.push(cell.name);
        }
        let report = tracer.finish().expect("tracer");
        // The front's connections may be kept: the backend says from which port each request came.
        let text = std::fs::read_to_string(&log).expect("log");
        let ports: Vec<(String, u16)> = text.lines().skip(before).filter_map(port_of).collect();
        for name in names {
            let of_cell = format!("/work/{name}.");
            let ports: Ports = ports.iter().filter(|(path, _)| path.starts_with(&of_cell)).cloned().collect();
            let outcome = score(&report.spans, &ports, backend.addr.port(), None);
            check(&format!("nginx → nginx {name}"), &outcome, &report.log);
        }
    }
}

/// Bytes of the library in the process's memory that differ from the file's.
fn breakpoints(pid: u32) -> usize {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let line = maps.lines().find(|line| line.contains("libssl.so") && line.contains("r-xp")).expect("libssl");
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("range");
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("number");
    let (start, end) = (hex(start), hex(end));
    let offset = hex(fields.nth(1).expect("offset"));
    let path = fields.nth(2).expect("path");
    let mut memory = vec![0; (end - start) as usize];
    let mem = std::fs::File::open(format!("/proc/{pid}/mem")).expect("memory");
    mem.read_exact_at(&mut memory, start).expect("memory");
    let file = std::fs::read(path).expect("library");
    let text = &file[offset as usize..file.len().min(offset as usize + memory.len())];
    text.iter().zip(&memory).filter(|(a, b)| a != b).count()
}

#[test]
fn a_killed_tracer_leaves_no_breakpoint_and_no_broken_program() {
    let identity = Identity::new();
    let (server, port) = identity.python();
    let mut asker = Asker::start(&identity);
    assert_eq!(breakpoints(server.pid()), 0);
    let mut tracer = Tracer::attach(&[server.pid(), asker.program.pid()]).expect("attach");
    assert!(breakpoints(server.pid()) > 0);
    let cell = |name: &str| Cell { name: name.to_owned(), concurrency: 8, keep: false };
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        tracer.program().stop(Signal::KILL)
    });
    assert_eq!(asker.ask(port, &cell("load"), 400, "1.3").len(), 400);
    killer.join().expect("thread").expect("kill");
    // The kernel ends probes when it closes the tracer's descriptors.
    let gone = (0..1200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        breakpoints(server.pid()) == 0 && breakpoints(asker.program.pid()) == 0
    });
    assert!(gone, "{} bytes differ", breakpoints(server.pid()));
    assert_eq!(asker.ask(port, &cell("after"), 40, "1.3").len(), 40);
}

/// Who is not traced does not pay: its memory has no breakpoint.
#[test]
fn a_neighbour_is_left_alone() {
    let identity = Identity::new();
    let (traced, _) = identity.python();
    let (other, port) = identity.python();
    let mut asker = Asker::start(&identity);
    let tracer = Tracer::attach(&[traced.pid()]).expect("attach");
    assert!(breakpoints(traced.pid()) > 0);
    assert_eq!((breakpoints(other.pid()), breakpoints(asker.program.pid())), (0, 0));
    let cell = Cell { name: "other".to_owned(), concurrency: 8, keep: false };
    assert_eq!(asker.ask(port, &cell, 80, "1.3").len(), 80);
    let report = tracer.finish().expect("tracer");
    assert!(report.spans.is_empty(), "{:#?}", report.spans);
    let gone = (0..1200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        breakpoints(traced.pid()) == 0
    });
    assert!(gone, "{} bytes differ", breakpoints(traced.pid()));
}

/// What is encrypted and not read is said.
#[test]
fn tls_of_another_library_is_named() {
    let identity = Identity::new();
    let (server, port) = identity.python();
    let mut command = Command::new("java");
    command
        .arg(workload("TlsAsk.java"))
        .arg(format!("https://127.0.0.1:{port}/work/1"))
        .stdin(Stdio::piped());
    let mut java = Program::spawn("java", command).expect("java");
    java.wait_stdout("ready", PATIENCE).expect("java");
    let tracer = Tracer::attach(&[server.pid(), java.pid()]).expect("attach");
    java.stdin().expect("standard input").write_all(b"go\n").expect("go");
    java.wait_stdout("done", PATIENCE).expect("answer");
    let report = tracer.finish().expect("tracer");
    let kinds: BTreeSet<Kind> = report.spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds, BTreeSet::from([Kind::Server]), "{}", report.log);
    let named = report.log.lines().any(|line| {
        line.contains("not recognised: ")
            && line.contains("TLS on 1 connection")
            && line.contains("the Java runtime's own TLS is not watched")
    });
    assert!(named, "{}", report.log);
}
