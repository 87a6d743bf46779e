//! Trace and span ids from a seeded generator: the same seed and the same order of questions give the same ids.
//!
//! Ids are to differ, not to be secret, so the generator is a fast one. Its own seed is drawn from a cipher: from ids that
//! are seen outside nobody can go back to the run's seed, which other secrets come from.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::span::{SpanId, TraceId};

#[derive(Debug)]
pub(super) struct Ids(Xoshiro256PlusPlus);

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self(Xoshiro256PlusPlus::from_rng(&mut ChaCha12Rng::from_seed(seed)))
    }

    pub(super) fn trace_id(&mut self) -> TraceId {
        loop {
            let id = u128::from(self.0.next_u64()) << 64 | u128::from(self.0.next_u64());
            if let Some(id) = TraceId::new(id.to_be_bytes()) {
                return id;
            }
        }
    }

    pub(super) fn span_id(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(self.0.next_u64().to_be_bytes()) {
                return id;
            }
        }
    }
}
