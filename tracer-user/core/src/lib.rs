//! From kernel events to spans.
//!
//! A deterministic state machine: events and time go in, spans come out. It opens no file and no socket, reads no
//! clock, starts no thread and takes its randomness as a seed; the same events with the same seed give the same
//! spans, byte for byte. The caller's duty is *handle, then drain*: after every `handle_*` call, poll until nothing
//! is left.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod connection;
pub mod context;
mod correlate;
pub mod decode;
mod engine;
pub mod event;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod protocol;
pub mod recording;
mod reorder;
mod sorted;
pub mod span;
pub mod stats;
pub mod stream;
mod tls;

pub use correlate::Accuracy;
pub use engine::{Engine, EngineConfig, HandOffPolicy, Limits, SdkSpans, Unrecognised, Wish};
