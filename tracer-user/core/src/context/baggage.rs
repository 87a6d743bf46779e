//! W3C Baggage (<https://www.w3.org/TR/baggage/>, section 3): what applications send along for themselves.
//!
//! Only entries whose key is asked for by name are kept: baggage holds what nobody reckoned would be stored. It says
//! nothing about parents. Properties behind a value are dropped.

use super::digits::hex_digit;
use super::fields::{Fields, Header, trim};

/// Section 3.3.2, "Limits": what everyone has to pass on. What is beyond is not looked at.
const MAX_BYTES: usize = 8192;
const MAX_MEMBERS: usize = 64;

/// Keys that may be asked for: each is an attribute of many spans.
pub(super) const MAX_KEYS: usize = 64;
/// Bounds the attribute's name.
const MAX_KEY_BYTES: usize = 128;

/// An entry that is kept, if a request brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    name: String,
    /// `baggage.<key>`
    attribute: &'static str,
}

impl Key {
    /// `None` if no baggage has such a key.
    pub(super) fn new(name: &str) -> Option<Self> {
        let is_key = (1..=MAX_KEY_BYTES).contains(&name.len()) && name.bytes().all(is_token);
        // Configuration, made once and used until the end: leaked, it can be a key like all the others.
        is_key.then(|| Self { name: name.to_owned(), attribute: format!("baggage.{name}").leak() })
    }
}

/// The header's values in order, joined by commas (RFC 9110 section 5.3), cut behind the last whole member that is
/// within the limit.
pub(super) fn extract(fields: &Fields<'_>) -> Vec<u8> {
    let mut joined = Vec::new();
    for value in fields.all(Header::Baggage) {
        for member in value.split(|&byte| byte == b',') {
            if joined.len() + member.len() >= MAX_BYTES {
                return joined;
            }
            joined.extend_from_slice(member);
            joined.push(b',');
        }
    }
    joined
}

/// Attributes of the entries that were asked for, in the order of their keys. Of a key that is there twice, the last
/// one counts, as in SDKs.
pub(super) fn choose(raw: &[u8], keys: &[Key]) -> Vec<(&'static str, String)> {
    let mut found: Vec<Option<String>> = vec![None; keys.len()];
    let members = raw.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty());
    for member in members.take(MAX_MEMBERS) {
        let entry = member.split(|&byte| byte == b';').next().unwrap_or_default();
        let Some(equals) = entry.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (trim(&entry[..equals]), trim(&entry[equals + 1..]));
        let Some(at) = keys.iter().position(|key| key.name.as_bytes() == name) else { continue };
        if value.iter().copied().all(is_value) {
            found[at] = Some(percent_decoded(value));
        }
    }
    keys.iter().zip(found).filter_map(|(key, value)| Some((key.attribute, value?))).collect()
}

/// RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Section 3.3.1.3: printable ASCII without space, quotation mark, comma, semicolon and backslash.
const fn is_value(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

/// What is not UTF-8 behind the encoding becomes the replacement character (section 3.3.1.3); a percent sign that
/// encodes nothing stands for itself.
fn percent_decoded(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, after @ ..] = rest {
        let encoded = match (*first, after) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::carried;
    use super::*;

    fn check(values: &[&str], want: &[(&str, &str)]) {
        let keys = ["tenant", "user_id"].map(|name| Key::new(name).unwrap());
        let headers: Vec<_> = values.iter().map(|value| ("Baggage", *value)).collect();
        let got = choose(&carried(&headers).baggage, &keys);
        let got: Vec<_> = got.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(got, want, "{values:?}");
    }

    #[test]
    fn only_what_is_asked_for() {
        check(&[], &[]);
        check(&["secret=1"], &[]);
        check(&["Tenant=1"], &[]);
        check(&["a=b,tenant=acme"], &[("baggage.tenant", "acme")]);
        check(&["user_id=7", "tenant=acme"], &[("baggage.tenant", "acme"), ("baggage.user_id", "7")]);
        check(&[" tenant \t= acme ; ttl=5;x , "], &[("baggage.tenant", "acme")]);
        check(&["tenant=a,tenant=b"], &[("baggage.tenant", "b")]);
        check(&["tenant="], &[("baggage.tenant", "")]);
        check(&["tenant=a=b"], &[("baggage.tenant", "a=b")]);
    }

    #[test]
    fn values_are_decoded() {
        check(&["tenant=a%20b%2Cc%3b%25"], &[("baggage.tenant", "a b,c;%")]);
        check(&["tenant=K%C3%A4se"], &[("baggage.tenant", "Käse")]);
        check(&["tenant=%ff%C3x"], &[("baggage.tenant", "\u{fffd}\u{fffd}x")]);
        check(&["tenant=100%,user_id=%1,a=b"], &[("baggage.tenant", "100%"), ("baggage.user_id", "%1")]);
        for malformed in
            ["tenant", "tenant=a b", "tenant=\"a\"", "tenant=a\\b", "tenant=\u{e9}", "=x", ",,,", ";tenant=a"]
        {
            check(&[malformed], &[]);
        }
    }

    #[test]
    fn limits() {
        let many = |before: usize| format!("{}tenant=x", "a=1,".repeat(before));
        check(&[&many(MAX_MEMBERS - 1)], &[("baggage.tenant", "x")]);
        check(&[&many(MAX_MEMBERS)], &[]);
        let long = |before: usize| format!("a={},tenant=x", "1".repeat(before));
        let fits = MAX_BYTES - "a=,tenant=x,".len();
        check(&[&long(fits)], &[("baggage.tenant", "x")]);
        check(&[&long(fits + 1)], &[]);
        assert_eq!(Key::new(""), None);
        assert_eq!(Key::new("a b"), None);
        assert_eq!(Key::new("a,b"), None);
        assert_eq!(Key::new(&"a".repeat(MAX_KEY_BYTES + 1)), None);
    }
}
