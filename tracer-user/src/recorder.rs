//! Writes the recording of a run, off the capture path.
//!
//! Frames are gathered in blocks; a thread of its own writes the blocks, from a bounded queue. A disk that is slower
//! than the traffic costs whole blocks of frames, which are counted, and marked in the recording where they are
//! missing; it never costs an event of the run itself.
//!
//! | state | on a frame |
//! |---|---|
//! | recording | gathered |
//! | recording, queue full | its block is dropped and counted; the next block starts with a gap mark |
//! | stopped: size reached, write error | ignored |

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracer_abi::event::DataRecord;
use tracer_abi::time::KernelInstant;
use tracer_core::event::Event;
use tracer_core::recording::{Preamble, Writer};

use crate::config::Record;
use crate::priority::go_ahead;

/// Frames are handed over in blocks of about this size: one system call for tens of events.
const BLOCK_BYTES: usize = 64 * 1024;

/// Blocks that may wait for the disk: 16 MiB, a quarter of a second of a fully loaded host.
const QUEUED_BLOCKS: usize = 256;

/// Room for the mark of a gap, kept free at the end of the file.
const GAP_FRAME_BYTES: u64 = 13;

/// The recording of this run.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    secrets: bool,
    max_size_bytes: u64,
    writer: Writer<Block>,
    block: Block,
    /// In the current block.
    frames: u64,
    /// Handed over for writing so far.
    queued_bytes: u64,
    /// Dropped frames that are not yet marked in the recording.
    gap: u64,
    /// Those that the current block marks.
    marked: u64,
    stats: RecorderStats,
    /// `None`: stopped.
    blocks: Option<SyncSender<Vec<u8>>>,
    done: Receiver<io::Result<()>>,
}

/// How the recording went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecorderStats {
    pub(crate) written_bytes: u64,
    pub(crate) dropped_frames: u64,
    /// It ended before the run did, at its size limit or at an error.
    pub(crate) stopped: bool,
}

/// What the writer writes to: memory, until the block is handed over.
#[derive(Clone, Debug, Default)]
struct Block(Rc<RefCell<Vec<u8>>>);

impl Block {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn take(&self) -> Vec<u8> {
        self.0.replace(Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8))
    }
}

impl Write for Block {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Recorder {
    /// Creates the file, for its owner only. One that exists already, and a symbolic link, is refused.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn create(record: &Record, preamble: &Preamble) -> anyhow::Result<Self> {
        let Record { path, secrets, max_size_bytes } = record;
        let file = create(path).with_context(|| format!("create the recording {}", path.display()))?;
        Ok(Self { secrets: *secrets, ..Self::start(file, path, *max_size_bytes, preamble)? })
    }

    fn start(
        file: impl Write + Send + 'static,
        path: &Path,
        max_size_bytes: u64,
        preamble: &Preamble,
    ) -> anyhow::Result<Self> {
        let block = Block::default();
        let writer = Writer::new(block.clone(), preamble).context("write the recording's preamble")?;
        let (blocks, queue) = sync_channel(QUEUED_BLOCKS);
        let (finished, done) = channel();
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || {
                go_ahead();
                drop(finished.send(write_blocks(file, &queue)));
            })
            .context("start a thread")?;
        let mut recorder = Self {
            path: path.to_owned(),
            secrets: false,
            max_size_bytes,
            writer,
            block,
            frames: 0,
            queued_bytes: 0,
            gap: 0,
            marked: 0,
            stats: RecorderStats::default(),
            blocks: Some(blocks),
            done,
        };
        // So that a run that is killed at once has left a recording, if an empty one.
        recorder.hand_over();
        Ok(recorder)
    }

    /// A record as the kernel half made it.
    pub(crate) fn kernel_record(&mut self, record: &[u8]) {
        self.frame(record.len(), |writer| writer.kernel_record(record));
    }

    /// The same of plaintext of TLS: unless secrets are asked for, how much there was and not what.
    pub(crate) fn plaintext_record(&mut self, record: &[u8]) {
        if self.secrets {
            return self.kernel_record(record);
        }
        let mut blank = record.to_vec();
        blank[record.len().min(size_of::<DataRecord>())..].fill(0);
        self.kernel_record(&blank);
    }

    /// A fact that user space added.
    pub(crate) fn event(&mut self, event: &Event) {
        // Its length is not known beforehand; facts are few, and the largest is bounded by the limits on arguments.
        self.frame(BLOCK_BYTES, |writer| writer.event(event));
    }

    /// The clock, as it was handed to the engine.
    pub(crate) fn tick(&mut self, now: KernelInstant) {
        self.frame(8, |writer| writer.tick(now));
    }

    /// Hands over what was gathered, so that a run that is killed loses little.
    pub(crate) fn hand_over(&mut self) {
        if self.block.len() == 0 {
            return;
        }
        let Some(blocks) = &self.blocks else { return };
        let block = self.block.take();
        let (len, frames) = (block.len() as u64, std::mem::take(&mut self.frames));
        let marked = std::mem::take(&mut self.marked);
        match blocks.try_send(block) {
            Ok(()) => self.queued_bytes += len,
            Err(TrySendError::Full(_)) => {
                if self.stats.dropped_frames == 0 {
                    tracing::warn!(
                        "the disk is too slow for the recording {}: it will have gaps",
                        self.path.display()
                    );
                }
                self.stats.dropped_frames += frames;
                self.gap += frames + marked;
            }
            Err(TrySendError::Disconnected(_)) => {
                let error = self.done.try_recv().ok().and_then(Result::err);
                self.stop(
                    &error.map_or_else(|| "its writer has ended".to_owned(), |error| error.to_string()),
                );
            }
        }
    }

    /// Writes what is left, waiting at most `deadline`.
    pub(crate) fn finish(mut self, deadline: Duration) -> RecorderStats {
        let deadline = Instant::now() + deadline;
        if self.gap > 0 {
            self.mark_gap();
        }
        // The traffic is over: this block can wait for room in the queue.
        let (mut block, frames) = (self.block.take(), self.frames);
        while let Some(blocks) = self.blocks.as_ref().filter(|_| !block.is_empty()) {
            let len = block.len() as u64;
            match blocks.try_send(block) {
                Ok(()) => {
                    self.queued_bytes += len;
                    break;
                }
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    block = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    self.stats.dropped_frames += frames;
                    break;
                }
            }
        }
        // Ends the thread once it has written everything.
        self.blocks = None;
        match self.done.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.stop(&error.to_string()),
            Err(RecvTimeoutError::Timeout) => self.stop("the disk did not take the rest in time"),
            Err(RecvTimeoutError::Disconnected) => {}
        }
        self.stats.written_bytes = self.queued_bytes;
        self.stats
    }

    fn frame(&mut self, len: usize, write: impl FnOnce(&mut Writer<Block>) -> io::Result<()>) {
        if self.blocks.is_none() {
            return;
        }
        let room = self.queued_bytes + self.block.len() as u64 + len as u64 + 5 + GAP_FRAME_BYTES;
        if room > self.max_size_bytes {
            self.hand_over();
            self.stop(&format!("it has reached its limit of {} bytes", self.max_size_bytes));
            return;
        }
        if self.gap > 0 {
            self.mark_gap();
        }
        if let Err(error) = write(&mut self.writer) {
            // Memory does not fail; the frame was beyond the format's bound.
            tracing::debug!("a frame was not recorded: {error}");
            self.stats.dropped_frames += 1;
        }
        self.frames += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.hand_over();
        }
    }

    /// Where the frames are missing: at the start of the block after theirs.
    fn mark_gap(&mut self) {
        let gap = std::mem::take(&mut self.gap);
        self.marked += gap;
        // Memory does not fail.
        let _ = self.writer.gap(gap);
    }

    fn stop(&mut self, why: &str) {
        if !self.stats.stopped {
            tracing::warn!("the recording {} stops: {why}; tracing goes on", self.path.display());
        }
        self.stats.stopped = true;
        self.blocks = None;
    }
}

fn create(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits();
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(i32::try_from(no_follow).unwrap_or(0))
        .open(path)
}

fn write_blocks(mut file: impl Write, blocks: &Receiver<Vec<u8>>) -> io::Result<()> {
    for block in blocks {
        file.write_all(&block)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use tracer_core::event::HostFacts;
    use tracer_core::recording::{Frame, Reader};

    use super::*;

    fn preamble() -> Preamble {
        Preamble::new("test", 1, HostFacts::default(), [1; 32])
    }

    fn tick(n: u64) -> Frame {
        Frame::Tick(KernelInstant::from_nanos(n))
    }

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut reader = Reader::new(bytes).unwrap();
        let frames = reader.by_ref().map(Result::unwrap).collect();
        assert!(!reader.truncated());
        frames
    }

    #[test]
    fn a_recording_is_written_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut recorder = Recorder::create(
            &Record { path: path.clone(), secrets: false, max_size_bytes: 1 << 20 },
            &preamble(),
        )
        .unwrap();
        (0..100).for_each(|n| recorder.tick(KernelInstant::from_nanos(n)));
        let stats = recorder.finish(Duration::from_secs(5));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(frames(&bytes), (0..100).map(tick).collect::<Vec<_>>());
        let want = RecorderStats { written_bytes: bytes.len() as u64, dropped_frames: 0, stopped: false };
        assert_eq!(stats, want);
    }

    #[test]
    fn an_existing_file_or_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let record = Record { path: path.clone(), secrets: false, max_size_bytes: 1 << 20 };
        std::fs::write(&path, "precious").unwrap();
        assert!(Recorder::create(&record, &preamble()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(Recorder::create(&record, &preamble()).is_err());
        assert!(!target.exists());
    }

    #[test]
    fn it_stops_at_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let max_size_bytes = 3000;
        let mut recorder =
            Recorder::create(&Record { path: path.clone(), secrets: false, max_size_bytes }, &preamble())
                .unwrap();
        (0..10_000).for_each(|n| recorder.tick(KernelInstant::from_nanos(n)));
        assert!(recorder.finish(Duration::from_secs(5)).stopped);
        let bytes = std::fs::read(&path).unwrap();
        assert!((2900..=3000).contains(&bytes.len()), "{}", bytes.len());
        let frames = frames(&bytes);
        assert_eq!(frames, (0..frames.len() as u64).map(tick).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_stops_it() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let recorder = Recorder::start(full, Path::new("r"), 1 << 30, &preamble()).unwrap();
        assert!(recorder.finish(Duration::from_secs(5)).stopped);
    }

    /// Takes nothing until the test lets go of the lock.
    struct Stalled(Arc<Mutex<Vec<u8>>>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_disk_costs_frames_that_are_counted_and_marked() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let stall = written.lock().unwrap();
        let stalled = Stalled(Arc::clone(&written));
        let mut recorder = Recorder::start(stalled, Path::new("r"), u64::MAX, &preamble()).unwrap();
        let record = vec![0xff; 1000];
        let total = 2 * QUEUED_BLOCKS as u64 * BLOCK_BYTES as u64 / 1000;
        (0..total).for_each(|_| recorder.kernel_record(&record));
        drop(stall);
        let stats = recorder.finish(Duration::from_secs(20));
        assert!(stats.dropped_frames > 0 && !stats.stopped);
        let written = written.lock().unwrap();
        let (mut gaps, mut records) = (0, 0);
        for frame in Reader::new(written.as_slice()).unwrap() {
            match frame {
                Ok(Frame::Gap(frames)) => gaps += frames,
                Ok(Frame::Tick(_) | Frame::Event(_)) => {}
                // They decode to nothing; here they only need to be counted.
                Err(_) => records += 1,
            }
        }
        assert!(gaps == stats.dropped_frames, "{gaps} {stats:?}");
        assert!(records < total && records + gaps >= total, "{records} + {gaps} of {total}");
    }
}
