//! What the kernel half spends on asking a process, against what that runs itself.

use std::fmt;
use std::time::Duration;

use tracer_abi::task::ProcessKey;

use crate::process::procfs::{ProcDir, StartTick};

/// How often it is looked what asking costs.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) const DEFAULT_BUDGET_PERCENT: f64 = 3.0;

/// CPU time of a process for which it may be asked in advance: the allowance of so much of it may be owed. `/proc` tells CPU
/// time in ticks of 10 ms, and programs do not ask for as much in every second.
const ADVANCE: Duration = Duration::from_secs(5);

/// What asking may take of a process's CPU time, in the long run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    percent: f64,
}

/// How often processes were asked, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) looks: u64,
    pub(super) nanos: u64,
}

/// What asking a process has cost beyond what that may cost, and what both had used when it was looked at last.
#[derive(Clone, Copy)]
pub(super) struct Account {
    spent: Duration,
    cpu: Option<Duration>,
    debt: Duration,
    /// Since nothing was owed last.
    since: Overdrawn,
}

/// More was spent than is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overdrawn {
    pub(super) asking: Duration,
    /// Of so much CPU time of the process.
    pub(super) running: Duration,
}

impl Budget {
    /// # Panics
    /// In debug builds, if it is no percentage.
    pub(crate) fn of_percent(percent: f64) -> Self {
        debug_assert!((0.0..=100.0).contains(&percent), "{percent} %");
        Self { percent }
    }

    /// Nothing at all.
    pub(super) fn is_nothing(self) -> bool {
        self.percent <= 0.0
    }

    fn allows(self, running: Duration) -> Duration {
        running.mul_f64(self.percent / 100.0)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { percent: DEFAULT_BUDGET_PERCENT }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent)
    }
}

impl Account {
    /// Of a process that is asked from now on.
    pub(super) fn open(process: ProcessKey) -> Self {
        Self {
            spent: Duration::ZERO,
            cpu: cpu_time(process),
            debt: Duration::ZERO,
            since: Overdrawn::default(),
        }
    }

    /// What asking has cost in all by now.
    pub(super) fn settle(&mut self, process: ProcessKey, spent: Spent, budget: Budget) -> Option<Overdrawn> {
        self.take(cpu_time(process)?, Duration::from_nanos(spent.nanos), budget)
    }

    /// Of a process that is not asked now: true if nothing is owed any more.
    pub(super) fn is_repaid(&mut self, process: ProcessKey, budget: Budget) -> bool {
        if let Some(now) = cpu_time(process) {
            self.take(now, self.spent, budget);
        }
        self.debt.is_zero()
    }

    fn take(&mut self, cpu: Duration, spent: Duration, budget: Budget) -> Option<Overdrawn> {
        let asking = spent.saturating_sub(self.spent);
        let running = cpu.saturating_sub(self.cpu.unwrap_or(cpu));
        (self.spent, self.cpu) = (spent, Some(cpu));
        self.debt = (self.debt + asking).saturating_sub(budget.allows(running));
        if self.debt.is_zero() {
            self.since = Overdrawn::default();
            return None;
        }
        self.since.asking += asking;
        self.since.running += running;
        (self.debt > budget.allows(ADVANCE)).then_some(self.since)
    }
}

/// CPU time that a process has used.
fn cpu_time(process: ProcessKey) -> Option<Duration> {
    let stat = ProcDir::open(process.tgid).and_then(|dir| dir.stat()).ok()?;
    (stat.start == StartTick::of(process)).then_some(stat.cpu_time)
}

#[cfg(test)]
mod tests {
    use tracer_abi::task::Tgid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Of a process that always runs and is asked so much in a second: after how many it rests, and for how many.
    fn rests(asking: Duration) -> Option<(u32, u32)> {
        let mut account = Account {
            spent: Duration::ZERO,
            cpu: Some(Duration::ZERO),
            debt: Duration::ZERO,
            since: Overdrawn::default(),
        };
        let budget = Budget::default();
        for second in 1..=1000 {
            if let Some(overdrawn) = account.take(SECOND * second, asking * second, budget) {
                assert_eq!(overdrawn, Overdrawn { asking: asking * second, running: SECOND * second });
                let spent = account.spent;
                let rest = (1..=1000).find(|more| {
                    account.take(SECOND * (second + more), spent, budget);
                    account.debt.is_zero()
                });
                return Some((second, rest.unwrap()));
            }
        }
        None
    }

    #[test]
    fn three_percent_are_allowed_in_the_long_run() {
        assert_eq!(rests(Duration::from_millis(29)), None);
        assert_eq!(rests(Duration::from_millis(30)), None);
        assert_eq!(rests(Duration::from_millis(33)), Some((51, 6)));
        assert_eq!(rests(Duration::from_millis(60)), Some((6, 6)));
        assert_eq!(rests(Duration::from_secs(1)), Some((1, 33)), "what is past is paid for, too");
    }

    #[test]
    fn what_a_process_saves_is_not_kept_for_later() {
        let mut account =
            Account { spent: Duration::ZERO, cpu: None, debt: Duration::ZERO, since: Overdrawn::default() };
        let budget = Budget::default();
        assert_eq!(
            account.take(SECOND * 1000, SECOND, budget),
            Some(Overdrawn { asking: SECOND, ..Overdrawn::default() })
        );
        assert_eq!(account.take(SECOND * 2000, SECOND, budget), None);
        assert!(account.take(SECOND * 2001, SECOND * 2, budget).is_some());
    }

    #[test]
    fn nothing_is_owed_by_another_process_of_that_number() {
        let start = ProcDir::open(Tgid(std::process::id())).unwrap().stat().unwrap().start;
        let own = ProcessKey { tgid: Tgid(std::process::id()), start_boottime: start.0 * 10_000_000 };
        let spent = Spent { looks: 1, nanos: u64::MAX };
        assert!(Account::open(own).settle(own, spent, Budget::default()).is_some());
        let other = ProcessKey { start_boottime: own.start_boottime + 10_000_000, ..own };
        assert!(Account::open(own).settle(other, spent, Budget::default()).is_none());
    }
}
