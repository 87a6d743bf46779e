//! A cheap hash for keys that the kernel or this tracer numbers: cookies, thread ids. Keys in which a peer has a say
//! (addresses, sequence numbers, header values) stay with the standard library's keyed hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::Hash;

    #[test]
    fn numbers_in_a_row_spread_over_both_ends_of_the_hash() {
        let hashes: Vec<u64> = (0_u64..4096)
            .map(|n| {
                let mut hasher = NumberHasher::default();
                (n, n as u32 % 7).hash(&mut hasher);
                hasher.finish()
            })
            .collect();
        let low: BTreeSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let high: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        // Random hashes would fill 63 % of 4096 places.
        assert!(low.len() > 2300 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
