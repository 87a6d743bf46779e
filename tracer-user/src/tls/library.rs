//! A file that holds a TLS library: which one it is, and its places for probes.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use tracer_abi::config::TlsCall;

use super::elf::{self, Function};
use super::place::{self, Point};

/// Where libraries of the host are, in the order in which they are most likely there.
const STANDARD: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/libssl.so.3",
    "/usr/lib64/libssl.so.3",
    "/usr/lib/libssl.so.3",
    "/usr/local/lib/libssl.so.3",
    "/usr/local/lib64/libssl.so.3",
    "/usr/lib/x86_64-linux-gnu/libssl.so.1.1",
];

/// Plaintext goes through these. Those that are there are all probed, or none is.
const MOVING: [(&str, TlsCall); 4] = [
    ("SSL_read", TlsCall::Read),
    ("SSL_read_ex", TlsCall::ReadEx),
    ("SSL_write", TlsCall::Write),
    ("SSL_write_ex", TlsCall::WriteEx),
];

/// Sockets are read and written in these, too.
const OTHERS: [&str; 3] = ["SSL_do_handshake", "SSL_peek", "SSL_peek_ex"];

const FREE: &str = "SSL_free";

/// A file of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

#[derive(Debug)]
pub(crate) struct Library {
    /// As a process names it.
    pub(crate) path: PathBuf,
    pub(crate) inode: Inode,
    pub(crate) points: Vec<Point>,
    file: File,
}

impl Library {
    /// # Errors
    /// When it is not a library whose plaintext can be seen.
    pub(crate) fn open(file: File, path: &Path) -> anyhow::Result<Self> {
        let inode = inode(&file)?;
        let mut names: Vec<&'static str> = MOVING.iter().map(|(name, _)| *name).collect();
        names.extend(OTHERS);
        names.push(FREE);
        let functions = elf::functions(&file, &names)?;
        let find = |name: &str| functions.iter().find(|function| function.name == name);
        let mut points = Vec::new();
        for (name, call) in MOVING {
            let Some(function) = find(name) else { continue };
            points
                .push(place::beginning(function, call).with_context(|| format!("{name} is not understood"))?);
            points.extend(
                place::ends(function).with_context(|| format!("{name} may end in ways that are not seen"))?,
            );
        }
        ensure!(!points.is_empty(), "it exports no function that moves plaintext");
        for name in OTHERS {
            // Without them a session's socket is known later.
            if let Some(function) = find(name)
                && let (Some(begins), Some(ends)) =
                    (place::beginning(function, TlsCall::Other), all_ends(function))
            {
                points.push(begins);
                points.extend(ends);
            }
        }
        let Some(free) = find(FREE).and_then(place::freeing) else {
            bail!("it exports no function that frees a session");
        };
        points.push(free);
        Ok(Self { path: path.to_owned(), inode, points, file })
    }

    /// A path to exactly this file, for as long as this is there.
    pub(crate) fn handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Of a call that moves no plaintext it is enough to know that it has returned.
fn all_ends(function: &Function) -> Option<Vec<Point>> {
    place::ends(function).or_else(|| place::caught(function).map(|point| vec![point]))
}

/// # Errors
/// When the file cannot be asked.
pub(super) fn inode(file: &File) -> anyhow::Result<Inode> {
    let metadata = file.metadata().context("ask for the file's number")?;
    ensure!(metadata.is_file(), "not a file");
    Ok(Inode { device: metadata.dev(), number: metadata.ino() })
}

/// The libraries that programs of this host use, each once.
pub(crate) fn standard() -> Vec<Library> {
    let mut found: Vec<Library> = Vec::new();
    for path in STANDARD {
        let Ok(file) = File::open(path) else { continue };
        if inode(&file).is_ok_and(|inode| found.iter().any(|known| known.inode == inode)) {
            continue;
        }
        match Library::open(file, Path::new(path)) {
            Ok(library) => found.push(library),
            Err(error) => tracing::debug!("{path}: {error:#}"),
        }
    }
    found
}
