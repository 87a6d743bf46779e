//! The programs that are measured, all unmodified, and what is expected of each.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::servers::{Cgi, Grpc, Http2, cgi, go_http2, go_tls, grpc_go, gunicorn, nginx, php_fpm, puma};
use super::{family, read_ledger};
use crate::program::Program;
use crate::score::{Call, Naming};
use crate::service::{self, Runtime, Service, jetty_service, newest_java_service, tokio_service, workload};
use crate::temp::TempDir;

/// One kind of program at its work.
pub struct Workload {
    pub runtime: &'static str,
    pub model: &'static str,
    pub class: Class,
    pub start: Box<dyn Fn(Manner) -> anyhow::Result<Running> + Send + Sync>,
}

/// What its programs are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Ids tell nothing, not even a person; else they are numbered.
    pub random_names: bool,
    /// Time from a background call to the next, on average; else each program has its own.
    pub background_ms: Option<u32>,
}

impl Workload {
    pub fn name(&self) -> String {
        format!("{} {}", self.runtime, self.model)
    }
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// What parents must be found, in 100 calls, at 1, 8 and 64 requests at a time. That none is wrong goes for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The thread that serves calls.
    ThreadPerRequest,
    /// A process that is started for the request calls, of a server whose processes serve one at a time each.
    ProcessPerRequest,
    /// A worker calls, and the thread that serves waits for it.
    SubmitAndWait,
    /// As above, in servers that have pools of their own.
    ServerWithPools,
    /// All calls at once on a pool.
    FanOut,
    /// nginx as a proxy.
    Proxy,
    /// The task of an event loop that serves calls, or waits for the one that does.
    EventLoop,
    /// What is found is reported.
    Reported,
    /// Made to deceive: nothing needs to be found.
    Adversarial,
}

impl Class {
    /// Percent to reach at this many requests at a time; between the given loads, that of the greater one.
    pub const fn goal(self, concurrency: usize) -> usize {
        let goals = match self {
            Self::ThreadPerRequest => [100, 100, 99],
            Self::ProcessPerRequest => [90, 90, 90],
            Self::SubmitAndWait => [95, 90, 90],
            Self::ServerWithPools => [90, 85, 85],
            Self::FanOut => [50, 50, 50],
            Self::Proxy => [99, 99, 99],
            Self::EventLoop => [98, 98, 98],
            Self::Reported | Self::Adversarial => [0, 0, 0],
        };
        match concurrency {
            0..=1 => goals[0],
            2..=8 => goals[1],
            _ => goals[2],
        }
    }
}

/// A started workload. Everything ends with the value.
pub struct Running {
    pub addr: SocketAddr,
    /// What every path begins with, before `/work/`.
    pub prefix: &'static str,
    /// It may be asked before it is traced.
    pub(super) warms_up: bool,
    /// A proxy between the driver and `front`, with its descendants, that hands every request on.
    pub(super) proxy: Option<u32>,
    /// Processes that serve and call; each with its descendants.
    pub(super) front: Vec<u32>,
    pub(super) back: u32,
    pub(super) truth: Oracle,
    /// What must live as long, in the order in which it ends: programs, then their folder.
    pub(super) programs: Vec<Box<dyn Any + Send>>,
    pub(super) log: Option<PathBuf>,
}

pub(super) enum Oracle {
    Ledger(PathBuf),
    /// Calls are named as their requests.
    Same,
}

impl Running {
    pub fn front(&self) -> anyhow::Result<BTreeSet<u32>> {
        Ok(self.front.iter().flat_map(|pid| family(*pid)).collect())
    }

    /// The same, once none is left that lives for a request only.
    pub fn lasting(&self) -> anyhow::Result<BTreeSet<u32>> {
        let mut front = self.front()?;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.front()?;
            if now == front {
                return Ok(now);
            }
            front = now;
        }
    }

    /// The proxy's processes.
    pub fn proxy(&self) -> BTreeSet<u32> {
        self.proxy.map(family).unwrap_or_default()
    }

    pub fn back(&self) -> BTreeSet<u32> {
        BTreeSet::from([self.back])
    }

    /// Ends with it, too.
    pub(super) fn with(mut self, program: impl Any + Send) -> Self {
        self.programs.insert(0, Box::new(program));
        self
    }

    /// What was called so far.
    pub fn calls(&self, answered: &BTreeMap<String, u64>) -> anyhow::Result<BTreeMap<String, Call>> {
        match &self.truth {
            Oracle::Ledger(path) => read_ledger(path),
            Oracle::Same => Ok(Naming::Same.calls(&answered.keys().cloned().collect())),
        }
    }

    /// What the program said, should the run have failed.
    pub fn complaints(&self) -> String {
        let said = self.programs.iter().filter_map(|program| {
            let service = program.downcast_ref::<Service>().map(|service| &service.program);
            service.or_else(|| program.downcast_ref::<Program>()).map(Program::stderr)
        });
        let log = self.log.as_ref().and_then(|log| std::fs::read_to_string(log).ok());
        said.chain(log).collect::<Vec<_>>().join("\n")
    }
}

/// All of them, the ordinary ones first.
pub fn all() -> Vec<Workload> {
    use Class::{
        Adversarial, EventLoop, FanOut, ProcessPerRequest, Reported, ServerWithPools, SubmitAndWait,
        ThreadPerRequest,
    };
    let python = |mode, class| service("python", Runtime::Python, mode, class);
    let java = |mode, class| service("java", Runtime::Java, mode, class);
    let loops = |model, file, options| script("python", model, "/usr/bin/python3", file, options);
    // Loops that do what their library would not have them do.
    let waiting =
        |model, options| Workload { class: Adversarial, ..loops(model, "service_loop.py", options) };
    let node = |model, client| script("node", model, "node", "service.js", client);
    let ruby =
        |model, options, class| Workload { class, ..script("ruby", model, "ruby", "service.rb", options) };
    vec![
        nginx("proxy, new connections", "", false),
        nginx("proxy, keep-alive", "", true),
        nginx("proxy, limit_req", "limit_req zone=slow burst=2000;", true),
        python("thread", ThreadPerRequest),
        java("pool", ThreadPerRequest),
        jetty("Jetty", ThreadPerRequest, "pool"),
        gunicorn("sync", "thread", ThreadPerRequest),
        ruby("WEBrick", &[], ThreadPerRequest),
        php_fpm(ThreadPerRequest),
        cgi(Cgi::Busybox, ProcessPerRequest),
        cgi(Cgi::Python, Reported),
        cgi(Cgi::Fcgiwrap, ProcessPerRequest),
        python("pool", SubmitAndWait),
        python("nested", SubmitAndWait),
        java("hop", SubmitAndWait),
        java("nested", SubmitAndWait),
        newest_java("25, hop", SubmitAndWait, &["--mode", "hop"]),
        newest_java("25, nested", SubmitAndWait, &["--mode", "nested"]),
        gunicorn("gthread", "pool", ServerWithPools),
        puma("thread", ServerWithPools),
        puma("pool", ServerWithPools),
        ruby("WEBrick, pool", &["--model", "pool"], ServerWithPools),
        python("fan-out", FanOut),
        java("fan-out", FanOut),
        python("handoff", Reported),
        java("client", Reported),
        java("async", Reported),
        gunicorn("gevent", "thread", EventLoop),
        Workload { class: EventLoop, ..plain("python", "asyncio", Runtime::Asyncio) },
        loops("asyncio, to_thread", "service_asyncio.py", &["--model", "to_thread"]),
        Workload { class: EventLoop, ..loops("uvloop", "service_asyncio.py", &["--loop", "uvloop"]) },
        loops("aiohttp", "service_aiohttp.py", &[]),
        loops("FastAPI, async", "service_fastapi.py", &["--routes", "async"]),
        loops("FastAPI, def", "service_fastapi.py", &["--routes", "def", "--http", "httptools"]),
        loops("FastAPI, mixed", "service_fastapi.py", &["--routes", "mixed"]),
        loops("FastAPI, uvloop", "service_fastapi.py", &["--routes", "mixed", "--loop", "uvloop"]),
        tasks("asyncio, tasks", "waits", EventLoop),
        tasks("asyncio, tasks waited for later", "later", Reported),
        tasks("asyncio, forget", "forget", Adversarial),
        tasks("asyncio, after", "after", Adversarial),
        tasks("asyncio, queue", "queue", Adversarial),
        tasks("asyncio, coalesce", "coalesce", Adversarial),
        tasks("asyncio, handed", "handed", Adversarial),
        tasks("asyncio, batch", "batch", Adversarial),
        tasks("asyncio, mixed", "mixed", Adversarial),
        tasks("asyncio, hired", "hired", Adversarial),
        newer_python("3.14, pool", 14, SubmitAndWait, "service.py", &["--mode", "pool"]),
        newer_python("3.14, nested", 14, SubmitAndWait, "service.py", &["--mode", "nested"]),
        newer_python("3.14, asyncio", 14, EventLoop, "service_asyncio.py", &[]),
        newer_python("3.14, to_thread", 14, EventLoop, "service_asyncio.py", &["--model", "to_thread"]),
        newer_python("3.14, tasks", 14, EventLoop, "service_tasks.py", &["--model", "waits"]),
        newer_python("3.14, uvloop", 14, EventLoop, "service_asyncio.py", &["--loop", "uvloop"]),
        newer_python("3.14, aiohttp", 14, Reported, "service_aiohttp.py", &[]),
        newer_python("3.14, FastAPI", 14, Reported, "service_fastapi.py", &["--routes", "mixed"]),
        newer_python(
            "3.14, FastAPI, uvloop",
            14,
            Reported,
            "service_fastapi.py",
            &["--routes", "mixed", "--loop", "uvloop"],
        ),
        newer_python(
            "3.14, executor",
            14,
            Reported,
            "service_tasks.py",
            &["--model", "waits", "--through", "executor"],
        ),
        newer_python("3.14, handed", 14, Adversarial, "service_tasks.py", &["--model", "handed"]),
        newer_python("3.14, batch", 14, Adversarial, "service_tasks.py", &["--model", "batch"]),
        newer_python("3.14, mixed", 14, Adversarial, "service_tasks.py", &["--model", "mixed"]),
        newer_python("3.15, pool", 15, SubmitAndWait, "service.py", &["--mode", "pool"]),
        newer_python("3.15, asyncio", 15, EventLoop, "service_asyncio.py", &[]),
        newer_python("3.15, to_thread", 15, EventLoop, "service_asyncio.py", &["--model", "to_thread"]),
        newer_python("3.15, tasks", 15, EventLoop, "service_tasks.py", &["--model", "waits"]),
        newer_python("3.15, batch", 15, Adversarial, "service_tasks.py", &["--model", "batch"]),
        later_tasks("uvloop, tasks", "waits", EventLoop),
        later_tasks("uvloop, after", "after", Adversarial),
        later_tasks("uvloop, batch", "batch", Adversarial),
        later_tasks("uvloop, hired", "hired", Adversarial),
        tasks("asyncio, pipelined", "pipelined", Adversarial),
        later_tasks("uvloop, pipelined", "pipelined", Adversarial),
        threads("to_thread, tasks", "waits", "to_thread", Reported),
        threads("to_thread, forget", "forget", "to_thread", Adversarial),
        threads("to_thread, after", "after", "to_thread", Adversarial),
        threads("to_thread, queue", "queue", "to_thread", Adversarial),
        threads("to_thread, coalesce", "coalesce", "to_thread", Adversarial),
        threads("to_thread, handed", "handed", "to_thread", Adversarial),
        threads("to_thread, mixed", "mixed", "to_thread", Adversarial),
        threads("executor, tasks", "waits", "executor", Reported),
        start_service("python", "uvloop, executor", Reported, || {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(workload("service_tasks.py")).env("PYTHONDONTWRITEBYTECODE", "1");
            with(command, &["--model", "waits", "--through", "executor", "--loop", "uvloop"])
        }),
        threads("executor, forget", "forget", "executor", Adversarial),
        threads("executor, coalesce", "coalesce", "executor", Adversarial),
        threads("executor, handed", "handed", "executor", Adversarial),
        plain("node", "http", Runtime::Node),
        node("queueing agent", &["--client", "queue"]),
        node("undici", &["--client", "undici"]),
        node("fetch", &["--client", "fetch"]),
        plain("go", "net/http", Runtime::Go),
        go("worker pool", "workers"),
        go("channels", "channels"),
        go_tls("net/http, TLS", "plain", EventLoop),
        go_tls("worker pool, TLS", "workers", Adversarial),
        go_tls("hired workers, TLS", "hired", Adversarial),
        go_tls("forget, TLS", "forget", Adversarial),
        go_http2("net/http, serves HTTP/2", Http2::Serves, "plain", EventLoop),
        go_http2("net/http, calls HTTP/2", Http2::Calls, "plain", EventLoop),
        go_http2("net/http, HTTP/2", Http2::Both, "plain", EventLoop),
        go_http2("net/http, HTTP/2 and TLS", Http2::UnderTls, "plain", EventLoop),
        go_http2("worker pool, HTTP/2", Http2::Both, "workers", Adversarial),
        go_http2("hired workers, HTTP/2", Http2::Both, "hired", Adversarial),
        go_http2("forget, HTTP/2", Http2::Both, "forget", Adversarial),
        go_http2("after, HTTP/2", Http2::Both, "after", Adversarial),
        grpc_go("grpc-go", Grpc::Everywhere, &[], EventLoop),
        grpc_go("grpc-go, calls HTTP/1", Grpc::CallsHttp, &[], EventLoop),
        grpc_go("grpc-go, serves HTTP/1", Grpc::ServesHttp, &[], EventLoop),
        grpc_go("grpc-go, TLS", Grpc::UnderTls, &[], EventLoop),
        grpc_go("grpc-go, stream workers", Grpc::Everywhere, &["--stream-workers", "12"], Adversarial),
        grpc_go("grpc-go, worker pool", Grpc::Everywhere, &["--model", "workers"], Adversarial),
        grpc_go("grpc-go, hired workers", Grpc::Everywhere, &["--model", "hired"], Adversarial),
        grpc_go("grpc-go, forget", Grpc::Everywhere, &["--model", "forget"], Adversarial),
        Workload { class: EventLoop, ..plain("rust", "tokio", Runtime::Tokio) },
        axum("axum, reqwest", "", Reported),
        axum("spawn_blocking", "blocking", Reported),
        axum("tasks waited for later", "later", Reported),
        axum("forget", "forget", Adversarial),
        axum("queue", "queue", Adversarial),
        axum("coalesce", "coalesce", Adversarial),
        axum("handed", "handed", Adversarial),
        axum("batch", "batch", Adversarial),
        start_service("rust", "after", Adversarial, || {
            with(Runtime::Tokio.command()?, &["--model", "after"])
        }),
        Workload { class: EventLoop, ..plain("java", "virtual threads", Runtime::JavaVirtual) },
        newest_java("virtual threads, pool", Reported, &["--server", "virtual", "--mode", "hop"]),
        newest_java("virtual threads, forget", Adversarial, &["--server", "virtual", "--mode", "forget"]),
        plain("java", "work stealing", Runtime::JavaFork),
        python("forget", Adversarial),
        python("mixed", Adversarial),
        python("reuse", Adversarial),
        python("handed", Adversarial),
        python("left", Adversarial),
        python("relay", Adversarial),
        python("follow-up", Adversarial),
        python("after", Adversarial),
        python("queue", Adversarial),
        python("semaphore", Adversarial),
        python("latch", Adversarial),
        python("refresh", Adversarial),
        python("coalesce", Adversarial),
        puma("after", Adversarial),
        puma("seldom-after", Adversarial),
        java("forget", Adversarial),
        java("handed", Adversarial),
        newest_java("25, handed", Adversarial, &["--mode", "handed"]),
        java("left", Adversarial),
        newest_java("25, left", Adversarial, &["--mode", "left"]),
        java("mixed", Adversarial),
        newest_java("25, mixed, in lanes", Adversarial, &["--mode", "mixed", "--pool", "lanes"]),
        newest_java("25, mixed", Adversarial, &["--mode", "mixed"]),
        newest_java("25, mixed, work stealing", Adversarial, &["--mode", "mixed", "--pool", "fork"]),
        newest_java("25, work-stealing pool", Reported, &["--mode", "hop", "--pool", "fork"]),
        java("queue", Adversarial),
        java("semaphore", Adversarial),
        java("coalesce", Adversarial),
        java("latch", Adversarial),
        java("refresh", Adversarial),
        waiting("loop whose calls wait", &["--mode", "soon"]),
        waiting("loop whose calls wait, slow", &["--mode", "slow"]),
        waiting("loop whose calls wait, late", &["--mode", "late"]),
        jetty("Jetty, forget", Adversarial, "forget"),
        jetty("Jetty, handed", Adversarial, "handed"),
        jetty("Jetty, mixed", Adversarial, "mixed"),
    ]
}

/// A service of `tests/workloads` in one of its modes, calling the plainest one.
fn service(runtime: &'static str, kind: Runtime, mode: &'static str, class: Class) -> Workload {
    start_service(runtime, mode, class, move || with(kind.command()?, &["--mode", mode]))
}

/// A service that has one way to work.
fn plain(runtime: &'static str, model: &'static str, kind: Runtime) -> Workload {
    start_service(runtime, model, Class::Reported, move || kind.command())
}

/// A script of `tests/workloads` that is run by `program`.
fn script(
    runtime: &'static str,
    model: &'static str,
    program: &'static str,
    file: &'static str,
    options: &'static [&'static str],
) -> Workload {
    start_service(runtime, model, Class::Reported, move || {
        let mut command = Command::new(program);
        command.arg(workload(file)).env("PYTHONDONTWRITEBYTECODE", "1");
        // Where Debian has node's modules; node does not look there by itself.
        command.env("NODE_PATH", "/usr/share/nodejs");
        with(command, options)
    })
}

fn go(model: &'static str, option: &'static str) -> Workload {
    start_service("go", model, Class::Reported, move || with(Runtime::Go.command()?, &["--model", option]))
}

fn jetty(model: &'static str, class: Class, mode: &'static str) -> Workload {
    start_service("java", model, class, move || with(jetty_service()?, &["--mode", mode]))
}

fn newest_java(model: &'static str, class: Class, options: &'static [&'static str]) -> Workload {
    start_service("java", model, class, || with(newest_java_service()?, options))
}

fn axum(model: &'static str, way: &'static str, class: Class) -> Workload {
    start_service("rust", model, class, move || with(tokio_service("service_axum")?, &["--model", way]))
}

#[expect(clippy::unnecessary_wraps, reason = "where it is used, making the command may fail")]
fn with(mut command: Command, options: &[&str]) -> anyhow::Result<Command> {
    command.args(options);
    Ok(command)
}

/// A service whose requests call through other tasks of its event loop.
fn tasks(model: &'static str, way: &'static str, class: Class) -> Workload {
    through_tasks(model, class, ["--model", way, "--loop", "asyncio"])
}

/// The same, on a loop that sends when its tasks have had their turn.
fn later_tasks(model: &'static str, way: &'static str, class: Class) -> Workload {
    through_tasks(model, class, ["--model", way, "--loop", "uvloop"])
}

/// The same, whose tasks have threads of the loop's pool make the calls.
fn threads(model: &'static str, way: &'static str, through: &'static str, class: Class) -> Workload {
    through_tasks(model, class, ["--model", way, "--through", through])
}

fn through_tasks(model: &'static str, class: Class, options: [&'static str; 4]) -> Workload {
    start_service("python", model, class, move || {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(workload("service_tasks.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        with(command, &options)
    })
}

/// A service in a newer Python than the system's.
fn newer_python(
    model: &'static str,
    minor: u8,
    class: Class,
    file: &'static str,
    options: &'static [&'static str],
) -> Workload {
    start_service("python", model, class, move || {
        let mut modules = match file {
            "service_aiohttp.py" => vec!["aiohttp"],
            "service_fastapi.py" => vec!["fastapi", "httpx", "uvicorn"],
            _ => Vec::new(),
        };
        modules.extend(options.contains(&"uvloop").then_some("uvloop"));
        let mut command = service::newer_python(minor, &modules)?;
        command.arg(workload(file)).env("PYTHONDONTWRITEBYTECODE", "1");
        with(command, options)
    })
}

fn start_service(
    runtime: &'static str,
    model: &'static str,
    class: Class,
    command: impl Fn() -> anyhow::Result<Command> + Send + Sync + 'static,
) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let mut command = command()?;
        command.args(["--downstream", &back.addr.to_string()]).args(options(&dir, manner));
        let front = Service::from_command(model, command)?;
        Ok(Running {
            addr: front.addr,
            front: vec![front.pid()],
            back: back.pid(),
            prefix: "",
            proxy: None,
            warms_up: true,
            truth: Oracle::Ledger(dir.join("ledger")),
            programs: vec![Box::new(front), Box::new(back), Box::new(dir)],
            log: None,
        })
    };
    Workload { runtime, model, class, start: Box::new(start) }
}

/// What every service with a ledger is told.
pub(super) fn options(dir: &TempDir, manner: Manner) -> Vec<String> {
    let names = if manner.random_names { "random" } else { "numbered" };
    let ledger = dir.join("ledger").to_string_lossy().into_owned();
    let mut options = ["--ledger", &ledger, "--names", names].map(str::to_owned).to_vec();
    if let Some(period) = manner.background_ms {
        options.extend(["--background-ms".to_owned(), period.to_string()]);
    }
    options
}
