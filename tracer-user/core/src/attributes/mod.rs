//! From exchanges and processes to semantic-convention attributes: the only place with attribute keys.
//!
//! It decides nothing about causality and keeps no state. Text that came from traffic or from a process is made safe
//! to print here, once ([`text`]).

mod context;
mod fastcgi;
mod grpc;
mod http;
mod http2;
pub mod keys;
mod resource;
mod socket;
mod text;
mod url;

pub(crate) use context::context;
pub(crate) use http::{Described, describe};
pub(crate) use resource::resource;
pub(crate) use socket::Socket;

/// Schema of all attributes, for the instrumentation scope and the resource.
pub use opentelemetry_semantic_conventions::SCHEMA_URL;
