//! The event-file format: what a run saw, in the order in which it saw it, so that a replay needs nothing of the host.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `89 54 52 43 52 45 43 0a`: binary, and broken by text conversion |
//! | 4 | format version |
//! | 4 + n | length and [`Preamble`], JSON |
//! | 1 + 4 + n, repeated | frame: kind, length, body |
//!
//! | kind | body |
//! |---|---|
//! | 1 | a record as the kernel half made it (layout: `Preamble::abi_version`) |
//! | 2 | a fact that user space added, JSON |
//! | 3 | a tick: the clock, 8 bytes |
//! | 4 | a gap: how many frames could not be written here, 8 bytes |
//!
//! Integers are little-endian. A frame is written whole or is the last one: a file that was cut at any byte reads as
//! all its complete frames. A reader refuses versions that it does not know, because the meaning of a record that it
//! does not know cannot be guessed. The format does not compress, and does not hide payload: see [`Preamble::note`].

mod fact;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};
use tracer_abi::time::KernelInstant;

use crate::decode::DecodeError;
use crate::event::{Event, HostFacts};

pub use reader::Reader;
pub use writer::Writer;

/// Version of everything in this module's tables.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"\x89TRCREC\n";

/// The largest frame: a kernel record is below 8 KiB; a process's facts may hold long arguments.
const MAX_FRAME_BYTES: u32 = 1024 * 1024;

/// The largest preamble: a few facts about the host.
const MAX_PREAMBLE_BYTES: u32 = 64 * 1024;

const KIND_KERNEL_RECORD: u8 = 1;
const KIND_FACT: u8 = 2;
const KIND_TICK: u8 = 3;
const KIND_GAP: u8 = 4;

/// What a recording says of itself, before its first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preamble {
    /// For the person who opens the file.
    pub note: String,
    pub abi_version: u32,
    /// The program that wrote it.
    pub tracer_version: String,
    /// Unix time at kernel instant zero, in nanoseconds.
    pub wall_clock_offset_nanos: u64,
    pub host: HostFacts,
    /// Seed of the run: a replay with it gives the same ids.
    pub seed: [u8; 32],
}

impl Preamble {
    /// A preamble of this version, with the warning that every recording carries.
    pub fn new(tracer_version: &str, wall_clock_offset_nanos: u64, host: HostFacts, seed: [u8; 32]) -> Self {
        Self {
            note: "tracer recording: contains payload bytes of the traced programs, as they were sent and received"
                .to_owned(),
            abi_version: tracer_abi::ABI_VERSION,
            tracer_version: tracer_version.to_owned(),
            wall_clock_offset_nanos,
            host,
            seed,
        }
    }
}

/// One step of a recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Event(Event),
    /// The caller's clock, as it was handed to the engine.
    Tick(KernelInstant),
    /// This many frames are missing: whoever recorded could not keep up.
    Gap(u64),
}

/// Why (a part of) a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("read the recording")]
    Io(#[from] std::io::Error),
    #[error("not a recording of this tracer")]
    NotARecording,
    #[error("the recording ends inside its preamble")]
    NoPreamble,
    #[error("recording format version {found} is not supported, only {FORMAT_VERSION}")]
    FormatVersion { found: u32 },
    #[error(
        "recorded with kernel boundary version {found}, this tracer knows only {}",
        tracer_abi::ABI_VERSION
    )]
    AbiVersion { found: u32 },
    #[error("preamble is malformed")]
    Preamble(#[source] serde_json::Error),
    #[error("{len} bytes claimed at offset {offset}: the recording is damaged")]
    TooLarge { offset: u64, len: u32 },
    #[error("frame kind {kind} at offset {offset} is unknown: the recording is damaged")]
    UnknownFrame { offset: u64, kind: u8 },
    /// This frame only: the next one can be read.
    #[error("malformed kernel record at offset {offset}")]
    Record { offset: u64, source: DecodeError },
    /// This frame only: the next one can be read.
    #[error("malformed fact at offset {offset}")]
    Fact { offset: u64, source: serde_json::Error },
}

impl RecordingError {
    /// Whether nothing can be read after it. Else one frame is lost and the reader goes on.
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::Record { .. } | Self::Fact { .. } => false,
            Self::Io(_)
            | Self::NotARecording
            | Self::NoPreamble
            | Self::FormatVersion { .. }
            | Self::AbiVersion { .. }
            | Self::Preamble(_)
            | Self::TooLarge { .. }
            | Self::UnknownFrame { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests;
