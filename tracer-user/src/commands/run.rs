//! `tracer run`: starts a command, traces it and its descendants from their first byte, ends as it ends.
//!
//! | signal | while the command runs | after it has ended |
//! |---|---|---|
//! | from the terminal (Ctrl-C, Ctrl-\\) | nothing: it reached the command, too | see below |
//! | sent to the tracer by a process | forwarded to the command, unless the command sent it | see below |
//! | first to end | | `--follow`: stop waiting; else end at once, without flushing |
//! | second to end | | end at once, without flushing |

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::watch;
use tracer_abi::task::ProcessKey;
use tracer_core::decode::Decoder;

use super::live::{Outputs, Runtimes, capture_config, open_outputs, say};
use crate::capture::Capture;
use crate::config::{Run, RunAs};
use crate::launch::{self, Gated, Running, User};
use crate::pipeline::{Control, Live};
use crate::priority::go_ahead;
use crate::process::facts::Describer;
use crate::process::namespace;
use crate::process::procfs::ProcDir;
use crate::process::table::Processes;
use crate::signals::{Blocked, Received, Signals};

/// Returns the command's exit code.
///
/// # Errors
/// When nothing can be captured or written; then the command was not executed.
pub(crate) fn run(config: &Run, blocked: &Blocked, verbosity: u8) -> anyhow::Result<u8> {
    namespace::check()?;
    let user = user(&config.user)?;
    // Before the tracer has started a thread or opened anything: the command inherits none of it.
    let gated = launch::gated(&config.command, user.as_ref(), blocked.before())?;
    let runtimes = Runtimes::new()?;
    let code = runtimes.run(trace(config, gated, blocked, verbosity, runtimes.others()));
    runtimes.end();
    code
}

async fn trace(
    config: &Run,
    gated: Gated,
    blocked: &Blocked,
    verbosity: u8,
    others: &Handle,
) -> anyhow::Result<u8> {
    let Outputs { spans, recorder } = open_outputs(&config.spans, &config.capture, others)?;
    let mut capture = Capture::start(&capture_config(&config.capture, &config.spans, verbosity))?;
    let tgid = gated.tgid;
    let start = ProcDir::open(tgid).and_then(|dir| dir.stat()).context("find the command's process")?.start;
    capture.trace_gated(ProcessKey { tgid, start_boottime: start.earliest() })?;
    let mut processes = Processes::new(Describer::new(config.capture.command_args), None, true);
    processes.add(tgid, start);
    let signals = blocked.stream(others).context("read signals")?;

    let program = config.command.first().context("no command")?;
    tracing::info!("capture is live on rung {}; tracing {} ({tgid})", capture.rung(), program.display());
    let running = match gated.open(program) {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(error.exit_code());
        }
    };
    let (control, controls) = channel(4);
    let (ended, mut code) = watch::channel(None);
    others.spawn(follow(running, signals, config.follow, control, ended));
    go_ahead();
    let summary = Live { source: capture, decoder: Decoder::default(), processes, recorder, spans }
        .run(controls)
        .await?;
    say(&summary);
    let code = *code.wait_for(Option::is_some).await.context("wait for the command")?;
    code.context("wait for the command")
}

fn user(run_as: &RunAs) -> anyhow::Result<Option<User>> {
    let user = match run_as {
        RunAs::Same => return Ok(None),
        RunAs::Named(name) => User::named(name)?,
        // Left over in the environment of somebody who is not root (any more).
        RunAs::Invoker { .. } if !nix::unistd::geteuid().is_root() => return Ok(None),
        RunAs::Invoker { uid, gid } => User::numbered(*uid, *gid),
    };
    Ok(Some(user).filter(|user| !user.is_own()))
}

/// Passes signals on, and tells the pipeline when the command has ended.
async fn follow(
    mut running: Running,
    mut signals: Signals,
    follow: bool,
    control: Sender<Control>,
    ended: watch::Sender<Option<u8>>,
) {
    // It may have ended before the first signal is read; its own signal is then still to come.
    loop {
        match running.exit_code() {
            Ok(None) => {}
            Ok(Some(code)) => {
                let _ = ended.send(Some(code));
                break;
            }
            Err(error) => {
                tracing::error!("cannot wait for the command: {error}");
                let _ = control.send(Control::Stop).await;
                return;
            }
        }
        match signals.next().await {
            Ok(received) => forward(received, running.pid()),
            Err(error) => {
                tracing::error!("cannot read signals: {error}");
                let _ = control.send(Control::Stop).await;
                return;
            }
        }
    }
    let told = if follow { Control::StopWhenIdle } else { Control::Stop };
    let _ = control.send(told).await;
    let mut stopping = !follow;
    while let Ok(received) = signals.next().await {
        if !received.asks_to_end() {
            continue;
        }
        if stopping {
            let code = *ended.borrow();
            std::process::exit(code.unwrap_or(1).into());
        }
        stopping = true;
        let _ = control.send(Control::Stop).await;
    }
}

fn forward(received: Received, command: u32) {
    let Received { signal, sender } = received;
    let Some(sender) = sender else { return };
    if signal == Signal::SIGCHLD || sender == command {
        return;
    }
    let Ok(pid) = i32::try_from(command) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!("{signal} was not forwarded: {error}");
    }
}
