//! The exchanges that are held, by key: found without a search, and in order of their numbers.
//!
//! A key says in which slot its exchange is, and carries its number, so that a key whose exchange has left is
//! recognised when the slot is used again.

use tracer_abi::time::KernelInstant;

use super::exchange::{Exchange, Key};

pub(super) type Exchanges = Table<Exchange>;

/// Boxes of exchanges that have left, kept for those that come: thousands may leave together, more than an allocator has
/// at hand. No more than were held at once, and 8 MiB; what they hold besides is bounded by who gives them back.
const MAX_SPARE: usize = 8192;

/// End of the list.
const NONE: u32 = u32::MAX;

impl Exchanges {
    /// Of these requests, those whose heads had been read at that time.
    pub(super) fn read_before<'a>(
        &self,
        requests: impl IntoIterator<Item = &'a Key>,
        time: KernelInstant,
    ) -> Vec<Key> {
        let was_read = |key: &&Key| self.get(key).is_some_and(|request| request.head_last.time < time);
        requests.into_iter().filter(was_read).copied().collect()
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// Number of the exchange that is here, or was last.
    number: u64,
    /// Neighbours in order of numbers, while an exchange is here.
    older: u32,
    newer: u32,
    exchange: Option<Box<T>>,
}

#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    next_number: u64,
    len: usize,
    spare: Vec<Box<T>>,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            next_number: 0,
            len: 0,
            spare: Vec::new(),
        }
    }

    /// The key that the next exchange will have.
    pub(super) fn next_key(&self) -> Key {
        // Far fewer than 2^32 slots: the bound on exchanges is a bound on slots.
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        Key { number: self.next_number, slot }
    }

    /// Takes in an exchange; its key is the one that [`Table::next_key`] gave. Inlined, so that it is made once and not
    /// handed on.
    #[inline(always)]
    pub(super) fn add(&mut self, exchange: T) {
        let exchange = match self.spare.pop() {
            Some(mut spare) => {
                *spare = exchange;
                spare
            }
            None => Box::new(exchange),
        };
        let Key { number, slot } = self.next_key();
        let entry = Slot { number, older: self.newest, newer: NONE, exchange: Some(exchange) };
        match self.free.pop() {
            Some(slot) => self.slots[slot as usize] = entry,
            None => self.slots.push(entry),
        }
        self.link(self.newest, slot);
        self.newest = slot;
        self.next_number += 1;
        self.len += 1;
    }

    /// Gives back the box of one that has left.
    pub(super) fn keep(&mut self, left: Box<T>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(left);
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&T> {
        let slot = self.slots.get(key.slot as usize).filter(|slot| slot.number == key.number)?;
        slot.exchange.as_deref()
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot as usize).filter(|slot| slot.number == key.number)?;
        slot.exchange.as_deref_mut()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Box<T>> {
        let slot = self.slots.get_mut(key.slot as usize).filter(|slot| slot.number == key.number)?;
        let exchange = slot.exchange.take()?;
        let (older, newer) = (slot.older, slot.newer);
        self.link(older, newer);
        if newer == NONE {
            self.newest = older;
        }
        self.free.push(key.slot);
        self.len -= 1;
        Some(exchange)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<Key> {
        self.key_in(self.oldest)
    }

    /// From the oldest to the newest.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        std::iter::successors(self.oldest(), |key| self.key_in(self.slots.get(key.slot as usize)?.newer))
    }

    /// From the oldest to the newest.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        let mut held: Vec<_> = (0..)
            .zip(&mut self.slots)
            .filter_map(|(slot, found)| {
                let key = Key { number: found.number, slot };
                found.exchange.as_deref_mut().map(|exchange| (key, exchange))
            })
            .collect();
        held.sort_unstable_by_key(|(key, _)| *key);
        held.into_iter()
    }

    fn key_in(&self, slot: u32) -> Option<Key> {
        self.slots.get(slot as usize).map(|found| Key { number: found.number, slot })
    }

    /// Makes `newer` follow `older`; either may be the end of the list.
    fn link(&mut self, older: u32, newer: u32) {
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        if let Some(slot) = self.slots.get_mut(newer as usize) {
            slot.older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut Table<char>, name: char) -> Key {
        let key = table.next_key();
        table.add(name);
        key
    }

    fn names(table: &Table<char>) -> String {
        table.keys().filter_map(|key| table.get(&key)).collect()
    }

    #[test]
    fn keys_are_in_order_whatever_slots_they_have() {
        let mut table = Table::new();
        let [a, b, c] = ['a', 'b', 'c'].map(|name| add(&mut table, name));
        assert_eq!((names(&table).as_str(), table.oldest(), table.len()), ("abc", Some(a), 3));
        assert_eq!(table.remove(&b).as_deref(), Some(&'b'));
        let d = add(&mut table, 'd');
        assert_eq!(d.slot, b.slot, "slots are used again");
        assert_eq!(names(&table), "acd");
        assert!(d > c && c > a);
        let held: Vec<Key> = table.iter_mut().map(|(key, _)| key).collect();
        assert_eq!(held, [a, c, d]);
        if let Some(a) = table.remove(&a) {
            table.keep(a);
        }
        table.remove(&d);
        let e = add(&mut table, 'e');
        assert_eq!((names(&table).as_str(), table.oldest(), table.len()), ("ce", Some(c), 2));
        table.remove(&c);
        table.remove(&e);
        assert_eq!((names(&table).as_str(), table.oldest(), table.len()), ("", None, 0));
    }

    #[test]
    fn a_key_whose_exchange_has_left_finds_nothing() {
        let mut table = Table::new();
        let a = add(&mut table, 'a');
        table.remove(&a);
        assert!(!table.contains(&a) && table.remove(&a).is_none());
        let b = add(&mut table, 'b');
        assert_eq!(b.slot, a.slot);
        assert!(table.get_mut(&a).is_none() && table.remove(&a).is_none());
        assert_eq!(names(&table), "b");
    }
}
