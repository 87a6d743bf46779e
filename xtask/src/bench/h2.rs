//! nginx under load of one HTTP/2 connection with many streams, untraced and traced in turn.
//!
//! As [`super::load`] with other load: the figures are ratios of neighbours in time. On one connection the order of
//! frames is the only one there is, so that what the tracer does at each operation is in the way of all streams.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::{describe_exit, free_port};

use super::load::{FLUSH, SETTLE, attach, losses};
use super::process;
use super::report::mib;
use super::sink::Sink;
use crate::build;
use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::setup::{self, Group};

const STREAMS: u32 = 100;

/// Of requests per second traced to those untraced, at least.
const LEAST_RATIO: f64 = 0.70;

/// Spans that may be lost of a thousand.
const MAX_LOST_PERMILLE: u64 = 1;

/// Of the tracer's memory, beside its maps.
const MAX_RESIDENT_BYTES: u64 = 50 << 20;

/// Measure what tracing costs one HTTP/2 connection with a hundred streams
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench h2 --blocks 4")]
pub(super) struct Options {
    /// Blocks of two untraced and two traced slices
    #[arg(long, default_value_t = 6)]
    blocks: u64,
    /// Length of each slice
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

struct Bench<'a> {
    repo: &'a Repo,
    nginx: Nginx,
    port: u16,
    seconds: u64,
    sink: Sink,
    requests: u64,
    spans: u64,
    losses: BTreeMap<String, u64>,
    peak_resident_bytes: u64,
}

pub(super) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("tracing needs root: sudo -E cargo xtask bench h2");
    }
    setup::prepare(repo, &[Group::Build, Group::Bench])?;
    build::run(repo, &build::Options::INSTALLED)?;
    let port = free_port()?;
    let http = format!(
        "server {{ listen 127.0.0.1:{port} http2; http2_max_concurrent_streams {STREAMS}; \
         location / {{ return 200 'hello\\n'; }} }}"
    );
    let server = "location / { return 204; }".to_owned();
    let mut bench = Bench {
        repo,
        nginx: Nginx::start(&Config { workers: 1, http, server })?,
        port,
        seconds: options.seconds.max(1),
        sink: Sink::start()?,
        requests: 0,
        spans: 0,
        losses: BTreeMap::new(),
        peak_resident_bytes: 0,
    };
    bench.load()?;
    let mut ratios = Vec::new();
    for number in 1..=options.blocks.max(1) {
        let before = bench.load()?;
        let traced = bench.traced()?;
        let ratio = 2.0 * traced / (before + bench.load()?);
        println!("block {number}: {traced:.0} requests/s traced, ratio {ratio:.3}");
        ratios.push(ratio);
        if interrupt.is_set() {
            bail!("interrupted");
        }
    }
    bench.report(ratios)
}

impl Bench<'_> {
    /// Requests a second of a connection of its own.
    fn load(&self) -> anyhow::Result<f64> {
        std::thread::sleep(SETTLE);
        let (requests, seconds) = h2load(self.port, self.seconds)?;
        Ok(requests as f64 / seconds)
    }

    /// The same, of two slices in a row under one tracer.
    fn traced(&mut self) -> anyhow::Result<f64> {
        let mut tracer = attach(self.repo, &self.nginx.pids()?, &[], &self.sink)?;
        let (mut requests, mut seconds) = (0, 0.0);
        for _ in 0..2 {
            std::thread::sleep(SETTLE);
            let slice = h2load(self.port, self.seconds)?;
            requests += slice.0;
            seconds += slice.1;
        }
        std::thread::sleep(FLUSH);
        self.peak_resident_bytes = self.peak_resident_bytes.max(process::peak_resident(tracer.pid())?);
        let exit = tracer.stop(Signal::INT)?;
        if !exit.success() {
            bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
        }
        self.requests += requests;
        self.spans += self.sink.take();
        for (name, count) in losses(&tracer.stderr()) {
            *self.losses.entry(name).or_default() += count;
        }
        Ok(requests as f64 / seconds)
    }

    fn report(&self, mut ratios: Vec<f64>) -> anyhow::Result<()> {
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[ratios.len() / 2];
        let Self { requests, spans, losses, .. } = self;
        println!(
            "one connection, {STREAMS} streams: ratio {ratio:.3} ({:.3} to {:.3}); {requests} requests, {spans} spans, \
             lost {losses:?}; {} MiB resident at most",
            ratios.first().copied().unwrap_or_default(),
            ratios.last().copied().unwrap_or_default(),
            mib(self.peak_resident_bytes)
        );
        let found = shortfalls(&Figures {
            ratio,
            requests: *requests,
            spans: *spans,
            under_way: u64::from(STREAMS) * 2 * ratios.len() as u64,
            peak_resident_bytes: self.peak_resident_bytes,
        });
        if found.is_empty() { Ok(()) } else { bail!("{}", found.join("; ")) }
    }
}

/// What is to be as it should.
struct Figures {
    ratio: f64,
    requests: u64,
    spans: u64,
    /// Requests at most that were under way when the load ended, and may be answered or not.
    under_way: u64,
    peak_resident_bytes: u64,
}

fn shortfalls(figures: &Figures) -> Vec<String> {
    let Figures { ratio, requests, spans, under_way, peak_resident_bytes } = *figures;
    let mut found = Vec::new();
    if ratio < LEAST_RATIO {
        found.push(format!("ratio {ratio:.3} < {LEAST_RATIO:.3}"));
    }
    if spans.abs_diff(requests) > requests / 1000 * MAX_LOST_PERMILLE + under_way {
        found.push(format!("{requests} requests and {spans} spans"));
    }
    if peak_resident_bytes > MAX_RESIDENT_BYTES {
        found.push(format!("{} MiB resident > {} MiB", mib(peak_resident_bytes), mib(MAX_RESIDENT_BYTES)));
    }
    found
}

/// Requests that were answered, and seconds.
fn h2load(port: u16, seconds: u64) -> anyhow::Result<(u64, f64)> {
    let output = Command::new("h2load")
        .args(["-c", "1", "-m", &STREAMS.to_string(), "-D", &seconds.to_string()])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .context("run h2load")?;
    let report = String::from_utf8_lossy(&output.stdout);
    parse(&report)
        .map(|requests| (requests, seconds as f64))
        .with_context(|| format!("report of h2load: {report}"))
}

/// `requests: 20 total, 20 started, 20 done, 20 succeeded, 0 failed, 0 errored, 0 timeout`
fn parse(report: &str) -> anyhow::Result<u64> {
    let line = report.lines().find_map(|line| line.strip_prefix("requests: ")).context("no totals")?;
    let count = |name: &str| {
        let item = line.split(", ").find_map(|item| item.strip_suffix(name)).context("an item is missing")?;
        Ok::<u64, anyhow::Error>(item.trim().parse()?)
    };
    // Failures are fast, so that they would look like speed.
    if count("failed")? + count("timeout")? > 0 {
        bail!("requests failed");
    }
    count("succeeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_limit() {
        let count = |ratio, spans, resident: u64| {
            shortfalls(&Figures {
                ratio,
                requests: 10_000,
                spans,
                under_way: 5,
                peak_resident_bytes: resident << 20,
            })
            .len()
        };
        assert_eq!(count(0.7, 10_000, 50), 0);
        assert_eq!(count(0.7, 9_985, 50), 0);
        assert_eq!((count(0.69, 10_000, 50), count(0.7, 9_984, 50), count(0.7, 10_000, 51)), (1, 1, 1));
        assert_eq!(count(0.1, 0, 100), 3);
    }

    #[test]
    fn the_report_is_read() {
        let report = |failed| {
            format!(
                "finished in 2.00s\nrequests: 9 total, 9 started, 8 done, 7 succeeded, {failed} failed, 0 errored, 0 timeout\n"
            )
        };
        assert_eq!(parse(&report(0)).unwrap(), 7);
        assert!(parse(&report(1)).is_err());
        assert!(parse("").is_err());
    }
}
