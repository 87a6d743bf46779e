//! Starting other programs: every one is printed before it runs, bounded in time where it could hang, and never
//! outlives xtask.
//!
//! It deliberately knows no shell: arguments are passed as they are.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How often a waiting command looks at its child, its deadline and the interrupt flag. Small against every
/// command that is started here, large against the cost of one look.
const POLL: Duration = Duration::from_millis(20);

/// How long an interrupted or overdue process group may take to clean up before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Set by SIGINT and SIGTERM once [`Interrupt::catch`] was called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT and SIGTERM for the rest of the process, so that what was started can be stopped first.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("catch interrupts")?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The command line as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it back unchanged.
pub(crate) fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:+,@%".contains(c)) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Takes from a command what the caller's environment asks of the tracer elsewhere.
pub(crate) fn without_otel(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(name);
    }
}

/// Runs a command to its end with its output passed on; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("$ {}", shown(command));
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// As [`run`], for what may hang without a network.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    eprintln!("$ {}", shown(command));
    match Group::start(command)?.wait(limit, &Interrupt::default())? {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(status) => bail!("{}: {status}", shown(command)),
        Ended::TimedOut => bail!("{}: no end after {} s", shown(command), limit.as_secs()),
        Ended::Interrupted => bail!("{}: interrupted", shown(command)),
    }
}

/// Standard output of a command that succeeds, without white space at its ends.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {}", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", shown(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A command in a process group of its own, which is stopped when this value goes away: first asked, then killed.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    shown: String,
}

/// How a bounded run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(ExitStatus),
    TimedOut,
    Interrupted,
}

impl Group {
    /// Starts the command as the leader of a new process group, with no standard input.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let shown = shown(command);
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        Ok(Self { child: child.with_context(|| format!("start {shown}"))?, shown })
    }

    /// Waits until the leader ends, then kills what it left behind; after `limit`, or at an interrupt, the whole
    /// group is stopped.
    pub(crate) fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + limit;
        while !self.leader_ended() {
            if interrupt.is_set() {
                self.stop();
                return Ok(Ended::Interrupted);
            }
            if Instant::now() >= deadline {
                self.stop();
                return Ok(Ended::TimedOut);
            }
            std::thread::sleep(POLL);
        }
        self.kill_rest();
        let status = self.child.wait().with_context(|| format!("wait for {}", self.shown))?;
        Ok(Ended::Exited(status))
    }

    /// Asks the group to end, waits a while, then kills what is left of it.
    pub(crate) fn stop(&mut self) {
        if self.reaped() {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && !self.leader_ended() {
            std::thread::sleep(POLL);
        }
        self.kill_rest();
        // Cannot fail: the leader is ours, not yet waited for, and killed.
        let _ = self.child.wait();
    }

    /// Whether the leader has ended. Does not take its status: until that is taken the group's id stays ours, so
    /// that a signal cannot reach a stranger.
    pub(crate) fn leader_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// Whether the leader's status has been taken.
    fn reaped(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_none_or(|pid| waitid(WaitId::Pid(pid), options).is_err())
    }

    fn kill_rest(&self) {
        self.signal(Signal::KILL);
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only when the whole group is gone, which is what was wanted.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command in its own group, passing each line of its standard output on and to `each_line`.
pub(crate) fn stream(
    command: &mut Command,
    limit: Duration,
    interrupt: &Interrupt,
    mut each_line: impl FnMut(&str) + Send,
) -> anyhow::Result<Ended> {
    eprintln!("$ {}", shown(command));
    let mut group = Group::start(command.stdout(Stdio::piped()))?;
    let stdout = group.child.stdout.take().context("standard output was not piped")?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = Vec::new();
            // Bytes, not text: a test may print anything.
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line);
                println!("{}", text.trim_end());
                each_line(text.trim_end());
                line.clear();
            }
        });
        // Also ends what a test left behind in the group: it would hold the pipe open, and the reader with it.
        group.wait(limit, interrupt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn shown_quotes_what_a_shell_would_split() {
        let mut command = Command::new("a");
        command.args(["b c", "", "d'e", "--f=g"]);
        assert_eq!(shown(&command), r"a 'b c' '' 'd'\''e' --f=g");
    }

    #[test]
    fn stream_passes_lines_and_status() {
        let mut lines = Vec::new();
        let limit = Duration::from_secs(20);
        let ended = stream(&mut sh("echo one; printf two; exit 3"), limit, &Interrupt::default(), |line| {
            lines.push(line.to_owned());
        });
        assert!(matches!(ended, Ok(Ended::Exited(status)) if status.code() == Some(3)));
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn overdue_groups_are_stopped_with_all_members() {
        let started = Instant::now();
        let mut group = Group::start(&mut sh("sleep 60 & echo $!; wait")).unwrap();
        let ended = group.wait(Duration::from_millis(100), &Interrupt::default()).unwrap();
        assert_eq!(ended, Ended::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_child_left_behind_does_not_hold_the_output_open() {
        let started = Instant::now();
        let limit = Duration::from_secs(20);
        let ended = stream(&mut sh("sleep 60 & exit 0"), limit, &Interrupt::default(), |_| {});
        assert!(matches!(ended, Ok(Ended::Exited(status)) if status.success()));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn an_interrupt_stops_the_wait() {
        let interrupt = Interrupt::default();
        interrupt.0.store(true, Ordering::Relaxed);
        let mut group = Group::start(&mut sh("sleep 60")).unwrap();
        assert_eq!(group.wait(Duration::from_secs(60), &interrupt).unwrap(), Ended::Interrupted);
    }
}
