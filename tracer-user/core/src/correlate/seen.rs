//! Whether a value was met before: a Bloom filter of two generations.
//!
//! It may say yes without reason, about once in a hundred when it is full, and never no without reason for as long
//! as it reaches back: so nothing rests on a yes but doubt. When the younger generation is full, the older is
//! forgotten: [`Seen::reaches_back`] says whether what was forgotten matters.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tracer_abi::time::KernelInstant;

/// Bits for each value of a full generation; with [`PROBES`] of them set, one in a hundred answers is a wrong yes.
const BITS_PER_VALUE: usize = 10;
const PROBES: u64 = 4;

/// A value is not met again later than this, except one that comes again and again.
const MEMORY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Seen {
    /// Keyed, because a client that could choose bits could make every value look met.
    secret: [u8; 32],
    max_values: usize,
    young: Generation,
    old: Generation,
    /// A generation has been forgotten.
    forgetful: bool,
}

#[derive(Debug, Default)]
struct Generation {
    /// A power of two in number; none before the first value.
    words: Vec<u64>,
    values: usize,
    since: KernelInstant,
}

impl Seen {
    /// `max_values`: of a generation.
    pub(super) fn new(secret: [u8; 32], max_values: usize) -> Self {
        Self {
            secret,
            max_values: max_values.max(1),
            young: Generation::default(),
            old: Generation::default(),
            forgetful: false,
        }
    }

    /// Takes a value in. True when it may have been met before.
    pub(super) fn insert(&mut self, value: &impl Hash, at: KernelInstant) -> bool {
        let hash = self.hash(value);
        if self.young.values >= self.max_values {
            self.forgetful |= self.old.values > 0;
            self.old = std::mem::take(&mut self.young);
        }
        if self.young.words.is_empty() {
            let words = (self.max_values.saturating_mul(BITS_PER_VALUE) / 64 + 1).next_power_of_two();
            self.young = Generation { words: vec![0; words], values: 0, since: at };
        }
        let before = self.old.contains(hash);
        self.young.insert(hash) || before
    }

    /// It knows of everything that was met shortly before `at`.
    pub(super) fn reaches_back(&self, at: KernelInstant) -> bool {
        !self.forgetful || self.old.since.plus(MEMORY) <= at
    }

    fn hash(&self, value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        value.hash(&mut hasher);
        hasher.finish()
    }
}

impl Generation {
    /// True when it was there.
    fn insert(&mut self, hash: u64) -> bool {
        let mut all = true;
        for (word, bit) in probes(hash, self.words.len()) {
            all &= self.words[word] & bit != 0;
            self.words[word] |= bit;
        }
        self.values += usize::from(!all);
        all
    }

    fn contains(&self, hash: u64) -> bool {
        !self.words.is_empty()
            && probes(hash, self.words.len()).all(|(word, bit)| self.words[word] & bit != 0)
    }
}

/// Places of a value: word and bit.
fn probes(hash: u64, words: usize) -> impl Iterator<Item = (usize, u64)> {
    // Two halves of one hash are as good as many hashes; an odd step meets no place twice.
    let (first, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
    (0..PROBES).map(move |n| {
        let place = first.wrapping_add(step.wrapping_mul(n)) as usize & (words * 64 - 1);
        (place / 64, 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> KernelInstant {
        KernelInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_was_met_is_never_denied_within_a_generation() {
        let mut seen = Seen::new([1; 32], 5000);
        let fresh = (0_u32..5000).filter(|n| !seen.insert(n, at(1))).count();
        assert!(fresh > 4900, "{fresh} of 5000 were new");
        assert!((0_u32..5000).all(|n| seen.insert(&n, at(2))));
        assert!(seen.reaches_back(at(2)));
    }

    #[test]
    fn few_of_the_new_look_met_when_it_is_full() {
        let mut seen = Seen::new([1; 32], 20_000);
        for n in 0_u32..20_000 {
            seen.insert(&n, at(1));
        }
        let mistaken = (100_000_u32..110_000).filter(|n| seen.young.contains(seen.hash(n))).count();
        assert!(mistaken < 300, "{mistaken} of 10000");
    }

    #[test]
    fn a_full_generation_is_kept_once_more_and_forgetting_is_known() {
        let mut seen = Seen::new([1; 32], 100);
        for n in 0_u32..150 {
            seen.insert(&n, at(1));
        }
        assert!(seen.reaches_back(at(1)), "nothing is forgotten yet");
        assert!((0_u32..40).all(|n| seen.insert(&n, at(2))));
        for n in 1000_u32..1300 {
            seen.insert(&n, at(10));
        }
        assert!(!seen.reaches_back(at(11)));
        assert!(seen.reaches_back(at(100)), "what was forgotten is long ago");
    }
}
