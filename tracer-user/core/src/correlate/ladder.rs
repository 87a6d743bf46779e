//! Weighs the rules: the only place that compares them.
//!
//! For a server exchange the first rule that names a parent wins, and one that has a reason to abstain ends the
//! search: the reason is about the other end of the same bytes, and a header cannot know better.
//!
//! For a client exchange a parent needs one certain rule, or one likely rule with no veto:
//!
//! | what the rules say | edge |
//! |---|---|
//! | the strongest that speaks wants to wait | waits: weaker evidence never comes first |
//! | the strongest that speaks names a request, certainly | that request, unless another certain rule names another |
//! | it names one that is likely, or possible | that request, if no other rule names another, the request was open during the whole call, and no more is asked for |
//! | a request whose headers name another trace than the call's | undecided |
//!
//! Where a connection carries many exchanges at a time, what its threads do names nothing, unless the runtime has told which
//! goroutine works on which of them.
//!
//! Being the only request left proves nothing: that a cause is open during the whole of its effect is a veto only. A
//! rule that headers have shown to be wrong in a process is not asked there.

use tracer_abi::conn::Role;
use tracer_abi::time::KernelInstant;

use super::exchange::{End, Exchange, Key, Undecided};
use super::rules::{Moment, Rule, Tables, Verdict};
use super::rules::{
    goroutine, handoff, header, header_continuity, process_fork, response_window, runtime_task, same_bytes,
    thread, tokio, upstream, work_item,
};
use crate::exchange::Outcome;
use crate::span::{Confidence, Evidence};

const SERVER_RULES: [Rule; 2] = [same_bytes::judge, header::judge];

/// Rules that say which request of the process a call was made for, the strongest first. What names a rule is the
/// evidence that it finds.
pub(super) const CALL_RULES: [(Evidence, Rule); 6] = [
    (Evidence::HeaderContinuity, header_continuity::judge),
    (Evidence::RuntimeTask, by_runtime),
    (Evidence::Thread, thread::judge),
    (Evidence::ResponseWindow, response_window::judge),
    (Evidence::ProcessFork, process_fork::judge),
    (Evidence::ThreadHandOff, handoff::judge),
];

/// One for each sort of runtime.
const RUNTIME_RULES: [Rule; 5] =
    [upstream::judge, goroutine::judge, tokio::judge, work_item::judge, runtime_task::judge];

/// What the runtime of the call's process shows: of each call, one has told.
fn by_runtime(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    for rule in RUNTIME_RULES {
        match rule(tables, call, moment) {
            Verdict::Abstain(None) => {}
            verdict @ (Verdict::Abstain(Some(_))
            | Verdict::Wait
            | Verdict::Parent(..)
            | Verdict::Remote(..)) => {
                return verdict;
            }
        }
    }
    Verdict::Abstain(None)
}

/// No rule can say anything yet: [`weigh`] would answer [`Verdict::Wait`], and nothing is known that should be held for
/// later. True most times that a request from outside is asked about, and cheaper to find out.
pub(super) fn is_early(tables: &Tables, exchange: &Exchange, moment: Moment) -> bool {
    let early = same_bytes::is_early(tables, exchange, moment);
    debug_assert!(!early || weigh(tables, exchange, moment) == Verdict::Wait);
    early
}

/// A parent, or none with a reason, or [`Verdict::Wait`].
pub(super) fn weigh(tables: &Tables, exchange: &Exchange, moment: Moment) -> Verdict {
    match exchange.role() {
        Role::Client => weigh_call(tables, exchange, moment),
        Role::Server | Role::Unknown => weigh_request(tables, exchange, moment),
    }
}

fn weigh_request(tables: &Tables, request: &Exchange, moment: Moment) -> Verdict {
    for rule in SERVER_RULES {
        match rule(tables, request, moment) {
            Verdict::Abstain(None) => {}
            verdict @ (Verdict::Abstain(Some(_))
            | Verdict::Wait
            | Verdict::Remote(..)
            | Verdict::Parent(..)) => {
                return verdict;
            }
        }
    }
    Verdict::Abstain(None)
}

fn weigh_call(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let reason = match header::judge(tables, call, moment) {
        Verdict::Abstain(reason) => reason,
        // The request behind it is known a little later, and tells whether rules are right, or what trace it is of.
        Verdict::Remote(..) if header_continuity::judge(tables, call, moment) == Verdict::Wait => {
            return Verdict::Wait;
        }
        Verdict::Remote(..) if is_awaited(call) && shown(tables, call, moment) == Verdict::Wait => {
            return Verdict::Wait;
        }
        verdict @ (Verdict::Wait | Verdict::Remote(..) | Verdict::Parent(..)) => return verdict,
    };
    let (key, evidence, confidence) = match shown(tables, call, moment) {
        // What the process itself shows says more than what a header does not.
        Verdict::Abstain(why) => return Verdict::Abstain(why.or(reason)),
        Verdict::Parent(key, evidence, confidence) => (key, evidence, confidence),
        verdict @ (Verdict::Wait | Verdict::Remote(..)) => return verdict,
    };
    match veto(tables, call, key, confidence) {
        // Before its end is known, so is not whether the request was over first.
        Some(Undecided::CauseEndedFirst) if call.end.is_none() && !moment.last => Verdict::Wait,
        Some(veto) => Verdict::abstain(veto),
        None => Verdict::Parent(key, evidence, confidence),
    }
}

fn is_awaited(call: &Exchange) -> bool {
    call.called().is_some_and(|called| called.awaited_by.is_some())
}

/// The request that the process itself shows to be the call's cause, whatever trace the call's headers name and whether
/// it is sure enough to be claimed.
pub(super) fn shown(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let process = tables.processes.find(call.process());
    if !tables.rules {
        let serves = process.is_some_and(|process| process.has_served);
        return Verdict::Abstain(serves.then_some(Undecided::RulesOff));
    }
    let mut reason = None;
    let mut named: Option<(Key, Evidence, Confidence)> = None;
    // Where a runtime tells whose work a call was, that there is no answer says more than what threads show.
    let mut told = None;
    for (evidence, rule) in CALL_RULES {
        if process.is_some_and(|process| process.demoted.contains(&evidence)) {
            reason = Some(Undecided::RuleContradicted);
            continue;
        }
        let verdict = match rule(tables, call, moment) {
            Verdict::Parent(key, ..) if shares_threads(tables, call, key, evidence) => {
                Verdict::abstain(Undecided::Multiplexed)
            }
            Verdict::Wait if follows_threads(evidence) && is_anyones(call, evidence) => {
                Verdict::abstain(Undecided::Multiplexed)
            }
            verdict @ (Verdict::Abstain(_) | Verdict::Wait | Verdict::Parent(..) | Verdict::Remote(..)) => {
                verdict
            }
        };
        match (verdict, named) {
            (Verdict::Abstain(why), None) => {
                reason = why.or(reason);
                told = told.or(why.filter(|_| evidence == Evidence::RuntimeTask));
            }
            (Verdict::Wait, None) => return Verdict::Wait,
            (Verdict::Parent(key, evidence, confidence), None) => named = Some((key, evidence, confidence)),
            (Verdict::Parent(key, _, confidence), Some((first, _, sure)))
                if key != first && (confidence == Confidence::Certain || sure != Confidence::Certain) =>
            {
                return Verdict::abstain(Undecided::Contradiction);
            }
            (Verdict::Abstain(_) | Verdict::Wait | Verdict::Parent(..) | Verdict::Remote(..), _) => {}
        }
    }
    match named {
        Some((key, evidence, confidence)) => Verdict::Parent(key, evidence, confidence),
        None => Verdict::Abstain(told.or(reason)),
    }
}

/// What the evidence rests on is which thread read or wrote, and when.
const fn follows_threads(evidence: Evidence) -> bool {
    match evidence {
        Evidence::Thread | Evidence::RuntimeTask | Evidence::ResponseWindow | Evidence::ThreadHandOff => true,
        Evidence::Header
        | Evidence::TcpSequence
        | Evidence::UnixPeer
        | Evidence::ProcessFork
        | Evidence::HeaderContinuity => false,
    }
}

/// Its connection is read and written for many at a time, and nothing else has told whose it is.
fn is_anyones(exchange: &Exchange, evidence: Evidence) -> bool {
    let told = evidence == Evidence::RuntimeTask && (exchange.is_stream_taken() || is_upstream(exchange));
    exchange.request.protocol.is_multiplexed() && !told
}

/// nginx has told for whom its connection is used, whichever of many that is.
fn is_upstream(call: &Exchange) -> bool {
    call.called().is_some_and(|called| called.is_upstream)
}

/// The evidence says nothing here, because the thread reads or writes a connection for many at a time. A process that was
/// forked by such a thread was not forked for a request of its either.
fn shares_threads(tables: &Tables, call: &Exchange, request: Key, evidence: Evidence) -> bool {
    if evidence == Evidence::RuntimeTask && is_upstream(call) {
        return false;
    }
    let request = tables.exchanges.get(&request).is_some_and(|request| is_anyones(request, evidence));
    let by_thread = follows_threads(evidence);
    request && (by_thread || evidence == Evidence::ProcessFork) || by_thread && is_anyones(call, evidence)
}

/// What forbids to claim what a rule names.
fn veto(tables: &Tables, call: &Exchange, request: Key, confidence: Confidence) -> Option<Undecided> {
    if contradicts_header(tables, call, request) {
        return Some(Undecided::Contradiction);
    }
    if confidence < tables.min_confidence {
        return Some(Undecided::BelowConfidence);
    }
    let ended_first = tables.exchanges.get(&request).is_some_and(|request| ended_before(request, call));
    (confidence != Confidence::Certain && ended_first).then_some(Undecided::CauseEndedFirst)
}

/// The request was over before the call was, or before now while the call still is not. Where a response ends may show
/// only when its connection is used again, or closed; but it was over with its last bytes.
pub(super) fn ended_before(request: &Exchange, call: &Exchange) -> bool {
    match (request.end, call.end) {
        (Some(request), Some(call)) => over(&request) < over(&call),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn over(end: &End) -> KernelInstant {
    let whole = matches!(end.outcome, Outcome::Complete | Outcome::Upgraded);
    end.last.filter(|_| whole).map_or(end.time, |last| last.time)
}

/// A call that carries a trace's header was made for a request of that trace, or continues the request by another
/// header.
fn contradicts_header(tables: &Tables, call: &Exchange, request: Key) -> bool {
    let Some(carried) = call.context.as_ref().filter(|carried| carried.remote().is_some()) else {
        return false;
    };
    let brought = tables.exchanges.get(&request).and_then(|request| request.context.as_ref());
    brought.is_none_or(|brought| !brought.shares_trace(carried))
}
