//! Ends probes: the kernel waits for a grace period for each link, and one is enough for many at a time.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use aya::programs::uprobe::UProbeLink;

/// A link of the kernel's: probes that end when it is dropped, which takes a grace period.
pub(in crate::capture) enum Link {
    One(#[expect(dead_code, reason = "it is there to be dropped")] UProbeLink),
    Many(#[expect(dead_code, reason = "it is there to be dropped")] OwnedFd),
}

const MAX_THREADS: usize = 16;

pub(in crate::capture) struct Reaper {
    dead: Option<Sender<Link>>,
    inbox: Arc<Mutex<Receiver<Link>>>,
    waiting: Arc<AtomicUsize>,
    /// As many as there ever were links to end at a time.
    threads: Vec<JoinHandle<()>>,
}

impl Reaper {
    pub(in crate::capture) fn new() -> Self {
        let (dead, inbox) = channel();
        Self {
            dead: Some(dead),
            inbox: Arc::new(Mutex::new(inbox)),
            waiting: Arc::new(AtomicUsize::new(0)),
            threads: Vec::new(),
        }
    }

    pub(in crate::capture) fn end(&mut self, links: impl IntoIterator<Item = Link>) {
        for link in links {
            let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
            if waiting >= self.threads.len() && self.threads.len() < MAX_THREADS {
                self.add_thread();
            }
            let is_sent =
                !self.threads.is_empty() && self.dead.as_ref().is_some_and(|dead| dead.send(link).is_ok());
            if !is_sent {
                // It has ended here and now.
                self.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Where none can be started, those that there are do it all.
    fn add_thread(&mut self) {
        let (inbox, waiting) = (Arc::clone(&self.inbox), Arc::clone(&self.waiting));
        if let Ok(thread) = super::thread("tls-detach", move || run(&inbox, &waiting)) {
            self.threads.push(thread);
        }
    }

    /// Links that are to end and have not yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for those that are to end.
    pub(in crate::capture) fn finish(&mut self) {
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
