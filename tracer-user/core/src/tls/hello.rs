//! The hellos of a connection, which are not encrypted: the name that the client asks for, and what the server chose.
//!
//! Only a hello that lies whole in the first record of its direction is read; others are rare, and cost attributes.

use smol_str::SmolStr;
use tracer_abi::limits::HELLO_BYTES;

use crate::event::CiphertextMoved;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// RFC 6066 section 3, RFC 8446 section 4.2.1.
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const HOST_NAME: u8 = 0;
/// RFC 1035 section 2.3.4.
const MAX_NAME: usize = 255;
/// Version, and random bytes.
const FIXED: usize = 2 + 32;

/// One direction's beginning, until it is understood or cannot be.
#[derive(Debug, Default)]
pub(super) struct Hello {
    bytes: Vec<u8>,
    next_seq: Option<u32>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Client { server_name: Option<SmolStr> },
    Server { version: u16, suite: u16 },
}

/// What bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    More,
    Nothing,
    Found(Found),
}

impl Hello {
    pub(super) fn read(&mut self, event: &CiphertextMoved) -> Option<Found> {
        if self.over || event.more {
            return None;
        }
        let start = event.tcp_seq_end.wrapping_sub(event.op_len);
        let follows = self.next_seq.replace(event.tcp_seq_end).is_none_or(|next| next == start);
        self.bytes.extend_from_slice(&event.hello);
        let whole = event.hello.len() == event.op_len as usize && self.bytes.len() < HELLO_BYTES as usize;
        let read = if follows { parse(&self.bytes) } else { Read::Nothing };
        if read == Read::More && whole {
            return None;
        }
        *self = Self { over: true, ..Self::default() };
        match read {
            Read::Found(found) => Some(found),
            Read::More | Read::Nothing => None,
        }
    }
}

/// A stream from its first byte.
fn parse(bytes: &[u8]) -> Read {
    let mut record = Bytes(bytes);
    match (record.number(1), record.number(1), record.number(1), record.number(2)) {
        (Some(kind), Some(3), Some(_), Some(_)) if kind == u32::from(HANDSHAKE) => {}
        (None, ..) | (_, None, ..) | (_, _, None, _) | (.., None) => return Read::More,
        _ => return Read::Nothing,
    }
    let (Some(kind), Some(_len)) = (record.number(1), record.number(3)) else { return Read::More };
    let found = match u8::try_from(kind) {
        Ok(CLIENT_HELLO) => client(record),
        Ok(SERVER_HELLO) => server(record),
        _ => return Read::Nothing,
    };
    found.map_or(Read::More, Read::Found)
}

/// RFC 8446 section 4.1.2. `None`: there is more of it.
fn client(mut hello: Bytes<'_>) -> Option<Found> {
    hello.take(FIXED)?;
    hello.prefixed(1)?;
    hello.prefixed(2)?;
    hello.prefixed(1)?;
    let mut left = hello.number(2)? as usize;
    let mut server_name = None;
    while left >= 4 && server_name.is_none() {
        let kind = hello.number(2)?;
        let extension = hello.prefixed(2)?;
        left = left.saturating_sub(4 + extension.len());
        if kind == u32::from(EXTENSION_SERVER_NAME) {
            server_name = host_name(Bytes(extension));
        }
    }
    Some(Found::Client { server_name })
}

/// RFC 6066 section 3.
fn host_name(mut extension: Bytes<'_>) -> Option<SmolStr> {
    let mut names = Bytes(extension.prefixed(2)?);
    loop {
        let kind = names.number(1)?;
        let name = names.prefixed(2)?;
        if kind == u32::from(HOST_NAME) {
            let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            let name = std::str::from_utf8(name).ok().filter(|name| name.as_bytes().iter().all(is_name))?;
            return (!name.is_empty() && name.len() <= MAX_NAME).then(|| SmolStr::new(name));
        }
    }
}

/// RFC 8446 section 4.1.3. A request to try again (the same section) chooses what the hello behind it does.
fn server(mut hello: Bytes<'_>) -> Option<Found> {
    let mut version = Bytes(hello.take(FIXED)?).number(2)?;
    hello.prefixed(1)?;
    let suite = hello.number(2)?;
    hello.number(1)?;
    // Before TLS 1.3 there may be none.
    let mut left = hello.number(2).unwrap_or(0) as usize;
    while left >= 4 {
        let kind = hello.number(2)?;
        let extension = hello.prefixed(2)?;
        left = left.saturating_sub(4 + extension.len());
        if kind == u32::from(EXTENSION_SUPPORTED_VERSIONS) {
            version = Bytes(extension).number(2)?;
        }
    }
    Some(Found::Server { version: version as u16, suite: suite as u16 })
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Of at most four bytes.
    fn number(&mut self, len: usize) -> Option<u32> {
        Some(self.take(len)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// Bytes behind their number.
    fn prefixed(&mut self, len: usize) -> Option<&'a [u8]> {
        let len = self.number(len)?;
        self.take(len as usize)
    }
}
