//! What a server tells of a request: name-value pairs, as CGI names them (RFC 3875; FastCGI specification, section 3.4).
//!
//! Only what spans need is taken. Header fields come as `HTTP_` and their name in capitals.

use smol_str::SmolStr;

use super::super::http1::head::{method, text};
use crate::context;
use crate::exchange::{Protocol, RequestHead};

/// Names of header fields that matter are shorter.
const MAX_FIELD_NAME: usize = 40;

/// The next pair, and what follows it. `None` at the end, and where what is left is no pair.
fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = len(bytes)?;
    let (value, rest) = len(rest)?;
    let (name, rest) = rest.split_at_checked(name)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((name, value, rest))
}

/// One byte, or four of which the first bit is set.
fn len(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [short @ 0..=0x7f, rest @ ..] => Some((usize::from(*short), rest)),
        [a, b, c, d, rest @ ..] => {
            Some((u32::from_be_bytes([a & 0x7f, *b, *c, *d]).try_into().unwrap_or(usize::MAX), rest))
        }
        _ => None,
    }
}

/// The request that pairs describe, as far as they are there. False: they are not all well-formed.
pub(super) fn read(bytes: &[u8]) -> (Box<RequestHead>, bool) {
    let mut head =
        Box::new(RequestHead { version: "1", protocol: Protocol::FastCgi, ..RequestHead::default() });
    let mut contexts = context::Fields::default();
    let mut script = Script::default();
    let mut rest = bytes;
    while let Some((name, value, behind)) = pair(rest) {
        rest = behind;
        match name {
            b"REQUEST_METHOD" => head.method = Some(method(value)).filter(|method| !method.is_empty()),
            b"REQUEST_URI" => head.target = Some(text(value, false)).filter(|target| !target.is_empty()),
            b"HTTP_HOST" => head.host = Some(text(value, false)),
            b"HTTP_USER_AGENT" => head.user_agent = Some(text(value, false)),
            b"CONTENT_LENGTH" => head.content_length = decimal(value),
            b"HTTPS" => head.secure = !value.is_empty() && !value.eq_ignore_ascii_case(b"off"),
            b"SERVER_NAME" => script.server = value,
            b"SCRIPT_NAME" => script.name = value,
            b"PATH_INFO" => script.path_info = value,
            b"QUERY_STRING" => script.query = value,
            _ => {
                if let Some(field) = name.strip_prefix(b"HTTP_") {
                    take_field(field, value, &mut contexts);
                }
            }
        }
    }
    if head.target.is_none() {
        head.target = Some(script.target()).filter(|target| !target.is_empty());
    }
    if head.host.is_none() && !script.server.is_empty() {
        head.host = Some(text(script.server, false));
    }
    head.context = contexts.read();
    (head, rest.is_empty())
}

/// What the target is made of where a server does not tell it.
#[derive(Default)]
struct Script<'a> {
    server: &'a [u8],
    name: &'a [u8],
    path_info: &'a [u8],
    query: &'a [u8],
}

impl Script<'_> {
    fn target(&self) -> SmolStr {
        let mut target = [self.name, self.path_info].concat();
        if !self.query.is_empty() {
            target.push(b'?');
            target.extend_from_slice(self.query);
        }
        text(&target, false)
    }
}

fn take_field<'v>(field: &[u8], value: &'v [u8], contexts: &mut context::Fields<'v>) {
    let mut name = [0; MAX_FIELD_NAME];
    let Some(name) = name.get_mut(..field.len()) else { return };
    for (to, from) in name.iter_mut().zip(field) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    contexts.take(name, value);
}

fn decimal(digits: &[u8]) -> Option<u64> {
    // Empty where the request has no body.
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn encode(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let put_len = |len: usize, out: &mut Vec<u8>| match u8::try_from(len) {
            Ok(short @ 0..0x80) => out.push(short),
            _ => out.extend_from_slice(&(len as u32 | 0x8000_0000).to_be_bytes()),
        };
        for (name, value) in pairs {
            put_len(name.len(), &mut out);
            put_len(value.len(), &mut out);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        out
    }

    #[test]
    fn what_spans_need_is_taken() {
        let long = "x".repeat(200);
        let (head, whole) = read(&encode(&[
            ("SCRIPT_FILENAME", "/srv/index.php"),
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/cart/42?tea=1"),
            ("CONTENT_LENGTH", "12"),
            ("HTTPS", "on"),
            ("HTTP_HOST", "shop.example"),
            ("HTTP_COOKIE", &long),
            ("HTTP_TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("HTTP_X_REQUEST_ID", "7f9c24e8-3b12-4fef-91e0-3c5d2a1b6f07"),
        ]));
        assert!(whole && head.secure);
        assert_eq!((head.method.as_deref(), head.target.as_deref()), (Some("POST"), Some("/cart/42?tea=1")));
        assert_eq!((head.host.as_deref(), head.content_length), (Some("shop.example"), Some(12)));
        assert_eq!((head.protocol, head.user_agent.as_deref()), (Protocol::FastCgi, None));
        let told = format!("{:?}", head.context);
        assert!(told.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{told}");
        assert!(!format!("{head:?}").contains(&long), "no other value is kept");
    }

    #[test]
    fn a_target_is_made_of_its_parts_where_it_is_not_told() {
        let parts = [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", "/a.cgi"),
            ("PATH_INFO", "/b"),
            ("QUERY_STRING", "c=d"),
            ("SERVER_NAME", "shop"),
            ("CONTENT_LENGTH", ""),
            ("HTTPS", "off"),
        ];
        let (head, _) = read(&encode(&parts));
        assert_eq!((head.target.as_deref(), head.host.as_deref()), (Some("/a.cgi/b?c=d"), Some("shop")));
        assert_eq!((head.content_length, head.secure), (None, false));
    }

    #[test]
    fn what_is_cut_is_read_as_far_as_it_goes() {
        let whole = encode(&[("REQUEST_METHOD", "GET"), ("REQUEST_URI", &"/".repeat(300))]);
        for cut in 0..whole.len() {
            let (head, well_formed) = read(&whole[..cut]);
            assert_eq!(well_formed, cut == 0 || cut == encode(&[("REQUEST_METHOD", "GET")]).len());
            assert_eq!(head.target, None);
        }
        assert_eq!(read(&[0xff; 4]).0.method, None);
        assert!(!read(&[0xff; 64]).1);
    }
}
