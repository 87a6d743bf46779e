//! Trace and span ids from a seeded generator: the same seed and the same order of questions give the same ids.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::span::{SpanId, TraceId};

#[derive(Debug)]
pub(super) struct Ids(ChaCha12Rng);

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    pub(super) fn trace_id(&mut self) -> TraceId {
        loop {
            let mut bytes = [0; 16];
            self.0.fill_bytes(&mut bytes);
            if let Some(id) = TraceId::new(bytes) {
                return id;
            }
        }
    }

    pub(super) fn span_id(&mut self) -> SpanId {
        loop {
            let mut bytes = [0; 8];
            self.0.fill_bytes(&mut bytes);
            if let Some(id) = SpanId::new(bytes) {
                return id;
            }
        }
    }
}
