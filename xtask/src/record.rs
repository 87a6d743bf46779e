//! `cargo xtask record`: makes the committed recordings anew, from real programs.
//!
//! Needed when the kernel boundary or the recording format changes, which old recordings do not survive. What must come
//! out of each is blessed by hand: `BLESS=1 cargo test -p tracer --test cli golden`, then read the difference.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tracer_core::event::{Event, HostFacts};
use tracer_core::recording::{Frame, Preamble, Reader, Writer};
use tracer_core::span::Evidence;
use tracer_tests::accuracy::workloads::{self, Manner};
use tracer_tests::certificate::Certificate;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::service::{Runtime, Service};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::{Report, Tracer};
use tracer_tests::{demo, http};

use crate::exec::Interrupt;
use crate::repo::Repo;

/// Make the recordings under tests/replay anew
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask build && cargo xtask record")]
pub(crate) struct Options {
    /// Only these
    names: Vec<String>,
}

/// What is recorded: its name, the evidence for parents that it stands for, and what happens meanwhile.
type Scene = (&'static str, Evidence, fn(&Recorder) -> anyhow::Result<Report>);

/// Requests are as many as it takes until the evidence decides: some has to be learnt first.
const SCENES: [Scene; 17] = [
    ("chain", Evidence::Thread, chain),
    ("go-http1", Evidence::RuntimeTask, |recorder| workload("go net/http", 3, 5, recorder)),
    ("go-http2", Evidence::RuntimeTask, |recorder| workload("go net/http, HTTP/2", 3, 6, recorder)),
    ("java-pool", Evidence::ThreadHandOff, |recorder| workload("java hop", 2, 10, &recorder.following())),
    ("java-threads", Evidence::Thread, |recorder| service(Runtime::Java, 1, recorder)),
    ("java-virtual", Evidence::RuntimeTask, |recorder| workload("java virtual threads", 3, 5, recorder)),
    ("nginx-keepalive", Evidence::ResponseWindow, nginx),
    ("nginx-tls", Evidence::ResponseWindow, nginx_tls),
    ("node-loop", Evidence::TcpSequence, |recorder| service(Runtime::Node, 3, recorder)),
    ("php-fpm", Evidence::Thread, |recorder| workload("php PHP-FPM", 2, 4, recorder)),
    ("python-gevent", Evidence::RuntimeTask, |recorder| workload("python gunicorn gevent", 3, 5, recorder)),
    ("python-gthread", Evidence::RuntimeTask, |recorder| {
        workload("python gunicorn gthread, pool", 3, 5, recorder)
    }),
    ("python-loop", Evidence::RuntimeTask, |recorder| service(Runtime::Asyncio, 3, recorder)),
    ("python-pool", Evidence::RuntimeTask, |recorder| workload("python pool", 3, 6, recorder)),
    ("python-threads", Evidence::Thread, |recorder| service(Runtime::Python, 1, recorder)),
    ("rust-axum", Evidence::RuntimeTask, |recorder| workload("rust axum, reqwest", 3, 10, recorder)),
    ("shell-cgi", Evidence::ProcessFork, |recorder| workload("shell CGI, busybox httpd", 2, 3, recorder)),
];

/// Of all recordings together: they are read at every test run and stay in the history for good. Some 30 KiB for every
/// way to find a parent.
const MAX_BYTES: u64 = 680 << 10;

/// What one recording should have at most, and of parents by its evidence at least. How many calls a request takes, and
/// how long bodies are, is up to chance: where it came to something else, it is tried again.
const ENOUGH_BYTES: usize = 30 << 10;
const ENOUGH_PARENTS: usize = 2;

const TRIES: usize = 10;

/// For the last events, such as closed connections.
const SETTLE: Duration = Duration::from_millis(300);

/// Libraries of TLS are probed soon after capture is live, and not at once.
const PROBED: Duration = Duration::from_secs(2);

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "recording needs root: sudo -E cargo xtask record");
    let folder = repo.root().join("tests/replay");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, evidence, scene) in SCENES {
        if !options.names.is_empty() && !options.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut best: Option<Vec<u8>> = None;
        for _ in 0..TRIES {
            ensure!(!interrupt.is_set(), "interrupted");
            let (recording, parents) =
                once(evidence, scene, repo).with_context(|| format!("record {name}"))?;
            let is_smaller = best.as_ref().is_none_or(|best| recording.len() < best.len());
            if parents >= ENOUGH_PARENTS && is_smaller {
                best = Some(recording);
            }
            if best.as_ref().is_some_and(|best| best.len() <= ENOUGH_BYTES) {
                break;
            }
        }
        let neutral = best.with_context(|| format!("{name} shows no parents by {}", evidence.as_str()))?;
        fs::write(folder.join(name).with_extension("rec"), &neutral).context("write the recording")?;
        println!("{name}: {} bytes", neutral.len());
    }
    let mut total = 0;
    for entry in fs::read_dir(&folder).context("list the recordings")? {
        let path = entry.context("list the recordings")?.path();
        if path.extension().is_some_and(|extension| extension == "rec") {
            total += path.metadata().context("size of a recording")?.len();
        }
    }
    ensure!(total <= MAX_BYTES, "{total} bytes in {}: more than {MAX_BYTES}", folder.display());
    Ok(())
}

/// A recording, and how many parents it shows by this evidence.
fn once(
    evidence: Evidence,
    scene: fn(&Recorder) -> anyhow::Result<Report>,
    repo: &Repo,
) -> anyhow::Result<(Vec<u8>, usize)> {
    let scratch = TempDir::new()?;
    let recorder =
        Recorder { tracer: repo.tracer(), file: scratch.join("recording"), follows: false, reads_tls: false };
    let Report { spans, log, .. } = scene(&recorder)?;
    let parents = spans.iter().filter(|span| span.evidence() == Some(evidence.as_str())).count();
    // Where something was lost, it stands for nothing.
    let parents = if log.contains("lost:") { 0 } else { parents };
    Ok((neutral(&recorder.file, repo)?, parents))
}

fn chain(recorder: &Recorder) -> anyhow::Result<Report> {
    let mut chain = demo::start()?;
    recorder.records(chain.pids()?, || chain.ask().map(drop))
}

fn service(runtime: Runtime, concurrency: usize, recorder: &Recorder) -> anyhow::Result<Report> {
    let back = Service::start(runtime, None)?;
    // Timers call the same downstream meanwhile, but seldom.
    let front = Service::start_with(runtime, Some(back.addr), &["--background-ms", "200"])?;
    recorder.records([front.pid(), back.pid()], || load(front.addr, "", concurrency, 5))
}

fn nginx(recorder: &Recorder) -> anyhow::Result<Report> {
    let back = Service::start(Runtime::Python, None)?;
    let front = Nginx::start(&Config::proxy(1, &back.addr.to_string(), true))?;
    let mut pids = front.pids()?;
    pids.push(back.pid());
    recorder.records(pids, || load(front.addr, "", 3, 5))
}

/// As above, but between the proxy and what it asks there is another one, to which it speaks TLS.
fn nginx_tls(recorder: &Recorder) -> anyhow::Result<Report> {
    let folder = TempDir::new()?;
    let Certificate { key, certificate } = Certificate::make(folder.path())?;
    let back = Service::start(Runtime::Python, None)?;
    let mut middle = Config::proxy(1, &back.addr.to_string(), true);
    middle.server = format!(
        "ssl_certificate {}; ssl_certificate_key {}; {}",
        certificate.display(),
        key.display(),
        middle.server
    );
    let middle = Nginx::start_tls(&middle)?;
    let mut front = Config::proxy(1, &middle.addr.to_string(), true);
    front.server = front.server.replace("http://", "https://");
    let front = Nginx::start(&front)?;
    let pids = front.pids()?.into_iter().chain(middle.pids()?).chain([back.pid()]);
    recorder.reading_tls().records(pids, || load(front.addr, "", 2, 5))
}

/// One of the programs that `cargo xtask accuracy` measures.
fn workload(name: &str, concurrency: usize, requests: usize, recorder: &Recorder) -> anyhow::Result<Report> {
    let mut all = workloads::all().into_iter();
    let workload = all.find(|workload| workload.name() == name).context("no such workload")?;
    let running = (workload.start)(Manner { background_ms: Some(200), ..Manner::default() })?;
    let pids = running.lasting()?.into_iter().chain(running.proxy()).chain(running.back());
    recorder
        .records(pids, || load(running.addr, running.prefix, concurrency, requests))
        .with_context(|| running.complaints())
}

/// A few requests on connections that are kept.
fn load(addr: SocketAddr, prefix: &str, concurrency: usize, requests: usize) -> anyhow::Result<()> {
    http::drive(addr, concurrency, requests, |client, number| {
        let answer = client.get(&format!("{prefix}/work/r{number}"))?;
        ensure!(answer.status == 200, "request {number}: status {}", answer.status);
        Ok(())
    })
}

/// Where one recording goes, and what makes it.
#[derive(Clone, Debug)]
struct Recorder {
    tracer: PathBuf,
    file: PathBuf,
    /// How threads wake each other is seen from the beginning, as that it is needed takes many requests to show, and what it
    /// says is claimed.
    follows: bool,
    /// What programs read and write through TLS is in it: they have nothing to hide.
    reads_tls: bool,
}

impl Recorder {
    fn following(&self) -> Self {
        Self { follows: true, ..self.clone() }
    }

    fn reading_tls(&self) -> Self {
        Self { reads_tls: true, ..self.clone() }
    }

    /// Does something while these processes are recorded.
    fn records(
        &self,
        pids: impl IntoIterator<Item = u32>,
        happens: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Report> {
        let file = self.file.to_str().context("path of the recording")?;
        // Heads whole, of bodies next to nothing: the recordings stay small.
        let mut options = ["--record", file, "--head-budget", "300"].map(str::to_owned).to_vec();
        if self.follows {
            options.extend(["--handoff", "on", "--min-confidence", "possible"].map(str::to_owned));
        }
        if self.reads_tls {
            options.push("--record-secrets".to_owned());
        }
        options.extend(pids.into_iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
        let tracer = Tracer::attach_binary(&self.tracer, &options)?;
        if self.reads_tls {
            std::thread::sleep(PROBED);
        }
        happens()?;
        std::thread::sleep(SETTLE);
        let report = tracer.finish()?;
        ensure!(!report.spans.is_empty(), "nothing seen:\n{}", report.log);
        Ok(report)
    }
}

/// The recording, but for what tells of the machine that it was made on.
fn neutral(raw: &Path, repo: &Repo) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(raw).context("read it")?;
    let mut reader = Reader::new(bytes.as_slice())?;
    let preamble = reader.preamble().clone();
    let host = HostFacts { name: Some("host".to_owned()), arch: preamble.host.arch, ..HostFacts::default() };
    let seed = std::array::from_fn(|index| index as u8);
    let neutral = Preamble::new(&preamble.tracer_version, preamble.wall_clock_offset_nanos, host, seed);
    let mut writer = Writer::new(Vec::new(), &neutral)?;
    while let Some(frame) = reader.next() {
        match frame? {
            Frame::Event(Event::ProcessDescribed(mut described)) => {
                // Programs that are built here lie wherever the repository does.
                let path = described.facts.executable_path.take();
                described.facts.executable_path = path.map(|path| match path.rsplit_once('/') {
                    Some((_, name)) if !path.starts_with("/usr/") => format!("/opt/{name}"),
                    _ => path,
                });
                writer.event(&Event::ProcessDescribed(described))?;
            }
            Frame::Event(event @ Event::LossCounted { .. }) => writer.event(&event)?,
            Frame::Event(_) => writer.kernel_record(reader.body())?,
            Frame::Tick(now) => writer.tick(now)?,
            Frame::Gap(frames) => writer.gap(frames)?,
        }
    }
    let neutral = writer.into_inner();
    let root = repo.root().to_string_lossy().into_owned();
    for told in [Some(root), std::env::var("HOME").ok()].into_iter().flatten() {
        let found = neutral.windows(told.len()).any(|window| window == told.as_bytes());
        ensure!(!found, "{told} would be committed: leave only the system's folders in PATH");
    }
    Ok(neutral)
}
