//! Writes a recording. Buffering, limits on the file's size and its access rights are the caller's.

use std::io::{Error, ErrorKind, Result, Write};

use tracer_abi::time::KernelInstant;

use super::fact::Fact;
use super::{
    FORMAT_VERSION, KIND_FACT, KIND_GAP, KIND_KERNEL_RECORD, KIND_TICK, MAGIC, MAX_FRAME_BYTES,
    MAX_PREAMBLE_BYTES, Preamble,
};
use crate::event::Event;

/// Appends frames to `W`. Every method writes a whole frame or fails as the underlying writer fails.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the preamble.
    ///
    /// # Errors
    /// Those of the underlying writer; `InvalidInput` for a preamble beyond the format's bound.
    pub fn new(out: W, preamble: &Preamble) -> Result<Self> {
        let json = serde_json::to_vec(preamble)?;
        let len = bounded(json.len(), MAX_PREAMBLE_BYTES)?;
        let mut writer = Self { out, bytes: 0 };
        writer.write(&MAGIC)?;
        writer.write(&FORMAT_VERSION.to_le_bytes())?;
        writer.write(&len.to_le_bytes())?;
        writer.write(&json)?;
        Ok(writer)
    }

    /// One record, as it lay in the ring buffer.
    ///
    /// # Errors
    /// Those of the underlying writer; `InvalidInput` for one beyond the format's bound.
    pub fn kernel_record(&mut self, record: &[u8]) -> Result<()> {
        self.frame(KIND_KERNEL_RECORD, record)
    }

    /// A fact that user space added.
    ///
    /// # Errors
    /// Those of the underlying writer; `InvalidInput` for an event that the kernel reports, which is to be written
    /// as the record it was, and for one beyond the format's bound.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        let fact = Fact::from_event(event)
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a kernel event is recorded as its record"))?;
        self.frame(KIND_FACT, &serde_json::to_vec(&fact)?)
    }

    /// The clock, whenever it is handed to the engine.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn tick(&mut self, now: KernelInstant) -> Result<()> {
        self.frame(KIND_TICK, &now.as_nanos().to_le_bytes())
    }

    /// States that `frames` frames are missing here.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn gap(&mut self, frames: u64) -> Result<()> {
        self.frame(KIND_GAP, &frames.to_le_bytes())
    }

    /// Bytes written so far.
    pub const fn bytes_written(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// Those of the underlying writer.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    /// The underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    pub(super) fn frame(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let len = bounded(body.len(), MAX_FRAME_BYTES)?.to_le_bytes();
        self.write(&[kind, len[0], len[1], len[2], len[3]])?;
        self.write(body)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn bounded(len: usize, limit: u32) -> Result<u32> {
    u32::try_from(len)
        .ok()
        .filter(|len| *len <= limit)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("{len} bytes, at most {limit} allowed")))
}
