//! The hellos of a connection, which are not encrypted: what is random in them, the name that the client asks for, and what
//! the server chose.
//!
//! Only what lies in the first record of its direction is read; more is rare, and costs attributes. A server that has the
//! client try again says so in a hello of its own, and the one that counts is behind it.

use smol_str::SmolStr;
use tracer_abi::limits::HELLO_BYTES;
use tracer_abi::openssl::RANDOM_BYTES;

use crate::event::CiphertextMoved;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// RFC 6066 section 3.
const EXTENSION_SERVER_NAME: u16 = 0;
const TLS_1_3: u16 = 0x0304;
/// The first byte of each.
const SUITES_OF_TLS_1_3: u16 = 0x13;
const HOST_NAME: u8 = 0;
/// RFC 1035 section 2.3.4.
const MAX_NAME: usize = 255;
/// In place of random bytes, of a hello that has the client try again (RFC 8446 section 4.1.3).
const TRY_AGAIN: Random = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What is random in a hello.
pub(super) type Random = [u8; RANDOM_BYTES];

/// One direction's beginning, until it is understood or cannot be.
#[derive(Debug, Default)]
pub(super) struct Hello {
    bytes: Vec<u8>,
    next_seq: Option<u32>,
    /// Sequence number of the direction's first byte seen.
    begins: Option<u32>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Client { random: Random, server_name: Option<SmolStr> },
    Server { random: Random, version: u16, suite: u16 },
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
        let begins = *self.begins.get_or_insert(start);
        let follows = self.next_seq.replace(event.tcp_seq_end).is_none_or(|next| next == start);
        self.bytes.extend_from_slice(&event.hello);
        let whole = event.hello.len() == event.op_len as usize && self.bytes.len() < HELLO_BYTES as usize;
        let read = if follows { parse(&self.bytes) } else { Read::Nothing };
        if read == Read::More && whole {
            return None;
        }
        let cut = if read == Read::More { cut_client(&self.bytes) } else { None };
        *self = Self { begins: Some(begins), over: true, ..Self::default() };
        match read {
            Read::Found(found) => Some(found),
            Read::More | Read::Nothing => cut,
        }
    }

    /// Sequence number of the direction's first byte, once its hello was found.
    pub(super) fn begins(&self) -> Option<u32> {
        self.begins.filter(|_| self.over)
    }
}

/// A stream from its first byte.
fn parse(bytes: &[u8]) -> Read {
    let mut stream = Bytes(bytes);
    loop {
        let header = (stream.number(1), stream.number(1), stream.number(1), stream.number(2));
        let (Some(kind), Some(major), Some(_), Some(len)) = header else { return Read::More };
        let mut record = stream.clone();
        let rest = stream.take(len as usize);
        let kind = u8::try_from(kind).unwrap_or_default();
        if major != 3 || kind != HANDSHAKE && kind != CHANGE_CIPHER_SPEC {
            return Read::Nothing;
        }
        if kind == HANDSHAKE {
            let (Some(kind), Some(_len)) = (record.number(1), record.number(3)) else { return Read::More };
            let found = match u8::try_from(kind) {
                Ok(CLIENT_HELLO) => client(record),
                Ok(SERVER_HELLO) => server(record),
                _ => return Read::Nothing,
            };
            match found {
                Some(Found::Server { random: TRY_AGAIN, .. }) => {}
                Some(found) => return Read::Found(found),
                None => return Read::More,
            }
        }
        if rest.is_none() {
            return Read::More;
        }
    }
}

/// A client's hello of which only the beginning is there.
fn cut_client(bytes: &[u8]) -> Option<Found> {
    let mut hello = Bytes(bytes);
    let kinds = (hello.number(1)?, hello.number(4)?, hello.number(1)?, hello.number(3)?);
    let is_client = kinds.0 == u32::from(HANDSHAKE) && kinds.2 == u32::from(CLIENT_HELLO);
    hello.number(2)?;
    is_client.then_some(Found::Client { random: hello.random()?, server_name: None })
}

/// RFC 8446 section 4.1.2. `None`: there is more of it.
fn client(mut hello: Bytes<'_>) -> Option<Found> {
    hello.number(2)?;
    let random = hello.random()?;
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
    Some(Found::Client { random, server_name })
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

/// RFC 8446 section 4.1.3. The suites of TLS 1.3 are its own (appendix B.4), and its extensions may be long: they hold keys.
fn server(mut hello: Bytes<'_>) -> Option<Found> {
    let named = hello.number(2)? as u16;
    let random = hello.random()?;
    hello.prefixed(1)?;
    let suite = hello.number(2)? as u16;
    let version = if suite >> 8 == SUITES_OF_TLS_1_3 { TLS_1_3 } else { named };
    Some(Found::Server { random, version, suite })
}

#[derive(Clone)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn random(&mut self) -> Option<Random> {
        self.take(RANDOM_BYTES)?.try_into().ok()
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
