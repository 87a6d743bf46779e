//! An axum service that calls with reqwest: answers /work/ID after up to three calls of /work/ID.N downstream, one after
//! the other or at once. Meanwhile a task calls the same downstream, through the same client, as /work/bg-PID-N.
//!
//! With `--model blocking` each call is made by a thread of the runtime's blocking pool. With others, by tasks:
//!
//! | model | the request |
//! |---|---|
//! | later | starts them first, and waits for them at the end |
//! | forget | is answered while they go on |
//! | queue | waits for one of a few that take calls from a queue |
//! | coalesce | shares one with all that come while its call is under way |
//! | handed | waits for one that another request has started |
//! | batch | is one of those that came at about the same time, of which one waits for what all have started |

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What every task shares.
struct Service {
    downstream: String,
    model: String,
    /// Calls that wait for a worker, each with how it is answered.
    jobs: mpsc::Sender<Job>,
    /// The call that others may share.
    shared: Mutex<Option<watch::Receiver<bool>>>,
    offered: Mutex<Vec<JoinHandle<()>>>,
    background_ms: u64,
    pooled: reqwest::Client,
    fresh: reqwest::Client,
    /// State of the random sequence.
    random: AtomicU64,
    /// The truth about calls: their ids, those of their requests or `-`, and the status that they must get.
    ledger: Option<File>,
    random_names: bool,
}

type Job = (String, u64, oneshot::Sender<()>);

/// Tasks that take calls from the queue.
const WORKERS: usize = 6;

const SIZES: [usize; 5] = [0, 10, 1000, 20_000, 100_000];

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut options = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let (Some(key), Some(value)) = (args.next(), args.next()) {
        options.insert(key.trim_start_matches("--").to_owned(), value);
    }
    let (jobs, waiting) = mpsc::channel(1024);
    let service = Arc::new(Service {
        downstream: options.get("downstream").cloned().context("--downstream HOST:PORT")?,
        model: options.get("model").cloned().unwrap_or_default(),
        jobs,
        shared: Mutex::default(),
        offered: Mutex::default(),
        background_ms: options.get("background-ms").map_or(Ok(15), |text| text.parse())?,
        pooled: reqwest::Client::builder().pool_max_idle_per_host(32).build()?,
        fresh: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
        random: AtomicU64::new(u64::from(std::process::id())),
        ledger: match options.get("ledger") {
            Some(path) => Some(File::options().append(true).create(true).open(path)?),
            None => None,
        },
        random_names: options.get("names").is_some_and(|names| names == "random"),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("PORT {}", listener.local_addr()?.port());
    tokio::spawn(background(Arc::clone(&service)));
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..WORKERS {
        tokio::spawn(worker(Arc::clone(&service), Arc::clone(&waiting)));
    }
    let app = Router::new()
        .route("/work/{id}", axum::routing::any(serve))
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(service);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn serve(State(service): State<Arc<Service>>, Path(id): Path<String>, _body: Bytes) -> Vec<u8> {
    let calls = service.below(4);
    match service.model.as_str() {
        "later" => later(&service, &id, calls).await,
        "forget" => (0..calls).for_each(|number| drop(spawn(&service, &id, number))),
        "queue" => through_queue(&service, &id, calls).await,
        "coalesce" if calls > 0 => coalesce(&service, &id).await,
        "handed" if calls > 0 => handed(&service, &id).await,
        "batch" if calls > 0 => batch(&service, &id).await,
        "coalesce" | "handed" | "batch" => {}
        _ => make(&service, &id, calls).await,
    }
    let mut body = format!("calls={calls}\n").into_bytes();
    body.resize(body.len() + service.pick(&SIZES), b'x');
    body
}

async fn make(service: &Arc<Service>, id: &str, calls: u64) {
    let at_once = service.below(2) == 0;
    let mut running = JoinSet::new();
    for number in 0..calls {
        let (service, id) = (Arc::clone(service), id.to_owned());
        let work = async move {
            tokio::time::sleep(Duration::from_micros(service.below(3000))).await;
            call(service, Some(id), number).await;
        };
        if at_once {
            running.spawn(work);
        } else {
            work.await;
        }
    }
    running.join_all().await;
}

/// A task that makes a call a little later.
fn spawn(service: &Arc<Service>, id: &str, number: u64) -> JoinHandle<()> {
    let (service, id) = (Arc::clone(service), id.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_micros(service.below(3000))).await;
        call(service, Some(id), number).await;
    })
}

async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

async fn later(service: &Arc<Service>, id: &str, calls: u64) {
    let tasks: Vec<_> = (0..calls).map(|number| spawn(service, id, number)).collect();
    tokio::time::sleep(Duration::from_micros(service.below(4000))).await;
    for task in tasks {
        ended(task).await;
    }
}

async fn through_queue(service: &Arc<Service>, id: &str, calls: u64) {
    for number in 0..calls {
        let (done, wait) = oneshot::channel();
        // Neither end goes before the program does.
        let _ = service.jobs.send((id.to_owned(), number, done)).await;
        let _ = wait.await;
    }
}

async fn worker(service: Arc<Service>, waiting: Arc<Mutex<mpsc::Receiver<Job>>>) {
    loop {
        let job = waiting.lock().await.recv().await;
        let Some((id, number, done)) = job else { return };
        call(Arc::clone(&service), Some(id), number).await;
        let _ = done.send(());
    }
}

async fn coalesce(service: &Arc<Service>, id: &str) {
    let mut shared = service.shared.lock().await;
    let mut done = match shared.clone().filter(|done| !*done.borrow()) {
        Some(done) => done,
        None => {
            let (sender, done) = watch::channel(false);
            let task = spawn(service, id, 0);
            tokio::spawn(async move {
                ended(task).await;
                let _ = sender.send(true);
            });
            shared.insert(done).clone()
        }
    };
    drop(shared);
    let _ = done.wait_for(|done| *done).await;
}

async fn handed(service: &Arc<Service>, id: &str) {
    let mut offered = service.offered.lock().await;
    offered.push(spawn(service, id, 0));
    let taken = (offered.len() > 1).then(|| offered.remove(0));
    drop(offered);
    if let Some(task) = taken {
        ended(task).await;
    }
}

async fn batch(service: &Arc<Service>, id: &str) {
    let (own, cause) = (Arc::clone(service), id.to_owned());
    let task = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_micros(own.below(12_000))).await;
        call(own, Some(cause), 0).await;
    });
    let mut offered = service.offered.lock().await;
    offered.push(task);
    let leads = offered.len() == 1;
    drop(offered);
    if leads {
        tokio::time::sleep(Duration::from_millis(4)).await;
        let tasks = std::mem::take(&mut *service.offered.lock().await);
        for task in tasks {
            ended(task).await;
        }
    }
}

async fn background(service: Arc<Service>) {
    for number in 0_u64.. {
        tokio::time::sleep(Duration::from_micros(service.below(2 * service.background_ms * 1000))).await;
        call(Arc::clone(&service), None, number).await;
    }
}

/// The call, before which now and then one fails that has to be tried again. A workload that fails says so loudly.
async fn call(service: Arc<Service>, cause: Option<String>, number: u64) {
    let result = if service.model == "blocking" {
        let work = move || service.call_blocking(cause.as_deref(), number);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|gone| Err(gone.into()))
    } else {
        service.call(cause.as_deref(), number).await
    };
    if let Err(error) = result {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

impl Service {
    async fn call(&self, cause: Option<&str>, number: u64) -> anyhow::Result<()> {
        if self.fails() {
            self.send(&self.name(cause, &format!("{number}-failed"), 503)?, 503).await?;
        }
        self.send(&self.name(cause, &number.to_string(), 200)?, 200).await
    }

    async fn send(&self, id: &str, wanted: u16) -> anyhow::Result<()> {
        let client = if self.below(10) < 6 { &self.pooled } else { &self.fresh };
        let url = format!("http://{}{}", self.downstream, target(id, wanted));
        let body = vec![b'b'; self.pick(&[0, 0, 0, 1, 500, 30_000])];
        let request = if body.is_empty() { client.get(url) } else { client.post(url).body(body) };
        let response = request.send().await?;
        ensure!(response.status().as_u16() == wanted, "{id}: {}", response.status());
        response.bytes().await?;
        Ok(())
    }

    fn call_blocking(&self, cause: Option<&str>, number: u64) -> anyhow::Result<()> {
        if self.fails() {
            self.send_blocking(&self.name(cause, &format!("{number}-failed"), 503)?, 503)?;
        }
        self.send_blocking(&self.name(cause, &number.to_string(), 200)?, 200)
    }

    /// With plain reads and writes that wait.
    fn send_blocking(&self, id: &str, wanted: u16) -> anyhow::Result<()> {
        let mut connection = BufReader::new(TcpStream::connect(&self.downstream)?);
        let (addr, target) = (&self.downstream, target(id, wanted));
        let message = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        connection.get_mut().write_all(message.as_bytes())?;
        let mut status = String::new();
        connection.read_line(&mut status)?;
        ensure!(status.starts_with(&format!("HTTP/1.1 {wanted} ")), "{id}: {status}");
        connection.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    /// Uniform below `bound`: SplitMix64, since the quality hardly matters.
    fn below(&self, bound: u64) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn fails(&self) -> bool {
        self.ledger.is_some() && self.below(100) < 3
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

fn target(id: &str, wanted: u16) -> String {
    format!("/work/{id}{}", if wanted == 200 { "?k=v" } else { "?fail=yes" })
}
