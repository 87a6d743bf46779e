//! Weighs the rules: the only place that compares them.
//!
//! The first rule that names a parent wins; a rule that wants to wait holds up those below it, so that weaker
//! evidence never comes first. For a server exchange a rule that has a reason to abstain ends the search: the reason
//! is about the other end of the same bytes, and a header cannot know better. For a client exchange the rules look
//! at different things, and the search goes on.

use tracer_abi::conn::Role;

use super::exchange::{Exchange, Undecided};
use super::rules::{Moment, Rule, Tables, Verdict, header, response_window, same_bytes, thread};

const SERVER_RULES: [Rule; 2] = [same_bytes::judge, header::judge];
const CLIENT_RULES: [Rule; 3] = [header::judge, thread::judge, response_window::judge];

/// A parent, or none with a reason, or [`Verdict::Wait`].
pub(super) fn weigh(tables: &Tables, exchange: &Exchange, moment: Moment) -> Verdict {
    let server = exchange.role() == Role::Server;
    let rules: &[Rule] = if server { &SERVER_RULES } else { &CLIENT_RULES };
    let mut reason = None;
    for rule in rules {
        match rule(tables, exchange, moment) {
            Verdict::Abstain(None) => {}
            Verdict::Abstain(Some(why)) if server => return Verdict::abstain(why),
            // What the process itself shows says more than what a header does not.
            Verdict::Abstain(Some(why)) => reason = Some(why),
            Verdict::Wait => return Verdict::Wait,
            verdict @ Verdict::Remote(..) => return verdict,
            verdict @ Verdict::Parent(key, ..) => {
                if !server && contradicts_header(tables, exchange, key) {
                    return Verdict::abstain(Undecided::Contradiction);
                }
                return verdict;
            }
        }
    }
    Verdict::Abstain(reason)
}

/// A call that carries a trace's header was made for a request of that trace.
fn contradicts_header(tables: &Tables, call: &Exchange, request: super::exchange::Key) -> bool {
    let Some(carried) = call.context.as_ref().filter(|carried| carried.remote().is_some()) else {
        return false;
    };
    let brought = tables.exchanges.get(&request).and_then(|request| request.context.as_ref());
    brought.is_none_or(|brought| !brought.shares_trace(carried))
}
