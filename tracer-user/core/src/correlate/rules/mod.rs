//! Evidence for parents: one file per kind, all of one shape.
//!
//! A rule looks at one exchange and at what the tables hold, and names a parent with its evidence, abstains with a
//! reason, or asks to be asked again. It changes nothing and knows of no other rule: [`super::ladder`] weighs them.
//! What a rule needs to have noted while events pass, `track` notes.

pub(super) mod awaited;
pub(super) mod goroutine;
pub(super) mod handoff;
pub(super) mod header;
pub(super) mod header_continuity;
pub(super) mod named;
pub(super) mod process_fork;
pub(super) mod response_window;
pub(super) mod runtime_task;
pub(super) mod same_bytes;
pub(super) mod thread;
pub(super) mod tokio;
pub(super) mod upstream;
pub(super) mod work_item;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::carriers::Carriers;
use super::contexts::Contexts;
use super::exchange::{Exchange, Key, Undecided};
use super::handoffs::HandOffs;
use super::join::JoinTable;
use super::processes::Processes;
use super::table::Exchanges;
use super::tasks::Answers;
use super::threads::Threads;
use crate::span::{Confidence, Evidence, SpanId};

/// Everything that rules may look at.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) exchanges: Exchanges,
    pub(super) threads: Threads,
    pub(super) processes: Processes,
    pub(super) join: JoinTable,
    pub(super) contexts: Contexts,
    /// Traces that came in with requests, by [`super::starts::half`].
    pub(super) traces: Contexts,
    pub(super) carriers: Carriers,
    /// Tasks that have answered requests.
    pub(super) answers: Answers,
    pub(super) handoffs: HandOffs,
    /// Which request of its process a call was made for is asked.
    pub(super) rules: bool,
    /// What is less sure is not claimed.
    pub(super) min_confidence: Confidence,
    /// When a loss was last learned of that may have been anywhere.
    pub(super) last_loss: Option<KernelInstant>,
    /// When an exchange last ended of which something was lost, of whatever process.
    pub(super) last_damage: Option<KernelInstant>,
    /// When an event came later than others that it was before, of whatever process.
    pub(super) last_late: Option<KernelInstant>,
}

impl Tables {
    /// When something was last lost, or came out of order in this process: for what rests on the order of several threads.
    fn last_gap(&self, process: ProcessKey) -> Option<KernelInstant> {
        self.last_loss_of(process).max(self.processes.find(process).and_then(|process| process.last_late))
    }

    /// When something of this process, or that may have been of it, was last lost.
    pub(in crate::correlate) fn last_loss_of(&self, process: ProcessKey) -> Option<KernelInstant> {
        self.last_loss.max(self.processes.find(process).and_then(|process| process.last_damage))
    }

    /// The same for what rests on the order of several processes.
    fn last_gap_anywhere(&self) -> Option<KernelInstant> {
        self.last_loss.max(self.last_damage).max(self.last_late)
    }
}

/// At what moment a rule is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// All events up to here have been seen.
    pub(super) now: KernelInstant,
    /// There will be no other: what is not certain now is undecided.
    pub(super) last: bool,
}

/// A rule's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An exchange that this tracer sees is the parent.
    Parent(Key, Evidence, Confidence),
    /// A span that it does not see is the parent.
    Remote(SpanId, Evidence, Confidence),
    /// Nothing to say: with a reason when something was there to be weighed.
    Abstain(Option<Undecided>),
    /// More evidence is to come. Not allowed at the last moment.
    Wait,
}

impl Verdict {
    pub(super) const fn abstain(reason: Undecided) -> Self {
        Self::Abstain(Some(reason))
    }
}

pub(super) type Rule = fn(&Tables, &Exchange, Moment) -> Verdict;
