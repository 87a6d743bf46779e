//! The thread that looks at what processes have mapped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracer_abi::task::ProcessKey;

use crate::tls::{self, Mapped};

/// When a process is looked at: a program maps its libraries within milliseconds, and what it loads later within seconds.
const LOOKS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(150),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

pub(super) struct Finder {
    requests: Sender<(ProcessKey, bool)>,
    found: Receiver<Found>,
    /// Requests whose first look is not over.
    waiting: usize,
}

/// What a look came to.
struct Found {
    process: ProcessKey,
    mapped: Mapped,
    is_first: bool,
}

impl Finder {
    /// `notify`: when there is something to take.
    pub(super) fn start(notify: Arc<Notify>) -> anyhow::Result<Self> {
        let (requests, inbox) = channel();
        let (outbox, found) = channel();
        super::thread("tls-look", move || run(&inbox, &outbox, &notify))?;
        Ok(Self { requests, found, waiting: 0 })
    }

    /// `once`: at once, and not again.
    pub(super) fn look(&mut self, process: ProcessKey, once: bool) {
        self.waiting += 1;
        // The thread ends with this end of the channel only.
        let _ = self.requests.send((process, once));
    }

    pub(super) fn take(&mut self) -> Option<(ProcessKey, Mapped)> {
        let found = self.found.try_recv().ok()?;
        Some(self.taken(found))
    }

    /// The same, and waits for the first look at a process, up to this long.
    pub(super) fn wait(&mut self, patience: Duration) -> Option<(ProcessKey, Mapped)> {
        if self.waiting == 0 {
            return None;
        }
        let found = self.found.recv_timeout(patience).ok()?;
        Some(self.taken(found))
    }

    fn taken(&mut self, found: Found) -> (ProcessKey, Mapped) {
        self.waiting = self.waiting.saturating_sub(usize::from(found.is_first));
        (found.process, found.mapped)
    }
}

fn run(inbox: &Receiver<(ProcessKey, bool)>, outbox: &Sender<Found>, notify: &Notify) {
    let mut known = tls::Known::new();
    let mut due: BinaryHeap<Reverse<(Instant, ProcessKey, usize)>> = BinaryHeap::new();
    let mut told: BTreeMap<ProcessKey, usize> = BTreeMap::new();
    loop {
        let next = due.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok((process, once)) => {
                let looks = if once { &LOOKS[..1] } else { &LOOKS[..] };
                let now = Instant::now();
                due.extend(looks.iter().zip(1..).map(|(after, n)| Reverse((now + *after, process, n))));
                told.remove(&process);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(Reverse((at, process, n))) = due.peek().copied()
            && at <= Instant::now()
        {
            due.pop();
            let mapped = tls::look(process, &mut known).unwrap_or_default();
            let size = mapped.libraries.len() + mapped.refused.len() + usize::from(mapped.moves_stacks);
            let is_first = n == 1;
            if told.insert(process, size) != Some(size) && size > 0 || is_first {
                if outbox.send(Found { process, mapped, is_first }).is_err() {
                    return;
                }
                notify.notify_one();
            }
            if n == LOOKS.len() {
                told.remove(&process);
            }
        }
    }
}
