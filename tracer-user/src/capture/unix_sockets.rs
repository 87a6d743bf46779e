//! What the kernel half cannot see of Unix sockets, found by walking over all of them: which are older than the
//! tracer, and which have closed.
//!
//! A walk sees the sockets of the tracer's own network namespace. In others, a Unix socket counts as new at its first
//! operation, and its closing is not reported.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::maps::{Array, MapData};
use aya::programs::Iter;
use tracer_abi::conn::{Direction, Family, SocketCookie};
use tracer_abi::event::EventKind;

use super::object::Loaded;
use super::record;
use crate::clock;

/// Program that marks the sockets that exist, and one that lists those that were announced.
pub(super) const MARK: &str = "tracer_un_mark";
pub(super) const LIST: &str = "tracer_un_live";
/// The kernel's name of the walk.
pub(super) const WALK: &str = "unix";

/// How often closed sockets are looked for while any is open. A connection's exchanges end with their last bytes, and
/// only what waits for the close itself waits for this.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sockets that one walk lists, on average. The kernel gathers what one read returns in eight pages (`bpf_seq_read`), room
/// for 4096 cookies; and a walk that pauses because they are full, or the reader's buffer is, goes on behind the rest
/// of its hash bucket (`bpf_iter_unix_batch`: `st_bucket_done`). What it passes over must not count as closed, so
/// walks are kept from pausing.
const PART: usize = 1024;

/// More than what one read can return.
const WALK_BYTES: usize = 64 << 10;

/// Sockets remembered at most; those beyond are not reported as closed.
const MAX_OPEN: usize = 65_536;

pub(super) struct UnixSockets {
    /// Inode number of the tracer's network namespace; zero when walks are not to be had.
    netns: u32,
    /// Which part of the sockets the next walk lists.
    selection: Array<MapData, u64>,
    /// Bytes moved by each open socket that was announced.
    open: HashMap<SocketCookie, Moved>,
    next_look: Instant,
}

#[derive(Clone, Copy, Default)]
struct Moved {
    egress: u64,
    ingress: u64,
}

impl UnixSockets {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let netns =
            std::fs::metadata("/proc/self/ns/net").ok().and_then(|file| u32::try_from(file.ino()).ok());
        let netns = netns.filter(|_| loaded.has_program(LIST)).unwrap_or(0);
        let selection = loaded.take_map("TRACER_WALK")?.try_into().context("open map TRACER_WALK")?;
        Ok(Self { netns, selection, open: HashMap::new(), next_look: Instant::now() })
    }

    /// When [`Self::closed`] wants to be called next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.open.is_empty()).then_some(self.next_look)
    }

    /// Looks at a record on its way.
    pub(super) fn observe(&mut self, record: &[u8]) {
        match record::kind(record) {
            Some(EventKind::ConnOpened) => {
                if record::family(record) == Some(Family::Unix)
                    && record::netns(record) == Some(self.netns)
                    && self.open.len() < MAX_OPEN
                    && let Some(cookie) = record::cookie(record)
                {
                    if self.open.is_empty() {
                        self.next_look = Instant::now() + INTERVAL;
                    }
                    self.open.insert(cookie, Moved::default());
                }
            }
            Some(EventKind::DataMoved) if !self.open.is_empty() => {
                if let Some(moved) = record::cookie(record).and_then(|cookie| self.open.get_mut(&cookie))
                    && let Some(end) = record::stream_end(record)
                {
                    match record::direction(record) {
                        Some(Direction::Egress) => moved.egress = end,
                        Some(Direction::Ingress) => moved.ingress = end,
                        None => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Records of the sockets that have closed, when it is time to look. What the rings hold by then is older than
    /// they are, so they must be handed out after that.
    pub(super) fn closed(&mut self, loaded: &mut Loaded) -> Vec<Vec<u8>> {
        if self.open.is_empty() || Instant::now() < self.next_look {
            return Vec::new();
        }
        self.next_look = Instant::now() + INTERVAL;
        let alive = match self.alive(loaded) {
            Ok(alive) => alive,
            Err(error) => {
                tracing::debug!("closed Unix sockets are looked for later: {error:#}");
                return Vec::new();
            }
        };
        let now = clock::now();
        let gone = self.open.extract_if(|cookie, _| alive.binary_search(&cookie.0).is_err());
        let mut gone: Vec<_> = gone.collect();
        gone.sort_unstable_by_key(|&(cookie, _)| cookie);
        gone.into_iter()
            .map(|(cookie, moved)| record::conn_closed(now, cookie, moved.egress, moved.ingress))
            .collect()
    }
}

impl UnixSockets {
    /// Cookies of the announced sockets that exist, sorted.
    fn alive(&mut self, loaded: &mut Loaded) -> anyhow::Result<Vec<u64>> {
        let parts = self.open.len().div_ceil(PART).next_power_of_two() as u64;
        let mut alive = Vec::with_capacity(self.open.len());
        for part in 0..parts {
            self.selection.set(0, part << 32 | (parts - 1), 0).context("select sockets")?;
            let listed = walk(loaded, LIST)?;
            alive.extend(listed.as_chunks().0.iter().map(|&bytes| u64::from_ne_bytes(bytes)));
        }
        alive.sort_unstable();
        Ok(alive)
    }
}

/// Marks the sockets that exist and were not used yet under the eyes of the kernel half.
pub(super) fn mark_existing(loaded: &mut Loaded) {
    if let Err(error) = walk(loaded, MARK) {
        tracing::warn!("Unix sockets older than the tracer will pass for new ones: {error:#}");
    }
}

/// Runs one of the programs over all sockets, without a pause; returns what it wrote.
fn walk(loaded: &mut Loaded, program: &str) -> anyhow::Result<Vec<u8>> {
    let program: &mut Iter = loaded.program(program)?;
    let link = program.attach()?;
    let mut file = program.take_link(link)?.into_file()?;
    let mut output = vec![0; WALK_BYTES];
    let len = file.read(&mut output)?;
    output.truncate(len);
    ensure!(file.read(&mut [0; 8])? == 0, "too many sockets for one walk");
    Ok(output)
}
