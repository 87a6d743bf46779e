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
//! Where requests are held back (`limit_req`), timers send their calls, and what was received last before is any other
//! request. Such a call is bound all the same, as likely, if that other request was answered in the window of another
//! call, the two responses are of one length, and the worker makes no subrequests worth mentioning
//! ([`AGREED`]): then every call has one answer, and every answer one call.
//!
//! Subrequests whose response starts none (`auth_request`, `mirror`) stay undecided. The answer is given when the
//! call has ended and its last window has closed.

use std::time::Duration;

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Key, Question, Settled, Undecided, Window};
use crate::correlate::processes::Process;
use crate::correlate::threads::Received;
use crate::exchange::{BodyLen, Outcome};
use crate::span::{Confidence, Evidence};

/// After the call's end: windows are microseconds long; this lets a second answer show itself.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_millis(100);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called() else { return Verdict::Abstain(None) };
    let Some(process) = tables.processes.find(call.process()) else { return Verdict::Abstain(None) };
    if !process.is_nginx() {
        return Verdict::Abstain(None);
    }
    if !moment.last && call.end.is_none_or(|end| moment.now.since(end.time) < SETTLE) {
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
            if (process.answers_unprompted && !agrees) || !hands_on(call, request) {
                return Verdict::abstain(Undecided::ResponseWindowsDisagree);
            }
            // A call that is not over may yet answer another request.
            if call.end.is_none_or(|end| end.outcome == Outcome::Lost) {
                return Verdict::abstain(Undecided::EventsLost);
            }
            match called.trigger.filter(|_| call.id.index > 0 && !agrees) {
                Some(other) => held_back(tables, process, call, request, other, moment),
                None => Verdict::Parent(key, Evidence::ResponseWindow, Confidence::Certain),
            }
        }
    }
}

/// Calls that a worker must have made whose windows name no other request than what was received last, before it is
/// believed of others; and so many for each that was answered without a response in its windows. Workers that mirror
/// requests or ask whether they may be served have one such call for each that has not.
pub(in crate::correlate) const AGREED: u32 = 64;
const AGREED_PER_EMPTY: u32 = 16;

/// Bodies up to this length are seen whole, as configured by default. Of longer ones in chunks the length is known only
/// at the end that was read in fewer pieces.
const SHORT: u64 = 4096;

fn response_len(exchange: &Exchange) -> Option<BodyLen> {
    exchange.end.and_then(|end| end.response_body)
}

/// The windows name `request`, but what was received last before the call was `other`: whether a timer sent it.
fn held_back(
    tables: &Tables,
    process: &Process,
    call: &Exchange,
    request: &Exchange,
    other: Key,
    moment: Moment,
) -> Verdict {
    let disagree = Verdict::abstain(Undecided::ResponseWindowsDisagree);
    let Some((other, served)) = tables.exchanges.get(&other).and_then(|other| Some((other, other.served()?)))
    else {
        return disagree;
    };
    if process.windows_empty.saturating_mul(AGREED_PER_EMPTY) > process.windows_agreed {
        return disagree;
    }
    // It may be what the call was made for, until it is answered by something else.
    let waits = other.end.is_none() && served.answered_by.is_none();
    if (waits || process.windows_agreed < AGREED || request.end.is_none()) && !moment.last {
        return Verdict::Wait;
    }
    let same_len = match (response_len(call), response_len(request)) {
        (Some(BodyLen::Exact(received)), Some(BodyLen::Exact(sent))) => received == sent,
        (Some(BodyLen::Unknown), Some(BodyLen::Unknown)) => true,
        (Some(BodyLen::Exact(len)), Some(BodyLen::Unknown))
        | (Some(BodyLen::Unknown), Some(BodyLen::Exact(len))) => len > SHORT,
        (None, _) | (_, None) => false,
    };
    if served.answered_by.is_none() || process.windows_agreed < AGREED || !same_len {
        return disagree;
    }
    match call.called().map(|called| called.window) {
        Some(Window::One(key)) => Verdict::Parent(key, Evidence::ResponseWindow, Confidence::Likely),
        Some(Window::None | Window::Several) | None => disagree,
    }
}

/// A call's question is settled: what that says about its worker.
pub(in crate::correlate) fn settled(tables: &mut Tables, key: Key, settled: Settled) {
    let Some(call) = tables.exchanges.get(&key).filter(|exchange| exchange.called().is_some()) else {
        return;
    };
    let (process, complete) = (call.process(), call.end.is_some_and(|end| end.outcome == Outcome::Complete));
    let Some(process) = tables.processes.note(process).filter(|process| process.is_nginx()) else { return };
    match settled {
        Settled::Parent {
            evidence: Evidence::ResponseWindow,
            confidence: Confidence::Certain,
            remote: false,
            ..
        } => process.windows_agreed = process.windows_agreed.saturating_add(1),
        Settled::Root(Some(Undecided::NoResponseWindow)) if complete => {
            process.windows_empty = process.windows_empty.saturating_add(1);
        }
        Settled::Parent { .. } | Settled::Root(_) => {}
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
    received.status == sent.status && same_len
}

/// A request's response begins: the window that it begins in, if it begins in one, is noted at the call. Returns
/// the call, when it now names the request.
pub(in crate::correlate) fn response_began(tables: &mut Tables, key: Key) -> Option<Key> {
    let request = tables.exchanges.get(&key)?;
    let (began, reader) = (request.first.time, request.thread());
    let (_, mark) = request.response.as_ref()?;
    let by = mark.thread;
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
            if let (true, Some(served)) =
                (first, tables.exchanges.get_mut(&key).and_then(|request| request.served_mut()))
            {
                served.answered_by = Some(call);
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
