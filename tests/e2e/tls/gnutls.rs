//! Programs that speak TLS through GnuTLS: lighttpd, libcurl as Debian's pycurl has it, wget, gnutls-serv and gnutls-cli.

use tracer_tests::lighttpd::Lighttpd;
use tracer_tests::program::{free_port, wait_listening};

use super::*;

/// As the tracer says it of each process.
const PROBED: &str = "GnuTLS 3.";

impl Identity {
    fn lighttpd(&self) -> Lighttpd {
        Lighttpd::start(&self.certificate, &self.key).expect("lighttpd")
    }

    fn pycurl(&self) -> Asker {
        Asker::running(PYTHON, "tls_curl.py", self)
    }
}

#[test]
fn pycurl_asks_nginx() {
    let identity = Identity::new();
    let nginx = identity.nginx(2);
    nginx_is_joined("pycurl → nginx", "cun", &nginx, identity.pycurl());
}

#[test]
fn python_asks_lighttpd() {
    let identity = Identity::new();
    let lighttpd = identity.lighttpd();
    let port = lighttpd.addr.port();
    let asker = Asker::start(&identity);
    are_joined("python → lighttpd", "pl", &[lighttpd.program.pid()], port, asker, count);
}

#[test]
fn pycurl_asks_lighttpd() {
    let identity = Identity::new();
    let lighttpd = identity.lighttpd();
    let port = lighttpd.addr.port();
    are_joined("pycurl → lighttpd", "cul", &[lighttpd.program.pid()], port, identity.pycurl(), count);
}

/// Debian's wget, each one started by a shell while it is traced already.
#[test]
fn wget_asks_nginx() {
    started_ask_nginx("wget", "wn", |started| {
        let Started { authority, cell, port, number, each } = started;
        let close = if cell.keep { "" } else { "--no-http-keep-alive" };
        format!(
            "wget -q -O /dev/null --ca-certificate={authority} {close} \
             $(seq -f 'https://127.0.0.1:{port}/work/%g.{number}.{}' 0 {})",
            cell.name,
            each - 1
        )
    });
}

/// GnuTLS's own tools, both ends of each connection.
#[test]
fn gnutls_cli_asks_gnutls_serv() {
    const TIMES: usize = 40;
    let identity = Identity::new();
    let port = free_port().expect("port");
    let mut command = Command::new("gnutls-serv");
    command.args(["--http", "-q", "-p", &port.to_string()]);
    command.args(["--x509certfile", &identity.certificate, "--x509keyfile", &identity.key]);
    let server = Program::spawn("gnutls-serv", command).expect("gnutls-serv");
    wait_listening(([127, 0, 0, 1], port).into(), PATIENCE).expect("gnutls-serv");
    let mut command = Command::new("sh");
    let script = format!(
        "read go; for n in $(seq {TIMES}); do \
           (sleep 0.2; printf 'GET /work/%s HTTP/1.0\\r\\n\\r\\n' $n; sleep 0.1) | \
           gnutls-cli --x509cafile {} -p {port} localhost >/dev/null 2>&1; \
         done; echo done",
        identity.authority
    );
    command.args(["-c", &script]).stdin(Stdio::piped());
    let mut shell = Program::spawn("sh", command).expect("shell");
    let tracer = Tracer::attach_with(&[server.pid(), shell.pid()], &["-vv"]).expect("attach");
    shell.stdin().expect("standard input").write_all(b"go\n").expect("go");
    shell.wait_stdout("done", PATIENCE).expect("answers");
    let report = tracer.finish().expect("tracer");
    assert!(report.log.contains(&format!("process {}: {PROBED}", server.pid())), "{}", report.log);
    let of = |kind: Kind| report.spans.iter().filter(move |span| span.kind == kind);
    let served: BTreeMap<&str, &Span> =
        of(Kind::Server).filter_map(|span| Some((span.path()?, span))).collect();
    let mut called = 0;
    for span in of(Kind::Client) {
        let served = served.get(span.path().expect("path")).expect("its server");
        assert_eq!(served.parent.as_deref(), Some(span.span_id.as_str()), "{served:#?}");
        assert_eq!(served.int("network.peer.port"), span.int("network.local.port"), "{served:#?}");
        called += 1;
    }
    eprintln!("gnutls-cli → gnutls-serv: {} served, {called} called, of {TIMES}", served.len());
    assert_eq!(served.len(), TIMES, "{}", report.log);
    let said: usize = report.log.lines().filter_map(|line| connections_of(line, "gnutls-cli")).sum();
    assert!(called + said >= TIMES, "{called} called, {said} said\n{}", report.log);
    assert!(2 * called > TIMES, "{called} called\n{}", report.log);
}

/// What is gathered before it is sent counts once; so does what is read in pieces. What is handed out in the library's own
/// memory is not read, and a record that is padded has no place: that is said.
#[test]
fn calls_of_gnutls_that_few_make() {
    const EACH: usize = 20;
    let identity = Identity::new();
    let nginx = identity.nginx(1);
    let mut command = Command::new(PYTHON);
    command.arg(workload("tls_gnutls.py")).arg(nginx.addr.port().to_string()).stdin(Stdio::piped());
    let mut client = Program::spawn("tls_gnutls.py", command).expect("client");
    let mut input = client.stdin().expect("standard input");
    let mut pids = nginx.pids().expect("pids");
    pids.push(client.pid());
    let tracer = Tracer::attach(&pids).expect("attach");
    let ways = ["pieces", "cork", "packets", "pieces", "pad", "cork"];
    for (round, way) in ways.iter().enumerate() {
        for number in 0..EACH {
            let path = format!("/work/{round}.{way}.{number}");
            writeln!(input, "{path} {way}").expect("ask");
            client.wait_stdout(&format!("done {path}"), PATIENCE).expect("answer");
        }
    }
    let ports: Ports = client.stdout_lines(0).iter().filter_map(|line| port_of(line)).collect();
    let report = tracer.finish().expect("tracer");
    for (round, way) in ways.iter().enumerate() {
        let of_way = |(path, _): &(&String, &u16)| path.starts_with(&format!("/work/{round}.{way}."));
        let ports: Ports = ports.iter().filter(of_way).map(|(path, port)| (path.clone(), *port)).collect();
        assert_eq!(ports.len(), EACH, "{}", client.stderr());
        let outcome = score(&report.spans, &ports, nginx.addr.port(), None);
        let name = format!("GnuTLS → nginx {round}.{way}");
        match *way {
            "packets" | "pad" => {
                eprintln!("{name:<28} {outcome}");
                assert!(outcome.wrong.is_empty(), "{name}: {:#?}\n{}", outcome.wrong.first(), report.log);
                let told = if *way == "pad" { outcome.missing } else { outcome.incomplete };
                assert_eq!(told, EACH, "{name}: {outcome}\n{}", report.log);
            }
            _ => check(&name, &outcome, &report.log),
        }
    }
}
