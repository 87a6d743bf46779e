//! Reads the two rings as one sequence, and waits for them without being woken for every record.
//!
//! The kernel half wakes the reader when much has gathered, and at most once per interval and CPU otherwise. So the
//! reader looks by itself for a while after it was woken or found something; what comes later wakes it again.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracer_abi::limits::WAKE_INTERVAL_NANOS;
use tracer_abi::time::KernelInstant;

use super::object::Loaded;
use super::record;
use crate::clock;

/// Records per drain at most, so that the reader's other work gets its turn.
const DRAIN_RECORDS: usize = 4096;

/// How often the reader looks by itself while there is traffic: what live output may lag behind.
const POLL_INTERVAL: Duration = Duration::from_millis(8);

/// For how long after a wake-up or a find: several times the interval in which a CPU does not wake again.
const ACTIVE_FOR: Duration = Duration::from_nanos(4 * WAKE_INTERVAL_NANOS);

pub(super) struct Rings {
    /// Made at the first wait, because they need a runtime.
    wakers: Option<(AsyncFd<OwnedFd>, AsyncFd<OwnedFd>)>,
    control: RingBuf<MapData>,
    data: RingBuf<MapData>,
    active_until: Instant,
    /// The last drain stopped at its bound.
    more: bool,
}

impl Rings {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        let mut ring = |name| -> anyhow::Result<RingBuf<MapData>> {
            RingBuf::try_from(loaded.take_map(name)?).with_context(|| format!("open ring {name}"))
        };
        Ok(Self {
            wakers: None,
            control: ring("TRACER_CTRL")?,
            data: ring("TRACER_DATA")?,
            active_until: Instant::now(),
            more: false,
        })
    }

    pub(super) async fn readable(&mut self) -> std::io::Result<()> {
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
        let active = Instant::now() < self.active_until;
        tokio::select! {
            guard = control.readable() => guard?.clear_ready(),
            guard = data.readable() => guard?.clear_ready(),
            () = tokio::time::sleep(POLL_INTERVAL), if active => return Ok(()),
        }
        self.active_until = Instant::now() + ACTIVE_FOR;
        Ok(())
    }

    /// Hands out what is there. A data record is handed out only after every control record that was made before it:
    /// the control ring is read again whenever the data are younger than its last reading.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut count = 0;
        let mut control_read_at = KernelInstant::ZERO;
        let read_control = |control: &mut RingBuf<MapData>, each: &mut dyn FnMut(&[u8])| {
            let now = clock::now();
            let mut found = 0;
            while let Some(item) = control.next() {
                each(record::trimmed(&item));
                found += 1;
            }
            (now, found)
        };
        while count < DRAIN_RECORDS {
            let Some(item) = self.data.next() else {
                break;
            };
            if record::time(&item) >= control_read_at {
                let (now, found) = read_control(&mut self.control, &mut each);
                control_read_at = now;
                count += found;
            }
            each(record::trimmed(&item));
            count += 1;
        }
        self.more = count >= DRAIN_RECORDS;
        count += read_control(&mut self.control, &mut each).1;
        if count > 0 {
            self.active_until = Instant::now() + ACTIVE_FOR;
        }
    }
}
