//! Lets others go first while there is time: a reader that goes ahead of the traced programs takes a processor from
//! them for as long as it has something to do.
//!
//! What it has gathered in a sleep takes it a millisecond or more. A program that waits for its processor so long has
//! left others waiting that talk to it, and a scheduler that then moves it to theirs takes many milliseconds to part
//! them again, while the reader's lies idle. So it gives way every so many records, for what little they have to do
//! then. Not for long, though: where many others want the processor, a reader that always gives way loses events.

use std::time::{Duration, Instant};

/// Records between two times of giving way: a tenth of a millisecond's.
const EVERY: u32 = 64;

/// Of one run of records, the time in which others may go first. Much longer than one takes that keeps up.
const AT_MOST: Duration = Duration::from_millis(16);

/// Of one run of records: from the first one to when there were no more.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    records: u32,
    /// When the run began.
    began: Option<Instant>,
}

impl Courtesy {
    /// A record was read. Now and then, others go first.
    pub(super) fn record(&mut self) {
        if self.records.is_multiple_of(EVERY) {
            self.record_at(Instant::now(), std::thread::yield_now);
        }
        self.records = self.records.wrapping_add(1);
    }

    fn record_at(&mut self, now: Instant, give_way: impl FnOnce()) {
        if self.records == 0 {
            self.began = Some(now);
        } else if self.began.is_some_and(|began| now - began < AT_MOST) {
            give_way();
        }
    }

    /// There are no more.
    pub(super) fn finished(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often way is given in a run of `records`, each of which takes `record`, to others that take `others`.
    fn given(courtesy: &mut Courtesy, records: u32, record: Duration, others: Duration) -> u32 {
        let clock = Cell::new(Instant::now());
        let given = Cell::new(0);
        for _ in 0..records {
            clock.set(clock.get() + record);
            if courtesy.records.is_multiple_of(EVERY) {
                courtesy.record_at(clock.get(), || {
                    given.set(given.get() + 1);
                    clock.set(clock.get() + others);
                });
            }
            courtesy.records += 1;
        }
        given.get()
    }

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn who_keeps_up_gives_way_every_so_many_records_and_not_at_first() {
        let mut courtesy = Courtesy::default();
        for _ in 0..2 {
            assert_eq!(given(&mut courtesy, 10 * EVERY, MICROSECOND, 200 * MICROSECOND), 9);
            courtesy.finished();
        }
        assert_eq!(given(&mut courtesy, EVERY, MICROSECOND, MICROSECOND), 0);
    }

    #[test]
    fn who_does_not_keep_up_gives_way_no_more_until_it_does() {
        let mut courtesy = Courtesy::default();
        let others = 936 * MICROSECOND;
        for _ in 0..2 {
            assert_eq!(given(&mut courtesy, 1000 * EVERY, MICROSECOND, others), 16);
            courtesy.finished();
        }
    }
}
