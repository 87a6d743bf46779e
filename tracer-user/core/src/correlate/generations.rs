//! What was noted last, as far as there is room: once a generation is full, the one before it is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

#[derive(Debug)]
pub(super) struct Generations<K, V, S> {
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
    /// In a generation.
    max: usize,
    /// Something was noted that is not remembered.
    forgets: bool,
}

impl<K: Eq + Hash, V: Copy, S: BuildHasher + Clone> Generations<K, V, S> {
    pub(super) fn new(max: usize, hasher: S) -> Self {
        Self {
            young: HashMap::with_hasher(hasher.clone()),
            old: HashMap::with_hasher(hasher),
            max,
            forgets: false,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    /// Whether what is not known may have been noted.
    pub(super) const fn forgets(&self) -> bool {
        self.forgets
    }

    /// Returns what was noted before.
    pub(super) fn note(&mut self, key: K, value: V) -> Option<V> {
        let before = self.get(&key);
        if self.young.len() >= self.max {
            self.forgets |= !self.old.is_empty();
            let young = HashMap::with_hasher(self.old.hasher().clone());
            self.old = std::mem::replace(&mut self.young, young);
        }
        self.young.insert(key, value);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::NumberMap;
    use super::*;

    #[test]
    fn what_was_noted_is_remembered_for_a_generation() {
        let mut noted = Generations::new(10, NumberMap::<u64, u64>::default().hasher().clone());
        assert_eq!(noted.note(1, 1), None);
        assert_eq!(noted.note(1, 2), Some(1));
        (2..=11).for_each(|key| assert_eq!(noted.note(key, key), None));
        assert!(!noted.forgets());
        assert_eq!((noted.get(&1), noted.note(1, 3)), (Some(2), Some(2)));
        (12..=40).for_each(|key| assert_eq!(noted.note(key, key), None));
        assert_eq!(noted.note(1, 4), None);
        assert!(noted.forgets());
        assert!(noted.young.len() + noted.old.len() <= 20);
    }
}
