//! `cargo xtask bench`: what tracing costs, as ratios of runs taken in turn.
//!
//! One machine runs the load, the traced server, the tracer and the collector, and its speed drifts: only figures of
//! the same minute are compared, and medians are reported.

mod beside;
mod process;
pub(crate) mod report;
mod sink;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::{Program, describe_exit};
use tracer_tests::wrk::{self, Measured};

use crate::build;
use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::setup::{self, Group};
use beside::PingPong;
use report::Overhead;
use sink::Sink;

const LIVE_LIMIT: Duration = Duration::from_secs(60);

/// Enough to keep one nginx worker busy all the time, few enough that latency is not only queueing.
const CONNECTIONS: u32 = 32;

/// Not measured: fills caches and lets the processor's clock settle.
const WARM_UP_S: u64 = 2;

/// Measure what tracing costs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench --write")]
pub(crate) struct Options {
    /// Pairs of an untraced and a traced run
    #[arg(long, default_value_t = 7)]
    rounds: u64,
    /// Length of each run
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Write the numbers to bench/overhead.json and to the README's table
    #[arg(long)]
    write: bool,
    /// Measure nothing; fail if the README's table is not the one of bench/overhead.json
    #[arg(long, conflicts_with = "write")]
    check: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if options.check {
        return Overhead::read(repo)?.check(repo);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("tracing needs root: sudo -E cargo xtask bench");
    }
    if options.rounds == 0 || options.seconds == 0 {
        bail!("at least one round of one second");
    }
    setup::prepare(repo, &[Group::Build, Group::Bench])?;
    build::run(repo, &build::Options::default())?;
    let overhead = measure(repo, options, interrupt)?;
    println!("\n{}", overhead.table());
    if options.write {
        overhead.write(repo)?;
    }
    let shortfalls = overhead.shortfalls();
    if shortfalls.is_empty() { Ok(()) } else { bail!("{}", shortfalls.join("; ")) }
}

/// One untraced and one traced run.
#[derive(Clone, Copy, Debug)]
struct Pair {
    untraced: Measured,
    traced: Measured,
    untraced_ping_pong: f64,
    traced_ping_pong: f64,
}

/// Sums over all traced runs, and peaks.
#[derive(Clone, Debug, Default)]
struct Totals {
    requests: u64,
    spans: u64,
    losses: BTreeMap<String, u64>,
    cpu: Duration,
    peak_resident_bytes: u64,
    map_bytes: u64,
}

fn measure(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<Overhead> {
    let duration = Duration::from_secs(options.seconds);
    let server = "location / { return 200 'hello\\n'; } location = /status { stub_status; }";
    let nginx = Nginx::start(&Config { workers: 1, http: String::new(), server: server.to_owned() })?;
    let sink = Sink::start()?;
    let mut ping_pong = PingPong::start()?;
    load(&nginx, WARM_UP_S)?;

    let mut pairs = Vec::new();
    let mut totals = Totals::default();
    for round in 1..=options.rounds {
        if interrupt.is_set() {
            bail!("interrupted");
        }
        let untraced = load(&nginx, options.seconds)?;
        let untraced_ping_pong = ping_pong.run(duration / 4)?;

        let before = beside::served(nginx.addr)?;
        let mut tracer = attach(repo, &nginx, &sink)?;
        let cpu = process::cpu_time(tracer.pid())?;
        // The process that is not traced first: the tracer's memory and time are those of the load.
        let traced_ping_pong = ping_pong.run(duration / 4)?;
        let traced = load(&nginx, options.seconds)?;
        totals.map_bytes = totals.map_bytes.max(process::map_memory(tracer.pid())?);
        // Spans still wait to be decided and sent; that work belongs to these requests too.
        std::thread::sleep(FLUSH);
        totals.cpu += process::cpu_time(tracer.pid())?.saturating_sub(cpu);
        totals.peak_resident_bytes = totals.peak_resident_bytes.max(process::peak_resident(tracer.pid())?);
        let exit = tracer.stop(Signal::INT)?;
        if !exit.success() {
            bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
        }
        // The question itself is counted, but came when nobody traced any more.
        let requests = beside::served(nginx.addr)?.saturating_sub(before).saturating_sub(1);
        let spans = sink.take();
        let losses = losses(&tracer.stderr());
        totals.requests += requests;
        totals.spans += spans;
        println!(
            "round {round}: {:.0} → {:.0} requests/s, ratio {:.3}; {requests} requests, {spans} spans, {} losses; \
             ping-pong {:.3}",
            untraced.requests_per_second,
            traced.requests_per_second,
            traced.requests_per_second / untraced.requests_per_second,
            losses.values().sum::<u64>(),
            traced_ping_pong / untraced_ping_pong
        );
        for (name, count) in losses {
            *totals.losses.entry(name).or_default() += count;
        }
        pairs.push(Pair { untraced, traced, untraced_ping_pong, traced_ping_pong });
    }
    summarise(repo, options, &pairs, &totals)
}

/// Longer than spans wait for anything when all is well.
const FLUSH: Duration = Duration::from_secs(3);

fn load(nginx: &Nginx, seconds: u64) -> anyhow::Result<Measured> {
    let seconds = u32::try_from(seconds).context("seconds of a run")?;
    let measured = wrk::measure(nginx.addr, CONNECTIONS, seconds)?;
    if measured.failed > 0 {
        // Failures are fast, so that they would look like speed.
        bail!("{} of {} requests failed", measured.failed, measured.requests);
    }
    Ok(measured)
}

/// Traces nginx, with export to the sink; returns once capture is live.
fn attach(repo: &Repo, nginx: &Nginx, sink: &Sink) -> anyhow::Result<Program> {
    let mut attach = Command::new(repo.tracer());
    attach.arg("attach");
    for pid in nginx.pids()? {
        attach.args(["--pid", &pid.to_string()]);
    }
    attach.args(["--otlp-endpoint", &sink.endpoint(), "--otlp-protocol", "http/protobuf"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        attach.env_remove(name);
    }
    let tracer = Program::spawn_dying_by("tracer", attach, Signal::TERM)?;
    tracer.wait_stderr(|line| line.contains("capture is live"), LIVE_LIMIT)?;
    Ok(tracer)
}

fn summarise(repo: &Repo, options: &Options, pairs: &[Pair], totals: &Totals) -> anyhow::Result<Overhead> {
    let middle = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let per_10k = totals.cpu.as_secs_f64() * 1e3 * 1e4 / totals.requests.max(1) as f64;
    Ok(Overhead {
        commit: repo.commit()?,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().context("count processors")?.get() as u64,
        rounds: options.rounds,
        seconds_per_run: options.seconds,
        connections: u64::from(CONNECTIONS),
        untraced_requests_per_s: rounded(middle(&|pair| pair.untraced.requests_per_second)),
        traced_requests_per_s: rounded(middle(&|pair| pair.traced.requests_per_second)),
        throughput_permille: rounded(middle(&|pair| {
            1e3 * pair.traced.requests_per_second / pair.untraced.requests_per_second
        })),
        untraced_p50_us: rounded(middle(&|pair| micros(pair.untraced.p50))),
        traced_p50_us: rounded(middle(&|pair| micros(pair.traced.p50))),
        untraced_p99_us: rounded(middle(&|pair| micros(pair.untraced.p99))),
        traced_p99_us: rounded(middle(&|pair| micros(pair.traced.p99))),
        cpu_ms_per_10k_requests: rounded(per_10k),
        peak_resident_bytes: totals.peak_resident_bytes,
        map_bytes: totals.map_bytes,
        requests: totals.requests,
        spans: totals.spans,
        counted_losses: totals.losses.clone(),
        untraced_process_permille: rounded(middle(&|pair| {
            1e3 * pair.traced_ping_pong / pair.untraced_ping_pong
        })),
    })
}

/// The middle value; of an even number the lower one of the middle, never an average that nobody measured.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "measured figures are positive and far below 2^53"
)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

/// The losses that the exit summary names, by name: `lost: data_ring_full 4, thread_gaps 1` of capture, and
/// `1 spans to URL; lost 2 (failed 2)` of each destination.
fn losses(log: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let items = if let Some((_, items)) = line.split_once("lost: ") {
            items
        } else if let Some((_, items)) = line.split_once("; lost ").and_then(|(_, rest)| rest.split_once('('))
        {
            items.trim_end_matches(')')
        } else {
            continue;
        };
        for (name, count) in items.split(", ").filter_map(|item| item.trim().rsplit_once(' ')) {
            if let Ok(count) = count.parse::<u64>() {
                *found.entry(name.to_owned()).or_default() += count;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_from_the_summary() {
        let log = "tracer: 9 spans of 2 processes; parent undecided for 9 (event-loop 9)
tracer: lost: data_ring_full 4, thread_gaps 1
tracer: 1 spans to http://h; lost 3 (failed 1, refused 2)
tracer: not recognised: lost (1): TLS on 1 connection, 5 B";
        let want = [("data_ring_full", 4), ("failed", 1), ("refused", 2), ("thread_gaps", 1)];
        assert_eq!(losses(log), want.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!(losses("tracer: 1 span of 1 process"), BTreeMap::new());
    }

    #[test]
    fn medians_are_measured_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
