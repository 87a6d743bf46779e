//! What a part of the tracer costs: the same tracer without it and with it, in turn.
//!
//! As in [`super::load`], a block is four slices whose order makes an even drift fall out. Each slice has a tracer of its
//! own, whose start is not measured. The servers call another one for each request: without calls there is nothing to find
//! out.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::bail;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::describe_exit;
use tracer_tests::service::Service;
use tracer_tests::wrk;

use super::load::{CONNECTIONS, FLUSH, SETTLE, attach};
use super::report::Spread;
use super::sink::Sink;
use super::spread;
use crate::build;
use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{figures, readme};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Blocks of two slices without and two with
    #[arg(long, default_value_t = 6)]
    blocks: u64,
    /// Length of each slice
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Write the numbers to the repository's file of them and to the README's table
    #[arg(long)]
    write: bool,
}

/// A part whose cost is measured: `cargo xtask bench NAME`, the README's table NAME, and `bench/NAME.json`.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) needs: &'static [Group],
    pub(super) cases: &'static [Case],
}

/// What is compared, on which server.
pub(super) struct Case {
    pub(super) what: &'static str,
    /// Starts the server that is asked, which calls the one at this address.
    pub(super) start: fn(&str) -> anyhow::Result<Front>,
    pub(super) without: &'static [&'static str],
    pub(super) with: &'static [&'static str],
    /// What the tracer then says: without it nothing was measured.
    pub(super) says: &'static str,
    /// Requests per second with, to those without, at least.
    pub(super) least_permille: u64,
}

pub(super) enum Front {
    Nginx(Nginx),
    Service(Service),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    commit: String,
    blocks: u64,
    seconds_per_slice: u32,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    what: String,
    /// Requests per second with, to those without.
    throughput_permille: Spread,
    least_permille: u64,
}

pub(super) fn run(
    subject: &Subject,
    repo: &Repo,
    options: &Options,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("tracing needs root: sudo -E cargo xtask bench {}", subject.name);
    }
    setup::prepare(repo, subject.needs)?;
    build::run(repo, &build::Options::INSTALLED)?;
    let sink = Sink::start()?;
    let (blocks, seconds) = (options.blocks.max(1), options.seconds.max(1));
    let mut rows = Vec::new();
    for case in subject.cases {
        let servers = Servers::start(case.start)?;
        let mut ratios = Vec::new();
        for number in 0..blocks {
            let rate = |with| {
                let (options, says) = if with { (case.with, case.says) } else { (case.without, "") };
                servers.rate(repo, options, says, &sink, seconds)
            };
            let inner = number % 2 == 0;
            let (outer, between) = (rate(!inner)?, rate(inner)? + rate(inner)?);
            let outer = outer + rate(!inner)?;
            let ratio = if inner { between / outer } else { outer / between };
            println!("{}: block {}: ratio {ratio:.3}", case.what, number + 1);
            ratios.push(ratio * 1000.0);
            if interrupt.is_set() {
                bail!("interrupted");
            }
        }
        rows.push(Row {
            what: case.what.to_owned(),
            throughput_permille: spread(ratios),
            least_permille: case.least_permille,
        });
    }
    let cost = Cost { commit: repo.commit()?, blocks, seconds_per_slice: seconds, rows };
    println!("\n{}", cost.table(subject));
    if options.write {
        cost.write(subject, repo)?;
    }
    let shortfalls = cost.shortfalls();
    if shortfalls.is_empty() { Ok(()) } else { bail!("{}", shortfalls.join("; ")) }
}

/// Who is asked, and whom that one calls.
struct Servers {
    front: SocketAddr,
    pids: Vec<u32>,
    _programs: (Front, Nginx),
}

impl Servers {
    fn start(front: impl Fn(&str) -> anyhow::Result<Front>) -> anyhow::Result<Self> {
        let back = Nginx::start(&Config::answer(1))?;
        let mut pids = back.pids()?;
        let front = front(&back.addr.to_string())?;
        let addr = match &front {
            Front::Nginx(nginx) => {
                pids.extend(nginx.pids()?);
                nginx.addr
            }
            Front::Service(service) => {
                pids.push(service.pid());
                service.addr
            }
        };
        Ok(Self { front: addr, pids, _programs: (front, back) })
    }

    /// Requests per second under a tracer with these options, which is to say this.
    fn rate(
        &self,
        repo: &Repo,
        options: &[&str],
        says: &str,
        sink: &Sink,
        seconds: u32,
    ) -> anyhow::Result<f64> {
        let mut tracer = attach(repo, &self.pids, options, sink)?;
        // What rules learn of a process, and what they ask for, is learned by then.
        wrk::measure(self.front, CONNECTIONS, 1)?;
        std::thread::sleep(SETTLE);
        let measured = wrk::measure(self.front, CONNECTIONS, seconds)?;
        std::thread::sleep(FLUSH);
        let exit = tracer.stop(Signal::INT)?;
        if !exit.success() {
            bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
        }
        if !tracer.stderr().contains(says) {
            bail!("the tracer did not say \"{says}\":\n{}", tracer.stderr());
        }
        if measured.failed > 0 {
            // Failures are fast, so that they would look like speed.
            bail!("{} of {} requests failed", measured.failed, measured.requests);
        }
        if sink.take() < measured.requests {
            bail!("fewer spans than {} requests:\n{}", measured.requests, tracer.stderr());
        }
        Ok(measured.requests_per_second)
    }
}

impl Cost {
    fn shortfalls(&self) -> Vec<String> {
        let is_short = |row: &&Row| row.throughput_permille.median < row.least_permille;
        let say = |row: &Row| {
            format!("{}: {} < {} per thousand", row.what, row.throughput_permille.median, row.least_permille)
        };
        self.rows.iter().filter(is_short).map(say).collect()
    }

    fn table(&self, subject: &Subject) -> String {
        let mut out = String::from("| what | requests per second with it : without |\n|---|---|\n");
        for row in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {} | {} |", row.what, row.throughput_permille.ratios());
        }
        let _ = writeln!(
            out,
            "\n`cargo xtask bench {}` at commit {}, {} blocks of 4 slices of {} s, {CONNECTIONS} connections.",
            subject.name, self.commit, self.blocks, self.seconds_per_slice
        );
        out
    }

    fn write(&self, subject: &Subject, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, &subject.file(), self)?;
        readme::write(repo, subject.name, &self.table(subject))
    }
}

impl Subject {
    /// Where the numbers are kept, below the repository's root.
    fn file(&self) -> String {
        format!("bench/{}.json", self.name)
    }

    /// Whether the README shows what the file has.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let repo = Repo::locate().unwrap();
        let cost: Cost = figures::read(&repo, &self.file()).unwrap();
        let command = format!("cargo xtask bench {} --write", self.name);
        readme::check(&repo, self.name, &cost.table(self), &command).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_limit() {
        let row = |median, least_permille| Row {
            what: "rules".to_owned(),
            throughput_permille: Spread { median, low: 0, high: 2000 },
            least_permille,
        };
        let cost = |rows| Cost { commit: "0123456".to_owned(), blocks: 1, seconds_per_slice: 1, rows };
        assert_eq!(cost(vec![row(950, 950), row(900, 900)]).shortfalls(), [""; 0]);
        assert_eq!(cost(vec![row(949, 950), row(900, 900)]).shortfalls(), ["rules: 949 < 950 per thousand"]);
    }
}
