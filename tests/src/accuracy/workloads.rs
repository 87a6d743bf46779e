//! The programs that are measured, all unmodified, and what is expected of each.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{family, read_ledger};
use crate::nginx::{Config, Nginx};
use crate::program::{Program, free_port, wait_listening};
use crate::score::{Call, Naming};
use crate::service::{Runtime, Service, workload};
use crate::temp::TempDir;

/// One kind of program at its work.
pub struct Workload {
    pub runtime: &'static str,
    pub model: &'static str,
    pub class: Class,
    /// Starts it; with random ids or telling ones.
    pub start: Box<dyn Fn(bool) -> anyhow::Result<Running> + Send + Sync>,
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
    /// A worker calls, and the thread that serves waits for it.
    SubmitAndWait,
    /// As above, in servers that have pools of their own.
    ServerWithPools,
    /// All calls at once on a pool.
    FanOut,
    /// nginx as a proxy.
    Proxy,
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
            Self::SubmitAndWait => [95, 90, 90],
            Self::ServerWithPools => [90, 85, 85],
            Self::FanOut => [50, 50, 50],
            Self::Proxy => [99, 99, 99],
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
    /// Processes that serve the driver and call; each with its descendants.
    front: Vec<u32>,
    back: u32,
    truth: Oracle,
    programs: Vec<Box<dyn Any + Send>>,
    log: Option<PathBuf>,
    _dir: TempDir,
}

enum Oracle {
    Ledger(PathBuf),
    /// Calls are named as their requests.
    Same,
}

impl Running {
    pub fn front(&self) -> anyhow::Result<BTreeSet<u32>> {
        Ok(self.front.iter().flat_map(|pid| family(*pid)).collect())
    }

    pub fn back(&self) -> BTreeSet<u32> {
        BTreeSet::from([self.back])
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
    use Class::{Adversarial, FanOut, Reported, ServerWithPools, SubmitAndWait, ThreadPerRequest};
    let python = |mode, class| service("python", Runtime::Python, mode, class);
    let java = |mode, class| service("java", Runtime::Java, mode, class);
    vec![
        nginx("proxy, new connections", "", false),
        nginx("proxy, keep-alive", "", true),
        nginx("proxy, limit_req", "limit_req zone=slow burst=2000;", true),
        python("thread", ThreadPerRequest),
        java("pool", ThreadPerRequest),
        gunicorn("sync", "thread", ThreadPerRequest),
        python("pool", SubmitAndWait),
        python("nested", SubmitAndWait),
        java("hop", SubmitAndWait),
        java("nested", SubmitAndWait),
        gunicorn("gthread", "pool", ServerWithPools),
        python("fan-out", FanOut),
        java("fan-out", FanOut),
        python("handoff", Reported),
        java("client", Reported),
        java("async", Reported),
        gunicorn("gevent", "thread", Reported),
        plain("python", "asyncio", Runtime::Asyncio),
        plain("node", "http", Runtime::Node),
        plain("go", "net/http", Runtime::Go),
        plain("rust", "tokio", Runtime::Tokio),
        plain("java", "virtual threads", Runtime::JavaVirtual),
        plain("java", "work stealing", Runtime::JavaFork),
        python("forget", Adversarial),
        python("after", Adversarial),
        python("queue", Adversarial),
        python("semaphore", Adversarial),
        python("latch", Adversarial),
        python("refresh", Adversarial),
        python("coalesce", Adversarial),
        java("forget", Adversarial),
        java("queue", Adversarial),
        java("latch", Adversarial),
        java("refresh", Adversarial),
    ]
}

/// A service of `tests/workloads` in one of its modes, calling the plainest one.
fn service(runtime: &'static str, kind: Runtime, mode: &'static str, class: Class) -> Workload {
    start_service(runtime, mode, class, move |options| {
        let mut options = options.to_vec();
        options.extend(["--mode".to_owned(), mode.to_owned()]);
        (kind, options)
    })
}

/// A service that has one way to work.
fn plain(runtime: &'static str, model: &'static str, kind: Runtime) -> Workload {
    start_service(runtime, model, Class::Reported, move |options| (kind, options.to_vec()))
}

fn start_service(
    runtime: &'static str,
    model: &'static str,
    class: Class,
    command: impl Fn(&[String]) -> (Runtime, Vec<String>) + Send + Sync + 'static,
) -> Workload {
    let start = move |random_names: bool| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let (kind, options) = command(&options(&dir, random_names));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let front = Service::start_with(kind, Some(back.addr), &options)?;
        Ok(Running {
            addr: front.addr,
            front: vec![front.pid()],
            back: back.pid(),
            truth: Oracle::Ledger(dir.join("ledger")),
            programs: vec![Box::new(front), Box::new(back)],
            log: None,
            _dir: dir,
        })
    };
    Workload { runtime, model, class, start: Box::new(start) }
}

/// What every service with a ledger is told.
fn options(dir: &TempDir, random_names: bool) -> Vec<String> {
    let names = if random_names { "random" } else { "numbered" };
    let ledger = dir.join("ledger").to_string_lossy().into_owned();
    ["--ledger", &ledger, "--names", names].map(str::to_owned).to_vec()
}

fn nginx(model: &'static str, directives: &'static str, keep_alive: bool) -> Workload {
    let start = move |_| {
        // Slow answers keep as many requests open at once as are asked for.
        let back = Service::start_with(Runtime::Go, None, &["--delay-ms", "20"])?;
        let mut config = Config::proxy(1, &back.addr.to_string(), keep_alive);
        config.http += "\nlimit_req_zone $server_port zone=slow:1m rate=2000r/s;";
        config.server = format!("{directives} {}", config.server);
        let nginx = Nginx::start(&config)?;
        Ok(Running {
            addr: nginx.addr,
            front: vec![nginx.program.pid()],
            back: back.pid(),
            truth: Oracle::Same,
            log: Some(nginx.dir().join("error.log")),
            programs: vec![Box::new(nginx), Box::new(back)],
            _dir: TempDir::new()?,
        })
    };
    Workload { runtime: "nginx", model, class: Class::Proxy, start: Box::new(start) }
}

/// The WSGI service under gunicorn with one sort of worker.
fn gunicorn(worker: &'static str, model: &'static str, class: Class) -> Workload {
    let start = move |random_names: bool| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut options = options(&dir, random_names);
        options.extend(["--downstream".to_owned(), back.addr.to_string()]);
        let mut command = Command::new("gunicorn");
        command
            .args(["--bind", &addr.to_string(), "--worker-class", worker, "--workers", "3"])
            .args(["--worker-connections", "200", "--backlog", "1024", "--chdir"])
            .arg(workload(""))
            .arg("wsgi:app")
            .env("WSGI_OPTIONS", options.join(" "))
            .env("WSGI_MODEL", model)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        // With threads, a sync worker would be a gthread one.
        if worker == "gthread" {
            command.args(["--threads", "16"]);
        }
        let program = Program::spawn("gunicorn", command)?;
        wait_listening(addr, Duration::from_secs(30)).with_context(|| program.stderr())?;
        for _ in 0..300 {
            if family(program.pid()).len() == 4 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if family(program.pid()).len() != 4 {
            bail!("gunicorn has not 3 workers: {}", program.stderr());
        }
        Ok(Running {
            addr,
            front: vec![program.pid()],
            back: back.pid(),
            truth: Oracle::Ledger(dir.join("ledger")),
            programs: vec![Box::new(program), Box::new(back)],
            log: None,
            _dir: dir,
        })
    };
    let model = match worker {
        "sync" => "gunicorn sync",
        "gthread" => "gunicorn gthread, pool",
        _ => "gunicorn gevent",
    };
    Workload { runtime: "python", model, class, start: Box::new(start) }
}
