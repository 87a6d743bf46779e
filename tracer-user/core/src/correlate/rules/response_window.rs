//! nginx: a call's parent is the request that was answered in the window of the call's response.
//!
//! A worker handles one readiness at a time. What it sends after it received from an upstream, and before it receives
//! anything else or waits, is that upstream's doing, with one exception: timers and disk completions run between
//! readinesses, too. So a call is bound to a request only when
//!
//! 1. the request's response *began* in a window of the call's response, and no other request's did in any window of
//!    it: two answers in one window, or windows that name two requests, bind nothing;
//! 2. the request was read before the call was sent, by the same thread, and no event of the thread is missing since;
//! 3. the two responses have the same status, and the same content length where both state one: a proxy hands both
//!    on;
//! 4. on a pooled connection, where the call leaves in the very step that causes it, what was received last before it
//!    is not another request; in a worker that was seen to answer unprompted, it is this request.
//!
//! Subrequests whose response starts none (`auth_request`, `mirror`) stay undecided. The answer is given when the
//! call has ended and its last window has closed: when the worker receives something else, or after a while.

use std::time::Duration;

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Key, Question, Undecided, Window};
use crate::correlate::threads::Received;
use crate::event::Thread;
use crate::exchange::Outcome;
use crate::span::{Confidence, Evidence};

/// After the call's end, where the worker receives nothing that would close the window: windows are microseconds long; this
/// lets a second answer show itself.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_millis(100);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called() else { return Verdict::Abstain(None) };
    let Some(process) = tables.processes.find(call.process()) else { return Verdict::Abstain(None) };
    if !process.is_nginx() {
        return Verdict::Abstain(None);
    }
    let settled = called.window_closed || call.end.is_some_and(|end| moment.now.since(end.time) >= SETTLE);
    if !moment.last && !settled {
        return Verdict::Wait;
    }
    let thread = tables.threads.find(call.process(), call.thread().tid);
    if thread.is_none_or(|thread| thread.whole_since > call.thread().seq) || call.is_damaged() {
        return Verdict::abstain(Undecided::EventsLost);
    }
    match called.window {
        Window::None => Verdict::abstain(Undecided::NoResponseWindow),
        Window::Several => Verdict::abstain(Undecided::ResponseWindowsDisagree),
        Window::One(key) => {
            let Some(request) = tables.exchanges.get(&key) else {
                return Verdict::abstain(Undecided::LimitReached);
            };
            let agrees = called.trigger == Some(key);
            let triggered_by_other = call.id.index > 0 && called.trigger.is_some() && !agrees;
            if triggered_by_other || (process.answers_unprompted && !agrees) || !hands_on(call, request) {
                return Verdict::abstain(Undecided::ResponseWindowsDisagree);
            }
            // A call that is not over may yet answer another request.
            if call.end.is_none_or(|end| end.outcome == Outcome::Lost) {
                return Verdict::abstain(Undecided::EventsLost);
            }
            Verdict::Parent(key, Evidence::ResponseWindow, Confidence::Certain)
        }
    }
}

/// The request that was answered in a window of the call's response, and the one that the thread had read before it
/// sent the call.
pub(in crate::correlate) fn names(tables: &Tables, call: &Exchange) -> Vec<Key> {
    let nginx = tables.processes.find(call.process()).is_some_and(|process| process.is_nginx());
    match call.called() {
        Some(called) if nginx => match called.window {
            Window::One(answered) => [Some(answered), called.trigger].into_iter().flatten().collect(),
            Window::None | Window::Several => Vec::new(),
        },
        Some(_) | None => Vec::new(),
    }
}

/// Whether the request's response may be the call's, handed on.
fn hands_on(call: &Exchange, request: &Exchange) -> bool {
    let (Some((received, _)), Some((sent, _))) = (&call.response, &request.response) else { return false };
    let same_len = match (received.content_length, sent.content_length) {
        (Some(received), Some(sent)) => received == sent,
        (None, _) | (_, None) => true,
    };
    received.status.is_some() && received.status == sent.status && same_len
}

/// A request's response begins: the window that it begins in, if it begins in one, is noted at the call. Returns
/// the call, when it now names the request.
pub(in crate::correlate) fn response_began(tables: &mut Tables, key: Key, by: Thread) -> Option<Key> {
    let request = tables.exchanges.get(&key)?;
    let (began, reader) = (request.first.time, request.thread());
    if !tables.processes.find(by.process).is_some_and(|process| process.is_nginx()) {
        return None;
    }
    let run = tables.threads.find(by.process, by.tid)?.run;
    match run.last {
        Received::Response(call) => {
            let exchange = tables.exchanges.get_mut(&call)?;
            let fits = began < exchange.first.time
                && exchange.thread().tid == by.tid
                && exchange.process() == by.process
                && reader.tid == by.tid;
            let open = exchange.question == Question::Open;
            let called = exchange.called_mut().filter(|_| open)?;
            let first = called.window == Window::None && fits;
            let again = called.window != Window::None;
            called.window = if first { Window::One(key) } else { Window::Several };
            if first {
                called.window_pin = Some(key);
            }
            // Of two answers to one call at least one was not its.
            if again && let Some(process) = tables.processes.note(by.process) {
                process.answers_unprompted = true;
            }
            first.then_some(call)
        }
        Received::Nothing => {
            if let Some(process) = tables.processes.note(by.process) {
                process.answers_unprompted = true;
            }
            None
        }
        Received::Request(_) | Received::Other | Received::Unknown => None,
    }
}
