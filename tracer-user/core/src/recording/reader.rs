//! Reads a recording, whatever its bytes are: memory is bounded by the format's limits, not by the file's claims.

use std::io::{ErrorKind, Read};

use tracer_abi::time::KernelInstant;

use super::fact::Fact;
use super::{
    FORMAT_VERSION, Frame, KIND_FACT, KIND_GAP, KIND_KERNEL_RECORD, KIND_TICK, MAGIC, MAX_FRAME_BYTES,
    MAX_PREAMBLE_BYTES, Preamble, RecordingError,
};
use crate::decode::Decoder;

/// Yields the frames of a recording. Ends at the end of the file, inside a frame or not: see [`Reader::truncated`].
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
    preamble: Preamble,
    body: Vec<u8>,
    decoder: Decoder,
    offset: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Truncated,
}

impl<R: Read> Reader<R> {
    /// Reads the preamble.
    ///
    /// # Errors
    /// When the input is not a recording, or one of a version that this tracer does not know.
    pub fn new(mut input: R) -> Result<Self, RecordingError> {
        let mut magic = [0; MAGIC.len()];
        if fill(&mut input, &mut magic)? < magic.len() || magic != MAGIC {
            return Err(RecordingError::NotARecording);
        }
        let mut fixed = [0; 8];
        if fill(&mut input, &mut fixed)? < fixed.len() {
            return Err(RecordingError::NoPreamble);
        }
        let [a, b, c, d, e, f, g, h] = fixed;
        let version = u32::from_le_bytes([a, b, c, d]);
        if version != FORMAT_VERSION {
            return Err(RecordingError::FormatVersion { found: version });
        }
        let len = u32::from_le_bytes([e, f, g, h]);
        let mut offset = (MAGIC.len() + fixed.len()) as u64;
        if len > MAX_PREAMBLE_BYTES {
            return Err(RecordingError::TooLarge { offset, len });
        }
        let mut body = vec![0; len as usize];
        if fill(&mut input, &mut body)? < body.len() {
            return Err(RecordingError::NoPreamble);
        }
        offset += u64::from(len);
        let preamble: Preamble = serde_json::from_slice(&body).map_err(RecordingError::Preamble)?;
        if !(tracer_abi::OLDEST_ABI_VERSION..=tracer_abi::ABI_VERSION).contains(&preamble.abi_version) {
            return Err(RecordingError::AbiVersion { found: preamble.abi_version });
        }
        Ok(Self { input, preamble, body, decoder: Decoder::default(), offset, state: State::Reading })
    }

    pub const fn preamble(&self) -> &Preamble {
        &self.preamble
    }

    /// The bytes of the frame that was read last.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The file ended inside a frame: its writer was stopped, or the file was cut.
    pub const fn truncated(&self) -> bool {
        matches!(self.state, State::Truncated)
    }

    fn read_frame(&mut self) -> Result<Option<Frame>, RecordingError> {
        let mut head = [0; 5];
        match fill(&mut self.input, &mut head)? {
            0 => {
                self.state = State::Ended;
                return Ok(None);
            }
            5 => {}
            _ => {
                self.state = State::Truncated;
                return Ok(None);
            }
        }
        let offset = self.offset;
        let [kind, a, b, c, d] = head;
        let len = u32::from_le_bytes([a, b, c, d]);
        if !matches!(kind, KIND_KERNEL_RECORD | KIND_FACT | KIND_TICK | KIND_GAP) {
            return Err(RecordingError::UnknownFrame { offset, kind });
        }
        if len > MAX_FRAME_BYTES || (matches!(kind, KIND_TICK | KIND_GAP) && len != 8) {
            return Err(RecordingError::TooLarge { offset, len });
        }
        self.body.resize(len as usize, 0);
        if fill(&mut self.input, &mut self.body)? < self.body.len() {
            self.state = State::Truncated;
            return Ok(None);
        }
        self.offset += 5 + u64::from(len);
        match kind {
            KIND_KERNEL_RECORD => self
                .decoder
                .decode(&self.body)
                .map(|event| Some(Frame::Event(event)))
                .map_err(|source| RecordingError::Record { offset, source }),
            KIND_FACT => Fact::from_json(&self.body)
                .map(|event| Some(Frame::Event(event)))
                .map_err(|source| RecordingError::Fact { offset, source }),
            _ => {
                let number = self.body.first_chunk().copied().map_or(0, u64::from_le_bytes);
                Ok(Some(match kind {
                    KIND_GAP => Frame::Gap(number),
                    _ => Frame::Tick(KernelInstant::from_nanos(number)),
                }))
            }
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Frame, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state != State::Reading {
            return None;
        }
        let frame = self.read_frame();
        if frame.as_ref().is_err_and(RecordingError::is_fatal) {
            self.state = State::Ended;
        }
        frame.transpose()
    }
}

/// Reads until `buffer` is full or the input ends; returns how much was read.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
