//! One end of a bare connection: plays the scripts that it reads from standard input, one JSON line each.
//!
//! Every step is exactly the system calls that its documentation names, since it is these that the tracer must see.

use std::fs::File;
use std::io::{BufRead, IoSlice, IoSliceMut, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags};
use tracer_tests::raw::{FillWith, Job, Place, Put, Reply, Step, Take};

/// Largest single buffer of a read or a write.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?).context("job")?;
        let reply = perform(&job);
        say(&match reply {
            Ok(reply) => reply,
            Err(error) => {
                Reply::Done { local: None, marks: Vec::new(), error: Some((0, format!("{error:#}"))) }
            }
        })?;
    }
    Ok(())
}

fn say(reply: &Reply) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(reply)?)?;
    out.flush()?;
    Ok(())
}

fn perform(job: &Job) -> anyhow::Result<Reply> {
    let (socket, local) = connection(&job.place)?;
    let mut marks = Vec::new();
    let mut error = None;
    for (number, step) in job.steps.iter().enumerate() {
        if let Err(failed) = perform_step(&socket, step) {
            error = Some((number, format!("{failed:#}")));
            break;
        }
        marks.push(unix_nanos());
    }
    drop(socket);
    Ok(Reply::Done { local, marks, error })
}

fn connection(place: &Place) -> anyhow::Result<(OwnedFd, Option<SocketAddr>)> {
    let tcp = |stream: TcpStream| -> anyhow::Result<_> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((OwnedFd::from(stream), Some(local)))
    };
    match place {
        Place::ListenTcp(addr) => {
            let listener = TcpListener::bind(addr).context("listen")?;
            say(&Reply::Listening { addr: Some(listener.local_addr()?) })?;
            tcp(listener.accept()?.0)
        }
        Place::ConnectTcp(addr) => tcp(TcpStream::connect(addr).context("connect")?),
        Place::ListenUnix(path) => {
            let listener = UnixListener::bind(path).context("listen")?;
            say(&Reply::Listening { addr: None })?;
            let (stream, _) = listener.accept()?;
            std::fs::remove_file(path)?;
            Ok((stream.into(), None))
        }
        Place::ConnectUnix(path) => Ok((UnixStream::connect(path).context("connect")?.into(), None)),
    }
}

fn perform_step(socket: &OwnedFd, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Write { bytes, how } => put(socket.as_fd(), bytes, how),
        Step::Fill { len, how } => fill(socket.as_fd(), *len, *how),
        Step::Read { len, how } => take(socket.as_fd(), *len, *how),
        Step::ReadToEnd => {
            let mut buffer = vec![0; BUFFER_BYTES];
            while rustix::io::read(socket, &mut buffer)? > 0 {}
            Ok(())
        }
        Step::Sleep { ms } => {
            std::thread::sleep(Duration::from_millis(*ms));
            Ok(())
        }
        Step::ShutdownWrite => Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?),
        Step::Reset => Ok(rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?),
    }
}

fn put(socket: BorrowedFd<'_>, bytes: &[u8], how: &Put) -> anyhow::Result<()> {
    let sent = match how {
        Put::Once => return write_all(socket, bytes),
        Put::Bytes => return bytes.iter().try_for_each(|byte| write_all(socket, &[*byte])),
        Put::Pieces(lens) => {
            let mut rest = bytes;
            for len in lens {
                let (piece, after) =
                    rest.split_at_checked(*len).context("pieces are longer than the message")?;
                write_all(socket, piece)?;
                rest = after;
                std::thread::sleep(Duration::from_millis(2));
            }
            return write_all(socket, rest);
        }
        Put::Writev(len) => rustix::io::writev(socket, &slices(bytes, *len))?,
        Put::Send => rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?,
        Put::Sendmsg(len) => rustix::net::sendmsg(
            socket,
            &slices(bytes, *len),
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        )?,
        Put::Sendmmsg(len) => sendmmsg(socket, bytes, *len)?,
    };
    // These are for messages that fit the socket's buffer: one call is the point.
    if sent != bytes.len() {
        bail!("one call took only {sent} of {} bytes", bytes.len());
    }
    Ok(())
}

fn slices(bytes: &[u8], len: usize) -> Vec<IoSlice<'_>> {
    bytes.chunks(len.max(1)).map(IoSlice::new).collect()
}

fn sendmmsg(socket: BorrowedFd<'_>, bytes: &[u8], len: usize) -> anyhow::Result<usize> {
    let mut vectors: Vec<libc::iovec> = bytes
        .chunks(len.max(1))
        .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
        .collect();
    let mut messages = messages(&mut vectors);
    let count = u32::try_from(messages.len())?;
    // SAFETY: every header points at one vector, every vector at bytes that outlive the call and are only read.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_NOSIGNAL) };
    let sent = usize::try_from(sent).map_err(|_| std::io::Error::last_os_error())?;
    Ok(messages[..sent].iter().map(|message| message.msg_len as usize).sum())
}

fn messages(vectors: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: all-zero is a valid header: no name, no control data, no vectors.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect()
}

fn write_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::io::write(socket, bytes)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn fill(socket: BorrowedFd<'_>, len: u64, how: FillWith) -> anyhow::Result<()> {
    let letters = vec![b'f'; BUFFER_BYTES];
    let mut left = len;
    match how {
        FillWith::Write => {
            while left > 0 {
                let piece = left.min(BUFFER_BYTES as u64) as usize;
                write_all(socket, &letters[..piece])?;
                left -= piece as u64;
            }
        }
        FillWith::Sendfile => {
            let mut file = scratch_file()?;
            while file.stream_position()? < len {
                file.write_all(&letters)?;
            }
            file.seek(SeekFrom::Start(0))?;
            while left > 0 {
                left -= rustix::fs::sendfile(socket, &file, None, left as usize)? as u64;
            }
        }
        FillWith::Splice => {
            let (out, into) = rustix::pipe::pipe()?;
            while left > 0 {
                let piece = left.min(BUFFER_BYTES as u64) as usize;
                let held = rustix::io::write(&into, &letters[..piece])?;
                let mut to_move = held;
                while to_move > 0 {
                    to_move -= rustix::pipe::splice(
                        &out,
                        None,
                        socket,
                        None,
                        to_move,
                        rustix::pipe::SpliceFlags::empty(),
                    )?;
                }
                left -= held as u64;
            }
        }
    }
    Ok(())
}

/// A file without a name.
fn scratch_file() -> anyhow::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR).context("unnamed file")?.into())
}

fn take(socket: BorrowedFd<'_>, len: u64, how: Take) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    if let Take::Nonblocking = how {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    let mut left = usize::try_from(len)?;
    while left > 0 {
        let room = left.min(BUFFER_BYTES);
        let got = match how {
            Take::Read => rustix::io::read(socket, &mut buffer[..room])?,
            Take::Bytes => rustix::io::read(socket, &mut buffer[..1])?,
            Take::Peek => {
                for _ in 0..2 {
                    rustix::net::recv(socket, &mut buffer[..room], RecvFlags::PEEK)?;
                }
                rustix::net::recv(socket, &mut buffer[..room], RecvFlags::empty())?.0
            }
            Take::Readv(size) => rustix::io::readv(socket, &mut slices_mut(&mut buffer[..room], size))?,
            Take::Recvmsg(size) => {
                let mut control = RecvAncillaryBuffer::default();
                let mut slices = slices_mut(&mut buffer[..room], size);
                rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::empty())?.bytes
            }
            Take::Recvmmsg(size) => recvmmsg(socket, &mut buffer[..room.min(2 * size)], size)?,
            Take::Nonblocking => match rustix::io::read(socket, &mut buffer[..room]) {
                Err(Errno::AGAIN) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                result => result?,
            },
        };
        if got == 0 {
            bail!("the other side ended with {left} of {len} bytes to go");
        }
        left -= got;
    }
    if let Take::Nonblocking = how {
        rustix::io::ioctl_fionbio(socket, false)?;
    }
    Ok(())
}

fn slices_mut(buffer: &mut [u8], len: usize) -> Vec<IoSliceMut<'_>> {
    // The kernel takes 1,024 vectors at most.
    buffer.chunks_mut(len.max(1)).take(1024).map(IoSliceMut::new).collect()
}

fn recvmmsg(socket: BorrowedFd<'_>, buffer: &mut [u8], len: usize) -> anyhow::Result<usize> {
    let mut vectors: Vec<libc::iovec> = buffer
        .chunks_mut(len.max(1))
        .map(|piece| libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() })
        .collect();
    let mut messages = messages(&mut vectors);
    let count = u32::try_from(messages.len())?;
    // SAFETY: every header points at one vector, every vector at a part of `buffer`, which is ours for the call.
    let got = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| std::io::Error::last_os_error())?;
    Ok(messages[..got].iter().map(|message| message.msg_len as usize).sum())
}

fn unix_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
