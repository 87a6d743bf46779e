//! `cargo xtask vm`: runs the tests, or any command, under other kernels.

mod initramfs;
mod kernel;
mod machine;

use std::time::Duration;

use anyhow::bail;

use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use kernel::{Kernel, Series};
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
    let mut bad = Vec::new();
    for &series in chosen {
        let kernel = Kernel::obtain(repo, series, options.newest)?;
        println!("== {} ({})", series.name(), kernel.package);
        let words = options.command.iter().map(|word| exec::quoted(word.as_ref()));
        let script = words.collect::<Vec<_>>().join(" ");
        let job = Job { script, limit: Duration::from_secs(options.limit_s) };
        let outcome = machine::run(repo, &kernel, &job, interrupt, |_| {})?;
        match outcome {
            Outcome::Exited(0) => {}
            Outcome::Exited(code) => bad.push(format!("{}: exit code {code}", series.name())),
            Outcome::Lost(status) => {
                eprintln!("{}", machine::console_tail(repo, &kernel));
                bad.push(format!("{}: the machine died ({status})", series.name()));
            }
            Outcome::TimedOut => {
                eprintln!("{}", machine::console_tail(repo, &kernel));
                bad.push(format!("{}: did not end in time", series.name()));
            }
            Outcome::Interrupted => bail!("interrupted"),
        }
    }
    if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join("; ")) }
}
