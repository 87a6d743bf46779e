//! What a FastCGI application says at the end of a request.

use super::keys;
use crate::span::{Attributes, Value};

/// FastCGI specification 1.0, section 5.5. `None`: the request was completed.
const fn refusal(protocol_status: u8) -> Option<(&'static str, &'static str)> {
    match protocol_status {
        0 => None,
        1 => Some(("cant_multiplex", "fastcgi_cant_multiplex")),
        2 => Some(("overloaded", "fastcgi_overloaded")),
        3 => Some(("unknown_role", "fastcgi_unknown_role")),
        _ => Some(("unknown", "fastcgi_unknown_status")),
    }
}

pub(super) fn ended(app_status: u32, protocol_status: u8, out: &mut Attributes) {
    out.push((keys::FASTCGI_APP_STATUS, Value::Int(i64::from(app_status))));
    if let Some((status, _)) = refusal(protocol_status) {
        out.push((keys::FASTCGI_PROTOCOL_STATUS, Value::word(status)));
    }
}

/// Value of `error.type`.
pub(super) const fn error(protocol_status: u8, responded: bool) -> Option<&'static str> {
    match (refusal(protocol_status), responded) {
        (Some((_, error)), _) => Some(error),
        (None, false) => Some("no_response"),
        (None, true) => None,
    }
}
