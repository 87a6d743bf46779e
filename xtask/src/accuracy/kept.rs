//! What an interrupted run had measured, for the next one to go on from.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use tracer_tests::accuracy::workloads::Workload;
use tracer_tests::accuracy::{Cell, Effort};

use crate::repo::Repo;

use super::Options;

/// Cells that were measured at this commit, a line each. A wrong one is kept like any other: measuring again does not
/// make it right.
#[derive(Debug)]
pub(super) struct Kept {
    before: Vec<Cell>,
    /// None where the numbers could not be told from those of another program.
    file: Option<PathBuf>,
}

impl Kept {
    pub(super) fn open(repo: &Repo, commit: &str, options: &Options, effort: Effort) -> anyhow::Result<Self> {
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

    pub(super) fn find(&self, workload: &Workload, concurrency: usize) -> Option<Cell> {
        let same = |cell: &&Cell| {
            (workload.runtime, workload.model, concurrency) == (&cell.runtime, &cell.model, cell.concurrency)
        };
        self.before.iter().find(same).cloned()
    }

    pub(super) fn keep(&self, cell: &Cell) -> anyhow::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut line = serde_json::to_string(cell).context("write a cell as JSON")?;
        line.push('\n');
        let mut file = File::options().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracer_tests::accuracy::workloads::all;

    use super::super::Measured;
    use super::super::tests::cell;
    use super::*;

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
}
