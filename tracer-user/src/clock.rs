//! The only reader of system clocks, and the mapping from kernel time to wall-clock time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracer_abi::time::KernelInstant;

/// Maps [`KernelInstant`] to Unix time. The offset is taken once per run, so spans of a run stay consistent when
/// the wall clock is stepped meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WallClock {
    /// Unix time at kernel instant zero, in nanoseconds.
    offset_nanos: u64,
}

impl WallClock {
    /// Reads both clocks now.
    pub(crate) fn synchronised() -> Self {
        // The tighter of several readings: the thread may be preempted between the two clocks.
        let reading = (0..5)
            .map(|_| {
                let before = now();
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                let after = now();
                let middle = before.as_nanos() + after.since(before).as_nanos() as u64 / 2;
                (after.since(before), (wall.as_nanos() as u64).saturating_sub(middle))
            })
            .min();
        Self { offset_nanos: reading.map_or(0, |(_, offset)| offset) }
    }

    /// As a recording states it.
    pub(crate) const fn from_offset_nanos(offset_nanos: u64) -> Self {
        Self { offset_nanos }
    }

    pub(crate) const fn offset_nanos(self) -> u64 {
        self.offset_nanos
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) const fn unix_nanos(self, instant: KernelInstant) -> u64 {
        self.offset_nanos.saturating_add(instant.as_nanos())
    }
}

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
pub(crate) fn now() -> KernelInstant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    KernelInstant::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_time_maps_to_the_wall_clock() {
        let clock = WallClock::synchronised();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let mapped = clock.unix_nanos(now());
        assert!(mapped.abs_diff(wall) < 100_000_000, "{mapped} against {wall}");
        assert_eq!(WallClock::from_offset_nanos(clock.offset_nanos()), clock);
    }
}
