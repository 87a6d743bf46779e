//! An HTTP exchange to a span's name, status and attributes.
//!
//! Source: semantic conventions for HTTP spans, in the version of [`super::SCHEMA_URL`]. No route is known from
//! outside, so names are methods only. What was not seen has no attribute.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute as semconv;
use smol_str::{SmolStr, ToSmolStr as _};
use tracer_abi::conn::{Family, Role};

use super::fastcgi;
use super::grpc;
use super::http2;
use super::keys;
use super::socket::{Address, Socket, Usual};
use super::text::clean;
use super::url::{Authority, Target, redact};
use crate::exchange::{BodyLen, Incomplete, Outcome, Protocol, RequestHead, ResponseHead, Trailer};
use crate::span::{Attributes, Common, Status, Value};
use crate::tls::TlsFacts;

/// "Known" methods of the conventions: RFC 9110, PATCH and QUERY.
const KNOWN_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Closed by the peer, or reset, before any byte of the response.
const CONNECTION_CLOSED: &str = "connection_closed";
/// Closed or reset inside the response.
const RESPONSE_TRUNCATED: &str = "response_truncated";

/// A connection keeps no more text than this for what its exchanges have in common: a hostile client could make it
/// tens of kilobytes.
const MAX_COMMON_TEXT: usize = 512;

/// What is known of an exchange at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described<'a> {
    /// `Client` for the end that sent the request.
    pub(crate) role: Role,
    pub(crate) request: &'a RequestHead,
    pub(crate) request_body: Option<BodyLen>,
    pub(crate) response: Option<&'a ResponseHead>,
    pub(crate) response_body: Option<BodyLen>,
    pub(crate) trailer: Option<Trailer>,
    pub(crate) outcome: Outcome,
    pub(crate) incomplete: Option<Incomplete>,
    pub(crate) time_to_first_byte: Option<Duration>,
    pub(crate) time_to_first_data: Option<Duration>,
    pub(crate) start_late: bool,
    /// `None` when the connection's opening was not seen.
    pub(crate) socket: Option<&'a Socket>,
    pub(crate) redact_query: bool,
    /// The connection has had exchanges before: there may be more.
    pub(crate) kept_alive: bool,
}

/// How many attributes of their own most spans have at most: room that is made at once.
const USUAL_ATTRIBUTES: usize = 10;

/// Name, status and attributes of the span.
pub(crate) fn describe(facts: &Described<'_>) -> (Cow<'static, str>, Status, Attributes) {
    let mut out = Out(Attributes::with_capacity(USUAL_ATTRIBUTES));
    let method = facts.request.method.as_deref();
    let target = Target::parse(method.unwrap_or_default(), facts.request.target.as_deref());
    let is_call = grpc::is_call(facts);
    let name =
        if is_call { grpc::describe(facts, &mut out) } else { request(facts, method, &target, &mut out) };
    match common(facts, &target) {
        Some(common) => out.0.push_common(common),
        None => endpoints(facts, &target, &mut out),
    }
    if let Some(BodyLen::Exact(len)) = facts.request_body {
        out.int(semconv::HTTP_REQUEST_BODY_SIZE, len);
    }
    if let Some(response) = facts.response {
        // A call's answer has a status of its own, unless something else than its server answered.
        if let Some(status) = response.status.filter(|status| !is_call || *status != 200) {
            out.int(semconv::HTTP_RESPONSE_STATUS_CODE, u64::from(status));
        }
        if let (Some(BodyLen::Exact(len)), Outcome::Complete | Outcome::Upgraded) =
            (facts.response_body, facts.outcome)
        {
            out.int(semconv::HTTP_RESPONSE_BODY_SIZE, len);
        }
    }
    if let Some(Trailer::FastCgi { app_status, protocol_status }) = facts.trailer {
        fastcgi::ended(app_status, protocol_status, &mut out.0);
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
    if let Some(duration) = facts.time_to_first_data {
        out.int(keys::TIME_TO_FIRST_DATA, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
    if facts.start_late {
        out.0.push((keys::START_LATE, Value::Bool(true)));
    }
    if let Some(reason) = facts.incomplete {
        out.word(keys::INCOMPLETE, reason.as_str());
    }
    (name, status, out.0)
}

/// `http.request.method*` and `url.*`, and the span's name.
fn request(
    facts: &Described<'_>,
    method: Option<&str>,
    target: &Target<'_>,
    out: &mut Out,
) -> Cow<'static, str> {
    let known = KNOWN_METHODS.into_iter().find(|known| Some(*known) == method);
    if let Some(method) = method {
        out.word(semconv::HTTP_REQUEST_METHOD, known.unwrap_or("_OTHER"));
        if known.is_none() {
            out.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, method);
        }
    }
    url(facts, target, out);
    Cow::Borrowed(known.unwrap_or("HTTP"))
}

/// What [`endpoints`] says, where earlier exchanges of the connection said the same.
fn common(facts: &Described<'_>, target: &Target<'_>) -> Option<Arc<Common>> {
    let socket = facts.socket.filter(|_| facts.kept_alive && matches!(target, Target::Origin { .. }))?;
    let RequestHead { version, secure, host, user_agent, .. } = facts.request;
    let usual = match socket.usual.get() {
        Some(usual) => usual,
        None => {
            let long = [host, user_agent].into_iter().flatten().map(|text| text.len()).sum::<usize>();
            if long > MAX_COMMON_TEXT {
                return None;
            }
            let mut out = Out(Attributes::default());
            endpoints(facts, target, &mut out);
            socket.usual.get_or_init(|| Usual {
                role: facts.role,
                version,
                secure: *secure,
                host: host.clone(),
                user_agent: user_agent.clone(),
                common: Arc::new(Common::new(out.0.iter().cloned().collect())),
            })
        }
    };
    let same = usual.role == facts.role
        && usual.version == *version
        && usual.secure == *secure
        && usual.host == *host
        && usual.user_agent == *user_agent;
    same.then(|| Arc::clone(&usual.common))
}

fn error_type(facts: &Described<'_>) -> Option<SmolStr> {
    if let Some(Trailer::FastCgi { protocol_status, .. }) = facts.trailer
        && let Some(error) = fastcgi::error(protocol_status, facts.response.is_some())
    {
        return Some(SmolStr::new_static(error));
    }
    if let Some(error) = http2::error(facts.outcome) {
        return Some(SmolStr::new_static(error));
    }
    if let Some(error) = grpc::error(facts) {
        return Some(error);
    }
    match facts.outcome {
        Outcome::NoResponse => return Some(SmolStr::new_static(CONNECTION_CLOSED)),
        Outcome::ResponseCut => {}
        Outcome::Complete
        | Outcome::Upgraded
        | Outcome::Reset(_)
        | Outcome::Dropped
        | Outcome::Lost
        | Outcome::StillOpen => {}
    }
    let failing = match facts.role {
        Role::Client => 400..=999,
        Role::Server | Role::Unknown => 500..=999,
    };
    let status =
        facts.response.and_then(|response| response.status).filter(|status| failing.contains(status));
    match status {
        Some(status) => Some(status.to_smolstr()),
        None if facts.outcome == Outcome::ResponseCut => Some(SmolStr::new_static(RESPONSE_TRUNCATED)),
        None => None,
    }
}

/// `url.*`, but for what [`endpoints`] says.
fn url(facts: &Described<'_>, target: &Target<'_>, out: &mut Out) {
    let (path, query) = match *target {
        Target::Origin { path, query } | Target::Absolute { path, query, .. } => (path, query),
        Target::Asterisk if facts.role != Role::Client => return out.word(semconv::URL_PATH, "*"),
        Target::Asterisk | Target::Authority(_) | Target::Unknown => return,
    };
    let query =
        query.map(|query| if facts.redact_query { redact(query).into() } else { Cow::Borrowed(query) });
    if facts.role == Role::Client {
        full_url(facts, target, path, query.as_deref(), out);
        return;
    }
    out.text(semconv::URL_PATH, path);
    if let Some(query) = query.as_deref().filter(|query| !query.is_empty()) {
        out.text(semconv::URL_QUERY, query);
    }
}

/// `url.full`, if an authority is known.
fn full_url(facts: &Described<'_>, target: &Target<'_>, path: &str, query: Option<&str>, out: &mut Out) {
    let authority = match (named(facts, target), server(facts)) {
        (Some(authority), _) => Cow::Borrowed(authority.text),
        (None, Some(server)) => Cow::Owned(server.endpoint.socket_addr().to_string()),
        (None, None) => return,
    };
    let mut full = [&scheme(facts, target), "://", &authority, path].concat();
    if let Some(query) = query {
        full.push('?');
        full.push_str(query);
    }
    out.text(semconv::URL_FULL, &full);
}

/// In lower case.
fn scheme(facts: &Described<'_>, target: &Target<'_>) -> Cow<'static, str> {
    let scheme = match *target {
        Target::Absolute { scheme, .. } => scheme,
        Target::Origin { .. } | Target::Authority(_) | Target::Asterisk | Target::Unknown
            if facts.request.secure =>
        {
            return Cow::Borrowed("https");
        }
        Target::Origin { .. } | Target::Authority(_) | Target::Asterisk | Target::Unknown => {
            return Cow::Borrowed("http");
        }
    };
    match ["http", "https"].into_iter().find(|usual| usual.eq_ignore_ascii_case(scheme)) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(scheme.to_ascii_lowercase()),
    }
}

/// Whom the request says that it is for.
fn named<'a>(facts: &Described<'a>, target: &Target<'a>) -> Option<Authority<'a>> {
    match *target {
        // RFC 9112 section 3.2.2: the target's authority replaces the Host header.
        Target::Absolute { authority, .. } | Target::Authority(authority) => Some(authority),
        Target::Origin { .. } | Target::Asterisk | Target::Unknown => {
            facts.request.host.as_deref().filter(|host| !host.is_empty()).map(Authority::parse)
        }
    }
}

/// The server's end of the socket.
fn server<'a>(facts: &Described<'a>) -> Option<&'a Address> {
    let client = facts.role == Role::Client;
    facts.socket.and_then(|socket| if client { &socket.remote } else { &socket.local }.as_ref())
}

/// What the exchanges of a connection may have in common: who speaks with whom, and in which versions.
fn endpoints(facts: &Described<'_>, target: &Target<'_>, out: &mut Out) {
    let scheme = scheme(facts, target);
    if facts.role != Role::Client {
        match &scheme {
            Cow::Borrowed(usual) => out.word(semconv::URL_SCHEME, usual),
            Cow::Owned(other) => out.text(semconv::URL_SCHEME, other),
        }
    }
    served_by(facts, target, &scheme, out);
    peers(facts, out);
    match facts.request.protocol {
        // `http` is what is meant where nothing is said.
        Protocol::Http1 | Protocol::Http2 => {}
        Protocol::FastCgi => out.word(semconv::NETWORK_PROTOCOL_NAME, "fastcgi"),
    }
    out.word(semconv::NETWORK_PROTOCOL_VERSION, facts.request.version);
    if let Some(tls) = facts.socket.and_then(|socket| socket.tls.get()) {
        secured(tls, out);
    }
    if let Some(agent) = &facts.request.user_agent {
        out.text(semconv::USER_AGENT_ORIGINAL, agent);
    }
}

/// `server.*`: from the Host header, else the target, else TLS's own name, else the socket.
fn served_by(facts: &Described<'_>, target: &Target<'_>, scheme: &str, out: &mut Out) {
    let server = server(facts);
    // A Host header without a port may be a name that never was one of the network (a proxy's upstream): then the
    // socket knows the port better, unless a forward proxy is asked.
    let direct = matches!(target, Target::Origin { .. } | Target::Asterisk | Target::Unknown);
    let socket_port = server.map(|server| server.endpoint.port()).filter(|port| direct && *port != 0);
    let usual_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match (named(facts, target), server, facts.socket.and_then(|socket| socket.unix_name.as_ref())) {
        (Some(authority), _, name) => {
            out.text(semconv::SERVER_ADDRESS, authority.host);
            let implied = socket_port.or(usual_port.filter(|_| name.is_none()));
            if let Some(port) = authority.port.or(implied) {
                out.int(semconv::SERVER_PORT, u64::from(port));
            }
        }
        (None, Some(server), _) => {
            // The name that the client asked for in its hello.
            let asked = facts.socket.and_then(|socket| socket.tls.get()?.server_name.clone());
            out.clean(semconv::SERVER_ADDRESS, asked.unwrap_or_else(|| server.ip.clone()));
            out.int(semconv::SERVER_PORT, u64::from(server.endpoint.port()));
        }
        (None, None, Some(name)) => out.clean(semconv::SERVER_ADDRESS, name.clone()),
        (None, None, None) => {}
    }
}

/// `client.*` and `network.*`: from the socket.
fn peers(facts: &Described<'_>, out: &mut Out) {
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

/// `tls.*`: from the hellos.
fn secured(tls: &TlsFacts, out: &mut Out) {
    if let Some(version) = tls.version {
        out.word(semconv::TLS_PROTOCOL_NAME, "tls");
        out.word(semconv::TLS_PROTOCOL_VERSION, version);
    }
    if let Some(cipher) = tls.cipher {
        out.word(semconv::TLS_CIPHER, cipher);
    }
}

pub(super) struct Out(Attributes);

impl Out {
    /// What others wrote.
    fn text(&mut self, key: &'static str, text: &str) {
        self.clean(key, clean(text));
    }

    /// What is safe to print already.
    pub(super) fn clean(&mut self, key: &'static str, text: SmolStr) {
        self.0.push((key, Value::Str(text)));
    }

    /// One of this tracer's own words.
    pub(super) fn word(&mut self, key: &'static str, word: &'static str) {
        self.clean(key, SmolStr::new_static(word));
    }

    pub(super) fn int(&mut self, key: &'static str, number: u64) {
        self.0.push((key, Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
    }
}

#[cfg(test)]
mod tests;
