//! Has the kernel look at programs, as many at once as there are CPUs: its verifier walks each alone, and these walks are
//! most of what a start takes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use anyhow::{Context as _, bail};
use aya::programs::{BtfTracePoint, FExit, Iter, Program, ProgramError, UProbe};
use aya::{Btf, Ebpf};

use super::ladder::{Hook, Probe};

/// Programs that are walked at once at most: each holds some megabytes of the kernel's meanwhile.
const MAX_AT_ONCE: usize = 4;

/// How many of the verifier's last lines say why it refused a program.
const VERIFIER_LINES: usize = 4;

/// What the kernel is to take a program as.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Hook(Hook),
    /// A walk over objects of the kernel's of this name.
    Walk(&'static str),
    UserProbe,
}

/// What the kernel says of each program.
pub(super) struct Verdicts(BTreeMap<&'static str, anyhow::Result<()>>);

impl Verdicts {
    /// Loads programs of the object.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        wanted: impl IntoIterator<Item = (&'static str, Kind)>,
        btf: &Btf,
    ) -> Self {
        let mut verdicts = BTreeMap::new();
        let mut programs: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
        let mut found = Vec::new();
        for (name, kind) in wanted {
            match programs.remove(name) {
                Some(program) => found.push((name, kind, program)),
                None if found.iter().any(|(known, ..)| *known == name) => {}
                None => {
                    verdicts.insert(name, Err(anyhow::anyhow!("the kernel half has no program {name}")));
                }
            }
        }
        verdicts.extend(at_once(found, |(name, kind, program)| (name, load(name, kind, program, btf))));
        Self(verdicts)
    }

    /// What it says of one, which is told once.
    ///
    /// # Errors
    /// Why it was refused.
    pub(super) fn take(&mut self, program: &str) -> anyhow::Result<()> {
        match self.0.remove(program) {
            Some(verdict) => verdict,
            None => bail!("{program} was not tried"),
        }
    }
}

impl Probe {
    pub(super) const fn wanted(&self) -> (&'static str, Kind) {
        (self.program, Kind::Hook(self.hook))
    }
}

fn load(name: &str, kind: Kind, program: &mut Program, btf: &Btf) -> anyhow::Result<()> {
    let verdict = match kind {
        Kind::Hook(Hook::TracePoint(at)) => <&mut BtfTracePoint>::try_from(program)?.load(at, btf),
        Kind::Hook(Hook::FunctionExit(of)) => <&mut FExit>::try_from(program)?.load(of, btf),
        Kind::Walk(over) => <&mut Iter>::try_from(program)?.load(over, btf),
        Kind::UserProbe => <&mut UProbe>::try_from(program)?.load(),
    };
    verdict.map_err(refusal).with_context(|| match kind {
        Kind::Hook(hook) => format!("load {name} at {hook}"),
        Kind::Walk(_) | Kind::UserProbe => format!("load {name}"),
    })
}

/// The kernel's reason for refusing a program, with the end of the verifier's log if it got that far.
fn refusal(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.into();
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.get(lines.len().saturating_sub(VERIFIER_LINES)..).unwrap_or_default();
    let error = anyhow::Error::from(io_error);
    if end.is_empty() { error } else { error.context(format!("the verifier says: {}", end.join(" | "))) }
}

/// Does something with each item on as many threads as are of use. The order of what comes out of it is any.
pub(super) fn at_once<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_AT_ONCE).min(items.len());
    let items = Mutex::new(items.into_iter());
    let done = Mutex::new(Vec::new());
    let run = || {
        loop {
            let Some(item) = items.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return;
            };
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once() {
        let mut done = at_once((0..100).collect(), |number| number * 2);
        done.sort_unstable();
        assert_eq!(done, (0..200).step_by(2).collect::<Vec<_>>());
        assert!(at_once(Vec::<u8>::new(), |item| item).is_empty());
    }
}
