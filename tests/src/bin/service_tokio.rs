//! An HTTP service of tokio tasks: answers /work/ID after up to three calls of /work/ID.N downstream, one after the
//! other or at once. Meanwhile a task calls the same downstream, through the same connections, as /work/bg-PID-N.
//!
//! With `--model after` it answers, and then the connection's task makes the calls.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

type Connection = BufReader<TcpStream>;

/// What every task shares.
struct Service {
    downstream: Option<String>,
    after: bool,
    background_ms: u64,
    idle: Mutex<Vec<Connection>>,
    /// State of the random sequence.
    random: AtomicU64,
    /// The truth about calls: their ids, those of their requests or `-`, and the status that they must get.
    ledger: Option<File>,
    random_names: bool,
}

const SIZES: [usize; 5] = [0, 10, 1000, 20_000, 100_000];

fn main() -> anyhow::Result<()> {
    let mut options = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let (Some(key), Some(value)) = (args.next(), args.next()) {
        options.insert(key.trim_start_matches("--").to_owned(), value);
    }
    let number = |key: &str, default: u64| options.get(key).map_or(Ok(default), |text| text.parse());
    let service = Arc::new(Service {
        downstream: options.get("downstream").cloned(),
        after: options.get("model").is_some_and(|model| model == "after"),
        background_ms: number("background-ms", 15)?,
        idle: Mutex::default(),
        random: AtomicU64::new(u64::from(std::process::id())),
        ledger: match options.get("ledger") {
            Some(path) => Some(File::options().append(true).create(true).open(path)?),
            None => None,
        },
        random_names: options.get("names").is_some_and(|names| names == "random"),
    });
    let threads = usize::try_from(number("threads", 2)?)?;
    let runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?
    };
    runtime.block_on(listen(service))
}

async fn listen(service: Arc<Service>) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("PORT {}", listener.local_addr()?.port());
    if service.downstream.is_some() && service.background_ms > 0 {
        tokio::spawn(exit_on_error(background(Arc::clone(&service))));
    }
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(exit_on_error(serve(Arc::clone(&service), BufReader::new(stream))));
    }
}

/// A workload that fails says so loudly.
async fn exit_on_error(work: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = work.await {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

impl Service {
    /// Uniform below `bound`: SplitMix64, since the quality hardly matters.
    fn below(&self, bound: u64) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// The id of a call; `None`: background work.
    fn name(&self, cause: Option<&str>, number: &str, status: u16) -> anyhow::Result<String> {
        let name = match cause {
            _ if self.random_names => format!("{:016x}", self.below(u64::MAX)),
            Some(cause) => format!("{cause}.{number}"),
            None => format!("bg-{}-{number}", std::process::id()),
        };
        if let Some(mut ledger) = self.ledger.as_ref() {
            ledger.write_all(format!("{name} {} {status}\n", cause.unwrap_or("-")).as_bytes())?;
        }
        Ok(name)
    }

    fn pick(&self, items: &[usize]) -> usize {
        items[self.below(items.len() as u64) as usize]
    }
}

async fn background(service: Arc<Service>) -> anyhow::Result<()> {
    for number in 0_u64.. {
        tokio::time::sleep(Duration::from_micros(service.below(2 * service.background_ms * 1000))).await;
        call(&service, None, number).await?;
    }
    Ok(())
}

async fn serve(service: Arc<Service>, mut connection: Connection) -> anyhow::Result<()> {
    loop {
        let Some(head) = read_head(&mut connection).await? else { return Ok(()) };
        if read_body(&mut connection, &head).await.is_err() {
            return Ok(());
        }
        let target = head.split(' ').nth(1).context("request line")?;
        let id = target.trim_start_matches("/work/").split('?').next().unwrap_or_default().to_owned();
        let mut calls = 0;
        if service.downstream.is_some() {
            calls = service.below(4);
        }
        if !service.after {
            let at_once = service.below(2) == 0;
            let mut running = JoinSet::new();
            for number in 0..calls {
                let (service, id) = (Arc::clone(&service), id.clone());
                let work = async move {
                    tokio::time::sleep(Duration::from_micros(service.below(3000))).await;
                    call(&service, Some(&id), number).await
                };
                if at_once {
                    running.spawn(work);
                } else {
                    work.await?;
                }
            }
            while let Some(done) = running.join_next().await {
                done??;
            }
        }
        let mut body = format!("calls={calls}\n").into_bytes();
        body.resize(body.len() + service.pick(&SIZES), b'x');
        if service.below(2) == 0 {
            let mut message =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            message.append(&mut body);
            // Somebody who did not wait for the answer is gone.
            if connection.write_all(&message).await.is_err() {
                return Ok(());
            }
        } else {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            if connection.write_all(head).await.is_err() {
                return Ok(());
            }
            for piece in body.chunks(7000) {
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(piece);
                chunk.extend_from_slice(b"\r\n");
                if connection.write_all(&chunk).await.is_err() {
                    return Ok(());
                }
            }
            if connection.write_all(b"0\r\n\r\n").await.is_err() {
                return Ok(());
            }
        }
        if service.after {
            for number in 0..calls {
                call(&service, Some(&id), number).await?;
            }
        }
        if head.to_ascii_lowercase().contains("connection: close") {
            return Ok(());
        }
    }
}

/// The call, before which now and then one fails that has to be tried again.
async fn call(service: &Service, cause: Option<&str>, number: u64) -> anyhow::Result<()> {
    if service.ledger.is_some() && service.below(100) < 3 {
        send(service, &service.name(cause, &format!("{number}-failed"), 503)?, 503).await?;
    }
    send(service, &service.name(cause, &number.to_string(), 200)?, 200).await
}

async fn send(service: &Service, id: &str, wanted: u16) -> anyhow::Result<()> {
    let addr = service.downstream.as_deref().context("no downstream")?;
    let pooled = service.below(10) < 6;
    let kept = if pooled { service.idle.lock().await.pop() } else { None };
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    let body = vec![b'b'; service.pick(&[0, 0, 0, 1, 500, 30_000])];
    let method = if body.is_empty() { "GET" } else { "POST" };
    let close = if pooled { "" } else { "Connection: close\r\n" };
    let query = if wanted == 200 { "k=v" } else { "fail=yes" };
    let head = format!(
        "{method} /work/{id}?{query} HTTP/1.1\r\nHost: {addr}\r\n{close}Content-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&body).await?;
    let head = read_head(&mut connection).await?.context("no answer")?;
    read_body(&mut connection, &head).await?;
    if !head.starts_with(&format!("HTTP/1.1 {wanted} ")) {
        bail!("{id}: {head}");
    }
    if pooled && wanted == 200 {
        service.idle.lock().await.push(connection);
    }
    Ok(())
}

/// The head without its last empty line; `None` at the end of the stream.
async fn read_head(connection: &mut Connection) -> anyhow::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        // A reset of an idle connection is an end like any other.
        let read = connection.read_line(&mut head).await.unwrap_or(0);
        if read == 0 {
            return Ok(None);
        }
        if &head[before..] == "\r\n" {
            return Ok(Some(head));
        }
    }
}

async fn read_body(connection: &mut Connection, head: &str) -> anyhow::Result<()> {
    let head = head.to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("transfer-encoding:") == Some("chunked") {
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim(), 16).context("chunk size")?;
            connection.read_exact(&mut vec![0; size + 2]).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let len: usize = field("content-length:").map_or(Ok(0), str::parse)?;
    connection.read_exact(&mut vec![0; len]).await?;
    Ok(())
}
