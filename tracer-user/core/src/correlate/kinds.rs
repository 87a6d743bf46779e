//! Kinds of tasks: whether requests await only those that were started for them.
//!
//! A runtime knows who awaits a task, and not who started it: a handle can be handed to another. Tasks that are started by
//! the same piece of code are of one kind, and what is true of some is taken to be true of all.

use std::collections::BTreeMap;

use tracer_abi::python::TaskId;

/// Kinds of tasks that call for the task that awaits them.
const MAX_KINDS: usize = 1024;

/// A task that is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct AwaitedTask {
    /// What stands for its kind.
    pub(super) kind: u64,
    pub(super) number: u64,
    /// The very thing that is awaited has made it.
    pub(super) own: bool,
}

impl AwaitedTask {
    /// One of tokio's: the table of functions of its kind, and its number.
    pub(super) const fn started(task: &TaskId) -> Self {
        Self { kind: task.address, number: task.number, own: false }
    }
}

/// By what stands for a kind.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeMap<u64, Kind>);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// Requests that awaited one of this kind that they may have started, each of which came after a task that the one
    /// before did not know yet: of requests that come at once, each may be handed what another has just started.
    pub(super) proofs: u32,
    /// What the last of them came before.
    next_task: u64,
    /// One was awaited by the task of a request that is younger, so that another had started it.
    pub(super) is_handed_on: bool,
}

impl Kinds {
    pub(super) fn of(&self, kind: u64) -> Kind {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    /// A task is awaited by a request that came before all tasks from that number on were started.
    pub(super) fn awaited(&mut self, task: AwaitedTask, next_task: u64) {
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&task.kind) {
            return;
        }
        let kind = self.0.entry(task.kind).or_default();
        kind.is_handed_on |= task.number < next_task;
        if next_task > kind.next_task {
            kind.proofs = kind.proofs.saturating_add(1);
            kind.next_task = next_task;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn task(kind: u64, number: u64) -> AwaitedTask {
        AwaitedTask { kind, number, own: false }
    }

    #[test]
    fn kinds_are_bounded() {
        let mut kinds = Kinds::default();
        (0..5000).for_each(|address| kinds.awaited(task(address, 9), 5));
        assert_eq!(kinds.0.len(), MAX_KINDS);
        assert_eq!((kinds.of(7).proofs, kinds.of(4000).proofs), (1, 0));
    }

    /// Requests that came at once are one proof, however many they are.
    #[test]
    fn what_came_at_once_proves_once() {
        let mut kinds = Kinds::default();
        (10..20).for_each(|number| kinds.awaited(task(1, number), 10));
        assert_eq!(kinds.of(1).proofs, 1);
        (20..30).for_each(|number| kinds.awaited(task(1, number), number));
        assert_eq!((kinds.of(1).proofs, kinds.of(1).is_handed_on), (11, false));
        kinds.awaited(task(1, 29), 30);
        assert!(kinds.of(1).is_handed_on);
        assert!(!kinds.of(2).is_handed_on);
    }
}
