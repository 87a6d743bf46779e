//! What an application answers: header lines, an empty one, a body (RFC 3875 section 6).

use crate::exchange::ResponseHead;

/// The response's head, of its header lines. `None` while the empty line is not there; with where the body begins.
pub(super) fn read(bytes: &[u8]) -> Option<(ResponseHead, usize)> {
    let mut head = ResponseHead { version: "1", ..ResponseHead::default() };
    let mut located = false;
    let mut at = 0;
    loop {
        let end = at + memchr::memchr(b'\n', bytes.get(at..)?)?;
        let line = bytes[at..end].trim_ascii_end();
        at = end + 1;
        if line.is_empty() {
            break;
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"status") {
            head.status = status(value);
        } else if name.eq_ignore_ascii_case(b"location") {
            located = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            head.content_length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
        }
    }
    if head.status.is_none() {
        // Sections 6.2 and 6.3.3: without a status it is 200, or a redirect.
        head.status = Some(if located { 302 } else { 200 });
    }
    Some((head, at))
}

/// Three digits, then a reason or nothing.
fn status(value: &[u8]) -> Option<u16> {
    let (digits, reason) = value.split_at_checked(3)?;
    let plain = digits.iter().all(u8::is_ascii_digit) && reason.first().is_none_or(u8::is_ascii_whitespace);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok().filter(|status| *status >= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (text, want, body) in [
            ("Status: 404 Not Found\r\nContent-type: text/html\r\n\r\nbody", 404, 4),
            ("Content-type: text/html\n\nbody!", 200, 5),
            ("Location: /elsewhere\r\n\r\n", 302, 0),
            ("status:503\n\n", 503, 0),
            ("Status: what\n\n", 200, 0),
            ("Status: 2000\n\n", 200, 0),
            ("no field\n\n", 200, 0),
            ("\r\n", 200, 0),
        ] {
            let (head, at) = read(text.as_bytes()).unwrap();
            assert_eq!((head.status, text.len() - at), (Some(want), body), "{text:?}");
        }
        let (head, _) = read(b"Content-Length: 17\r\n\r\n").unwrap();
        assert_eq!(head.content_length, Some(17));
        for cut in ["", "Status: 200", "Status: 200\r\n", "Status: 200\r\n\r"] {
            assert_eq!(read(cut.as_bytes()), None);
        }
    }
}
