//! When to look at an exchange again. Nothing is cancelled: looking once too often changes nothing.
//!
//! Looks of one kind are planned in about the order in which they are due, because they are planned a fixed time
//! ahead. So each kind has a queue that is sorted by putting in near its end.

use tracer_abi::time::KernelInstant;

use super::exchange::Key;
use crate::sorted::Sorted;

/// Why to look again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// The other end of a request should be known by now.
    Grace,
    /// The same, where it is traced.
    Traced,
    /// What was lost before a call is known.
    Losses,
    /// nginx: the last window of a call's response has closed.
    Settle,
    /// More is known of a call that was handed to its thread.
    HandOff,
    /// What is not known now is undecided.
    Decide,
    /// A call that stays for its other end may go.
    Kept,
}

#[derive(Debug, Default)]
pub(super) struct Deadlines([Sorted<(KernelInstant, Key), ()>; 7]);

impl Deadlines {
    pub(super) fn add(&mut self, look: Look, at: KernelInstant, key: Key) {
        self.0[look as usize].insert((at, key), ());
    }

    pub(super) fn next(&self) -> Option<KernelInstant> {
        self.0.iter().filter_map(|looks| looks.first()).map(|(at, _)| *at).min()
    }

    pub(super) fn pop(&mut self, now: KernelInstant) -> Option<Key> {
        let due = |looks: &&mut Sorted<_, _>| {
            looks.first().is_some_and(|(at, _): &(KernelInstant, Key)| *at <= now)
        };
        let looks = self.0.iter_mut().filter(due).min_by_key(|looks| looks.first().copied())?;
        looks.pop().map(|((_, key), ())| key)
    }
}
