//! What the kernel half spends on asking a process, against what that runs itself.

use std::time::Duration;

use tracer_abi::task::ProcessKey;

use crate::process::procfs::{ProcDir, StartTick};

/// How often it is looked what asking costs.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// CPU time of a process after which its share is known well enough: `/proc` tells it in ticks of 10 ms.
const MIN_CPU: Duration = Duration::from_millis(500);

/// What asking may take of a process's CPU time, in percent.
pub(super) const BUDGET_PERCENT: u32 = 3;

/// How often processes were asked, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) looks: u64,
    pub(super) nanos: u64,
}

/// What asking a process had cost when it was looked at last, and its own CPU time then.
#[derive(Clone, Copy)]
pub(super) struct Account {
    spent: Duration,
    cpu: Option<Duration>,
}

/// More than is allowed.
pub(super) struct Overdrawn {
    pub(super) asking: Duration,
    /// Of so much CPU time of the process.
    pub(super) running: Duration,
}

impl Account {
    /// Of a process that is asked from now on.
    pub(super) fn open(process: ProcessKey) -> Self {
        Self { spent: Duration::ZERO, cpu: cpu_time(process) }
    }

    /// What asking has cost in all by now.
    pub(super) fn settle(&mut self, process: ProcessKey, spent: Spent) -> Option<Overdrawn> {
        let now = cpu_time(process)?;
        let total = Duration::from_nanos(spent.nanos);
        let asking = total.saturating_sub(self.spent);
        let running = now.saturating_sub(self.cpu.unwrap_or(now));
        if running < MIN_CPU && self.cpu.is_some() {
            return None;
        }
        *self = Self { spent: total, cpu: Some(now) };
        is_too_dear(asking, running).then_some(Overdrawn { asking, running })
    }
}

const fn is_too_dear(asking: Duration, running: Duration) -> bool {
    asking.as_nanos() * 100 > running.as_nanos() * BUDGET_PERCENT as u128
}

/// CPU time that a process has used.
fn cpu_time(process: ProcessKey) -> Option<Duration> {
    let stat = ProcDir::open(process.tgid).and_then(|dir| dir.stat()).ok()?;
    (stat.start == StartTick::of(process)).then_some(stat.cpu_time)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tracer_abi::task::Tgid;

    use super::*;

    #[test]
    fn three_percent_are_no_more_than_three_percent() {
        let running = Duration::from_secs(1);
        assert!(!is_too_dear(Duration::from_millis(30), running));
        assert!(is_too_dear(Duration::from_micros(30_001), running));
        assert!(!is_too_dear(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_process_that_runs_pays_for_what_was_spent_since_it_was_looked_at() {
        let stat = || ProcDir::open(Tgid(std::process::id())).unwrap().stat().unwrap();
        let own = ProcessKey { tgid: Tgid(std::process::id()), start_boottime: stat().start.0 * 10_000_000 };
        let run = || {
            let (before, begin) = (stat().cpu_time, Instant::now());
            while begin.elapsed() < Duration::from_secs(30) && stat().cpu_time <= before + MIN_CPU {
                std::hint::black_box((0..100_000_u64).sum::<u64>());
            }
        };
        let spent = |nanos| Spent { looks: 1, nanos };
        let mut account = Account::open(own);
        assert!(account.settle(own, spent(u64::MAX)).is_none(), "too early to tell");
        run();
        assert!(account.settle(own, spent(1_000_000)).is_none());
        run();
        let overdrawn = account.settle(own, spent(10_001_000_000)).unwrap();
        assert_eq!(overdrawn.asking, Duration::from_secs(10));
        assert!(overdrawn.running >= MIN_CPU);
        let other = ProcessKey { start_boottime: own.start_boottime + 10_000_000, ..own };
        assert!(account.settle(other, spent(u64::MAX)).is_none(), "another process of that number");
    }
}
