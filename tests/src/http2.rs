//! Programs that speak HTTP/2 in clear, and the ledgers of those that call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::program::Program;
use crate::service::{build_folder, tokio_service, workload};

/// What runs a gRPC service, and the client of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    Go,
    /// On the C core.
    Python,
    /// tonic, on hyper.
    Rust,
    /// grpc-java, on Netty.
    Java,
}

/// What grpc-java needs, as Debian names it. Netty's epoll would need a library of C's.
const JAVA_ARCHIVES: [&str; 17] = [
    "grpc-api",
    "grpc-context",
    "grpc-core",
    "grpc-netty",
    "guava",
    "netty-buffer",
    "netty-codec",
    "netty-codec-http",
    "netty-codec-http2",
    "netty-codec-socks",
    "netty-common",
    "netty-handler",
    "netty-handler-proxy",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-unix-common",
    "perfmark-api",
];

impl Grpc {
    /// With these options, `--name value` or `--name`.
    pub fn command(self, options: &[&str]) -> anyhow::Result<Command> {
        let mut command = match self {
            Self::Go => Command::new(go_program("grpc-go", ".")?),
            Self::Python => {
                // Debian's own, which has the package.
                let mut python = Command::new("/usr/bin/python3");
                python.arg(workload("grpc_service.py"));
                python
            }
            Self::Rust => tokio_service("grpc_tonic")?,
            Self::Java => {
                let archives = JAVA_ARCHIVES.map(|name| format!("/usr/share/java/{name}.jar"));
                let mut java = Command::new("java");
                java.args(["-cp", &archives.join(":")]).arg(workload("GrpcEcho.java"));
                java
            }
        };
        command.args(options);
        Ok(command)
    }

    pub fn serve(self, options: &[&str]) -> anyhow::Result<Server> {
        Server::start(self.command(options)?)
    }
}

/// A server that says its port.
#[derive(Debug)]
pub struct Server {
    pub program: Program,
    pub addr: SocketAddr,
}

impl Server {
    pub fn start(command: Command) -> anyhow::Result<Self> {
        let program = Program::spawn("server", command)?;
        let port: u16 = program.wait_stdout("PORT ", Duration::from_secs(20))?.trim().parse()?;
        Ok(Self { program, addr: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// Node.js's own HTTP/2.
    pub fn node() -> anyhow::Result<Self> {
        Self::start(node(&[]))
    }
}

/// Node.js's client, or its server.
pub fn node(options: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.arg(workload("http2.js")).args(options);
    command
}

/// One call, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// gRPC's code, or what the program writes in its place.
    pub code: String,
    pub sent: i64,
    pub received: i64,
    pub nanos: u64,
}

impl Call {
    /// It may not have been sent at all.
    pub fn is_given_up(&self) -> bool {
        // CANCELLED, DEADLINE_EXCEEDED.
        ["1", "4"].contains(&self.code.as_str())
    }
}

/// By method or path.
pub fn ledger(text: &str) -> anyhow::Result<BTreeMap<String, Call>> {
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[name, code, sent, ref rest @ ..] = words.as_slice() else { bail!("no call: {line:?}") };
        let number = |at: usize| rest.get(at).map_or(Ok(0), |word: &&str| word.parse());
        let call = Call {
            code: code.to_owned(),
            sent: sent.parse()?,
            received: number(0)?,
            nanos: u64::try_from(number(1)?)?,
        };
        if calls.insert(name.to_owned(), call).is_some() {
            bail!("{name} twice");
        }
    }
    Ok(calls)
}

/// The service of grpc-go whose requests call.
pub fn grpc_service() -> anyhow::Result<Command> {
    go_program("grpc-go-service", "./service").map(Command::new)
}

/// HTTP/2 of `golang.org/x/net`, which serves or calls.
pub fn x_net() -> anyhow::Result<Command> {
    go_program("x-net", "./http2").map(Command::new)
}

/// A program in Go with modules of others, built on first use.
fn go_program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let folder = build_folder();
    let (built, source) = (folder.join(name), workload("grpc"));
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified());
    // Where the folder is read-only, as in a virtual machine, what was built before must do.
    if let (Ok(built_at), Ok(source_at)) = (changed(&built), changed(&source.join(package).join("main.go")))
        && built_at > source_at
    {
        return Ok(built);
    }
    std::fs::create_dir_all(&folder)?;
    // Tests of several processes may build at once: build aside, then move into place.
    let aside = folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let mut build = Command::new("go");
    build
        .args(["build", "-mod=readonly", "-o"])
        .arg(&aside)
        .arg(package)
        .current_dir(source)
        .env("GOFLAGS", "");
    let output = build.stdin(Stdio::null()).output().context("run go build")?;
    if !output.status.success() {
        bail!("go build: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&aside, &built)?;
    Ok(built)
}
