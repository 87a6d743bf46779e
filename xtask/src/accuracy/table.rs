//! The numbers as they are committed, and the README's table of them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use tracer_tests::accuracy::{Cell, Tally};

use crate::repo::Repo;
use crate::{figures, readme};

/// Where the numbers are kept, below the repository's root.
const FILE: &str = "bench/accuracy.json";

/// Name of the README's table.
pub(super) const TABLE: &str = "accuracy";

/// One measurement, as it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accuracy {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    pub(super) commit: String,
    pub(super) kernel: String,
    pub(super) seeds: usize,
    pub(super) min_edges: usize,
    pub(super) cells: Vec<Cell>,
}

impl Accuracy {
    pub(super) fn read(repo: &Repo) -> anyhow::Result<Self> {
        figures::read(repo, FILE)
    }

    pub(super) fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
        readme::write(repo, TABLE, &self.table())
    }

    /// Fails if the README's table is not the one of these numbers.
    pub(super) fn check(&self, repo: &Repo) -> anyhow::Result<()> {
        readme::check(repo, TABLE, &self.table(), "cargo xtask accuracy --write")
    }

    /// The README's table: a line per workload, a column per load.
    pub(super) fn table(&self) -> String {
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
    use super::super::tests::cell;
    use super::*;

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
}
