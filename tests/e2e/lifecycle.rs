//! The tracer comes late, dies, or starts the program itself; programs fork, exec and live for a moment.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tracer_tests::http::{Client, drive};
use tracer_tests::kernel_objects::{Object, held_by, instructions_walked, wait_gone};
use tracer_tests::load::{Happened, Load};
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::Program;
use tracer_tests::score::{Naming, Score, Truth};
use tracer_tests::service::{Runtime, Service};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::{self, Report, Tracer};

/// nginx → Go under the judge.
struct Chain {
    nginx: Nginx,
    leaf: Service,
}

impl Chain {
    fn start() -> Self {
        let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
        let nginx = Nginx::start(&Config::proxy(2, &leaf.addr.to_string(), true)).expect("start nginx");
        Self { nginx, leaf }
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = self.nginx.pids().expect("pids");
        pids.push(self.leaf.pid());
        pids
    }

    fn judge(&self, report: &Report, happened: Happened) -> Score {
        let truth = Truth {
            front: self.nginx.pid_set().expect("pids"),
            back: [self.leaf.pid()].into(),
            requests: happened.requests,
            abandoned: BTreeSet::new(),
            calls: Naming::Same.calls(&happened.calls),
        };
        Score::of(&report.spans, &truth)
    }
}

/// Nearly all of the time of a start is the verifier's, some microseconds an instruction.
#[test]
fn a_start_does_not_take_the_verifier_long() {
    let service = Service::start(Runtime::Python, None).expect("start a service");
    let mut tracer = Tracer::attach(&[service.pid()]).expect("attach");
    let walked = instructions_walked(tracer.program().pid()).expect("programs");
    assert!((100_000..450_000).contains(&walked), "{walked} instructions walked");
}

#[test]
fn a_killed_tracer_leaves_nothing_and_harms_nobody() {
    let mut chain = Chain::start();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let addr = chain.nginx.addr;
    let held = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            drive(addr, 4, usize::MAX, |client, number| {
                if stop.load(Ordering::Relaxed) {
                    anyhow::bail!("told to stop");
                }
                let response = client.get(&format!("/work/k{number}"))?;
                assert_eq!(response.status, 200);
                served.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        });
        let mut tracer = Tracer::attach(&chain.pids()).expect("attach");
        tracer.wait_spans(Duration::from_secs(30), |spans| spans.len() > 500).expect("spans under load");
        let held = held_by(tracer.program().pid()).expect("kernel objects");
        tracer.program().stop(Signal::KILL).expect("kill the tracer");
        let at_death = served.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(500));
        assert!(served.load(Ordering::Relaxed) > at_death + 20, "traffic stalls after the tracer's death");
        stop.store(true, Ordering::Relaxed);
        let ended = load.join().expect("load").expect_err("it never ends by itself");
        assert_eq!(ended.to_string(), "told to stop", "{ended:#}");
        held
    });
    assert!(chain.leaf.program.is_alive() && chain.nginx.program.is_alive());
    let count = |wanted: fn(&Object) -> bool| held.iter().filter(|object| wanted(object)).count();
    let programs = count(|object| matches!(object, Object::Program(_)));
    let maps = count(|object| matches!(object, Object::Map(_)));
    assert!(programs >= 2 && maps >= 2, "the tracer held too little to prove anything: {held:?}");
    wait_gone(&held, Duration::from_secs(20)).expect("something of the killed tracer is left in the kernel");

    let tracer = Tracer::attach(&chain.pids()).expect("a new tracer");
    let load = Load { prefix: "again", concurrency: 4, count: 100, naming: Naming::Same, reconnects: true };
    let happened = load.run(addr).expect("load");
    let report = tracer.finish().expect("tracer");
    let score = chain.judge(&report, happened);
    assert!(score.is_clean() && score.cross_process.right == 100, "{score:#?}\n{}", report.log);
}

/// A tracer that gets no processor time loses events: it says so, and claims nothing that is not true.
#[test]
fn a_stalled_tracer_loses_but_never_lies() {
    let leaf = Service::start(Runtime::Python, None).expect("start the leaf");
    let front = Service::start(Runtime::Python, Some(leaf.addr)).expect("start the front");
    stall((front.addr, &[front.pid()]), leaf.pid(), Naming::Numbered, 3000);
}

/// The same with thousands of connections, whose opening and closing are lost, too.
#[test]
fn a_stalled_tracer_and_short_connections() {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    let nginx = Nginx::start(&Config::proxy(2, &leaf.addr.to_string(), false)).expect("start nginx");
    stall((nginx.addr, &nginx.pids().expect("pids")), leaf.pid(), Naming::Same, 8000);
}

fn stall(front: (SocketAddr, &[u32]), leaf: u32, naming: Naming, count: usize) {
    let mut tracer = Tracer::attach(&[front.1, &[leaf]].concat()).expect("attach");
    let mut happened = Happened::default();
    let mut load = |prefix: &str, count| {
        let load = Load { prefix, concurrency: 16, count, naming, reconnects: true };
        let Happened { requests, calls } = load.run(front.0).expect("load");
        happened.requests.extend(requests);
        happened.calls.extend(calls);
    };
    load("before", 200);
    // A stopped tracer reads nothing: the rings run over, more than once.
    for round in 0..3 {
        tracer.program().signal(Signal::STOP).expect("stop");
        load(&format!("during{round}-"), count);
        tracer.program().signal(Signal::CONT).expect("continue");
        load(&format!("between{round}-"), 300);
    }
    let report = tracer.finish().expect("tracer");
    let truth = Truth {
        front: front.1.iter().copied().collect(),
        back: [leaf].into(),
        requests: happened.requests,
        abandoned: BTreeSet::new(),
        calls: naming.calls(&happened.calls),
    };
    let score = Score::of(&report.spans, &truth);
    println!("{score:#?}\n{}", report.log);
    assert!(score.is_clean(), "not true");
    assert!(score.entry.lost > 0, "nothing was lost: the test proves nothing");
    assert!(report.log.contains("ring_full"), "the loss goes unsaid");
    // What came before, and after the tracer had caught up, is there.
    assert!(score.cross_process.right > 300, "too little is seen");
}

/// Every connection is older than the tracer, and stays in use.
#[test]
fn attach_in_the_middle_of_kept_connections() {
    let chain = Chain::start();
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(chain.nginx.addr)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for round in 0..5 {
            client.get(&format!("/work/before{number}-{round}")).expect("request");
        }
    }
    let tracer = Tracer::attach(&chain.pids()).expect("attach");
    let mut happened = Happened::default();
    for round in 0..50 {
        for (number, client) in clients.iter_mut().enumerate() {
            let id = format!("after{number}-{round}");
            let response = client.get(&format!("/work/{id}")).expect("request");
            happened.note(&id, &response, Naming::Same).expect("answer");
        }
    }
    let report = tracer.finish().expect("tracer");
    let score = chain.judge(&report, happened);
    assert!(score.is_clean(), "{score:#?}\n{}", report.log);
    assert_eq!(score.cross_process.right, 200, "{score:#?}\n{}", report.log);
    assert_eq!(score.entry.right, 200, "{score:#?}\n{}", report.log);
}

/// nginx's master is attached to; a reload gives it new workers later.
#[test]
fn workers_that_are_born_later() {
    let chain = Chain::start();
    let before = chain.nginx.pids().expect("pids");
    let tracer = Tracer::attach(&[chain.nginx.program.pid(), chain.leaf.pid()]).expect("attach");
    chain.nginx.program.signal(Signal::HUP).expect("reload");
    let reloaded = || {
        let now = chain.nginx.pids().expect("pids");
        now.len() == before.len() && now[1..].iter().all(|pid| !before.contains(pid))
    };
    for _ in 0..1000 {
        if reloaded() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(reloaded(), "nginx did not reload: {}", chain.nginx.error_log());
    let load = Load { prefix: "w", concurrency: 4, count: 100, naming: Naming::Same, reconnects: true };
    let happened = load.run(chain.nginx.addr).expect("load");
    let report = tracer.finish().expect("tracer");
    let score = chain.judge(&report, happened);
    assert!(score.is_clean() && score.cross_process.right == 100, "{score:#?}\n{}", report.log);
    assert!(score.entry.right == 100 && score.in_process.right == 100, "{score:#?}\n{}", report.log);
}

fn shell(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

/// Client spans by path; panics on a path twice.
fn client_paths(report: &Report) -> Vec<&str> {
    let clients = report.spans.iter().filter(|span| span.kind == Kind::Client);
    let mut paths: Vec<&str> = clients.filter_map(Span::path).collect();
    paths.sort_unstable();
    let all = paths.len();
    paths.dedup();
    assert_eq!(paths.len(), all, "a path twice: {:#?}\n{}", report.spans, report.log);
    paths
}

fn url(addr: SocketAddr, id: &str) -> String {
    format!("http://{addr}/work/{id}")
}

#[test]
fn run_sees_the_first_byte() {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    let report = tracer::run(&[], ["curl", "-sS", "-o", "/dev/null", &url(leaf.addr, "first")]).expect("run");
    assert_eq!(report.exit.code(), Some(0), "{}", report.log);
    let [span] = report.spans.as_slice() else { panic!("{:#?}\n{}", report.spans, report.log) };
    assert_eq!((span.kind, span.path(), span.service()), (Kind::Client, Some("/work/first"), "curl"));
    assert_eq!(span.int("http.response.status_code"), Some(200));
    assert_eq!((span.str("tracer.incomplete"), span.parent.as_deref()), (None, None));
}

#[test]
fn run_passes_the_end_on() {
    let code = |command: &[&str]| tracer::run(&[], command.iter().copied()).expect("run").exit.code();
    assert_eq!(code(&shell("exit 7")), Some(7));
    assert_eq!(code(&shell("kill -TERM $$")), Some(128 + 15));
    assert_eq!(code(&["/no/such/program"]), Some(127));
    assert_eq!(code(&["/etc/passwd"]), Some(126));
}

#[test]
fn run_passes_input_and_output_through() {
    let output = Command::new(tracer::binary().expect("binary"))
        .args(["run", "--format", "none", "--", "sh", "-c", "read line; echo got $line; echo err >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            child.stdin.take().expect("stdin").write_all(b"hello\n")?;
            child.wait_with_output()
        })
        .expect("run");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got hello\n");
    assert!(String::from_utf8_lossy(&output.stderr).lines().any(|line| line == "err"));
}

/// One after the other, and at once.
#[test]
fn fifty_short_lived_processes() {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    for (name, end) in [("serial", "; done"), ("parallel", "& done; wait")] {
        let call = format!("curl -sS -o /dev/null {}$n", url(leaf.addr, name));
        let script = format!("for n in $(seq 50); do {call} {end}");
        let report = tracer::run(&[], shell(&script)).expect("run");
        let paths = client_paths(&report);
        assert_eq!(paths.len(), 50, "{name}: {paths:?}\n{}", report.log);
        assert!(report.spans.iter().all(|span| span.int("http.response.status_code") == Some(200)));
    }
}

/// fork without exec, a grandchild whose parent is gone, exec of exec.
#[test]
fn descendants_of_all_sorts() {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    let python = format!(
        "import os, http.client\n\
         def call(i):\n\
         \x20   c = http.client.HTTPConnection('{}'); c.request('GET', '/work/' + i); c.getresponse().read()\n\
         call('self')\n\
         if os.fork() == 0:\n\
         \x20   call('forked')\n\
         \x20   if os.fork() == 0:\n\
         \x20       os.setsid(); call('grandchild'); os.execvp('sh', ['sh', '-c', 'exec curl -sS -o /dev/null {}'])\n\
         \x20   os._exit(0)\n\
         os.wait()\n",
        leaf.addr,
        url(leaf.addr, "execed")
    );
    let report = tracer::run(&["--follow"], ["python3", "-c", &python]).expect("run");
    assert_eq!(report.exit.code(), Some(0), "{}", report.log);
    let wanted = ["/work/execed", "/work/forked", "/work/grandchild", "/work/self"];
    assert_eq!(client_paths(&report), wanted, "{:#?}\n{}", report.spans, report.log);
    let pids: BTreeSet<u32> = report.spans.iter().map(Span::pid).collect();
    assert_eq!(pids.len(), 3, "{:#?}", report.spans);
}

/// A shell is attached to; what it starts afterwards is traced from its first byte.
#[test]
fn attach_follows_children() {
    let leaf = Service::start(Runtime::Go, None).expect("start the leaf");
    let script =
        format!("read cue; for n in $(seq 20); do curl -sS -o /dev/null {}$n; done", url(leaf.addr, "child"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped());
    let mut program = Program::spawn("shell", command).expect("start the shell");
    let tracer = Tracer::attach(&[program.pid()]).expect("attach");
    program.stdin().expect("stdin").write_all(b"go\n").expect("cue");
    assert!(program.wait(Duration::from_secs(60)).expect("shell").success(), "{}", program.stderr());
    let report = tracer.finish().expect("tracer");
    assert_eq!(client_paths(&report).len(), 20, "{:#?}\n{}", report.spans, report.log);
}

/// A server that listens on the port already, and one that begins to while the tracer waits.
#[test]
fn attach_by_port() {
    for late in [false, true] {
        let port = tracer_tests::program::free_port().expect("port").to_string();
        let start =
            || Service::start_with(Runtime::Python, None, &["--port", &port]).expect("start the server");
        let early = (!late).then(start);
        let tracer = Tracer::attach_to(&["--port".to_owned(), port.clone()]).expect("attach");
        let server = early.unwrap_or_else(start);
        assert_seen(tracer, &server, late);
    }
}

/// A program that runs already, and one that starts while the tracer waits.
#[test]
fn attach_by_executable() {
    // By its name, and by its path.
    for (late, glob) in [(false, ""), (true, ""), (false, "/tmp/*/"), (true, "/**/")] {
        let dir = tracer_tests::temp::TempDir::new().expect("folder");
        // A name of its own: nobody else's program may match.
        let name = format!("service-{}-{late}", std::process::id());
        let go = Service::start(Runtime::Go, None).expect("build the service");
        let built = std::fs::read_link(format!("/proc/{}/exe", go.pid())).expect("executable");
        std::fs::copy(built, dir.join(&name)).expect("copy");
        let start =
            || Service::from_command("copy", Command::new(dir.join(&name))).expect("start the server");
        let early = (!late).then(start);
        let tracer = Tracer::attach_to(&["--exe".to_owned(), format!("{glob}{name}")]).expect("attach");
        let server = early.unwrap_or_else(start);
        go_on_unseen(&go);
        assert_seen(tracer, &server, late);
    }
}

/// A neighbour that does not match makes traffic too.
fn go_on_unseen(neighbour: &Service) {
    Client::new(neighbour.addr).get("/work/neighbour").expect("request");
}

/// The server's three requests are seen, and nothing else.
fn assert_seen(tracer: Tracer, server: &Service, late: bool) {
    // The tracer may learn of a new process a moment after its start; a listener's first request must not be missed,
    // so there is no wait here.
    for number in 0..3 {
        Client::new(server.addr).get(&format!("/work/{number}")).expect("request");
    }
    let report = tracer.finish().expect("tracer");
    let mut paths: Vec<_> = report.spans.iter().map(|span| (span.pid(), span.path())).collect();
    paths.sort_unstable();
    let wanted = [0, 1, 2].map(|number| format!("/work/{number}"));
    let wanted: Vec<_> = wanted.iter().map(|path| (server.pid(), Some(path.as_str()))).collect();
    assert_eq!(paths, wanted, "late: {late}\n{}", report.log);
}
