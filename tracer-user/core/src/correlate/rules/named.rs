//! What the rules share that ask a runtime who waits for a call: which request it named, and that it was that one still.
//!
//! A task, a goroutine or a greenlet that serves a connection goes from one request to the next, on any thread. Where the
//! end of one and the beginning of the next are lost, it seems to work on the first one still. The connection's bytes tell:
//! what is missing between is missing before the next answer, which is then taken for the first one's. So a request's
//! calls are its own once it has been answered with nothing missing; or when it is over without an answer, and nothing was
//! lost anywhere.

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Answering, Exchange, Key, Undecided};
use crate::exchange::{Incomplete, Outcome};

/// The request that a runtime has named for the call: its task made it, or awaits the one that did.
pub(in crate::correlate) fn names(_: &Tables, call: &Exchange) -> Vec<Key> {
    match call.called().map(|called| called.answered) {
        Some(Answering::One(key)) => vec![key],
        Some(Answering::None | Answering::Several) | None => Vec::new(),
    }
}

/// The one request that was named for the call, once no other will be; else what the rule says. `changed`: another task
/// was behind the call at its end than at its beginning.
pub(super) fn request<'a>(
    tables: &'a Tables,
    call: &Exchange,
    changed: bool,
    moment: Moment,
) -> Result<(Key, &'a Exchange), Verdict> {
    let served = tables.processes.find(call.process()).is_some_and(|process| process.has_served);
    let Some(called) = call.called().filter(|_| served) else {
        // A client program: nothing here could have caused it.
        return Err(Verdict::Abstain(None));
    };
    if changed {
        return Err(Verdict::abstain(Undecided::Contradiction));
    }
    // Until then who waits may turn out to be another one.
    if call.response.is_none() && call.end.is_none() && !moment.last {
        return Err(Verdict::Wait);
    }
    let key = match called.answered {
        Answering::One(key) => key,
        Answering::Several => return Err(Verdict::abstain(Undecided::SeveralOpenRequests)),
        Answering::None => return Err(Verdict::abstain(Undecided::TaskUnrelated)),
    };
    let request = tables.exchanges.get(&key).ok_or(Verdict::abstain(Undecided::LimitReached))?;
    if call.is_damaged() {
        return Err(Verdict::abstain(Undecided::EventsLost));
    }
    is_whole(tables, request, moment)?;
    Ok((key, request))
}

/// Whether nothing is missing between the beginning of a request and its end. Of one that is not answered, or goes on for
/// long, and of which nothing more will be known, that nothing was lost anywhere. A stream has its goroutine for itself.
pub(super) fn is_whole(tables: &Tables, request: &Exchange, moment: Moment) -> Result<(), Verdict> {
    let is_answered = request.end.is_some_and(|end| {
        matches!(end.outcome, Outcome::Complete | Outcome::Upgraded)
            && !matches!(end.incomplete, Some(Incomplete::StillOpen | Incomplete::LimitReached))
    });
    let is_told_by_its_end = is_answered || request.end.is_some() && request.is_stream_taken();
    if !is_told_by_its_end && !moment.last {
        return Err(Verdict::Wait);
    }
    let lost = tables.last_gap(request.process()).is_some_and(|at| at >= request.first.time);
    if request.is_damaged() || (!is_told_by_its_end && lost) {
        return Err(Verdict::abstain(Undecided::EventsLost));
    }
    Ok(())
}
