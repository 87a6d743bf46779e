//! The numbers as they are committed, and the README's table of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use tracer_tests::accuracy::Cell;
use tracer_tests::accuracy::workloads::{Workload, all};

use crate::repo::Repo;
use crate::{figures, readme};

/// Where the numbers are kept, below the repository's root.
const FILE: &str = "bench/accuracy.json";

/// Name of the README's table.
const TABLE: &str = "accuracy";

/// What is committed: the numbers of one run, and of later ones of some of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accuracy {
    /// Each cell is in one of them.
    runs: Vec<Run>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    pub(super) commit: String,
    pub(super) kernel: String,
    pub(super) seeds: usize,
    pub(super) min_edges: usize,
    pub(super) cells: Vec<Cell>,
}

/// Where a cell is in the table.
type Place<'a> = (&'a str, &'a str, usize);

fn place(cell: &Cell) -> Place<'_> {
    (&cell.runtime, &cell.model, cell.concurrency)
}

impl Accuracy {
    pub(super) fn read(repo: &Repo) -> anyhow::Result<Self> {
        figures::read(repo, FILE)
    }

    pub(super) fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
        self.write_table(repo)
    }

    pub(super) fn write_table(&self, repo: &Repo) -> anyhow::Result<()> {
        readme::write(repo, TABLE, &self.table())
    }

    /// Fails if the README's table is not the one of these numbers.
    pub(super) fn check(&self, repo: &Repo) -> anyhow::Result<()> {
        readme::check(repo, TABLE, &self.table(), "cargo xtask accuracy --write")
    }

    /// Puts a later run's cells in place of the same ones of earlier runs.
    pub(super) fn renew(&mut self, mut run: Run) {
        // Several are measured at a time, and end as it happens.
        let rows = all();
        let row = |Cell { runtime, model, .. }: &Cell| {
            rows.iter().position(|workload| (workload.runtime, workload.model) == (runtime, model))
        };
        run.cells.sort_by_key(|cell| (row(cell), cell.concurrency));
        let fresh: HashSet<Place<'_>> = run.cells.iter().map(place).collect();
        for earlier in &mut self.runs {
            earlier.cells.retain(|cell| !fresh.contains(&place(cell)));
        }
        self.runs.push(run);
        self.runs.retain(|run| !run.cells.is_empty());
    }

    /// The README's table: a line per workload, a column per load.
    fn table(&self) -> String {
        let cells: HashMap<Place<'_>, (usize, &Cell)> = (1..)
            .zip(&self.runs)
            .flat_map(|(number, run)| run.cells.iter().map(move |cell| (place(cell), (number, cell))))
            .collect();
        let loads: BTreeSet<usize> = cells.keys().map(|(_, _, load)| *load).collect();
        let mut out = String::from("| runtime | model |");
        for load in &loads {
            // Writing to a string cannot fail.
            let _ = write!(out, " at {load} |");
        }
        let _ = writeln!(out, " no parent claimed for background calls |");
        let _ = writeln!(out, "| --- | --- |{} --- |", " --- |".repeat(loads.len()));
        for Workload { runtime, model, .. } in &all() {
            let of = |load: &usize| cells.get(&(*runtime, *model, *load)).copied();
            let mut background = loads.iter().filter_map(of).map(|(_, cell)| cell.background).peekable();
            if background.peek().is_none() {
                continue;
            }
            let (right, wrong) =
                background.fold((0, 0), |(right, wrong), one| (right + one.right, wrong + one.wrong));
            let _ = write!(out, "| {runtime} | {model} |");
            for load in &loads {
                let _ = write!(out, " {} |", of(load).map_or_else(String::new, shown));
            }
            let _ = writeln!(out, " {right}/{} |", right + wrong);
        }
        let across = cells.values().map(|(_, cell)| cell.cross_process);
        let (right, wrong) =
            across.fold((0, 0), |(right, wrong), one| (right + one.right, wrong + one.wrong));
        let _ = write!(
            out,
            "\nCalls whose parent is right/wrong/undecided/lost, by requests at a time. Across processes: {right} right, \
             {wrong} wrong.\n"
        );
        for (number, Run { commit, kernel, seeds, min_edges, .. }) in (1..).zip(&self.runs) {
            let seeds = if *seeds == 1 { "1 run".to_owned() } else { format!("{seeds} runs") };
            let _ = writeln!(
                out,
                "{}`cargo xtask accuracy` at commit {commit}, Linux {kernel}, at least {min_edges} calls per cell in {seeds}.",
                mark(number),
            );
        }
        out
    }
}

/// A cell of the README's table. What is below its goal says so.
fn shown((number, cell): (usize, &Cell)) -> String {
    let (found, percent) = (cell.in_process, cell.in_process.recall_percent());
    let goal = if percent < cell.goal { format!(", goal {}", cell.goal) } else { String::new() };
    format!("{found} ({percent} %{goal}){}", mark(number))
}

/// What is of a later run than the first says of which.
fn mark(run: usize) -> String {
    if run == 1 { String::new() } else { format!("<sup>{run}</sup>") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cell;
    use super::*;

    fn run(commit: &str, cells: Vec<Cell>) -> Run {
        Run { commit: commit.to_owned(), kernel: "6.12".to_owned(), seeds: 3, min_edges: 90, cells }
    }

    #[test]
    fn the_table_has_a_line_per_workload() {
        let mut accuracy = Accuracy::default();
        // Not in the table's order.
        accuracy
            .renew(run("0123456", vec![cell("pool", 8, 9), cell("thread", 1, 99), cell("thread", 8, 49)]));
        let table = accuracy.table();
        let lines = "| python | thread | 99/0/1/0 (99 %, goal 100) | 49/0/1/0 (98 %, goal 100) | 8/8 |\n\
                     | python | pool |  | 9/0/1/0 (90 %, goal 100) | 4/4 |\n";
        assert!(table.contains(lines), "{table}");
        assert!(table.contains("27 right, 0 wrong"), "{table}");
        assert!(table.ends_with("at commit 0123456, Linux 6.12, at least 90 calls per cell in 3 runs.\n"));
        let json = serde_json::to_string(&accuracy).unwrap();
        assert_eq!(serde_json::from_str::<Accuracy>(&json).unwrap(), accuracy);
    }

    #[test]
    fn a_cell_that_was_measured_again_says_at_which_commit() {
        let mut accuracy = Accuracy::default();
        accuracy.renew(run("older", vec![cell("thread", 8, 49), cell("pool", 8, 9)]));
        accuracy.renew(run("newer", vec![cell("pool", 8, 99)]));
        let table = accuracy.table();
        assert!(table.contains("| python | thread | 49/0/1/0 (98 %, goal 100) | 4/4 |"), "{table}");
        assert!(table.contains("| python | pool | 99/0/1/0 (99 %, goal 100)<sup>2</sup> | 4/4 |"), "{table}");
        assert!(table.contains("\n`cargo xtask accuracy` at commit older,"), "{table}");
        assert!(table.contains("\n<sup>2</sup>`cargo xtask accuracy` at commit newer,"), "{table}");
        // Of the older ones none is left.
        accuracy.renew(run("newest", vec![cell("thread", 8, 50), cell("pool", 8, 100)]));
        assert_eq!(accuracy.runs.len(), 1);
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
}
