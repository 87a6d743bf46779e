//! Which processes listen on a TCP port, in whichever network namespace.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::procfs::ProcDir;

/// State number of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A line is 150 to 180 bytes.
const MAX_LINE_BYTES: u64 = 1024;

/// File descriptors looked at per process, at most.
const MAX_FDS: usize = 65_536;

/// Inode numbers of listening sockets. They are unique over all network namespaces: sockets share one file system.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    inodes: BTreeSet<u64>,
    namespaces: BTreeSet<PathBuf>,
}

impl Listeners {
    /// Adds those on `ports` in the network namespace of a process, unless that was read already.
    pub(crate) fn add_namespace_of(&mut self, dir: &ProcDir, ports: &[u16]) {
        let Ok(namespace) = dir.link("ns/net") else { return };
        if !self.namespaces.insert(namespace) {
            return;
        }
        for table in ["net/tcp", "net/tcp6"] {
            // No IPv6, or the process has just ended: then there is nothing to add.
            if let Ok(file) = dir.file(table) {
                let _ = self.add_table(file, ports);
            }
        }
    }

    fn add_table(&mut self, table: impl Read, ports: &[u16]) -> io::Result<()> {
        let mut table = BufReader::new(table);
        let mut line = String::new();
        loop {
            line.clear();
            if (&mut table).take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut fields = line.split_ascii_whitespace();
            // sl local_address rem_address st … inode; the first line names the columns.
            let (Some(local), Some(state)) = (fields.nth(1), fields.nth(1)) else { continue };
            if state == "st" {
                continue;
            }
            // The kernel lists listening sockets first.
            if state != LISTEN {
                return Ok(());
            }
            let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            let inode = fields.nth(5).and_then(|inode| inode.parse().ok());
            if let (Some(port), Some(inode)) = (port, inode)
                && ports.contains(&port)
            {
                self.inodes.insert(inode);
            }
        }
    }

    /// Whether the process holds one of them.
    pub(crate) fn held_by(&self, dir: &ProcDir) -> bool {
        !self.inodes.is_empty() && any_socket(dir, |inode| self.inodes.contains(&inode))
    }

    /// Whether the process holds any socket.
    pub(crate) fn holds_sockets(dir: &ProcDir) -> bool {
        any_socket(dir, |_| true)
    }
}

fn any_socket(dir: &ProcDir, matches: impl Fn(u64) -> bool) -> bool {
    let Ok(fds) = dir.entries("fd") else { return false };
    fds.take(MAX_FDS).filter_map(Result::ok).any(|fd| {
        let Ok(name) = fd.file_name().to_str() else { return false };
        let target = dir.link(&format!("fd/{name}"));
        target.is_ok_and(|target| socket_inode(target.as_os_str().as_bytes()).is_some_and(&matches))
    })
}

/// `socket:[4242]`
fn socket_inode(target: &[u8]) -> Option<u64> {
    let inode = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tracer_abi::task::Tgid;

    use super::*;

    #[test]
    fn the_table_of_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n   \
                     1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4243 1\n\
                     garbage\n   \
                     2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4244 1\n   \
                     3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4245 1\n";
        let mut listeners = Listeners::default();
        listeners.add_table(table.as_bytes(), &[8080]).unwrap();
        assert_eq!(listeners.inodes, [4242].into());
        listeners.add_table(io::repeat(b'x').take(1 << 20), &[8080]).unwrap();
    }

    #[test]
    fn this_process_listens() {
        let own = ProcDir::open(Tgid(std::process::id())).unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let mut listeners = Listeners::default();
            listeners.add_namespace_of(&own, &[port]);
            assert!(listeners.held_by(&own), "{address}");
            drop(listener);
            assert!(!listeners.held_by(&own), "{address}");
        }
    }
}
