//! `cargo xtask accuracy`: how many parents are right, of programs of all sorts, and that none is wrong.

use std::fmt::Write as _;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tracer_tests::accuracy::workloads::{Workload, all};
use tracer_tests::accuracy::{Cell, Effort, Tally, measure};

use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{build, readme};

/// Where the numbers are kept, below the repository's root.
pub(crate) const FILE: &str = "bench/accuracy.json";

/// Name of the README's table.
const TABLE: &str = "accuracy";

/// Count right, wrong and undecided parents in real programs
///
/// Fails on a single wrong parent, on a recall below its goal, and on too few edges.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask accuracy --quick --only 'python pool'")]
pub(crate) struct Options {
    /// At least 200 edges per cell instead of 3,000, of one run instead of three, at 8 and 64 requests at a time
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Requests at a time; may be repeated
    #[arg(long, value_name = "N")]
    concurrency: Vec<usize>,
    /// Ids in the paths tell nothing, not even a person: the numbers must be the same
    #[arg(long)]
    random_names: bool,
    /// Write the numbers to bench/accuracy.json and to the README's table
    #[arg(long, conflicts_with_all = ["quick", "only", "concurrency"])]
    write: bool,
    /// Measure nothing; fail if the README's table is not the one of bench/accuracy.json
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Take the machine and the binary as they are
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if options.check {
        return Accuracy::read(repo)?.check(repo);
    }
    ensure!(rustix::process::geteuid().is_root(), "tracing needs root: sudo -E cargo xtask accuracy");
    if !options.no_build {
        setup::prepare(repo, &[Group::Build, Group::Test])?;
        build::run(repo, &build::Options::default())?;
        exec::run(repo.cargo().args(["build", "--package", "tracer-tests", "--bin", "service_tokio"]))?;
    }
    let wanted = |workload: &Workload| {
        options.only.is_empty() || options.only.iter().any(|name| workload.name().contains(name.as_str()))
    };
    let workloads: Vec<Workload> = all().into_iter().filter(wanted).collect();
    ensure!(!workloads.is_empty(), "no workload has such a name");
    let concurrencies: &[usize] = match (options.concurrency.as_slice(), options.quick) {
        ([], true) => &[8, 64],
        ([], false) => &[1, 8, 32, 64],
        (chosen, _) => chosen,
    };
    let effort = if options.quick {
        Effort { min_edges: 200, seeds: 1 }
    } else {
        Effort { min_edges: 3000, seeds: 3 }
    };

    let mut accuracy = Accuracy {
        commit: repo.commit()?,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        seeds: effort.seeds,
        cells: Vec::new(),
    };
    let mut failures = Vec::new();
    println!("{}", header());
    for workload in &workloads {
        for &concurrency in concurrencies {
            if interrupt.is_set() {
                bail!("interrupted");
            }
            let mut notes = Vec::new();
            let note = |text: &str| notes.push(text.to_owned());
            match measure(&repo.tracer(), workload, concurrency, effort, options.random_names, note) {
                Ok(cell) => {
                    println!("{}", row(&cell));
                    failures.extend(shortfalls(workload, &cell));
                    accuracy.cells.push(cell);
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
            for note in notes {
                eprintln!("  {note}");
            }
        }
    }
    if options.write && failures.is_empty() {
        accuracy.write(repo)?;
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    println!("{} cells, no wrong parent", accuracy.cells.len());
    Ok(())
}

/// What a cell does not reach.
fn shortfalls(workload: &Workload, cell: &Cell) -> Vec<String> {
    let name = format!("{} at {}", workload.name(), cell.concurrency);
    let mut found = Vec::new();
    if cell.wrong() > 0 {
        found.push(format!("{name}: {} wrong", cell.wrong()));
    }
    let goal = workload.class.goal(cell.concurrency);
    if cell.in_process.recall_percent() < goal {
        found.push(format!("{name}: {} % right, not {goal} %", cell.in_process.recall_percent()));
    }
    if cell.cross_process.recall_percent() < 99 {
        found.push(format!("{name}: {} % joined across processes", cell.cross_process.recall_percent()));
    }
    found
}

/// One measurement, as it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accuracy {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) seeds: usize,
    pub(crate) cells: Vec<Cell>,
}

impl Accuracy {
    pub(crate) fn read(repo: &Repo) -> anyhow::Result<Self> {
        let path = repo.root().join(FILE);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("write the numbers as JSON")?;
        text.push('\n');
        let path = repo.root().join(FILE);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        readme::write(repo, TABLE, &self.table())
    }

    /// Fails if the README's table is not the one of these numbers.
    pub(crate) fn check(&self, repo: &Repo) -> anyhow::Result<()> {
        readme::check(repo, TABLE, &self.table(), "cargo xtask accuracy --write")
    }

    /// The README's table: a line per workload, a column per load.
    fn table(&self) -> String {
        let mut loads: Vec<usize> = self.cells.iter().map(|cell| cell.concurrency).collect();
        loads.sort_unstable();
        loads.dedup();
        let mut out = String::from("| runtime | model |");
        for load in &loads {
            // Writing to a string cannot fail.
            let _ = write!(out, " at {load} |");
        }
        let _ = writeln!(out, " no parent claimed for background calls |");
        let _ = writeln!(out, "| --- | --- |{} --- |", " --- |".repeat(loads.len()));
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for cell in &self.cells {
            let name = (cell.runtime.as_str(), cell.model.as_str());
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let _ = write!(out, "| {} | {} |", cell.runtime, cell.model);
            let of = |load: usize| {
                self.cells.iter().find(|cell| {
                    (cell.runtime.as_str(), cell.model.as_str()) == name && cell.concurrency == load
                })
            };
            for &load in &loads {
                let _ =
                    write!(out, " {} |", of(load).map_or_else(String::new, |cell| shown(cell.in_process)));
            }
            let background =
                loads.iter().filter_map(|load| of(*load)).fold(Tally::default(), |sum, cell| Tally {
                    right: sum.right + cell.background.right,
                    wrong: sum.wrong + cell.background.wrong,
                    ..sum
                });
            let _ = writeln!(out, " {}/{} |", background.right, background.right + background.wrong);
        }
        let (mut across, mut wrong) = (0, 0);
        for cell in &self.cells {
            across += cell.cross_process.right;
            wrong += cell.cross_process.wrong;
        }
        let _ = writeln!(
            out,
            "\nCalls whose parent is right/wrong/undecided/lost, by requests at a time. Across processes: {across} right, \
             {wrong} wrong.\n`cargo xtask accuracy` at commit {}, Linux {}, {} runs per cell.",
            self.commit, self.kernel, self.seeds
        );
        out
    }
}

fn shown(tally: Tally) -> String {
    let Tally { right, wrong, undecided, lost } = tally;
    format!("{right}/{wrong}/{undecided}/{lost} ({} %)", tally.recall_percent())
}

fn header() -> String {
    format!(
        "{:<7} {:<24} {:>3}  {:<30} {:<22} {:<18} flaws   (right/wrong/undecided/lost)",
        "runtime", "model", "at", "in-process", "cross-process", "background"
    )
}

fn row(cell: &Cell) -> String {
    let plain = |tally: Tally| {
        let Tally { right, wrong, undecided, lost } = tally;
        format!("{right}/{wrong}/{undecided}/{lost}")
    };
    format!(
        "{:<7} {:<24} {:>3}  {:<30} {:<22} {:<18} {:<5} {:?} {:?}",
        cell.runtime,
        cell.model,
        cell.concurrency,
        shown(cell.in_process),
        plain(cell.cross_process),
        plain(cell.background),
        cell.flawed,
        cell.evidence,
        cell.reasons
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(model: &str, concurrency: usize, right: usize) -> Cell {
        Cell {
            runtime: "python".to_owned(),
            model: model.to_owned(),
            concurrency,
            in_process: Tally { right, undecided: 1, ..Tally::default() },
            cross_process: Tally { right: 9, ..Tally::default() },
            background: Tally { right: 4, ..Tally::default() },
            flawed: 0,
            evidence: [("thread".to_owned(), right)].into(),
            reasons: [].into(),
        }
    }

    #[test]
    fn the_table_has_a_line_per_workload() {
        let cells = vec![cell("a", 1, 99), cell("a", 8, 49), cell("b", 8, 9)];
        let accuracy = Accuracy { commit: "0123456".to_owned(), kernel: "6.12".to_owned(), seeds: 3, cells };
        let table = accuracy.table();
        assert!(table.contains("| python | a | 99/0/1/0 (99 %) | 49/0/1/0 (98 %) | 8/8 |"), "{table}");
        assert!(table.contains("| python | b |  | 9/0/1/0 (90 %) | 4/4 |"), "{table}");
        assert!(table.contains("27 right, 0 wrong"), "{table}");
        let json = serde_json::to_string(&accuracy).unwrap();
        assert_eq!(serde_json::from_str::<Accuracy>(&json).unwrap(), accuracy);
    }

    #[test]
    fn a_wrong_parent_fails_whatever_its_sort() {
        let all = all();
        let workload = all.iter().find(|workload| workload.name() == "python thread").unwrap();
        assert_eq!(shortfalls(workload, &cell("a", 8, 1000)), ["python thread at 8: 99 % right, not 100 %"]);
        let mut good = cell("a", 64, 1000);
        assert_eq!(shortfalls(workload, &good), [""; 0]);
        good.background.wrong = 1;
        assert_eq!(shortfalls(workload, &good), ["python thread at 64: 1 wrong"]);
        good.background.wrong = 0;
        good.in_process.lost = 90;
        assert_eq!(shortfalls(workload, &good), ["python thread at 64: 91 % right, not 99 %"]);
    }
}
