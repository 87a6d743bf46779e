//! Tokio: a call's parent is the request whose task made the call, or waits for the task that did.
//!
//! A server's task reads a request of its connection, works and answers, and reads the next. What it does meanwhile, all
//! futures that it polls, and what it waits for is done on behalf of that request. A call is bound to a request only when
//!
//! 1. the task that read the request's head made the call: on a connection of its own, or it waited, when the call was sent or
//!    when the response began, for the answer of the connection's task. No other task did at the other moment. The edge is
//!    *certain*;
//! 2. or it awaited the handle of the task that did, or of one that awaited that one, and so on. Handles can be handed on, and
//!    who started a task is not seen: what is asked of such tasks is in [`super::awaited`]. The edge is *possible*;
//! 3. the request's head had been read, and its answer had not ended, and its first byte was not read before the answer to
//!    the one before it on the connection had ended, by a task that reads no other connection.
//!
//! Background work, what was detached, tasks that take jobs from a channel, and what several wait for works on nothing that is
//! known. A request whose task calls for others too (it leads a batch) is the parent of that call: it waits for it.

use super::{Moment, Tables, Verdict, awaited, named};
use crate::correlate::exchange::{Exchange, MadeFor, Undecided};
use crate::correlate::kinds::AwaitedTask;

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let polls = call.called().and_then(|called| called.polls.as_deref());
    let Some(polls) = polls else { return Verdict::Abstain(None) };
    let (key, request) = match named::request(tables, call, polls.changed, moment) {
        Ok(named) => named,
        Err(verdict) => return verdict,
    };
    let Some(polled) = request.served().and_then(|served| served.polled.as_deref()) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    if polled.is_shared {
        return Verdict::abstain(Undecided::TaskNotFresh);
    }
    let process = tables.processes.find(call.process());
    let Some(tasks) = process.and_then(|process| process.tokio.as_deref()) else {
        return Verdict::Abstain(None);
    };
    // Who starts a task of tokio's is not seen.
    let below = polls.below.iter().map(|task| (AwaitedTask::started(task), MadeFor::Unseen));
    awaited::judge(&tasks.kinds, below, (key, polled.next_task), call, moment)
}
