//! What do the first bytes of a stream, or of an operation, look like?
//!
//! Stricter than the kernel half's classifier in what it lets pass, laxer in methods (any token): it decides what is
//! parsed at all, and where a direction whose place was lost may be entered again.

use super::http1::head;

/// What the first bytes of a direction can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Too few bytes to tell.
    Undecided,
    /// An HTTP/1 request may start here.
    Request,
    /// An HTTP/1 response starts here.
    Response,
    /// Neither.
    Other,
}

/// How many bytes [`opening`] looks at.
pub const OPENING_BYTES: usize = 16;

/// Methods are short: IANA's longest is 16 characters long (`UPDATEREDIRECTREF` has 17).
const LONGEST_METHOD: usize = 32;

const STATUS_LINE: &[u8] = b"HTTP/1.";

/// Classifies the start of a direction.
pub fn opening(bytes: &[u8]) -> Opening {
    // RFC 9112 section 2.2: empty lines before a request line are to be ignored.
    let blank = bytes.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[blank..];
    let common = bytes.iter().zip(STATUS_LINE).take_while(|(a, b)| a == b).count();
    if common == STATUS_LINE.len() {
        return Opening::Response;
    }
    if common == bytes.len() {
        return Opening::Undecided;
    }
    let token = bytes.iter().take(LONGEST_METHOD).take_while(|&&byte| head::is_token_byte(byte)).count();
    match bytes.get(token) {
        None => Opening::Request,
        Some(b' ') if token > 0 => Opening::Request,
        Some(_) => Opening::Other,
    }
}

/// A line that can start a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine {
    Request,
    /// `interim`: a status of 1xx other than 101.
    Status {
        interim: bool,
    },
}

/// Whether `bytes` begin with a complete and well-formed start-line.
pub fn start_line(bytes: &[u8]) -> Option<StartLine> {
    let blank = bytes.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[blank..];
    // Most operations in a body are turned away by their first byte.
    if !head::is_token_byte(*bytes.first()?) {
        return None;
    }
    let line = &bytes[..memchr::memchr(b'\n', bytes)?];
    if let Some(status) = head::parse_status_line(line) {
        return Some(StartLine::Status { interim: head::is_interim(status.status) });
    }
    head::parse_request_line(line).map(|_| StartLine::Request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings() {
        let check = |bytes: &str, want| assert_eq!(opening(bytes.as_bytes()), want, "{bytes:?}");
        check("", Opening::Undecided);
        check("\r\n", Opening::Undecided);
        check("H", Opening::Undecided);
        check("HTTP/1", Opening::Undecided);
        check("HTTP/1.1 200", Opening::Response);
        check("HTTP/2", Opening::Other);
        check("HEAD /", Opening::Request);
        check("HE", Opening::Request);
        check("G", Opening::Request);
        check("GET / HTTP", Opening::Request);
        check("\r\n\nGET / HTTP", Opening::Request);
        check("patch /", Opening::Request);
        check("M-SEARCH * ", Opening::Request);
        check(" GET", Opening::Other);
        check("{\"a\":", Opening::Other);
        check("\u{16}\u{3}\u{1}", Opening::Other);
        check("*1\r\n", Opening::Other);
        check("+OK\r\n", Opening::Other);
    }

    #[test]
    fn start_lines() {
        let check = |bytes: &str, want| assert_eq!(start_line(bytes.as_bytes()), want, "{bytes:?}");
        check("GET / HTTP/1.1\r\n", Some(StartLine::Request));
        check("GET / HTTP/1.1\nHost", Some(StartLine::Request));
        check("\r\nGET / HTTP/1.0\r\n", Some(StartLine::Request));
        check("OPTIONS * HTTP/1.1\r\n", Some(StartLine::Request));
        check("HTTP/1.1 200 OK\r\n", Some(StartLine::Status { interim: false }));
        check("HTTP/1.1 204\r\n", Some(StartLine::Status { interim: false }));
        check("HTTP/1.1 100 Continue\r\n", Some(StartLine::Status { interim: true }));
        check("HTTP/1.1 101 Switching Protocols\r\n", Some(StartLine::Status { interim: false }));
        check("GET / HTTP/1.1", None);
        check("GET / HTTP/2.0\r\n", None);
        check("GET /\r\n", None);
        check("HTTP/1.1 2000 OK\r\n", None);
        check("EHLO example.org\r\n", None);
        check("", None);
    }
}
