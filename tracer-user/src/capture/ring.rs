//! Reads the rings as one sequence, and waits for them without being woken for every record.
//!
//! The kernel half wakes the reader when much has gathered, and at most once per interval and CPU otherwise. So the
//! reader looks by itself for a while after it was woken or found something; what comes later wakes it again.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracer_abi::limits::{WAKE_INTERVAL_NANOS, urgent_bytes};
use tracer_abi::time::KernelInstant;

use super::deference::Deference;
use super::fill::Fill;
use super::object::Loaded;
use super::record;
use crate::clock;

/// Records per drain at most, so that the reader's other work gets its turn.
const DRAIN_RECORDS: usize = 4096;

/// Control records held back at most: what the control ring itself can hold, so that a full ring can be emptied.
const WAITING_RECORDS: usize = 8192;

/// How often the reader looks by itself while there is traffic: what live output may lag behind.
const POLL_INTERVAL: Duration = Duration::from_millis(16);

/// The same where there is much to read. It does better with many records at a time, whose code and data the traced
/// programs have not pushed out of the processor's caches meanwhile, and each time it disturbs where these run.
const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// For how long after a wake-up or a find: longer than a CPU does not wake again.
const ACTIVE_FOR: Duration = Duration::from_nanos(WAKE_INTERVAL_NANOS + WAKE_INTERVAL_NANOS / 4);

pub(super) struct Rings {
    /// Made at the first wait, because they need a runtime.
    wakers: Option<(AsyncFd<OwnedFd>, AsyncFd<OwnedFd>)>,
    control: RingBuf<MapData>,
    data: RingBuf<MapData>,
    woken: RingBuf<MapData>,
    /// A wake-up read, but younger than the data records read so far.
    next_woken: Option<Vec<u8>>,
    /// Control records read, but younger than the data records read so far.
    waiting: VecDeque<Vec<u8>>,
    active_until: Instant,
    deference: Deference,
    /// The last drain stopped at its bound.
    more: bool,
}

impl Rings {
    pub(super) fn new(loaded: &mut Loaded, data_ring_bytes: u32) -> anyhow::Result<Self> {
        let mut ring = |name| -> anyhow::Result<RingBuf<MapData>> {
            RingBuf::try_from(loaded.take_map(name)?).with_context(|| format!("open ring {name}"))
        };
        let (control, data) = (ring("TRACER_CTRL")?, ring("TRACER_DATA")?);
        // Of new processes and connections, the first.
        let fill = |ring: &RingBuf<MapData>, urgent| Fill::of(ring.as_fd(), urgent).context("map a ring");
        let fills = vec![fill(&control, 1)?, fill(&data, urgent_bytes(data_ring_bytes).into())?];
        Ok(Self {
            wakers: None,
            control,
            data,
            woken: ring("TRACER_WOKEN")?,
            next_woken: None,
            waiting: VecDeque::new(),
            active_until: Instant::now(),
            deference: Deference::new(fills),
            more: false,
        })
    }

    /// Waits until there may be records, or until `deadline`.
    pub(super) async fn readable(&mut self, deadline: Option<Instant>) -> std::io::Result<()> {
        if std::mem::take(&mut self.more) {
            return Ok(());
        }
        let (control, data) = match &mut self.wakers {
            Some(wakers) => wakers,
            none => {
                let register = |ring: &RingBuf<MapData>| {
                    let ring = ring.as_fd().try_clone_to_owned()?;
                    // SAFETY: an owned descriptor is valid and keeps its number for as long as it is registered.
                    Ok::<_, std::io::Error>(unsafe {
                        AsyncFd::register_with_interest(ring, Interest::READABLE)?
                    })
                };
                none.insert((register(&self.control)?, register(&self.data)?))
            }
        };
        let now = Instant::now();
        let interval = if self.deference.is_busy() { BUSY_POLL_INTERVAL } else { POLL_INTERVAL };
        let poll = (now < self.active_until).then(|| now + interval);
        let alarm = poll.into_iter().chain(deadline).min();
        tokio::select! {
            guard = control.readable() => guard?.clear_ready(),
            guard = data.readable() => guard?.clear_ready(),
            () = tokio::time::sleep_until(alarm.unwrap_or(now).into()), if alarm.is_some() => return Ok(()),
        }
        self.active_until = Instant::now() + ACTIVE_FOR;
        Ok(())
    }

    /// Whether the last drain stopped before the rings were empty.
    pub(super) const fn has_more(&self) -> bool {
        self.more
    }

    /// Hands out what is there, the rings merged by time. Within a ring, the order is the ring's: records of
    /// different CPUs may be slightly out of order.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut left = DRAIN_RECORDS;
        let mut control_read_at = self.read_control();
        while left > 0 {
            let Some(item) = self.data.next() else {
                break;
            };
            left -= 1;
            self.deference.record();
            let record = record::trimmed(&item);
            let time = record::time(record);
            if time >= control_read_at {
                // Younger than the last look at the control ring: what was made before it may be there only now.
                control_read_at = read_into(&mut self.control, &mut self.waiting);
            }
            while let Some(older) = self.waiting.pop_front_if(|waiting| record::time(waiting) <= time) {
                each(&older);
            }
            while let Some(older) = woken_until(&mut self.woken, &mut self.next_woken, time) {
                each(&older);
                left = left.saturating_sub(1);
            }
            each(record);
        }
        self.more = left == 0;
        if self.more {
            self.deference.paused(Instant::now());
        } else {
            // Not before the first wait: threads are started until then, which would stay behind others with this one.
            if self.wakers.is_some() {
                self.deference.emptied(Instant::now());
            }
            // Wake-ups have no order to keep with what is younger than the last of the data.
            let now = clock::now();
            while let Some(record) = woken_until(&mut self.woken, &mut self.next_woken, now) {
                each(&record);
                left = left.saturating_sub(1);
            }
            // The data ring was seen empty after these were read, so no data record is older than they are.
            for record in self.waiting.drain(..) {
                each(&record);
                left = left.saturating_sub(1);
            }
        }
        if left < DRAIN_RECORDS {
            self.active_until = Instant::now() + ACTIVE_FOR;
        }
    }

    fn read_control(&mut self) -> KernelInstant {
        read_into(&mut self.control, &mut self.waiting)
    }
}

/// The next wake-up, if it is no younger than `time`.
fn woken_until(
    woken: &mut RingBuf<MapData>,
    next: &mut Option<Vec<u8>>,
    time: KernelInstant,
) -> Option<Vec<u8>> {
    if next.is_none() {
        *next = Some(record::trimmed(&woken.next()?).to_vec());
    }
    next.take_if(|record| record::time(record) <= time)
}

/// Copies out what the control ring holds. Returns a time from before the reading: records made until then are in.
fn read_into(control: &mut RingBuf<MapData>, waiting: &mut VecDeque<Vec<u8>>) -> KernelInstant {
    let now = clock::now();
    while waiting.len() < WAITING_RECORDS
        && let Some(item) = control.next()
    {
        waiting.push_back(record::trimmed(&item).to_vec());
    }
    now
}
