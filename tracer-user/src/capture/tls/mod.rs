//! Attaches the programs that see TLS to the libraries of traced processes, and takes them off again.
//!
//! | a process is | then |
//! |---|---|
//! | traced from now on, or executes a program | libraries that are known already are probed at once, before it maps them |
//! | forked | the same, of those that its parent had |
//! | any of these, or speaks TLS unheard | a thread looks at what it has mapped, a few times |
//! | ended, or left | its probes go |
//!
//! A probe is one process's: an untraced program that has the same library mapped does not run into it. A forked process
//! has its parent's breakpoints in its memory and none of its probes; the kernel takes each away when it is first met.

mod finder;
mod layouts;
mod probes;
mod reaper;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData};
use tokio::sync::Notify;
use tracer_abi::config::tls_stacks;
use tracer_abi::event::EventKind;
use tracer_abi::limits::{GO_CALL_BYTES, SESSION_BYTES};
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

use self::finder::Finder;
use self::layouts::Layouts;
use self::probes::{Done, Job, Probes};
use super::deference::come_forward;
use super::object::Loaded;
use super::{record, uprobe_multi};
use crate::clock;
use crate::process::procfs::StartTick;
use crate::tls::{self, Library, Mapped, Stack};

pub(super) use self::probes::{OPTIONAL, PROGRAMS};
pub(super) use self::reaper::{Link, Reaper};

/// Since when programs at probes have a stack of the processor's, which whoever preempts them shares (commit a76ab5731e32).
const PRIVATE_STACKS: (u32, u32) = (6, 13);

/// Why no programs may be at user probes: they may be preempted while they use such a stack, as far as the kernel says.
pub(super) fn ensure_not_preempted() -> anyhow::Result<()> {
    let uname = rustix::system::uname();
    let mode = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    let arguments = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    ensure!(
        uprobe_multi::kernel_version() < PRIVATE_STACKS
            || !preempts(&uname.version().to_string_lossy(), &mode, &arguments),
        "a kernel since 6.13 that preempts itself may do so in a program at a user probe, and lose its stack"
    );
    Ok(())
}

/// Of the kernel's own words: its version line, the mode in force (in parentheses), its command line.
fn preempts(version: &str, mode: &str, arguments: &str) -> bool {
    let always =
        version.split_whitespace().any(|word| matches!(word, "PREEMPT" | "PREEMPT_RT" | "PREEMPT_LAZY"));
    let now = ["(full)", "(lazy)"].iter().any(|known| mode.contains(known));
    let asked = arguments.split_whitespace().any(|word| matches!(word, "preempt=full" | "preempt=lazy"));
    always || now || mode.is_empty() && asked
}

/// Between looks at a process that speaks TLS unheard.
const AGAIN: Duration = Duration::from_millis(500);

/// Processes that are watched: as many as the kernel half's table holds.
const MAX_PROCESSES: usize = 16 << 10;

/// Libraries that are probed in advance: the host's, and those of a few containers.
const MAX_KNOWN: usize = 8;

/// At the start, for looking at executables and for probes: milliseconds each, but a second for a large one of Go's where
/// others want the processors, too.
const SETTLE: Duration = Duration::from_secs(3);

/// Links that wait for their end before none is made any more for what may never come.
const MAX_ENDING: usize = 512;

/// Delays that are kept; those of a day's builds are alike.
const MAX_DELAYS: usize = 16 << 10;

/// Ended processes that the summary may name.
const MAX_PAST: usize = 64;

/// What became of a process's TLS libraries.
#[derive(Clone, Debug)]
pub(crate) struct TlsProcess {
    pub(crate) process: ProcessKey,
    pub(crate) libraries: Vec<Arc<Library>>,
    /// Name, and why its plaintext is not seen.
    pub(crate) refused: Vec<(String, String)>,
}

pub(super) struct Watch {
    /// `None`: the kernel half's part of it did not load.
    kernel: Option<Kernel>,
    finder: Finder,
    /// When one of the threads has done something.
    notify: Arc<Notify>,
    /// From an exec, or from when a process was to be traced, to its probes.
    delays: Vec<Duration>,
    /// Those that any process may come to map.
    known: Vec<Arc<Library>>,
    processes: BTreeMap<u32, Watched>,
    past: Vec<TlsProcess>,
    reaper: Reaper,
    /// Processes to be seen to when the records at hand were looked at.
    fresh: Vec<Fresh>,
    /// The process of the last data record.
    recent: Option<ProcessKey>,
}

struct Kernel {
    probes: Probes,
    table: BpfHashMap<MapData, u32, u8>,
    sessions: BpfHashMap<MapData, SessionKey, SessionState>,
    layouts: Layouts,
    calls: BpfHashMap<MapData, SessionKey, GoCallState>,
}

/// Address, of a session or a goroutine, and process, as the kernel half has them.
#[derive(Clone, Copy)]
#[repr(C)]
struct SessionKey {
    session: u64,
    tgid: u32,
    reserved: u32,
}

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for SessionKey {}

/// Never looked into.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SessionState([u8; SESSION_BYTES]);

// SAFETY: bytes.
unsafe impl Pod for SessionState {}

/// Never looked into.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct GoCallState([u8; GO_CALL_BYTES]);

// SAFETY: bytes.
unsafe impl Pod for GoCallState {}

struct Watched {
    process: ProcessKey,
    mapped: Mapped,
    /// Whose probes it has, and the probes; those that catch returns apart.
    probed: Vec<Arc<Library>>,
    links: Vec<Link>,
    returns: Vec<Link>,
    refused: Vec<(String, String)>,
    looked: Instant,
}

#[derive(Clone, Copy)]
enum Fresh {
    Traced(ProcessKey, KernelInstant),
    Execed(ProcessKey, KernelInstant),
    Forked(ProcessKey, ProcessKey, KernelInstant),
    Unheard(ProcessKey),
    Ended(ProcessKey),
}

impl Watch {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        let notify = Arc::new(Notify::new());
        let kernel = match loaded.tls_refused() {
            Some(_) => None,
            None => Some(Kernel {
                probes: Probes::start(loaded.probes(), Arc::clone(&notify))?,
                table: loaded.take_map("TRACER_TLS")?.try_into().context("open map TRACER_TLS")?,
                sessions: loaded.take_map("TRACER_SESSION")?.try_into().context("open map TRACER_SESSION")?,
                layouts: Layouts::new(loaded)?,
                calls: loaded.take_map("TRACER_GOCALL")?.try_into().context("open map TRACER_GOCALL")?,
            }),
        };
        let known = if kernel.is_some() { tls::standard() } else { Vec::new() };
        Ok(Self {
            kernel,
            finder: Finder::start(Arc::clone(&notify))?,
            notify,
            delays: Vec::new(),
            known: known.into_iter().map(Arc::new).collect(),
            processes: BTreeMap::new(),
            past: Vec::new(),
            reaper: Reaper::new(),
            fresh: Vec::new(),
            recent: None,
        })
    }

    /// A process is traced from now on.
    pub(super) fn traced(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        self.fresh.push(Fresh::Traced(process, clock::now()));
        self.advance(loaded);
    }

    pub(super) fn leave(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        self.fresh.push(Fresh::Ended(process));
        self.advance(loaded);
    }

    /// Looks at a record on its way.
    pub(super) fn observe(&mut self, record: &[u8]) {
        if self.kernel.is_none() {
            return;
        }
        let Some(process) = record::process(record) else { return };
        let since = record::time(record);
        match record::kind(record) {
            Some(EventKind::ProcessExeced) if record::is_traced(record) => {
                self.fresh.push(Fresh::Execed(process, since));
            }
            Some(EventKind::ProcessForked) => {
                if let Some(child) = record::child(record) {
                    self.fresh.push(Fresh::Forked(process, child, since));
                }
            }
            Some(EventKind::TaskExited) if record::is_process_end(record) => {
                self.fresh.push(Fresh::Ended(process))
            }
            Some(EventKind::DataMoved) if record::is_tls(record) => self.fresh.push(Fresh::Unheard(process)),
            Some(EventKind::DataMoved) if self.recent != Some(process) => {
                self.recent = Some(process);
                if !self.is_known(process) {
                    self.fresh.push(Fresh::Traced(process, since));
                }
            }
            _ => {}
        }
    }

    /// To be called after records were looked at, and when [`Watch::found`] says.
    pub(super) fn advance(&mut self, loaded: &mut Loaded) {
        if self.kernel.is_none() {
            self.fresh.clear();
            return;
        }
        for fresh in std::mem::take(&mut self.fresh) {
            match fresh {
                Fresh::Traced(process, since) => {
                    if self.enter(process) {
                        self.probe_in_advance(loaded, process, since);
                        self.finder.look(process, false);
                    }
                }
                Fresh::Execed(process, since) => {
                    self.enter(process);
                    if let Some(watched) = self.processes.get_mut(&process.tgid.0) {
                        // The memory is new, and the process's probes hold in it.
                        watched.mapped = Mapped::default();
                        watched.process = process;
                    }
                    self.probe_in_advance(loaded, process, since);
                    self.finder.look(process, false);
                }
                Fresh::Forked(parent, child, since) => {
                    let Some(parent) = self.processes.get(&parent.tgid.0) else { continue };
                    let libraries = parent.mapped.libraries.clone();
                    if self.enter(child) {
                        self.probe(loaded, child, libraries, since);
                        self.finder.look(child, false);
                    }
                }
                Fresh::Unheard(process) => {
                    let now = Instant::now();
                    let watched = self.processes.get_mut(&process.tgid.0);
                    let due = watched.filter(|known| {
                        known.mapped.libraries.is_empty() && now.duration_since(known.looked) > AGAIN
                    });
                    if let Some(watched) = due {
                        watched.looked = now;
                        self.finder.look(process, true);
                    }
                }
                Fresh::Ended(process) => self.forget(process),
            }
        }
        while let Some((process, mapped)) = self.finder.take() {
            self.looked_at(loaded, process, mapped);
        }
        while let Some(done) = self.kernel.as_mut().and_then(|kernel| kernel.probes.take()) {
            self.probed(done);
        }
    }

    /// What a process has mapped.
    fn looked_at(&mut self, loaded: &mut Loaded, process: ProcessKey, mapped: Mapped) {
        if !self.is_known(process) {
            return;
        }
        for library in &mapped.libraries {
            if matches!(library.stack, Stack::OpenSsl(_) | Stack::BoringSsl | Stack::GnuTls(..))
                && !self.known.iter().any(|known| known.inode == library.inode)
                && self.known.len() < MAX_KNOWN
            {
                self.known.push(Arc::clone(library));
            }
        }
        let libraries = mapped.libraries.clone();
        if let Some(watched) = self.processes.get_mut(&process.tgid.0) {
            if mapped.moves_stacks {
                self.reaper.end(std::mem::take(&mut watched.returns));
            }
            watched.mapped = mapped;
        }
        self.probe(loaded, process, libraries, clock::now());
    }

    /// Waits until processes were looked at and what is known of is probed, up to [`SETTLE`]: for whoever starts a program,
    /// or uses one, when it is traced.
    pub(super) fn settle(&mut self, loaded: &mut Loaded) {
        let begun = Instant::now();
        while let Some(left) = SETTLE.checked_sub(begun.elapsed())
            && let Some((process, mapped)) = self.finder.wait(left)
        {
            self.looked_at(loaded, process, mapped);
        }
        while let Some(left) = SETTLE.checked_sub(begun.elapsed())
            && let Some(done) = self.kernel.as_mut().and_then(|kernel| kernel.probes.wait(left))
        {
            self.probed(done);
        }
    }

    /// When one of the threads has done something.
    pub(super) async fn found(&self) {
        self.notify.notified().await;
    }

    /// How long it took from a process's exec, or from the wish to trace it, until its libraries were probed: how often, and
    /// within which time 99 of 100.
    fn delays(&self) -> Option<(usize, Duration)> {
        let mut sorted = self.delays.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * 99).div_ceil(100).checked_sub(1)?;
        Some((sorted.len(), *sorted.get(at)?))
    }

    pub(super) fn processes(&self) -> Vec<TlsProcess> {
        let alive = self.processes.values().map(Watched::told);
        let told = |process: &TlsProcess| !process.libraries.is_empty() || !process.refused.is_empty();
        self.past.iter().cloned().chain(alive).filter(told).collect()
    }

    fn is_known(&self, process: ProcessKey) -> bool {
        let known = self.processes.get(&process.tgid.0);
        known.is_some_and(|known| StartTick::of(known.process) == StartTick::of(process))
    }

    /// True when it was not known.
    fn enter(&mut self, process: ProcessKey) -> bool {
        if self.is_known(process) || self.processes.len() >= MAX_PROCESSES {
            return false;
        }
        let watched = Watched {
            process,
            mapped: Mapped::default(),
            probed: Vec::new(),
            links: Vec::new(),
            returns: Vec::new(),
            refused: Vec::new(),
            looked: Instant::now(),
        };
        if let Some(old) = self.processes.insert(process.tgid.0, watched) {
            self.reaper.end(old.links.into_iter().chain(old.returns));
        }
        true
    }

    /// Probes the libraries that it may come to map.
    fn probe_in_advance(&mut self, loaded: &mut Loaded, process: ProcessKey, since: KernelInstant) {
        if self.reaper.waiting() < MAX_ENDING {
            self.probe(loaded, process, self.known.clone(), since);
        }
    }

    /// Idempotent.
    fn probe(
        &mut self,
        loaded: &mut Loaded,
        process: ProcessKey,
        libraries: Vec<Arc<Library>>,
        since: KernelInstant,
    ) {
        let (Some(kernel), Some(watched)) = (&mut self.kernel, self.processes.get_mut(&process.tgid.0))
        else {
            return;
        };
        for library in libraries {
            if watched.probed.iter().any(|known| known.inode == library.inode) {
                continue;
            }
            let with_tls = watched.probed.iter().chain([&library]).filter(|library| library.has_tls());
            let stacks = with_tls.fold(0, |stacks, library| {
                stacks
                    | match library.stack {
                        Stack::OpenSsl(_) | Stack::BoringSsl | Stack::GnuTls(..) => tls_stacks::OF_THREADS,
                        Stack::Go(..) => tls_stacks::OF_GOROUTINES,
                        Stack::Rustls(_) => tls_stacks::OF_RECORDS,
                    }
            });
            if stacks != 0
                && let Err(error) = kernel.follow(process.tgid, stacks)
            {
                watched.refused.push((library.path.display().to_string(), format!("{error:#}")));
                continue;
            }
            watched.probed.push(Arc::clone(&library));
            let returns = !watched.mapped.moves_stacks;
            let layout = kernel.layouts.number(&library);
            kernel.probes.attach(loaded, Job { process, library, layout, returns, since });
        }
    }

    /// Something has come of an attachment.
    fn probed(&mut self, done: Done) {
        let Done { job: Job { process, library, since, .. }, at, result } = done;
        let known = self.is_known(process);
        let watched = self.processes.get_mut(&process.tgid.0).filter(|_| known);
        let delay = Duration::from_nanos(at.as_nanos().saturating_sub(since.as_nanos()));
        match (result, watched) {
            (Ok(Some(links)), Some(watched)) => {
                tracing::debug!(
                    "process {}: {} in {} is probed after {delay:?}: {}",
                    process.tgid,
                    library.stack,
                    library.path.display(),
                    library.functions().join(", ")
                );
                if self.delays.len() < MAX_DELAYS {
                    self.delays.push(delay);
                }
                watched.links.extend(links.places);
                if watched.mapped.moves_stacks {
                    self.reaper.end(links.returns);
                } else {
                    watched.returns.extend(links.returns);
                }
            }
            // It has ended meanwhile.
            (Ok(Some(links)), None) => self.reaper.end(links.places.into_iter().chain(links.returns)),
            (Ok(None), _) | (Err(_), None) => {}
            (Err(reason), Some(watched)) => {
                tracing::debug!("process {}: {}: {reason}", process.tgid, library.path.display());
                watched.refused.push((library.path.display().to_string(), reason));
            }
        }
    }

    fn forget(&mut self, process: ProcessKey) {
        if !self.is_known(process) {
            return;
        }
        let Some(watched) = self.processes.remove(&process.tgid.0) else { return };
        let told = watched.told();
        if !(told.libraries.is_empty() && told.refused.is_empty()) && self.past.len() < MAX_PAST {
            self.past.push(told);
        }
        let probed = !watched.probed.is_empty();
        self.reaper.end(watched.links.into_iter().chain(watched.returns));
        if let Some(kernel) = &mut self.kernel
            && probed
        {
            kernel.leave(process.tgid);
        }
    }
}

impl Watched {
    fn told(&self) -> TlsProcess {
        let refused = self.refused.iter().chain(&self.mapped.refused).cloned().collect();
        TlsProcess { process: self.process, libraries: self.mapped.libraries.clone(), refused }
    }
}

impl Kernel {
    /// Has the records of a process's TLS connections reported.
    fn follow(&mut self, tgid: Tgid, stacks: u8) -> anyhow::Result<()> {
        self.table.insert(tgid.0, stacks, 0).context("enter the process into the table")
    }

    fn leave(&mut self, tgid: Tgid) {
        // Absent: there is nothing to remove.
        let _ = self.table.remove(&tgid.0);
        let of_process: Vec<SessionKey> =
            self.sessions.keys().filter_map(Result::ok).filter(|key| key.tgid == tgid.0).collect();
        for key in of_process {
            let _ = self.sessions.remove(&key);
        }
        let of_process: Vec<SessionKey> =
            self.calls.keys().filter_map(Result::ok).filter(|key| key.tgid == tgid.0).collect();
        for key in of_process {
            let _ = self.calls.remove(&key);
        }
    }
}

impl Drop for Watch {
    /// What the kernel would do at the end of the tracer, one probe after the other.
    fn drop(&mut self) {
        if let Some((times, delay)) = self.delays() {
            tracing::debug!("libraries of TLS were probed {times} times, 99 of 100 within {delay:?}");
        }
        for watched in std::mem::take(&mut self.processes).into_values() {
            self.reaper.end(watched.links.into_iter().chain(watched.returns));
        }
        self.reaper.finish();
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let run = || {
        come_forward();
        run();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).context("start a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_preempts_itself_says_so() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.18";
        assert!(!preempts(dynamic, "", "quiet"));
        assert!(!preempts(dynamic, "none (voluntary) full lazy", "preempt=full"));
        assert!(preempts(dynamic, "none voluntary (full) lazy", ""));
        assert!(preempts(dynamic, "", "quiet preempt=lazy"));
        assert!(preempts("#1 SMP PREEMPT Debian", "", ""));
        assert!(preempts("#1 SMP PREEMPT_RT", "", ""));
        assert!(!preempts("#1 SMP Debian", "", ""));
    }
}
