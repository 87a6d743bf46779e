//! Cheap hashes. One for keys that the kernel or this tracer numbers: cookies, thread ids. One with a secret, for keys
//! of a few words in which a peer has a say: addresses, sequence numbers. What peers write (header values) stays with
//! the standard library's hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl NumberHasher {
    fn mix(&mut self, word: u64) {
        // An odd constant with well spread bits, 2^64 divided by the golden ratio; the rotation brings the good high
        // bits down, where the table looks.
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
}

pub(super) type KeyedMap<K, V> = HashMap<K, V, HashKey>;

/// The secret of a run: without it, nobody can choose keys that fall together.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashKey([u64; 2]);

impl HashKey {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let mut random = ChaCha12Rng::from_seed(seed);
        // Apart from what ids are made of: those are seen outside.
        random.set_stream(1);
        Self([random.next_u64(), random.next_u64() | 1])
    }
}

impl BuildHasher for HashKey {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        let Self([state, factor]) = *self;
        KeyedHasher { state, factor }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KeyedHasher {
    state: u64,
    factor: u64,
}

impl KeyedHasher {
    /// Both halves of the product: every bit of the word reaches every bit of the state.
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        let mut last = *self;
        last.mix(!self.factor);
        last.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.mix(word as u64);
        self.mix((word >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::Hash;

    #[test]
    fn numbers_in_a_row_spread_over_both_ends_of_the_hash() {
        spreads(|n| {
            let mut hasher = NumberHasher::default();
            (n, n as u32 % 7).hash(&mut hasher);
            hasher.finish()
        });
    }

    #[test]
    fn a_keyed_hash_spreads_numbers_whose_differences_are_few_bits() {
        for seed in 0..8 {
            let key = HashKey::new([seed; 32]);
            spreads(|n| key.hash_one(n as u32));
            spreads(|n| key.hash_one(n << 32 | 0x1f90_c350));
            spreads(|n| key.hash_one((n, 7_u32)));
            spreads(|n| key.hash_one(u128::from(n) << 100));
        }
        assert_ne!(HashKey::new([1; 32]).hash_one(1_u32), HashKey::new([2; 32]).hash_one(1_u32));
    }

    fn spreads(hash: impl Fn(u64) -> u64) {
        let hashes: Vec<u64> = (0_u64..4096).map(hash).collect();
        let low: BTreeSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let high: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        // Random hashes would fill 63 % of 4096 places.
        assert!(low.len() > 2300 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
