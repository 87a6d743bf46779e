//! Starts the command of `run` behind a gate: it exists, and executes nothing, until the tracer is ready for it.
//!
//! | step | command's process | tracer |
//! |---|---|---|
//! | 1 | forked; becomes its user; tells its pid | learns the pid |
//! | 2 | waits at the gate | begins to trace the pid |
//! | 3 | restores the signal mask, executes the program | opens the gate; learns whether that worked |
//!
//! If the tracer gives up or dies meanwhile the gate breaks and the process ends without having executed anything. The
//! command inherits standard input, output and error, the terminal, the process group and every descriptor that the
//! tracer inherited; descriptors of the tracer itself are close-on-exec.

mod user;

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use tracer_abi::task::Tgid;

pub(crate) use user::{UnknownUser, User};

/// A process that waits at the gate.
#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) tgid: Tgid,
    gate: PipeWriter,
    spawning: JoinHandle<io::Result<Child>>,
}

/// A command that could not be executed, and the exit code that shells give it.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}: {}", reason(.source))]
pub(crate) struct NotExecuted {
    program: String,
    source: io::Error,
}

/// Forks. `mask` is the signal mask for the command.
///
/// # Errors
/// When no process can be had, or it cannot become `user`.
pub(crate) fn gated(command: &[OsString], user: Option<&User>, mask: SigSet) -> anyhow::Result<Gated> {
    let [program, arguments @ ..] = command else { anyhow::bail!("no command") };
    let (mut pids, pid_writer) = io::pipe().context("create a pipe")?;
    let (gate_reader, gate) = io::pipe().context("create a pipe")?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(user) = user {
        command.envs(user.environment());
    }
    let mut child = ChildSide {
        pid_writer,
        gate_reader,
        // The child has a copy of the tracer's end; a gate that it holds itself would never break.
        gate_writer: gate.as_raw_fd(),
        user: user.cloned(),
        mask,
    };
    // SAFETY: between fork and exec the closure only makes system calls on values prepared before; it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(move || child.prepare()) };
    // `spawn` returns when the exec has happened or failed, so it waits at the gate, too.
    let spawning = std::thread::Builder::new()
        .name("spawn".to_owned())
        .spawn(move || command.spawn())
        .context("start a thread")?;
    let mut pid = [0; 4];
    match pids.read_exact(&mut pid) {
        Ok(()) => Ok(Gated { tgid: Tgid(u32::from_ne_bytes(pid)), gate, spawning }),
        Err(_) => match join(spawning) {
            Ok(_) => anyhow::bail!("the command's process did not report"),
            Err(error) => Err(error).context(match user {
                Some(user) => format!("become user {} for the command", user.name()),
                None => "fork".to_owned(),
            }),
        },
    }
}

impl Gated {
    /// Lets the command execute, and waits until it does.
    ///
    /// # Errors
    /// [`NotExecuted`] says why not.
    pub(crate) fn open(self, program: &OsStr) -> Result<Running, NotExecuted> {
        let Self { tgid: _, mut gate, spawning } = self;
        // Fails when the process was killed while it waited; joining tells.
        let _ = gate.write_all(&[1]);
        drop(gate);
        match join(spawning) {
            Ok(child) => Ok(Running(child)),
            Err(source) => Err(NotExecuted { program: program.display().to_string(), source }),
        }
    }
}

fn join(spawning: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawning.join().unwrap_or_else(|_| Err(io::Error::other("the spawning thread panicked")))
}

/// What runs in the new process before the command does.
struct ChildSide {
    pid_writer: PipeWriter,
    gate_reader: PipeReader,
    gate_writer: RawFd,
    user: Option<User>,
    mask: SigSet,
}

impl ChildSide {
    /// Async-signal-safe.
    fn prepare(&mut self) -> io::Result<()> {
        // SAFETY: the number is of this process's copy of the gate's writing end, which nothing here owns or uses.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(self.gate_writer) });
        if let Some(user) = &self.user {
            user.become_now()?;
        }
        self.pid_writer.write_all(&std::process::id().to_ne_bytes())?;
        // No byte: the tracer will not trace this command.
        self.gate_reader.read_exact(&mut [0])?;
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?;
        Ok(())
    }
}

/// The command, executing.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code as shells give it, once it has ended. Does not wait.
    pub(crate) fn exit_code(&mut self) -> io::Result<Option<u8>> {
        Ok(self.0.try_wait()?.map(exit_code))
    }
}

impl NotExecuted {
    pub(crate) fn exit_code(&self) -> u8 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "not found".to_owned() } else { error.to_string() }
}

/// 128 + n for signal n.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(command: &[&str]) -> (Vec<OsString>, Gated) {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        let gated = gated(&command, None, SigSet::empty()).unwrap();
        (command, gated)
    }

    fn run(command: &[&str]) -> Result<u8, u8> {
        let (command, gated) = start(command);
        let mut running = gated.open(&command[0]).map_err(|error| error.exit_code())?;
        Ok(exit_code(running.0.wait().unwrap()))
    }

    #[test]
    fn exit_codes() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "exit 3").unwrap();
        let plain = plain.to_str().unwrap();
        assert_eq!(run(&["true"]), Ok(0));
        assert_eq!(run(&["sh", "-c", "exit 7"]), Ok(7));
        assert_eq!(run(&["sh", "-c", "kill -TERM $$"]), Ok(143));
        assert_eq!(run(&["no-such-command-here"]), Err(127));
        assert_eq!(run(&["/nowhere/x"]), Err(127));
        assert_eq!(run(&[plain]), Err(126));
        assert_eq!(run(&[dir.path().to_str().unwrap()]), Err(126));
    }

    #[test]
    fn nothing_is_executed_before_the_gate_opens() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let (command, gated) = start(&["touch", mark.to_str().unwrap()]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!mark.exists());
        let running = gated.open(&command[0]).unwrap();
        let mut child = running.0;
        assert!(child.wait().unwrap().success());
        assert!(mark.exists());
    }

    #[test]
    fn a_tracer_that_gives_up_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let (_, gated) = start(&["touch", mark.to_str().unwrap()]);
        let Gated { tgid, gate, spawning } = gated;
        drop(gate);
        assert!(join(spawning).is_err());
        assert!(!mark.exists());
        assert!(!std::path::Path::new(&format!("/proc/{tgid}")).exists());
    }

    #[test]
    fn no_descriptor_of_the_tracer_is_inherited() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let (command, gated) = start(&["sh", "-c", &format!("test ! -e /proc/self/fd/{}", file.as_raw_fd())]);
        let mut child = gated.open(&command[0]).unwrap().0;
        assert!(child.wait().unwrap().success());
    }
}
