//! The tracer's command line: parse, build the configuration, dispatch, report.

mod accuracy;
mod capture;
mod cli;
mod clock;
mod commands;
mod config;
mod export;
mod launch;
mod log;
mod output;
mod pairs;
mod pipeline;
mod priority;
mod process;
mod recorder;
mod runtime;
mod signals;
mod summary;
mod tls;
mod units;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;

use crate::cli::Cli;
use crate::config::{Command, Config, Warning};
use crate::launch::UnknownUser;

/// Something failed that the command line is not to blame for.
const RUNTIME_FAILURE: u8 = 1;
/// `EX_USAGE` of sysexits(3).
const USAGE: u8 = 64;

/// At the end, for what was said last: standard error may be stalled.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() {
    let code = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = error.print();
            if error.use_stderr() { USAGE } else { 0 }
        }
    };
    log::flush(LAST_WORDS);
    // Without waiting for threads: one of them may be blocked on a stalled output.
    std::process::exit(code.into());
}

fn run(cli: Cli) -> u8 {
    let (config, warnings) = match Config::new(cli, |name| std::env::var_os(name)) {
        Ok(configured) => configured,
        Err(error) => {
            log::init(0);
            tracing::error!("{error}");
            return USAGE;
        }
    };
    match dispatch(&config, &warnings) {
        Ok(code) => code,
        Err(error) => {
            // The reasons of several rungs are a line each; a message is one line.
            for line in format!("{error:#}").lines() {
                tracing::error!("{line}");
            }
            if error.is::<UnknownUser>() { USAGE } else { RUNTIME_FAILURE }
        }
    }
}

fn dispatch(config: &Config, warnings: &[Warning]) -> anyhow::Result<u8> {
    let Config { command, verbosity } = config;
    // Signals are blocked before the first thread starts.
    let blocked = match command {
        Command::Run(_) | Command::Attach(_) => Some(signals::block().context("block signals")?),
        Command::Replay(_) | Command::Doctor(_) => None,
    };
    log::init(*verbosity);
    for Warning { variable, reason } in warnings {
        tracing::warn!("{variable} is ignored: {reason}");
    }
    match (command, &blocked) {
        (Command::Run(run), Some(blocked)) => commands::run::run(run, blocked, *verbosity),
        (Command::Attach(attach), Some(blocked)) => commands::attach::attach(attach, blocked, *verbosity),
        (Command::Replay(replay), _) => commands::replay::replay(replay),
        (Command::Doctor(doctor), _) => commands::doctor::doctor(doctor),
        (Command::Run(_) | Command::Attach(_), None) => anyhow::bail!("signals are not blocked"),
    }
}
