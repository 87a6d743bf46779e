//! Request targets and authorities (RFC 9112 section 3.2, RFC 3986 section 3), as far as attributes need them.
//!
//! Total: what does not parse stays as it is. Userinfo is removed, query values are redacted.

/// A request target in its four forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Origin {
        path: &'a str,
        query: Option<&'a str>,
    },
    Absolute {
        scheme: &'a str,
        authority: Authority<'a>,
        path: &'a str,
        query: Option<&'a str>,
    },
    /// CONNECT.
    Authority(Authority<'a>),
    /// `OPTIONS *`.
    Asterisk,
    /// It was not seen.
    Unknown,
}

/// Host and port, without userinfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// Without the brackets of an IPv6 literal.
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
    /// As sent, but for the userinfo.
    pub(super) text: &'a str,
}

impl<'a> Target<'a> {
    pub(super) fn parse(method: &str, target: Option<&'a str>) -> Self {
        let Some(target) = target else { return Self::Unknown };
        // One of RFC 8441 has a path.
        if method == "CONNECT" && !target.starts_with('/') {
            return Self::Authority(Authority::parse(target));
        }
        if target == "*" {
            return Self::Asterisk;
        }
        if !target.starts_with('/')
            && let Some((scheme, rest)) = target.split_once("://")
            && is_scheme(scheme)
        {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            let (path, query) = split_query(rest);
            let path = if path.is_empty() { "/" } else { path };
            return Self::Absolute { scheme, authority: Authority::parse(authority), path, query };
        }
        let (path, query) = split_query(target);
        Self::Origin { path, query }
    }
}

impl<'a> Authority<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        Self { host, port: port.and_then(|port| port.parse().ok()), text }
    }
}

/// Every value replaced: `a=1&b` becomes `a=REDACTED&REDACTED`. What stands without a name is a value.
pub(super) fn redact(query: &str) -> String {
    const REDACTED: &str = "REDACTED";
    // Enough where there are one or two values.
    let mut redacted = String::with_capacity(query.len() + 2 * REDACTED.len());
    let mut rest = query;
    loop {
        let (pair, more) = match memchr::memchr(b'&', rest.as_bytes()) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if let Some(at) = memchr::memchr(b'=', pair.as_bytes()) {
            redacted.push_str(&pair[..=at]);
        }
        if !pair.is_empty() {
            redacted.push_str(REDACTED);
        }
        let Some(more) = more else { return redacted };
        redacted.push('&');
        rest = more;
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    // A fragment is not sent by conforming clients; it is no part of path or query.
    let (path, rest) = match memchr::memchr2(b'?', b'#', text.as_bytes()) {
        Some(at) if text.as_bytes()[at] == b'?' => (&text[..at], &text[at + 1..]),
        Some(at) => return (&text[..at], None),
        None => return (text, None),
    };
    (path, Some(memchr::memchr(b'#', rest.as_bytes()).map_or(rest, |at| &rest[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_four_forms() {
        let authority = |host, port, text| Authority { host, port, text };
        for (method, target, want) in [
            ("GET", "/a/b?c=d&e", Target::Origin { path: "/a/b", query: Some("c=d&e") }),
            ("GET", "/", Target::Origin { path: "/", query: None }),
            ("GET", "/a://b?", Target::Origin { path: "/a://b", query: Some("") }),
            ("GET", "/r?to=http://x/", Target::Origin { path: "/r", query: Some("to=http://x/") }),
            ("GET", "r?to=http://x/", Target::Origin { path: "r", query: Some("to=http://x/") }),
            ("OPTIONS", "*", Target::Asterisk),
            ("CONNECT", "db:5432", Target::Authority(authority("db", Some(5432), "db:5432"))),
            (
                "GET",
                "http://u:p@[::1]:81/x?y#z",
                Target::Absolute {
                    scheme: "http",
                    authority: authority("::1", Some(81), "[::1]:81"),
                    path: "/x",
                    query: Some("y"),
                },
            ),
            (
                "GET",
                "https://shop?q",
                Target::Absolute {
                    scheme: "https",
                    authority: authority("shop", None, "shop"),
                    path: "/",
                    query: Some("q"),
                },
            ),
        ] {
            assert_eq!(Target::parse(method, Some(target)), want, "{target}");
        }
    }

    #[test]
    fn authorities_lose_their_userinfo() {
        for (text, host, port) in [
            ("shop", "shop", None),
            ("shop:8080", "shop", Some(8080)),
            ("a:b@shop:1", "shop", Some(1)),
            ("a@b@shop", "shop", None),
            ("[::1]", "::1", None),
            ("[::1]:2", "::1", Some(2)),
            ("shop:99999", "shop", None),
            ("", "", None),
        ] {
            let parsed = Authority::parse(text);
            assert_eq!((parsed.host, parsed.port), (host, port), "{text}");
        }
    }

    #[test]
    fn query_values_are_redacted() {
        for (query, want) in [
            ("", ""),
            ("a=1", "a=REDACTED"),
            ("a=1&b=&c==2", "a=REDACTED&b=REDACTED&c=REDACTED"),
            ("token", "REDACTED"),
            ("a=1&&b", "a=REDACTED&&REDACTED"),
        ] {
            assert_eq!(redact(query), want);
        }
    }
}
