//! The measured numbers: their file, their table in the README, and what they have to reach.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::repo::Repo;
use crate::{figures, readme};

/// Where the numbers are kept, below the repository's root.
pub(crate) const FILE: &str = "bench/overhead.json";

/// Name of the README's table.
const TABLE: &str = "overhead";

/// One measurement of the tracer's cost. Shares and ratios are in parts per thousand, so that what is written is what
/// is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overhead {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) processors: u64,
    /// Of two untraced and two traced slices each; all figures of throughput and latency are medians.
    pub(crate) blocks: u64,
    pub(crate) seconds_per_slice: u64,
    pub(crate) connections: u64,
    pub(crate) untraced_requests_per_s: u64,
    pub(crate) traced_requests_per_s: u64,
    /// The blocks' own ratios of traced to untraced throughput.
    pub(crate) throughput_permille: Spread,
    /// Processor time of nginx and wrk.
    pub(crate) untraced_cpu_ns_per_request: u64,
    /// The same, with that of the tracer and of the receiver of its spans.
    pub(crate) traced_cpu_ns_per_request: u64,
    /// The blocks' own ratios of the former to the latter.
    pub(crate) cpu_permille: Spread,
    pub(crate) untraced_p50_us: u64,
    pub(crate) traced_p50_us: u64,
    pub(crate) untraced_p99_us: u64,
    pub(crate) traced_p99_us: u64,
    /// The tracer's own processor time, in user space and kernel.
    pub(crate) cpu_ms_per_10k_requests: u64,
    /// Without the pages of its maps.
    pub(crate) peak_resident_bytes: u64,
    pub(crate) map_bytes: u64,
    /// Served by nginx while traced, by its own count.
    pub(crate) requests: u64,
    /// Received by the sink.
    pub(crate) spans: u64,
    /// Losses that the tracer counted, by name.
    pub(crate) counted_losses: BTreeMap<String, u64>,
    /// Ping-pong of a process that is not traced, beside a tracer at work: ratios to none of round trips per second.
    pub(crate) untraced_process_pace_permille: Spread,
    /// The same of processor time per round trip, which others on the machine do not change.
    pub(crate) untraced_process_cpu_permille: Spread,
}

/// A median, and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: u64,
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Spread {
    /// Parts per thousand as ratios.
    pub(super) fn ratios(self) -> String {
        format!("{} ({} to {})", decimal(self.median), decimal(self.low), decimal(self.high))
    }
}

impl Overhead {
    /// What is not as it should be, if anything.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                found.push(what);
            }
        };
        let throughput = self.throughput_permille.median;
        expect(throughput >= 750, format!("throughput {throughput} ‰ < 750 ‰"));
        let resident = mib(self.peak_resident_bytes);
        expect(self.peak_resident_bytes <= 40 << 20, format!("peak memory {resident} MiB > 40 MiB"));
        let maps = mib(self.map_bytes);
        expect(self.map_bytes <= 32 << 20, format!("kernel maps {maps} MiB > 32 MiB"));
        let missing = self.requests.saturating_sub(self.spans);
        expect(self.spans <= self.requests, format!("{} spans of {} requests", self.spans, self.requests));
        let counted: u64 = self.counted_losses.values().sum();
        expect(missing <= counted, format!("{missing} requests without a span, {counted} losses counted"));
        expect(missing.saturating_mul(1000) <= self.requests, format!("{missing} requests lost > 0.1 %"));
        let beside = self.untraced_process_cpu_permille.median;
        expect(beside <= 1030, format!("a process that is not traced takes {beside} ‰ > 1030 ‰"));
        found
    }

    /// The README's table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |what: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {what} | {value} |");
        };
        row("what", "measured".to_owned());
        row("---", "---".to_owned());
        row(
            "nginx `return 200`, keep-alive, requests per second, untraced → traced",
            format!(
                "{} → {}; ratio {}",
                self.untraced_requests_per_s,
                self.traced_requests_per_s,
                self.throughput_permille.ratios()
            ),
        );
        row(
            "processor time per request of all that works for it (nginx, wrk, tracer, receiver), untraced → traced",
            format!(
                "{} → {} µs; ratio {}",
                micros(self.untraced_cpu_ns_per_request),
                micros(self.traced_cpu_ns_per_request),
                self.cpu_permille.ratios()
            ),
        );
        row(
            "latency p50, untraced → traced",
            format!("{} → {} µs", self.untraced_p50_us, self.traced_p50_us),
        );
        row(
            "latency p99, untraced → traced",
            format!("{} → {} µs", self.untraced_p99_us, self.traced_p99_us),
        );
        row("tracer's processor time per 10,000 requests", format!("{} ms", self.cpu_ms_per_10k_requests));
        row(
            "tracer's peak resident memory, beside its maps",
            format!("{} MiB", mib(self.peak_resident_bytes)),
        );
        row("kernel maps", format!("{} MiB", mib(self.map_bytes)));
        row("requests served / spans received", format!("{} / {}", self.requests, self.spans));
        row("losses counted by the tracer", named(&self.counted_losses));
        row(
            "loopback ping-pong of a process that is not traced: processor time, beside the tracer : without it",
            self.untraced_process_cpu_permille.ratios(),
        );
        row("the same: round trips per second", self.untraced_process_pace_permille.ratios());
        let _ = writeln!(
            out,
            "\n`cargo xtask bench` at commit {}, Linux {}, {} processors, {} blocks of 4 slices of {} s, {} \
             connections. Ratios are\nmedians over the blocks, with the quartiles.",
            self.commit, self.kernel, self.processors, self.blocks, self.seconds_per_slice, self.connections
        );
        out
    }

    pub(crate) fn read(repo: &Repo) -> anyhow::Result<Self> {
        figures::read(repo, FILE)
    }

    /// Writes the file and the README's table.
    pub(crate) fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
        readme::write(repo, TABLE, &self.table())
    }

    /// Fails if the README's table is not the one of these numbers.
    pub(crate) fn check(&self, repo: &Repo) -> anyhow::Result<()> {
        readme::check(repo, TABLE, &self.table(), "cargo xtask bench --write")
    }
}

/// Losses by name.
pub(super) fn named(losses: &BTreeMap<String, u64>) -> String {
    if losses.is_empty() {
        return "none".to_owned();
    }
    let losses = losses.iter().map(|(name, count)| format!("{name} {count}"));
    losses.collect::<Vec<_>>().join(", ")
}

/// Parts per thousand as a ratio with three digits.
fn decimal(permille: u64) -> String {
    format!("{}.{:03}", permille / 1000, permille % 1000)
}

/// Nanoseconds as microseconds with two digits.
fn micros(nanos: u64) -> String {
    let hundredths = (nanos + 5) / 10;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// MiB with one digit.
pub(super) fn mib(bytes: u64) -> String {
    let tenths = (bytes * 10 + (1 << 19)) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(count: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("data_ring_full".to_owned(), count)])
    }

    fn around(median: u64) -> Spread {
        Spread { median, low: median - 20, high: median + 20 }
    }

    fn good() -> Overhead {
        Overhead {
            commit: "0123456".to_owned(),
            kernel: "6.12".to_owned(),
            processors: 2,
            blocks: 5,
            seconds_per_slice: 2,
            connections: 32,
            untraced_requests_per_s: 60_000,
            traced_requests_per_s: 48_000,
            throughput_permille: around(801),
            untraced_cpu_ns_per_request: 14_600,
            traced_cpu_ns_per_request: 18_400,
            cpu_permille: around(793),
            untraced_p50_us: 400,
            traced_p50_us: 500,
            untraced_p99_us: 900,
            traced_p99_us: 1_200,
            cpu_ms_per_10k_requests: 70,
            peak_resident_bytes: 31 << 20,
            map_bytes: 20 << 20,
            requests: 1_000_000,
            spans: 999_500,
            counted_losses: lost(500),
            untraced_process_pace_permille: around(990),
            untraced_process_cpu_permille: around(1_010),
        }
    }

    #[test]
    fn targets_are_checked_one_by_one() {
        assert_eq!(good().shortfalls(), [""; 0]);
        let bad = [
            Overhead { throughput_permille: around(749), ..good() },
            Overhead { peak_resident_bytes: (40 << 20) + 1, ..good() },
            Overhead { map_bytes: (32 << 20) + 1, ..good() },
            Overhead { counted_losses: lost(499), ..good() },
            Overhead { spans: 998_999, counted_losses: lost(1_001), ..good() },
            Overhead { spans: 1_000_001, ..good() },
            Overhead { untraced_process_cpu_permille: around(1_031), ..good() },
        ];
        for overhead in bad {
            assert_eq!(overhead.shortfalls().len(), 1, "{overhead:?}");
        }
    }

    #[test]
    fn the_readme_shows_the_numbers_of_the_file() {
        let repo = Repo::locate().unwrap();
        if repo.root().join(FILE).exists() {
            Overhead::read(&repo).unwrap().check(&repo).unwrap();
        } else {
            readme::check(&repo, TABLE, "", "cargo xtask bench --write").unwrap();
        }
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(decimal(801), "0.801");
        assert_eq!(decimal(1_002), "1.002");
        assert_eq!(around(801).ratios(), "0.801 (0.781 to 0.821)");
        assert_eq!(micros(14_605), "14.61");
        assert_eq!(mib(31 << 20), "31.0");
        assert_eq!(mib((31 << 20) + (600 << 10)), "31.6");
    }
}
