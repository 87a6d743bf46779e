//! What threads sleep for between their operations: one socket alone, or any of several descriptors.
//!
//! Known of threads of followed processes only, whose sleeps [`crate::probes`] sees. A thread that sleeps for one socket
//! and then uses that one cannot have worked for another meanwhile; from operations alone, which do not wait, it looks
//! like an event loop. What follows from it is not decided here.

use tracer_abi::event::io_flags;

use crate::kernel::Task;
use crate::maps::{SleepState, TRACER_FOLLOWS, sleep_state};
use crate::probes::handoff::followed;
use crate::regs::{Awaited, Regs, read_user};

/// `struct pollfd`: the descriptor is its lower half.
const POLLFD_BYTES: u64 = 8;

/// The current thread falls asleep. `event_fds` as in `Followed`.
#[inline(always)]
pub(crate) fn note(sleep: &mut SleepState, regs: Regs, event_fds: u64) {
    match regs.awaited() {
        // A sleep for a time.
        Awaited::Nothing | Awaited::Polled { count: 0, .. } => {}
        Awaited::Polled { address, count: 1 } => match read_user::<u64>(address) {
            // A sleep until another thread has something to say, as at a futex.
            Some(polled) if is_event(polled, event_fds) => {}
            polled => note_one(sleep, polled),
        },
        Awaited::Polled { address, count: 2 }
            if read_user::<u64>(address + POLLFD_BYTES).is_some_and(|second| is_event(second, event_fds)) =>
        {
            note_one(sleep, read_user::<u64>(address));
        }
        Awaited::Polled { .. } | Awaited::Several => sleep.waits |= u32::from(io_flags::WAITED_SEVERAL),
    }
}

#[inline(always)]
fn note_one(sleep: &mut SleepState, polled: Option<u64>) {
    let Some(polled) = polled else {
        sleep.waits |= u32::from(io_flags::WAITED_SEVERAL);
        return;
    };
    let awaited = (polled as u32).wrapping_add(1);
    if sleep.awaited != 0 && sleep.awaited != awaited {
        sleep.waits |= u32::from(io_flags::WAITED_ASIDE);
    }
    sleep.awaited = awaited;
}

#[inline(always)]
fn is_event(polled: u64, event_fds: u64) -> bool {
    let descriptor = polled as u32;
    descriptor < u64::BITS && event_fds >> descriptor & 1 != 0
}

/// The current thread used the socket behind a descriptor, whether or not that is reported.
#[inline(always)]
pub(crate) fn used(task: Task) {
    if !any_followed() {
        return;
    }
    // SAFETY: the current task; nothing is allocated.
    let Some(sleep) = (unsafe { sleep_state(task, false) }) else {
        return;
    };
    if sleep.awaited != 0 {
        let meant = sleep.awaited == Regs::of(task).descriptor().wrapping_add(1);
        let bit = if meant { io_flags::WAITED_ALONE } else { io_flags::WAITED_ASIDE };
        sleep.waits |= u32::from(bit);
        sleep.awaited = 0;
    }
}

/// What the current thread has slept for since this was asked last: bits of `io_flags`.
#[inline(always)]
pub(crate) fn take(task: Task) -> u8 {
    if !any_followed() {
        return 0;
    }
    let followed = followed(task).is_some();
    // SAFETY: as above.
    let Some(sleep) = (unsafe { sleep_state(task, false) }) else {
        if followed {
            // A thread that uses sockets has its sleeps seen from then on, and not from its first wake-up only.
            // SAFETY: as above; no run queue is locked. Absent next time, too, if there is no memory now.
            let _ = unsafe { sleep_state(task, true) };
        }
        return 0;
    };
    let waits = sleep.waits as u8;
    sleep.waits = 0;
    if followed { io_flags::WAITS_KNOWN | waits } else { 0 }
}

#[inline(always)]
fn any_followed() -> bool {
    TRACER_FOLLOWS.get(0).is_some_and(|count| *count != 0)
}
