//! Lets the traced programs go first while there is much to read, for as long as the rings have room for it.
//!
//! A reader that is ahead of busy programs takes a processor from them for many milliseconds. Whoever is woken meanwhile is
//! put beside whoever woke it, and both share one processor until the scheduler parts them, many milliseconds after the
//! reader's has come to lie idle. So under load it reads in time that nobody else wants: to the scheduler, a processor with
//! nothing but `SCHED_IDLE` on it is idle, and who wakes up is put there at once. Only when that has not been enough for a
//! while does it go ahead, and no longer than it has to: the processor from which it has driven the others is its own for
//! a while after, and would lie idle. A thread of its own fetches it, as the reader may not run at all until then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{Pid, gettid};

use super::fill::Fill;

/// Records per second from which on the reader defers to others: with fewer, it takes next to nothing from them.
const BUSY_FROM: u64 = 20_000;

/// Records between two times that the rings were empty, with fewer of which nothing is said of their pace.
const AT_LEAST: u64 = 256;

/// Since the rings were empty last, or it fell back, the time after which the reader goes ahead. It begins to read after
/// most of this.
const PATIENCE: Duration = Duration::from_millis(130);

/// How often the minder looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The reader's side.
#[derive(Debug)]
pub(super) struct Deference {
    minded: Arc<Minded>,
    /// `None`: not started yet, or the kernel does not let a thread come back from behind all others.
    minder: Option<JoinHandle<()>>,
    rings: Arc<[Fill]>,
    /// Whether there was a reason to start the minder.
    started: bool,
    records: u64,
    emptied: Instant,
    /// Behind all others, unless the minder has fetched it back.
    defers: bool,
}

/// What the reader and the minder know of each other.
#[derive(Debug)]
struct Minded {
    start: Instant,
    /// When the rings were empty last, or the reader fell back behind the others, in nanoseconds since `start`.
    waits_since: AtomicU64,
    busy: AtomicBool,
    /// The minder has fetched the reader back since it last deferred.
    hurried: AtomicBool,
    ended: AtomicBool,
}

impl Deference {
    /// Of the reader of these rings.
    pub(super) fn new(rings: Vec<Fill>) -> Self {
        let now = Instant::now();
        Self {
            minded: Arc::new(Minded {
                start: now,
                waits_since: AtomicU64::new(0),
                busy: AtomicBool::new(false),
                hurried: AtomicBool::new(false),
                ended: AtomicBool::new(false),
            }),
            minder: None,
            rings: rings.into(),
            started: false,
            records: 0,
            emptied: now,
            defers: false,
        }
    }

    /// Whether there is so much to read that it is better read in large pieces.
    pub(super) const fn is_busy(&self) -> bool {
        self.defers
    }

    /// A record was read.
    pub(super) const fn record(&mut self) {
        self.records = self.records.wrapping_add(1);
    }

    /// There are no more, says the thread that reads.
    pub(super) fn emptied(&mut self, now: Instant) {
        let records = std::mem::take(&mut self.records);
        let busy = is_busy(records, now.saturating_duration_since(std::mem::replace(&mut self.emptied, now)));
        self.minded.waits_since.store(self.minded.nanos(now), Ordering::Relaxed);
        if busy && !self.started {
            self.start();
        }
        let Some(minder) = &self.minder else { return };
        if busy != self.minded.busy.swap(busy, Ordering::Relaxed) && busy {
            minder.thread().unpark();
        }
        let hurried = self.minded.hurried.swap(false, Ordering::Relaxed);
        if busy == self.defers && !(busy && hurried) {
            return;
        }
        match put(gettid(), if busy { libc::SCHED_IDLE } else { libc::SCHED_OTHER }) {
            Ok(()) => self.defers = busy,
            Err(error) => tracing::debug!("the reader stays where it is among other threads: {error}"),
        }
    }

    /// There are more, says the thread that reads. If it was fetched, it falls back once none of them has to be read soon.
    pub(super) fn paused(&mut self, now: Instant) {
        if !self.defers
            || self.rings.iter().any(Fill::is_urgent)
            || !self.minded.hurried.swap(false, Ordering::Relaxed)
        {
            return;
        }
        self.minded.waits_since.store(self.minded.nanos(now), Ordering::Relaxed);
        if let Err(error) = put(gettid(), libc::SCHED_IDLE) {
            tracing::debug!("the reader stays ahead of other threads: {error}");
        }
    }

    fn start(&mut self) {
        self.started = true;
        let (minded, rings, reader) = (Arc::clone(&self.minded), Arc::clone(&self.rings), gettid());
        let started = std::thread::Builder::new().name("minder".to_owned()).spawn(move || {
            minded.mind(&rings, reader);
        });
        match started {
            Ok(minder) if may_come_back() => self.minder = Some(minder),
            Ok(minder) => self.minded.end(minder),
            Err(error) => tracing::debug!("no thread minds the reader: {error}"),
        }
    }
}

impl Drop for Deference {
    fn drop(&mut self) {
        if let Some(minder) = self.minder.take() {
            self.minded.end(minder);
        }
        if self.defers {
            come_forward();
        }
    }
}

impl Minded {
    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos() as u64
    }

    fn mind(&self, rings: &[Fill], reader: Pid) {
        while !self.ended.load(Ordering::Relaxed) {
            if !self.busy.load(Ordering::Relaxed) {
                std::thread::park();
                continue;
            }
            std::thread::park_timeout(LOOK_INTERVAL);
            let waited = self.nanos(Instant::now()).saturating_sub(self.waits_since.load(Ordering::Relaxed));
            if Duration::from_nanos(waited) >= PATIENCE || rings.iter().any(Fill::is_urgent) {
                // Again while it lasts: the reader may just have gone behind the others.
                if let Err(error) = put(reader, libc::SCHED_OTHER) {
                    tracing::debug!("the reader cannot be fetched back: {error}");
                }
                self.hurried.store(true, Ordering::Relaxed);
            }
        }
    }

    fn end(&self, minder: JoinHandle<()>) {
        self.ended.store(true, Ordering::Relaxed);
        minder.thread().unpark();
        // It does nothing that could panic.
        let _ = minder.join();
    }
}

fn is_busy(records: u64, time: Duration) -> bool {
    records >= AT_LEAST && u128::from(records) * 1_000 >= u128::from(BUSY_FROM) * time.as_millis().max(1)
}

/// A thread that may not leave `SCHED_IDLE` again is not to go there (`CAP_SYS_NICE`, or `RLIMIT_NICE`).
fn may_come_back() -> bool {
    let trial = std::thread::Builder::new()
        .spawn(|| put(gettid(), libc::SCHED_IDLE).and_then(|()| put(gettid(), libc::SCHED_OTHER)).is_ok());
    trial.is_ok_and(|trial| trial.join().unwrap_or(false))
}

/// For the calling thread, which may have been started by a reader that defers: policies are inherited.
pub(super) fn come_forward() {
    if let Err(error) = put(gettid(), libc::SCHED_OTHER) {
        tracing::debug!("a thread stays behind all others: {error}");
    }
}

/// Gives a thread its policy; how nice it is stays (sched_setscheduler(2)).
fn put(thread: Pid, policy: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are valid for the call.
    match unsafe { libc::sched_setscheduler(thread.as_raw_nonzero().get(), policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: takes no memory; zero is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// So many records were read since the rings were empty last, a while ago.
    fn emptied(deference: &mut Deference, records: u64) {
        (0..records).for_each(|_| deference.record());
        let now = deference.emptied + Duration::from_millis(100);
        deference.emptied(now);
    }

    #[test]
    fn much_to_read_is_a_matter_of_time() {
        assert!(is_busy(BUSY_FROM, Duration::from_secs(1)) && is_busy(1_000, Duration::from_millis(50)));
        assert!(!is_busy(BUSY_FROM - 1, Duration::from_secs(1)) && !is_busy(0, Duration::ZERO));
        assert!(!is_busy(AT_LEAST - 1, Duration::ZERO) && is_busy(AT_LEAST, Duration::ZERO));
    }

    #[test]
    fn who_reads_much_defers_until_it_is_fetched_back_or_there_is_little() {
        std::thread::spawn(|| {
            let mut deference = Deference::new(Vec::new());
            emptied(&mut deference, 10);
            assert!(!deference.is_busy() && policy() == libc::SCHED_OTHER);
            emptied(&mut deference, BUSY_FROM);
            if !may_come_back() {
                assert!(!deference.is_busy() && policy() == libc::SCHED_OTHER);
                return;
            }
            assert!(deference.is_busy() && policy() == libc::SCHED_IDLE);
            // Nothing more is said of the rings: the minder has to fetch it back by itself.
            let fetched_back = (0..1000).any(|_| {
                std::thread::sleep(LOOK_INTERVAL);
                policy() == libc::SCHED_OTHER
            });
            assert!(fetched_back);
            deference.minded.hurried.store(true, Ordering::Relaxed);
            deference.paused(Instant::now());
            assert!(deference.is_busy() && policy() == libc::SCHED_IDLE, "nothing that waits is urgent");
            let fetched_again = (0..1000).any(|_| {
                std::thread::sleep(LOOK_INTERVAL);
                policy() == libc::SCHED_OTHER
            });
            assert!(fetched_again);
            deference.minded.hurried.store(true, Ordering::Relaxed);
            emptied(&mut deference, BUSY_FROM);
            assert!(deference.is_busy());
            emptied(&mut deference, 0);
            assert!(!deference.is_busy() && policy() == libc::SCHED_OTHER);
            drop(deference);
        })
        .join()
        .unwrap();
    }
}
