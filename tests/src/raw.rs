//! Scripts that two peers play on a bare connection, one system call at a time.
//!
//! The peers are processes of their own (`raw_peer`), so that the tracer sees them as any other program; this module
//! is what the test and the peers agree on, and the test's side of it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use crate::program::Program;

/// One action of a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    Write {
        bytes: Vec<u8>,
        how: Put,
    },
    /// Writes `len` bytes of one letter.
    Fill {
        len: u64,
        how: FillWith,
    },
    /// Reads exactly `len` bytes.
    Read {
        len: u64,
        how: Take,
    },
    /// Reads until the other side ends its direction.
    ReadToEnd,
    Sleep {
        ms: u64,
    },
    /// Ends the own direction.
    ShutdownWrite,
    /// Closes with a reset; ends the script.
    Reset,
}

/// How bytes are handed to the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Put {
    /// One `write`.
    Once,
    /// A `write` for every byte.
    Bytes,
    /// `write`s of these lengths, 2 ms apart, and one for the rest.
    Pieces(Vec<usize>),
    /// One `writev` of vectors of this length.
    Writev(usize),
    /// One `sendto` without an address.
    Send,
    /// One `sendmsg` of vectors of this length.
    Sendmsg(usize),
    /// One `sendmmsg` of messages of this length.
    Sendmmsg(usize),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum FillWith {
    /// `write`s of 64 KiB.
    Write,
    /// `sendfile` from a file.
    Sendfile,
    /// `splice` from a pipe.
    Splice,
}

/// How bytes are fetched from the kernel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Take {
    /// `read`s with a buffer of 64 KiB at most.
    Read,
    /// A `read` for every byte.
    Bytes,
    /// Every piece is first peeked at twice (MSG_PEEK), then received.
    Peek,
    /// `readv` into vectors of this length.
    Readv(usize),
    /// `recvmsg` into vectors of this length.
    Recvmsg(usize),
    /// `recvmmsg` of two messages of this length.
    Recvmmsg(usize),
    /// `read`s on a non-blocking socket, tried every millisecond.
    Nonblocking,
}

/// How a peer comes by its connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    ListenTcp(SocketAddr),
    ConnectTcp(SocketAddr),
    ListenUnix(PathBuf),
    ConnectUnix(PathBuf),
}

/// One line of a peer's standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub place: Place,
    pub steps: Vec<Step>,
}

/// One line of a peer's standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// A listener is ready.
    Listening { addr: Option<SocketAddr> },
    /// The script has been played and the connection is closed.
    Done {
        /// Own address; `None` on Unix sockets.
        local: Option<SocketAddr>,
        /// Unix time in nanoseconds after each step.
        marks: Vec<u64>,
        /// What went wrong at which step. Scripts that provoke errors expect one.
        error: Option<(usize, String)>,
    },
}

/// A peer process that plays scripts one after the other.
#[derive(Debug)]
pub struct Peer {
    program: Program,
    stdin: ChildStdin,
    replies: usize,
}

/// How a script went.
#[derive(Clone, Debug)]
pub struct Played {
    pub local: Option<SocketAddr>,
    pub marks: Vec<u64>,
    pub error: Option<(usize, String)>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Peer {
    /// `binary` is `raw_peer`'s path, which only test targets know.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        Self::from_command(Command::new(binary))
    }

    pub fn from_command(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped());
        let mut program = Program::spawn("raw_peer", command)?;
        let stdin = program.stdin().context("no standard input")?;
        Ok(Self { program, stdin, replies: 0 })
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Hands over a script without waiting for it.
    pub fn give(&mut self, place: Place, steps: &[Step]) -> anyhow::Result<()> {
        let job = serde_json::to_string(&Job { place, steps: steps.to_vec() })?;
        self.stdin.write_all(format!("{job}\n").as_bytes()).context("hand over a script")
    }

    /// Waits until a listener given before is ready.
    pub fn wait_listening(&mut self) -> anyhow::Result<Option<SocketAddr>> {
        match self.reply()? {
            Reply::Listening { addr } => Ok(addr),
            done @ Reply::Done { .. } => Err(anyhow!("not listening: {done:?}")),
        }
    }

    /// Waits for the end of the script given before.
    pub fn wait_done(&mut self) -> anyhow::Result<Played> {
        match self.reply()? {
            Reply::Done { local, marks, error } => Ok(Played { local, marks, error }),
            reply @ Reply::Listening { .. } => Err(anyhow!("not done: {reply:?}")),
        }
    }

    fn reply(&mut self) -> anyhow::Result<Reply> {
        self.program.wait_stdout_count(self.replies + 1, PATIENCE)?;
        let line = self.program.stdout_lines(self.replies).into_iter().next().context("no reply")?;
        self.replies += 1;
        serde_json::from_str(&line).with_context(|| format!("reply {line}"))
    }
}

/// Plays a script on both ends of a new connection.
pub fn play(
    (client, client_steps): (&mut Peer, &[Step]),
    (server, server_steps): (&mut Peer, &[Step]),
    listen: Place,
) -> anyhow::Result<(Played, Played, Option<SocketAddr>)> {
    let unix = match &listen {
        Place::ListenUnix(path) => Some(path.clone()),
        Place::ListenTcp(_) | Place::ConnectTcp(_) | Place::ConnectUnix(_) => None,
    };
    server.give(listen, server_steps)?;
    let addr = server.wait_listening().context("server")?;
    let connect = match (unix, addr) {
        (Some(path), _) => Place::ConnectUnix(path),
        (None, Some(addr)) => Place::ConnectTcp(addr),
        (None, None) => return Err(anyhow!("a TCP listener without an address")),
    };
    client.give(connect, client_steps)?;
    let client = client.wait_done().context("client")?;
    let server = server.wait_done().context("server")?;
    Ok((client, server, addr))
}
