//! What the rules share that ask a runtime who waits for a call: which request it named.

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Answering, Exchange, Key, Undecided};

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
    if call.is_damaged() || request.is_damaged() {
        return Err(Verdict::abstain(Undecided::EventsLost));
    }
    Ok((key, request))
}
