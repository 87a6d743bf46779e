//! An HTTP exchange to a span's name, status and attributes.
//!
//! Source: semantic conventions for HTTP spans, in the version of [`super::SCHEMA_URL`]. No route is known from
//! outside, so names are methods only. What was not seen has no attribute.

use std::time::Duration;

use opentelemetry_semantic_conventions::attribute as semconv;
use tracer_abi::conn::{Endpoint, Family, Role};

use super::keys;
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
    pub(crate) socket: Option<Socket<'a>>,
    pub(crate) redact_query: bool,
}

/// The connection's addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket<'a> {
    pub(crate) family: Family,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    /// Unix sockets: the bound name; an abstract one starts with NUL.
    pub(crate) unix_path: &'a [u8],
}

/// Name, status and attributes of the span.
pub(crate) fn describe(facts: &Described<'_>) -> (String, Status, Vec<(&'static str, Value)>) {
    let mut out = Attributes(Vec::with_capacity(24));
    let method = facts.request.method.as_str();
    let known = KNOWN_METHODS.contains(&method);
    out.text(semconv::HTTP_REQUEST_METHOD, if known { method } else { "_OTHER" });
    if !known {
        out.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, method);
    }
    url(facts, &mut out);
    peers(facts, &mut out);
    out.text(semconv::NETWORK_PROTOCOL_VERSION, facts.request.version);
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
    let error = error_type(facts);
    if let Some(error) = &error {
        out.text(semconv::ERROR_TYPE, error);
    }
    if let Some(duration) = facts.time_to_first_byte {
        out.int(keys::TIME_TO_FIRST_BYTE, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
    if facts.start_late {
        out.0.push((keys::START_LATE, Value::Bool(true)));
    }
    if let Some(reason) = facts.incomplete {
        out.text(keys::INCOMPLETE, reason.as_str());
    }
    // The status code says why, so a description would only repeat it.
    let status = if error.is_some() { Status::Error { description: None } } else { Status::Unset };
    (if known { method.to_owned() } else { "HTTP".to_owned() }, status, out.0)
}

fn error_type(facts: &Described<'_>) -> Option<String> {
    match facts.outcome {
        Outcome::NoResponse => return Some(CONNECTION_CLOSED.to_owned()),
        Outcome::ResponseCut => {}
        Outcome::Complete | Outcome::Upgraded | Outcome::Lost | Outcome::StillOpen => {}
    }
    let failing = match facts.role {
        Role::Client => 400..=999,
        Role::Server | Role::Unknown => 500..=999,
    };
    let status = facts.response.map(|response| response.status).filter(|status| failing.contains(status));
    match status {
        Some(status) => Some(status.to_string()),
        None if facts.outcome == Outcome::ResponseCut => Some(RESPONSE_TRUNCATED.to_owned()),
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
    let scheme = scheme.to_ascii_lowercase();
    let query = query.map(|query| if facts.redact_query { redact(query) } else { query.to_owned() });
    let client = facts.role == Role::Client;
    let server = facts.socket.map(|socket| if client { socket.remote } else { socket.local });
    let server = server.filter(|server| !server.is_unspecified());
    let path_on_disk = facts.socket.map(|socket| socket.unix_path).filter(|path| !path.is_empty());

    if client {
        let authority = match (named, server) {
            (Some(authority), _) => Some(authority.text.to_owned()),
            (None, Some(server)) => Some(server.socket_addr().to_string()),
            (None, None) => None,
        };
        if let (Some(authority), Some(path)) = (authority, path) {
            let mut full = format!("{scheme}://{authority}{path}");
            if let Some(query) = &query {
                full.push('?');
                full.push_str(query);
            }
            out.text(semconv::URL_FULL, &full);
        }
    } else {
        match target {
            Target::Asterisk => out.text(semconv::URL_PATH, "*"),
            Target::Origin { path, .. } | Target::Absolute { path, .. } => out.text(semconv::URL_PATH, path),
            Target::Authority(_) => {}
        }
        if let Some(query) = query.as_deref().filter(|query| !query.is_empty()) {
            out.text(semconv::URL_QUERY, query);
        }
        out.text(semconv::URL_SCHEME, &scheme);
    }

    // A Host header without a port may be a name that never was one of the network (a proxy's upstream): then the
    // socket knows the port better, unless a forward proxy is asked.
    let direct = matches!(target, Target::Origin { .. } | Target::Asterisk);
    let socket_port = server.map(Endpoint::port).filter(|port| direct && *port != 0);
    let usual_port = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match (named, server, path_on_disk) {
        (Some(authority), _, path) => {
            out.text(semconv::SERVER_ADDRESS, authority.host);
            let implied = socket_port.or(usual_port.filter(|_| path.is_none()));
            if let Some(port) = authority.port.or(implied) {
                out.int(semconv::SERVER_PORT, u64::from(port));
            }
        }
        (None, Some(server), _) => {
            out.text(semconv::SERVER_ADDRESS, &server.ip().to_string());
            out.int(semconv::SERVER_PORT, u64::from(server.port()));
        }
        (None, None, Some(path)) => out.text(semconv::SERVER_ADDRESS, &socket_name(path)),
        (None, None, None) => {}
    }
}

/// `client.*` and `network.*`: from the socket.
fn peers(facts: &Described<'_>, out: &mut Attributes) {
    let Some(socket) = facts.socket else { return };
    let server = facts.role == Role::Server;
    match socket.family {
        Family::Unix => {
            out.text(semconv::NETWORK_TRANSPORT, "unix");
            if !socket.unix_path.is_empty() {
                let key = if server { semconv::NETWORK_LOCAL_ADDRESS } else { semconv::NETWORK_PEER_ADDRESS };
                out.text(key, &socket_name(socket.unix_path));
            }
        }
        Family::Inet | Family::Inet6 => {
            if !socket.remote.is_unspecified() {
                let ip = socket.remote.ip().to_string();
                if server {
                    out.text(semconv::CLIENT_ADDRESS, &ip);
                }
                out.text(semconv::NETWORK_PEER_ADDRESS, &ip);
                out.int(semconv::NETWORK_PEER_PORT, u64::from(socket.remote.port()));
            }
            if !socket.local.is_unspecified() {
                out.text(semconv::NETWORK_LOCAL_ADDRESS, &socket.local.ip().to_string());
                out.int(semconv::NETWORK_LOCAL_PORT, u64::from(socket.local.port()));
            }
            out.text(semconv::NETWORK_TRANSPORT, "tcp");
        }
    }
}

/// As other tools show it: the NUL of an abstract name as `@`.
fn socket_name(path: &[u8]) -> String {
    match path.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        Some(_) | None => String::from_utf8_lossy(path).into_owned(),
    }
}

struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    fn text(&mut self, key: &'static str, text: &str) {
        self.0.push((key, Value::Str(clean(text))));
    }

    fn int(&mut self, key: &'static str, number: u64) {
        self.0.push((key, Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
    }
}

#[cfg(test)]
mod tests;
