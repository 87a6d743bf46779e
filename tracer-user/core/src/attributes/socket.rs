//! A connection's addresses as attributes show them: written once, for all exchanges of the connection.

use std::sync::{Arc, OnceLock};

use smol_str::{SmolStr, ToSmolStr as _};
use tracer_abi::conn::{Endpoint, Family, Role};

use super::text::clean;
use crate::event::ConnOpened;
use crate::span::Common;
use crate::tls::TlsFacts;

#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) family: Family,
    /// `None` where it is not known, and for Unix sockets.
    pub(super) local: Option<Address>,
    pub(super) remote: Option<Address>,
    /// Unix sockets: the name that the server's end is bound to, where it has one.
    pub(super) unix_name: Option<SmolStr>,
    /// It carries TLS.
    pub(super) tls: OnceLock<TlsFacts>,
    pub(super) usual: OnceLock<Usual>,
}

/// What its exchanges have in common, as far as they are like the one that it was made for.
#[derive(Debug)]
pub(super) struct Usual {
    pub(super) role: Role,
    pub(super) version: &'static str,
    pub(super) secure: bool,
    pub(super) host: Option<SmolStr>,
    pub(super) user_agent: Option<SmolStr>,
    pub(super) common: Arc<Common>,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) ip: SmolStr,
    pub(super) endpoint: Endpoint,
}

impl Socket {
    pub(crate) fn of(conn: &ConnOpened) -> Self {
        Self {
            family: conn.family,
            local: Address::of(conn.local),
            remote: Address::of(conn.remote),
            unix_name: (!conn.unix_path.is_empty()).then(|| clean(&socket_name(&conn.unix_path))),
            tls: OnceLock::new(),
            usual: OnceLock::new(),
        }
    }

    /// Once: before the first of its exchanges ends.
    pub(crate) fn secure(&self, facts: &TlsFacts) {
        self.tls.get_or_init(|| facts.clone());
    }
}

impl Address {
    fn of(endpoint: Endpoint) -> Option<Self> {
        (!endpoint.is_unspecified()).then(|| Self { ip: endpoint.ip().to_smolstr(), endpoint })
    }
}

/// As other tools show it: the NUL of an abstract name as `@`.
fn socket_name(path: &[u8]) -> String {
    match path.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        Some(_) | None => String::from_utf8_lossy(path).into_owned(),
    }
}
