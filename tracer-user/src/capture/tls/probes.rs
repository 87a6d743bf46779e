//! Attaches probes to a library for a process: by one link, and on a thread of its own, where the kernel can.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use rustix::io::Errno;
use tokio::sync::Notify;
use tracer_abi::config::{GnuTlsSite, GoTlsSite, GrpcSite, RustlsSite, tls_site};
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::reaper::Link;
use crate::capture::object::Loaded;
use crate::capture::uprobe_multi::{self, Place};
use crate::clock;
use crate::priority::go_ahead;
use crate::process::procfs::ProcDir;
use crate::tls::{Gate, Library, Point, Site, Stack};

const PLACES: &str = "tracer_tls";
const RETURNS: &str = "tracer_tls_ret";
const GO_PLACES: &str = "tracer_tls_go";
const GNU_PLACES: &str = "tracer_tls_gnu";
const RUST_PLACES: &str = "tracer_tls_rust";
const GO_STREAMS: &str = "tracer_go_stream";

/// Programs at user probes.
pub(in crate::capture) const PROGRAMS: [&str; 2] = [PLACES, RETURNS];

/// The same, whose absence costs Go's TLS only, or GnuTLS, or rustls, or parents of Go's HTTP/2.
pub(in crate::capture) const OPTIONAL: [&str; 4] = [GO_PLACES, GNU_PLACES, RUST_PLACES, GO_STREAMS];

/// A process that executes a program, or begins, may be said to be none for a moment.
const TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// What is wanted.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) process: ProcessKey,
    pub(super) library: Arc<Library>,
    /// Number of its layout in the kernel half's table.
    pub(super) layout: u16,
    /// Whether returns may be caught.
    pub(super) returns: bool,
    /// When the process became what it is.
    pub(super) since: KernelInstant,
}

/// What came of it.
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) at: KernelInstant,
    /// Nothing: the process is gone.
    pub(super) result: Result<Option<Links>, String>,
}

/// Probes that were attached; those that catch returns apart.
pub(super) struct Links {
    pub(super) places: Vec<Link>,
    pub(super) returns: Vec<Link>,
}

pub(super) struct Probes {
    /// `None`: the kernel has links of one probe only, and those are made by whoever asks.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    outbox: Sender<Done>,
    /// Jobs of which nothing has been taken yet.
    waiting: usize,
}

impl Probes {
    /// `notify`: when there is something to take.
    pub(super) fn start(
        programs: Option<Arc<uprobe_multi::Programs>>,
        notify: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let (outbox, done) = channel();
        let Some(programs) = programs else { return Ok(Self { jobs: None, done, outbox, waiting: 0 }) };
        let (jobs, inbox) = channel::<Job>();
        let sender = outbox.clone();
        super::thread("tls-attach", move || {
            go_ahead();
            for job in inbox {
                let result = attach_many(&programs, &job);
                if sender.send(Done { job, at: clock::now(), result }).is_err() {
                    return;
                }
                notify.notify_one();
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, outbox, waiting: 0 })
    }

    pub(super) fn attach(&mut self, loaded: &mut Loaded, job: Job) {
        self.waiting += 1;
        match &self.jobs {
            // The thread ends with this end of the channel only.
            Some(jobs) => drop(jobs.send(job)),
            None => {
                let result = attach_each(loaded, &job);
                // As above.
                let _ = self.outbox.send(Done { job, at: clock::now(), result });
            }
        }
    }

    pub(super) fn take(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.waiting = self.waiting.saturating_sub(1);
        Some(done)
    }

    /// The same, and waits for one that is to come, up to this long.
    pub(super) fn wait(&mut self, patience: Duration) -> Option<Done> {
        if self.waiting == 0 {
            return None;
        }
        let done = self.done.recv_timeout(patience).ok()?;
        self.waiting = self.waiting.saturating_sub(1);
        Some(done)
    }
}

fn attach_many(programs: &uprobe_multi::Programs, job: &Job) -> Result<Option<Links>, String> {
    let file = job.library.handle();
    let attach = |name: &str, returns: bool| {
        let places: Vec<Place> = points(&job.library)
            .filter(|point| program(&job.library, point) == name)
            .map(|point| Place { offset: point.offset, cookie: cookie(job, point) })
            .collect();
        if places.is_empty() || returns && !job.returns {
            return Ok(Some(Vec::new()));
        }
        let link = while_it_is_there(job.process, || {
            programs.attach(name, &file, &places, job.process.tgid, returns)
        });
        link.map(|link| link.map(|link| vec![Link::Many(link)])).map_err(|error| error.to_string())
    };
    let Some(returns) = attach(RETURNS, true)? else { return Ok(None) };
    let Some(mut places) = attach(moving(&job.library), false)? else { return Ok(None) };
    match attach(GO_STREAMS, false) {
        Ok(streams) => places.extend(streams.into_iter().flatten()),
        Err(error) => tracing::debug!("process {}: streams: {error}", job.process.tgid),
    }
    Ok(Some(Links { places, returns }))
}

fn attach_each(loaded: &mut Loaded, job: &Job) -> Result<Option<Links>, String> {
    let mut links = Links { places: Vec::new(), returns: Vec::new() };
    for point in points(&job.library) {
        let returns = point.site == Site::Returns;
        if returns && !job.returns {
            continue;
        }
        let attached = while_it_is_there(job.process, || attach_one(loaded, job, point));
        match attached {
            Ok(Some(link)) if returns => links.returns.push(link),
            Ok(Some(link)) => links.places.push(link),
            Ok(None) => return Ok(None),
            Err(error) if point.site.is_of_streams() => {
                tracing::debug!("process {}: {}: {error}", job.process.tgid, point.function);
            }
            Err(error) => return Err(format!("{} cannot be probed: {error}", point.function)),
        }
    }
    Ok(Some(links))
}

fn attach_one(loaded: &mut Loaded, job: &Job, point: &Point) -> io::Result<Link> {
    let name = program(&job.library, point);
    let mut attach = || -> anyhow::Result<Link> {
        let scope = UProbeScope::OneProcess(NonZeroU32::new(job.process.tgid.0).context("no process")?);
        let location = UProbeAttachLocation::AbsoluteOffset(point.offset);
        let at = UProbeAttachPoint { location, cookie: Some(cookie(job, point)) };
        let program = loaded.program::<UProbe>(name)?;
        let link = program.attach(at, job.library.handle(), scope)?;
        Ok(Link::One(program.take_link(link).context("keep the probe")?))
    };
    attach().map_err(|error| {
        let cause = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).next();
        match cause.and_then(io::Error::raw_os_error) {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(format!("{error:#}")),
        }
    })
}

/// Nothing: the process has ended.
fn while_it_is_there<T>(
    process: ProcessKey,
    mut attach: impl FnMut() -> io::Result<T>,
) -> io::Result<Option<T>> {
    for _ in 1..TRIES {
        match attach() {
            Err(error) if is_gone(&error) => {}
            result => return result.map(Some),
        }
        if !is_there(process) {
            return Ok(None);
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    attach().map(Some).or_else(
        |error| {
            if is_gone(&error) && !is_there(process) { Ok(None) } else { Err(error) }
        },
    )
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// One that has ended and is not yet forgotten has no memory that could be probed.
fn is_there(process: ProcessKey) -> bool {
    ProcDir::open_exactly(process).and_then(|dir| dir.stat()).is_ok_and(|stat| !stat.zombie)
}

/// In the order in which they are attached: a call that is seen to begin must not miss its end.
fn points(library: &Library) -> impl Iterator<Item = &Point> {
    let begins = |point: &&Point| matches!(point.site, Site::Begins(_));
    let points = library.points.iter();
    points.clone().filter(move |point| !begins(point)).chain(points.filter(begins))
}

/// The kernel half's program for a place of a library.
fn program(library: &Library, point: &Point) -> &'static str {
    match point.site {
        Site::Returns => RETURNS,
        Site::ServesStream | Site::CallsStream | Site::ServesGrpc(_) | Site::CallsGrpc(_) => GO_STREAMS,
        Site::Begins(_) | Site::Ends(_) | Site::Frees => moving(library),
    }
}

/// The same for those that tell of plaintext.
const fn moving(library: &Library) -> &'static str {
    match library.stack {
        Stack::OpenSsl(_) | Stack::BoringSsl => PLACES,
        Stack::GnuTls(..) => GNU_PLACES,
        Stack::Go(..) => GO_PLACES,
        Stack::Rustls(_) => RUST_PLACES,
    }
}

fn cookie(job: &Job, point: &Point) -> u64 {
    let grpc = |site, fields| GrpcSite { site: site as u8, fields }.to_cookie();
    let calls_back = if job.library.is_program { tls_site::CALLS_BACK } else { 0 };
    let site = match point.site {
        Site::Begins(call) => u64::from(call.code()),
        Site::Ends(Gate::Always) | Site::Returns => tls_site::ENDS,
        Site::Ends(Gate::IfZero) => tls_site::ENDS_IF_ZERO,
        Site::Ends(Gate::IfNotZero) => tls_site::ENDS_IF_NOT_ZERO,
        Site::Frees => tls_site::FREES,
        Site::ServesStream => tls_site::STREAM_SERVES,
        Site::CallsStream => tls_site::STREAM_CALLS,
        Site::ServesGrpc(fields) => return grpc(tls_site::GRPC_SERVES, fields),
        Site::CallsGrpc(fields) => return grpc(tls_site::GRPC_CALLS, fields),
    };
    match &job.library.stack {
        Stack::OpenSsl(_) | Stack::BoringSsl => {
            site | calls_back | u64::from(job.layout) << tls_site::LAYOUT_SHIFT
        }
        Stack::GnuTls(_, gnutls) => {
            let (site, depth) = (site as u8, point.depth);
            GnuTlsSite { site, depth, hellos: gnutls.hellos, role: gnutls.role, corked: gnutls.corked }
                .to_cookie()
        }
        Stack::Rustls(_) => RustlsSite { site: site as u8, depth: point.depth }.to_cookie(),
        Stack::Go(_, fields) => {
            GoTlsSite { site: site as u32, number: fields.number, unread: fields.unread }.to_cookie()
        }
    }
}
