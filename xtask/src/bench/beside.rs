//! What runs beside the traced server: a ping-pong between two threads of this process, and nginx's own count.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// One byte to and fro over loopback TCP between two threads. Both run on one processor, so that neither waits for a
/// wake-up across processors, which takes now this long and now that; what remains is the system calls.
#[derive(Debug)]
pub(super) struct PingPong {
    stream: TcpStream,
}

/// How a ping-pong went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) per_second: f64,
    /// Processor time of the one end, per round trip. Others who want the processor do not change it.
    pub(super) cpu_nanos: f64,
}

impl PingPong {
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the echo")?;
        let addr = listener.local_addr().context("address of the echo")?;
        thread::spawn(move || {
            // The peer going away ends the echo, whichever call sees it first.
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.set_nodelay(true);
            let _ = stay_on_one_processor();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let stream = TcpStream::connect(addr).context("connect to the echo")?;
        stream.set_nodelay(true).context("send at once")?;
        Ok(Self { stream })
    }

    pub(super) fn run(&mut self, duration: Duration) -> anyhow::Result<Pace> {
        let stream = &mut self.stream;
        // A thread of its own: what this process starts later is not to inherit the one processor.
        let ping = move || {
            stay_on_one_processor()?;
            ping(stream, duration)
        };
        thread::scope(|scope| scope.spawn(ping).join())
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the ping-pong panicked")))
    }
}

fn ping(stream: &mut TcpStream, duration: Duration) -> anyhow::Result<Pace> {
    /// Between looks at the clock: a millisecond's worth.
    const BATCH: u32 = 100;
    let (started, cpu) = (Instant::now(), thread_cpu_nanos());
    let mut byte = [0];
    let mut count = 0_u32;
    while started.elapsed() < duration {
        for _ in 0..BATCH {
            stream.write_all(&byte).context("ping")?;
            stream.read_exact(&mut byte).context("pong")?;
        }
        count += BATCH;
    }
    Ok(Pace {
        per_second: f64::from(count) / started.elapsed().as_secs_f64(),
        cpu_nanos: (thread_cpu_nanos() - cpu) / f64::from(count),
    })
}

fn thread_cpu_nanos() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Binds this thread to the last processor that it may use.
fn stay_on_one_processor() -> anyhow::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None).context("ask which processors may be used")?;
    let last = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu));
    let mut one = rustix::thread::CpuSet::new();
    one.set(last.context("no processor may be used")?);
    rustix::thread::sched_setaffinity(None, &one).context("stay on one processor")
}

/// Requests that nginx has served so far, by its own count, which includes the one that asks.
pub(super) fn served(nginx: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(nginx).context("connect to nginx")?;
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").context("ask nginx")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read nginx's status")?;
    parse_served(&answer).with_context(|| format!("nginx answered:\n{answer}"))
}

/// The line after `server accepts handled requests` holds the three numbers.
fn parse_served(status: &str) -> Option<u64> {
    let mut lines = status.lines().skip_while(|line| !line.starts_with("server accepts handled requests"));
    lines.nth(1)?.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_is_the_third_number() {
        let status = "Active connections: 1 \nserver accepts handled requests\n 10 10 359 \nReading: 0\n";
        assert_eq!(parse_served(status), Some(359));
        assert_eq!(parse_served("HTTP/1.1 404"), None);
    }

    #[test]
    fn ping_pong_counts_round_trips() {
        let mut ping_pong = PingPong::start().unwrap();
        let pace = ping_pong.run(Duration::from_millis(20)).unwrap();
        assert!(pace.per_second > 100.0 && pace.cpu_nanos > 100.0, "{pace:?}");
        // The caller's own thread may still run anywhere.
        let allowed = rustix::thread::sched_getaffinity(None).unwrap().count() as usize;
        assert_eq!(allowed, thread::available_parallelism().unwrap().get());
    }
}
