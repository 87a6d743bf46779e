//! The project's own commands; this list is their table of contents, one file each.

mod accuracy;
mod backends;
mod bench;
mod build;
mod ci;
mod demo;
mod ebpf;
mod exec;
mod figures;
mod guided;
mod readme;
mod record;
mod repo;
mod setup;
mod test;
#[cfg(test)]
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exec::Interrupt;
use repo::Repo;

/// The project's own commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what is missing on this machine and install it
    Setup(setup::Options),
    /// Build the kernel half, then the binary that embeds it
    Build(build::Options),
    /// Set up, build, start real programs, trace one request through them and print its tree
    Demo(demo::Options),
    /// Set up, run every test, and print how many passed and failed
    Test(test::Options),
    /// Run the tests, or any command, under Debian's 6.1 and 6.12 kernels
    Vm(vm::Options),
    /// Count right, wrong and undecided parents in real programs
    Accuracy(accuracy::Options),
    /// Make the recordings under tests/replay anew
    Record(record::Options),
    /// Measure what tracing costs
    Bench(bench::Options),
    /// Check form, lints, dependencies and documentation, then run every test
    Ci(ci::Options),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let repo = Repo::locate()?;
    let interrupt = Interrupt::catch()?;
    match cli.command {
        Command::Setup(options) => setup::run(&repo, &options)?,
        Command::Build(options) => build::run(&repo, &options)?,
        Command::Demo(options) => demo::run(&repo, &options, &interrupt)?,
        Command::Vm(options) => vm::run(&repo, &options, &interrupt)?,
        Command::Accuracy(options) => accuracy::run(&repo, &options, &interrupt)?,
        Command::Record(options) => record::run(&repo, &options, &interrupt)?,
        Command::Bench(options) => bench::run(&repo, &options, &interrupt)?,
        Command::Ci(options) => return ci::run(&repo, &options, &interrupt),
        // Its last line is its result, for people and for continuous integration: nothing may follow.
        Command::Test(options) => return Ok(test::run(&repo, &options, &interrupt)),
    }
    Ok(ExitCode::SUCCESS)
}
