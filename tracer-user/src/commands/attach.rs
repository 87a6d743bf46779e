//! `tracer attach`: traces processes that run already, and those that come to match.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_core::decode::Decoder;

use super::live::{Outputs, Runtimes, capture_config, open_outputs, say};
use crate::capture::{Capture, CaptureConfig};
use crate::config::{Attach, Selectors};
use crate::pipeline::{Control, Live};
use crate::priority::go_ahead;
use crate::process::facts::Describer;
use crate::process::namespace;
use crate::process::procfs::ProcDir;
use crate::process::select::{self, Selected};
use crate::process::table::Processes;
use crate::signals::{Blocked, Signals};

/// Looks at all processes until one look finds nothing new: a process may fork while it is looked for.
const MAX_LOOKS: usize = 10;

/// # Errors
/// When a named process does not exist, or nothing can be captured or written.
pub(crate) fn attach(config: &Attach, blocked: &Blocked, verbosity: u8) -> anyhow::Result<u8> {
    namespace::check()?;
    let own = Tgid(std::process::id());
    for &pid in &config.selectors.pids {
        ensure!(pid != own.0, "process {pid} is this tracer");
        ensure!(ProcDir::open(Tgid(pid)).is_ok(), "there is no process {pid}");
    }
    let runtimes = Runtimes::new()?;
    let ended = runtimes.run(trace(config, own, blocked, verbosity, runtimes.others()));
    runtimes.end();
    ended.map(|()| 0)
}

async fn trace(
    config: &Attach,
    own: Tgid,
    blocked: &Blocked,
    verbosity: u8,
    others: &Handle,
) -> anyhow::Result<()> {
    let Attach { selectors, duration, capture: wanted, spans } = config;
    let config = capture_config(wanted, spans, verbosity);
    let Outputs { spans, recorder } = open_outputs(spans, wanted, others)?;
    let later = !selectors.exes.is_empty() || !selectors.ports.is_empty();
    let mut capture = Capture::start(&CaptureConfig {
        trace_all: selectors.all,
        // A program that is started with a listener that it inherited is found at its exec, too.
        watch_exec: later,
        watch_ports: selectors.ports.clone(),
        ..config
    })?;
    let describer = Describer::new(wanted.command_args);
    let mut processes =
        Processes::new(describer, (!selectors.all).then(|| selectors.clone()), !selectors.all);
    let selected = if selectors.all {
        BTreeSet::new()
    } else {
        trace_running(selectors, own, &mut capture, &mut processes)?
    };
    let signals = blocked.stream(others).context("read signals")?;
    let (control, controls) = channel(4);
    if !later && !selectors.all {
        // Nothing else can match: the end of these processes is the end of the run.
        control.send(Control::StopWhenIdle).await.context("start")?;
    }
    tracing::info!("capture is live on rung {}; {}", capture.rung(), whom(selectors, &selected));
    others.spawn(stop(signals, *duration, control));
    go_ahead();
    let summary = Live { source: capture, decoder: Decoder::default(), processes, recorder, spans }
        .run(controls)
        .await?;
    say(&summary);
    Ok(())
}

fn trace_running(
    selectors: &Selectors,
    own: Tgid,
    capture: &mut Capture,
    processes: &mut Processes,
) -> anyhow::Result<BTreeSet<Selected>> {
    let mut all = BTreeSet::new();
    for _ in 0..MAX_LOOKS {
        let mut new = Vec::new();
        for selected in select::running(selectors, own).context("list processes")? {
            let Selected { tgid, start, .. } = selected;
            if processes.is_traced(tgid, start) {
                continue;
            }
            new.push(ProcessKey { tgid, start_boottime: start.earliest() });
            processes.add(tgid, start);
            all.insert(selected);
        }
        if new.is_empty() {
            break;
        }
        capture.trace_running(&new)?;
    }
    Ok(all)
}

/// Ends the run after `duration` or at the first signal that asks for it; at the second one, the tracer.
async fn stop(mut signals: Signals, duration: Option<Duration>, control: Sender<Control>) {
    let signalled = async {
        loop {
            match signals.next().await {
                Ok(received) if received.asks_to_end() => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!("cannot read signals: {error}");
                    break;
                }
            }
        }
    };
    match duration {
        Some(duration) => {
            let _ = tokio::time::timeout(duration, signalled).await;
        }
        None => signalled.await,
    }
    let _ = control.send(Control::Stop).await;
    while let Ok(received) = signals.next().await {
        if received.asks_to_end() {
            std::process::exit(128 + received.signal as i32);
        }
    }
}

/// Whom the tracer traces, and what it waits for.
fn whom(selectors: &Selectors, selected: &BTreeSet<Selected>) -> String {
    if selectors.all {
        return "tracing every process".to_owned();
    }
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Selected { tgid, name, .. } in selected {
        by_name.entry(name).or_default().push(tgid.to_string());
    }
    let shown = by_name.iter().take(8).map(|(name, pids)| match pids.as_slice() {
        pids if pids.len() > 8 => format!("{name} ({} processes)", pids.len()),
        pids => format!("{name} ({})", pids.join(", ")),
    });
    let mut names: Vec<String> = shown.collect();
    if by_name.len() > names.len() {
        names.push(format!("{} more", by_name.len() - names.len()));
    }
    let exes = selectors.exes.iter().map(|glob| format!("an executable that matches {glob}"));
    let ports = selectors.ports.iter().map(|port| format!("a listener on port {port}"));
    let awaited: Vec<String> = exes.chain(ports).collect();
    match (names.is_empty(), awaited.is_empty()) {
        (false, true) => format!("tracing {}", names.join(", ")),
        (false, false) => format!("tracing {}; and waiting for {}", names.join(", "), awaited.join(" or ")),
        (true, _) => format!("nothing matches yet; waiting for {}", awaited.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::procfs::StartTick;

    fn selected(tgid: u32, name: &str) -> Selected {
        Selected { tgid: Tgid(tgid), start: StartTick(0), name: name.to_owned() }
    }

    #[test]
    fn the_line_says_whom_and_what_for() {
        let exes = vec![glob::Pattern::new("ngin?").unwrap()];
        let waiting = Selectors { exes, ports: vec![80], ..Selectors::default() };
        let all = Selectors { all: true, ..Selectors::default() };
        let by_pid = Selectors { pids: vec![1], ..Selectors::default() };
        let two = [selected(1, "nginx"), selected(2, "nginx"), selected(3, "shop")].into();
        let awaited = "waiting for an executable that matches ngin? or a listener on port 80";
        for (selectors, selected, want) in [
            (&all, BTreeSet::new(), "tracing every process".to_owned()),
            (&by_pid, BTreeSet::clone(&two), "tracing nginx (1, 2), shop (3)".to_owned()),
            (&waiting, BTreeSet::new(), format!("nothing matches yet; {awaited}")),
            (&waiting, [selected(4, "x")].into(), format!("tracing x (4); and {awaited}")),
            (&by_pid, (0..9).map(|n| selected(n, "x")).collect(), "tracing x (9 processes)".to_owned()),
        ] {
            assert_eq!(whom(selectors, &selected), want);
        }
    }
}
