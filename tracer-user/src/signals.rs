//! Signals as a stream, with who sent them: a Ctrl-C at the terminal has reached the traced command too, a `kill` has not.
//!
//! The signals are blocked in every thread and read from a descriptor, so no handler runs and no state is shared. They
//! must be blocked before the first thread is started.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// What a user or the system asks with.
const REQUESTS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// `si_code` of a signal that a process sent with `kill`, `sigqueue` or `tgkill`; the kernel's own are positive.
const SI_USER: i32 = 0;

/// The signals are blocked. Remembers the mask from before, for the command that `run` starts.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: SigSet,
}

/// One signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    /// The process that sent it; `None` for the kernel: the terminal, an ended child.
    pub(crate) sender: Option<u32>,
}

impl Received {
    /// Somebody wants the tracer to end.
    pub(crate) const fn asks_to_end(self) -> bool {
        matches!(self.signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
    }
}

/// Yields the blocked signals.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: AsyncFd<SignalFd>,
}

/// Blocks requests to end and the news of ended children, in this thread and those it starts.
///
/// # Errors
/// None is known for these signals.
pub(crate) fn block() -> io::Result<Blocked> {
    let mut blocked = watched();
    // A background process that writes to a terminal with `tostop` set is stopped, unless this is blocked.
    blocked.add(Signal::SIGTTOU);
    let mut before = SigSet::empty();
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_BLOCK,
        Some(&blocked),
        Some(&mut before),
    )?;
    Ok(Blocked { before })
}

fn watched() -> SigSet {
    let mut set: SigSet = REQUESTS.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

/// From `/proc`: to ask the kernel is only possible by changing it.
fn ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as u32 - 1) & 1 != 0
}

impl Blocked {
    /// The mask that was in force before.
    pub(crate) const fn before(&self) -> SigSet {
        self.before
    }

    /// `runtime` is where they are to be read; it must have I/O. A hang-up that the tracer was started to ignore (`nohup`) is
    /// not told; an ignored interrupt is: shells ignore it for whatever they start in the background, and it is how
    /// the tracer is asked to end.
    ///
    /// # Errors
    /// When no descriptor can be had.
    pub(crate) fn stream(&self, runtime: &Handle) -> io::Result<Signals> {
        let _inside = runtime.enter();
        let mut watched = watched();
        if ignored(Signal::SIGHUP) {
            watched.remove(Signal::SIGHUP);
        }
        let fd = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // SAFETY: the signalfd owns its descriptor, hands it out to nobody and is dropped after the registration.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Signals { fd })
    }
}

impl Signals {
    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Received> {
        loop {
            let mut ready = self.fd.readable_mut().await?;
            let Some(info) = ready.get_inner_mut().read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let Ok(number) = i32::try_from(info.ssi_signo) else { continue };
            let Ok(signal) = Signal::try_from(number) else { continue };
            let sender = (info.ssi_code <= SI_USER).then_some(info.ssi_pid);
            return Ok(Received { signal, sender });
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_ignored() {
        // The runtime of every Rust program ignores this one.
        assert!(ignored(Signal::SIGPIPE));
        assert!(!ignored(Signal::SIGWINCH));
    }

    use nix::sys::pthread::{pthread_kill, pthread_self};

    use super::*;

    #[tokio::test]
    async fn a_sent_signal_names_its_sender() {
        let blocked = block().unwrap();
        let mut signals = blocked.stream(&Handle::current()).unwrap();
        // To this thread only: other tests of this process run beside it.
        pthread_kill(pthread_self(), Signal::SIGUSR1).unwrap();
        let received = signals.next().await.unwrap();
        assert_eq!(received, Received { signal: Signal::SIGUSR1, sender: Some(std::process::id()) });
        assert!(!blocked.before().contains(Signal::SIGUSR1));
    }
}
