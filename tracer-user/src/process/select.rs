//! Which processes the selectors of `attach` mean: those that run now, and, one by one, those that come.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use glob::MatchOptions;
use tracer_abi::task::Tgid;

use super::listeners::Listeners;
use super::procfs::{ProcDir, StartTick, Stat, processes};
use super::service_name::text;
use crate::config::Selectors;

/// A process that is to be traced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selected {
    pub(crate) tgid: Tgid,
    pub(crate) start: StartTick,
    /// Of its executable, for messages.
    pub(crate) name: String,
}

/// The first process holds other programs' listening sockets (socket activation); everything descends from it.
const INIT: Tgid = Tgid(1);

/// `*` crosses path components, as with `find -path`: `*/nginx` is nginx wherever it is installed.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

/// All running processes that match, without `own`. Processes named by pid come with their descendants.
///
/// # Errors
/// When `/proc` cannot be listed. A process that ends meanwhile is passed over.
pub(crate) fn running(selectors: &Selectors, own: Tgid) -> io::Result<Vec<Selected>> {
    let mut seen: BTreeMap<Tgid, (ProcDir, Stat)> = BTreeMap::new();
    for tgid in processes()? {
        let Ok(dir) = ProcDir::open(tgid) else { continue };
        match dir.stat() {
            Ok(stat) if !stat.zombie && tgid != own => seen.insert(tgid, (dir, stat)),
            Ok(_) | Err(_) => None,
        };
    }
    let mut listeners = Listeners::default();
    if !selectors.ports.is_empty() {
        seen.values().for_each(|(dir, _)| listeners.add_namespace_of(dir, &selectors.ports));
    }
    let selected = seen.iter().filter(|(tgid, (dir, _))| {
        descends_from(**tgid, &selectors.pids, &seen)
            || (!selectors.exes.is_empty()
                && dir.link("exe").is_ok_and(|exe| matches_exe(selectors, exe.as_os_str().as_bytes())))
            || (**tgid != INIT && listeners.held_by(dir))
    });
    Ok(selected
        .map(|(tgid, (dir, stat))| Selected { tgid: *tgid, start: stat.start, name: name(dir) })
        .collect())
}

/// Whether a process that has just started a program is meant: by its executable, or because it inherited a listener.
/// `filename` is what it asked the kernel to execute, for when it is gone already.
pub(crate) fn execed(selectors: &Selectors, tgid: Tgid, filename: &[u8]) -> bool {
    let dir = ProcDir::open(tgid).ok();
    let by_exe = || match dir.as_ref().and_then(|dir| dir.link("exe").ok()) {
        Some(exe) => matches_exe(selectors, exe.as_os_str().as_bytes()),
        None => matches_exe(selectors, filename),
    };
    let by_port = || {
        let Some(dir) = dir.as_ref().filter(|_| !selectors.ports.is_empty() && tgid != INIT) else {
            return false;
        };
        // Hardly any program starts with a socket.
        Listeners::holds_sockets(dir) && {
            let mut listeners = Listeners::default();
            listeners.add_namespace_of(dir, &selectors.ports);
            listeners.held_by(dir)
        }
    };
    by_exe() || by_port()
}

/// Whether a process that has begun to listen on `port` is meant.
pub(crate) fn listening(selectors: &Selectors, tgid: Tgid, port: u16) -> bool {
    tgid != INIT && selectors.ports.contains(&port)
}

fn matches_exe(selectors: &Selectors, path: &[u8]) -> bool {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let path = Path::new(OsStr::from_bytes(path));
    selectors.exes.iter().any(|glob| {
        if glob.as_str().contains('/') {
            glob.matches_path_with(path, GLOB)
        } else {
            path.file_name().is_some_and(|name| glob.matches_path_with(Path::new(name), GLOB))
        }
    })
}

/// Parents form no cycle in the kernel; the snapshot may, when a pid was reused while it was taken.
fn descends_from(tgid: Tgid, pids: &[u32], seen: &BTreeMap<Tgid, (ProcDir, Stat)>) -> bool {
    if pids.is_empty() {
        return false;
    }
    let mut ancestor = tgid;
    for _ in 0..seen.len() {
        if pids.contains(&ancestor.0) {
            return true;
        }
        match seen.get(&ancestor) {
            Some((_, stat)) => ancestor = stat.parent,
            None => return false,
        }
    }
    false
}

fn name(dir: &ProcDir) -> String {
    let (comm, _) = dir.read("comm", 64).unwrap_or_default();
    text(comm.trim_ascii_end())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn by_exe(globs: &[&str]) -> Selectors {
        let exes = globs.iter().map(|glob| glob::Pattern::new(glob).unwrap()).collect();
        Selectors { exes, ..Selectors::default() }
    }

    #[test]
    fn globs_match_names_or_paths() {
        for (glob, path, want) in [
            ("nginx", "/usr/sbin/nginx", true),
            ("nginx", "/usr/sbin/nginx (deleted)", true),
            ("nginx", "/usr/sbin/nginx-debug", false),
            ("python*", "/usr/bin/python3.11", true),
            ("nginx", "nginx", true),
            ("/usr/sbin/nginx", "/usr/sbin/nginx", true),
            ("/usr/sbin/nginx", "/opt/usr/sbin/nginx", false),
            ("/opt/*", "/opt/shop", true),
            ("/opt/*", "/opt/shop/bin/x", true),
            ("*/nginx", "/usr/sbin/nginx", true),
            ("*/nginx", "/usr/sbin/nginx-debug", false),
            ("/opt/**/x", "/opt/shop/bin/x", true),
            ("*", "/any/thing", true),
        ] {
            assert_eq!(matches_exe(&by_exe(&[glob]), path.as_bytes()), want, "{glob} {path}");
        }
        assert!(!matches_exe(&by_exe(&["caf?"]), b"/bin/caf\xff\xfe"));
    }

    #[test]
    fn a_pid_means_its_descendants_too() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.as_mut().unwrap()), &mut line).unwrap();
        let sleep: u32 = line.trim().parse().unwrap();
        let selectors = Selectors { pids: vec![shell.id()], ..Selectors::default() };
        let selected = running(&selectors, Tgid(0)).unwrap();
        let tgids: Vec<u32> = selected.iter().map(|selected| selected.tgid.0).collect();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(sleep as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        shell.wait().unwrap();
        let mut want = vec![shell.id(), sleep];
        want.sort_unstable();
        assert_eq!(tgids, want);
    }

    #[test]
    fn the_tracer_itself_is_never_meant() {
        let own = Tgid(std::process::id());
        let selectors = Selectors { pids: vec![own.0], ..by_exe(&["*"]) };
        let selected = running(&selectors, own).unwrap();
        assert!(!selected.is_empty());
        assert!(selected.iter().all(|selected| selected.tgid != own));
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let selectors = Selectors { ports: vec![port], ..Selectors::default() };
        let selected = running(&selectors, Tgid(0)).unwrap();
        assert_eq!(selected.iter().map(|s| s.tgid.0).collect::<Vec<_>>(), [std::process::id()]);
        assert!(execed(&selectors, Tgid(std::process::id()), b""));
        assert!(listening(&selectors, Tgid(9), port) && !listening(&selectors, INIT, port));
    }
}
