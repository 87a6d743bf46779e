//! The tracer's command line: parse, build the configuration, dispatch, report.

mod capture;
mod cli;
mod clock;
mod config;
mod export;
mod launch;
mod log;
mod output;
mod pairs;
mod process;
mod recorder;
mod signals;
mod units;

fn main() {
    println!("{}", clock::WallClock::synchronised().unix_nanos(clock::now()));
}
