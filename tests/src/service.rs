//! Starts the workload services of `tests/workloads`, each an ordinary program of its language.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::program::Program;

/// What runs a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    /// `http.server`, a thread per connection, which makes the calls itself.
    Python,
    /// The same, but calls go through a shared thread pool.
    PythonPool,
    /// One thread reads a request, another one answers it.
    PythonHandoff,
    /// A process per connection, which inherits it.
    PythonFork,
    /// One thread, one event loop.
    Asyncio,
    Node,
    Go,
    /// All goroutines take turns on one thread at a time.
    GoOneProc,
    /// Tasks on two threads of tokio.
    Tokio,
    /// Tasks on one thread of tokio.
    TokioOneThread,
    /// A fixed pool serves and calls.
    Java,
    /// Calls go through a second pool.
    JavaHop,
    /// Calls are tasks of the work-stealing pool that serves.
    JavaFork,
    /// A virtual thread per request. Needs Java 21.
    JavaVirtual,
}

impl Runtime {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python threads",
            Self::PythonPool => "python pool",
            Self::PythonHandoff => "python hand-off",
            Self::PythonFork => "python fork",
            Self::Asyncio => "python asyncio",
            Self::Node => "node",
            Self::Go => "go net/http",
            Self::GoOneProc => "go on one processor",
            Self::Tokio => "tokio, two threads",
            Self::TokioOneThread => "tokio, one thread",
            Self::Java => "java threads",
            Self::JavaHop => "java pool hop",
            Self::JavaFork => "java fork-join",
            Self::JavaVirtual => "java virtual",
        }
    }

    pub fn command(self) -> anyhow::Result<Command> {
        let script = |program: &str, file: &str| {
            let mut command = Command::new(program);
            command.arg(workload(file));
            command
        };
        let with_mode = |program: &str, file: &str, mode: &str| {
            let mut command = script(program, file);
            command.args(["--mode", mode]);
            command
        };
        Ok(match self {
            Self::Python => script("python3", "service.py"),
            Self::PythonPool => with_mode("python3", "service.py", "pool"),
            Self::PythonHandoff => with_mode("python3", "service.py", "handoff"),
            Self::PythonFork => with_mode("python3", "service.py", "fork"),
            Self::Asyncio => script("python3", "service_asyncio.py"),
            Self::Node => script("node", "service.js"),
            Self::Go => Command::new(go_service()?),
            Self::GoOneProc => {
                let mut command = Command::new(go_service()?);
                command.env("GOMAXPROCS", "1");
                command
            }
            Self::Tokio => tokio_service("service_tokio")?,
            Self::TokioOneThread => {
                let mut command = tokio_service("service_tokio")?;
                command.args(["--threads", "1"]);
                command
            }
            Self::Java => script("java", "Service.java"),
            Self::JavaHop => with_mode("java", "Service.java", "hop"),
            Self::JavaFork => with_mode("java", "Service.java", "fork"),
            Self::JavaVirtual => {
                let mut command = newest_java_service()?;
                command.args(["--mode", "virtual"]);
                command
            }
        })
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    pub program: Program,
    pub addr: SocketAddr,
}

impl Service {
    /// Starts it on a free port of 127.0.0.1; with a downstream it calls that.
    pub fn start(runtime: Runtime, downstream: Option<SocketAddr>) -> anyhow::Result<Self> {
        Self::start_with(runtime, downstream, &[])
    }

    pub fn start_with(
        runtime: Runtime,
        downstream: Option<SocketAddr>,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = runtime.command()?;
        if let Some(downstream) = downstream {
            command.args(["--downstream", &downstream.to_string()]);
        }
        command.args(options);
        Self::from_command(runtime.name(), command)
    }

    /// Any program that prints `PORT n` once it listens on port n of 127.0.0.1.
    pub fn from_command(name: &str, command: Command) -> anyhow::Result<Self> {
        let program = Program::spawn(name, command)?;
        let port = program.wait_stdout("PORT ", Duration::from_secs(60))?;
        let port: u16 = port.trim().parse().with_context(|| format!("port of {name}"))?;
        Ok(Self { program, addr: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// A file of `tests/workloads`.
pub fn workload(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(file)
}

/// Folder for what tests build: the workspace's own target folder.
pub(crate) fn build_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("workloads")
}

/// The Go service, built on first use.
///
/// # Errors
/// When it cannot be built.
pub fn go_service() -> anyhow::Result<PathBuf> {
    go_program("service.go", "service-go", "local", &[])
}

/// A workload in Go, built on first use with a version of Go, or `local`: nothing is downloaded.
pub fn go_program(source: &str, name: &str, version: &str, flags: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = build_folder();
    let built = folder.join(name);
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified());
    // Where the folder is read-only, as in a virtual machine, what was built before must do.
    if let (Ok(built_at), Ok(source_at)) = (changed(&built), changed(&workload(source)))
        && built_at > source_at
    {
        return Ok(built);
    }
    std::fs::create_dir_all(&folder)?;
    // Tests of several processes may build at once: build aside, then move into place.
    let aside = folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&aside)
        .args(flags)
        .arg(workload(source))
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", version)
        .env("GOPROXY", "off")
        .output()
        .context("run go build")?;
    if !output.status.success() {
        bail!("go build: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&aside, &built)?;
    Ok(built)
}

/// A server of netty that speaks TLS through BoringSSL, made of what set-up has fetched.
///
/// # Errors
/// When that is not there.
pub fn netty_server(certificate: &str, key: &str) -> anyhow::Result<Command> {
    let libraries = fetched("netty")?;
    let mut command = Command::new("java");
    command.arg("-cp").arg(libraries.join("*")).arg(workload("netty/TlsNetty.java")).args([certificate, key]);
    Ok(command)
}

/// The service in Java on Jetty, whose threads read sockets that do not wait.
///
/// # Errors
/// When that is not there.
pub fn jetty_service() -> anyhow::Result<Command> {
    let mut command = Command::new("java");
    command.arg("-cp").arg(fetched("jetty")?.join("*"));
    command.arg(
        "-Dcom.sun.net.httpserver.HttpServerProvider=org.eclipse.jetty.http.spi.JettyHttpServerProvider",
    );
    command.arg(workload("Service.java"));
    Ok(command)
}

/// A newer Node.js than the system's, which has OpenSSL inside.
///
/// # Errors
/// When it is not there.
pub fn newest_node() -> anyhow::Result<Command> {
    Ok(Command::new(fetched("node")?.join("bin/node")))
}

/// What set-up could not fetch: what is built on it is left out.
#[derive(Debug)]
pub struct NotFetched(String);

impl fmt::Display for NotFetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be fetched", self.0)
    }
}

impl Error for NotFetched {}

/// A newer Python than the system's, by its minor version, in which these modules can be used.
///
/// # Errors
/// [`NotFetched`] where set-up found none, or not these modules for it.
pub fn newer_python(minor: u8, modules: &[&str]) -> anyhow::Result<Command> {
    let program = build_folder().join(format!("python/usr/bin/python3.{minor}"));
    let mut imports = Command::new(&program);
    imports.arg("-c").arg(format!("import {}", [&["sys"], modules].concat().join(", ")));
    if imports.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(Command::new(program));
    }
    bail!(NotFetched(format!("CPython 3.{minor} with {}", [&["its library"], modules].concat().join(", "))))
}

/// The system's Python on a newer OpenSSL than its own.
///
/// # Errors
/// When that is not there.
pub fn python_on_newest_openssl() -> anyhow::Result<Command> {
    let mut command = Command::new("/usr/bin/python3");
    command.env("LD_LIBRARY_PATH", fetched("openssl")?);
    Ok(command)
}

fn fetched(name: &str) -> anyhow::Result<PathBuf> {
    let folder = build_folder().join(name);
    if !folder.is_dir() {
        bail!("{} is missing: cargo xtask setup test", folder.display());
    }
    Ok(folder)
}

/// A service of tokio, built with this package's tests.
pub fn tokio_service(name: &str) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("own executable")?;
    // target/<profile>/deps/<test>, or target/<profile>/xtask
    let folder = own.parent().context("folder of the build")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(Command::new(profile.join(name)))
}

/// The service in Java, on one that has virtual threads.
pub fn newest_java_service() -> anyhow::Result<Command> {
    let mut command = Command::new(newest_java()?);
    command.arg(workload("Service.java"));
    Ok(command)
}

/// A Java that has virtual threads.
fn newest_java() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/jvm").context("look for Java versions")?.flatten() {
        let java = entry.path().join("bin/java");
        let release = std::fs::read_to_string(entry.path().join("release")).unwrap_or_default();
        let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION=\""));
        let major = version.and_then(|text| text.split(['.', '"']).next()?.parse().ok());
        if let (Some(major), true) = (major, java.exists()) {
            found.push((major, java));
        }
    }
    match found.into_iter().max() {
        Some((major, java)) if major >= 21 => Ok(java),
        _ => bail!("no Java 21 or later under /usr/lib/jvm"),
    }
}
