//! Both ends of a connection found and joined, however they are connected: Unix sockets, network namespaces,
//! translated addresses.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tracer_tests::load::Load;
use tracer_tests::namespace::{Namespace, Pair};
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::Program;
use tracer_tests::scale;
use tracer_tests::score::{Naming, Score, Truth};
use tracer_tests::service::{Service, workload};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::{Report, Tracer};

/// nginx → a Python server behind a Unix socket, with and without kept connections.
#[test]
fn unix_socket_behind_nginx() {
    let count = scale::count(300);
    for keep_alive in [false, true] {
        let dir = TempDir::new().expect("folder");
        let socket = dir.join("app.sock");
        let mut command = Command::new("python3");
        command.arg(workload("service.py")).arg("--unix").arg(&socket);
        let app = Service::from_command("python on a unix socket", command).expect("start the server");
        let upstream = format!("unix:{}", socket.display());
        let nginx = Nginx::start(&Config::proxy(2, &upstream, keep_alive)).expect("start nginx");
        let mut pids = nginx.pids().expect("pids");
        pids.push(app.pid());
        let tracer = Tracer::attach(&pids).expect("attach");
        let load = Load { prefix: "u", concurrency: 8, count, naming: Naming::Same, reconnects: true };
        let happened = load.run(nginx.addr).expect("load");
        let report = tracer.finish().expect("tracer");
        let truth = Truth {
            front: nginx.pid_set().expect("pids"),
            back: [app.pid()].into(),
            requests: happened.requests,
            abandoned: BTreeSet::new(),
            calls: Naming::Same.calls(&happened.calls),
        };
        let score = Score::of(&report.spans, &truth);
        assert!(score.is_clean(), "{score:#?}\n{}", report.log);
        assert_eq!(score.cross_process.right, count, "keep-alive {keep_alive}: {score:#?}\n{}", report.log);
        assert!(score.in_process.right + 3 >= count, "keep-alive {keep_alive}: {score:#?}\n{}", report.log);
        let by_path =
            |kind| report.spans.iter().find(move |span| span.kind == kind && span.pid() == app.pid());
        let served = by_path(Kind::Server).expect("a server span");
        assert_eq!(served.evidence(), Some("unix-peer"), "{served:#?}");
    }
}

/// A shell in a namespace that runs curl once per id on a cue.
fn curls(namespace: &Namespace, url: &str, ids: &str, count: usize) -> Program {
    let script = format!(
        "read cue; for n in $(seq {count}); do curl -sS -o /dev/null {url}/work/{ids}$n || exit 1; done"
    );
    let mut command = namespace.command("sh");
    command.args(["-c", &script]).stdin(Stdio::piped());
    let program = Program::spawn("curls", command).expect("start the shell");
    wait_for_exec(&program, "sh");
    program
}

fn cue(program: &mut Program) {
    program.stdin().expect("stdin").write_all(b"go\n").expect("cue");
}

/// `ip netns exec` becomes the program: until then the process is not yet in its namespace.
fn wait_for_exec(program: &Program, name: &str) {
    let comm = format!("/proc/{}/comm", program.pid());
    for _ in 0..500 {
        if std::fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == name) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} did not become {name}", program.name());
}

fn server(namespace: &Namespace) -> (Program, u16) {
    let mut command = namespace.command("python3");
    command.arg(workload("service.py")).args(["--host", &namespace.addr.to_string()]);
    let program = Program::spawn("python in a namespace", command).expect("start the server");
    let port = program.wait_stdout("PORT ", Duration::from_secs(30)).expect("port");
    (program, port.trim().parse().expect("port"))
}

/// Each of `count` ids has one client and one server span, the one the parent of the other.
fn assert_joined(report: &Report, ids: &str, count: usize, server_pid: u32) {
    for number in 1..=count {
        let path = format!("/work/{ids}{number}");
        let find = |kind: Kind| -> &Span {
            let found: Vec<&Span> =
                report.spans.iter().filter(|span| span.kind == kind && span.path() == Some(&path)).collect();
            match found.as_slice() {
                [span] => span,
                other => panic!("{} {kind:?} spans of {path}: {other:#?}\n{}", other.len(), report.log),
            }
        };
        let (client, server) = (find(Kind::Client), find(Kind::Server));
        assert_eq!(server.parent.as_deref(), Some(client.span_id.as_str()), "{server:#?}\n{}", report.log);
        assert_eq!(server.trace_id, client.trace_id);
        assert_eq!(server.pid(), server_pid);
        assert_eq!(server.evidence(), Some("tcp-sequence"));
        assert_eq!(client.parent, None, "{client:#?}");
    }
}

/// Two pairs of namespaces with the very same addresses at the same time, as containers have them.
#[test]
fn namespaces_with_equal_addresses() {
    let count = scale::count(25);
    let pairs = [Pair::new().expect("namespaces"), Pair::new().expect("namespaces")];
    let servers = pairs.each_ref().map(|pair| server(&pair.right));
    let mut clients = [0, 1].map(|n| {
        let pair: &Pair = &pairs[n];
        let url = format!("http://{}:{}", pair.right.addr, servers[n].1);
        curls(&pair.left, &url, &format!("ns{n}-"), count)
    });
    let pids: Vec<u32> = servers.iter().map(|s| s.0.pid()).chain(clients.iter().map(Program::pid)).collect();
    let tracer = Tracer::attach(&pids).expect("attach");
    clients.iter_mut().for_each(cue);
    for client in &mut clients {
        let exit = client.wait(Duration::from_secs(60)).expect("curls");
        assert!(exit.success(), "{}", client.stderr());
    }
    let report = tracer.finish().expect("tracer");
    for (n, (server, _)) in servers.iter().enumerate() {
        assert_joined(&report, &format!("ns{n}-"), count, server.pid());
    }
}

/// The client calls an address that the kernel replaces: the ends never name each other.
#[test]
fn translated_addresses() {
    let count = scale::count(25);
    let pair = Pair::new().expect("namespaces");
    let (server, port) = server(&pair.right);
    let virtual_addr = Ipv4Addr::new(10, 213, 7, 99);
    if !translate(&pair.left, virtual_addr, pair.right.addr, port) {
        eprintln!("skipped: neither nft nor iptables can translate addresses here");
        return;
    }
    let mut client = curls(&pair.left, &format!("http://{virtual_addr}:8080"), "nat-", count);
    let tracer = Tracer::attach(&[server.pid(), client.pid()]).expect("attach");
    cue(&mut client);
    let exit = client.wait(Duration::from_secs(60)).expect("curls");
    assert!(exit.success(), "{}", client.stderr());
    let report = tracer.finish().expect("tracer");
    assert_joined(&report, "nat-", count, server.pid());
}

/// Destination translation inside a namespace of ours, by whichever tool is there. False: none works.
fn translate(namespace: &Namespace, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
    let rule = format!(
        "add table ip t; add chain ip t out {{ type nat hook output priority -100; }}; \
         add rule ip t out ip daddr {from} tcp dport 8080 dnat to {to}:{port}"
    );
    let runs = |mut command: Command| command.output().is_ok_and(|output| output.status.success());
    let mut nft = namespace.command("nft");
    nft.arg(&rule);
    let mut iptables = namespace.command("iptables");
    iptables.args(["-t", "nat", "-A", "OUTPUT", "-d", &from.to_string(), "-p", "tcp", "--dport", "8080"]);
    iptables.args(["-j", "DNAT", "--to-destination", &format!("{to}:{port}")]);
    runs(nft) || runs(iptables)
}
