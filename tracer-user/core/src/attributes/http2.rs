//! What an HTTP/2 stream's end says.

use crate::exchange::Outcome;

/// The server goes away and has not worked on it.
const DROPPED: &str = "goaway";

/// Value of `error.type` where a stream did not end with its response: the error's name in lower case (RFC 9113 section
/// 7). Other codes are one, so that they cannot be many.
pub(super) const fn error(outcome: Outcome) -> Option<&'static str> {
    let code = match outcome {
        Outcome::Reset(code) => code,
        Outcome::Dropped => return Some(DROPPED),
        Outcome::Complete
        | Outcome::Upgraded
        | Outcome::NoResponse
        | Outcome::ResponseCut
        | Outcome::Lost
        | Outcome::StillOpen => return None,
    };
    Some(match code {
        Some(0) => "no_error",
        Some(1) => "protocol_error",
        Some(2) => "internal_error",
        Some(3) => "flow_control_error",
        Some(4) => "settings_timeout",
        Some(5) => "stream_closed",
        Some(6) => "frame_size_error",
        Some(7) => "refused_stream",
        Some(8) => "cancel",
        Some(9) => "compression_error",
        Some(10) => "connect_error",
        Some(11) => "enhance_your_calm",
        Some(12) => "inadequate_security",
        Some(13) => "http_1_1_required",
        Some(_) => "unknown_error_code",
        None => "stream_reset",
    })
}
