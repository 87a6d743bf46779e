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
    let token =
        bytes.iter().take(head::MAX_METHOD_BYTES).take_while(|&&byte| head::is_token_byte(byte)).count();
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

/// Whether bytes at a place where a message may start begin with a start-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Line(StartLine),
    /// They may, once there are more of them.
    Partial,
    Other,
}

/// A start-line longer than this is not recognised where it could be something else.
pub const MAX_START_LINE_BYTES: usize = 8 * 1024;

/// Whether `bytes` begin with a well-formed start-line.
pub fn start(bytes: &[u8]) -> Start {
    let blank = bytes.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[blank..];
    // Most operations in a body are turned away by their first bytes.
    match opening(bytes) {
        Opening::Other => return Start::Other,
        Opening::Undecided | Opening::Request | Opening::Response => {}
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        let token = bytes.iter().take(head::MAX_METHOD_BYTES + 1).take_while(|&&byte| byte != b' ').count();
        return if token > head::MAX_METHOD_BYTES || bytes.len() > MAX_START_LINE_BYTES {
            Start::Other
        } else {
            Start::Partial
        };
    };
    let line = &bytes[..end];
    if let Some(status) = head::parse_status_line(line) {
        return Start::Line(StartLine::Status { interim: head::is_interim(status.status) });
    }
    match head::parse_request_line(line) {
        Some(_) => Start::Line(StartLine::Request),
        None => Start::Other,
    }
}

/// The methods that are in general use (RFC 9110 section 9, RFC 5789, RFC 4918), none of which ends another: where a
/// cut request line may be met, the rest of one is not taken for a method.
pub fn is_common_request(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] =
        [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PROPFIND"];
    METHODS.iter().any(|method| bytes.strip_prefix(*method).is_some_and(|rest| rest.starts_with(b" ")))
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
        let check = |bytes: &str, want| assert_eq!(start(bytes.as_bytes()), want, "{bytes:?}");
        let status = |interim| Start::Line(StartLine::Status { interim });
        let request = Start::Line(StartLine::Request);
        check("GET / HTTP/1.1\r\n", request);
        check("GET / HTTP/1.1\nHost", request);
        check("\r\nGET / HTTP/1.0\r\n", request);
        check("OPTIONS * HTTP/1.1\r\n", request);
        check("HTTP/1.1 200 OK\r\n", status(false));
        check("HTTP/1.1 204\r\n", status(false));
        check("HTTP/1.1 100 Continue\r\n", status(true));
        check("HTTP/1.1 101 Switching Protocols\r\n", status(false));
        check("GET / HTTP/1.1", Start::Partial);
        check("G", Start::Partial);
        check("HTTP/1.1 200", Start::Partial);
        check("", Start::Partial);
        check("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", Start::Other);
        check("GET / HTTP/2.0\r\n", Start::Other);
        check("GET /\r\n", Start::Other);
        check("HTTP/1.1 2000 OK\r\n", Start::Other);
        check("EHLO example.org\r\n", Start::Other);
        check("<html>", Start::Other);
    }

    #[test]
    fn the_rest_of_a_method_is_no_common_one() {
        for method in
            ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PROPFIND", "PROPPATCH"]
        {
            let line = format!("{method} / HTTP/1.1\r\n");
            assert_eq!(is_common_request(line.as_bytes()), method != "PROPPATCH");
            for cut in 1..=method.len() {
                assert!(!is_common_request(&line.as_bytes()[cut..]), "{line:?} from {cut}");
            }
        }
    }
}
