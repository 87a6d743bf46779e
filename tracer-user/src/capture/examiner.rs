//! Examines processes on a thread of its own: it takes milliseconds each, and the rings must be read meanwhile.

use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::Context as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracer_abi::task::ProcessKey;

/// Orders that wait at most: a second's worth of them. What finds no room is ordered later.
const MAX_ORDERS: usize = 1024;

/// Which examination of a process: what was found before it executed another program says nothing of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// What an examination has brought.
#[derive(Debug)]
pub(super) struct Found<F> {
    pub(super) ticket: Ticket,
    pub(super) process: ProcessKey,
    pub(super) finding: F,
}

/// The thread ends with it, but for the process that it looks at.
pub(super) struct Examiner<F> {
    orders: SyncSender<(Ticket, ProcessKey)>,
    /// As many as orders at most.
    found: UnboundedReceiver<Found<F>>,
    /// Came in while somebody waited.
    next: Option<Found<F>>,
    last: Ticket,
}

impl<F: Send + 'static> Examiner<F> {
    /// # Errors
    ///
    /// When there can be no more threads.
    pub(super) fn start(examine: fn(ProcessKey) -> F) -> anyhow::Result<Self> {
        let (orders, ordered) = sync_channel(MAX_ORDERS);
        let (finds, found) = unbounded_channel();
        std::thread::Builder::new()
            .name("examiner".to_owned())
            .spawn(move || {
                for (ticket, process) in ordered {
                    let finding = examine(process);
                    if finds.send(Found { ticket, process, finding }).is_err() {
                        break;
                    }
                }
            })
            .context("start the thread that examines processes")?;
        Ok(Self { orders, found, next: None, last: Ticket(0) })
    }

    /// Has a process examined. `None`: too many wait.
    pub(super) fn order(&mut self, process: ProcessKey) -> Option<Ticket> {
        self.last.0 += 1;
        self.orders.try_send((self.last, process)).ok()?;
        Some(self.last)
    }

    /// The next result that is there.
    pub(super) fn found(&mut self) -> Option<Found<F>> {
        self.next.take().or_else(|| self.found.try_recv().ok())
    }

    /// Waits for a result. Cancel safe.
    pub(super) async fn readable(&mut self) {
        if self.next.is_none() {
            match self.found.recv().await {
                Some(found) => self.next = Some(found),
                // The thread has died of a panic, which is said elsewhere: nothing more comes.
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Finding, examine};
    use tracer_abi::task::Tgid;

    fn nobody(start_boottime: u64) -> ProcessKey {
        // Above any `pid_max`.
        ProcessKey { tgid: Tgid(u32::MAX >> 1), start_boottime }
    }

    #[tokio::test]
    async fn what_is_ordered_is_found() {
        let mut examiner = Examiner::start(examine).unwrap();
        let tickets: Vec<_> = (0..3).map(|start| examiner.order(nobody(start)).unwrap()).collect();
        let mut found = Vec::new();
        while found.len() < 3 {
            examiner.readable().await;
            found.extend(std::iter::from_fn(|| examiner.found()));
        }
        for (start, (found, ticket)) in found.iter().zip(&tickets).enumerate() {
            assert_eq!((found.ticket, found.process), (*ticket, nobody(start as u64)));
            assert!(matches!(found.finding, Finding::Nothing));
        }
        assert!(examiner.found().is_none());
    }

    #[test]
    fn what_finds_no_room_is_refused() {
        let mut examiner = Examiner::start(examine).unwrap();
        let refused = (0..1_000_000).any(|start| examiner.order(nobody(start)).is_none());
        assert!(refused, "a thread that reads files keeps up with a loop");
    }
}
