//! `cargo xtask record`: makes the committed recordings anew, from real programs.
//!
//! Needed when the kernel boundary or the recording format changes, which old recordings do not survive. What must come
//! out of each is blessed by hand: `BLESS=1 cargo test -p tracer --test cli golden`, then read the difference.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tracer_core::event::{Event, HostFacts};
use tracer_core::recording::{Frame, Preamble, Reader, Writer};
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::service::{Runtime, Service};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;
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

/// What is recorded: its name, and what happens while the tracer records into the file.
type Scene = (&'static str, fn(&Recorder) -> anyhow::Result<()>);

const SCENES: [Scene; 6] = [
    ("chain", chain),
    ("java-threads", |recorder| service(Runtime::Java, 1, recorder)),
    ("nginx-keepalive", nginx),
    ("node-loop", |recorder| service(Runtime::Node, 3, recorder)),
    ("python-loop", |recorder| service(Runtime::Asyncio, 3, recorder)),
    ("python-threads", |recorder| service(Runtime::Python, 1, recorder)),
];

/// Of all recordings together: they are read at every test run and stay in the history for good.
const MAX_BYTES: u64 = 200 << 10;

/// For the last events, such as closed connections.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "recording needs root: sudo -E cargo xtask record");
    let folder = repo.root().join("tests/replay");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let scratch = TempDir::new()?;
    for (name, scene) in SCENES {
        if !options.names.is_empty() && !options.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        if interrupt.is_set() {
            bail!("interrupted");
        }
        let recorder = Recorder { tracer: repo.tracer(), file: scratch.join(name) };
        scene(&recorder).with_context(|| format!("record {name}"))?;
        let neutral = neutral(&recorder.file).with_context(|| format!("recording of {name}"))?;
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

fn chain(recorder: &Recorder) -> anyhow::Result<()> {
    let mut chain = demo::start()?;
    recorder.records(&chain.pids()?, || chain.ask().map(drop))
}

fn service(runtime: Runtime, concurrency: usize, recorder: &Recorder) -> anyhow::Result<()> {
    let back = Service::start(runtime, None)?;
    // Timers call the same downstream meanwhile, but seldom.
    let front = Service::start_with(runtime, Some(back.addr), &["--background-ms", "200"])?;
    recorder.records(&[front.pid(), back.pid()], || load(front.addr, concurrency))
}

fn nginx(recorder: &Recorder) -> anyhow::Result<()> {
    let back = Service::start(Runtime::Python, None)?;
    let front = Nginx::start(&Config::proxy(1, &back.addr.to_string(), true))?;
    let mut pids = front.pids()?;
    pids.push(back.pid());
    recorder.records(&pids, || load(front.addr, 3))
}

/// A few requests on connections that are kept.
fn load(addr: SocketAddr, concurrency: usize) -> anyhow::Result<()> {
    http::drive(addr, concurrency, 5, |client, number| {
        let answer = client.get(&format!("/work/r{number}"))?;
        ensure!(answer.status == 200, "request {number}: status {}", answer.status);
        Ok(())
    })
}

/// Where one recording goes, and what makes it.
#[derive(Debug)]
struct Recorder {
    tracer: PathBuf,
    file: PathBuf,
}

impl Recorder {
    /// Does something while these processes are recorded.
    fn records(&self, pids: &[u32], happens: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let file = self.file.to_str().context("path of the recording")?;
        // Heads whole, of bodies a little: the recordings stay small.
        let mut options = ["--record", file, "--head-budget", "600"].map(str::to_owned).to_vec();
        options.extend(pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
        let tracer = Tracer::attach_binary(&self.tracer, &options)?;
        happens()?;
        std::thread::sleep(SETTLE);
        let report = tracer.finish()?;
        ensure!(
            !report.spans.is_empty() && !report.log.contains("lost:"),
            "nothing seen, or something lost:\n{}",
            report.log
        );
        Ok(())
    }
}

/// The recording with a preamble that tells nothing of the machine that it was made on.
fn neutral(raw: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(raw).context("read it")?;
    let reader = Reader::new(bytes.as_slice())?;
    let preamble = reader.preamble().clone();
    for frame in reader {
        if let Frame::Event(Event::ProcessDescribed(described)) = frame?
            && let Some(path) = described.facts.executable_path
            && !path.starts_with("/usr/")
        {
            bail!("{path} would be committed: leave only the system's folders in PATH");
        }
    }
    let head = Writer::new(Vec::new(), &preamble)?.into_inner().len();
    let host = HostFacts { name: Some("host".to_owned()), arch: preamble.host.arch, ..HostFacts::default() };
    let seed = std::array::from_fn(|index| index as u8);
    let preamble = Preamble::new(&preamble.tracer_version, preamble.wall_clock_offset_nanos, host, seed);
    let mut neutral = Writer::new(Vec::new(), &preamble)?.into_inner();
    neutral.extend_from_slice(bytes.get(head..).context("shorter than its preamble")?);
    Ok(neutral)
}
