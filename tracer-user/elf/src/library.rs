//! A file that holds a TLS library: which one it is, and its places for probes.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use tracer_abi::config::TlsCall;
use tracer_abi::openssl::OpenSslLayout;

use super::elf::{self, Function};
use super::golang::Build;
use super::grpc_go::GrpcGo;
use super::openssl;
use super::place::{self, Point};
use super::{follow, gnutls, golang, rustls};

/// Where libraries of the host are, in the order in which they are most likely there.
const STANDARD: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu/libssl.so.3",
    "/usr/lib64/libssl.so.3",
    "/usr/lib/libssl.so.3",
    "/usr/local/lib/libssl.so.3",
    "/usr/local/lib64/libssl.so.3",
    "/usr/lib/x86_64-linux-gnu/libssl.so.1.1",
    "/usr/lib/x86_64-linux-gnu/libgnutls.so.30",
    "/usr/lib64/libgnutls.so.30",
    "/usr/lib/libgnutls.so.30",
];

/// Plaintext goes through these. Those that are there are all probed, or none is.
const MOVING: [(&str, TlsCall); 5] = [
    ("SSL_read", TlsCall::Read),
    ("SSL_read_ex", TlsCall::ReadEx),
    ("SSL_write", TlsCall::Write),
    (WRITE_EX, TlsCall::WriteEx),
    (WRITE_EX2, TlsCall::WriteEx2),
];

const WRITE_EX: &str = "SSL_write_ex";

/// Since 3.3.
const WRITE_EX2: &str = "SSL_write_ex2";

/// Sockets are read and written in these, too.
const OTHERS: [&str; 3] = ["SSL_do_handshake", "SSL_peek", "SSL_peek_ex"];

const FREE: &str = "SSL_free";

/// What only BoringSSL has, whose calls are OpenSSL's, and whose sessions are not.
const BORINGSSL: &str = "BORINGSSL_self_test";

/// Where compilers put what a function seldom comes to.
const SELDOM: [(&str, &str); 4] = [
    ("SSL_read", "SSL_read.cold"),
    ("SSL_write", "SSL_write.cold"),
    ("SSL_do_handshake", "SSL_do_handshake.cold"),
    ("SSL_peek", "SSL_peek.cold"),
];

/// Places of one file, each of which costs the kernel: those of real ones have a hundred at most.
const MAX_POINTS: usize = 1024;

/// A file of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode {
    device: u64,
    number: u64,
}

/// Whose TLS a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Its version, as the library says it itself.
    OpenSsl(Option<String>),
    /// It has no versions.
    BoringSsl,
    /// The same, and where it keeps what ties a session to its socket.
    GnuTls(Option<String>, gnutls::Fields),
    /// `crypto/tls`, of a version as the program says it: `go1.26.1`.
    Go(String, golang::Fields),
    /// Its version, as the program's sources are named.
    Rustls(String),
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenSsl(None) => f.write_str("OpenSSL"),
            Self::OpenSsl(Some(version)) => write!(f, "OpenSSL {version}"),
            Self::BoringSsl => f.write_str("BoringSSL"),
            Self::GnuTls(None, _) => f.write_str("GnuTLS"),
            Self::GnuTls(Some(version), _) => write!(f, "GnuTLS {version}"),
            Self::Rustls(version) => write!(f, "rustls {version}"),
            Self::Go(version, _) => write!(f, "crypto/tls of {}", go_name(version)),
        }
    }
}

/// As a person says it.
fn go_name(version: &str) -> String {
    version.replacen("go", "Go ", 1)
}

#[derive(Debug)]
pub struct Library {
    pub stack: Stack,
    /// As a process names it.
    pub path: PathBuf,
    pub inode: Inode,
    pub points: Vec<Point>,
    /// Where OpenSSL keeps what ties a session to its socket.
    pub layout: Option<OpenSslLayout>,
    /// What the program that it is part of has of grpc-go.
    pub grpc: Option<GrpcGo>,
    /// It is part of the program, which it may call back.
    pub is_program: bool,
    file: File,
}

impl Library {
    /// `crypto`: the library that it is built on, as far as that is a file of its own.
    ///
    /// # Errors
    /// When it is not a library whose plaintext can be seen.
    pub fn open(file: File, crypto: Option<&File>, path: &Path) -> anyhow::Result<Self> {
        let mut functions = elf::functions(&file, &names())?;
        if let Some(crypto) = crypto {
            functions.extend(elf::functions(crypto, &openssl::OF_CRYPTO)?);
        }
        Self::of(file, &functions, path)
    }

    /// BoringSSL as a part of a library that runtimes load, which it may call back.
    ///
    /// # Errors
    /// When it does not name the functions.
    pub fn boringssl(file: File, path: &Path) -> anyhow::Result<Self> {
        let functions = elf::functions(&file, &names())?;
        ensure!(!functions.is_empty(), "BoringSSL without symbols");
        Ok(Self { is_program: true, ..Self::of(file, &functions, path)? })
    }

    /// # Errors
    /// When it is not a GnuTLS whose plaintext can be seen.
    pub fn gnutls(file: File, path: &Path) -> anyhow::Result<Self> {
        let inode = inode(&file)?;
        let (version, fields, points) = gnutls::examine(&file)?;
        bounded(&points)?;
        let stack = Stack::GnuTls(version, fields);
        let path = path.to_owned();
        Ok(Self { stack, path, inode, points, layout: None, grpc: None, is_program: false, file })
    }

    /// The library that is a part of a program. Nothing: it has none.
    ///
    /// # Errors
    /// When it has one whose plaintext cannot be seen.
    pub fn inside(file: File, path: &Path) -> anyhow::Result<Option<Self>> {
        if let Some(build) = golang::build(&file) {
            let name = go_name(&build.version);
            return Self::of_go(file, path, build).context(name).map(Some);
        }
        // What it cannot be read as, it is not.
        let Ok(functions) = elf::functions(&file, &names()) else { return Ok(None) };
        let has = |wanted: &str| functions.iter().any(|function| function.name == wanted);
        if !has("SSL_read") || !has("SSL_write") {
            return match rustls::version(&file) {
                Some(version) => Self::of_rustls(file, path, version.clone())
                    .with_context(|| format!("rustls {version}"))
                    .map(Some),
                None => Ok(None),
            };
        }
        Ok(Some(Self { is_program: true, ..Self::of(file, &functions, path)? }))
    }

    fn of_go(file: File, path: &Path, build: Build) -> anyhow::Result<Self> {
        let inode = inode(&file)?;
        let (fields, points) = golang::points(&file, &build)?;
        bounded(&points)?;
        let Build { version, grpc } = build;
        let (stack, path) = (Stack::Go(version, fields), path.to_owned());
        Ok(Self { stack, path, inode, points, layout: None, grpc, is_program: true, file })
    }

    fn of_rustls(file: File, path: &Path, version: String) -> anyhow::Result<Self> {
        let inode = inode(&file)?;
        let points = rustls::points(&file, &version)?;
        let (stack, path) = (Stack::Rustls(version), path.to_owned());
        Ok(Self { stack, path, inode, points, layout: None, grpc: None, is_program: true, file })
    }

    fn of(file: File, functions: &[Function], path: &Path) -> anyhow::Result<Self> {
        let inode = inode(&file)?;
        let find = |name: &str| functions.iter().find(|function| function.name == name);
        let mut points = Vec::new();
        for (name, call) in MOVING {
            let Some(function) = find(name) else { continue };
            // All that it writes may go through the other one, in which it then ends.
            if name == WRITE_EX && find(WRITE_EX2).is_some() && follow::only_goes_on(function) {
                continue;
            }
            points
                .push(place::beginning(function, call).with_context(|| format!("{name} is not understood"))?);
            points.extend(
                place::ends(function, seldom(name).and_then(find))
                    .with_context(|| format!("{name} may end in ways that are not seen"))?,
            );
        }
        ensure!(!points.is_empty(), "it exports no function that moves plaintext");
        for name in OTHERS {
            // Without them a session's socket is known later.
            if let Some(function) = find(name)
                && let (Some(begins), Some(ends)) = (
                    place::beginning(function, TlsCall::Other),
                    all_ends(function, seldom(name).and_then(find)),
                )
            {
                points.push(begins);
                points.extend(ends);
            }
        }
        let Some(free) = find(FREE).and_then(place::freeing) else {
            bail!("it exports no function that frees a session");
        };
        points.push(free);
        bounded(&points)?;
        let (stack, layout) = if find(BORINGSSL).is_some() {
            (Stack::BoringSsl, None)
        } else {
            (Stack::OpenSsl(openssl::version(functions)), openssl::layout(functions))
        };
        let path = path.to_owned();
        Ok(Self { stack, path, inode, points, layout, grpc: None, is_program: false, file })
    }

    /// Not so of a program of Go in which goroutines take up streams in clear only.
    pub fn has_tls(&self) -> bool {
        self.points.iter().any(|point| !point.site.is_of_streams())
    }

    /// The functions that are probed, each once.
    pub fn functions(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.points.iter().map(|point| point.function).collect();
        names.dedup();
        names
    }

    /// A path to exactly this file, for as long as this is there.
    pub fn handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// All that is looked for in the file of a library.
fn names() -> Vec<&'static str> {
    let moving = MOVING.iter().map(|(name, _)| *name);
    let others = OTHERS.into_iter().chain([FREE, BORINGSSL]);
    let seldom = SELDOM.into_iter().map(|(_, name)| name);
    moving.chain(others).chain(seldom).chain(openssl::OF_SESSIONS).chain(openssl::OF_CRYPTO).collect()
}

/// The name of the part of a function that it seldom comes to.
fn seldom(name: &str) -> Option<&'static str> {
    SELDOM.into_iter().find(|(of, _)| *of == name).map(|(_, seldom)| seldom)
}

/// Of a call that moves no plaintext it is enough to know that it has returned.
fn all_ends(function: &Function, seldom: Option<&Function>) -> Option<Vec<Point>> {
    place::ends(function, seldom).or_else(|| place::caught(function).map(|point| vec![point]))
}

/// # Errors
/// When it has more places than any real file.
fn bounded(points: &[Point]) -> anyhow::Result<()> {
    ensure!(points.len() <= MAX_POINTS, "it has more places than are probed");
    Ok(())
}

/// # Errors
/// When the file cannot be asked.
pub fn inode(file: &File) -> anyhow::Result<Inode> {
    let metadata = file.metadata().context("ask for the file's number")?;
    ensure!(metadata.is_file(), "not a file");
    Ok(Inode { device: metadata.dev(), number: metadata.ino() })
}

/// The libraries that programs of this host use, each once.
pub fn standard() -> Vec<Library> {
    let mut found: Vec<Library> = Vec::new();
    for path in STANDARD {
        let Ok(file) = File::open(path) else { continue };
        if inode(&file).is_ok_and(|inode| found.iter().any(|known| known.inode == inode)) {
            continue;
        }
        // The library that OpenSSL's is built on lies beside it, and has the same version in its name.
        let crypto = File::open(path.replace("libssl", "libcrypto")).ok();
        let library = if path.contains("libgnutls") {
            Library::gnutls(file, Path::new(path))
        } else {
            Library::open(file, crypto.as_ref(), Path::new(path))
        };
        match library {
            Ok(library) => found.push(library),
            Err(error) => tracing::debug!("{path}: {error:#}"),
        }
    }
    found
}
