//! `cargo xtask demo`: starts a chain of real, unmodified programs, traces one request through them, and prints its
//! tree.
//!
//! It traces only what it started, and leaves nothing running.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tracer_tests::demo;
use tracer_tests::program::{Program, describe_exit};
use tracer_tests::temp::TempDir;

use crate::build;
use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};

/// Loading and checking its programs takes the kernel a second; a busy machine takes longer.
const LIVE_LIMIT: Duration = Duration::from_secs(60);

/// Time for the last events of the request, such as closed connections, to happen before the tracer is stopped.
const SETTLE: Duration = Duration::from_millis(300);

/// Set up, build, start real programs, trace one request through them and print its tree
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Take the machine and the binary as they are
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demo loads programs into the kernel and needs root: sudo -E cargo xtask demo");
    }
    if !options.no_build {
        setup::prepare(repo, &[Group::Build, Group::Demo])?;
        build::run(repo, &build::Options::default())?;
    }
    go_on(interrupt)?;

    println!("\nStarting unmodified programs that know nothing of tracing:");
    let mut chain = demo::start()?;
    for (name, pid) in chain.programs() {
        println!("  {name:<16} process {pid}");
    }
    go_on(interrupt)?;

    let folder = TempDir::new()?;
    let trees = folder.join("trees");
    let mut attach = Command::new(repo.tracer());
    attach.arg("attach");
    for pid in chain.pids()? {
        attach.args(["--pid", &pid.to_string()]);
    }
    attach.args(["--format", "tree", "--output"]).arg(&trees);
    // The defaults are shown, whatever the caller's environment asks of the tracer elsewhere.
    exec::without_otel(&mut attach);
    let mut tracer = Program::spawn_dying_by("tracer", attach, Signal::TERM)?;
    let live = tracer.wait_stderr(|line| line.contains("capture is live"), LIVE_LIMIT)?;
    println!("\n{live}");
    go_on(interrupt)?;

    println!("\n$ curl {}", chain.url());
    println!("{}\n", chain.ask()?.trim_end());
    std::thread::sleep(SETTLE);
    let exit = tracer.stop(Signal::INT)?;
    if !exit.success() {
        bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
    }
    let tree = std::fs::read_to_string(&trees).context("read the tracer's output")?;
    if tree.trim().is_empty() {
        bail!("the tracer printed no tree:\n{}", tracer.stderr());
    }
    println!("{}\n", tree.trim_end());
    println!("{}", after(&tracer.stderr(), &live));
    drop(chain);
    print!("{NEXT}");
    Ok(())
}

/// What the tracer said once it was live: the exit summary.
fn after<'a>(log: &'a str, line: &str) -> &'a str {
    log.split_once(line).map_or(log, |(_, rest)| rest).trim()
}

fn go_on(interrupt: &Interrupt) -> anyhow::Result<()> {
    if interrupt.is_set() {
        bail!("interrupted");
    }
    Ok(())
}

const NEXT: &str = "
Next:
  sudo target/release/tracer run -- YOUR PROGRAM
  sudo target/release/tracer attach --port 8080
  sudo target/release/tracer attach --port 8080 --otlp-endpoint http://localhost:4317
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_what_follows_the_live_line() {
        assert_eq!(after("warning\nlive: rung A\n\n3 spans\n", "live: rung A"), "3 spans");
        assert_eq!(after("3 spans\n", "live"), "3 spans");
    }
}
