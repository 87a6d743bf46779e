//! Heads: start-line and header fields (RFC 9112 sections 2 to 5), read as leniently as programs in use read them.
//!
//! Lines may end in LF alone, a name may be followed by white space, folded values are one value, and a line that is
//! no field is passed over. Only what spans and framing need is taken; no other value is looked at.

use smol_str::SmolStr;

use crate::context;
use crate::exchange::{GrpcCall, Protocol, RequestHead, ResponseHead};
use crate::protocol::grpc::{self, Form};

/// Finds where a head ends: behind the first empty line that is not at its very start.
///
/// `scanned` is where an earlier, shorter look left off: a head that comes byte by byte is read once.
pub(crate) fn find_end(bytes: &[u8], scanned: &mut usize) -> Option<usize> {
    let mut at = *scanned;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let line_end = at + found;
        match bytes.get(line_end + 1..) {
            Some([b'\n', ..]) => return Some(line_end + 2),
            Some([b'\r', b'\n', ..]) => return Some(line_end + 3),
            Some([] | [b'\r']) | None => {
                // Not to be told yet: look at this line end again.
                *scanned = line_end;
                return None;
            }
            Some(_) => at = line_end + 1,
        }
    }
    *scanned = bytes.len();
    None
}

/// Methods are short (IANA's longest, `UPDATEREDIRECTREF`, has 17 characters): a longer one is another protocol's text.
pub(crate) const MAX_METHOD_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) version: &'static str,
}

/// `method SP target SP HTTP/1.x`. The target may hold spaces: servers that accept them exist.
pub(crate) fn parse_request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let line = line.trim_ascii_end();
    let method_end = line.iter().position(|&byte| !is_token_byte(byte))?;
    let (method, rest) = line.split_at(method_end);
    // The version is the last word.
    let version_start = rest.len().checked_sub(VERSION_BYTES + 1)?;
    if !matches!(rest[version_start], b' ' | b'\t') {
        return None;
    }
    let version = parse_version(&rest[version_start + 1..])?;
    let target = rest[..version_start].trim_ascii();
    let is_method = (1..=MAX_METHOD_BYTES).contains(&method.len());
    (is_method && rest.starts_with(b" ") && !target.is_empty()).then_some(RequestLine {
        method,
        target,
        version,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusLine {
    pub(super) version: &'static str,
    pub(crate) status: u16,
}

/// `HTTP/1.x SP status [SP reason]`.
pub(crate) fn parse_status_line(line: &[u8]) -> Option<StatusLine> {
    let (version, rest) = line.split_at_checked(VERSION_BYTES)?;
    let version = parse_version(version)?;
    let rest = rest.trim_ascii_end();
    let digits = rest.trim_ascii_start();
    if digits.len() == rest.len() {
        return None;
    }
    let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ref reason @ ..] = digits else { return None };
    if reason.first().is_some_and(|&byte| !matches!(byte, b' ' | b'\t')) {
        return None;
    }
    let digit = |byte: u8| u16::from(byte - b'0');
    Some(StatusLine { version, status: digit(a) * 100 + digit(b) * 10 + digit(c) })
}

/// 101 is a 1xx that is final for HTTP (RFC 9110 section 15.2.2).
pub(crate) const fn is_interim(status: u16) -> bool {
    status >= 100 && status < 200 && status != 101
}

const VERSION_BYTES: usize = b"HTTP/1.1".len();

fn parse_version(version: &[u8]) -> Option<&'static str> {
    match version {
        b"HTTP/1.0" => Some("1.0"),
        // RFC 9110 section 2.5: a higher minor version is read as the highest that is known.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Some("1.1"),
        _ => None,
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[byte as usize]
}

const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < table.len() {
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric();
        at += 1;
    }
    let symbols = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < symbols.len() {
        table[symbols[at] as usize] = true;
        at += 1;
    }
    table
};

/// Name and value of each field line, the value with the white space around it; a folded value (RFC 9112 section 5.2)
/// comes whole, its line ends in it. Ends at the empty line, or where there are no more bytes.
struct Fields<'a> {
    rest: &'a [u8],
    /// The last value consists of several lines.
    folded: bool,
    /// The empty line that ends a head was met.
    ended: bool,
}

impl<'a> Fields<'a> {
    /// The start-line of a head, and its fields.
    fn of(head: &'a [u8]) -> (&'a [u8], Self) {
        let (line, rest) = match find(b'\n', head) {
            Some(end) => (&head[..end], &head[end + 1..]),
            None => (head, [].as_slice()),
        };
        (line, Self { rest, folded: false, ended: false })
    }

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        while !self.rest.is_empty() {
            if let [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] = self.rest {
                self.ended = true;
                self.rest = rest;
                return None;
            }
            let line_end =
                |bytes: &[u8], from| find(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at + 1);
            let mut end = line_end(self.rest, 0);
            self.folded = false;
            while let Some(b' ' | b'\t') = self.rest.get(end) {
                end = line_end(self.rest, end);
                self.folded = true;
            }
            let (line, rest) = self.rest.split_at(end);
            self.rest = rest;
            if let Some(colon) = find(b':', line) {
                return Some((line[..colon].trim_ascii_end(), &line[colon + 1..]));
            }
        }
        None
    }

    /// Where the head ends that these are the fields of, if it ends in `bytes`, which it begins.
    fn end(&self, bytes: &[u8]) -> Option<usize> {
        self.ended.then(|| bytes.len() - self.rest.len())
    }
}

/// The first `byte`. What is looked for in a head is near: a few words are compared sooner than a function for long
/// runs is called.
#[inline]
fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const NEAR: usize = 48;
    let pattern = ONES.wrapping_mul(u64::from(byte));
    let mut at = 0;
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk::<8>()
        && at < NEAR
    {
        // Of the bytes that are zero, the lowest is told exactly.
        let differs = u64::from_le_bytes(*word) ^ pattern;
        let zero = differs.wrapping_sub(ONES) & !differs & HIGHS;
        if zero != 0 {
            return Some(at + zero.trailing_zeros() as usize / 8);
        }
        at += 8;
        rest = behind;
    }
    if at < NEAR {
        rest.iter().position(|&other| other == byte).map(|found| at + found)
    } else {
        memchr::memchr(byte, rest).map(|found| at + found)
    }
}

/// What a head's fields say about framing and about the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) content_length: ContentLength,
    pub(super) transfer: Transfer,
    pub(super) upgrade: bool,
    /// To HTTP/2 in clear.
    pub(super) h2c: bool,
    pub(super) expects_continue: bool,
    /// Of a grpc-web call's body.
    pub(super) grpc: Option<Form>,
    pub(super) grpc_status: Option<u32>,
}

/// RFC 9112 section 6.3, items 5 and 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ContentLength {
    #[default]
    Absent,
    Valid(u64),
    /// Not a number, or several that differ.
    Invalid,
}

/// RFC 9112 section 6.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Transfer {
    #[default]
    Absent,
    /// `chunked` is the final coding.
    Chunked,
    /// It is not.
    Other,
}

impl ContentLength {
    /// "42, 42" and repeated fields are one length when all agree.
    fn with(self, value: &[u8]) -> Self {
        if let (Self::Absent, Some(n)) = (self, parse_decimal(value.trim_ascii())) {
            return Self::Valid(n);
        }
        value.split(|&byte| byte == b',').fold(self, |length, part| {
            match (length, parse_decimal(part.trim_ascii())) {
                (Self::Absent, Some(n)) => Self::Valid(n),
                (Self::Valid(m), Some(n)) if m == n => Self::Valid(n),
                (Self::Absent | Self::Valid(_) | Self::Invalid, _) => Self::Invalid,
            }
        })
    }

    const fn valid(self) -> Option<u64> {
        match self {
            Self::Valid(n) => Some(n),
            Self::Absent | Self::Invalid => None,
        }
    }
}

impl Transfer {
    /// Several fields are one list; the last coding counts.
    fn with(self, value: &[u8]) -> Self {
        let mut codings =
            value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
        match codings.next_back() {
            None => self,
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            Some(_) => Self::Other,
        }
    }
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A head, and where it ends: `None` when there is no empty line.
#[derive(Debug)]
pub(super) struct Read<H> {
    pub(super) head: H,
    pub(super) facts: Facts,
    pub(super) end: Option<usize>,
}

/// Reads a request's head, which the bytes begin with. `None`: the first line is no request line.
pub(super) fn parse_request(bytes: &[u8]) -> Option<Read<Box<RequestHead>>> {
    let (line, mut fields) = Fields::of(bytes);
    let line = parse_request_line(line)?;
    let mut facts = Facts::default();
    let (mut host, mut user_agent, mut timeout) = (None, None, None);
    let mut contexts = context::Fields::default();
    while let Some((name, value)) = fields.next() {
        match name.len() {
            4 if is(name, b"Host", b"host") => {
                host = host.or_else(|| Some(text(value, fields.folded)));
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                facts.expects_continue |= value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
            }
            10 if is(name, b"User-Agent", b"user-agent") => {
                user_agent = user_agent.or_else(|| Some(text(value, fields.folded)));
            }
            12 if name.eq_ignore_ascii_case(b"grpc-timeout") => timeout = grpc::timeout(value.trim_ascii()),
            _ if contexts.take(name, value) => {}
            _ => facts.take(name, value),
        }
    }
    let head = RequestHead {
        protocol: Protocol::Http1,
        version: line.version,
        secure: false,
        method: Some(method(line.method)),
        target: Some(text(line.target, false)),
        host,
        user_agent,
        content_length: facts.content_length.valid(),
        grpc: facts.grpc.map(|_| GrpcCall { timeout }),
        context: contexts.read(),
    };
    Some(Read { head: Box::new(head), facts, end: fields.end(bytes) })
}

/// Reads a response's head, which the bytes begin with. `None`: the first line is no status line.
pub(super) fn parse_response(bytes: &[u8]) -> Option<Read<ResponseHead>> {
    let (line, mut fields) = Fields::of(bytes);
    let line = parse_status_line(line)?;
    let mut facts = Facts::default();
    while let Some((name, value)) = fields.next() {
        facts.take(name, value);
    }
    let content_length = facts.content_length.valid();
    let grpc = facts.grpc.is_some();
    let head = ResponseHead { version: line.version, status: Some(line.status), content_length, grpc };
    Some(Read { head, facts, end: fields.end(bytes) })
}

/// Whether a name is this one, given in the two ways it is mostly spelled.
fn is<const N: usize>(name: &[u8], capitals: &[u8; N], small: &[u8; N]) -> bool {
    name.first_chunk::<N>().is_some_and(|name| name == capitals || name == small)
        || name.eq_ignore_ascii_case(small)
}

/// Of any letters: methods are case-sensitive (RFC 9110 section 9.1).
pub(crate) fn method(token: &[u8]) -> SmolStr {
    match token {
        b"GET" => SmolStr::new_static("GET"),
        b"POST" => SmolStr::new_static("POST"),
        _ => text(token, false),
    }
}

impl Facts {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                self.h2c |= value.split(|&byte| byte == b',').any(|word| word.trim_ascii() == b"h2c");
            }
            11 if name.eq_ignore_ascii_case(b"grpc-status") => {
                self.grpc_status = self.grpc_status.or(grpc::status(value.trim_ascii()));
            }
            12 if is(name, b"Content-Type", b"content-type") => {
                self.grpc = self.grpc.or(Form::of(value.trim_ascii()).filter(|form| form.is_web()));
            }
            14 if is(name, b"Content-Length", b"content-length") => {
                self.content_length = self.content_length.with(value);
            }
            17 if is(name, b"Transfer-Encoding", b"transfer-encoding") => {
                self.transfer = self.transfer.with(value);
            }
            _ => {}
        }
    }
}

/// Text as sent, without the white space around it; bytes that are not UTF-8 appear as `\xNN`, and the line end of a
/// fold as the space it stands for. Without a fold there is no line end in it.
pub(crate) fn text(bytes: &[u8], folded: bool) -> SmolStr {
    let bytes = bytes.trim_ascii();
    match str::from_utf8(bytes) {
        Ok(text) if !folded => SmolStr::new(text),
        Ok(_) | Err(_) => {
            let mut text = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                text.extend(
                    chunk.valid().chars().filter(|&c| c != '\r').map(|c| if c == '\n' { ' ' } else { c }),
                );
                for byte in chunk.invalid() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            }
            SmolStr::from(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_end_is_found_once_however_the_bytes_come() {
        for (head, rest) in [
            ("GET / HTTP/1.1\r\n\r\n", "GET"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n"),
            ("GET / HTTP/1.1\nHost: a\n\n", "x"),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", ""),
        ] {
            let bytes = [head.as_bytes(), rest.as_bytes()].concat();
            for first in 0..=bytes.len() {
                let mut scanned = 0;
                let early = find_end(&bytes[..first], &mut scanned);
                let end = early.or_else(|| find_end(&bytes, &mut scanned));
                assert_eq!(end, Some(head.len()), "{head:?} after {first}");
            }
        }
    }

    #[test]
    fn reading_a_head_finds_its_end_where_looking_for_it_does() {
        let fields = [
            "",
            "\n",
            "\r\n",
            "Host: a\r\n\r\n",
            "a:b\n c\r\n d\n\nGET",
            "\r\r\n\n",
            "x\n \n\t\r\n\r\nx: y\n\n",
            " \n\n",
        ];
        for line in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1"] {
            for fields in fields {
                let bytes = format!("{line}{fields}");
                for len in 0..=bytes.len() {
                    let bytes = &bytes.as_bytes()[..len];
                    let Some(read) = parse_request(bytes) else { continue };
                    assert_eq!(read.end, find_end(bytes, &mut 0), "{:?}", bytes.escape_ascii().to_string());
                }
            }
        }
    }

    #[test]
    fn a_byte_is_found_at_any_distance() {
        for len in 0..100_usize {
            let mut bytes = vec![b'x'; len];
            assert_eq!(find(b':', &bytes), None);
            for at in (0..len).rev() {
                // One that differs in the lowest bit only, behind and before the right one.
                bytes[at] = b':';
                assert_eq!(find(b':', &bytes), Some(at));
                bytes[at] = if at % 2 == 0 { b';' } else { b'\xba' };
                assert_eq!(find(b':', &bytes), None);
            }
        }
    }

    fn check_line(line: &str, want: Option<(&str, &str, &str)>) {
        let got = parse_request_line(line.as_bytes());
        let want = want.map(|(method, target, version)| (method.as_bytes(), target.as_bytes(), version));
        assert_eq!(got.map(|line| (line.method, line.target, line.version)), want, "{line:?}");
    }

    #[test]
    fn request_lines() {
        check_line("GET / HTTP/1.1\r", Some(("GET", "/", "1.1")));
        check_line("GET / HTTP/1.0", Some(("GET", "/", "1.0")));
        check_line("OPTIONS * HTTP/1.1", Some(("OPTIONS", "*", "1.1")));
        check_line("CONNECT a:443 HTTP/1.1", Some(("CONNECT", "a:443", "1.1")));
        check_line("PROPFIND http://a/b?c HTTP/1.1", Some(("PROPFIND", "http://a/b?c", "1.1")));
        check_line("m-x!#$%&'*+.^_`|~9 /a HTTP/1.1", Some(("m-x!#$%&'*+.^_`|~9", "/a", "1.1")));
        check_line("GET  /a b  HTTP/1.1  ", Some(("GET", "/a b", "1.1")));
        check_line("GET / HTTP/1.2", Some(("GET", "/", "1.1")));
        for malformed in [
            "",
            "GET",
            "GET /",
            "GET / HTTP/2.0",
            "GET / http/1.1",
            " / HTTP/1.1",
            "GET HTTP/1.1",
            "G(T / HTTP/1.1",
        ] {
            check_line(malformed, None);
        }
    }

    #[test]
    fn status_lines() {
        let check = |line: &str, want: Option<u16>| {
            assert_eq!(parse_status_line(line.as_bytes()).map(|line| line.status), want, "{line:?}");
        };
        check("HTTP/1.1 200 OK\r", Some(200));
        check("HTTP/1.0 404", Some(404));
        check("HTTP/1.1 999 x", Some(999));
        check("HTTP/1.1  200  ", Some(200));
        check("HTTP/1.1 200", Some(200));
        check("HTTP/1.1 20", None);
        check("HTTP/1.1 2000", None);
        check("HTTP/1.1 012", None);
        check("HTTP/1.1200 OK", None);
        check("HTTP/2.0 200 OK", None);
        check("HTTP/1.1", None);
    }

    #[test]
    fn fields_in_all_their_spellings() {
        let head = b"GET / HTTP/1.1\r\nHOST:a\r\nX-A : \t b \r\nX-Fold: a\r\n\tb\r\n c\r\nno field\r\n: x\r\nX-E:\nY:1\r\n\r\n";
        let (_, mut fields) = Fields::of(head);
        let fields: Vec<_> = std::iter::from_fn(|| {
            let (name, value) = fields.next()?;
            Some((text(name, false), text(value, fields.folded)))
        })
        .collect();
        let want = [("HOST", "a"), ("X-A", "b"), ("X-Fold", "a \tb  c"), ("", "x"), ("X-E", ""), ("Y", "1")];
        assert_eq!(fields, want.map(|(n, v)| (n.into(), v.into())));
    }

    #[test]
    fn facts_of_framing() {
        let check = |fields: &str, want: Facts| {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(parse_request(head.as_bytes()).unwrap().facts, want, "{fields:?}");
        };
        let length = |content_length| Facts { content_length, ..Facts::default() };
        let transfer = |transfer| Facts { transfer, ..Facts::default() };
        check("", Facts::default());
        check("Content-Length: 5\r\n", length(ContentLength::Valid(5)));
        check("content-length:5\r\nCONTENT-LENGTH: 5 \r\n", length(ContentLength::Valid(5)));
        check("Content-Length: 5, 5\r\n", length(ContentLength::Valid(5)));
        check("Content-Length: 5\r\nContent-Length: 6\r\n", length(ContentLength::Invalid));
        for bad in ["+5", "-5", "0x5", "5 5", "", "5,", "18446744073709551616"] {
            check(&format!("Content-Length: {bad}\r\n"), length(ContentLength::Invalid));
        }
        check("Content-Length: 18446744073709551615\r\n", length(ContentLength::Valid(u64::MAX)));
        check("Transfer-Encoding: chunked\r\n", transfer(Transfer::Chunked));
        check("Transfer-Encoding: gzip, Chunked\r\n", transfer(Transfer::Chunked));
        check("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", transfer(Transfer::Chunked));
        check("Transfer-Encoding: chunked, gzip\r\n", transfer(Transfer::Other));
        check("Transfer-Encoding: identity\r\n", transfer(Transfer::Other));
        check("Transfer-Encoding: \r\n", transfer(Transfer::Absent));
        check("Upgrade: websocket\r\n", Facts { upgrade: true, ..Facts::default() });
        check("Upgrade: h2c, x\r\n", Facts { upgrade: true, h2c: true, ..Facts::default() });
        check("Expect: 100-Continue\r\n", Facts { expects_continue: true, ..Facts::default() });
    }

    #[test]
    fn what_is_kept_of_a_request() {
        let head =
            b"GET /\xff?q HTTP/1.1\r\nHost: a\r\nhost: b\r\nUser-Agent: x/1\r\n (y)\r\nCookie: secret\r\n\
            TRACEPARENT:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n\r\n";
        let Read { head, .. } = parse_request(head).unwrap();
        assert_eq!(head.target.as_deref(), Some("/\\xff?q"));
        assert_eq!(head.host.as_deref(), Some("a"));
        assert_eq!(head.user_agent.as_deref(), Some("x/1  (y)"));
        let context = head
            .context
            .unwrap()
            .choose(&context::Propagators::default(), &context::RequestIdKey::new([0; 32]))
            .unwrap();
        assert_eq!(context.remote().unwrap().trace_state.as_deref(), Some("a=1"));
    }
}
