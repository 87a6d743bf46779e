//! Calls of a process whose questions may be open until requests have ended.

use std::collections::VecDeque;

use super::exchange::Key;

/// Beyond it, the oldest wait for their deadline.
const MAX_CALLS: usize = 4096;

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Unsettled(VecDeque<Key>);

impl Unsettled {
    pub(super) fn note(&mut self, call: Key) {
        if self.0.len() >= MAX_CALLS {
            self.0.pop_front();
        }
        self.0.push_back(call);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Key> {
        self.0.iter().copied()
    }

    /// Takes out those that were made while no request was open that still is. `is_over`: whether that goes for a call; if it
    /// does, it does for older ones.
    pub(super) fn take_over(&mut self, is_over: impl Fn(Key) -> bool) -> Vec<Key> {
        let over = self.0.partition_point(|call| is_over(*call));
        self.0.drain(..over).collect()
    }
}
