//! Judges spans against the truth, which is in the request paths.
//!
//! Every request path ends in an id. Ids are unique per request, so the truth is complete: the parent of a client span
//! is the server span of the same process with the id it was made for, and the parent of a server span is the client
//! span with its own id. Which id a call was made for is told by the ids themselves (a service that serves `/work/7`
//! calls `/work/7.0`, `/work/7.1`, …; a proxy calls the path that it was asked for; ids that start with `bg` belong to
//! background work, which has no parent in its process), or by a ledger that the service keeps, where ids are random.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::spans::{Kind, Span};

/// How the edges of one sort came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    pub right: usize,
    /// Any parent that is not the true one.
    pub wrong: usize,
    /// No parent claimed.
    pub undecided: usize,
    /// One of its two spans is missing.
    pub lost: usize,
}

impl Edges {
    fn add(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.undecided += other.undecided;
        self.lost += other.lost;
    }

    pub fn total(&self) -> usize {
        let Self { right, wrong, undecided, lost } = self;
        right + wrong + undecided + lost
    }
}

impl fmt::Display for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { right, wrong, undecided, lost } = self;
        write!(f, "{:>21}", format!("{right}/{wrong}/{undecided}/{lost}"))
    }
}

/// How a program makes the id of a call from the id of the request it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `7` calls `7.0`, `7.1`, …
    Numbered,
    /// `7` calls `7`: a proxy.
    Same,
}

impl Naming {
    /// What the ids of calls tell of them; every one must get a 200.
    pub fn calls(self, ids: &BTreeSet<String>) -> BTreeMap<String, Call> {
        let call = |id: &String| {
            let cause = match self {
                Self::Numbered => id.rsplit_once('.').map(|(parent, _)| parent),
                Self::Same => Some(id.as_str()),
            };
            (id.clone(), Call { cause: cause.map(str::to_owned), status: 200 })
        };
        ids.iter().map(call).collect()
    }
}

/// The truth about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The id of the request that it was made for; `None` for background work.
    pub cause: Option<String>,
    /// That it must get.
    pub status: i64,
}

/// Reads a service's ledger: lines of a call's id, its request's id or `-`, and its status.
pub fn ledger(text: &str) -> anyhow::Result<BTreeMap<String, Call>> {
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (Some(id), Some(cause), Some(status)) = (words.next(), words.next(), words.next()) else {
                anyhow::bail!("ledger line {line:?}");
            };
            let cause = (cause != "-").then(|| cause.to_owned());
            Ok((id.to_owned(), Call { cause, status: status.parse()? }))
        })
        .collect()
}

/// What is known to have happened.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Processes of the program that serves the driver and calls downstream.
    pub front: BTreeSet<u32>,
    /// Processes that it calls.
    pub back: BTreeSet<u32>,
    /// Ids that the driver asked `front` for and got a whole answer, and the length of its body.
    pub requests: BTreeMap<String, u64>,
    /// Ids that the driver asked for without waiting for the answer. A proxy may or may not have called for them.
    pub abandoned: BTreeSet<String>,
    /// The calls that `front` made.
    pub calls: BTreeMap<String, Call>,
}

impl Truth {
    fn is_background(&self, id: &str) -> bool {
        self.calls.get(id).map_or_else(|| id.starts_with("bg"), |call| call.cause.is_none())
    }
}

/// The verdict on one run.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Calls to the requests they were made for.
    pub in_process: Edges,
    /// Server spans to the client spans of the same bytes.
    pub cross_process: Edges,
    /// Background calls: `right` means that no parent was claimed.
    pub background: Edges,
    /// Requests of the driver, which is not traced: `right` means that no parent was claimed.
    pub entry: Edges,
    /// Spans that say something false about themselves: status, size, or the same exchange twice.
    pub flawed: usize,
    /// Evidence of the right in-process parents.
    pub evidence: BTreeMap<String, usize>,
    /// Reasons given where no parent was claimed, or `-`.
    pub reasons: BTreeMap<String, usize>,
    /// The first few wrong things, spelled out.
    pub notes: Vec<String>,
}

/// Wrong things that are spelled out.
const MAX_NOTES: usize = 12;

impl Score {
    pub fn of(spans: &[Span], truth: &Truth) -> Self {
        let mut score = Self::default();
        let front_servers = score.index(spans, &truth.front, Kind::Server);
        let front_clients = score.index(spans, &truth.front, Kind::Client);
        let back_servers = score.index(spans, &truth.back, Kind::Server);

        for (id, len) in &truth.requests {
            let span = front_servers.get(id.as_str()).copied();
            if let Some(span) = span {
                score.check_facts(span, id, 200, Some(*len));
            }
            let verdict = judge_root(span);
            score.count(|s| &mut s.entry, verdict, span);
        }
        for (id, call) in &truth.calls {
            let Some(cause) = &call.cause else { continue };
            let client = front_clients.get(id.as_str()).copied();
            let server = front_servers.get(cause.as_str()).copied();
            // Some programs give up the calls of somebody who has gone, or no longer make them.
            let given_up = truth.abandoned.contains(cause);
            if given_up && client.is_none() && !back_servers.contains_key(id.as_str()) {
                continue;
            }
            let verdict = judge(client, server);
            if let (Verdict::Right, Some(client)) = (verdict, client) {
                *score.evidence.entry(client.evidence().unwrap_or("none").to_owned()).or_default() += 1;
            }
            if let (Verdict::Undecided, Some(client)) = (verdict, client) {
                let reason = client.str("tracer.parent.undecided").unwrap_or("-").to_owned();
                *score.reasons.entry(reason).or_default() += 1;
            }
            if verdict == Verdict::Lost {
                let missing = [("client", client.is_none()), ("server", server.is_none())];
                score.note_missing(id, cause, &missing);
            }
            score.count(|s| &mut s.in_process, verdict, client);

            let served = back_servers.get(id.as_str()).copied();
            if let (Some(client), Some(served)) = (client, served) {
                for span in [client, served] {
                    if !given_up || status_of(span).is_some() {
                        score.check_facts(span, id, call.status, None);
                    }
                }
                score.check_pair(client, served);
            }
            let verdict = judge(served, client);
            if verdict == Verdict::Lost {
                score.note_missing(id, cause, &[("client", client.is_none()), ("served", served.is_none())]);
            }
            score.count(|s| &mut s.cross_process, verdict, served);
        }
        // A background call that began before the tracer, or ends after it, shows on neither side or on one: it is
        // judged where it shows.
        for (id, client) in front_clients.iter().filter(|(id, _)| truth.is_background(id)) {
            score.count(|s| &mut s.background, judge_root(Some(client)), Some(client));
            if let Some(served) = back_servers.get(id).copied() {
                score.count(|s| &mut s.cross_process, judge(Some(served), Some(client)), Some(served));
            }
        }
        // What a proxy called for somebody who had gone may have no parent to be seen, but no wrong one.
        for (id, client) in front_clients.iter().filter(|(id, _)| truth.abandoned.contains(**id)) {
            if judge(Some(client), front_servers.get(id).copied()) == Verdict::Wrong {
                score.count(|s| &mut s.in_process, Verdict::Wrong, Some(client));
            }
        }
        // Claims about spans that are in no list of what happened.
        for (id, span) in front_clients.iter().chain(&back_servers) {
            let known = truth.calls.contains_key(*id) || truth.abandoned.contains(*id);
            if !truth.is_background(id) && !known {
                score.flaw(span, "an exchange that nobody made");
            }
        }
        score
    }

    /// Takes in what another part of the same run came to.
    pub fn add(&mut self, other: Self) {
        let Self { in_process, cross_process, background, entry, flawed, evidence, reasons, notes } = other;
        self.in_process.add(in_process);
        self.cross_process.add(cross_process);
        self.background.add(background);
        self.entry.add(entry);
        self.flawed += flawed;
        for (name, count) in evidence {
            *self.evidence.entry(name).or_default() += count;
        }
        for (name, count) in reasons {
            *self.reasons.entry(name).or_default() += count;
        }
        self.notes.extend(notes);
    }

    /// No wrong parent, no false statement.
    pub fn is_clean(&self) -> bool {
        self.in_process.wrong
            + self.cross_process.wrong
            + self.background.wrong
            + self.entry.wrong
            + self.flawed
            == 0
    }

    fn index<'a>(
        &mut self,
        spans: &'a [Span],
        pids: &BTreeSet<u32>,
        kind: Kind,
    ) -> BTreeMap<&'a str, &'a Span> {
        let mut index = BTreeMap::new();
        for span in spans.iter().filter(|span| span.kind == kind && pids.contains(&span.pid())) {
            let Some(id) = span.path().and_then(id_of) else {
                self.flaw(span, "no id in its path");
                continue;
            };
            if index.insert(id, span).is_some() {
                self.flaw(span, "the same exchange twice");
            }
        }
        index
    }

    fn check_facts(&mut self, span: &Span, id: &str, status: i64, body_len: Option<u64>) {
        // What says of itself that it is not whole may lack the status, but not state another one.
        match (status_of(span), span.str("tracer.incomplete")) {
            (Some(said), _) if said == status => {}
            (None, Some(_)) => {}
            (said, _) => self.flaw(span, &format!("status of {id} is not {status} but {said:?}")),
        }
        if span.end < span.start {
            self.flaw(span, "ends before it starts");
        }
        let said = span.int("http.response.body.size");
        if let (Some(said), Some(true_len)) = (said, body_len)
            && u64::try_from(said) != Ok(true_len)
        {
            self.flaw(span, &format!("body size {said}, in truth {true_len}"));
        }
    }

    fn check_pair(&mut self, client: &Span, server: &Span) {
        let sizes = (client.int("http.response.body.size"), server.int("http.response.body.size"));
        if let (Some(a), Some(b)) = sizes
            && a != b
        {
            self.flaw(client, &format!("the two ends of one exchange say {a} and {b} bytes"));
        }
    }

    fn count(&mut self, sort: impl Fn(&mut Self) -> &mut Edges, verdict: Verdict, span: Option<&Span>) {
        let edges = sort(self);
        match verdict {
            Verdict::Right => edges.right += 1,
            Verdict::Undecided => edges.undecided += 1,
            Verdict::Lost => edges.lost += 1,
            Verdict::Wrong => {
                edges.wrong += 1;
                if let Some(span) = span {
                    self.note(span, "wrong parent");
                }
            }
        }
    }

    fn flaw(&mut self, span: &Span, what: &str) {
        self.flawed += 1;
        self.note(span, what);
    }

    fn note_missing(&mut self, id: &str, cause: &str, missing: &[(&str, bool)]) {
        if self.notes.len() < MAX_NOTES {
            let missing: Vec<_> =
                missing.iter().filter(|(_, missing)| *missing).map(|(end, _)| *end).collect();
            self.notes
                .push(format!("lost: the {} span of {id}, called for {cause}", missing.join(" and the ")));
        }
    }

    fn note(&mut self, span: &Span, what: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(format!(
                "{what}: {:?} {} {} of {} (pid {}), parent {:?} by {:?}, trace {}, {:?}",
                span.kind,
                span.name,
                span.path().unwrap_or("?"),
                span.service(),
                span.pid(),
                span.parent,
                span.evidence(),
                span.trace_id,
                span.attributes
            ));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Wrong,
    Undecided,
    Lost,
}

/// Judges the claim of `child` where `parent` is its true parent. A missing true parent does not excuse a claim.
fn judge(child: Option<&Span>, parent: Option<&Span>) -> Verdict {
    match (child, parent) {
        (None, _) => Verdict::Lost,
        (Some(child), None) if child.parent.is_some() => Verdict::Wrong,
        (Some(_), None) => Verdict::Lost,
        (Some(child), Some(parent)) => match &child.parent {
            None => Verdict::Undecided,
            Some(id) if *id == parent.span_id && child.trace_id == parent.trace_id => Verdict::Right,
            Some(_) => Verdict::Wrong,
        },
    }
}

/// Judges a span that has no traced parent.
fn judge_root(span: Option<&Span>) -> Verdict {
    match span {
        None => Verdict::Lost,
        Some(span) if span.parent.is_none() => Verdict::Right,
        Some(_) => Verdict::Wrong,
    }
}

/// As HTTP has it, also of a call by gRPC.
fn status_of(span: &Span) -> Option<i64> {
    match span.str("rpc.response.status_code") {
        Some("OK") => Some(200),
        Some("UNAVAILABLE") => Some(503),
        Some(_) => Some(500),
        None => span.int("http.response.status_code"),
    }
}

/// The id in a path: what follows `/work/`, wherever a server keeps that.
pub fn id_of(path: &str) -> Option<&str> {
    path.split_once("/work/").map(|(_, id)| id).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(pid: u32, kind: Kind, id: &str, span_id: &str, parent: Option<&str>, trace: &str) -> Span {
        let number = |n: i64| serde_json::Value::from(n);
        Span {
            trace_id: trace.to_owned(),
            span_id: span_id.to_owned(),
            parent: parent.map(str::to_owned),
            name: "GET".to_owned(),
            kind,
            start: 1,
            end: 2,
            attributes: [
                ("url.path".to_owned(), serde_json::Value::from(format!("/work/{id}"))),
                ("http.response.status_code".to_owned(), number(200)),
                ("http.response.body.size".to_owned(), number(5)),
            ]
            .into(),
            resource: [("process.pid".to_owned(), number(pid.into()))].into(),
            trace_state: String::new(),
            flags: 0,
            status: 0,
        }
    }

    fn truth() -> Truth {
        Truth {
            front: [1].into(),
            back: [2].into(),
            requests: [("7".to_owned(), 5)].into(),
            abandoned: BTreeSet::new(),
            calls: Naming::Numbered.calls(&["7.0".to_owned(), "7.1".to_owned()].into()),
        }
    }

    /// One request with two calls and a background call, all as it should be.
    fn good() -> Vec<Span> {
        vec![
            span(1, Kind::Server, "7", "a", None, "t"),
            span(1, Kind::Client, "7.0", "b", Some("a"), "t"),
            span(2, Kind::Server, "7.0", "c", Some("b"), "t"),
            span(1, Kind::Client, "7.1", "d", Some("a"), "t"),
            span(2, Kind::Server, "7.1", "e", Some("d"), "t"),
            span(1, Kind::Client, "bg-1", "f", None, "u"),
            span(2, Kind::Server, "bg-1", "g", Some("f"), "u"),
        ]
    }

    fn edges(right: usize, wrong: usize, undecided: usize, lost: usize) -> Edges {
        Edges { right, wrong, undecided, lost }
    }

    #[test]
    fn truth_is_right() {
        let score = Score::of(&good(), &truth());
        assert!(score.is_clean(), "{:?}", score.notes);
        assert_eq!(score.in_process, edges(2, 0, 0, 0));
        assert_eq!(score.cross_process, edges(3, 0, 0, 0));
        assert_eq!((score.background, score.entry), (edges(1, 0, 0, 0), edges(1, 0, 0, 0)));
    }

    #[test]
    fn a_parent_of_another_request_is_wrong() {
        let mut spans = good();
        spans[3].parent = Some("x".to_owned());
        assert_eq!(Score::of(&spans, &truth()).in_process, edges(1, 1, 0, 0));
    }

    #[test]
    fn the_right_parent_in_another_trace_is_wrong() {
        let mut spans = good();
        spans[2].trace_id = "v".to_owned();
        assert_eq!(Score::of(&spans, &truth()).cross_process, edges(2, 1, 0, 0));
    }

    #[test]
    fn background_work_with_a_parent_is_wrong() {
        let mut spans = good();
        spans[5].parent = Some("a".to_owned());
        let score = Score::of(&spans, &truth());
        assert_eq!(score.background, edges(0, 1, 0, 0));
        assert!(!score.is_clean());
    }

    #[test]
    fn no_parent_is_undecided_and_no_span_is_lost() {
        let mut spans = good();
        spans[1].parent = None;
        spans.remove(4);
        let score = Score::of(&spans, &truth());
        assert_eq!(score.in_process, edges(1, 0, 1, 0));
        assert_eq!(score.cross_process, edges(2, 0, 0, 1));
        assert!(score.is_clean());
    }

    #[test]
    fn a_claim_is_wrong_even_when_the_true_parent_is_missing() {
        let mut spans = good();
        spans.remove(0);
        assert_eq!(Score::of(&spans, &truth()).in_process, edges(0, 2, 0, 0));
    }

    #[test]
    fn an_entry_with_a_parent_is_wrong() {
        let mut spans = good();
        spans[0].parent = Some("f".to_owned());
        assert_eq!(Score::of(&spans, &truth()).entry, edges(0, 1, 0, 0));
    }

    #[test]
    fn false_statements_are_flaws() {
        let mut twice = good();
        twice.push(span(1, Kind::Client, "7.1", "z", None, "w"));
        let mut status = good();
        status[1].attributes.insert("http.response.status_code".to_owned(), 500.into());
        let mut silent = good();
        silent[1].attributes.remove("http.response.status_code");
        let mut size = good();
        size[0].attributes.insert("http.response.body.size".to_owned(), 6.into());
        let mut ends = good();
        ends[2].attributes.insert("http.response.body.size".to_owned(), 6.into());
        let mut invented = good();
        invented.push(span(2, Kind::Server, "7.9", "z", None, "w"));
        for spans in [twice, status, silent, size, ends, invented] {
            let score = Score::of(&spans, &truth());
            assert_eq!(score.flawed, 1, "{:?}", score.notes);
            assert!(!score.is_clean());
        }
    }

    #[test]
    fn an_incomplete_span_may_lack_its_status() {
        let mut spans = good();
        spans[1].attributes.remove("http.response.status_code");
        spans[1].attributes.insert("tracer.incomplete".to_owned(), "events_lost".into());
        assert!(Score::of(&spans, &truth()).is_clean());
    }

    #[test]
    fn a_ledger_tells_what_ids_do_not() {
        let mut spans = good();
        for (old, new) in [("7.0", "a1"), ("7.1", "b2"), ("bg-1", "c3")] {
            for span in &mut spans {
                if span.path() == Some(&format!("/work/{old}")) {
                    span.attributes.insert("url.path".to_owned(), format!("/work/{new}").into());
                }
            }
        }
        let truth = Truth { calls: ledger("a1 7 200\nb2 7 503\nc3 - 200\n").unwrap(), ..truth() };
        let score = Score::of(&spans, &truth);
        assert_eq!((score.in_process, score.background), (edges(2, 0, 0, 0), edges(1, 0, 0, 0)));
        // Both ends of the call that had to fail say 200.
        assert_eq!(score.flawed, 2, "{:?}", score.notes);
        assert!(ledger("a1 7\n").is_err());
    }

    #[test]
    fn a_proxy_calls_what_it_serves() {
        let spans = [
            span(1, Kind::Server, "7", "a", None, "t"),
            span(1, Kind::Client, "7", "b", Some("a"), "t"),
            span(2, Kind::Server, "7", "c", Some("b"), "t"),
        ];
        let truth = Truth { calls: Naming::Same.calls(&["7".to_owned()].into()), ..truth() };
        let score = Score::of(&spans, &truth);
        assert_eq!((score.in_process, score.cross_process), (edges(1, 0, 0, 0), edges(1, 0, 0, 0)));
    }
}
