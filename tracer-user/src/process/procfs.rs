//! One process's folder in `/proc`, opened once: every read through it is of that process and no other.
//!
//! A pid can be given to a new process between two reads by path. The open folder belongs to the process it was opened
//! for and answers `ESRCH` once that is gone, so nothing needs to be checked afterwards. Every read is bounded.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use tracer_abi::task::{ProcessKey, Tgid};

/// `USER_HZ`: unit of the start time in `stat`. The kernel fixes it at 100 on every architecture that the tracer
/// supports, whatever `CONFIG_HZ` is.
const TICKS_PER_SEC: u64 = 100;
const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SEC;

/// A `stat` line is about 350 bytes; the name in it is 64 at most.
const MAX_STAT_BYTES: usize = 4096;

/// `status` is about 1500 bytes, the tracer's pid in its first lines.
const MAX_STATUS_BYTES: usize = 4096;

/// Some ten thousand processes.
const MAX_CHILDREN_BYTES: usize = 64 * 1024;

/// When a process started, to the 10 ms that `/proc` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StartTick(pub(crate) u64);

impl StartTick {
    /// The tick in which a kernel start time lies. The kernel truncates, too (`nsec_to_clock_t`).
    pub(crate) const fn of(process: ProcessKey) -> Self {
        Self(process.start_boottime / NANOS_PER_TICK)
    }

    /// The first nanosecond of the tick.
    pub(crate) const fn earliest(self) -> u64 {
        self.0.saturating_mul(NANOS_PER_TICK)
    }
}

/// A process's folder.
#[derive(Debug)]
pub(crate) struct ProcDir {
    fd: OwnedFd,
    pub(crate) tgid: Tgid,
}

/// From `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: Tgid,
    pub(crate) start: StartTick,
    /// What all its threads have used, to the tick.
    pub(crate) cpu_time: Duration,
    /// It has ended and waits for its parent.
    pub(crate) zombie: bool,
}

impl ProcDir {
    /// # Errors
    /// `NotFound` when there is no such process.
    pub(crate) fn open(tgid: Tgid) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, format!("/proc/{tgid}"), flags, Mode::empty())?;
        Ok(Self { fd, tgid })
    }

    /// The folder of exactly this process.
    ///
    /// # Errors
    /// `NotFound` also when the pid belongs to another process by now.
    pub(crate) fn open_exactly(process: ProcessKey) -> io::Result<Self> {
        let dir = Self::open(process.tgid)?;
        if dir.stat()?.start == StartTick::of(process) {
            Ok(dir)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// A file below the folder, at most `max` bytes of it, and whether that is all.
    pub(crate) fn read(&self, name: &str, max: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut bytes = Vec::new();
        self.file(name)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
        let whole = bytes.len() <= max;
        bytes.truncate(max);
        Ok((bytes, whole))
    }

    pub(crate) fn file(&self, name: &str) -> io::Result<std::fs::File> {
        // Never waits, whatever the file turns out to be; never becomes a controlling terminal.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(openat(&self.fd, name, flags, Mode::empty())?.into())
    }

    pub(crate) fn link(&self, name: &str) -> io::Result<PathBuf> {
        let target = readlinkat(&self.fd, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    pub(crate) fn entries(&self, name: &str) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir::new(openat(&self.fd, name, flags, Mode::empty())?)?)
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        let (line, _) = self.read("stat", MAX_STAT_BYTES)?;
        parse_stat(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable stat line"))
    }

    /// Whether another program debugs the process, or traces its system calls.
    pub(crate) fn is_debugged(&self) -> bool {
        let Ok((status, _)) = self.read("status", MAX_STATUS_BYTES) else { return false };
        let status = String::from_utf8_lossy(&status);
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|pid| pid.trim() != "0")
    }
}

/// Processes that the main thread of this one has forked and that live. None where the kernel does not tell.
pub(crate) fn children(process: ProcessKey) -> Vec<ProcessKey> {
    let listed = ProcDir::open_exactly(process)
        .and_then(|dir| dir.read(&format!("task/{}/children", process.tgid), MAX_CHILDREN_BYTES));
    let Ok((listed, _)) = listed else { return Vec::new() };
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let found = listed.split_ascii_whitespace().filter_map(|pid| {
        let tgid = Tgid(pid.parse().ok()?);
        let start_boottime = ProcDir::open(tgid).ok()?.stat().ok()?.start.earliest();
        Some(ProcessKey { tgid, start_boottime })
    });
    found.collect()
}

/// Every process that there is now, in no order. Bounded by `pid_max`.
pub(crate) fn processes() -> io::Result<Vec<Tgid>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            all.push(Tgid(pid));
        }
    }
    Ok(all)
}

/// `pid (comm) state ppid …`, fields 14 and 15 CPU time, field 20 threads, field 22 the start time; see proc(5). The
/// name may hold spaces and parentheses.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Of what is left, field 5 comes first; then 15.
    let user: u64 = fields.nth(14 - 5)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let threads: u64 = fields.nth(20 - 16)?.parse().ok()?;
    let start = fields.nth(22 - 21)?.parse().ok()?;
    let cpu_time = Duration::from_nanos(user.saturating_add(system).saturating_mul(NANOS_PER_TICK));
    Some(Stat {
        parent: Tgid(parent),
        start: StartTick(start),
        cpu_time,
        // A main thread that has ended waits for the others, and counts as long as they run.
        zombie: matches!(state, "Z" | "X" | "x") && threads <= 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: Option<(u32, u64, bool)>) {
        let stat = parse_stat(line.as_bytes()).map(|stat| (stat.parent.0, stat.start.0, stat.zombie));
        assert_eq!(stat, want, "{line}");
    }

    #[test]
    fn stat_lines() {
        let rest = "7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8812 4096 1 18446744073709551615";
        check(&format!("12 (cat) R 3 {rest}"), Some((3, 8812, false)));
        check(&format!("12 (a) b) c) Z 3 {rest}"), Some((3, 8812, true)));
        check(&format!("12 () S 3 {rest}"), Some((3, 8812, false)));
        let threads = rest.replace("20 0 1 0 8812", "20 0 2 0 8812");
        check(&format!("12 (main gone) Z 3 {threads}"), Some((3, 8812, false)));
        check("12 (cat) R 3 1 2", None);
        check("12 (cat", None);
        check("", None);
    }

    #[test]
    fn a_process_is_found_by_its_start_and_by_no_other() {
        let own = ProcDir::open(Tgid(std::process::id())).unwrap();
        let stat = own.stat().unwrap();
        assert_eq!(stat.parent.0, std::os::unix::process::parent_id());
        let key = |tick: u64| ProcessKey { tgid: own.tgid, start_boottime: tick * NANOS_PER_TICK + 1234 };
        assert!(ProcDir::open_exactly(key(stat.start.0)).is_ok());
        let other = ProcDir::open_exactly(key(stat.start.0 + 1)).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::NotFound);
        assert!(processes().unwrap().contains(&own.tgid));
    }

    #[test]
    fn an_open_folder_never_becomes_another_processs() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dir = ProcDir::open(Tgid(child.id())).unwrap();
        assert!(!dir.stat().unwrap().zombie);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(dir.stat().unwrap_err().raw_os_error(), Some(3));
    }

    #[test]
    fn reads_are_bounded() {
        let own = ProcDir::open(Tgid(std::process::id())).unwrap();
        let (bytes, whole) = own.read("cmdline", 3).unwrap();
        assert!(bytes.len() == 3 && !whole);
        assert!(own.read("cmdline", 1 << 20).unwrap().1);
    }
}
