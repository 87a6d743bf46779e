//! What became of the spans, per destination.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A count that several parties add to.
pub(crate) type Count = Arc<AtomicU64>;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) delivered: Count,
    pub(super) rejected: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) error: Mutex<Option<String>>,
}

/// Every span that was pushed is in exactly one of `delivered`, `refused`, `rejected`, `failed` and `unsent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DestinationStats {
    /// A path, a URL or `standard error`.
    pub(crate) name: String,
    /// Written, or accepted by the receiver.
    pub(crate) delivered: u64,
    /// Found the queue full, or the output ended.
    pub(crate) refused: u64,
    /// The receiver took the request and rejected these spans of it.
    pub(crate) rejected: u64,
    /// The receiver refused the request, or could not be reached for as long as a batch is tried.
    pub(crate) failed: u64,
    /// Still on its way; lost if it is after the shutdown.
    pub(crate) unsent: u64,
    /// Requests that were sent again.
    pub(crate) retries: u64,
    /// The last reason for a loss, where there was one.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExportStats {
    pub(crate) pushed: u64,
    pub(crate) destinations: Vec<DestinationStats>,
}

impl Counters {
    pub(super) fn stats(&self, name: &str, pushed: u64, refused: u64) -> DestinationStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (delivered, rejected, failed) = (load(&self.delivered), load(&self.rejected), load(&self.failed));
        DestinationStats {
            name: name.to_owned(),
            delivered,
            refused,
            rejected,
            failed,
            unsent: pushed.saturating_sub(delivered + refused + rejected + failed),
            retries: load(&self.retries),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(super) fn note_error(&self, error: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl DestinationStats {
    /// After the shutdown: spans that did not arrive.
    pub(crate) fn lost(&self) -> u64 {
        self.refused + self.rejected + self.failed + self.unsent
    }
}

#[cfg(test)]
impl ExportStats {
    /// After the shutdown: losses of all destinations.
    pub(crate) fn lost(&self) -> u64 {
        self.destinations.iter().map(DestinationStats::lost).sum()
    }
}

/// One line of an exit summary, such as `40 spans to http://collector:4318/v1/traces; lost 2 (queue full 2)`.
impl fmt::Display for DestinationStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spans to {}", self.delivered, self.name)?;
        if self.lost() > 0 {
            write!(f, "; lost {}", self.lost())?;
            let reasons = [
                ("queue full", self.refused),
                ("rejected", self.rejected),
                ("failed", self.failed),
                ("unsent", self.unsent),
            ];
            let reasons = reasons.iter().filter(|(_, count)| *count > 0);
            let reasons: Vec<String> = reasons.map(|(name, count)| format!("{name} {count}")).collect();
            write!(f, " ({})", reasons.join(", "))?;
            if let Some(error) = &self.error {
                write!(f, ": {error}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_line_names_every_reason() {
        let counters = Counters::default();
        counters.delivered.store(40, Ordering::Relaxed);
        assert_eq!(counters.stats("spans", 40, 0).to_string(), "40 spans to spans");
        counters.rejected.store(1, Ordering::Relaxed);
        counters.note_error("too old".to_owned());
        assert_eq!(
            counters.stats("spans", 50, 2).to_string(),
            "40 spans to spans; lost 10 (queue full 2, rejected 1, unsent 7): too old"
        );
    }
}
