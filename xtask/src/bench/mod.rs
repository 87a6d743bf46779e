//! `cargo xtask bench`: what tracing costs, as ratios of slices taken in turn. `cargo xtask bench engine`: what the
//! engine alone costs. `cargo xtask bench h2`: what it costs one HTTP/2 connection with many streams. `cargo xtask bench
//! rules`: what it costs to find parents inside of processes. `cargo xtask bench identity`: what of that it costs to ask
//! their runtimes. `cargo xtask bench tls`: what it costs a server that speaks
//! TLS.

mod beside;
mod compare;
mod engine;
mod h2;
mod identity;
mod load;
mod process;
pub(crate) mod report;
mod rules;
mod sink;
mod tls;

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::build;
use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::setup::{self, Group};
pub(crate) use engine::make_recording;
pub(crate) use sink::Sink;

use load::{Block, Slice, Totals};
use report::{Overhead, Spread};

/// Measure what tracing costs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench --write", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Blocks of two untraced and two traced slices
    #[arg(long, default_value_t = 12)]
    blocks: u64,
    /// Length of each slice
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Write the numbers to bench/overhead.json and to the README's table
    #[arg(long)]
    write: bool,
    /// Measure nothing; fail if the README's table is not the one of bench/overhead.json
    #[arg(long, conflicts_with = "write")]
    check: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Part {
    Engine(engine::Options),
    H2(h2::Options),
    /// Measure what it costs to ask runtimes whose work an operation is
    #[command(after_help = "Example: cargo xtask bench identity --write")]
    Identity(compare::Options),
    /// Measure what it costs to find parents inside of processes
    #[command(after_help = "Example: cargo xtask bench rules --write")]
    Rules(compare::Options),
    Tls(tls::Options),
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    match &options.part {
        Some(Part::Engine(options)) => return engine::run(repo, options),
        Some(Part::H2(options)) => return h2::run(repo, options, interrupt),
        Some(Part::Identity(options)) => {
            return compare::run(&identity::IDENTITY, repo, options, interrupt);
        }
        Some(Part::Rules(options)) => return compare::run(&rules::RULES, repo, options, interrupt),
        Some(Part::Tls(options)) => return tls::run(repo, options, interrupt),
        None => {}
    }
    if options.check {
        return Overhead::read(repo)?.check(repo);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("tracing needs root: sudo -E cargo xtask bench");
    }
    if options.blocks == 0 || options.seconds == 0 {
        bail!("at least one block of slices of one second");
    }
    setup::prepare(repo, &[Group::Build, Group::Bench])?;
    build::run(repo, &build::Options::INSTALLED)?;
    let (blocks, totals) = load::measure(repo, options.blocks, options.seconds, interrupt)?;
    let overhead = summarise(repo, options, &blocks, &totals)?;
    println!("\n{}", overhead.table());
    if options.write {
        overhead.write(repo)?;
    }
    let shortfalls = overhead.shortfalls();
    if shortfalls.is_empty() { Ok(()) } else { bail!("{}", shortfalls.join("; ")) }
}

fn summarise(repo: &Repo, options: &Options, blocks: &[Block], totals: &Totals) -> anyhow::Result<Overhead> {
    let spread = |value: &dyn Fn(&Block) -> f64| spread(blocks.iter().map(value).collect());
    let untraced = |value: &dyn Fn(&Slice) -> f64| {
        rounded(quantile(&sorted(blocks.iter().flat_map(|block| &block.untraced).map(value).collect()), 2))
    };
    let traced = |value: &dyn Fn(&Slice) -> f64| {
        rounded(quantile(&sorted(blocks.iter().flat_map(|block| &block.traced).map(value).collect()), 2))
    };
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let per_10k = totals.tracer_cpu.as_secs_f64() * 1e3 * 1e4 / totals.requests.max(1) as f64;
    Ok(Overhead {
        commit: repo.commit()?,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().context("count processors")?.get() as u64,
        blocks: options.blocks,
        seconds_per_slice: options.seconds,
        connections: u64::from(load::CONNECTIONS),
        untraced_requests_per_s: untraced(&|slice| slice.load.requests_per_second),
        traced_requests_per_s: traced(&|slice| slice.load.requests_per_second),
        throughput_permille: spread(&|block| 1e3 * block.throughput_ratio()),
        untraced_cpu_ns_per_request: spread(&|block| 1e3 * block.cpu_micros().0).median,
        traced_cpu_ns_per_request: spread(&|block| 1e3 * block.cpu_micros().1).median,
        cpu_permille: spread(&|block| 1e3 * block.cpu_ratio()),
        untraced_p50_us: untraced(&|slice| micros(slice.load.p50)),
        traced_p50_us: traced(&|slice| micros(slice.load.p50)),
        untraced_p99_us: untraced(&|slice| micros(slice.load.p99)),
        traced_p99_us: traced(&|slice| micros(slice.load.p99)),
        cpu_ms_per_10k_requests: rounded(per_10k),
        peak_resident_bytes: totals.peak_resident_bytes,
        map_bytes: totals.map_bytes,
        requests: totals.requests,
        spans: totals.spans,
        counted_losses: totals.losses.clone(),
        untraced_process_pace_permille: spread(&|block| 1e3 * block.ping_pong_ratio(|pace| pace.per_second)),
        untraced_process_cpu_permille: spread(&|block| 1e3 * block.ping_pong_ratio(|pace| pace.cpu_nanos)),
    })
}

/// Median and quartiles.
fn spread(values: Vec<f64>) -> Spread {
    let values = sorted(values);
    let at = |quarters| rounded(quantile(&values, quarters));
    Spread { median: at(2), low: at(1), high: at(3) }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value with so many quarters of the others below it; between two the lower one, never an average that nobody
/// measured.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * quarters / 4).copied().unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "measured figures are positive and far below 2^53"
)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_are_measured_values() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), Spread { low: 1, median: 2, high: 2 });
        assert_eq!(spread(vec![4.0, 1.0, 5.0, 3.0, 2.0]), Spread { low: 2, median: 3, high: 4 });
        assert_eq!(spread(vec![]), Spread { low: 0, median: 0, high: 0 });
    }
}
