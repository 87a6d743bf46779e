//! When to look at an exchange again. Nothing is cancelled: looking once too often changes nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tracer_abi::time::KernelInstant;

use super::exchange::Key;

#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(KernelInstant, Key)>>);

impl Deadlines {
    pub(super) fn add(&mut self, at: KernelInstant, key: Key) {
        self.0.push(Reverse((at, key)));
    }

    pub(super) fn next(&self) -> Option<KernelInstant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop(&mut self, now: KernelInstant) -> Option<Key> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, key))| key)
    }
}
