//! The shape of a case: what the two ends of one connection do, and which spans must come of it.

use serde_json::Value as Json;
use tracer_tests::raw::{FillWith, Played, Put, Step, Take};
use tracer_tests::spans::{Kind, Span};

/// What carries the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp4,
    Tcp6,
    Unix,
}

/// One conversation. Both ends are traced, so every exchange shows as a client and a server span.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) over: Over,
    pub(crate) client: Vec<Step>,
    pub(crate) server: Vec<Step>,
    pub(crate) client_spans: Vec<Want>,
    pub(crate) server_spans: Vec<Want>,
    /// Judges what the table cannot say, such as times.
    pub(crate) check: Option<Check>,
    client_takes: Take,
    server_takes: Take,
}

/// Complains of what it sees.
pub(crate) type Check = fn(&Seen<'_>) -> Result<(), String>;

/// What came of a case.
pub(crate) struct Seen<'a> {
    pub(crate) client: &'a Played,
    pub(crate) server: &'a Played,
    /// In the order of their start.
    pub(crate) client_spans: &'a [Span],
    pub(crate) server_spans: &'a [Span],
}

impl Case {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            over: Over::Tcp4,
            client: Vec::new(),
            server: Vec::new(),
            client_spans: Vec::new(),
            server_spans: Vec::new(),
            check: None,
            client_takes: Take::Read,
            server_takes: Take::Read,
        }
    }

    pub(crate) fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    /// How both ends read from here on.
    pub(crate) fn takes(mut self, how: Take) -> Self {
        (self.client_takes, self.server_takes) = (how, how);
        self
    }

    /// The client writes it in one call, the server reads it.
    pub(crate) fn request(self, bytes: impl AsRef<[u8]>) -> Self {
        self.request_as(bytes, Put::Once)
    }

    pub(crate) fn request_as(mut self, bytes: impl AsRef<[u8]>, how: Put) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.server.push(Step::Read { len: bytes.len() as u64, how: self.server_takes });
        self.client.push(Step::Write { bytes, how });
        self
    }

    /// The server writes it in one call, the client reads it.
    pub(crate) fn response(self, bytes: impl AsRef<[u8]>) -> Self {
        self.response_as(bytes, Put::Once)
    }

    pub(crate) fn response_as(mut self, bytes: impl AsRef<[u8]>, how: Put) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.client.push(Step::Read { len: bytes.len() as u64, how: self.client_takes });
        self.server.push(Step::Write { bytes, how });
        self
    }

    pub(crate) fn request_fill(mut self, len: u64, how: FillWith) -> Self {
        self.client.push(Step::Fill { len, how });
        self.server.push(Step::Read { len, how: self.server_takes });
        self
    }

    pub(crate) fn response_fill(mut self, len: u64, how: FillWith) -> Self {
        self.server.push(Step::Fill { len, how });
        self.client.push(Step::Read { len, how: self.client_takes });
        self
    }

    /// The client writes it and resets the connection, before the server reads.
    pub(crate) fn reset_unread(name: &'static str, bytes: &[u8]) -> Self {
        let len = bytes.len() as u64;
        Self::new(name)
            .client(Step::Write { bytes: bytes.to_vec(), how: Put::Once })
            .client(Step::Reset)
            .server(Step::Sleep { ms: 100 })
            .server(Step::Read { len, how: Take::Read })
    }

    pub(crate) fn client(mut self, step: Step) -> Self {
        self.client.push(step);
        self
    }

    pub(crate) fn server(mut self, step: Step) -> Self {
        self.server.push(step);
        self
    }

    /// Both ends must tell of this exchange.
    pub(crate) fn want(mut self, want: Want) -> Self {
        self.client_spans.push(want.clone());
        self.server_spans.push(want);
        self
    }

    pub(crate) fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }
}

/// What a span must say. Whatever is `None` must not be said.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    method: &'static str,
    original: Option<&'static str>,
    path: Option<String>,
    status: Option<u16>,
    request_body: Size,
    response_body: Size,
    error: Error,
    incomplete: Option<&'static str>,
    version: &'static str,
    trace: Option<&'static str>,
    client_parent: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Zero may also go unsaid.
    Exact(u64),
    Unknown,
    /// Cut short: at most this is said.
    AtMost(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Error {
    /// As the conventions derive it from the status code.
    ByStatus,
    /// Some word that is not a status code.
    Some,
    /// This word.
    Is(&'static str),
}

impl Want {
    pub(crate) fn new(method: &'static str, path: &str, status: u16) -> Self {
        Self {
            method,
            original: None,
            path: Some(path.to_owned()),
            status: Some(status),
            request_body: Size::Exact(0),
            response_body: Size::Exact(0),
            error: Error::ByStatus,
            incomplete: None,
            version: "1.1",
            trace: None,
            client_parent: None,
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path, 200)
    }

    /// No path to tell: `OPTIONS *`, CONNECT.
    pub(crate) fn no_path(mut self) -> Self {
        self.path = None;
        self
    }

    /// A method that the conventions do not list, as it was sent.
    pub(crate) fn original(mut self, method: &'static str) -> Self {
        self.original = Some(method);
        self
    }

    pub(crate) fn sent(mut self, bytes: u64) -> Self {
        self.request_body = Size::Exact(bytes);
        self
    }

    pub(crate) fn sent_at_most(mut self, bytes: u64) -> Self {
        self.request_body = Size::AtMost(bytes);
        self
    }

    pub(crate) fn received(mut self, bytes: u64) -> Self {
        self.response_body = Size::Exact(bytes);
        self
    }

    pub(crate) fn received_unknown(mut self) -> Self {
        self.response_body = Size::Unknown;
        self
    }

    pub(crate) fn received_at_most(mut self, bytes: u64) -> Self {
        self.response_body = Size::AtMost(bytes);
        self
    }

    pub(crate) fn no_status(mut self) -> Self {
        self.status = None;
        self
    }

    pub(crate) fn fails(mut self) -> Self {
        self.error = Error::Some;
        self
    }

    /// With this `error.type`.
    pub(crate) fn fails_with(mut self, word: &'static str) -> Self {
        self.error = Error::Is(word);
        self
    }

    /// Something of it is not known, for this reason.
    pub(crate) fn incomplete(mut self, reason: &'static str) -> Self {
        self.incomplete = Some(reason);
        self
    }

    pub(crate) fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// The trace id, and the span id that the client span names as its parent.
    pub(crate) fn context(mut self, trace: &'static str, parent: &'static str) -> Self {
        (self.trace, self.client_parent) = (Some(trace), Some(parent));
        self
    }

    /// Everything that is wrong with `span`; `joined` is the other end's span where this is a server span.
    pub(crate) fn judge(&self, span: &Span, joined: Option<(&Span, &str)>) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut same = |what: &str, said: Option<Json>, wanted: Option<Json>| {
            if said != wanted {
                complaints.push(format!("{what}: {said:?} instead of {wanted:?}"));
            }
        };
        let said = |key: &str| span.attributes.get(key).cloned();
        same("method", said("http.request.method"), Some(Json::from(self.method)));
        same("original method", said("http.request.method_original"), self.original.map(Json::from));
        // `url.full` has no form for `*`.
        let told = |path: &&String| span.kind == Kind::Server || path.as_str() != "*";
        same("path", span.path().map(Json::from), self.path.as_ref().filter(told).cloned().map(Json::from));
        same("status code", said("http.response.status_code"), self.status.map(Json::from));
        same("incomplete", said("tracer.incomplete"), self.incomplete.map(Json::from));
        same("version", said("network.protocol.version"), Some(Json::from(self.version)));
        for (key, wanted) in
            [("http.request.body.size", self.request_body), ("http.response.body.size", self.response_body)]
        {
            let said = span.int(key).map(i64::cast_unsigned);
            let fits = match wanted {
                Size::Exact(0) => said.is_none_or(|len| len == 0),
                Size::Exact(len) => said == Some(len),
                Size::Unknown => said.is_none(),
                Size::AtMost(len) => said.is_none_or(|said| said <= len),
            };
            if !fits {
                complaints.push(format!("{key}: {said:?} instead of {wanted:?}"));
            }
        }
        complaints.extend(self.judge_error(span));
        complaints.extend(self.judge_parent(span, joined));
        if span.end < span.start {
            complaints.push("ends before it starts".to_owned());
        }
        complaints
    }

    fn judge_error(&self, span: &Span) -> Option<String> {
        let said = span.str("error.type");
        let first_bad = if span.kind == Kind::Client { 400 } else { 500 };
        let by_status = self.status.filter(|status| *status >= first_bad).map(|status| status.to_string());
        let fits = match self.error {
            Error::ByStatus => said == by_status.as_deref(),
            Error::Is(word) => said == Some(word),
            Error::Some => said.is_some_and(|word| !word.is_empty() && word.parse::<u16>().is_err()),
        };
        let status_wanted = if said.is_some() { 2 } else { 0 };
        if !fits {
            return Some(format!("error.type {said:?}, status {:?}", self.status));
        }
        (span.status != status_wanted)
            .then(|| format!("span status {} with error.type {said:?}", span.status))
    }

    fn judge_parent(&self, span: &Span, joined: Option<(&Span, &str)>) -> Option<String> {
        let trace_fits = self.trace.is_none_or(|trace| trace == span.trace_id);
        if !trace_fits {
            return Some(format!("trace {} instead of {:?}", span.trace_id, self.trace));
        }
        match joined {
            Some((client, evidence)) => {
                let fits = span.parent.as_ref() == Some(&client.span_id)
                    && span.trace_id == client.trace_id
                    && span.evidence() == Some(evidence);
                (!fits).then(|| format!("not joined: parent {:?} by {:?}", span.parent, span.evidence()))
            }
            None => (span.parent.as_deref() != self.client_parent).then(|| {
                format!(
                    "parent {:?} by {:?} instead of {:?}",
                    span.parent,
                    span.evidence(),
                    self.client_parent
                )
            }),
        }
    }
}
