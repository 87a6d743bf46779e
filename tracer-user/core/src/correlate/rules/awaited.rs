//! What the rules share that follow a request's task through those that it awaits to the one that calls.
//!
//! Handles can be handed on: a request may await what another one has started, and a leader awaits what all of a batch have.
//! So each of such tasks must have been made by one that awaits it, or by the request's own. Where that is told, the edge is
//! *likely*. Where it is not, as in tokio, a task of that sort may have been made by the request if it is not known to be older,
//! and tasks of its kind must never have been awaited by the task of a request that is younger than them; [`PROOFS`] of them
//! must have been seen that were not. That shows nothing of who starts a task while many requests are open: such an edge is no
//! more than *possible*.

use std::time::Duration;

use super::{Moment, Verdict};
use crate::correlate::exchange::{Exchange, Key, MadeFor, Undecided};
use crate::correlate::kinds::{AwaitedTask, Kinds};
use crate::span::{Confidence, Evidence};

/// Requests that awaited tasks of a kind which they may have started, before any is believed: see [`Kinds`].
const PROOFS: u32 = 8;

/// How long a call waits for there to be so many.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_secs(2);

/// Whether a call is the request's whose task awaits the tasks `below`, the one that calls first, of which it is told who made
/// them, or not. All tasks from `next_task` on were started since the request came; zero where that is not known.
pub(super) fn judge(
    kinds: &Kinds,
    below: impl Iterator<Item = (AwaitedTask, MadeFor)>,
    (request, next_task): (Key, u64),
    call: &Exchange,
    moment: Moment,
) -> Verdict {
    let mut below = below.peekable();
    if below.peek().is_none() {
        return Verdict::Parent(request, Evidence::RuntimeTask, Confidence::Certain);
    }
    let (mut proofs, mut confidence) = (PROOFS, Confidence::Likely);
    for (task, made_for) in below {
        let kind = kinds.of(task.kind);
        match made_for {
            MadeFor::Waiters => {}
            MadeFor::Another => return Verdict::abstain(Undecided::TaskOfAnother),
            MadeFor::Before => return Verdict::abstain(Undecided::TaskOlder),
            MadeFor::Unseen if kind.is_handed_on || task.number < next_task => {
                return Verdict::abstain(Undecided::TaskOlder);
            }
            MadeFor::Unseen => {
                confidence = Confidence::Possible;
                if !task.own || next_task == 0 {
                    proofs = proofs.min(kind.proofs);
                }
            }
        }
    }
    if proofs >= PROOFS {
        return Verdict::Parent(request, Evidence::RuntimeTask, confidence);
    }
    let waited = call.first.time.plus(SETTLE) <= moment.now;
    if moment.last || waited { Verdict::abstain(Undecided::ProcessUnproven) } else { Verdict::Wait }
}
