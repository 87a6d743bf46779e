//! End-to-end proof: what starts real programs and the tracer, and what judges the spans.
//!
//! It traces only programs that it started itself, and ends exactly those. It never reads the tracer's insides: the
//! judge knows the truth from ids in request paths, which no rule of the tracer looks at.

pub mod accuracy;
pub mod certificate;
pub mod demo;
pub mod fastcgi;
pub mod http;
pub mod http2;
pub mod jaeger;
pub mod kernel_objects;
pub mod lighttpd;
pub mod load;
pub mod namespace;
pub mod nginx;
pub mod program;
pub mod raw;
pub mod rust;
pub mod scale;
pub mod score;
pub mod service;
#[cfg(feature = "sink")]
pub mod sink;
pub mod spans;
pub mod temp;
pub mod tracer;
pub mod wrk;
