//! Byte outputs that never block who writes to them: each has a thread of its own behind a bounded queue.
//!
//! A terminal stopped with Ctrl-S, a pipe that nobody reads or a full disk blocks that thread only. An output whose
//! reader has gone (`| head`) ends quietly: what comes later is refused, for the caller to count. Text is written as
//! given: escaping hostile bytes is the caller's task.
//!
//! | state | on a block | on a write error |
//! |---|---|---|
//! | open | queued, written in order | ends |
//! | full queue | [`Output::write`] waits | ends |
//! | ended | refused | |

use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::priority::go_ahead;
use tokio::sync::{mpsc, oneshot};

/// Blocks that may wait for the thread. With [`BLOCK_LEN`] it bounds what a stalled output holds: 1 MiB.
const QUEUE_LEN: usize = 16;
/// What writers should hand over at a time, in bytes.
pub(crate) const BLOCK_LEN: usize = 64 * 1024;

/// One output. Dropping it lets the thread finish what is queued, without waiting for it.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    queue: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    terminal: bool,
    /// Of the terminal, when it was opened.
    columns: Option<u16>,
    /// Why it ended, unless because its reader had gone.
    error: OnceLock<io::Error>,
}

enum Job {
    /// With what to add to which counter once it is written.
    Write(Vec<u8>, Receipt),
    /// Answered once everything queued before has been written.
    Flush(oneshot::Sender<()>),
}

type Receipt = Option<(Arc<AtomicU64>, u64)>;

/// The output takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output has ended")]
pub(crate) struct Ended;

impl Output {
    /// The process's standard error, by a descriptor of its own: the thread must not hold std's lock while it is
    /// blocked.
    pub(crate) fn stderr() -> io::Result<Self> {
        Self::start(io::stderr().as_fd().try_clone_to_owned()?, "standard error".to_owned())
    }

    /// Creates or truncates `path`. Waits for a reader when it is a FIFO.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::start(File::create(path)?.into(), path.display().to_string())
    }

    fn start(fd: OwnedFd, name: String) -> io::Result<Self> {
        let file = File::from(fd);
        let terminal = file.is_terminal();
        let size = rustix::termios::tcgetwinsize(&file).ok().filter(|_| terminal);
        let columns = size.map(|size| size.ws_col).filter(|columns| *columns > 0);
        let shared = Arc::new(Shared { name, terminal, columns, error: OnceLock::new() });
        let (queue, jobs) = mpsc::channel(QUEUE_LEN);
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            go_ahead();
            write_all(file, jobs, &thread);
        })?;
        Ok(Self { queue, shared })
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.shared.terminal
    }

    pub(crate) fn columns(&self) -> Option<u16> {
        self.shared.columns
    }

    /// Queues `block`, waiting while the queue is full. Once it is written, the receipt's number is added to its
    /// counter. Cancel safe: a cancelled call has queued nothing.
    pub(crate) async fn write(&self, block: Vec<u8>, receipt: Receipt) -> Result<(), Ended> {
        self.queue.send(Job::Write(block, receipt)).await.map_err(|_| Ended)
    }

    /// Waits until everything queued so far has been written.
    pub(crate) async fn flush(&self) -> Result<(), Ended> {
        let (done, written) = oneshot::channel();
        self.queue.send(Job::Flush(done)).await.map_err(|_| Ended)?;
        written.await.map_err(|_| Ended)
    }

    /// Why it ended, unless it has not or its reader had gone.
    pub(crate) fn error(&self) -> Option<&io::Error> {
        self.shared.error.get()
    }
}

/// The thread.
fn write_all(mut file: File, mut jobs: mpsc::Receiver<Job>, shared: &Shared) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Write(block, receipt) => {
                if let Err(error) = write_block(&mut file, &block) {
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        let _ = shared.error.set(error);
                    }
                    return;
                }
                if let Some((counter, count)) = receipt {
                    counter.fetch_add(count, Ordering::Relaxed);
                }
            }
            // The flusher may have stopped waiting.
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// Like `write_all`, also on a descriptor that another program sharing it has made non-blocking (Node does).
fn write_block(file: &mut File, mut block: &[u8]) -> io::Result<()> {
    while !block.is_empty() {
        match file.write(block) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => block = &block[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut writable = [rustix::event::PollFd::new(file, rustix::event::PollFlags::OUT)];
                match rustix::event::poll(&mut writable, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use super::*;

    fn pipe() -> (File, Output) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (File::from(read), Output::start(write, "pipe".to_owned()).unwrap())
    }

    #[tokio::test]
    async fn a_stalled_reader_makes_writers_wait_not_the_thread_pool() {
        let (mut reader, output) = pipe();
        let mut queued = 0;
        let stalled = async {
            loop {
                output.write(vec![b'x'; BLOCK_LEN], None).await.unwrap();
                queued += 1;
            }
        };
        tokio::time::timeout(Duration::from_millis(200), stalled).await.unwrap_err();
        // What the pipe and the thread hold, and a full queue.
        assert!((QUEUE_LEN..QUEUE_LEN + 4).contains(&queued), "{queued}");

        let mut all = vec![0; queued * BLOCK_LEN];
        let drained = tokio::task::spawn_blocking(move || reader.read_exact(&mut all).map(|()| all.len()));
        assert_eq!(drained.await.unwrap().unwrap(), queued * BLOCK_LEN);
        output.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_ends_it_quietly() {
        let (reader, output) = pipe();
        drop(reader);
        while output.write(b"line\n".to_vec(), None).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(output.flush().await, Err(Ended));
        assert!(output.error().is_none());
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error() {
        let output = Output::create(Path::new("/dev/full")).unwrap();
        while output.write(b"line\n".to_vec(), None).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(output.error().unwrap().raw_os_error(), Some(28));
    }

    #[tokio::test]
    async fn a_non_blocking_descriptor_is_waited_for() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty()).unwrap();
        let output = Output::start(write, "pipe".to_owned()).unwrap();
        for _ in 0..4 {
            output.write(vec![b'y'; BLOCK_LEN], None).await.unwrap();
        }
        let mut reader = File::from(read);
        let read = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut all = vec![0; 4 * BLOCK_LEN];
            reader.read_exact(&mut all).map(|()| all)
        });
        assert!(read.await.unwrap().unwrap().iter().all(|&byte| byte == b'y'));
    }
}
