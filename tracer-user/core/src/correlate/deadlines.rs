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
    /// A goroutine that a request started would have shown that it outlives it.
    Outlived,
    /// What is not known now is undecided.
    Decide,
    /// A call that stays for its other end may go.
    Kept,
}

#[derive(Debug)]
pub(super) struct Deadlines {
    looks: [Sorted<(KernelInstant, Key), ()>; 8],
    /// When the first of all is due.
    next: KernelInstant,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { looks: Default::default(), next: KernelInstant::MAX }
    }
}

impl Deadlines {
    pub(super) fn add(&mut self, look: Look, at: KernelInstant, key: Key) {
        self.looks[look as usize].insert((at, key), ());
        self.next = self.next.min(at);
    }

    pub(super) fn next(&self) -> Option<KernelInstant> {
        (self.next != KernelInstant::MAX).then_some(self.next)
    }

    pub(super) fn pop(&mut self, now: KernelInstant) -> Option<Key> {
        if self.next > now {
            return None;
        }
        let planned = self.looks.iter_mut().filter(|looks| looks.first().is_some());
        let popped = planned.min_by_key(|looks| looks.first().copied())?.pop();
        let times = self.looks.iter().filter_map(|looks| looks.first()).map(|(at, _)| *at);
        self.next = times.min().unwrap_or(KernelInstant::MAX);
        popped.map(|((_, key), ())| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_of_all_kinds_come_in_order_and_none_before_its_time() {
        const KINDS: [Look; 8] = [
            Look::Grace,
            Look::Traced,
            Look::Losses,
            Look::Settle,
            Look::HandOff,
            Look::Outlived,
            Look::Decide,
            Look::Kept,
        ];
        let at = KernelInstant::from_nanos;
        let mut deadlines = Deadlines::default();
        assert_eq!((deadlines.next(), deadlines.pop(KernelInstant::MAX)), (None, None));
        let mut planned = Vec::new();
        for (number, time) in (0..).zip([70, 30, 30, 90, 10, 50, 30, 20, 60, 30, 40, 80]) {
            let key = Key { number, slot: 0 };
            deadlines.add(KINDS[number as usize % KINDS.len()], at(time), key);
            planned.push((at(time), key));
            assert_eq!(deadlines.next(), planned.iter().map(|(at, _)| *at).min());
        }
        planned.sort_unstable();
        for (n, (time, key)) in planned.iter().enumerate() {
            assert_eq!(deadlines.next(), Some(*time));
            assert_eq!(deadlines.pop(at(time.as_nanos() - 1)), None);
            assert_eq!(deadlines.pop(*time), Some(*key), "look {n}");
        }
        assert_eq!((deadlines.next(), deadlines.pop(KernelInstant::MAX)), (None, None));
    }
}
