//! What an undecided exchange may have been caused by, where evidence names it.
//!
//! A rule that names requests and cannot claim one of them names *candidates*: several that the thread held, one that
//! was not answered, two that two kinds of evidence name, one that is less sure than is asked for. An undecided span
//! has a link to each. Requests that merely were open are none: being there is no evidence. What was over before its
//! effect was is none either, and of more than [`MAX`] nothing is said.
//!
//! A link claims nothing. It is made when the undecided span leaves, to spans whose trace is known by then and that
//! are sampled, which therefore leave too. An undecided span waits for that as long as for its own trace.

use tracer_abi::conn::Role;

use super::Correlator;
use super::exchange::{Exchange, Key, Question, Settled, Undecided};
use super::fragment::FragmentId;
use super::ladder;
use super::rules::{Moment, Tables, Verdict};
use super::rules::{handoff, header_continuity, named, response_window, same_bytes, thread};
use crate::attributes::keys;
use crate::span::{Evidence, Link, Value};

/// Links of one span: whom one of four caused is not worth knowing.
pub(super) const MAX: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    key: Key,
    /// Of what kind the evidence is that names it.
    evidence: Evidence,
}

/// What a rule names when it does not claim it.
type Names = fn(&Tables, &Exchange) -> Vec<Key>;

/// Beyond what the rules of the ladder would claim if nothing contradicted them.
const NAMED: [(Evidence, Names); 5] = [
    (Evidence::HeaderContinuity, header_continuity::names),
    (Evidence::Thread, thread::names),
    (Evidence::RuntimeTask, named::names),
    (Evidence::ResponseWindow, response_window::names),
    (Evidence::ThreadHandOff, handoff::names),
];

/// None where more than [`MAX`] are named.
fn of(tables: &Tables, exchange: &Exchange, moment: Moment) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut add = |key, evidence| {
        let remains = tables.exchanges.get(&key).is_some_and(|cause| !ladder::ended_before(cause, exchange));
        if remains && found.iter().all(|other| other.key != key) {
            found.push(Candidate { key, evidence });
        }
    };
    if exchange.role() != Role::Client {
        if let Some((key, evidence)) = same_bytes::contradicted(tables, exchange) {
            add(key, evidence);
        }
        return found;
    }
    let process = tables.processes.find(exchange.process());
    let believed = |evidence: &Evidence| process.is_none_or(|process| !process.demoted.contains(evidence));
    for (evidence, rule) in ladder::CALL_RULES.iter().filter(|(evidence, _)| believed(evidence)) {
        if let Verdict::Parent(key, ..) = rule(tables, exchange, moment) {
            add(key, *evidence);
        }
    }
    for (evidence, names) in NAMED.iter().filter(|(evidence, _)| believed(evidence)) {
        for key in names(tables, exchange) {
            add(key, *evidence);
        }
    }
    if found.len() > MAX {
        found.clear();
    }
    found
}

impl Correlator {
    /// A question is about to be settled without a parent, for a reason: the candidates stay until the span leaves.
    pub(super) fn note_candidates(&mut self, key: Key) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        let candidates = of(&self.tables, exchange, Moment { now: self.now, last: true });
        for candidate in &candidates {
            if let Some(cause) = self.tables.exchanges.get_mut(&candidate.key) {
                cause.pins += 1;
            }
        }
        if let Some(exchange) = self.tables.exchanges.get_mut(&key) {
            exchange.candidates = candidates;
        }
    }

    /// The fragment of a candidate whose trace is not known yet.
    pub(super) fn awaited_candidate(&self, exchange: &Exchange) -> Option<FragmentId> {
        exchange.candidates.iter().find_map(|candidate| {
            let fragment = self.tables.exchanges.get(&candidate.key)?.fragment;
            (!self.fragments.has_trace(fragment) && !self.fragments.is_whole(fragment)).then_some(fragment)
        })
    }

    /// The undecided span leaves now: its links.
    pub(super) fn links(&mut self, key: Key) -> Vec<Link> {
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return Vec::new() };
        let candidates = std::mem::take(&mut exchange.candidates);
        let Question::Settled(Settled::Root(Some(reason))) = exchange.question else { return Vec::new() };
        let links = candidates.iter().filter_map(|candidate| self.link(key, *candidate, reason)).collect();
        for candidate in candidates {
            self.unpin(candidate.key);
        }
        links
    }

    fn link(&mut self, key: Key, candidate: Candidate, reason: Undecided) -> Option<Link> {
        let cause = self.tables.exchanges.get(&candidate.key)?;
        let (fragment, span_id) = (cause.fragment, cause.span_id);
        // Meanwhile it may be known that it was.
        let over = self.tables.exchanges.get(&key).is_some_and(|effect| ladder::ended_before(cause, effect));
        self.fragments.unwait(fragment, key);
        if over {
            return None;
        }
        if !self.fragments.has_trace(fragment) && !self.fragments.is_whole(fragment) {
            self.stats.links_not_made += 1;
            return None;
        }
        let ids = &mut self.ids;
        let trace = self.fragments.trace_for(fragment, || ids.trace_id());
        trace.sampled.then(|| Link {
            trace_id: trace.id,
            span_id,
            attributes: vec![
                (keys::CANDIDATE_EVIDENCE, Value::word(candidate.evidence.as_str())),
                (keys::CANDIDATE_UNDECIDED, Value::word(reason.as_str())),
            ],
        })
    }
}
