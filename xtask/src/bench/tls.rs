//! nginx that speaks TLS under load, untraced and traced in turn; another one that nobody traces, beside the tracer and
//! without it; and what a probe costs by the instruction that it is on.
//!
//! As [`super::load`]: the figures are ratios of neighbours in time, medians over the blocks. Probes alone are measured
//! with the kernel's own, whose events a filter drops: at the beginnings of `SSL_read` and `SSL_write`, and at the places
//! in them that the tracer chooses, which the kernel emulates. Those are in every process that maps the file, so both nginx
//! have a copy of it that nobody else has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tracer_tests::certificate::Certificate;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::program::{describe_exit, free_port};
use tracer_tests::temp::TempDir;
use tracer_tests::wrk;

use super::load::{CONNECTIONS, FLUSH, SETTLE, attach, losses};
use super::report::Spread;
use super::sink::Sink;
use super::{beside, process, spread};
use crate::build;
use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{figures, readme};

/// Where the numbers are kept, below the repository's root.
const FILE: &str = "bench/tls.json";

/// Name of the README's table.
const TABLE: &str = "tls";

/// Bytes of an answer's body.
const BODY: usize = 1024;

/// How the names of OpenSSL's libraries begin.
const LIBRARIES: [&str; 2] = ["libssl.so", "libcrypto.so"];

/// Where the kernel's own probes are made.
const TRACEFS: &str = "/sys/kernel/tracing";

/// The functions of OpenSSL that move what nginx serves.
const FUNCTIONS: [&str; 2] = ["SSL_read", "SSL_write"];

/// Measure what tracing costs a server that speaks TLS
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench tls --write")]
pub(super) struct Options {
    /// Blocks of two untraced and two traced slices
    #[arg(long, default_value_t = 6)]
    blocks: u64,
    /// Length of each slice
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Write the numbers to bench/tls.json and to the README's table
    #[arg(long)]
    write: bool,
}

/// Ratios are in parts per thousand, so that what is written is what is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// The commit that was measured; ends in `+` if the working tree differed from it.
    commit: String,
    kernel: String,
    processors: u64,
    blocks: u64,
    seconds_per_slice: u64,
    connections: u64,
    untraced_requests_per_s: u64,
    traced_requests_per_s: u64,
    throughput_permille: Spread,
    /// Requests a second of the nginx that is not traced, beside a tracer of the other one: ratios to none.
    beside_permille: Spread,
    requests: u64,
    spans: u64,
    counted_losses: BTreeMap<String, u64>,
    /// Processor time of nginx that a request takes more, with two probes at the functions' beginnings.
    at_beginnings_ns: u64,
    /// The same at the places that the tracer chooses.
    at_chosen_ns: u64,
}

struct Bench<'a> {
    repo: &'a Repo,
    traced: Nginx,
    neighbour: Nginx,
    /// Where the traced one counts its requests.
    status: std::net::SocketAddr,
    seconds: u32,
    sink: Sink,
    requests: u64,
    spans: u64,
    losses: BTreeMap<String, u64>,
    /// The certificate, and the copies of libraries.
    folder: TempDir,
}

pub(super) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("tracing needs root: sudo -E cargo xtask bench tls");
    }
    setup::prepare(repo, &[Group::Build, Group::Bench])?;
    build::run(repo, &build::Options::INSTALLED)?;
    let mut bench = Bench::start(repo, u32::try_from(options.seconds.max(1)).context("seconds of a slice")?)?;
    bench.load(&bench.traced)?;
    let (mut untraced, mut traced, mut ratios, mut besides) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 1..=options.blocks.max(1) {
        let before = [bench.load(&bench.traced)?, bench.load(&bench.neighbour)?];
        let under = bench.under_tracer()?;
        let after = [bench.load(&bench.traced)?, bench.load(&bench.neighbour)?];
        let ratio = |n: usize| 2.0 * under[n] / (before[n] + after[n]);
        println!(
            "block {number}: {:.0} → {:.0} requests/s, ratio {:.3}; the neighbour's {:.3}",
            f64::midpoint(before[0], after[0]),
            under[0],
            ratio(0),
            ratio(1)
        );
        untraced.extend([before[0], after[0]]);
        traced.push(under[0]);
        ratios.push(1e3 * ratio(0));
        besides.push(1e3 * ratio(1));
        if interrupt.is_set() {
            bail!("interrupted");
        }
    }
    let [at_beginnings_ns, at_chosen_ns] = bench.probes(options.blocks.max(1))?;
    let cost = Cost {
        commit: repo.commit()?,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().context("count processors")?.get() as u64,
        blocks: options.blocks.max(1),
        seconds_per_slice: bench.seconds.into(),
        connections: CONNECTIONS.into(),
        untraced_requests_per_s: spread(untraced).median,
        traced_requests_per_s: spread(traced).median,
        throughput_permille: spread(ratios),
        beside_permille: spread(besides),
        requests: bench.requests,
        spans: bench.spans,
        counted_losses: bench.losses,
        at_beginnings_ns,
        at_chosen_ns,
    };
    println!("\n{}", cost.table());
    if options.write {
        cost.write(repo)?;
    }
    let shortfalls = cost.shortfalls();
    if shortfalls.is_empty() { Ok(()) } else { bail!("{}", shortfalls.join("; ")) }
}

impl<'a> Bench<'a> {
    fn start(repo: &'a Repo, seconds: u32) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        copy_libraries(folder.path())?;
        let Certificate { key, certificate } = Certificate::make(folder.path())?;
        let server = format!(
            "ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 '{}'; }}",
            certificate.display(),
            key.display(),
            "x".repeat(BODY)
        );
        let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let http = format!("server {{ listen {status}; location = /status {{ stub_status; }} }}");
        let nginx = |http: String| {
            Nginx::start_tls_apart(&Config { workers: 1, http, server: server.clone() }, folder.path())
        };
        Ok(Self {
            repo,
            traced: nginx(http)?,
            neighbour: nginx(String::new())?,
            status,
            seconds,
            sink: Sink::start()?,
            requests: 0,
            spans: 0,
            losses: BTreeMap::new(),
            folder,
        })
    }

    /// Requests a second.
    fn load(&self, nginx: &Nginx) -> anyhow::Result<f64> {
        std::thread::sleep(SETTLE);
        let url = format!("https://{}/", nginx.addr);
        let measured = wrk::measure_url(&url, CONNECTIONS, self.seconds)?;
        if measured.failed > 0 {
            // Failures are fast, so that they would look like speed.
            bail!("{} of {} requests failed", measured.failed, measured.requests);
        }
        Ok(measured.requests as f64 / measured.seconds)
    }

    /// The same of both, two slices of the one that is traced.
    fn under_tracer(&mut self) -> anyhow::Result<[f64; 2]> {
        let before = beside::served(self.status)?;
        let mut tracer = attach(self.repo, &self.traced.pids()?, &[], &self.sink)?;
        let traced = f64::midpoint(self.load(&self.traced)?, self.load(&self.traced)?);
        // Spans still wait to be decided and sent.
        std::thread::sleep(FLUSH);
        let neighbour = self.load(&self.neighbour)?;
        let exit = tracer.stop(Signal::INT)?;
        if !exit.success() {
            bail!("the tracer ended with {}:\n{}", describe_exit(exit), tracer.stderr());
        }
        // The question itself is counted, but came when nobody traced any more.
        self.requests += beside::served(self.status)?.saturating_sub(before).saturating_sub(1);
        self.spans += self.sink.take();
        for (name, count) in losses(&tracer.stderr()) {
            *self.losses.entry(name).or_default() += count;
        }
        Ok([traced, neighbour])
    }

    /// Nanoseconds of nginx's own that a request takes more with the kernel's probes: at the beginnings, and at the places
    /// that the tracer chooses. Medians.
    fn probes(&self, blocks: u64) -> anyhow::Result<[u64; 2]> {
        let pid = *self.traced.pids()?.last().context("nginx has no worker")?;
        let places = Places::told(self.repo, pid)?;
        ensure!(
            Path::new(&places.library).starts_with(self.folder.path()),
            "{} is not nginx's own: others would be probed",
            places.library
        );
        let mut more = [Vec::new(), Vec::new()];
        for _ in 0..blocks {
            let bare = self.nanos_per_request(pid)?;
            for (chosen, more) in [false, true].into_iter().zip(&mut more) {
                let probes = KernelProbes::attach(&places, chosen)?;
                let nanos = self.nanos_per_request(pid)?;
                drop(probes);
                more.push((nanos - bare).max(0.0));
            }
        }
        let [beginnings, chosen] = more.map(|more| spread(more).median);
        println!("two probes: {beginnings} ns a request at the beginnings, {chosen} ns at the chosen places");
        Ok([beginnings, chosen])
    }

    fn nanos_per_request(&self, pid: u32) -> anyhow::Result<f64> {
        let before = process::cpu_time(pid)?;
        let per_second = self.load(&self.traced)?;
        let spent = process::cpu_time(pid)?.saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e9 / (per_second * f64::from(self.seconds)).max(1.0))
    }
}

/// Copies the libraries that nginx has of OpenSSL's.
fn copy_libraries(into: &Path) -> anyhow::Result<()> {
    let output =
        Command::new("sh").args(["-c", "ldd \"$(command -v nginx)\""]).output().context("run ldd")?;
    let told = String::from_utf8_lossy(&output.stdout);
    // `libssl.so.3 => /lib/libssl.so.3 (0x7f…)`
    let mapped = told.lines().filter_map(|line| line.trim().split_once(" => "));
    for (name, rest) in mapped.filter(|(name, _)| LIBRARIES.iter().any(|start| name.starts_with(start))) {
        let path = rest.split(' ').next().unwrap_or(rest);
        std::fs::copy(path, into.join(name)).with_context(|| format!("copy {path}"))?;
    }
    Ok(())
}

/// Of each function: where it begins in the library's file, and where the tracer probes that.
struct Places {
    library: String,
    of_functions: Vec<[u64; 2]>,
}

impl Places {
    fn told(repo: &Repo, pid: u32) -> anyhow::Result<Self> {
        let output = Command::new(repo.tracer())
            .args(["doctor", "--verbose", "--pid", &pid.to_string()])
            .output()
            .context("run the tracer's doctor")?;
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// `tls  /lib/libssl.so.3: OpenSSL …`, below it `SSL_read+0x16 (0x35446) js 35477h: emulated`, first of each function
    /// where it begins.
    fn parse(told: &str) -> anyhow::Result<Self> {
        let library = told.lines().find_map(|line| {
            let rest = line.strip_prefix("tls ")?.trim_start();
            rest.split_once(": OpenSSL").map(|(path, _)| path.to_owned())
        });
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let place = |function: &str| {
            told.lines().find_map(|line| {
                let rest = line.trim_start().strip_prefix(function)?.strip_prefix('+')?;
                let (inside, rest) = rest.split_once(" (")?;
                let chosen = hex(rest.split_once(')')?.0)?;
                Some([chosen.checked_sub(hex(inside)?)?, chosen])
            })
        };
        let of_functions: Vec<[u64; 2]> = FUNCTIONS.into_iter().filter_map(place).collect();
        ensure!(of_functions.len() == FUNCTIONS.len(), "the doctor does not say where probes are:\n{told}");
        Ok(Self { library: library.context("the doctor names no OpenSSL")?, of_functions })
    }
}

/// Probes of the kernel's own, as long as this is there.
struct KernelProbes;

impl KernelProbes {
    fn attach(places: &Places, chosen: bool) -> anyhow::Result<Self> {
        let write = |file: &str, text: &str| {
            std::fs::write(format!("{TRACEFS}/{file}"), text)
                .with_context(|| format!("write {file} of {TRACEFS}"))
        };
        let probes = Self;
        let mut made = String::new();
        for (n, offsets) in places.of_functions.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                made,
                "p:tracer_bench/tls{n} {}:{:#x}",
                places.library,
                offsets[usize::from(chosen)]
            );
        }
        // Others may have probes, too.
        OpenOptions::new()
            .append(true)
            .open(format!("{TRACEFS}/uprobe_events"))
            .and_then(|mut file| file.write_all(made.as_bytes()))
            .with_context(|| format!("write uprobe_events of {TRACEFS}"))?;
        write("events/tracer_bench/filter", "common_pid == 0")?;
        write("events/tracer_bench/enable", "1")?;
        Ok(probes)
    }
}

impl Drop for KernelProbes {
    fn drop(&mut self) {
        // Nothing else can be done about it.
        let _ = std::fs::write(format!("{TRACEFS}/events/tracer_bench/enable"), "0");
        let made = (0..FUNCTIONS.len()).map(|n| format!("-:tracer_bench/tls{n}\n")).collect::<String>();
        let _ = OpenOptions::new()
            .append(true)
            .open(format!("{TRACEFS}/uprobe_events"))
            .and_then(|mut file| file.write_all(made.as_bytes()));
    }
}

impl Cost {
    fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                found.push(what);
            }
        };
        let (throughput, beside) = (self.throughput_permille.median, self.beside_permille.median);
        expect(throughput >= 600, format!("throughput {throughput} ‰ < 600 ‰"));
        expect(beside >= 970, format!("who is not traced has {beside} ‰ < 970 ‰"));
        let missing = self.requests.saturating_sub(self.spans);
        let counted: u64 = self.counted_losses.values().sum();
        expect(self.spans <= self.requests, format!("{} spans of {} requests", self.spans, self.requests));
        expect(missing <= counted, format!("{missing} requests without a span, {counted} losses counted"));
        expect(missing.saturating_mul(1000) <= self.requests, format!("{missing} requests lost > 0.1 %"));
        let (stepped, emulated) = (self.at_beginnings_ns, self.at_chosen_ns);
        expect(emulated <= stepped, format!("chosen places cost {emulated} ns, beginnings {stepped} ns"));
        found
    }

    /// The README's table.
    fn table(&self) -> String {
        let mut out = String::from("| what | measured |\n| --- | --- |\n");
        let mut row = |what: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {what} | {value} |");
        };
        let micros = |nanos: u64| format!("{}.{:02}", nanos / 1000, nanos % 1000 / 10);
        row(
            "nginx over TLS, 1 KiB, keep-alive, requests per second, untraced → traced",
            format!(
                "{} → {}; ratio {}",
                self.untraced_requests_per_s,
                self.traced_requests_per_s,
                self.throughput_permille.ratios()
            ),
        );
        row(
            "requests per second of an nginx over TLS that is not traced, beside the tracer of the other one : without it",
            self.beside_permille.ratios(),
        );
        row("requests served / spans received", format!("{} / {}", self.requests, self.spans));
        row("losses counted by the tracer", super::report::named(&self.counted_losses));
        row(
            "what a request costs nginx more with two bare probes: at the functions' beginnings / at the chosen instructions",
            format!("{} / {} µs", micros(self.at_beginnings_ns), micros(self.at_chosen_ns)),
        );
        let _ = writeln!(
            out,
            "\n`cargo xtask bench tls` at commit {}, Linux {}, {} processors, {} blocks of slices of {} s, {} connections. \
             Ratios are\nmedians over the blocks, with the quartiles.",
            self.commit, self.kernel, self.processors, self.blocks, self.seconds_per_slice, self.connections
        );
        out
    }

    fn write(&self, repo: &Repo) -> anyhow::Result<()> {
        figures::write(repo, FILE, self)?;
        readme::write(repo, TABLE, &self.table())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Cost {
        let around = |median| Spread { median, low: median, high: median };
        Cost {
            commit: "abc".to_owned(),
            kernel: "6.18".to_owned(),
            processors: 2,
            blocks: 6,
            seconds_per_slice: 2,
            connections: 32,
            untraced_requests_per_s: 50_000,
            traced_requests_per_s: 30_000,
            throughput_permille: around(600),
            beside_permille: around(970),
            requests: 10_000,
            spans: 9_990,
            counted_losses: [("data_ring_full".to_owned(), 10)].into(),
            at_beginnings_ns: 20_000,
            at_chosen_ns: 1_500,
        }
    }

    #[test]
    fn targets_are_checked_one_by_one() {
        assert_eq!(good().shortfalls(), [""; 0]);
        let low = |median| Spread { median, low: median, high: median };
        let bad = [
            Cost { throughput_permille: low(599), ..good() },
            Cost { beside_permille: low(969), ..good() },
            Cost { counted_losses: BTreeMap::new(), ..good() },
            Cost { spans: 10_001, ..good() },
            Cost { spans: 9_989, counted_losses: [("x".to_owned(), 11)].into(), ..good() },
            Cost { at_chosen_ns: 20_001, ..good() },
        ];
        for cost in bad {
            assert_eq!(cost.shortfalls().len(), 1, "{cost:?}");
        }
    }

    #[test]
    fn the_doctor_s_places_are_read() {
        let told = "ok      x\ntls                        /lib/libssl.so.3: OpenSSL 3.0.19: 15 probes in SSL_read\n    \
                    SSL_read+0x16 (0x35446) js 35477h: emulated\n    SSL_read+0x38 (0x35468) jne 354AEh: emulated\n    \
                    SSL_read_ex+0x4 (0x354c4) call 35290h: emulated\n    SSL_write+0x16 (0x35996) js 359C7h: emulated\n";
        let places = Places::parse(told).unwrap();
        assert_eq!(places.library, "/lib/libssl.so.3");
        assert_eq!(places.of_functions, [[0x35430, 0x35446], [0x35980, 0x35996]]);
        assert!(Places::parse("").is_err());
    }

    #[test]
    fn the_readme_shows_the_numbers_of_the_file() {
        let repo = Repo::locate().unwrap();
        let cost: Cost = figures::read(&repo, FILE).unwrap();
        readme::check(&repo, TABLE, &cost.table(), "cargo xtask bench tls --write").unwrap();
    }
}
