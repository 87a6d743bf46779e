//! Header blocks become heads: the fields that spans need, nothing else of them.
//!
//! A field that is not known is absent. What a head is follows from its pseudo-header fields (RFC 9113 section 8.3),
//! as far as they are known; what cannot be told is left to who knows the stream.

use smol_str::SmolStr;

use super::hpack::{BlockEnd, Field};
use crate::context::{self, Carried};
use crate::exchange::GrpcCall;
use crate::protocol::grpc::{self, Form};
use crate::protocol::http1::head::text;

/// What is kept of one header block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub method: Option<SmolStr>,
    pub scheme: Option<SmolStr>,
    pub authority: Option<SmolStr>,
    pub path: Option<SmolStr>,
    /// Of an extended CONNECT (RFC 8441).
    pub protocol: Option<SmolStr>,
    pub status: Option<u16>,
    pub host: Option<SmolStr>,
    pub user_agent: Option<SmolStr>,
    pub content_type: Option<SmolStr>,
    pub content_length: Option<u64>,
    pub grpc_status: Option<u32>,
    pub grpc_timeout: Option<SmolStr>,
    /// What its fields say about where it comes from. Fields that are not known may say otherwise.
    pub context: Option<Box<Carried>>,
    /// Has a pseudo-header field of a request, or one of a response.
    asks: bool,
    answers: bool,
    /// Fields that refer to entries that were not seen.
    pub unknown: u32,
    /// Fields that were learned from blocks since a loss.
    pub learned: u32,
    /// How the block ended: whether the fields are all of them.
    pub end: BlockEnd,
}

/// What a header block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    /// 1xx: the response is still to come.
    Interim,
    Response,
    Trailers,
    /// Its pseudo-header fields, if it has any, are not known.
    Unclear,
}

impl Head {
    pub fn kind(&self) -> Kind {
        match (self.asks, self.status) {
            (true, _) => Kind::Request,
            (false, Some(100..=199)) => Kind::Interim,
            (false, Some(_)) => Kind::Response,
            (false, None) if self.answers || !self.is_whole() => Kind::Unclear,
            (false, None) => Kind::Trailers,
        }
    }

    /// How messages are in its body, if it belongs to a gRPC call, as its content type says.
    pub fn grpc(&self) -> Option<Form> {
        Form::of(self.content_type.as_deref()?.as_bytes())
    }

    /// What a call's head says of it.
    pub fn grpc_call(&self) -> GrpcCall {
        GrpcCall { timeout: self.grpc_timeout.as_deref().and_then(|value| grpc::timeout(value.as_bytes())) }
    }

    /// No field is missing that would matter.
    pub fn is_whole(&self) -> bool {
        self.unknown == 0 && !self.end.torn && !self.end.cut && self.end.broken.is_none()
    }
}

/// Whether a field of this name is kept.
pub(super) fn matters(name: &[u8]) -> bool {
    matches!(
        name,
        b":method"
            | b":scheme"
            | b":authority"
            | b":path"
            | b":protocol"
            | b":status"
            | b"host"
            | b"user-agent"
            | b"content-type"
            | b"content-length"
            | b"grpc-status"
            | b"grpc-timeout"
    ) || context::Fields::matters(name)
}

/// Trace context fields that are kept of a block: one more than are believed.
const MAX_CARRIED: usize = context::Fields::MAX + 1;

/// Gathers the fields of one block.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    head: Head,
    /// Names and values of fields that carry trace context, each behind the other.
    carried: Vec<u8>,
    /// How long they are.
    lens: Vec<(usize, usize)>,
}

impl Gathered {
    pub(super) fn held_bytes(&self) -> usize {
        let head = &self.head;
        let texts = [
            &head.method,
            &head.scheme,
            &head.authority,
            &head.path,
            &head.protocol,
            &head.host,
            &head.user_agent,
            &head.content_type,
            &head.grpc_timeout,
        ];
        self.carried.len() + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
    }

    pub(super) fn take(&mut self, field: Field<'_>) {
        let (name, value, learned) = match field {
            Field::Known { name, value, learned } => (name, Some(value), learned),
            Field::Named { name } => (name, None, false),
            Field::Unknown => {
                self.head.unknown = self.head.unknown.saturating_add(1);
                return;
            }
        };
        let head = &mut self.head;
        head.learned = head.learned.saturating_add(u32::from(learned));
        let place = match name {
            b":method" => &mut head.method,
            b":scheme" => &mut head.scheme,
            b":authority" => &mut head.authority,
            b":path" => &mut head.path,
            b":protocol" => &mut head.protocol,
            b"host" => &mut head.host,
            b"user-agent" => &mut head.user_agent,
            b"content-type" => &mut head.content_type,
            b"grpc-timeout" => &mut head.grpc_timeout,
            b":status" => {
                head.answers = true;
                head.status = head.status.or_else(|| value.and_then(status));
                return;
            }
            b"content-length" => {
                head.content_length = head.content_length.or_else(|| value.and_then(decimal));
                return;
            }
            b"grpc-status" => {
                head.grpc_status = head.grpc_status.or_else(|| value.and_then(grpc::status));
                return;
            }
            _ => {
                if let Some(value) = value
                    && self.lens.len() < MAX_CARRIED
                {
                    self.lens.push((name.len(), value.len()));
                    self.carried.extend_from_slice(name);
                    self.carried.extend_from_slice(value);
                }
                return;
            }
        };
        if place.is_none() {
            *place = value.map(|value| text(value, false));
        }
        head.asks |= matches!(name, b":method" | b":scheme" | b":authority" | b":path" | b":protocol");
    }

    /// The block has ended.
    pub(super) fn finish(&mut self, end: BlockEnd) -> Box<Head> {
        let mut head = std::mem::take(&mut self.head);
        let mut fields = context::Fields::default();
        let mut rest = self.carried.as_slice();
        for &(name, value) in &self.lens {
            let (name, behind) = rest.split_at(name);
            let (value, behind) = behind.split_at(value);
            fields.take(name, value);
            rest = behind;
        }
        head.context = fields.read();
        head.end = end;
        self.carried = Vec::new();
        self.lens = Vec::new();
        Box::new(head)
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// RFC 9113 section 8.3.2: three digits.
fn status(value: &[u8]) -> Option<u16> {
    let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return None };
    let digit = |byte: u8| u16::from(byte - b'0');
    Some(digit(a) * 100 + digit(b) * 10 + digit(c))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}
