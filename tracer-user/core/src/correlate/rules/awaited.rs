//! What the rules share that follow a request's task through those that it awaits to the one that calls.
//!
//! Handles can be handed on, so such a task must not be known to be older than the request, and tasks of its kind must never
//! have been awaited by the task of a request that is younger than them; [`PROOFS`] of them must have been seen that were not.
//! Where the very thing that is awaited has made the task (`gather`, a task group), that it is younger is enough: nobody had
//! the task, though what is awaited could have been handed on.

use std::time::Duration;

use super::{Moment, Verdict};
use crate::correlate::exchange::{Exchange, Key, Undecided};
use crate::correlate::kinds::{AwaitedTask, Kinds};
use crate::span::{Confidence, Evidence};

/// Requests that awaited tasks of a kind which they may have started, before any is believed: see [`Kinds`].
const PROOFS: u32 = 8;

/// How long a call waits for there to be so many.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_secs(2);

/// Whether a call is the request's whose task awaits the tasks `below`, the one that calls first. All tasks from `next_task`
/// on were started since the request came; zero where that is not known.
pub(super) fn judge(
    kinds: &Kinds,
    below: impl Iterator<Item = AwaitedTask>,
    (request, next_task): (Key, u64),
    call: &Exchange,
    moment: Moment,
) -> Verdict {
    let mut below = below.peekable();
    if below.peek().is_none() {
        return Verdict::Parent(request, Evidence::RuntimeTask, Confidence::Certain);
    }
    let mut proofs = PROOFS;
    for task in below {
        let kind = kinds.of(task.kind);
        if kind.is_handed_on || task.number < next_task {
            return Verdict::abstain(Undecided::TaskOlder);
        }
        if !task.own || next_task == 0 {
            proofs = proofs.min(kind.proofs);
        }
    }
    if proofs >= PROOFS {
        return Verdict::Parent(request, Evidence::RuntimeTask, Confidence::Likely);
    }
    let waited = call.first.time.plus(SETTLE) <= moment.now;
    if moment.last || waited { Verdict::abstain(Undecided::ProcessUnproven) } else { Verdict::Wait }
}
