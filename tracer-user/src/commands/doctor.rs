//! `tracer doctor`: what this machine offers, rung by rung, and what is missing.
//!
//! Nothing is inferred from version numbers: each rung is loaded, attached and made to bring back bytes, then removed.
//! The other checks explain a rung that fails, or a limit that will be met later.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use tracer_abi::task::{ProcessKey, Tgid};

use crate::capture::{self, Capture, CaptureConfig, FunctionProbe, Rung};
use crate::config::{Doctor, DoctorFormat};
use crate::process::procfs::ProcDir;
use crate::runtime::{self, Code, Finding, PythonLoop, Runtime, Waits};
use crate::tls::{self, Mapped, Stack};

/// What was found. This is also the machine-readable form; keys are stable.
#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    architecture: &'static str,
    checks: Vec<Check>,
    rungs: Vec<RungReport>,
    /// Those that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    processes: Vec<ProcessReport>,
    /// Letter of the rung that a live capture will use.
    usable: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// How to change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Capture works, but something will be missing.
    Warning,
    /// No capture without it.
    Failed,
}

#[derive(Debug, Serialize)]
struct RungReport {
    rung: &'static str,
    description: &'static str,
    works: bool,
    /// Time to load, attach, test and remove.
    took_ms: u64,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Works, but runtimes cannot be asked whose work a call is: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_refused: Option<String>,
    /// Works, but TLS cannot be read: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_refused: Option<String>,
}

/// Whether a process's runtime tells whose work a call is.
#[derive(Debug, Serialize)]
struct ProcessReport {
    pid: u32,
    identity: Identity,
    found: String,
    /// What it would take.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tls: Vec<TlsReport>,
}

/// Whether plaintext that goes through a TLS library of a process is seen.
#[derive(Debug, Serialize)]
struct TlsReport {
    library: String,
    seen: bool,
    found: String,
    /// Where probes go; only when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Identity {
    Known,
    /// It may come.
    Later,
    Unknown,
    /// There is no such runtime, or no such process.
    None,
}

/// Examines the machine and prints the report on standard output. Exit code 0 when some rung works, else 1.
///
/// # Errors
///
/// When the report cannot be written.
pub(crate) fn doctor(doctor: &Doctor) -> anyhow::Result<u8> {
    let report = examine(&doctor.pids, doctor.verbose);
    let text = match doctor.format {
        DoctorFormat::Text => render(&report),
        DoctorFormat::Json => serde_json::to_string_pretty(&report).context("render the report")? + "\n",
    };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).context("write the report")?;
    Ok(u8::from(report.usable.is_none()))
}

fn examine(pids: &[u32], verbose: bool) -> Report {
    let uname = rustix::system::uname();
    let rungs: Vec<RungReport> = Rung::ALL.iter().map(|&rung| try_rung(rung)).collect();
    Report {
        kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
        architecture: std::env::consts::ARCH,
        checks: vec![
            kernel_half(),
            capabilities(),
            type_information(),
            pid_namespace(),
            lockdown(),
            memory_lock(),
            tracefs(),
            handoffs(),
        ],
        usable: rungs.iter().find(|report| report.works).map(|report| report.rung),
        rungs,
        processes: {
            let mut probing = Probing::default();
            pids.iter().flat_map(|&pid| look_at(pid, verbose, &mut probing)).collect()
        },
    }
}

fn try_rung(rung: Rung) -> RungReport {
    let started = Instant::now();
    let result = Capture::start_rung(rung, &CaptureConfig::default())
        .map(|capture| [capture.identity_refused(), capture.tls_refused()].map(|why| why.map(str::to_owned)));
    let [identity_refused, tls_refused] = result.as_ref().ok().cloned().unwrap_or_default();
    RungReport {
        rung: rung.letter(),
        description: rung.description(),
        works: result.is_ok(),
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        identity_refused,
        tls_refused,
        reason: result.err().map(|error| format!("{error:#}")),
    }
}

/// Whose work its calls are, what its threads wait for, and which TLS is read.
fn look_at(pid: u32, verbose: bool, probing: &mut Probing) -> Vec<ProcessReport> {
    let tgid = Tgid(pid);
    let report =
        |identity, found: String, needed| ProcessReport { pid, identity, found, needed, tls: Vec::new() };
    let start = match ProcDir::open(tgid).and_then(|dir| dir.stat()) {
        Ok(stat) => stat.start,
        Err(error) => return vec![report(Identity::None, format!("cannot be looked at: {error}"), None)],
    };
    let process = ProcessKey { tgid, start_boottime: start.earliest() };
    let mut submits = None;
    let waits = match runtime::examine_waits(process) {
        Waits::Nothing => None,
        Waits::NotYet(runtime, reason) => {
            Some(report(Identity::Later, format!("{runtime}: what its threads wait for: {reason}"), None))
        }
        Waits::Unknown(runtime, needed) => {
            let found = format!("{runtime}: what its threads wait for is not known");
            Some(report(Identity::Unknown, found, Some(needed)))
        }
        Waits::Python(runtime, known, put) => {
            submits = known.knows_futures().then(|| submits_of(probing, &runtime, tgid, put));
            Some(report(Identity::Known, format!("{runtime}: what its threads wait for is known"), None))
        }
        Waits::Java(runtime, known) => {
            let tasks = if known.knows_tasks() { ", and which tasks of pools they run" } else { "" };
            let found = format!("{runtime}: what its threads wait for is known{tasks}");
            Some(report(Identity::Known, found, None))
        }
    };
    let submits = submits.map(|(identity, found, needed)| report(identity, found, needed));
    let (mut makers, mut writers, mut handers) = (None, None, None);
    let tasks = match runtime::examine(process) {
        Finding::Nothing => {
            report(Identity::None, "no runtime that knows whose work a call is".to_owned(), None)
        }
        Finding::NotYet(runtime, reason) => report(Identity::Later, format!("{runtime}: {reason}"), None),
        Finding::Unknown(runtime, needed) => {
            report(Identity::Unknown, format!("{runtime}: its tasks are not known"), Some(needed))
        }
        Finding::Python(runtime, _, PythonLoop { makes, writes, hands }) => {
            makers = Some(makers_of(probing, &runtime, tgid, makes));
            writers = writes.map(|writes| writers_of(probing, &runtime, tgid, writes));
            handers = hands.map(|hands| handers_of(probing, &runtime, tgid, hands));
            report(Identity::Known, format!("{runtime}: the tasks of its event loop are known"), None)
        }
        Finding::Greenlet(runtime, _) => {
            report(Identity::Known, format!("{runtime}: its greenlets are known"), None)
        }
        Finding::Nginx(runtime, _) => {
            report(Identity::Known, format!("{runtime}: whose request goes upstream is known"), None)
        }
        Finding::Java(runtime, known) => {
            let what = if known.knows_virtual_threads() { "virtual threads" } else { "threads" };
            report(Identity::Known, format!("{runtime}: its {what} are known"), None)
        }
        Finding::Tokio(runtime, _) => {
            let found =
                format!("{runtime}: its tasks are known once it is seen which of them a thread polls");
            report(Identity::Known, found, None)
        }
        Finding::Go(runtime, known) => {
            let partly = if known.scheduler == 0 { ", but not which are younger than a request" } else { "" };
            report(Identity::Known, format!("{runtime}: its goroutines are known{partly}"), None)
        }
    };
    let probed = [writers, makers, handers].into_iter().flatten();
    let probed: Vec<_> = probed.map(|(identity, found, needed)| report(identity, found, needed)).collect();
    let mapped = tls::look(process, &mut tls::Known::new());
    let grpc = mapped.iter().flat_map(|mapped| &mapped.libraries).find_map(|library| library.grpc.as_ref());
    let streams = grpc.map(|grpc| match grpc.needed() {
        None => report(Identity::Known, format!("{grpc}: whose work a stream is, is known"), None),
        needed => report(Identity::Unknown, format!("{grpc}: whose work a stream is, is not known"), needed),
    });
    let first =
        ProcessReport { tls: mapped.map_or_else(Vec::new, |mapped| tls_of(mapped, verbose)), ..tasks };
    std::iter::once(first).chain(waits).chain(submits).chain(probed).chain(streams).collect()
}

/// Attaches probes as they would be: a capture of its own, which takes some seconds to start.
#[derive(Default)]
struct Probing(Option<Capture>);

impl Probing {
    fn attach(&mut self, probe: FunctionProbe, tgid: Tgid, code: &Code) -> anyhow::Result<()> {
        let capture = match &mut self.0 {
            Some(capture) => capture,
            none => none.insert(Capture::start(&CaptureConfig::default())?),
        };
        capture.test_function_probe(probe, tgid, code)
    }

    /// Whether what a probe is to see is known.
    fn seen_by(
        &mut self,
        probe: FunctionProbe,
        function: Result<Code, &'static str>,
        tgid: Tgid,
        (known, unknown): (String, String),
    ) -> (Identity, String, Option<String>) {
        let attached = function.map_err(anyhow::Error::msg).and_then(|code| self.attach(probe, tgid, &code));
        match attached {
            Ok(()) => (Identity::Known, known, None),
            Err(error) => (Identity::Unknown, unknown, Some(format!("{error:#}"))),
        }
    }
}

fn submits_of(
    probing: &mut Probing,
    runtime: &Runtime,
    tgid: Tgid,
    put: Result<Code, &'static str>,
) -> (Identity, String, Option<String>) {
    let who = format!("{runtime}: who submits to its pools is known");
    let unknown = format!("{who} only where that wakes a thread");
    probing.seen_by(FunctionProbe::Submits, put, tgid, (who, unknown))
}

fn makers_of(
    probing: &mut Probing,
    runtime: &Runtime,
    tgid: Tgid,
    makes: Result<Code, &'static str>,
) -> (Identity, String, Option<String>) {
    let which = |known| format!("{runtime}: which of its tasks makes which is {known}");
    probing.seen_by(FunctionProbe::Makes, makes, tgid, (which("known"), which("not known")))
}

fn handers_of(
    probing: &mut Probing,
    runtime: &Runtime,
    tgid: Tgid,
    hands: Result<Code, &'static str>,
) -> (Identity, String, Option<String>) {
    let which = |known| format!("{runtime}: which of its tasks has a pool's thread do what is {known}");
    probing.seen_by(FunctionProbe::Hands, hands, tgid, (which("known"), which("not known")))
}

fn writers_of(
    probing: &mut Probing,
    runtime: &Runtime,
    tgid: Tgid,
    writes: Result<Code, &'static str>,
) -> (Identity, String, Option<String>) {
    let which = |known| format!("{runtime}: which of its tasks writes what uvloop sends is {known}");
    let instead = |needed| format!("{needed}; {}", PythonLoop::INSTEAD_OF_UVLOOP);
    let (identity, found, needed) =
        probing.seen_by(FunctionProbe::Writes, writes, tgid, (which("known"), which("mostly not known")));
    (identity, found, needed.map(instead))
}

fn tls_of(mapped: Mapped, verbose: bool) -> Vec<TlsReport> {
    let seen = mapped.libraries.iter().filter(|library| library.has_tls()).map(|library| {
        let probes =
            if verbose { library.points.iter().map(ToString::to_string).collect() } else { Vec::new() };
        let emulated = library.points.iter().filter(|point| point.emulated).count();
        TlsReport {
            library: library.path.display().to_string(),
            seen: true,
            found: format!(
                "{}: {} probes in {}, {emulated} of them at instructions that the kernel emulates; {}",
                library.stack,
                library.points.len(),
                library.functions().join(", "),
                match (&library.stack, library.layout) {
                    (Stack::OpenSsl(_), Some(_)) | (Stack::GnuTls(..), _) =>
                        "sessions are known by their hellos",
                    (Stack::BoringSsl, _) => "sessions are not tied to sockets",
                    (Stack::OpenSsl(_), None) => "sessions are known only where their calls move the records",
                    (Stack::Rustls(_), _) => "sessions are known by their records",
                    (Stack::Go(..), _) => "sessions are known by the calls that move their records",
                }
            ),
            probes,
        }
    });
    let refused = mapped.refused.into_iter().map(|(library, reason)| TlsReport {
        library,
        seen: false,
        found: reason,
        probes: Vec::new(),
    });
    seen.chain(refused).collect()
}

/// The hooks that `--handoff` needs, loaded and attached as they would be.
fn handoffs() -> Check {
    match Capture::start(&CaptureConfig::default()).and_then(|mut capture| capture.test_handoffs()) {
        Ok(()) => ok("hand-offs", "who wakes whom can be followed"),
        Err(error) => bad(
            "hand-offs",
            Status::Warning,
            format!("{error:#}"),
            "calls that a thread makes for another one's request stay without a parent",
        ),
    }
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, status: Status::Ok, found: found.into(), remedy: None }
}

fn bad(name: &'static str, status: Status, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, status, found: found.into(), remedy: Some(remedy.into()) }
}

fn kernel_half() -> Check {
    match capture::kernel_half_bytes() {
        Some(bytes) => ok("kernel half", format!("built in, {} KiB", bytes / 1024)),
        None => bad(
            "kernel half",
            Status::Failed,
            "not built into this binary",
            "build with `cargo xtask build`; the binary is target/release/tracer",
        ),
    }
}

/// A capability, what it is for, and whether capture is impossible without it.
const CAPABILITIES: &[(u32, &str, &str, bool)] = &[
    (39, "CAP_BPF", "load programs", true),
    (38, "CAP_PERFMON", "attach them and read memory", true),
    (19, "CAP_SYS_PTRACE", "learn what other users' processes are", false),
];
/// Stands for the first two.
const CAP_SYS_ADMIN: u32 = 21;

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(mask) = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return bad("capabilities", Status::Warning, "/proc/self/status does not say", "mount /proc");
    };
    let has = |number: u32| mask >> number & 1 != 0;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|&&(number, _, _, essential)| !has(number) && (!essential || !has(CAP_SYS_ADMIN)))
        .collect();
    if missing.is_empty() {
        return ok("capabilities", "all that are needed");
    }
    let names: Vec<String> =
        missing.iter().map(|(_, name, purpose, _)| format!("{name} ({purpose})")).collect();
    let status =
        if missing.iter().any(|&&(_, _, _, essential)| essential) { Status::Failed } else { Status::Warning };
    bad(
        "capabilities",
        status,
        format!("missing: {}", names.join(", ")),
        "run as root, or: setcap cap_bpf,cap_perfmon,cap_sys_ptrace=ep on the tracer's executable",
    )
}

fn type_information() -> Check {
    match fs::metadata(capture::KERNEL_BTF) {
        Ok(file) => ok("type information", format!("{}, {} KiB", capture::KERNEL_BTF, file.len() / 1024)),
        Err(error) => bad(
            "type information",
            Status::Failed,
            format!("{}: {error}", capture::KERNEL_BTF),
            "mount /sys, or run a kernel built with CONFIG_DEBUG_INFO_BTF=y (those of distributions are)",
        ),
    }
}

fn pid_namespace() -> Check {
    match capture::ensure_initial_pid_namespace() {
        Ok(()) => ok("pid namespace", "the initial one"),
        Err(error) => bad(
            "pid namespace",
            Status::Failed,
            format!("{error:#}"),
            "run on the host, or share its pid namespace (docker run --pid=host)",
        ),
    }
}

/// Where the kernel says how much it trusts root. Its file marks the mode in force with brackets.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

fn lockdown() -> Check {
    let Ok(modes) = fs::read_to_string(LOCKDOWN) else {
        return ok("lockdown", format!("not known: {LOCKDOWN} is absent; the rungs below tell"));
    };
    let mode =
        modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(mode, _)| mode);
    if mode == "confidentiality" {
        bad(
            "lockdown",
            Status::Failed,
            "confidentiality: programs may not read kernel or user memory",
            "boot with lockdown=integrity or without",
        )
    } else {
        ok("lockdown", mode)
    }
}

fn memory_lock() -> Check {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => ok("memory lock limit", "unlimited"),
        // Since 5.11 maps count against the memory cgroup; every rung needs a younger kernel than that or its
        // maps' worth of limit, which loading has just proven.
        Some(bytes) => ok(
            "memory lock limit",
            format!("{} KiB; kernels since 5.11 do not charge maps to it", bytes / 1024),
        ),
    }
}

fn tracefs() -> Check {
    let mounted = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok());
    match mounted {
        Some(path) => ok("tracefs", path.trim_end_matches("/events")),
        None => ok("tracefs", "not mounted; no rung needs it (mount -t tracefs tracefs /sys/kernel/tracing)"),
    }
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |status: &str, name: &str, found: &str, more: Option<&str>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{status:<8}{name:<19}{found}");
        for note in more.into_iter().flat_map(str::lines) {
            let _ = writeln!(text, "{:27}{note}", "");
        }
    };
    line("", "kernel", &format!("{} {}", report.kernel, report.architecture), None);
    for check in &report.checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "FAILED",
        };
        line(status, check.name, &check.found, check.remedy.as_deref());
    }
    for rung in &report.rungs {
        let status = if rung.works { "works" } else { "no" };
        let name = format!("rung {}", rung.rung);
        let found = format!("{} ({} ms)", rung.description, rung.took_ms);
        line(status, &name, &found, rung.reason.as_deref());
        if let Some(refused) = &rung.identity_refused {
            line("warning", "identity", "runtimes cannot be asked whose work a call is", Some(refused));
        }
        if let Some(refused) = &rung.tls_refused {
            line("warning", "tls", "plaintext of TLS libraries cannot be seen", Some(refused));
        }
    }
    for process in &report.processes {
        let status = match process.identity {
            Identity::Known => "known",
            Identity::Later => "later",
            Identity::Unknown => "unknown",
            Identity::None => "none",
        };
        line(status, &format!("process {}", process.pid), &process.found, process.needed.as_deref());
        for tls in &process.tls {
            let probes = tls.probes.join("\n");
            let status = if tls.seen { "tls" } else { "no tls" };
            line(status, "", &format!("{}: {}", tls.library, tls.found), Some(&probes));
        }
    }
    let conclusion = match report.usable {
        Some(letter) => format!("\nready: capture will use rung {letter}\n"),
        None => "\nnot ready: no rung works\n".to_owned(),
    };
    text + &conclusion
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(works: bool) -> Report {
        Report {
            kernel: "Linux 9.9.9".to_owned(),
            architecture: "x86_64",
            checks: vec![
                ok("pid namespace", "the initial one"),
                bad("capabilities", Status::Failed, "missing: CAP_BPF", "run as root"),
            ],
            rungs: vec![RungReport {
                rung: "A",
                description: "of a kind",
                works,
                took_ms: 12,
                reason: (!works).then(|| "refused\nsecond line".to_owned()),
                identity_refused: works.then(|| "too complex".to_owned()),
                tls_refused: works.then(|| "no user probes".to_owned()),
            }],
            processes: vec![ProcessReport {
                pid: 7,
                identity: Identity::Unknown,
                found: "CPython 3.99.0: not known".to_owned(),
                needed: Some("a row".to_owned()),
                tls: vec![TlsReport {
                    library: "/lib/libssl.so.3".to_owned(),
                    seen: true,
                    found: "2 probes".to_owned(),
                    probes: vec!["SSL_read+0x16".to_owned(), "SSL_read+0x38".to_owned()],
                }],
            }],
            usable: works.then_some("A"),
        }
    }

    #[test]
    fn text_says_what_is_missing_and_how_to_get_it() {
        let text = render(&sample(false));
        assert!(text.contains("FAILED  capabilities       missing: CAP_BPF\n"), "{text}");
        assert!(text.contains("\n                           run as root\n"), "{text}");
        assert!(text.contains("\n                           second line\n"), "{text}");
        assert!(
            text.contains(
                "\nunknown process 7          CPython 3.99.0: not known\n                           a row\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "tls                        /lib/libssl.so.3: 2 probes\n                           SSL_read+0x16\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("not ready: no rung works\n"), "{text}");
        assert!(render(&sample(true)).contains("\n                           too complex\n"));
        assert!(render(&sample(true)).ends_with("ready: capture will use rung A\n"));
    }

    #[test]
    fn json_names_the_usable_rung_and_every_check() {
        let value = serde_json::to_value(sample(true)).unwrap();
        assert_eq!(value["usable"], "A");
        assert_eq!(value["checks"][1]["status"], "failed");
        assert_eq!(value["rungs"][0]["took_ms"], 12);
        assert!(value["rungs"][0].get("reason").is_none());
        assert_eq!(value["processes"][0]["identity"], "unknown");
    }
}
