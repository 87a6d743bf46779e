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
    found: Receiver<(ProcessKey, Mapped)>,
}

impl Finder {
    /// `notify`: when there is something to take.
    pub(super) fn start(notify: Arc<Notify>) -> anyhow::Result<Self> {
        let (requests, inbox) = channel();
        let (outbox, found) = channel();
        super::thread("tls-look", move || run(&inbox, &outbox, &notify))?;
        Ok(Self { requests, found })
    }

    /// `once`: at once, and not again.
    pub(super) fn look(&self, process: ProcessKey, once: bool) {
        // The thread ends with this end of the channel only.
        let _ = self.requests.send((process, once));
    }

    pub(super) fn take(&self) -> Option<(ProcessKey, Mapped)> {
        self.found.try_recv().ok()
    }
}

fn run(inbox: &Receiver<(ProcessKey, bool)>, outbox: &Sender<(ProcessKey, Mapped)>, notify: &Notify) {
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
            if let Some(mapped) = tls::look(process, &mut known) {
                let size = mapped.libraries.len() + mapped.refused.len() + usize::from(mapped.moves_stacks);
                if told.insert(process, size) != Some(size) && size > 0 {
                    if outbox.send((process, mapped)).is_err() {
                        return;
                    }
                    notify.notify_one();
                }
            }
            if n == LOOKS.len() {
                told.remove(&process);
            }
        }
    }
}
