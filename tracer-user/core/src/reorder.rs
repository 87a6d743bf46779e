//! Puts the events of several CPUs and rings back into the order of kernel time, inside a bounded window.
//!
//! An event is held until the clock has passed it by the window, or until too many are held. One that comes later
//! than that is let through at once and counted: it is still a fact, only its place is lost. Events of the same
//! instant keep the order in which they came, except that whose work an operation was is known before the operation.
//!
//! Where a processor may be taken away from who has stamped an event (a virtual machine, a kernel that preempts), or where
//! an event is dated back, some come later than the window, and will again: it grows with what is seen, up to a bound, and
//! shrinks when that has not been seen for long.
//!
//! What is held is memory that nobody touches until it has left the processor's caches, and the traced programs' caches
//! with it. So where many events come, they are held only for many times the disorder that was lately seen.

use std::time::Duration;

use tracer_abi::time::KernelInstant;

use crate::event::Event;
use crate::sorted::Sorted;

/// So many events do no harm to caches: about 150 KiB with their payloads. At 10,000 a second, those of the window.
const CROWD: usize = 512;

/// Beyond the crowd an event is held for so many times the largest disorder that was lately seen, and at least for this
/// long: a processor may be interrupted between an event's stamp and its place in the ring.
const MARGIN: u32 = 16;
const LEAST: Duration = Duration::from_millis(4);

/// What is remembered of the largest disorder is halved after so many events: what has happened to one may happen to
/// another long after.
const EPOCH: u32 = 1 << 16;

/// The window is so many times the largest lateness.
const ROOM: u32 = 2;

/// A window that was not needed for so long is halved.
const CALM: Duration = Duration::from_secs(10);

/// Where an event is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(u32);

/// Order of events of the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Identity,
    Other,
}

#[derive(Debug)]
pub(crate) struct Reorder {
    window: Window,
    max_events: usize,
    /// Places in `slots`.
    order: Sorted<(KernelInstant, Rank), u32>,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    /// The latest time seen, from events and from the caller's clock.
    newest: KernelInstant,
    /// Everything up to here has been released.
    released: KernelInstant,
    disorder: Disorder,
}

/// How long events are held.
#[derive(Debug)]
struct Window {
    least: Duration,
    most: Duration,
    now: Duration,
    /// The latest event since then.
    latest: Duration,
    since: KernelInstant,
}

impl Window {
    fn new(least: Duration, most: Duration) -> Self {
        let most = most.max(least);
        Self { least, most, now: least, latest: Duration::ZERO, since: KernelInstant::ZERO }
    }

    /// An event came so much behind the newest time that was known.
    fn note(&mut self, by: Duration, newest: KernelInstant) {
        self.latest = self.latest.max(by);
        if by > self.now {
            self.now = by.saturating_mul(ROOM).min(self.most);
        } else if newest.since(self.since) >= CALM {
            let wanted = self.latest.saturating_mul(ROOM).max(self.least);
            self.now = self.now.min(wanted.max(self.now / 2));
            (self.latest, self.since) = (Duration::ZERO, newest);
        }
    }
}

/// By how much events came behind later ones.
#[derive(Debug)]
struct Disorder {
    events: u32,
    /// The largest of this epoch, and what is remembered of those before; nothing is known at first.
    now: Duration,
    before: Option<Duration>,
}

impl Disorder {
    fn note(&mut self, by: Duration) {
        self.now = self.now.max(by);
        self.events += 1;
        if self.events >= EPOCH {
            let before = self.now.max(self.before.unwrap_or_default() / 2);
            *self = Self { events: 0, now: Duration::ZERO, before: Some(before) };
        }
    }

    fn lately(&self) -> Option<Duration> {
        self.before.map(|before| self.now.max(before))
    }
}

impl Reorder {
    /// Events are held for `least` at least, and for `most` at most.
    pub(crate) fn new(least: Duration, most: Duration, max_events: usize) -> Self {
        Self {
            window: Window::new(least, most),
            max_events: max_events.max(1),
            order: Sorted::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: KernelInstant::ZERO,
            released: KernelInstant::ZERO,
            disorder: Disorder { events: 0, now: Duration::ZERO, before: None },
        }
    }

    /// Takes an event in. True when it came too late to be put in its place.
    pub(crate) fn push(&mut self, event: Event) -> bool {
        let time = event.time();
        let late = time < self.released;
        let behind = self.newest.since(time);
        self.disorder.note(behind);
        self.window.note(behind, self.newest);
        let rank = if matches!(event, Event::TaskIdentified(_)) { Rank::Identity } else { Rank::Other };
        self.newest = self.newest.max(time);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                // As many as the bound allows, and one.
                self.slots.len() as u32 - 1
            }
        };
        self.order.insert((time, rank), slot);
        late
    }

    /// The caller's clock: events that are older than it by the window may go.
    pub(crate) fn advance(&mut self, now: KernelInstant) {
        self.newest = self.newest.max(now);
    }

    /// The latest time seen.
    pub(crate) const fn newest(&self) -> KernelInstant {
        self.newest
    }

    /// The next event in order, if its time has come. It is to be taken, or read and dropped, where it is.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let (time, _) = *self.order.first()?;
        let due = time <= self.horizon() || self.order.len() > self.max_events;
        (due || self.order.len() > CROWD && time <= self.newest.minus(self.crowded_window()))
            .then(|| self.pop_any())
            .flatten()
    }

    /// The next event in order, whatever its time: for the end of a run.
    pub(crate) fn pop_any(&mut self) -> Option<Slot> {
        let ((time, _), slot) = self.order.pop()?;
        self.released = self.released.max(time);
        Some(Slot(slot))
    }

    pub(crate) fn event(&mut self, slot: Slot) -> Option<&mut Event> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(crate) fn drop(&mut self, slot: Slot) {
        if let Some(place) = self.slots.get_mut(slot.0 as usize) {
            *place = None;
            self.free.push(slot.0);
        }
    }

    pub(crate) fn take(&mut self, slot: Slot) -> Option<Event> {
        let event = self.slots.get_mut(slot.0 as usize)?.take();
        self.free.push(slot.0);
        event
    }

    /// How long events are held while there is a crowd of them.
    fn crowded_window(&self) -> Duration {
        let lately = self.disorder.lately().map(|lately| lately.saturating_mul(MARGIN).max(LEAST));
        lately.map_or(self.window.now, |wanted| wanted.min(self.window.now))
    }

    /// How long events are held at most, as things are.
    pub(crate) const fn window(&self) -> Duration {
        self.window.now
    }

    /// No event before this instant is to come, but late ones.
    pub(crate) fn horizon(&self) -> KernelInstant {
        self.newest.minus(self.window.now).max(self.released)
    }

    /// When the oldest held event is due.
    pub(crate) fn next_release(&self) -> Option<KernelInstant> {
        self.order.first().map(|(time, _)| time.plus(self.window.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnClosed, Origin};
    use tracer_abi::conn::SocketCookie;

    fn event(nanos: u64, cookie: u64) -> Event {
        Event::ConnClosed(ConnClosed {
            origin: Origin { time: KernelInstant::from_nanos(nanos), thread: None, cpu: 0 },
            cookie: SocketCookie(cookie),
            by_packet: false,
            egress_bytes: 0,
            ingress_bytes: 0,
        })
    }

    fn fixed(window: Duration, max_events: usize) -> Reorder {
        Reorder::new(window, window, max_events)
    }

    fn drain(reorder: &mut Reorder) -> Vec<u64> {
        std::iter::from_fn(|| {
            let slot = reorder.pop()?;
            let Some(Event::ConnClosed(read)) = reorder.event(slot).cloned() else { panic!("{slot:?}") };
            match read.cookie.0 % 2 {
                0 => reorder.drop(slot),
                _ => assert_eq!(reorder.take(slot), Some(Event::ConnClosed(read.clone()))),
            }
            assert_eq!(reorder.event(slot), None);
            Some(read.cookie.0)
        })
        .collect()
    }

    #[test]
    fn order_is_restored_inside_the_window() {
        let mut reorder = fixed(Duration::from_nanos(100), 10);
        assert!(!reorder.push(event(1050, 2)));
        assert!(!reorder.push(event(1000, 1)));
        assert!(!reorder.push(event(1050, 3)));
        assert_eq!(drain(&mut reorder), [0; 0]);
        assert_eq!(reorder.next_release(), Some(KernelInstant::from_nanos(1100)));
        reorder.advance(KernelInstant::from_nanos(1149));
        assert_eq!(drain(&mut reorder), [1]);
        reorder.advance(KernelInstant::from_nanos(1150));
        assert_eq!(drain(&mut reorder), [2, 3]);
    }

    #[test]
    fn a_late_event_is_said_to_be_late_and_not_lost() {
        let mut reorder = fixed(Duration::from_nanos(100), 10);
        reorder.push(event(1000, 1));
        reorder.push(event(2000, 2));
        assert_eq!(drain(&mut reorder), [1]);
        assert!(reorder.push(event(999, 3)));
        assert!(!reorder.push(event(1900, 4)));
        assert_eq!(drain(&mut reorder), [3, 4]);
    }

    #[test]
    fn a_crowd_is_held_no_longer_than_its_disorder_asks_for() {
        let window = Duration::from_millis(50);
        let mut reorder = fixed(window, 1 << 20);
        // One microsecond apart, every second one behind the next.
        let mut n = 0;
        fn run(reorder: &mut Reorder, n: &mut u64, events: u32) -> usize {
            for _ in 0..events / 2 {
                for nanos in [*n + 1_000, *n] {
                    assert!(!reorder.push(event(nanos, 0)));
                    while let Some(slot) = reorder.pop() {
                        reorder.drop(slot);
                    }
                }
                *n += 2_000;
            }
            reorder.order.len()
        }
        let full = 50_000;
        assert!(
            run(&mut reorder, &mut n, EPOCH - 2) > full - 10,
            "nothing is known of the disorder at first"
        );
        let held = run(&mut reorder, &mut n, EPOCH);
        assert!((3_900..4_100).contains(&held), "{held} events of 4 ms");
        // An event that comes 2 ms behind: for a while, so may others.
        assert!(!reorder.push(event(n - 2_000_000, 0)));
        assert!(run(&mut reorder, &mut n, 60_000) > 30_000);
        assert!(run(&mut reorder, &mut n, EPOCH) > 10_000, "it is not forgotten at once");
        assert!(run(&mut reorder, &mut n, 3 * EPOCH) < 4_100);
        // One that is beyond all of it is late, and counts.
        assert!(reorder.push(event(n - 40_000_000, 0)));
        assert!(run(&mut reorder, &mut n, 60_000) > full - 10);
    }

    /// Whether one is late that comes so long after another one was stamped so.
    fn comes_late(reorder: &mut Reorder, clock: &mut u64, by: Duration) -> bool {
        let step = Duration::from_millis(1).as_nanos() as u64;
        for _ in 0..1000 {
            *clock += step;
            reorder.push(event(*clock, 0));
            while let Some(slot) = reorder.pop() {
                reorder.drop(slot);
            }
        }
        reorder.push(event(*clock - by.as_nanos() as u64, 0))
    }

    #[test]
    fn the_window_grows_with_what_is_late_and_shrinks_slowly() {
        let (least, most) = (Duration::from_millis(50), Duration::from_millis(500));
        let mut reorder = Reorder::new(least, most, 1 << 20);
        let mut clock = 1_000_000_000;
        let mut late =
            |reorder: &mut Reorder, millis| comes_late(reorder, &mut clock, Duration::from_millis(millis));
        assert!(late(&mut reorder, 80));
        assert!(!late(&mut reorder, 80), "the next one like it is not");
        assert!(!late(&mut reorder, 150));
        assert!(late(&mut reorder, 310), "one that is later by far is");
        assert!(!late(&mut reorder, 490));
        assert!(late(&mut reorder, 900), "it grows no further than this");
        assert_eq!(reorder.window(), most);
        assert!(late(&mut reorder, 510));
        for _ in 0..25 {
            assert!(!late(&mut reorder, 3));
        }
        assert!(reorder.window() > least && reorder.window() < most, "{:?}", reorder.window());
        for _ in 0..60 {
            assert!(!late(&mut reorder, 3));
        }
        assert_eq!(reorder.window(), least);
        assert!(late(&mut reorder, 80));
    }

    #[test]
    fn few_events_are_held_for_the_whole_window() {
        let mut reorder = fixed(Duration::from_millis(50), 1 << 20);
        for n in 0..2 * u64::from(EPOCH) {
            // 10 a millisecond.
            reorder.push(event(n * 100_000, 0));
            while let Some(slot) = reorder.pop() {
                reorder.drop(slot);
            }
        }
        assert_eq!(reorder.order.len(), 500);
    }

    #[test]
    fn no_more_than_the_bound_is_held() {
        let mut reorder = fixed(Duration::from_nanos(1 << 40), 3);
        for n in 0..10 {
            reorder.push(event(100 - n, n));
            drain(&mut reorder);
            assert!(reorder.order.len() <= 3);
        }
        assert!(reorder.slots.len() <= 4, "slots are used again");
    }
}
