//! What a run came to, in a few lines: for the person who ran it, and for the one who has to find out why it is empty.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use tracer_abi::error::KernelLoss;
use tracer_abi::sniff::Class;
use tracer_core::span::BELOW_CONFIDENCE;

use crate::capture::IdentityCost;
use crate::export::ExportStats;
use crate::recorder::RecorderStats;

/// Lines of one kind at most; the rest is summed up.
const MAX_LINES: usize = 10;

/// Everything that the exit summary says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) counts: Counts,
    /// Losses in the kernel half, by reason.
    pub(crate) kernel_losses: BTreeMap<KernelLoss, u64>,
    /// Losses in the core, by the counter's name.
    pub(crate) core_losses: Vec<(&'static str, u64)>,
    pub(crate) unrecognised: Vec<UnrecognisedTraffic>,
    /// How right the ways to find parents were; empty if that was not asked for.
    pub(crate) accuracy: Vec<String>,
    /// Where hand-offs between threads were followed.
    pub(crate) handoffs: Vec<String>,
    pub(crate) export: ExportStats,
    /// What it took to ask runtimes whose work operations were.
    pub(crate) identity: IdentityCost,
    pub(crate) recording: Option<RecorderStats>,
    /// Frames that the recording says are missing in it; for a replay.
    pub(crate) recording_gap: u64,
}

/// What went through the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Handed to the exporters.
    pub(crate) spans: u64,
    /// Distinct processes that they are of.
    pub(crate) services: u64,
    /// Not handed on, because their caller marked them as not sampled.
    pub(crate) unsampled: u64,
    /// Not handed on, because their programs report them themselves.
    pub(crate) suppressed: u64,
    /// Of `spans`: those whose parent was looked for and not found, by reason.
    pub(crate) undecided: BTreeMap<&'static str, u64>,
    pub(crate) processes: u64,
    pub(crate) connections: u64,
    /// Socket operations that moved bytes.
    pub(crate) operations: u64,
}

/// A process's connections that were not of a protocol that yields spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnrecognisedTraffic {
    pub(crate) pid: u32,
    /// What it is called.
    pub(crate) name: String,
    pub(crate) class: Class,
    /// Of TLS: why its plaintext was not seen.
    pub(crate) why: Option<String>,
    pub(crate) connections: u64,
    pub(crate) bytes: u64,
}

impl Summary {
    /// One message per line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.spans()];
        let Counts { unsampled, suppressed, .. } = self.counts;
        if let Some(unsure) = self.counts.undecided.get(BELOW_CONFIDENCE) {
            lines.push(format!(
                "{} less sure than asked for: linked to, and not claimed (a lower --min-confidence claims them)",
                number(*unsure, "parent")
            ));
        }
        if suppressed > 0 {
            lines.push(format!(
                "{} of calls that their programs report themselves not exported (--sdk-spans keep shows them)",
                number(suppressed, "span")
            ));
        }
        if unsampled > 0 {
            lines.push(format!(
                "{} of unsampled traces not exported (--include-unsampled shows them)",
                number(unsampled, "span")
            ));
        }
        if self.counts.spans + unsampled + suppressed == 0 {
            lines.push(self.why_nothing());
        }
        lines.extend(self.identity());
        lines.extend(self.losses());
        lines.extend(self.unrecognised());
        lines.extend(self.handoffs.iter().cloned());
        lines.extend(self.accuracy.iter().cloned());
        lines
    }

    fn identity(&self) -> Option<String> {
        let IdentityCost { looks, nanos, rests } = self.identity;
        let asked = (looks > 0).then(|| {
            let micros = nanos as f64 / looks as f64 / 1e3;
            format!("runtimes asked {}, {micros:.1} µs each", number(looks, "time"))
        });
        let rested = (rests > 0)
            .then(|| format!("a process was left alone for what asking costs {}", number(rests, "time")));
        let said: Vec<String> = asked.into_iter().chain(rested).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn spans(&self) -> String {
        let Counts { spans, services, undecided, .. } = &self.counts;
        let mut line = number(*spans, "span");
        if *spans > 0 {
            line += &format!(" of {}", number(*services, "process"));
            let total: u64 = undecided.values().sum();
            line += &format!("; parent undecided for {total}");
            if total > 0 {
                line += &format!(" ({})", list(undecided.iter().map(|(reason, count)| (*reason, *count))));
            }
        }
        line
    }

    /// The first thing on the way from a program to a span that did not happen.
    fn why_nothing(&self) -> String {
        let Counts { processes, connections, operations, .. } = self.counts;
        let has = |class| self.unrecognised.iter().any(|traffic| traffic.class == class);
        if processes == 0 {
            "no traced process did anything: does a selector match, and was there traffic meanwhile?"
                .to_owned()
        } else if connections == 0 && operations == 0 {
            "the traced processes opened no TCP or Unix stream connection and used none".to_owned()
        } else if operations == 0 {
            format!("{} were seen, but no byte on them", number(connections, "connection"))
        } else if has(Class::Tls) {
            "the traffic was encrypted (TLS), and its plaintext was not seen; below is why".to_owned()
        } else if has(Class::Http2) {
            "the traffic was HTTP/2, and no whole request was seen in it".to_owned()
        } else if self.unrecognised.is_empty() {
            format!("{} were seen, but no whole request", number(operations, "socket operation"))
        } else {
            "the traffic was of no protocol that is read".to_owned()
        }
    }

    fn losses(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let kernel = self.kernel_losses.iter().map(|(loss, count)| (loss.name(), *count));
        let core = self.core_losses.iter().copied();
        let events: Vec<_> = kernel.chain(core).filter(|(_, count)| *count > 0).collect();
        if !events.is_empty() {
            lines.push(format!("lost: {}", list(events.into_iter())));
        }
        for destination in &self.export.destinations {
            if destination.lost() > 0 {
                lines.push(destination.to_string());
            }
        }
        if let Some(recording) = &self.recording {
            let RecorderStats { written_bytes, dropped_frames, stopped } = recording;
            let mut line = format!("recorded {}", bytes(*written_bytes));
            if *dropped_frames > 0 {
                line += &format!("; {} did not get through to the disk", number(*dropped_frames, "event"));
            }
            if *stopped {
                line += "; it ended before the run";
            }
            lines.push(line);
        }
        if self.recording_gap > 0 {
            lines.push(format!("the recording lacks {}", number(self.recording_gap, "event")));
        }
        lines
    }

    /// What processes of one name had in the same way is one line.
    fn unrecognised(&self) -> Vec<String> {
        let mut alike: BTreeMap<_, (u64, UnrecognisedTraffic)> = BTreeMap::new();
        for one in &self.unrecognised {
            match alike.entry((&one.name, one.class.code(), &one.why)) {
                Entry::Vacant(first) => drop(first.insert((1, one.clone()))),
                Entry::Occupied(mut others) => {
                    let (processes, all) = others.get_mut();
                    *processes += 1;
                    all.pid = all.pid.min(one.pid);
                    all.connections += one.connections;
                    all.bytes += one.bytes;
                }
            }
        }
        let mut traffic: Vec<_> = alike.into_values().collect();
        traffic.sort_by(|(_, a), (_, b)| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let mut lines: Vec<String> = traffic
            .iter()
            .take(MAX_LINES)
            .map(|(processes, UnrecognisedTraffic { pid, name, class, why, connections, bytes })| {
                let more =
                    if *processes > 1 { format!(" and {} more", processes - 1) } else { String::new() };
                let what = match class {
                    Class::Tls => "TLS",
                    Class::Http2 => "HTTP/2",
                    // It looked like HTTP/1 and did not parse.
                    Class::Http1 => "malformed HTTP/1",
                    Class::FastCgi => "malformed FastCGI",
                    Class::Undecided | Class::Unknown => "an unknown protocol",
                };
                let connections = number(*connections, "connection");
                let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
                let bytes = self::bytes(*bytes);
                format!("not recognised: {name} ({pid}{more}): {what} on {connections}, {bytes}{why}")
            })
            .collect();
        if let Some(more) = traffic.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            lines.push(format!("not recognised: traffic of {more} more"));
        }
        lines
    }
}

/// `1 span`, `2 spans`, `2 processes`.
fn number(count: u64, noun: &str) -> String {
    match (count, noun.ends_with('s')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{count} {noun}es"),
        (_, false) => format!("{count} {noun}s"),
    }
}

fn list(counts: impl Iterator<Item = (impl fmt::Display, u64)>) -> String {
    let items: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
    items.join(", ")
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::DestinationStats;

    fn check(summary: Summary, want: &[&str]) {
        assert_eq!(summary.lines(), want);
    }

    #[test]
    fn a_good_run_is_one_line() {
        let undecided = BTreeMap::from([("event-loop", 3), ("no-candidate", 1)]);
        let counts = Counts { spans: 12, services: 2, undecided, ..Counts::default() };
        check(
            Summary { counts, ..Summary::default() },
            &["12 spans of 2 processes; parent undecided for 4 (event-loop 3, no-candidate 1)"],
        );
        let counts = Counts { spans: 1, services: 1, ..Counts::default() };
        check(Summary { counts, ..Summary::default() }, &["1 span of 1 process; parent undecided for 0"]);
        let undecided = BTreeMap::from([(BELOW_CONFIDENCE, 2)]);
        let counts = Counts { spans: 3, services: 1, undecided, ..Counts::default() };
        check(
            Summary { counts, ..Summary::default() },
            &[
                "3 spans of 1 process; parent undecided for 2 (below-confidence 2)",
                "2 parents less sure than asked for: linked to, and not claimed (a lower --min-confidence claims them)",
            ],
        );
    }

    #[test]
    fn an_empty_run_says_why() {
        let counts = |processes, connections, operations| Counts {
            processes,
            connections,
            operations,
            ..Counts::default()
        };
        for (counts, class, want) in [
            (counts(0, 0, 0), None, "no traced process did anything"),
            (counts(1, 0, 0), None, "opened no TCP or Unix stream connection"),
            (counts(1, 2, 0), None, "2 connections were seen, but no byte"),
            (counts(1, 1, 5), None, "no whole request"),
            (counts(1, 1, 5), Some(Class::Tls), "encrypted (TLS)"),
            (counts(1, 1, 5), Some(Class::Http2), "HTTP/2"),
            (counts(1, 1, 5), Some(Class::Unknown), "no protocol that is read"),
        ] {
            let unrecognised = class.map(|class| traffic("shop", 7, class, 1)).into_iter().collect();
            let lines = Summary { counts, unrecognised, ..Summary::default() }.lines();
            assert_eq!(lines[0], "0 spans");
            assert!(lines[1].contains(want), "{lines:?}");
        }
        let counts = Counts { suppressed: 1, ..Counts::default() };
        let want = "1 span of calls that their programs report themselves not exported (--sdk-spans keep shows them)";
        check(Summary { counts, ..Summary::default() }, &["0 spans", want]);
        let counts = Counts { unsampled: 2, ..Counts::default() };
        let want = "2 spans of unsampled traces not exported (--include-unsampled shows them)";
        check(Summary { counts, ..Summary::default() }, &["0 spans", want]);
    }

    fn traffic(name: &str, pid: u32, class: Class, bytes: u64) -> UnrecognisedTraffic {
        let why = (class == Class::Tls).then(|| "libx: stripped".to_owned());
        UnrecognisedTraffic { pid, name: name.to_owned(), class, why, connections: 1, bytes }
    }

    #[test]
    fn every_loss_is_said() {
        let counts = Counts { spans: 2, services: 1, ..Counts::default() };
        let destination = DestinationStats {
            name: "http://h".into(),
            delivered: 1,
            failed: 1,
            ..DestinationStats::default()
        };
        let recording = RecorderStats { written_bytes: 2_500_000, dropped_frames: 3, stopped: true };
        check(
            Summary {
                counts,
                kernel_losses: BTreeMap::from([(KernelLoss::DataRingFull, 4), (KernelLoss::PayloadFault, 0)]),
                core_losses: vec![("events_late", 0), ("thread_gaps", 1)],
                unrecognised: vec![
                    traffic("a", 1, Class::Tls, 5),
                    traffic("b", 2, Class::Unknown, 1500),
                    traffic("c", 3, Class::Http1, 1),
                ],
                handoffs: vec!["followed".to_owned()],
                accuracy: vec!["accuracy".to_owned()],
                export: ExportStats { pushed: 2, destinations: vec![destination] },
                identity: IdentityCost { looks: 2, nanos: 5000, rests: 1 },
                recording: Some(recording),
                recording_gap: 1,
            },
            &[
                "2 spans of 1 process; parent undecided for 0",
                "runtimes asked 2 times, 2.5 µs each; a process was left alone for what asking costs 1 time",
                "lost: data_ring_full 4, thread_gaps 1",
                "1 spans to http://h; lost 1 (failed 1)",
                "recorded 2.5 MB; 3 events did not get through to the disk; it ended before the run",
                "the recording lacks 1 event",
                "not recognised: b (2): an unknown protocol on 1 connection, 1.5 kB",
                "not recognised: a (1): TLS on 1 connection, 5 B (libx: stripped)",
                "not recognised: c (3): malformed HTTP/1 on 1 connection, 1 B",
                "followed",
                "accuracy",
            ],
        );
    }

    #[test]
    fn what_is_alike_is_one_line() {
        let unrecognised = (1..=25).map(|pid| traffic("curl", pid, Class::Tls, 4)).collect();
        let lines = Summary { unrecognised, ..Summary::default() }.lines();
        let want = "not recognised: curl (1 and 24 more): TLS on 25 connections, 100 B (libx: stripped)";
        assert_eq!(lines[2..], [want]);
    }

    #[test]
    fn long_lists_are_cut() {
        let unrecognised = (0..25).map(|n| traffic(&format!("p{n:02}"), 7, Class::Tls, n)).collect();
        let lines = Summary { unrecognised, ..Summary::default() }.lines();
        assert_eq!(lines.len(), 2 + MAX_LINES + 1);
        assert_eq!(lines[lines.len() - 1], "not recognised: traffic of 15 more");
    }
}
