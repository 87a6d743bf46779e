//! The truth about a recording: the ids in request paths, which no rule looks at.
//!
//! A service that serves `/work/7` calls `/work/7.0`, `/work/7.1`, …; nginx calls what it is asked for; calls of `/work/bg…`
//! are made by a timer, for nobody. The demo's shop calls `/stock/…` for the one cart that there is.

use std::collections::{BTreeMap, BTreeSet};

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;
use tracer_core::event::Event;
use tracer_core::span::{Evidence, Span, SpanId, SpanKind, Value};

use super::host::{lines, text};

/// Which exchange a span is of, also where what it was asked for is lost.
type Place = (SpanKind, ProcessKey, KernelInstant);

#[derive(Debug)]
pub(crate) struct Oracle {
    nginx: BTreeSet<ProcessKey>,
    /// Of the whole recording.
    ids: BTreeMap<Place, String>,
}

/// How the parents of a run came out; none is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Calls below the requests that they were made for, by the evidence.
    pub(crate) right: BTreeMap<Evidence, usize>,
    /// Calls for a request that have no parent.
    pub(crate) undecided: usize,
    /// Requests below the call that carried them.
    pub(crate) joined: usize,
}

impl Oracle {
    /// `events` are all that were recorded, `spans` what they come to.
    pub(crate) fn new<'e>(events: impl IntoIterator<Item = &'e Event>, spans: &[Span]) -> Self {
        let nginx = events.into_iter().filter_map(|event| {
            let Event::ProcessDescribed(described) = event else { return None };
            described.facts.is_nginx.then_some(described.process)
        });
        let ids = spans.iter().filter_map(|span| Some((place(span), id(span)?.to_owned())));
        Self { nginx: nginx.collect(), ids: ids.collect() }
    }

    /// Panics at a wrong parent.
    pub(crate) fn judge(&self, spans: &[Span], what: &str) -> Verdict {
        let by_id: BTreeMap<SpanId, &Span> = spans.iter().map(|span| (span.span_id, span)).collect();
        let mut verdict = Verdict::default();
        for span in spans {
            let Some(claim) = span.parent else {
                let caused = span.kind == SpanKind::Client && self.cause(span).is_some();
                verdict.undecided += usize::from(caused);
                continue;
            };
            let parent = by_id.get(&claim.span_id).filter(|parent| parent.trace_id == span.trace_id);
            let right = parent.is_some_and(|parent| match span.kind {
                SpanKind::Client => self.made_for(span, parent, claim.evidence),
                SpanKind::Server => self.carried(span, parent),
            });
            let whose = [Some(span), parent.copied()].map(|span| self.id(span?));
            assert!(right, "{what}: a wrong parent {whose:?} of {span:?}\n{}", lines(spans).join("\n"));
            match span.kind {
                SpanKind::Client => *verdict.right.entry(claim.evidence).or_default() += 1,
                SpanKind::Server => verdict.joined += 1,
            }
        }
        verdict
    }

    fn made_for(&self, call: &Span, request: &Span, evidence: Evidence) -> bool {
        // A CGI script is started for the request; a proxy starts none.
        let forked = evidence == Evidence::ProcessFork && !self.nginx.contains(&request.process);
        request.kind == SpanKind::Server
            && (request.process == call.process || forked)
            && self.id(request).is_some_and(|id| self.cause(call) == Some(id))
    }

    fn carried(&self, request: &Span, call: &Span) -> bool {
        let ports = [port(request, "network.local.port"), port(call, "network.peer.port")];
        call.kind == SpanKind::Client
            && call.process != request.process
            && self.id(request).is_some_and(|id| self.id(call) == Some(id))
            && (ports.contains(&None) || ports[0] == ports[1])
    }

    /// The id of the request that this call was made for.
    fn cause<'s>(&'s self, call: &'s Span) -> Option<&'s str> {
        let id = self.id(call)?;
        match id {
            _ if self.nginx.contains(&call.process) => Some(id),
            _ if id.starts_with("/stock/") => Some("/cart/42"),
            _ => id.rsplit_once('.').map(|(cause, _)| cause),
        }
    }

    fn id<'s>(&'s self, span: &'s Span) -> Option<&'s str> {
        id(span).or_else(|| self.ids.get(&place(span)).map(String::as_str))
    }
}

/// The path, without what it begins with where scripts have a folder.
fn id(span: &Span) -> Option<&str> {
    let path = text(span, "url.path").or_else(|| {
        let (_, url) = text(span, "url.full")?.split_once("://")?;
        url.get(url.find('/')?..)?.split('?').next()
    })?;
    Some(path.split_once("/work/").map_or(path, |(_, id)| id))
}

fn place(span: &Span) -> Place {
    (span.kind, span.process, span.start)
}

fn port(span: &Span, key: &str) -> Option<i64> {
    span.attributes.iter().find_map(|(name, value)| match value {
        Value::Int(port) if *name == key => Some(*port),
        Value::Int(_) | Value::Str(_) | Value::Bool(_) | Value::StrArray(_) => None,
    })
}
