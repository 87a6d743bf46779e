//! Ends probes: the kernel waits for a grace period for each link, and one is enough for many at a time.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use aya::programs::uprobe::UProbeLink;

/// A link of the kernel's: probes that end when it is dropped, which takes a grace period.
pub(super) enum Link {
    One(#[expect(dead_code, reason = "it is there to be dropped")] UProbeLink),
    Many(#[expect(dead_code, reason = "it is there to be dropped")] OwnedFd),
}

const THREADS: usize = 16;

pub(super) struct Reaper {
    dead: Option<Sender<Link>>,
    waiting: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Reaper {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (dead, inbox) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (inbox, waiting) = (Arc::clone(&inbox), Arc::clone(&waiting));
            threads.push(super::thread("tls-detach", move || run(&inbox, &waiting))?);
        }
        Ok(Self { dead: Some(dead), waiting, threads })
    }

    pub(super) fn end(&self, links: impl IntoIterator<Item = Link>) {
        let Some(dead) = &self.dead else { return };
        for link in links {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            // Else it ends here and now.
            let _ = dead.send(link);
        }
    }

    /// Links that are to end and have not yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for those that are to end.
    pub(super) fn finish(&mut self) {
        self.dead = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

fn run(inbox: &Mutex<Receiver<Link>>, waiting: &AtomicUsize) {
    loop {
        // Held while it waits for the next one, not while that ends.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(link) = next else { return };
        drop::<Link>(link);
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
