//! What one measurement came to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::workloads::Workload;
use crate::score::{Edges, Score};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Cell {
    pub runtime: String,
    pub model: String,
    pub concurrency: usize,
    /// In-process edges that should be right, in 100.
    pub goal: usize,
    /// Calls to the requests that they were made for.
    pub in_process: Tally,
    /// Server spans to the client spans of the same bytes.
    pub cross_process: Tally,
    /// Calls without a parent: right means that none was claimed.
    pub background: Tally,
    /// Statements of spans that are false.
    pub flawed: usize,
    /// Edges right, by their evidence.
    pub evidence: BTreeMap<String, usize>,
    /// Edges undecided, by the reason given.
    pub reasons: BTreeMap<String, usize>,
}

/// [`Edges`] as they are written down.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Tally {
    pub right: usize,
    pub wrong: usize,
    pub undecided: usize,
    /// One of the two spans is missing.
    pub lost: usize,
}

impl Tally {
    pub fn total(self) -> usize {
        self.right + self.wrong + self.undecided + self.lost
    }

    /// Right ones in 100, rounded down: lost spans count against it.
    pub fn recall_percent(self) -> usize {
        (self.right * 100).checked_div(self.total()).unwrap_or(100)
    }

    fn add(&mut self, edges: Edges) {
        self.right += edges.right;
        self.wrong += edges.wrong;
        self.undecided += edges.undecided;
        self.lost += edges.lost;
    }
}

impl Cell {
    pub(super) fn new(workload: &Workload, concurrency: usize) -> Self {
        Self {
            runtime: workload.runtime.to_owned(),
            model: workload.model.to_owned(),
            concurrency,
            goal: workload.class.goal(concurrency),
            in_process: Tally::default(),
            cross_process: Tally::default(),
            background: Tally::default(),
            flawed: 0,
            evidence: BTreeMap::new(),
            reasons: BTreeMap::new(),
        }
    }

    /// Parents that are wrong, of whatever sort, and spans that say something false.
    pub fn wrong(&self) -> usize {
        self.in_process.wrong + self.cross_process.wrong + self.background.wrong + self.flawed
    }

    pub(super) fn add(&mut self, score: &Score) {
        self.in_process.add(score.in_process);
        self.cross_process.add(score.cross_process);
        self.background.add(score.background);
        // A parent claimed for a request of the driver, which is not traced, is as wrong as any.
        self.cross_process.wrong += score.entry.wrong;
        self.flawed += score.flawed;
        for (name, count) in &score.evidence {
            *self.evidence.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &score.reasons {
            *self.reasons.entry(name.clone()).or_default() += count;
        }
    }
}

/// As a table shows it.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { right, wrong, undecided, lost } = self;
        write!(f, "{right}/{wrong}/{undecided}/{lost}")
    }
}

impl Cell {
    /// What [`Cell`] shows, above it.
    pub fn header() -> String {
        format!(
            "{:<7} {:<24} {:>3}  {:<26} {:<22} {:<18} flaws   (right/wrong/undecided/lost)",
            "runtime", "model", "at", "in-process", "cross-process", "background"
        )
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime, model, concurrency, flawed, evidence, reasons, .. } = self;
        let in_process = format!("{} ({} %)", self.in_process, self.in_process.recall_percent());
        let (across, background) = (self.cross_process.to_string(), self.background.to_string());
        write!(
            f,
            "{runtime:<7} {model:<24} {concurrency:>3}  {in_process:<26} {across:<22} {background:<18} {flawed:<5} \
             {evidence:?} {reasons:?}"
        )
    }
}
