//! An HTTP exchange to a span's name, status and attributes.
//!
//! Source: semantic conventions for HTTP spans, in the version of [`super::SCHEMA_URL`]. No route is known from
//! outside, so names are methods only. What was not seen has no attribute.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute as semconv;
use smol_str::{SmolStr, ToSmolStr as _};
use tracer_abi::conn::{Family, Role};

use super::keys;
use super::socket::{Address, Socket};
use super::text::clean;
use super::url::{Authority, Target, redact};
use crate::exchange::{BodyLen, Incomplete, Outcome, RequestHead, ResponseHead};
use crate::span::{Status, Value};

/// "Known" methods of the conventions: RFC 9110, PATCH and QUERY.
const KNOWN_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Closed by the peer, or reset, before any byte of the response.
const CONNECTION_CLOSED: &str = "connection_closed";
/// Closed or reset inside the response.
const RESPONSE_TRUNCATED: &str = "response_truncated";

/// What is known of an exchange at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described<'a> {
    /// `Client` for the end that sent the request.
    pub(crate) role: Role,
    pub(crate) request: &'a RequestHead,
    pub(crate) request_body: Option<BodyLen>,
    pub(crate) response: Option<&'a ResponseHead>,
    pub(crate) response_body: Option<BodyLen>,
    pub(crate) outcome: Outcome,
    pub(crate) incomplete: Option<Incomplete>,
    pub(crate) time_to_first_byte: Option<Duration>,
    pub(crate) start_late: bool,
    /// `None` when the connection's opening was not seen.
    pub(crate) socket: Option<&'a Socket>,
    pub(crate) redact_query: bool,
}

/// How many attributes most spans have at most: room that is made at once.
const USUAL_ATTRIBUTES: usize = 20;

/// Name, status and attributes of the span.
pub(crate) fn describe(facts: &Described<'_>) -> (String, Status, Vec<(&'static str, Value)>) {
    let mut out = Attributes(Vec::with_capacity(USUAL_ATTRIBUTES));
    let method = facts.request.method.as_str();
    let known = KNOWN_METHODS.into_iter().find(|known| *known == method);
    out.word(semconv::HTTP_REQUEST_METHOD, known.unwrap_or("_OTHER"));
    if known.is_none() {
        out.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, method);
    }
    url(facts, &mut out);
    peers(facts, &mut out);
    out.word(semconv::NETWORK_PROTOCOL_VERSION, facts.request.version);
    if let Some(agent) = &facts.request.user_agent {
        out.text(semconv::USER_AGENT_ORIGINAL, agent);
    }
    if let Some(BodyLen::Exact(len)) = facts.request_body {
        out.int(semconv::HTTP_REQUEST_BODY_SIZE, len);
    }
    if let Some(response) = facts.response {
        out.int(semconv::HTTP_RESPONSE_STATUS_CODE, u64::from(response.status));
        if let (Some(BodyLen::Exact(len)), Outcome::Complete | Outcome::Upgraded) =
            (facts.response_body, facts.outcome)
        {
            out.int(semconv::HTTP_RESPONSE_BODY_SIZE, len);
        }
    }
    // The status code says why, so a description would only repeat it.
    let mut status = Status::Unset;
    if let Some(error) = error_type(facts) {
        out.clean(semconv::ERROR_TYPE, error);
        status = Status::Error { description: None };
    }
    if let Some(duration) = facts.time_to_first_byte {
        out.int(keys::TIME_TO_FIRST_BYTE, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
    if facts.start_late {
        out.0.push((keys::START_LATE, Value::Bool(true)));
    }
    if let Some(reason) = facts.incomplete {
        out.word(keys::INCOMPLETE, reason.as_str());
    }
    (known.unwrap_or("HTTP").to_owned(), status, out.0)
}

fn error_type(facts: &Described<'_>) -> Option<SmolStr> {
    match facts.outcome {
        Outcome::NoResponse => return Some(SmolStr::new_static(CONNECTION_CLOSED)),
        Outcome::ResponseCut => {}
        Outcome::Complete | Outcome::Upgraded | Outcome::Lost | Outcome::StillOpen => {}
    }
    let failing = match facts.role {
        Role::Client => 400..=999,
        Role::Server | Role::Unknown => 500..=999,
    };
    let status = facts.response.map(|response| response.status).filter(|status| failing.contains(status));
    match status {
        Some(status) => Some(status.to_smolstr()),
        None if facts.outcome == Outcome::ResponseCut => Some(SmolStr::new_static(RESPONSE_TRUNCATED)),
        None => None,
    }
}

/// `url.*` and `server.*`: from the Host header, else the target, else the socket.
fn url(facts: &Described<'_>, out: &mut Attributes) {
    let target = Target::parse(&facts.request.method, &facts.request.target);
    let host = facts.request.host.as_deref().filter(|host| !host.is_empty()).map(Authority::parse);
    let (scheme, named, path, query) = match target {
        Target::Origin { path, query } => ("http", host, Some(path), query),
        // RFC 9112 section 3.2.2: the target's authority replaces the Host header.
        Target::Absolute { scheme, authority, path, query } => (scheme, Some(authority), Some(path), query),
        Target::Authority(authority) => ("http", Some(authority), None, None),
        Target::Asterisk => ("http", host, None, None),
    };
    let scheme = match ["http", "https"].into_iter().find(|usual| usual.eq_ignore_ascii_case(scheme)) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(scheme.to_ascii_lowercase()),
    };
    let query =
        query.map(|query| if facts.redact_query { redact(query).into() } else { Cow::Borrowed(query) });
    let client = facts.role == Role::Client;
    let server = facts.socket.and_then(|socket| if client { &socket.remote } else { &socket.local }.as_ref());

    if client {
        if let Some(path) = path {
            full_url(&scheme, named, server, path, query.as_deref(), out);
        }
    } else {
        match target {
            Target::Asterisk => out.word(semconv::URL_PATH, "*"),
            Target::Origin { path, .. } | Target::Absolute { path, .. } => out.text(semconv::URL_PATH, path),
            Target::Authority(_) => {}
        }
        if let Some(query) = query.as_deref().filter(|query| !query.is_empty()) {
            out.text(semconv::URL_QUERY, query);
        }
        match &scheme {
            Cow::Borrowed(usual) => out.word(semconv::URL_SCHEME, usual),
            Cow::Owned(other) => out.text(semconv::URL_SCHEME, other),
        }
    }

    // A Host header without a port may be a name that never was one of the network (a proxy's upstream): then the
    // socket knows the port better, unless a forward proxy is asked.
    let direct = matches!(target, Target::Origin { .. } | Target::Asterisk);
    let socket_port = server.map(|server| server.endpoint.port()).filter(|port| direct && *port != 0);
    let usual_port = match &*scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match (named, server, facts.socket.and_then(|socket| socket.unix_name.as_ref())) {
        (Some(authority), _, name) => {
            out.text(semconv::SERVER_ADDRESS, authority.host);
            let implied = socket_port.or(usual_port.filter(|_| name.is_none()));
            if let Some(port) = authority.port.or(implied) {
                out.int(semconv::SERVER_PORT, u64::from(port));
            }
        }
        (None, Some(server), _) => {
            out.clean(semconv::SERVER_ADDRESS, server.ip.clone());
            out.int(semconv::SERVER_PORT, u64::from(server.endpoint.port()));
        }
        (None, None, Some(name)) => out.clean(semconv::SERVER_ADDRESS, name.clone()),
        (None, None, None) => {}
    }
}

/// `url.full`, if an authority is known.
fn full_url(
    scheme: &str,
    named: Option<Authority<'_>>,
    server: Option<&Address>,
    path: &str,
    query: Option<&str>,
    out: &mut Attributes,
) {
    let authority = match (named, server) {
        (Some(authority), _) => Cow::Borrowed(authority.text),
        (None, Some(server)) => Cow::Owned(server.endpoint.socket_addr().to_string()),
        (None, None) => return,
    };
    let mut full = [scheme, "://", &authority, path].concat();
    if let Some(query) = query {
        full.push('?');
        full.push_str(query);
    }
    out.text(semconv::URL_FULL, &full);
}

/// `client.*` and `network.*`: from the socket.
fn peers(facts: &Described<'_>, out: &mut Attributes) {
    let Some(socket) = facts.socket else { return };
    let server = facts.role == Role::Server;
    match socket.family {
        Family::Unix => {
            out.word(semconv::NETWORK_TRANSPORT, "unix");
            if let Some(name) = &socket.unix_name {
                let key = if server { semconv::NETWORK_LOCAL_ADDRESS } else { semconv::NETWORK_PEER_ADDRESS };
                out.clean(key, name.clone());
            }
        }
        Family::Inet | Family::Inet6 => {
            if let Some(Address { ip, endpoint }) = &socket.remote {
                if server {
                    out.clean(semconv::CLIENT_ADDRESS, ip.clone());
                }
                out.clean(semconv::NETWORK_PEER_ADDRESS, ip.clone());
                out.int(semconv::NETWORK_PEER_PORT, u64::from(endpoint.port()));
            }
            if let Some(Address { ip, endpoint }) = &socket.local {
                out.clean(semconv::NETWORK_LOCAL_ADDRESS, ip.clone());
                out.int(semconv::NETWORK_LOCAL_PORT, u64::from(endpoint.port()));
            }
            out.word(semconv::NETWORK_TRANSPORT, "tcp");
        }
    }
}

struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    /// What others wrote.
    fn text(&mut self, key: &'static str, text: &str) {
        self.clean(key, clean(text));
    }

    /// What is safe to print already.
    fn clean(&mut self, key: &'static str, text: SmolStr) {
        self.0.push((key, Value::Str(text)));
    }

    /// One of this tracer's own words.
    fn word(&mut self, key: &'static str, word: &'static str) {
        self.clean(key, SmolStr::new_static(word));
    }

    fn int(&mut self, key: &'static str, number: u64) {
        self.0.push((key, Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
    }
}

#[cfg(test)]
mod tests;
