//! The tracer's own messages: one line each on standard error.
//!
//! Messages are `tracing` events. A thread of its own writes them, from a bounded queue: standard error may be a
//! terminal that somebody stopped with Ctrl-S, and that must never stop the capture. What did not fit is counted and
//! said. It knows no spans, no colours and no time stamps: the lines are for a person who watches a program run.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Lines that may wait for a stopped terminal: enough for the exit summary of hundreds of processes, at most about
/// 200 KiB.
const QUEUED_LINES: usize = 1024;

/// Longer ones are cut: a message may quote hostile input.
const MAX_LINE_BYTES: usize = 4096;

static LINES: OnceLock<SyncSender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Item {
    Line(String),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// Starts the writer. `verbosity`: 0 = what a user must know, 1 = debug, 2 = everything, libraries included.
/// Only the first call has an effect.
pub(crate) fn init(verbosity: u8) {
    let (sender, receiver) = sync_channel(QUEUED_LINES);
    if LINES.set(sender).is_err() {
        return;
    }
    let started = std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&receiver));
    if started.is_ok() {
        // Fails only if a subscriber is set already; then messages go there.
        let _ = tracing::subscriber::set_global_default(Lines { verbosity });
    }
}

/// Waits until what was logged so far is written, at most `deadline`.
pub(crate) fn flush(deadline: Duration) {
    let Some(lines) = LINES.get() else { return };
    let (done, flushed) = sync_channel(1);
    if lines.try_send(Item::Flush(done)).is_ok() {
        let _ = flushed.recv_timeout(deadline);
    }
}

fn write_lines(items: &Receiver<Item>) {
    let mut stderr = std::io::stderr();
    loop {
        match items.recv_timeout(Duration::from_secs(1)) {
            Ok(Item::Line(line)) => {
                // A closed standard error: nobody is left to tell.
                let _ = stderr.write_all(line.as_bytes());
            }
            Ok(Item::Flush(done)) => {
                report_dropped(&mut stderr);
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => report_dropped(&mut stderr),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn report_dropped(stderr: &mut std::io::Stderr) {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        let _ =
            writeln!(stderr, "tracer: warning: {dropped} messages were dropped: standard error was stalled");
    }
}

/// The subscriber: formats an event and queues the line.
struct Lines {
    verbosity: u8,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("tracer");
        let most = match (self.verbosity, own) {
            (0, true) => Level::INFO,
            (0 | 1, false) => return false,
            (1, true) => Level::DEBUG,
            (_, true) => Level::TRACE,
            (_, false) => Level::DEBUG,
        };
        *metadata.level() <= most
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(prefix(*event.metadata().level()).to_owned());
        event.record(&mut line);
        queue(line.finish());
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

fn queue(line: String) {
    let Some(lines) = LINES.get() else { return };
    match lines.try_send(Item::Line(line)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "tracer: error: ",
        Level::WARN => "tracer: warning: ",
        Level::INFO => "tracer: ",
        Level::DEBUG => "tracer: debug: ",
        Level::TRACE => "tracer: trace: ",
    }
}

/// `message key=value …`, in one line whatever the values hold.
struct Line(String);

impl Line {
    fn push(&mut self, text: &str) {
        for character in text.chars() {
            if self.0.len() >= MAX_LINE_BYTES {
                return;
            }
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
    }

    fn finish(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.push(value);
        } else {
            let _ = write!(self.0, " {}=", field.name());
            self.push(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        let mut line = Line(prefix(Level::WARN).to_owned());
        line.push(text);
        assert_eq!(line.finish(), want);
    }

    #[test]
    fn a_message_is_one_line_of_printable_text() {
        check("no such process: 12", "tracer: warning: no such process: 12\n");
        check("a\nb\x1b[2J\u{9b}", "tracer: warning: a\\nb\\u{1b}[2J\\u{9b}\n");
        let mut line = Line(String::new());
        line.push(&"x".repeat(10 * MAX_LINE_BYTES));
        assert!(line.finish().len() <= MAX_LINE_BYTES + 1);
    }
}
