//! What the engine alone costs: `tracer replay` of a recording that is made for it.
//!
//! No kernel, no exporter: what is measured is the replay's processor time, which includes reading the recording, and the
//! most memory that it had resident. The exchanges are what a server behind keep-alive connections is seen to do, one
//! event loop, heads of the usual length. With few connections there are few exchanges open at once, with ten thousand
//! there are ten thousand: memory is to follow those, not the length of the run.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::mem::offset_of;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tracer_abi::conn::{Direction, Endpoint, Family, Role};
use tracer_abi::event::{ConnRecord, DataRecord, EventKind, Header, flags, io_flags};
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;
use tracer_core::event::{Event, HostFacts, ProcessDescribed, ProcessFacts};
use tracer_core::recording::{Preamble, Writer};
use tracer_tests::temp::TempDir;

use super::process;
use super::report::mib;
use crate::build;
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{figures, readme};

/// Where the numbers are kept, below the repository's root.
const FILE: &str = "bench/engine.json";

/// Name of the README's table.
const TABLE: &str = "engine";

/// Processor time of an exchange at most.
const MAX_NANOS: u64 = 2_000;

/// Few connections, that is.
const CONNECTIONS: u64 = 64;

/// How often the replay's memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Of memory, how much ten times as many exchanges may add, in parts per hundred: what an allocator keeps.
const MAX_GROWTH_PERCENT: u64 = 20;

/// Measure what the engine costs on recorded exchanges
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench engine --write")]
pub(crate) struct Options {
    /// Exchanges in the long recordings; the short one has a tenth
    #[arg(long, default_value_t = 1_000_000)]
    exchanges: u64,
    /// Write the long recording of few connections to this file instead of replaying it: for a profiler
    #[arg(long, value_name = "FILE", conflicts_with = "write")]
    recording: Option<PathBuf>,
    /// Write the numbers to bench/engine.json and to the README's table
    #[arg(long)]
    write: bool,
}

/// One replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    exchanges: u64,
    connections: u64,
    open_at_once: u64,
    nanos_per_exchange: u64,
    peak_resident_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    commit: String,
    runs: Vec<Run>,
}

pub(super) fn run(repo: &Repo, options: &Options) -> anyhow::Result<()> {
    if let Some(path) = &options.recording {
        return make_recording(path, options.exchanges, CONNECTIONS, 1);
    }
    setup::prepare(repo, &[Group::Build, Group::Bench])?;
    build::run(repo, &build::Options::INSTALLED)?;
    let mut cost = Cost { commit: repo.commit()?, runs: Vec::new() };
    // Few connections take turns; with many, all requests are there before the first answer.
    for (exchanges, connections, open_at_once) in [
        (options.exchanges / 10, CONNECTIONS, 1),
        (options.exchanges, CONNECTIONS, 1),
        (options.exchanges, 10_000, 10_000),
    ] {
        let run = replay(repo, exchanges, connections, open_at_once)?;
        println!("{}", run.line());
        cost.runs.push(run);
    }
    if options.write {
        cost.write(repo)?;
    }
    let shortfalls = cost.shortfalls();
    if shortfalls.is_empty() { Ok(()) } else { bail!("{}", shortfalls.join("; ")) }
}

/// Writes a recording to a new file: of so many exchanges on so many connections, and how many of them are open at once.
pub(crate) fn make_recording(
    path: &Path,
    exchanges: u64,
    connections: u64,
    open_at_once: u64,
) -> anyhow::Result<()> {
    let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
    let mut recording = Recording::new(BufWriter::with_capacity(1 << 20, file))?;
    recording.write(exchanges, connections, open_at_once).context("write the recording")
}

fn replay(repo: &Repo, exchanges: u64, connections: u64, open_at_once: u64) -> anyhow::Result<Run> {
    // Made before: on a processor's other thread it would slow down what is measured.
    let folder = TempDir::new()?;
    let path = folder.join("recording");
    make_recording(&path, exchanges, connections, open_at_once)?;
    let before = process::children_cpu_time()?;
    let mut tracer = Command::new(repo.tracer())
        .arg("replay")
        .arg(&path)
        .args(["--format", "none"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the replay")?;
    let mut peak_resident_bytes = 0;
    while tracer.try_wait().context("wait for the replay")?.is_none() {
        // Of one that has just ended there is none.
        peak_resident_bytes = process::peak_resident(tracer.id()).unwrap_or(0).max(peak_resident_bytes);
        std::thread::sleep(LOOK);
    }
    let output = tracer.wait_with_output().context("read what the replay says")?;
    let summary = String::from_utf8_lossy(&output.stderr);
    if !summary.contains(&format!("{exchanges} spans of 1 process")) || summary.contains("lost") {
        bail!("not every exchange became a span: {summary}");
    }
    let cpu = process::children_cpu_time()?.saturating_sub(before);
    Ok(Run {
        exchanges,
        connections,
        open_at_once,
        nanos_per_exchange: cpu.as_nanos() as u64 / exchanges.max(1),
        peak_resident_bytes,
    })
}

impl Run {
    fn line(&self) -> String {
        format!(
            "{} exchanges on {} connections, {} open at once: {}.{:02} µs of processor time each ({} per second), peak \
             resident memory {} MiB",
            self.exchanges,
            self.connections,
            self.open_at_once,
            self.nanos_per_exchange / 1000,
            self.nanos_per_exchange % 1000 / 10,
            self.per_second(),
            mib(self.peak_resident_bytes)
        )
    }

    const fn per_second(&self) -> u64 {
        1_000_000_000 / if self.nanos_per_exchange == 0 { 1 } else { self.nanos_per_exchange }
    }
}

impl Cost {
    fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        for run in self.runs.iter().filter(|run| run.nanos_per_exchange > MAX_NANOS) {
            found.push(format!("{} ns per exchange > {MAX_NANOS}: {}", run.nanos_per_exchange, run.line()));
        }
        for long in &self.runs {
            let short = self.runs.iter().find(|short| {
                (short.connections, short.open_at_once) == (long.connections, long.open_at_once)
                    && short.exchanges < long.exchanges
            });
            let Some(short) = short else { continue };
            if long.peak_resident_bytes * 100 > short.peak_resident_bytes * (100 + MAX_GROWTH_PERCENT) {
                found.push(format!(
                    "memory grows with the number of exchanges: {} and {} MiB",
                    mib(short.peak_resident_bytes),
                    mib(long.peak_resident_bytes)
                ));
            }
        }
        found
    }

    fn table(&self) -> String {
        let mut out = String::from(
            "| exchanges | connections | open at once | processor time per exchange | exchanges per second | peak \
             resident memory |\n|---|---|---|---|---|---|\n",
        );
        for run in &self.runs {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {} | {}.{:02} µs | {} | {} MiB |",
                run.exchanges,
                run.connections,
                run.open_at_once,
                run.nanos_per_exchange / 1000,
                run.nanos_per_exchange % 1000 / 10,
                run.per_second(),
                mib(run.peak_resident_bytes)
            );
        }
        let _ = writeln!(out, "\n`cargo xtask bench engine` at commit {}.", self.commit);
        out
    }

    fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
        readme::write(repo, TABLE, &self.table())
    }

    #[cfg(test)]
    fn read(repo: &Repo) -> anyhow::Result<Self> {
        figures::read(repo, FILE)
    }
}

const PROCESS: ProcessKey = ProcessKey { tgid: Tgid(1000), start_boottime: 5_000_000_000 };
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 01 Mar 2026 10:00:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nhello\n";

/// Writes what the kernel half would have reported.
struct Recording<W: Write> {
    out: Writer<W>,
    now: u64,
    events: u32,
    record: Vec<u8>,
}

/// Bytes that a connection has moved.
#[derive(Clone, Copy, Default)]
struct Moved {
    ingress: u64,
    egress: u64,
}

impl<W: Write> Recording<W> {
    fn new(out: W) -> anyhow::Result<Self> {
        let out = Writer::new(
            out,
            &Preamble::new("bench", 1_772_000_000_000_000_000, HostFacts::default(), [7; 32]),
        )?;
        Ok(Self { out, now: 10_000_000_000, events: 0, record: Vec::new() })
    }

    fn write(&mut self, exchanges: u64, connections: u64, open_at_once: u64) -> anyhow::Result<()> {
        let described = ProcessDescribed {
            time: KernelInstant::from_nanos(self.now),
            process: PROCESS,
            facts: ProcessFacts { service_name: "bench".to_owned(), ..ProcessFacts::default() },
        };
        self.out.event(&Event::ProcessDescribed(Box::new(described)))?;
        let mut moved = vec![Moved::default(); usize::try_from(connections)?];
        for cookie in 1..=connections {
            self.opened(cookie)?;
        }
        let mut begun = 0;
        while begun < exchanges {
            let turn = open_at_once.min(exchanges - begun);
            for number in begun..begun + turn {
                let request = format!(
                    "GET /items/{number} HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: load/1.0\r\n\
                     Accept: */*\r\n\r\n"
                );
                self.moved(Direction::Ingress, number % connections, request.as_bytes(), &mut moved)?;
            }
            for number in begun..begun + turn {
                self.moved(Direction::Egress, number % connections, RESPONSE, &mut moved)?;
            }
            begun += turn;
        }
        self.out.flush().context("flush the recording")
    }

    fn opened(&mut self, cookie: u64) -> anyhow::Result<()> {
        let local = Endpoint::new(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 8080)));
        let port = u16::try_from(20_000 + cookie % 40_000)?;
        let remote = Endpoint::new(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), port)));
        self.begin(EventKind::ConnOpened, size_of::<ConnRecord>(), 0, 0);
        self.put(offset_of!(ConnRecord, cookie), &cookie.to_le_bytes());
        self.put_endpoint(offset_of!(ConnRecord, local), local);
        self.put_endpoint(offset_of!(ConnRecord, remote), remote);
        self.put(offset_of!(ConnRecord, family), &Family::Inet.code().to_le_bytes());
        self.put(offset_of!(ConnRecord, role), &[Role::Server.code()]);
        self.out.kernel_record(&self.record).context("write a record")
    }

    fn moved(
        &mut self,
        direction: Direction,
        connection: u64,
        payload: &[u8],
        moved: &mut [Moved],
    ) -> anyhow::Result<()> {
        let moved = moved.get_mut(usize::try_from(connection)?).context("connection")?;
        let offset = match direction {
            Direction::Ingress => &mut moved.ingress,
            Direction::Egress => &mut moved.egress,
        };
        let len = u32::try_from(payload.len())?;
        let (start, end) = (*offset, *offset + u64::from(len));
        *offset = end;
        self.events += 1;
        self.begin(EventKind::DataMoved, size_of::<DataRecord>() + payload.len(), flags::LAST, self.events);
        self.put(offset_of!(DataRecord, cookie), &(connection + 1).to_le_bytes());
        self.put(offset_of!(DataRecord, offset), &start.to_le_bytes());
        self.put(offset_of!(DataRecord, result), &len.to_le_bytes());
        // Positions count from sequence number zero.
        self.put(offset_of!(DataRecord, tcp_seq_end), &(end as u32).to_le_bytes());
        self.put(offset_of!(DataRecord, head_len), &len.to_le_bytes());
        self.put(offset_of!(DataRecord, payload_len), &len.to_le_bytes());
        self.put(offset_of!(DataRecord, direction), &[direction.code()]);
        self.put(offset_of!(DataRecord, class), &[Class::Http1.code()]);
        self.put(offset_of!(DataRecord, io_flags), &[io_flags::NONBLOCKING]);
        self.put(size_of::<DataRecord>(), payload);
        self.out.kernel_record(&self.record).context("write a record")
    }

    /// A record of zeros but for its header. Five microseconds pass.
    fn begin(&mut self, kind: EventKind, len: usize, flags: u16, thread_seq: u32) {
        self.now += 5_000;
        self.record.clear();
        self.record.resize(len, 0);
        self.put(offset_of!(Header, kind), &kind.code().to_le_bytes());
        self.put(offset_of!(Header, flags), &flags.to_le_bytes());
        self.put(offset_of!(Header, len_bytes), &(len as u32).to_le_bytes());
        self.put(offset_of!(Header, time), &self.now.to_le_bytes());
        self.put(offset_of!(Header, process_start_boottime), &PROCESS.start_boottime.to_le_bytes());
        self.put(offset_of!(Header, tgid), &PROCESS.tgid.0.to_le_bytes());
        self.put(offset_of!(Header, tid), &PROCESS.tgid.0.to_le_bytes());
        self.put(offset_of!(Header, thread_seq), &thread_seq.to_le_bytes());
    }

    fn put_endpoint(&mut self, at: usize, endpoint: Endpoint) {
        self.put(at, &endpoint.address_bits().to_ne_bytes());
        self.put(at + size_of::<u128>(), &endpoint.port().to_be_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.record.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_core::recording::{Frame, Reader};

    use super::*;

    fn run(exchanges: u64, nanos_per_exchange: u64, peak_resident_bytes: u64) -> Run {
        Run { exchanges, connections: 64, open_at_once: 1, nanos_per_exchange, peak_resident_bytes }
    }

    fn cost(runs: &[Run]) -> Cost {
        Cost { commit: "0123456".to_owned(), runs: runs.to_vec() }
    }

    #[test]
    fn targets_are_checked_one_by_one() {
        let good = run(100, MAX_NANOS, 10 << 20);
        assert_eq!(cost(&[good, run(1000, MAX_NANOS, 12 << 20)]).shortfalls(), [""; 0]);
        assert_eq!(cost(&[run(100, MAX_NANOS + 1, 10 << 20)]).shortfalls().len(), 1);
        assert_eq!(cost(&[good, run(1000, 1, (12 << 20) + 1)]).shortfalls().len(), 1);
    }

    #[test]
    fn the_recording_is_one_that_is_read() {
        let mut recording = Recording::new(Vec::new()).unwrap();
        recording.write(5, 2, 2).unwrap();
        let bytes = recording.out.into_inner();
        let reader = Reader::new(bytes.as_slice()).unwrap();
        let kinds = reader.map(|frame| match frame.unwrap() {
            Frame::Event(Event::ProcessDescribed(_)) => 'p',
            Frame::Event(Event::ConnOpened(_)) => 'o',
            Frame::Event(Event::DataMoved(event)) if event.direction == Direction::Ingress => 'i',
            Frame::Event(Event::DataMoved(_)) => 'e',
            frame @ (Frame::Event(_) | Frame::Tick(_) | Frame::Gap(_)) => panic!("{frame:?}"),
        });
        assert_eq!(kinds.collect::<String>(), "pooiieeiieeie");
    }

    #[test]
    fn the_readme_shows_the_numbers_of_the_file() {
        let repo = Repo::locate().unwrap();
        let shown =
            if repo.root().join(FILE).exists() { Cost::read(&repo).unwrap().table() } else { String::new() };
        readme::check(&repo, TABLE, &shown, "cargo xtask bench engine --write").unwrap();
    }
}
