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

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData};
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use tokio::sync::Notify;
use tracer_abi::config::tls_gate;
use tracer_abi::event::EventKind;
use tracer_abi::limits::SESSION_BYTES;
use tracer_abi::task::{ProcessKey, Tgid};

use super::ladder::Rung;
use super::object::{Attached, Loaded};
use super::record;
use crate::process::procfs::StartTick;
use crate::tls::{self, Gate, Library, Mapped, Point, Site};

const BEGINS: &str = "tracer_tls_in";
const ENDS: &str = "tracer_tls_out";
const RETURNS: &str = "tracer_tls_ret";
const FREES: &str = "tracer_tls_free";

/// Programs at user probes.
pub(super) const PROGRAMS: [&str; 4] = [BEGINS, ENDS, RETURNS, FREES];

/// Since when programs at probes have a stack of the processor's, which whoever preempts them shares (commit a76ab5731e32).
const PRIVATE_STACKS: (u32, u32) = (6, 13);

/// Whether programs at user probes may be preempted while they use such a stack, as far as the kernel says.
pub(super) fn may_be_preempted() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mode = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    let arguments = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    version >= PRIVATE_STACKS && preempts(&uname.version().to_string_lossy(), &mode, &arguments)
}

/// Of the kernel's own words: its version line, the mode in force (in parentheses), its command line.
fn preempts(version: &str, mode: &str, arguments: &str) -> bool {
    let always =
        version.split_whitespace().any(|word| matches!(word, "PREEMPT" | "PREEMPT_RT" | "PREEMPT_LAZY"));
    let now = ["(full)", "(lazy)"].iter().any(|known| mode.contains(known));
    let asked = arguments.split_whitespace().any(|word| matches!(word, "preempt=full" | "preempt=lazy"));
    always || now || mode.is_empty() && asked
}

/// When a process is looked at: a program maps its libraries within milliseconds, and what it loads later within seconds.
const LOOKS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(150),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Between looks at a process that speaks TLS unheard.
const AGAIN: Duration = Duration::from_millis(500);

/// Processes that are watched: as many as the kernel half's table holds.
const MAX_PROCESSES: usize = 16 << 10;

/// Libraries that are probed in advance: the host's, and those of a few containers.
const MAX_KNOWN: usize = 8;

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
    rung: Rung,
    table: BpfHashMap<MapData, u32, u8>,
    sessions: BpfHashMap<MapData, SessionKey, SessionState>,
    records: Vec<Attached>,
}

/// Address and process, as the kernel half has them.
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

struct Watched {
    process: ProcessKey,
    mapped: Mapped,
    /// Whose probes it has, and the probes; those that catch returns apart.
    probed: Vec<Arc<Library>>,
    links: Vec<UProbeLink>,
    returns: Vec<UProbeLink>,
    refused: Vec<(String, String)>,
    looked: Instant,
}

#[derive(Clone, Copy)]
enum Fresh {
    Traced(ProcessKey),
    Execed(ProcessKey),
    Forked(ProcessKey, ProcessKey),
    Unheard(ProcessKey),
    Ended(ProcessKey),
}

impl Watch {
    pub(super) fn new(loaded: &mut Loaded, rung: Rung) -> anyhow::Result<Self> {
        let kernel = match loaded.tls_refused() {
            Some(_) => None,
            None => Some(Kernel {
                rung,
                table: loaded.take_map("TRACER_TLS")?.try_into().context("open map TRACER_TLS")?,
                sessions: loaded.take_map("TRACER_SESSION")?.try_into().context("open map TRACER_SESSION")?,
                records: Vec::new(),
            }),
        };
        let known = if kernel.is_some() { tls::standard() } else { Vec::new() };
        Ok(Self {
            kernel,
            finder: Finder::start()?,
            known: known.into_iter().map(Arc::new).collect(),
            processes: BTreeMap::new(),
            past: Vec::new(),
            reaper: Reaper::start()?,
            fresh: Vec::new(),
            recent: None,
        })
    }

    /// A process is traced from now on.
    pub(super) fn traced(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        self.fresh.push(Fresh::Traced(process));
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
        match record::kind(record) {
            Some(EventKind::ProcessExeced) if record::is_traced(record) => {
                self.fresh.push(Fresh::Execed(process))
            }
            Some(EventKind::ProcessForked) => {
                if let Some(child) = record::child(record) {
                    self.fresh.push(Fresh::Forked(process, child));
                }
            }
            Some(EventKind::TaskExited) if record::is_process_end(record) => {
                self.fresh.push(Fresh::Ended(process))
            }
            Some(EventKind::DataMoved) if record::is_tls(record) => self.fresh.push(Fresh::Unheard(process)),
            Some(EventKind::DataMoved) if self.recent != Some(process) => {
                self.recent = Some(process);
                if !self.is_known(process) {
                    self.fresh.push(Fresh::Traced(process));
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
                Fresh::Traced(process) => {
                    if self.enter(process) {
                        self.probe(loaded, process, self.known.clone());
                        self.finder.look(process, false);
                    }
                }
                Fresh::Execed(process) => {
                    self.enter(process);
                    if let Some(watched) = self.processes.get_mut(&process.tgid.0) {
                        // The memory is new, and the process's probes hold in it.
                        watched.mapped = Mapped::default();
                        watched.process = process;
                    }
                    self.probe(loaded, process, self.known.clone());
                    self.finder.look(process, false);
                }
                Fresh::Forked(parent, child) => {
                    let Some(parent) = self.processes.get(&parent.tgid.0) else { continue };
                    let libraries = parent.mapped.libraries.clone();
                    if self.enter(child) {
                        self.probe(loaded, child, libraries);
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
                Fresh::Ended(process) => self.forget(loaded, process),
            }
        }
        while let Ok((process, mapped)) = self.finder.found.try_recv() {
            if !self.is_known(process) {
                continue;
            }
            for library in &mapped.libraries {
                if !self.known.iter().any(|known| known.inode == library.inode)
                    && self.known.len() < MAX_KNOWN
                {
                    self.known.push(Arc::clone(library));
                }
            }
            self.probe(loaded, process, mapped.libraries.clone());
            if let Some(watched) = self.processes.get_mut(&process.tgid.0) {
                if mapped.moves_stacks {
                    self.reaper.end(std::mem::take(&mut watched.returns));
                }
                watched.mapped = mapped;
            }
        }
    }

    /// When the thread that looks has found something.
    pub(super) async fn found(&self) {
        self.finder.notify.notified().await;
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
            self.reaper.end(old.links.into_iter().chain(old.returns).collect());
        }
        true
    }

    /// Idempotent.
    fn probe(&mut self, loaded: &mut Loaded, process: ProcessKey, libraries: Vec<Arc<Library>>) {
        let (Some(kernel), Some(watched)) = (&mut self.kernel, self.processes.get_mut(&process.tgid.0))
        else {
            return;
        };
        for library in libraries {
            if watched.probed.iter().any(|known| known.inode == library.inode) {
                continue;
            }
            let begun = Instant::now();
            if let Err(error) = kernel.follow(loaded, process.tgid) {
                watched.refused.push((library.path.display().to_string(), format!("{error:#}")));
                continue;
            }
            watched.probed.push(Arc::clone(&library));
            let mut links = Vec::new();
            let mut returns = Vec::new();
            for point in &library.points {
                match attach(loaded, process.tgid, &library, point) {
                    Ok(link) if point.site == Site::Returns => returns.push(link),
                    Ok(link) => links.push(link),
                    Err(error) => {
                        let reason = format!("{} cannot be probed: {error:#}", point.function);
                        tracing::debug!("process {}: {}: {reason}", process.tgid, library.path.display());
                        watched.refused.push((library.path.display().to_string(), reason));
                        links.append(&mut returns);
                        self.reaper.end(std::mem::take(&mut links));
                        break;
                    }
                }
            }
            tracing::debug!(
                "process {}: {} probes in {}, which took {:?}",
                process.tgid,
                links.len() + returns.len(),
                library.path.display(),
                begun.elapsed()
            );
            watched.links.append(&mut links);
            if watched.mapped.moves_stacks {
                self.reaper.end(returns);
            } else {
                watched.returns.append(&mut returns);
            }
        }
    }

    fn forget(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        if !self.is_known(process) {
            return;
        }
        let Some(watched) = self.processes.remove(&process.tgid.0) else { return };
        let told = watched.told();
        if !(told.libraries.is_empty() && told.refused.is_empty()) && self.past.len() < MAX_PAST {
            self.past.push(told);
        }
        let probed = !watched.probed.is_empty();
        self.reaper.end(watched.links.into_iter().chain(watched.returns).collect());
        if let Some(kernel) = &mut self.kernel
            && probed
        {
            let last = self.processes.values().all(|other| other.probed.is_empty());
            kernel.leave(loaded, process.tgid, last);
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
    fn follow(&mut self, loaded: &mut Loaded, tgid: Tgid) -> anyhow::Result<()> {
        if self.records.is_empty() {
            self.records = loaded.attach(self.rung.tls())?;
        }
        self.table.insert(tgid.0, 0, 0).context("enter the process into the table")
    }

    fn leave(&mut self, loaded: &mut Loaded, tgid: Tgid, last: bool) {
        // Absent: there is nothing to remove.
        let _ = self.table.remove(&tgid.0);
        let of_process: Vec<SessionKey> =
            self.sessions.keys().filter_map(Result::ok).filter(|key| key.tgid == tgid.0).collect();
        for key in of_process {
            let _ = self.sessions.remove(&key);
        }
        if last {
            loaded.detach(std::mem::take(&mut self.records));
        }
    }
}

fn attach(loaded: &mut Loaded, tgid: Tgid, library: &Library, point: &Point) -> anyhow::Result<UProbeLink> {
    let (name, cookie) = match point.site {
        Site::Begins(call) => (BEGINS, u64::from(call.code())),
        Site::Ends(gate) => (
            ENDS,
            match gate {
                Gate::Always => tls_gate::ALWAYS,
                Gate::IfZero => tls_gate::IF_ZERO,
                Gate::IfNotZero => tls_gate::IF_NOT_ZERO,
            },
        ),
        Site::Returns => (RETURNS, tls_gate::ALWAYS),
        Site::Frees => (FREES, 0),
    };
    let scope = UProbeScope::OneProcess(NonZeroU32::new(tgid.0).context("no process")?);
    let location = UProbeAttachLocation::AbsoluteOffset(point.offset);
    let program = loaded.program::<UProbe>(name)?;
    let link =
        program.attach(UProbeAttachPoint { location, cookie: Some(cookie) }, library.handle(), scope)?;
    program.take_link(link).context("keep the probe")
}

impl Drop for Watch {
    /// What the kernel would do at the end of the tracer, one probe after the other.
    fn drop(&mut self) {
        for watched in std::mem::take(&mut self.processes).into_values() {
            self.reaper.end(watched.links.into_iter().chain(watched.returns).collect());
        }
        self.reaper.finish();
    }
}

/// Threads that end probes: the kernel waits for a grace period for each, and one is enough for many at a time.
struct Reaper {
    dead: Option<Sender<UProbeLink>>,
    threads: Vec<JoinHandle<()>>,
}

impl Reaper {
    const THREADS: usize = 16;

    fn start() -> anyhow::Result<Self> {
        let (dead, inbox) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::new();
        for _ in 0..Self::THREADS {
            let inbox = Arc::clone(&inbox);
            threads.push(thread("tls-detach", move || {
                loop {
                    // Held while it waits for the next one, not while that ends.
                    let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(link) = next else { return };
                    drop::<UProbeLink>(link);
                }
            })?);
        }
        Ok(Self { dead: Some(dead), threads })
    }

    fn end(&self, links: Vec<UProbeLink>) {
        let Some(dead) = &self.dead else { return };
        for link in links {
            // Else it ends here and now.
            let _ = dead.send(link);
        }
    }

    /// Waits for those that are to end.
    fn finish(&mut self) {
        self.dead = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).context("start a thread")
}

/// The thread that looks at what processes have mapped.
struct Finder {
    requests: Sender<(ProcessKey, bool)>,
    found: Receiver<(ProcessKey, Mapped)>,
    notify: Arc<Notify>,
}

impl Finder {
    fn start() -> anyhow::Result<Self> {
        let (requests, inbox) = channel();
        let (outbox, found) = channel();
        let notify = Arc::new(Notify::new());
        let notifier = Arc::clone(&notify);
        thread("tls-look", move || run_finder(&inbox, &outbox, &notifier))?;
        Ok(Self { requests, found, notify })
    }

    /// `once`: at once, and not again.
    fn look(&self, process: ProcessKey, once: bool) {
        // The thread ends with this end of the channel only.
        let _ = self.requests.send((process, once));
    }
}

fn run_finder(inbox: &Receiver<(ProcessKey, bool)>, outbox: &Sender<(ProcessKey, Mapped)>, notify: &Notify) {
    let mut known = tls::Known::new();
    let mut due: BinaryHeap<Reverse<(Instant, ProcessKey, usize)>> = BinaryHeap::new();
    let mut told: BTreeMap<ProcessKey, usize> = BTreeMap::new();
    loop {
        let next = due.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok((process, once)) => {
                let looks = if once { &LOOKS[..1] } else { &LOOKS[..] };
                let now = Instant::now();
                due.extend(looks.iter().zip(1..).map(|(after, n)| Reverse((now + *after, process, n))));
                told.remove(&process);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(Reverse((at, process, n))) = due.peek().copied()
            && at <= Instant::now()
        {
            due.pop();
            if let Some(mapped) = tls::look(process, &mut known) {
                let size = mapped.libraries.len() + mapped.refused.len() + usize::from(mapped.moves_stacks);
                if told.insert(process, size) != Some(size) && size > 0 {
                    if outbox.send((process, mapped)).is_err() {
                        return;
                    }
                    notify.notify_one();
                }
            }
            if n == LOOKS.len() {
                told.remove(&process);
            }
        }
    }
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
