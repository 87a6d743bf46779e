//! A child program that cannot outlive its value: its own process group, ended by id, never by name.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal};

/// A running program and what it has printed so far.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    pid: Pid,
    printed: Arc<Printed>,
    exit: Option<ExitStatus>,
}

#[derive(Debug, Default)]
struct Printed {
    state: Mutex<PrintedState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PrintedState {
    out: Vec<String>,
    err: Vec<String>,
    open_streams: usize,
}

impl Printed {
    fn lock(&self) -> MutexGuard<'_, PrintedState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Lines kept of each stream: enough for any report, a bound for a program gone wild.
const MAX_LINES: usize = 100_000;

/// How long a program may take to end after it was asked, before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

impl Program {
    /// Starts `command` in its own process group. Standard input is closed unless the command says otherwise.
    pub fn spawn(name: &str, command: Command) -> anyhow::Result<Self> {
        Self::spawn_dying_by(name, command, Signal::KILL)
    }

    /// As [`Program::spawn`]; `parent_gone` is what the program gets should the test itself be killed. Programs with
    /// children of their own want a signal on which they end those.
    pub fn spawn_dying_by(name: &str, mut command: Command, parent_gone: Signal) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: the closure makes one system call (prctl) and allocates nothing, so it may run between fork and exec.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(parent_gone))?;
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        let printed = Arc::new(Printed::default());
        printed.lock().open_streams = 2;
        if let Some(out) = child.stdout.take() {
            collect(out, Arc::clone(&printed), |state| &mut state.out);
        }
        if let Some(err) = child.stderr.take() {
            collect(err, Arc::clone(&printed), |state| &mut state.err);
        }
        let pid = Pid::from_child(&child);
        Ok(Self { name: name.to_owned(), child, pid, printed, exit: None })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once; only when the command asked for a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn stdout(&self) -> String {
        self.printed.lock().out.join("\n")
    }

    pub fn stderr(&self) -> String {
        self.printed.lock().err.join("\n")
    }

    /// Lines of standard output from number `from` on.
    pub fn stdout_lines(&self, from: usize) -> Vec<String> {
        self.printed.lock().out.get(from..).unwrap_or_default().to_vec()
    }

    /// Waits for a line of standard output that starts with `prefix`, and returns the rest of it.
    pub fn wait_stdout(&self, prefix: &str, patience: Duration) -> anyhow::Result<String> {
        self.wait_line(|state| &state.out, |line| line.strip_prefix(prefix).map(str::to_owned), patience)
            .with_context(|| format!("{}: no line that starts with {prefix:?} on standard output", self.name))
    }

    /// Waits for a line of standard error that `wanted` accepts, and returns it.
    pub fn wait_stderr(&self, wanted: impl Fn(&str) -> bool, patience: Duration) -> anyhow::Result<String> {
        self.wait_line(|state| &state.err, |line| wanted(line).then(|| line.to_owned()), patience)
            .with_context(|| format!("{}: the awaited line did not come on standard error", self.name))
    }

    /// Waits until `count` lines of standard output are there.
    pub fn wait_stdout_count(&self, count: usize, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let mut state = self.printed.lock();
        while state.out.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open_streams == 0 {
                bail!(
                    "{}: {} of {count} lines; standard error:\n{}",
                    self.name,
                    state.out.len(),
                    state.err.join("\n")
                );
            }
            state =
                self.printed.changed.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
        Ok(())
    }

    fn wait_line(
        &self,
        stream: impl Fn(&PrintedState) -> &Vec<String>,
        wanted: impl Fn(&str) -> Option<String>,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut state = self.printed.lock();
        loop {
            if let Some(found) = stream(&state)[seen..].iter().find_map(|line| wanted(line)) {
                return Ok(found);
            }
            seen = stream(&state).len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open_streams == 0 {
                let why = if left.is_zero() { "in time" } else { "before it closed its output" };
                bail!("not {why}; standard error:\n{}", state.err.join("\n"));
            }
            state =
                self.printed.changed.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
    }

    /// Still running?
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Signals the program itself, not its group.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.exit.is_some() {
            bail!("{} has ended already", self.name);
        }
        rustix::process::kill_process(self.pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            self.exit = self.child.try_wait().with_context(|| format!("wait for {}", self.name))?;
            if self.exit.is_none() {
                if Instant::now() > deadline {
                    bail!("{} did not end in {patience:?}; standard error:\n{}", self.name, self.stderr());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Signals it, waits for its end and for the last of its output.
    pub fn stop(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        self.signal(signal)?;
        let exit = self.wait(STOP_PATIENCE)?;
        self.wait_output_end(Duration::from_secs(2));
        Ok(exit)
    }

    /// Waits until both output streams are at their end: everything printed is in.
    pub fn wait_output_end(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.printed.lock();
        while state.open_streams > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state =
                self.printed.changed.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The group id stays reserved until the leader is reaped, so this cannot hit a stranger: the leader is reaped
        // only by the wait below or by an earlier one, after which only our own descendants can hold the group.
        let reaped = self.exit.is_some() || !matches!(self.child.try_wait(), Ok(None));
        if !reaped || group_exists(self.pid) {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        if !reaped {
            let _ = self.child.wait();
        }
    }
}

fn group_exists(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

/// "exit code 3", "signal 9": for messages.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    printed: Arc<Printed>,
    pick: fn(&mut PrintedState) -> &mut Vec<String>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let mut state = printed.lock();
            let lines = pick(&mut state);
            if lines.len() < MAX_LINES {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            printed.changed.notify_all();
        }
        printed.lock().open_streams -= 1;
        printed.changed.notify_all();
    });
}

/// A TCP port of 127.0.0.1 that was free a moment ago: for programs that cannot choose and report one themselves.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("look for a free port")?.local_addr()?.port())
}

/// Waits until something accepts connections at `addr`.
pub fn wait_listening(addr: SocketAddr, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match TcpStream::connect(addr) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!(error).context(format!("connect to {addr}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_are_seen() {
        let mut program = Program::spawn("sh", shell("echo PORT 12; echo oops >&2; exit 3")).unwrap();
        assert_eq!(program.wait_stdout("PORT ", Duration::from_secs(5)).unwrap(), "12");
        assert_eq!(program.wait_stderr(|line| line.contains("oo"), Duration::from_secs(5)).unwrap(), "oops");
        assert_eq!(program.wait(Duration::from_secs(5)).unwrap().code(), Some(3));
        assert!(program.wait_stdout("NEVER", Duration::from_millis(10)).is_err());
    }

    #[test]
    fn nothing_of_the_group_outlives_the_value() {
        let program = Program::spawn("sh", shell("sleep 1000 & echo CHILD $!; wait")).unwrap();
        let child: i32 = program.wait_stdout("CHILD ", Duration::from_secs(5)).unwrap().parse().unwrap();
        let child = Pid::from_raw(child).unwrap();
        assert!(rustix::process::test_kill_process(child).is_ok());
        drop(program);
        let deadline = Instant::now() + Duration::from_secs(5);
        // A killed grandchild may stay a zombie of init for a moment.
        while std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            assert!(Instant::now() < deadline, "the grandchild lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
