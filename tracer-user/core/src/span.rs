//! Spans as plain values, before any exporter's types.

mod attributes;

use std::borrow::Cow;
use std::sync::Arc;

use smol_str::SmolStr;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

pub use self::attributes::{Attribute, Attributes, Common, Parts};

/// 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($name:ident, $len:literal) => {
        impl $name {
            /// `None` when all bytes are zero: such an id is invalid everywhere.
            pub fn new(bytes: [u8; $len]) -> Option<Self> {
                (bytes != [0; $len]).then_some(Self(bytes))
            }

            pub const fn to_bytes(self) -> [u8; $len] {
                self.0
            }
        }

        /// Lower-case hexadecimal.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}
id!(TraceId, 16);
id!(SpanId, 8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    Server,
    Client,
}

/// A finished span. Times are kernel time; the exporter maps them to wall-clock time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: Option<Parent>,
    /// Why there is no parent, when one was looked for. `None` beside a parent.
    pub undecided: Option<&'static str>,
    pub trace_state: Option<String>,
    pub sampled: bool,
    pub kind: SpanKind,
    pub name: Cow<'static, str>,
    pub start: KernelInstant,
    pub end: KernelInstant,
    pub attributes: Attributes,
    pub links: Vec<Link>,
    pub status: Status,
    /// Whose span it is.
    pub process: ProcessKey,
    pub resource: Arc<Resource>,
}

/// A claim about causality and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub span_id: SpanId,
    pub evidence: Evidence,
    pub confidence: Confidence,
    /// The parent span is in another process that this tracer does not see.
    pub remote: bool,
}

/// How a parent was found: value of `tracer.parent.evidence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// A trace context header named it.
    Header,
    /// The same bytes on both ends of a TCP connection.
    TcpSequence,
    /// The same bytes on both ends of a Unix socket.
    UnixPeer,
    /// The only open request of the thread that made the call.
    Thread,
    /// The task that made the call was made for it, or is waited for by one that was.
    RuntimeTask,
    /// nginx answered it in the window of the call's response.
    ResponseWindow,
    /// The call's process was forked inside of the request.
    ProcessFork,
    /// The call carries what this request alone had brought in its headers.
    HeaderContinuity,
    /// At its end, the thread that made the call woke the one that serves the request and waited.
    ThreadHandOff,
}

impl Evidence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::TcpSequence => "tcp-sequence",
            Self::UnixPeer => "unix-peer",
            Self::Thread => "thread",
            Self::RuntimeTask => "runtime-task",
            Self::ResponseWindow => "response-window",
            Self::ProcessFork => "process-fork",
            Self::HeaderContinuity => "header-continuity",
            Self::ThreadHandOff => "thread-handoff",
        }
    }
}

/// Value of `tracer.parent.undecided` where the parent is less sure than is asked for.
pub const BELOW_CONFIDENCE: &str = "below-confidence";

/// How sure it is: value of `tracer.parent.confidence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// It holds in programs as they mostly are, and a program can be written in which it does not: claimed where asked for.
    Possible,
    Likely,
    Certain,
}

impl Confidence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// A related span that is not claimed as a parent.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub attributes: Vec<Attribute>,
}

/// OpenTelemetry span status. `Ok` is for applications to set, so it does not exist here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Unset,
    Error { description: Option<String> },
}

/// Attribute value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Most are fixed words, addresses and short paths, which need no allocation.
    Str(SmolStr),
    Int(i64),
    Bool(bool),
    StrArray(Vec<String>),
}

impl Value {
    /// Text that is known at compile time.
    pub const fn word(word: &'static str) -> Self {
        Self::Str(SmolStr::new_static(word))
    }
}

impl From<SmolStr> for Value {
    fn from(value: SmolStr) -> Self {
        Self::Str(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Str(SmolStr::new(value))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Str(SmolStr::from(value))
    }
}

/// Who emits a span: one per traced process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// Semantic-convention attributes, `service.name` among them. Keys may come from the process's own
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub attributes: Vec<(String, Value)>,
}

impl Resource {
    pub fn service_name(&self) -> &str {
        let name = self.attributes.iter().find(|(key, _)| key == "service.name");
        match name {
            Some((_, Value::Str(name))) => name,
            _ => "unknown_service",
        }
    }
}
