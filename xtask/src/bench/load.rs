//! nginx under load, untraced and traced in turn: what a request costs with and without the tracer.
//!
//! The machine's speed drifts by more than what is to be measured, so only neighbours in time are compared. A *block* is
//! four short slices in the order untraced, traced, traced, untraced, or the other way round in every second block: what
//! drifts evenly falls out of the block's ratio. The median of the blocks' ratios is the figure, their quartiles its
//! spread.
//!
//! Two ratios are formed. That of requests per second is what a user sees on this machine with what else it does. That
//! of processor time per request, of everything that works for it (nginx, wrk, the tracer, the receiver of its spans),
//! hardly depends on what else the machine does; where all processors are busy, it is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use std::process::Command;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::{Program, describe_exit};
use tracer_tests::wrk::{self, Measured};

use super::beside::{self, Pace, PingPong};
use super::process;
use super::sink::Sink;
use crate::exec::{self, Interrupt};
use crate::repo::Repo;

const LIVE_LIMIT: Duration = Duration::from_secs(60);

/// Enough to keep one nginx worker busy all the time, few enough that latency is not only queueing.
pub(super) const CONNECTIONS: u32 = 32;

/// Not measured: fills caches and lets the processor's clock settle.
const WARM_UP_S: u64 = 2;

/// Longer than spans wait for anything when all is well.
pub(super) const FLUSH: Duration = Duration::from_secs(3);

/// The tracer's reader and exporter are at rest by then.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// How much shorter the ping-pong is than the load.
const PING_PONG_SHARE: u32 = 4;

/// One slice: the ping-pong, then load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) load: Measured,
    /// Processor time of nginx and wrk.
    pub(super) cpu: Duration,
    pub(super) ping_pong: Pace,
}

/// Slices that are compared with each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) untraced: Vec<Slice>,
    pub(super) traced: Vec<Slice>,
    /// Of the tracer and the receiver of its spans, for the traced slices.
    tracing_cpu: Duration,
}

/// Sums over all traced slices, and peaks.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) spans: u64,
    pub(super) losses: BTreeMap<String, u64>,
    pub(super) tracer_cpu: Duration,
    pub(super) peak_resident_bytes: u64,
    pub(super) map_bytes: u64,
}

impl Block {
    pub(super) fn throughput_ratio(&self) -> f64 {
        per_second(&self.traced) / per_second(&self.untraced)
    }

    /// Processor time per request, untraced and traced, in microseconds.
    pub(super) fn cpu_micros(&self) -> (f64, f64) {
        let micros = |slices: &[Slice], more: Duration| {
            let sum = slices.iter().map(|slice| slice.cpu).sum::<Duration>() + more;
            let requests = slices.iter().map(|slice| slice.load.requests).sum::<u64>();
            sum.as_secs_f64() * 1e6 / requests.max(1) as f64
        };
        (micros(&self.untraced, Duration::ZERO), micros(&self.traced, self.tracing_cpu))
    }

    pub(super) fn cpu_ratio(&self) -> f64 {
        let (untraced, traced) = self.cpu_micros();
        untraced / traced
    }

    pub(super) fn ping_pong_ratio(&self, of: impl Fn(&Pace) -> f64) -> f64 {
        let sum = |slices: &[Slice]| slices.iter().map(|slice| of(&slice.ping_pong)).sum::<f64>();
        sum(&self.traced) / sum(&self.untraced)
    }
}

fn per_second(slices: &[Slice]) -> f64 {
    let requests: u64 = slices.iter().map(|slice| slice.load.requests).sum();
    requests as f64 / slices.iter().map(|slice| slice.load.seconds).sum::<f64>()
}

/// What is measured with.
struct Bench<'a> {
    repo: &'a Repo,
    nginx: Nginx,
    sink: Sink,
    ping_pong: PingPong,
    seconds: u64,
    totals: Totals,
}

pub(super) fn measure(
    repo: &Repo,
    blocks: u64,
    seconds: u64,
    interrupt: &Interrupt,
) -> anyhow::Result<(Vec<Block>, Totals)> {
    let server = "location / { return 200 'hello\\n'; } location = /status { stub_status; }";
    let mut bench = Bench {
        repo,
        nginx: Nginx::start(&Config { workers: 1, http: String::new(), server: server.to_owned() })?,
        sink: Sink::start()?,
        ping_pong: PingPong::start()?,
        seconds,
        totals: Totals::default(),
    };
    println!(
        "{blocks} blocks of 4 slices: {} ms of ping-pong, then {seconds} s of wrk with {CONNECTIONS} connections on \
         nginx with one worker;\nslices in the order untraced, traced, traced, untraced, in every second block traced, \
         untraced, untraced, traced",
        bench.ping_pong_time().as_millis()
    );
    bench.load(WARM_UP_S)?;
    let mut done = Vec::new();
    for number in 1..=blocks {
        let mut block = Block::default();
        let traced_in_the_middle = number % 2 == 1;
        if traced_in_the_middle {
            bench.untraced(&mut block)?;
            bench.traced(&mut block, 2)?;
            bench.untraced(&mut block)?;
        } else {
            bench.traced(&mut block, 1)?;
            bench.untraced(&mut block)?;
            bench.untraced(&mut block)?;
            bench.traced(&mut block, 1)?;
        }
        if interrupt.is_set() {
            bail!("interrupted");
        }
        let (untraced, traced) = block.cpu_micros();
        println!(
            "block {number}: {:.0} → {:.0} requests/s, ratio {:.3}; {untraced:.2} → {traced:.2} µs of processor time \
             per request, ratio {:.3}; ping-pong {:.3} in pace, {:.3} in processor time",
            per_second(&block.untraced),
            per_second(&block.traced),
            block.throughput_ratio(),
            block.cpu_ratio(),
            block.ping_pong_ratio(|pace| pace.per_second),
            block.ping_pong_ratio(|pace| pace.cpu_nanos),
        );
        done.push(block);
    }
    Ok((done, bench.totals))
}

impl Bench<'_> {
    fn ping_pong_time(&self) -> Duration {
        Duration::from_secs(self.seconds) / PING_PONG_SHARE
    }

    fn untraced(&mut self, block: &mut Block) -> anyhow::Result<()> {
        let slice = self.slice()?;
        block.untraced.push(slice);
        Ok(())
    }

    /// `slices` in a row under one tracer, which lives no longer than them.
    fn traced(&mut self, block: &mut Block, slices: u32) -> anyhow::Result<()> {
        let before = beside::served(self.nginx.addr)?;
        let mut tracer = attach(self.repo, &self.nginx.pids()?, &[], &self.sink)?;
        let started = (process::cpu_time(tracer.pid())?, process::cpu_time(std::process::id())?);
        let mut ping_pong_cpu = Duration::ZERO;
        for _ in 0..slices {
            let slice = self.slice()?;
            ping_pong_cpu += self.ping_pong_cpu(&slice);
            block.traced.push(slice);
        }
        self.totals.map_bytes = self.totals.map_bytes.max(process::map_memory(tracer.pid())?);
        // Spans still wait to be decided and sent; that work belongs to these requests too.
        std::thread::sleep(FLUSH);
        let tracer_cpu = process::cpu_time(tracer.pid())?.saturating_sub(started.0);
        let sink_cpu = process::cpu_time(std::process::id())?.saturating_sub(started.1);
        block.tracing_cpu += tracer_cpu + sink_cpu.saturating_sub(ping_pong_cpu);
        let totals = &mut self.totals;
        totals.tracer_cpu += tracer_cpu;
        totals.peak_resident_bytes = totals.peak_resident_bytes.max(process::peak_resident(tracer.pid())?);
        let exit = tracer.stop(Signal::INT)?;
        if !exit.success() {
            bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
        }
        // The question itself is counted, but came when nobody traced any more.
        totals.requests += beside::served(self.nginx.addr)?.saturating_sub(before).saturating_sub(1);
        totals.spans += self.sink.take();
        for (name, count) in losses(&tracer.stderr()) {
            *totals.losses.entry(name).or_default() += count;
        }
        Ok(())
    }

    /// What both ends of the ping-pong took of this process's time: what is left is the sink's.
    fn ping_pong_cpu(&self, slice: &Slice) -> Duration {
        let seconds = self.ping_pong_time().as_secs_f64();
        let nanos = 2.0 * slice.ping_pong.cpu_nanos * slice.ping_pong.per_second * seconds;
        Duration::from_secs_f64(nanos / 1e9)
    }

    fn slice(&mut self) -> anyhow::Result<Slice> {
        let nginx =
            || self.nginx.pids()?.into_iter().map(process::cpu_time).sum::<anyhow::Result<Duration>>();
        // What the last slice left to do is not this ping-pong's cost.
        std::thread::sleep(SETTLE);
        let ping_pong = self.ping_pong.run(self.ping_pong_time())?;
        let before = nginx()? + process::children_cpu_time()?;
        let load = self.load(self.seconds)?;
        let cpu = (nginx()? + process::children_cpu_time()?).saturating_sub(before);
        Ok(Slice { load, cpu, ping_pong })
    }

    fn load(&self, seconds: u64) -> anyhow::Result<Measured> {
        let seconds = u32::try_from(seconds).context("seconds of a slice")?;
        let measured = wrk::measure(self.nginx.addr, CONNECTIONS, seconds)?;
        if measured.failed > 0 {
            // Failures are fast, so that they would look like speed.
            bail!("{} of {} requests failed", measured.failed, measured.requests);
        }
        Ok(measured)
    }
}

/// Traces these processes, with export to the sink; returns once capture is live.
pub(super) fn attach(repo: &Repo, pids: &[u32], options: &[&str], sink: &Sink) -> anyhow::Result<Program> {
    let mut attach = Command::new(repo.tracer());
    attach.arg("attach").args(options);
    for pid in pids {
        attach.args(["--pid", &pid.to_string()]);
    }
    attach.args(["--otlp-endpoint", &sink.endpoint(), "--otlp-protocol", "http/protobuf"]);
    exec::without_otel(&mut attach);
    let tracer = Program::spawn_dying_by("tracer", attach, Signal::TERM)?;
    tracer.wait_stderr(|line| line.contains("capture is live"), LIVE_LIMIT)?;
    Ok(tracer)
}

/// The losses that the exit summary names, by name: `lost: data_ring_full 4, thread_gaps 1` of capture, and
/// `1 spans to URL; lost 2 (failed 2)` of each destination.
pub(super) fn losses(log: &str) -> BTreeMap<String, u64> {
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
}
