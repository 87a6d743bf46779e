//! A queue in order of keys, for what comes nearly in order already: putting in looks from the end.

use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Sorted<K, V>(VecDeque<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// Puts it behind those whose keys are no greater.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.0.back() {
            Some((last, _)) if *last > key => {
                let at = self.0.partition_point(|(other, _)| *other <= key);
                self.0.insert(at, (key, value));
            }
            Some(_) | None => self.0.push_back((key, value)),
        }
    }

    pub(crate) fn first(&self) -> Option<&K> {
        self.0.front().map(|(key, _)| key)
    }

    pub(crate) fn pop(&mut self) -> Option<(K, V)> {
        self.0.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_any_order_leaves_in_order_and_equals_as_they_came() {
        let mut sorted = Sorted::default();
        for (n, key) in [5, 1, 9, 5, 3, 9, 1, 5].into_iter().enumerate() {
            sorted.insert(key, n);
            assert_eq!(sorted.len(), n + 1);
        }
        assert_eq!(sorted.first(), Some(&1));
        let order: Vec<_> = std::iter::from_fn(|| sorted.pop()).collect();
        assert_eq!(order, [(1, 1), (1, 6), (3, 4), (5, 0), (5, 3), (5, 7), (9, 2), (9, 5)]);
    }
}
