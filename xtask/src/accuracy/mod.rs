//! `cargo xtask accuracy`: how many parents are right, of programs of all sorts, and that none is wrong.

mod kept;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use anyhow::ensure;
use tracer_tests::accuracy::workloads::{Workload, all};
use tracer_tests::accuracy::{Cell, Effort, measure};

use crate::build;
use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};

use kept::Kept;
use table::{Accuracy, Run};

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
    /// How many cells to measure at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Take over the cells that an earlier run of the same commit and effort has measured
    #[arg(long)]
    resume: bool,
    /// Write the numbers to bench/accuracy.json and to the README's table, also where a goal is not reached. A program
    /// that failed has an empty place there. With --only or --concurrency, or when it is interrupted, the others stay as
    /// they are
    #[arg(long, conflicts_with_all = ["random_names"])]
    write: bool,
    /// Measure nothing; fail if the README's table is not the one of bench/accuracy.json
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Measure nothing; write the README's table from bench/accuracy.json
    #[arg(long, conflicts_with_all = ["write", "check"])]
    table: bool,
    /// Take the machine and the binary as they are
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if options.check {
        return Accuracy::read(repo)?.check(repo);
    }
    if options.table {
        return Accuracy::read(repo)?.write_table(repo);
    }
    ensure!(rustix::process::geteuid().is_root(), "tracing needs root: sudo -E cargo xtask accuracy");
    if !options.no_build {
        setup::prepare(repo, &[Group::Build, Group::Test])?;
        build::run(repo, &build::Options::default())?;
        exec::run(repo.cargo().args([
            "build",
            "--package",
            "tracer-tests",
            "--features",
            "workloads",
            "--bins",
        ]))?;
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

    let commit = repo.commit()?;
    let kept = Kept::open(repo, &commit, options, effort)?;
    let plan: Vec<(&Workload, usize)> = workloads
        .iter()
        .flat_map(|workload| concurrencies.iter().map(move |&concurrency| (workload, concurrency)))
        .collect();
    let measured = Measured::default();
    println!("{}", Cell::header());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(&(workload, concurrency)) = plan.get(measured.next.fetch_add(1, Relaxed))
                    && !interrupt.is_set()
                {
                    measured.take(&kept, workload, concurrency, || {
                        let mut notes = Vec::new();
                        let note = |text: &str| notes.push(text.to_owned());
                        let random = options.random_names;
                        let cell = measure(&repo.tracer(), workload, concurrency, effort, random, note);
                        (cell, notes)
                    });
                }
            });
        }
    });
    let cells = measured.cells.into_inner().unwrap_or_else(PoisonError::into_inner);
    let wrong = cells.iter().any(|cell| cell.wrong() > 0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let Effort { seeds, min_edges } = effort;
    let count = cells.len();
    if options.write && !wrong {
        let some = !options.only.is_empty() || !options.concurrency.is_empty() || interrupt.is_set();
        let mut accuracy = if some { Accuracy::read(repo)? } else { Accuracy::default() };
        accuracy.renew(Run { commit, kernel, seeds, min_edges, cells });
        accuracy.write(repo)?;
    }
    ensure!(!interrupt.is_set(), "interrupted; --resume goes on from here");
    let failures = measured.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    println!("{count} cells, no wrong parent");
    Ok(())
}

/// What several jobs put together.
#[derive(Debug, Default)]
struct Measured {
    /// The part of the plan that nobody has begun.
    next: AtomicUsize,
    cells: Mutex<Vec<Cell>>,
    failures: Mutex<Vec<String>>,
}

impl Measured {
    /// Measures a cell, unless it was measured before, prints and keeps it.
    fn take(
        &self,
        kept: &Kept,
        workload: &Workload,
        concurrency: usize,
        measure: impl FnOnce() -> (anyhow::Result<Cell>, Vec<String>),
    ) {
        let known = kept.find(workload, concurrency);
        let fresh = known.is_none();
        let (cell, notes) = known.map_or_else(measure, |cell| (Ok(cell), Vec::new()));
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match cell {
            Ok(cell) => {
                println!("{cell}");
                failures.extend(shortfalls(workload, &cell));
                if fresh && let Err(error) = kept.keep(&cell) {
                    eprintln!("  not kept: {error:#}");
                }
                cells.push(cell);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
        for note in notes {
            eprintln!("  {note}");
        }
    }
}

/// What a cell does not reach.
fn shortfalls(workload: &Workload, cell: &Cell) -> Vec<String> {
    let name = format!("{} at {}", workload.name(), cell.concurrency);
    let mut found = Vec::new();
    if cell.wrong() > 0 {
        found.push(format!("{name}: {} wrong", cell.wrong()));
    }
    if cell.in_process.recall_percent() < cell.goal {
        found.push(format!("{name}: {} % right, not {} %", cell.in_process.recall_percent(), cell.goal));
    }
    if cell.cross_process.recall_percent() < 99 {
        found.push(format!("{name}: {} % joined across processes", cell.cross_process.recall_percent()));
    }
    found
}

#[cfg(test)]
mod tests {
    use tracer_tests::accuracy::Tally;

    use super::*;

    pub(super) fn cell(model: &str, concurrency: usize, right: usize) -> Cell {
        Cell {
            runtime: "python".to_owned(),
            model: model.to_owned(),
            concurrency,
            goal: if concurrency == 64 { 99 } else { 100 },
            in_process: Tally { right, undecided: 1, ..Tally::default() },
            cross_process: Tally { right: 9, ..Tally::default() },
            background: Tally { right: 4, ..Tally::default() },
            flawed: 0,
            evidence: [("thread".to_owned(), right)].into(),
            reasons: [].into(),
        }
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
