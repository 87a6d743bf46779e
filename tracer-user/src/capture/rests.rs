//! Processes that are left alone for what asking them has cost, until they have run for long enough since.

use std::collections::HashMap;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::account::{Account, Budget};
use crate::clock;

pub(super) struct Rests {
    pub(super) budget: Budget,
    known: HashMap<u32, Rest>,
    /// How many there were.
    pub(super) count: u64,
    interrupted: Vec<(ProcessKey, KernelInstant)>,
}

/// One that rests, or has rested.
enum Rest {
    Owes(ProcessKey, Account),
    /// It may be asked again, and is not yet.
    IsDue,
    IsOver,
}

impl Rests {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, known: HashMap::new(), count: 0, interrupted: Vec::new() }
    }

    /// A process is not asked any more. True for the first of its rests.
    pub(super) fn begin(&mut self, process: ProcessKey, account: Account) -> bool {
        self.count += 1;
        self.interrupted.push((process, clock::now()));
        self.known.insert(process.tgid.0, Rest::Owes(process, account)).is_none()
    }

    /// Those that are due to be asked again.
    pub(super) fn repaid(&mut self) -> Vec<ProcessKey> {
        let mut repaid = Vec::new();
        for rest in self.known.values_mut() {
            if let Rest::Owes(process, account) = rest
                && account.is_repaid(*process, self.budget)
            {
                repaid.push(*process);
                *rest = Rest::IsDue;
            }
        }
        repaid
    }

    /// A process is asked from now on, whatever it was before.
    pub(super) fn end(&mut self, process: ProcessKey) {
        if let Some(rest @ (Rest::Owes(..) | Rest::IsDue)) = self.known.get_mut(&process.tgid.0) {
            *rest = Rest::IsOver;
            self.interrupted.push((process, clock::now()));
        }
    }

    /// It has ended, or executes another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.known.remove(&tgid);
    }

    /// At whose processes a rest has begun or ended, and when, since the last call.
    pub(super) fn take_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        std::mem::take(&mut self.interrupted)
    }
}

#[cfg(test)]
mod tests {
    use tracer_abi::task::Tgid;

    use super::*;

    #[test]
    fn a_rest_is_told_when_it_begins_and_when_it_ends() {
        let mut rests = Rests::new(Budget::default());
        // Of no process that runs: nothing is owed, and nothing is paid.
        let process = ProcessKey { tgid: Tgid(u32::MAX), start_boottime: 1 };
        rests.end(process);
        assert!(rests.take_interrupted().is_empty(), "it did not rest");
        assert!(rests.begin(process, Account::open(process)));
        let [(told, begun)] = *rests.take_interrupted() else { panic!("told once") };
        assert_eq!(told, process);
        assert_eq!(rests.repaid(), [process]);
        assert!(rests.repaid().is_empty(), "told once");
        assert!(rests.take_interrupted().is_empty(), "it is not asked yet");
        rests.end(process);
        rests.end(process);
        let [(_, ended)] = *rests.take_interrupted() else { panic!("told once") };
        assert!(ended >= begun);
        assert!(!rests.begin(process, Account::open(process)), "not its first one");
        rests.end(process);
        assert_eq!(rests.take_interrupted().len(), 2, "also one that ends early");
        rests.forget(process.tgid.0);
        assert!(rests.begin(process, Account::open(process)));
        assert_eq!(rests.count, 3);
    }
}
