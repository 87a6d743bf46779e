//! `cargo xtask accuracy`: how many parents are right, of programs of all sorts, and that none is wrong.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tracer_tests::accuracy::workloads::{Workload, all};
use tracer_tests::accuracy::{Cell, Effort, Tally, measure};

use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{build, figures, readme};

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
    /// How many cells to measure at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Take over the cells that an earlier run of the same commit and effort has measured
    #[arg(long)]
    resume: bool,
    /// Write the numbers to bench/accuracy.json and to the README's table, also where a goal is not reached. A program
    /// that failed has an empty place there
    #[arg(long, conflicts_with_all = ["only", "random_names"])]
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
        return readme::write(repo, TABLE, &Accuracy::read(repo)?.table());
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
    ensure!(!interrupt.is_set(), "interrupted; --resume goes on from here");

    let mut cells = measured.cells.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |cell: &Cell| {
        plan.iter().position(|(workload, concurrency)| {
            (workload.runtime, workload.model, *concurrency) == (&cell.runtime, &cell.model, cell.concurrency)
        })
    };
    cells.sort_by_key(place);
    let wrong = cells.iter().any(|cell| cell.wrong() > 0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let Effort { seeds, min_edges } = effort;
    let accuracy = Accuracy { commit, kernel, seeds, min_edges, cells };
    if options.write && !wrong {
        accuracy.write(repo)?;
    }
    let failures = measured.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    println!("{} cells, no wrong parent", accuracy.cells.len());
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

/// Cells that were measured at this commit, a line each. A wrong one is kept like any other: measuring again does not
/// make it right.
#[derive(Debug)]
struct Kept {
    before: Vec<Cell>,
    /// None where the numbers could not be told from those of another program.
    file: Option<PathBuf>,
}

impl Kept {
    fn open(repo: &Repo, commit: &str, options: &Options, effort: Effort) -> anyhow::Result<Self> {
        if commit.ends_with('+') || options.random_names {
            ensure!(!options.resume, "only a commit's own numbers, with telling names, are kept");
            return Ok(Self { before: Vec::new(), file: None });
        }
        let folder = repo.target().join("accuracy");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let file = folder.join(format!("{commit}-{}x{}.jsonl", effort.seeds, effort.min_edges));
        let text =
            if options.resume { std::fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        if !options.resume && file.exists() {
            std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        }
        // The last line may have been cut off.
        let before = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { before, file: Some(file) })
    }

    fn find(&self, workload: &Workload, concurrency: usize) -> Option<Cell> {
        let same = |cell: &&Cell| {
            (workload.runtime, workload.model, concurrency) == (&cell.runtime, &cell.model, cell.concurrency)
        };
        self.before.iter().find(same).cloned()
    }

    fn keep(&self, cell: &Cell) -> anyhow::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut line = serde_json::to_string(cell).context("write a cell as JSON")?;
        line.push('\n');
        let mut file = File::options().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())?;
        Ok(())
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

/// One measurement, as it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accuracy {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) seeds: usize,
    pub(crate) min_edges: usize,
    pub(crate) cells: Vec<Cell>,
}

impl Accuracy {
    pub(crate) fn read(repo: &Repo) -> anyhow::Result<Self> {
        figures::read(repo, FILE)
    }

    fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
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
                let _ = write!(out, " {} |", of(load).map_or_else(String::new, shown));
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
             {wrong} wrong.\n`cargo xtask accuracy` at commit {}, Linux {}, at least {} calls per cell in {} run{}.",
            self.commit,
            self.kernel,
            self.min_edges,
            self.seeds,
            if self.seeds == 1 { "" } else { "s" }
        );
        out
    }
}

/// A cell of the README's table. What is below its goal says so.
fn shown(cell: &Cell) -> String {
    let (found, percent) = (cell.in_process, cell.in_process.recall_percent());
    if percent < cell.goal {
        return format!("{found} ({percent} %, goal {})", cell.goal);
    }
    format!("{found} ({percent} %)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(model: &str, concurrency: usize, right: usize) -> Cell {
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
    fn the_table_has_a_line_per_workload() {
        let cells = vec![cell("a", 1, 99), cell("a", 8, 49), cell("b", 8, 9)];
        let accuracy = Accuracy {
            commit: "0123456".to_owned(),
            kernel: "6.12".to_owned(),
            seeds: 3,
            min_edges: 90,
            cells,
        };
        let table = accuracy.table();
        assert!(
            table.contains("| python | a | 99/0/1/0 (99 %, goal 100) | 49/0/1/0 (98 %, goal 100) | 8/8 |"),
            "{table}"
        );
        assert!(table.contains("| python | b |  | 9/0/1/0 (90 %, goal 100) | 4/4 |"), "{table}");
        assert!(table.contains("27 right, 0 wrong"), "{table}");
        let json = serde_json::to_string(&accuracy).unwrap();
        assert_eq!(serde_json::from_str::<Accuracy>(&json).unwrap(), accuracy);
    }

    /// Where nothing was measured yet, the README shows nothing.
    #[test]
    fn the_readme_shows_the_committed_numbers() {
        let repo = Repo::locate().unwrap();
        if repo.root().join(FILE).exists() {
            Accuracy::read(&repo).unwrap().check(&repo).unwrap();
        } else {
            readme::check(&repo, TABLE, "", "cargo xtask accuracy --write").unwrap();
        }
    }

    #[test]
    fn cells_of_an_interrupted_run_are_taken_over() {
        let folder = tracer_tests::temp::TempDir::new().unwrap();
        let file = folder.join("cells");
        let kept = Kept { before: Vec::new(), file: Some(file.clone()) };
        kept.keep(&cell("thread", 8, 7)).unwrap();
        kept.keep(&cell("thread", 64, 9)).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let before: Vec<Cell> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kept = Kept { before, file: None };
        let workload = all().into_iter().find(|workload| workload.name() == "python thread").unwrap();
        assert_eq!(kept.find(&workload, 64), Some(cell("thread", 64, 9)));
        assert_eq!(kept.find(&workload, 32), None);
        let measured = Measured::default();
        measured.take(&kept, &workload, 8, || unreachable!("it was measured before"));
        assert_eq!(*measured.cells.lock().unwrap(), [cell("thread", 8, 7)]);
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
