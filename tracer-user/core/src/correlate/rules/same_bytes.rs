//! A server exchange's parent is the client exchange of the same bytes.
//!
//! | what agrees | then |
//! |---|---|
//! | mirrored addresses and position of the request's first byte | joined, unless the responses begin at different positions |
//! | addresses differ (translation) or are unknown: first and last byte of request and response | joined, if exactly one such pair |
//!
//! Either end may be understood first. Two exchanges that claim the same end contradict each other: no join.

use std::time::Duration;

use tracer_abi::conn::{Family, Role};

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Key, Served, Stamp, Undecided};
use crate::correlate::join::Occupant;
use crate::span::{Confidence, Evidence};

/// How long the other end may be stamped, or understood, later than this one when it is not known to be traced.
pub(in crate::correlate) const GRACE: Duration = Duration::from_millis(20);

/// The same when a traced process holds the other end: then only a loss keeps its side away.
pub(in crate::correlate) const GRACE_TRACED: Duration = Duration::from_secs(1);

pub(in crate::correlate) fn judge(tables: &Tables, exchange: &Exchange, moment: Moment) -> Verdict {
    if exchange.role() != Role::Server {
        return Verdict::Abstain(None);
    }
    if exchange.served().is_some_and(|served| served.peer_ambiguous) {
        return Verdict::abstain(Undecided::PeerAmbiguous);
    }
    match tables.join.other_end(exchange) {
        Occupant::One(key) => match tables.exchanges.get(&key) {
            Some(client) => meet(exchange, client, key, moment),
            None => Verdict::Abstain(None),
        },
        Occupant::Several => Verdict::abstain(Undecided::PeerAmbiguous),
        Occupant::Nobody => translated(tables, exchange, moment),
    }
}

/// A request whose other end may still show itself, and has not.
pub(in crate::correlate) fn is_early(tables: &Tables, exchange: &Exchange, moment: Moment) -> bool {
    let waits = |served: &Served| !served.peer_ambiguous && served.peer_pin.is_none();
    exchange.served().is_some_and(waits)
        && !moment.last
        && !was_awaited(exchange, moment)
        && !is_alone(tables, exchange)
        && tables.join.nearest_end(exchange) == Occupant::Nobody
}

/// The other end of a request has had its time to show itself.
pub(in crate::correlate) fn was_awaited(exchange: &Exchange, moment: Moment) -> bool {
    exchange.role() == Role::Server && moment.now >= exchange.first.time.plus(GRACE)
}

/// Nobody will show itself, which is known before: not before the answer is out, which who asked waits for.
fn is_alone(tables: &Tables, exchange: &Exchange) -> bool {
    exchange.end.is_some() && tables.join.is_alone(exchange)
}

fn meet(server: &Exchange, client: &Exchange, key: Key, moment: Moment) -> Verdict {
    let evidence = evidence(server);
    let joined = Verdict::Parent(key, evidence, Confidence::Certain);
    match (&server.response, &client.response) {
        (Some((_, sent)), Some((_, received))) if same_place(sent, received, evidence) => joined,
        (Some(_), Some(_)) => Verdict::abstain(Undecided::Contradiction),
        // The place of the request alone is certain enough, once the responses had time to contradict it.
        (_, _) if moment.last || moment.now.since(server.first.time) >= GRACE => joined,
        // A call that has ended says nothing more, and does not wait to be found.
        (_, _) if client.end.is_some() => joined,
        (_, _) => Verdict::Wait,
    }
}

/// The call at the place of the request, where their responses are not the same bytes.
pub(in crate::correlate) fn contradicted(tables: &Tables, server: &Exchange) -> Option<(Key, Evidence)> {
    let Occupant::One(key) = tables.join.other_end(server) else { return None };
    let evidence = evidence(server);
    let client = tables.exchanges.get(&key)?;
    match (&server.response, &client.response) {
        (Some((_, sent)), Some((_, received))) if !same_place(sent, received, evidence) => {
            Some((key, evidence))
        }
        (_, _) => None,
    }
}

fn evidence(server: &Exchange) -> Evidence {
    match server.conn.as_ref().map(|conn| conn.opened.family) {
        Some(Family::Unix) => Evidence::UnixPeer,
        Some(Family::Inet | Family::Inet6) | None => Evidence::TcpSequence,
    }
}

fn same_place(a: &Stamp, b: &Stamp, evidence: Evidence) -> bool {
    match evidence {
        Evidence::UnixPeer => a.offset == b.offset,
        Evidence::TcpSequence
        | Evidence::Header
        | Evidence::Thread
        | Evidence::RuntimeTask
        | Evidence::ResponseWindow
        | Evidence::ProcessFork
        | Evidence::HeaderContinuity
        | Evidence::ThreadHandOff => a.tcp_seq.is_some() && a.tcp_seq == b.tcp_seq,
    }
}

/// No other end by address.
fn translated(tables: &Tables, server: &Exchange, moment: Moment) -> Verdict {
    if !moment.last && !was_awaited(server, moment) && !is_alone(tables, server) {
        return Verdict::Wait;
    }
    match tables.join.other_end_by_seq(server) {
        Occupant::One(key) => {
            let Some(client) = tables.exchanges.get(&key) else { return Verdict::Abstain(None) };
            // An end that has its own partner by address is taken.
            if tables.join.other_end(client) != Occupant::Nobody || client.cookie() == server.cookie() {
                return unjoined(tables, server, moment);
            }
            match (ends(server), ends(client)) {
                (Some(sent), Some(received)) if sent == received => {
                    Verdict::Parent(key, Evidence::TcpSequence, Confidence::Certain)
                }
                (Some(_), Some(_)) => unjoined(tables, server, moment),
                (_, _) if moment.last => unjoined(tables, server, moment),
                (_, _) => Verdict::Wait,
            }
        }
        Occupant::Several => Verdict::abstain(Undecided::PeerAmbiguous),
        Occupant::Nobody => unjoined(tables, server, moment),
    }
}

fn unjoined(tables: &Tables, server: &Exchange, moment: Moment) -> Verdict {
    if !tables.join.peer_is_traced(server) {
        return Verdict::Abstain(None);
    }
    if !moment.last && moment.now.since(server.first.time) < GRACE_TRACED {
        return Verdict::Wait;
    }
    Verdict::abstain(Undecided::PeerUnseen)
}

/// First and last sequence number of both directions, once all are known.
fn ends(exchange: &Exchange) -> Option<[u32; 4]> {
    if exchange.is_damaged() {
        return None;
    }
    let (_, response) = exchange.response.as_ref()?;
    let last = exchange.end.as_ref()?.last.as_ref()?;
    let request_last = exchange.request_last.as_ref()?;
    Some([exchange.first.tcp_seq?, request_last.tcp_seq?, response.tcp_seq?, last.tcp_seq?])
}
