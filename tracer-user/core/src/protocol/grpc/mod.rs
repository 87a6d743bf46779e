//! gRPC, as far as it is the same in every version of HTTP: how a call is recognised, what its head and its body say.
//!
//! Messages are never looked at, nor kept: only their lengths, and of grpc-web the status behind them.

mod base64;
mod body;

use std::time::Duration;

pub use self::body::{Body, BodyEnd};

/// How messages are put into a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each behind its length; the status is in HTTP's trailers (gRPC over HTTP2).
    Plain,
    /// The same, and behind the last one the trailers, as if they were one (gRPC-Web).
    Web,
    /// As [`Form::Web`], in Base64, which may be padded in the middle.
    WebText,
}

impl Form {
    /// Of a body with this content type; `None`: it is no call's. Media types are the same in any letters (RFC 9110 section
    /// 8.3.1).
    pub fn of(content_type: &[u8]) -> Option<Self> {
        const WEB: &[u8] = b"-web";
        const TEXT: &[u8] = b"-text";
        let mut rest = behind(content_type, b"application/grpc")?;
        let mut form = Self::Plain;
        if let Some(web) = behind(rest, WEB) {
            (form, rest) = (Self::Web, web);
            if let Some(text) = behind(rest, TEXT) {
                (form, rest) = (Self::WebText, text);
            }
        }
        matches!(rest.first(), None | Some(b'+' | b';' | b' ')).then_some(form)
    }

    /// It needs no trailers of HTTP's, so that it goes over HTTP/1 too.
    pub const fn is_web(self) -> bool {
        match self {
            Self::Web | Self::WebText => true,
            Self::Plain => false,
        }
    }
}

fn behind<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    let (first, rest) = text.split_at_checked(start.len())?;
    first.eq_ignore_ascii_case(start).then_some(rest)
}

/// Value of `grpc-timeout`: at most eight digits, and a unit (gRPC over HTTP2, `Timeout`).
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let number = decimal(digits).filter(|_| digits.len() <= 8)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Value of `grpc-status`.
pub fn status(value: &[u8]) -> Option<u32> {
    u32::try_from(decimal(value)?).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (content_type, form) in [
            ("application/grpc", Some(Form::Plain)),
            ("application/grpc+proto", Some(Form::Plain)),
            ("Application/gRPC; charset=x", Some(Form::Plain)),
            ("application/grpc-web", Some(Form::Web)),
            ("application/grpc-web+proto", Some(Form::Web)),
            ("application/grpc-web+json; a=b", Some(Form::Web)),
            ("application/grpc-web-text", Some(Form::WebText)),
            ("application/grpc-web-text+proto", Some(Form::WebText)),
            ("application/grpc-websocket", None),
            ("application/grpc-web-texts", None),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(Form::of(content_type.as_bytes()), form, "{content_type}");
        }
    }

    #[test]
    fn timeouts() {
        assert_eq!(timeout(b"5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "5", "5x", "123456789S", "-1S"] {
            assert_eq!(timeout(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
