//! `cargo xtask vm`: runs the tests, or any command, under other kernels.

mod initramfs;
mod kernel;
mod machine;
mod matrix;

use std::time::Duration;

use anyhow::bail;

use crate::build;
use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::test::Tally;
use kernel::Kernel;
pub(crate) use kernel::Series;
use machine::{Job, Outcome};

/// Run the tests, or any command, under Debian's 6.1 and 6.12 kernels
///
/// The machines are emulated, so that they run anywhere, and see this machine's files read-only.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask vm --kernel 6.1 -- target/release/tracer doctor")]
pub(crate) struct Options {
    /// Only these kernels
    #[arg(long, value_enum)]
    kernel: Vec<Series>,
    /// Fetch the newest package of each series, also if one is unpacked already
    #[arg(long)]
    newest: bool,
    /// Seconds that the command may take in each machine
    #[arg(long, default_value_t = 600)]
    limit_s: u64,
    /// The command, run as root in the repository's root
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let chosen = if options.kernel.is_empty() { Series::ALL.as_slice() } else { options.kernel.as_slice() };
    setup::prepare(repo, &[Group::Vm])?;
    if options.command.is_empty() {
        build::run(repo, &build::Options::default())?;
        let tally = tests(repo, chosen, options.newest, interrupt)?;
        println!("{} passed, {} failed", tally.passed, tally.failed);
        return if tally.failed == 0 { Ok(()) } else { bail!("{} failed", tally.failed) };
    }
    let words = options.command.iter().map(|word| exec::quoted(word.as_ref()));
    let script = words.collect::<Vec<_>>().join(" ");
    let job = Job { script, limit: Duration::from_secs(options.limit_s) };
    let mut bad = Vec::new();
    for &series in chosen {
        let kernel = Kernel::obtain(repo, series, options.newest)?;
        println!("== {} ({})", series.name(), kernel.package);
        let outcome = machine::run(repo, &kernel, &job, interrupt, |_| {})?;
        if outcome == Outcome::Interrupted {
            bail!("interrupted");
        }
        if outcome.is_unexplained() {
            eprintln!("{}", machine::console_tail(repo, &kernel));
        }
        if outcome != Outcome::Exited(0) {
            bad.push(format!("{}: {outcome}", series.name()));
        }
    }
    if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join("; ")) }
}

/// Runs the matrix's tests under each kernel. The tracer has been built.
pub(crate) fn tests(
    repo: &Repo,
    kernels: &[Series],
    newest: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let tests = matrix::Tests::build(repo)?;
    let mut total = Tally::default();
    for &series in kernels {
        total.add(matrix::run(repo, series, newest, &tests, interrupt)?);
    }
    Ok(total)
}
